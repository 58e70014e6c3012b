//! Somebody watches where everything is, at one engine after the other, and reads slowly.
//!
//! What the reader knows once it has read a push must be what the engine knew when it sent it. While it has credit it is
//! told within a look; beyond its credit it is told nothing. It comes back with its cursor, to the same node or to
//! another, and must then be told what changed meanwhile.
//!
//! Now and then it stops reading. Then it must be cut off once it has read nothing for as long as the protocol says while
//! more waited, and not before; and it comes back to the same engine, which must go on from its cursor.

use super::seats::SeatId;
use super::{Event, Failure, Incoming, World};
use engine::engine::{Engine, LOOK_EVERY};
use engine::ids::ConnId;
use engine::time::{Duration, Time, millis};
use std::collections::{BTreeMap, VecDeque};
use wire::frames::Frame;
use wire::limits::{FRAME_BYTES_MAX, PUSH_READ_MS_MAX};
use wire::message::{Error, PushesRead, TopologyPush, Watch, Watching};
use wire::random::Random;
use wire::topology::{read_placement, write_placement};
use wire::{Code, Header, Kind};

/// The connections of whoever watches: an index that no client has.
pub(super) const READER: u32 = 903;
/// Somebody watches in one seed of so many.
const WATCHED_ONE_IN: u64 = 8;
/// The request that says what was read.
const READ: u64 = 1;
/// A turn that comes so much later than it was wished for is not late.
const TURN_LATE_MAX: Duration = Duration::from_millis(1);
/// Who watches stops reading in one subscription of so many.
const STOPS_ONE_IN: u32 = 6;
/// How long before the faults end it may stop reading.
const STOPS_BEFORE_END: Duration = Duration::from_millis(600);
/// It stops reading when the faults end, in half of the seeds with which somebody watches.
const STOPS_AT_END_ONE_IN: u64 = 2 * WATCHED_ONE_IN;

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

/// A subscription, as the engine that serves it must see it.
struct Subscription {
    at: SeatId,
    life: u64,
    conn: ConnId,
    credit: usize,
    /// Whether the engine knows of it.
    stands: bool,
    /// What the reader knows when it has read all that was sent.
    view: View,
    sent: u64,
    unread: VecDeque<u64>,
    /// Since when there is something to be told, by the node's clock.
    behind_since: Option<Time>,
    reads: Reads,
    /// Since when something waits for it to read, by the node's clock; and since when without a break.
    stuck_since: Option<Time>,
    stuck_still_since: Option<Time>,
    /// The first turn by which the engine must have seen that.
    stuck_seen_by: Option<Time>,
    /// Nothing arrives before what was sent earlier.
    arrives: Time,
}

/// The request that subscribes on a connection.
fn subscription_of(conn: ConnId) -> u64 {
    READ + u64::from(conn.generation)
}

/// Whether a reader reads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reads {
    All,
    /// It stopped, and is not cut off yet.
    Nothing,
    /// The engine cut it off.
    CutOff,
    /// It knows that it was.
    Knows,
}

/// Whoever watches.
pub(super) struct Reader {
    chance: Random,
    subscription: Option<Subscription>,
    generation: u32,
    /// What it knew at each cursor.
    known: BTreeMap<u64, View>,
    /// The last that it read, and which engine's life sent it.
    cursor: u64,
    cursor_of: Option<(SeatId, u64)>,
    /// What the engine that serves it knew when it sent something: at the end of a turn, before it went on with its work.
    knew: View,
    /// How many it was sent.
    pub(super) pushes: u64,
    /// How often it was cut off.
    pub(super) cut_off: u64,
}

