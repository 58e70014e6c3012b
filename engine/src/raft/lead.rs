//! Leading: proposals, answers, commit, hand-over.

use super::output::Output;
use super::progress::{Due, Progress, ProgressState, Sending};
use super::role::{Leader, Role, Transfer};
use super::{Raft, Refused};
use crate::entry::{ENTRY_HEADER_BYTES, EntryHeader, kind};
use crate::ids::{Incarnation, Index, NodeId, Term};
use crate::mutant::{self, Mutant};
use crate::time::{Duration, Elapsed, Time};
use wire::{Kind, peer};

impl Raft {
    /// Appends an entry to the log in memory; it leaves with the next [`Raft::flush`]. `time` is the
    /// group's replicated clock, which never goes back: a lower one is raised to the last entry's.
    ///
    /// # Errors
    /// [`Refused::NotLeader`], or [`Refused::Busy`] while too much is uncommitted or leadership is being
    /// handed over.
    #[inline]
    pub fn propose(
        &mut self,
        kind: Kind,
        principal: u32,
        time: Elapsed,
        payload: &[u8],
    ) -> Result<Index, Refused> {
        self.check_room(ENTRY_HEADER_BYTES + payload.len(), self.limits.uncommitted)?;
        Ok(self.append(kind, principal, time, payload))
    }

    /// The same for an entry of the leader's own, at what the group's clock shows: there is room for it when clients
    /// have used up theirs.
    ///
    /// # Errors
    /// As [`Raft::propose`].
    pub fn propose_own(&mut self, now: Time, kind: Kind, payload: &[u8]) -> Result<Index, Refused> {
        self.check_own_room()?;
        Ok(self.append(kind, 0, self.clock.read(now), payload))
    }

    /// Whether clients' entries fill their limit.
    pub fn is_full(&self) -> bool {
        self.check_room(ENTRY_HEADER_BYTES, self.limits.uncommitted) == Err(Refused::Busy)
    }

    pub(super) fn check_own_room(&self) -> Result<(), Refused> {
        self.check_room(0, self.limits.uncommitted + self.limits.uncommitted_own)
    }

    /// Whether there is room for an entry of so many bytes. One alone may be larger than the limit, but none goes past
    /// it beside others: it would take the leader's own room.
    fn check_room(&self, bytes: usize, limit: usize) -> Result<(), Refused> {
        let Role::Leader(leader) = &self.role else { return Err(Refused::NotLeader) };
        let held = self.log.bytes_after(self.commit);
        let full = held > 0 && held + bytes as u64 > limit as u64;
        if leader.transfer.is_some() || full { Err(Refused::Busy) } else { Ok(()) }
    }

    #[inline]
    fn append(&mut self, kind: Kind, principal: u32, time: Elapsed, payload: &[u8]) -> Index {
        let header = EntryHeader {
            group: self.group,
            kind,
            term: self.term,
            index: self.log.last_index().next(),
            time: time.max(self.log.last_time()),
            principal,
        };
        assert!(self.is_leader(), "only a leader makes entries");
        self.log.append(&header, payload);
        header.index
    }

    /// Appends an entry that consensus itself makes, at what the group's clock shows here.
    pub(super) fn append_own(&mut self, kind: Kind, payload: &[u8]) -> Index {
        self.append(kind, 0, self.own_entry_time(), payload)
    }

    /// Every entry carries what its leader's clock shows, a term's first one too.
    fn own_entry_time(&self) -> Elapsed {
        let past = mutant::on(Mutant::TermOpensInThePast);
        if past { Elapsed::ZERO } else { self.clock.read(self.now) }
    }

    pub(super) fn become_leader(&mut self) {
        assert_eq!(self.vote, Some(self.node), "a leader voted for itself");
        assert!(self.durability.vote_is_durable(), "a leader's vote is durable");
        let next = self.log.last_index().next();
        let others = self.configuration().members().iter().filter(|m| m.node != self.node);
        let followers = others.map(|member| Progress::new(member, next)).collect();
        self.role = Role::Leader(Leader {
            followers,
            opened: next,
            since: self.now,
            confirmed: None,
            agreed: next,
            leased: None,
            stamp: Time::ZERO,
            beat_at: self.next_beat(),
            beat: true,
            lease_given_up: false,
            transfer: None,
            offer: None,
            asked_at: None,
            making: None,
        });
        if next == Index::ZERO.next() {
            // Whoever joins later learns from the log alone who founded the group.
            self.append_members(&self.configuration().clone());
        } else {
            self.append_own(kind::NOOP, &[]);
        }
    }

