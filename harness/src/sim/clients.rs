//! Seeded clients: each has a session and a few calls open at a time, sends each again under the same sequence until it
//! is answered, and writes down what it saw. What they ask for is in `wants.rs`.

use super::calls::{Did, Hold, Record, Saw, Stamp, payload, read_answer};
use super::cells::Cells;
use super::twin::Twin;
use super::wants::Memory;
use super::witness::Answered;
use super::{NODES_MAX, SHARDS};
use engine::ids::ConnId;
use engine::time::{Duration, Time};
use wire::limits::FRAME_BYTES_MAX;
use wire::message::*;
use wire::random::Random;
use wire::{Code, Header};

/// How busy clients are.
#[derive(Clone, Copy)]
pub struct Load {
    /// How many there are.
    pub clients: u32,
    /// The longest that one pauses between two calls.
    pub pause_millis_max: u64,
    /// The longest that one keeps a lock.
    pub hold_millis_max: u64,
    /// So many calls in a hundred push a message; in 25, one pushes or pops.
    pub push_percent: u32,
    /// The most calls that one has open at a time.
    pub window_max: usize,
}

/// The share of the time to live that a client gives away to a leader's clock that is faster: one in so many.
const GUARD_DRIFT_DIVISOR: u32 = 20;
/// Heartbeats within a session's time to live.
const HEARTBEATS_PER_TTL: u32 = 5;
const PATIENCE: Duration = Duration::from_millis(350);
/// A client that looks what it wants to do falls asleep, one time in so many: it sends nothing for a while.
const SLEEPS_ONE_IN: u32 = 300;
/// A client's connections all break, with what is open on them, one time in so many that it looks what it wants to do.
const BREAKS_ONE_IN: u32 = 250;
/// A call goes to any node and not where the leader is believed to be, one time in so many.
const STRAYS_ONE_IN: u32 = 4;
/// A call that waits is given up, one time in so many that its client looks.
const GIVES_UP_ONE_IN: u32 = 80;
/// The longest pause between two calls of a client that asks two leaders, in milliseconds.
const CONFUSED_PAUSE_MILLIS_MAX: u64 = 4;
const DRAIN_WAIT_MS: u32 = 2_500;
const DRAIN_VISIBILITY_MS: u32 = 1_200;

/// All that clients saw.
#[derive(Default)]
pub struct History {
    pub records: Vec<Record>,
    pub holds: Vec<Hold>,
    /// Calls that were refused since the build, or the group's level, is too old for them.
    pub too_new: u64,
    /// The highest index of each shard that was seen to be applied, and the highest token that it gave out.
    pub applied: [u64; SHARDS as usize],
    pub tokens: [u64; SHARDS as usize],
    /// What was asked for and answered, by kind.
    pub cells: Cells,
}

/// Two nodes believe to lead a shard.
#[derive(Clone, Copy)]
pub struct Confusion {
    pub shard: u32,
    /// Who led before, and is read from.
    pub deposed: u32,
    /// Who leads now, and is written to.
    pub elected: u32,
    pub until: Time,
}

/// A frame that a client sends.
pub struct Send {
    pub to: u32,
    pub conn: ConnId,
    pub opens: bool,
    pub frame: Vec<u8>,
    /// The session for which it is a sign of life; if it is a call, its shard and sequence.
    pub sign: Option<[u8; 16]>,
    pub call: Option<(u32, u64)>,
}

#[derive(Clone)]
struct Open {
    did: Did,
    shard: u32,
    session: [u8; 16],
    invoked: Time,
    /// The request whose answer is awaited; of the session's opening or of the call itself.
    request: u64,
    opening: bool,
    sequence: u64,
    /// When it is sent again.
    again_at: Time,
    /// How often the call itself was sent.
    tries: u32,
    /// Later calls say that it was answered: it leaves its line.
    given_up: bool,
}

#[derive(Clone, Copy, Default)]
struct InShard {
    opened: bool,
    sequence: u64,
    /// Where the leader is believed to be.
    guess: u32,
    /// The session surely lives until then.
    guard: Option<Time>,
}

