//! The meaning of a shard's entries: sessions, locks, queues and cache lines, deterministically.
//!
//! # How it works
//!
//! [`Request::view`] checks what a request alone can tell, before anything is proposed.
//! [`Machine::apply`] applies one committed entry: it moves the clock to the entry's time, fires
//! what is due, in the order of (deadline, number), and then does what the entry says. An outcome that
//! comes at once is returned; one that somebody waited for comes as a [`Wake`], with whatever entry
//! brought it about. [`Machine::get`] and [`Machine::delivery`] read in place.
//!
//! A call is exactly-once by its session's window of remembered outcomes (`session.rs`). Locks,
//! queues and lines lie in tables of one kind (`table.rs`); all that happens by itself is a timer of
//! one kind (`timers.rs`); all fences, versions and ids come from one counter, which only rises.
//!
//! # Invariants
//!
//! - The only clock is the time in the entry that is applied. It never goes back.
//! - Equal entries give equal outcomes, equal wakes in equal order, and equal states, whatever
//!   snapshots and restores lie between, and whatever the secret of the tables is.
//! - Nothing here knows of leaders, of connections, or of a network.
//! - An entry takes a bounded number of steps (`unfinished.rs`); below [`Level::BOUNDED`] it fires at most
//!   [`TIMERS_PER_ENTRY_MAX`] timers. What is due, or unfinished, is never seen as if it were not: each operation
//!   looks at what it touches.
//! - Bytes that are no request are refused, the same way on every replica; they never panic.
//!
//! # Left out
//!
//! Payloads live in the machine, not in a store beside it.
//!
//! # Sources
//!
//! Exactly-once calls: Ongaro, Consensus: Bridging Theory and Practice, section 6.3. Fencing: Kleppmann,
//! How to do distributed locking, 2016.

pub mod cache;
mod locks;
pub mod meta;
mod queues;
mod reborn;
mod request;
mod restore;
mod sessions;
mod slab;
mod snapshot;
mod table;
mod timers;
mod unfinished;
mod verify;
mod walk;

#[cfg(test)]
mod tests;

pub use cache::warm::{WARM_MAX, Warm};
pub use reborn::{TOKENS_SKIPPED, Times};
pub use restore::{Checksum, Corrupt, Restore, Restored};
pub use snapshot::{Progress, Slice};
pub(crate) use table::Probe;

use self::locks::{Grant, Lock};
use self::queues::{Message, Queue};
use self::sessions::{Sessions, Waiter};
use self::slab::{List, Slab};
use self::table::Table;
use self::timers::{Timer, Timers};
use self::unfinished::Unfinished;
use crate::entry::{Entry, kind};
use crate::ids::SessionId;
use crate::level::Level;
use crate::limits::{
    STEPS_PER_CALL_MAX, STEPS_PER_ENTRY_MAX, STEPS_PER_TICK_MAX, TIMERS_PER_ENTRY_MAX,
};
use crate::secret::Secret;
use crate::status::MachineStatus;
use crate::time::{Duration, Elapsed, millis};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use wire::{Code, Kind, Request};

/// What a machine is made with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// Stands for the cluster: the same on all replicas. A snapshot of another cluster's is refused.
    pub cluster: u64,
    /// What the cache lines may take, overhead included, in bytes: the same on all replicas.
    pub cache_bytes_max: u64,
    /// The key of the tables' hash: this process's own.
    pub secret: Secret,
}

/// What came of a call. It is remembered as long as its client may ask again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It was done.
    Done {
        /// The fence, the message's id or the line's version that it made; 0 = nothing.
        token: u64,
    },
    /// A message was delivered: [`Machine::delivery`] has its payload.
    Delivered {
        /// The message.
        id: u64,
        /// Which of its deliveries.
        delivery: u32,
    },
    /// It was refused, and nothing was done.
    Refused(Code),
}

/// What applying an entry gave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Applied {
    /// The request's outcome.
    Done(Outcome),
    /// The call waits. Its outcome comes as a [`Wake`], with this entry's wakes at the earliest.
    Waiting,
    /// The entry asked for nothing.
    Nothing,
}

/// Somebody who waited is to be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wake {
    /// The session of the call.
    pub session: SessionId,
    /// The number of the call.
    pub sequence: u64,
    /// What came of it.
    pub outcome: Outcome,
}

/// A line, as a read at some moment may see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Get<'a> {
    /// It is there.
    Found {
        /// Its version.
        version: u64,
        /// Its value.
        value: &'a [u8],
    },
    /// It is not there.
    Missing,
    /// Its time is over, but no entry has ended it: propose a tick and read again.
    Due,
}

/// A message that was delivered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeliveryView<'a> {
    /// The message.
    pub id: u64,
    /// Which of its deliveries.
    pub delivery: u32,
    /// Its priority.
    pub priority: u8,
    /// What was pushed.
    pub payload: &'a [u8],
}

