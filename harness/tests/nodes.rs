//! Nodes that come and go: real processes, changed by `tercet cluster`, while a load is checked.
#![cfg(feature = "bench")]

mod common;

use client::Client;
use common::{program, servers, three_nodes};
use harness::cluster::ask::http_get;
use harness::cluster::{Cluster, ClusterConfig};
use harness::load::{self, Go, LoadConfig, LoadReport};
use harness::scenario::Scenario;
use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const SHARDS: u32 = 4;
/// How long a change may take on a busy machine.
const CHANGED_WITHIN: Duration = Duration::from_secs(120);

#[test]
fn a_cluster_grows_replaces_a_dead_node_and_a_lost_disk_and_forgets_no_write() {
    let config = ClusterConfig { shards: Some(SHARDS), ..three_nodes("nodes") };
    let mut cluster = Cluster::start(config).expect("three nodes start");
    let client = Client::connect(servers(&cluster)).expect("the cluster answers");
    let put = |key: u32| {
        let put = client.cache().put(format!("key/{key}"), format!("value {key}"));
        put.wait().expect("a put is acknowledged")
    };
    let versions: Vec<u64> = (0..100).map(put).collect();
    let over = Arc::new(AtomicBool::new(false));
    let load = load_beside(&cluster, &over);

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
    over.store(true, Ordering::Release);
    let reports = load.join().expect("the load does not panic");
    for report in &reports {
        assert_eq!(report.violations.total, 0, "{:?}", report.violations.first);
    }
    let operations: u64 = reports.iter().map(|report| report.record.all().len()).sum();
    assert!(operations > 1_000, "the cluster served meanwhile: {operations}");
    for (key, version) in versions.iter().enumerate() {
        let line = client.cache().get(format!("key/{key}")).wait().expect("a get is answered");
        let line = line.unwrap_or_else(|| panic!("key/{key} was acknowledged and is gone"));
        let value = format!("value {key}");
        assert_eq!((line.version, line.value.as_slice()), (*version, value.as_bytes()));
    }
    cluster.stop().expect("the nodes stop");
}

/// One short load after the other in the background, until `over` is set.
fn load_beside(cluster: &Cluster, over: &Arc<AtomicBool>) -> JoinHandle<Vec<LoadReport>> {
    let (nodes, over) = (cluster.addresses(), Arc::clone(over));
    let config = LoadConfig {
        scenario: Scenario::Mixed,
        connections: 4,
        depth: 1,
        measure: Duration::from_secs(3),
        warmup: Duration::ZERO,
        payload_bytes: 128,
        keys: 200,
        rate: Some(500.0),
        cpus: Vec::new(),
        seed: 7,
        patience: Default::default(),
    };
    std::thread::spawn(move || {
        let mut reports = Vec::new();
        while !over.load(Ordering::Acquire) {
            let report = load::run(&config, &nodes, &mut |_| Go::On);
            reports.push(report.expect("the load runs to its end"));
        }
        reports
    })
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
        let Ok((_, body)) = http_get(node.http, "/status", Duration::from_secs(1)) else {
            continue;
        };
        let Ok(status) = serde_json::from_slice::<serde_json::Value>(&body) else { continue };
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
