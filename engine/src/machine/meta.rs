//! The meta group's machine: which cluster this is, and who its nodes are.
//!
//! ```text
//! META_BIRTH  cluster id 16 | shards u32
//! META_NODE   node u32 | incarnation 16 | engines u32 | standing u32 | address length u16 | address, UTF-8 "host:port"
//!
//! LEVEL       level u32
//!
//! snapshot    magic "TCMM" | version u32 | level u32, from version 3 on | epoch u64 | cluster id 16 | shards u32
//!             | nodes u32 | nodes x META_NODE | CRC-32C u32 of all before it
//! ```
//!
//! Integers are little-endian. The founders' rows come with the birth; later ones as what clients ask:
//! [`NodeAdd`], [`NodeDrain`], [`NodeForget`]. A snapshot is also what nodes tell each other
//! ([`wire::peer::Nodes`]) and what a data directory remembers of it.
//!
//! # Invariants
//!
//! - A cluster is born once: a second birth changes nothing.
//! - The epoch is the number of entries that changed something; one that says what is so already does not
//!   count.
//! - Bytes that are no such payload change nothing, the same way on every replica.
//!
//! # Left out
//!
//! Namespaces, topics, principals: each comes as a kind of its own.

use super::restore::Corrupt;
use crate::entry::kind;
use crate::ids::{ClusterId, Incarnation, NodeId};
use crate::level::Level;
use crate::limits::NODES_MAX;
use crate::machine::Outcome;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use wire::bytes::{Put, Reader, Short, u32_at};
use wire::message::{NodeAdd, NodeDrain, NodeForget};
use wire::{Code, Kind};

const MAGIC: [u8; 4] = *b"TCMM";
/// Of the oldest level's snapshots.
const VERSION_OLDEST: u32 = 2;
/// Of snapshots that say their level.
const VERSION: u32 = 3;
/// The longest address, in bytes.
const ADDRESS_BYTES_MAX: usize = 512;

/// A node of the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Its id.
    pub node: NodeId,
    /// Its data directory's incarnation.
    pub incarnation: Incarnation,
    /// How many engines it has.
    pub engines: u32,
    /// Whether it is to keep replicas.
    pub standing: Standing,
    /// Where clients reach it: "host:port".
    pub address: String,
}

/// Whether a node is to keep replicas.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It is: the placement counts it in.
    In,
    /// It is to keep none any more: what it keeps moves away.
    Drained,
}

/// What the meta group knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Meta {
    cluster: ClusterId,
    shards: u32,
    epoch: u64,
    level: Level,
    nodes: BTreeMap<NodeId, Node>,
}

impl Default for Meta {
    fn default() -> Meta {
        Meta::new()
    }
}

impl Meta {
    /// Before the birth.
    pub const fn new() -> Meta {
        Meta {
            cluster: ClusterId::NONE,
            shards: 0,
            epoch: 0,
            level: Level::OLDEST,
            nodes: BTreeMap::new(),
        }
    }

    /// The cluster's id; [`ClusterId::NONE`] before its birth.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// How many shards the cluster has; 0 before its birth.
    pub fn shards(&self) -> u32 {
        self.shards
    }

    /// How many changes were applied.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The cluster's feature level.
    pub fn level(&self) -> Level {
        self.level
    }

    /// A node.
    pub fn node(&self, node: NodeId) -> Option<&Node> {
        self.nodes.get(&node)
    }

    /// Every node, by id.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// The nodes that are to keep replicas, by id.
    pub fn keepers(&self) -> impl Iterator<Item = NodeId> {
        self.nodes().filter(|node| node.standing == Standing::In).map(|node| node.node)
    }

    /// Who founded a cluster, before anything of it is in a log: older than any applied state.
    pub fn founded(cluster: ClusterId, shards: u32, founders: impl Iterator<Item = Node>) -> Meta {
        let nodes = founders.map(|node| (node.node, node)).collect();
        Meta { cluster, shards, nodes, ..Meta::new() }
    }

