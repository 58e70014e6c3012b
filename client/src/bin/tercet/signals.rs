//! Signals: what ends a process ends its waits first, and what it was told to ignore stays ignored.

use crate::output::Failure;
use client::Client;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The signals that end a process, and can be heard before.
pub const ENDING: [i32; 4] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM];

/// How long the end waits for the session to be closed. The cluster ends it by itself after its time to live.
pub const CLOSE_MAX: Duration = Duration::from_secs(2);

/// A signal came that ends this process.
static IS_ENDING: AtomicBool = AtomicBool::new(false);

/// From now on a signal that ends this process closes the client first: its place in a line is given up, and what it
/// was granted meanwhile goes back. A second signal does not wait for that.
pub fn close_client(client: &Client) -> Result<(), Failure> {
    let mut signals = Signals::new(heeded(&ENDING)?)?;
    let mut open = Some(client.clone());
    std::thread::spawn(move || {
        for signal in signals.forever() {
            let Some(client) = open.take() else { end_by(signal) };
            IS_ENDING.store(true, Ordering::SeqCst);
            std::thread::spawn(move || {
                client.close_within(CLOSE_MAX);
                end_by(signal);
            });
        }
    });
    Ok(())
}

/// If a signal is ending this process, lets it: what the calls came to meanwhile is nobody's any more.
pub fn let_end() {
    while IS_ENDING.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

/// Ends this process as the signal would have ended it.
fn end_by(signal: i32) -> ! {
    // It returns only if the signal can't be raised.
    let _alive = emulate_default_handler(signal);
    std::process::exit(128 + signal)
}

/// Those of the signals that this process was not told to ignore when it began, as `nohup` tells it, or a shell that
/// puts it into the background.
pub fn heeded(signals: &[i32]) -> Result<Vec<i32>, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    let is_heeded = |signal: &i32| ignored & (1 << (signal - 1)) == 0;
    Ok(signals.iter().copied().filter(is_heeded).collect())
}
