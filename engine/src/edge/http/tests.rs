use super::*;
use crate::edge::config::{Config, Settings};
use crate::edge::counters::Counters;
use crate::edge::report::{NoteCounts, Phase};
use crate::ids::{ClusterId, GroupId, Incarnation, Index, NodeId, Term};
use crate::machine::meta::{self, Meta};
use crate::raft::ReadMode;
use crate::raft::{Member, Suffrage};
use crate::status::{
    EngineStatus, GroupStatus, JournalStatus, MachineStatus, PeerStatus, TwinStatus,
};
use glommio::{LocalExecutorBuilder, Placement};
use std::io::{Read, Write};
use std::net::SocketAddr;

fn facts() -> Facts {
    Facts {
        node: NodeId(2),
        cluster: ClusterId([0xab; 16]),
        incarnation: Incarnation([1; 16]),
        engines: 2,
        renewed: vec![],
        threads: 1,
        cpus: None,
        shards: 1,
        writer: "direct",
        writer_why: "a trial".into(),
        listen: "127.0.0.1:7400".into(),
        advertise: "b:2".into(),
        http: "127.0.0.1:7480".into(),
        started: Instant::now(),
        startup: Duration::from_millis(42),
        settings: Config::resolve(Settings::default()).unwrap().settings(),
    }
}

fn group(group: u32, leader: Option<u32>) -> GroupStatus {
    GroupStatus {
        group: GroupId(group),
        role: "leader",
        term: Term(3),
        leader: leader.map(NodeId),
        preferred: NodeId(1),
        confirmed: Some(Duration::from_millis(20)),
        patience: Duration::from_millis(300),
        commit: Index(10),
        applied: Index(9),
        first_index: Index(1),
        last_index: Index(11),
        durable: Index(11),
        members: vec![Member {
            node: NodeId(1),
            incarnation: Incarnation([1; 16]),
            suffrage: Suffrage::Voter,
        }],
        changing: false,
        wanted: vec![NodeId(1)],
        peers: vec![PeerStatus {
            node: NodeId(1),
            match_index: Index(10),
            next_index: Index(12),
            state: "replicate",
            silent: Some(Duration::from_millis(5)),
        }],
        machine: MachineStatus { locks: 4, messages_ready: 6, ..MachineStatus::default() },
    }
}

fn node(id: u8) -> meta::Node {
    let standing = if id == 1 { meta::Standing::In } else { meta::Standing::Drained };
    let (incarnation, address) = (Incarnation([id; 16]), format!("n{id}:7400"));
    meta::Node { node: NodeId(id.into()), incarnation, engines: 2, standing, address }
}

fn gathered(leader: Option<u32>) -> Gathered {
    let engine = |engine, groups| EngineStatus {
        engine,
        groups,
        lacking: 0,
        journal: JournalStatus::default(),
        connections: 0,
        peers: vec![TwinStatus {
            node: NodeId(2),
            linked: true,
            phi: 0.25,
            round_trip: None,
            drift_ppm: Some(-3),
        }],
        reads: ReadMode::Lease,
    };
    let counters = Counters::default();
    counters.sync_us.record(100);
    counters.sync_us.record(1 << 40);
    Gathered {
        engines: vec![engine(0, vec![group(0, Some(2))]), engine(1, vec![group(1, leader)])],
        counters: vec![counters.into()],
        notes: NoteCounts { leader_changes: 2, ..NoteCounts::default() },
        phase: Phase::Running,
        fatal: None,
        lacking: 0,
        nodes: Meta::founded(ClusterId([0xab; 16]), 1, [1, 2].map(node).into_iter()),
    }
}

/// A site on an executor of its own, as long as the test runs.
fn site(leader: Option<u32>) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serving = LocalExecutorBuilder::new(Placement::Unbound).io_memory(1 << 16).spawn(
        move || async move {
            let gather: Gather = Box::new(move || Box::pin(async move { gathered(leader) }));
            serve(listener, Rc::new(Site { facts: facts().into(), gather })).await;
        },
    );
    drop(serving.unwrap());
    address
}

/// Sends bytes and reads until the other side closes.
fn exchange(to: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = std::net::TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(bytes).unwrap();
    let mut heard = Vec::new();
    // The close may come as a reset when not all that was sent was read.
    let _ = stream.read_to_end(&mut heard);
    String::from_utf8(heard).unwrap()
}

