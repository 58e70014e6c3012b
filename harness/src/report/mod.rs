//! Figures beside targets and floors: as data, as a table, as Markdown, as a picture.
//!
//! ```text
//! report.json   everything, for programs
//! report.md     the same, for people
//! latency.svg   the latency distribution, one line per scenario
//! ```

pub mod machine;
pub mod markdown;
pub mod picture;
pub mod table;
pub mod targets;
#[cfg(test)]
mod tests;

use crate::cluster::weigh::Weight;
use crate::floor::Floor;
use crate::load::{LoadConfig, LoadReport};
use crate::scenario::Step;
use hdrhistogram::Histogram;
use machine::{Disk, Origin};
use serde::Serialize;
use std::collections::BTreeMap;
use targets::Verdict;

/// Points of a latency distribution, in nines: how rare the rest is.
const DISTRIBUTION: &[f64] = &[
    0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99, 0.995, 0.999, 0.9995, 0.9999, 0.99999, 1.0,
];

/// All of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Where, when and with what.
    #[serde(flatten)]
    pub origin: Origin,
    /// On which disk.
    pub disk: Disk,
    /// What it cost the nodes.
    pub cluster: ClusterReport,
    /// What was measured.
    pub scenarios: Vec<ScenarioReport>,
    /// Broken promises, all together. Anything but 0 fails the run.
    pub violations_total: u64,
    /// What a reader should know.
    pub notes: Vec<String>,
}

/// What the nodes were and what they cost; lists are by node.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ClusterReport {
    /// How many nodes.
    pub nodes: u32,
    /// Data-plane threads of each.
    pub cores: u32,
    /// Shards.
    pub shards: u32,
    /// Further flags of the nodes.
    pub flags: Vec<String>,
    /// Where every thread was put.
    pub placement: String,
    /// How the journals were written; "auto" is each node's own choice, said in its log.
    pub wal: String,
    /// From start to readiness, in milliseconds.
    pub startup_ms: Vec<f64>,
    /// From the last node's start to a leader for every shard, in milliseconds.
    pub leaders_ms: f64,
    /// Anonymous memory after the load, in bytes.
    pub rss_anon_bytes: Vec<u64>,
    /// CPU time, in seconds.
    pub cpu_seconds: Vec<f64>,
    /// Context switches that waited.
    pub switches_voluntary: Vec<u64>,
    /// Context switches that were forced.
    pub switches_involuntary: Vec<u64>,
    /// Bytes that went to the disk.
    pub write_bytes: Vec<u64>,
    /// The journals' size on the disk after the load, in bytes.
    pub wal_bytes: Vec<u64>,
    /// The longest slice of a snapshot that a core did, in milliseconds of CPU time; 0 = none was made.
    pub snapshot_stall_ms_max: Vec<f64>,
    /// Before the load: anonymous memory of the idle nodes, in bytes.
    pub idle_rss_anon_bytes: Vec<u64>,
    /// Before the load: CPU time of the idle nodes, in percent of one CPU.
    pub idle_cpu_percent: Vec<f64>,
    /// After everything, one node was stopped and started again: from start to readiness, in
    /// milliseconds.
    pub restart_after_ms: Option<f64>,
    /// Nodes that did not stop in order and had to be killed.
    pub killed_at_stop: Vec<u32>,
}

/// Latencies, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Latency {
    /// The median.
    pub p50: f64,
    /// 95 % are faster.
    pub p95: f64,
    /// 99 % are faster.
    pub p99: f64,
    /// 99.9 % are faster.
    pub p999: f64,
    /// The slowest.
    pub max: f64,
    /// The mean.
    pub mean: f64,
}

/// One step of a scenario.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct StepReport {
    /// Successes a second.
    pub ops_per_s: f64,
    /// Their latencies.
    pub latency_us: Latency,
}

/// One scenario at one shape.
#[derive(Clone, Debug, Serialize)]
pub struct ScenarioReport {
    /// The scenario.
    pub name: String,
    /// Connections.
    pub connections: usize,
    /// Requests under way on each.
    pub depth: usize,
    /// "closed", or "open".
    pub r#loop: &'static str,
    /// Requests a second that an open loop was to begin.
    pub rate: Option<f64>,
    /// How long was measured, in seconds.
    pub seconds: f64,
    /// How long before that it was warmed up, in seconds.
    pub warmup_s: f64,
    /// Bytes of a payload.
    pub payload_bytes: usize,
    /// Keys of the cache.
    pub keys: usize,
    /// Successes a second.
    pub ops_per_s: f64,
    /// Successes.
    pub operations: u64,
    /// What no retry made good.
    pub errors_total: u64,
    /// The same, by what they were.
    pub errors: BTreeMap<String, u64>,
    /// Broken promises.
    pub violations_total: u64,
    /// The first of them, in words.
    pub violations: Vec<String>,
    /// Latencies of all steps.
    pub latency_us: Latency,
    /// By step.
    pub steps: BTreeMap<&'static str, StepReport>,
    /// The latency distribution: share of operations that were faster, and microseconds.
    pub distribution: Vec<(f64, f64)>,
    /// What physics allows.
    pub floor: Option<Floor>,
    /// Rate, as a part of the floor's.
    pub ops_of_floor: Option<f64>,
    /// Median, as a multiple of the floor's. The floor's is alone: compare at 1 x 1.
    pub p50_of_floor: Option<f64>,
    /// Beside the target for this scenario and shape, if there is one.
    pub target: Option<Verdict>,
    /// CPU seconds of all nodes per 1,000 operations.
    pub node_cpu_s_per_1000: f64,
    /// Context switches of all nodes per operation.
    pub node_switches_per_op: f64,
    /// Bytes that all nodes wrote to the disk per operation.
    pub node_write_bytes_per_op: f64,
    /// The longest time without one success, in milliseconds.
    pub silence_ms_max: f64,
    /// Requests that were sent more than once and then succeeded.
    pub retries: u64,
    /// Connections that were made again.
    pub reconnects: u64,
    /// Messages that were delivered more than once.
    pub redelivered: u64,
    /// Messages left at the end, drained.
    pub drained: u64,
    /// Arrivals of an open loop that found no free slot before the end.
    pub unserved: u64,
}

