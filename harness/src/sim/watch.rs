//! Looks into the nodes after each turn, and at what they say: the invariants of Raft, held directly.
//!
//! - A term of a group has one leader at most, and a node gives one vote in it.
//! - What one node knows to be committed, no node knows otherwise: same index, same bytes.
//! - What a leader commits by counting is of its own term, and durable on a majority at that moment.
//! - Nobody is elected while the lease of an earlier term lasts.
//! - No replica ends that votes by what is committed.
//! - Equal states, and equal members, at equal index.
//!
//! All of it is cheap: only what changed in a turn is looked at.

use engine::engine::Engine;
use engine::ids::{GroupId, Incarnation, Index, NodeId, Term};
use engine::raft::Configuration;
use engine::shard::Shard;
use engine::time::Time;
use std::collections::BTreeMap;
use wire::peer::{Vote, VoteReply};

/// States are compared at every so manieth index at which a turn ends.
const STATES_EVERY: u64 = 8;

/// What was last seen of a group on a node.
#[derive(Clone, Copy)]
struct Seen {
    life: Incarnation,
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
        life: Incarnation([0; 16]),
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
    seen: BTreeMap<(u32, GroupId), Seen>,
    /// What was seen of replicas whose disks were lost. What they answered before still counts.
    lost: Vec<((u32, GroupId), Seen)>,
    /// By group and term.
    leaders: BTreeMap<(GroupId, u64), u32>,
    /// Who got a replica's vote, by group, term and life.
    votes: BTreeMap<(u32, u64, [u8; 16]), u32>,
    /// The checksum of what is committed, by group and index.
    committed: BTreeMap<(GroupId, Index), u32>,
    /// The hash of the state, by group and index.
    states: BTreeMap<(GroupId, Index), u64>,
    /// Who belongs to each group by what is committed, up to where that is known.
    members: BTreeMap<GroupId, (Index, Configuration)>,
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
        if self.seen.keys().filter(|(n, _)| *n == node).count() > engine.shards().len() {
            let kept = |group| engine.shards().iter().any(|shard| shard.group() == group);
            let gone = self.seen.iter().filter(|((n, group), _)| *n == node && !kept(*group));
            for ((_, group), seen) in gone {
                self.on_end(*group, node, seen.life)?;
            }
            self.seen.retain(|(n, group), _| *n != node || kept(*group));
        }
        for shard in engine.shards() {
            let at = shard.group();
            let before = self.seen.get(&(node, at)).copied().unwrap_or(Seen::NOTHING);
            let raft = shard.raft();
            if before.life != raft.incarnation() {
                self.on_end(at, node, before.life)?;
            }
            // Another life of the replica begins with nothing.
            let before = if before.life == raft.incarnation() { before } else { Seen::NOTHING };
            let now = Seen {
                life: raft.incarnation(),
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
                self.on_elected(time, at, node, now.term)?;
            }
            if now.commit > before.commit {
                self.on_commit(at, shard, before, now)?;
                did.committed |= now.leads;
            }
            let members = raft.log().configuration_at(now.commit);
            let known = self.members.get(&at).map_or(Index::ZERO, |(known, _)| *known);
            if now.commit > known && *members != Configuration::UNKNOWN {
                self.members.insert(at, (now.commit, members.clone()));
            }
            if now.applied > before.applied && now.applied.0.is_multiple_of(STATES_EVERY) {
                self.on_state(at, shard)?;
            }
        }
        Ok(did)
    }

    /// Who belongs to a group by what is committed.
    pub(super) fn members(&self, group: GroupId) -> Option<&Configuration> {
        self.members.get(&group).map(|(_, members)| members)
    }

    /// A replica ended: it must not be needed any more.
    fn on_end(&self, group: GroupId, node: u32, life: Incarnation) -> Result<(), String> {
        let members = self.members.get(&group).map(|(_, members)| members);
        if members.is_some_and(|members| members.is_voter(NodeId(node + 1), life)) {
            let node = node + 1;
            return Err(format!("group {group}: node {node} ends a replica that votes"));
        }
        Ok(())
    }

    /// A node fell: it answers nobody by any lease.
    pub(super) fn on_crash(&mut self, node: u32) {
        let of_node = self.seen.iter_mut().filter(|((n, _), _)| *n == node);
        of_node.for_each(|(_, seen)| seen.lease = None);
    }

    /// A node's disk is lost, with all that it promised by it.
    pub(super) fn on_disk_lost(&mut self, node: u32) {
        let of_node = self.seen.iter().filter(|((n, _), _)| *n == node);
        self.lost.extend(of_node.map(|(at, seen)| (*at, *seen)));
    }

    /// Whoever stood still and finds votes of an earlier term leads that one, and nobody follows.
    fn on_elected(&self, time: Time, at: GroupId, node: u32, term: u64) -> Result<(), String> {
        let others = self.seen.iter().filter(|((n, group), _)| *n != node && *group == at);
        for ((other, _), seen) in others {
            let older = seen.leads && seen.term < term;
            if older && seen.lease.is_some_and(|until| until > time) {
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
        at: GroupId,
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
        let held_by = |members: &Configuration| {
            let holds = |((n, group), seen): &((u32, GroupId), Seen)| {
                let counts = members.is_voter(NodeId(*n + 1), seen.life);
                *group == at && counts && seen.durable >= now.commit
            };
            let seen = self.seen.iter().map(|(at, seen)| (*at, *seen));
            seen.chain(self.lost.iter().copied()).filter(holds).count()
        };
        // It may have been counted before a change behind it was appended, in the same turn.
        let (newest, then) = (shard.raft().configuration(), log.configuration_at(now.commit));
        let held = held_by(newest);
        if held < newest.majority() && held_by(then) < then.majority() {
            let commit = now.commit;
            return Err(format!(
                "group {at}: {commit} is committed, and durable on {held} node(s)"
            ));
        }
        Ok(())
    }

    fn on_state(&mut self, at: GroupId, shard: &Shard) -> Result<(), String> {
        self.scratch.clear();
        shard.raft().log().configuration_at(shard.applied()).encode(&mut self.scratch);
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
        let (term, candidate, life) = match frame.header.kind {
            Vote::KIND => match Vote::view(frame.body) {
                Ok(vote) if vote.pre == 0 => (vote.term, from, vote.incarnation),
                _ => return Ok(()),
            },
            VoteReply::KIND => match VoteReply::view(frame.body) {
                Ok(reply) if reply.pre == 0 && reply.granted == 1 => {
                    (reply.term, to, reply.incarnation)
                }
                _ => return Ok(()),
            },
            _ => return Ok(()),
        };
        let group = frame.header.shard;
        let given = *self.votes.entry((group, term, life)).or_insert(candidate);
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
