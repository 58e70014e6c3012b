//! Who belongs to the group, and who of them votes.
//!
//! A configuration is an entry of the log ([`kind::MEMBERS`](crate::entry::kind::MEMBERS)). It holds from the
//! moment at which it is appended, committed or not; a cut that takes it away restores the one before. So
//! the [`Log`](super::Log) keeps them, beside their entries, and nobody else keeps any.
//!
//! ```text
//!  at  size  field
//!   0     4  members     how many; the highest bit: the loyalty follows them
//!   4    24  a member, by ascending node:
//!            0  4  node
//!            4  4  suffrage   1 = voter, 2 = learner
//!            8 16  incarnation
//!         8  loyalty     in nanoseconds; from [`Level::LOYALTY`](crate::level::Level) on
//! ```

use crate::ids::{Incarnation, Index, NodeId};
use crate::limits::{MEMBERS_MAX, VOTERS_MAX};
use crate::mutant::{self, Mutant};
use crate::time::Duration;
use alloc::vec::Vec;
use wire::bytes::{Put, Reader};

const COUNT_BYTES: usize = 4;
const MEMBER_BYTES: usize = 24;
const LOYALTY_BYTES: usize = 8;
/// In the count: the loyalty follows the members.
const LOYALTY_FOLLOWS: u32 = 1 << 31;
/// The longest payload of an entry that names the members, in bytes.
pub const MEMBERS_BYTES_MAX: usize = COUNT_BYTES + MEMBERS_MAX * MEMBER_BYTES + LOYALTY_BYTES;

/// A replica of the group.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// The replica's life with which it was admitted: one that lost its disk comes back as another.
    pub incarnation: Incarnation,
    /// Whether it counts.
    pub suffrage: Suffrage,
}

/// Whether a member counts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Suffrage {
    /// It votes, and counts for commit.
    Voter,
    /// It gets everything and counts for nothing.
    Learner,
}

/// The members of a group, in the order of their ids. Empty: not known.
#[derive(Clone, Default, PartialEq, Eq, Hash, Debug)]
pub struct Configuration {
    all: Vec<Member>,
    /// How many of them vote: asked for with every read.
    voters: usize,
    /// So long after a leader's sign of life nobody votes for another who has this. Zero: nothing is agreed.
    loyalty: Duration,
}

impl Configuration {
    /// Nobody is known: what a replica has that was made to join.
    pub const UNKNOWN: Configuration =
        Configuration { all: Vec::new(), voters: 0, loyalty: Duration::ZERO };

    /// These members, each node once.
    ///
    /// # Panics
    /// When they are none, too many, or none of them votes.
    pub fn new(mut all: Vec<Member>) -> Configuration {
        all.sort_by_key(|m| m.node);
        let made = Configuration::unchecked(all);
        assert!(made.is_valid(), "a group has a voter, at most {VOTERS_MAX}, and a node once");
        made
    }

    /// These voters and nobody else.
    ///
    /// # Panics
    /// As [`Configuration::new`].
    pub fn of_voters(voters: impl Iterator<Item = (NodeId, Incarnation)>) -> Configuration {
        let suffrage = Suffrage::Voter;
        Configuration::new(
            voters.map(|(node, i)| Member { node, incarnation: i, suffrage }).collect(),
        )
    }

    fn unchecked(all: Vec<Member>) -> Configuration {
        let voters = all.iter().filter(|m| m.suffrage == Suffrage::Voter).count();
        Configuration { all, voters, loyalty: Duration::ZERO }
    }

    /// The same members, who are loyal for so long.
    pub fn with_loyalty(self, loyalty: Duration) -> Configuration {
        Configuration { loyalty, ..self }
    }

    /// So long after a leader's sign of life nobody votes for another who has this. Zero: nothing is agreed.
    pub fn loyalty(&self) -> Duration {
        self.loyalty
    }

