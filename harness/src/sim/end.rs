//! The end of a run: whether everything came right.

use super::seats::SeatId;
use super::twin::Twin;
use super::{FOUNDERS, Failure, World};
use engine::engine::Engine;
use engine::ids::{GroupId, NodeId};
use engine::level::Level;
use engine::limits::SNAPSHOT_IDLE_MS_MAX;
use engine::machine::meta::Meta;
use engine::raft::{Configuration, Suffrage};
use engine::shard::Shard;
use engine::time::Duration;

/// How often it is looked at whether anything is late.
const LOOKS_EVERY: Duration = Duration::from_millis(10);

impl World {
    pub(super) fn is_settled(&self) -> bool {
        self.clients.are_finished()
            && !self.reader_waits()
            && self.stranger_waits().is_none()
            && self.watch.twins.iter().all(Twin::is_at_rest)
            && self.watch.mail.is_delivered()
            && self.groups().all(|group| self.is_whole(group) && self.is_balanced(group))
            && self.ignorance().is_none()
    }

    /// What an engine of the cluster's nodes does not know: who the nodes are, or who leads a group. Others of its node
    /// told it of the groups that it does not keep.
    fn ignorance(&self) -> Option<String> {
        let nodes = self.newest_nodes()?;
        let leads = |group| self.replicas(group).find(|(_, shard)| shard.raft().is_leader());
        let leader = |group| Some(NodeId(leads(group)?.0 + 1));
        let mut members =
            self.engines().filter(|(at, _)| nodes.node(NodeId(at.node + 1)).is_some());
        members.find_map(|(SeatId { node, engine }, it)| {
            let who = format!("engine {engine} of node {} does not know", node + 1);
            if it.nodes().epoch() != nodes.epoch() {
                return Some(format!("{who} the cluster's nodes"));
            }
            let unknown = self.groups().find(|group| it.leader_of(*group) != leader(*group))?;
            Some(format!("{who} who leads group {unknown}"))
        })
    }

    /// Every group.
    pub(super) fn groups(&self) -> impl Iterator<Item = GroupId> + use<> {
        self.layout.groups()
    }

    /// A group is where the placement wants it, each of its voters here and as far as the others, and nobody else
    /// keeps anything of it.
    fn is_whole(&self, group: GroupId) -> bool {
        let Some(members) = self.watch.members(group) else { return false };
        let all = members.members();
        let replicas: Vec<&Shard> = self.replicas(group).map(|(_, shard)| shard).collect();
        let first = replicas.first().map(|shard| shard.applied());
        let keepers = self.newest_nodes().map_or(0, |nodes| nodes.keepers().count());
        let leader = replicas.iter().find(|shard| shard.raft().is_leader());
        all.len() == voters_of(group, keepers)
            && leader.is_some_and(|leader| leader.is_placed())
            && all.iter().all(|member| member.suffrage == Suffrage::Voter)
            && replicas.len() == all.len()
            && replicas.iter().all(|shard| shard.state().level() == Level::NEWEST)
            && replicas.iter().all(|shard| {
                *shard.raft().configuration() == *members && Some(shard.applied()) == first
            })
            && self.replicas(group).all(|(id, shard)| is_member(members, id, shard))
    }

    /// How many vote in a group, as far as it is committed.
    pub(super) fn voters(&self, group: GroupId) -> u64 {
        self.watch.members(group).map_or(0, |members| members.voters().count() as u64)
    }

    /// The cluster's nodes, by whoever knows them best.
    pub(super) fn newest_nodes(&self) -> Option<&Meta> {
        self.engines().map(|(_, engine)| engine.nodes()).max_by_key(|nodes| nodes.epoch())
    }

    /// The replicas of a group that are up, and where.
    pub(super) fn replicas(&self, group: GroupId) -> impl Iterator<Item = (u32, &Shard)> {
        self.all().filter_map(move |id| {
            let engine = self.engine(self.layout.seat(id, group))?;
            let shard = engine.shards().iter().find(|shard| shard.group() == group)?;
            Some((id, shard))
        })
    }

