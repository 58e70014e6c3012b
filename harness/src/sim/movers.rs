//! Who joins and who leaves: what an operator, or the cluster's own mover, does.
//!
//! It asks whoever leads a group to change its members by one, makes empty replicas for those who are to
//! join, and takes away those that were removed. Its commands reach a node like anything else: not, when the
//! node is down. It keeps to the rules that the engine states for its callers: a life is given to one replica
//! only, and one is taken away only once its removal is committed.

use super::end::{groups, is_member};
use super::{FOUNDERS, Incoming, SHARDS, World};
use crate::sim::Event;
use engine::ids::{GroupId, Incarnation, NodeId};
use engine::raft::{Change, Configuration, Member, Standing};
use engine::time::Duration;

impl World {
    pub(super) fn move_one(&mut self) {
        let group = GroupId(self.movers.u32(..=SHARDS));
        self.take_away(group);
        self.change_members(group);
        let next = Duration::from_millis(self.movers.u64(10..120));
        self.plan(next, Event::Move);
    }

    /// Replicas that were removed, by what is committed, are taken away, sooner or later.
    fn take_away(&mut self, group: GroupId) {
        let Some(members) = self.watch.members(group) else { return };
        let strays = self.replicas(group).filter(|(id, shard)| !is_member(members, *id, shard));
        let strays: Vec<(u32, Incarnation)> =
            strays.map(|(id, shard)| (id, shard.raft().incarnation())).collect();
        for (id, life) in strays {
            if self.is_wanted(group, id, life) {
                continue;
            }
            if !self.is_faulty() || self.movers.u32(..4) == 0 {
                self.deliver(id, Incoming::Remove(group, life));
            }
        }
    }

    /// Whether somebody has it that this replica belongs to the group: it is about to.
    fn is_wanted(&self, group: GroupId, id: u32, life: Incarnation) -> bool {
        let named = |members: &Configuration| {
            members.member(NodeId(id + 1)).is_some_and(|member| member.incarnation == life)
        };
        self.replicas(group).any(|(_, s)| s.raft().is_leader() && named(s.raft().configuration()))
    }

    fn change_members(&mut self, group: GroupId) {
        let leaders = self.replicas(group).filter(|(_, shard)| shard.raft().is_leader());
        let Some((leader, shard)) = leaders.max_by_key(|(_, shard)| shard.raft().term()) else {
            return;
        };
        let members = shard.raft().configuration().clone();
        // What is not committed is waited for, most times.
        if shard.raft().change_in_flight().is_some() && self.movers.u32(..8) > 0 {
            return;
        }
        let voters = members.voters().count();
        let gone = members.members().iter().find(|member| self.is_gone(group, member)).copied();
        let learner = members.members().iter().find(|m| m.standing == Standing::Learner).copied();
        let (any, chance) = (self.movers.usize(..members.members().len()), self.movers.u32(..8));
        let any = members.members()[any];
        // Who is well is not sent away while somebody is gone for good.
        let well = !members.members().iter().any(|m| self.dead.contains(&m.incarnation));
        let change = match (gone, learner) {
            (Some(gone), _) if voters > 1 => remove(gone),
            (_, Some(learner)) if chance > 0 => promote(learner),
            (_, Some(learner)) => remove(learner),
            _ if voters > FOUNDERS as usize && well => remove(any),
            _ if voters < FOUNDERS as usize => return self.join(group, leader, &members),
            _ if !self.is_faulty() => return,
            _ if chance < 5 => return self.join(group, leader, &members),
            _ if chance < 6 && well => remove(any),
            _ => return,
        };
        self.deliver(leader, Incoming::Change(group, change));
    }

    /// Somebody who does not belong to the group gets an empty replica of it, and is added.
    fn join(&mut self, group: GroupId, leader: u32, members: &Configuration) {
        let id = self.movers.u32(..self.nodes.len() as u32);
        let known = members.member(NodeId(id + 1)).is_some();
        if known || self.replicas(group).any(|(other, _)| other == id) {
            return;
        }
        self.lives += 1;
        let mut life = [0xee; 16];
        life[..4].copy_from_slice(&self.lives.to_le_bytes());
        let incarnation = Incarnation(life);
        self.deliver(id, Incoming::Make(group, incarnation));
        let add = Change::AddLearner { node: NodeId(id + 1), incarnation };
        self.deliver(leader, Incoming::Change(group, add));
    }

    /// Whether a member's node is up and keeps no such replica: it never will.
    fn is_gone(&self, group: GroupId, member: &Member) -> bool {
        let id = member.node.0 - 1;
        let up = self.nodes[id as usize].engine.is_some();
        let is_here = |(other, shard): (u32, &engine::shard::Shard)| {
            other == id && shard.raft().incarnation() == member.incarnation
        };
        // Its command may still lie in the node's inbox.
        let waits = self.nodes[id as usize].inbox.iter().any(
            |incoming| matches!(incoming, Incoming::Make(_, life) if *life == member.incarnation),
        );
        up && !waits && !self.replicas(group).any(is_here)
    }

    /// A node's disk is lost for good, if the cluster bears it: every group has all its voters, and everybody
    /// knows of them. The node comes back as one that founded nothing.
    pub(super) fn lose(&mut self, id: u32) {
        let bears = groups().all(|group| {
            let Some(members) = self.watch.members(group) else { return false };
            let agree = self.replicas(group).filter(|(id, shard)| {
                is_member(members, *id, shard) && shard.raft().configuration() == members
            });
            let voters = members.voters().count();
            voters >= FOUNDERS as usize && agree.count() == members.members().len()
        });
        let is_change = |incoming: &Incoming| matches!(incoming, Incoming::Change(..));
        let asked = self.nodes.iter().any(|node| node.inbox.iter().any(is_change));
        let down = self.nodes.iter().any(|node| node.engine.is_none());
        if !bears || asked || down || !self.is_faulty() {
            return;
        }
        let lives = groups().flat_map(|group| self.replicas(group));
        let lives = lives.filter(|(other, _)| *other == id).map(|(_, s)| s.raft().incarnation());
        let lives: Vec<Incarnation> = lives.collect();
        self.dead.extend(lives);
        self.watch.on_disk_lost(id);
        self.crash(id);
        let (seed, segment_bytes) = (self.movers.u64(..), self.temper.segment_bytes);
        let node = &mut self.nodes[id as usize];
        node.disk = super::Disk::new(seed, segment_bytes);
        node.founder = false;
        self.lost += 1;
        let back = Duration::from_millis(self.movers.u64(1..500));
        self.plan(back, Event::Start { node: id });
    }
}

fn remove(Member { node, incarnation, .. }: Member) -> Change {
    Change::Remove { node, incarnation }
}

fn promote(Member { node, incarnation, .. }: Member) -> Change {
    Change::Promote { node, incarnation }
}
