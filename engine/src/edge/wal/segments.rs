//! Segment files: where they are, how they are made, how recovery reads them.

use super::{PAGE_BYTES, SLOTS_MAX, Writer};
use memmap2::{Advice, Mmap, MmapMut};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Segments that a fresh directory has.
pub const SEGMENTS_MIN: u32 = 2;
/// How long a gentle maker rests after each [`ZERO_BYTES`].
const GENTLE_REST: Duration = Duration::from_millis(4);
/// How much is zeroed by one direct write, in bytes.
const ZERO_BYTES: usize = 1 << 20;
/// How much the kernel is asked to read ahead at a time, in bytes: more it may ignore.
const AHEAD_BYTES: u64 = 128 << 10;
/// What a read fails with where the disk, or a checksum of the file system, says that the bytes are lost.
const LOST: [i32; 5] = [libc::EIO, libc::ENODATA, libc::EILSEQ, libc::EBADMSG, libc::EUCLEAN];

/// Why a segment can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The disk can't.
    #[error("the disk can't read it at byte {offset}")]
    Lost {
        /// Where in the segment, in bytes: near it.
        offset: u64,
    },
    /// Anything else that the system says.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<ReadError> for io::Error {
    fn from(error: ReadError) -> io::Error {
        match error {
            ReadError::Io(error) => error,
            lost @ ReadError::Lost { .. } => io::Error::other(lost),
        }
    }
}

/// Whether an error says that what was written is lost, and not that it can't be had just now.
pub fn is_lost(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|error| LOST.contains(&error))
}

/// The directory of an engine inside the node's data directory.
pub fn engine_dir(data_dir: &Path, engine: u32) -> PathBuf {
    data_dir.join(format!("engine-{engine:02}"))
}

/// The file of a segment inside its engine's directory.
pub fn path(engine_dir: &Path, slot: u32) -> PathBuf {
    assert!(slot < SLOTS_MAX, "a slot has four digits");
    engine_dir.join("wal").join(format!("{slot:04}.seg"))
}

/// Every segment of an engine: slot and file, by slot.
///
/// # Errors
/// When the directory can't be read.
pub fn list(engine_dir: &Path) -> io::Result<Vec<(u32, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(engine_dir.join("wal"))? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "seg") {
            continue;
        }
        if let Some(slot) = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok()) {
            found.push((slot, path));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Makes an engine's directory and its first segments, unless they are there.
///
/// # Errors
/// When the disk is full or broken.
pub fn ensure(engine_dir: &Path, segment_bytes: u64, writer: Writer) -> io::Result<()> {
    fs::create_dir_all(engine_dir.join("wal"))?;
    if let Some(above) = engine_dir.parent() {
        File::open(above)?.sync_all()?;
    }
    File::open(engine_dir)?.sync_all()?;
    let there: Vec<u32> = list(engine_dir)?.into_iter().map(|(slot, _)| slot).collect();
    let missing = (SEGMENTS_MIN as usize).saturating_sub(there.len());
    let free = (0..SLOTS_MAX).filter(|slot| !there.contains(slot));
    for slot in free.take(missing) {
        prepare(&path(engine_dir, slot), segment_bytes, writer, Pace::AtOnce)?;
    }
    Ok(())
}

/// How fast a segment is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pace {
    /// As fast as the disk can: somebody waits.
    AtOnce,
    /// With a rest after each [`ZERO_BYTES`], so that the journals' writes come through: the segment is
    /// wanted ahead of its time.
    Gently,
}

impl Pace {
    fn rest(self) {
        if self == Pace::Gently {
            std::thread::sleep(GENTLE_REST);
        }
    }
}

