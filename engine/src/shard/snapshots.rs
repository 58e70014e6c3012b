//! A group's snapshots: made here, sent to a follower, or received from the leader.
//!
//! A snapshot replaces log in three steps, each of which waits for the one before: its file is on the
//! disk (`Input::SnapshotSaved`); the journal's record of it is durable; the log and the older file
//! that it replaces are freed. A crash in between finds either the old pair or the new one.
//!
//! What takes long is done in slices, one a turn, after the turn's answers: [`Shard::work`].
//!
//! - A snapshot is begun at whatever is applied then, and handed to the disk piece by piece while it is
//!   made; one for followers stays in memory until nobody needs it.
//! - The leader's is restored beside the state that it replaces, handed to the disk piece by piece, and put in
//!   its place once it is there. What was replaced is freed in slices too.
//!
//! One is made at a time: followers' waits for the disk's, a backup's ([`super::backup`]) for both, the disk's is asked
//! for again. At most one is on its way to the disk.

use super::state::{Restoring, State, Unreadable};
use super::{Shard, Step};
use crate::effects::{Note, SnapshotPart};
use crate::ids::{Index, Position, Term};
use crate::journal::Record;
use crate::limits::{SLICE_BYTES_MAX, SNAPSHOT_PIECE_BYTES_MAX};
use crate::machine::{self, Checksum, Restored, Slice, SliceProgress};
use crate::mutant::{self, Mutant};
use crate::raft::{Body, Configuration, Install};
use alloc::borrow::Cow;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// Size of the pieces, but for the last, in bytes.
const PIECE: usize = SNAPSHOT_PIECE_BYTES_MAX;
/// Pieces that one slice frees.
const PIECES_FREED: usize = 2;

/// What a snapshot stands for.
pub type Point = (Index, Term);

/// The snapshots of one group.
pub struct Snapshots {
    /// The newest that the journal durably names.
    durable: Point,
    /// Being made.
    making: Option<Making>,
    /// Followers want one after that.
    wanted: bool,
    /// On its way to the disk.
    saving: Option<Saving>,
    /// On the disk; its record in the journal is not durable yet.
    recording: Option<(Point, Position)>,
    /// The one that followers get.
    outgoing: Option<OutgoingSnapshot>,
    /// The one that the leader sends.
    incoming: Option<IncomingSnapshot>,
    /// The one that the leader sent, being restored.
    installing: Option<Installing>,
    /// Bytes and a state of no use any more, to be freed.
    spent: Vec<Vec<u8>>,
    replaced: Vec<State>,
}

/// Who wants the snapshot that is being made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Goal {
    Disk,
    Followers,
    Backup,
}

struct Making {
    goal: Goal,
    /// What it stands for, once it has begun.
    point: Option<Point>,
    /// Whole pieces: those for the disk are given away.
    pieces: Vec<Vec<u8>>,
    /// The piece at the end.
    piece: Vec<u8>,
    /// Bytes in the pieces before it.
    before: u64,
}

struct Saving {
    point: Point,
    /// Pieces that were not handed to the disk yet, and where the first of them lies.
    unsent: VecDeque<Vec<u8>>,
    offset: u64,
    /// A snapshot of the leader's: what takes the place of this state once it is on the disk.
    installs: Option<(Configuration, State)>,
}

/// A snapshot in memory, to be read piece by piece.
pub(super) struct OutgoingSnapshot {
    point: Point,
    /// All but the last of one size.
    pieces: Vec<Vec<u8>>,
    total: u64,
}

struct IncomingSnapshot {
    point: Point,
    total: u64,
    received: u64,
    /// The members, at the front of the first piece.
    configuration: Option<Configuration>,
    /// The sum of what follows them.
    sum: Checksum,
    pieces: Vec<Vec<u8>>,
}

struct Installing {
    point: Point,
    configuration: Configuration,
    restoring: Restoring,
    /// Pieces that were not read yet.
    unread: VecDeque<Vec<u8>>,
    read: Vec<Vec<u8>>,
}

