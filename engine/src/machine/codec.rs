//! How the rows of a snapshot are written and read: integers little-endian, bytes behind their length.

use super::restore::Corrupt;
use super::walk::Owed;
use crate::ids::SessionId;
use crate::time::Elapsed;
use alloc::vec::Vec;

/// Size of what says how long a row is.
pub(super) const LENGTH_BYTES: usize = 4;

/// Leaves room for a row's length, and says where its content begins.
pub(super) fn begin_row(out: &mut Vec<u8>) -> usize {
    put_u32(out, 0);
    out.len()
}

/// Says how long the row is that begins at `at`.
pub(super) fn end_row(out: &mut [u8], at: usize) {
    end_row_after(out, at, 0);
}

/// Says how long the row is that begins at `at` and ends so many bytes after what is there.
pub(super) fn end_row_after(out: &mut [u8], at: usize, more: usize) {
    let length = u32::try_from(out.len() + more - at).expect("a row is far below 4 GiB");
    out[at - LENGTH_BYTES..at].copy_from_slice(&length.to_le_bytes());
}

/// A whole row, with its length.
pub(super) fn row(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut row = Vec::new();
    let at = begin_row(&mut row);
    write(&mut row);
    end_row(&mut row, at);
    row
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
        Some(bytes) => out.extend_from_slice(bytes),
        None => write(out),
    }
    end_row(out, at);
}

/// Appends rows, sorted by their bytes.
pub(super) fn put_sorted(out: &mut Vec<u8>, rows: impl Iterator<Item = Vec<u8>>) {
    let mut rows: Vec<Vec<u8>> = rows.collect();
    rows.sort_unstable();
    rows.iter().for_each(|row| out.extend_from_slice(row));
}

pub(super) fn put_u32(out: &mut Vec<u8>, number: u32) {
    out.extend_from_slice(&number.to_le_bytes());
}

pub(super) fn put_u64(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

pub(super) fn put_count(out: &mut Vec<u8>, count: usize) {
    put_u32(out, u32::try_from(count).expect("limits keep rows under 2^32"));
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// What is left of a row that is being read.
pub(super) struct Reader<'a> {
    pub(super) bytes: &'a [u8],
    /// The snapshot's version.
    pub(super) version: u32,
}

impl<'a> Reader<'a> {
    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N], Corrupt> {
        let (first, rest) = self.bytes.split_first_chunk::<N>().ok_or(Corrupt::Malformed)?;
        self.bytes = rest;
        Ok(*first)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Corrupt> {
        self.take::<1>().map(|b| b[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, Corrupt> {
        self.take().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Corrupt> {
        self.take().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Corrupt> {
        self.take().map(u64::from_le_bytes)
    }

    pub(super) fn time(&mut self) -> Result<Elapsed, Corrupt> {
        self.u64().map(Elapsed)
    }

    pub(super) fn session(&mut self) -> Result<SessionId, Corrupt> {
        self.take().map(SessionId)
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Corrupt> {
        let length = self.u32()? as usize;
        let (first, rest) = self.bytes.split_at_checked(length).ok_or(Corrupt::Malformed)?;
        self.bytes = rest;
        Ok(first)
    }
}
