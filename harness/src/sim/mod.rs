//! A whole cluster in one thread: the real [`Engine`](engine::engine::Engine) on virtual time, a lossy network and disks
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
//! Each node has a clock of its own ([`clock`]); everything else, the clients' clocks too, goes by the world's.

mod asks;
mod backups;
mod builds;
mod calls;
mod cells;
mod check;
mod client;
mod clients;
mod clock;
mod disk;
mod end;
mod faults;
mod flood;
mod given_up;
mod linear;
mod lines;
mod mail;
mod misdirected;
mod models;
mod movers;
mod nodes;
mod reader;
mod seats;
mod signs;
mod stranger;
mod stages;
mod twin;
mod wants;
mod watch;
mod witness;

use backups::Backups;
use builds::Build;
pub use cells::Cells;
use client::{Send, Sent};
use clients::Clients;
use clock::Clock;
use disk::Disk;
use engine::effects::News;
use engine::ids::{ConnId, GroupId, Incarnation, Index, Position};
use engine::raft::MemberChange;
use engine::time::{Duration, Time};
use faults::Temper;
use flood::Flood;
use mail::Letter;
use misdirected::Misdirected;
use reader::Reader;
use seats::{Layout, SHARDS_MAX, Seat, SeatId};
use stages::Stages;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use stranger::Stranger;

use watch::Watch;
use wire::random::Random;

/// Founders of the simulated cluster.
pub const FOUNDERS: u32 = 3;
/// Nodes of the simulated cluster, where members change.
pub const NODES_MAX: u32 = 5;
/// When clients begin.
const FIRST_LOOK: Duration = Duration::from_millis(5);

/// What a run is to be like.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Decides everything.
    pub seed: u64,
    /// How long faults happen, in virtual time.
    pub faulty: Duration,
    /// How long everything may take to come right afterwards.
    pub calm: Duration,
    /// Which cluster, and how busy.
    pub shape: Shape,
    /// How far clocks may be off the world's rate, in millionths; none: as the seed says, within the bound.
    pub clocks_off_millionths: Option<i32>,
}

/// Which cluster a run simulates, and how busy it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// Members change in every third seed; six clients with pauses between their calls.
    Drawn,
    /// Three nodes whose members stay; clients make about a hundred calls a second: what `--speed` measures.
    Steady,
}

impl Options {
    /// The options of `make test`: eight faulty seconds, thirty calm ones at most.
    pub fn small(seed: u64) -> Options {
        let (faulty, calm) = (Duration::from_secs(8), Duration::from_secs(30));
        Options { seed, faulty, calm, shape: Shape::Drawn, clocks_off_millionths: None }
    }

