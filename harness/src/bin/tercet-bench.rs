//! `tercet-bench`: see [`harness::cli`], or `tercet-bench --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    harness::cli::main()
}
