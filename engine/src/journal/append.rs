//! The way in: records into the pending unit, units into segments.

use super::record::{self, RECORD_HEADER_BYTES, RecordHeader, RecordKind};
use super::spans::Spans;
use super::unit::{PAGE_BYTES, UNIT_HEADER_BYTES, UnitHeader, pages};
use super::witness::Witness;
use super::{Flight, GroupRow, Journal, PENDING, Record, Write, unit};
use crate::entry;
use crate::ids::{GroupId, Index, Position};
use crate::mutant::{self, Mutant};

pub(super) fn append(journal: &mut Journal, record: Record<'_>) -> Position {
    let (header, body) = lay_out(record);
    let at = journal.groups.find(header.group).expect("the journal keeps the group");
    let row = journal.groups.rows[at];
    if header.kind == RecordKind::Snapshot && Index(header.first) <= row.snapshot_index {
        return journal.appended();
    }
    let most = match header.kind {
        RecordKind::Carry => journal.room.carry,
        _ => journal.room.all,
    };
    let unit_bytes = journal.pending.len() + RECORD_HEADER_BYTES + body.len();
    assert!(unit_bytes <= most, "whoever appends has asked for room");
    if let Err(what) = journal.groups.apply(at, &header, PENDING) {
        panic!("a record of group {} contradicts the journal: {what}", header.group);
    }
    match header.kind {
        RecordKind::Entries | RecordKind::Carry => {
            assert!(opens_with(body, header.group, Index(header.first)), "entries are verbatim");
            if !journal.touched.contains(&at) {
                journal.touched.push(at);
            }
            journal.freeing |= header.kind == RecordKind::Carry;
        }
        _ => journal.freeing = true,
    }
    push(journal, &header, body);
    journal.next
}

fn opens_with(entries: &[u8], group: GroupId, index: Index) -> bool {
    entry::read_unchecked(entries).is_ok_and(|e| e.header.group == group && e.header.index == index)
}

fn lay_out(record: Record<'_>) -> (RecordHeader, &[u8]) {
    match record {
        Record::Entries { group, first, last, last_term, bytes } => {
            let header = RecordHeader::new(RecordKind::Entries, group);
            (RecordHeader { first: first.0, last: last.0, term: last_term, ..header }, bytes)
        }
        Record::Carry { group, first, last, last_term, bytes } => {
            let header = RecordHeader::new(RecordKind::Carry, group);
            (RecordHeader { first: first.0, last: last.0, term: last_term, ..header }, bytes)
        }
        Record::Truncate { group, from } => {
            let header = RecordHeader::new(RecordKind::Truncate, group);
            (RecordHeader { first: from.0, ..header }, &[])
        }
        Record::Vote { group, term, vote } => {
            let header = RecordHeader::new(RecordKind::Vote, group);
            (RecordHeader { node: vote, term, ..header }, &[])
        }
        Record::Snapshot { group, index, term } => {
            let header = RecordHeader::new(RecordKind::Snapshot, group);
            (RecordHeader { first: index.0, term, ..header }, &[])
        }
        Record::Replica { group, replica } => (RecordHeader::of_replica(group, replica), &[]),
    }
}

fn push(journal: &mut Journal, header: &RecordHeader, body: &[u8]) {
    let length = u32::try_from(body.len()).expect("a unit is far below 4 GiB");
    journal.pending.extend_from_slice(&RecordHeader { length, ..*header }.to_bytes());
    journal.pending.extend_from_slice(body);
    journal.records += 1;
}

pub(super) fn seal(journal: &mut Journal) -> Option<Write> {
    if journal.in_flight.is_some() || (journal.records == 0 && !journal.mark) {
        return None;
    }
    let marked = journal.records == 0;
    free(journal);
    if !journal.segments.fits(journal.pending.len()) && !open(journal) {
        return None;
    }
    let current = *journal.segments.live.back().expect("a segment is open");
    let length = journal.pending.len();
    let padded = pages(length) * PAGE_BYTES;
    let offset = journal.segments.end;
    assert!(offset + padded as u64 <= current.bytes, "a unit never leaves its segment");
    journal.pending.resize(padded, 0);
    let header = UnitHeader {
        length: u32::try_from(length).expect("a unit is far below 4 GiB"),
        journal: journal.id,
        seed: current.seed,
        segment: current.number,
        number: journal.next,
        durable_below: Position(journal.synced.0 + 1),
        page: u32::try_from(offset / PAGE_BYTES as u64).expect("a segment is at most 4 GiB"),
        records: journal.records,
    };
    assert!(journal.synced == journal.sealed, "one unit is in flight at a time");
    unit::seal(&mut journal.pending, &header);
    journal.segments.end = offset + padded as u64;
    let position = journal.next;
    assert!(position > journal.synced, "positions only grow");
    settle(journal, current.number);
    journal.marked = marked;
    // The unit that opens a segment: what the segment will hold must not be lost with it unnoticed.
    let witness = (offset == 0).then_some(Witness { journal: journal.id, position });
    Some(Write { slot: current.slot, offset, length: padded, position, witness })
}

