//! Calls: how each is taken, brought on its way, tried again, and finished.

use super::ask::Ask;
use super::outcome::{After, Doubt, Failure, Finished, Loss, Obstacle, Outcome};
use super::session::{Asks, Opening};
use super::slab::Key;
use super::time::Moment;
use super::{CallId, Caller, Core, LinkId, Order, Phase, SessionId, SessionKey};
use crate::limits::{BACKOFF_MAX, BACKOFF_MIN, CALL_BYTES_MAX, CALLS_MAX, GIVE_BACKS_MAX};
use alloc::vec::Vec;
use core::time::Duration;
use wire::message::{QueuePop, SessionClose};

/// Where a call is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// Waits until other guards of this client admit it; looked at again at that moment.
    Turn(Moment),
    /// Waits until the window of its shard has room.
    Window,
    /// Tried again at that moment, or when the topology is known.
    Backoff(Moment),
    /// Waits for credit on a connection.
    Queued(LinkId),
    /// Sent, as this request.
    Flying(LinkId, Key),
}

/// A sequence of a call, and of which life of its session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Seated {
    pub life: u32,
    pub sequence: u64,
}

/// Whether a call's place in the window was given away while it waits: it must not be sent again as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Aside {
    No,
    /// So that it does not hold the window back: it is asked anew if need be.
    Moved,
    /// It was given up.
    Cancelled,
}

/// Whether a call has nowhere to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Routed {
    Yes,
    /// It is tried again as soon as the topology is known.
    No,
}

/// A call that is open.
pub(super) struct Call<A> {
    pub ask: A,
    pub session: SessionKey,
    pub shard: u32,
    pub caller: Caller,
    /// Counts all calls of the core, in the order in which they were made.
    pub number: u64,
    pub begun: Moment,
    pub deadline: Moment,
    pub place: Place,
    /// When its timer rings.
    pub timer: Moment,
    pub seated: Option<Seated>,
    /// The only session under which it makes sense.
    pub bound: Option<SessionId>,
    pub aside: Aside,
    pub routed: Routed,
    /// A frame was sent whose answer will never come.
    pub ambiguous: bool,
    pub attempts: u32,
    /// How often it had to pause: each pause is longer than the last.
    pub pauses: u32,
    pub first_sent: Option<Moment>,
    /// What stood in its way last.
    pub last: Obstacle,
}

impl<A: Ask> Call<A> {
    /// Makes a pop that gave its place away a new one, for what is left of its wait. If the old one took
    /// a message, that comes back when its visibility runs out.
    pub fn renew_wait(&mut self, now: Moment) {
        self.aside = Aside::No;
        self.seated = None;
        self.ambiguous = false;
        if self.is_pop() {
            let passed = super::millis(now.since(self.begun));
            self.ask.set_wait_ms(self.ask.wait_ms().saturating_sub(passed));
            self.begun = now;
        }
    }

    /// Whether it may have been applied already.
    pub fn may_be_applied(&self) -> bool {
        self.seated.is_some() && (self.ambiguous || matches!(self.place, Place::Flying(..)))
    }

    pub fn is_pop(&self) -> bool {
        self.ask.kind() == QueuePop::KIND
    }
}

impl<A: Ask> Core<A> {
    /// Takes a call. It is finished once, whatever happens, if somebody waits for it. Where everything is must be
    /// known: see [`super::Event::Ready`].
    #[inline]
    pub fn submit(&mut self, now: Moment, order: Order<A>) -> CallId {
        let refused = match self.phase {
            Phase::Running => self.excess(&order),
            Phase::Leaving | Phase::Gone => Some(Failure::Closed),
        };
        if let Some(failure) = refused {
            let none = CallId(Key::NONE);
            self.tell(none, order.ask, order.caller, Outcome::Failed(failure));
            return none;
        }
        let shards = self.map.as_ref().expect("calls are made once the topology is known").shards;
        let shard = order.shard.unwrap_or_else(|| wire::name::shard(order.ask.name(), shards));
        assert!(shard < shards, "the caller names a shard that there is");
        self.take(now, shard, order)
    }

    /// What there is too much of for a call.
    #[inline]
    fn excess(&self, order: &Order<A>) -> Option<Failure> {
        // The client's own calls give things back, and are few: one for each that was granted. Those that a caller
        // waits for find room when nothing else does.
        if order.caller == Caller::Nobody {
            return None;
        }
        let gives_back = order.ask.facts().gives_back;
        let calls_max = if gives_back { CALLS_MAX + GIVE_BACKS_MAX } else { CALLS_MAX };
        if self.calls.len() >= calls_max {
            return Some(Failure::TooManyCalls { calls_max });
        }
        let heavy = !gives_back && self.call_bytes + order.ask.bytes() > CALL_BYTES_MAX;
        heavy.then_some(Failure::TooManyBytes)
    }

