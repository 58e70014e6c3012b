//! Shards to nodes: consistent hashing with bounded load.
//!
//! Each node stands at [`VIRTUAL_NODES`] points of a ring of hashes. A shard's replicas are the first
//! distinct nodes from its own point on that are not full; a node is full at 1.1 times the mean,
//! rounded up (Mirrokni, Thorup and Zadimoghaddam, Consistent Hashing with Bounded Loads, 2016).
//! The same members give the same placement everywhere, in whatever order they are listed.
//!
//! The meta group is kept by more nodes where there are more, from [`Level::META_VOTERS`] on: without its majority
//! nobody joins and nobody leaves, so it is to outlive most others. It takes the next nodes from its point on, full
//! or not, since it has next to nothing to do. So the shards are where they would be without that.

use crate::ids::{GroupId, NodeId};
use crate::level::Level;
use crate::limits::VOTERS_MAX;
use crate::mutant::{self, Mutant};
use alloc::vec::Vec;
use wire::bytes::put_u32_at;

/// Points of the ring for each node.
pub const VIRTUAL_NODES: u32 = 150;

/// Where one group's replicas are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Replicas {
    /// The nodes that keep the group.
    pub nodes: Vec<NodeId>,
    /// The one of them that leads when nothing speaks against it.
    pub preferred: NodeId,
}

/// The meta group has so many voters from so many nodes on.
const META_VOTERS: [(usize, usize); 2] = [(9, 7), (5, 5)];
const _: () = assert!(META_VOTERS[0].1 <= VOTERS_MAX && META_VOTERS[1].1 <= META_VOTERS[1].0);

/// How many voters the meta group has where a shard has `replication`.
pub fn meta_voters(level: Level, nodes: usize, replication: usize) -> usize {
    let more = META_VOTERS.iter().find(|(from, _)| widens_meta(level) && nodes >= *from);
    more.map_or(replication, |(_, voters)| replication.max(*voters))
}

/// From this level on more nodes keep the meta group where there are more.
fn widens_meta(level: Level) -> bool {
    level >= Level::META_VOTERS && !mutant::on(Mutant::MetaStaysNarrow)
}

/// Places `groups` groups, the meta group first, on `nodes`, each on `replication` of them (or all, when there are
/// fewer), in a cluster of this level.
pub fn place(groups: u32, nodes: &[NodeId], replication: usize, level: Level) -> Vec<Replicas> {
    assert!(!nodes.is_empty(), "a cluster has at least one node");
    assert!(replication > 0, "a group has at least one replica");
    let mut nodes = nodes.to_vec();
    nodes.sort_unstable();
    let ring = ring(&nodes);
    let replication = replication.min(nodes.len());
    let load_max = bound(groups as usize * replication, nodes.len());
    let mut load = alloc::vec![0usize; nodes.len()];
    let mut leads = alloc::vec![0usize; nodes.len()];
    let mut placed = Vec::with_capacity(groups as usize);
    for group in 0..groups {
        let point = hash(b"group", group, 0);
        let start = ring.partition_point(|(at, _)| *at < point);
        let mut chosen: Vec<usize> = Vec::with_capacity(replication);
        // First those with room; if the bound leaves too few distinct nodes, any.
        for bounded in [load_max, usize::MAX] {
            for step in 0..ring.len() {
                if chosen.len() == replication {
                    break;
                }
                let (_, node) = ring[(start + step) % ring.len()];
                if !chosen.contains(&node) && load[node] < bounded {
                    chosen.push(node);
                }
            }
        }
        assert_eq!(chosen.len(), replication, "enough distinct nodes stand on the ring");
        chosen.iter().for_each(|node| load[*node] += 1);
        let preferred = chosen.iter().copied().min_by_key(|node| leads[*node]);
        let preferred = preferred.expect("a group has at least one replica");
        // The meta group has next to nothing to do.
        leads[preferred] += usize::from(group != GroupId::META.0);
        assert!(chosen.contains(&preferred), "who leads keeps the group");
        let replicas = chosen.iter().map(|node| nodes[*node]).collect();
        placed.push(Replicas { nodes: replicas, preferred: nodes[preferred] });
    }
    let voters = meta_voters(level, nodes.len(), replication).min(nodes.len());
    widen(&mut placed[GroupId::META.0 as usize], voters, &ring, &nodes);
    assert_eq!(placed[GroupId::META.0 as usize].nodes.len(), voters, "the ring has all nodes");
    assert_eq!(placed.len(), groups as usize, "each group has its place");
    placed
}

