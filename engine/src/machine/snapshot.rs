//! The whole state as bytes.
//!
//! ```text
//! head:     magic "TCSM" | version u32
//! then rows, each: length u32 | content
//! first:    level u32, from version 3 on | cluster u64 | cache budget u64 | clock u64 | last number u64
//!             | sessions u32 | locks u32 | queues u32 | messages u32 | lines u32 | mail u32, from version 5 on
//!             | ended session ids, 16 each, up to version 3
//! tail:     CRC-32C u32 of all before it
//! ```
//!
//! What the rows say is told beside their tables: `ledger/codec.rs`, `locks/codec.rs`, `queues/codec.rs` and
//! `cache/codec.rs`, `outbox/codec.rs`.
//!
//! Integers are little-endian; names and payloads come behind their length, a u32. The rows of a table come in any
//! order. Timers, counts, and what a session owns follow from the rest.
//!
//! In slices rows come as a [`Walk`](super::walk::Walk) shows them: as they lie in this process's memory, where no
//! other replica's need lie. [`Machine::snapshot`] sorts them, for comparisons: equal states give equal bytes there.
//!
//! # How it works
//!
//! [`Machine::snapshot_begin`] marks the moment: it writes the head, and from then on every table owes its
//! rows as they are. [`Machine::snapshot_slice`] writes some of them, between any two entries, until none is
//! owed. Whoever changes a row that is owed has it kept first, as bytes (`keep_*`): a session's before a call
//! of it, a lock's before a grant of it, a message's before it moves. What a row's bytes refer to, a
//! session's id or a lock's name, goes only after that row changed. So however long it takes, the bytes are
//! those of the moment.
//!
//! # Cost
//!
//! - A write pays one look at whether there is a walk; while there is one, at most one copy of its own row.
//!   A read pays nothing.
//! - To begin: the ended ids. While it lasts: a bit for each slot, and what is kept, which is at most the
//!   snapshot itself.
//! - A slice ends with the first row that exceeds its budget, however the keys were chosen. A lock's grants, of which
//!   there may be as many as sessions, are written one by one.
//! - One snapshot at a time: whoever wants a second one waits for the end of the first.

use super::Machine;
use super::codec::{RowReader, begin_row, end_row, put_count};
use super::restore::{Corrupt, Part};
use super::table::{Row, Table};
use super::walk::{Owed, WalkStep};
use crate::level::Level;
use crate::limits::{SLICE_BYTES_MAX, SLICE_ROWS_MAX};
use alloc::vec::Vec;
use wire::bytes::Put;

pub(super) const MAGIC: u32 = u32::from_le_bytes(*b"TCSM");
/// Of the oldest level's snapshots.
pub(super) const VERSION_OLDEST: u32 = 2;
/// Of snapshots that say their level.
pub(super) const VERSION_SAID: u32 = 3;
/// Of snapshots whose ended sessions are rows.
pub(super) const VERSION_ENDED: u32 = 4;
/// Of snapshots with mail from group to group.
pub(super) const VERSION: u32 = 5;
/// Size of the checksum at the end.
pub const TAIL_BYTES: usize = 4;
/// Slots that are passed over at the cost of one row.
const SLOTS_A_ROW: usize = 16;
/// Bytes that are freed at the cost of one that is copied: their pages go back to the system.
const FREED_A_BYTE: usize = 16;

/// How much one slice may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slice {
    /// Rows.
    pub rows: usize,
    /// Bytes.
    pub bytes: usize,
}

impl Slice {
    /// One slice of a turn: about 0.1 ms in the mean, and no more than a few rows over its budget.
    pub const SHORT: Slice = Slice { rows: SLICE_ROWS_MAX, bytes: SLICE_BYTES_MAX };
    /// All at once.
    pub const WHOLE: Slice = Slice { rows: usize::MAX, bytes: usize::MAX };

    /// Spends what it costs to free so many bytes of one row.
    pub(super) fn spend_freed(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes / FREED_A_BYTE);
    }

    /// Spends some of it. False: nothing is left.
    pub(super) fn spend(&mut self, rows: usize, bytes: usize) -> bool {
        self.rows = self.rows.saturating_sub(rows);
        self.bytes = self.bytes.saturating_sub(bytes);
        self.rows > 0 && self.bytes > 0
    }
}

/// How far something that is done in slices has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SliceProgress {
    /// There is more to do.
    More,
    /// That was all.
    Done,
}

/// Puts one row in its order; says whether there are more.
type Order = fn(&mut Machine) -> Result<SliceProgress, Corrupt>;

