//! How a cluster is born, and how a node finds out whether it belongs to one.
//!
//! # How it works
//!
//! This runs before any engine, with plain blocking sockets, and hands the listening socket on.
//!
//! 1. Every founder makes its data directory: cluster id zero, a random incarnation. It listens, and
//!    answers [`PeerHello`] with the same.
//! 2. The founder with the lowest id asks all the others. Once all are present and empty it makes the
//!    cluster id and writes its manifest, which lists every founder with its incarnation. **That is the
//!    birth**: before it there is no cluster, after it there is exactly this one.
//! 3. It sends [`Birth`] to the others, which write their manifests and go on. A founder that missed it
//!    is told by any born node that meets it later: an empty node takes a `Birth` from whoever
//!    brings it, if it is listed with its own incarnation.
//!
//! A node that comes later, or whose disk was wiped, has an incarnation that the cluster does not know, so no
//! `Birth` is meant for it: it says so, and asks and answers until it is added or replaces
//! ([`wire::message::NodeAdd`]). From then on every node of the cluster that it meets tells it who the nodes
//! are ([`wire::peer::Nodes`]), itself among them, and then of the `Birth`. If it has the lowest id it finds the
//! others in a cluster, and makes no second one.
//!
//! # Invariants
//!
//! - A cluster id is on its maker's disk before anybody else hears of it.
//! - A node takes a birth only while it is empty, and only with its own incarnation: among the nodes that come
//!   with it, else among the founders.
//! - Clients that come too early are told [`wire::Code::NotReady`], never kept waiting.
//!
//! # Left out
//!
//! Nobody proves who they are: whoever reaches an empty node's port can found a cluster with it. That
//! comes with authentication.

mod talk;
#[cfg(test)]
mod tests;

use super::config::{CACHE_BYTES_MAX, CACHE_BYTES_MIN, FOUNDERS_MAX, Peers, SHARDS_MAX};
use super::manifest::{DataDir, DirError, Manifest, new_cluster};
use crate::effects::Outdated;
use crate::engine::Founder;
use crate::ids::{ClusterId, Incarnation, NodeId};
use crate::level::Level;
use crate::machine::Corrupt;
use crate::machine::meta::Meta;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use talk::Silence;
use tracing::{info, warn};
use wire::Code;
use wire::bytes::{Put, array_at, u32_at};
use wire::header::VERSION;
use wire::peer::{Birth, PeerHello};

/// How often the founder with the lowest id asks the others.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// How often the other founders look who is there, to say for whom they wait.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a cluster is seen that did not take this node in, before that is said.
const LEFT_OUT_AFTER: Duration = Duration::from_secs(3);
/// How long founders have different numbers of engines, before that is said.
const DIFFERS_AFTER: Duration = Duration::from_secs(3);
/// How long a restarted node waits for its peers to say to which cluster they belong.
const MEET_FOR: Duration = Duration::from_millis(250);
/// How often a waiting loop looks whether it is over.
const LOOK_UP: Duration = Duration::from_millis(10);
/// Connections that are spoken with at a time before the birth.
const TALKS_MAX: usize = 64;

/// Why a node did not come to belong to a cluster.
#[derive(Debug, thiserror::Error)]
pub enum BirthError {
    /// The data directory is refused.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// The cluster is at a feature level that this node does not know.
    #[error(transparent)]
    Outdated(Outdated),
    /// The listening socket failed.
    #[error("E131 listening failed: {0}")]
    Listen(std::io::Error),
    /// The node was asked to stop.
    #[error("stopped before the node was part of a cluster")]
    Stopped,
}

/// What a node brings to its birth.
pub struct Newborn<'a> {
    /// Where others reach it; it stays the caller's, and blocking.
    pub listener: &'a TcpListener,
    /// Its data directory.
    pub dir: Arc<DataDir>,
    /// What stands in it.
    pub manifest: Manifest,
    /// The founders and their addresses; empty for a single node.
    pub peers: Peers,
    /// How others reach this node.
    pub advertised: String,
    /// The budget of the cache that the configuration asks for; `None` takes the cluster's.
    pub cache_bytes_asked: Option<u64>,
    /// The number of engines that the configuration asks for; `None` takes the cluster's.
    pub engines_asked: Option<u32>,
    /// The newest feature level that this node takes part in.
    pub level_max: Level,
    /// Set when the node is to stop.
    pub stop: &'a AtomicBool,
}

