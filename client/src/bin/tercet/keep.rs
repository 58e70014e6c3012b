//! `tercet lock keep`: what `tercet lock run` starts, and what in turn starts the command. Not for people.
//!
//! # How it works
//! It knows until when the lock is surely held, because `lock run` tells it each time that this moves on, and goes by
//! its own clock from there. So whatever becomes of `lock run` (stopped, killed, cut off), everything below this process
//! has ended at that moment: it is told to end the grace time before it, and killed at it.
//!
//! # Invariants
//! - When it ends, no process is left that the command began, and that is not hidden from `/proc`.
//! - Nothing below it runs after the moment that it was told last, but for the time that a kill takes.

use crate::Done;
use crate::output::Failure;
use crate::signals::heeded;
use crate::tree::{self, Reaped};
use rustix::process::{Pid, Signal, WaitStatus, kill_process};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::process::{Command, ExitCode};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

/// How often it looks again at what must end and has not.
const LOOK: Duration = Duration::from_millis(10);
/// Orders and ends of children on their way.
const EVENTS_MAX: usize = 64;
/// The signals that a command may be sent through `lock run`.
pub const PASSED_ON: [i32; 6] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2];

/// A moment of the clock that also passes while the machine sleeps, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Moment(pub u64);

impl Moment {
    pub fn now() -> Moment {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let (seconds, nanos) = (t.tv_sec.unsigned_abs(), t.tv_nsec.unsigned_abs());
        Moment(seconds * 1_000_000_000 + nanos)
    }

    pub fn after(self, time: Duration) -> Moment {
        Moment(self.0.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)))
    }

    fn before(self, time: Duration) -> Moment {
        Moment(self.0.saturating_sub(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)))
    }

    fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// What `lock run` tells: two numbers of eight bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// The lock is surely held until then.
    Held(Moment),
    /// Send this signal to the command.
    Signal(i32),
}

impl Order {
    pub fn send(self, to: &mut impl Write) -> std::io::Result<()> {
        let (what, value) = match self {
            Order::Held(until) => (0, until.0),
            Order::Signal(signal) => (1, u64::from(signal.unsigned_abs())),
        };
        to.write_all(&pair(what, value))
    }

    fn read(from: &mut impl Read) -> Option<Order> {
        let (what, value) = read_pair(from)?;
        match what {
            0 => Some(Order::Held(Moment(value))),
            _ => Some(Order::Signal(i32::try_from(value).ok()?)),
        }
    }
}

/// What is told back, last of all: two numbers of eight bytes, the first with a sign for a lost lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Report {
    /// The command can't be started: the system's error number.
    NotRun(i32),
    /// It ended by itself or was ended.
    Ended { how: Ended, lost: bool },
}

/// How the command ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    Status(i32),
    Signal(i32),
}

impl Report {
    fn send(self, to: &mut impl Write) -> std::io::Result<()> {
        let (what, value) = match self {
            Report::NotRun(error) => (0, error),
            Report::Ended { how: Ended::Status(status), lost } => (1 + 2 * u64::from(lost), status),
            Report::Ended { how: Ended::Signal(signal), lost } => (2 + 2 * u64::from(lost), signal),
        };
        to.write_all(&pair(what, u64::from(value.unsigned_abs())))
    }

    pub fn read(from: &mut impl Read) -> Option<Report> {
        let (what, value) = read_pair(from)?;
        let value = i32::try_from(value).ok()?;
        Some(match what {
            0 => Report::NotRun(value),
            1 | 3 => Report::Ended { how: Ended::Status(value), lost: what == 3 },
            _ => Report::Ended { how: Ended::Signal(value), lost: what == 4 },
        })
    }
}

fn pair(first: u64, second: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&first.to_le_bytes());
    bytes[8..].copy_from_slice(&second.to_le_bytes());
    bytes
}

fn read_pair(from: &mut impl Read) -> Option<(u64, u64)> {
    let (mut first, mut second) = ([0; 8], [0; 8]);
    from.read_exact(&mut first).and_then(|()| from.read_exact(&mut second)).ok()?;
    Some((u64::from_le_bytes(first), u64::from_le_bytes(second)))
}

enum Event {
    Order(Order),
    /// `lock run` has ended.
    Left,
    /// Some child has ended, or a signal came that is for the command alone.
    Look,
}

/// The pipes to `lock run`, as it has them open: process and file descriptors.
#[derive(Clone, Copy, Debug)]
pub struct Pipes {
    pub process: u32,
    pub orders: i32,
    pub report: i32,
}