impl Snapshots {
    /// The snapshots of a group whose journal names `durable`.
    pub fn new(durable: Point) -> Snapshots {
        Snapshots {
            durable,
            making: None,
            wanted: false,
            saving: None,
            recording: None,
            outgoing: None,
            incoming: None,
            installing: None,
            spent: Vec::new(),
            replaced: Vec::new(),
        }
    }

    /// The index up to which the journal's entries are not needed.
    pub fn durable(&self) -> Index {
        self.durable.0
    }

    /// Whether one is on its way to the disk, or is being made or restored for that.
    pub fn is_busy(&self) -> bool {
        let making = self.making.as_ref().is_some_and(|making| making.goal == Goal::Disk);
        making || self.installing.is_some() || self.saving.is_some() || self.recording.is_some()
    }

    /// Whether a record of one is not durable yet.
    pub fn awaits_sync(&self) -> bool {
        self.recording.is_some()
    }

    /// Whether there is something to do in slices.
    pub fn has_work(&self) -> bool {
        let (making, installing) = (self.making.is_some(), self.installing.is_some());
        let unsent = self.saving.as_ref().is_some_and(|saving| !saving.unsent.is_empty());
        let spent = !self.replaced.is_empty() || !self.spent.is_empty();
        making || self.wanted || installing || unsent || spent
    }

    /// Forgets the snapshot that followers got unless it is still offered, and the pieces of the leader's unless others
    /// are to come.
    pub fn keep_only(&mut self, offered: Option<Index>, receiving: Option<Point>) {
        if offered.is_none()
            && let Some(outgoing) = self.outgoing.take()
        {
            self.spend(outgoing);
        }
        if let Some(incoming) = self.incoming.take_if(|it| Some(it.point) != receiving) {
            self.spent.extend(incoming.pieces);
        }
    }

    /// Bytes of snapshots that lie in memory for whoever is to get or to make one, but for a backup's.
    #[cfg(any(test, feature = "simulator"))]
    pub fn kept_bytes(&self) -> u64 {
        let outgoing = self.outgoing.as_ref().map_or(0, |it| it.total);
        let incoming = self.incoming.as_ref().map_or(0, |it| it.received);
        outgoing + incoming
    }

    /// Nobody needs a snapshot any more that was in memory.
    pub(super) fn spend(&mut self, outgoing: OutgoingSnapshot) {
        self.spent.extend(outgoing.pieces);
    }

    fn make(&mut self, goal: Goal) {
        assert!(self.making.is_none(), "one snapshot is made at a time");
        let (pieces, piece) = (Vec::new(), Vec::new());
        self.making = Some(Making { goal, point: None, pieces, piece, before: 0 });
    }

    /// Frees some of what is of no use any more.
    fn free(&mut self, slice: Slice) {
        if !self.spent.is_empty() {
            self.spent.truncate(self.spent.len().saturating_sub(PIECES_FREED));
        } else if let Some(state) = self.replaced.last_mut()
            && state.shed(slice) == SliceProgress::Done
        {
            self.replaced.pop();
        }
    }
}

impl Making {
    /// The pieces that are whole, of one size each, with where they lie; at the end the last one too.
    fn cut(&mut self, progress: SliceProgress) -> Vec<(u64, Vec<u8>)> {
        let mut cut = Vec::new();
        let rest = (self.piece.len().saturating_sub(1) / PIECE) * PIECE;
        if rest > 0 {
            let mut last = Vec::with_capacity(PIECE + SLICE_BYTES_MAX);
            last.extend_from_slice(&self.piece[rest..]);
            // Nearly always there is but one, which need not be copied.
            cut.extend(self.piece[PIECE..rest].chunks(PIECE).map(<[u8]>::to_vec));
            self.piece.truncate(PIECE);
            cut.insert(0, core::mem::replace(&mut self.piece, last));
        }
        if progress == SliceProgress::Done {
            cut.push(core::mem::take(&mut self.piece));
        }
        let placed = cut.into_iter().map(|piece| {
            let at = self.before;
            self.before += piece.len() as u64;
            (at, piece)
        });
        placed.collect()
    }
}

