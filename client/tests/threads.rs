//! A client that is gone leaves nothing behind: no thread, no socket.
#![allow(clippy::unwrap_used)] // Every function here is part of a test.

#[path = "../src/tests/fake.rs"]
#[allow(dead_code)]
mod fake;

use client::{Client, Config};
use fake::{Act, Fake};
use std::time::{Duration, Instant};

/// The client's own threads in this process.
fn threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let names = tasks.filter_map(|t| std::fs::read_to_string(t.path().join("comm")).ok());
    names.filter(|name| name.starts_with("tercet-")).count()
}

fn no_thread_is_left() {
    let begun = Instant::now();
    while threads() > 0 {
        assert!(begun.elapsed() < Duration::from_secs(3), "{} threads are left", threads());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// One test, so that no other client of this process is counted.
#[test]
fn nothing_is_left_of_a_client() {
    let fake = Fake::new(3, 12);

    // Used and closed.
    let client = Client::connect(fake.addresses()).unwrap();
    for n in 0..12 {
        client.cache().put(format!("k{n}"), "v").wait().unwrap();
    }
    assert!(threads() >= 3);
    client.close();
    no_thread_is_left();

    // Used and dropped, with guards and calls still about.
    let client = Client::connect(fake.addresses()).unwrap();
    let guard = client.lock("l").acquire().wait().unwrap();
    let put = client.cache().put("k", "v").send();
    drop(client);
    assert!(guard.is_valid() && threads() >= 3, "a guard keeps its client alive");
    drop((guard, put));
    no_thread_is_left();

    // Dropped while nobody answers, while connecting, while waiting.
    for round in 0..20u64 {
        fake.rule(|_| Act::Swallow);
        let begun = Instant::now();
        let start = Config::new(fake.addresses()).deadline(Duration::from_millis(100)).start();
        std::thread::sleep(Duration::from_micros(round * 200));
        drop(start);
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        fake.rule(|_| Act::Serve);
        let client = Client::connect(fake.addresses()).unwrap();
        fake.rule(|_| Act::Swallow);
        let wait = client.lock("l").wait(Duration::from_secs(60)).acquire();
        drop((wait, client));
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    }
    no_thread_is_left();

    // Nobody there at all.
    assert!(Config::new(["127.0.0.1:1"]).deadline(Duration::from_millis(50)).connect().is_err());
    no_thread_is_left();
}