/// Waits until the node belongs to a cluster, and gives its manifest with the founders' present
/// addresses. A node that does already only makes sure that its peers belong to the same.
///
/// # Errors
/// [`BirthError`].
pub fn join_cluster(newborn: Newborn<'_>) -> Result<Manifest, BirthError> {
    let Newborn { listener, dir, manifest, peers, advertised, level_max, stop, .. } = newborn;
    let Newborn { cache_bytes_asked, engines_asked, .. } = newborn;
    let was_born = manifest.is_born();
    if was_born {
        check_cache_size(dir.path(), manifest.cache_bytes_max, cache_bytes_asked)?;
    }
    let others = others(&manifest, &peers);
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            dir: Some(dir),
            manifest,
            failed: None,
            told_left_out: false,
            waits: String::new(),
        }),
        peers,
        advertised,
        cache_bytes_asked,
        engines_asked,
        level_max,
        over: AtomicBool::new(false),
        talks: AtomicUsize::new(0),
    });
    if others.is_empty() {
        if !was_born {
            shared.found(&[])?;
        }
    } else {
        let asker = std::thread::Builder::new().name("birth".into());
        let asked = Arc::clone(&shared);
        let asker = asker.spawn(move || {
            if was_born {
                asked.meet(&others)
            } else {
                asked.ask_until_born()
            }
            asked.over.store(true, Ordering::Release);
        });
        let asker = asker.map_err(BirthError::Listen)?;
        let served = shared.serve(listener, stop);
        shared.over.store(true, Ordering::Release);
        // A panic there has been told already; here the state decides.
        let _ = asker.join();
        // A conversation that goes on keeps nothing of the directory.
        shared.lock().dir = None;
        served?;
    }
    let mut state = shared.lock();
    if let Some(failed) = state.failed.take() {
        return Err(failed);
    }
    shared.with_addresses(state.manifest.clone()).map_err(BirthError::Dir)
}

struct State {
    /// `None` when it is over.
    dir: Option<Arc<DataDir>>,
    manifest: Manifest,
    failed: Option<BirthError>,
    told_left_out: bool,
    /// What this node waits for, for people.
    waits: String,
}

struct Shared {
    state: Mutex<State>,
    peers: Peers,
    advertised: String,
    cache_bytes_asked: Option<u64>,
    engines_asked: Option<u32>,
    level_max: Level,
    /// Set when there is nothing left to wait for.
    over: AtomicBool,
    talks: AtomicUsize,
}

/// A founder that answered.
#[derive(Clone, Copy)]
struct Present {
    node: NodeId,
    incarnation: Incarnation,
    cluster: ClusterId,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding the state")
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// What this node says of itself.
    fn hello(&self) -> PeerHello {
        hello_of(&self.lock().manifest)
    }

    /// Answers whoever connects, until it is over.
    fn serve(
        self: &Arc<Self>,
        listener: &TcpListener,
        stop: &AtomicBool,
    ) -> Result<(), BirthError> {
        let wait = Timespec { tv_sec: 0, tv_nsec: LOOK_UP.subsec_nanos().into() };
        listener.set_nonblocking(true).map_err(BirthError::Listen)?;
        while !self.is_over() {
            if stop.load(Ordering::Acquire) {
                return Err(BirthError::Stopped);
            }
            let mut ready = [PollFd::new(listener, PollFlags::IN)];
            match poll(&mut ready, Some(&wait)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => continue,
                Ok(_) => {}
                Err(e) => return Err(BirthError::Listen(e.into())),
            }
            // A connection that is gone again, or for which there is no descriptor, is the
            // other side's to try again.
            if let Ok((stream, _)) = listener.accept()
                && self.talks.load(Ordering::Acquire) < TALKS_MAX
            {
                self.talks.fetch_add(1, Ordering::AcqRel);
                let shared = Arc::clone(self);
                let talk = move || {
                    talk::answer(&shared, stream);
                    shared.talks.fetch_sub(1, Ordering::AcqRel);
                };
                let spawned = std::thread::Builder::new().name("birth-talk".into()).spawn(talk);
                spawned.map_err(BirthError::Listen)?;
            }
        }
        listener.set_nonblocking(false).map_err(BirthError::Listen)
    }

