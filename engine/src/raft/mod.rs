//! Raft for one group: messages in, outputs out. Commands are opaque bytes.
//!
//! [`Raft`] keeps the term, the vote, the log and the role, and decides. It sends nothing and writes
//! nothing: each call leaves in an [`Output`] what the caller is to journal and to send. It has no
//! clock: `now` comes with every call, [`Raft::deadline`] says when the next one is wanted. One seed
//! decides everything that is left to chance.
//!
//! # How it works
//!
//! *A turn.* The caller hands in what has arrived ([`Raft::on_message`], [`Raft::propose`], ...) and ends
//! the turn with [`Raft::flush`]: all that was proposed becomes one journal record and one message to
//! each follower. The leader's disk works beside the followers': its own log counts for commit
//! only as far as it is durable.
//!
//! *Election.* A follower that hears no leader for a random time asks first whether it would be elected
//! (pre-vote), so that a node which was cut off does not depose a leader when it returns. Nobody votes
//! within its loyalty of a leader's last sign of life, nor within it after a restart (it may have
//! forgotten one); itself it campaigns no sooner. A leader that hears no majority for the longest election
//! timeout steps down. A term and a vote are durable before anybody hears of them.
//!
//! *Replication.* Each follower is probed, replicated to, or sent a snapshot: see [`progress`]. Messages
//! may be lost, doubled and reordered: a heartbeat carries the index before what the leader would send
//! next, so that whatever was lost shows with the next heartbeat. A refusal names index and term, and
//! both sides skip what can't agree.
//!
//! *Commit.* Only an entry of the leader's own term is committed by counting; it takes all before it
//! along (figure 8 of the paper). So a new leader opens its term with an empty entry.
//!
//! *Membership.* Who belongs to the group is an entry of the log and holds from its append on, see
//! [`configuration`]; one replica a change, see [`change`]. A learner gets everything and counts for
//! nothing. Any replica answers a candidate, since it may lag behind the change that added it: what is counted is
//! decided by the candidate, by node and incarnation.
//!
//! *Reads.* Every message of a leader carries a stamp of its own clock, every answer echoes the newest.
//! The stamp that a majority has echoed is the last moment at which it still led:
//! [`Raft::confirmed_at`]. It serves both the lease (that moment plus the loyalty, less a margin for drift)
//! and ReadIndex (that moment is not before the read). See [`Raft::read`].
//!
//! *Loyalty* is agreed, since each node's election timeouts are its own: it stands in the entry that names the
//! members, and is the shortest election timeout of the leader that wrote it. Who has the entry keeps to it, after a
//! restart too; a lease counts those alone who are known to have it. See [`reads`].
//!
//! *Durability* is counted in journal positions: see `durability.rs`.
//!
//! # Invariants
//!
//! - Election safety: one leader a term at most. Log matching, leader completeness.
//! - What is committed is never cut; an index is acknowledged only when durable and agreed.
//! - A leader that asked another to campaign never again answers by lease in that term.
//! - State of a role lives in the role: a follower has no follower progress.
//! - Nothing waits without a timer that ends the wait.
//! - Who belongs to the group is what the log says; no other copy is kept.
//!
//! # Left out, and what it costs
//!
//! - Reading old entries back from the journal: a follower that lags further than the log in memory
//!   gets a snapshot. Costs a snapshot where a few megabytes of log would have done.
//! - Telling followers at once that something was committed: they learn it with the next entries or
//!   heartbeat. Costs them that long in applying; saves a message per write.
//! - Drift between clocks is bounded by assumption (a tenth), not observed.
//!
//! # Sources
//!
//! Ongaro and Ousterhout, In Search of an Understandable Consensus Algorithm, 2014. Ongaro, Consensus:
//! Bridging Theory and Practice, 2014: 3.10 (transfer), 4 (membership), 6.4 (reads), 9.6 (pre-vote).
//! etcd-io/raft for the shape of the cut and of follower progress.

pub mod change;
mod clock;
pub mod configuration;
mod durability;
mod election;
mod follow;
mod lead;
mod log;
mod output;
mod persistent;
pub mod progress;
mod quiet;
mod reads;
mod role;
mod send;
mod snapshot;

