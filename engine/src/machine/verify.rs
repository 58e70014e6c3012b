//! The invariants, as a check of the whole state: for tests and for the simulator.

use super::Machine;
use super::locks::FEW_GRANTS;
use super::queues::Place;
use super::sessions::{Ask, Owned, Remembered, Standing};
use super::table::Row;
use super::unfinished::Unfinished;
use crate::time::Elapsed;
use wire::limits::WINDOW_REPLIES_MAX;
use wire::message::LockMode;

impl Machine {
    /// Looks at every row. Slow: for tests.
    ///
    /// # Panics
    /// When an invariant does not hold.
    pub fn verify(&self) {
        let mut timers = 0;
        self.verify_sessions(&mut timers);
        self.verify_locks(&mut timers);
        self.verify_queues(&mut timers);
        self.verify_lines(&mut timers);
        assert_eq!(timers, self.timers.len(), "every timer belongs to something");
    }

    fn verify_sessions(&self, timers: &mut usize) {
        let (mut grants, mut waiters, mut messages) = (0, 0, 0);
        let (mut over, mut unfinished) = (0, 0);
        for (slot, session) in self.sessions.table.iter() {
            *timers += 1;
            assert_eq!(self.sessions.table.find(&session.id), Some(slot));
            let ended = session.standing == Standing::Ended;
            over += usize::from(ended);
            let stands = self.unfinished.contains_key(&session.number);
            assert_eq!(stands, ended && !session.owned.is_empty(), "it gives back what it has");
            unfinished += usize::from(stands);
            assert!(!ended || session.window.calls.is_empty(), "an ended one has no calls");
            let mut waits = 0;
            for (number, thing) in &session.owned {
                assert!(*number <= self.issued, "a number was issued");
                match *thing {
                    Owned::Grant(grant) => {
                        grants += 1;
                        let row = &self.grants[grant];
                        assert_eq!((row.fence, row.session), (*number, slot));
                        assert_eq!(self.grant_of(row.lock, slot), Some(grant));
                    }
                    Owned::Waiter(waiter) => {
                        waits += 1;
                        let waiter_row = &self.waiters[waiter];
                        assert_eq!((waiter_row.ticket, waiter_row.session), (*number, slot));
                        let remembered = session.window.get(waiter_row.sequence);
                        assert_eq!(remembered, Some(Remembered::Waiting(waiter)));
                    }
                    Owned::Message(message) => {
                        messages += 1;
                        assert_eq!(self.messages[message].id, *number);
                        let place = self.messages[message].place;
                        assert!(
                            matches!(place, Place::InFlight { session, .. } if session == slot)
                        );
                    }
                }
            }
            assert_eq!(waits, session.waits, "a session's waits are counted");
            waiters += waits as usize;
            let calls = &session.window.calls;
            assert!(calls.len() as u64 <= WINDOW_REPLIES_MAX, "a window is bounded");
            assert!(calls.iter().is_sorted_by(|a, b| a.0 < b.0), "a window is in order");
            assert!(calls.iter().all(|(s, _)| *s >= session.window.answered_below));
            let waiting = calls.iter().filter(|(_, what)| matches!(what, Remembered::Waiting(_)));
            assert_eq!(waiting.count(), waits as usize, "a call that waits has a waiter");
        }
        assert_eq!(over, self.sessions.over, "ended sessions are counted");
        let next = |found: &Unfinished| !matches!(found, Unfinished::Session(_));
        let next = self.unfinished.values().filter(|found| next(found)).count();
        assert_eq!(self.unfinished.len(), unfinished + next, "what is unfinished is there");
        assert_eq!(grants, self.grants.len(), "every grant has an owner");
        let crowds = self.locks.iter().map(|(_, lock)| lock.grants.len());
        let crowded: usize = crowds.filter(|grants| *grants > FEW_GRANTS).sum();
        assert_eq!(self.crowded.len(), crowded, "a crowded lock's grants, and no others");
        assert_eq!(waiters, self.waiters.len(), "every waiter has an owner");
        assert_eq!(messages as u64, self.counts.messages_in_flight);
    }