impl Latency {
    /// Reads a histogram of nanoseconds.
    pub fn of(histogram: &Histogram<u64>) -> Latency {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Latency {
            p50: at(0.5),
            p95: at(0.95),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max() as f64 / 1e3,
            mean: histogram.mean() / 1e3,
        }
    }
}

/// The points of a histogram's distribution: share and microseconds.
pub fn distribution(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    let at = |share: &f64| (*share, histogram.value_at_quantile(*share) as f64 / 1e3);
    if histogram.is_empty() { Vec::new() } else { DISTRIBUTION.iter().map(at).collect() }
}

impl ScenarioReport {
    /// Puts a load, what it cost the nodes, and its floor together.
    pub fn of(
        config: &LoadConfig,
        load: &LoadReport,
        cost: &[Weight],
        floor: Option<Floor>,
    ) -> ScenarioReport {
        let record = &load.record;
        let all = record.all();
        let (ops_per_s, operations) = (record.ops_per_s(), all.len());
        let seconds = record.measured_ns as f64 / 1e9;
        let steps = Step::ALL.into_iter().filter(|step| !record.step(*step).is_empty());
        let per_op = |total: f64| if operations == 0 { 0.0 } else { total / operations as f64 };
        let sum = |part: fn(&Weight) -> f64| cost.iter().map(part).sum::<f64>();
        let latency_us = Latency::of(&all);
        let mut report = ScenarioReport {
            name: config.scenario.name().into(),
            connections: config.connections,
            depth: config.depth,
            r#loop: if config.rate.is_some() { "open" } else { "closed" },
            rate: config.rate,
            seconds,
            warmup_s: config.warmup.as_secs_f64(),
            payload_bytes: config.payload_bytes,
            keys: config.keys,
            ops_per_s,
            operations,
            errors_total: record.errors_total(),
            errors: record.errors.clone(),
            violations_total: load.violations.total,
            violations: load.violations.first.iter().map(ToString::to_string).collect(),
            latency_us,
            steps: steps
                .map(|step| {
                    let histogram = record.step(step);
                    let ops_per_s = histogram.len() as f64 / seconds.max(1e-9);
                    (step.name(), StepReport { ops_per_s, latency_us: Latency::of(histogram) })
                })
                .collect(),
            distribution: distribution(&all),
            floor,
            ops_of_floor: floor.map(|floor| ops_per_s / floor.ops_per_s.max(1e-9)),
            p50_of_floor: floor.map(|floor| latency_us.p50 / floor.p50_us.max(1e-9)),
            target: None,
            node_cpu_s_per_1000: per_op(sum(|w| w.cpu_seconds)) * 1000.0,
            node_switches_per_op: per_op(sum(|w| {
                (w.switches_voluntary + w.switches_involuntary) as f64
            })),
            node_write_bytes_per_op: per_op(sum(|w| w.write_bytes as f64)),
            silence_ms_max: record.silence_ns_max as f64 / 1e6,
            retries: record.retries,
            reconnects: load.reconnects,
            redelivered: load.redelivered,
            drained: load.drained,
            unserved: record.unserved,
        };
        report.target = targets::Targets::known().verdict(&report);
        report
    }
}

impl Report {
    /// The report as JSON, for programs.
    pub fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("all of it can be JSON");
        text.push('\n');
        text
    }
}

/// A number with thousands set apart: `1,234,567`.
pub fn grouped(number: f64) -> String {
    let digits = format!("{:.0}", number.max(0.0));
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number in three figures or so: `940`, `70 k`, `1.20 M`.
pub fn short(number: f64) -> String {
    match number {
        n if n < 1_000.0 => format!("{n:.0}"),
        n if n < 1_000_000.0 => format!("{:.0} k", n / 1e3),
        n => format!("{:.2} M", n / 1e6),
    }
}

/// A latency in the unit that suits it: `87 us`, `1.24 ms`, `2.10 s`.
pub fn time(us: f64) -> String {
    match us {
        us if us < 1_000.0 => format!("{us:.0} us"),
        us if us < 1_000_000.0 => format!("{:.2} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}
