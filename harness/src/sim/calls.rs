//! What clients ask for, with every option, and what they are told.

use engine::time::Time;
use wire::message::{
    CacheDelete, CacheGet, CachePut, Delivery, DetailedError, Done, Error, LockAcquire, LockMode,
    LockRelease, QueueAck, QueueNack, QueuePop, QueuePush, SessionClose, SessionOpen, Value,
};
use wire::{Call, Code, Detail, Kind, Request};

/// Lines, locks and queues that clients use.
pub const KEYS: u8 = 5;
pub const LOCKS: u8 = 3;
pub const QUEUES: u8 = 2;

/// What a write expects of its line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    Any,
    Absent,
    Version(u64),
}

impl Expect {
    /// As a request says it: the choice, and the version that goes with it.
    fn wire(self) -> (wire::message::Expect, u64) {
        match self {
            Expect::Any => (wire::message::Expect::Any, 0),
            Expect::Absent => (wire::message::Expect::Absent, 0),
            Expect::Version(version) => (wire::message::Expect::Version, version),
        }
    }

    /// The same, read.
    pub fn of(expect: wire::message::Expect, version: u64) -> Expect {
        match expect {
            wire::message::Expect::Any => Expect::Any,
            wire::message::Expect::Absent => Expect::Absent,
            wire::message::Expect::Version => Expect::Version(version),
        }
    }
}

/// What a client did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Did {
    /// Wrote a line; the value is unique in the run.
    Put { key: u8, value: u64, ttl_ms: u32, expect: Expect },
    /// Read a line.
    Get { key: u8 },
    /// Deleted a line.
    Delete { key: u8, expect: Expect },
    /// Asked for a lock.
    Acquire { lock: u8, exclusive: bool, wait_ms: u32, lease_ms: u32 },
    /// Gave a lock back.
    Release { lock: u8, fence: u64 },
    /// Pushed a message; the value is unique in the run.
    Push { queue: u8, value: u64, priority: u8 },
    /// Asked for a message.
    Pop { queue: u8, wait_ms: u32, visibility_ms: u32 },
    /// Acknowledged a message.
    Ack { queue: u8, id: u64, delivery: u32 },
    /// Gave a message back.
    Nack { queue: u8, id: u64, delivery: u32, delay_ms: u32 },
    /// Opened a session that was used before.
    Reopen { shard: u32, session: [u8; 16] },
    /// Ended its session.
    Close { shard: u32 },
}

/// What it was told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Saw {
    Done {
        token: u64,
        index: u64,
    },
    Line {
        version: u64,
        value: u64,
    },
    Message {
        id: u64,
        delivery: u32,
        priority: u8,
        value: u64,
    },
    Refused(Code),
    /// The session ended, or the call was given up, before an answer came: it may have happened or not.
    Unknown,
}

/// One thing that a client did.
#[derive(Clone, Debug)]
pub struct Record {
    pub client: u32,
    pub did: Did,
    pub invoked: Time,
    pub replied: Time,
    pub saw: Saw,
}

/// A stretch in which a client had reason to believe that it held a lock.
#[derive(Clone, Debug)]
pub struct Hold {
    pub client: u32,
    pub lock: u8,
    pub exclusive: bool,
    #[expect(dead_code, reason = "it is shown when a check fails")]
    pub fence: u64,
    pub from: Time,
    pub to: Time,
}

/// What makes a call exactly-once, and what a session's opening says.
#[derive(Clone, Copy)]
pub struct Stamp {
    pub session: [u8; 16],
    pub sequence: u64,
    pub answered_below: u64,
    pub session_ttl_ms: u32,
}

pub fn key_name(key: u8) -> Vec<u8> {
    format!("cache/k{key}").into_bytes()
}
pub fn lock_name(lock: u8) -> Vec<u8> {
    format!("locks/l{lock}").into_bytes()
}
pub fn queue_name(queue: u8) -> Vec<u8> {
    format!("queue/q{queue}").into_bytes()
}

impl Did {
    /// What it is about; nothing for a session's own messages.
    pub fn name(&self) -> Vec<u8> {
        match self {
            Did::Put { key, .. } | Did::Get { key } | Did::Delete { key, .. } => key_name(*key),
            Did::Acquire { lock, .. } | Did::Release { lock, .. } => lock_name(*lock),
            Did::Push { queue, .. }
            | Did::Pop { queue, .. }
            | Did::Ack { queue, .. }
            | Did::Nack { queue, .. } => queue_name(*queue),
            Did::Reopen { .. } | Did::Close { .. } => Vec::new(),
        }
    }

