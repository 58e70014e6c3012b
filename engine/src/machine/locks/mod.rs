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
//! - A lock that nobody holds has no waiters, and no record; but for one that is unfinished
//!   (`unfinished.rs`), whose next waiter is admitted.
//!
//! # Left out
//!
//! Upgrade and downgrade, multi-lock, deadlock detection, forced release: they come with the lock
//! issue. Until then a deadlock ends by the wait's timeout.

use crate::level::Level;
use crate::limits::{GRANTS_MAX, LOCKS_MAX, WAITERS_MAX};
use crate::machine::sessions::{Ask, Owned, Verdict};
use crate::machine::slab::{Linked, Links, List};
use crate::machine::table::{Probe, Row};
use crate::machine::timers::Timer;
use crate::machine::unfinished::Unfinished;
use crate::machine::{Machine, Outcome, Turn};
use crate::mutant::{self, Mutant};
use crate::time::{Elapsed, millis};
use alloc::boxed::Box;
use alloc::vec::Vec;
use wire::Code;
use wire::message::LockMode;

/// A lock with so many grants is searched from end to end; of one with more each grant stands in `Machine::crowded`.
pub(super) const FEW_GRANTS: usize = 8;

/// A lock that somebody holds.
pub(super) struct Lock {
    pub(super) name: Box<[u8]>,
    /// Of its name.
    probe: Probe,
    /// Of the grants.
    pub(super) mode: LockMode,
    /// By fence.
    pub(super) grants: List,
    /// By ticket.
    pub(super) waiters: List,
    /// The ticket of who is next, as long as that one is admitted and not served; else 0.
    pub(super) unserved: u64,
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
    pub(super) fn new(name: &[u8], probe: Probe, mode: LockMode) -> Lock {
        let (grants, waiters) = (List::EMPTY, List::EMPTY);
        Lock { name: name.into(), probe, mode, grants, waiters, unserved: 0 }
    }

    /// Whether the holders let somebody in with `mode`.
    pub(super) fn admits(&self, mode: LockMode) -> bool {
        let all = mutant::on(Mutant::LockAdmitsAll)
            || (mutant::on(Mutant::SharersUnseen) && self.mode == LockMode::Shared);
        all || self.grants.is_empty() || (self.mode == LockMode::Shared && mode == LockMode::Shared)
    }
}

