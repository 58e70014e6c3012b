//! Sending: the end of a leader's turn.

use super::log::Log;
use super::output::{AppendRange, Body, Event, Hold, Output, SnapshotPiece};
use super::progress::{Due, Progress, ProgressState, Sending};
use super::role::{Offer, Role};
use super::{Limits, Raft};
use crate::ids::{Index, Term};
use crate::time::Time;
use wire::peer;

/// What all messages of a flush have in common.
struct Round<'a> {
    log: &'a Log,
    term: Term,
    commit: Index,
    stamp: Time,
    /// Everybody gets a heartbeat.
    beat: bool,
    offer: Option<Offer>,
    limits: Limits,
}

impl Raft {
    pub(super) fn flush_leader(&mut self, out: &mut Output) {
        self.emit_entries(out);
        let (now, patience) = (self.now, self.election_timeout_max);
        let Role::Leader(leader) = &mut self.role else { return };
        let round = Round {
            log: &self.log,
            term: self.term,
            commit: self.commit,
            stamp: leader.take_stamp(now),
            beat: core::mem::take(&mut leader.beat),
            offer: leader.offer,
            limits: self.limits,
        };
        let mut wanted = None;
        for follower in &mut leader.followers {
            round.send(follower, out);
            // A snapshot costs work and memory: none is made for one that is silent.
            if matches!(follower.state, ProgressState::Snapshot(_))
                && follower.is_heard(now, patience)
            {
                let offered = round.offer.is_some_and(|o| round.continues(o.index));
                wanted = wanted.or((!offered).then_some(follower.node));
                if round.pieces(follower, now, out) == Begun::Now {
                    out.events.push(Event::SnapshotSent { to: follower.node });
                }
            }
        }
        let asked = leader.asked_at.is_some_and(|at| now.since(at) < patience);
        if wanted.is_some() && !asked {
            leader.asked_at = Some(now);
            out.snapshot_wanted = wanted;
        }
        self.ask_successor(out);
    }

    /// Asks the one that leadership goes to, once it has everything.
    fn ask_successor(&mut self, out: &mut Output) {
        let last = self.log.last_index();
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(transfer) = &mut leader.transfer else { return };
        let ready = leader.followers.iter().any(|f| f.node == transfer.to && f.matched == last);
        if ready && !transfer.asked {
            transfer.asked = true;
            // Before the message leaves, and for good: it may arrive, and win, at any later time.
            leader.lease_given_up = true;
            let body = Body::TimeoutNow(peer::TimeoutNow { term: self.term.0 });
            out.send(transfer.to, Hold::Now, body);
        }
    }
}

/// Whether sending a snapshot began just now.
#[derive(PartialEq, Eq)]
enum Begun {
    Now,
    Before,
}

impl Round<'_> {
    fn send(&self, follower: &mut Progress, out: &mut Output) {
        let gone = self.log.term_at(follower.next.prev()).is_none();
        if gone && !matches!(follower.state, ProgressState::Snapshot(_)) {
            follower.state = ProgressState::Snapshot(Sending::Wanted);
            self.heartbeat(follower, out);
            return;
        }
        match follower.state {
            ProgressState::Probe(due) => {
                if self.beat || due == Due::Now {
                    follower.state = ProgressState::Probe(Due::Later);
                    self.append(follower, follower.next.prev(), out);
                }
            }
            ProgressState::Replicate => {
                self.entries(follower, out);
                if self.beat {
                    self.append(follower, follower.next.prev(), out);
                }
            }
            ProgressState::Snapshot(_) => {
                if self.beat {
                    self.heartbeat(follower, out);
                }
            }
        }
    }

    /// Sends what the follower does not have, as far as the window allows.
    fn entries(&self, follower: &mut Progress, out: &mut Output) {
        let last = self.log.last_index();
        while follower.next <= last {
            let after = follower.matched.max(follower.sent_after);
            let flying = self.log.bytes_between(after, follower.next.prev());
            if flying >= self.limits.in_flight as u64 {
                return;
            }
            let end = self.log.run_end(follower.next, last, self.limits.append);
            self.append(follower, end, out);
            follower.next = end.next();
        }
    }

    /// Sends the entries from `next` to `last`, perhaps none.
    fn append(&self, follower: &Progress, last: Index, out: &mut Output) {
        let prev_index = follower.next.prev();
        assert!(prev_index <= last, "what is sent begins before it ends");
        let prev_term = self.log.term_at(prev_index).expect("what is gone gets a snapshot");
        self.range(follower, prev_index, prev_term, last, out);
    }

    /// A heartbeat that says nothing about the log.
    fn heartbeat(&self, follower: &Progress, out: &mut Output) {
        self.range(follower, Index::ZERO, Term::ZERO, Index::ZERO, out);
    }

    fn range(
        &self,
        to: &Progress,
        prev_index: Index,
        prev_term: Term,
        last: Index,
        out: &mut Output,
    ) {
        let range = AppendRange {
            term: self.term,
            prev_index,
            prev_term,
            last,
            commit: self.commit,
            sent_at: self.stamp.0,
        };
        out.send(to.node, Hold::Now, Body::Append(range));
    }

    /// Whether the log goes on from a snapshot at `index`.
    fn continues(&self, index: Index) -> bool {
        index >= self.log.first_index().prev()
    }

    /// Sends the pieces of the snapshot that the window allows.
    fn pieces(&self, follower: &mut Progress, now: Time, out: &mut Output) -> Begun {
        let Some(offer) = self.offer else { return Begun::Before };
        let mut begun = Begun::Before;
        if follower.state == ProgressState::Snapshot(Sending::Wanted) {
            if !self.continues(offer.index) {
                return begun;
            }
            begun = Begun::Now;
            let begin = Sending::Pieces { index: offer.index, received: 0, sent: 0, moved_at: now };
            follower.state = ProgressState::Snapshot(begin);
            follower.floor = self.stamp;
        }
        let ProgressState::Snapshot(Sending::Pieces { received, sent, .. }) = &mut follower.state
        else {
            return begun;
        };
        while *sent < offer.total
            && sent.saturating_sub(*received) < self.limits.pieces_in_flight as u64
        {
            let length = (offer.total - *sent).min(self.limits.piece as u64);
            let piece = SnapshotPiece {
                term: self.term,
                index: offer.index,
                index_term: offer.term,
                sent_at: self.stamp.0,
                offset: *sent,
                length: usize::try_from(length).expect("a piece is small"),
                total: offer.total,
            };
            out.send(follower.node, Hold::Now, Body::Snapshot(piece));
            *sent += length;
            assert!(*sent <= offer.total, "a snapshot's last piece ends it");
        }
        begun
    }
}
