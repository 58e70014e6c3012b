//! The way back: which segments are in use, whether they are whole, and where to go on.

use super::append;
use super::record::RecordKind;
use super::replay::Replayed;
use super::room::{Room, SEGMENTS_MIN};
use super::segments::{Live, Segments};
use super::unit::{self, PAGE_BYTES, Unit, UnitError};
use super::witness::Witness;
use super::{Journal, JournalConfig, JournalError, Replay};
use crate::ids::Position;
use crate::mutant::{self, Mutant};
use alloc::vec::Vec;
use rkyv::util::AlignedVec;
use wire::random::Random;

/// How far a run may begin ahead of the one before it in unit numbers. That far, that the number of
/// a torn unit of which nothing is left is not drawn again.
pub(super) const GAP_MAX: u64 = 1 << 32;

/// A segment whose first unit is whole.
#[derive(Clone, Copy)]
pub(super) struct Head<'a> {
    pub slot: u32,
    pub bytes: &'a [u8],
    pub unit: Unit<'a>,
}

impl Head<'_> {
    pub fn number(&self) -> u64 {
        self.unit.header.segment
    }

    pub fn damaged(&self, offset: usize, what: &'static str) -> JournalError {
        JournalError::Damaged { slot: self.slot, offset: offset as u64, what }
    }
}

pub(super) fn recover(
    config: JournalConfig,
    seed: u64,
    (segments, witness): (&[(u32, &[u8])], Option<Witness>),
    visit: &mut dyn FnMut(Replay<'_>),
) -> Result<Journal, JournalError> {
    assert!(config.segments_max >= SEGMENTS_MIN, "a journal needs a few segments");
    let room = Room::new(config.segment_bytes, config.groups.len());
    let mut chance = Random::new(seed);
    let live = find_live(segments)?;
    let mut replayed = Replayed::new(&config.groups);
    for (at, head) in live.iter().enumerate() {
        replayed.replay(at, head)?;
    }
    let id = match live.last() {
        Some(head) => head.unit.header.journal,
        None => chance.draw(),
    };
    check_strays(segments, &live, id, &replayed)?;
    check_witness(witness, &live, replayed.last)?;
    replayed.visit(&live, visit)?;
    let slots = place_slots(&config, segments, &live, &replayed);
    let groups = replayed.groups_by_segment(&live);
    let first_live = live.first().map_or(1, Head::number);
    let gap = 2 + chance.draw() % GAP_MAX;
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
fn find_live<'a>(segments: &[(u32, &'a [u8])]) -> Result<Vec<Head<'a>>, JournalError> {
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
pub(super) fn chain<'a>(
    head: &Head<'a>,
) -> impl Iterator<Item = Result<Unit<'a>, JournalError>> + use<'a> {
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
fn follows<'a>(bytes: &'a [u8], unit: &Unit<'a>) -> Result<Option<Unit<'a>>, JournalError> {
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

fn newer(got: u32) -> JournalError {
    JournalError::NewerFormat { got, known: unit::VERSION }
}

/// Nothing that was written after the last unit stands anywhere else: not behind an unreadable first unit, and not
/// where the disk put it by mistake.
fn check_strays(
    segments: &[(u32, &[u8])],
    live: &[Head<'_>],
    id: u64,
    replayed: &Replayed,
) -> Result<(), JournalError> {
    assert!(replayed.ends.len() == live.len(), "each segment in use ends somewhere");
    for (slot, bytes) in segments.iter().copied() {
        let end = live.iter().position(|h| h.slot == slot).map_or(0, |at| replayed.ends[at]);
        for page in (end..bytes.len()).step_by(PAGE_BYTES) {
            let Some(claim) = unit::claim(bytes, page) else { continue };
            let ours = live.is_empty() || claim.journal == id;
            if !ours || !replayed.misses(&claim) || !unit::is_whole(bytes, page) {
                continue;
            }
            let (offset, what) = if end == 0 && replayed.lacks(&claim) {
                (0, "the segment's first unit is unreadable, though later ones were synced")
            } else {
                (page, "this unit follows the journal's last one, and stands apart from it")
            };
            return Err(JournalError::Damaged { slot, offset: offset as u64, what });
        }
    }
    Ok(())
}

/// The journal goes as far as its witness says.
fn check_witness(
    witness: Option<Witness>,
    live: &[Head<'_>],
    found: Position,
) -> Result<(), JournalError> {
    let Some(witness) = witness.filter(vouches) else { return Ok(()) };
    if let Some(newest) = live.last().filter(|h| h.unit.header.journal != witness.journal) {
        return Err(newest.damaged(0, "the segment is of another journal"));
    }
    if found < witness.position {
        return Err(JournalError::Lost { found, synced: witness.position });
    }
    Ok(())
}

/// A witness that names a unit is believed, whatever the segments say.
fn vouches(witness: &Witness) -> bool {
    witness.position > Position::ZERO && !mutant::on(Mutant::FreshTwice)
}

fn place_slots(
    config: &JournalConfig,
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
    slots.end = replayed.ends.last().map_or(0, |end| *end as u64);
    assert!(slots.live.back().is_none_or(|last| slots.end <= last.bytes), "it lies in its segment");
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
