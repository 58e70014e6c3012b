//! Nodes, loads, faults, and the end of it all.

use super::ChaosError;
use super::disks::{self, Disks, Kind};
use super::faults::Hands;
use super::fill::NODE_FILES_MAX;
use super::namespaces::Network;
use super::play::{self, LOOK_EVERY, Play};
use super::report::{NotRun, RunReport};
use super::schedule::{Fault, SESSION_TTL_MS, Schedule};
use crate::cluster::{Cluster, ClusterConfig, Keep};
use crate::load::{self, Go, LoadConfig, LoadError, LoadReport, Patience, Progress};
use crate::report::ScenarioReport;
use crate::scenario::Scenario;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{ScopedJoinHandle, sleep};
use std::time::Duration;

/// Shards of the cluster: more than one, so that several nodes lead.
pub(super) const SHARDS: u32 = 4;
/// All faults have ended so long before the loads stop.
const SETTLE: Duration = Duration::from_secs(10);
/// Bytes of a payload: enough that journals turn over and snapshots are made within a minute.
const PAYLOAD_BYTES: usize = 2_048;
const KEYS: usize = 200;
/// The load that only writes.
pub(super) const WRITER: usize = 1;
/// The loads: what, connections, requests under way on each.
pub(super) const LOADS: [(Scenario, usize, usize); 2] =
    [(Scenario::Mixed, 12, 2), (Scenario::LocksContended, 8, 2)];

/// What to run.
#[derive(Clone, Debug)]
pub struct RunConfig {
    /// Nodes: 3 or 5.
    pub nodes: u32,
    /// How long the loads run; the faults end a little earlier.
    pub length: Duration,
    /// What decides the schedule.
    pub seed: u64,
    /// The kinds of faults that are wanted.
    pub faults: Vec<Fault>,
    /// How long each lasts; none = by chance.
    pub hold: Option<Duration>,
    /// The server; none = the `tercetd` beside this program.
    pub tercetd: Option<PathBuf>,
    /// Where data and logs go. Removed at the end, unless something failed or `keep` says so.
    pub data_dir: PathBuf,
    /// Whether data and logs stay in any case.
    pub keep: Keep,
}

