//! The one kind of table that state lives in.
//!
//! A keyed hash (XXH64 with the cluster's seed) picks one of [`BUCKETS`] small buckets; a bucket is
//! a `hashbrown::HashTable` of slots, and the rows lie in a [`Slab`]. So a table grows one
//! bucket at a time, with no long pause, and a row keeps its slot: lists and timers can name it.
//!
//! # Invariants
//!
//! - The only iteration is [`Table::walk`]: bucket by bucket, sorted by key inside. Equal rows give
//!   an equal walk, whatever the history of insertions.
//! - A bucket keeps 32 bits of each row's hash, so that neither a miss nor growth reads a row.

use super::slab::Slab;
use crate::ids::SessionId;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::{Index, IndexMut};
use hashbrown::HashTable;
use xxhash_rust::xxh64::xxh64;

/// Buckets of a table. A power of two; a million rows give buckets of about a thousand.
const BUCKETS: usize = 1 << BUCKETS_BITS;
const BUCKETS_BITS: u32 = 10;
/// Spreads the 32 bits that a bucket keeps over the 64 that hashbrown looks at (2^64 / phi).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// What a row is found by.
pub(super) trait Key: Ord {
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
struct Place {
    tag: u32,
    slot: u32,
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
    rows: Slab<R>,
}

impl<R: Row> Table<R> {
    pub(super) fn new(seed: u64) -> Table<R> {
        let buckets = (0..BUCKETS).map(|_| HashTable::new()).collect();
        Table { seed, buckets, rows: Slab::new() }
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
        self.buckets[bucket].insert_unique(place.spread(), place, Place::spread);
        place.slot
    }

    /// Removes the row at `slot`.
    pub(super) fn remove(&mut self, slot: u32) -> R {
        let row = self.rows.remove(slot);
        let (bucket, probe) = self.locate(row.key());
        let entry = self.buckets[bucket].find_entry(probe.spread(), |place| place.slot == slot);
        let Ok(entry) = entry else { panic!("the row at slot {slot} is in its bucket") };
        entry.remove();
        row
    }

    /// Shows every row once: bucket by bucket, sorted by key inside.
    pub(super) fn walk(&self, mut each: impl FnMut(u32, &R)) {
        let mut slots: Vec<u32> = Vec::new();
        for bucket in &self.buckets {
            slots.clear();
            slots.extend(bucket.iter().map(|place| place.slot));
            slots.sort_unstable_by(|a, b| self.rows[*a].key().cmp(self.rows[*b].key()));
            slots.iter().for_each(|slot| each(*slot, &self.rows[*slot]));
        }
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
    fn index(&self, slot: u32) -> &R {
        &self.rows[slot]
    }
}

impl<R: Row> IndexMut<u32> for Table<R> {
    fn index_mut(&mut self, slot: u32) -> &mut R {
        &mut self.rows[slot]
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
        table.walk(|_, row| keys.push(row.0));
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
