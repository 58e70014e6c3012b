//! A disk that changes what was written: the node sets it aside, and its groups come from the others.
#![cfg(feature = "bench")]

mod common;
#[path = "common/lines.rs"]
mod lines;

use client::Client;
use common::{servers, three_nodes};
use engine::journal::unit::{self, UNIT_HEADER_BYTES};
use harness::cluster::{Cluster, ClusterConfig};
use lines::Lines;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const SHARDS: u32 = 4;
/// How long healing may take on a busy machine.
const HEALED_WITHIN: Duration = Duration::from_secs(120);
/// How long until the first snapshot of a journal that fills up.
const SNAPSHOT_WITHIN: Duration = Duration::from_secs(60);
/// The node whose disk is damaged.
const DAMAGED: u32 = 2;

/// A group, and the life of the damaged node's replica in it, by the leader's word.
type Lives = BTreeMap<u64, String>;

#[test]
fn a_journal_with_a_flipped_bit_is_set_aside_and_its_groups_come_from_the_others() {
    let mut cluster = start("damaged-journal", &[]);
    let client = Client::connect(servers(&cluster)).expect("the cluster answers");
    let lines = Lines::put_many(&client, 300);
    let before = wait_lives(&cluster, |_| true);

    cluster.stop_node(DAMAGED).expect("a node stops");
    flip_in_the_middle(&engine_dir(&cluster).join("wal/0000.seg"));
    cluster.restart(DAMAGED, &[]).expect("it starts all the same");
    assert_named(&cluster, "E101");
    wait_lives(&cluster, |lives| is_another(lives, &before));

    // Again from what is on its disk now: what was damaged then is so no more.
    cluster.stop_node(DAMAGED).expect("a node stops");
    cluster.restart(DAMAGED, &[]).expect("it starts");
    assert!(!aside(&cluster, 2).exists(), "nothing else was set aside");

    // A majority needs the healed node now.
    cluster.kill(1).expect("a node dies");
    cluster.wait_leaders().expect("the healed node and the third go on");
    lines.assert_there(&client);
    cluster.stop().expect("the nodes stop");
}

#[test]
fn a_snapshot_with_a_flipped_bit_is_set_aside_and_its_groups_come_from_the_others() {
    let mut cluster =
        start("damaged-snapshot", &["--segment-size", "20MiB", "--segments-max", "4"]);
    let client = Client::connect(servers(&cluster)).expect("the cluster answers");
    let since = Instant::now();
    let mut lines = Lines::default();
    for key in 0.. {
        lines.put(&client, key % 100, vec![key as u8; 200_000]);
        if key % 100 == 99 && !snapshots(&cluster).is_empty() {
            break;
        }
        assert!(since.elapsed() < SNAPSHOT_WITHIN, "{}", cluster.log_tail(DAMAGED));
    }
    let before = wait_lives(&cluster, |_| true);

    cluster.stop_node(DAMAGED).expect("a node stops");
    // One of them may be replaced already, its file not yet removed.
    snapshots(&cluster).iter().for_each(|path| flip_in_the_middle(path));
    cluster.restart(DAMAGED, &[]).expect("it starts all the same");
    assert_named(&cluster, "E102");
    wait_lives(&cluster, |lives| is_another(lives, &before));

    cluster.kill(1).expect("a node dies");
    cluster.wait_leaders().expect("the healed node and the third go on");
    lines.assert_there(&client);
    cluster.stop().expect("the nodes stop");
}

#[test]
fn a_journal_whose_newest_segment_is_gone_is_set_aside_and_its_groups_come_from_the_others() {
    without_the_newest_segment("segment-gone", |path| {
        fs::remove_file(path).expect("a file is removed");
    });
}

#[test]
fn a_journal_whose_newest_segment_is_zeroed_is_set_aside_and_its_groups_come_from_the_others() {
    without_the_newest_segment("segment-zeroed", |path| {
        let bytes = fs::metadata(path).expect("the file is there").len();
        let file = fs::File::create(path).expect("a file is emptied");
        file.set_len(bytes).expect("it has its length again");
    });
}

/// A node loses the newest of several segments while it is stopped.
fn without_the_newest_segment(test: &str, lose: impl Fn(&Path)) {
    let mut cluster = start(test, &["--segment-size", "20MiB"]);
    let client = Client::connect(servers(&cluster)).expect("the cluster answers");
    let (since, mut lines) = (Instant::now(), Lines::default());
    for key in 0.. {
        lines.put(&client, key % 100, vec![key as u8; 200_000]);
        if key % 20 == 19 && newest_segment(&cluster).0 > 1 {
            break;
        }
        assert!(since.elapsed() < SNAPSHOT_WITHIN, "{}", cluster.log_tail(DAMAGED));
    }
    let before = wait_lives(&cluster, |_| true);

    cluster.stop_node(DAMAGED).expect("a node stops");
    let (number, path) = newest_segment(&cluster);
    assert!(number > 1, "it is not the only one");
    lose(&path);
    cluster.restart(DAMAGED, &[]).expect("it starts all the same");
    assert_named(&cluster, "E109");
    wait_lives(&cluster, |lives| is_another(lives, &before));

    cluster.kill(1).expect("a node dies");
    cluster.wait_leaders().expect("the healed node and the third go on");
    lines.assert_there(&client);
    cluster.stop().expect("the nodes stop");
}

