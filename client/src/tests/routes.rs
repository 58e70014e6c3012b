//! How often the client asks where everything is.

use super::fake::{Act, Fake};
use super::{config, eventually, ms};
use std::time::{Duration, Instant};
use wire::message::Topology;

#[test]
fn a_shard_without_a_leader_is_asked_for_less_and_less_often() {
    let fake = Fake::new(3, 2);
    let client = config(&fake).deadline(Duration::from_secs(2)).connect().unwrap();
    client.cache().put("k", "v").wait().unwrap();
    let shard = wire::name::shard(b"x", 2);
    fake.memory.lock().unwrap().leaders[shard as usize] = 0;
    let before = fake.seen(Topology::KIND).len();
    // As many calls wait for it as there may be.
    let puts: Vec<_> = (0..50).map(|_| client.cache().put("x", "v").send()).collect();
    for put in puts {
        put.wait().unwrap_err();
    }
    let asked = fake.seen(Topology::KIND).len() - before;
    assert!((3..=14).contains(&asked), "{asked} topologies in two seconds");
}

#[test]
fn one_topology_is_asked_for_at_a_time() {
    let fake = Fake::new(3, 2);
    let client = config(&fake).deadline(ms(800)).connect().unwrap();
    let shard = wire::name::shard(b"x", 2);
    fake.memory.lock().unwrap().leaders[shard as usize] = 0;
    fake.rule(|seen| match seen.kind {
        Topology::KIND => Act::Late(ms(300)),
        _ => Act::Serve,
    });
    let before = fake.seen(Topology::KIND).len();
    let puts: Vec<_> = (0..50).map(|_| client.cache().put("x", "v").send()).collect();
    for put in puts {
        put.wait().unwrap_err();
    }
    assert!(fake.seen(Topology::KIND).len() - before <= 3);
}

#[test]
fn a_new_leader_is_found_soon_after_a_long_time_without_one() {
    let fake = Fake::new(3, 2);
    let client = config(&fake).deadline(Duration::from_secs(4)).connect().unwrap();
    let shard = wire::name::shard(b"x", 2);
    fake.memory.lock().unwrap().leaders[shard as usize] = 0;
    let put = client.cache().put("x", "v").send();
    let before = fake.seen(Topology::KIND).len();
    eventually("it asks rarely", || fake.seen(Topology::KIND).len() >= before + 6);
    fake.memory.lock().unwrap().leaders[shard as usize] = 2;
    let led = Instant::now();
    put.wait().unwrap();
    assert!(led.elapsed() < ms(900), "{:?}", led.elapsed());
}