    /// The shard that it is for, of so many.
    pub fn shard(&self, shards: u32) -> u32 {
        match self {
            Did::Reopen { shard, .. } | Did::Close { shard } => *shard,
            _ => wire::name::shard(&self.name(), shards),
        }
    }

    /// Whether it has a sequence.
    pub fn is_call(&self) -> bool {
        !matches!(self, Did::Get { .. } | Did::Reopen { .. } | Did::Close { .. })
    }

    /// Whether it may wait in a line.
    pub fn waits(&self) -> bool {
        match self {
            Did::Acquire { wait_ms, .. } | Did::Pop { wait_ms, .. } => *wait_ms > 0,
            _ => false,
        }
    }

    /// The request. `name` is what it is about, `payload` what a push or a put carries.
    pub fn request<'a>(&self, stamp: Stamp, name: &'a [u8], payload: &'a [u8]) -> Request<'a> {
        let Stamp { session, sequence, answered_below, session_ttl_ms } = stamp;
        let call = Call { session, sequence, answered_below };
        match *self {
            Did::Put { ttl_ms, expect, .. } => {
                let (expect, version) = expect.wire();
                CachePut { call, version, ttl_ms, expect, key: name, value: payload }.into()
            }
            Did::Get { .. } => CacheGet { key: name }.into(),
            Did::Delete { expect, .. } => {
                let (expect, version) = expect.wire();
                CacheDelete { call, version, expect, key: name }.into()
            }
            Did::Acquire { exclusive, wait_ms, lease_ms, .. } => {
                let mode = if exclusive { LockMode::Exclusive } else { LockMode::Shared };
                LockAcquire { call, wait_ms, lease_ms, mode, name }.into()
            }
            Did::Release { fence, .. } => LockRelease { call, fence, name }.into(),
            Did::Push { priority, .. } => QueuePush { call, priority, name, payload }.into(),
            Did::Pop { wait_ms, visibility_ms, .. } => {
                QueuePop { call, wait_ms, visibility_ms, name }.into()
            }
            Did::Ack { id, delivery, .. } => QueueAck { call, id, delivery, name }.into(),
            Did::Nack { id, delivery, delay_ms, .. } => {
                QueueNack { call, id, delivery, delay_ms, name }.into()
            }
            Did::Reopen { session, .. } => SessionOpen { session, ttl_ms: session_ttl_ms }.into(),
            Did::Close { .. } => SessionClose { session }.into(),
        }
    }
}

/// What is written as `value`: its eight bytes, and behind them bytes that follow from it.
pub fn payload(value: u64, bytes_max: usize) -> Vec<u8> {
    let mut bytes = value.to_le_bytes().to_vec();
    let mixed = value.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    bytes.resize(8.max(mixed as usize % (bytes_max + 1)), value as u8);
    bytes
}

/// Reads an answer, and how things stood for a refusal that says so.
///
/// # Errors
/// What is wrong with it.
pub fn read_answer(kind: Kind, body: &[u8]) -> Result<(Saw, Option<Detail<'_>>), String> {
    let number = |bytes: &[u8]| -> Result<u64, String> {
        let (value, rest) = bytes.split_first_chunk().ok_or("a value is cut short")?;
        let whole = rest.iter().all(|byte| *byte == value[0]);
        if whole { Ok(u64::from_le_bytes(*value)) } else { Err("a value is mangled".into()) }
    };
    let malformed = |e: wire::WireError| e.to_string();
    let mut stood = None;
    let saw = match kind {
        Done::KIND => {
            let done = Done::decode(body).map_err(malformed)?;
            Saw::Done { token: done.token, index: done.index }
        }
        Value::KIND => {
            let line = Value::decode(body).map_err(malformed)?;
            Saw::Line { version: line.version, value: number(line.value)? }
        }
        Delivery::KIND => {
            let message = Delivery::decode(body).map_err(malformed)?;
            let Delivery { id, delivery, priority, payload } = message;
            Saw::Message { id, delivery, priority, value: number(payload)? }
        }
        Error::KIND => {
            let error = Error::decode(body).map_err(malformed)?;
            Saw::Refused(Code::from_number(error.code).ok_or("an unknown error code")?)
        }
        DetailedError::KIND => {
            let error = DetailedError::decode(body).map_err(malformed)?;
            stood = Detail::decode(error.detail).map_err(malformed)?;
            if stood.is_none() {
                return Err("an error with a detail has none".into());
            }
            Saw::Refused(Code::from_number(error.code).ok_or("an unknown error code")?)
        }
        other => return Err(format!("an unexpected answer of kind {other:?}")),
    };
    Ok((saw, stood))
}
