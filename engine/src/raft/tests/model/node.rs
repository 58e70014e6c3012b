//! One node of the model: the production replica on a disk, and what a single input does to both.
//!
//! Time is taken out: before each input all that depends on a clock is put back to where anything may
//! happen at any moment (see [`Node::forget_time`]), so that equal nodes behave equally.

use super::super::config;
use super::super::disk::{Record, cut};
use super::super::words::Packet;
use super::{Batch, Disks, Scope};
use crate::entry;
use crate::ids::{GroupId, Incarnation, Index, NodeId, Position};
use crate::raft::ReadMode;
use crate::raft::clock::Clock;
use crate::raft::progress::ProgressState;
use crate::raft::role::Role;
use crate::raft::{
    Configuration, Hold, LIMITS, Limits, Message, Output, Persist, PersistentState, Raft,
    RaftConfig,
};
use crate::time::{Elapsed, Time};
use std::collections::VecDeque;
use wire::{Kind, peer};

pub const NODES: u32 = 3;
const GROUP: GroupId = GroupId(1);
const COMMAND: Kind = Kind(0x30);
/// When every lease, loyalty and patience has ended.
const LATER: Time = Time(1_000_000_000_000);
/// When only a heartbeat is due.
const SOON: Time = Time(1);

/// What can happen to a node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Input {
    /// This message arrives, once more or for the first time.
    Deliver(u16),
    /// The oldest unit that is not durable becomes so.
    Sync,
    /// The node loses patience and campaigns, and steps down before if it leads. A pre-vote is granted
    /// whenever it is asked for.
    Campaign,
    /// A heartbeat is due.
    Beat,
    /// A client's command.
    Propose(u8),
    /// The power fails, and is back: what was not durable is gone.
    Crash,
}

/// A message on its way.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Letter {
    pub from: NodeId,
    pub to: NodeId,
    pub packet: Packet,
}

/// What one turn wrote, and what waits for it to be durable.
#[derive(Clone, Default, PartialEq, Eq, Hash, Debug)]
pub struct Unit {
    pub records: Vec<Record>,
    pub held: Vec<Letter>,
}

#[derive(Clone)]
pub struct Node {
    pub id: NodeId,
    pub raft: Raft,
    /// What a restart would find, in short.
    pub durable: Vec<Record>,
    /// What is written and not durable, oldest first. The first is at position 1.
    pub units: VecDeque<Unit>,
    scope: Scope,
}

impl Node {
    pub fn new(id: NodeId, scope: Scope) -> Node {
        let raft = start(id, scope.batch, PersistentState::default());
        let mut node = Node { id, raft, durable: Vec::new(), units: VecDeque::new(), scope };
        node.forget_time();
        node
    }

    /// One input and what follows from it at once; what leaves the node is put into `sent`.
    pub fn step(&mut self, input: Input, letter: Option<&Letter>, sent: &mut Vec<Letter>) {
        self.turn(input, letter, sent);
        while self.scope.disks == Disks::Immediate && !self.units.is_empty() {
            self.turn(Input::Sync, None, sent);
        }
    }

    fn turn(&mut self, input: Input, letter: Option<&Letter>, sent: &mut Vec<Letter>) {
        let mut unit = Unit::default();
        match input {
            Input::Deliver(_) => self.deliver(letter.expect("a message"), &mut unit, sent),
            Input::Sync => self.sync(&mut unit, sent),
            Input::Campaign => self.campaign(&mut unit, sent),
            Input::Beat => self.call(&mut unit, sent, |raft, out| raft.on_tick(SOON, out)),
            Input::Propose(payload) => self.call(&mut unit, sent, |raft, _| {
                let done = raft.propose(COMMAND, 0, Elapsed::ZERO, &[payload]);
                done.expect("a leader takes a command");
            }),
            Input::Crash => return self.crash(),
        }
        self.call(&mut unit, sent, |raft, out| raft.flush(Time::ZERO, out));
        if unit.records.is_empty() {
            assert!(unit.held.is_empty(), "what is held waits for something");
            return;
        }
        // Nobody reads what is never restored.
        if self.raft.commit() > Index::ZERO && self.scope.crashes > 0 {
            unit.records.push(Record::Commit(self.raft.commit()));
        }
        self.units.push_back(unit);
    }

    fn deliver(&mut self, letter: &Letter, unit: &mut Unit, sent: &mut Vec<Letter>) {
        let (from, message) = (letter.from, letter.packet.decode());
        self.call(unit, sent, |raft, out| raft.on_message(LATER, from, message, out));
    }

    /// Pre-votes only spare others a campaign: that they are granted is more than can happen.
    fn campaign(&mut self, unit: &mut Unit, sent: &mut Vec<Letter>) {
        let mut asked = Vec::new();
        if self.raft.is_leader() {
            self.call(unit, sent, |raft, out| raft.on_tick(LATER, out));
            assert!(!self.raft.is_leader(), "a leader that hears no majority steps down");
        }
        self.call(unit, &mut asked, |raft, out| raft.on_tick(LATER, out));
        let other = NodeId(self.id.0 % NODES + 1);
        let granted = Message::VoteReply(peer::VoteReply {
            term: self.raft.term().next().0,
            incarnation: incarnation(other).0,
            pre: 1,
            granted: 1,
        });
        self.call(unit, sent, |raft, out| raft.on_message(LATER, other, granted, out));
    }

