//! `tercet-bench run`: scenarios at one shape.

use super::bench::{Bench, write};
use super::{Failure, RunArguments};
use crate::load::LoadConfig;
use crate::report::table;
use crate::scenario::Scenario;
use std::time::Duration;

/// How long each part of a floor is measured.
const FLOOR_LENGTH: Duration = Duration::from_millis(1500);
/// How long the idle nodes are watched.
const IDLE_LENGTH: Duration = Duration::from_millis(1000);

/// Runs it. Gives the number of broken promises.
pub(super) fn run(arguments: &RunArguments, flags: Vec<String>) -> Result<u64, Failure> {
    let needs_cluster = arguments.scenario.iter().any(|it| *it != Scenario::Floor);
    let mut bench = Bench::start(&arguments.cluster, flags, needs_cluster, FLOOR_LENGTH)?;
    bench.idle(IDLE_LENGTH);
    for scenario in &arguments.scenario {
        bench.load(LoadConfig {
            scenario: *scenario,
            connections: arguments.connections,
            depth: arguments.depth,
            measure: Duration::from_secs_f64(arguments.seconds.clamp(0.01, 1e6)),
            warmup: Duration::from_secs_f64(arguments.warmup.clamp(0.0, 1e6)),
            payload_bytes: arguments.payload,
            keys: arguments.keys,
            rate: arguments.rate,
            cpus: Vec::new(),
            seed: 0,
            patience: Default::default(),
        })?;
    }
    bench.weigh();
    let report = bench.finish()?;
    println!("{}", table::render(&report));
    if let Some(path) = &arguments.json {
        write(path, &report.json())?;
    }
    Ok(report.violations_total)
}
