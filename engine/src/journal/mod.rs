//! The journal: one write-ahead log for all groups of an engine, over byte slices.
//!
//! It has never seen a file. The edge, or the simulator, owns the segments; the journal says which
//! bytes go where ([`Journal::seal`], [`Journal::in_flight`]) and is told what happened
//! ([`Journal::on_synced`], [`Journal::on_segment_ready`]).
//!
//! # How it works
//!
//! Records are appended to a pending *unit*. Sealing a unit gives it its place: whole pages of their
//! own, behind the last unit of the current *segment* or at the begin of the next one. One unit is in
//! flight at a time; what is appended meanwhile is the next one. The number of a unit is a position:
//! what the world must have synced for a record to be durable.
//!
//! A segment's first unit opens with a *checkpoint*: what held of every group before that unit. So
//! nothing but entries ties the journal to an old segment, and [`Journal::reclaim`] names those that
//! do. Their group makes a snapshot, durable before its record is appended, or has them *carried*:
//! said again at the end. Once nothing lives in the oldest segment, a record that frees it is
//! written with the next unit; once that is synced, the segment is used again.
//!
//! # Invariants
//!
//! - Only a truncate record cuts a log. A lower index or a higher term never implies it.
//! - A group's replica may begin anew; then nothing counts that was said of it before.
//! - Entries follow the last index of their group's log; carried ones are in it, and stay as they
//!   are.
//! - A page that was synced is not written again before its segment is freed.
//! - The witness never says more than what was synced, and a unit that opens a segment is reported only once both of
//!   its copies say it.
//! - A segment is freed only when a later unit that says so is synced, hence also every snapshot
//!   record and carried entry that made it free. The last segment is never freed.
//! - A unit's number is higher than that of any unit written before, torn ones included, and those
//!   of former runs.
//!
//! # Recovery
//!
//! Recovery takes what it reads as durable: **whoever calls it has synced the segments before**
//! (after a kill, what the files hold need not be on the disk yet).
//!
//! Units follow each other without a gap, and a unit is written only when the one before it is
//! synced. So the log ends at the first place without a unit that carries the segment's seed and a
//! higher number, and what is there is torn; the next run writes over it. But each unit names the
//! lowest number that was not known to be synced when it was written. If any later unit, in the rest
//! of that segment, in the next one, or in one whose own first unit is unreadable, claims more to be
//! durable than was found, then the hole is *damage*, and the engine does not open: it could vote,
//! or answer, as if it had never known.
//!
//! 1. Node 1 acknowledges an entry with unit 7, then writes unit 8, which says "below 8 is synced".
//! 2. A bit of unit 7 rots. Node 1 restarts: the log seems to end at unit 6.
//! 3. Unit 8 stands behind the hole and claims that 7 was synced: damage, node 1 stays down, and the
//!    entry is not voted away by a node that promised to keep it.
//!
//! One unit is in flight at a time, so a whole one with a higher number than the last was written when the last was
//! synced. Wherever it stands, the journal should have reached it: that is damage too, although it claims no more than
//! was found.
//!
//! 1. Node 1 writes unit 41, which opens its third segment. The disk puts it at the front of a free slot.
//! 2. Node 1 writes unit 42 behind the place where 41 should be, and acknowledges an entry.
//! 3. Node 1 restarts. It finds 41 in the other slot, as the witness asks for, and nothing behind it.
//! 4. Unit 42 is whole and stands apart: damage.
//!
//! What follows the last unit can't vouch for it, which is why an idle engine writes one unit
//! without records, a *mark*.
//!
//! # The witness
//!
//! Nothing in the segments vouches for the newest of them: without it the journal looks shorter, or as if it had
//! never been. So a *witness* lies beside the segments, in two files of their own: "unit P was synced". A unit that
//! opens a segment carries one ([`Write::witness`]). The world writes it to the first copy, then to the second, and
//! only then reports the unit as synced.
//!
//! 1. Node 1 writes unit 41, which opens its third segment, and syncs it.
//! 2. It writes "41" over the first copy and syncs that; then over the second.
//! 3. Unit 41 counts as synced: votes and acknowledgements that wait for it leave. Unit 42 follows in that segment.
//! 4. The third segment is lost, zeroed, or put back as it was in an earlier use. Node 1 restarts: the journal ends below 41.
//! 5. The witness says 41: the journal is damaged, and node 1 neither votes nor answers.
//!
//! Power may fail anywhere in between:
//!
//! - in 1: the witness says less, and the third segment is torn or whole. Nothing of it was acknowledged. What is whole is kept.
//! - in 2: one copy may be torn. The other one is whole; it says 41 or what was said before, and both are true.
//! - after 2: unit 41 is there.
//!
//! At each start the witness is made anew with the last unit found, before anything is written. So a copy that was
//! lost is there again, and the journal that founded its groups is fresh once: from its first unit on, no unit at all is
//! damage. A directory of an older build has no witness. It gets one; what that build writes later only goes farther than
//! the witness says, so the way back stays open.
//!
//! It costs two small syncs for each segment, none for a unit. What it does not see: the newest segment put back as it was
//! *since* it was opened, or since the last start. Only a second place synced with each unit would.
//!
//! The records are then replayed in the order in which they were written, up to where each group's
//! entries are; only what is alive at the end is handed out, each group's in the order of its log.
//!
//! # What was left out, and what it costs
//!
//! - Two units in flight: a unit waits for the sync before it. The format allows for it (`durable_below`
//!   need not be the unit's own number). Recovery would have to pass over a whole unit behind a torn one.
//! - A slot is written over without being filled with zeros again: stale pages stay in it and cost
//!   recovery a look at each page; their seed tells them apart.
//! - Repair from peers: a damaged journal is replaced as a whole.
//!
//! # Sources
//!
//! Pillai and others, All File Systems Are Not Created Equal, 2014; Alagappan and others,
//! Protocol-Aware Recovery for Consensus-Based Storage, 2018 (torn or damaged); TigerBeetle's
//! journal; Rosenblum and Ousterhout, The Design and Implementation of a Log-Structured File System,
//! 1992 (checkpoints, carrying what lives).