    fn next_beat(&self) -> Time {
        next_beat(self.now, self.heartbeat)
    }

    pub(super) fn tick_leader(&mut self, out: &mut Output) {
        let (now, next_beat) = (self.now, self.next_beat());
        let Role::Leader(leader) = &self.role else { return };
        if !self.is_alone() && now >= self.quorum_lost_at(leader) {
            // Cut off: a new leader may be elected any time now. Clients look for it.
            self.become_follower(self.term, None);
            self.tell(out);
            return;
        }
        let patience = self.election_timeout_max;
        let Role::Leader(leader) = &mut self.role else { return };
        if now >= leader.beat_at {
            leader.beat_at = next_beat;
            leader.beat = true;
        }
        if leader.transfer.is_some_and(|t| now >= t.until) {
            leader.transfer = None;
        }
        let total = leader.offer.map_or(0, |o| o.total);
        for follower in &mut leader.followers {
            follower.retry_snapshot(now, patience, total);
        }
    }

    pub(super) fn deadline_leader(&self, leader: &Leader) -> Time {
        let mut at = leader.beat_at;
        if !self.is_alone() {
            at = at.min(self.quorum_lost_at(leader));
        }
        leader.transfer.map_or(at, |t| at.min(t.until))
    }

    pub(super) fn on_append_reply(
        &mut self,
        from: NodeId,
        m: &peer::AppendReply,
        out: &mut Output,
    ) {
        if !self.configuration().has_replica(from, Incarnation(m.incarnation)) {
            // A node keeps one replica of a group: if it is another one, the member is not there.
            self.on_absent(from, Time(m.sent_at));
            return self.dismiss(from, Incarnation(m.incarnation), out);
        }
        if Term(m.term) > self.term {
            self.adopt_term(Term(m.term), out);
            return;
        }
        let (now, last) = (self.now, self.log.last_index());
        let Role::Leader(leader) = &mut self.role else { return };
        if Term(m.term) < self.term || Index(m.index) > last {
            return;
        }
        let stamp = leader.stamp;
        let follower = leader.followers.iter_mut().find(|f| f.node == from);
        let follower = follower.expect("every other member is followed");
        follower.on_echo(now, m.sent_at, stamp);
        if m.reject == 0 {
            let first = self.log.first_index();
            follower.on_agreed(Index(m.index), Time(m.sent_at), first);
            self.confirm();
            self.advance_commit(out);
            return;
        }
        let stale = Time(m.sent_at) < follower.floor;
        if !stale && !matches!(follower.state, ProgressState::Snapshot(_)) {
            let (index, term) = (Index(m.index), Term(m.index_term));
            follower.floor = stamp + Duration::from_nanos(1);
            match self.log.last_with_term_at_most(index, term) {
                Some(agreed) => follower.probe(agreed.next(), Due::Now),
                None if follower.matched >= self.log.first_index().prev() => {
                    follower.probe(follower.matched.next(), Due::Now);
                }
                None => follower.state = ProgressState::Snapshot(Sending::Wanted),
            }
        }
        self.confirm();
    }

    /// Commits what a majority has durably, if it is of this term; that takes all before it along.
    pub(super) fn advance_commit(&mut self, out: &mut Output) {
        let Role::Leader(leader) = &self.role else { return };
        let index = self.majority_matched(leader);
        if index > self.commit && self.is_of_own_term(leader, index) {
            assert!(index <= self.log.last_index(), "a majority has nothing that is not here");
            self.commit = index;
            self.leave_if_removed(out);
        }
    }

    /// The highest index that a majority has durably.
    fn majority_matched(&self, leader: &Leader) -> Index {
        let others = leader.followers.iter().filter(|f| f.counts_for_commit());
        let own = self.counts_for_commit().then(|| self.own_matched());
        self.configuration().majority_reaches(others.map(|f| f.matched).chain(own))
    }

    /// A leader that is not a voter, since it removed itself, does not count itself.
    fn counts_for_commit(&self) -> bool {
        self.is_voter() || mutant::on(Mutant::RemovedLeaderCounts)
    }

    /// A leader's own log counts as far as its disk has it, like a follower's.
    fn own_matched(&self) -> Index {
        let early = mutant::on(Mutant::OwnAckBeforeSync);
        if early { self.durability.emitted() } else { self.durability.durable() }
    }