    fn is_valid(&self) -> bool {
        let once = self.all.windows(2).all(|w| w[0].node < w[1].node);
        once && (1..=VOTERS_MAX).contains(&self.voters) && self.all.len() <= MEMBERS_MAX
    }

    /// Appends the payload of its entry.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let count = u32::try_from(self.all.len()).expect("a group has few members");
        let follows = if self.loyalty > Duration::ZERO { LOYALTY_FOLLOWS } else { 0 };
        out.put_u32(count | follows);
        for member in &self.all {
            out.put_u32(member.node.0);
            out.put_u32(if member.suffrage == Suffrage::Voter { 1 } else { 2 });
            out.put(&member.incarnation.0);
        }
        if follows > 0 {
            out.put_u64(u64::try_from(self.loyalty.as_nanos()).unwrap_or(u64::MAX));
        }
    }

    /// Reads the configuration at the front of `bytes`, which may be [`Configuration::UNKNOWN`], and gives
    /// what follows.
    pub fn split(bytes: &[u8]) -> Option<(Configuration, &[u8])> {
        let mut bytes = Reader::new(bytes);
        let said = bytes.u32().ok()?;
        let count = usize::try_from(said & !LOYALTY_FOLLOWS).ok()?;
        let members = bytes.take(count.checked_mul(MEMBER_BYTES)?).ok()?;
        let members = members.chunks_exact(MEMBER_BYTES).map(read_member);
        let mut read = Configuration::unchecked(members.collect::<Option<_>>()?);
        if said & LOYALTY_FOLLOWS > 0 {
            read.loyalty = Duration::from_nanos(bytes.u64().ok()?);
        }
        (count == 0 || read.is_valid()).then_some((read, bytes.rest()))
    }

    /// Reads the payload of an entry.
    pub fn decode(payload: &[u8]) -> Option<Configuration> {
        let (read, rest) = Configuration::split(payload)?;
        (rest.is_empty() && !read.all.is_empty()).then_some(read)
    }

    /// Everybody, by node.
    pub fn members(&self) -> &[Member] {
        &self.all
    }

    /// Who votes, by node.
    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.all.iter().filter(|m| m.suffrage == Suffrage::Voter)
    }

    /// The member of this node, in whatever life.
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.all.iter().find(|m| m.node == node)
    }

    /// Whether the node votes, if it is still the one that was admitted: a wiped disk comes back as another
    /// incarnation and must not vote as if it remembered.
    pub fn is_voter(&self, node: NodeId, incarnation: Incarnation) -> bool {
        self.voters().any(|m| m.node == node && m.incarnation == incarnation)
    }

    pub(super) fn has_replica(&self, node: NodeId, incarnation: Incarnation) -> bool {
        self.member(node).is_some_and(|m| m.incarnation == incarnation)
    }

    /// Where the node stands among the members, if it votes and is still the one that was admitted.
    pub(super) fn seat_of(&self, node: NodeId, incarnation: Incarnation) -> Option<usize> {
        let at = self.all.iter().position(|m| m.node == node && m.incarnation == incarnation)?;
        assert!(at < MEMBERS_MAX, "a set of seats has a place for each");
        (self.all[at].suffrage == Suffrage::Voter).then_some(at)
    }

    /// How many votes decide.
    pub fn majority(&self) -> usize {
        self.voters / 2 + 1
    }

    /// The highest value that a majority of voters reaches. `values` holds one for each voter.
    pub(super) fn majority_reaches<T: Copy + Ord>(&self, values: impl Iterator<Item = T>) -> T {
        let mut sorted: [Option<T>; MEMBERS_MAX] = [None; MEMBERS_MAX];
        let mut count = 0;
        for value in values {
            sorted[count] = Some(value);
            count += 1;
        }
        assert!(self.is_each_counted_once(count), "each voter counts once");
        let sorted = &mut sorted[..count];
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        sorted[self.majority() - 1].expect("as many values as voters were filled in")
    }

    fn is_each_counted_once(&self, count: usize) -> bool {
        let more = mutant::on(Mutant::LearnerCounts) || mutant::on(Mutant::RemovedLeaderCounts);
        count == self.voters || more
    }

    pub(super) fn with(&self, member: Member) -> Configuration {
        let mut all = self.without(member.node).all;
        all.push(member);
        all.sort_by_key(|m| m.node);
        Configuration::unchecked(all).with_loyalty(self.loyalty)
    }

    pub(super) fn without(&self, node: NodeId) -> Configuration {
        let others = self.all.iter().filter(|m| m.node != node).copied().collect();
        Configuration::unchecked(others).with_loyalty(self.loyalty)
    }
}

