//! The state of an engine for people to look at: plain data, made on request.

use crate::ids::{GroupId, Index, NodeId, Term};
pub use crate::journal::JournalStatus;
use crate::raft::{Member, ReadMode};
use crate::time::Duration;
use alloc::vec::Vec;

/// The state of one engine.
#[derive(Clone, PartialEq, Debug)]
pub struct EngineStatus {
    /// This engine, from 0.
    pub engine: u32,
    /// Its groups.
    pub groups: Vec<GroupStatus>,
    /// How many groups it is to keep and does not vote in yet.
    pub lacking: usize,
    /// Its journal.
    pub journal: JournalStatus,
    /// Client connections.
    pub connections: u32,
    /// Its twins on the other nodes.
    pub peers: Vec<TwinStatus>,
    /// How reads are made just now: by index while clocks drift, whatever is configured.
    pub reads: ReadMode,
}

/// An engine's twin on another node.
#[derive(Clone, PartialEq, Debug)]
pub struct TwinStatus {
    /// The node.
    pub node: NodeId,
    /// Whether a link to it stands.
    pub linked: bool,
    /// How surely it is dead: the negative decimal logarithm of the chance that it is not.
    pub phi: f64,
    /// How long the last word to it and back took.
    pub round_trip: Option<Duration>,
    /// By how much its clock is faster than ours, in millionths.
    pub drift_ppm: Option<i64>,
}

/// The state of one group's replica.
#[derive(Clone, PartialEq, Debug)]
pub struct GroupStatus {
    /// The group; 0 is the meta group, shard s is group s + 1.
    pub group: GroupId,
    /// "leader", "candidate", "pre-candidate" or "follower".
    pub role: &'static str,
    /// The term.
    pub term: Term,
    /// Who leads, as far as this replica knows.
    pub leader: Option<NodeId>,
    /// Who leads when nothing speaks against it.
    pub preferred: NodeId,
    /// When a majority was last known to follow this leader, so long ago; nothing unless it leads and has committed
    /// in its term.
    pub confirmed: Option<Duration>,
    /// How long a majority may be silent before its leader gives up.
    pub patience: Duration,
    /// The highest index known to be committed.
    pub commit: Index,
    /// The highest index applied.
    pub applied: Index,
    /// The first index still in the log.
    pub first_index: Index,
    /// The last index in the log.
    pub last_index: Index,
    /// The highest index durable here.
    pub durable: Index,
    /// Who belongs to the group, as far as this replica knows.
    pub members: Vec<Member>,
    /// Whether the newest of [`GroupStatus::members`] is not committed yet.
    pub changing: bool,
    /// The nodes that are to keep the group.
    pub wanted: Vec<NodeId>,
    /// The other replicas, as the leader sees them; empty elsewhere.
    pub peers: Vec<PeerStatus>,
    /// What the machine holds.
    pub machine: MachineStatus,
}

impl GroupStatus {
    /// Whether it leads and can serve: it has committed in its term, and a majority followed it just now.
    pub fn serves(&self) -> bool {
        self.confirmed.is_some_and(|ago| ago <= self.patience)
    }

    /// Whether a follower is there: it is heard, and takes the entries as they come.
    pub fn has(&self, peer: &PeerStatus) -> bool {
        let heard = peer.silent.is_some_and(|silent| silent <= self.patience * 2);
        heard && peer.state == "replicate"
    }
}

/// A follower, as its leader sees it.
#[derive(Clone, PartialEq, Debug)]
pub struct PeerStatus {
    /// The follower.
    pub node: NodeId,
    /// The highest index known to be durable there.
    pub match_index: Index,
    /// The next index to send.
    pub next_index: Index,
    /// "probe", "replicate" or "snapshot"; "absent": its node says that it keeps no such replica.
    pub state: &'static str,
    /// How long ago it was heard.
    pub silent: Option<Duration>,
}

/// What a machine holds.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct MachineStatus {
    /// Live sessions.
    pub sessions: u64,
    /// Locks that are held or waited for.
    pub locks: u64,
    /// Callers that wait for a lock.
    pub lock_waiters: u64,
    /// Queues.
    pub queues: u64,
    /// Messages that are ready.
    pub messages_ready: u64,
    /// Messages that are in flight.
    pub messages_in_flight: u64,
    /// Messages that are delayed.
    pub messages_delayed: u64,
    /// Cache lines.
    pub lines: u64,
    /// What the lines take, in bytes.
    pub line_bytes: u64,
    /// Lines that were evicted since the start.
    pub evictions: u64,
}
