//! Sessions: who holds what, who waits for what, and which outcomes are remembered.
//!
//! # Invariants
//!
//! - A session ends only at `last renewal + 5/4 TTL` of the replicated clock or by a close. Only
//!   opening it and [`RENEW`](crate::entry::kind::RENEW) renew it: a call does not, since that would move a timer at
//!   each call. The leader hears every frame and renews at most every quarter TTL, so a session
//!   ends never before its TTL ran out without a sign of life, and at most half a TTL late.
//! - An ended id is refused for [`SESSION_ENDED_MS`] from its end: its row stays so long. None is forgotten earlier:
//!   with [`SESSIONS_REMEMBERED_MAX`] rows no session is opened. (Below [`Level::BOUNDED`] the last
//!   [`SESSIONS_ENDED_MAX`] are remembered, first in first out.)
//! - `owned` is what the session has in this shard, by number: grants by fence, waiters by ticket,
//!   messages in flight by id. A session's end ends its waits, of which a window bounds the number, and gives back the
//!   rest in that order, over as many entries as it takes (`unfinished.rs`; below that level within one).
//! - The window holds at most [`WINDOW_REPLIES_MAX`] calls, those at or above `answered_below`. A call
//!   that its client says was answered while it still waits is cancelled: so a client gives up a
//!   wait.

use super::slab::{Linked, Links, NIL};
use super::table::{Row, Table};
use super::timers::Timer;
use super::unfinished::Unfinished;
use super::{Applied, Machine, Outcome, Turn, Wake};
use crate::ids::SessionId;
use crate::level::Level;
use crate::limits::{SESSIONS_ENDED_MAX, SESSIONS_MAX, SESSIONS_REMEMBERED_MAX};
use crate::mutant::{self, Mutant};
use crate::secret::Secret;
use crate::time::{Duration, Elapsed, millis};
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use wire::limits::{SESSION_ENDED_MS, WINDOW_REPLIES_MAX};
use wire::message::LockMode;
use wire::{Call, Code};

/// Every session, and the ids of those that ended last.
pub(super) struct Sessions {
    /// Those that live, and those that ended and are remembered.
    pub(super) table: Table<Session>,
    /// How many of them ended.
    pub(super) over: usize,
    /// Who made the last call: often the next one is of the same session. A slot, which decides nothing.
    last: u32,
    /// Ended ids, the first that ended first. Never more than [`SESSIONS_ENDED_MAX`]; none from [`Level::BOUNDED`] on.
    pub(super) ended: VecDeque<SessionId>,
    ended_set: BTreeSet<SessionId>,
}

/// A session.
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) number: u64,
    pub(super) ttl_ms: u32,
    pub(super) standing: Standing,
    /// When it ends; when it is forgotten, if it has ended.
    pub(super) deadline: Elapsed,
    pub(super) window: Window,
    pub(super) owned: BTreeMap<u64, Owned>,
    /// How many of `owned` are waiters.
    pub(super) waits: u32,
}

/// Whether a session lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    Lives = 0,
    /// What it still has is as good as given back.
    Ended = 1,
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
    Lock { lock: u32, mode: LockMode, lease_ms: u32 },
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

impl Session {
    /// One that has nothing yet.
    pub(super) fn new(id: SessionId, number: u64, ttl_ms: u32, deadline: Elapsed) -> Session {
        let (standing, window, waits) = (Standing::Lives, Window::default(), 0);
        let owned = BTreeMap::new();
        Session { id, number, ttl_ms, standing, deadline, window, owned, waits }
    }

    /// Whether it has ended, or its end is due.
    pub(super) fn is_over(&self, now: Elapsed) -> bool {
        self.standing == Standing::Ended || self.deadline <= now
    }
}

impl Sessions {
    pub(super) fn new(secret: Secret) -> Sessions {
        let table = Table::new(secret);
        Sessions { table, over: 0, last: NIL, ended: VecDeque::new(), ended_set: BTreeSet::new() }
    }

    /// Whether this session, which has not ended, made the last call.
    fn is_last(&self, id: SessionId) -> bool {
        let last = self.table.get(self.last);
        last.is_some_and(|session| session.id == id && session.standing == Standing::Lives)
    }

