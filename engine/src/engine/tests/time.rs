//! The group's clock, what is vouched for by it, and leases: over leader changes, under load, by nodes of different
//! settings.

use super::trio::{G, Trio};
use super::*;
use crate::ids::SessionId;
use crate::level::Level;
use crate::shard::Shard;
use crate::time::Elapsed;
use wire::header::PROTOCOL_MAX;

const SECOND: Duration = Duration::from_secs(1);

fn deadline(shard: &Shard) -> Elapsed {
    shard.state().session_deadline(SessionId(SESSION)).expect("it lives")
}

fn put(trio: &mut Trio, at: usize, sequence: u64, value: &[u8]) {
    let put = put_of(SESSION, sequence, b"key", value);
    trio.answers.clear();
    trio.send(at, CachePut::KIND, |b| put.encode(b));
    trio.deliver();
    assert!(trio.answers.iter().any(|(_, answer)| answer.kind == Done::KIND), "it is done");
}

fn get(trio: &mut Trio, at: usize) {
    trio.answers.clear();
    trio.send(at, CacheGet::KIND, |b| CacheGet { key: b"key" }.encode(b));
}

// ---- The clock ----

#[test]
fn a_session_ends_in_time_however_often_leadership_moves() {
    const TTL: u32 = 10_000;
    for changes in 0..7 {
        let mut trio = Trio::new(TTL);
        let leader = trio.leader();
        assert!(trio.vouches(leader));
        trio.deliver();
        let renewed = trio.now;
        trio.expired.clear();
        for _ in 0..changes {
            trio.pass(4_000);
            if !trio.expired.is_empty() {
                break;
            }
            let to = (trio.leader() + 1) % 3;
            assert_eq!(trio.hand_over(to), None);
            trio.pass(100);
            assert!(trio.leads(to));
        }
        trio.until(60_000, |trio| !trio.expired.is_empty());
        let lived = trio.expired[0].since(renewed);
        assert!(lived >= 10 * SECOND, "{changes} changes: it lived {lived:?}");
        assert!(lived <= 15 * SECOND, "{changes} changes: it lived {lived:?}");
    }
}

#[test]
fn who_steps_down_goes_on_by_the_clock_that_it_had() {
    let mut trio = Trio::new(60_000);
    let leader = trio.leader();
    let (shown, began) = (trio.shard(leader).clock(trio.now), trio.now);
    trio.isolate(leader);
    trio.until(2_000, |trio| !trio.leads(leader));
    let passed = trio.now.since(began);
    assert_eq!(trio.shard(leader).clock(trio.now).since(shown), passed);
}

#[test]
fn a_term_s_first_entry_carries_the_clock_of_who_opens_it() {
    let mut trio = Trio::new(60_000);
    let from = trio.leader();
    trio.pass(3_000);
    let (shown, began) = (trio.shard(from).clock(trio.now), trio.now);
    trio.isolate(from);
    trio.until(5_000, |trio| trio.others(from).iter().any(|at| trio.leads(*at)));
    trio.deliver();
    for at in trio.others(from) {
        let told = trio.shard(at).raft().log().last_time().since(shown);
        let passed = trio.now.since(began);
        assert!(passed - told < Duration::from_millis(20), "{told:?} of {passed:?}");
    }
}

#[test]
fn what_the_clock_shows_is_told_now_and_then_while_something_is_due_some_day() {
    let mut trio = Trio::new(600_000);
    let leader = trio.leader();
    for _ in 0..5 {
        trio.pass(7_000);
        let raft = trio.shard(leader).raft();
        let untold = raft.clock(trio.now).since(raft.log().last_time());
        assert!(untold <= 11 * SECOND, "{untold:?} would be lost with all nodes' power");
    }
}

// ---- Sessions ----

#[test]
fn nobody_vouches_for_a_session_before_it_has_committed_in_its_term() {
    let mut trio = Trio::new(3_000);
    let leader = trio.leader();
    assert!(trio.vouches(leader), "it does, usually");
    trio.deliver();
    trio.pass(350);
    // 1. Everybody is alone, and the leader steps down.
    (0..3).for_each(|at| trio.isolate(at));
    trio.pass(800);
    // 2. It is elected again, but what opens its term reaches nobody.
    trio.cut.clear();
    trio.dozing = trio.others(leader).into();
    trio.mute.insert(leader);
    trio.until(1_000, |trio| trio.leads(leader));
    // 3. Whoever leads next never heard of it, nor of its clock.
    assert!(!trio.vouches(leader));
}

#[test]
fn nobody_vouches_for_a_session_while_no_majority_follows() {
    let mut trio = Trio::new(10_000);
    let leader = trio.leader();
    trio.isolate(leader);
    trio.pass(200);
    assert!(trio.leads(leader), "it does not know yet");
    assert!(!trio.vouches(leader));
}

