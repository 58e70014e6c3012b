//! What `run` and `suite` share: a cluster, loads one after the other, their floors, the report.

use super::{ClusterArguments, Failure, ReadsChoice, WalChoice};
use crate::cluster::launch::usable_cpus;
use crate::cluster::place::{Placement, place};
use crate::cluster::weigh::Weight;
use crate::cluster::{Cluster, ClusterConfig, file_system};
use crate::floor::{Floor, FloorMeter, frame_bytes};
use crate::load::{self, Go, LoadConfig, Progress};
use crate::report::machine::{Disk, Origin};
use crate::report::{ClusterReport, Latency, Report, ScenarioReport, distribution};
use crate::scenario::Scenario;
use engine::edge::wal::Writer;
use engine::edge::wal::trial::trial;
use indicatif::{ProgressBar, ProgressStyle};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Steps of a progress bar.
const BAR_STEPS: f64 = 100.0;

/// Set by Ctrl-C or SIGTERM.
pub(super) fn interrupts() -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // Without it a signal ends us at once, and the kernel ends the nodes.
        let _ = signal_hook::flag::register(signal, Arc::clone(&flag));
    }
    flag
}

/// Where the nodes' data goes, and whether it is ours to remove.
pub(super) fn data_dir(arguments: &ClusterArguments) -> Result<PathBuf, Failure> {
    let dir = beneath(arguments.place.data_dir.clone())?;
    if file_system(&dir) == "tmpfs" {
        eprintln!(
            "warning: {} is in memory (tmpfs): nothing is durable there, and the figures mean \
             nothing. Name a directory on a real disk with --data-dir",
            dir.display()
        );
    }
    Ok(dir)
}

/// The directory that was named, else a new one where things are built; made if it is not there.
pub(super) fn beneath(named: Option<PathBuf>) -> Result<PathBuf, Failure> {
    let dir = named.unwrap_or_else(|| {
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or("target".into(), PathBuf::from);
        let base = if target.is_dir() { target.join("tercet-bench") } else { "bench-data".into() };
        base.join(std::process::id().to_string())
    });
    fs::create_dir_all(&dir).map_err(|why| Failure::File { path: dir.clone(), why })?;
    Ok(dir)
}

/// The cluster that the arguments ask for, and where its threads run.
pub(super) fn cluster_config(
    arguments: &ClusterArguments,
    data_dir: &Path,
) -> (ClusterConfig, Placement) {
    let placement = place(&arguments.pin, arguments.nodes, arguments.cores, &usable_cpus());
    let mut flags = Vec::new();
    match arguments.wal {
        WalChoice::Auto => {}
        WalChoice::Mapped => flags.extend(["--wal".to_string(), "mapped".into()]),
        WalChoice::Direct => flags.extend(["--wal".to_string(), "direct".into()]),
    }
    if arguments.reads == ReadsChoice::ReadIndex {
        flags.extend(["--reads".to_string(), "read-index".into()]);
    }
    flags.extend(arguments.node_flag.iter().cloned());
    let config = ClusterConfig {
        nodes: arguments.nodes,
        cores: arguments.cores,
        shards: arguments.shards,
        tercetd: arguments.place.tercetd.clone(),
        first_port: None,
        data_dir: data_dir.to_path_buf(),
        keep: arguments.place.keep(),
        flags,
        cpus: placement.nodes.clone(),
        homes: Vec::new(),
        files_max: None,
    };
    (config, placement)
}

/// A cluster under measurement. One serves all scenarios of a run.
pub(super) struct Bench {
    // First, so that the cluster finds its directory empty of it.
    floors: FloorMeter,
    cluster: Option<Cluster>,
    placement: Placement,
    report: ClusterReport,
    interrupted: Arc<AtomicBool>,
    disk: Disk,
    flags: Vec<String>,
    pub scenarios: Vec<ScenarioReport>,
    pub notes: Vec<String>,
}

