//! The one generator of chance in here, seeded at construction (SplitMix64, Steele, Lea and Flood,
//! Fast Splittable Pseudorandom Number Generators, 2014).

use crate::time::Duration;

/// A stream of numbers that its seed decides.
#[cfg_attr(test, derive(Clone))]
pub(super) struct Random {
    state: u64,
}

impl Random {
    pub fn new(seed: u64) -> Random {
        Random { state: seed }
    }

    pub fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A duration from `min` to `max`, both included.
    pub fn duration(&mut self, min: Duration, max: Duration) -> Duration {
        assert!(min <= max, "a range of durations must not be empty");
        let span = u64::try_from((max - min).as_nanos()).expect("timeouts are far below 584 years");
        min + Duration::from_nanos(self.draw() % (span + 1))
    }
}
