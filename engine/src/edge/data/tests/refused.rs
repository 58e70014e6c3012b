//! What is whole on a disk and can't be taken: refused, and never begun anew as damage is, though others are there to
//! fetch from.

use super::*;
use crate::edge::manifest::{DataDir, Manifest};
use crate::edge::snapshots;
use crate::entry::{self, EntryHeader, kind};
use crate::ids::Term;
use crate::journal::{Journal, Record};
use crate::time::Elapsed;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const GROUP: GroupId = GroupId(1);
/// What the snapshot stands for, and the term of its entry.
const INDEX: Index = Index(2);
const TERM: Term = Term(5);

/// The first of three founders, with what it would be begun anew by.
struct Born {
    place: Place,
    data_dir: PathBuf,
    repair: Arc<Repair>,
}

impl Born {
    /// A founder whose journal holds a replica and what `append` appends.
    fn new(append: impl FnOnce(&mut Journal)) -> Born {
        let place = Place::new(3, 1);
        let Founder { node, incarnation, .. } = place.member(0);
        let data_dir = place.dir.path().join(format!("node-{node}"));
        let manifest = Manifest {
            cluster: ClusterId(CLUSTER),
            node,
            incarnation,
            engines: 1,
            shards: SHARDS,
            cache_bytes_max: 64 << 20,
            segment_bytes: SEGMENT,
            writer: Writer::Direct,
            writer_why: String::new(),
            founders: (0..3).map(|n| place.member(n)).collect(),
            nodes: vec![],
            renewed: vec![],
        };
        let dir = DataDir::take(&data_dir).unwrap();
        dir.write(&manifest).unwrap();
        let repair = Arc::new(Repair::new(Arc::new(dir), manifest));
        let founder = Born { place, data_dir, repair };
        snapshots::prepare(&founder.engine_dir()).unwrap();
        segments::ensure(&founder.engine_dir(), SEGMENT, Writer::Direct).unwrap();
        founder.write_unit(incarnation, append);
        founder
    }

    fn engine_dir(&self) -> PathBuf {
        segments::engine_dir(&self.data_dir, 0)
    }

    /// Writes a journal of one unit.
    fn write_unit(&self, replica: Incarnation, append: impl FnOnce(&mut Journal)) {
        let groups = (0..=SHARDS).map(GroupId).collect();
        let config =
            crate::journal::JournalConfig { segment_bytes: SEGMENT, segments_max: 12, groups };
        let blank = vec![0; usize::try_from(SEGMENT).unwrap()];
        let segments: [(u32, &[u8]); 2] = [(0, &blank), (1, &blank)];
        let mut journal = Journal::recover(config, 1, &segments, None, &mut |_| {}).unwrap();
        journal.append(Record::Replica { group: GROUP, replica: Some(replica) });
        append(&mut journal);
        let write = journal.seal().unwrap();
        let path = segments::path(&self.engine_dir(), write.slot);
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(journal.in_flight(), write.offset).unwrap();
    }

    /// How a start is refused; all that was there is there still, and nothing was put aside.
    fn refusal(&self) -> String {
        let (post, _inbox) = mailbox(CONTROL_MAILBOX_MAX).unwrap();
        let engine_dir = self.engine_dir();
        let load = move |_, group, index, each: &mut dyn FnMut(&[u8])| {
            snapshots::load(&engine_dir, group, index, each)
        };
        let plan = Plan {
            load_snapshot: Box::new(load),
            repair: Some(Arc::clone(&self.repair)),
            ..self.place.plan(0, 1, post)
        };
        let before = files(&self.data_dir);
        let Err(error) = start(plan) else { panic!("it started") };
        assert_eq!(files(&self.data_dir), before, "{error}");
        assert!(!self.repair.is_renewed(0), "{error}");
        error.to_string()
    }
}

/// Every file below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for row in std::fs::read_dir(dir).unwrap() {
        let path = row.unwrap().path();
        match path.is_dir() {
            true => found.append(&mut files(&path)),
            false => found.push(path),
        }
    }
    found.sort_unstable();
    found
}

/// Appends entries with these terms.
fn entries(journal: &mut Journal, terms: &[Term]) {
    let mut bytes = Vec::new();
    for (index, term) in (1..).map(Index).zip(terms) {
        let (group, kind, time) = (GROUP, kind::NOOP, Elapsed::ZERO);
        let header = EntryHeader { group, kind, term: *term, index, time, principal: 0 };
        entry::write(&header, &[], &mut bytes);
    }
    let (first, last) = (Index(1), Index(terms.len() as u64));
    let last_term = terms[terms.len() - 1];
    journal.append(Record::Entries { group: GROUP, first, last, last_term, bytes: &bytes });
}

/// A founder whose journal names a snapshot.
fn with_a_snapshot() -> Born {
    Born::new(|journal| {
        entries(journal, &[TERM, TERM]);
        journal.append(Record::Snapshot { group: GROUP, index: INDEX, term: TERM });
    })
}

#[test]
fn a_journal_that_is_whole_and_contradicts_itself_is_refused_and_left_as_it_is() {
    let founder = Born::new(|journal| entries(journal, &[TERM, Term(TERM.0 - 1)]));
    let refusal = founder.refusal();
    assert!(refusal.contains("E104 ") && refusal.contains("a lower term"), "{refusal}");
}

#[test]
fn a_whole_snapshot_of_a_state_that_is_not_understood_is_refused_and_left_as_it_is() {
    let founder = with_a_snapshot();
    let state = b"a later version's".repeat(100);
    snapshots::save(&founder.engine_dir(), GROUP, INDEX, TERM, state).unwrap();
    let refusal = founder.refusal();
    assert!(refusal.contains("E106 ") && refusal.contains("group 1 at index 2"), "{refusal}");
}

#[test]
fn a_whole_snapshot_file_of_another_version_is_refused_and_left_as_it_is() {
    let founder = with_a_snapshot();
    snapshots::save(&founder.engine_dir(), GROUP, INDEX, TERM, vec![7; 100]).unwrap();
    let path = snapshots::dir(&founder.engine_dir()).join("g1-2.snap");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[12] += 1;
    let sum = crc32c::crc32c(&bytes[12..snapshots::HEADER_BYTES]);
    bytes[8..12].copy_from_slice(&sum.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let refusal = founder.refusal();
    assert!(refusal.contains("E106 ") && refusal.contains("group 1 at index 2"), "{refusal}");
}
