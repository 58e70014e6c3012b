//! The fake cluster's nodes come and go: what it knows of them, and what it answers. Every node that belongs
//! to it keeps every group.

use super::{Memory, done, refusal};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use wire::message::*;
use wire::peer::PeerHello;
use wire::{Code, Kind};

/// How long replicas take to move.
const MOVE_TIME: Duration = Duration::from_millis(400);

#[derive(Default)]
pub struct Nodes {
    /// The node that leads the cluster's own group; 0 = node 1.
    pub meta_leader: u32,
    /// Nodes that run, but are not the cluster's.
    pub outside: BTreeSet<u32>,
    /// Nodes that belong to no cluster by their own word.
    pub unborn: BTreeSet<u32>,
    pub drained: BTreeSet<u32>,
    /// The data directories that nodes have by their own word, where it is another than at first.
    pub lives: BTreeMap<u32, u8>,
    /// The same, as the cluster knows them.
    known: BTreeMap<u32, u8>,
    /// Groups whose leader can't serve.
    pub mute: BTreeSet<u32>,
    joining: Option<u32>,
    moves_until: Option<Instant>,
    epoch: u64,
}

impl Nodes {
    pub fn epoch(&self) -> u64 {
        self.epoch + 1
    }

    fn life(lives: &BTreeMap<u32, u8>, node: u32) -> u8 {
        lives.get(&node).copied().unwrap_or(node as u8)
    }

    fn moving(&self) -> bool {
        self.moves_until.is_some_and(|until| Instant::now() < until)
    }

    fn change(&mut self, joining: Option<u32>) -> (Kind, Vec<u8>) {
        self.epoch += 1;
        self.joining = joining;
        self.moves_until = Some(Instant::now() + MOVE_TIME);
        done(self.epoch)
    }

    fn add(&mut self, body: &[u8], addresses: &[String]) -> (Kind, Vec<u8>) {
        let add = NodeAdd::decode(body).unwrap();
        let (node, life) = (add.node, add.incarnation[0]);
        assert_eq!(addresses[node as usize - 1].as_bytes(), add.address);
        let same = Nodes::life(&self.known, node) == life;
        if !self.outside.contains(&node) {
            match (same, add.replaces) {
                (false, 0) => return refusal(Code::NodeKnown, 0, 0),
                (true, _) if !self.drained.contains(&node) => return done(self.epoch),
                _ => {}
            }
        }
        self.known.insert(node, life);
        self.outside.remove(&node);
        self.unborn.remove(&node);
        self.drained.remove(&node);
        self.change(Some(node))
    }

    fn drain(&mut self, node: u32, count: usize) -> (Kind, Vec<u8>) {
        match (self.outside.contains(&node), self.drained.contains(&node)) {
            (true, _) => refusal(Code::NodeUnknown, 0, 0),
            (_, true) => done(self.epoch),
            _ if count - self.outside.len() - self.drained.len() == 1 => {
                refusal(Code::LastNode, 0, 0)
            }
            _ => {
                self.drained.insert(node);
                self.change(None)
            }
        }
    }

    fn forget(&mut self, node: u32) -> (Kind, Vec<u8>) {
        if !self.outside.contains(&node) {
            if !self.drained.remove(&node) {
                return refusal(Code::NodeInUse, 0, 0);
            }
            assert!(!self.moving(), "it still keeps replicas");
            self.outside.insert(node);
        }
        done(self.epoch)
    }
}

impl Memory {
    /// The answer, if the frame is about nodes.
    pub(super) fn on_nodes(
        &mut self,
        node: u32,
        kind: Kind,
        body: &[u8],
        addresses: &[String],
    ) -> Option<(Kind, Vec<u8>)> {
        let unborn = self.nodes.unborn.contains(&node);
        let meta_leader = self.nodes.meta_leader.max(1);
        let elsewhere = (meta_leader != node).then(|| refusal(Code::NotLeader, 0, meta_leader));
        Some(match kind {
            Hello::KIND if unborn => refusal(Code::NotReady, 100, 0),
            PeerHello::KIND if !unborn => refusal(Code::WrongCluster, 0, 0),
            PeerHello::KIND => {
                let incarnation = [Nodes::life(&self.nodes.lives, node); 16];
                let (cluster, engine, engines, version) = ([0; 16], 0, 1, 1);
                let hello = PeerHello { cluster, incarnation, node, engine, engines, version };
                let mut out = Vec::new();
                hello.encode(&mut out);
                (PeerHello::KIND, out)
            }
            Status::KIND => {
                let json = self.status(node, addresses.len()).to_string();
                let mut out = Vec::new();
                StatusReply { json: json.as_bytes() }.encode(&mut out);
                (StatusReply::KIND, out)
            }
            NodeAdd::KIND => elsewhere.unwrap_or_else(|| self.nodes.add(body, addresses)),
            NodeDrain::KIND => elsewhere.unwrap_or_else(|| {
                self.nodes.drain(NodeDrain::decode(body).unwrap().node, addresses.len())
            }),
            NodeForget::KIND => elsewhere
                .unwrap_or_else(|| self.nodes.forget(NodeForget::decode(body).unwrap().node)),
            LeaderMove::KIND => self.lead_moves(node, &LeaderMove::decode(body).unwrap()),
            _ => return None,
        })
    }

    fn lead_moves(&mut self, node: u32, to: &LeaderMove) -> (Kind, Vec<u8>) {
        let leader = match to.group {
            0 => &mut self.nodes.meta_leader,
            group => &mut self.leaders[group as usize - 1],
        };
        let leads = (*leader).max(1);
        if leads != node {
            return refusal(Code::NotLeader, 0, leads);
        }
        if self.nodes.outside.contains(&to.node) {
            return refusal(Code::NodeUnknown, 0, 0);
        }
        *leader = to.node;
        done(0)
    }

    fn status(&self, node: u32, count: usize) -> serde_json::Value {
        let nodes = &self.nodes;
        let keeps = |node: &u32| {
            let gone = nodes.drained.contains(node) && !nodes.moving();
            !gone && !nodes.outside.contains(node) && !nodes.unborn.contains(node)
        };
        let members: Vec<_> = (1..=u32::try_from(count).unwrap())
            .filter(keeps)
            .map(|member| {
                let learns = nodes.joining == Some(member) && nodes.moving();
                json!({ "node": member, "standing": if learns { "learner" } else { "voter" } })
            })
            .collect();
        let leaders = [nodes.meta_leader.max(1)].into_iter().chain(self.leaders.iter().copied());
        let groups =
            (0..).zip(leaders).filter(|_| keeps(&node)).map(|(group, leader): (u32, u32)| {
                let role = if leader == node { "leader" } else { "follower" };
                let serves = !nodes.mute.contains(&group);
                json!({
                    "group": group, "role": role, "leader": serves.then_some(leader), "term": 1,
                    "commit": 1, "members": members, "serves": serves && leader == node,
                })
            });
        let life = format!("{:02x}", Nodes::life(&nodes.lives, node)).repeat(16);
        json!({ "node": node, "incarnation": life, "groups": groups.collect::<Vec<_>>() })
    }
}
