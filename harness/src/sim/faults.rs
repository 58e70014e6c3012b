//! What goes wrong, and when.

use super::clients::{Confusion, Load};
use super::models::Room;
use super::seats::{Layout, SeatId};
use super::twin::LINE_OVERHEAD_BYTES;
use super::watch::Did;
use super::{Event, Options, Shape, World};
use engine::ids::GroupId;
use engine::machine::Slice;
use engine::time::{Duration, Time};
use wire::random::Random;

/// How this run's world is: seeds differ in kind, not only in chance.
pub(super) struct Temper {
    /// The longest that a write takes to be synced.
    pub(super) sync_micros_max: u64,
    /// One message in so many is late.
    pub(super) late_one_in: u32,
    /// The longest that a late message takes.
    pub(super) late_micros_max: u64,
    /// The longest from one fault to the next.
    pub(super) fault_every_millis_max: u64,
    /// A node whose syncs take twenty times as long.
    pub(super) slow_node: Option<u32>,
    /// So many messages in a hundred come twice, the second time perhaps much later.
    pub(super) double_percent: u32,
    /// Faults are aimed: at votes, at commits.
    pub(super) aims: bool,
    /// The journal's segment, in bytes: so small that journals become full.
    pub(super) segment_bytes: u64,
    /// The journal's segments, at most.
    pub(super) segments_max: u32,
    /// The longest that a snapshot takes to be saved.
    pub(super) save_millis_max: u64,
    /// How long a preferred leader has kept up before it gets its group back.
    pub(super) balance_millis: u64,
    /// The longest value that clients write, in bytes.
    pub(super) value_bytes_max: usize,
    /// What the cache lines of one shard may take, in bytes.
    pub(super) lines_bytes_max: u64,
    /// Members of the groups change, and nodes that founded nothing take part.
    pub(super) members_change: bool,
    /// How much of a snapshot is made or restored in a turn.
    pub(super) slice: Slice,
    /// How busy clients are.
    pub(super) load: Load,
    /// Each node has election timeouts of its own, others whenever it is started.
    pub(super) unequal_timeouts: bool,
    /// How far a node's clock may be off the world's rate, in millionths. Leases bear [`CLOCKS_OFF_BOUND`]; what is
    /// beyond it nobody promises anything for.
    pub(super) clocks_off_millionths_max: i32,
}

/// Every link is whole.
const WHOLE: Event = Event::Cut { blocked: Vec::new(), stands: false };

/// The most that a clock's rate may be off. A leader's lease ends a tenth before its followers' shortest election
/// timeout, each by its own clock: `0.9 / (1 - d) <= 1 / (1 + d)` up to d = 1/19.
pub(super) const CLOCKS_OFF_BOUND: i32 = 50_000;

/// How often a disk is lost where members change, if the cluster bears it just then.
const LOSSES_TRIED: u32 = 12;
/// The longest that a node is not scheduled, unless its machine is suspended.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long clients are sent to two leaders at once: longer than the earlier one stays.
const CONFUSION: Duration = Duration::from_millis(200);
/// How often an idle leader is heard.
pub(super) const HEARTBEAT: Duration = Duration::from_millis(50);
/// How long a leader is stunned: nearly as long as it goes on without a majority, and longer than others wait for it.
const STUNNED_MILLIS: std::ops::Range<u64> = 240..299;
/// Nodes have unequal election timeouts in one seed of so many.
const UNEQUAL_ONE_IN: u64 = 4;
/// The node with the slowest clock is isolated after one commit that it made as a leader, of so many.
const SLOWEST_ONE_IN: u32 = 40;
/// What lines may take where there is room for all, in bytes.
const ROOM_ENOUGH: u64 = 1 << 20;
/// There is room for two of the longest lines alone in one seed of so many.
const SCARCE_ONE_IN: u64 = 7;
/// A key's length.
const KEY_BYTES: usize = 8;
/// The leader of the cluster's own group is cut off from one voter and then from the other after one commit of so many.
const STARVED_ONE_IN: u32 = 40;
/// How long after the one, in milliseconds: that one has asked for votes by then.
const STARVED_MILLIS: std::ops::Range<u64> = 160..460;
/// The fewest segments of a journal where a node has several engines. With one fewer a group may stand still for long:
/// docs/findings/open.md.
const SEGMENTS_OF_SEVERAL_MIN: u32 = 5;
/// Members change in one seed of so many.
pub(super) const MEMBERS_CHANGE_ONE_IN: u64 = 3;

