//! What physics allows: the loopback echo and the durable append, measured in the same run.
//!
//! # How it works
//!
//! - **Echo** ([`echo`]): frames of the scenario's own sizes to a thread that only answers, over the ring
//!   code that the server and the generator use. Its rate is taken at the scenario's connections and
//!   depth, its p50 at one connection and depth one: alone.
//! - **Append** ([`appends`]): as many appenders as nodes, at once, on the nodes' disk, each by the
//!   journal's own writer. Its p50 is that of one record. Its rate is that of appends as large as a
//!   sync can ever be: one record of every request that can be under way.
//!
//! A write goes to the leader, from there to a follower, and onto a disk: its floor p50 is echo +
//! (echo + append), its floor rate the smaller of the two rates. A read's floor is the echo.
//!
//! # Left out
//!
//! The nodes' own CPU: on a machine with fewer CPUs than threads the echo has two busy threads and
//! the cluster four, so the floor is lower than what three nodes could reach here.

pub mod appends;
pub mod echo;

use crate::scenario::{Scenario, Step};
use appends::Appends;
use echo::{Echo, EchoConfig};
use engine::edge::wal::Writer;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use wire::HEADER_BYTES;
use wire::message::{
    CacheGet, CachePut, Delivery, Done, LockAcquire, LockRelease, QueueAck, QueuePop, QueuePush,
    Value,
};

/// Bytes of a name, about.
const NAME_BYTES: usize = 20;
/// Sizes are rounded up to this, so that scenarios share measurements.
const ROUND_BYTES: usize = 64;

/// What physics allows a scenario.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Floor {
    /// Operations a second, at most.
    pub ops_per_s: f64,
    /// The median of one alone, at least, in microseconds.
    pub p50_us: f64,
    /// Echoes a second at the scenario's connections and depth.
    pub echo_ops_per_s: f64,
    /// The median of one echo alone, in microseconds.
    pub echo_p50_us: f64,
    /// Records a second that each node's disk takes; 0 where nothing is written.
    pub append_ops_per_s: f64,
    /// The median of one append while all nodes append, in microseconds; 0 where nothing is written.
    pub append_p50_us: f64,
}

/// Measures floors, each thing once.
pub struct FloorMeter {
    /// Where the appenders write: a directory on the nodes' disk.
    pub dir: PathBuf,
    /// How many append at once.
    pub nodes: u32,
    /// How they write.
    pub writer: Writer,
    /// How long each measurement takes.
    pub length: Duration,
    echoes: BTreeMap<(usize, usize, usize, usize), Echo>,
    appends: BTreeMap<usize, Appends>,
}

impl FloorMeter {
    /// Nothing measured yet.
    pub fn new(dir: PathBuf, nodes: u32, writer: Writer, length: Duration) -> FloorMeter {
        FloorMeter { dir, nodes, writer, length, echoes: BTreeMap::new(), appends: BTreeMap::new() }
    }

    /// The floor of a scenario.
    ///
    /// # Errors
    /// When the ring or the disk fails.
    pub fn of(
        &mut self,
        scenario: Scenario,
        connections: usize,
        depth: usize,
        payload_bytes: usize,
    ) -> io::Result<Floor> {
        let sizes = frame_bytes(scenario, payload_bytes);
        let rate = self.echo(connections, depth, sizes)?.ops_per_s;
        let p50_us = self.echo(1, 1, sizes)?.p50_us;
        let mut floor = Floor {
            ops_per_s: rate,
            p50_us,
            echo_ops_per_s: rate,
            echo_p50_us: p50_us,
            append_ops_per_s: 0.0,
            append_p50_us: 0.0,
        };
        if !scenario.only_reads() {
            let at_once = connections * depth;
            let one = self.append(sizes.0)?.p50_us;
            let many = self.append(sizes.0 * at_once)?.per_s * at_once as f64;
            floor.append_ops_per_s = many;
            floor.append_p50_us = one;
            floor.ops_per_s = rate.min(many);
            floor.p50_us = p50_us + (p50_us + one);
        }
        Ok(floor)
    }

    /// The echo at a shape, with all its latencies.
    ///
    /// # Errors
    /// When the ring fails.
    pub fn echo(
        &mut self,
        connections: usize,
        depth: usize,
        (request_bytes, reply_bytes): (usize, usize),
    ) -> io::Result<&Echo> {
        let key = (connections, depth, request_bytes, reply_bytes);
        if !self.echoes.contains_key(&key) {
            let (warmup, length) = (self.length / 4, self.length);
            let config =
                EchoConfig { connections, depth, request_bytes, reply_bytes, warmup, length };
            self.echoes.insert(key, echo::measure(&config)?);
        }
        Ok(&self.echoes[&key])
    }

    fn append(&mut self, bytes: usize) -> io::Result<Appends> {
        let pages = bytes.div_ceil(engine::edge::wal::PAGE_BYTES);
        if let Some(known) = self.appends.get(&pages) {
            return Ok(*known);
        }
        let bytes = pages * engine::edge::wal::PAGE_BYTES;
        let measured = appends::measure(&self.dir, self.nodes, self.writer, bytes, self.length)?;
        self.appends.insert(pages, measured);
        Ok(measured)
    }
}

impl Drop for FloorMeter {
    fn drop(&mut self) {
        // Nothing depends on its being gone. The directory above goes when nothing else is in it.
        let _ = std::fs::remove_dir_all(&self.dir);
        let _ = self.dir.parent().map(std::fs::remove_dir);
    }
}

/// The mean bytes of a scenario's requests and replies, rounded up.
pub fn frame_bytes(scenario: Scenario, payload_bytes: usize) -> (usize, usize) {
    use Step::{Ack, Acquire, Get, Pop, Push, Put, Release};
    let steps: &[Step] = match scenario {
        Scenario::Locks | Scenario::LocksContended => &[Acquire, Release],
        Scenario::Queue => &[Push, Pop, Ack],
        Scenario::CachePut | Scenario::Floor => &[Put],
        Scenario::CacheGet => &[Get],
        Scenario::CacheMixed => &[Get, Get, Get, Get, Get, Get, Get, Put, Put, Put],
        Scenario::Mixed => &[Acquire, Release, Push, Pop, Ack, Put, Get],
    };
    let bytes = |step: &Step| match step {
        Acquire => (LockAcquire::FIXED + NAME_BYTES, Done::FIXED),
        Release => (LockRelease::FIXED + NAME_BYTES, Done::FIXED),
        Push => (QueuePush::FIXED + NAME_BYTES + payload_bytes, Done::FIXED),
        Pop => (QueuePop::FIXED + NAME_BYTES, Delivery::FIXED + payload_bytes),
        Ack => (QueueAck::FIXED + NAME_BYTES, Done::FIXED),
        Put => (CachePut::FIXED + NAME_BYTES + payload_bytes, Done::FIXED),
        Get => (CacheGet::FIXED + NAME_BYTES, Value::FIXED + payload_bytes),
    };
    let mean = |part: fn((usize, usize)) -> usize| {
        let sum: usize = steps.iter().map(|step| part(bytes(step)) + HEADER_BYTES).sum();
        sum.div_ceil(steps.len()).next_multiple_of(ROUND_BYTES)
    };
    (mean(|both| both.0), mean(|both| both.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_as_large_as_the_scenarios() {
        assert_eq!(frame_bytes(Scenario::Locks, 128), (128, 128));
        assert_eq!(frame_bytes(Scenario::CachePut, 128), (320, 128));
        assert!(frame_bytes(Scenario::CacheGet, 1024).1 > 1024);
    }
}
