//! Links between the engines of this node and their twins on the others: engine k speaks to engine k.
//!
//! # How it works
//!
//! There is one TCP connection for each pair of nodes and engine. The node with the higher id connects,
//! so that two never cross; it tries again after a pause that grows from [`BACKOFF_MIN`] to
//! [`BACKOFF_MAX`], less up to half of it by chance. An attempt is given up after
//! [`DIAL_MAX`](super::net::DIAL_MAX), and a link that is silent is made anew: so a network that comes back is used
//! within two seconds, however long it was gone. Both sides say [`PeerHello`] first and check each other's: the cluster, the node,
//! its incarnation, the engine. A node whose disk was wiped comes back as another incarnation, and is
//! refused: it does not remember how it voted. A newer connection of a peer replaces the older: the
//! peer has started again, or has given the old one up before we noticed.
//!
//! Whom a node expects follows the cluster's nodes ([`Identity::follow`], [`Links::follow`]): one that is new
//! gets links, one that is forgotten loses them, and so does one whose data directory was replaced, until it
//! comes with the new one's incarnation.
//!
//! A node of the cluster that does not know that it is one, because it missed the birth or was added just
//! now, is told by a [`Nodes`] and a [`Birth`] frame.
//!
//! # Invariants
//!
//! - No link stands before the other side was checked.
//! - A link keeps its index: connections name it.
//! - A refusal is noted once, until something changes.

mod addresses;
#[cfg(test)]
mod tests;

pub use addresses::AddressBook;

use super::birth::write_founders;
use super::environment::random_seed;
use crate::engine::{EngineConfig, Founder};
use crate::ids::{ClusterId, ConnId, Incarnation, NodeId};
use crate::machine::meta::Meta;
use crate::time::{Duration, Time};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use wire::peer::{Birth, Nodes, PeerHello};
use wire::random::Random;
use wire::{Code, Header};

/// The first pause before another attempt to connect.
pub const BACKOFF_MIN: Duration = Duration::from_millis(10);
/// The longest pause before another attempt to connect.
pub const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// The protocol version that nodes speak.
const VERSION: u8 = 1;

/// Who this node is, and whom it expects.
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// This node.
    pub node: NodeId,
    /// Its data directory's incarnation.
    pub incarnation: Incarnation,
    /// How many engines every node has.
    pub engines: u32,
    /// How many shards the cluster has.
    pub shards: u32,
    /// What the cache lines of one shard may take, in bytes.
    pub cache_bytes_max: u64,
    /// The cluster's founders.
    pub founders: Vec<Founder>,
    /// The cluster's nodes.
    pub nodes: Meta,
}

impl Identity {
    /// The identity in an engine's configuration.
    pub fn of(config: &EngineConfig) -> Identity {
        Identity {
            cluster: config.cluster,
            node: config.node,
            incarnation: config.incarnation,
            engines: config.engines,
            shards: config.shards,
            cache_bytes_max: config.cache_bytes_max,
            founders: config.founders.clone(),
            nodes: config.known_nodes(),
        }
    }

    /// Takes newer nodes. Says whether they are newer.
    pub fn follow(&mut self, nodes: Meta) -> bool {
        let newer = nodes.epoch() > self.nodes.epoch();
        if newer {
            self.nodes = nodes;
        }
        newer
    }

    /// The other nodes, by id.
    pub fn peers(&self) -> impl Iterator<Item = (NodeId, Incarnation)> {
        let others = self.nodes.nodes().filter(|node| node.node != self.node);
        others.map(|node| (node.node, node.incarnation))
    }

    /// Where the other nodes are, as the cluster knows it.
    pub fn addresses(&self) -> impl Iterator<Item = (NodeId, &str)> {
        let others = self.nodes.nodes().filter(|node| node.node != self.node);
        others.map(|node| (node.node, node.address.as_str()))
    }

    /// Whether this node is one of the cluster's: it was not forgotten, and no other data directory has taken
    /// its place.
    pub fn belongs(&self) -> bool {
        self.nodes.node(self.node).is_some_and(|node| node.incarnation == self.incarnation)
    }

