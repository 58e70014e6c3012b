//! The protocol's client side, once: sessions, windows, retries, routes, heartbeats. No socket, no clock, no thread:
//! each input says what happened and when, and what is to be done comes out as data.
//!
//! Whoever drives it (the client's threads, a load generator, a simulator) carries bytes, tells the time, and decides
//! nothing.
//!
//! # How it works
//! In: [`Core::submit`] takes a call, [`Core::on_frame`] what a node answered, [`Core::on_connected`] and
//! [`Core::on_closed`] what became of a connection, [`Core::tick`] that time passed, at the latest at
//! [`Core::wake_at`]. Out: [`Core::next_event`] says what is to be done, [`Core::next_finished`] what calls came to,
//! [`Core::next_to_send`] which connection has bytes in [`Core::bytes_of`]. The answer that a frame brings to a call is given
//! by `on_frame` itself, so that its bytes may stay where they are.
//!
//! `dispatch` brings a call as far as it goes: an acquire waits until the client's own guards admit it (`turns`), then a
//! call goes into its shard's window (`seats`), to the shard's leader (`routes`), onto a connection (`links`), where it
//! is sent as soon as there is credit. `replies` reads what comes back: the result, or a reason to try again, which
//! brings the call to `Place::Backoff` and back to `dispatch`. Every call has one timer (`timers`), for its deadline
//! or its next try.
//!
//! What is asked is an [`Ask`]: the core keeps it, encodes it anew for each try, and does not know where its bytes lie.
//! Several sessions may share a core: they share its connections, and each has windows of its own.
//!
//! Tables are dense (`slab`): a request id is the place of what was sent, so an answer finds its call without a search.
//! A window is a ring of the sequences that a shard remembers. In the steady state a call allocates nothing.
//!
//! # Invariants
//! - A call that changes something keeps its (session, sequence) over all tries.
//! - A call is finished once, and its place in the window is free from then on.
//! - A call that may bring a lock or a message is not forgotten before it was answered, even if its
//!   caller has given it up: what it brings is given back.
//! - Nor is a call that gives something back, before the session ended: it has places of its own in the
//!   window and in a connection's credit.
//! - The same inputs give the same outputs. Chance comes from a seed, and nothing is hashed.
//!
//! # Left out
//! - The hello: a driver says it and hands over the welcome, since it knows best how to wait for one.
//! - Frames that nobody asked for are passed over, except for what a node says before it closes a connection.
//! - Words: failures are data, and say what they mean only when they are shown (`words`).
//!
//! # Sources
//! Exactly-once by session and sequence: Ongaro, Consensus: Bridging Theory and Practice, section 6.3. The shape:
//! quinn-proto, a state machine that is told the time.

mod ask;
mod calls;
mod chance;
mod end;
mod links;
mod map;
mod outcome;
mod replies;
mod routes;
mod seats;
mod session;
mod slab;
#[cfg(test)]
#[cfg(feature = "edge")]
mod tests;
mod time;
mod timers;
mod turns;
mod window;
mod words;

pub use ask::{Ask, LockStep, Mode, Reply};
pub use map::Map;
pub use outcome::{
    After, Doubt, End, Event, Failure, Finished, Loss, Obstacle, Outcome, Said, Standing, Trouble,
};
pub use slab::Key;
pub use time::Moment;
pub use window::Window;

pub(crate) use time::{millis, surely};

use crate::limits::SILENCE_MAX;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use calls::Call;
use chance::Chance;
use core::time::Duration;
use links::{Link, LinkKey, Rest, What};
use outcome::Out;
use routes::Fetch;
use session::Session;
use slab::Slab;
use timers::Timers;
use turns::Turns;
use wire::message::Hello;

/// A session's 128 random bits.
pub type SessionId = [u8; 16];

/// Numbers a call.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CallId(pub Key);

/// Numbers a connection; none is used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LinkId(pub Key);

/// Numbers a session of a core, from 0. What takes the place of one that ended has its key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionKey(pub u32);