impl OutgoingSnapshot {
    /// What it stands for.
    pub(super) fn point(&self) -> Point {
        self.point
    }

    /// Its size, in bytes.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// The bytes from `offset` to the end of the piece that they are in; `None` behind the last.
    pub(super) fn piece_at(&self, offset: u64) -> Option<&[u8]> {
        let offset = usize::try_from(offset).ok()?;
        let size = self.pieces[0].len();
        self.pieces.get(offset / size)?.get(offset % size..).filter(|bytes| !bytes.is_empty())
    }

    /// The bytes in a range.
    fn read(&self, range: core::ops::Range<usize>) -> Cow<'_, [u8]> {
        assert!(range.end as u64 <= self.total, "a piece lies in its snapshot");
        let size = self.pieces[0].len();
        let at = range.start / size;
        let from = range.start % size;
        let end = from + range.len();
        if let Some(bytes) = self.pieces[at].get(from..end) {
            return Cow::Borrowed(bytes);
        }
        let pieces = self.pieces[at..].iter().flatten();
        Cow::Owned(pieces.skip(from).take(range.len()).copied().collect())
    }
}

impl Shard {
    /// Has a snapshot made of what is applied, so that the journal can free older log. False: there is
    /// nothing newer than the last one, or one is under way.
    pub fn make_snapshot(&mut self) -> bool {
        let nothing = self.applied <= self.snapshots.durable();
        if nothing || self.snapshots.is_busy() || self.snapshots.making.is_some() {
            return false;
        }
        self.snapshots.make(Goal::Disk);
        true
    }

    /// Whether there is something to do in slices.
    pub fn has_work(&self) -> bool {
        self.snapshots.has_work() || self.is_backup_due()
    }

    /// Does one slice of what takes long.
    pub fn work(&mut self, step: &mut Step<'_>, slice: Slice) {
        if self.snapshots.making.is_some() {
            self.go_on_making(step, slice);
        } else if self.snapshots.wanted {
            self.snapshots.wanted = false;
            if self.raft.is_leader() {
                self.snapshots.make(Goal::Followers);
            }
        } else if self.is_backup_due() {
            self.snapshots.make(Goal::Backup);
        } else if self.snapshots.installing.is_some() {
            self.go_on_restoring(step, slice);
        } else if !self.go_on_saving(step) {
            self.snapshots.free(slice);
        }
    }

    fn go_on_making(&mut self, step: &mut Step<'_>, slice: Slice) {
        let Some(mut making) = self.snapshots.making.take() else { return };
        let (point, progress) = match making.point {
            Some(point) => (point, self.state.snapshot_slice(slice, &mut making.piece)),
            None => {
                let Some(term) = self.raft.log().term_at(self.applied) else { return };
                let point = (self.applied, term);
                making.point = Some(point);
                if making.goal == Goal::Followers {
                    self.raft.on_snapshot_begun(point.0);
                }
                // The members first, then the state.
                self.raft.log().configuration_at(self.applied).encode(&mut making.piece);
                (point, self.state.snapshot_begin(&mut making.piece))
            }
        };
        for (offset, bytes) in making.cut(progress) {
            match making.goal {
                Goal::Followers | Goal::Backup => making.pieces.push(bytes),
                Goal::Disk => {
                    let last = progress == SliceProgress::Done
                        && making.before == offset + bytes.len() as u64;
                    self.save(step, point, offset, bytes, last);
                }
            }
        }
        match (progress, making.goal) {
            (SliceProgress::More, _) => self.snapshots.making = Some(making),
            (SliceProgress::Done, Goal::Disk) => self.made(step, point, making.before),
            (SliceProgress::Done, Goal::Followers) => {
                let (pieces, total) = (making.pieces, making.before);
                self.raft.on_snapshot_ready(step.now, point.0, point.1, total);
                let outgoing = OutgoingSnapshot { point, pieces, total };
                if self.raft.offered() == Some(point.0) {
                    let older = self.snapshots.outgoing.replace(outgoing);
                    older.into_iter().for_each(|older| self.snapshots.spend(older));
                } else {
                    // Nobody is led any more who could get it.
                    self.snapshots.spend(outgoing);
                }
            }
            (SliceProgress::Done, Goal::Backup) => {
                let (pieces, total) = (making.pieces, making.before);
                self.backup_made(step, OutgoingSnapshot { point, pieces, total });
            }
        }
    }

