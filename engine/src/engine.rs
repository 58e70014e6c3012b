//! `Engine`: one journal and the shards on it. The seam: what the server's loop and the simulator
//! drive.

mod clients;
#[cfg(any(test, feature = "simulator"))]
mod inspect;
mod levels;
mod nodes;
mod parcels;
mod pushes;
mod replicas;
mod salvage;
mod shards;
#[cfg(test)]
mod tests;

use crate::effects::{Effects, News, Note};
use crate::entry;
use crate::ids::{ClusterId, ConnId, GroupId, Incarnation, Index, NodeId, Position, Term};
use crate::journal::witness::{Copies, Witness};
use crate::journal::{JournalError, Pin};
use crate::level::{Kinds, Level};
use crate::machine::Slice;
use crate::machine::meta::Meta;
use crate::open::{self, Placements};
use crate::raft::{Message, ReadMode};
use crate::secret::Secret;
use crate::shard::calls::Caller;
use crate::shard::placement::{Replicas, place};
use crate::shard::{Shared, Step, codec};
use crate::status::EngineStatus;
use crate::time::{Duration, Time};
use alloc::vec::Vec;

pub use pushes::LOOK_EVERY;
use pushes::Pushes;
use replicas::Ending;
use shards::Shards;
use wire::Header;
use wire::peer::{Join, Vote};

/// How long nothing is written before the last unit is vouched for.
const MARK_AFTER: Duration = Duration::from_millis(200);
/// Snapshots of one engine that are on their way to the disk at once.
const SNAPSHOTS_MAX: usize = 4;

/// What an engine is told at its start and never again.
#[derive(Clone, Debug)]
pub struct EngineConfig {
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
    /// The cluster's founders.
    pub founders: Vec<Founder>,
    /// The cluster's nodes as this data directory remembers them: a snapshot of the meta group's state. Empty:
    /// the founders.
    pub nodes: Vec<u8>,
    /// This node's data directory; [`Incarnation::NOBODY`] for an engine that was damaged and begun anew.
    pub incarnation: Incarnation,
    /// The seed of everything that is drawn by chance here. Another one at each start.
    pub seed: u64,
    /// What nobody knows who chooses names, keys and ids. Another one at each start.
    pub secret: Secret,
    /// The shortest time without a leader after which a follower campaigns.
    pub election_timeout_min: Duration,
    /// The longest time without a leader after which a follower campaigns.
    pub election_timeout_max: Duration,
    /// How often an idle leader is heard.
    pub heartbeat: Duration,
    /// How long a preferred leader has kept up before leadership is handed over to it.
    pub balance_after: Duration,
    /// The newest feature level that this node takes part in: what its build knows, or less.
    pub level_max: Level,
    /// What the build knows.
    pub kinds: Kinds,
    /// How reads are made linearizable.
    pub reads: ReadMode,
    /// The journal's segment, in bytes.
    pub segment_bytes: u64,
    /// The journal's segments, at most.
    pub segments_max: u32,
    /// What the cache lines of one shard may take, in bytes.
    pub cache_bytes_max: u64,
}

/// A founder of the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Founder {
    /// Its id.
    pub node: NodeId,
    /// Its data directory's incarnation.
    pub incarnation: Incarnation,
    /// Where clients reach it: "host:port".
    pub address: alloc::string::String,
}

impl EngineConfig {
    /// This data directory's incarnation, if it is a founder's: one of [`EngineConfig::founders`]. A node that came
    /// later founded no group, nor did one whose directory was lost, nor an engine that was begun anew.
    pub fn founder(&self) -> Option<Incarnation> {
        self.founding_life().filter(|founded| *founded == self.incarnation)
    }

    /// The life of the replicas that this node founded, if it is a founder: also while they are here no more.
    pub fn founding_life(&self) -> Option<Incarnation> {
        self.founders.iter().find(|m| m.node == self.node).map(|m| m.incarnation)
    }

