//! A stranger: it has no core, and sends requests that are drawn from their declarations, right ones and wrong ones.
//!
//! Each is answered once. A wrong one is refused with what its vetting says. A right one gets the answer that its kind
//! declares, or a reason that its family has. What the stranger asks for has names and sessions of its own: so what comes
//! of it is in the log, and no client notices.

use super::seats::SeatId;
use super::{Event, Incoming, World};
use engine::ids::ConnId;
use engine::time::Duration;
use std::collections::BTreeMap;
use wire::limits::{FRAME_BYTES_MAX, NAME_BYTES_MAX};
use wire::message::{
    BackupBegin, CacheDelete, Error, FACTS, Hello, PushesRead, TopologyPush, Watch, Welcome,
};
use wire::messages::Row;
use wire::random::Random;
use wire::request::{Draw, Facts, Family};
use wire::{Call, Code, Header, Kind, Request};

/// The connections of the stranger: an index that no client has.
pub(super) const STRANGER: u32 = 904;
/// There is a stranger in one seed of so many.
const STRANGERS_ONE_IN: u64 = 4;
/// The longest pause between two requests, in milliseconds.
const PAUSE_MILLIS_MAX: u64 = 90;
/// It goes to another engine after one request of so many.
const MOVES_ONE_IN: u32 = 12;
/// A call is sent once more, one time in so many.
const REPEATS_ONE_IN: u32 = 8;
/// How many sessions it uses.
const SESSIONS: u8 = 3;
/// What is no node, no engine and no group of the cluster begins here.
const NOWHERE: u64 = 50;
/// The longest time that it asks for, beyond the shortest, in milliseconds.
const MILLIS_MAX: u64 = 600;
/// A kind that no message has.
const NO_KIND: Kind = Kind(0x7f);

const NAMES: [&[u8]; 4] = [b"stray/a", b"stray/b", b"stray/{c}/d", b"stray/e"];
const NAME_TOO_LONG: &[u8] = &[b'n'; NAME_BYTES_MAX + 1];

/// Whether a lock, a queue or a line is the stranger's.
pub(super) fn is_strange(name: &[u8]) -> bool {
    name.starts_with(b"stray/")
}

/// What a request is to be answered with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expected {
    /// This refusal, and nothing else.
    Refusal(Code),
    /// What its kind declares, or a reason of its family.
    Answer,
}

#[derive(Clone, Copy)]
struct Asked {
    facts: Option<&'static Facts>,
    expected: Expected,
    /// It was sent again since: then only the later one may be answered.
    is_replaced: bool,
    /// It has a deadline.
    hurries: bool,
    /// Its body was cut: what is left may look right to whoever reads it less strictly than a node.
    is_cut: bool,
    /// It subscribes, and was answered: pushes come under its number.
    subscribes: bool,
    call: Option<Call>,
}

/// Whoever sends what no client would.
pub(super) struct Stranger {
    chance: Random,
    /// The engine to which it is connected, in which life, and how.
    at: Option<(SeatId, u64, ConnId)>,
    generation: u32,
    /// The last request's number; that before the first of this connection.
    request: u64,
    before: u64,
    sequence: u64,
    asked: BTreeMap<u64, Asked>,
    /// The last call: its number, its frame but for that, and what it is.
    last_call: Option<(Header, Vec<u8>, Asked)>,
    /// What was answered: the kind, and whether it was right.
    pub(super) answered: Vec<(&'static str, &'static str)>,
}

impl Stranger {
    pub(super) fn new(seed: u64) -> Stranger {
        let chance = Random::new(seed ^ 0x7374_7261_6e67_6500);
        let (asked, answered) = (BTreeMap::new(), Vec::new());
        let (generation, request, before, sequence) = (0, 0, 0, 0);
        let (at, last_call) = (None, None);
        Stranger { chance, at, generation, request, before, sequence, asked, last_call, answered }
    }

    /// Whether there is one with this seed.
    pub(super) fn comes(seed: u64) -> bool {
        seed.is_multiple_of(STRANGERS_ONE_IN)
    }

