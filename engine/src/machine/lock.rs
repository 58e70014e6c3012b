//! Locks: shared and exclusive, strictly first come, first served.
//!
//! # How it works
//!
//! - An acquire is granted at once if nobody waits and the holders admit it; else it is refused (a
//!   try) or stands in line. A shared one behind a waiting exclusive one waits: nobody starves.
//! - **Re-entrant.** A session that asks for what it holds gets it at once, ahead of the line, with the
//!   same fence, and the grant counts one more. Exclusive covers shared. The longer lease
//!   counts. A release takes one off; the lock is free when as many releases came as acquires. Asking
//!   for exclusive while holding shared is refused with `LockHeld`: it would wait for itself.
//! - **Lease.** It ends the grant, whatever its count. Without one the grant lasts as long as the session.
//! - **Fences** come from the machine's counter, so they rise over all locks.
//! - Before a grant the waiter is looked at again: one whose wait or session has run out is not
//!   granted even if its timer has not fired.
//!
//! # Invariants
//!
//! - Holders are one exclusive, or any number of shared grants; one grant per session and lock.
//! - A session never waits for a lock that it holds.
//! - A lock that nobody holds has no waiters, and no record.
//!
//! # Left out
//!
//! Upgrade and downgrade, multi-lock, deadlock detection, forced release: they come with the lock
//! issue. Until then a deadlock ends by the wait's timeout.

use super::request::Mode;
use super::session::{Ask, Owned, Verdict};
use super::slab::{Linked, Links, List};
use super::table::Row;
use super::timers::Timer;
use super::{Machine, Outcome, Turn};
use crate::limits::{LOCKS_MAX, WAITERS_MAX};
use crate::mutant::{self, Mutant};
use crate::time::{Elapsed, millis};
use alloc::boxed::Box;
use alloc::vec::Vec;
use wire::Code;

/// A lock that somebody holds.
pub(super) struct Lock {
    pub(super) name: Box<[u8]>,
    /// Of the grants.
    pub(super) mode: Mode,
    /// By fence.
    pub(super) grants: List,
    /// By ticket.
    pub(super) waiters: List,
}

/// A session's hold on a lock.
pub(super) struct Grant {
    pub(super) lock: u32,
    pub(super) session: u32,
    pub(super) fence: u64,
    /// How many acquires it stands for.
    pub(super) count: u32,
    /// When its lease ends; [`Elapsed::MAX`] without one.
    pub(super) deadline: Elapsed,
    pub(super) links: Links,
}

impl Row for Lock {
    type Key = [u8];
    fn key(&self) -> &[u8] {
        &self.name
    }
}

impl Linked for Grant {
    fn links(&self) -> &Links {
        &self.links
    }
    fn links_mut(&mut self) -> &mut Links {
        &mut self.links
    }
}

impl Lock {
    pub(super) fn new(name: &[u8], mode: Mode) -> Lock {
        Lock { name: name.into(), mode, grants: List::EMPTY, waiters: List::EMPTY }
    }

    /// Whether the holders let somebody in with `mode`.
    fn admits(&self, mode: Mode) -> bool {
        let all = mutant::on(Mutant::LockAdmitsAll)
            || (mutant::on(Mutant::SharersUnseen) && self.mode == Mode::Shared);
        all || self.grants.is_empty() || (self.mode == Mode::Shared && mode == Mode::Shared)
    }
}

/// What an acquire asks for.
#[derive(Clone, Copy)]
pub(super) struct Acquire<'a> {
    pub(super) name: &'a [u8],
    pub(super) wait_ms: u32,
    pub(super) lease_ms: u32,
    pub(super) mode: Mode,
}

impl Machine {
    pub(super) fn acquire(
        &mut self,
        session: u32,
        sequence: u64,
        ask: Acquire<'_>,
        turn: &mut Turn<'_>,
    ) -> Verdict {
        let Acquire { name, wait_ms, lease_ms, mode } = ask;
        let Some(lock) = self.settled_lock(name, turn) else {
            if self.locks.len() >= LOCKS_MAX {
                return Verdict::Now(Outcome::Refused(Code::StateFull));
            }
            let lock = self.locks.insert(Lock::new(name, mode));
            return Verdict::Now(self.grant(lock, session, mode, lease_ms, turn));
        };
        if let Some(grant) = self.grant_of(lock, session) {
            return Verdict::Now(self.grant_again(grant, mode, lease_ms, turn));
        }
        let row = &self.locks[lock];
        let barges = mutant::on(Mutant::Barging);
        if (row.waiters.is_empty() || barges) && row.admits(mode) {
            return Verdict::Now(self.grant(lock, session, mode, lease_ms, turn));
        }
        if wait_ms == 0 {
            return Verdict::Now(Outcome::Refused(Code::LockHeld));
        }
        if row.waiters.len() >= WAITERS_MAX {
            return Verdict::Now(Outcome::Refused(Code::WaitersFull));
        }
        let deadline = turn.now + millis(wait_ms);
        let ask = Ask::Lock { lock, mode, lease_ms };
        Verdict::Later(self.start_wait(session, sequence, deadline, ask))
    }

