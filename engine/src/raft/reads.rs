//! Reads: the lease, and ReadIndex.
//!
//! A follower that echoes stamp `s` received that message at or after the leader's moment `s`, and
//! votes for nobody within its loyalty of then. So once a majority echoed `s`, no other leader is elected
//! before `s + loyalty`, as long as clocks run at nearly the same rate: the lease ends a tenth earlier.
//!
//! For how long the others are loyal is nothing that the leader's own settings say:
//!
//! 1. Node 1 has election timeouts of 3 s, nodes 2 and 3 the default. Node 1 leads, and is cut off.
//! 2. After 0.3 s node 2 is elected, and acknowledges a write.
//! 3. By its own setting node 1 would answer from its state for 2 s more.
//!
//! So the loyalty is agreed, in the log ([`Configuration::loyalty`](super::Configuration)), by each leader that finds
//! another one there than its own shortest election timeout. A follower is counted for the lease only if it has that
//! entry durably: then it keeps to it, now and after a restart with whatever settings. One that lags, that joins, or
//! that runs a build which does not know of it has not, and if a majority has not there is no lease: reads ask.
//! A later leader may agree on less, since there is none before the lease of the one before has ended.

use super::Raft;
use super::quiet::{QuietLeader, quorum_lost_at};
use super::role::{Leader, Role};
use crate::mutant::{self, Mutant};
use crate::time::{Duration, Time};

/// The part of the lease that is given away to clocks that drift: one in so many.
const LEASE_DRIFT_DIVISOR: u32 = 10;

/// How reads are made linearizable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadMode {
    /// The leader answers at once while its lease is valid.
    Lease,
    /// The leader asks a majority first (Raft thesis, section 6.4).
    ReadIndex,
}

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
        if !self.has_committed_in_term(leader) {
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
        self.lease_from(self.leased_at())
    }

    /// Whether this leader has committed an entry of its term, and a majority followed it a short while ago: within
    /// the shortest election timeout.
    pub fn is_confirmed(&self, now: Time) -> bool {
        let recent = |at: Time| self.is_alone() || now < at + self.election_timeout_min;
        self.confirmed_at().is_some_and(recent)
    }

    /// [`Raft::confirmed_at`] by those alone who are known to have what was agreed about loyalty.
    pub(super) fn leased_at(&self) -> Option<Time> {
        let Role::Leader(leader) = &self.role else { return None };
        let confirmed = self.confirmed_at()?;
        if self.is_sure_of_loyalty() { Some(confirmed) } else { leader.leased }
    }

    /// Whether it need not be counted who has what was agreed about loyalty: there is nobody else who votes.
    fn is_sure_of_loyalty(&self) -> bool {
        self.is_alone() || mutant::on(Mutant::UnequalTimeoutsTrusted)
    }

    pub(super) fn lease_from(&self, confirmed: Option<Time>) -> Option<Time> {
        let Role::Leader(leader) = &self.role else { return None };
        if self.reads != ReadMode::Lease || has_given_lease_up(leader) {
            return None;
        }
        let lasts = self.lease_lasts()?;
        confirmed.map(|at| at + lasts)
    }

    /// A lease ends, and before the loyalty that it rests on: there is none where none was agreed.
    fn lease_lasts(&self) -> Option<Duration> {
        if mutant::on(Mutant::LeaseForEver) {
            return Some(Duration::MAX);
        }
        let loyalty = self.loyalty_of_others();
        let margin = drift_margin(loyalty);
        assert!(margin <= loyalty, "the margin is a part of it");
        (loyalty > Duration::ZERO).then(|| loyalty - margin)
    }

    /// A lease rests on what was agreed in the log, and not on this leader's own election timeout.
    fn loyalty_of_others(&self) -> Duration {
        let own = mutant::on(Mutant::UnequalTimeoutsTrusted);
        if own { self.election_timeout_min } else { self.configuration().loyalty() }
    }

    /// How a read that arrived at `now` is to be made: by the lease at most if `reads` says so. [`Read::After`] sends a round of heartbeats with
    /// the next [`Raft::flush`]; all reads of a turn share it.
    pub fn read(&mut self, now: Time, reads: ReadMode) -> Read {
        self.advance(now);
        let valid = reads == ReadMode::Lease && self.lease_until().is_some_and(|until| now < until);
        let alone = self.is_alone();
        let unasked = self.reads_unasked();
        let Role::Leader(leader) = &mut self.role else { return Read::NotLeader };
        if valid || unasked {
            return Read::Ready;
        }
        leader.beat |= !alone;
        // Alone, the clock itself confirms; with others, an answer to a message yet to be sent.
        Read::After(if alone { now } else { confirms_read(leader, now) })
    }

    /// Without a lease only a leader that is alone, and knows what is committed, asks nobody.
    fn reads_unasked(&self) -> bool {
        let alone = self.is_alone() || mutant::on(Mutant::ReadUnconfirmed);
        let Role::Leader(leader) = &self.role else { return false };
        alone && self.has_committed_in_term(leader)
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
        let voters = leader.followers.iter().filter(|f| f.counts());
        let agreed = leader.agreed;
        let echoes = voters.map(|f| f.echoed.filter(|_| f.matched >= agreed)).chain(own);
        leader.leased = leader.leased.max(self.log.configuration().majority_reaches(echoes));
        assert!(leader.leased <= leader.confirmed, "who is counted for a lease is a part of all");
    }

    pub(super) fn quorum_lost_at(&self, leader: &Leader) -> Time {
        quorum_lost_at(self.heard_majority_at(leader), self.election_timeout_max)
    }
}

/// A leader that asked another to campaign answers by no lease any more.
fn has_given_lease_up(leader: &Leader) -> bool {
    leader.lease_given_up && !mutant::on(Mutant::LeaseOutlivesHandOver)
}

/// What of a lease is given away to clocks that drift.
fn drift_margin(loyalty: Duration) -> Duration {
    if mutant::on(Mutant::LeaseWithoutMargin) {
        return Duration::ZERO;
    }
    loyalty / LEASE_DRIFT_DIVISOR
}

/// A read that came at `now` is confirmed by the echo of a stamp that is given out after it.
fn confirms_read(leader: &Leader, now: Time) -> Time {
    let older = mutant::on(Mutant::ReadIndexByOlderStamp);
    if older { leader.stamp } else { leader.next_stamp(now) }
}