    /// The cluster's nodes as this data directory remembers them; the founders if it remembers none.
    pub fn known_nodes(&self) -> Meta {
        let remembered = Meta::restore(&self.nodes).ok();
        let nodes = remembered.filter(|nodes| nodes.keepers().next().is_some());
        nodes.unwrap_or_else(|| Meta::founded(self.cluster, self.shards, open::founders(self)))
    }
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
        /// The version of the protocol that both speak.
        version: u8,
    },
    /// A client's connection is gone. Nothing more may be sent to it.
    Closed {
        /// The connection.
        conn: ConnId,
    },
    /// So much waits for a client that it gets nothing large any more, until [`Input::Drained`].
    Filled {
        /// Its connection.
        conn: ConnId,
    },
    /// It has read half of that.
    Drained {
        /// Its connection.
        conn: ConnId,
    },
    /// So much waits for all clients together that nobody gets anything large any more, until [`Input::Eased`].
    Crowded,
    /// Less waits for them.
    Eased,
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
    /// Another engine of this node learned who the cluster's nodes are: its `Effects::nodes`.
    Nodes {
        /// A snapshot of the meta group's state.
        nodes: &'a [u8],
    },
    /// Another engine of this node sends something for the leader of a group that this engine keeps: its
    /// `Effects::across`.
    Across {
        /// The frame's header.
        header: Header,
        /// The frame's body.
        body: &'a [u8],
    },
    /// Time passed: at the latest at [`Engine::wake_at`].
    Tick,
}

impl<'a> Input<'a> {
    /// What another engine of this node learned.
    pub fn of(news: &'a News) -> Input<'a> {
        match news {
            News::Leader { group, leader } => Input::LeaderHint { group: *group, leader: *leader },
            News::Nodes(nodes) => Input::Nodes { nodes },
        }
    }
}

/// What a data directory holds of this engine.
pub struct Disk<'a> {
    /// Every segment file: its slot and its bytes. A fresh directory has at least two, all zeros.
    pub segments: &'a [(u32, &'a [u8])],
    /// The copies of the journal's witness.
    pub witness: Copies<'a>,
    /// Reads a snapshot that the journal names.
    pub snapshot: &'a mut ReadSnapshot<'a>,
}

/// Hands out the bytes of all parts that `Effects::saves` once gave, piece by piece, so that no second copy of a state
/// is made of them, and only once all of them were found undamaged. False: it is missing or damaged.
pub type ReadSnapshot<'a> = dyn FnMut(GroupId, Index, &mut dyn FnMut(&[u8])) -> bool + 'a;

/// Why an engine can't start from what is on its disk.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// The journal can't be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A snapshot that the journal names is missing or damaged.
    #[error("E102 the snapshot of group {group} at index {index} is missing or damaged")]
    Snapshot {
        /// The group.
        group: GroupId,
        /// The index that it stands for.
        index: Index,
    },
    /// The journal is whole, but what it says can't be.
    #[error(
        "E104 the journal contradicts itself in group {group}: {error}. Start the newest version that ran here; if that says so too, replace the node"
    )]
    Contradiction {
        /// The group.
        group: GroupId,
        /// What can't be.
        error: crate::raft::RestoreError,
    },
    /// The cluster, or the group, is at a feature level that this node does not know, or is told not to go to.
    #[error(
        "E108 the cluster is at feature level {level}; this node goes up to {known}. Start the newer version, without --level-max"
    )]
    NewerLevel {
        /// The level.
        level: Level,
        /// The newest one known here.
        known: Level,
    },
}

/// One journal and the shards on it.
pub struct Engine {
    config: EngineConfig,
    /// What the shards share: the journal, the clients, the twins.
    shared: Shared,
    shards: Shards,
    /// Who leads and who keeps each group, as far as this node knows, by group id.
    known: Vec<Known>,
    /// The cluster's nodes.
    nodes: Meta,
    /// Where the groups' replicas are to be, by group id.
    placement: Vec<Replicas>,
    /// When it is told next which groups are led here.
    leads_at: Time,
    /// Who waits for the node's state.
    askers: Vec<Caller>,
    pushes: Pushes,
    /// Whether people were told that the journal is full.
    full: Full,
    wake_at: Time,
    /// When the last unit is to be vouched for; [`Time::MAX`] when it is.
    mark_at: Time,
    pins: Vec<Pin>,
    /// Replicas that are to end, or have.
    endings: Vec<Ending>,
    /// The shard that did the last slice.
    worked: usize,
}

