//! Looking ahead: brings the lines that a turn is about to read and write into the CPU's cache.
//!
//! The way to a line has five steps, each of which knows where the next one leads: its bucket, its
//! place there, its row, its bytes, and its neighbours in the order of eviction. With a hundred
//! thousand lines each is a wait for memory, and half of a node's time at depth was spent on them.
//! So a group of keys goes through one step together before any goes to the next: a core waits for some
//! tens of loads as long as for one. Nothing is changed.

use super::Machine;
use super::cache::Line;
use super::table::{Probe, Table};
use core::hint::black_box;

/// Keys that go together, at most: about as many loads as a core keeps under way.
pub const WARM_MAX: usize = 32;

impl Machine {
    /// Looks at the first [`WARM_MAX`] of some lines.
    pub fn warm<'k>(&self, keys: impl Iterator<Item = &'k [u8]>) {
        let mut probes = [Probe::NONE; WARM_MAX];
        let mut count = 0;
        for (probe, key) in probes.iter_mut().zip(keys) {
            *probe = self.lines.probe(key);
            count += 1;
        }
        // A few are not worth it: what is asked for next waits as long.
        if count > 2 {
            look(&self.lines, &probes[..count]);
        }
    }
}

fn look(lines: &Table<Line>, probes: &[Probe]) {
    black_box(probes.iter().map(|probe| lines.touch_bucket(probe)).sum::<usize>());
    black_box(probes.iter().map(|probe| lines.touch_place(probe)).sum::<usize>());
    let mut slots = [None; WARM_MAX];
    for (slot, probe) in slots.iter_mut().zip(probes) {
        *slot = lines.guess(probe);
    }
    let slots = slots.iter().flatten();
    black_box(slots.clone().map(|slot| lines[*slot].version & 1).sum::<u64>());
    black_box(slots.map(|slot| lines[*slot].touch(lines)).sum::<u64>());
}
