//! A machine from a snapshot's bytes, in one go or slice by slice.
//!
//! The bytes come piece by piece; whoever feeds them has found their checksum right ([`Checksum`]). Rows
//! are read as soon as they are whole, each by its own table. What needs others first is put in its order when all rows
//! were read: waiters, who need the locks and the queues, and the lines' order of eviction, which needs all lines.

use super::codec::{LENGTH_BYTES, RowReader};
use super::ledger::Ask;
use super::snapshot::{MAGIC, SECTIONS, Slice, SliceProgress, TAIL_BYTES, VERSION, VERSION_OLDEST};
use super::{Machine, MachineConfig};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use wire::bytes::{Reader, u32_at};

/// Size of the magic and the version.
const OPENING_BYTES: usize = 8;
/// How much is fed at a time when all is there.
const FEED_BYTES: usize = 1 << 20;

/// Why some bytes are no snapshot that this machine can start from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Corrupt {
    /// The bytes end too early, or do not begin as a snapshot does.
    #[error("the bytes are no snapshot of a shard")]
    NoSnapshot,
    /// The checksum does not match.
    #[error("the snapshot's checksum does not match its bytes")]
    Checksum,
    /// Written by a version that is not known here.
    #[error("the snapshot has format version {got}, which is not known here")]
    Version {
        /// The version that it names.
        got: u32,
    },
    /// Written in another cluster, or under another cache budget. Replicas that differ in that would diverge.
    #[error(
        "the snapshot is of another cluster, or made with another cache budget than is configured here"
    )]
    Config,
    /// The checksum matches, but the content makes no sense.
    #[error("the snapshot's content is malformed")]
    Malformed,
}

/// The checksum of a snapshot that comes piece by piece: its last bytes say what that of the others is.
#[derive(Clone, Copy, Default, Debug)]
pub struct Checksum {
    sum: u32,
    /// The last bytes so far, which may be the tail.
    last: [u8; TAIL_BYTES],
    count: usize,
}

impl Checksum {
    /// The next piece.
    pub fn add(&mut self, piece: &[u8]) {
        let Some(body) = piece.len().checked_sub(TAIL_BYTES) else {
            return piece.iter().for_each(|byte| self.push(*byte));
        };
        self.sum = crc32c::crc32c_append(self.sum, &self.last[..self.count]);
        self.sum = crc32c::crc32c_append(self.sum, &piece[..body]);
        self.last.copy_from_slice(&piece[body..]);
        self.count = TAIL_BYTES;
    }

    fn push(&mut self, byte: u8) {
        if self.count == TAIL_BYTES {
            self.sum = crc32c::crc32c_append(self.sum, &self.last[..1]);
            self.last.rotate_left(1);
            self.count -= 1;
        }
        self.last[self.count] = byte;
        self.count += 1;
    }

    /// Whether the bytes so far are whole and undamaged.
    pub fn is_right(&self) -> bool {
        self.count == TAIL_BYTES && u32_at(&self.last, 0) == self.sum
    }
}

/// A machine that is being made from a snapshot.
pub struct Restore {
    machine: Box<Machine>,
    /// What the machine that wrote the bytes was made with.
    origin: MachineConfig,
    /// What was fed and not dropped yet; read up to `at`.
    fed: Vec<u8>,
    at: usize,
    next: RestoreStep,
    /// The bytes' version.
    version: u32,
    /// Rows of each of [`SECTIONS`] that are still to come.
    left: [u32; SECTIONS.len()],
}

/// What comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum RestoreStep {
    Opening,
    Head,
    /// The head's ended ids, which are so many bytes more.
    Ended {
        bytes: usize,
    },
    /// A row of one of [`SECTIONS`].
    Row {
        section: usize,
    },
    /// The rest of one, which is so many bytes.
    Rest {
        section: usize,
        bytes: usize,
    },
    /// Rows of one of [`SECTIONS`] are put in their order.
    Order {
        section: usize,
    },
    End,
}

/// What was read of a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part {
    /// All of it.
    Last,
    /// A part, and the rest may be read later.
    More,
}

/// What a slice of a restore came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Restored {
    /// There is more to do.
    More,
    /// It needs the next piece.
    Hungry,
    /// The machine is whole.
    Whole,
}

