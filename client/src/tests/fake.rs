//! A small cluster that speaks the wire over TCP: every node shares one memory, so that a write is
//! where its leader is, and a rule may say what happens to a frame instead.

#[path = "fake/backups.rs"]
pub mod backups;
#[path = "fake/nodes.rs"]
mod nodes;

use backups::Kept;
pub use nodes::Nodes;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use wire::limits::FRAME_BYTES_MAX;
use wire::message::*;
use wire::topology::{Node, Placement, write_node, write_placement};
use wire::{Code, Header, Kind, Request};

/// What happens to a frame.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Act {
    /// What a good node does.
    Serve,
    /// Nothing at all.
    Swallow,
    /// The connection is closed before it is applied.
    Close,
    /// It is applied, and the connection closed instead of an answer.
    ApplyAndClose,
    /// It is applied and answered later.
    Late(Duration),
    /// It is refused.
    Refuse { code: Code, retry_ms: u32, node: u32 },
}

pub fn refuse(code: Code) -> Act {
    Act::Refuse { code, retry_ms: 0, node: 0 }
}

/// A frame that a node saw.
#[derive(Clone, Debug)]
pub struct Seen {
    pub node: u32,
    pub kind: Kind,
    pub header: Header,
    pub session: [u8; 16],
    pub sequence: u64,
    pub answered_below: u64,
}

/// Shard, session, sequence.
type CallKey = (u32, [u8; 16], u64);
type Rule = Box<dyn FnMut(&Seen) -> Act + Send>;

#[derive(Default)]
pub struct Memory {
    pub seen: Vec<Seen>,
    pub leaders: Vec<u32>,
    /// Sessions by shard.
    pub open: BTreeSet<(u32, [u8; 16])>,
    pub ended: BTreeSet<(u32, [u8; 16])>,
    replies: HashMap<CallKey, (Kind, Vec<u8>)>,
    /// How often each (shard, session, sequence) was applied.
    pub applied: BTreeMap<CallKey, u32>,
    pub lines: HashMap<Vec<u8>, (u64, Vec<u8>)>,
    pub queues: HashMap<Vec<u8>, VecDeque<(u64, Vec<u8>)>>,
    pub released: Vec<u64>,
    pub nacked: Vec<u64>,
    pub acked: Vec<u64>,
    pub nodes: Nodes,
    pub backups: Kept,
    token: u64,
    streams: Vec<(u32, TcpStream)>,
}

pub struct Fake {
    pub memory: Arc<Mutex<Memory>>,
    rule: Arc<Mutex<Rule>>,
    addresses: Vec<String>,
    pub shards: u32,
    stopped: Arc<Mutex<BTreeSet<u32>>>,
}

