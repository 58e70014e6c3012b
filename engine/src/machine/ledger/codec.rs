//! The ledger's part of a snapshot: its share of the head, and the sessions' rows with their calls.
//!
//! ```text
//! head:     level u32, from version 3 on | ... | clock u64 | last number u64 | ...
//!             | ended session ids, 16 each, up to version 3
//! session:  id 16 | number u64 | ttl ms u32 | state u8, from version 4 on | deadline u64 | answered below u64
//!             | calls u32 | calls x ( sequence u64 | what )
//! what:     0 | token u64    or  1 | id u64 | delivery u32    or  2 | code u16
//!           or 3 | wait | mode u8 | lease ms u32    or  4 | wait | visibility ms u32
//!           or 5 | code u16 | detail, from level 4 on
//! wait:     ticket u64 | deadline u64 | name of the lock or queue
//! state: 0 = it lives, 1 = it ended, and its deadline is when it is forgotten
//! ```
//!
//! Who waits stands in line by ticket. Timers, and what a session has, follow from the rest.

use super::sessions::{Session, SessionState};
use super::waiters::{Ask, Resource, Wait, Waiter, Waiters, Waitlist};
use super::window::{Remembered, Window};
use super::{Ledger, Timer};
use crate::ids::SessionId;
use crate::level::Level;
use crate::machine::Outcome;
use crate::machine::codec::{RowReader, kept, put_bytes, put_count, put_owed};
use crate::machine::restore::{Corrupt, Part, shed_map};
use crate::machine::snapshot::{Slice, SliceProgress, VERSION_ENDED, VERSION_OLDEST, walk};
use crate::mutant::{self, Mutant};
use crate::time::Elapsed;
use alloc::boxed::Box;
use alloc::vec::Vec;
use wire::bytes::Put;
use wire::message::LockMode;
use wire::{Code, Detail};

impl Ledger {
    /// Appends what the head says first.
    pub(in crate::machine) fn put_level(&self, out: &mut Vec<u8>) {
        if self.level >= Level::SAID {
            out.put_u32(self.level.0);
        }
    }

    /// Appends the clock and the counter.
    pub(in crate::machine) fn put_head(&self, out: &mut Vec<u8>) {
        out.put_u64(self.clock.0);
        out.put_u64(self.issued);
    }

    /// Appends the ids of those that ended, as versions up to 3 have them.
    pub(in crate::machine) fn put_ended(&self, out: &mut Vec<u8>) {
        self.sessions.ended.iter().for_each(|id| out.put(&id.0));
    }

    pub(in crate::machine) fn read_level(
        &mut self,
        from: &mut RowReader<'_>,
    ) -> Result<(), Corrupt> {
        if from.version > VERSION_OLDEST {
            self.level = Level(from.u32()?);
        }
        Ok(())
    }

    pub(in crate::machine) fn read_head(
        &mut self,
        from: &mut RowReader<'_>,
    ) -> Result<(), Corrupt> {
        self.clock = goes_on_at(from.time()?);
        self.issued = goes_on_above(from.u64()?);
        Ok(())
    }

    /// Reads the id of one that ended.
    pub(in crate::machine) fn read_ended(
        &mut self,
        from: &mut RowReader<'_>,
    ) -> Result<(), Corrupt> {
        self.sessions.remember_ended(from.session()?);
        Ok(())
    }
}

// ---- The sessions' rows ----

impl Ledger {
    /// How many sessions have a row.
    pub(in crate::machine) fn session_rows(&self) -> usize {
        self.sessions.table.len()
    }

    pub(in crate::machine) fn begin_walk(&mut self) {
        self.sessions.walk_level = self.level;
        self.sessions.table.begin_walk();
    }

    pub(in crate::machine) fn walk(
        &mut self,
        slice: &mut Slice,
        out: &mut Vec<u8>,
    ) -> SliceProgress {
        let (level, waiters) = (self.sessions.walk_level, &self.waiters);
        walk(&mut self.sessions.table, slice, out, |table, owed, out| {
            put_owed(out, owed, |out| put_session(out, &table[owed.slot], waiters, level));
        })
    }