/// One shard's state.
pub struct Machine {
    config: Config,
    /// The highest time of an entry applied.
    clock: Elapsed,
    /// The last number issued as a fence, version, id, ticket or session number.
    issued: u64,
    level: Level,
    timers: Timers,
    sessions: Sessions,
    /// Calls that wait, for locks and for messages.
    waiters: Slab<Waiter>,
    locks: Table<Lock>,
    grants: Slab<Grant>,
    /// The grants of locks with more than [`FEW_GRANTS`](locks::FEW_GRANTS), by session and lock: slots, which decide
    /// nothing.
    crowded: BTreeMap<(u32, u32), u32>,
    queues: Table<Queue>,
    messages: Table<Message>,
    lines: Table<cache::Line>,
    /// Lines in the order of their versions: that of eviction.
    lines_by_version: List,
    line_bytes: u64,
    counts: Counts,
    /// What takes more than one entry, by number.
    unfinished: BTreeMap<u64, Unfinished>,
    /// The level at which the snapshot that is being made was begun.
    making_level: Level,
    /// The most steps that an entry took.
    #[cfg(test)]
    most_steps: u32,
    /// The snapshot that is being made, if one is.
    making: Option<Box<snapshot::Making>>,
}

/// Sums over the state, kept as it changes; the last two count since the start, and are no state.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Counts {
    lock_waiters: u64,
    messages_ready: u64,
    messages_in_flight: u64,
    messages_delayed: u64,
    message_bytes: u64,
    evictions: u64,
    sessions_expired: u64,
}

/// The entry that is being applied: its time, what it may still do, and who is to be told.
struct Turn<'w> {
    now: Elapsed,
    /// How many steps are left.
    steps: u32,
    /// How many were taken.
    taken: u32,
    wakes: &'w mut Vec<Wake>,
}

impl Turn<'_> {
    /// Takes a step. There may be none left: what can't be cut short takes it all the same.
    fn step(&mut self) {
        self.steps = self.steps.saturating_sub(1);
        self.taken = self.taken.saturating_add(1);
    }
}

impl Machine {
    /// An empty machine.
    pub fn new(config: Config) -> Machine {
        let secret = config.secret;
        Machine {
            config,
            clock: Elapsed::ZERO,
            issued: 0,
            level: Level::OLDEST,
            timers: Timers::default(),
            sessions: Sessions::new(secret),
            waiters: Slab::new(),
            locks: Table::new(secret),
            grants: Slab::new(),
            crowded: BTreeMap::new(),
            queues: Table::new(secret),
            messages: Table::new(secret),
            lines: Table::new(secret),
            lines_by_version: List::EMPTY,
            line_bytes: 0,
            counts: Counts::default(),
            unfinished: BTreeMap::new(),
            making_level: Level::OLDEST,
            #[cfg(test)]
            most_steps: 0,
            making: None,
        }
    }

    /// Applies the next entry of the shard's log. Whoever's wait it ends is appended to `wakes`,
    /// in an order that is the same on every replica.
    pub fn apply(&mut self, entry: &Entry<'_>, wakes: &mut Vec<Wake>) -> Applied {
        self.apply_at(entry.header.time, entry.header.kind, entry.payload, wakes)
    }

    /// [`Machine::apply`], from an entry's parts.
    pub fn apply_at(
        &mut self,
        time: Elapsed,
        kind: Kind,
        payload: &[u8],
        wakes: &mut Vec<Wake>,
    ) -> Applied {
        self.clock = self.clock.max(time);
        let turn = &mut Turn { now: self.clock, steps: u32::MAX, taken: 0, wakes };
        if self.level >= Level::BOUNDED {
            let tick = kind == kind::TICK;
            self.go_on(if tick { STEPS_PER_TICK_MAX } else { STEPS_PER_ENTRY_MAX }, turn);
            turn.steps = STEPS_PER_CALL_MAX;
        } else {
            (0..TIMERS_PER_ENTRY_MAX).all(|_| self.fire_next(turn));
        }
        let applied = self.apply_in(kind, payload, turn);
        #[cfg(test)]
        {
            self.most_steps = self.most_steps.max(turn.taken);
        }
        applied
    }

    fn apply_in(&mut self, kind: Kind, payload: &[u8], turn: &mut Turn<'_>) -> Applied {
        match kind {
            kind::NOOP | kind::TICK | kind::MEMBERS => Applied::Nothing,
            kind::LEVEL => {
                self.raise_level(Level::decode(payload).unwrap_or_default());
                Applied::Nothing
            }
            kind::RENEW => {
                for id in payload.as_chunks::<16>().0 {
                    self.renew(SessionId(*id), turn);
                }
                Applied::Nothing
            }
            _ => match Request::view(kind, payload) {
                Err(code) => Applied::Done(Outcome::Refused(code)),
                Ok(request) => self.request(request, turn),
            },
        }
    }

