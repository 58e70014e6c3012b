//! Every message with example values, and the body layout once more, written from
//! `docs/protocol.md` alone: the oracle that the crate's own encoding is held to.
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod render;

use wire::message::{Alive, CachePut, Expect, Hello, QueuePush};
use wire::messages::{self, Message, Reader};
use wire::peer::Append;
use wire::{Call, WireError};

/// The value of a field.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    U8(u8),
    U16(u16),
    U32(u32),
    U64(u64),
    Id([u8; 16]),
    Bytes(Vec<u8>),
}

impl Value {
    /// As it stands in `vectors.txt`: integers in decimal, bytes as quoted hex.
    pub fn text(&self) -> String {
        match self {
            Value::U8(n) => n.to_string(),
            Value::U16(n) => n.to_string(),
            Value::U32(n) => n.to_string(),
            Value::U64(n) => n.to_string(),
            Value::Id(id) => format!("\"{}\"", hex(id)),
            Value::Bytes(bytes) => format!("\"{}\"", hex(bytes)),
        }
    }

    /// The type's name in `docs/protocol.md`, and its bytes in the fixed part.
    pub fn shape(&self) -> (&'static str, usize) {
        match self {
            Value::U8(_) => ("u8", 1),
            Value::U16(_) => ("u16", 2),
            Value::U32(_) => ("u32", 4),
            Value::U64(_) => ("u64", 8),
            Value::Id(_) => ("id", 16),
            Value::Bytes(_) => ("bytes", 8),
        }
    }
}

impl From<messages::Value<'_>> for Value {
    fn from(value: messages::Value<'_>) -> Value {
        match value {
            messages::Value::U8(n) => Value::U8(n),
            messages::Value::U16(n) => Value::U16(n),
            messages::Value::U32(n) => Value::U32(n),
            messages::Value::U64(n) => Value::U64(n),
            messages::Value::Id(id) => Value::Id(id),
            messages::Value::Bytes(bytes) => Value::Bytes(bytes.to_vec()),
        }
    }
}

/// The fields of a message, by name.
pub type Fields = Vec<(&'static str, Value)>;

/// A message with values.
#[derive(Clone)]
pub struct Example {
    pub message: &'static Message,
    pub fields: Fields,
    /// As `encode` writes it.
    pub body: Vec<u8>,
}

impl Example {
    fn new(message: &'static Message, encode: impl FnOnce(&mut Vec<u8>)) -> Example {
        let mut body = Vec::new();
        encode(&mut body);
        let fields = read(message.decode, &body).expect("an example is a message of its kind");
        Example { message, fields, body }
    }

    /// Every way to read a body that this build has.
    pub fn readers(&self) -> Vec<Reader> {
        vec![
            self.message.decode,
            #[cfg(feature = "archive")]
            self.message.view,
        ]
    }
}

/// The fields of a body.
pub fn read(by: Reader, body: &[u8]) -> Result<Fields, WireError> {
    let mut fields = Fields::new();
    by(body, &mut |name, value| fields.push((name, value.into())))?;
    Ok(fields)
}

/// 16 bytes that count up from `first`.
pub fn id(first: u8) -> [u8; 16] {
    core::array::from_fn(|i| first.wrapping_add(i as u8))
}

/// What makes a call exactly-once.
pub fn call(sequence: u64, answered_below: u64) -> Call {
    Call { session: id(0x40), sequence, answered_below }
}

/// Every message as its declaration has an example of it, and a few once more with other values.
pub fn examples() -> Vec<Example> {
    let more = more();
    let of = |message: &'static Message| {
        let again = more.iter().filter(|example| example.message.kind == message.kind).cloned();
        std::iter::once(Example::new(message, message.example)).chain(again).collect::<Vec<_>>()
    };
    messages::all().flat_map(of).collect()
}

fn more() -> Vec<Example> {
    let (none, nobody) = ([0; 16], &b""[..]);
    let hello = Hello {
        cluster: none,
        client: none,
        engine: 0,
        version_min: 1,
        version_max: 1,
        name: nobody,
        credentials: b"\xff\x00",
    };
    let push = QueuePush { call: call(8, 6), priority: 0, name: b"mail", payload: b"" };
    let put = CachePut {
        call: call(13, 12),
        version: 0,
        ttl_ms: 0,
        expect: Expect::Any,
        key: b"user/1",
        value: b"",
    };
    let heartbeat = Append {
        term: 5,
        prev_index: 101,
        prev_term: 5,
        commit: 101,
        sent_at: 223_456_789,
        count: 0,
        entries: b"",
    };
    vec![
        Example::new(Hello::MESSAGE, |b| hello.encode(b)),
        Example::new(Alive::MESSAGE, |b| Alive { shards: b"" }.encode(b)),
        Example::new(QueuePush::MESSAGE, |b| push.encode(b)),
        Example::new(CachePut::MESSAGE, |b| put.encode(b)),
        Example::new(Append::MESSAGE, |b| heartbeat.encode(b)),
    ]
}

/// A body as `docs/protocol.md` says to write it.
pub fn lay_out(fields: &Fields) -> Vec<u8> {
    let mut body = Vec::new();
    let mut begins = Vec::new();
    for (_, value) in fields {
        begins.push(body.len() as i64);
        if let Value::Bytes(bytes) = value {
            body.extend_from_slice(bytes);
        }
    }
    for ((_, value), begin) in fields.iter().zip(begins) {
        match value {
            Value::U8(n) => body.push(*n),
            Value::U16(n) => body.extend(n.to_le_bytes()),
            Value::U32(n) => body.extend(n.to_le_bytes()),
            Value::U64(n) => body.extend(n.to_le_bytes()),
            Value::Id(id) => body.extend(id),
            Value::Bytes(bytes) => {
                let offset = i32::try_from(begin - body.len() as i64).expect("a body is short");
                body.extend(offset.to_le_bytes());
                body.extend(u32::try_from(bytes.len()).expect("a body is short").to_le_bytes());
            }
        }
    }
    body
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
