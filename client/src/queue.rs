//! Queues: durable, at least once.

use crate::call::{Given, Op};
use crate::clock::millis;
use crate::error::Error;
use crate::handle::Handle;
use crate::pending::Pending;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use wire::limits::{LEASE_MS_MAX, WAIT_MS_MAX};
use wire::message::{QueueAck, QueueNack, QueuePop, QueuePush};
use wire::{Call, Code};

/// The priority of a message for which none was named: 0 is delivered first, 255 last.
pub const PRIORITY: u8 = 128;

/// A queue. Made by [`Client::queue`](crate::Client::queue).
#[derive(Clone)]
pub struct Queue {
    handle: Arc<Handle>,
    name: Vec<u8>,
    priority: u8,
}

impl Queue {
    pub(crate) fn new(handle: Arc<Handle>, name: Vec<u8>) -> Queue {
        Queue { handle, name, priority: PRIORITY }
    }

    /// The priority of what is pushed from now on: 0 is delivered first, 255 last, 128 by default.
    #[must_use]
    pub fn priority(mut self, priority: u8) -> Queue {
        self.priority = priority;
        self
    }

    /// Appends a message, and gives its id. It is on the disks of a majority when this is done, and
    /// there once, however often the client had to send it.
    ///
    /// Messages of one priority are delivered in the order of their pushes when each push is waited
    /// for before the next. Pushes that are under way at once may pass each other on a retry.
    pub fn push(&self, payload: impl Into<Vec<u8>>) -> Pending<u64> {
        let (call, priority, payload) = (Call::NONE, self.priority, payload.into());
        let op = Op::new(QueuePush { call, priority, name: &self.name, payload: &payload });
        self.handle.call(op, Duration::ZERO, None, |_, outcome| match outcome?.given {
            Given::Token(id) => Ok(id),
            _ => unreachable!("a push is answered with a token"),
        })
    }

    /// Takes the first message that is ready, waiting up to `wait` for one; `None` when there was
    /// none.
    ///
    /// It stays hidden from others for `visibility`, up to 12 hours: acknowledge it within that time, or
    /// it is delivered again, as it is when the client's session ends. When the pending call is
    /// dropped, the message is given back as soon as it arrives.
    pub fn pop(&self, visibility: Duration, wait: Duration) -> Pending<Option<Message>> {
        let (wait_ms, visibility_ms) = (millis(wait), millis(visibility));
        let name = self.name.clone();
        let subject = || format!("pop from queue \"{}\"", self.name.escape_ascii());
        if wait_ms > WAIT_MS_MAX {
            let what = format!("the wait is at most {WAIT_MS_MAX} ms, not {wait_ms}");
            return Pending::failed(Error::Invalid { subject: subject(), what });
        }
        if visibility_ms == 0 || visibility_ms > LEASE_MS_MAX {
            let what = format!("the visibility is 1 to {LEASE_MS_MAX} ms, not {visibility_ms}");
            return Pending::failed(Error::Invalid { subject: subject(), what });
        }
        let call = Call::NONE;
        let op = Op::new(QueuePop { call, wait_ms, visibility_ms, name: &name });
        self.handle.call(op, wait, None, move |handle, outcome| {
            let answer = match outcome {
                Ok(answer) => answer,
                Err(Error::Refused { code: Code::QueueEmpty, .. }) => return Ok(None),
                Err(error) => return Err(error),
            };
            let Given::Delivery { id, delivery, priority, payload } = answer.given else {
                unreachable!("a pop is answered with a delivery")
            };
            let queue = Queue { handle, name, priority };
            Ok(Some(Message { queue, id, delivery, priority, payload }))
        })
    }

    /// Acknowledges a delivery by its numbers: the message is gone for good.
    ///
    /// After [`Error::OutcomeUnknown`], and when the pending call is dropped, the client goes on trying for as
    /// long as its session lives. So it does with [`Queue::nack`].
    pub fn ack(&self, id: u64, delivery: u32) -> Pending<()> {
        let op = Op::new(QueueAck { call: Call::NONE, id, delivery, name: &self.name });
        self.handle.call(op, Duration::ZERO, None, |_, outcome| outcome.map(|_| ()))
    }

    /// Gives a delivery back by its numbers: the message is ready again after `delay`.
    pub fn nack(&self, id: u64, delivery: u32, delay: Duration) -> Pending<()> {
        let delay_ms = millis(delay);
        if delay_ms > LEASE_MS_MAX {
            let subject = format!("give back to queue \"{}\"", self.name.escape_ascii());
            let what = format!("the delay is at most {LEASE_MS_MAX} ms, not {delay_ms}");
            return Pending::failed(Error::Invalid { subject, what });
        }
        let call = Call::NONE;
        let op = Op::new(QueueNack { call, id, delivery, delay_ms, name: &self.name });
        self.handle.call(op, Duration::ZERO, None, |_, outcome| outcome.map(|_| ()))
    }
}

/// A message that was popped, and is hidden from others until its visibility runs out.
///
/// Dropping it does nothing: the message comes back by itself when its visibility runs out.
#[derive(Clone)]
pub struct Message {
    queue: Queue,
    /// The message's id, the same in each delivery.
    pub id: u64,
    /// How many times it has been delivered, this time included.
    pub delivery: u32,
    /// Its priority: 0 is delivered first.
    pub priority: u8,
    /// What was pushed.
    pub payload: Bytes,
}

impl Message {
    /// The message was handled: it is gone for good.
    pub fn ack(self) -> Pending<()> {
        self.queue.ack(self.id, self.delivery)
    }

    /// The message was not handled: it is ready again after `delay`.
    pub fn nack(self, delay: Duration) -> Pending<()> {
        self.queue.nack(self.id, self.delivery, delay)
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Message")
            .field("id", &self.id)
            .field("delivery", &self.delivery)
            .field("priority", &self.priority)
            .field("payload", &self.payload.escape_ascii().to_string())
            .finish()
    }
}
