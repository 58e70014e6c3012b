//! Who joins and who leaves: what an operator does, and somebody who meddles.
//!
//! The operator adds nodes, drains them and forgets them, as `tercet cluster` does; the groups follow by themselves.
//! Whoever meddles asks leaders for changes that nobody wants: the groups have to find back from them. It keeps
//! to the rules that the engine states for its callers: a life is given to one replica only.

use super::end::voters_of;
use super::seats::SeatId;
use super::{FOUNDERS, Failure, Incoming, World};
use crate::sim::Event;
use engine::engine::{Engine, OpenError};
use engine::ids::{ConnId, GroupId, Incarnation, NodeId};
use engine::machine::meta::Standing as Place;
use engine::raft::{Configuration, Member, MemberChange, Raft, Suffrage};
use engine::time::Duration;
use wire::Header;
use wire::message::{NodeAdd, NodeDrain, NodeForget};

/// The operator's connections: an index that no client has.
const OPERATOR: u32 = 900;

impl World {
    pub(super) fn move_one(&mut self) {
        if !self.is_faulty() {
            return;
        }
        let group = GroupId(self.movers.u32(..=self.layout.shards));
        if self.movers.u32(..4) > 0 {
            self.change_members(group);
        } else {
            self.operate();
        }
        let next = Duration::from_millis(self.movers.u64(10..120));
        self.plan(next, Event::Move);
    }

    /// A node is added, drained or forgotten.
    fn operate(&mut self) {
        let Some(nodes) = self.newest_nodes().cloned() else { return };
        let id = self.movers.u32(..self.nodes.len() as u32);
        let node = id + 1;
        let incarnation = self.incarnation(id);
        let keepers = nodes.keepers().count();
        let idle = || {
            self.groups().all(|group| {
                self.watch.members(group).is_some_and(|m| m.member(NodeId(node)).is_none())
            })
        };
        let address = format!("node{node}:7400");
        let add = |replaces| NodeAdd {
            incarnation: incarnation.0,
            node,
            engines: self.layout.engines,
            replaces,
            address: address.as_bytes(),
        };
        let mut frame = Vec::new();
        match nodes.node(NodeId(node)) {
            None => send(&mut frame, NodeAdd::KIND, |b| add(0).encode(b)),
            Some(known) if known.incarnation != incarnation => {
                send(&mut frame, NodeAdd::KIND, |b| add(1).encode(b));
            }
            Some(known) if known.standing == Place::In => {
                if keepers <= FOUNDERS as usize {
                    return;
                }
                send(&mut frame, NodeDrain::KIND, |b| NodeDrain { node }.encode(b));
            }
            Some(_) if idle() => {
                send(&mut frame, NodeForget::KIND, |b| NodeForget { node }.encode(b));
            }
            Some(_) => send(&mut frame, NodeAdd::KIND, |b| add(1).encode(b)),
        }
        let to = self.movers.u32(..self.nodes.len() as u32);
        self.lives += 1;
        let conn = ConnId { index: OPERATOR, generation: self.lives };
        let to = self.layout.seat(to, GroupId::META);
        self.deliver(to, Incoming::Opened(conn));
        self.deliver(to, Incoming::Request(conn, frame));
        self.deliver(to, Incoming::Closed(conn));
    }

    /// The lives of a node's replicas.
    fn lives_of(&self, id: u32) -> Vec<(GroupId, Incarnation)> {
        let engines = self.engines().filter(|(at, _)| at.node == id);
        let shards = engines.flat_map(|(_, engine)| engine.shards());
        shards.map(|shard| (shard.group(), shard.raft().incarnation())).collect()
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
        let learner = members.members().iter().find(|m| m.suffrage == Suffrage::Learner).copied();
        let (any, chance) = (self.movers.usize(..members.members().len()), self.movers.u32(..8));
        let any = members.members()[any];
        let keepers = self.newest_nodes().map_or(0, |nodes| nodes.keepers().count());
        let enough = voters_of(group, keepers.max(FOUNDERS as usize));
        // Who is well is not sent away while somebody is gone for good.
        let well = !members.members().iter().any(|m| self.dead.contains(&(group, m.incarnation)));
        let change = match learner {
            Some(learner) if chance > 0 => promote(learner),
            Some(learner) => remove(learner),
            None if voters > enough && well => remove(any),
            None if voters < enough || chance < 5 => {
                return self.join(group, leader, &members);
            }
            None if chance < 6 && well => remove(any),
            None => return,
        };
        self.deliver(self.layout.seat(leader, group), Incoming::Change(group, change));
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
        self.deliver(self.layout.seat(id, group), Incoming::Make(group, incarnation));
        let add = MemberChange::AddLearner { node: NodeId(id + 1), incarnation };
        self.deliver(self.layout.seat(leader, group), Incoming::Change(group, add));
    }

