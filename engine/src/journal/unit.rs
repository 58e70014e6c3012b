//! A sync unit: what one write carries and one sync makes durable.
//!
//! A unit begins on a page of its own and takes whole pages, zeros to the end of the last:
//!
//! ```text
//!  at  size  field
//!   0     4  checksum       CRC-32C of all that follows this field, up to the end of the last page
//!   4     4  magic          "TCWU"
//!   8     4  version        1
//!  12     4  length         of header and records, in bytes
//!  16     8  journal        random, the same in every unit of a journal
//!  24     8  seed           random, another one at each use of a segment
//!  32     8  segment        the segment's number, from 1
//!  40     8  number         the unit's number; it only grows, with gaps
//!  48     8  durable_below  every unit below was known to be synced when this one was written
//!  56     4  page           where in the segment the unit begins, in pages
//!  60     4  records        how many
//!  64        records, one after the other, see [`super::record`]
//! ```
//!
//! The first 16 bytes keep their place and meaning in every version, so that a unit of a newer
//! version is told from a damaged one.

use super::record::{self, RecordHeader};
use crate::ids::Position;
use wire::bytes::{put_u32_at, put_u64_at, u32_at, u64_at};

/// The page that a write consists of, in bytes.
pub const PAGE_BYTES: usize = 4096;
/// The version of the journal's format.
pub const VERSION: u32 = 2;
/// Size of a unit's header, in bytes.
pub const UNIT_HEADER_BYTES: usize = 64;

const MAGIC: u32 = u32::from_le_bytes(*b"TCWU");

/// No index, segment or unit of a journal that was written by counting comes near this number: what is
/// beyond is no number of ours, whatever its checksum, and numbers can be added without overflow.
pub(super) const COUNTED_MAX: u64 = 1 << 62;

const AT_CHECKSUM: usize = 0;
const AT_MAGIC: usize = AT_CHECKSUM + 4;
const AT_VERSION: usize = AT_MAGIC + 4;
const AT_LENGTH: usize = AT_VERSION + 4;
const AT_JOURNAL: usize = AT_LENGTH + 4;
const AT_SEED: usize = AT_JOURNAL + 8;
const AT_SEGMENT: usize = AT_SEED + 8;
const AT_NUMBER: usize = AT_SEGMENT + 8;
const AT_DURABLE_BELOW: usize = AT_NUMBER + 8;
const AT_PAGE: usize = AT_DURABLE_BELOW + 8;
const AT_RECORDS: usize = AT_PAGE + 4;
const _: () = assert!(AT_RECORDS + 4 == UNIT_HEADER_BYTES);
const _: () = assert!(UNIT_HEADER_BYTES < PAGE_BYTES);

/// What opens a unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnitHeader {
    /// Of header and records, in bytes.
    pub length: u32,
    /// The journal that the unit belongs to.
    pub journal: u64,
    /// The use of the segment that the unit belongs to.
    pub seed: u64,
    /// The segment's number, from 1.
    pub segment: u64,
    /// The unit's number.
    pub number: Position,
    /// Every unit below was known to be synced.
    pub durable_below: Position,
    /// Where in the segment the unit begins, in pages.
    pub page: u32,
    /// How many records the unit holds.
    pub records: u32,
}

/// A unit, read in place, its checksum verified.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unit<'a> {
    /// The header.
    pub header: UnitHeader,
    /// Where in the segment the unit begins, in bytes.
    pub offset: usize,
    /// The records.
    pub body: &'a [u8],
}

impl<'a> Unit<'a> {
    /// The unit's records and their bodies. Ends early at bytes that are no record.
    pub fn records(&self) -> impl Iterator<Item = (RecordHeader, &'a [u8])> + use<'a> {
        let mut rest = self.body;
        core::iter::from_fn(move || {
            let (header, body, behind) = record::split(rest)?;
            rest = behind;
            Some((header, body))
        })
    }

    /// Where in the segment the unit's last page ends, in bytes.
    pub fn end(&self) -> usize {
        self.offset + pages(self.header.length as usize) * PAGE_BYTES
    }
}

/// Why there is no unit at some place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UnitError {
    /// No unit begins here.
    #[error("no unit begins here")]
    Absent,
    /// A unit begins here, but not all of it is there.
    #[error("the unit is torn")]
    Torn,
    /// The unit is whole, but not of this place.
    #[error("the unit belongs to another place")]
    Misplaced,
    /// The unit is whole, but of a newer version.
    #[error("the unit has format version {got}")]
    Newer {
        /// The version that it names.
        got: u32,
    },
}