impl Temper {
    pub(super) fn new(seeds: &mut Random, options: &Options) -> Temper {
        let mut drawn = Temper::draw(seeds, options.seed);
        if Layout::of(options.seed, options.shape).engines > 1 {
            drawn.segments_max = drawn.segments_max.max(SEGMENTS_OF_SEVERAL_MIN);
        }
        let off = options.clocks_off_millionths;
        drawn.clocks_off_millionths_max = off.unwrap_or(drawn.clocks_off_millionths_max);
        match options.shape {
            Shape::Drawn => drawn,
            // So that clients find an able cluster most of the time, and as many calls are made as are promised.
            Shape::Steady => Temper {
                sync_micros_max: drawn.sync_micros_max.min(5_000),
                late_micros_max: drawn.late_micros_max.min(20_000),
                fault_every_millis_max: 3_000,
                slow_node: None,
                aims: false,
                segment_bytes: 256 << 10,
                value_bytes_max: 512,
                lines_bytes_max: ROOM_ENOUGH,
                slice: Slice { rows: 20, ..Slice::SHORT },
                members_change: false,
                unequal_timeouts: false,
                load: Load {
                    clients: 7,
                    pause_millis_max: 12,
                    hold_millis_max: 20,
                    // More are popped, so that what is left to be drained is little.
                    push_percent: 9,
                    window_max: 1,
                },
                ..drawn
            },
        }
    }

    /// The shortest election timeout that a node is started with.
    pub(super) fn draw_timeout(&self, chance: &mut Random) -> Duration {
        let millis =
            if self.unequal_timeouts { [150, 150, 350, 700][chance.usize(..4)] } else { 150 };
        Duration::from_millis(millis)
    }

    /// Whether lines have room.
    pub(super) fn room(&self) -> Room {
        if self.lines_bytes_max == ROOM_ENOUGH { Room::Enough } else { Room::Scarce }
    }

    fn draw(seeds: &mut Random, seed: u64) -> Temper {
        let mut one_of = |values: [u64; 3]| values[seeds.usize(..3)];
        let mut drawn = Temper {
            sync_micros_max: one_of([400, 5_000, 60_000]),
            late_one_in: one_of([5, 50, 200]) as u32,
            late_micros_max: one_of([2_000, 20_000, 200_000]),
            fault_every_millis_max: one_of([200, 600, 1_500]),
            slow_node: match one_of([0, 1, 2]) {
                0 => Some(one_of([0, 1, 2]) as u32),
                _ => None,
            },
            double_percent: one_of([1, 1, 15]) as u32,
            aims: one_of([0, 1, 1]) == 1,
            segment_bytes: one_of([64 << 10, 128 << 10, 256 << 10]),
            segments_max: one_of([4, 5, 6]) as u32,
            save_millis_max: one_of([50, 150, 500]),
            value_bytes_max: one_of([8, 512, 4 << 10]) as usize,
            lines_bytes_max: ROOM_ENOUGH,
            balance_millis: one_of([20, 200, 600]),
            members_change: seed % MEMBERS_CHANGE_ONE_IN == 1,
            slice: Slice { rows: one_of([1, 3, 20]) as usize, ..Slice::SHORT },
            load: Load {
                clients: 6,
                pause_millis_max: 25,
                hold_millis_max: 400,
                push_percent: 13,
                window_max: 4,
            },
            unequal_timeouts: seed % UNEQUAL_ONE_IN == 3,
            clocks_off_millionths_max: [0, CLOCKS_OFF_BOUND / 50, CLOCKS_OFF_BOUND]
                [(seed / 3 % 3) as usize],
        };
        if seed % SCARCE_ONE_IN == SCARCE_ONE_IN - 1 {
            let longest = KEY_BYTES + drawn.value_bytes_max + LINE_OVERHEAD_BYTES;
            drawn.lines_bytes_max = 2 * longest as u64;
        }
        drawn
    }
}