    /// Takes a call to a shard.
    #[inline]
    pub(super) fn take(&mut self, now: Moment, shard: u32, order: Order<A>) -> CallId {
        let Order { ask, session, limit, bound, caller, shard: _ } = order;
        assert!((session.0 as usize) < self.sessions.len(), "the session is the core's");
        assert!(
            self.phase == Phase::Running || ask.kind() == SessionClose::KIND,
            "nothing else is asked while the client leaves"
        );
        self.call_bytes += ask.bytes();
        self.taken += 1;
        let number = self.taken;
        let key = self.calls.insert_with(|_| Call {
            ask,
            session,
            shard,
            caller,
            number,
            begun: now,
            deadline: now + limit,
            place: Place::Window,
            timer: Moment::MAX,
            seated: None,
            bound,
            aside: Aside::No,
            routed: Routed::Yes,
            ambiguous: false,
            attempts: 0,
            pauses: 0,
            first_sent: None,
            last: Obstacle::Unsent,
        });
        let id = CallId(key);
        if self.takes_turn(now, id) {
            self.dispatch(now, id);
        }
        id
    }

    /// Brings a call as far as it goes.
    pub(super) fn dispatch(&mut self, now: Moment, id: CallId) {
        let Some(call) = self.calls.get_mut(id.0) else { return };
        call.routed = Routed::Yes;
        if call.ask.facts().is_call && call.seated.is_none() {
            let session = &mut self.sessions[call.session.0 as usize];
            if call.bound.is_some_and(|bound| bound != session.id) {
                return self.fail(now, id, Failure::SessionLost(Loss::Before));
            }
            let life = session.life;
            let seat = session.take_seat(call.shard, now);
            if let Opening::Resumed { .. } = seat.opening {
                self.sessions_due = self.sessions_due.min(seat.beat_at);
                self.due_at = self.due_at.min(seat.beat_at);
            }
            let Some(sequence) = seat.sit(id, Asks::of(&call.ask)) else {
                return self.stand(now, id);
            };
            call.seated = Some(Seated { life, sequence });
        }
        let shard = self.calls[id.0].shard;
        match self.way(now, shard) {
            Ok(link) => self.queue_on(now, link, id),
            Err((why, until)) => {
                let at = until.unwrap_or_else(|| now + self.pause(id));
                self.park(now, id, at, why);
                self.want_map(now);
            }
        }
    }

    /// Gives a call to a connection, which sends it once there is credit.
    #[inline]
    fn queue_on(&mut self, now: Moment, link: LinkId, id: CallId) {
        let to = self.links.get_mut(link.0).expect("the caller found it");
        let call = self.calls.get_mut(id.0).expect("the caller found it");
        if to.takes_at_once(&call.ask) {
            call.timer = call.deadline;
            self.timers.set(id.0.index() as u32, call.deadline);
            return self.send_call(now, link, id);
        }
        to.line(Asks::of(&call.ask)).push_back(id);
        self.place(id, Place::Queued(link));
        self.pump(now, link);
    }

    /// Tries a call again after a pause.
    pub(super) fn retry(&mut self, now: Moment, id: CallId, pause: Duration, why: Obstacle) {
        let Some(call) = self.calls.get_mut(id.0) else { return };
        match call.aside {
            Aside::No => call.last = why,
            Aside::Cancelled => {
                return self.fail(now, id, Failure::Unknown(Doubt::Told(why)));
            }
            Aside::Moved if call.caller == Caller::Nobody => {
                // Nobody wants a message any more; one that it took comes back by itself.
                return self.fail(now, id, Failure::Closed);
            }
            Aside::Moved => {
                call.last = why;
                call.renew_wait(now);
            }
        }
        if pause.is_zero() {
            self.dispatch(now, id);
        } else {
            call.pauses += 1;
            self.place(id, Place::Backoff(now + pause));
        }
    }

    /// Tries a call again at a moment, or once the topology is known.
    fn park(&mut self, now: Moment, id: CallId, at: Moment, why: Obstacle) {
        if let Some(call) = self.calls.get_mut(id.0) {
            call.routed = Routed::No;
        }
        self.retry(now, id, at.since(now).max(BACKOFF_MIN), why);
    }

    /// Tries every call again that had no route.
    pub(super) fn unpark(&mut self, now: Moment) {
        let waits = |c: &Call<A>| c.routed == Routed::No && matches!(c.place, Place::Backoff(_));
        for id in self.calls_that(waits) {
            self.dispatch(now, id);
        }
    }

    /// Open calls, in the order in which they were made.
    pub(super) fn calls_that(&self, holds: impl Fn(&Call<A>) -> bool) -> Vec<CallId> {
        let found = self.calls.iter().filter(|(_, call)| holds(call));
        let mut found: Vec<(u64, CallId)> =
            found.map(|(key, call)| (call.number, CallId(key))).collect();
        found.sort_unstable();
        found.into_iter().map(|(_, id)| id).collect()
    }

    /// How long a call waits before its next try: doubling, with chance, within limits.
    pub(super) fn pause(&mut self, id: CallId) -> Duration {
        let tries = self.calls.get(id.0).map_or(0, |c| c.pauses).min(8);
        let full = (BACKOFF_MIN * (1 << tries)).min(BACKOFF_MAX);
        self.chance.part_of(full)
    }

