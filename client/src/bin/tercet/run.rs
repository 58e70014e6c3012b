//! `tercet lock run`: a command that runs while a lock is held.
//!
//! # How it works
//! One thread turns signals into events, one waits for the grant, this one decides. The command is run by a process
//! between (`keep`), which ends it and all that it began before the lock can be granted again, also when this one is
//! stopped or killed. Should that one be killed, what it kept comes to this one, which ends it.
//!
//! A terminal's Ctrl-C goes to the whole foreground group, hence to the command, once: this process disregards what the
//! kernel sent, and passes on what a process sent. Without a terminal the command has a group of its own, so that who
//! signals the group of `tercet` does not reach it twice.

use crate::Done;
use crate::args::Common;
use crate::keep::{Ended, Moment, Order, PASSED_ON, Report};
use crate::lock::Share;
use crate::output::{Failure, Output, exit, name};
use crate::signals::{CLOSE_MAX, heeded};
use crate::tree::{self, Reaped};
use client::{Error, LockGuard};
use rustix::process::Signal;
use serde_json::json;
use signal_hook::consts::SIGCHLD;
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::low_level::siginfo::{Cause, Origin};
use std::ffi::OsString;
use std::fs::File;
use std::io::{PipeReader, PipeWriter, pipe};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

/// How often the lock is looked at while nothing happens.
const LOOK: Duration = Duration::from_millis(50);
/// By how much the lock has to be held longer for that to be told.
const TOLD_MIN: Duration = Duration::from_millis(20);
/// Events on their way: each of the signals once, and the grant. More of them wait where they arise.
const EVENTS_MAX: usize = 8;

/// Under what the command runs.
pub struct Under {
    pub name: OsString,
    pub wait: Duration,
    pub share: Share,
    pub ttl: Duration,
    pub grace: Duration,
}

impl Under {
    /// The grace time lies before the moment at which the lock may be free, so it is at most a third of what the lock
    /// outlives its last confirmation by: else the first heartbeat that is late would end the command.
    fn grace(&self) -> Duration {
        self.grace.min(self.ttl / 3)
    }
}

enum Event {
    Signal(Origin),
    Granted(Result<LockGuard, Error>),
}

/// Runs a command under a lock and gives its exit status.
pub fn run(common: &Common, under: &Under, command: &[OsString], output: &Output) -> Done {
    let (events, inbox) = sync_channel(EVENTS_MAX);
    watch_signals(events.clone())?;
    let client = common.config(under.ttl).connect()?;
    let lock = under.share.apply(client.lock(under.name.as_bytes())).wait(under.wait);
    let pending = lock.acquire();
    std::thread::spawn(move || events.send(Event::Granted(pending.wait())));
    let guard = loop {
        match inbox.recv() {
            Ok(Event::Granted(guard)) => break guard?,
            Ok(Event::Signal(Origin { signal: SIGCHLD, .. })) => {}
            Ok(Event::Signal(Origin { signal, .. })) => {
                client.close_within(CLOSE_MAX);
                return Ok(ended_by(signal));
            }
            Err(_) => unreachable!("the signals' thread keeps its sender"),
        }
    };
    let fence = guard.fence();
    let kept = Kept::start(under, command, &guard)?.attend(&guard, &inbox)?;
    let (how, lost) = match kept {
        Some(Report::NotRun(error)) => return Err(cannot_run(&command[0], error)),
        Some(Report::Ended { how, lost }) => (Some(how), lost),
        None => (None, true),
    };
    let why = lost.then(|| match guard.lost() {
        Some(error) => error.to_string(),
        None if how.is_none() => String::from("what watched over the command was killed"),
        None => String::from("no heartbeat was confirmed in time"),
    });
    let was_held = guard.is_valid();
    let released = guard.release().wait();
    client.close_within(CLOSE_MAX);
    // Refused while it was surely held: it was lost before.
    let taken = released.err().filter(|e| was_held && matches!(e, Error::Refused { .. }));
    let why = why.or(taken.map(|error| error.to_string()));
    tell(output, under, fence, how, why.as_deref())
}

/// Says how it went, in a document or in words, and gives the exit status.
fn tell(
    output: &Output,
    under: &Under,
    fence: u64,
    how: Option<Ended>,
    lost: Option<&str>,
) -> Done {
    let status = match (lost, how) {
        (Some(_), _) | (None, None) => exit::LOST,
        (None, Some(Ended::Status(status))) => u8::try_from(status & 0xff).unwrap_or(exit::FAILED),
        (None, Some(Ended::Signal(signal))) => status_of(signal),
    };
    if output.json {
        output.report(&json!({
            "lock": name(under.name.as_bytes()),
            "fence": fence,
            "exit": status,
            "status": match how { Some(Ended::Status(status)) => Some(status), _ => None },
            "signal": match how { Some(Ended::Signal(signal)) => Some(signal), _ => None },
            "lost": lost.is_some(),
            "why": lost,
        }));
    } else if let Some(why) = lost {
        return Err(Failure::Other(status, format!("the command was stopped: {why}")));
    }
    Ok(ExitCode::from(status))
}

