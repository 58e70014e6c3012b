//! A backup's file: the snapshots of all groups of a cluster, one after the other.
//!
//! ```text
//!  at  size  field of the head
//!   0     8  magic            "TCTBACK1"
//!   8     4  checksum         CRC-32C of the head from byte 12 to its end
//!  12     4  version          1
//!  16    16  cluster          the id of the cluster that was backed up
//!  32     4  shards           how many; as many groups and one more follow
//!  36     4  zero
//!  40     8  cache_bytes_max  what the cache lines of one shard may take, in bytes
//!  48     8  taken_us         when it was begun: Unix time in microseconds, by the clock of who wrote it
//!  56     8  zero
//!  64        sections, one for each group, from group 0 on
//!
//!  at  size  field of a section
//!   0     4  checksum         CRC-32C of the next 28 bytes
//!   4     4  group
//!   8     8  index            that the snapshot stands for
//!  16     8  term             of the entry at that index
//!  24     8  length           of the snapshot, in bytes
//!  32        the snapshot: the group's members, then its state
//!         4  CRC-32C of the snapshot
//!
//!  at  size  field of the end
//!   0     8  magic            "TCTBEND1"
//!   8     8  length           of the whole file, in bytes
//!  16     4  CRC-32C of all of the file before
//! ```
//!
//! # How it works
//!
//! [`Writer`] gives the bytes as the snapshots come in; a copy of it, taken before a section, begins that section again.
//! [`Parser`] is fed the file in pieces of any size and hands out its parts. What it has handed out is to be believed
//! only once [`Parser::finish`] said so: a sum comes after what it covers.
//!
//! # Invariants
//!
//! - Any bytes at all are an error or a backup; they never panic, and nothing is kept of them but a section's head.
//! - A file that lacks its end, whole sections too, is no backup.

use crate::bytes::{Put, array_at, put_u32_at, put_u64_at, u32_at, u32_bytes, u64_at, u64_bytes};
use alloc::vec::Vec;

/// The newest format that is known here.
pub const VERSION: u32 = 1;
/// Size of the head, in bytes.
pub const HEAD_BYTES: usize = 64;
/// Size of what stands before a section's snapshot, in bytes.
pub const SECTION_BYTES: usize = 32;
/// Size of a checksum, in bytes.
pub const SUM_BYTES: usize = 4;
/// Size of the end, in bytes.
pub const END_BYTES: usize = 20;

const MAGIC: &[u8; 8] = b"TCTBACK1";
const MAGIC_END: &[u8; 8] = b"TCTBEND1";
const HEAD_CHECKED_FROM: usize = 12;
const SECTION_CHECKED_FROM: usize = 4;

const _: () = assert!(8 + 4 + 4 + 16 + 4 + 4 + 8 + 8 + 8 == HEAD_BYTES);
const _: () = assert!(4 + 4 + 8 + 8 + 8 == SECTION_BYTES);
const _: () = assert!(8 + 8 + SUM_BYTES == END_BYTES);

/// What a backup is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// The cluster's id.
    pub cluster: [u8; 16],
    /// How many shards it has.
    pub shards: u32,
    /// What the cache lines of one shard may take, in bytes.
    pub cache_bytes_max: u64,
    /// When it was begun: Unix time in microseconds.
    pub taken_us: u64,
}

/// A group's snapshot in a backup.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Section {
    /// The group: 0 is the cluster's own, shard `s` is group `s + 1`.
    pub group: u32,
    /// The index that it stands for.
    pub index: u64,
    /// The term of the entry at that index.
    pub term: u64,
    /// Its size, in bytes.
    pub length: u64,
}

/// Why some bytes are no backup.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BackupError {
    /// They do not begin as a backup does.
    #[error("it is no backup: it does not begin with \"TCTBACK1\"")]
    NoBackup,
    /// Written by a newer version.
    #[error("it has format version {got}; this version reads up to {VERSION}")]
    NewerFormat {
        /// The version that it names.
        got: u32,
    },
    /// They are not what was written.
    #[error("it is damaged before byte {at}: {what}")]
    Damaged {
        /// Where that was noticed, in bytes.
        at: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// The end is missing.
    #[error("it ends at byte {at}, and is not whole")]
    Truncated {
        /// Where it ends, in bytes.
        at: u64,
    },
}

