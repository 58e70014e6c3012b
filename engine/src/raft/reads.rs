//! Reads: the lease, and ReadIndex.
//!
//! A follower that echoes stamp `s` received that message at or after the leader's moment `s`, and
//! votes for nobody within the shortest election timeout of then. So once a majority echoed `s`, no
//! other leader is elected before `s + election_timeout_min`, as long as clocks run at nearly the same
//! rate: the lease ends a tenth earlier.

use super::Raft;
use super::quiet::{QuietLeader, quorum_lost_at};
use super::role::{Leader, Role};
use crate::engine::Reads;
use crate::mutant::{self, Mutant};
use crate::time::{Duration, Time};

/// The part of the lease that is given away to clocks that drift: one in so many.
const LEASE_DRIFT_DIVISOR: u32 = 10;

/// How a read is to be made linearizable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Read {
    /// At once, from what is applied, which must be at least [`Raft::commit`].
    Ready,
    /// As soon as [`Raft::confirmed_at`] is at least this moment; then as for `Ready`.
    After(Time),
    /// Not here.
    NotLeader,
}

impl Raft {
    /// The newest moment of this leader's clock at which a majority is known to have still followed it.
    /// It only grows within a term. Nothing before an entry of the term is committed, since until
    /// then the leader does not know what is.
    pub fn confirmed_at(&self) -> Option<Time> {
        let Role::Leader(leader) = &self.role else { return None };
        if self.commit < leader.opened {
            return None;
        }
        if self.is_alone() { Some(self.now) } else { leader.confirmed }
    }

    /// How long ago [`Raft::confirmed_at`] was, also while the leader is left alone.
    pub fn confirmed_ago(&self, now: Time, quiet: Option<&QuietLeader>) -> Option<Duration> {
        let meanwhile = quiet.map_or(Time::ZERO, |quiet| quiet.confirmed);
        let at = self.confirmed_at()?.max(meanwhile);
        Some(if self.is_alone() { Duration::ZERO } else { now.since(at) })
    }

    /// How long a majority may be silent before this replica, if it leads, gives up.
    pub fn patience(&self) -> Duration {
        self.election_timeout_max
    }

    /// Until when this leader may answer by its lease; nothing if it has none.
    pub fn lease_until(&self) -> Option<Time> {
        self.lease_from(self.confirmed_at())
    }

    pub(super) fn lease_from(&self, confirmed: Option<Time>) -> Option<Time> {
        let Role::Leader(leader) = &self.role else { return None };
        let given_up = leader.lease_given_up && !mutant::on(Mutant::LeaseOutlivesHandOver);
        if self.reads != Reads::Lease || given_up {
            return None;
        }
        if mutant::on(Mutant::LeaseForEver) {
            return confirmed.map(|_| Time::MAX);
        }
        let margin = if mutant::on(Mutant::LeaseWithoutMargin) {
            Duration::ZERO
        } else {
            self.election_timeout_min / LEASE_DRIFT_DIVISOR
        };
        confirmed.map(|at| at + (self.election_timeout_min - margin))
    }

    /// How a read that arrived at `now` is to be made: by the lease at most if `reads` says so. [`Read::After`] sends a round of heartbeats with
    /// the next [`Raft::flush`]; all reads of a turn share it.
    pub fn read(&mut self, now: Time, reads: Reads) -> Read {
        self.advance(now);
        let valid = reads == Reads::Lease && self.lease_until().is_some_and(|until| now < until);
        let alone = self.is_alone();
        let opened = self.confirmed_at().is_some();
        let Role::Leader(leader) = &mut self.role else { return Read::NotLeader };
        let unasked = mutant::on(Mutant::ReadUnconfirmed) && self.commit >= leader.opened;
        if valid || (alone && opened) || unasked {
            return Read::Ready;
        }
        leader.beat |= !alone;
        // Alone, the clock itself confirms; with others, an answer to a message yet to be sent.
        Read::After(if alone { now } else { leader.next_stamp(now) })
    }

    /// When a majority was last known to follow this leader; its election counts.
    pub(super) fn heard_majority_at(&self, leader: &Leader) -> Time {
        if self.is_alone() {
            self.now
        } else {
            leader.confirmed.unwrap_or(leader.since).max(leader.since)
        }
    }

    /// A follower echoed something: a majority may have echoed more.
    pub(super) fn confirm(&mut self) {
        if self.is_alone() {
            // It needs no echo, and what it confirms to itself must not outlast its being alone.
            return;
        }
        let own = self.is_voter().then_some(Some(Time::MAX));
        let Role::Leader(leader) = &mut self.role else { return };
        let voters = leader.followers.iter().filter(|f| f.counts());
        let echoes = voters.map(|f| f.echoed).chain(own);
        let confirmed = self.log.configuration().majority_reaches(echoes);
        leader.confirmed = leader.confirmed.max(confirmed);
    }

    pub(super) fn quorum_lost_at(&self, leader: &Leader) -> Time {
        quorum_lost_at(self.heard_majority_at(leader), self.election_timeout_max)
    }
}
