//! Queues: priority first, then first in first out, delivered at least once.
//!
//! # How it works
//!
//! - A push puts a message at (priority, id); ids rise, so equals stay in order. A pop takes the first
//!   ready message and hides it until its visibility runs out; then, or on a nack, or when
//!   the session that popped it ends, the message is ready again at the very same place.
//! - Each delivery counts one up. (id, delivery) is what proves a delivery: an ack or a nack by it is
//!   accepted from any session, as long as that delivery is the one in flight. Once its visibility ran
//!   out it is stale, whether or not the message was delivered again.
//! - A pop that finds nothing may wait: waiters are served in their order.
//!
//! # Invariants
//!
//! - A message is in exactly one of ready, in flight and delayed until it is acknowledged.
//! - No queue has both ready messages and waiters, but for one that is unfinished (`steps.rs`). A queue with neither messages nor waiters has
//!   no record.
//! - A message in flight is owned by the session that popped it.
//!
//! # Late by design
//!
//! When more timers are due than one entry fires, a hidden or delayed message may become ready some
//! entries late. "At least so long" is what visibility and delay promise, so a pop does not look for
//! such messages; an ack, a nack and a waiter whose time is over are looked at, and refused.
//!
//! # Left out
//!
//! Extend, dead letters, groups, deduplication: they come with the queue issue.

mod codec;
#[cfg(any(test, feature = "simulator"))]
mod inspect;

use self::codec::Places;

use crate::level::Level;
use crate::limits::{MESSAGE_BYTES_MAX, QUEUE_MESSAGES_MAX, QUEUES_MAX, WAITERS_MAX};
use crate::machine::ledger::{Ask, Ledger, Owned, Resource, Timer, Wait, Waitlist};
use crate::machine::request::SessionCall;
use crate::machine::sessions::Verdict;
use crate::machine::table::{Row, Table};
use crate::machine::{DeliveryView, Outcome, Turn};
use crate::mutant::{self, Mutant};
use crate::secret::Secret;
use crate::time::{Elapsed, millis};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use wire::Code;
use wire::message::{QueuePop, QueueRequest};

/// What a message takes besides its payload, in bytes: its row, its places in tables and lists.
const MESSAGE_OVERHEAD_BYTES: u64 = 128;

/// One shard's queues and their messages.
pub(super) struct Queues {
    queues: Table<Queue>,
    messages: Table<QueueMessage>,
    counts: Counts,
    /// Of the queues in the snapshot that is being made.
    places: Places,
    /// Queues that were read from a snapshot, by their place there.
    read: Vec<u32>,
}

/// How many messages there are, by where they are, and what all of them take.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Counts {
    pub(super) ready: u64,
    pub(super) in_flight: u64,
    pub(super) delayed: u64,
    /// Overhead included.
    pub(super) bytes: u64,
}

/// A queue with messages or waiters.
struct Queue {
    name: Box<[u8]>,
    /// Ready messages' slots, by priority and id.
    ready: BTreeMap<(u8, u64), u32>,
    /// Messages, in whatever state.
    messages: usize,
    waitlist: Waitlist,
}

/// A message that was not acknowledged.
struct QueueMessage {
    id: u64,
    queue: u32,
    priority: u8,
    /// How many times it was delivered.
    delivery: u32,
    state: MessageState,
    payload: Box<[u8]>,
}

/// What a message does: it waits for a pop, for an acknowledgement, or for its delay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum MessageState {
    Ready,
    InFlight { session: u32, deadline: Elapsed },
    Delayed { deadline: Elapsed },
}

impl Row for Queue {
    type Key = [u8];
    fn key(&self) -> &[u8] {
        &self.name
    }
}

impl Row for QueueMessage {
    type Key = u64;
    fn key(&self) -> &u64 {
        &self.id
    }
}

impl Queue {
    fn new(name: &[u8]) -> Queue {
        let (ready, waitlist) = (BTreeMap::new(), Waitlist::EMPTY);
        Queue { name: name.into(), ready, messages: 0, waitlist }
    }
}

impl QueueMessage {
    fn cost(&self) -> u64 {
        self.payload.len() as u64 + MESSAGE_OVERHEAD_BYTES
    }
}

