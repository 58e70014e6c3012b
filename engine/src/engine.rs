//! `Engine`: one journal and the shards on it. The seam: what the server's loop and the simulator
//! drive.

#[cfg(test)]
mod tests;

use crate::effects::{Effects, Note, ReportWanted};
use crate::ids::{ClusterId, ConnId, GroupId, Incarnation, Index, NodeId, Position, SessionId};
use crate::journal::{Journal, Pin};
use crate::limits::{CREDIT_BYTES, CREDIT_FRAMES, REPORT_ASKERS_MAX};
use crate::machine::{Access, Machine, Wake};
use crate::open;
use crate::raft::{Message, Output};
use crate::shard::calls::{CallId, Caller};
use crate::shard::conns::{Conns, Hint, Replies};
use crate::shard::held::Held;
use crate::shard::placement::{Replicas, place};
use crate::shard::{Request, Shard, Step, codec};
use crate::status::EngineStatus;
use crate::time::{Duration, Time, millis};
use alloc::vec::Vec;
use wire::limits::FRAME_BYTES_MAX;
use wire::message::{Heartbeat, Status, StatusReply, Topology, TopologyReply, Welcome};
use wire::topology::{self, engine_of_group};
use wire::{Code, HEADER_BYTES, Header};

/// How long nothing is written before the last unit is vouched for.
const MARK_AFTER: Duration = Duration::from_millis(200);
/// The placement epoch of a cluster whose members never change.
const PLACEMENT_EPOCH: u64 = 1;
/// Snapshots of one engine that are on their way to the disk at once.
const SNAPSHOTS_MAX: usize = 4;

/// What an engine is told at its start and never again.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster.
    pub cluster: ClusterId,
    /// This node.
    pub node: NodeId,
    /// This engine of the node, from 0.
    pub engine: u32,
    /// How many engines every node of the cluster has.
    pub engines: u32,
    /// How many shards the cluster has.
    pub shards: u32,
    /// How many replicas each group has (or as many as there are nodes).
    pub replication: usize,
    /// The cluster's nodes, this one included.
    pub members: Vec<Member>,
    /// The seed of everything that is drawn by chance here. Another one at each start.
    pub seed: u64,
    /// The shortest time without a leader after which a follower campaigns.
    pub election_timeout_min: Duration,
    /// The longest time without a leader after which a follower campaigns.
    pub election_timeout_max: Duration,
    /// How often an idle leader is heard.
    pub heartbeat: Duration,
    /// How reads are made linearizable.
    pub reads: Reads,
    /// The journal's segment, in bytes.
    pub segment_bytes: u64,
    /// The journal's segments, at most.
    pub segments_max: u32,
    /// What the cache lines of one shard may take, in bytes.
    pub cache_bytes_max: u64,
}

/// A founder of the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Its id.
    pub node: NodeId,
    /// Its data directory's incarnation.
    pub incarnation: Incarnation,
    /// Where clients reach it: "host:port".
    pub address: alloc::string::String,
}

/// How reads are made linearizable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reads {
    /// The leader answers at once while its lease is valid.
    Lease,
    /// The leader asks a majority first (Raft thesis, section 6.4).
    ReadIndex,
}

/// What an engine can be told.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// A client said hello and wants this engine.
    Opened {
        /// Its connection.
        conn: ConnId,
        /// The request id of its hello, for the welcome.
        request: u64,
    },
    /// A client's connection is gone. Nothing more may be sent to it.
    Closed {
        /// The connection.
        conn: ConnId,
    },
    /// A client's frame, checked by [`wire::split`].
    Frame {
        /// The connection.
        conn: ConnId,
        /// The frame's header.
        header: Header,
        /// The frame's body.
        body: &'a [u8],
    },
    /// The same of a frame that took more than one turn to arrive.
    SlowFrame {
        /// The connection.
        conn: ConnId,
        /// When its first byte was seen: its deadline counts from then.
        since: Time,
        /// The frame's header.
        header: Header,
        /// The frame's body.
        body: &'a [u8],
    },
    /// The node's state, which `Effects::report` asked for.
    Report {
        /// The document of `GET /status`.
        json: &'a [u8],
    },
    /// The link to this engine's twin on another node stands.
    PeerUp {
        /// The node.
        peer: NodeId,
    },
    /// The link is gone. What was sent may or may not have arrived.
    PeerDown {
        /// The node.
        peer: NodeId,
    },
    /// A peer's frame, checked by [`wire::split`].
    Peer {
        /// The node.
        peer: NodeId,
        /// The frame's header.
        header: Header,
        /// The frame's body.
        body: &'a [u8],
    },
    /// The write that was asked for is on the disk.
    Synced {
        /// Its position.
        position: Position,
    },
    /// A segment is on the disk, all zeros, and may be written.
    SegmentReady {
        /// Its slot.
        slot: u32,
    },
    /// A snapshot is on the disk.
    SnapshotSaved {
        /// The group.
        group: GroupId,
        /// The index that it stands for.
        index: Index,
    },
    /// Another engine of this node learned who leads a group.
    LeaderHint {
        /// The group.
        group: GroupId,
        /// Who leads it.
        leader: Option<NodeId>,
    },
    /// Time passed: at the latest at [`Engine::wake_at`].
    Tick,
}

