//! What the world is to do, as data.
//!
//! The engine fills an [`Effects`]; its caller carries it out once a turn, in the order of the
//! fields, and hands back the same value, emptied. Whatever must wait for a sync is kept by the
//! engine itself: nothing in here may leave too early.

use crate::ids::{ConnId, GroupId, Index, NodeId, Term};
use crate::journal::Write;
use crate::level::Level;
use crate::raft::{self, ChangeError, MemberChange};
use crate::time::Duration;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

/// What the world is to do. **Order**: `write` first (so that the disk works while the rest is
/// done), then `peers`, `clients`, `closes`, and the rest in any order.
#[derive(Default)]
pub struct Effects {
    /// Write [`Engine::in_flight`](crate::engine::Engine::in_flight) and sync it, then keep its witness if it
    /// has one, then report `Input::Synced`. At most one is under way: none is asked for before the last was
    /// reported.
    pub write: Option<Write>,
    /// Bytes for peers, by node id.
    pub peers: PeerOutbox,
    /// Bytes for clients, by the index of their connection.
    pub clients: Outbox,
    /// Connections to close, once their bytes are sent.
    pub closes: Vec<ConnId>,
    /// Segments to make or make anew, by slot: filled with zeros and synced, then
    /// `Input::SegmentReady`.
    pub segments: Vec<u32>,
    /// Parts of snapshots to write to disk, in their order: once the last is, whole and synced,
    /// `Input::SnapshotSaved`.
    pub saves: Vec<SnapshotPart>,
    /// Snapshots that nobody needs any more.
    pub drops: Vec<(GroupId, Index)>,
    /// The cluster's nodes have changed: tell the other engines of this node ([`News::Nodes`]), keep it in the
    /// manifest, and speak with those nodes from now on.
    pub nodes: Option<Vec<u8>>,
    /// The cluster is at a feature level that this node does not know: it must stop.
    pub outdated: Option<Outdated>,
    /// Frames for other engines of this node, by number: each `Input::Across` there. One may be lost.
    pub across: Vec<(u32, Vec<u8>)>,
    /// Things worth telling people, and the other engines of this node ([`News::of`]).
    pub notes: Vec<Note>,
    /// Clients want the node's state: gather it, then `Input::Report`. Asked for once at a time.
    pub report: Option<ReportWanted>,
}

/// A cluster that is at a feature level which a node does not know.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("E206 the cluster is at feature level {}; this node goes up to {known}. Start the newer version, without --level-max", Shown(*.level))]
pub struct Outdated {
    /// The cluster's level; `None`: it can't even be read.
    pub level: Option<Level>,
    /// The newest that the node knows.
    pub known: Level,
}

struct Shown(Option<Level>);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(level) => level.fmt(f),
            None => f.write_str("of a newer version"),
        }
    }
}

/// The node's state is wanted, as it is told by `GET /status`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReportWanted;

/// A part of a snapshot to write to disk. A group's parts come one after the other; one with offset 0
/// begins a snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotPart {
    /// The group.
    pub group: GroupId,
    /// The index that the snapshot stands for.
    pub index: Index,
    /// The term of the entry at that index.
    pub term: Term,
    /// Where the part lies in the state, in bytes.
    pub offset: u64,
    /// The part of the state.
    pub bytes: Vec<u8>,
    /// Whether this is the last one.
    pub last: bool,
}

/// Something worth telling.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Note {
    /// A group's leader changed, as far as this node knows. `None`: not known.
    Leader {
        /// The group.
        group: GroupId,
        /// The term of that leader.
        term: Term,
        /// Who leads.
        leader: Option<NodeId>,
    },
    /// This node begins to campaign.
    Campaign {
        /// The group.
        group: GroupId,
        /// The term it campaigns for.
        term: Term,
    },
    /// Another node's clock is seen to go at another rate: leases are not trusted for a while.
    ClockDrift {
        /// The node.
        node: NodeId,
        /// By how much it is faster than ours, in millionths.
        ppm: i64,
    },
    /// A word to another node and back takes so long that followers may miss their leader.
    LongWay {
        /// The node.
        node: NodeId,
        /// How long.
        round_trip: Duration,
        /// The shortest time after which a follower misses its leader.
        timeout_min: Duration,
    },
    /// A snapshot was made, slice by slice.
    SnapshotMade {
        /// The group.
        group: GroupId,
        /// The index that it stands for.
        index: Index,
        /// Its size.
        bytes: u64,
    },
    /// A snapshot from the leader replaced this group's state.
    SnapshotInstalled {
        /// The group.
        group: GroupId,
        /// The index that it stands for.
        index: Index,
        /// Its size.
        bytes: u64,
    },
    /// A follower lags so far that it gets a snapshot.
    SnapshotSent {
        /// The group.
        group: GroupId,
        /// The follower.
        to: NodeId,
    },
    /// A snapshot was made for a backup, and can be read.
    BackupMade {
        /// The group.
        group: GroupId,
        /// The index that it stands for.
        index: Index,
        /// Its size.
        bytes: u64,
    },
    /// Sessions ended without being closed, in one turn.
    SessionsExpired {
        /// The group.
        group: GroupId,
        /// How many.
        sessions: u64,
    },
    /// What came of a change of members that was asked for.
    ChangeAnswered {
        /// The group.
        group: GroupId,
        /// What was asked for.
        change: MemberChange,
        /// Where it stands in the log. It is done once that is committed: [`Note::Members`].
        answer: Result<Index, ChangeError>,
    },
    /// A change of a group's members was applied here, or came with a snapshot.
    Members {
        /// The group.
        group: GroupId,
        /// Where it stands in the log at the latest.
        index: Index,
    },
    /// A replica of the group is kept here from now on, or was already, because a leader asked for it.
    ReplicaMade {
        /// The group.
        group: GroupId,
    },
    /// No replica of the group is kept here any more, and nothing of it is left.
    ReplicaRemoved {
        /// The group.
        group: GroupId,
    },
    /// The journal has no free segment: nothing more is acknowledged until one is freed.
    JournalFull {
        /// Segments in use.
        segments: u32,
    },
}

