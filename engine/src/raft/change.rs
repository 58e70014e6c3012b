//! Changes of membership: one replica at a time.
//!
//! A change appends a configuration that differs from the one before by one replica, so that any majority
//! of the one meets any majority of the other: there is one quorum to count, and one argument for safety.
//! (Joint consensus changes any number at once, and counts two majorities in every place that counts one.)
//! A replica first joins as a learner, catches up, and is promoted then, so that it never lessens what may fail.
//! Replacing a node is three entries: add, promote, remove.
//!
//! Majorities meet only between neighbours, hence the rules of [`Raft::change`]:
//!
//! - One change at a time: the next one waits until the one before is committed.
//! - A leader changes nothing before it has committed an entry of its own term. Otherwise:
//!
//! 1. Nodes 1 to 4 vote. Node 1 leads term 1 and adds node 5; only node 1 and node 5 have the entry.
//! 2. Node 2 leads term 2, elected by 2, 3 and 4. It never heard of that, removes node 4, and commits it on
//!    nodes 2 and 3, a majority of three.
//! 3. Node 1 leads term 3, elected by 1, 5 and 4 of its five, and cuts what was committed.
//!
//!    An entry of term 2 that is committed on three of the four comes first: node 1 then lacks it, and is
//!    not elected.
//!
//! A change after which too few of the voters answer is refused: it could neither be committed nor taken back.
//!
//! A leader may remove itself. Until that is committed it leads a group in which it does not count; then it
//! steps down, and asks the member that has most to campaign at once.
//!
//! # Sources
//!
//! Ongaro, Consensus: Bridging Theory and Practice, 2014, chapter 4; the same, "bug in single-server
//! membership changes", raft-dev, 2015.

use super::configuration::{Configuration, Member, Suffrage};
use super::output::{Body, Hold, Output};
use super::progress::{Progress, ProgressState};
use super::role::{Leader, Role};
use super::{Raft, Refused};
use crate::entry::kind;
use crate::ids::{Incarnation, Index, NodeId, Term};
use crate::limits::{MEMBERS_MAX, VOTERS_MAX};
use crate::mutant::{self, Mutant};
use crate::time::Time;
use alloc::vec::Vec;
use wire::peer;

/// One replica more, one less, or one that counts from now on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemberChange {
    /// A replica joins: it gets everything and counts for nothing.
    AddLearner {
        /// Its node.
        node: NodeId,
        /// Its life.
        incarnation: Incarnation,
    },
    /// A learner that caught up votes.
    Promote {
        /// Its node.
        node: NodeId,
        /// Its life.
        incarnation: Incarnation,
    },
    /// A replica belongs to the group no more.
    Remove {
        /// Its node.
        node: NodeId,
        /// Its life.
        incarnation: Incarnation,
    },
}

/// Why the members stay as they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ChangeError {
    /// Another replica leads, or none.
    #[error("this replica does not lead the group")]
    NotLeader,
    /// Too much is uncommitted, or leadership is being handed over.
    #[error("the group takes no more entries right now; try again")]
    Busy,
    /// The leader has not committed an entry of its own term.
    #[error("the leader has committed nothing of its own yet; try again")]
    Unopened,
    /// An earlier change is not committed.
    #[error("the change at {index} is not committed yet; try again")]
    InFlight {
        /// Where it stands in the log.
        index: Index,
    },
    /// The node is a member, or votes, already; perhaps in another life.
    #[error("node {node} is that already, or belongs to the group in another life")]
    Known {
        /// The node.
        node: NodeId,
    },
    /// There is no such member.
    #[error("node {node} does not belong to the group, not in this life")]
    Unknown {
        /// The node.
        node: NodeId,
    },
    /// The learner lacks too much, or is silent.
    #[error("node {node} has not caught up: it has {matched}, the leader {last}; try again")]
    Behind {
        /// The node.
        node: NodeId,
        /// Up to where it has the log.
        matched: Index,
        /// Where the leader's log ends.
        last: Index,
    },
    /// The group has as many members, or voters, as it may have.
    #[error("a group has at most {VOTERS_MAX} voters and {MEMBERS_MAX} members")]
    TooMany,
    /// Of those who would vote then, so few were heard that nothing could be committed any more.
    #[error("too few of those who would vote answer; bring them back, or remove them first")]
    Silent,
    /// Nobody would be left to vote.
    #[error("node {node} is the last one that votes")]
    LastVoter {
        /// The node.
        node: NodeId,
    },
}

