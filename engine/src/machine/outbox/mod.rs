//! Mail from one group to another: written by entries here, and taken by entries there, each once and in order.
//!
//! An entry that concerns another group writes mail to it. The mail lies here, in the state, until an entry says that it
//! was taken there. How it gets there is no matter of the state: it may be carried any number of times, late, and out of
//! order. What makes it exactly once is a number:
//!
//! 1. Mail from one group to another is numbered from 1, each one more. The writer keeps it under its number.
//! 2. The taker remembers, for each group that writes to it, the highest number that it took. It takes the next one, and
//!    nothing else.
//! 3. The taker's entry is committed. Only then the writer hears of it, and an entry there forgets what was taken.
//!
//! # Invariants
//!
//! - What waits for a group has numbers without a gap, up to the last that was given.
//! - Mail that was taken is never taken again, and none is taken before the one in front of it.
//! - At most [`MAIL_MAX`](crate::limits::MAIL_MAX) mails of
//!   [`MAIL_WAITING_BYTES_MAX`](crate::limits::MAIL_WAITING_BYTES_MAX) bytes wait. Past it the entry that would write one
//!   is refused as `Busy`.
//! - Below [`Level::OUTBOX`](crate::level::Level::OUTBOX) nothing is here.
//!
//! # Left out
//!
//! No service writes mail yet. A kind of mail comes with the service that writes it.

mod codec;
#[cfg(any(test, feature = "simulator"))]
mod inspect;

use crate::ids::GroupId;
use crate::mutant::{self, Mutant};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use codec::Rows;

/// The mail of one group: what it wrote and was not taken yet, and what it took.
#[derive(Default)]
pub(super) struct Mails {
    /// By the group that it is for.
    sent: BTreeMap<GroupId, Sent>,
    /// The last number that was taken, by the group that wrote it.
    taken: BTreeMap<GroupId, u64>,
    /// How many mails wait.
    count: usize,
    /// What they are together, in bytes.
    bytes: usize,
    /// What a snapshot in the making has still to write.
    walk: Option<Rows>,
}

/// What was written to one group.
#[derive(Clone, Default)]
struct Sent {
    /// The last number given.
    last: u64,
    /// What was not taken, by its number.
    waiting: BTreeMap<u64, Arc<[u8]>>,
}

/// No mail can be written now.
#[cfg(any(test, feature = "simulator"))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct OutboxFull;

impl Mails {
    /// Writes mail to a group.
    #[cfg(any(test, feature = "simulator"))]
    pub(super) fn write(&mut self, to: GroupId, mail: &[u8]) -> Result<(), OutboxFull> {
        use crate::limits::{MAIL_BYTES_MAX, MAIL_MAX, MAIL_WAITING_BYTES_MAX};
        let fits =
            self.bytes + mail.len() <= MAIL_WAITING_BYTES_MAX && mail.len() <= MAIL_BYTES_MAX;
        if self.count >= MAIL_MAX || !fits {
            return Err(OutboxFull);
        }
        let sent = self.sent.entry(to).or_default();
        sent.last += 1;
        let before = sent.waiting.insert(sent.last, mail.into());
        assert!(before.is_none(), "each number is given once");
        self.count += 1;
        self.bytes += mail.len();
        Ok(())
    }

    /// The group that it is for has taken all mail up to a number.
    pub(super) fn forget_taken(&mut self, to: GroupId, upto: u64) {
        let Some(sent) = self.sent.get_mut(&to) else { return };
        while let Some(first) = sent.waiting.first_entry().filter(|first| *first.key() <= upto) {
            let mail = first.remove();
            assert!(self.bytes >= mail.len(), "what waits is counted");
            self.count -= 1;
            self.bytes -= mail.len();
        }
    }

    /// Whether the mail of this number is the next of that group; if so it counts as taken.
    pub(super) fn take(&mut self, from: GroupId, number: u64) -> bool {
        let taken = self.taken(from);
        let next = is_next(taken, number);
        if next {
            self.taken.insert(from, number.max(taken));
        }
        next
    }

    /// The last number that was taken of a group's mail.
    pub(super) fn taken(&self, from: GroupId) -> u64 {
        self.taken.get(&from).copied().unwrap_or(0)
    }

    /// Whether mail waits.
    pub(super) fn is_waiting(&self) -> bool {
        self.count > 0
    }

    /// The groups for which mail waits, with the number of the first.
    pub(super) fn waiting(&self) -> impl Iterator<Item = (GroupId, u64)> {
        self.sent.iter().filter_map(|(to, sent)| Some((*to, *sent.waiting.first_key_value()?.0)))
    }

    /// What waits for a group, in order.
    pub(super) fn mail_for(&self, to: GroupId) -> impl Iterator<Item = &[u8]> {
        let waiting = self.sent.get(&to).map(|sent| sent.waiting.values());
        waiting.into_iter().flatten().map(|mail| &mail[..])
    }

    /// Forgets all of it: the cluster is another.
    pub(super) fn clear(&mut self) {
        assert!(self.walk.is_none(), "no snapshot is in the making");
        *self = Mails::default();
    }
}

/// Mail is taken in the order of its numbers, each once.
fn is_next(taken: u64, number: u64) -> bool {
    number == taken + 1 || (mutant::on(Mutant::MailTwice) && number <= taken)
}
