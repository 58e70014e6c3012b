//! Mail between groups, as their leaders carry it: what waits in one group's state is sent to the other's leader, which
//! proposes it there. And probes, which nobody keeps.
//!
//! # How it works
//!
//! 1. The leader of a group in whose state mail waits sends the first of it ([`wire::peer::Mail`]) to whoever leads the
//!    group that it is for, and again every [`SEND_AGAIN`] until it is known to be taken.
//! 2. The leader there proposes it as an entry of its own log. Once that is applied it tells the first group how far it
//!    has come ([`wire::peer::MailTaken`]).
//! 3. The first group's leader proposes an entry that forgets so much. Then the next mail is the first.
//!
//! Each of these may be lost, doubled or late, and leaders may change between any two of them: what counts is in the two
//! states ([`outbox`](crate::machine)), and what is here is thrown away with the leadership. One batch to a group is on
//! its way at a time.
//!
//! A *probe* is a message to another group's leader that nobody keeps. It comes once, or twice, or not at all.
//!
//! # Invariants
//!
//! - Only what is applied is sent, and only what is applied is called taken.
//! - Nothing is sent below [`Level::OUTBOX`]: an older build never gets a parcel.

use super::{Shard, Step};
use crate::entry::kind;
use crate::ids::{GroupId, Index};
use crate::level::Level;
use crate::limits::{MAIL_BATCH_BYTES_MAX, MAIL_BATCH_MAX, MAIL_BYTES_MAX, PARCELS_TURN_BYTES_MAX};
use crate::mutant::{self, Mutant};
use crate::time::{Duration, Time};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use wire::bytes::{Put, Reader};
use wire::peer::{Mail, MailTaken, Probe};
use wire::{Header, Kind};

/// How long a leader waits before it sends mail again.
const SEND_AGAIN: Duration = Duration::from_millis(100);
/// How long it waits when there was no room in the turn.
const SEND_LATER: Duration = Duration::from_millis(5);

/// What the groups of an engine send to other groups in one turn: frames, each with the group that it is for.
#[derive(Default)]
pub struct Parcels {
    frames: Vec<u8>,
}

impl Parcels {
    /// Sends something to the leader of a group. False: there is no room in this turn.
    pub fn put(&mut self, to: GroupId, kind: Kind, body: impl FnOnce(&mut Vec<u8>)) -> bool {
        let before = self.frames.len();
        let header = Header { shard: to.0, ..Header::new(kind, 0) };
        wire::frame(&mut self.frames, &header, body);
        let fits = self.frames.len() <= PARCELS_TURN_BYTES_MAX;
        if !fits {
            self.frames.truncate(before);
        }
        assert!(self.frames.len() <= PARCELS_TURN_BYTES_MAX, "what a turn sends is bounded");
        fits
    }

    /// Takes all of it.
    pub fn take(&mut self) -> Vec<u8> {
        core::mem::take(&mut self.frames)
    }

    /// Whether nothing is sent.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }
}

/// What a leader remembers of mail.
#[derive(Default)]
pub struct Carrier {
    /// The first mail that was sent last to a group, and when it is sent again.
    sent: BTreeMap<GroupId, (u64, Time)>,
    /// The entry that takes a group's mail here, one at a time, and the number of the last that it takes.
    takes: BTreeMap<GroupId, (Index, u64)>,
    /// The entry that forgets what a group took: one at a time.
    forgets: BTreeMap<GroupId, Index>,
    /// Groups that asked for what is taken already.
    asked: Vec<GroupId>,
}

impl Carrier {
    /// When mail is sent again.
    pub fn wake_at(&self) -> Time {
        self.sent.values().map(|(_, again)| *again).min().unwrap_or(Time::MAX)
    }
}

impl Shard {
    /// Another term begins, in which this replica leads or not: what was remembered of mail is void.
    pub(super) fn begin_carrying(&mut self) {
        self.carrier = Carrier::default();
        if !is_found_mail_sent() {
            let found = self.state.mail_waiting().map(|(to, first)| (to, (first, Time::MAX)));
            self.carrier.sent.extend(found);
        }
    }

