//! Real processes: killed, restarted, and asked what they remember. The nodes are the `tercetd` that was
//! built beside this test.
#![cfg(feature = "bench")]

mod common;
#[path = "common/lines.rs"]
mod lines;

use client::Client;
use client::admin::{Change, Watch};
use common::{program, servers, three_nodes};
use harness::cluster::{Cluster, ClusterConfig};
use harness::load::{self, Go, LoadConfig, LoadReport};
use harness::scenario::Scenario;
use lines::Lines;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Leaders move after five quiet seconds; other tests on the same few CPUs may keep them from being quiet.
const BALANCED_WITHIN: Duration = Duration::from_secs(120);
/// How long it may take until whoever watches knows of a leader's fall, on a busy machine.
const WATCHED_WITHIN: Duration = Duration::from_secs(30);

fn start(test: &str, cores: u32) -> Cluster {
    let config = ClusterConfig { cores, shards: Some(4), ..three_nodes(test) };
    Cluster::start(config).expect("three nodes start")
}

fn load_config(seconds: u64) -> LoadConfig {
    LoadConfig {
        scenario: Scenario::Mixed,
        connections: 9,
        depth: 2,
        measure: Duration::from_secs(seconds),
        warmup: Duration::ZERO,
        payload_bytes: 128,
        keys: 200,
        rate: None,
        cpus: Vec::new(),
        seed: 7,
        patience: Default::default(),
    }
}

#[test]
fn killing_the_leader_five_times_under_load_breaks_no_promise() {
    let mut cluster = start("kills", 1);
    let nodes = cluster.addresses();
    let load = std::thread::spawn(move || -> LoadReport {
        load::run(&load_config(16), &nodes, &mut |_| Go::On).expect("the load runs to its end")
    });
    for shard in [0, 1, 2, 3, 0] {
        std::thread::sleep(Duration::from_millis(1_500));
        let topology = cluster.wait_leaders().expect("every shard has a leader");
        let leader = topology.leader_of(shard).expect("the topology is complete");
        cluster.kill(leader).expect("a leader dies");
        let killed = Instant::now();
        cluster.wait_leaders().expect("the others go on");
        println!("leader {leader} killed, all shards led again after {:?}", killed.elapsed());
        cluster.restart(leader, &[]).expect("a killed node comes back");
    }
    let report = load.join().expect("the load does not panic");
    println!("{} operations, {} reconnects", report.record.all().len(), report.reconnects);
    assert_eq!(report.violations.total, 0, "{:?}", report.violations.first);
    assert!(report.record.all().len() > 1_000, "the cluster served while leaders died");
    assert!(report.reconnects >= 5, "the load noticed that nodes died");
    cluster.stop().expect("the nodes stop");
}

#[test]
fn a_node_that_came_back_leads_again_what_the_placement_prefers_it_for() {
    let mut cluster = start("balance", 1);
    wait_balanced(&cluster);
    cluster.kill(2).expect("a node dies");
    let others = cluster.wait_leaders().expect("the others go on");
    assert!((0..4).all(|shard| others.leader_of(shard) != Some(2)), "{others:?}");
    cluster.restart(2, &[]).expect("it comes back");
    let took = wait_balanced(&cluster);
    println!("balanced again after {took:?}");
    let leaders = cluster.wait_leaders().expect("every shard is led");
    assert!((0..4).any(|shard| leaders.leader_of(shard) == Some(2)), "{leaders:?}");
    cluster.stop().expect("the nodes stop");
}

