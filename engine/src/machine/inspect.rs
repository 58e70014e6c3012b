//! What only the simulator and the tests ask of a machine, or look at.

use super::codec::{begin_row, end_row};
use super::ledger::Census;
use super::restore::Corrupt;
use super::snapshot::SECTIONS;
use super::{Machine, MachineConfig};
use alloc::vec::Vec;
use wire::bytes::Put;

/// Appends all rows of a table, sorted by their bytes.
type PutSorted = fn(&Machine, &mut Vec<u8>);

/// For each of [`SECTIONS`].
const SORTED: [PutSorted; SECTIONS.len()] = [
    |m, out| m.ledger.put_sorted(out),
    |m, out| m.locks.put_sorted(&m.ledger, out),
    |m, out| m.queues.put_sorted_queues(out),
    |m, out| m.queues.put_sorted_messages(&m.ledger, out),
    |m, out| m.cache.put_sorted(out),
    |m, out| m.mails.put_sorted(out),
];

impl Machine {
    /// Looks at every row, for whether the invariants hold. Slow: for tests and for the simulator.
    ///
    /// # Panics
    /// When one does not.
    pub fn verify(&self) {
        let mut census = Census::default();
        self.locks.verify(&self.ledger, &mut census);
        self.queues.verify(&self.ledger, &mut census);
        self.cache.verify(&mut census);
        self.mails.verify(self.ledger.level());
        self.ledger.verify(&census);
    }

    /// Appends the whole state to `out`, in one go, its rows sorted: equal states give equal bytes, wherever their rows
    /// lie. For comparisons; what is to be restored is made in slices.
    pub fn snapshot(&self, out: &mut Vec<u8>) {
        let start = out.len();
        self.put_head(out);
        SORTED.iter().for_each(|put_sorted| put_sorted(self, out));
        let sum = crc32c::crc32c(&out[start..]);
        out.put_u32(sum);
    }

    /// The machine that wrote these bytes.
    ///
    /// # Errors
    /// [`Corrupt`], which says what is wrong with the bytes.
    pub fn restore(config: MachineConfig, bytes: &[u8]) -> Result<Machine, Corrupt> {
        Machine::restore_from(config, config, bytes)
    }
}

/// A whole row, with its length.
pub(super) fn row(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut row = Vec::new();
    let at = begin_row(&mut row);
    write(&mut row);
    end_row(&mut row, at);
    row
}

/// Appends rows, sorted by their bytes.
pub(super) fn put_sorted(out: &mut Vec<u8>, rows: impl Iterator<Item = Vec<u8>>) {
    let mut rows: Vec<Vec<u8>> = rows.collect();
    rows.sort_unstable();
    rows.iter().for_each(|row| out.put(row));
}
