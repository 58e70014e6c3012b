//! A few replicas, their disks, their clocks and the network between them, in virtual time.
//!
//! What happens is an event in a list ordered by (time, number); nothing else moves the time. All that
//! must never happen is checked as it would happen, by [`Witness`].

use super::config;
use super::disk::{Disk, Record};
use super::words::{Packet, describe_event, describe_persist};
use crate::entry;
use crate::ids::{GroupId, Incarnation, Index, NodeId, Term};
use crate::raft::ReadMode;
use crate::raft::*;
use crate::time::{Duration, Elapsed, Time};
use std::collections::{BTreeMap, VecDeque};
use wire::Kind;
use wire::random::Random;

pub const GROUP: GroupId = GroupId(1);
pub const COMMAND: Kind = Kind(0x30);
pub const MS: u64 = 1_000_000;

/// How the world behaves. Times in nanoseconds, chances in a thousand.
#[derive(Clone)]
pub struct World {
    pub latency: (u64, u64),
    pub sync: (u64, u64),
    pub lose: u64,
    pub double: u64,
    pub late: u64,
    pub chunk_bytes: usize,
    pub(super) limits: Limits,
    pub reads: ReadMode,
    pub preferred: Option<u32>,
}

impl World {
    /// Nothing is lost, all takes its time.
    pub fn calm() -> World {
        World {
            latency: (MS, MS),
            sync: (MS, MS),
            lose: 0,
            double: 0,
            late: 0,
            chunk_bytes: 512,
            limits: LIMITS,
            reads: ReadMode::Lease,
            preferred: Some(1),
        }
    }
}

pub enum Event {
    Arrive { from: NodeId, to: NodeId, packet: Packet, life: u32 },
    Synced { node: NodeId, life: u32 },
    Wake { node: NodeId, life: u32 },
    Flush { node: NodeId, life: u32 },
    Installed { node: NodeId, life: u32, index: Index, term: Term },
}

/// The state that commands build: how many there were, and a digest of all of them in order.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Machine {
    pub applied: u64,
    pub digest: u64,
}

pub struct Node {
    pub id: NodeId,
    /// The life of its disk, from 1. One that did not found the group joins it.
    pub disk_life: u8,
    pub founder: bool,
    pub raft: Option<Raft>,
    pub disk: Disk,
    pub machine: Machine,
    pub paused_until: u64,
    /// How many times it was started: what was meant for an earlier life is dropped.
    pub life: u32,
    /// A disk that stalls ends no sync.
    pub stalled: bool,
    /// How long its syncs take, if not as long as others'.
    pub sync: Option<(u64, u64)>,
    held: VecDeque<(u64, NodeId, Packet)>,
    incoming: Vec<u8>,
    /// The snapshot that its followers get.
    offered: Vec<u8>,
    /// Its clock runs this much in a million faster than the world's.
    pub skew: i64,
    woken_at: u64,
    pub reads: Vec<(Time, Index)>,
    /// Snapshots whose record is not durable yet.
    made: Vec<(u64, Index, Term)>,
}

/// What becomes of what is said of each event.
#[derive(Default)]
pub enum Trace {
    #[default]
    Off,
    Keep(Vec<String>),
    Print,
}

/// What is said something about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    Note,
    Packet,
    Disk,
}

pub struct Cluster {
    pub now: u64,
    pub world: World,
    pub nodes: Vec<Node>,
    pub events: BTreeMap<(u64, u64), Event>,
    pub random: Random,
    /// Links that are cut, from and to.
    pub cut: Vec<(NodeId, NodeId)>,
    pub witness: Witness,
    pub trace: Trace,
    pub shown: Vec<Topic>,
    founders: u32,
    number: u64,
    seed: u64,
    out: Output,
}

