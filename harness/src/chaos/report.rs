//! What became of a run: as data, and as a table.

use super::fill::Filled;
use super::run::RunConfig;
use super::schedule::Fault;
use super::vanish::Vanished;
use crate::report::machine::Origin;
use crate::report::{ScenarioReport, grouped};
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// A stretch without a write below this is short, in milliseconds.
const SHORT_MS: f64 = 1_000.0;

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub struct ChaosReport {
    /// Where, when and with what.
    #[serde(flatten)]
    pub origin: Origin,
    /// The faults under load, if they were asked for.
    pub run: Option<RunReport>,
    /// The kills of the leader, if they were asked for.
    pub kills: Option<KillsReport>,
}

/// The faults under load.
#[derive(Clone, Debug, Serialize)]
pub struct RunReport {
    /// Nodes.
    pub nodes: u32,
    /// What decided the schedule.
    pub seed: u64,
    /// How long the loads ran, in seconds.
    pub seconds: f64,
    /// Where the nodes lived.
    pub nodes_in: String,
    /// The schedule, a line each.
    pub schedule: Vec<String>,
    /// By kind.
    pub faults: BTreeMap<&'static str, FaultReport>,
    /// Kinds that were wanted and could not be done.
    pub not_run: Vec<NotRun>,
    /// What was done when, and to whom.
    pub deeds: Vec<Deed>,
    /// How often a node ended because its disk was full.
    pub ended_full: u64,
    /// From the last fault's end until all nodes were ready and all shards led, in milliseconds.
    pub healed_ms: f64,
    /// From the end of faults, when nothing else was the matter any more, to the first write, by the fault that may
    /// need longest of those.
    pub first_writes: BTreeMap<&'static str, FirstWrites>,
    /// What became of nodes' connections.
    pub filled: Vec<Filled>,
    /// What became of clients' machines.
    pub vanished: Vec<Vanished>,
    /// What each load had done by then.
    pub ops_when_healed: [u64; 2],
    /// What the loads saw.
    pub loads: Vec<ScenarioReport>,
    /// Broken promises, all together. Anything but 0 fails the run.
    pub violations_total: u64,
    /// What else went wrong. Anything fails the run.
    pub failures: Vec<String>,
}

/// One kind of fault.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct FaultReport {
    /// How often it hit something.
    pub begun: u64,
    /// How often there was nothing to hit: the node was dead already.
    pub missed: u64,
}

/// The first writes after one kind of fault.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FirstWrites {
    /// More fails the run, in milliseconds.
    pub bound_ms: f64,
    /// By healing: until the slowest shard's first write of a new client, in milliseconds.
    pub slowest_ms: Vec<f64>,
    /// Their median.
    pub median_ms: f64,
    /// The worst.
    pub max_ms: f64,
    /// After cuts of all nodes: until the first success of clients that stood all the time, in milliseconds.
    pub standing_ms: Vec<f64>,
    /// How often the next fault came before all had come, and before the bound: not judged.
    pub cut_short: u64,
}

impl FirstWrites {
    /// All came after a healing.
    pub fn came(&mut self, slowest: Duration, standing: Option<Duration>) {
        let millis = |length: Duration| length.as_secs_f64() * 1e3;
        self.slowest_ms.push(millis(slowest));
        self.standing_ms.extend(standing.map(millis));
        let mut sorted = self.slowest_ms.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        (self.median_ms, self.max_ms) = (median(&sorted), sorted[sorted.len() - 1]);
    }
}

/// A kind of fault that was wanted and could not be done.
#[derive(Clone, Debug, Serialize)]
pub struct NotRun {
    /// The kind.
    pub fault: &'static str,
    /// Why.
    pub why: String,
}

/// Something that was done.
#[derive(Clone, Debug, Serialize)]
pub struct Deed {
    /// When, in seconds from the first possible fault's time 0.
    pub at_s: f64,
    /// What.
    pub what: String,
}

/// Kills of the leader of the only shard, one after the other.
#[derive(Clone, Debug, Default, Serialize)]
pub struct KillsReport {
    /// Nodes.
    pub nodes: u32,
    /// By trial: the longest stretch without a successful write, in milliseconds.
    pub silences_ms: Vec<f64>,
    /// Broken promises.
    pub violations_total: u64,
    /// The first of them, in words.
    pub violations: Vec<String>,
}

impl NotRun {
    /// That `fault` could not be done, and why.
    pub fn new(fault: Fault, why: &str) -> NotRun {
        NotRun { fault: fault.name(), why: why.into() }
    }
}

