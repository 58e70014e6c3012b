//! Locks: shared or exclusive, with a fence.

use crate::call::{Given, Op};
use crate::clock::{Moment, millis};
use crate::core::{Mode, SessionId, surely};
use crate::error::Error;
use crate::handle::Handle;
use crate::pending::Pending;
use crate::tenure::Tenure;
use std::sync::Arc;
use std::time::Duration;
use wire::Call;
use wire::limits::{LEASE_MS_MAX, WAIT_MS_MAX};
use wire::message::{LockAcquire, LockRelease};

/// A lock that may be acquired. Made by [`Client::lock`](crate::Client::lock).
///
/// Without further words: exclusive, as long as the session, waiting up to the client's deadline.
///
/// Guards exclude each other whoever holds them: another client, or another thread, task or clone of this one. A
/// thread that asks again for what it holds exclusively waits for itself.
#[derive(Clone)]
#[must_use = "it does nothing before it is acquired"]
pub struct Lock {
    handle: Arc<Handle>,
    name: Vec<u8>,
    mode: Mode,
    wait: Duration,
    lease: Option<Duration>,
}

impl Lock {
    pub(crate) fn new(handle: Arc<Handle>, name: Vec<u8>) -> Lock {
        let wait = handle.shared().config.deadline;
        Lock { handle, name, mode: Mode::Exclusive, wait, lease: None }
    }

    /// To be held beside others that hold it shared.
    pub fn shared(mut self) -> Lock {
        self.mode = Mode::Shared;
        self
    }

    /// To be held by nobody else.
    pub fn exclusive(mut self) -> Lock {
        self.mode = Mode::Exclusive;
        self
    }

    /// How long to wait for it, at most 10 min. Whoever asked first gets it first.
    pub fn wait(mut self, wait: Duration) -> Lock {
        self.wait = wait;
        self
    }

    /// Not to wait: it is free, or the answer is [`wire::Code::LockHeld`].
    pub fn try_once(mut self) -> Lock {
        self.wait = Duration::ZERO;
        self
    }

    /// To be held for at most this long, up to 12 hours, however long the session lives.
    ///
    /// The guard counts it from when it asked, since the answer does not say when the lock was granted: a
    /// lease has to be longer than the wait for the guard to be valid whenever it comes.
    pub fn lease(mut self, lease: Duration) -> Lock {
        self.lease = Some(lease);
        self
    }

    /// Acquires it.
    ///
    /// Fails with [`Error::Refused`] and the code `LockHeld` or `LockTimeout` when somebody else
    /// holds it. When the pending call is dropped, the lock is released as soon as it is granted.
    pub fn acquire(self) -> Pending<LockGuard> {
        let Lock { handle, name, mode, wait, lease } = self;
        let (wait_ms, lease_ms) = (millis(wait), lease.map_or(0, millis));
        let subject = || format!("acquire lock \"{}\"", name.escape_ascii());
        if wait_ms > WAIT_MS_MAX {
            let what = format!("the wait is at most {WAIT_MS_MAX} ms, not {wait_ms}");
            return Pending::failed(Error::Invalid { subject: subject(), what });
        }
        if lease.is_some_and(|l| l.is_zero()) || lease_ms > LEASE_MS_MAX {
            let what = format!("a lease lasts 1 to {LEASE_MS_MAX} ms, not {lease_ms}");
            return Pending::failed(Error::Invalid { subject: subject(), what });
        }
        let call = Call::NONE;
        let op = Op::new(LockAcquire { call, wait_ms, lease_ms, mode, name: &name });
        handle.call(op, wait, None, move |handle, outcome| {
            let answer = outcome?;
            let Given::Token(fence) = answer.given else {
                unreachable!("an acquire is answered with a token")
            };
            let tenure = answer.tenure.expect("an acquire is stamped");
            let until = lease.map_or(Moment::MAX, |lease| answer.granted_at + surely(lease));
            Ok(LockGuard { handle, name, fence, tenure, until, held: Held::Yes })
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Held {
    Yes,
    /// It is being released, or is to stay.
    LetGo,
}

/// A lock that is held, until it is released, dropped, or lost.
///
/// The lock can be lost while the guard lives: when no heartbeat was confirmed for the session's time
/// to live, when the session ended, when the lease ran out. The guard notices by its own clock, never
/// later than the cluster. Between a look at [`LockGuard::is_valid`] and the next step of a
/// program any time may pass, though: what must be safe gives the [fence](LockGuard::fence) along, and
/// the resource refuses a fence lower than one it has seen.
#[must_use = "dropping it releases the lock"]
pub struct LockGuard {
    handle: Arc<Handle>,
    name: Vec<u8>,
    fence: u64,
    tenure: Arc<Tenure>,
    /// When the lease runs out.
    until: Moment,
    held: Held,
}

impl LockGuard {
    /// The fencing token: higher than that of any earlier grant of this lock.
    pub fn fence(&self) -> u64 {
        self.fence
    }

    /// The lock's name.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// The session that holds it.
    pub fn session(&self) -> SessionId {
        self.tenure.life.id
    }

    /// Whether the lock is surely still held, as far as the last confirmed heartbeat says.
    pub fn is_valid(&self) -> bool {
        !self.remaining().is_zero()
    }

    /// How long the lock is surely held from now on if no further heartbeat is confirmed.
    pub fn remaining(&self) -> Duration {
        let now = Moment::now();
        match self.tenure.lost(now) {
            Some(_) => Duration::ZERO,
            None => self.until.min(self.tenure.until()).since(now),
        }
    }

    /// Why the lock is lost; `None` while it is held.
    pub fn lost(&self) -> Option<Error> {
        let now = Moment::now();
        let run_out = (now >= self.until).then(|| String::from("the lease ran out"));
        let why = self.tenure.lost(now).or(run_out)?;
        let subject = format!("lock \"{}\"", self.name.escape_ascii());
        Some(Error::SessionLost { subject, why })
    }

    /// Releases the lock, and says whether it was held to the end: otherwise
    /// [`Error::SessionLost`], or [`Error::Refused`] with `NotHolder` or `StaleFence`.
    ///
    /// After [`Error::OutcomeUnknown`], and when the pending call is dropped, the client goes on trying for as
    /// long as its session lives.
    pub fn release(mut self) -> Pending<()> {
        self.held = Held::LetGo;
        let op = self.giving_back();
        let bound = Some(self.tenure.life.id);
        self.handle.call(op, Duration::ZERO, bound, |_, outcome| outcome.map(|_| ()))
    }

    fn giving_back(&self) -> Op {
        Op::new(LockRelease { call: Call::NONE, fence: self.fence, name: &self.name })
    }

    /// Keeps the lock held without this guard: until its lease or its session ends, or somebody
    /// releases it with [`Client::release_lock`](crate::Client::release_lock).
    pub fn leave(mut self) {
        self.held = Held::LetGo;
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        if self.held == Held::Yes && self.tenure.life.ended.get().is_none() {
            self.handle.send_off(self.giving_back(), self.tenure.life.id);
        }
    }
}

impl std::fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.name.escape_ascii().to_string();
        f.debug_struct("LockGuard").field("name", &name).field("fence", &self.fence).finish()
    }
}
