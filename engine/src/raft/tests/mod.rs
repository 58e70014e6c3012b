//! What Raft promises, tested: scripts whose file name is the claim, simulations that a seed decides,
//! and small tests of the parts.

mod chance;
mod cluster;
mod disk;
mod loyalty;
mod model;
mod parts;
mod quiet;
mod script;
mod words;

use super::{Configuration, Preference, RaftConfig};
use crate::ids::{GroupId, Incarnation, NodeId};
use crate::level::Level;
use crate::raft::ReadMode;
use crate::time::Duration;

/// What a replica is told: short timeouts, nothing limited.
fn config(
    group: GroupId,
    (node, incarnation): (NodeId, Incarnation),
    founders: Configuration,
) -> RaftConfig {
    RaftConfig {
        group,
        node,
        incarnation,
        founders,
        election_timeout_min: Duration::from_millis(150),
        election_timeout_max: Duration::from_millis(300),
        heartbeat: Duration::from_millis(50),
        reads: ReadMode::Lease,
        preference: Preference::Ordinary,
        append_bytes_max: usize::MAX,
        uncommitted_bytes_max: usize::MAX,
        level_max: Level::NEWEST,
        seed: 1,
    }
}
