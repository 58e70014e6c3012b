//! Whole data planes, with real engines, sockets and files, spoken to by hand.

mod lost;
mod refused;

use super::*;
use crate::edge::bridge::{CONTROL_MAILBOX_MAX, Inbox};
use crate::edge::testing::TempDir;
use crate::edge::wal::segments;
use crate::engine::Founder;
use crate::ids::{ClusterId, Incarnation};
use crate::level::{Kinds, Level};
use crate::raft::ReadMode;
use crate::secret::Secret;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::JoinHandle;
use std::time::Instant;
use wire::message::{
    CacheGet, CachePut, Done, Error, Expect, Hello, NodeAdd, NodeDrain, NodeForget,
};
use wire::message::{SessionOpen, Value, Welcome};
use wire::peer::{Birth, Nodes, PeerHello};
use wire::{Call, Code, Header, Kind};

const SEGMENT: u64 = 32 << 20;
const SHARDS: u32 = 3;
const PATIENCE: Duration = Duration::from_secs(20);
const CLUSTER: [u8; 16] = [9; 16];

/// A cluster's nodes: what stays when one of them stops.
struct Place {
    dir: TempDir,
    listeners: Vec<TcpListener>,
    /// How many of them found the cluster.
    founders: usize,
    engines: u32,
    seats: Seats,
    /// What the nodes that start from now on remember of the cluster's nodes.
    nodes: Vec<u8>,
}

/// A node that runs.
struct Node {
    plane: DataPlane,
    control: JoinHandle<()>,
}

impl Place {
    fn new(nodes: usize, engines: u32) -> Place {
        let listen = |_| TcpListener::bind("127.0.0.1:0").unwrap();
        let listeners = (0..nodes).map(listen).collect();
        Place {
            dir: TempDir::new(),
            listeners,
            founders: nodes,
            engines,
            seats: Seats::MOST,
            nodes: vec![],
        }
    }

    fn address(&self, node: usize) -> SocketAddr {
        self.listeners[node].local_addr().unwrap()
    }

    fn member(&self, node: usize) -> Founder {
        let id = u32::try_from(node + 1).unwrap();
        let incarnation = Incarnation([id as u8; 16]);
        Founder { node: NodeId(id), incarnation, address: self.address(node).to_string() }
    }

    fn start(&self, node: usize, threads: u32) -> Node {
        let (post, inbox) = mailbox(CONTROL_MAILBOX_MAX).unwrap();
        let plan = self.plan(node, threads, post);
        let data_dir = plan.data_dir.clone();
        let plane = start(plan).unwrap();
        let posts = plane.common.posts.clone();
        let control = std::thread::spawn(move || serve_control(&inbox, &posts, &data_dir));
        Node { plane, control }
    }

    fn plan(&self, node: usize, threads: u32, to_control: Post<ToControl>) -> Plan {
        let members: Vec<Founder> = (0..self.founders).map(|n| self.member(n)).collect();
        let (engines, nodes) = (self.engines, self.nodes.clone());
        let Founder { node: id, incarnation, .. } = self.member(node);
        let data_dir = self.dir.path().join(format!("node-{id}"));
        let make_config = move |engine| EngineConfig {
            cluster: ClusterId(CLUSTER),
            node: id,
            engine,
            engines,
            shards: SHARDS,
            replication: 3,
            founders: members.clone(),
            nodes: nodes.clone(),
            incarnation,
            seed: u64::from(id.0 * 100 + engine),
            secret: Secret::new([id.0 as u8; 16]),
            election_timeout_min: Duration::from_millis(150),
            election_timeout_max: Duration::from_millis(300),
            heartbeat: Duration::from_millis(30),
            level_max: Level::NEWEST,
            kinds: Kinds::REAL,
            balance_after: Duration::from_secs(5),
            reads: ReadMode::Lease,
            segment_bytes: SEGMENT,
            segments_max: 12,
            cache_bytes_max: 64 << 20,
        };
        Plan {
            listener: self.listeners[node].try_clone().unwrap(),
            data_dir,
            engines,
            threads,
            cpus: None,
            writer: Writer::Direct,
            segment_bytes: SEGMENT,
            make_config: Box::new(make_config),
            // The cluster knows where they are.
            peers: vec![],
            to_control,
            seats: self.seats,
            load_snapshot: Box::new(|_, _, _, _| Ok(false)),
            repair: None,
        }
    }

