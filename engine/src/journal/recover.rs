//! The way back: segments into what is alive, or into what is wrong with them.

use super::append;
use super::groups::{Groups, Row};
use super::record::{self, ROW_BYTES, RecordHeader, RecordKind};
use super::room::{Room, SEGMENTS_MIN};
use super::segments::{Live, Segments};
use super::spans::Spans;
use super::unit::{self, PAGE_BYTES, UNIT_HEADER_BYTES, Unit, UnitError};
use super::{Config, Journal, Replay, draw};
use crate::engine::OpenError;
use crate::entry;
use crate::ids::{GroupId, Index, Position, Term};
use alloc::vec::Vec;
use rkyv::util::AlignedVec;

/// How far a run may be ahead of the one before it in unit numbers, at the start. That far that a
/// number of a torn unit, of which nothing is left, is not drawn again.
const GAP_MAX: u64 = 1 << 32;

/// Where entries are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// In a segment that was freed: they must turn out to be cut, covered or carried.
    Freed,
    /// In the record whose body this is.
    At {
        /// The live segment, counted from the oldest.
        segment: usize,
        /// Where the body begins, in bytes.
        offset: usize,
        /// The body's size, in bytes.
        length: usize,
    },
}

/// A segment whose first unit is whole.
#[derive(Clone, Copy)]
struct Head<'a> {
    slot: u32,
    bytes: &'a [u8],
    unit: Unit<'a>,
}

impl Head<'_> {
    fn number(&self) -> u64 {
        self.unit.header.segment
    }

    fn damaged(&self, offset: usize, what: &'static str) -> OpenError {
        OpenError::Damaged { slot: self.slot, offset: offset as u64, what }
    }
}

pub(super) fn recover(
    config: Config,
    seed: u64,
    segments: &[(u32, &[u8])],
    visit: &mut dyn FnMut(Replay<'_>),
) -> Result<Journal, OpenError> {
    assert!(config.segments_max >= SEGMENTS_MIN, "a journal needs a few segments");
    let room = Room::new(config.segment_bytes, config.groups.len());
    let mut chance = seed;
    let live = find_live(segments)?;
    let mut replayed = Replayed::new(&config.groups);
    for (at, head) in live.iter().enumerate() {
        replayed.replay(at, head)?;
    }
    let id = match live.last() {
        Some(head) => head.unit.header.journal,
        None => draw(&mut chance),
    };
    check_others(segments, &live, id, replayed.last)?;
    replayed.visit(&live, visit)?;
    let slots = place_slots(&config, segments, &live, &replayed);
    let groups = replayed.groups_by_segment(&live);
    let first_live = live.first().map_or(1, Head::number);
    let gap = 1 + draw(&mut chance) % GAP_MAX;
    let mut journal = Journal {
        segments_max: config.segments_max,
        room,
        id,
        chance,
        groups,
        touched: Vec::new(),
        base: Vec::new(),
        segments: slots,
        first_live,
        base_first_live: first_live,
        freeing: true,
        pending: AlignedVec::new(),
        records: 0,
        mark: false,
        marked: replayed.marked,
        next: Position(replayed.last.0.max(replayed.torn.0) + gap),
        sealed: replayed.last,
        synced: replayed.last,
        flight: AlignedVec::new(),
        in_flight: None,
    };
    append::begin(&mut journal);
    Ok(journal)
}

/// The segments that are in use, oldest first.
fn find_live<'a>(segments: &[(u32, &'a [u8])]) -> Result<Vec<Head<'a>>, OpenError> {
    let mut heads = Vec::new();
    for (slot, bytes) in segments.iter().copied() {
        match unit::read(bytes, 0) {
            Ok(unit) => heads.push(Head { slot, bytes, unit }),
            Err(UnitError::Newer { got }) => return Err(newer(got)),
            Err(_) => {}
        }
    }
    heads.sort_by_key(Head::number);
    let Some(newest) = heads.last().copied() else {
        return Ok(heads);
    };
    if let Some(head) = heads.iter().find(|h| h.unit.header.journal != newest.unit.header.journal) {
        return Err(head.damaged(0, "the segment is of another journal"));
    }
    // Units of the newest segment have the last word on what is free.
    let mut first_live = 0;
    for unit in chain(&newest) {
        for (header, _) in unit?.records() {
            if matches!(header.kind, RecordKind::Checkpoint | RecordKind::Free) {
                first_live = header.first;
            }
        }
    }
    let free = heads.partition_point(|h| h.number() < first_live);
    heads.drain(..free);
    for (head, number) in heads.iter().zip(first_live..) {
        if head.number() > number {
            return Err(head.damaged(0, "the segment before this one is missing"));
        }
        if head.number() < number {
            return Err(head.damaged(0, "the segment is there twice"));
        }
    }
    if heads.is_empty() {
        return Err(newest.damaged(0, "a segment frees itself"));
    }
    Ok(heads)
}

