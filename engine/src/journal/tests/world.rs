//! A disk with a live and a durable half, an oracle, and both driven beside a journal.

use crate::entry::{self, EntryHeader, kind};
use crate::ids::{GroupId, Incarnation, Index, NodeId, Position, Term};
use crate::journal::JournalError;
use crate::journal::Write;
use crate::journal::unit::PAGE_BYTES;
use crate::journal::witness::{self, Copies, WITNESSES};
use crate::journal::{Journal, JournalConfig, Pin, Record, Replay};
use crate::time::Elapsed;
use std::collections::{BTreeMap, BTreeSet};

pub const SEGMENT: u64 = 64 << 10;
pub const SEGMENTS_MAX: u32 = 6;
pub const GROUPS: u32 = 3;

pub fn config() -> JournalConfig {
    let groups = (0..GROUPS).map(GroupId).collect();
    JournalConfig { segment_bytes: SEGMENT, segments_max: SEGMENTS_MAX, groups }
}

/// What holds of a group, told by vectors.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Group {
    /// Which life of the replica it is; 0: none was ever made.
    pub life: u8,
    pub term: u64,
    pub vote: Option<u32>,
    pub snapshot: (u64, u64),
    pub commit: u64,
    /// The entries behind the snapshot, as bytes.
    pub log: Vec<Vec<u8>>,
}

impl Group {
    pub fn last(&self) -> u64 {
        self.snapshot.0 + self.log.len() as u64
    }

    pub fn entries(&self, first: u64, last: u64) -> Vec<u8> {
        let at = |index: u64| (index - self.snapshot.0 - 1) as usize;
        self.log[at(first)..=at(last)].concat()
    }
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let terms: Vec<_> =
            self.log.iter().map(|e| entry::read(e).expect("an entry").header.term.0).collect();
        let Group { life, term, vote, snapshot, commit, .. } = self;
        write!(
            f,
            "life {life} term {term} vote {vote:?} snapshot {snapshot:?} commit {commit} {terms:?}"
        )
    }
}

pub type Oracle = Vec<Group>;

pub fn fresh() -> Oracle {
    vec![Group::default(); GROUPS as usize]
}

/// A disk, a journal on it, and what it should hold.
pub struct World {
    pub journal: Journal,
    /// Every slot as it is on the disk.
    pub disk: BTreeMap<u32, Vec<u8>>,
    pub write: Option<Write>,
    /// The copies of the witness as they are on the disk.
    pub witnesses: [Option<Vec<u8>>; WITNESSES],
    /// What holds with everything appended, with the unit in flight, and with what is synced.
    pub now: Oracle,
    pub sealed: Oracle,
    pub synced: Oracle,
    wanted: Vec<u32>,
    seed: u64,
    term: u64,
    pub numbers: BTreeSet<u64>,
    /// Slots and pages that were synced since their segment was opened.
    pages: BTreeSet<(u32, u64)>,
}

impl World {
    pub fn new() -> World {
        let disk = BTreeMap::from([(0, zeros()), (1, zeros())]);
        let (journal, found) = open(&disk, 1).expect("a fresh disk is fine");
        assert_eq!(found, fresh());
        let kept = Some(journal.witness().to_bytes().to_vec());
        World {
            journal,
            witnesses: [kept.clone(), kept],
            disk,
            write: None,
            now: fresh(),
            sealed: fresh(),
            synced: fresh(),
            wanted: Vec::new(),
            seed: 1,
            term: 1,
            numbers: BTreeSet::new(),
            pages: BTreeSet::new(),
        }
    }

    /// Appends `count` entries with payloads of `size` bytes, if there is room.
    pub fn entries(&mut self, group: u32, count: u64, size: usize) -> bool {
        let g = &mut self.now[group as usize];
        let (first, last) = (g.last() + 1, g.last() + count);
        let mut fresh = Vec::new();
        for index in first..=last {
            let header = EntryHeader {
                group: GroupId(group),
                kind: kind::NOOP,
                term: Term(self.term),
                index: Index(index),
                time: Elapsed(index),
                principal: 0,
            };
            let mut bytes = Vec::new();
            entry::write(&header, &vec![index as u8; size], &mut bytes);
            fresh.push(bytes);
        }
        let bytes = fresh.concat();
        if !self.journal.has_room(bytes.len()) {
            return false;
        }
        g.log.extend(fresh);
        self.journal.append(Record::Entries {
            group: GroupId(group),
            first: Index(first),
            last: Index(last),
            last_term: Term(self.term),
            bytes: &bytes,
        });
        true
    }

