//! What only the simulator and the tests ask of an engine, or look at.

use super::{Engine, Note, Step};
use crate::effects::Effects;
use crate::entry::ENTRY_HEADER_BYTES;
use crate::ids::{ConnId, GroupId, NodeId};
use crate::machine::Took;
use crate::machine::meta::Meta;
use crate::raft::{ChangeError, MemberChange};
use crate::shard::Shard;
use crate::time::Time;
use alloc::boxed::Box;
use alloc::vec::Vec;

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

    /// Whether a client's connection stands.
    pub fn is_connected(&self, conn: ConnId) -> bool {
        self.shared.conns.is_open(conn)
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

    /// A group that is led here writes mail to another. False: it was not proposed.
    pub fn write_mail(
        &mut self,
        now: Time,
        (from, to): (GroupId, GroupId),
        mail: &[u8],
        effects: &mut Effects,
    ) -> bool {
        let Some(at) = self.place_of(from) else { return false };
        let step = &mut Step { now, shared: &mut self.shared, effects };
        self.shards.touch(at).write_mail(step, to, mail)
    }

    /// A group that is led here sends another one something that nobody keeps. False: it was not sent.
    pub fn probe(
        &mut self,
        now: Time,
        (from, to): (GroupId, GroupId),
        bytes: &[u8],
        effects: &mut Effects,
    ) -> bool {
        let Some(at) = self.place_of(from) else { return false };
        let step = &mut Step { now, shared: &mut self.shared, effects };
        self.shards.touch(at).probe(step, to, bytes)
    }

    /// The mail that each group took, and the probes that came, since this was asked last.
    pub fn drain_mail(&mut self) -> Vec<Arrived> {
        let count = self.shards.len();
        let look = |at| {
            let shard = self.shards.look(at);
            (shard.group(), shard.drain_took(), shard.drain_probes())
        };
        (0..count).map(look).collect()
    }
}

/// What arrived in a group: mail that it took, and probes.
pub type Arrived = (GroupId, Vec<Took>, Vec<(GroupId, Box<[u8]>)>);
