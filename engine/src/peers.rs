//! What an engine knows of its twins on the other nodes: whom it reaches, what they know, whether they seem
//! dead, and how their clocks go.
//!
//! Each tells the others something ten times a second ([`wire::peer::Pulse`]), whatever its groups do. When it comes
//! says how alive the twin is ([`Suspicion`]); what it carries says how its clock goes ([`Drift`]).
//!
//! - A twin that is suspected is not handed a group. Nothing is done sooner because of it: elections keep to their
//!   timeouts.
//! - Leases count on clocks that run at nearly the same rate (see [`raft`](crate::raft)). Once one is seen to differ by
//!   nearly what a lease bears, reads ask a majority instead, for [`DISTRUST`] at least.

mod drift;
mod suspicion;

use crate::effects::{Effects, Note};
use crate::ids::NodeId;
use crate::level::Level;
use crate::raft::ReadMode;
use crate::status::TwinStatus;
use crate::time::{Duration, Time};
use alloc::collections::{BTreeMap, BTreeSet};
use drift::Drift;
use suspicion::Suspicion;
use wire::Header;
use wire::peer::Pulse;

/// How often the twins are told something.
const PULSE_EVERY: Duration = Duration::from_millis(100);
/// From this suspicion on a twin is taken for dead where there is a choice: wrong once in 10^8.
const SUSPECTED: f64 = 8.0;
/// Clocks may differ in rate by so much, in millionths. A lease of nine tenths of the shortest election timeout bears a
/// ninth, that is 111,111.
const DRIFT_PPM_MAX: u64 = 100_000;
/// An election takes two round trips, and a heartbeat half of one: with fewer of them in the shortest election timeout
/// followers campaign against leaders that are well.
const ROUND_TRIPS_MIN: u32 = 4;
/// So many words in a row took as long before that is believed: ten a second are said.
const LONG_WAYS_MIN: u32 = 20;
/// How often it is told.
const LONG_WAY_TOLD_EVERY: Duration = Duration::from_secs(60);
/// How long clocks are not trusted after one was seen to drift.
const DISTRUST: Duration = Duration::from_secs(60);

/// The twins.
#[derive(Default)]
pub(crate) struct Peers {
    /// Those to whom a link stands.
    pub linked: BTreeSet<NodeId>,
    /// Those that are taken for dead.
    pub suspected: BTreeSet<NodeId>,
    twins: BTreeMap<NodeId, Twin>,
    /// When they are told something next.
    pulse_at: Option<Time>,
    /// Until then clocks are not trusted: one was seen to drift.
    distrust_until: Option<Time>,
    /// Until then nobody is told again that the way to a twin is long.
    long_way_told_until: Option<Time>,
}

/// One of them.
#[derive(Default)]
struct Twin {
    /// What it says that it knows.
    level: Option<Level>,
    /// Its stamp that was heard last, and when.
    heard: Option<(u64, Time)>,
    round_trip: Option<Duration>,
    /// How many words in a row took too long, and how long the fastest of them took.
    long_ways: (u32, Duration),
    suspicion: Suspicion,
    drift: Drift,
}

impl Twin {
    /// How long the way is, if it was too long for this election timeout for a while. One word that waits somewhere
    /// says nothing.
    fn long_way(&mut self, timeout_min: Duration) -> Option<Duration> {
        let round_trip = self.round_trip.filter(|it| *it * ROUND_TRIPS_MIN > timeout_min);
        let (count, fastest) = self.long_ways;
        self.long_ways = match round_trip {
            Some(long) if count > 0 => (count.saturating_add(1), fastest.min(long)),
            Some(long) => (1, long),
            None => (0, Duration::ZERO),
        };
        (self.long_ways.0 >= LONG_WAYS_MIN).then_some(self.long_ways.1)
    }
}

impl Peers {
    /// A link stands. What an earlier one brought says nothing any more, but how long the twin is silent.
    pub fn link(&mut self, now: Time, node: NodeId) {
        self.linked.insert(node);
        self.pulse_at = Some(now);
        let twin = self.twins.entry(node).or_default();
        *twin = Twin { suspicion: core::mem::take(&mut twin.suspicion), ..Twin::default() };
        twin.suspicion.begin(now);
    }

    /// The link is gone. One that is a node of the cluster is missed.
    pub fn unlink(&mut self, node: NodeId, is_node: bool) {
        self.linked.remove(&node);
        match self.twins.get_mut(&node) {
            Some(twin) if is_node => (twin.level, twin.heard) = (None, None),
            _ => _ = self.twins.remove(&node),
        }
    }

    /// These are the cluster's nodes now. A link may stand before its node is one of them.
    pub fn retain(&mut self, is_node: impl Fn(NodeId) -> bool) {
        self.twins.retain(|node, _| is_node(*node) || self.linked.contains(node));
        self.suspected.retain(|node| is_node(*node));
    }

    /// A linked twin says what it knows.
    pub fn on_level(&mut self, node: NodeId, level: Level) {
        if let Some(twin) = self.twins.get_mut(&node).filter(|_| self.linked.contains(&node)) {
            twin.level = Some(level);
        }
    }

    /// The newest feature level that a twin knows.
    pub fn level(&self, node: NodeId) -> Level {
        self.twins.get(&node).and_then(|twin| twin.level).unwrap_or(Level::OLDEST)
    }