impl Note {
    /// What a replica of `group` tells.
    pub fn of_raft(group: GroupId, event: raft::Event) -> Note {
        match event {
            raft::Event::Leader { term, leader } => Note::Leader { group, term, leader },
            raft::Event::Campaign { term } => Note::Campaign { group, term },
            raft::Event::SnapshotSent { to } => Note::SnapshotSent { group, to },
        }
    }
}

/// What one engine learned and the others of its node must know. Each is told all of it, in the order in which it was
/// learned: `Input::of`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum News {
    /// Who leads a group.
    Leader {
        /// The group.
        group: GroupId,
        /// Who leads it. `None`: not known.
        leader: Option<NodeId>,
    },
    /// Who the cluster's nodes are: a snapshot of the meta group's state.
    Nodes(Arc<[u8]>),
}

impl News {
    /// What is news of a note for the other engines.
    pub fn of(note: &Note) -> Option<News> {
        match *note {
            Note::Leader { group, leader, .. } => Some(News::Leader { group, leader }),
            _ => None,
        }
    }
}

/// Bytes for peers, by node id. Ids are any number, so they are looked up and index nothing.
#[derive(Default)]
pub struct PeerOutbox {
    /// Every peer that there were bytes for, by id.
    peers: Vec<u32>,
    outbox: Outbox,
    /// In the same order: each one's place in the outbox.
    places: Vec<u32>,
    /// By that place: whose it is.
    met: Vec<u32>,
}

impl PeerOutbox {
    /// The buffer of `node`, to append frames to.
    pub fn to(&mut self, node: u32) -> &mut Vec<u8> {
        let at = match self.peers.binary_search(&node) {
            Ok(at) => at,
            Err(at) => {
                let place = u32::try_from(self.met.len()).expect("nodes are few");
                self.met.push(node);
                self.peers.insert(at, node);
                self.places.insert(at, place);
                at
            }
        };
        self.outbox.to(self.places[at])
    }

    /// As [`Outbox::drain`].
    pub fn drain(&mut self, mut each: impl FnMut(u32, &mut Vec<u8>)) {
        let met = &self.met;
        self.outbox.drain(|place, bytes| each(met[place as usize], bytes));
    }
}

/// Bytes by destination. A destination's buffer is taken whole and given back empty, so that the
/// steady state allocates nothing.
#[derive(Default)]
pub struct Outbox {
    buffers: Vec<Vec<u8>>,
    /// Destinations with bytes, each once.
    dirty: Vec<u32>,
}

impl Outbox {
    /// The buffer of `to`, to append frames to.
    pub fn to(&mut self, to: u32) -> &mut Vec<u8> {
        let at = to as usize;
        if at >= self.buffers.len() {
            self.buffers.resize_with(at + 1, Vec::new);
        }
        let buffer = &mut self.buffers[at];
        // A buffer that is empty is not listed: list it. The caller appends at least a byte.
        if buffer.is_empty() {
            self.dirty.push(to);
        }
        buffer
    }

    /// How many bytes wait for `to`.
    pub fn waiting(&self, to: u32) -> usize {
        self.buffers.get(to as usize).map_or(0, Vec::len)
    }

    /// Whether nothing waits for anybody.
    pub fn is_empty(&self) -> bool {
        self.dirty.is_empty()
    }

    /// Hands every destination's bytes to `each`, which leaves the buffer empty (or swaps it for an
    /// empty one); what it leaves is thrown away.
    pub fn drain(&mut self, mut each: impl FnMut(u32, &mut Vec<u8>)) {
        for to in self.dirty.drain(..) {
            let buffer = &mut self.buffers[to as usize];
            if !buffer.is_empty() {
                each(to, buffer);
                buffer.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_of_any_id_takes_no_more_than_another() {
        let mut outbox = PeerOutbox::default();
        for node in [3, u32::MAX, 1, 100_000_000] {
            outbox.to(node).push(1);
            outbox.to(node).push(2);
        }
        outbox.to(1).push(3);
        let mut seen = Vec::new();
        outbox.drain(|node, bytes| seen.push((node, bytes.len())));
        assert_eq!(seen, [(3, 2), (u32::MAX, 2), (1, 3), (100_000_000, 2)]);
        assert!(outbox.outbox.is_empty());
        assert_eq!(outbox.outbox.buffers.len(), 4, "there are as many buffers as peers");
    }

    #[test]
    fn an_outbox_hands_each_destination_over_once() {
        let mut outbox = Outbox::default();
        outbox.to(3).push(1);
        outbox.to(3).push(2);
        outbox.to(1).push(9);
        let mut seen = Vec::new();
        outbox.drain(|to, bytes| seen.push((to, core::mem::take(bytes))));
        assert_eq!(seen, [(3, [1, 2].to_vec()), (1, [9].to_vec())]);
        assert!(outbox.is_empty());
        outbox.drain(|_, _| panic!("nothing is left"));
    }
}
