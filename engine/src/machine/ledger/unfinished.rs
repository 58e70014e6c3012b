//! What takes more than one entry, noted: who goes on with it is told in `machine/steps.rs`.
//!
//! # Invariants
//!
//! - What stands here follows from the rest of the state: an ended session that has something, a lock whose next waiter
//!   is admitted, a queue with something ready and somebody waiting. So no snapshot holds it.
//! - A thing stands here under a number that is the same on every replica: a session under its own, a lock and a queue
//!   under the ticket of who is next.

use super::{Ledger, Resource};
use alloc::vec::Vec;

/// What takes more than one entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::machine) enum Unfinished {
    /// A session that ended, by slot, gives back what it has.
    Session(u32),
    /// A lock lets in who is next, a queue serves who is next.
    Next(Resource),
}

impl Ledger {
    /// Whether something is unfinished.
    #[inline]
    pub(in crate::machine) fn has_unfinished(&self) -> bool {
        !self.unfinished.is_empty()
    }

    /// The first few things that are unfinished.
    pub(in crate::machine) fn first_unfinished(&self, count: usize) -> Vec<(u64, Unfinished)> {
        let first = self.unfinished.iter().take(count);
        first.map(|(number, thing)| (*number, *thing)).collect()
    }

    /// Whether `thing` still stands here under `number`.
    pub(in crate::machine) fn is_unfinished(&self, number: u64, thing: Unfinished) -> bool {
        self.unfinished.get(&number) == Some(&thing)
    }

    /// Something stands here under `now` instead of under `before`; 0 = not at all.
    pub(super) fn note_unfinished(&mut self, before: u64, now: u64, thing: Unfinished) {
        if before == now {
            return;
        }
        if before > 0 {
            let was = self.unfinished.remove(&before);
            assert!(was == Some(thing), "a thing stands under its own number");
        }
        if now > 0 {
            let was = self.unfinished.insert(now, thing);
            assert!(was.is_none(), "a number is one thing's");
        }
    }
}
