//! The meaning of a shard's entries: sessions, locks, queues and cache lines, deterministically.
//!
//! # How it works
//!
//! [`Request::view`] checks what a request alone can tell, before anything is proposed.
//! [`Machine::apply`] applies one committed entry: it moves the clock to the entry's time, fires
//! what is due, in the order of (deadline, number), and then does what the entry says. An outcome that
//! comes at once is returned; one that somebody waited for comes as a [`Wake`], with whatever entry
//! brought it about. [`Machine::read`] and [`Machine::delivery`] read in place.
//!
//! A call is exactly-once by its session's window of remembered outcomes (`sessions.rs`). Locks,
//! queues and lines lie in tables of one kind (`table.rs`); all that happens by itself is a timer of
//! one kind (`ledger/timers.rs`); all fences, versions and ids come from one counter, which only rises.
//!
//! # Walls
//!
//! - The [`Ledger`] holds what all services share: clock, counter, timers, sessions, and who waits.
//! - Each service is a struct in a folder of its own: [`Locks`], [`Queues`], [`Cache`]. It owns its rows, and writes,
//!   reads, checks and frees them. It gets the ledger as an argument and sees no other service: its fields are private
//!   to its folder, and `engine/tests/tidy` looks at what it names.
//! - What concerns more than one service is done here: a session's end (`sessions.rs`), what is due or unfinished
//!   (`steps.rs`), and what levels below [`Level::BOUNDED`] do at once (`oldest.rs`).
//! - Mail from group to group ([`Mails`], in `outbox/`) stands behind a wall like a service.
//! - A new table stands in its folder and in one list, [`snapshot::SECTIONS`]; for comparisons also in `inspect.rs`.
//!
//! # Invariants
//!
//! - The only clock is the time in the entry that is applied. It never goes back.
//! - Equal entries give equal outcomes, equal wakes in equal order, and equal states, whatever
//!   snapshots and restores lie between, and whatever the secret of the tables is.
//! - Nothing here knows of leaders, of connections, or of a network.
//! - An entry takes a bounded number of steps (`steps.rs`); below [`Level::BOUNDED`] it fires at most
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

mod request;
mod ledger;
mod sessions;
mod steps;
mod oldest;
mod locks;
mod queues;
pub mod cache;
mod outbox;
mod mail;
#[cfg(feature = "simulator")]
pub mod measure;
#[cfg(any(test, feature = "simulator"))]
mod inspect;
pub mod meta;
mod snapshot;
mod restore;
mod codec;
mod reborn;
mod table;
mod walk;
mod slab;

#[cfg(test)]
mod tests;

pub use cache::warm::{WARM_MAX, Warm};
#[cfg(any(test, feature = "simulator"))]
pub use mail::Took;
pub use reborn::{TOKENS_SKIPPED, Times};
pub use restore::{Checksum, Corrupt, Restore, Restored};
pub use snapshot::{Slice, SliceProgress};
pub(crate) use table::Probe;

use self::cache::Cache;
use self::ledger::Ledger;
use self::locks::Locks;
use self::outbox::Mails;
use self::queues::Queues;
use self::steps::Turn;
use crate::entry::kind;
use crate::ids::SessionId;
use crate::level::Level;
use crate::limits::{
    STEPS_PER_CALL_MAX, STEPS_PER_ENTRY_MAX, STEPS_PER_TICK_MAX, TIMERS_PER_ENTRY_MAX,
};
use crate::secret::Secret;
use crate::status::MachineStatus;
use crate::time::{Duration, Elapsed};
use alloc::boxed::Box;
use alloc::vec::Vec;
use wire::message::CacheGet;
use wire::{Code, Detail, Kind, Request};

/// What a machine is made with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MachineConfig {
    /// Stands for the cluster: the same on all replicas. A snapshot of another cluster's is refused.
    pub cluster: u64,
    /// What the cache lines may take, overhead included, in bytes: the same on all replicas.
    pub cache_bytes_max: u64,
    /// The key of the tables' hash: this process's own.
    pub secret: Secret,
}

/// What came of a call. It is remembered as long as its client may ask again.
#[derive(Clone, PartialEq, Eq, Debug)]
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
    Refused {
        /// Why.
        code: Code,
        /// How things stood that it was refused for; from [`Level::DETAIL`] on, where there is something to say.
        detail: Option<Box<Detail<'static>>>,
    },
}

impl Outcome {
    /// A refusal that says no more than why.
    #[inline]
    pub fn refused(code: Code) -> Outcome {
        Outcome::Refused { code, detail: None }
    }
}

/// What applying an entry gave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Applied {
    /// The request's outcome.
    Done(Outcome),
    /// The call waits. Its outcome comes as a [`Wake`], with this entry's wakes at the earliest.
    Waiting,
    /// The entry asked for nothing.
    Nothing,
}

/// Somebody who waited is to be told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wake {
    /// The session of the call.
    pub session: SessionId,
    /// The number of the call.
    pub sequence: u64,
    /// What came of it.
    pub outcome: Outcome,
}

/// What a read asks for: a request that was vetted when it came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadAsk<'a> {
    /// Its kind.
    pub kind: Kind,
    /// The client's bytes.
    pub body: &'a [u8],
}

impl<'a> ReadAsk<'a> {
    /// The line that it reads; nothing of another read.
    pub(crate) fn line(self) -> &'a [u8] {
        match self.kind {
            CacheGet::KIND => CacheGet::decode(self.body).map_or(&[], |get| get.key),
            _ => &[],
        }
    }
}

