//! `tercet`: Tercet's command-line tool.
//!
//! Results go to the standard output, everything else to the standard error. With `--json` both are
//! one JSON document each. The exit status says how it went; `tercet --help` lists its values.

mod args;
mod cache;
mod cluster;
mod keep;
mod lock;
mod output;
mod queue;
mod run;
mod signals;
mod status;
mod tree;

use args::{Args, Command};
use clap::Parser;
use output::{Failure, Output};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = Args::parse();
    let output = Output::new(args.common.json);
    let done = match args.command {
        Command::Status(status) => status::status(&args.common, &status, &output),
        Command::Lock(lock) => lock::lock(&args.common, lock, &output),
        Command::Queue(queue) => queue::queue(&args.common, queue, &output),
        Command::Cluster(cluster) => cluster::cluster(&args.common, &cluster, &output),
        Command::Cache(cache) => cache::cache(&args.common, cache, &output),
    };
    match done {
        Ok(code) => code,
        Err(failure) => output.failure(&failure),
    }
}

/// What a command came to: its exit status, or why it failed.
type Done = Result<ExitCode, Failure>;
