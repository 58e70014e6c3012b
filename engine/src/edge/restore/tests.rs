use super::*;
use crate::edge::manifest::new_incarnation;
use crate::edge::testing::TempDir;
use crate::edge::wal::{Writer, witness};
use crate::engine::{Disk, Engine, EngineConfig};
use crate::ids::NodeId;
use crate::level::{Kinds, Level};
use crate::machine::meta::Meta;
use crate::machine::{self, Machine};
use crate::open::machine_config;
use crate::raft::Configuration;
use crate::raft::ReadMode;
use crate::secret::Secret;
use crate::time::Time;
use std::fs;
use std::time::Duration;
use wire::backup;

const OLD: ClusterId = ClusterId([7; 16]);
const CACHE: u64 = 1 << 20;
const SHARDS: u32 = 3;
const ME: NodeId = NodeId(4);
const SEGMENT: u64 = 20 << 20;

/// A backup of a cluster of three shards that never did anything, in a file.
fn backup_in(dir: &Path, of: machine::MachineConfig, taken_us: u64) -> PathBuf {
    let head = Head { cluster: OLD.0, shards: SHARDS, cache_bytes_max: CACHE, taken_us };
    let mut out = Vec::new();
    let mut writer = backup::Writer::begin(&head, &mut out);
    for group in 0..=SHARDS {
        let mut snapshot = Vec::new();
        let members = [(NodeId(1), Incarnation([1; 16])), (NodeId(2), Incarnation([2; 16]))];
        Configuration::of_voters(members.into_iter()).encode(&mut snapshot);
        match group {
            0 => Meta::founded(OLD, SHARDS, std::iter::empty()).snapshot(&mut snapshot),
            _ => Machine::new(of).snapshot(&mut snapshot),
        }
        let (index, term, length) = (100 + u64::from(group), 5, snapshot.len() as u64);
        writer.section(&Section { group, index, term, length }, &mut out);
        writer.bytes(&snapshot, &mut out);
        writer.end_section(&mut out);
    }
    writer.finish(&mut out);
    let file = dir.join("backup");
    fs::write(&file, out).unwrap();
    file
}

fn whole_backup(dir: &Path) -> PathBuf {
    backup_in(dir, machine_config(OLD, CACHE, Secret::new([1; 16])), 1)
}

fn blank(engines: u32) -> Manifest {
    Manifest {
        cluster: ClusterId::NONE,
        node: ME,
        incarnation: new_incarnation(),
        engines,
        shards: 12,
        cache_bytes_max: 64 << 20,
        segment_bytes: SEGMENT,
        writer: Writer::Direct,
        writer_why: String::new(),
        founders: vec![],
        nodes: vec![],
        renewed: vec![],
    }
}

fn restore(file: &Path, data_dir: &Path, engines: u32) -> Result<Manifest, RestoreError> {
    let backup = Backup::open(file)?;
    let dir = DataDir::take(data_dir)?;
    dir.begin_restore()?;
    backup.restore(&dir, blank(engines), "a.example:7400".to_owned())
}

/// Opens an engine as a node does that starts.
fn open(manifest: &Manifest, data_dir: &Path, engine: u32) -> Engine {
    let engine_dir = segments::engine_dir(data_dir, engine);
    let maps: Vec<_> = segments::list(&engine_dir)
        .unwrap()
        .into_iter()
        .map(|(slot, path)| (slot, segments::map(&path, SEGMENT, Writer::Direct).unwrap()))
        .collect();
    let slices: Vec<(u32, &[u8])> = maps.iter().map(|(slot, map)| (*slot, &map[..])).collect();
    let mut snapshot = |group: GroupId, index: Index, each: &mut dyn FnMut(&[u8])| {
        snapshots::load(&engine_dir, group, index, each).unwrap()
    };
    let witnesses = witness::load(data_dir, engine).unwrap();
    let witness = witnesses.copies();
    let disk = Disk { segments: &slices, witness, snapshot: &mut snapshot };
    let config = EngineConfig {
        cluster: manifest.cluster,
        node: manifest.node,
        engine,
        engines: manifest.engines,
        shards: manifest.shards,
        replication: 3,
        founders: manifest.founders.clone(),
        nodes: manifest.nodes.clone(),
        incarnation: manifest.incarnation,
        seed: 1,
        secret: Secret::new([1; 16]),
        election_timeout_min: Duration::from_millis(150),
        election_timeout_max: Duration::from_millis(300),
        heartbeat: Duration::from_millis(50),
        level_max: Level::NEWEST,
        kinds: Kinds::REAL,
        balance_after: Duration::from_secs(5),
        reads: ReadMode::Lease,
        segment_bytes: SEGMENT,
        segments_max: 12,
        cache_bytes_max: manifest.cache_bytes_max,
    };
    Engine::open(config, Time(1_000_000_000), disk, &mut Default::default()).unwrap()
}

#[test]
fn a_backup_becomes_a_directory_from_which_each_engine_opens_with_its_groups() {
    for engines in 1..=SHARDS {
        let (from, temp) = (TempDir::new(), TempDir::new());
        let path = temp.path().join("data");
        let made = restore(&whole_backup(from.path()), &path, engines).unwrap();
        assert!(made.is_born() && made.cluster != OLD);
        assert_eq!((made.shards, made.cache_bytes_max), (SHARDS, CACHE));
        let dir = DataDir::take(&path).unwrap();
        assert_eq!(dir.read(ME).unwrap(), Some(made.clone()), "it is on the disk");
        assert!(!path.join("RESTORING").exists());
        let nodes = made.known_nodes().expect("the cluster's nodes are known");
        assert_eq!(nodes.keepers().collect::<Vec<_>>(), [ME]);
        assert_eq!((nodes.cluster(), nodes.shards()), (made.cluster, SHARDS));
        let mut seen = Vec::new();
        for engine in 0..engines {
            let opened = open(&made, dir.path(), engine);
            for shard in opened.shards() {
                let (group, raft) = (shard.group(), shard.raft());
                assert_eq!(engine_of_group(group.0, engines), engine);
                assert_eq!(shard.applied(), Index(100 + u64::from(group.0)));
                assert_eq!((raft.term(), raft.last_index()), (Term(5), shard.applied()));
                let voters: Vec<_> = raft.configuration().voters().map(|m| m.node).collect();
                assert_eq!(voters, [ME]);
                assert_eq!(raft.incarnation(), made.incarnation);
                seen.push(group.0);
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2, 3]);
    }
}

