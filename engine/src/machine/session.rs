//! Sessions: who holds what, who waits for what, and which outcomes are remembered.
//!
//! # Invariants
//!
//! - A session ends only at `last renewal + 5/4 TTL` of the replicated clock or by a close. Only
//!   opening it and [`RENEW`](crate::entry::kind::RENEW) renew it: a call does not, since that would move a timer at
//!   each call. The leader hears every frame and renews at most every quarter TTL, so a session
//!   ends never before its TTL ran out without a sign of life, and at most half a TTL late.
//! - An ended id is remembered, first in first out, up to
//!   [`SESSIONS_ENDED_MAX`]; it is refused until it is forgotten.
//! - `owned` is what the session has in this shard, by number: grants by fence, waiters by ticket,
//!   messages in flight by id. A session's end gives all of it back, in that order, within one
//!   entry: it costs as much as the session has.
//! - The window holds at most [`WINDOW_REPLIES_MAX`] calls, those at or above `answered_below`. A call
//!   that its client says was answered while it still waits is cancelled: so a client gives up a
//!   wait.

use super::request::{Call, Mode};
use super::slab::{Linked, Links};
use super::table::{Row, Table};
use super::timers::Timer;
use super::{Applied, Machine, Outcome, Turn, Wake};
use crate::ids::SessionId;
use crate::limits::{SESSIONS_ENDED_MAX, SESSIONS_MAX};
use crate::mutant::{self, Mutant};
use crate::time::{Duration, Elapsed, millis};
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use wire::Code;
use wire::limits::WINDOW_REPLIES_MAX;

/// Every session, and the ids of those that ended last.
pub(super) struct Sessions {
    pub(super) table: Table<Session>,
    /// Ended ids, the first that ended first. Never more than [`SESSIONS_ENDED_MAX`].
    pub(super) ended: VecDeque<SessionId>,
    ended_set: BTreeSet<SessionId>,
}

/// A session.
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) number: u64,
    pub(super) ttl_ms: u32,
    pub(super) deadline: Elapsed,
    pub(super) window: Window,
    pub(super) owned: BTreeMap<u64, Owned>,
    /// How many of `owned` are waiters.
    pub(super) waits: u32,
}

/// Something that a session has, by slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Owned {
    Grant(u32),
    Waiter(u32),
    Message(u32),
}

/// A call that waits for a lock or a message.
pub(super) struct Waiter {
    /// Its number; its place in the line too.
    pub(super) ticket: u64,
    pub(super) session: u32,
    pub(super) sequence: u64,
    pub(super) deadline: Elapsed,
    pub(super) ask: Ask,
    pub(super) links: Links,
}

/// What a waiter waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ask {
    Lock { lock: u32, mode: Mode, lease_ms: u32 },
    Pop { queue: u32, visibility_ms: u32 },
}

impl Linked for Waiter {
    fn links(&self) -> &Links {
        &self.links
    }
    fn links_mut(&mut self) -> &mut Links {
        &mut self.links
    }
}

impl Row for Session {
    type Key = SessionId;
    fn key(&self) -> &SessionId {
        &self.id
    }
}

impl Sessions {
    pub(super) fn new(seed: u64) -> Sessions {
        Sessions { table: Table::new(seed), ended: VecDeque::new(), ended_set: BTreeSet::new() }
    }

    pub(super) fn remember_ended(&mut self, id: SessionId) {
        if !self.ended_set.insert(id) {
            return;
        }
        if self.ended.len() == SESSIONS_ENDED_MAX {
            let forgotten = self.ended.pop_front().expect("the limit is above zero");
            self.ended_set.remove(&forgotten);
        }
        self.ended.push_back(id);
        assert!(self.ended.len() == self.ended_set.len(), "an id is remembered once");
    }
}

// ---- The window ----

/// The outcomes that a session's client may ask for again.
#[derive(Default)]
pub(super) struct Window {
    pub(super) answered_below: u64,
    /// Calls at or above `answered_below`, by sequence.
    pub(super) calls: VecDeque<(u64, Remembered)>,
}

/// What is remembered of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Remembered {
    Outcome(Outcome),
    /// It waits; the waiter's slot.
    Waiting(u32),
}

impl Window {
    fn find(&self, sequence: u64) -> Result<usize, usize> {
        // Calls come mostly in order: look at the end first.
        match self.calls.back() {
            None => Err(0),
            Some((last, _)) if *last < sequence => Err(self.calls.len()),
            Some(_) => self.calls.binary_search_by_key(&sequence, |(s, _)| *s),
        }
    }