    /// A node's disk is lost for good, or rots, if the cluster bears it, also while its groups move. The node comes
    /// back as one that founded nothing.
    pub(super) fn lose(&mut self, id: u32) {
        let is_change = |incoming: &Incoming| matches!(incoming, Incoming::Change(..));
        let mut seats = self.nodes.iter().flat_map(|node| &node.seats);
        let asked = seats.any(|seat| seat.inbox.iter().any(is_change));
        let down = self.all().any(|node| !self.is_up(node));
        if asked || down || !self.is_faulty() || !self.groups().all(|group| self.bears(group, id)) {
            return;
        }
        let lives = self.lives_of(id);
        self.crash(id);
        let engine = self.layout.draw_engine(&mut self.movers);
        let at = SeatId { node: id, engine };
        // A bit is enough: the node finds it when it starts, if it matters.
        if self.movers.bool() && self.seat_mut(at).disk.rot() {
            let layout = self.layout;
            let of_engine = lives.into_iter().filter(|(group, _)| layout.seat(id, *group) == at);
            let lives: Vec<(GroupId, Incarnation)> = of_engine.collect();
            self.dead.extend(&lives);
            self.seat_mut(at).rotten = Some(lives);
        } else {
            self.lost += 1;
            self.dead.extend(&lives);
            let node = &mut self.nodes[id as usize];
            (node.founder, node.roster) = (false, Vec::new());
            for at in self.layout.seats_of(id) {
                self.begin_anew(at);
                self.seat_mut(at).renewed = false;
            }
        }
        let back = Duration::from_millis(self.movers.u64(1..500));
        self.plan(back, Event::Start { node: id });
    }
}

impl World {
    /// Whether a group can do without a node's replica: by what is committed and by what any replica has in its log,
    /// one voter at most is lost with it, and the others are a majority. One only, since a leader may be about to
    /// remove somebody else before it knows. And somebody who stays can be elected (docs/findings/open.md: a learner may
    /// have what no voter has).
    fn bears(&self, group: GroupId, id: u32) -> bool {
        if !self.someone_can_be_elected(group, id) {
            return false;
        }
        let Some(committed) = self.watch.members(group) else { return false };
        let appended = self.replicas(group).map(|(_, shard)| shard.raft().configuration());
        appended.chain([committed]).filter(|all| **all != Configuration::UNKNOWN).all(|members| {
            let is_lost =
                |m: &&Member| self.dead.contains(&(group, m.incarnation)) || m.node.0 == id + 1;
            let lost = members.voters().filter(is_lost).count();
            lost <= 1 && members.voters().count() - lost >= members.majority()
        })
    }

    /// Whether of a group's other replicas one votes by its own log, and gets the votes of a majority of those who
    /// vote by that log: theirs are no newer.
    fn someone_can_be_elected(&self, group: GroupId, lost: u32) -> bool {
        let stay: Vec<&Raft> = self
            .replicas(group)
            .filter(|(other, shard)| {
                *other != lost && !self.dead.contains(&(group, shard.raft().incarnation()))
            })
            .map(|(_, shard)| shard.raft())
            .collect();
        let end = |raft: &Raft| (raft.log().last_term(), raft.log().last_index());
        stay.iter().any(|candidate| {
            let members = candidate.configuration();
            let votes = |voter: &Member| {
                let of_it = |raft: &&&Raft| raft.incarnation() == voter.incarnation;
                stay.iter().find(of_it).is_some_and(|raft| end(raft) <= end(candidate))
            };
            let itself = members.voters().any(|m| m.incarnation == candidate.incarnation());
            itself && members.voters().filter(|voter| votes(voter)).count() >= members.majority()
        })
    }

    /// An engine gets an empty disk.
    fn begin_anew(&mut self, at: SeatId) {
        self.watch.on_disk_lost(at);
        let (seed, segment_bytes) = (self.movers.u64(..), self.temper.segment_bytes);
        self.seat_mut(at).disk = super::Disk::new(seed, segment_bytes);
    }

    /// An engine whose disk rots has read it, and reads it again. If it found damage it begins anew, as the server does;
    /// else it knows all that was durable, and what was wrong is as it was. Says whether the disk rotted.
    pub(super) fn on_rotten(
        &mut self,
        at: SeatId,
        opened: &Result<Engine, OpenError>,
    ) -> Result<bool, Failure> {
        let Some(lives) = self.seat_mut(at).rotten.take() else { return Ok(false) };
        if let Ok(engine) = opened {
            let watched = self.watch.on_start(self.now, &self.clocks, at, engine);
            watched.map_err(Failure::Safety)?;
            self.seat_mut(at).disk.unrot();
            self.dead.retain(|life| !lives.contains(life));
        } else {
            self.damaged += 1;
            self.begin_anew(at);
            match self.layout.engines {
                // To the cluster it is another node from now on.
                1 => self.nodes[at.node as usize].founder = false,
                _ => self.seat_mut(at).renewed = true,
            }
        }
        Ok(true)
    }
}

fn remove(Member { node, incarnation, .. }: Member) -> MemberChange {
    MemberChange::Remove { node, incarnation }
}

fn promote(Member { node, incarnation, .. }: Member) -> MemberChange {
    MemberChange::Promote { node, incarnation }
}

fn send(out: &mut Vec<u8>, kind: wire::Kind, body: impl FnOnce(&mut Vec<u8>)) {
    wire::frame(out, &Header::new(kind, 1), body);
}
