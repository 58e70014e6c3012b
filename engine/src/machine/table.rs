//! The one kind of table that state lives in.
//!
//! A hash keyed by this process's [`Secret`] picks one of [`BUCKETS`] small buckets; a bucket is
//! a `hashbrown::HashTable` of slots, and the rows lie in a [`Slab`]. So a table grows one
//! bucket at a time, with no long pause, and a row keeps its slot: lists and timers can name it.
//!
//! # Invariants
//!
//! - Nobody can choose keys that share a bucket or a hash: nobody knows the secret.
//! - The only iteration is by slot: a snapshot's, whatever is written meanwhile ([`Walk`]). Where a row lies says
//!   nothing about its key's hash, so whoever reads a snapshot learns nothing of the secret.
//! - While a walk is on, a row that it owes is kept before it changes: [`Table::row_mut`] and
//!   [`Table::remove`] insist on it. Nobody else pays more than a look at whether there is a walk.
//! - A bucket keeps 32 bits of each row's hash, so that neither a miss nor growth reads a row.

use super::slab::Slab;
use super::snapshot::Slice;
use super::walk::{Walk, WalkStep};
use crate::ids::SessionId;
use crate::mutant::{self, Mutant};
use crate::secret::Secret;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Index;
use hashbrown::HashTable;

/// Buckets of a table. A power of two; a million rows give buckets of about a thousand.
const BUCKETS: usize = 1 << BUCKETS_BITS;
const BUCKETS_BITS: u32 = 10;
/// Spreads the 32 bits that a bucket keeps over the 64 that hashbrown looks at (2^64 / phi).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// What a row is found by.
pub(super) trait Key: Eq {
    fn hash(&self, secret: &Secret) -> u64;
}

impl Key for [u8] {
    fn hash(&self, secret: &Secret) -> u64 {
        secret.hash(self)
    }
}

impl Key for SessionId {
    fn hash(&self, secret: &Secret) -> u64 {
        secret.hash(&self.0)
    }
}

