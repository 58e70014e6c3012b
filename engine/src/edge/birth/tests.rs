use super::*;
use crate::edge::manifest::new_incarnation;
use crate::edge::testing::TempDir;
use crate::edge::wal::Writer;
use crate::entry::kind;
use crate::machine::meta::{Node, Standing, write_node};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread::JoinHandle;
use wire::message::Hello;
use wire::peer::Nodes;
use wire::{Code, Header};

/// A machine of the test: a port and a disk that outlive the node on it.
struct Machine {
    temp: TempDir,
    listener: Arc<TcpListener>,
    stop: Arc<AtomicBool>,
    cache_bytes_asked: Option<u64>,
    engines: u32,
    engines_asked: Option<u32>,
}

type Outcome = Result<Manifest, BirthError>;

impl Machine {
    fn new() -> Machine {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Machine {
            temp: TempDir::new(),
            listener: listener.into(),
            stop: Arc::default(),
            cache_bytes_asked: None,
            engines: 2,
            engines_asked: None,
        }
    }

    fn address(&self) -> String {
        self.listener.local_addr().unwrap().to_string()
    }

    /// What stands on a disk that no cluster has taken yet.
    fn fresh(&self, node: u32) -> Manifest {
        Manifest {
            cluster: ClusterId::NONE,
            node: NodeId(node),
            incarnation: new_incarnation(),
            engines: self.engines,
            shards: 12,
            cache_bytes_max: self.cache_bytes_asked.unwrap_or(64 << 20),
            segment_bytes: 64 << 20,
            writer: Writer::Mapped,
            writer_why: String::new(),
            founders: vec![],
            nodes: vec![],
            renewed: vec![],
        }
    }

    fn write(&self, manifest: &Manifest) {
        DataDir::take(self.temp.path()).unwrap().write(manifest).unwrap();
    }

    /// Starts a node here, as `tercetd` does.
    fn start(&self, node: u32, peers: &Peers) -> JoinHandle<Outcome> {
        let dir = Arc::new(DataDir::take(self.temp.path()).unwrap());
        let manifest = dir.read(NodeId(node)).unwrap().unwrap_or_else(|| {
            let fresh = self.fresh(node);
            dir.write(&fresh).unwrap();
            fresh
        });
        let (listener, stop) = (Arc::clone(&self.listener), Arc::clone(&self.stop));
        let (peers, advertised) = (peers.clone(), self.address());
        let (cache_bytes_asked, engines_asked) = (self.cache_bytes_asked, self.engines_asked);
        std::thread::spawn(move || {
            let (listener, stop) = (&*listener, &*stop);
            let newborn = Newborn {
                listener,
                dir,
                manifest,
                peers,
                advertised,
                cache_bytes_asked,
                engines_asked,
                level_max: Level::NEWEST,
                stop,
            };
            join_cluster(newborn)
        })
    }

    fn wipe(&self) {
        std::fs::remove_file(self.temp.path().join("MANIFEST")).unwrap();
    }

    fn stop(&self, node: JoinHandle<Outcome>) -> Outcome {
        self.stop.store(true, Ordering::Release);
        let outcome = node.join().unwrap();
        self.stop.store(false, Ordering::Release);
        outcome
    }
}

fn machines() -> ([Machine; 3], Peers) {
    let machines = [Machine::new(), Machine::new(), Machine::new()];
    let peers = Peers::new((1..).map(NodeId).zip(machines.iter().map(Machine::address)));
    (machines, peers)
}

/// The manifests of a cluster of these machines, each on its machine's disk.
fn born_on(machines: &[Machine; 3]) -> [Manifest; 3] {
    let mut born = [1, 2, 3].map(|node| machines[node as usize - 1].fresh(node));
    let member = |(manifest, machine): (&Manifest, &Machine)| Founder {
        node: manifest.node,
        incarnation: manifest.incarnation,
        address: machine.address(),
    };
    let founders: Vec<_> = born.iter().zip(machines).map(member).collect();
    let cluster = new_cluster();
    for (manifest, machine) in born.iter_mut().zip(machines) {
        (manifest.cluster, manifest.founders) = (cluster, founders.clone());
        machine.write(manifest);
    }
    born
}

