//! Where peers are: names resolved off the data threads.
//!
//! All names are resolved once at the start. A thread that can't connect marks the name as stale, and a
//! thread of its own, which exists only if there is any name to resolve, asks again. A data thread only
//! ever reads what is there.

use crate::ids::NodeId;
use crossbeam::atomic::AtomicCell;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// How often a name that is stale is asked for.
const RETRY: Duration = Duration::from_secs(1);

struct Entry {
    node: NodeId,
    name: String,
    address: AtomicCell<Option<SocketAddr>>,
    stale: AtomicBool,
}

struct Shared {
    entries: Vec<Entry>,
    closed: AtomicBool,
}

/// The address of every peer.
pub struct AddressBook {
    shared: Arc<Shared>,
    resolver: Option<thread::Thread>,
}

impl AddressBook {
    /// Resolves every name once. A name that can't be resolved yet is no error.
    ///
    /// # Errors
    /// When the resolver's thread can't be started.
    pub fn new(peers: &[(NodeId, String)]) -> io::Result<AddressBook> {
        let entries = peers.iter().map(|(node, name)| {
            let address = resolve(name);
            Entry {
                node: *node,
                name: name.clone(),
                stale: AtomicBool::new(address.is_none()),
                address: AtomicCell::new(address),
            }
        });
        let shared =
            Arc::new(Shared { entries: entries.collect(), closed: AtomicBool::new(false) });
        let literal = |entry: &Entry| entry.name.parse::<SocketAddr>().is_ok();
        let resolver = if shared.entries.iter().all(literal) {
            None
        } else {
            let shared = Arc::clone(&shared);
            let name = "tercet-resolver".to_owned();
            let handle = thread::Builder::new().name(name).spawn(move || shared.serve())?;
            Some(handle.thread().clone())
        };
        Ok(AddressBook { shared, resolver })
    }

    /// The peers, in the order in which they were given.
    pub fn peers(&self) -> impl Iterator<Item = (NodeId, &str)> {
        self.shared.entries.iter().map(|entry| (entry.node, entry.name.as_str()))
    }

    /// Where a peer is, as far as is known.
    pub fn get(&self, peer: NodeId) -> Option<SocketAddr> {
        self.entry(peer)?.address.load()
    }

    /// A connect to `peer` failed: its name may lead elsewhere by now.
    pub fn mark_stale(&self, peer: NodeId) {
        if let (Some(entry), Some(resolver)) = (self.entry(peer), &self.resolver) {
            entry.stale.store(true, Ordering::Release);
            resolver.unpark();
        }
    }

    fn entry(&self, peer: NodeId) -> Option<&Entry> {
        self.shared.entries.iter().find(|entry| entry.node == peer)
    }
}

impl Drop for AddressBook {
    fn drop(&mut self) {
        // Not joined: a name server may keep the thread for seconds.
        self.shared.closed.store(true, Ordering::Release);
        if let Some(resolver) = &self.resolver {
            resolver.unpark();
        }
    }
}

impl Shared {
    fn serve(&self) {
        while !self.closed.load(Ordering::Acquire) {
            let mut asked = false;
            for entry in self.entries.iter().filter(|entry| entry.stale.load(Ordering::Acquire)) {
                asked = true;
                if let Some(address) = resolve(&entry.name) {
                    entry.address.store(Some(address));
                    entry.stale.store(false, Ordering::Release);
                }
            }
            if asked {
                thread::park_timeout(RETRY);
                // Whoever marked a name meanwhile waits no longer than this.
                thread::sleep(RETRY / 10);
            } else {
                thread::park();
            }
        }
    }
}

fn resolve(name: &str) -> Option<SocketAddr> {
    // An error means "not known yet": it is asked for again.
    name.to_socket_addrs().ok()?.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_need_no_resolver_and_names_are_resolved() {
        let peers = [(NodeId(2), "127.0.0.1:9000".to_owned())];
        let book = AddressBook::new(&peers).unwrap();
        assert!(book.resolver.is_none());
        assert_eq!(book.get(NodeId(2)), Some("127.0.0.1:9000".parse().unwrap()));
        assert_eq!(book.get(NodeId(3)), None);

        let book = AddressBook::new(&[(NodeId(2), "localhost:9000".to_owned())]).unwrap();
        assert_eq!(book.get(NodeId(2)).map(|address| address.port()), Some(9000));
        book.mark_stale(NodeId(2));
        assert!(book.get(NodeId(2)).is_some());
    }
}
