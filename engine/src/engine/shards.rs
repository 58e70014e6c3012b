//! The shards of an engine, and which of them a turn concerns.
//!
//! A turn costs what it touches, not what there is: a shard to which nothing happened, and for which nothing is due,
//! is not looked at. Whoever changes a shard gets it from here, which marks it.

use crate::effects::PeerOutbox;
use crate::ids::{self, GroupId, NodeId};
use crate::raft::{Message, Quiet};
use crate::shard::Shard;
use crate::status::GroupStatus;
use crate::time::{Duration, Time};
use alloc::vec::Vec;
use core::ops::Index;
use wire::Header;
use wire::peer::{Append, AppendReply};

/// A shard to whose log nothing came for so long is left alone.
const QUIET_AFTER: Duration = Duration::from_millis(500);

/// When a shard is to be looked at.
struct Plan {
    /// At the latest then; [`Time::ZERO`] once something happened to it.
    due: Time,
    /// Whether it waits for a sync, or may since something happened to it.
    awaits_sync: bool,
    /// Whether it leads one that is being caught up.
    teaches: bool,
    /// Whether it has something to do in slices.
    works: bool,
    /// What it had committed at the end of its last turn, and whether that was news.
    commit: ids::Index,
    commits: bool,
    /// The end of its log, and since when it is that.
    last: (ids::Index, Time),
    /// It is left alone, and this goes on beside it.
    quiet: Option<Quiet>,
}

impl Plan {
    const NOW: Plan = Plan {
        due: Time::ZERO,
        awaits_sync: true,
        teaches: false,
        works: false,
        commit: ids::Index::ZERO,
        commits: false,
        last: (ids::Index::ZERO, Time::ZERO),
        quiet: None,
    };

    /// When the shard has to be looked at.
    fn due(&self) -> Time {
        self.quiet.as_ref().map_or(self.due, |quiet| self.due.min(quiet.deadline()))
    }

    /// When something is to be done for it.
    fn wake_at(&self) -> Time {
        match &self.quiet {
            Some(Quiet::Leads(quiet)) => self.due().min(quiet.beat_at()),
            _ => self.due(),
        }
    }

    /// Something happens to the shard.
    fn touch(&mut self, shard: &mut Shard) {
        if let Some(quiet) = self.quiet.take() {
            shard.wake(quiet);
        }
        (self.due, self.awaits_sync) = (Time::ZERO, true);
    }
}

/// The shards, each at a place.
pub(super) struct Shards {
    shards: Vec<Shard>,
    /// By place.
    plans: Vec<Plan>,
    /// Where a group stands, by group id.
    at: Vec<Option<usize>>,
}

impl Shards {
    /// All of them are due. `groups` is how many groups the cluster has.
    pub fn new(shards: Vec<Shard>, groups: usize) -> Shards {
        let plans = shards.iter().map(|_| Plan::NOW).collect();
        let mut shards = Shards { shards, plans, at: alloc::vec![None; groups] };
        shards.find_places();
        shards
    }

    /// Where a group stands, if it has a replica here.
    pub fn place_of(&self, group: GroupId) -> Option<usize> {
        self.at.get(group.0 as usize).copied().flatten()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.shards.len()
    }

    /// All of them, to look at.
    #[cfg(any(test, feature = "simulator"))]
    pub fn as_slice(&self) -> &[Shard] {
        &self.shards
    }

    /// All of them, to look at.
    pub fn iter(&self) -> impl Iterator<Item = &Shard> {
        self.shards.iter()
    }

    /// One to which something happens.
    pub fn touch(&mut self, at: usize) -> &mut Shard {
        let shard = &mut self.shards[at];
        self.plans[at].touch(shard);
        shard
    }

    /// One in which somebody looks for what was left for the simulator: nothing happens to it.
    #[cfg(any(test, feature = "simulator"))]
    pub fn look(&mut self, at: usize) -> &mut Shard {
        &mut self.shards[at]
    }

    /// Something happens to all of them.
    pub fn touch_all(&mut self) -> impl Iterator<Item = &mut Shard> {
        self.touch_where(|_| true)
    }

    /// Those that are due.
    pub fn touch_due(&mut self, now: Time) -> impl Iterator<Item = &mut Shard> {
        self.touch_where(move |plan| plan.due() <= now)
    }

    /// Those that may wait for a sync.
    pub fn touch_awaiting(&mut self) -> impl Iterator<Item = &mut Shard> {
        self.touch_where(|plan| plan.awaits_sync)
    }

    fn touch_where(&mut self, which: impl Fn(&Plan) -> bool) -> impl Iterator<Item = &mut Shard> {
        let pairs = self.plans.iter_mut().zip(&mut self.shards);
        pairs.filter(move |(plan, _)| which(plan)).map(|(plan, shard)| {
            plan.touch(shard);
            shard
        })
    }

