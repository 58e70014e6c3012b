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
//!   (`steps.rs`), whose next waiter is admitted.
//!
//! # Left out
//!
//! Upgrade and downgrade, multi-lock, deadlock detection, forced release: they come with the lock
//! issue. Until then a deadlock ends by the wait's timeout.

mod codec;
#[cfg(any(test, feature = "simulator"))]
mod inspect;

use self::codec::OpenLock;

use crate::level::Level;
use crate::limits::{GRANTS_MAX, LOCKS_MAX, WAITERS_MAX};
use crate::machine::ledger::{Ask, Ledger, Owned, Resource, Timer, Wait, Waitlist};
use crate::machine::request::SessionCall;
use crate::machine::sessions::Verdict;
use crate::machine::slab::{Linked, Links, List, Slab};
use crate::machine::table::{Probe, Row, Table};
use crate::machine::{Outcome, Turn};
use crate::mutant::{self, Mutant};
use crate::secret::Secret;
use crate::time::{Elapsed, millis};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use wire::message::{LockAcquire, LockMode, LockRequest};
use wire::{Code, Detail};

/// A lock with so many grants is searched from end to end; of one with more each grant stands in [`Locks::crowded`].
const FEW_GRANTS: usize = 8;

/// One shard's locks.
pub(super) struct Locks {
    locks: Table<Lock>,
    grants: Slab<Grant>,
    /// The grants of locks with more than [`FEW_GRANTS`], by session and lock: slots, which decide nothing.
    crowded: BTreeMap<(u32, u32), u32>,
    /// The row of which only some was written to the snapshot that is being made.
    open: Option<OpenLock>,
    /// A lock of which only some was read from a snapshot, and how many grants are to come.
    read: Option<(u32, u32)>,
}

/// A lock that somebody holds.
struct Lock {
    name: Box<[u8]>,
    /// Of its name.
    probe: Probe,
    /// Of the grants.
    mode: LockMode,
    /// By fence.
    grants: List,
    waitlist: Waitlist,
}

/// A session's hold on a lock.
struct Grant {
    lock: u32,
    session: u32,
    fence: u64,
    /// How many acquires it stands for.
    count: u32,
    /// When its lease ends; [`Elapsed::MAX`] without one.
    deadline: Elapsed,
    links: Links,
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
    fn new(name: &[u8], probe: Probe, mode: LockMode) -> Lock {
        let (grants, waitlist) = (List::EMPTY, Waitlist::EMPTY);
        Lock { name: name.into(), probe, mode, grants, waitlist }
    }

    /// Whether the holders let somebody in with `mode`.
    fn admits(&self, mode: LockMode) -> bool {
        let is_shared = self.mode == LockMode::Shared;
        self.grants.is_empty() || (is_shared && mode == LockMode::Shared) || !excludes(self.mode)
    }
}

impl Locks {
    /// No locks.
    pub(super) fn new(secret: Secret) -> Locks {
        Locks {
            locks: Table::new(secret),
            grants: Slab::new(),
            crowded: BTreeMap::new(),
            open: None,
            read: None,
        }
    }

    /// How many locks are held.
    pub(super) fn len(&self) -> usize {
        self.locks.len()
    }

    /// Whether nobody holds anything.
    pub(super) fn is_free(&self) -> bool {
        self.grants.len() == 0
    }

    /// Who waits for a lock.
    pub(super) fn waitlist(&mut self, lock: u32) -> &mut Waitlist {
        &mut self.locks.rows_mut()[lock].waitlist
    }

    /// Does what a call asks for.
    pub(super) fn request(
        &mut self,
        ledger: &mut Ledger,
        asked: SessionCall,
        request: LockRequest<'_>,
        turn: &mut Turn<'_>,
    ) -> Verdict {
        match request {
            LockRequest::LockAcquire(it) => self.acquire(ledger, asked, &it, turn),
            LockRequest::LockRelease(it) => {
                Verdict::Now(self.release(ledger, asked.session, it.name, it.fence, turn))
            }
        }
    }

