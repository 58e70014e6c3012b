//! What the journal knows of each group, and how a record changes it.
//!
//! Append and recovery go through the same [`Groups::apply`]: what a record meant when it was
//! written is what it means when it is read.

use super::record::{RecordHeader, RecordKind};
use super::spans::Spans;
use crate::ids::{GroupId, Incarnation, Index, NodeId, Term};
use alloc::vec::Vec;

/// What holds of a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupRow {
    /// The life of the replica that is kept here, if one is.
    pub replica: Option<Incarnation>,
    /// The term.
    pub term: Term,
    /// Who got this node's vote in that term.
    pub vote: Option<NodeId>,
    /// The highest index that was known to be committed.
    pub commit: Index,
    /// What the durable snapshot stands for. The log begins after it.
    pub snapshot_index: Index,
    /// The term of the entry at that index.
    pub snapshot_term: Term,
    /// The last index of the log.
    pub last: Index,
}

impl GroupRow {
    /// A group that nothing has happened to.
    pub const NEW: GroupRow = GroupRow {
        replica: None,
        term: Term::ZERO,
        vote: None,
        commit: Index::ZERO,
        snapshot_index: Index::ZERO,
        snapshot_term: Term::ZERO,
        last: Index::ZERO,
    };

    /// The first index of the log.
    pub fn first(&self) -> Index {
        self.snapshot_index.next()
    }
}

/// Every group's row, and where its entries are.
///
/// Invariant: the spans of a group cover exactly `row.first()..=row.last`.
#[derive(Clone, Debug)]
pub(super) struct Groups<T> {
    /// Ascending.
    pub ids: Vec<GroupId>,
    pub rows: Vec<GroupRow>,
    pub spans: Vec<Spans<T>>,
}

impl<T: Copy + PartialEq> Groups<T> {
    pub fn new(ids: &[GroupId]) -> Groups<T> {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        assert!(!ids.is_empty(), "an engine keeps at least one group");
        assert!(ids.windows(2).all(|w| w[0] < w[1]), "a group is kept once");
        let rows = ids.iter().map(|_| GroupRow::NEW).collect();
        let spans = ids.iter().map(|_| Spans::new()).collect();
        Groups { ids, rows, spans }
    }

    /// Where a group stands in the tables.
    pub fn find(&self, group: GroupId) -> Option<usize> {
        self.ids.binary_search(&group).ok()
    }

    /// Changes the group at `at` as a record says whose entries are at `place`.
    ///
    /// # Errors
    /// What is wrong with the record, in words; nothing is changed then.
    pub fn apply(
        &mut self,
        at: usize,
        record: &RecordHeader,
        place: T,
    ) -> Result<(), &'static str> {
        let (row, spans) = (&mut self.rows[at], &mut self.spans[at]);
        let (first, last) = (Index(record.first), Index(record.last));
        match record.kind {
            RecordKind::Entries => {
                check(first == row.last.next(), "entries do not follow the log's last one")?;
                check(first <= last, "a record of entries holds none")?;
                spans.push(first, last, place);
                row.last = last;
            }
            RecordKind::Carry => {
                check(first <= last, "a carry record holds no entries")?;
                check(first >= row.first(), "an entry below the snapshot is carried")?;
                check(last <= row.last, "an entry that was cut is carried")?;
                spans.assign(first, last, place);
            }
            RecordKind::Truncate => {
                check(first > row.snapshot_index, "the snapshot is cut")?;
                check(first > row.commit, "a committed entry is cut")?;
                if first <= row.last {
                    spans.truncate(first);
                    row.last = first.prev();
                }
            }
            RecordKind::Vote => {
                check(record.term >= row.term, "the term goes back")?;
                let again = record.term == row.term && row.vote.is_some();
                check(!again || record.node == row.vote, "a vote changes within its term")?;
                row.term = record.term;
                row.vote = record.node;
            }
            RecordKind::Snapshot => {
                check(first > row.snapshot_index, "the snapshot goes back")?;
                spans.release(first);
                row.snapshot_index = first;
                row.snapshot_term = record.term;
                row.last = row.last.max(first);
                row.commit = row.commit.max(first);
            }
            RecordKind::Replica => {
                *spans = Spans::new();
                *row = GroupRow { replica: record.incarnation(), ..GroupRow::NEW };
            }
            RecordKind::Checkpoint | RecordKind::Free => {
                return Err("the record is of no group");
            }
        }
        assert!(row.snapshot_index <= row.last, "a log does not end below its snapshot");
        if let Some((first, last)) = spans.range() {
            assert!(first == row.first(), "the spans begin where the log does");
            assert!(last == row.last, "the spans end where the log does");
        }
        Ok(())
    }
}

fn check(holds: bool, otherwise: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(otherwise) }
}
