//! The journal's bytes on a disk: segment files, and two writers behind one interface.
//!
//! ```text
//!  <data dir>/engine-00/wal/0000.seg   a segment, all zeros when it is new
//!                           0001.tmp   a segment that is being made, or made anew
//!                           witness    see [`witness`]
//! ```
//!
//! # How it works
//!
//! A segment is made beforehand ([`segments`]): allocated, filled with zeros, synced. So a write changes
//! no metadata of the file system. [`Wal::start`] puts one write of the journal under way and
//! [`Wal::on_completion`] says what it made durable; there is at most one at a time.
//!
//! - **Direct**: one ring write with `RWF_DSYNC` on an `O_DIRECT` descriptor, straight from the engine's
//!   own buffer when that is aligned. The fastest where a file system has it: no kernel worker, no page
//!   fault.
//! - **Mapped**: a copy into the mapped file, then `fdatasync` through the ring. Works everywhere. The page
//!   cache of such a segment must be made of 4 KiB folios (a store dirties a whole folio, and with large
//!   ones each sync writes a megabyte), so it is prepared by small writes and mapped with
//!   `MADV_RANDOM`.
//!
//! [`trial`](trial::trial) takes the faster one for a directory.
//!
//! A write that has a witness goes on when it is synced: the witness is written over the first copy and synced, and
//! then over the second. Only then is the write reported.
//!
//! Recovery reads through a map, after all of a segment was read by `pread`: what the disk can't read is damage then
//! ([`segments::map`]). A mapped writer may still meet it when it stores into a page that left the page cache: that ends
//! the process, and the next start finds the damage.
//!
//! # Invariants
//!
//! - What is reported as durable was synced: a short write, an error, a completion that does not match is
//!   [`Fatal`], and latches. A failed sync is never tried again (after an error the kernel may have
//!   dropped the dirty pages and called them clean: Rebello et al., Can Applications Recover from
//!   fsync Failures?, 2020).
//! - A segment has its final name only when all of it is zeros on the disk.

pub mod segments;
#[cfg(test)]
mod tests;
pub mod trial;
pub mod witness;

use crate::edge::bridge::Fatal;
use crate::edge::ring::Ring;
use crate::ids::Position;
use crate::journal::Write;
use crate::journal::witness::{WITNESSES, Witness};
use crate::limits::UNIT_BYTES_MAX;
use io_uring::{opcode, types::Fd};
use memmap2::{Advice, MmapMut, MmapOptions, MmapRaw};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What writes are a multiple of, and where they begin, in bytes.
pub const PAGE_BYTES: usize = 4096;
/// Segments of one engine, at most: a slot has four digits.
pub const SLOTS_MAX: u32 = 10_000;

/// How the journal's bytes get to the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Writer {
    /// Through a mapped file and `fdatasync`.
    Mapped,
    /// By `O_DIRECT` and `RWF_DSYNC`.
    Direct,
}

impl Writer {
    /// The name in a configuration and a manifest.
    pub fn name(self) -> &'static str {
        match self {
            Writer::Mapped => "mapped",
            Writer::Direct => "direct",
        }
    }

    /// The writer of a name.
    pub fn from_name(name: &str) -> Option<Writer> {
        [Writer::Mapped, Writer::Direct].into_iter().find(|writer| writer.name() == name)
    }
}

impl fmt::Display for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A segment that is open for writing.
struct Segment {
    file: File,
    /// With [`Writer::Mapped`].
    map: Option<MmapRaw>,
}

/// A write that is under way.
#[derive(Clone, Copy)]
struct UnderWay {
    position: Position,
    /// What the completion has to say.
    expected: i32,
    /// What the completions carry.
    token: u64,
    witness: Option<Witness>,
    /// Copies of the witness that were written.
    copies: usize,
}