impl RunReport {
    /// A report of nothing yet.
    pub fn new(config: &RunConfig, schedule: &str, nodes_in: &str) -> RunReport {
        RunReport {
            nodes: config.nodes,
            seed: config.seed,
            seconds: config.length.as_secs_f64(),
            nodes_in: nodes_in.into(),
            schedule: schedule.lines().map(|line| line.trim().to_string()).collect(),
            faults: BTreeMap::new(),
            not_run: Vec::new(),
            deeds: Vec::new(),
            ended_full: 0,
            healed_ms: 0.0,
            first_writes: BTreeMap::new(),
            filled: Vec::new(),
            vanished: Vec::new(),
            ops_when_healed: [0; 2],
            loads: Vec::new(),
            violations_total: 0,
            failures: Vec::new(),
        }
    }

    /// Holds each load to have done something after everything was healed.
    pub fn served_after_healing(&mut self, ops: impl Iterator<Item = u64>) {
        for (at, ops) in ops.enumerate() {
            if ops <= self.ops_when_healed[at] {
                self.failures
                    .push(format!("load {at}: nothing was served after everything was healed"));
            }
        }
    }

    /// A row for each kind of fault and each load.
    pub fn table(&self) -> String {
        let head = [
            "fault",
            "times",
            "nothing to hit",
            "first write: median",
            "max",
            "bound",
            "not judged",
        ];
        let mut faults = table(&head);
        for (name, row) in &self.faults {
            let mut cells = vec![name.to_string(), row.begun.to_string(), row.missed.to_string()];
            let seconds = |ms: f64| format!("{:.2} s", ms / 1e3);
            if let Some(first) = self.first_writes.get(name) {
                let came = !first.slowest_ms.is_empty();
                let of = |ms: f64| if came { seconds(ms) } else { "-".into() };
                cells.extend([of(first.median_ms), of(first.max_ms), seconds(first.bound_ms)]);
                cells.push(first.cut_short.to_string());
            }
            faults.add_row(cells);
        }
        for row in &self.not_run {
            faults.add_row([row.fault.to_string(), "NOT RUN".into(), "-".into()]);
        }
        let head = [
            "load",
            "operations",
            "retries",
            "reconnects",
            "errors",
            "longest silence",
            "violations",
        ];
        let mut loads = table(&head);
        for load in &self.loads {
            loads.add_row([
                load.name.clone(),
                grouped(load.operations as f64),
                grouped(load.retries as f64),
                grouped(load.reconnects as f64),
                grouped(load.errors_total as f64),
                format!("{:.2} s", load.silence_ms_max / 1e3),
                load.violations_total.to_string(),
            ]);
        }
        let mut text = format!(
            "{faults}\n{loads}\n{} nodes, seed {}: all ready and led {:.1} s after the last fault; nodes ended {} times \
             because their disk was full",
            self.nodes,
            self.seed,
            self.healed_ms / 1e3,
            self.ended_full
        );
        for filled in &self.filled {
            text += &format!("\n{}", filled.line());
        }
        for vanished in &self.vanished {
            text += &format!("\n{}", vanished.line());
        }
        let violations = self.loads.iter().flat_map(|load| &load.violations);
        for violation in violations {
            text += &format!("\nVIOLATION {violation}");
        }
        for failure in &self.failures {
            text += &format!("\nFAILED {failure}");
        }
        text
    }
}

impl KillsReport {
    /// One line: the median, the worst, how many were short.
    pub fn line(&self) -> String {
        let mut sorted = self.silences_ms.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let (count, last) = (sorted.len(), sorted.last().copied().unwrap_or_default());
        let short = sorted.iter().filter(|ms| **ms < SHORT_MS).count();
        format!(
            "leader of {} nodes killed {count} times: longest stretch without a write {:.0} ms in the \
             median, {last:.0} ms at worst, under 1 s in {short} of {count}; {} violations",
            self.nodes,
            median(&sorted),
            self.violations_total
        )
    }
}

/// The median of sorted figures.
fn median(sorted: &[f64]) -> f64 {
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[half],
        _ => f64::midpoint(sorted[half - 1], sorted[half]),
    }
}

impl ChaosReport {
    /// A report of nothing yet.
    pub fn new(flags: Vec<String>) -> ChaosReport {
        ChaosReport { origin: Origin::here(flags), run: None, kills: None }
    }

    /// For programs.
    pub fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("all of it can be JSON");
        text.push('\n');
        text
    }
}

fn table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header(head);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_writes_are_told_by_median_and_worst() {
        let mut first = FirstWrites::default();
        for ms in [900, 200, 400] {
            first.came(Duration::from_millis(ms), None);
        }
        assert_eq!((first.median_ms, first.max_ms), (400.0, 900.0));
        assert!(first.standing_ms.is_empty());
    }

    #[test]
    fn kills_are_told_by_median_worst_and_how_many_were_short() {
        let silences_ms = vec![1_200.0, 300.0, 500.0, 400.0];
        let line = KillsReport { nodes: 3, silences_ms, ..KillsReport::default() }.line();
        assert!(
            line.contains("450 ms in the median, 1200 ms at worst, under 1 s in 3 of 4"),
            "{line}"
        );
    }
}