    /// A leader's duties to mail: says what was taken here, and sends what waits.
    pub(super) fn keep_mail(&mut self, step: &mut Step<'_>) {
        if self.leads.is_none() || !self.raft.is_leader() {
            return;
        }
        if !self.carrier.takes.is_empty() || !self.carrier.asked.is_empty() {
            self.say_taken(step);
        }
        if self.state.has_mail() {
            self.send_mail(step);
        } else if !self.carrier.sent.is_empty() {
            self.carrier.sent.clear();
        }
    }

    /// Tells whose mail was taken how far that has come.
    fn say_taken(&mut self, step: &mut Step<'_>) {
        let mut groups = core::mem::take(&mut self.carrier.asked);
        let done = |index: Index| index <= self.applied || is_proposed_taken();
        let takes = self.carrier.takes.iter();
        groups.extend(takes.filter(|(_, (index, _))| done(*index)).map(|(from, _)| *from));
        groups.sort_unstable();
        groups.dedup();
        for from in groups {
            let upto = self.state.mail_taken(from);
            let proposed = self.carrier.takes.get(&from).filter(|(index, _)| done(*index));
            let upto = proposed.map_or(upto, |(_, last)| upto.max(*last));
            let taken = MailTaken { by: self.group.0, upto };
            // One that is lost is asked for again: the mail comes again.
            step.shared.parcels.put(from, MailTaken::KIND, |b| taken.encode(b));
        }
        let applied = self.applied;
        self.carrier.takes.retain(|_, (index, _)| *index > applied);
    }

    /// Sends the first mail to each group for which some waits, unless it was just sent.
    fn send_mail(&mut self, step: &mut Step<'_>) {
        let mut due = Vec::new();
        let sent = &mut self.carrier.sent;
        sent.retain(|to, (first, _)| self.state.mail_waiting().any(|it| it == (*to, *first)));
        due.extend(
            self.state
                .mail_waiting()
                .filter(|(to, _)| sent.get(to).is_none_or(|(_, again)| step.now >= *again)),
        );
        for (to, first) in due {
            let mut mails = Vec::new();
            for mail in self.state.mail_for(to).take(MAIL_BATCH_MAX) {
                let length = u32::try_from(mail.len()).expect("a mail is short");
                mails.put_u32(length);
                mails.put(mail);
                if mails.len() >= MAIL_BATCH_BYTES_MAX {
                    break;
                }
            }
            assert!(!mails.is_empty(), "some waits");
            let mail = Mail { from: self.group.0, first, mails: &mails };
            let fits = step.shared.parcels.put(to, Mail::KIND, |b| mail.encode(b));
            let again = step.now + if fits { SEND_AGAIN } else { SEND_LATER };
            self.carrier.sent.insert(to, (first, again));
        }
    }

    /// Mail of another group came. What can't be taken now comes again.
    pub fn on_mail(&mut self, step: &mut Step<'_>, mail: &Mail<'_>) {
        self.note_leader(step);
        let from = GroupId(mail.from);
        if !self.takes_parcels() {
            return;
        }
        let Some((count, _)) = first_mails(mail.mails, |_| true) else { return };
        let taken = self.state.mail_taken(from);
        if mail.first.saturating_add(count) <= taken.saturating_add(1) {
            return self.carrier.asked.push(from);
        }
        let is_gap = mail.first > taken + 1;
        let takes = self.carrier.takes.get(&from);
        let under_way = takes.is_some_and(|(index, _)| *index > self.applied);
        if is_gap || under_way {
            return;
        }
        let mut payload = Vec::new();
        payload.put_u32(mail.from);
        payload.put_u64(mail.first);
        // As much as there is room for: a small journal never has room for a large batch.
        let fits = |bytes| step.has_room(payload.len() + bytes);
        let Some((count, bytes)) = first_mails(mail.mails, fits) else { return };
        payload.put(&mail.mails[..bytes]);
        let time = self.raft.clock(step.now);
        if let Ok(index) = self.raft.propose(kind::MAIL, 0, time, &payload) {
            step.take_room(payload.len());
            self.carrier.takes.insert(from, (index, mail.first + (count - 1)));
        }
    }

