//! Requests, vetted: what is deterministic on a request alone is checked here and nowhere else.
//!
//! The gateway vets a request before it proposes it; applying vets the same bytes again, which costs
//! a few nanoseconds and means that no entry, from whatever leader, can bring a value out of
//! range into the machine.

use crate::ids::SessionId;
use crate::level::Level;
use wire::limits::{
    LEASE_MS_MAX, LINE_TTL_MS_MAX, NAME_BYTES_MAX, SESSION_TTL_MS_MAX, SESSION_TTL_MS_MIN,
    VALUE_BYTES_MAX, WAIT_MS_MAX, WINDOW_REPLIES_MAX,
};
use wire::message::{
    CacheDelete, CacheGet, CachePut, LockAcquire, LockRelease, QueueAck, QueueNack, QueuePop,
    QueuePush, SessionClose, SessionOpen,
};
use wire::{Code, Kind};

/// What the shard must know of a request to route it and to answer it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vetted<'a> {
    /// The name that decides the shard; none for a session's own messages.
    pub name: Option<&'a [u8]>,
    /// The session of the call; none for a read.
    pub session: Option<SessionId>,
    /// The call's number in its shard; 0 for a read and for a session's own messages.
    pub sequence: u64,
    /// Whether it must go through the log.
    pub access: Access,
    /// From which level on all that its fields say has that meaning.
    pub level: Level,
}

/// Whether a request changes anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// It only reads.
    Read,
    /// It is proposed as an entry.
    Write,
}

/// How a lock is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    Shared = 1,
    Exclusive = 2,
}

impl Mode {
    pub(super) fn from_number(number: u8) -> Option<Mode> {
        match number {
            1 => Some(Mode::Shared),
            2 => Some(Mode::Exclusive),
            _ => None,
        }
    }

    /// Whether a holder in this mode may do what `other` allows.
    pub(super) fn covers(self, other: Mode) -> bool {
        self == Mode::Exclusive || other == Mode::Shared
    }
}

/// What a line must be for a write to happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Expect {
    Any,
    Absent,
    Version(u64),
}

/// What makes a call exactly-once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Call {
    pub(super) session: SessionId,
    pub(super) sequence: u64,
    pub(super) answered_below: u64,
}

