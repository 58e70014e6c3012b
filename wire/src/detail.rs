//! What a refusal says beside its code, for programs: how things stood that it was refused for.
//!
//! ```text
//! u8 tag, then
//! 1  version: u64                 the line's version
//! 2  fence: u64 | mode u8         the oldest grant of the lock
//! ```
//!
//! Who does not know a tag leaves the detail alone. A detail never names a session: who knows a session's id can act
//! for it.

use crate::bytes::{Put, Reader};
use crate::layout::WireError;
use crate::message::LockMode;
use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::fmt;

const VERSION: u8 = 1;
const HOLDER: u8 = 2;

/// How things stood that a call was refused for. It is remembered with the call.
///
/// ```
/// # use wire::Detail;
/// let mut bytes = Vec::new();
/// Detail::Version(80).encode(&mut bytes);
/// assert_eq!(Detail::decode(&bytes), Ok(Some(Detail::Version(80))));
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Detail<'a> {
    /// The version that the line has.
    Version(u64),
    /// Somebody holds the lock.
    Holder {
        /// The fence of the oldest grant.
        fence: u64,
        /// How it is held.
        mode: LockMode,
    },
    /// What only a later version knows.
    Later {
        /// What it is.
        tag: u8,
        /// What it says.
        bytes: Cow<'a, [u8]>,
    },
}

impl<'a> Detail<'a> {
    /// Appends its bytes, at most [`DETAIL_BYTES_MAX`](crate::limits::DETAIL_BYTES_MAX).
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Detail::Version(version) => {
                out.put_u8(VERSION);
                out.put_u64(*version);
            }
            Detail::Holder { fence, mode } => {
                out.put_u8(HOLDER);
                out.put_u64(*fence);
                out.put_u8(mode.number());
            }
            Detail::Later { tag, bytes } => {
                out.put_u8(*tag);
                out.put(bytes);
            }
        }
    }

    /// Reads the bytes of one; no bytes are none.
    ///
    /// # Errors
    /// [`WireError::Malformed`] when a known tag has other bytes than it must.
    pub fn decode(bytes: &'a [u8]) -> Result<Option<Detail<'a>>, WireError> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let mut from = Reader::new(bytes);
        let detail = match from.u8()? {
            VERSION => Detail::Version(from.u64()?),
            HOLDER => {
                let (fence, mode) = (from.u64()?, LockMode::from_number(from.u8()?));
                Detail::Holder { fence, mode: mode.ok_or(WireError::Malformed)? }
            }
            tag => {
                let bytes = Cow::Borrowed(from.rest());
                return Ok(Some(Detail::Later { tag, bytes }));
            }
        };
        if from.is_empty() { Ok(Some(detail)) } else { Err(WireError::Malformed) }
    }

    /// The same, with bytes of its own.
    pub fn into_owned(self) -> Detail<'static> {
        match self {
            Detail::Version(version) => Detail::Version(version),
            Detail::Holder { fence, mode } => Detail::Holder { fence, mode },
            Detail::Later { tag, bytes } => {
                Detail::Later { tag, bytes: Cow::Owned(bytes.into_owned()) }
            }
        }
    }
}

impl fmt::Display for Detail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Detail::Version(version) => write!(f, "it has version {version}"),
            Detail::Holder { fence, mode: LockMode::Shared } => {
                write!(f, "it is held shared, the oldest grant under fence {fence}")
            }
            Detail::Holder { fence, mode: LockMode::Exclusive } => {
                write!(f, "it is held under fence {fence}")
            }
            Detail::Later { tag, .. } => write!(f, "detail {tag}, which a later client can read"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::DETAIL_BYTES_MAX;

    fn bytes(detail: &Detail<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        detail.encode(&mut bytes);
        assert!(bytes.len() <= DETAIL_BYTES_MAX);
        bytes
    }

    #[test]
    fn a_detail_is_read_as_it_was_written() {
        for detail in [
            Detail::Version(u64::MAX),
            Detail::Holder { fence: 7, mode: LockMode::Shared },
            Detail::Later { tag: 200, bytes: Cow::Borrowed(b"abc") },
        ] {
            assert_eq!(Detail::decode(&bytes(&detail)), Ok(Some(detail)));
        }
        assert_eq!(Detail::decode(b""), Ok(None));
    }

    #[test]
    fn a_known_detail_of_another_length_is_malformed() {
        for detail in [Detail::Version(1), Detail::Holder { fence: 7, mode: LockMode::Shared }] {
            let mut longer = bytes(&detail);
            assert_eq!(Detail::decode(&longer[..longer.len() - 1]), Err(WireError::Malformed));
            longer.push(1);
            assert_eq!(Detail::decode(&longer), Err(WireError::Malformed));
        }
    }
}
