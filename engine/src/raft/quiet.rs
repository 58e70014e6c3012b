//! A replica to which nothing happens: only heartbeats come and go.
//!
//! A thousand idle groups are not worth looking at twenty times a second each. What it takes to send their
//! heartbeats, to answer them and to count the answers is little, and lies beside the others' in one place: a
//! [`Quiet`]. The replica itself is left alone. Before anything else happens to it, it is told what came meanwhile, by
//! [`Raft::wake`]: the last heartbeat, the newest echoes. To it that is as if those before had been lost on the way.
//!
//! # Invariants
//!
//! - Nothing is asked of a replica, and nothing is told to it, between [`Raft::quiet`] and [`Raft::wake`].
//! - What is answered here is what the replica would answer: all of its log is durable, committed and applied.

use super::Raft;
use super::progress::ProgressState;
use super::role::Role;
use crate::ids::{GroupId, Incarnation, Index, NodeId, Term};
use crate::limits::VOTERS_MAX;
use crate::time::{Duration, Time};
use alloc::vec::Vec;
use core::cmp::Reverse;
use wire::peer::{Append, AppendReply};

/// What goes on beside a replica that is left alone.
pub enum Quiet {
    /// It follows.
    Follows(QuietFollower),
    /// It leads.
    Leads(QuietLeader),
}

/// Answers heartbeats.
pub struct QuietFollower {
    leader: NodeId,
    /// The last entry, the leader's last as well.
    log: End,
    incarnation: Incarnation,
    /// The newest stamp heard.
    echo: u64,
    heard_at: Option<Time>,
    timeout: Duration,
    campaign_at: Time,
}

/// Sends heartbeats, and counts the answers.
pub struct QuietLeader {
    log: End,
    /// The newest stamp given out.
    stamp: Time,
    beat_at: Time,
    heartbeat: Duration,
    followers: Vec<Echo>,
    /// So many of them make a majority with the leader.
    needed: usize,
    /// How long a majority may be silent.
    patience: Duration,
    lost_at: Time,
    /// The newest stamp that a majority echoed meanwhile.
    pub(super) confirmed: Time,
}

/// Where a group's log ends, and the leader's term.
#[derive(Clone, Copy)]
struct End {
    group: GroupId,
    term: Term,
    index: Index,
    index_term: Term,
}

struct Echo {
    node: NodeId,
    incarnation: Incarnation,
    echoed: u64,
    heard_at: Option<Time>,
}

impl Quiet {
    /// When the replica has to be woken, at the latest: then the others were silent for too long.
    pub fn deadline(&self) -> Time {
        match self {
            Quiet::Follows(quiet) => quiet.campaign_at,
            Quiet::Leads(quiet) => quiet.lost_at,
        }
    }
}

impl QuietFollower {
    /// Answers a heartbeat; `None`: it is something else, and the replica has to see it.
    pub fn on_append(&mut self, now: Time, from: NodeId, m: &Append<'_>) -> Option<AppendReply> {
        let End { term, index, index_term, .. } = self.log;
        let same = Term(m.term) == term
            && Index(m.prev_index) == index
            && Term(m.prev_term) == index_term
            && Index(m.commit) <= index;
        if from != self.leader || !same || m.count > 0 || !m.entries.is_empty() {
            return None;
        }
        self.echo = self.echo.max(m.sent_at);
        self.heard_at = Some(now);
        self.campaign_at = now + self.timeout;
        Some(AppendReply {
            term: term.0,
            index: index.0,
            index_term: 0,
            sent_at: self.echo,
            incarnation: self.incarnation.0,
            reject: 0,
        })
    }
}

impl QuietLeader {
    /// The group.
    pub fn group(&self) -> GroupId {
        self.log.group
    }

    /// When a follower was heard last, if it was since the leader is left alone.
    pub fn heard_at(&self, node: NodeId) -> Option<Time> {
        self.followers.iter().find(|it| it.node == node)?.heard_at
    }

    /// When the next heartbeats are due.
    pub fn beat_at(&self) -> Time {
        self.beat_at
    }

    /// The heartbeat that is due, and for whom.
    pub fn beat(&mut self, now: Time) -> (Append<'static>, impl Iterator<Item = NodeId>) {
        self.stamp = now.max(self.stamp + Duration::from_nanos(1));
        self.beat_at = super::lead::next_beat(now, self.heartbeat);
        let End { term, index, index_term, .. } = self.log;
        let heartbeat = Append {
            term: term.0,
            prev_index: index.0,
            prev_term: index_term.0,
            commit: index.0,
            sent_at: self.stamp.0,
            count: 0,
            entries: &[],
        };
        (heartbeat, self.followers.iter().map(|follower| follower.node))
    }