    fn acquire(
        &mut self,
        ledger: &mut Ledger,
        asked: SessionCall,
        acquire: &LockAcquire<'_>,
        turn: &mut Turn<'_>,
    ) -> Verdict {
        let SessionCall { session, sequence } = asked;
        let &LockAcquire { name, wait_ms, lease_ms, mode, .. } = acquire;
        self.end_own_lease(ledger, name, session, turn);
        let probe = self.locks.probe(name);
        let settled = self.settled_lock(ledger, &probe, name, turn);
        let claims = self.grants.len() + ledger.lock_waiters() as usize;
        let full = claims >= GRANTS_MAX && ledger.level() >= Level::BOUNDED;
        let Some(lock) = settled.lock() else {
            if self.locks.len() >= LOCKS_MAX || full {
                return Verdict::Now(Outcome::refused(Code::StateFull));
            }
            let lock = self.locks.insert_at(probe, Lock::new(name, probe, mode));
            return Verdict::Now(self.grant(ledger, lock, session, mode, lease_ms));
        };
        if let Some(grant) = self.grant_of(lock, session) {
            return Verdict::Now(self.grant_again(ledger, grant, mode, lease_ms));
        }
        if full {
            return Verdict::Now(Outcome::refused(Code::StateFull));
        }
        let row = &self.locks[lock];
        if is_next(&row.waitlist) && row.admits(mode) {
            return Verdict::Now(self.grant(ledger, lock, session, mode, lease_ms));
        }
        if is_try(wait_ms) {
            return match settled {
                Settled::Unfinished(_) => Verdict::NotYet,
                _ => Verdict::Now(self.refusal(ledger, lock, Code::LockHeld)),
            };
        }
        if row.waitlist.len() >= WAITERS_MAX {
            return Verdict::Now(Outcome::refused(Code::WaitersFull));
        }
        let deadline = turn.now + millis(wait_ms);
        let ask = Ask::Lock { mode, lease_ms };
        let wait = Wait { session, sequence, deadline, ask, name: name.into() };
        let waitlist = self.waitlist(lock);
        Verdict::Later(ledger.start_wait(waitlist, Resource::Lock(lock), wait))
    }

    fn release(
        &mut self,
        ledger: &mut Ledger,
        session: u32,
        name: &[u8],
        fence: u64,
        turn: &mut Turn<'_>,
    ) -> Outcome {
        self.end_own_lease(ledger, name, session, turn);
        // What is due of others' is no matter of a release.
        let lock = self.locks.find(name);
        let Some(slot) = lock.and_then(|lock| self.grant_of(lock, session)) else {
            return Outcome::refused(Code::NotHolder);
        };
        let Grant { lock, fence: right, count, .. } = self.grants[slot];
        if !proves(fence, right) {
            return Outcome::refused(Code::StaleFence);
        }
        let left = after_release(count);
        if left > 0 {
            self.keep_lock(ledger, lock);
            self.grants[slot].count = left;
        } else {
            let lock = self.drop_grant(ledger, slot);
            self.advance(ledger, lock, turn);
        }
        Outcome::Done { token: 0 }
    }

    /// A refusal that says who holds the lock, if somebody does.
    pub(super) fn refusal(&self, ledger: &Ledger, lock: u32, code: Code) -> Outcome {
        let Lock { mode, grants, .. } = &self.locks[lock];
        match grants.first().map(|oldest| self.grants[oldest].fence) {
            Some(fence) => {
                assert!(fence > 0, "a grant has a fence");
                ledger.refused_for(code, Detail::Holder { fence, mode: *mode })
            }
            None => Outcome::refused(code),
        }
    }

    /// A lease ran out.
    pub(super) fn lease_ended(&mut self, ledger: &mut Ledger, grant: u32, turn: &mut Turn<'_>) {
        assert!(self.grants[grant].deadline <= turn.now, "a lease never ends early");
        let lock = self.drop_grant(ledger, grant);
        self.advance(ledger, lock, turn);
    }

