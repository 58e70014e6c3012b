//! The load: one thread, one ring, all connections.
//!
//! # How it works
//!
//! Connection i speaks to the leader of shard i modulo the shards, and all its names live in that
//! shard. It is a client with a session of its own (with contention each slot is one, because a
//! session that asks for what it holds is granted it again). Each connection has `depth` slots
//! ([`slot`]), each with one request under way.
//!
//! - **Closed loop**: an answer begins the slot's next step. Latency counts from the send.
//! - **Open loop**: steps begin at a fixed rate, in the next free slot; when there is none, later.
//!   Latency counts from the intended time, so a stall is not hidden by what it kept from being sent.
//!
//! A load goes through phases: lines are written if it reads them, warm-up, measuring, winding down
//! until every slot holds nothing; then sessions are closed and queues drained ([`finish`]).
//! The checks run in all of them.
//!
//! A connection that breaks, or whose node does not lead any more, is given to the [`router`]; when it
//! comes back all that was under way is sent again under the same sequences. Only what no retry
//! makes good is an error. A session whose guard ran out meanwhile is never opened again: a shard may
//! have ended it and forgotten what it answered, so another takes its place ([`Patience`]).
//!
//! A slot draws its next line one operation ahead, and has memory fetch meanwhile what is known of that line. What a
//! step needs lies in dense tables ([`keys`], the slots, the checks' rows).
//!
//! # Invariants
//!
//! - No allocation per request in the steady state; every buffer is used again.
//! - A sequence is taken once per step, however often the step is sent.
//! - An oracle hears of a request before it leaves and of an answer after it came.
//!
//! # Left out
//!
//! A second generator thread: one drives millions of requests a second, and the nodes need the CPUs.

mod core;
mod drive;
mod finish;
pub mod keys;
pub mod lines;
pub mod names;
pub mod record;
mod replies;
pub mod router;
pub mod slot;
#[cfg(test)]
mod tests;

pub use lines::Lines;

use crate::checks::Violations;
use crate::cluster::ask::AskError;
use crate::scenario::Scenario;
use engine::edge::ring::RingError;
use record::Record;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// A session's id.
pub type SessionId = [u8; 16];

/// Connections times depth, at most.
pub const SLOTS_MAX: usize = 65_536;
/// Requests under way on one connection, at most: a session's window.
pub const DEPTH_MAX: usize = wire::limits::WINDOW_REPLIES_MAX as usize;

/// What to load with.
#[derive(Clone, Debug)]
pub struct LoadConfig {
    /// What the slots do.
    pub scenario: Scenario,
    /// Connections.
    pub connections: usize,
    /// Requests under way on each.
    pub depth: usize,
    /// How long is measured.
    pub measure: Duration,
    /// How long before that the load runs unmeasured.
    pub warmup: Duration,
    /// Bytes of a payload or value, at least [`slot::MARKS_BYTES`].
    pub payload_bytes: usize,
    /// Keys of the cache scenarios.
    pub keys: usize,
    /// Open loop at this many requests a second; none = closed loop.
    pub rate: Option<f64>,
    /// CPUs of the generator; empty = any.
    pub cpus: Vec<usize>,
    /// Where chance begins.
    pub seed: u64,
    /// How the clients bear what goes wrong.
    pub patience: Patience,
}

/// How a client bears silence.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How long a session outlives its last sign of life, in milliseconds.
    pub session_ttl_ms: u32,
    /// Between two heartbeats of each session.
    pub heartbeat_every: Duration,
    /// A connection that was silent for so long is made again; longer than between two heartbeats.
    pub silence_max: Duration,
}

impl Default for Patience {
    /// Sessions outlive any election, and only the kernel says that a node is gone.
    fn default() -> Patience {
        Patience {
            session_ttl_ms: 30_000,
            heartbeat_every: Duration::from_secs(5),
            silence_max: Duration::MAX,
        }
    }
}

/// What a load came to.
#[derive(Clone, Default, Debug)]
pub struct LoadReport {
    /// The figures.
    pub record: Record,
    /// The broken promises.
    pub violations: Violations,
    /// Connections that had to be made again.
    pub reconnects: u64,
    /// Messages that were delivered more than once.
    pub redelivered: u64,
    /// Messages that were left in the queues and drained at the end.
    pub drained: u64,
    /// System calls of the generator.
    pub enters: u64,
}

/// Where a load is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// The phase, for people.
    pub phase: &'static str,
    /// How much of the measuring is done, 0 to 1.
    pub done: f64,
    /// Requests answered so far in the phase.
    pub ops: u64,
}

/// What whoever hears of progress wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Go {
    /// Go on.
    On,
    /// Stop at once.
    Stop,
}

/// Hears of progress ten times a second.
pub type Listener<'a> = &'a mut (dyn FnMut(Progress) -> Go + Send);

/// Why a load could not run.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Something in its configuration is out of range.
    #[error("{0}")]
    Config(String),
    /// No ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The ring broke.
    #[error("the generator's ring failed: {0}")]
    Io(#[from] io::Error),
    /// No node answers.
    #[error("no node of the cluster answers within {} s", CONNECT_MAX.as_secs())]
    NoCluster,
    /// Somebody stopped it.
    #[error("interrupted")]
    Interrupted,
    /// The end of the load could not be carried out.
    #[error("closing the sessions and draining the queues failed: {0}")]
    Finish(AskError),
}

/// How long the first connections may take.
const CONNECT_MAX: Duration = Duration::from_secs(20);

impl LoadConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`LoadError::Config`], naming what is out of range.
    pub fn check(&self) -> Result<(), LoadError> {
        let refuse = |what: String| Err(LoadError::Config(what));
        if self.connections == 0 || self.depth == 0 {
            return refuse("--connections and --depth are at least 1".into());
        }
        if self.depth > DEPTH_MAX {
            return refuse(format!("--depth is at most {DEPTH_MAX}: a session's window"));
        }
        if self.connections * self.depth > SLOTS_MAX {
            return refuse(format!("--connections times --depth is at most {SLOTS_MAX}"));
        }
        let bytes_max = wire::limits::VALUE_BYTES_MAX;
        if !(slot::MARKS_BYTES..=bytes_max).contains(&self.payload_bytes) {
            return refuse(format!("--payload is {} to {bytes_max} bytes", slot::MARKS_BYTES));
        }
        if self.keys == 0 || u32::try_from(self.keys).is_err() {
            return refuse("--keys is at least 1 and fits 32 bits".into());
        }
        if self.rate.is_some_and(|rate| !(1.0..=1e9).contains(&rate)) {
            return refuse("--rate is 1 to 1,000,000,000 a second".into());
        }
        Ok(())
    }
}

/// Loads the cluster at `addresses`.
///
/// # Errors
/// [`LoadError`]. Broken promises are in the report, not here.
pub fn run(
    config: &LoadConfig,
    addresses: &[SocketAddr],
    progress: Listener<'_>,
) -> Result<LoadReport, LoadError> {
    config.check()?;
    // A thread of its own, so that the CPUs it takes stay its own.
    std::thread::scope(|scope| {
        let generator = std::thread::Builder::new().name("generator".into());
        let generator = generator.spawn_scoped(scope, || drive::run(config, addresses, progress));
        let generator = generator.expect("a process may have one more thread");
        generator.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
