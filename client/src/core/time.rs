//! Time, as the core is told it.

use core::ops::{Add, Sub};
use core::time::Duration;

/// A moment of the clock of whoever drives the core, in nanoseconds. Means nothing elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Moment(pub u64);

impl Moment {
    /// Later than any other: "never".
    pub const MAX: Moment = Moment(u64::MAX);

    /// How much later this is than `earlier`; zero if it is not later.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The same in the wire's milliseconds, rounded up, and at least one.
    pub(crate) fn millis_since(self, earlier: Moment) -> u32 {
        let nanos = self.0.saturating_sub(earlier.0);
        u32::try_from(nanos.saturating_add(999_999) / 1_000_000).unwrap_or(u32::MAX).max(1)
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;
    #[inline]
    fn add(self, d: Duration) -> Moment {
        let seconds = d.as_secs().saturating_mul(1_000_000_000);
        let nanos = seconds.saturating_add(u64::from(d.subsec_nanos()));
        Moment(self.0.saturating_add(nanos))
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

/// How long what is held for `time` by a server's clock is held for sure by the client's: a twentieth less, by
/// which the server's may be faster.
pub(crate) fn surely(time: Duration) -> Duration {
    time - time / 20
}
