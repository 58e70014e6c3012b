//! The header that opens every frame.
//!
//! ```text
//!  at  size  field
//!   0     4  magic        "TCT1", 0x31544354 little-endian
//!   4     4  checksum     CRC-32C of all that follows this field, body included
//!   8     4  length       of the body, in bytes
//!  12     1  version      1
//!  13     1  flags        0; every bit is reserved
//!  14     2  kind         of the message
//!  16     8  request      chosen by the client, given back in the reply
//!  24     4  shard        where the client believes the name lives; a hint that the owner checks
//!  28     4  deadline_ms  time left for the request when it was sent; 0 = none
//!  32     8  epoch        placement epoch that the client acts on; 0 = not known
//!  40    16  trace        trace id (W3C trace-id bytes); all zero = none
//!  56        body
//! ```

use crate::bytes::{array_at, put_u16_at, put_u32_at, put_u64_at, u16_at, u32_at, u64_at};
use crate::layout::WireError;

/// Size of a header, in bytes.
pub const HEADER_BYTES: usize = 56;
/// The first four bytes of every frame: "TCT1".
pub const MAGIC: u32 = u32::from_le_bytes(*b"TCT1");
/// The version of the header, and the lowest of the protocol that this crate speaks.
pub const VERSION: u8 = 1;
/// The highest version of the protocol that this crate speaks: from 2 on a refusal may come with a
/// [`Detail`](crate::Detail).
pub const PROTOCOL_MAX: u8 = 2;
/// Where the bytes that the checksum covers begin.
pub(crate) const CHECKED_FROM: usize = 8;

/// The kind of a message, which says how to read the body. See [`crate::message`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Kind(pub u16);

/// What stands in front of every body, checked by [`crate::split`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// The kind of the message.
    pub kind: Kind,
    /// Chosen by the sender of a request; its reply carries it back.
    pub request: u64,
    /// The shard that the sender believes to own the name. The owner recomputes it.
    pub shard: u32,
    /// Milliseconds left for the request when it was sent; 0 = none.
    pub deadline_ms: u32,
    /// The placement epoch that the sender acts on; 0 = not known.
    pub epoch: u64,
    /// Trace id; all zero = none.
    pub trace: [u8; 16],
}

impl Header {
    /// A header of `kind` for `request`, with every other field zero.
    pub const fn new(kind: Kind, request: u64) -> Header {
        Header { kind, request, shard: 0, deadline_ms: 0, epoch: 0, trace: [0; 16] }
    }

    /// The header's bytes, with length and checksum still zero: [`crate::finish`] fills them in.
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut b = [0u8; HEADER_BYTES];
        put_u32_at(&mut b, 0, MAGIC);
        b[12] = VERSION;
        put_u16_at(&mut b, 14, self.kind.0);
        put_u64_at(&mut b, 16, self.request);
        put_u32_at(&mut b, 24, self.shard);
        put_u32_at(&mut b, 28, self.deadline_ms);
        put_u64_at(&mut b, 32, self.epoch);
        b[40..56].copy_from_slice(&self.trace);
        b
    }

    /// Reads a header and the length of its body. The checksum is [`crate::split`]'s to verify.
    ///
    /// # Errors
    /// [`WireError`] when magic, version or flags are not what this version writes.
    pub fn parse(b: &[u8; HEADER_BYTES]) -> Result<(Header, usize), WireError> {
        if u32_at(b, 0) != MAGIC {
            return Err(WireError::Magic);
        }
        if b[12] != VERSION {
            return Err(WireError::Version { got: b[12] });
        }
        if b[13] != 0 {
            return Err(WireError::Flags { got: b[13] });
        }
        let header = Header {
            kind: Kind(u16_at(b, 14)),
            request: u64_at(b, 16),
            shard: u32_at(b, 24),
            deadline_ms: u32_at(b, 28),
            epoch: u64_at(b, 32),
            trace: array_at(b, 40),
        };
        Ok((header, u32_at(b, 8) as usize))
    }
}