/// What has been seen, against which all that happens is held.
pub struct Witness {
    pub leaders: BTreeMap<Term, NodeId>,
    /// Every entry ever journaled: (index, term) to its checksum and the term before it.
    entries: BTreeMap<(Index, Term), (u32, Term)>,
    /// What was committed: index to term, and in which term that was counted.
    pub committed: BTreeMap<Index, (Term, Term)>,
    pub applied: BTreeMap<u64, u64>,
    pub reads_by_lease: u64,
    pub reads_by_index: u64,
    pub snapshots_installed: u64,
    pub elections: u64,
    /// Changes of members that were proposed.
    pub changes: u64,
    /// Who belongs to the group by the newest committed entry that says so, and where that stands.
    pub members: (Index, Configuration),
}

impl Default for Witness {
    fn default() -> Witness {
        Witness {
            leaders: BTreeMap::new(),
            entries: BTreeMap::new(),
            committed: BTreeMap::new(),
            applied: BTreeMap::new(),
            reads_by_lease: 0,
            reads_by_index: 0,
            snapshots_installed: 0,
            elections: 0,
            changes: 0,
            members: (Index::ZERO, Configuration::UNKNOWN),
        }
    }
}

impl Witness {
    pub fn commit(&self) -> Index {
        self.committed.keys().next_back().copied().unwrap_or(Index::ZERO)
    }
}

/// The life of a replica on a node whose disk was lost so often.
fn incarnation(id: NodeId, disk_life: u8) -> Incarnation {
    let mut bytes = [id.0 as u8; 16];
    bytes[0] = disk_life;
    Incarnation(bytes)
}

impl Cluster {
    pub fn new(size: u32, seed: u64, world: World) -> Cluster {
        Cluster::with_spares(size, 0, seed, world)
    }

    /// A group of so many founders, and nodes that may join it.
    pub fn with_spares(size: u32, spares: u32, seed: u64, world: World) -> Cluster {
        let nodes = (1..=size + spares)
            .map(|id| Node {
                id: NodeId(id),
                disk_life: 1,
                founder: id <= size,
                raft: None,
                disk: Disk::new(),
                machine: Machine::default(),
                paused_until: 0,
                life: 0,
                stalled: false,
                sync: None,
                held: VecDeque::new(),
                incoming: Vec::new(),
                offered: Vec::new(),
                skew: 0,
                woken_at: u64::MAX,
                reads: Vec::new(),
                made: Vec::new(),
            })
            .collect();
        Cluster {
            now: 0,
            world,
            nodes,
            events: BTreeMap::new(),
            random: Random::new(seed),
            cut: Vec::new(),
            witness: Witness::default(),
            trace: Trace::Off,
            shown: vec![Topic::Note, Topic::Packet, Topic::Disk],
            founders: size,
            number: 0,
            seed,
            out: Output::default(),
        }
    }

