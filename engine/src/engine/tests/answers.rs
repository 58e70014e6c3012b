//! Answers that are large, many of them, and clients that do not read: bounded, and nobody loses one.

use super::*;
use crate::limits::{
    ANSWER_SMALL_BYTES_MAX, ANSWERS_CLIENT_BYTES_MAX, ANSWERS_TURN_BYTES_MAX, CREDIT_BYTES,
};
use wire::header::PROTOCOL_MAX;
use wire::limits::VALUE_BYTES_MAX;
use wire::message::{Delivery, QueuePop, QueuePush, Status, StatusReply, Topology, TopologyReply};

const OTHERS: u32 = 20;

fn other(index: u32) -> ConnId {
    ConnId { index, generation: 7 }
}

/// What one turn answered: bytes by connection, and the frames' kinds.
#[derive(Default)]
struct Turn {
    bytes: Vec<(u32, usize)>,
    kinds: Vec<Kind>,
}

impl Turn {
    fn of(&self, kind: Kind) -> usize {
        self.kinds.iter().filter(|of| **of == kind).count()
    }

    fn all(&self) -> usize {
        self.bytes.iter().map(|(_, bytes)| bytes).sum()
    }
}

impl Node {
    fn one_turn(&mut self) -> Turn {
        self.turn();
        let mut turn = Turn::default();
        self.effects.clients.drain(|index, bytes| {
            turn.bytes.push((index, bytes.len()));
            let mut left = &bytes[..];
            while !left.is_empty() {
                let frame = wire::split(left, FRAME_BYTES_MAX).unwrap().unwrap();
                turn.kinds.push(frame.header.kind);
                left = &left[frame.used..];
            }
        });
        turn
    }

    fn ask(&mut self, conn: ConnId, kind: Kind, body: impl FnOnce(&mut Vec<u8>)) {
        self.request += 1;
        let (mut bytes, header) = (Vec::new(), Header::new(kind, self.request));
        body(&mut bytes);
        self.engine.on(self.now, Input::Frame { conn, header, body: &bytes }, &mut self.effects);
    }

    fn get(&mut self, conn: ConnId) {
        self.ask(conn, CacheGet::KIND, |b| CacheGet { key: b"key" }.encode(b));
    }

    fn on(&mut self, input: Input<'_>) {
        self.engine.on(self.now, input, &mut self.effects);
    }

    /// A node that keeps a line as large as one may be.
    fn with_a_large_line() -> Node {
        let mut node = Node::new();
        node.put(node.now, 1, 0, &[7; VALUE_BYTES_MAX]);
        assert_eq!(node.codes(), [None]);
        node
    }
}

#[test]
fn large_answers_within_the_credit_come_over_many_turns_and_all_come() {
    let mut node = Node::with_a_large_line();
    (0..CREDIT_FRAMES).for_each(|_| node.get(CONN));
    let mut served = 0;
    while served < CREDIT_FRAMES as usize {
        node.ask(CONN, Heartbeat::KIND, |b| Heartbeat { session: SESSION }.encode(b));
        let turn = node.one_turn();
        assert_eq!(turn.of(Alive::KIND), 1, "a sign of life waits for nothing");
        assert!(turn.of(Value::KIND) > 0, "{served} were served, and the rest is stuck");
        assert!(turn.all() <= ANSWERS_CLIENT_BYTES_MAX + 2 * FRAME_BYTES_MAX);
        served += turn.of(Value::KIND);
        assert_eq!(node.engine.wake_at() <= node.now, served < CREDIT_FRAMES as usize);
    }
    assert_eq!(node.one_turn().kinds, [], "each is answered once");
    node.get(CONN);
    assert_eq!(node.one_turn().of(Value::KIND), 1, "the credit came back");
}

#[test]
fn many_clients_together_get_no_more_in_a_turn_than_a_turn_answers() {
    let mut node = Node::with_a_large_line();
    for index in 1..=OTHERS {
        node.on(Input::Opened { conn: other(index), request: 1, version: PROTOCOL_MAX });
        (0..3).for_each(|_| node.get(other(index)));
    }
    let mut served = vec![0; OTHERS as usize + 1];
    for _ in 0..3 * OTHERS {
        let turn = node.one_turn();
        assert!(turn.all() <= ANSWERS_TURN_BYTES_MAX + 2 * FRAME_BYTES_MAX);
        turn.bytes.iter().for_each(|(index, bytes)| served[*index as usize] += bytes);
    }
    assert!(served[1..].iter().all(|bytes| *bytes > 3 * VALUE_BYTES_MAX), "{served:?}");
}

#[test]
fn whoever_does_not_read_gets_nothing_large_until_it_has_and_others_do() {
    let mut node = Node::with_a_large_line();
    node.on(Input::Opened { conn: other(1), request: 1, version: PROTOCOL_MAX });
    node.on(Input::Filled { conn: CONN });
    (0..10).for_each(|_| node.get(CONN));
    node.get(other(1));
    node.ask(CONN, CacheGet::KIND, |b| CacheGet { key: b"none" }.encode(b));
    let turn = node.one_turn();
    assert_eq!((turn.of(Value::KIND), turn.of(Error::KIND)), (1, 1), "another's, and a small one");
    assert!(node.engine.wake_at() > node.now, "nothing is done while it does not read");
    node.pass(Duration::from_secs(5));
    assert_eq!(node.one_turn().kinds, []);

    node.on(Input::Drained { conn: CONN });
    let mut served = 0;
    for _ in 0..10 {
        served += node.one_turn().of(Value::KIND);
    }
    assert_eq!(served, 10);
}

