//! Which writer is faster here? A short trial in the data directory itself, when that is made.

use super::{PAGE_BYTES, Wal, Writer, segments};
use crate::edge::ring::{Park, Ring, RingError, SMALL_SIZES};
use crate::effects::Write;
use crate::ids::Position;
use memmap2::MmapMut;
use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// Syncs of each writer.
const SYNCS: u32 = 48;
/// The trial's segment, in bytes.
const SEGMENT_BYTES: u64 = 1 << 20;
/// How long one sync may take before the trial gives up on a writer.
const SYNC_MAX: Duration = Duration::from_secs(5);

const _: () = assert!((SYNCS as u64) * (PAGE_BYTES as u64) <= SEGMENT_BYTES);

/// What a trial found.
#[derive(Debug)]
pub struct Report {
    /// The writer that is taken.
    pub writer: Writer,
    /// The median of a sync by the mapped writer.
    pub mapped: Result<Duration, String>,
    /// The median of a sync by the direct writer.
    pub direct: Result<Duration, String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let say = |result: &Result<Duration, String>| match result {
            Ok(median) => format!("{} us a sync", median.as_micros()),
            Err(error) => format!("not possible here ({error})"),
        };
        write!(f, "journal writer: {} ", self.writer)?;
        write!(f, "(mapped: {}; direct: {})", say(&self.mapped), say(&self.direct))
    }
}

/// Tries both writers in `dir` and takes the faster one. Removes what it made.
///
/// # Errors
/// When not even the mapped writer works: the disk is full or broken, or there is no io_uring.
pub fn trial(dir: &Path) -> io::Result<(Writer, Report)> {
    let place = dir.join("trial");
    let mapped = measure(&place, Writer::Mapped);
    let direct = measure(&place, Writer::Direct);
    match fs::remove_dir_all(&place) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let writer = match (&mapped, &direct) {
        // At depth the direct writer wins by far more than one sync at a time shows.
        (Ok(mapped), Ok(direct)) if *direct > *mapped + *mapped / 5 => Writer::Mapped,
        (_, Ok(_)) => Writer::Direct,
        (Ok(_), Err(_)) => Writer::Mapped,
        (Err(error), Err(_)) => return Err(io::Error::other(error.to_string())),
    };
    let [mapped, direct] = [mapped, direct].map(|result| result.map_err(|error| error.to_string()));
    Ok((writer, Report { writer, mapped, direct }))
}

fn measure(place: &Path, writer: Writer) -> io::Result<Duration> {
    let dir = place.join(writer.name());
    segments::ensure(&dir, SEGMENT_BYTES, writer)?;
    let mut wal = Wal::open(&dir, writer, SEGMENT_BYTES)?;
    let mut ring = Ring::new(SMALL_SIZES).map_err(|error: RingError| io::Error::other(error))?;
    let mut page = MmapMut::map_anon(PAGE_BYTES)?;
    let mut taken = Vec::with_capacity(SYNCS as usize);
    for number in 0..SYNCS {
        page.fill(u8::try_from(number % 255 + 1).expect("the remainder is small"));
        let since = Instant::now();
        append(&mut wal, &mut ring, &page, number)?;
        taken.push(since.elapsed());
    }
    taken.sort_unstable();
    Ok(taken[taken.len() / 2])
}

fn append(wal: &mut Wal, ring: &mut Ring, page: &MmapMut, number: u32) -> io::Result<()> {
    let write = Write {
        slot: 0,
        offset: u64::from(number) * PAGE_BYTES as u64,
        length: PAGE_BYTES,
        position: Position(u64::from(number) + 1),
    };
    // SAFETY: `page` is not touched before the completion below; when that never comes, the whole trial
    // ends with an error and `cancel_all` has waited.
    unsafe { wal.start(ring, &write, page, 1) }.map_err(io::Error::other)?;
    let since = Instant::now();
    let mut completions = Vec::with_capacity(1);
    while completions.is_empty() {
        if since.elapsed() > SYNC_MAX {
            ring.cancel_all(SYNC_MAX);
            return Err(io::Error::other("a sync took more than five seconds"));
        }
        ring.wait(Park::Block, 0, SYNC_MAX)?;
        ring.drain(&mut completions);
    }
    let durable = wal.on_completion(completions[0].result).map_err(io::Error::other)?;
    assert_eq!(durable, write.position, "one write is under way at a time");
    Ok(())
}
