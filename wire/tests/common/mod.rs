//! Every message with example values, and the body layout once more, written from
//! `docs/protocol.md` alone: the oracle that the crate's own encoding is held to.
#![allow(dead_code, reason = "each test binary uses its part")]

use wire::WireError;
use wire::message::*;
use wire::peer::*;

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

macro_rules! values {
    ($($ty:ty => $it:ident $value:expr;)*) => {$(
        impl From<$ty> for Value {
            fn from($it: $ty) -> Value {
                $value
            }
        }
    )*};
}
values! {
    u8 => n Value::U8(n);
    u16 => n Value::U16(n);
    u32 => n Value::U32(n);
    u64 => n Value::U64(n);
    [u8; 16] => id Value::Id(id);
    &[u8] => bytes Value::Bytes(bytes.to_vec());
}

/// The fields of a message, by name.
pub type Fields = Vec<(&'static str, Value)>;
/// A way to read a body.
pub type Read = fn(&[u8]) -> Result<Fields, WireError>;

/// A message with values.
pub struct Example {
    pub name: &'static str,
    pub kind: u16,
    pub fixed: usize,
    pub fields: Fields,
    /// As `encode` writes it.
    pub body: Vec<u8>,
    /// By `decode`.
    pub decode: Read,
    /// As rkyv itself serializes it.
    #[cfg(feature = "archive")]
    pub archived: Vec<u8>,
    /// By rkyv's checked access.
    #[cfg(feature = "archive")]
    pub view: Read,
}

impl Example {
    /// Every way to read a body that this build has.
    pub fn readers(&self) -> Vec<Read> {
        vec![
            self.decode,
            #[cfg(feature = "archive")]
            self.view,
        ]
    }
}

macro_rules! examples {
    ($($name:ident { $($field:ident: $value:expr),* $(,)? })*) => { vec![$({
        let message = $name { $($field: $value),* };
        let mut body = Vec::new();
        message.encode(&mut body);
        Example {
            name: stringify!($name),
            kind: $name::KIND.0,
            fixed: $name::FIXED,
            fields: vec![$((stringify!($field), Value::from(message.$field))),*],
            body,
            decode: |body| {
                $name::decode(body).map(|m| vec![$((stringify!($field), Value::from(m.$field))),*])
            },
            #[cfg(feature = "archive")]
            archived: message.archived(),
            #[cfg(feature = "archive")]
            view: |body| {
                $name::view(body).map(|m| vec![$((stringify!($field), Value::from(m.$field))),*])
            },
        }
    }),*] };
}

/// 16 bytes that count up from `first`.
pub fn id(first: u8) -> [u8; 16] {
    core::array::from_fn(|i| first.wrapping_add(i as u8))
}

/// Every message between clients and nodes. All have unlike bytes in unlike fields, so that two
/// swapped fields show.
pub fn client_examples() -> Vec<Example> {
    let mut all = connection_examples();
    all.extend(lock_and_queue_examples());
    all.extend(cache_examples());
    all.extend(node_examples());
    all
}

fn connection_examples() -> Vec<Example> {
    examples! {
        Hello {
            cluster: id(0x10), client: id(0x40), engine: 3, version_min: 1, version_max: 2,
            name: b"worker-7", credentials: b"",
        }
        Hello {
            cluster: [0; 16], client: [0; 16], engine: 0, version_min: 1, version_max: 1,
            name: b"", credentials: b"\xff\x00",
        }
        Welcome {
            cluster: id(0x10), node: 2, engine: 3, engines: 4, shards: 12, epoch: 9,
            credit_frames: 1024, credit_bytes: 4_194_304, version: 1,
        }
        Heartbeat { session: id(0x40) }
        Alive { shards: &[0, 0, 0, 0, 11, 0, 0, 0] }
        Alive { shards: b"" }
        Topology { known: 0x0102_0304_0506_0708 }
        TopologyReply {
            epoch: 9, cluster: id(0x10), shards: 1,
            nodes: b"\x02\0\0\0\x04\0\0\0\x0e\x00127.0.0.1:7001",
            placement: b"\0\0\0\0\x02\0\0\0\x01\x02\0\0\0",
        }
        Status { reserved: 0 }
        StatusReply { json: b"{\"node\":2}" }
        Error { code: 7, retry_ms: 50, node: 3, engine: 1, text: b"node 3 leads shard 4" }
        Done { token: 0x1122_3344_5566_7788, index: 0xffff_ffff_ffff_fffe }
        SessionOpen { session: id(0x40), ttl_ms: 10_000 }
        SessionClose { session: id(0x40) }
    }
}

fn lock_and_queue_examples() -> Vec<Example> {
    examples! {
        LockAcquire {
            session: id(0x40), sequence: 5, answered_below: 4, wait_ms: 2_000, lease_ms: 30_000,
            mode: 2, name: b"jobs/{nightly}",
        }
        LockRelease {
            session: id(0x40), sequence: 6, answered_below: 5, fence: 77, name: b"jobs/{nightly}",
        }
        QueuePush {
            session: id(0x40), sequence: 7, answered_below: 6, priority: 9, name: b"mail",
            payload: b"hello",
        }
        QueuePush {
            session: id(0x40), sequence: 8, answered_below: 6, priority: 0, name: b"mail",
            payload: b"",
        }
        QueuePop {
            session: id(0x40), sequence: 9, answered_below: 8, wait_ms: 500,
            visibility_ms: 30_000, name: b"mail",
        }
        Delivery { id: 78, delivery: 1, priority: 9, payload: b"hello" }
        QueueAck {
            session: id(0x40), sequence: 10, answered_below: 9, id: 78, delivery: 1, name: b"mail",
        }
        QueueNack {
            session: id(0x40), sequence: 11, answered_below: 9, id: 78, delivery: 1,
            delay_ms: 1_000, name: b"mail",
        }
    }
}

fn cache_examples() -> Vec<Example> {
    examples! {
        CacheGet { key: b"user/1" }
        Value_ { version: 79, value: b"Ada" }
        CachePut {
            session: id(0x40), sequence: 12, answered_below: 12, version: 79, ttl_ms: 60_000,
            expect: 2, key: b"user/1", value: b"Ada",
        }
        CachePut {
            session: id(0x40), sequence: 13, answered_below: 12, version: 0, ttl_ms: 0, expect: 0,
            key: b"user/1", value: b"",
        }
        CacheDelete {
            session: id(0x40), sequence: 14, answered_below: 13, version: 80, expect: 2,
            key: b"user/1",
        }
    }
    .into_iter()
    .map(|e| Example { name: e.name.trim_end_matches('_'), ..e })
    .collect()
}

fn node_examples() -> Vec<Example> {
    examples! {
        NodeAdd { incarnation: id(0x80), node: 4, engines: 2, replaces: 0, address: b"10.0.0.4:7400" }
        NodeDrain { node: 4 }
        NodeForget { node: 4 }
        LeaderMove { group: 3, node: 2 }
        BackupBegin { backup: id(0xb0), group: 3 }
        BackupReady { index: 120_034, term: 5, total: 300_000, cache_bytes_max: 64 << 20 }
        BackupRead { backup: id(0xb0), group: 3, offset: 262_144 }
        BackupPiece { offset: 262_144, bytes: b"abc" }
    }
}

/// The message of that name; its own is taken by the fields' values here.
use wire::message::Value as Value_;

/// Every message between nodes.
pub fn peer_examples() -> Vec<Example> {
    examples! {
        PeerHello {
            cluster: id(0x10), incarnation: id(0x80), node: 2, engine: 3, engines: 4, version: 1,
        }
        Birth { cluster: id(0x10), shards: 12, cache_bytes_max: 64 << 20, founders: &[1; 20] }
        Nodes { nodes: b"TCMM" }
        Leads { rows: b"\x03\0\0\0\x05\0\0\0\0\0\0\0\x01\x02\0\0\0" }
        FeatureLevel { newest: 2 }
        Pulse { sent_at: 123_456_789, echo: 987_654_321, held: 50_000_000 }
        Vote {
            term: 5, last_index: 100, last_term: 4, incarnation: id(0x80), pre: 1, transfer: 0,
        }
        VoteReply { term: 5, incarnation: id(0x90), pre: 1, granted: 1 }
        Append {
            term: 5, prev_index: 100, prev_term: 4, commit: 99, sent_at: 123_456_789, count: 1,
            entries: &[0xee; 48],
        }
        Append {
            term: 5, prev_index: 101, prev_term: 5, commit: 101, sent_at: 223_456_789, count: 0,
            entries: b"",
        }
        AppendReply {
            term: 5, index: 101, index_term: 4, sent_at: 123_456_789, incarnation: id(0x90),
            reject: 1,
        }
        Snapshot {
            term: 5, index: 90, index_term: 3, sent_at: 323_456_789, offset: 4, total: 7,
            bytes: b"abc",
        }
        SnapshotReply { term: 5, index: 90, received: 7, sent_at: 323_456_789 }
        TimeoutNow { term: 5 }
        Join { term: 5, incarnation: id(0x90) }
        Absent { sent_at: 123_456_789 }
        Stray { term: 5, incarnation: id(0x90) }
        Leave { term: 6, incarnation: id(0x90) }
    }
}

/// Every message.
pub fn examples() -> Vec<Example> {
    client_examples().into_iter().chain(peer_examples()).collect()
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

/// A message as the crate's source declares it.
pub struct Declared {
    pub kind: u16,
    pub name: String,
    /// Each field's name, and its type as `docs/protocol.md` names it.
    pub fields: Vec<(String, String)>,
}

/// The declarations of messages in a source.
pub fn declared(source: &str) -> Vec<Declared> {
    let mut all: Vec<Declared> = Vec::new();
    for line in source.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("0x")
            && let Some((kind, rest)) = rest.split_once(' ')
            && let Ok(kind) = u16::from_str_radix(kind, 16)
            && rest.ends_with('{')
        {
            let name = rest.chars().take_while(|c| c.is_alphanumeric()).collect();
            all.push(Declared { kind, name, fields: Vec::new() });
        } else if let Some((field, ty)) = line.split_once(": [")
            && let Some(ty) = ty.strip_suffix("],")
            && field.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        {
            let ty = match ty {
                "[u8; 16]" => "id",
                "&'a [u8]" => "bytes",
                plain => plain,
            };
            let of = all.last_mut().expect("a field follows its message");
            of.fields.push((field.to_string(), ty.to_string()));
        }
    }
    all
}
