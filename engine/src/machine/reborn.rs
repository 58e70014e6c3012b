//! A machine of one cluster becomes one of another, from a backup.
//!
//! What lies between the backup and now is not known here: it was issued, and is forgotten. So nothing may be mistaken
//! for it.
//!
//! - The counter of fences, versions and ids is raised past anything that can have been issued: above Unix time in
//!   microseconds, and above what it was at the backup and one for each microsecond since.
//! - Every session ends, with what its end does: its locks are released, its waiters leave, its messages in flight are
//!   ready again, at their places and with their counts of deliveries. Its calls are remembered no more, and refused.
//! - Mail from group to group is gone, and its numbers begin anew in all groups. Each group was backed up at a moment of
//!   its own: what one has taken, another may still keep, and what one has written, another may have forgotten.
//! - Lines and messages stay. Time stood still for them: a line's time to live goes on from where it was.

use super::{Corrupt, Machine, MachineConfig, Turn};
use crate::mutant::{self, Mutant};
use alloc::vec::Vec;

/// How far above the highest number that can have been issued the counter goes on.
pub const TOKENS_SKIPPED: u64 = 1 << 32;

/// When a backup was taken and when it is used: Unix time in microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Times {
    /// When it was begun.
    pub taken_us: u64,
    /// Now.
    pub now_us: u64,
}

impl Times {
    /// Above what a counter can have issued until now that stood at `issued` when the backup was taken. A clock that
    /// went back counts for nothing: the later of the two is now. `None`: no counter stands so high.
    fn above(self, issued: u64) -> Option<u64> {
        let now_us = self.now_us.max(self.taken_us);
        let since = issued.checked_add(now_us - self.taken_us)?;
        since.max(now_us).checked_add(TOKENS_SKIPPED)
    }
}

impl Machine {
    /// The machine that wrote these bytes when it was made with `origin`, for another cluster: made with `config`,
    /// without sessions, and with a counter above all that was issued.
    ///
    /// # Errors
    /// [`Corrupt`], which says what is wrong with the bytes.
    pub fn reborn(
        origin: MachineConfig,
        config: MachineConfig,
        times: Times,
        bytes: &[u8],
    ) -> Result<Machine, Corrupt> {
        let mut machine = Machine::restore_from(origin, config, bytes)?;
        machine.mails.clear();
        let mut wakes = Vec::new();
        let now = machine.ledger.clock();
        machine.end_sessions(&mut Turn { now, steps: u32::MAX, taken: 0, wakes: &mut wakes });
        let issued = machine.ledger.issued();
        machine.ledger.skip_to(goes_on_above(issued, times).ok_or(Corrupt::Malformed)?);
        assert!(machine.ledger.living() == 0, "no session is left");
        assert!(!machine.ledger.has_unfinished(), "all was given back");
        assert!(!machine.ledger.has_waiters() && machine.locks.is_free(), "nobody holds anything");
        Ok(machine)
    }
}

/// No number comes again that was issued before the backup, or can have been issued since.
fn goes_on_above(issued: u64, times: Times) -> Option<u64> {
    if mutant::on(Mutant::NumbersComeAgain) { Some(issued) } else { times.above(issued) }
}
