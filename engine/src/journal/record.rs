//! A record: one thing that a unit says. Its checksum is the unit's.
//!
//! ```text
//!  at  size  field
//!   0     4  kind    one of the table below
//!   4     4  group   0 where a record is of no group
//!   8     4  length  of the body, in bytes
//!  12     4  node    vote: who got it, 0 = nobody
//!  16     8  first   the first index that the record is about
//!  24     8  last    the last index that the record is about
//!  32     8  term
//!  40        body
//!
//!  kind           first          last         term               body
//!  1 entries      first index    last index   of the last entry  the entries, verbatim
//!  2 truncate     first one cut
//!  3 vote                                     the term
//!  4 snapshot     its index                   of that entry
//!  5 carry        first index    last index   of the last entry  the entries, verbatim
//!  6 checkpoint   first live                                     a row for each group
//!                 segment
//!  7 free         first live
//!                 segment
//!  8 replica      bytes 0..8     bytes 8..16
//!                 of its life    of its life
//! ```
//!
//! From a replica record on the group's replica is that life, and nothing that came before counts; all
//! zero: none is kept here.
//!
//! A row of a checkpoint says what held before the unit that it stands in. The first live index of
//! a group is the one after its snapshot.
//!
//! ```text
//!  at  size  field
//!   0     4  group
//!   4     4  vote            0 = nobody
//!   8     8  term
//!  16     8  commit
//!  24     8  snapshot_index
//!  32     8  snapshot_term
//!  40     8  last            the last index of the log
//!  48    16  replica         its life, 0 = none is kept here
//!  64
//! ```

use super::groups::GroupRow;
use super::unit::COUNTED_MAX;
use crate::ids::{GroupId, Incarnation, Index, NodeId, Term};
use wire::bytes::{array_at, put_u32_at, put_u64_at, u32_at, u64_at};

/// Size of a record's header, in bytes.
pub const RECORD_HEADER_BYTES: usize = 40;
/// Size of a checkpoint's row, in bytes.
pub const ROW_BYTES: usize = 64;

const AT_KIND: usize = 0;
const AT_GROUP: usize = AT_KIND + 4;
const AT_LENGTH: usize = AT_GROUP + 4;
const AT_NODE: usize = AT_LENGTH + 4;
const AT_FIRST: usize = AT_NODE + 4;
const AT_LAST: usize = AT_FIRST + 8;
const AT_TERM: usize = AT_LAST + 8;
const _: () = assert!(AT_TERM + 8 == RECORD_HEADER_BYTES);

const ROW_GROUP: usize = 0;
const ROW_VOTE: usize = ROW_GROUP + 4;
const ROW_TERM: usize = ROW_VOTE + 4;
const ROW_COMMIT: usize = ROW_TERM + 8;
const ROW_SNAPSHOT_INDEX: usize = ROW_COMMIT + 8;
const ROW_SNAPSHOT_TERM: usize = ROW_SNAPSHOT_INDEX + 8;
const ROW_LAST: usize = ROW_SNAPSHOT_TERM + 8;
const ROW_REPLICA: usize = ROW_LAST + 8;
const _: () = assert!(ROW_REPLICA + 16 == ROW_BYTES);

/// What a record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum RecordKind {
    /// Entries that follow the last one of their group.
    Entries = 1,
    /// A group's entries from `first` on are cut.
    Truncate = 2,
    /// A group's term and vote.
    Vote = 3,
    /// A group's snapshot is durable and stands for everything up to `first`.
    Snapshot = 4,
    /// Entries that are in the log already, said again so that their segment can be freed.
    Carry = 5,
    /// What held of every group when the segment was opened.
    Checkpoint = 6,
    /// The segments below `first` are not needed any more.
    Free = 7,
    /// The group's replica begins anew, or is gone.
    Replica = 8,
}

impl RecordKind {
    fn from_number(number: u32) -> Option<RecordKind> {
        use RecordKind::*;
        [Entries, Truncate, Vote, Snapshot, Carry, Checkpoint, Free, Replica]
            .into_iter()
            .find(|kind| *kind as u32 == number)
    }
}

/// What stands in front of a record's body. What a field means depends on the kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordHeader {
    /// What the record is.
    pub kind: RecordKind,
    /// The group.
    pub group: GroupId,
    /// Of the body, in bytes.
    pub length: u32,
    /// Who got the vote.
    pub node: Option<NodeId>,
    /// The first index (or segment) that the record is about.
    pub first: u64,
    /// The last index that the record is about.
    pub last: u64,
    /// The term.
    pub term: Term,
}

impl RecordHeader {
    /// A record of `kind` about `group`, with every other field zero.
    pub const fn new(kind: RecordKind, group: GroupId) -> RecordHeader {
        RecordHeader { kind, group, length: 0, node: None, first: 0, last: 0, term: Term::ZERO }
    }