/// How many pages some bytes take.
pub const fn pages(bytes: usize) -> usize {
    bytes.div_ceil(PAGE_BYTES)
}

/// Fills in the header of a unit that is padded to whole pages, and its checksum.
pub fn seal(unit: &mut [u8], header: &UnitHeader) {
    assert!(unit.len() == pages(header.length as usize) * PAGE_BYTES, "a unit is whole pages");
    assert!(header.length as usize >= UNIT_HEADER_BYTES, "a unit has a header");
    assert!(header.durable_below <= header.number, "what is being written is not synced");
    assert!(header.number.0 <= COUNTED_MAX, "numbers are counted");
    put_u32_at(unit, AT_MAGIC, MAGIC);
    put_u32_at(unit, AT_VERSION, VERSION);
    put_u32_at(unit, AT_LENGTH, header.length);
    put_u64_at(unit, AT_JOURNAL, header.journal);
    put_u64_at(unit, AT_SEED, header.seed);
    put_u64_at(unit, AT_SEGMENT, header.segment);
    put_u64_at(unit, AT_NUMBER, header.number.0);
    put_u64_at(unit, AT_DURABLE_BELOW, header.durable_below.0);
    put_u32_at(unit, AT_PAGE, header.page);
    put_u32_at(unit, AT_RECORDS, header.records);
    let sum = crc32c::crc32c(&unit[AT_MAGIC..]);
    put_u32_at(unit, AT_CHECKSUM, sum);
}

/// What a page claims to open, nothing of it verified but the magic.
pub fn claim(segment: &[u8], offset: usize) -> Option<UnitHeader> {
    let head = segment.get(offset..offset + UNIT_HEADER_BYTES)?;
    (u32_at(head, AT_MAGIC) == MAGIC).then(|| UnitHeader {
        length: u32_at(head, AT_LENGTH),
        journal: u64_at(head, AT_JOURNAL),
        seed: u64_at(head, AT_SEED),
        segment: u64_at(head, AT_SEGMENT),
        number: Position(u64_at(head, AT_NUMBER)),
        durable_below: Position(u64_at(head, AT_DURABLE_BELOW)),
        page: u32_at(head, AT_PAGE),
        records: u32_at(head, AT_RECORDS),
    })
}

/// Reads the unit that begins at `offset` of a segment.
///
/// # Errors
/// [`UnitError`] when no whole unit of this version and place begins there.
pub fn read(segment: &[u8], offset: usize) -> Result<Unit<'_>, UnitError> {
    assert!(offset.is_multiple_of(PAGE_BYTES), "units begin on pages");
    let header = claim(segment, offset).ok_or(UnitError::Absent)?;
    let length = header.length as usize;
    if length < UNIT_HEADER_BYTES {
        return Err(UnitError::Torn);
    }
    let end = offset + pages(length) * PAGE_BYTES;
    let bytes = segment.get(offset..end).ok_or(UnitError::Torn)?;
    if crc32c::crc32c(&bytes[AT_MAGIC..]) != u32_at(bytes, AT_CHECKSUM) {
        return Err(UnitError::Torn);
    }
    let version = u32_at(bytes, AT_VERSION);
    if version != VERSION {
        return Err(UnitError::Newer { got: version });
    }
    let counted = [header.segment, header.number.0, header.durable_below.0];
    if header.page as usize != offset / PAGE_BYTES || counted.iter().any(|it| *it > COUNTED_MAX) {
        return Err(UnitError::Misplaced);
    }
    Ok(Unit { header, offset, body: &bytes[UNIT_HEADER_BYTES..length] })
}

/// Whether all of a unit is there, of this place or another one, of this version or a newer one.
pub fn is_whole(segment: &[u8], offset: usize) -> bool {
    !matches!(read(segment, offset), Err(UnitError::Absent | UnitError::Torn))
}