    /// Cuts the last `count` entries that are not committed. Later ones are of another term,
    /// which may be a lower one.
    pub fn truncate(&mut self, group: u32, count: u64) {
        let g = &mut self.now[group as usize];
        let from = (g.last() + 1).saturating_sub(count).max(g.commit + 1);
        g.log.truncate((from - g.snapshot.0 - 1) as usize);
        self.journal.append(Record::Truncate { group: GroupId(group), from: Index(from) });
        self.term = (self.term * 7 + 3) % 23 + 1;
    }

    /// The group's replica begins anew, or (an even life) ends.
    pub fn renew(&mut self, group: u32) {
        let g = &mut self.now[group as usize];
        *g = Group { life: g.life + 1, ..Group::default() };
        let replica = (g.life % 2 == 1).then_some(Incarnation([g.life; 16]));
        self.journal.append(Record::Replica { group: GroupId(group), replica });
        if replica.is_none() {
            g.life = 0;
        }
    }

    pub fn vote(&mut self, group: u32, node: Option<u32>) {
        let g = &mut self.now[group as usize];
        g.term += 1;
        g.vote = node;
        let vote = node.map(NodeId);
        self.journal.append(Record::Vote { group: GroupId(group), term: Term(g.term), vote });
    }

    pub fn commit(&mut self, group: u32, part: u64) {
        let g = &mut self.now[group as usize];
        g.commit += (g.last() - g.commit).min(part);
        self.journal.on_commit(GroupId(group), Index(g.commit));
    }

    /// A snapshot at the commit index, or, installed, `beyond` the last index.
    pub fn snapshot(&mut self, group: u32, beyond: u64) {
        let g = &mut self.now[group as usize];
        let index = if beyond > 0 { g.last() + beyond } else { g.commit };
        let term = self.term;
        let (group, at) = (GroupId(group), Index(index));
        self.journal.append(Record::Snapshot { group, index: at, term: Term(term) });
        if index > g.snapshot.0 {
            let gone = (index - g.snapshot.0).min(g.log.len() as u64);
            g.log.drain(..gone as usize);
            g.snapshot = (index, term);
            g.commit = g.commit.max(index);
        }
    }

    /// What an engine does to free the oldest segment.
    pub fn reclaim(&mut self) {
        let mut pins: Vec<Pin> = Vec::new();
        self.journal.reclaim(&mut |pin| pins.push(pin));
        for pin in pins {
            let group = pin.group.0;
            if self.now[group as usize].commit >= pin.first.0 {
                self.snapshot(group, 0);
            }
            let g = &self.now[group as usize];
            let first = pin.first.0.max(g.snapshot.0 + 1);
            self.carry(group, first, pin.last.0);
        }
    }

    /// Carries as much of a range as there is room for.
    pub fn carry(&mut self, group: u32, first: u64, mut last: u64) {
        let g = &self.now[group as usize];
        while first <= last && g.entries(first, last).len() > self.journal.carry_room() {
            last -= 1;
        }
        if first > last {
            return;
        }
        let bytes = g.entries(first, last);
        self.journal.append(Record::Carry {
            group: GroupId(group),
            first: Index(first),
            last: Index(last),
            last_term: Term::ZERO,
            bytes: &bytes,
        });
    }

    pub fn seal(&mut self) {
        if let Some(write) = self.journal.seal() {
            assert!(self.write.is_none(), "one write is in flight at a time");
            assert!(self.numbers.insert(write.position.0), "unit numbers never repeat");
            assert_eq!(self.journal.in_flight().len(), write.length);
            assert_eq!(self.journal.in_flight().as_ptr() as usize % PAGE_BYTES, 0);
            assert!(write.offset + write.length as u64 <= SEGMENT);
            if write.offset == 0 {
                self.pages.retain(|(slot, _)| *slot != write.slot);
            }
            for page in pages_of(write) {
                assert!(!self.pages.contains(&page), "a synced page is never dirtied again");
            }
            self.write = Some(write);
            self.sealed = self.now.clone();
        }
    }

    pub fn sync(&mut self) {
        if let Some(write) = self.write.take() {
            self.put(write, |_| true);
            if let Some(witness) = write.witness {
                self.witnesses.fill(Some(witness.to_bytes().to_vec()));
            }
            self.pages.extend(pages_of(write));
            self.journal.on_synced(write.position);
            assert_eq!(self.journal.synced(), write.position);
            self.synced = self.sealed.clone();
        }
    }

    /// Makes every segment that is wanted. What is in it does not matter.
    pub fn prepare(&mut self) {
        self.journal.take_wanted_segments(&mut |slot| self.wanted.push(slot));
        for slot in self.wanted.drain(..) {
            self.disk.insert(slot, zeros());
            self.journal.on_segment_ready(slot);
        }
        assert!(self.disk.len() <= SEGMENTS_MAX as usize);
    }

    /// One turn of a healthy engine.
    pub fn turn(&mut self) {
        self.prepare();
        self.reclaim();
        self.seal();
        self.sync();
    }