/// The units of a segment, one after the other, as far as they go.
fn chain<'a>(head: &Head<'a>) -> impl Iterator<Item = Result<Unit<'a>, OpenError>> + use<'a> {
    let (first, bytes) = (head.unit, head.bytes);
    let mut next = Some(first);
    core::iter::from_fn(move || {
        let unit = next?;
        next = None;
        match follows(bytes, &unit) {
            Ok(following) => next = following,
            Err(error) => return Some(Err(error)),
        }
        Some(Ok(unit))
    })
}

/// The unit behind `unit`, if the journal goes on there.
fn follows<'a>(bytes: &'a [u8], unit: &Unit<'a>) -> Result<Option<Unit<'a>>, OpenError> {
    let here = unit.end();
    if here >= bytes.len() {
        return Ok(None);
    }
    let same_use = |claim: &unit::UnitHeader| {
        claim.seed == unit.header.seed
            && claim.journal == unit.header.journal
            && claim.segment == unit.header.segment
    };
    match unit::read(bytes, here) {
        Ok(next) if same_use(&next.header) && next.header.number > unit.header.number => {
            Ok(Some(next))
        }
        Err(UnitError::Newer { got })
            if unit::claim(bytes, here).as_ref().is_some_and(same_use) =>
        {
            Err(newer(got))
        }
        _ => Ok(None),
    }
}

fn newer(got: u32) -> OpenError {
    OpenError::NewerFormat { got, known: unit::VERSION }
}

/// What the live segments say, up to some unit.
struct Replayed {
    groups: Groups<Place>,
    /// The last whole unit.
    last: Position,
    /// Where it ends in its segment, in bytes.
    end: usize,
    /// The highest number that a torn unit behind it claims.
    torn: Position,
    /// Whether the last unit holds nothing of a group.
    marked: bool,
}

impl Replayed {
    fn new(groups: &[GroupId]) -> Replayed {
        Replayed {
            groups: Groups::new(groups),
            last: Position::ZERO,
            end: 0,
            torn: Position::ZERO,
            marked: false,
        }
    }

    fn replay(&mut self, segment: usize, head: &Head<'_>) -> Result<(), OpenError> {
        for unit in chain(head) {
            let unit = unit?;
            // Nothing is known of what was before the oldest segment.
            let oldest = segment == 0 && unit.offset == 0;
            if !oldest && unit.header.durable_below.0 > self.last.0 + 1 {
                return Err(head.damaged(unit.offset, "a synced unit before this one is missing"));
            }
            if unit.header.number <= self.last {
                return Err(
                    head.damaged(unit.offset, "the segment is older than the one before it")
                );
            }
            self.take(segment, head, &unit)?;
            self.last = unit.header.number;
            self.end = unit.end();
        }
        self.check_rest(head)
    }

