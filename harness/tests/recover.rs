//! A cluster loses two of its three nodes for good, and another begins from what the last has: real processes.
#![cfg(feature = "bench")]

mod common;

use client::Client;
use common::{program, servers, three_nodes};
use harness::cluster::{Cluster, ClusterConfig};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

const SHARDS: u32 = 4;
const LINES: u32 = 300;
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn what_the_last_survivor_has_becomes_a_new_cluster_and_the_old_nodes_are_none_of_it() {
    let config = ClusterConfig { shards: Some(SHARDS), ..three_nodes("recover") };
    let mut cluster = Cluster::start(config).expect("three nodes start");
    let client = Client::connect(servers(&cluster)).expect("the cluster answers");
    let (lines, issued) = write(&client);
    drop(client);
    let (file, survivor) = (cluster.data_dir().join("left"), cluster.nodes()[0].data_dir.clone());

    let running = recover(&file, &survivor, &["--accept-loss"]);
    assert!(said(&running).contains("E112 "), "it runs: {running:?}");
    cluster.stop_node(1).expect("it stops");
    let others = recover(&file, &survivor, &["--accept-loss"]);
    assert!(said(&others).contains("E151 ") && said(&others).contains("nodes 2, 3"), "{others:?}");
    cluster.kill(3).expect("it dies");
    let one_more = recover(&file, &survivor, &["--accept-loss"]);
    assert!(said(&one_more).contains("E151 "), "two of three can go on: {one_more:?}");
    cluster.kill(2).expect("it dies");

    let shown = recover(&file, &survivor, &[]);
    assert_eq!(shown.status.code(), Some(73), "{shown:?}");
    assert!(said(&shown).contains("--accept-loss") && !file.exists(), "{shown:?}");
    let table = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert_eq!(table.matches("1, 2, 3").count(), SHARDS as usize + 1, "{table}");
    let before = images(&survivor);
    let written = recover(&file, &survivor, &["--accept-loss"]);
    assert!(written.status.success(), "{written:?}");
    assert_eq!(images(&survivor), before, "the survivor's own is left as it was");

    begin_from(&file, &mut cluster);
    let client = Client::connect([cluster.nodes()[0].address.to_string()]);
    let client = client.expect("the new cluster answers");
    for (key, version) in &lines {
        let line = client.cache().get(key).wait().expect("a get is answered");
        let line = line.unwrap_or_else(|| panic!("{key} was acknowledged and is gone"));
        assert_eq!((line.version, &line.value[..]), (*version, key.as_bytes()));
    }
    let guard = client.lock("held").acquire().wait().expect("nobody holds it any more");
    assert!(guard.fence() > issued, "{} after {issued}", guard.fence());
    drop(guard);

    // One of the dead comes back, and dials the new cluster where the first node was.
    cluster.spawn(3, &[]).expect("it starts");
    let since = Instant::now();
    while !cluster.log_tail(3).contains("no link") {
        assert!(since.elapsed() < 60 * SECOND, "{}", cluster.log_tail(3));
        std::thread::sleep(SECOND / 20);
    }
    let old = cluster.status(3).expect("it answers");
    assert_eq!(old["ready"], false, "nobody votes with it");
    let new = cluster.status(1).expect("it answers");
    assert_ne!(old["cluster"], new["cluster"]);
    assert_eq!(new["members"].as_array().map(Vec::len), Some(1), "nobody joined: {new}");
    client.cache().put("after", "all").wait().expect("the new cluster serves");
    drop(client);
    cluster.stop().expect("they stop");
}

/// Lines with their versions, and the highest number that was given out; a lock is left held.
fn write(client: &Client) -> (BTreeMap<String, u64>, u64) {
    let mut lines = BTreeMap::new();
    for n in 0..LINES {
        let key = format!("line/{n}");
        let version = client.cache().put(&key, key.clone()).wait().expect("a put is acknowledged");
        lines.insert(key, version);
    }
    let guard = client.lock("held").acquire().wait().expect("the lock is free");
    let issued = lines.values().copied().max().unwrap_or(0).max(guard.fence());
    guard.leave();
    (lines, issued)
}

/// A cluster of the first node alone is made of the file, where the old one's first node was.
fn begin_from(file: &Path, cluster: &mut Cluster) {
    let (dir, address) = (cluster.nodes()[0].data_dir.clone(), cluster.nodes()[0].address);
    cluster.lose_disk(1).expect("it makes room");
    let mut command = Command::new(program("tercetd"));
    command.arg("restore").arg(file).arg("--data-dir").arg(dir);
    command.args(["--node", "1", "--cores", "1", "--listen", &address.to_string()]);
    let restored = command.output().expect("tercetd starts");
    assert!(restored.status.success(), "{restored:?}");
    cluster.restart(1, &[]).expect("it starts from the file");
}

fn recover(file: &Path, dir: &Path, flags: &[&str]) -> Output {
    let mut command = Command::new(program("tercetd"));
    command.arg("recover").arg(file).arg("--data-dir").arg(dir).args(flags);
    command.output().expect("tercetd starts")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The sum of each file of a data directory, but for the lock's, which holds a process id.
fn images(dir: &Path) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for row in std::fs::read_dir(dir).expect("it is listed") {
            let path = row.expect("it is listed").path();
            if path.is_dir() {
                dirs.push(path);
            } else if !path.ends_with("LOCK") {
                let bytes = std::fs::read(&path).expect("it is read");
                let sum = bytes.iter().fold(0u64, |sum, b| sum.rotate_left(5) ^ u64::from(*b));
                sums.insert(path.display().to_string(), sum);
            }
        }
    }
    sums
}
