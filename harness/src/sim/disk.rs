//! A simulated disk: what is durable, and what is on its way. A crash keeps any subset of the 4 KiB
//! pages of the write under way, or any part of the copy of the witness under way, and any prefix of nothing else.

use crc32c::crc32c;
use engine::effects::{Effects, SnapshotPart};
use engine::engine::{Disk as EngineDisk, Engine, EngineConfig, OpenError};
use engine::ids::{GroupId, Index};
use engine::journal::witness::{WITNESS_BYTES, WITNESSES, Witness};
use engine::journal::{Found, Write, inspect, unit};
use engine::time::Time;
use std::collections::{BTreeMap, BTreeSet};
use wire::random::Random;

const PAGE: usize = 4096;
/// How much of a snapshot is read at a time.
const SNAPSHOT_PIECE: usize = 16 << 10;
/// Segments that a fresh data directory has.
const SEGMENTS_FIRST: u32 = 2;
/// An older copy of a segment is kept once in so many writes.
const COPIED_ONE_IN: u32 = 40;
/// The last unit, if it is one page, is what goes wrong in one case of so many: it stands elsewhere.
const LAST_MISDIRECTED_ONE_IN: u32 = 4;

/// Bytes that are not what was written, and what was.
struct Wrong {
    file: File,
    at: usize,
    was: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum File {
    Segment(u32),
    Snapshot(GroupId, Index),
}

/// Somewhere in a file.
#[derive(Clone, Copy)]
struct Stretch {
    file: File,
    at: usize,
    length: usize,
}

/// How far a write has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// A copy of its witness is still to be written.
    Witness,
    /// All of it is on the disk.
    Done,
}

/// A witness that is being written: the first copies are.
#[derive(Clone, Copy)]
struct Attesting {
    witness: Witness,
    copies: usize,
}

/// The disk of one node.
pub struct Disk {
    segments: BTreeMap<u32, Vec<u8>>,
    snapshots: BTreeMap<(GroupId, Index), Vec<u8>>,
    /// The checksum in each snapshot's header.
    sums: BTreeMap<(GroupId, Index), u32>,
    /// The copies of the journal's witness.
    witnesses: [Option<Vec<u8>>; WITNESSES],
    /// The write under way. Its bytes are the engine's until it ends.
    writing: Option<Write>,
    attesting: Option<Attesting>,
    saving: BTreeMap<(GroupId, Index), Vec<u8>>,
    /// The last write that was synced.
    last: Option<Write>,
    /// What is wrong on the disk, in the order in which it came to be.
    wrong: Vec<Wrong>,
    /// Segments whose files are gone.
    gone: BTreeSet<u32>,
    /// A segment as it was once.
    older: Option<(u32, Vec<u8>)>,
    /// A copy of the witness as it was once.
    older_witness: Option<Vec<u8>>,
    /// Snapshots in whose place an older one stands. Its own header says so, and to the engine it is missing.
    replaced: Vec<(GroupId, Index)>,
    segment_bytes: usize,
    chance: Random,
}

impl Disk {
    /// A fresh disk.
    pub fn new(seed: u64, segment_bytes: u64) -> Disk {
        let segment_bytes = usize::try_from(segment_bytes).expect("a segment fits memory");
        let fresh = |slot| (slot, vec![0; segment_bytes]);
        Disk {
            segments: (0..SEGMENTS_FIRST).map(fresh).collect(),
            snapshots: BTreeMap::new(),
            sums: BTreeMap::new(),
            witnesses: [None, None],
            writing: None,
            attesting: None,
            saving: BTreeMap::new(),
            last: None,
            wrong: Vec::new(),
            gone: BTreeSet::new(),
            older: None,
            older_witness: None,
            replaced: Vec::new(),
            segment_bytes,
            chance: Random::new(seed),
        }
    }

    /// Opens an engine on what is durable, and keeps how far its journal goes, as the server does.
    pub fn open(
        &mut self,
        config: EngineConfig,
        now: Time,
        effects: &mut Effects,
    ) -> Result<Engine, OpenError> {
        let blank = vec![0; if self.gone.is_empty() { 0 } else { self.segment_bytes }];
        let few = self.segments.len() - self.gone.len() < SEGMENTS_FIRST as usize;
        let mut segments: Vec<(u32, &[u8])> = Vec::new();
        for (slot, bytes) in &self.segments {
            match self.gone.contains(slot) {
                false => segments.push((*slot, bytes)),
                // The server makes the first ones anew.
                true if few => segments.push((*slot, &blank)),
                true => {}
            }
        }
        let mut snapshot = |group: GroupId, index: Index, each: &mut dyn FnMut(&[u8])| {
            let name = (group, index);
            let bytes = self.snapshots.get(&name).filter(|_| !self.replaced.contains(&name));
            // As the server's reader of snapshot files does: first its checksum, then piece by piece.
            let right = |bytes: &&Vec<u8>| self.sums.get(&name) == Some(&crc32c(bytes));
            let Some(bytes) = bytes.filter(right) else { return false };
            bytes.chunks(SNAPSHOT_PIECE).for_each(each);
            true
        };
        let witness = self.witnesses.each_ref().map(Option::as_deref);
        let disk = EngineDisk { segments: &segments, witness, snapshot: &mut snapshot };
        let engine = Engine::open(config, now, disk, effects)?;
        let kept = engine.witness().to_bytes().to_vec();
        self.witnesses = [Some(kept.clone()), Some(kept)];
        Ok(engine)
    }

