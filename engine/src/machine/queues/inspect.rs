//! What only the simulator and the tests look at: the queues' invariants, and their rows in one order.

use super::codec::{Places, put_message, put_queue};
use super::{MessageState, Queues, servable};
use crate::machine::codec::LENGTH_BYTES;
use crate::machine::inspect::{put_sorted, row};
use crate::machine::ledger::{Ask, Census, Ledger, Owned, Resource};
use alloc::vec::Vec;
use wire::bytes::Put;

impl Queues {
    /// Looks at every queue and every message.
    ///
    /// # Panics
    /// When an invariant does not hold.
    pub(in crate::machine) fn verify(&self, ledger: &Ledger, census: &mut Census) {
        let (mut ready, mut messages) = (0, 0);
        for (slot, queue) in self.queues.iter() {
            assert!(queue.messages > 0 || !queue.waitlist.is_empty(), "a queue is for something");
            let next = servable(ledger, queue);
            ledger.verify_waitlist(&queue.waitlist, Resource::Queue(slot), next, census);
            messages += queue.messages;
            ready += queue.ready.len();
            for ((priority, id), message) in &queue.ready {
                let message = &self.messages[*message];
                assert_eq!((message.priority, message.id), (*priority, *id));
                assert!(message.queue == slot && message.state == MessageState::Ready);
            }
            for waiter in ledger.waiters_in(&queue.waitlist) {
                assert!(matches!(waiter.wait.ask, Ask::Pop { .. }), "it asks for a message");
                assert_eq!(waiter.wait.name, queue.name, "it says the queue's name");
            }
        }
        let (mut bytes, mut counts) = (0, [0; 3]);
        for (slot, message) in self.messages.iter() {
            bytes += message.cost();
            match message.state {
                MessageState::Ready => counts[0] += 1,
                MessageState::InFlight { session, .. } => {
                    counts[1] += 1;
                    census.timers += 1;
                    census.messages += 1;
                    let owned = ledger.owned(session, message.id);
                    assert_eq!(owned, Some(Owned::Message(slot)), "a session knows its messages");
                }
                MessageState::Delayed { .. } => {
                    counts[2] += 1;
                    census.timers += 1;
                }
            }
        }
        assert_eq!(messages, self.messages.len(), "a message is in one queue");
        assert_eq!(ready as u64, counts[0], "a ready message is in its queue's order");
        let sums = &self.counts;
        let counted = [sums.ready, sums.in_flight, sums.delayed];
        assert_eq!(counts, counted, "messages are counted where they are");
        assert_eq!(bytes, sums.bytes, "messages' bytes are counted");
    }

    /// Appends every queue, sorted by its bytes.
    pub(in crate::machine) fn put_sorted_queues(&self, out: &mut Vec<u8>) {
        self.sorted_queues().into_iter().for_each(|(row, _)| out.put(&row));
    }

    /// The queues' rows, sorted by their bytes, with their slots.
    fn sorted_queues(&self) -> Vec<(Vec<u8>, u32)> {
        let rows = self.queues.iter().map(|(slot, queue)| (row(|out| put_queue(out, queue)), slot));
        let mut rows: Vec<_> = rows.collect();
        rows.sort_unstable();
        rows
    }

    /// Appends every message, sorted by its bytes.
    pub(in crate::machine) fn put_sorted_messages(&self, ledger: &Ledger, out: &mut Vec<u8>) {
        let mut places = Places::default();
        self.sorted_queues().iter().for_each(|(_, slot)| places.put(*slot));
        let rows = self.messages.iter().map(|(_, message)| {
            let mut row = row(|out| put_message(out, message, ledger));
            places.rename(&mut row[LENGTH_BYTES..]);
            row
        });
        put_sorted(out, rows);
    }
}
