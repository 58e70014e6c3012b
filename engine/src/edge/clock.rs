//! This node's clocks. [`now`]: `CLOCK_BOOTTIME`, which never steps and goes on while the machine sleeps, so
//! that a lease cannot outlive a suspend.

use crate::time::{Duration, Time};

/// The time now.
pub fn now() -> Time {
    let (seconds, nanos) = read(libc::CLOCK_BOOTTIME);
    Time(seconds * 1_000_000_000 + nanos)
}

/// How long this thread has had a CPU: waiting for one, or for the disk, does not count.
pub fn thread_cpu() -> Duration {
    let (seconds, nanos) = read(libc::CLOCK_THREAD_CPUTIME_ID);
    Duration::from_secs(seconds) + Duration::from_nanos(nanos)
}

fn read(clock: libc::clockid_t) -> (u64, u64) {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `ts` is a valid timespec that the call may write to, for the length of the call.
    let rc = unsafe { libc::clock_gettime(clock, &raw mut ts) };
    assert_eq!(rc, 0, "every kernel that this runs on has these clocks");
    let seconds = u64::try_from(ts.tv_sec).expect("a clock's time is not negative");
    let nanos = u64::try_from(ts.tv_nsec).expect("nanoseconds are not negative");
    (seconds, nanos)
}

#[cfg(test)]
mod tests {
    #[test]
    fn time_does_not_go_back() {
        let first = super::now();
        assert!(super::now() >= first);
        assert!(first.0 > 0);
    }

    #[test]
    fn a_thread_that_sleeps_has_no_cpu() {
        let (began, cpu) = (super::now(), super::thread_cpu());
        std::thread::sleep(std::time::Duration::from_millis(50));
        let (slept, worked) = (super::now().since(began), super::thread_cpu() - cpu);
        assert!(worked < slept / 2, "{worked:?} of {slept:?}");
    }
}