    /// Puts a call into a place and sets its timer.
    #[inline]
    pub(super) fn place(&mut self, id: CallId, place: Place) {
        let call = self.calls.get_mut(id.0).expect("a call is placed while it is open");
        call.place = place;
        call.timer = match place {
            Place::Backoff(at) | Place::Turn(at) => at.min(call.deadline),
            _ => call.deadline,
        };
        self.timers.set(id.0.index() as u32, call.timer);
    }

    /// Ends a call without an answer.
    pub(super) fn fail(&mut self, now: Moment, id: CallId, failure: Failure) {
        self.refuse(now, id, Outcome::Failed(failure));
    }

    /// The same, or by a refusal.
    pub(super) fn refuse(&mut self, now: Moment, id: CallId, outcome: Outcome<'static>) {
        let Some(call) = self.remove(id) else { return };
        self.turn_over(now, id, (&call.ask, call.session));
        let (session, shard, seated, aside) = (call.session, call.shard, call.seated, call.aside);
        self.tell(id, call.ask, call.caller, outcome);
        if let Some(seated) = seated.filter(|_| aside == Aside::No) {
            self.leave_seat(now, session, shard, seated);
        }
    }

    /// Takes a call out of the table.
    #[inline]
    pub(super) fn remove(&mut self, id: CallId) -> Option<Call<A>> {
        let call = self.calls.remove(id.0)?;
        self.forget(call.ask.bytes());
        Some(call)
    }

    /// A call with so many bytes was taken out of the table.
    #[inline]
    pub(super) fn forget(&mut self, bytes: usize) {
        self.call_bytes -= bytes;
        if self.phase == Phase::Leaving && self.calls.is_empty() {
            self.event(super::Event::Left);
        }
    }

    /// Tells whoever waits for a call what it came to.
    fn tell(&mut self, call: CallId, ask: A, caller: Caller, outcome: Outcome<'static>) {
        if caller == Caller::Waits {
            self.out.finished.push_back(Finished { call, ask, outcome });
        }
    }

    /// The caller has given a call up.
    pub fn abandon(&mut self, now: Moment, id: CallId) {
        let Some(call) = self.calls.get_mut(id.0) else { return };
        call.caller = Caller::Nobody;
        if call.ask.is_owed() {
            return self.orphan(id);
        }
        if !call.may_be_applied() {
            return self.fail(now, id, Failure::Closed);
        }
        if call.ask.facts().grants {
            self.orphan(id);
        }
    }

    /// A call that waits in a shard is given up: later ones say that it was answered, and the shard then ends its wait.
    /// It is finished when it is answered, since it may have been served before.
    pub fn cancel(&mut self, id: CallId) {
        let Some(call) = self.calls.get_mut(id.0) else { return };
        let Some(Seated { sequence, .. }) = call.seated else { return };
        if call.aside != Aside::No || !matches!(call.place, Place::Flying(..)) {
            return;
        }
        call.aside = Aside::Cancelled;
        let session = &mut self.sessions[call.session.0 as usize];
        let seat = session.seat_mut(call.shard).expect("its sequence is of a seat");
        seat.window.free(sequence);
    }

    /// Sends a call once more, as another request, while an earlier one may still be answered: a shard must bear it.
    pub fn ask_again(&mut self, now: Moment, id: CallId) {
        let Some(call) = self.calls.get_mut(id.0) else { return };
        if call.aside == Aside::No && matches!(call.place, Place::Flying(..)) {
            call.ambiguous = true;
            self.dispatch(now, id);
        }
    }

    /// Keeps a call until it is answered, for nobody: what it brings must be given back, or it gives something back
    /// itself.
    fn orphan(&mut self, id: CallId) {
        let call = self.calls.get_mut(id.0).expect("the caller found it");
        call.caller = Caller::Nobody;
        call.deadline = Moment::MAX;
        let place = call.place;
        self.place(id, place);
    }

    /// The timer of a place in the table of calls may have rung.
    pub(super) fn on_ring(&mut self, now: Moment, index: u32) {
        let Some(key) = self.calls.key_at(index) else { return };
        let call = self.calls.get_mut(key).expect("it was just found");
        if call.timer > now {
            return self.timers.set(index, call.timer);
        }
        call.timer = Moment::MAX;
        self.on_timer(now, CallId(key));
    }

    fn on_timer(&mut self, now: Moment, id: CallId) {
        let call = &self.calls[id.0];
        if matches!(call.place, Place::Turn(_)) {
            return self.look_at_turn(now, id);
        }
        if now < call.deadline {
            return self.dispatch(now, id);
        }
        let (waited, last) = (now.since(call.begun), call.last.clone());
        let owed = call.ask.is_owed();
        if !owed && !call.may_be_applied() {
            return self.fail(now, id, Failure::Deadline { waited, last });
        }
        let after = if owed { After::GoesOn } else { After::Nothing };
        let unknown = Failure::Unknown(Doubt::NoAnswer { waited, last, after });
        if owed || call.ask.facts().grants {
            let (ask, caller) = (call.ask.clone(), call.caller);
            self.tell(id, ask, caller, Outcome::Failed(unknown));
            self.orphan(id);
        } else {
            self.fail(now, id, unknown);
        }
    }
}
