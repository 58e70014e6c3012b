//! One node's engine by hand: what the protocol promises of credit, deadlines and status.

mod answers;
mod backup;
mod levels;
mod parcels;
mod pushes;
mod room;
mod script;
mod siblings;
mod time;
mod trio;

use super::*;
use crate::effects::ReportWanted;
use crate::ids::Incarnation;
use crate::limits::{CREDIT_FRAMES, REPORT_ASKERS_MAX};
use crate::machine::Machine;
use crate::raft::{ChangeError, Configuration, MemberChange};
use alloc::vec;
use wire::header::PROTOCOL_MAX;
use wire::limits::FRAME_BYTES_MAX;
use wire::message::{
    Alive, CacheGet, CachePut, Done, Error, Expect, Heartbeat, LeaderMove, LockAcquire, LockMode,
    SessionClose, SessionOpen, Status, StatusReply, Value,
};
use wire::peer::{Leads, Leave, Pulse, Snapshot};
use wire::{Call, Code, Kind};

/// More suspicion than a busy machine explains.
const SUSPECTED_SURELY: f64 = 50.0;
const SEGMENT: u64 = 20 << 20;
const SESSION: [u8; 16] = [5; 16];
const CONN: ConnId = ConnId { index: 0, generation: 1 };

/// A cluster of one node with one shard, whose disk always works at once.
struct Node {
    engine: Engine,
    effects: Effects,
    now: Time,
    request: u64,
    notes: Vec<Note>,
}

impl Node {
    /// A node that leads, with a connection and a session.
    fn new() -> Node {
        Node::with(config())
    }

    fn with(config: EngineConfig) -> Node {
        let mut node = Node::without_clients(config);
        let opened = Input::Opened { conn: CONN, request: 0, version: PROTOCOL_MAX };
        node.engine.on(node.now, opened, &mut node.effects);
        let open = SessionOpen { session: SESSION, ttl_ms: 1000 };
        node.send(SessionOpen::KIND, 0, |b| open.encode(b));
        assert_eq!(node.answers().last().unwrap().kind, Done::KIND);
        node
    }

    /// A node that leads.
    fn without_clients(config: EngineConfig) -> Node {
        let blank = vec![0; usize::try_from(SEGMENT).unwrap()];
        let segments: [(u32, &[u8]); 2] = [(0, &blank), (1, &blank)];
        let disk = Disk { segments: &segments, witness: [None; 2], snapshot: &mut |_, _, _| false };
        let (now, mut effects) = (Time(1_000_000_000), Effects::default());
        let engine = Engine::open(config, now, disk, &mut effects).unwrap();
        let mut node = Node { engine, effects, now, request: 0, notes: Vec::new() };
        node.pass(Duration::from_secs(1));
        assert!(node.engine.shards.iter().all(|shard| shard.raft().is_leader()));
        node
    }

    fn send(&mut self, kind: Kind, deadline_ms: u32, body: impl FnOnce(&mut Vec<u8>)) {
        self.send_since(self.now, kind, deadline_ms, body);
    }

    fn send_since(
        &mut self,
        since: Time,
        kind: Kind,
        deadline_ms: u32,
        body: impl FnOnce(&mut Vec<u8>),
    ) {
        self.request += 1;
        let mut frame = Vec::new();
        wire::frame(&mut frame, &Header { deadline_ms, ..Header::new(kind, self.request) }, body);
        let frame = wire::split(&frame, FRAME_BYTES_MAX).unwrap().unwrap();
        let (header, body) = (frame.header, frame.body);
        let input = match since == self.now {
            true => Input::Frame { conn: CONN, header, body },
            false => Input::SlowFrame { conn: CONN, since, header, body },
        };
        self.engine.on(self.now, input, &mut self.effects);
    }

    fn put(&mut self, since: Time, sequence: u64, deadline_ms: u32, value: &[u8]) {
        let put = CachePut {
            call: Call { session: SESSION, sequence, answered_below: 1 },
            version: 0,
            ttl_ms: 0,
            expect: Expect::Any,
            key: b"key",
            value,
        };
        self.send_since(since, CachePut::KIND, deadline_ms, |b| put.encode(b));
    }

