//! The whole state as bytes.
//!
//! ```text
//! head:     magic "TCSM" | version u32
//! then rows, each: length u32 | content
//! first:    level u32, from version 3 on | cluster u64 | cache budget u64 | clock u64 | last number u64
//!             | sessions u32 | locks u32 | queues u32 | messages u32 | lines u32
//!             | ended session ids, 16 each, up to version 3
//! session:  id 16 | number u64 | ttl ms u32 | standing u8, from version 4 on | deadline u64 | answered below u64
//!             | calls u32 | calls x ( sequence u64 | what )
//! lock:     name | mode u8 | grants u32 | grants x ( session 16 | fence u64 | count u32 | deadline u64 )
//! queue:    name
//! message:  id u64 | queue u32 | priority u8 | delivery u32
//!             | place u8 | session 16 if in flight | deadline u64 unless ready | payload
//! line:     version u64 | deadline u64 | key | value
//! tail:     CRC-32C u32 of all before it
//!
//! name, key, payload, value:  length u32 | bytes
//! what:     0 | token u64    or  1 | id u64 | delivery u32    or  2 | code u16
//!           or 3 | wait | mode u8 | lease ms u32    or  4 | wait | visibility ms u32
//! wait:     ticket u64 | deadline u64 | name of the lock or queue
//! standing: 0 = it lives, 1 = it ended, and its deadline is when it is forgotten
//! place:    0 = ready, 1 = in flight, 2 = delayed
//! ```
//!
//! Integers are little-endian. The rows of a table come in any order; grants in theirs; a message names its queue by
//! its place among the queues. Who waits stands in line by ticket. Timers, counts, and what a session
//! owns follow from the rest.
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
//! - A slice ends with the first row that exceeds its budget, however the keys were chosen. A lock's grants, of which there may be as many as sessions, are written one by one, and what is left
//!   of them is kept when one is about to change.
//! - One snapshot at a time: whoever wants a second one waits for the end of the first.

use super::queues::Place;
use super::sessions::{Ask, Remembered};
use super::table::{Row, Table};
use super::walk::{Next, Owed};
use super::{Machine, Outcome};
use crate::level::Level;
use crate::limits::{SLICE_BYTES_MAX, SLICE_ROWS_MAX};
use crate::mutant::{self, Mutant};
use alloc::boxed::Box;
use alloc::vec::Vec;

pub(super) const MAGIC: u32 = u32::from_le_bytes(*b"TCSM");
/// Of the oldest level's snapshots.
pub(super) const VERSION_OLDEST: u32 = 2;
/// Of snapshots that say their level.
pub(super) const VERSION_SAID: u32 = 3;
/// Of snapshots whose ended sessions are rows.
pub(super) const VERSION: u32 = 4;
/// Size of the checksum at the end.
pub const TAIL_BYTES: usize = 4;
/// Size of what says how long a row is.
pub(super) const LENGTH_BYTES: usize = 4;
/// Size of a grant in a lock's row.
const GRANT_BYTES: usize = 16 + 8 + 4 + 8;
/// Where a message's row names its queue.
const MESSAGE_QUEUE_AT: usize = 8;
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
pub enum Progress {
    /// There is more to do.
    More,
    /// That was all.
    Done,
}

/// The tables, in the order of the bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Section {
    Sessions,
    Locks,
    Queues,
    Messages,
    Lines,
    Tail,
}

impl Section {
    pub(super) fn next(self) -> Section {
        match self {
            Section::Sessions => Section::Locks,
            Section::Locks => Section::Queues,
            Section::Queues => Section::Messages,
            Section::Messages => Section::Lines,
            Section::Lines | Section::Tail => Section::Tail,
        }
    }
}

/// A snapshot that is being made.
pub(super) struct Making {
    section: Section,
    /// The checksum of what was given out.
    sum: u32,
    queues: Places,
    open: Option<Open>,
}

/// A lock's row of which only some was written.
struct Open {
    lock: u32,
    /// The next grant, of those that are still as they were.
    next: Option<u32>,
    /// The row's last bytes as they were, and how many of these were written.
    kept: Box<[u8]>,
    at: usize,
}

impl Making {
    /// A row was written.
    fn note(&mut self, slot: u32) {
        if self.section == Section::Queues {
            self.queues.put(slot);
        }
    }
}

/// Where each queue stands among the queues, by its slot.
#[derive(Default)]
struct Places {
    by_slot: Vec<u32>,
    count: u32,
}

