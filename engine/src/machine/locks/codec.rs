//! The locks' rows in a snapshot.
//!
//! ```text
//! lock:  name | mode u8 | grants u32 | grants x ( session 16 | fence u64 | count u32 | deadline u64 )
//! ```
//!
//! Grants come in their order. There may be as many as sessions: so they are written and read one by one, and what is
//! left of them is kept when one is about to change.

use super::{Grant, Lock, Locks};
use crate::machine::codec::{RowReader, begin_row, end_row_after, kept, put_bytes, put_count};
use crate::machine::ledger::{Ledger, Resource, Wait};
use crate::machine::restore::{Corrupt, Part, shed_map};
use crate::machine::slab::{Links, Slab};
use crate::machine::snapshot::{Slice, SliceProgress, skipped};
use crate::machine::walk::{Owed, WalkStep};
use crate::mutant::{self, Mutant};
use crate::time::Elapsed;
use alloc::boxed::Box;
use alloc::vec::Vec;
use wire::bytes::Put;
use wire::message::LockMode;

/// Size of a grant in a lock's row.
const GRANT_BYTES: usize = 16 + 8 + 4 + 8;

/// A lock's row of which only some was written.
pub(super) struct OpenLock {
    lock: u32,
    /// The next grant, of those that are still as they were.
    next: Option<u32>,
    /// The row's last bytes as they were, and how many of these were written.
    kept: Box<[u8]>,
    at: usize,
}

impl Locks {
    pub(in crate::machine) fn begin_walk(&mut self) {
        self.locks.begin_walk();
    }

    pub(in crate::machine) fn walk(
        &mut self,
        ledger: &Ledger,
        slice: &mut Slice,
        out: &mut Vec<u8>,
    ) -> SliceProgress {
        loop {
            if self.go_on(ledger, slice, out) == SliceProgress::More {
                return SliceProgress::More;
            }
            let before = out.len();
            let rows = match self.locks.walk_on() {
                WalkStep::End => return SliceProgress::Done,
                WalkStep::Skipped(slots) => skipped(slots),
                WalkStep::Row(owed) => {
                    self.open_lock(owed, out);
                    1
                }
            };
            if !slice.spend(rows, out.len() - before) {
                return SliceProgress::More;
            }
        }
    }

    /// Begins a lock's row: its length and what comes before its grants.
    fn open_lock(&mut self, owed: Owed, out: &mut Vec<u8>) {
        let (lock, kept) = (owed.slot, owed.kept.unwrap_or_default());
        let mut next = None;
        if kept.is_empty() {
            let at = begin_row(out);
            let row = &self.locks[lock];
            put_lock(out, row);
            next = row.grants.first();
            end_row_after(out, at, row.grants.len() * GRANT_BYTES);
            self.locks.set_open(Some(lock));
        } else {
            put_count(out, kept.len());
        }
        self.open = Some(OpenLock { lock, next, kept, at: 0 });
    }

    /// Goes on with a lock's row, if one was begun.
    fn go_on(&mut self, ledger: &Ledger, slice: &mut Slice, out: &mut Vec<u8>) -> SliceProgress {
        let Some(open) = &mut self.open else { return SliceProgress::Done };
        while let Some(grant) = open.next {
            let grant = &self.grants[grant];
            put_grant(out, grant, ledger);
            open.next = grant.links.next();
            if !slice.spend(1, GRANT_BYTES) {
                return SliceProgress::More;
            }
        }
        let rest = &open.kept[open.at..];
        let bytes = rest.len().min(slice.bytes);
        out.put(&rest[..bytes]);
        open.at += bytes;
        if bytes < rest.len() {
            return SliceProgress::More;
        }
        self.open = None;
        self.locks.set_open(None);
        if slice.spend(0, bytes) { SliceProgress::Done } else { SliceProgress::More }
    }

    /// A lock, or a grant of it, is about to change.
    #[inline]
    pub(super) fn keep_lock(&mut self, ledger: &Ledger, slot: u32) {
        if self.locks.owes(slot) {
            self.keep_owed(ledger, slot);
        }
    }