    pub(super) fn release(
        &mut self,
        session: u32,
        name: &[u8],
        fence: u64,
        turn: &mut Turn<'_>,
    ) -> Outcome {
        let lock = self.settled_lock(name, turn);
        let Some(slot) = lock.and_then(|lock| self.grant_of(lock, session)) else {
            return Outcome::Refused(Code::NotHolder);
        };
        let Grant { lock, fence: right, count, .. } = self.grants[slot];
        if right != fence && !mutant::on(Mutant::AnyFenceReleases) {
            return Outcome::Refused(Code::StaleFence);
        }
        if count > 1 && !mutant::on(Mutant::ReleaseFreesAtOnce) {
            self.keep_lock(lock);
            self.grants[slot].count -= 1;
        } else {
            let lock = self.drop_grant(slot);
            self.advance_lock(lock, turn);
        }
        Outcome::Done { token: 0 }
    }

    /// A lease ran out.
    pub(super) fn lease_ended(&mut self, grant: u32, turn: &mut Turn<'_>) {
        assert!(self.grants[grant].deadline <= turn.now, "a lease never ends early");
        let lock = self.drop_grant(grant);
        self.advance_lock(lock, turn);
    }

    /// Grants the lock, which admits it, to a session that does not hold it.
    fn grant(
        &mut self,
        lock: u32,
        session: u32,
        mode: Mode,
        lease_ms: u32,
        turn: &Turn<'_>,
    ) -> Outcome {
        assert!(self.locks[lock].admits(mode), "an exclusive grant stands alone");
        self.keep_lock(lock);
        self.locks.row_mut(lock).mode = mode;
        let fence = self.issue();
        let deadline = lease_deadline(lease_ms, turn.now);
        let links = Links::NONE;
        let grant = Grant { lock, session, fence, count: 1, deadline, links };
        let slot = self.grants.insert(grant);
        self.link_grant(slot);
        Outcome::Done { token: fence }
    }

    /// Ties a grant to its lock, its session and its timer.
    pub(super) fn link_grant(&mut self, slot: u32) {
        let Grant { lock, session, fence, deadline, .. } = self.grants[slot];
        self.locks.row_mut(lock).grants.push(&mut self.grants, slot);
        self.timers.arm(deadline, fence, Timer::LockLease(slot));
        let session = &mut self.sessions.table.rows_mut()[session];
        session.owned.insert(fence, Owned::Grant(slot));
    }

    /// Grants a lock again to a session that holds it.
    fn grant_again(&mut self, slot: u32, mode: Mode, lease_ms: u32, turn: &Turn<'_>) -> Outcome {
        let Grant { lock, count, .. } = self.grants[slot];
        if !self.locks[lock].mode.covers(mode) || count == u32::MAX {
            return Outcome::Refused(Code::LockHeld);
        }
        self.keep_lock(lock);
        let grant = &mut self.grants[slot];
        grant.count += 1;
        let (fence, before) = (grant.fence, grant.deadline);
        let anew = lease_deadline(lease_ms, turn.now);
        let deadline = if mutant::on(Mutant::LockLeaseReplaced) { anew } else { anew.max(before) };
        if deadline != before {
            grant.deadline = deadline;
            self.timers.disarm(before, fence);
            self.timers.arm(deadline, fence, Timer::LockLease(slot));
        }
        Outcome::Done { token: fence }
    }

    /// Ends a grant and names its lock, which the caller advances.
    pub(super) fn drop_grant(&mut self, slot: u32) -> u32 {
        let lock = self.grants[slot].lock;
        self.keep_lock(lock);
        self.locks.row_mut(lock).grants.unlink(&mut self.grants, slot);
        let grant = self.grants.remove(slot);
        self.timers.disarm(grant.deadline, grant.fence);
        let session = &mut self.sessions.table.rows_mut()[grant.session];
        let owned = session.owned.remove(&grant.fence);
        assert!(owned == Some(Owned::Grant(slot)), "a session knows its grants");
        lock
    }

