//! Elections: who asks, who grants, who wins.

use super::output::{Body, Hold, Output, Persist};
use super::role::{Candidate, Follower, Role, Tally};
use super::{Preference, Raft, Seats};
use crate::effects::Note;
use crate::ids::{Incarnation, NodeId, Term};
use crate::mutant::{self, Mutant};
use wire::peer;

/// Whether a campaign was asked for by the leader.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// It was not: the leader is silent.
    No,
    /// It was: the leader gave its lease up.
    ByLeader,
}

impl Raft {
    /// Asks first whether this node would be elected.
    pub(super) fn campaign_first(&mut self, out: &mut Output) {
        assert!(self.installing.is_none(), "what is being installed is not interrupted");
        self.draw_timeout();
        if self.preference == Preference::Preferred && self.never_led() {
            // At a birth links come up one side first: what was sent may have met a closed door. It is
            // sent again before anybody else loses patience.
            self.campaign_at = self.now + self.heartbeat;
        }
        self.role = Role::PreCandidate(Tally { granted: self.own_seat() });
        if self.voters.majority() == 1 {
            self.campaign(Asked::No, out);
            return;
        }
        self.ask_for_votes(self.term.next(), 1, Asked::No, out);
    }

    fn campaign(&mut self, asked: Asked, out: &mut Output) {
        self.draw_timeout();
        self.set_vote(self.term.next(), Some(self.node), out);
        // Its own vote counts once it is durable, like any other's.
        self.role = Role::Candidate(Candidate { tally: Tally::default() });
        out.notes.push(Note::Campaign { group: self.group, term: self.term });
        self.ask_for_votes(self.term, 0, asked, out);
    }

    fn ask_for_votes(&self, term: Term, pre: u8, asked: Asked, out: &mut Output) {
        let hold = if pre == 1 { Hold::Now } else { Hold::AfterSync };
        let vote = peer::Vote {
            term: term.0,
            last_index: self.log.last_index().0,
            last_term: self.log.last_term().0,
            incarnation: self.incarnation.0,
            pre,
            transfer: u8::from(asked == Asked::ByLeader),
        };
        for to in self.voters.nodes().filter(|n| *n != self.node) {
            out.send(to, hold, Body::Vote(vote));
        }
    }

    pub(super) fn on_vote(&mut self, from: NodeId, m: &peer::Vote, out: &mut Output) {
        if self.voters.seat_of(from, Incarnation(m.incarnation)).is_none() {
            return;
        }
        let term = Term(m.term);
        if term < self.term {
            self.refuse_vote(from, m.pre, out);
            return;
        }
        // A leader that may still count on this node keeps it, unless it asked for the campaign
        // itself: then it gave its lease up for the whole of its term.
        if m.transfer == 0 && self.is_loyal() {
            return;
        }
        let theirs = (Term(m.last_term), m.last_index);
        let ours = (self.log.last_term(), self.log.last_index().0);
        let complete = theirs >= ours || mutant::on(Mutant::AnyLogWins);
        if m.pre == 1 {
            let free = term > self.term || self.may_vote_for(from);
            if complete && free {
                let body = self.vote_reply(term, 1, 1);
                out.send(from, Hold::Now, Body::VoteReply(body));
            } else {
                self.refuse_vote(from, 1, out);
            }
            return;
        }
        if term > self.term {
            let vote = complete.then_some(from);
            self.become_follower(term, None);
            self.set_vote(term, vote, out);
        } else if !(complete && self.may_vote_for(from)) {
            self.refuse_vote(from, 0, out);
            return;
        } else if self.vote.is_none() {
            self.set_vote(term, Some(from), out);
        }
        if self.vote != Some(from) && !mutant::on(Mutant::VoteTwice) {
            self.refuse_vote(from, 0, out);
            return;
        }
        // Who votes waits for the one it voted for.
        self.campaign_at = self.now + self.timeout;
        let body = self.vote_reply(term, 0, 1);
        let early = mutant::on(Mutant::VoteBeforeSync);
        let hold = if early { Hold::Now } else { Hold::AfterSync };
        out.send(from, hold, Body::VoteReply(body));
    }

    /// Whether a leader may count on this node not to vote for another.
    fn is_loyal(&self) -> bool {
        match &self.role {
            _ if mutant::on(Mutant::Disloyal) => false,
            Role::Leader(leader) => {
                self.heard_majority_at(leader) + self.election_timeout_min > self.now
            }
            _ => self.now < self.loyal_until,
        }
    }