    /// A session, or a call of it, is about to change.
    #[inline]
    pub(in crate::machine) fn keep_session(&mut self, slot: u32) {
        if self.sessions.table.owes(slot) {
            let (level, waiters) = (self.sessions.walk_level, &self.waiters);
            let session = &self.sessions.table[slot];
            let bytes = kept(|out| put_session(out, session, waiters, level));
            self.sessions.table.keep(slot, bytes);
        }
    }

    pub(in crate::machine) fn read_session(
        &mut self,
        from: &mut RowReader<'_>,
    ) -> Result<Part, Corrupt> {
        let (id, number, ttl_ms) = (from.session()?, from.u64()?, from.u32()?);
        let state = match if from.version < VERSION_ENDED { 0 } else { from.u8()? } {
            0 => SessionState::Lives,
            1 => SessionState::Ended,
            _ => return Err(Corrupt::Malformed),
        };
        let deadline = restored(from.time()?, self.clock, state);
        let window = Window { answered_below: from.u64()?, ..Window::default() };
        let row = Session { state, window, ..Session::new(id, number, ttl_ms, deadline) };
        let slot = self.sessions.table.insert(row);
        let timer = match state {
            SessionState::Lives => Timer::SessionEnd(slot),
            SessionState::Ended => Timer::SessionForget(slot),
        };
        self.sessions.over += usize::from(state == SessionState::Ended);
        self.timers.arm(deadline, number, timer);
        for _ in 0..from.u32()? {
            let sequence = from.u64()?;
            match read_call(from, slot, sequence)? {
                Call::Done(outcome) => {
                    let window = &mut self.sessions.table.row_mut(slot).window;
                    window.calls.push_back((sequence, Remembered::Outcome(outcome)));
                }
                Call::Waits { ticket, wait } => _ = self.waiters.read.insert(ticket, wait),
            }
        }
        Ok(Part::Last)
    }

    /// The next of the waits that were read, by ticket: it is to be put in line.
    pub(in crate::machine) fn take_read_wait(&mut self) -> Option<(u64, Wait)> {
        match mutant::on(Mutant::WaitersRestoredLifo) {
            true => self.waiters.read.pop_last(),
            false => self.waiters.read.pop_first(),
        }
    }

    /// Puts a wait that was read in line.
    pub(in crate::machine) fn read_wait(
        &mut self,
        waitlist: &mut Waitlist,
        resource: Resource,
        ticket: u64,
        wait: Wait,
    ) {
        let (session, sequence) = (wait.session, wait.sequence);
        let slot = self.link_wait(waitlist, resource, ticket, wait);
        self.remember(session, sequence, Remembered::Waiting(slot));
    }

    /// The slot of a session that a row names.
    pub(in crate::machine) fn read_owner(&self, id: SessionId) -> Result<u32, Corrupt> {
        self.sessions.table.find(&id).ok_or(Corrupt::Malformed)
    }

    /// Frees some of what the ledger holds. True: nothing is left.
    pub(in crate::machine) fn shed(&mut self, slice: &mut Slice) -> bool {
        self.timers.shed(slice)
            && self.sessions.table.shed(slice, |row, slice| shed_map(&mut row.owned, slice))
            && shed_map(&mut self.unfinished, slice)
            && self.waiters.rows.shed(slice, |_, _| true)
    }
}

/// A session is restored with the time that it had left.
fn restored(deadline: Elapsed, now: Elapsed, state: SessionState) -> Elapsed {
    let short = state == SessionState::Lives && mutant::on(Mutant::SessionShortRestored);
    if short { Elapsed(now.0 + (deadline.0 - now.0) / 2) } else { deadline }
}

/// Writes a session as it is at a level.
pub(super) fn put_session(out: &mut Vec<u8>, session: &Session, waiters: &Waiters, level: Level) {
    out.put(&session.id.0);
    out.put_u64(session.number);
    out.put_u32(session.ttl_ms);
    if level >= Level::BOUNDED {
        out.put_u8(session.state as u8);
    }
    out.put_u64(session.deadline.0);
    out.put_u64(session.window.answered_below);
    let calls = session.window.calls.iter().filter(|(_, what)| is_written(what));
    put_count(out, calls.clone().count());
    for (sequence, what) in calls {
        out.put_u64(*sequence);
        match what {
            Remembered::Outcome(outcome) => put_outcome(out, outcome),
            Remembered::Waiting(waiter) => put_waiter(out, &waiters.rows[*waiter]),
        }
    }
}