    /// Grants the lock, which admits it, to a session that does not hold it.
    fn grant(
        &mut self,
        ledger: &mut Ledger,
        lock: u32,
        session: u32,
        mode: LockMode,
        lease_ms: u32,
    ) -> Outcome {
        assert!(self.locks[lock].admits(mode), "an exclusive grant stands alone");
        self.keep_lock(ledger, lock);
        self.locks.row_mut(lock).mode = mode;
        let fence = ledger.issue();
        let deadline = lease_deadline(lease_ms, ledger.clock());
        let links = Links::NONE;
        let grant = Grant { lock, session, fence, count: 1, deadline, links };
        let slot = self.grants.insert(grant);
        self.link_grant(ledger, slot);
        Outcome::Done { token: fence }
    }

    /// Ties a grant to its lock, its session and its timer.
    fn link_grant(&mut self, ledger: &mut Ledger, slot: u32) {
        let Grant { lock, session, fence, deadline, .. } = self.grants[slot];
        self.locks.row_mut(lock).grants.push(&mut self.grants, slot);
        ledger.arm(deadline, fence, Timer::LockLease(slot));
        self.crowd(lock, slot);
        ledger.own(session, fence, Owned::Grant(slot));
    }

    /// Grants a lock again to a session that holds it.
    fn grant_again(
        &mut self,
        ledger: &mut Ledger,
        slot: u32,
        mode: LockMode,
        lease_ms: u32,
    ) -> Outcome {
        let Grant { lock, count, .. } = self.grants[slot];
        if !covers(self.locks[lock].mode, mode) || count == u32::MAX {
            return self.refusal(ledger, lock, Code::LockHeld);
        }
        self.keep_lock(ledger, lock);
        let grant = &mut self.grants[slot];
        grant.count += 1;
        let (fence, before) = (grant.fence, grant.deadline);
        let deadline = longer_lease(lease_deadline(lease_ms, ledger.clock()), before);
        if deadline != before {
            grant.deadline = deadline;
            ledger.disarm(before, fence);
            ledger.arm(deadline, fence, Timer::LockLease(slot));
        }
        Outcome::Done { token: fence }
    }

