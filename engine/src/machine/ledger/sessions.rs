//! The rows of sessions: what each has, what is remembered of its calls, when it ends.
//!
//! What a session's call and its end bring about in the services is told in `machine/sessions.rs`.

use super::window::{Remembered, Window};
use super::{Ledger, Timer, Unfinished};
use crate::ids::SessionId;
use crate::level::Level;
use crate::limits::{SESSIONS_ENDED_MAX, SESSIONS_MAX, SESSIONS_REMEMBERED_MAX};
use crate::machine::Outcome;
use crate::machine::slab::NIL;
use crate::machine::table::{Row, Table};
use crate::mutant::{self, Mutant};
use crate::secret::Secret;
use crate::time::{Duration, Elapsed, millis};
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use wire::Code;
use wire::limits::SESSION_ENDED_MS;

/// Every session, and the ids of those that ended last.
pub(super) struct Sessions {
    /// Those that live, and those that ended and are remembered.
    pub(super) table: Table<Session>,
    /// How many of them ended.
    pub(super) over: usize,
    /// How many ended without being closed, since the start: no state.
    expired: u64,
    /// Who made the last call: often the next one is of the same session. A slot, which decides nothing.
    last: u32,
    /// Ended ids, the first that ended first. Never more than [`SESSIONS_ENDED_MAX`]; none from [`Level::BOUNDED`] on.
    pub(super) ended: VecDeque<SessionId>,
    ended_set: BTreeSet<SessionId>,
    /// The level at which the snapshot that is being made was begun.
    pub(super) walk_level: Level,
}

/// A session.
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) number: u64,
    pub(super) ttl_ms: u32,
    pub(super) state: SessionState,
    /// When it ends; when it is forgotten, if it has ended.
    pub(super) deadline: Elapsed,
    pub(super) window: Window,
    pub(super) owned: BTreeMap<u64, Owned>,
    /// How many of `owned` are waiters.
    pub(super) waits: u32,
}

/// Whether a session lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::machine) enum SessionState {
    Lives = 0,
    /// What it still has is as good as given back.
    Ended = 1,
}

/// Something that a session has, by slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::machine) enum Owned {
    Grant(u32),
    Waiter(u32),
    Message(u32),
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
        let (state, window, waits) = (SessionState::Lives, Window::default(), 0);
        let owned = BTreeMap::new();
        Session { id, number, ttl_ms, state, deadline, window, owned, waits }
    }

    /// Whether it has ended, or its end is due.
    #[inline]
    pub(super) fn is_over(&self, now: Elapsed) -> bool {
        self.state == SessionState::Ended || self.deadline <= now
    }
}

impl Sessions {
    pub(super) fn new(secret: Secret) -> Sessions {
        Sessions {
            table: Table::new(secret),
            over: 0,
            expired: 0,
            last: NIL,
            ended: VecDeque::new(),
            ended_set: BTreeSet::new(),
            walk_level: Level::OLDEST,
        }
    }

    /// Whether this session, which has not ended, made the last call.
    fn is_last(&self, id: SessionId) -> bool {
        let last = self.table.get(self.last);
        last.is_some_and(|session| session.id == id && session.state == SessionState::Lives)
    }