impl World {
    pub(super) fn plan_faults(&mut self) {
        let (end, nodes) = (self.options.faulty, self.nodes.len() as u32);
        let mut at = Duration::from_millis(self.faults.u64(300..1500));
        while at < end {
            let lasts = Duration::from_millis(self.faults.u64(20..1800));
            match self.faults.u32(..18) {
                0..=3 => {
                    let node = self.faults.u32(..nodes);
                    self.plan(at, Event::Crash { node });
                    self.plan(at + lasts, Event::Start { node });
                }
                4..=5 => {
                    for node in self.all() {
                        self.plan(at, Event::Crash { node });
                        let late = Duration::from_millis(self.faults.u64(0..300));
                        self.plan(at + late, Event::Start { node });
                    }
                }
                6..=7 => {
                    let node = self.faults.u32(..nodes);
                    // Sometimes the machine is suspended, for longer than sessions live.
                    let suspended = self.faults.u32(..4) == 0;
                    let lasts = if suspended { lasts * 3 } else { lasts.min(PAUSE_MAX) };
                    self.plan(at, Event::Pause { node, until: Time(0) + at + lasts });
                }
                8 => self.isolate(at, self.slowest),
                9..=10 => {
                    let alone = self.faults.u32(..nodes);
                    self.besiege(at, alone);
                }
                11 => {
                    let node = self.faults.u32(..nodes);
                    self.plan(at, Event::SyncFails { node });
                }
                12 => {
                    let node = self.faults.u32(..nodes);
                    self.plan(at, Event::Full { node, until: Time(0) + at + lasts });
                }
                _ => {
                    let (blocked, stands) = (self.cut(), self.faults.bool());
                    self.plan(at, Event::Cut { blocked, stands });
                    self.plan(at + lasts, WHOLE);
                }
            }
            let every = self.temper.fault_every_millis_max;
            at += Duration::from_millis(self.faults.u64(50..every));
        }
        if self.temper.members_change {
            for _ in 0..LOSSES_TRIED {
                let at = Duration::from_millis(self.movers.u64(1_000..7_000));
                let node = self.movers.u32(..nodes);
                self.plan(at, Event::Lose { node });
            }
        }
    }

    /// What goes wrong with one engine alone, where nodes have several: it stands still, or its links break.
    pub(super) fn plan_faults_of_engines(&mut self) {
        let (end, nodes, engines) =
            (self.options.faulty, self.nodes.len() as u32, self.layout.engines);
        if engines == 1 {
            return;
        }
        self.plan(Duration::from_millis(100), Event::Misdirect);
        let mut at = Duration::from_millis(self.siblings.u64(300..1_000));
        while at < end {
            let (node, engine) = (self.siblings.u32(..nodes), self.siblings.u32(..engines));
            if self.siblings.bool() {
                let lasts = Duration::from_millis(self.siblings.u64(1..500));
                let seat = SeatId { node, engine };
                self.plan(at, Event::Stall { seat, until: Time(0) + at + lasts });
            } else {
                let peer = (node + self.siblings.u32(1..nodes)) % nodes;
                self.plan(at, Event::Relink { engine, nodes: [node, peer] });
            }
            at += Duration::from_millis(self.siblings.u64(50..800));
        }
    }

    /// Aims faults at what a turn did: the power fails while a vote is on its way to the disk, or right
    /// after a commit, on one node or on all, and is back within milliseconds.
    pub(super) fn aim(&mut self, id: u32, did: Did) {
        if !self.temper.aims || !self.is_faulty() {
            return;
        }
        if let Some(group) = did.elected {
            self.confuse(group, id);
            // Before anybody heard of it, or just after.
            if self.thrones.u32(..5) == 0 {
                self.fell(id);
            }
        } else if did.committed && self.thrones.u32(..60) == 0 {
            self.stun(id);
        } else if did.committed && self.thrones.u32(..200) == 0 {
            self.besiege(Duration::ZERO, id);
        } else if did.committed && id == self.slowest && self.thrones.u32(..SLOWEST_ONE_IN) == 0 {
            // Its lease seems longer to it than to anybody else.
            self.isolate(Duration::ZERO, id);
        }
        let voted = did.voted && self.aims.u32(..6) == 0;
        let committed = did.committed && self.aims.u32(..150) == 0;
        if voted {
            self.fell(id);
        } else if committed {
            let nodes = self.nodes.len() as u32;
            let spared = self.aims.u32(..2 * nodes);
            self.all().filter(|node| *node != spared).for_each(|node| self.fell(node));
        }
        if did.committed && self.sieges.u32(..STARVED_ONE_IN) == 0 {
            self.starve();
        }
    }

