//! What only the simulator and the tests ask of an engine, or look at.

use super::{Engine, Note, Step};
use crate::effects::Effects;
use crate::entry::ENTRY_HEADER_BYTES;
use crate::ids::{GroupId, NodeId};
use crate::machine::meta::Meta;
use crate::raft::{ChangeError, MemberChange};
use crate::shard::Shard;
use crate::time::Time;

impl Engine {
    /// The shards, to look at.
    pub fn shards(&self) -> &[Shard] {
        self.shards.as_slice()
    }

    /// Until when the leader of a group may answer by its lease, if it is here and has one.
    pub fn lease_until(&self, group: GroupId) -> Option<Time> {
        self.shards.lease_until(self.place_of(group)?)
    }

    /// Whether the journal takes what a leader makes by itself, like the tick that ends what is due.
    pub fn takes_own_entries(&self) -> bool {
        self.shared.journal.has_own_room(2 * ENTRY_HEADER_BYTES)
    }

    /// How many shards the cluster has.
    pub fn shard_count(&self) -> u32 {
        self.config.shards
    }

    /// Who leads a group, as far as this engine knows.
    pub fn leader_of(&self, group: GroupId) -> Option<NodeId> {
        self.known[group.0 as usize].leader
    }

    /// The cluster's nodes, as far as this engine knows them.
    pub fn nodes(&self) -> &Meta {
        &self.nodes
    }

    /// Who belongs to a group that this node leads is to change by one replica, whatever the placement wants. The
    /// answer is [`Note::ChangeAnswered`].
    pub fn change_members(
        &mut self,
        now: Time,
        group: GroupId,
        change: MemberChange,
        effects: &mut Effects,
    ) {
        let answer = match self.place_of(group) {
            Some(at) => self
                .shards
                .touch(at)
                .on_change(&mut Step { now, shared: &mut self.shared, effects }, change),
            None => Err(ChangeError::NotLeader),
        };
        effects.notes.push(Note::ChangeAnswered { group, change, answer });
    }
}
