//! From who keeps a group to who should: the leader changes its own group, one replica at a time.
//!
//! The placement says on which nodes a group belongs (see [`placement`](super::placement)), and every node knows
//! it, since it knows the cluster's nodes. A leader whose group's members differ takes the next step; no
//! mover beside the groups is needed, none can fail, and what a step needs, the leader knows best.
//!
//! # How it works
//!
//! 1. A replica that is gone for good (its node says, again and again, that it keeps none) is removed.
//! 2. A learner that belongs here is promoted once it caught up; one that does not is removed.
//! 3. A node that belongs here and keeps nothing is asked to [join](wire::peer::Join), and is added as a learner.
//! 4. Once everybody is there who belongs here, one that does not is removed; the leader itself last.
//!
//! So a group has never fewer voters than it should, but for those that are lost.
//!
//! - **Rate**: a step every [`STEP_EVERY`] at most, and one learner at a time for all groups that an engine leads:
//!   catching up is what costs.
//! - **A life for each replica**: group, term and index of the entry that adds it name it; that entry is
//!   proposed once. A node that lost its disk comes back as nobody, whatever it promised before.
//! - **Strays**: a replica that was removed hears no leader any more. After [`STRAY_AFTER`] it asks all nodes
//!   whether it still belongs to its group ([`wire::peer::Stray`]); a leader that knows says [`wire::peer::Leave`].
//!
//! # Invariants
//!
//! - A replica ends only by the word of a leader whose term is at least its own, and which has committed an
//!   entry of its term and no change since: so its removal is committed.

use crate::ids::{Incarnation, NodeId};
use crate::mutant::{self, Mutant};
use crate::raft::{Member, MemberChange, Raft, Suffrage};
use crate::time::{Duration, Time};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use wire::bytes::put_u64_at;

/// How often a step is tried.
const STEP_EVERY: Duration = Duration::from_millis(100);
/// How long a replica hears no leader before it asks whether it still belongs to its group.
const STRAY_AFTER: Duration = Duration::from_secs(3);

/// Where a group's replicas are to be, as one of them sees it.
#[derive(Debug)]
pub struct Moves {
    wanted: Vec<NodeId>,
    /// No step before.
    not_before: Time,
    /// Since when no leader is known, or when it was last asked.
    lonely_since: Option<Time>,
}

impl Moves {
    /// These nodes are to keep the group.
    pub fn new(wanted: Vec<NodeId>) -> Moves {
        Moves { wanted, not_before: Time::ZERO, lonely_since: None }
    }

    /// Other nodes are to keep it now.
    pub fn aim(&mut self, wanted: Vec<NodeId>) {
        assert!(!wanted.is_empty(), "somebody is to keep the group");
        self.wanted = wanted;
        self.not_before = Time::ZERO;
    }

    /// The nodes that are to keep the group.
    pub fn wanted(&self) -> &[NodeId] {
        &self.wanted
    }

    /// The change that the leader is to try now, if any. `linked` are the nodes that are reached, `may_add`
    /// says whether a learner may be added now.
    pub fn next(
        &mut self,
        now: Time,
        raft: &Raft,
        linked: &BTreeSet<NodeId>,
        may_add: bool,
    ) -> Option<MemberChange> {
        assert!(!self.wanted.is_empty(), "somebody is to keep the group");
        if now < self.not_before || raft.change_in_flight().is_some() || self.is_done(raft) {
            return None;
        }
        self.not_before = now + STEP_EVERY;
        let members = raft.configuration();
        if let Some(gone) = raft.progress().iter().find(|follower| follower.is_absent()) {
            return members.member(gone.node).map(remove);
        }
        let learners = || members.members().iter().filter(|m| m.suffrage == Suffrage::Learner);
        if let Some(learner) = learners().find(|learner| !self.wants(learner)) {
            return Some(remove(learner));
        }
        if let Some(Member { node, incarnation, .. }) = learners().next().copied() {
            return Some(MemberChange::Promote { node, incarnation });
        }
        let mut missing = self.wanted.iter().filter(|node| members.member(**node).is_none());
        if missing.clone().next().is_some() {
            let node = *missing.find(|node| may_add && linked.contains(node))?;
            return Some(MemberChange::AddLearner { node, incarnation: life(raft, node) });
        }
        let (own, mut others): (Vec<&Member>, Vec<&Member>) = (members.members().iter())
            .filter(|member| !self.wants(member))
            .partition(|member| raft.leader() == Some(member.node));
        // First who is not there anyway.
        others.sort_by_key(|member| linked.contains(&member.node));
        others.first().or(own.first()).copied().map(remove)
    }

    /// When the next step is due, at the latest.
    pub fn wake_at(&self, raft: &Raft) -> Time {
        if raft.is_leader() {
            let waits = self.is_done(raft) || raft.change_in_flight().is_some();
            return if waits { Time::MAX } else { self.not_before };
        }
        self.lonely_since.map_or(Time::MAX, |since| since + STRAY_AFTER)
    }

    /// Whether this replica is to ask now whether it still belongs to its group.
    pub fn is_astray(&mut self, now: Time, raft: &Raft) -> bool {
        if raft.leader().is_some() {
            self.lonely_since = None;
            return false;
        }
        let since = *self.lonely_since.get_or_insert(now);
        let asks = now >= since + STRAY_AFTER;
        if asks {
            self.lonely_since = Some(now);
        }
        asks
    }

    fn wants(&self, member: &Member) -> bool {
        self.wanted.contains(&member.node)
    }

    /// Whether the members are the wanted ones, and all of them are there.
    pub fn is_done(&self, raft: &Raft) -> bool {
        let members = raft.configuration().members();
        members.len() == self.wanted.len()
            && members.iter().all(|m| m.suffrage == Suffrage::Voter && self.wants(m))
            && !raft.progress().iter().any(|follower| follower.is_absent())
    }
}

fn remove(member: &Member) -> MemberChange {
    MemberChange::Remove { node: member.node, incarnation: member.incarnation }
}

/// The life of a replica that the next entry of the log adds: no other entry is ever at its index and of its
/// term.
fn life(raft: &Raft, node: NodeId) -> Incarnation {
    let (term, entry) = next_entry(raft);
    let parts = [u64::from(raft.group().0), term, entry, u64::from(node.0)];
    let mut bytes = [0; 32];
    for (at, part) in parts.iter().enumerate() {
        put_u64_at(&mut bytes, 8 * at, *part);
    }
    let mut life = [0; 16];
    for half in 0..2 {
        put_u64_at(&mut life, 8 * half, xxhash_rust::xxh64::xxh64(&bytes, half as u64));
    }
    Incarnation(life)
}

/// What names a life: the term and the index behind which its entry is appended.
fn next_entry(raft: &Raft) -> (u64, u64) {
    if mutant::on(Mutant::LivesAreReused) { (0, 0) } else { (raft.term().0, raft.last_index().0) }
}