#[cfg(test)]
mod tests;

pub use change::{ChangeError, MemberChange};
pub use configuration::{Configuration, Member, Suffrage};
pub use log::{CHUNK_BYTES, Log};
pub use output::{
    AppendRange, Body, Event, Hold, Install, Outgoing, Output, Persist, SnapshotPiece,
};
pub use persistent::{PersistentState, RestoreError};
pub use progress::Progress;
pub use quiet::Quiet;
pub use reads::{Read, ReadMode};

use crate::ids::{GroupId, Incarnation, Index, NodeId, Position, Term};
use crate::level::Level;
use crate::limits;
use crate::mutant::{self, Mutant};
use crate::time::{Duration, Elapsed, Time};
use alloc::vec::Vec;
use clock::Clock;
use configuration::Seats;
use durability::Durability;
use role::{Follower, Role};
use wire::peer;
use wire::random::Random;

/// What a replica is told at its start and never again.
#[derive(Clone, Debug)]
pub struct RaftConfig {
    /// The group.
    pub group: GroupId,
    /// This node.
    pub node: NodeId,
    /// This replica's life: its data directory's, or another one if it was made to join.
    pub incarnation: Incarnation,
    /// Who founded the group. [`Configuration::UNKNOWN`] where it isn't known: a replica that joins.
    pub founders: Configuration,
    /// The shortest time without a leader after which a follower campaigns.
    pub election_timeout_min: Duration,
    /// The longest time without a leader after which a follower campaigns.
    pub election_timeout_max: Duration,
    /// How often an idle leader is heard; several times within the shortest election timeout.
    pub heartbeat: Duration,
    /// How reads are made linearizable.
    pub reads: ReadMode,
    /// Whether this node is to lead a group that was never led.
    pub preference: Preference,
    /// Entries in one message, at most, in bytes: what every journal of the group takes at once.
    pub append_bytes_max: usize,
    /// Entries that are not committed yet, at most, in bytes (one alone may go past it).
    pub uncommitted_bytes_max: usize,
    /// The newest feature level that this build knows: an entry that raises the group past it is not taken.
    pub level_max: Level,
    /// The seed of everything that is drawn by chance. Another one at each start.
    pub seed: u64,
}

/// Whether a node is to lead a group that was never led.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Preference {
    /// It campaigns as soon as a majority is connected.
    Preferred,
    /// It waits its time.
    Ordinary,
}

/// A message from a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Message<'a> {
    /// Asks for a vote.
    Vote(peer::Vote),
    /// Answers a vote.
    VoteReply(peer::VoteReply),
    /// Entries, or a heartbeat.
    Append(peer::Append<'a>),
    /// Answers entries.
    AppendReply(peer::AppendReply),
    /// A piece of a snapshot.
    Snapshot(peer::Snapshot<'a>),
    /// Answers a piece of a snapshot.
    SnapshotReply(peer::SnapshotReply),
    /// Asks this node to campaign.
    TimeoutNow(peer::TimeoutNow),
}

/// What a replica is to its group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RoleName {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether it would be elected.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
}

impl RoleName {
    /// The role's name, for people.
    pub fn as_str(self) -> &'static str {
        match self {
            RoleName::Follower => "follower",
            RoleName::PreCandidate => "pre-candidate",
            RoleName::Candidate => "candidate",
            RoleName::Leader => "leader",
        }
    }
}

/// Why something was not proposed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// Another replica leads, or none.
    #[error("this replica does not lead the group")]
    NotLeader,
    /// Too much is uncommitted, or leadership is being handed over.
    #[error("the group takes no more entries right now; try again")]
    Busy,
}