    /// Ends the turn, and all that follow from it without time passing.
    fn turn(&mut self) {
        while self.half_turn() {}
    }

    /// Ends the turn. If it writes, that is durable at once, and true.
    fn half_turn(&mut self) -> bool {
        self.engine.end_turn(self.now, &mut self.effects);
        self.notes.append(&mut self.effects.notes);
        for slot in core::mem::take(&mut self.effects.segments) {
            self.engine.on(self.now, Input::SegmentReady { slot }, &mut self.effects);
        }
        let Some(write) = self.effects.write.take() else { return false };
        let synced = Input::Synced { position: write.position };
        self.engine.on(self.now, synced, &mut self.effects);
        true
    }

    fn pass(&mut self, span: Duration) {
        let until = self.now + span;
        while self.now < until {
            self.now = self.now + Duration::from_millis(10);
            self.engine.on(self.now, Input::Tick, &mut self.effects);
            self.turn();
        }
    }

    /// What was answered, in order, once the turn has ended.
    fn answers(&mut self) -> Vec<Answer> {
        self.turn();
        let mut answers = Vec::new();
        self.effects.clients.drain(|_, bytes| answers.append(&mut read_answers(bytes)));
        answers
    }

    fn codes(&mut self) -> Vec<Option<Code>> {
        self.answers().into_iter().map(|answer| answer.code).collect()
    }
}

/// A put of a session that waits for no earlier answer.
fn put_of<'a>(session: [u8; 16], sequence: u64, key: &'a [u8], value: &'a [u8]) -> CachePut<'a> {
    let (answered_below, version, ttl_ms, expect) = (sequence, 0, 0, Expect::Any);
    CachePut {
        call: Call { session, sequence, answered_below },
        version,
        ttl_ms,
        expect,
        key,
        value,
    }
}

struct Answer {
    kind: Kind,
    code: Option<Code>,
    body: Vec<u8>,
}

/// The answers that a connection's bytes hold.
fn read_answers(mut bytes: &[u8]) -> Vec<Answer> {
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        let frame = wire::split(bytes, FRAME_BYTES_MAX).unwrap().unwrap();
        let code = Error::decode(frame.body).ok().filter(|_| frame.header.kind == Error::KIND);
        let code = code.and_then(|error| Code::from_number(error.code));
        answers.push(Answer { kind: frame.header.kind, code, body: frame.body.to_vec() });
        bytes = &bytes[frame.used..];
    }
    answers
}

fn config() -> EngineConfig {
    EngineConfig {
        cluster: ClusterId([7; 16]),
        node: NodeId(1),
        engine: 0,
        engines: 1,
        shards: 1,
        replication: 3,
        founders: vec![Founder {
            node: NodeId(1),
            incarnation: Incarnation([1; 16]),
            address: "node:7400".into(),
        }],
        nodes: Vec::new(),
        incarnation: Incarnation([1; 16]),
        seed: 1,
        secret: Secret::new([1; 16]),
        election_timeout_min: Duration::from_millis(150),
        election_timeout_max: Duration::from_millis(300),
        heartbeat: Duration::from_millis(50),
        level_max: Level::NEWEST,
        kinds: Kinds::REAL,
        balance_after: Duration::from_secs(5),
        reads: ReadMode::Lease,
        segment_bytes: SEGMENT,
        segments_max: 12,
        cache_bytes_max: 64 << 20,
    }
}

#[test]
fn bytes_past_the_credit_are_busy_and_heartbeats_are_still_answered() {
    let mut node = Node::new();
    let value = vec![1; 1_000_000];
    for sequence in 1..=5 {
        node.put(node.now, sequence, 0, &value);
    }
    node.send(Heartbeat::KIND, 0, |b| Heartbeat { session: SESSION }.encode(b));
    let answers = node.answers();
    let codes: Vec<_> = answers.iter().map(|answer| answer.code).collect();
    // The fifth is refused at once, the heartbeat answered at once; the others once they are durable.
    assert_eq!(codes, [Some(Code::Busy), None, None, None, None, None]);
    assert_eq!(answers[1].kind, Alive::KIND);
    node.put(node.now, 5, 0, &value);
    assert_eq!(node.codes(), [None]);
}