    /// A segment is being opened: the power fails before its witness is whole, or right after.
    pub(super) fn aim_at_opening(&mut self, id: u32) {
        if self.temper.aims && self.is_faulty() && self.aims.u32(..24) == 0 {
            self.fell(id);
        }
    }

    /// Somebody was elected, and an earlier leader does not know: idle clients write to the one and read from the other.
    fn confuse(&mut self, group: GroupId, elected: u32) {
        let mut others = self.replicas(group).filter(|(id, _)| *id != elected);
        let Some((deposed, _)) = others.find(|(_, shard)| shard.raft().is_leader()) else { return };
        let Some(shard) = group.0.checked_sub(1) else { return };
        drop(others);
        let until = self.now + CONFUSION;
        self.clients.confuse(Confusion { shard, deposed, elected, until });
        self.client_at.iter_mut().for_each(|at| *at = self.now);
    }

    /// A leader sends a round and stands still; the echoes come, and then it is cut off from the others, but not from
    /// clients. When it goes on it finds the echoes and what clients asked meanwhile, in one turn.
    fn stun(&mut self, leader: u32) {
        let clock = &self.clocks[leader as usize];
        // All its groups send their rounds at multiples of the interval.
        let every = HEARTBEAT.as_nanos() as u64;
        let round = Time((clock.read(self.now).0 / every + 1) * every);
        let sent = clock.when(round).since(self.now) + Duration::from_micros(25);
        let lasts = Duration::from_millis(self.thrones.u64(STUNNED_MILLIS));
        let until = self.now + sent + lasts;
        self.plan(sent, Event::Pause { node: leader, until });
        let echoed = sent + Duration::from_micros(self.thrones.u64(400..4_000));
        let others = self.all().filter(|other| *other != leader);
        let blocked = others.flat_map(|other| [(leader, other), (other, leader)]).collect();
        self.plan(echoed, Event::Cut { blocked, stands: false });
        self.plan(sent + lasts + HEARTBEAT, WHOLE);
    }

    fn fell(&mut self, node: u32) {
        let soon = Duration::from_micros(self.aims.u64(..300));
        let back = Duration::from_micros(self.aims.u64(300..3_000));
        self.plan(soon, Event::Crash { node });
        self.plan(soon + back, Event::Start { node });
    }

    /// A node, best a leader, is cut off from one voter and then from the other, which may have been
    /// restarted just before: whoever is elected now must not be elected too early.
    fn besiege(&mut self, at: Duration, alone: u32) {
        let nodes = self.nodes.len() as u32;
        let first = (alone + self.faults.u32(1..nodes)) % nodes;
        let others = self.all().filter(|other| *other != alone && *other != first);
        let others: Vec<u32> = others.collect();
        let both = |a: u32, b: u32| [(a, b), (b, a)];
        let stands = self.faults.bool();
        self.plan(at, Event::Cut { blocked: both(alone, first).to_vec(), stands });
        let then = at + Duration::from_millis(self.faults.u64(150..500));
        if self.faults.bool() {
            for node in others {
                self.plan(then, Event::Crash { node });
                self.plan(then + Duration::from_micros(500), Event::Start { node });
            }
        }
        let blocked = self.all().filter(|other| *other != alone).flat_map(|o| both(alone, o));
        let blocked = blocked.collect();
        self.plan(then, Event::Cut { blocked, stands });
        let lasts = Duration::from_millis(self.faults.u64(100..600));
        self.plan(then + lasts, WHOLE);
    }