#[test]
fn a_restore_that_a_crash_cut_off_is_refused_by_a_node_and_done_anew_by_the_next() {
    let (from, temp) = (TempDir::new(), TempDir::new());
    let file = whole_backup(from.path());
    let dir = DataDir::take(temp.path()).unwrap();
    dir.begin_restore().unwrap();
    assert!(matches!(dir.read(ME), Err(DirError::Unfinished { .. })), "nothing is there yet");
    let left = temp.path().join("engine-07/snapshots");
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("g1-5.snap"), "half of it").unwrap();
    fs::write(temp.path().join("MANIFEST.new"), "half of it").unwrap();
    assert!(matches!(dir.read(ME), Err(DirError::Unfinished { .. })));
    drop(dir);
    let made = restore(&file, temp.path(), 2).unwrap();
    assert!(!temp.path().join("engine-07").exists() && !temp.path().join("MANIFEST.new").exists());
    assert_eq!(DataDir::take(temp.path()).unwrap().read(ME).unwrap(), Some(made.clone()));

    // Cut off between the manifest and the end: the directory is whole, and nobody's to be cleared.
    fs::write(temp.path().join("RESTORING"), "").unwrap();
    assert_eq!(DataDir::take(temp.path()).unwrap().read(ME).unwrap(), Some(made));
    let again = restore(&file, temp.path(), 2).unwrap_err();
    assert!(again.to_string().starts_with("E122 "), "{again}");
}

#[test]
fn a_directory_with_anything_in_it_is_refused_and_left_as_it_is() {
    for name in ["engine-00", "MANIFEST", "notes.txt"] {
        let (from, temp) = (TempDir::new(), TempDir::new());
        fs::write(temp.path().join(name), "mine").unwrap();
        let refused = restore(&whole_backup(from.path()), temp.path(), 1).unwrap_err().to_string();
        assert!(refused.starts_with("E122 ") && refused.contains(name), "{refused}");
        assert_eq!(fs::read(temp.path().join(name)).unwrap(), b"mine");
        assert!(!temp.path().join("RESTORING").exists());
    }
    let (from, temp) = (TempDir::new(), TempDir::new());
    fs::create_dir(temp.path().join("lost+found")).unwrap();
    restore(&whole_backup(from.path()), temp.path(), 1).unwrap();
}

#[test]
fn each_refusal_of_a_file_has_its_number() {
    let (from, temp) = (TempDir::new(), TempDir::new());
    let number =
        |file: &Path| restore(file, temp.path(), 1).unwrap_err().to_string()[..4].to_owned();
    let file = whole_backup(from.path());
    let whole = fs::read(&file).unwrap();
    assert_eq!(number(&from.path().join("nothing")), "E124");
    fs::write(&file, &whole[..whole.len() - 1]).unwrap();
    assert_eq!(number(&file), "E125");
    let mut newer = whole;
    newer[12] = 2;
    let sum = crc32c::crc32c(&newer[12..backup::HEAD_BYTES]);
    newer[8..12].copy_from_slice(&sum.to_le_bytes());
    fs::write(&file, &newer).unwrap();
    assert_eq!(number(&file), "E126");
    // Whole, but its states are not of the cluster that the head names.
    let other = machine_config(ClusterId([8; 16]), CACHE, Secret::new([1; 16]));
    assert_eq!(number(&backup_in(from.path(), other, 1)), "E125");
    assert!(matches!(
        DataDir::take(temp.path()).unwrap().read(ME),
        Err(DirError::Unfinished { .. })
    ));
}

#[test]
fn damage_to_a_journal_that_was_just_begun_is_noticed() {
    let (from, temp) = (TempDir::new(), TempDir::new());
    let made = restore(&whole_backup(from.path()), temp.path(), 1).unwrap();
    let segment = segments::path(&segments::engine_dir(temp.path(), 0), 0);
    let mut bytes = fs::read(&segment).unwrap();
    bytes[100] ^= 1;
    let blank = vec![0; bytes.len()];
    let config = JournalConfig {
        segment_bytes: SEGMENT,
        segments_max: SEGMENTS_MIN,
        groups: (0..=made.shards).map(GroupId).collect(),
    };
    let slices: [(u32, &[u8]); 2] = [(0, &bytes), (1, &blank)];
    let opened = Journal::recover(config.clone(), 1, &slices, None, &mut |_| {});
    assert!(matches!(opened, Err(JournalError::Damaged { .. })), "it does not look new");
    // Nor does it when nothing of it is left.
    let found = witness::load(temp.path(), 0).unwrap();
    let said = crate::journal::witness::read(found.copies()).unwrap();
    let slices: [(u32, &[u8]); 2] = [(0, &blank), (1, &blank)];
    let opened = Journal::recover(config, 1, &slices, said, &mut |_| {});
    assert!(matches!(opened, Err(JournalError::Lost { .. })), "a witness was made with it");
}