    /// Another group says how far it took this one's mail.
    pub fn on_mail_taken(&mut self, step: &mut Step<'_>, taken: &MailTaken) {
        self.note_leader(step);
        let by = GroupId(taken.by);
        let under_way = self.carrier.forgets.get(&by).is_some_and(|index| *index > self.applied);
        let news = self.state.mail_waiting().any(|(to, first)| to == by && first <= taken.upto);
        if !self.takes_parcels() || under_way || !news {
            return;
        }
        let mut payload = Vec::new();
        payload.put_u32(taken.by);
        payload.put_u64(taken.upto);
        if let Some(index) = self.propose_own(step, kind::MAIL_TAKEN, &payload) {
            self.carrier.forgets.insert(by, index);
        }
    }

    /// Sends something to the leader of a group that nobody keeps. False: it is not sent.
    pub fn probe(&mut self, step: &mut Step<'_>, to: GroupId, bytes: &[u8]) -> bool {
        let probe = Probe { from: self.group.0, bytes };
        self.takes_parcels() && step.shared.parcels.put(to, Probe::KIND, |b| probe.encode(b))
    }

    /// Something came from the leader of another group that nobody keeps. No service sends such yet.
    pub fn on_probe(&mut self, probe: &Probe<'_>) {
        if !self.takes_parcels() {
            return;
        }
        #[cfg(any(test, feature = "simulator"))]
        self.probes.push((GroupId(probe.from), probe.bytes.into()));
        #[cfg(not(any(test, feature = "simulator")))]
        let _ = probe;
    }

    /// Whether this replica carries parcels, and takes them.
    fn takes_parcels(&self) -> bool {
        self.group != GroupId::META && self.raft.is_leader() && self.is_at(Level::OUTBOX)
    }
}

/// The first mails that fit together: how many they are, and what they take in bytes. `None`: none fits, or the bytes
/// are no mails, or too many.
fn first_mails(mails: &[u8], fits: impl Fn(usize) -> bool) -> Option<(u64, usize)> {
    let (mut rest, mut count, mut first) = (Reader::new(mails), 0, None);
    while !rest.is_empty() {
        let length = rest.u32().ok()? as usize;
        rest.take(length).ok()?;
        count += 1;
        if length > MAIL_BYTES_MAX || count > MAIL_BATCH_MAX as u64 {
            return None;
        }
        let bytes = mails.len() - rest.rest().len();
        if fits(bytes) {
            first = Some((count, bytes));
        }
    }
    first
}

/// What an earlier leader did not bring to its end, the next one does.
fn is_found_mail_sent() -> bool {
    !mutant::on(Mutant::MailOfOldLeader)
}

/// Mail is taken once the entry that takes it is applied.
fn is_proposed_taken() -> bool {
    mutant::on(Mutant::MailTakenEarly)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(mails: &[&[u8]]) -> Vec<u8> {
        let mut batch = Vec::new();
        for mail in mails {
            batch.put_u32(mail.len() as u32);
            batch.put(mail);
        }
        batch
    }

    #[test]
    fn of_a_batch_the_first_mails_are_taken_for_which_there_is_room() {
        let mails = batch(&[b"one", b"three", b"five"]);
        assert_eq!(first_mails(&mails, |_| true), Some((3, mails.len())));
        assert_eq!(first_mails(&mails, |bytes| bytes < mails.len()), Some((2, 16)));
        assert_eq!(first_mails(&mails, |bytes| bytes < 16), Some((1, 7)));
        assert_eq!(first_mails(&mails, |_| false), None);
    }

    #[test]
    fn what_is_cut_short_too_long_or_too_much_is_no_mail() {
        let mails = batch(&[b"one", b"two"]);
        assert_eq!(first_mails(&mails[..mails.len() - 1], |_| true), None);
        assert_eq!(first_mails(&batch(&[&[0; MAIL_BYTES_MAX + 1]]), |_| true), None);
        assert_eq!(first_mails(&batch(&[&b"mail"[..]; MAIL_BATCH_MAX + 1]), |_| true), None);
        assert_eq!(first_mails(&[], |_| true), None);
    }
}
