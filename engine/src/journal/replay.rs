//! What the segments in use say: their records replayed in the order in which they were written, up
//! to where each group's entries are.

use super::groups::{GroupRow, Groups};
use super::record::{self, ROW_BYTES, RecordHeader, RecordKind};
use super::recover::{GAP_MAX, Head, chain};
use super::spans::Spans;
use super::unit::{self, COUNTED_MAX, PAGE_BYTES, UNIT_HEADER_BYTES, Unit, UnitHeader};
use super::{JournalError, Replay};
use crate::entry;
use crate::ids::{GroupId, Index, Position, Term};
use crate::mutant::{self, Mutant};
use alloc::vec::Vec;

/// Where entries are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Extent {
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

/// What the live segments say, up to some unit.
pub(super) struct Replayed {
    groups: Groups<Extent>,
    /// The last whole unit.
    pub last: Position,
    /// Where the units of each segment end, in bytes: the oldest segment's first.
    pub ends: Vec<usize>,
    /// The highest number that a torn unit behind it claims.
    pub torn: Position,
    /// Whether the last unit holds nothing of a group.
    pub marked: bool,
}

impl Replayed {
    pub fn new(groups: &[GroupId]) -> Replayed {
        Replayed {
            groups: Groups::new(groups),
            last: Position::ZERO,
            ends: Vec::new(),
            torn: Position::ZERO,
            marked: false,
        }
    }

    pub fn replay(&mut self, segment: usize, head: &Head<'_>) -> Result<(), JournalError> {
        assert!(self.ends.len() == segment, "segments are replayed in their order");
        let mut end = 0;
        for unit in chain(head) {
            let unit = unit?;
            // Nothing is known of what was before the oldest segment.
            let oldest = segment == 0 && unit.offset == 0;
            if !oldest && self.lacks(&unit.header) {
                return Err(head.damaged(unit.offset, "a synced unit before this one is missing"));
            }
            if unit.header.number <= self.last {
                return Err(
                    head.damaged(unit.offset, "the segment is older than the one before it")
                );
            }
            self.take(segment, head, &unit)?;
            self.last = unit.header.number;
            end = unit.end();
            assert!(end <= head.bytes.len(), "a unit lies in its segment");
        }
        self.ends.push(end);
        self.check_rest(head, end)
    }

    /// Behind the last unit, nothing may claim that something was synced there.
    fn check_rest(&mut self, head: &Head<'_>, end: usize) -> Result<(), JournalError> {
        for page in (end..head.bytes.len()).step_by(PAGE_BYTES) {
            let Some(claim) = unit::claim(head.bytes, page) else { continue };
            if claim.seed != head.unit.header.seed || claim.journal != head.unit.header.journal {
                continue;
            }
            if self.lacks(&claim) && unit::is_whole(head.bytes, page) {
                return Err(head.damaged(end, "a synced unit is unreadable"));
            }
            // A torn header may hold anything: believe it within reason.
            if claim.number.0 < self.last.0.saturating_add(2 * GAP_MAX) {
                self.torn = self.torn.max(claim.number);
            }
        }
        Ok(())
    }

    /// A unit that claims more to be synced than was found stands behind damage, not behind what is torn.
    pub fn lacks(&self, claim: &UnitHeader) -> bool {
        claim.durable_below.0 > self.last.0 + 1 && !mutant::on(Mutant::DamageIsTorn)
    }

    /// A whole unit with a higher number than the last one's was written behind it, since one unit is in flight at a
    /// time. So it is neither stale nor torn: the journal should have reached it.
    pub fn misses(&self, claim: &UnitHeader) -> bool {
        let counted = self.last < claim.number && claim.number.0 <= COUNTED_MAX;
        counted && (self.lacks(claim) || counts_wherever_it_stands())
    }

    fn take(
        &mut self,
        segment: usize,
        head: &Head<'_>,
        unit: &Unit<'_>,
    ) -> Result<(), JournalError> {
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
            let place = Extent::At { segment, offset, length: body.len() };
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

    fn of_group(&mut self, header: &RecordHeader, place: Extent) -> Result<(), &'static str> {
        self.marked = false;
        if !is_replayed(header.kind) {
            return Ok(());
        }
        let at = self.groups.find(header.group).ok_or("a record is of an unknown group")?;
        self.groups.apply(at, header, place)
    }

    /// The oldest checkpoint is the start of everything; the others must agree with the replay.
    fn checkpoint(&mut self, oldest: bool, body: &[u8]) -> Result<(), &'static str> {
        if !body.len().is_multiple_of(ROW_BYTES) {
            return Err("a checkpoint is no table of rows");
        }
        let mut before = None;
        for (group, row) in record::rows(body) {
            let at = self.groups.find(group).ok_or("a checkpoint is of an unknown group")?;
            if before >= Some(at) {
                return Err("a checkpoint names its groups out of order");
            }
            before = Some(at);
            if row.last < row.snapshot_index || row.commit > row.last || row.last.0 > COUNTED_MAX {
                return Err("a checkpoint contradicts itself");
            }
            let known = &mut self.groups.rows[at];
            if oldest {
                *known = row;
                if row.first() <= row.last {
                    self.groups.spans[at].push(row.first(), row.last, Extent::Freed);
                }
            }
            if (GroupRow { commit: row.commit, ..*known }) != row {
                return Err("a checkpoint contradicts what was replayed");
            }
            known.commit = known.commit.max(row.commit);
        }
        Ok(())
    }

    /// Hands out what is alive.
    pub fn visit(
        &self,
        live: &[Head<'_>],
        visit: &mut dyn FnMut(Replay<'_>),
    ) -> Result<(), JournalError> {
        for (at, (group, row)) in self.groups.ids.iter().zip(&self.groups.rows).enumerate() {
            let group = *group;
            if let Some(replica) = row.replica {
                visit(Replay::Replica { group, replica });
            }
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
                let Extent::At { segment, offset, length } = span.place else {
                    return Err(live[0].damaged(0, "entries from before this segment are nowhere"));
                };
                let (head, end) = (&live[segment], offset + length);
                visit_entries(head, offset, end, group, (span.first, span.last), visit)?;
            }
        }
        Ok(())
    }

    pub fn groups_by_segment(&self, live: &[Head<'_>]) -> Groups<u64> {
        let by_segment = |spans: &Spans<Extent>| {
            let mut out = Spans::new();
            for span in spans.iter() {
                let Extent::At { segment, .. } = span.place else {
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

/// A unit counts as written wherever it stands, also if it claims no more to be synced than was found.
fn counts_wherever_it_stands() -> bool {
    !mutant::on(Mutant::DamageIsTorn) && !mutant::on(Mutant::StrayIsTorn)
}

/// Every record of a group counts, cuts too.
fn is_replayed(kind: RecordKind) -> bool {
    kind != RecordKind::Truncate || !mutant::on(Mutant::CutComesBack)
}

/// Hands out the entries `first..=last` of a record whose body lies at `at..end`.
fn visit_entries(
    head: &Head<'_>,
    mut at: usize,
    end: usize,
    group: GroupId,
    (first, last): (Index, Index),
    visit: &mut dyn FnMut(Replay<'_>),
) -> Result<(), JournalError> {
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
