//! A group's snapshot for a backup: begun by its leader, made as for a follower, kept in memory while it is read.
//!
//! # How it works
//!
//! 1. The leader is asked, and leadership is confirmed as for a read: so what is applied then is at least as new as all
//!    that was committed when it was asked.
//! 2. A snapshot is made of what is applied, in slices, once no other is being made.
//! 3. The client takes it piece by piece. The piece that ends it ends its being kept; so does silence.
//!
//! From 2 on it does not matter who leads: what a snapshot stands for does not change. A backup has an id, so that a
//! client whose connection broke goes on where it was.
//!
//! # Cost
//!
//! The group's whole snapshot in memory, as for a follower that lags. So an engine keeps one at a time
//! ([`Engine`](crate::engine::Engine) sees to that).

use super::calls::Caller;
use super::desk::Hint;
use super::reads::Until;
use super::snapshots::OutgoingSnapshot;
use super::{Shard, Step};
use crate::effects::Note;
use crate::ids::{Index, Term};
use crate::limits::BACKUP_IDLE_MS_MAX;
use crate::mutant::{self, Mutant};
use crate::raft::Read;
use crate::time::{Duration, Time};
use wire::Code;
use wire::message::{BackupPiece, BackupReady};

/// How long a snapshot is kept that nobody reads.
const IDLE_MAX: Duration = Duration::from_millis(BACKUP_IDLE_MS_MAX);
/// When another backup is to ask again, in milliseconds.
const BUSY_RETRY_MS: u32 = 500;

/// A snapshot for a backup.
pub(super) struct Backup {
    id: [u8; 16],
    state: BackupState,
}

enum BackupState {
    /// It waits until leadership is confirmed.
    Asked { caller: Caller, until: Until },
    /// It is being made, or waits for another snapshot that is. It is to stand for this index or a later one.
    Making { caller: Caller, from: Index },
    /// It can be read.
    Kept { snapshot: OutgoingSnapshot, touched: Time },
}

impl Shard {
    /// Whether something is under way for a backup here.
    pub fn has_backup(&self) -> bool {
        self.backup.is_some()
    }

    /// Whether a snapshot is to be made for a backup.
    pub(super) fn is_backup_due(&self) -> bool {
        matches!(&self.backup, Some(Backup { state: BackupState::Making { .. }, .. }))
    }

    /// Whether leadership is to be confirmed for a backup.
    pub(super) fn is_backup_asked(&self) -> bool {
        matches!(&self.backup, Some(Backup { state: BackupState::Asked { .. }, .. }))
    }

    /// When a snapshot that nobody reads is to be dropped.
    pub(super) fn backup_ends_at(&self) -> Time {
        match &self.backup {
            Some(Backup { state: BackupState::Kept { touched, .. }, .. }) => *touched + IDLE_MAX,
            _ => Time::MAX,
        }
    }

    /// A client wants a snapshot for its backup.
    pub fn on_backup_begin(&mut self, step: &mut Step<'_>, caller: Caller, id: [u8; 16]) {
        let budget = self.machine.cache_bytes_max;
        match &mut self.backup {
            Some(backup) if backup.id != id => {
                let hint = Hint::retry(BUSY_RETRY_MS);
                return step.desk().error(caller, Code::Busy, hint);
            }
            Some(backup) => {
                match &mut backup.state {
                    BackupState::Asked { caller: waits, .. }
                    | BackupState::Making { caller: waits, .. } => {
                        // The request whose place it takes is answered no more.
                        step.shared.conns.settle(core::mem::replace(waits, caller));
                    }
                    BackupState::Kept { snapshot, touched } => {
                        *touched = step.now;
                        ready(step, caller, snapshot, budget);
                    }
                }
                return;
            }
            None => {}
        }
        let until = match self.raft.read(step.now, step.reads()) {
            Read::NotLeader => return self.refuse(step, caller),
            read => self.confirms_backup(read),
        };
        assert!(self.backup.is_none(), "a group has one backup at a time");
        self.backup = Some(Backup { id, state: BackupState::Asked { caller, until } });
    }

    /// A backup begins once leadership is confirmed for it, and what was committed is applied.
    fn confirms_backup(&self, read: Read) -> Until {
        match read {
            _ if mutant::on(Mutant::BackupUnconfirmed) => Until::Applied(Index::ZERO),
            Read::After(time) => Until::Confirmed(time),
            Read::Ready | Read::NotLeader => Until::Applied(self.raft.commit()),
        }
    }

