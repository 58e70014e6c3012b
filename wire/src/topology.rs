//! The rows of a [`crate::message::TopologyReply`].
//!
//! ```text
//! node:   id u32 | engines u32 | address length u16 | address, UTF-8 "host:port"
//! shard:  shard u32 | leader u32 (0 = not known) | replicas u8 | replicas x node id u32
//! ```

use crate::bytes::{Put, Reader};
use crate::layout::WireError;
use alloc::string::String;
use alloc::vec::Vec;

/// A node of the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// The node's id.
    pub id: u32,
    /// How many engines it has.
    pub engines: u32,
    /// Where clients reach it: "host:port".
    pub address: String,
}

/// Where a shard is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placement {
    /// The shard.
    pub shard: u32,
    /// The node that leads it; 0 = not known.
    pub leader: u32,
    /// The nodes that keep it.
    pub replicas: Vec<u32>,
}

/// The engine of a node with `engines` engines that keeps group `group` (0 is the meta group, shard
/// `s` is group `s + 1`).
pub fn engine_of_group(group: u32, engines: u32) -> u32 {
    assert!(engines > 0, "a node has at least one engine");
    group.wrapping_sub(1) % engines * u32::from(group > 0)
}

/// Appends a node's row.
pub fn write_node(node: &Node, out: &mut Vec<u8>) {
    let length = u16::try_from(node.address.len()).expect("an address is short");
    out.put_u32(node.id);
    out.put_u32(node.engines);
    out.put_u16(length);
    out.put(node.address.as_bytes());
}

/// Appends a shard's row.
pub fn write_placement(placement: &Placement, out: &mut Vec<u8>) {
    let count = u8::try_from(placement.replicas.len()).expect("a shard has few replicas");
    out.put_u32(placement.shard);
    out.put_u32(placement.leader);
    out.put_u8(count);
    placement.replicas.iter().for_each(|replica| out.put_u32(*replica));
}

/// Reads every node's row.
///
/// # Errors
/// [`WireError::Malformed`] when the bytes are no such rows.
pub fn read_nodes(rows: &[u8]) -> Result<Vec<Node>, WireError> {
    let (mut rows, mut nodes) = (Reader::new(rows), Vec::new());
    while !rows.is_empty() {
        let (id, engines, length) = (rows.u32()?, rows.u32()?, rows.u16()?);
        let address = rows.take(usize::from(length))?;
        let address = core::str::from_utf8(address).map_err(|_| WireError::Malformed)?;
        nodes.push(Node { id, engines, address: String::from(address) });
    }
    Ok(nodes)
}

/// Reads every shard's row.
///
/// # Errors
/// [`WireError::Malformed`] when the bytes are no such rows.
pub fn read_placement(rows: &[u8]) -> Result<Vec<Placement>, WireError> {
    let (mut rows, mut placement) = (Reader::new(rows), Vec::new());
    while !rows.is_empty() {
        let (shard, leader, count) = (rows.u32()?, rows.u32()?, rows.u8()?);
        let mut replicas = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            replicas.push(rows.u32()?);
        }
        placement.push(Placement { shard, leader, replicas });
    }
    Ok(placement)
}