/// A lock that is held.
pub(super) struct Held {
    pub(super) lock: u8,
    exclusive: bool,
    pub(super) fence: u64,
    from: Time,
    /// When its lease may end.
    lease: Time,
    release_at: Time,
    /// How many releases give it back.
    count: u32,
}

/// A message that was delivered and not given back yet.
pub(super) struct Kept {
    pub(super) queue: u8,
    pub(super) id: u64,
    pub(super) delivery: u32,
    until: Time,
}

pub(super) struct Client {
    id: u32,
    pub(super) session: [u8; 16],
    session_ttl_ms: u32,
    shards: Vec<InShard>,
    /// The generation of the connection to each node, while it stands.
    conns: [Option<u32>; NODES_MAX as usize],
    generation: u32,
    requests: u64,
    open: Vec<Open>,
    next_at: Time,
    heartbeat_at: Time,
    /// When each heartbeat was sent, by request.
    beats: Vec<(u64, Time)>,
    pub(super) holding: Vec<Held>,
    messages: Vec<Kept>,
    /// It ends its session, and begins anew once that is answered.
    closing: bool,
    pub(super) memory: Memory,
    sends: Vec<Send>,
    /// Connections that broke, and to whom they were.
    broken: Vec<(u32, ConnId)>,
    /// The arrival of the last frame: frames of a connection don't overtake each other.
    last_arrival: Time,
    value_bytes_max: usize,
    /// How many nodes there are.
    nodes: u32,
    pub(super) load: Load,
    window: usize,
    asleep_until: Time,
    /// What it wrote to the new one of two leaders, and was told.
    wrote: Option<u8>,
    pub(super) chance: Random,
}

/// All clients.
pub struct Clients {
    clients: Vec<Client>,
    pub history: History,
    values: u64,
    phase: Phase,
    /// The queue that is drained, and then no more.
    drained: u8,
    confusion: Option<Confusion>,
    /// Deliveries that anybody may acknowledge.
    lent: Vec<(u8, u64, u32)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Work,
    Finish,
    Drain,
    /// Nobody says anything any more: sessions end, and everything comes to rest.
    Rest,
}

use super::calls::{KEYS, QUEUES, key_name};

impl Clients {
    pub fn new(seed: u64, value_bytes_max: usize, nodes: u32, load: Load) -> Clients {
        let mut chance = Random::new(seed);
        let clients = (0..load.clients).map(|id| Client {
            id,
            session: chance.id(),
            session_ttl_ms: 2_000,
            shards: vec![InShard::default(); SHARDS as usize],
            conns: [None; NODES_MAX as usize],
            generation: 0,
            requests: 0,
            open: Vec::new(),
            next_at: Time(0),
            heartbeat_at: Time(0),
            beats: Vec::new(),
            holding: Vec::new(),
            messages: Vec::new(),
            closing: false,
            memory: Memory::default(),
            sends: Vec::new(),
            broken: Vec::new(),
            last_arrival: Time(0),
            value_bytes_max,
            nodes,
            load,
            window: 1 + id as usize % load.window_max,
            asleep_until: Time(0),
            wrote: None,
            chance: chance.fork(),
        });
        Clients {
            clients: clients.collect(),
            history: History::default(),
            values: 0,
            phase: Phase::Work,
            drained: 0,
            confusion: None,
            lent: Vec::new(),
        }
    }

    /// Whoever is idle writes to one node and reads from the other, for a while.
    pub fn confuse(&mut self, confusion: Confusion) {
        self.confusion = Some(confusion);
        for client in &mut self.clients {
            (client.next_at, client.wrote) = (Time(0), None);
        }
    }

    pub fn finish(&mut self) {
        self.phase = Phase::Finish;
    }

    pub fn are_finished(&self) -> bool {
        self.phase == Phase::Rest
    }

    fn are_idle(&self) -> bool {
        let idle = |c: &Client| c.open.is_empty() && c.holding.is_empty() && c.messages.is_empty();
        self.clients.iter().all(|client| idle(client) && !client.closing)
    }

    pub fn unfinished(&self) -> String {
        let open = self.clients.iter().flat_map(|c| c.open.iter().map(|o| (c.id, &o.did)));
        format!("clients wait: {:?}; {} queues drained", open.collect::<Vec<_>>(), self.drained)
    }