    /// A group is led by whom the placement prefers, if that one belongs to it.
    fn is_balanced(&self, group: GroupId) -> bool {
        let voters = self.watch.members(group).into_iter().flat_map(Configuration::voters);
        let voters: Vec<NodeId> = voters.map(|member| member.node).collect();
        self.replicas(group).all(|(_, shard)| {
            let (leader, preferred) = (shard.raft().leader(), shard.preferred());
            leader == Some(preferred) || leader.is_some() && !voters.contains(&preferred)
        })
    }

    pub(super) fn unsettled(&self) -> String {
        let ignorance = self.ignorance().map(|what| format!("{what}; ")).unwrap_or_default();
        let mut text = ignorance + &self.clients.unfinished();
        if let Some(request) = self.stranger_waits() {
            text.push_str(&format!("\n  request {request} of a stranger is not answered"));
        }
        text.push_str(&self.watch.mail.undelivered());
        for group in self.groups() {
            text.push_str(&format!("\n  group {group}: {:?}", self.watch.members(group)));
        }
        for id in self.all().filter(|id| !self.is_up(*id)) {
            text.push_str(&format!("\n  node {} is down", id + 1));
        }
        for (at, engine) in self.engines() {
            let (id, nodes) = (at.node as usize, engine.nodes());
            let known = self.groups().map(|group| engine.leader_of(group).map_or(0, |it| it.0));
            text.push_str(&format!(
                "\n  node {}, engine {}: build of level {}, nodes of epoch {} at level {}, leaders {:?}",
                id + 1,
                at.engine,
                self.nodes[id].build.level,
                nodes.epoch(),
                nodes.level(),
                known.collect::<Vec<_>>()
            ));
            for shard in engine.shards() {
                let (group, level) = (shard.group(), shard.state().level());
                text.push_str(&format!(", group {group} at {level}"));
            }
            let status = engine.status(self.clocks[id].read(self.now));
            text.push_str(&format!(", {:?}", status.journal));
            for group in status.groups {
                text.push_str(&format!("\n  node {} {group:?}", id + 1));
            }
        }
        text
    }

    /// Everybody gave everything back: nothing is held, nothing waits, nothing is left.
    pub(super) fn check_empty(&self) -> Result<(), Failure> {
        for (_, shard) in self.groups().flat_map(|group| self.replicas(group)) {
            let left = shard.state().status();
            let things =
                [left.locks, left.lock_waiters, left.messages_ready, left.messages_in_flight];
            let twin = shard.group().shard().map(|shard| &self.watch.twins[shard as usize]);
            // What strangers pushed nobody takes.
            let strange = twin.map_or(0, |twin| twin.messages.len() as u64);
            if things != [0, 0, strange, 0] {
                return Err(Failure::Safety(format!("something is left: {left:?}")));
            }
        }
        Ok(())
    }

    /// Holds that nothing is there that had to end, now and then.
    pub(super) fn look_for_late(&mut self) -> Result<(), Failure> {
        let passed = self.now.since(self.looked_at);
        if passed < LOOKS_EVERY {
            return Ok(());
        }
        self.looked_at = self.now;
        for shard in 0..self.layout.shards {
            let (at, able) = (shard as usize, self.is_able(GroupId::of_shard(shard)));
            let was_able = std::mem::replace(&mut self.able[at], able);
            if !(able && was_able) {
                self.watch.twins[at].unable += passed;
            }
        }
        self.none_is_late()
    }

    pub(super) fn none_is_late(&self) -> Result<(), Failure> {
        for (twin, shard) in self.watch.twins.iter().zip(0..) {
            let late = twin.none_is_late(self.now);
            late.map_err(|why| Failure::Safety(format!("shard {shard}, late: {why}")))?;
        }
        Ok(())
    }

