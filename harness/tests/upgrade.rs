//! A live cluster gets a new version, node by node.
#![cfg(feature = "bench")]

#[path = "common/beside.rs"]
mod beside;
mod common;
#[path = "common/lines.rs"]
mod lines;

use beside::Beside;
use client::Client;
use common::{program, servers, three_nodes};
use engine::level::Level;
use harness::cluster::{Cluster, ClusterConfig};
use lines::Lines;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const SHARDS: u32 = 4;
/// How long the cluster may take to go to another level on a busy machine.
const RAISED_WITHIN: Duration = Duration::from_secs(60);
/// Names an older server for the test that is not run by itself.
const OLDER: &str = "TERCET_OLDER";

#[test]
fn a_held_level_is_passed_once_no_node_holds_it_and_who_holds_it_then_is_refused() {
    let mut config = ClusterConfig { shards: Some(SHARDS), ..three_nodes("held-level") };
    config.flags = ["--level-max", "1"].map(String::from).into();
    let mut cluster = Cluster::start(config).expect("three nodes start");
    let client = Client::connect(servers(&cluster)).expect("the cluster answers");
    let lines = Lines::put_many(&client, 100);
    let load = Beside::begin(&cluster);
    for node in 1..=3 {
        assert_eq!(levels(&cluster), [Some(1); 3], "node {node} still holds it");
        cluster.stop_node(node).expect("a node stops");
        cluster.restart(node, &["--level-max", "2"]).expect("it starts and goes further");
        cluster.wait_leaders().expect("every shard is led");
    }
    wait_level(&cluster, 2);
    load.assert_kept();
    lines.assert_there(&client);

    cluster.stop_node(2).expect("a node stops");
    let refused = cluster.restart(2, &[]).expect_err("there is no way back").to_string();
    assert!(refused.contains("E108"), "{refused}");
    cluster.restart(2, &["--level-max", "2"]).expect("it starts");
    lines.assert_there(&client);
    cluster.stop().expect("the nodes stop");
}

#[test]
#[ignore = "make upgrade builds the older version that it needs"]
fn an_older_version_is_rolled_to_this_one_under_load() {
    let older = std::env::var_os(OLDER).map(PathBuf::from);
    let older = older.unwrap_or_else(|| panic!("{OLDER} names the older tercetd"));
    let config = ClusterConfig { shards: Some(SHARDS), ..three_nodes("upgrade") };
    let mut cluster = Cluster::start(ClusterConfig { tercetd: Some(older.clone()), ..config })
        .expect("three older nodes start");
    let client = Client::connect(servers(&cluster)).expect("the cluster answers");
    let lines = Lines::put_many(&client, 200);
    let load = Beside::begin(&cluster);
    for node in 1..=3 {
        cluster.serve_with(program("tercetd"));
        cluster.stop_node(node).expect("a node stops");
        cluster.restart(node, &[]).expect("it starts with this version");
        cluster.wait_leaders().expect("every shard is led");
        if node == 2 {
            // Not all have it yet: there is a way back.
            cluster.serve_with(older.clone());
            cluster.stop_node(node).expect("a node stops");
            cluster.restart(node, &[]).expect("it starts with the older version again");
            cluster.wait_leaders().expect("every shard is led");
            cluster.serve_with(program("tercetd"));
            cluster.stop_node(node).expect("a node stops");
            cluster.restart(node, &[]).expect("it starts with this version");
        }
        // With versions mixed, each of them leads in turn.
        cluster.kill(1).expect("a node dies");
        cluster.wait_leaders().expect("the others go on");
        lines.assert_there(&client);
        cluster.restart(1, &[]).expect("it comes back");
    }
    wait_level(&cluster, Level::NEWEST.0.into());
    load.assert_kept();
    lines.assert_there(&client);

    // Who comes back with the older version now is refused, and loses nothing by it.
    cluster.serve_with(older);
    cluster.stop_node(3).expect("a node stops");
    let refused = cluster.restart(3, &[]).expect_err("there is no way back").to_string();
    // By the level, or by a format that came with it.
    assert!(refused.contains("E108") || refused.contains("E113"), "{refused}");
    cluster.serve_with(program("tercetd"));
    cluster.restart(3, &[]).expect("it starts with this version");
    cluster.kill(1).expect("a node dies");
    cluster.wait_leaders().expect("the others go on");
    lines.assert_there(&client);
    cluster.stop().expect("the nodes stop");
}

/// The cluster's feature level as each node knows it.
fn levels(cluster: &Cluster) -> Vec<Option<u64>> {
    let status = |node| cluster.status(node).and_then(|status| status["level"].as_u64());
    (1..=3).map(status).collect()
}

fn wait_level(cluster: &Cluster, level: u64) {
    let since = Instant::now();
    while levels(cluster) != [Some(level); 3] {
        assert!(since.elapsed() < RAISED_WITHIN, "{:?}", levels(cluster));
        std::thread::sleep(Duration::from_millis(50));
    }
}
