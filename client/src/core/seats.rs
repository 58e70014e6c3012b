//! The sessions' side of the core: windows, openings, heartbeats, and a session's end.

use super::ask::Ask;
use super::calls::{Aside, Place, Seated};
use super::links::{Beat, What};
use super::outcome::{Doubt, End, Event, Failure, Obstacle, Standing};
use super::session::{Asks, Opening, Renewal, Session};
use super::time::{Moment, millis};
use super::{CallId, Caller, Core, LinkId, Order, Phase, SessionKey};
use crate::limits::HEARTBEATS_PER_TTL;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;
use wire::Header;
use wire::message::{Heartbeat, SessionOpen};

/// How long the client goes on trying to close an ended session, which then ends by itself.
const CLOSE_MAX: Duration = Duration::from_secs(10);
/// How long a heartbeat waits for a connection or a route, of all the time that a session lives: one in so many.
const BEAT_AGAIN_DIVISOR: u32 = 20;

/// What has to happen to a call when its session ends.
enum Fate {
    /// It may have been applied.
    Unknown,
    /// It is as good under the new session, unless it was about the old one.
    Anew,
    /// Nothing.
    Stays,
}

impl<A: Ask> Core<A> {
    /// A call found no room in its window: it waits in line.
    pub(super) fn stand(&mut self, now: Moment, id: CallId) {
        let call = self.calls.get_mut(id.0).expect("the caller found it");
        call.last = Obstacle::WindowFull;
        let (key, shard, asks) = (call.session, call.shard, Asks::of(&call.ask));
        let seat = self.sessions[key.0 as usize].take_seat(shard, now);
        seat.line(asks).push_back(id);
        self.place(id, Place::Window);
        self.move_aside(key, shard);
        self.fill_window(now, key, shard);
    }

    /// A pop that waits must not hold the window back: it gives its place away. The shard then ends
    /// its wait, unless it was just served; the answer says which, and it pops anew if need be.
    /// (An acquire would lose its turn by that, so it keeps its place.)
    fn move_aside(&mut self, session: SessionKey, shard: u32) {
        let Some(seat) = self.sessions[session.0 as usize].seat_mut(shard) else { return };
        while let Some((sequence, index)) = seat.window.oldest() {
            let key = self.calls.key_at(index).expect("an open sequence is of an open call");
            let call = self.calls.get_mut(key).expect("it was just found");
            let waits = call.is_pop() && call.ask.wait_ms() > 0;
            if !waits || !matches!(call.place, Place::Flying(..)) {
                return;
            }
            call.aside = Aside::Moved;
            seat.window.free(sequence);
        }
    }

    /// A call is finished: its place in the window goes to who waits for it.
    #[inline]
    pub(super) fn leave_seat(&mut self, now: Moment, key: SessionKey, shard: u32, seated: Seated) {
        let session = &mut self.sessions[key.0 as usize];
        if session.life != seated.life {
            return;
        }
        let seat = session.seat_mut(shard).expect("a sequence was taken from a seat");
        seat.window.free(seated.sequence);
        if !(seat.waiting.is_empty() && seat.owed.is_empty()) {
            self.fill_window(now, key, shard);
        }
    }

    /// Gives the window's room to the calls that wait for it.
    fn fill_window(&mut self, now: Moment, session: SessionKey, shard: u32) {
        for asks in [Asks::GiveBack, Asks::Call] {
            self.fill_window_with(now, session, shard, asks);
        }
    }

    fn fill_window_with(&mut self, now: Moment, key: SessionKey, shard: u32, asks: Asks) {
        loop {
            let session = &mut self.sessions[key.0 as usize];
            let life = session.life;
            let Some(seat) = session.seat_mut(shard) else { return };
            let Some(id) = seat.line(asks).front().copied() else { return };
            let Some(call) = self.calls.get_mut(id.0).filter(|c| c.seated.is_none()) else {
                seat.line(asks).pop_front();
                continue;
            };
            let Some(sequence) = seat.reserve(id, asks) else { return };
            seat.line(asks).pop_front();
            call.seated = Some(Seated { life, sequence });
            self.dispatch(now, id);
        }
    }

    /// Opens a session in a shard ahead of a call on a connection, unless that is done.
    pub(super) fn open_ahead(&mut self, now: Moment, link: LinkId, key: SessionKey, shard: u32) {
        let session = &mut self.sessions[key.0 as usize];
        let (id, life) = (session.id, session.life);
        let seat = session.take_seat(shard, now);
        let since = match seat.opening {
            Opening::Confirmed | Opening::Resumed { .. } => return,
            Opening::Sent { on, .. } if on == link => return,
            Opening::Due { since } => since.unwrap_or(now),
            Opening::Sent { since, .. } => since,
        };
        seat.opening = Opening::Sent { since, on: link };
        let header = Header { shard, ..Header::new(SessionOpen::KIND, 0) };
        let ttl_ms = millis(self.settings.session_ttl);
        let what = What::Open { session: key, life, shard };
        self.send_prompt(now, link, header, what, |out| {
            SessionOpen { session: id, ttl_ms }.encode(out);
        });
        self.session_due(since + self.tenure);
    }

