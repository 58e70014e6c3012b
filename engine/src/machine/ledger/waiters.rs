//! Waiting: one kind of waitlist, whatever is waited for; what is asked for is data.
//!
//! # How it works
//!
//! - A call that can't be met now stands in the [`Waitlist`] of what it asks for, which lies in that resource's row. The
//!   waiters themselves lie here, so that a wait ends in the same way whatever it was for: by its time, by its client,
//!   by its session's end, or since it was met.
//! - A service serves who is next by [`Ledger::next_waiter`], and tells by [`Ledger::note_next`] whether the next one
//!   could be served and was not.
//! - A waiter keeps the name of what it waits for: its session's row in a snapshot says it, and the ledger sees no
//!   service's rows.
//!
//! # Invariants
//!
//! - A waitlist is in the order of its tickets: first come, first served.
//! - A waiter whose wait or session is over is not served, even if its timer has not fired.

use super::{Ledger, Owned, Remembered, Timer, Unfinished};
use crate::machine::slab::{Linked, Links, List, Slab};
use crate::machine::{Outcome, Turn, Wake};
use crate::mutant::{self, Mutant};
use crate::time::Elapsed;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use wire::Code;
use wire::message::LockMode;

/// Everybody who waits.
pub(super) struct Waiters {
    pub(super) rows: Slab<Waiter>,
    /// How many of them wait for a lock.
    pub(super) for_locks: u64,
    /// Waits that were read from a snapshot and stand in no waitlist yet, by ticket.
    pub(super) read: BTreeMap<u64, Wait>,
}

/// A call that waits.
pub(in crate::machine) struct Waiter {
    /// Its number; its place in the waitlist too.
    pub(in crate::machine) ticket: u64,
    pub(in crate::machine) resource: Resource,
    pub(in crate::machine) wait: Wait,
    links: Links,
}

/// Who waits, until when, and what for.
pub(in crate::machine) struct Wait {
    /// The session's slot.
    pub(in crate::machine) session: u32,
    pub(in crate::machine) sequence: u64,
    pub(in crate::machine) deadline: Elapsed,
    pub(in crate::machine) ask: Ask,
    /// The resource's name.
    pub(in crate::machine) name: Box<[u8]>,
}

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::machine) enum Ask {
    Lock { mode: LockMode, lease_ms: u32 },
    Pop { visibility_ms: u32 },
}

impl Ask {
    /// What a call is told whose wait ran out.
    fn timeout(self) -> Code {
        match self {
            Ask::Lock { .. } => Code::LockTimeout,
            Ask::Pop { .. } => Code::QueueEmpty,
        }
    }
}

/// What is waited for, by slot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(in crate::machine) enum Resource {
    Lock(u32),
    Queue(u32),
}

/// Who waits for one resource.
#[derive(Clone, Copy)]
pub(in crate::machine) struct Waitlist {
    /// By ticket.
    pub(super) list: List,
    /// The ticket of who is next, as long as that one could be served and was not; else 0.
    unserved: u64,
}

impl Waitlist {
    pub(in crate::machine) const EMPTY: Waitlist = Waitlist { list: List::EMPTY, unserved: 0 };

    #[inline]
    pub(in crate::machine) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(in crate::machine) fn len(&self) -> usize {
        self.list.len()
    }

    /// The ticket of who is next, as long as that one could be served and was not; else 0.
    #[inline]
    pub(in crate::machine) fn unserved(&self) -> u64 {
        self.unserved
    }
}

impl Linked for Waiter {
    fn links(&self) -> &Links {
        &self.links
    }
    fn links_mut(&mut self) -> &mut Links {
        &mut self.links
    }
}

impl Waiters {
    pub(super) const fn new() -> Waiters {
        Waiters { rows: Slab::new(), for_locks: 0, read: BTreeMap::new() }
    }
}

impl Ledger {
    /// A call that waits.
    pub(in crate::machine) fn waiter(&self, slot: u32) -> &Waiter {
        &self.waiters.rows[slot]
    }

    /// Whether some call waits.
    pub(in crate::machine) fn has_waiters(&self) -> bool {
        self.waiters.rows.len() > 0
    }

    /// How many calls wait for a lock.
    pub(in crate::machine) fn lock_waiters(&self) -> u64 {
        self.waiters.for_locks
    }

    /// Has the ledger believe that so many calls wait for a lock.
    #[cfg(test)]
    pub(in crate::machine) fn pretend_lock_waiters(&mut self, count: u64) {
        self.waiters.for_locks = count;
    }

    /// Everybody who waits: tickets with slots, the first that came first.
    pub(in crate::machine) fn all_waiters(&self) -> Vec<(u64, u32)> {
        let waiters = self.waiters.rows.iter().map(|(slot, waiter)| (waiter.ticket, slot));
        let mut waiters: Vec<_> = waiters.collect();
        waiters.sort_unstable();
        waiters
    }

    /// The calls of a session that wait, by ticket.
    pub(in crate::machine) fn waits_of(&self, session: u32) -> Vec<u32> {
        let session = &self.sessions.table[session];
        if session.waits == 0 {
            return Vec::new();
        }
        let mut waits: Vec<u32> = session.window.waiting().collect();
        waits.sort_unstable_by_key(|waiter| self.waiters.rows[*waiter].ticket);
        waits
    }

    /// Puts a call in line.
    pub(in crate::machine) fn start_wait(
        &mut self,
        waitlist: &mut Waitlist,
        resource: Resource,
        mut wait: Wait,
    ) -> u32 {
        let ticket = self.issue();
        wait.deadline = waits_until(wait.deadline, self.clock);
        self.link_wait(waitlist, resource, ticket, wait)
    }