/// What a read at some moment shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum View<'a> {
    /// A cache line.
    Line {
        /// Its version.
        version: u64,
        /// Its value.
        value: &'a [u8],
    },
    /// There is nothing to show.
    Refused(Code),
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
    config: MachineConfig,
    ledger: Ledger,
    locks: Locks,
    queues: Queues,
    cache: Cache,
    mails: Mails,
    /// The mail that was taken, until somebody looks.
    #[cfg(any(test, feature = "simulator"))]
    took: Vec<Took>,
    /// The most steps that an entry took.
    #[cfg(test)]
    most_steps: u32,
    /// How far the snapshot that is being made has come, if one is.
    making: Option<snapshot::SnapshotCursor>,
}

impl Machine {
    /// An empty machine.
    pub fn new(config: MachineConfig) -> Machine {
        let secret = config.secret;
        Machine {
            config,
            ledger: Ledger::new(secret),
            locks: Locks::new(secret),
            queues: Queues::new(secret),
            cache: Cache::new(secret, config.cache_bytes_max),
            mails: Mails::default(),
            #[cfg(any(test, feature = "simulator"))]
            took: Vec::new(),
            #[cfg(test)]
            most_steps: 0,
            making: None,
        }
    }

    /// Applies the next entry of the shard's log. Whoever's wait it ends is appended to `wakes`,
    /// in an order that is the same on every replica.
    pub fn apply(
        &mut self,
        time: Elapsed,
        kind: Kind,
        payload: &[u8],
        wakes: &mut Vec<Wake>,
    ) -> Applied {
        let now = self.ledger.advance_clock(time);
        let turn = &mut Turn { now, steps: u32::MAX, taken: 0, wakes };
        if self.ledger.level() >= Level::BOUNDED {
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
                self.ledger.raise_level(Level::decode(payload).unwrap_or_default());
                Applied::Nothing
            }
            kind::RENEW => {
                for id in payload.as_chunks::<16>().0 {
                    self.renew(SessionId(*id), turn);
                }
                Applied::Nothing
            }
            kind::MAIL if self.ledger.level() >= Level::OUTBOX => {
                self.take_mail(payload);
                Applied::Nothing
            }
            kind::MAIL_TAKEN if self.ledger.level() >= Level::OUTBOX => {
                self.forget_mail(payload);
                Applied::Nothing
            }
            #[cfg(any(test, feature = "simulator"))]
            kind::MAIL_WRITE if self.ledger.level() >= Level::OUTBOX => {
                Applied::Done(self.write_mail(payload))
            }
            _ => match Request::view(kind, payload) {
                Err(code) => Applied::Done(Outcome::refused(code)),
                Ok(request) => self.request(request, turn),
            },
        }
    }

    /// When something is due by itself: a tick must be proposed then. It may lie in the past, when
    /// more was due at once than one entry fires, or something is unfinished.
    pub fn next_deadline(&self) -> Option<Elapsed> {
        self.ledger.next_deadline()
    }

    /// The group's feature level.
    pub fn level(&self) -> Level {
        self.ledger.level()
    }

    /// The highest time of an entry applied.
    pub fn clock(&self) -> Elapsed {
        self.ledger.clock()
    }

    /// What a read shows of the state as it is at `at`, which is not before [`Machine::clock`]. `probe`: where its name
    /// was found, if that was looked at.
    #[inline]
    pub(crate) fn read(&self, probe: Option<Probe>, ask: ReadAsk<'_>, at: Elapsed) -> View<'_> {
        match ask.kind {
            CacheGet::KIND => self.line(probe, ask.line(), at),
            // What changes something shows nothing.
            _ => View::Refused(Code::UnknownKind),
        }
    }

    /// Reads a line.
    pub fn get(&self, key: &[u8], at: Elapsed) -> View<'_> {
        self.line(None, key, at)
    }

    #[inline]
    fn line(&self, probe: Option<Probe>, key: &[u8], at: Elapsed) -> View<'_> {
        let probe = probe.unwrap_or_else(|| self.cache.probe(key));
        self.cache.view(&self.ledger, probe, key, at.max(self.ledger.clock()))
    }

    /// Looks ahead at the first [`WARM_MAX`] of some lines. Says in `warm` where their keys are found.
    pub fn warm<'k>(&self, keys: impl Iterator<Item = &'k [u8]>, warm: &mut Warm) {
        self.cache.warm(keys, warm);
    }

    /// What an [`Outcome::Delivered`] delivers: a message by its id and the number of the delivery. None if that delivery is no longer in flight: it was
    /// acknowledged or given back, or its visibility ran out.
    pub fn delivery(&self, (id, delivery): (u64, u32)) -> Option<DeliveryView<'_>> {
        self.queues.view_delivery(id, delivery)
    }

    /// A session's time to live, if there is such a session.
    pub fn session_ttl(&self, id: SessionId) -> Option<Duration> {
        Some(self.ledger.session_ttl(self.ledger.find_session(id)?))
    }

    /// How many sessions live.
    pub fn sessions(&self) -> usize {
        self.ledger.living()
    }

    /// When a session ends if it is not renewed, if there is such a session.
    pub fn session_deadline(&self, id: SessionId) -> Option<Elapsed> {
        Some(self.ledger.session_deadline(self.ledger.find_session(id)?))
    }

    /// How many sessions ended without being closed, since this machine was made or restored.
    pub fn sessions_expired(&self) -> u64 {
        self.ledger.expired()
    }

    /// What the machine holds.
    pub fn status(&self) -> MachineStatus {
        let messages = self.queues.counts();
        MachineStatus {
            sessions: self.ledger.living() as u64,
            locks: self.locks.len() as u64,
            lock_waiters: self.ledger.lock_waiters(),
            queues: self.queues.len() as u64,
            messages_ready: messages.ready,
            messages_in_flight: messages.in_flight,
            messages_delayed: messages.delayed,
            lines: self.cache.len() as u64,
            line_bytes: self.cache.bytes(),
            evictions: self.cache.evictions(),
        }
    }
}
