//! The invariants, as a check of the whole state: for tests and for the simulator.

use super::Machine;
use super::ledger::{Ask, Owned, Resource, Tally};
use super::locks::FEW_GRANTS;
use super::queues::Place;
use crate::time::Elapsed;
use wire::message::LockMode;

impl Machine {
    /// Looks at every row. Slow: for tests.
    ///
    /// # Panics
    /// When an invariant does not hold.
    pub fn verify(&self) {
        let mut tally = Tally::default();
        self.verify_locks(&mut tally);
        self.verify_queues(&mut tally);
        self.cache.verify(&mut tally);
        self.ledger.verify(&tally);
    }

    fn verify_locks(&self, tally: &mut Tally) {
        let mut grants = 0;
        for (slot, lock) in self.locks.iter() {
            let next = self.admitted(lock);
            self.ledger.verify_waitlist(&lock.waitlist, Resource::Lock(slot), next, tally);
            assert!(next > 0 || !lock.grants.is_empty(), "a free lock has no record");
            assert!(
                lock.mode == LockMode::Shared || lock.grants.len() < 2,
                "exclusive stands alone"
            );
            let mut last = 0;
            for grant_slot in lock.grants.iter(&self.grants) {
                let grant = &self.grants[grant_slot];
                grants += 1;
                tally.timers += usize::from(grant.deadline != Elapsed::MAX);
                assert!(grant.fence > last, "grants are in the order of their fences");
                assert!(grant.lock == slot && grant.count > 0);
                let owned = self.ledger.owned(grant.session, grant.fence);
                assert_eq!(owned, Some(Owned::Grant(grant_slot)), "a session knows its grants");
                assert_eq!(self.grant_of(slot, grant.session), Some(grant_slot));
                last = grant.fence;
            }
            for waiter in self.ledger.waiters_in(&lock.waitlist) {
                assert!(matches!(waiter.wait.ask, Ask::Lock { .. }), "it asks for the lock");
                assert_eq!(waiter.wait.name, lock.name, "it says the lock's name");
                let holds = |g: u32| self.grants[g].session == waiter.wait.session;
                assert!(!lock.grants.iter(&self.grants).any(holds), "no holder waits");
            }
        }
        assert_eq!(grants, self.grants.len(), "every grant is in its lock's list");
        tally.grants += grants;
        let crowds = self.locks.iter().map(|(_, lock)| lock.grants.len());
        let crowded: usize = crowds.filter(|grants| *grants > FEW_GRANTS).sum();
        assert_eq!(self.crowded.len(), crowded, "a crowded lock's grants, and no others");
    }

    fn verify_queues(&self, tally: &mut Tally) {
        let (mut ready, mut messages) = (0, 0);
        for (slot, queue) in self.queues.iter() {
            assert!(queue.messages > 0 || !queue.waitlist.is_empty(), "a queue is for something");
            let next = self.servable(queue);
            self.ledger.verify_waitlist(&queue.waitlist, Resource::Queue(slot), next, tally);
            messages += queue.messages;
            ready += queue.ready.len();
            for ((priority, id), message) in &queue.ready {
                let message = &self.messages[*message];
                assert_eq!((message.priority, message.id), (*priority, *id));
                assert!(message.queue == slot && message.place == Place::Ready);
            }
            for waiter in self.ledger.waiters_in(&queue.waitlist) {
                assert!(matches!(waiter.wait.ask, Ask::Pop { .. }), "it asks for a message");
                assert_eq!(waiter.wait.name, queue.name, "it says the queue's name");
            }
        }
        let (mut bytes, mut counts) = (0, [0; 3]);
        for (slot, message) in self.messages.iter() {
            bytes += message.cost();
            match message.place {
                Place::Ready => counts[0] += 1,
                Place::InFlight { session, .. } => {
                    counts[1] += 1;
                    tally.timers += 1;
                    tally.messages += 1;
                    let owned = self.ledger.owned(session, message.id);
                    assert_eq!(owned, Some(Owned::Message(slot)), "a session knows its messages");
                }
                Place::Delayed { .. } => {
                    counts[2] += 1;
                    tally.timers += 1;
                }
            }
        }
        assert_eq!(messages, self.messages.len(), "a message is in one queue");
        assert_eq!(ready as u64, counts[0], "a ready message is in its queue's order");
        let sums = &self.counts;
        let counted = [sums.messages_ready, sums.messages_in_flight, sums.messages_delayed];
        assert_eq!(counts, counted, "messages are counted where they are");
        assert_eq!(bytes, sums.message_bytes, "messages' bytes are counted");
    }
}