    /// How many live.
    fn living(&self) -> usize {
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

// ---- What services ask, and what they give to sessions and take from them ----

impl Ledger {
    /// A session's id.
    pub(in crate::machine) fn session_id(&self, slot: u32) -> SessionId {
        self.sessions.table[slot].id
    }

    /// Whether a session has ended, or its end is due.
    #[inline]
    pub(in crate::machine) fn is_session_over(&self, slot: u32, now: Elapsed) -> bool {
        self.sessions.table[slot].is_over(now)
    }

    /// Whether a session waits for something.
    #[inline]
    pub(in crate::machine) fn session_waits(&self, slot: u32) -> bool {
        self.sessions.table[slot].waits > 0
    }

    /// A session has thing `number` from now on.
    #[inline]
    pub(in crate::machine) fn own(&mut self, session: u32, number: u64, thing: Owned) {
        self.sessions.table.rows_mut()[session].owned.insert(number, thing);
    }

    /// A session does not have thing `number` any more.
    #[inline]
    pub(in crate::machine) fn disown(&mut self, session: u32, number: u64, thing: Owned) {
        let owned = self.sessions.table.rows_mut()[session].owned.remove(&number);
        assert!(owned == Some(thing), "a session knows what it has");
    }

    /// All that a session has, in the order of the numbers.
    pub(in crate::machine) fn all_owned(&self, session: u32) -> Vec<Owned> {
        self.sessions.table[session].owned.values().copied().collect()
    }

    /// The first thing that a session has, with its number.
    pub(in crate::machine) fn first_owned(&self, session: u32) -> Option<(u64, Owned)> {
        let first = self.sessions.table[session].owned.first_key_value();
        first.map(|(number, thing)| (*number, *thing))
    }
}

// ---- Their lives ----

impl Ledger {
    /// How many sessions live.
    pub(in crate::machine) fn living(&self) -> usize {
        self.sessions.living()
    }

    /// How many ended without being closed, since the start.
    pub(in crate::machine) fn expired(&self) -> u64 {
        self.sessions.expired
    }

    /// The sessions that live: numbers with slots, the oldest first.
    pub(in crate::machine) fn all_living(&self) -> Vec<(u64, u32)> {
        let rows = self.sessions.table.iter();
        let living = rows.filter(|(_, session)| session.state == SessionState::Lives);
        let mut living: Vec<_> = living.map(|(slot, session)| (session.number, slot)).collect();
        living.sort_unstable();
        living
    }

    /// The slot of a session that has not ended, although its end may be due.
    pub(in crate::machine) fn find_session(&self, id: SessionId) -> Option<u32> {
        let slot = self.sessions.table.find(&id)?;
        (self.sessions.table[slot].state == SessionState::Lives).then_some(slot)
    }

    /// The same, of who calls.
    #[inline]
    pub(in crate::machine) fn find_caller(&mut self, id: SessionId) -> Option<u32> {
        let slot = match self.sessions.is_last(id) {
            true => self.sessions.last,
            false => self.find_session(id)?,
        };
        self.sessions.last = slot;
        Some(slot)
    }

    /// Whether there is a row of this id: of a session that lives, or of one that ended.
    pub(in crate::machine) fn remembers(&mut self, id: SessionId) -> bool {
        let Some(slot) = self.sessions.table.find(&id) else { return false };
        refuses_ended() || !self.forgets(slot)
    }

    /// When a session ends; when it is forgotten, if it has ended.
    #[inline]
    pub(in crate::machine) fn session_deadline(&self, slot: u32) -> Elapsed {
        self.sessions.table[slot].deadline
    }

    /// A session's time to live.
    pub(in crate::machine) fn session_ttl(&self, slot: u32) -> Duration {
        millis(self.sessions.table[slot].ttl_ms)
    }

    /// Opens a session of whose id there is no row.
    pub(in crate::machine) fn open(&mut self, id: SessionId, ttl_ms: u32) -> Outcome {
        if self.sessions.ended_set.contains(&id) && refuses_ended() {
            return Outcome::refused(Code::SessionUnknown);
        }
        if self.sessions.living() >= SESSIONS_MAX {
            return Outcome::refused(Code::StateFull);
        }
        if self.sessions.table.len() >= SESSIONS_REMEMBERED_MAX {
            return Outcome::refused(Code::Busy);
        }
        let number = self.issue();
        let deadline = self.clock + session_time(ttl_ms);
        let slot = self.sessions.table.insert(Session::new(id, number, ttl_ms, deadline));
        self.timers.arm(deadline, number, Timer::SessionEnd(slot));
        Outcome::Done { token: 0 }
    }

    /// A session that lives gave a sign of life.
    pub(in crate::machine) fn renew(&mut self, slot: u32) {
        let session = &self.sessions.table[slot];
        let (before, number) = (session.deadline, session.number);
        let deadline = self.clock + session_time(session.ttl_ms);
        if deadline != before {
            self.keep_session(slot);
            self.sessions.table.row_mut(slot).deadline = deadline;
            self.timers.disarm_session(before, number);
            self.timers.arm(deadline, number, Timer::SessionEnd(slot));
        }
    }

    /// A session's time ran out, and its timer fired. False: it lives on, which is a bug.
    pub(in crate::machine) fn expire(&mut self, slot: u32) -> bool {
        assert!(self.sessions.table[slot].deadline <= self.clock, "a session never ends early");
        if !self.ends_by_time(slot) {
            self.live_on(slot);
            return false;
        }
        self.sessions.expired += 1;
        true
    }

    /// A session ends by its time, whatever it waits for.
    fn ends_by_time(&self, slot: u32) -> bool {
        !(mutant::on(Mutant::WaitersKeepSession) && self.session_waits(slot))
    }

    /// A session that should end lives a little longer, which is a bug.
    fn live_on(&mut self, slot: u32) {
        let (number, later) = (self.sessions.table[slot].number, self.clock + millis(100));
        self.sessions.table.row_mut(slot).deadline = later;
        self.timers.arm(later, number, Timer::SessionEnd(slot));
    }

    /// Ends a session that waits for nothing. What it has is given back over the entries that it takes. Its row stays,
    /// so that its id is refused.
    pub(in crate::machine) fn end_session(&mut self, slot: u32) {
        let until = remembered(self.clock);
        let session = self.sessions.table.row_mut(slot);
        assert!(session.waits == 0, "an ended session waits for nothing");
        let (before, number) = (session.deadline, session.number);
        session.state = SessionState::Ended;
        session.deadline = until;
        session.window = Window::default();
        self.sessions.over += 1;
        self.timers.disarm_session(before, number);
        self.timers.arm(until, number, Timer::SessionForget(slot));
        self.note_ended(slot);
    }

    /// Removes a session that has nothing, and remembers its id by its number: as below [`Level::BOUNDED`].
    pub(in crate::machine) fn remove_session(&mut self, slot: u32) {
        let session = self.sessions.table.remove(slot);
        assert!(session.owned.is_empty() || !gives_grants_back(), "an ended session has nothing");
        assert!(session.waits == 0, "an ended session waits for nothing");
        self.timers.disarm_session(session.deadline, session.number);
        self.sessions.remember_ended(session.id);
    }

    /// Notes whether an ended session still has something.
    pub(in crate::machine) fn note_ended(&mut self, slot: u32) {
        let session = &self.sessions.table[slot];
        assert!(session.state == SessionState::Ended, "only an ended one gives everything back");
        let (number, has) = (session.number, !session.owned.is_empty());
        let before = if self.unfinished.contains_key(&number) { number } else { 0 };
        self.note_unfinished(before, if has { number } else { 0 }, Unfinished::Session(slot));
    }

    /// A session has something: it is unfinished if it ended.
    pub(in crate::machine) fn note_if_ended(&mut self, slot: u32) {
        if self.sessions.table[slot].state == SessionState::Ended {
            self.note_ended(slot);
        }
    }

    /// An ended session was remembered long enough. One that still has something, by some chance, is kept on.
    pub(in crate::machine) fn forget_session(&mut self, slot: u32) {
        let session = &self.sessions.table[slot];
        assert!(session.deadline <= self.clock, "an ended session is never forgotten early");
        let number = session.number;
        self.keep_session(slot);
        if self.sessions.table[slot].owned.is_empty() {
            self.sessions.table.remove(slot);
            self.sessions.over -= 1;
        } else {
            let deadline = remembered(self.clock);
            self.sessions.table.row_mut(slot).deadline = deadline;
            self.timers.arm(deadline, number, Timer::SessionForget(slot));
        }
    }

    /// Forgets an ended session at once, which is a bug. False: it can't.
    fn forgets(&mut self, slot: u32) -> bool {
        let session = &self.sessions.table[slot];
        let forgets = session.state == SessionState::Ended && session.owned.is_empty();
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
            let ended = SessionState::Ended;
            let row = Session { state: ended, ..Session::new(id, number, 0, deadline) };
            let slot = self.sessions.table.insert(row);
            self.sessions.over += 1;
            self.timers.arm(deadline, number, Timer::SessionForget(slot));
        }
    }
}

// ---- Their calls ----

/// What the ledger knows of a call.
pub(in crate::machine) enum Recalled {
    /// Nothing: it is to be done.
    New,
    /// Its client said that it was answered.
    Stale,
    /// It was done, with this outcome.
    Done(Outcome),
    /// It waits.
    Waits,
}

impl Ledger {
    /// Says that a session's calls below `below` were answered. Whoever says so takes out of the window by
    /// [`Ledger::take_answered`] what is below. False: it is no news.
    #[inline]
    pub(in crate::machine) fn on_answered(&mut self, slot: u32, below: u64) -> bool {
        if below <= self.sessions.table[slot].window.answered_below {
            return false;
        }
        let window = &mut self.sessions.table.row_mut(slot).window;
        window.answered_below = forgotten_below(below);
        true
    }