/// How a core is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Some of the cluster's nodes: "host:port".
    pub addresses: Vec<Arc<str>>,
    /// Where everything is, if that was told already: to another core, say. Calls can be made at once then.
    pub map: Option<Map>,
    /// How long sessions outlive the client's last sign of life.
    pub session_ttl: Duration,
    /// How long it may take until somebody tells where everything is.
    pub ready_within: Duration,
    /// How many connections to make to each engine that is used.
    pub lanes: u32,
    /// What becomes of an acquire of what the session may hold already.
    pub again: Again,
    /// How many sessions there are.
    pub sessions: u32,
    /// The first of them was left behind by another process.
    pub resume: Option<Resume>,
    /// Random: chance and the sessions' ids follow from it.
    pub seed: [u8; 16],
}

/// What becomes of an acquire of what the session may hold already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Again {
    /// It waits until that was given back: the session's threads exclude each other.
    Waits,
    /// It is sent, and the shard grants it again.
    IsSent,
}

/// A session that another process left behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Resume {
    /// Its id.
    pub session: SessionId,
    /// Above all sequences that were used.
    pub sequence: u64,
}

/// How far the core's life has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Calls are taken.
    Running,
    /// Nothing new is taken; the sessions are being closed.
    Leaving,
    /// Nothing is left.
    Gone,
}

/// Whether somebody is told what a call came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Caller {
    /// Somebody waits for it.
    Waits,
    /// Nobody does: what it brings is given back.
    Nobody,
}

/// A call to be made.
#[derive(Clone, Debug)]
pub struct Order<A> {
    /// What is asked.
    pub ask: A,
    /// By which session.
    pub session: SessionKey,
    /// Of which shard; none: the one that its name leads to.
    pub shard: Option<u32>,
    /// How long it may take in all.
    pub limit: Duration,
    /// The only session under which it makes sense.
    pub bound: Option<SessionId>,
    /// Who waits for it.
    pub caller: Caller,
}

/// The client's side of the protocol.
pub struct Core<A> {
    settings: Settings,
    /// How long what a session holds is held for sure after a sign of life was sent.
    tenure: Duration,
    /// How long a connection may be silent while an answer is due.
    silence: Duration,
    half_silence: Duration,
    phase: Phase,
    map: Option<Map>,
    /// By shard: the connection to its leader, as far as it was looked up.
    ways: Vec<Option<LinkId>>,
    fetch: Fetch,
    links: Slab<Link>,
    by_key: BTreeMap<LinkKey, LinkId>,
    rests: BTreeMap<Arc<str>, Rest>,
    sessions: Vec<Session>,
    /// No heartbeat and no session's end is due before.
    sessions_due: Moment,
    calls: Slab<Call<A>>,
    timers: Timers,
    turns: Turns,
    out: Out<A>,
    /// When something other than a call's timer is due, at the latest.
    due_at: Moment,
    /// Since when, and until when, the first topology is waited for.
    unready: Option<(Moment, Moment)>,
    call_bytes: usize,
    /// How many calls there were.
    taken: u64,
    chance: Chance,
}

impl<A: Ask> Core<A> {
    /// A core that knows nothing yet: it asks where everything is.
    pub fn new(now: Moment, mut settings: Settings) -> Core<A> {
        assert!(settings.sessions > 0 && settings.lanes > 0 && !settings.addresses.is_empty());
        let map = settings.map.take();
        let mut chance = Chance::new(settings.seed);
        let mut sessions = Vec::new();
        for key in 0..settings.sessions {
            sessions.push(match settings.resume {
                Some(Resume { session, sequence }) if key == 0 => {
                    Session::resumed(session, sequence)
                }
                _ => Session::new(chance.session_id(), 0),
            });
        }
        let tenure = surely(settings.session_ttl);
        let silence = SILENCE_MAX.min(settings.session_ttl / 3);
        let mut core = Core {
            tenure,
            silence,
            half_silence: silence / 2,
            phase: Phase::Running,
            ways: vec![None; map.as_ref().map_or(0, |map| map.shards as usize)],
            unready: map.is_none().then(|| (now, now + settings.ready_within)),
            map,
            fetch: Fetch::default(),
            links: Slab::default(),
            by_key: BTreeMap::new(),
            rests: BTreeMap::new(),
            sessions,
            sessions_due: Moment::MAX,
            calls: Slab::default(),
            timers: Timers::default(),
            turns: Turns::default(),
            out: Out::default(),
            due_at: Moment::MAX,
            call_bytes: 0,
            taken: 0,
            chance,
            settings,
        };
        if let Some((_, until)) = core.unready {
            core.due(until);
            core.want_map(now);
        }
        core
    }