/// The process between, and what it is told and tells.
struct Kept {
    process: Child,
    orders: PipeWriter,
    /// The other ends, which it opens by these.
    _ends: (PipeReader, PipeWriter),
    report: PipeReader,
    /// What it was told last.
    told: Moment,
    /// By how much earlier than the lock ends it has to be done: a kill takes a moment, too.
    margin: Duration,
}

impl Kept {
    fn start(under: &Under, command: &[OsString], guard: &LockGuard) -> Result<Kept, Failure> {
        // Its orphans come here, if it is killed.
        tree::adopt()?;
        let ((ordered, orders), (report, reported)) = (pipe()?, pipe()?);
        let grace_ms = under.grace().as_millis().to_string();
        let mut keeper = Command::new("/proc/self/exe");
        keeper.arg0("tercet").args(["lock", "keep", "--grace-ms", &grace_ms]);
        keeper.args(["--process", &std::process::id().to_string()]);
        keeper.args(["--orders", &ordered.as_raw_fd().to_string()]);
        keeper.args(["--report", &reported.as_raw_fd().to_string(), "--"]).args(command);
        keeper.env("TERCET_LOCK_NAME", &under.name);
        keeper.env("TERCET_LOCK_FENCE", guard.fence().to_string());
        if File::open("/dev/tty").is_err() {
            keeper.process_group(0);
        }
        let process = keeper.spawn()?;
        let (told, margin) = (Moment(0), under.ttl / 20);
        let ends = (ordered, reported);
        let mut kept = Kept { process, orders, _ends: ends, report, told, margin };
        kept.tell_held(guard);
        Ok(kept)
    }

    /// Passes signals on and says how long the lock is held, until the process between ends. Nothing comes of one that
    /// was killed.
    fn attend(
        mut self,
        guard: &LockGuard,
        inbox: &Receiver<Event>,
    ) -> Result<Option<Report>, Failure> {
        while self.process.try_wait()?.is_none() {
            self.tell_held(guard);
            match inbox.recv_timeout(LOOK) {
                Ok(Event::Signal(origin)) if is_to_pass_on(&origin) => {
                    self.order(Order::Signal(origin.signal));
                }
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    unreachable!("the signals' thread keeps its sender")
                }
            }
        }
        let Kept { _ends: ends, mut report, .. } = self;
        drop(ends);
        let report = Report::read(&mut report);
        if report.is_none() {
            end_orphans()?;
        }
        Ok(report)
    }

    fn tell_held(&mut self, guard: &LockGuard) {
        // In this order: between the two a moment may pass, or an hour.
        let now = Moment::now();
        let until = match guard.remaining() {
            Duration::ZERO => self.told.min(now),
            remaining => now.after(remaining.saturating_sub(self.margin)),
        };
        if until > self.told.after(TOLD_MIN) || until < self.told {
            self.told = until;
            self.order(Order::Held(until));
        }
    }

    fn order(&mut self, order: Order) {
        // One that has ended is noticed by its end.
        let _unheard = order.send(&mut self.orders);
    }
}

/// Kills what a killed keeper left.
fn end_orphans() -> Result<(), Failure> {
    loop {
        tree::signal_all(Signal::KILL)?;
        match tree::reap()? {
            Reaped::Empty => return Ok(()),
            Reaped::One(..) => {}
            Reaped::None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Whether some process sent a signal: what the kernel sends for a terminal, it sends to the command itself.
fn is_to_pass_on(origin: &Origin) -> bool {
    origin.signal != SIGCHLD && origin.cause != Cause::Kernel
}

/// Turns the signals that end or tell a process something into events.
fn watch_signals(events: SyncSender<Event>) -> Result<(), Failure> {
    let mut watched = heeded(&PASSED_ON)?;
    watched.push(SIGCHLD);
    let mut signals = SignalsInfo::<WithOrigin>::new(watched)?;
    std::thread::spawn(move || {
        for origin in signals.forever() {
            if events.send(Event::Signal(origin)).is_err() {
                return;
            }
        }
    });
    Ok(())
}

fn cannot_run(command: &OsString, error: i32) -> Failure {
    let not_found = error == rustix::io::Errno::NOENT.raw_os_error();
    let status = if not_found { exit::NOT_FOUND } else { exit::CANNOT_RUN };
    let why = std::io::Error::from_raw_os_error(error);
    Failure::Other(status, format!("{}: {why}", command.to_string_lossy()))
}

fn ended_by(signal: i32) -> ExitCode {
    ExitCode::from(status_of(signal))
}

fn status_of(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(exit::FAILED)
}