    fn client(&self, node: usize, engine: u32) -> Client {
        Client::hello(self.address(node), CLUSTER, engine)
    }
}

/// What the control plane does for its engines, until they are gone.
fn serve_control(inbox: &Inbox<ToControl>, posts: &[Post<ToCore>], data_dir: &std::path::Path) {
    let threads = u32::try_from(posts.len()).unwrap();
    let mut bell = std::fs::File::from(inbox.bell().try_clone_to_owned().unwrap());
    loop {
        bell.read_exact(&mut [0; 8]).unwrap();
        while let Some(message) = inbox.take() {
            match message {
                ToControl::MakeSegment { engine, slot } => {
                    let dir = segments::engine_dir(data_dir, engine);
                    segments::prepare(
                        &segments::path(&dir, slot),
                        SEGMENT,
                        Writer::Direct,
                        segments::Pace::AtOnce,
                    )
                    .unwrap();
                    let ready = ToCore::SegmentReady { engine, slot };
                    assert!(posts[thread_of(engine, threads)].send(ready).is_ok());
                }
                ToControl::Status { ticket: u64::MAX, .. } => return,
                _ => {}
            }
        }
    }
}

impl Node {
    fn stop(self) {
        // The control plane's stand-in ends with this answer; then the threads.
        for thread in 0..self.plane.threads() {
            assert!(self.plane.send(thread, ToCore::Status { ticket: u64::MAX }).is_ok());
        }
        self.control.join().unwrap();
        assert!(self.plane.broken().is_none(), "{:?}", self.plane.broken());
        self.plane.stop();
        let since = Instant::now();
        self.plane.join().unwrap();
        assert!(since.elapsed() < Duration::from_secs(3), "a stop takes no longer than it may");
    }
}

/// A client that speaks the wire by hand.
struct Client {
    socket: TcpStream,
    request: u64,
}

impl Client {
    fn connect(to: SocketAddr) -> Client {
        let socket = TcpStream::connect(to).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { socket, request: 0 }
    }

    fn hello(to: SocketAddr, cluster: [u8; 16], engine: u32) -> Client {
        let mut client = Client::connect(to);
        client.send_hello(cluster, engine);
        let (header, body) = client.receive().unwrap();
        assert_eq!(header.kind, Welcome::KIND);
        assert_eq!(Welcome::decode(&body).unwrap().engine, engine);
        client
    }

    fn send_hello(&mut self, cluster: [u8; 16], engine: u32) {
        let hello = Hello {
            cluster,
            client: [0; 16],
            engine,
            version_min: 1,
            version_max: 1,
            name: b"test",
            credentials: b"",
        };
        self.send(Hello::KIND, 0, |body| hello.encode(body));
    }

    fn send(&mut self, kind: Kind, shard: u32, body: impl FnOnce(&mut Vec<u8>)) {
        self.request += 1;
        let mut frame = Vec::new();
        let header = Header { shard, ..Header::new(kind, self.request) };
        wire::frame(&mut frame, &header, body);
        self.socket.write_all(&frame).unwrap();
    }

    fn receive(&mut self) -> std::io::Result<(Header, Vec<u8>)> {
        let mut bytes = vec![0; wire::HEADER_BYTES];
        self.socket.read_exact(&mut bytes)?;
        let (header, length) = Header::parse(bytes.first_chunk().unwrap()).unwrap();
        bytes.resize(wire::HEADER_BYTES + length, 0);
        self.socket.read_exact(&mut bytes[wire::HEADER_BYTES..])?;
        let frame = wire::split(&bytes, usize::MAX).unwrap().unwrap();
        assert_eq!(frame.header, header);
        Ok((header, frame.body.to_vec()))
    }

    /// The code of the error that ends the connection.
    fn last_words(&mut self) -> Code {
        let (header, body) = self.receive().unwrap();
        assert_eq!((header.kind, header.request), (Error::KIND, 0));
        let code = Code::from_number(Error::decode(&body).unwrap().code).unwrap();
        assert_eq!(self.socket.read(&mut [0; 1]).unwrap(), 0, "the connection is closed");
        code
    }

