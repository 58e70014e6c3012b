//! `tercet lock`.

use crate::args::{Common, Lock, Session};
use crate::output::{Failure, Output, hex, name};
use crate::{Done, keep, run, signals};
use client::{Client, Error};
use serde_json::json;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;
use std::time::Duration;

pub fn lock(common: &Common, command: Lock, output: &Output) -> Done {
    match command {
        Lock::Acquire { name, ttl, wait, shared } => {
            acquire(common, &name, ttl, wait, Share::of(shared), output)
        }
        Lock::Release { name, session, fence } => release(common, &name, session, fence, output),
        Lock::Run { name, wait, shared, ttl, grace, command } => {
            let under = run::Under { name, wait, share: Share::of(shared), ttl, grace };
            run::run(common, &under, &command, output)
        }
        Lock::Keep { process, orders, report, grace_ms, command } => {
            let pipes = keep::Pipes { process, orders, report };
            keep::keep(pipes, Duration::from_millis(grace_ms), &command)
        }
    }
}

/// How a lock is to be held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Share {
    Shared,
    Exclusive,
}

impl Share {
    fn of(shared: bool) -> Share {
        if shared { Share::Shared } else { Share::Exclusive }
    }

    /// The lock, to be held so.
    pub fn apply(self, lock: client::Lock) -> client::Lock {
        match self {
            Share::Shared => lock.shared(),
            Share::Exclusive => lock.exclusive(),
        }
    }
}

/// Acquires a lock that outlives this process: the session that holds it is left behind, and the lease
/// ends the grant when the time to live has passed, even if the session lives a little longer.
fn acquire(
    common: &Common,
    lock: &OsStr,
    ttl: Duration,
    wait: Duration,
    share: Share,
    output: &Output,
) -> Done {
    let client = common.config(ttl).connect()?;
    signals::close_client(&client)?;
    let done = take_and_tell(&client, lock, (ttl, wait), share, output);
    signals::let_end();
    match done {
        Ok(()) => client.detach(),
        // A lock whose fence nobody was told can't be released: the end of its session releases it.
        Err(_) => client.close(),
    }
    done.map(|()| ExitCode::SUCCESS)
}

fn take_and_tell(
    client: &Client,
    lock: &OsStr,
    (ttl, wait): (Duration, Duration),
    share: Share,
    output: &Output,
) -> Result<(), Failure> {
    let asked = share.apply(client.lock(lock.as_bytes())).wait(wait).lease(ttl);
    let guard = asked.acquire().wait()?;
    let (fence, session) = (guard.fence(), hex(&guard.session()));
    let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    let document = json!({
        "lock": name(lock.as_bytes()),
        "session": session,
        "fence": fence,
        "ttl_ms": ttl_ms,
        "shared": share == Share::Shared,
    });
    let shown = lock.to_string_lossy();
    let text = format!(
        "{shown} is held for {ttl:?}, fence {fence}\n\
         release it with: tercet lock release {shown} --session {session} --fence {fence}"
    );
    output.result(&document, &text)?;
    guard.leave();
    Ok(())
}

fn release(common: &Common, lock: &OsStr, session: Session, fence: u64, output: &Output) -> Done {
    let config = common.config(Duration::from_secs(10)).resume(session.0);
    let client = config.connect()?;
    match client.release_lock(lock.as_bytes(), fence).wait() {
        // The session was made for this lock and has nothing else.
        Ok(()) => client.close(),
        Err(error) => {
            // What it holds, if it lives, is not this command's to end.
            client.detach();
            return Err(match error {
                Error::SessionLost { subject, .. } => Failure::Client(Error::SessionLost {
                    subject,
                    why: String::from("its time to live passed, or it was released before"),
                }),
                other => Failure::Client(other),
            });
        }
    }
    let document = json!({ "lock": name(lock.as_bytes()), "fence": fence, "released": true });
    output.result(&document, &format!("{} is released", lock.to_string_lossy()))?;
    Ok(ExitCode::SUCCESS)
}
