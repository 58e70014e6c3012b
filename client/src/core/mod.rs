//! All that the client knows, and what it decides. No socket, no clock, no thread: each method is
//! told what happened and when, and leaves what is to be done in [`Out`].
//!
//! # How it works
//! [`State::submit`] takes a call. An acquire waits until the client's own guards admit it (`turns`). [`State::dispatch`] brings it as far as it goes: into its
//! shard's window (`seats`), to the shard's leader (`routes`), onto a connection (`links`), where it
//! is sent as soon as there is credit. `replies` reads what comes back: the result, or a reason to try
//! again, which brings the call to `Place::Backoff` and back to `dispatch`. Every call has one timer,
//! for its deadline or its next try.
//!
//! # Invariants
//! - A call that changes something keeps its (session, sequence) over all tries.
//! - A call is finished once, and its place in the window is free from then on.
//! - A call that may bring a lock or a message is not forgotten before it was answered, even if its
//!   caller has given it up: what it brings is given back.
//! - Nor is a call that gives something back, before the session ended: it has places of its own in the
//!   window and in a connection's credit.

mod end;
mod links;
mod replies;
mod routes;
mod seats;
pub(crate) mod session;
mod turns;

pub(crate) use links::{Link, LinkKey, Sent, What};
pub(crate) use replies::text_of;
pub(crate) use routes::{Fetch, Map};

use crate::call::{Call, CallId, LinkId, Op, Place, SessionId};
use crate::clock::Moment;
use crate::config::Config;
use crate::connection::Outbox;
use crate::core::session::{Asks, Session};
use crate::error::Error;
use crate::limits::{BACKOFF_MAX, BACKOFF_MIN, CALL_BYTES_MAX, CALLS_MAX, GIVE_BACKS_MAX};
use crate::pending::{Outcome, Slot};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// What is to be done once the state is let go.
#[derive(Default)]
pub(crate) struct Out {
    /// Outcomes to hand over.
    pub done: Vec<(Arc<Slot>, Outcome)>,
    /// Connections to make.
    pub connect: Vec<(LinkId, LinkKey, Arc<Outbox>)>,
}

/// How far the client's life has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    Running,
    /// Nothing new is taken; the session is being closed.
    Leaving,
    Gone,
}

/// A call to be made.
pub(crate) struct Request {
    pub op: Op,
    pub slot: Option<Arc<Slot>>,
    /// How long it may take in all.
    pub limit: Duration,
    /// The only session under which it makes sense.
    pub bound: Option<SessionId>,
}

/// All that the client knows.
pub(crate) struct State {
    pub config: Config,
    pub phase: Phase,
    pub map: Option<Map>,
    pub fetch: Fetch,
    pub links: BTreeMap<LinkId, Link>,
    pub by_key: HashMap<LinkKey, LinkId>,
    pub rests: HashMap<String, links::Rest>,
    pub session: Session,
    pub calls: BTreeMap<CallId, Call>,
    pub out: Out,
    /// What the driver waits for; it is woken for anything earlier.
    pub driver_sleeps_until: Moment,
    /// When something other than a call's timer is due, at the latest.
    pub due_at: Moment,
    /// Who waits for the first topology, and until when.
    ready: Option<(Arc<Slot>, Moment, Moment)>,
    /// Told when the session is closed in a shard, once the client leaves.
    closing: Vec<Arc<Slot>>,
    turns: turns::Turns,
    call_bytes: usize,
    timers: BTreeSet<(Moment, CallId)>,
    /// Calls without a route, to be tried again as soon as the topology is known.
    parked: BTreeSet<CallId>,
    last_id: u64,
    random: u64,
}

impl State {
    /// A client that knows nothing yet. `ready` is told when it knows where everything is.
    pub fn new(config: Config, session: Session, ready: Arc<Slot>, now: Moment) -> State {
        let seed = session.life.id.first_chunk::<8>().expect("a session id has 16 bytes");
        let until = now + config.deadline;
        let mut state = State {
            random: u64::from_le_bytes(*seed) | 1,
            config,
            phase: Phase::Running,
            map: None,
            fetch: Fetch::default(),
            links: BTreeMap::new(),
            by_key: HashMap::new(),
            rests: HashMap::new(),
            session,
            calls: BTreeMap::new(),
            out: Out::default(),
            driver_sleeps_until: Moment(0),
            due_at: Moment::MAX,
            ready: Some((ready, now, until)),
            closing: Vec::new(),
            turns: turns::Turns::default(),
            call_bytes: 0,
            timers: BTreeSet::new(),
            parked: BTreeSet::new(),
            last_id: 0,
        };
        state.want_map(now);
        state
    }

