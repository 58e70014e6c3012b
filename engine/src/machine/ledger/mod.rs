//! What all services share: the clock, the counter, the timers, the sessions, and who waits.
//!
//! A service gets the ledger as an argument and changes it by the functions here alone. The ledger knows no service's
//! rows: it names them by slot.
//!
//! # Invariants
//!
//! - The clock is the highest time of an entry applied, and the counter the last number issued: neither goes back.
//! - A thing that has a deadline has one timer, a thing that a session has stands under its number with that session,
//!   and a call that waits stands in one waitlist.

mod codec;
mod sessions;
mod timers;
mod unfinished;
#[cfg(any(test, feature = "simulator"))]
mod inspect;
mod waiters;
mod window;

#[cfg(any(test, feature = "simulator"))]
pub(super) use self::inspect::Census;
pub(super) use self::sessions::{Owned, Recalled, gives_grants_back};
pub(super) use self::timers::Timer;
pub(super) use self::unfinished::Unfinished;
pub(super) use self::waiters::{Ask, Resource, Wait, Waitlist};
pub(super) use self::window::Remembered;

use self::sessions::Sessions;
use self::timers::Timers;
use self::waiters::Waiters;
use crate::level::Level;
use crate::machine::Outcome;
use crate::secret::Secret;
use crate::time::Elapsed;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use wire::{Code, Detail};

/// What all services share.
pub(super) struct Ledger {
    /// The highest time of an entry applied.
    clock: Elapsed,
    /// The last number issued as a fence, version, id, ticket or session number.
    issued: u64,
    level: Level,
    timers: Timers,
    sessions: Sessions,
    waiters: Waiters,
    /// What takes more than one entry, by number.
    unfinished: BTreeMap<u64, Unfinished>,
}

impl Ledger {
    pub(super) fn new(secret: Secret) -> Ledger {
        Ledger {
            clock: Elapsed::ZERO,
            issued: 0,
            level: Level::OLDEST,
            timers: Timers::default(),
            sessions: Sessions::new(secret),
            waiters: Waiters::new(),
            unfinished: BTreeMap::new(),
        }
    }

    /// The highest time of an entry applied.
    #[inline]
    pub(super) fn clock(&self) -> Elapsed {
        self.clock
    }

    /// Moves the clock to the time of an entry, which may be an earlier one; says what it is then.
    #[inline]
    pub(super) fn advance_clock(&mut self, time: Elapsed) -> Elapsed {
        self.clock = self.clock.max(time);
        self.clock
    }

    /// The group's feature level.
    #[inline]
    pub(super) fn level(&self) -> Level {
        self.level
    }

    /// A refusal that says how things stood, if the level knows that.
    pub(super) fn refused_for(&self, code: Code, detail: Detail<'static>) -> Outcome {
        let detail = (self.level >= Level::DETAIL).then(|| Box::new(detail));
        Outcome::Refused { code, detail }
    }

    /// Raises the feature level: what it changes of the sessions changes here.
    pub(super) fn raise_level(&mut self, level: Level) {
        let before = self.level;
        self.level = before.max(level);
        if before < Level::BOUNDED && self.level >= Level::BOUNDED {
            self.remember_by_time();
        }
    }

    /// The next number.
    #[inline]
    pub(super) fn issue(&mut self) -> u64 {
        self.issued = self.issued.checked_add(1).expect("2^64 numbers are never used up");
        self.issued
    }

    /// The last number that was issued.
    pub(super) fn issued(&self) -> u64 {
        self.issued
    }

    /// Goes on above `issued`, which is above all that was issued.
    pub(super) fn skip_to(&mut self, issued: u64) {
        assert!(issued >= self.issued, "no number is issued twice");
        self.issued = issued;
    }

    // ---- Timers ----

    /// Arms the timer of thing `number`. A deadline of [`Elapsed::MAX`] is never.
    #[inline]
    pub(super) fn arm(&mut self, deadline: Elapsed, number: u64, timer: Timer) {
        self.timers.arm(deadline, number, timer);
    }

    /// Disarms the timer of thing `number`, which is no session, if it has not fired.
    #[inline]
    pub(super) fn disarm(&mut self, deadline: Elapsed, number: u64) {
        self.timers.disarm(deadline, number);
    }

    /// Takes the first timer that is due at `now`.
    pub(super) fn take_due(&mut self, now: Elapsed) -> Option<Timer> {
        self.timers.take_due(now)
    }

    /// Whether something due at `now` has not fired.
    #[inline]
    pub(super) fn is_overdue(&self, now: Elapsed) -> bool {
        self.timers.is_overdue(now)
    }

    /// When something is due by itself: now, if something is unfinished.
    #[inline]
    pub(super) fn next_deadline(&self) -> Option<Elapsed> {
        let unfinished = (!self.unfinished.is_empty()).then_some(self.clock);
        self.timers.next_deadline().into_iter().chain(unfinished).min()
    }
}