impl Queues {
    /// No queues.
    pub(super) fn new(secret: Secret) -> Queues {
        Queues {
            queues: Table::new(secret),
            messages: Table::new(secret),
            counts: Counts::default(),
            places: Places::default(),
            read: Vec::new(),
        }
    }

    /// How many queues there are.
    pub(super) fn len(&self) -> usize {
        self.queues.len()
    }

    /// How many messages there are, by where they are.
    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Who waits for a message of a queue.
    pub(super) fn waitlist(&mut self, queue: u32) -> &mut Waitlist {
        &mut self.queues.rows_mut()[queue].waitlist
    }

    /// Does what a call asks for.
    pub(super) fn request(
        &mut self,
        ledger: &mut Ledger,
        asked: SessionCall,
        request: QueueRequest<'_>,
        turn: &mut Turn<'_>,
    ) -> Verdict {
        Verdict::Now(match request {
            QueueRequest::QueuePop(it) => return self.pop(ledger, asked, &it),
            QueueRequest::QueuePush(it) => {
                self.push(ledger, it.name, it.priority, it.payload, turn)
            }
            QueueRequest::QueueAck(it) => self.ack(ledger, it.name, it.id, it.delivery, turn),
            QueueRequest::QueueNack(it) => {
                self.nack(ledger, it.name, it.id, it.delivery, it.delay_ms, turn)
            }
        })
    }

    fn push(
        &mut self,
        ledger: &mut Ledger,
        name: &[u8],
        priority: u8,
        payload: &[u8],
        turn: &mut Turn<'_>,
    ) -> Outcome {
        let cost = payload.len() as u64 + MESSAGE_OVERHEAD_BYTES;
        if self.counts.bytes + cost > MESSAGE_BYTES_MAX {
            return Outcome::refused(Code::QueueFull);
        }
        let queue = match self.queue(name) {
            Ok(queue) => queue,
            Err(code) => return Outcome::refused(code),
        };
        if self.queues[queue].messages >= QUEUE_MESSAGES_MAX {
            return Outcome::refused(Code::QueueFull);
        }
        let id = ledger.issue();
        let state = MessageState::Ready;
        self.insert_message(
            ledger,
            QueueMessage { id, queue, priority, delivery: 0, state, payload: payload.into() },
        );
        self.advance(ledger, queue, turn);
        Outcome::Done { token: id }
    }

    fn pop(&mut self, ledger: &mut Ledger, asked: SessionCall, pop: &QueuePop<'_>) -> Verdict {
        let SessionCall { session, sequence } = asked;
        let &QueuePop { name, wait_ms, visibility_ms, .. } = pop;
        let queue = self.queues.find(name);
        let serves = |queue: &u32| {
            let queue = &self.queues[*queue];
            // What is ready beside who waits is for those.
            !queue.ready.is_empty() && queue.waitlist.is_empty()
        };
        if let Some(queue) = queue.filter(serves) {
            return Verdict::Now(self.deliver(ledger, queue, session, visibility_ms));
        }
        if wait_ms == 0 {
            return Verdict::Now(Outcome::refused(Code::QueueEmpty));
        }
        let queue = match self.queue(name) {
            Ok(queue) => queue,
            Err(code) => return Verdict::Now(Outcome::refused(code)),
        };
        if self.queues[queue].waitlist.len() >= WAITERS_MAX {
            return Verdict::Now(Outcome::refused(Code::WaitersFull));
        }
        let deadline = ledger.clock() + millis(wait_ms);
        let ask = Ask::Pop { visibility_ms };
        let wait = Wait { session, sequence, deadline, ask, name: name.into() };
        let waitlist = &mut self.queues.rows_mut()[queue].waitlist;
        Verdict::Later(ledger.start_wait(waitlist, Resource::Queue(queue), wait))
    }

    fn ack(
        &mut self,
        ledger: &mut Ledger,
        name: &[u8],
        id: u64,
        delivery: u32,
        turn: &mut Turn<'_>,
    ) -> Outcome {
        let message = match self.delivered(ledger, name, id, delivery, turn) {
            Ok(message) => message,
            Err(code) => return Outcome::refused(code),
        };
        if ack_ends_message() {
            self.remove_delivered(ledger, message);
        } else {
            let queue = self.make_ready(ledger, message);
            self.advance(ledger, queue, turn);
        }
        Outcome::Done { token: 0 }
    }