    /// Takes a birth that somebody brings, and the cluster's nodes if they came before it. Called by any number
    /// of connections.
    fn on_birth(&self, birth: &Birth<'_>, nodes: &[u8]) {
        let cluster = ClusterId(birth.cluster);
        let known = match Meta::restore(nodes) {
            Ok(nodes) if nodes.level() > self.level_max => {
                return self.refuse_level(Some(nodes.level()));
            }
            Err(Corrupt::Version { .. }) => return self.refuse_level(None),
            known => known.ok(),
        };
        let fits = |nodes: &Meta| nodes.cluster() == cluster && nodes.shards() == birth.shards;
        let Some(told) = read_founders(birth).filter(|_| known.as_ref().is_none_or(fits)) else {
            warn!("a malformed birth was ignored");
            return;
        };
        let mut state = self.lock();
        let State { dir, manifest, failed, told_left_out, .. } = &mut *state;
        let Some(dir) = dir.as_ref().filter(|_| !manifest.is_born()) else { return };
        let own = (manifest.node, manifest.incarnation);
        let known_as = |nodes: &Meta, id| nodes.node(id).map(|node| (id, node.incarnation));
        let is_meant = match &known {
            Some(nodes) => known_as(nodes, own.0) == Some(own),
            None => told.contains(&own),
        };
        if !is_meant {
            if !std::mem::replace(told_left_out, true) {
                self.tell_left_out(&format!("cluster {cluster}"), own.0);
            }
            return;
        }
        let is_founder = told.contains(&own);
        let mut founders = Vec::with_capacity(told.len());
        for (node, incarnation) in told {
            let listed = self.address(manifest.node, node).or_else(|| {
                // A founder may be forgotten by now: then nobody asks where it was.
                let nodes = known.as_ref()?;
                Some(nodes.node(node).map_or_else(String::new, |node| node.address.clone()))
            });
            let Some(address) = listed else {
                warn!(%node, "a birth was ignored: --peers does not name its founder {node}. Give all nodes the same --peers");
                return;
            };
            founders.push(Founder { node, incarnation, address });
        }
        let (shards, cache_bytes_max) = (birth.shards, birth.cache_bytes_max);
        // A founder that is told late has not served yet: what it knows of the nodes says that it has.
        let joins = known.is_some() && !is_founder;
        let nodes = if joins { nodes.to_vec() } else { vec![] };
        let born =
            Manifest { cluster, shards, cache_bytes_max, founders, nodes, ..manifest.clone() };
        // Refused before anything is kept: the birth comes again once the configuration is corrected.
        let path = dir.path();
        let fits = check_cache_size(path, cache_bytes_max, self.cache_bytes_asked)
            .and_then(|()| check_engines(path, cluster, manifest.engines, shards));
        match fits.and_then(|()| dir.write(&born)) {
            Ok(()) => {
                info!(%cluster, "this node belongs to the cluster");
                *manifest = born;
            }
            Err(e) => *failed = Some(e.into()),
        }
        self.over.store(true, Ordering::Release);
    }

    /// This node can't take part in the cluster that asks for it.
    fn refuse_level(&self, level: Option<Level>) {
        self.lock().failed = Some(BirthError::Outdated(Outdated { level, known: self.level_max }));
        self.over.store(true, Ordering::Release);
    }

    /// Makes the cluster: this node and the `others`, all present and empty.
    fn found(&self, others: &[Present]) -> Result<(), DirError> {
        let mut state = self.lock();
        let State { dir: Some(dir), manifest: m, .. } = &*state else { return Ok(()) };
        assert!(!m.is_born(), "a born node founds nothing");
        let mut rows: Vec<_> = others.iter().map(|p| (p.node, p.incarnation)).collect();
        rows.push((m.node, m.incarnation));
        rows.sort_unstable();
        let member = |(node, incarnation)| {
            let address = self.address(m.node, node).expect("only listed nodes are asked");
            Founder { node, incarnation, address }
        };
        let founders = rows.into_iter().map(member).collect();
        let cache_bytes_max = self.cache_bytes_asked.unwrap_or(m.cache_bytes_max);
        let born = Manifest { cluster: new_cluster(), cache_bytes_max, founders, ..m.clone() };
        dir.write(&born)?;
        info!(cluster = %born.cluster, founders = born.founders.len(), "the cluster is born");
        state.manifest = born;
        Ok(())
    }

