//! The one generator of chance: a seed decides every number that comes of it.
//!
//! Whoever wants chance is given a seed at construction, and each thing that is left to chance has a
//! stream of its own: so one draw more in one place shifts no other. It is not for secrets.
//!
//! # Sources
//!
//! SplitMix64: Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators, 2014. Lemire,
//! Fast Random Integer Generation in an Interval, 2019, for a number below another one.

use crate::bytes::u64_bytes;
use core::ops::{Bound, RangeBounds};

/// A stream of numbers that its seed decides.
///
/// ```
/// use wire::random::Random;
///
/// let (mut one, mut other) = (Random::new(7), Random::new(7));
/// assert_eq!(one.draw(), other.draw());
/// assert!(one.u32(1..=6) <= 6);
/// ```
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The stream of a seed.
    pub const fn new(seed: u64) -> Random {
        Random { state: seed }
    }

    /// The next number, any of 64 bits.
    #[inline]
    pub const fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Another stream, which this one decides.
    pub const fn fork(&mut self) -> Random {
        Random::new(self.draw())
    }

    /// A number below `end`. The smallest ones come up more often than others by one part in 2^64 / `end`.
    ///
    /// # Panics
    /// When `end` is zero.
    #[inline]
    pub const fn below(&mut self, end: u64) -> u64 {
        assert!(end > 0, "nothing is below zero");
        let product = (self.draw() as u128) * (end as u128);
        (product >> 64) as u64
    }

    /// A number from `first` to `last`, both included.
    const fn within(&mut self, first: u64, last: u64) -> u64 {
        assert!(first <= last, "a range to draw from is not empty");
        match last - first {
            u64::MAX => self.draw(),
            span => first + self.below(span + 1),
        }
    }

    /// One or the other, as often.
    pub const fn bool(&mut self) -> bool {
        self.draw() >> 63 == 1
    }

    /// Sixteen bytes of chance: an id.
    pub fn id(&mut self) -> [u8; 16] {
        let mut id = [0; 16];
        for half in id.as_chunks_mut::<8>().0 {
            *half = u64_bytes(self.draw());
        }
        id
    }

    /// One of several, unless there is none.
    pub fn choice<I>(&mut self, from: I) -> Option<I::Item>
    where
        I: IntoIterator,
        I::IntoIter: ExactSizeIterator,
    {
        let mut from = from.into_iter();
        let count = from.len();
        if count == 0 { None } else { from.nth(self.usize(..count)) }
    }

    /// Puts them into any order.
    pub fn shuffle<T>(&mut self, all: &mut [T]) {
        for at in (1..all.len()).rev() {
            all.swap(at, self.usize(..=at));
        }
    }
}

macro_rules! numbers {
    ($($ty:ident)*) => {
        impl Random {$(
            #[doc = concat!("A number of a range of `", stringify!($ty), "`.")]
            ///
            /// # Panics
            /// When the range is empty.
            pub fn $ty(&mut self, range: impl RangeBounds<$ty>) -> $ty {
                let first = match range.start_bound() {
                    Bound::Included(first) => *first,
                    Bound::Excluded(before) => *before + 1,
                    Bound::Unbounded => $ty::MIN,
                };
                let last = match range.end_bound() {
                    Bound::Included(last) => *last,
                    Bound::Excluded(end) => {
                        assert!(*end > $ty::MIN, "a range to draw from is not empty");
                        *end - 1
                    }
                    Bound::Unbounded => $ty::MAX,
                };
                // No type of these is wider: what is drawn fits.
                self.within(first as u64, last as u64) as $ty
            }
        )*}
    };
}
numbers!(u8 u32 u64 usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_the_papers() {
        // The first numbers of seed 1234567, as other implementations have them.
        let mut random = Random::new(1_234_567);
        let first = [random.draw(), random.draw(), random.draw()];
        let known = [0x599e_d017_fb08_fc85, 0x2c73_f084_5854_0fa5, 0x883e_bce5_a3f2_7c77];
        assert_eq!(first, known);
    }

    #[test]
    fn a_draw_lies_in_its_range_and_reaches_both_ends() {
        let mut random = Random::new(1);
        let mut seen = [0u32; 6];
        for _ in 0..600 {
            seen[random.usize(1..=6) - 1] += 1;
        }
        assert!(seen.iter().all(|count| (60..140).contains(count)), "{seen:?}");
        assert!((0..99).all(|_| random.u8(250..) >= 250));
        assert!((0..99).all(|_| random.u64(..3) < 3));
        assert_eq!(random.u32(5..6), 5);
        assert!((0..99).any(|_| random.u64(..) > u64::MAX / 2));
    }

    #[test]
    fn a_choice_is_one_of_them_and_a_shuffle_keeps_all() {
        let mut random = Random::new(2);
        assert_eq!(random.choice([0u8; 0]), None);
        assert!((0..99).all(|_| random.choice([3, 5]).is_some_and(|it| it == 3 || it == 5)));
        let mut deck: [u8; 52] = core::array::from_fn(|at| at as u8);
        random.shuffle(&mut deck);
        assert_ne!(deck, core::array::from_fn(|at| at as u8));
        deck.sort_unstable();
        assert_eq!(deck, core::array::from_fn(|at| at as u8));
    }

    #[test]
    #[should_panic(expected = "not empty")]
    fn an_empty_range_has_no_number() {
        let empty = 4..4;
        Random::new(3).u32(empty);
    }
}
