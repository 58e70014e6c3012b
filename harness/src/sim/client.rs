//! One seeded client: it drives the client's own core (`client::core`), and writes down what it asked for and saw.
//!
//! The core has the session, the windows, the retries, the routes and the heartbeats. What is here wants things
//! (`wants.rs`), does harm (connections that break, sleep, beliefs that are wrong, calls that are asked twice), and
//! looks at each frame that comes and goes (`lines.rs`).

use super::asks::Want;
use super::calls::KEYS;
use super::calls::{Did, Hold, Record, Saw, key_name};
use super::cells::Cells;
use super::clients::{Confusion, History, Load, PATIENCE};
use super::given_up::GivenUp;
use super::lines::Lines;
use super::seats::{Layout, SHARDS_MAX, SeatId};
use super::wants::Memory;
use client::core::{
    Again, CallId, Caller, Core, Event, Failure, Finished, Moment, Order, Outcome, SessionKey,
    Settings, Trouble,
};
use engine::ids::ConnId;
use engine::time::{Duration, Time};
use std::sync::Arc;
use wire::Code;
use wire::random::Random;

/// A client has one session.
pub(super) const SESSION: SessionKey = SessionKey(0);
/// How long a node may take to welcome a client.
const WELCOME_MAX: Duration = Duration::from_millis(300);
/// A call goes to any node and not where the leader is believed to be, one time in so many.
const STRAYS_ONE_IN: u32 = 4;
/// A call that can't bring a lock or a message has a deadline, one time in so many.
const HURRIES_ONE_IN: u32 = 8;
/// The guards of one client of so many exclude each other: an acquire waits for those before it in the client.
const TAKES_TURNS_ONE_IN: u32 = 3;
/// The longest pause between two calls of a client that asks two leaders, in milliseconds.
const CONFUSED_PAUSE_MILLIS_MAX: u64 = 4;

/// A frame that a client sends, or a connection that it makes.
pub struct Send {
    pub to: SeatId,
    pub conn: ConnId,
    pub what: Sent,
}

/// What a client does to a connection.
pub enum Sent {
    Opens,
    Frame {
        frame: Vec<u8>,
        /// The session for which it is a sign of life; if it is a call, its shard and sequence.
        sign: Option<[u8; 16]>,
        call: Option<(u32, u64)>,
    },
}

/// A call that is open.
pub(super) struct Open {
    pub call: CallId,
    pub did: Did,
    pub invoked: Time,
    /// When it is asked once more, elsewhere.
    pub again_at: Time,
    /// How often it was sent.
    pub tries: u32,
    /// Later calls say that it was answered: it leaves its line.
    pub given_up: bool,
}

/// A lock that is held.
pub(super) struct Held {
    pub(super) lock: u8,
    exclusive: bool,
    pub(super) fence: u64,
    from: Time,
    /// When its lease may end.
    lease: Time,
    /// What was granted under its fence: each is released once.
    guards: Vec<Guard>,
}

/// An acquire that was granted, under a fence that others may have as well.
struct Guard {
    exclusive: bool,
    /// When its own lease may end.
    lease: Time,
    release_at: Time,
}

/// A message that was delivered and not given back yet.
pub(super) struct Kept {
    pub(super) queue: u8,
    pub(super) id: u64,
    pub(super) delivery: u32,
    until: Time,
}

pub(super) struct Client {
    pub(super) id: u32,
    pub(super) core: Core<Want>,
    pub(super) lines: Lines,
    /// Whether it knows where everything is.
    pub(super) ready: bool,
    pub(super) open: Vec<Open>,
    pub(super) next_at: Time,
    pub(super) holding: Vec<Held>,
    pub(super) messages: Vec<Kept>,
    pub(super) memory: Memory,
    pub(super) given_up: GivenUp,
    /// What becomes of an acquire of what it may hold already.
    again: Again,
    /// When its last session ended.
    ended_at: Option<Time>,
    /// The moment up to which the session surely lives in each shard.
    guards: [Option<Time>; SHARDS_MAX as usize],
    /// The arrival of the last frame: frames of a connection don't overtake each other.
    pub(super) last_arrival: Time,
    value_bytes_max: usize,
    /// How many nodes there are.
    nodes: u32,
    pub(super) layout: Layout,
    pub(super) load: Load,
    pub(super) window: usize,
    pub(super) asleep_until: Time,
    /// What it wrote to the new one of two leaders, and was told.
    pub(super) wrote: Option<u8>,
    pub(super) chance: Random,
}