    /// A request, right or wrong: its header, its body, and how it is to be answered.
    fn draw(&mut self, shards: u32) -> (Header, Vec<u8>, Asked) {
        let kind = FACTS[self.chance.usize(..FACTS.len())].kind();
        self.sequence += 1;
        let session = [0xe0 + self.chance.u8(..SESSIONS); 16];
        let call = Call { session, sequence: self.sequence, answered_below: self.sequence };
        let mut whim = Whim { chance: &mut self.chance, kind, call, shards };
        let request = Request::draw(kind, &mut whim).expect("the kind is a request's");
        let (mut body, name) = (Vec::new(), request.name());
        request.encode(&mut body);
        let right = name.map_or(self.chance.u32(..shards), |name| wire::name::shard(name, shards));
        let shard = if self.chance.u32(..12) == 0 { right + 1 } else { right };
        let deadline_ms = if self.chance.u32(..8) == 0 { self.chance.u32(1..200) } else { 0 };
        let kind = if self.chance.u32(..30) == 0 { NO_KIND } else { kind };
        let header = Header { shard, deadline_ms, ..Header::new(kind, 0) };
        let whole = body.len();
        self.spoil(kind, &mut body);
        let asked =
            Asked { is_cut: body.len() < whole, ..Stranger::expect(&header, &body, shards) };
        (header, body, asked)
    }

    /// Now and then a field is out of its range, or the body is no message at all.
    fn spoil(&mut self, kind: Kind, body: &mut Vec<u8>) {
        let Some(facts) = Request::facts_of(kind) else { return };
        match self.chance.u32(..8) {
            0 => body.truncate(self.chance.usize(..body.len())),
            1 => {
                let rows = facts.message.rows();
                let bounded = |row: &&Row| matches!(row.ty, "u8" | "u32") && !row.must.is_empty();
                let bounded: Vec<&Row> = rows.iter().filter(bounded).collect();
                if let Some(row) = self.chance.choice(bounded) {
                    let at = body.len() - facts.message.fixed + row.at;
                    body[at..at + row.size].fill(0xee);
                }
            }
            _ => {}
        }
    }

    /// What a request is to be answered with.
    fn expect(header: &Header, body: &[u8], shards: u32) -> Asked {
        let facts = Request::facts_of(header.kind);
        let (expected, call) = match Request::decode(header.kind, body) {
            Err(code) => (Expected::Refusal(code), None),
            Ok(request) => {
                let right = request.name().map(|name| wire::name::shard(name, shards));
                let of_shard = matches!(
                    request,
                    Request::Session(_) | Request::Lock(_) | Request::Queue(_) | Request::Cache(_)
                );
                let is_wrong =
                    header.shard >= shards || right.is_some_and(|shard| shard != header.shard);
                let expected = match header.kind {
                    // A connection is greeted once.
                    Hello::KIND => Expected::Refusal(Code::UnknownKind),
                    _ if of_shard && is_wrong => Expected::Refusal(Code::WrongShard),
                    _ => Expected::Answer,
                };
                (expected, request.call())
            }
        };
        let (is_replaced, is_cut, subscribes) = (false, false, false);
        let hurries = header.deadline_ms > 0;
        Asked { facts, expected, is_replaced, hurries, is_cut, subscribes, call }
    }

    /// Whether everything was answered that is still to be answered.
    fn waits_for(&self) -> Option<u64> {
        let mut open = self.asked.iter().filter(|(_, asked)| !asked.is_replaced);
        open.find(|(_, asked)| !asked.subscribes).map(|(request, _)| *request)
    }

    /// An engine sends something to the stranger.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn on_sent(&mut self, from: (SeatId, u64), mut bytes: &[u8]) -> Result<(), String> {
        if self.at.is_none_or(|(at, life, _)| (at, life) != from) {
            return Ok(());
        }
        while let Ok(Some(frame)) = wire::split(bytes, FRAME_BYTES_MAX) {
            bytes = &bytes[frame.used..];
            let (kind, request) = (frame.header.kind, frame.header.request);
            // What an earlier connection asked for, or a greeting.
            if request <= self.before || kind == Welcome::KIND {
                continue;
            }
            let Some(asked) = self.asked.remove(&request) else {
                return Err(format!("a stranger is answered twice: {kind:?} to {request}"));
            };
            let code = match kind {
                Error::KIND => {
                    let error = Error::decode(frame.body).map_err(|e| e.to_string())?;
                    Some(Code::from_number(error.code).ok_or("an unknown error code")?)
                }
                _ => None,
            };
            if asked.subscribes && (kind == TopologyPush::KIND || code == Some(Code::PushesUnread))
            {
                self.asked.insert(request, asked);
                continue;
            }
            if !asked.takes(kind, code) {
                let name = asked.facts.map_or("no kind", |facts| facts.message.name);
                let expected = asked.expected;
                return Err(format!(
                    "a stranger's {name} is answered {kind:?} {code:?} and not {expected:?}"
                ));
            }
            if let Some(facts) = asked.facts {
                let is_hello = asked.expected == Expected::Refusal(Code::UnknownKind);
                let right = asked.expected == Expected::Answer || is_hello;
                let how = if right { "right" } else { "wrong" };
                self.answered.push((facts.message.name, how));
                if facts.kind() == Watch::KIND && code.is_none() {
                    self.asked.insert(request, Asked { subscribes: true, ..asked });
                }
            }
        }
        Ok(())
    }
}

