//! All that an engine has, when its cluster is gone: see [`Salvaged`].

use super::Engine;
use crate::ids::{GroupId, Incarnation, Index, Term};
use crate::open;
use crate::raft::Configuration;
use crate::shard::salvage::Salvaged;
use crate::shard::state::State;
use alloc::vec::Vec;

impl Engine {
    /// All that this engine has of each group that it would keep: of one of which it keeps nothing an empty state. The
    /// engine is of no other use then.
    pub fn salvage(&mut self, each: &mut dyn FnMut(Salvaged)) {
        let groups = (0..=self.config.shards).map(GroupId);
        let groups: Vec<GroupId> = groups.filter(|group| self.is_ours(*group)).collect();
        for group in groups {
            let kept = self.place_of(group).and_then(|at| self.shards.touch(at).salvage());
            each(kept.unwrap_or_else(|| self.nothing_of(group)));
        }
    }

    /// What a group begins with of which nobody has anything. The cluster's own group is known beside its log.
    fn nothing_of(&self, group: GroupId) -> Salvaged {
        let mut snapshot = Vec::new();
        let nobody = [(self.config.node, Incarnation::NOBODY)].into_iter();
        Configuration::of_voters(nobody).encode(&mut snapshot);
        if group == GroupId::META {
            self.nodes.snapshot(&mut snapshot);
        } else {
            let (cluster, cache) = (self.config.cluster, self.config.cache_bytes_max);
            let machine = open::machine_config(cluster, cache, self.config.secret);
            State::new(group, &machine, Vec::new()).snapshot_whole(&mut snapshot);
        }
        // As if it had opened its first term, and no more: whatever another node has is newer.
        let (index, term) = (Index(1), Term(1));
        let (members, commit) = (Vec::new(), Index::ZERO);
        Salvaged { group, term, index, index_term: term, commit, members, snapshot }
    }
}