    pub fn connected(&self, client: u32, node: u32) -> Option<u32> {
        // The operator does not wait for an answer.
        self.clients.get(client as usize)?.conns[node as usize]
    }

    pub fn forget_connections(&mut self, node: u32) {
        self.clients.iter_mut().for_each(|client| client.conns[node as usize] = None);
    }

    pub fn path(&mut self, client: u32, now: Time, delay: Duration) -> Duration {
        let client = &mut self.clients[client as usize];
        client.last_arrival = client.last_arrival.max(now + delay) + Duration::from_nanos(1);
        client.last_arrival.since(now)
    }

    pub fn take_sends(&mut self, client: u32) -> Vec<Send> {
        std::mem::take(&mut self.clients[client as usize].sends)
    }

    pub fn take_broken(&mut self, client: u32) -> Vec<(u32, ConnId)> {
        std::mem::take(&mut self.clients[client as usize].broken)
    }

    /// When the client wants to look again.
    pub fn wake_at(&self, client: u32) -> Time {
        let client = &self.clients[client as usize];
        let again = client.open.iter().map(|open| open.again_at).min();
        let done = match self.phase {
            Phase::Work | Phase::Finish => false,
            Phase::Drain => client.id != 0,
            Phase::Rest => true,
        };
        let begins = !done && client.open.len() < client.window;
        let next = if begins { client.next_at } else { Time::MAX };
        let at = next.min(again.unwrap_or(Time::MAX)).min(client.heartbeat_at);
        at.max(client.asleep_until)
    }

    pub fn on_time(&mut self, now: Time, id: u32) {
        if self.phase == Phase::Finish && self.are_idle() {
            self.phase = Phase::Drain;
        }
        if self.phase == Phase::Drain && self.drained >= QUEUES && self.are_idle() {
            self.phase = Phase::Rest;
        }
        let client = &mut self.clients[id as usize];
        if now < client.asleep_until {
            return;
        }
        if self.phase == Phase::Work && client.chance.u32(..SLEEPS_ONE_IN) == 0 {
            client.asleep_until = now + Duration::from_millis(client.chance.u64(500..4_500));
            return;
        }
        if self.phase == Phase::Work && client.chance.u32(..BREAKS_ONE_IN) == 0 {
            client.disconnect();
        }
        if now >= client.heartbeat_at {
            client.heartbeat_at = now + client.session_ttl() / HEARTBEATS_PER_TTL;
            if self.phase != Phase::Rest {
                client.beat(now);
            }
        }
        for at in 0..client.open.len() {
            if now >= client.open[at].again_at {
                client.send_again(now, at);
            }
        }
        if client.open.len() < client.window && now >= client.next_at {
            self.begin(now, id);
        }
    }

    /// Begins the next thing.
    fn begin(&mut self, now: Time, id: u32) {
        let phase = self.phase;
        let client = &mut self.clients[id as usize];
        client.next_at = now + client.up_to(client.load.pause_millis_max);
        if client.closing {
            return;
        }
        if phase == Phase::Work {
            client.give_up();
        }
        if let Some(did) = client.give_back(now, phase == Phase::Work, &mut self.history) {
            return client.call(now, did);
        }
        let did = match phase {
            Phase::Work => match self.confusion.filter(|confusion| now < confusion.until) {
                Some(confusion) => return client.ask_both(now, confusion, &mut self.values),
                None => client.choose(&mut self.values, &mut self.lent),
            },
            Phase::Drain if id == 0 && self.drained < QUEUES && client.open.is_empty() => {
                let (wait_ms, visibility_ms) = (DRAIN_WAIT_MS, DRAIN_VISIBILITY_MS);
                Some(Did::Pop { queue: self.drained, wait_ms, visibility_ms })
            }
            _ => return,
        };
        match did {
            Some(did) => client.call(now, did),
            None => client.close(now, &mut self.history),
        }
    }

