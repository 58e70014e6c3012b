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
    let [mapped, direct] = measure(&place);
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

/// The choice is for ever, so a narrow one is not left to chance: the direct writer, which at depth wins
/// by more than one sync at a time shows, unless the mapped one is clearly faster.
fn choose(mapped: Duration, direct: Duration) -> Writer {
    let clearly = direct.as_nanos() * 10 > mapped.as_nanos() * 11;
    if clearly { Writer::Mapped } else { Writer::Direct }
}

/// The typical sync of the mapped and of the direct writer: the median of its rounds' medians. The rounds
/// alternate, so that what else the disk does meets both, and a disturbed round is outvoted.
fn measure(place: &Path) -> [io::Result<Duration>; 2] {
    let began = Instant::now();
    let mut rounds = [Writer::Mapped, Writer::Direct].map(|writer| Rounds::open(place, writer));
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
    fn disturbed_rounds_are_outvoted() {
        let us = Duration::from_micros;
        assert_eq!(median([90, 100, 5000, 95, 8000, 7000, 91, 92, 93].map(us).to_vec()), us(95));
    }
}
