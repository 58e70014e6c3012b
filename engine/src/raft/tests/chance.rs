//! Simulations that a seed decides: a network that loses, doubles, delays and reorders, power failures,
//! pauses, clocks that run apart, disks that stall. Then the faults end, and all must be well soon.
//!
//! `RAFT_SEEDS=10000` runs more of them, `RAFT_SEED=7` one, `RAFT_TRACE=1` prints what happens.

use super::cluster::{Cluster, Event, MS, Trace, World};
use crate::ids::{Index, NodeId};
use crate::raft::ReadMode;
use crate::raft::{Configuration, Limits, MemberChange, Raft, Suffrage};
use wire::random::Random;

/// Small enough for all of them to be reached within a simulation.
const SMALL: Limits = Limits {
    uncommitted_own: 1 << 10,
    uncommitted: 4000,
    log_kept: 1500,
    log_pinned: 6000,
    in_flight: 1200,
    append: 400,
    piece: 700,
    pieces_in_flight: 1500,
    learner_lag: 20,
};

/// Nodes that may join.
const SPARES: u32 = 2;

fn world(random: u64) -> World {
    let rough = random % 3;
    World {
        latency: (MS / 20, [MS, 5 * MS, 20 * MS][rough as usize]),
        sync: (MS / 10, [MS, 10 * MS, 30 * MS][(random / 3 % 3) as usize]),
        lose: [0, 20, 150][(random / 9 % 3) as usize],
        double: [0, 10, 100][(random / 27 % 3) as usize],
        late: [0, 10, 50][(random / 81 % 3) as usize],
        chunk_bytes: 512,
        limits: SMALL,
        reads: if (random / 243).is_multiple_of(2) { ReadMode::Lease } else { ReadMode::ReadIndex },
        preferred: (random / 486).is_multiple_of(2).then_some(1),
    }
}

struct Simulation {
    cluster: Cluster,
    proposed: u64,
    /// Decides who joins and who leaves.
    movers: Random,
    /// One step in so many may change the members; zero: none does.
    changes_in: u64,
    /// Times that a disk was taken away.
    wiped: u64,
}

impl Simulation {
    fn new(seed: u64) -> Simulation {
        let mut first = Cluster::new(1, seed, World::calm());
        let draw = first.random.draw();
        let size = [3, 3, 5, 1, 3, 5, 2][(draw >> 32) as usize % 7];
        // Two thirds of the seeds change members, some of them busily.
        let changes_in = [0, 40, 8][(seed % 3) as usize];
        let spares = if changes_in > 0 { SPARES } else { 0 };
        let mut cluster = Cluster::with_spares(size, spares, seed, world(draw % 972));
        for id in 1..=size + spares {
            // Two clocks may be a few percent apart.
            let skew = cluster.between((0, 60_000)) as i64 - 30_000;
            cluster.node(NodeId(id)).skew = skew;
            if id <= size {
                cluster.start(NodeId(id));
            }
        }
        let movers = Random::new(seed ^ 0x6d65_6d62_6572_7300);
        Simulation { cluster, proposed: 0, movers, changes_in, wiped: 0 }
    }

    /// Somebody asks whoever leads, or thinks so, to change the members by one.
    fn change(&mut self) {
        if self.changes_in == 0 || !self.movers.draw().is_multiple_of(self.changes_in) {
            return;
        }
        let nodes = self.cluster.nodes.len() as u64;
        let node = NodeId(1 + (self.movers.draw() % nodes) as u32);
        let way = self.movers.draw() % 8;
        let now = self.cluster.now;
        let mut leaders = self.cluster.nodes.iter().filter(|n| {
            n.paused_until <= now && n.raft.as_ref().is_some_and(|raft| raft.is_leader())
        });
        let Some(at) = leaders.next().map(|n| n.id).filter(|_| way > 0) else {
            return self.take_away(node);
        };
        let incarnation = self.cluster.incarnation(node);
        let suffrage = self.cluster.raft(at).configuration().member(node).map(|m| m.suffrage);
        let change = match (suffrage, way) {
            (None, _) => MemberChange::AddLearner { node, incarnation },
            (Some(Suffrage::Learner), 0..=5) => MemberChange::Promote { node, incarnation },
            (Some(Suffrage::Learner), _) => MemberChange::Remove { node, incarnation },
            // More nodes come than go, so that there is somebody left.
            (Some(Suffrage::Voter), 0..=4) => MemberChange::Remove { node, incarnation },
            (Some(Suffrage::Voter), _) => return,
        };
        if matches!(change, MemberChange::AddLearner { .. }) && !self.cluster.runs(node) {
            self.cluster.start(node);
        }
        let _ = self.cluster.change(at, change);
        let life = self.cluster.node(at).life;
        self.cluster.schedule(0, Event::Flush { node: at, life });
    }

    /// A replica that belongs to the group no more, by a change that can't be taken back, is taken away.
    fn take_away(&mut self, node: NodeId) {
        let members = &self.cluster.witness.members.1;
        let removed = !members.has_replica(node, self.cluster.incarnation(node));
        if removed && *members != Configuration::UNKNOWN && self.cluster.runs(node) {
            self.cluster.wipe(node);
            self.wiped += 1;
        }
    }

