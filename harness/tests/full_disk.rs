//! A full disk under the real binary: node 2 of three keeps its data in a small file system of its own.
//! That takes a mount namespace (root, or user namespaces allowed): without one these tests fail and say
//! so, because a full disk that was never tried is no proof.
#![cfg(feature = "bench")]

mod common;

use client::Client;
use common::{program, servers, three_nodes};
use harness::cluster::{Cluster, ClusterError};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The node whose disk is small.
const SMALL: u32 = 2;
/// What a node ends with whose disk is full.
const EXIT_DISK_FULL: i32 = 28;
const VALUE_BYTES: usize = 200_000;

/// A file system in memory with a mount namespace of its own, which lives as long as this.
struct SmallDisk {
    at: PathBuf,
    holder: Child,
    /// How to get into the namespace.
    enter: Vec<String>,
}

impl SmallDisk {
    fn mount(at: &Path, mebibytes: u32) -> SmallDisk {
        std::fs::create_dir_all(at).expect("a directory to mount on");
        let is_root = rustix::process::geteuid().is_root();
        let script = format!(
            "mount -t tmpfs -o size={mebibytes}m tercet-small \"$0\" && echo mounted && exec cat"
        );
        let mut command = Command::new("unshare");
        command.args(if is_root { &["-m"][..] } else { &["-r", "-m"][..] });
        command.args(["sh", "-c", &script]).arg(at).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = command.spawn().expect("unshare (util-linux) is installed");
        let mut said = String::new();
        let out = holder.stdout.take().expect("it was piped");
        BufReader::new(out).read_line(&mut said).expect("the mount says how it went");
        assert_eq!(
            said, "mounted\n",
            "NOT TESTED: no small file system can be mounted here. Run this as root, or allow user namespaces"
        );
        let pid = holder.id().to_string();
        let mut enter: Vec<String> = ["nsenter", "-t", &pid, "-m"].map(String::from).into();
        if !is_root {
            enter.extend(["-U".into(), "--preserve-credentials".into()]);
        }
        SmallDisk { at: at.to_owned(), holder, enter }
    }

    /// Makes it larger.
    fn grow(&self, mebibytes: u32) {
        let size = format!("remount,size={mebibytes}m");
        let mut command = Command::new(&self.enter[0]);
        command.args(&self.enter[1..]).args(["mount", "-o", &size]).arg(&self.at);
        assert!(command.status().expect("mount is installed").success(), "it is made larger");
    }

    /// A program that is `tercetd`, but on this disk for the node that it belongs to.
    fn tercetd(&self, script: &Path) -> PathBuf {
        let (enter, tercetd) = (self.enter.join(" "), program("tercetd"));
        let tercetd = tercetd.display();
        let text = format!(
            "#!/bin/sh\ncase \" $* \" in\n*\" --node {SMALL} \"*) exec {enter} -- '{tercetd}' \"$@\" ;;\n\
             *) exec '{tercetd}' \"$@\" ;;\nesac\n"
        );
        std::fs::write(script, text).expect("a script is written");
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(script, mode).expect("a script is made a program");
        script.to_owned()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The namespace ends with its last process, and with it the file system.
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

/// Three nodes under load until the small one ends; then the others alone, room, and all of them.
fn fill(test: &str, mebibytes: u32, segments_max: &str, says: &str) {
    let mut config = three_nodes(test);
    let disk = SmallDisk::mount(&config.data_dir.join(format!("node-{SMALL}")), mebibytes);
    let flags = ["--segment-size", "20MiB", "--segments-max", segments_max, "--wal", "mapped"];
    config.flags = flags.map(String::from).into();
    config.tercetd = Some(disk.tercetd(&config.data_dir.join("tercetd")));
    let mut cluster = Cluster::start(config).expect("three nodes start");
    let client = Client::connect(servers(&cluster)).expect("the cluster answers");
    let put = |key: usize| {
        let value = vec![key as u8; VALUE_BYTES];
        client
            .cache()
            .put(format!("key/{}", key % 100), value)
            .wait()
            .expect("a put is acknowledged")
    };

    let mut puts = 0;
    let (status, tail) = loop {
        put(puts);
        puts += 1;
        assert!(puts < 3_000, "the small disk was never full");
        if let Some(end) = ended(&mut cluster) {
            break end;
        }
    };
    println!("node {SMALL} ended with {status} after {puts} puts:\n{tail}");
    assert_eq!(status.code(), Some(EXIT_DISK_FULL));
    let last = tail.lines().last().expect("it said why");
    assert!(last.starts_with("tercetd: E202 the disk is full: "), "{last}");
    assert!(last.contains(says), "{last}");

    // Without room it ends again the same way.
    cluster.spawn(SMALL, &[]).expect("a process starts");
    let (status, tail) = wait_end(&mut cluster);
    assert_eq!(status.code(), Some(EXIT_DISK_FULL), "{tail}");

    // The others go on.
    let last = puts + 100;
    let versions: Vec<u64> = (puts..last).map(put).collect();
    disk.grow(4 * mebibytes);
    let took = cluster.restart(SMALL, &[]).expect("with room the node starts again");
    println!("ready again after {took:?}");
    // Without the first node, what is acknowledged and read needs the one that was full.
    cluster.stop_node(1).expect("a node stops");
    cluster.wait_leaders().expect("two of three are a majority");
    for (key, version) in (puts..last).zip(versions) {
        let line = client.cache().get(format!("key/{}", key % 100)).wait();
        let line = line.expect("a get is answered").expect("an acknowledged line is there");
        assert_eq!((line.version, &line.value[..]), (version, &vec![key as u8; VALUE_BYTES][..]));
    }
    put(last);
    cluster.check(SMALL).expect("it still runs");
    cluster.stop().expect("the nodes stop");
}

/// How the small node ended, if it did: its status and the end of its log.
fn ended(cluster: &mut Cluster) -> Option<(ExitStatus, String)> {
    match cluster.check(SMALL) {
        Ok(()) => None,
        Err(ClusterError::Ended { status, tail, .. }) => Some((status, tail)),
        Err(other) => panic!("{other}"),
    }
}

fn wait_end(cluster: &mut Cluster) -> (ExitStatus, String) {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(end) = ended(cluster) {
            return end;
        }
        assert!(Instant::now() < until, "it runs although its disk is full");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_disk_without_room_for_a_segment_stops_its_node_alone_until_there_is_room() {
    fill("full-segment", 3 * 20 + 8, "12", ".seg: ");
}

#[test]
fn a_disk_without_room_for_a_snapshot_stops_its_node_alone_until_there_is_room() {
    fill("full-snapshot", 4 * 20 + 8, "4", "the snapshot of group 1 in ");
}