impl Places {
    fn put(&mut self, slot: u32) {
        let at = slot as usize;
        if at >= self.by_slot.len() {
            self.by_slot.resize(at + 1, u32::MAX);
        }
        self.by_slot[at] = self.count;
        self.count += 1;
    }

    /// Names a message's queue by its place and not by its slot.
    fn rename(&self, message: &mut [u8]) {
        if mutant::on(Mutant::QueueBySlot) {
            return;
        }
        let name = message[MESSAGE_QUEUE_AT..].first_chunk_mut::<4>();
        let name = name.expect("a message names its queue");
        *name = self.by_slot[u32::from_le_bytes(*name) as usize].to_le_bytes();
    }
}

impl Machine {
    /// Appends the whole state to `out`, in one go, its rows sorted: equal states give equal bytes, wherever their rows
    /// lie. For comparisons; what is to be restored is made in slices.
    pub fn snapshot(&self, out: &mut Vec<u8>) {
        let start = out.len();
        self.write_head(out);
        let write = session_writer(self.level);
        put_sorted(out, self.sessions.table.iter().map(|(slot, _)| self.row(slot, write)));
        put_sorted(out, self.locks.iter().map(|(s, _)| self.row(s, Self::write_lock)));
        let mut places = Places::default();
        let queues = self.queues.iter().map(|(slot, _)| (self.row(slot, Self::write_queue), slot));
        let mut queues: Vec<_> = queues.collect();
        queues.sort_unstable();
        queues.iter().for_each(|(_, slot)| places.put(*slot));
        put_sorted(out, queues.into_iter().map(|(row, _)| row));
        put_sorted(
            out,
            self.messages.iter().map(|(slot, _)| {
                let mut row = self.row(slot, Self::write_message);
                places.rename(&mut row[LENGTH_BYTES..]);
                row
            }),
        );
        put_sorted(out, self.lines.iter().map(|(slot, _)| self.row(slot, Self::write_line)));
        let sum = crc32c::crc32c(&out[start..]);
        put_u32(out, sum);
    }

    /// Appends the whole state to `out`, in one go, as slices would give it.
    pub(crate) fn snapshot_whole(&mut self, out: &mut Vec<u8>) {
        self.snapshot_begin(out);
        while self.snapshot_slice(Slice::WHOLE, out) == Progress::More {}
    }

    // ---- In slices ----

    /// Begins a snapshot of the state as it is now, and appends its first bytes.
    pub fn snapshot_begin(&mut self, out: &mut Vec<u8>) {
        assert!(self.making.is_none(), "one snapshot at a time");
        let start = out.len();
        self.making_level = self.level;
        self.write_head(out);
        self.sessions.table.begin_walk();
        self.locks.begin_walk();
        self.queues.begin_walk();
        self.messages.begin_walk();
        self.lines.begin_walk();
        let (sum, queues) = (crc32c::crc32c(&out[start..]), Places::default());
        let (section, open) = (Section::Sessions, None);
        self.making = Some(Box::new(Making { section, sum, queues, open }));
    }

    /// Appends the snapshot's next bytes: with the rows that [`Machine::snapshot`] would have given when it began.
    pub fn snapshot_slice(&mut self, mut slice: Slice, out: &mut Vec<u8>) -> Progress {
        let mut making = self.making.take().expect("a snapshot was begun");
        let start = out.len();
        while making.section != Section::Tail {
            if self.walk_section(&mut making, &mut slice, out) == Progress::More {
                break;
            }
            making.section = making.section.next();
        }
        making.sum = crc32c::crc32c_append(making.sum, &out[start..]);
        if making.section == Section::Tail {
            put_u32(out, making.sum);
            return Progress::Done;
        }
        self.making = Some(making);
        Progress::More
    }

    /// Whether a snapshot is being made.
    pub fn is_in_snapshot(&self) -> bool {
        self.making.is_some()
    }

    fn walk_section(
        &mut self,
        making: &mut Making,
        slice: &mut Slice,
        out: &mut Vec<u8>,
    ) -> Progress {
        match making.section {
            Section::Sessions => {
                let write = session_writer(self.making_level);
                self.walk(|m| &mut m.sessions.table, write, making, slice, out)
            }
            Section::Locks => self.walk(|m| &mut m.locks, Machine::write_lock, making, slice, out),
            Section::Queues => {
                self.walk(|m| &mut m.queues, Machine::write_queue, making, slice, out)
            }
            Section::Messages => {
                self.walk(|m| &mut m.messages, Machine::write_message, making, slice, out)
            }
            Section::Lines => self.walk(|m| &mut m.lines, Machine::write_line, making, slice, out),
            Section::Tail => Progress::Done,
        }
    }