/// What a data directory holds of this engine.
pub struct Disk<'a> {
    /// Every segment file: its slot and its bytes. A fresh directory has at least two, all zeros.
    pub segments: &'a [(u32, &'a [u8])],
    /// Reads a snapshot that the journal names: the bytes that `Effects::saves` once gave.
    pub snapshot: &'a mut dyn FnMut(GroupId, Index) -> Option<Vec<u8>>,
}

/// Why an engine can't start from what is on its disk.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// The journal is damaged outside its last sync unit.
    #[error(
        "E101 the journal is damaged in slot {slot} at byte {offset}: {what}. Move this node's data directory away and replace the node"
    )]
    Damaged {
        /// The segment's slot.
        slot: u32,
        /// Where in the segment, in bytes.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// A snapshot that the journal names is missing or damaged.
    #[error(
        "E102 the snapshot of group {group} at index {index} is missing or damaged. Move this node's data directory away and replace the node"
    )]
    Snapshot {
        /// The group.
        group: GroupId,
        /// The index that it stands for.
        index: Index,
    },
    /// The journal is whole, but what it says can't be.
    #[error(
        "E104 the journal contradicts itself in group {group}: {error}. Move this node's data directory away and replace the node"
    )]
    Contradiction {
        /// The group.
        group: GroupId,
        /// What can't be.
        error: crate::raft::RestoreError,
    },
    /// Written by a newer version.
    #[error(
        "E103 the journal has format version {got}; this version reads up to {known}. Start the newer version"
    )]
    NewerFormat {
        /// The version on the disk.
        got: u32,
        /// The newest version known here.
        known: u32,
    },
}

/// One journal and the shards on it.
pub struct Engine {
    config: Config,
    journal: Journal,
    shards: Vec<Shard>,
    /// Where a group stands in `shards`, by group id.
    at: Vec<Option<usize>>,
    /// Who leads each group, as far as this node knows, by group id.
    leaders: Vec<Option<NodeId>>,
    /// Where the groups' replicas are, by group id.
    placement: Vec<Replicas>,
    conns: Conns,
    /// Who waits for the node's state.
    askers: Vec<Caller>,
    held: Held,
    /// Whether people were told that the journal is full.
    full: Full,
    wake_at: Time,
    /// When the last unit is to be vouched for; [`Time::MAX`] when it is.
    mark_at: Time,
    pins: Vec<Pin>,
    out: Output,
    wakes: Vec<Wake>,
    scratch: Vec<u8>,
    /// Bytes of entries that were proposed in this turn.
    proposed: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Full {
    No,
    Told,
}

/// Everything that a shard's step needs, borrowed from the engine beside its shards.
macro_rules! step {
    ($engine:ident, $now:expr, $effects:expr) => {
        &mut Step {
            now: $now,
            engine: $engine.config.engine,
            journal: &mut $engine.journal,
            effects: $effects,
            conns: &mut $engine.conns,
            held: &mut $engine.held,
            out: &mut $engine.out,
            wakes: &mut $engine.wakes,
            scratch: &mut $engine.scratch,
            proposed: &mut $engine.proposed,
        }
    };
}

impl Engine {
    /// Opens what is on the disk. The first effects are due at once.
    ///
    /// # Errors
    /// [`OpenError`], which names what is wrong and what to do.
    pub fn open(
        config: Config,
        now: Time,
        disk: Disk<'_>,
        effects: &mut Effects,
    ) -> Result<Engine, OpenError> {
        let nodes: Vec<NodeId> = config.members.iter().map(|m| m.node).collect();
        let placement = place(config.shards + 1, &nodes, config.replication);
        let opened = open::open(&config, &placement, now, disk)?;
        let groups = config.shards as usize + 1;
        let mut at = alloc::vec![None; groups];
        for (place, shard) in opened.shards.iter().enumerate() {
            at[shard.group().0 as usize] = Some(place);
        }
        let mut engine = Engine {
            config,
            journal: opened.journal,
            shards: opened.shards,
            at,
            leaders: alloc::vec![None; groups],
            placement,
            conns: Conns::default(),
            askers: Vec::new(),
            held: Held::default(),
            full: Full::No,
            wake_at: now,
            mark_at: Time::MAX,
            pins: Vec::new(),
            out: Output::default(),
            wakes: Vec::new(),
            scratch: Vec::new(),
            proposed: 0,
        };
        engine.end_turn(now, effects);
        Ok(engine)
    }

