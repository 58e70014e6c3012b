//! Cache lines: the truth behind every copy.
//!
//! A write gives a line the next number of the machine's counter as its version. Key, value and
//! a fixed overhead count against the budget; a put that exceeds it evicts the lines that were
//! written longest ago. (Recency is the leader's memory, not state: see the shard.)
//!
//! # Invariants
//!
//! - The lines' cost never exceeds the budget.
//! - The order of eviction is the order of versions.
//! - A line whose time is over is never seen: a read says [`View::Due`] until an entry has moved the clock so far, a
//!   write removes it first.
//!
//! # Cost
//!
//! A put of a large value may evict as many small lines as make room, all within its entry.

mod codec;
#[cfg(any(test, feature = "simulator"))]
mod inspect;
pub(super) mod warm;

use crate::machine::ledger::{Ledger, Timer};
use crate::machine::sessions::Verdict;
use crate::machine::slab::{Linked, Links, List};
use crate::machine::table::{Probe, Row, Table};
use crate::machine::{Outcome, View};
use crate::mutant::{self, Mutant};
use crate::secret::Secret;
use crate::time::{Elapsed, millis};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use wire::message::{self, CacheRequest};
use wire::{Code, Detail};

/// What a line takes besides its key and its value, in bytes: its row, its place in the table, what the
/// allocator adds.
pub const LINE_OVERHEAD_BYTES: u64 = 96;

/// What a line must be for a write to happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Precondition {
    Any,
    Absent,
    Version(u64),
}

impl Precondition {
    fn of(expect: message::Expect, version: u64) -> Precondition {
        match expect {
            message::Expect::Any => Precondition::Any,
            message::Expect::Absent => Precondition::Absent,
            message::Expect::Version => Precondition::Version(version),
        }
    }
}

/// One shard's cache lines.
pub(super) struct Cache {
    lines: Table<Line>,
    /// Lines in the order of their versions: that of eviction.
    by_version: List,
    /// What they take, overhead included, and what they may take.
    bytes: u64,
    bytes_max: u64,
    /// How many were evicted since the start: no state.
    evictions: u64,
    /// Lines that were read from a snapshot and are in no order yet, by version.
    read: BTreeMap<u64, u32>,
}

/// A cache line.
struct Line {
    /// Key and value, one allocation of exactly their size.
    bytes: Box<[u8]>,
    key_length: u16,
    version: u64,
    /// When it ends; [`Elapsed::MAX`] = when it is replaced.
    deadline: Elapsed,
    links: Links,
}

impl Line {
    fn new(key: &[u8], value: &[u8], version: u64, deadline: Elapsed) -> Line {
        let key_length = u16::try_from(key.len()).expect("a name is at most 512 bytes");
        let mut bytes = Vec::with_capacity(key.len() + value.len());
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(value);
        let bytes = bytes.into_boxed_slice();
        Line { bytes, key_length, version, deadline, links: Links::NONE }
    }

    fn value(&self) -> &[u8] {
        &self.bytes[usize::from(self.key_length)..]
    }

    /// Replaces the value; in place if it has the same size.
    fn set_value(&mut self, value: &[u8]) {
        let from = usize::from(self.key_length);
        if self.bytes.len() - from == value.len() {
            self.bytes[from..].copy_from_slice(value);
        } else {
            *self = Line::new(&self.bytes[..from], value, self.version, self.deadline);
        }
    }

    /// Looks at what a read and a write look at. What it gives means nothing.
    fn touch(&self, lines: &Table<Line>) -> u64 {
        let ends = [self.bytes.first(), self.bytes.last()];
        let bytes: u64 = ends.into_iter().flatten().map(|byte| u64::from(*byte)).sum();
        bytes + self.links.around().map(|slot| lines[slot].version & 1).sum::<u64>()
    }

    fn cost(&self) -> u64 {
        self.bytes.len() as u64 + LINE_OVERHEAD_BYTES
    }
}

impl Row for Line {
    type Key = [u8];
    fn key(&self) -> &[u8] {
        &self.bytes[..usize::from(self.key_length)]
    }
}

impl Linked for Line {
    fn links(&self) -> &Links {
        &self.links
    }
    fn links_mut(&mut self) -> &mut Links {
        &mut self.links
    }
}