    /// The state of another cluster that goes on from this one's, with this node alone. One that comes from before the
    /// birth begins with it.
    pub fn reborn(&self, cluster: ClusterId, shards: u32, node: Node) -> Meta {
        let nodes = BTreeMap::from([(node.node, node)]);
        Meta { cluster, shards, epoch: self.epoch + 1, level: self.level, nodes }
    }

    /// Applies the next entry of the meta group's log. What a client asked for has an outcome.
    pub fn apply(&mut self, kind: Kind, payload: &[u8]) -> Option<Outcome> {
        let changed = match kind {
            kind::META_BIRTH => {
                self.birth(payload)?;
                Ok(MetaChange::Made)
            }
            kind::META_NODE => {
                self.enter(payload)?;
                Ok(MetaChange::Made)
            }
            kind::LEVEL => {
                let level = Level::decode(payload).filter(|level| *level > self.level)?;
                self.level = level;
                Ok(MetaChange::Made)
            }
            NodeAdd::KIND => match NodeAdd::view(payload) {
                Ok(add) => self.add(&add),
                Err(_) => Err(Code::BadMessage),
            },
            NodeDrain::KIND => match NodeDrain::view(payload) {
                Ok(drain) => self.drain(NodeId(drain.node)),
                Err(_) => Err(Code::BadMessage),
            },
            NodeForget::KIND => match NodeForget::view(payload) {
                Ok(forget) => self.forget(NodeId(forget.node)),
                Err(_) => Err(Code::BadMessage),
            },
            _ => return None,
        };
        if changed == Ok(MetaChange::Made) {
            self.epoch += 1;
        }
        let done = changed.map(|_| Outcome::Done { token: self.epoch });
        Some(done.unwrap_or_else(Outcome::refused))
    }

    fn add(&mut self, add: &NodeAdd<'_>) -> Result<MetaChange, Code> {
        let node = NodeId(add.node);
        let address = core::str::from_utf8(add.address).map_err(|_| Code::BadMessage)?;
        let same_engines = self.nodes().all(|known| known.engines == add.engines);
        let named = node.0 > 0 && !address.is_empty() && address.len() <= ADDRESS_BYTES_MAX;
        if !named || !same_engines || add.replaces > 1 || self.cluster == ClusterId::NONE {
            return Err(Code::BadMessage);
        }
        let (incarnation, engines) = (Incarnation(add.incarnation), add.engines);
        let new =
            Node { node, incarnation, engines, standing: Standing::In, address: address.into() };
        match self.nodes.get(&node) {
            Some(known) if *known == new => return Ok(MetaChange::None),
            Some(known) if known.incarnation != incarnation && add.replaces == 0 => {
                return Err(Code::NodeKnown);
            }
            None if self.nodes.len() >= NODES_MAX => return Err(Code::NodesFull),
            _ => {}
        }
        self.nodes.insert(node, new);
        Ok(MetaChange::Made)
    }

    fn drain(&mut self, node: NodeId) -> Result<MetaChange, Code> {
        let others = self.keepers().filter(|keeper| *keeper != node).count();
        let known = self.nodes.get_mut(&node).ok_or(Code::NodeUnknown)?;
        match known.standing {
            Standing::Drained => Ok(MetaChange::None),
            Standing::In if others == 0 => Err(Code::LastNode),
            Standing::In => {
                known.standing = Standing::Drained;
                Ok(MetaChange::Made)
            }
        }
    }

    fn forget(&mut self, node: NodeId) -> Result<MetaChange, Code> {
        match self.nodes.get(&node) {
            // Perhaps by the same request, sent twice.
            None => Ok(MetaChange::None),
            Some(known) if known.standing == Standing::In => Err(Code::NodeInUse),
            Some(_) => {
                self.nodes.remove(&node);
                Ok(MetaChange::Made)
            }
        }
    }