    /// When something is due by itself: a tick must be proposed then. It may lie in the past, when
    /// more was due at once than one entry fires, or something is unfinished.
    pub fn next_deadline(&self) -> Option<Elapsed> {
        let unfinished = (!self.unfinished.is_empty()).then_some(self.clock);
        self.timers.next_deadline().into_iter().chain(unfinished).min()
    }

    /// The group's feature level.
    pub fn level(&self) -> Level {
        self.level
    }

    /// The highest time of an entry applied.
    pub fn clock(&self) -> Elapsed {
        self.clock
    }

    /// Reads a line as it is at `at`, which is not before [`Machine::clock`].
    pub fn get(&self, key: &[u8], at: Elapsed) -> Get<'_> {
        self.get_at(self.lines.probe(key), key, at)
    }

    /// The same, of a key that was looked at.
    pub(crate) fn get_at(&self, probe: Probe, key: &[u8], at: Elapsed) -> Get<'_> {
        self.view_line(probe, key, at.max(self.clock))
    }

    /// What an [`Outcome::Delivered`] delivers. None if that delivery is no longer in flight: it was
    /// acknowledged or given back, or its visibility ran out.
    pub fn delivery(&self, outcome: Outcome) -> Option<DeliveryView<'_>> {
        match outcome {
            Outcome::Delivered { id, delivery } => self.view_delivery(id, delivery),
            Outcome::Done { .. } | Outcome::Refused(_) => None,
        }
    }

    /// Shows every session whose deadline comes before `before`, earliest first, for its renewal.
    pub fn sessions_due(&self, before: Elapsed, each: &mut dyn FnMut(SessionId, Elapsed)) {
        for slot in self.timers.sessions_due(before) {
            let session = &self.sessions.table[slot];
            each(session.id, session.deadline);
        }
    }

    /// A session's time to live, if there is such a session.
    pub fn session_ttl(&self, id: SessionId) -> Option<Duration> {
        Some(millis(self.sessions.table[self.open_session(id)?].ttl_ms))
    }

    /// How many sessions live.
    pub fn sessions(&self) -> usize {
        self.sessions.living()
    }

    /// When a session ends if it is not renewed, if there is such a session.
    pub fn session_deadline(&self, id: SessionId) -> Option<Elapsed> {
        Some(self.sessions.table[self.open_session(id)?].deadline)
    }

    /// Whether there is such a session.
    pub fn has_session(&self, id: SessionId) -> bool {
        self.open_session(id).is_some()
    }

    /// How many sessions ended without being closed, since this machine was made or restored.
    pub fn sessions_expired(&self) -> u64 {
        self.counts.sessions_expired
    }

    /// What the machine holds.
    pub fn status(&self) -> MachineStatus {
        MachineStatus {
            sessions: self.sessions.living() as u64,
            locks: self.locks.len() as u64,
            lock_waiters: self.counts.lock_waiters,
            queues: self.queues.len() as u64,
            messages_ready: self.counts.messages_ready,
            messages_in_flight: self.counts.messages_in_flight,
            messages_delayed: self.counts.messages_delayed,
            lines: self.lines.len() as u64,
            line_bytes: self.line_bytes,
            evictions: self.counts.evictions,
        }
    }

    /// Raises the feature level: what it changes of the state changes here.
    fn raise_level(&mut self, level: Level) {
        let before = self.level;
        self.level = before.max(level);
        if before < Level::BOUNDED && self.level >= Level::BOUNDED {
            self.remember_by_time();
        }
    }

    /// Fires the first timer that is due. False: none is.
    fn fire_next(&mut self, turn: &mut Turn<'_>) -> bool {
        let Some(timer) = self.timers.take_due(turn.now) else { return false };
        turn.step();
        match timer {
            Timer::SessionEnd(session) => self.expire_session(session, turn),
            Timer::SessionForget(session) => self.forget_session(session, turn),
            Timer::LockLease(grant) => self.lease_ended(grant, turn),
            Timer::LockWait(waiter) => self.wait_ended(waiter, Code::LockTimeout, turn),
            Timer::PopWait(waiter) => self.wait_ended(waiter, Code::QueueEmpty, turn),
            Timer::Visibility(message) | Timer::Delay(message) => self.message_due(message, turn),
            Timer::LineExpiry(line) => self.line_due(line, turn.now),
        }
        true
    }

    fn wait_ended(&mut self, waiter: u32, code: Code, turn: &mut Turn<'_>) {
        assert!(self.waiters[waiter].deadline <= turn.now, "a wait never ends early");
        let ask = self.waiters[waiter].ask;
        self.end_wait(waiter, Outcome::Refused(code), turn);
        self.after_wait(ask, turn);
    }

    /// The next number.
    fn issue(&mut self) -> u64 {
        self.issued = self.issued.checked_add(1).expect("2^64 numbers are never used up");
        self.issued
    }
}