    /// Behind the last unit, nothing may claim that something was synced there.
    fn check_rest(&mut self, head: &Head<'_>) -> Result<(), OpenError> {
        for page in (self.end..head.bytes.len()).step_by(PAGE_BYTES) {
            let Some(claim) = unit::claim(head.bytes, page) else { continue };
            if claim.seed != head.unit.header.seed || claim.journal != head.unit.header.journal {
                continue;
            }
            if claim.durable_below.0 > self.last.0 + 1
                && matches!(unit::read(head.bytes, page), Ok(_) | Err(UnitError::Newer { .. }))
            {
                return Err(head.damaged(self.end, "a synced unit is unreadable"));
            }
            // A torn header may hold anything: believe it within reason.
            if claim.number.0 < self.last.0.saturating_add(2 * GAP_MAX) {
                self.torn = self.torn.max(claim.number);
            }
        }
        Ok(())
    }

    fn take(&mut self, segment: usize, head: &Head<'_>, unit: &Unit<'_>) -> Result<(), OpenError> {
        let malformed = || head.damaged(unit.offset, "a unit holds no well-formed records");
        let mut at = unit.offset + UNIT_HEADER_BYTES;
        let mut taken = 0;
        self.marked = true;
        for (header, body) in unit.records() {
            let opens = unit.offset == 0 && taken == 0;
            if opens != (header.kind == RecordKind::Checkpoint) {
                return Err(head.damaged(unit.offset, "a checkpoint is out of its place"));
            }
            let offset = at + record::RECORD_HEADER_BYTES;
            let place = Place::At { segment, offset, length: body.len() };
            let said = match header.kind {
                RecordKind::Checkpoint => self.checkpoint(segment == 0, body),
                RecordKind::Free => Ok(()),
                _ => self.of_group(&header, place),
            };
            said.map_err(|what| head.damaged(at, what))?;
            at = offset + body.len();
            taken += 1;
        }
        let whole = at == unit.offset + unit.header.length as usize;
        if whole && taken == unit.header.records && (unit.offset > 0 || taken > 0) {
            Ok(())
        } else {
            Err(malformed())
        }
    }

    fn of_group(&mut self, header: &RecordHeader, place: Place) -> Result<(), &'static str> {
        self.marked = false;
        let at = self.groups.find(header.group).ok_or("a record is of an unknown group")?;
        self.groups.apply(at, header, place)
    }

    /// The oldest checkpoint is the start of everything; the others must agree with the replay.
    fn checkpoint(&mut self, oldest: bool, body: &[u8]) -> Result<(), &'static str> {
        if !body.len().is_multiple_of(ROW_BYTES) {
            return Err("a checkpoint is no table of rows");
        }
        for (group, row) in record::rows(body) {
            let at = self.groups.find(group).ok_or("a checkpoint is of an unknown group")?;
            if row.last < row.snapshot_index || row.commit > row.last {
                return Err("a checkpoint contradicts itself");
            }
            let known = &mut self.groups.rows[at];
            if oldest {
                *known = row;
                if row.first() <= row.last {
                    self.groups.spans[at].push(row.first(), row.last, Place::Freed);
                }
            }
            if (Row { commit: row.commit, ..*known }) != row {
                return Err("a checkpoint contradicts what was replayed");
            }
            known.commit = known.commit.max(row.commit);
        }
        Ok(())
    }

    /// Hands out what is alive.
    fn visit(&self, live: &[Head<'_>], visit: &mut dyn FnMut(Replay<'_>)) -> Result<(), OpenError> {
        for (at, (group, row)) in self.groups.ids.iter().zip(&self.groups.rows).enumerate() {
            let group = *group;
            if row.term > Term::ZERO {
                visit(Replay::Vote { group, term: row.term, vote: row.vote });
            }
            if row.snapshot_index > Index::ZERO {
                let (index, term) = (row.snapshot_index, row.snapshot_term);
                visit(Replay::Snapshot { group, index, term });
            }
            if row.commit > Index::ZERO {
                visit(Replay::Commit { group, commit: row.commit });
            }
            for span in self.groups.spans[at].iter() {
                let Place::At { segment, offset, length } = span.place else {
                    return Err(live[0].damaged(0, "entries from before this segment are nowhere"));
                };
                let (head, end) = (&live[segment], offset + length);
                visit_entries(head, offset, end, group, (span.first, span.last), visit)?;
            }
        }
        Ok(())
    }

    fn groups_by_segment(&self, live: &[Head<'_>]) -> Groups<u64> {
        let by_segment = |spans: &Spans<Place>| {
            let mut out = Spans::new();
            for span in spans.iter() {
                let Place::At { segment, .. } = span.place else {
                    unreachable!("what is nowhere was found out when it was visited")
                };
                out.push(span.first, span.last, live[segment].number());
            }
            out
        };
        Groups {
            ids: self.groups.ids.clone(),
            rows: self.groups.rows.clone(),
            spans: self.groups.spans.iter().map(by_segment).collect(),
        }
    }
}

