//! What linking the library brings along.

use std::process::Command;

const CORE: &[&str] = &["--no-default-features"];
const LIBRARY: &[&str] = &["--no-default-features", "--features", "edge"];

/// rkyv's format features are global to a build, so an application that archives data of its own must
/// not get them from a client library. The client encodes by hand.
#[test]
fn linking_the_client_brings_no_rkyv() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    for features in [CORE, LIBRARY, &["--all-features"]] {
        let mut tree = Command::new(env!("CARGO"));
        tree.args(["tree", "--offline", "-p", "client", "-e", "normal", "--prefix", "none"]);
        let tree = tree.args(features).current_dir(root).output().unwrap();
        assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
        let tree = String::from_utf8(tree.stdout).unwrap();
        assert!(tree.contains("wire v"), "{tree}");
        assert!(!tree.contains("rkyv"), "{tree}");
        assert!(!tree.contains("bytecheck"), "{tree}");
    }
}

/// The library alone is a handful of small crates, and no runtime.
#[test]
fn the_library_alone_forces_no_runtime() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let mut tree = Command::new(env!("CARGO"));
    tree.args(["tree", "--offline", "-p", "client", "-e", "normal", "--prefix", "none"]);
    let tree = tree.args(LIBRARY).current_dir(root).output().unwrap();
    let tree = String::from_utf8(tree.stdout).unwrap();
    for unwanted in ["tokio", "async-std", "smol", "clap", "serde_json", "signal-hook"] {
        assert!(!tree.contains(unwanted), "{unwanted} in:\n{tree}");
    }
}
