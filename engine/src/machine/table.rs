//! The one kind of table that state lives in.
//!
//! A keyed hash (XXH64 with the cluster's seed) picks one of [`BUCKETS`] small buckets; a bucket is
//! a `hashbrown::HashTable` of slots, and the rows lie in a [`Slab`]. So a table grows one
//! bucket at a time, with no long pause, and a row keeps its slot: lists and timers can name it.
//!
//! # Invariants
//!
//! - The only iteration is a snapshot's: bucket by bucket, and by the hashes' kept bits inside. Equal
//!   rows give an equal walk, whatever the history of insertions, and whatever is written meanwhile
//!   ([`Walk`]).
//! - While a walk is on, a row that it owes is kept before it changes: [`Table::row_mut`] and
//!   [`Table::remove`] insist on it. Nobody else pays more than a look at whether there is a walk.
//! - A bucket keeps 32 bits of each row's hash, so that neither a miss nor growth reads a row.

use super::slab::Slab;
use super::snapshot::Slice;
use super::walk::{Next, Walk};
use crate::ids::SessionId;
use crate::mutant::{self, Mutant};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Index;
use hashbrown::HashTable;
use xxhash_rust::xxh64::xxh64;

/// Buckets of a table. A power of two; a million rows give buckets of about a thousand.
const BUCKETS: usize = 1 << BUCKETS_BITS;
const BUCKETS_BITS: u32 = 10;
/// Spreads the 32 bits that a bucket keeps over the 64 that hashbrown looks at (2^64 / phi).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// What a row is found by.
pub(super) trait Key: Eq {
    fn hash(&self, seed: u64) -> u64;
}

impl Key for [u8] {
    fn hash(&self, seed: u64) -> u64 {
        xxh64(self, seed)
    }
}

impl Key for SessionId {
    fn hash(&self, seed: u64) -> u64 {
        xxh64(&self.0, seed)
    }
}

impl Key for u64 {
    fn hash(&self, seed: u64) -> u64 {
        xxh64(&self.to_le_bytes(), seed)
    }
}

/// A row of a table.
pub(super) trait Row {
    type Key: Key + ?Sized;
    /// Stays the same as long as the row is in the table.
    fn key(&self) -> &Self::Key;
}

/// Where a row lies, and a part of its hash.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) tag: u32,
    pub(super) slot: u32,
}

impl Place {
    fn spread(&self) -> u64 {
        u64::from(self.tag).wrapping_mul(SPREAD)
    }
}

/// A key's hash, spread out.
#[derive(Clone, Copy)]
pub(super) struct Probe {
    bucket: usize,
    place: Place,
}

impl Probe {
    /// Of no key.
    pub(super) const NONE: Probe = Probe { bucket: 0, place: Place { tag: 0, slot: 0 } };
}

/// Rows by key, and by slot.
pub(super) struct Table<R: Row> {
    seed: u64,
    buckets: Box<[HashTable<Place>]>,
    /// A bit for each bucket that holds something: a small table's walk is as short as the table.
    occupied: [u64; BUCKETS / 64],
    rows: Slab<R>,
    /// The snapshot that is being made, if one is.
    walk: Option<Box<Walk>>,
}

