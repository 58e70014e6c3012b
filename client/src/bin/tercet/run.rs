//! `tercet lock run`: a command that runs while a lock is held.
//!
//! # How it works
//! One thread turns signals into events, one waits for the grant, this one decides. The child is
//! only reaped here, so a signal never goes to a process that took its number. Every exit drops
//! the client, which closes the session, which releases the lock.

use crate::Done;
use crate::args::Common;
use crate::lock::Share;
use crate::output::{Failure, Output, exit};
use client::{Error, LockGuard};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use std::ffi::OsString;
use std::io::{ErrorKind, IsTerminal};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// How often the lock is looked at while nothing happens.
const LOOK: Duration = Duration::from_millis(50);

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

enum Event {
    Signal(i32),
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
            Ok(Event::Signal(SIGCHLD)) => {}
            Ok(Event::Signal(signal)) => {
                client.close();
                return Ok(ended_by(signal));
            }
            Err(_) => unreachable!("the signals' thread keeps its sender"),
        }
    };
    let mut child = Command::new(&command[0])
        .args(&command[1..])
        .env("TERCET_LOCK_NAME", &under.name)
        .env("TERCET_LOCK_FENCE", guard.fence().to_string())
        .spawn()
        .map_err(|error| cannot_run(&command[0], &error))?;
    match attend(&mut child, &guard, &inbox)? {
        Attended::Ended(status) => {
            let lost = guard.lost();
            if let Err(error) = guard.release().wait() {
                let held = lost.is_none() && !error.is_outcome_unknown();
                let when = if held { "as the command ended" } else { "while the command ran" };
                output.note(&format!("tercet: the lock may have been lost {when}: {error}"))?;
            }
            client.close();
            Ok(code_of(status))
        }
        Attended::Lost(why) => {
            end(&mut child, under.grace)?;
            client.close();
            Err(Failure::Other(exit::LOST, format!("the command was stopped: {why}")))
        }
    }
}

enum Attended {
    Ended(ExitStatus),
    Lost(Error),
}

/// Passes signals on until the child ends or the lock is lost.
fn attend(
    child: &mut Child,
    guard: &LockGuard,
    inbox: &Receiver<Event>,
) -> Result<Attended, Failure> {
    // The terminal gives these to the child itself.
    let by_terminal: &[i32] = if std::io::stdin().is_terminal() { &[SIGINT, SIGQUIT] } else { &[] };
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Attended::Ended(status));
        }
        if let Some(why) = guard.lost() {
            return Ok(Attended::Lost(why));
        }
        match inbox.recv_timeout(LOOK.min(guard.remaining().max(Duration::from_millis(1)))) {
            Ok(Event::Signal(signal)) if signal != SIGCHLD && !by_terminal.contains(&signal) => {
                send(child, signal);
            }
            Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                unreachable!("the signals' thread keeps its sender")
            }
        }
    }
}

/// Ends the child: politely, then surely.
fn end(child: &mut Child, grace: Duration) -> Result<(), Failure> {
    send(child, SIGTERM);
    let until = Instant::now() + grace;
    while child.try_wait()?.is_none() {
        if Instant::now() >= until {
            child.kill()?;
            child.wait()?;
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Sends a signal to the child, which has not been reaped.
fn send(child: &Child, signal: i32) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let (Some(pid), Some(signal)) = (pid, Signal::from_named_raw(signal)) {
        // A child that has ended meanwhile needs no signal.
        let _ended = kill_process(pid, signal);
    }
}

/// Turns the signals that end or tell a process something into events.
fn watch_signals(events: SyncSender<Event>) -> Result<(), Failure> {
    let watched = [SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2];
    let mut signals = Signals::new(watched)?;
    std::thread::spawn(move || {
        for signal in signals.forever() {
            if events.send(Event::Signal(signal)).is_err() {
                return;
            }
        }
    });
    Ok(())
}

fn cannot_run(command: &OsString, error: &std::io::Error) -> Failure {
    let status =
        if error.kind() == ErrorKind::NotFound { exit::NOT_FOUND } else { exit::CANNOT_RUN };
    Failure::Other(status, format!("{}: {error}", command.to_string_lossy()))
}

/// The exit status that stands for a child's.
fn code_of(status: ExitStatus) -> ExitCode {
    match (status.code(), status.signal()) {
        (Some(code), _) => ExitCode::from(u8::try_from(code & 0xff).unwrap_or(exit::FAILED)),
        (None, Some(signal)) => ended_by(signal),
        (None, None) => ExitCode::from(exit::FAILED),
    }
}

fn ended_by(signal: i32) -> ExitCode {
    ExitCode::from(u8::try_from(128 + signal).unwrap_or(exit::FAILED))
}