    /// How many live.
    pub(super) fn living(&self) -> usize {
        self.table.len() - self.over
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
    /// Nothing was done: what it touches is unfinished. It is not remembered, and may come again.
    NotYet,
    /// It waits; the waiter's slot.
    Later(u32),
}

impl Machine {
    /// Opens a session; again is a sign of life and nothing else.
    pub(super) fn open(&mut self, id: SessionId, ttl_ms: u32, turn: &mut Turn<'_>) -> Outcome {
        if let Some(slot) = self.sessions.table.find(&id)
            && !(mutant::on(Mutant::EndedIsOpened) && self.forgets(slot))
        {
            return match self.renew(id, turn) {
                true => Outcome::Done { token: 0 },
                false => Outcome::Refused(Code::SessionUnknown),
            };
        }
        if self.sessions.ended_set.contains(&id) && !mutant::on(Mutant::EndedIsOpened) {
            return Outcome::Refused(Code::SessionUnknown);
        }
        if self.sessions.living() >= SESSIONS_MAX {
            return Outcome::Refused(Code::StateFull);
        }
        if self.sessions.table.len() >= SESSIONS_REMEMBERED_MAX {
            return Outcome::Refused(Code::Busy);
        }
        let number = self.issue();
        let deadline = turn.now + session_time(ttl_ms);
        let slot = self.sessions.table.insert(Session::new(id, number, ttl_ms, deadline));
        self.timers.arm(deadline, number, Timer::SessionEnd(slot));
        Outcome::Done { token: 0 }
    }

    /// Ends a session. One that is not there has ended already.
    pub(super) fn close(&mut self, id: SessionId, turn: &mut Turn<'_>) -> Outcome {
        if let Some(slot) = self.open_session(id) {
            self.end_session(slot, turn);
        }
        Outcome::Done { token: 0 }
    }

