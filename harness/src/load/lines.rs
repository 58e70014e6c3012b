//! Keys, and values that say what they are.
//!
//! ```text
//!  at        size  field
//!   0           8  what   the key's index, or the message's number
//!   8           8  stamp  of this write alone, or of this run's messages
//!  16           .  filling
//!  length-8     8  stamp  again, when the value has 24 bytes or more
//! ```

use super::keys::Keys;
use super::slot::MARKS_BYTES;

/// Where the second stamp begins to fit.
const TWICE_BYTES: usize = MARKS_BYTES + 8;

/// The keys, and one payload that is stamped anew for each write.
#[derive(Clone, Debug)]
pub struct Lines {
    /// The keys.
    pub keys: Keys,
    /// Drawn once a run: its messages carry it, its stamps begin with it.
    pub run: u64,
    payload: Vec<u8>,
    stamps: u64,
}

impl Lines {
    /// `payload_bytes` is at least [`MARKS_BYTES`].
    pub fn new(keys: Keys, run: u64, payload_bytes: usize) -> Lines {
        assert!(payload_bytes >= MARKS_BYTES, "a value has room for its marks");
        let payload = (0..payload_bytes).map(|at| (at % 251) as u8).collect();
        Lines { keys, run, payload, stamps: run }
    }

    /// A stamp that no other write has.
    pub fn new_stamp(&mut self) -> u64 {
        self.stamps = self.stamps.wrapping_add(1);
        self.stamps
    }

    /// Marks the payload.
    pub fn stamp(&mut self, what: u64, stamp: u64) {
        self.payload[..8].copy_from_slice(&what.to_le_bytes());
        self.payload[8..16].copy_from_slice(&stamp.to_le_bytes());
        if let Some(at) = self.payload.len().checked_sub(8).filter(|at| at + 8 >= TWICE_BYTES) {
            self.payload[at..].copy_from_slice(&stamp.to_le_bytes());
        }
    }

    /// Marks the payload and gives it.
    pub fn stamped(&mut self, what: u64, stamp: u64) -> &[u8] {
        self.stamp(what, stamp);
        &self.payload
    }

    /// The payload, as it was marked last.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// What a value says that it is, and its stamp; `None` when it is not whole.
    pub fn marks(&self, value: &[u8]) -> Option<(u64, u64)> {
        let what = u64::from_le_bytes(value.get(..8)?.try_into().ok()?);
        let stamp = u64::from_le_bytes(value.get(8..16)?.try_into().ok()?);
        if value.len() != self.payload.len() {
            return None;
        }
        let last = value.last_chunk::<8>().map(|last| u64::from_le_bytes(*last));
        let whole = value.len() < TWICE_BYTES || last == Some(stamp);
        whole.then_some((what, stamp))
    }
}

#[cfg(test)]
mod tests {
    use super::super::names::Names;
    use super::*;

    #[test]
    fn marks_are_read_back_and_a_torn_value_is_noticed() {
        for bytes in [16, 17, 23, 24, 128] {
            let mut lines = Lines::new(Keys::new(&Names::new(1), 1), 77, bytes);
            let stamp = lines.new_stamp();
            let mut value = lines.stamped(5, stamp).to_vec();
            assert_eq!(lines.marks(&value), Some((5, stamp)), "{bytes} bytes");
            assert_eq!(lines.marks(&value[..bytes - 1]), None);
            if bytes >= TWICE_BYTES {
                value[8] ^= 1;
                assert_eq!(lines.marks(&value), None);
            }
        }
    }
}
