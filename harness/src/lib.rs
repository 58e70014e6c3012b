//! Proof: what loads Tercet, measures it and refuses to believe it.
//!
//! # How it works
//!
//! - [`checks`]: oracles simpler than what they judge: locks never overlap, acknowledged messages
//!   come out once, reads are never stale. The load generator feeds them while it measures.
//! - [`sim`]: the deterministic simulator, which drives the same engine as the server.
//! - [`cluster`]: real `tercetd` processes on this machine: start, kill, restart, weigh, stop.
//! - [`load`]: one thread, one ring, all connections; closed and open loop.
//! - [`scenario`]: what the connections do, step by step.
//! - [`floor`]: what physics allows, measured on the same ring code and the same disk.
//! - [`report`]: figures beside targets and floors, as a table, JSON, Markdown and a picture.
//! - [`chaos`]: real nodes under faults and load: killed, stopped, cut off, without room.
//! - [`cli`]: the commands of `tercet-bench`.
//!
//! # Invariants
//!
//! - There is no second implementation of what is tested here, only oracles.
//! - A run whose checks fail fails, whatever its speed.
//! - Without the feature `bench` nothing here needs the world, and the engine stays pure.

pub mod checks;
pub mod sim;

#[cfg(feature = "bench")]
pub mod chaos;
#[cfg(feature = "bench")]
pub mod cli;
#[cfg(feature = "bench")]
pub mod cluster;
#[cfg(feature = "bench")]
pub mod floor;
#[cfg(feature = "bench")]
pub mod load;
#[cfg(feature = "bench")]
pub mod report;
#[cfg(feature = "bench")]
pub mod scenario;
