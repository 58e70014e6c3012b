//! Snapshots: how one is offered, sent piece by piece, and installed.

use super::output::{Install, Output, Persist};
use super::progress::{Due, Progress, ProgressState, Sending};
use super::role::{Follower, Offer, Receiving, Role};
use super::{Configuration, Raft};
use crate::ids::{Index, NodeId, Term};
use crate::limits::SNAPSHOT_IDLE_MS_MAX;
use crate::mutant::{self, Mutant};
use crate::time::{Duration, Time};
use wire::peer;

/// How long a snapshot is kept that does not go on.
const IDLE_MAX: Duration = Duration::from_millis(SNAPSHOT_IDLE_MS_MAX);

impl Raft {
    /// The snapshot that was asked for is being made, at `index`: the log behind it is kept, within its
    /// limit, since followers go on from there.
    pub fn on_snapshot_begun(&mut self, index: Index) {
        assert!(index <= self.applied, "a snapshot holds what was applied");
        if let Role::Leader(leader) = &mut self.role {
            leader.making = Some(index);
        }
    }

    /// The snapshot that was asked for is there: at `index`, of `total` bytes. The caller keeps it as
    /// long as it is [`Raft::offered`], and takes the pieces from it.
    pub fn on_snapshot_ready(&mut self, now: Time, index: Index, term: Term, total: u64) {
        self.advance(now);
        assert!(index <= self.applied, "a snapshot holds what was applied");
        assert!(total > 0, "a snapshot has bytes");
        let Role::Leader(leader) = &mut self.role else { return };
        if leader.offer.is_some_and(|o| o.index > index) {
            return;
        }
        leader.offer = Some(Offer { index, term, total, needed_at: now });
        leader.asked_at = None;
        leader.making = None;
        for follower in &mut leader.followers {
            // One that is on its way is not worth more than the new one: its bytes are gone.
            if matches!(follower.state, ProgressState::Snapshot(Sending::Pieces { .. })) {
                follower.state = ProgressState::Snapshot(Sending::Wanted);
            }
        }
    }

    /// The snapshot that pieces may still be taken from, if this replica leads and has one.
    pub fn offered(&self) -> Option<Index> {
        match &self.role {
            Role::Leader(leader) => leader.offer.map(|o| o.index),
            _ => None,
        }
    }

    /// What the snapshot stands for whose pieces come from the leader, or that is being installed.
    pub fn receiving(&self) -> Option<(Index, Term)> {
        let receiving = match &self.role {
            Role::Follower(follower) => follower.receiving.map(|it| (it.index, it.term)),
            _ => None,
        };
        self.installing.or(receiving)
    }

    /// Forgets the snapshot that is offered once no follower that answers has needed it for a while. Whoever needs
    /// one later has another made.
    pub(super) fn keep_offer(&mut self) {
        let (now, patience) = (self.now, self.election_timeout_max);
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(offer) = &mut leader.offer else { return };
        if is_offer_needed(&leader.followers, now, patience) {
            offer.needed_at = now;
        } else if now.since(offer.needed_at) > IDLE_MAX {
            leader.offer = None;
            for follower in &mut leader.followers {
                if matches!(follower.state, ProgressState::Snapshot(_)) {
                    follower.state = ProgressState::Snapshot(Sending::Wanted);
                }
            }
        }
    }

    /// Forgets the pieces that came once no other has come for a while.
    pub(super) fn keep_received(&mut self) {
        let now = self.now;
        if let Role::Follower(follower) = &mut self.role
            && follower.receiving.is_some_and(|it| now.since(it.at) > IDLE_MAX)
        {
            follower.receiving = None;
        }
    }

    pub(super) fn on_snapshot_reply(
        &mut self,
        from: NodeId,
        m: &peer::SnapshotReply,
        out: &mut Output,
    ) {
        if Term(m.term) > self.term {
            self.adopt_term(Term(m.term), out);
            return;
        }
        let now = self.now;
        let Role::Leader(leader) = &mut self.role else { return };
        if Term(m.term) < self.term {
            return;
        }
        let stamp = leader.stamp;
        let Some(follower) = leader.followers.iter_mut().find(|f| f.node == from) else { return };
        // What it echoes is not counted, since it doesn't say which life of the node answers. Heartbeats go on,
        // and their answers do.
        let floor = follower.floor;
        let total = leader.offer.map_or(0, |o| o.total);
        if let ProgressState::Snapshot(Sending::Pieces { index, received, sent, moved_at }) =
            &mut follower.state
            && *index == Index(m.index)
            && m.received <= total
        {
            if m.received > *received {
                *received = m.received;
                *sent = (*sent).max(m.received);
                *moved_at = now;
            } else if m.received < *sent && Time(m.sent_at) >= floor {
                // A piece was lost, or the follower forgot: go back to what it has. Answers to what is
                // still on its way say the same again and are stale.
                *received = m.received;
                *sent = m.received;
                follower.floor = stamp + core::time::Duration::from_nanos(1);
            }
        }
    }

