//! The lines' rows in a snapshot.
//!
//! ```text
//! line:  version u64 | deadline u64 | key | value
//! ```

use super::{Cache, Line};
use crate::machine::codec::{RowReader, kept, put_bytes, put_owed};
use crate::machine::ledger::Ledger;
use crate::machine::restore::{Corrupt, Part, shed_bytes};
use crate::machine::snapshot::{Slice, SliceProgress, walk};
use crate::machine::table::Row;
use alloc::vec::Vec;
use wire::bytes::Put;

impl Cache {
    pub(in crate::machine) fn begin_walk(&mut self) {
        self.lines.begin_walk();
    }

    pub(in crate::machine) fn walk(
        &mut self,
        slice: &mut Slice,
        out: &mut Vec<u8>,
    ) -> SliceProgress {
        walk(&mut self.lines, slice, out, |table, owed, out| {
            put_owed(out, owed, |out| put_line(out, &table[owed.slot]));
        })
    }

    /// A line is about to change.
    #[inline]
    pub(super) fn keep_line(&mut self, slot: u32) {
        if self.lines.owes(slot) {
            let bytes = kept(|out| put_line(out, &self.lines[slot]));
            self.lines.keep(slot, bytes);
        }
    }

    pub(in crate::machine) fn read(&mut self, from: &mut RowReader<'_>) -> Result<Part, Corrupt> {
        let (version, deadline) = (from.u64()?, from.time()?);
        let (key, value) = (from.bytes()?, from.bytes()?);
        let slot = self.lines.insert(Line::new(key, value, version, deadline));
        self.read.insert(version, slot);
        Ok(Part::Last)
    }

    /// Puts the first of the lines that were read in the order of eviction.
    pub(in crate::machine) fn order(&mut self, ledger: &mut Ledger) -> SliceProgress {
        let Some((_, slot)) = self.read.pop_first() else { return SliceProgress::Done };
        self.link_line(ledger, slot);
        SliceProgress::More
    }

    /// Frees some of the lines. True: none is left.
    pub(in crate::machine) fn shed(&mut self, slice: &mut Slice) -> bool {
        self.lines.shed(slice, |row, slice| shed_bytes(row.cost(), slice))
    }
}

pub(super) fn put_line(out: &mut Vec<u8>, line: &Line) {
    out.put_u64(line.version);
    out.put_u64(line.deadline.0);
    put_bytes(out, line.key());
    put_bytes(out, line.value());
}
