//! Gives freed memory back to the system, on a thread of its own.
//!
//! mimalloc keeps what was freed for a while, and then gives all of it back at once, on whichever thread frees
//! or needs a page next. After a state of 1 GB was replaced, that stopped a core for as long as 90 ms. So no
//! thread does it by itself any more: this one does it, once a second, whether there is much or little.

use std::ffi::{c_int, c_long};
use std::io;
use std::time::Duration;

// So that it is linked.
use mimalloc as _;

/// How often: as long as mimalloc itself would wait.
const PERIOD: Duration = Duration::from_secs(1);
/// `mi_option_purge_delay`, of mimalloc 3: milliseconds until freed memory is given back unasked.
const PURGE_DELAY: c_int = 15;
/// 24 days: as good as never. Off altogether, mimalloc would forget what is to be given back.
const NEVER_MS: c_long = i32::MAX as c_long;

unsafe extern "C" {
    fn mi_option_get(option: c_int) -> c_long;
    fn mi_option_set(option: c_int, value: c_long);
    fn mi_collect(force: bool);
}

/// Starts the thread. It runs as long as the process.
///
/// # Errors
/// What the system says.
pub fn start() -> io::Result<()> {
    // SAFETY: both take plain numbers; mimalloc's options may be read and set at any time.
    let was = unsafe { mi_option_get(PURGE_DELAY) };
    if was != 1000 {
        return Ok(()); // Set by hand, or the options of another mimalloc: left as it is.
    }
    let give_back = || {
        // mimalloc knows a thread once it has allocated something.
        let mut known = Vec::with_capacity(1);
        loop {
            known.push(0_u8);
            known.clear();
            std::thread::sleep(PERIOD);
            // SAFETY: it touches what is free and what this thread has, which is known to no other.
            unsafe { mi_collect(true) }
        }
    };
    std::thread::Builder::new().name("tercet-memory".into()).spawn(give_back)?;
    // SAFETY: as above. Only once the thread is there: else nobody would give anything back.
    unsafe { mi_option_set(PURGE_DELAY, NEVER_MS) };
    Ok(())
}
