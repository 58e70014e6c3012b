//! The queues' and the messages' rows in a snapshot.
//!
//! ```text
//! queue:    name
//! message:  id u64 | queue u32 | priority u8 | delivery u32
//!             | state u8 | session 16 if in flight | deadline u64 unless ready | payload
//! state:    0 = ready, 1 = in flight, 2 = delayed
//! ```
//!
//! A message names its queue by its place among the queues.

use super::{MessageState, Queue, QueueMessage, Queues};
use crate::machine::codec::{LENGTH_BYTES, RowReader, kept, put_bytes, put_owed};
use crate::machine::ledger::{Ledger, Resource, Wait};
use crate::machine::restore::{Corrupt, Part, shed_bytes, shed_map};
use crate::machine::snapshot::{Slice, SliceProgress, walk};
use crate::mutant::{self, Mutant};
use crate::time::Elapsed;
use alloc::vec::Vec;
use wire::bytes::{Put, put_u32_at, u32_at};

/// Where a message's row names its queue.
const MESSAGE_QUEUE_AT: usize = 8;

/// Where each queue stands among the queues of a snapshot that is being made, by its slot.
#[derive(Default)]
pub(super) struct Places {
    by_slot: Vec<u32>,
    count: u32,
}

impl Places {
    pub(super) fn put(&mut self, slot: u32) {
        let at = slot as usize;
        if at >= self.by_slot.len() {
            self.by_slot.resize(at + 1, u32::MAX);
        }
        self.by_slot[at] = self.count;
        self.count += 1;
    }

    /// Names a message's queue by its place and not by its slot.
    pub(super) fn rename(&self, message: &mut [u8]) {
        let queue = u32_at(message, MESSAGE_QUEUE_AT);
        put_u32_at(message, MESSAGE_QUEUE_AT, self.name_of(queue));
    }

    /// A queue's name in a message's row is its place, which is the same wherever its slot lies.
    fn name_of(&self, slot: u32) -> u32 {
        if mutant::on(Mutant::QueueBySlot) { slot } else { self.by_slot[slot as usize] }
    }
}

// ---- Queues ----

impl Queues {
    pub(in crate::machine) fn begin_walk_queues(&mut self) {
        self.places = Places::default();
        self.queues.begin_walk();
    }

    pub(in crate::machine) fn walk_queues(
        &mut self,
        slice: &mut Slice,
        out: &mut Vec<u8>,
    ) -> SliceProgress {
        let places = &mut self.places;
        walk(&mut self.queues, slice, out, |table, owed, out| {
            put_owed(out, owed, |out| put_queue(out, &table[owed.slot]));
            places.put(owed.slot);
        })
    }

    /// A queue is about to go.
    #[inline]
    pub(super) fn keep_queue(&mut self, slot: u32) {
        if self.queues.owes(slot) {
            let bytes = kept(|out| put_queue(out, &self.queues[slot]));
            self.queues.keep(slot, bytes);
        }
    }

    pub(in crate::machine) fn read_queue(
        &mut self,
        from: &mut RowReader<'_>,
    ) -> Result<Part, Corrupt> {
        self.read.push(self.queues.insert(Queue::new(from.bytes()?)));
        Ok(Part::Last)
    }

    /// Puts a wait for a message, which was read, in line.
    pub(in crate::machine) fn read_wait(
        &mut self,
        ledger: &mut Ledger,
        ticket: u64,
        wait: Wait,
    ) -> Result<(), Corrupt> {
        let queue = self.queues.find(&wait.name).ok_or(Corrupt::Malformed)?;
        ledger.read_wait(self.waitlist(queue), Resource::Queue(queue), ticket, wait);
        self.note_next(ledger, queue);
        Ok(())
    }

    /// Frees some of the queues. True: none is left.
    pub(in crate::machine) fn shed_queues(&mut self, slice: &mut Slice) -> bool {
        self.queues.shed(slice, |row, slice| shed_map(&mut row.ready, slice))
    }
}

pub(super) fn put_queue(out: &mut Vec<u8>, queue: &Queue) {
    put_bytes(out, &queue.name);
}

// ---- Messages ----

impl Queues {
    /// How many messages there are.
    pub(in crate::machine) fn message_rows(&self) -> usize {
        self.messages.len()
    }

    pub(in crate::machine) fn begin_walk_messages(&mut self) {
        self.messages.begin_walk();
    }

    pub(in crate::machine) fn walk_messages(
        &mut self,
        ledger: &Ledger,
        slice: &mut Slice,
        out: &mut Vec<u8>,
    ) -> SliceProgress {
        let places = &self.places;
        walk(&mut self.messages, slice, out, |table, owed, out| {
            let at = out.len();
            put_owed(out, owed, |out| put_message(out, &table[owed.slot], ledger));
            places.rename(&mut out[at + LENGTH_BYTES..]);
        })
    }

    /// A message is about to move.
    #[inline]
    pub(super) fn keep_message(&mut self, ledger: &Ledger, slot: u32) {
        if self.messages.owes(slot) {
            let bytes = kept(|out| put_message(out, &self.messages[slot], ledger));
            self.messages.keep(slot, bytes);
        }
    }

    pub(in crate::machine) fn read_message(
        &mut self,
        ledger: &mut Ledger,
        from: &mut RowReader<'_>,
    ) -> Result<Part, Corrupt> {
        let id = from.u64()?;
        let queue = *self.read.get(from.u32()? as usize).ok_or(Corrupt::Malformed)?;
        let (priority, delivery) = (from.u8()?, from.u32()?);
        let state = match from.u8()? {
            0 => MessageState::Ready,
            1 => {
                let session = ledger.read_owner(from.session()?)?;
                MessageState::InFlight { session, deadline: from.time()? }
            }
            2 => delayed(from.time()?),
            _ => return Err(Corrupt::Malformed),
        };
        let payload = from.bytes()?.into();
        self.insert_message(ledger, QueueMessage { id, queue, priority, delivery, state, payload });
        if let MessageState::InFlight { session, .. } = state {
            ledger.note_if_ended(session);
        }
        Ok(Part::Last)
    }

    /// Frees some of the messages. True: none is left.
    pub(in crate::machine) fn shed_messages(&mut self, slice: &mut Slice) -> bool {
        self.messages.shed(slice, |row, slice| shed_bytes(row.cost(), slice))
    }
}

/// A delayed message is restored as one.
fn delayed(deadline: Elapsed) -> MessageState {
    match mutant::on(Mutant::DelayNotRestored) {
        true => MessageState::Ready,
        false => MessageState::Delayed { deadline },
    }
}

/// Names the queue by its slot: [`Places`] knows its place.
pub(super) fn put_message(out: &mut Vec<u8>, message: &QueueMessage, ledger: &Ledger) {
    out.put_u64(message.id);
    out.put_u32(message.queue);
    out.put_u8(message.priority);
    out.put_u32(message.delivery);
    match message.state {
        MessageState::Ready => out.put_u8(0),
        MessageState::InFlight { session, deadline } => {
            out.put_u8(1);
            out.put(&ledger.session_id(session).0);
            out.put_u64(deadline.0);
        }
        MessageState::Delayed { deadline } => {
            out.put_u8(2);
            out.put_u64(deadline.0);
        }
    }
    put_bytes(out, &message.payload);
}