    pub fn node(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize - 1]
    }

    pub fn runs(&self, id: NodeId) -> bool {
        self.nodes[id.0 as usize - 1].raft.is_some()
    }

    pub fn raft(&mut self, id: NodeId) -> &mut Raft {
        self.node(id).raft.as_mut().expect("the node runs")
    }

    pub fn incarnation(&self, id: NodeId) -> Incarnation {
        incarnation(id, self.nodes[id.0 as usize - 1].disk_life)
    }

    /// The node's disk is gone: it may join again, as another.
    pub fn wipe(&mut self, id: NodeId) {
        if self.runs(id) {
            self.crash(id);
        }
        let node = self.node(id);
        node.disk = Disk::new();
        node.machine = Machine::default();
        (node.disk_life, node.founder) = (node.disk_life + 1, false);
    }

    /// The clock of a node: its own rate, its own beginning.
    pub fn clock(&self, id: NodeId) -> Time {
        let node = &self.nodes[id.0 as usize - 1];
        let scaled = i128::from(self.now) * i128::from(1_000_000 + node.skew) / 1_000_000;
        Time(u64::try_from(scaled).expect("time is positive") + u64::from(id.0) * 1_000 * MS)
    }

    /// The world's time at which a node's clock reads `at`, or a little later.
    fn world_time(&self, id: NodeId, at: Time) -> u64 {
        let node = &self.nodes[id.0 as usize - 1];
        let local = i128::from(at.0.saturating_sub(u64::from(id.0) * 1_000 * MS));
        u64::try_from(local * 1_000_000 / i128::from(1_000_000 + node.skew) + 1).expect("small")
    }

    pub fn say(&mut self, topic: Topic, line: impl FnOnce() -> String) {
        if !self.shown.contains(&topic) {
            return;
        }
        match &mut self.trace {
            Trace::Off => {}
            Trace::Keep(lines) => lines.push(line()),
            Trace::Print => println!("{:.3} {}", self.now as f64 / MS as f64, line()),
        }
    }

    pub fn schedule(&mut self, after: u64, event: Event) {
        self.number += 1;
        self.events.insert((self.now + after, self.number), event);
    }

    pub fn chance(&mut self, in_a_thousand: u64) -> bool {
        self.random.draw() % 1000 < in_a_thousand
    }

    pub fn between(&mut self, (low, high): (u64, u64)) -> u64 {
        low + self.random.draw() % (high - low + 1)
    }

    pub fn start(&mut self, id: NodeId) {
        let now = self.clock(id);
        let seed = self.seed.wrapping_mul(1000) + u64::from(self.node(id).life);
        let world = self.world.clone();
        let founders = (1..=self.founders).map(|n| (NodeId(n), incarnation(NodeId(n), 1)));
        let founders = if self.node(id).founder {
            Configuration::of_voters(founders).with_loyalty(Duration::from_millis(150))
        } else {
            Configuration::UNKNOWN
        };
        let preferred = world.preferred == Some(id.0);
        let config = RaftConfig {
            reads: world.reads,
            preference: if preferred { Preference::Preferred } else { Preference::Ordinary },
            seed,
            ..config(GROUP, (id, self.incarnation(id)), founders)
        };
        let node = self.node(id);
        assert!(node.raft.is_none(), "a node is started once");
        let restored = node.disk.restore(world.chunk_bytes);
        let snapshot = restored.snapshot_index();
        // A file that the journal does not name was not finished.
        node.disk.files.retain(|index, _| *index == snapshot);
        node.machine = Machine::default();
        if snapshot > Index::ZERO {
            node.machine = Machine::restore(&node.disk.files[&snapshot].1).0;
            assert_eq!(node.machine.applied, snapshot.0);
        }
        let mut raft = Raft::new(config, restored, now);
        raft.limits = world.limits;
        node.raft = Some(raft);
        node.life += 1;
        node.woken_at = u64::MAX;
        let others: Vec<NodeId> = self.nodes.iter().map(|n| n.id).filter(|n| *n != id).collect();
        self.apply(id);
        for other in others {
            if self.node(other).raft.is_some() && !self.is_cut(id, other) {
                self.link_up(id, other);
            }
        }
        self.wake(id);
    }

    pub fn link_up(&mut self, a: NodeId, b: NodeId) {
        for (at, peer) in [(a, b), (b, a)] {
            self.step(at, |raft, now, out| raft.on_peer_up(now, peer, out));
        }
    }

    pub fn link_down(&mut self, a: NodeId, b: NodeId) {
        for (at, peer) in [(a, b), (b, a)] {
            self.step(at, |raft, now, _| raft.on_peer_down(now, peer));
        }
    }

    pub fn is_cut(&self, a: NodeId, b: NodeId) -> bool {
        self.cut.contains(&(a, b)) || self.cut.contains(&(b, a))
    }

    /// The power fails.
    pub fn crash(&mut self, id: NodeId) {
        let node = self.node(id);
        node.raft = None;
        node.disk.lose_power();
        node.held.clear();
        node.incoming.clear();
        node.reads.clear();
        node.made.clear();
        node.stalled = false;
        let others: Vec<NodeId> = self.nodes.iter().map(|n| n.id).filter(|n| *n != id).collect();
        for other in others {
            self.step(other, |raft, now, _| raft.on_peer_down(now, id));
        }
    }

    /// One call into a replica, and the whole turn after it: that is, what the engine does.
    pub fn turn(&mut self, id: NodeId, call: impl FnOnce(&mut Raft, Time, &mut Output)) {
        self.step(id, call);
        self.step(id, |raft, now, out| raft.flush(now, out));
        self.begin_sync(id);
        self.wake(id);
    }

    /// One call into a replica; what comes out is carried out.
    pub fn step(&mut self, id: NodeId, call: impl FnOnce(&mut Raft, Time, &mut Output)) {
        let now = self.clock(id);
        let mut out = core::mem::take(&mut self.out);
        out.clear();
        let node = self.node(id);
        if let Some(raft) = &mut node.raft {
            call(raft, now, &mut out);
            self.carry_out(id, &mut out);
        }
        self.out = out;
    }

    fn carry_out(&mut self, id: NodeId, out: &mut Output) {
        self.persist(id, out);
        for message in out.messages.drain(..) {
            let node = self.node(id);
            let log = node.raft.as_ref().expect("it runs").log();
            let packet = Packet::encode(&message.body, log, &node.offered);
            let unit = node.disk.covers_all();
            if message.hold == Hold::AfterSync && unit > node.disk.synced {
                node.held.push_back((unit, message.to, packet));
            } else {
                self.transmit(id, message.to, packet);
            }
        }
        for event in out.events.drain(..) {
            self.say(Topic::Note, || describe_event(id, &event));
        }
        if out.snapshot_wanted.take().is_some() {
            self.snapshot(id);
            let node = self.node(id);
            let (index, (term, bytes)) = node.disk.files.last_key_value().expect("one was made");
            let (index, term, total) = (*index, *term, bytes.len() as u64);
            node.offered = bytes.clone();
            self.step(id, |raft, now, _| raft.on_snapshot_ready(now, index, term, total));
        }
        self.watch(id);
        self.apply(id);
        self.watch_reads(id);
    }

    fn persist(&mut self, id: NodeId, out: &mut Output) {
        let mut position = None;
        for persist in out.persist.drain(..) {
            let node = &mut self.nodes[id.0 as usize - 1];
            let log = node.raft.as_ref().expect("it runs").log();
            match persist {
                Persist::Entries { first, last, last_term } => {
                    assert_eq!(log.term_at(last), Some(last_term));
                    let mut bytes = log.bytes(first, last);
                    let mut before = log.term_at(first.prev()).expect("it is there");
                    while !bytes.is_empty() {
                        let e = entry::read(bytes).expect("the log holds entries");
                        self.witness.saw(&e, before);
                        before = e.header.term;
                        position = Some(node.disk.write(Record::Entry(e.bytes.to_vec())));
                        bytes = &bytes[e.bytes.len()..];
                    }
                }
                Persist::Truncate { from } => {
                    position = Some(node.disk.write(Record::Truncate(from)));
                }
                Persist::Vote { term, vote } => {
                    position = Some(node.disk.write(Record::Vote(term, vote)));
                }
                Persist::Snapshot { index, term } => {
                    position = Some(node.disk.write(Record::Snapshot(index, term)));
                }
            }
            self.say(Topic::Disk, || describe_persist(id, &persist));
        }
        if let Some(position) = position {
            self.raft(id).on_appended(position);
        }
    }

    pub fn begin_sync(&mut self, id: NodeId) {
        let sync = self.node(id).sync.unwrap_or(self.world.sync);
        let took = self.between(sync);
        let node = self.node(id);
        let life = node.life;
        if node.raft.is_some() && !node.stalled && node.disk.begin_sync() {
            self.schedule(took, Event::Synced { node: id, life });
        }
    }

    fn wake(&mut self, id: NodeId) {
        let Some(raft) = &self.node(id).raft else { return };
        let at = raft.deadline();
        let at = self.world_time(id, at).max(self.now);
        let node = self.node(id);
        let life = node.life;
        if at < node.woken_at || node.woken_at <= self.now {
            self.node(id).woken_at = at;
            self.schedule(at - self.now, Event::Wake { node: id, life });
        }
    }

    pub fn transmit(&mut self, from: NodeId, to: NodeId, packet: Packet) {
        self.say(Topic::Packet, || format!("{from} -> {to}: {}", packet.describe()));
        if self.cut.contains(&(from, to)) || self.chance(self.world.lose) {
            return;
        }
        let copies = if self.chance(self.world.double) { 2 } else { 1 };
        for _ in 0..copies {
            let mut after = self.between(self.world.latency);
            if self.chance(self.world.late) {
                after += self.between((MS, 900 * MS));
            }
            let life = self.node(to).life;
            let packet = packet.clone();
            self.schedule(after, Event::Arrive { from, to, packet, life });
        }
    }

    /// Applies what is committed.
    fn apply(&mut self, id: NodeId) {
        let node = &mut self.nodes[id.0 as usize - 1];
        let Some(raft) = &mut node.raft else { return };
        while node.machine.applied < raft.commit().0 {
            let index = Index(node.machine.applied + 1);
            let e = raft.log().entry(index).expect("what is not applied is in memory");
            node.machine.apply(e.bytes);
            let seen = *self.witness.applied.entry(index.0).or_insert(node.machine.digest);
            assert_eq!(seen, node.machine.digest, "node {id} applied something else at {index}");
        }
        let known = raft.change_in_flight().is_none();
        let at = raft.log().configuration_index();
        if known && at > self.witness.members.0 {
            self.witness.members = (at, raft.configuration().clone());
        }
        raft.on_applied(Index(node.machine.applied));
    }

    /// Makes a snapshot of what is applied; its record is written, and free is what it frees once that
    /// is durable.
    pub fn snapshot(&mut self, id: NodeId) {
        let node = self.node(id);
        let Some(raft) = &node.raft else { return };
        let index = Index(node.machine.applied);
        if index == Index::ZERO || raft.snapshot_index() >= index {
            return;
        }
        let term = raft.log().term_at(index).expect("the last applied is known");
        let bytes = node.machine.snapshot(raft.log().configuration_at(index));
        node.disk.files.insert(index, (term, bytes));
        let position = node.disk.write(Record::Snapshot(index, term));
        node.made.push((position.0, index, term));
    }

    pub fn propose(&mut self, id: NodeId, payload: &[u8]) -> Result<Index, Refused> {
        let mut done = Err(Refused::NotLeader);
        self.step(id, |raft, now, _| done = raft.propose(COMMAND, 0, Elapsed(now.0), payload));
        done
    }

    pub fn change(&mut self, id: NodeId, change: MemberChange) -> Result<Index, ChangeError> {
        let mut done = Err(ChangeError::NotLeader);
        self.step(id, |raft, _, _| done = raft.change(change));
        self.witness.changes += u64::from(done.is_ok());
        if let (Ok(index), Trace::Print) = (done, &self.trace) {
            println!("{:.3} {id} {change:?} at {index}", self.now as f64 / MS as f64);
        }
        done
    }

    pub fn read(&mut self, id: NodeId) -> Read {
        let now = self.clock(id);
        let committed = self.witness.commit();
        let read = {
            let reads = self.world.reads;
            self.raft(id).read(now, reads)
        };
        match read {
            Read::Ready => {
                let there = self.raft(id).commit();
                assert!(there >= committed, "stale: {id} has {there}, {committed} is committed");
                self.witness.reads_by_lease += 1;
            }
            Read::After(at) => self.node(id).reads.push((at, committed)),
            Read::NotLeader => {}
        }
        read
    }

    /// Does the next event; false if there is none up to `until`.
    pub fn next(&mut self, until: u64) -> bool {
        let Some(first) = self.events.first_entry().filter(|e| e.key().0 <= until) else {
            self.now = until;
            return false;
        };
        self.now = first.key().0;
        let event = first.remove();
        let (id, life) = match &event {
            Event::Arrive { to, life, .. } => (*to, *life),
            Event::Synced { node, life }
            | Event::Wake { node, life }
            | Event::Flush { node, life }
            | Event::Installed { node, life, .. } => (*node, *life),
        };
        let node = self.node(id);
        let paused_until = node.paused_until;
        if node.raft.is_none() || node.life != life {
            return true;
        }
        if paused_until > self.now {
            let after = paused_until - self.now;
            self.schedule(after, event);
            return true;
        }
        self.happen(id, event);
        true
    }

    pub fn run(&mut self, ms: u64) {
        let until = self.now + ms * MS;
        while self.next(until) {}
    }

    fn happen(&mut self, id: NodeId, event: Event) {
        match event {
            Event::Arrive { from, packet, .. } => self.arrive(id, from, &packet),
            Event::Synced { .. } => self.synced(id),
            Event::Wake { .. } => self.turn(id, |raft, now, out| raft.on_tick(now, out)),
            Event::Flush { .. } => self.turn(id, |_, _, _| {}),
            Event::Installed { index, term, .. } => self.installed(id, index, term),
        }
    }

    fn arrive(&mut self, id: NodeId, from: NodeId, packet: &Packet) {
        if packet.kind == wire::peer::Leave::KIND {
            // The engine ends a replica, not consensus.
            return;
        }
        let now = self.clock(id);
        let message = packet.decode();
        let mut out = core::mem::take(&mut self.out);
        out.clear();
        let node = self.node(id);
        let raft = node.raft.as_mut().expect("it runs");
        raft.on_message(now, from, message, &mut out);
        if let (Some(install), Message::Snapshot(piece)) = (out.install.take(), message) {
            if install.offset == 0 {
                node.incoming.clear();
            }
            assert_eq!(node.incoming.len() as u64, install.offset, "pieces come in order");
            node.incoming.extend_from_slice(piece.bytes);
            if node.incoming.len() as u64 == install.total {
                let life = node.life;
                let (index, term) = (install.index, install.term);
                let after = self.between(self.world.sync);
                self.schedule(after, Event::Installed { node: id, life, index, term });
            }
        }
        self.carry_out(id, &mut out);
        self.out = out;
        // Sometimes more than one message makes a turn.
        if self.world.double > 0 && self.chance(300) {
            let life = self.node(id).life;
            self.schedule(MS / 10, Event::Flush { node: id, life });
        } else {
            self.turn(id, |_, _, _| {});
        }
    }

    fn installed(&mut self, id: NodeId, index: Index, term: Term) {
        let node = self.node(id);
        let (machine, configuration) = Machine::restore(&node.incoming);
        node.machine = machine;
        assert_eq!(node.machine.applied, index.0);
        let bytes = core::mem::take(&mut node.incoming);
        node.disk.files.insert(index, (term, bytes));
        node.made.clear();
        let seen = self.witness.applied[&index.0];
        assert_eq!(seen, self.node(id).machine.digest, "a snapshot is what was applied");
        self.witness.snapshots_installed += 1;
        self.say(Topic::Note, || format!("{id} installed the snapshot at {index}"));
        self.turn(id, |raft, now, out| {
            raft.on_snapshot_installed(now, (index, term), configuration, out);
        });
    }

    fn synced(&mut self, id: NodeId) {
        let chunk_bytes = self.world.chunk_bytes;
        let node = self.node(id);
        let position = node.disk.end_sync();
        self.say(Topic::Disk, || format!("{id} synced unit {position}"));
        let node = self.node(id);
        while let Some((unit, ..)) = node.made.first().copied().filter(|m| m.0 <= position.0) {
            let (_, index, term) = node.made.remove(0);
            assert!(unit <= position.0);
            node.raft.as_mut().expect("it runs").snapshot_made(index, term);
            node.disk.reclaim(chunk_bytes);
        }
        let commit = node.raft.as_ref().expect("it runs").commit();
        if node.disk.covers_all() > position.0 {
            node.disk.write(Record::Commit(commit));
        }
        while let Some((unit, to, packet)) = self.node(id).held.pop_front() {
            if unit > position.0 {
                self.node(id).held.push_front((unit, to, packet));
                break;
            }
            self.transmit(id, to, packet);
        }
        self.turn(id, |raft, now, out| raft.on_synced(now, position, out));
    }

    fn watch(&mut self, id: NodeId) {
        let raft = self.nodes[id.0 as usize - 1].raft.as_ref().expect("it runs");
        if !raft.is_leader() {
            return;
        }
        let (term, log, commit) = (raft.term(), raft.log(), raft.commit());
        let first = !self.witness.leaders.contains_key(&term);
        let leader = *self.witness.leaders.entry(term).or_insert(id);
        assert_eq!(leader, id, "two leaders in term {term}");
        if first {
            self.witness.elections += 1;
            for (index, (of, counted)) in &self.witness.committed {
                let there = *index < log.first_index() || log.term_at(*index) == Some(*of);
                assert!(there || *counted >= term, "leader {id} of {term} lacks {index}");
            }
        }
        let mut index = self.witness.commit().next();
        while index <= commit {
            if let Some(of) = log.term_at(index) {
                let voters = raft.configuration();
                let counts = |n: &Node| voters.is_voter(n.id, incarnation(n.id, n.disk_life));
                let here = self.nodes.iter().filter(|n| counts(n) && n.disk.holds(index, of));
                let here = here.count();
                assert!(here >= voters.majority(), "{index} is committed on {here} disks");
                self.witness.committed.insert(index, (of, term));
            }
            index = index.next();
        }
    }

    fn watch_reads(&mut self, id: NodeId) {
        let node = self.node(id);
        let raft = node.raft.as_ref().expect("it runs");
        if !raft.is_leader() {
            node.reads.clear();
            return;
        }
        let (confirmed, commit) = (raft.confirmed_at(), raft.commit());
        let mut served = 0;
        node.reads.retain(|(at, committed)| {
            let ready = confirmed.is_some_and(|c| c >= *at);
            if ready {
                assert!(commit >= *committed, "a read by index is stale");
                served += 1;
            }
            !ready
        });
        self.witness.reads_by_index += served;
    }
}

