//! What is asked of a shard, and what it answers, whoever keeps the bytes.

use super::SessionId;
use alloc::vec::Vec;
use wire::Kind;
pub use wire::message::LockMode as Mode;
use wire::message::{Delivery, Done, Value};

/// What makes a call exactly-once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// The session.
    pub session: SessionId,
    /// The call's number in its session and shard.
    pub sequence: u64,
}

/// What a request does to a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockStep {
    /// It asks for it.
    Acquire {
        /// How it is to be held.
        mode: Mode,
        /// For how long, in milliseconds; 0 = as long as the session.
        lease_ms: u32,
    },
    /// It gives it back.
    Release {
        /// The grant's fence.
        fence: u64,
    },
}

/// A request to a shard, kept until it is answered.
///
/// The core knows what each kind means for windows, retries and routes. Where names and payloads are kept is its
/// driver's affair: the client's are its own, the load generator's lie in tables, the simulator's follow from a number.
pub trait Ask: Clone {
    /// The kind of its message.
    fn kind(&self) -> Kind;
    /// The name that decides the shard.
    fn name(&self) -> &[u8];
    /// Whether it is numbered within its session.
    fn is_stamped(&self) -> bool;
    /// How long it asks to wait, in milliseconds.
    fn wait_ms(&self) -> u32;
    /// It is to wait for so long instead.
    fn set_wait_ms(&mut self, wait_ms: u32);
    /// Whether its answer gives something that must be given back.
    fn is_grant(&self) -> bool;
    /// Whether it gives something back. It is not forgotten before it was answered, or the session ended.
    fn is_give_back(&self) -> bool;
    /// What it does to a lock, if anything.
    fn lock_step(&self) -> Option<LockStep>;
    /// Bytes of its name and of what it brings along.
    fn bytes(&self) -> usize;
    /// Appends the body of its message.
    fn encode(&self, stamp: Stamp, answered_below: u64, out: &mut Vec<u8>);
    /// Reads the answer, if it is one to this request.
    fn answer<'f>(&self, kind: Kind, body: &'f [u8]) -> Option<Reply<'f>>;
    /// What gives back what an answer gave, if it gave something.
    fn undo(&self, reply: &Reply<'_>) -> Option<Self>;
    /// What ends a session in a shard.
    fn close_session(session: SessionId) -> Self;

    /// Whether it outlives its caller and its deadline.
    fn is_owed(&self) -> bool {
        self.is_give_back() && self.is_stamped()
    }
}

/// What a shard answered; its bytes are the frame's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply<'f> {
    /// Something was changed.
    Done {
        /// What the call made: a lock's fence, a pushed message's id, a line's version; 0 = nothing.
        token: u64,
        /// The index up to which the shard's log was applied.
        index: u64,
    },
    /// A message.
    Delivery {
        /// Its id.
        id: u64,
        /// How many times it has been delivered.
        delivery: u32,
        /// Its priority.
        priority: u8,
        /// What was pushed.
        payload: &'f [u8],
    },
    /// A line.
    Value {
        /// Its version.
        version: u64,
        /// Its value.
        value: &'f [u8],
    },
}

impl<'f> Reply<'f> {
    /// Reads an answer to a call.
    pub fn read(kind: Kind, body: &'f [u8]) -> Option<Reply<'f>> {
        match kind {
            Done::KIND => {
                let Done { token, index } = Done::decode(body).ok()?;
                Some(Reply::Done { token, index })
            }
            Delivery::KIND => {
                let Delivery { id, delivery, priority, payload } = Delivery::decode(body).ok()?;
                Some(Reply::Delivery { id, delivery, priority, payload })
            }
            Value::KIND => {
                let Value { version, value } = Value::decode(body).ok()?;
                Some(Reply::Value { version, value })
            }
            _ => None,
        }
    }
}
