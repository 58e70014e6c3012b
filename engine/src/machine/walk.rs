//! A table as it was at one moment, handed out row by row while it changes.
//!
//! A walk owes every row that was there when it began, exactly as it was then. A row that is about to
//! change while it is owed is kept first, as the bytes that a snapshot holds of it; one that came later
//! is not owed. So a write pays for its own row and for no other, and no row twice.
//!
//! # Invariants
//!
//! - A slot's bit is set as soon as its row is not owed: it was handed out or kept, or came later.
//! - What is kept was not handed out yet: it is never more than the snapshot itself.
//! - Rows come by bucket and, inside, by the part of their hash that the bucket keeps: an order that
//!   depends on the rows alone. Several rows with one hash come together, for the caller to sort.

use super::snapshot::Slice;
use super::table::Place;
use crate::mutant::{self, Mutant};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::cmp::Reverse;

/// Words of a page of bits: 4 KiB.
const PAGE_WORDS: usize = 512;
const PAGE_SLOTS: usize = 64 * PAGE_WORDS;
type Page = [u64; PAGE_WORDS];

/// What a walk still has to hand out.
pub(super) struct Walk {
    /// How many slots there were.
    slots: usize,
    /// A bit for each slot, by page: none as long as no bit of a page is set, so that a walk over
    /// millions of rows begins at once.
    settled: Vec<Option<Box<Page>>>,
    /// Rows as they were, by bucket, hash and slot.
    kept: BTreeMap<(usize, u32, u32), Box<[u8]>>,
    /// The bucket that is to be listed next.
    bucket: usize,
    /// The places of the bucket before it that were not handed out yet, last first.
    listed: Vec<Place>,
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
pub(super) enum Next {
    /// Another bucket, with so many rows.
    Bucket(usize),
    /// A row.
    Row(Owed),
    /// Rows that share a hash.
    Rows(Vec<Owed>),
    End,
}

impl Walk {
    /// A walk over a table that has used so many slots.
    pub(super) fn new(slots: usize) -> Walk {
        let settled = (0..slots.div_ceil(PAGE_SLOTS)).map(|_| None).collect();
        Walk { slots, settled, kept: BTreeMap::new(), bucket: 0, listed: Vec::new(), open: None }
    }

    /// Whether the row at `slot`, or the rest of it, is owed as it is now.
    #[cold]
    pub(super) fn owes(&self, slot: u32) -> bool {
        let at = slot as usize;
        let owed = at < self.slots
            && self.settled[at / PAGE_SLOTS]
                .as_ref()
                .is_none_or(|page| page[at % PAGE_SLOTS / 64] & (1 << (at % 64)) == 0);
        owed || self.open == Some(slot)
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
    pub(super) fn keep(&mut self, bucket: usize, place: Place, bytes: Vec<u8>) {
        assert!(self.owes(place.slot), "a row is kept once");
        self.settle(place.slot);
        let key = (bucket, place.tag, place.slot);
        self.kept.insert(key, bytes.into_boxed_slice());
    }

    /// From which bucket on one is to be listed, once all of the one before it was handed out.
    pub(super) fn wants(&self) -> Option<usize> {
        self.listed.is_empty().then_some(self.bucket)
    }

    /// The next bucket of which something was kept.
    pub(super) fn next_kept(&self) -> Option<usize> {
        self.kept.first_key_value().map(|((bucket, ..), _)| *bucket)
    }

    /// Lists the next bucket that holds something or did: what it holds now, and what was kept of it. Says how
    /// many rows those are.
    pub(super) fn list(&mut self, bucket: usize, places: impl Iterator<Item = Place>) -> usize {
        assert!(bucket >= self.bucket, "a bucket is listed once");
        self.bucket = bucket;
        let mut listed = core::mem::take(&mut self.listed);
        listed.extend(places.filter(|place| self.owes(place.slot)));
        let of_bucket = self.kept.range((self.bucket, 0, 0)..(self.bucket + 1, 0, 0));
        listed.extend(of_bucket.map(|((_, tag, slot), _)| Place { tag: *tag, slot: *slot }));
        if mutant::on(Mutant::WalkSkipsBuckets) && self.bucket % 4 == 3 {
            listed.clear();
        }
        listed.sort_unstable_by_key(|place| Reverse((place.tag, place.slot)));
        self.listed = listed;
        self.bucket += 1;
        self.listed.len()
    }

    /// The next row of the bucket that was listed last, or the next rows if they share a hash.
    pub(super) fn take(&mut self) -> Next {
        let last = self.listed.pop().expect("a bucket is listed as long as it has rows");
        let tag = last.tag;
        let first = self.hand_out(last);
        if self.listed.last().is_none_or(|place| place.tag != tag) {
            return Next::Row(first);
        }
        let mut rows = alloc::vec![first];
        while let Some(place) = self.listed.pop_if(|place| place.tag == tag) {
            rows.push(self.hand_out(place));
        }
        Next::Rows(rows)
    }

    fn hand_out(&mut self, place: Place) -> Owed {
        let kept = self.kept.remove(&(self.bucket - 1, place.tag, place.slot));
        self.settle(place.slot);
        Owed { slot: place.slot, kept }
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