impl Raft {
    /// Changes who belongs to the group, from the append on; it leaves with the next [`Raft::flush`]. When
    /// [`Raft::commit`] has reached the index it can't be taken back.
    ///
    /// # Errors
    /// [`ChangeError`]; nothing is changed then.
    pub fn change(&mut self, change: MemberChange) -> Result<Index, ChangeError> {
        let Role::Leader(leader) = &self.role else { return Err(ChangeError::NotLeader) };
        self.check_own_room().map_err(|_| ChangeError::Busy)?;
        if !self.may_change_in_term(leader) {
            return Err(ChangeError::Unopened);
        }
        if let Some(index) = self.change_to_wait_for(leader) {
            return Err(ChangeError::InFlight { index });
        }
        let (next, alone) = (self.changed(change)?, self.is_alone());
        if self.heard(&next) < next.majority() {
            return Err(ChangeError::Silent);
        }
        assert!(next.voters().count() > 0, "somebody votes");
        assert!(next.members().len() <= MEMBERS_MAX, "a group is small");
        let index = self.append_members(&next);
        assert_eq!(self.log.configuration_index(), index, "it holds from its append on");
        self.follow_members();
        if let Role::Leader(leader) = &mut self.role
            && alone
        {
            // Until now it was the majority that it heard.
            leader.since = self.now;
        }
        Ok(index)
    }

    /// A leader changes nothing before it has committed an entry of its own term.
    fn may_change_in_term(&self, leader: &Leader) -> bool {
        self.has_committed_in_term(leader) || mutant::on(Mutant::ChangeBeforeOwnCommit)
    }

    /// One change at a time: the one before, unless it is committed.
    fn change_to_wait_for(&self, leader: &Leader) -> Option<Index> {
        let overlaps = mutant::on(Mutant::ChangesOverlap);
        let early =
            mutant::on(Mutant::ChangeBeforeOwnCommit) && !self.has_committed_in_term(leader);
        if overlaps || early { None } else { self.change_in_flight() }
    }