    fn birth(&mut self, payload: &[u8]) -> Option<()> {
        let mut from = Reader::new(payload);
        let (cluster, shards) = (ClusterId(from.array().ok()?), from.u32().ok()?);
        let valid = from.is_empty() && cluster != ClusterId::NONE && shards > 0;
        if !valid || self.cluster != ClusterId::NONE {
            return None;
        }
        (self.cluster, self.shards) = (cluster, shards);
        Some(())
    }

    fn enter(&mut self, payload: &[u8]) -> Option<()> {
        let mut from = Reader::new(payload);
        let node = take_node(&mut from).ok()?;
        let full = self.nodes.len() >= NODES_MAX && !self.nodes.contains_key(&node.node);
        if !from.is_empty() || full || self.nodes.get(&node.node) == Some(&node) {
            return None;
        }
        self.nodes.insert(node.node, node);
        Some(())
    }

    /// Appends the whole state to `out`. Equal state gives equal bytes.
    pub fn snapshot(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.put(&MAGIC);
        if self.level >= Level::SAID {
            out.put_u32(VERSION);
            out.put(&self.level.encode());
        } else {
            out.put_u32(VERSION_OLDEST);
        }
        out.put_u64(self.epoch);
        write_birth(self.cluster, self.shards, out);
        let count = u32::try_from(self.nodes.len()).expect("nodes are limited");
        out.put_u32(count);
        self.nodes.values().for_each(|node| write_node(node, out));
        let sum = crc32c::crc32c(&out[start..]);
        out.put_u32(sum);
    }

    /// The state that wrote these bytes.
    ///
    /// # Errors
    /// [`Corrupt`], which says what is wrong with the bytes.
    pub fn restore(bytes: &[u8]) -> Result<Meta, Corrupt> {
        let (content, sum) = bytes.split_last_chunk::<4>().ok_or(Corrupt::NoSnapshot)?;
        let mut from = Reader::new(content.strip_prefix(&MAGIC).ok_or(Corrupt::NoSnapshot)?);
        let got = from.u32().map_err(|Short| Corrupt::NoSnapshot)?;
        if !(VERSION_OLDEST..=VERSION).contains(&got) {
            return Err(Corrupt::Version { got });
        }
        if crc32c::crc32c(content) != u32_at(sum, 0) {
            return Err(Corrupt::Checksum);
        }
        let meta = Meta::read(got, &mut from)?;
        if from.is_empty() { Ok(meta) } else { Err(Corrupt::Malformed) }
    }

    fn read(version: u32, from: &mut Reader<'_>) -> Result<Meta, Corrupt> {
        let says = version > VERSION_OLDEST;
        let level = if says { Level(from.u32()?) } else { Level::OLDEST };
        let epoch = from.u64()?;
        let (cluster, shards) = (ClusterId(from.array()?), from.u32()?);
        let mut nodes = BTreeMap::new();
        for _ in 0..from.u32()? {
            let node = take_node(from)?;
            nodes.insert(node.node, node);
        }
        Ok(Meta { cluster, shards, epoch, level, nodes })
    }
}

/// Whether what was asked for changed anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum MetaChange {
    /// It did; the epoch is one higher.
    Made,
    /// It was so already.
    None,
}

/// Appends the payload of a [`kind::META_BIRTH`] entry.
pub fn write_birth(cluster: ClusterId, shards: u32, out: &mut Vec<u8>) {
    out.put(&cluster.0);
    out.put_u32(shards);
}

/// Appends the payload of a [`kind::META_NODE`] entry.
pub fn write_node(node: &Node, out: &mut Vec<u8>) {
    let length = u16::try_from(node.address.len()).expect("an address is short");
    out.put_u32(node.node.0);
    out.put(&node.incarnation.0);
    out.put_u32(node.engines);
    let standing: u32 = if node.standing == Standing::In { 1 } else { 2 };
    out.put_u32(standing);
    out.put_u16(length);
    out.put(node.address.as_bytes());
}

