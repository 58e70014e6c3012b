//! What a step asks of its caller, as data.

use super::Log;
use crate::ids::{Index, NodeId, Term};
use alloc::vec::Vec;
use wire::peer;

/// What a step asks of its caller, who empties it after **every** call into Raft: ranges of the log
/// in here are only good until the next call.
///
/// **Order**: `persist` first, each into the journal in its order, then one
/// [`Raft::on_appended`](super::Raft::on_appended) with the position of the last; then the rest.
#[derive(Default)]
pub struct Output {
    /// What goes into the journal.
    pub persist: Vec<Persist>,
    /// What goes to peers.
    pub messages: Vec<Outgoing>,
    /// A piece of a snapshot came in with this message: keep its bytes.
    pub install: Option<Install>,
    /// A follower lags behind the log: make a snapshot and call
    /// [`Raft::on_snapshot_ready`](super::Raft::on_snapshot_ready). Asked again if that takes long.
    pub snapshot_wanted: Option<NodeId>,
    /// Things worth telling.
    pub events: Vec<Event>,
}

impl Output {
    /// Whether nothing is asked.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.persist.is_empty()
            && self.messages.is_empty()
            && self.install.is_none()
            && self.snapshot_wanted.is_none()
            && self.events.is_empty()
    }

    /// Empties it, keeping its memory.
    #[cfg(test)]
    pub fn clear(&mut self) {
        self.persist.clear();
        self.messages.clear();
        self.install = None;
        self.snapshot_wanted = None;
        self.events.clear();
    }

    pub(super) fn send(&mut self, to: NodeId, hold: Hold, body: Body) {
        self.messages.push(Outgoing { to, hold, body });
    }
}

/// Something worth telling of this replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// The leader changed, as far as this replica knows.
    Leader {
        /// The term of that leader.
        term: Term,
        /// Who leads. `None`: not known.
        leader: Option<NodeId>,
    },
    /// This replica begins to campaign.
    Campaign {
        /// The term that it campaigns for.
        term: Term,
    },
    /// A follower lags so far that it gets a snapshot.
    SnapshotSent {
        /// The follower.
        to: NodeId,
    },
}

/// A record for the journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Persist {
    /// Entries of the log, one run: [`Log::bytes`] gives their bytes.
    Entries {
        /// The first.
        first: Index,
        /// The last.
        last: Index,
        /// The term of the last.
        last_term: Term,
    },
    /// The log is cut: nothing at or after `from` counts any more.
    Truncate {
        /// The first index that is cut.
        from: Index,
    },
    /// The term, and who has this node's vote in it.
    Vote {
        /// The term.
        term: Term,
        /// Who was voted for.
        vote: Option<NodeId>,
    },
    /// An installed snapshot, whose file is durable, replaces the log up to `index`.
    Snapshot {
        /// The index that it stands for.
        index: Index,
        /// The term of the entry at that index.
        term: Term,
    },
}

/// When a message may leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hold {
    /// At once.
    Now,
    /// When everything persisted so far, this step included, is synced.
    AfterSync,
}

/// A message to a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outgoing {
    /// To whom.
    pub to: NodeId,
    /// When it may leave.
    pub hold: Hold,
    /// What it says.
    pub body: Body,
}

/// What a message says: the wire's message, or where its bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Body {
    /// Asks for a vote.
    Vote(peer::Vote),
    /// Answers a vote.
    VoteReply(peer::VoteReply),
    /// Entries of the log, or a heartbeat.
    Append(AppendRange),
    /// Answers entries.
    AppendReply(peer::AppendReply),
    /// A piece of a snapshot.
    Snapshot(SnapshotPiece),
    /// Answers a piece of a snapshot.
    SnapshotReply(peer::SnapshotReply),
    /// Asks the follower to campaign.
    TimeoutNow(peer::TimeoutNow),
    /// Tells a replica that it does not belong to the group.
    Leave(peer::Leave),
}

/// An `Append` whose entries still lie in the log: those after `prev_index` up to `last`, one run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AppendRange {
    /// The leader's term.
    pub term: Term,
    /// The index before the first entry.
    pub prev_index: Index,
    /// The term at that index.
    pub prev_term: Term,
    /// The last entry; `prev_index` when there is none.
    pub last: Index,
    /// The leader's commit index.
    pub commit: Index,
    /// The leader's stamp.
    pub sent_at: u64,
}

impl AppendRange {
    /// The wire's message, its entries in the log's own memory.
    pub fn message<'a>(&self, log: &'a Log) -> peer::Append<'a> {
        let count = self.last.0 - self.prev_index.0;
        let entries =
            if count == 0 { &[][..] } else { log.bytes(self.prev_index.next(), self.last) };
        peer::Append {
            term: self.term.0,
            prev_index: self.prev_index.0,
            prev_term: self.prev_term.0,
            commit: self.commit.0,
            sent_at: self.sent_at,
            count: u32::try_from(count).expect("a message's entries fit a message"),
            entries,
        }
    }
}

/// A piece of the snapshot that the caller offered last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotPiece {
    /// The leader's term.
    pub term: Term,
    /// The index that the snapshot stands for.
    pub index: Index,
    /// The term of the entry at that index.
    pub index_term: Term,
    /// The leader's stamp.
    pub sent_at: u64,
    /// Where the piece begins, in bytes.
    pub offset: u64,
    /// How long the piece is, in bytes.
    pub length: usize,
    /// The whole snapshot, in bytes.
    pub total: u64,
}

impl SnapshotPiece {
    /// Where the piece's bytes lie in the snapshot.
    pub fn range(&self) -> core::ops::Range<usize> {
        let start = usize::try_from(self.offset).expect("a snapshot lies in memory");
        start..start + self.length
    }

    /// The wire's message. `bytes` are the snapshot's at [`SnapshotPiece::range`].
    pub fn message<'a>(&self, bytes: &'a [u8]) -> peer::Snapshot<'a> {
        assert_eq!(bytes.len(), self.length, "the bytes are those of the piece");
        peer::Snapshot {
            term: self.term.0,
            index: self.index.0,
            index_term: self.index_term.0,
            sent_at: self.sent_at,
            offset: self.offset,
            total: self.total,
            bytes,
        }
    }
}

/// A piece of a snapshot to keep: the bytes of the message that was just handed in.
///
/// With `offset` 0 a new snapshot begins and what was kept before is thrown away. The piece that
/// ends at `total` is the last: the caller then makes the whole durable, restores its state from it
/// and calls [`Raft::on_snapshot_installed`](super::Raft::on_snapshot_installed).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Install {
    /// The index that the snapshot stands for.
    pub index: Index,
    /// The term of the entry at that index.
    pub term: Term,
    /// Where the piece begins, in bytes: all before it was kept already.
    pub offset: u64,
    /// The whole snapshot, in bytes.
    pub total: u64,
}
