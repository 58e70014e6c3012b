//! `tercet-cost`: makes operations of one kind on one engine, for callgrind to count. See `make cost`.

use clap::{Parser, ValueEnum};
use engine::effects::Effects;
use engine::engine::{Disk, Engine, EngineConfig, Founder, Input};
use engine::ids::{ClusterId, ConnId, Incarnation, NodeId};
use engine::level::{Kinds, Level};
use engine::raft::ReadMode;
use engine::secret::Secret;
use engine::time::{Duration, Time};
use wire::header::PROTOCOL_MAX;
use wire::limits::FRAME_BYTES_MAX;
use wire::message::*;
use wire::{Call, Header, Kind};

/// Makes operations on one engine that leads alone, and whose disk works at once.
///
/// Requests are encoded, split, taken in, logged, applied and answered as in a node, without its sockets and disk.
/// Two runs that differ in `--rounds` alone differ by what the rounds between them cost.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// What each operation is.
    #[arg(long)]
    operation: Operation,
    /// How many operations a turn takes in.
    #[arg(long)]
    batch: u64,
    /// How many turns there are of each of an operation's steps.
    #[arg(long)]
    rounds: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Operation {
    /// Writes a line of 128 bytes.
    Put,
    /// Reads one.
    Get,
    /// Acquires a lock and releases it.
    Lock,
    /// Pushes a message of 128 bytes, pops it and acknowledges it.
    Queue,
}

/// Clients, each with a connection and a session.
const CLIENTS: u64 = 64;
/// How many operations in a row are the same client's: what it has under way at once.
const DEPTH: u64 = 16;
/// Names that operations go round.
const NAMES: u64 = 4_096;
const SEGMENT_BYTES: u64 = 64 << 20;
const PAYLOAD: [u8; 128] = [7; 128];

struct Node {
    engine: Engine,
    effects: Box<Effects>,
    now: Time,
    /// By client: the sequence of its last call.
    sequences: Vec<u64>,
    frame: Vec<u8>,
}

fn main() {
    let Args { operation, batch, rounds } = Args::parse();
    let mut node = Node::new();
    for number in 0..NAMES {
        node.put(number);
    }
    node.answers();
    for round in 0..rounds {
        let numbers = round * batch..(round + 1) * batch;
        match operation {
            Operation::Put => numbers.for_each(|number| node.put(number)),
            Operation::Get => numbers.for_each(|number| node.get(number)),
            Operation::Lock => {
                numbers.clone().for_each(|number| node.acquire(number));
                let fences: Vec<u64> = node.answers().iter().map(token).collect();
                assert_eq!(fences.len() as u64, batch, "each lock is granted");
                numbers.zip(fences).for_each(|(number, fence)| node.release(number, fence));
            }
            Operation::Queue => {
                numbers.clone().for_each(|number| node.push(number));
                node.answers();
                numbers.clone().for_each(|number| node.pop(number));
                let taken: Vec<(u64, u32)> = node.answers().iter().map(delivery).collect();
                assert_eq!(taken.len() as u64, batch, "each message is delivered");
                numbers.zip(taken).for_each(|(number, message)| node.ack(number, message));
            }
        }
        assert_eq!(node.answers().len() as u64, batch, "each call is answered");
    }
}

impl Node {
    fn new() -> Node {
        let blank = vec![0; usize::try_from(SEGMENT_BYTES).expect("it is small")];
        let segments: [(u32, &[u8]); 2] = [(0, &blank), (1, &blank)];
        let disk = Disk { segments: &segments, witness: [None; 2], snapshot: &mut |_, _, _| false };
        let (now, mut effects) = (Time(1_000_000_000), Box::<Effects>::default());
        let engine = Engine::open(config(), now, disk, &mut effects).expect("the disk is blank");
        let sequences = vec![0; CLIENTS as usize];
        let mut node = Node { engine, effects, now, sequences, frame: Vec::new() };
        for _ in 0..100 {
            node.now = node.now + Duration::from_millis(10);
            node.engine.on(node.now, Input::Tick, &mut node.effects);
            node.answers();
        }
        for client in 0..CLIENTS {
            let number = client * DEPTH;
            let conn = conn(number);
            node.engine.on(
                node.now,
                Input::Opened { conn, request: 0, version: PROTOCOL_MAX },
                &mut node.effects,
            );
            let open = SessionOpen { session: session(number), ttl_ms: 600_000 };
            node.send(number, SessionOpen::KIND, |b| open.encode(b));
        }
        node.answers();
        node
    }

    fn send(&mut self, number: u64, kind: Kind, body: impl FnOnce(&mut Vec<u8>)) {
        self.frame.clear();
        wire::frame(&mut self.frame, &Header::new(kind, number), body);
        let frame = wire::split(&self.frame, FRAME_BYTES_MAX);
        let frame = frame.expect("it was encoded").expect("whole");
        let (header, body) = (frame.header, frame.body);
        let input = Input::Frame { conn: conn(number), header, body };
        self.engine.on(self.now, input, &mut self.effects);
    }

    /// The session of an operation's client, and the number of its next call.
    fn stamp(&mut self, number: u64) -> ([u8; 16], u64) {
        let sequence = &mut self.sequences[client(number) as usize];
        *sequence += 1;
        (session(number), *sequence)
    }

