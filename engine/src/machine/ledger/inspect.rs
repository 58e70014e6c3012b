//! What only the simulator and the tests look at: the ledger's invariants, and its rows in one order.

use super::codec::put_session;
use super::sessions::SessionState;
use super::timers::Timers;
use super::waiters::Waiter;
use super::{Ledger, Owned, Remembered, Resource, Unfinished, Waitlist};
use crate::machine::inspect::{put_sorted, row};
use alloc::vec::Vec;
use wire::limits::WINDOW_REPLIES_MAX;

/// What the services' checks count, to be compared with what the ledger has of it.
#[derive(Default)]
pub(in crate::machine) struct Census {
    pub(in crate::machine) timers: usize,
    pub(in crate::machine) grants: usize,
    pub(in crate::machine) messages: usize,
    /// Who stands in a waitlist.
    pub(in crate::machine) waiters: usize,
    /// Resources whose next waiter could be served.
    pub(in crate::machine) unserved: usize,
}

impl Ledger {
    /// Looks at every session and at every call that waits; `census` is what the services have.
    ///
    /// # Panics
    /// When an invariant does not hold.
    pub(in crate::machine) fn verify(&self, census: &Census) {
        let (mut grants, mut waiters, mut messages) = (0, 0, 0);
        let (mut over, mut unfinished) = (0, 0);
        for (slot, session) in self.sessions.table.iter() {
            assert_eq!(self.sessions.table.find(&session.id), Some(slot));
            let ended = session.state == SessionState::Ended;
            over += usize::from(ended);
            let stands = self.unfinished.contains_key(&session.number);
            assert_eq!(stands, ended && !session.owned.is_empty(), "it gives back what it has");
            unfinished += usize::from(stands);
            assert!(!ended || session.window.calls.is_empty(), "an ended one has no calls");
            let mut waits = 0;
            for (number, thing) in &session.owned {
                assert!(*number <= self.issued, "a number was issued");
                match *thing {
                    Owned::Grant(_) => grants += 1,
                    Owned::Message(_) => messages += 1,
                    Owned::Waiter(waiter) => {
                        waits += 1;
                        let row = &self.waiters.rows[waiter];
                        assert_eq!((row.ticket, row.wait.session), (*number, slot));
                        let remembered = session.window.get(row.wait.sequence);
                        assert_eq!(remembered, Some(&Remembered::Waiting(waiter)));
                    }
                }
            }
            assert_eq!(waits, session.waits, "a session's waits are counted");
            waiters += waits as usize;
            let calls = &session.window.calls;
            assert!(calls.len() as u64 <= WINDOW_REPLIES_MAX, "a window is bounded");
            assert!(calls.iter().is_sorted_by(|a, b| a.0 < b.0), "a window is in order");
            assert!(calls.iter().all(|(s, _)| *s >= session.window.answered_below));
            let waiting = session.window.waiting().count();
            assert_eq!(waiting, waits as usize, "a call that waits has a waiter");
        }
        assert_eq!(over, self.sessions.over, "ended sessions are counted");
        assert_eq!(
            self.unfinished.len(),
            unfinished + census.unserved,
            "what is unfinished is there"
        );
        assert_eq!(grants, census.grants, "every grant has an owner");
        assert_eq!(messages, census.messages, "every message in flight has an owner");
        assert_eq!(waiters, self.waiters.rows.len(), "every waiter has an owner");
        assert_eq!(waiters, census.waiters, "every waiter is in a waitlist");
        let for_locks = self.waiters.rows.iter();
        let for_locks =
            for_locks.filter(|(_, waiter)| matches!(waiter.resource, Resource::Lock(_))).count();
        assert_eq!(for_locks as u64, self.waiters.for_locks, "who waits for a lock is counted");
        assert!(self.waiters.read.is_empty(), "a wait that was read is in line");
        let timers = self.sessions.table.len() + waiters + census.timers;
        assert_eq!(timers, self.timers.len(), "every timer belongs to something");
    }

    /// Looks at a resource's waitlist. `unserved` is the ticket of who is next, if that one could be served.
    ///
    /// # Panics
    /// When an invariant does not hold.
    pub(in crate::machine) fn verify_waitlist(
        &self,
        waitlist: &Waitlist,
        resource: Resource,
        unserved: u64,
        census: &mut Census,
    ) {
        assert_eq!(waitlist.unserved(), unserved, "who could be served is served, or next");
        let stands = self.is_unfinished(unserved, Unfinished::Next(resource));
        assert_eq!(stands, unserved > 0, "who is next is served in time");
        census.unserved += usize::from(stands);
        let mut last = 0;
        for waiter in self.waiters_in(waitlist) {
            census.waiters += 1;
            assert!(waiter.ticket > last, "waiters are in the order of their tickets");
            assert!(waiter.resource == resource, "a waiter is in its resource's waitlist");
            last = waiter.ticket;
        }
    }

    /// Appends every session, sorted by its bytes.
    pub(in crate::machine) fn put_sorted(&self, out: &mut Vec<u8>) {
        let rows = self.sessions.table.iter();
        let write = |(_, session)| row(|out| put_session(out, session, &self.waiters, self.level));
        put_sorted(out, rows.map(write));
    }

    /// What a session has under `number`.
    pub(in crate::machine) fn owned(&self, session: u32, number: u64) -> Option<Owned> {
        self.sessions.table[session].owned.get(&number).copied()
    }

    /// Who waits in `waitlist`, in order.
    pub(in crate::machine) fn waiters_in(
        &self,
        waitlist: &Waitlist,
    ) -> impl Iterator<Item = &Waiter> {
        waitlist.list.iter(&self.waiters.rows).map(|slot| &self.waiters.rows[slot])
    }
}

impl Timers {
    /// How many are armed.
    fn len(&self) -> usize {
        self.sessions.len() + self.others.len()
    }
}