    /// A heartbeat or a session's end is due.
    fn session_due(&mut self, at: Moment) {
        self.sessions_due = self.sessions_due.min(at);
        self.due(at);
    }

    /// A session as it was when something was sent for it.
    fn of_life(&mut self, (key, life): (SessionKey, u32)) -> Option<&mut Session> {
        Some(&mut self.sessions[key.0 as usize]).filter(|session| session.life == life)
    }

    /// A shard answered the opening.
    pub(super) fn on_opened(
        &mut self,
        now: Moment,
        link: LinkId,
        of: (SessionKey, u32),
        shard: u32,
    ) {
        let tenure = self.tenure;
        let Some(session) = self.of_life(of) else { return };
        let id = session.id;
        let seat = session.take_seat(shard, now);
        if let Opening::Sent { since, on } = seat.opening
            && on == link
        {
            seat.confirm(since, tenure);
            let (at, until) = (seat.beat_at, seat.until);
            self.session_due(at);
            let standing = Standing { session: id, shard, until };
            self.event(Event::Renewed { session: of.0, standing });
        }
    }

    /// The opening in a shard failed or was lost: it goes ahead of the next call again.
    pub(super) fn on_unopened(&mut self, link: LinkId, key: SessionKey, life: u32, shard: u32) {
        let Some(session) = self.of_life((key, life)) else { return };
        if let Some(seat) = session.seat_mut(shard)
            && let Opening::Sent { since, on } = seat.opening
            && on == link
        {
            seat.opening = Opening::Due { since: Some(since) };
        }
    }

    /// Heartbeats that are due, and the end of a session that was not confirmed in time.
    pub(super) fn tick_sessions(&mut self, now: Moment) {
        if self.phase != Phase::Running {
            return;
        }
        if now < self.sessions_due {
            return self.due(self.sessions_due);
        }
        let tenure = self.tenure;
        for key in self.session_keys() {
            if let Some(shard) = self.sessions[key.0 as usize].run_out(now, tenure) {
                self.end_session(now, key, End::Silent { shard, tenure });
            }
        }
        self.beat(now);
        self.sessions_due = Moment::MAX;
        let next = self.sessions.iter().map(|session| session.wake_at(tenure)).min();
        self.session_due(next.unwrap_or(Moment::MAX));
    }

    pub(super) fn session_keys(&self) -> impl Iterator<Item = SessionKey> + use<A> {
        (0..self.settings.sessions).map(SessionKey)
    }

    /// Sends the heartbeats that are due, one for each session to each engine that leads a shard of it.
    pub fn beat(&mut self, now: Moment) {
        for key in self.session_keys() {
            self.beat_for(now, key);
        }
    }

    fn beat_for(&mut self, now: Moment, key: SessionKey) {
        let tenure = self.tenure;
        let seats = self.sessions[key.0 as usize].seats();
        let due = seats.filter(|(_, seat)| seat.opening.is_known() && seat.beat_at <= now);
        let due: Vec<u32> = due.map(|(shard, _)| shard).collect();
        let mut by_link = BTreeMap::<LinkId, Vec<u32>>::new();
        for shard in due {
            let again = match self.way(now, shard) {
                Ok(link) if self.links[link.0].up => {
                    by_link.entry(link).or_default().push(shard);
                    now + tenure / HEARTBEATS_PER_TTL
                }
                // `on_connected` beats at once.
                Ok(_) => now + tenure / BEAT_AGAIN_DIVISOR,
                Err((_, until)) => {
                    self.want_map(now);
                    let at = until.unwrap_or(now + tenure / BEAT_AGAIN_DIVISOR);
                    at.max(now + Duration::from_millis(10))
                }
            };
            let seat = self.sessions[key.0 as usize].seat_mut(shard);
            seat.expect("it is due").beat_at = again;
            self.session_due(again);
        }
        for (link, shards) in by_link {
            self.send_heartbeat(now, link, key, shards);
        }
    }

    /// Sends a heartbeat that should confirm `shards`.
    pub(super) fn send_heartbeat(
        &mut self,
        now: Moment,
        link: LinkId,
        key: SessionKey,
        shards: Vec<u32>,
    ) {
        let Session { id: session, life, .. } = self.sessions[key.0 as usize];
        let header = Header::new(Heartbeat::KIND, 0);
        let what = What::Beat(Box::new(Beat { session: key, life, shards }));
        self.send_prompt(now, link, header, what, |out| Heartbeat { session }.encode(out));
    }

