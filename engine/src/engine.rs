//! `Engine`: one journal and the shards on it. The seam: what the server's loop and the simulator
//! drive.

use crate::effects::Effects;
use crate::ids::{ClusterId, ConnId, GroupId, Incarnation, Index, NodeId, Position};
use crate::status::EngineStatus;
use crate::time::{Duration, Time};
use alloc::vec::Vec;
use wire::Header;

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
    _todo: (),
}

impl Engine {
    /// Opens what is on the disk. The first effects are due at once.
    ///
    /// # Errors
    /// [`OpenError`], which names what is wrong and what to do.
    pub fn open(
        _config: Config,
        _now: Time,
        _disk: Disk<'_>,
        _effects: &mut Effects,
    ) -> Result<Engine, OpenError> {
        unimplemented!()
    }

    /// The engine's state, for people.
    pub fn status(&self, _now: Time) -> EngineStatus {
        unimplemented!()
    }

    /// Takes one input, seen at `now`. `now` never goes back.
    pub fn on(&mut self, _now: Time, _input: Input<'_>, _effects: &mut Effects) {
        unimplemented!()
    }

    /// Ends a turn: everything that came in since the last one becomes one batch, one message per
    /// peer, and at most one write.
    pub fn end_turn(&mut self, _now: Time, _effects: &mut Effects) {
        unimplemented!()
    }

    /// When the engine wants a [`Input::Tick`], at the latest.
    pub fn wake_at(&self) -> Time {
        unimplemented!()
    }

    /// The bytes of the write under way. They stay where they are, unchanged, from the moment
    /// `Effects::write` asks for them until `Input::Synced` reports them.
    pub fn in_flight(&self) -> &[u8] {
        unimplemented!()
    }
}