    /// A twin told something.
    pub fn on_pulse(
        &mut self,
        now: Time,
        node: NodeId,
        pulse: &Pulse,
        timeout_min: Duration,
        effects: &mut Effects,
    ) {
        let Some(twin) = self.twins.get_mut(&node).filter(|_| self.linked.contains(&node)) else {
            return;
        };
        twin.suspicion.heard(now);
        twin.heard = twin.heard.max(Some((pulse.sent_at, now)));
        if pulse.echo == 0 || pulse.echo > now.0 {
            return;
        }
        let round_trip = (now.0 - pulse.echo).saturating_sub(pulse.held);
        twin.round_trip = Some(Duration::from_nanos(round_trip));
        if let Some(round_trip) = twin.long_way(timeout_min)
            && self.long_way_told_until.is_none_or(|until| until <= now)
        {
            self.long_way_told_until = Some(now + LONG_WAY_TOLD_EVERY);
            effects.notes.push(Note::LongWay { node, round_trip, timeout_min });
        }
        twin.drift.sample(now, pulse.sent_at, round_trip, pulse.held);
        let Some(rate) = twin.drift.exceeds(DRIFT_PPM_MAX) else { return };
        if self.distrust_until.is_none_or(|until| until < now) {
            effects.notes.push(Note::ClockDrift { node, ppm: rate });
        }
        self.distrust_until = Some(now + DISTRUST);
    }

    /// Tells the twins something, if that is due, and looks who is taken for dead.
    pub fn pulse(&mut self, now: Time, effects: &mut Effects) {
        if self.pulse_at.is_none_or(|at| now < at) {
            return;
        }
        let every = u64::try_from(PULSE_EVERY.as_nanos()).expect("it is short");
        // All nodes' groups beat on such multiples too: then one turn does for both.
        self.pulse_at = Some(Time((now.0 / every + 1) * every)).filter(|_| !self.twins.is_empty());
        for node in &self.linked {
            let (echo, heard_at) =
                self.twins.get(node).and_then(|twin| twin.heard).unwrap_or((0, now));
            let held = now.0 - heard_at.0;
            let pulse = Pulse { sent_at: now.0, echo, held };
            let header = Header::new(Pulse::KIND, 0);
            wire::frame(effects.peers.to(node.0), &header, |b| pulse.encode(b));
        }
        let dead = self.twins.iter().filter(|(_, twin)| twin.suspicion.phi(now) >= SUSPECTED);
        self.suspected = dead.map(|(node, _)| *node).collect();
    }

    /// When that is due.
    pub fn wake_at(&self) -> Time {
        self.pulse_at.unwrap_or(Time::MAX)
    }

    /// How reads are made when `configured` asks for it: by lease only as long as clocks are trusted.
    pub fn reads(&self, now: Time, configured: ReadMode) -> ReadMode {
        let drifts = self.distrust_until.is_some_and(|until| now < until);
        if drifts { ReadMode::ReadIndex } else { configured }
    }

    /// Each twin, for people.
    pub fn status(&self, now: Time) -> impl Iterator<Item = TwinStatus> {
        self.twins.iter().map(move |(node, twin)| TwinStatus {
            node: *node,
            linked: self.linked.contains(node),
            phi: twin.suspicion.phi(now),
            round_trip: twin.round_trip,
            drift_ppm: twin.drift.ppm(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told while a twin at that distance says something ten times a second, for so many words.
    fn told(peers: &mut Peers, from: u64, words: u64, way_ms: u64) -> usize {
        let mut effects = Effects::default();
        for word in from..from + words {
            let now = Time((word + 1) * 100_000_000);
            let pulse = Pulse { sent_at: now.0, echo: now.0 - way_ms * 1_000_000, held: 0 };
            peers.on_pulse(now, NodeId(2), &pulse, Duration::from_millis(150), &mut effects);
        }
        let long = |note: &&Note| matches!(note, Note::LongWay { .. });
        effects.notes.iter().filter(long).count()
    }

    #[test]
    fn a_way_that_is_too_long_for_the_timeouts_is_told_once_a_minute() {
        let mut peers = Peers::default();
        peers.link(Time(1), NodeId(2));
        assert_eq!(told(&mut peers, 0, 100, 30), 0, "five of them fit");
        assert_eq!(told(&mut peers, 100, 19, 90), 0, "that may be chance");
        assert_eq!(told(&mut peers, 119, 1, 90), 1);
        assert_eq!(told(&mut peers, 120, 590, 90), 0, "it was told less than a minute ago");
        assert_eq!(told(&mut peers, 710, 20, 90), 1);
        assert_eq!(
            peers.status(Time(1)).next().unwrap().round_trip,
            Some(Duration::from_millis(90))
        );
    }

    #[test]
    fn what_a_linked_twin_says_counts_even_if_it_becomes_a_node_only_later() {
        let (mut peers, newcomer) = (Peers::default(), NodeId(4));
        peers.link(Time(1), newcomer);
        peers.retain(|node| node != newcomer);
        peers.on_level(newcomer, Level::NEWEST);
        peers.retain(|_| true);
        assert_eq!(peers.level(newcomer), Level::NEWEST);
        assert!(peers.wake_at() < Time::MAX, "it is told something");
    }

    #[test]
    fn a_twin_is_forgotten_once_it_is_neither_a_node_nor_linked() {
        let (mut peers, stranger) = (Peers::default(), NodeId(4));
        peers.link(Time(1), stranger);
        peers.unlink(stranger, true);
        assert_eq!(peers.status(Time(1)).count(), 1, "a node is missed");
        peers.retain(|node| node != stranger);
        assert_eq!(peers.status(Time(1)).count(), 0);
        peers.link(Time(1), stranger);
        peers.unlink(stranger, false);
        assert_eq!(peers.status(Time(1)).count(), 0);
    }
}
