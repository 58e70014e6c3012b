//! What says, beside the segments, how far a journal goes.
//!
//! ```text
//!  at  size  field
//!   0     4  checksum  CRC-32C of all that follows this field
//!   4     4  magic     "TCWT"
//!   8     4  version   1
//!  12     4  zero
//!  16     8  journal   as in every unit
//!  24     8  position  every unit up to this one was synced
//! ```
//!
//! The world keeps two copies of it, in files of their own. See [`super`] for what they are for.

use super::JournalError;
use crate::ids::Position;
use wire::bytes::{put_u32_at, put_u64_at, u32_at, u64_at};

/// Size of a witness, in bytes.
pub const WITNESS_BYTES: usize = 32;
/// How many copies of it are kept.
pub const WITNESSES: usize = 2;
/// The version of its format.
const VERSION: u32 = 1;
const MAGIC: u32 = u32::from_le_bytes(*b"TCWT");

const AT_CHECKSUM: usize = 0;
const AT_MAGIC: usize = AT_CHECKSUM + 4;
const AT_VERSION: usize = AT_MAGIC + 4;
const AT_ZERO: usize = AT_VERSION + 4;
const AT_JOURNAL: usize = AT_ZERO + 4;
const AT_POSITION: usize = AT_JOURNAL + 8;
const _: () = assert!(AT_POSITION + 8 == WITNESS_BYTES);

/// How far a journal goes at least.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Witness {
    /// The journal.
    pub journal: u64,
    /// A unit that was synced; [`Position::ZERO`]: nothing was yet.
    pub position: Position,
}

/// The copies of a witness as they are on the disk; `None`: there is no such file.
pub type Copies<'a> = [Option<&'a [u8]>; WITNESSES];

impl Witness {
    /// The bytes of each copy.
    pub fn to_bytes(self) -> [u8; WITNESS_BYTES] {
        let mut bytes = [0; WITNESS_BYTES];
        put_u32_at(&mut bytes, AT_MAGIC, MAGIC);
        put_u32_at(&mut bytes, AT_VERSION, VERSION);
        put_u64_at(&mut bytes, AT_JOURNAL, self.journal);
        put_u64_at(&mut bytes, AT_POSITION, self.position.0);
        let sum = crc32c::crc32c(&bytes[AT_MAGIC..]);
        put_u32_at(&mut bytes, AT_CHECKSUM, sum);
        bytes
    }

    /// Reads one copy: `None` if it is not whole.
    fn from_bytes(bytes: &[u8]) -> Result<Option<Witness>, JournalError> {
        let whole = bytes.len() == WITNESS_BYTES
            && u32_at(bytes, AT_MAGIC) == MAGIC
            && crc32c::crc32c(&bytes[AT_MAGIC..]) == u32_at(bytes, AT_CHECKSUM);
        if !whole {
            return Ok(None);
        }
        let got = u32_at(bytes, AT_VERSION);
        if got != VERSION {
            return Err(JournalError::NewerFormat { got, known: VERSION });
        }
        let position = Position(u64_at(bytes, AT_POSITION));
        Ok(Some(Witness { journal: u64_at(bytes, AT_JOURNAL), position }))
    }
}

/// Reads what the copies say together. One of them may be torn or older, since they are written one after the
/// other. `None`: there are none, as in a directory of before there were witnesses.
///
/// # Errors
/// [`JournalError::Unwitnessed`] when no copy that is there is whole, and [`JournalError::NewerFormat`].
pub fn read(copies: Copies<'_>) -> Result<Option<Witness>, JournalError> {
    let mut newest: Option<Witness> = None;
    for bytes in copies.iter().flatten() {
        if let Some(witness) = Witness::from_bytes(bytes)?
            && newest.is_none_or(|newest| newest.position <= witness.position)
        {
            newest = Some(witness);
        }
    }
    match newest {
        None if copies.iter().any(Option::is_some) => Err(JournalError::Unwitnessed),
        newest => Ok(newest),
    }
}