    /// Goes on with the walk over a table.
    fn walk<R: Row>(
        &mut self,
        table: fn(&mut Machine) -> &mut Table<R>,
        write: fn(&Machine, u32, &mut Vec<u8>),
        making: &mut Making,
        slice: &mut Slice,
        out: &mut Vec<u8>,
    ) -> Progress {
        loop {
            if self.go_on_lock(making, slice, out) == Progress::More {
                return Progress::More;
            }
            let before = out.len();
            let rows = match table(self).walk_on() {
                Next::End => return Progress::Done,
                Next::Skipped(slots) => slots.div_ceil(SLOTS_A_ROW),
                Next::Row(owed) if making.section == Section::Locks => {
                    self.open_lock(owed, making, out);
                    1
                }
                Next::Row(owed) => {
                    self.put_owed(&owed, write, making, out);
                    making.note(owed.slot);
                    1
                }
            };
            if !slice.spend(rows, out.len() - before) {
                return Progress::More;
            }
        }
    }

    /// Begins a lock's row: its length and what comes before its grants.
    fn open_lock(&mut self, owed: Owed, making: &mut Making, out: &mut Vec<u8>) {
        let (lock, kept) = (owed.slot, owed.kept.unwrap_or_default());
        let mut next = None;
        if kept.is_empty() {
            let row = begin_row(out);
            self.write_lock_head(lock, out);
            let grants = self.locks[lock].grants;
            next = grants.first();
            end_row_after(out, row, grants.len() * GRANT_BYTES);
            self.locks.set_open(Some(lock));
        } else {
            put_count(out, kept.len());
        }
        making.open = Some(Open { lock, next, kept, at: 0 });
    }

    /// Goes on with a lock's row, if one was begun.
    fn go_on_lock(
        &mut self,
        making: &mut Making,
        slice: &mut Slice,
        out: &mut Vec<u8>,
    ) -> Progress {
        let Some(open) = &mut making.open else { return Progress::Done };
        while let Some(grant) = open.next {
            self.write_grant(grant, out);
            open.next = self.grants[grant].links.next();
            if !slice.spend(1, GRANT_BYTES) {
                return Progress::More;
            }
        }
        let rest = &open.kept[open.at..];
        let bytes = rest.len().min(slice.bytes);
        out.extend_from_slice(&rest[..bytes]);
        open.at += bytes;
        if bytes < rest.len() {
            return Progress::More;
        }
        making.open = None;
        self.locks.set_open(None);
        if slice.spend(0, bytes) { Progress::Done } else { Progress::More }
    }

    /// Keeps the rest of a lock's row if some of it was written. False: none was.
    #[cold]
    fn close_lock(&mut self, slot: u32) -> bool {
        let Some(mut making) = self.making.take() else { return false };
        let open = making.open.as_mut().filter(|open| open.lock == slot);
        let was_open = open.is_some();
        if let Some(open) = open {
            let mut rest = Vec::new();
            while let Some(grant) = open.next {
                self.write_grant(grant, &mut rest);
                open.next = self.grants[grant].links.next();
            }
            if !rest.is_empty() {
                open.kept = rest.into_boxed_slice();
            }
            self.locks.set_open(None);
        }
        self.making = Some(making);
        was_open
    }

    /// Writes a row that is owed, as it was.
    fn put_owed(
        &self,
        owed: &Owed,
        write: fn(&Machine, u32, &mut Vec<u8>),
        making: &Making,
        out: &mut Vec<u8>,
    ) {
        let at = begin_row(out);
        match &owed.kept {
            Some(bytes) => out.extend_from_slice(bytes),
            None => write(self, owed.slot, out),
        }
        if making.section == Section::Messages {
            making.queues.rename(&mut out[at..]);
        }
        end_row(out, at);
    }

    // ---- What is kept before it changes ----

    /// A session, or a call of it, is about to change.
    #[inline]
    pub(super) fn keep_session(&mut self, slot: u32) {
        if self.sessions.table.owes(slot) {
            let bytes = self.kept(slot, session_writer(self.making_level));
            self.sessions.table.keep(slot, bytes);
        }
    }

