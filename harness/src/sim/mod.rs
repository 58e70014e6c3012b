//! A whole cluster in one thread: the real [`Engine`] on virtual time, a lossy network and disks
//! that forget what was not synced.
//!
//! One seed decides everything, and the same seed gives the same trace: the hash of every
//! event, in order, is printed so that two runs can be compared.
//!
//! # How it works
//!
//! Events lie in a heap by (time, number). A node gathers what arrives into an inbox and takes it in
//! one turn, like the server's loop: inputs, then `end_turn`, then the effects. A run has two phases.
//! In the first, nodes crash and come back, links are cut, messages are lost, doubled and overtake
//! each other, while clients work and write down what they saw. Then the faults stop, everybody must
//! finish, and [`check`] judges the history.
//!
//! # Left out
//!
//! Bit flips and misdirected writes, clock drift, pauses, membership: they come with the whole
//! simulator.

mod check;
mod clients;
mod disk;

use clients::Clients;
use disk::Disk;
use engine::effects::Effects;
use engine::engine::{Config, Engine, Input, Member, Reads};
use engine::ids::{ClusterId, ConnId, GroupId, Incarnation, Index, NodeId, Position};
use engine::time::{Duration, Time};
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::hash::{DefaultHasher, Hash, Hasher};
use wire::limits::PEER_FRAME_BYTES_MAX;

/// Nodes of the simulated cluster.
pub const NODES: u32 = 3;
/// Shards of the simulated cluster.
pub const SHARDS: u32 = 2;
const SEGMENT_BYTES: u64 = 256 << 10;
const SEGMENTS_MAX: u32 = 6;

/// What a run is to be like.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Decides everything.
    pub seed: u64,
    /// How long faults happen, in virtual time.
    pub faulty: Duration,
    /// How long everything may take to come right afterwards.
    pub calm: Duration,
}

impl Options {
    /// The options of `make test`: eight faulty seconds, thirty calm ones at most.
    pub fn small(seed: u64) -> Options {
        Options { seed, faulty: Duration::from_secs(8), calm: Duration::from_secs(30) }
    }
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// The hash of every event in order.
    pub trace: u64,
    /// Events.
    pub events: u64,
    /// Operations that clients finished.
    pub operations: u64,
    /// Crashes of nodes.
    pub crashes: u64,
    /// Snapshots made or installed.
    pub snapshots: u64,
    /// Virtual time that passed.
    pub elapsed: Duration,
}

/// How a run failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// Something happened that must never happen.
    #[error("safety: {0}")]
    Safety(String),
    /// Something that must happen did not.
    #[error("liveness: {0}")]
    Liveness(String),
}

/// Something that happens at a moment.
enum Event {
    /// A peer's frame arrives.
    Peer { from: u32, to: u32, link: u64, frame: Vec<u8> },
    /// A client's frame arrives on its connection.
    Request { to: u32, conn: ConnId, life: u64, frame: Vec<u8> },
    /// A node's answers arrive at a client.
    Reply { client: u32, generation: u32, bytes: Vec<u8> },
    /// A write is on the disk.
    Written { node: u32, life: u64, position: Position },
    /// A segment is ready.
    Segment { node: u32, life: u64, slot: u32 },
    /// A snapshot is on the disk.
    Saved { node: u32, life: u64, group: GroupId, index: Index },
    /// A node takes its turn.
    Turn { node: u32, life: u64 },
    /// A node loses its power.
    Crash { node: u32 },
    /// A node starts.
    Start { node: u32 },
    /// The network is cut, or whole again.
    Cut { blocked: Vec<(u32, u32)> },
    /// A client looks what it wants to do.
    Client { client: u32 },
}

/// Something in a node's inbox.
enum Incoming {
    Opened(ConnId),
    Closed(ConnId),
    Request(ConnId, Vec<u8>),
    Peer(u32, Vec<u8>),
    PeerUp(u32),
    PeerDown(u32),
    Synced(Position),
    Segment(u32),
    Saved(GroupId, Index),
}