    fn address(&self, me: NodeId, node: NodeId) -> Option<String> {
        if node == me {
            return Some(self.advertised.clone());
        }
        self.peers.address(node).map(str::to_owned)
    }

    /// Asks the others until there is a cluster, by this node or by another.
    fn ask_until_born(&self) {
        let me = self.lock().manifest.node;
        let first = self.peers.iter().next().map(|(node, _)| node);
        let lowest = first == Some(me);
        let mut cluster_seen: Option<Instant> = None;
        let mut differs_since: Option<Instant> = None;
        while !self.is_over() {
            let mut waits = Vec::new();
            let mut present = Vec::new();
            let (mut refused, mut differ) = (false, false);
            let engines = self.lock().manifest.engines;
            for (node, address) in self.peers.iter().filter(|(node, _)| *node != me) {
                match talk::ask(self, address) {
                    Ok(hello) if hello.node != node.0 => {
                        waits.push(format!(
                            "node {node} ({address} answers as node {})",
                            hello.node
                        ));
                    }
                    Ok(hello) if hello.engines != engines => {
                        let decides = first == Some(node) || hello.cluster != ClusterId::NONE.0;
                        differ |= !(decides && self.take_engines(node, hello.engines));
                        let theirs = hello.engines;
                        waits.push(format!(
                            "node {node} (it has {theirs} engines, this node {engines})"
                        ));
                    }
                    Ok(hello) => present.push(Present {
                        node,
                        incarnation: Incarnation(hello.incarnation),
                        cluster: ClusterId(hello.cluster),
                    }),
                    Err(Silence::Refused { code, text }) => {
                        refused |= code == Code::WrongCluster.number();
                        waits.push(format!("node {node} at {address} (it says: {text})"));
                    }
                    Err(Silence::Gone(_)) => waits.push(format!("node {node} at {address}")),
                }
            }
            let cluster = present.iter().map(|p| p.cluster).find(|c| *c != ClusterId::NONE);
            match cluster {
                Some(cluster) => self.see_cluster(&format!("cluster {cluster}"), &mut cluster_seen),
                None if lowest && waits.is_empty() => {
                    return self.found_and_tell(&present);
                }
                None => {
                    // Those that are not told how many take as many as this one in a moment.
                    let since = differ.then(|| differs_since.unwrap_or_else(Instant::now));
                    differs_since = since;
                    let differs = since.is_some_and(|since| since.elapsed() >= DIFFERS_AFTER);
                    self.tell_waits(waits.join(", "), differs);
                }
            }
            if refused {
                self.see_cluster("a cluster", &mut cluster_seen);
            }
            let founding = lowest && cluster.is_none() && !refused;
            self.rest(if founding { ASK_EVERY } else { LOOK_EVERY });
        }
    }

    /// Says for what this node waits, once it is something else.
    fn tell_waits(&self, mut says: String, differ: bool) {
        if differ {
            says.push_str(". E135 all nodes have the same number of engines: stop one, and start it again with the --engines of the others, or without the flag. Nothing is lost by it, as long as its data directory belongs to no cluster");
        }
        let mut state = self.lock();
        if says.is_empty() || says == state.waits {
            return;
        }
        if differ {
            warn!("waiting for {says}");
        } else {
            info!("waiting for {says}");
        }
        state.waits = says;
    }

    /// This node gets as many engines as the node has that decides, unless it was told how many. Says whether it does.
    fn take_engines(&self, of: NodeId, engines: u32) -> bool {
        let mut state = self.lock();
        let State { dir: Some(dir), manifest, failed, .. } = &mut *state else { return false };
        if self.engines_asked.is_some() || manifest.is_born() {
            return false;
        }
        let taken = Manifest { engines, ..manifest.clone() };
        match dir.write(&taken) {
            Ok(()) => {
                info!("this node gets {engines} engines, as node {of} has");
                *manifest = taken;
            }
            Err(e) => {
                *failed = Some(e.into());
                self.over.store(true, Ordering::Release);
            }
        }
        true
    }

