//! Where everything is: the topology, who leads a shard, and how it is asked for.

use super::{LinkKey, State};
use crate::call::{Answer, LinkId, Reply};
use crate::clock::Moment;
use crate::error::Error;
use crate::limits::{FETCH_PAUSE_MAX, FETCH_PAUSE_MIN, TOPOLOGY_MAX};
use std::collections::BTreeMap;
use wire::WireError;
use wire::message::TopologyReply;
use wire::topology::{Node, Placement, engine_of_group, read_nodes, read_placement};

/// Where everything is, as some node told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Map {
    pub epoch: u64,
    pub cluster: [u8; 16],
    pub shards: u32,
    pub nodes: BTreeMap<u32, Node>,
    pub placement: BTreeMap<u32, Placement>,
}

impl Map {
    pub fn read(reply: &TopologyReply<'_>) -> Result<Map, WireError> {
        let nodes = read_nodes(reply.nodes)?;
        if nodes.iter().any(|n| n.engines == 0) {
            return Err(WireError::Malformed);
        }
        let placement = read_placement(reply.placement)?;
        Ok(Map {
            epoch: reply.epoch,
            cluster: reply.cluster,
            shards: reply.shards,
            nodes: nodes.into_iter().map(|n| (n.id, n)).collect(),
            placement: placement.into_iter().map(|p| (p.shard, p)).collect(),
        })
    }
}

/// An asking for the topology.
#[derive(Default)]
pub(crate) struct Fetch {
    wanted: bool,
    /// Whom it was asked of, and when.
    asked: Option<(LinkId, Moment)>,
    not_before: Option<Moment>,
    /// How many askings in a row told nothing new.
    vain: u32,
    cursor: usize,
}

/// What an asking told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Told {
    News,
    Nothing,
}

impl Fetch {
    /// Whether the connection is the one that is asked.
    pub fn is_from(&self, link: LinkId) -> bool {
        self.asked.is_some_and(|(id, _)| id == link)
    }
}

impl State {
    /// The connection that leads to a shard's leader, or why there is none.
    pub(crate) fn route(&self, _now: Moment, shard: u32) -> Result<LinkKey, String> {
        let map = self.map.as_ref().ok_or("the topology is not known yet")?;
        let leader = map.placement.get(&shard).map_or(0, |p| p.leader);
        let node = map.nodes.get(&leader);
        let node = node.ok_or_else(|| format!("no leader of shard {shard} is known"))?;
        let engine = engine_of_group(shard + 1, node.engines);
        let lane = shard / node.engines % self.config.connections;
        Ok(LinkKey { address: node.address.clone(), engine, lane })
    }

    /// A node said who leads a shard; `node` 0: it does not know.
    pub(super) fn on_leader_hint(&mut self, now: Moment, shard: u32, node: u32) {
        let Some(map) = &mut self.map else { return };
        let known = map.nodes.contains_key(&node);
        if let Some(placement) = map.placement.get_mut(&shard) {
            placement.leader = if known { node } else { 0 };
        }
        if !known {
            self.want_map(now);
        }
    }

    /// The topology is to be asked for, unless that is under way.
    pub(crate) fn want_map(&mut self, now: Moment) {
        self.fetch.wanted = true;
        self.tick_fetch(now);
    }

    /// Asks for the topology, if it is time.
    pub(super) fn tick_fetch(&mut self, now: Moment) {
        if let Some((link, at)) = self.fetch.asked {
            if now < at + TOPOLOGY_MAX && self.links.contains_key(&link) {
                return self.due(at + TOPOLOGY_MAX);
            }
            self.fetch.asked = None;
        }
        if !self.fetch.wanted {
            return;
        }
        match self.fetch.not_before {
            Some(at) if at > now => self.due(at),
            _ => self.ask(now),
        }
    }

    /// Asks the next node: in turn one that is connected, and any that is known.
    fn ask(&mut self, now: Moment) {
        let up: Vec<LinkId> = self.links.iter().filter(|(_, l)| l.up).map(|(id, _)| *id).collect();
        let turn = self.fetch.cursor;
        self.fetch.cursor += 1;
        let chosen = if turn.is_multiple_of(2) && !up.is_empty() {
            Some(up[turn / 2 % up.len()])
        } else {
            self.ask_any(now, turn / 2)
        };
        match chosen {
            Some(link) => {
                self.fetch.asked = Some((link, now));
                self.due(now + TOPOLOGY_MAX);
                if self.links[&link].up {
                    self.send_fetch(now, link);
                }
            }
            None => self.rest_fetch(now, Told::Nothing),
        }
    }