mod append;
mod groups;
#[cfg(any(test, feature = "simulator"))]
mod inspect;
pub mod record;
mod recover;
mod replay;
mod room;
mod segments;
mod spans;
pub mod unit;
pub mod witness;

#[cfg(test)]
mod tests;

use crate::entry::Entry;
use crate::ids::{GroupId, Incarnation, Index, NodeId, Position, Term};
use alloc::vec::Vec;
pub use groups::GroupRow;
use groups::Groups;
#[cfg(any(test, feature = "simulator"))]
pub use inspect::{Found, inspect};
use rkyv::util::AlignedVec;
use room::Room;
pub use room::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SEGMENTS_MIN, SEGMENTS_RESERVED};
use segments::{Segments, count};
use unit::{PAGE_BYTES, UNIT_HEADER_BYTES};
use wire::random::Random;
use witness::Witness;

/// What a journal is told at its start and never again.
#[derive(Clone, Debug)]
pub struct JournalConfig {
    /// The size of a segment, in bytes: whole pages, at least [`SEGMENT_BYTES_MIN`].
    pub segment_bytes: u64,
    /// How many segments there may be, at least [`SEGMENTS_MIN`].
    pub segments_max: u32,
    /// The groups that may have a replica here, each once.
    pub groups: Vec<GroupId>,
}

/// What can be appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Record<'a> {
    /// Entries that follow the group's last one.
    Entries {
        /// The group.
        group: GroupId,
        /// The first entry's index.
        first: Index,
        /// The last entry's index.
        last: Index,
        /// The last entry's term.
        last_term: Term,
        /// The entries, one after the other, as [`crate::entry::write`] writes them.
        bytes: &'a [u8],
    },
    /// The group's entries from an index on are cut. None of them is committed.
    Truncate {
        /// The group.
        group: GroupId,
        /// The first index that is cut.
        from: Index,
    },
    /// The group's term, and who got this node's vote in it.
    Vote {
        /// The group.
        group: GroupId,
        /// The term.
        term: Term,
        /// The candidate, if any.
        vote: Option<NodeId>,
    },
    /// The group's snapshot is on the disk, and replaces the log up to its index. Entries behind it
    /// stay; those that do not agree with an installed snapshot are truncated first.
    Snapshot {
        /// The group.
        group: GroupId,
        /// The index that it stands for.
        index: Index,
        /// The term of the entry at that index.
        term: Term,
    },
    /// The group's replica begins anew: nothing of it that came before counts.
    Replica {
        /// The group.
        group: GroupId,
        /// Its life, another one than any before; `None`: there is none from here on.
        replica: Option<Incarnation>,
    },
    /// Entries of the group's log, said again, so that the segment that they are in can be freed.
    Carry {
        /// The group.
        group: GroupId,
        /// The first entry's index.
        first: Index,
        /// The last entry's index.
        last: Index,
        /// The last entry's term.
        last_term: Term,
        /// The entries, one after the other, as they were appended.
        bytes: &'a [u8],
    },
}