    /// Sends a call until it is answered by something else than "not now".
    fn call(&mut self, kind: Kind, shard: u32, body: impl Fn(&mut Vec<u8>)) -> (Kind, Vec<u8>) {
        let since = Instant::now();
        loop {
            self.send(kind, shard, &body);
            let (header, answer) = self.receive().unwrap();
            assert_eq!(header.request, self.request);
            if header.kind != Error::KIND {
                return (header.kind, answer);
            }
            let error = Error::decode(&answer).unwrap();
            let code = Code::from_number(error.code).unwrap();
            let text = String::from_utf8_lossy(error.text).into_owned();
            assert!(
                matches!(code, Code::Unavailable | Code::NotLeader | Code::Busy),
                "{code:?}: {text}"
            );
            assert!(since.elapsed() < PATIENCE, "{code:?}: {text}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn put(client: &mut Client, session: [u8; 16], sequence: u64, key: &[u8], value: &[u8]) -> u64 {
    let shard = wire::name::shard(key, SHARDS);
    let put = CachePut {
        call: Call { session, sequence, answered_below: sequence },
        version: 0,
        ttl_ms: 0,
        expect: Expect::Any,
        key,
        value,
    };
    let (kind, body) = client.call(CachePut::KIND, shard, |body| put.encode(body));
    assert_eq!(kind, Done::KIND);
    Done::decode(&body).unwrap().token
}

fn get(client: &mut Client, key: &[u8]) -> Vec<u8> {
    let shard = wire::name::shard(key, SHARDS);
    let (kind, body) = client.call(CacheGet::KIND, shard, |body| CacheGet { key }.encode(body));
    assert_eq!(kind, Value::KIND);
    Value::decode(&body).unwrap().value.to_vec()
}

fn open_session(client: &mut Client, session: [u8; 16], key: &[u8]) {
    let shard = wire::name::shard(key, SHARDS);
    let open = SessionOpen { session, ttl_ms: 60_000 };
    let (kind, _) = client.call(SessionOpen::KIND, shard, |body| open.encode(body));
    assert_eq!(kind, Done::KIND);
}

/// The engine that keeps a key.
fn engine_of(key: &[u8], engines: u32) -> u32 {
    let group = GroupId::of_shard(wire::name::shard(key, SHARDS));
    wire::topology::engine_of_group(group.0, engines)
}

#[test]
fn what_was_put_is_there_after_a_restart_with_fewer_threads() {
    let place = Place::new(1, 3);
    let keys: [&[u8]; 3] = [b"one", b"two", b"{three}/four"];
    let node = place.start(0, 3);
    for (at, key) in keys.iter().enumerate() {
        // Whichever thread accepts it: the hello finds the engine.
        let mut client = place.client(0, engine_of(key, 3));
        let session = [at as u8 + 1; 16];
        open_session(&mut client, session, key);
        let large = vec![at as u8; 900_000];
        put(&mut client, session, 1, key, b"small");
        put(&mut client, session, 2, key, &large);
        assert_eq!(get(&mut client, key), large);
    }
    node.stop();
    let node = place.start(0, 1);
    for (at, key) in keys.iter().enumerate() {
        let mut client = place.client(0, engine_of(key, 3));
        assert_eq!(get(&mut client, key), vec![at as u8; 900_000]);
    }
    node.stop();
}

#[test]
fn a_bad_connection_ends_alone() {
    let place = Place::new(1, 1);
    let node = place.start(0, 1);
    let mut good = place.client(0, 0);
    let to = place.address(0);

    let mut garbage = Client::connect(to);
    garbage.socket.write_all(&[b'x'; 200]).unwrap();
    assert_eq!(garbage.last_words(), Code::BadFrame);

    let mut later = place.client(0, 0);
    later.socket.write_all(&[0; 100_000]).unwrap();
    assert_eq!(later.last_words(), Code::BadFrame);

    let mut version = Client::connect(to);
    let mut header = Header::new(Hello::KIND, 1).to_bytes();
    header[12] = 9;
    version.socket.write_all(&header).unwrap();
    assert_eq!(version.last_words(), Code::WrongVersion);

    let mut huge = place.client(0, 0);
    let mut header = Header::new(CacheGet::KIND, 1).to_bytes();
    header[8..12].copy_from_slice(&(64u32 << 20).to_le_bytes());
    huge.socket.write_all(&header).unwrap();
    assert_eq!(huge.last_words(), Code::TooLarge);

    let mut other_cluster = Client::connect(to);
    other_cluster.send_hello([8; 16], 0);
    assert_eq!(other_cluster.last_words(), Code::WrongCluster);

    let mut other_engine = Client::connect(to);
    other_engine.send_hello([0; 16], 1);
    assert_eq!(other_engine.last_words(), Code::BadMessage);

    let mut silent = Client::connect(to);
    silent.send(CacheGet::KIND, 0, |body| CacheGet { key: b"k" }.encode(body));
    assert_eq!(silent.last_words(), Code::BadMessage);

    open_session(&mut good, [1; 16], b"k");
    put(&mut good, [1; 16], 1, b"k", b"v");
    assert_eq!(get(&mut good, b"k"), b"v");
    // Those that are gone are gone here too.
    let connections = || node.plane.counters()[0].connections.get();
    let since = Instant::now();
    while connections() > 1 {
        assert!(since.elapsed() < PATIENCE, "{} connections are left", connections());
        std::thread::sleep(Duration::from_millis(20));
    }
    node.stop();
}

#[test]
fn why_a_node_can_not_go_on_gets_through_a_full_mailbox() {
    let place = Place::new(1, 1);
    // Nobody empties it.
    let (post, inbox) = mailbox(1).unwrap();
    assert!(post.send(ToControl::Report { engine: 0 }).is_ok());
    let plane = start(place.plan(0, 1, post.clone())).unwrap();
    assert!(post.send(ToControl::Report { engine: 0 }).is_err(), "the mailbox is full");
    // A segment that nobody made can't be opened.
    assert!(plane.send(0, ToCore::SegmentReady { engine: 0, slot: 999 }).is_ok());
    let since = Instant::now();
    while plane.broken().is_none() {
        assert!(since.elapsed() < PATIENCE, "the engine ends");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(matches!(plane.broken(), Some((0, Fatal::JournalWrite(_)))), "{:?}", plane.broken());
    let mut bell = std::fs::File::from(inbox.bell().try_clone_to_owned().unwrap());
    bell.read_exact(&mut [0; 8]).unwrap();
    assert!(matches!(plane.join(), Err(Fatal::JournalWrite(_))));
}

#[test]
fn a_frame_that_arrives_slower_than_its_deadline_is_not_begun() {
    let place = Place::new(1, 1);
    let node = place.start(0, 1);
    let mut client = place.client(0, 0);
    open_session(&mut client, [1; 16], b"k");
    put(&mut client, [1; 16], 1, b"k", b"before");
    let put = CachePut {
        call: Call { session: [1; 16], sequence: 2, answered_below: 2 },
        version: 0,
        ttl_ms: 0,
        expect: Expect::Any,
        key: b"k",
        value: b"late",
    };
    let mut slowly = |deadline_ms| {
        client.request += 1;
        let mut frame = Vec::new();
        let shard = wire::name::shard(b"k", SHARDS);
        let header = Header { shard, deadline_ms, ..Header::new(CachePut::KIND, client.request) };
        wire::frame(&mut frame, &header, |body| put.encode(body));
        client.socket.write_all(&frame[..20]).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        client.socket.write_all(&frame[20..]).unwrap();
        let (header, body) = client.receive().unwrap();
        (header.kind == Error::KIND).then(|| Error::decode(&body).unwrap().code)
    };
    assert_eq!(slowly(100), Some(Code::DeadlineExceeded.number()));
    assert_eq!(slowly(20_000), None);
    assert_eq!(get(&mut client, b"k"), b"late");
    node.stop();
}

#[test]
fn frames_that_follow_the_hello_at_once_are_answered_in_order() {
    let place = Place::new(1, 2);
    let node = place.start(0, 2);
    for engine in [0, 1] {
        let mut client = Client::connect(place.address(0));
        let mut stream = Vec::new();
        let hello = Hello {
            cluster: [0; 16],
            client: [0; 16],
            engine,
            version_min: 1,
            version_max: 1,
            name: b"",
            credentials: b"",
        };
        wire::frame(&mut stream, &Header::new(Hello::KIND, 1), |body| hello.encode(body));
        for request in 2..500 {
            wire::frame(
                &mut stream,
                &Header::new(wire::message::Topology::KIND, request),
                |body| {
                    wire::message::Topology { known: 0 }.encode(body);
                },
            );
        }
        client.socket.write_all(&stream).unwrap();
        for request in 1..500 {
            assert_eq!(client.receive().unwrap().0.request, request);
        }
    }
    node.stop();
}

#[test]
fn three_nodes_agree_and_go_on_without_one() {
    let place = Place::new(3, 1);
    let mut nodes: Vec<Option<Node>> = (0..3).map(|node| Some(place.start(node, 1))).collect();
    // Whoever leads the shard answers; the others say who does.
    let key = b"key";
    let mut leader = wait_for_leader(&place, key, &[0, 1, 2]);
    let mut client = place.client(leader, 0);
    open_session(&mut client, [1; 16], key);
    for sequence in 1..=50 {
        put(&mut client, [1; 16], sequence, key, &sequence.to_le_bytes());
    }
    assert_eq!(get(&mut client, key), 50u64.to_le_bytes());
    let links = |node: &Node| node.plane.counters()[0].links_up.get();
    assert!(nodes.iter().flatten().all(|node| links(node) == 2));

    nodes[leader].take().unwrap().stop();
    let rest: Vec<usize> = (0..3).filter(|node| nodes[*node].is_some()).collect();
    leader = wait_for_leader(&place, key, &rest);
    let mut client = place.client(leader, 0);
    assert_eq!(get(&mut client, key), 50u64.to_le_bytes());
    let back = (0..3).find(|node| nodes[*node].is_none()).unwrap();
    nodes[back] = Some(place.start(back, 1));
    let since = Instant::now();
    while !nodes.iter().flatten().all(|node| links(node) == 2) {
        assert!(since.elapsed() < PATIENCE, "the links come back");
        std::thread::sleep(Duration::from_millis(20));
    }
    put(&mut client, [1; 16], 51, key, b"after");
    assert_eq!(get(&mut client, key), b"after");
    for node in nodes.into_iter().flatten() {
        node.stop();
    }
}

fn wait_for_leader(place: &Place, key: &[u8], nodes: &[usize]) -> usize {
    let shard = wire::name::shard(key, SHARDS);
    let since = Instant::now();
    loop {
        for node in nodes {
            let mut client = place.client(*node, 0);
            client.send(CacheGet::KIND, shard, |body| CacheGet { key }.encode(body));
            let (header, body) = client.receive().unwrap();
            let code = (header.kind == Error::KIND).then(|| Error::decode(&body).unwrap().code);
            if code.is_none_or(|code| code == Code::KeyUnknown.number()) {
                return *node;
            }
        }
        assert!(since.elapsed() < PATIENCE, "nobody leads");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Sends what is for the cluster's own group to whichever node leads it.
fn order(place: &Place, nodes: &[usize], kind: Kind, body: impl Fn(&mut Vec<u8>)) {
    let since = Instant::now();
    loop {
        for node in nodes {
            let mut client = place.client(*node, 0);
            client.send(kind, 0, &body);
            if client.receive().unwrap().0.kind == Done::KIND {
                return;
            }
        }
        assert!(since.elapsed() < PATIENCE, "nobody takes the order");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_node_joins_a_running_cluster_and_is_forgotten_by_it() {
    let mut place = Place::new(4, 2);
    place.founders = 3;
    // On two threads, so that one has to tell the other.
    let mut nodes: Vec<Node> = (0..3).map(|node| place.start(node, 2)).collect();
    let links = |node: &Node| -> u64 {
        node.plane.counters().iter().map(|counters| counters.links_up.get()).sum()
    };
    wait_until("the founders are linked", || nodes.iter().all(|node| links(node) == 4));

    let Founder { node: NodeId(id), incarnation, address } = place.member(3);
    let hello = PeerHello {
        cluster: [0; 16],
        incarnation: incarnation.0,
        node: id,
        engine: 0,
        engines: 2,
        version: 1,
    };
    let mut early = Client::connect(place.address(0));
    early.send(PeerHello::KIND, 0, |body| hello.encode(body));
    assert_eq!(early.last_words(), Code::WrongCluster);

    order(&place, &[0, 1, 2], NodeAdd::KIND, |body| {
        let (incarnation, address) = (incarnation.0, address.as_bytes());
        NodeAdd { incarnation, node: id, engines: 2, replaces: 0, address }.encode(body);
    });
    // Every node, and not the leader alone, tells it now who the nodes are and who founded the cluster.
    for node in 0..3 {
        let since = Instant::now();
        let told = loop {
            let mut joiner = Client::connect(place.address(node));
            joiner.send(PeerHello::KIND, 0, |body| hello.encode(body));
            if joiner.receive().unwrap().0.kind == PeerHello::KIND {
                let (header, told) = joiner.receive().unwrap();
                assert_eq!(header.kind, Nodes::KIND);
                let (header, birth) = joiner.receive().unwrap();
                assert_eq!(header.kind, Birth::KIND);
                assert_eq!(Birth::decode(&birth).unwrap().founders.len(), 60);
                break told;
            }
            assert!(since.elapsed() < PATIENCE, "node {node} learns of it");
            std::thread::sleep(Duration::from_millis(20));
        };
        place.nodes = Nodes::decode(&told).unwrap().nodes.to_vec();
    }
    nodes.push(place.start(3, 1));
    wait_until("all are linked", || nodes.iter().all(|node| links(node) == 6));

    order(&place, &[0, 1, 2], NodeDrain::KIND, |body| NodeDrain { node: id }.encode(body));
    assert!(nodes.iter().all(|node| links(node) == 6), "one that is drained is still spoken with");
    order(&place, &[0, 1, 2], NodeForget::KIND, |body| NodeForget { node: id }.encode(body));
    wait_until("its links end", || links(&nodes[3]) == 0);
    wait_until("the others stay", || nodes[..3].iter().all(|node| links(node) == 4));
    for node in nodes {
        node.stop();
    }
}

#[test]
fn a_stranger_is_no_peer_and_a_founder_that_missed_the_birth_is_told() {
    let place = Place::new(2, 1);
    let node = place.start(0, 1);
    let hello = |cluster, incarnation| PeerHello {
        cluster,
        incarnation,
        node: 2,
        engine: 0,
        engines: 1,
        version: 1,
    };
    let mut stranger = Client::connect(place.address(0));
    stranger.send(PeerHello::KIND, 0, |body| hello(CLUSTER, [7; 16]).encode(body));
    assert_eq!(stranger.last_words(), Code::WrongCluster);

    let mut founder = Client::connect(place.address(0));
    founder.send(PeerHello::KIND, 0, |body| hello([0; 16], [2; 16]).encode(body));
    let (header, body) = founder.receive().unwrap();
    assert_eq!(header.kind, PeerHello::KIND);
    assert_eq!(PeerHello::decode(&body).unwrap().node, 1);
    let (header, body) = founder.receive().unwrap();
    assert_eq!(header.kind, Birth::KIND);
    assert_eq!(Birth::decode(&body).unwrap().cluster, CLUSTER);
    assert_eq!(founder.socket.read(&mut [0; 1]).unwrap(), 0);

    let mut peer = Client::connect(place.address(0));
    peer.send(PeerHello::KIND, 0, |body| hello(CLUSTER, [2; 16]).encode(body));
    assert_eq!(peer.receive().unwrap().0.kind, PeerHello::KIND);
    node.stop();
}

/// Waits until a connection is closed by the other side, and says after how long.
fn closed_after(client: &mut Client) -> Duration {
    let since = Instant::now();
    while client.socket.read(&mut [0; 4096]).unwrap_or(0) > 0 {
        assert!(since.elapsed() < PATIENCE, "the connection is closed");
    }
    since.elapsed()
}

#[test]
fn a_link_whose_peer_falls_silent_is_ended_and_may_be_made_anew() {
    let place = Place::new(2, 1);
    let node = place.start(0, 1);
    let hello = PeerHello {
        cluster: CLUSTER,
        incarnation: [2; 16],
        node: 2,
        engine: 0,
        engines: 1,
        version: 1,
    };
    for round in 1..=2 {
        let mut peer = Client::connect(place.address(0));
        peer.send(PeerHello::KIND, 0, |body| hello.encode(body));
        assert_eq!(peer.receive().unwrap().0.kind, PeerHello::KIND);
        // It tells something once, and then stands still without a word, as a machine does that is cut off.
        let pulse = wire::peer::Pulse { sent_at: 1, echo: 0, held: 0 };
        peer.send(wire::peer::Pulse::KIND, 0, |body| pulse.encode(body));
        let after = closed_after(&mut peer);
        assert!(after > Duration::from_secs(1) && after < Duration::from_secs(5), "{after:?}");
        assert_eq!(node.plane.counters()[0].links_silent.get(), round);
    }
    node.stop();
}

#[test]
fn a_peer_whose_address_answered_something_odd_once_is_dialed_again() {
    let place = Place::new(2, 1);
    let stranger = place.listeners[0].try_clone().unwrap();
    let two = place.start(1, 1);
    // Node 1 is down. Something else answers at its address, once, and then hangs up.
    let (socket, _) = stranger.accept().unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut stranger = Client { socket, request: 0 };
    assert_eq!(stranger.receive().unwrap().0.kind, PeerHello::KIND);
    stranger.send(Done::KIND, 0, |body| Done { token: 1, index: 1 }.encode(body));
    assert_eq!(stranger.last_words(), Code::BadMessage);
    drop(stranger);
    // Others come and go, and the places of connections are used again.
    for _ in 0..3 {
        drop(place.client(1, 0));
    }
    let one = place.start(0, 1);
    let up = |node: &Node| node.plane.counters()[0].links_up.get() == 1;
    wait_until("the nodes are linked", || up(&one) && up(&two));
    wait_for_leader(&place, b"key", &[0, 1]);
    one.stop();
    wait_until("the link is down", || !up(&two));
    two.stop();
}

#[test]
fn a_peer_finds_its_way_in_however_many_clients_there_are() {
    let mut place = Place::new(2, 1);
    place.seats = Seats { clients: 4, newcomers: 4 };
    let one = place.start(0, 1);
    let clients: Vec<Client> = (0..4).map(|_| place.client(0, 0)).collect();
    let mut refused = Client::connect(place.address(0));
    refused.send_hello(CLUSTER, 0);
    assert_eq!(refused.last_words(), Code::Busy);
    // Many more come and say nothing, and others insist.
    let silent: Vec<Client> = (0..20).map(|_| Client::connect(place.address(0))).collect();
    let insists = Instant::now();
    let two = place.start(1, 1);
    let up = |node: &Node| node.plane.counters()[0].links_up.get() == 1;
    while !(up(&one) && up(&two)) {
        assert!(insists.elapsed() < PATIENCE, "the peer is linked");
        let mut again = Client::connect(place.address(0));
        again.send_hello(CLUSTER, 0);
        // It may be displaced before it has read why.
        let _ = again.receive();
    }
    assert!(one.plane.counters()[0].connections.get() >= 4);
    drop((clients, silent));
    let seat = |place: &Place| {
        let mut client = Client::connect(place.address(0));
        client.send_hello(CLUSTER, 0);
        client.receive().is_ok_and(|(header, _)| header.kind == Welcome::KIND)
    };
    wait_until("a client that goes makes room for another", || seat(&place));
    one.stop();
    two.stop();
}

#[test]
fn who_asks_for_much_at_once_gets_it_all_and_nobody_else_waits() {
    const GETS: usize = 200;
    let place = Place::new(1, 1);
    let node = place.start(0, 1);
    let (key, large) = (b"large", vec![7; 1 << 20]);
    let shard = wire::name::shard(key, SHARDS);
    let mut other = place.client(0, 0);
    open_session(&mut other, [1; 16], key);
    put(&mut other, [1; 16], 1, key, &large);
    let mut greedy = place.client(0, 0);
    for _ in 0..GETS {
        greedy.send(CacheGet::KIND, shard, |body| CacheGet { key }.encode(body));
    }
    // It does not read: what waits for it is bounded, and others are served meanwhile.
    for _ in 0..20 {
        assert_eq!(get(&mut other, key), large);
    }
    let slow = || node.plane.counters()[0].connections_slow.get();
    assert_eq!(slow(), 0);
    for _ in 0..GETS {
        let (header, body) = greedy.receive().unwrap();
        assert_eq!(header.kind, Value::KIND);
        assert!(Value::decode(&body).unwrap().value == large);
    }
    assert_eq!(slow(), 0);
    node.stop();
}
