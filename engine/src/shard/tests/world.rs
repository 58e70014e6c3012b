//! One shard by hand: its journal, a client, and two peers that do what the script says.

use crate::effects::Effects;
use crate::entry;
use crate::ids::{ConnId, GroupId, Incarnation, Index, NodeId, SessionId, Term};
use crate::journal::{Journal, JournalConfig, Record};
use crate::level::{Kinds, Level};
use crate::machine::ReadAsk;
use crate::machine::{self, Slice};
use crate::raft::{
    Configuration, Message, PersistentState, Preference, Raft, RaftConfig, ReadMode,
};
use crate::secret::Secret;
use crate::shard::balance::Balance;
use crate::shard::calls::{CallId, Caller};
use crate::shard::moves::Moves;
use crate::shard::state::State;
use crate::shard::{Proposal, Shard, Shared, Step, codec};
use crate::time::{Duration, Time};
use std::fmt::Write as _;
use wire::limits::{FRAME_BYTES_MAX, PEER_FRAME_BYTES_MAX};
use wire::message::{CacheGet, Done, Error, Value};
use wire::peer::{Append, AppendReply, Vote, VoteReply};
use wire::{Code, Kind};

pub const G: GroupId = GroupId(1);
pub const ME: NodeId = NodeId(1);
pub const SESSION: [u8; 16] = [5; 16];
const CONN: ConnId = ConnId { index: 0, generation: 1 };
/// Client's frames are as good as of one size here.
const FRAME_BYTES: u32 = 100;

pub struct World {
    pub shard: Shard,
    pub now: Time,
    pub effects: Effects,
    shared: Shared,
    request: u64,
    /// What was sent to each peer and not heard yet.
    sent: Vec<(NodeId, Vec<u8>)>,
}

fn life(node: NodeId) -> Incarnation {
    Incarnation([node.0 as u8; 16])
}

impl World {
    /// A group that was never led, of so many voters; this node is the first.
    pub fn new(voters: u32) -> World {
        let now = Time(1_000_000_000);
        let config = JournalConfig { segment_bytes: 1 << 20, segments_max: 8, groups: vec![G] };
        let journal = Journal::recover(config, 1, &[], None, &mut |_| {}).expect("it is fresh");
        let nodes: Vec<NodeId> = (1..=voters).map(NodeId).collect();
        let raft = RaftConfig {
            group: G,
            node: ME,
            incarnation: life(ME),
            founders: Configuration::of_voters(nodes.iter().map(|node| (*node, life(*node)))),
            election_timeout_min: Duration::from_millis(150),
            election_timeout_max: Duration::from_millis(300),
            heartbeat: Duration::from_millis(50),
            reads: ReadMode::Lease,
            preference: Preference::Preferred,
            append_bytes_max: journal.append_bytes_max(),
            uncommitted_bytes_max: journal.tail_bytes_max(),
            level_max: Level::NEWEST,
            seed: 1,
        };
        let secret = Secret::new([1; 16]);
        let machine = machine::MachineConfig { cluster: 1, cache_bytes_max: 1 << 20, secret };
        let state = State::new(G, &machine, Vec::new());
        let raft = Raft::new(raft, PersistentState::default(), now);
        let aim = (Balance::new(G.0, ME, Duration::from_secs(5)), Moves::new(nodes));
        let shard = Shard::new(ME, raft, aim, state, machine, (Index::ZERO, Term::ZERO), now);
        let mut shared = Shared::new(0, Kinds::REAL, ReadMode::Lease, journal);
        shared.peers.linked = (2..=voters).map(NodeId).collect();
        let mut world =
            World { shard, now, effects: Effects::default(), shared, request: 0, sent: Vec::new() };
        world.shared.journal.append(Record::Replica { group: G, replica: Some(life(ME)) });
        world.shared.conns.open(CONN, wire::header::PROTOCOL_MAX);
        world.prepare_segments();
        world
    }

    fn prepare_segments(&mut self) {
        let mut wanted = Vec::new();
        self.shared.journal.take_wanted_segments(&mut |slot| wanted.push(slot));
        wanted.into_iter().for_each(|slot| self.shared.journal.on_segment_ready(slot));
    }

