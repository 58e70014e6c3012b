//! Files that can't be opened for want of descriptors. Some are kept back for them ([`super::environment::seats`]);
//! if they are gone all the same, whatever only opens is tried again: connections come and go.
//!
//! # Invariants
//!
//! - Only a want of descriptors is waited out. A write or a sync that failed is never tried again.

use std::io;
use std::time::{Duration, Instant};

/// How long a want of descriptors is waited out.
pub const SCARCE_MAX: Duration = Duration::from_secs(60);
/// How often it is looked whether it is over.
pub const SCARCE_REST: Duration = Duration::from_millis(50);
/// How often it is told.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Whether nothing was done because no descriptor was free: in this process, or in the system.
pub fn is_scarce(error: &io::Error) -> bool {
    match error.raw_os_error() {
        Some(code) => code == libc::EMFILE || code == libc::ENFILE,
        // glommio keeps no more of it than the text.
        None => {
            let text = error.to_string();
            let says = |code: i32| text.contains(&format!("(os error {code})"));
            says(libc::EMFILE) || says(libc::ENFILE)
        }
    }
}

/// How a want of descriptors is waited out.
pub(super) struct Patience {
    until: Instant,
    tell_at: Instant,
}

impl Patience {
    pub fn new() -> Patience {
        let now = Instant::now();
        Patience { until: now + SCARCE_MAX, tell_at: now }
    }

    /// Whether it is worth another try after a rest.
    pub fn bears(&mut self, what: &str, error: &io::Error) -> bool {
        let now = Instant::now();
        if !is_scarce(error) || now >= self.until {
            return false;
        }
        if now >= self.tell_at {
            self.tell_at = now + TELL_EVERY;
            tracing::warn!(
                "{what} waits for a free descriptor: {error}. Raise the limit (ulimit -n)"
            );
        }
        true
    }
}

/// Does something that may be begun again, until it is not for want of descriptors that it fails.
///
/// # Errors
/// Of the last try.
pub fn patiently<T>(what: &str, mut does: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut patience = Patience::new();
    loop {
        match does() {
            Err(error) if patience.bears(what, &error) => std::thread::sleep(SCARCE_REST),
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_want_of_descriptors_is_waited_out_and_nothing_else_is() {
        let tries = std::cell::Cell::new(0);
        let fails = |code: i32, times: u32| {
            tries.set(0);
            patiently("a test", || {
                tries.set(tries.get() + 1);
                let failed = tries.get() <= times;
                if failed { Err(io::Error::from_raw_os_error(code)) } else { Ok(tries.get()) }
            })
        };
        assert_eq!(fails(libc::EMFILE, 2).unwrap(), 3);
        assert_eq!(fails(libc::ENFILE, 1).unwrap(), 2);
        for code in [libc::EIO, libc::ENOSPC, libc::ENOMEM] {
            assert_eq!(fails(code, 1).unwrap_err().raw_os_error(), Some(code));
            assert_eq!(tries.get(), 1, "once");
        }
    }

    #[test]
    fn it_is_known_by_its_text_too() {
        let text = io::Error::from_raw_os_error(libc::EMFILE).to_string();
        assert!(is_scarce(&io::Error::other(format!("opening x: {text}"))));
        let text = io::Error::from_raw_os_error(libc::EIO).to_string();
        assert!(!is_scarce(&io::Error::other(text)));
    }
}