    /// Whether one is due.
    pub fn is_due(&self, at: usize, now: Time) -> bool {
        self.plans[at].due() <= now
    }

    /// Ends the turn of one: until something happens to it, it says itself when it is due again.
    pub fn rest(&mut self, at: usize, now: Time) {
        let shard = &self.shards[at];
        let last = match self.plans[at].last {
            (last, since) if last == shard.raft().last_index() => (last, since),
            _ => (shard.raft().last_index(), now),
        };
        let idle = now.since(last.1) >= QUIET_AFTER;
        let quiet = if idle { shard.quiet() } else { None };
        self.plans[at] = Plan {
            due: if quiet.is_some() { shard.quiet_until() } else { shard.wake_at() },
            awaits_sync: shard.awaits_sync(),
            teaches: shard.teaches(now),
            works: shard.has_work(),
            commit: shard.raft().commit(),
            commits: shard.raft().commit() > self.plans[at].commit,
            last,
            quiet,
        };
    }

    /// Whether one committed something in its last turn.
    pub fn commits(&self, at: usize) -> bool {
        self.plans[at].commits
    }

    /// When the first is due.
    pub fn wake_at(&self) -> Time {
        self.plans.iter().map(Plan::wake_at).min().unwrap_or(Time::MAX)
    }

    /// What came for a shard that is left alone: it is answered into `out` without looking at the shard. False: the
    /// shard has to see it.
    pub fn hear_quietly(
        &mut self,
        (group, at): (GroupId, usize),
        now: Time,
        from: NodeId,
        message: &Message<'_>,
        out: &mut PeerOutbox,
    ) -> bool {
        match (&mut self.plans[at].quiet, message) {
            (Some(Quiet::Follows(quiet)), Message::Append(append)) => {
                let Some(reply) = quiet.on_append(now, from, append) else { return false };
                let header = Header { shard: group.0, ..Header::new(AppendReply::KIND, 0) };
                wire::frame(out.to(from.0), &header, |b| reply.encode(b));
                true
            }
            (Some(Quiet::Leads(quiet)), Message::AppendReply(reply)) => {
                quiet.on_reply(now, from, reply)
            }
            _ => false,
        }
    }

    /// The lease of one that leads, also while it is left alone.
    #[cfg(any(test, feature = "simulator"))]
    pub fn lease_until(&self, at: usize) -> Option<Time> {
        match &self.plans[at].quiet {
            Some(Quiet::Leads(quiet)) => self.shards[at].raft().quiet_lease_until(quiet),
            _ => self.shards[at].raft().lease_until(),
        }
    }

    /// All of them, for people.
    pub fn status(&self, now: Time) -> Vec<GroupStatus> {
        let each = self.plans.iter().zip(&self.shards).map(|(plan, shard)| {
            let mut status = shard.status(now);
            if let Some(Quiet::Leads(quiet)) = &plan.quiet {
                status.confirmed = shard.raft().confirmed_ago(now, Some(quiet));
                for peer in &mut status.peers {
                    let heard_at = quiet.heard_at(peer.node);
                    peer.silent = heard_at.map(|at| now.since(at)).or(peer.silent);
                }
            }
            status
        });
        each.collect()
    }

    /// Sends the heartbeats of those that are left alone and lead.
    pub fn beat_quietly(&mut self, now: Time, out: &mut PeerOutbox) {
        for plan in &mut self.plans {
            let Some(Quiet::Leads(quiet)) = &mut plan.quiet else { continue };
            if quiet.beat_at() > now {
                continue;
            }
            let header = Header { shard: quiet.group().0, ..Header::new(Append::KIND, 0) };
            let (heartbeat, followers) = quiet.beat(now);
            for follower in followers {
                wire::frame(out.to(follower.0), &header, |b| heartbeat.encode(b));
            }
        }
    }

    /// Whether one leads a replica that is being caught up.
    pub fn anyone_teaches(&self) -> bool {
        self.plans.iter().any(|plan| plan.teaches)
    }

    /// Whether one has something to do in slices.
    pub fn has_work(&self) -> bool {
        let mut pairs = self.plans.iter().zip(&self.shards);
        pairs.any(|(plan, shard)| plan.works || plan.due == Time::ZERO && shard.has_work())
    }

    /// One more.
    pub fn push(&mut self, shard: Shard) {
        self.shards.push(shard);
        self.plans.push(Plan::NOW);
        self.find_places();
    }

    /// Takes one away; those behind it move up.
    pub fn remove(&mut self, at: usize) -> Shard {
        let shard = self.shards.remove(at);
        self.plans.remove(at);
        self.find_places();
        shard
    }

    fn find_places(&mut self) {
        self.at.fill(None);
        for (at, shard) in self.shards.iter().enumerate() {
            self.at[shard.group().0 as usize] = Some(at);
        }
    }
}

impl Index<usize> for Shards {
    type Output = Shard;

    fn index(&self, at: usize) -> &Shard {
        &self.shards[at]
    }
}
