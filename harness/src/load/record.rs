//! What a load measured: latencies by step, errors by code, the longest silence.

use crate::scenario::Step;
use hdrhistogram::Histogram;
use std::collections::BTreeMap;

/// The longest latency that is told apart, in nanoseconds.
const LATENCY_NS_MAX: u64 = 120_000_000_000;
/// Significant figures of a latency.
const FIGURES: u8 = 3;

/// The figures of one load.
#[derive(Clone, Debug)]
pub struct Record {
    steps: Vec<Histogram<u64>>,
    /// Refusals and losses that no retry made good, by what they were.
    pub errors: BTreeMap<String, u64>,
    /// Requests that were sent again and then answered well.
    pub retries: u64,
    /// Arrivals of an open loop that found no free slot before the end.
    pub unserved: u64,
    /// The longest time without a single success while measuring, in nanoseconds.
    pub silence_ns_max: u64,
    /// How long was measured, in nanoseconds.
    pub measured_ns: u64,
    success_last_ns: u64,
}

impl Default for Record {
    fn default() -> Record {
        Record {
            steps: Step::ALL.iter().map(|_| histogram()).collect(),
            errors: BTreeMap::new(),
            retries: 0,
            unserved: 0,
            silence_ns_max: 0,
            measured_ns: 0,
            success_last_ns: 0,
        }
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, FIGURES).expect("the bounds are in order")
}

impl Record {
    /// Measuring begins.
    pub fn begin(&mut self, now_ns: u64) {
        self.success_last_ns = now_ns;
    }

    /// A request that was begun at `begun_ns` was answered well at `now_ns`.
    pub fn success(&mut self, step: Step, begun_ns: u64, now_ns: u64) {
        let latency = now_ns.saturating_sub(begun_ns).max(1);
        self.steps[step as usize].saturating_record(latency);
        self.silence_until(now_ns);
        self.success_last_ns = now_ns;
    }

    /// Nothing succeeded since the last success until `now_ns`.
    pub fn silence_until(&mut self, now_ns: u64) {
        let silence = now_ns.saturating_sub(self.success_last_ns);
        self.silence_ns_max = self.silence_ns_max.max(silence);
    }

    /// Something went wrong for good.
    pub fn error(&mut self, what: &str) {
        if let Some(count) = self.errors.get_mut(what) {
            *count += 1;
        } else {
            self.errors.insert(what.to_string(), 1);
        }
    }

    /// All errors together.
    pub fn errors_total(&self) -> u64 {
        self.errors.values().sum()
    }

    /// The latencies of one step.
    pub fn step(&self, step: Step) -> &Histogram<u64> {
        &self.steps[step as usize]
    }

    /// The latencies of all steps together.
    pub fn all(&self) -> Histogram<u64> {
        let mut all = histogram();
        for step in &self.steps {
            all.add(step).expect("all have the same bounds");
        }
        all
    }

    /// Successes a second.
    pub fn ops_per_s(&self) -> f64 {
        let ops: u64 = self.steps.iter().map(Histogram::len).sum();
        if self.measured_ns == 0 { 0.0 } else { ops as f64 * 1e9 / self.measured_ns as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_add_up_and_the_longest_silence_is_kept() {
        let mut record = Record::default();
        record.begin(1_000);
        record.success(Step::Put, 1_000, 3_000);
        record.success(Step::Get, 2_000, 10_000);
        record.success(Step::Get, 9_000, 11_000);
        record.silence_until(12_000);
        record.measured_ns = 1_000_000_000;
        assert_eq!(record.all().len(), 3);
        assert_eq!(record.step(Step::Get).len(), 2);
        assert_eq!(record.silence_ns_max, 7_000);
        assert!((record.ops_per_s() - 3.0).abs() < 1e-9);
    }

    #[test]
    fn errors_are_counted_by_what_they_were() {
        let mut record = Record::default();
        record.error("busy");
        record.error("busy");
        record.error("lost");
        assert_eq!(record.errors_total(), 3);
        assert_eq!(record.errors["busy"], 2);
    }
}
