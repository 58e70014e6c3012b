//! The client's clock: BOOTTIME, which also passes while the machine sleeps, so that a guard does
//! not outlive its session over a suspend.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A moment of the client's clock, in nanoseconds. Means nothing elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Moment(pub u64);

impl Moment {
    /// Later than any other: "never".
    pub const MAX: Moment = Moment(u64::MAX);

    /// The present.
    pub fn now() -> Moment {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(t.tv_sec).expect("BOOTTIME is never negative");
        let nanos = u64::try_from(t.tv_nsec).expect("nanoseconds are never negative");
        Moment(seconds * 1_000_000_000 + nanos)
    }

    /// How much later this is than `earlier`; zero if it is not later.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;
    fn add(self, d: Duration) -> Moment {
        Moment(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Moment {
    type Output = Moment;
    fn sub(self, d: Duration) -> Moment {
        Moment(self.0.saturating_sub(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// A duration as the wire's milliseconds, rounded up, so that a short one is never "none".
pub(crate) fn millis(d: Duration) -> u32 {
    u32::try_from(d.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX)
}
