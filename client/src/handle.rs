//! What ties the core to the world: its mutex, its driver thread, and its end.

use crate::call::{Answer, Errand, Op};
use crate::clock::Moment;
use crate::config::Config;
use crate::core::{Again, CallId, Phase, Resume, SessionId, Settings, Trouble};
use crate::error::Error;
use crate::inner::{Inner, Left, Todo};
use crate::limits::{DROP_LINGER, THREADS_END_MAX};
use crate::pending::{Outcome, Pending, Slot};
use crate::{Client, connection};
use std::cell::Cell;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use wire::limits::{NAME_BYTES_MAX, VALUE_BYTES_MAX};

thread_local! {
    /// Whether this is a thread of some client: it can't wait for its own end.
    static OURS: Cell<Ours> = const { Cell::new(Ours::No) };
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ours {
    No,
    Yes,
}

/// What all threads of a client share.
pub(crate) struct Shared {
    pub config: Config,
    inner: Mutex<Inner>,
    /// Wakes the driver.
    alarm: Condvar,
    /// Done once the session is closed, or the client is gone.
    left: Slot,
    threads: Mutex<usize>,
    ended: Condvar,
}

impl Shared {
    /// Lets `f` act on the core, then does what it left to be done.
    pub fn with<R>(self: &Arc<Shared>, f: impl FnOnce(&mut Inner, Moment) -> R) -> R {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let result = f(&mut inner, Moment::now());
        let todo = inner.take_todo();
        let gone = inner.core.phase() == Phase::Gone;
        let early = inner.core.wake_at() < inner.driver_sleeps_until || gone;
        drop(inner);
        if early {
            self.alarm.notify_one();
        }
        self.perform(todo);
        result
    }

    fn perform(self: &Arc<Shared>, todo: Todo) {
        if todo.left == Left::Yes {
            self.left.leave();
        }
        for (slot, outcome) in todo.done {
            if let Some(Ok(answer)) = slot.complete(outcome) {
                self.with(|inner, now| inner.undo(now, answer));
            }
        }
        for (id, to, outbox) in todo.connect {
            let shared = Arc::clone(self);
            let spawned = Shared::spawn(self, "tercet-write", move || {
                connection::run(&shared, id, &to, &outbox);
            });
            if let Err(why) = spawned {
                self.with(|inner, now| inner.on_closed(now, id, Trouble::world(&why)));
            }
        }
    }

    /// The caller of a call has given it up. `unseen`: its outcome, if it was there already.
    pub fn abandon(self: &Arc<Shared>, call: Option<CallId>, unseen: Option<Outcome>) {
        self.with(|inner, now| {
            if let Some(Ok(answer)) = unseen {
                inner.undo(now, answer);
            }
            if let Some(call) = call {
                inner.core.abandon(now, call);
            }
        });
    }

    /// Starts a thread that [`Shared::end`] waits for.
    pub fn spawn(
        shared: &Arc<Shared>,
        name: &str,
        run: impl FnOnce() + Send + 'static,
    ) -> Result<(), String> {
        let counted = Counted(Arc::clone(shared));
        *shared.threads.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        // If the thread can't be made, the closure is dropped, and with it what was counted.
        let thread = std::thread::Builder::new().name(String::from(name)).spawn(move || {
            let _counted = counted;
            OURS.set(Ours::Yes);
            run();
        });
        thread.map(drop).map_err(|e| format!("no thread could be made: {e}"))
    }

    /// The driver: everything that happens because time passes.
    fn drive(self: &Arc<Shared>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        while inner.core.phase() != Phase::Gone {
            let now = Moment::now();
            inner.core.tick(now);
            let todo = inner.take_todo();
            let sleep = inner.core.wake_at().since(now).min(Duration::from_secs(60));
            if todo.is_empty() {
                inner.driver_sleeps_until = now + sleep;
                let woken = self.alarm.wait_timeout(inner, sleep);
                inner = woken.unwrap_or_else(PoisonError::into_inner).0;
                inner.driver_sleeps_until = Moment(0);
            } else {
                drop(inner);
                self.perform(todo);
                inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Closes the session within `limit`, then ends every call, connection and thread.
    fn end(self: &Arc<Shared>, limit: Duration) {
        let limit = if OURS.get() == Ours::Yes { Duration::ZERO } else { limit };
        self.with(|inner, now| inner.core.leave(now, limit));
        self.left.wait_until_done(limit);
        self.vanish();
    }

    /// Ends every call, connection and thread.
    fn vanish(self: &Arc<Shared>) {
        self.with(|inner, now| inner.vanish(now));
        if OURS.get() == Ours::Yes {
            return;
        }
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        // A thread that looks up a name can take longer: it ends by itself.
        let running = |threads: &mut usize| *threads > 0;
        let waited = self.ended.wait_timeout_while(threads, THREADS_END_MAX, running);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

/// Counts a thread for as long as it lives.
struct Counted(Arc<Shared>);

impl Drop for Counted {
    fn drop(&mut self) {
        *self.0.threads.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.ended.notify_all();
    }
}

/// What users hold, in one way or another. The last one to go ends the client.
pub(crate) struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.end(DROP_LINGER);
    }
}

impl Handle {
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Makes a call. `wait` is the time that it asks to wait, on top of the deadline.
    pub fn call<T>(
        self: &Arc<Handle>,
        op: Op,
        wait: Duration,
        bound: Option<SessionId>,
        finish: impl FnOnce(Arc<Handle>, Result<Answer, Error>) -> Result<T, Error> + Send + 'static,
    ) -> Pending<T> {
        if let Err(error) = check(&op) {
            return Pending::failed(error);
        }
        let slot = Arc::<Slot>::default();
        let errand = Errand { op, slot: Some(Arc::clone(&slot)) };
        let limit = self.shared.config.deadline + wait;
        let call = self.shared.with(|inner, now| inner.submit(now, errand, limit, bound));
        Pending::new(Arc::clone(self), slot, Some(call), finish)
    }

    /// Gives something back, and goes on trying until that is done or the session has ended.
    pub fn send_off(&self, op: Op, bound: SessionId) {
        self.shared.with(|inner, now| {
            inner.submit(now, op.into(), Duration::MAX, Some(bound));
        });
    }

    /// Closes the session, then ends everything.
    pub fn close(&self) {
        self.close_within(self.shared.config.deadline);
    }

    /// As [`Handle::close`], within `limit`.
    pub fn close_within(&self, limit: Duration) {
        self.shared.end(limit);
    }

    /// Ends everything but the session, after a last sign of life.
    pub fn detach(&self) {
        let begun = Moment::now();
        self.shared.with(|inner, now| {
            inner.core.beat_soon(now);
            inner.core.beat(now);
        });
        let limit = self.shared.config.deadline.min(Duration::from_secs(1));
        let confirmed = |inner: &mut Inner, _| inner.core.is_beaten_since(begun);
        while Moment::now().since(begun) < limit && !self.shared.with(confirmed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.shared.vanish();
    }
}

fn check(op: &Op) -> Result<(), Error> {
    let invalid = |what: String| Err(Error::Invalid { subject: op.to_string(), what });
    if !wire::name::is_valid(op.name()) {
        let length = op.name().len();
        return invalid(format!("a name has 1 to {NAME_BYTES_MAX} bytes, not {length}"));
    }
    let payload = op.bytes() - op.name().len();
    if payload > VALUE_BYTES_MAX {
        return invalid(format!(
            "a value has at most {VALUE_BYTES_MAX} bytes, not {payload}. Store it elsewhere and keep a reference"
        ));
    }
    Ok(())
}

/// Makes a client.
pub(crate) fn start(config: Config) -> Pending<Client> {
    let mut seed = [0u8; 16];
    if let Err(error) = getrandom::fill(&mut seed) {
        let what = format!("no randomness for a session's id: {error}");
        return Pending::failed(Error::Machine { what });
    }
    let slot = Arc::<Slot>::default();
    let inner = Inner::new(Moment::now(), settings(&config, seed), Arc::clone(&slot));
    let shared = Arc::new(Shared {
        config,
        inner: Mutex::new(inner),
        alarm: Condvar::new(),
        left: Slot::default(),
        threads: Mutex::new(0),
        ended: Condvar::new(),
    });
    let driver = Arc::clone(&shared);
    let handle = Arc::new(Handle { shared });
    if let Err(what) = Shared::spawn(&handle.shared, "tercet-drive", move || driver.drive()) {
        return Pending::failed(Error::Machine { what });
    }
    Pending::new(handle, slot, None, |handle, outcome| outcome.map(|_| Client { handle }))
}

fn settings(config: &Config, seed: [u8; 16]) -> Settings {
    // Microseconds since 1970 are above all that the session's last user reached.
    let resume = config.resume.map(|session| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let sequence = u64::try_from(now.as_micros()).unwrap_or(u64::MAX / 2);
        Resume { session, sequence }
    });
    Settings {
        addresses: config.addresses.iter().map(|address| Arc::from(address.as_str())).collect(),
        map: None,
        session_ttl: config.session_ttl,
        ready_within: config.deadline,
        lanes: config.connections,
        again: Again::Waits,
        sessions: 1,
        resume,
        seed,
    }
}
