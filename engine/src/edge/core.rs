//! One data thread: a loop over its ring, and the engines that it serves.
//!
//! # How it works
//!
//! A turn: drain what completed; read the clock; feed the engines; let them end their turn; carry out
//! their effects, the journal's write first; let them do a slice of what takes long; park in the ring until something completes or an engine
//! wants to be woken. All that arrived in a turn is one batch: one write of the journal, one message for
//! each peer, one send for each connection.
//!
//! # Invariants
//!
//! - `now` is read after the inputs were drained, never before: nothing is seen earlier than it came.
//! - At most one write of each engine is under way, and what it writes is not touched meanwhile.
//! - A message for the control plane that does not fit is kept for the next turn; only notes may be
//!   dropped, and are counted.

mod effects;
mod peers;
mod seat;
mod sockets;

use super::bridge::{Fatal, Inbox, ToControl, ToCore};
use super::clock;
use super::counters::Counters;
use super::data::{Common, StartError, thread_of};
use super::links::{Identity, Links};
use super::net::{Group, Net, Overdue};
use super::ring::{CORE_SIZES, Completion, Park, Ring};
use super::wal::Writer;
use crate::effects::News;
use crate::engine::Input;
use crate::ids::ConnId;
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
/// How often a full mailbox of the control plane, or a disk that does not keep up, is tried again.
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
    /// Nobody waits for it.
    Ignored,
    /// The doorbell.
    Bell,
    /// The journal of a seat.
    Write,
    /// The listening socket.
    Accept,
    /// A connection, into a small buffer.
    Receive,
    /// A connection, into a large buffer.
    ReceivePeer,
    /// A connection.
    Send,
    /// A connection.
    Connect,
}

impl Op {
    const ALL: [Op; 8] = [
        Op::Ignored,
        Op::Bell,
        Op::Write,
        Op::Accept,
        Op::Receive,
        Op::ReceivePeer,
        Op::Send,
        Op::Connect,
    ];
}

/// A token: what for, and for whom.
pub(super) fn token(op: Op, low: u64) -> u64 {
    debug_assert!(low >> 32 == 0);
    (op as u64) << 56 | low
}