/// What recovery hands out. Groups ascend, and a group's parts come in this order: replica, vote, snapshot,
/// commit, then the entries behind the snapshot with no gap. A part that does not exist is left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replay<'a> {
    /// A replica of the group is kept here.
    Replica {
        /// The group.
        group: GroupId,
        /// Its life.
        replica: Incarnation,
    },
    /// The group's term, and who got this node's vote in it.
    Vote {
        /// The group.
        group: GroupId,
        /// The term.
        term: Term,
        /// The candidate, if any.
        vote: Option<NodeId>,
    },
    /// The group's durable snapshot.
    Snapshot {
        /// The group.
        group: GroupId,
        /// The index that it stands for.
        index: Index,
        /// The term of the entry at that index.
        term: Term,
    },
    /// An index up to which the group's entries are known to be committed; more of them may be.
    Commit {
        /// The group.
        group: GroupId,
        /// The index; not past the log's last one.
        commit: Index,
    },
    /// An entry of the group's log, its checksum verified.
    Entry(Entry<'a>),
}

/// One write of the journal, a whole number of 4 KiB pages on a page boundary.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Write {
    /// The segment's slot: which file.
    pub slot: u32,
    /// Where in the segment, in bytes.
    pub offset: u64,
    /// How much, in bytes.
    pub length: usize,
    /// What is durable once the write is synced.
    pub position: Position,
    /// What is to be written to both copies of the witness once the write is synced: to the second when the
    /// first is synced, too.
    pub witness: Option<Witness>,
}

/// Why a journal can't be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum JournalError {
    /// The journal is damaged outside its last sync unit.
    #[error("E101 the journal is damaged in slot {slot} at byte {offset}: {what}")]
    Damaged {
        /// The segment's slot.
        slot: u32,
        /// Where in the segment, in bytes.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// The journal ends before what is known to have been synced.
    #[error(
        "E109 the journal ends at unit {found}, but unit {synced} was synced: its newest segment is gone, empty, or older than it was"
    )]
    Lost {
        /// The last unit that was found.
        found: Position,
        /// A unit that was synced.
        synced: Position,
    },
    /// Nothing says how far the journal goes.
    #[error("E133 both copies of the journal's witness are damaged: nothing says how far it went")]
    Unwitnessed,
    /// Written by a newer version.
    #[error(
        "E103 the journal has format version {got}; this version reads up to {known}. Start the newer version"
    )]
    NewerFormat {
        /// The version on the disk.
        got: u32,
        /// The newest version known here.
        known: u32,
    },
}

/// The state of a journal.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct JournalStatus {
    /// The last unit that is durable.
    pub synced: u64,
    /// The unit that new records go to.
    pub appended: u64,
    /// Segments in use.
    pub segments_live: u32,
    /// Segments ready to be used.
    pub segments_free: u32,
    /// The size of a segment, in bytes.
    pub segment_bytes: u64,
}

/// Entries that keep the oldest segment from being freed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pin {
    /// The group.
    pub group: GroupId,
    /// The first index.
    pub first: Index,
    /// The last index.
    pub last: Index,
}

/// The place of entries whose unit has none yet.
const PENDING: u64 = u64::MAX;

