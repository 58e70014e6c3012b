//! `tercet-bench suite`: what `make bench` runs.
//!
//! One cluster serves all scenarios, one after the other, as a cluster in use would: so the last of
//! them meets a journal that was reused many times, and its size, a node's memory and its start
//! after all that can be told.

use super::bench::{Bench, write};
use super::{Failure, SuiteArguments};
use crate::load::LoadConfig;
use crate::report::{ScenarioReport, markdown, picture, table};
use crate::scenario::Scenario;
use std::time::Duration;

const PAYLOAD_BYTES: usize = 128;
const KEYS: usize = 100_000;
const KEYS_QUICK: usize = 20_000;

/// Connections and depth, and what is measured there.
const SHAPES: [(usize, usize, &[Scenario]); 3] = [
    (64, 1, &FULL),
    (64, 16, &FULL),
    (1, 1, &[Scenario::Locks, Scenario::Queue, Scenario::CachePut, Scenario::CacheGet]),
];

const FULL: [Scenario; 7] = [
    Scenario::Locks,
    Scenario::LocksContended,
    Scenario::Queue,
    Scenario::CachePut,
    Scenario::CacheGet,
    Scenario::CacheMixed,
    Scenario::Mixed,
];

/// How long everything takes.
struct Pace {
    warmup_first: Duration,
    warmup: Duration,
    measure: Duration,
    floor: Duration,
    idle: Duration,
    keys: usize,
}

const FULL_PACE: Pace = Pace {
    warmup_first: Duration::from_millis(3_000),
    warmup: Duration::from_millis(1_500),
    measure: Duration::from_millis(5_500),
    floor: Duration::from_millis(700),
    idle: Duration::from_millis(3_000),
    keys: KEYS,
};

const QUICK_PACE: Pace = Pace {
    warmup_first: Duration::from_millis(1_000),
    warmup: Duration::from_millis(250),
    measure: Duration::from_millis(750),
    floor: Duration::from_millis(150),
    idle: Duration::from_millis(1_000),
    keys: KEYS_QUICK,
};

/// Runs it. Gives the number of broken promises.
pub(super) fn suite(arguments: &SuiteArguments, flags: Vec<String>) -> Result<u64, Failure> {
    let pace = if arguments.quick { QUICK_PACE } else { FULL_PACE };
    let mut bench = Bench::start(&arguments.cluster, flags, true, pace.floor)?;
    bench.idle(pace.idle);
    let mut warmup = pace.warmup_first;
    for (connections, depth, scenarios) in SHAPES {
        for scenario in scenarios {
            bench.load(LoadConfig {
                scenario: *scenario,
                connections,
                depth,
                measure: pace.measure,
                warmup,
                payload_bytes: PAYLOAD_BYTES,
                keys: pace.keys,
                rate: None,
                cpus: Vec::new(),
                seed: 0,
                patience: Default::default(),
            })?;
            warmup = pace.warmup;
        }
    }
    bench.weigh();
    bench.restart()?;
    if arguments.quick {
        bench.notes.push("measured with --quick: short, so the figures are coarse".into());
    }
    bench.notes.push(format!(
        "closed loop, {PAYLOAD_BYTES}-byte payloads, {} keys; one cluster for all scenarios, one after \
         the other; warm-up {:.1} s, the first {:.1} s",
        pace.keys,
        pace.warmup.as_secs_f64(),
        pace.warmup_first.as_secs_f64()
    ));
    let report = bench.finish()?;
    let svg = arguments.out.join("latency.svg");
    write(&arguments.out.join("report.json"), &report.json())?;
    write(&arguments.out.join("report.md"), &markdown::render(&report, Some("latency.svg")))?;
    let drawn: Vec<ScenarioReport> = report
        .scenarios
        .iter()
        .filter(|it| (it.connections, it.depth) == (64, 1))
        .cloned()
        .collect();
    picture::draw(&svg, &drawn).map_err(Failure::Picture)?;
    println!("{}", table::render(&report));
    println!("{}", summary(&report.cluster));
    println!("written: {}/report.json report.md latency.svg", arguments.out.display());
    Ok(report.violations_total)
}

/// What the nodes took, in one line.
fn summary(cluster: &crate::report::ClusterReport) -> String {
    let mib = |bytes: &[u64]| bytes.iter().sum::<u64>() as f64 / f64::from(1 << 20);
    let most = |ms: &[f64]| ms.iter().copied().fold(0.0, f64::max);
    let wal = cluster.wal_bytes.iter().copied().max().unwrap_or(0) as f64 / f64::from(1 << 20);
    format!(
        "nodes: ready in {:.0} ms, after everything again in {:.0} ms; anonymous memory {:.0} MiB \
         idle, {:.0} MiB after, all together; idle CPU {:.1} % of one, all together; largest \
         journal {wal:.0} MiB",
        most(&cluster.startup_ms),
        cluster.restart_after_ms.unwrap_or_default(),
        mib(&cluster.idle_rss_anon_bytes),
        mib(&cluster.rss_anon_bytes),
        cluster.idle_cpu_percent.iter().sum::<f64>(),
    )
}