/// What a token was made from.
pub(super) fn read_token(token: u64) -> (Op, u32) {
    let op = usize::try_from(token >> 56).ok().and_then(|op| Op::ALL.get(op));
    (*op.expect("tokens are made by `token`"), (token & u64::from(u32::MAX)) as u32)
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
    net: Net,
    links: Links,
    identity: Identity,
    completions: Vec<Completion>,
    /// Where the kernel puts what it read from the doorbell.
    bell: Box<u64>,
    rung: bool,
    /// Whether engines were fed after their turn had ended: the next one is due at once.
    again: bool,
    /// Whether a snapshot waits for the disk.
    halted: bool,
    /// Frames of this turn.
    frames: u64,
    /// Used again and again: connections to be closed, leaders to be passed on.
    indices: Vec<u32>,
    overdue: Vec<(ConnId, Overdue)>,
    /// When it was logged last that an accept failed.
    complained_at: Option<Time>,
    learned: Vec<News>,
    /// By thread: nodes of which it was not told yet.
    untold: Vec<Option<Arc<[u8]>>>,
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
        let ring_failed = |error| StartError::Io { what: "using io_uring".to_owned(), error };
        let engines: Vec<u32> =
            (0..plan.engines).filter(|e| thread_of(*e, plan.threads) == thread).collect();
        let identity = Identity::of(&(plan.make_config)(engines[0]));
        let links = Links::new(identity.node, &engines, identity.peers());
        let seats = engines.iter().map(|engine| Seat::open(plan, *engine));
        let seats = seats.collect::<Result<Vec<Seat>, StartError>>()?;
        let mut ring = Ring::new(CORE_SIZES)?;
        if let (Some(cpus), Writer::Mapped) = (&plan.cpus, plan.writer) {
            // A sync's worker on another CPU than its loop costs a third of the throughput.
            ring.keep_workers_on(cpus[thread]).map_err(ring_failed)?;
        }
        let net =
            Net::new(&mut ring, plan.listener.as_raw_fd(), plan.seats).map_err(ring_failed)?;
        let mut core = Core {
            ring,
            thread,
            inbox,
            control: Control::new(plan.to_control.clone()),
            counters: Arc::clone(&common.counters[thread]),
            seats,
            net,
            links,
            identity,
            completions: Vec::with_capacity(CORE_SIZES.completions as usize),
            bell: Box::new(0),
            rung: false,
            again: false,
            halted: false,
            frames: 0,
            indices: Vec::new(),
            overdue: Vec::new(),
            complained_at: None,
            learned: Vec::new(),
            untold: vec![None; common.posts.len()],
            stop_by: None,
            common: Arc::clone(&common),
        };
        core.arm_bell().map_err(ring_failed)?;
        Ok(core)
    }

    /// Runs until the doorbell rang or all is finished.
    pub fn run(&mut self) -> Result<Pause, Broken> {
        loop {
            let (park, inline, timeout) = self.turn()?;
            if self.is_finished() {
                return Ok(Pause::Stopped);
            }
            let waited = self.ring.wait(park, inline, timeout);
            waited.map_err(|error| self.ring_failed(error))?;
            if std::mem::take(&mut self.rung) {
                return Ok(Pause::Rung);
            }
        }
    }

    /// One turn: everything between two waits. Says how to wait for the next.
    fn turn(&mut self) -> Result<(Park, u32, Duration), Broken> {
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
        if self.rung {
            self.take_mail(now)?;
        }
        self.tick(now)?;
        self.sweep(now)?;
        self.dial(now).map_err(|error| self.ring_failed(error))?;
        self.end_turn(now)?;
        self.control.flush(&self.counters);
        self.tell_nodes();
        let inline = self.net.flush(now, &mut self.ring);
        let inline = inline.map_err(|error| self.ring_failed(error))?;
        self.work(now);
        self.count(brought);
        let park = if brought == 0 { Park::Block } else { Park::Watch };
        Ok((park, inline, self.sleep_max(now)))
    }

    fn on_completion(&mut self, now: Time, completion: &Completion) -> Result<(), Broken> {
        let (op, index) = read_token(completion.token);
        let done = match op {
            Op::Ignored => Ok(()),
            Op::Bell => {
                self.rung = true;
                self.arm_bell()
            }
            Op::Write => {
                let seat = &mut self.seats[index as usize];
                let written =
                    seat.on_written(now, &mut self.ring, completion.result, &self.counters);
                return written.map_err(|fatal| (seat.index, fatal));
            }
            Op::Accept => self.on_accept(now, completion),
            Op::Receive => self.on_receive(now, completion, index, Group::Clients),
            Op::ReceivePeer => self.on_receive(now, completion, index, Group::Peers),
            Op::Send => {
                let sent = self.net.on_send(now, completion, index);
                self.on_room(now, index);
                self.net.release_if_done(index);
                self.after(now, index, sent)
            }
            Op::Connect => self.on_connect(now, completion.result, index),
        };
        done.map_err(|error| self.ring_failed(error))
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
                ToCore::News(News::Nodes(nodes)) => {
                    let learned = self.learn(now, None, &nodes);
                    learned.map_err(|error| self.ring_failed(error))?;
                }
                ToCore::News(news) => {
                    self.seats.iter_mut().for_each(|seat| seat.on(now, Input::of(&news)));
                }
                ToCore::Across { engine, frame } => self.pass_across(now, engine, frame),
                ToCore::Report { engine, json } => {
                    self.seat(engine).on(now, Input::Report { json: &json });
                }
                ToCore::Status { ticket } => {
                    for seat in &self.seats {
                        let status = seat.engine.status(now);
                        self.control.send(ToControl::Status { ticket, status });
                    }
                }
                ToCore::Socket { fd, read } => {
                    let taken = self.on_socket(now, fd, &read);
                    taken.map_err(|error| self.ring_failed(error))?;
                }
                ToCore::Stop => self.common.stop(),
            }
        }
        if self.stop_by.is_none() && self.common.stopping.load(Ordering::Acquire) {
            self.stop_by = Some(now + STOP_MAX);
        }
        Ok(())
    }

    fn tick(&mut self, now: Time) -> Result<(), Broken> {
        for seat in &mut self.seats {
            if seat.engine.wake_at() <= now {
                seat.on(now, Input::Tick);
            }
            seat.open_later(now).map_err(|fatal| (seat.index, fatal))?;
        }
        Ok(())
    }

    /// How long the thread may sleep.
    fn sleep_max(&mut self, now: Time) -> Duration {
        if std::mem::take(&mut self.again) {
            return Duration::ZERO;
        }
        let engines = self.seats.iter().map(Seat::wake_at);
        let others = [self.net.wake_at(), self.links.wake_at(), self.stop_by.unwrap_or(Time::MAX)];
        let wake_at = engines.chain(others).min().unwrap_or(Time::MAX);
        let untold = self.untold.iter().any(Option::is_some);
        let waits = self.control.is_waiting() || self.halted || untold;
        let most = if waits { KEPT_RETRY } else { SLEEP_MAX };
        wake_at.since(now).min(most)
    }

    fn is_finished(&self) -> bool {
        let Some(stop_by) = self.stop_by else { return false };
        let syncing = self.seats.iter().any(|seat| seat.wal.is_busy());
        (!syncing && self.net.is_quiet()) || clock::now() >= stop_by
    }

    fn count(&mut self, completions: usize) {
        let stats = self.ring.stats();
        self.counters.turns.add(1);
        self.counters.completions.add(completions as u64);
        self.counters.enters.set(stats.enters);
        self.counters.sleeps.set(stats.sleeps);
        self.counters.bytes_out.set(self.net.bytes_out());
        self.counters.connections.set(self.net.count() as u64);
        self.counters.links_up.set(self.links.up() as u64);
        if self.frames > 0 {
            self.counters.batch_frames.record(std::mem::take(&mut self.frames));
        }
    }

    fn arm_bell(&mut self) -> io::Result<()> {
        let into: *mut u64 = &raw mut *self.bell;
        let entry = opcode::Read::new(Fd(self.inbox.bell().as_raw_fd()), into.cast(), 8).build();
        // SAFETY: the box lives until the ring is dropped, and nobody else refers to what is in it; the
        // doorbell is open as long as the inbox, which lives as long.
        unsafe { self.ring.push(&entry.user_data(token(Op::Bell, 0))) }
    }

    fn seat(&mut self, engine: u32) -> &mut Seat {
        let at = self.seat_of(engine);
        &mut self.seats[at]
    }

    /// The seat of an engine of this thread.
    fn seat_of(&self, engine: u32) -> usize {
        let at = self.seats.iter().position(|seat| seat.index == engine);
        at.expect("whoever names an engine found the thread that serves it")
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
