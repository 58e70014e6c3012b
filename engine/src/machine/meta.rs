//! The meta group's machine: which cluster this is, and who its nodes are.
//!
//! ```text
//! META_BIRTH  cluster id 16 | shards u32
//! META_NODE   node u32 | incarnation 16 | engines u32 | address length u16 | address, UTF-8 "host:port"
//!
//! snapshot    magic "TCMM" | version u32 | epoch u64 | cluster id 16 | shards u32
//!             | nodes u32 | nodes x META_NODE | CRC-32C u32 of all before it
//! ```
//!
//! Integers are little-endian.
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
//! Placement, namespaces, topics, principals, the feature level: each comes as a kind of its own.

use super::restore::Corrupt;
use crate::entry::{Entry, kind};
use crate::ids::{ClusterId, Incarnation, NodeId};
use crate::limits::NODES_MAX;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use wire::Kind;

const MAGIC: [u8; 4] = *b"TCMM";
const VERSION: u32 = 1;

/// A node of the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Its id.
    pub node: NodeId,
    /// Its data directory's incarnation.
    pub incarnation: Incarnation,
    /// How many engines it has.
    pub engines: u32,
    /// Where clients reach it: "host:port".
    pub address: String,
}

/// What the meta group knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Meta {
    cluster: ClusterId,
    shards: u32,
    epoch: u64,
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
        Meta { cluster: ClusterId::NONE, shards: 0, epoch: 0, nodes: BTreeMap::new() }
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

    /// A node.
    pub fn node(&self, node: NodeId) -> Option<&Node> {
        self.nodes.get(&node)
    }

    /// Every node, by id.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// Applies the next entry of the meta group's log, and says whether it changed anything.
    pub fn apply(&mut self, entry: &Entry<'_>) -> Change {
        self.apply_part(entry.header.kind, entry.payload)
    }

    /// [`Meta::apply`], from an entry's parts.
    pub fn apply_part(&mut self, kind: Kind, payload: &[u8]) -> Change {
        let changed = match kind {
            kind::META_BIRTH => self.birth(payload),
            kind::META_NODE => self.enter(payload),
            _ => None,
        };
        match changed {
            Some(()) => {
                self.epoch += 1;
                Change::Made
            }
            None => Change::None,
        }
    }

    fn birth(&mut self, mut payload: &[u8]) -> Option<()> {
        let (cluster, shards) = (ClusterId(take(&mut payload)?), take_u32(&mut payload)?);
        let valid = payload.is_empty() && cluster != ClusterId::NONE && shards > 0;
        if !valid || self.cluster != ClusterId::NONE {
            return None;
        }
        (self.cluster, self.shards) = (cluster, shards);
        Some(())
    }

    fn enter(&mut self, mut payload: &[u8]) -> Option<()> {
        let node = take_node(&mut payload)?;
        let full = self.nodes.len() >= NODES_MAX && !self.nodes.contains_key(&node.node);
        if !payload.is_empty() || full || self.nodes.get(&node.node) == Some(&node) {
            return None;
        }
        self.nodes.insert(node.node, node);
        Some(())
    }

    /// Appends the whole state to `out`. Equal state gives equal bytes.
    pub fn snapshot(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        write_birth(self.cluster, self.shards, out);
        let count = u32::try_from(self.nodes.len()).expect("nodes are limited");
        out.extend_from_slice(&count.to_le_bytes());
        self.nodes.values().for_each(|node| write_node(node, out));
        let sum = crc32c::crc32c(&out[start..]);
        out.extend_from_slice(&sum.to_le_bytes());
    }

    /// The state that wrote these bytes.
    ///
    /// # Errors
    /// [`Corrupt`], which says what is wrong with the bytes.
    pub fn restore(bytes: &[u8]) -> Result<Meta, Corrupt> {
        let (mut content, sum) = bytes.split_last_chunk::<4>().ok_or(Corrupt::NoSnapshot)?;
        if !content.starts_with(&MAGIC) {
            return Err(Corrupt::NoSnapshot);
        }
        let sum_of_content = crc32c::crc32c(content);
        content = &content[MAGIC.len()..];
        let got = take_u32(&mut content).ok_or(Corrupt::NoSnapshot)?;
        if got != VERSION {
            return Err(Corrupt::Version { got });
        }
        if sum_of_content != u32::from_le_bytes(*sum) {
            return Err(Corrupt::Checksum);
        }
        let meta = Meta::read(&mut content).ok_or(Corrupt::Malformed)?;
        if content.is_empty() { Ok(meta) } else { Err(Corrupt::Malformed) }
    }

    fn read(from: &mut &[u8]) -> Option<Meta> {
        let epoch = take::<8>(from).map(u64::from_le_bytes)?;
        let (cluster, shards) = (ClusterId(take(from)?), take_u32(from)?);
        let mut nodes = BTreeMap::new();
        for _ in 0..take_u32(from)? {
            let node = take_node(from)?;
            nodes.insert(node.node, node);
        }
        Some(Meta { cluster, shards, epoch, nodes })
    }
}