    /// Appends this node's hello for the link of an engine.
    pub fn write_hello(&self, engine: u32, out: &mut Vec<u8>) {
        let hello = PeerHello {
            cluster: self.cluster.0,
            incarnation: self.incarnation.0,
            node: self.node.0,
            engine,
            engines: self.engines,
            version: VERSION,
        };
        wire::frame(out, &Header::new(PeerHello::KIND, 0), |body| hello.encode(body));
    }

    /// Appends what a node of the cluster has to know that does not know of it: the nodes, unless they are the
    /// founders, and the birth.
    pub fn write_birth(&self, out: &mut Vec<u8>) {
        if self.nodes.epoch() > 0 {
            let mut nodes = Vec::new();
            self.nodes.snapshot(&mut nodes);
            wire::frame(out, &Header::new(Nodes::KIND, 0), |b| Nodes { nodes: &nodes }.encode(b));
        }
        let founders = write_founders(&self.founders);
        let birth = Birth {
            cluster: self.cluster.0,
            shards: self.shards,
            cache_bytes_max: self.cache_bytes_max,
            founders: &founders,
        };
        wire::frame(out, &Header::new(Birth::KIND, 0), |body| birth.encode(body));
    }

    /// Checks another node's hello.
    pub fn judge(&self, hello: &PeerHello) -> Verdict {
        let node = NodeId(hello.node);
        if hello.version != VERSION {
            let text = format!("node {node} speaks peer protocol {}, not {VERSION}", hello.version);
            return Verdict::Refused(Code::WrongVersion, text);
        }
        let known = self.nodes.node(node).filter(|_| node != self.node);
        let Some(incarnation) = known.map(|known| known.incarnation) else {
            let text = format!(
                "node {node} is no peer of node {} in cluster {}. `tercet cluster add-node` adds one",
                self.node, self.cluster
            );
            return Verdict::Refused(Code::WrongCluster, text);
        };
        if Incarnation(hello.incarnation) != incarnation {
            return Verdict::Refused(
                Code::WrongCluster,
                format!(
                    "node {node} has incarnation {}, but the cluster knows {incarnation}: its data directory is another one. Give it back its own, or replace the node (`tercet cluster replace-node`)",
                    Incarnation(hello.incarnation)
                ),
            );
        }
        if hello.cluster != self.cluster.0 && hello.cluster != ClusterId::NONE.0 {
            let other = ClusterId(hello.cluster);
            let text = format!("node {node} belongs to cluster {other}, not {}", self.cluster);
            return Verdict::Refused(Code::WrongCluster, text);
        }
        if hello.engines != self.engines || hello.engine >= self.engines {
            let text = format!(
                "node {node} has {} engines and asks for engine {}; every node of this cluster has {}",
                hello.engines, hello.engine, self.engines
            );
            return Verdict::Refused(Code::BadMessage, text);
        }
        if hello.cluster == ClusterId::NONE.0 {
            return Verdict::Unborn(node);
        }
        Verdict::Welcome(node)
    }
}

/// What comes of another node's hello.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is who it should be.
    Welcome(NodeId),
    /// It is a node of the cluster, but does not know that yet.
    Unborn(NodeId),
    /// It is not who it should be.
    Refused(Code, String),
}

/// One link: an engine of this thread, and its twin on a peer.
pub struct Link {
    /// The engine's seat.
    pub seat: usize,
    /// The engine.
    pub engine: u32,
    /// The peer.
    pub peer: NodeId,
    /// The peer's incarnation.
    incarnation: Incarnation,
    /// Whether there is such a peer. If not, the place waits for another link.
    is_live: bool,
    /// Whether it is this node that connects.
    dials: bool,
    /// The connection, from the attempt to connect on.
    conn: Option<ConnId>,
    is_up: bool,
    backoff: Duration,
    retry_at: Time,
    /// Where the peer was looked for last.
    tried: Option<SocketAddr>,
    /// Where the kernel reads the address from while it connects.
    address: Box<Address>,
    /// What was refused last, so that it is told once.
    noted: String,
}

