//! A follower, as its leader sees it.
//!
//! ```text
//!              agrees                     rejects, link down
//!   Probe ----------------> Replicate ----------------------> Probe
//!     |                         |                               ^
//!     |  next is gone from the log                              | the snapshot is installed,
//!     +-----------> Snapshot <--+                               | or the link is down
//!                      +----------------------------------------+
//! ```
//!
//! A new leader is hopeful: each follower starts in Replicate. One that was just added starts in Probe.

use super::configuration::{Member, Suffrage};
use crate::ids::{Incarnation, Index, NodeId};
use crate::mutant::{self, Mutant};
use crate::time::{Duration, Time};

/// So often in a row is it said that a replica is gone before it is believed: a first question may overtake what
/// made it.
const ABSENT_AFTER: u8 = 3;

/// What the leader knows of one follower.
///
/// Invariant: `matched < next`, and `matched` never falls.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// The follower.
    pub node: NodeId,
    /// With which life it was admitted.
    pub(super) incarnation: Incarnation,
    /// Whether it counts.
    pub suffrage: Suffrage,
    /// Up to here its log is durable and agrees with the leader's.
    pub matched: Index,
    /// What to send next.
    pub next: Index,
    /// How it is sent to.
    pub state: ProgressState,
    /// In Replicate: what is on its way begins after this index, or after `matched`.
    pub(super) sent_after: Index,
    /// The newest stamp of the leader that it echoed.
    pub echoed: Option<Time>,
    /// When it was last heard.
    pub heard_at: Option<Time>,
    /// A refusal that answers an older stamp than this is stale: it was acted on already.
    pub(super) floor: Time,
    /// How often in a row its node said that it keeps no such replica.
    pub(super) absences: u8,
}

/// How a follower is sent to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProgressState {
    /// Where the logs agree is not known: heartbeats ask, one at a time.
    Probe(Due),
    /// Entries are sent as they come, without waiting for answers.
    Replicate,
    /// What it needs is gone from the log: it gets a snapshot.
    Snapshot(Sending),
}

/// Whether a message is due at the next flush.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Due {
    /// At the next flush.
    Now,
    /// With the next heartbeat.
    Later,
}

/// How far a snapshot has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sending {
    /// It is being made.
    Wanted,
    /// It is being sent.
    Pieces {
        /// The index that it stands for.
        index: Index,
        /// Bytes that the follower has.
        received: u64,
        /// Bytes that were sent.
        sent: u64,
        /// When it last came further.
        moved_at: Time,
    },
}

impl Progress {
    pub(super) fn new(member: &Member, next: Index) -> Progress {
        Progress {
            node: member.node,
            incarnation: member.incarnation,
            suffrage: member.suffrage,
            matched: Index::ZERO,
            next,
            state: ProgressState::Replicate,
            sent_after: next.prev(),
            echoed: None,
            heard_at: None,
            floor: Time::ZERO,
            absences: 0,
        }
    }

    /// One that was just added: what it has is asked first. What answers a stamp up to `stamp` is about another.
    pub(super) fn joining(member: &Member, next: Index, stamp: Time) -> Progress {
        let floor = stamp + Duration::from_nanos(1);
        Progress { state: ProgressState::Probe(Due::Now), floor, ..Progress::new(member, next) }
    }

    /// Its node says that it keeps no such replica.
    pub(super) fn on_absent(&mut self, sent_at: Time) {
        if sent_at >= self.floor {
            self.absences = self.absences.saturating_add(1);
        }
    }

    /// Whether it is gone for good: its node has said so more than once, and what it had told is void.
    pub fn is_absent(&self) -> bool {
        self.absences >= ABSENT_AFTER
    }

    /// The state's name, for people.
    pub fn state_name(&self) -> &'static str {
        match self.state {
            _ if self.is_absent() => "absent",
            ProgressState::Probe(_) => "probe",
            ProgressState::Replicate => "replicate",
            ProgressState::Snapshot(_) => "snapshot",
        }
    }

    /// Whether it votes.
    pub(super) fn counts(&self) -> bool {
        self.suffrage == Suffrage::Voter
    }

    /// How long it was not heard, since it was added at the earliest.
    pub fn silence(&self, now: Time) -> Duration {
        now.since(self.heard_at.unwrap_or(self.floor))
    }

    /// Whether it was heard within `patience`.
    pub(super) fn is_heard(&self, now: Time, patience: Duration) -> bool {
        self.heard_at.is_some_and(|at| at + patience >= now)
    }

    /// Asks again where the logs agree, just before `next`.
    pub(super) fn probe(&mut self, next: Index, due: Due) {
        self.next = next.max(self.matched.next());
        self.state = ProgressState::Probe(due);
    }

    /// The logs agree just before `next`: from there on entries are sent as they come.
    pub(super) fn replicate(&mut self) {
        assert!(self.matched < self.next, "what is matched is not sent again");
        self.sent_after = self.next.prev();
        self.state = ProgressState::Replicate;
    }

    /// The follower echoed a stamp, which is at most the last one given out.
    pub(super) fn on_echo(&mut self, now: Time, echo: u64, stamp_last: Time) {
        self.absences = 0;
        let echo = counts_from(Time(echo), stamp_last);
        if echo > Time::ZERO && echo <= stamp_last {
            self.echoed = self.echoed.max(Some(echo));
        }
        self.heard_at = Some(now);
    }

    /// The follower has everything up to `index` durably.
    pub(super) fn on_matched(&mut self, index: Index) {
        self.matched = self.matched.max(index);
        self.next = self.next.max(self.matched.next());
        assert!(self.matched >= index, "what is matched never falls");
    }
}

/// An echo counts from when the leader asked, and not from when the answer came.
fn counts_from(asked_at: Time, stamp_last: Time) -> Time {
    if mutant::on(Mutant::LeaseFromReply) { stamp_last } else { asked_at }
}
