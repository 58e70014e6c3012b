//! Two kinds of time, which never mix.
//!
//! [`Time`] is a node's own monotonic clock (BOOTTIME in production, virtual in the simulator) and
//! means nothing elsewhere. [`Elapsed`] is a group's replicated clock: it stands in its entries, only
//! grows, and is all that the machine knows of time. Neither is a wall clock.

use core::ops::Add;
pub use core::time::Duration;

/// A moment of this node's monotonic clock, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Time(pub u64);

/// A moment of a group's replicated clock, in nanoseconds since the group's birth.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Elapsed(pub u64);

macro_rules! moment {
    ($($ty:ident)*) => {$(
        impl $ty {
            /// The first moment.
            pub const ZERO: $ty = $ty(0);
            /// Later than any other: "never".
            pub const MAX: $ty = $ty(u64::MAX);

            /// How much later this is than `earlier`; zero if it is not later.
            pub fn since(self, earlier: $ty) -> Duration {
                Duration::from_nanos(self.0.saturating_sub(earlier.0))
            }
        }
        impl Add<Duration> for $ty {
            type Output = $ty;
            fn add(self, d: Duration) -> $ty {
                $ty(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
            }
        }
    )*};
}
moment!(Time Elapsed);

/// Milliseconds of the wire as a duration.
pub const fn millis(ms: u32) -> Duration {
    Duration::from_millis(ms as u64)
}
