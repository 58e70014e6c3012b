//! Every message between nodes, engine to engine.
//!
//! The header's `shard` names the group: 0 is the meta group, shard `s` is group `s + 1`.
//! Consensus itself, and what each field means to it, is Raft's (Ongaro and Ousterhout, In Search of
//! an Understandable Consensus Algorithm, 2014; Ongaro's thesis, section 9.6 for pre-vote).

use crate::declare::messages;
use crate::header::Kind;
use crate::layout::{Field, WireError};
use crate::request::id;
use alloc::vec::Vec;

/// The first kind of what nodes say to each other.
pub const PEER_FIRST: Kind = Kind(0x100);

messages! { PEERS:
    /// The first frame between nodes, answered with the same from the other side.
    0x100 PeerHello {
        /// The cluster's id; all zero = not born yet.
        cluster: id = id(0x10),
        /// The sender's incarnation: random, made with its data directory.
        incarnation: id = id(0x80),
        /// The sender's node id.
        node: u32 = 2,
        /// The engine that the link joins: engine k speaks to engine k.
        engine: u32 = 3,
        /// How many engines the sender has.
        engines: u32 = 4,
        /// The highest protocol version that the sender speaks.
        version: u8 = 1,
    }

    /// The creator tells an empty node that the cluster is born.
    0x101 Birth<'a> {
        /// The new cluster's id.
        cluster: id = id(0x10),
        /// How many shards it has.
        shards: u32 = 12,
        /// What the cache lines of one shard may take, in bytes.
        cache_bytes_max: u64 = 64 << 20,
        /// The founders: rows of a little-endian u32 node id and 16 bytes of incarnation.
        founders: bytes = &[1; 20],
    }

    /// The nodes of the cluster as the sender knows them: to a node that was just born, and whenever they change.
    0x102 Nodes<'a> {
        /// The meta group's state, as its snapshot has it: newer ones replace older ones.
        nodes: bytes = b"TCMM",
    }

    /// Which groups the sender's engine leads, when that changes and once in a while: a node that keeps no replica of
    /// a group learns from it where to send clients.
    0x103 Leads<'a> {
        /// For each group: u32 group, u64 term, u8 count, count x u32 node id of its members.
        rows: bytes = b"\x03\0\0\0\x05\0\0\0\0\0\0\0\x01\x02\0\0\0",
    }

    /// What the sender's build knows: said once a second until the cluster is at it. Who does not say it knows level 1 alone.
    0x104 FeatureLevel {
        /// The newest feature level that it knows.
        newest: u32 = 2,
    }

    /// Ten times a second from engine to engine, whatever their groups do: how alive the sender is, and how its clock
    /// goes.
    0x105 Pulse {
        /// The sender's clock when it sent this, in nanoseconds.
        sent_at: u64 = 123_456_789,
        /// The newest `sent_at` that it heard from the receiver; 0 = none.
        echo: u64 = 987_654_321,
        /// How long ago it heard that, in nanoseconds.
        held: u64 = 50_000_000,
    }

    /// Asks for a vote, or (pre-vote) whether one would be given.
    0x110 Vote {
        /// The term that is campaigned for.
        term: u64 = 5,
        /// Index of the candidate's last entry.
        last_index: u64 = 100,
        /// Term of the candidate's last entry.
        last_term: u64 = 4,
        /// The candidate's incarnation.
        incarnation: id = id(0x80),
        /// 0 = a vote, 1 = a pre-vote.
        pre: u8 = 1,
        /// 1 = the leader asked for this campaign: its own lease is given up.
        transfer: u8 = 0,
    }

    /// The answer to [`Vote`].
    0x111 VoteReply {
        /// The term of the campaign if granted, else the voter's term.
        term: u64 = 5,
        /// The voter's incarnation.
        incarnation: id = id(0x90),
        /// 0 = a vote, 1 = a pre-vote.
        pre: u8 = 1,
        /// 1 = granted.
        granted: u8 = 1,
    }

    /// Entries, or a heartbeat when there are none.
    0x112 Append<'a> {
        /// The leader's term.
        term: u64 = 5,
        /// Index of the entry before the first.
        prev_index: u64 = 100,
        /// Term of that entry.
        prev_term: u64 = 4,
        /// The leader's commit index.
        commit: u64 = 99,
        /// The leader's own clock when it sent this; comes back in the reply.
        sent_at: u64 = 123_456_789,
        /// How many entries.
        count: u32 = 1,
        /// The entries, as they lie in the journal: header and payload, one after the other.
        entries: bytes = &[0xee; 48],
    }

    /// The answer to [`Append`] and to [`Snapshot`].
    0x113 AppendReply {
        /// The follower's term.
        term: u64 = 5,
        /// The highest index that is durable here and agrees with the leader; with `reject`, where
        /// the leader should probe next.
        index: u64 = 101,
        /// Term of the follower's entry at `index`, with `reject`.
        index_term: u64 = 4,
        /// The newest `sent_at` heard from this leader.
        sent_at: u64 = 123_456_789,
        /// The follower's incarnation.
        incarnation: id = id(0x90),
        /// 1 = the entry before the first did not agree.
        reject: u8 = 1,
    }

    /// A piece of a snapshot, for a follower whose next entry is gone from the leader's log.
    0x114 Snapshot<'a> {
        /// The leader's term.
        term: u64 = 5,
        /// The index that the snapshot stands for.
        index: u64 = 90,
        /// Term of the entry at that index.
        index_term: u64 = 3,
        /// The leader's own clock when it sent this.
        sent_at: u64 = 323_456_789,
        /// Where this piece begins in the snapshot, in bytes.
        offset: u64 = 4,
        /// The whole snapshot, in bytes.
        total: u64 = 7,
        /// The piece.
        bytes: bytes = b"abc",
    }

    /// How far a snapshot has come: the leader sends the next piece from there.
    0x115 SnapshotReply {
        /// The follower's term.
        term: u64 = 5,
        /// The snapshot's index.
        index: u64 = 90,
        /// Bytes that are here.
        received: u64 = 7,
        /// The newest `sent_at` heard from this leader.
        sent_at: u64 = 323_456_789,
    }

    /// The leader asks the follower to campaign at once: leadership transfer.
    0x116 TimeoutNow {
        /// The leader's term.
        term: u64 = 5,
    }

    /// The leader asks the node to keep an empty replica of the group: it is about to be added as a learner.
    0x120 Join {
        /// The leader's term.
        term: u64 = 5,
        /// The replica's life.
        incarnation: id = id(0x90),
    }

    /// The node keeps no replica of the group. Answers [`Append`] and [`Snapshot`].
    0x121 Absent {
        /// The `sent_at` of what is answered.
        sent_at: u64 = 123_456_789,
    }

    /// A replica that hears no leader asks every node whether it still belongs to its group.
    0x122 Stray {
        /// The replica's term.
        term: u64 = 5,
        /// The replica's life.
        incarnation: id = id(0x90),
    }

    /// The leader answers [`Stray`], or an answer from a replica that it does not know: by what is committed the replica does not belong to the group. It ends, unless it
    /// knows of a higher term.
    0x123 Leave {
        /// The leader's term.
        term: u64 = 6,
        /// The replica's life.
        incarnation: id = id(0x90),
    }
    /// Mail of one group for another, to that one's leader: it takes what it did not take before. Header: `shard` is the
    /// group that it is for.
    0x130 Mail<'a> {
        /// The group that wrote it.
        from: u32 = 3,
        /// The number of the first.
        first: u64 = 41,
        /// The mail, in order: each a u32 length and so many bytes.
        mails: bytes = b"\x02\0\0\0ab",
    }

    /// How far a group has taken another one's mail, to that one's leader. Header: `shard` is the group that wrote it.
    0x131 MailTaken {
        /// The group that took it.
        by: u32 = 4,
        /// The number of the last that was taken.
        upto: u64 = 41,
    }

    /// A message from one group's leader to another's that nobody keeps. Header: `shard` is the group that it is for.
    0x132 Probe<'a> {
        /// The group that it is from.
        from: u32 = 3,
        /// What it says.
        bytes: bytes = b"abc",
    }
}
