//! What is asked of a shard, and what it answers, whoever keeps the bytes.

use super::SessionId;
use alloc::vec::Vec;
pub use wire::message::LockMode as Mode;
use wire::message::{Delivery, Done, Value};
use wire::request::Facts;
use wire::{Call, Kind};

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
    /// What is known of its kind.
    fn facts(&self) -> &'static Facts;
    /// The name that decides the shard.
    fn name(&self) -> &[u8];
    /// How long it asks to wait, in milliseconds.
    fn wait_ms(&self) -> u32;
    /// It is to wait for so long instead.
    fn set_wait_ms(&mut self, wait_ms: u32);
    /// What it does to a lock, if anything.
    fn lock_step(&self) -> Option<LockStep>;
    /// Bytes of its name and of what it brings along.
    fn bytes(&self) -> usize;
    /// Appends the body of its message; `call` is nothing to one that is no call.
    fn encode(&self, call: Call, out: &mut Vec<u8>);
    /// What gives back what an answer gave, if it gave something.
    fn undo(&self, reply: &Reply<'_>) -> Option<Self>;
    /// What ends a session in a shard.
    fn close_session(session: SessionId) -> Self;

    /// The kind of its message.
    #[inline]
    fn kind(&self) -> Kind {
        self.facts().kind()
    }

    /// Whether it outlives its caller and its deadline.
    #[inline]
    fn is_owed(&self) -> bool {
        self.facts().gives_back && self.facts().is_call
    }

    /// Reads its answer.
    #[inline]
    fn answer<'f>(&self, kind: Kind, body: &'f [u8]) -> Option<Reply<'f>> {
        if kind == self.facts().answer { Reply::read(kind, body) } else { None }
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