#[test]
fn a_write_whose_deadline_passed_while_it_arrived_is_refused_and_not_done() {
    let mut node = Node::new();
    let since = node.now;
    node.pass(Duration::from_millis(100));
    node.put(since, 1, 100, b"late");
    node.put(since, 1, 1, b"later");
    assert_eq!(node.codes(), [Some(Code::DeadlineExceeded); 2]);
    node.send(CacheGet::KIND, 0, |b| CacheGet { key: b"key" }.encode(b));
    assert_eq!(node.codes(), [Some(Code::KeyUnknown)]);
    node.put(since, 1, 101, b"in time");
    node.put(since, 2, 0, b"without a deadline");
    assert_eq!(node.codes(), [None, None]);
    node.send(CacheGet::KIND, 1, |b| CacheGet { key: b"key" }.encode(b));
    let answers = node.answers();
    assert_eq!(Value::decode(&answers[0].body).unwrap().value, b"without a deadline");
}

#[test]
fn a_waiting_acquire_outlives_its_deadline_and_ends_by_its_wait() {
    let mut node = Node::new();
    let lock = |sequence, session, wait_ms| LockAcquire {
        call: Call { session, sequence, answered_below: 1 },
        wait_ms,
        lease_ms: 0,
        mode: LockMode::Exclusive,
        name: b"lock",
    };
    let open = SessionOpen { session: [6; 16], ttl_ms: 60_000 };
    node.send(SessionOpen::KIND, 0, |b| open.encode(b));
    node.send(LockAcquire::KIND, 0, |b| lock(1, [6; 16], 0).encode(b));
    assert_eq!(node.codes(), [None, None]);
    node.send(LockAcquire::KIND, 50, |b| lock(1, SESSION, 400).encode(b));
    node.pass(Duration::from_millis(300));
    assert_eq!(node.codes(), []);
    node.pass(Duration::from_millis(200));
    assert_eq!(node.codes(), [Some(Code::LockTimeout)]);
}

#[test]
fn a_wait_that_is_sent_again_gives_the_first_one_s_credit_back() {
    let mut node = Node::new();
    let open = SessionOpen { session: [6; 16], ttl_ms: 60_000 };
    let lock = |session, wait_ms| LockAcquire {
        call: Call { session, sequence: 1, answered_below: 1 },
        wait_ms,
        lease_ms: 0,
        mode: LockMode::Exclusive,
        name: b"lock",
    };
    node.send(SessionOpen::KIND, 0, |b| open.encode(b));
    node.send(LockAcquire::KIND, 0, |b| lock([6; 16], 0).encode(b));
    assert_eq!(node.codes(), [None, None]);
    for _ in 0..2 * CREDIT_FRAMES {
        node.send(LockAcquire::KIND, 0, |b| lock(SESSION, 60_000).encode(b));
        assert_eq!(node.codes(), []);
    }
    node.send(SessionClose::KIND, 0, |b| SessionClose { session: [6; 16] }.encode(b));
    assert_eq!(node.codes(), [None, None], "the close, and the grant to the last request");
}