    #[cold]
    fn keep_owed(&mut self, ledger: &Ledger, slot: u32) {
        if let Some(open) = self.open.as_mut().filter(|open| open.lock == slot) {
            let mut rest = Vec::new();
            while let Some(grant) = open.next {
                let grant = &self.grants[grant];
                put_grant(&mut rest, grant, ledger);
                open.next = grant.links.next();
            }
            if !rest.is_empty() {
                open.kept = rest.into_boxed_slice();
            }
            self.locks.set_open(None);
            return;
        }
        let bytes = kept(|out| put_whole(out, &self.locks[slot], &self.grants, ledger));
        self.locks.keep(slot, bytes);
    }

    /// Reads a lock but for its grants, or its next grant.
    pub(in crate::machine) fn read(
        &mut self,
        ledger: &mut Ledger,
        from: &mut RowReader<'_>,
    ) -> Result<Part, Corrupt> {
        let Some((lock, grants)) = self.read else {
            let (name, mode) = (from.bytes()?, from.u8()?);
            let mode = LockMode::from_number(mode).ok_or(Corrupt::Malformed)?;
            let probe = self.locks.probe(name);
            let lock = self.locks.insert_at(probe, Lock::new(name, probe, mode));
            self.read = Some((lock, from.u32()?));
            return Ok(Part::More);
        };
        let Some(grants) = grants.checked_sub(1) else {
            self.read = None;
            return Ok(Part::Last);
        };
        let session = ledger.read_owner(from.session()?)?;
        let (fence, count, deadline) = (from.u64()?, from.u32()?, from.time()?);
        let (count, deadline) = restored(count, deadline);
        if self.grant_of(lock, session).is_some() {
            return Err(Corrupt::Malformed);
        }
        let grant = Grant { lock, session, fence, count, deadline, links: Links::NONE };
        let slot = self.grants.insert(grant);
        self.link_grant(ledger, slot);
        ledger.note_if_ended(session);
        self.read = Some((lock, grants));
        Ok(Part::More)
    }

    /// Puts a wait for a lock, which was read, in line.
    pub(in crate::machine) fn read_wait(
        &mut self,
        ledger: &mut Ledger,
        ticket: u64,
        wait: Wait,
    ) -> Result<(), Corrupt> {
        let lock = self.locks.find(&wait.name).ok_or(Corrupt::Malformed)?;
        ledger.read_wait(self.waitlist(lock), Resource::Lock(lock), ticket, wait);
        self.note_next(ledger, lock);
        Ok(())
    }

    /// Frees some of the locks. True: none is left.
    pub(in crate::machine) fn shed(&mut self, slice: &mut Slice) -> bool {
        self.locks.shed(slice, |_, _| true)
            && self.grants.shed(slice, |_, _| true)
            && shed_map(&mut self.crowded, slice)
    }
}

/// A grant is restored as it was: how many acquires it stands for, and when its lease ends.
fn restored(count: u32, deadline: Elapsed) -> (u32, Elapsed) {
    match () {
        () if mutant::on(Mutant::AgainNotRestored) => (1, deadline),
        () if mutant::on(Mutant::LeaseNotRestored) => (count, Elapsed::MAX),
        () => (count, deadline),
    }
}

pub(super) fn put_whole(out: &mut Vec<u8>, lock: &Lock, grants: &Slab<Grant>, ledger: &Ledger) {
    put_lock(out, lock);
    lock.grants.iter(grants).for_each(|grant| put_grant(out, &grants[grant], ledger));
}

/// What comes before a lock's grants.
fn put_lock(out: &mut Vec<u8>, lock: &Lock) {
    put_bytes(out, &lock.name);
    out.put_u8(lock.mode as u8);
    put_count(out, lock.grants.len());
}

fn put_grant(out: &mut Vec<u8>, grant: &Grant, ledger: &Ledger) {
    out.put(&ledger.session_id(grant.session).0);
    out.put_u64(grant.fence);
    out.put_u32(grant.count);
    out.put_u64(grant.deadline.0);
}
