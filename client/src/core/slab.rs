//! A dense table whose rows are found by number, without hashing.
//!
//! # Invariants
//! - A key that was given out names one row, and nothing once that row was removed: each use of a place has a
//!   generation of its own.
//! - No key has the number 0, and none the generation 0.

use alloc::vec::Vec;

/// The number of a row: its place and which use of the place it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key {
    index: u32,
    generation: u32,
}

impl Key {
    /// Names no row, ever.
    pub(super) const NONE: Key = Key { index: u32::MAX, generation: 0 };

    /// Its place. Two rows that are there at one time have two places.
    #[inline]
    pub fn index(self) -> usize {
        self.index as usize
    }

    /// The key as one number; never 0.
    #[inline]
    pub fn number(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// The key of a number, which may name nothing.
    #[inline]
    pub fn of_number(number: u64) -> Key {
        Key { index: number as u32, generation: (number >> 32) as u32 }
    }
}

struct Row<T> {
    generation: u32,
    value: Option<T>,
}

pub(super) struct Slab<T> {
    rows: Vec<Row<T>>,
    /// Places without a value; the one that was left last is taken first.
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Slab<T> {
        Slab { rows: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    #[inline]
    pub fn len(&self) -> usize {
        self.rows.len() - self.free.len()
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    pub fn insert(&mut self, value: T) -> Key {
        self.insert_with(|_| value)
    }

    /// Inserts what is made of its key.
    #[inline]
    pub fn insert_with(&mut self, value: impl FnOnce(Key) -> T) -> Key {
        let index = self.free.pop().unwrap_or_else(|| {
            self.rows.push(Row { generation: 0, value: None });
            u32::try_from(self.rows.len() - 1).expect("limits keep a table under 4 G rows")
        });
        let row = &mut self.rows[index as usize];
        assert!(row.value.is_none(), "a free place has no value");
        row.generation = row.generation.wrapping_add(1).max(1);
        let key = Key { index, generation: row.generation };
        row.value = Some(value(key));
        key
    }

    #[inline]
    pub fn remove(&mut self, key: Key) -> Option<T> {
        self.remove_with(key, |value| value)
    }

    /// Removes a row, and gives what is made of it: of a large row little may be wanted.
    #[inline]
    pub fn remove_with<U>(&mut self, key: Key, wanted: impl FnOnce(T) -> U) -> Option<U> {
        let row = self.rows.get_mut(key.index as usize)?;
        if row.generation != key.generation || row.value.is_none() {
            return None;
        }
        self.free.push(key.index);
        row.value.take().map(wanted)
    }

    #[inline]
    pub fn get(&self, key: Key) -> Option<&T> {
        let row = self.rows.get(key.index as usize)?;
        row.value.as_ref().filter(|_| row.generation == key.generation)
    }

    #[inline]
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let row = self.rows.get_mut(key.index as usize)?;
        row.value.as_mut().filter(|_| row.generation == key.generation)
    }

    #[inline]
    pub fn contains(&self, key: Key) -> bool {
        self.get(key).is_some()
    }

    /// The key of the row that is at a place, if there is one.
    pub fn key_at(&self, index: u32) -> Option<Key> {
        let row = self.rows.get(index as usize)?;
        row.value.as_ref().map(|_| Key { index, generation: row.generation })
    }

    /// The values of all rows, by place.
    pub fn into_values(self) -> impl Iterator<Item = T> {
        self.rows.into_iter().filter_map(|row| row.value)
    }

    /// All rows, by place.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        (0u32..).zip(&self.rows).filter_map(|(index, row)| {
            let value = row.value.as_ref()?;
            Some((Key { index, generation: row.generation }, value))
        })
    }
}

impl<T> core::ops::Index<Key> for Slab<T> {
    type Output = T;

    #[inline]
    fn index(&self, key: Key) -> &T {
        self.get(key).expect("the key is of a row that is there")
    }
}