    /// The options of `make sim-speed`: sixty faulty seconds.
    pub fn steady(seed: u64) -> Options {
        let faulty = Duration::from_secs(60);
        Options { faulty, shape: Shape::Steady, ..Options::small(seed) }
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
    /// How often a node stopped because a sync failed or its disk was full.
    pub stopped: u64,
    /// Snapshots made or installed.
    pub snapshots: u64,
    /// How often a node's journal became full.
    pub journals_full: u64,
    /// Changes of a group's members that a leader took.
    pub changes: u64,
    /// Replicas that were taken away.
    pub removed: u64,
    /// Disks that were lost for good.
    pub lost: u64,
    /// Disks that were found damaged, and begun anew.
    pub damaged: u64,
    /// Calls that were refused since a build, or a group's level, was too old for them.
    pub too_new: u64,
    /// Voters of the cluster's own group in the end.
    pub meta_voters: u64,
    /// Groups that were backed up, and made another cluster's.
    pub backups: u64,
    /// Pushes to whoever watched where everything is.
    pub pushes: u64,
    /// How often one was cut off who read nothing.
    pub cut_off: u64,
    /// Requests that waited for the end of a hand-over.
    pub staged: u64,
    /// Mail that groups wrote to each other.
    pub mail: u64,
    /// Probes that came from one group's leader to another's.
    pub probes: u64,
    /// What clients asked for and were answered.
    pub cells: Cells,
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
    Peer { from: u32, to: SeatId, life: u64, frame: Vec<u8> },
    /// A client's frame arrives on its connection.
    Request { to: SeatId, conn: ConnId, life: u64, frame: Vec<u8> },
    /// A node's answers arrive at a client.
    Reply { client: u32, generation: u32, bytes: Vec<u8> },
    /// A write is on the disk.
    Written { seat: SeatId, life: u64, position: Position },
    /// A segment is ready.
    Segment { seat: SeatId, life: u64, slot: u32 },
    /// A snapshot is on the disk.
    Saved { seat: SeatId, life: u64, group: GroupId, index: Index },
    /// What another engine of the node learned arrives.
    News { to: SeatId, life: u64, news: News },
    /// A frame of another engine of the node arrives.
    Across { to: SeatId, life: u64, frame: Vec<u8> },
    /// A node stands still, as if it were not scheduled.
    Pause { node: u32, until: Time },
    /// An engine of a node stands still, and the node's others go on.
    Stall { seat: SeatId, until: Time },
    /// The link between two nodes' engines of a number breaks, and is made anew.
    Relink { engine: u32, nodes: [u32; 2] },
    /// A node loses its power.
    Crash { node: u32 },
    /// A node starts.
    Start { node: u32 },
    /// The network is cut, or whole again. A link that stands keeps what is sent over it, one that is cut loses it.
    Cut { blocked: Vec<(u32, u32)>, stands: bool },
    /// Somebody changes who belongs to some group.
    Move,
    /// A node loses its disk for good.
    Lose { node: u32 },
    /// The next sync of a node's journal fails: the node stops, and only what was synced before is sure.
    SyncFails { node: u32 },
    /// A node's disk is full for a while: the node stops whenever it makes a file.
    Full { node: u32, until: Time },
    /// A shard is flooded, or none any more.
    Flood { shard: Option<u32> },
    /// Somebody takes a backup.
    BackUp,
    /// A node's answers arrive there.
    BackedUp { generation: u32, bytes: Vec<u8> },
    /// Somebody asks an engine for what another one keeps.
    Misdirect,
    /// Somebody watches where everything is.
    Subscribe,
    /// A node's pushes arrive there.
    Pushed { generation: u32, bytes: Vec<u8> },
    /// A stranger sends something.
    Stray,
    /// Somebody writes mail from group to group.
    Letters,
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
    Report,
    News(News),
    Across(Vec<u8>),
    Change(GroupId, MemberChange),
    Make(GroupId, Incarnation),
    Letter(Letter),
}

struct Node {
    /// Its engines.
    seats: Vec<Seat>,
    /// How often it was started: events of an earlier life are void.
    life: u64,
    /// Its next sync fails.
    sync_fails: bool,
    /// Until when its disk is full.
    full_until: Time,
    /// The cluster's nodes, as its manifest has them.
    roster: Vec<u8>,
    /// Whether its disk is the one with which the cluster was founded.
    founder: bool,
    build: Build,
}

/// A simulated cluster.
pub struct World {
    options: Options,
    layout: Layout,
    now: Time,
    /// When, the how manieth event planned, and where its body is.
    events: BinaryHeap<Reverse<(Time, u64, usize)>>,
    bodies: Vec<Option<Event>>,
    /// Places in `bodies` that hold nothing.
    vacant: Vec<usize>,
    number: u64,
    /// What frames came in, to be used again.
    spare: Vec<Vec<u8>>,
    nodes: Vec<Node>,
    /// Each node's clock.
    clocks: Vec<Clock>,
    /// Whose is the slowest.
    slowest: u32,
    /// Decides how clocks run.
    ticks: Random,
    clients: Clients,
    /// When each client looks again.
    client_at: Vec<Time>,
    /// Directed links that let nothing through.
    blocked: BTreeSet<(u32, u32)>,
    /// Whether they keep what is sent over them, and what they keep.
    stands: bool,
    standing: Vec<Event>,
    faults: Random,
    /// Faults that are aimed at what happens.
    aims: Random,
    /// Decides who joins and who leaves.
    movers: Random,
    /// Decides who runs which build.
    builds: Random,
    /// Decides which election timeouts a node is started with.
    timeouts: Random,
    /// Faults that are aimed at who was just elected, and at who was just confirmed.
    thrones: Random,
    /// Faults that are aimed at who was just restarted.
    sieges: Random,
    /// Decides when who floods which shard.
    floods: Random,
    flood: Option<Flood>,
    /// Decides how long news takes between the engines of a node, and what goes wrong with one alone.
    siblings: Random,
    /// How many there were.
    flooded: u32,
    backups: Backups,
    reader: Reader,
    stranger: Stranger,
    misdirected: Misdirected,
    stages: Stages,
    /// Decides who writes mail to whom.
    letters: Random,
    /// How many were written.
    letter: u64,
    watch: Watch,
    /// When it was last looked at whether groups can commit, and which could.
    looked_at: Time,
    able: [bool; SHARDS_MAX as usize],
    network: Random,
    temper: Temper,
    trace: Trace,
    happened: u64,
    crashes: u64,
    stopped: u64,
    snapshots: u64,
    journals_full: u64,
    changes: u64,
    removed: u64,
    lost: u64,
    damaged: u64,
    /// Lives of replicas that were given out.
    lives: u32,
    /// Lives of replicas whose disk was lost.
    dead: BTreeSet<(GroupId, Incarnation)>,
}

/// Runs a cluster by `options` and judges it.
///
/// # Errors
/// [`Failure`], which tells safety from liveness.
pub fn run(options: Options) -> Result<Report, Failure> {
    let mut world = World::new(options);
    world.plan_faults();
    world.plan_faults_of_engines();
    world.plan_floods();
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
        world.look_for_late()?;
    }
    world.none_is_late()?;
    let off = world.temper.clocks_off_millionths_max.unsigned_abs();
    let room = world.temper.room();
    check::judge(&world.clients.history, off, room).map_err(Failure::Safety)?;
    let mut cells = std::mem::take(&mut world.clients.history.cells);
    world.watch.twins.iter().flat_map(|twin| &twin.ran_out).for_each(|what| cells.ran_out(what));
    world.stranger.answered.iter().for_each(|(kind, how)| cells.drawn(kind, how));
    world.compare_states()?;
    world.check_empty()?;
    world.check_memory()?;
    Ok(Report {
        trace: world.trace.0,
        events: world.happened,
        operations: world.clients.history.records.len() as u64,
        crashes: world.crashes,
        stopped: world.stopped,
        snapshots: world.snapshots,
        journals_full: world.journals_full,
        changes: world.changes,
        removed: world.removed,
        lost: world.lost,
        damaged: world.damaged,
        too_new: world.clients.history.too_new,
        meta_voters: world.voters(GroupId::META),
        backups: world.backups.taken,
        pushes: world.reader.pushes,
        cut_off: world.reader.cut_off,
        staged: world.stages.staged,
        mail: world.watch.mail.written(),
        probes: world.watch.mail.probed,
        cells,
        elapsed: world.now.since(Time(0)),
    })
}

