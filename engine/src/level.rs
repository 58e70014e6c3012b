//! Feature levels: what every node of a cluster can read.
//!
//! While a cluster is upgraded its nodes run different builds. Whatever a build writes into a log, a snapshot or
//! a manifest that the build before can't read comes with a new level, and is written only once the cluster is at
//! it:
//!
//! 1. Nodes tell each other the newest level that they know ([`wire::peer::FeatureLevel`]).
//! 2. Once every node of the cluster knows a higher one, and all are reached, the meta group's leader proposes it
//!    there ([`kind::LEVEL`](crate::entry::kind::LEVEL)). With the nodes it becomes known everywhere.
//! 3. Each group's leader then proposes it in its own log. What comes with the level may follow that entry, and only
//!    that.
//!
//! | level | what came with it |
//! |---|---|
//! | 1 | all that was there before levels |
//! | 2 | levels themselves: their entry, snapshots of version 3, manifests of format 3 |
//! | 3 | entries whose work is bounded, ended sessions remembered by time, a secret seed, more voters for the meta group |
//!
//! There is no way back: a build that does not know the cluster's level is refused. Who wants to keep the way back
//! open holds the level with `--level-max` until the new build has proved itself.
//!
//! # Invariants
//!
//! - Nobody appends an entry that raises the level past what it knows ([`Raft`](crate::raft::Raft) vets it).
//! - A level never falls.

use core::fmt;

/// A feature level.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Level(pub u32);

impl Level {
    /// Every build knows it, and whoever says nothing knows no other.
    pub const OLDEST: Level = Level(1);
    /// The newest that this build knows.
    pub const NEWEST: Level = Level(3);
    /// Before it neither snapshots nor manifests say their level.
    pub(crate) const SAID: Level = Level(2);

    /// The payload of an entry that raises the level.
    pub fn encode(self) -> [u8; 4] {
        self.0.to_le_bytes()
    }

    /// Reads that payload.
    pub fn decode(payload: &[u8]) -> Option<Level> {
        payload.try_into().ok().map(|bytes| Level(u32::from_le_bytes(bytes)))
    }
}

impl Default for Level {
    fn default() -> Level {
        Level::OLDEST
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
