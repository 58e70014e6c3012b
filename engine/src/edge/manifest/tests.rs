use super::*;
use crate::edge::testing::TempDir;
use crate::edge::wal::segments::engine_dir;
use crate::machine::meta::{Node, Standing};
use std::os::unix::fs::PermissionsExt;

fn manifest() -> Manifest {
    Manifest {
        cluster: ClusterId([7; 16]),
        node: NodeId(2),
        incarnation: Incarnation([9; 16]),
        engines: 2,
        shards: 12,
        cache_bytes_max: 64 << 20,
        segment_bytes: 64 << 20,
        writer: Writer::Direct,
        writer_why: "direct 91 us, \"mapped\" 105 us".into(),
        founders: vec![
            Founder { node: NodeId(1), incarnation: Incarnation([1; 16]), address: "a:1".into() },
            Founder { node: NodeId(2), incarnation: Incarnation([9; 16]), address: "b:2".into() },
        ],
        nodes: nodes(),
        renewed: vec![],
    }
}

/// What the meta group says of two nodes.
fn nodes() -> Vec<u8> {
    let node = |id: u8| Node {
        node: NodeId(id.into()),
        incarnation: Incarnation([id; 16]),
        engines: 2,
        standing: Standing::In,
        address: format!("n{id}:7400"),
    };
    let mut bytes = Vec::new();
    Meta::founded(ClusterId([7; 16]), 12, [1, 2].map(node).into_iter()).snapshot(&mut bytes);
    bytes
}

/// Writes a manifest's text with a checksum that matches.
fn write_text(dir: &Path, body: &str) {
    let text =
        format!("{body}\n{CHECKSUM}\"{:08x}\"\n", crc32c::crc32c(format!("{body}\n").as_bytes()));
    std::fs::write(dir.join(NAME), text).unwrap();
}

#[test]
fn a_manifest_reads_back_as_it_was_written() {
    let temp = TempDir::new();
    let dir = DataDir::take(&temp.path().join("a/b")).unwrap();
    assert_eq!(dir.read(NodeId(2)).unwrap(), None);
    dir.write(&manifest()).unwrap();
    assert_eq!(dir.read(NodeId(2)).unwrap(), Some(manifest()));
    let empty =
        Manifest { cluster: ClusterId::NONE, founders: vec![], nodes: vec![], ..manifest() };
    dir.write(&empty).unwrap();
    let back = dir.read(NodeId(2)).unwrap().unwrap();
    assert!(!back.is_born());
    assert_eq!(back, empty);
    let renewed = Manifest { renewed: vec![0, 3], ..manifest() };
    dir.write(&renewed).unwrap();
    assert_eq!(dir.read(NodeId(2)).unwrap(), Some(renewed));
}

#[test]
fn a_manifest_of_before_nodes_came_and_went_is_read_and_damaged_nodes_are_refused() {
    let temp = TempDir::new();
    let dir = DataDir::take(temp.path()).unwrap();
    let rewrite = |change: &dyn Fn(&str) -> String| {
        dir.write(&manifest()).unwrap();
        let text = std::fs::read_to_string(temp.path().join(NAME)).unwrap();
        let body = text[..text.rfind(CHECKSUM).unwrap()].to_owned();
        write_text(temp.path(), change(&body).trim_end());
        dir.read(NodeId(2))
    };
    let nodes = format!("nodes = \"{}\"\n", hex(&nodes()));
    let old = rewrite(&|body| body.replace(&nodes, "").replace("format = 2", "format = 1"));
    assert_eq!(old.unwrap(), Some(Manifest { nodes: vec![], ..manifest() }));
    for damaged in ["5", "xx", "54434d4d"] {
        let damaged = format!("nodes = \"{damaged}\"\n");
        let e = rewrite(&|body| body.replace(&nodes, &damaged)).unwrap_err().to_string();
        assert!(e.starts_with("E116 "), "{e}");
    }
}