impl World {
    fn new(options: Options) -> World {
        let mut seeds = Random::new(options.seed);
        let temper = Temper::new(&mut seeds, &options);
        let count = if temper.members_change { NODES_MAX } else { FOUNDERS };
        let layout = Layout::of(options.seed, options.shape);
        let mut siblings = Random::new(options.seed ^ 0x656e_6769_6e65_7300);
        let nodes = (0..count).map(|id| Node {
            seats: Seat::of_node(layout, (&mut seeds, &mut siblings), temper.segment_bytes),
            life: 0,
            sync_fails: false,
            full_until: Time(0),
            roster: Vec::new(),
            founder: id < FOUNDERS,
            build: Build::first(options.seed),
        });
        let nodes = nodes.collect();
        let lines_bytes_max = temper.lines_bytes_max;
        let mut ticks = Random::new(options.seed ^ 0x636c_6f63_6b73_0000);
        let off = temper.clocks_off_millionths_max;
        let (clocks, slowest) = Clock::draw(&mut ticks, count, off);
        let mut world = World {
            options,
            layout,
            now: Time(0),
            events: BinaryHeap::new(),
            bodies: Vec::new(),
            vacant: Vec::new(),
            number: 0,
            spare: Vec::new(),
            nodes,
            clocks,
            slowest,
            ticks,
            clients: Clients::new(
                seeds.u64(..),
                temper.value_bytes_max,
                (count, layout),
                temper.load,
            ),
            client_at: vec![Time(0) + FIRST_LOOK; temper.load.clients as usize],
            blocked: BTreeSet::new(),
            stands: false,
            standing: Vec::new(),
            temper,
            faults: seeds.fork(),
            aims: seeds.fork(),
            movers: Random::new(options.seed ^ 0x6d65_6d62_6572_7300),
            builds: Random::new(options.seed ^ 0x6275_696c_6473_0000),
            timeouts: Random::new(options.seed ^ 0x7469_6d65_6f75_7400),
            thrones: Random::new(options.seed ^ 0x7468_726f_6e65_7300),
            sieges: Random::new(options.seed ^ 0x7369_6567_6573_0000),
            floods: Random::new(options.seed ^ 0x666c_6f6f_6473_0000),
            flood: None,
            siblings,
            flooded: 0,
            backups: Backups::new(options.seed),
            reader: Reader::new(options.seed),
            stranger: Stranger::new(options.seed),
            misdirected: Misdirected::new(options.seed),
            stages: Stages::default(),
            letters: World::letters_of(options.seed),
            letter: 0,
            watch: Watch::new(off, lines_bytes_max, layout),
            looked_at: Time(0),
            able: [false; SHARDS_MAX as usize],
            network: seeds.fork(),
            trace: Trace(0),
            happened: 0,
            crashes: 0,
            stopped: 0,
            snapshots: 0,
            journals_full: 0,
            changes: 0,
            removed: 0,
            lost: 0,
            damaged: 0,
            lives: 0,
            dead: BTreeSet::new(),
        };
        (0..count).for_each(|node| world.plan(Duration::ZERO, Event::Start { node }));
        world.plan_visitors();
        world
    }

