//! The roles, each owning what exists only in it.

use super::configuration::Seats;
use super::progress::Progress;
use crate::ids::{Index, NodeId, Term};
use crate::time::Time;
use alloc::vec::Vec;

/// What this replica is to the group right now.
#[cfg_attr(test, derive(Clone))]
pub(super) enum Role {
    Follower(Follower),
    /// Asks whether it would be elected, without a new term.
    PreCandidate(Tally),
    /// Asks for votes in its term.
    Candidate(Candidate),
    Leader(Leader),
}

/// Follows a leader, or waits for one.
#[cfg_attr(test, derive(Clone))]
pub(super) struct Follower {
    pub leader: Option<NodeId>,
    /// Up to here the log agrees with the leader's; at least the commit index, which every leader has.
    pub agreed: Index,
    /// The newest stamp heard from this leader.
    pub echo: u64,
    /// The last index that was acknowledged to this leader.
    pub acknowledged: Index,
    pub due: Answer,
    pub receiving: Option<Receiving>,
}

/// What is owed to the leader at the end of the turn.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Answer {
    pub acknowledge: bool,
    /// The leader should probe at this index, of this term.
    pub reject: Option<(Index, Term)>,
    /// How much of the snapshot at this index is here.
    pub received: Option<(Index, u64)>,
}

impl Answer {
    pub fn is_nothing(&self) -> bool {
        !self.acknowledge && self.reject.is_none() && self.received.is_none()
    }
}

/// A snapshot that is coming in, piece by piece.
#[derive(Clone, Copy, Debug)]
pub(super) struct Receiving {
    pub index: Index,
    pub term: Term,
    pub total: u64,
    pub received: u64,
    /// When its last piece came.
    pub at: Time,
}

impl Follower {
    pub fn new(leader: Option<NodeId>, commit: Index) -> Follower {
        Follower {
            leader,
            agreed: commit,
            echo: 0,
            acknowledged: Index::ZERO,
            due: Answer::default(),
            receiving: None,
        }
    }

    /// What holds of whoever follows, with a log that ends at `last`.
    pub fn check(&self, last: Index) {
        assert!(self.agreed <= last, "what agrees with the leader's log is here");
        assert!(self.acknowledged <= self.agreed, "nothing else is acknowledged");
        if let Some(receiving) = &self.receiving {
            assert!(receiving.received <= receiving.total, "a snapshot ends where it was said");
        }
    }
}

/// Votes for and against, by seat.
#[derive(Clone, Copy, Default)]
pub(super) struct Tally {
    pub granted: Seats,
}

/// Campaigns in its term.
#[cfg_attr(test, derive(Clone))]
pub(super) struct Candidate {
    pub tally: Tally,
}

/// Leads its term.
#[cfg_attr(test, derive(Clone))]
pub(super) struct Leader {
    /// The other members, in the order of their ids.
    pub followers: Vec<Progress>,
    /// The entry that opened the term: once it is committed, so is everything before it.
    pub opened: Index,
    pub since: Time,
    /// The newest stamp that a majority echoed.
    pub confirmed: Option<Time>,
    /// Who has the log up to here has what was agreed about loyalty: it can be counted for a lease.
    pub agreed: Index,
    /// The newest stamp that a majority of those echoed.
    pub leased: Option<Time>,
    /// The newest stamp given out. Stamps are this node's clock, and strictly rise.
    pub stamp: Time,
    pub beat_at: Time,
    /// A round of heartbeats leaves with the next flush.
    pub beat: bool,
    /// The lease was given up: once another was asked to campaign, its voters need not wait for this
    /// leader's silence any more, at whatever time they hear of it.
    pub lease_given_up: bool,
    pub transfer: Option<Transfer>,
    pub offer: Option<Offer>,
    /// When a snapshot was asked for that did not come yet.
    pub asked_at: Option<Time>,
    /// The index of the one that is being made: its followers will need the log from there on.
    pub making: Option<Index>,
}

/// Leadership is to go to another.
#[derive(Clone, Copy)]
pub(super) struct Transfer {
    pub to: NodeId,
    pub until: Time,
    pub asked: bool,
}

/// A snapshot that can be sent.
#[derive(Clone, Copy)]
pub(super) struct Offer {
    pub index: Index,
    pub term: Term,
    pub total: u64,
    /// When a follower last needed it.
    pub needed_at: Time,
}

impl Leader {
    /// A new stamp.
    pub fn take_stamp(&mut self, now: Time) -> Time {
        let stamp = self.next_stamp(now);
        assert!(stamp > self.stamp, "no stamp is given out twice");
        self.stamp = stamp;
        stamp
    }

    /// What holds of whoever leads, with a log that ends at `last`.
    pub fn check(&self, last: Index) {
        assert!(self.opened <= last, "a term begins with an entry");
        assert!(self.agreed <= last, "what was agreed stands in the log");
        assert!(self.confirmed <= Some(self.stamp), "no echo is newer than what was sent");
        for follower in &self.followers {
            assert!(follower.matched < follower.next, "what is matched is not sent again");
            assert!(follower.matched <= last, "nobody agrees past the end");
        }
    }

    /// What the next stamp will be at least.
    pub fn next_stamp(&self, now: Time) -> Time {
        now.max(Time(self.stamp.0 + 1))
    }
}