    /// All parts of a snapshot for the disk are on their way.
    fn made(&mut self, step: &mut Step<'_>, point: Point, bytes: u64) {
        let (index, term) = point;
        step.effects.notes.push(Note::SnapshotMade { group: self.group, index, bytes });
        let unsent = VecDeque::new();
        assert!(self.snapshots.saving.is_none(), "one is on its way to the disk at a time");
        assert!(bytes > 0, "a snapshot has bytes");
        self.snapshots.saving = Some(Saving { point, unsent, offset: 0, installs: None });
        if !is_recorded_once_saved() {
            step.shared.journal.append(Record::Snapshot { group: self.group, index, term });
        }
    }

    fn save(&self, step: &mut Step<'_>, point: Point, offset: u64, bytes: Vec<u8>, last: bool) {
        let (group, (index, term)) = (self.group, point);
        assert!(!bytes.is_empty(), "a part has bytes");
        step.effects.saves.push(SnapshotPart { group, index, term, offset, bytes, last });
    }

    /// Whether a snapshot is on its way to the disk.
    pub fn is_snapshotting(&self) -> bool {
        self.snapshots.is_busy()
    }

    /// Frees what pins the oldest segment: by a snapshot when it is applied, else by saying it again
    /// at the journal's end. True: a snapshot is on its way.
    pub fn unpin(&mut self, step: &mut Step<'_>, first: Index, last: Index) -> bool {
        if first <= self.applied {
            return self.make_snapshot();
        }
        // What is not applied is in memory.
        let (log, group) = (self.raft.log(), self.group);
        assert!(first >= log.first_index(), "what is not applied is in memory");
        assert!(last <= log.last_index(), "the journal holds no more than the log");
        let mut first = first;
        while first <= last {
            let room = step.shared.journal.carry_room();
            let to = log.run_end(first, last, room);
            let bytes = log.bytes(first, to);
            let last_term = log.term_at(to).expect("a run lies in memory");
            if bytes.len() > room {
                break; // The next turn's unit has room.
            }
            step.shared.journal.append(Record::Carry { group, first, last: to, last_term, bytes });
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
            Some((configuration, state)) => {
                // The record of it must come before any entry that follows it: consensus says
                // both.
                let raft = &mut self.raft;
                raft.on_snapshot_installed(
                    step.now,
                    (index, term),
                    configuration,
                    &mut step.shared.out,
                );
                self.raft.raise_time(state.clock());
                self.install_state(state);
                self.applied = index;
                self.settle(step);
            }
            None => {
                let (group, index) = (self.group, self.index_to_record(index));
                step.shared.journal.append(Record::Snapshot { group, index, term });
            }
        }
        self.snapshots.recording = Some((saving.point, step.shared.journal.appended()));
    }

    /// Units up to `position` are durable: with them, perhaps, the record of a snapshot.
    pub(super) fn on_recorded(&mut self, step: &mut Step<'_>, position: Position) {
        let Some((point, recorded)) = self.snapshots.recording else { return };
        if recorded > position {
            return;
        }
        self.snapshots.recording = None;
        let replaced = core::mem::replace(&mut self.snapshots.durable, point);
        assert!(replaced.0 <= point.0, "a newer snapshot replaces an older one");
        if replaced.0 > Index::ZERO {
            step.effects.drops.push((self.group, replaced.0));
        }
        self.raft.snapshot_made(point.0, point.1);
        self.install();
    }

