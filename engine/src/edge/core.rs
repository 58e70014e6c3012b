//! One data thread: a loop over its ring, and the engines that it serves.
//!
//! # How it works
//!
//! A turn: drain what completed; read the clock; feed the engines; let them end their turn; carry out
//! their effects, the journal's write first; park in the ring until something completes or an engine
//! wants to be woken. All that arrived in a turn is one batch: one write of the journal, one message for
//! each peer, one send for each connection.
//!
//! # Invariants
//!
//! - `now` is read after the inputs were drained, never before: nothing is seen earlier than it came.
//! - At most one write of each engine is under way, and what it writes is not touched meanwhile.
//! - A message for the control plane that does not fit is kept for the next turn; only notes may be
//!   dropped, and are counted.

mod seat;

use super::bridge::{Fatal, Inbox, ToControl, ToCore};
use super::clock;
use super::counters::Counters;
use super::data::{Common, StartError, thread_of};
use super::ring::{CORE_SIZES, Completion, Park, Ring};
use crate::effects::Note;
use crate::engine::Input;
use crate::time::{Duration, Time};
use io_uring::{opcode, types::Fd};
use seat::{Control, Seat};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// How long a stopping thread waits for what is under way.
const STOP_MAX: Duration = Duration::from_secs(2);
/// The longest sleep: a bound on what a lost wake-up could cost.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// How often a full mailbox of the control plane is tried again.
const KEPT_RETRY: Duration = Duration::from_millis(5);

/// What a thread is made with.
pub(super) struct Outfit {
    pub thread: usize,
    pub inbox: Inbox<ToCore>,
    pub common: Arc<Common>,
}

/// Why [`Core::run`] returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pause {
    /// The doorbell rang: whoever schedules this thread may want a turn.
    Rung,
    /// All is finished.
    Stopped,
}

/// What a submission was for: the top byte of its token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Op {
    Bell = 1,
    Write = 2,
}

/// A token: what for, and for whom.
pub(super) fn token(op: Op, low: u64) -> u64 {
    debug_assert!(low >> 56 == 0);
    (op as u64) << 56 | low
}

/// A data thread.
pub(super) struct Core {
    // Dropped first: the rest holds memory that it names.
    ring: Ring,
    thread: usize,
    common: Arc<Common>,
    inbox: Inbox<ToCore>,
    control: Control,
    counters: Arc<Counters>,
    seats: Vec<Seat>,
    completions: Vec<Completion>,
    /// Where the kernel puts what it read from the doorbell.
    bell: Box<u64>,
    rung: bool,
    /// Set when a stop was asked for: when to give up waiting.
    stop_by: Option<Time>,
}

/// An engine that can't go on, and why.
pub(super) type Broken = (u32, Fatal);

impl Core {
    /// Opens this thread's ring and engines.
    pub fn open(outfit: Outfit) -> Result<Core, StartError> {
        let Outfit { thread, inbox, common } = outfit;
        let plan = &common.plan;
        let mut core = Core {
            ring: Ring::new(CORE_SIZES)?,
            thread,
            inbox,
            control: Control::new(plan.to_control.clone()),
            counters: Arc::clone(&common.counters[thread]),
            seats: Vec::new(),
            completions: Vec::with_capacity(CORE_SIZES.completions as usize),
            bell: Box::new(0),
            rung: false,
            stop_by: None,
            common: Arc::clone(&common),
        };
        for engine in (0..plan.engines).filter(|e| thread_of(*e, plan.threads) == thread) {
            core.seats.push(Seat::open(plan, engine)?);
        }
        let ring_failed = |error| StartError::Io { what: "using io_uring".to_owned(), error };
        core.arm_bell().map_err(ring_failed)?;
        Ok(core)
    }

    /// Runs until the doorbell rang or all is finished.
    pub fn run(&mut self) -> Result<Pause, Broken> {
        loop {
            let park = self.turn()?;
            if self.is_finished() {
                return Ok(Pause::Stopped);
            }
            let timeout = self.sleep_max();
            self.ring.wait(park, 0, timeout).map_err(|error| self.ring_failed(error))?;
            if std::mem::take(&mut self.rung) {
                return Ok(Pause::Rung);
            }
        }
    }

    /// One turn: everything between two waits.
    fn turn(&mut self) -> Result<Park, Broken> {
        let mut completions = std::mem::take(&mut self.completions);
        completions.clear();
        self.ring.drain(&mut completions);
        // After the drain, never before: see the invariants.
        let now = clock::now();
        for completion in &completions {
            self.on_completion(now, completion)?;
        }
        let brought = completions.len();
        self.completions = completions;
        self.tick(now);
        self.end_turn(now)?;
        self.control.flush(&self.counters);
        self.count(brought);
        let syncing = self.seats.iter().any(|seat| seat.wal.is_busy());
        Ok(if brought == 0 || syncing { Park::Block } else { Park::Watch })
    }