/// Waits until every node says that every group is led by whom the placement prefers.
fn wait_balanced(cluster: &Cluster) -> Duration {
    let since = Instant::now();
    loop {
        let statuses: Vec<_> = (1..=3).filter_map(|node| cluster.status(node)).collect();
        let groups = statuses.iter().filter_map(|status| status["groups"].as_array()).flatten();
        let at_home: Vec<bool> =
            groups.map(|group| group["leader"] == group["preferred"]).collect();
        if at_home.len() == 3 * 5 && at_home.iter().all(|home| *home) {
            return since.elapsed();
        }
        assert!(since.elapsed() < BALANCED_WITHIN, "{at_home:?} {statuses:#?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn all_nodes_killed_at_once_remember_every_acknowledged_write() {
    let mut cluster = start("blackout", 1);
    let client = Client::connect(servers(&cluster)).expect("the cluster answers");
    let lines = Lines::put_many(&client, 200);
    let guard = client.lock("held").exclusive().acquire().wait().expect("the lock is free");
    let fence = guard.fence();
    (1..=3).for_each(|node| cluster.kill(node).expect("a node dies"));
    (1..=3).for_each(|node| cluster.spawn(node, &[]).expect("a node starts"));
    cluster.wait_leaders().expect("the cluster comes back");
    lines.assert_there(&client);
    let other = Client::connect(servers(&cluster)).expect("the cluster answers");
    let taken = other.lock("held").exclusive().try_once().acquire().wait();
    assert!(taken.is_err(), "the lock is still held after the blackout");
    guard.release().wait().expect("its holder can release it");
    let next = other.lock("held").exclusive().acquire().wait().expect("now it is free");
    assert!(next.fence() > fence, "fences rise over a blackout");
    cluster.stop().expect("the nodes stop");
}

#[test]
fn a_node_restarted_with_fewer_cores_than_engines_serves_everything() {
    let mut cluster = start("fewer-cores", 2);
    let client = Client::connect(servers(&cluster)).expect("the cluster answers");
    for key in 0..64 {
        client.cache().put(format!("{key}"), "before").wait().expect("a put is acknowledged");
    }
    for node in 1..=3 {
        cluster.stop_node(node).expect("a node stops");
        cluster.restart(node, &["--cores", "1"]).expect("a node starts with one core");
        cluster.wait_leaders().expect("every shard is led");
    }
    for key in 0..64 {
        let line = client.cache().get(format!("{key}")).wait().expect("a get is answered");
        assert_eq!(line.expect("the line is there").value, "before");
        client.cache().put(format!("{key}"), "after").wait().expect("a put is acknowledged");
    }
    cluster.stop().expect("the nodes stop");
}

#[test]
fn a_node_whose_data_directory_is_a_relative_path_makes_snapshots() {
    let mut config = three_nodes("relative");
    config.flags = ["--segment-size", "20MiB", "--segments-max", "4"].map(String::from).into();
    let here = std::env::current_dir().expect("a process is somewhere");
    let up: PathBuf = here.components().skip(1).map(|_| "..").collect();
    config.data_dir = up.join(config.data_dir.strip_prefix("/").expect("an absolute path"));
    let mut cluster = Cluster::start(config).expect("three nodes start");
    let client = Client::connect(servers(&cluster)).expect("the cluster answers");
    // The journal holds 80 MiB.
    for key in 0..600 {
        let put = client.cache().put(format!("key/{}", key % 100), vec![key as u8; 200_000]);
        put.wait().expect("a put is acknowledged");
    }
    for node in 1..=3 {
        cluster.check(node).expect("it still runs");
        let log = cluster.log_tail(node);
        assert!(log.contains("made a snapshot group=1"), "{log}");
    }
    cluster.stop().expect("the nodes stop");
}

#[test]
fn lock_run_in_two_shells_runs_one_after_the_other() {
    let mut cluster = start("lock-run", 1);
    let servers = servers(&cluster).join(",");
    let began = Instant::now();
    let run = || {
        Command::new(program("tercet"))
            .args(["--servers", &servers, "lock", "run", "demo", "--", "sleep", "1"])
            .stdout(Stdio::null())
            .spawn()
            .expect("the tool starts")
    };
    let (mut first, mut second) = (run(), run());
    assert!(first.wait().expect("the first ends").success());
    assert!(second.wait().expect("the second ends").success());
    assert!(began.elapsed() >= Duration::from_secs(2), "they did not overlap");
    cluster.stop().expect("the nodes stop");
}

#[test]
fn whoever_watches_is_told_that_a_leader_fell_and_by_another_node_when_its_own_fell() {
    let mut cluster = start("watch", 1);
    let addresses = servers(&cluster);
    let mut watch = Watch::new(addresses.clone());
    let leaders = |watch: &Watch| watch.placement().map(|p| p.leader).collect::<Vec<_>>();
    let until = |watch: &mut Watch, what: &str, is: &dyn Fn(&Watch) -> bool| {
        let begun = Instant::now();
        let mut changes = Vec::new();
        while !is(watch) {
            assert!(begun.elapsed() < WATCHED_WITHIN, "{what}: {changes:?}");
            changes.extend(watch.next(Duration::from_millis(100)).unwrap_or_default());
        }
        changes
    };
    let is_led = |watch: &Watch| {
        watch.nodes().count() == 3 && !leaders(watch).is_empty() && !leaders(watch).contains(&0)
    };
    let first = until(&mut watch, "all is told", &is_led);
    let told_by = |changes: &[Change]| {
        let mut told = changes.iter().filter_map(|change| match change {
            Change::Told { node, .. } => Some(*node),
            _ => None,
        });
        told.next_back()
    };
    let teller = told_by(&first).expect("somebody tells");
    let other = (1..=3).find(|node| *node != teller && leaders(&watch).contains(node));
    let other = other.expect("leaders are spread over the nodes");
    cluster.kill(other).expect("a node dies");
    let is_elsewhere = |watch: &Watch| is_led(watch) && !leaders(watch).contains(&other);
    let then = until(&mut watch, "a leader fell", &is_elsewhere);
    assert_eq!(told_by(&then), None, "who told goes on to tell");
    cluster.spawn(other, &[]).expect("it starts again");
    cluster.wait_ready(other).expect("it is ready");
    cluster.kill(teller).expect("a node dies");
    let is_elsewhere = |watch: &Watch| is_led(watch) && !leaders(watch).contains(&teller);
    let last = until(&mut watch, "who told fell", &is_elsewhere);
    assert!(told_by(&last).is_some_and(|node| node != teller), "another one tells: {last:?}");
    cluster.stop().expect("the nodes stop");
}