impl Asked {
    /// Whether it may be answered so: by an answer of a kind, or by a refusal.
    fn takes(&self, kind: Kind, code: Option<Code>) -> bool {
        let Some(facts) = self.facts else { return code == Some(Code::UnknownKind) };
        match (self.expected, code) {
            // An older build does not know this kind.
            (_, Some(Code::UnknownKind)) if facts.kind() == CacheDelete::KIND => true,
            (_, Some(Code::BadMessage)) if self.is_cut => true,
            (Expected::Refusal(expected), code) => code == Some(expected),
            (Expected::Answer, None) => kind == facts.answer,
            (Expected::Answer, Some(Code::DeadlineExceeded)) => self.hurries,
            (Expected::Answer, Some(code)) => may_refuse(facts, code),
        }
    }
}

/// Whether a right request may be refused so.
fn may_refuse(facts: &Facts, code: Code) -> bool {
    use Code::*;
    let of_calls = facts.is_call && matches!(code, SessionUnknown | SequenceStale | StateFull);
    let led = matches!(code, NotLeader | Unavailable | Busy | LevelTooLow);
    match facts.family {
        // It subscribed to nothing.
        Family::Connection => facts.kind() == PushesRead::KIND && code == BadMessage,
        Family::Session => led || matches!(code, SessionUnknown | StateFull),
        Family::Lock => {
            let own = matches!(code, LockHeld | LockTimeout | NotHolder | StaleFence | WaitersFull);
            led || of_calls || own
        }
        Family::Queue => {
            let of_queues = matches!(code, QueueEmpty | QueueFull | WaitersFull);
            led || of_calls || of_queues || matches!(code, MessageUnknown | StaleDelivery)
        }
        Family::Cache => {
            led || of_calls || matches!(code, KeyUnknown | VersionMismatch | OverBudget)
        }
        Family::Admin => led || matches!(code, BadMessage | WrongShard | NodeUnknown | BackupGone),
    }
}

/// Draws a request's fields.
struct Whim<'c> {
    chance: &'c mut Random,
    kind: Kind,
    call: Call,
    /// How many the cluster has.
    shards: u32,
}

impl<'a> Draw<'a> for Whim<'_> {
    fn call(&mut self) -> Call {
        match self.chance.u32(..24) {
            0 => Call { session: [0; 16], ..self.call },
            1 => Call { sequence: 0, ..self.call },
            2 => Call { answered_below: self.call.sequence + 1, ..self.call },
            3 => Call { sequence: 1 << 40, answered_below: 1, ..self.call },
            _ => self.call,
        }
    }

    fn number(&mut self, field: &'static str, min: u64, max: u64) -> u64 {
        match field {
            // What it is told of the cluster must change nothing.
            "node" | "engines" => self.chance.u64(NOWHERE..NOWHERE + 10),
            "group" if self.kind == BackupBegin::KIND => NOWHERE,
            "group" => self.chance.u64(0..u64::from(self.shards) + 2),
            _ if field.ends_with("_ms") => self.chance.u64(min..=max.min(min + MILLIS_MAX)),
            _ => match self.chance.u32(..4) {
                0 => min,
                1 => max,
                _ => self.chance.u64(min..=max.min(min.saturating_add(9))),
            },
        }
    }

    fn id(&mut self, field: &'static str) -> [u8; 16] {
        match field {
            "session" if self.chance.u32(..16) > 0 => self.call.session,
            "session" => [0; 16],
            _ => [self.chance.u8(..); 16],
        }
    }

    fn bytes(&mut self, _: &'static str) -> &'a [u8] {
        match self.chance.u32(..24) {
            0 => b"",
            1 => NAME_TOO_LONG,
            _ => NAMES[self.chance.usize(..NAMES.len())],
        }
    }
}

