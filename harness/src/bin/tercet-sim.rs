//! `tercet-sim`: runs simulated clusters by seed. See `--help`.

use clap::Parser;
use harness::sim::{self, Cells, Failure, Options, Report};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The same as `tercetd`'s.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    /// Run three nodes whose members stay, for 60 faulty seconds a seed with about 100 calls a second, and
    /// say how much faster than real time that is.
    #[arg(long)]
    speed: bool,
    /// How far clocks may be off the world's rate, in millionths. Without it the seed decides, within the 50,000
    /// that leases bear.
    #[arg(long)]
    clocks_off: Option<i32>,
    /// Print how often each request was made with each option, and what came of it.
    #[arg(long)]
    cells: bool,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Plant this bug, and stop at the first seed that catches it (only in a build of `make mutants`).
    #[cfg(tercet_mutants)]
    #[arg(long)]
    mutant: Option<String>,
    /// Plant every bug, one after the other, each in a process of its own, and print a table.
    #[cfg(tercet_mutants)]
    #[arg(long, conflicts_with_all = ["mutant", "seed"])]
    mutants: bool,
    /// With --mutants: write what came of each into the table of this page.
    #[cfg(tercet_mutants)]
    #[arg(long, requires = "mutants", value_name = "FILE")]
    table: Option<std::path::PathBuf>,
}

/// After so many seeds, each cell of the table of requests, options and outcomes was reached.
const CELLS_AFTER: u64 = 200;

fn main() -> ExitCode {
    let args = Args::parse();
    #[cfg(tercet_mutants)]
    if args.mutants {
        return mutants::all(args.from, args.count, args.table.as_deref());
    }
    #[cfg(tercet_mutants)]
    let stops = match &args.mutant {
        Some(name) if !mutants::plant(name) => return ExitCode::from(2),
        planted => planted.is_some(),
    };
    #[cfg(not(tercet_mutants))]
    let stops = false;
    let seeds = match args.seed {
        Some(seed) => seed..seed + 1,
        None => args.from..args.from + args.count,
    };
    let (mut failed, mut worst) = (0, 0);
    let (began, mut simulated, mut operations) = (Instant::now(), Duration::ZERO, 0);
    let mut cells = Cells::default();
    let options = if args.speed { Options::steady } else { Options::small };
    for seed in seeds {
        println!("seed {seed}");
        match sim::run(Options { clocks_off_millionths: args.clocks_off, ..options(seed) }) {
            Ok(report) => {
                simulated += report.elapsed;
                operations += report.operations;
                cells.join(&report.cells);
                say_passed(&report);
            }
            Err(failure) => {
                println!("  FAILED, {failure}");
                failed += 1;
                worst = worst.max(match failure {
                    Failure::Liveness(_) => 1,
                    Failure::Safety(_) => 3,
                });
                if stops {
                    break;
                }
            }
        }
    }
    // Not part of what a second run must print too.
    let simulated = simulated.as_secs_f64();
    eprintln!(
        "{operations} operations in {simulated:.0} simulated seconds, {:.0} a second: {:.0} times as fast as real time, {:.0} times by the time on the CPU",
        operations as f64 / simulated,
        simulated / began.elapsed().as_secs_f64(),
        simulated / on_cpu().as_secs_f64()
    );
    if args.cells {
        cells.table().iter().for_each(|(cell, times)| println!("{times:>8}  {cell}"));
    }
    if args.seed.is_none() && !args.speed && !stops && args.count >= CELLS_AFTER {
        let missing = cells.missing();
        missing.iter().for_each(|cell| println!("no client ever saw: {cell}"));
        failed += missing.len();
        worst = worst.max(u8::from(!missing.is_empty()));
    }
    println!("{failed} failed");
    ExitCode::from(worst)
}