    fn nack(
        &mut self,
        ledger: &mut Ledger,
        name: &[u8],
        id: u64,
        delivery: u32,
        delay_ms: u32,
        turn: &mut Turn<'_>,
    ) -> Outcome {
        let message = match self.delivered(ledger, name, id, delivery, turn) {
            Ok(message) => message,
            Err(code) => return Outcome::refused(code),
        };
        if !nack_keeps_message() {
            self.remove_delivered(ledger, message);
        } else if is_delayed(delay_ms) {
            self.unhide(ledger, message);
            let deadline = delayed_until(delay_ms, turn.now);
            self.messages.row_mut(message).state = MessageState::Delayed { deadline };
            self.link_message(ledger, message);
        } else {
            let queue = self.make_ready(ledger, message);
            self.advance(ledger, queue, turn);
        }
        Outcome::Done { token: 0 }
    }

    /// A visibility or a delay ran out.
    pub(super) fn message_due(&mut self, ledger: &mut Ledger, message: u32, turn: &mut Turn<'_>) {
        match self.messages[message].state {
            MessageState::InFlight { deadline, .. } | MessageState::Delayed { deadline } => {
                assert!(deadline <= turn.now, "a message is never ready early");
            }
            MessageState::Ready => panic!("a ready message has no timer"),
        }
        let queue = self.make_ready(ledger, message);
        self.advance(ledger, queue, turn);
    }