    /// Takes one input, seen at `now`. `now` never goes back.
    pub fn on(&mut self, now: Time, input: Input<'_>, effects: &mut Effects) {
        match input {
            Input::Opened { conn, request } => self.on_opened(conn, request, effects),
            Input::Closed { conn } => self.conns.close(conn),
            Input::Frame { conn, header, body } => {
                self.on_frame(now, now, conn, &header, body, effects);
            }
            Input::SlowFrame { conn, since, header, body } => {
                self.on_frame(now, since, conn, &header, body, effects);
            }
            Input::Report { json } => self.on_report(json, effects),
            Input::Peer { peer, header, body } => {
                self.on_peer(now, peer, &header, body, effects);
            }
            Input::PeerUp { peer } => {
                let step = step!(self, now, effects);
                self.shards.iter_mut().for_each(|shard| shard.on_peer_up(step, peer));
            }
            Input::PeerDown { peer } => {
                let step = step!(self, now, effects);
                self.shards.iter_mut().for_each(|shard| shard.on_peer_down(step, peer));
            }
            Input::Synced { position } => self.on_synced(now, position, effects),
            Input::SegmentReady { slot } => self.journal.on_segment_ready(slot),
            Input::SnapshotSaved { group, index } => {
                if let Some(at) = self.place_of(group) {
                    self.shards[at].on_saved(step!(self, now, effects), index);
                }
            }
            Input::LeaderHint { group, leader } => {
                if self.place_of(group).is_none()
                    && let Some(known) = self.leaders.get_mut(group.0 as usize)
                {
                    *known = leader;
                }
            }
            Input::Tick => {
                let step = step!(self, now, effects);
                self.shards.iter_mut().for_each(|shard| shard.on_tick(step));
            }
        }
    }

    /// Ends a turn: everything that came in since the last one becomes one batch, one message per
    /// peer, and at most one write.
    pub fn end_turn(&mut self, now: Time, effects: &mut Effects) {
        let mut wake_at = Time::MAX;
        for at in 0..self.shards.len() {
            let shard = &mut self.shards[at];
            shard.end_turn(step!(self, now, effects));
            let shard = &self.shards[at];
            wake_at = wake_at.min(shard.wake_at());
            self.leaders[shard.group().0 as usize] = shard.raft().leader();
            self.journal.on_commit(shard.group(), shard.raft().commit());
        }
        self.proposed = 0;
        self.wake_at = wake_at;
        self.reclaim(now, effects);
        if effects.write.is_none() {
            effects.write = self.journal.seal();
        }
        self.vouch(now, effects);
        self.journal.take_wanted_segments(&mut |slot| effects.segments.push(slot));
    }

    /// When the engine wants a [`Input::Tick`], at the latest.
    pub fn wake_at(&self) -> Time {
        self.wake_at
    }

    /// The bytes of the write under way. They stay where they are, unchanged, from the moment
    /// `Effects::write` asks for them until `Input::Synced` reports them.
    pub fn in_flight(&self) -> &[u8] {
        self.journal.in_flight()
    }

    /// The shards, to look at.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The engine's state, for people.
    pub fn status(&self, now: Time) -> EngineStatus {
        EngineStatus {
            engine: self.config.engine,
            groups: self.shards.iter().map(|shard| shard.status(now)).collect(),
            journal: self.journal.status(),
            connections: self.conns.len(),
        }
    }

    // ---- Clients ----

    fn on_opened(&mut self, conn: ConnId, request: u64, effects: &mut Effects) {
        self.conns.open(conn);
        let welcome = Welcome {
            cluster: self.config.cluster.0,
            node: self.config.node.0,
            engine: self.config.engine,
            engines: self.config.engines,
            shards: self.config.shards,
            epoch: PLACEMENT_EPOCH,
            credit_frames: CREDIT_FRAMES,
            credit_bytes: CREDIT_BYTES,
            version: wire::header::VERSION,
        };
        let caller = Caller { conn, request, bytes: 0 };
        self.conns.admit(caller);
        let mut replies = Replies { conns: &mut self.conns, outbox: &mut effects.clients };
        replies.reply(caller, Welcome::KIND, |b| welcome.encode(b));
    }

