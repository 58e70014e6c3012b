//! Three real nodes for a test: the `tercetd` that was built beside it.

use harness::cluster::{Cluster, ClusterConfig, Keep};
use std::path::PathBuf;

/// A program of this workspace, built with the profile of this test.
pub fn program(name: &str) -> PathBuf {
    let this = std::env::current_exe().expect("a process knows its program");
    let built = this.parent().and_then(|deps| deps.parent()).expect("target/PROFILE/deps/TEST");
    let path = built.join(name);
    assert!(path.exists(), "{} is not built: cargo test --workspace builds it", path.display());
    path
}

/// Three nodes with one core and one shard each, in an empty directory of the test's own.
pub fn three_nodes(test: &str) -> ClusterConfig {
    let data_dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(test);
    // It is there only after a run that failed.
    let _ = std::fs::remove_dir_all(&data_dir);
    ClusterConfig {
        nodes: 3,
        cores: 1,
        shards: Some(1),
        tercetd: Some(program("tercetd")),
        first_port: None,
        data_dir,
        keep: Keep::Nothing,
        flags: Vec::new(),
        cpus: Vec::new(),
        homes: Vec::new(),
        files_max: None,
    }
}

/// Where clients connect.
pub fn servers(cluster: &Cluster) -> Vec<String> {
    cluster.addresses().iter().map(ToString::to_string).collect()
}
