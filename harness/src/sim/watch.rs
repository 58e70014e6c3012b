//! Looks into the nodes after each turn, and at what they say: the invariants of Raft, held directly.
//!
//! - A term of a group has one leader at most, and a node gives one vote in it.
//! - What one node knows to be committed, no node knows otherwise: same index, same bytes.
//! - What a leader commits by counting is of its own term, and durable on a majority at that moment.
//! - Nobody is elected while another's lease lasts.
//! - Equal states at equal index.
//!
//! All of it is cheap: only what changed in a turn is looked at.

use super::NODES;
use engine::engine::Engine;
use engine::ids::{Index, Term};
use engine::shard::Shard;
use engine::time::Time;
use std::collections::BTreeMap;
use wire::peer::{Vote, VoteReply};

/// States are compared at every so manieth index at which a turn ends.
const STATES_EVERY: u64 = 8;

/// What was last seen of a group on a node.
#[derive(Clone, Copy)]
struct Seen {
    term: u64,
    leads: bool,
    commit: Index,
    durable: Index,
    applied: Index,
    /// Until when it may answer by its lease.
    lease: Option<Time>,
}

impl Seen {
    const NOTHING: Seen = Seen {
        term: 0,
        leads: false,
        commit: Index::ZERO,
        durable: Index::ZERO,
        applied: Index::ZERO,
        lease: None,
    };
}

/// What was seen so far.
#[derive(Default)]
pub(super) struct Watch {
    seen: BTreeMap<(u32, usize), Seen>,
    /// By group and term.
    leaders: BTreeMap<(usize, u64), u32>,
    /// Who got a node's vote, by group, term and node.
    votes: BTreeMap<(u32, u64, u32), u32>,
    /// The checksum of what is committed, by group and index.
    committed: BTreeMap<(usize, Index), u32>,
    /// The hash of the state, by group and index.
    states: BTreeMap<(usize, Index), u64>,
    scratch: Vec<u8>,
}

/// What a turn did that faults may be aimed at.
#[derive(Clone, Copy, Default)]
pub(super) struct Did {
    /// The node has a new term or vote.
    pub(super) voted: bool,
    /// A leader committed something.
    pub(super) committed: bool,
}

impl Watch {
    /// The node starts: what it knew and was not durable is gone.
    pub(super) fn on_start(&mut self, at: Time, node: u32, engine: &Engine) -> Result<(), String> {
        self.seen.retain(|(n, _), _| *n != node);
        self.on_turn(at, node, engine).map(|_| ())
    }

    /// A turn of a node ended.
    pub(super) fn on_turn(&mut self, at: Time, node: u32, engine: &Engine) -> Result<Did, String> {
        let (mut did, time) = (Did::default(), at);
        for (at, shard) in engine.shards().iter().enumerate() {
            let before = self.seen.get(&(node, at)).copied().unwrap_or(Seen::NOTHING);
            let raft = shard.raft();
            let now = Seen {
                term: raft.term().0,
                leads: raft.is_leader(),
                commit: raft.commit(),
                durable: raft.durable(),
                applied: shard.applied(),
                lease: raft.lease_until(),
            };
            self.seen.insert((node, at), now);
            did.voted |= now.term > before.term;
            if now.leads {
                let leader = *self.leaders.entry((at, now.term)).or_insert(node);
                if leader != node {
                    let term = now.term;
                    return Err(format!("group {at}: two leaders in term {term}"));
                }
            }
            if now.leads && !before.leads {
                self.on_elected(time, at, node)?;
            }
            if now.commit > before.commit {
                self.on_commit(at, shard, before, now)?;
                did.committed |= now.leads;
            }
            if now.applied > before.applied && now.applied.0.is_multiple_of(STATES_EVERY) {
                self.on_state(at, shard)?;
            }
        }
        Ok(did)
    }

    /// A node fell: it answers nobody by any lease.
    pub(super) fn on_crash(&mut self, node: u32) {
        let of_node = self.seen.iter_mut().filter(|((n, _), _)| *n == node);
        of_node.for_each(|(_, seen)| seen.lease = None);
    }

    fn on_elected(&self, time: Time, at: usize, node: u32) -> Result<(), String> {
        for other in (0..NODES).filter(|other| *other != node) {
            let Some(seen) = self.seen.get(&(other, at)) else { continue };
            if seen.leads && seen.lease.is_some_and(|until| until > time) {
                let (a, b) = (node + 1, other + 1);
                return Err(format!(
                    "group {at}: node {a} is elected while node {b}'s lease lasts"
                ));
            }
        }
        Ok(())
    }

    fn on_commit(
        &mut self,
        at: usize,
        shard: &Shard,
        before: Seen,
        now: Seen,
    ) -> Result<(), String> {
        let log = shard.raft().log();
        let first = before.commit.next().max(log.first_index());
        for index in (first.0..=now.commit.0).map(Index) {
            let Some(entry) = log.entry(index) else { continue };
            let sum = crc(entry.bytes);
            if *self.committed.entry((at, index)).or_insert(sum) != sum {
                return Err(format!("group {at}: two entries are committed at {index}"));
            }
        }
        if !(now.leads && before.leads && before.term == now.term) {
            return Ok(());
        }
        if log.term_at(now.commit) != Some(Term(now.term)) {
            return Err(format!("group {at}: {} of an older term was counted", now.commit));
        }
        let durable = |node: &u32| self.seen.get(&(*node, at)).map_or(Index::ZERO, |s| s.durable);
        let held = (0..NODES).filter(|node| durable(node) >= now.commit).count();
        if held <= NODES as usize / 2 {
            let commit = now.commit;
            return Err(format!(
                "group {at}: {commit} is committed, and durable on {held} node(s)"
            ));
        }
        Ok(())
    }

    fn on_state(&mut self, at: usize, shard: &Shard) -> Result<(), String> {
        self.scratch.clear();
        shard.state().snapshot(&mut self.scratch);
        let (index, hash) = (shard.applied(), u64::from(crc(&self.scratch)));
        if *self.states.entry((at, index)).or_insert(hash) != hash {
            return Err(format!("group {at}: two states at {index}"));
        }
        Ok(())
    }

    /// A node's frame leaves it: a vote in it is given, whatever the node remembers later.
    pub(super) fn on_frame(&mut self, from: u32, to: u32, frame: &[u8]) -> Result<(), String> {
        let Ok(Some(frame)) = wire::split(frame, wire::limits::PEER_FRAME_BYTES_MAX) else {
            return Ok(());
        };
        let (term, candidate) = match frame.header.kind {
            Vote::KIND => match Vote::view(frame.body) {
                Ok(vote) if vote.pre == 0 => (vote.term, from),
                _ => return Ok(()),
            },
            VoteReply::KIND => match VoteReply::view(frame.body) {
                Ok(reply) if reply.pre == 0 && reply.granted == 1 => (reply.term, to),
                _ => return Ok(()),
            },
            _ => return Ok(()),
        };
        let group = frame.header.shard;
        let given = *self.votes.entry((group, term, from)).or_insert(candidate);
        if given != candidate {
            return Err(format!("group {group}: node {} votes twice in term {term}", from + 1));
        }
        Ok(())
    }
}

/// A checksum that is good enough to tell what differs by a bug.
fn crc(bytes: &[u8]) -> u32 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01b3);
        hash ^= hash >> 29;
    }
    (hash ^ (hash >> 32)) as u32
}