fn get(to: SocketAddr, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    exchange(to, request.as_bytes())
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

#[test]
fn the_status_is_a_json_document() {
    let answer = get(site(Some(1)), "/status");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-type: application/json\r\n"), "{answer}");
    let json: serde_json::Value = serde_json::from_str(body(&answer)).unwrap();
    assert_eq!(json["node"], 2);
    assert_eq!(json["cluster"], "ab".repeat(16));
    assert_eq!(json["ready"], true);
    assert_eq!(json["startup_ms"], 42);
    assert_eq!(json["groups"][1]["shard"], 0);
    assert_eq!(json["groups"][1]["engine"], 1);
    assert_eq!(json["groups"][1]["peers"][0]["silent_ms"], 5);
    assert_eq!(json["groups"][1]["serves"], true, "a majority was heard 20 ms ago");
    assert_eq!(json["groups"][1]["peers"][0]["there"], true);
    assert_eq!(json["groups"][1]["members"][0]["standing"], "voter");
    assert_eq!(json["members"][1]["address"], "n2:7400");
    assert_eq!(json["members"][0]["standing"], "in");
    assert_eq!(json["members"][1]["standing"], "drained");
    assert_eq!(json["cores"][0]["syncs"], 2);
    assert_eq!(json["config"]["segment-size"], "64MiB");
}

#[test]
fn a_leader_serves_and_a_follower_is_there_only_while_they_are_heard() {
    let mut group = group(1, Some(2));
    assert!(group.serves() && group.has(&group.peers[0]));
    group.confirmed = Some(Duration::from_millis(301));
    assert!(!group.serves(), "a majority is silent for longer than it may be");
    group.confirmed = None;
    assert!(!group.serves(), "it has committed nothing in its term");
    let silent =
        |ms| PeerStatus { silent: Some(Duration::from_millis(ms)), ..group.peers[0].clone() };
    assert!(group.has(&silent(600)) && !group.has(&silent(601)));
    assert!(
        !group.has(&PeerStatus { state: "snapshot", ..silent(1) }),
        "it lacks what others have"
    );
    assert!(!group.has(&PeerStatus { silent: None, ..silent(1) }), "it was never heard");
}

#[test]
fn a_node_is_not_ready_before_it_has_what_it_is_to_keep() {
    let mut gathered = gathered(Some(1));
    assert_eq!(gathered.unready(&facts()), None);
    gathered.lacking = 2;
    assert!(gathered.unready(&facts()).unwrap().starts_with("2 groups that belong here"));
}

#[test]
fn the_metrics_follow_the_format_and_the_names() {
    let answer = get(site(Some(1)), "/metrics");
    let text = body(&answer);
    assert!(answer.contains("content-type: application/openmetrics-text"), "{answer}");
    assert!(text.ends_with("# EOF\n"));
    for line in [
        "tercet_raft_commit_index{group=\"1\"} 10.0",
        "tercet_queue_messages{group=\"0\",state=\"ready\"} 6.0",
        "tercet_raft_peer_silence_seconds{group=\"1\",peer=\"1\"} 0.005",
        "tercet_journal_sync_seconds_bucket{le=\"0.000127\",core=\"0\"} 1",
        "tercet_journal_sync_seconds_bucket{le=\"+Inf\",core=\"0\"} 2",
        "tercet_node_events_total{event=\"leader_changed\"} 2.0",
        "tercet_node_ready 1.0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        assert!(line.starts_with("tercet_"), "{line}");
    }
}

#[test]
fn a_node_is_ready_when_every_group_knows_a_leader() {
    let ready = get(site(Some(1)), "/readyz");
    assert!(ready.starts_with("HTTP/1.1 200 "), "{ready}");
    let unready = get(site(None), "/readyz");
    assert!(unready.starts_with("HTTP/1.1 503 "), "{unready}");
    assert!(unready.contains("application/problem+json"), "{unready}");
    assert!(body(&unready).contains("1 groups know no leader"), "{unready}");
    assert!(get(site(None), "/livez").starts_with("HTTP/1.1 200 "));
}

#[test]
fn what_is_not_there_and_what_may_not_be_done_are_problems() {
    let to = site(Some(1));
    let missing = get(to, "/nothing");
    assert!(missing.starts_with("HTTP/1.1 404 "), "{missing}");
    let problem: serde_json::Value = serde_json::from_str(body(&missing)).unwrap();
    assert_eq!((&problem["status"], &problem["title"]), (&404.into(), &"Not Found".into()));
    let post =
        b"POST /status HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    let refused = exchange(to, post);
    assert!(refused.starts_with("HTTP/1.1 405 "), "{refused}");
    assert!(refused.contains("allow: GET, HEAD\r\n"), "{refused}");
}

#[test]
fn one_connection_carries_many_requests_and_garbage_ends_only_its_own() {
    let to = site(Some(1));
    let garbage = exchange(to, &[0x16; 300]);
    assert!(garbage.is_empty() || garbage.starts_with("HTTP/1.1 400"), "{garbage}");
    let long = exchange(to, format!("GET /{} HTTP/1.1\r\n", "x".repeat(100_000)).as_bytes());
    assert!(long.is_empty() || long.starts_with("HTTP/1.1 4"), "{long}");
    let two = "GET /livez HTTP/1.1\r\nhost: x\r\n\r\nGET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    assert_eq!(exchange(to, two.as_bytes()).matches("200 OK").count(), 2);
}

#[test]
fn connections_that_ask_nothing_make_room_for_one_that_asks() {
    let to = site(Some(1));
    let held: Vec<_> = (0..CONNECTIONS_MAX)
        .map(|_| {
            let mut stream = std::net::TcpStream::connect(to).unwrap();
            stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            stream
        })
        .collect();
    let since = Instant::now();
    assert!(get(to, "/livez").starts_with("HTTP/1.1 200"));
    assert!(since.elapsed() < REQUEST_WITHIN / 2, "long before idle ones end by themselves");
    drop(held);
}
