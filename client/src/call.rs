//! A call: what is asked, and what was answered.

use crate::clock::Moment;
use crate::core::{Ask, LockStep, Reply, SessionId, Standing};
use crate::pending::Slot;
use crate::tenure::Tenure;
use bytes::Bytes;
use std::fmt;
use std::sync::Arc;
use wire::message::{
    self, LockAcquire, LockRelease, LockRequest, QueueNack, QueuePop, QueueRequest, SessionClose,
};
use wire::request::Facts;
use wire::{Call, Request};

/// A request to a shard, encoded once. What makes a call exactly-once is written into it whenever it is sent.
#[derive(Clone)]
pub(crate) struct Op {
    facts: &'static Facts,
    body: Vec<u8>,
}

/// What a line must be for a write to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Expect {
    Anything,
    Absent,
    Version(u64),
}

impl Expect {
    /// As a request says it: the choice, and the version that goes with it.
    pub fn wire(self) -> (message::Expect, u64) {
        match self {
            Expect::Anything => (message::Expect::Any, 0),
            Expect::Absent => (message::Expect::Absent, 0),
            Expect::Version(version) => (message::Expect::Version, version),
        }
    }
}

impl Op {
    /// What a request asks; a call's number is not looked at.
    pub fn new<'a>(request: impl Into<Request<'a>>) -> Op {
        let request = request.into();
        let mut body = Vec::new();
        request.encode(&mut body);
        Op { facts: request.facts(), body }
    }

    /// What is known of its kind.
    pub fn facts(&self) -> &'static Facts {
        self.facts
    }

    /// What it asks.
    pub fn request(&self) -> Request<'_> {
        Request::read(self.facts.kind(), &self.body).expect("it was encoded here")
    }

    /// The name that decides the shard.
    pub fn name(&self) -> &[u8] {
        self.request().name().unwrap_or_default()
    }

    /// Bytes that it brings along.
    pub fn bytes(&self) -> usize {
        self.body.len() - self.facts.message.fixed
    }

    /// Appends the body of its message.
    pub fn encode(&self, call: Call, out: &mut Vec<u8>) {
        let begin = out.len();
        out.extend_from_slice(&self.body);
        if self.facts.is_call {
            call.stamp(self.facts, &mut out[begin..]);
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.request().fmt(f)
    }
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.request().fmt(f)
    }
}

/// What is asked, and where its answer is left. The core keeps it.
#[derive(Clone)]
pub(crate) struct Errand {
    pub op: Op,
    /// Who waits for it; `None` for the client's own.
    pub slot: Option<Arc<Slot>>,
}

impl From<Op> for Errand {
    /// One that nobody waits for.
    fn from(op: Op) -> Errand {
        Errand { op, slot: None }
    }
}

impl Ask for Errand {
    fn facts(&self) -> &'static Facts {
        self.op.facts()
    }

    fn name(&self) -> &[u8] {
        self.op.name()
    }

    fn wait_ms(&self) -> u32 {
        self.op.request().wait_ms()
    }

    fn set_wait_ms(&mut self, to_ms: u32) {
        let mut request = self.op.request();
        request.set_wait_ms(to_ms);
        self.op = Op::new(request);
    }

    fn lock_step(&self) -> Option<LockStep> {
        match self.op.request() {
            Request::Lock(LockRequest::LockAcquire(LockAcquire { mode, lease_ms, .. })) => {
                Some(LockStep::Acquire { mode, lease_ms })
            }
            Request::Lock(LockRequest::LockRelease(LockRelease { fence, .. })) => {
                Some(LockStep::Release { fence })
            }
            _ => None,
        }
    }

    fn bytes(&self) -> usize {
        self.op.bytes()
    }

    fn encode(&self, call: Call, out: &mut Vec<u8>) {
        self.op.encode(call, out);
    }

    fn undo(&self, reply: &Reply<'_>) -> Option<Errand> {
        let call = Call::NONE;
        let back = match (self.op.request(), *reply) {
            (
                Request::Lock(LockRequest::LockAcquire(LockAcquire { name, .. })),
                Reply::Done { token: fence, .. },
            ) => Op::new(LockRelease { call, fence, name }),
            (
                Request::Queue(QueueRequest::QueuePop(QueuePop { name, .. })),
                Reply::Delivery { id, delivery, .. },
            ) => Op::new(QueueNack { call, id, delivery, delay_ms: 0, name }),
            _ => return None,
        };
        Some(back.into())
    }

    fn close_session(session: SessionId) -> Errand {
        Op::new(SessionClose { session }).into()
    }
}

/// What a call gave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Given {
    Token(u64),
    Delivery {
        id: u64,
        delivery: u32,
        priority: u8,
        payload: Bytes,
    },
    Value {
        version: u64,
        value: Bytes,
    },
    /// The client knows where everything is.
    Ready,
}

impl Given {
    /// What an answer gave. `keep` makes bytes of the answer last.
    pub fn of(reply: Reply<'_>, keep: impl Fn(&[u8]) -> Bytes) -> Given {
        match reply {
            Reply::Done { token, .. } => Given::Token(token),
            Reply::Delivery { id, delivery, priority, payload } => {
                Given::Delivery { id, delivery, priority, payload: keep(payload) }
            }
            Reply::Value { version, value } => Given::Value { version, value: keep(value) },
        }
    }
}

/// A call's answer, and what the caller must know to hold what it was given.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub given: Given,
    /// The session's standing in the shard, for a call that was stamped.
    pub tenure: Option<Arc<Tenure>>,
    /// The earliest that what was granted can have been granted.
    pub granted_at: Moment,
    /// How to give it back, and by which standing, if nobody takes it.
    pub undo: Option<(Op, Standing)>,
}