/// What an acquire asks for.
#[derive(Clone, Copy)]
pub(super) struct Acquire<'a> {
    pub(super) name: &'a [u8],
    pub(super) wait_ms: u32,
    pub(super) lease_ms: u32,
    pub(super) mode: LockMode,
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
        self.end_own_lease(name, session, turn);
        let probe = self.locks.probe(name);
        let settled = self.settled_lock(&probe, name, turn);
        let claims = self.grants.len() + self.counts.lock_waiters as usize;
        let full = claims >= GRANTS_MAX && self.level >= Level::BOUNDED;
        let Some(lock) = settled.lock() else {
            if self.locks.len() >= LOCKS_MAX || full {
                return Verdict::Now(Outcome::Refused(Code::StateFull));
            }
            let lock = self.locks.insert_at(probe, Lock::new(name, probe, mode));
            return Verdict::Now(self.grant(lock, session, mode, lease_ms, turn));
        };
        if let Some(grant) = self.grant_of(lock, session) {
            return Verdict::Now(self.grant_again(grant, mode, lease_ms, turn));
        }
        if full {
            return Verdict::Now(Outcome::Refused(Code::StateFull));
        }
        let row = &self.locks[lock];
        let barges = mutant::on(Mutant::Barging);
        if (row.waiters.is_empty() || barges) && row.admits(mode) {
            return Verdict::Now(self.grant(lock, session, mode, lease_ms, turn));
        }
        if wait_ms == 0 {
            return match settled {
                Settled::Unfinished(_) => Verdict::NotYet,
                _ => Verdict::Now(Outcome::Refused(Code::LockHeld)),
            };
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
        self.end_own_lease(name, session, turn);
        let lock = match self.level < Level::BOUNDED {
            true => self.settled_lock(&self.locks.probe(name), name, turn).lock(),
            // What is due of others' is no matter of a release.
            false => self.locks.find(name),
        };
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
        mode: LockMode,
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
        self.crowd(lock, slot);
        let session = &mut self.sessions.table.rows_mut()[session];
        session.owned.insert(fence, Owned::Grant(slot));
    }

    /// Grants a lock again to a session that holds it.
    fn grant_again(
        &mut self,
        slot: u32,
        mode: LockMode,
        lease_ms: u32,
        turn: &Turn<'_>,
    ) -> Outcome {
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
        self.uncrowd(lock, grant.session);
        lock
    }

    /// A lock has one grant more.
    fn crowd(&mut self, lock: u32, slot: u32) {
        let (grants, rows) = (&self.locks[lock].grants, &self.grants);
        if grants.len() <= FEW_GRANTS {
            return;
        }
        let fresh = if grants.len() == FEW_GRANTS + 1 { grants.first() } else { Some(slot) };
        for slot in List::iter_from(fresh, rows) {
            let before = self.crowded.insert((rows[slot].session, lock), slot);
            assert!(before.is_none(), "a session has one grant of a lock");
        }
    }

    /// A lock has one grant less: that of `session`.
    fn uncrowd(&mut self, lock: u32, session: u32) {
        let grants = self.locks[lock].grants;
        if grants.len() < FEW_GRANTS {
            return;
        }
        let held = self.crowded.remove(&(session, lock));
        assert!(held.is_some(), "a grant of a crowded lock is found by its session");
        if grants.len() == FEW_GRANTS {
            for slot in grants.iter(&self.grants) {
                self.crowded.remove(&(self.grants[slot].session, lock));
            }
        }
    }

    /// Grants the lock to whoever is next, as long as it admits them and the steps go; forgets it when nobody
    /// holds it.
    pub(super) fn advance_lock(&mut self, lock: u32, turn: &mut Turn<'_>) {
        while let Some(waiter) = self.locks[lock].waiters.first() {
            if turn.steps == 0 {
                break;
            }
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
        self.note_lock(lock);
        let row = &self.locks[lock];
        if row.grants.is_empty() && row.unserved == 0 {
            assert!(row.waiters.is_empty(), "a free lock has no waiters");
            let probe = row.probe;
            self.locks.remove_at(probe, lock);
        }
    }

    /// Notes whether who is next is admitted and was not served.
    pub(super) fn note_lock(&mut self, lock: u32) {
        let row = &self.locks[lock];
        let next = row.waiters.first().map(|waiter| &self.waiters[waiter]);
        let admitted = next.filter(|next| match next.ask {
            Ask::Lock { mode, .. } => row.admits(mode),
            Ask::Pop { .. } => false,
        });
        let (before, now) = (row.unserved, admitted.map_or(0, |next| next.ticket));
        if before != now {
            let unserved = self.note_unfinished(before, now, Unfinished::Lock(lock));
            self.locks.rows_mut()[lock].unserved = unserved;
        }
    }

    /// A session that was granted a lock and waits for it by other calls too holds it now: those
    /// calls are answered as if they came now.
    fn grant_other_waits(&mut self, lock: u32, session: u32, turn: &mut Turn<'_>) {
        for waiter in self.waits_of(session) {
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

    /// The grant that a session has on a lock.
    pub(super) fn grant_of(&self, lock: u32, session: u32) -> Option<u32> {
        let grants = &self.locks[lock].grants;
        if grants.len() > FEW_GRANTS {
            return self.crowded.get(&(session, lock)).copied();
        }
        grants.iter(&self.grants).find(|grant| self.grants[*grant].session == session)
    }

    /// Finds a lock. If something of it is due or unfinished, it happens here, as far as the steps go.
    fn settled_lock(&mut self, probe: &Probe, name: &[u8], turn: &mut Turn<'_>) -> Settled {
        let Some(lock) = self.locks.find_at(probe, name) else { return Settled::Free };
        if !self.timers.is_overdue(turn.now) && self.unfinished.is_empty() {
            return Settled::Held(lock);
        }
        if self.level < Level::BOUNDED {
            return self.settle_at_once(name, turn).map_or(Settled::Free, Settled::Held);
        }
        self.settle(lock, name, turn)
    }

    /// Takes from the lock the grants that are over, first to last up to one that is not: with that one it is held,
    /// whatever comes behind. Who is next is served.
    fn settle(&mut self, lock: u32, name: &[u8], turn: &mut Turn<'_>) -> Settled {
        loop {
            let row = &self.locks[lock];
            let first = row.grants.first().filter(|grant| self.is_grant_over(*grant, turn.now));
            let next = row.waiters.first();
            let gone =
                next.is_some_and(|w| self.wait_is_over(w, Code::LockTimeout, turn.now).is_some());
            if first.is_none() && !gone && row.unserved == 0 {
                return Settled::Held(lock);
            }
            if turn.steps == 0 {
                return Settled::Unfinished(lock);
            }
            if let Some(grant) = first {
                turn.step();
                self.drop_grant(grant);
            }
            self.advance_lock(lock, turn);
            if self.locks.find(name) != Some(lock) {
                return Settled::Free;
            }
        }
    }

    fn is_grant_over(&self, grant: u32, now: Elapsed) -> bool {
        let grant = &self.grants[grant];
        grant.deadline <= now || self.sessions.table[grant.session].is_over(now)
    }

    /// Ends the session's own grant of a lock if its lease is due.
    fn end_own_lease(&mut self, name: &[u8], session: u32, turn: &mut Turn<'_>) {
        if self.level < Level::BOUNDED || !self.timers.is_overdue(turn.now) {
            return;
        }
        let grant = self.locks.find(name).and_then(|lock| self.grant_of(lock, session));
        if let Some(grant) = grant.filter(|grant| self.grants[*grant].deadline <= turn.now) {
            turn.step();
            self.lease_ended(grant, turn);
        }
    }

    /// Finds a lock. If something of it is due and has not fired, all of it fires here.
    fn settle_at_once(&mut self, name: &[u8], turn: &mut Turn<'_>) -> Option<u32> {
        let mut lock = self.locks.find(name)?;
        let due = self.locks[lock].grants.iter(&self.grants);
        let due = due.filter(|grant| self.is_grant_over(*grant, turn.now));
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

/// A lock as an acquire finds it.
#[derive(Clone, Copy)]
enum Settled {
    /// Nobody holds it: it has no record.
    Free,
    /// It is held, and nothing of it is due.
    Held(u32),
    /// There is more to settle than one entry does.
    Unfinished(u32),
}

impl Settled {
    fn lock(self) -> Option<u32> {
        match self {
            Settled::Free => None,
            Settled::Held(lock) | Settled::Unfinished(lock) => Some(lock),
        }
    }
}

fn lease_deadline(lease_ms: u32, now: Elapsed) -> Elapsed {
    let lease_ms = if mutant::on(Mutant::LockLeaseShort) { lease_ms / 2 } else { lease_ms };
    let lasts = lease_ms == 0 || mutant::on(Mutant::LockLeaseForEver);
    if lasts { Elapsed::MAX } else { now + millis(lease_ms) }
}