    /// Takes out of a session's window what was answered, up to a call that waits: that one is cancelled.
    #[inline]
    pub(in crate::machine) fn take_answered(&mut self, slot: u32) -> Option<u32> {
        let window = &mut self.sessions.table.row_mut(slot).window;
        while let Some(what) = window.take_answered() {
            if let Remembered::Waiting(waiter) = what
                && cancels_waits()
            {
                return Some(waiter);
            }
        }
        None
    }

    /// What is known of a session's call.
    #[inline]
    pub(in crate::machine) fn recall(&self, slot: u32, sequence: u64) -> Recalled {
        let window = &self.sessions.table[slot].window;
        if sequence < window.answered_below {
            return Recalled::Stale;
        }
        match window.get(own_call(window, sequence)) {
            Some(Remembered::Outcome(_)) if !is_done_once() => Recalled::New,
            Some(Remembered::Outcome(outcome)) => Recalled::Done(outcome.clone()),
            Some(Remembered::Waiting(_)) => Recalled::Waits,
            None => Recalled::New,
        }
    }

    /// Remembers a session's call, which was kept.
    #[inline(always)]
    pub(in crate::machine) fn remember(&mut self, slot: u32, sequence: u64, what: Remembered) {
        self.sessions.table.row_mut(slot).window.set(sequence, what);
    }
}

/// Until when a session that ends now is remembered.
fn remembered(now: Elapsed) -> Elapsed {
    now + millis(SESSION_ENDED_MS)
}

/// A session's end gives its locks back.
pub(in crate::machine) fn gives_grants_back() -> bool {
    !mutant::on(Mutant::GrantsOutliveSession)
}

/// An ended session is not opened again.
fn refuses_ended() -> bool {
    !mutant::on(Mutant::EndedIsOpened)
}

/// What the client says was answered, and nothing else, is forgotten.
fn forgotten_below(answered_below: u64) -> u64 {
    if mutant::on(Mutant::ReplyOfAnother) { answered_below - 1 } else { answered_below }
}

/// A call that its client gave up leaves its waitlist.
fn cancels_waits() -> bool {
    !mutant::on(Mutant::CancelLeavesWaiter)
}

/// A call is answered with what is remembered of that call.
fn own_call(window: &Window, sequence: u64) -> u64 {
    match window.calls.back() {
        Some((last, Remembered::Outcome(_))) if mutant::on(Mutant::ReplyOfAnother) => *last,
        _ => sequence,
    }
}

/// A call that is remembered as done is not done again.
fn is_done_once() -> bool {
    !mutant::on(Mutant::DedupOff)
}

/// How long a session lives after a renewal: its TTL, and the quarter by which renewals may lag.
fn session_time(ttl_ms: u32) -> Duration {
    let lasts = millis(ttl_ms) + millis(ttl_ms) / 4;
    match () {
        () if mutant::on(Mutant::SessionLate) => lasts + millis(ttl_ms),
        () if mutant::on(Mutant::SessionShort) => lasts / 2,
        () => lasts,
    }
}
