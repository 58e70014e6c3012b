//! How long writes stop when the leader is killed: one shard, so that nobody else's writes hide it.

use super::ChaosError;
use super::report::KillsReport;
use super::run::Scratch;
use crate::cluster::{Cluster, ClusterConfig, Keep};
use crate::load::{self, Go, LoadConfig, LoadError, LoadReport, Patience};
use crate::scenario::Scenario;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};
use wire::random::Random;

/// How long each trial is measured.
const TRIAL: Duration = Duration::from_millis(4_500);
/// How long it is warmed up.
const WARMUP: Duration = Duration::from_millis(500);
/// The leader is killed so long after the load's beginning, and a part of a second by chance.
const KILL_AFTER: Duration = Duration::from_millis(1_500);
/// Between two looks at Ctrl-C.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Kills the leader `trials` times, each in a load of its own, and starts it again.
///
/// # Errors
/// [`ChaosError`].
pub fn kills(
    nodes: u32,
    trials: u32,
    seed: u64,
    (tercetd, data_dir): (Option<PathBuf>, PathBuf),
    interrupted: &AtomicBool,
    progress: &mut dyn FnMut(f64),
) -> Result<KillsReport, ChaosError> {
    let mut scratch = Scratch { dir: data_dir.clone(), keep: Keep::Data };
    let mut cluster = Cluster::start(ClusterConfig {
        nodes,
        cores: 1,
        shards: Some(1),
        tercetd,
        first_port: None,
        data_dir,
        keep: Keep::Data,
        flags: Vec::new(),
        cpus: Vec::new(),
        homes: Vec::new(),
        files_max: None,
    })?;
    let mut chance = Random::new(seed);
    let mut report = KillsReport { nodes, ..KillsReport::default() };
    for number in 0..trials {
        progress(f64::from(number) / f64::from(trials));
        let kill_after = KILL_AFTER + Duration::from_millis(chance.u64(0..1_000));
        let load = match trial(&mut cluster, kill_after, seed, interrupted) {
            Err(ChaosError::Interrupted) => {
                scratch.keep = Keep::Nothing;
                return Err(ChaosError::Interrupted);
            }
            other => other?,
        };
        report.silences_ms.push(load.record.silence_ns_max as f64 / 1e6);
        report.violations_total += load.violations.total;
        report.violations.extend(load.violations.first.iter().map(ToString::to_string));
    }
    cluster.stop()?;
    if report.violations_total == 0 {
        scratch.keep = Keep::Nothing;
    }
    Ok(report)
}

fn trial(
    cluster: &mut Cluster,
    kill_after: Duration,
    seed: u64,
    interrupted: &AtomicBool,
) -> Result<LoadReport, ChaosError> {
    let config = load_config(seed);
    let addresses = cluster.addresses();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (stop, config) = (&stop, &config);
        let load = scope.spawn(move || {
            load::run(config, &addresses, &mut |_| {
                let stop = stop.load(Ordering::Relaxed) || interrupted.load(Ordering::Relaxed);
                if stop { Go::Stop } else { Go::On }
            })
        });
        let killed = kill(cluster, kill_after, interrupted);
        if killed.is_err() {
            stop.store(true, Ordering::Relaxed);
        }
        let load = load.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let leader = killed?;
        let load = match load {
            Err(LoadError::Interrupted) => return Err(ChaosError::Interrupted),
            other => other?,
        };
        // Only now: its start would take CPU time from the election.
        cluster.restart(leader, &[])?;
        Ok(load)
    })
}

fn kill(
    cluster: &mut Cluster,
    after: Duration,
    interrupted: &AtomicBool,
) -> Result<u32, ChaosError> {
    let leader = cluster.wait_leaders()?.leader_of(0).expect("it waited for a leader");
    let until = Instant::now() + after;
    while Instant::now() < until {
        if interrupted.load(Ordering::Relaxed) {
            return Err(ChaosError::Interrupted);
        }
        sleep(LOOK_EVERY);
    }
    cluster.kill(leader)?;
    Ok(leader)
}

fn load_config(seed: u64) -> LoadConfig {
    LoadConfig {
        scenario: Scenario::CachePut,
        connections: 16,
        depth: 1,
        measure: TRIAL,
        warmup: WARMUP,
        payload_bytes: 128,
        keys: 100,
        rate: None,
        cpus: Vec::new(),
        seed,
        patience: Patience::default(),
    }
}
