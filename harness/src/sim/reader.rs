//! Somebody watches where everything is, at one node after the other, and reads slowly.
//!
//! What the reader knows once it has read a push must be what the node knew when it sent it. While it has credit it is
//! told within a look; beyond its credit it is told nothing. It comes back with its cursor, to the same node or to
//! another, and must then be told what changed meanwhile.

use super::seats::SeatId;
use super::{Event, Failure, Incoming, World};
use engine::engine::{Engine, LOOK_EVERY};
use engine::ids::ConnId;
use engine::time::{Duration, Time};
use std::collections::{BTreeMap, VecDeque};
use wire::frames::Frame;
use wire::limits::FRAME_BYTES_MAX;
use wire::message::{Error, PushesRead, TopologyPush, Watch, Watching};
use wire::random::Random;
use wire::topology::{read_placement, write_placement};
use wire::{Header, Kind};

/// The connections of whoever watches: an index that no client has.
pub(super) const READER: u32 = 903;
/// Somebody watches in one seed of so many.
const WATCHED_ONE_IN: u64 = 8;
/// The request that subscribes.
const SUBSCRIPTION: u64 = 1;
/// A turn that comes so much later than it was wished for is not late.
const TURN_LATE_MAX: Duration = Duration::from_millis(1);

/// What is known of where everything is: the nodes' rows, and each shard's.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
struct View {
    nodes: Vec<u8>,
    placement: BTreeMap<u32, Vec<u8>>,
}

impl View {
    fn of(engine: &Engine) -> View {
        let rows = (0..engine.shard_count()).map(|shard| (shard, engine.placement_row(shard)));
        View { nodes: engine.node_rows(), placement: rows.collect() }
    }

    fn on_push(&mut self, push: &TopologyPush<'_>) -> Result<(), String> {
        if push.whole == 1 {
            *self = View::default();
        }
        if !push.nodes.is_empty() {
            self.nodes = push.nodes.to_vec();
        }
        for row in read_placement(push.placement).map_err(|e| e.to_string())? {
            let mut bytes = Vec::new();
            write_placement(&row, &mut bytes);
            self.placement.insert(row.shard, bytes);
        }
        Ok(())
    }
}

/// A subscription, as the node that serves it must see it.
struct Subscription {
    at: SeatId,
    life: u64,
    conn: ConnId,
    credit: usize,
    /// Whether the node knows of it.
    stands: bool,
    /// What the reader knows when it has read all that was sent.
    view: View,
    sent: u64,
    unread: VecDeque<u64>,
    /// Since when there is something to be told, by the node's clock.
    behind_since: Option<Time>,
    /// Nothing arrives before what was sent earlier.
    arrives: Time,
}

/// Whoever watches.
pub(super) struct Reader {
    chance: Random,
    subscription: Option<Subscription>,
    generation: u32,
    /// What it knew at each cursor.
    known: BTreeMap<u64, View>,
    /// The last that it read.
    cursor: u64,
    /// How many it was sent.
    pub(super) pushes: u64,
}

impl Reader {
    pub(super) fn new(seed: u64) -> Reader {
        let chance = Random::new(seed ^ 0x7265_6164_6572_7300);
        let (known, cursor, pushes) = (BTreeMap::new(), 0, 0);
        Reader { chance, subscription: None, generation: 0, known, cursor, pushes }
    }

    /// Whether anybody watches with this seed.
    pub(super) fn watches(seed: u64) -> bool {
        seed % WATCHED_ONE_IN == 2
    }

    /// An engine takes a frame in, perhaps the reader's.
    pub(super) fn on_request(&mut self, at: SeatId, conn: ConnId, frame: &Frame<'_>) {
        let is_it = |s: &&mut Subscription| (s.at, s.conn) == (at, conn);
        let Some(subscription) = self.subscription.as_mut().filter(is_it) else { return };
        if frame.header.kind == PushesRead::KIND
            && let Ok(read) = PushesRead::decode(frame.body)
        {
            while subscription.unread.front().is_some_and(|first| *first <= read.cursor) {
                subscription.unread.pop_front();
            }
        }
    }

