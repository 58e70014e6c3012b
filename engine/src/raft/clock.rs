//! A group's replicated clock, as one replica keeps it between entries.
//!
//! The clock is elapsed time, never the wall. A replica continues from the highest time that it has
//! heard in an entry by its own monotonic clock; so a new leader's clock neither jumps back nor
//! stands still because nothing was written for an hour.
//!
//! Every entry that a leader makes carries what its clock shows, the one that opens its term included: whoever follows
//! goes by the newest entry, so an entry of an earlier time would set all clocks of the group back.

use crate::time::{Elapsed, Time};

/// The clock of one group on one replica.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// The highest time heard.
    base: Elapsed,
    /// When it was heard, by this node's own clock.
    at: Time,
}

impl Clock {
    /// A clock that stands at `base` at the moment `now`.
    pub fn new(base: Elapsed, now: Time) -> Clock {
        Clock { base, at: now }
    }

    /// What the clock shows.
    pub fn read(&self, now: Time) -> Elapsed {
        self.base + now.since(self.at)
    }

    /// An entry said `elapsed`: the clock never stands behind it. (A planted bug goes by it.)
    pub fn hear(&mut self, now: Time, elapsed: Elapsed) {
        if elapsed > self.read(now) {
            *self = Clock::new(elapsed, now);
        }
    }

    /// A leader's entry said `elapsed`: whoever follows goes by it, even where that is behind its own. So
    /// no replica that has an entry runs ahead of whoever proposed it:
    ///
    /// 1. Node 1 leads, then is cut off. Node 2 restarts, its clock stands a second behind, and it leads.
    /// 2. Node 2 vouches for a session for a time to live by its clock.
    /// 3. Node 1 leads again. By a clock of its own it would end that session a second early.
    pub fn follow(&mut self, now: Time, elapsed: Elapsed) {
        *self = Clock::new(elapsed, now);
    }

    /// The moment of this node's clock at which this one will show `elapsed`.
    pub fn moment(&self, elapsed: Elapsed) -> Time {
        self.at + elapsed.since(self.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Duration;

    #[test]
    fn a_clock_goes_on_from_what_it_heard_and_never_back() {
        let mut clock = Clock::new(Elapsed(100), Time(1_000));
        assert_eq!(clock.read(Time(1_050)), Elapsed(150));
        clock.hear(Time(1_050), Elapsed(120));
        assert_eq!(clock.read(Time(1_050)), Elapsed(150));
        clock.hear(Time(1_050), Elapsed(500));
        assert_eq!(clock.read(Time(1_060)), Elapsed(510));
        assert_eq!(clock.moment(Elapsed(600)), Time(1_150));
        assert_eq!(clock.moment(Elapsed(600)).since(Time(1_050)), Duration::from_nanos(100));
        clock.follow(Time(2_000), Elapsed(520));
        assert_eq!(clock.read(Time(2_010)), Elapsed(530));
    }
}