    /// An installed snapshot takes the place of the state.
    fn install_state(&mut self, state: State) {
        if !mutant::on(Mutant::InstallKeepsState) {
            self.replace(state);
        }
    }

    /// The record names the snapshot that is on the disk, whatever was applied since.
    fn index_to_record(&self, saved: Index) -> Index {
        if mutant::on(Mutant::SnapshotNamedTooNew) { self.applied } else { saved }
    }

    /// Another state takes this one's place.
    fn replace(&mut self, state: State) {
        let replaced = core::mem::replace(&mut self.state, state);
        self.due = self.state.next_deadline();
        // What was being made of it was for followers that this replica has no more, or for a backup, which begins again.
        if let Some(making) = self.snapshots.making.take() {
            self.snapshots.spent.extend(making.pieces);
        }
        self.snapshots.replaced.push(replaced);
    }

    /// A follower needs a snapshot: has one made, unless one is at hand that the log still continues.
    pub(super) fn offer_snapshot(&mut self, step: &mut Step<'_>) {
        let usable = |o: &&OutgoingSnapshot| o.point.0.next() >= self.raft.log().first_index();
        if let Some(outgoing) = self.snapshots.outgoing.as_ref().filter(usable) {
            let ((index, term), total) = (outgoing.point, outgoing.total);
            return self.raft.on_snapshot_ready(step.now, index, term, total);
        }
        match &self.snapshots.making {
            Some(making) => self.snapshots.wanted = making.goal != Goal::Followers,
            None => self.snapshots.make(Goal::Followers),
        }
    }

    /// A piece of the leader's snapshot, in its place.
    pub(super) fn on_piece(&mut self, install: &Install, piece: &[u8]) {
        let point = (install.index, install.term);
        if install.offset == 0 {
            let (pieces, sum, configuration) = (Vec::new(), Checksum::default(), None);
            let (total, received) = (install.total, 0);
            let begun = IncomingSnapshot { point, total, received, configuration, sum, pieces };
            if let Some(old) = self.snapshots.incoming.replace(begun) {
                self.snapshots.spent.extend(old.pieces);
            }
        }
        let Some(incoming) = &mut self.snapshots.incoming else { return };
        assert_eq!(incoming.point, point, "consensus accepts the pieces of one snapshot in order");
        assert_eq!(incoming.received, install.offset, "pieces follow each other");
        let split = Configuration::split(piece).filter(|_| install.offset == 0);
        let (configuration, state) = split.map_or((None, piece), |(c, rest)| (Some(c), rest));
        incoming.configuration = incoming.configuration.take().or(configuration);
        incoming.sum.add(state);
        incoming.pieces.push(piece.to_vec());
        incoming.received += piece.len() as u64;
        assert!(incoming.received <= install.total, "pieces end where the whole does");
        incoming.total = install.total;
        self.install();
    }

    /// Begins to install the leader's snapshot once it is whole and none of our own is on its way.
    fn install(&mut self) {
        let whole = |i: &&IncomingSnapshot| i.received >= i.total;
        if self.snapshots.is_busy() || self.snapshots.incoming.as_ref().filter(whole).is_none() {
            return;
        }
        let Some(incoming) = self.snapshots.incoming.take() else { return };
        let known = incoming.configuration.filter(|it| *it != Configuration::UNKNOWN);
        let (Some(configuration), true) = (known, incoming.sum.is_right()) else {
            self.snapshots.spent.extend(incoming.pieces);
            return self.raft.on_snapshot_refused(); // Damaged on its way.
        };
        self.snapshots.installing = Some(Installing {
            point: incoming.point,
            configuration,
            restoring: self.state.restore_begin(&self.machine),
            unread: incoming.pieces.into(),
            read: Vec::new(),
        });
    }