impl Link {
    /// Whether it waits to be connected.
    fn is_idle(&self) -> bool {
        self.is_live && self.dials && self.conn.is_none()
    }
}

/// A connection that is no link any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gone {
    /// The connection.
    pub conn: ConnId,
    /// The engine's seat.
    pub seat: usize,
    /// The node that it led to.
    pub peer: NodeId,
    /// Whether the link stood.
    pub was_up: bool,
}

/// The links of one thread.
pub struct Links {
    node: NodeId,
    /// By seat.
    engines: Vec<u32>,
    links: Vec<Link>,
    /// What is drawn by chance next.
    chance: Option<Random>,
    /// Addresses of links that are gone, one for each whose place is used again.
    #[expect(clippy::vec_box, reason = "the kernel may still read them where they are")]
    retired: Vec<Box<Address>>,
}

impl Links {
    /// The links of the engines `engines` (by seat) to every peer.
    pub fn new(
        node: NodeId,
        engines: &[u32],
        peers: impl Iterator<Item = (NodeId, Incarnation)>,
    ) -> Links {
        let engines = engines.to_vec();
        let (links, retired) = (Vec::new(), Vec::new());
        let mut links = Links { node, engines, links, chance: None, retired };
        let gone = links.follow(peers);
        assert_eq!(gone, [], "nothing was there");
        links
    }

    /// From now on these are the peers. Gives the connections to those that are none any more, or come with
    /// another incarnation: for the caller to close, when they are the links' no more.
    pub fn follow(&mut self, peers: impl Iterator<Item = (NodeId, Incarnation)>) -> Vec<Gone> {
        let peers: BTreeMap<NodeId, Incarnation> = peers.collect();
        let mut gone = Vec::new();
        for link in self.links.iter_mut().filter(|link| link.is_live) {
            let incarnation = peers.get(&link.peer);
            if incarnation == Some(&link.incarnation) {
                continue;
            }
            let was_up = std::mem::take(&mut link.is_up);
            let (seat, peer) = (link.seat, link.peer);
            gone.extend(link.conn.take().map(|conn| Gone { conn, seat, peer, was_up }));
            link.is_live = false;
        }
        for (seat, engine) in self.engines.clone().into_iter().enumerate() {
            for (peer, incarnation) in &peers {
                if self.find(engine, *peer).is_none() {
                    self.add(seat, engine, *peer, *incarnation);
                }
            }
        }
        gone
    }

    fn add(&mut self, seat: usize, engine: u32, peer: NodeId, incarnation: Incarnation) {
        let at = self.links.iter().position(|link| !link.is_live);
        if let Some(at) = at {
            // The kernel may still read an address from there: it stays as it is.
            self.retired.push(std::mem::take(&mut self.links[at].address));
        }
        let address = Box::default();
        let link = Link {
            seat,
            engine,
            peer,
            incarnation,
            is_live: true,
            dials: self.node > peer,
            conn: None,
            is_up: false,
            backoff: BACKOFF_MIN,
            retry_at: Time::ZERO,
            tried: None,
            address,
            noted: String::new(),
        };
        match at {
            Some(at) => self.links[at] = link,
            None => self.links.push(link),
        }
    }

    fn live(&self) -> impl Iterator<Item = &Link> {
        self.links.iter().filter(|link| link.is_live)
    }

    /// A link.
    pub fn get(&self, link: usize) -> &Link {
        &self.links[link]
    }

    /// The link of an engine to a peer, if the engine is on this thread.
    pub fn find(&self, engine: u32, peer: NodeId) -> Option<usize> {
        let is_it = |link: &Link| link.is_live && link.engine == engine && link.peer == peer;
        self.links.iter().position(is_it)
    }

    /// The connection over which a seat reaches a peer now.
    pub fn route(&self, seat: usize, peer: NodeId) -> Option<ConnId> {
        let link = self.live().find(|link| link.seat == seat && link.peer == peer)?;
        link.conn.filter(|_| link.is_up)
    }

    /// How many links stand.
    pub fn up(&self) -> usize {
        self.live().filter(|link| link.is_up).count()
    }

