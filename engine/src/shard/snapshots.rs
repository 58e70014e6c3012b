//! A group's snapshots: made here, sent to a follower, or received from the leader.
//!
//! A snapshot replaces log in three steps, each of which waits for the one before: its file is on the
//! disk (`Input::SnapshotSaved`); the journal's record of it is durable; the log and the older file
//! that it replaces are freed. A crash in between finds either the old pair or the new one.
//!
//! In its simplest form: the state is written in one go while the core stands still, and a note says
//! for how many bytes. At most one snapshot of a group is on its way to the disk.

use super::state::State;
use super::{Shard, Step};
use crate::effects::{Note, SnapshotSave};
use crate::ids::{Index, Position, Term};
use crate::journal::Record;
use crate::limits::SNAPSHOT_BYTES_MAX;
use crate::mutant::{self, Mutant};
use crate::raft::{Body, Install};
use alloc::vec::Vec;

/// What a snapshot stands for.
pub type Point = (Index, Term);

/// The snapshots of one group.
pub struct Snapshots {
    /// The newest that the journal durably names.
    durable: Point,
    /// On its way to the disk.
    saving: Option<Saving>,
    /// On the disk; its record in the journal is not durable yet.
    recording: Option<(Point, Position)>,
    /// The one that followers get.
    outgoing: Option<Outgoing>,
    /// The one that the leader sends.
    incoming: Option<Incoming>,
}

struct Saving {
    point: Point,
    /// A snapshot of the leader's: the state that takes this one's place once it is on the disk.
    installs: Option<State>,
}

struct Outgoing {
    point: Point,
    bytes: Vec<u8>,
}

struct Incoming {
    point: Point,
    total: u64,
    bytes: Vec<u8>,
}

impl Snapshots {
    /// The snapshots of a group whose journal names `durable`.
    pub fn new(durable: Point) -> Snapshots {
        Snapshots { durable, saving: None, recording: None, outgoing: None, incoming: None }
    }

    /// The index up to which the journal's entries are not needed.
    pub fn durable(&self) -> Index {
        self.durable.0
    }

    /// Whether one is on its way to the disk.
    pub fn is_busy(&self) -> bool {
        self.saving.is_some() || self.recording.is_some()
    }
}

impl Shard {
    /// Makes a snapshot of what is applied, so that the journal can free older log. False: there is
    /// nothing newer than the last one, or one is under way.
    pub fn make_snapshot(&mut self, step: &mut Step<'_>) -> bool {
        let point = (self.applied, self.raft.log().term_at(self.applied));
        let (index, Some(term)) = point else { return false };
        if self.snapshots.is_busy() || index <= self.snapshots.durable() {
            return false;
        }
        let mut bytes = Vec::new();
        self.state.snapshot(&mut bytes);
        let made = Note::SnapshotMade { group: self.group, index, bytes: bytes.len() as u64 };
        step.effects.notes.push(made);
        self.save(step, (index, term), bytes, None);
        if mutant::on(Mutant::SnapshotRecordedEarly) {
            step.journal.append(Record::Snapshot { group: self.group, index, term });
        }
        true
    }

    /// Whether a snapshot is on its way to the disk.
    pub fn is_snapshotting(&self) -> bool {
        self.snapshots.is_busy()
    }

    /// The journal's entries up to here are not needed.
    pub fn snapshot_index(&self) -> Index {
        self.snapshots.durable()
    }

    /// Frees what pins the oldest segment: by a snapshot when it is applied, else by saying it again
    /// at the journal's end. True: a snapshot is on its way.
    pub fn unpin(&mut self, step: &mut Step<'_>, first: Index, last: Index) -> bool {
        if first <= self.applied {
            return self.make_snapshot(step);
        }
        // What is not applied is in memory.
        let (log, group) = (self.raft.log(), self.group);
        let mut first = first;
        while first <= last {
            let room = step.journal.carry_room();
            let to = log.run_end(first, last, room);
            let bytes = log.bytes(first, to);
            let last_term = log.term_at(to).expect("a run lies in memory");
            if bytes.len() > room {
                break; // The next turn's unit has room.
            }
            step.journal.append(Record::Carry { group, first, last: to, last_term, bytes });
            first = to.next();
        }
        false
    }

