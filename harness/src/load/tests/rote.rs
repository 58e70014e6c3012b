//! A node that answers by rote: it remembers replies, messages and lines, and grants every lock. It
//! asserts what a client owes a node, and misbehaves as it is told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use wire::message::*;
use wire::topology::{Placement, write_node, write_placement};
use wire::{Code, Header, Kind, Request};

const SHARDS: u32 = 3;

/// What the node does wrong, on one call in so many.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Misdeed {
    None,
    /// Carries the call out and closes the connection.
    CloseEvery(u64),
    BusyEvery(u64),
    NotLeaderEvery(u64),
    EndSessionEvery(u64),
    /// Acknowledges a push and forgets it.
    LoseEvery(u64),
    /// Answers a get with the line's first version.
    StaleEvery(u64),
    /// Answers nothing for 60 ms.
    StallEvery(u64),
}

/// What is left in the node, and how much it answered from memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Left {
    pub sessions: usize,
    pub held: usize,
    pub messages: usize,
    pub replayed: u64,
}

type Reply = (Kind, Vec<u8>);

#[derive(Default)]
struct State {
    calls: u64,
    token: u64,
    sessions: BTreeSet<[u8; 16]>,
    replies: BTreeMap<([u8; 16], u64), Reply>,
    held: BTreeSet<(Vec<u8>, u64)>,
    ready: BTreeMap<Vec<u8>, VecDeque<(u64, Vec<u8>)>>,
    flying: BTreeMap<u64, Vec<u8>>,
    lines: BTreeMap<Vec<u8>, Vec<(u64, Vec<u8>)>>,
    replayed: u64,
}

pub struct Node {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Node {
    pub fn start(misdeed: Misdeed) -> Node {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, shared) = (stream.unwrap(), Arc::clone(&shared));
                std::thread::spawn(move || serve(stream, address, &shared, misdeed));
            }
        });
        Node { address, state }
    }

    pub fn left(&self) -> Left {
        let state = self.state.lock().unwrap();
        let ready: usize = state.ready.values().map(VecDeque::len).sum();
        Left {
            sessions: state.sessions.len(),
            held: state.held.len(),
            messages: ready + state.flying.len(),
            replayed: state.replayed,
        }
    }
}

fn serve(mut stream: TcpStream, address: SocketAddr, state: &Mutex<State>, misdeed: Misdeed) {
    stream.set_nodelay(true).unwrap();
    let mut bytes = Vec::new();
    let mut some = vec![0; 65_536];
    loop {
        let Ok(got @ 1..) = stream.read(&mut some) else { return };
        bytes.extend_from_slice(&some[..got]);
        let mut out = Vec::new();
        let mut used = 0;
        while let Some(frame) = wire::split(&bytes[used..], wire::limits::FRAME_BYTES_MAX).unwrap()
        {
            used += frame.used;
            let mut state = state.lock().unwrap();
            let call = (0x20..0x80).contains(&frame.header.kind.0);
            state.calls += u64::from(call);
            let now = |every: u64| call && state.calls.is_multiple_of(every);
            let refused = match misdeed {
                Misdeed::BusyEvery(every) if now(every) => Some(Code::Busy),
                Misdeed::NotLeaderEvery(every) if now(every) => Some(Code::NotLeader),
                Misdeed::EndSessionEvery(every) if now(every) => Some(Code::SessionUnknown),
                _ => None,
            };
            let stall = matches!(misdeed, Misdeed::StallEvery(every) if now(every));
            let close = matches!(misdeed, Misdeed::CloseEvery(every) if now(every));
            let (kind, body) = match refused {
                Some(code) => error(code),
                None => state.answer(&frame.header, frame.body, address, misdeed),
            };
            if stall {
                // With the state in hand, so that every connection stalls.
                std::thread::sleep(Duration::from_millis(60));
            }
            drop(state);
            if close {
                return;
            }
            let header = Header::new(kind, frame.header.request);
            wire::frame(&mut out, &header, |out| out.extend_from_slice(&body));
        }
        bytes.drain(..used);
        if stream.write_all(&out).is_err() {
            return;
        }
    }
}

impl State {
    fn answer(&mut self, header: &Header, body: &[u8], at: SocketAddr, misdeed: Misdeed) -> Reply {
        match header.kind {
            Hello::KIND => encoded(Welcome::KIND, |out| {
                let (cluster, node, engine, engines) = ([1; 16], 1, 0, 1);
                let (credit_frames, credit_bytes) = (1024, 1 << 20);
                let (shards, epoch, version) = (SHARDS, 1, 1);
                let welcome = Welcome {
                    cluster,
                    node,
                    engine,
                    engines,
                    shards,
                    epoch,
                    credit_frames,
                    credit_bytes,
                    version,
                };
                welcome.encode(out);
            }),
            Topology::KIND => topology(at),
            Heartbeat::KIND => encoded(Alive::KIND, |out| Alive { shards: b"" }.encode(out)),
            SessionOpen::KIND => {
                self.sessions.insert(SessionOpen::decode(body).unwrap().session);
                done(0)
            }
            SessionClose::KIND => {
                self.sessions.remove(&SessionClose::decode(body).unwrap().session);
                done(0)
            }
            CacheGet::KIND => self.get(CacheGet::decode(body).unwrap().key, misdeed),
            kind => self.call(header, kind, body, misdeed),
        }
    }

