//! Snapshot files: written beside the cores, read back only when an engine opens.
//!
//! ```text
//!  DIR/engine-KK/snapshots/g7-120034.snap      group 7 at index 120034
//!                          g7-120034.snap.new  on its way there; removed at the next start
//!
//!  at  size  field
//!   0     8  magic      "TCTSNAP1"
//!   8     4  checksum   CRC-32C of the header from byte 12 to its end
//!  12     4  version    1
//!  16     4  group
//!  20     4  state sum  CRC-32C of the state
//!  24     8  index      that the snapshot stands for
//!  32     8  term       of the entry at that index
//!  40     8  length     of the state, in bytes
//!  48    16  zero
//!  64        state
//! ```
//!
//! # How it works
//!
//! [`Writing`] takes the state part by part, while the engine makes it, and writes under a temporary name
//! with glommio's direct I/O (the state is not read again before the next start, so it has no business in
//! the page cache). The first page, which has the header, comes last; then the file is synced, gets its
//! name, and the directory is synced. Only then may the engine say in its journal that the snapshot is there, and only after
//! that free the log behind it. [`load`] believes nothing that its checksums do not cover.
//!
//! # Invariants
//!
//! - A file with a final name is whole and was synced.
//! - A snapshot that no journal named (a crash came between) is removed at the next start.

use super::files;
use super::wal::segments::is_lost;
use crate::ids::{GroupId, Index, Term};
use glommio::io::{BufferedFile, Directory, DmaFile, OpenOptions};
use glommio::{LocalExecutorBuilder, Placement};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind, Read, Seek};
use std::path::{Path, PathBuf};
use wire::bytes::{put_u32_at, put_u64_at, u32_at, u64_at};

/// Size of the header, in bytes.
pub const HEADER_BYTES: usize = 64;
const MAGIC: &[u8; 8] = b"TCTSNAP1";
const VERSION: u32 = 1;
const CHECKED_FROM: usize = 12;
/// How much is written at a time, in bytes.
const PIECE_BYTES: usize = 256 << 10;
/// Memory that glommio registers for a single snapshot, in bytes.
const SAVE_MEMORY_BYTES: usize = 1 << 20;
/// What direct I/O counts in, in bytes.
const PAGE_BYTES: usize = 4096;
const SUFFIX: &str = ".snap";
const SUFFIX_NEW: &str = ".snap.new";

const _: () = assert!(8 + 4 + 4 + 4 + 4 + 8 + 8 + 8 + 16 == HEADER_BYTES);
const _: () = assert!(PIECE_BYTES.is_multiple_of(PAGE_BYTES) && HEADER_BYTES < PAGE_BYTES);

/// What is wrong with a snapshot file.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It can't be read.
    #[error("the snapshot {path:?} can't be read: {why}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        why: io::Error,
    },
    /// It is not what was written.
    #[error("the snapshot {path:?} is damaged: {why}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// It is whole, and written by another version.
    #[error("the snapshot {path:?} has format version {got}; this version reads {VERSION}")]
    OtherVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        got: u32,
    },
}

/// Where an engine's snapshots are.
pub fn dir(engine_dir: &Path) -> PathBuf {
    engine_dir.join("snapshots")
}

fn path(engine_dir: &Path, group: GroupId, index: Index) -> PathBuf {
    dir(engine_dir).join(format!("g{group}-{index}{SUFFIX}"))
}

/// Makes an engine's directory of snapshots, unless it is there, and removes what was not finished.
///
/// # Errors
/// What the system says.
pub fn prepare(engine_dir: &Path) -> io::Result<()> {
    let dir = dir(engine_dir);
    fs::create_dir_all(&dir)?;
    for row in fs::read_dir(&dir)? {
        let row = row?;
        if row.file_name().to_string_lossy().ends_with(SUFFIX_NEW) {
            fs::remove_file(row.path())?;
        }
    }
    super::manifest::sync_dir(engine_dir)?;
    super::manifest::sync_dir(&dir)
}

/// Removes the snapshots that no journal names.
///
/// # Errors
/// What the system says.
pub fn keep_only(engine_dir: &Path, named: &BTreeSet<(GroupId, Index)>) -> io::Result<()> {
    for row in fs::read_dir(dir(engine_dir))? {
        let row = row?;
        let name = row.file_name();
        if parse_name(&name.to_string_lossy()).is_some_and(|name| !named.contains(&name)) {
            fs::remove_file(row.path())?;
        }
    }
    Ok(())
}

fn parse_name(name: &str) -> Option<(GroupId, Index)> {
    let (group, index) = name.strip_prefix('g')?.strip_suffix(SUFFIX)?.split_once('-')?;
    Some((GroupId(group.parse().ok()?), Index(index.parse().ok()?)))
}