    fn may_vote_for(&self, candidate: NodeId) -> bool {
        let led = match &self.role {
            Role::Leader(_) => true,
            Role::Follower(follower) => follower.leader.is_some(),
            Role::PreCandidate(_) | Role::Candidate(_) => false,
        };
        let twice = mutant::on(Mutant::VoteTwice);
        twice || self.vote == Some(candidate) || (self.vote.is_none() && !led)
    }

    fn refuse_vote(&self, to: NodeId, pre: u8, out: &mut Output) {
        let body = self.vote_reply(self.term, pre, 0);
        out.send(to, Hold::Now, Body::VoteReply(body));
    }

    fn vote_reply(&self, term: Term, pre: u8, granted: u8) -> peer::VoteReply {
        peer::VoteReply { term: term.0, incarnation: self.incarnation.0, pre, granted }
    }

    pub(super) fn on_vote_reply(&mut self, from: NodeId, m: &peer::VoteReply, out: &mut Output) {
        let Some(seat) = self.voters.seat_of(from, Incarnation(m.incarnation)) else { return };
        let (term, majority) = (Term(m.term), self.voters.majority());
        if m.granted == 0 {
            if term > self.term {
                self.adopt_term(term, out);
            }
            return;
        }
        match &mut self.role {
            Role::PreCandidate(tally) if m.pre == 1 && term == self.term.next() => {
                tally.granted.insert(seat);
                if tally.granted.count() >= majority {
                    self.campaign(Asked::No, out);
                }
            }
            Role::Candidate(candidate) if m.pre == 0 && term == self.term => {
                candidate.tally.granted.insert(seat);
                self.count_votes(out);
            }
            _ => {}
        }
    }

    /// Something became durable: perhaps this candidate's own vote.
    pub(super) fn count_own_vote(&mut self, out: &mut Output) {
        let own = self.voters.seat(self.node).expect("a replica is a voter");
        let durable = self.durability.vote_is_durable();
        if let Role::Candidate(candidate) = &mut self.role
            && durable
        {
            candidate.tally.granted.insert(own);
            self.count_votes(out);
        }
    }

    fn count_votes(&mut self, _out: &mut Output) {
        let Role::Candidate(candidate) = &self.role else { return };
        // A majority of others would do to be elected, but what a leader says of its term must not
        // be forgotten by itself: its own vote is durable first.
        let own = self.own_seat();
        if candidate.tally.granted.count() >= self.voters.majority()
            && candidate.tally.granted.contains_all(own)
        {
            self.become_leader();
        }
    }

    pub(super) fn on_timeout_now(&mut self, from: NodeId, m: &peer::TimeoutNow, out: &mut Output) {
        let asked = matches!(&self.role, Role::Follower(f) if f.leader == Some(from));
        if asked && Term(m.term) == self.term && self.installing.is_none() {
            self.campaign(Asked::ByLeader, out);
        }
    }

    /// A higher term is about: whoever leads it is not known yet.
    pub(super) fn adopt_term(&mut self, term: Term, out: &mut Output) {
        assert!(term > self.term, "a term is adopted once");
        self.become_follower(term, None);
        self.set_vote(term, None, out);
    }

    /// Becomes a follower in `term`, which the caller persists if it is a new one.
    pub(super) fn become_follower(&mut self, term: Term, leader: Option<NodeId>) {
        assert!(term >= self.term, "terms never fall");
        if let Role::Leader(_) = self.role {
            // What was proposed and never left this node is gone; nobody has heard of it.
            let emitted = self.durability.emitted();
            if emitted < self.log.last_index() {
                self.log.truncate(emitted.next());
            }
            self.draw_timeout();
        }
        self.role = Role::Follower(Follower::new(leader, self.commit));
    }

    pub(super) fn set_vote(&mut self, term: Term, vote: Option<NodeId>, out: &mut Output) {
        assert!(term > self.term || (term == self.term && self.vote.is_none()), "one vote a term");
        (self.term, self.vote) = (term, vote);
        self.durability.on_vote_emitted();
        out.persist.push(Persist::Vote { term, vote });
    }

    fn draw_timeout(&mut self) {
        let (min, max) = (self.election_timeout_min, self.election_timeout_max);
        self.timeout = self.random.duration(min, max);
        self.campaign_at = self.now + self.timeout;
    }

    fn own_seat(&self) -> Seats {
        let mut seats = Seats::default();
        seats.insert(self.voters.seat(self.node).expect("a replica is a voter"));
        seats
    }
}
