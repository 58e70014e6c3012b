//! Where peers are: names resolved off the data threads.
//!
//! A peer has the address that the cluster knows, and, before that, the one that `--peers` gives it here. A
//! thread that can't connect marks the peer as stale: then its next name is tried, and a thread of its own
//! asks for what the name means. A data thread only ever reads what is there; a number needs no asking.

use crate::ids::NodeId;
use crossbeam::atomic::AtomicCell;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;
use std::time::Duration;

/// How often a name that is stale is asked for.
const RETRY: Duration = Duration::from_secs(1);

/// One name of a peer: "host:port".
struct Name {
    text: String,
    address: AtomicCell<Option<SocketAddr>>,
    stale: AtomicBool,
}

impl Name {
    fn new(text: &str) -> Name {
        let address = text.parse().ok();
        Name {
            text: text.to_owned(),
            stale: AtomicBool::new(address.is_none()),
            address: AtomicCell::new(address),
        }
    }

    fn is_literal(&self) -> bool {
        self.text.parse::<SocketAddr>().is_ok()
    }

    fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Acquire)
    }

    fn resolve(&self) {
        // An error means "not known yet": it is asked for again.
        let Ok(mut found) = self.text.to_socket_addrs() else { return };
        if let Some(address) = found.next() {
            self.address.store(Some(address));
            self.stale.store(false, Ordering::Release);
        }
    }
}

struct Entry {
    node: NodeId,
    names: Vec<Name>,
    /// The name that is tried.
    at: AtomicUsize,
}

impl Entry {
    fn new(node: NodeId, names: &[&str]) -> Entry {
        let names = names.iter().map(|name| Name::new(name)).collect();
        Entry { node, names, at: AtomicUsize::new(0) }
    }

    fn is_of(&self, names: &[&str]) -> bool {
        self.names.iter().map(|name| name.text.as_str()).eq(names.iter().copied())
    }

    /// The address to try: of the first name, from the one at `at` on, that has one.
    fn address(&self) -> Option<SocketAddr> {
        let at = self.at.load(Ordering::Acquire);
        let (before, from) = self.names.split_at(at.min(self.names.len()));
        from.iter().chain(before).find_map(|name| name.address.load())
    }
}

struct Shared {
    /// Locked to connect, to resolve and to change, and no longer than it takes to copy.
    entries: RwLock<Vec<Arc<Entry>>>,
    closed: AtomicBool,
}

/// The address of every peer.
pub struct AddressBook {
    shared: Arc<Shared>,
    resolver: thread::Thread,
    /// What `--peers` says.
    configured: Vec<(NodeId, String)>,
}

impl AddressBook {
    /// The addresses of these peers: as the cluster knows them, and as they are `configured` here, which comes
    /// first. Every name is resolved once. One that can't be resolved yet is no error.
    ///
    /// # Errors
    /// When the resolver's thread can't be started.
    pub fn new<'a>(
        configured: &[(NodeId, String)],
        peers: impl Iterator<Item = (NodeId, &'a str)>,
    ) -> io::Result<AddressBook> {
        let shared =
            Arc::new(Shared { entries: RwLock::default(), closed: AtomicBool::new(false) });
        let of_thread = Arc::clone(&shared);
        let thread = thread::Builder::new().name("tercet-resolver".to_owned());
        let thread = thread.spawn(move || of_thread.serve())?;
        let configured = configured.to_vec();
        let book = AddressBook { shared, resolver: thread.thread().clone(), configured };
        book.follow(peers);
        for entry in book.shared.entries() {
            entry.names.iter().filter(|name| name.is_stale()).for_each(Name::resolve);
        }
        Ok(book)
    }