    /// Ends a grant and names its lock, which the caller advances.
    pub(super) fn drop_grant(&mut self, ledger: &mut Ledger, slot: u32) -> u32 {
        let lock = self.grants[slot].lock;
        self.keep_lock(ledger, lock);
        self.locks.row_mut(lock).grants.unlink(&mut self.grants, slot);
        let grant = self.grants.remove(slot);
        ledger.disarm(grant.deadline, grant.fence);
        ledger.disown(grant.session, grant.fence, Owned::Grant(slot));
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
    pub(super) fn advance(&mut self, ledger: &mut Ledger, lock: u32, turn: &mut Turn<'_>) {
        while let Some(waiter) = ledger.next_waiter(self.waitlist(lock), turn) {
            let wait = &ledger.waiter(waiter).wait;
            let (session, (mode, lease_ms)) = (wait.session, asked(wait.ask));
            if !self.locks[lock].admits(mode) {
                break;
            }
            let outcome = self.grant(ledger, lock, session, mode, lease_ms);
            ledger.end_wait(self.waitlist(lock), waiter, outcome, turn);
            if ledger.session_waits(session) {
                self.grant_other_waits(ledger, lock, session, turn);
            }
        }
        self.note_next(ledger, lock);
        let row = &self.locks[lock];
        if row.grants.is_empty() && row.waitlist.unserved() == 0 {
            assert!(row.waitlist.is_empty(), "a free lock has no waiters");
            let probe = row.probe;
            self.locks.remove_at(probe, lock);
        }
    }

    /// Notes whether who is next is admitted and was not served.
    fn note_next(&mut self, ledger: &mut Ledger, lock: u32) {
        let row = &self.locks[lock];
        let unserved = admitted(ledger, row);
        if row.waitlist.unserved() != unserved {
            let waitlist = self.waitlist(lock);
            ledger.note_next(waitlist, Resource::Lock(lock), unserved);
        }
    }

    /// A session that was granted a lock and waits for it by other calls too holds it now: those
    /// calls are answered as if they came now.
    fn grant_other_waits(
        &mut self,
        ledger: &mut Ledger,
        lock: u32,
        session: u32,
        turn: &mut Turn<'_>,
    ) {
        for waiter in ledger.waits_of(session) {
            let row = ledger.waiter(waiter);
            if row.resource != Resource::Lock(lock) {
                continue;
            }
            let (mode, lease_ms) = asked(row.wait.ask);
            let outcome = match ledger.wait_is_over(waiter, turn.now) {
                Some(code) => Outcome::refused(code),
                None => {
                    let grant = self.grant_of(lock, session).expect("it was just granted");
                    self.grant_again(ledger, grant, mode, lease_ms)
                }
            };
            ledger.end_wait(self.waitlist(lock), waiter, outcome, turn);
        }
    }

    /// The grant that a session has on a lock.
    fn grant_of(&self, lock: u32, session: u32) -> Option<u32> {
        let grants = &self.locks[lock].grants;
        if grants.len() > FEW_GRANTS {
            return self.crowded.get(&(session, lock)).copied();
        }
        grants.iter(&self.grants).find(|grant| self.grants[*grant].session == session)
    }

    /// Finds a lock. If something of it is due or unfinished, it happens here, as far as the steps go.
    fn settled_lock(
        &mut self,
        ledger: &mut Ledger,
        probe: &Probe,
        name: &[u8],
        turn: &mut Turn<'_>,
    ) -> Settled {
        let Some(lock) = self.locks.find_at(probe, name) else { return Settled::Free };
        let nothing = !ledger.is_overdue(turn.now) && !ledger.has_unfinished();
        // Below that level all that was due of it happened already.
        if nothing || ledger.level() < Level::BOUNDED {
            return Settled::Held(lock);
        }
        self.settle(ledger, lock, name, turn)
    }

    /// Takes from the lock the grants that are over, first to last up to one that is not: with that one it is held,
    /// whatever comes behind. Who is next is served.
    fn settle(
        &mut self,
        ledger: &mut Ledger,
        lock: u32,
        name: &[u8],
        turn: &mut Turn<'_>,
    ) -> Settled {
        loop {
            let row = &self.locks[lock];
            let first = row.grants.first().filter(|grant| self.is_grant_over(ledger, *grant));
            let gone = ledger.first_is_over(&row.waitlist, turn.now);
            if first.is_none() && !gone && row.waitlist.unserved() == 0 {
                return Settled::Held(lock);
            }
            if turn.steps == 0 {
                return Settled::Unfinished(lock);
            }
            if let Some(grant) = first {
                turn.step();
                self.drop_grant(ledger, grant);
            }
            self.advance(ledger, lock, turn);
            if self.locks.find(name) != Some(lock) {
                return Settled::Free;
            }
        }
    }

    fn is_grant_over(&self, ledger: &Ledger, grant: u32) -> bool {
        let now = ledger.clock();
        let grant = &self.grants[grant];
        grant.deadline <= now || ledger.is_session_over(grant.session, now)
    }

    /// Ends the session's own grant of a lock if its lease is due.
    fn end_own_lease(
        &mut self,
        ledger: &mut Ledger,
        name: &[u8],
        session: u32,
        turn: &mut Turn<'_>,
    ) {
        if ledger.level() < Level::BOUNDED || !ledger.is_overdue(turn.now) {
            return;
        }
        let grant = self.locks.find(name).and_then(|lock| self.grant_of(lock, session));
        if let Some(grant) = grant.filter(|grant| self.grants[*grant].deadline <= turn.now) {
            turn.step();
            self.lease_ended(ledger, grant, turn);
        }
    }

    // ---- What levels below `BOUNDED` do at once: see `machine/oldest.rs` ----

    /// The grants of a lock that are over, by fence.
    pub(super) fn due(&self, ledger: &Ledger, name: &[u8]) -> Vec<u64> {
        let Some(lock) = self.locks.find(name) else { return Vec::new() };
        let due = self.locks[lock].grants.iter(&self.grants);
        let due = due.filter(|grant| self.is_grant_over(ledger, *grant));
        due.map(|grant| self.grants[grant].fence).collect()
    }

    /// Ends a grant whose lease is over. If it is its session that is over, that one is named, and the caller ends it.
    pub(super) fn end_due(
        &mut self,
        ledger: &mut Ledger,
        name: &[u8],
        fence: u64,
        turn: &mut Turn<'_>,
    ) -> Option<u32> {
        let grants = self.locks[self.locks.find(name)?].grants;
        let grant = grants.iter(&self.grants).find(|grant| self.grants[*grant].fence == fence)?;
        if self.grants[grant].deadline > turn.now {
            return Some(self.grants[grant].session);
        }
        self.lease_ended(ledger, grant, turn);
        None
    }

    /// Serves who is next for a lock, if there is such a lock.
    pub(super) fn advance_named(&mut self, ledger: &mut Ledger, name: &[u8], turn: &mut Turn<'_>) {
        if let Some(lock) = self.locks.find(name) {
            self.advance(ledger, lock, turn);
        }
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

/// The ticket of who is next, if that one is admitted; else 0.
fn admitted(ledger: &Ledger, lock: &Lock) -> u64 {
    let next = ledger.first_ask(&lock.waitlist);
    next.filter(|(_, ask)| lock.admits(asked(*ask).0)).map_or(0, |(ticket, _)| ticket)
}

/// What a lock's waiter asks for: the mode, and the lease in milliseconds.
fn asked(ask: Ask) -> (LockMode, u32) {
    match ask {
        Ask::Lock { mode, lease_ms } => (mode, lease_ms),
        Ask::Pop { .. } => unreachable!("a lock's waiters ask for the lock"),
    }
}

// ---- The rules, each of which a bug may be planted in ----

/// Who holds a lock keeps others out; who shares it keeps those out who want it alone.
fn excludes(held: LockMode) -> bool {
    let unseen = mutant::on(Mutant::SharersUnseen) && held == LockMode::Shared;
    !unseen && !mutant::on(Mutant::LockAdmitsAll)
}

/// Nobody is granted a lock ahead of who waits for it.
fn is_next(waitlist: &Waitlist) -> bool {
    waitlist.is_empty() || mutant::on(Mutant::Barging)
}

/// Only the grant's own fence releases it.
fn proves(fence: u64, granted: u64) -> bool {
    fence == granted || mutant::on(Mutant::AnyFenceReleases)
}

/// Whether an acquire that is not admitted is refused at once.
fn is_try(wait_ms: u32) -> bool {
    wait_ms == 0 && !mutant::on(Mutant::TryWaits)
}

/// Whether who holds a lock has what is asked for again.
fn covers(held: LockMode, asked: LockMode) -> bool {
    held.covers(asked) || mutant::on(Mutant::SharedUpgrades)
}

/// How many acquires a grant stands for after a release: it is over when there are none.
fn after_release(count: u32) -> u32 {
    assert!(count > 0, "a grant stands for an acquire at least");
    match count {
        2.. if mutant::on(Mutant::ReleaseFreesAtOnce) => 0,
        2.. if mutant::on(Mutant::ReleaseNeverFrees) => count,
        _ => count - 1,
    }
}

/// Of two leases of one grant the longer counts.
fn longer_lease(anew: Elapsed, before: Elapsed) -> Elapsed {
    if mutant::on(Mutant::LockLeaseReplaced) { anew } else { anew.max(before) }
}

/// A lease lasts as long as it was asked to, and without one the grant lasts as long as the session.
fn lease_deadline(lease_ms: u32, now: Elapsed) -> Elapsed {
    if lease_ms == 0 || mutant::on(Mutant::LockLeaseForEver) {
        return Elapsed::MAX;
    }
    now + if mutant::on(Mutant::LockLeaseShort) { millis(lease_ms) / 2 } else { millis(lease_ms) }
}