/// A node that answers who it is until this ends.
struct Answering {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Answering {
    fn new(at: &Machine, manifest: &Manifest) -> Answering {
        let (manifest, waits) = (manifest.clone(), String::new());
        let state = State { dir: None, manifest, failed: None, told_left_out: false, waits };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            peers: Peers::default(),
            advertised: at.address(),
            cache_bytes_asked: None,
            engines_asked: None,
            level_max: Level::NEWEST,
            over: AtomicBool::new(false),
            talks: AtomicUsize::new(0),
        });
        let (serving, listener) = (Arc::clone(&shared), Arc::clone(&at.listener));
        let serve = move || serving.serve(&listener, &AtomicBool::new(false)).unwrap();
        Answering { shared, thread: Some(std::thread::spawn(serve)) }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Release);
        self.thread.take().expect("ended once").join().unwrap();
    }
}

fn all(nodes: Vec<JoinHandle<Outcome>>) -> Vec<Manifest> {
    nodes.into_iter().map(|n| n.join().unwrap().unwrap()).collect()
}

fn pause() {
    std::thread::sleep(Duration::from_millis(300));
}

#[test]
fn a_single_node_is_born_at_once() {
    let machine = Machine::new();
    let born = machine.start(1, &Peers::default()).join().unwrap().unwrap();
    assert!(born.is_born());
    assert_eq!(born.founders.len(), 1);
    assert_eq!(born.founders[0].address, machine.address());
    let again = machine.start(1, &Peers::default()).join().unwrap().unwrap();
    assert_eq!(again, born);
}

#[test]
fn three_nodes_are_born_as_one_cluster_when_the_last_is_there() {
    let (m, peers) = machines();
    let first = m[0].start(1, &peers);
    let third = m[2].start(3, &peers);
    pause();
    assert!(!first.is_finished() && !third.is_finished(), "two of three make no cluster");
    let born = all(vec![first, m[1].start(2, &peers), third]);
    assert!(born[0].is_born());
    for node in &born {
        assert_eq!(node.cluster, born[0].cluster);
        assert_eq!(node.founders, born[0].founders);
    }
    let ids: Vec<_> = born[0].founders.iter().map(|f| f.node.0).collect();
    assert_eq!(ids, [1, 2, 3]);
}

#[test]
fn born_nodes_start_again_one_by_one_and_all_at_once() {
    let (m, peers) = machines();
    let start = || m.iter().zip(1..).map(|(m, node)| m.start(node, &peers)).collect();
    let born = all(start());
    assert_eq!(all(start()), born);
    for (m, node) in m.iter().zip(1..) {
        assert_eq!(all(vec![m.start(node, &peers)])[0].cluster, born[0].cluster);
    }
}

#[test]
fn a_founder_that_missed_the_birth_is_told_by_any_node() {
    let (m, peers) = machines();
    let born = born_on(&m);
    // As if the birth had not reached node 3: its manifest stands as before.
    m[2].write(&Manifest { cluster: ClusterId::NONE, founders: vec![], ..born[2].clone() });
    let third = m[2].start(3, &peers);
    let rows = write_founders(&born[1].founders);
    let birth = birth_of(&born[1], &rows);
    let hello = PeerHello {
        cluster: born[1].cluster.0,
        incarnation: born[1].incarnation.0,
        node: 2,
        engine: 0,
        engines: 2,
        version: VERSION,
    };
    talk::tell(&m[2].address(), &hello, &birth).unwrap();
    assert_eq!(all(vec![third])[0].cluster, born[0].cluster);
}

#[test]
fn a_node_with_more_engines_than_the_cluster_has_shards_is_refused() {
    let (m, peers) = machines();
    let born = born_on(&m);
    m[2].write(&Manifest { cluster: ClusterId::NONE, founders: vec![], ..born[2].clone() });
    let third = m[2].start(3, &peers);
    let rows = write_founders(&born[0].founders);
    let birth = Birth { shards: 1, ..birth_of(&born[0], &rows) };
    let hello = PeerHello { cluster: birth.cluster, ..PeerHello::decode(&[0; 45]).unwrap() };
    let _ = talk::tell(&m[2].address(), &hello, &birth);
    let refused = third.join().unwrap().unwrap_err().to_string();
    assert!(refused.starts_with("E128 ") && refused.contains("for 2 engines"), "{refused}");
    let kept = DataDir::take(m[2].temp.path()).unwrap().read(NodeId(3)).unwrap().unwrap();
    assert!(!kept.is_born(), "nothing was kept");
}

