//! How surely a twin is dead, on a scale and not as a verdict.
//!
//! The phi accrual failure detector (Hayashibara, Défago, Yared and Katayama, 2004): phi is the negative decimal
//! logarithm of the chance that a twin which lives is silent for as long as this one is. At 1 one guess in ten is
//! wrong, at 8 one in 10^8.
//!
//! Instead of a window of intervals their mean and variance are kept, each new one with a weight of one in
//! [`MEMORY`]. The normal distribution's tail is approximated by a logistic one, as in Akka's detector: at most
//! 0.00014 off.

use crate::time::{Duration, Time};

/// The weight of an interval: one in so many.
const MEMORY: f64 = 64.0;
/// Intervals are taken to vary by at least so much: a busy machine is not a dead one. In nanoseconds.
const DEVIATION_MIN: f64 = 50e6;
/// Longer intervals than so many deviations are taken for that.
const UNUSUAL: f64 = 4.0;
/// What is expected before anything was heard.
const INTERVAL_FIRST: Duration = Duration::from_millis(100);
/// No suspicion is higher.
const PHI_MAX: f64 = 99.0;

/// How surely one twin is dead.
pub(super) struct Suspicion {
    heard_at: Option<Time>,
    /// Of the intervals, in nanoseconds.
    mean: f64,
    variance: f64,
}

impl Default for Suspicion {
    fn default() -> Suspicion {
        let mean = INTERVAL_FIRST.as_nanos() as f64;
        Suspicion { heard_at: None, mean, variance: DEVIATION_MIN * DEVIATION_MIN }
    }
}

impl Suspicion {
    /// From now on it should be heard: how long it was gone says nothing of its intervals.
    pub fn begin(&mut self, now: Time) {
        self.heard_at = Some(now);
    }

    /// It was heard.
    pub fn heard(&mut self, now: Time) {
        let Some(before) = self.heard_at.replace(now) else { return };
        // A silence that says that something is wrong says little of what is usual.
        let most = UNUSUAL * self.deviation();
        let off = (now.since(before).as_nanos() as f64 - self.mean).min(most);
        self.mean += off / MEMORY;
        self.variance += (off * off - self.variance) / MEMORY;
    }

    /// How surely it is dead: 0 just after it was heard.
    pub fn phi(&self, now: Time) -> f64 {
        let Some(heard_at) = self.heard_at else { return 0.0 };
        let y = (now.since(heard_at).as_nanos() as f64 - self.mean) / self.deviation();
        let x = y * (1.5976 + 0.070_566 * y * y);
        // -log10(1 / (1 + e^x)), without e^x running over.
        let phi = (x.max(0.0) + libm::log1p(libm::exp(-x.abs()))) / core::f64::consts::LN_10;
        phi.min(PHI_MAX)
    }
}

impl Suspicion {
    fn deviation(&self) -> f64 {
        libm::sqrt(self.variance).max(DEVIATION_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard_every(millis: u64) -> (Suspicion, Time) {
        let (mut suspicion, mut now) = (Suspicion::default(), Time(1));
        suspicion.begin(now);
        for _ in 0..500 {
            now = now + Duration::from_millis(millis);
            suspicion.heard(now);
        }
        (suspicion, now)
    }

    #[test]
    fn suspicion_rises_with_silence_and_is_gone_with_the_next_word() {
        let (mut suspicion, now) = heard_every(100);
        let after = |ms| suspicion.phi(now + Duration::from_millis(ms));
        assert!(after(0) < 0.1 && after(100) < 0.5 && after(200) < 2.0);
        assert!((300..400).any(|ms| (7.9..8.1).contains(&after(ms))), "{}", after(350));
        assert!(after(5_000) == PHI_MAX);
        let later = now + Duration::from_secs(5);
        suspicion.heard(later);
        assert!(suspicion.phi(later) < 0.5);
    }

    #[test]
    fn whoever_is_heard_rarely_is_suspected_late() {
        let (often, rarely) = (heard_every(100), heard_every(400));
        let phi =
            |(suspicion, now): &(Suspicion, Time)| suspicion.phi(*now + Duration::from_millis(450));
        assert!(phi(&often) > 8.0 && phi(&rarely) < 2.0);
    }

    #[test]
    fn phi_is_the_tail_of_a_normal_distribution() {
        // One deviation past the mean: 0.1587 of all intervals are longer.
        let (suspicion, now) = heard_every(100);
        let phi = suspicion.phi(now + Duration::from_millis(150));
        assert!((phi - 0.799).abs() < 0.01, "{phi}");
    }
}
