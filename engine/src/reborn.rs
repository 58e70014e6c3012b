//! A cluster begins anew from the backup of another: what each group's snapshot becomes.
//!
//! The new cluster has another id, one node, and as many shards. Each group goes on at the index and in the term of its
//! snapshot, with the new node as its only voter; what its state becomes is told in [`crate::machine`] and
//! [`crate::machine::meta`].

use crate::ids::{ClusterId, GroupId};
use crate::level::Level;
use crate::machine::meta::{Meta, Node};
use crate::machine::{self, Corrupt, Machine, Times};
use crate::open::machine_config;
use crate::raft::Configuration;
use crate::secret::Secret;
use alloc::vec::Vec;

/// From which cluster which one comes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rebirth {
    /// The cluster that was backed up.
    pub from: ClusterId,
    /// The new one.
    pub to: ClusterId,
    /// How many shards both have.
    pub shards: u32,
    /// What the cache lines of one shard may take in both, in bytes.
    pub cache_bytes_max: u64,
    /// When the backup was taken and when it is used.
    pub times: Times,
    /// The new cluster's only node.
    pub node: Node,
    /// This process's, for its tables.
    pub secret: Secret,
}

impl Rebirth {
    /// What the bytes of a group's snapshot become.
    ///
    /// # Errors
    /// [`Corrupt`], which says what is wrong with the bytes.
    pub fn snapshot(&self, group: GroupId, bytes: &[u8]) -> Result<Vec<u8>, Corrupt> {
        let (members, state) = Configuration::split(bytes).ok_or(Corrupt::NoSnapshot)?;
        if members == Configuration::UNKNOWN {
            return Err(Corrupt::Malformed);
        }
        let mut out = Vec::new();
        let voter = (self.node.node, self.node.incarnation);
        Configuration::of_voters([voter].into_iter()).encode(&mut out);
        if group == GroupId::META {
            let meta = Meta::restore(state)?;
            known(meta.level())?;
            let unborn = meta.cluster() == ClusterId::NONE;
            if !unborn && (meta.cluster(), meta.shards()) != (self.from, self.shards) {
                return Err(Corrupt::Malformed);
            }
            meta.reborn(self.to, self.shards, self.node.clone()).snapshot(&mut out);
        } else {
            let origin = machine_config(self.from, self.cache_bytes_max, self.secret);
            let mut machine = Machine::reborn(origin, self.machine(), self.times, state)?;
            known(machine.level())?;
            machine.snapshot_whole(&mut out);
        }
        Ok(out)
    }

    /// What the new cluster's machines are made with.
    pub fn machine(&self) -> machine::MachineConfig {
        machine_config(self.to, self.cache_bytes_max, self.secret)
    }

    /// The state in a snapshot: the meta group's says who the nodes are.
    pub fn state(snapshot: &[u8]) -> Option<&[u8]> {
        Configuration::split(snapshot).map(|(_, state)| state)
    }
}

fn known(level: Level) -> Result<(), Corrupt> {
    if level > Level::NEWEST { Err(Corrupt::Version { got: level.0 }) } else { Ok(()) }
}