/// Says what a run came to.
fn say_passed(report: &Report) {
    println!(
        "  passed: trace {:016x}, {} operations, {} events, {} crashes, {} stopped, {} snapshots, {} times full, {} changes, {} replicas removed, {} disks lost, {} damaged, {} voters of group 0, {} backups, {} pushes, {} readers cut off, {} staged, {} mails, {} probes, {:?}",
        report.trace,
        report.operations,
        report.events,
        report.crashes,
        report.stopped,
        report.snapshots,
        report.journals_full,
        report.changes,
        report.removed,
        report.lost,
        report.damaged,
        report.meta_voters,
        report.backups,
        report.pushes,
        report.cut_off,
        report.staged,
        report.mail,
        report.probes,
        report.elapsed
    );
}

/// How long this process was on a CPU: others may use the machine too. Zero where the kernel doesn't say.
fn on_cpu() -> Duration {
    let said = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let nanos = said.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

#[cfg(tercet_mutants)]
mod mutants {
    //! Planted bugs: one a process, since what one plants stays.

    use engine::mutant::{self, Mutant};
    use std::path::Path;
    use std::process::{Command, ExitCode};

    /// Plants the bug of this name.
    pub fn plant(name: &str) -> bool {
        let found = Mutant::ALL.iter().find(|(_, known, _)| *known == name);
        match found {
            Some((bug, _, _)) => mutant::plant(*bug),
            None => eprintln!("no such mutant: {name}"),
        }
        found.is_some()
    }

    /// Bugs that hardly ever show in a whole cluster. `make members-mutants` catches them.
    const ELSEWHERE: &[Mutant] =
        &[Mutant::ChangeBeforeOwnCommit, Mutant::ChangesOverlap, Mutant::AnyIncarnationVotes];

    /// Runs all of them, and says which were not caught.
    pub fn all(from: u64, count: u64, table: Option<&Path>) -> ExitCode {
        let mut missed = 0;
        println!("| planted bug | what it does | seeds | caught by |\n|---|---|---|---|");
        for (_, name, what) in Mutant::ALL.iter().filter(|(bug, ..)| !ELSEWHERE.contains(bug)) {
            let program = std::env::current_exe().expect("this program has a path");
            let (from, count) = (from.to_string(), count.to_string());
            let run = Command::new(program)
                .args(["--mutant", name, "--from", &from, "--count", &count])
                .output()
                .expect("this program starts again");
            let seeds = String::from_utf8_lossy(&run.stdout);
            let after = seeds.lines().filter(|line| line.starts_with("seed ")).count();
            let how = match run.status.code() {
                Some(0) => None,
                Some(_) => seeds.lines().find_map(|line| line.trim().strip_prefix("FAILED, ")),
                None => Some("an assertion of the engine"),
            };
            missed += u32::from(how.is_none());
            let why = String::from_utf8_lossy(&run.stderr);
            let assertion = why.lines().find(|line| !line.is_empty() && !line.contains("panicked"));
            let by = match (how, run.status.code(), assertion) {
                (Some(_), None, Some(said)) => format!("assertion: {said}"),
                (Some(how), _, _) => how.to_string(),
                (None, _, _) => "**not caught**".to_string(),
            };
            let row = format!("| `{name}` | {what} | {after} | {} |", quoted(&by));
            println!("{row}");
            if let Some(file) = table {
                write_row(file, name, &row);
            }
        }
        println!("{missed} not caught");
        ExitCode::from(u8::from(missed > 0))
    }

    /// Letters of what a run said that a table keeps.
    const SAID_MAX: usize = 140;

    /// What a run said, as a cell of a table.
    fn quoted(said: &str) -> String {
        let said = said.replace(['`', '|'], "'");
        let cut = if said.chars().count() > SAID_MAX { " ..." } else { "" };
        let kept: String = said.chars().take(SAID_MAX).collect();
        format!("`{}{cut}`", kept.trim_end())
    }

    /// Replaces the row of this bug. `make docs` sees to it that there is one.
    fn write_row(file: &Path, name: &str, row: &str) {
        let page = std::fs::read_to_string(file).expect("the page of the table is there");
        let old = format!("| `{name}` |");
        let lines = page.lines().map(|line| if line.starts_with(&old) { row } else { line });
        let page: String = lines.map(|line| format!("{line}\n")).collect();
        std::fs::write(file, page).expect("the page of the table can be written");
    }
}