impl Reader {
    pub(super) fn new(seed: u64) -> Reader {
        let chance = Random::new(seed ^ 0x7265_6164_6572_7300);
        let (known, subscription, cursor_of) = (BTreeMap::new(), None, None);
        let (generation, cursor, pushes, cut_off) = (0, 0, 0, 0);
        let knew = View::default();
        Reader { chance, subscription, generation, known, cursor, cursor_of, knew, pushes, cut_off }
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

    /// An engine has taken in what came, and is about to send what it says.
    pub(super) fn on_end_of_turn(&mut self, (at, life): (SeatId, u64), engine: &Engine) {
        if self.subscription.as_ref().is_some_and(|s| (s.at, s.life) == (at, life)) {
            self.knew = View::of(engine);
        }
    }

    /// An engine sends something to the reader. Says on which connection, and when it arrives at the earliest.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn on_sent(
        &mut self,
        (at, life): (SeatId, u64),
        now: Time,
        mut bytes: &[u8],
    ) -> Result<Option<(u32, Time)>, String> {
        let of_it = |s: &&mut Subscription| (s.at, s.life) == (at, life);
        let Some(subscription) = self.subscription.as_mut().filter(of_it) else { return Ok(None) };
        while let Ok(Some(frame)) = wire::split(bytes, FRAME_BYTES_MAX) {
            bytes = &bytes[frame.used..];
            match frame.header.kind {
                Watching::KIND => {
                    let watching = Watching::decode(frame.body).map_err(|e| e.to_string())?;
                    // An engine that stood still answers an earlier subscription in the turn in which it hears of this one.
                    if frame.header.request == subscription_of(subscription.conn) {
                        let same_life = self.cursor_of == Some((at, life));
                        if same_life && watching.cursor != self.cursor {
                            return Err("a reader does not go on from its cursor".into());
                        }
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
                    if subscription.view != self.knew {
                        let (told, is) = (&subscription.view, &self.knew);
                        return Err(format!("a push tells {told:?}, but the engine knows {is:?}"));
                    }
                    subscription.sent = push.cursor;
                    subscription.unread.push_back(push.cursor);
                    self.known.insert(push.cursor, subscription.view.clone());
                }
                Error::KIND => {
                    subscription.is_cut_off(now, &frame)?;
                    self.cut_off += 1;
                }
                _ => {}
            }
        }
        Ok(Some((subscription.conn.generation, subscription.arrives)))
    }

    /// A turn of an engine ended.
    ///
    /// # Errors
    /// When the reader should have been told something by now.
    pub(super) fn on_turn(&mut self, (at, life): (SeatId, u64), now: Time) -> Result<(), String> {
        let of_it = |s: &&mut Subscription| (s.at, s.life) == (at, life);
        let Some(subscription) = self.subscription.as_mut().filter(of_it) else { return Ok(()) };
        let has_credit = subscription.stands && subscription.unread.len() < subscription.credit;
        let knows_all = subscription.view == self.knew;
        if subscription.is_stuck_too_long(now, has_credit || knows_all) {
            return Err(format!(
                "node {}: a reader that reads nothing is not cut off",
                at.node + 1
            ));
        }
        if !has_credit || knows_all {
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

impl Subscription {
    /// The engine ended the subscription: it must have waited for long enough.
    fn is_cut_off(&mut self, now: Time, frame: &Frame<'_>) -> Result<(), String> {
        let error = Error::decode(frame.body).map_err(|e| e.to_string())?;
        let is_it = frame.header.request == subscription_of(self.conn);
        if Code::from_number(error.code) != Some(Code::PushesUnread) || !is_it {
            return Err(format!("a reader is refused: {}", error.code));
        }
        let waited = self.stuck_since.map_or(Duration::ZERO, |since| now.since(since));
        if waited < millis(PUSH_READ_MS_MAX) {
            return Err(format!("a reader is cut off after {waited:?}"));
        }
        (self.stands, self.reads) = (false, Reads::CutOff);
        Ok(())
    }

    /// Whether it should have been cut off by now. The engine sees at a look what changed and was perhaps undone since.
    /// Its patience begins at that look, which comes late if the node pauses just then.
    fn is_stuck_too_long(&mut self, now: Time, is_fine: bool) -> bool {
        if !self.stands {
            return false;
        }
        if self.unread.len() < self.credit {
            self.stuck_since = None;
        }
        if is_fine {
            (self.stuck_still_since, self.stuck_seen_by) = (None, None);
            return false;
        }
        self.stuck_since.get_or_insert(now);
        let since = *self.stuck_still_since.get_or_insert(now);
        if now < since + LOOK_EVERY {
            return false;
        }
        let seen_by = *self.stuck_seen_by.get_or_insert(now);
        now >= seen_by + millis(PUSH_READ_MS_MAX) + LOOK_EVERY
    }
}

impl World {
    /// Somebody watches at some engine, from where it left off.
    pub(super) fn subscribe(&mut self) {
        let again = Duration::from_millis(self.reader.chance.u64(50..400));
        self.plan(again, Event::Subscribe);
        let stops = self.reader_stops_at_end();
        let subscription = self.reader.subscription.as_ref();
        let stands = subscription.filter(|s| self.nodes[s.at.node as usize].life == s.life);
        let was_cut_off = stands.filter(|s| s.reads == Reads::Knows).map(|s| s.at);
        if let Some(stands) = stands
            && was_cut_off.is_none()
        {
            let stays = stands.reads != Reads::All || self.reader.chance.u32(..4) > 0;
            if stays && !(stops && stands.reads == Reads::All) {
                return;
            }
        }
        if let Some(Subscription { at, conn, .. }) = self.reader.subscription.take() {
            self.deliver(at, Incoming::Closed(conn));
        }
        let node = self.reader.chance.u32(..self.nodes.len() as u32);
        let engine = self.layout.draw_engine(&mut self.reader.chance);
        let at = was_cut_off.unwrap_or(SeatId { node, engine });
        if self.engine(at).is_none() {
            return;
        }
        let reader = &mut self.reader;
        reader.generation += 1;
        let conn = ConnId { index: READER, generation: reader.generation };
        let (life, credit) = (self.nodes[at.node as usize].life, reader.chance.u32(1..4));
        let stops = was_cut_off.is_none() && (reader.chance.u32(..STOPS_ONE_IN) == 0 || stops);
        let credit = if stops { 1 } else { credit };
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
            reads: if stops { Reads::Nothing } else { Reads::All },
            stuck_since: None,
            stuck_still_since: None,
            stuck_seen_by: None,
            arrives: self.now,
        });
        let cursor = reader.cursor;
        self.deliver(at, Incoming::Opened(conn));
        self.send_as_reader(Duration::ZERO, subscription_of(conn), Watch::KIND, |b| {
            Watch { cursor, credit }.encode(b);
        });
    }

    /// Whether the reader is to stop reading now, so that it is cut off in the end.
    fn reader_stops_at_end(&self) -> bool {
        let soon = self.now + STOPS_BEFORE_END >= Time(0) + self.options.faulty;
        let stops = self.options.seed % STOPS_AT_END_ONE_IN < WATCHED_ONE_IN;
        soon && stops && self.is_faulty()
    }

    /// Whether the reader waits to be cut off, or to be told what changed since.
    pub(super) fn reader_waits(&self) -> bool {
        let subscription = self.reader.subscription.as_ref();
        let stands = subscription.filter(|s| self.nodes[s.at.node as usize].life == s.life);
        stands.is_some_and(|s| s.stuck_still_since.is_some() || !s.stands)
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
        while let Ok(Some(frame)) = wire::split(bytes, FRAME_BYTES_MAX) {
            bytes = &bytes[frame.used..];
            let subscription = self.reader.subscription.as_mut();
            let Some(s) = subscription.filter(|s| s.conn.generation == generation) else { break };
            if frame.header.kind == Error::KIND {
                s.reads = Reads::Knows;
            }
            if frame.header.kind != TopologyPush::KIND || s.reads != Reads::All {
                continue;
            }
            let push = TopologyPush::decode(frame.body);
            let push = push.map_err(|e| Failure::Safety(e.to_string()))?;
            (self.reader.cursor, self.reader.cursor_of) = (push.cursor, Some((s.at, s.life)));
            let after = Duration::from_millis(self.reader.chance.u64(..200));
            let conn = ConnId { index: READER, generation };
            let (subscription, cursor) = (subscription_of(conn), push.cursor);
            self.send_as_reader(after, READ, PushesRead::KIND, |b| {
                PushesRead { subscription, cursor }.encode(b);
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader with one push unread and no credit left, which does not know all since `since`.
    fn stuck(since: Time) -> Subscription {
        let mut subscription = Subscription {
            at: SeatId { node: 0, engine: 0 },
            life: 1,
            conn: ConnId { index: READER, generation: 1 },
            credit: 1,
            stands: true,
            view: View::default(),
            sent: 1,
            unread: VecDeque::from([1]),
            behind_since: None,
            reads: Reads::Nothing,
            stuck_since: None,
            stuck_still_since: None,
            stuck_seen_by: None,
            arrives: Time(0),
        };
        assert!(!subscription.is_stuck_too_long(since, false));
        subscription
    }

    fn cut_off(subscription: &mut Subscription, now: Time, code: Code) -> bool {
        let error = Error { code: code.number(), retry_ms: 0, node: 0, engine: 0, text: b"" };
        let mut frame = Vec::new();
        let request = subscription_of(subscription.conn);
        wire::frame(&mut frame, &Header::new(Error::KIND, request), |b| error.encode(b));
        let frame = wire::split(&frame, FRAME_BYTES_MAX).unwrap().unwrap();
        subscription.is_cut_off(now, &frame).is_ok()
    }

    #[test]
    fn a_reader_that_is_cut_off_early_or_for_another_reason_is_caught() {
        let (since, waits) = (Time(5), millis(PUSH_READ_MS_MAX));
        let just_before = Time((since + waits).0 - 1);
        assert!(!cut_off(&mut stuck(since), just_before, Code::PushesUnread));
        assert!(!cut_off(&mut stuck(since), since + waits, Code::Busy));
        let mut subscription = stuck(since);
        assert!(cut_off(&mut subscription, since + waits, Code::PushesUnread));
        assert!(!subscription.stands, "it is told nothing any more");
    }

    #[test]
    fn a_reader_that_reads_nothing_and_is_not_cut_off_is_caught() {
        let (since, waits) = (Time(5), millis(PUSH_READ_MS_MAX));
        let seen = |by: Time| {
            let mut subscription = stuck(since);
            assert!(!subscription.is_stuck_too_long(by, false));
            subscription
        };
        let by = since + LOOK_EVERY;
        let late = by + waits + LOOK_EVERY;
        assert!(!seen(by).is_stuck_too_long(Time(late.0 - 1), false));
        assert!(seen(by).is_stuck_too_long(late, false));
        assert!(!seen(by).is_stuck_too_long(late, true), "it knows all");
    }

    #[test]
    fn an_engine_that_stood_still_has_its_patience_from_its_next_turn_on() {
        let (since, waits) = (Time(5), millis(PUSH_READ_MS_MAX));
        let resumed = since + Duration::from_millis(200);
        let mut subscription = stuck(since);
        assert!(!subscription.is_stuck_too_long(resumed, false));
        let late = resumed + waits + LOOK_EVERY;
        assert!(!subscription.is_stuck_too_long(Time(late.0 - 1), false));
        assert!(subscription.is_stuck_too_long(late, false));
    }
}
