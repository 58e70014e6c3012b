//! Real nodes under faults and load, judged by the checks of the benchmark.
//!
//! # How it works
//!
//! - [`schedule`]: which fault begins when, on whom, for how long: decided by the seed alone.
//! - [`namespaces`]: a network namespace for each node, joined by a bridge in one of its own; links are cut
//!   there by dropping what arrives, each direction by itself.
//! - [`disks`]: a small file system for each node, which a file of zeroes fills.
//! - [`fill`]: idle clients take a node's connections.
//! - [`vanish`]: clients whose machine is gone, and what becomes of what they held.
//! - [`faults`]: does what the schedule says to the processes, the links and the disks, and undoes it.
//! - [`healing`]: how long after the last fault's end the first write to each shard takes.
//! - [`run`]: nodes, two loads (`mixed`, and `locks-contended` for the exclusion), the end.
//! - [`play`]: the faults at their times, and what is watched meanwhile.
//! - [`kills`]: how long writes stop when the leader is killed, trial after trial.
//! - [`report`]: what became of it.
//!
//! A run ends with every fault undone and every node ready; only then do the loads stop, give back what
//! they hold, and drain the queues. Faults overlap: a node may be killed while another is cut off. A cut of all nodes is
//! alone, so that the first write after it is always judged; after other faults it is when no other fault is there. So
//! is the first fault of each kind that harms clients alone.
//!
//! # Invariants
//!
//! - One seed gives one schedule. Who leads when a fault begins, and what the kernel's scheduler does, it
//!   does not decide: a run is not replayed as the simulator's is.
//! - A fault that can't be done on this machine is named as not run, with the reason; it is never left
//!   out in silence.
//! - Namespaces, mounts and processes are gone after a run, also after Ctrl-C; what a run that was
//!   killed left behind, the next one removes.
//!
//! # Left out
//!
//! Loss, delay and reordering of packets (the simulator has them on messages; TCP hides them here),
//! skewed clocks, power loss: a killed process leaves its pages to the kernel.

pub mod disks;
pub mod faults;
pub mod fill;
pub mod healing;
pub mod kills;
pub mod namespaces;
pub mod play;
pub mod report;
pub mod run;
pub mod schedule;
mod tool;
pub mod vanish;

use crate::cluster::ClusterError;
use crate::load::LoadError;
use std::io;

/// Why a run could not be carried to its end.
#[derive(Debug, thiserror::Error)]
pub enum ChaosError {
    /// The cluster.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The load.
    #[error("the load: {0}")]
    Load(#[from] LoadError),
    /// A tool of the system, or a file.
    #[error("{what}: {why}")]
    Tool {
        /// What was tried.
        what: String,
        /// What the system says.
        why: io::Error,
    },
    /// Ctrl-C.
    #[error("interrupted; everything is undone")]
    Interrupted,
}