/// Makes a segment of zeros at `path`, or makes the one that is there anew. It has its name only once all
/// of it is on the disk; a crash before leaves none.
///
/// # Errors
/// When the disk is full or broken. What is left is no segment.
pub fn prepare(path: &Path, bytes: u64, writer: Writer, pace: Pace) -> io::Result<()> {
    assert!(bytes > 0, "a segment has pages");
    assert_eq!(bytes % PAGE_BYTES as u64, 0, "a segment is whole pages");
    let made = path.with_extension("tmp");
    let dir = path.parent().expect("a segment's path has a directory");
    match fs::rename(path, &made) {
        // The old segment must be gone on the disk before its first page is overwritten.
        Ok(()) => File::open(dir)?.sync_all()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(&made)?;
    allocate(&file, bytes)?;
    let direct = match writer {
        Writer::Direct => zero_direct(&made, bytes, pace)?,
        Writer::Mapped => Zeroed::No,
    };
    if direct == Zeroed::No {
        zero_buffered(&file, bytes, pace)?;
    }
    file.sync_all()?;
    fs::rename(&made, path)?;
    File::open(dir)?.sync_all()
}

/// Maps a segment for recovery to read, once all of it was read the other way: what the disk can't read is an
/// error there, but a signal that ends the process, at each start, where it is met through the map.
///
/// # Errors
/// When it can't be opened, read or mapped, or has another size than it should.
pub fn map(path: &Path, bytes: u64, writer: Writer) -> Result<Mmap, ReadError> {
    let file = File::open(path)?;
    check_size(path, &file, bytes)?;
    // Recovery takes what it reads for durable. After a kill some of it may only be in the page
    // cache: it must be on the disk before anybody votes or acknowledges by it.
    file.sync_data()?;
    if writer == Writer::Mapped {
        // What is cached may be large folios. Read it again by requests that make 4 KiB ones.
        forget(&file);
        for at in (0..bytes).step_by(AHEAD_BYTES as usize) {
            advise(&file, at, AHEAD_BYTES, libc::POSIX_FADV_WILLNEED);
        }
        // What was not read ahead comes in small folios, too.
        advise(&file, 0, 0, libc::POSIX_FADV_RANDOM);
    }
    read_through(&file, bytes)?;
    // SAFETY: the file belongs to this process alone (the data directory is locked), and nothing writes
    // to it while recovery reads.
    let map = unsafe { Mmap::map(&file)? };
    map.advise(if writer == Writer::Mapped { Advice::Random } else { Advice::Sequential })?;
    Ok(map)
}

/// Reads all of a file into the page cache.
pub(super) fn read_through(file: &File, bytes: u64) -> Result<(), ReadError> {
    let mut piece = vec![0; AHEAD_BYTES as usize];
    for offset in (0..bytes).step_by(AHEAD_BYTES as usize) {
        let length = usize::try_from(bytes - offset).unwrap_or(usize::MAX).min(piece.len());
        match file.read_exact_at(&mut piece[..length], offset) {
            Err(error) if is_lost(&error) => return Err(ReadError::Lost { offset }),
            read => read?,
        }
    }
    Ok(())
}

/// Refuses a segment of another size.
pub(super) fn check_size(path: &Path, file: &File, bytes: u64) -> io::Result<()> {
    let got = file.metadata()?.len();
    if got == bytes {
        return Ok(());
    }
    let path = path.display();
    Err(io::Error::other(format!(
        "{path} has {got} bytes, but this data directory's segments have {bytes}"
    )))
}

/// Drops what the page cache holds of a segment.
pub(super) fn forget(file: &File) {
    advise(file, 0, 0, libc::POSIX_FADV_DONTNEED);
}

#[derive(PartialEq, Eq)]
enum Zeroed {
    Yes,
    No,
}

/// Fills with zeros around the page cache, where the file system can.
fn zero_direct(path: &Path, bytes: u64, pace: Pace) -> io::Result<Zeroed> {
    let file = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(path);
    let file = match file {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(Zeroed::No),
        other => other?,
    };
    // A mapping begins on a page, as direct writes want.
    let zeros = MmapMut::map_anon(ZERO_BYTES)?;
    for at in (0..bytes).step_by(ZERO_BYTES) {
        let length = usize::try_from(bytes - at).unwrap_or(usize::MAX).min(ZERO_BYTES);
        match file.write_all_at(&zeros[..length], at) {
            Err(error) if at == 0 && error.raw_os_error() == Some(libc::EINVAL) => {
                return Ok(Zeroed::No);
            }
            other => other?,
        }
        pace.rest();
    }
    Ok(Zeroed::Yes)
}

/// Fills with zeros through the page cache, in small folios, and leaves them there for the map.
fn zero_buffered(file: &File, bytes: u64, pace: Pace) -> io::Result<()> {
    forget(file);
    advise(file, 0, 0, libc::POSIX_FADV_RANDOM);
    for at in (0..bytes).step_by(PAGE_BYTES) {
        file.write_all_at(&[0; PAGE_BYTES], at)?;
        if (at + PAGE_BYTES as u64).is_multiple_of(ZERO_BYTES as u64) {
            pace.rest();
        }
    }
    Ok(())
}

/// Gives a file exactly `bytes` of room.
fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    let length = i64::try_from(bytes).expect("a segment is small");
    // SAFETY: takes no pointers; the descriptor is open.
    if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, length) } != 0 {
        let error = io::Error::last_os_error();
        // Without it the zeros themselves allocate.
        if error.raw_os_error() != Some(libc::EOPNOTSUPP) {
            return Err(error);
        }
    }
    file.set_len(bytes)
}

/// Tells the kernel how a file will be used. It is free to ignore it, and so are we.
fn advise(file: &File, at: u64, length: u64, advice: i32) {
    let at = i64::try_from(at).expect("a segment is small");
    let length = i64::try_from(length).expect("a segment is small");
    // SAFETY: takes no pointers; the descriptor is open.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), at, length, advice) };
}
