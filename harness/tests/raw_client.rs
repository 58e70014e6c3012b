//! `docs/examples/raw_client.py`, a client made from the document alone, against real nodes: what it can
//! do is what the document says. It takes a python3; without one this test fails and says so.
#![cfg(feature = "bench")]

mod common;

use client::Client;
use common::{servers, three_nodes};
use harness::cluster::{Cluster, ClusterConfig};
use std::path::Path;
use std::process::Command;

/// Runs the script and gives what it prints; an error is what it says to stderr.
fn python(arguments: &[&str]) -> Result<String, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/raw_client.py");
    let ran = Command::new("python3").arg(script).args(arguments).output();
    let ran =
        ran.unwrap_or_else(|why| panic!("NOT TESTED: python3 can't be run ({why}). Install it"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    match ran.status.success() {
        true => Ok(text(&ran.stdout)),
        false => Err(text(&ran.stderr)),
    }
}

#[test]
fn a_client_made_from_the_document_alone_is_served_by_every_node() {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wire/tests/vectors.txt");
    python(&["check", vectors.to_str().expect("a path of this tree is text")])
        .expect("it agrees with the golden vectors");
    let config = ClusterConfig { cores: 2, shards: Some(6), ..three_nodes("raw-client") };
    let mut cluster = Cluster::start(config).expect("three nodes start");
    let servers = servers(&cluster);
    // Whichever node it begins at, it finds the leader of each key.
    let mut fence = 0;
    for (at, server) in servers.iter().enumerate() {
        for key in 0..6 {
            let (key, value) = (format!("raw/{at}/{key}"), format!("value {at} {key}"));
            let version = python(&[server, "put", &key, &value]).expect("a put is done");
            version.parse::<u64>().expect("it prints the version");
            let other = &servers[(at + 1) % servers.len()];
            assert_eq!(python(&[other, "get", &key]), Ok(value));
        }
        let next = python(&[server, "lock", "raw"]).expect("a lock is acquired and released");
        let next: u64 = next.parse().expect("it prints the fence");
        assert!(next > fence, "fences rise: {fence}, {next}");
        fence = next;
    }
    // The Rust client sees the same, and the script sees what that one does.
    let client = Client::connect(servers.clone()).expect("the cluster answers");
    let line = client.cache().get("raw/2/5").wait().expect("a get is answered");
    assert_eq!(line.expect("the script wrote it").value, "value 2 5");
    client.cache().put("from-rust", "seen").wait().expect("a put is done");
    assert_eq!(python(&[&servers[0], "get", "from-rust"]), Ok("seen".into()));
    let refused =
        python(&[&servers[0], "get", "nobody-wrote-it"]).expect_err("there is no such line");
    assert!(refused.contains("key-unknown") || refused.contains("40"), "{refused}");
    let held = client.lock("raw").exclusive().acquire().wait().expect("the lock is free again");
    assert!(held.fence() > fence);
    held.release().wait().expect("its holder releases it");
    cluster.stop().expect("the nodes stop");
}