impl Head {
    fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        head[..8].copy_from_slice(MAGIC);
        put_u32_at(&mut head, 12, VERSION);
        head[16..32].copy_from_slice(&self.cluster);
        put_u32_at(&mut head, 32, self.shards);
        put_u64_at(&mut head, 40, self.cache_bytes_max);
        put_u64_at(&mut head, 48, self.taken_us);
        let sum = crc32c::crc32c(&head[HEAD_CHECKED_FROM..]);
        put_u32_at(&mut head, 8, sum);
        head
    }

    fn decode(head: &[u8]) -> Result<Head, BackupError> {
        if head[..8] != *MAGIC {
            return Err(BackupError::NoBackup);
        }
        if u32_at(head, 8) != crc32c::crc32c(&head[HEAD_CHECKED_FROM..]) {
            return Err(damaged(HEAD_BYTES as u64, "the head's checksum does not match"));
        }
        match u32_at(head, 12) {
            VERSION => {}
            got => return Err(BackupError::NewerFormat { got }),
        }
        let shards = u32_at(head, 32);
        if shards == 0 || shards == u32::MAX {
            return Err(damaged(HEAD_BYTES as u64, "it names no shards"));
        }
        let (cache_bytes_max, taken_us) = (u64_at(head, 40), u64_at(head, 48));
        let cluster = array_at(head, 16);
        Ok(Head { cluster, shards, cache_bytes_max, taken_us })
    }
}

impl Section {
    fn encode(&self) -> [u8; SECTION_BYTES] {
        let mut section = [0; SECTION_BYTES];
        put_u32_at(&mut section, 4, self.group);
        put_u64_at(&mut section, 8, self.index);
        put_u64_at(&mut section, 16, self.term);
        put_u64_at(&mut section, 24, self.length);
        let sum = crc32c::crc32c(&section[SECTION_CHECKED_FROM..]);
        put_u32_at(&mut section, 0, sum);
        section
    }

    fn decode(section: &[u8], group: u32, at: u64) -> Result<Section, BackupError> {
        if u32_at(section, 0) != crc32c::crc32c(&section[SECTION_CHECKED_FROM..]) {
            return Err(damaged(at, "the checksum of a group's head does not match"));
        }
        if u32_at(section, 4) != group {
            return Err(damaged(at, "the groups are not in their order"));
        }
        let (index, term, length) = (u64_at(section, 8), u64_at(section, 16), u64_at(section, 24));
        Ok(Section { group, index, term, length })
    }
}

// ---- Writing ----

/// Gives a backup's bytes, in their order. A copy goes on from where it was taken.
#[derive(Clone, Copy, Debug)]
pub struct Writer {
    /// Bytes so far, and their sum.
    at: u64,
    sum: u32,
    /// The sum of the snapshot so far.
    section: u32,
}

impl Writer {
    /// Begins a backup: appends its head.
    pub fn begin(head: &Head, out: &mut Vec<u8>) -> Writer {
        let mut writer = Writer { at: 0, sum: 0, section: 0 };
        writer.put(&head.encode(), out);
        writer
    }

    /// Begins a group's section. The groups come from 0 on.
    pub fn section(&mut self, section: &Section, out: &mut Vec<u8>) {
        self.section = 0;
        self.put(&section.encode(), out);
    }

    /// Goes on with the section's snapshot.
    pub fn bytes(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.section = crc32c::crc32c_append(self.section, bytes);
        self.put(bytes, out);
    }

    /// Ends the section, once it has as many bytes as its head said.
    pub fn end_section(&mut self, out: &mut Vec<u8>) {
        self.put(&u32_bytes(self.section), out);
    }

    /// Ends the backup.
    pub fn finish(mut self, out: &mut Vec<u8>) {
        let length = self.at + END_BYTES as u64;
        self.put(MAGIC_END, out);
        self.put(&u64_bytes(length), out);
        out.put_u32(self.sum);
    }

    /// How many bytes were given so far.
    pub fn at(&self) -> u64 {
        self.at
    }

    fn put(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.sum = crc32c::crc32c_append(self.sum, bytes);
        self.at += bytes.len() as u64;
        out.extend_from_slice(bytes);
    }
}

// ---- Reading ----

/// A part of a backup.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part<'a> {
    /// What it is of.
    Head(Head),
    /// A group's snapshot begins.
    Section(Section),
    /// It goes on.
    Bytes(&'a [u8]),
    /// It is whole, and its sum is right.
    SectionEnd,
}

/// What comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Next {
    Head,
    Section,
    Bytes { left: u64 },
    Sum,
    End,
    Nothing,
}