    /// The slot of a session that has not ended, although its end may be due.
    pub(super) fn open_session(&self, id: SessionId) -> Option<u32> {
        let slot = self.sessions.table.find(&id)?;
        (self.sessions.table[slot].standing == Standing::Lives).then_some(slot)
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
        let slot = match self.sessions.is_last(id) {
            true => self.sessions.last,
            false => self.open_session(id)?,
        };
        self.sessions.last = slot;
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
        let Some(slot) = self.live_session(SessionId(call.session), turn) else {
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
            Verdict::NotYet => Applied::Done(Outcome::Refused(Code::Busy)),
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

    /// Ends a session: its waiters leave, and what it has is given back over the entries that it takes. Its row stays,
    /// so that its id is refused.
    fn end_session(&mut self, slot: u32, turn: &mut Turn<'_>) {
        if self.level < Level::BOUNDED {
            return self.end_session_at_once(slot, turn);
        }
        self.keep_session(slot);
        let mut left = Vec::new();
        for waiter in self.waits_of(slot) {
            left.push(Left::by(self.waiters[waiter].ask));
            self.end_wait(waiter, Outcome::Refused(Code::SessionUnknown), turn);
        }
        let session = self.sessions.table.row_mut(slot);
        assert!(session.waits == 0, "an ended session waits for nothing");
        let (before, number, deadline) = (session.deadline, session.number, remembered(turn.now));
        session.standing = Standing::Ended;
        session.deadline = deadline;
        session.window = Window::default();
        self.sessions.over += 1;
        self.timers.disarm_session(before, number);
        self.timers.arm(deadline, number, Timer::SessionForget(slot));
        self.note_ended(slot);
        self.advance(&left, turn);
        self.give_back(slot, turn);
    }

    /// The calls of a session that wait, by ticket.
    pub(super) fn waits_of(&self, slot: u32) -> Vec<u32> {
        let session = &self.sessions.table[slot];
        if session.waits == 0 {
            return Vec::new();
        }
        let waits = session.window.calls.iter().filter_map(|(_, what)| match what {
            Remembered::Waiting(waiter) => Some(*waiter),
            Remembered::Outcome(_) => None,
        });
        let mut waits: Vec<u32> = waits.collect();
        waits.sort_unstable_by_key(|waiter| self.waiters[*waiter].ticket);
        waits
    }

    /// Gives back what an ended session has, as far as half of the steps go; with the others who is next is served.
    /// So of several messages that come back together the first by priority is served first.
    pub(super) fn give_back(&mut self, slot: u32, turn: &mut Turn<'_>) {
        let outlive = mutant::on(Mutant::GrantsOutliveSession);
        let (others, mut left) = (turn.steps / 2, Vec::new());
        while turn.steps > others {
            let first = self.sessions.table[slot].owned.first_key_value();
            let Some((number, thing)) = first.map(|(number, thing)| (*number, *thing)) else {
                break;
            };
            turn.step();
            match thing {
                Owned::Waiter(_) => unreachable!("an ended session waits for nothing"),
                Owned::Grant(_) if outlive => {
                    self.sessions.table.rows_mut()[slot].owned.remove(&number);
                }
                Owned::Grant(grant) => left.push(Left::Lock(self.drop_grant(grant))),
                Owned::Message(message) => left.push(Left::Queue(self.make_ready(message))),
            }
        }
        self.note_ended(slot);
        self.advance(&left, turn);
    }

    /// Notes whether an ended session still has something.
    pub(super) fn note_ended(&mut self, slot: u32) {
        let session = &self.sessions.table[slot];
        assert!(session.standing == Standing::Ended, "only an ended one gives everything back");
        let (number, has) = (session.number, !session.owned.is_empty());
        let before = if self.unfinished.contains_key(&number) { number } else { 0 };
        self.note_unfinished(before, if has { number } else { 0 }, Unfinished::Session(slot));
    }

    /// An ended session was remembered long enough. One that still has something, by some chance, is kept on.
    pub(super) fn forget_session(&mut self, slot: u32, turn: &Turn<'_>) {
        let session = &self.sessions.table[slot];
        assert!(session.deadline <= turn.now, "an ended session is never forgotten early");
        let number = session.number;
        self.keep_session(slot);
        if self.sessions.table[slot].owned.is_empty() {
            self.sessions.table.remove(slot);
            self.sessions.over -= 1;
        } else {
            let deadline = remembered(turn.now);
            self.sessions.table.row_mut(slot).deadline = deadline;
            self.timers.arm(deadline, number, Timer::SessionForget(slot));
        }
    }

    /// Forgets an ended session at once, which is a bug. False: it can't.
    fn forgets(&mut self, slot: u32) -> bool {
        let session = &self.sessions.table[slot];
        let forgets = session.standing == Standing::Ended && session.owned.is_empty();
        if forgets {
            let (deadline, number) = (session.deadline, session.number);
            self.keep_session(slot);
            self.timers.disarm(deadline, number);
            self.sessions.table.remove(slot);
            self.sessions.over -= 1;
        }
        forgets
    }

    /// The ended ids that were remembered by their number are remembered by time from now on.
    pub(super) fn remember_by_time(&mut self) {
        self.sessions.ended_set.clear();
        for id in core::mem::take(&mut self.sessions.ended) {
            let (number, deadline) = (self.issue(), remembered(self.clock));
            let ended = Standing::Ended;
            let row = Session { standing: ended, ..Session::new(id, number, 0, deadline) };
            let slot = self.sessions.table.insert(row);
            self.sessions.over += 1;
            self.timers.arm(deadline, number, Timer::SessionForget(slot));
        }
    }

    /// Ends a session: its waiters leave, its locks are released, its messages return to their
    /// queues; only then are the next in line served, so that none of them is its own.
    fn end_session_at_once(&mut self, slot: u32, turn: &mut Turn<'_>) {
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
        self.go_on_unfinished(turn);
        for (slot, session) in self.sessions.table.iter() {
            if session.standing == Standing::Lives {
                sessions.push((session.number, slot));
            }
            waiters.extend(session.owned.iter().filter_map(|(ticket, owned)| match owned {
                Owned::Waiter(waiter) => Some((*ticket, *waiter)),
                Owned::Grant(_) | Owned::Message(_) => None,
            }));
        }
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
        turn.step();
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
        if self.sessions.table[waiter.session].is_over(now) {
            return Some(Code::SessionUnknown);
        }
        (waiter.deadline <= now).then_some(timeout)
    }
}

/// Until when a session that ends now is remembered.
fn remembered(now: Elapsed) -> Elapsed {
    now + millis(SESSION_ENDED_MS)
}

/// How long a session lives after a renewal: its TTL, and the quarter by which renewals may lag.
fn session_time(ttl_ms: u32) -> Duration {
    let late = if mutant::on(Mutant::SessionLate) { millis(ttl_ms) } else { Duration::ZERO };
    millis(ttl_ms) + millis(ttl_ms) / 4 + late
}
