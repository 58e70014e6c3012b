//! Mail, as tests and the simulator look at it: its rows in order, its invariants.

use super::Mails;
use crate::level::Level;
use crate::limits::{MAIL_MAX, MAIL_WAITING_BYTES_MAX};
use crate::machine::inspect::{put_sorted, row};
use alloc::vec::Vec;

impl Mails {
    pub(in crate::machine) fn put_sorted(&self, out: &mut Vec<u8>) {
        put_sorted(out, self.each_row().map(|next| row(|out| next.put(out))));
    }

    /// Looks at all mail of a group at a level.
    ///
    /// # Panics
    /// When an invariant does not hold.
    pub(in crate::machine) fn verify(&self, level: Level) {
        let (mut count, mut bytes) = (0, 0);
        for sent in self.sent.values() {
            let first = sent.last + 1 - sent.waiting.len() as u64;
            assert!(sent.waiting.keys().copied().eq(first..=sent.last), "no number is left out");
            count += sent.waiting.len();
            bytes += sent.waiting.values().map(|mail| mail.len()).sum::<usize>();
        }
        assert_eq!((count, bytes), (self.count, self.bytes), "what waits is counted");
        assert!(count <= MAIL_MAX, "mail is bounded");
        assert!(bytes <= MAIL_WAITING_BYTES_MAX, "mail is bounded");
        let none = self.sent.is_empty() && self.taken.is_empty();
        assert!(none || level >= Level::OUTBOX, "mail comes with its level");
    }
}