/// Hands out the entries `first..=last` of a record whose body lies at `at..end`.
fn visit_entries(
    head: &Head<'_>,
    mut at: usize,
    end: usize,
    group: GroupId,
    (first, last): (Index, Index),
    visit: &mut dyn FnMut(Replay<'_>),
) -> Result<(), OpenError> {
    let mut before: Option<Index> = None;
    loop {
        let entry = entry::read(&head.bytes[at..end])
            .map_err(|_| head.damaged(at, "an entry of a whole unit is unreadable"))?;
        let index = entry.header.index;
        let in_order = before.map_or(index <= first, |b| index == b.next());
        if entry.header.group != group || !in_order {
            return Err(head.damaged(at, "an entry is out of its place"));
        }
        if index >= first {
            visit(Replay::Entry(entry));
        }
        if index >= last {
            return Ok(());
        }
        before = Some(index);
        at += entry.bytes.len();
    }
}

/// A segment whose first unit is unreadable, or old, holds nothing that was synced after the end.
fn check_others(
    segments: &[(u32, &[u8])],
    live: &[Head<'_>],
    id: u64,
    last: Position,
) -> Result<(), OpenError> {
    for (slot, bytes) in segments.iter().copied() {
        if live.iter().any(|h| h.slot == slot) {
            continue;
        }
        for page in (0..bytes.len()).step_by(PAGE_BYTES) {
            let Some(claim) = unit::claim(bytes, page) else { continue };
            let ours = live.is_empty() || claim.journal == id;
            if ours
                && claim.durable_below.0 > last.0 + 1
                && claim.number > last
                && matches!(unit::read(bytes, page), Ok(_) | Err(UnitError::Newer { .. }))
            {
                let what = "the segment's first unit is unreadable, though later ones were synced";
                return Err(OpenError::Damaged { slot, offset: 0, what });
            }
        }
    }
    Ok(())
}

fn place_slots(
    config: &Config,
    segments: &[(u32, &[u8])],
    live: &[Head<'_>],
    replayed: &Replayed,
) -> Segments {
    let mut slots = Segments::new(config.segment_bytes, config.segments_max);
    let whole_pages = |bytes: &[u8]| (bytes.len() / PAGE_BYTES * PAGE_BYTES) as u64;
    for head in live {
        slots.live.push_back(Live {
            number: head.number(),
            slot: head.slot,
            bytes: whole_pages(head.bytes),
            seed: head.unit.header.seed,
        });
    }
    slots.end = replayed.end as u64;
    let mut others: Vec<_> =
        segments.iter().filter(|s| !live.iter().any(|h| h.slot == s.0)).collect();
    // A segment that was torn when it was opened is opened again before any other: its first page
    // could otherwise be completed to a whole unit by a later use of the slot.
    let next = live.last().map_or(1, |h| h.number() + 1);
    let torn_open = |bytes: &[u8]| unit::claim(bytes, 0).is_some_and(|c| c.segment == next);
    others.sort_by_key(|(slot, bytes)| (!torn_open(bytes), *slot));
    for (slot, bytes) in others {
        if bytes.len() as u64 == config.segment_bytes {
            slots.ready.push_back(*slot);
        } else {
            slots.idle.push(*slot);
        }
    }
    slots
}
