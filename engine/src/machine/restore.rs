//! A machine from a snapshot's bytes, in one go or slice by slice.
//!
//! The bytes come piece by piece; whoever feeds them has found their checksum right ([`Checksum`]). Rows
//! are read as soon as they are whole. What needs others first waits in a tree by its number: waiters, until
//! the locks and queues are there, and the lines' order of eviction, until all lines are.

use super::cache::Line;
use super::locks::{Grant, Lock};
use super::queues::{Message, Place, Queue};
use super::sessions::{Ask, Remembered, Session, Standing, Waiter, Window};
use super::slab::Links;
use super::snapshot::{
    LENGTH_BYTES, MAGIC, Progress, Section, Slice, TAIL_BYTES, VERSION, VERSION_OLDEST,
};
use super::timers::Timer;
use super::{Config, Machine, Outcome};
use crate::ids::SessionId;
use crate::level::Level;
use crate::mutant::{self, Mutant};
use crate::time::Elapsed;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use wire::Code;
use wire::message::LockMode;

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
        self.count == TAIL_BYTES && u32::from_le_bytes(self.last) == self.sum
    }
}

/// A machine that is being made from a snapshot.
pub struct Restore {
    machine: Box<Machine>,
    /// What the machine that wrote the bytes was made with.
    origin: Config,
    /// What was fed and not dropped yet; read up to `at`.
    fed: Vec<u8>,
    at: usize,
    next: Next,
    /// The bytes' version.
    version: u32,
    /// Rows of each table that are still to come, in the order of the bytes.
    left: [u32; 5],
    /// Queues by their place.
    queues: Vec<u32>,
    /// Who waits, by ticket.
    waits: BTreeMap<u64, Wait>,
    /// Lines by version.
    lines: BTreeMap<u64, u32>,
}

/// What comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Next {
    Opening,
    Head,
    /// The head's ended ids, which are so many bytes more.
    Ended {
        bytes: usize,
    },
    Rows(Section),
    /// A lock's grants, so many more, which are so many bytes.
    Grants {
        lock: u32,
        count: u32,
        bytes: usize,
    },
    Waiters,
    Order,
    End,
}

/// Somebody who waits.
struct Wait {
    session: u32,
    sequence: u64,
    deadline: Elapsed,
    name: Box<[u8]>,
    ask: WaitAsk,
}

#[derive(Clone, Copy)]
enum WaitAsk {
    Lock { mode: LockMode, lease_ms: u32 },
    Pop { visibility_ms: u32 },
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
    /// The machine that wrote these bytes.
    ///
    /// # Errors
    /// [`Corrupt`], which says what is wrong with the bytes.
    pub fn restore(config: Config, bytes: &[u8]) -> Result<Machine, Corrupt> {
        Machine::restore_from(config, config, bytes)
    }