impl Bench {
    /// Starts the cluster when there is anything to load; the floor alone needs none.
    pub fn start(
        arguments: &ClusterArguments,
        flags: Vec<String>,
        needs_cluster: bool,
        floor_length: Duration,
    ) -> Result<Bench, Failure> {
        let data_dir = data_dir(arguments)?;
        let (config, placement) = cluster_config(arguments, &data_dir);
        let floor_dir = data_dir.join("floor");
        let disk = Disk::under(&data_dir);
        let (writer, wal) = match arguments.wal {
            WalChoice::Mapped => (Writer::Mapped, "mapped".to_string()),
            WalChoice::Direct => (Writer::Direct, "direct".to_string()),
            WalChoice::Auto => {
                let (writer, report) = trial(&data_dir).map_err(Failure::Floor)?;
                (writer, format!("auto; the harness's own trial says {report}"))
            }
        };
        eprintln!("{}: {}", data_dir.display(), disk.file_system);
        eprintln!("placement: {}", placement.said);
        let mut report = ClusterReport {
            nodes: config.nodes,
            cores: config.cores,
            flags: config.flags.clone(),
            placement: placement.said.clone(),
            wal,
            ..ClusterReport::default()
        };
        let floors = FloorMeter::new(floor_dir, config.nodes, writer, floor_length);
        let cluster = if needs_cluster { Some(Cluster::start(config)?) } else { None };
        if let Some(cluster) = &cluster {
            report.startup_ms = cluster.nodes().iter().map(|node| node.startup_ms).collect();
            report.leaders_ms = cluster.leaders_ms;
            report.shards = cluster.topology_of(1).map_or(0, |topology| topology.shards);
            eprintln!(
                "{} nodes ready after {:.0} ms, all {} shards led after {:.0} ms",
                report.nodes,
                report.startup_ms.iter().copied().fold(0.0, f64::max),
                report.shards,
                report.leaders_ms
            );
        }
        Ok(Bench {
            cluster,
            floors,
            placement,
            report,
            interrupted: interrupts(),
            disk,
            flags,
            scenarios: Vec::new(),
            notes: Vec::new(),
        })
    }

    /// Weighs the nodes while nobody asks them anything.
    pub fn idle(&mut self, length: Duration) {
        let Some(cluster) = &self.cluster else { return };
        let (before, since) = (cluster.weights(), Instant::now());
        sleep(length);
        let after = cluster.weights();
        let cost = after.iter().zip(&before).map(|(after, before)| after.since(before));
        let percent = |cost: Weight| 100.0 * cost.cpu_seconds / since.elapsed().as_secs_f64();
        self.report.idle_cpu_percent = cost.map(percent).collect();
        self.report.idle_rss_anon_bytes = after.iter().map(|it| it.rss_anon_bytes).collect();
    }

    /// Runs one load and adds it, with its floor, to the report.
    pub fn load(&mut self, mut config: LoadConfig) -> Result<(), Failure> {
        if self.interrupted.load(Ordering::Relaxed) {
            return Err(Failure::Interrupted);
        }
        let scenario = config.scenario;
        config.check().map_err(|why| Failure::Load { scenario, why })?;
        config.cpus.clone_from(&self.placement.generator);
        let (connections, depth) = (config.connections, config.depth);
        let floor = self.floors.of(scenario, connections, depth, config.payload_bytes);
        let floor = floor.map_err(Failure::Floor)?;
        if scenario == Scenario::Floor {
            return self.add_floor(&config, floor);
        }
        let cluster = self.cluster.as_mut().expect("a load has a cluster");
        let addresses = cluster.addresses();
        let bar = bar(&config);
        let before = cluster.weights();
        let mut cost = Vec::new();
        let mut begun = before;
        let mut measuring = false;
        let mut listener = |progress: Progress| {
            let now_measuring = progress.phase == "measuring";
            if now_measuring && !measuring {
                begun = cluster.weights();
            }
            if !now_measuring && measuring {
                let ended = cluster.weights();
                cost = ended.iter().zip(&begun).map(|(end, begin)| end.since(begin)).collect();
            }
            measuring = now_measuring;
            bar.set_position((progress.done * BAR_STEPS) as u64);
            bar.set_message(progress.phase);
            let stop = self.interrupted.load(Ordering::Relaxed);
            if stop { Go::Stop } else { Go::On }
        };
        let loaded = load::run(&config, &addresses, &mut listener);
        bar.finish_and_clear();
        if cost.is_empty() {
            let ended = cluster.weights();
            cost = ended.iter().zip(&begun).map(|(end, begin)| end.since(begin)).collect();
        }
        if loaded.is_err() {
            eprintln!("what the nodes say and wrote is kept in {}", cluster.witness().display());
            // A node that ended is the reason, whatever the load made of it.
            (1..=self.report.nodes).try_for_each(|node| cluster.check(node))?;
        }
        let loaded = loaded.map_err(|why| Failure::Load { scenario, why })?;
        let report = ScenarioReport::of(&config, &loaded, &cost, Some(floor));
        say(&report);
        for node in 1..=self.report.nodes {
            cluster.check(node)?;
        }
        self.scenarios.push(report);
        Ok(())
    }

