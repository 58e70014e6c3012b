//! The server: takes the configuration, checks the machine, takes the data directory, and runs.

use clap::Parser;
use engine::edge::config::{Arguments, Config};
use std::process::ExitCode;

/// The configuration is wrong.
const EXIT_CONFIG: u8 = 78;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match Config::load(&arguments) {
        Ok(config) => {
            let text = toml::to_string(&config.settings()).expect("settings are plain values");
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("tercetd: {e}");
            ExitCode::from(EXIT_CONFIG)
        }
    }
}
