//! What only the simulator and the tests look at.

use super::Shard;
use super::calls::{CallId, Caller};
use crate::ids::Index;
use crate::time::{Elapsed, Time};

impl Shard {
    /// What the group's clock shows here.
    pub fn clock(&self, now: Time) -> Elapsed {
        self.raft.clock(now)
    }

    /// Whether the members are those that the placement wants.
    pub fn is_placed(&self) -> bool {
        self.moves.is_done(&self.raft)
    }

    /// Bytes of snapshots that lie in memory, but for a backup's.
    pub fn snapshot_bytes(&self) -> u64 {
        self.snapshots.kept_bytes()
    }

    /// The journal's entries up to here are not needed.
    pub fn snapshot_index(&self) -> Index {
        self.snapshots.durable()
    }

    /// The calls that wait to be proposed, in the order in which they leave.
    pub fn staged(&self) -> impl Iterator<Item = (Caller, CallId)> {
        self.stage.calls()
    }
}