    /// Writes the pages of the unit in flight that `kept` names.
    fn put(&mut self, write: Write, kept: impl Fn(usize) -> bool) {
        let mut disk = core::mem::take(&mut self.disk);
        self.put_on(&mut disk, write, kept);
        self.disk = disk;
    }

    /// The same on another disk.
    pub fn put_on(
        &self,
        disk: &mut BTreeMap<u32, Vec<u8>>,
        write: Write,
        kept: impl Fn(usize) -> bool,
    ) {
        let file = disk.get_mut(&write.slot).expect("the slot was prepared");
        for (page, bytes) in self.journal.in_flight().chunks(PAGE_BYTES).enumerate() {
            if kept(page) {
                let at = write.offset as usize + page * PAGE_BYTES;
                file[at..at + PAGE_BYTES].copy_from_slice(bytes);
            }
        }
    }

    /// The power goes: of the unit in flight, those pages stay that are set in `kept`. What comes
    /// back is what was synced, with the unit in flight or without.
    pub fn crash(&mut self, kept: u64) {
        if let Some(write) = self.write.take() {
            self.put(write, |page| kept >> (page % 64) & 1 == 1);
        }
        self.seed += 1;
        let opened = open_with(&self.disk, copies(&self.witnesses), self.seed);
        let (journal, found) = opened.expect("a torn tail is no damage");
        self.witnesses.fill(Some(journal.witness().to_bytes().to_vec()));
        let mut sealed = self.sealed.clone();
        forget_commit(&mut sealed, &found);
        let mut synced = self.synced.clone();
        forget_commit(&mut synced, &found);
        assert!(found == synced || found == sealed, "{found:#?}\n{synced:#?}\n{sealed:#?}");
        if kept == u64::MAX {
            assert_eq!(found, sealed, "a whole unit is there");
        }
        let known = if found == sealed { &self.sealed } else { &self.synced };
        for (g, known) in found.iter().zip(known) {
            assert!(g.commit <= known.commit, "nothing is committed by a crash");
        }
        self.journal = journal;
        self.wanted.clear();
        self.now = found.clone();
        self.sealed = found.clone();
        self.synced = found;
    }
}

fn pages_of(write: Write) -> impl Iterator<Item = (u32, u64)> {
    let pages = write.offset..write.offset + write.length as u64;
    pages.step_by(PAGE_BYTES).map(move |at| (write.slot, at))
}

/// Only checkpoints say what is committed: a replay may know less.
fn forget_commit(expected: &mut Oracle, found: &Oracle) {
    for (e, f) in expected.iter_mut().zip(found) {
        e.commit = f.commit;
    }
}

pub fn zeros() -> Vec<u8> {
    vec![0; SEGMENT as usize]
}

pub fn copies(witnesses: &[Option<Vec<u8>>; WITNESSES]) -> Copies<'_> {
    witnesses.each_ref().map(Option::as_deref)
}

/// Opens a disk of before there were witnesses.
pub fn open(disk: &BTreeMap<u32, Vec<u8>>, seed: u64) -> Result<(Journal, Oracle), JournalError> {
    open_with(disk, [None; WITNESSES], seed)
}

pub fn open_with(
    disk: &BTreeMap<u32, Vec<u8>>,
    copies: Copies<'_>,
    seed: u64,
) -> Result<(Journal, Oracle), JournalError> {
    let witness = witness::read(copies)?;
    let segments: Vec<(u32, &[u8])> = disk.iter().map(|(s, b)| (*s, b.as_slice())).collect();
    let mut found = fresh();
    let journal =
        Journal::recover(config(), seed, &segments, witness, &mut |replay| match replay {
            Replay::Replica { group, replica } => found[group.0 as usize].life = replica.0[0],
            Replay::Vote { group, term, vote } => {
                let g = &mut found[group.0 as usize];
                (g.term, g.vote) = (term.0, vote.map(|n| n.0));
            }
            Replay::Snapshot { group, index, term } => {
                found[group.0 as usize].snapshot = (index.0, term.0);
            }
            Replay::Commit { group, commit } => found[group.0 as usize].commit = commit.0,
            Replay::Entry(entry) => {
                let g = &mut found[entry.header.group.0 as usize];
                assert_eq!(entry.header.index.0, g.last() + 1, "a log is handed out without a gap");
                g.log.push(entry.bytes.to_vec());
            }
        })?;
    for (group, g) in found.iter().enumerate() {
        let row = journal.row(GroupId(group as u32)).expect("the group is kept");
        assert_eq!((row.last.0, row.term.0), (g.last(), g.term));
        assert!(g.commit <= g.last());
    }
    assert_eq!(journal.appended(), journal.synced());
    assert!(journal.synced() >= Position::ZERO);
    Ok((journal, found))
}