    fn sync(&mut self, unit: &mut Unit, sent: &mut Vec<Letter>) {
        let done = self.units.pop_front().expect("something is not durable");
        self.durable = in_short(&replay(self.durable.iter().chain(&done.records)));
        sent.extend(done.held);
        self.call(unit, sent, |raft, out| {
            raft.on_synced(LATER, Position(1), out);
            raft.durability.rebase();
        });
    }

    fn crash(&mut self) {
        self.units.clear();
        self.raft = start(self.id, self.scope.batch, replay(self.durable.iter()));
        self.forget_time();
    }

    /// One call into the replica; what comes out is carried out.
    fn call(
        &mut self,
        unit: &mut Unit,
        sent: &mut Vec<Letter>,
        call: impl FnOnce(&mut Raft, &mut Output),
    ) {
        let mut out = Output::default();
        call(&mut self.raft, &mut out);
        assert!(out.install.is_none() && out.snapshot_wanted.is_none(), "logs are kept whole");
        for persist in &out.persist {
            self.write(persist, unit);
        }
        if !out.persist.is_empty() {
            self.raft.on_appended(Position(self.units.len() as u64 + 1));
        }
        for message in &out.messages {
            let packet = Packet::encode(&message.body, self.raft.log(), &[]);
            let letter = Letter { from: self.id, to: message.to, packet };
            let last =
                if unit.records.is_empty() { self.units.back_mut() } else { Some(&mut *unit) };
            match last {
                // Whatever leaves may arrive many times: it is held once.
                Some(unit) if message.hold == Hold::AfterSync => {
                    unit.held.retain(|l| *l != letter);
                    unit.held.push(letter);
                }
                _ => sent.push(letter),
            }
        }
        self.raft.on_applied(self.raft.commit());
        self.forget_time();
    }

    fn write(&self, persist: &Persist, unit: &mut Unit) {
        match *persist {
            Persist::Entries { first, last, .. } => {
                unit.records.extend((first.0..=last.0).map(|index| {
                    let e = self.raft.log().entry(Index(index)).expect("it was just appended");
                    Record::Entry(e.bytes.to_vec())
                }));
            }
            Persist::Truncate { from } => unit.records.push(Record::Truncate(from)),
            Persist::Vote { term, vote } => unit.records.push(Record::Vote(term, vote)),
            Persist::Snapshot { .. } => panic!("logs are kept whole"),
        }
    }

    /// Puts back what depends on a clock, such that anything may happen at any moment: nobody is loyal,
    /// no refusal is stale. What chance decides is when, and that is free already.
    fn forget_time(&mut self) {
        let raft = &mut self.raft;
        raft.now = Time::ZERO;
        // It stands still: entries that are alike have one time.
        raft.clock = Clock::new(Elapsed::ZERO, Time::MAX);
        raft.loyal_until = Time::ZERO;
        raft.campaign_at = Time::ZERO;
        raft.timeout = raft.election_timeout_min;
        let Role::Leader(leader) = &mut raft.role else { return };
        (leader.since, leader.stamp, leader.confirmed) = (Time::ZERO, Time::ZERO, None);
        leader.beat_at = SOON;
        for follower in &mut leader.followers {
            (follower.echoed, follower.heard_at) = (None, None);
            follower.floor = Time::ZERO;
            if follower.state == ProgressState::Replicate {
                // How much is on its way matters to the window alone, which is never full here.
                follower.sent_after = Index::ZERO;
            }
        }
    }

    pub fn restored(&self) -> PersistentState {
        replay(self.durable.iter())
    }
}

fn incarnation(id: NodeId) -> Incarnation {
    Incarnation([id.0 as u8; 16])
}

fn start(id: NodeId, batch: Batch, restored: PersistentState) -> Raft {
    let founders =
        Configuration::of_voters((1..=NODES).map(|n| (NodeId(n), incarnation(NodeId(n)))));
    let config = RaftConfig {
        reads: ReadMode::ReadIndex,
        seed: 7,
        ..config(GROUP, (id, incarnation(id)), founders)
    };
    let mut raft = Raft::new(config, restored, Time::ZERO);
    let append = if batch == Batch::One { 1 } else { LIMITS.append };
    raft.limits = Limits { append, ..LIMITS };
    raft
}

/// What the production code makes of these records.
fn replay<'a>(records: impl Iterator<Item = &'a Record>) -> PersistentState {
    let mut restored =
        PersistentState { log: crate::raft::Log::new(512), ..PersistentState::default() };
    for record in records {
        let done = match record {
            Record::Entry(bytes) => restored.on_entry(entry::read(bytes).expect("an entry")),
            Record::Truncate(from) => {
                cut(&mut restored, *from);
                Ok(())
            }
            Record::Vote(term, vote) => restored.on_vote(*term, *vote),
            Record::Commit(commit) => {
                restored.on_commit(*commit);
                Ok(())
            }
            Record::Snapshot(..) => panic!("logs are kept whole"),
        };
        done.expect("the journal tells a story that holds together");
    }
    restored.check().expect("nothing is missing");
    restored
}

fn in_short(restored: &PersistentState) -> Vec<Record> {
    let mut records = vec![Record::Vote(restored.term, restored.vote)];
    let mut index = Index::ZERO.next();
    while let Some(e) = restored.log.entry(index) {
        records.push(Record::Entry(e.bytes.to_vec()));
        index = index.next();
    }
    records.push(Record::Commit(restored.commit));
    records
}