    /// A number that was not given before.
    pub(crate) fn fresh_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Takes a call. It is finished through its slot, whatever happens. The client must know where
    /// everything is.
    pub fn submit(&mut self, now: Moment, request: Request) -> CallId {
        let Request { op, slot, limit, bound } = request;
        let id = self.fresh_id();
        let bytes = op.bytes();
        // The client's own calls give things back, and are few: one for each that was granted. Those that a caller
        // waits for find room when nothing else does.
        let (calls_max, light) = match op.is_give_back() {
            true => (CALLS_MAX + GIVE_BACKS_MAX, true),
            false => (CALLS_MAX, self.call_bytes + bytes <= CALL_BYTES_MAX),
        };
        let over = slot.is_some() && self.calls.len() >= calls_max;
        let heavy = slot.is_some() && !light;
        let refused = match self.phase {
            Phase::Running if over => Some(format!("{calls_max} calls")),
            Phase::Running if heavy => Some(format!("calls of {CALL_BYTES_MAX} bytes")),
            Phase::Running => None,
            Phase::Leaving if matches!(op, Op::CloseSession { .. }) => None,
            Phase::Leaving | Phase::Gone => {
                let closed = Error::Closed { subject: op.to_string() };
                self.out.done.extend(slot.map(|slot| (slot, Err(closed))));
                return id;
            }
        };
        if let Some(what) = refused {
            let error = Error::TooManyCalls { subject: op.to_string(), what };
            self.out.done.extend(slot.map(|slot| (slot, Err(error))));
            return id;
        }
        let shards = self.map.as_ref().expect("a client is handed out with a topology").shards;
        let shard = wire::name::shard(op.name(), shards);
        self.call_bytes += bytes;
        self.take(now, id, shard, Request { op, slot, limit, bound });
        id
    }

    /// Takes a call to a shard that no name leads to.
    pub(crate) fn submit_to_shard(&mut self, now: Moment, shard: u32, request: Request) {
        let id = self.fresh_id();
        self.take(now, id, shard, request);
    }

    fn take(&mut self, now: Moment, id: CallId, shard: u32, request: Request) {
        let Request { op, slot, limit, bound } = request;
        let call = Call {
            op,
            shard,
            slot,
            begun: now,
            deadline: now + limit,
            place: Place::Window,
            timer: Moment::MAX,
            stamp: None,
            bound,
            aside: false,
            ambiguous: false,
            attempts: 0,
            pauses: 0,
            first_sent: None,
            last_sent: now,
            last: String::from("it was not sent yet"),
        };
        self.calls.insert(id, call);
        if self.takes_turn(now, id) {
            self.dispatch(now, id);
        }
    }

    /// Brings a call as far as it goes.
    pub(crate) fn dispatch(&mut self, now: Moment, id: CallId) {
        self.parked.remove(&id);
        let Some(call) = self.calls.get(&id) else { return };
        let shard = call.shard;
        if call.op.is_stamped() && call.stamp.is_none() && !self.take_seat(now, id) {
            return;
        }
        match self.route(now, shard) {
            Ok(key) => match self.link_to(now, &key) {
                Ok(link) => {
                    self.place(id, Place::Queued(link));
                    let asks = Asks::of(&self.calls[&id].op);
                    self.links.get_mut(&link).expect("just found").line(asks).push_back(id);
                    self.pump(now, link);
                }
                Err(rests_until) => {
                    let why = format!("{} can't be reached", key.address);
                    self.park(now, id, rests_until, why);
                    self.want_map(now);
                }
            },
            Err(why) => {
                let pause = self.pause(id);
                self.park(now, id, now + pause, why);
                self.want_map(now);
            }
        }
    }