/// A number that the machine issued: nobody chooses it, and so it needs no secret.
impl Key for u64 {
    fn hash(&self, _: &Secret) -> u64 {
        self.wrapping_mul(SPREAD)
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
struct BucketEntry {
    tag: u32,
    slot: u32,
}

impl BucketEntry {
    fn spread(&self) -> u64 {
        u64::from(self.tag).wrapping_mul(SPREAD)
    }
}

/// A key's hash, spread out.
#[derive(Clone, Copy)]
pub(crate) struct Probe {
    bucket: usize,
    entry: BucketEntry,
}

/// Rows by key, and by slot.
pub(super) struct Table<R: Row> {
    secret: Secret,
    buckets: Box<[HashTable<BucketEntry>]>,
    rows: Slab<R>,
    /// The snapshot that is being made, if one is.
    walk: Option<Box<Walk>>,
}

impl<R: Row> Table<R> {
    pub(super) fn new(secret: Secret) -> Table<R> {
        let buckets = (0..BUCKETS).map(|_| HashTable::new()).collect();
        Table { secret, buckets, rows: Slab::new(), walk: None }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The slot of the row with `key`.
    pub(super) fn find(&self, key: &R::Key) -> Option<u32> {
        self.find_at(&self.probe(key), key)
    }

    /// The same, of a key whose probe is known.
    pub(super) fn find_at(&self, probe: &Probe, key: &R::Key) -> Option<u32> {
        let entry = self.buckets[probe.bucket].find(probe.entry.spread(), |entry| {
            entry.tag == probe.entry.tag && self.rows[entry.slot].key() == key
        });
        entry.map(|entry| entry.slot)
    }

    /// Where a key would be.
    pub(super) fn probe(&self, key: &R::Key) -> Probe {
        let hash = key.hash(&self.secret);
        let tag = u32::try_from(hash & 0xffff_ffff).expect("32 bits are a u32");
        let bucket = usize::try_from(hash >> (64 - BUCKETS_BITS)).expect("a few bits are a usize");
        Probe { bucket, entry: BucketEntry { tag, slot: 0 } }
    }

    /// Looks at the bucket of a probe: the first step of [`Table::find`]. What it gives means nothing.
    pub(super) fn touch_bucket(&self, probe: &Probe) -> usize {
        self.buckets[probe.bucket].len()
    }

    /// Looks at where a probe's entry most likely is: the second step.
    pub(super) fn touch_entry(&self, probe: &Probe) -> usize {
        let mut entries = self.buckets[probe.bucket].iter_hash(probe.entry.spread());
        entries.next().map_or(0, |entry| core::ptr::from_ref(entry).addr())
    }

    /// Which slot a probe's row most likely has, without looking at the row: the third step.
    pub(super) fn guess(&self, probe: &Probe) -> Option<u32> {
        let same = |entry: &BucketEntry| entry.tag == probe.entry.tag;
        let entry = self.buckets[probe.bucket].find(probe.entry.spread(), same);
        entry.map(|entry| entry.slot)
    }

    /// Adds a row whose key is not in the table, and says where it lies.
    pub(super) fn insert(&mut self, row: R) -> u32 {
        let probe = self.probe(row.key());
        self.insert_at(probe, row)
    }

    /// The same, with a probe of its key.
    pub(super) fn insert_at(&mut self, probe: Probe, row: R) -> u32 {
        debug_assert!(self.find_at(&probe, row.key()).is_none(), "a key is inserted once");
        let Probe { bucket, mut entry } = probe;
        entry.slot = self.rows.insert(row);
        if let Some(walk) = &mut self.walk
            && hides_new_rows()
        {
            walk.settle(entry.slot);
        }
        self.buckets[bucket].insert_unique(entry.spread(), entry, BucketEntry::spread);
        entry.slot
    }

    /// Removes the row at `slot`, which no walk owes.
    pub(super) fn remove(&mut self, slot: u32) -> R {
        let probe = self.probe(self.rows[slot].key());
        self.remove_at(probe, slot)
    }

    /// The same, with a probe of its key.
    pub(super) fn remove_at(&mut self, probe: Probe, slot: u32) -> R {
        assert!(!self.owes(slot), "a row that is owed is kept before it goes");
        let row = self.rows.remove(slot);
        let Probe { bucket, entry } = probe;
        let found = self.buckets[bucket].find_entry(entry.spread(), |entry| entry.slot == slot);
        let Ok(found) = found else { panic!("the row at slot {slot} is in its bucket") };
        found.remove();
        row
    }

    /// The row at `slot`, which no walk owes, to be changed.
    #[inline]
    pub(super) fn row_mut(&mut self, slot: u32) -> &mut R {
        assert!(!self.owes(slot), "a row that is owed is kept before it changes");
        &mut self.rows[slot]
    }

    /// The row at `slot`, if there is one.
    pub(super) fn get(&self, slot: u32) -> Option<&R> {
        self.rows.get(slot)
    }

    /// The rows, to change in them what is in no snapshot.
    #[inline]
    pub(super) fn rows_mut(&mut self) -> &mut Slab<R> {
        &mut self.rows
    }

    /// Every row with its slot, in the order of the slots.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &R)> {
        self.rows.iter()
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
            Some(walk) => walk.owes(slot) && keeps_before_writes(),
        }
    }

    /// Keeps the row at `slot`, which is owed, as these bytes.
    pub(super) fn keep(&mut self, slot: u32, bytes: Vec<u8>) {
        let walk = self.walk.as_mut().expect("a row is owed to a walk");
        walk.keep(slot, bytes);
    }

    /// Only some of the row at `slot`, which was handed out, was written: the rest is owed. `None`: no such row.
    pub(super) fn set_open(&mut self, slot: Option<u32>) {
        let walk = self.walk.as_mut().expect("a row is handed out by a walk");
        walk.open = slot;
    }

    /// What the walk comes to next. It is over after [`WalkStep::End`].
    pub(super) fn walk_on(&mut self) -> WalkStep {
        let Some(walk) = &mut self.walk else { return WalkStep::End };
        let next = walk.next(&self.rows);
        if matches!(next, WalkStep::End) {
            self.walk = None;
        }
        next
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
}

/// A walk does not show what came after it began.
fn hides_new_rows() -> bool {
    !mutant::on(Mutant::WalkShowsNewRows)
}

/// A row that is owed is kept before it changes.
fn keeps_before_writes() -> bool {
    !mutant::on(Mutant::WriteWithoutCopy)
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
    use alloc::collections::BTreeSet;

    struct Number(u64);
    impl Row for Number {
        type Key = u64;
        fn key(&self) -> &u64 {
            &self.0
        }
    }

    const SECRET: Secret = Secret::new([7; 16]);

    #[test]
    fn rows_are_shown_once_each_whatever_came_and_went() {
        let mut table = Table::new(SECRET);
        for n in (0..9_000).rev() {
            table.insert(Number(n));
        }
        for n in 5_000..9_000 {
            let slot = table.find(&n).expect("it is there");
            assert_eq!(table.remove(slot).0, n);
        }
        let mut keys: Vec<u64> = table.iter().map(|(_, row)| row.0).collect();
        keys.sort_unstable();
        assert_eq!(keys, (0..5_000).collect::<Vec<_>>());
        assert!(table.iter().all(|(slot, row)| table.find(&row.0) == Some(slot)));
    }

    #[test]
    fn a_row_keeps_its_slot_while_others_come_and_go() {
        let mut table = Table::new(SECRET);
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

    /// Keys that share all 64 bits of their XXH64 under a seed that is known.
    fn colliding(seed: u64, n: u64) -> Vec<u8> {
        const P1: u64 = 0x9e37_79b1_85eb_ca87;
        const P2: u64 = 0xc2b2_ae3d_27d4_eb4f;
        const P4: u64 = 0x85eb_ca77_c2b2_ae63;
        const P5: u64 = 0x27d4_eb2f_1656_67c5;
        let inverse =
            |a: u64| (0..6).fold(a, |x, _| x.wrapping_mul(2_u64.wrapping_sub(a.wrapping_mul(x))));
        let round = |w: u64| w.wrapping_mul(P2).rotate_left(31).wrapping_mul(P1);
        let unround =
            |k: u64| k.wrapping_mul(inverse(P1)).rotate_right(31).wrapping_mul(inverse(P2));
        let hash = (seed.wrapping_add(P5).wrapping_add(16) ^ round(n)).rotate_left(27);
        let hash = hash.wrapping_mul(P1).wrapping_add(P4);
        let rest = 1_u64.wrapping_sub(P4).wrapping_mul(inverse(P1)).rotate_right(27) ^ hash;
        [n.to_le_bytes(), unround(rest).to_le_bytes()].concat()
    }

    #[test]
    fn whoever_knows_the_cluster_can_not_choose_keys_that_lie_in_one_place() {
        // What tables were seeded with until each process had a secret.
        let seed = xxhash_rust::xxh64::xxh64(&[7; 16], 0);
        let keys: Vec<Vec<u8>> = (0..1_000).map(|n| colliding(seed, n)).collect();
        let hashes: BTreeSet<u64> =
            keys.iter().map(|key| xxhash_rust::xxh64::xxh64(key, seed)).collect();
        assert_eq!(hashes.len(), 1, "they were chosen to share a hash");
        let table = Table::<Named>::new(SECRET);
        let places: BTreeSet<(usize, u32)> = keys
            .iter()
            .map(|key| table.probe(key.as_slice()))
            .map(|probe| (probe.bucket, probe.entry.tag))
            .collect();
        assert!(places.len() >= 999, "{} places for a thousand keys", places.len());
    }

    struct Named(Vec<u8>);
    impl Row for Named {
        type Key = [u8];
        fn key(&self) -> &[u8] {
            &self.0
        }
    }

    /// A key that has the hash of all others, and a row of it.
    #[derive(PartialEq, Eq)]
    struct Alike(u64);
    struct OfAlike(Alike);

    impl Key for Alike {
        fn hash(&self, _: &Secret) -> u64 {
            0
        }
    }

    impl Row for OfAlike {
        type Key = Alike;
        fn key(&self) -> &Alike {
            &self.0
        }
    }

    #[test]
    fn a_step_of_a_walk_hands_out_one_row_whatever_the_keys_have_in_common() {
        let mut table = Table::new(SECRET);
        (0..1_000).for_each(|n| _ = table.insert(OfAlike(Alike(n))));
        (0..1_000).step_by(2).for_each(|n| {
            let slot = table.find(&Alike(n)).expect("it is there");
            table.remove(slot);
        });
        table.begin_walk();
        let (mut rows, mut skipped) = (BTreeSet::new(), 0);
        loop {
            match table.walk_on() {
                WalkStep::Row(owed) => assert!(rows.insert(owed.slot), "each once"),
                WalkStep::Skipped(slots) => skipped += slots,
                WalkStep::End => break,
            }
        }
        assert_eq!((rows.len(), skipped), (500, 0));
    }

    #[test]
    fn a_step_of_a_walk_passes_over_few_slots_of_a_table_that_was_large() {
        let mut table = Table::new(SECRET);
        (0..10_000).for_each(|n| _ = table.insert(Number(n)));
        (1..10_000).for_each(|n| {
            let slot = table.find(&n).expect("it is there");
            table.remove(slot);
        });
        table.begin_walk();
        assert!(matches!(table.walk_on(), WalkStep::Row(owed) if owed.slot == 0));
        let mut steps = 0;
        while let WalkStep::Skipped(slots) = table.walk_on() {
            assert!(slots <= 64);
            steps += 1;
        }
        assert_eq!(steps, 9_999_u32.div_ceil(64));
    }
}