    /// That a group's replica is this life from here on, or that none is kept.
    pub fn of_replica(group: GroupId, replica: Option<Incarnation>) -> RecordHeader {
        let bytes = replica_to_bytes(replica);
        RecordHeader {
            first: u64_at(&bytes, 0),
            last: u64_at(&bytes, 8),
            ..RecordHeader::new(RecordKind::Replica, group)
        }
    }

    /// The life that a replica record names.
    pub fn incarnation(&self) -> Option<Incarnation> {
        let mut bytes = [0; 16];
        put_u64_at(&mut bytes, 0, self.first);
        put_u64_at(&mut bytes, 8, self.last);
        replica_from_bytes(bytes)
    }

    /// The header's bytes.
    pub fn to_bytes(&self) -> [u8; RECORD_HEADER_BYTES] {
        let mut b = [0u8; RECORD_HEADER_BYTES];
        put_u32_at(&mut b, AT_KIND, self.kind as u32);
        put_u32_at(&mut b, AT_GROUP, self.group.0);
        put_u32_at(&mut b, AT_LENGTH, self.length);
        put_u32_at(&mut b, AT_NODE, node_to_number(self.node));
        put_u64_at(&mut b, AT_FIRST, self.first);
        put_u64_at(&mut b, AT_LAST, self.last);
        put_u64_at(&mut b, AT_TERM, self.term.0);
        b
    }
}

/// Splits the first record off a unit's body: its header, its body, and what follows. `None` when
/// the bytes are no record.
pub fn split(bytes: &[u8]) -> Option<(RecordHeader, &[u8], &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<RECORD_HEADER_BYTES>()?;
    let header = RecordHeader {
        kind: RecordKind::from_number(u32_at(head, AT_KIND))?,
        group: GroupId(u32_at(head, AT_GROUP)),
        length: u32_at(head, AT_LENGTH),
        node: node_from_number(u32_at(head, AT_NODE)),
        first: u64_at(head, AT_FIRST),
        last: u64_at(head, AT_LAST),
        term: Term(u64_at(head, AT_TERM)),
    };
    let (body, rest) = rest.split_at_checked(header.length as usize)?;
    // A life's halves are drawn, not counted.
    let counts = header.kind != RecordKind::Replica;
    let counted = header.first.max(header.last) <= COUNTED_MAX;
    (counted || !counts).then_some((header, body, rest))
}

/// A checkpoint's size for some groups, in bytes.
pub const fn checkpoint_bytes(groups: usize) -> usize {
    RECORD_HEADER_BYTES + groups * ROW_BYTES
}

/// A row's bytes.
pub fn row_to_bytes(group: GroupId, row: &GroupRow) -> [u8; ROW_BYTES] {
    let mut b = [0u8; ROW_BYTES];
    put_u32_at(&mut b, ROW_GROUP, group.0);
    put_u32_at(&mut b, ROW_VOTE, node_to_number(row.vote));
    put_u64_at(&mut b, ROW_TERM, row.term.0);
    put_u64_at(&mut b, ROW_COMMIT, row.commit.0);
    put_u64_at(&mut b, ROW_SNAPSHOT_INDEX, row.snapshot_index.0);
    put_u64_at(&mut b, ROW_SNAPSHOT_TERM, row.snapshot_term.0);
    put_u64_at(&mut b, ROW_LAST, row.last.0);
    b[ROW_REPLICA..].copy_from_slice(&replica_to_bytes(row.replica));
    b
}

/// The rows of a checkpoint's body; bytes beyond the last whole row are left out.
pub fn rows(body: &[u8]) -> impl Iterator<Item = (GroupId, GroupRow)> {
    body.chunks_exact(ROW_BYTES).map(|b| {
        let row = GroupRow {
            replica: replica_from_bytes(array_at(b, ROW_REPLICA)),
            vote: node_from_number(u32_at(b, ROW_VOTE)),
            term: Term(u64_at(b, ROW_TERM)),
            commit: Index(u64_at(b, ROW_COMMIT)),
            snapshot_index: Index(u64_at(b, ROW_SNAPSHOT_INDEX)),
            snapshot_term: Term(u64_at(b, ROW_SNAPSHOT_TERM)),
            last: Index(u64_at(b, ROW_LAST)),
        };
        (GroupId(u32_at(b, ROW_GROUP)), row)
    })
}

fn replica_to_bytes(replica: Option<Incarnation>) -> [u8; 16] {
    assert!(replica != Some(Incarnation([0; 16])), "a life is never all zero");
    replica.map_or([0; 16], |r| r.0)
}

fn replica_from_bytes(bytes: [u8; 16]) -> Option<Incarnation> {
    (bytes != [0; 16]).then_some(Incarnation(bytes))
}

fn node_to_number(node: Option<NodeId>) -> u32 {
    assert!(node != Some(NodeId(0)), "nodes count from 1");
    node.map_or(0, |n| n.0)
}

fn node_from_number(number: u32) -> Option<NodeId> {
    (number != 0).then_some(NodeId(number))
}
