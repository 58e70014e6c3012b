//! The entry: the same bytes in a leader's memory, on the wire and on disk.
//!
//! ```text
//!  at  size  field
//!   0     4  checksum   CRC-32C of all that follows this field, payload included
//!   4     4  length     of the payload, in bytes
//!   8     4  group
//!  12     2  kind       of the payload: a wire kind, or one of [`kind`]
//!  14     1  version    1
//!  15     1  flags      0
//!  16     8  term
//!  24     8  index
//!  32     8  time       the group's replicated clock, in nanoseconds
//!  40     4  principal  who asked: 0 = nobody in particular
//!  44     4  zero
//!  48        payload    a client's body verbatim, serialized once, by the client
//! ```

use crate::ids::{GroupId, Index, Term};
use crate::time::Elapsed;
use alloc::vec::Vec;
use wire::Kind;
use wire::bytes::{put_u16_at, put_u32_at, put_u64_at, u16_at, u32_at, u64_at};

/// Size of an entry's header, in bytes.
pub const ENTRY_HEADER_BYTES: usize = 48;
/// The version of the entry format.
pub const ENTRY_VERSION: u8 = 1;

/// Kinds of entries that no client sends.
pub mod kind {
    use wire::Kind;
    /// Opens a leader's term. No payload.
    pub const NOOP: Kind = Kind(0x8000);
    /// Moves the group's clock on, so that what is due fires. No payload.
    pub const TICK: Kind = Kind(0x8001);
    /// Signs of life, batched: 16 bytes of session id each.
    pub const RENEW: Kind = Kind(0x8002);
    /// Who belongs to the group from here on: `raft/configuration.rs` draws the payload.
    pub const MEMBERS: Kind = Kind(0x8003);
    /// The group is at a feature level from here on ([`Level`](crate::level::Level)): u32 level.
    pub const LEVEL: Kind = Kind(0x8004);
    /// Mail of another group, which is taken here: u32 group, u64 number of the first, then each as u32 length and so
    /// many bytes. It takes a client's room: others decide how much of it there is.
    pub const MAIL: Kind = Kind(0x7f00);
    /// Writes mail: u32 group that it is for, then the mail. No service does it yet; tests do.
    #[cfg(any(test, feature = "simulator"))]
    pub const MAIL_WRITE: Kind = Kind(0x7f01);
    /// Another group has taken mail of this one: u32 group, u64 number of the last.
    pub const MAIL_TAKEN: Kind = Kind(0x8005);
    /// A node of the cluster, in the meta group.
    pub const META_NODE: Kind = Kind(0x8010);
    /// The cluster's birth, in the meta group.
    pub const META_BIRTH: Kind = Kind(0x8011);
}

/// Whether leaders make entries of this kind by themselves, and not for a client.
pub const fn is_own(kind: Kind) -> bool {
    kind.0 >= kind::NOOP.0
}

/// What stands in front of a payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryHeader {
    /// The group whose log this is.
    pub group: GroupId,
    /// How to read the payload.
    pub kind: Kind,
    /// The term in which a leader proposed it.
    pub term: Term,
    /// Where it stands in the group's log.
    pub index: Index,
    /// The group's clock when it was proposed.
    pub time: Elapsed,
    /// Who asked; 0 = nobody in particular.
    pub principal: u32,
}

/// An entry, read in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry<'a> {
    /// The header.
    pub header: EntryHeader,
    /// The payload.
    pub payload: &'a [u8],
    /// The whole entry: header and payload as they are on wire and disk.
    pub bytes: &'a [u8],
}

/// Why some bytes are no entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EntryError {
    /// The bytes end before the entry does.
    #[error("the entry is cut short")]
    Short,
    /// The checksum does not match.
    #[error("the entry's checksum does not match its bytes")]
    Checksum,
    /// Written by a version that is not known here.
    #[error("the entry has format version {got}, which is not known here")]
    Version {
        /// The version that it names.
        got: u8,
    },
}

/// Appends an entry's bytes to `out`.
pub fn write(header: &EntryHeader, payload: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    let length = u32::try_from(payload.len()).expect("limits keep a payload under 4 GiB");
    let mut b = [0u8; ENTRY_HEADER_BYTES];
    put_u32_at(&mut b, 4, length);
    put_u32_at(&mut b, 8, header.group.0);
    put_u16_at(&mut b, 12, header.kind.0);
    b[14] = ENTRY_VERSION;
    put_u64_at(&mut b, 16, header.term.0);
    put_u64_at(&mut b, 24, header.index.0);
    put_u64_at(&mut b, 32, header.time.0);
    put_u32_at(&mut b, 40, header.principal);
    out.extend_from_slice(&b);
    out.extend_from_slice(payload);
    let sum = crc32c::crc32c(&out[start + 4..]);
    put_u32_at(out, start, sum);
}

/// Reads the entry at the front of `bytes`, its checksum verified.
///
/// # Errors
/// [`EntryError`] when the bytes are no whole, undamaged entry.
pub fn read(bytes: &[u8]) -> Result<Entry<'_>, EntryError> {
    let entry = read_unchecked(bytes)?;
    if crc32c::crc32c(&entry.bytes[4..]) != u32_at(entry.bytes, 0) {
        return Err(EntryError::Checksum);
    }
    Ok(entry)
}

/// Reads an entry whose checksum was verified when it came in: one out of this process's memory.
///
/// # Errors
/// [`EntryError::Short`] or [`EntryError::Version`].
pub fn read_unchecked(bytes: &[u8]) -> Result<Entry<'_>, EntryError> {
    let head = bytes.first_chunk::<ENTRY_HEADER_BYTES>().ok_or(EntryError::Short)?;
    if head[14] != ENTRY_VERSION {
        return Err(EntryError::Version { got: head[14] });
    }
    let end = ENTRY_HEADER_BYTES + u32_at(head, 4) as usize;
    let bytes = bytes.get(..end).ok_or(EntryError::Short)?;
    let header = EntryHeader {
        group: GroupId(u32_at(head, 8)),
        kind: Kind(u16_at(head, 12)),
        term: Term(u64_at(head, 16)),
        index: Index(u64_at(head, 24)),
        time: Elapsed(u64_at(head, 32)),
        principal: u32_at(head, 40),
    };
    Ok(Entry { header, payload: &bytes[ENTRY_HEADER_BYTES..], bytes })
}

/// Whether all of these entries are leaders' own. Their checksums are not looked at.
pub fn are_own(mut entries: &[u8]) -> bool {
    while let Ok(entry) = read_unchecked(entries) {
        if !is_own(entry.header.kind) {
            return false;
        }
        entries = &entries[entry.bytes.len()..];
    }
    true
}