    fn any(&mut self) -> NodeId {
        let size = self.cluster.nodes.len() as u64;
        NodeId(1 + (self.cluster.random.draw() % size) as u32)
    }

    fn fault(&mut self) {
        let (a, b) = (self.any(), self.any());
        match self.cluster.random.draw() % 14 {
            0 | 1 if self.cluster.runs(a) => self.cluster.crash(a),
            2..=4 if !self.cluster.runs(a) => self.cluster.start(a),
            5 if a != b => {
                self.cluster.cut.push((a, b));
                if self.cluster.chance(500) {
                    self.cluster.cut.push((b, a));
                    self.cluster.link_down(a, b);
                }
            }
            6 => {
                let cut = core::mem::take(&mut self.cluster.cut);
                for (a, b) in cut {
                    self.cluster.link_up(a, b);
                }
            }
            7 => {
                let pause = self.cluster.between((MS, 700 * MS));
                let until = self.cluster.now + pause;
                self.cluster.node(a).paused_until = until;
            }
            8 => self.cluster.node(a).stalled ^= true,
            9 => self.cluster.snapshot(a),
            10 if a != b => self.cluster.step(a, |raft, now, out| raft.transfer(now, b, out)),
            // Whoever leads is cut off while it may still believe in its lease: just after it asked a
            // successor, or while the others restart and forget that they heard it.
            12 | 13 => {
                let leads = |r: &Raft| r.is_leader();
                let led = self.cluster.nodes.iter().find(|n| n.raft.as_ref().is_some_and(leads));
                let Some(leader) = led.map(|n| n.id) else { return };
                let others = (1..=self.cluster.nodes.len() as u32).map(NodeId);
                let others: Vec<NodeId> = others.filter(|n| *n != leader).collect();
                if self.cluster.chance(500) && b != leader {
                    self.cluster.turn(leader, |raft, now, out| raft.transfer(now, b, out));
                } else {
                    for other in &others {
                        if self.cluster.runs(*other) {
                            self.cluster.crash(*other);
                        }
                        self.cluster.start(*other);
                    }
                }
                for other in &others {
                    self.cluster.cut.extend([(leader, *other), (*other, leader)]);
                }
            }
            // All lose power at once.
            11 if self.cluster.chance(100) => {
                for id in (1..=self.cluster.nodes.len() as u32).map(NodeId) {
                    if self.cluster.runs(id) {
                        self.cluster.crash(id);
                    }
                }
            }
            _ => {}
        }
    }

    /// A client does something at some node.
    fn client(&mut self) {
        let id = self.any();
        let paused = self.cluster.node(id).paused_until > self.cluster.now;
        if paused || !self.cluster.runs(id) {
            return;
        }
        if self.cluster.chance(400) {
            // Wherever somebody thinks that it leads.
            for at in (1..=self.cluster.nodes.len() as u32).map(NodeId) {
                let paused = self.cluster.node(at).paused_until > self.cluster.now;
                if !paused && self.cluster.runs(at) {
                    self.cluster.read(at);
                    let life = self.cluster.node(at).life;
                    self.cluster.schedule(0, Event::Flush { node: at, life });
                }
            }
        } else {
            for _ in 0..self.cluster.between((1, 4)) {
                self.proposed += 1;
                let length = self.cluster.between((8, 90)) as usize;
                let mut payload = vec![0; length];
                payload[..8].copy_from_slice(&self.proposed.to_le_bytes());
                let _ = self.cluster.propose(id, &payload);
            }
        }
        let life = self.cluster.node(id).life;
        self.cluster.schedule(0, Event::Flush { node: id, life });
    }

    fn rough(&mut self, ms: u64) {
        let until = self.cluster.now + ms * MS;
        while self.cluster.now < until {
            let next = self.cluster.now + self.cluster.between((MS / 10, 5 * MS));
            while self.cluster.next(next) {}
            self.client();
            self.change();
            if self.cluster.chance(40) {
                self.fault();
            }
        }
    }

    /// The faults end.
    fn calm(&mut self) {
        let world = World { limits: SMALL, reads: self.cluster.world.reads, ..World::calm() };
        self.cluster.world = world;
        self.cluster.cut.clear();
        let size = self.cluster.nodes.len() as u32;
        for id in (1..=size).map(NodeId) {
            self.cluster.node(id).paused_until = 0;
            self.cluster.node(id).stalled = false;
            if !self.cluster.runs(id) {
                self.cluster.start(id);
            }
            self.cluster.begin_sync(id);
        }
        for a in (1..=size).map(NodeId) {
            for b in (a.0 + 1..=size).map(NodeId) {
                self.cluster.link_up(a, b);
            }
        }
    }

