//! The log in memory: entries as they are on wire and disk, side by side in pooled chunks.
//!
//! ```text
//!  base            first                        last
//!   |  (index,term)  |                            |
//!   v                v                            v
//!  [ gone           ][ chunk 7      ][ chunk 8      ][ chunk 9 ..... free ]
//! ```
//!
//! `places` says for each index in which chunk and where it begins, so that any entry is one look-up
//! away, and any range that lies in one chunk (a run) is one slice: a message and a journal record are
//! copied from it as they are. What was applied is dropped from the front, and its chunks are
//! used again, so that the steady state allocates nothing.
//!
//! # Invariants
//!
//! - Indexes have no gap; terms never fall; the base is the entry just before the first.
//! - An entry never straddles two chunks. One larger than a chunk gets a chunk of its own.
//! - The configurations are those of the entries in memory, and the one that held at the base.

use super::configuration::{Configuration, Configurations};
use crate::entry::{self, ENTRY_HEADER_BYTES, Entry, EntryHeader, kind};
use crate::ids::{Index, Term};
use crate::time::Elapsed;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// The size of a chunk, in bytes.
pub const CHUNK_BYTES: usize = 1 << 20;
/// Empty chunks that a log keeps for later.
const CHUNKS_SPARE_MAX: usize = 4;

/// A group's log, as far as it is in memory.
#[cfg_attr(test, derive(Clone))]
pub struct Log {
    chunk_bytes: usize,
    chunks: VecDeque<Chunk>,
    /// The number of the chunk at the front. Numbers rise by one and wrap around.
    chunk_first: u32,
    places: VecDeque<Location>,
    base: Mark,
    last: Mark,
    /// Bytes of all entries ever, up to the base and up to the last: distances are differences.
    base_end: u64,
    last_end: u64,
    spare: Vec<Vec<u8>>,
    configurations: Configurations,
}

#[cfg_attr(test, derive(Clone))]
struct Chunk {
    bytes: Vec<u8>,
    limit: usize,
}

#[derive(Clone, Copy)]
struct Location {
    /// Where the entry begins, counted over all entries ever.
    begin: u64,
    chunk: u32,
    offset: u32,
}

/// What is known of an entry that may be gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Mark {
    index: Index,
    term: Term,
    time: Elapsed,
}

impl Default for Mark {
    fn default() -> Mark {
        Mark { index: Index::ZERO, term: Term::ZERO, time: Elapsed::ZERO }
    }
}

impl Default for Log {
    fn default() -> Log {
        Log::new(CHUNK_BYTES)
    }
}

impl Log {
    /// An empty log in chunks of this size.
    pub(super) fn new(chunk_bytes: usize) -> Log {
        Log {
            chunk_bytes,
            chunks: VecDeque::new(),
            chunk_first: 0,
            places: VecDeque::new(),
            base: Mark::default(),
            last: Mark::default(),
            base_end: 0,
            last_end: 0,
            spare: Vec::new(),
            configurations: Configurations::new(),
        }
    }

    /// The first index in memory; one past the last when there is none.
    pub fn first_index(&self) -> Index {
        self.base.index.next()
    }

    /// The last index.
    pub fn last_index(&self) -> Index {
        self.last.index
    }

    /// The term of the last entry.
    pub fn last_term(&self) -> Term {
        self.last.term
    }

    /// The group's clock at the last entry. After a snapshot it is what
    /// [`Raft::raise_time`](super::Raft::raise_time) was told.
    pub fn last_time(&self) -> Elapsed {
        self.last.time
    }

    /// Who belongs to the group by the newest entry that says so, committed or not.
    pub fn configuration(&self) -> &Configuration {
        &self.configurations.newest().1
    }

    /// Where [`Log::configuration`] was said, or an index after it up to which nothing else was.
    pub fn configuration_index(&self) -> Index {
        self.configurations.newest().0
    }

    /// Who belonged to the group at `index`, which is in memory or just before.
    pub fn configuration_at(&self, index: Index) -> &Configuration {
        &self.configurations.at(index).1
    }

    /// Who belonged to the group before [`Log::configuration`].
    pub(super) fn configuration_before(&self) -> &Configuration {
        self.configurations.before_newest()
    }

    /// Says who belongs to the group where the log begins.
    pub(super) fn found(&mut self, configuration: Configuration) {
        self.configurations.found(self.base.index, configuration);
    }

    /// A planted bug: nothing is left but what a base at zero is told anew.
    pub(super) fn forget_configurations(&mut self) {
        let base = self.configurations.at(self.base.index).1.clone();
        self.configurations.reset(self.base.index, base);
    }