/// What is known of a group.
#[derive(Clone, Debug)]
struct Known {
    leader: Option<NodeId>,
    /// The term of that leader, where only it says so.
    term: Term,
    /// Who keeps it, by a leader's word; empty: nobody said.
    members: Vec<NodeId>,
}

impl Known {
    const NOTHING: Known = Known { leader: None, term: Term::ZERO, members: Vec::new() };
}

/// Where the groups are to be when these nodes keep them.
fn placements(config: &EngineConfig, nodes: &Meta) -> Vec<Replicas> {
    let keepers: Vec<NodeId> = nodes.keepers().collect();
    place(config.shards + 1, &keepers, config.replication, nodes.level())
}

/// Where the founders put them: every build, and every level, says the same.
fn founding(config: &EngineConfig) -> Vec<Replicas> {
    let founders: Vec<NodeId> = config.founders.iter().map(|founder| founder.node).collect();
    place(config.shards + 1, &founders, config.replication, Level::OLDEST)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Full {
    No,
    Told,
}

impl Engine {
    /// Opens what is on the disk. The first effects are due at once.
    ///
    /// # Errors
    /// [`OpenError`], which names what is wrong and what to do.
    pub fn open(
        config: EngineConfig,
        now: Time,
        disk: Disk<'_>,
        effects: &mut Effects,
    ) -> Result<Engine, OpenError> {
        let nodes = config.known_nodes();
        if nodes.level() > config.level_max {
            let (level, known) = (nodes.level(), config.level_max);
            return Err(OpenError::NewerLevel { level, known });
        }
        let founding = founding(&config);
        let placement = placements(&config, &nodes);
        let places = Placements { founding: &founding, wanted: &placement };
        let opened = open::open(&config, &places, now, disk)?;
        let groups = config.shards as usize + 1;
        let pushes = Pushes::new(config.seed);
        let shared = Shared::new(config.engine, config.kinds, config.reads, opened.journal);
        let mut engine = Engine {
            shared,
            config,
            shards: Shards::new(opened.shards, groups),
            known: alloc::vec![Known::NOTHING; groups],
            nodes,
            placement,
            leads_at: Time::MAX,
            askers: Vec::new(),
            pushes,
            full: Full::No,
            wake_at: now,
            mark_at: Time::MAX,
            pins: Vec::new(),
            endings: Vec::new(),
            worked: 0,
        };
        engine.end_turn(now, effects);
        Ok(engine)
    }

    /// Takes one input, seen at `now`. `now` never goes back.
    pub fn on(&mut self, now: Time, input: Input<'_>, effects: &mut Effects) {
        match input {
            Input::Opened { conn, request, version } => {
                self.on_opened(conn, request, version, effects);
            }
            Input::Closed { conn } => self.on_closed(conn),
            Input::Filled { conn } => self.shared.conns.fill(conn),
            Input::Drained { conn } => self.on_drained(conn),
            Input::Crowded => self.shared.conns.crowd(true),
            Input::Eased => self.on_eased(now, effects),
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
                self.greet(now, peer, effects);
                let step = &mut Step { now, shared: &mut self.shared, effects };
                self.shards.touch_all().for_each(|shard| shard.on_peer_up(step, peer));
            }
            Input::PeerDown { peer } => {
                self.part(peer, effects);
                let step = &mut Step { now, shared: &mut self.shared, effects };
                self.shards.touch_all().for_each(|shard| shard.on_peer_down(step, peer));
            }
            Input::Synced { position } => self.on_synced(now, position, effects),
            Input::SegmentReady { slot } => self.shared.journal.on_segment_ready(slot),
            Input::SnapshotSaved { group, index } => {
                if let Some(at) = self.place_of(group) {
                    self.shards
                        .touch(at)
                        .on_saved(&mut Step { now, shared: &mut self.shared, effects }, index);
                }
            }
            Input::LeaderHint { group, leader } => self.on_hint(group, leader),
            Input::Nodes { nodes } => self.on_siblings_nodes(nodes, effects),
            Input::Across { header, body } => self.on_across(now, &header, body, effects),
            Input::Tick => {
                let step = &mut Step { now, shared: &mut self.shared, effects };
                self.shards.touch_due(now).for_each(|shard| shard.on_tick(step));
            }
        }
    }

    /// Ends a turn: everything that came in since the last one becomes one batch, one message per
    /// peer, and at most one write.
    pub fn end_turn(&mut self, now: Time, effects: &mut Effects) {
        self.shared.may_add = !self.shards.anyone_teaches();
        for at in 0..self.shards.len() {
            if !self.shards.is_due(at, now) {
                continue;
            }
            self.shards.touch(at).end_turn(&mut Step { now, shared: &mut self.shared, effects });
            self.shards.rest(at, now);
            let shard = &self.shards[at];
            let known = &mut self.known[shard.group().0 as usize];
            let leader = shard.raft().leader();
            if known.leader != leader && shard.raft().is_leader() {
                self.leads_at = now;
            }
            (known.leader, known.term) = (leader, shard.raft().term());
            if self.shards.commits(at) {
                self.shared.journal.on_commit(shard.group(), shard.raft().commit());
            }
        }
        self.shared.proposed = 0;
        self.shared.conns.end_turn();
        self.send_parcels(now, effects);
        self.shards.beat_quietly(now, &mut effects.peers);
        self.learn_nodes(effects);
        self.tell_leads(now, effects);
        self.end_replicas(now, effects);
        self.push(now, effects);
        self.shared.peers.pulse(now, effects);
        self.wake_at = self.shards.wake_at().min(self.leads_at).min(self.shared.peers.wake_at());
        self.wake_at = self.wake_at.min(self.pushes.wake_at());
        self.reclaim(now, effects);
        if effects.write.is_none() {
            effects.write = self.shared.journal.seal();
        }
        self.vouch(now, effects);
        self.shared.journal.take_wanted_segments(&mut |slot| effects.segments.push(slot));
    }

    /// Whether there is something to do in slices.
    pub fn has_work(&self) -> bool {
        self.shards.has_work()
    }

    /// Does one slice of what takes long: of a snapshot that is made or installed, of what is freed. To be
    /// called once a turn, after its end, and its effects are carried out like a turn's. The shards take
    /// turns, so that each is done within as many turns as all have slices.
    pub fn work(&mut self, now: Time, slice: Slice, effects: &mut Effects) {
        let count = self.shards.len();
        let mut order = (1..=count).map(|after| (self.worked + after) % count);
        let Some(at) = order.find(|at| self.shards[*at].has_work()) else { return };
        self.worked = at;
        self.shards.touch(at).work(&mut Step { now, shared: &mut self.shared, effects }, slice);
        // The next turn comes at once: it has another slice, or sends what came of this one.
        self.wake_at = now;
    }

    /// When the engine wants a [`Input::Tick`], at the latest.
    pub fn wake_at(&self) -> Time {
        self.wake_at
    }

    /// The bytes of the write under way. They stay where they are, unchanged, from the moment
    /// `Effects::write` asks for them until `Input::Synced` reports them.
    pub fn in_flight(&self) -> &[u8] {
        self.shared.journal.in_flight()
    }

    /// What is to be kept beside the journal, in both copies, before the first write is carried out.
    pub fn witness(&self) -> Witness {
        self.shared.journal.witness()
    }

    /// The engine's state, for people.
    pub fn status(&self, now: Time) -> EngineStatus {
        EngineStatus {
            engine: self.config.engine,
            groups: self.shards.status(now),
            lacking: self.lacking(),
            journal: self.shared.journal.status(),
            connections: self.shared.conns.open_count(),
            peers: self.shared.peers.status(now).collect(),
            reads: self.shared.reads(now),
        }
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
        if header.kind.0 >= Join::KIND.0 || header.kind.0 < Vote::KIND.0 {
            // One that can't be read is as good as lost.
            let _ = self.on_word(now, peer, header, body, effects);
            return;
        }
        let group = GroupId(header.shard);
        let Some(at) = self.place_of(group) else {
            return self.answer_absent(peer, header, body, effects);
        };
        // A message that can't be read, or whose entries the journal has no room for, is as good as
        // lost: consensus sends it again. A heartbeat is heard all the same, or a full journal would look
        // like a dead leader.
        let Ok(Some(message)) = codec::decode(header, body) else { return };
        if let Message::Append(append) = &message
            && !self.has_room(append.entries)
        {
            return;
        }
        if self.shards.hear_quietly((group, at), now, peer, &message, &mut effects.peers) {
            return;
        }
        self.shards.touch(at).on_message(
            &mut Step { now, shared: &mut self.shared, effects },
            peer,
            message,
        );
    }

    /// Whether the journal takes a leader's entries. What the leader made by itself has room when nothing else has: a term
    /// that is not opened here commits nothing, and a journal that is full of what is not committed is never freed.
    fn has_room(&self, entries: &[u8]) -> bool {
        let bytes = self.shared.proposed + entries.len();
        entries.is_empty()
            || self.shared.journal.has_room(bytes)
            || self.shared.journal.has_own_room(bytes) && entry::are_own(entries)
    }

    fn on_synced(&mut self, now: Time, position: Position, effects: &mut Effects) {
        self.shared.journal.on_synced(position);
        self.on_ended(effects);
        self.shared.held.release(position, &mut effects.peers);
        let step = &mut Step { now, shared: &mut self.shared, effects };
        self.shards.touch_awaiting().for_each(|shard| shard.on_synced(step, position));
    }

    /// Frees old segments: the groups that pin the oldest make a snapshot, one a turn and a few at
    /// once, or say again what no snapshot covers.
    fn reclaim(&mut self, now: Time, effects: &mut Effects) {
        let full = if self.shared.journal.has_room(0) { Full::No } else { Full::Told };
        if full == Full::Told && self.full == Full::No {
            let segments = self.shared.journal.status().segments_live;
            effects.notes.push(Note::JournalFull { segments });
        }
        self.full = full;
        self.pins.clear();
        let pins = &mut self.pins;
        self.shared.journal.reclaim(&mut |pin| pins.push(pin));
        if self.pins.is_empty()
            || self.shards.iter().filter(|shard| shard.is_snapshotting()).count() >= SNAPSHOTS_MAX
        {
            return;
        }
        for at in 0..self.pins.len() {
            let pin = self.pins[at];
            let Some(place) = self.place_of(pin.group) else { continue };
            let shard = self.shards.touch(place);
            if shard.unpin(
                &mut Step { now, shared: &mut self.shared, effects },
                pin.first,
                pin.last,
            ) {
                return;
            }
        }
    }

    /// Once nothing was written for a while, one mark is: it vouches for the unit before it, which
    /// damage would otherwise make look torn.
    fn vouch(&mut self, now: Time, effects: &mut Effects) {
        if effects.write.is_some() || self.shared.journal.appended() > self.shared.journal.synced()
        {
            self.mark_at = now + MARK_AFTER;
        } else if now >= self.mark_at {
            self.mark_at = Time::MAX;
            self.shared.journal.mark();
            effects.write = self.shared.journal.seal();
        }
        self.wake_at = self.wake_at.min(self.mark_at);
    }

    fn place_of(&self, group: GroupId) -> Option<usize> {
        self.shards.place_of(group)
    }
}