impl<R: Row> Table<R> {
    pub(super) fn new(seed: u64) -> Table<R> {
        let buckets = (0..BUCKETS).map(|_| HashTable::new()).collect();
        Table { seed, buckets, occupied: [0; BUCKETS / 64], rows: Slab::new(), walk: None }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The slot of the row with `key`.
    pub(super) fn find(&self, key: &R::Key) -> Option<u32> {
        let (bucket, probe) = self.locate(key);
        let place = self.buckets[bucket].find(probe.spread(), |place| {
            place.tag == probe.tag && self.rows[place.slot].key() == key
        });
        place.map(|place| place.slot)
    }

    /// Where a key would be.
    pub(super) fn probe(&self, key: &R::Key) -> Probe {
        let (bucket, place) = self.locate(key);
        Probe { bucket, place }
    }

    /// Looks at the bucket of a probe: the first step of [`Table::find`]. What it gives means nothing.
    pub(super) fn touch_bucket(&self, probe: &Probe) -> usize {
        self.buckets[probe.bucket].len()
    }

    /// Looks at where a probe's place most likely is: the second step.
    pub(super) fn touch_place(&self, probe: &Probe) -> usize {
        let mut places = self.buckets[probe.bucket].iter_hash(probe.place.spread());
        places.next().map_or(0, |place| core::ptr::from_ref(place).addr())
    }

    /// Which slot a probe's row most likely has, without looking at the row: the third step.
    pub(super) fn guess(&self, probe: &Probe) -> Option<u32> {
        let same = |place: &Place| place.tag == probe.place.tag;
        let place = self.buckets[probe.bucket].find(probe.place.spread(), same);
        place.map(|place| place.slot)
    }

    /// Adds a row whose key is not in the table, and says where it lies.
    pub(super) fn insert(&mut self, row: R) -> u32 {
        debug_assert!(self.find(row.key()).is_none(), "a key is inserted once");
        let (bucket, mut place) = self.locate(row.key());
        place.slot = self.rows.insert(row);
        if let Some(walk) = &mut self.walk
            && !mutant::on(Mutant::WalkShowsNewRows)
        {
            walk.settle(place.slot);
        }
        self.buckets[bucket].insert_unique(place.spread(), place, Place::spread);
        self.occupied[bucket / 64] |= 1 << (bucket % 64);
        place.slot
    }

    /// Removes the row at `slot`, which no walk owes.
    pub(super) fn remove(&mut self, slot: u32) -> R {
        assert!(!self.owes(slot), "a row that is owed is kept before it goes");
        let row = self.rows.remove(slot);
        let (bucket, probe) = self.locate(row.key());
        let entry = self.buckets[bucket].find_entry(probe.spread(), |place| place.slot == slot);
        let Ok(entry) = entry else { panic!("the row at slot {slot} is in its bucket") };
        entry.remove();
        if self.buckets[bucket].is_empty() {
            self.occupied[bucket / 64] &= !(1 << (bucket % 64));
        }
        row
    }

    /// The row at `slot`, which no walk owes, to be changed.
    #[inline]
    pub(super) fn row_mut(&mut self, slot: u32) -> &mut R {
        assert!(!self.owes(slot), "a row that is owed is kept before it changes");
        &mut self.rows[slot]
    }

    /// The rows, to change in them what is in no snapshot.
    #[inline]
    pub(super) fn rows_mut(&mut self) -> &mut Slab<R> {
        &mut self.rows
    }

    /// Shows every row once, by bucket and hash.
    pub(super) fn each(&self, mut each: impl FnMut(u32, &R)) {
        for bucket in self.occupied_from(0) {
            for place in self.list(bucket) {
                each(place.slot, &self.rows[place.slot]);
            }
        }
    }

    /// Shows every row's slot, by bucket and hash; those that share a hash together.
    pub(super) fn each_group(&self, mut each: impl FnMut(&mut dyn Iterator<Item = u32>)) {
        for bucket in self.occupied_from(0) {
            for group in self.list(bucket).chunk_by(|a, b| a.tag == b.tag) {
                each(&mut group.iter().map(|place| place.slot));
            }
        }
    }

    /// The buckets from `first` on that hold something.
    fn occupied_from(&self, first: usize) -> impl Iterator<Item = usize> {
        let words = self.occupied.iter().enumerate().skip(first / 64);
        words.flat_map(move |(at, word)| {
            let from = if at == first / 64 { first % 64 } else { 0 };
            let mut left = word & (u64::MAX << from);
            core::iter::from_fn(move || {
                let bit = left.trailing_zeros() as usize;
                left &= left.wrapping_sub(1);
                (bit < 64).then_some(at * 64 + bit)
            })
        })
    }

    fn list(&self, bucket: usize) -> Vec<Place> {
        let mut places: Vec<Place> = self.buckets[bucket].iter().copied().collect();
        places.sort_unstable_by_key(|place| (place.tag, place.slot));
        places
    }

    // ---- The walk of a snapshot that is made in slices ----

    /// Begins a walk over the rows as they are now.
    pub(super) fn begin_walk(&mut self) {
        assert!(self.walk.is_none(), "one walk at a time");
        self.walk = Some(Box::new(Walk::new(self.rows.slots())));
    }

    /// Whether a walk owes the row at `slot`: it is to be kept before it changes.
    #[inline]
    pub(super) fn owes(&self, slot: u32) -> bool {
        match &self.walk {
            None => false,
            Some(walk) => walk.owes(slot) && !mutant::on(Mutant::WriteWithoutCopy),
        }
    }

    /// Keeps the row at `slot`, which is owed, as these bytes.
    pub(super) fn keep(&mut self, slot: u32, bytes: Vec<u8>) {
        let (bucket, place) = self.locate(self.rows[slot].key());
        let walk = self.walk.as_mut().expect("a row is owed to a walk");
        walk.keep(bucket, Place { slot, ..place }, bytes);
    }

    /// Only some of the row at `slot`, which was handed out, was written: the rest is owed. `None`: no such row.
    pub(super) fn set_open(&mut self, slot: Option<u32>) {
        let walk = self.walk.as_mut().expect("a row is handed out by a walk");
        walk.open = slot;
    }

    /// What the walk comes to next. It is over after [`Next::End`].
    pub(super) fn walk_on(&mut self) -> Next {
        let Some(walk) = &self.walk else { return Next::End };
        let next = walk.wants().map(|from| {
            let kept = walk.next_kept();
            self.occupied_from(from).next().into_iter().chain(kept).min()
        });
        let walk = self.walk.as_mut().expect("it was just there");
        match next {
            None => walk.take(),
            Some(Some(bucket)) => {
                Next::Bucket(walk.list(bucket, self.buckets[bucket].iter().copied()))
            }
            Some(None) => {
                self.walk = None;
                Next::End
            }
        }
    }

    /// Frees some of what the table holds ([`Slab::shed`]). True: nothing is left.
    pub(super) fn shed(
        &mut self,
        slice: &mut Slice,
        empty: fn(&mut R, &mut Slice) -> bool,
    ) -> bool {
        let kept = self.walk.as_mut().is_some_and(|walk| !walk.shed(slice));
        if kept || !self.rows.shed(slice, empty) {
            return false;
        }
        let mut buckets = core::mem::take(&mut self.buckets).into_vec();
        while let Some(bucket) = buckets.pop() {
            slice.spend_freed(bucket.allocation_size());
            if !slice.spend(1, 0) {
                break;
            }
        }
        self.buckets = buckets.into_boxed_slice();
        self.buckets.is_empty()
    }

    /// The bucket of a key, and its place there with the slot still unknown.
    fn locate(&self, key: &R::Key) -> (usize, Place) {
        let hash = key.hash(self.seed);
        let tag = u32::try_from(hash & 0xffff_ffff).expect("32 bits are a u32");
        let bucket = usize::try_from(hash >> (64 - BUCKETS_BITS)).expect("a few bits are a usize");
        (bucket, Place { tag, slot: 0 })
    }
}

impl<R: Row> Index<u32> for Table<R> {
    type Output = R;
    #[inline]
    fn index(&self, slot: u32) -> &R {
        &self.rows[slot]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Number(u64);
    impl Row for Number {
        type Key = u64;
        fn key(&self) -> &u64 {
            &self.0
        }
    }

    fn walked(table: &Table<Number>) -> Vec<u64> {
        let mut keys = Vec::new();
        table.each(|_, row| keys.push(row.0));
        keys
    }

    #[test]
    fn a_walk_does_not_depend_on_the_history() {
        let (mut a, mut b) = (Table::new(7), Table::new(7));
        for n in 0..5_000 {
            a.insert(Number(n));
        }
        for n in (0..9_000).rev() {
            b.insert(Number(n));
        }
        for n in 5_000..9_000 {
            let slot = b.find(&n).expect("it is there");
            assert_eq!(b.remove(slot).0, n);
        }
        assert_eq!(walked(&a).len(), 5_000);
        assert_eq!(walked(&a), walked(&b));
        assert_ne!(
            walked(&a),
            walked(&{
                let mut other_seed = Table::new(8);
                (0..5_000).for_each(|n| _ = other_seed.insert(Number(n)));
                other_seed
            })
        );
    }

    #[test]
    fn a_row_keeps_its_slot_while_others_come_and_go() {
        let mut table = Table::new(1);
        let slot = table.insert(Number(42));
        for n in 100..3_000 {
            table.insert(Number(n));
        }
        for n in (100..3_000).step_by(2) {
            let slot = table.find(&n).expect("it is there");
            table.remove(slot);
        }
        assert_eq!(table.find(&42), Some(slot));
        assert_eq!(table[slot].0, 42);
        assert_eq!(table.find(&100), None);
        assert_eq!(table.len(), 1 + 1_450);
    }
}
