//! Rows at places that never move, and lists threaded through them.
//!
//! A [`Slab`] grows by chunks, so that growth copies nothing, and a row keeps its slot from its birth
//! to its end. A [`List`] links rows of one slab, first to last, with O(1) insertion at the end and
//! removal anywhere. Slots depend on the history of insertions: nothing that a replica answers or
//! orders may depend on one, nor what a snapshot says; only in which order it says it.

use super::snapshot::Slice;
use alloc::vec::Vec;
use core::ops::{Index, IndexMut};

/// No row.
pub(super) const NIL: u32 = u32::MAX;
/// Rows in one chunk.
const CHUNK_ROWS: u32 = 256;

/// Rows by slot.
pub(super) struct Slab<T> {
    chunks: Vec<Vec<Cell<T>>>,
    /// The slot that was freed last, or [`NIL`].
    free: u32,
    len: u32,
}

enum Cell<T> {
    Row(T),
    /// The slot that was freed before this one, or [`NIL`].
    Free(u32),
}

impl<T> Slab<T> {
    pub(super) const fn new() -> Slab<T> {
        Slab { chunks: Vec::new(), free: NIL, len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    /// How many slots were used so far: every row's slot is below.
    pub(super) fn slots(&self) -> usize {
        let last = self.chunks.last().map_or(0, Vec::len);
        self.chunks.len().saturating_sub(1) * CHUNK_ROWS as usize + last
    }

    /// Frees the last rows, each once `empty` has emptied it of what it holds itself and spent what that
    /// costs. The slab is of no use afterwards. True: no row is left.
    pub(super) fn shed(
        &mut self,
        slice: &mut Slice,
        empty: fn(&mut T, &mut Slice) -> bool,
    ) -> bool {
        while let Some(chunk) = self.chunks.last_mut() {
            if let Some(Cell::Row(row)) = chunk.last_mut()
                && !empty(row, slice)
            {
                return false;
            }
            if chunk.pop().is_none() {
                self.chunks.pop();
            }
            if !slice.spend(1, 0) {
                return false;
            }
        }
        true
    }

    pub(super) fn insert(&mut self, row: T) -> u32 {
        self.len += 1;
        if self.free != NIL {
            let slot = self.free;
            let cell = self.cell_mut(slot);
            let Cell::Free(next) = *cell else { unreachable!("a slot on the free list is free") };
            *cell = Cell::Row(row);
            self.free = next;
            return slot;
        }
        if self.chunks.last().is_none_or(|c| c.len() == CHUNK_ROWS as usize) {
            self.chunks.push(Vec::with_capacity(CHUNK_ROWS as usize));
        }
        let chunks = u32::try_from(self.chunks.len()).expect("limits keep rows under 2^32");
        let chunk = self.chunks.last_mut().expect("a chunk with room was just made sure of");
        let slot = (chunks - 1)
            .checked_mul(CHUNK_ROWS)
            .and_then(|first| first.checked_add(chunk.len() as u32))
            .expect("limits keep rows under 2^32");
        assert!(slot != NIL, "limits keep rows under 2^32");
        chunk.push(Cell::Row(row));
        slot
    }

    pub(super) fn remove(&mut self, slot: u32) -> T {
        let free = self.free;
        match core::mem::replace(self.cell_mut(slot), Cell::Free(free)) {
            Cell::Row(row) => {
                self.free = slot;
                self.len -= 1;
                row
            }
            Cell::Free(_) => panic!("slot {slot} is removed once"),
        }
    }

    /// Whether there is a row at `slot`, which was used.
    pub(super) fn is_taken(&self, slot: u32) -> bool {
        let chunk = &self.chunks[(slot / CHUNK_ROWS) as usize];
        matches!(chunk[(slot % CHUNK_ROWS) as usize], Cell::Row(_))
    }

    /// The row at `slot`, if there is one.
    pub(super) fn get(&self, slot: u32) -> Option<&T> {
        let chunk = self.chunks.get((slot / CHUNK_ROWS) as usize)?;
        match chunk.get((slot % CHUNK_ROWS) as usize)? {
            Cell::Row(row) => Some(row),
            Cell::Free(_) => None,
        }
    }

    /// Every row with its slot.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let cells = (0..).zip(self.chunks.iter().flatten());
        cells.filter_map(|(slot, cell)| match cell {
            Cell::Row(row) => Some((slot, row)),
            Cell::Free(_) => None,
        })
    }

    #[inline]
    fn cell_mut(&mut self, slot: u32) -> &mut Cell<T> {
        &mut self.chunks[(slot / CHUNK_ROWS) as usize][(slot % CHUNK_ROWS) as usize]
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;
    #[inline]
    fn index(&self, slot: u32) -> &T {
        match &self.chunks[(slot / CHUNK_ROWS) as usize][(slot % CHUNK_ROWS) as usize] {
            Cell::Row(row) => row,
            Cell::Free(_) => panic!("slot {slot} is free"),
        }
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    #[inline]
    fn index_mut(&mut self, slot: u32) -> &mut T {
        match self.cell_mut(slot) {
            Cell::Row(row) => row,
            Cell::Free(_) => panic!("slot {slot} is free"),
        }
    }
}

/// A row's neighbours in the one list that it is in.
#[derive(Clone, Copy)]
pub(super) struct Links {
    prev: u32,
    next: u32,
}

impl Links {
    /// In no list.
    pub(super) const NONE: Links = Links { prev: NIL, next: NIL };

    /// The next one's slot.
    pub(super) fn next(&self) -> Option<u32> {
        (self.next != NIL).then_some(self.next)
    }

    /// The neighbours' slots.
    pub(super) fn around(&self) -> impl Iterator<Item = u32> {
        [self.prev, self.next].into_iter().filter(|slot| *slot != NIL)
    }
}

/// A row that a [`List`] can hold.
pub(super) trait Linked {
    fn links(&self) -> &Links;
    fn links_mut(&mut self) -> &mut Links;
}

/// Rows of one slab in an order of their own.
#[derive(Clone, Copy)]
pub(super) struct List {
    head: u32,
    tail: u32,
    len: u32,
}

impl List {
    pub(super) const EMPTY: List = List { head: NIL, tail: NIL, len: 0 };

    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first row's slot.
    pub(super) fn first(&self) -> Option<u32> {
        (self.head != NIL).then_some(self.head)
    }

    /// Every slot, first to last.
    pub(super) fn iter<'a, T>(
        &self,
        rows: &'a impl Index<u32, Output = T>,
    ) -> impl Iterator<Item = u32> + 'a
    where
        T: Linked + 'a,
    {
        List::iter_from(self.first(), rows)
    }

    /// The slot `first`, which is in a list, and every slot behind it.
    pub(super) fn iter_from<'a, T>(
        first: Option<u32>,
        rows: &'a impl Index<u32, Output = T>,
    ) -> impl Iterator<Item = u32> + 'a
    where
        T: Linked + 'a,
    {
        core::iter::successors(first, |slot| {
            let next = rows[*slot].links().next;
            (next != NIL).then_some(next)
        })
    }

    /// Appends the row at `slot`, which is in no list.
    #[inline]
    pub(super) fn push<T: Linked>(&mut self, rows: &mut impl IndexMut<u32, Output = T>, slot: u32) {
        *rows[slot].links_mut() = Links { prev: self.tail, next: NIL };
        match self.tail {
            NIL => self.head = slot,
            tail => rows[tail].links_mut().next = slot,
        }
        self.tail = slot;
        self.len += 1;
    }

    /// Takes the row at `slot`, which is in this list, out of it.
    #[inline]
    pub(super) fn unlink<T: Linked>(
        &mut self,
        rows: &mut impl IndexMut<u32, Output = T>,
        slot: u32,
    ) {
        assert!(self.len > 0, "the row is in this list");
        let Links { prev, next } = core::mem::replace(rows[slot].links_mut(), Links::NONE);
        match prev {
            NIL => self.head = next,
            prev => rows[prev].links_mut().next = next,
        }
        match next {
            NIL => self.tail = prev,
            next => rows[next].links_mut().prev = prev,
        }
        self.len -= 1;
        assert!((self.len == 0) == (self.head == NIL), "an empty list has no first row");
    }
}