    /// Bytes came from a node.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn on_bytes(
        &mut self,
        now: Time,
        id: u32,
        generation: u32,
        mut bytes: &[u8],
        twins: &mut [Twin],
    ) -> Result<(), String> {
        let client = &mut self.clients[id as usize];
        if !client.conns.contains(&Some(generation)) {
            return Ok(());
        }
        while !bytes.is_empty() {
            let frame = wire::split(bytes, FRAME_BYTES_MAX).map_err(|e| e.to_string())?;
            let frame = frame.ok_or("a node sent half a frame")?;
            bytes = &bytes[frame.used..];
            let client = &mut self.clients[id as usize];
            if frame.header.kind == Alive::KIND {
                let alive = Alive::decode(frame.body).map_err(|e| e.to_string())?;
                client.on_alive(frame.header.request, alive.shards);
            } else if frame.header.kind != Welcome::KIND {
                self.on_answer(now, id, frame.header, frame.body, twins)?;
            }
        }
        Ok(())
    }

    fn on_answer(
        &mut self,
        now: Time,
        id: u32,
        header: Header,
        body: &[u8],
        twins: &mut [Twin],
    ) -> Result<(), String> {
        let client = &mut self.clients[id as usize];
        let found = client.open.iter().position(|open| open.request == header.request);
        // None: the answer to a try that was given up.
        let Some(at) = found else { return Ok(()) };
        let saw = read_answer(header.kind, body)?;
        if let Saw::Refused(Code::NotLeader | Code::Unavailable | Code::Busy) = saw {
            let error = Error::decode(body).map_err(|e| e.to_string())?;
            client.retarget(now, at, error.node);
            return Ok(());
        }
        // While the cluster is upgraded. Nothing was done: there is nothing to write down.
        if let Saw::Refused(Code::UnknownKind | Code::LevelTooLow) = saw {
            self.history.too_new += 1;
            client.open.remove(at);
            return Ok(());
        }
        let open = &client.open[at];
        let is_unknown = saw == Saw::Refused(Code::SessionUnknown);
        if open.opening && !is_unknown {
            client.shards[open.shard as usize].opened = true;
            client.send_again(now, at);
            return Ok(());
        }
        let answered = Answered {
            did: &open.did,
            session: open.session,
            sequence: open.sequence,
            invoked: open.invoked,
            replied: now,
            saw,
        };
        let explained = twins[open.shard as usize].explain(&answered);
        explained.map_err(|why| format!("client {id}, shard {}: {why}", open.shard))?;
        self.history.cells.count(&open.did, saw, open.given_up);
        let open = client.open.remove(at);
        if is_unknown && open.did.is_call() && open.session == client.session {
            client.session_ended(now, open, &mut self.history)?;
            return Ok(());
        }
        let is_cancelled = saw == Saw::Refused(Code::SequenceStale);
        let saw = if is_cancelled || is_unknown && open.did.is_call() { Saw::Unknown } else { saw };
        client.finish(now, &open, saw, &mut self.lent);
        if let (Phase::Drain, Did::Pop { .. }, Saw::Refused(_)) = (self.phase, &open.did, saw) {
            self.drained += 1;
        }
        if let Saw::Done { token, index } = saw {
            let (history, at) = (&mut self.history, open.shard as usize);
            history.applied[at] = history.applied[at].max(index);
            history.tokens[at] = history.tokens[at].max(token);
        }
        client.record(now, open, saw, &mut self.history);
        let closes = |open: &Open| matches!(open.did, Did::Close { .. });
        if client.closing && !client.open.iter().any(closes) {
            client.renew_session(now, &mut self.history);
        }
        Ok(())
    }
}

impl Client {
    pub(super) fn up_to(&mut self, millis: u64) -> Duration {
        Duration::from_millis(self.chance.u64(1..millis))
    }

    fn session_ttl(&self) -> Duration {
        Duration::from_millis(u64::from(self.session_ttl_ms))
    }

    fn record(&self, now: Time, open: Open, saw: Saw, history: &mut History) {
        let (did, invoked) = (open.did, open.invoked);
        history.records.push(Record { client: self.id, did, invoked, replied: now, saw });
    }

