//! When each call's timer rings.
//!
//! # How it works
//! A place of the table of calls has at most one moment here that counts. A call whose timer is later than that
//! costs nothing: when the moment comes, its call's timer is looked at, and the place is entered anew if that is
//! later, or if it is another call's by then. So the steady state, in which calls are answered long before their
//! deadlines, enters each place once a deadline and not once a call.
//!
//! # Invariants
//! - A place is looked at no later than the timer of the call that has it.

use super::time::Moment;
use alloc::collections::BinaryHeap;
use alloc::vec::Vec;
use core::cmp::Reverse;

#[derive(Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Moment, u32)>>,
    /// By place: the moment that counts. An earlier entry of the heap that is not it is void.
    rings: Vec<Moment>,
}

impl Timers {
    /// The timer of the call at a place rings at `at`.
    #[inline]
    pub fn set(&mut self, index: u32, at: Moment) {
        let place = index as usize;
        if self.rings.len() <= place {
            self.rings.resize(place + 1, Moment::MAX);
        }
        if at < self.rings[place] {
            self.rings[place] = at;
            self.heap.push(Reverse((at, index)));
        }
    }

    /// A place to look at now.
    pub fn pop(&mut self, now: Moment) -> Option<u32> {
        while let Some(Reverse((at, index))) = self.heap.peek().copied() {
            if at > now {
                return None;
            }
            self.heap.pop();
            let ring = &mut self.rings[index as usize];
            if *ring == at {
                *ring = Moment::MAX;
                return Some(index);
            }
        }
        None
    }

    /// When a place is to be looked at next.
    pub fn next(&self) -> Moment {
        self.heap.peek().map_or(Moment::MAX, |Reverse((at, _))| *at)
    }

    /// How many entries there are, void ones too.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.heap.len()
    }
}
