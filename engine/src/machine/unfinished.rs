//! What takes more than one entry: so that none does unbounded work.
//!
//! The end of a session gives back all that it has; a lock that becomes free may let thousands in; many things may be
//! due at once. An entry takes so many steps of that and no more
//! ([`STEPS_PER_ENTRY_MAX`](crate::limits::STEPS_PER_ENTRY_MAX), more for a tick); what is left stands here, and the
//! next entries go on with it. As long as something stands here, [`Machine::next_deadline`] asks for a tick.
//!
//! It is never seen half done:
//!
//! - A session has ended, for everybody, with the entry that ends it: its calls are refused and its waits are over.
//!   What it still has is as good as given back: whoever asks for such a lock gets it ([`Machine::settle`]).
//! - Who stands in line is served in that order, and whoever comes meanwhile stands behind.
//!
//! # Invariants
//!
//! - What stands here follows from the rest of the state: an ended session that has something, a lock whose next waiter
//!   is admitted, a queue with something ready and somebody waiting. So no snapshot holds it.
//! - A timer that fires takes a few steps at once and leaves the rest here: whoever is due behind it is not kept waiting.
//! - A thing stands here under a number that is the same on every replica: a session under its own, a lock and a queue
//!   under the ticket of who is next. Entries go on with the lowest few, each with an equal share.

use super::{Machine, Turn};
use crate::limits::{STEPS_PER_TIMER_MAX, UNFINISHED_AT_ONCE};
use alloc::vec::Vec;

/// What takes more than one entry, by slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unfinished {
    /// A session that ended gives back what it has.
    Session(u32),
    /// A lock lets in who is next.
    Lock(u32),
    /// A queue serves who is next.
    Queue(u32),
}

impl Machine {
    /// Fires what is due and goes on with what is unfinished, each with half of so many steps, or all that the other
    /// leaves.
    #[inline]
    pub(super) fn go_on(&mut self, steps: u32, turn: &mut Turn<'_>) {
        if self.timers.is_overdue(turn.now) || !self.unfinished.is_empty() {
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
        while turn.steps > 0 && !self.unfinished.is_empty() {
            let first = self.unfinished.iter().take(UNFINISHED_AT_ONCE);
            let first: Vec<(u64, Unfinished)> = first.map(|(n, thing)| (*n, *thing)).collect();
            let share = turn.steps.div_ceil(first.len() as u32);
            for (number, thing) in first {
                // Another one may have finished it.
                if self.unfinished.get(&number) != Some(&thing) {
                    continue;
                }
                self.within(share, turn, |machine, turn| match thing {
                    Unfinished::Session(session) => machine.give_back(session, turn),
                    Unfinished::Lock(lock) => machine.advance_lock(lock, turn),
                    Unfinished::Queue(queue) => machine.advance_queue(queue, turn),
                });
            }
        }
    }

    /// Something stands here under `now` instead of under `before`; 0 = not at all. Says under what it does.
    pub(super) fn note_unfinished(&mut self, before: u64, now: u64, thing: Unfinished) -> u64 {
        if before != now {
            if before > 0 {
                let was = self.unfinished.remove(&before);
                assert!(was == Some(thing), "a thing stands under its own number");
            }
            if now > 0 {
                let was = self.unfinished.insert(now, thing);
                assert!(was.is_none(), "a number is one thing's");
            }
        }
        now
    }
}
