//! Ids, each a type of its own, so that none is taken for another.

use core::fmt;

/// A node of the cluster, from 1. It is written in the node's configuration and its manifest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub u32);

/// A Raft group: 0 is the meta group, shard `s` is group `s + 1`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GroupId(pub u32);

impl GroupId {
    /// The meta group.
    pub const META: GroupId = GroupId(0);

    /// The group of a shard.
    pub const fn of_shard(shard: u32) -> GroupId {
        GroupId(shard + 1)
    }

    /// The shard that this group keeps, unless it is the meta group.
    pub const fn shard(self) -> Option<u32> {
        self.0.checked_sub(1)
    }
}

/// A term of a group, from 1; [`Term::ZERO`] before the first election.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Term(pub u64);

impl Term {
    /// Before the first election.
    pub const ZERO: Term = Term(0);

    /// The term after this one.
    pub const fn next(self) -> Term {
        Term(self.0 + 1)
    }
}

/// An index of a group's log, from 1; [`Index::ZERO`] stands before the first entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Index(pub u64);

impl Index {
    /// Before the first entry.
    pub const ZERO: Index = Index(0);

    /// The index after this one.
    pub const fn next(self) -> Index {
        Index(self.0 + 1)
    }

    /// The index before this one; the one before zero is a bug.
    pub const fn prev(self) -> Index {
        assert!(self.0 > 0, "nothing stands before index zero");
        Index(self.0 - 1)
    }
}

/// A journal position: the number of a sync unit, from 1. It never repeats. A record is durable once
/// the unit that holds it is synced.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Position(pub u64);

impl Position {
    /// Before the first unit: durable from the start.
    pub const ZERO: Position = Position(0);
}

/// A data directory's incarnation: random, made once. A wiped node comes back as another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub [u8; 16]);

impl Incarnation {
    /// No directory's, and no replica's life.
    pub const NOBODY: Incarnation = Incarnation([0; 16]);
}

/// A cluster's id: random, made at its birth; all zero before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub [u8; 16]);

impl ClusterId {
    /// No cluster yet.
    pub const NONE: ClusterId = ClusterId([0; 16]);
}

/// A client's session.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub [u8; 16]);

/// A client's connection to this engine. The index is used again after a close, the generation
/// is not.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnId {
    /// Where the connection stands in tables.
    pub index: u32,
    /// How many connections stood there before.
    pub generation: u32,
}

macro_rules! hex {
    ($($ty:ident)*) => {$(
        impl fmt::Debug for $ty {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
        impl fmt::Display for $ty {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
        }
    )*};
}
hex!(Incarnation ClusterId SessionId);

macro_rules! number {
    ($($ty:ident)*) => {$(
        impl fmt::Display for $ty {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    )*};
}
number!(NodeId GroupId Term Index Position);