    /// A lock, or a grant of it, is about to change.
    #[inline]
    pub(super) fn keep_lock(&mut self, slot: u32) {
        if self.locks.owes(slot) && !self.close_lock(slot) {
            let bytes = self.kept(slot, Machine::write_lock);
            self.locks.keep(slot, bytes);
        }
    }

    /// A queue is about to go.
    #[inline]
    pub(super) fn keep_queue(&mut self, slot: u32) {
        if self.queues.owes(slot) {
            let bytes = self.kept(slot, Machine::write_queue);
            self.queues.keep(slot, bytes);
        }
    }

    /// A message is about to move.
    #[inline]
    pub(super) fn keep_message(&mut self, slot: u32) {
        if self.messages.owes(slot) {
            let bytes = self.kept(slot, Machine::write_message);
            self.messages.keep(slot, bytes);
        }
    }

    /// A line is about to change.
    #[inline]
    pub(super) fn keep_line(&mut self, slot: u32) {
        if self.lines.owes(slot) {
            let bytes = self.kept(slot, Machine::write_line);
            self.lines.keep(slot, bytes);
        }
    }

    #[cold]
    fn kept(&self, slot: u32, write: fn(&Machine, u32, &mut Vec<u8>)) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(self, slot, &mut bytes);
        bytes
    }

    // ---- Rows ----

    fn row(&self, slot: u32, write: fn(&Machine, u32, &mut Vec<u8>)) -> Vec<u8> {
        let mut row = Vec::new();
        let at = begin_row(&mut row);
        write(self, slot, &mut row);
        end_row(&mut row, at);
        row
    }

    fn write_head(&self, out: &mut Vec<u8>) {
        put_u32(out, MAGIC);
        let says = self.level >= Level::SAID;
        put_u32(out, version(self.level));
        let at = begin_row(out);
        if says {
            put_u32(out, self.level.0);
        }
        put_u64(out, self.config.cluster);
        put_u64(out, self.config.cache_bytes_max);
        put_u64(out, self.clock.0);
        put_u64(out, self.issued);
        put_count(out, self.sessions.table.len());
        put_count(out, self.locks.len());
        put_count(out, self.queues.len());
        put_count(out, self.messages.len());
        put_count(out, self.lines.len());
        self.sessions.ended.iter().for_each(|id| out.extend_from_slice(&id.0));
        end_row(out, at);
    }

    fn write_session(&self, slot: u32, out: &mut Vec<u8>) {
        let session = &self.sessions.table[slot];
        out.extend_from_slice(&session.id.0);
        put_u64(out, session.number);
        put_u32(out, session.ttl_ms);
        out.push(session.standing as u8);
        self.write_session_rest(slot, out);
    }

    /// As versions up to 3 have it.
    fn write_session_older(&self, slot: u32, out: &mut Vec<u8>) {
        let session = &self.sessions.table[slot];
        out.extend_from_slice(&session.id.0);
        put_u64(out, session.number);
        put_u32(out, session.ttl_ms);
        self.write_session_rest(slot, out);
    }

    fn write_session_rest(&self, slot: u32, out: &mut Vec<u8>) {
        let session = &self.sessions.table[slot];
        put_u64(out, session.deadline.0);
        put_u64(out, session.window.answered_below);
        let forgotten = mutant::on(Mutant::ForgetWindow);
        let calls = session.window.calls.iter();
        let told = |what: &Remembered| !forgotten || matches!(what, Remembered::Waiting(_));
        let calls = calls.filter(|(_, what)| told(what));
        put_count(out, calls.clone().count());
        for (sequence, what) in calls {
            put_u64(out, *sequence);
            match what {
                Remembered::Outcome(outcome) => put_outcome(out, *outcome),
                Remembered::Waiting(waiter) => self.put_waiter(out, *waiter),
            }
        }
    }

    fn put_waiter(&self, out: &mut Vec<u8>, slot: u32) {
        let waiter = &self.waiters[slot];
        let (what, name) = match waiter.ask {
            Ask::Lock { lock, .. } => (3, &self.locks[lock].name),
            Ask::Pop { queue, .. } => (4, &self.queues[queue].name),
        };
        out.push(what);
        put_u64(out, waiter.ticket);
        put_u64(out, waiter.deadline.0);
        put_bytes(out, name);
        match waiter.ask {
            Ask::Lock { mode, lease_ms, .. } => {
                out.push(mode as u8);
                put_u32(out, lease_ms);
            }
            Ask::Pop { visibility_ms, .. } => put_u32(out, visibility_ms),
        }
    }

    fn write_lock(&self, slot: u32, out: &mut Vec<u8>) {
        self.write_lock_head(slot, out);
        let grants = self.locks[slot].grants;
        grants.iter(&self.grants).for_each(|grant| self.write_grant(grant, out));
    }

    fn write_lock_head(&self, slot: u32, out: &mut Vec<u8>) {
        let lock = &self.locks[slot];
        put_bytes(out, &lock.name);
        out.push(lock.mode as u8);
        put_count(out, lock.grants.len());
    }

    fn write_grant(&self, slot: u32, out: &mut Vec<u8>) {
        let grant = &self.grants[slot];
        self.put_session(out, grant.session);
        put_u64(out, grant.fence);
        put_u32(out, grant.count);
        put_u64(out, grant.deadline.0);
    }

    fn write_queue(&self, slot: u32, out: &mut Vec<u8>) {
        put_bytes(out, &self.queues[slot].name);
    }

    /// Names the queue by its slot: [`Places`] knows its place.
    fn write_message(&self, slot: u32, out: &mut Vec<u8>) {
        let message = &self.messages[slot];
        put_u64(out, message.id);
        put_u32(out, message.queue);
        out.push(message.priority);
        put_u32(out, message.delivery);
        match message.place {
            Place::Ready => out.push(0),
            Place::InFlight { session, deadline } => {
                out.push(1);
                self.put_session(out, session);
                put_u64(out, deadline.0);
            }
            Place::Delayed { deadline } => {
                out.push(2);
                put_u64(out, deadline.0);
            }
        }
        put_bytes(out, &message.payload);
    }

    fn write_line(&self, slot: u32, out: &mut Vec<u8>) {
        let line = &self.lines[slot];
        put_u64(out, line.version);
        put_u64(out, line.deadline.0);
        put_bytes(out, line.key());
        put_bytes(out, line.value());
    }

    fn put_session(&self, out: &mut Vec<u8>, slot: u32) {
        out.extend_from_slice(&self.sessions.table[slot].id.0);
    }
}

