//! Following: what a leader's entries do to a follower's log.

use super::output::{Body, Hold, Output, Persist};
use super::role::{Answer, Role};
use super::{Configuration, Follower, Raft};
use crate::entry::{self, kind};
use crate::ids::{Index, NodeId, Term};
use crate::level::Level;
use crate::mutant::{self, Mutant};
use wire::peer;

impl Raft {
    pub(super) fn on_append(&mut self, from: NodeId, m: &peer::Append<'_>, out: &mut Output) {
        if Term(m.term) < self.term {
            self.send_term(from, out);
            return;
        }
        if !self.vet(m) {
            return;
        }
        self.hear_leader(from, Term(m.term), m.sent_at, out);
        if self.installing.is_some() {
            // The log is about to be replaced: a heartbeat is all that this can be.
            self.follower().due.acknowledge = true;
            return;
        }
        let prev = Index(m.prev_index);
        if let Some(hint) = self.disagreement(prev, Term(m.prev_term)) {
            self.follower().due.reject = Some(hint);
            return;
        }
        let appended = self.take_entries(m.entries, out);
        let agreed = Index(m.prev_index + u64::from(m.count));
        let follower = self.follower();
        follower.agreed = follower.agreed.max(agreed);
        follower.due.acknowledge |= is_acknowledged_at_once(appended);
        let agreed = follower.agreed;
        self.commit = self.commit.max(Index(m.commit).min(self.may_commit_to(agreed)));
        assert!(self.commit <= self.log.last_index(), "what is committed is here");
    }

    /// A follower commits no more than agrees with the leader's log: what it has behind that may be cut.
    fn may_commit_to(&self, agreed: Index) -> Index {
        if mutant::on(Mutant::CommitUnagreed) { self.log.last_index() } else { agreed }
    }

    /// Whether a message's entries are whole, undamaged, of this group, in order, and none raises the group's
    /// level past what this build knows.
    fn vet(&self, m: &peer::Append<'_>) -> bool {
        let Some(last) = m.prev_index.checked_add(u64::from(m.count)) else { return false };
        let (mut bytes, mut index, mut term) = (m.entries, m.prev_index, Term(m.prev_term));
        while !bytes.is_empty() {
            let Ok(e) = entry::read(bytes) else { return false };
            index += 1;
            let in_order = e.header.index == Index(index) && e.header.term >= term;
            let names = e.header.kind == kind::MEMBERS;
            let readable = !names || Configuration::decode(e.payload).is_some();
            let raises = e.header.kind == kind::LEVEL;
            let known = !raises || Level::decode(e.payload).is_some_and(|it| it <= self.level_max);
            if e.header.group != self.group || !in_order || index > last || !readable || !known {
                return false;
            }
            term = e.header.term;
            bytes = &bytes[e.bytes.len()..];
        }
        index == last && term <= Term(m.term)
    }

    /// A leader of this term or a higher one spoke.
    pub(super) fn hear_leader(&mut self, from: NodeId, term: Term, stamp: u64, out: &mut Output) {
        assert!(term >= self.term, "a deposed leader is not followed");
        if term > self.term {
            self.become_follower(term, Some(from));
            self.set_vote(term, None, out);
        }
        match &mut self.role {
            Role::Leader(_) => panic!("{from} and {} both lead term {}", self.node, term),
            Role::PreCandidate(_) | Role::Candidate(_) => self.become_follower(term, Some(from)),
            Role::Follower(f) => {
                let known = f.leader.is_none_or(|l| l == from);
                assert!(known, "two nodes lead term {term}, {from} is one of them");
                f.leader = Some(from);
            }
        }
        self.stay_loyal();
        let follower = self.follower();
        follower.echo = follower.echo.max(stamp);
    }

    /// A leader gave a sign of life, or agreed with this replica for how long those count.
    fn stay_loyal(&mut self) {
        self.loyal_until = self.now + self.loyalty();
        self.campaign_at = self.now + self.waits();
    }

    /// Where the leader should probe instead, if the log does not agree at `prev`.
    fn disagreement(&self, prev: Index, prev_term: Term) -> Option<(Index, Term)> {
        if self.agrees_at(prev, prev_term) {
            return None;
        }
        let probe = self.log.last_with_term_at_most(prev, prev_term);
        let probe = probe.unwrap_or(self.commit).max(self.commit);
        assert!(probe <= prev, "a refusal does not go forward");
        let term = self.log.term_at(probe).expect("what is not in memory was committed before");
        Some((probe, term))
    }

    /// Entries are appended only where the entry before them is the leader's. Every leader has what is committed.
    fn agrees_at(&self, prev: Index, prev_term: Term) -> bool {
        if mutant::on(Mutant::AppendUnchecked) && prev <= self.log.last_index() {
            return true;
        }
        prev <= self.commit || self.log.term_at(prev) == Some(prev_term)
    }