#[test]
fn a_new_directory_is_for_its_user_alone() {
    let temp = TempDir::new();
    let dir = DataDir::take(&temp.path().join("d")).unwrap();
    let mode = std::fs::metadata(dir.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn a_directory_in_use_is_refused_with_the_process() {
    let temp = TempDir::new();
    let held = DataDir::take(temp.path()).unwrap();
    let e = DataDir::take(temp.path()).unwrap_err().to_string();
    assert!(e.starts_with("E112 ") && e.contains(&format!("(pid {})", std::process::id())), "{e}");
    drop(held);
    DataDir::take(temp.path()).unwrap();
}

#[test]
fn every_refusal_is_one_line_with_a_number() {
    let temp = TempDir::new();
    let file = temp.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let e = DataDir::take(&file).unwrap_err().to_string();
    assert!(e.starts_with("E110 "), "{e}");
    let e = DataDir::take(&file.join("below")).unwrap_err().to_string();
    assert!(e.starts_with("E110 "), "{e}");

    let dir = DataDir::take(&temp.path().join("d")).unwrap();
    dir.write(&manifest()).unwrap();
    let e = dir.read(NodeId(3)).unwrap_err().to_string();
    assert!(e.starts_with("E114 ") && e.contains("node 2") && e.contains("as 3"), "{e}");

    write_text(dir.path(), "format = 4\nshape = \"unknown\"");
    let e = dir.read(NodeId(2)).unwrap_err().to_string();
    assert!(e.starts_with("E113 ") && e.contains("format 4") && !e.contains('\n'), "{e}");

    write_text(dir.path(), "format = 1\nnode = 2");
    let e = dir.read(NodeId(2)).unwrap_err().to_string();
    assert!(e.starts_with("E116 ") && !e.contains('\n'), "{e}");
}

#[test]
fn a_manifest_that_lost_a_bit_is_refused() {
    let temp = TempDir::new();
    let dir = DataDir::take(temp.path()).unwrap();
    dir.write(&manifest()).unwrap();
    let good = std::fs::read(temp.path().join(NAME)).unwrap();
    for at in 0..good.len() - 1 {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(temp.path().join(NAME), &bad).unwrap();
        let e = dir.read(NodeId(2)).unwrap_err().to_string();
        assert!(e.starts_with("E116 "), "byte {at}: {e}");
    }
}

#[test]
fn a_manifest_that_is_gone_empty_zeroed_or_of_before_the_birth_is_no_fresh_start() {
    let temp = TempDir::new();
    let path = temp.path().join(NAME);
    let dir = DataDir::take(temp.path()).unwrap();
    let unborn =
        Manifest { cluster: ClusterId::NONE, founders: vec![], nodes: vec![], ..manifest() };
    dir.write(&unborn).unwrap();
    assert_eq!(dir.read(NodeId(2)).unwrap(), Some(unborn.clone()), "before its birth it is fresh");
    let before = std::fs::read(&path).unwrap();
    dir.write(&manifest()).unwrap();
    let length = std::fs::metadata(&path).unwrap().len() as usize;
    std::fs::create_dir(engine_dir(temp.path(), 0)).unwrap();
    assert!(dir.read(NodeId(2)).unwrap().is_some_and(|manifest| manifest.is_born()));
    let lost = [(Some(vec![]), "E116"), (Some(vec![0; length]), "E116"), (Some(before), "E134")];
    for (bytes, code) in lost.into_iter().chain([(None, "E117")]) {
        match bytes {
            Some(bytes) => std::fs::write(&path, bytes).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        let e = dir.read(NodeId(2)).unwrap_err().to_string();
        assert!(e.starts_with(code) && !e.contains('\n'), "{e}");
    }
}

#[test]
fn strangers_files_stay_and_engines_without_a_manifest_are_refused() {
    let temp = TempDir::new();
    std::fs::write(temp.path().join("notes.txt"), "mine").unwrap();
    let dir = DataDir::take(temp.path()).unwrap();
    assert_eq!(dir.read(NodeId(1)).unwrap(), None);
    dir.write(&manifest()).unwrap();
    assert_eq!(std::fs::read(temp.path().join("notes.txt")).unwrap(), b"mine");
    std::fs::remove_file(temp.path().join(NAME)).unwrap();
    std::fs::create_dir(engine_dir(temp.path(), 0)).unwrap();
    let e = dir.read(NodeId(1)).unwrap_err().to_string();
    assert!(e.starts_with("E117 "), "{e}");
}