    /// A snapshot is on the disk.
    pub fn on_saved(&mut self, step: &mut Step<'_>, index: Index) {
        let Some(saving) = self.snapshots.saving.take() else { return };
        assert_eq!(saving.point.0, index, "one snapshot of a group is saved at a time");
        let (index, term) = saving.point;
        match saving.installs {
            Some(state) => {
                // The record of it must come before any entry that follows it: consensus says
                // both.
                self.raft.on_snapshot_installed(step.now, index, term, step.out);
                self.raft.raise_time(state.clock());
                self.clock.hear(step.now, state.clock());
                if !mutant::on(Mutant::InstallKeepsState) {
                    self.state = state;
                }
                self.applied = index;
                self.settle(step);
            }
            None => {
                let too_new = mutant::on(Mutant::SnapshotNamedTooNew);
                let index = if too_new { self.applied } else { index };
                let record = Record::Snapshot { group: self.group, index, term };
                step.journal.append(record);
            }
        }
        self.snapshots.recording = Some((saving.point, step.journal.appended()));
    }

    /// Units up to `position` are durable: with them, perhaps, the record of a snapshot.
    pub(super) fn on_recorded(&mut self, step: &mut Step<'_>, position: Position) {
        let Some((point, recorded)) = self.snapshots.recording else { return };
        if recorded > position {
            return;
        }
        self.snapshots.recording = None;
        let replaced = core::mem::replace(&mut self.snapshots.durable, point);
        if replaced.0 > Index::ZERO {
            step.effects.drops.push((self.group, replaced.0));
        }
        self.raft.snapshot_made(point.0, point.1);
        self.install(step);
    }

    /// A follower needs a snapshot: makes one of what is applied now, unless one is at hand that the
    /// log still continues.
    pub(super) fn offer_snapshot(&mut self, step: &mut Step<'_>) {
        let usable = |o: &Outgoing| o.point.0.next() >= self.raft.log().first_index();
        if !self.snapshots.outgoing.as_ref().is_some_and(usable) {
            let Some(term) = self.raft.log().term_at(self.applied) else { return };
            let mut bytes = Vec::new();
            self.state.snapshot(&mut bytes);
            self.snapshots.outgoing = Some(Outgoing { point: (self.applied, term), bytes });
        }
        if let Some(outgoing) = &self.snapshots.outgoing {
            let (index, term) = outgoing.point;
            self.raft.on_snapshot_ready(step.now, index, term, outgoing.bytes.len() as u64);
        }
    }

    /// A piece of the leader's snapshot, in its place.
    pub(super) fn on_piece(&mut self, step: &mut Step<'_>, install: &Install, piece: &[u8]) {
        if install.total > SNAPSHOT_BYTES_MAX {
            return self.raft.on_snapshot_refused(); // No leader of this version sends such a one.
        }
        let point = (install.index, install.term);
        if install.offset == 0 {
            self.snapshots.incoming =
                Some(Incoming { point, total: install.total, bytes: Vec::new() });
        }
        let Some(incoming) = &mut self.snapshots.incoming else { return };
        assert_eq!(incoming.point, point, "consensus accepts the pieces of one snapshot in order");
        assert_eq!(incoming.bytes.len() as u64, install.offset, "pieces follow each other");
        incoming.bytes.extend_from_slice(piece);
        incoming.total = install.total;
        self.install(step);
    }

    /// Installs the leader's snapshot once it is whole and none of our own is on its way.
    fn install(&mut self, step: &mut Step<'_>) {
        let whole = |i: &&Incoming| i.bytes.len() as u64 >= i.total;
        if self.snapshots.is_busy() || self.snapshots.incoming.as_ref().filter(whole).is_none() {
            return;
        }
        let Some(incoming) = self.snapshots.incoming.take() else { return };
        let Ok(state) = self.state.restore(&self.machine, &incoming.bytes) else {
            return self.raft.on_snapshot_refused(); // Damaged on its way.
        };
        let (index, bytes) = (incoming.point.0, incoming.bytes.len() as u64);
        step.effects.notes.push(Note::SnapshotInstalled { group: self.group, index, bytes });
        self.save(step, incoming.point, incoming.bytes, Some(state));
    }

    fn save(&mut self, step: &mut Step<'_>, point: Point, bytes: Vec<u8>, installs: Option<State>) {
        let (index, term) = point;
        self.snapshots.saving = Some(Saving { point, installs });
        step.effects.saves.push(SnapshotSave { group: self.group, index, term, bytes });
    }

    /// A peer message's frame, its bulk straight from the log or the snapshot.
    pub(super) fn encode(&self, body: &Body, out: &mut Vec<u8>) {
        let snapshot = self.snapshots.outgoing.as_ref().map_or(&[][..], |o| &o.bytes);
        super::codec::encode(self.group, body, self.raft.log(), snapshot, out);
    }
}

impl Snapshots {
    /// Forgets the snapshot that followers got: nobody needs it any more.
    pub fn end_offer(&mut self) {
        self.outgoing = None;
    }
}
