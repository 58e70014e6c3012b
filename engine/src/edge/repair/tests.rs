use super::*;
use crate::edge::testing::TempDir;
use crate::edge::wal::Writer;
use crate::engine::Founder;
use crate::ids::{ClusterId, Incarnation, NodeId, Position};
use crate::journal::JournalError;
use crate::journal::witness::Witness;
use std::fs;

const DAMAGE: OpenError =
    OpenError::Journal(JournalError::Damaged { slot: 0, offset: 4096, what: "a test says so" });

fn manifest(founders: u32) -> Manifest {
    let founder = |id| Founder {
        node: NodeId(id),
        incarnation: Incarnation([id as u8; 16]),
        address: String::new(),
    };
    Manifest {
        cluster: ClusterId([7; 16]),
        node: NodeId(2),
        incarnation: Incarnation([2; 16]),
        engines: 2,
        shards: 12,
        cache_bytes_max: 64 << 20,
        segment_bytes: 64 << 20,
        writer: Writer::Direct,
        writer_why: String::new(),
        founders: (1..=founders).map(founder).collect(),
        nodes: vec![],
        renewed: vec![],
    }
}

/// As a node that starts: from what is on the disk.
fn start(path: &Path) -> Repair {
    let dir = DataDir::take(path).unwrap();
    let manifest = dir.read(NodeId(2)).unwrap().unwrap();
    Repair::new(Arc::new(dir), manifest)
}

fn place(founders: u32) -> TempDir {
    let temp = TempDir::new();
    DataDir::take(temp.path()).unwrap().write(&manifest(founders)).unwrap();
    temp
}

/// What the engine has written, damaged.
fn damage(engine_dir: &Path) {
    fs::create_dir_all(engine_dir.join("wal")).unwrap();
    fs::write(engine_dir.join("wal/0000.seg"), "damaged").unwrap();
}

#[test]
fn a_repair_that_a_crash_cut_off_anywhere_comes_to_the_same_end() {
    for steps in 0..=3 {
        let temp = place(3);
        let engine_dir = engine_dir(temp.path(), 1);
        let aside = temp.path().join("engine-01.damaged-1");
        damage(&engine_dir);
        let said = Witness { journal: 7, position: Position(5) };
        witness::keep(temp.path(), 1, said).unwrap();
        let cut_off = start(temp.path());
        if steps >= 1 {
            cut_off.list(1).unwrap();
            assert!(engine_dir.exists(), "first it is said that nothing is founded any more");
        }
        if steps >= 2 {
            witness::forget(temp.path(), 1).unwrap();
            let left = witness::load(temp.path(), 1).unwrap();
            assert!(!left.allow_new(), "the directory still says that it was written to");
        }
        if steps >= 3 {
            cut_off.put_aside(&engine_dir, &aside).unwrap();
        }
        drop(cut_off);

        let repair = start(temp.path());
        assert_eq!(repair.is_renewed(1), steps >= 1);
        if engine_dir.exists() {
            repair.renew(1, DAMAGE).unwrap();
        }
        assert!(repair.is_renewed(1) && !repair.is_renewed(0));
        assert_eq!(fs::read(aside.join("wal/0000.seg")).unwrap(), b"damaged");
        assert!(!engine_dir.join("wal").exists(), "nothing of it is left to be opened");
        assert!(witness::load(temp.path(), 1).unwrap().allow_new(), "and nothing says that it was");
        let known = repair.manifest();
        assert_eq!(known, Manifest { renewed: vec![1], ..manifest(3) });
        drop(repair);
        assert_eq!(start(temp.path()).manifest(), known, "it is on the disk");
    }
}

#[test]
fn an_engine_without_a_majority_of_others_to_fetch_from_is_refused_and_stays_as_it_is() {
    for founders in [1, 2] {
        let temp = place(founders);
        let engine_dir = engine_dir(temp.path(), 0);
        damage(&engine_dir);
        let repair = start(temp.path());
        let e = repair.renew(0, DAMAGE).unwrap_err().to_string();
        assert!(e.contains("E101 ") && e.ends_with("and replace the node"), "{e}");
        assert!(engine_dir.join("wal/0000.seg").exists());
        assert_eq!(repair.manifest(), manifest(founders));
    }
}

#[test]
fn an_engine_is_begun_anew_three_times_and_then_refused_until_its_old_directories_are_gone() {
    let temp = place(3);
    let engine_dir = engine_dir(temp.path(), 0);
    let repair = start(temp.path());
    for _ in 0..DAMAGED_MAX {
        damage(&engine_dir);
        repair.renew(0, DAMAGE).unwrap();
    }
    damage(&engine_dir);
    let e = repair.renew(0, DAMAGE).unwrap_err().to_string();
    assert!(e.contains("E101 ") && e.contains("3 times"), "{e}");
    assert!(engine_dir.join("wal/0000.seg").exists());
    fs::remove_dir_all(temp.path().join("engine-00.damaged-2")).unwrap();
    repair.renew(0, DAMAGE).unwrap();
    assert_eq!(repair.manifest().renewed, [0]);
}