/// Reads a snapshot's state and hands it out piece by piece: so that whoever makes something of it needs no second
/// copy. False: there is no such file.
///
/// The file is read twice. The first time is for its checksum alone: nothing is made of bytes that are not what was
/// written.
///
/// # Errors
/// [`LoadError`] when it can't be read or is not what was written.
pub fn load(
    engine_dir: &Path,
    group: GroupId,
    index: Index,
    each: &mut dyn FnMut(&[u8]),
) -> Result<bool, LoadError> {
    let path = path(engine_dir, group, index);
    let failed = |why: io::Error| {
        let path = path.clone();
        match is_lost(&why) {
            true => LoadError::Damaged { path, why: "the disk can't read it" },
            false => LoadError::Io { path, why },
        }
    };
    let mut file = match fs::File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
        Err(why) => return Err(failed(why)),
    };
    let mut piece = vec![0; PIECE_BYTES];
    for each in [&mut |_: &[u8]| (), each] as [&mut dyn FnMut(&[u8]); 2] {
        file.rewind().map_err(failed)?;
        match read_through(&mut file, &mut piece, (group, index), each).map_err(failed)? {
            Ok(VERSION) => {}
            Ok(got) => return Err(LoadError::OtherVersion { path, got }),
            Err(why) => return Err(LoadError::Damaged { path, why }),
        }
    }
    Ok(true)
}

/// The version of a snapshot file that is whole; what follows the version is checked, and handed out, only in our own.
fn read_through(
    file: &mut fs::File,
    piece: &mut [u8],
    (group, index): (GroupId, Index),
    each: &mut dyn FnMut(&[u8]),
) -> io::Result<Result<u32, &'static str>> {
    let mut head = [0; HEADER_BYTES];
    if fill(file, &mut head)? < HEADER_BYTES {
        return Ok(Err("it is shorter than a header"));
    }
    if head[..8] != *MAGIC {
        return Ok(Err("it does not begin with \"TCTSNAP1\""));
    }
    if u32_at(&head, 8) != crc32c::crc32c(&head[CHECKED_FROM..]) {
        return Ok(Err("the header's checksum does not match"));
    }
    if u32_at(&head, 12) != VERSION {
        return Ok(Ok(u32_at(&head, 12)));
    }
    if u32_at(&head, 16) != group.0 || u64_at(&head, 24) != index.0 {
        return Ok(Err("it is a snapshot of something else"));
    }
    if file.metadata()?.len() - HEADER_BYTES as u64 != u64_at(&head, 40) {
        return Ok(Err("its length is not what the header says"));
    }
    let (mut sum, mut length) = (0, 0);
    loop {
        let read = fill(file, piece)?;
        if read == 0 {
            break;
        }
        sum = crc32c::crc32c_append(sum, &piece[..read]);
        length += read as u64;
        each(&piece[..read]);
    }
    if length != u64_at(&head, 40) || sum != u32_at(&head, 20) {
        return Ok(Err("the state's checksum does not match"));
    }
    Ok(Ok(VERSION))
}