    /// Appends what is new of a vetted run that agrees at its start; cuts what contradicts it.
    fn take_entries(&mut self, mut run: &[u8], out: &mut Output) -> bool {
        while !run.is_empty() {
            let e = entry::read_unchecked(run).expect("the run was verified");
            let (index, length) = (e.header.index, e.bytes.len());
            if index > self.commit && self.log.term_at(index) != Some(e.header.term) {
                if index <= self.log.last_index() {
                    self.cut(index, out);
                }
                break;
            }
            run = &run[length..];
            if run.is_empty() && !self.keeps_behind(index) {
                self.cut(index.next(), out);
            }
        }
        if run.is_empty() {
            return false;
        }
        self.log.extend(run);
        self.emit_entries(out);
        self.stay_loyal();
        self.follow_newest_time();
        true
    }

    /// Only an entry that contradicts cuts: what a late message does not speak of stays.
    fn keeps_behind(&self, index: Index) -> bool {
        index >= self.log.last_index() || !mutant::on(Mutant::CutWithoutConflict)
    }

    /// Who does not lead goes by the time in the newest entry, from the moment at which it came.
    fn follow_newest_time(&mut self) {
        let newest = self.log.last_time();
        if mutant::on(Mutant::ClockOfItsOwn) {
            self.clock.hear(self.now, newest);
        } else {
            self.clock.follow(self.now, newest);
        }
    }

    pub(super) fn cut(&mut self, from: Index, out: &mut Output) {
        assert!(from > self.commit, "what is committed is never cut");
        assert!(from > self.applied, "what is applied is never cut");
        self.log.truncate(from);
        self.durability.on_truncated(from);
        assert_eq!(self.log.last_index(), from.prev(), "the log ends before the cut");
        out.persist.push(Persist::Truncate { from });
    }

    /// Hands out to the journal what was appended, run by run.
    pub(super) fn emit_entries(&mut self, out: &mut Output) {
        let last = self.log.last_index();
        while self.durability.emitted() < last {
            let first = self.durability.emitted().next();
            let end = self.log.run_end(first, last, usize::MAX);
            let last_term = self.log.term_at(end).expect("the run is in memory");
            out.persist.push(Persist::Entries { first, last: end, last_term });
            self.durability.on_emitted(end);
        }
    }

    pub(super) fn flush_follower(&mut self, out: &mut Output) {
        let durable = self.may_acknowledge_to();
        // Nobody hears of a term that this node could forget.
        let hold = if self.durability.vote_is_durable() { Hold::Now } else { Hold::AfterSync };
        let Role::Follower(follower) = &mut self.role else { return };
        let Some(leader) = follower.leader else { return };
        let due = core::mem::take(&mut follower.due);
        let mut reply = peer::AppendReply {
            term: self.term.0,
            index: 0,
            index_term: 0,
            sent_at: follower.echo,
            incarnation: self.incarnation.0,
            reject: 0,
        };
        if let Some((index, term)) = due.reject {
            (reply.index, reply.index_term, reply.reject) = (index.0, term.0, 1);
            out.send(leader, hold, Body::AppendReply(reply));
        }
        if due.acknowledge {
            let index = durable.min(follower.agreed);
            follower.acknowledged = follower.acknowledged.max(index);
            assert!(index <= self.log.last_index(), "what is acknowledged is here");
            (reply.index, reply.index_term, reply.reject) = (index.0, 0, 0);
            out.send(leader, hold, Body::AppendReply(reply));
        }
        if let Some((index, received)) = due.received {
            let reply = peer::SnapshotReply {
                term: self.term.0,
                index: index.0,
                received,
                sent_at: follower.echo,
            };
            out.send(leader, hold, Body::SnapshotReply(reply));
        }
    }

    /// A follower acknowledges nothing that its disk could forget.
    fn may_acknowledge_to(&self) -> Index {
        let early = mutant::on(Mutant::AckBeforeSync);
        if early { self.durability.emitted() } else { self.durability.durable() }
    }

    /// Tells a deposed leader that there is a higher term.
    pub(super) fn send_term(&self, to: NodeId, out: &mut Output) {
        let hold = if self.durability.vote_is_durable() { Hold::Now } else { Hold::AfterSync };
        let reply = peer::AppendReply {
            term: self.term.0,
            index: self.commit.0,
            index_term: 0,
            sent_at: 0,
            incarnation: self.incarnation.0,
            reject: 1,
        };
        out.send(to, hold, Body::AppendReply(reply));
    }

    pub(super) fn follower(&mut self) -> &mut Follower {
        match &mut self.role {
            Role::Follower(follower) => follower,
            _ => panic!("whoever hears a leader follows it"),
        }
    }
}

/// New entries are acknowledged when they are durable; a heartbeat, or what was here already, at once.
fn is_acknowledged_at_once(appended: bool) -> bool {
    !appended || mutant::on(Mutant::AckBeforeSync)
}

const _: () = assert!(size_of::<Answer>() <= 64, "an answer is copied at the end of each turn");
