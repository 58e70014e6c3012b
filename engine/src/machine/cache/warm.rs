//! Looking ahead: brings the lines that a turn is about to read and write into the CPU's cache.
//!
//! The way to a line has five steps, each of which knows where the next one leads: its bucket, its
//! place there, its row, its bytes, and its neighbours in the order of eviction. With a hundred
//! thousand lines each is a wait for memory, and half of a node's time at depth was spent on them.
//! So a group of keys goes through one step together before any goes to the next: a core waits for some
//! tens of loads as long as for one. Nothing is changed.

use super::{Cache, Line};
use crate::machine::table::{Probe, Table};
use alloc::vec::Vec;
use core::hint::black_box;

/// Keys that go together, at most: about as many loads as a core keeps under way.
pub const WARM_MAX: usize = 32;

/// Where keys that were looked at are found, in their order: so that none is hashed twice.
#[derive(Default)]
pub struct Warm(Vec<Probe>);

impl Warm {
    /// Where the key number `nth` is found, if it was looked at.
    #[inline]
    pub(crate) fn probe(&self, nth: usize) -> Option<Probe> {
        self.0.get(nth).copied()
    }
}

impl Cache {
    /// Looks at the first [`WARM_MAX`] of some lines. Says in `warm` where their keys are found.
    pub(in crate::machine) fn warm<'k>(
        &self,
        keys: impl Iterator<Item = &'k [u8]>,
        warm: &mut Warm,
    ) {
        warm.0.clear();
        warm.0.extend(keys.take(WARM_MAX).map(|key| self.lines.probe(key)));
        // A few are not worth it: what is asked for next waits as long.
        if warm.0.len() > 2 {
            look(&self.lines, &warm.0);
        }
    }
}

fn look(lines: &Table<Line>, probes: &[Probe]) {
    black_box(probes.iter().map(|probe| lines.touch_bucket(probe)).sum::<usize>());
    black_box(probes.iter().map(|probe| lines.touch_entry(probe)).sum::<usize>());
    let mut slots = [None; WARM_MAX];
    for (slot, probe) in slots.iter_mut().zip(probes) {
        *slot = lines.guess(probe);
    }
    let slots = slots.iter().flatten();
    black_box(slots.clone().map(|slot| lines[*slot].version & 1).sum::<u64>());
    black_box(slots.map(|slot| lines[*slot].touch(lines)).sum::<u64>());
}
