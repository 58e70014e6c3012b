//! What guards know of the session by which they hold something.

use crate::clock::Moment;
use crate::core::SessionId;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// One session from its opening to its end.
#[derive(Debug)]
pub(crate) struct Life {
    pub id: SessionId,
    /// Why it ended.
    pub ended: OnceLock<String>,
}

impl Life {
    pub fn new(id: SessionId) -> Arc<Life> {
        Arc::new(Life { id, ended: OnceLock::new() })
    }
}

/// A session's standing in one shard, shared with the guards of what it holds there.
#[derive(Debug)]
pub(crate) struct Tenure {
    pub life: Arc<Life>,
    until: AtomicU64,
}

impl Tenure {
    pub fn new(life: Arc<Life>, until: Moment) -> Arc<Tenure> {
        Arc::new(Tenure { life, until: AtomicU64::new(until.0) })
    }

    /// The moment up to which the session surely lives in the shard.
    pub fn until(&self) -> Moment {
        Moment(self.until.load(Ordering::Acquire))
    }

    /// The core says that it is another one.
    pub fn set_until(&self, until: Moment) {
        self.until.store(until.0, Ordering::Release);
    }

    /// Why nothing is held under it any more.
    pub fn lost(&self, now: Moment) -> Option<String> {
        if let Some(why) = self.life.ended.get() {
            return Some(why.clone());
        }
        (now >= self.until()).then(|| String::from("no heartbeat was confirmed in time"))
    }
}