    /// Ties a wait to its waitlist, its session and its timer.
    pub(super) fn link_wait(
        &mut self,
        waitlist: &mut Waitlist,
        resource: Resource,
        ticket: u64,
        wait: Wait,
    ) -> u32 {
        let (session, deadline) = (wait.session, wait.deadline);
        let slot = self.waiters.rows.insert(Waiter { ticket, resource, wait, links: Links::NONE });
        waitlist.list.push(&mut self.waiters.rows, slot);
        self.waiters.for_locks += u64::from(matches!(resource, Resource::Lock(_)));
        self.timers.arm(deadline, ticket, Timer::Wait(slot));
        let session = &mut self.sessions.table.rows_mut()[session];
        session.owned.insert(ticket, Owned::Waiter(slot));
        session.waits += 1;
        slot
    }

    /// Ends a wait with its outcome: somebody is told. What it waited for is not looked at.
    pub(in crate::machine) fn end_wait(
        &mut self,
        waitlist: &mut Waitlist,
        slot: u32,
        outcome: Outcome,
        turn: &mut Turn<'_>,
    ) {
        turn.step();
        self.keep_session(self.waiters.rows[slot].wait.session);
        waitlist.list.unlink(&mut self.waiters.rows, slot);
        let Waiter { ticket, resource, wait, .. } = self.waiters.rows.remove(slot);
        self.waiters.for_locks -= u64::from(matches!(resource, Resource::Lock(_)));
        self.timers.disarm(wait.deadline, ticket);
        let session = self.sessions.table.row_mut(wait.session);
        let owned = session.owned.remove(&ticket);
        assert!(owned == Some(Owned::Waiter(slot)), "a session knows its waiters");
        session.waits -= 1;
        // A cancelled call is out of the window already.
        if wait.sequence >= session.window.answered_below {
            session.window.set(wait.sequence, Remembered::Outcome(outcome.clone()));
        }
        turn.wakes.push(Wake { session: session.id, sequence: wait.sequence, outcome });
    }

    /// Why the call is refused whose time to wait ran out.
    pub(in crate::machine) fn timeout(&self, slot: u32, now: Elapsed) -> Code {
        let wait = &self.waiters.rows[slot].wait;
        assert!(wait.deadline <= now, "a wait never ends early");
        wait.ask.timeout()
    }

    /// Why the waiter may not be served any more, although its timer has not fired.
    pub(in crate::machine) fn wait_is_over(&self, slot: u32, now: Elapsed) -> Option<Code> {
        let wait = &self.waiters.rows[slot].wait;
        if self.sessions.table[wait.session].is_over(now) {
            return Some(Code::SessionUnknown);
        }
        (wait.deadline <= now).then_some(wait.ask.timeout())
    }

    /// Whether the wait of who is next is over.
    pub(in crate::machine) fn first_is_over(&self, waitlist: &Waitlist, now: Elapsed) -> bool {
        waitlist.list.first().is_some_and(|first| self.wait_is_over(first, now).is_some())
    }

    /// The ticket of who is next, and what that one asks for.
    #[inline]
    pub(in crate::machine) fn first_ask(&self, waitlist: &Waitlist) -> Option<(u64, Ask)> {
        let first = &self.waiters.rows[waitlist.list.first()?];
        Some((first.ticket, first.wait.ask))
    }

    /// Who is next to be served, as long as there are steps: a slot. Those whose wait is over leave on the way.
    #[inline]
    pub(in crate::machine) fn next_waiter(
        &mut self,
        waitlist: &mut Waitlist,
        turn: &mut Turn<'_>,
    ) -> Option<u32> {
        // Mostly nobody waits.
        if waitlist.is_empty() { None } else { self.first_in_time(waitlist, turn) }
    }

    fn first_in_time(&mut self, waitlist: &mut Waitlist, turn: &mut Turn<'_>) -> Option<u32> {
        while turn.steps > 0 {
            let first = self.next_in(waitlist)?;
            let Some(code) = self.wait_is_over(first, turn.now) else { return Some(first) };
            self.end_wait(waitlist, first, Outcome::refused(code), turn);
        }
        None
    }

    /// Who is next: first come, first served.
    fn next_in(&self, waitlist: &Waitlist) -> Option<u32> {
        let first = waitlist.list.first()?;
        let mut all = waitlist.list.iter(&self.waiters.rows);
        match self.waiters.rows[first].resource {
            resource if !serves_first(resource) => all.last(),
            Resource::Lock(_) if mutant::on(Mutant::SharersOvertake) => {
                let shares = |ask| matches!(ask, Ask::Lock { mode: LockMode::Shared, .. });
                all.find(|slot| shares(self.waiters.rows[*slot].wait.ask)).or(Some(first))
            }
            _ => Some(first),
        }
    }

    /// Notes under which ticket the next one in `waitlist` could be served and was not: 0 = nobody could.
    pub(in crate::machine) fn note_next(
        &mut self,
        waitlist: &mut Waitlist,
        resource: Resource,
        unserved: u64,
    ) {
        self.note_unfinished(waitlist.unserved, unserved, Unfinished::Next(resource));
        waitlist.unserved = unserved;
    }
}

/// A wait lasts as long as it was asked to, and no longer.
fn waits_until(deadline: Elapsed, now: Elapsed) -> Elapsed {
    match () {
        () if mutant::on(Mutant::WaitForEver) => Elapsed::MAX,
        () if mutant::on(Mutant::WaitShort) => Elapsed(now.0 + (deadline.0 - now.0) / 2),
        () => deadline,
    }
}

/// Who waited first is served first, whatever for.
fn serves_first(resource: Resource) -> bool {
    !mutant::on(Mutant::PopsLifo) || matches!(resource, Resource::Lock(_))
}