/// Reads until the buffer is full or the file is at its end. Says how many bytes.
fn fill(file: &mut fs::File, into: &mut [u8]) -> io::Result<usize> {
    let mut at = 0;
    while at < into.len() {
        match file.read(&mut into[at..]) {
            Ok(0) => break,
            Ok(read) => at += read,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(at)
}

/// A snapshot that is being written. Runs on a glommio executor.
pub struct Writing {
    file: File,
    new: PathBuf,
    last: PathBuf,
    dir: PathBuf,
    /// What the header says, but for sum and length.
    group: GroupId,
    index: Index,
    term: Term,
    sum: u32,
    length: u64,
    /// The first page: it waits for the header.
    first: Vec<u8>,
    /// What does not fill a piece yet.
    rest: Vec<u8>,
    /// Where the rest goes.
    at: u64,
}

/// Dropped without having been finished, it leaves its descriptor to glommio to close.
enum File {
    Direct(DmaFile),
    Buffered(BufferedFile),
}

impl Writing {
    /// Makes the file, under a temporary name.
    ///
    /// # Errors
    /// What the system says.
    pub async fn begin(
        engine_dir: &Path,
        group: GroupId,
        index: Index,
        term: Term,
    ) -> io::Result<Writing> {
        let last = path(engine_dir, group, index);
        let new = last.with_extension("snap.new");
        let mut options = OpenOptions::new();
        // The right to read is for glommio, which tries the file system out with a read.
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        let file = match options.dma_open(&new).await {
            Ok(file) => File::Direct(file),
            Err(e) if no_direct_io(&e) => File::Buffered(options.buffered_open(&new).await?),
            Err(e) => return Err(e.into()),
        };
        let (first, rest) = (vec![0; HEADER_BYTES], Vec::with_capacity(PIECE_BYTES));
        let (at, dir) = (PAGE_BYTES as u64, dir(engine_dir));
        Ok(Writing { file, new, last, dir, group, index, term, sum: 0, length: 0, first, rest, at })
    }

    /// Writes the next part of the state, or keeps it until there is enough.
    ///
    /// # Errors
    /// What the system says.
    pub async fn add(&mut self, part: &[u8]) -> io::Result<()> {
        self.sum = crc32c::crc32c_append(self.sum, part);
        self.length += part.len() as u64;
        let (first, mut part) = part.split_at(part.len().min(PAGE_BYTES - self.first.len()));
        self.first.extend_from_slice(first);
        while !part.is_empty() {
            let (now, later) = part.split_at(part.len().min(PIECE_BYTES - self.rest.len()));
            self.rest.extend_from_slice(now);
            part = later;
            if self.rest.len() == PIECE_BYTES {
                self.file.write(&self.rest, self.at).await?;
                self.at += PIECE_BYTES as u64;
                self.rest.clear();
            }
        }
        Ok(())
    }

    /// Writes what is left, and the header; it is on the disk under its name once this returns.
    ///
    /// # Errors
    /// What the system says. What was written so far has a temporary name.
    pub async fn finish(mut self) -> io::Result<()> {
        if !self.rest.is_empty() {
            self.file.write(&self.rest, self.at).await?;
        }
        let head = self.header();
        self.first[..HEADER_BYTES].copy_from_slice(&head);
        self.file.write(&self.first, 0).await?;
        self.file.finish(HEADER_BYTES as u64 + self.length).await?;
        glommio::io::rename(&self.new, &self.last).await?;
        let open = || async { Ok(Directory::open(&self.dir).await?) };
        let dir = patiently("a snapshot's directory", open).await?;
        dir.sync().await?;
        Ok(dir.close().await?)
    }

    fn header(&self) -> [u8; HEADER_BYTES] {
        let mut head = [0; HEADER_BYTES];
        head[..8].copy_from_slice(MAGIC);
        put_u32_at(&mut head, 12, VERSION);
        put_u32_at(&mut head, 16, self.group.0);
        put_u32_at(&mut head, 20, self.sum);
        put_u64_at(&mut head, 24, self.index.0);
        put_u64_at(&mut head, 32, self.term.0);
        put_u64_at(&mut head, 40, self.length);
        let sum = crc32c::crc32c(&head[CHECKED_FROM..]);
        put_u32_at(&mut head, 8, sum);
        head
    }
}

/// Writes a whole snapshot, from a thread that has no executor: on one of its own.
///
/// # Errors
/// What the system says. What was written so far has a temporary name.
pub fn save(
    engine_dir: &Path,
    group: GroupId,
    index: Index,
    term: Term,
    state: Vec<u8>,
) -> io::Result<()> {
    let executor = LocalExecutorBuilder::new(Placement::Unbound).io_memory(SAVE_MEMORY_BYTES);
    let executor = executor.make()?;
    executor.run(async {
        let mut file = Writing::begin(engine_dir, group, index, term).await?;
        for part in state.chunks(PIECE_BYTES) {
            file.add(part).await?;
        }
        file.finish().await
    })
}

impl File {
    /// Writes `bytes` at `at`, which is a page's beginning. The last page may be filled up with zeros.
    async fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let (wrote, length) = match self {
            File::Direct(file) => {
                let length = bytes.len().next_multiple_of(PAGE_BYTES);
                let mut buffer = file.alloc_dma_buffer(length);
                let page = &mut buffer.as_bytes_mut()[..length];
                page[..bytes.len()].copy_from_slice(bytes);
                page[bytes.len()..].fill(0);
                (file.write_at(buffer, at).await?, length)
            }
            File::Buffered(file) => (file.write_at(bytes.to_vec(), at).await?, bytes.len()),
        };
        if wrote == length { Ok(()) } else { Err(ErrorKind::StorageFull.into()) }
    }

    async fn finish(self, length: u64) -> io::Result<()> {
        match self {
            File::Direct(file) => {
                file.truncate(length).await?;
                file.fdatasync().await?;
                Ok(file.close().await?)
            }
            File::Buffered(file) => {
                file.fdatasync().await?;
                Ok(file.close().await?)
            }
        }
    }
}

/// Removes a snapshot. That it is gone already is no error.
///
/// # Errors
/// What the system says.
pub async fn remove(engine_dir: &Path, group: GroupId, index: Index) -> io::Result<()> {
    match glommio::io::remove(path(engine_dir, group, index)).await {
        Err(e) if e.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => Ok(()),
        Err(e) => Err(e.into()),
        Ok(()) => Ok(()),
    }
}

/// As [`files::patiently`], on a glommio executor.
///
/// # Errors
/// Of the last try.
pub async fn patiently<T, F>(what: &str, mut does: impl FnMut() -> F) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
{
    let mut patience = files::Patience::new();
    loop {
        match does().await {
            Err(error) if patience.bears(what, &error) => {
                glommio::timer::sleep(files::SCARCE_REST).await;
            }
            done => return done,
        }
    }
}

fn no_direct_io(e: &glommio::GlommioError<()>) -> bool {
    [Errno::INVAL, Errno::NOTTY, Errno::OPNOTSUPP]
        .iter()
        .any(|errno| e.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests;