/// One engine's segments, open for writing.
pub struct Wal {
    engine_dir: PathBuf,
    writer: Writer,
    segment_bytes: u64,
    /// By slot.
    segments: Vec<Option<Segment>>,
    under_way: Option<UnderWay>,
    /// The copies of the witness, if there are to be any.
    witnesses: Option<[File; WITNESSES]>,
    /// For bytes that are not aligned as `O_DIRECT` wants them. Made when first needed.
    staging: Option<MmapMut>,
    failed: Option<Fatal>,
}

impl Wal {
    /// Opens every segment of an engine for writing.
    ///
    /// # Errors
    /// When the directory can't be read, or a segment can't be opened or has another size.
    pub fn open(engine_dir: &Path, writer: Writer, segment_bytes: u64) -> io::Result<Wal> {
        let mut wal = Wal {
            engine_dir: engine_dir.to_path_buf(),
            writer,
            segment_bytes,
            segments: Vec::new(),
            under_way: None,
            witnesses: None,
            staging: None,
            failed: None,
        };
        for (slot, _) in segments::list(engine_dir)? {
            wal.reopen(slot)?;
        }
        Ok(wal)
    }

    /// Opens a segment, or opens it again after it was made anew.
    ///
    /// # Errors
    /// When it can't be opened or has another size than it should.
    pub fn reopen(&mut self, slot: u32) -> io::Result<()> {
        let path = segments::path(&self.engine_dir, slot);
        let flags = if self.writer == Writer::Direct { libc::O_DIRECT } else { 0 };
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(&path)?;
        segments::check_size(&path, &file, self.segment_bytes)?;
        let map = match self.writer {
            Writer::Direct => {
                // What recovery read is in the page cache, and a direct write that meets cached pages
                // can't go out at once: it goes through a kernel worker, and drops them one by one.
                segments::forget(&file);
                None
            }
            Writer::Mapped => {
                let map = MmapOptions::new().map_raw(&file)?;
                map.advise(Advice::Random)?;
                Some(map)
            }
        };
        let at = slot as usize;
        if at >= self.segments.len() {
            self.segments.resize_with(at + 1, || None);
        }
        self.segments[at] = Some(Segment { file, map });
        Ok(())
    }

    /// From now on, writes may have a witness: these are its copies.
    pub fn attest(&mut self, witnesses: [File; WITNESSES]) {
        self.witnesses = Some(witnesses);
    }

    /// Puts a write under way. Its completions carry `token`.
    ///
    /// # Errors
    /// [`Fatal`], and from then on always.
    ///
    /// # Safety
    /// `bytes` must stay where they are, unchanged, until the completion was drained.
    pub unsafe fn start(
        &mut self,
        ring: &mut Ring,
        write: &Write,
        bytes: &[u8],
        token: u64,
    ) -> Result<(), Fatal> {
        if let Some(fatal) = &self.failed {
            return Err(fatal.clone());
        }
        assert!(self.under_way.is_none(), "at most one write is under way");
        assert_eq!(bytes.len(), write.length, "the engine gives what it announced");
        assert!(!bytes.is_empty(), "a write has bytes");
        assert_eq!(bytes.len() % PAGE_BYTES, 0, "a write is whole pages");
        assert_eq!(write.offset % PAGE_BYTES as u64, 0, "a write begins on a page");
        assert!(
            write.offset + write.length as u64 <= self.segment_bytes,
            "a write stays inside its segment"
        );
        // SAFETY: the caller keeps the bytes in place.
        let started = unsafe { self.submit(ring, write, bytes, token) };
        match started {
            Ok(expected) => {
                let (position, witness) = (write.position, write.witness);
                let under_way = UnderWay { position, expected, token, witness, copies: 0 };
                self.under_way = Some(under_way);
                Ok(())
            }
            Err(error) => Err(self.fail(&error)),
        }
    }