/// One replica of one group.
#[cfg_attr(test, derive(Clone))]
pub struct Raft {
    group: GroupId,
    node: NodeId,
    incarnation: Incarnation,
    election_timeout_min: Duration,
    election_timeout_max: Duration,
    heartbeat: Duration,
    level_max: Level,
    reads: ReadMode,
    preference: Preference,
    random: Random,
    clock: Clock,
    term: Term,
    vote: Option<NodeId>,
    log: Log,
    commit: Index,
    applied: Index,
    /// The newest snapshot of this replica stands for this index.
    snapshot: Index,
    durability: Durability,
    role: Role,
    /// No vote before this moment: a leader was heard a short while ago, or may have been.
    loyal_until: Time,
    /// This replica's present election timeout, drawn anew for each campaign.
    timeout: Duration,
    campaign_at: Time,
    /// A snapshot has come in whole and is being saved and restored.
    installing: Option<(Index, Term)>,
    /// The nodes to which a link stands.
    links: Vec<NodeId>,
    /// The leader that was told last.
    told: (Term, Option<NodeId>),
    /// The newest `now`.
    now: Time,
    limits: Limits,
}

/// A replica is as loyal as was agreed, and never less than its own shortest election timeout.
fn loyalty(own: Duration, agreed: &Configuration) -> Duration {
    let trusted = mutant::on(Mutant::UnequalTimeoutsTrusted);
    if trusted { own } else { own.max(agreed.loyalty()) }
}

/// The log goes on as it was, with the members that it names.
fn remembered_log(restored: PersistentState, founders: Configuration) -> Log {
    let mut log = restored.log;
    if mutant::on(Mutant::RestartForgetsMembers) {
        log.forget_configurations();
    }
    if log.first_index() == Index::ZERO.next() {
        log.found(founders);
    }
    log
}

/// A restart remembers whom this node voted for.
fn remembers_vote() -> bool {
    !mutant::on(Mutant::ForgetVote)
}

/// A restarted node may have forgotten a leader that counts on it, unless its group was never led.
fn may_vote_at_once(term: Term, last: Index) -> bool {
    let never_led = term == Term::ZERO && last == Index::ZERO;
    never_led || mutant::on(Mutant::RestartVotesAtOnce)
}

/// The limits of [`crate::limits`] that concern a group, in bytes; a test has smaller ones.
#[derive(Clone, Copy)]
struct Limits {
    /// By clients' entries, and by the leader's own beside them.
    uncommitted: usize,
    uncommitted_own: usize,
    log_kept: usize,
    log_pinned: usize,
    in_flight: usize,
    append: usize,
    piece: usize,
    pieces_in_flight: usize,
    learner_lag: u64,
}

/// Of what may be uncommitted, one part in so many is the leader's own at most.
const OWN_SHARE_DIVISOR: usize = 8;

const LIMITS: Limits = Limits {
    uncommitted: limits::UNCOMMITTED_BYTES_MAX,
    uncommitted_own: limits::UNCOMMITTED_OWN_BYTES_MAX,
    log_kept: limits::LOG_KEPT_BYTES_MAX,
    log_pinned: limits::LOG_PINNED_BYTES_MAX,
    in_flight: limits::IN_FLIGHT_BYTES_MAX,
    append: limits::APPEND_BYTES_MAX,
    piece: limits::SNAPSHOT_PIECE_BYTES_MAX,
    pieces_in_flight: limits::SNAPSHOT_IN_FLIGHT_BYTES_MAX,
    learner_lag: limits::LEARNER_LAG_ENTRIES_MAX,
};

impl Limits {
    /// Those of a group whose journals take so much at once, and hold so much that is uncommitted. In bytes.
    fn of(append_max: usize, uncommitted_max: usize) -> Limits {
        let most = (LIMITS.uncommitted + LIMITS.uncommitted_own).min(uncommitted_max);
        let own = LIMITS.uncommitted_own.min(most / OWN_SHARE_DIVISOR);
        Limits {
            append: LIMITS.append.min(append_max),
            uncommitted: most - own,
            uncommitted_own: own,
            ..LIMITS
        }
    }
}

