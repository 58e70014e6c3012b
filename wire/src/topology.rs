//! The rows of a [`crate::message::TopologyReply`].
//!
//! ```text
//! node:   id u32 | engines u32 | address length u16 | address, UTF-8 "host:port"
//! shard:  shard u32 | leader u32 (0 = not known) | replicas u8 | replicas x node id u32
//! ```

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
    out.extend_from_slice(&node.id.to_le_bytes());
    out.extend_from_slice(&node.engines.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(node.address.as_bytes());
}

/// Appends a shard's row.
pub fn write_placement(placement: &Placement, out: &mut Vec<u8>) {
    let count = u8::try_from(placement.replicas.len()).expect("a shard has few replicas");
    out.extend_from_slice(&placement.shard.to_le_bytes());
    out.extend_from_slice(&placement.leader.to_le_bytes());
    out.push(count);
    for replica in &placement.replicas {
        out.extend_from_slice(&replica.to_le_bytes());
    }
}

/// Reads every node's row.
///
/// # Errors
/// [`WireError::Malformed`] when the bytes are no such rows.
pub fn read_nodes(mut rows: &[u8]) -> Result<Vec<Node>, WireError> {
    let mut nodes = Vec::new();
    while !rows.is_empty() {
        let id = take_u32(&mut rows)?;
        let engines = take_u32(&mut rows)?;
        let length = take::<2>(&mut rows)?;
        let length = usize::from(u16::from_le_bytes(length));
        let address = rows.get(..length).ok_or(WireError::Malformed)?;
        rows = &rows[length..];
        let address = core::str::from_utf8(address).map_err(|_| WireError::Malformed)?;
        nodes.push(Node { id, engines, address: String::from(address) });
    }
    Ok(nodes)
}

/// Reads every shard's row.
///
/// # Errors
/// [`WireError::Malformed`] when the bytes are no such rows.
pub fn read_placement(mut rows: &[u8]) -> Result<Vec<Placement>, WireError> {
    let mut placement = Vec::new();
    while !rows.is_empty() {
        let shard = take_u32(&mut rows)?;
        let leader = take_u32(&mut rows)?;
        let count = take::<1>(&mut rows)?[0];
        let mut replicas = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            replicas.push(take_u32(&mut rows)?);
        }
        placement.push(Placement { shard, leader, replicas });
    }
    Ok(placement)
}

fn take<const N: usize>(rows: &mut &[u8]) -> Result<[u8; N], WireError> {
    let (first, rest) = rows.split_first_chunk::<N>().ok_or(WireError::Malformed)?;
    *rows = rest;
    Ok(*first)
}

fn take_u32(rows: &mut &[u8]) -> Result<u32, WireError> {
    Ok(u32::from_le_bytes(take::<4>(rows)?))
}