impl Cache {
    /// No lines, which may take so many bytes.
    pub(super) fn new(secret: Secret, bytes_max: u64) -> Cache {
        Cache {
            lines: Table::new(secret),
            by_version: List::EMPTY,
            bytes: 0,
            bytes_max,
            evictions: 0,
            read: BTreeMap::new(),
        }
    }

    /// How many lines there are.
    pub(super) fn len(&self) -> usize {
        self.lines.len()
    }

    /// What they take, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many were evicted since the start.
    pub(super) fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Where a key would be.
    #[inline]
    pub(super) fn probe(&self, key: &[u8]) -> Probe {
        self.lines.probe(key)
    }

    /// A line as it is at `at`, which is not before the clock.
    #[inline]
    pub(super) fn view(&self, ledger: &Ledger, probe: Probe, key: &[u8], at: Elapsed) -> View<'_> {
        let Some(slot) = self.lines.find_at(&probe, key) else {
            return View::Refused(Code::KeyUnknown);
        };
        let line = &self.lines[slot];
        // Its end is in the log: whoever reads later sees no earlier clock.
        if line.deadline <= ledger.clock() {
            return View::Refused(Code::KeyUnknown);
        }
        if line.deadline <= at {
            return View::Due;
        }
        View::Line { version: line.version, value: line.value() }
    }

    /// Does what a call asks for.
    pub(super) fn request(&mut self, ledger: &mut Ledger, request: CacheRequest<'_>) -> Verdict {
        Verdict::Now(match request {
            CacheRequest::CachePut(it) => {
                let expect = Precondition::of(it.expect, it.version);
                self.put(ledger, it.key, it.value, it.ttl_ms, expect)
            }
            CacheRequest::CacheDelete(it) => {
                self.delete(ledger, it.key, Precondition::of(it.expect, it.version))
            }
            // A read is no call.
            CacheRequest::CacheGet(_) => Outcome::refused(Code::UnknownKind),
        })
    }

    fn put(
        &mut self,
        ledger: &mut Ledger,
        key: &[u8],
        value: &[u8],
        ttl_ms: u32,
        expect: Precondition,
    ) -> Outcome {
        let cost = (key.len() + value.len()) as u64 + LINE_OVERHEAD_BYTES;
        if cost > self.bytes_max {
            return Outcome::refused(Code::OverBudget);
        }
        let probe = self.lines.probe(key);
        let found = self.live_line(ledger, &probe, key);
        if let Some(refused) = self.refusal(ledger, found, expect) {
            return refused;
        }
        let version = ledger.issue();
        let deadline = line_deadline(ttl_ms, ledger.clock());
        match found {
            Some(slot) => {
                self.keep_line(slot);
                self.unlink_line(ledger, slot);
                let line = self.lines.row_mut(slot);
                line.version = version;
                line.deadline = newest_deadline(deadline, line.deadline);
                line.set_value(value);
                self.link_line(ledger, slot);
            }
            None => {
                let slot = self.lines.insert_at(probe, Line::new(key, value, version, deadline));
                self.link_line(ledger, slot);
            }
        }
        while self.bytes > self.bytes_max {
            let oldest = self.next_to_evict().expect("what is over the budget is a line");
            assert!(self.lines[oldest].version != version, "the new line alone is in the budget");
            self.evict(ledger, oldest);
        }
        Outcome::Done { token: version }
    }

    /// The line that was written longest ago.
    fn next_to_evict(&self) -> Option<u32> {
        let oldest = self.by_version.first()?;
        let spares = mutant::on(Mutant::EvictionSparesOldest) && self.lines.len() > 2;
        if spares { self.lines[oldest].links.next() } else { Some(oldest) }
    }

    fn evict(&mut self, ledger: &mut Ledger, slot: u32) {
        assert!(self.bytes > self.bytes_max, "there is room without that");
        let cost = self.lines[slot].cost();
        self.remove_line(ledger, slot);
        self.evictions += 1;
        if mutant::on(Mutant::EvictedStillCounts) && self.lines.len() > 1 {
            self.bytes += cost;
        }
    }

    fn delete(&mut self, ledger: &mut Ledger, key: &[u8], expect: Precondition) -> Outcome {
        let found = self.live_line(ledger, &self.lines.probe(key), key);
        if let Some(refused) = self.refusal(ledger, found, expect) {
            return refused;
        }
        match found {
            Some(slot) => Outcome::Done { token: self.remove_line(ledger, slot) },
            None => Outcome::refused(Code::KeyUnknown),
        }
    }

    /// A line's time ran out.
    pub(super) fn line_due(&mut self, ledger: &mut Ledger, slot: u32) {
        assert!(self.lines[slot].deadline <= ledger.clock(), "a line never ends early");
        self.remove_line(ledger, slot);
    }

    /// The line of a key. One whose time is over but whose timer has not fired goes here.
    fn live_line(&mut self, ledger: &mut Ledger, probe: &Probe, key: &[u8]) -> Option<u32> {
        let slot = self.lines.find_at(probe, key)?;
        if self.lines[slot].deadline <= ledger.clock() {
            self.line_due(ledger, slot);
            return None;
        }
        Some(slot)
    }

    /// Why a line is not what a write expects; none if it is.
    fn refusal(
        &self,
        ledger: &Ledger,
        found: Option<u32>,
        expect: Precondition,
    ) -> Option<Outcome> {
        let other = |version| {
            assert!(version > 0, "a line that is there has a version");
            let stood = Detail::Version(told(version, expect));
            Some(ledger.refused_for(Code::VersionMismatch, stood))
        };
        match (expect, found.map(|slot| self.lines[slot].version)) {
            (Precondition::Any, _) | (Precondition::Absent, None) => None,
            (_, Some(_)) if !is_looked_at(expect) => None,
            (Precondition::Absent, Some(version)) => other(version),
            (Precondition::Version(_), None) => Some(Outcome::refused(Code::KeyUnknown)),
            (Precondition::Version(wanted), Some(version)) if wanted == version => None,
            (Precondition::Version(_), Some(version)) => other(version),
        }
    }

    fn remove_line(&mut self, ledger: &mut Ledger, slot: u32) -> u64 {
        self.keep_line(slot);
        self.unlink_line(ledger, slot);
        self.lines.remove(slot).version
    }

    /// Counts a line, arms its timer and puts it last in the order of eviction.
    fn link_line(&mut self, ledger: &mut Ledger, slot: u32) {
        let line = &self.lines[slot];
        self.bytes += line.cost();
        ledger.arm(line.deadline, line.version, Timer::LineExpiry(slot));
        self.by_version.push(self.lines.rows_mut(), slot);
    }

    fn unlink_line(&mut self, ledger: &mut Ledger, slot: u32) {
        let line = &self.lines[slot];
        self.bytes -= line.cost();
        ledger.disarm(line.deadline, line.version);
        self.by_version.unlink(self.lines.rows_mut(), slot);
    }
}

/// Who is refused is told the version that is there.
fn told(version: u64, expect: Precondition) -> u64 {
    match expect {
        Precondition::Version(wanted) if mutant::on(Mutant::DetailOfWanted) => wanted,
        _ => version,
    }
}

/// What a write expects of the line is looked at.
fn is_looked_at(expect: Precondition) -> bool {
    match expect {
        Precondition::Any => false,
        Precondition::Absent => !mutant::on(Mutant::ExpectAbsentIgnored),
        Precondition::Version(_) => !mutant::on(Mutant::ExpectVersionIgnored),
    }
}

/// A write without a time to live takes away what the one before gave.
fn newest_deadline(deadline: Elapsed, before: Elapsed) -> Elapsed {
    let kept = deadline == Elapsed::MAX && mutant::on(Mutant::LineTimeKept);
    if kept { before } else { deadline }
}

/// A line lives as long as its write says, and without a time to live until it is replaced.
fn line_deadline(ttl_ms: u32, now: Elapsed) -> Elapsed {
    if ttl_ms == 0 || mutant::on(Mutant::LineForEver) {
        return Elapsed::MAX;
    }
    now + if mutant::on(Mutant::LineShort) { millis(ttl_ms) / 2 } else { millis(ttl_ms) }
}
