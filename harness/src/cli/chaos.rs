//! `tercet-bench chaos`: real nodes under faults and load.

use super::bench::{beneath, interrupts, write};
use super::{Failure, PlaceArguments};
use crate::chaos::kills::kills;
use crate::chaos::report::ChaosReport;
use crate::chaos::run::{RunConfig, run};
use crate::chaos::schedule::Fault;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;
use std::time::Duration;

/// Steps of a progress bar.
const BAR_STEPS: f64 = 1_000.0;

const HELP_AFTER: &str = "\
WHAT IT DOES:
  Starts real nodes, loads them with `mixed` (locks, a queue, a cache) and `locks-contended` (16 names
  that everybody wants), and does to them what the schedule says. The seed decides the schedule, which is
  printed first. At the end every fault is undone and every node ready; then the loads stop, the queues are
  drained, and the checks are judged: exclusive locks never overlap and fences rise, every
  acknowledged push is popped, a get gives the latest acknowledged put. Sessions live 3 s here.

FAULTS:
  kill-leader     the leader of a shard ends with SIGKILL, and starts again later
  kill-follower   another node does
  kill-majority   a majority does, the leader among it
  kill-all        all nodes do
  pause-leader    the leader is stopped (SIGSTOP) for longer than an election takes
  pause-long      the leader is stopped for longer than a session lives
  pause-all       all nodes are stopped for longer than a session lives
  cut-leader      the leader and the other nodes don't reach each other; clients reach all
  cut-halves      a majority and the rest don't reach each other
  cut-one-way     what the leader sends does not reach the other nodes; what they send reaches it
  cut-link        the leader and one other node don't reach each other
  link-down       neither nodes nor clients reach the leader
  disk-full       a node's disk has no byte left; it may end (E202), and starts again when there is room
  cut-all         all nodes are cut off from each other, alone, for 5 s to 90 s; in runs of 250 s or more for 60 s
                  or more
  take-files      a node may open no more files than it has open
  fill-connections  idle clients take all connections of a node, which may open 400 files, and insist on more;
                  its links and the clients that it has go on
  vanish-clients  a machine whose clients hold locks and wait is gone; its locks go to others when the sessions
                  end, at most 4.5 s and 2 s after the last sign of life, and its connections are let go within
                  73 s

THE FIRST WRITE:
  When the last fault has ended, new clients write to every shard until each has acknowledged one write. That
  takes at most 3 s after cuts and link-down, 5 s after pauses and what happens to clients or descriptors, and 10 s
  after kills and disk-full, whose nodes start first. Later fails the run. When the next fault comes too soon it is
  not judged; after cut-all it always is.

  The cuts, link-down and vanish-clients take network namespaces (root, or CAP_SYS_ADMIN and CAP_NET_ADMIN; the programs ip and
  nft). disk-full takes a mount (root or CAP_SYS_ADMIN). Where that is not allowed, the faults are named as
  NOT RUN, the others run, and the exit code is 4; leave them out with --faults to say that this is meant.

EXAMPLES:
  Five minutes with three nodes, and the figures into a file:
      tercet-bench chaos --nodes 3 --minutes 5 --seed 7 --json chaos.json

  Without what takes privileges:
      tercet-bench chaos --faults kill-leader,kill-all,pause-leader,pause-long

  A cut of all nodes for 60 s, and nothing else:
      tercet-bench chaos --minutes 2 --faults cut-all --hold 60

  Only how long writes stop when the leader is killed, twenty times:
      tercet-bench chaos --minutes 0 --kills 20

EXIT CODES:
    0  all that was asked for was done, and every check held
    1  a node ended without a reason, or was not ready in time after everything was healed, or the first write
       came too late, or something of vanished clients stayed too long, or nothing was served while a node's
       connections were taken, or the run could not begin; its logs and data stay
    2  a flag is not known or malformed
    3  a check failed: a promise of Tercet was broken; the nodes' logs and data stay
    4  faults that were asked for can't be done on this machine; with those that can every check held
  130  interrupted; everything is undone";