/// How this run's world is: seeds differ in kind, not only in chance.
struct Temper {
    /// The longest that a write takes to be synced.
    sync_micros_max: u64,
    /// One message in so many is late.
    late_one_in: u32,
    /// The longest that a late message takes.
    late_micros_max: u64,
    /// The longest from one fault to the next.
    fault_every_millis_max: u64,
}

impl Temper {
    fn draw(seeds: &mut fastrand::Rng) -> Temper {
        let mut one_of = |values: [u64; 3]| values[seeds.usize(..3)];
        Temper {
            sync_micros_max: one_of([400, 5_000, 60_000]),
            late_one_in: one_of([5, 50, 200]) as u32,
            late_micros_max: one_of([2_000, 20_000, 200_000]),
            fault_every_millis_max: one_of([200, 600, 1_500]),
        }
    }
}

struct Node {
    engine: Option<Engine>,
    effects: Effects,
    disk: Disk,
    /// How often it was started: events of an earlier life are void.
    life: u64,
    inbox: Vec<Incoming>,
    /// When its next turn is, if one is planned.
    turn_at: Option<Time>,
}

/// A simulated cluster.
pub struct World {
    options: Options,
    now: Time,
    events: BinaryHeap<Reverse<(Time, u64)>>,
    /// The events by number; the heap holds only their order.
    bodies: std::collections::HashMap<u64, Event>,
    number: u64,
    nodes: Vec<Node>,
    clients: Clients,
    /// When each client looks again.
    client_at: Vec<Option<Time>>,
    /// Directed links that let nothing through.
    blocked: BTreeSet<(u32, u32)>,
    /// Messages of a link's earlier life are lost: grows at every crash.
    links: u64,
    faults: fastrand::Rng,
    network: fastrand::Rng,
    temper: Temper,
    trace: DefaultHasher,
    happened: u64,
    crashes: u64,
    snapshots: u64,
}

/// Runs a cluster by `options` and judges it.
///
/// # Errors
/// [`Failure`], which tells safety from liveness.
pub fn run(options: Options) -> Result<Report, Failure> {
    let mut world = World::new(options);
    world.plan_faults();
    let faulty_until = Time(0) + options.faulty;
    world.until(faulty_until)?;
    world.calm_down();
    let deadline = faulty_until + options.calm;
    while !world.is_settled() {
        if world.now >= deadline {
            return Err(Failure::Liveness(world.unsettled()));
        }
        let next = world.now + Duration::from_millis(50);
        world.until(next)?;
    }
    check::judge(&world.clients.history).map_err(Failure::Safety)?;
    world.compare_states()?;
    Ok(Report {
        trace: world.trace.finish(),
        events: world.happened,
        operations: world.clients.history.records.len() as u64,
        crashes: world.crashes,
        snapshots: world.snapshots,
        elapsed: world.now.since(Time(0)),
    })
}

impl World {
    fn new(options: Options) -> World {
        let mut seeds = fastrand::Rng::with_seed(options.seed);
        let nodes = (0..NODES).map(|_| Node {
            engine: None,
            effects: Effects::default(),
            disk: Disk::new(seeds.u64(..), SEGMENT_BYTES),
            life: 0,
            inbox: Vec::new(),
            turn_at: None,
        });
        let nodes = nodes.collect();
        let mut world = World {
            options,
            now: Time(0),
            events: BinaryHeap::new(),
            bodies: Default::default(),
            number: 0,
            nodes,
            clients: Clients::new(seeds.u64(..)),
            client_at: vec![None; clients::CLIENTS as usize],
            blocked: BTreeSet::new(),
            links: 0,
            temper: Temper::draw(&mut seeds),
            faults: seeds.fork(),
            network: seeds.fork(),
            trace: DefaultHasher::new(),
            happened: 0,
            crashes: 0,
            snapshots: 0,
        };
        (0..NODES).for_each(|node| world.plan(Duration::ZERO, Event::Start { node }));
        for client in 0..world.clients.len() {
            world.plan(Duration::from_millis(5), Event::Client { client });
        }
        world
    }