#[test]
fn a_wiped_node_waits_and_takes_no_birth_even_with_the_lowest_id() {
    let (m, peers) = machines();
    let born = born_on(&m);
    m[0].wipe();
    let wiped = m[0].start(1, &peers);
    let rows = write_founders(&born[1].founders);
    let birth = birth_of(&born[1], &rows);
    let hello = PeerHello { cluster: birth.cluster, ..PeerHello::decode(&[0; 45]).unwrap() };
    assert!(talk::tell(&m[0].address(), &hello, &birth).is_err());
    // The others answer as born nodes while they start again; the wiped one founds nothing.
    let others = vec![m[1].start(2, &peers), m[2].start(3, &peers)];
    assert_eq!(all(others)[0].cluster, born[0].cluster);
    pause();
    assert!(!wiped.is_finished());
    assert!(matches!(m[0].stop(wiped), Err(BirthError::Stopped)));
}

/// The nodes of a cluster at some epoch: its founders, and others.
fn nodes(born: &Manifest, others: &[(u32, Incarnation, String)]) -> Vec<u8> {
    let row = |node: NodeId, incarnation, address: &str| Node {
        node,
        incarnation,
        engines: 2,
        standing: Standing::In,
        address: address.to_owned(),
    };
    let founders = born.founders.iter().map(|f| row(f.node, f.incarnation, &f.address));
    let mut nodes = Meta::founded(born.cluster, born.shards, founders);
    for (node, incarnation, address) in others {
        let mut payload = Vec::new();
        write_node(&row(NodeId(*node), *incarnation, address), &mut payload);
        nodes.apply(kind::META_NODE, &payload);
    }
    let mut bytes = Vec::new();
    nodes.snapshot(&mut bytes);
    bytes
}

/// Asks a node that waits who it is, as the operator's tool does.
fn who(at: &Machine) -> PeerHello {
    let hello = PeerHello::decode(&[0; 45]).unwrap();
    talk::ask_within(&at.address(), &hello, Duration::from_secs(5)).unwrap()
}

/// A node of the cluster, as one that joins sees it: it answers a hello with its own, and with what it knows.
fn tell_whoever_asks(listener: &TcpListener, born: &Manifest, nodes: &[u8]) {
    let (mut stream, _) = listener.accept().unwrap();
    let mut asked = [0; 1024];
    let _ = stream.read(&mut asked).unwrap();
    let hello = PeerHello { cluster: born.cluster.0, ..PeerHello::decode(&[0; 45]).unwrap() };
    let hello = PeerHello { node: born.node.0, engines: 2, ..hello };
    let rows = write_founders(&born.founders);
    let mut out = Vec::new();
    wire::frame(&mut out, &Header::new(PeerHello::KIND, 0), |b| hello.encode(b));
    wire::frame(&mut out, &Header::new(Nodes::KIND, 0), |b| Nodes { nodes }.encode(b));
    wire::frame(&mut out, &Header::new(Birth::KIND, 0), |b| birth_of(born, &rows).encode(b));
    stream.write_all(&out).unwrap();
}

#[test]
fn a_node_that_was_added_takes_the_birth_from_whom_it_asks_and_starts_again_without_peers() {
    let (m, _) = machines();
    let born = born_on(&m);
    let fourth = Machine::new();
    let address = fourth.address();
    let to_join = Peers::new([(NodeId(1), m[0].address()), (NodeId(4), address.clone())]);
    let joiner = fourth.start(4, &to_join);
    let hello = who(&fourth);
    assert_eq!((hello.node, hello.engines, hello.cluster), (4, 2, [0; 16]));

    let others = [(4, Incarnation(hello.incarnation), address.clone())];
    let nodes = nodes(&born[0], &others);
    tell_whoever_asks(&m[0].listener, &born[0], &nodes);
    let joined = all(vec![joiner]).remove(0);
    assert_eq!((joined.cluster, joined.shards), (born[0].cluster, born[0].shards));
    assert_eq!(joined.founders, born[0].founders);
    assert_eq!(joined.nodes, nodes);
    assert_eq!(joined.known_nodes().unwrap().nodes().count(), 4);
    // It looks for the nodes that it knows, whatever --peers says, and starts without them.
    assert_eq!(all(vec![fourth.start(4, &Peers::default())])[0], joined);
    let more = Peers::new([(NodeId(4), address), (NodeId(5), "127.0.0.1:1".into())]);
    assert_eq!(all(vec![fourth.start(4, &more)])[0].cluster, joined.cluster);
}

