//! Every acknowledged push comes out, and nothing comes out after its acknowledgement.

use super::Violation;

/// The push was acknowledged.
const PUSHED: u8 = 0x80;
/// The acknowledgement of a delivery was acknowledged: the message is gone.
const GONE: u8 = 0x40;
/// The last delivery number that was seen, saturating.
const DELIVERY: u8 = 0x3f;

/// Watches messages, one byte each, by the number that this check gave them. The number travels in
/// the payload.
pub struct QueueCheck {
    messages: Vec<u8>,
    redelivered: u64,
}

impl QueueCheck {
    /// A check with room for `expected` messages before it grows.
    pub fn new(expected: usize) -> QueueCheck {
        QueueCheck { messages: Vec::with_capacity(expected), redelivered: 0 }
    }

    /// The number of a message that is about to be pushed.
    pub fn new_message(&mut self) -> u64 {
        self.messages.push(0);
        self.messages.len() as u64 - 1
    }

    /// The push was acknowledged.
    pub fn pushed(&mut self, number: u64) {
        self.messages[number as usize] |= PUSHED;
    }

    /// A delivery arrived.
    ///
    /// # Errors
    /// `message-invented` when it was never pushed, `message-after-ack` when it was already gone,
    /// `message-twice` when this or a later delivery of it was seen before.
    pub fn delivered(&mut self, number: u64, delivery: u32) -> Result<(), Violation> {
        let known = usize::try_from(number).ok().and_then(|n| self.messages.get_mut(n));
        let Some(message) = known else {
            return Violation::new("message-invented", format!("message {number} never was"));
        };
        let before = *message;
        let capped = u8::try_from(delivery).unwrap_or(u8::MAX).min(DELIVERY);
        *message = before & !DELIVERY | capped.max(before & DELIVERY);
        if before & GONE != 0 {
            let text = format!("message {number} came again (delivery {delivery}) after its ack");
            return Violation::new("message-after-ack", text);
        }
        if capped < DELIVERY && capped <= before & DELIVERY {
            let text = format!("message {number} came twice as delivery {delivery}");
            return Violation::new("message-twice", text);
        }
        self.redelivered += u64::from(delivery > 1);
        Ok(())
    }

    /// The acknowledgement of a delivery was acknowledged.
    pub fn acked(&mut self, number: u64) {
        self.messages[number as usize] |= GONE;
    }

    /// The queues were drained until they were empty.
    ///
    /// # Errors
    /// `message-lost` when an acknowledged push never came out.
    pub fn drained(&self) -> Result<(), Violation> {
        let lost = |m: &&u8| **m & PUSHED != 0 && **m & DELIVERY == 0;
        let count = self.messages.iter().filter(lost).count();
        if count == 0 {
            return Ok(());
        }
        let first = self.messages.iter().position(|m| lost(&m)).expect("one was counted");
        let text = format!("{count} acknowledged messages never came out; the first is {first}");
        Violation::new("message-lost", text)
    }

    /// Messages that were given a number.
    pub fn messages(&self) -> u64 {
        self.messages.len() as u64
    }

    /// Deliveries after a first one: visibility ran out, or a session ended.
    pub fn redelivered(&self) -> u64 {
        self.redelivered
    }
}
