//! The rows of mail in a snapshot, from version 5 on.
//!
//! ```text
//! sent:  0 | group u32 | last number u64
//! mail:  1 | group u32 | number u64 | bytes
//! taken: 2 | group u32 | last number u64
//! ```
//!
//! There is little of it, and mail does not change: a walk begins with a copy that shares the mail.

use super::{Mails, Sent};
use crate::ids::GroupId;
use crate::machine::codec::{RowReader, begin_row, end_row, put_bytes};
use crate::machine::restore::{Corrupt, Part, shed_bytes};
use crate::machine::snapshot::{Slice, SliceProgress};
use crate::mutant::{self, Mutant};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use wire::bytes::Put;

const SENT: u8 = 0;
const MAIL: u8 = 1;
const TAKEN: u8 = 2;

/// A row.
pub(super) enum MailRow {
    Sent(GroupId, u64),
    Mail(GroupId, u64, Arc<[u8]>),
    Taken(GroupId, u64),
}

/// Rows that are still to be written.
pub(super) type Rows = VecDeque<MailRow>;

impl MailRow {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        let (tag, group, number) = match self {
            MailRow::Sent(group, last) => (SENT, group, last),
            MailRow::Mail(group, number, _) => (MAIL, group, number),
            MailRow::Taken(group, last) => (TAKEN, group, last),
        };
        out.push(tag);
        out.put_u32(group.0);
        out.put_u64(*number);
        if let MailRow::Mail(_, _, bytes) = self {
            put_bytes(out, bytes);
        }
    }
}

impl Mails {
    /// How many rows there are.
    pub(in crate::machine) fn rows(&self) -> usize {
        self.sent.len() + self.taken.len() + if is_mail_written() { self.count } else { 0 }
    }

    pub(super) fn each_row(&self) -> impl Iterator<Item = MailRow> {
        let sent = self.sent.iter().map(|(to, sent)| MailRow::Sent(*to, sent.last));
        let taken = self.taken.iter().map(|(from, last)| MailRow::Taken(*from, *last));
        let waiting = self.sent.iter().filter(|_| is_mail_written());
        let mail = waiting.flat_map(|(to, sent)| {
            sent.waiting.iter().map(|(number, mail)| MailRow::Mail(*to, *number, Arc::clone(mail)))
        });
        sent.chain(mail).chain(taken)
    }

    pub(in crate::machine) fn begin_walk(&mut self) {
        assert!(self.walk.is_none(), "one walk at a time");
        self.walk = Some(self.each_row().collect());
    }

    pub(in crate::machine) fn walk(
        &mut self,
        slice: &mut Slice,
        out: &mut Vec<u8>,
    ) -> SliceProgress {
        while let Some(next) = self.walk.as_mut().and_then(VecDeque::pop_front) {
            let at = begin_row(out);
            next.put(out);
            end_row(out, at);
            if !slice.spend(1, out.len() - at) {
                return SliceProgress::More;
            }
        }
        self.walk = None;
        SliceProgress::Done
    }

    pub(in crate::machine) fn read(&mut self, from: &mut RowReader<'_>) -> Result<Part, Corrupt> {
        let (tag, group, number) = (from.u8()?, GroupId(from.u32()?), from.u64()?);
        let again = match tag {
            SENT => {
                let sent: &mut Sent = self.sent.entry(group).or_default();
                core::mem::replace(&mut sent.last, number) != 0
            }
            MAIL => {
                let mail = from.bytes()?;
                self.count += 1;
                self.bytes += mail.len();
                let waiting: &mut BTreeMap<_, _> = &mut self.sent.entry(group).or_default().waiting;
                waiting.insert(number, mail.into()).is_some()
            }
            TAKEN => self.taken.insert(group, number).is_some(),
            _ => return Err(Corrupt::Malformed),
        };
        if again { Err(Corrupt::Malformed) } else { Ok(Part::Last) }
    }

    /// Looks at what was read, once all rows were: numbers have no gap.
    pub(in crate::machine) fn check_read(&mut self) -> Result<SliceProgress, Corrupt> {
        let whole = self.sent.values().all(|sent| {
            let first = sent.waiting.first_key_value().map(|(number, _)| *number);
            let last = sent.waiting.last_key_value().map(|(number, _)| *number);
            let ends = last.is_none_or(|last| last == sent.last);
            ends && first
                .is_none_or(|first| first > 0 && sent.last - first + 1 == sent.waiting.len() as u64)
        });
        if whole { Ok(SliceProgress::Done) } else { Err(Corrupt::Malformed) }
    }

    /// Frees some of the mail. True: none is left.
    pub(in crate::machine) fn shed(&mut self, slice: &mut Slice) -> bool {
        self.walk = None;
        while let Some(mut sent) = self.sent.first_entry() {
            match sent.get_mut().waiting.pop_first() {
                Some((_, mail)) => _ = shed_bytes(mail.len() as u64, slice),
                None => _ = sent.remove(),
            }
            if !slice.spend(1, 0) {
                return false;
            }
        }
        true
    }
}

fn is_mail_written() -> bool {
    !mutant::on(Mutant::MailNotInSnapshot)
}