/// What a table has to do with snapshots.
pub(super) struct Section {
    /// The first version that has it.
    pub(super) since: u32,
    /// How many rows there are.
    rows: fn(&Machine) -> usize,
    /// Begins a walk over the rows as they are now.
    begin: fn(&mut Machine),
    /// Goes on with the walk.
    walk: fn(&mut Machine, &mut Slice, &mut Vec<u8>) -> SliceProgress,
    /// Reads a row, or a part of one.
    pub(super) read: fn(&mut Machine, &mut RowReader<'_>) -> Result<Part, Corrupt>,
    /// Puts a row that was read in its order, once all rows of all tables were read.
    pub(super) order: Option<Order>,
    /// Frees some of the table. True: nothing is left.
    pub(super) shed: fn(&mut Machine, &mut Slice) -> bool,
}

/// The tables, in the order of the bytes.
pub(super) const SECTIONS: [Section; 6] = [
    Section {
        since: VERSION_OLDEST,
        rows: |m| m.ledger.session_rows(),
        begin: |m| m.ledger.begin_walk(),
        walk: |m, slice, out| m.ledger.walk(slice, out),
        read: |m, from| m.ledger.read_session(from),
        order: Some(Machine::order_wait),
        shed: |m, slice| m.ledger.shed(slice),
    },
    Section {
        since: VERSION_OLDEST,
        rows: |m| m.locks.len(),
        begin: |m| m.locks.begin_walk(),
        walk: |m, slice, out| m.locks.walk(&m.ledger, slice, out),
        read: |m, from| m.locks.read(&mut m.ledger, from),
        order: None,
        shed: |m, slice| m.locks.shed(slice),
    },
    Section {
        since: VERSION_OLDEST,
        rows: |m| m.queues.len(),
        begin: |m| m.queues.begin_walk_queues(),
        walk: |m, slice, out| m.queues.walk_queues(slice, out),
        read: |m, from| m.queues.read_queue(from),
        order: None,
        shed: |m, slice| m.queues.shed_queues(slice),
    },
    Section {
        since: VERSION_OLDEST,
        rows: |m| m.queues.message_rows(),
        begin: |m| m.queues.begin_walk_messages(),
        walk: |m, slice, out| m.queues.walk_messages(&m.ledger, slice, out),
        read: |m, from| m.queues.read_message(&mut m.ledger, from),
        order: None,
        shed: |m, slice| m.queues.shed_messages(slice),
    },
    Section {
        since: VERSION_OLDEST,
        rows: |m| m.cache.len(),
        begin: |m| m.cache.begin_walk(),
        walk: |m, slice, out| m.cache.walk(slice, out),
        read: |m, from| m.cache.read(from),
        order: Some(|m| Ok(m.cache.order(&mut m.ledger))),
        shed: |m, slice| m.cache.shed(slice),
    },
    Section {
        since: VERSION,
        rows: |m| m.mails.rows(),
        begin: |m| m.mails.begin_walk(),
        walk: |m, slice, out| m.mails.walk(slice, out),
        read: |m, from| m.mails.read(from),
        order: Some(|m| m.mails.check_read()),
        shed: |m, slice| m.mails.shed(slice),
    },
];

/// How far a snapshot that is being made has come.
pub(super) struct SnapshotCursor {
    /// Which of [`SECTIONS`] is being written.
    section: usize,
    /// The checksum of what was given out.
    sum: u32,
}

impl Machine {
    /// Appends the whole state to `out`, in one go, as slices would give it.
    pub(crate) fn snapshot_whole(&mut self, out: &mut Vec<u8>) {
        self.snapshot_begin(out);
        while self.snapshot_slice(Slice::WHOLE, out) == SliceProgress::More {}
    }

    // ---- In slices ----

    /// Begins a snapshot of the state as it is now, and appends its first bytes.
    pub fn snapshot_begin(&mut self, out: &mut Vec<u8>) {
        assert!(self.making.is_none(), "one snapshot at a time");
        let start = out.len();
        self.put_head(out);
        SECTIONS.iter().for_each(|section| (section.begin)(self));
        self.making = Some(SnapshotCursor { section: 0, sum: crc32c::crc32c(&out[start..]) });
    }

    /// Appends the snapshot's next bytes: with the rows that [`Machine::snapshot`] would have given when it began.
    pub fn snapshot_slice(&mut self, mut slice: Slice, out: &mut Vec<u8>) -> SliceProgress {
        let SnapshotCursor { mut section, mut sum } =
            self.making.take().expect("a snapshot was begun");
        let start = out.len();
        while let Some(table) = SECTIONS.get(section) {
            if (table.walk)(self, &mut slice, out) == SliceProgress::More {
                break;
            }
            section += 1;
        }
        sum = crc32c::crc32c_append(sum, &out[start..]);
        if section == SECTIONS.len() {
            out.put_u32(sum);
            return SliceProgress::Done;
        }
        self.making = Some(SnapshotCursor { section, sum });
        SliceProgress::More
    }

    pub(super) fn put_head(&self, out: &mut Vec<u8>) {
        out.put_u32(MAGIC);
        let version = version(self.ledger.level());
        out.put_u32(version);
        let at = begin_row(out);
        self.ledger.put_level(out);
        out.put_u64(self.config.cluster);
        out.put_u64(self.config.cache_bytes_max);
        self.ledger.put_head(out);
        let sections = SECTIONS.iter().filter(|section| section.since <= version);
        sections.for_each(|section| put_count(out, (section.rows)(self)));
        self.ledger.put_ended(out);
        end_row(out, at);
    }
}

/// Goes on with the walk over a table; `put` appends a row that is owed.
pub(super) fn walk<R: Row>(
    table: &mut Table<R>,
    slice: &mut Slice,
    out: &mut Vec<u8>,
    mut put: impl FnMut(&Table<R>, &Owed, &mut Vec<u8>),
) -> SliceProgress {
    loop {
        let before = out.len();
        let rows = match table.walk_on() {
            WalkStep::End => return SliceProgress::Done,
            WalkStep::Skipped(slots) => skipped(slots),
            WalkStep::Row(owed) => {
                put(table, &owed, out);
                1
            }
        };
        if !slice.spend(rows, out.len() - before) {
            return SliceProgress::More;
        }
    }
}

/// At the cost of how many rows so many slots are passed over.
pub(super) fn skipped(slots: usize) -> usize {
    slots.div_ceil(SLOTS_A_ROW)
}

/// The version of a snapshot at a level.
fn version(level: Level) -> u32 {
    match level {
        level if level >= Level::OUTBOX => VERSION,
        level if level >= Level::BOUNDED => VERSION_ENDED,
        level if level >= Level::SAID => VERSION_SAID,
        _ => VERSION_OLDEST,
    }
}