    /// What this node waits for, if it said so.
    fn waits(&self) -> String {
        self.lock().waits.clone()
    }

    /// A founder is in a cluster already. Either its birth is on the way here, or this node was
    /// left out.
    fn see_cluster(&self, cluster: &str, seen: &mut Option<Instant>) {
        if seen.get_or_insert_with(Instant::now).elapsed() < LEFT_OUT_AFTER {
            return;
        }
        let mut state = self.lock();
        if !state.manifest.is_born() && !std::mem::replace(&mut state.told_left_out, true) {
            self.tell_left_out(cluster, state.manifest.node);
        }
    }

    fn tell_left_out(&self, cluster: &str, node: NodeId) {
        let at = &self.advertised;
        warn!(
            "{cluster} exists and does not know this data directory: waiting to be added to it (`tercet cluster add-node {at}`) or, if node {node} has lost its own, to take its place (`tercet cluster replace-node {node} {at}`)"
        );
    }

    fn found_and_tell(&self, present: &[Present]) {
        if let Err(e) = self.found(present) {
            self.lock().failed = Some(e.into());
            return;
        }
        let born = self.lock().manifest.clone();
        let rows = write_founders(&born.founders);
        let birth = birth_of(&born, &rows);
        for node in present.iter().map(|p| p.node) {
            let address = self.peers.address(node).expect("only listed nodes are asked");
            if let Err(why) = talk::tell(address, &self.hello(), &birth) {
                info!(%node, "not told of the birth ({why}); it will be when it is met");
            }
        }
    }

    /// Asks the `others`, once, to which cluster they belong. The node starts unless more of those that
    /// answer belong to another cluster than, with itself, to its own: one stranger, who may be the one that is
    /// wrong, keeps nobody from starting.
    fn meet(&self, others: &[(NodeId, String)]) {
        let own = self.lock().manifest.cluster;
        let hello = self.hello();
        let answers: Vec<_> = std::thread::scope(|scope| {
            let ask = |address: &str| talk::ask_within(address, &hello, MEET_FOR);
            let others = others.iter();
            let asked: Vec<_> =
                others.map(|(node, address)| (node, scope.spawn(move || ask(address)))).collect();
            asked.into_iter().filter_map(|(node, t)| Some((node, t.join().ok()?))).collect()
        });
        let (mut same, mut strangers) = (0, Vec::new());
        for (node, answer) in answers {
            match answer {
                Ok(hello) if hello.cluster == own.0 => same += 1,
                // Not born yet, or gone: it says nothing about the cluster.
                Ok(hello) if hello.cluster == ClusterId::NONE.0 => {}
                Err(Silence::Gone(_)) => {}
                Ok(hello) => {
                    let other = ClusterId(hello.cluster);
                    strangers.push(format!("node {node} belongs to cluster {other}"));
                }
                Err(Silence::Refused { code, text }) => {
                    if code == Code::WrongCluster.number() {
                        strangers.push(format!("node {node} says: {text}"));
                    }
                }
            }
        }
        let mut state = self.lock();
        let node = state.manifest.node;
        let removed = state.manifest.known_nodes().is_some_and(|nodes| nodes.node(node).is_none());
        if strangers.len() > same + usize::from(!removed) {
            let Some(path) = state.dir.as_ref().map(|dir| dir.path().to_owned()) else { return };
            let why = strangers.swap_remove(0);
            let error = if removed {
                DirError::Removed { path, node, cluster: own }
            } else {
                DirError::OtherCluster { path, kept: own, why }
            };
            state.failed = Some(error.into());
        }
    }

    /// Sleeps, but not past the end.
    fn rest(&self, time: Duration) {
        let until = Instant::now() + time;
        while !self.is_over() && Instant::now() < until {
            std::thread::sleep(LOOK_UP.min(time));
        }
    }

