//! What entries say about mail from group to group: some of it is taken, or was taken elsewhere. See
//! [`outbox`](super::outbox).

use super::Machine;
use crate::ids::GroupId;
use crate::limits::MAIL_BATCH_MAX;
use wire::bytes::Reader;

/// Mail that a machine took, for the simulator to look at.
#[cfg(any(test, feature = "simulator"))]
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Took {
    /// Who wrote it.
    pub from: GroupId,
    /// Its number.
    pub number: u64,
    /// The last number that was taken before.
    pub before: u64,
    /// What it says.
    pub mail: alloc::boxed::Box<[u8]>,
}

impl Machine {
    /// Takes the mail that an entry brings, as far as it is the next. Bytes that are no mail bring none.
    pub(super) fn take_mail(&mut self, payload: &[u8]) {
        let mut from = Reader::new(payload);
        let (Ok(group), Ok(first)) = (from.u32().map(GroupId), from.u64()) else { return };
        for nth in 0..MAIL_BATCH_MAX as u64 {
            let Ok(length) = from.u32() else { return };
            let mail = from.take(length as usize);
            let (Ok(mail), Some(number)) = (mail, first.checked_add(nth)) else { return };
            #[cfg(any(test, feature = "simulator"))]
            let before = self.mails.taken(group);
            if !self.mails.take(group, number) {
                continue;
            }
            // What a kind of mail does comes with the service that writes it.
            #[cfg(any(test, feature = "simulator"))]
            self.took.push(Took { from: group, number, before, mail: mail.into() });
            #[cfg(not(any(test, feature = "simulator")))]
            let _ = mail;
        }
    }

    /// Another group took mail of this one.
    pub(super) fn forget_mail(&mut self, payload: &[u8]) {
        let mut from = Reader::new(payload);
        if let (Ok(to), Ok(upto)) = (from.u32(), from.u64()) {
            self.mails.forget_taken(GroupId(to), upto);
        }
    }

    /// Whether mail waits to be taken elsewhere.
    pub fn has_mail(&self) -> bool {
        self.mails.is_waiting()
    }

    /// The groups for which mail waits, with the number of the first.
    pub fn mail_waiting(&self) -> impl Iterator<Item = (GroupId, u64)> {
        self.mails.waiting()
    }

    /// What waits for a group, in order.
    pub fn mail_for(&self, to: GroupId) -> impl Iterator<Item = &[u8]> {
        self.mails.mail_for(to)
    }

    /// The last number that was taken of a group's mail.
    pub fn mail_taken(&self, from: GroupId) -> u64 {
        self.mails.taken(from)
    }
}

#[cfg(any(test, feature = "simulator"))]
impl Machine {
    /// Writes mail, as an entry says that nobody but a test makes.
    pub(super) fn write_mail(&mut self, payload: &[u8]) -> super::Outcome {
        let mut from = Reader::new(payload);
        let Ok(to) = from.u32() else { return super::Outcome::refused(wire::Code::BadMessage) };
        match self.mails.write(GroupId(to), from.rest()) {
            Ok(()) => super::Outcome::Done { token: 0 },
            Err(super::outbox::OutboxFull) => super::Outcome::refused(wire::Code::Busy),
        }
    }

    /// What was taken since this was asked last.
    pub fn drain_took(&mut self) -> impl Iterator<Item = Took> {
        self.took.drain(..)
    }
}