    /// What is remembered of a call.
    pub(super) fn get(&self, sequence: u64) -> Option<Remembered> {
        self.find(sequence).ok().map(|at| self.calls[at].1)
    }

    /// Remembers a call, anew or in place of what was.
    pub(super) fn set(&mut self, sequence: u64, what: Remembered) {
        assert!(sequence >= self.answered_below, "an answered call is not remembered");
        match self.find(sequence) {
            Ok(at) => self.calls[at].1 = what,
            Err(at) if at == self.calls.len() => self.calls.push_back((sequence, what)),
            Err(at) => self.calls.insert(at, (sequence, what)),
        }
        assert!(self.calls.len() as u64 <= WINDOW_REPLIES_MAX, "the window is bounded");
    }

    /// Takes the first call out that is below `answered_below`.
    fn take_answered(&mut self) -> Option<Remembered> {
        let (sequence, _) = self.calls.front()?;
        if *sequence >= self.answered_below {
            return None;
        }
        self.calls.pop_front().map(|(_, what)| what)
    }
}

/// A lock or a queue that somebody left: others may be next.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Left {
    Lock(u32),
    Queue(u32),
}

impl Left {
    fn by(ask: Ask) -> Left {
        match ask {
            Ask::Lock { lock, .. } => Left::Lock(lock),
            Ask::Pop { queue, .. } => Left::Queue(queue),
        }
    }
}

/// What came of an operation that may wait.
pub(super) enum Verdict {
    Now(Outcome),
    /// It waits; the waiter's slot.
    Later(u32),
}

impl Machine {
    /// Opens a session; again is a sign of life and nothing else.
    pub(super) fn open(&mut self, id: SessionId, ttl_ms: u32, turn: &mut Turn<'_>) -> Outcome {
        if self.sessions.table.find(&id).is_some() {
            return match self.renew(id, turn) {
                true => Outcome::Done { token: 0 },
                false => Outcome::Refused(Code::SessionUnknown),
            };
        }
        if self.sessions.ended_set.contains(&id) && !mutant::on(Mutant::EndedIsOpened) {
            return Outcome::Refused(Code::SessionUnknown);
        }
        if self.sessions.table.len() >= SESSIONS_MAX {
            return Outcome::Refused(Code::StateFull);
        }
        let number = self.issue();
        let deadline = turn.now + session_time(ttl_ms);
        let (window, owned) = (Window::default(), BTreeMap::new());
        let row = Session { id, number, ttl_ms, deadline, window, owned, waits: 0 };
        let slot = self.sessions.table.insert(row);
        self.timers.arm(deadline, number, Timer::SessionEnd(slot));
        Outcome::Done { token: 0 }
    }

    /// Ends a session. One that is not there has ended already.
    pub(super) fn close(&mut self, id: SessionId, turn: &mut Turn<'_>) -> Outcome {
        if let Some(slot) = self.sessions.table.find(&id) {
            self.end_session(slot, turn);
        }
        Outcome::Done { token: 0 }
    }

    /// Takes a sign of life; says whether the session lives.
    pub(super) fn renew(&mut self, id: SessionId, turn: &mut Turn<'_>) -> bool {
        let Some(slot) = self.live_session(id, turn) else {
            return false;
        };
        let session = &self.sessions.table[slot];
        let (before, number) = (session.deadline, session.number);
        let deadline = turn.now + session_time(session.ttl_ms);
        if deadline != before {
            self.keep_session(slot);
            self.sessions.table.row_mut(slot).deadline = deadline;
            self.timers.disarm_session(before, number);
            self.timers.arm(deadline, number, Timer::SessionEnd(slot));
        }
        true
    }

    /// The slot of a session that lives. One whose end is due but has not fired ends here.
    fn live_session(&mut self, id: SessionId, turn: &mut Turn<'_>) -> Option<u32> {
        let slot = self.sessions.table.find(&id)?;
        if self.sessions.table[slot].deadline <= turn.now {
            self.expire_session(slot, turn);
            return None;
        }
        Some(slot)
    }