    /// Who votes right after a restart:
    ///
    /// 1. The leader of the cluster's own group is cut off from one voter. That group is idle: whoever is cut off lacks
    ///    nothing, and asks for votes again and again. The other voter hears the leader, and gives it none.
    /// 2. The other voter is restarted, and hears the leader no more. The leader's lease rests on what it said before.
    fn starve(&mut self) {
        let replicas = self.replicas(GroupId::META);
        let replicas = replicas.map(|(id, shard)| (id, shard.raft().is_leader()));
        let replicas: Vec<(u32, bool)> = replicas.collect();
        let followers = replicas.iter().filter(|(_, leads)| !leads);
        let others: Vec<u32> = followers.map(|(id, _)| *id).collect();
        let leader = replicas.iter().find(|(_, leads)| *leads).map(|(id, _)| *id);
        let Some(leader) = leader.filter(|_| replicas.len() == 3 && others.len() == 2) else {
            return;
        };
        let engine = self.engine(self.layout.seat(leader, GroupId::META));
        if engine.is_none_or(|engine| engine.lease_until(GroupId::META).is_none()) {
            return;
        }
        let first = self.sieges.usize(..2);
        let (cut_off, restarted) = (others[first], others[1 - first]);
        let both = |a: u32, b: u32| [(a, b), (b, a)];
        let (blocked, stands) = (both(leader, cut_off).to_vec(), false);
        self.plan(Duration::ZERO, Event::Cut { blocked, stands });
        let then = Duration::from_millis(self.sieges.u64(STARVED_MILLIS));
        self.plan(then, Event::Crash { node: restarted });
        self.plan(then + Duration::from_micros(500), Event::Start { node: restarted });
        let blocked = others.iter().flat_map(|other| both(leader, *other)).collect();
        self.plan(then, Event::Cut { blocked, stands });
        self.plan(then + Duration::from_millis(200), WHOLE);
    }

    /// A node, perhaps a leader whose lease seems long to it, hears nobody any more, all at once.
    fn isolate(&mut self, at: Duration, alone: u32) {
        let others = self.all().filter(|other| *other != alone);
        let blocked = others.flat_map(|other| [(alone, other), (other, alone)]).collect();
        let stands = self.faults.bool();
        self.plan(at, Event::Cut { blocked, stands });
        let lasts = Duration::from_millis(self.faults.u64(200..500));
        self.plan(at + lasts, WHOLE);
    }

    /// Links are cut, or stand, or are whole again. What stood there comes all at once and in order, or not at all: the
    /// connection is another.
    pub(super) fn set_links(&mut self, blocked: Vec<(u32, u32)>, stands: bool) {
        (self.blocked, self.stands) = (blocked.into_iter().collect(), stands);
        let is_lost = self.network.u32(..3) == 0;
        for event in std::mem::take(&mut self.standing) {
            if !is_lost {
                // One whose link stands on is kept again.
                self.plan(Duration::ZERO, event);
            }
        }
    }

    /// Links to cut: both ways or one, around one node or anywhere.
    pub(super) fn cut(&mut self) -> Vec<(u32, u32)> {
        let nodes = self.all();
        let all = self.all().flat_map(|a| nodes.clone().map(move |b| (a, b)));
        let all = all.filter(|(a, b)| a != b);
        let alone = self.faults.u32(..self.nodes.len() as u32);
        match self.faults.u32(..3) {
            0 => all.filter(|(a, b)| *a == alone || *b == alone).collect(),
            1 => all.filter(|(a, _)| *a == alone).collect(),
            _ => all.filter(|_| self.faults.bool()).collect(),
        }
    }

    pub(super) fn calm_down(&mut self) {
        self.blocked.clear();
        self.standing.clear();
        // Faults that were planned past the end are void, starts are not.
        self.bodies.iter_mut().flatten().for_each(|event| {
            if let Event::Crash { node } | Event::Lose { node } | Event::SyncFails { node } = event
            {
                *event = Event::Start { node: *node };
            } else if let Event::Full { until, .. } = event {
                *until = Time(0);
            } else if let Event::Pause { until, .. } | Event::Stall { until, .. } = event {
                *until = Time(0);
            } else if let Event::Cut { blocked, .. } = event {
                blocked.clear();
            }
        });
        for node in &mut self.nodes {
            (node.full_until, node.sync_fails) = (Time(0), false);
            node.seats.iter_mut().for_each(|seat| seat.paused_until = Time(0));
        }
        self.finish_upgrade();
        for node in self.all() {
            self.plan(Duration::from_millis(1), Event::Start { node });
        }
        self.clients.finish();
    }
}