    fn go_on_restoring(&mut self, step: &mut Step<'_>, slice: Slice) {
        let Some(mut installing) = self.snapshots.installing.take() else { return };
        let restored = installing.restoring.slice(slice);
        if restored == Ok(Restored::Hungry)
            && let Some(piece) = installing.unread.pop_front()
        {
            // The members are read already.
            let split = Configuration::split(&piece).filter(|_| installing.read.is_empty());
            installing.restoring.feed(split.map_or(&piece[..], |(_, state)| state));
            installing.read.push(piece);
            self.snapshots.installing = Some(installing);
        } else if restored == Ok(Restored::More) {
            self.snapshots.installing = Some(installing);
        } else {
            let Installing { point, configuration, restoring, read, .. } = installing;
            match restoring.finish() {
                Ok(state) if state.level() <= self.raft.level_max() => {
                    self.restored(step, point, (configuration, state), read)
                }
                unfit => {
                    self.snapshots.spent.extend(read);
                    self.snapshots.replaced.extend(unfit);
                    self.raft.on_snapshot_refused(); // Of no version or level that is known here.
                }
            }
        }
    }

    /// The leader's snapshot is a state: it replaces this one's once it is on the disk.
    fn restored(
        &mut self,
        step: &mut Step<'_>,
        point: Point,
        installs: (Configuration, State),
        pieces: Vec<Vec<u8>>,
    ) {
        assert!(self.snapshots.saving.is_none(), "one is on its way to the disk at a time");
        let bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
        let (group, index) = (self.group, point.0);
        step.effects.notes.push(Note::SnapshotInstalled { group, index, bytes });
        let (unsent, installs) = (pieces.into(), Some(installs));
        self.snapshots.saving = Some(Saving { point, unsent, offset: 0, installs });
    }

    /// Hands the next piece of the leader's snapshot to the disk. False: there is none.
    fn go_on_saving(&mut self, step: &mut Step<'_>) -> bool {
        let Some(saving) = &mut self.snapshots.saving else { return false };
        let Some(piece) = saving.unsent.pop_front() else { return false };
        let (point, offset, last) = (saving.point, saving.offset, saving.unsent.is_empty());
        saving.offset += piece.len() as u64;
        self.save(step, point, offset, piece, last);
        true
    }

    /// A peer message's frame, its bulk straight from the log or the snapshot.
    pub(super) fn encode(&self, body: &Body, out: &mut Vec<u8>) {
        let piece = match (body, &self.snapshots.outgoing) {
            (Body::Snapshot(piece), Some(outgoing)) => outgoing.read(piece.range()),
            _ => Cow::default(),
        };
        super::codec::encode(self.group, body, self.raft.log(), &piece, out);
    }
}

/// The journal names a snapshot only once that is on the disk.
fn is_recorded_once_saved() -> bool {
    !mutant::on(Mutant::SnapshotRecordedEarly)
}

/// Hands out a snapshot's bytes, piece by piece. False: there is none.
pub(crate) type Source<'a> = dyn FnMut(&mut dyn FnMut(&[u8])) -> bool + 'a;

/// What a snapshot's bytes stand for, in a group whose state is like `state`: read as `source` hands them out, so that
/// they and the state are never in memory both. `None`: the source has none.
///
/// # Errors
/// [`Unreadable`].
pub(crate) fn read(
    state: &State,
    config: &machine::MachineConfig,
    source: &mut Source<'_>,
) -> Result<Option<(Configuration, State)>, Unreadable> {
    let (mut restoring, mut sum) = (state.restore_begin(config), Checksum::default());
    let (mut members, mut fed) = (None, Ok(Restored::Hungry));
    let found = source(&mut |piece| {
        if fed.is_err() {
            return;
        }
        let mut rest = piece;
        if members.is_none() {
            // They are short, and at the front.
            let Some((configuration, state)) = Configuration::split(piece) else {
                fed = Err(Unreadable);
                return;
            };
            (members, rest) = (Some(configuration), state);
        }
        sum.add(rest);
        restoring.feed(rest);
        fed = restoring.slice(Slice::WHOLE);
    });
    if !found {
        return Ok(None);
    }
    fed?;
    let members = members.filter(|it| *it != Configuration::UNKNOWN && sum.is_right());
    Ok(Some((members.ok_or(Unreadable)?, restoring.finish()?)))
}
