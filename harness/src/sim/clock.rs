//! A node's own clock: it began at another moment than the others and runs at another rate.
//!
//! The engine sees nothing but this; the oracles judge by the world's time. A machine that was suspended is a
//! node that stood still, and whose clock did not: BOOTTIME passes meanwhile, and never goes back. A machine
//! that starts anew counts from another beginning, perhaps an earlier one.

use engine::time::Time;
use wire::random::Random;

/// The farthest beginning of a clock, in nanoseconds: an hour.
const BEGINNING_MAX: u64 = 3_600_000_000_000;
const MILLION: i128 = 1_000_000;

/// The clock of one node.
#[derive(Clone, Copy)]
pub struct Clock {
    /// The world's time at which it began.
    from: Time,
    /// What it showed then.
    at: Time,
    /// How much faster than the world it runs, in millionths; negative: slower.
    faster_millionths: i32,
}

impl Clock {
    /// The clocks of a cluster, off by up to so many millionths, and which node's is the slowest. In every other
    /// cluster that is one that is as slow as may be among those that are as fast as may be: there a margin shows
    /// to be too small.
    pub fn draw(chance: &mut Random, nodes: u32, off_max: i32) -> (Vec<Clock>, u32) {
        let (mut slowest, extreme) = (chance.u32(..nodes), chance.bool());
        let clocks = (0..nodes).map(|node| Clock {
            from: Time(0),
            at: Time(chance.u64(..BEGINNING_MAX)),
            faster_millionths: match extreme {
                true if node == slowest => -off_max,
                true => off_max,
                false => chance.u32(..=2 * off_max.unsigned_abs()) as i32 - off_max,
            },
        });
        let clocks: Vec<Clock> = clocks.collect();
        if let Some((_, node)) = clocks.iter().zip(0..).min_by_key(|(c, _)| c.faster_millionths) {
            slowest = node;
        }
        (clocks, slowest)
    }

    /// The machine starts: its clock begins anew, and keeps its rate.
    pub fn restart(&mut self, now: Time, chance: &mut Random) {
        (self.from, self.at) = (now, Time(chance.u64(..BEGINNING_MAX)));
    }

    /// What it shows at a moment of the world.
    pub fn read(&self, now: Time) -> Time {
        Time(self.at.0 + scale(now.0 - self.from.0, MILLION + self.rate(), MILLION))
    }

    /// The first moment of the world at which it shows `shown`.
    pub fn when(&self, shown: Time) -> Time {
        if shown == Time::MAX {
            return Time::MAX;
        }
        let passes = shown.0.saturating_sub(self.at.0);
        Time(self.from.0.saturating_add(scale(passes, MILLION, MILLION + self.rate())))
    }

    fn rate(&self) -> i128 {
        i128::from(self.faster_millionths)
    }
}

/// `nanos * by / of`, rounded up.
fn scale(nanos: u64, by: i128, of: i128) -> u64 {
    let scaled = (i128::from(nanos) * by + of - 1) / of;
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_shows_what_it_was_asked_for_when_it_said() {
        let mut chance = Random::new(1);
        for _ in 0..1_000 {
            let (clocks, slowest) = Clock::draw(&mut chance, 3, 50_000);
            let mut clock = clocks[slowest as usize];
            clock.restart(Time(chance.u64(..1_000_000_000)), &mut chance);
            let shown = Time(clock.at.0 + chance.u64(..10_000_000_000));
            let when = clock.when(shown);
            assert!(clock.read(when) >= shown);
            assert!(when == clock.from || clock.read(Time(when.0 - 1)) <= shown);
        }
    }

    #[test]
    fn a_fast_clock_gains_and_a_slow_one_loses() {
        let at = |faster_millionths| Clock { from: Time(0), at: Time(7), faster_millionths };
        assert_eq!(at(50_000).read(Time(1_000)), Time(1_057));
        assert_eq!(at(-50_000).read(Time(1_000)), Time(957));
    }
}