#[test]
fn an_engine_whose_directory_is_gone_is_refused_instead_of_founded_again() {
    let mut cluster = start("engine-gone", &[]);
    // From then on its manifest says that it has served.
    let manifest = engine_dir(&cluster).with_file_name("MANIFEST");
    let since = Instant::now();
    while !fs::read_to_string(&manifest).is_ok_and(|text| text.contains("\nnodes = ")) {
        assert!(since.elapsed() < HEALED_WITHIN, "the manifest names the nodes");
        std::thread::sleep(Duration::from_millis(20));
    }
    cluster.stop_node(DAMAGED).expect("a node stops");
    fs::remove_dir_all(engine_dir(&cluster)).expect("a directory is removed");
    let refused = cluster.restart(DAMAGED, &[]).expect_err("it does not start").to_string();
    assert!(refused.contains("E107"), "{refused}");
    cluster.stop().expect("the nodes stop");
}

/// Three nodes with one engine each.
fn start(test: &str, flags: &[&str]) -> Cluster {
    let mut config = ClusterConfig { shards: Some(SHARDS), ..three_nodes(test) };
    config.flags = ["--engines", "1"].iter().chain(flags).map(ToString::to_string).collect();
    Cluster::start(config).expect("three nodes start")
}

fn engine_dir(cluster: &Cluster) -> PathBuf {
    cluster.nodes()[DAMAGED as usize - 1].data_dir.join("engine-00")
}

/// Where the damaged directory is put.
fn aside(cluster: &Cluster, number: u32) -> PathBuf {
    engine_dir(cluster).with_file_name(format!("engine-00.damaged-{number}"))
}

/// The snapshots that are on the disk.
fn snapshots(cluster: &Cluster) -> Vec<PathBuf> {
    let rows = fs::read_dir(engine_dir(cluster).join("snapshots")).expect("a directory");
    let paths = rows.flatten().map(|row| row.path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "snap")).collect()
}

/// The number and the file of the segment that the damaged node began last.
fn newest_segment(cluster: &Cluster) -> (u64, PathBuf) {
    let rows = fs::read_dir(engine_dir(cluster).join("wal")).expect("a directory");
    let segments = rows.flatten().map(|row| row.path());
    let segments = segments.filter(|path| path.extension().is_some_and(|it| it == "seg"));
    let begun = segments.filter_map(|path| {
        let mut head = [0; UNIT_HEADER_BYTES];
        fs::File::open(&path).and_then(|file| file.read_exact_at(&mut head, 0)).ok()?;
        Some((unit::claim(&head, 0)?.segment, path))
    });
    begun.max().expect("a node that served has a segment")
}

/// Flips a bit of a byte that was written, half way to the last one.
fn flip_in_the_middle(path: &Path) {
    let bytes = fs::read(path).expect("the file is there");
    let last = bytes.iter().rposition(|byte| *byte != 0).expect("something was written");
    let at = (last / 2..last).find(|at| bytes[*at] != 0).expect("not the last byte alone");
    let file = fs::OpenOptions::new().write(true).open(path).expect("the file can be written");
    file.write_all_at(&[bytes[at] ^ 4], at as u64).expect("a byte is written");
    file.sync_all().expect("it is on the disk");
}

/// The node's log and its status name the damage, and the old directory is kept.
fn assert_named(cluster: &Cluster, code: &str) {
    let node = &cluster.nodes()[DAMAGED as usize - 1];
    let log = fs::read_to_string(&node.log).expect("the node has a log");
    let named = log.lines().find(|line| line.contains("E105 "));
    let named = named.unwrap_or_else(|| panic!("{log}"));
    assert!(named.contains(code) && named.contains("engine-00.damaged-1"), "{named}");
    assert!(aside(cluster, 1).join("wal/0000.seg").exists(), "what was damaged is kept");
    assert_eq!(cluster.status(DAMAGED).expect("it answers")["renewed_engines"][0], 0);
}

/// Whether each group has another replica of the damaged node than it had.
fn is_another(now: &Lives, before: &Lives) -> bool {
    now.iter().all(|(group, life)| before[group] != *life)
}

/// Waits until every group's leader counts three voters, the damaged node among them, with the right lives.
fn wait_lives(cluster: &Cluster, right: impl Fn(&Lives) -> bool) -> Lives {
    let since = Instant::now();
    loop {
        let lives = lives(cluster);
        if lives.len() == SHARDS as usize + 1 && right(&lives) {
            return lives;
        }
        assert!(since.elapsed() < HEALED_WITHIN, "{lives:?}\n{}", cluster.log_tail(DAMAGED));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The lives in those groups that have three voters.
fn lives(cluster: &Cluster) -> Lives {
    let mut lives = Lives::new();
    for status in (1..=3).filter_map(|node| cluster.status(node)) {
        let groups = status["groups"].as_array().into_iter().flatten();
        for group in groups.filter(|group| group["role"] == "leader") {
            let members: Vec<_> = group["members"].as_array().into_iter().flatten().collect();
            let all_vote = members.iter().all(|member| member["standing"] == "voter");
            let damaged = members.iter().find(|member| member["node"] == DAMAGED);
            if let (Some(member), 3, true) = (damaged, members.len(), all_vote) {
                let life = member["incarnation"].as_str().expect("a life is a text");
                lives.insert(group["group"].as_u64().expect("a number"), life.to_owned());
            }
        }
    }
    lives
}
