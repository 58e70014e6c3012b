//! This node's clock: `CLOCK_BOOTTIME`, which never steps and goes on while the machine sleeps, so
//! that a lease cannot outlive a suspend.

use crate::time::Time;

/// The time now.
pub fn now() -> Time {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `ts` is a valid timespec that the call may write to, for the length of the call.
    let rc = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut ts) };
    assert_eq!(rc, 0, "every kernel that this runs on has CLOCK_BOOTTIME");
    let seconds = u64::try_from(ts.tv_sec).expect("the time since boot is not negative");
    let nanos = u64::try_from(ts.tv_nsec).expect("nanoseconds are not negative");
    Time(seconds * 1_000_000_000 + nanos)
}

#[cfg(test)]
mod tests {
    #[test]
    fn time_does_not_go_back() {
        let first = super::now();
        assert!(super::now() >= first);
        assert!(first.0 > 0);
    }
}