    /// Does a call exactly once: `op` runs unless the call is remembered.
    pub(super) fn call(
        &mut self,
        call: Call,
        turn: &mut Turn<'_>,
        op: impl FnOnce(&mut Machine, u32, &mut Turn<'_>) -> Verdict,
    ) -> Applied {
        let Some(slot) = self.live_session(call.session, turn) else {
            return Applied::Done(Outcome::Refused(Code::SessionUnknown));
        };
        self.keep_session(slot);
        self.forget_answered(slot, call.answered_below, turn);
        let window = &self.sessions.table[slot].window;
        if call.sequence < window.answered_below {
            return Applied::Done(Outcome::Refused(Code::SequenceStale));
        }
        if mutant::on(Mutant::ReplyOfAnother)
            && let Some((_, Remembered::Outcome(outcome))) = window.calls.back()
        {
            return Applied::Done(*outcome);
        }
        match window.get(call.sequence) {
            Some(Remembered::Outcome(_)) if mutant::on(Mutant::DedupOff) => {}
            Some(Remembered::Outcome(outcome)) => return Applied::Done(outcome),
            Some(Remembered::Waiting(_)) => return Applied::Waiting,
            None => {}
        }
        match op(self, slot, turn) {
            Verdict::Now(outcome) => {
                let window = &mut self.sessions.table.row_mut(slot).window;
                window.set(call.sequence, Remembered::Outcome(outcome));
                Applied::Done(outcome)
            }
            Verdict::Later(waiter) => {
                let window = &mut self.sessions.table.row_mut(slot).window;
                window.set(call.sequence, Remembered::Waiting(waiter));
                Applied::Waiting
            }
        }
    }

    /// Moves the window on. A call that still waits below it is cancelled.
    fn forget_answered(&mut self, slot: u32, answered_below: u64, turn: &mut Turn<'_>) {
        if answered_below <= self.sessions.table[slot].window.answered_below {
            return;
        }
        let window = &mut self.sessions.table.row_mut(slot).window;
        window.answered_below = answered_below;
        if mutant::on(Mutant::ReplyOfAnother) {
            window.answered_below -= 1;
        }
        let mut left = Vec::new();
        while let Some(what) = self.sessions.table.row_mut(slot).window.take_answered() {
            if let Remembered::Waiting(waiter) = what {
                if mutant::on(Mutant::CancelLeavesWaiter) {
                    continue;
                }
                left.push(Left::by(self.waiters[waiter].ask));
                self.end_wait(waiter, Outcome::Refused(Code::SequenceStale), turn);
            }
        }
        self.advance(&left, turn);
    }

    /// Ends a session whose time ran out.
    pub(super) fn expire_session(&mut self, slot: u32, turn: &mut Turn<'_>) {
        assert!(self.sessions.table[slot].deadline <= turn.now, "a session never ends early");
        if mutant::on(Mutant::WaitersKeepSession) && self.sessions.table[slot].waits > 0 {
            let (number, later) = (self.sessions.table[slot].number, turn.now + millis(100));
            self.sessions.table.row_mut(slot).deadline = later;
            self.timers.arm(later, number, Timer::SessionEnd(slot));
            return;
        }
        self.counts.sessions_expired += 1;
        self.end_session(slot, turn);
    }

    /// Ends a session: its waiters leave, its locks are released, its messages return to their
    /// queues; only then are the next in line served, so that none of them is its own.
    fn end_session(&mut self, slot: u32, turn: &mut Turn<'_>) {
        self.keep_session(slot);
        let owned: Vec<Owned> = self.sessions.table[slot].owned.values().copied().collect();
        let mut left = Vec::with_capacity(owned.len());
        let outlive = mutant::on(Mutant::GrantsOutliveSession);
        for thing in owned {
            if outlive && matches!(thing, Owned::Grant(_)) {
                continue;
            }
            left.push(match thing {
                Owned::Waiter(waiter) => {
                    let ask = self.waiters[waiter].ask;
                    self.end_wait(waiter, Outcome::Refused(Code::SessionUnknown), turn);
                    Left::by(ask)
                }
                Owned::Grant(grant) => Left::Lock(self.drop_grant(grant)),
                Owned::Message(message) => Left::Queue(self.make_ready(message)),
            });
        }
        let session = self.sessions.table.remove(slot);
        assert!(session.owned.is_empty() || outlive, "an ended session has nothing");
        assert!(session.waits == 0, "an ended session waits for nothing");
        self.timers.disarm_session(session.deadline, session.number);
        self.sessions.remember_ended(session.id);
        self.advance(&left, turn);
    }

    /// Ends every session, the oldest first. Who waits leaves before anything becomes free, so that nobody is served
    /// on his way out: no message is delivered once more.
    pub(super) fn end_sessions(&mut self, turn: &mut Turn<'_>) {
        let (mut sessions, mut waiters) = (Vec::new(), Vec::new());
        self.sessions.table.each(|slot, session| {
            sessions.push((session.number, slot));
            waiters.extend(session.owned.iter().filter_map(|(ticket, owned)| match owned {
                Owned::Waiter(waiter) => Some((*ticket, *waiter)),
                Owned::Grant(_) | Owned::Message(_) => None,
            }));
        });
        sessions.sort_unstable();
        waiters.sort_unstable();
        let mut left = Vec::with_capacity(waiters.len());
        for (_, waiter) in waiters {
            left.push(Left::by(self.waiters[waiter].ask));
            self.end_wait(waiter, Outcome::Refused(Code::SessionUnknown), turn);
        }
        self.advance(&left, turn);
        for (_, session) in sessions {
            self.end_session(session, turn);
        }
    }

    /// Serves who is next in all that was left, each once, in the order given. An advance may forget
    /// what it advances, but nothing else: so what is left stays there until its turn.
    fn advance(&mut self, left: &[Left], turn: &mut Turn<'_>) {
        let mut seen = BTreeSet::new();
        for place in left.iter().filter(|place| seen.insert(**place)) {
            match *place {
                Left::Lock(lock) => self.advance_lock(lock, turn),
                Left::Queue(queue) => self.advance_queue(queue, turn),
            }
        }
    }

    /// Puts a call in line.
    pub(super) fn start_wait(
        &mut self,
        session: u32,
        sequence: u64,
        deadline: Elapsed,
        ask: Ask,
    ) -> u32 {
        let ticket = self.issue();
        let deadline = match () {
            () if mutant::on(Mutant::WaitForEver) => Elapsed::MAX,
            () if mutant::on(Mutant::WaitShort) => {
                Elapsed(self.clock.0 + (deadline.0 - self.clock.0) / 2)
            }
            () => deadline,
        };
        let links = Links::NONE;
        let slot = self.waiters.insert(Waiter { ticket, session, sequence, deadline, ask, links });
        self.link_waiter(slot);
        slot
    }

    /// Ties a waiter to its line, its session and its timer.
    pub(super) fn link_waiter(&mut self, slot: u32) {
        let Waiter { ticket, session, deadline, ask, .. } = self.waiters[slot];
        let timer = match ask {
            Ask::Lock { lock, .. } => {
                self.counts.lock_waiters += 1;
                self.locks.rows_mut()[lock].waiters.push(&mut self.waiters, slot);
                Timer::LockWait(slot)
            }
            Ask::Pop { queue, .. } => {
                self.queues.rows_mut()[queue].waiters.push(&mut self.waiters, slot);
                Timer::PopWait(slot)
            }
        };
        self.timers.arm(deadline, ticket, timer);
        let session = &mut self.sessions.table.rows_mut()[session];
        session.owned.insert(ticket, Owned::Waiter(slot));
        session.waits += 1;
    }

    /// Ends a wait with its outcome: somebody is told. What it waited for is not looked at.
    pub(super) fn end_wait(&mut self, slot: u32, outcome: Outcome, turn: &mut Turn<'_>) {
        self.keep_session(self.waiters[slot].session);
        match self.waiters[slot].ask {
            Ask::Lock { lock, .. } => {
                self.counts.lock_waiters -= 1;
                self.locks.rows_mut()[lock].waiters.unlink(&mut self.waiters, slot);
            }
            Ask::Pop { queue, .. } => {
                self.queues.rows_mut()[queue].waiters.unlink(&mut self.waiters, slot);
            }
        }
        let waiter = self.waiters.remove(slot);
        self.timers.disarm(waiter.deadline, waiter.ticket);
        let session = self.sessions.table.row_mut(waiter.session);
        let owned = session.owned.remove(&waiter.ticket);
        assert!(owned == Some(Owned::Waiter(slot)), "a session knows its waiters");
        session.waits -= 1;
        // A cancelled call is out of the window already.
        if waiter.sequence >= session.window.answered_below {
            session.window.set(waiter.sequence, Remembered::Outcome(outcome));
        }
        turn.wakes.push(Wake { session: session.id, sequence: waiter.sequence, outcome });
    }

    /// A wait ended without being served: whoever stood behind it may be next.
    pub(super) fn after_wait(&mut self, ask: Ask, turn: &mut Turn<'_>) {
        self.advance(&[Left::by(ask)], turn);
    }

    /// Why the waiter may not be served any more, although its timer has not fired.
    pub(super) fn wait_is_over(&self, slot: u32, timeout: Code, now: Elapsed) -> Option<Code> {
        let waiter = &self.waiters[slot];
        if self.sessions.table[waiter.session].deadline <= now {
            return Some(Code::SessionUnknown);
        }
        (waiter.deadline <= now).then_some(timeout)
    }
}

/// How long a session lives after a renewal: its TTL, and the quarter by which renewals may lag.
fn session_time(ttl_ms: u32) -> Duration {
    let late = if mutant::on(Mutant::SessionLate) { millis(ttl_ms) } else { Duration::ZERO };
    millis(ttl_ms) + millis(ttl_ms) / 4 + late
}