#[test]
fn renewals_find_room_when_clients_have_filled_theirs() {
    let mut node = Node::new();
    let loaders: Vec<ConnId> = (1..8).map(|index| ConnId { index, generation: 1 }).collect();
    for conn in &loaders {
        node.engine.on(
            node.now,
            Input::Opened { conn: *conn, request: 0, version: PROTOCOL_MAX },
            &mut node.effects,
        );
    }
    for conn in &loaders {
        let open = SessionOpen { session: [conn.index as u8; 16], ttl_ms: 600_000 };
        node.send(SessionOpen::KIND, 0, |b| open.encode(b));
    }
    node.answers();
    let (value, mut pending) = (vec![1u8; 1_000_000], None);
    for turn in 0..200u64 {
        node.now = node.now + Duration::from_millis(20);
        // 1. The disk says that the last write is there.
        if let Some(position) = pending.take() {
            node.engine.on(node.now, Input::Synced { position }, &mut node.effects);
        }
        // 2. Clients, who keep their credit full, fill all that may be uncommitted.
        for conn in &loaders {
            for nth in 0..4 {
                let sequence = 4 * turn + nth + 1;
                let put = put_of([conn.index as u8; 16], sequence, b"key", &value);
                let (mut body, header) = (Vec::new(), Header::new(CachePut::KIND, sequence));
                put.encode(&mut body);
                let input = Input::Frame { conn: *conn, header, body: &body };
                node.engine.on(node.now, input, &mut node.effects);
            }
        }
        // 3. A session of one second gives a sign of life, six times a second.
        if turn % 8 == 0 {
            node.send(Heartbeat::KIND, 0, |b| Heartbeat { session: SESSION }.encode(b));
        }
        pending = turn_without_sync(&mut node);
        node.effects.clients.drain(|_, _| {});
        let alive = node.engine.shards()[1].state().session_deadline(SessionId(SESSION));
        assert!(alive.is_some(), "it ended after {} ms", 20 * turn);
    }
}

/// Ends a turn whose write stays under way: its position.
fn turn_without_sync(node: &mut Node) -> Option<Position> {
    node.engine.end_turn(node.now, &mut node.effects);
    for slot in core::mem::take(&mut node.effects.segments) {
        node.engine.on(node.now, Input::SegmentReady { slot }, &mut node.effects);
    }
    while node.engine.has_work() {
        node.engine.work(node.now, Slice::WHOLE, &mut node.effects);
        for part in core::mem::take(&mut node.effects.saves).into_iter().filter(|part| part.last) {
            let saved = Input::SnapshotSaved { group: part.group, index: part.index };
            node.engine.on(node.now, saved, &mut node.effects);
        }
    }
    node.effects.write.take().map(|write| write.position)
}

#[test]
fn calls_keep_each_session_of_a_connection_alive_in_each_of_its_shards() {
    const SHARDS: u32 = 16;
    let mut node = Node::with(EngineConfig { shards: SHARDS, ..config() });
    let sessions: Vec<[u8; 16]> = (1..=3).map(|n| [n; 16]).collect();
    let keys: Vec<String> = (0..SHARDS)
        .map(|shard| {
            let mut names = (0..).map(|n| format!("key-{n}"));
            names.find(|name| wire::name::shard(name.as_bytes(), SHARDS) == shard).unwrap()
        })
        .collect();
    let ask = |node: &mut Node, shard, kind, body: &[u8]| {
        let header = Header { shard, ..Header::new(kind, 1) };
        node.engine.on(node.now, Input::Frame { conn: CONN, header, body }, &mut node.effects);
    };
    for shard in 0..SHARDS {
        for session in &sessions {
            let mut open = Vec::new();
            SessionOpen { session: *session, ttl_ms: 1_000 }.encode(&mut open);
            ask(&mut node, shard, SessionOpen::KIND, &open);
        }
    }
    assert!(node.codes().iter().all(Option::is_none));
    // None of them sends a heartbeat.
    for round in 1..=20 {
        node.pass(Duration::from_millis(250));
        for (shard, key) in (0..).zip(&keys) {
            for session in &sessions {
                let mut put = Vec::new();
                put_of(*session, round, key.as_bytes(), b"value").encode(&mut put);
                ask(&mut node, shard, CachePut::KIND, &put);
            }
        }
        assert!(node.codes().iter().all(Option::is_none), "round {round}");
    }
}

#[test]
fn a_renewal_that_was_refused_is_taken_up_again() {
    let mut trio = Trio::new(8_000);
    let leader = trio.leader();
    let [to, _] = trio.others(leader);
    let before = deadline(trio.shard(leader));
    trio.pass(2_000);
    // While leadership is being handed over nothing is proposed.
    trio.still.insert(to);
    assert_eq!(trio.hand_over(to), None);
    trio.vouches(leader);
    trio.pass(100);
    assert_eq!(deadline(trio.shard(leader)), before);
    trio.pass(400);
    assert!(trio.leads(leader), "nobody took it");
    assert!(deadline(trio.shard(leader)) > before + SECOND);
}

