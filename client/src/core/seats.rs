//! The session's side of the state: windows, openings, heartbeats, and the session's end.

use super::{Phase, Request, Sent, State, What};
use crate::call::{Answer, CallId, LinkId, Op, Place, SessionId, Stamp};
use crate::clock::{Moment, millis};
use crate::core::session::{Asks, Opening, Session};
use crate::error::Error;
use crate::limits::HEARTBEATS_PER_TTL;
use std::collections::BTreeMap;
use std::time::Duration;
use wire::Header;
use wire::limits::WINDOW_REPLIES_MAX;
use wire::message::{Heartbeat, SessionOpen};

/// How long the client goes on trying to close an ended session, which then ends by itself.
const CLOSE_MAX: Duration = Duration::from_secs(10);

impl State {
    /// Gives a call its sequence; `false` when it has to wait for room, or is finished.
    pub(super) fn take_seat(&mut self, now: Moment, id: CallId) -> bool {
        let call = self.calls.get_mut(&id).expect("the caller found it");
        let session = self.session.life.id;
        if call.bound.is_some_and(|bound| bound != session) {
            let why = String::from("it ended before the call was sent");
            let error = Error::SessionLost { subject: call.op.to_string(), why };
            self.finish(now, id, Err(error));
            return false;
        }
        let seat = self.session.seat(call.shard, now);
        let asks = Asks::of(&call.op);
        let sequence = if seat.line(asks).is_empty() { seat.reserve(id, asks) } else { None };
        if let Some(sequence) = sequence {
            call.stamp = Some(Stamp { session, sequence });
            return true;
        }
        call.last = format!("{WINDOW_REPLIES_MAX} calls of this client are open in the shard");
        let shard = call.shard;
        seat.line(asks).push_back(id);
        self.place(id, Place::Window);
        self.move_aside(shard);
        self.fill_window(now, shard);
        false
    }

    /// A pop that waits must not hold the window back: it gives its place away. The shard then ends
    /// its wait, unless it was just served; the answer says which, and it pops anew if need be.
    /// (An acquire would lose its turn by that, so it keeps its place.)
    fn move_aside(&mut self, shard: u32) {
        let Some(seat) = self.session.seats.get_mut(&shard) else { return };
        while let Some((sequence, id)) = seat.oldest() {
            let Some(call) = self.calls.get_mut(&id) else { return };
            let waits = matches!(call.op, Op::Pop { .. }) && call.op.is_waiting();
            if !waits || !matches!(call.place, Place::Flying(..)) {
                return;
            }
            call.aside = true;
            seat.free(sequence);
        }
    }

    /// A call is finished: its place in the window goes to who waits for it.
    pub(super) fn leave_seat(&mut self, now: Moment, shard: u32, stamp: Stamp) {
        let session = self.session.life.id;
        if stamp.session != session {
            return;
        }
        let seat = self.session.seats.get_mut(&shard).expect("a stamp was taken from a seat");
        seat.free(stamp.sequence);
        self.fill_window(now, shard);
    }

    /// Gives the window's room to the calls that wait for it.
    fn fill_window(&mut self, now: Moment, shard: u32) {
        for asks in [Asks::GiveBack, Asks::Call] {
            self.fill_window_with(now, shard, asks);
        }
    }

    fn fill_window_with(&mut self, now: Moment, shard: u32, asks: Asks) {
        let session = self.session.life.id;
        while let Some(seat) = self.session.seats.get_mut(&shard)
            && let Some(id) = seat.line(asks).front().copied()
        {
            let Some(call) = self.calls.get_mut(&id).filter(|c| c.stamp.is_none()) else {
                seat.line(asks).pop_front();
                continue;
            };
            let Some(sequence) = seat.reserve(id, asks) else { return };
            seat.line(asks).pop_front();
            call.stamp = Some(Stamp { session, sequence });
            self.dispatch(now, id);
        }
    }