/// Runs the command, and sees that it ends in time.
pub fn keep(pipes: Pipes, grace: Duration, command: &[OsString]) -> Done {
    let path = |fd: i32| format!("/proc/{}/fd/{fd}", pipes.process);
    let mut orders = File::open(path(pipes.orders))?;
    let mut report = OpenOptions::new().write(true).open(path(pipes.report))?;
    tree::adopt()?;
    let (events, inbox) = sync_channel(EVENTS_MAX);
    watch_signals(events.clone())?;
    let Some(Order::Held(until)) = Order::read(&mut orders) else {
        return Ok(ExitCode::FAILURE);
    };
    watch_orders(orders, events);
    let told = match Command::new(&command[0]).args(&command[1..]).spawn() {
        Err(error) => Report::NotRun(error.raw_os_error().unwrap_or(match error.kind() {
            ErrorKind::NotFound => rustix::io::Errno::NOENT.raw_os_error(),
            _ => rustix::io::Errno::INVAL.raw_os_error(),
        })),
        Ok(child) => {
            let child = Pid::from_child(&child);
            let mut keeper = Keeper { child, until, grace, ending: None, ended: None, lost: false };
            let how = keeper.attend(&inbox)?;
            Report::Ended { how, lost: keeper.lost }
        }
    };
    // Where nobody listens any more it is not missed.
    let _unheard = told.send(&mut report);
    Ok(ExitCode::SUCCESS)
}

struct Keeper {
    child: Pid,
    /// Until when the lock is surely held.
    until: Moment,
    grace: Duration,
    /// Since when everything is told to end.
    ending: Option<Moment>,
    /// How the command itself ended; what it began may go on.
    ended: Option<Ended>,
    /// It was told to end, or ran, when the lock was not surely held.
    lost: bool,
}

impl Keeper {
    /// Keeps the command until nothing of it is left.
    fn attend(&mut self, inbox: &Receiver<Event>) -> Result<Ended, Failure> {
        loop {
            let is_empty = self.reap()?;
            let now = Moment::now();
            if is_empty {
                self.lost |= now > self.until;
                return Ok(self.ended.expect("the command is one of those that were reaped"));
            }
            let wait = self.end_in_time(now)?;
            match inbox.recv_timeout(wait) {
                Ok(Event::Order(Order::Held(until))) => self.until = until,
                Ok(Event::Order(Order::Signal(signal))) => self.pass_on(signal)?,
                Ok(Event::Left) => self.begin_end(Moment::now())?,
                Ok(Event::Look) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    unreachable!("the signals' thread keeps its sender")
                }
            }
        }
    }

    /// Takes notice of all that ended; says whether nothing is left.
    fn reap(&mut self) -> Result<bool, Failure> {
        loop {
            match tree::reap()? {
                Reaped::One(pid, status) if pid == self.child => {
                    self.ended = Some(how_of(status));
                    // What it leaves behind has nothing to do any more.
                    self.begin_end(Moment::now())?;
                }
                Reaped::One(..) => {}
                Reaped::None => return Ok(false),
                Reaped::Empty => return Ok(true),
            }
        }
    }

    /// Ends everything as far as it is time to; says when to look again.
    fn end_in_time(&mut self, now: Moment) -> Result<Duration, Failure> {
        let soften = self.until.before(self.grace);
        if now >= soften {
            self.lost |= self.ended.is_none();
            self.begin_end(now)?;
        }
        let Some(since) = self.ending else { return Ok(soften.since(now)) };
        let kill_at = self.until.min(since.after(self.grace));
        if now < kill_at {
            return Ok(kill_at.since(now));
        }
        // Again and again: what is killed may have begun something a moment before.
        tree::signal_all(Signal::KILL)?;
        Ok(LOOK)
    }

    /// Tells everything to end, once.
    fn begin_end(&mut self, now: Moment) -> Result<(), Failure> {
        if self.ending.is_none() {
            self.ending = Some(now);
            tree::signal_all(Signal::TERM)?;
        }
        Ok(())
    }

    /// Sends on what `lock run` was sent: what ends a process to all, anything else to the command.
    fn pass_on(&mut self, signal: i32) -> Result<(), Failure> {
        let Some(named) = Signal::from_named_raw(signal) else { return Ok(()) };
        if crate::signals::ENDING.contains(&signal) {
            return Ok(tree::signal_all(named)?);
        }
        if self.ended.is_none() {
            // It was not reaped, so the number is still its own.
            let _ended = kill_process(self.child, named);
        }
        Ok(())
    }
}

fn how_of(status: WaitStatus) -> Ended {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(status), _) => Ended::Status(status),
        (None, signal) => Ended::Signal(signal.unwrap_or_default()),
    }
}

/// Hears the signals and does nothing: a terminal sends them to the command itself, and what `lock run` was sent it
/// passes on. They are not blocked or ignored, since the command would inherit that.
fn watch_signals(events: SyncSender<Event>) -> Result<(), Failure> {
    let mut heard = heeded(&PASSED_ON)?;
    heard.push(SIGCHLD);
    let mut signals = Signals::new(heard)?;
    std::thread::spawn(move || {
        for _ in signals.forever() {
            if events.send(Event::Look).is_err() {
                return;
            }
        }
    });
    Ok(())
}

fn watch_orders(mut orders: File, events: SyncSender<Event>) {
    std::thread::spawn(move || {
        while let Some(order) = Order::read(&mut orders) {
            if events.send(Event::Order(order)).is_err() {
                return;
            }
        }
        let _over = events.send(Event::Left);
    });
}
