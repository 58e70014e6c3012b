//! Where everything is, as a node tells it.

use alloc::collections::BTreeMap;
use wire::WireError;
use wire::message::TopologyReply;
use wire::topology::{Node, Placement, read_nodes, read_placement};

/// Where everything is, as some node told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Map {
    /// Rises whenever the cluster's nodes change.
    pub epoch: u64,
    /// The cluster's id.
    pub cluster: [u8; 16],
    /// How many shards the cluster has.
    pub shards: u32,
    /// The nodes, by id.
    pub nodes: BTreeMap<u32, Node>,
    /// Where each shard is.
    pub placement: BTreeMap<u32, Placement>,
}

impl Map {
    /// Reads what a node told.
    ///
    /// # Errors
    /// [`WireError::Malformed`] when the rows are no such rows, or a node has no engine.
    pub fn read(reply: &TopologyReply<'_>) -> Result<Map, WireError> {
        let nodes = read_nodes(reply.nodes)?;
        if nodes.iter().any(|n| n.engines == 0) {
            return Err(WireError::Malformed);
        }
        let placement = read_placement(reply.placement)?;
        Ok(Map {
            epoch: reply.epoch,
            cluster: reply.cluster,
            shards: reply.shards,
            nodes: nodes.into_iter().map(|n| (n.id, n)).collect(),
            placement: placement.into_iter().map(|p| (p.shard, p)).collect(),
        })
    }
}