#[test]
fn the_node_s_state_is_gathered_once_for_all_who_ask_meanwhile() {
    let mut node = Node::new();
    for _ in 0..=REPORT_ASKERS_MAX {
        node.send(Status::KIND, 0, |b| Status { reserved: 0 }.encode(b));
    }
    node.send(Status::KIND, 0, |b| Status { reserved: 1 }.encode(b));
    assert_eq!(node.codes(), [Some(Code::Busy), Some(Code::BadMessage)]);
    assert_eq!(node.effects.report.take(), Some(ReportWanted));
    node.engine.on(node.now, Input::Report { json: b"{}" }, &mut node.effects);
    let answers = node.answers();
    assert_eq!(answers.len(), REPORT_ASKERS_MAX);
    assert!(answers.iter().all(|a| StatusReply::decode(&a.body).unwrap().json == b"{}"));
    assert_eq!(node.effects.report.take(), None);

    node.send(Status::KIND, 0, |b| Status { reserved: 0 }.encode(b));
    assert_eq!(node.effects.report.take(), Some(ReportWanted));
    let json = vec![b' '; FRAME_BYTES_MAX];
    node.engine.on(node.now, Input::Report { json: &json }, &mut node.effects);
    assert_eq!(node.codes(), [Some(Code::TooLarge)]);
}

#[test]
fn a_name_is_written_by_its_own_shard_alone_whatever_shard_is_asked() {
    const SHARDS: u32 = 4;
    let mut node = Node::with(EngineConfig { shards: SHARDS, ..config() });
    let own = wire::name::shard(b"key", SHARDS);
    let mut ask = |shard, kind, body: &[u8]| {
        let header = Header { shard, ..Header::new(kind, 1) };
        node.engine.on(node.now, Input::Frame { conn: CONN, header, body }, &mut node.effects);
        node.codes()
    };
    let (mut open, mut body) = (Vec::new(), Vec::new());
    SessionOpen { session: SESSION, ttl_ms: 1000 }.encode(&mut open);
    put_of(SESSION, 1, b"key", b"value").encode(&mut body);
    for shard in 0..=SHARDS {
        let opened = ask(shard, SessionOpen::KIND, &open);
        assert_eq!(opened == [None], shard < SHARDS);
        let code = (shard != own).then_some(Code::WrongShard);
        assert_eq!(
            ask(shard, CachePut::KIND, &body),
            [code],
            "shard {shard}, and {own} is its own"
        );
    }
    let lines = node.engine.status(node.now).groups.into_iter().filter(|g| g.machine.lines > 0);
    let written: Vec<GroupId> = lines.map(|group| group.group).collect();
    assert_eq!(written, [GroupId::of_shard(own)]);
}

#[test]
fn sessions_that_expire_are_told_and_closed_ones_are_not() {
    let mut node = Node::new();
    node.send(SessionOpen::KIND, 0, |b| SessionOpen { session: [6; 16], ttl_ms: 1000 }.encode(b));
    node.send(SessionOpen::KIND, 0, |b| SessionOpen { session: [8; 16], ttl_ms: 1000 }.encode(b));
    node.send(SessionClose::KIND, 0, |b| SessionClose { session: [8; 16] }.encode(b));
    assert_eq!(node.codes(), [None; 3]);
    node.notes.clear();
    node.pass(Duration::from_secs(3));
    let told = node.notes.iter().map(|note| match note {
        Note::SessionsExpired { group: GroupId(1), sessions } => *sessions,
        other => panic!("{other:?}"),
    });
    assert_eq!(told.sum::<u64>(), 2);
}

#[test]
fn a_replica_ends_only_as_the_life_that_was_removed_and_another_begins_with_nothing() {
    let mut node = Node::new();
    let (group, founder) = (GroupId(1), Incarnation([1; 16]));
    let (one, other) = (Incarnation([2; 16]), Incarnation([3; 16]));
    node.put(node.now, 1, 0, b"value");
    assert_eq!(node.codes(), [None]);
    node.notes.clear();

    // The only one that votes stays; another life neither takes its place nor ends it.
    let change = MemberChange::Remove { node: NodeId(1), incarnation: founder };
    node.engine.change_members(node.now, group, change, &mut node.effects);
    node.engine.on_make(node.now, group, one, &mut node.effects);
    node.engine.on_remove(group, one, &mut node.effects);
    node.turn();
    let answer = Err(ChangeError::LastVoter { node: NodeId(1) });
    assert_eq!(node.notes, [Note::ChangeAnswered { group, change, answer }]);
    node.notes.clear();

    // Once it is gone nobody finds it, and a founder's life is not given again.
    node.engine.on_remove(group, founder, &mut node.effects);
    node.turn();
    let led_by_nobody = Note::Leader { group, term: Term(1), leader: None };
    assert_eq!(node.notes, [led_by_nobody, Note::ReplicaRemoved { group }]);
    node.put(node.now, 2, 0, b"value");
    assert_eq!(node.codes(), [Some(Code::Unavailable)]);
    node.engine.on_make(node.now, group, founder, &mut node.effects);
    node.turn();
    assert_eq!(node.engine.shards.len(), 1);

    // A new one has nothing, belongs to nobody, and waits.
    node.notes.clear();
    for _ in 0..2 {
        node.engine.on_make(node.now, group, other, &mut node.effects);
    }
    node.pass(Duration::from_secs(1));
    assert_eq!(node.notes, [Note::ReplicaMade { group }; 2]);
    let replica = node.engine.shards().last().unwrap().raft();
    assert_eq!((replica.group(), replica.last_index().0, replica.is_leader()), (group, 0, false));
}

