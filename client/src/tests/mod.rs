//! The client against a small cluster that speaks the real wire.

mod admin;
mod backup;
mod calls;
mod fake;
mod give_backs;
mod leases;
mod routes;
mod sessions;
mod turns;

use crate::{Client, Config};
use fake::Fake;
use std::time::{Duration, Instant};

fn config(fake: &Fake) -> Config {
    Config::new(fake.addresses()).deadline(Duration::from_secs(3))
}

fn connect(fake: &Fake) -> Client {
    config(fake).connect().unwrap()
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Waits until `holds`, for five seconds at most.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(5), "never came true: {what}");
        std::thread::sleep(ms(2));
    }
}