    /// Only an entry of the leader's own term is committed by counting (figure 8 of the paper).
    fn is_of_own_term(&self, leader: &Leader, index: Index) -> bool {
        if mutant::on(Mutant::CommitOlderTerm) {
            return true;
        }
        let own = index >= leader.opened;
        assert_eq!(own, self.log.term_at(index) == Some(self.term), "this term's begin there");
        own
    }

    /// Whether this leader has committed an entry of its own term: then it knows what is committed.
    pub(super) fn has_committed_in_term(&self, leader: &Leader) -> bool {
        self.commit >= leader.opened
    }

    /// The caller applied everything up to `index`: what lies below may leave memory, but for what
    /// followers that lag a little may still need.
    pub fn on_applied(&mut self, index: Index) {
        assert!(index <= self.commit, "only what is committed is applied");
        if index <= self.applied {
            return;
        }
        self.applied = index;
        let held = self.log.bytes_after(self.log.first_index().prev());
        if held <= self.limits.log_kept as u64 {
            return;
        }
        let emitted = self.durability.emitted();
        let mut upto = self.log.kept_from(self.limits.log_kept).min(index).min(emitted);
        if held <= self.limits.log_pinned as u64 {
            upto = upto.min(self.pinned_from());
        }
        self.log.drop_to(upto);
    }

    /// What followers that are being caught up still need begins after this index.
    fn pinned_from(&self) -> Index {
        let Role::Leader(leader) = &self.role else { return self.applied };
        let patience = self.election_timeout_max;
        let needs = |f: &Progress| match f.state {
            _ if !f.is_heard(self.now, patience) => None,
            ProgressState::Replicate | ProgressState::Probe(_) => Some(f.matched),
            ProgressState::Snapshot(Sending::Pieces { index, .. }) => Some(index),
            ProgressState::Snapshot(Sending::Wanted) => leader.making,
        };
        leader.followers.iter().filter_map(needs).min().unwrap_or(self.applied)
    }

    /// Hands leadership over to `to`: once it has everything, it is asked to campaign at once. Until then, or
    /// until the longest election timeout has passed, nothing is proposed.
    pub fn transfer(&mut self, now: Time, to: NodeId, out: &mut Output) {
        self.advance(now);
        let until = now + self.election_timeout_max;
        let known = self.configuration().voters().any(|m| m.node == to) && to != self.node;
        if let Role::Leader(leader) = &mut self.role
            && known
        {
            leader.transfer = Some(Transfer { to, until, asked: false });
        }
        self.tell(out);
    }

    /// Whether leadership is being handed over.
    pub fn is_handing_over(&self) -> bool {
        matches!(&self.role, Role::Leader(leader) if leader.transfer.is_some())
    }

    /// Who could lead at once: the voters that are heard and replicate, and lack at most `lag_max` bytes of
    /// entries.
    pub fn successors(&self, now: Time, lag_max: u64) -> impl Iterator<Item = &Progress> {
        self.progress().iter().filter(move |follower| {
            follower.counts()
                && follower.state == ProgressState::Replicate
                && follower.is_heard(now, self.election_timeout_max)
                && self.log.bytes_after(follower.matched) <= lag_max
        })
    }
}

/// Heartbeats fall on multiples of their interval, so that the groups of an engine beat together and their
/// messages share a send.
pub(super) fn next_beat(now: Time, heartbeat: Duration) -> Time {
    let every = u64::try_from(heartbeat.as_nanos()).expect("a heartbeat is short");
    assert!(every > 0, "a heartbeat comes now and then, and not all the time");
    Time((now.0 / every + 1) * every)
}

impl Progress {
    /// A learner's log counts for nothing.
    fn counts_for_commit(&self) -> bool {
        self.counts() || mutant::on(Mutant::LearnerCounts)
    }

    fn on_agreed(&mut self, index: Index, echo: Time, first: Index) {
        self.on_matched(index);
        match self.state {
            // An answer to an older question says nothing about this one.
            ProgressState::Probe(_) if echo >= self.floor => self.replicate(),
            ProgressState::Snapshot(_) if self.matched.next() >= first => {
                self.probe(self.matched.next(), Due::Now);
            }
            _ => {}
        }
    }

    /// A snapshot that does not come further is sent again from where it stood; one that is all there and
    /// not installed is asked after by its last piece.
    fn retry_snapshot(&mut self, now: Time, patience: Duration, total: u64) {
        if let ProgressState::Snapshot(Sending::Pieces { received, sent, moved_at, .. }) =
            &mut self.state
            && now.since(*moved_at) > patience
        {
            assert!(*received <= total, "nobody has more than there is");
            *sent = (*received).min(total.saturating_sub(1));
            *moved_at = now;
        }
    }
}