#[test]
fn a_replica_leaves_only_by_the_word_of_a_term_that_is_not_before_its_own() {
    let mut node = Node::new();
    let (group, founder) = (GroupId(1), [1; 16]);
    let term = node.engine.shards[1].raft().term().0;
    for (says, life, replicas) in [(term - 1, founder, 2), (term, [2; 16], 2), (term, founder, 1)] {
        let leave = Leave { term: says, incarnation: life };
        let header = Header { shard: group.0, ..Header::new(Leave::KIND, 0) };
        let mut frame = Vec::new();
        wire::frame(&mut frame, &header, |b| leave.encode(b));
        let frame = wire::split(&frame, FRAME_BYTES_MAX).unwrap().unwrap();
        let said = Input::Peer { peer: NodeId(2), header: frame.header, body: frame.body };
        node.engine.on(node.now, said, &mut node.effects);
        node.turn();
        assert_eq!(node.engine.shards.len(), replicas, "term {says} of {term}");
    }
}

/// A snapshot with its rows sorted, as [`State::snapshot`](crate::shard::state::State::snapshot) gives them.
fn sorted(bytes: &[u8]) -> Vec<u8> {
    let (members, state) = Configuration::split(bytes).unwrap();
    let config = open::machine_config(config().cluster, config().cache_bytes_max, config().secret);
    let mut sorted = Vec::new();
    members.encode(&mut sorted);
    Machine::restore(config, state).unwrap().snapshot(&mut sorted);
    sorted
}

/// A put of one of some lines, each a call of its own.
fn put_line(node: &mut Node, sequence: u64) {
    let key = format!("key-{}", sequence % 300);
    let value = [sequence as u8; 100];
    let put = put_of(SESSION, sequence, key.as_bytes(), &value);
    node.send(CachePut::KIND, 0, |b| put.encode(b));
    assert_eq!(node.codes(), [None]);
}

#[test]
fn a_snapshot_under_load_ends_after_as_many_turns_as_it_has_slices_and_is_of_its_beginning() {
    let mut node = Node::new();
    (1..=600).for_each(|sequence| put_line(&mut node, sequence));
    let group = GroupId(1);
    let at = node.engine.place_of(group).unwrap();
    assert!(node.engine.shards.touch(at).make_snapshot() && node.engine.has_work());
    assert!(!node.engine.shards.touch(at).make_snapshot(), "one at a time");
    let slice = Slice { rows: 5, ..Slice::SHORT };
    let (mut whole, mut parts, mut turns) = (Vec::new(), Vec::new(), 0);
    let index = node.engine.shards[at].applied();
    node.engine.shards[at].raft().log().configuration_at(index).encode(&mut whole);
    node.engine.shards[at].state().snapshot(&mut whole);
    while node.engine.has_work() {
        node.engine.work(node.now, slice, &mut node.effects);
        assert_eq!(node.engine.wake_at(), node.now, "the next slice comes at once");
        parts.append(&mut node.effects.saves);
        turns += 1;
        put_line(&mut node, 600 + turns);
    }
    assert!((60..80).contains(&turns), "300 lines and a session, five at a time: {turns} turns");
    assert!(parts.iter().all(|part| part.group == group && part.index == index));
    let (last, others) = parts.split_last().unwrap();
    assert!(last.last && others.iter().all(|part| !part.last));
    let bytes: Vec<u8> = parts.into_iter().flat_map(|part| part.bytes).collect();
    assert!(sorted(&bytes) == whole, "it stands for the moment at which it began");
    assert!(!node.engine.shards.touch(at).make_snapshot(), "that one is not on the disk yet");
    let saved = Input::SnapshotSaved { group, index };
    node.engine.on(node.now, saved, &mut node.effects);
    node.turn();
    assert_eq!(node.engine.shards[at].snapshot_index(), index);
    assert!(node.engine.shards.touch(at).make_snapshot(), "two in a row");
}