/// A vetted request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Request<'a> {
    Open { session: SessionId, ttl_ms: u32 },
    Close { session: SessionId },
    Get { key: &'a [u8] },
    Call(Call, Op<'a>),
}

/// What a call asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Op<'a> {
    Acquire { name: &'a [u8], wait_ms: u32, lease_ms: u32, mode: Mode },
    Release { name: &'a [u8], fence: u64 },
    Push { name: &'a [u8], priority: u8, payload: &'a [u8] },
    Pop { name: &'a [u8], wait_ms: u32, visibility_ms: u32 },
    Ack { name: &'a [u8], id: u64, delivery: u32 },
    Nack { name: &'a [u8], id: u64, delivery: u32, delay_ms: u32 },
    Put { key: &'a [u8], value: &'a [u8], ttl_ms: u32, expect: Expect },
    Delete { key: &'a [u8], expect: Expect },
}

impl<'a> Op<'a> {
    fn name(&self) -> &'a [u8] {
        match *self {
            Op::Acquire { name, .. }
            | Op::Release { name, .. }
            | Op::Push { name, .. }
            | Op::Pop { name, .. }
            | Op::Ack { name, .. }
            | Op::Nack { name, .. } => name,
            Op::Put { key, .. } | Op::Delete { key, .. } => key,
        }
    }

    fn level(&self) -> Level {
        match *self {
            Op::Acquire {
                name: _,
                wait_ms: _,
                lease_ms: _,
                mode: Mode::Shared | Mode::Exclusive,
            } => Level::OLDEST,
            Op::Release { name: _, fence: _ } => Level::OLDEST,
            Op::Push { name: _, priority: _, payload: _ } => Level::OLDEST,
            Op::Pop { name: _, wait_ms: _, visibility_ms: _ } => Level::OLDEST,
            Op::Ack { name: _, id: _, delivery: _ } => Level::OLDEST,
            Op::Nack { name: _, id: _, delivery: _, delay_ms: _ } => Level::OLDEST,
            Op::Put {
                key: _,
                value: _,
                ttl_ms: _,
                expect: Expect::Any | Expect::Absent | Expect::Version(_),
            } => Level::OLDEST,
            Op::Delete { key: _, expect: Expect::Any | Expect::Absent | Expect::Version(_) } => {
                Level::OLDEST
            }
        }
    }
}

impl<'a> Request<'a> {
    /// What routing needs.
    pub(super) fn vetted(&self) -> Vetted<'a> {
        let (name, session, sequence, access) = match *self {
            Request::Open { session, .. } | Request::Close { session } => {
                (None, Some(session), 0, Access::Write)
            }
            Request::Get { key } => (Some(key), None, 0, Access::Read),
            Request::Call(call, op) => {
                (Some(op.name()), Some(call.session), call.sequence, Access::Write)
            }
        };
        Vetted { name, session, sequence, access, level: self.level() }
    }

    /// From which level on all that its fields say has that meaning; its kind has one of its own
    /// ([`Kinds`](crate::level::Kinds)). Every field stands here: one that is new, or has a new value, can't be
    /// forgotten.
    fn level(&self) -> Level {
        match *self {
            Request::Open { session: _, ttl_ms: _ } => Level::OLDEST,
            Request::Close { session: _ } => Level::OLDEST,
            Request::Get { key: _ } => Level::OLDEST,
            Request::Call(Call { session: _, sequence: _, answered_below: _ }, op) => op.level(),
        }
    }

    /// Reads and vets a body.
    ///
    /// # Errors
    /// [`Code::UnknownKind`], [`Code::BadMessage`] or [`Code::TooLarge`].
    #[inline]
    pub(super) fn parse(kind: Kind, body: &'a [u8]) -> Result<Request<'a>, Code> {
        match kind {
            CachePut::KIND => {
                let m = CachePut::view(body).map_err(|_| Code::BadMessage)?;
                let call = call(m.session, m.sequence, m.answered_below)?;
                let ttl_ms = within(m.ttl_ms, 0, LINE_TTL_MS_MAX)?;
                let expect = match m.expect {
                    0 => Expect::Any,
                    1 => Expect::Absent,
                    2 => Expect::Version(m.version),
                    _ => return Err(Code::BadMessage),
                };
                let (key, value) = (name(m.key)?, value(m.value)?);
                Ok(Request::Call(call, Op::Put { key, value, ttl_ms, expect }))
            }
            CacheGet::KIND => {
                let m = CacheGet::view(body).map_err(|_| Code::BadMessage)?;
                Ok(Request::Get { key: name(m.key)? })
            }
            CacheDelete::KIND => {
                let m = CacheDelete::view(body).map_err(|_| Code::BadMessage)?;
                let call = call(m.session, m.sequence, m.answered_below)?;
                let expect = match m.expect {
                    0 => Expect::Any,
                    2 => Expect::Version(m.version),
                    _ => return Err(Code::BadMessage),
                };
                Ok(Request::Call(call, Op::Delete { key: name(m.key)?, expect }))
            }
            SessionOpen::KIND => {
                let m = SessionOpen::view(body).map_err(|_| Code::BadMessage)?;
                let ttl_ms = within(m.ttl_ms, SESSION_TTL_MS_MIN, SESSION_TTL_MS_MAX)?;
                Ok(Request::Open { session: session(m.session)?, ttl_ms })
            }
            SessionClose::KIND => {
                let m = SessionClose::view(body).map_err(|_| Code::BadMessage)?;
                Ok(Request::Close { session: session(m.session)? })
            }
            _ => parse_lock_or_queue(kind, body),
        }
    }
}

fn parse_lock_or_queue(kind: Kind, body: &[u8]) -> Result<Request<'_>, Code> {
    match kind {
        LockAcquire::KIND => {
            let m = LockAcquire::view(body).map_err(|_| Code::BadMessage)?;
            let call = call(m.session, m.sequence, m.answered_below)?;
            let wait_ms = within(m.wait_ms, 0, WAIT_MS_MAX)?;
            let lease_ms = within(m.lease_ms, 0, LEASE_MS_MAX)?;
            let mode = Mode::from_number(m.mode).ok_or(Code::BadMessage)?;
            Ok(Request::Call(call, Op::Acquire { name: name(m.name)?, wait_ms, lease_ms, mode }))
        }
        LockRelease::KIND => {
            let m = LockRelease::view(body).map_err(|_| Code::BadMessage)?;
            let call = call(m.session, m.sequence, m.answered_below)?;
            Ok(Request::Call(call, Op::Release { name: name(m.name)?, fence: m.fence }))
        }
        QueuePush::KIND => {
            let m = QueuePush::view(body).map_err(|_| Code::BadMessage)?;
            let call = call(m.session, m.sequence, m.answered_below)?;
            let (name, payload) = (name(m.name)?, value(m.payload)?);
            Ok(Request::Call(call, Op::Push { name, priority: m.priority, payload }))
        }
        QueuePop::KIND => {
            let m = QueuePop::view(body).map_err(|_| Code::BadMessage)?;
            let call = call(m.session, m.sequence, m.answered_below)?;
            let wait_ms = within(m.wait_ms, 0, WAIT_MS_MAX)?;
            let visibility_ms = within(m.visibility_ms, 1, LEASE_MS_MAX)?;
            Ok(Request::Call(call, Op::Pop { name: name(m.name)?, wait_ms, visibility_ms }))
        }
        QueueAck::KIND => {
            let m = QueueAck::view(body).map_err(|_| Code::BadMessage)?;
            let call = call(m.session, m.sequence, m.answered_below)?;
            let (name, id, delivery) = (name(m.name)?, m.id, m.delivery);
            Ok(Request::Call(call, Op::Ack { name, id, delivery }))
        }
        QueueNack::KIND => {
            let m = QueueNack::view(body).map_err(|_| Code::BadMessage)?;
            let call = call(m.session, m.sequence, m.answered_below)?;
            let delay_ms = within(m.delay_ms, 0, LEASE_MS_MAX)?;
            let (name, id, delivery) = (name(m.name)?, m.id, m.delivery);
            Ok(Request::Call(call, Op::Nack { name, id, delivery, delay_ms }))
        }
        _ => Err(Code::UnknownKind),
    }
}

fn name(name: &[u8]) -> Result<&[u8], Code> {
    match name.len() {
        0 => Err(Code::BadMessage),
        1..=NAME_BYTES_MAX => Ok(name),
        _ => Err(Code::TooLarge),
    }
}

fn value(value: &[u8]) -> Result<&[u8], Code> {
    if value.len() > VALUE_BYTES_MAX { Err(Code::TooLarge) } else { Ok(value) }
}

fn session(id: [u8; 16]) -> Result<SessionId, Code> {
    if id == [0; 16] { Err(Code::BadMessage) } else { Ok(SessionId(id)) }
}

fn call(id: [u8; 16], sequence: u64, answered_below: u64) -> Result<Call, Code> {
    let session = session(id)?;
    if sequence == 0 || answered_below > sequence {
        return Err(Code::BadMessage);
    }
    if sequence - answered_below.max(1) >= WINDOW_REPLIES_MAX {
        return Err(Code::Busy);
    }
    Ok(Call { session, sequence, answered_below })
}

fn within(number: u32, min: u32, max: u32) -> Result<u32, Code> {
    if (min..=max).contains(&number) { Ok(number) } else { Err(Code::BadMessage) }
}