    /// Reads from who led before, or writes to who leads now. Every other client writes first, and reads what it wrote.
    fn ask_both(&mut self, now: Time, confusion: Confusion, values: &mut u64) {
        self.next_at = now + self.up_to(CONFUSED_PAUSE_MILLIS_MAX);
        let in_shard = |key: &u8| wire::name::shard(&key_name(*key), SHARDS) == confusion.shard;
        let keys: Vec<u8> = (0..KEYS).filter(in_shard).collect();
        let Some(key) = self.chance.choice(keys) else { return };
        *values += 1;
        let wrote = self.wrote.filter(in_shard);
        let (reads, key) = match (self.id.is_multiple_of(2), wrote) {
            (true, Some(key)) => (true, key),
            (true, None) => (false, key),
            (false, _) => (self.chance.bool(), key),
        };
        let did = if reads { Did::Get { key } } else { Did::put(key, *values) };
        let to = if reads { confusion.deposed } else { confusion.elected };
        self.shards[confusion.shard as usize].guess = to;
        self.call(now, did);
    }

    /// A call that waits may be given up: the next one says that it was answered.
    fn give_up(&mut self) {
        for at in 0..self.open.len() {
            if self.open[at].did.waits() && self.chance.u32(..GIVES_UP_ONE_IN) == 0 {
                self.open[at].given_up = true;
            }
        }
    }

    /// What is to be given back, if there is something.
    fn give_back(&mut self, now: Time, works: bool, history: &mut History) -> Option<Did> {
        let due = self.holding.iter().position(|held| now >= held.release_at || !works);
        if let Some(at) = due {
            let Held { lock, fence, count, .. } = self.holding[at];
            match count {
                1 => self.end_hold(now, at, history),
                _ => self.holding[at].count -= 1,
            }
            return Some(Did::Release { lock, fence });
        }
        let due = self.messages.iter().position(|kept| now >= kept.until || !works)?;
        let Kept { queue, id, delivery, .. } = self.messages.remove(due);
        let back = works && self.chance.u32(..4) == 0;
        let delay_ms = if self.chance.u32(..3) == 0 { 0 } else { self.chance.u32(50..700) };
        Some(match back {
            true => Did::Nack { queue, id, delivery, delay_ms },
            false => Did::Ack { queue, id, delivery },
        })
    }

    fn call(&mut self, now: Time, did: Did) {
        let shard = did.shard();
        let in_shard = &mut self.shards[shard as usize];
        in_shard.sequence += u64::from(did.is_call());
        let sequence = in_shard.sequence;
        if self.chance.u32(..STRAYS_ONE_IN) == 0 {
            in_shard.guess = self.chance.u32(..self.nodes);
        }
        let session = match did {
            Did::Reopen { session, .. } => session,
            _ => self.session,
        };
        self.open.push(Open {
            did,
            shard,
            session,
            invoked: now,
            request: 0,
            opening: false,
            sequence,
            again_at: now,
            tries: 0,
            given_up: false,
        });
        self.send_again(now, self.open.len() - 1);
    }

    /// Sends what is open, under a new request id and the same sequence.
    fn send_again(&mut self, now: Time, at: usize) {
        self.requests += 1;
        let mut open = self.open[at].clone();
        open.request = self.requests;
        open.opening = !self.shards[open.shard as usize].opened && open.did.is_call();
        open.tries += u32::from(!open.opening);
        let patience = match open.did {
            Did::Acquire { .. } => PATIENCE * 3,
            Did::Pop { wait_ms, .. } => PATIENCE + Duration::from_millis(u64::from(wait_ms)),
            _ => PATIENCE,
        };
        if now > open.invoked && now >= open.again_at && open.again_at > open.invoked {
            // Nobody answered: perhaps another node does.
            self.shards[open.shard as usize].guess = self.chance.u32(..self.nodes);
        }
        open.again_at = now + patience;
        let to = self.shards[open.shard as usize].guess;
        let (mut frame, shard) = (Vec::new(), open.shard);
        if open.opening {
            let body = SessionOpen { session: self.session, ttl_ms: self.session_ttl_ms };
            let header = Header { shard, ..Header::new(SessionOpen::KIND, open.request) };
            wire::frame(&mut frame, &header, |b| body.encode(b));
        } else {
            self.encode(&open, &mut frame);
        }
        let is_signed = !matches!(open.did, Did::Get { .. });
        let sign = is_signed.then_some(open.session);
        let call = open.did.is_call().then_some((shard, open.sequence));
        self.open[at] = open;
        self.send(to, frame, sign, call);
    }

