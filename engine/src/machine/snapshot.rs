//! The whole state as bytes, and back.
//!
//! ```text
//! head:     magic "TCSM" | version u32 | seed u64 | cache budget u64 | clock u64 | last number u64
//! ended:    count u32 | count x session id 16
//! sessions: count u32 | count x ( id 16 | number u64 | ttl ms u32 | deadline u64 | answered below u64
//!             | calls u32 | calls x ( sequence u64 | outcome ) )
//! locks:    count u32 | count x ( name | mode u8
//!             | grants u32 | grants x ( session 16 | fence u64 | count u32 | deadline u64 )
//!             | waiters u32 | waiters x ( waiter | mode u8 | lease ms u32 ) )
//! queues:   count u32 | count x ( name | waiters u32 | waiters x ( waiter | visibility ms u32 ) )
//! messages: count u32 | count x ( id u64 | queue u32 | priority u8 | delivery u32
//!             | place u8 | session 16 if in flight | deadline u64 unless ready | payload )
//! lines:    count u32 | count x ( version u64 | deadline u64 | key | value )
//! tail:     CRC-32C u32 of all before it
//!
//! name, key, payload, value:  length u32 | bytes
//! waiter:   session 16 | sequence u64 | ticket u64 | deadline u64
//! outcome:  0 | token u64    or  1 | id u64 | delivery u32    or  2 | code u16
//! place:    0 = ready, 1 = in flight, 2 = delayed
//! ```
//!
//! Integers are little-endian. Each table is written as [`Table::walk`](super::table::Table::walk) shows it,
//! grants and waiters in their order; a message names its queue by its place among the queues. So equal
//! state gives equal bytes. Waiting calls are not among a session's calls: their waiters stand for
//! them. Timers, counts, and what a session owns follow from the rest.

use super::cache::Line;
use super::lock::{Grant, Lock};
use super::queue::{Message, Place, Queue};
use super::request::Mode;
use super::session::{Ask, Remembered, Session, Waiter, Window};
use super::slab::Links;
use super::timers::Timer;
use super::{Config, Machine, Outcome};
use crate::ids::SessionId;
use crate::mutant::{self, Mutant};
use crate::time::Elapsed;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use wire::Code;

const MAGIC: u32 = u32::from_le_bytes(*b"TCSM");
const VERSION: u32 = 1;
/// Size of the checksum at the end.
const TAIL_BYTES: usize = 4;

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
    /// Written under another seed or cache budget. Replicas that differ in one would diverge.
    #[error("the snapshot was made with another hash seed or cache budget than is configured here")]
    Config,
    /// The checksum matches, but the content makes no sense.
    #[error("the snapshot's content is malformed")]
    Malformed,
}

impl Machine {
    /// Appends the whole state to `out`. Equal state gives equal bytes.
    pub fn snapshot(&self, out: &mut Vec<u8>) {
        let start = out.len();
        // What is large is counted: let it not be copied again and again while `out` grows.
        let large = self.line_bytes + self.counts.message_bytes;
        out.reserve(usize::try_from(large).expect("state fits into memory"));
        put_u32(out, MAGIC);
        put_u32(out, VERSION);
        put_u64(out, self.config.seed);
        put_u64(out, self.config.cache_bytes_max);
        put_u64(out, self.clock.0);
        put_u64(out, self.issued);
        put_count(out, self.sessions.ended.len());
        self.sessions.ended.iter().for_each(|id| out.extend_from_slice(&id.0));
        self.write_sessions(out);
        self.write_locks(out);
        self.write_queues(out);
        put_count(out, self.lines.len());
        self.lines.walk(|_, line| {
            put_u64(out, line.version);
            put_u64(out, line.deadline.0);
            put_bytes(out, super::table::Row::key(line));
            put_bytes(out, line.value());
        });
        let sum = crc32c::crc32c(&out[start..]);
        put_u32(out, sum);
    }

    fn write_sessions(&self, out: &mut Vec<u8>) {
        put_count(out, self.sessions.table.len());
        self.sessions.table.walk(|_, session| {
            out.extend_from_slice(&session.id.0);
            put_u64(out, session.number);
            put_u32(out, session.ttl_ms);
            put_u64(out, session.deadline.0);
            put_u64(out, session.window.answered_below);
            let forgotten = mutant::on(Mutant::ForgetWindow);
            let done = |what: &Remembered| !forgotten && matches!(what, Remembered::Outcome(_));
            let calls = &session.window.calls;
            put_count(out, calls.iter().filter(|(_, what)| done(what)).count());
            for (sequence, what) in calls {
                if let Remembered::Outcome(outcome) = what
                    && done(what)
                {
                    put_u64(out, *sequence);
                    put_outcome(out, *outcome);
                }
            }
        });
    }

