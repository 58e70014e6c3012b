//! Which writer is faster here? A short trial in the data directory itself, when that is made.
//!
//! A direct write is durable because of `RWF_DSYNC`, and a file system that passes over the flag would win any trial.
//! No measurement tells: a disk with a protected cache syncs as fast as others do not sync at all. `fdatasync` is no
//! way out either, since with it after each write the direct writer has nothing left to win. So it is taken only on
//! file systems whose code was read ([`is_known_to_sync`]); on all others the mapped one is, whose `fdatasync` every
//! file system answers for.

use super::{PAGE_BYTES, Wal, Writer, segments};
use crate::edge::ring::{Park, Ring, RingError, SMALL_SIZES};
use crate::ids::Position;
use crate::journal::Write;
use memmap2::MmapMut;
use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};
use tracing::warn;

/// Rounds of each writer, at most. An odd number has a middle.
const ROUNDS: u32 = 9;
/// Syncs in a round.
const SYNCS: u32 = 16;
/// How long the rounds may take together; one of each writer is made in any case.
const TRIAL_MAX: Duration = Duration::from_millis(1200);
/// The trial's segment, in bytes.
const SEGMENT_BYTES: u64 = 1 << 20;
/// How long one sync may take before the trial gives up on a writer.
const SYNC_MAX: Duration = Duration::from_secs(5);
/// File systems of Linux itself whose direct writes with `RWF_DSYNC` end in `generic_write_sync`, hence in their
/// `fsync`: ext4, XFS and F2FS by `iomap_dio_complete` or on their own, Btrfs in `btrfs_do_write_iter`. By the
/// number that `statfs` gives.
const KNOWN_TO_SYNC: [u64; 4] = [0xef53, 0x5846_5342, 0xf2f5_2010, 0x9123_683e];

const _: () = assert!((ROUNDS as u64) * (SYNCS as u64) * (PAGE_BYTES as u64) <= SEGMENT_BYTES);

/// What a trial found.
#[derive(Debug)]
pub struct Report {
    /// The writer that is taken.
    pub writer: Writer,
    /// A typical sync by the mapped writer.
    pub mapped: Result<Duration, String>,
    /// A typical sync by the direct writer.
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

/// Tries both writers in `dir`, in turn, and takes the faster one. Removes what it made.
///
/// # Errors
/// When not even the mapped writer works: the disk is full or broken, or there is no io_uring.
pub fn trial(dir: &Path) -> io::Result<(Writer, Report)> {
    let place = dir.join("trial");
    let known = is_known_to_sync(dir)?;
    let [mapped, direct] = measure(&place, known);
    match fs::remove_dir_all(&place) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let writer = match (&mapped, &direct) {
        (Ok(mapped), Ok(direct)) => choose(*mapped, *direct),
        (_, Ok(_)) => Writer::Direct,
        (Ok(_), Err(_)) => Writer::Mapped,
        (Err(error), Err(_)) => return Err(io::Error::other(error.to_string())),
    };
    let [mapped, direct] = [mapped, direct].map(|result| result.map_err(|error| error.to_string()));
    Ok((writer, Report { writer, mapped, direct }))
}

/// Whether a write with `RWF_DSYNC` in a directory is known to be durable when it returns.
///
/// # Errors
/// What the system says.
pub fn is_known_to_sync(dir: &Path) -> io::Result<bool> {
    // Of another width on each architecture, and never negative.
    let kind = rustix::fs::statfs(dir)?.f_type;
    Ok(u64::try_from(kind).is_ok_and(syncs))
}

fn syncs(kind: u64) -> bool {
    KNOWN_TO_SYNC.contains(&kind)
}

/// The writer for a directory that was made with `kept`, for the reason `why`: an older build may have let a trial
/// decide where the direct one is not known to sync.
pub fn still(dir: &Path, kept: Writer, configured: bool) -> Writer {
    if kept == Writer::Mapped || is_known_to_sync(dir).unwrap_or(false) {
        return kept;
    }
    if configured {
        warn!(
            "the journal is written by `--wal direct` on a file system that is not known to sync such writes: after a power failure acknowledged writes may be lost"
        );
        return kept;
    }
    warn!(
        "the journal is written mapped from now on: this file system is not known to sync direct writes, which this directory was made for"
    );
    Writer::Mapped
}

/// The choice is for ever, so a narrow one is not left to chance: the direct writer, which at depth wins
/// by more than one sync at a time shows, unless the mapped one is clearly faster.
fn choose(mapped: Duration, direct: Duration) -> Writer {
    let clearly = direct.as_nanos() * 10 > mapped.as_nanos() * 11;
    if clearly { Writer::Mapped } else { Writer::Direct }
}

/// The typical sync of the mapped and of the direct writer: the median of its rounds' medians. The rounds
/// alternate, so that what else the disk does meets both, and a disturbed round is outvoted.
fn measure(place: &Path, direct_may_be: bool) -> [io::Result<Duration>; 2] {
    let began = Instant::now();
    let mut rounds = [Writer::Mapped, Writer::Direct].map(|writer| {
        if writer == Writer::Direct && !direct_may_be {
            return Err(io::Error::other("this file system is not known to sync such writes"));
        }
        Rounds::open(place, writer)
    });
    for round in 1..=ROUNDS {
        for rounds in &mut rounds {
            if let Ok(open) = rounds
                && let Err(error) = open.run()
            {
                *rounds = Err(error);
            }
        }
        // As much again as the mean round took must still fit.
        if began.elapsed() * (round + 1) / round > TRIAL_MAX {
            break;
        }
    }
    rounds.map(|rounds| rounds.map(|rounds| median(rounds.medians)))
}

fn median(mut taken: Vec<Duration>) -> Duration {
    taken.sort_unstable();
    taken[taken.len() / 2]
}

/// One writer's part of the trial.
struct Rounds {
    wal: Wal,
    ring: Ring,
    page: MmapMut,
    /// Writes so far.
    number: u32,
    medians: Vec<Duration>,
}

impl Rounds {
    fn open(place: &Path, writer: Writer) -> io::Result<Rounds> {
        let dir = place.join(writer.name());
        segments::ensure(&dir, SEGMENT_BYTES, writer)?;
        let wal = Wal::open(&dir, writer, SEGMENT_BYTES)?;
        let ring = Ring::new(SMALL_SIZES).map_err(|error: RingError| io::Error::other(error))?;
        let page = MmapMut::map_anon(PAGE_BYTES)?;
        Ok(Rounds { wal, ring, page, number: 0, medians: Vec::new() })
    }

