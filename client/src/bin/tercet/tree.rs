//! The processes below this one, whatever groups and sessions they made.
//!
//! This process adopts those whose parent ended (`adopt`), so none of them gets out of sight.

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, getpid, pidfd_open, pidfd_send_signal,
    set_child_subreaper, wait,
};
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// From now on whoever loses its parent below this process becomes its child.
pub fn adopt() -> io::Result<()> {
    Ok(set_child_subreaper(Some(getpid()))?)
}

/// Sends a signal to every process below this one.
pub fn signal_all(signal: Signal) -> io::Result<()> {
    let parents = parents()?;
    let mut above = BTreeSet::from([getpid().as_raw_pid()]);
    // Numbers say nothing of who came first: look until none is new.
    loop {
        let is_new = |(pid, up): &(&i32, &i32)| above.contains(*up) && !above.contains(*pid);
        let new: Vec<(i32, i32)> = parents.iter().filter(is_new).map(|(p, up)| (*p, *up)).collect();
        if new.is_empty() {
            return Ok(());
        }
        for (pid, parent) in new {
            above.insert(pid);
            signal_one(pid, parent, signal);
        }
    }
}

/// Sends a signal to a process, if it still is the one whose parent was looked up.
fn signal_one(pid: i32, parent: i32, signal: Signal) {
    let Some(named) = Pid::from_raw(pid) else { return };
    // One that has ended meanwhile needs no signal.
    let Ok(it) = pidfd_open(named, PidfdFlags::empty()) else { return };
    let here = getpid().as_raw_pid();
    if parent_of(pid).is_some_and(|now| now == parent || now == here) {
        let _ended = pidfd_send_signal(it, signal);
    }
}

/// What became of the children.
pub enum Reaped {
    /// One ended.
    One(Pid, WaitStatus),
    /// None ended since.
    None,
    /// There is none any more.
    Empty,
}

/// Takes notice of a child that ended.
pub fn reap() -> io::Result<Reaped> {
    match wait(WaitOptions::NOHANG) {
        Ok(Some((pid, status))) => Ok(Reaped::One(pid, status)),
        Ok(None) => Ok(Reaped::None),
        Err(rustix::io::Errno::CHILD) => Ok(Reaped::Empty),
        Err(rustix::io::Errno::INTR) => Ok(Reaped::None),
        Err(error) => Err(error.into()),
    }
}

/// Every process and its parent.
fn parents() -> io::Result<BTreeMap<i32, i32>> {
    let rows = std::fs::read_dir("/proc")?.flatten();
    let pids = rows.filter_map(|row| row.file_name().to_str()?.parse().ok());
    Ok(pids.filter_map(|pid| Some((pid, parent_of(pid)?))).collect())
}

fn parent_of(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses, and may have some itself.
    stat[stat.rfind(')')? + 1..].split_whitespace().nth(1)?.parse().ok()
}