    /// The machine that wrote these bytes when it was made with `origin`, made with `config`.
    pub(super) fn restore_from(
        origin: Config,
        config: Config,
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
    pub fn shed(&mut self, mut slice: Slice) -> Progress {
        let slice = &mut slice;
        let empty = self.timers.shed(slice)
            && self.lines.shed(slice, |row, slice| shed_bytes(row.cost(), slice))
            && self.messages.shed(slice, |row, slice| shed_bytes(row.cost(), slice))
            && self.sessions.table.shed(slice, |row, slice| shed_map(&mut row.owned, slice))
            && self.locks.shed(slice, |_, _| true)
            && self.queues.shed(slice, |row, slice| shed_map(&mut row.ready, slice))
            && self.grants.shed(slice, |_, _| true)
            && shed_map(&mut self.crowded, slice)
            && shed_map(&mut self.unfinished, slice)
            && self.waiters.shed(slice, |_, _| true);
        if empty { Progress::Done } else { Progress::More }
    }
}

/// A row with so many bytes may be freed.
fn shed_bytes(bytes: u64, slice: &mut Slice) -> bool {
    slice.spend_freed(usize::try_from(bytes).unwrap_or(usize::MAX));
    true
}

/// Frees some of a tree. True: it is empty.
fn shed_map<K: Ord, V>(map: &mut BTreeMap<K, V>, slice: &mut Slice) -> bool {
    while map.pop_first().is_some() {
        if !slice.spend(1, 0) {
            break;
        }
    }
    map.is_empty()
}

impl Restore {
    /// A machine of which nothing was read yet.
    pub fn new(config: Config) -> Restore {
        Restore {
            machine: Box::new(Machine::new(config)),
            origin: config,
            fed: Vec::new(),
            at: 0,
            next: Next::Opening,
            version: VERSION,
            left: [0; 5],
            queues: Vec::new(),
            waits: BTreeMap::new(),
            lines: BTreeMap::new(),
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
        while self.next != Next::End {
            let bytes = match self.next {
                Next::Opening | Next::Head => match self.read_head()? {
                    Some(bytes) => bytes,
                    None => return Ok(Restored::Hungry),
                },
                Next::Rows(Section::Tail) => {
                    self.next = Next::Waiters;
                    0
                }
                Next::Rows(section) if self.left[section as usize] == 0 => {
                    self.next = Next::Rows(section.next());
                    0
                }
                Next::Ended { bytes: 0 } => {
                    self.next = Next::Rows(Section::Sessions);
                    0
                }
                Next::Ended { bytes } => self.read_ended(bytes)?,
                Next::Rows(section) => {
                    let Some(row) = self.whole_row() else { return Ok(Restored::Hungry) };
                    self.left[section as usize] -= 1;
                    self.read_row(section, row)?
                }
                Next::Grants { lock, count, bytes } => self.read_grant(lock, count, bytes)?,
                Next::Waiters => {
                    match self.waits.pop_first() {
                        Some((ticket, wait)) => self.link_wait(ticket, wait)?,
                        None => self.next = Next::Order,
                    }
                    0
                }
                Next::Order => {
                    match self.lines.pop_first() {
                        Some((_, slot)) => self.machine.link_line(slot),
                        None => self.next = Next::End,
                    }
                    0
                }
                Next::End => 0,
            };
            if !slice.spend(1, bytes) {
                return Ok(Restored::More);
            }
        }
        Ok(Restored::Whole)
    }

    /// The machine, once all was read.
    ///
    /// # Errors
    /// [`Corrupt::Malformed`] when it is not whole, or something was left.
    pub fn finish(self) -> Result<Machine, Corrupt> {
        let whole = self.next == Next::End && self.fed.len() - self.at == TAIL_BYTES;
        if whole { Ok(*self.machine) } else { Err(Corrupt::Malformed) }
    }

    /// Where the next row lies, if all of it is here. It counts as read.
    fn whole_row(&mut self) -> Option<core::ops::Range<usize>> {
        let rest = &self.fed[self.at..];
        let length = u32::from_le_bytes(*rest.first_chunk::<LENGTH_BYTES>()?) as usize;
        let from = self.at + LENGTH_BYTES;
        // The tail stays behind the last row: what reaches into it is not whole.
        if rest.len() < LENGTH_BYTES + length {
            return None;
        }
        self.at = from + length;
        Some(from..from + length)
    }

    fn read_head(&mut self) -> Result<Option<usize>, Corrupt> {
        if self.next == Next::Opening {
            let Some(opening) = self.fed[self.at..].first_chunk::<OPENING_BYTES>() else {
                return Ok(None);
            };
            let mut from = Reader { bytes: opening };
            if from.u32()? != MAGIC {
                return Err(Corrupt::NoSnapshot);
            }
            let got = from.u32()?;
            if !(VERSION_OLDEST..=VERSION).contains(&got) {
                return Err(Corrupt::Version { got });
            }
            self.at += OPENING_BYTES;
            (self.version, self.next) = (got, Next::Head);
        }
        let says = self.version > VERSION_OLDEST;
        let Some(row) = self.whole_row() else { return Ok(None) };
        let mut from = Reader { bytes: &self.fed[row.clone()] };
        let (machine, origin) = (&mut self.machine, self.origin);
        if says {
            machine.level = Level(from.u32()?);
        }
        if from.u64()? != origin.cluster || from.u64()? != origin.cache_bytes_max {
            return Err(Corrupt::Config);
        }
        let clock = Elapsed(from.u64()?);
        machine.clock = if mutant::on(Mutant::ClockNotRestored) { Elapsed::ZERO } else { clock };
        machine.issued = from.u64()?;
        if mutant::on(Mutant::FenceReuse) {
            machine.issued /= 2;
        }
        for left in &mut self.left {
            *left = from.u32()?;
        }
        let bytes = from.bytes.len();
        self.at -= bytes;
        self.next = Next::Ended { bytes };
        Ok(Some(row.len() - bytes))
    }

    /// Reads an ended id, of so many bytes of them. Says how many it took.
    fn read_ended(&mut self, bytes: usize) -> Result<usize, Corrupt> {
        let mut from = Reader { bytes: &self.fed[self.at..self.at + bytes] };
        self.machine.sessions.remember_ended(from.session()?);
        let left = from.bytes.len();
        self.at += bytes - left;
        self.next = Next::Ended { bytes: left };
        Ok(bytes - left)
    }

    /// Reads a lock's next grant, of so many that are so many bytes. Says how many it took.
    fn read_grant(&mut self, lock: u32, count: u32, bytes: usize) -> Result<usize, Corrupt> {
        let mut from = Reader { bytes: &self.fed[self.at..self.at + bytes] };
        let Some(count) = count.checked_sub(1) else {
            self.next = Next::Rows(Section::Locks);
            return if bytes == 0 { Ok(0) } else { Err(Corrupt::Malformed) };
        };
        let session = self.find_session(from.session()?)?;
        let (fence, held, deadline) = (from.u64()?, from.u32()?, Elapsed(from.u64()?));
        let left = from.bytes.len();
        let links = Links::NONE;
        let grant = Grant { lock, session, fence, count: held, deadline, links };
        if self.machine.grant_of(lock, session).is_some() {
            return Err(Corrupt::Malformed);
        }
        let slot = self.machine.grants.insert(grant);
        self.machine.link_grant(slot);
        self.note_ended(session);
        self.at += bytes - left;
        self.next = Next::Grants { lock, count, bytes: left };
        Ok(bytes - left)
    }

    /// Reads a row, and says how many bytes of it.
    fn read_row(
        &mut self,
        section: Section,
        row: core::ops::Range<usize>,
    ) -> Result<usize, Corrupt> {
        let length = row.len();
        let fed = core::mem::take(&mut self.fed);
        let mut from = Reader { bytes: &fed[row] };
        let read = match section {
            Section::Sessions => self.read_session(&mut from),
            Section::Locks => self.read_lock(&mut from),
            Section::Queues => {
                let queue = from.bytes().map(Queue::new);
                queue.map(|queue| self.queues.push(self.machine.queues.insert(queue)))
            }
            Section::Messages => self.read_message(&mut from),
            Section::Lines => self.read_line(&mut from),
            Section::Tail => Ok(()),
        };
        let left = from.bytes.len();
        self.fed = fed;
        read?;
        match &mut self.next {
            Next::Grants { bytes, .. } => {
                *bytes = left;
                self.at -= left;
            }
            _ if left > 0 => return Err(Corrupt::Malformed),
            _ => {}
        }
        Ok(length - left)
    }

    fn read_session(&mut self, from: &mut Reader<'_>) -> Result<(), Corrupt> {
        let (id, number, ttl_ms) = (from.session()?, from.u64()?, from.u32()?);
        let standing = match if self.version < VERSION { 0 } else { from.u8()? } {
            0 => Standing::Lives,
            1 => Standing::Ended,
            _ => return Err(Corrupt::Malformed),
        };
        let deadline = Elapsed(from.u64()?);
        let window = Window { answered_below: from.u64()?, ..Window::default() };
        let row = Session { standing, window, ..Session::new(id, number, ttl_ms, deadline) };
        let slot = self.machine.sessions.table.insert(row);
        let timer = match standing {
            Standing::Lives => Timer::SessionEnd(slot),
            Standing::Ended => Timer::SessionForget(slot),
        };
        self.machine.sessions.over += usize::from(standing == Standing::Ended);
        self.machine.timers.arm(deadline, number, timer);
        for _ in 0..from.u32()? {
            let sequence = from.u64()?;
            match from.call()? {
                What::Outcome(outcome) => {
                    let window = &mut self.machine.sessions.table.row_mut(slot).window;
                    window.calls.push_back((sequence, Remembered::Outcome(outcome)));
                }
                What::Wait { ticket, deadline, name, ask } => {
                    let wait = Wait { session: slot, sequence, deadline, name: name.into(), ask };
                    self.waits.insert(ticket, wait);
                }
            }
        }
        Ok(())
    }

    /// Reads a lock but for its grants, which follow one by one: there may be as many as sessions.
    fn read_lock(&mut self, from: &mut Reader<'_>) -> Result<(), Corrupt> {
        let (name, mode, count) = (from.bytes()?, from.mode()?, from.u32()?);
        let probe = self.machine.locks.probe(name);
        let lock = self.machine.locks.insert_at(probe, Lock::new(name, probe, mode));
        self.next = Next::Grants { lock, count, bytes: 0 };
        Ok(())
    }

    fn read_message(&mut self, from: &mut Reader<'_>) -> Result<(), Corrupt> {
        let id = from.u64()?;
        let queue = *self.queues.get(from.u32()? as usize).ok_or(Corrupt::Malformed)?;
        let (priority, delivery) = (from.u8()?, from.u32()?);
        let place = match from.u8()? {
            0 => Place::Ready,
            1 => {
                let session = self.find_session(from.session()?)?;
                Place::InFlight { session, deadline: Elapsed(from.u64()?) }
            }
            2 => Place::Delayed { deadline: Elapsed(from.u64()?) },
            _ => return Err(Corrupt::Malformed),
        };
        let payload = from.bytes()?.into();
        self.machine.insert_message(Message { id, queue, priority, delivery, place, payload });
        if let Place::InFlight { session, .. } = place {
            self.note_ended(session);
        }
        Ok(())
    }

    fn read_line(&mut self, from: &mut Reader<'_>) -> Result<(), Corrupt> {
        let (version, deadline) = (from.u64()?, Elapsed(from.u64()?));
        let (key, value) = (from.bytes()?, from.bytes()?);
        let slot = self.machine.lines.insert(Line::new(key, value, version, deadline));
        self.lines.insert(version, slot);
        Ok(())
    }

    /// Puts somebody who waits in line, behind those with lower tickets.
    fn link_wait(&mut self, ticket: u64, wait: Wait) -> Result<(), Corrupt> {
        let Wait { session, sequence, deadline, name, ask } = wait;
        let machine = &mut self.machine;
        let ask = match ask {
            WaitAsk::Lock { mode, lease_ms } => {
                let lock = machine.locks.find(&name).ok_or(Corrupt::Malformed)?;
                Ask::Lock { lock, mode, lease_ms }
            }
            WaitAsk::Pop { visibility_ms } => {
                let queue = machine.queues.find(&name).ok_or(Corrupt::Malformed)?;
                Ask::Pop { queue, visibility_ms }
            }
        };
        let waiter = Waiter { ticket, session, sequence, deadline, ask, links: Links::NONE };
        let slot = machine.waiters.insert(waiter);
        machine.link_waiter(slot);
        let window = &mut machine.sessions.table.row_mut(session).window;
        window.set(sequence, Remembered::Waiting(slot));
        match ask {
            Ask::Lock { lock, .. } => machine.note_lock(lock),
            Ask::Pop { queue, .. } => machine.note_queue(queue),
        }
        Ok(())
    }

    /// A session has something: it is unfinished if it ended.
    fn note_ended(&mut self, session: u32) {
        if self.machine.sessions.table[session].standing == Standing::Ended {
            self.machine.note_ended(session);
        }
    }

    fn find_session(&self, id: SessionId) -> Result<u32, Corrupt> {
        self.machine.sessions.table.find(&id).ok_or(Corrupt::Malformed)
    }
}

/// What is known of a call.
enum What<'a> {
    Outcome(Outcome),
    Wait { ticket: u64, deadline: Elapsed, name: &'a [u8], ask: WaitAsk },
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Corrupt> {
        let (first, rest) = self.bytes.split_first_chunk::<N>().ok_or(Corrupt::Malformed)?;
        self.bytes = rest;
        Ok(*first)
    }

    fn u8(&mut self) -> Result<u8, Corrupt> {
        self.take::<1>().map(|b| b[0])
    }

    fn u32(&mut self) -> Result<u32, Corrupt> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Corrupt> {
        self.take().map(u64::from_le_bytes)
    }

    fn session(&mut self) -> Result<SessionId, Corrupt> {
        self.take().map(SessionId)
    }

    fn mode(&mut self) -> Result<LockMode, Corrupt> {
        LockMode::from_number(self.u8()?).ok_or(Corrupt::Malformed)
    }

    fn bytes(&mut self) -> Result<&'a [u8], Corrupt> {
        let length = self.u32()? as usize;
        let (first, rest) = self.bytes.split_at_checked(length).ok_or(Corrupt::Malformed)?;
        self.bytes = rest;
        Ok(first)
    }

    fn call(&mut self) -> Result<What<'a>, Corrupt> {
        Ok(What::Outcome(match self.u8()? {
            0 => Outcome::Done { token: self.u64()? },
            1 => Outcome::Delivered { id: self.u64()?, delivery: self.u32()? },
            2 => {
                let code = Code::from_number(u16::from_le_bytes(self.take()?));
                Outcome::Refused(code.ok_or(Corrupt::Malformed)?)
            }
            what @ (3 | 4) => {
                let (ticket, deadline) = (self.u64()?, Elapsed(self.u64()?));
                let name = self.bytes()?;
                let ask = if what == 3 {
                    WaitAsk::Lock { mode: self.mode()?, lease_ms: self.u32()? }
                } else {
                    WaitAsk::Pop { visibility_ms: self.u32()? }
                };
                return Ok(What::Wait { ticket, deadline, name, ask });
            }
            _ => return Err(Corrupt::Malformed),
        }))
    }
}
