//! The commands of `tercet-bench`.

mod bench;
mod chaos;
mod nodes;
mod run;
mod suite;

use crate::chaos::ChaosError;
use crate::cluster::launch::{LAUNCH, become_program};
use crate::cluster::place::Pin;
use crate::cluster::{ClusterError, Keep};
use crate::load::LoadError;
use crate::scenario::Scenario;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

/// A promise was broken.
const EXIT_VIOLATED: u8 = 3;
/// Faults that were asked for can't be done here.
const EXIT_NOT_RUN: u8 = 4;
/// The run was stopped from outside.
const EXIT_INTERRUPTED: u8 = 130;

const HELP_AFTER: &str = "\
SCENARIOS:
  locks            acquire and release exclusive locks on distinct names, each counted
  locks-contended  acquire, waiting, and release 16 names that everybody wants
  queue            push, pop and acknowledge, each counted
  cache-put        write lines
  cache-get        read lines, linearizably, after all of them were written
  cache-mixed      read seven times in ten, else write
  mixed            a lock, a queue, a write and a read in turn
  floor            what physics allows: loopback echo and durable append, no cluster

CHECKS:
  While it loads: exclusive locks never overlap and fences rise; every acknowledged push is
  popped, and none after its acknowledgement; a get gives the latest acknowledged put of its
  key or a newer one. A broken promise fails the run, whatever its speed.

EXAMPLES:
  The whole benchmark, as `make bench` does it:
      tercet-bench suite --out target/bench-reports

  One scenario for ten seconds, the figures into a file:
      tercet-bench run --scenario locks --connections 64 --depth 16 --seconds 10 --json locks.json

  An open loop at a fixed rate, latency counted from the intended send time:
      tercet-bench run --scenario cache-put --connections 64 --depth 16 --rate 50000

  Three nodes to play with:
      tercet-bench nodes

EXIT CODES:
    0  measured, and every check held
    1  the cluster or the load could not run; the reason and the end of the node's log are shown
    2  a flag is not known or malformed
    3  a check failed: a promise of Tercet was broken
  130  interrupted";

/// Loads Tercet, measures it, and checks what came back.
#[derive(Parser, Debug)]
#[command(name = "tercet-bench", version, after_long_help = HELP_AFTER, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Start local nodes, load them with scenarios one after the other, and stop them.
    Run(RunArguments),
    /// Measure every scenario at 64 x 1, 64 x 16 and 1 x 1, and write a report.
    Suite(SuiteArguments),
    /// Start local nodes and keep them until Ctrl-C.
    #[command(visible_alias = "up")]
    Nodes(NodesArguments),
    /// Kill, stop and cut off local nodes under load, fill their disks, and check what they promise.
    Chaos(chaos::ChaosArguments),
}

/// The cluster, for all commands.
#[derive(Args, Clone, Debug)]
struct ClusterArguments {
    /// Nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=9))]
    nodes: u32,
    /// Data-plane threads of each node.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    cores: u32,
    /// Shards of the cluster [default: the server's]
    #[arg(long, value_name = "N")]
    shards: Option<u32>,
    /// Which CPUs nodes and generator are pinned to. With auto they are pinned when there is a
    /// CPU for each thread; with fewer, pinning costs up to a fifth. What was chosen is said.
    #[arg(long, default_value = "auto", value_name = "auto|none|CPUS")]
    pin: Pin,
    /// How the nodes write their journals.
    #[arg(long, value_enum, default_value_t = WalChoice::Auto)]
    wal: WalChoice,
    /// How the nodes make reads linearizable.
    #[arg(long, value_enum, default_value_t = ReadsChoice::Lease)]
    reads: ReadsChoice,
    #[command(flatten)]
    place: PlaceArguments,
    /// A further flag for every node, such as --node-flag=--log=debug; may be repeated.
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    node_flag: Vec<String>,
}

/// Which server, and where.
#[derive(Args, Clone, Debug)]
struct PlaceArguments {
    /// The server [default: the tercetd beside this program]
    #[arg(long, value_name = "PATH")]
    tercetd: Option<PathBuf>,
    /// Where the nodes keep their data and logs; a real disk, or the figures mean nothing
    /// [default: a new directory under target/tercet-bench]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Leave the nodes' data and logs where they are, whatever happened.
    #[arg(long)]
    keep: bool,
}