    fn write_locks(&self, out: &mut Vec<u8>) {
        put_count(out, self.locks.len());
        self.locks.walk(|_, lock| {
            put_bytes(out, &lock.name);
            out.push(lock.mode as u8);
            put_count(out, lock.grants.len());
            for grant in lock.grants.iter(&self.grants) {
                let grant = &self.grants[grant];
                self.put_session(out, grant.session);
                put_u64(out, grant.fence);
                put_u32(out, grant.count);
                put_u64(out, grant.deadline.0);
            }
            put_count(out, lock.waiters.len());
            for waiter in lock.waiters.iter(&self.waiters) {
                self.put_waiter(out, waiter);
                let Ask::Lock { mode, lease_ms, .. } = self.waiters[waiter].ask else {
                    unreachable!("a lock's waiters ask for the lock")
                };
                out.push(mode as u8);
                put_u32(out, lease_ms);
            }
        });
    }

    fn write_queues(&self, out: &mut Vec<u8>) {
        let mut places: BTreeMap<u32, u32> = BTreeMap::new();
        put_count(out, self.queues.len());
        self.queues.walk(|slot, queue| {
            let place = u32::try_from(places.len()).expect("limits keep queues under 2^32");
            places.insert(slot, place);
            put_bytes(out, &queue.name);
            put_count(out, queue.waiters.len());
            for waiter in queue.waiters.iter(&self.waiters) {
                self.put_waiter(out, waiter);
                let Ask::Pop { visibility_ms, .. } = self.waiters[waiter].ask else {
                    unreachable!("a queue's waiters ask for a message")
                };
                put_u32(out, visibility_ms);
            }
        });
        put_count(out, self.messages.len());
        self.messages.walk(|_, message| {
            put_u64(out, message.id);
            put_u32(out, places[&message.queue]);
            out.push(message.priority);
            put_u32(out, message.delivery);
            match message.place {
                Place::Ready => out.push(0),
                Place::InFlight { session, deadline } => {
                    out.push(1);
                    self.put_session(out, session);
                    put_u64(out, deadline.0);
                }
                Place::Delayed { deadline } => {
                    out.push(2);
                    put_u64(out, deadline.0);
                }
            }
            put_bytes(out, &message.payload);
        });
    }

    fn put_session(&self, out: &mut Vec<u8>, slot: u32) {
        out.extend_from_slice(&self.sessions.table[slot].id.0);
    }

    fn put_waiter(&self, out: &mut Vec<u8>, slot: u32) {
        let waiter = &self.waiters[slot];
        self.put_session(out, waiter.session);
        put_u64(out, waiter.sequence);
        put_u64(out, waiter.ticket);
        put_u64(out, waiter.deadline.0);
    }

    /// The machine that wrote these bytes.
    ///
    /// # Errors
    /// [`Corrupt`], which says what is wrong with the bytes.
    pub fn restore(config: Config, bytes: &[u8]) -> Result<Machine, Corrupt> {
        let length = bytes.len().checked_sub(TAIL_BYTES).ok_or(Corrupt::NoSnapshot)?;
        let (content, tail) = bytes.split_at(length);
        let mut from = Reader { bytes: content };
        if from.u32() != Ok(MAGIC) {
            return Err(Corrupt::NoSnapshot);
        }
        let got = from.u32().map_err(|_| Corrupt::NoSnapshot)?;
        if got != VERSION {
            return Err(Corrupt::Version { got });
        }
        if (Reader { bytes: tail }).u32() != Ok(crc32c::crc32c(content)) {
            return Err(Corrupt::Checksum);
        }
        if from.u64()? != config.seed || from.u64()? != config.cache_bytes_max {
            return Err(Corrupt::Config);
        }
        let mut machine = Machine::new(config);
        machine.clock = Elapsed(from.u64()?);
        machine.issued = from.u64()?;
        if mutant::on(Mutant::FenceReuse) {
            machine.issued /= 2;
        }
        for _ in 0..from.u32()? {
            machine.sessions.remember_ended(from.session()?);
        }
        machine.read_sessions(&mut from)?;
        machine.read_locks(&mut from)?;
        machine.read_queues(&mut from)?;
        machine.read_lines(&mut from)?;
        if from.bytes.is_empty() { Ok(machine) } else { Err(Corrupt::Malformed) }
    }

    fn read_sessions(&mut self, from: &mut Reader<'_>) -> Result<(), Corrupt> {
        for _ in 0..from.u32()? {
            let (id, number, ttl_ms) = (from.session()?, from.u64()?, from.u32()?);
            let deadline = Elapsed(from.u64()?);
            let mut window = Window { answered_below: from.u64()?, ..Window::default() };
            for _ in 0..from.u32()? {
                let sequence = from.u64()?;
                window.calls.push_back((sequence, Remembered::Outcome(from.outcome()?)));
            }
            let owned = BTreeMap::new();
            let row = Session { id, number, ttl_ms, deadline, window, owned, waits: 0 };
            let slot = self.sessions.table.insert(row);
            self.timers.arm(deadline, number, Timer::SessionEnd(slot));
        }
        Ok(())
    }