impl Machine {
    /// The machine that wrote these bytes when it was made with `origin`, made with `config`.
    pub(super) fn restore_from(
        origin: MachineConfig,
        config: MachineConfig,
        bytes: &[u8],
    ) -> Result<Machine, Corrupt> {
        let mut restore = Restore { origin, ..Restore::new(config) };
        let length = bytes.len().checked_sub(TAIL_BYTES).ok_or(Corrupt::NoSnapshot)?;
        restore.feed(&bytes[..length.min(OPENING_BYTES)]);
        restore.slice(Slice::WHOLE)?;
        let mut sum = Checksum::default();
        sum.add(bytes);
        if !sum.is_right() {
            return Err(Corrupt::Checksum);
        }
        for piece in bytes[length.min(OPENING_BYTES)..].chunks(FEED_BYTES) {
            restore.feed(piece);
            restore.slice(Slice::WHOLE)?;
        }
        restore.finish()
    }

    /// Frees some of what the machine holds, which is of no use afterwards. A large one takes long to free.
    pub fn shed(&mut self, mut slice: Slice) -> SliceProgress {
        let empty = SECTIONS.iter().all(|section| (section.shed)(self, &mut slice));
        if empty { SliceProgress::Done } else { SliceProgress::More }
    }

    /// Puts the first of the waits that were read in line, behind those with lower tickets.
    pub(super) fn order_wait(&mut self) -> Result<SliceProgress, Corrupt> {
        let Some((ticket, wait)) = self.ledger.take_read_wait() else {
            return Ok(SliceProgress::Done);
        };
        match wait.ask {
            Ask::Lock { .. } => self.locks.read_wait(&mut self.ledger, ticket, wait)?,
            Ask::Pop { .. } => self.queues.read_wait(&mut self.ledger, ticket, wait)?,
        }
        Ok(SliceProgress::More)
    }
}

/// A row with so many bytes may be freed.
pub(super) fn shed_bytes(bytes: u64, slice: &mut Slice) -> bool {
    slice.spend_freed(usize::try_from(bytes).unwrap_or(usize::MAX));
    true
}

/// Frees some of a tree. True: it is empty.
pub(super) fn shed_map<K: Ord, V>(map: &mut BTreeMap<K, V>, slice: &mut Slice) -> bool {
    while map.pop_first().is_some() {
        if !slice.spend(1, 0) {
            break;
        }
    }
    map.is_empty()
}

impl Restore {
    /// A machine of which nothing was read yet.
    pub fn new(config: MachineConfig) -> Restore {
        Restore {
            machine: Box::new(Machine::new(config)),
            origin: config,
            fed: Vec::new(),
            at: 0,
            next: RestoreStep::Opening,
            version: VERSION,
            left: [0; SECTIONS.len()],
        }
    }

    /// Takes the next piece.
    pub fn feed(&mut self, piece: &[u8]) {
        self.fed.drain(..core::mem::take(&mut self.at));
        self.fed.extend_from_slice(piece);
    }

    /// Reads some more.
    ///
    /// # Errors
    /// [`Corrupt`]: then it is of no use any more.
    pub fn slice(&mut self, mut slice: Slice) -> Result<Restored, Corrupt> {
        while self.next != RestoreStep::End {
            let Some(bytes) = self.step()? else { return Ok(Restored::Hungry) };
            if !slice.spend(1, bytes) {
                return Ok(Restored::More);
            }
        }
        Ok(Restored::Whole)
    }

    /// Reads a row, or what is less. Says how many bytes that was; `None`: it needs the next piece.
    fn step(&mut self) -> Result<Option<usize>, Corrupt> {
        let read = match self.next {
            RestoreStep::Opening | RestoreStep::Head => return self.read_head(),
            RestoreStep::Ended { bytes: 0 } => {
                self.next = RestoreStep::Row { section: 0 };
                0
            }
            RestoreStep::Ended { bytes } => self.read_ended(bytes)?,
            RestoreStep::Row { section } if section == SECTIONS.len() => {
                self.next = order(0);
                0
            }
            RestoreStep::Row { section } if self.left[section] == 0 => {
                self.next = RestoreStep::Row { section: section + 1 };
                0
            }
            RestoreStep::Row { section } => {
                let Some(row) = self.whole_row() else { return Ok(None) };
                self.left[section] -= 1;
                self.at -= row.len();
                self.read_part(section, row.len())?
            }
            RestoreStep::Rest { section, bytes } => self.read_part(section, bytes)?,
            RestoreStep::Order { section } => {
                let next = SECTIONS[section].order.expect("there is an order to put rows in");
                if next(&mut self.machine)? == SliceProgress::Done {
                    self.next = order(section + 1);
                }
                0
            }
            RestoreStep::End => 0,
        };
        Ok(Some(read))
    }

