//! How another node's clock goes, seen from here.
//!
//! A pulse that answers one of ours says what the other clock read at some moment of its round trip: its lead over
//! ours is known to half of that. Of every [`WINDOW`] the sample with the shortest round trip is kept; two of
//! them in a row give the rate, with an error that is certain, not likely: what is called drift is drift. The
//! other says how long it held our stamp by its own clock: an eighth of that is counted as error, which covers rates
//! of up to an eighth.

use crate::time::{Duration, Time};

/// Of so long the best sample is kept.
const WINDOW: Duration = Duration::from_secs(2);
/// How wrong the other may count, one part in so many.
const HELD_ERROR_DIVISOR: u64 = 8;

/// The rate of one clock.
#[derive(Default)]
pub(super) struct Drift {
    /// Since when samples are taken into this window.
    began: Option<Time>,
    /// The best one of this window, and of the one before.
    best: Option<Sample>,
    base: Option<Sample>,
    rate: Option<Rate>,
}

/// The other clock at some moment of ours.
#[derive(Clone, Copy)]
struct Sample {
    at: Time,
    /// How far it was ahead of ours, and how wrong that may be, in nanoseconds.
    lead: i128,
    error: u64,
}

/// In millionths of our clock's.
#[derive(Clone, Copy)]
struct Rate {
    ppm: i64,
    error: u64,
}

impl Drift {
    /// The other clock read `theirs` at some moment of the last `round_trip` nanoseconds, which are those since we asked
    /// without the `held` ones that the other counted.
    pub fn sample(&mut self, now: Time, theirs: u64, round_trip: u64, held: u64) {
        let error = (round_trip / 2).saturating_add(held / HELD_ERROR_DIVISOR).saturating_add(1);
        let lead = i128::from(theirs) - i128::from(now.0 - round_trip / 2);
        let sample = Sample { at: now, lead, error };
        if self.best.is_none_or(|best| error < best.error) {
            self.best = Some(sample);
        }
        let began = *self.began.get_or_insert(now);
        if now.since(began) < WINDOW {
            return;
        }
        self.rate = match (self.base, self.best) {
            (Some(base), Some(best)) => Rate::between(base, best).or(self.rate),
            _ => self.rate,
        };
        (self.base, self.best, self.began) = (self.best, None, Some(now));
    }

    /// By how much it is faster than ours, in millionths, if it is certain that it differs by more than `most`.
    pub fn exceeds(&self, most: u64) -> Option<i64> {
        let rate = self.rate?;
        (rate.ppm.unsigned_abs() > most.saturating_add(rate.error)).then_some(rate.ppm)
    }

    /// By how much it is faster than ours, in millionths, as far as that is known.
    pub fn ppm(&self) -> Option<i64> {
        self.rate.map(|rate| rate.ppm)
    }
}

impl Rate {
    fn between(base: Sample, best: Sample) -> Option<Rate> {
        let span =
            u64::try_from(best.at.since(base.at).as_nanos()).ok().filter(|span| *span > 0)?;
        let ppm = (best.lead - base.lead) * 1_000_000 / i128::from(span);
        let error =
            u128::from(base.error.saturating_add(best.error)) * 1_000_000 / u128::from(span);
        let ppm = i64::try_from(ppm).unwrap_or(if ppm < 0 { i64::MIN } else { i64::MAX });
        Some(Rate { ppm, error: u64::try_from(error).unwrap_or(u64::MAX) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten seconds of pulses whose way back takes `late` and there `early`, in milliseconds, past a clock that runs
    /// `ppm` fast.
    fn watched(ppm: i128, ways: impl Fn(u64) -> (u64, u64)) -> Drift {
        let mut drift = Drift::default();
        for pulse in 0..100 {
            let (there, back) = ways(pulse);
            let asked = 5_000_000_000 + pulse * 100_000_000;
            let (read, now) = (asked + there * 1_000_000, asked + (there + back) * 1_000_000);
            let theirs = i128::from(read) + i128::from(read) * ppm / 1_000_000 + 77_000_000_000;
            drift.sample(Time(now), u64::try_from(theirs).unwrap(), now - asked, 0);
        }
        drift
    }

    #[test]
    fn a_clock_that_drifts_past_the_bound_is_seen_and_one_within_is_not() {
        for (ppm, seen) in
            [(0, false), (40_000, false), (-40_000, false), (70_000, true), (-90_000, true)]
        {
            let drift = watched(ppm, |pulse| (1 + pulse % 3, 1 + pulse % 7));
            assert_eq!(drift.exceeds(50_000).is_some(), seen, "{ppm}");
            assert!((i128::from(drift.ppm().unwrap()) - ppm).abs() < 2_500, "{ppm}");
        }
    }

    #[test]
    fn a_clock_that_holds_stamps_by_its_own_count_is_seen_whichever_way_it_is_wrong() {
        // The way takes 0.1 ms, and stamps are held for up to 100 ms.
        for (percent, seen) in [(80, true), (120, true), (100, false), (107, false), (94, false)] {
            let mut drift = Drift::default();
            for pulse in 1..=60_u64 {
                // By the true clock, which is ours.
                let (sent, held) = (pulse * 100_000_000, (pulse * 37 % 100) * 1_000_000);
                let (read, now) = (sent + 50_000 + held, sent + 100_000 + held);
                let theirs = 9_000_000_000 + read * percent / 100;
                let round_trip = (now - sent).saturating_sub(held * percent / 100);
                drift.sample(Time(now), theirs, round_trip, held * percent / 100);
            }
            assert_eq!(drift.exceeds(100_000).is_some(), seen, "{percent}: {:?}", drift.ppm());
        }
    }

    #[test]
    fn a_way_that_becomes_slower_is_not_taken_for_drift() {
        for ways in
            [|pulse| (1, 1 + 5 * pulse), |pulse| (1 + 5 * pulse, 1), |pulse| (500 - 5 * pulse, 1)]
        {
            assert_eq!(watched(0, ways).exceeds(0), None);
        }
    }

    #[test]
    fn a_clock_that_jumps_is_seen() {
        let mut drift = watched(0, |_| (1, 1));
        for pulse in 0..50 {
            let now = 16_000_000_000 + pulse * 100_000_000;
            drift.sample(Time(now), now + 78_000_000_000, 2_000_000, 0);
            if drift.exceeds(50_000).is_some() {
                return;
            }
        }
        panic!("a second more within a few was not seen");
    }
}