    /// Whether a group has a leader that can commit: it opened its term, a majority hears it and is heard, and has
    /// all that is committed. Who lags has to catch up first:
    ///
    /// 1. Node 2 leads, and commits 3,000 entries with node 3. Node 1 was away, and has 900 of them.
    /// 2. Node 3 is cut off. Node 1 hears node 2 and answers, but nothing is committed before it has the others.
    fn is_able(&self, group: GroupId) -> bool {
        let Some(members) = self.watch.members(group) else { return false };
        let runs = |id: u32| self.now >= self.seat(self.layout.seat(id, group)).paused_until;
        let meet =
            |a: u32, b: u32| !self.blocked.contains(&(a, b)) && !self.blocked.contains(&(b, a));
        let newest = self.replicas(group).map(|(_, shard)| shard.raft().term()).max();
        self.replicas(group).any(|(id, shard)| {
            let leads = shard.raft().confirmed_at().is_some();
            let newest = Some(shard.raft().term()) == newest;
            let has_all = |other: u32| {
                let mut progress = shard.raft().progress().iter();
                progress.any(|it| it.node.0 == other + 1 && it.matched >= shard.raft().commit())
            };
            let meets = |other: u32| other == id || meet(id, other) && has_all(other);
            let majority_of = |members: &Configuration| {
                let voters = self.replicas(group).filter(|(other, shard)| {
                    runs(*other) && is_voter(members, *other, shard) && meets(*other)
                });
                voters.count() >= members.majority()
            };
            // A change that it appended counts from then on, and may never be committed.
            let majorities = majority_of(members) && majority_of(shard.raft().configuration());
            // What no group commits may fill it: then nothing ends in any group that this node leads.
            let engine = self.engine(self.layout.seat(id, group));
            let takes = engine.is_some_and(Engine::takes_own_entries);
            // A leader that hands over takes nothing until that is done, or has failed.
            let hands_over = shard.raft().is_handing_over();
            leads && newest && runs(id) && majorities && takes && !hands_over
        })
    }

    /// No snapshot stays in memory that nobody takes any more.
    pub(super) fn check_memory(&mut self) -> Result<(), Failure> {
        let kept = |world: &World| {
            let shards = world.groups().flat_map(|group| world.replicas(group));
            let kept = shards.filter(|(_, shard)| shard.snapshot_bytes() > 0);
            kept.map(|(id, shard)| (id + 1, shard.group())).next()
        };
        if kept(self).is_some() {
            // By whatever clock it is counted.
            self.until(self.now + Duration::from_millis(2 * SNAPSHOT_IDLE_MS_MAX))?;
        }
        match kept(self) {
            None => Ok(()),
            Some((node, group)) => {
                let what = format!("group {group}: node {node} keeps a snapshot that nobody takes");
                Err(Failure::Liveness(what))
            }
        }
    }

    /// Equal index, equal bytes.
    pub(super) fn compare_states(&self) -> Result<(), Failure> {
        for group in self.groups() {
            let mut first: Option<(u32, Vec<u8>)> = None;
            for (id, shard) in self.replicas(group) {
                let mut bytes = Vec::new();
                shard.state().snapshot(&mut bytes);
                let (other, known) = first.get_or_insert_with(|| (id, bytes.clone()));
                if *known != bytes {
                    let (a, b) = (*other + 1, id + 1);
                    let what = format!("group {group}: nodes {a} and {b} differ at equal index");
                    return Err(Failure::Safety(what));
                }
            }
        }
        Ok(())
    }
}

/// How many voters a group has in the end.
pub(super) fn voters_of(group: GroupId, keepers: usize) -> usize {
    match (group, keepers) {
        (GroupId::META, 9..) => 7,
        (GroupId::META, 5..) => 5,
        _ => keepers.min(FOUNDERS as usize),
    }
}

fn is_voter(members: &Configuration, id: u32, shard: &Shard) -> bool {
    members.is_voter(NodeId(id + 1), shard.raft().incarnation())
}

/// Whether a replica is the one that belongs to the group.
pub(super) fn is_member(members: &Configuration, id: u32, shard: &Shard) -> bool {
    let member = members.member(NodeId(id + 1));
    member.is_some_and(|member| member.incarnation == shard.raft().incarnation())
}
