//! What only the simulator and the tests look at: the cache's invariants, and its rows in one order.

use super::Cache;
use super::codec::put_line;
use crate::machine::inspect::{put_sorted, row};
use crate::machine::ledger::Census;
use crate::machine::table::Row;
use crate::time::Elapsed;
use alloc::vec::Vec;

impl Cache {
    /// Looks at every line.
    ///
    /// # Panics
    /// When an invariant does not hold.
    pub(in crate::machine) fn verify(&self, census: &mut Census) {
        let mut bytes = 0;
        for (slot, line) in self.lines.iter() {
            bytes += line.cost();
            census.timers += usize::from(line.deadline != Elapsed::MAX);
            assert_eq!(self.lines.find(line.key()), Some(slot));
        }
        assert_eq!(bytes, self.bytes, "lines' bytes are counted");
        assert!(bytes <= self.bytes_max, "the budget is kept");
        assert!(self.read.is_empty(), "a line that was read is in order");
        assert_eq!(self.lines.len(), self.by_version.len());
        let versions = self.by_version.iter(&self.lines);
        assert!(versions.is_sorted_by_key(|slot| self.lines[slot].version));
    }

    /// Appends every line, sorted by its bytes.
    pub(in crate::machine) fn put_sorted(&self, out: &mut Vec<u8>) {
        put_sorted(out, self.lines.iter().map(|(_, line)| row(|out| put_line(out, line))));
    }
}
