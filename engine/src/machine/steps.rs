//! What takes more than one entry: so that none does unbounded work.
//!
//! The end of a session gives back all that it has; a lock that becomes free may let thousands in; many things may be
//! due at once. An entry takes so many steps of that and no more
//! ([`STEPS_PER_ENTRY_MAX`](crate::limits::STEPS_PER_ENTRY_MAX), more for a tick); what is left is noted as unfinished in
//! the ledger (`ledger/unfinished.rs`), and the next entries go on with it. As long as something stands there,
//! [`Machine::next_deadline`] asks for a tick.
//!
//! It is never seen half done:
//!
//! - A session has ended, for everybody, with the entry that ends it: its calls are refused and its waits are over.
//!   What it still has is as good as given back: whoever asks for such a lock gets it (`locks/mod.rs`, `settle`).
//! - Who stands in line is served in that order, and whoever comes meanwhile stands behind.
//!
//! # Invariants
//!
//! - A timer that fires takes a few steps at once and notes the rest: whoever is due behind it is not kept waiting.
//! - Entries go on with the few things that stand under the lowest numbers, each with an equal share.

use super::ledger::{Timer, Unfinished};
use super::{Machine, Wake};
use crate::limits::{STEPS_PER_TIMER_MAX, UNFINISHED_AT_ONCE};
use crate::time::Elapsed;
use alloc::vec::Vec;

/// The entry that is being applied: its time, what it may still do, and who is to be told.
pub(super) struct Turn<'w> {
    pub(super) now: Elapsed,
    /// How many steps are left.
    pub(super) steps: u32,
    /// How many were taken.
    pub(super) taken: u32,
    pub(super) wakes: &'w mut Vec<Wake>,
}

impl Turn<'_> {
    /// Takes a step. There may be none left: what can't be cut short takes it all the same.
    pub(super) fn step(&mut self) {
        self.steps = self.steps.saturating_sub(1);
        self.taken = self.taken.saturating_add(1);
    }
}

impl Machine {
    /// Fires what is due and goes on with what is unfinished, each with half of so many steps, or all that the other
    /// leaves.
    #[inline]
    pub(super) fn go_on(&mut self, steps: u32, turn: &mut Turn<'_>) {
        if self.ledger.is_overdue(turn.now) || self.ledger.has_unfinished() {
            self.fire_and_finish(steps, turn);
        }
    }

    fn fire_and_finish(&mut self, steps: u32, turn: &mut Turn<'_>) {
        turn.steps = steps / 2;
        self.fire_due(turn);
        turn.steps += steps - steps / 2;
        self.go_on_unfinished(turn);
        self.fire_due(turn);
    }

    /// Fires the first timer that is due. False: none is.
    pub(super) fn fire_next(&mut self, turn: &mut Turn<'_>) -> bool {
        let Some(timer) = self.ledger.take_due(turn.now) else { return false };
        turn.step();
        match timer {
            Timer::SessionEnd(session) => self.expire_session(session, turn),
            Timer::SessionForget(session) => self.ledger.forget_session(session),
            Timer::Wait(waiter) => self.wait_ended(waiter, turn),
            Timer::LockLease(grant) => self.locks.lease_ended(&mut self.ledger, grant, turn),
            Timer::Visibility(message) | Timer::Delay(message) => {
                self.queues.message_due(&mut self.ledger, message, turn);
            }
            Timer::LineExpiry(line) => self.cache.line_due(&mut self.ledger, line),
        }
        true
    }

    fn fire_due(&mut self, turn: &mut Turn<'_>) {
        let mut fires = true;
        while turn.steps > 0 && fires {
            self.within(STEPS_PER_TIMER_MAX, turn, |machine, turn| fires = machine.fire_next(turn));
        }
    }

    /// Does something with so many steps at most, of those that are left. What it takes beyond them counts too.
    fn within(
        &mut self,
        share: u32,
        turn: &mut Turn<'_>,
        what: impl FnOnce(&mut Machine, &mut Turn<'_>),
    ) {
        let (had, taken) = (turn.steps, turn.taken);
        turn.steps = had.min(share);
        what(self, turn);
        turn.steps = had.saturating_sub(turn.taken - taken);
    }

    /// Goes on with what is unfinished, as far as the steps go.
    pub(super) fn go_on_unfinished(&mut self, turn: &mut Turn<'_>) {
        while turn.steps > 0 && self.ledger.has_unfinished() {
            let first = self.ledger.first_unfinished(UNFINISHED_AT_ONCE);
            let share = turn.steps.div_ceil(first.len() as u32);
            for (number, thing) in first {
                // Another one may have finished it.
                if !self.ledger.is_unfinished(number, thing) {
                    continue;
                }
                self.within(share, turn, |machine, turn| match thing {
                    Unfinished::Session(session) => machine.give_back(session, turn),
                    Unfinished::Next(resource) => machine.advance_one(resource, turn),
                });
            }
        }
    }
}