    /// A manifest's founders with the addresses that the configuration gives them now.
    fn with_addresses(&self, mut manifest: Manifest) -> Result<Manifest, DirError> {
        let nodes = manifest.known_nodes();
        for (node, _) in self.peers.iter() {
            match &nodes {
                // Forgotten, to be added, or added while this node was away: nothing to stop for.
                Some(nodes) if nodes.node(node).is_none() => warn!(
                    "--peers names node {node}, which is none of the cluster's nodes as far as this one knows. To add it, `tercet cluster add-node`; if it was removed, leave it out"
                ),
                None if !manifest.founders.iter().any(|f| f.node == node) => {
                    return Err(DirError::NotAFounder { node, cluster: manifest.cluster });
                }
                _ => {}
            }
        }
        for founder in &mut manifest.founders {
            if let Some(address) = self.address(manifest.node, founder.node) {
                founder.address = address;
            }
        }
        Ok(manifest)
    }
}

/// Whether a node of the manifest's cluster answers at `address`.
pub fn is_there(manifest: &Manifest, address: &str, within: Duration) -> bool {
    let answer = talk::ask_within(address, &hello_of(manifest), within);
    answer.is_ok_and(|answer| answer.cluster == manifest.cluster.0)
}

/// What a node with this manifest says of itself.
fn hello_of(manifest: &Manifest) -> PeerHello {
    PeerHello {
        cluster: manifest.cluster.0,
        incarnation: manifest.incarnation.0,
        node: manifest.node.0,
        engine: 0,
        engines: manifest.engines,
        version: VERSION,
    }
}

/// Whom a node asks, and where: the cluster's other nodes as far as it knows them, else its peers.
fn others(manifest: &Manifest, peers: &Peers) -> Vec<(NodeId, String)> {
    let of_peers = || peers.iter().map(|(node, address)| (node, address.to_owned())).collect();
    let of_nodes = |nodes: Meta| {
        let configured = |node| peers.address(node).map(str::to_owned);
        let all = nodes.nodes();
        all.map(|n| (n.node, configured(n.node).unwrap_or_else(|| n.address.clone()))).collect()
    };
    let mut others: Vec<_> = manifest.known_nodes().map_or_else(of_peers, of_nodes);
    others.retain(|(node, _)| *node != manifest.node);
    others
}

/// Refuses another budget of the cache than the cluster's.
fn check_cache_size(dir: &Path, kept: u64, asked: Option<u64>) -> Result<(), DirError> {
    match asked {
        Some(asked) if asked != kept => {
            Err(DirError::OtherCacheSize { path: dir.to_owned(), kept, asked })
        }
        _ => Ok(()),
    }
}

/// Refuses more engines than there are shards: each keeps at least one.
fn check_engines(
    dir: &Path,
    cluster: ClusterId,
    engines: u32,
    shards: u32,
) -> Result<(), DirError> {
    if engines > shards {
        let path = dir.to_owned();
        return Err(DirError::IdleEngines { path, cluster, engines, shards });
    }
    Ok(())
}

/// The news of a birth; `rows` are the founders.
fn birth_of<'a>(born: &Manifest, rows: &'a [u8]) -> Birth<'a> {
    Birth {
        cluster: born.cluster.0,
        shards: born.shards,
        cache_bytes_max: born.cache_bytes_max,
        founders: rows,
    }
}

fn read_founders(birth: &Birth<'_>) -> Option<Vec<(NodeId, Incarnation)>> {
    let (rows, rest) = birth.founders.as_chunks::<20>();
    let sound = rest.is_empty()
        && birth.cluster != ClusterId::NONE.0
        && (1..=FOUNDERS_MAX).contains(&rows.len())
        && (1..=SHARDS_MAX).contains(&birth.shards)
        && (CACHE_BYTES_MIN..=CACHE_BYTES_MAX).contains(&birth.cache_bytes_max);
    sound.then(|| rows.iter().map(read_founder).collect())
}

fn read_founder(row: &[u8; 20]) -> (NodeId, Incarnation) {
    (NodeId(u32_at(row, 0)), Incarnation(array_at(row, 4)))
}

/// The founders as [`Birth`] carries them.
pub fn write_founders(founders: &[Founder]) -> Vec<u8> {
    let mut rows = Vec::with_capacity(20 * founders.len());
    for founder in founders {
        rows.put_u32(founder.node.0);
        rows.put(&founder.incarnation.0);
    }
    rows
}