    fn put(&mut self, number: u64) {
        let (session, sequence) = self.stamp(number);
        let (answered_below, version, ttl_ms, expect) = (sequence, 0, 0, Expect::Any);
        let (key, value) = (&name("cache", number)[..], &PAYLOAD[..]);
        let put = CachePut {
            call: Call { session, sequence, answered_below },
            version,
            ttl_ms,
            expect,
            key,
            value,
        };
        self.send(number, CachePut::KIND, |b| put.encode(b));
    }

    fn get(&mut self, number: u64) {
        let key = &name("cache", number)[..];
        self.send(number, CacheGet::KIND, |b| CacheGet { key }.encode(b));
    }

    fn acquire(&mut self, number: u64) {
        let (session, sequence) = self.stamp(number);
        let (answered_below, wait_ms, lease_ms, mode) = (sequence, 0, 0, LockMode::Exclusive);
        let name = &name("locks", number)[..];
        let acquire = LockAcquire {
            call: Call { session, sequence, answered_below },
            wait_ms,
            lease_ms,
            mode,
            name,
        };
        self.send(number, LockAcquire::KIND, |b| acquire.encode(b));
    }

    fn release(&mut self, number: u64, fence: u64) {
        let (session, sequence) = self.stamp(number);
        let name = &name("locks", number)[..];
        let release =
            LockRelease { call: Call { session, sequence, answered_below: sequence }, fence, name };
        self.send(number, LockRelease::KIND, |b| release.encode(b));
    }

    fn push(&mut self, number: u64) {
        let (session, sequence) = self.stamp(number);
        let (answered_below, priority, name) = (sequence, 0, &name("queue", number % 64)[..]);
        let push = QueuePush {
            call: Call { session, sequence, answered_below },
            priority,
            name,
            payload: &PAYLOAD,
        };
        self.send(number, QueuePush::KIND, |b| push.encode(b));
    }

    fn pop(&mut self, number: u64) {
        let (session, sequence) = self.stamp(number);
        let (answered_below, wait_ms, visibility_ms) = (sequence, 0, 30_000);
        let name = &name("queue", number % 64)[..];
        let pop = QueuePop {
            call: Call { session, sequence, answered_below },
            wait_ms,
            visibility_ms,
            name,
        };
        self.send(number, QueuePop::KIND, |b| pop.encode(b));
    }

    fn ack(&mut self, number: u64, (id, delivery): (u64, u32)) {
        let (session, sequence) = self.stamp(number);
        let (answered_below, name) = (sequence, &name("queue", number % 64)[..]);
        let ack = QueueAck { call: Call { session, sequence, answered_below }, id, delivery, name };
        self.send(number, QueueAck::KIND, |b| ack.encode(b));
    }

    /// Ends the turn, with all that follows from it, and gives what was answered, by request.
    fn answers(&mut self) -> Vec<(u64, Vec<u8>)> {
        self.now = self.now + Duration::from_micros(100);
        loop {
            self.engine.end_turn(self.now, &mut self.effects);
            for slot in std::mem::take(&mut self.effects.segments) {
                self.engine.on(self.now, Input::SegmentReady { slot }, &mut self.effects);
            }
            let Some(write) = self.effects.write.take() else { break };
            let synced = Input::Synced { position: write.position };
            self.engine.on(self.now, synced, &mut self.effects);
        }
        let mut answers = Vec::new();
        self.effects.clients.drain(|_, bytes| {
            let mut bytes = &bytes[..];
            while let Some(frame) = wire::split(bytes, FRAME_BYTES_MAX).expect("frames") {
                bytes = &bytes[frame.used..];
                assert_ne!(frame.header.kind, Error::KIND, "nothing is refused");
                answers.push((frame.header.request, frame.body.to_vec()));
                if bytes.is_empty() {
                    break;
                }
            }
        });
        answers.sort_by_key(|(request, _)| *request);
        answers
    }
}

fn token((_, body): &(u64, Vec<u8>)) -> u64 {
    Done::decode(body).expect("the call is done").token
}

fn delivery((_, body): &(u64, Vec<u8>)) -> (u64, u32) {
    let delivery = Delivery::decode(body).expect("a message is delivered");
    (delivery.id, delivery.delivery)
}

/// Whose operation it is.
fn client(number: u64) -> u64 {
    number / DEPTH % CLIENTS
}

fn conn(number: u64) -> ConnId {
    ConnId { index: client(number) as u32, generation: 1 }
}

fn session(number: u64) -> [u8; 16] {
    (client(number) as u128 + 1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
        .to_le_bytes()
}

fn name(namespace: &str, number: u64) -> Vec<u8> {
    format!("{namespace}/{:08}", number % NAMES).into_bytes()
}

fn config() -> EngineConfig {
    let incarnation = Incarnation([1; 16]);
    EngineConfig {
        cluster: ClusterId([7; 16]),
        node: NodeId(1),
        engine: 0,
        engines: 1,
        shards: 1,
        replication: 3,
        founders: vec![Founder { node: NodeId(1), incarnation, address: "node:7400".into() }],
        nodes: Vec::new(),
        incarnation,
        seed: 1,
        secret: Secret::new([1; 16]),
        election_timeout_min: Duration::from_millis(150),
        election_timeout_max: Duration::from_millis(300),
        heartbeat: Duration::from_millis(50),
        level_max: Level::NEWEST,
        kinds: Kinds::REAL,
        balance_after: Duration::from_secs(5),
        reads: ReadMode::Lease,
        segment_bytes: SEGMENT_BYTES,
        segments_max: 12,
        cache_bytes_max: 64 << 20,
    }
}
