//! Nodes that come and go: real processes, changed by `tercet cluster`, while a load is checked.
#![cfg(feature = "bench")]

#[path = "common/beside.rs"]
mod beside;
mod common;
#[path = "common/lines.rs"]
mod lines;

use beside::Beside;
use client::Client;
use common::{program, servers, three_nodes};
use harness::cluster::{Cluster, ClusterConfig};
use lines::Lines;
use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

const SHARDS: u32 = 4;
/// How long a change may take on a busy machine.
const CHANGED_WITHIN: Duration = Duration::from_secs(120);

#[test]
fn a_cluster_grows_replaces_a_dead_node_and_a_lost_disk_and_forgets_no_write() {
    let config = ClusterConfig { shards: Some(SHARDS), ..three_nodes("nodes") };
    let mut cluster = Cluster::start(config).expect("three nodes start");
    let client = Client::connect(servers(&cluster)).expect("the cluster answers");
    let lines = Lines::put_many(&client, 100);
    let load = Beside::begin(&cluster);

    let fourth = cluster.spawn_another().expect("a node starts");
    tercet(&cluster, &["add-node", &address(&cluster, fourth)]);
    wait_members(&cluster, |members| members.len() == 3);
    assert!(keepers(&cluster).contains(&fourth), "the new node keeps something");

    cluster.kill(2).expect("a node dies");
    tercet(&cluster, &["remove-node", "2"]);
    wait_members(&cluster, |members| *members == BTreeSet::from([1, 3, 4]));

    cluster.kill(3).expect("a node dies");
    cluster.lose_disk(3).expect("its disk is lost");
    cluster.spawn(3, &[]).expect("it starts with another one");
    tercet(&cluster, &["replace-node", "3", &address(&cluster, 3)]);
    wait_members(&cluster, |members| *members == BTreeSet::from([1, 3, 4]));

    // None of the founders' disks is left but node 1's: without it everything comes from those that joined.
    cluster.kill(1).expect("a node dies");
    cluster.wait_leaders().expect("those that joined go on");
    load.assert_kept();
    lines.assert_there(&client);
    cluster.stop().expect("the nodes stop");
}

/// Runs `tercet cluster`, which must succeed.
fn tercet(cluster: &Cluster, arguments: &[&str]) {
    let living = cluster.nodes().iter().filter(|node| cluster.pid(node.node).is_some());
    let servers: Vec<String> = living.map(|node| node.address.to_string()).collect();
    let mut command = Command::new(program("tercet"));
    command.args(["--servers", &servers.join(","), "cluster"]).args(arguments);
    command.args(["--timeout", "2m"]);
    let done = command.output().expect("the tool starts");
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "tercet cluster {arguments:?}: {out}{err}");
}

fn address(cluster: &Cluster, node: u32) -> String {
    cluster.nodes()[node as usize - 1].address.to_string()
}

/// Who keeps anything, by the leaders' own word.
fn keepers(cluster: &Cluster) -> BTreeSet<u32> {
    members(cluster).into_iter().flatten().collect()
}

/// The voters of each group that has a leader, by its word; a group with learners has none here.
fn members(cluster: &Cluster) -> Vec<BTreeSet<u32>> {
    let mut all = Vec::new();
    for node in cluster.nodes().iter().filter(|node| cluster.pid(node.node).is_some()) {
        let Some(status) = cluster.status(node.node) else { continue };
        let groups = status["groups"].as_array().into_iter().flatten();
        for group in groups.filter(|group| group["role"] == "leader") {
            let members: Vec<_> = group["members"].as_array().into_iter().flatten().collect();
            if members.iter().all(|member| member["standing"] == "voter") {
                let ids = members.iter().filter_map(|member| member["node"].as_u64());
                all.push(ids.map(|id| id as u32).collect());
            }
        }
    }
    all
}

/// Waits until every group is led, and its voters are as they should be.
fn wait_members(cluster: &Cluster, right: impl Fn(&BTreeSet<u32>) -> bool) {
    let since = Instant::now();
    loop {
        let members = members(cluster);
        if members.len() == SHARDS as usize + 1 && members.iter().all(&right) {
            return;
        }
        assert!(since.elapsed() < CHANGED_WITHIN, "{members:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