impl World {
    /// The stranger sends the next request.
    pub(super) fn stray(&mut self) {
        if !self.is_faulty() {
            return;
        }
        let pause = Duration::from_millis(self.stranger.chance.u64(1..PAUSE_MILLIS_MAX));
        self.plan(pause, Event::Stray);
        let stands = self.stranger.at.filter(|at| self.nodes[at.0.node as usize].life == at.1);
        let moves = self.stranger.chance.u32(..MOVES_ONE_IN) == 0;
        let Some((at, life, conn)) = stands.filter(|_| !moves) else {
            return self.stray_to_another();
        };
        let stranger = &mut self.stranger;
        let repeats = stranger.chance.u32(..REPEATS_ONE_IN) == 0;
        let (header, body, asked) = match stranger.last_call.take().filter(|_| repeats) {
            Some(last) => last,
            None => stranger.draw(self.layout.shards),
        };
        stranger.request += 1;
        let mut frame = Vec::new();
        let numbered = Header { request: stranger.request, ..header };
        wire::frame(&mut frame, &numbered, |out| out.extend_from_slice(&body));
        if asked.call.is_some() {
            let same = stranger.asked.values_mut().filter(|earlier| earlier.call == asked.call);
            same.for_each(|earlier| earlier.is_replaced = true);
            stranger.last_call = Some((header, body, asked));
        }
        stranger.asked.insert(stranger.request, asked);
        let takes = self.delay();
        self.plan(takes, Event::Request { to: at, conn, life, frame });
    }

    /// It goes to some engine.
    fn stray_to_another(&mut self) {
        if let Some((at, _, conn)) = self.stranger.at.take() {
            self.deliver(at, Incoming::Closed(conn));
        }
        let stranger = &mut self.stranger;
        stranger.asked.clear();
        stranger.before = stranger.request;
        let node = stranger.chance.u32(..self.nodes.len() as u32);
        let at = SeatId { node, engine: self.layout.draw_engine(&mut stranger.chance) };
        if self.engine(at).is_none() {
            return;
        }
        let stranger = &mut self.stranger;
        stranger.generation += 1;
        let conn = ConnId { index: STRANGER, generation: stranger.generation };
        stranger.at = Some((at, self.nodes[node as usize].life, conn));
        self.deliver(at, Incoming::Opened(conn));
    }

    /// The number of a request of the stranger's that is still to be answered.
    pub(super) fn stranger_waits(&self) -> Option<u64> {
        let at = self.stranger.at;
        at.filter(|at| self.nodes[at.0.node as usize].life == at.1)?;
        self.stranger.waits_for()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::message::{Done, Status, Topology};

    const AT: SeatId = SeatId { node: 0, engine: 0 };

    /// A stranger that asked an engine for this.
    fn asked(kind: Kind, body: &[u8]) -> Stranger {
        let mut stranger = Stranger::new(1);
        stranger.at = Some((AT, 1, ConnId { index: STRANGER, generation: 1 }));
        stranger.asked.insert(1, Stranger::expect(&Header::new(kind, 1), body, 2));
        stranger
    }

    fn answer(stranger: &mut Stranger, kind: Kind, body: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut frame = Vec::new();
        wire::frame(&mut frame, &Header::new(kind, 1), body);
        stranger.on_sent((AT, 1), &frame).is_ok()
    }

    fn refuse(stranger: &mut Stranger, code: Code) -> bool {
        let error = Error { code: code.number(), retry_ms: 0, node: 0, engine: 0, text: b"" };
        answer(stranger, Error::KIND, |b| error.encode(b))
    }

    #[test]
    fn an_answer_too_many_or_of_another_kind_is_caught() {
        let mut body = Vec::new();
        Topology { known: 0 }.encode(&mut body);
        let done = |b: &mut Vec<u8>| Done { token: 0, index: 0 }.encode(b);
        assert!(!answer(&mut asked(Topology::KIND, &body), Done::KIND, done));
        let mut stranger = asked(Topology::KIND, &body);
        let facts = Request::facts_of(Topology::KIND).unwrap();
        assert!(answer(&mut stranger, facts.answer, |_| ()));
        assert!(!answer(&mut stranger, facts.answer, |_| ()), "the same once more");
    }

    #[test]
    fn a_wrong_request_that_is_taken_or_refused_for_another_reason_is_caught() {
        let mut body = Vec::new();
        Status { reserved: 1 }.encode(&mut body);
        let facts = Request::facts_of(Status::KIND).unwrap();
        assert!(refuse(&mut asked(Status::KIND, &body), Code::BadMessage));
        assert!(!refuse(&mut asked(Status::KIND, &body), Code::Busy));
        assert!(!answer(&mut asked(Status::KIND, &body), facts.answer, |_| ()));
        assert!(refuse(&mut asked(NO_KIND, b""), Code::UnknownKind));
        assert!(!refuse(&mut asked(NO_KIND, b""), Code::BadMessage));
    }
}