    /// What a pop's outcome delivers, as long as that delivery is in flight.
    pub(super) fn view_delivery(&self, id: u64, delivery: u32) -> Option<DeliveryView<'_>> {
        let message = &self.messages[self.messages.find(&id)?];
        let in_flight = matches!(message.state, MessageState::InFlight { .. });
        (in_flight && message.delivery == delivery).then_some(DeliveryView {
            id,
            delivery,
            priority: message.priority,
            payload: &message.payload,
        })
    }

    /// Serves the queue's waiters with what is ready; forgets the queue when nothing is left of it.
    pub(super) fn advance(&mut self, ledger: &mut Ledger, queue: u32, turn: &mut Turn<'_>) {
        while !self.queues[queue].ready.is_empty() {
            let waitlist = &mut self.queues.rows_mut()[queue].waitlist;
            let Some(waiter) = ledger.next_waiter(waitlist, turn) else { break };
            let wait = &ledger.waiter(waiter).wait;
            let Ask::Pop { visibility_ms } = wait.ask else {
                unreachable!("a queue's waiters ask for a message")
            };
            let session = wait.session;
            let outcome = self.deliver(ledger, queue, session, visibility_ms);
            let waitlist = &mut self.queues.rows_mut()[queue].waitlist;
            ledger.end_wait(waitlist, waiter, outcome, turn);
        }
        self.note_next(ledger, queue);
        self.prune_queue(queue);
    }

    /// Notes whether something is ready for who is next.
    fn note_next(&mut self, ledger: &mut Ledger, queue: u32) {
        let row = &self.queues[queue];
        let unserved = servable(ledger, row);
        if row.waitlist.unserved() != unserved {
            let waitlist = &mut self.queues.rows_mut()[queue].waitlist;
            ledger.note_next(waitlist, Resource::Queue(queue), unserved);
        }
    }

    /// Makes a message that is hidden or delayed ready and names its queue, which the caller advances.
    pub(super) fn make_ready(&mut self, ledger: &mut Ledger, message: u32) -> u32 {
        self.unhide(ledger, message);
        let row = self.messages.row_mut(message);
        row.state = MessageState::Ready;
        row.priority = returns_at(row.priority);
        row.delivery = returns_after(row.delivery);
        self.link_message(ledger, message);
        self.messages[message].queue
    }

    /// Delivers the first ready message, which there is.
    fn deliver(
        &mut self,
        ledger: &mut Ledger,
        queue: u32,
        session: u32,
        visibility_ms: u32,
    ) -> Outcome {
        let now = ledger.clock();
        let ready = &mut self.queues.rows_mut()[queue].ready;
        let slot = take_first(ready).expect("the caller saw a ready message");
        self.counts.ready -= 1;
        self.keep_message(ledger, slot);
        let message = self.messages.row_mut(slot);
        message.delivery = message.delivery.saturating_add(1);
        let deadline = hidden_until(visibility_ms, now);
        message.state = MessageState::InFlight { session, deadline };
        let (id, delivery) = (message.id, message.delivery);
        self.link_message(ledger, slot);
        Outcome::Delivered { id, delivery }
    }

    /// The message whose delivery in flight is `delivery`. One whose visibility, or whose session,
    /// ran out without its timer having fired becomes ready here, and is refused.
    fn delivered(
        &mut self,
        ledger: &mut Ledger,
        name: &[u8],
        id: u64,
        delivery: u32,
        turn: &mut Turn<'_>,
    ) -> Result<u32, Code> {
        let slot = self.messages.find(&id).ok_or(Code::MessageUnknown)?;
        let message = &self.messages[slot];
        if *self.queues[message.queue].name != *name {
            return Err(Code::MessageUnknown);
        }
        let MessageState::InFlight { session, deadline } = message.state else {
            return Err(Code::StaleDelivery);
        };
        if deadline <= turn.now {
            self.message_due(ledger, slot, turn);
            return Err(Code::StaleDelivery);
        }
        if ledger.is_session_over(session, turn.now) {
            assert!(ledger.level() >= Level::BOUNDED, "below, that session ended at once");
            let queue = self.make_ready(ledger, slot);
            self.advance(ledger, queue, turn);
            return Err(Code::StaleDelivery);
        }
        if !proves(delivery, self.messages[slot].delivery) {
            return Err(Code::StaleDelivery);
        }
        Ok(slot)
    }

    /// The session of a delivery in flight, if that session is over and the delivery itself is not.
    pub(super) fn outlived(&self, ledger: &Ledger, name: &[u8], id: u64) -> Option<u32> {
        let message = &self.messages[self.messages.find(&id)?];
        let MessageState::InFlight { session, deadline } = message.state else { return None };
        let named = *self.queues[message.queue].name == *name;
        let now = ledger.clock();
        let outlived = named && deadline > now && ledger.is_session_over(session, now);
        outlived.then_some(session)
    }

    /// Removes a message that is in flight, and its queue if nothing else is in it.
    fn remove_delivered(&mut self, ledger: &mut Ledger, slot: u32) {
        self.unhide(ledger, slot);
        let message = self.messages.remove(slot);
        self.counts.bytes -= message.cost();
        self.queues.rows_mut()[message.queue].messages -= 1;
        self.prune_queue(message.queue);
    }

    /// Adds a message to its queue, in its state.
    fn insert_message(&mut self, ledger: &mut Ledger, message: QueueMessage) {
        self.counts.bytes += message.cost();
        self.queues.rows_mut()[message.queue].messages += 1;
        let slot = self.messages.insert(message);
        self.link_message(ledger, slot);
    }

    /// Ties a message to what its state needs: a place among the ready, a timer, an owner.
    fn link_message(&mut self, ledger: &mut Ledger, slot: u32) {
        let message = &self.messages[slot];
        let id = message.id;
        match message.state {
            MessageState::Ready => {
                self.counts.ready += 1;
                let key = (ready_at(message.priority), id);
                let ready = &mut self.queues.rows_mut()[message.queue].ready;
                let before = ready.insert(key, slot);
                assert!(before.is_none(), "a message is ready once");
            }
            MessageState::InFlight { session, deadline } => {
                self.counts.in_flight += 1;
                ledger.arm(deadline, id, Timer::Visibility(slot));
                ledger.own(session, id, Owned::Message(slot));
            }
            MessageState::Delayed { deadline } => {
                self.counts.delayed += 1;
                ledger.arm(deadline, id, Timer::Delay(slot));
            }
        }
    }

    /// Unties a message that is hidden or delayed. The caller gives it another state.
    fn unhide(&mut self, ledger: &mut Ledger, slot: u32) {
        self.keep_message(ledger, slot);
        let message = &self.messages[slot];
        match message.state {
            MessageState::InFlight { session, deadline } => {
                self.counts.in_flight -= 1;
                ledger.disarm(deadline, message.id);
                ledger.disown(session, message.id, Owned::Message(slot));
            }
            MessageState::Delayed { deadline } => {
                self.counts.delayed -= 1;
                ledger.disarm(deadline, message.id);
            }
            MessageState::Ready => panic!("a ready message leaves the queue by a delivery only"),
        }
    }

    /// The queue of a name, made if need be. Whoever makes one puts something in.
    fn queue(&mut self, name: &[u8]) -> Result<u32, Code> {
        if let Some(queue) = self.queues.find(name) {
            return Ok(queue);
        }
        if self.queues.len() >= QUEUES_MAX {
            return Err(Code::StateFull);
        }
        Ok(self.queues.insert(Queue::new(name)))
    }

    /// Forgets a queue with nothing left in it.
    fn prune_queue(&mut self, queue: u32) {
        let row = &self.queues[queue];
        if row.messages == 0 && row.waitlist.is_empty() {
            assert!(row.ready.is_empty(), "a ready message is one of the messages");
            self.keep_queue(queue);
            self.queues.remove(queue);
        }
    }
}