    /// A heartbeat that was sent at `sent` confirmed `alive`, of the `expected`.
    pub(super) fn on_alive(
        &mut self,
        now: Moment,
        sent: Moment,
        of: (SessionKey, u32),
        expected: &[u32],
        alive: &[[u8; 4]],
    ) {
        let tenure = self.tenure;
        let Some(session) = self.of_life(of) else { return };
        let id = session.id;
        let (mut late, mut renewed) = (None, Vec::with_capacity(alive.len()));
        for shard in alive {
            let shard = u32::from_le_bytes(*shard);
            let Some(seat) = session.seat_mut(shard).filter(|s| s.opening.is_known()) else {
                continue;
            };
            match seat.renew(now, sent, tenure) {
                Renewal::Renewed => {
                    seat.beat_at = seat.beat_at.max(sent + tenure / HEARTBEATS_PER_TTL);
                    renewed.push(Standing { session: id, shard, until: seat.until });
                }
                Renewal::TooLate => late = Some(shard),
            }
        }
        let mut missing = false;
        for shard in expected.iter().filter(|s| !alive.contains(&s.to_le_bytes())) {
            if let Some(seat) = session.seat_mut(*shard) {
                seat.beat_at = seat.beat_at.min(now + tenure / BEAT_AGAIN_DIVISOR);
            }
            missing = true;
        }
        let wake_at = session.wake_at(tenure);
        for standing in renewed {
            self.event(Event::Renewed { session: of.0, standing });
        }
        if missing {
            self.want_map(now);
        }
        self.session_due(wake_at);
        if let Some(shard) = late {
            self.end_session(now, of.0, End::Silent { shard, tenure });
        }
    }

    /// Whether every shard of every session confirmed a sign of life that was sent after `since`.
    pub fn is_beaten_since(&self, since: Moment) -> bool {
        let until = since + self.tenure;
        let mut seats = self.sessions.iter().flat_map(|session| session.seats());
        seats.all(|(_, seat)| seat.until >= until)
    }

    /// All heartbeats go out again at `at`.
    pub fn beat_soon(&mut self, at: Moment) {
        for session in &mut self.sessions {
            for (_, seat) in session.seats_mut() {
                if seat.opening.is_known() {
                    seat.beat_at = seat.beat_at.min(at);
                }
            }
        }
        self.session_due(at);
    }

    /// A session is ended by choice, with all that it holds, and a new one begins.
    pub fn renew_session(&mut self, now: Moment, key: SessionKey) {
        self.end_session(now, key, End::Closed);
    }

    /// A session ended in some shard: it ends everywhere, and a new one begins.
    pub(super) fn end_session(&mut self, now: Moment, key: SessionKey, why: End) {
        let Session { id, life, .. } = self.sessions[key.0 as usize];
        let shards = self.sessions[key.0 as usize].shards_taken();
        self.event(Event::Ended { session: key, id, why: why.clone() });
        let heir = Session::new(self.chance.session_id(), life.wrapping_add(1));
        self.sessions[key.0 as usize] = heir;
        for of_it in self.calls_that(|call| call.session == key) {
            match self.fate(of_it) {
                Fate::Unknown => {
                    let doubt = Doubt::SessionEnded(why.clone());
                    self.fail(now, of_it, Failure::Unknown(doubt));
                }
                Fate::Anew => {
                    let call = self.calls.get_mut(of_it.0).expect("it has a fate");
                    call.seated = None;
                    self.dispatch(now, of_it);
                }
                Fate::Stays => {}
            }
        }
        self.end_turns(now, id);
        for shard in shards {
            let ask = A::close_session(id);
            self.take(now, shard, close(ask, key, CLOSE_MAX));
        }
    }

    /// What has to happen to a call whose session has just ended.
    fn fate(&self, id: CallId) -> Fate {
        let Some(call) = self.calls.get(id.0) else { return Fate::Stays };
        let life = self.sessions[call.session.0 as usize].life;
        let begun = call.seated.is_some_and(|seated| seated.life != life);
        if begun && call.may_be_applied() {
            return Fate::Unknown;
        }
        // It waited for a place in a window that is no more, or was never sent.
        let waits = call.place == Place::Window && call.seated.is_none();
        if call.ask.facts().is_call && (begun || waits) { Fate::Anew } else { Fate::Stays }
    }
}

/// The order to end a session.
pub(super) fn close<A>(ask: A, session: SessionKey, limit: Duration) -> Order<A> {
    Order { ask, session, shard: None, limit, bound: None, caller: Caller::Nobody }
}