    pub fn begin_write(&mut self, write: Write, bytes: &[u8]) {
        assert!(self.writing.is_none(), "one write is under way at a time");
        assert_eq!(write.length, bytes.len());
        assert_eq!(write.offset as usize % PAGE, 0, "a write begins on a page");
        assert_eq!(bytes.len() % PAGE, 0, "a write is a whole number of pages");
        self.writing = Some(write);
    }

    /// The write under way, or the copy of its witness, is on the disk.
    pub fn finish_write(&mut self, bytes: &[u8]) -> Progress {
        if let Some(attesting) = &mut self.attesting {
            let copy = &mut self.witnesses[attesting.copies];
            self.older_witness.clone_from(copy);
            *copy = Some(attesting.witness.to_bytes().to_vec());
            attesting.copies += 1;
            if attesting.copies < WITNESSES {
                return Progress::Witness;
            }
            self.attesting = None;
            return Progress::Done;
        }
        let write = self.writing.take().expect("a write was under way");
        let segment = self.segments.get_mut(&write.slot).expect("the segment was made");
        let at = usize::try_from(write.offset).expect("an offset fits memory");
        if self.chance.u32(..COPIED_ONE_IN) == 0 {
            self.older = Some((write.slot, segment.clone()));
        }
        segment[at..at + bytes.len()].copy_from_slice(bytes);
        self.last = Some(write);
        let Some(witness) = write.witness else { return Progress::Done };
        self.attesting = Some(Attesting { witness, copies: 0 });
        Progress::Witness
    }

    pub fn make_segment(&mut self, slot: u32) {
        // A used one is not cleared: the journal must tell its old bytes from new ones.
        self.segments.entry(slot).or_insert_with(|| vec![0; self.segment_bytes]);
    }

    pub fn write_snapshot(&mut self, part: SnapshotPart) {
        let key = (part.group, part.index);
        if part.offset == 0 {
            self.saving.insert(key, Vec::new());
        }
        let saving = self.saving.get_mut(&key).expect("a snapshot's first part comes first");
        assert_eq!(saving.len() as u64, part.offset, "parts follow each other");
        saving.extend_from_slice(&part.bytes);
    }

    pub fn finish_snapshot(&mut self, group: GroupId, index: Index) {
        let bytes = self.saving.remove(&(group, index)).expect("a snapshot was under way");
        self.sums.insert((group, index), crc32c(&bytes));
        self.snapshots.insert((group, index), bytes);
    }

    pub fn drop_snapshot(&mut self, group: GroupId, index: Index) {
        let dropped = self.snapshots.remove(&(group, index));
        assert!(dropped.is_some(), "a snapshot is dropped once, and after it was saved");
    }

    /// Something on the disk goes wrong, outside the last unit: a bit, a page that is zero, a page that was written
    /// to another place (the last unit's too, which then stands there whole), an old snapshot in the place of a newer one; or a whole file is gone, zeroed, or older than
    /// it was. False: there is nothing yet.
    pub fn rot(&mut self) -> bool {
        let places = self.places();
        if places.is_empty() {
            return false;
        }
        if self.chance.u32(..3) == 0 {
            self.lose_file();
            return true;
        }
        let last = self.last.as_ref().filter(|last| last.length == PAGE);
        if let Some((slot, at)) = last.map(|last| (last.slot, last.offset))
            && self.chance.u32(..LAST_MISDIRECTED_ONE_IN) == 0
        {
            self.misdirect(slot, usize::try_from(at).expect("an offset fits memory"));
            return true;
        }
        let Stretch { file, at, length } = places[self.chance.usize(..places.len())];
        let page = at + self.chance.usize(..length.div_ceil(PAGE)) * PAGE;
        match (self.chance.u32(..4), file) {
            (1, File::Segment(_)) => self.overwrite(file, page, vec![0; PAGE]),
            (2, File::Segment(slot)) => self.misdirect(slot, page),
            (2.., File::Snapshot(group, index)) => self.replaced.push((group, index)),
            _ => {
                let at = at + self.chance.usize(..length);
                let byte = self.bytes(file)[at] ^ (1 << self.chance.u32(..8));
                self.overwrite(file, at, vec![byte]);
            }
        }
        true
    }

