//! Which groups have a replica here: made to join, and ended once they were removed.
//!
//! A replica ends in three steps: no snapshot of it is on its way to the disk; the journal says that it is
//! gone; that is durable, and its snapshot is dropped. A crash in between finds it whole, or gone with a
//! file that no journal names.
//!
//! # Invariants
//!
//! - A group's replica is made anew only once nothing is left of the one before.
//! - A replica is one life: what another promised is not its own, and nobody takes it for that.

use super::Engine;
use crate::effects::{Effects, Note};
use crate::ids::{GroupId, Incarnation, Index, Position};
use crate::journal::Record;
use crate::open;
use crate::shard::Step;
use crate::time::Time;

/// A replica that is to end.
#[derive(Clone, Copy)]
pub(super) struct Ending {
    group: GroupId,
    incarnation: Incarnation,
    /// Where the journal says that it is gone, and the snapshot that it left behind.
    gone: Option<(Position, Option<Index>)>,
}

impl Engine {
    pub(super) fn on_make(
        &mut self,
        now: Time,
        group: GroupId,
        incarnation: Incarnation,
        effects: &mut Effects,
    ) {
        let founds = self.config.founding_life() == Some(incarnation);
        if !self.is_ours(group) || founds || incarnation == Incarnation::NOBODY {
            return;
        }
        if let Some(at) = self.place_of(group) {
            if self.shards[at].raft().incarnation() == incarnation {
                effects.notes.push(Note::ReplicaMade { group });
            }
            return;
        }
        if self.is_ending(group) {
            return;
        }
        self.shared.journal.append(Record::Replica { group, replica: Some(incarnation) });
        let (config, journal) = (&self.config, &self.shared.journal);
        let wanted = &self.placement[group.0 as usize];
        let shard = open::joining(config, wanted, journal, group, incarnation, now);
        self.shards.push(shard);
        effects.notes.push(Note::ReplicaMade { group });
    }

    pub(super) fn on_remove(
        &mut self,
        group: GroupId,
        incarnation: Incarnation,
        effects: &mut Effects,
    ) {
        if self.is_ending(group) {
            return;
        }
        match self.place_of(group) {
            None => effects.notes.push(Note::ReplicaRemoved { group }),
            Some(at) if self.shards[at].raft().incarnation() == incarnation => {
                self.endings.push(Ending { group, incarnation, gone: None });
            }
            Some(_) => {}
        }
    }

    /// Whether the group's replica here is to end, or has and that is not durable.
    pub(super) fn is_ending(&self, group: GroupId) -> bool {
        self.endings.iter().any(|ending| ending.group == group)
    }

    /// Ends replicas of which nothing is on its way to the disk.
    pub(super) fn end_replicas(&mut self, now: Time, effects: &mut Effects) {
        for ending in 0..self.endings.len() {
            let Ending { group, incarnation, gone } = self.endings[ending];
            let Some(at) = self.place_of(group).filter(|_| gone.is_none()) else { continue };
            if self.shards[at].is_snapshotting() {
                continue;
            }
            let shard = self.shards.remove(at);
            assert_eq!(shard.raft().incarnation(), incarnation, "no other life begins before");
            let snapshot = shard.end(&mut Step { now, shared: &mut self.shared, effects });
            self.endings[ending].gone = Some((self.shared.journal.appended(), snapshot));
            self.forget_leader(group, self.config.node, effects);
        }
    }

    /// Something is durable: perhaps that a replica is gone.
    pub(super) fn on_ended(&mut self, effects: &mut Effects) {
        let synced = self.shared.journal.synced();
        self.endings.retain(|ending| {
            let Some((_, snapshot)) = ending.gone.filter(|(gone, _)| *gone <= synced) else {
                return true;
            };
            let group = ending.group;
            effects.drops.extend(snapshot.map(|index| (group, index)));
            effects.notes.push(Note::ReplicaRemoved { group });
            false
        });
    }
}
