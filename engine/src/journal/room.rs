//! How much a unit may hold, and how many segments are kept back.
//!
//! What frees a segment is itself written to the journal: snapshot records, and entries carried out
//! of the oldest segment. So room for it is kept back twice:
//!
//! - **in the unit**: entries fill at most half of it, carried ones all but two last parts. The one is for what a
//!   leader makes by itself: it gets in while clients' entries or carried ones fill theirs in every turn. The other
//!   is for votes, cuts and snapshots;
//! - **in segments**: entries are taken only while [`SEGMENTS_RESERVED`] segments stay unused
//!   behind them. What has to be carried is at most what one segment holds; it needs a part of
//!   those, and gives a whole one back.

use super::record::{RECORD_HEADER_BYTES, checkpoint_bytes};
use super::unit::{PAGE_BYTES, UNIT_HEADER_BYTES};
use crate::entry::ENTRY_HEADER_BYTES;
use crate::limits::{
    ENTRY_PAYLOAD_BYTES_MAX, UNCOMMITTED_BYTES_MAX, UNCOMMITTED_OWN_BYTES_MAX, UNIT_BYTES_MAX,
};

/// The smallest segment, in bytes.
pub const SEGMENT_BYTES_MIN: u64 = 64 << 10;
/// The largest segment, in bytes.
pub const SEGMENT_BYTES_MAX: u64 = 4 << 30;
/// The fewest segments that a journal needs: one to write, one to come, and those kept back.
pub const SEGMENTS_MIN: u32 = 2 + SEGMENTS_RESERVED;
/// Segments that no entries go to, so that what frees a segment always finds a place.
pub const SEGMENTS_RESERVED: u32 = 2;
/// The part of a unit that is kept for votes, cuts and snapshots, at most, in bytes.
const URGENT_BYTES_MAX: usize = 256 << 10;

/// The part of a unit that is kept for a leader's own entries, at most, in bytes: those of all groups.
const OWN_BYTES_MAX: usize = UNCOMMITTED_OWN_BYTES_MAX;

const _: () = assert!(UNIT_BYTES_MAX.is_multiple_of(PAGE_BYTES));
// Any entry fits a unit of the usual size, and so does what one group may have to carry.
const _: () =
    assert!(ENTRY_HEADER_BYTES + ENTRY_PAYLOAD_BYTES_MAX < UNIT_BYTES_MAX / 2 - (1 << 20));
const _: () = assert!(
    UNCOMMITTED_BYTES_MAX + 2 * OWN_BYTES_MAX + (1 << 20) + URGENT_BYTES_MAX < UNIT_BYTES_MAX
);

/// How far a pending unit may grow, header included, by what it takes in. In bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// With entries.
    pub entries: usize,
    /// With entries that are carried.
    pub carry: usize,
    /// With entries that a leader makes by itself.
    pub own: usize,
    /// With anything.
    pub all: usize,
}

impl Room {
    pub fn new(segment_bytes: u64, groups: usize) -> Room {
        assert!(segment_bytes.is_multiple_of(PAGE_BYTES as u64), "a segment is whole pages");
        assert!(segment_bytes >= SEGMENT_BYTES_MIN, "a segment holds a few units");
        assert!(segment_bytes <= SEGMENT_BYTES_MAX, "a segment is at most 4 GiB");
        let segment = usize::try_from(segment_bytes).expect("a segment can be mapped");
        // A checkpoint before the records and a record that frees a segment behind them.
        let overhead = checkpoint_bytes(groups) + RECORD_HEADER_BYTES;
        assert!(overhead <= segment / 4, "a segment is much larger than its checkpoint");
        let all = UNIT_BYTES_MAX.min(segment) - overhead;
        let urgent = URGENT_BYTES_MAX.min(all / 8);
        let own = all - urgent;
        let carry = own - OWN_BYTES_MAX.min(all / 16);
        let room = Room { entries: all / 2, carry, own, all };
        assert!(UNIT_HEADER_BYTES < room.entries, "a unit holds more than its header");
        assert!(room.entries < room.carry, "what frees a segment goes before what fills it");
        room
    }
}