/// Hands the pending unit over and begins the next one.
fn settle(journal: &mut Journal, segment: u64) {
    for at in journal.touched.drain(..) {
        journal.groups.spans[at].rename(PENDING, segment);
    }
    assert!(journal.in_flight.is_none(), "one unit is in flight at a time");
    journal.in_flight = Some(Flight { position: journal.next, first_live: journal.first_live });
    core::mem::swap(&mut journal.pending, &mut journal.flight);
    begin(journal);
    journal.mark = false;
    journal.records = 0;
    journal.sealed = journal.next;
    journal.next = Position(journal.next.0 + 1);
}

/// Makes the pending unit empty, and what holds now the base of its checkpoint.
pub(super) fn begin(journal: &mut Journal) {
    journal.pending.clear();
    journal.pending.resize(UNIT_HEADER_BYTES, 0);
    journal.base.clear();
    // A commit index may be of an entry that is still to be appended.
    let rows = journal.groups.rows.iter();
    journal.base.extend(rows.map(|row| GroupRow { commit: row.commit.min(row.last), ..*row }));
    journal.base_first_live = journal.first_live;
}

/// Adds a record that frees the oldest segments, if nothing lives in them.
fn free(journal: &mut Journal) {
    if !core::mem::take(&mut journal.freeing) {
        return;
    }
    let current = journal.segments.live.back().map_or(0, |s| s.number);
    let before = journal.first_live;
    while journal.first_live < current && !is_needed(journal, journal.first_live) {
        journal.first_live += 1;
    }
    assert!(journal.first_live <= current.max(before), "the last segment is not freed");
    if journal.first_live > before {
        let header = RecordHeader::new(RecordKind::Free, GroupId(0));
        push(journal, &RecordHeader { first: journal.first_live, ..header }, &[]);
    }
}

/// A segment in which entries live is not freed.
fn is_needed(journal: &Journal, segment: u64) -> bool {
    let lives = |spans: &Spans<u64>| spans.iter().any(|span| span.place == segment);
    journal.groups.spans.iter().any(lives) && !mutant::on(Mutant::FreeWithoutCarry)
}

/// Opens the next segment, with a checkpoint at the front of the pending unit.
fn open(journal: &mut Journal) -> bool {
    let mut chance = journal.chance.clone();
    if !journal.segments.open(chance.draw()) {
        return false;
    }
    journal.chance = chance;
    // The segment before it may hold nothing but votes.
    journal.freeing = true;
    let groups = journal.base.len();
    let bytes = record::checkpoint_bytes(groups);
    let length = journal.pending.len();
    journal.pending.resize(length + bytes, 0);
    let behind = UNIT_HEADER_BYTES + bytes;
    journal.pending.copy_within(UNIT_HEADER_BYTES..length, behind);
    let header = RecordHeader {
        length: u32::try_from(bytes - RECORD_HEADER_BYTES).expect("an engine keeps few groups"),
        first: journal.base_first_live,
        ..RecordHeader::new(RecordKind::Checkpoint, GroupId(0))
    };
    let (head, rows) = journal.pending[UNIT_HEADER_BYTES..behind].split_at_mut(RECORD_HEADER_BYTES);
    head.copy_from_slice(&header.to_bytes());
    for (at, to) in rows.chunks_exact_mut(record::ROW_BYTES).enumerate() {
        let row = checkpointed(&journal.base[at]);
        to.copy_from_slice(&record::row_to_bytes(journal.groups.ids[at], &row));
    }
    journal.records += 1;
    true
}

/// A checkpoint says all that held of a group, its vote too: what said it before may be freed.
fn checkpointed(row: &GroupRow) -> GroupRow {
    if mutant::on(Mutant::CheckpointForgetsVotes) { GroupRow { vote: None, ..*row } } else { *row }
}