impl Fake {
    /// A cluster of `nodes` nodes; node 1 leads every shard.
    pub fn new(nodes: usize, shards: u32) -> Arc<Fake> {
        let listeners: Vec<TcpListener> =
            (0..nodes).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses = listeners.iter().map(|l| l.local_addr().unwrap().to_string()).collect();
        let memory = Memory { leaders: vec![1; shards as usize], ..Memory::default() };
        let fake = Arc::new(Fake {
            memory: Arc::new(Mutex::new(memory)),
            rule: Arc::new(Mutex::new(Box::new(|_| Act::Serve))),
            addresses,
            shards,
            stopped: Arc::default(),
        });
        for (at, listener) in listeners.into_iter().enumerate() {
            let fake = Arc::clone(&fake);
            let node = u32::try_from(at).unwrap() + 1;
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    if fake.stopped.lock().unwrap().contains(&node) {
                        continue;
                    }
                    let twin = stream.try_clone().unwrap();
                    fake.memory.lock().unwrap().streams.push((node, twin));
                    let fake = Arc::clone(&fake);
                    std::thread::spawn(move || fake.serve(node, stream));
                }
            });
        }
        fake
    }

    pub fn addresses(&self) -> Vec<String> {
        self.addresses.clone()
    }

    /// From now on `rule` says what happens to each frame after the hello.
    pub fn rule(&self, rule: impl FnMut(&Seen) -> Act + Send + 'static) {
        *self.rule.lock().unwrap() = Box::new(rule);
    }

    /// The first frame of `kind` meets `act`, all else is served.
    pub fn once(&self, kind: Kind, act: Act) {
        let mut left = 1;
        self.rule(move |seen| {
            if seen.kind == kind && left > 0 {
                left -= 1;
                return act;
            }
            Act::Serve
        });
    }

    /// A node closes its connections and takes no more; `leaders` go to another one.
    pub fn stop(&self, node: u32, heir: u32) {
        self.stopped.lock().unwrap().insert(node);
        let mut memory = self.memory.lock().unwrap();
        for leader in memory.leaders.iter_mut().filter(|l| **l == node) {
            *leader = heir;
        }
        for (_, stream) in memory.streams.iter().filter(|(n, _)| *n == node) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Sets every leader.
    pub fn lead(&self, node: u32) {
        self.memory.lock().unwrap().leaders.fill(node);
    }

    pub fn seen(&self, kind: Kind) -> Vec<Seen> {
        let memory = self.memory.lock().unwrap();
        memory.seen.iter().filter(|s| s.kind == kind).cloned().collect()
    }

    pub fn nothing_was_applied_twice(&self) {
        let memory = self.memory.lock().unwrap();
        assert!(memory.applied.values().all(|n| *n == 1), "{:?}", memory.applied);
    }

    fn serve(&self, node: u32, mut stream: TcpStream) {
        let mut bytes = Vec::new();
        let mut piece = [0; 65536];
        loop {
            while let Some(frame) = wire::split(&bytes, FRAME_BYTES_MAX).unwrap() {
                let (header, body, used) = (frame.header, frame.body.to_vec(), frame.used);
                bytes.drain(..used);
                if !self.on(node, &mut stream, header, &body) {
                    let _ = stream.shutdown(Shutdown::Both);
                    return;
                }
            }
            match stream.read(&mut piece) {
                Ok(n) if n > 0 => bytes.extend_from_slice(&piece[..n]),
                _ => return,
            }
        }
    }

    fn on(&self, node: u32, stream: &mut TcpStream, header: Header, body: &[u8]) -> bool {
        let (session, sequence, answered_below) = call_of(header.kind, body);
        let seen = Seen { node, kind: header.kind, header, session, sequence, answered_below };
        let act = match header.kind {
            Hello::KIND => Act::Serve,
            _ => (self.rule.lock().unwrap())(&seen),
        };
        self.memory.lock().unwrap().seen.push(seen);
        match act {
            Act::Serve => {
                let (kind, answer) = self.answer(node, header, body);
                send(stream, header.request, kind, &answer)
            }
            Act::Swallow => true,
            Act::Close => false,
            Act::ApplyAndClose => {
                self.answer(node, header, body);
                false
            }
            Act::Late(after) => {
                let (kind, answer) = self.answer(node, header, body);
                let mut stream = stream.try_clone().unwrap();
                std::thread::spawn(move || {
                    std::thread::sleep(after);
                    send(&mut stream, header.request, kind, &answer);
                });
                true
            }
            Act::Refuse { code, retry_ms, node } => {
                let (kind, answer) = refusal(code, retry_ms, node);
                send(stream, header.request, kind, &answer)
            }
        }
    }

    fn answer(&self, node: u32, header: Header, body: &[u8]) -> (Kind, Vec<u8>) {
        let mut memory = self.memory.lock().unwrap();
        if let Some(answer) = memory.on_nodes(node, header.kind, body, &self.addresses) {
            return answer;
        }
        if let Some(answer) = memory.on_backup(node, header.kind, body) {
            return answer;
        }
        let mut out = Vec::new();
        match header.kind {
            Hello::KIND => {
                let hello = Hello::decode(body).unwrap();
                let welcome = Welcome {
                    cluster: [7; 16],
                    node,
                    engine: hello.engine,
                    engines: 1,
                    shards: self.shards,
                    epoch: 1,
                    credit_frames: 512,
                    credit_bytes: 1 << 20,
                    version: 1,
                };
                welcome.encode(&mut out);
                return (Welcome::KIND, out);
            }
            Topology::KIND => return self.topology(&memory),
            Heartbeat::KIND => {
                let session = Heartbeat::decode(body).unwrap().session;
                let leads = |shard: &u32| memory.leaders[*shard as usize] == node;
                let open = memory.open.iter().filter(|(_, s)| *s == session);
                let shards: Vec<u8> = open
                    .map(|(shard, _)| *shard)
                    .filter(leads)
                    .flat_map(|shard| shard.to_le_bytes())
                    .collect();
                Alive { shards: &shards }.encode(&mut out);
                return (Alive::KIND, out);
            }
            _ => {}
        }
        let shard = header.shard;
        let leader = memory.leaders[shard as usize];
        if leader != node {
            return refusal(Code::NotLeader, 0, leader);
        }
        memory.apply(shard, header.kind, body)
    }

    fn topology(&self, memory: &Memory) -> (Kind, Vec<u8>) {
        let (mut nodes, mut placement, mut out) = (Vec::new(), Vec::new(), Vec::new());
        for (id, address) in (1..).zip(&self.addresses) {
            if memory.nodes.outside.contains(&id) {
                continue;
            }
            write_node(&Node { id, engines: 1, address: address.clone() }, &mut nodes);
        }
        for (shard, leader) in (0..).zip(&memory.leaders) {
            let replicas = vec![1, 2, 3];
            write_placement(&Placement { shard, leader: *leader, replicas }, &mut placement);
        }
        let reply = TopologyReply {
            epoch: memory.nodes.epoch(),
            cluster: [7; 16],
            shards: self.shards,
            nodes: &nodes,
            placement: &placement,
        };
        reply.encode(&mut out);
        (TopologyReply::KIND, out)
    }
}