    fn plan(&mut self, after: Duration, event: Event) {
        self.number += 1;
        self.events.push(Reverse((self.now + after, self.number)));
        self.bodies.insert(self.number, event);
    }

    /// Lets everything happen that happens before `end`.
    fn until(&mut self, end: Time) -> Result<(), Failure> {
        while let Some(Reverse((at, number))) = self.events.peek().copied() {
            if at >= end {
                break;
            }
            self.events.pop();
            self.now = at;
            self.happened += 1;
            let event = self.bodies.remove(&number).expect("every planned event has a body");
            (at.0, number, event.kind()).hash(&mut self.trace);
            self.happen(event)?;
        }
        self.now = end;
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Result<(), Failure> {
        match event {
            Event::Peer { from, to, link, frame } => {
                if link == self.links && !self.blocked.contains(&(from, to)) {
                    self.deliver(to, Incoming::Peer(from, frame));
                }
            }
            Event::Request { to, conn, life, frame } => {
                if self.nodes[to as usize].life == life {
                    self.deliver(to, Incoming::Request(conn, frame));
                }
            }
            Event::Reply { client, generation, bytes } => {
                let again = self.clients.on_bytes(self.now, client, generation, &bytes);
                again.map_err(Failure::Safety)?;
                self.step_client(client);
            }
            Event::Written { node, life, position } => {
                if self.nodes[node as usize].life == life {
                    self.nodes[node as usize].disk.finish_write();
                    self.deliver(node, Incoming::Synced(position));
                }
            }
            Event::Segment { node, life, slot } => {
                if self.nodes[node as usize].life == life {
                    self.nodes[node as usize].disk.make_segment(slot);
                    self.deliver(node, Incoming::Segment(slot));
                }
            }
            Event::Saved { node, life, group, index } => {
                if self.nodes[node as usize].life == life {
                    self.nodes[node as usize].disk.finish_snapshot(group, index);
                    self.deliver(node, Incoming::Saved(group, index));
                }
            }
            Event::Turn { node, life } => self.turn(node, life),
            Event::Crash { node } => self.crash(node),
            Event::Start { node } => self.start(node)?,
            Event::Cut { blocked } => self.blocked = blocked.into_iter().collect(),
            Event::Client { client } => {
                self.client_at[client as usize] = None;
                self.clients.on_time(self.now, client);
                self.step_client(client);
            }
        }
        Ok(())
    }

    // ---- Nodes ----

    fn deliver(&mut self, to: u32, incoming: Incoming) {
        let node = &mut self.nodes[to as usize];
        if node.engine.is_none() {
            return;
        }
        node.inbox.push(incoming);
        let at = self.now + Duration::from_micros(self.network.u64(1..40));
        self.plan_turn(to, at);
    }

    fn plan_turn(&mut self, to: u32, at: Time) {
        let node = &mut self.nodes[to as usize];
        if node.turn_at.is_none_or(|planned| at < planned) {
            node.turn_at = Some(at);
            let life = node.life;
            self.plan(at.since(self.now), Event::Turn { node: to, life });
        }
    }

    /// A node takes in what has arrived, as one turn of the server's loop does.
    fn turn(&mut self, id: u32, life: u64) {
        let now = self.now;
        let node = &mut self.nodes[id as usize];
        if node.life != life || node.turn_at.is_none_or(|at| at > now) {
            return;
        }
        node.turn_at = None;
        let Some(engine) = &mut node.engine else { return };
        let effects = &mut node.effects;
        for incoming in node.inbox.drain(..) {
            match &incoming {
                Incoming::Request(conn, bytes) => {
                    let frame = wire::split(bytes, wire::limits::FRAME_BYTES_MAX);
                    let frame = frame.expect("clients send frames").expect("whole ones");
                    let (header, body) = (frame.header, frame.body);
                    engine.on(now, Input::Frame { conn: *conn, header, body }, effects);
                }
                Incoming::Peer(from, bytes) => {
                    let frame = wire::split(bytes, PEER_FRAME_BYTES_MAX);
                    let frame = frame.expect("nodes send frames").expect("whole ones");
                    let (header, body) = (frame.header, frame.body);
                    let peer = NodeId(from + 1);
                    engine.on(now, Input::Peer { peer, header, body }, effects);
                }
                Incoming::Opened(conn) => {
                    engine.on(now, Input::Opened { conn: *conn, request: 0 }, effects);
                }
                Incoming::Closed(conn) => engine.on(now, Input::Closed { conn: *conn }, effects),
                Incoming::PeerUp(n) => {
                    engine.on(now, Input::PeerUp { peer: NodeId(n + 1) }, effects);
                }
                Incoming::PeerDown(n) => {
                    engine.on(now, Input::PeerDown { peer: NodeId(n + 1) }, effects);
                }
                Incoming::Synced(position) => {
                    engine.on(now, Input::Synced { position: *position }, effects);
                }
                Incoming::Segment(slot) => {
                    engine.on(now, Input::SegmentReady { slot: *slot }, effects);
                }
                Incoming::Saved(group, index) => {
                    let input = Input::SnapshotSaved { group: *group, index: *index };
                    engine.on(now, input, effects);
                }
            }
        }
        if engine.wake_at() <= now {
            engine.on(now, Input::Tick, effects);
        }
        engine.end_turn(now, effects);
        let wake_at = engine.wake_at().max(now + Duration::from_micros(10));
        self.perform(id);
        self.plan_turn(id, wake_at);
    }

    /// Carries out what the engine of a node asks for.
    fn perform(&mut self, id: u32) {
        let mut effects = std::mem::take(&mut self.nodes[id as usize].effects);
        let life = self.nodes[id as usize].life;
        if let Some(write) = effects.write.take() {
            let node = &mut self.nodes[id as usize];
            let engine = node.engine.as_ref().expect("only a live engine asks for a write");
            node.disk.begin_write(write, engine.in_flight());
            let takes = Duration::from_micros(self.network.u64(60..self.temper.sync_micros_max));
            self.plan(takes, Event::Written { node: id, life, position: write.position });
        }
        effects.peers.drain(|to, bytes| self.send_frames(id, to - 1, bytes));
        effects.clients.drain(|index, bytes| {
            if let Some(generation) = self.clients.connected(index, id) {
                let bytes = std::mem::take(bytes);
                let takes = self.delay();
                self.plan(takes, Event::Reply { client: index, generation, bytes });
            }
        });
        for slot in effects.segments.drain(..) {
            let takes = Duration::from_millis(self.network.u64(1..30));
            self.plan(takes, Event::Segment { node: id, life, slot });
        }
        for save in effects.saves.drain(..) {
            self.snapshots += 1;
            let takes = Duration::from_millis(self.network.u64(1..50));
            let (group, index) = (save.group, save.index);
            self.nodes[id as usize].disk.begin_snapshot(save);
            self.plan(takes, Event::Saved { node: id, life, group, index });
        }
        for (group, index) in effects.drops.drain(..) {
            self.nodes[id as usize].disk.drop_snapshot(group, index);
        }
        effects.closes.clear();
        effects.notes.clear();
        self.nodes[id as usize].effects = effects;
    }

    /// Sends frames one by one: each is lost, doubled or late by itself.
    fn send_frames(&mut self, from: u32, to: u32, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let frame = wire::split(bytes, PEER_FRAME_BYTES_MAX);
            let used = frame.expect("an engine sends frames").expect("whole ones").used;
            let (frame, rest) = bytes.split_at(used);
            bytes = rest;
            let copies = match self.network.u32(..100) {
                0 if self.is_faulty() => 0,
                1 if self.is_faulty() => 2,
                _ => 1,
            };
            for _ in 0..copies {
                let takes = self.delay();
                let frame = frame.to_vec();
                self.plan(takes, Event::Peer { from, to, link: self.links, frame });
            }
        }
    }

