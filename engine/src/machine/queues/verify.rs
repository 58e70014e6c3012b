//! The queues' invariants, as a check of all of them.

use super::{MessageState, Queues, servable};
use crate::machine::ledger::{Ask, Census, Ledger, Owned, Resource};

impl Queues {
    /// Looks at every queue and every message.
    ///
    /// # Panics
    /// When an invariant does not hold.
    pub(in crate::machine) fn verify(&self, ledger: &Ledger, census: &mut Census) {
        let (mut ready, mut messages) = (0, 0);
        for (slot, queue) in self.queues.iter() {
            assert!(queue.messages > 0 || !queue.waitlist.is_empty(), "a queue is for something");
            let next = servable(ledger, queue);
            ledger.verify_waitlist(&queue.waitlist, Resource::Queue(slot), next, census);
            messages += queue.messages;
            ready += queue.ready.len();
            for ((priority, id), message) in &queue.ready {
                let message = &self.messages[*message];
                assert_eq!((message.priority, message.id), (*priority, *id));
                assert!(message.queue == slot && message.state == MessageState::Ready);
            }
            for waiter in ledger.waiters_in(&queue.waitlist) {
                assert!(matches!(waiter.wait.ask, Ask::Pop { .. }), "it asks for a message");
                assert_eq!(waiter.wait.name, queue.name, "it says the queue's name");
            }
        }
        let (mut bytes, mut counts) = (0, [0; 3]);
        for (slot, message) in self.messages.iter() {
            bytes += message.cost();
            match message.state {
                MessageState::Ready => counts[0] += 1,
                MessageState::InFlight { session, .. } => {
                    counts[1] += 1;
                    census.timers += 1;
                    census.messages += 1;
                    let owned = ledger.owned(session, message.id);
                    assert_eq!(owned, Some(Owned::Message(slot)), "a session knows its messages");
                }
                MessageState::Delayed { .. } => {
                    counts[2] += 1;
                    census.timers += 1;
                }
            }
        }
        assert_eq!(messages, self.messages.len(), "a message is in one queue");
        assert_eq!(ready as u64, counts[0], "a ready message is in its queue's order");
        let sums = &self.counts;
        let counted = [sums.ready, sums.in_flight, sums.delayed];
        assert_eq!(counts, counted, "messages are counted where they are");
        assert_eq!(bytes, sums.bytes, "messages' bytes are counted");
    }
}