fn take_node(from: &mut Reader<'_>) -> Result<Node, Corrupt> {
    let (node, incarnation) = (NodeId(from.u32()?), Incarnation(from.array()?));
    let engines = from.u32()?;
    let standing = match from.u32()? {
        1 => Standing::In,
        2 => Standing::Drained,
        _ => return Err(Corrupt::Malformed),
    };
    let length = usize::from(from.u16()?);
    let address = core::str::from_utf8(from.take(length)?).map_err(|_| Corrupt::Malformed)?;
    Ok(Node { node, incarnation, engines, standing, address: address.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn birth(cluster: u8) -> Vec<u8> {
        let mut out = Vec::new();
        write_birth(ClusterId([cluster; 16]), 12, &mut out);
        out
    }

    fn node(n: u32, address: &str) -> Vec<u8> {
        let (incarnation, standing) = (Incarnation([7; 16]), Standing::In);
        let node =
            Node { node: NodeId(n), incarnation, engines: 2, standing, address: address.into() };
        let mut out = Vec::new();
        write_node(&node, &mut out);
        out
    }

    fn born() -> Meta {
        let mut meta = Meta::new();
        meta.apply(kind::META_NODE, &node(1, "a:1"));
        meta.apply(kind::META_NODE, &node(2, "b:1"));
        meta.apply(kind::META_BIRTH, &birth(1));
        meta
    }

    fn add(meta: &mut Meta, node: u32, life: u8, replaces: u8) -> Option<Outcome> {
        let (incarnation, engines, address) = ([life; 16], 2, b"c:1".as_slice());
        let mut body = Vec::new();
        NodeAdd { incarnation, node, engines, replaces, address }.encode(&mut body);
        meta.apply(NodeAdd::KIND, &body)
    }

    fn drain(meta: &mut Meta, node: u32) -> Option<Outcome> {
        let mut body = Vec::new();
        NodeDrain { node }.encode(&mut body);
        meta.apply(NodeDrain::KIND, &body)
    }

    fn forget(meta: &mut Meta, node: u32) -> Option<Outcome> {
        let mut body = Vec::new();
        NodeForget { node }.encode(&mut body);
        meta.apply(NodeForget::KIND, &body)
    }

    fn done(token: u64) -> Option<Outcome> {
        Some(Outcome::Done { token })
    }

    fn refused(code: Code) -> Option<Outcome> {
        Some(Outcome::refused(code))
    }

    #[test]
    fn a_cluster_is_born_once() {
        let mut meta = Meta::new();
        assert_eq!(meta.apply(kind::META_BIRTH, &birth(1)), done(1));
        assert_eq!(meta.apply(kind::META_BIRTH, &birth(2)), None);
        assert_eq!((meta.cluster(), meta.shards(), meta.epoch()), (ClusterId([1; 16]), 12, 1));
    }

    #[test]
    fn a_level_never_falls_and_a_snapshot_says_it_only_once_every_build_can_read_that() {
        let mut meta = born();
        let (mut old, epoch) = (Vec::new(), meta.epoch());
        meta.snapshot(&mut old);
        assert_eq!(old[4..8], 2u32.to_le_bytes(), "as builds write it that know no levels");
        for (level, then) in [(3, 3), (2, 3), (1, 3), (4, 4)] {
            meta.apply(kind::LEVEL, &Level(level).encode());
            assert_eq!(meta.level(), Level(then));
        }
        meta.apply(kind::LEVEL, b"no level");
        assert_eq!(meta.epoch(), epoch + 2);
        let mut new = Vec::new();
        meta.snapshot(&mut new);
        assert_eq!(
            (new[4..8].to_vec(), Meta::restore(&new)),
            (3u32.to_le_bytes().to_vec(), Ok(meta))
        );
        assert_eq!(Meta::restore(&old), Ok(born()));
    }

    #[test]
    fn a_cluster_that_comes_of_another_has_one_node_and_a_higher_epoch() {
        let (to, id) = (ClusterId([9; 16]), NodeId(7));
        let (incarnation, standing) = (Incarnation([5; 16]), Standing::In);
        let node = Node { node: id, incarnation, engines: 3, standing, address: "d:1".into() };
        for (meta, epoch) in [(born(), 3), (Meta::new(), 0)] {
            assert_eq!(meta.epoch(), epoch);
            let other = meta.reborn(to, 12, node.clone());
            assert_eq!((other.cluster(), other.shards(), other.epoch()), (to, 12, epoch + 1));
            assert_eq!(other.nodes().collect::<Vec<_>>(), [&node]);
            let mut bytes = Vec::new();
            other.snapshot(&mut bytes);
            assert_eq!(Meta::restore(&bytes), Ok(other));
        }
    }

    #[test]
    fn the_epoch_counts_changes_alone() {
        let mut meta = Meta::new();
        for (address, epoch) in [("a:1", 1), ("a:1", 1), ("b:1", 2)] {
            meta.apply(kind::META_NODE, &node(3, address));
            assert_eq!(meta.epoch(), epoch);
        }
        assert_eq!(meta.node(NodeId(3)).map(|n| n.address.as_str()), Some("b:1"));
        assert_eq!(meta.apply(kind::NOOP, &[]), None);
    }

    #[test]
    fn a_node_joins_is_drained_and_is_forgotten() {
        let mut meta = born();
        assert_eq!(add(&mut meta, 3, 9, 0), done(4));
        assert_eq!(add(&mut meta, 3, 9, 0), done(4), "asked again it changes nothing");
        assert_eq!(forget(&mut meta, 3), refused(Code::NodeInUse));
        assert_eq!(drain(&mut meta, 3), done(5));
        assert_eq!(meta.keepers().collect::<Vec<_>>(), [NodeId(1), NodeId(2)]);
        assert!(meta.node(NodeId(3)).is_some(), "it is spoken with until it is forgotten");
        assert_eq!(forget(&mut meta, 3), done(6));
        assert_eq!(forget(&mut meta, 3), done(6));
        assert_eq!(drain(&mut meta, 3), refused(Code::NodeUnknown));
    }

    #[test]
    fn a_node_with_another_directory_is_let_in_only_to_replace() {
        let mut meta = born();
        assert_eq!(add(&mut meta, 2, 9, 0), refused(Code::NodeKnown));
        assert_eq!(add(&mut meta, 2, 9, 1), done(4));
        assert_eq!(meta.node(NodeId(2)).map(|n| n.incarnation), Some(Incarnation([9; 16])));
    }

    #[test]
    fn the_last_node_is_not_drained() {
        let mut meta = born();
        assert_eq!(drain(&mut meta, 1), done(4));
        assert_eq!(drain(&mut meta, 2), refused(Code::LastNode));
    }

    #[test]
    fn garbage_changes_nothing() {
        let mut meta = Meta::new();
        let whole = node(3, "address:1");
        for length in 0..whole.len() {
            assert_eq!(meta.apply(kind::META_NODE, &whole[..length]), None);
        }
        let longer = [whole.as_slice(), b"x"].concat();
        assert_eq!(meta.apply(kind::META_NODE, &longer), None);
        assert_eq!(meta.apply(kind::META_BIRTH, b"short"), None);
        assert_eq!(meta.apply(NodeAdd::KIND, b"short"), refused(Code::BadMessage));
        assert_eq!(meta, Meta::new());
    }

    #[test]
    fn a_snapshot_restores_the_same_state_and_notices_damage() {
        let mut meta = born();
        drain(&mut meta, 2);
        let mut bytes = Vec::new();
        meta.snapshot(&mut bytes);
        assert_eq!(Meta::restore(&bytes), Ok(meta));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(Meta::restore(&damaged).is_err(), "byte {at}");
            assert!(Meta::restore(&bytes[..at]).is_err(), "cut at {at}");
        }
    }
}
