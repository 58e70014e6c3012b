//! A call: what is asked, and what was answered.

use crate::clock::Moment;
use crate::core::{Ask, LockStep, Mode, Reply, SessionId, Standing};
use crate::pending::Slot;
use crate::tenure::Tenure;
use bytes::Bytes;
use std::fmt;
use std::sync::Arc;
use wire::message as m;
use wire::request::Facts;

/// What is asked of a shard.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Acquire { name: Vec<u8>, mode: Mode, wait_ms: u32, lease_ms: u32 },
    Release { name: Vec<u8>, fence: u64 },
    Push { name: Vec<u8>, priority: u8, payload: Vec<u8> },
    Pop { name: Vec<u8>, wait_ms: u32, visibility_ms: u32 },
    Ack { name: Vec<u8>, id: u64, delivery: u32 },
    Nack { name: Vec<u8>, id: u64, delivery: u32, delay_ms: u32 },
    Get { key: Vec<u8> },
    Put { key: Vec<u8>, value: Vec<u8>, ttl_ms: u32, expect: Expect },
    Delete { key: Vec<u8>, expect: Expect },
    CloseSession { session: SessionId },
}

/// What a line must be for a write to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Expect {
    Anything,
    Absent,
    Version(u64),
}

impl Expect {
    fn wire(self) -> (m::Expect, u64) {
        match self {
            Expect::Anything => (m::Expect::Any, 0),
            Expect::Absent => (m::Expect::Absent, 0),
            Expect::Version(version) => (m::Expect::Version, version),
        }
    }
}

impl Op {
    /// What is known of its kind.
    pub fn facts(&self) -> &'static Facts {
        match self {
            Op::Acquire { .. } => m::LockAcquire::FACTS,
            Op::Release { .. } => m::LockRelease::FACTS,
            Op::Push { .. } => m::QueuePush::FACTS,
            Op::Pop { .. } => m::QueuePop::FACTS,
            Op::Ack { .. } => m::QueueAck::FACTS,
            Op::Nack { .. } => m::QueueNack::FACTS,
            Op::Get { .. } => m::CacheGet::FACTS,
            Op::Put { .. } => m::CachePut::FACTS,
            Op::Delete { .. } => m::CacheDelete::FACTS,
            Op::CloseSession { .. } => m::SessionClose::FACTS,
        }
    }

    /// The name that decides the shard.
    pub fn name(&self) -> &[u8] {
        match self {
            Op::Acquire { name, .. }
            | Op::Release { name, .. }
            | Op::Push { name, .. }
            | Op::Pop { name, .. }
            | Op::Ack { name, .. }
            | Op::Nack { name, .. } => name,
            Op::Get { key } | Op::Put { key, .. } | Op::Delete { key, .. } => key,
            Op::CloseSession { .. } => &[],
        }
    }

    /// Bytes that it brings along.
    pub fn bytes(&self) -> usize {
        let payload = match self {
            Op::Push { payload, .. } => payload.len(),
            Op::Put { value, .. } => value.len(),
            _ => 0,
        };
        self.name().len() + payload
    }

    /// Appends the body of its message.
    pub fn encode(&self, call: wire::Call, out: &mut Vec<u8>) {
        match self {
            Op::Acquire { name, mode, wait_ms, lease_ms } => {
                m::LockAcquire { call, wait_ms: *wait_ms, lease_ms: *lease_ms, mode: *mode, name }
                    .encode(out)
            }
            Op::Release { name, fence } => m::LockRelease { call, fence: *fence, name }.encode(out),
            Op::Push { name, priority, payload } => {
                let priority = *priority;
                m::QueuePush { call, priority, name, payload }.encode(out)
            }
            Op::Pop { name, wait_ms, visibility_ms } => {
                m::QueuePop { call, wait_ms: *wait_ms, visibility_ms: *visibility_ms, name }
                    .encode(out)
            }
            Op::Ack { name, id, delivery } => {
                let (id, delivery) = (*id, *delivery);
                m::QueueAck { call, id, delivery, name }.encode(out)
            }
            Op::Nack { name, id, delivery, delay_ms } => {
                m::QueueNack { call, id: *id, delivery: *delivery, delay_ms: *delay_ms, name }
                    .encode(out)
            }
            Op::Get { key } => m::CacheGet { key }.encode(out),
            Op::Put { key, value, ttl_ms, expect } => {
                let ((expect, version), ttl_ms) = (expect.wire(), *ttl_ms);
                m::CachePut { call, version, ttl_ms, expect, key, value }.encode(out)
            }
            Op::Delete { key, expect } => {
                let (expect, version) = expect.wire();
                m::CacheDelete { call, version, expect, key }.encode(out)
            }
            Op::CloseSession { session } => m::SessionClose { session: *session }.encode(out),
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.facts().phrase)?;
        match self {
            Op::CloseSession { .. } => Ok(()),
            _ => write!(f, " \"{}\"", self.name().escape_ascii()),
        }
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
        match self.op {
            Op::Acquire { wait_ms, .. } | Op::Pop { wait_ms, .. } => wait_ms,
            _ => 0,
        }
    }

    fn set_wait_ms(&mut self, to_ms: u32) {
        if let Op::Acquire { wait_ms, .. } | Op::Pop { wait_ms, .. } = &mut self.op {
            *wait_ms = to_ms;
        }
    }

    fn lock_step(&self) -> Option<LockStep> {
        match self.op {
            Op::Acquire { mode, lease_ms, .. } => Some(LockStep::Acquire { mode, lease_ms }),
            Op::Release { fence, .. } => Some(LockStep::Release { fence }),
            _ => None,
        }
    }

    fn bytes(&self) -> usize {
        self.op.bytes()
    }

    fn encode(&self, call: wire::Call, out: &mut Vec<u8>) {
        self.op.encode(call, out);
    }

    fn undo(&self, reply: &Reply<'_>) -> Option<Errand> {
        match (&self.op, reply) {
            (Op::Acquire { name, .. }, Reply::Done { token: fence, .. }) => {
                Some(Op::Release { name: name.clone(), fence: *fence }.into())
            }
            (Op::Pop { name, .. }, Reply::Delivery { id, delivery, .. }) => {
                let (name, id, delivery) = (name.clone(), *id, *delivery);
                Some(Op::Nack { name, id, delivery, delay_ms: 0 }.into())
            }
            _ => None,
        }
    }

    fn close_session(session: SessionId) -> Errand {
        Op::CloseSession { session }.into()
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