/// Every call of the window is written, done or not.
fn is_written(what: &Remembered) -> bool {
    !mutant::on(Mutant::ForgetWindow) || matches!(what, Remembered::Waiting(_))
}

/// A refusal is remembered with its detail.
fn is_detail_written() -> bool {
    !mutant::on(Mutant::DetailForgotten)
}

fn put_waiter(out: &mut Vec<u8>, waiter: &Waiter) {
    out.put_u8(match waiter.wait.ask {
        Ask::Lock { .. } => 3,
        Ask::Pop { .. } => 4,
    });
    out.put_u64(waiter.ticket);
    out.put_u64(waiter.wait.deadline.0);
    put_bytes(out, &waiter.wait.name);
    match waiter.wait.ask {
        Ask::Lock { mode, lease_ms } => {
            out.put_u8(mode as u8);
            out.put_u32(lease_ms);
        }
        Ask::Pop { visibility_ms } => out.put_u32(visibility_ms),
    }
}

fn put_outcome(out: &mut Vec<u8>, outcome: &Outcome) {
    match outcome {
        Outcome::Done { token } => {
            out.put_u8(0);
            out.put_u64(*token);
        }
        Outcome::Delivered { id, delivery } => {
            out.put_u8(1);
            out.put_u64(*id);
            out.put_u32(*delivery);
        }
        Outcome::Refused { code, detail } => {
            let detail = detail.as_ref().filter(|_| is_detail_written());
            out.put_u8(if detail.is_some() { 5 } else { 2 });
            out.put_u16(code.number());
            if let Some(detail) = detail {
                put_bytes(out, &kept(|out| detail.encode(out)));
            }
        }
    }
}

/// A restored clock goes on from where it was.
fn goes_on_at(clock: Elapsed) -> Elapsed {
    if mutant::on(Mutant::ClockNotRestored) { Elapsed::ZERO } else { clock }
}

/// A restored counter goes on above all that was issued.
fn goes_on_above(issued: u64) -> u64 {
    if mutant::on(Mutant::FenceReuse) { issued / 2 } else { issued }
}

fn read_code(from: &mut RowReader<'_>) -> Result<Code, Corrupt> {
    Code::from_number(from.u16()?).ok_or(Corrupt::Malformed)
}

/// A call as a row says it.
enum Call {
    Done(Outcome),
    Waits { ticket: u64, wait: Wait },
}

fn read_call(from: &mut RowReader<'_>, session: u32, sequence: u64) -> Result<Call, Corrupt> {
    Ok(Call::Done(match from.u8()? {
        0 => Outcome::Done { token: from.u64()? },
        1 => Outcome::Delivered { id: from.u64()?, delivery: from.u32()? },
        2 => Outcome::refused(read_code(from)?),
        5 => {
            let (code, detail) = (read_code(from)?, Detail::decode(from.bytes()?));
            let detail = detail.map_err(|_| Corrupt::Malformed)?.ok_or(Corrupt::Malformed)?;
            Outcome::Refused { code, detail: Some(Box::new(detail.into_owned())) }
        }
        what @ (3 | 4) => {
            let (ticket, deadline) = (from.u64()?, from.time()?);
            let name = from.bytes()?.into();
            let ask = if what == 3 {
                let mode = LockMode::from_number(from.u8()?).ok_or(Corrupt::Malformed)?;
                Ask::Lock { mode, lease_ms: from.u32()? }
            } else {
                Ask::Pop { visibility_ms: from.u32()? }
            };
            return Ok(Call::Waits {
                ticket,
                wait: Wait { session, sequence, deadline, ask, name },
            });
        }
        _ => return Err(Corrupt::Malformed),
    }))
}
