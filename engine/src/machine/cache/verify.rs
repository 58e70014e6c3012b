//! The cache's invariants, as a check of all of it.

use super::Cache;
use crate::machine::ledger::Census;
use crate::machine::table::Row;
use crate::time::Elapsed;

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
}