// ---- Leases and reads ----

fn with_a_patient_node_1(config: EngineConfig) -> EngineConfig {
    match config.node {
        NodeId(1) => EngineConfig {
            election_timeout_min: 3 * SECOND,
            election_timeout_max: 6 * SECOND,
            ..config
        },
        _ => config,
    }
}

#[test]
fn a_lease_rests_on_what_was_agreed_and_not_on_what_its_leader_is_told() {
    let mut trio = Trio::with(60_000, with_a_patient_node_1);
    if !trio.leads(0) {
        assert_eq!(trio.hand_over(0), None);
        trio.until(1_000, |trio| trio.leads(0));
    }
    trio.pass(1_000);
    assert!(trio.engines[0].lease_until(G) > Some(trio.now), "it has a lease");
    trio.isolate(0);
    trio.until(20_000, |trio| trio.others(0).iter().any(|at| trio.leads(*at)));
    let lease = trio.engines[0].lease_until(G);
    assert!(lease.is_none_or(|until| until <= trio.now), "{lease:?} at {:?}", trio.now);
}

#[test]
fn where_a_build_does_not_know_what_is_agreed_there_is_no_lease_and_reads_are_answered() {
    let older = |config: EngineConfig| match config.node {
        NodeId(2) => EngineConfig { level_max: Level::SAID, ..config },
        _ => config,
    };
    let mut trio = Trio::with(60_000, older);
    let leader = trio.leader();
    assert_eq!(trio.shard(leader).state().level(), Level::SAID);
    assert_eq!(trio.engines[leader].lease_until(G), None);
    put(&mut trio, leader, 1, b"value");
    get(&mut trio, leader);
    trio.deliver();
    assert_eq!(trio.answers[0].1.kind, Value::KIND);
}

#[test]
fn who_resumes_with_old_echoes_and_a_new_read_answers_nothing_old() {
    for (reads, echoes_first) in [
        (ReadMode::Lease, true),
        (ReadMode::Lease, false),
        (ReadMode::ReadIndex, true),
        (ReadMode::ReadIndex, false),
    ] {
        let mut trio = Trio::with(60_000, |config| EngineConfig { reads, ..config });
        let leader = trio.leader();
        put(&mut trio, leader, 1, b"old");
        // 1. The leader sends a round, and stands still; the echoes come.
        trio.now = trio.now + Duration::from_millis(50);
        trio.engines[leader].on(trio.now, Input::Tick, &mut trio.effects[leader]);
        trio.turn(leader);
        trio.still.insert(leader);
        trio.deliver();
        // 2. It is cut off. Another leads, and acknowledges a write.
        trio.isolate(leader);
        trio.until(5_000, |trio| trio.others(leader).iter().any(|at| trio.leads(*at)));
        trio.pass(200);
        let next = trio.others(leader).into_iter().find(|at| trio.leads(*at)).unwrap();
        put(&mut trio, next, 2, b"new");
        // 3. It goes on: the echoes lie there, and a read that was asked just now.
        if echoes_first {
            assert!(trio.hear_kept(leader) > 0);
            get(&mut trio, leader);
        } else {
            get(&mut trio, leader);
            assert!(trio.hear_kept(leader) > 0);
        }
        trio.turn(leader);
        let value = trio.answers.iter().find(|(_, answer)| answer.kind == Value::KIND);
        assert!(value.is_none(), "{reads:?}, echoes first: {echoes_first}");
    }
}

// ---- Hand-over on demand ----

#[test]
fn leadership_is_not_handed_to_who_is_not_heard() {
    let mut trio = Trio::new(60_000);
    let leader = trio.leader();
    let [to, _] = trio.others(leader);
    trio.isolate(to);
    trio.pass(1_000);
    assert_eq!(trio.hand_over(to), Some(Code::NodeBehind));
    put(&mut trio, leader, 1, b"nothing is in its way");
}

#[test]
fn leadership_is_handed_over_on_demand_once_in_a_while() {
    let mut trio = Trio::new(60_000);
    let leader = trio.leader();
    let [to, other] = trio.others(leader);
    trio.still.insert(to);
    assert_eq!(trio.hand_over(to), None);
    trio.pass(400);
    assert_eq!(trio.hand_over(other), Some(Code::Busy), "it was tried a moment ago");
    trio.pass(700);
    assert_eq!(trio.hand_over(other), None);
    trio.pass(50);
    assert!(trio.leads(other));
    assert_eq!(trio.hand_over(leader), Some(Code::Busy), "it leads only since a moment ago");
}