    fn encode(&self, open: &Open, out: &mut Vec<u8>) {
        let of_shard = self.open.iter().filter(|o| o.shard == open.shard && o.did.is_call());
        let unanswered = of_shard.filter(|o| !o.given_up && o.session == open.session);
        let below = unanswered.map(|open| open.sequence).min().unwrap_or(open.sequence);
        let stamp = Stamp {
            session: open.session,
            sequence: open.sequence,
            answered_below: below.min(open.sequence),
            session_ttl_ms: self.session_ttl_ms,
        };
        let carried = match open.did {
            Did::Put { value, .. } | Did::Push { value, .. } => {
                payload(value, self.value_bytes_max)
            }
            _ => Vec::new(),
        };
        let name = open.did.name();
        let request = open.did.request(stamp, &name, &carried);
        let kind = request.facts().kind();
        let header = Header { shard: open.shard, ..Header::new(kind, open.request) };
        wire::frame(out, &header, |out| request.encode(out));
    }

    fn send(&mut self, to: u32, frame: Vec<u8>, sign: Option<[u8; 16]>, call: Option<(u32, u64)>) {
        let opens = self.conns[to as usize].is_none();
        if opens {
            self.generation += 1;
            self.conns[to as usize] = Some(self.generation);
        }
        let generation = self.conns[to as usize].expect("the connection was just made");
        let conn = ConnId { index: self.id, generation };
        self.sends.push(Send { to, conn, opens, frame, sign, call });
    }

    /// Its connections are gone, with what is on its way over them.
    fn disconnect(&mut self) {
        for (conn, node) in self.conns.iter_mut().zip(0..) {
            if let Some(generation) = conn.take() {
                self.broken.push((node, ConnId { index: self.id, generation }));
            }
        }
    }

    fn beat(&mut self, now: Time) {
        let ttl = self.session_ttl();
        self.beats.retain(|(_, sent)| now.since(*sent) < ttl);
        for to in 0..self.nodes {
            self.requests += 1;
            self.beats.push((self.requests, now));
            let mut frame = Vec::new();
            let body = Heartbeat { session: self.session };
            let header = Header::new(Heartbeat::KIND, self.requests);
            wire::frame(&mut frame, &header, |b| body.encode(b));
            self.send(to, frame, Some(self.session), None);
        }
    }

    fn on_alive(&mut self, request: u64, shards: &[u8]) {
        let Some((_, sent)) = self.beats.iter().find(|(r, _)| *r == request).copied() else {
            return;
        };
        let ttl = self.session_ttl();
        for shard in shards.chunks_exact(4) {
            let shard = u32::from_le_bytes(shard.try_into().expect("a chunk of four bytes"));
            let guard = &mut self.shards[shard as usize].guard;
            *guard = (*guard).max(Some(sent + (ttl - ttl / GUARD_DRIFT_DIVISOR)));
        }
    }

    fn retarget(&mut self, now: Time, at: usize, node: u32) {
        let guess = if node > 0 { node - 1 } else { self.chance.u32(..self.nodes) };
        self.shards[self.open[at].shard as usize].guess = guess;
        // So soon that it counts as the same try.
        self.open[at].again_at = now + Duration::from_millis(self.chance.u64(1..40));
    }

    /// A shard says that the session ended, or never was: all calls by it came to nobody knows what.
    fn session_ended(
        &mut self,
        now: Time,
        told: Open,
        history: &mut History,
    ) -> Result<(), String> {
        let guard = self.shards[told.shard as usize].guard;
        if guard.is_some_and(|until| now < until) && !self.closing {
            return Err(format!("client {}: its session ended early", self.id));
        }
        self.record(now, told, Saw::Unknown, history);
        self.renew_session(now, history);
        Ok(())
    }

    /// Ends the session, with whatever it has.
    fn close(&mut self, now: Time, history: &mut History) {
        while !self.holding.is_empty() {
            self.end_hold(now, 0, history);
        }
        self.closing = true;
        let opened = (0..SHARDS).filter(|shard| self.shards[*shard as usize].opened);
        let opened: Vec<u32> = opened.collect();
        for shard in &opened {
            self.call(now, Did::Close { shard: *shard });
        }
        if opened.is_empty() {
            self.renew_session(now, history);
        }
    }