    /// Opens the session in a shard ahead of a call on a connection, unless that is done.
    pub(super) fn open_ahead(&mut self, now: Moment, link_id: LinkId, shard: u32) {
        let tenure = self.config.tenure();
        let request = self.fresh_id();
        let session = self.session.life.id;
        let seat = self.session.seat(shard, now);
        let since = match seat.opening {
            Opening::Confirmed | Opening::Resumed { .. } => return,
            Opening::Sent { on, .. } if on == link_id => return,
            Opening::Due { since } => since.unwrap_or(now),
            Opening::Sent { since, .. } => since,
        };
        seat.opening = Opening::Sent { since, on: link_id };
        let header = Header { shard, ..Header::new(SessionOpen::KIND, request) };
        let link = self.links.get_mut(&link_id).expect("the caller sends on it");
        link.send(header, What::Open { shard, session }, Sent::prompt(now), |out| {
            SessionOpen { session, ttl_ms: millis(self.config.session_ttl) }.encode(out);
        });
        self.due(since + tenure);
    }

    /// A shard answered the opening.
    pub(super) fn on_opened(&mut self, now: Moment, link: LinkId, shard: u32, of: SessionId) {
        let tenure = self.config.tenure();
        if of != self.session.life.id {
            return;
        }
        let seat = self.session.seat(shard, now);
        if let Opening::Sent { since, on } = seat.opening
            && on == link
        {
            seat.confirm(since, tenure);
            let at = seat.beat_at;
            self.due(at);
        }
    }

    /// The opening in a shard failed or was lost: it goes ahead of the next call again.
    pub(super) fn on_unopened(&mut self, link: LinkId, shard: u32, of: SessionId) {
        if of != self.session.life.id {
            return;
        }
        if let Some(seat) = self.session.seats.get_mut(&shard)
            && let Opening::Sent { since, on } = seat.opening
            && on == link
        {
            seat.opening = Opening::Due { since: Some(since) };
        }
    }

    /// Whether the shard has confirmed the session.
    pub(super) fn is_open_in(&self, shard: u32) -> bool {
        self.session.seats.get(&shard).is_some_and(|s| s.opening.is_known())
    }

    /// The shards in which the session is open, or may be.
    pub(super) fn seats_taken(&self) -> Vec<u32> {
        let taken = |o: Opening| !matches!(o, Opening::Due { since: None });
        let seats = self.session.seats.iter().filter(|(_, seat)| taken(seat.opening));
        seats.map(|(shard, _)| *shard).collect()
    }

    /// Heartbeats that are due, and the session's end if none was confirmed in time.
    pub(super) fn tick_session(&mut self, now: Moment) {
        let tenure = self.config.tenure();
        if self.phase != Phase::Running {
            return;
        }
        if let Some(shard) = self.session.run_out(now, tenure) {
            self.end_session(
                now,
                &format!("shard {shard} confirmed no sign of life for {tenure:?}"),
            );
        }
        self.beat(now);
        self.due(self.session.wake_at(tenure));
    }

    /// Sends the heartbeats that are due, one to each engine that leads a shard of the session.
    pub(crate) fn beat(&mut self, now: Moment) {
        let tenure = self.config.tenure();
        let due = |(shard, seat): (&u32, &crate::core::session::Seat)| {
            (seat.opening.is_known() && seat.beat_at <= now).then_some(*shard)
        };
        let due: Vec<u32> = self.session.seats.iter().filter_map(due).collect();
        let mut by_link = BTreeMap::<LinkId, Vec<u32>>::new();
        for shard in due {
            let link = match self.route(now, shard) {
                Ok(key) => self.link_to(now, &key),
                Err(_) => Err(now + tenure / 20),
            };
            let again = match link {
                Ok(link) if self.links[&link].up => {
                    by_link.entry(link).or_default().push(shard);
                    now + tenure / HEARTBEATS_PER_TTL
                }
                // `on_link_up` beats at once.
                Ok(_) => now + tenure / 20,
                Err(at) => {
                    self.want_map(now);
                    at.max(now + Duration::from_millis(10))
                }
            };
            self.session.seats.get_mut(&shard).expect("it is due").beat_at = again;
        }
        for (link, shards) in by_link {
            self.send_heartbeat(now, link, shards);
        }
    }