/// The world's time, as a core is told it.
pub(super) fn moment(time: Time) -> Moment {
    Moment(time.0)
}

impl Client {
    pub(super) fn new(
        id: u32,
        value_bytes_max: usize,
        (nodes, layout): (u32, Layout),
        load: Load,
        mut chance: Random,
    ) -> Client {
        let takes_turns = id % TAKES_TURNS_ONE_IN == TAKES_TURNS_ONE_IN - 1;
        let again = if takes_turns { Again::Waits } else { Again::IsSent };
        let address = |node| Arc::from(format!("node{node}:7400"));
        let settings = Settings {
            addresses: (1..=super::FOUNDERS).map(address).collect(),
            map: None,
            session_ttl: Duration::from_millis([2_000, 1_000, 2_000, 3_000][id as usize % 4]),
            ready_within: Duration::MAX,
            lanes: 1,
            again,
            sessions: 1,
            resume: None,
            seed: chance.id(),
        };
        Client {
            id,
            core: Core::new(moment(Time(0)), settings),
            lines: Lines::new(id),
            ready: false,
            open: Vec::new(),
            next_at: Time(0),
            holding: Vec::new(),
            messages: Vec::new(),
            memory: Memory::default(),
            given_up: GivenUp::default(),
            again,
            ended_at: None,
            guards: [None; SHARDS_MAX as usize],
            last_arrival: Time(0),
            value_bytes_max,
            nodes,
            layout,
            load,
            window: 1 + id as usize % load.window_max,
            asleep_until: Time(0),
            wrote: None,
            chance,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.open.is_empty()
            && self.holding.is_empty()
            && self.messages.is_empty()
            && self.core.calls() == 0
    }

    pub(super) fn up_to(&mut self, millis: u64) -> Duration {
        Duration::from_millis(self.chance.u64(1..millis))
    }

    /// Lets its core see that time passed.
    pub(super) fn tick(&mut self, now: Time) {
        self.drop_unwelcome(now);
        if self.core.wake_at() <= moment(now) {
            self.core.tick(moment(now));
        }
        for at in 0..self.open.len() {
            if now >= self.open[at].again_at {
                self.ask_again(now, at);
            }
        }
    }

    /// When it has to look: something is due, or somebody has to lose patience.
    pub(super) fn wake_at(&self) -> Time {
        let again = self.open.iter().map(|open| open.again_at).min().unwrap_or(Time::MAX);
        Time(self.core.wake_at().0).min(again).min(self.lines.wake_at())
    }

    /// Nobody answered: perhaps another node does, and perhaps both do.
    fn ask_again(&mut self, now: Time, at: usize) {
        let node = self.chance.u32(..self.nodes);
        let open = &mut self.open[at];
        open.again_at = now + patience(&open.did);
        self.core.believe(moment(now), open.did.shard(self.layout.shards), node + 1);
        self.core.ask_again(moment(now), open.call);
    }

    /// Nodes that did not welcome it in time are given up.
    fn drop_unwelcome(&mut self, now: Time) {
        while let Some(link) = self.lines.take_unwelcome(now) {
            self.core.on_closed(moment(now), link, Trouble::world("no welcome"));
        }
    }

    /// Its connections are gone, with what is on its way over them.
    pub(super) fn disconnect(&mut self, now: Time) {
        for to in self.lines.all() {
            if let Some(link) = self.lines.close(to) {
                self.core.on_closed(moment(now), link, Trouble::world("it broke"));
            }
        }
    }

    /// A node is gone, and with it all connections to it.
    pub(super) fn forget(&mut self, now: Time, node: u32) {
        for at in self.layout.seats_of(node) {
            if let Some(link) = self.lines.forget(at) {
                self.core.on_closed(moment(now), link, Trouble::world("the node is gone"));
            }
        }
    }

    /// Reads from who led before, or writes to who leads now. Every other client writes first, and reads what it wrote.
    pub(super) fn ask_both(&mut self, now: Time, confusion: Confusion, values: &mut u64) {
        self.next_at = now + self.up_to(CONFUSED_PAUSE_MILLIS_MAX);
        let shards = self.layout.shards;
        let in_shard = |key: &u8| wire::name::shard(&key_name(*key), shards) == confusion.shard;
        let keys: Vec<u8> = (0..KEYS).filter(in_shard).collect();
        let Some(key) = self.chance.choice(keys) else { return };
        *values += 1;
        let wrote = self.wrote.filter(in_shard);
        let (reads, key) = match (self.id.is_multiple_of(2), wrote) {
            (true, Some(key)) => (true, key),
            (true, None) => (false, key),
            (false, _) => (self.chance.bool(), key),
        };
        let did = if reads { Did::Get { key } } else { Did::put(key, *values) };
        let to = if reads { confusion.deposed } else { confusion.elected };
        self.core.believe(moment(now), confusion.shard, to + 1);
        self.submit(now, did);
    }

    /// What is to be given back, if there is something.
    pub(super) fn give_back(
        &mut self,
        now: Time,
        works: bool,
        history: &mut History,
    ) -> Option<Did> {
        let is_due = |guard: &Guard| now >= guard.release_at || !works;
        let due = |held: &Held| held.guards.iter().position(is_due);
        let due = self.holding.iter().enumerate().find_map(|(at, held)| Some((at, due(held)?)));
        if let Some((at, guard)) = due {
            let Held { lock, fence, ref mut guards, .. } = self.holding[at];
            guards.remove(guard);
            if guards.is_empty() {
                self.end_hold(now, at, history);
            }
            return Some(Did::Release { lock, fence });
        }
        let due = self.messages.iter().position(|kept| now >= kept.until || !works)?;
        let Kept { queue, id, delivery, .. } = self.messages.remove(due);
        let back = works && self.chance.u32(..4) == 0;
        let delay_ms = if self.chance.u32(..3) == 0 { 0 } else { self.chance.u32(50..700) };
        Some(match back {
            true => Did::Nack { queue, id, delivery, delay_ms },
            false => Did::Ack { queue, id, delivery },
        })
    }

    /// Makes a call, now and then where the leader is not believed to be.
    pub(super) fn call(&mut self, now: Time, did: Did) {
        if self.chance.u32(..STRAYS_ONE_IN) == 0 {
            let node = self.chance.u32(..self.nodes);
            self.core.believe(moment(now), did.shard(self.layout.shards), node + 1);
        }
        self.submit(now, did);
    }

    fn submit(&mut self, now: Time, did: Did) {
        let limit = match did {
            Did::Put { .. }
            | Did::Get { .. }
            | Did::Delete { .. }
            | Did::Push { .. }
            | Did::Ack { .. }
            | Did::Nack { .. }
                if self.chance.u32(..HURRIES_ONE_IN) == 0 =>
            {
                Duration::from_millis(self.chance.u64(20..2_500))
            }
            _ => Duration::MAX,
        };
        let order = Order {
            ask: Want::new(did.clone(), self.value_bytes_max),
            session: SESSION,
            shard: Some(did.shard(self.layout.shards)),
            limit,
            bound: None,
            caller: Caller::Waits,
        };
        let again_at = now + patience(&did);
        let call = self.core.submit(moment(now), order);
        self.open.push(Open { call, did, invoked: now, again_at, tries: 0, given_up: false });
    }

    /// Does what its core left to be done.
    pub(super) fn settle_all(
        &mut self,
        now: Time,
        history: &mut History,
        lent: &mut Vec<(u8, u64, u32)>,
    ) -> Result<(), String> {
        while let Some(event) = self.core.next_event() {
            self.on_event(now, event, history);
        }
        while let Some(finished) = self.core.next_finished() {
            self.settle(now, finished, Saw::Unknown, history, lent)?;
        }
        self.lines.send(now, &mut self.core, &mut self.open);
        Ok(())
    }

    fn on_event(&mut self, now: Time, event: Event, history: &mut History) {
        match event {
            Event::Connect { link, address, engine } => {
                let node = address.strip_prefix("node").and_then(|rest| rest.strip_suffix(":7400"));
                let node: u32 = node.and_then(|id| id.parse().ok()).expect("a node's address");
                let to = SeatId { node: node - 1, engine };
                self.lines.open(to, link, now + WELCOME_MAX);
            }
            Event::Close { link } => self.lines.close_link(link),
            Event::Ready => self.ready = true,
            Event::Renewed { standing, .. } => {
                self.guards[standing.shard as usize] = Some(Time(standing.until.0));
                self.lines.confirmed(standing.session, standing.shard);
            }
            Event::Ended { id, .. } => {
                while !self.holding.is_empty() {
                    self.end_hold(now, 0, history);
                }
                self.memory.before = Some(id);
                self.ended_at = Some(now);
                self.messages.clear();
                self.guards = [None; SHARDS_MAX as usize];
            }
            Event::Unreached { .. } | Event::Left => {}
        }
    }

    /// A call came to its end. `saw`: what the frame said that ended it.
    pub(super) fn settle(
        &mut self,
        now: Time,
        finished: Finished<'_, Want>,
        saw: Saw,
        history: &mut History,
        lent: &mut Vec<(u8, u64, u32)>,
    ) -> Result<Option<(Did, Saw)>, String> {
        let at = self.open.iter().position(|open| open.call == finished.call);
        let open = self.open.remove(at.ok_or("a call was finished twice")?);
        let saw = match finished.outcome {
            Outcome::Done { standing, .. } => {
                if let Some(standing) = standing {
                    self.guards[standing.shard as usize] = Some(Time(standing.until.0));
                }
                saw
            }
            // While the cluster is upgraded. Nothing was done: there is nothing to write down.
            Outcome::Refused { code: Code::UnknownKind | Code::LevelTooLow, .. } => {
                history.too_new += 1;
                return Ok(None);
            }
            Outcome::Refused { code, by: None, .. } => {
                self.check_refusal(now, &open.did)?;
                history.cells.own_turn(code);
                Saw::Refused(code)
            }
            Outcome::Refused { .. } => saw,
            Outcome::Failed(Failure::Unknown(_)) => Saw::Unknown,
            // It was certainly not done, so nobody may see that it was.
            Outcome::Failed(Failure::SessionLost(_) | Failure::Deadline { .. }) => {
                return Ok(None);
            }
            Outcome::Failed(failure) => {
                return Err(format!("client {}: {:?} failed: {failure:?}", self.id, open.did));
            }
        };
        self.check_turn(now, &open.did, saw)?;
        self.finish(now, &open, saw, lent);
        let (client, did, invoked) = (self.id, open.did, open.invoked);
        history.records.push(Record { client, did: did.clone(), invoked, replied: now, saw });
        Ok(Some((did, saw)))
    }

    /// Ends the session, with whatever it has.
    pub(super) fn close(&mut self, now: Time) {
        self.core.renew_session(moment(now), SESSION);
    }

    fn end_hold(&mut self, now: Time, at: usize, history: &mut History) {
        let Held { lock, exclusive, fence, from, lease, .. } = self.holding.remove(at);
        let shard = Did::Release { lock, fence }.shard(self.layout.shards);
        let guard = self.guards[shard as usize].unwrap_or(from);
        let to = now.min(guard).min(lease);
        history.holds.push(Hold { client: self.id, lock, exclusive, fence, from, to });
    }

    /// Whether it holds a lock, or may hold it once what it asked for is answered.
    pub(super) fn may_hold(&self, lock: u8) -> bool {
        let concerns = |open: &Open| match open.did {
            Did::Acquire { lock: of, .. } | Did::Release { lock: of, .. } => of == lock,
            _ => false,
        };
        self.holding.iter().any(|held| held.lock == lock) || self.open.iter().any(concerns)
    }

    /// Guards of a client that takes turns exclude each other.
    fn check_turn(&self, now: Time, did: &Did, saw: Saw) -> Result<(), String> {
        let (Did::Acquire { lock, exclusive, .. }, Saw::Done { .. }) = (did, saw) else {
            return Ok(());
        };
        // A guard whose lease is over is in nobody's way, even if its grant goes on for another one.
        let beside = |guard: &Guard| now < guard.lease && (guard.exclusive || *exclusive);
        let held = |held: &&Held| held.lock == *lock && held.guards.iter().any(beside);
        match self.holding.iter().find(held) {
            Some(held) if self.again == Again::Waits => {
                Err(format!("client {}: {did:?} is granted beside fence {}", self.id, held.fence))
            }
            _ => Ok(()),
        }
    }

    /// The client itself refused an acquire: another guard of its own must be in the way, perhaps by a session that
    /// ended at this moment.
    fn check_refusal(&self, now: Time, did: &Did) -> Result<(), String> {
        let goes_on = self.core.calls() > self.open.len() || self.ended_at == Some(now);
        match did {
            Did::Acquire { lock, .. } if self.may_hold(*lock) || goes_on => Ok(()),
            _ => Err(format!("client {}: {did:?} is refused, and nothing is in its way", self.id)),
        }
    }

    /// What an answer means for what the client does next.
    fn finish(&mut self, now: Time, open: &Open, saw: Saw, lent: &mut Vec<(u8, u64, u32)>) {
        self.memory.on_answer(&open.did, saw);
        if saw == Saw::Unknown {
            self.note_unknown(&open.did);
        }
        match (&open.did, saw) {
            (Did::Put { key, .. }, Saw::Done { .. }) => self.wrote = Some(*key),
            (Did::Acquire { lock, exclusive, lease_ms, .. }, Saw::Done { token, .. }) => {
                let keeps = self.up_to(self.load.hold_millis_max);
                let release_at = if open.given_up { now } else { now + keeps };
                // A leader's clock may be faster, and the lease began after it was asked for.
                let lease_ms = u64::from(*lease_ms);
                let lasts = Duration::from_micros(lease_ms * 1_000 * 19 / 20);
                let lease = if lease_ms == 0 { Time::MAX } else { open.invoked + lasts };
                let held =
                    self.holding.iter_mut().find(|held| (held.lock, held.fence) == (*lock, token));
                let guard = Guard { exclusive: *exclusive, lease, release_at };
                match held {
                    Some(held) => {
                        held.guards.push(guard);
                        held.lease = held.lease.max(lease);
                    }
                    None => self.holding.push(Held {
                        lock: *lock,
                        exclusive: *exclusive,
                        fence: token,
                        from: now,
                        lease,
                        guards: vec![guard],
                    }),
                }
            }
            (Did::Release { lock, fence }, _) if !self.may_hold(*lock) => {
                self.memory.on_given_back(*lock, *fence);
            }
            // It may have been granted before it was given up, and then it is held.
            (Did::Acquire { .. }, Saw::Unknown) if open.given_up && open.tries > 1 => {
                self.memory.doubts = true;
            }
            (Did::Pop { queue, .. }, Saw::Message { id, delivery, .. }) => {
                let queue = *queue;
                if self.chance.u32(..8) == 0 {
                    return lent.push((queue, id, delivery));
                }
                let keeps = self.chance.u32(..4) == 0;
                let until = if keeps { now + self.up_to(800) } else { now };
                self.messages.push(Kept { queue, id, delivery, until });
            }
            _ => {}
        }
    }

    /// Counts an answer for the table of what was seen.
    pub(super) fn count(&self, call: CallId, did: &Did, saw: Saw, cells: &mut Cells) {
        cells.count(did, saw, self.left(call));
    }

    /// Whether its session surely lives in a shard.
    pub(super) fn is_guarded(&self, now: Time, shard: u32) -> bool {
        let until = self.core.until(SESSION, shard);
        until.is_some_and(|until| until != Moment::MAX && moment(now) < until)
    }
}

/// How long a call waits for its answer before it is asked once more.
fn patience(did: &Did) -> Duration {
    match did {
        Did::Acquire { .. } => PATIENCE * 3,
        Did::Pop { wait_ms, .. } => PATIENCE + Duration::from_millis(u64::from(*wait_ms)),
        _ => PATIENCE,
    }
}