    fn run(&mut self) -> io::Result<()> {
        let mut taken = Vec::with_capacity(SYNCS as usize);
        for _ in 0..SYNCS {
            self.page.fill(u8::try_from(self.number % 255 + 1).expect("the remainder is small"));
            let since = Instant::now();
            append(&mut self.wal, &mut self.ring, &self.page, self.number)?;
            taken.push(since.elapsed());
            self.number += 1;
        }
        self.medians.push(median(taken));
        Ok(())
    }
}

fn append(wal: &mut Wal, ring: &mut Ring, page: &MmapMut, number: u32) -> io::Result<()> {
    let write = Write {
        slot: 0,
        offset: u64::from(number) * PAGE_BYTES as u64,
        length: PAGE_BYTES,
        position: Position(u64::from(number) + 1),
        witness: None,
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
    let durable = wal.on_completion(ring, completions[0].result).map_err(io::Error::other)?;
    assert_eq!(durable, Some(write.position), "one write is under way at a time");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_direct_writer_is_taken_unless_it_is_more_than_a_tenth_slower() {
        let us = Duration::from_micros;
        assert_eq!(choose(us(100), us(50)), Writer::Direct);
        assert_eq!(choose(us(100), us(110)), Writer::Direct);
        assert_eq!(choose(us(100), us(111)), Writer::Mapped);
    }

    #[test]
    fn only_file_systems_that_are_known_to_sync_are_written_to_directly() {
        assert!([0xef53, 0x5846_5342, 0xf2f5_2010, 0x9123_683e].into_iter().all(syncs));
        // FUSE, NFS, tmpfs, 9p, overlayfs, SMB, CephFS.
        let others =
            [0x6573_5546, 0x6969, 0x0102_1994, 0x0102_1997, 0x794c_7630, 0xff53_4d42, 0x00c3_6400];
        assert!(!others.into_iter().any(syncs));
    }

    #[test]
    fn a_directory_that_a_trial_made_direct_elsewhere_is_written_mapped() {
        let shm = Path::new("/dev/shm");
        if !shm.is_dir() {
            return;
        }
        assert!(!is_known_to_sync(shm).unwrap());
        assert_eq!(still(shm, Writer::Direct, false), Writer::Mapped);
        assert_eq!(still(shm, Writer::Direct, true), Writer::Direct, "who insists has it");
        assert_eq!(still(shm, Writer::Mapped, false), Writer::Mapped);
    }

    #[test]
    fn disturbed_rounds_are_outvoted() {
        let us = Duration::from_micros;
        assert_eq!(median([90, 100, 5000, 95, 8000, 7000, 91, 92, 93].map(us).to_vec()), us(95));
    }
}