    /// Whoever is no client of the usual kind comes in some seeds.
    fn plan_visitors(&mut self) {
        let Options { seed, shape, .. } = self.options;
        if self.temper.members_change {
            self.plan(Duration::from_millis(500), Event::Move);
        }
        if Backups::are_taken(seed) {
            self.plan(Duration::from_millis(500), Event::BackUp);
        }
        if Reader::watches(seed) {
            self.plan(Duration::from_millis(100), Event::Subscribe);
        }
        if Stranger::comes(seed) && shape == Shape::Drawn {
            self.plan(Duration::from_millis(100), Event::Stray);
        }
        if self.has_mail() {
            self.plan(Duration::from_millis(300), Event::Letters);
        }
    }

    /// Every node.
    fn all(&self) -> std::ops::Range<u32> {
        0..self.nodes.len() as u32
    }

    fn plan(&mut self, after: Duration, event: Event) {
        self.number += 1;
        let place = self.vacant.pop().unwrap_or_else(|| {
            self.bodies.push(None);
            self.bodies.len() - 1
        });
        self.bodies[place] = Some(event);
        self.events.push(Reverse((self.now + after, self.number, place)));
    }

    /// Lets everything happen that happens before `end`. At one moment events come first, then nodes, then clients.
    fn until(&mut self, end: Time) -> Result<(), Failure> {
        loop {
            let event = self.events.peek().map_or(Time::MAX, |Reverse((at, ..))| *at);
            let (turn, seat) = self.next_turn();
            let (look, client) = earliest(self.client_at.iter().copied());
            let at = event.min(turn).min(look);
            if at >= end {
                break;
            }
            self.now = at;
            self.happened += 1;
            if at == event {
                let Some(Reverse((_, number, place))) = self.events.pop() else {
                    unreachable!("there was an event")
                };
                let event = self.bodies[place].take().expect("every planned event has a body");
                self.vacant.push(place);
                let (kind, who, size) = event.kind();
                self.trace.add(at, number << 8 | u64::from(kind), u64::from(who) << 32 | size);
                self.happen(event)?;
            } else if at == turn {
                self.trace.add(at, TURN, u64::from(number_of(seat)));
                self.turn(seat)?;
            } else {
                self.trace.add(at, LOOK, u64::from(client));
                self.client_at[client as usize] = Time::MAX;
                self.look_for_late()?;
                self.clients.on_time(self.now, client).map_err(Failure::Safety)?;
                self.step_client(client);
            }
        }
        self.now = end;
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Result<(), Failure> {
        match event {
            Event::Peer { from, to, life, frame } => {
                // What was sent to an earlier life of a node is lost; what a node sent before it fell is
                // not.
                if self.nodes[to.node as usize].life != life {
                } else if !self.blocked.contains(&(from, to.node)) {
                    self.deliver(to, Incoming::Peer(from, frame));
                } else if self.stands {
                    self.standing.push(Event::Peer { from, to, life, frame });
                }
            }
            Event::Request { to, conn, life, frame } => {
                // What is on its way over a connection that breaks is lost.
                let is_broken = conn.index < self.temper.load.clients
                    && self.clients.connected(conn.index, to) != Some(conn.generation);
                if self.nodes[to.node as usize].life == life && !is_broken {
                    self.deliver(to, Incoming::Request(conn, frame));
                }
            }
            Event::Reply { client, generation, bytes } => {
                let twins = &mut self.watch.twins;
                let again = self.clients.on_bytes(self.now, client, generation, &bytes, twins);
                again.map_err(Failure::Safety)?;
                self.step_client(client);
            }
            Event::Written { seat, life, position } => self.on_written(seat, life, position),
            Event::Segment { seat, life, slot } => {
                if self.nodes[seat.node as usize].life == life && self.has_space(seat.node) {
                    self.seat_mut(seat).disk.make_segment(slot);
                    self.deliver(seat, Incoming::Segment(slot));
                }
            }
            Event::Saved { seat, life, group, index } => {
                if self.nodes[seat.node as usize].life == life && self.has_space(seat.node) {
                    self.seat_mut(seat).disk.finish_snapshot(group, index);
                    self.deliver(seat, Incoming::Saved(group, index));
                }
            }
            Event::News { to, life, news } => self.arrive(to, life, Incoming::News(news)),
            Event::Across { to, life, frame } => self.arrive(to, life, Incoming::Across(frame)),
            Event::Pause { node, until } => {
                let seats = self.layout.seats_of(node);
                seats.for_each(|seat| self.seat_mut(seat).paused_until = until);
            }
            Event::Stall { seat, until } => self.seat_mut(seat).paused_until = until,
            Event::Relink { engine, nodes } => self.relink(engine, nodes),
            Event::Crash { node } => self.crash(node),
            Event::Start { node } => self.start(node)?,
            Event::Cut { blocked, stands } => self.set_links(blocked, stands),
            Event::Move => self.move_one(),
            Event::Lose { node } => self.lose(node),
            Event::SyncFails { node } => self.nodes[node as usize].sync_fails = true,
            Event::Full { node, until } => self.nodes[node as usize].full_until = until,
            Event::Flood { shard } => self.flood(shard),
            Event::BackUp => self.back_up(),
            Event::BackedUp { generation, bytes } => {
                self.on_backup(generation, &bytes).map_err(Failure::Safety)?;
            }
            Event::Misdirect => self.misdirect(),
            Event::Subscribe => self.subscribe(),
            Event::Pushed { generation, bytes } => self.on_pushed(generation, &bytes)?,
            Event::Stray => self.stray(),
            Event::Letters => self.write_letters(),
        }
        Ok(())
    }

    // ---- Clients ----

    /// A node went away, or came back: clients learn that their connections are gone.
    fn disconnect_clients(&mut self, node: u32) {
        self.clients.forget_connections(self.now, node);
        let soon = self.now + Duration::from_micros(1);
        for (client, at) in (0u32..).zip(&mut self.client_at) {
            *at = soon.max(self.clients.wake_at(client)).min(*at);
        }
    }

    /// Sends what the client wants to send, and plans when it looks again.
    fn step_client(&mut self, client: u32) {
        for (to, conn) in self.clients.take_broken(client) {
            self.deliver(to, Incoming::Closed(conn));
        }
        for Send { to, conn, what } in self.clients.take_sends(client, self.now) {
            let Sent::Frame { frame, sign, call } = what else {
                self.deliver(to, Incoming::Opened(conn));
                continue;
            };
            let life = self.nodes[to.node as usize].life;
            let delay = self.delay();
            let takes = self.clients.path(client, self.now, delay);
            self.watch.on_send(self.now, self.now + takes, sign, call);
            self.plan(takes, Event::Request { to, conn, life, frame });
        }
        let at = self.clients.wake_at(client).max(self.now + Duration::from_micros(1));
        let planned = &mut self.client_at[client as usize];
        *planned = at.min(*planned);
    }
}

/// The earliest moment, and whose it is: the first one's of several.
fn earliest(moments: impl Iterator<Item = Time>) -> (Time, u32) {
    let none = (Time::MAX, u32::MAX);
    moments.zip(0..).fold(none, |first, other| if other.0 < first.0 { other } else { first })
}

/// An engine, as the trace names it.
fn number_of(seat: SeatId) -> u32 {
    seat.engine << 4 | seat.node
}

/// What is written into the trace for an engine's turn, and for a client's look: no event's number and kind.
const TURN: u64 = 0xfe;
const LOOK: u64 = 0xff;

/// The hash of all that happened, in order.
struct Trace(u64);

impl Trace {
    fn add(&mut self, at: Time, what: u64, of: u64) {
        for word in [at.0, what, of] {
            self.0 = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            self.0 ^= self.0 >> 32;
        }
    }
}

impl Event {
    /// What it is, whom it concerns, and something of what it carries.
    fn kind(&self) -> (u8, u32, u64) {
        let size = |bytes: usize| bytes as u64;
        match self {
            Event::Peer { from, to, frame, .. } => {
                (0, from << 8 | number_of(*to), size(frame.len()))
            }
            Event::Request { to, frame, .. } => (1, number_of(*to), size(frame.len())),
            Event::Reply { client, bytes, .. } => (2, *client, size(bytes.len())),
            Event::Written { seat, position, .. } => (3, number_of(*seat), position.0),
            Event::Segment { seat, slot, .. } => (4, number_of(*seat), u64::from(*slot)),
            Event::Saved { seat, index, .. } => (5, number_of(*seat), index.0),
            Event::News { to, .. } => (21, number_of(*to), 0),
            Event::Across { to, frame, .. } => (25, number_of(*to), size(frame.len())),
            Event::Stall { seat, .. } => (22, number_of(*seat), 0),
            Event::Relink { engine, .. } => (23, *engine, 0),
            Event::Crash { node } => (6, *node, 0),
            Event::Start { node } => (7, *node, 0),
            Event::Cut { blocked, .. } => (8, 0, size(blocked.len())),
            Event::Pause { node, .. } => (9, *node, 0),
            Event::Move => (10, 0, 0),
            Event::Lose { node } => (11, *node, 0),
            Event::SyncFails { node } => (12, *node, 0),
            Event::Full { node, .. } => (13, *node, 0),
            Event::BackUp => (14, 0, 0),
            Event::BackedUp { bytes, .. } => (15, 0, size(bytes.len())),
            Event::Misdirect => (24, 0, 0),
            Event::Subscribe => (17, 0, 0),
            Event::Pushed { bytes, .. } => (18, 0, size(bytes.len())),
            Event::Stray => (19, 0, 0),
            Event::Letters => (20, 0, 0),
            Event::Flood { shard } => (16, shard.unwrap_or(u32::MAX), 0),
        }
    }
}