    /// The entry at `index`, if it is in memory.
    pub fn entry(&self, index: Index) -> Option<Entry<'_>> {
        let place = self.place(index)?;
        let bytes = &self.chunk(place.chunk).bytes[place.offset as usize..];
        Some(entry::read_unchecked(bytes).expect("the log holds whole entries"))
    }

    /// The term at `index`: of an entry in memory, or of the one just before the first.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        if index == self.last.index {
            return Some(self.last.term);
        }
        self.entry(index).map(|e| e.header.term)
    }

    /// The bytes of the entries from `first` to `last`, which must be one run
    /// ([`Log::run_end`]), as every range in an [`Output`](super::Output) is.
    pub fn bytes(&self, first: Index, last: Index) -> &[u8] {
        let (Some(a), Some(b)) = (self.place(first), self.place(last)) else {
            panic!("entries {first} to {last} are not in memory");
        };
        assert!(first <= last, "a run has an entry");
        assert_eq!(a.chunk, b.chunk, "a run lies in one chunk");
        let length = usize::try_from(self.end(last) - a.begin).expect("a run fits a chunk");
        let start = a.offset as usize;
        &self.chunk(a.chunk).bytes[start..start + length]
    }

    /// The last index of the run that begins at `first`, is at most `bytes_max` long (but has an
    /// entry) and goes up to `last` at most.
    pub fn run_end(&self, first: Index, last: Index, bytes_max: usize) -> Index {
        let start = self.place(first).expect("a run begins in memory");
        assert!(first <= last && last <= self.last.index, "a run ends in memory");
        let fits = |index: Index| {
            self.place(index).is_some_and(|p| p.chunk == start.chunk)
                && self.end(index) - start.begin <= bytes_max as u64
        };
        if fits(last) {
            return last;
        }
        // `low` belongs to the run, `high` does not.
        let (mut low, mut high) = (first.0, last.0);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if fits(Index(middle)) { low = middle } else { high = middle }
        }
        Index(low)
    }

    /// Bytes of the entries after `after`, as far as they are in memory.
    pub fn bytes_after(&self, after: Index) -> u64 {
        if after < self.base.index {
            return self.last_end - self.base_end;
        }
        self.last_end - self.end(after.min(self.last.index))
    }

    /// Bytes of the entries after `after` up to `upto`, as far as they are in memory.
    pub fn bytes_between(&self, after: Index, upto: Index) -> u64 {
        self.bytes_after(after).saturating_sub(self.bytes_after(upto))
    }

    /// The highest index that can be dropped such that at least `bytes` are kept, if there are as many.
    pub(super) fn kept_from(&self, bytes: usize) -> Index {
        let keep = self.last_end.saturating_sub(bytes as u64);
        let count = self.places.partition_point(|p| p.begin <= keep);
        // Entry number `count` is the last that begins at or before `keep`: what is before it can go.
        Index(self.base.index.0 + (count as u64).saturating_sub(1))
    }

    /// `append` alone, for `cargo bench`.
    #[cfg(feature = "simulator")]
    pub fn append_one(&mut self, header: &EntryHeader, payload: &[u8]) {
        self.append(header, payload);
    }

    /// `drop_to` alone, for `cargo bench`.
    #[cfg(feature = "simulator")]
    pub fn drop_upto(&mut self, upto: Index) {
        self.drop_to(upto);
    }

    /// The last index up to `index` whose term is at most `term`, unless it is gone.
    pub(super) fn last_with_term_at_most(&self, index: Index, term: Term) -> Option<Index> {
        let index = index.min(self.last.index);
        if index < self.base.index || self.base.term > term {
            return None;
        }
        // Terms never fall: `low` is at most `term`, `high` is not.
        let (mut low, mut high) = (self.base.index.0, index.0 + 1);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            let at = self.term_at(Index(middle)).expect("the range is in memory");
            if at <= term { low = middle } else { high = middle }
        }
        Some(Index(low))
    }

    /// Appends an entry.
    #[inline]
    pub(super) fn append(&mut self, header: &EntryHeader, payload: &[u8]) {
        assert_eq!(header.index, self.last.index.next(), "the log has no gap");
        assert!(header.term >= self.last.term, "terms never fall");
        let length = ENTRY_HEADER_BYTES + payload.len();
        self.make_room(length);
        let number = self.chunk_last();
        let chunk = self.chunks.back_mut().expect("room was made");
        let offset = chunk.bytes.len();
        entry::write(header, payload, &mut chunk.bytes);
        assert_eq!(chunk.bytes.len(), offset + length, "an entry is its header and payload");
        self.note(number, offset, header, payload, length);
    }

    /// Appends a run of entries, which were verified and follow the last.
    pub(super) fn extend(&mut self, mut run: &[u8]) {
        while !run.is_empty() {
            let mut next = entry::read_unchecked(run).expect("the run was verified");
            self.make_room(next.bytes.len());
            let number = self.chunk_last();
            let chunk = self.chunks.back().expect("room was made");
            let (start, room) = (chunk.bytes.len(), chunk.limit - chunk.bytes.len());
            let mut taken = 0;
            loop {
                assert_eq!(next.header.index, self.last.index.next(), "the log has no gap");
                assert!(next.header.term >= self.last.term, "terms never fall");
                let (header, length) = (next.header, next.bytes.len());
                self.note(number, start + taken, &header, next.payload, length);
                taken += next.bytes.len();
                if taken == run.len() {
                    break;
                }
                next = entry::read_unchecked(&run[taken..]).expect("the run was verified");
                if taken + next.bytes.len() > room {
                    break;
                }
            }
            let chunk = self.chunks.back_mut().expect("room was made");
            chunk.bytes.extend_from_slice(&run[..taken]);
            run = &run[taken..];
        }
    }

    /// Cuts the entries from `from` on.
    pub(super) fn truncate(&mut self, from: Index) {
        assert!(from > self.base.index, "what is gone can't be cut");
        let Some(place) = self.place(from) else { return };
        self.last = self.mark(from.prev());
        self.last_end = place.begin;
        self.configurations.truncate(from);
        self.places.truncate(self.slot(from));
        while self.chunk_last() != place.chunk {
            let chunk = self.chunks.pop_back().expect("the entry's chunk is there");
            self.recycle(chunk);
        }
        let chunk = self.chunks.back_mut().expect("the entry's chunk is there");
        chunk.bytes.truncate(place.offset as usize);
    }

    /// Drops the entries up to `upto` from memory.
    pub(super) fn drop_to(&mut self, upto: Index) {
        assert!(upto <= self.last.index, "only what is there can be dropped");
        if upto <= self.base.index {
            return;
        }
        let mark = self.mark(upto);
        self.base_end = self.end(upto);
        self.places.drain(..=self.slot(upto));
        self.base = mark;
        self.configurations.drop_to(upto);
        let live = self.places.front().map(|p| p.chunk);
        while !self.chunks.is_empty() && live != Some(self.chunk_first) {
            if live.is_none() && self.chunks.len() == 1 {
                // Nothing points into it: it is as good as new.
                self.chunks[0].bytes.clear();
                break;
            }
            let chunk = self.chunks.pop_front().expect("a chunk is there");
            self.chunk_first = self.chunk_first.wrapping_add(1);
            self.recycle(chunk);
        }
    }

    /// Forgets everything: the log continues after (`index`, `term`), where `configuration` holds.
    pub(super) fn reset(&mut self, index: Index, term: Term, configuration: Configuration) {
        let time = self.last.time;
        self.places.clear();
        while let Some(chunk) = self.chunks.pop_back() {
            self.recycle(chunk);
        }
        self.base = Mark { index, term, time };
        self.last = self.base;
        self.base_end = self.last_end;
        self.configurations.reset(index, configuration);
    }

    /// What comes next is not before `time`.
    pub(super) fn raise_time(&mut self, time: Elapsed) {
        self.base.time = self.base.time.max(time);
        self.last.time = self.last.time.max(time);
    }

    fn note(
        &mut self,
        chunk: u32,
        offset: usize,
        header: &EntryHeader,
        payload: &[u8],
        length: usize,
    ) {
        if header.kind == kind::MEMBERS {
            let configuration = Configuration::decode(payload).expect("the entry was verified");
            self.configurations.push(header.index, configuration);
        }
        let offset = u32::try_from(offset).expect("a chunk is far below 4 GiB");
        self.places.push_back(Location { begin: self.last_end, chunk, offset });
        self.last_end += length as u64;
        let time = header.time.max(self.last.time);
        self.last = Mark { index: header.index, term: header.term, time };
    }

    fn make_room(&mut self, length: usize) {
        if self.chunks.back().is_some_and(|c| c.limit - c.bytes.len() >= length) {
            return;
        }
        let limit = self.chunk_bytes.max(length);
        let spare = if limit == self.chunk_bytes { self.spare.pop() } else { None };
        let bytes = spare.unwrap_or_else(|| Vec::with_capacity(limit));
        self.chunks.push_back(Chunk { bytes, limit });
    }

    fn recycle(&mut self, mut chunk: Chunk) {
        if chunk.limit == self.chunk_bytes && self.spare.len() < CHUNKS_SPARE_MAX {
            chunk.bytes.clear();
            self.spare.push(chunk.bytes);
        }
    }

    fn mark(&self, index: Index) -> Mark {
        if index == self.base.index {
            return self.base;
        }
        if index == self.last.index {
            return self.last;
        }
        let header = self.entry(index).expect("the entry is in memory").header;
        Mark { index, term: header.term, time: header.time.max(self.base.time) }
    }

    fn slot(&self, index: Index) -> usize {
        usize::try_from(index.0 - self.base.index.0 - 1).expect("a log fits in memory")
    }

    fn place(&self, index: Index) -> Option<Location> {
        if index <= self.base.index || index > self.last.index {
            return None;
        }
        self.places.get(self.slot(index)).copied()
    }

    /// Where the entry at `index` ends, counted over all entries ever.
    fn end(&self, index: Index) -> u64 {
        if index == self.base.index {
            return self.base_end;
        }
        self.place(index.next()).map_or(self.last_end, |p| p.begin)
    }

    fn chunk(&self, number: u32) -> &Chunk {
        &self.chunks[number.wrapping_sub(self.chunk_first) as usize]
    }

    fn chunk_last(&self) -> u32 {
        let count = u32::try_from(self.chunks.len()).expect("a log fits in memory");
        self.chunk_first.wrapping_add(count).wrapping_sub(1)
    }
}
