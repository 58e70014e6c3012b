//! How fast this disk makes appends durable, by the journal's own writer: a floor to measure against.
//!
//! One appender is one thread with a ring and a journal's segment; it writes the same number of bytes
//! again and again, each write on fresh pages, one under way at a time, as an engine does.

use super::ring::{Park, Ring, RingError, SMALL_SIZES};
use super::wal::{PAGE_BYTES, Wal, Writer, segments};
use crate::ids::Position;
use crate::journal::Write;
use memmap2::MmapMut;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};
use wire::bytes::put_u64_at;

/// The segment that is written over and over, in bytes.
const SEGMENT_BYTES: u64 = 16 << 20;
/// How long one append may take.
const APPEND_MAX: Duration = Duration::from_secs(10);

/// Appends `bytes` bytes (rounded up to whole pages) for as long as `length`, and gives how long each
/// append took. The segment is made in `dir` and left there.
///
/// # Errors
/// When the disk or the ring fails, or `bytes` is more than a segment.
pub fn measure(
    dir: &Path,
    writer: Writer,
    bytes: usize,
    length: Duration,
) -> io::Result<Vec<Duration>> {
    let bytes = bytes.max(1).next_multiple_of(PAGE_BYTES);
    if bytes as u64 > SEGMENT_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "an append is over its segment"));
    }
    segments::ensure(dir, SEGMENT_BYTES, writer)?;
    let mut wal = Wal::open(dir, writer, SEGMENT_BYTES)?;
    let mut ring = Ring::new(SMALL_SIZES).map_err(|error: RingError| io::Error::other(error))?;
    let mut page = MmapMut::map_anon(bytes)?;
    let mut taken = Vec::with_capacity(1 << 16);
    let (mut offset, mut number) = (0, 0u64);
    let begun = Instant::now();
    while begun.elapsed() < length {
        number += 1;
        put_u64_at(&mut page, 0, number);
        if offset + bytes as u64 > SEGMENT_BYTES {
            offset = 0;
        }
        let position = Position(number);
        let write = Write { slot: 0, offset, length: bytes, position, witness: None };
        let since = Instant::now();
        append(&mut wal, &mut ring, &write, &page)?;
        taken.push(since.elapsed());
        offset += bytes as u64;
    }
    Ok(taken)
}

fn append(wal: &mut Wal, ring: &mut Ring, write: &Write, page: &MmapMut) -> io::Result<()> {
    // SAFETY: `page` is not touched before the completion below; when that never comes, `cancel_all`
    // has waited before the error leaves.
    unsafe { wal.start(ring, write, page, 1) }.map_err(io::Error::other)?;
    let since = Instant::now();
    let mut completions = Vec::with_capacity(1);
    while completions.is_empty() {
        if since.elapsed() > APPEND_MAX {
            ring.cancel_all(APPEND_MAX);
            return Err(io::Error::other("an append took more than ten seconds"));
        }
        ring.wait(Park::Block, 0, APPEND_MAX)?;
        ring.drain(&mut completions);
    }
    wal.on_completion(ring, completions[0].result).map_err(io::Error::other)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_append_takes_some_time() {
        let dir = crate::edge::testing::TempDir::new();
        let length = Duration::from_millis(30);
        let taken = measure(dir.path(), Writer::Mapped, 100, length).unwrap();
        assert!(!taken.is_empty());
        assert!(taken.iter().all(|took| *took > Duration::ZERO));
    }
}