    /// Takes a completion of the write under way: what is durable now. `None`: its witness is on its way,
    /// and another completion follows.
    ///
    /// # Errors
    /// [`Fatal`] when the write failed. Nothing of it may be taken for durable.
    pub fn on_completion(
        &mut self,
        ring: &mut Ring,
        result: i32,
    ) -> Result<Option<Position>, Fatal> {
        let under_way = self.under_way.take().expect("a completion follows a start");
        if result == under_way.expected && self.failed.is_none() {
            let Some(witness) = under_way.witness.filter(|_| under_way.copies < WITNESSES) else {
                return Ok(Some(under_way.position));
            };
            let files =
                self.witnesses.as_ref().expect("whoever writes a journal keeps its witness");
            let file = &files[under_way.copies];
            // One sync at a time: the other copy is whole while this one may be torn.
            let kept = file.write_all_at(&witness.to_bytes(), 0);
            return match kept.and_then(|()| ring.fdatasync(file.as_raw_fd(), under_way.token)) {
                Ok(()) => {
                    let copies = under_way.copies + 1;
                    self.under_way = Some(UnderWay { expected: 0, copies, ..under_way });
                    Ok(None)
                }
                Err(error) => Err(self.fail(&error)),
            };
        }
        let error = if result < 0 {
            io::Error::from_raw_os_error(-result)
        } else {
            io::Error::other(format!("{result} of {} bytes were written", under_way.expected))
        };
        Err(self.fail(&error))
    }

    /// Whether a write is under way.
    pub fn is_busy(&self) -> bool {
        self.under_way.is_some()
    }

    /// Submits the write and says what its completion has to say.
    ///
    /// # Safety
    /// As [`Wal::start`].
    unsafe fn submit(
        &mut self,
        ring: &mut Ring,
        write: &Write,
        bytes: &[u8],
        token: u64,
    ) -> io::Result<i32> {
        let slot = write.slot as usize;
        let segment = self.segments.get(slot).and_then(Option::as_ref);
        let segment = segment.expect("the engine writes to segments that are ready");
        let fd = segment.file.as_raw_fd();
        if let Some(map) = &segment.map {
            let offset = usize::try_from(write.offset).expect("a segment fits into memory");
            assert!(offset + bytes.len() <= map.len(), "the map covers the segment");
            // SAFETY: the range is inside the map, as just asserted; nobody else in this process refers
            // to the map, and the engine's bytes lie elsewhere.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    bytes.as_ptr(),
                    map.as_mut_ptr().add(offset),
                    bytes.len(),
                );
            }
            ring.fdatasync(fd, token)?;
            return Ok(0);
        }
        let bytes = if bytes.as_ptr().addr().is_multiple_of(PAGE_BYTES) {
            bytes
        } else {
            if self.staging.is_none() {
                self.staging = Some(MmapMut::map_anon(UNIT_BYTES_MAX)?);
            }
            let staging = self.staging.as_mut().expect("it was just made");
            staging[..bytes.len()].copy_from_slice(bytes);
            &staging[..bytes.len()]
        };
        let length = u32::try_from(bytes.len()).expect("a unit is small");
        let entry = opcode::Write::new(Fd(fd), bytes.as_ptr(), length)
            .offset(write.offset)
            .rw_flags(libc::RWF_DSYNC)
            .build()
            .user_data(token);
        // SAFETY: the engine's bytes stay, as our caller vouches, and the staging buffer is not touched
        // again before `under_way` was taken.
        unsafe { ring.push(&entry)? };
        Ok(length.cast_signed())
    }

    fn fail(&mut self, error: &io::Error) -> Fatal {
        let fatal = fatal(&self.engine_dir, error);
        self.failed = Some(fatal.clone());
        fatal
    }
}

/// Why a node stops after an error of its journal's disk.
pub fn fatal(path: &Path, error: &io::Error) -> Fatal {
    let text = format!("{}: {error}", path.display());
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => Fatal::DiskFull(text),
        _ => Fatal::JournalWrite(text),
    }
}