/// One write-ahead log. See the [module](self).
pub struct Journal {
    segments_max: u32,
    room: Room,
    /// Random, the same in every unit of this journal.
    id: u64,
    /// What segments' seeds are drawn from.
    chance: Random,
    /// Each group as it is with the pending unit; the place of an entry is its segment's number.
    groups: Groups<u64>,
    /// Where groups with entries in the pending unit stand in `groups`.
    touched: Vec<usize>,
    /// Each group as it was before the pending unit: what a checkpoint says.
    base: Vec<GroupRow>,
    segments: Segments,
    /// The oldest segment that is needed, pending unit included.
    first_live: u64,
    /// The same before the pending unit.
    base_first_live: u64,
    /// Whether the oldest segment may have become free.
    freeing: bool,
    /// The pending unit: room for a header, then records.
    pending: AlignedVec<PAGE_BYTES>,
    /// How many records the pending unit holds.
    records: u32,
    /// Whether the pending unit is wanted even without records.
    mark: bool,
    /// Whether the last sealed unit holds no records.
    marked: bool,
    /// The pending unit's number.
    next: Position,
    /// The last sealed unit's number, or the last recovered one's.
    sealed: Position,
    synced: Position,
    /// The sealed unit's bytes.
    flight: AlignedVec<PAGE_BYTES>,
    in_flight: Option<Flight>,
}

/// A unit that is being written.
#[derive(Clone, Copy, Debug)]
struct Flight {
    position: Position,
    /// Segments below are free once it is synced.
    first_live: u64,
}