    fn get(&mut self, key: &[u8], misdeed: Misdeed) -> Reply {
        let stale =
            matches!(misdeed, Misdeed::StaleEvery(every) if self.calls.is_multiple_of(every));
        let versions = self.lines.get(key);
        match versions.and_then(|all| if stale { all.first() } else { all.last() }) {
            Some((version, value)) => encoded(Value::KIND, |out| {
                Value { version: *version, value }.encode(out);
            }),
            None => error(Code::KeyUnknown),
        }
    }

    /// A call with a session and a sequence, answered from memory when it was answered before.
    fn call(&mut self, header: &Header, kind: Kind, body: &[u8], misdeed: Misdeed) -> Reply {
        let (session, sequence, answered_below, name) = call_of(kind, body);
        assert!(self.sessions.contains(&session), "a session is opened before it is used");
        assert_eq!(wire::name::shard(name, SHARDS), header.shard, "names live in their shard");
        assert!(sequence >= answered_below, "an answered call is not sent again");
        assert!(sequence - answered_below < wire::limits::WINDOW_REPLIES_MAX, "the window holds");
        if let Some(reply) = self.replies.get(&(session, sequence)) {
            self.replayed += 1;
            return reply.clone();
        }
        let reply = self.apply(kind, body, misdeed);
        self.replies.insert((session, sequence), reply.clone());
        reply
    }

    fn apply(&mut self, kind: Kind, body: &[u8], misdeed: Misdeed) -> Reply {
        self.token += 1;
        match kind {
            LockAcquire::KIND => {
                let ask = LockAcquire::decode(body).unwrap();
                self.held.insert((ask.name.to_vec(), self.token));
                done(self.token)
            }
            LockRelease::KIND => {
                let ask = LockRelease::decode(body).unwrap();
                let held = self.held.remove(&(ask.name.to_vec(), ask.fence));
                assert!(held, "what is released was granted");
                done(0)
            }
            QueuePush::KIND => {
                let ask = QueuePush::decode(body).unwrap();
                let lost = matches!(misdeed, Misdeed::LoseEvery(n) if self.calls.is_multiple_of(n));
                if !lost {
                    let ready = self.ready.entry(ask.name.to_vec()).or_default();
                    ready.push_back((self.token, ask.payload.to_vec()));
                }
                done(self.token)
            }
            QueuePop::KIND => {
                let ask = QueuePop::decode(body).unwrap();
                let ready = self.ready.entry(ask.name.to_vec()).or_default();
                let Some((id, payload)) = ready.pop_front() else {
                    return error(Code::QueueEmpty);
                };
                self.flying.insert(id, payload.clone());
                encoded(Delivery::KIND, |out| {
                    Delivery { id, delivery: 1, priority: 128, payload: &payload }.encode(out);
                })
            }
            QueueAck::KIND => {
                let gone = self.flying.remove(&QueueAck::decode(body).unwrap().id);
                assert!(gone.is_some(), "what is acknowledged was delivered");
                done(0)
            }
            CachePut::KIND => {
                let ask = CachePut::decode(body).unwrap();
                let versions = self.lines.entry(ask.key.to_vec()).or_default();
                versions.push((self.token, ask.value.to_vec()));
                done(self.token)
            }
            kind => panic!("kind {:#x} is not sent by a load", kind.0),
        }
    }
}

fn call_of(kind: Kind, body: &[u8]) -> ([u8; 16], u64, u64, &[u8]) {
    let request = Request::decode(kind, body).expect("a load sends what is right");
    let (call, name) = request.call().zip(request.name()).expect("a load sends calls");
    (call.session, call.sequence, call.answered_below, name)
}

fn topology(at: SocketAddr) -> Reply {
    let (mut nodes, mut placement) = (Vec::new(), Vec::new());
    write_node(&wire::topology::Node { id: 1, engines: 1, address: at.to_string() }, &mut nodes);
    for shard in 0..SHARDS {
        write_placement(&Placement { shard, leader: 1, replicas: vec![1] }, &mut placement);
    }
    let (epoch, cluster, shards) = (1, [1; 16], SHARDS);
    encoded(TopologyReply::KIND, |out| {
        TopologyReply { epoch, cluster, shards, nodes: &nodes, placement: &placement }.encode(out);
    })
}

fn done(token: u64) -> Reply {
    encoded(Done::KIND, |out| Done { token, index: 1 }.encode(out))
}

fn error(code: Code) -> Reply {
    encoded(Error::KIND, |out| {
        let (code, retry_ms, node, engine) = (code.number(), 1, 0, 0);
        Error { code, retry_ms, node, engine, text: b"as told" }.encode(out);
    })
}

fn encoded(kind: Kind, body: impl FnOnce(&mut Vec<u8>)) -> Reply {
    let mut bytes = Vec::new();
    body(&mut bytes);
    (kind, bytes)
}