    /// Sends a heartbeat that should confirm `shards`.
    pub(super) fn send_heartbeat(&mut self, now: Moment, link: LinkId, shards: Vec<u32>) {
        let session = self.session.life.id;
        let header = Header::new(Heartbeat::KIND, self.fresh_id());
        let link = self.links.get_mut(&link).expect("the caller found it");
        let what = What::Beat { session, shards };
        link.send(header, what, Sent::prompt(now), |out| Heartbeat { session }.encode(out));
    }

    /// A heartbeat that was sent at `sent` confirmed `alive`, of the `expected`.
    pub(super) fn on_alive(
        &mut self,
        now: Moment,
        sent: Moment,
        of: SessionId,
        expected: &[u32],
        alive: &[u32],
    ) {
        let tenure = self.config.tenure();
        if of != self.session.life.id {
            return;
        }
        let mut late = None;
        for shard in alive {
            let Some(seat) = self.session.seats.get_mut(shard) else { continue };
            if !seat.opening.is_known() {
                continue;
            }
            if seat.renew(now, sent, tenure) {
                seat.beat_at = seat.beat_at.max(sent + tenure / HEARTBEATS_PER_TTL);
            } else {
                late = Some(*shard);
            }
        }
        for shard in expected.iter().filter(|s| !alive.contains(s)) {
            if let Some(seat) = self.session.seats.get_mut(shard) {
                seat.beat_at = seat.beat_at.min(now + tenure / 20);
            }
            self.want_map(now);
        }
        if let Some(shard) = late {
            self.end_session(
                now,
                &format!("shard {shard} confirmed no sign of life for {tenure:?}"),
            );
        }
        self.due(self.session.wake_at(tenure));
    }

    /// Whether every shard of the session confirmed a sign of life that was sent after `since`.
    pub fn is_beaten_since(&self, since: Moment) -> bool {
        let until = since + self.config.tenure();
        self.session.seats.values().all(|s| s.tenure.until() >= until)
    }

    /// All heartbeats go out again at `at`.
    pub(crate) fn beat_soon(&mut self, at: Moment) {
        for seat in self.session.seats.values_mut() {
            if seat.opening.is_known() {
                seat.beat_at = seat.beat_at.min(at);
            }
        }
        self.due(at);
    }

    /// The session ended in some shard: it ends everywhere, and a new one begins.
    pub(super) fn end_session(&mut self, now: Moment, why: &str) {
        let old = self.session.life.id;
        let shards = self.seats_taken();
        self.end_life(why);
        let mut id = [0u8; 16];
        getrandom::fill(&mut id).expect("the kernel gave randomness when the client was made");
        self.session = Session::new(id);
        let of_old: Vec<CallId> = self.calls.keys().copied().collect();
        for id in of_old {
            let Some(call) = self.calls.get_mut(&id) else { continue };
            let begun = call.stamp.is_some_and(|s| s.session == old);
            if begun && call.may_be_applied() {
                let (subject, why) = (call.op.to_string(), format!("the session ended: {why}"));
                self.finish(now, id, Err(Error::OutcomeUnknown { subject, why }));
            } else if call.op.is_stamped() && (begun || call.place == Place::Window) {
                // Never sent: it is as good under the new session, unless it was about the old.
                call.stamp = None;
                self.dispatch(now, id);
            }
        }
        self.end_turns(now, old);
        for shard in shards {
            let op = Op::CloseSession { session: old };
            self.submit_to_shard(
                now,
                shard,
                Request { op, slot: None, limit: CLOSE_MAX, bound: None },
            );
        }
    }

    /// Marks the session as ended for everyone who holds something by it.
    pub(super) fn end_life(&mut self, why: &str) {
        // It can be set once; the first reason is the one to tell.
        let _already = self.session.life.ended.set(String::from(why));
    }

    /// Gives back what an answer brought and nobody took.
    pub(super) fn undo(&mut self, now: Moment, answer: Answer) {
        let (Some(op), Some(tenure)) = (answer.undo, answer.tenure) else { return };
        if self.phase == Phase::Running && tenure.life.ended.get().is_none() {
            let bound = Some(tenure.life.id);
            self.submit(now, Request { op, slot: None, limit: Duration::MAX, bound });
        }
    }
}