    /// The session ended: everything that it held is gone, and the next one begins anew.
    fn renew_session(&mut self, now: Time, history: &mut History) {
        while !self.holding.is_empty() {
            self.end_hold(now, 0, history);
        }
        let (of_it, others): (Vec<Open>, Vec<Open>) = std::mem::take(&mut self.open)
            .into_iter()
            .partition(|open| open.did.is_call() && open.session == self.session);
        for open in of_it {
            self.record(now, open, Saw::Unknown, history);
        }
        self.open = others;
        self.memory.before = Some(self.session);
        self.session = self.chance.id();
        self.session_ttl_ms = [1_000, 2_000, 2_000, 3_000][self.chance.usize(..4)];
        self.shards.iter_mut().for_each(|s| *s = InShard { guess: s.guess, ..Default::default() });
        self.messages.clear();
        self.beats.clear();
        self.closing = false;
    }

    fn end_hold(&mut self, now: Time, at: usize, history: &mut History) {
        let Held { lock, exclusive, fence, from, lease, .. } = self.holding.remove(at);
        let shard = Did::Release { lock, fence }.shard();
        let guard = self.shards[shard as usize].guard.unwrap_or(from);
        let to = now.min(guard).min(lease);
        history.holds.push(Hold { client: self.id, lock, exclusive, fence, from, to });
    }

    /// Whether it holds a lock, or may hold it once what it asked for is answered.
    pub(super) fn may_hold(&self, lock: u8) -> bool {
        let concerns = |open: &Open| match open.did {
            Did::Acquire { lock: of, .. } | Did::Release { lock: of, .. } => of == lock,
            _ => false,
        };
        self.holding.iter().any(|held| held.lock == lock) || self.open.iter().any(concerns)
    }

    /// What an answer means for what the client does next.
    fn finish(&mut self, now: Time, open: &Open, saw: Saw, lent: &mut Vec<(u8, u64, u32)>) {
        self.memory.on_answer(&open.did, saw);
        match (&open.did, saw) {
            (Did::Put { key, .. }, Saw::Done { .. }) => self.wrote = Some(*key),
            // Its session ends, and everything that it was given with it.
            (Did::Acquire { .. }, _) if self.closing => {}
            (Did::Acquire { lock, exclusive, lease_ms, .. }, Saw::Done { token, .. }) => {
                let keeps = self.up_to(self.load.hold_millis_max);
                let release_at = if open.given_up { now } else { now + keeps };
                // A leader's clock may be faster, and the lease began after it was asked for.
                let lease_ms = u64::from(*lease_ms);
                let lasts = Duration::from_micros(lease_ms * 1_000 * 19 / 20);
                let lease = if lease_ms == 0 { Time::MAX } else { open.invoked + lasts };
                let held =
                    self.holding.iter_mut().find(|held| (held.lock, held.fence) == (*lock, token));
                match held {
                    Some(held) => {
                        held.count += 1;
                        held.lease = held.lease.max(lease);
                    }
                    None => self.holding.push(Held {
                        lock: *lock,
                        exclusive: *exclusive,
                        fence: token,
                        from: now,
                        lease,
                        release_at,
                        count: 1,
                    }),
                }
            }
            (Did::Release { lock, fence }, _) if !self.may_hold(*lock) => {
                self.memory.on_given_back(*lock, *fence);
            }
            // It may have been granted before it was given up, and then it is held.
            (Did::Acquire { .. }, Saw::Unknown) if open.tries > 1 => self.memory.doubts = true,
            (Did::Pop { queue, .. }, Saw::Message { id, delivery, .. }) => {
                let queue = *queue;
                if self.chance.u32(..8) == 0 {
                    return lent.push((queue, id, delivery));
                }
                let keeps = self.chance.u32(..4) == 0;
                let until = if keeps { now + self.up_to(800) } else { now };
                self.messages.push(Kept { queue, id, delivery, until });
            }
            _ => {}
        }
    }
}