#[test]
fn what_waits_for_a_client_that_is_gone_is_forgotten() {
    let mut node = Node::with_a_large_line();
    node.on(Input::Filled { conn: CONN });
    (0..10).for_each(|_| node.get(CONN));
    node.one_turn();
    assert!(node.engine.shards.iter().any(|shard| shard.has_aside()));
    node.on(Input::Closed { conn: CONN });
    assert!(!node.engine.shards.iter().any(|shard| shard.has_aside()));
    // Nor does a read wait that was to be answered when it went.
    node.on(Input::Opened { conn: other(1), request: 1, version: PROTOCOL_MAX });
    node.on(Input::Filled { conn: other(1) });
    node.get(other(1));
    node.on(Input::Closed { conn: other(1) });
    node.one_turn();
    assert!(!node.engine.shards.iter().any(|shard| shard.has_aside()));
    // The next one at its place is not served in its stead.
    let next = ConnId { generation: CONN.generation + 1, ..CONN };
    node.on(Input::Opened { conn: next, request: 1, version: PROTOCOL_MAX });
    node.on(Input::Drained { conn: CONN });
    assert_eq!(node.one_turn().of(Value::KIND), 0);
}

#[test]
fn while_too_much_waits_for_all_nobody_gets_what_is_large() {
    let mut node = Node::with_a_large_line();
    node.on(Input::Opened { conn: other(1), request: 1, version: PROTOCOL_MAX });
    node.on(Input::Crowded);
    node.get(CONN);
    node.get(other(1));
    node.ask(CONN, CacheGet::KIND, |b| CacheGet { key: b"none" }.encode(b));
    let turn = node.one_turn();
    assert_eq!((turn.of(Value::KIND), turn.of(Error::KIND)), (0, 1));
    node.on(Input::Eased);
    let served: usize = (0..2).map(|_| node.one_turn().of(Value::KIND)).sum();
    assert_eq!(served, 2);
}

#[test]
fn large_messages_that_many_pops_take_at_once_are_delivered_one_after_the_other() {
    let mut node = Node::new();
    const COUNT: u64 = 24;
    for sequence in 1..=COUNT {
        let payload = &[sequence as u8; VALUE_BYTES_MAX];
        let push = QueuePush {
            call: Call { session: SESSION, sequence, answered_below: 1 },
            priority: 0,
            name: b"queue",
            payload,
        };
        node.send(QueuePush::KIND, 0, |b| push.encode(b));
        assert_eq!(node.codes(), [None]);
    }
    for sequence in COUNT + 1..=2 * COUNT {
        let pop = QueuePop {
            call: Call { session: SESSION, sequence, answered_below: 1 },
            wait_ms: 0,
            visibility_ms: 60_000,
            name: b"queue",
        };
        node.send(QueuePop::KIND, 0, |b| pop.encode(b));
    }
    let mut delivered = 0;
    for _ in 0..COUNT {
        let turn = node.one_turn();
        assert!(turn.all() <= ANSWERS_CLIENT_BYTES_MAX + 2 * FRAME_BYTES_MAX);
        delivered += turn.of(Delivery::KIND) as u64;
    }
    assert_eq!(delivered, COUNT);
}

#[test]
fn a_topology_that_is_asked_for_without_end_is_refused_once_enough_is_told() {
    let mut node = Node::with(EngineConfig { shards: 512, ..config() });
    assert!(CREDIT_FRAMES as usize * 100 < CREDIT_BYTES as usize);
    (0..CREDIT_FRAMES).for_each(|_| {
        node.ask(CONN, Topology::KIND, |b| Topology { known: 0 }.encode(b));
    });
    let turn = node.one_turn();
    let (told, refused) = (turn.of(TopologyReply::KIND), turn.of(Error::KIND));
    assert_eq!(told + refused, CREDIT_FRAMES as usize);
    assert!(told > 0 && refused > 0, "{told} told, {refused} refused");
    assert!(turn.all() <= ANSWERS_TURN_BYTES_MAX);
    assert!(ANSWER_SMALL_BYTES_MAX < turn.all() / told, "it is large");
    node.ask(CONN, Topology::KIND, |b| Topology { known: 0 }.encode(b));
    assert_eq!(node.one_turn().of(TopologyReply::KIND), 1);
}

#[test]
fn the_node_s_state_is_refused_to_who_does_not_read_and_told_once_it_has() {
    let mut node = Node::with(EngineConfig { shards: 512, ..config() });
    let status = |node: &mut Node| {
        node.ask(CONN, Status::KIND, |b| Status { reserved: 0 }.encode(b));
        node.codes()
    };
    for (full, free) in [
        (Input::Filled { conn: CONN }, Input::Drained { conn: CONN }),
        (Input::Crowded, Input::Eased),
    ] {
        node.on(full);
        assert_eq!(status(&mut node), [Some(Code::Busy)]);
        assert_eq!(node.effects.report.take(), None, "nothing is gathered for it");
        node.on(free);
        assert_eq!(status(&mut node), []);
        assert_eq!(node.effects.report.take(), Some(ReportWanted));
        node.on(Input::Report { json: b"{}" });
        assert_eq!(node.one_turn().kinds, [StatusReply::KIND]);
    }
}
