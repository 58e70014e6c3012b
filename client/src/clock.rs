//! The client's clock: BOOTTIME, which also passes while the machine sleeps, so that a guard does
//! not outlive its session over a suspend.

pub(crate) use crate::core::{Moment, millis};

impl Moment {
    /// The present.
    pub fn now() -> Moment {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(t.tv_sec).expect("BOOTTIME is never negative");
        let nanos = u64::try_from(t.tv_nsec).expect("nanoseconds are never negative");
        Moment(seconds * 1_000_000_000 + nanos)
    }
}