#[test]
fn a_node_that_was_removed_is_refused_by_that_name() {
    let (m, peers) = machines();
    let born = born_on(&m);
    let mut left = Manifest { founders: born[2].founders[..2].to_vec(), ..born[2].clone() };
    left.nodes = nodes(&left, &[(4, Incarnation([4; 16]), "127.0.0.1:1".to_owned())]);
    m[2].write(&left);
    let text = b"who?".as_slice();
    let code = Code::WrongCluster.number();
    let error = wire::message::Error { code, retry_ms: 0, node: 0, engine: 0, text };
    let mut out = Vec::new();
    wire::frame(&mut out, &Header::new(wire::message::Error::KIND, 0), |b| error.encode(b));
    // It does not wait for long: until it has heard the answer.
    let refused = (0..20).find_map(|_| {
        let third = m[2].start(3, &peers);
        let (mut stream, _) = m[0].listener.accept().unwrap();
        let _ = stream.write_all(&out);
        third.join().unwrap().err()
    });
    let e = refused.expect("it heard the answer").to_string();
    assert!(e.starts_with("E121 node 3"), "{e}");
}

#[test]
fn a_lost_data_directory_is_taken_in_only_once_it_replaces() {
    let (m, peers) = machines();
    let born = born_on(&m);
    m[0].wipe();
    let wiped = m[0].start(1, &peers);
    let hello = who(&m[0]);
    assert_ne!(hello.incarnation, born[0].incarnation.0);

    // Node 3 dials it, as it does in a cluster: first as one that knows of no other directory.
    let from_three = |nodes: &[u8]| {
        let hello = PeerHello { cluster: born[2].cluster.0, node: 3, ..hello };
        let rows = write_founders(&born[2].founders);
        talk::tell_all(&m[0].address(), &hello, nodes, &birth_of(&born[2], &rows))
    };
    assert!(from_three(&nodes(&born[2], &[])).is_err());
    let other = [(1, Incarnation([5; 16]), m[0].address())];
    assert!(from_three(&nodes(&born[2], &other)).is_err());
    let replaced = [(1, Incarnation(hello.incarnation), m[0].address())];
    from_three(&nodes(&born[2], &replaced)).unwrap();
    let taken_in = all(vec![wiped]).remove(0);
    assert_eq!(taken_in.cluster, born[0].cluster);
    assert_eq!(taken_in.founders, born[0].founders, "who founded does not change");
    assert_ne!(taken_in.incarnation, born[0].incarnation);
}

/// Starts node 3 up to so many times, as it does not wait for long, until it is refused.
fn refused(third: &Machine, peers: &Peers, times: usize) -> Option<String> {
    (0..times).find_map(|_| Some(third.start(3, peers).join().unwrap().err()?.to_string()))
}

#[test]
fn a_data_directory_of_another_cluster_is_refused() {
    let (m, peers) = machines();
    let born = born_on(&m);
    m[2].write(&Manifest { cluster: ClusterId([5; 16]), ..born[2].clone() });
    let _others = [Answering::new(&m[0], &born[0]), Answering::new(&m[1], &born[1])];
    let e = refused(&m[2], &peers, 20).expect("it met the others");
    assert!(e.starts_with("E115 ") && e.contains(&born[0].cluster.to_string()), "{e}");
}