    /// Counts an answer. False: it is something else, and the replica has to see it.
    pub fn on_reply(&mut self, now: Time, from: NodeId, m: &AppendReply) -> bool {
        let same = Term(m.term) == self.log.term && Index(m.index) == self.log.index;
        let Some(follower) = self.followers.iter_mut().find(|it| it.node == from) else {
            return false;
        };
        let known = follower.incarnation == Incarnation(m.incarnation);
        if !same || !known || m.reject != 0 || Time(m.sent_at) > self.stamp {
            return false;
        }
        follower.echoed = follower.echoed.max(m.sent_at);
        follower.heard_at = Some(now);
        let mut echoes = [0; VOTERS_MAX];
        for (echo, follower) in echoes.iter_mut().zip(&self.followers) {
            *echo = follower.echoed;
        }
        echoes.sort_unstable_by_key(|echo| Reverse(*echo));
        assert!(self.needed > 0, "one that is alone asks nobody");
        assert!(self.needed <= self.followers.len(), "a majority is a part of all");
        self.confirmed = Time(echoes[self.needed - 1]);
        self.lost_at = self.lost_at.max(quorum_lost_at(self.confirmed, self.patience));
        true
    }
}

/// When a leader steps down whom a majority followed at `confirmed`.
pub(super) fn quorum_lost_at(confirmed: Time, patience: Duration) -> Time {
    confirmed + patience + Duration::from_nanos(1)
}

impl Raft {
    /// What can go on beside this replica while it is left alone; nothing while something is under way.
    pub fn quiet(&self) -> Option<Quiet> {
        let index = self.log.last_index();
        let log =
            End { group: self.group, term: self.term, index, index_term: self.log.last_term() };
        let at_rest = [self.commit, self.applied, self.durability.durable()] == [index; 3];
        if !at_rest || self.durability.awaits_sync() || self.installing.is_some() {
            return None;
        }
        match &self.role {
            Role::Follower(it) => {
                let leader = it.leader?;
                let told = it.agreed == index && it.acknowledged == index && it.due.is_nothing();
                (told && it.receiving.is_none()).then_some(Quiet::Follows(QuietFollower {
                    leader,
                    log,
                    incarnation: self.incarnation,
                    echo: it.echo,
                    heard_at: None,
                    timeout: self.waits(),
                    campaign_at: self.campaign_at,
                }))
            }
            Role::Leader(it) => {
                let calm = self.is_voter()
                    && it.opened <= index
                    && !it.beat
                    && it.transfer.is_none()
                    && it.offer.is_none()
                    && it.asked_at.is_none();
                let level = it.followers.iter().all(|follower| {
                    follower.state == ProgressState::Replicate
                        && follower.matched == index
                        && follower.next == index.next()
                        && follower.counts()
                });
                let followers = it.followers.iter().map(|follower| Echo {
                    node: follower.node,
                    incarnation: follower.incarnation,
                    echoed: follower.echoed.map_or(0, |at| at.0),
                    heard_at: None,
                });
                let needed = self.configuration().majority() - 1;
                (calm && level).then(|| {
                    Quiet::Leads(QuietLeader {
                        log,
                        stamp: it.stamp,
                        beat_at: it.beat_at,
                        heartbeat: self.heartbeat,
                        followers: followers.collect(),
                        needed,
                        confirmed: Time::ZERO,
                        patience: self.election_timeout_max,
                        lost_at: if needed == 0 { Time::MAX } else { self.quorum_lost_at(it) },
                    })
                })
            }
            Role::PreCandidate(_) | Role::Candidate(_) => None,
        }
    }

    /// [`Raft::lease_until`] of a leader that is left alone.
    #[cfg(any(test, feature = "simulator"))]
    pub fn quiet_lease_until(&self, quiet: &QuietLeader) -> Option<Time> {
        self.lease_from(self.leased_at().map(|at| at.max(quiet.confirmed)))
    }

    /// Tells the replica what came while it was left alone.
    pub fn wake(&mut self, quiet: Quiet) {
        match (quiet, &mut self.role) {
            (Quiet::Follows(quiet), Role::Follower(it)) => {
                it.echo = quiet.echo;
                if let Some(at) = quiet.heard_at {
                    self.loyal_until = at + self.loyalty();
                    self.campaign_at = at + self.waits();
                }
            }
            (Quiet::Leads(quiet), Role::Leader(it)) => {
                (it.stamp, it.beat_at) = (quiet.stamp, quiet.beat_at);
                for (follower, echo) in it.followers.iter_mut().zip(&quiet.followers) {
                    assert_eq!(follower.node, echo.node, "the members did not change meanwhile");
                    if let Some(at) = echo.heard_at {
                        follower.on_echo(at, echo.echoed, quiet.stamp);
                    }
                }
                self.confirm();
            }
            _ => panic!("a replica that is left alone keeps its role"),
        }
    }
}