    /// How far its life has come.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Where everything is, as last told.
    pub fn map(&self) -> Option<&Map> {
        self.map.as_ref()
    }

    /// The present id of a session.
    pub fn session_id(&self, session: SessionKey) -> SessionId {
        self.sessions[session.0 as usize].id
    }

    /// The moment up to which a session surely lives in a shard; none if it was never used there.
    pub fn until(&self, session: SessionKey, shard: u32) -> Option<Moment> {
        Some(self.sessions[session.0 as usize].seat(shard)?.until)
    }

    /// What is asked by a call that is open.
    pub fn ask(&self, call: CallId) -> Option<&A> {
        Some(&self.calls.get(call.0)?.ask)
    }

    /// The call that a request on a connection is a try of, as long as the request is unanswered.
    pub fn call_of(&self, link: LinkId, request: u64) -> Option<CallId> {
        match self.links.get(link.0)?.unanswered.get(Key::of_number(request))?.what {
            What::Call(call) => Some(call),
            What::Open { .. } | What::Beat(_) | What::Map => None,
        }
    }

    /// How many calls are open.
    pub fn calls(&self) -> usize {
        self.calls.len()
    }

    /// What is to be said first on a connection. `name` is for people.
    pub fn hello<'a>(&self, engine: u32, name: &'a str) -> Hello<'a> {
        Hello {
            cluster: self.map.as_ref().map_or([0; 16], |map| map.cluster),
            client: self.sessions[0].id,
            engine,
            version_min: wire::header::VERSION,
            version_max: wire::header::PROTOCOL_MAX,
            name: name.as_bytes(),
            credentials: &[],
        }
    }

    /// Time passed.
    pub fn tick(&mut self, now: Moment) {
        if self.phase == Phase::Gone {
            return;
        }
        while let Some(index) = self.timers.pop(now) {
            self.on_ring(now, index);
        }
        self.due_at = Moment::MAX;
        self.tick_ready(now);
        self.tick_sessions(now);
        self.tick_fetch(now);
        self.tick_links(now);
    }

    /// When [`Core::tick`] wants to be called next.
    pub fn wake_at(&self) -> Moment {
        match self.phase {
            Phase::Gone => Moment::MAX,
            Phase::Running | Phase::Leaving => self.timers.next().min(self.due_at),
        }
    }

    /// Something is due at `at`.
    fn due(&mut self, at: Moment) {
        self.due_at = self.due_at.min(at);
    }

    /// The next thing that is to be done or known. Comes before what calls came to.
    pub fn next_event(&mut self) -> Option<Event> {
        self.out.events.pop_front()
    }

    /// The next call that ended without a frame of its own.
    pub fn next_finished(&mut self) -> Option<Finished<'static, A>> {
        self.out.finished.pop_front()
    }

    /// The next connection that has bytes to be sent.
    pub fn next_to_send(&mut self) -> Option<LinkId> {
        while let Some(id) = self.out.dirty.pop() {
            if let Some(link) = self.links.get_mut(id.0) {
                link.is_dirty = false;
                return Some(id);
            }
        }
        None
    }

    /// The bytes that wait to be sent on a connection, to be taken by whoever sends them; none: it is gone.
    pub fn bytes_of(&mut self, link: LinkId) -> Option<&mut Vec<u8>> {
        Some(&mut self.links.get_mut(link.0)?.out)
    }

    fn event(&mut self, event: Event) {
        self.out.events.push_back(event);
    }
}

/// Each address, and what happened there.
type Tried = Box<[(Arc<str>, Trouble)]>;