/// The arguments of `chaos`.
#[derive(Args, Debug)]
#[command(after_long_help = HELP_AFTER)]
pub(super) struct ChaosArguments {
    /// Nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(3..=9))]
    nodes: u32,
    /// How long the faults and the loads run, at least a half; 0 = not at all.
    #[arg(long, default_value_t = 1.0, value_name = "M", value_parser = minutes)]
    minutes: f64,
    /// What decides which fault comes when.
    #[arg(long, default_value_t = 1, value_name = "S")]
    seed: u64,
    /// The kinds of faults, separated by commas [default: all]
    #[arg(long, value_delimiter = ',', value_name = "F[,F...]")]
    faults: Vec<Fault>,
    /// How long each fault lasts, in seconds [default: by chance]
    #[arg(long, value_name = "S", value_parser = seconds)]
    hold: Option<Duration>,
    /// After that: kill the leader so often, each time under a load of writes, and measure how long
    /// none succeeded.
    #[arg(long, default_value_t = 0, value_name = "N")]
    kills: u32,
    #[command(flatten)]
    place: PlaceArguments,
    /// Write the report here.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn minutes(text: &str) -> Result<f64, String> {
    let minutes: f64 = text.parse().map_err(|_| format!("\"{text}\" is no number"))?;
    match minutes == 0.0 || (0.5..=10_000.0).contains(&minutes) {
        true => Ok(minutes),
        false => Err("it is 0, or 0.5 to 10000".into()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("\"{text}\" is no number"))?;
    match (0.1..=600.0).contains(&seconds) {
        true => Ok(Duration::from_secs_f64(seconds)),
        false => Err("it is 0.1 to 600".into()),
    }
}

/// Runs it. Gives the number of broken promises.
pub(super) fn chaos(arguments: &ChaosArguments, flags: Vec<String>) -> Result<u64, Failure> {
    let interrupted = interrupts();
    let data_dir = beneath(arguments.place.data_dir.clone())?;
    let mut report = ChaosReport::new(flags);
    if arguments.minutes > 0.0 {
        let all = Fault::ALL.to_vec();
        let faults = if arguments.faults.is_empty() { all } else { arguments.faults.clone() };
        let config = RunConfig {
            nodes: arguments.nodes,
            length: Duration::from_secs_f64(arguments.minutes * 60.0),
            seed: arguments.seed,
            faults,
            hold: arguments.hold,
            tercetd: arguments.place.tercetd.clone(),
            data_dir: data_dir.clone(),
            keep: arguments.place.keep(),
        };
        let bar = bar("faults and load");
        let ran =
            run(&config, &interrupted, &mut |done| bar.set_position((done * BAR_STEPS) as u64));
        bar.finish_and_clear();
        let ran = ran?;
        println!("{}", ran.table());
        report.run = Some(ran);
    }
    if arguments.kills > 0 {
        let place = (arguments.place.tercetd.clone(), data_dir.join("kills"));
        let bar = bar("kills of the leader");
        let (nodes, trials, seed) = (arguments.nodes, arguments.kills, arguments.seed);
        let killed = kills(nodes, trials, seed, place, &interrupted, &mut |done| {
            bar.set_position((done * BAR_STEPS) as u64);
        });
        bar.finish_and_clear();
        let killed = killed?;
        println!("{}", killed.line());
        report.kills = Some(killed);
    }
    // Only when nothing is to be kept there.
    let _ = std::fs::remove_dir(&data_dir);
    if let Some(path) = &arguments.json {
        write(path, &report.json())?;
    }
    verdict(&report)
}

fn verdict(report: &ChaosReport) -> Result<u64, Failure> {
    let violations = report.run.as_ref().map_or(0, |run| run.violations_total)
        + report.kills.as_ref().map_or(0, |kills| kills.violations_total);
    let Some(run) = report.run.as_ref().filter(|_| violations == 0) else { return Ok(violations) };
    if !run.failures.is_empty() {
        return Err(Failure::Unhealed(run.failures.join("; ")));
    }
    if !run.not_run.is_empty() {
        let names: Vec<&str> = run.not_run.iter().map(|it| it.fault).collect();
        return Err(Failure::NotRun(names.join(", ")));
    }
    Ok(0)
}

/// A progress bar, which is only drawn on a terminal.
fn bar(what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(BAR_STEPS as u64);
    let style = ProgressStyle::with_template("{prefix:<26} [{bar:40}] {elapsed}");
    bar.set_style(style.expect("the template is well-formed").progress_chars("=> "));
    bar.set_prefix(what);
    bar
}