    fn delay(&mut self) -> Duration {
        let late = self.network.u32(..self.temper.late_one_in) == 0;
        let tail = if late { self.temper.late_micros_max } else { 200 };
        Duration::from_micros(self.network.u64(30..30 + tail))
    }

    fn is_faulty(&self) -> bool {
        self.now < Time(0) + self.options.faulty
    }

    fn start(&mut self, id: u32) -> Result<(), Failure> {
        let config = self.config(id);
        let node = &mut self.nodes[id as usize];
        if node.engine.is_some() {
            return Ok(());
        }
        node.life += 1;
        node.inbox.clear();
        node.turn_at = None;
        node.effects = Effects::default();
        let opened = node.disk.open(config, self.now, &mut node.effects);
        let engine = opened.map_err(|e| Failure::Safety(format!("node {} : {e}", id + 1)))?;
        node.engine = Some(engine);
        // What clients sent to a node that was down went nowhere.
        self.clients.forget_connections(id);
        self.perform(id);
        for other in (0..NODES).filter(|other| *other != id) {
            self.deliver(other, Incoming::PeerUp(id));
            if self.nodes[other as usize].engine.is_some() {
                self.deliver(id, Incoming::PeerUp(other));
            }
        }
        let at = self.now + Duration::from_micros(50);
        self.plan_turn(id, at);
        Ok(())
    }

