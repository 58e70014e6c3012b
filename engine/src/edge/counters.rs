//! What a data thread counts: relaxed atomics that the control plane reads whenever it likes, without
//! the thread noticing.
//!
//! Each counter has one writer, its thread, so that adding is a load and a store, not a locked
//! instruction. What only grows is a counter, what also falls is a gauge; both are a [`Count`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use wire::request::Family;
use wire::{Kind, Request};

/// Steps of a [`Histogram`]: powers of two from 1, the last one open.
pub const STEPS: usize = 32;
/// Families of frames: see [`FAMILIES`].
pub const FAMILY_COUNT: usize = Family::ALL.len() + 1;
/// What the frames of each family are about, by [`family`]: those of requests, and what nodes say to each other.
pub const FAMILIES: [&str; FAMILY_COUNT] = {
    let mut families = ["peer"; FAMILY_COUNT];
    let mut at = 0;
    while at < Family::ALL.len() {
        assert!(Family::ALL[at].index() == at);
        families[at] = Family::ALL[at].slug();
        at += 1;
    }
    families
};

/// One number, written by one thread.
#[derive(Default, Debug)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds; only the thread that owns the counter may.
    pub fn add(&self, n: u64) {
        self.set(self.get() + n);
    }

    /// Sets; only the thread that owns the counter may.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// Reads.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How often a number lay where. Step `i` counts numbers below `2^i` and not below `2^(i-1)`.
#[derive(Default, Debug)]
pub struct Histogram {
    /// By step.
    pub steps: [Count; STEPS],
    /// The sum of all numbers.
    pub sum: Count,
}

impl Histogram {
    /// Counts a number in.
    pub fn record(&self, number: u64) {
        let step = (u64::BITS - number.leading_zeros()) as usize;
        self.steps[step.min(STEPS - 1)].add(1);
        self.sum.add(number);
    }

    /// Counts a duration in, in microseconds.
    pub fn record_us(&self, duration: Duration) {
        self.record(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX >> 1));
    }

    /// How many numbers were counted in.
    pub fn count(&self) -> u64 {
        self.steps.iter().map(Count::get).sum()
    }
}

/// What one data thread counted since its start.
#[derive(Default, Debug)]
pub struct Counters {
    /// Turns of the loop.
    pub turns: Count,
    /// Completions of the ring.
    pub completions: Count,
    /// System calls of the ring.
    pub enters: Count,
    /// Of them, those that were ready to block.
    pub sleeps: Count,
    /// Frames that came in, by family.
    pub frames_in: [Count; FAMILY_COUNT],
    /// Bytes that came in.
    pub bytes_in: Count,
    /// Bytes that went out.
    pub bytes_out: Count,
    /// Sends that were submitted.
    pub sends: Count,
    /// Times that the kernel had no buffer for what arrived.
    pub buffers_exhausted: Count,
    /// Client connections that are open (a gauge).
    pub connections: Count,
    /// Connections that were accepted or handed over to this thread.
    pub connections_opened: Count,
    /// Connections that were refused because too many were open.
    pub connections_refused: Count,
    /// Accepts that failed: out of descriptors, most likely.
    pub accepts_failed: Count,
    /// Clients that were disconnected because they were silent for too long.
    pub connections_idle: Count,
    /// Links that were made anew because they were silent.
    pub links_silent: Count,
    /// Connections that were closed because of what they sent.
    pub connections_bad: Count,
    /// Connections that were closed because they read too slowly.
    pub connections_slow: Count,
    /// Peer links that stand (a gauge).
    pub links_up: Count,
    /// Bytes for peers that were dropped: no link, or one that is too slow.
    pub peer_bytes_dropped: Count,
    /// Syncs of the journal, by their duration in microseconds.
    pub sync_us: Histogram,
    /// Writes of the journal, by their size in bytes.
    pub write_bytes: Histogram,
    /// Frames that one turn brought, for turns that brought any.
    pub batch_frames: Histogram,
    /// Slices of snapshots that were made, installed or freed, by the CPU time that the thread spent on
    /// them, in microseconds.
    pub snapshot_us: Histogram,
    /// The longest of them, in microseconds of CPU time (a gauge).
    pub snapshot_us_max: Count,
    /// Bytes of snapshots that this thread handed over to be written.
    pub snapshot_bytes_sent: Count,
    /// How many of them were written; the control plane counts them.
    pub snapshot_bytes_written: Count,
    /// Notes for the control plane that were dropped, because it did not keep up.
    pub notes_dropped: Count,
}

/// The family of a frame's kind: an index into [`FAMILIES`]. What no request is, is about the connection.
pub fn family(kind: Kind) -> usize {
    match Request::facts_of(kind) {
        Some(facts) => facts.family.index(),
        None if kind.0 >= wire::peer::PEER_FIRST.0 => FAMILY_COUNT - 1,
        None => Family::Connection.index(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_counted_in_the_step_above_it() {
        let histogram = Histogram::default();
        for number in [0, 1, 2, 3, 1000, u64::MAX >> 8] {
            histogram.record(number);
        }
        let at = |step: usize| histogram.steps[step].get();
        assert_eq!([at(0), at(1), at(2), at(10), at(STEPS - 1)], [1, 1, 2, 1, 1]);
        assert_eq!(histogram.count(), 6);
    }

    #[test]
    fn every_kind_has_a_family() {
        assert_eq!(FAMILIES[family(wire::message::LockAcquire::KIND)], "lock");
        assert_eq!(FAMILIES[family(wire::message::CachePut::KIND)], "cache");
        assert_eq!(FAMILIES[family(wire::message::NodeAdd::KIND)], "admin");
        assert_eq!(FAMILIES[family(wire::message::BackupRead::KIND)], "admin");
        assert_eq!(FAMILIES[family(wire::peer::Append::KIND)], "peer");
        assert_eq!(FAMILIES[family(wire::Kind(0x7f))], "connection");
    }
}