    /// Grants the lock to whoever is next, as long as it admits them; forgets it when nobody
    /// holds it.
    pub(super) fn advance_lock(&mut self, lock: u32, turn: &mut Turn<'_>) {
        while let Some(waiter) = self.locks[lock].waiters.first() {
            if let Some(code) = self.wait_is_over(waiter, Code::LockTimeout, turn.now) {
                self.end_wait(waiter, Outcome::Refused(code), turn);
                continue;
            }
            let Ask::Lock { mode, lease_ms, .. } = self.waiters[waiter].ask else {
                unreachable!("a lock's waiters ask for the lock")
            };
            if !self.locks[lock].admits(mode) {
                break;
            }
            let session = self.waiters[waiter].session;
            let outcome = self.grant(lock, session, mode, lease_ms, turn);
            self.end_wait(waiter, outcome, turn);
            if self.sessions.table[session].waits > 0 {
                self.grant_other_waits(lock, session, turn);
            }
        }
        if self.locks[lock].grants.is_empty() {
            assert!(self.locks[lock].waiters.is_empty(), "a free lock has no waiters");
            self.locks.remove(lock);
        }
    }

    /// A session that was granted a lock and waits for it by other calls too holds it now: those
    /// calls are answered as if they came now.
    fn grant_other_waits(&mut self, lock: u32, session: u32, turn: &mut Turn<'_>) {
        let owned = self.sessions.table[session].owned.values();
        let waits = owned.filter_map(|thing| match thing {
            Owned::Waiter(waiter) => Some(*waiter),
            _ => None,
        });
        let waits: Vec<u32> = waits.collect();
        for waiter in waits {
            let Ask::Lock { lock: of, mode, lease_ms } = self.waiters[waiter].ask else {
                continue;
            };
            if of != lock {
                continue;
            }
            let outcome = match self.wait_is_over(waiter, Code::LockTimeout, turn.now) {
                Some(code) => Outcome::Refused(code),
                None => {
                    let grant = self.grant_of(lock, session).expect("it was just granted");
                    self.grant_again(grant, mode, lease_ms, turn)
                }
            };
            self.end_wait(waiter, outcome, turn);
        }
    }

    /// The grant that a session has on a lock. Looks through the shorter of the two lists.
    fn grant_of(&self, lock: u32, session: u32) -> Option<u32> {
        let grants = &self.locks[lock].grants;
        let owned = &self.sessions.table[session].owned;
        if grants.len() <= owned.len() {
            return grants.iter(&self.grants).find(|grant| self.grants[*grant].session == session);
        }
        owned.values().find_map(|thing| match thing {
            Owned::Grant(grant) if self.grants[*grant].lock == lock => Some(*grant),
            _ => None,
        })
    }

    /// Finds a lock. If something of it is due and has not fired, it fires here, so that what is due
    /// is never seen.
    fn settled_lock(&mut self, name: &[u8], turn: &mut Turn<'_>) -> Option<u32> {
        let mut lock = self.locks.find(name)?;
        if !self.timers.is_overdue(turn.now) {
            return Some(lock);
        }
        let due = |m: &Machine, grant: &u32| {
            let grant = &m.grants[*grant];
            grant.deadline <= turn.now || m.sessions.table[grant.session].deadline <= turn.now
        };
        let due = self.locks[lock].grants.iter(&self.grants).filter(|grant| due(self, grant));
        let due: Vec<u64> = due.map(|grant| self.grants[grant].fence).collect();
        for fence in due {
            // What was due may be gone with a session that ended meanwhile, and the lock too.
            lock = self.locks.find(name)?;
            let grants = self.locks[lock].grants;
            let grant = grants.iter(&self.grants).find(|grant| self.grants[*grant].fence == fence);
            let Some(grant) = grant else { continue };
            if self.grants[grant].deadline <= turn.now {
                self.lease_ended(grant, turn);
            } else {
                self.expire_session(self.grants[grant].session, turn);
            }
        }
        lock = self.locks.find(name)?;
        self.advance_lock(lock, turn);
        self.locks.find(name)
    }
}

fn lease_deadline(lease_ms: u32, now: Elapsed) -> Elapsed {
    let lease_ms = if mutant::on(Mutant::LockLeaseShort) { lease_ms / 2 } else { lease_ms };
    let lasts = lease_ms == 0 || mutant::on(Mutant::LockLeaseForEver);
    if lasts { Elapsed::MAX } else { now + millis(lease_ms) }
}
