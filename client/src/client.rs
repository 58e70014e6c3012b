//! The client itself: what users hold, and hand out locks, queues and the cache with.

use crate::cache::Cache;
use crate::call::Op;
use crate::config::Config;
use crate::error::Error;
use crate::handle::Handle;
use crate::lock::Lock;
use crate::pending::Pending;
use crate::queue::Queue;
use std::sync::Arc;
use std::time::Duration;
use wire::Call;
use wire::message::LockRelease;
use wire::topology::{Node, Placement};

/// A client of a cluster. Its clones are the same client, with the same session.
///
/// It ends when it is closed, or when its last clone and all that came of it (guards, messages, pending
/// calls) are dropped; the session is closed then, and what it held is free.
#[derive(Clone)]
pub struct Client {
    pub(crate) handle: Arc<Handle>,
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
        let op = Op::new(LockRelease { call: Call::NONE, fence, name: name.as_ref() });
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
