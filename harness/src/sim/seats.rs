//! Seats: the engines of the nodes. A node has several in a part of the seeds, and the cluster more shards than that.
//!
//! Engines of one node fall and start together and share clock, build and manifest. Each has its own journal, inbox
//! and links: engine k speaks to engine k. What one learns that concerns the others it tells them ([`News`]), and that
//! arrives later, in order.

use super::disk::Disk;
use super::{Event, Incoming, Shape, World};
use engine::effects::{Effects, News};
use engine::engine::Engine;
use engine::ids::{GroupId, Incarnation};
use engine::time::{Duration, Time};
use std::iter;
use wire::random::Random;
use wire::topology::engine_of_group;

/// Engines of a node, at most.
const ENGINES_MAX: u32 = 3;
/// Shards of the simulated cluster, at most.
pub(super) const SHARDS_MAX: u32 = 5;
/// Shards where a node has one engine.
const SHARDS_MIN: u32 = 2;
/// A node has several engines in two seeds of so many.
const SEVERAL_TWO_IN: u64 = 5;
/// The longest that news takes from one engine to another, but for one in so many that is late.
const NEWS_MICROS_MAX: u64 = 100;
const NEWS_LATE_ONE_IN: u32 = 20;
const NEWS_LATE_MICROS_MAX: u64 = 20_000;
/// One frame of so many from one engine of a node to another is lost.
const ACROSS_LOST_ONE_IN: u32 = 20;

/// An engine of a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct SeatId {
    pub(super) node: u32,
    pub(super) engine: u32,
}

/// How many engines each node has, and how many shards the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Layout {
    pub(super) engines: u32,
    pub(super) shards: u32,
}

impl Layout {
    /// The seed's.
    pub(super) fn of(seed: u64, shape: Shape) -> Layout {
        let mut chance = Random::new(seed ^ 0x6c61_796f_7574_0000);
        let engines = match (shape, seed % SEVERAL_TWO_IN) {
            (Shape::Drawn, 2) => 2,
            (Shape::Drawn, 4) => chance.u32(2..=ENGINES_MAX),
            _ => return Layout { engines: 1, shards: SHARDS_MIN },
        };
        Layout { engines, shards: chance.u32(engines + 1..=SHARDS_MAX) }
    }

    /// Every group.
    pub(super) fn groups(self) -> impl Iterator<Item = GroupId> {
        (0..=self.shards).map(GroupId)
    }

    /// The engine of a node that keeps a group, if the node does.
    pub(super) fn seat(self, node: u32, group: GroupId) -> SeatId {
        SeatId { node, engine: engine_of_group(group.0, self.engines) }
    }

    /// The engines of a node.
    pub(super) fn seats_of(self, node: u32) -> impl Iterator<Item = SeatId> {
        (0..self.engines).map(move |engine| SeatId { node, engine })
    }

    /// Some engine of a node. Nothing is drawn where there is one.
    pub(super) fn draw_engine(self, chance: &mut Random) -> u32 {
        if self.engines == 1 { 0 } else { chance.u32(..self.engines) }
    }

    /// The groups that an engine keeps, where they are kept.
    pub(super) fn groups_of(self, seat: SeatId) -> impl Iterator<Item = GroupId> {
        self.groups().filter(move |group| self.seat(seat.node, *group) == seat)
    }
}

/// An engine, and what it has for itself.
pub(super) struct Seat {
    pub(super) engine: Option<Engine>,
    /// In a box: it is taken out and put back in every turn.
    pub(super) effects: Option<Box<Effects>>,
    pub(super) disk: Disk,
    pub(super) inbox: Vec<Incoming>,
    /// When its next turn is.
    pub(super) turn_at: Time,
    /// It takes no turn before this moment.
    pub(super) paused_until: Time,
    /// The lives of its replicas, if a bit of its disk is rotten.
    pub(super) rotten: Option<Vec<(GroupId, Incarnation)>>,
    /// Whether it was damaged and begun anew: then it founds nothing, whoever its node is.
    pub(super) renewed: bool,
    /// When the last news for it arrives: none overtakes another.
    news_at: Time,
}

impl Seat {
    /// The engines of a node. What the first one draws does not depend on how many there are.
    pub(super) fn of_node(
        layout: Layout,
        (first, others): (&mut Random, &mut Random),
        segment_bytes: u64,
    ) -> Vec<Seat> {
        let seeds = iter::once(first.u64(..)).chain((1..layout.engines).map(|_| others.u64(..)));
        seeds.map(|seed| Seat::new(Disk::new(seed, segment_bytes))).collect()
    }

    fn new(disk: Disk) -> Seat {
        Seat {
            engine: None,
            effects: Some(Box::default()),
            disk,
            inbox: Vec::new(),
            turn_at: Time::MAX,
            paused_until: Time(0),
            rotten: None,
            renewed: false,
            news_at: Time(0),
        }
    }
}

impl World {
    pub(super) fn seat(&self, at: SeatId) -> &Seat {
        &self.nodes[at.node as usize].seats[at.engine as usize]
    }

    pub(super) fn seat_mut(&mut self, at: SeatId) -> &mut Seat {
        &mut self.nodes[at.node as usize].seats[at.engine as usize]
    }

    /// The engine at a seat, while it runs.
    pub(super) fn engine(&self, at: SeatId) -> Option<&Engine> {
        self.seat(at).engine.as_ref()
    }

    /// Whether a node runs.
    pub(super) fn is_up(&self, node: u32) -> bool {
        self.nodes[node as usize].seats.iter().any(|seat| seat.engine.is_some())
    }

    /// Every engine that runs, and where.
    pub(super) fn engines(&self) -> impl Iterator<Item = (SeatId, &Engine)> {
        let seats = self.all().flat_map(|node| self.layout.seats_of(node));
        seats.filter_map(|at| Some((at, self.engine(at)?)))
    }

    /// An engine tells the others of its node what it learned.
    pub(super) fn tell_siblings(&mut self, from: SeatId, news: &News) {
        let life = self.nodes[from.node as usize].life;
        for to in self.layout.seats_of(from.node).filter(|to| *to != from) {
            let takes = self.way_to_sibling();
            let at = (self.now + takes).max(self.seat(to).news_at) + Duration::from_nanos(1);
            self.seat_mut(to).news_at = at;
            let news = news.clone();
            self.plan(at.since(self.now), Event::News { to, life, news });
        }
    }

    /// An engine sends a frame to another of its node. It may be lost, and overtake others.
    pub(super) fn send_across(&mut self, from: SeatId, engine: u32, frame: Vec<u8>) {
        let life = self.nodes[from.node as usize].life;
        let (to, takes) = (SeatId { engine, ..from }, self.way_to_sibling());
        let is_lost = self.siblings.u32(..ACROSS_LOST_ONE_IN) == 0;
        if !is_lost || !self.is_faulty() {
            self.plan(takes, Event::Across { to, life, frame });
        }
    }

    /// Something of another engine of the node arrives, unless the node was started anew.
    pub(super) fn arrive(&mut self, to: SeatId, life: u64, incoming: Incoming) {
        if self.nodes[to.node as usize].life == life {
            self.deliver(to, incoming);
        }
    }

    /// How long something takes from one engine of a node to another.
    fn way_to_sibling(&mut self) -> Duration {
        let late = self.siblings.u32(..NEWS_LATE_ONE_IN) == 0;
        let most = if late { NEWS_LATE_MICROS_MAX } else { NEWS_MICROS_MAX };
        Duration::from_micros(self.siblings.u64(1..most))
    }
}