/// The version of a snapshot at a level.
fn version(level: Level) -> u32 {
    match level {
        level if level >= Level::BOUNDED => VERSION,
        level if level >= Level::SAID => VERSION_SAID,
        _ => VERSION_OLDEST,
    }
}

/// What writes a session's row at a level.
fn session_writer(level: Level) -> fn(&Machine, u32, &mut Vec<u8>) {
    if level >= Level::BOUNDED { Machine::write_session } else { Machine::write_session_older }
}

/// Leaves room for a row's length, and says where its content begins.
fn begin_row(out: &mut Vec<u8>) -> usize {
    put_u32(out, 0);
    out.len()
}

/// Says how long the row is that begins at `at`.
fn end_row(out: &mut [u8], at: usize) {
    end_row_after(out, at, 0);
}

/// Says how long the row is that begins at `at` and ends so many bytes after what is there.
fn end_row_after(out: &mut [u8], at: usize, more: usize) {
    let length = u32::try_from(out.len() + more - at).expect("a row is far below 4 GiB");
    out[at - LENGTH_BYTES..at].copy_from_slice(&length.to_le_bytes());
}

/// Appends rows, sorted by their bytes.
fn put_sorted(out: &mut Vec<u8>, rows: impl Iterator<Item = Vec<u8>>) {
    let mut rows: Vec<Vec<u8>> = rows.collect();
    rows.sort_unstable();
    rows.iter().for_each(|row| out.extend_from_slice(row));
}

fn put_u32(out: &mut Vec<u8>, number: u32) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn put_u64(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    put_u32(out, u32::try_from(count).expect("limits keep rows under 2^32"));
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn put_outcome(out: &mut Vec<u8>, outcome: Outcome) {
    match outcome {
        Outcome::Done { token } => {
            out.push(0);
            put_u64(out, token);
        }
        Outcome::Delivered { id, delivery } => {
            out.push(1);
            put_u64(out, id);
            put_u32(out, delivery);
        }
        Outcome::Refused(code) => {
            out.push(2);
            out.extend_from_slice(&code.number().to_le_bytes());
        }
    }
}