    /// Within a bound there is one leader, what is proposed is committed, and all have it.
    fn recovers(&mut self, seed: u64) {
        self.cluster.run(1500);
        let leaders: Vec<NodeId> = self
            .cluster
            .nodes
            .iter()
            .filter(|n| n.raft.as_ref().is_some_and(|r| r.is_leader()))
            .map(|n| n.id)
            .collect();
        assert_eq!(leaders.len(), 1, "seed {seed}: leaders {leaders:?} after the faults ended");
        let leader = leaders[0];
        let last = self.cluster.propose(leader, b"the last").expect("it takes proposals");
        let read = self.cluster.read(leader);
        let life = self.cluster.node(leader).life;
        self.cluster.schedule(0, Event::Flush { node: leader, life });
        self.cluster.run(500);
        let leads = self.cluster.raft(leader);
        let members = leads.configuration().clone();
        assert_eq!(leads.change_in_flight(), None, "seed {seed}: a change is not committed");
        let machine = self.cluster.node(leader).machine;
        for node in &self.cluster.nodes {
            if !members.has_replica(node.id, self.cluster.incarnation(node.id)) {
                continue;
            }
            let raft = node.raft.as_ref().expect("it runs");
            assert_eq!(*raft.configuration(), members, "seed {seed}: {} has others", node.id);
            assert_eq!(raft.leader(), Some(leader), "seed {seed}: {} follows", node.id);
            assert!(raft.commit() >= last, "seed {seed}: {} lags {read:?}", node.id);
            assert_eq!(node.machine, machine, "seed {seed}");
            assert!(node.reads.is_empty(), "seed {seed}: a read was not answered");
        }
    }
}

fn simulate(seed: u64) -> Simulation {
    let mut simulation = Simulation::new(seed);
    if std::env::var("RAFT_TRACE").is_ok() {
        simulation.cluster.trace = Trace::Print;
    }
    simulation.rough(2500);
    simulation.calm();
    simulation.recovers(seed);
    // And once more, now that there is a history.
    let rough = world(seed.wrapping_mul(31) % 972);
    simulation.cluster.world = rough;
    simulation.rough(1500);
    simulation.calm();
    simulation.recovers(seed);
    simulation
}

#[test]
fn nothing_committed_is_lost_and_all_is_well_after_the_faults() {
    let only = std::env::var("RAFT_SEED").ok().and_then(|s| s.parse().ok());
    let count = std::env::var("RAFT_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(300);
    let (mut elections, mut installed, mut committed, mut by_lease, mut by_index) = (0, 0, 0, 0, 0);
    let (mut changes, mut wiped) = (0, 0);
    for seed in 0..count {
        if only.is_some_and(|o: u64| o != seed) {
            continue;
        }
        let done = std::panic::catch_unwind(|| simulate(seed));
        let done = done.unwrap_or_else(|_| panic!("seed {seed}: run again with RAFT_SEED={seed}"));
        let witness = &done.cluster.witness;
        elections += witness.elections;
        installed += witness.snapshots_installed;
        by_lease += witness.reads_by_lease;
        by_index += witness.reads_by_index;
        committed += witness.commit().0;
        changes += witness.changes;
        wiped += done.wiped;
        assert!(witness.commit() > Index::ZERO);
    }
    if only.is_none() && count >= 300 {
        // A simulation in which nothing happens proves nothing.
        assert!(elections > 2 * count && installed > count / 3, "{elections} {installed}");
        assert!(by_lease > 10 * count && by_index > 10 * count, "{by_lease} {by_index}");
        assert!(committed > 100 * count, "{committed}");
        assert!(changes > 5 * count && wiped > count / 3, "{changes} {wiped}");
    }
    println!("elections {elections} installed {installed} committed {committed}");
    println!("reads by lease {by_lease}, by index {by_index}");
    println!("changes {changes} wiped {wiped}");
}

/// `make members-mutants`: each planted bug in changes of membership is caught within a few thousand seeds.
#[test]
#[cfg(tercet_mutants)]
fn planted_changes_are_caught() {
    use crate::mutant::{Mutant, plant};
    const BUGS: &[Mutant] = &[
        Mutant::ChangeBeforeOwnCommit,
        Mutant::ChangesOverlap,
        Mutant::LearnerCounts,
        Mutant::RemovedLeaderCounts,
        Mutant::CutKeepsMembers,
        Mutant::RestartForgetsMembers,
        Mutant::InstallKeepsMembers,
        Mutant::AnyIncarnationVotes,
    ];
    const SEEDS: u64 = 10_000;
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    for bug in BUGS {
        plant(*bug);
        // The other seeds change no members.
        let mut seeds = (0..SEEDS).filter(|seed| !seed.is_multiple_of(3)).enumerate();
        let caught = seeds.find_map(|(ran, seed)| {
            let done = std::panic::catch_unwind(|| drop(simulate(seed)));
            done.err().map(|why| (ran + 1, seed, why))
        });
        match caught {
            Some((ran, seed, why)) => {
                let said = why.downcast_ref::<String>().cloned();
                let said = said.or(why.downcast_ref::<&str>().map(|s| s.to_string()));
                println!("{bug:?}: {ran} seeds, seed {seed}: {}", said.unwrap_or_default());
            }
            None => missed.push(*bug),
        }
    }
    let _ = std::panic::take_hook();
    assert!(missed.is_empty(), "planted bugs were not caught: {missed:?}");
}