impl Journal {
    /// Reads every segment (slot and bytes), hands what is alive to `visit`, and continues behind it.
    /// All zeros, or nothing at all, is a fresh journal, if no witness says that there was one. `seed` is
    /// another one at each start. Whoever calls this keeps [`Journal::witness`] before the first write.
    ///
    /// # Errors
    /// [`JournalError::Damaged`], [`JournalError::Lost`] and [`JournalError::NewerFormat`]. What was visited is void
    /// then.
    ///
    /// # Panics
    /// When the configuration is out of its limits.
    pub fn recover(
        config: JournalConfig,
        seed: u64,
        segments: &[(u32, &[u8])],
        witness: Option<Witness>,
        visit: &mut dyn FnMut(Replay<'_>),
    ) -> Result<Journal, JournalError> {
        recover::recover(config, seed, (segments, witness), visit)
    }

    /// What is to be kept beside the segments, in both copies, before the journal is written to.
    pub fn witness(&self) -> Witness {
        Witness { journal: self.id, position: self.synced }
    }

    /// Appends a record to the pending unit: one copy. Gives the position that must be synced for
    /// the record to be durable. A snapshot that is not newer than the group's is passed over.
    ///
    /// # Panics
    /// When the record contradicts what was appended before, or when there is no room: ask
    /// [`Journal::has_room`] before entries and [`Journal::carry_room`] before carried ones. Any
    /// other record always has room, some thousands of them in a unit.
    pub fn append(&mut self, record: Record<'_>) -> Position {
        append::append(self, record)
    }

    /// Whether so many bytes of entries may be appended now.
    pub fn has_room(&self, bytes: usize) -> bool {
        let unit = self.pending.len() + record::RECORD_HEADER_BYTES + bytes;
        unit <= self.room.entries
            && self.segments.live_with(unit) <= self.segments_max - SEGMENTS_RESERVED
    }

    /// Whether so many bytes of a leader's own entries (renewals, ticks) may be appended now. A full journal
    /// still takes them, as far as half of what is kept back: what frees a segment needs the rest. So does a unit that
    /// clients' entries or carried ones fill.
    pub fn has_own_room(&self, bytes: usize) -> bool {
        let unit = self.pending.len() + record::RECORD_HEADER_BYTES + bytes;
        unit <= self.room.own
            && self.segments.live_with(unit) <= self.segments_max - SEGMENTS_RESERVED / 2
    }

    /// How many bytes of entries a leader may send at once to a journal like this: half of what
    /// [`Journal::has_room`] ever grants, so that other groups' entries do not shut them out.
    pub fn append_bytes_max(&self) -> usize {
        (self.room.entries - UNIT_HEADER_BYTES - record::RECORD_HEADER_BYTES) / 2
    }

    /// How many bytes of each group's entries may be uncommitted. A snapshot can't stand for those: they
    /// are carried, again and again, and if they filled the journal there would be no room left for the
    /// entry that commits them. All groups' together are a quarter of what entries may fill.
    pub fn tail_bytes_max(&self) -> usize {
        let segments = u64::from(self.segments_max - SEGMENTS_RESERVED);
        let groups = self.groups.ids.len() as u64;
        usize::try_from(segments * self.segments.bytes() / (4 * groups)).unwrap_or(usize::MAX)
    }

    /// How many bytes of entries may be carried now, in one record.
    pub fn carry_room(&self) -> usize {
        self.room.carry.saturating_sub(self.pending.len() + record::RECORD_HEADER_BYTES)
    }

    /// Asks for a unit without records, so that the last one is vouched for. Nothing happens when
    /// there is one already, when records wait anyway, when there is nothing to vouch for, or when
    /// what room there is is kept for what frees segments.
    pub fn mark(&mut self) {
        let last = self.records == 0 && self.sealed > Position::ZERO && !self.marked;
        self.mark |= last && self.has_room(0);
    }

    /// Lays the pending unit out and gives it its place, if there is something to write, nothing is
    /// in flight, and a segment is ready in case one is needed.
    pub fn seal(&mut self) -> Option<Write> {
        append::seal(self)
    }

    /// The bytes of the unit in flight. They stay where they are, on a page boundary of memory,
    /// until [`Journal::on_synced`].
    pub fn in_flight(&self) -> &[u8] {
        if self.in_flight.is_some() { &self.flight } else { &[] }
    }

    /// The unit in flight is durable.
    ///
    /// # Panics
    /// When another one is, or none.
    pub fn on_synced(&mut self, position: Position) {
        let flight = self.in_flight.take().expect("only a unit in flight is synced");
        assert!(flight.position == position, "the unit in flight is the one that is synced");
        assert!(position > self.synced, "positions only grow");
        self.synced = position;
        self.segments.release(flight.first_live);
        assert!(self.synced <= self.sealed, "only what was sealed is synced");
    }

    /// Every record at this position or below is durable.
    pub fn synced(&self) -> Position {
        self.synced
    }

    /// The unit that the last appended record is in.
    pub fn appended(&self) -> Position {
        if self.records > 0 { self.next } else { self.sealed }
    }

    /// A slot that was wanted is there: a file of a segment's size. What it holds does not matter.
    pub fn on_segment_ready(&mut self, slot: u32) {
        self.segments.on_ready(slot);
    }

    /// Hands out the slots to prepare: new ones, or files of another size. A slot that was in use
    /// is used again without being prepared.
    pub fn take_wanted_segments(&mut self, each: &mut dyn FnMut(u32)) {
        self.segments.take_wanted(each);
    }

    /// A group's entries are committed up to `commit`; the next checkpoint says so.
    pub fn on_commit(&mut self, group: GroupId, commit: Index) {
        let at = self.groups.find(group).expect("the journal keeps the group");
        let row = &mut self.groups.rows[at];
        row.commit = row.commit.max(commit);
    }

    /// When much of the journal is in use: what keeps the oldest segment from being freed. Make a
    /// snapshot of each group that is named, or carry what a snapshot can't stand for. A group may be
    /// named more than once, with other indexes.
    pub fn reclaim(&self, each: &mut dyn FnMut(Pin)) {
        let Some(current) = self.segments.live.back() else {
            return;
        };
        if current.number - self.first_live < u64::from(self.reclaim_above()) {
            return;
        }
        for (group, spans) in self.groups.ids.iter().zip(&self.groups.spans) {
            for span in spans.iter().filter(|s| s.place == self.first_live) {
                each(Pin { group: *group, first: span.first, last: span.last });
            }
        }
    }

    /// How many segments may be in use before any is reclaimed: three quarters of those that
    /// entries may fill.
    fn reclaim_above(&self) -> u32 {
        ((self.segments_max - SEGMENTS_RESERVED) * 3 / 4).max(1)
    }

    /// Whether nothing was ever durable in it.
    pub fn is_fresh(&self) -> bool {
        self.synced == Position::ZERO
    }

    /// What the journal knows of a group.
    #[cfg(test)]
    pub fn row(&self, group: GroupId) -> Option<&GroupRow> {
        self.groups.find(group).map(|at| &self.groups.rows[at])
    }

    /// The journal's state, for people.
    pub fn status(&self) -> JournalStatus {
        JournalStatus {
            synced: self.synced.0,
            appended: self.appended().0,
            segments_live: count(self.segments.live.len()),
            segments_free: count(self.segments.ready.len()),
            segment_bytes: self.segments.bytes(),
        }
    }
}
