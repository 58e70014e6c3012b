//! A call that is under way: wait for it, or await it.

use crate::call::Answer;
use crate::core::CallId;
use crate::error::Error;
use crate::handle::Handle;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

/// What a call came to.
pub(crate) type Outcome = Result<Answer, Error>;

/// Where an answer is left for whoever waits for it.
#[derive(Default)]
pub(crate) struct Slot {
    stage: Mutex<Stage>,
    done: Condvar,
}

enum Stage {
    Open(Option<Waker>),
    Done(Box<Outcome>),
    /// Nobody waits any more.
    Gone,
}

impl Default for Stage {
    fn default() -> Stage {
        Stage::Open(None)
    }
}

impl Slot {
    /// Leaves the outcome; gives it back when nobody waits for it.
    pub fn complete(&self, outcome: Outcome) -> Option<Outcome> {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        let waker = match &mut *stage {
            Stage::Open(waker) => waker.take(),
            Stage::Done(_) | Stage::Gone => return Some(outcome),
        };
        *stage = Stage::Done(Box::new(outcome));
        drop(stage);
        self.done.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
        None
    }

    /// Waits for the outcome.
    pub fn wait(&self) -> Outcome {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Stage::Done(_) = *stage {
                return take(&mut stage);
            }
            stage = self.done.wait(stage).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until there is nothing to wait for any more, or `limit` has passed.
    pub fn wait_until_done(&self, limit: std::time::Duration) {
        let stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        let open = |s: &mut Stage| matches!(s, Stage::Open(_));
        let waited = self.done.wait_timeout_while(stage, limit, open);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Nobody is told anything any more; whoever waits until it is done goes on.
    pub fn leave(&self) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = Stage::Gone;
        self.done.notify_all();
    }

    fn poll(&self, context: &Context<'_>) -> Poll<Outcome> {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *stage {
            Stage::Open(waker) => {
                *waker = Some(context.waker().clone());
                Poll::Pending
            }
            Stage::Done(_) | Stage::Gone => Poll::Ready(take(&mut stage)),
        }
    }

    /// Gives the slot up; gives back an outcome that nobody has seen.
    fn abandon(&self) -> Option<Outcome> {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *stage, Stage::Gone) {
            Stage::Done(outcome) => Some(*outcome),
            Stage::Open(_) | Stage::Gone => None,
        }
    }
}

fn take(stage: &mut Stage) -> Outcome {
    match std::mem::replace(stage, Stage::Gone) {
        Stage::Done(outcome) => *outcome,
        Stage::Open(_) | Stage::Gone => panic!("a future is not polled after it was ready"),
    }
}

type Finish<T> = Box<dyn FnOnce(Arc<Handle>, Outcome) -> Result<T, Error> + Send>;

/// A call that is under way. It was sent, or will be, whether or not anybody looks at this.
///
/// [`Pending::wait`] blocks; as a [`Future`] it works with any executor, or none. Dropping it gives the
/// call up: what was not sent yet is forgotten, and a lock or message that it still brings is
/// given back by the client.
#[must_use = "wait for it or await it; dropping it gives the call up"]
pub struct Pending<T> {
    stage: Option<Under<T>>,
}

enum Under<T> {
    Failed(Error),
    Way { handle: Arc<Handle>, slot: Arc<Slot>, call: Option<CallId>, finish: Finish<T> },
}

impl<T> Pending<T> {
    pub(crate) fn failed(error: Error) -> Pending<T> {
        Pending { stage: Some(Under::Failed(error)) }
    }

    pub(crate) fn new(
        handle: Arc<Handle>,
        slot: Arc<Slot>,
        call: Option<CallId>,
        finish: impl FnOnce(Arc<Handle>, Outcome) -> Result<T, Error> + Send + 'static,
    ) -> Pending<T> {
        Pending { stage: Some(Under::Way { handle, slot, call, finish: Box::new(finish) }) }
    }

    /// Waits for the result: at most the deadline, and the time that the call itself waits.
    ///
    /// # Errors
    /// What the call failed with.
    pub fn wait(mut self) -> Result<T, Error> {
        match self.stage.take().expect("a pending call is waited for once") {
            Under::Failed(error) => Err(error),
            Under::Way { handle, slot, finish, .. } => {
                let outcome = slot.wait();
                finish(handle, outcome)
            }
        }
    }
}

// Nothing in it is pinned: the closure and the slot are behind pointers.
impl<T> Unpin for Pending<T> {}

impl<T> Future for Pending<T> {
    type Output = Result<T, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = match self.stage.as_ref().expect("a future is not polled after it was ready")
        {
            Under::Failed(_) => None,
            Under::Way { slot, .. } => match slot.poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(outcome) => Some(outcome),
            },
        };
        match (self.stage.take().expect("it was there a moment ago"), outcome) {
            (Under::Failed(error), _) => Poll::Ready(Err(error)),
            (Under::Way { handle, finish, .. }, Some(outcome)) => {
                Poll::Ready(finish(handle, outcome))
            }
            (Under::Way { .. }, None) => unreachable!("a call under way is ready with an outcome"),
        }
    }
}

impl<T> Drop for Pending<T> {
    fn drop(&mut self) {
        if let Some(Under::Way { handle, slot, call, .. }) = self.stage.take() {
            let unseen = slot.abandon();
            handle.shared().abandon(call, unseen);
        }
    }
}