    fn verify_locks(&self, timers: &mut usize) {
        let (mut grants, mut waiters) = (0, 0);
        for (slot, lock) in self.locks.iter() {
            let next = lock.waiters.first().map(|waiter| &self.waiters[waiter]);
            let next =
                next.filter(|next| matches!(next.ask, Ask::Lock { mode, .. } if lock.admits(mode)));
            let next = next.map_or(0, |next| next.ticket);
            assert_eq!(lock.unserved, next, "who is admitted is served, or next");
            let stands = self.unfinished.get(&next) == Some(&Unfinished::Lock(slot));
            assert_eq!(stands, next > 0, "who is next is served in time");
            assert!(next > 0 || !lock.grants.is_empty(), "a free lock has no record");
            assert!(
                lock.mode == LockMode::Shared || lock.grants.len() < 2,
                "exclusive stands alone"
            );
            let mut last = 0;
            for grant in lock.grants.iter(&self.grants) {
                let grant = &self.grants[grant];
                grants += 1;
                *timers += usize::from(grant.deadline != Elapsed::MAX);
                assert!(grant.fence > last, "grants are in the order of their fences");
                assert!(grant.lock == slot && grant.count > 0);
                last = grant.fence;
            }
            let mut last = 0;
            for waiter in lock.waiters.iter(&self.waiters) {
                let waiter = &self.waiters[waiter];
                waiters += 1;
                *timers += 1;
                assert!(waiter.ticket > last, "waiters are in the order of their tickets");
                assert!(matches!(waiter.ask, Ask::Lock { lock, .. } if lock == slot));
                let holds = |g: u32| self.grants[g].session == waiter.session;
                assert!(!lock.grants.iter(&self.grants).any(holds), "no holder waits");
                last = waiter.ticket;
            }
        }
        assert_eq!(grants, self.grants.len(), "every grant is in its lock's list");
        assert_eq!(waiters, self.counts.lock_waiters);
    }

    fn verify_queues(&self, timers: &mut usize) {
        let (mut ready, mut messages) = (0, 0);
        for (slot, queue) in self.queues.iter() {
            assert!(queue.messages > 0 || !queue.waiters.is_empty(), "a queue is for something");
            let next = queue.waiters.first().filter(|_| !queue.ready.is_empty());
            let next = next.map_or(0, |next| self.waiters[next].ticket);
            assert_eq!(queue.unserved, next, "nobody waits beside what is ready, but in time");
            let stands = self.unfinished.get(&next) == Some(&Unfinished::Queue(slot));
            assert_eq!(stands, next > 0, "who is next is served in time");
            messages += queue.messages;
            ready += queue.ready.len();
            for ((priority, id), message) in &queue.ready {
                let message = &self.messages[*message];
                assert_eq!((message.priority, message.id), (*priority, *id));
                assert!(message.queue == slot && message.place == Place::Ready);
            }
            let mut last = 0;
            for waiter in queue.waiters.iter(&self.waiters) {
                let waiter = &self.waiters[waiter];
                *timers += 1;
                assert!(waiter.ticket > last, "waiters are in the order of their tickets");
                assert!(matches!(waiter.ask, Ask::Pop { queue, .. } if queue == slot));
                last = waiter.ticket;
            }
        }
        let (mut bytes, mut counts) = (0, [0; 3]);
        for (slot, message) in self.messages.iter() {
            bytes += message.cost();
            match message.place {
                Place::Ready => counts[0] += 1,
                Place::InFlight { session, .. } => {
                    counts[1] += 1;
                    *timers += 1;
                    let owned = self.sessions.table[session].owned.get(&message.id);
                    assert_eq!(owned, Some(&Owned::Message(slot)));
                }
                Place::Delayed { .. } => {
                    counts[2] += 1;
                    *timers += 1;
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

    fn verify_lines(&self, timers: &mut usize) {
        let mut bytes = 0;
        for (slot, line) in self.lines.iter() {
            bytes += line.cost();
            *timers += usize::from(line.deadline != Elapsed::MAX);
            assert_eq!(self.lines.find(line.key()), Some(slot));
        }
        assert_eq!(bytes, self.line_bytes, "lines' bytes are counted");
        assert!(bytes <= self.config.cache_bytes_max, "the budget is kept");
        assert_eq!(self.lines.len(), self.lines_by_version.len());
        let versions = self.lines_by_version.iter(&self.lines);
        assert!(versions.is_sorted_by_key(|slot| self.lines[slot].version));
    }
}