impl Raft {
    /// A replica that remembers what `restored` holds.
    ///
    /// A group that was never led (term zero, no entry) may be led at once; otherwise nobody gets a vote
    /// within the shortest election timeout, since a leader may count on what was forgotten.
    pub fn new(config: RaftConfig, restored: PersistentState, now: Time) -> Raft {
        assert!(config.election_timeout_min <= config.election_timeout_max);
        assert!(config.heartbeat > Duration::ZERO);
        assert!(
            config.heartbeat * 2 <= config.election_timeout_min,
            "a lost heartbeat is survived"
        );
        restored.check().expect("the caller checked what it restored");
        let (restored_term, restored_vote) = (restored.term, restored.vote);
        let (commit, snapshot) = (restored.commit, restored.snapshot);
        let log = remembered_log(restored, config.founders);
        let configuration = log.configuration();
        let unknown = *configuration == Configuration::UNKNOWN;
        assert!(!unknown || snapshot == Index::ZERO, "a snapshot names the members");
        let alone = configuration.voters().all(|m| m.node == config.node) && !unknown;
        let place = (u64::from(config.group.0) << 32) | u64::from(config.node.0);
        let mut random = Random::new(config.seed ^ place.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let timeout = election::draw_timeout(
            &mut random,
            config.election_timeout_min,
            config.election_timeout_max,
        );
        let last = log.last_index();
        let clock = Clock::new(log.last_time(), now);
        let term = restored_term.max(log.last_term());
        // A term learned from an entry alone was not voted in.
        let vote = restored_vote.filter(|_| term == restored_term && remembers_vote());
        let loyalty = loyalty(config.election_timeout_min, configuration);
        let silence = if may_vote_at_once(term, last) { Duration::ZERO } else { loyalty };
        let patience = timeout + (loyalty - config.election_timeout_min);
        Raft {
            group: config.group,
            node: config.node,
            incarnation: config.incarnation,
            election_timeout_min: config.election_timeout_min,
            election_timeout_max: config.election_timeout_max,
            heartbeat: config.heartbeat,
            level_max: config.level_max,
            reads: config.reads,
            preference: config.preference,
            random,
            clock,
            term,
            vote,
            log,
            commit,
            applied: snapshot,
            snapshot,
            durability: Durability::new(last),
            role: Role::Follower(Follower::new(None, commit)),
            loyal_until: now + silence,
            timeout,
            // Even alone: a leader that removed itself may have led until a moment ago.
            campaign_at: now + if alone { silence } else { patience },
            installing: None,
            links: Vec::new(),
            told: (Term::ZERO, None),
            now,
            limits: Limits::of(config.append_bytes_max, config.uncommitted_bytes_max),
        }
    }

    /// Time passed: due at [`Raft::deadline`] at the latest. What it leads to leaves with the next
    /// [`Raft::flush`].
    pub fn on_tick(&mut self, now: Time, out: &mut Output) {
        self.advance(now);
        match &self.role {
            Role::Leader(_) => self.tick_leader(out),
            _ if now < self.campaigns_at() => {}
            _ if !self.may_campaign() => {
                self.campaign_at = now + self.timeout;
                if let Role::Follower(follower) = &mut self.role {
                    follower.leader = None;
                }
            }
            // What is being installed can't be interrupted by leading.
            _ if self.installing.is_some() => self.campaign_at = now + self.timeout,
            _ => self.campaign_first(out),
        }
        self.tell(out);
        self.check();
    }

    /// When [`Raft::on_tick`] is wanted, at the latest.
    pub fn deadline(&self) -> Time {
        match &self.role {
            Role::Leader(leader) => self.deadline_leader(leader),
            _ => self.campaigns_at(),
        }
    }

    /// A message came in. It may be late, lost, doubled; it may not be forged.
    pub fn on_message(&mut self, now: Time, from: NodeId, message: Message<'_>, out: &mut Output) {
        self.advance(now);
        assert!(from != self.node, "nobody sends to itself");
        match message {
            Message::Vote(m) => self.on_vote(from, &m, out),
            Message::VoteReply(m) => self.on_vote_reply(from, &m, out),
            Message::Append(m) => self.on_append(from, &m, out),
            Message::AppendReply(m) => self.on_append_reply(from, &m, out),
            Message::Snapshot(m) => self.on_snapshot(from, &m, out),
            Message::SnapshotReply(m) => self.on_snapshot_reply(from, &m, out),
            Message::TimeoutNow(m) => self.on_timeout_now(from, &m, out),
        }
        self.tell(out);
        self.check();
    }

    /// The link to a peer stands (anew): whatever was on its way may be lost.
    pub fn on_peer_up(&mut self, now: Time, peer: NodeId, out: &mut Output) {
        self.advance(now);
        self.links.retain(|node| *node != peer);
        self.links.push(peer);
        self.reprobe(peer);
        let linked = |m: &&Member| m.node == self.node || self.links.contains(&m.node);
        if self.preference == Preference::Preferred
            && self.never_led()
            && self.may_campaign()
            && self.configuration().voters().filter(linked).count()
                >= self.configuration().majority()
        {
            self.campaign_first(out);
        }
        self.tell(out);
        self.check();
    }

    /// The link to a peer is gone.
    pub fn on_peer_down(&mut self, now: Time, peer: NodeId) {
        self.advance(now);
        self.links.retain(|node| *node != peer);
        self.reprobe(peer);
    }

    /// So long after a leader's sign of life this replica votes for no other: what was agreed, and never less than
    /// its own shortest election timeout.
    fn loyalty(&self) -> Duration {
        loyalty(self.election_timeout_min, self.configuration())
    }

    /// How long it waits for a leader's sign of life before it campaigns.
    fn waits(&self) -> Duration {
        self.timeout + (self.loyalty() - self.election_timeout_min)
    }

    /// It campaigns no sooner than it would vote for another.
    fn campaigns_at(&self) -> Time {
        self.campaign_at.max(self.loyal_until)
    }

    /// Ends a turn: emits what was proposed since the last one, to the journal and to each follower
    /// that can take it, or the answer that is due to the leader.
    pub fn flush(&mut self, now: Time, out: &mut Output) {
        self.advance(now);
        match self.role {
            Role::Leader(_) => {
                self.keep_offer();
                self.flush_leader(out);
            }
            Role::Follower(_) => {
                self.keep_received();
                self.flush_follower(out);
            }
            Role::PreCandidate(_) | Role::Candidate(_) => {}
        }
        self.tell(out);
        self.check();
    }

    /// All of the last [`Output::persist`] is in the journal, in the unit `position` or before.
    pub fn on_appended(&mut self, position: Position) {
        assert!(position > Position::ZERO, "what is appended is in a unit");
        self.durability.on_appended(position);
    }

    /// All units up to `position` are durable.
    pub fn on_synced(&mut self, now: Time, position: Position, out: &mut Output) {
        self.advance(now);
        self.durability.on_synced(position);
        match &mut self.role {
            Role::Leader(_) => self.advance_commit(out),
            Role::Candidate(_) => self.count_own_vote(out),
            Role::Follower(follower) => {
                let index = self.durability.durable().min(follower.agreed);
                follower.due.acknowledge |= index > follower.acknowledged;
            }
            Role::PreCandidate(_) => {}
        }
        self.tell(out);
        self.check();
    }

    /// Whether something of it is journaled and not durable yet.
    pub fn awaits_sync(&self) -> bool {
        self.durability.awaits_sync()
    }

    /// A snapshot of this replica at `index` is durable, as its record in the journal is: the journal no
    /// longer needs what lies up to there.
    pub fn snapshot_made(&mut self, index: Index, term: Term) {
        assert!(index <= self.applied, "a snapshot stands for what was applied");
        if let Some(there) = self.log.term_at(index) {
            assert_eq!(there, term, "a snapshot and the log agree");
        }
        self.snapshot = self.snapshot.max(index);
    }

    /// The group's replicated clock reads at least `time`, as the snapshot says that was just restored.
    pub fn raise_time(&mut self, time: Elapsed) {
        self.log.raise_time(time);
        self.clock.follow(self.now, self.log.last_time());
    }

    /// What the group's replicated clock shows here.
    pub fn clock(&self, now: Time) -> Elapsed {
        self.clock.read(now)
    }

    /// When it will show `elapsed`, by this node's clock.
    pub fn clock_moment(&self, elapsed: Elapsed) -> Time {
        self.clock.moment(elapsed)
    }

    /// The highest index known to be committed.
    pub fn commit(&self) -> Index {
        self.commit
    }

    /// The term.
    pub fn term(&self) -> Term {
        self.term
    }

    /// The newest feature level that this replica takes part in.
    pub fn level_max(&self) -> Level {
        self.level_max
    }

    /// The group.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// This replica's life.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Who belongs to the group by the newest entry that says so; [`Raft::change_in_flight`] says whether it
    /// is committed.
    pub fn configuration(&self) -> &Configuration {
        self.log.configuration()
    }

    /// The change of members that is appended and not known to be committed.
    pub fn change_in_flight(&self) -> Option<Index> {
        Some(self.log.configuration_index()).filter(|index| *index > self.commit)
    }

    /// The role.
    pub fn role(&self) -> RoleName {
        match self.role {
            Role::Follower(_) => RoleName::Follower,
            Role::PreCandidate(_) => RoleName::PreCandidate,
            Role::Candidate(_) => RoleName::Candidate,
            Role::Leader(_) => RoleName::Leader,
        }
    }

    /// Who leads, as far as this replica knows.
    pub fn leader(&self) -> Option<NodeId> {
        match &self.role {
            Role::Leader(_) => Some(self.node),
            Role::Follower(follower) => follower.leader,
            Role::PreCandidate(_) | Role::Candidate(_) => None,
        }
    }

    /// Whether this replica leads.
    pub fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    /// The log in memory.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The first index in memory.
    pub fn first_index(&self) -> Index {
        self.log.first_index()
    }

    /// The last index of the log. It falls when a leader loses its role before what was proposed
    /// was flushed, and when a follower's log is cut.
    pub fn last_index(&self) -> Index {
        self.log.last_index()
    }

    /// The highest index that is durable here.
    pub fn durable(&self) -> Index {
        self.durability.durable()
    }

    /// The highest index that is applied here.
    pub fn applied(&self) -> Index {
        self.applied
    }

    /// The index of this replica's newest snapshot; zero if there is none.
    #[cfg(test)]
    pub fn snapshot_index(&self) -> Index {
        self.snapshot
    }

    /// The followers as the leader sees them; empty elsewhere.
    pub fn progress(&self) -> &[Progress] {
        match &self.role {
            Role::Leader(leader) => &leader.followers,
            _ => &[],
        }
    }

    /// What holds between any two inputs.
    fn check(&self) {
        let last = self.log.last_index();
        assert!(self.snapshot <= self.applied, "a snapshot stands for what was applied");
        assert!(self.applied <= self.commit, "only what is committed is applied");
        assert!(self.commit <= last, "what is committed is here");
        assert!(self.log.first_index() <= self.applied.next(), "what is not applied is in memory");
        assert!(self.log.last_term() <= self.term, "no entry is of a term to come");
        assert!(self.durability.durable() <= self.durability.emitted(), "it was handed out first");
        assert!(self.durability.emitted() <= last, "only what is there is handed out");
        match &self.role {
            Role::Follower(follower) => follower.check(last),
            Role::PreCandidate(_) => assert!(self.installing.is_none(), "that is not interrupted"),
            Role::Candidate(_) => assert_eq!(self.vote, Some(self.node), "it votes for itself"),
            Role::Leader(leader) => leader.check(last),
        }
    }

    fn advance(&mut self, now: Time) {
        assert!(now >= self.now, "time does not go back");
        self.now = now;
    }

    fn is_voter(&self) -> bool {
        self.configuration().is_voter(self.node, self.incarnation)
    }

    /// Whether nobody but this replica votes.
    fn is_alone(&self) -> bool {
        self.configuration().majority() == 1 && self.is_voter()
    }

    fn never_led(&self) -> bool {
        let waits = match &self.role {
            Role::Follower(f) => f.leader.is_none(),
            Role::PreCandidate(_) => true,
            Role::Candidate(_) | Role::Leader(_) => false,
        };
        waits && self.term == Term::ZERO && self.log.last_index() == Index::ZERO
    }

    fn tell(&mut self, out: &mut Output) {
        let known = (self.term, self.leader());
        if known != self.told {
            self.told = known;
            out.events.push(Event::Leader { term: known.0, leader: known.1 });
        }
    }
}