    fn on_frame(
        &mut self,
        now: Time,
        since: Time,
        conn: ConnId,
        header: &Header,
        body: &[u8],
        effects: &mut Effects,
    ) {
        let bytes = HEADER_BYTES + body.len();
        let bytes = u32::try_from(bytes).expect("a client's frame is far below 4 GiB");
        let caller = Caller { conn, request: header.request, bytes };
        let admitted = self.conns.admit(caller);
        // Answered at once and past any credit: a client that asks for too much does not lose its locks.
        if header.kind == Heartbeat::KIND {
            return self.on_heartbeat(now, caller, body, effects);
        }
        let mut replies = Replies { conns: &mut self.conns, outbox: &mut effects.clients };
        if !admitted {
            return replies.error(caller, Code::Busy, Hint::retry(1));
        }
        match header.kind {
            Topology::KIND => return self.on_topology(caller, effects),
            Status::KIND => return self.on_status(caller, body, effects),
            _ => {}
        }
        let vetted = match Machine::vet(header.kind, body) {
            Ok(vetted) => vetted,
            Err(code) => return replies.error(caller, code, Hint::NONE),
        };
        let shard = match vetted.name {
            Some(name) => wire::name::shard(name, self.config.shards),
            None => header.shard,
        };
        if shard != header.shard || shard >= self.config.shards {
            return replies.error(caller, Code::WrongShard, Hint::NONE);
        }
        let group = GroupId::of_shard(shard);
        let Some(at) = self.place_of(group) else {
            return self.send_away(caller, group, effects);
        };
        let deadline = deadline(since, header.deadline_ms);
        if deadline <= now {
            let mut replies = Replies { conns: &mut self.conns, outbox: &mut effects.clients };
            return replies.error(caller, Code::DeadlineExceeded, Hint::NONE);
        }
        let shard = &mut self.shards[at];
        let step = step!(self, now, effects);
        match vetted.access {
            Access::Read => {
                shard.on_read(step, caller, vetted.name.unwrap_or_default(), deadline);
            }
            Access::Write => {
                let session = vetted.session.expect("what writes names its session");
                let call = CallId { session, sequence: vetted.sequence };
                shard.on_write(step, Request { caller, kind: header.kind, call, body });
            }
        }
    }

    /// The group is kept by another engine or by other nodes.
    fn send_away(&mut self, caller: Caller, group: GroupId, effects: &mut Effects) {
        let node = self.leaders[group.0 as usize];
        let engine = engine_of_group(group.0, self.config.engines);
        let hint = Hint { node, engine, retry_ms: if node.is_some() { 0 } else { 20 } };
        let code = if node.is_some() { Code::NotLeader } else { Code::Unavailable };
        let mut replies = Replies { conns: &mut self.conns, outbox: &mut effects.clients };
        replies.error(caller, code, hint);
    }

    fn on_heartbeat(&mut self, now: Time, caller: Caller, body: &[u8], effects: &mut Effects) {
        let mut replies = Replies { conns: &mut self.conns, outbox: &mut effects.clients };
        let Ok(heartbeat) = Heartbeat::view(body) else {
            return replies.error(caller, Code::BadMessage, Hint::NONE);
        };
        let session = SessionId(heartbeat.session);
        self.scratch.clear();
        for shard in &mut self.shards {
            if shard.on_heartbeat(now, session) {
                let id = shard.group().shard().expect("only shards have sessions");
                self.scratch.extend_from_slice(&id.to_le_bytes());
            }
        }
        replies.alive(caller, &self.scratch);
    }

    /// The node's state is asked for: the world tells it, once for all who ask meanwhile.
    fn on_status(&mut self, caller: Caller, body: &[u8], effects: &mut Effects) {
        let mut replies = Replies { conns: &mut self.conns, outbox: &mut effects.clients };
        if !Status::view(body).is_ok_and(|status| status.reserved == 0) {
            return replies.error(caller, Code::BadMessage, Hint::NONE);
        }
        if self.askers.len() >= REPORT_ASKERS_MAX {
            return replies.error(caller, Code::Busy, Hint::retry(20));
        }
        if self.askers.is_empty() {
            effects.report = Some(ReportWanted);
        }
        self.askers.push(caller);
    }

