//! Oracles: each watches one promise from the outside and is simpler than what keeps it.
//!
//! # How it works
//!
//! One thread sees every request leave and every answer arrive, so what it sees is a true history:
//! a request takes effect after it was told to an oracle as sent and before its answer is told as
//! arrived. The oracles compare answers with that history and keep a few bytes per name, key or
//! message.
//!
//! - [`LockCheck`]: between a grant's arrival and its release's departure nobody else is granted the
//!   lock, and fences rise.
//! - [`QueueCheck`]: each acknowledged push comes out, never twice under one delivery number, never
//!   after its acknowledgement.
//! - [`CacheCheck`]: a read is never older than what was acknowledged before it began, a version has
//!   one value, a write is applied once.
//!
//! # Left out
//!
//! Full linearizability (Wing and Gong) is undecidable in the time of a benchmark; these are the
//! consequences of it that a client would notice. The simulator looks further.

mod cache;
mod locks;
mod queue;
#[cfg(test)]
mod tests;

pub use cache::CacheCheck;
pub use locks::{Grant, LockCheck};
pub use queue::QueueCheck;

/// Violations whose text is kept; the rest are counted.
pub const VIOLATIONS_KEPT_MAX: usize = 16;

/// A broken promise.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{rule}: {what}")]
pub struct Violation {
    /// The promise, by its stable name.
    pub rule: &'static str,
    /// What was seen.
    pub what: String,
}

impl Violation {
    fn new(rule: &'static str, what: String) -> Result<(), Violation> {
        Err(Violation { rule, what })
    }
}

/// The violations of a run: the first ones whole, all of them counted.
#[derive(Clone, Default, Debug)]
pub struct Violations {
    /// The first [`VIOLATIONS_KEPT_MAX`].
    pub first: Vec<Violation>,
    /// How many there were.
    pub total: u64,
}

impl Violations {
    /// Takes an oracle's verdict.
    pub fn take(&mut self, verdict: Result<(), Violation>) {
        let Err(violation) = verdict else { return };
        self.total += 1;
        if self.first.len() < VIOLATIONS_KEPT_MAX {
            self.first.push(violation);
        }
    }
}
