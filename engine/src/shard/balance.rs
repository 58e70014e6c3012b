//! Leadership goes back to where the placement wants it, and away from a disk that stands still.
//!
//! The placement prefers one replica of each group, so that every node leads as many (see
//! [`placement`](super::placement)). After a failure others lead. A leader that is not the preferred one
//! hands over as soon as the preferred one has kept up for a while; nobody coordinates it. A leader whose
//! own disk stands still, while the others' disks go on, hands over to whoever has the most.
//!
//! # How it works
//!
//! - *A while* is [`Balance::new`]'s `after`, and a little more for each further group, so that the groups of
//!   a node that came back are not handed over all at once: while one is, what clients ask waits
//!   ([`stage`](super::stage)), for a round trip.
//! - *Kept up*: it is heard, is not suspected to be dead, replicates, and lags by at most [`LAG_BYTES_MAX`]; a lapse of [`LAPSE`] is
//!   forgiven. A message that is overtaken by another is a lapse: what it says is asked again.
//! - Each time that this replica hands over the same group it waits twice as long as before, up to
//!   eight times: a node that comes and goes does not take the group along each time.
//!
//! - Whoever asks for it gets leadership handed to whom it names, if that one could lead, but only a while
//!   ([`ASKED_EVERY`]) after the last hand-over and the election: anybody may ask, again and again.
//!
//! # Invariants
//!
//! - One hand-over at a time; it ends by itself after the longest election timeout.

use crate::ids::{Index, NodeId};
use crate::raft::{Progress, Raft};
use crate::time::{Duration, Time};
use alloc::collections::BTreeSet;

/// How long the preferred replica has kept up before a server hands over to it.
pub const BALANCE_AFTER: Duration = Duration::from_secs(5);
/// What a follower may lack for leadership to be handed over to it, in bytes of entries.
const LAG_BYTES_MAX: u64 = 1 << 20;
/// Who could not lead for so long has not kept up.
const LAPSE: Duration = Duration::from_millis(500);
/// How much longer each further group waits.
const STAGGER: Duration = Duration::from_millis(50);
/// So many groups wait differently long.
const STAGGERED: u32 = 16;
/// A leader's disk stands still when nothing that others have became durable for so long.
const DISK_STILL: Duration = Duration::from_secs(1);
/// How long after its election, and after a hand-over that came to nothing, a leader hands over because it is asked.
const ASKED_EVERY: Duration = Duration::from_secs(1);
/// The wait doubles so often.
const DOUBLINGS_MAX: u32 = 3;

/// Where a group's leadership is to be, as its leader sees it.
#[derive(Debug)]
pub struct Balance {
    preferred: NodeId,
    after: Duration,
    /// How often this replica handed over.
    handed_over: u32,
    /// Since when the preferred replica has kept up, and when it last could lead.
    kept_up: Option<(Time, Time)>,
    /// What is durable here, and since when no more is.
    durable: (Index, Time),
    /// When this replica began to lead, or last handed over.
    led_since: Time,
}

impl Balance {
    /// `preferred` is to lead `group`, once it has kept up for `after`.
    pub fn new(group: u32, preferred: NodeId, after: Duration) -> Balance {
        Balance {
            preferred,
            after: after + STAGGER * (group % STAGGERED),
            handed_over: 0,
            kept_up: None,
            durable: (Index::ZERO, Time::ZERO),
            led_since: Time::ZERO,
        }
    }

    /// Another one is to lead.
    pub fn prefer(&mut self, preferred: NodeId) {
        if preferred != self.preferred {
            self.preferred = preferred;
            (self.kept_up, self.handed_over) = (None, 0);
        }
    }

    /// Who is to lead when nothing speaks against it.
    pub fn preferred(&self) -> NodeId {
        self.preferred
    }

    /// This replica begins to lead, or leads no more.
    pub fn begin(&mut self, now: Time) {
        self.clear();
        self.led_since = now;
    }

    /// Whether this replica may hand over because it is asked to. If so, it is taken to do it.
    pub fn may_be_asked(&mut self, now: Time) -> bool {
        let may = now.since(self.led_since) >= ASKED_EVERY;
        if may {
            self.begin(now);
        }
        may
    }

    /// Whether a node could lead at once: it is heard, is not suspected, and has nearly everything.
    pub fn is_able(
        &self,
        now: Time,
        raft: &Raft,
        node: NodeId,
        suspected: &BTreeSet<NodeId>,
    ) -> bool {
        let mut able = raft.successors(now, LAG_BYTES_MAX);
        able.any(|it| it.node == node && !suspected.contains(&node))
    }

    fn clear(&mut self) {
        self.kept_up = None;
        self.durable = (Index::ZERO, Time::ZERO);
    }

    /// To whom the leader is to hand over now, if to anybody: never to one of the `suspected`.
    pub fn successor(
        &mut self,
        now: Time,
        node: NodeId,
        raft: &Raft,
        suspected: &BTreeSet<NodeId>,
    ) -> Option<NodeId> {
        if raft.is_handing_over() {
            return None;
        }
        let able = |it: &&Progress| !suspected.contains(&it.node);
        let to =
            self.away_from_disk(now, raft, able).or_else(|| self.back(now, node, raft, able))?;
        assert!(to != node, "nobody hands over to itself");
        assert!(!suspected.contains(&to), "nor to one that is taken for dead");
        self.clear();
        self.handed_over += 1;
        Some(to)
    }

    fn back(
        &mut self,
        now: Time,
        node: NodeId,
        raft: &Raft,
        able: impl Fn(&&Progress) -> bool,
    ) -> Option<NodeId> {
        if self.preferred == node {
            return None;
        }
        let mut able = raft.successors(now, LAG_BYTES_MAX).filter(able);
        if !able.any(|it| it.node == self.preferred) {
            self.kept_up = self.kept_up.filter(|(_, able)| now.since(*able) < LAPSE);
            return None;
        }
        let since = self.kept_up.map_or(now, |(since, _)| since);
        self.kept_up = Some((since, now));
        let wait = self.after * (1 << self.handed_over.min(DOUBLINGS_MAX));
        (now >= since + wait).then_some(self.preferred)
    }

    fn away_from_disk(
        &mut self,
        now: Time,
        raft: &Raft,
        able: impl Fn(&&Progress) -> bool,
    ) -> Option<NodeId> {
        let durable = raft.durable();
        if durable >= raft.commit() || durable != self.durable.0 {
            self.durable = (durable, now);
            return None;
        }
        if now.since(self.durable.1) < DISK_STILL {
            return None;
        }
        let able = raft.successors(now, LAG_BYTES_MAX).filter(able);
        able.max_by_key(|it| it.matched).map(|it| it.node)
    }
}