    fn config(&mut self, id: u32) -> Config {
        let member = |n: u32| Member {
            node: NodeId(n + 1),
            incarnation: Incarnation([n as u8 + 1; 16]),
            address: format!("node{}:7400", n + 1),
        };
        Config {
            cluster: ClusterId([7; 16]),
            node: NodeId(id + 1),
            engine: 0,
            engines: 1,
            shards: SHARDS,
            replication: 3,
            members: (0..NODES).map(member).collect(),
            seed: self.faults.u64(..),
            election_timeout_min: Duration::from_millis(150),
            election_timeout_max: Duration::from_millis(300),
            heartbeat: Duration::from_millis(50),
            reads: if self.options.seed.is_multiple_of(3) {
                Reads::ReadIndex
            } else {
                Reads::Lease
            },
            segment_bytes: SEGMENT_BYTES,
            segments_max: SEGMENTS_MAX,
            cache_bytes_max: 1 << 20,
        }
    }

    /// The power fails: what was not synced is kept by chance, page by page.
    fn crash(&mut self, id: u32) {
        let node = &mut self.nodes[id as usize];
        if node.engine.take().is_none() {
            return;
        }
        node.life += 1;
        node.disk.crash();
        self.crashes += 1;
        self.links += 1;
        self.clients.forget_connections(id);
        for other in (0..NODES).filter(|other| *other != id) {
            self.deliver(other, Incoming::PeerDown(id));
            self.deliver(other, Incoming::PeerUp(id));
        }
    }

    // ---- Clients ----

    /// Sends what the client wants to send, and plans when it looks again.
    fn step_client(&mut self, client: u32) {
        for send in self.clients.take_sends(client) {
            let node = &self.nodes[send.to as usize];
            let life = node.life;
            if let Some(old) = send.closes {
                self.deliver(old.0, Incoming::Closed(old.1));
            }
            if send.opens {
                self.deliver(send.to, Incoming::Opened(send.conn));
            }
            let delay = self.delay();
            let takes = self.clients.path(client, self.now, delay);
            let (to, conn, frame) = (send.to, send.conn, send.frame);
            self.plan(takes, Event::Request { to, conn, life, frame });
        }
        let at = self.clients.wake_at(client).max(self.now + Duration::from_micros(1));
        let planned = &mut self.client_at[client as usize];
        if planned.is_none_or(|planned| at < planned) {
            *planned = Some(at);
            self.plan(at.since(self.now), Event::Client { client });
        }
    }

    // ---- Faults ----