    /// The machine, once all was read.
    ///
    /// # Errors
    /// [`Corrupt::Malformed`] when it is not whole, or something was left.
    pub fn finish(self) -> Result<Machine, Corrupt> {
        let whole = self.next == RestoreStep::End && self.fed.len() - self.at == TAIL_BYTES;
        if whole { Ok(*self.machine) } else { Err(Corrupt::Malformed) }
    }

    /// Where the next row lies, if all of it is here. It counts as read.
    fn whole_row(&mut self) -> Option<core::ops::Range<usize>> {
        let rest = &self.fed[self.at..];
        let length = Reader::new(rest).u32().ok()? as usize;
        let from = self.at + LENGTH_BYTES;
        // The tail stays behind the last row: what reaches into it is not whole.
        if rest.len() < LENGTH_BYTES + length {
            return None;
        }
        self.at = from + length;
        Some(from..from + length)
    }

    fn read_head(&mut self) -> Result<Option<usize>, Corrupt> {
        if self.next == RestoreStep::Opening {
            let Some(opening) = self.fed[self.at..].first_chunk::<OPENING_BYTES>() else {
                return Ok(None);
            };
            let mut from = RowReader::new(opening, VERSION);
            if from.u32()? != MAGIC {
                return Err(Corrupt::NoSnapshot);
            }
            let got = from.u32()?;
            if !(VERSION_OLDEST..=VERSION).contains(&got) {
                return Err(Corrupt::Version { got });
            }
            self.at += OPENING_BYTES;
            (self.version, self.next) = (got, RestoreStep::Head);
        }
        let Some(row) = self.whole_row() else { return Ok(None) };
        let mut from = RowReader::new(&self.fed[row.clone()], self.version);
        let (machine, origin) = (&mut self.machine, self.origin);
        machine.ledger.read_level(&mut from)?;
        if from.u64()? != origin.cluster || from.u64()? != origin.cache_bytes_max {
            return Err(Corrupt::Config);
        }
        machine.ledger.read_head(&mut from)?;
        for (left, section) in self.left.iter_mut().zip(&SECTIONS) {
            if section.since <= self.version {
                *left = from.u32()?;
            }
        }
        let bytes = from.left();
        self.at -= bytes;
        self.next = RestoreStep::Ended { bytes };
        Ok(Some(row.len() - bytes))
    }

    /// Reads an ended id, of so many bytes of them. Says how many it took.
    fn read_ended(&mut self, bytes: usize) -> Result<usize, Corrupt> {
        let mut from = RowReader::new(&self.fed[self.at..self.at + bytes], self.version);
        self.machine.ledger.read_ended(&mut from)?;
        let left = from.left();
        self.at += bytes - left;
        self.next = RestoreStep::Ended { bytes: left };
        Ok(bytes - left)
    }

    /// Reads a row, or a part of one, of which so many bytes are left. Says how many it took.
    fn read_part(&mut self, section: usize, bytes: usize) -> Result<usize, Corrupt> {
        let mut from = RowReader::new(&self.fed[self.at..self.at + bytes], self.version);
        let part = (SECTIONS[section].read)(&mut self.machine, &mut from)?;
        let left = from.left();
        self.at += bytes - left;
        self.next = match part {
            Part::More => RestoreStep::Rest { section, bytes: left },
            Part::Last if left > 0 => return Err(Corrupt::Malformed),
            Part::Last => RestoreStep::Row { section },
        };
        Ok(bytes - left)
    }
}

/// From `section` on, the first whose rows are put in an order.
fn order(section: usize) -> RestoreStep {
    let ordered = |section: &usize| SECTIONS[*section].order.is_some();
    match (section..SECTIONS.len()).find(ordered) {
        Some(section) => RestoreStep::Order { section },
        None => RestoreStep::End,
    }
}