    /// A link that is to be connected now.
    pub fn due(&self, now: Time) -> Option<usize> {
        let is_due = |link: &Link| link.is_idle() && link.retry_at <= now;
        self.links.iter().position(is_due)
    }

    /// When the next link is to be connected.
    pub fn wake_at(&self) -> Time {
        let idle = self.links.iter().filter(|link| link.is_idle());
        idle.map(|link| link.retry_at).min().unwrap_or(Time::MAX)
    }

    /// A connection for the link was begun. Gives the address, in the kernel's form: it stays in place
    /// until another connection is begun.
    pub fn on_dial(
        &mut self,
        link: usize,
        conn: ConnId,
        to: SocketAddr,
    ) -> (*const libc::sockaddr, libc::socklen_t) {
        let link = &mut self.links[link];
        assert!(link.conn.is_none(), "a link has one connection at a time");
        link.conn = Some(conn);
        link.tried = Some(to);
        link.address.set(to)
    }

    /// The peer of a link, and where it was looked for last.
    pub fn tried(&self, link: usize) -> Option<(NodeId, SocketAddr)> {
        let link = &self.links[link];
        link.tried.map(|address| (link.peer, address))
    }

    /// The link could not even be begun: try again later.
    pub fn on_failed(&mut self, now: Time, link: usize) {
        let half = self.links[link].backoff / 2;
        let pause = half + half * self.draw() / 256;
        let link = &mut self.links[link];
        link.retry_at = now + pause;
        link.backoff = (link.backoff * 2).min(BACKOFF_MAX);
    }

    /// Up to 256, by chance: nodes that lost a peer together do not come back to it together.
    fn draw(&mut self) -> u32 {
        let chance = self.chance.get_or_insert_with(|| Random::new(random_seed()));
        chance.u32(1..=256)
    }

    /// The link stands. Gives the connection that it replaces.
    pub fn on_up(&mut self, link: usize, conn: ConnId) -> Option<ConnId> {
        let link = &mut self.links[link];
        link.is_up = true;
        link.backoff = BACKOFF_MIN;
        link.noted.clear();
        link.conn.replace(conn).filter(|old| *old != conn)
    }

    /// A connection is gone. Says whether the link went down with it.
    pub fn on_down(&mut self, now: Time, link: usize, conn: ConnId) -> bool {
        if self.links[link].conn != Some(conn) {
            return false;
        }
        self.links[link].conn = None;
        let was_up = std::mem::take(&mut self.links[link].is_up);
        self.on_failed(now, link);
        was_up
    }

    /// Whether a refusal is news: it is told only then.
    pub fn is_news(&mut self, link: usize, refusal: &str) -> bool {
        let noted = &mut self.links[link].noted;
        if noted == refusal {
            return false;
        }
        noted.clear();
        noted.push_str(refusal);
        true
    }
}

/// A socket address as the kernel reads it.
struct Address(libc::sockaddr_storage);

impl Default for Address {
    fn default() -> Address {
        // SAFETY: sockaddr_storage is plain integers, for which all zero is a value.
        Address(unsafe { std::mem::zeroed() })
    }
}

impl Address {
    fn set(&mut self, to: SocketAddr) -> (*const libc::sockaddr, libc::socklen_t) {
        let storage: *mut libc::sockaddr_storage = &raw mut self.0;
        let length = match to {
            SocketAddr::V4(to) => {
                let address = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: to.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(to.ip().octets()) },
                    sin_zero: [0; 8],
                };
                // SAFETY: sockaddr_storage is large enough and aligned for every socket address.
                unsafe { storage.cast::<libc::sockaddr_in>().write(address) };
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(to) => {
                let address = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: to.port().to_be(),
                    sin6_flowinfo: to.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: to.ip().octets() },
                    sin6_scope_id: to.scope_id(),
                };
                // SAFETY: as above.
                unsafe { storage.cast::<libc::sockaddr_in6>().write(address) };
                size_of::<libc::sockaddr_in6>()
            }
        };
        (storage.cast_const().cast(), length as libc::socklen_t)
    }
}
