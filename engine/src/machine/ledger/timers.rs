//! What is to happen by itself, ordered by when.
//!
//! Every timer belongs to one thing, which remembers its deadline and has a number from the
//! machine's counter. (deadline, number) orders the timers and finds them again for removal. No
//! thing has two timers at a time, and none is in a snapshot: a restore arms them from the
//! things. Sessions have an order of their own: there are many of them and they seldom move, while the
//! others' timers come and go with the calls, in an order that stays short.

use crate::machine::snapshot::Slice;
use crate::time::Elapsed;
use alloc::collections::BTreeMap;

/// What is to happen, and the slot of what it happens to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::machine) enum Timer {
    /// A session ends.
    SessionEnd(u32),
    /// A session that ended is forgotten.
    SessionForget(u32),
    /// A grant of a lock ends.
    LockLease(u32),
    /// The wait for a lock or a message ends.
    Wait(u32),
    /// A message in flight becomes ready again.
    Visibility(u32),
    /// A delayed message becomes ready.
    Delay(u32),
    /// A cache line ends.
    LineExpiry(u32),
}

/// Every timer.
pub(super) struct Timers {
    pub(super) sessions: BTreeMap<(Elapsed, u64), u32>,
    pub(super) others: BTreeMap<(Elapsed, u64), Timer>,
    /// The earliest deadline of all: each entry asks for it, some more than once.
    earliest: Elapsed,
}

impl Default for Timers {
    fn default() -> Timers {
        Timers { sessions: BTreeMap::new(), others: BTreeMap::new(), earliest: Elapsed::MAX }
    }
}

impl Timers {
    /// Arms the timer of thing `number`. A deadline of [`Elapsed::MAX`] is never.
    pub(super) fn arm(&mut self, deadline: Elapsed, number: u64, timer: Timer) {
        if deadline == Elapsed::MAX {
            return;
        }
        let before = match timer {
            Timer::SessionEnd(slot) => self.sessions.insert((deadline, number), slot).is_some(),
            _ => self.others.insert((deadline, number), timer).is_some(),
        };
        assert!(!before, "a thing has one timer");
        self.earliest = self.earliest.min(deadline);
    }

    /// Disarms the timer of thing `number`, if it has not fired.
    pub(super) fn disarm(&mut self, deadline: Elapsed, number: u64) {
        if deadline != Elapsed::MAX {
            self.others.remove(&(deadline, number));
            self.on_gone(deadline);
        }
    }

    /// Disarms the timer of session `number`, which lives, if it has not fired.
    pub(super) fn disarm_session(&mut self, deadline: Elapsed, number: u64) {
        self.sessions.remove(&(deadline, number));
        self.on_gone(deadline);
    }

    /// A timer with this deadline is gone.
    fn on_gone(&mut self, deadline: Elapsed) {
        if deadline == self.earliest {
            let session = self.sessions.first_key_value().map(|(key, _)| key.0);
            let other = self.others.first_key_value().map(|(key, _)| key.0);
            self.earliest = session.into_iter().chain(other).min().unwrap_or(Elapsed::MAX);
        }
    }

    /// Takes the first timer that is due at `now`.
    pub(super) fn take_due(&mut self, now: Elapsed) -> Option<Timer> {
        if !self.is_overdue(now) {
            return None;
        }
        let session = self.sessions.first_key_value().map(|(key, _)| *key);
        let other = self.others.first_key_value().map(|(key, _)| *key);
        let first = session.into_iter().chain(other).min()?;
        let taken = if session == Some(first) {
            self.sessions.pop_first().map(|(_, slot)| Timer::SessionEnd(slot))
        } else {
            self.others.pop_first().map(|(_, timer)| timer)
        };
        self.on_gone(first.0);
        taken
    }

    /// Frees some of them. True: none is left.
    pub(super) fn shed(&mut self, slice: &mut Slice) -> bool {
        while self.take_due(Elapsed::MAX).is_some() {
            if !slice.spend(1, 0) {
                return false;
            }
        }
        true
    }

    /// The earliest deadline.
    #[inline]
    pub(super) fn next_deadline(&self) -> Option<Elapsed> {
        (self.earliest != Elapsed::MAX).then_some(self.earliest)
    }

    /// Whether something due at `now` has not fired.
    #[inline]
    pub(super) fn is_overdue(&self, now: Elapsed) -> bool {
        self.earliest <= now
    }
}