    /// The floor as a scenario of its own: the echo's latencies at the shape.
    fn add_floor(&mut self, config: &LoadConfig, floor: Floor) -> Result<(), Failure> {
        let sizes = frame_bytes(config.scenario, config.payload_bytes);
        let seconds = self.floors.length.as_secs_f64();
        let echo = self.floors.echo(config.connections, config.depth, sizes);
        let latencies = &echo.map_err(Failure::Floor)?.latencies;
        let load = load::LoadReport::default();
        let mut report = ScenarioReport::of(config, &load, &[], Some(floor));
        report.ops_per_s = floor.ops_per_s;
        report.operations = latencies.len();
        report.seconds = seconds;
        report.latency_us = Latency::of(latencies);
        report.distribution = distribution(latencies);
        report.ops_of_floor = Some(1.0);
        report.p50_of_floor = None;
        say(&report);
        self.scenarios.push(report);
        Ok(())
    }

    /// Stops one node and starts it again: how long does a node take after all that?
    pub fn restart(&mut self) -> Result<(), Failure> {
        if let Some(cluster) = &mut self.cluster {
            cluster.stop_node(1)?;
            let took = cluster.restart(1, &[])?;
            self.report.restart_after_ms = Some(took.as_secs_f64() * 1e3);
        }
        Ok(())
    }

    /// Weighs the nodes after the load.
    pub fn weigh(&mut self) {
        let Some(cluster) = &self.cluster else { return };
        let weights = cluster.weights();
        let report = &mut self.report;
        report.rss_anon_bytes = weights.iter().map(|it| it.rss_anon_bytes).collect();
        report.cpu_seconds = weights.iter().map(|it| it.cpu_seconds).collect();
        report.switches_voluntary = weights.iter().map(|it| it.switches_voluntary).collect();
        report.switches_involuntary = weights.iter().map(|it| it.switches_involuntary).collect();
        report.write_bytes = weights.iter().map(|it| it.write_bytes).collect();
        report.wal_bytes = cluster.wal_bytes();
        report.snapshot_stall_ms_max = cluster.snapshot_stalls_ms();
    }

    /// Stops the cluster and gives the report.
    pub fn finish(mut self) -> Result<Report, Failure> {
        if let Some(cluster) = &mut self.cluster {
            self.report.killed_at_stop = cluster.stop()?;
            for node in &self.report.killed_at_stop {
                self.notes.push(format!("node {node} did not stop in order and was killed"));
            }
        }
        Ok(Report {
            origin: Origin::here(self.flags),
            disk: self.disk,
            cluster: self.report,
            violations_total: self.scenarios.iter().map(|it| it.violations_total).sum(),
            scenarios: self.scenarios,
            notes: self.notes,
        })
    }
}

/// One line when a load is done, for those who wait.
fn say(report: &ScenarioReport) {
    let latency = &report.latency_us;
    let (p50, p99) = (crate::report::time(latency.p50), crate::report::time(latency.p99));
    let ops = crate::report::grouped(report.ops_per_s);
    let shape = format!("{} x {}", report.connections, report.depth);
    eprint!("{:<16} {shape:>8} {ops:>10}/s   p50 {p50:>8}   p99 {p99:>8}", report.name);
    if report.errors_total > 0 {
        eprint!("   {} errors {:?}", report.errors_total, report.errors);
    }
    if report.reconnects > 0 {
        let silence = crate::report::time(report.silence_ms_max * 1e3);
        eprint!("   {} reconnects, longest silence {silence}", report.reconnects);
    }
    eprintln!();
    for violation in &report.violations {
        eprintln!("    VIOLATION {violation}");
    }
}

/// A progress bar, which is only drawn on a terminal.
fn bar(config: &LoadConfig) -> ProgressBar {
    let bar = ProgressBar::new(BAR_STEPS as u64);
    let style = ProgressStyle::with_template("{prefix:<26} [{bar:40}] {msg}");
    bar.set_style(style.expect("the template is well-formed").progress_chars("=> "));
    bar.set_prefix(format!("{} {} x {}", config.scenario, config.connections, config.depth));
    bar
}

/// Writes a file, and the directory that it is in.
pub(super) fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let file = |why| Failure::File { path: path.to_path_buf(), why };
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        fs::create_dir_all(dir).map_err(file)?;
    }
    fs::write(path, text).map_err(file)
}