    pub(super) fn on_snapshot(&mut self, from: NodeId, m: &peer::Snapshot<'_>, out: &mut Output) {
        if Term(m.term) < self.term {
            self.send_term(from, out);
            return;
        }
        self.hear_leader(from, Term(m.term), m.sent_at, out);
        let (index, term) = (Index(m.index), Term(m.index_term));
        if let Some(installing) = self.installing {
            let follower = self.follower();
            if installing == (index, term) {
                follower.due.received = Some((index, m.total));
            } else {
                follower.due.acknowledge = true;
            }
            return;
        }
        if index <= self.commit || self.log.term_at(index) == Some(term) {
            // All that it stands for is here: the log goes on from there.
            self.commit = self.commit.max(index);
            let commit = self.commit;
            let follower = self.follower();
            follower.agreed = follower.agreed.max(commit);
            follower.receiving = None;
            follower.due.acknowledge = true;
            return;
        }
        let now = self.now;
        let Some(install) = self.follower().take_piece(now, m) else { return };
        if install.offset + m.bytes.len() as u64 == install.total {
            self.installing = Some((index, term));
        }
        if !m.bytes.is_empty() {
            out.install = Some(install);
        }
    }

    /// The snapshot whose last piece was handed out can't be used: the log stays as it is, and the leader
    /// begins anew.
    pub fn on_snapshot_refused(&mut self) {
        self.installing = None;
        if let Role::Follower(follower) = &mut self.role {
            follower.receiving = None;
        }
    }

    /// The snapshot whose last piece was handed out is durable and restored. The log goes on from there,
    /// with the members that the snapshot names.
    pub fn on_snapshot_installed(
        &mut self,
        now: Time,
        (index, term): (Index, Term),
        configuration: Configuration,
        out: &mut Output,
    ) {
        self.advance(now);
        assert!(configuration != Configuration::UNKNOWN, "a snapshot names the members");
        assert_eq!(self.installing.take(), Some((index, term)), "what came in is installed");
        assert!(index > self.commit, "nothing was committed meanwhile");
        assert!(!self.is_leader(), "who installs follows");
        if index < self.log.last_index() {
            // The log does not hold (index, term): what follows contradicts what is committed.
            self.cut(index.next(), out);
        }
        self.durability.on_snapshot(index, self.commit);
        let configuration = self.installed_members(configuration);
        self.log.reset(index, term, configuration);
        out.persist.push(Persist::Snapshot { index, term });
        (self.commit, self.applied, self.snapshot) = (index, index, index);
        if let Role::Follower(follower) = &mut self.role {
            follower.agreed = follower.agreed.max(index);
            follower.receiving = None;
        }
        self.tell(out);
    }

    /// After an installed snapshot the members are those that it names.
    fn installed_members(&self, named: Configuration) -> Configuration {
        if mutant::on(Mutant::InstallKeepsMembers) { self.configuration().clone() } else { named }
    }
}

/// A snapshot that was sent is kept while a follower that answers needs it.
fn is_offer_needed(followers: &[Progress], now: Time, patience: Duration) -> bool {
    let needs =
        |f: &Progress| matches!(f.state, ProgressState::Snapshot(_)) && f.is_heard(now, patience);
    followers.iter().any(needs) || mutant::on(Mutant::SentSnapshotKept)
}

impl Follower {
    /// Takes a piece if it is the next one, and notes what to answer.
    fn take_piece(&mut self, now: Time, m: &peer::Snapshot<'_>) -> Option<Install> {
        let (index, term) = (Index(m.index), Term(m.index_term));
        let length = m.bytes.len() as u64;
        if m.total == 0 || m.offset.checked_add(length).is_none_or(|end| end > m.total) {
            return None;
        }
        let mut receiving = match self.receiving {
            // A late piece of an older snapshot.
            Some(r) if r.index > index => return None,
            Some(r) if (r.index, r.term, r.total) == (index, term, m.total) => r,
            _ => Receiving { index, term, total: m.total, received: 0, at: now },
        };
        receiving.at = now;
        let next = m.offset == receiving.received && length > 0;
        if next {
            receiving.received += length;
        }
        assert!(receiving.received <= receiving.total, "a snapshot ends where it was said");
        self.receiving = Some(receiving);
        self.due.received = Some((index, receiving.received));
        next.then_some(Install { index, term, offset: m.offset, total: m.total })
    }
}

impl Raft {
    /// The link to a follower was broken or stands anew: whatever was on its way may be lost.
    pub(super) fn reprobe(&mut self, node: NodeId) {
        let Role::Leader(leader) = &mut self.role else { return };
        let stamp = leader.stamp;
        if let Some(follower) = leader.followers.iter_mut().find(|f| f.node == node) {
            follower.floor = stamp + core::time::Duration::from_nanos(1);
            follower.probe(follower.next, Due::Now);
        }
    }
}
