//! Who votes in the group, by incarnation.
//!
//! This is where a group's configuration lives. It is given at construction and stays as it is:
//! membership change is left out for now. When it comes, a configuration is an entry of the log;
//! [`Voters`] becomes the value of the newest such entry, whether committed or not; a truncation
//! that cuts the entry goes back to the one before; and quorums are counted here, in both halves of
//! a joint configuration, so that nobody else changes.

use super::Voter;
use crate::ids::{Incarnation, NodeId};
use alloc::vec::Vec;

/// The most voters that a group may have.
pub const VOTERS_MAX: usize = 9;

/// The voters of a group, in the order of their ids.
#[derive(Clone, Debug)]
pub(super) struct Voters {
    all: Vec<Voter>,
}

impl Voters {
    pub fn new(mut all: Vec<Voter>) -> Voters {
        all.sort_by_key(|v| v.node);
        assert!(!all.is_empty(), "a group needs a voter");
        assert!(all.len() <= VOTERS_MAX, "a group has at most {VOTERS_MAX} voters");
        assert!(all.windows(2).all(|w| w[0].node < w[1].node), "no node votes twice");
        Voters { all }
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn majority(&self) -> usize {
        self.all.len() / 2 + 1
    }

    /// Where the node stands among the voters.
    pub fn seat(&self, node: NodeId) -> Option<usize> {
        self.all.iter().position(|v| v.node == node)
    }

    /// Where the node stands among the voters, if it is still the one that was admitted: a wiped
    /// disk comes back as another incarnation and must not vote as if it remembered.
    pub fn seat_of(&self, node: NodeId, incarnation: Incarnation) -> Option<usize> {
        self.all.iter().position(|v| v.node == node && v.incarnation == incarnation)
    }

    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.all.iter().map(|v| v.node)
    }

    /// The highest value that a majority of voters reaches. `values` holds one for each voter.
    pub fn majority_reaches<T: Copy + Ord>(&self, values: impl Iterator<Item = T>) -> T {
        let mut sorted: [Option<T>; VOTERS_MAX] = [None; VOTERS_MAX];
        let mut count = 0;
        for value in values {
            sorted[count] = Some(value);
            count += 1;
        }
        assert_eq!(count, self.all.len(), "each voter counts once");
        let sorted = &mut sorted[..count];
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        sorted[self.majority() - 1].expect("as many values as voters were filled in")
    }
}

/// A set of voters, by seat.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Seats(u32);

impl Seats {
    pub fn insert(&mut self, seat: usize) {
        self.0 |= 1 << seat;
    }

    pub fn remove(&mut self, seat: usize) {
        self.0 &= !(1 << seat);
    }

    pub fn contains_all(self, other: Seats) -> bool {
        self.0 & other.0 == other.0
    }

    pub fn count(self) -> usize {
        self.0.count_ones() as usize
    }
}

const _: () = assert!(VOTERS_MAX <= 32, "a set of seats has 32 bits");
