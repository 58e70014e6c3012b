//! A call: what is asked, and how far it has come.

use crate::clock::Moment;
use crate::core::session::Tenure;
use crate::pending::Slot;
use std::fmt;
use std::sync::Arc;
use wire::message as m;
pub(crate) use wire::message::LockMode as Mode;
use wire::{Kind, message::Done};

/// Numbers a client's calls.
pub(crate) type CallId = u64;
/// Numbers a client's connections; none is used twice.
pub(crate) type LinkId = u64;
/// A session's 128 random bits.
pub(crate) type SessionId = [u8; 16];

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

/// What makes a call exactly-once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stamp {
    pub session: SessionId,
    pub sequence: u64,
}

impl Op {
    /// The kind of its message.
    pub fn kind(&self) -> Kind {
        match self {
            Op::Acquire { .. } => m::LockAcquire::KIND,
            Op::Release { .. } => m::LockRelease::KIND,
            Op::Push { .. } => m::QueuePush::KIND,
            Op::Pop { .. } => m::QueuePop::KIND,
            Op::Ack { .. } => m::QueueAck::KIND,
            Op::Nack { .. } => m::QueueNack::KIND,
            Op::Get { .. } => m::CacheGet::KIND,
            Op::Put { .. } => m::CachePut::KIND,
            Op::Delete { .. } => m::CacheDelete::KIND,
            Op::CloseSession { .. } => m::SessionClose::KIND,
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

    /// Whether it is numbered within its session.
    pub fn is_stamped(&self) -> bool {
        !matches!(self, Op::Get { .. } | Op::CloseSession { .. })
    }

    /// Whether its answer may take as long as it asks to wait.
    pub fn is_waiting(&self) -> bool {
        matches!(self, Op::Acquire { wait_ms: 1.., .. } | Op::Pop { wait_ms: 1.., .. })
    }

    /// Whether its answer gives something that must be given back.
    pub fn is_grant(&self) -> bool {
        matches!(self, Op::Acquire { .. } | Op::Pop { .. })
    }

    /// Whether it gives something back. It is not forgotten before it was answered, or the session ended.
    pub fn is_give_back(&self) -> bool {
        matches!(
            self,
            Op::Release { .. } | Op::Ack { .. } | Op::Nack { .. } | Op::CloseSession { .. }
        )
    }

    /// Whether it outlives its caller and its deadline.
    pub fn is_owed(&self) -> bool {
        self.is_give_back() && self.is_stamped()
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
    pub fn encode(&self, stamp: Stamp, answered_below: u64, out: &mut Vec<u8>) {
        let Stamp { session, sequence } = stamp;
        let call = wire::Call { session, sequence, answered_below };
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

    /// Reads the answer, if it is one to this call.
    pub fn answer(&self, kind: Kind, body: &[u8]) -> Option<Reply> {
        match self {
            Op::Pop { .. } if kind == m::Delivery::KIND => {
                let it = m::Delivery::decode(body).ok()?;
                Some(Reply::Delivery {
                    id: it.id,
                    delivery: it.delivery,
                    priority: it.priority,
                    payload: it.payload.to_vec(),
                })
            }
            Op::Get { .. } if kind == m::Value::KIND => {
                let it = m::Value::decode(body).ok()?;
                Some(Reply::Value { version: it.version, value: it.value.to_vec() })
            }
            Op::Pop { .. } | Op::Get { .. } => None,
            _ if kind == Done::KIND => Some(Reply::Token(Done::decode(body).ok()?.token)),
            _ => None,
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            Op::Acquire { .. } => "acquire lock",
            Op::Release { .. } => "release lock",
            Op::Push { .. } => "push to queue",
            Op::Pop { .. } => "pop from queue",
            Op::Ack { .. } => "acknowledge in queue",
            Op::Nack { .. } => "give back to queue",
            Op::Get { .. } => "get",
            Op::Put { .. } => "put",
            Op::Delete { .. } => "delete",
            Op::CloseSession { .. } => return f.write_str("close session"),
        };
        write!(f, "{what} \"{}\"", self.name().escape_ascii())
    }
}

/// What a shard answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Reply {
    Token(u64),
    Delivery {
        id: u64,
        delivery: u32,
        priority: u8,
        payload: Vec<u8>,
    },
    Value {
        version: u64,
        value: Vec<u8>,
    },
    /// The client knows where everything is.
    Ready,
}

/// A call's answer, and what the caller must know to hold what it was given.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub reply: Reply,
    /// The session's standing in the shard, for a call that was stamped.
    pub tenure: Option<Arc<Tenure>>,
    /// The earliest that what was granted can have been granted.
    pub granted_at: Moment,
    /// How to give it back, if nobody takes it.
    pub undo: Option<Op>,
}

/// Where a call is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// Waits until other guards of this client admit it; looked at again at that moment.
    Turn(Moment),
    /// Waits until the window of its shard has room.
    Window,
    /// Tried again at that moment, or when the topology is known.
    Backoff(Moment),
    /// Waits for credit on a connection.
    Queued(LinkId),
    /// Sent, under this request id.
    Flying(LinkId, u64),
}

/// A call that is open.
pub(crate) struct Call {
    pub op: Op,
    pub shard: u32,
    /// Who waits for it; `None` for the client's own, and when its caller has given it up.
    pub slot: Option<Arc<Slot>>,
    pub begun: Moment,
    pub deadline: Moment,
    pub place: Place,
    /// When its timer rings.
    pub timer: Moment,
    pub stamp: Option<Stamp>,
    /// The only session under which it makes sense.
    pub bound: Option<SessionId>,
    /// Its place in the window was given away while it waits: it must not be sent again as it is.
    pub aside: bool,
    /// A frame was sent whose answer will never come.
    pub ambiguous: bool,
    pub attempts: u32,
    /// How often it had to pause: each pause is longer than the last.
    pub pauses: u32,
    pub first_sent: Option<Moment>,
    pub last_sent: Moment,
    /// What stood in its way last.
    pub last: String,
}

impl Call {
    /// Makes a pop that gave its place away a new one, for what is left of its wait. If the old one took
    /// a message, that comes back when its visibility runs out.
    pub fn renew_wait(&mut self, now: Moment) {
        self.aside = false;
        self.stamp = None;
        self.ambiguous = false;
        if let Op::Pop { wait_ms, .. } = &mut self.op {
            let passed = crate::clock::millis(now.since(self.begun));
            *wait_ms = wait_ms.saturating_sub(passed);
            self.begun = now;
        }
    }

    /// Whether it may have been applied already.
    pub fn may_be_applied(&self) -> bool {
        self.stamp.is_some() && (self.ambiguous || matches!(self.place, Place::Flying(..)))
    }
}