    fn on_report(&mut self, json: &[u8], effects: &mut Effects) {
        let mut replies = Replies { conns: &mut self.conns, outbox: &mut effects.clients };
        let fits = HEADER_BYTES + StatusReply::FIXED + json.len() <= FRAME_BYTES_MAX;
        for caller in self.askers.drain(..) {
            if fits {
                replies.reply(caller, StatusReply::KIND, |b| StatusReply { json }.encode(b));
            } else {
                replies.error(caller, Code::TooLarge, Hint::NONE);
            }
        }
    }

    fn on_topology(&mut self, caller: Caller, effects: &mut Effects) {
        let (mut nodes, mut placement) = (Vec::new(), Vec::new());
        for member in &self.config.members {
            let address = member.address.clone();
            let node = topology::Node { id: member.node.0, engines: self.config.engines, address };
            topology::write_node(&node, &mut nodes);
        }
        for shard in 0..self.config.shards {
            let group = GroupId::of_shard(shard).0 as usize;
            let leader = self.leaders[group].map_or(0, |leader| leader.0);
            let replicas = self.placement[group].nodes.iter().map(|n| n.0).collect();
            let row = topology::Placement { shard, leader, replicas };
            topology::write_placement(&row, &mut placement);
        }
        let reply = TopologyReply {
            epoch: PLACEMENT_EPOCH,
            cluster: self.config.cluster.0,
            shards: self.config.shards,
            nodes: &nodes,
            placement: &placement,
        };
        let mut replies = Replies { conns: &mut self.conns, outbox: &mut effects.clients };
        replies.reply(caller, TopologyReply::KIND, |b| reply.encode(b));
    }

    // ---- Peers and the disk ----

    fn on_peer(
        &mut self,
        now: Time,
        peer: NodeId,
        header: &Header,
        body: &[u8],
        effects: &mut Effects,
    ) {
        let Some(at) = self.place_of(GroupId(header.shard)) else { return };
        // A message that can't be read, or whose entries the journal has no room for, is as good as
        // lost: consensus sends it again. A heartbeat is heard all the same, or a full journal would look
        // like a dead leader.
        let Ok(Some(message)) = codec::decode(header, body) else { return };
        let entries = if let Message::Append(append) = &message { append.entries.len() } else { 0 };
        if entries > 0 && !self.journal.has_room(self.proposed + entries) {
            return;
        }
        self.shards[at].on_message(step!(self, now, effects), peer, message);
    }

    fn on_synced(&mut self, now: Time, position: Position, effects: &mut Effects) {
        self.journal.on_synced(position);
        self.held.release(position, &mut effects.peers);
        let step = step!(self, now, effects);
        self.shards.iter_mut().for_each(|shard| shard.on_synced(step, position));
    }

    /// Frees old segments: the groups that pin the oldest make a snapshot, one a turn and a few at
    /// once, or say again what no snapshot covers.
    fn reclaim(&mut self, now: Time, effects: &mut Effects) {
        let full = if self.journal.has_room(0) { Full::No } else { Full::Told };
        if full == Full::Told && self.full == Full::No {
            let segments = self.journal.status().segments_live;
            effects.notes.push(Note::JournalFull { segments });
        }
        self.full = full;
        if self.shards.iter().filter(|shard| shard.is_snapshotting()).count() >= SNAPSHOTS_MAX {
            return;
        }
        self.pins.clear();
        let pins = &mut self.pins;
        self.journal.reclaim(&mut |pin| pins.push(pin));
        for at in 0..self.pins.len() {
            let pin = self.pins[at];
            let Some(place) = self.place_of(pin.group) else { continue };
            let shard = &mut self.shards[place];
            if shard.unpin(step!(self, now, effects), pin.first, pin.last) {
                return;
            }
        }
    }

    /// Once nothing was written for a while, one mark is: it vouches for the unit before it, which
    /// damage would otherwise make look torn.
    fn vouch(&mut self, now: Time, effects: &mut Effects) {
        if effects.write.is_some() || self.journal.appended() > self.journal.synced() {
            self.mark_at = now + MARK_AFTER;
        } else if now >= self.mark_at {
            self.mark_at = Time::MAX;
            self.journal.mark();
            effects.write = self.journal.seal();
        }
        self.wake_at = self.wake_at.min(self.mark_at);
    }

    fn place_of(&self, group: GroupId) -> Option<usize> {
        self.at.get(group.0 as usize).copied().flatten()
    }
}

/// The moment at which a request's deadline passes.
fn deadline(now: Time, deadline_ms: u32) -> Time {
    if deadline_ms == 0 { Time::MAX } else { now + millis(deadline_ms) }
}