/// Whether an entry changed anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// It did; the epoch is one higher.
    Made,
    /// It said what was so already, came too late, or is no entry of the meta group.
    None,
}

/// Appends the payload of a [`kind::META_BIRTH`] entry.
pub fn write_birth(cluster: ClusterId, shards: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&cluster.0);
    out.extend_from_slice(&shards.to_le_bytes());
}

/// Appends the payload of a [`kind::META_NODE`] entry.
pub fn write_node(node: &Node, out: &mut Vec<u8>) {
    let length = u16::try_from(node.address.len()).expect("an address is short");
    out.extend_from_slice(&node.node.0.to_le_bytes());
    out.extend_from_slice(&node.incarnation.0);
    out.extend_from_slice(&node.engines.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(node.address.as_bytes());
}

fn take_node(from: &mut &[u8]) -> Option<Node> {
    let (node, incarnation) = (NodeId(take_u32(from)?), Incarnation(take(from)?));
    let engines = take_u32(from)?;
    let length = usize::from(take::<2>(from).map(u16::from_le_bytes)?);
    let (address, rest) = from.split_at_checked(length)?;
    *from = rest;
    let address = String::from(core::str::from_utf8(address).ok()?);
    Some(Node { node, incarnation, engines, address })
}

fn take<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = from.split_first_chunk::<N>()?;
    *from = rest;
    Some(*first)
}

fn take_u32(from: &mut &[u8]) -> Option<u32> {
    take(from).map(u32::from_le_bytes)
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
        let incarnation = Incarnation([7; 16]);
        let node = Node { node: NodeId(n), incarnation, engines: 2, address: address.into() };
        let mut out = Vec::new();
        write_node(&node, &mut out);
        out
    }

    #[test]
    fn a_cluster_is_born_once() {
        let mut meta = Meta::new();
        assert_eq!(meta.apply_part(kind::META_BIRTH, &birth(1)), Change::Made);
        assert_eq!(meta.apply_part(kind::META_BIRTH, &birth(2)), Change::None);
        assert_eq!((meta.cluster(), meta.shards(), meta.epoch()), (ClusterId([1; 16]), 12, 1));
    }

    #[test]
    fn the_epoch_counts_changes_alone() {
        let mut meta = Meta::new();
        for (address, change, epoch) in
            [("a:1", Change::Made, 1), ("a:1", Change::None, 1), ("b:1", Change::Made, 2)]
        {
            assert_eq!(meta.apply_part(kind::META_NODE, &node(3, address)), change);
            assert_eq!(meta.epoch(), epoch);
        }
        assert_eq!(meta.node(NodeId(3)).map(|n| n.address.as_str()), Some("b:1"));
        assert_eq!(meta.apply_part(kind::NOOP, &[]), Change::None);
    }

    #[test]
    fn garbage_changes_nothing() {
        let mut meta = Meta::new();
        let whole = node(3, "address:1");
        for length in 0..whole.len() {
            assert_eq!(meta.apply_part(kind::META_NODE, &whole[..length]), Change::None);
        }
        let longer = [whole.as_slice(), b"x"].concat();
        assert_eq!(meta.apply_part(kind::META_NODE, &longer), Change::None);
        assert_eq!(meta.apply_part(kind::META_BIRTH, b"short"), Change::None);
        assert_eq!(meta, Meta::new());
    }

    #[test]
    fn a_snapshot_restores_the_same_state_and_notices_damage() {
        let mut meta = Meta::new();
        meta.apply_part(kind::META_BIRTH, &birth(1));
        meta.apply_part(kind::META_NODE, &node(2, "b:1"));
        meta.apply_part(kind::META_NODE, &node(1, "a:1"));
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