    fn on_completion(&mut self, now: Time, completion: &Completion) -> Result<(), Broken> {
        let low = completion.token & ((1 << 56) - 1);
        match completion.token >> 56 {
            op if op == Op::Bell as u64 => {
                self.arm_bell().map_err(|error| self.ring_failed(error))?;
                self.rung = true;
                self.take_mail(now)
            }
            op if op == Op::Write as u64 => {
                let at = usize::try_from(low).expect("a seat is a small number");
                let seat = &mut self.seats[at];
                let written = seat.on_written(now, completion.result, &self.counters);
                written.map_err(|fatal| (seat.index, fatal))
            }
            other => unreachable!("no submission carries the operation {other}"),
        }
    }

    fn take_mail(&mut self, now: Time) -> Result<(), Broken> {
        while let Some(message) = self.inbox.take() {
            match message {
                ToCore::SegmentReady { engine, slot } => {
                    let seat = self.seat(engine);
                    seat.on_segment(now, slot).map_err(|fatal| (engine, fatal))?;
                }
                ToCore::SnapshotSaved { engine, group, index } => {
                    self.seat(engine).on(now, Input::SnapshotSaved { group, index });
                }
                ToCore::LeaderHint { group, leader } => {
                    for seat in &mut self.seats {
                        seat.on(now, Input::LeaderHint { group, leader });
                    }
                }
                ToCore::Status { ticket } => {
                    for seat in &self.seats {
                        let status = seat.engine.status(now);
                        self.control.send(ToControl::Status { ticket, status });
                    }
                }
                ToCore::Socket { .. } => {}
                ToCore::Stop => self.common.stop(),
            }
        }
        if self.stop_by.is_none() && self.common.stopping.load(Ordering::Acquire) {
            self.stop_by = Some(now + STOP_MAX);
        }
        Ok(())
    }

    fn tick(&mut self, now: Time) {
        for seat in &mut self.seats {
            if seat.engine.wake_at() <= now {
                seat.on(now, Input::Tick);
            }
        }
    }

    /// Ends the engines' turns and carries their effects out, in the order that `Effects` demands.
    fn end_turn(&mut self, now: Time) -> Result<(), Broken> {
        for at in 0..self.seats.len() {
            let seat = &mut self.seats[at];
            seat.engine.end_turn(now, &mut seat.effects);
            let token = token(Op::Write, at as u64);
            let started = seat.start_write(now, &mut self.ring, token, &self.counters);
            started.map_err(|fatal| (seat.index, fatal))?;
            let mut learned = Vec::new();
            seat.hand_over(&mut self.control, |note| learned.push(note));
            for note in learned {
                self.pass_on(now, at, note);
            }
        }
        Ok(())
    }

    /// Tells every other engine of this node who leads a group.
    fn pass_on(&mut self, now: Time, from: usize, note: Note) {
        let Note::Leader { group, leader, .. } = note else { return };
        for (at, seat) in self.seats.iter_mut().enumerate() {
            if at != from {
                seat.on(now, Input::LeaderHint { group, leader });
            }
        }
        for (thread, post) in self.common.posts.iter().enumerate() {
            // A hint that is lost costs a client one more redirect.
            if thread != self.thread && post.send(ToCore::LeaderHint { group, leader }).is_err() {
                tracing::warn!(thread, %group, "a leader hint was lost: the thread's mailbox is full");
            }
        }
    }

    /// How long the thread may sleep.
    fn sleep_max(&self) -> Duration {
        let now = clock::now();
        let wake_at = self.seats.iter().map(|seat| seat.engine.wake_at()).min();
        let wake_at = wake_at.unwrap_or(Time::MAX).min(self.stop_by.unwrap_or(Time::MAX));
        let most = if self.control.is_waiting() { KEPT_RETRY } else { SLEEP_MAX };
        wake_at.since(now).min(most)
    }

    fn is_finished(&self) -> bool {
        let Some(stop_by) = self.stop_by else { return false };
        let syncing = self.seats.iter().any(|seat| seat.wal.is_busy());
        !syncing || clock::now() >= stop_by
    }

    fn count(&self, completions: usize) {
        let stats = self.ring.stats();
        self.counters.turns.add(1);
        self.counters.completions.add(completions as u64);
        self.counters.enters.set(stats.enters);
        self.counters.sleeps.set(stats.sleeps);
    }

    fn arm_bell(&mut self) -> io::Result<()> {
        let into: *mut u64 = &raw mut *self.bell;
        let entry = opcode::Read::new(Fd(self.inbox.bell().as_raw_fd()), into.cast(), 8).build();
        // SAFETY: the box lives until the ring is dropped, and nobody else refers to what is in it; the
        // doorbell is open as long as the inbox, which lives as long.
        unsafe { self.ring.push(&entry.user_data(token(Op::Bell, 0))) }
    }

    fn seat(&mut self, engine: u32) -> &mut Seat {
        let seat = self.seats.iter_mut().find(|seat| seat.index == engine);
        seat.expect("a message goes to the thread that serves its engine")
    }

    /// The ring is broken: no engine of this thread can go on.
    fn ring_failed(&self, error: io::Error) -> Broken {
        (self.seats[0].index, Fatal::Ring(error.to_string()))
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        // The engines' and connections' memory goes next: nothing may still refer to it.
        self.ring.cancel_all(STOP_MAX);
    }
}
