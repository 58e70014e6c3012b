//! The cluster's feature level, and every group's: see [`level`](crate::level).

use super::Engine;
use crate::effects::Effects;
use crate::ids::{GroupId, NodeId};
use crate::level::Level;
use crate::mutant::{self, Mutant};
use crate::shard::Step;
use crate::time::Time;
use wire::Header;
use wire::peer::FeatureLevel;

impl Engine {
    /// Tells the peers what this node knows.
    pub(super) fn tell_level(&self, effects: &mut Effects) {
        let level = FeatureLevel { newest: self.config.level_max.0 };
        let header = Header::new(FeatureLevel::KIND, 0);
        for peer in &self.shared.peers.linked {
            wire::frame(effects.peers.to(peer.0), &header, |b| level.encode(b));
        }
    }

    /// The groups that are led here follow the cluster's level, and the meta group what all nodes know.
    pub(super) fn raise_levels(&mut self, now: Time, effects: &mut Effects) {
        for at in 0..self.shards.len() {
            let (group, is) = (self.shards[at].group(), self.shards[at].state().level());
            let may = match group {
                GroupId::META => self.known_by_all(),
                _ => self.nodes.level(),
            };
            // A node that is about to be added has not been asked.
            let (raft, applied) = (self.shards[at].raft(), self.shards[at].applied());
            let settled = group != GroupId::META || raft.last_index() == applied;
            if may > is && raft.is_leader() && settled {
                self.shards
                    .touch(at)
                    .raise_level(&mut Step { now, shared: &mut self.shared, effects }, may);
            }
        }
    }

    /// The newest level that every node of the cluster knows, as far as they said so since the link to them stands.
    fn known_by_all(&self) -> Level {
        let own = self.config.level_max;
        let others = self.nodes.nodes().filter(|node| self.is_asked(node.node));
        others.map(|node| self.shared.peers.level(node.node)).min().unwrap_or(own).min(own)
    }

    /// Every other node is asked what it knows.
    fn is_asked(&self, node: NodeId) -> bool {
        node != self.config.node && !mutant::on(Mutant::LevelUnasked)
    }
}
