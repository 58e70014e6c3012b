//! Elections: who asks, who grants, who wins.

use super::output::{Body, Event, Hold, Output, Persist};
use super::role::{Candidate, Follower, Role, Tally};
use super::{Preference, Raft, Seats};
use crate::ids::{Incarnation, NodeId, Term};
use crate::mutant::{self, Mutant};
use crate::time::Duration;
use wire::peer;
use wire::random::Random;

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
        assert!(self.may_campaign(), "only who may be elected asks");
        assert!(!self.is_leader(), "a leader does not campaign");
        self.draw_timeout();
        if self.preference == Preference::Preferred && self.never_led() {
            // At a birth links come up one side first: what was sent may have met a closed door. It is
            // sent again before anybody else loses patience.
            self.campaign_at = self.now + self.heartbeat;
        }
        self.role = Role::PreCandidate(Tally { granted: self.own_seat() });
        if self.is_alone() {
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
        out.events.push(Event::Campaign { term: self.term });
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
        for to in self.configuration().voters().filter(|m| m.node != self.node) {
            out.send(to.node, hold, Body::Vote(vote));
        }
    }

    pub(super) fn on_vote(&mut self, from: NodeId, m: &peer::Vote, out: &mut Output) {
        // Whoever is not known, or only by another life, may have been added while this replica lagged, and may
        // be the only one left who has all. Who is counted is the candidate's affair; a vote only promises that
        // no other is given. It names a node, though: another life of that one does not get it a second time, as
        // far as this replica knows of it. It need not know: a life campaigns only once it is a voter by its own
        // log, that is after the removal of the one before it was committed, so that one's log is behind.
        let known = self.configuration().member(from);
        let other_life =
            known.is_some_and(|member| member.incarnation != Incarnation(m.incarnation));
        let term = Term(m.term);
        if other_life && term == self.term && self.vote.is_some() {
            return;
        }
        if term < self.term {
            self.refuse_vote(from, m.pre, out);
            return;
        }
        // A leader that may still count on this node keeps it, unless it asked for the campaign
        // itself: then it gave its lease up for the whole of its term.
        if m.transfer == 0 && self.is_loyal() {
            return;
        }
        let up_to_date = self.is_up_to_date(m);
        if m.pre == 1 {
            let free = term > self.term || self.may_vote_for(from);
            if up_to_date && free {
                let body = self.vote_reply(term, 1, 1);
                out.send(from, Hold::Now, Body::VoteReply(body));
            } else {
                self.refuse_vote(from, 1, out);
            }
            return;
        }
        if term > self.term {
            let vote = up_to_date.then_some(from);
            self.become_follower(term, None);
            self.set_vote(term, vote, out);
        } else if !(up_to_date && self.may_vote_for(from)) {
            self.refuse_vote(from, 0, out);
            return;
        } else if self.vote.is_none() {
            self.set_vote(term, Some(from), out);
        }
        if !self.has_vote(from) {
            self.refuse_vote(from, 0, out);
            return;
        }
        // Who votes waits for the one it voted for.
        self.campaign_at = self.now + self.timeout;
        let body = self.vote_reply(term, 0, 1);
        out.send(from, hold_of_vote(), Body::VoteReply(body));
    }

    /// A vote goes only to a log that is at least as new as this one (section 5.4.1 of the paper).
    fn is_up_to_date(&self, m: &peer::Vote) -> bool {
        let theirs = (Term(m.last_term), m.last_index);
        let ours = (self.log.last_term(), self.log.last_index().0);
        theirs >= ours || mutant::on(Mutant::AnyLogWins)
    }

    /// One vote a term.
    fn has_vote(&self, candidate: NodeId) -> bool {
        self.vote == Some(candidate) || mutant::on(Mutant::VoteTwice)
    }

    /// Whether a leader may count on this node not to vote for another.
    fn is_loyal(&self) -> bool {
        match &self.role {
            _ if mutant::on(Mutant::Disloyal) => false,
            Role::Leader(leader) => self.heard_majority_at(leader) + self.loyalty() > self.now,
            _ => self.now < self.loyal_until,
        }
    }

    fn may_vote_for(&self, candidate: NodeId) -> bool {
        let led = match &self.role {
            Role::Leader(_) => true,
            Role::Follower(follower) => follower.leader.is_some(),
            Role::PreCandidate(_) | Role::Candidate(_) => false,
        };
        self.has_vote(candidate) || (self.vote.is_none() && !led)
    }

    fn refuse_vote(&self, to: NodeId, pre: u8, out: &mut Output) {
        let body = self.vote_reply(self.term, pre, 0);
        out.send(to, Hold::Now, Body::VoteReply(body));
    }

    fn vote_reply(&self, term: Term, pre: u8, granted: u8) -> peer::VoteReply {
        peer::VoteReply { term: term.0, incarnation: self.incarnation.0, pre, granted }
    }

    pub(super) fn on_vote_reply(&mut self, from: NodeId, m: &peer::VoteReply, out: &mut Output) {
        let Some(seat) = self.seat_of_vote(from, Incarnation(m.incarnation)) else { return };
        let (term, majority) = (Term(m.term), self.configuration().majority());
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

    /// A vote counts only from the life of the voter that was admitted: another one may have voted before.
    fn seat_of_vote(&self, from: NodeId, incarnation: Incarnation) -> Option<usize> {
        let incarnation = match self.configuration().member(from) {
            Some(member) if mutant::on(Mutant::AnyIncarnationVotes) => member.incarnation,
            _ => incarnation,
        };
        self.configuration().seat_of(from, incarnation)
    }

    /// Something became durable: perhaps this candidate's own vote.
    pub(super) fn count_own_vote(&mut self, out: &mut Output) {
        let own = self.own_seat();
        let durable = self.durability.vote_is_durable();
        if let Role::Candidate(candidate) = &mut self.role
            && durable
        {
            candidate.tally.granted.insert_all(own);
            self.count_votes(out);
        }
    }

    fn count_votes(&mut self, _out: &mut Output) {
        let Role::Candidate(candidate) = &self.role else { return };
        let votes = candidate.tally.granted.count();
        assert!(votes <= self.configuration().voters().count(), "who does not vote has no seat");
        // A majority of others would do to be elected, but what a leader says of its term must not
        // be forgotten by itself: its own vote is durable first.
        if votes >= self.configuration().majority() && self.durability.vote_is_durable() {
            self.become_leader();
        }
    }

    pub(super) fn on_timeout_now(&mut self, from: NodeId, m: &peer::TimeoutNow, out: &mut Output) {
        let asked = matches!(&self.role, Role::Follower(f) if f.leader == Some(from));
        let may = self.may_campaign() && self.installing.is_none();
        if asked && Term(m.term) == self.term && may {
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
        assert!(term >= self.term, "terms never fall");
        assert!(term > self.term || self.vote.is_none(), "one vote a term");
        (self.term, self.vote) = (term, vote);
        self.durability.on_vote_emitted();
        out.persist.push(Persist::Vote { term, vote });
    }

    fn draw_timeout(&mut self) {
        let (min, max) = (self.election_timeout_min, self.election_timeout_max);
        self.timeout = draw_timeout(&mut self.random, min, max);
        self.campaign_at = self.now + self.timeout;
    }

    fn own_seat(&self) -> Seats {
        let mut seats = Seats::default();
        if let Some(seat) = self.configuration().seat_of(self.node, self.incarnation) {
            seats.insert(seat);
        }
        seats
    }

    /// Whether this replica may ask to be elected: it votes, or did before a change that may still be cut.
    /// The latter, because it may be the only one that has the change:
    ///
    /// 1. Nodes 1 and 2 vote. Node 1 leads, appends that it is removed, and falls before node 2 hears of it.
    /// 2. Node 2 asks node 1 for a vote, and does not get it: node 1's log is longer.
    /// 3. So node 1 must ask node 2, whose vote alone counts by now.
    pub(super) fn may_campaign(&self) -> bool {
        let open = self.log.configuration_index() > self.commit;
        let (node, incarnation) = (self.node, self.incarnation);
        self.is_voter() || open && self.log.configuration_before().is_voter(node, incarnation)
    }
}

/// A vote leaves once it is durable.
fn hold_of_vote() -> Hold {
    if mutant::on(Mutant::VoteBeforeSync) { Hold::Now } else { Hold::AfterSync }
}

/// A duration from `min` to `max`, both included.
pub(super) fn draw_timeout(random: &mut Random, min: Duration, max: Duration) -> Duration {
    assert!(min <= max, "a range of durations is not empty");
    let span = u64::try_from((max - min).as_nanos()).expect("timeouts are far below 584 years");
    min + Duration::from_nanos(random.draw() % (span + 1))
}
