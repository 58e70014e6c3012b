//! What one call costs in the core, without a socket: `cargo run --release -p client --example core_speed`.
//!
//! One session keeps a number of puts under way on one connection. Each is answered at once by hand, so the figure is
//! that of [`Core::submit`], of encoding the frame with its checksum, and of [`Core::on_frame`].

use client::core::{
    Again, Ask, Caller, Core, Event, LinkId, LockStep, Moment, Order, Outcome, Reply, SessionId,
    SessionKey, Settings,
};
use std::sync::Arc;
use std::time::{Duration, Instant};
use wire::message::{
    CachePut, Done, Expect, SessionClose, SessionOpen, Topology, TopologyReply, Welcome,
};
use wire::request::Facts;
use wire::topology::{Node, Placement, write_node, write_placement};
use wire::{Call, HEADER_BYTES, Header};

const VALUE: [u8; 128] = [7; 128];

/// A put of a line out of a table, or a session's end.
#[derive(Clone, Copy)]
enum Put {
    Line(&'static [u8]),
    Close(SessionId),
}

impl Ask for Put {
    fn facts(&self) -> &'static Facts {
        match self {
            Put::Line(_) => CachePut::FACTS,
            Put::Close(_) => SessionClose::FACTS,
        }
    }
    fn name(&self) -> &[u8] {
        match self {
            Put::Line(key) => key,
            Put::Close(_) => &[],
        }
    }
    fn wait_ms(&self) -> u32 {
        0
    }
    fn set_wait_ms(&mut self, _: u32) {}
    fn lock_step(&self) -> Option<LockStep> {
        None
    }
    fn bytes(&self) -> usize {
        self.name().len() + VALUE.len()
    }
    fn encode(&self, call: Call, out: &mut Vec<u8>) {
        match self {
            Put::Line(key) => {
                let (version, ttl_ms, expect) = (0, 0, Expect::Any);
                CachePut { call, version, ttl_ms, expect, key, value: &VALUE }.encode(out);
            }
            Put::Close(session) => SessionClose { session: *session }.encode(out),
        }
    }
    fn undo(&self, _: &Reply<'_>) -> Option<Put> {
        None
    }
    fn close_session(session: SessionId) -> Put {
        Put::Close(session)
    }
}

/// A core that knows a cluster of one node, and the connection to it.
fn connected() -> (Core<Put>, LinkId) {
    let settings = Settings {
        addresses: vec![Arc::from("node:1")],
        map: None,
        session_ttl: Duration::from_secs(600),
        ready_within: Duration::from_secs(1),
        lanes: 1,
        again: Again::IsSent,
        sessions: 1,
        resume: None,
        seed: [7; 16],
    };
    let now = Moment(0);
    let mut core = Core::new(now, settings);
    let Some(Event::Connect { link, .. }) = core.next_event() else { unreachable!() };
    let (node, engine, engines, shards) = (1, 0, 1, 1);
    let (credit_frames, credit_bytes, version) = (1_024, 4 << 20, 1);
    let welcome = Welcome {
        cluster: [1; 16],
        node,
        engine,
        engines,
        shards,
        epoch: 1,
        credit_frames,
        credit_bytes,
        version,
    };
    core.on_connected(now, link, &welcome);
    (core, link)
}

/// Answers all that was sent.
fn answer(core: &mut Core<Put>, now: Moment, link: LinkId, sent: &mut Vec<u8>, done: &[u8]) {
    sent.clear();
    while let Some(dirty) = core.next_to_send() {
        std::mem::swap(sent, core.bytes_of(dirty).expect("it is there"));
    }
    let mut rest = &sent[..];
    while let Some(head) = rest.first_chunk::<HEADER_BYTES>() {
        let (header, length) = Header::parse(head).expect("the core wrote it");
        rest = &rest[HEADER_BYTES + length..];
        let mut body = Vec::new();
        let (kind, body) = match header.kind {
            CachePut::KIND | SessionOpen::KIND => (Done::KIND, done),
            Topology::KIND => {
                let (mut nodes, mut placement) = (Vec::new(), Vec::new());
                let address = String::from("node:1");
                write_node(&Node { id: 1, engines: 1, address }, &mut nodes);
                write_placement(
                    &Placement { shard: 0, leader: 1, replicas: vec![1] },
                    &mut placement,
                );
                let (nodes, placement) = (&nodes, &placement);
                let reply =
                    TopologyReply { epoch: 1, cluster: [1; 16], shards: 1, nodes, placement };
                reply.encode(&mut body);
                (TopologyReply::KIND, &body[..])
            }
            kind => unreachable!("nothing of kind {kind:?} is asked"),
        };
        let finished = core.on_frame(now, link, &Header::new(kind, header.request), body);
        if let Some(finished) = finished {
            assert!(matches!(finished.outcome, Outcome::Done { .. }));
        }
    }
}

fn main() {
    let mut done = Vec::new();
    Done { token: 1, index: 1 }.encode(&mut done);
    let mut arguments = std::env::args().skip(1).map(|it| it.parse::<u64>().expect("a number"));
    let calls = arguments.next().unwrap_or(4_000_000);
    let depths: Vec<u64> = arguments.collect();
    for depth in if depths.is_empty() { vec![1, 16, 128] } else { depths } {
        let (mut core, link) = connected();
        let mut sent = Vec::new();
        answer(&mut core, Moment(0), link, &mut sent, &done);
        let begun = Instant::now();
        for round in 0..calls / depth {
            let now = Moment(round * 1_000);
            for _ in 0..depth {
                core.submit(
                    now,
                    Order {
                        ask: Put::Line(b"bench/line-0000001"),
                        session: SessionKey(0),
                        shard: Some(0),
                        limit: Duration::from_secs(5),
                        bound: None,
                        caller: Caller::Waits,
                    },
                );
            }
            answer(&mut core, now, link, &mut sent, &done);
            if core.wake_at() <= now {
                core.tick(now);
            }
            while core.next_event().is_some() {}
        }
        let each = begun.elapsed().as_nanos() as f64 / calls as f64;
        println!("{depth:4} under way: {each:.0} ns a call");
    }
}