impl PlaceArguments {
    fn keep(&self) -> Keep {
        if self.keep { Keep::Data } else { Keep::Nothing }
    }
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum WalChoice {
    Auto,
    Mapped,
    Direct,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum ReadsChoice {
    Lease,
    ReadIndex,
}

#[derive(Args, Debug)]
struct RunArguments {
    #[command(flatten)]
    cluster: ClusterArguments,
    /// What to measure; several, separated by commas, share one cluster.
    #[arg(long, value_delimiter = ',', required = true, value_name = "S[,S...]")]
    scenario: Vec<Scenario>,
    /// Connections.
    #[arg(long, default_value_t = 64, value_name = "C")]
    connections: usize,
    /// Requests under way on each connection.
    #[arg(long, default_value_t = 1, value_name = "D")]
    depth: usize,
    /// How long each scenario is measured.
    #[arg(long, default_value_t = 10.0, value_name = "T")]
    seconds: f64,
    /// How long each scenario runs before that. The scheduler needs about two seconds to place
    /// the processes.
    #[arg(long, default_value_t = 3.0, value_name = "SECONDS")]
    warmup: f64,
    /// Bytes of a message's payload or a line's value; at least 16.
    #[arg(long, default_value_t = 128, value_name = "BYTES")]
    payload: usize,
    /// Keys of the cache scenarios.
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    keys: usize,
    /// Open loop: begin this many requests a second, whatever comes back, and count latency from
    /// when each was to begin.
    #[arg(long, value_name = "R")]
    rate: Option<f64>,
    /// Write the figures here.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct SuiteArguments {
    #[command(flatten)]
    cluster: ClusterArguments,
    /// Under 40 seconds instead of three minutes; coarser figures.
    #[arg(long)]
    quick: bool,
    /// Where report.json, report.md and latency.svg are written.
    #[arg(long, default_value = "target/bench-reports", value_name = "DIR")]
    out: PathBuf,
}

#[derive(Args, Debug)]
struct NodesArguments {
    #[command(flatten)]
    cluster: ClusterArguments,
    /// The nodes' ports for clients begin here, those for HTTP 80 above.
    #[arg(long, default_value_t = 7400, value_name = "PORT")]
    port: u16,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The cluster.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The load.
    #[error("{scenario}: {why}")]
    Load {
        /// The scenario.
        scenario: Scenario,
        /// Why.
        why: LoadError,
    },
    /// The floor.
    #[error("measuring the floor: {0}")]
    Floor(io::Error),
    /// A file.
    #[error("{path}: {why}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        why: io::Error,
    },
    /// The picture.
    #[error("{0}")]
    Picture(String),
    /// The faults.
    #[error(transparent)]
    Chaos(#[from] ChaosError),
    /// What did not come back.
    #[error("after the faults: {0}")]
    Unhealed(String),
    /// What this machine does not allow.
    #[error("NOT RUN on this machine (see above; --faults leaves faults out): {0}")]
    NotRun(String),
    /// Ctrl-C.
    #[error("interrupted; the nodes are stopped")]
    Interrupted,
}

/// Runs `tercet-bench`.
pub fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let Some((first, rest)) = words.split_first()
        && first == LAUNCH
    {
        eprintln!("tercet-bench: starting a node failed: {}", become_program(rest));
        return ExitCode::FAILURE;
    }
    let arguments = Arguments::parse();
    let done = match &arguments.command {
        Command::Run(run) => run::run(run, words),
        Command::Suite(suite) => suite::suite(suite, words),
        Command::Nodes(nodes) => nodes::nodes(nodes),
        Command::Chaos(chaos) => chaos::chaos(chaos, words),
    };
    match done {
        Ok(0) => ExitCode::SUCCESS,
        Ok(violations) => {
            eprintln!("tercet-bench: {violations} broken promises: the run FAILED");
            ExitCode::from(EXIT_VIOLATED)
        }
        Err(failure) => {
            eprintln!("tercet-bench: {failure}");
            match failure {
                Failure::Interrupted
                | Failure::Chaos(ChaosError::Interrupted)
                | Failure::Load { why: LoadError::Interrupted, .. } => {
                    ExitCode::from(EXIT_INTERRUPTED)
                }
                Failure::NotRun(_) => ExitCode::from(EXIT_NOT_RUN),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_promised_flags_are_taken() {
        let line = "tercet-bench run --nodes 3 --cores 1 --scenario locks,cache-put --connections 64 \
            --depth 16 --seconds 5 --payload 128 --json out.json --rate 1000 --warmup 3 --shards 12 \
            --pin 0,1 --wal direct --keys 100 --reads read-index --keep --tercetd ./tercetd \
            --node-flag=--log=debug";
        let arguments = Arguments::try_parse_from(line.split_whitespace()).unwrap();
        let Command::Run(run) = arguments.command else { panic!("it is a run") };
        assert_eq!(run.scenario, [Scenario::Locks, Scenario::CachePut]);
        assert_eq!(run.cluster.pin, Pin::Cpus(vec![0, 1]));
        assert_eq!(run.cluster.node_flag, ["--log=debug"]);
    }

    #[test]
    fn an_unknown_scenario_is_refused() {
        let line = ["tercet-bench", "run", "--scenario", "loks"];
        assert!(Arguments::try_parse_from(line).is_err());
    }
}