/// Reads a backup that comes piece by piece.
#[derive(Debug)]
pub struct Parser {
    next: Next,
    /// What is too short to be read yet.
    kept: [u8; HEAD_BYTES],
    kept_bytes: usize,
    /// Bytes so far, kept ones included, and the sum of those that were read.
    at: u64,
    sum: u32,
    section: u32,
    /// The group whose section comes next, and how many groups there are.
    group: u32,
    groups: u32,
}

impl Default for Parser {
    fn default() -> Parser {
        Parser {
            next: Next::Head,
            kept: [0; HEAD_BYTES],
            kept_bytes: 0,
            at: 0,
            sum: 0,
            section: 0,
            group: 0,
            groups: 0,
        }
    }
}

impl Parser {
    /// Takes the next bytes of the file, and hands out the parts that they make whole.
    ///
    /// # Errors
    /// [`BackupError`]: then nothing of it is to be used.
    pub fn feed(
        &mut self,
        mut bytes: &[u8],
        each: &mut dyn FnMut(Part<'_>),
    ) -> Result<(), BackupError> {
        while !bytes.is_empty() {
            if let Next::Bytes { left } = self.next {
                let count = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                let (now, later) = bytes.split_at(count);
                bytes = later;
                self.at += now.len() as u64;
                self.sum = crc32c::crc32c_append(self.sum, now);
                self.section = crc32c::crc32c_append(self.section, now);
                each(Part::Bytes(now));
                self.next = Parser::bytes_left(left - now.len() as u64);
                continue;
            }
            let size = match self.next {
                Next::Head => HEAD_BYTES,
                Next::Section => SECTION_BYTES,
                Next::Sum => SUM_BYTES,
                Next::End => END_BYTES,
                Next::Bytes { .. } | Next::Nothing => {
                    return Err(damaged(self.at, "it goes on behind its end"));
                }
            };
            let count = (size - self.kept_bytes).min(bytes.len());
            let (now, later) = bytes.split_at(count);
            bytes = later;
            self.kept[self.kept_bytes..self.kept_bytes + count].copy_from_slice(now);
            self.kept_bytes += count;
            self.at += count as u64;
            if self.kept_bytes == size {
                self.kept_bytes = 0;
                let whole = self.kept;
                self.take(&whole[..size], each)?;
            }
        }
        Ok(())
    }

    /// Says whether that was all, and right.
    ///
    /// # Errors
    /// [`BackupError::Truncated`].
    pub fn finish(self) -> Result<(), BackupError> {
        if self.next == Next::Nothing {
            Ok(())
        } else {
            Err(BackupError::Truncated { at: self.at })
        }
    }

    fn bytes_left(left: u64) -> Next {
        if left == 0 { Next::Sum } else { Next::Bytes { left } }
    }

    /// Takes what is whole now.
    fn take(&mut self, whole: &[u8], each: &mut dyn FnMut(Part<'_>)) -> Result<(), BackupError> {
        let before = self.sum;
        let covered = if self.next == Next::End { END_BYTES - SUM_BYTES } else { whole.len() };
        self.sum = crc32c::crc32c_append(before, &whole[..covered]);
        match self.next {
            Next::Head => {
                let head = Head::decode(whole)?;
                self.groups = head.shards + 1;
                self.next = Next::Section;
                each(Part::Head(head));
            }
            Next::Section => {
                let section = Section::decode(whole, self.group, self.at)?;
                self.group += 1;
                self.section = 0;
                self.next = Parser::bytes_left(section.length);
                each(Part::Section(section));
            }
            Next::Sum => {
                if u32_at(whole, 0) != self.section {
                    return Err(damaged(
                        self.at,
                        "the checksum of a group's snapshot does not match",
                    ));
                }
                self.next = if self.group == self.groups { Next::End } else { Next::Section };
                each(Part::SectionEnd);
            }
            Next::End => {
                let right = whole[..8] == *MAGIC_END
                    && u64_at(whole, 8) == self.at
                    && u32_at(whole, 16) == self.sum;
                if !right {
                    return Err(damaged(self.at, "its end does not match what stands before it"));
                }
                self.next = Next::Nothing;
            }
            Next::Bytes { .. } | Next::Nothing => unreachable!("they have no head to be whole"),
        }
        Ok(())
    }
}

fn damaged(at: u64, what: &'static str) -> BackupError {
    BackupError::Damaged { at, what }
}
