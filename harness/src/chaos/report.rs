//! What became of a run: as data, and as a table.

use super::run::RunConfig;
use super::schedule::Fault;
use crate::report::machine::Origin;
use crate::report::{ScenarioReport, grouped};
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use serde::Serialize;
use std::collections::BTreeMap;

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
    /// From the end of each cut of all nodes, when nothing else was the matter, to the first write, in milliseconds.
    pub first_writes_ms: Vec<f64>,
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
            first_writes_ms: Vec::new(),
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
        let mut faults = table(&["fault", "times", "nothing to hit"]);
        for (name, row) in &self.faults {
            faults.add_row([name.to_string(), row.begun.to_string(), row.missed.to_string()]);
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
        let slowest = self.first_writes_ms.iter().copied().reduce(f64::max);
        if let Some(slowest) = slowest {
            let times = self.first_writes_ms.len();
            let slowest = slowest / 1e3;
            text += &format!(
                "; first write {slowest:.1} s after a cut of all nodes at worst, of {times}"
            );
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
    fn kills_are_told_by_median_worst_and_how_many_were_short() {
        let silences_ms = vec![1_200.0, 300.0, 500.0, 400.0];
        let line = KillsReport { nodes: 3, silences_ms, ..KillsReport::default() }.line();
        assert!(
            line.contains("450 ms in the median, 1200 ms at worst, under 1 s in 3 of 4"),
            "{line}"
        );
    }
}
