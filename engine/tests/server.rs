//! The server as a user meets it: the real binary, on loopback.
#![allow(clippy::unwrap_used)] // in a test a panic is the finding, in its helpers too

use rustix::net::{self, AddressFamily, SocketFlags, SocketType};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take here.
const PATIENCE: Duration = Duration::from_secs(60);

/// A directory that is removed with the test.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let name = format!("tercetd-{name}-{}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).unwrap();
        Place(path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Nothing depends on its being gone.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Addresses that are this process's until it ends, also while no node listens there. They are bound and do not listen:
/// a node may still bind them by their numbers, and nobody gets them who asks for any port.
fn free<const N: usize>() -> [SocketAddr; N] {
    std::array::from_fn(|_| {
        let (inet, stream) = (AddressFamily::INET, SocketType::STREAM);
        let socket = net::socket_with(inet, stream, SocketFlags::CLOEXEC, None).unwrap();
        net::sockopt::set_socket_reuseaddr(&socket, true).unwrap();
        net::bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let address = net::getsockname(&socket).unwrap();
        std::mem::forget(socket);
        SocketAddr::try_from(address).unwrap()
    })
}

fn tercetd(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tercetd"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A running node, killed with the test.
struct Node {
    child: Child,
    http: SocketAddr,
    /// Where its log is.
    log: PathBuf,
}

impl Node {
    fn start(data_dir: &Path, listen: SocketAddr, http: SocketAddr, more: &[&str]) -> Node {
        let (listen, at) = (listen.to_string(), http.to_string());
        let dir = data_dir.to_str().unwrap();
        let mut command = tercetd(&["--data-dir", dir, "--listen", &listen, "--http", &at]);
        command.args(["--pin", "none", "--segment-size", "20MiB"]).args(more);
        Node::spawn(command, data_dir, http)
    }

    /// Its log is beside its data.
    fn spawn(mut command: Command, data_dir: &Path, http: SocketAddr) -> Node {
        let log = data_dir.with_extension("log");
        let file = std::fs::File::options().create(true).append(true).open(&log).unwrap();
        command.stdout(Stdio::null()).stderr(file);
        Node { child: command.spawn().unwrap(), http, log }
    }

    /// Asks until a path is answered with 200, and gives the body.
    fn wait_for(&mut self, path: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Ok(answer) = get(self.http, path)
                && answer.starts_with("HTTP/1.1 200 ")
            {
                return answer.split_once("\r\n\r\n").unwrap().1.to_owned();
            }
            let log = || std::fs::read_to_string(&self.log).unwrap();
            assert_eq!(self.child.try_wait().unwrap(), None, "the node ended: {}", log());
            assert!(Instant::now() < until, "{path} was never answered with 200: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn status(&mut self) -> serde_json::Value {
        serde_json::from_str(&self.wait_for("/status")).unwrap()
    }

    /// Asks the node to stop, and gives its exit code.
    fn stop(mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn get(to: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The frame of a hello, as request 1.
fn hello() -> Vec<u8> {
    let hello = wire::message::Hello {
        cluster: [0; 16],
        client: [0; 16],
        engine: 0,
        version_min: 1,
        version_max: 1,
        name: b"test",
        credentials: b"",
    };
    let mut frame = Vec::new();
    let header = wire::Header::new(wire::message::Hello::KIND, 1);
    wire::frame(&mut frame, &header, |b| hello.encode(b));
    frame
}

/// Sends a hello and one more request by the wire, and gives the answer to the latter.
fn ask(to: SocketAddr, kind: wire::Kind, body: &[u8]) -> (wire::Header, Vec<u8>) {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut out = hello();
    wire::frame(&mut out, &wire::Header::new(kind, 2), |b| b.extend_from_slice(body));
    stream.write_all(&out).unwrap();
    loop {
        let mut bytes = vec![0; wire::HEADER_BYTES];
        stream.read_exact(&mut bytes).unwrap();
        let (_, length) = wire::Header::parse(bytes.first_chunk().unwrap()).unwrap();
        bytes.resize(wire::HEADER_BYTES + length, 0);
        stream.read_exact(&mut bytes[wire::HEADER_BYTES..]).unwrap();
        let frame = wire::split(&bytes, usize::MAX).unwrap().unwrap();
        if frame.header.request == 2 {
            return (frame.header, frame.body.to_vec());
        }
    }
}

/// What a refused start says: one line with an error number, and its exit code.
fn refusal(arguments: &[&str]) -> (String, Option<i32>) {
    let Output { status, stderr, .. } = tercetd(arguments).output().unwrap();
    let text = String::from_utf8(stderr).unwrap();
    let line = text.lines().find(|line| line.starts_with("tercetd: ")).unwrap_or_default();
    (line.to_owned(), status.code())
}

#[test]
fn a_node_serves_refuses_a_second_owner_stops_in_order_and_starts_again_with_fewer_cores() {
    let place = Place::new("single");
    let dir = place.0.join("data");
    let [listen, http, other] = free();
    let mut node = Node::start(&dir, listen, http, &["--cores", "2", "--shards", "4"]);
    assert_eq!(node.wait_for("/readyz"), "ready\n");
    let first = node.status();
    assert_eq!(
        (&first["node"], &first["shards"], &first["ready"]),
        (&1.into(), &4.into(), &true.into())
    );
    let groups = first["groups"].as_array().unwrap();
    assert_eq!(groups.len(), 5);
    assert!(groups.iter().all(|g| g["role"] == "leader" && g["leader"] == 1), "{groups:?}");
    let metrics = node.wait_for("/metrics");
    assert!(metrics.contains("\ntercet_node_ready 1.0\n") && metrics.ends_with("# EOF\n"));

    let at = other.to_string();
    let (line, code) = refusal(&["--data-dir", dir.to_str().unwrap(), "--listen", &at]);
    let pid = format!("(pid {})", node.child.id());
    assert!(line.contains("E112 ") && line.contains(&pid), "{line}");
    assert_eq!(code, Some(73));

    assert_eq!(node.stop(), Some(0));
    let (line, code) = refusal(&["--data-dir", dir.to_str().unwrap(), "--node", "2"]);
    assert!(line.contains("E114 "), "{line}");
    assert_eq!(code, Some(73));

    let mut node = Node::start(&dir, listen, http, &["--cores", "1"]);
    node.wait_for("/readyz");
    let second = node.status();
    assert_eq!(second["cluster"], first["cluster"]);
    assert_eq!((&second["engines"], &second["threads"]), (&2.into(), &1.into()));
    assert_eq!(node.stop(), Some(0));
}

#[test]
fn a_status_frame_is_answered_with_the_document_of_get_status() {
    use wire::message::{Status, StatusReply};
    let place = Place::new("status");
    let [listen, http] = free();
    let more = ["--cores", "2", "--shards", "4", "--wal", "direct"];
    let mut node = Node::start(&place.0.join("data"), listen, http, &more);
    node.wait_for("/readyz");
    let (header, body) = ask(listen, Status::KIND, &[0; 4]);
    assert_eq!(header.kind, StatusReply::KIND);
    let framed = StatusReply::decode(&body).unwrap().json;
    let framed: serde_json::Value = serde_json::from_slice(framed).unwrap();
    let fetched = node.status();
    let keys = |document: &serde_json::Value| {
        document.as_object().unwrap().keys().cloned().collect::<Vec<_>>()
    };
    assert_eq!(keys(&framed), keys(&fetched));
    for same in ["node", "cluster", "incarnation", "pid", "listen", "ready", "shards", "config"] {
        assert_eq!(framed[same], fetched[same], "{same}");
    }
    assert_eq!(framed["groups"].as_array().unwrap().len(), 5);
    assert_eq!(node.stop(), Some(0));
}

#[test]
fn three_nodes_become_one_cluster_and_a_killed_one_comes_back() {
    let place = Place::new("three");
    let listens: [SocketAddr; 3] = free();
    let https: [SocketAddr; 3] = free();
    let peers: Vec<_> = (1..).zip(&listens).map(|(id, at)| format!("{id}={at}")).collect();
    let peers = peers.join(",");
    let start = |at: usize| {
        let id = (at + 1).to_string();
        let more = ["--node", &id, "--peers", &peers, "--cores", "1", "--shards", "3"];
        Node::start(&place.0.join(&id), listens[at], https[at], &more)
    };
    let mut nodes: Vec<Node> = (0..3).map(start).collect();
    let clusters: Vec<_> = nodes
        .iter_mut()
        .map(|node| {
            node.wait_for("/readyz");
            node.status()["cluster"].clone()
        })
        .collect();
    assert!(clusters.iter().all(|cluster| *cluster == clusters[0]), "{clusters:?}");

    // Dropping a node kills it with SIGKILL.
    drop(nodes.pop());
    nodes.push(start(2));
    nodes[2].wait_for("/readyz");
    assert_eq!(nodes[2].status()["cluster"], clusters[0]);
    for node in nodes {
        assert_eq!(node.stop(), Some(0));
    }
}

#[test]
fn a_start_that_can_not_be_is_refused_in_one_line() {
    let place = Place::new("refused");
    let file = place.0.join("file");
    std::fs::write(&file, "unknown-key = 1\n").unwrap();
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let held = held.local_addr().unwrap().to_string();
    let dir = place.0.join("data");
    let (file, dir) = (file.to_str().unwrap(), dir.to_str().unwrap());
    for (arguments, says, code) in [
        (vec!["--config", file], "E141 ", 78),
        (vec!["--node", "0"], "E142 ", 78),
        (vec!["--data-dir", file], "E110 ", 73),
        (vec!["--data-dir", dir, "--wal", "mapped", "--listen", &held], "E130 ", 69),
    ] {
        let (line, exit) = refusal(&arguments);
        assert!(line.contains(says), "{arguments:?}: {line}");
        assert_eq!(exit, Some(code), "{arguments:?}");
    }
}

/// A node that may open so many files.
fn start_with_files(files: u32, data_dir: &Path, listen: SocketAddr, http: SocketAddr) -> Command {
    let (listen, http) = (listen.to_string(), http.to_string());
    let mut command = Command::new("bash");
    let script = format!("ulimit -n {files}; exec \"$0\" \"$@\"");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_tercetd")]);
    command.args(["--data-dir", data_dir.to_str().unwrap(), "--listen", &listen, "--http", &http]);
    command.args(["--pin", "none", "--segment-size", "20MiB", "--cores", "1", "--engines", "1"]);
    command.stdin(Stdio::null());
    command
}

#[test]
fn a_node_that_may_open_few_files_refuses_clients_and_not_its_own_work() {
    let place = Place::new("files");
    let [listen, http] = free();
    let dir = place.0.join("data");
    let mut node = Node::spawn(start_with_files(400, &dir, listen, http), &dir, http);
    node.wait_for("/readyz");
    let open = || std::fs::read_dir(format!("/proc/{}/fd", node.child.id())).unwrap().count();
    let quiet = open();
    let hello = hello();
    let mut clients = Vec::new();
    let mut refused = 0;
    for _ in 0..500 {
        let mut stream = TcpStream::connect_timeout(&listen, Duration::from_secs(2)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&hello).unwrap();
        let mut answer = [0; wire::HEADER_BYTES];
        stream.read_exact(&mut answer).unwrap();
        let (header, _) = wire::Header::parse(&answer).unwrap();
        refused += u32::from(header.kind == wire::message::Error::KIND);
        clients.push(stream);
    }
    assert!(refused > 200, "{refused} of 500 were refused");
    assert!(open() < 400 - 64, "{} files are open, {quiet} without clients", open());
    node.wait_for("/readyz");
    node.wait_for("/status");
    drop(clients);
    assert_eq!(node.stop(), Some(0));
}

#[test]
fn a_node_that_may_open_hardly_any_files_says_so_and_does_not_start() {
    let place = Place::new("no-files");
    let [listen, http] = free();
    let mut command = start_with_files(140, &place.0.join("data"), listen, http);
    let Output { status, stderr, .. } = command.stdout(Stdio::piped()).output().unwrap();
    let text = String::from_utf8(stderr).unwrap();
    let line = text.lines().find(|line| line.starts_with("tercetd: ")).unwrap_or_default();
    assert!(line.contains("E308 ") && line.contains("ulimit -n"), "{text}");
    assert_eq!(status.code(), Some(71));
}