#[test]
fn a_clock_that_drifts_is_told_and_reads_ask_a_majority_until_it_is_trusted_again() {
    let mut node = Node::new();
    let peer = NodeId(2);
    // Leases bear a ninth.
    for (rate, reads) in [(107, ReadMode::Lease), (120, ReadMode::ReadIndex)] {
        node.notes.clear();
        node.engine.on(node.now, Input::PeerUp { peer }, &mut node.effects);
        let began = node.now;
        for _ in 0..60 {
            let echo = node.now.0;
            node.pass(Duration::from_millis(100));
            let theirs = 1 + node.now.since(began).as_nanos() as u64 * rate / 100;
            let pulse = Pulse { sent_at: theirs, echo, held: 99_000_000 };
            let (mut body, header) = (Vec::new(), Header::new(Pulse::KIND, 0));
            pulse.encode(&mut body);
            let input = Input::Peer { peer, header, body: &body };
            node.engine.on(node.now, input, &mut node.effects);
            node.turn();
        }
        assert_eq!(node.engine.status(node.now).reads, reads);
        let told = node.notes.iter().filter(|note| matches!(note, Note::ClockDrift { .. }));
        assert_eq!(told.count(), usize::from(reads == ReadMode::ReadIndex), "once, if at all");
    }
    let twin = &node.engine.status(node.now).peers[0];
    assert!((190_000..210_000).contains(&twin.drift_ppm.unwrap()) && twin.phi < 1.0, "{twin:?}");
    node.pass(Duration::from_secs(61));
    let status = node.engine.status(node.now);
    assert_eq!(status.reads, ReadMode::Lease, "nothing was seen for a minute");
    assert!(status.peers[0].phi > SUSPECTED_SURELY, "nor heard: {:?}", status.peers[0]);
}

#[test]
fn pieces_of_a_snapshot_of_more_than_8_gib_are_taken_and_forgotten_when_no_more_come() {
    let (mut node, group) = (Node::new(), GroupId(1));
    let at = node.engine.place_of(group).unwrap();
    let (total, mut whole) = (9_u64 << 30, Vec::new());
    node.engine.shards[at].raft().configuration().encode(&mut whole);
    whole.resize(2_000, 7);
    for (offset, bytes) in [(0, &whole[..1_000]), (1_000, &whole[1_000..])] {
        let (term, index, index_term, sent_at) = (99, 1_000, 98, offset + 1);
        let piece = Snapshot { term, index, index_term, sent_at, offset, total, bytes };
        let header = Header { shard: group.0, ..Header::new(Snapshot::KIND, 0) };
        let mut body = Vec::new();
        piece.encode(&mut body);
        let input = Input::Peer { peer: NodeId(2), header, body: &body };
        node.engine.on(node.now, input, &mut node.effects);
        node.turn();
    }
    assert_eq!(node.engine.shards[at].snapshot_bytes(), 2_000);
    // Nobody leads: it campaigns, and who does not follow has no use for them.
    node.pass(Duration::from_secs(1));
    assert_eq!(node.engine.shards[at].snapshot_bytes(), 0);
}