/// The directory of a run; removed when this is dropped, unless it is to be kept.
pub(super) struct Scratch {
    pub dir: PathBuf,
    pub keep: Keep,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.keep == Keep::Nothing {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// What this machine lets us do.
struct Means {
    network: Option<Network>,
    disks: Option<Disks>,
    not_run: Vec<NotRun>,
}

impl Means {
    fn find(config: &RunConfig) -> Means {
        let mut means = Means { network: None, disks: None, not_run: Vec::new() };
        if config.faults.iter().any(|fault| fault.needs_network()) {
            match Network::make(config.nodes) {
                Ok(network) => means.network = Some(network),
                Err(why) => {
                    let faults = config.faults.iter().filter(|fault| fault.needs_network());
                    let why = format!("no network namespaces here: {why}");
                    means.not_run.extend(faults.map(|it| NotRun::new(*it, &why)));
                }
            }
        }
        if config.faults.contains(&Fault::DiskFull) {
            match Disks::mount(&config.data_dir, config.nodes) {
                Ok(disks) => means.disks = Some(disks),
                Err(why) => {
                    let why = format!("no small file system can be mounted here: {why}");
                    means.not_run.push(NotRun::new(Fault::DiskFull, &why));
                }
            }
        }
        means
    }

    fn said(&self) -> String {
        let network = match &self.network {
            Some(_) => "each node in a network namespace",
            None => "all nodes on loopback",
        };
        let disks = match self.disks.as_ref().map(|disks| disks.kind) {
            Some(Kind::Ext4) => "each on ext4 of its own on a loop device",
            Some(Kind::Tmpfs) => "each on a tmpfs of its own",
            None => "all on one disk",
        };
        format!("{network}, {disks}")
    }
}

/// What the loads and the faults share while they run.
pub(super) struct Shared<'a> {
    pub interrupted: &'a AtomicBool,
    stop: AtomicBool,
    /// Successes of each load, as last told.
    pub ops: [AtomicU64; LOADS.len()],
    /// Who hears how far it is, 0 to 1.
    progress: Mutex<&'a mut (dyn FnMut(f64) + Send)>,
}

/// Runs it. Broken promises are in the report, not in the error.
///
/// # Errors
/// [`ChaosError`]; data and logs stay, but after Ctrl-C.
pub fn run(
    config: &RunConfig,
    interrupted: &AtomicBool,
    progress: &mut (dyn FnMut(f64) + Send),
) -> Result<RunReport, ChaosError> {
    let mut scratch = Scratch { dir: config.data_dir.clone(), keep: config.keep };
    // Locals are dropped from the last to the first: the nodes end before their disks and links.
    let mut means = Means::find(config);
    let left_out = |fault: &Fault| means.not_run.iter().any(|it| it.fault == fault.name());
    let faults: Vec<Fault> = config.faults.iter().copied().filter(|it| !left_out(it)).collect();
    let length = config.length.saturating_sub(SETTLE);
    let schedule = Schedule::new(config.seed, &faults, length, config.hold, SHARDS);
    print!(
        "{} nodes, seed {}, {} faults:\n{schedule}",
        config.nodes,
        config.seed,
        schedule.events.len()
    );
    eprintln!("{}", means.said());
    for not_run in &means.not_run {
        println!("NOT RUN {}: {}", not_run.fault, not_run.why);
    }
    if faults.is_empty() {
        // Nodes under load alone would look like a run that went well.
        let mut report = RunReport::new(config, "", &means.said());
        report.not_run = means.not_run;
        return Ok(report);
    }
    let ran = stage(config, &mut means, &schedule, interrupted, progress);
    let failed = match &ran {
        Ok(report) => report.violations_total > 0 || !report.failures.is_empty(),
        Err(ChaosError::Interrupted) => false,
        Err(_) => true,
    };
    if failed {
        scratch.keep = Keep::Data;
        if let Some(disks) = &means.disks {
            disks.keep();
        }
        eprintln!("the nodes' logs and data stay in {}", scratch.dir.display());
    }
    ran
}

fn stage(
    config: &RunConfig,
    means: &mut Means,
    schedule: &Schedule,
    interrupted: &AtomicBool,
    progress: &mut (dyn FnMut(f64) + Send),
) -> Result<RunReport, ChaosError> {
    let homes = means.network.as_ref().map_or_else(Vec::new, Network::homes);
    let flags = ["--segment-size", disks::SEGMENT, "--segments-max", disks::SEGMENTS_MAX];
    let mut cluster = Cluster::start(ClusterConfig {
        nodes: config.nodes,
        cores: 1,
        shards: Some(SHARDS),
        tercetd: config.tercetd.clone(),
        first_port: None,
        data_dir: config.data_dir.clone(),
        // It is ours to remove, once it is unmounted.
        keep: Keep::Data,
        flags: flags.map(String::from).into(),
        cpus: Vec::new(),
        homes,
        files_max: Some(NODE_FILES_MAX),
    })?;
    let addresses = cluster.addresses();
    let shared = Shared {
        interrupted,
        stop: AtomicBool::new(false),
        ops: Default::default(),
        progress: Mutex::new(progress),
    };
    let mut report = RunReport::new(config, &schedule.to_string(), &means.said());
    report.not_run.clone_from(&means.not_run);
    let loads: Vec<LoadConfig> = LOADS.iter().map(|it| load_config(config, *it)).collect();
    let outcome = std::thread::scope(|scope| {
        let shared = &shared;
        let threads: Vec<ScopedJoinHandle<'_, Result<LoadReport, LoadError>>> = (0..LOADS.len())
            .map(|at| {
                let (load, addresses) = (&loads[at], &addresses);
                scope.spawn(move || load::run(load, addresses, &mut |it| listen(shared, at, it)))
            })
            .collect();
        let (network, disks) = (means.network.as_mut(), means.disks.as_ref());
        let mut hands = Hands::new(&mut cluster, network, disks, SHARDS);
        let did = Play::new(&mut hands, &addresses, shared, &mut report).run(schedule);
        if did.is_err() {
            shared.stop.store(true, Ordering::Relaxed);
        }
        let is_played = did.is_ok();
        while is_played && threads.iter().any(|thread| !thread.is_finished()) {
            report.failures.extend(hands.look_at_vanished());
            sleep(LOOK_EVERY);
        }
        let mut done = Vec::new();
        for (thread, load) in threads.into_iter().zip(&loads) {
            done.push((
                load,
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            ));
        }
        did.and_then(|()| judge(done, &mut report))?;
        play::await_vanished(&mut hands, shared, &mut report)
    });
    outcome?;
    report.served_after_healing(shared.ops.iter().map(|ops| ops.load(Ordering::Relaxed)));
    for node in 1..=config.nodes {
        cluster.check(node)?;
    }
    let killed = cluster.stop()?;
    report.failures.extend(killed.iter().map(|it| format!("node {it} did not stop in order")));
    Ok(report)
}

fn load_config(config: &RunConfig, load: (Scenario, usize, usize)) -> LoadConfig {
    let (scenario, connections, depth) = load;
    LoadConfig {
        scenario,
        connections,
        depth,
        measure: config.length,
        warmup: Duration::ZERO,
        payload_bytes: PAYLOAD_BYTES,
        keys: KEYS,
        rate: None,
        cpus: Vec::new(),
        seed: config.seed,
        patience: Patience {
            session_ttl_ms: SESSION_TTL_MS,
            heartbeat_every: Duration::from_millis(u64::from(SESSION_TTL_MS) / 6),
            silence_max: Duration::from_millis(u64::from(SESSION_TTL_MS) / 2),
        },
    }
}

/// A load says how far it is.
fn listen(shared: &Shared<'_>, at: usize, progress: Progress) -> Go {
    if progress.phase == "measuring" {
        shared.ops[at].store(progress.ops, Ordering::Relaxed);
    }
    if at == 0 {
        let mut told = shared.progress.lock().expect("whoever hears of progress does not panic");
        (*told)(progress.done);
    }
    let stop = [&shared.stop, shared.interrupted].iter().any(|it| it.load(Ordering::Relaxed));
    if stop { Go::Stop } else { Go::On }
}

/// What the loads saw.
fn judge(
    loads: Vec<(&LoadConfig, Result<LoadReport, LoadError>)>,
    report: &mut RunReport,
) -> Result<(), ChaosError> {
    for (config, load) in loads {
        let load = match load {
            Err(LoadError::Interrupted) => return Err(ChaosError::Interrupted),
            Err(LoadError::Finish(why)) => {
                report
                    .failures
                    .push(format!("{}: the end was not reached: {why}", config.scenario));
                continue;
            }
            other => other?,
        };
        let unanswered = load.record.errors.get("unanswered").copied().unwrap_or(0);
        if unanswered > 0 {
            let what = format!("{}: {unanswered} requests unanswered at the end", config.scenario);
            report.failures.push(what);
        }
        report.violations_total += load.violations.total;
        report.loads.push(ScenarioReport::of(config, &load, &[], None));
    }
    Ok(())
}