#[test]
fn one_stranger_keeps_nobody_from_starting() {
    let (m, peers) = machines();
    let born = born_on(&m);
    let _stranger =
        Answering::new(&m[0], &Manifest { cluster: ClusterId([5; 16]), ..born[0].clone() });
    assert_eq!(refused(&m[2], &peers, 3), None, "nobody else is there");
    let _second = Answering::new(&m[1], &born[1]);
    assert_eq!(refused(&m[2], &peers, 3), None, "the second is of the same cluster");
}

#[test]
fn peers_that_the_cluster_does_not_have_are_refused() {
    let machine = Machine::new();
    machine.start(1, &Peers::default()).join().unwrap().unwrap();
    let peers = Peers::new([(NodeId(1), machine.address()), (NodeId(2), "127.0.0.1:1".into())]);
    let e = machine.start(1, &peers).join().unwrap().unwrap_err().to_string();
    assert!(e.starts_with("E118 ") && e.contains("node 2"), "{e}");
}

/// What somebody is told who sends these bytes: the request, a code's number, and a text.
fn told(machine: &Machine, bytes: &[u8]) -> (u64, u16, String) {
    let mut stream = TcpStream::connect(machine.address()).unwrap();
    stream.write_all(bytes).unwrap();
    let mut heard = Vec::new();
    // The close may come as a reset: bytes that were not read are thrown away.
    let _ = stream.read_to_end(&mut heard);
    let frame = wire::split(&heard, 4096).unwrap().unwrap();
    let error = wire::message::Error::decode(frame.body).unwrap();
    (frame.header.request, error.code, String::from_utf8_lossy(error.text).into_owned())
}

/// What a client says first.
fn client_hello() -> Vec<u8> {
    let hello = Hello {
        cluster: [0; 16],
        client: [0; 16],
        engine: 0,
        version_min: 1,
        version_max: 1,
        name: b"",
        credentials: b"",
    };
    let mut early = Vec::new();
    wire::frame(&mut early, &Header::new(Hello::KIND, 7), |b| hello.encode(b));
    early
}

#[test]
fn clients_that_come_too_early_are_told_and_closed() {
    let (m, peers) = machines();
    let waiting = m[0].start(1, &peers);
    let early = client_hello();
    for (bytes, request, code) in
        [(&early[..], 7, Code::NotReady), (&[0x55; 100][..], 0, Code::BadFrame)]
    {
        let (to, number, _) = told(&m[0], bytes);
        assert_eq!((to, number), (request, code.number()));
    }
    assert!(matches!(m[0].stop(waiting), Err(BirthError::Stopped)));
}

#[test]
fn founders_on_other_machines_take_as_many_engines_as_the_first_has() {
    let (mut m, peers) = machines();
    (m[0].engines, m[1].engines, m[2].engines) = (2, 8, 1);
    let born = all(m.iter().zip(1..).map(|(m, node)| m.start(node, &peers)).collect());
    assert_eq!(born.iter().map(|node| node.engines).collect::<Vec<_>>(), [2, 2, 2]);
    let again = all(m.iter().zip(1..).map(|(m, node)| m.start(node, &peers)).collect());
    assert_eq!(again, born, "it stands in the directories");
}

#[test]
fn founders_that_were_told_other_engines_say_so_with_both_numbers() {
    let (mut m, peers) = machines();
    (m[1].engines, m[1].engines_asked) = (4, Some(4));
    let nodes: Vec<_> = m.iter().zip(1..).map(|(m, node)| m.start(node, &peers)).collect();
    let since = Instant::now();
    let text = loop {
        let (_, code, text) = told(&m[0], &client_hello());
        assert_eq!(code, Code::NotReady.number());
        if text.contains("E135") {
            break text;
        }
        assert!(since.elapsed() < Duration::from_secs(10), "{text}");
        pause();
    };
    assert!(text.contains("node 2 (it has 4 engines, this node 2)"), "{text}");
    for (machine, node) in m.iter().zip(nodes) {
        assert!(matches!(machine.stop(node), Err(BirthError::Stopped)));
    }
    // What the text says to do.
    m[1].engines_asked = None;
    let born = all(m.iter().zip(1..).map(|(m, node)| m.start(node, &peers)).collect());
    assert_eq!(born.iter().map(|node| node.engines).collect::<Vec<_>>(), [2, 2, 2]);
}