    /// An engine sends something to the reader. Says on which connection, and when it arrives at the earliest.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn on_sent(
        &mut self,
        (at, life): (SeatId, u64),
        engine: &Engine,
        mut bytes: &[u8],
    ) -> Result<Option<(u32, Time)>, String> {
        let of_it = |s: &&mut Subscription| (s.at, s.life) == (at, life);
        let Some(subscription) = self.subscription.as_mut().filter(of_it) else { return Ok(None) };
        while let Ok(Some(frame)) = wire::split(bytes, FRAME_BYTES_MAX) {
            bytes = &bytes[frame.used..];
            match frame.header.kind {
                Watching::KIND => {
                    let watching = Watching::decode(frame.body).map_err(|e| e.to_string())?;
                    if frame.header.request == SUBSCRIPTION {
                        subscription.stands = true;
                        subscription.sent = watching.cursor;
                        let known = self.known.get(&watching.cursor);
                        subscription.view = known.cloned().unwrap_or_default();
                    }
                }
                TopologyPush::KIND => {
                    let push = TopologyPush::decode(frame.body).map_err(|e| e.to_string())?;
                    self.pushes += 1;
                    if subscription.unread.len() >= subscription.credit {
                        return Err("a reader is pushed more than it has credit for".into());
                    }
                    if push.cursor <= subscription.sent && push.whole == 0 {
                        return Err("a push's cursor does not rise".into());
                    }
                    subscription.view.on_push(&push)?;
                    if subscription.view != View::of(engine) {
                        let (told, is) = (&subscription.view, View::of(engine));
                        return Err(format!("a push tells {told:?}, but the node knows {is:?}"));
                    }
                    subscription.sent = push.cursor;
                    subscription.unread.push_back(push.cursor);
                    self.known.insert(push.cursor, subscription.view.clone());
                }
                Error::KIND => return Err("a reader is refused".into()),
                _ => {}
            }
        }
        Ok(Some((subscription.conn.generation, subscription.arrives)))
    }

    /// A turn of an engine ended.
    ///
    /// # Errors
    /// When the reader should have been told something by now.
    pub(super) fn on_turn(
        &mut self,
        (at, life): (SeatId, u64),
        now: Time,
        engine: &Engine,
    ) -> Result<(), String> {
        let of_it = |s: &&mut Subscription| (s.at, s.life) == (at, life);
        let Some(subscription) = self.subscription.as_mut().filter(of_it) else { return Ok(()) };
        let has_credit = subscription.stands && subscription.unread.len() < subscription.credit;
        if !has_credit || subscription.view == View::of(engine) {
            subscription.behind_since = None;
            return Ok(());
        }
        let since = *subscription.behind_since.get_or_insert(now);
        if now.since(since) > LOOK_EVERY + TURN_LATE_MAX {
            return Err(format!("node {}: a reader is told too late", at.node + 1));
        }
        Ok(())
    }
}

impl World {
    /// Somebody watches at some node, from where it left off.
    pub(super) fn subscribe(&mut self) {
        let again = Duration::from_millis(self.reader.chance.u64(50..400));
        self.plan(again, Event::Subscribe);
        let stands = self.reader.subscription.as_ref();
        let stands = stands.is_some_and(|s| self.nodes[s.at.node as usize].life == s.life);
        if stands && self.reader.chance.u32(..4) > 0 {
            return;
        }
        if let Some(Subscription { at, conn, .. }) = self.reader.subscription.take() {
            self.deliver(at, Incoming::Closed(conn));
        }
        let reader = &mut self.reader;
        let node = reader.chance.u32(..self.nodes.len() as u32);
        let engine = match self.layout.engines {
            1 => 0,
            engines => reader.chance.u32(..engines),
        };
        let at = SeatId { node, engine };
        if self.nodes[node as usize].seats[engine as usize].engine.is_none() {
            return;
        }
        reader.generation += 1;
        let conn = ConnId { index: READER, generation: reader.generation };
        let (life, credit) = (self.nodes[node as usize].life, reader.chance.u32(1..4));
        reader.subscription = Some(Subscription {
            at,
            life,
            conn,
            credit: credit as usize,
            stands: false,
            view: View::default(),
            sent: 0,
            unread: VecDeque::new(),
            behind_since: None,
            arrives: self.now,
        });
        let cursor = reader.cursor;
        self.deliver(at, Incoming::Opened(conn));
        self.send_as_reader(Duration::ZERO, SUBSCRIPTION, Watch::KIND, |b| {
            Watch { cursor, credit }.encode(b);
        });
    }

    fn send_as_reader(
        &mut self,
        after: Duration,
        request: u64,
        kind: Kind,
        body: impl FnOnce(&mut Vec<u8>),
    ) {
        let Some(Subscription { at, life, conn, .. }) = self.reader.subscription else { return };
        let mut frame = Vec::new();
        wire::frame(&mut frame, &Header::new(kind, request), body);
        let takes = after + self.delay();
        self.plan(takes, Event::Request { to: at, conn, life, frame });
    }

    /// An engine's bytes are on their way to the reader.
    pub(super) fn send_to_reader(
        &mut self,
        from: SeatId,
        bytes: Vec<u8>,
        (generation, earliest): (u32, Time),
    ) {
        let at = (self.now + self.delay()).max(earliest);
        if let Some(subscription) = self.reader.subscription.as_mut().filter(|s| s.at == from) {
            subscription.arrives = at;
        }
        self.plan(at.since(self.now), Event::Pushed { generation, bytes });
    }

    /// They arrive.
    pub(super) fn on_pushed(&mut self, generation: u32, mut bytes: &[u8]) -> Result<(), Failure> {
        if self.reader.subscription.as_ref().is_none_or(|s| s.conn.generation != generation) {
            return Ok(());
        }
        while let Ok(Some(frame)) = wire::split(bytes, FRAME_BYTES_MAX) {
            bytes = &bytes[frame.used..];
            if frame.header.kind != TopologyPush::KIND {
                continue;
            }
            let push = TopologyPush::decode(frame.body);
            let push = push.map_err(|e| Failure::Safety(e.to_string()))?;
            self.reader.cursor = push.cursor;
            let after = Duration::from_millis(self.reader.chance.u64(..200));
            let (subscription, cursor) = (SUBSCRIPTION, push.cursor);
            self.send_as_reader(after, 2, PushesRead::KIND, |b| {
                PushesRead { subscription, cursor }.encode(b);
            });
        }
        Ok(())
    }
}