impl Memory {
    /// How much was released, acknowledged and given back.
    pub fn given_back(&self) -> usize {
        self.released.len() + self.acked.len() + self.nacked.len()
    }

    fn apply(&mut self, shard: u32, kind: Kind, body: &[u8]) -> (Kind, Vec<u8>) {
        match kind {
            SessionOpen::KIND => {
                let session = SessionOpen::decode(body).unwrap().session;
                if self.ended.contains(&(shard, session)) {
                    return refusal(Code::SessionUnknown, 0, 0);
                }
                self.open.insert((shard, session));
                return done(0);
            }
            SessionClose::KIND => {
                let session = SessionClose::decode(body).unwrap().session;
                self.open.remove(&(shard, session));
                self.ended.insert((shard, session));
                return done(0);
            }
            CacheGet::KIND => {
                let get = CacheGet::decode(body).unwrap();
                let Some((version, value)) = self.lines.get(get.key) else {
                    return refusal(Code::KeyUnknown, 0, 0);
                };
                let mut out = Vec::new();
                Value { version: *version, value }.encode(&mut out);
                return (Value::KIND, out);
            }
            _ => {}
        }
        let (session, sequence, _) = call_of(kind, body);
        if !self.open.contains(&(shard, session)) {
            return refusal(Code::SessionUnknown, 0, 0);
        }
        let key = (shard, session, sequence);
        if let Some(reply) = self.replies.get(&key) {
            return reply.clone();
        }
        *self.applied.entry(key).or_default() += 1;
        let reply = self.change(kind, body);
        self.replies.insert(key, reply.clone());
        reply
    }

    fn change(&mut self, kind: Kind, body: &[u8]) -> (Kind, Vec<u8>) {
        self.token += 1;
        let token = self.token;
        match kind {
            LockRelease::KIND => {
                self.released.push(LockRelease::decode(body).unwrap().fence);
                done(0)
            }
            QueuePush::KIND => {
                let push = QueuePush::decode(body).unwrap();
                let queue = self.queues.entry(push.name.to_vec()).or_default();
                queue.push_back((token, push.payload.to_vec()));
                done(token)
            }
            QueuePop::KIND => {
                let pop = QueuePop::decode(body).unwrap();
                let queue = self.queues.entry(pop.name.to_vec()).or_default();
                let Some((id, payload)) = queue.pop_front() else {
                    return refusal(Code::QueueEmpty, 0, 0);
                };
                let mut out = Vec::new();
                Delivery { id, delivery: 1, priority: 128, payload: &payload }.encode(&mut out);
                (Delivery::KIND, out)
            }
            QueueNack::KIND => {
                self.nacked.push(QueueNack::decode(body).unwrap().id);
                done(0)
            }
            QueueAck::KIND => {
                self.acked.push(QueueAck::decode(body).unwrap().id);
                done(0)
            }
            CachePut::KIND => {
                let put = CachePut::decode(body).unwrap();
                let old = self.lines.get(put.key).map(|(version, _)| *version);
                let wrong = match put.expect {
                    Expect::Absent => old.is_some(),
                    Expect::Version => old != Some(put.version),
                    Expect::Any => false,
                };
                if wrong {
                    return refusal(Code::VersionMismatch, 0, 0);
                }
                self.lines.insert(put.key.to_vec(), (token, put.value.to_vec()));
                done(token)
            }
            CacheDelete::KIND => match self.lines.remove(CacheDelete::decode(body).unwrap().key) {
                Some((version, _)) => done(version),
                None => refusal(Code::KeyUnknown, 0, 0),
            },
            _ => done(token),
        }
    }
}

/// The session, sequence and answered-below that a body carries.
fn call_of(kind: Kind, body: &[u8]) -> ([u8; 16], u64, u64) {
    match Request::decode(kind, body) {
        Ok(Request::Session(
            SessionRequest::SessionOpen(SessionOpen { session, .. })
            | SessionRequest::SessionClose(SessionClose { session }),
        )) => (session, 0, 0),
        Ok(request) => request
            .call()
            .map_or(([0; 16], 0, 0), |call| (call.session, call.sequence, call.answered_below)),
        Err(_) => ([0; 16], 0, 0),
    }
}

fn done(token: u64) -> (Kind, Vec<u8>) {
    let mut out = Vec::new();
    Done { token, index: 0 }.encode(&mut out);
    (Done::KIND, out)
}

fn refusal(code: Code, retry_ms: u32, node: u32) -> (Kind, Vec<u8>) {
    let mut out = Vec::new();
    Error { code: code.number(), retry_ms, node, engine: 0, text: b"so says the fake" }
        .encode(&mut out);
    (Error::KIND, out)
}

fn send(stream: &mut TcpStream, request: u64, kind: Kind, body: &[u8]) -> bool {
    let mut out = Vec::new();
    wire::frame(&mut out, &Header::new(kind, request), |o| o.extend_from_slice(body));
    stream.write_all(&out).is_ok()
}