/// The meta group is kept by the next nodes of the ring, too, until there are as many as it is to have.
fn widen(meta: &mut Replicas, voters: usize, ring: &[(u64, usize)], nodes: &[NodeId]) {
    let start = ring.partition_point(|(at, _)| *at < hash(b"group", GroupId::META.0, 0));
    for step in 0..ring.len() {
        if meta.nodes.len() >= voters {
            return;
        }
        let node = nodes[ring[(start + step) % ring.len()].1];
        if !meta.nodes.contains(&node) {
            meta.nodes.push(node);
        }
    }
}

/// The ring: each point with the node that stands there.
fn ring(nodes: &[NodeId]) -> Vec<(u64, usize)> {
    let mut ring = Vec::with_capacity(nodes.len() * VIRTUAL_NODES as usize);
    for (at, node) in nodes.iter().enumerate() {
        ring.extend((0..VIRTUAL_NODES).map(|v| (hash(b"node.", node.0, v), at)));
    }
    ring.sort_unstable();
    assert_eq!(ring.len(), nodes.len() * VIRTUAL_NODES as usize, "each node has its points");
    ring
}

/// 1.1 times the mean, rounded up.
fn bound(replicas: usize, nodes: usize) -> usize {
    assert!(nodes > 0, "somebody keeps them");
    (replicas * 11).div_ceil(nodes * 10)
}

fn hash(what: &[u8; 5], id: u32, replica: u32) -> u64 {
    let mut bytes = [0u8; 13];
    bytes[..5].copy_from_slice(what);
    put_u32_at(&mut bytes, 5, id);
    put_u32_at(&mut bytes, 9, replica);
    xxhash_rust::xxh64::xxh64(&bytes, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(count: u32) -> Vec<NodeId> {
        (1..=count).map(NodeId).collect()
    }

    #[test]
    fn three_nodes_keep_every_group_and_lead_evenly_beside_the_meta_group() {
        for shards in [3, 12, 48] {
            let placed = place(1 + shards, &nodes(3), 3, Level::NEWEST);
            assert!(placed.iter().all(|r| r.nodes.len() == 3));
            for node in nodes(3) {
                let leads = placed.iter().skip(1).filter(|r| r.preferred == node).count();
                assert_eq!(leads, shards as usize / 3, "of {shards}");
            }
        }
    }

    #[test]
    fn no_node_passes_the_bound_and_replicas_are_distinct() {
        let placed = place(48, &nodes(7), 3, Level::NEWEST);
        for node in nodes(7) {
            let load = placed.iter().skip(1).filter(|r| r.nodes.contains(&node)).count();
            assert!(load <= bound(48 * 3, 7), "node {node} keeps {load}");
        }
        for replicas in &placed[1..] {
            let mut distinct = replicas.nodes.clone();
            distinct.sort_unstable();
            distinct.dedup();
            assert_eq!(distinct.len(), 3);
        }
    }

    #[test]
    fn the_meta_group_has_five_voters_from_five_nodes_on_and_seven_from_nine_on() {
        for (count, voters) in [(1, 1), (2, 2), (3, 3), (4, 3), (5, 5), (8, 5), (9, 7), (40, 7)] {
            let mut kept = place(13, &nodes(count), 3, Level::NEWEST)[0].nodes.clone();
            kept.sort_unstable();
            kept.dedup();
            assert_eq!(kept.len(), voters, "of {count} nodes");
        }
    }

    #[test]
    fn an_older_cluster_has_three_voters_everywhere_and_shards_stand_where_they_stood() {
        for count in [3, 5, 9, 12] {
            let before = place(25, &nodes(count), 3, Level(2));
            assert!(before.iter().all(|r| r.nodes.len() == 3), "of {count} nodes");
            let after = place(25, &nodes(count), 3, Level(3));
            assert_eq!(after[1..], before[1..], "of {count} nodes");
            assert_eq!(after[0].preferred, before[0].preferred);
            assert!(before[0].nodes.iter().all(|node| after[0].nodes.contains(node)));
        }
    }

    #[test]
    fn the_order_of_the_members_does_not_matter() {
        let mut reversed = nodes(5);
        reversed.reverse();
        assert_eq!(place(24, &nodes(5), 3, Level::NEWEST), place(24, &reversed, 3, Level::NEWEST));
    }

    #[test]
    fn a_new_node_moves_few_replicas() {
        let before = place(96, &nodes(5), 3, Level::NEWEST);
        let after = place(96, &nodes(6), 3, Level::NEWEST);
        let moved: usize = before
            .iter()
            .zip(&after)
            .map(|(b, a)| b.nodes.iter().filter(|n| !a.nodes.contains(n)).count())
            .sum();
        // A sixth of all replicas is the least; the bound on the load moves some more.
        assert!(moved * 5 < 96 * 3 * 2, "{moved} of {} moved", 96 * 3);
    }
}
