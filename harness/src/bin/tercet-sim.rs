//! `tercet-sim`: runs simulated clusters by seed. See `--help`.

use clap::Parser;
use harness::sim::{self, Failure, Options};
use std::process::ExitCode;

/// Runs whole clusters in one thread on virtual time, each decided by its seed alone.
///
/// One seed replays everything: the same seed prints the same trace hash. Exit codes: 0 all seeds
/// passed, 1 a liveness failure, 2 wrong usage, 3 a safety failure; a crash of the engine itself
/// aborts with its own message after the seed was printed.
#[derive(Parser)]
#[command(version, after_help = "Examples:\n  tercet-sim --seed 42\n  tercet-sim --count 2000")]
struct Args {
    /// Run this seed alone, and say what happened.
    #[arg(long)]
    seed: Option<u64>,
    /// How many seeds to run.
    #[arg(long, default_value_t = 200)]
    count: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let seeds = match args.seed {
        Some(seed) => seed..seed + 1,
        None => args.from..args.from + args.count,
    };
    let (mut failed, mut worst) = (0, 0);
    for seed in seeds {
        println!("seed {seed}");
        match sim::run(Options::small(seed)) {
            Ok(report) => println!(
                "  passed: trace {:016x}, {} operations, {} events, {} crashes, {} snapshots, {} times full, {:?}",
                report.trace,
                report.operations,
                report.events,
                report.crashes,
                report.snapshots,
                report.journals_full,
                report.elapsed
            ),
            Err(failure) => {
                println!("  FAILED, {failure}");
                failed += 1;
                worst = worst.max(match failure {
                    Failure::Liveness(_) => 1,
                    Failure::Safety(_) => 3,
                });
            }
        }
    }
    println!("{failed} failed");
    ExitCode::from(worst)
}