    /// A client takes a piece of the snapshot.
    pub fn on_backup_read(
        &mut self,
        step: &mut Step<'_>,
        caller: Caller,
        id: [u8; 16],
        offset: u64,
    ) {
        let Some(Backup { state: BackupState::Kept { snapshot, touched }, .. }) =
            self.backup.as_mut().filter(|backup| backup.id == id)
        else {
            return step.desk().error(caller, Code::BackupGone, Hint::NONE);
        };
        *touched = step.now;
        let Some(bytes) = snapshot.piece_at(offset) else {
            return step.desk().error(caller, Code::BadMessage, Hint::NONE);
        };
        let is_last = offset + bytes.len() as u64 == snapshot.total();
        assert!(offset + bytes.len() as u64 <= snapshot.total(), "a piece lies in its snapshot");
        let piece = BackupPiece { offset, bytes };
        step.desk().reply(caller, BackupPiece::KIND, |b| piece.encode(b));
        if is_last {
            self.drop_backup();
        }
    }

    /// Leadership is confirmed for a snapshot that was asked for; or nobody reads one any more.
    pub(super) fn keep_backup(&mut self, now: Time) {
        let (applied, commit) = (self.applied, self.raft.commit());
        let confirmed = self.raft.confirmed_at();
        let Some(Backup { state, .. }) = &mut self.backup else { return };
        match state {
            BackupState::Asked { caller, until } => {
                if until.is_reached(applied, commit, confirmed) {
                    *state = BackupState::Making { caller: *caller, from: applied };
                }
            }
            BackupState::Making { .. } => {}
            BackupState::Kept { touched, .. } if now < *touched + IDLE_MAX => {}
            BackupState::Kept { .. } => self.drop_backup(),
        }
    }

    /// The snapshot for the backup is made.
    pub(super) fn backup_made(&mut self, step: &mut Step<'_>, snapshot: OutgoingSnapshot) {
        let budget = self.machine.cache_bytes_max;
        let Some(backup) = &mut self.backup else { return self.snapshots.spend(snapshot) };
        let BackupState::Making { caller, from } = backup.state else {
            return self.snapshots.spend(snapshot);
        };
        if snapshot.point().0 < from {
            // It was begun for an earlier backup, which has gone on: another one is made.
            return self.snapshots.spend(snapshot);
        }
        let ((index, _), bytes) = (snapshot.point(), snapshot.total());
        step.effects.notes.push(Note::BackupMade { group: self.group, index, bytes });
        ready(step, caller, &snapshot, budget);
        backup.state = BackupState::Kept { snapshot, touched: step.now };
    }

    /// This replica leads no more: what was asked of it as the leader is not confirmed.
    pub(super) fn refuse_backup(&mut self, step: &mut Step<'_>) {
        if let Some(Backup { state: BackupState::Asked { caller, .. }, .. }) = self.backup {
            step.desk().error(caller, Code::Unavailable, Hint::retry(20));
            self.backup = None;
        }
    }

    /// The client of a backup has gone on to another group.
    pub fn forget_backup(&mut self, step: &mut Step<'_>, id: [u8; 16]) {
        if self.backup.as_ref().is_some_and(|backup| backup.id == id) {
            self.end_backup(step);
        }
    }

    /// This replica ends, and what it kept.
    pub(super) fn end_backup(&mut self, step: &mut Step<'_>) {
        self.refuse_backup(step);
        if let Some(Backup { state: BackupState::Making { caller, .. }, .. }) = self.backup {
            step.desk().error(caller, Code::Unavailable, Hint::retry(20));
        }
        self.drop_backup();
    }

    fn drop_backup(&mut self) {
        if let Some(Backup { state: BackupState::Kept { snapshot, .. }, .. }) = self.backup.take() {
            self.snapshots.spend(snapshot);
        }
    }
}

/// Says that a snapshot can be read.
fn ready(step: &mut Step<'_>, caller: Caller, snapshot: &OutgoingSnapshot, cache_bytes_max: u64) {
    let (Index(index), Term(term)) = snapshot.point();
    let total = snapshot.total();
    let ready = BackupReady { index, term, total, cache_bytes_max };
    step.desk().reply(caller, BackupReady::KIND, |b| ready.encode(b));
}