    /// From now on these are the peers, with the addresses that the cluster knows. Their names are not
    /// resolved yet.
    pub fn follow<'a>(&self, peers: impl Iterator<Item = (NodeId, &'a str)>) {
        let mut entries = self.shared.write();
        let old = std::mem::take(&mut *entries);
        for (node, known) in peers {
            let configured = self.configured.iter().find(|(peer, _)| *peer == node);
            let mut names: Vec<&str> =
                configured.map(|(_, name)| name.as_str()).into_iter().collect();
            if !known.is_empty() && !names.contains(&known) {
                names.push(known);
            }
            let same = old.iter().find(|entry| entry.node == node && entry.is_of(&names));
            entries.push(same.map_or_else(|| Arc::new(Entry::new(node, &names)), Arc::clone));
        }
        drop(entries);
        self.resolver.unpark();
    }

    /// Where a peer is, as far as is known.
    pub fn get(&self, peer: NodeId) -> Option<SocketAddr> {
        let entries = self.shared.read();
        entries.iter().find(|entry| entry.node == peer)?.address()
    }

    /// Nobody, or not `peer`, was met at the address `tried`: its name may lead elsewhere by now, or it has
    /// another.
    pub fn mark_stale(&self, peer: NodeId, tried: SocketAddr) {
        let entries = self.shared.read();
        let Some(entry) = entries.iter().find(|entry| entry.node == peer) else { return };
        let is_tried = |name: &Name| name.address.load() == Some(tried);
        let Some(at) = entry.names.iter().position(is_tried) else { return };
        if !entry.names[at].is_literal() {
            entry.names[at].stale.store(true, Ordering::Release);
            self.resolver.unpark();
        }
        // Unless another thread, which tried the same, has gone on already.
        if entry.address() == Some(tried) {
            entry.at.store((at + 1) % entry.names.len(), Ordering::Release);
        }
    }
}

impl Drop for AddressBook {
    fn drop(&mut self) {
        // Not joined: a name server may keep the thread for seconds.
        self.shared.closed.store(true, Ordering::Release);
        self.resolver.unpark();
    }
}

impl Shared {
    fn read(&self) -> RwLockReadGuard<'_, Vec<Arc<Entry>>> {
        self.entries.read().expect("nobody panics while holding it")
    }

    fn write(&self) -> RwLockWriteGuard<'_, Vec<Arc<Entry>>> {
        self.entries.write().expect("nobody panics while holding it")
    }

    fn entries(&self) -> Vec<Arc<Entry>> {
        self.read().clone()
    }

    fn serve(&self) {
        while !self.closed.load(Ordering::Acquire) {
            let entries = self.entries();
            let names = entries.iter().flat_map(|entry| &entry.names);
            let mut asked = false;
            for name in names.filter(|name| name.is_stale()) {
                asked = true;
                name.resolve();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_known_at_once_and_names_are_resolved() {
        let peers = [(NodeId(2), "127.0.0.1:9000"), (NodeId(3), "localhost:9001")];
        let book = AddressBook::new(&[], peers.into_iter()).unwrap();
        assert_eq!(book.get(NodeId(2)), Some("127.0.0.1:9000".parse().unwrap()));
        assert_eq!(book.get(NodeId(3)).map(|address| address.port()), Some(9001));
        assert_eq!(book.get(NodeId(4)), None);
        book.mark_stale(NodeId(3), book.get(NodeId(3)).unwrap());
        assert!(book.get(NodeId(3)).is_some());
    }

    #[test]
    fn addresses_follow_the_nodes() {
        let book = AddressBook::new(&[], [(NodeId(2), "127.0.0.1:9000")].into_iter()).unwrap();
        book.follow([(NodeId(3), "127.0.0.1:9001"), (NodeId(4), "localhost:9002")].into_iter());
        assert_eq!(book.get(NodeId(2)), None);
        assert_eq!(book.get(NodeId(3)), Some("127.0.0.1:9001".parse().unwrap()));
        let until = std::time::Instant::now() + 10 * RETRY;
        while book.get(NodeId(4)).is_none() {
            assert!(std::time::Instant::now() < until, "the new name is resolved");
            thread::sleep(RETRY / 100);
        }
    }

    #[test]
    fn the_configured_address_comes_first_and_the_known_one_when_it_leads_nowhere() {
        let configured = [(NodeId(2), "127.0.0.1:1".to_owned())];
        let peers = [(NodeId(2), "127.0.0.1:2")];
        let book = AddressBook::new(&configured, peers.into_iter()).unwrap();
        for port in [1, 2, 1] {
            let tried = book.get(NodeId(2)).unwrap();
            assert_eq!(tried.port(), port);
            // By two threads that tried the same.
            book.mark_stale(NodeId(2), tried);
            book.mark_stale(NodeId(2), tried);
        }
        book.follow(peers.into_iter());
        assert_eq!(book.get(NodeId(2)).map(|address| address.port()), Some(2), "nothing changed");
    }
}