    /// Whether this leader has yet to agree with the others for how long they are loyal to it, and may now.
    pub fn is_to_agree(&self) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        let agreed = self.configuration().loyalty() == self.election_timeout_min;
        !agreed && self.is_settled(leader)
    }

    /// Agrees with them: an entry with the same members says so. What they echoed before they have it counts for no
    /// lease of the new length.
    ///
    /// # Errors
    /// [`Refused`]: it is to be tried again.
    pub fn agree(&mut self) -> Result<Index, Refused> {
        self.check_own_room()?;
        let next = self.configuration().clone().with_loyalty(self.election_timeout_min);
        let index = self.append_members(&next);
        if let Role::Leader(leader) = &mut self.role {
            (leader.agreed, leader.leased) = (index, None);
        }
        Ok(index)
    }

    fn changed(&self, change: MemberChange) -> Result<Configuration, ChangeError> {
        let now = self.configuration();
        let (MemberChange::AddLearner { node, incarnation }
        | MemberChange::Promote { node, incarnation }
        | MemberChange::Remove { node, incarnation }) = change;
        let there = now.member(node).filter(|m| m.incarnation == incarnation);
        match (change, there) {
            (MemberChange::AddLearner { .. }, _) => {
                if now.member(node).is_some() {
                    return Err(ChangeError::Known { node });
                }
                if now.members().len() >= MEMBERS_MAX {
                    return Err(ChangeError::TooMany);
                }
                Ok(now.with(Member { node, incarnation, suffrage: Suffrage::Learner }))
            }
            (_, None) => Err(ChangeError::Unknown { node }),
            (MemberChange::Promote { .. }, Some(member)) => {
                if member.suffrage == Suffrage::Voter {
                    return Err(ChangeError::Known { node });
                }
                if now.voters().count() >= VOTERS_MAX {
                    return Err(ChangeError::TooMany);
                }
                self.check_caught_up(node)?;
                Ok(now.with(Member { suffrage: Suffrage::Voter, ..*member }))
            }
            (MemberChange::Remove { .. }, Some(_)) => {
                let next = now.without(node);
                let left = next.voters().count();
                if left == 0 { Err(ChangeError::LastVoter { node }) } else { Ok(next) }
            }
        }
    }

    /// How many voters of a configuration were heard a short while ago, this replica included.
    fn heard(&self, configuration: &Configuration) -> usize {
        let (now, patience) = (self.now, self.election_timeout_max);
        let heard = |member: &&Member| {
            let of_it =
                |f: &&Progress| f.node == member.node && f.incarnation == member.incarnation;
            let follower = self.progress().iter().find(of_it);
            let heard = |f: &Progress| f.is_heard(now, patience) && !f.is_absent();
            member.node == self.node || follower.is_some_and(heard)
        };
        configuration.voters().filter(heard).count()
    }

    /// A learner has caught up when it is sent entries as they come, lacks few of them, and answered within
    /// the last two heartbeats.
    fn check_caught_up(&self, node: NodeId) -> Result<(), ChangeError> {
        let (last, patience) = (self.log.last_index(), self.heartbeat * 2);
        let follower = self.progress().iter().find(|f| f.node == node);
        let follower = follower.expect("every other member is followed");
        let close = follower.matched.0 + self.limits.learner_lag >= last.0;
        if close
            && follower.state == ProgressState::Replicate
            && follower.is_heard(self.now, patience)
        {
            return Ok(());
        }
        Err(ChangeError::Behind { node, matched: follower.matched, last })
    }

    pub(super) fn append_members(&mut self, configuration: &Configuration) -> Index {
        let mut payload = Vec::new();
        configuration.encode(&mut payload);
        self.append_own(kind::MEMBERS, &payload)
    }

    /// Follows those who belong to the group now, and nobody else.
    fn follow_members(&mut self) {
        let Role::Leader(leader) = &mut self.role else { return };
        let next = self.log.last_index();
        let (before, stamp) = (core::mem::take(&mut leader.followers), leader.stamp);
        let others = self.log.configuration().members().iter().filter(|m| m.node != self.node);
        leader.followers = others
            .map(|member| {
                let same =
                    |f: &&Progress| f.node == member.node && f.incarnation == member.incarnation;
                match before.iter().find(same) {
                    Some(known) => Progress { suffrage: member.suffrage, ..*known },
                    None => Progress::joining(member, next, stamp),
                }
            })
            .collect();
    }

    /// A node says that it keeps no replica of the group; `sent_at` is the stamp that it answers.
    pub fn on_absent(&mut self, node: NodeId, sent_at: Time) {
        if let Role::Leader(leader) = &mut self.role
            && let Some(follower) = leader.followers.iter_mut().find(|f| f.node == node)
        {
            follower.on_absent(sent_at);
        }
    }

    /// A replica that hears no leader asks whether it belongs to the group. If it does not, by what is committed,
    /// it is told. One that knows of a higher term would not believe it: that term is gone past first.
    pub fn on_stray(&mut self, now: Time, from: NodeId, m: &peer::Stray, out: &mut Output) {
        self.advance(now);
        let (life, term) = (Incarnation(m.incarnation), Term(m.term));
        if term > self.term && self.is_outside(from, life) {
            self.adopt_term(term, out);
        } else {
            self.dismiss(from, life, out);
        }
    }

    /// Tells a replica that it does not belong to the group, if that is so.
    pub(super) fn dismiss(&self, node: NodeId, incarnation: Incarnation, out: &mut Output) {
        if self.is_outside(node, incarnation) {
            let leave = peer::Leave { term: self.term.0, incarnation: incarnation.0 };
            out.send(node, Hold::Now, Body::Leave(leave));
        }
    }

    /// Whether this leader knows, by what is committed, that the replica does not belong to the group.
    fn is_outside(&self, node: NodeId, incarnation: Incarnation) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        self.may_dismiss(leader) && !self.configuration().has_replica(node, incarnation)
    }

    /// Nobody is told to leave before it is committed who belongs to the group.
    fn may_dismiss(&self, leader: &Leader) -> bool {
        self.is_settled(leader) || mutant::on(Mutant::LeaveBeforeCommit)
    }

    /// Whether this leader knows that its configuration is committed.
    fn is_settled(&self, leader: &Leader) -> bool {
        self.has_committed_in_term(leader) && self.change_in_flight().is_none()
    }

    /// A leader whose own removal is committed steps down, and asks the voter that has most to campaign: this
    /// leader's lease ends with its leadership.
    pub(super) fn leave_if_removed(&mut self, out: &mut Output) {
        let Role::Leader(leader) = &self.role else { return };
        if self.is_voter() || self.change_in_flight().is_some() {
            return;
        }
        let voters = leader.followers.iter().filter(|f| f.counts());
        let successor = voters.max_by_key(|f| f.matched).map(|f| f.node);
        self.become_follower(self.term, None);
        if let Some(to) = successor {
            let body = Body::TimeoutNow(peer::TimeoutNow { term: self.term.0 });
            out.send(to, Hold::Now, body);
        }
    }
}