    /// A segment, the newest as likely as all others, or a copy of the witness is gone, zeroed, or older than it was.
    fn lose_file(&mut self) {
        let newest = self.last.as_ref().map(|last| last.slot);
        let slots: Vec<u32> = self.segments.keys().copied().collect();
        let slot = newest.filter(|_| self.chance.bool());
        let slot = slot.unwrap_or_else(|| slots[self.chance.usize(..slots.len())]);
        match self.chance.u32(..6) {
            0..=1 => drop(self.gone.insert(slot)),
            2..=3 => self.overwrite(File::Segment(slot), 0, vec![0; self.segment_bytes]),
            4 => {
                let seed = |bytes: &[u8]| unit::claim(bytes, 0).map(|unit| unit.seed);
                // What the newest segment held since it was opened, only the units behind it vouch for.
                let noticed = |(slot, bytes): &(u32, Vec<u8>)| {
                    Some(*slot) != newest || seed(bytes) != seed(&self.segments[slot])
                };
                if let Some((slot, bytes)) = self.older.take().filter(noticed) {
                    self.overwrite(File::Segment(slot), 0, bytes);
                }
            }
            _ => {
                let copy = self.chance.usize(..WITNESSES);
                self.witnesses[copy] = match self.chance.u32(..3) {
                    0 => None,
                    1 => Some(vec![0; WITNESS_BYTES]),
                    _ => self.older_witness.take(),
                };
            }
        }
    }

    /// What went wrong did no harm, and is as it was.
    pub fn unrot(&mut self) {
        self.replaced.clear();
        self.gone.clear();
        while let Some(Wrong { file, at, was }) = self.wrong.pop() {
            self.bytes(file)[at..at + was.len()].copy_from_slice(&was);
        }
    }

    /// Where something is that was synced before the last unit.
    fn places(&self) -> Vec<Stretch> {
        let mut places = Vec::new();
        for (slot, segment) in &self.segments {
            for found in inspect(segment) {
                if let Found::Unit(unit) = found
                    && !self.is_last(*slot, unit.offset)
                {
                    let (file, length) = (File::Segment(*slot), unit.header.length as usize);
                    places.push(Stretch { file, at: unit.offset, length });
                }
            }
        }
        let snapshots = self.snapshots.iter();
        places.extend(snapshots.map(|((group, index), bytes)| Stretch {
            file: File::Snapshot(*group, *index),
            at: 0,
            length: bytes.len(),
        }));
        places
    }

    /// Whether a place in a segment is the last unit's, or behind it.
    fn is_last(&self, slot: u32, offset: usize) -> bool {
        let last = self.last.as_ref();
        last.is_none_or(|last| last.slot == slot && offset as u64 >= last.offset)
    }

    /// A page was written to another place: there it stands over what was, and where it belongs is what was
    /// there before it, nothing or some other page. Half of the time only the file is another one.
    fn misdirect(&mut self, slot: u32, page: usize) {
        let file = File::Segment(slot);
        let written = self.bytes(file)[page..page + PAGE].to_vec();
        let slots: Vec<u32> = self.segments.keys().copied().collect();
        let mut elsewhere = || {
            let slot = slots[self.chance.usize(..slots.len())];
            let anywhere = self.chance.usize(..self.segment_bytes / PAGE) * PAGE;
            (slot, if self.chance.bool() { page } else { anywhere })
        };
        let (victim, before) = (elsewhere(), elsewhere());
        if self.is_last(victim.0, victim.1) && !self.is_last(slot, page) {
            // Nobody can tell the last unit from a torn one.
            return self.overwrite(file, page, vec![0; PAGE]);
        }
        let before = self.segments[&before.0][before.1..before.1 + PAGE].to_vec();
        self.overwrite(file, page, before);
        self.overwrite(File::Segment(victim.0), victim.1, written);
    }

    fn overwrite(&mut self, file: File, at: usize, with: Vec<u8>) {
        let there = &mut self.bytes(file)[at..at + with.len()];
        let was = there.to_vec();
        there.copy_from_slice(&with);
        self.wrong.push(Wrong { file, at, was });
    }

    fn bytes(&mut self, file: File) -> &mut Vec<u8> {
        let bytes = match file {
            File::Segment(slot) => self.segments.get_mut(&slot),
            File::Snapshot(group, index) => self.snapshots.get_mut(&(group, index)),
        };
        bytes.expect("what goes wrong is there")
    }

    /// The power fails while these bytes are on their way.
    pub fn crash(&mut self, bytes: &[u8]) {
        self.saving.clear();
        if let Some(Attesting { witness, copies }) = self.attesting.take()
            && let Some(copy) = &mut self.witnesses[copies]
        {
            let written = self.chance.usize(..=WITNESS_BYTES);
            copy[..written].copy_from_slice(&witness.to_bytes()[..written]);
        }
        let Some(write) = self.writing.take() else { return };
        let segment = self.segments.get_mut(&write.slot).expect("the segment was made");
        let at = usize::try_from(write.offset).expect("an offset fits memory");
        for (page, bytes) in bytes.chunks(PAGE).enumerate() {
            if self.chance.bool() {
                let at = at + page * PAGE;
                segment[at..at + PAGE].copy_from_slice(bytes);
            }
        }
    }
}
