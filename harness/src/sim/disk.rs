//! A simulated disk: what is durable, and what is on its way. A crash keeps any subset of the 4 KiB
//! pages of the write under way, and any prefix of nothing else.

use engine::effects::{Effects, SnapshotPart, Write};
use engine::engine::{Config, Disk as EngineDisk, Engine, OpenError};
use engine::ids::{GroupId, Index};
use engine::journal::{Found, inspect};
use engine::time::Time;
use std::collections::BTreeMap;

const PAGE: usize = 4096;
/// Segments that a fresh data directory has.
const SEGMENTS_FIRST: u32 = 2;

/// A bit that is not what was written.
#[derive(Clone, Copy)]
struct Rot {
    file: File,
    at: usize,
    bit: u8,
}

#[derive(Clone, Copy)]
enum File {
    Segment(u32),
    Snapshot(GroupId, Index),
}

/// The disk of one node.
pub struct Disk {
    segments: BTreeMap<u32, Vec<u8>>,
    snapshots: BTreeMap<(GroupId, Index), Vec<u8>>,
    writing: Option<(Write, Vec<u8>)>,
    saving: BTreeMap<(GroupId, Index), Vec<u8>>,
    /// The last write that was synced.
    last: Option<Write>,
    /// The bit that is flipped, if one is.
    rot: Option<Rot>,
    segment_bytes: usize,
    chance: fastrand::Rng,
}

impl Disk {
    /// A fresh disk.
    pub fn new(seed: u64, segment_bytes: u64) -> Disk {
        let segment_bytes = usize::try_from(segment_bytes).expect("a segment fits memory");
        let fresh = |slot| (slot, vec![0; segment_bytes]);
        Disk {
            segments: (0..SEGMENTS_FIRST).map(fresh).collect(),
            snapshots: BTreeMap::new(),
            writing: None,
            saving: BTreeMap::new(),
            last: None,
            rot: None,
            segment_bytes,
            chance: fastrand::Rng::with_seed(seed),
        }
    }

    /// Opens an engine on what is durable.
    pub fn open(
        &self,
        config: Config,
        now: Time,
        effects: &mut Effects,
    ) -> Result<Engine, OpenError> {
        let segments: Vec<(u32, &[u8])> =
            self.segments.iter().map(|(slot, bytes)| (*slot, bytes.as_slice())).collect();
        let mut snapshot =
            |group: GroupId, index: Index| self.snapshots.get(&(group, index)).cloned();
        let disk = EngineDisk { segments: &segments, snapshot: &mut snapshot };
        Engine::open(config, now, disk, effects)
    }

    pub fn begin_write(&mut self, write: Write, bytes: &[u8]) {
        assert!(self.writing.is_none(), "one write is under way at a time");
        assert_eq!(write.length, bytes.len());
        assert_eq!(write.offset as usize % PAGE, 0, "a write begins on a page");
        assert_eq!(bytes.len() % PAGE, 0, "a write is a whole number of pages");
        self.writing = Some((write, bytes.to_vec()));
    }

    pub fn finish_write(&mut self) {
        let (write, bytes) = self.writing.take().expect("a write was under way");
        let segment = self.segments.get_mut(&write.slot).expect("the segment was made");
        let at = usize::try_from(write.offset).expect("an offset fits memory");
        segment[at..at + bytes.len()].copy_from_slice(&bytes);
        self.last = Some(write);
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
        self.snapshots.insert((group, index), bytes);
    }

    pub fn drop_snapshot(&mut self, group: GroupId, index: Index) {
        let dropped = self.snapshots.remove(&(group, index));
        assert!(dropped.is_some(), "a snapshot is dropped once, and after it was saved");
    }

    /// A bit rots: in a snapshot, or in a unit of the journal that is not the last one. False: there is none.
    pub fn rot(&mut self) -> bool {
        let is_last = |slot: u32, offset: usize| {
            let last = self.last.as_ref();
            last.is_none_or(|last| last.slot == slot && offset as u64 >= last.offset)
        };
        let mut files: Vec<(File, usize, usize)> = Vec::new();
        for (slot, segment) in &self.segments {
            for found in inspect(segment) {
                if let Found::Unit(unit) = found
                    && !is_last(*slot, unit.offset)
                {
                    files.push((File::Segment(*slot), unit.offset, unit.header.length as usize));
                }
            }
        }
        let snapshots = self.snapshots.iter();
        files.extend(snapshots.map(|((g, i), bytes)| (File::Snapshot(*g, *i), 0, bytes.len())));
        if files.is_empty() {
            return false;
        }
        let (file, begin, length) = files[self.chance.usize(..files.len())];
        let at = begin + self.chance.usize(..length);
        self.rot = Some(Rot { file, at, bit: 1 << self.chance.u32(..8) });
        self.flip();
        true
    }

    /// What rotted did no harm, and is as it was.
    pub fn unrot(&mut self) {
        self.flip();
        self.rot = None;
    }

    fn flip(&mut self) {
        let Some(Rot { file, at, bit }) = self.rot else { return };
        let bytes = match file {
            File::Segment(slot) => self.segments.get_mut(&slot),
            File::Snapshot(group, index) => self.snapshots.get_mut(&(group, index)),
        };
        bytes.expect("what rots is there")[at] ^= bit;
    }

    /// The power fails.
    pub fn crash(&mut self) {
        self.saving.clear();
        let Some((write, bytes)) = self.writing.take() else { return };
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