fn read_member(bytes: &[u8]) -> Option<Member> {
    let mut bytes = Reader::new(bytes);
    let (node, suffrage) = (NodeId(bytes.u32().ok()?), bytes.u32().ok()?);
    let suffrage = match suffrage {
        1 => Suffrage::Voter,
        2 => Suffrage::Learner,
        _ => return None,
    };
    Some(Member { node, suffrage, incarnation: Incarnation(bytes.array().ok()?) })
}

/// The configurations of a log.
///
/// Invariant: indexes ascend, and none is above the log's last.
#[derive(Clone, Debug)]
pub(super) struct Configurations {
    /// What held at the log's base, and where it was said at the latest.
    base: (Index, Configuration),
    /// What entries in memory say.
    later: Vec<(Index, Configuration)>,
}

impl Configurations {
    /// Nothing is known.
    pub fn new() -> Configurations {
        Configurations { base: (Index::ZERO, Configuration::UNKNOWN), later: Vec::new() }
    }

    /// The one that holds at `index`.
    pub fn at(&self, index: Index) -> &(Index, Configuration) {
        self.later.iter().rev().find(|(at, _)| *at <= index).unwrap_or(&self.base)
    }

    pub fn newest(&self) -> &(Index, Configuration) {
        self.later.last().unwrap_or(&self.base)
    }

    /// The one that the newest took the place of.
    pub fn before_newest(&self) -> &Configuration {
        let before = self.later.len().checked_sub(2).map(|at| &self.later[at]);
        &before.unwrap_or(&self.base).1
    }

    pub fn push(&mut self, index: Index, configuration: Configuration) {
        assert!(index > self.newest().0, "configurations follow each other");
        self.later.push((index, configuration));
    }

    /// The log is cut.
    pub fn truncate(&mut self, from: Index) {
        if !mutant::on(Mutant::CutKeepsMembers) {
            self.later.retain(|(at, _)| *at < from);
        }
    }

    /// The log's entries up to `upto` leave memory.
    pub fn drop_to(&mut self, upto: Index) {
        let gone = self.later.partition_point(|(at, _)| *at <= upto);
        if let Some(last) = self.later.drain(..gone).next_back() {
            self.base = last;
        }
    }

    /// The log goes on after `index`, where this one holds.
    pub fn reset(&mut self, index: Index, configuration: Configuration) {
        self.later.clear();
        self.base = (index, configuration);
    }

    /// What holds at the log's base is known now.
    pub fn found(&mut self, index: Index, configuration: Configuration) {
        if self.base.1 == Configuration::UNKNOWN {
            self.base = (index, configuration);
        }
        // Where the log knows already, both say the same.
    }
}

/// A set of voters, by seat.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Seats(u32);

impl Seats {
    pub fn insert(&mut self, seat: usize) {
        self.0 |= 1 << seat;
    }

    pub fn insert_all(&mut self, others: Seats) {
        self.0 |= others.0;
    }

    #[cfg(test)]
    pub fn contains_all(self, other: Seats) -> bool {
        self.0 & other.0 == other.0
    }

    pub fn count(self) -> usize {
        self.0.count_ones() as usize
    }
}

const _: () = assert!(MEMBERS_MAX <= 32, "a set of seats has 32 bits");