    /// Tries a call again after a pause.
    pub(crate) fn retry(&mut self, now: Moment, id: CallId, pause: Duration, why: String) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        call.last = why;
        if call.aside && call.slot.is_none() {
            // Nobody wants a message any more; one that it took comes back by itself.
            let subject = call.op.to_string();
            return self.finish(now, id, Err(Error::Closed { subject }));
        }
        if call.aside {
            call.renew_wait(now);
        }
        if pause.is_zero() {
            self.dispatch(now, id);
        } else {
            call.pauses += 1;
            self.place(id, Place::Backoff(now + pause));
        }
    }

    /// Tries a call again at a moment, or once the topology is known.
    fn park(&mut self, now: Moment, id: CallId, at: Moment, why: String) {
        self.parked.insert(id);
        self.retry(now, id, at.since(now).max(BACKOFF_MIN), why);
    }

    /// Tries every call again that had no route.
    pub(crate) fn unpark(&mut self, now: Moment) {
        for id in std::mem::take(&mut self.parked) {
            let waits = |c: &Call| matches!(c.place, Place::Backoff(_));
            if self.calls.get(&id).is_some_and(waits) {
                self.dispatch(now, id);
            }
        }
    }

    /// How long a call waits before its next try: doubling, with chance, within limits.
    pub(crate) fn pause(&mut self, id: CallId) -> Duration {
        let tries = self.calls.get(&id).map_or(0, |c| c.pauses).min(8);
        let full = (BACKOFF_MIN * (1 << tries)).min(BACKOFF_MAX);
        self.chance(full)
    }

    /// A duration between half of `full` and all of it, by chance.
    pub(crate) fn chance(&mut self, full: Duration) -> Duration {
        // Xorshift (Marsaglia 2003): chance that only has to spread clients out.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        full / 2 + full.mul_f64((self.random % 1024) as f64 / 2048.0)
    }

    /// Puts a call into a place and sets its timer.
    pub(crate) fn place(&mut self, id: CallId, place: Place) {
        let call = self.calls.get_mut(&id).expect("a call is placed while it is open");
        call.place = place;
        let timer = match place {
            Place::Backoff(at) | Place::Turn(at) => at.min(call.deadline),
            _ => call.deadline,
        };
        if call.timer != timer {
            self.timers.remove(&(call.timer, id));
            call.timer = timer;
            self.timers.insert((timer, id));
        }
    }

    /// Finishes a call: hands its outcome over and frees its place in the window.
    pub(crate) fn finish(&mut self, now: Moment, id: CallId, outcome: Outcome) {
        let Some(call) = self.calls.remove(&id) else { return };
        self.timers.remove(&(call.timer, id));
        self.parked.remove(&id);
        self.call_bytes = self.call_bytes.saturating_sub(call.op.bytes());
        self.follow_turn(now, id, &call.op, &outcome);
        match (call.slot, outcome) {
            (Some(slot), outcome) => self.out.done.push((slot, outcome)),
            (None, Ok(answer)) => self.undo(now, answer),
            (None, Err(_)) => {}
        }
        if let Some(stamp) = call.stamp.filter(|_| !call.aside) {
            self.leave_seat(now, call.shard, stamp);
        }
    }

    /// The caller has given a call up. `unseen`: its outcome, if it was there already.
    pub fn abandon(&mut self, now: Moment, id: CallId, unseen: Option<Outcome>) {
        if let Some(Ok(answer)) = unseen {
            self.undo(now, answer);
        }
        let Some(call) = self.calls.get_mut(&id) else { return };
        if call.op.is_owed() {
            self.orphan(id);
            return;
        }
        if !call.may_be_applied() {
            let subject = call.op.to_string();
            call.slot = None;
            return self.finish(now, id, Err(Error::Closed { subject }));
        }
        if call.op.is_grant() {
            self.orphan(id);
        }
    }

    /// Keeps a call until it is answered, for nobody: what it brings must be given back, or it gives something back
    /// itself.
    pub(crate) fn orphan(&mut self, id: CallId) -> Option<Arc<Slot>> {
        let call = self.calls.get_mut(&id)?;
        call.deadline = Moment::MAX;
        let (slot, place) = (call.slot.take(), call.place);
        self.place(id, place);
        slot
    }

    /// Time passed.
    pub fn tick(&mut self, now: Moment) {
        if self.phase == Phase::Gone {
            return;
        }
        while let Some((at, id)) = self.timers.first().copied() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            self.on_timer(now, id);
        }
        self.due_at = Moment::MAX;
        self.tick_ready(now);
        self.tick_session(now);
        self.tick_fetch(now);
        self.tick_links(now);
    }

    /// When [`State::tick`] wants to be called next.
    pub fn wake_at(&self) -> Moment {
        let timer = self.timers.first().map_or(Moment::MAX, |(at, _)| *at);
        timer.min(self.due_at)
    }

    /// Something is due at `at`.
    pub(crate) fn due(&mut self, at: Moment) {
        self.due_at = self.due_at.min(at);
    }

    fn on_timer(&mut self, now: Moment, id: CallId) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        call.timer = Moment::MAX;
        if matches!(call.place, Place::Turn(_)) {
            return self.look_at_turn(now, id);
        }
        if now < call.deadline {
            return self.dispatch(now, id);
        }
        let subject = call.op.to_string();
        let why = format!("no answer within {:?}; last: {}", now.since(call.begun), call.last);
        if call.op.is_owed() {
            let why = format!("{why}; the client goes on trying until its session ends");
            let unknown = Error::OutcomeUnknown { subject, why };
            let slot = self.orphan(id);
            self.out.done.extend(slot.map(|slot| (slot, Err(unknown))));
            return;
        }
        if !call.may_be_applied() {
            let (waited, last) = (now.since(call.begun), std::mem::take(&mut call.last));
            return self.finish(now, id, Err(Error::Deadline { subject, waited, last }));
        }
        let unknown = Error::OutcomeUnknown { subject, why };
        if call.op.is_grant() {
            let slot = self.orphan(id);
            self.out.done.extend(slot.map(|slot| (slot, Err(unknown))));
        } else {
            self.finish(now, id, Err(unknown));
        }
    }
}