    /// One step of the shard, with all that it may touch.
    pub fn step<T>(&mut self, does: impl FnOnce(&mut Shard, &mut Step<'_>) -> T) -> T {
        let (now, shared, effects) = (self.now, &mut self.shared, &mut self.effects);
        let step = &mut Step { now, shared, effects };
        does(&mut self.shard, step)
    }

    fn caller(&mut self) -> Caller {
        self.request += 1;
        let caller = Caller { conn: CONN, request: self.request, bytes: FRAME_BYTES };
        assert!(self.shared.conns.admit(caller, None), "a script stays within its credit");
        caller
    }

    pub fn write(&mut self, kind: Kind, sequence: u64, deadline: Time, body: &[u8]) {
        let call = CallId { session: SessionId(SESSION), sequence };
        let caller = self.caller();
        let request = Proposal { caller, kind, level: Level::OLDEST, call, deadline, body };
        self.step(|shard, step| shard.on_write(step, request));
    }

    pub fn read(&mut self, key: &[u8]) {
        let caller = self.caller();
        let mut body = Vec::new();
        CacheGet { key }.encode(&mut body);
        let ask = ReadAsk { kind: CacheGet::KIND, body: &body };
        self.step(|shard, step| shard.on_read(step, caller, Level::OLDEST, ask, Time::MAX));
    }

    /// Ends the turn; what it wrote is not durable yet.
    pub fn turn(&mut self) {
        self.step(|shard, step| shard.end_turn(step));
        self.shared.proposed = 0;
        self.shared.conns.end_turn();
        let sent = &mut self.sent;
        self.effects.peers.drain(|to, bytes| sent.push((NodeId(to), bytes.clone())));
    }

    /// This replica begins to hand over to a peer.
    pub fn hand_over(&mut self, peer: NodeId) {
        self.step(|shard, step| {
            shard.hand_over(step, peer);
            shard.settle(step);
        });
        self.turn();
    }

    /// A peer that was asked to campaign asks for this replica's vote, and has all that it has.
    pub fn campaign(&mut self, peer: NodeId) {
        let raft = self.shard.raft();
        let (last_index, last_term) = (raft.last_index().0, raft.log().last_term().0);
        let (term, incarnation) = (raft.term().0 + 1, life(peer).0);
        let vote = Vote { term, last_index, last_term, incarnation, pre: 0, transfer: 1 };
        self.step(|shard, step| shard.on_message(step, peer, Message::Vote(vote)));
        self.turn();
    }

    /// What was written becomes durable.
    pub fn sync(&mut self) {
        while let Some(write) = self.shared.journal.seal() {
            self.prepare_segments();
            self.shared.journal.on_synced(write.position);
            self.shared.held.release(write.position, &mut self.effects.peers);
            self.step(|shard, step| shard.on_synced(step, write.position));
        }
        let sent = &mut self.sent;
        self.effects.peers.drain(|to, bytes| sent.push((NodeId(to), bytes.clone())));
    }

    /// Time passes, in turns that end.
    pub fn pass(&mut self, span: Duration) {
        let until = self.now + span;
        while self.now < until {
            self.now = self.now + Duration::from_millis(10);
            self.step(|shard, step| shard.on_tick(step));
            self.turn();
        }
    }

    pub fn peer_up(&mut self, peer: NodeId) {
        self.step(|shard, step| shard.on_peer_up(step, peer));
        self.turn();
    }

    /// A peer does not get what was sent to it.
    pub fn lose(&mut self, peer: NodeId) {
        self.sent.retain(|(to, _)| *to != peer);
    }

    /// A peer hears what was sent to it, and answers as a follower does whose disk works at once: in words, a line
    /// for each message.
    pub fn hear(&mut self, peer: NodeId) -> String {
        let mut told = String::new();
        let all = core::mem::take(&mut self.sent);
        for (to, bytes) in all {
            if to != peer {
                self.sent.push((to, bytes));
                continue;
            }
            let mut left = &bytes[..];
            while !left.is_empty() {
                let frame = wire::split(left, PEER_FRAME_BYTES_MAX)
                    .expect("a frame is sound")
                    .expect("a frame is whole");
                left = &left[frame.used..];
                let message = codec::decode(&frame.header, frame.body).expect("it can be read");
                match message {
                    Some(Message::Vote(m)) => self.vote(peer, &m, &mut told),
                    Some(Message::Append(m)) => self.acknowledge(peer, &m, &mut told),
                    other => writeln!(told, "{peer} hears {other:?}").expect("text takes text"),
                }
            }
        }
        self.turn();
        told
    }

    fn vote(&mut self, peer: NodeId, m: &Vote, told: &mut String) {
        let what = if m.pre == 1 { "would vote" } else { "votes" };
        writeln!(told, "{peer} {what} in term {}", m.term).expect("text takes text");
        let (term, pre, incarnation) = (m.term, m.pre, life(peer).0);
        let reply = VoteReply { term, incarnation, pre, granted: 1 };
        self.step(|shard, step| shard.on_message(step, peer, Message::VoteReply(reply)));
    }

    fn acknowledge(&mut self, peer: NodeId, m: &Append<'_>, told: &mut String) {
        let index = m.prev_index + u64::from(m.count);
        let (first, commit) = (m.prev_index + 1, m.commit);
        let what = match m.count {
            0 => format!("a heartbeat at {index}"),
            1 => format!("entry {index}"),
            _ => format!("entries {first} to {index}"),
        };
        let mut entries = m.entries;
        while let Ok(e) = entry::read(entries) {
            entries = &entries[e.bytes.len()..];
        }
        assert!(entries.is_empty(), "entries are whole");
        writeln!(told, "{peer} hears {what}, commit {commit}").expect("text takes text");
        let reply = AppendReply {
            term: m.term,
            index,
            index_term: 0,
            sent_at: m.sent_at,
            incarnation: life(peer).0,
            reject: 0,
        };
        self.step(|shard, step| shard.on_message(step, peer, Message::AppendReply(reply)));
    }

    /// Does what takes long, to its end, and says what goes to the disk.
    pub fn work(&mut self) {
        while self.shard.has_work() {
            self.step(|shard, step| shard.work(step, Slice::WHOLE));
        }
        self.turn();
    }

    /// What the client was answered, and what else is asked of the world.
    pub fn told(&mut self) -> String {
        let mut told = String::new();
        self.effects.clients.drain(|_, bytes| {
            let mut left = &bytes[..];
            while !left.is_empty() {
                let frame = wire::split(left, FRAME_BYTES_MAX)
                    .expect("a frame is sound")
                    .expect("a frame is whole");
                left = &left[frame.used..];
                let answer = describe(frame.header.kind, frame.body);
                writeln!(told, "answer {}: {answer}", frame.header.request)
                    .expect("text takes text");
            }
        });
        for part in core::mem::take(&mut self.effects.saves) {
            let (index, last) = (part.index, if part.last { ", the last" } else { "" });
            writeln!(told, "save a part of the snapshot at {index}{last}").expect("it is text");
        }
        for (_, index) in core::mem::take(&mut self.effects.drops) {
            writeln!(told, "drop the snapshot at {index}").expect("text takes text");
        }
        for note in core::mem::take(&mut self.effects.notes) {
            writeln!(told, "note {note:?}").expect("text takes text");
        }
        told
    }
}

fn describe(kind: Kind, body: &[u8]) -> String {
    match kind {
        Done::KIND => format!("done {}", Done::decode(body).expect("it is one").token),
        Value::KIND => {
            let value = Value::decode(body).expect("it is one");
            format!("{} at version {}", String::from_utf8_lossy(value.value), value.version)
        }
        Error::KIND => {
            let error = Error::decode(body).expect("it is one");
            let code = Code::from_number(error.code).expect("it is known");
            match error.node {
                0 => format!("{code:?}"),
                node => format!("{code:?}, go to {node}"),
            }
        }
        other => format!("{other:?}"),
    }
}
