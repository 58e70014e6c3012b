//! Tercet's client: locks, queues and a cache, blocking or awaited.
//!
//! ```no_run
//! use std::time::Duration;
//! fn main() -> Result<(), client::Error> {
//!     let client = client::Client::connect(["127.0.0.1:7400"])?;
//!
//!     let guard = client.lock("billing/{42}").wait(Duration::from_secs(10)).acquire().wait()?;
//!     let version = client.cache().put("invoice/{42}", "paid").wait()?;
//!     client.queue("mail/{42}").push(format!("version {version}")).wait()?;
//!     println!("done under fence {}", guard.fence());
//!     guard.release().wait()?;
//!
//!     let queue = client.queue("mail/{42}");
//!     while let Some(mail) = queue.pop(Duration::from_secs(30), Duration::ZERO).wait()? {
//!         mail.ack().wait()?;
//!     }
//!     client.close();
//!     Ok(())
//! }
//! ```
//!
//! Each call gives a [`Pending`], which can be waited for (`.wait()`) or awaited (`.await`) with any
//! executor: the client's own threads do the I/O.
//!
//! # How it works
//! A call goes to the leader of its name's shard, straight to the core that serves it, pipelined on one
//! connection per core. All that is known and decided is in `core`, which is told what happened
//! and when; threads around it carry bytes (`connection`) and time (`handle`). Redirects are
//! followed, refusals that pass are waited out, lost connections are made again, all within the
//! call's deadline.
//!
//! # Guarantees
//! - A call that changes something is applied at most once, however often it is sent: each try carries
//!   the same session and sequence. When the client can't tell whether it was, the error is
//!   [`Error::OutcomeUnknown`]; after any other error it was not.
//! - A [`LockGuard`] that says it is valid was confirmed, by the shard's own leader, by a heartbeat
//!   not older than the session's time to live.
//! - A call that is given up (its [`Pending`] dropped, its deadline passed) leaves nothing held: a
//!   lock or a message that it still brings is given back.
//! - What gives something back (a release, an acknowledgement, a dropped guard) is tried until it is answered
//!   or the session ends, whatever became of its caller. A place in the window and on the connection is kept for it.
//! - Nothing grows without bound, and closing or dropping the client at any point ends its
//!   threads: `limits` names every limit.
//!
//! # Left out
//! - A waiting acquire keeps a place in its shard's window of 256 calls, which can't run ahead of it
//!   by more, 64 of them for what gives something back: a client that waits for long on one lock and
//!   calls much in the same shard should do the waiting with a client of its own. (A waiting pop gives its place away
//!   and pops anew.)
//! - A lease is counted from when it was asked for, since no answer says how old a grant is: one that had
//!   to be waited for as long as its lease comes with a guard that is not valid.
//! - A waiting acquire or pop that is given up keeps its turn until it is served or its wait runs
//!   out; what it brings is given back at once. Cancelling it (the protocol would, by
//!   `answered_below`) would leave open whether it had been served a moment before.
//! - The near cache of the protocol's later kinds: every get asks the leader.
//!
//! # Sources
//! Exactly-once by session and sequence: Ongaro, Consensus: Bridging Theory and Practice, section
//! 6.3. Fencing: Kleppmann, How to do distributed locking, 2016.

extern crate alloc;

pub mod admin;
pub mod backup;
pub mod limits;

mod cache;
mod call;
mod clock;
mod config;
mod connection;
pub mod core;
mod error;
mod handle;
mod inbox;
mod inner;
mod lock;
mod pending;
mod probe;
mod queue;
mod tenure;

#[cfg(test)]
mod tests;

pub use cache::{Cache, Delete, Line, Put};
pub use config::Config;
pub use error::Error;
pub use lock::{Lock, LockGuard};
pub use pending::Pending;
pub use probe::{Probe, probe};
pub use queue::{Message, PRIORITY, Queue};
pub use wire::Code;
pub use wire::topology::{Node, Placement};

use crate::call::Op;
use crate::handle::Handle;
use std::sync::Arc;
use std::time::Duration;

/// A client of a cluster. Its clones are the same client, with the same session.
///
/// It ends when it is closed, or when its last clone and all that came of it (guards, messages, pending
/// calls) are dropped; the session is closed then, and what it held is free.
#[derive(Clone)]
pub struct Client {
    handle: Arc<Handle>,
}

impl Client {
    /// Connects to a cluster, some of whose nodes are at `addresses` ("host:port"), with the
    /// settings of [`Config::new`].
    ///
    /// # Errors
    /// [`Error::Connect`] when no node answers within the deadline.
    pub fn connect<A: Into<String>>(
        addresses: impl IntoIterator<Item = A>,
    ) -> Result<Client, Error> {
        Config::new(addresses).connect()
    }

    /// The lock of this name.
    pub fn lock(&self, name: impl AsRef<[u8]>) -> Lock {
        Lock::new(Arc::clone(&self.handle), name.as_ref().to_vec())
    }

    /// Releases a lock that this client's session holds, without a guard. See [`Config::resume`].
    pub fn release_lock(&self, name: impl AsRef<[u8]>, fence: u64) -> Pending<()> {
        let op = Op::Release { name: name.as_ref().to_vec(), fence };
        let bound = Some(self.session());
        self.handle.call(op, Duration::ZERO, bound, |_, outcome| outcome.map(|_| ()))
    }

    /// The queue of this name.
    pub fn queue(&self, name: impl AsRef<[u8]>) -> Queue {
        Queue::new(Arc::clone(&self.handle), name.as_ref().to_vec())
    }

    /// The cache.
    pub fn cache(&self) -> Cache {
        Cache::new(Arc::clone(&self.handle))
    }

    /// The session's id. It changes when the session ends.
    pub fn session(&self) -> [u8; 16] {
        self.handle.shared().with(|inner, _| inner.session())
    }

    /// The nodes of the cluster and the placement of its shards, as last heard.
    pub fn topology(&self) -> (Vec<Node>, Vec<Placement>) {
        self.handle.shared().with(|inner, _| {
            let map = inner.core.map().expect("a client is handed out with a topology");
            (map.nodes.values().cloned().collect(), map.placement.values().cloned().collect())
        })
    }

    /// Closes the session, which frees all that it holds, then all connections. Waits for at most the
    /// deadline. Calls that are still open fail; so do calls on other clones from now on.
    pub fn close(self) {
        self.handle.close();
    }

    /// As [`Client::close`], but waits for at most `limit`. What the session holds is free after its time to live,
    /// if it could not be closed within that.
    pub fn close_within(self, limit: Duration) {
        self.handle.close_within(limit);
    }

    /// Ends the client but not its session, after a last sign of life: what the session holds stays
    /// held for its time to live. For processes that end between acquire and release; see
    /// [`Config::resume`].
    pub fn detach(self) {
        self.handle.detach();
    }
}
