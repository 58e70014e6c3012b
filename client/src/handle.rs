//! What ties the state to the world: its mutex, its driver thread, and its end.

use crate::call::{Answer, Op, SessionId};
use crate::clock::Moment;
use crate::config::Config;
use crate::core::session::Session;
use crate::core::{Out, Phase, Request, State};
use crate::error::Error;
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
    state: Mutex<State>,
    /// Wakes the driver.
    alarm: Condvar,
    threads: Mutex<usize>,
    ended: Condvar,
}

impl Shared {
    /// Lets `f` act on the state, then does what it left to be done.
    pub fn with<R>(self: &Arc<Shared>, f: impl FnOnce(&mut State, Moment) -> R) -> R {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let result = f(&mut state, Moment::now());
        let out = std::mem::take(&mut state.out);
        let early = state.wake_at() < state.driver_sleeps_until || state.phase == Phase::Gone;
        drop(state);
        if early {
            self.alarm.notify_one();
        }
        self.perform(out);
        result
    }

    fn perform(self: &Arc<Shared>, out: Out) {
        for (slot, outcome) in out.done {
            if let Some(Ok(answer)) = slot.complete(outcome) {
                self.abandon(0, Some(Ok(answer)));
            }
        }
        for (id, key, outbox) in out.connect {
            let shared = Arc::clone(self);
            let spawned = Shared::spawn(self, "tercet-write", move || {
                connection::run(&shared, id, &key, &outbox);
            });
            if let Err(why) = spawned {
                self.with(|state, now| state.on_link_down(now, id, &why));
            }
        }
    }

    /// The caller of a call has given it up.
    pub fn abandon(self: &Arc<Shared>, call: u64, unseen: Option<Outcome>) {
        self.with(|state, now| state.abandon(now, call, unseen));
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
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.phase != Phase::Gone {
            let now = Moment::now();
            state.tick(now);
            let out = std::mem::take(&mut state.out);
            let sleep = state.wake_at().since(now).min(Duration::from_secs(60));
            if out.done.is_empty() && out.connect.is_empty() {
                state.driver_sleeps_until = now + sleep;
                let woken = self.alarm.wait_timeout(state, sleep);
                state = woken.unwrap_or_else(PoisonError::into_inner).0;
                state.driver_sleeps_until = Moment(0);
            } else {
                drop(state);
                self.perform(out);
                state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Closes the session within `limit`, then ends every call, connection and thread.
    fn end(self: &Arc<Shared>, limit: Duration) {
        let begun = Moment::now();
        let limit = if OURS.get() == Ours::Yes { Duration::ZERO } else { limit };
        for slot in self.with(|state, now| state.leave(now, limit)) {
            slot.wait_until_done(limit.saturating_sub(Moment::now().since(begun)));
        }
        self.vanish();
    }

    /// Ends every call, connection and thread.
    fn vanish(self: &Arc<Shared>) {
        self.with(|state, now| state.vanish(now));
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
        let sent = Arc::clone(&slot);
        let call = self.shared.with(|state, now| {
            let limit = state.config.deadline + wait;
            state.submit(now, Request { op, slot: Some(sent), limit, bound })
        });
        Pending::new(Arc::clone(self), slot, call, finish)
    }

    /// Gives something back, and goes on trying until that is done or the session has ended.
    pub fn send_off(&self, op: Op, bound: SessionId) {
        self.shared.with(|state, now| {
            let limit = Duration::MAX;
            state.submit(now, Request { op, slot: None, limit, bound: Some(bound) });
        });
    }

    /// Closes the session, then ends everything.
    pub fn close(&self) {
        let limit = self.shared.with(|state, _| state.config.deadline);
        self.close_within(limit);
    }

    /// As [`Handle::close`], within `limit`.
    pub fn close_within(&self, limit: Duration) {
        self.shared.end(limit);
    }

    /// Ends everything but the session, after a last sign of life.
    pub fn detach(&self) {
        let begun = Moment::now();
        let limit = self.shared.with(|state, now| {
            state.beat_soon(now);
            state.beat(now);
            state.config.deadline.min(Duration::from_secs(1))
        });
        let confirmed = |state: &mut State, _| state.is_beaten_since(begun);
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
    let session = match config.resume {
        // Microseconds since 1970 are above all that the session's last user reached.
        Some(id) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            Session::resumed(id, u64::try_from(now.as_micros()).unwrap_or(u64::MAX / 2))
        }
        None => {
            let mut id = [0u8; 16];
            if let Err(error) = getrandom::fill(&mut id) {
                let what = format!("no randomness for a session's id: {error}");
                return Pending::failed(Error::Machine { what });
            }
            Session::new(id)
        }
    };
    let slot = Arc::<Slot>::default();
    let state = State::new(config, session, Arc::clone(&slot), Moment::now());
    let shared = Arc::new(Shared {
        state: Mutex::new(state),
        alarm: Condvar::new(),
        threads: Mutex::new(0),
        ended: Condvar::new(),
    });
    let driver = Arc::clone(&shared);
    let handle = Arc::new(Handle { shared });
    if let Err(what) = Shared::spawn(&handle.shared, "tercet-drive", move || driver.drive()) {
        return Pending::failed(Error::Machine { what });
    }
    Pending::new(handle, slot, 0, |handle, outcome| outcome.map(|_| Client { handle }))
}