impl Witness {
    fn saw(&mut self, e: &entry::Entry<'_>, before: Term) {
        let sum = u32::from_le_bytes(e.bytes[..4].try_into().expect("four bytes"));
        let seen = *self.entries.entry((e.header.index, e.header.term)).or_insert((sum, before));
        assert_eq!(seen, (sum, before), "logs that agree at {} differ before", e.header.index);
    }
}

impl Machine {
    fn apply(&mut self, bytes: &[u8]) {
        self.applied += 1;
        self.digest = self.digest.wrapping_mul(0x100_0000_01b3) ^ u64::from(crc32c::crc32c(bytes));
        assert_eq!(entry::read(bytes).expect("an entry").header.index.0, self.applied);
    }

    fn snapshot(self, configuration: &Configuration) -> Vec<u8> {
        let mut bytes = self.applied.to_le_bytes().to_vec();
        configuration.encode(&mut bytes);
        bytes.resize(3000, 7);
        bytes[2992..].copy_from_slice(&self.digest.to_le_bytes());
        bytes
    }

    pub fn restore(bytes: &[u8]) -> (Machine, Configuration) {
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight"));
        let (configuration, _) = Configuration::split(&bytes[8..]).expect("it names the members");
        (Machine { applied: number(0), digest: number(2992) }, configuration)
    }
}
