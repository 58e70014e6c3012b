//! Where everything is: the topology, who leads a shard, and how it is asked for.

use super::ask::Ask;
use super::links::{Link, LinkKey};
use super::map::Map;
use super::outcome::{Event, Obstacle, Trouble};
use super::time::Moment;
use super::{Core, LinkId, Tried};
use crate::limits::{FETCH_PAUSE_MAX, FETCH_PAUSE_MIN, TOPOLOGY_MAX};
use alloc::sync::Arc;
use alloc::vec::Vec;
use wire::message::TopologyReply;
use wire::topology::engine_of_group;

/// An asking for the topology.
#[derive(Default)]
pub(super) struct Fetch {
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

/// Why there is no way to a shard, and the moment up to which that stays so, if it is known.
pub(super) type NoWay = (Obstacle, Option<Moment>);

impl<A: Ask> Core<A> {
    /// The connection that leads to a shard's leader, made if there is none.
    #[inline]
    pub(super) fn way(&mut self, now: Moment, shard: u32) -> Result<LinkId, NoWay> {
        match self.ways.get(shard as usize) {
            Some(Some(link)) => Ok(*link),
            _ => self.find_way(now, shard),
        }
    }

    fn find_way(&mut self, now: Moment, shard: u32) -> Result<LinkId, NoWay> {
        let key = self.route(shard).map_err(|why| (why, None))?;
        let link = self.link_to(now, &key);
        let link = link.map_err(|until| (Obstacle::Resting(key.address), Some(until)))?;
        self.ways[shard as usize] = Some(link);
        Ok(link)
    }

    /// Where a shard's leader is, or why that is not known.
    fn route(&self, shard: u32) -> Result<LinkKey, Obstacle> {
        let map = self.map.as_ref().ok_or(Obstacle::NoMap)?;
        let leader = map.placement.get(&shard).map_or(0, |p| p.leader);
        let node = map.nodes.get(&leader).ok_or(Obstacle::NoLeader { shard })?;
        let engine = engine_of_group(shard + 1, node.engines);
        let lane = shard / node.engines % self.settings.lanes;
        Ok(LinkKey { address: Arc::from(node.address.as_str()), engine, lane })
    }

    /// Somebody says who leads a shard; `node` 0: it is not known. From now on its calls go there.
    pub fn believe(&mut self, now: Moment, shard: u32, node: u32) {
        let Some(map) = &mut self.map else { return };
        let known = map.nodes.contains_key(&node);
        if let Some(placement) = map.placement.get_mut(&shard) {
            placement.leader = if known { node } else { 0 };
        }
        if let Some(way) = self.ways.get_mut(shard as usize) {
            *way = None;
        }
        if !known {
            self.want_map(now);
        }
    }

    /// The topology is to be asked for, unless that is under way.
    pub(super) fn want_map(&mut self, now: Moment) {
        self.fetch.wanted = true;
        self.tick_fetch(now);
    }

    /// Asks for the topology, if it is time.
    pub(super) fn tick_fetch(&mut self, now: Moment) {
        if let Some((link, at)) = self.fetch.asked {
            if now < at + TOPOLOGY_MAX && self.links.contains(link.0) {
                return self.due(at + TOPOLOGY_MAX);
            }
            self.fetch.asked = None;
        }
        if !self.fetch.wanted {
            return;
        }
        match self.fetch.not_before {
            Some(at) if at > now => self.due(at),
            _ => self.fetch(now),
        }
    }

    /// Asks the next node: in turn one that is connected, and any that is known.
    fn fetch(&mut self, now: Moment) {
        let up = self.links.iter().filter(|(_, link)| link.up);
        let up: Vec<LinkId> = up.map(|(key, _)| LinkId(key)).collect();
        let turn = self.fetch.cursor;
        self.fetch.cursor += 1;
        let chosen = if turn.is_multiple_of(2) && !up.is_empty() {
            Some(up[turn / 2 % up.len()])
        } else {
            self.fetch_from_any(now, turn / 2)
        };
        match chosen {
            Some(link) => {
                self.fetch.asked = Some((link, now));
                self.due(now + TOPOLOGY_MAX);
                if self.links[link.0].up {
                    self.send_fetch(now, link);
                }
            }
            None => self.rest_fetch(now, Told::Nothing),
        }
    }

    fn fetch_from_any(&mut self, now: Moment, turn: usize) -> Option<LinkId> {
        let known = self.map.iter().flat_map(|m| m.nodes.values());
        let mut addresses: Vec<Arc<str>> =
            known.map(|node| Arc::from(node.address.as_str())).collect();
        for address in &self.settings.addresses {
            if !addresses.contains(address) {
                addresses.push(Arc::clone(address));
            }
        }
        let from = turn % addresses.len();
        addresses.rotate_left(from);
        addresses
            .into_iter()
            .find_map(|address| self.link_to(now, &LinkKey { address, engine: 0, lane: 0 }).ok())
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
        let at = now + self.chance.part_of(full);
        self.fetch.not_before = Some(at);
        self.due(at);
    }

    /// The connection that was asked is gone.
    pub(super) fn on_fetch_lost(&mut self, now: Moment, link: LinkId) {
        if self.fetch.is_from(link) {
            self.fetch.asked = None;
            self.tick_fetch(now);
        }
    }

    /// A node can't say where everything is: the next one is asked.
    pub(super) fn on_fetch_refused(&mut self, now: Moment, link: LinkId, why: Trouble) {
        if let Some(link) = self.links.get_mut(link.0) {
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
            Ok(_) => return self.on_fetch_refused(now, link, Trouble::NoCluster),
            Err(error) => return self.on_fetch_refused(now, link, Trouble::Malformed(error)),
        };
        if let Some(old) = &self.map
            && (old.cluster != map.cluster || old.shards != map.shards)
        {
            return self.break_off(now, link, Trouble::OtherCluster);
        }
        self.fetch.asked = None;
        self.fetch.wanted = false;
        let same = self.map.as_ref().is_some_and(|old| *old == map);
        self.rest_fetch(now, if same { Told::Nothing } else { Told::News });
        if self.map.as_ref().is_none_or(|old| old.epoch <= map.epoch) {
            self.ways.clear();
            self.ways.resize(map.shards as usize, None);
            self.map = Some(map);
        }
        if self.unready.take().is_some() {
            self.event(Event::Ready);
        }
        self.unpark(now);
    }

    /// Gives up on the first topology at the deadline.
    pub(super) fn tick_ready(&mut self, now: Moment) {
        let Some((begun, until)) = self.unready else { return };
        if now < until {
            return self.due(until);
        }
        self.unready = None;
        let tried = self.settings.addresses.iter().map(|address| {
            let complaint = |(_, link): (_, &Link)| {
                link.complaint.clone().filter(|_| link.key.address == *address)
            };
            let rest = self.rests.get(address).map(|rest| rest.why.clone());
            let why = rest.or_else(|| self.links.iter().find_map(complaint));
            (Arc::clone(address), why.unwrap_or(Trouble::NoAnswer(now.since(begun))))
        });
        let tried: Tried = tried.collect();
        self.event(Event::Unreached { tried });
    }
}
