//! A table as it was at one moment, handed out row by row while it changes.
//!
//! A walk owes every row that was there when it began, exactly as it was then. A row that is about to
//! change while it is owed is kept first, as the bytes that a snapshot holds of it; one that came later
//! is not owed. So a write pays for its own row and for no other, and no row twice.
//!
//! # Invariants
//!
//! - Rows come by slot, one at a time: no step of a walk depends on how many rows there are, or on how their
//!   keys were chosen.
//! - A slot ahead of the walk has its bit set as soon as its row is kept, or came later.
//! - What is kept was not handed out yet: it is never more than the snapshot itself.

use super::slab::Slab;
use super::snapshot::Slice;
use crate::mutant::{self, Mutant};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// Words of a page of bits: 4 KiB.
const PAGE_WORDS: usize = 512;
const PAGE_SLOTS: usize = 64 * PAGE_WORDS;
/// Slots without a row that is owed, looked at in one step.
const SKIPPED_MAX: usize = 64;
type Page = [u64; PAGE_WORDS];

/// What a walk still has to hand out.
pub(super) struct Walk {
    /// How many slots there were.
    slots: usize,
    /// The next slot.
    at: usize,
    /// A bit for each slot, by page: none as long as no bit of a page is set, so that a walk over
    /// millions of rows begins at once.
    settled: Vec<Option<Box<Page>>>,
    /// Rows as they were, by slot.
    kept: BTreeMap<u32, Box<[u8]>>,
    /// The row that was handed out last, as long as only some of it was written.
    pub(super) open: Option<u32>,
}

/// A row that a walk hands out.
pub(super) struct Owed {
    pub(super) slot: u32,
    /// Its bytes; none if it is still as it was.
    pub(super) kept: Option<Box<[u8]>>,
}

/// What a walk comes to next.
pub(super) enum WalkStep {
    /// A row.
    Row(Owed),
    /// So many slots without a row that is owed.
    Skipped(usize),
    End,
}

impl Walk {
    /// A walk over a table that has used so many slots.
    pub(super) fn new(slots: usize) -> Walk {
        let settled = (0..slots.div_ceil(PAGE_SLOTS)).map(|_| None).collect();
        Walk { slots, at: 0, settled, kept: BTreeMap::new(), open: None }
    }

    /// Whether the row at `slot`, or the rest of it, is owed as it is now.
    #[cold]
    pub(super) fn owes(&self, slot: u32) -> bool {
        let at = slot as usize;
        let ahead = at >= self.at && at < self.slots;
        (ahead && !self.is_settled(at)) || self.open == Some(slot)
    }

    fn is_settled(&self, at: usize) -> bool {
        self.settled[at / PAGE_SLOTS]
            .as_ref()
            .is_some_and(|page| page[at % PAGE_SLOTS / 64] & (1 << (at % 64)) != 0)
    }

    /// The row at `slot` is not owed, or not any more.
    pub(super) fn settle(&mut self, slot: u32) {
        let at = slot as usize;
        if at < self.slots {
            let page = &mut self.settled[at / PAGE_SLOTS];
            let page = page.get_or_insert_with(|| Box::new([0; PAGE_WORDS]));
            page[at % PAGE_SLOTS / 64] |= 1 << (at % 64);
        }
    }

    /// Keeps a row that is owed.
    pub(super) fn keep(&mut self, slot: u32, bytes: Vec<u8>) {
        assert!(self.owes(slot), "a row is kept once");
        self.settle(slot);
        self.kept.insert(slot, bytes.into_boxed_slice());
    }

    /// What comes next, of these rows.
    pub(super) fn next<T>(&mut self, rows: &Slab<T>) -> WalkStep {
        let from = self.at;
        while self.at < self.slots && self.at - from < SKIPPED_MAX {
            let at = self.at;
            let slot = u32::try_from(at).expect("slots are numbered by 32 bits");
            self.at += 1;
            let settled = self.is_settled(at);
            let kept = if settled { self.kept.remove(&slot) } else { None };
            let is_owed = kept.is_some() || (!settled && rows.is_taken(slot));
            if is_owed && is_handed_out(at) {
                return WalkStep::Row(Owed { slot, kept });
            }
        }
        match self.at - from {
            0 => WalkStep::End,
            skipped => WalkStep::Skipped(skipped),
        }
    }

    /// Frees some of what is kept. True: nothing is left.
    pub(super) fn shed(&mut self, slice: &mut Slice) -> bool {
        while let Some((_, bytes)) = self.kept.pop_first() {
            slice.spend_freed(bytes.len());
            if !slice.spend(1, 0) {
                return false;
            }
        }
        true
    }
}

/// Every row that is owed is handed out, wherever it lies.
fn is_handed_out(at: usize) -> bool {
    !mutant::on(Mutant::WalkSkipsBuckets) || at % 4 != 3
}