    fn plan_faults(&mut self) {
        let end = self.options.faulty;
        let mut at = Duration::from_millis(self.faults.u64(300..1500));
        while at < end {
            let lasts = Duration::from_millis(self.faults.u64(20..1800));
            match self.faults.u32(..10) {
                0..=3 => {
                    let node = self.faults.u32(..NODES);
                    self.plan(at, Event::Crash { node });
                    self.plan(at + lasts, Event::Start { node });
                }
                4..=5 => {
                    for node in 0..NODES {
                        self.plan(at, Event::Crash { node });
                        let late = Duration::from_millis(self.faults.u64(0..300));
                        self.plan(at + late, Event::Start { node });
                    }
                }
                _ => {
                    let blocked = self.cut();
                    self.plan(at, Event::Cut { blocked });
                    self.plan(at + lasts, Event::Cut { blocked: Vec::new() });
                }
            }
            let every = self.temper.fault_every_millis_max;
            at += Duration::from_millis(self.faults.u64(50..every));
        }
    }

    /// Links to cut: both ways or one, around one node or anywhere.
    fn cut(&mut self) -> Vec<(u32, u32)> {
        let all = (0..NODES).flat_map(|a| (0..NODES).map(move |b| (a, b))).filter(|(a, b)| a != b);
        let alone = self.faults.u32(..NODES);
        match self.faults.u32(..3) {
            0 => all.filter(|(a, b)| *a == alone || *b == alone).collect(),
            1 => all.filter(|(a, _)| *a == alone).collect(),
            _ => all.filter(|_| self.faults.bool()).collect(),
        }
    }

    fn calm_down(&mut self) {
        self.blocked.clear();
        // Faults that were planned past the end are void, starts are not.
        self.bodies.values_mut().for_each(|event| {
            if let Event::Crash { node } = event {
                *event = Event::Start { node: *node };
            } else if let Event::Cut { blocked } = event {
                blocked.clear();
            }
        });
        for node in 0..NODES {
            self.plan(Duration::from_millis(1), Event::Start { node });
        }
        self.clients.finish();
    }

    // ---- The end ----

    fn is_settled(&self) -> bool {
        let applied = |id: u32, at: usize| {
            let engine = self.nodes[id as usize].engine.as_ref();
            engine.map(|engine| engine.shards()[at].applied())
        };
        self.clients.are_finished()
            && (0..=SHARDS as usize).all(|at| {
                applied(0, at).is_some() && (1..NODES).all(|id| applied(id, at) == applied(0, at))
            })
    }

    fn unsettled(&self) -> String {
        let mut text = self.clients.unfinished();
        for (id, node) in self.nodes.iter().enumerate() {
            match &node.engine {
                None => text.push_str(&format!("\n  node {} is down", id + 1)),
                Some(engine) => {
                    for group in engine.status(self.now).groups {
                        text.push_str(&format!("\n  node {} {group:?}", id + 1));
                    }
                }
            }
        }
        text
    }

    /// Equal index, equal bytes.
    fn compare_states(&self) -> Result<(), Failure> {
        for at in 0..=SHARDS as usize {
            let state = |id: usize| {
                let engine = self.nodes[id].engine.as_ref().expect("the settled cluster is up");
                let mut bytes = Vec::new();
                engine.shards()[at].state().snapshot(&mut bytes);
                bytes
            };
            let first = state(0);
            for id in 1..NODES as usize {
                if state(id) != first {
                    let what = format!("group {at}: nodes 1 and {} differ at equal index", id + 1);
                    return Err(Failure::Safety(what));
                }
            }
        }
        Ok(())
    }
}

impl Event {
    fn kind(&self) -> (u8, u32, usize) {
        match self {
            Event::Peer { from, to, frame, .. } => (0, from << 8 | to, frame.len()),
            Event::Request { to, frame, .. } => (1, *to, frame.len()),
            Event::Reply { client, bytes, .. } => (2, *client, bytes.len()),
            Event::Written { node, position, .. } => (3, *node, position.0 as usize),
            Event::Segment { node, slot, .. } => (4, *node, *slot as usize),
            Event::Saved { node, index, .. } => (5, *node, index.0 as usize),
            Event::Turn { node, .. } => (6, *node, 0),
            Event::Crash { node } => (7, *node, 0),
            Event::Start { node } => (8, *node, 0),
            Event::Cut { blocked } => (9, 0, blocked.len()),
            Event::Client { client } => (10, *client, 0),
        }
    }
}