    fn read_locks(&mut self, from: &mut Reader<'_>) -> Result<(), Corrupt> {
        for _ in 0..from.u32()? {
            let (name, mode) = (from.bytes()?, from.mode()?);
            let lock = self.locks.insert(Lock::new(name, mode));
            for _ in 0..from.u32()? {
                let session = self.find_session(from.session()?)?;
                let (fence, count, deadline) = (from.u64()?, from.u32()?, Elapsed(from.u64()?));
                let links = Links::NONE;
                let grant = Grant { lock, session, fence, count, deadline, links };
                let slot = self.grants.insert(grant);
                self.link_grant(slot);
            }
            for _ in 0..from.u32()? {
                self.read_waiter(from, |from| {
                    let (mode, lease_ms) = (from.mode()?, from.u32()?);
                    Ok(Ask::Lock { lock, mode, lease_ms })
                })?;
            }
        }
        Ok(())
    }

    fn read_queues(&mut self, from: &mut Reader<'_>) -> Result<(), Corrupt> {
        let mut queues: Vec<u32> = Vec::new();
        for _ in 0..from.u32()? {
            let queue = self.queues.insert(Queue::new(from.bytes()?));
            queues.push(queue);
            for _ in 0..from.u32()? {
                self.read_waiter(from, |from| {
                    let visibility_ms = from.u32()?;
                    Ok(Ask::Pop { queue, visibility_ms })
                })?;
            }
        }
        for _ in 0..from.u32()? {
            let id = from.u64()?;
            let queue = *queues.get(from.u32()? as usize).ok_or(Corrupt::Malformed)?;
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
            self.insert_message(Message { id, queue, priority, delivery, place, payload });
        }
        Ok(())
    }

    fn read_lines(&mut self, from: &mut Reader<'_>) -> Result<(), Corrupt> {
        let mut by_version: Vec<(u64, u32)> = Vec::new();
        for _ in 0..from.u32()? {
            let (version, deadline) = (from.u64()?, Elapsed(from.u64()?));
            let (key, value) = (from.bytes()?, from.bytes()?);
            let slot = self.lines.insert(Line::new(key, value, version, deadline));
            by_version.push((version, slot));
        }
        by_version.sort_unstable();
        by_version.iter().for_each(|(_, slot)| self.link_line(*slot));
        Ok(())
    }

    fn read_waiter(
        &mut self,
        from: &mut Reader<'_>,
        ask: impl FnOnce(&mut Reader<'_>) -> Result<Ask, Corrupt>,
    ) -> Result<(), Corrupt> {
        let session = self.find_session(from.session()?)?;
        let (sequence, ticket, deadline) = (from.u64()?, from.u64()?, Elapsed(from.u64()?));
        let (ask, links) = (ask(from)?, Links::NONE);
        let slot = self.waiters.insert(Waiter { ticket, session, sequence, deadline, ask, links });
        self.link_waiter(slot);
        self.sessions.table[session].window.set(sequence, Remembered::Waiting(slot));
        Ok(())
    }

    fn find_session(&self, id: SessionId) -> Result<u32, Corrupt> {
        self.sessions.table.find(&id).ok_or(Corrupt::Malformed)
    }
}

fn put_u32(out: &mut Vec<u8>, number: u32) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn put_u64(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    put_u32(out, u32::try_from(count).expect("limits keep rows under 2^32"));
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn put_outcome(out: &mut Vec<u8>, outcome: Outcome) {
    match outcome {
        Outcome::Done { token } => {
            out.push(0);
            put_u64(out, token);
        }
        Outcome::Delivered { id, delivery } => {
            out.push(1);
            put_u64(out, id);
            put_u32(out, delivery);
        }
        Outcome::Refused(code) => {
            out.push(2);
            out.extend_from_slice(&code.number().to_le_bytes());
        }
    }
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

    fn mode(&mut self) -> Result<Mode, Corrupt> {
        Mode::from_number(self.u8()?).ok_or(Corrupt::Malformed)
    }

    fn bytes(&mut self) -> Result<&'a [u8], Corrupt> {
        let length = self.u32()? as usize;
        let (first, rest) = self.bytes.split_at_checked(length).ok_or(Corrupt::Malformed)?;
        self.bytes = rest;
        Ok(first)
    }

    fn outcome(&mut self) -> Result<Outcome, Corrupt> {
        match self.u8()? {
            0 => Ok(Outcome::Done { token: self.u64()? }),
            1 => Ok(Outcome::Delivered { id: self.u64()?, delivery: self.u32()? }),
            2 => {
                let code = Code::from_number(u16::from_le_bytes(self.take()?));
                code.map(Outcome::Refused).ok_or(Corrupt::Malformed)
            }
            _ => Err(Corrupt::Malformed),
        }
    }
}