/// When a message that is given back now is ready again.
fn delayed_until(delay_ms: u32, now: Elapsed) -> Elapsed {
    assert!(delay_ms > 0, "without a delay it is ready at once");
    match () {
        () if mutant::on(Mutant::DelayForEver) => Elapsed::MAX,
        () if mutant::on(Mutant::DelayShort) => now + millis(delay_ms / 2),
        () => now + millis(delay_ms),
    }
}

/// The ticket of who is next, if something is ready for that one; else 0.
fn servable(ledger: &Ledger, queue: &Queue) -> u64 {
    let next = ledger.first_ask(&queue.waitlist).filter(|_| !queue.ready.is_empty());
    next.map_or(0, |(ticket, _)| ticket)
}

// ---- The rules, each of which a bug may be planted in ----

/// An acknowledged message is gone.
fn ack_ends_message() -> bool {
    !mutant::on(Mutant::RedeliverAcked)
}

/// A message that is given back stays.
fn nack_keeps_message() -> bool {
    !mutant::on(Mutant::NackLosesMessage)
}

/// A message that is given back with a delay is not ready before it.
fn is_delayed(delay_ms: u32) -> bool {
    delay_ms > 0 && !mutant::on(Mutant::NackDelayIgnored)
}

/// A message that comes back has the priority that it had.
fn returns_at(priority: u8) -> u8 {
    if mutant::on(Mutant::LastPriority) { u8::MAX } else { priority }
}

/// A message that comes back goes on counting its deliveries.
fn returns_after(delivery: u32) -> u32 {
    if mutant::on(Mutant::DeliveriesForgotten) { 0 } else { delivery }
}

/// Who stands before whom among the ready: the lower priority number, and then the lower id.
fn ready_at(priority: u8) -> u8 {
    if mutant::on(Mutant::PriorityIgnored) { 0 } else { priority }
}

/// The first of the ready is delivered first.
fn take_first(ready: &mut BTreeMap<(u8, u64), u32>) -> Option<u32> {
    let lifo = mutant::on(Mutant::QueueLifo);
    let first = if lifo { ready.pop_last() } else { ready.pop_first() };
    first.map(|(_, slot)| slot)
}

/// A delivered message is hidden as long as its pop asked for, and no longer.
fn hidden_until(visibility_ms: u32, now: Elapsed) -> Elapsed {
    match () {
        () if mutant::on(Mutant::VisibilityForEver) => Elapsed::MAX,
        () if mutant::on(Mutant::VisibilityShort) => now + millis(visibility_ms / 2),
        () => now + millis(visibility_ms),
    }
}

/// Only the delivery that is in flight is acknowledged or given back.
fn proves(delivery: u32, in_flight: u32) -> bool {
    delivery == in_flight || mutant::on(Mutant::StaleAckTaken)
}
