//! How the rows of a snapshot are written and read: integers little-endian, bytes behind their length.

use super::restore::Corrupt;
use super::walk::Owed;
use crate::ids::SessionId;
use crate::time::Elapsed;
use alloc::vec::Vec;
use wire::bytes::{Put, Reader, Short, put_u32_at};

/// Size of what says how long a row is.
pub(super) const LENGTH_BYTES: usize = 4;

/// Leaves room for a row's length, and says where its content begins.
pub(super) fn begin_row(out: &mut Vec<u8>) -> usize {
    out.put_u32(0);
    out.len()
}

/// Says how long the row is that begins at `at`.
pub(super) fn end_row(out: &mut [u8], at: usize) {
    end_row_after(out, at, 0);
}

/// Says how long the row is that begins at `at` and ends so many bytes after what is there.
pub(super) fn end_row_after(out: &mut [u8], at: usize, more: usize) {
    let length = u32::try_from(out.len() + more - at).expect("a row is far below 4 GiB");
    put_u32_at(out, at - LENGTH_BYTES, length);
}

/// The content of a row that is kept before it changes.
#[cold]
pub(super) fn kept(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut bytes);
    bytes
}

/// Writes a row that is owed: as it was kept, or as it still is.
pub(super) fn put_owed(out: &mut Vec<u8>, owed: &Owed, write: impl FnOnce(&mut Vec<u8>)) {
    let at = begin_row(out);
    match &owed.kept {
        Some(bytes) => out.put(bytes),
        None => write(out),
    }
    end_row(out, at);
}

pub(super) fn put_count(out: &mut Vec<u8>, count: usize) {
    out.put_u32(u32::try_from(count).expect("limits keep rows under 2^32"));
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.put(bytes);
}

/// Reads a row: what of it is left.
pub(super) struct RowReader<'a> {
    from: Reader<'a>,
    /// The snapshot's version.
    pub(super) version: u32,
}

impl From<Short> for Corrupt {
    fn from(_: Short) -> Corrupt {
        Corrupt::Malformed
    }
}

impl<'a> RowReader<'a> {
    pub(super) fn new(row: &'a [u8], version: u32) -> RowReader<'a> {
        RowReader { from: Reader::new(row), version }
    }

    /// How many bytes are left.
    pub(super) fn left(&self) -> usize {
        self.from.rest().len()
    }

    pub(super) fn u8(&mut self) -> Result<u8, Corrupt> {
        Ok(self.from.u8()?)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Corrupt> {
        Ok(self.from.u16()?)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Corrupt> {
        Ok(self.from.u32()?)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Corrupt> {
        Ok(self.from.u64()?)
    }

    pub(super) fn time(&mut self) -> Result<Elapsed, Corrupt> {
        self.u64().map(Elapsed)
    }

    pub(super) fn session(&mut self) -> Result<SessionId, Corrupt> {
        Ok(SessionId(self.from.array()?))
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Corrupt> {
        let length = self.u32()? as usize;
        Ok(self.from.take(length)?)
    }
}