    /// The next asking waits: the longer, the more of them in a row told nothing new.
    fn rest_fetch(&mut self, now: Moment, told: Told) {
        // What was in vain long ago says nothing of now.
        let calm = self.fetch.not_before.is_none_or(|at| now > at + FETCH_PAUSE_MAX);
        self.fetch.vain = match told {
            Told::News => 0,
            Told::Nothing if calm => 1,
            Told::Nothing => self.fetch.vain + 1,
        };
        let full = (FETCH_PAUSE_MIN * (1 << self.fetch.vain.min(8))).min(FETCH_PAUSE_MAX);
        let at = now + self.chance(full);
        self.fetch.not_before = Some(at);
        self.due(at);
    }

    fn ask_any(&mut self, now: Moment, turn: usize) -> Option<LinkId> {
        let known = self.map.iter().flat_map(|m| m.nodes.values().map(|n| n.address.clone()));
        let mut addresses: Vec<String> = known.collect();
        for address in &self.config.addresses {
            if !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
        let from = turn % addresses.len();
        addresses.rotate_left(from);
        addresses
            .into_iter()
            .find_map(|address| self.link_to(now, &LinkKey { address, engine: 0, lane: 0 }).ok())
    }

    /// The connection that was asked is gone.
    pub(super) fn on_fetch_lost(&mut self, now: Moment, link: LinkId) {
        if self.fetch.is_from(link) {
            self.fetch.asked = None;
            self.tick_fetch(now);
        }
    }

    /// A node can't say where everything is: the next one is asked.
    pub(super) fn on_fetch_refused(&mut self, now: Moment, link: LinkId, why: String) {
        if let Some(link) = self.links.get_mut(&link) {
            link.complaint = Some(why);
        }
        if self.fetch.is_from(link) {
            self.fetch.asked = None;
            self.rest_fetch(now, Told::Nothing);
        }
    }

    /// A node said where everything is.
    pub(super) fn on_map(&mut self, now: Moment, link: LinkId, reply: &TopologyReply<'_>) {
        let map = match Map::read(reply) {
            Ok(map) if map.shards > 0 && !map.nodes.is_empty() => map,
            Ok(_) => {
                let why = String::from("the node knows no cluster yet");
                return self.on_fetch_refused(now, link, why);
            }
            Err(error) => return self.on_fetch_refused(now, link, error.to_string()),
        };
        if let Some(old) = &self.map
            && (old.cluster != map.cluster || old.shards != map.shards)
        {
            return self.on_link_down(now, link, "the node belongs to another cluster");
        }
        self.fetch.asked = None;
        self.fetch.wanted = false;
        let old = self.map.as_ref().filter(|old| **old == map);
        self.rest_fetch(now, if old.is_some() { Told::Nothing } else { Told::News });
        if self.map.as_ref().is_none_or(|old| old.epoch <= map.epoch) {
            self.map = Some(map);
        }
        if let Some((slot, begun, _)) = self.ready.take() {
            let answer =
                Answer { reply: Reply::Ready, tenure: None, granted_at: begun, undo: None };
            self.out.done.push((slot, Ok(answer)));
        }
        self.unpark(now);
    }

    /// Gives up on the first topology at the deadline.
    pub(super) fn tick_ready(&mut self, now: Moment) {
        let Some((slot, begun, until)) = self.ready.take() else { return };
        if now < until {
            self.due(until);
            self.ready = Some((slot, begun, until));
            return;
        }
        let tried = self.config.addresses.iter().map(|address| {
            let silent = || format!("{address}: no answer within {:?}", now.since(begun));
            let complaint = |l: &super::Link| {
                let why = l.complaint.as_ref().filter(|_| l.key.address == *address)?;
                Some(format!("{address}: {why}"))
            };
            let rest = self.rests.get(address).map(|r| r.why.clone());
            rest.or_else(|| self.links.values().find_map(complaint)).unwrap_or_else(silent)
        });
        let tried = tried.collect::<Vec<_>>().join("; ");
        self.out.done.push((slot, Err(Error::Connect { tried })));
    }
}
