//! Seeded clients: each has a session, does one thing after the other, sends it again under the same
//! sequence until it is answered, and writes down what it saw.

use super::{NODES_MAX, SHARDS};
use engine::ids::ConnId;
use engine::time::{Duration, Time};
use wire::limits::FRAME_BYTES_MAX;
use wire::message::*;
use wire::{Code, Header, Kind};

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
}

const TTL: Duration = Duration::from_millis(2_000);
/// The share of the time to live that a client gives away to a leader's clock that is faster: one in so many.
const GUARD_DRIFT_DIVISOR: u32 = 20;
const HEARTBEAT: Duration = Duration::from_millis(400);
const PATIENCE: Duration = Duration::from_millis(350);
const VISIBILITY_MS: u32 = 1_200;
/// A client that looks what it wants to do falls asleep, one time in so many: it sends nothing for a while.
const SLEEPS_ONE_IN: u32 = 300;
/// A call goes to any node and not where the leader is believed to be, one time in so many.
const STRAYS_ONE_IN: u32 = 4;
/// The longest pause between two calls of a client that asks two leaders, in milliseconds.
const CONFUSED_PAUSE_MILLIS_MAX: u64 = 4;
const DRAIN_WAIT_MS: u32 = 2_500;

/// What a client did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Did {
    /// Wrote a line; the value is unique in the run.
    Put { key: u8, value: u64 },
    /// Read a line.
    Get { key: u8 },
    /// Deleted a line.
    Delete { key: u8 },
    /// Asked for a lock.
    Acquire { lock: u8, exclusive: bool },
    /// Gave a lock back.
    Release { lock: u8, fence: u64 },
    /// Pushed a message; the value is unique in the run.
    Push { queue: u8, value: u64 },
    /// Asked for a message.
    Pop { queue: u8, wait_ms: u32 },
    /// Acknowledged a message.
    Ack { queue: u8, id: u64, delivery: u32 },
    /// Gave a message back.
    Nack { queue: u8, id: u64, delivery: u32 },
}

/// What it was told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Saw {
    Done {
        token: u64,
        index: u64,
    },
    Line {
        version: u64,
        value: u64,
    },
    Message {
        id: u64,
        delivery: u32,
        value: u64,
    },
    Refused(Code),
    /// The session ended before an answer came: it may have happened or not.
    Unknown,
}

/// One thing that a client did.
#[derive(Clone, Debug)]
pub struct Record {
    #[expect(dead_code, reason = "it is shown when a check fails")]
    pub client: u32,
    pub did: Did,
    pub invoked: Time,
    pub replied: Time,
    pub saw: Saw,
}

/// A stretch in which a client had reason to believe that it held a lock.
#[derive(Clone, Debug)]
pub struct Hold {
    pub client: u32,
    pub lock: u8,
    pub exclusive: bool,
    #[expect(dead_code, reason = "it is shown when a check fails")]
    pub fence: u64,
    pub from: Time,
    pub to: Time,
}

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
    /// A connection that this one replaces.
    pub closes: Option<(u32, ConnId)>,
    pub frame: Vec<u8>,
}

#[derive(Clone)]
struct Open {
    did: Did,
    shard: u32,
    invoked: Time,
    /// The request whose answer is awaited; of the session's opening or of the call itself.
    request: u64,
    opening: bool,
    sequence: u64,
    /// When it is sent again.
    again_at: Time,
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

struct Client {
    id: u32,
    session: [u8; 16],
    shards: Vec<InShard>,
    /// The generation of the connection to each node, while it stands.
    conns: [Option<u32>; NODES_MAX as usize],
    generation: u32,
    requests: u64,
    open: Option<Open>,
    next_at: Time,
    heartbeat_at: Time,
    /// When each heartbeat was sent, by request.
    beats: Vec<(u64, Time)>,
    holding: Option<(u8, bool, u64, Time)>,
    holding_until: Time,
    message: Option<(u8, u64, u32)>,
    sends: Vec<Send>,
    /// The arrival of the last frame: frames of a connection don't overtake each other.
    last_arrival: Time,
    value_bytes_max: usize,
    /// How many nodes there are.
    nodes: u32,
    load: Load,
    asleep_until: Time,
    chance: fastrand::Rng,
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
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Work,
    Finish,
    Drain,
    /// Nobody says anything any more: sessions end, and everything comes to rest.
    Rest,
}

fn key_name(key: u8) -> Vec<u8> {
    format!("cache/k{key}").into_bytes()
}
fn lock_name(lock: u8) -> Vec<u8> {
    format!("locks/l{lock}").into_bytes()
}
fn queue_name(queue: u8) -> Vec<u8> {
    format!("queue/q{queue}").into_bytes()
}

const KEYS: u8 = 5;
const LOCKS: u8 = 3;
const QUEUES: u8 = 2;

impl Clients {
    pub fn new(seed: u64, value_bytes_max: usize, nodes: u32, load: Load) -> Clients {
        let mut chance = fastrand::Rng::with_seed(seed);
        let clients = (0..load.clients).map(|id| Client {
            id,
            session: chance.u128(..).to_le_bytes(),
            shards: vec![InShard::default(); SHARDS as usize],
            conns: [None; NODES_MAX as usize],
            generation: 0,
            requests: 0,
            open: None,
            next_at: Time(0),
            heartbeat_at: Time(0),
            beats: Vec::new(),
            holding: None,
            holding_until: Time(0),
            message: None,
            sends: Vec::new(),
            last_arrival: Time(0),
            value_bytes_max,
            nodes,
            load,
            asleep_until: Time(0),
            chance: chance.fork(),
        });
        Clients {
            clients: clients.collect(),
            history: History::default(),
            values: 0,
            phase: Phase::Work,
            drained: 0,
            confusion: None,
        }
    }

    /// Whoever is idle writes to one node and reads from the other, for a while.
    pub fn confuse(&mut self, confusion: Confusion) {
        self.confusion = Some(confusion);
        for client in &mut self.clients {
            client.next_at = Time(0);
        }
    }

    pub fn finish(&mut self) {
        self.phase = Phase::Finish;
    }

    pub fn are_finished(&self) -> bool {
        self.phase == Phase::Rest
    }

    fn are_idle(&self) -> bool {
        let idle = |c: &Client| c.open.is_none() && c.holding.is_none() && c.message.is_none();
        self.clients.iter().all(idle)
    }

    pub fn unfinished(&self) -> String {
        let open = self.clients.iter().filter_map(|c| c.open.as_ref().map(|o| (c.id, &o.did)));
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

    /// When the client wants to look again.
    pub fn wake_at(&self, client: u32) -> Time {
        let client = &self.clients[client as usize];
        let next = client.open.as_ref().map_or(client.next_at, |open| open.again_at);
        let done = match self.phase {
            Phase::Work | Phase::Finish => false,
            Phase::Drain => client.id != 0,
            Phase::Rest => true,
        };
        let rests = done && client.open.is_none();
        let at = if rests { client.heartbeat_at } else { next.min(client.heartbeat_at) };
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
        if now >= client.heartbeat_at {
            client.heartbeat_at = now + HEARTBEAT;
            if self.phase != Phase::Rest {
                client.beat(now);
            }
        }
        match &client.open {
            Some(open) if now >= open.again_at => client.send_again(now),
            Some(_) => {}
            None if now >= client.next_at => self.begin(now, id),
            None => {}
        }
    }

    /// Begins the next thing.
    fn begin(&mut self, now: Time, id: u32) {
        let phase = self.phase;
        let client = &mut self.clients[id as usize];
        client.next_at = now + client.up_to(client.load.pause_millis_max);
        let did = if let Some((lock, _, fence, _)) = client.holding {
            if now < client.holding_until && phase == Phase::Work {
                return;
            }
            client.end_hold(now, &mut self.history);
            Did::Release { lock, fence }
        } else if let Some((queue, id, delivery)) = client.message.take() {
            let back = phase == Phase::Work && client.chance.u32(..5) == 0;
            if back { Did::Nack { queue, id, delivery } } else { Did::Ack { queue, id, delivery } }
        } else {
            match phase {
                Phase::Work => match self.confusion.filter(|confusion| now < confusion.until) {
                    Some(confusion) => return client.ask_both(now, confusion, &mut self.values),
                    None => client.choose(&mut self.values),
                },
                Phase::Drain if id == 0 && self.drained < QUEUES => {
                    Did::Pop { queue: self.drained, wait_ms: DRAIN_WAIT_MS }
                }
                _ => return,
            }
        };
        client.call(now, did);
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
                self.on_answer(now, id, frame.header, frame.body)?;
            }
        }
        Ok(())
    }

    fn on_answer(&mut self, now: Time, id: u32, header: Header, body: &[u8]) -> Result<(), String> {
        let client = &mut self.clients[id as usize];
        let Some(open) = client.open.clone() else { return Ok(()) };
        if open.request != header.request {
            return Ok(()); // The answer to a try that was given up.
        }
        let saw = read_answer(header.kind, body)?;
        match saw {
            Saw::Refused(Code::NotLeader | Code::Unavailable | Code::Busy) => {
                let error = Error::decode(body).map_err(|e| e.to_string())?;
                client.retarget(now, open.shard, error.node);
                return Ok(());
            }
            Saw::Refused(Code::SessionUnknown) => {
                let guard = client.shards[open.shard as usize].guard;
                if guard.is_some_and(|until| now < until) {
                    return Err(format!("client {id}: its session ended early"));
                }
                client.end_hold(now, &mut self.history);
                client.renew_session();
            }
            // While the cluster is upgraded. Nothing was done: there is nothing to write down.
            Saw::Refused(Code::UnknownKind | Code::LevelTooLow) => {
                self.history.too_new += 1;
                client.open = None;
                client.finish(now, &open, saw);
                return Ok(());
            }
            _ if open.opening => {
                client.shards[open.shard as usize].opened = true;
                client.send_again(now);
                return Ok(());
            }
            _ => {}
        }
        let saw = if saw == Saw::Refused(Code::SessionUnknown) { Saw::Unknown } else { saw };
        client.open = None;
        client.finish(now, &open, saw);
        if let (Phase::Drain, Did::Pop { .. }, Saw::Refused(_)) = (self.phase, &open.did, saw) {
            self.drained += 1;
        }
        if let Saw::Done { token, index } = saw {
            let (history, at) = (&mut self.history, open.shard as usize);
            history.applied[at] = history.applied[at].max(index);
            history.tokens[at] = history.tokens[at].max(token);
        }
        let (did, invoked) = (open.did, open.invoked);
        self.history.records.push(Record { client: id, did, invoked, replied: now, saw });
        Ok(())
    }
}

impl Client {
    fn up_to(&mut self, millis: u64) -> Duration {
        Duration::from_millis(self.chance.u64(1..millis))
    }

    fn choose(&mut self, values: &mut u64) -> Did {
        *values += 1;
        let (value, key) = (*values, self.chance.u8(..KEYS));
        let queue = self.chance.u8(..QUEUES);
        let wait_ms = if self.chance.bool() { 0 } else { 400 };
        match self.chance.u32(..100) {
            0..30 => Did::Put { key, value },
            30..55 => Did::Get { key },
            55..60 => Did::Delete { key },
            60..75 => {
                Did::Acquire { lock: self.chance.u8(..LOCKS), exclusive: self.chance.u32(..4) > 0 }
            }
            call if call < 75 + self.load.push_percent => Did::Push { queue, value },
            _ => Did::Pop { queue, wait_ms },
        }
    }

    /// Reads from who led before, or writes to who leads now.
    fn ask_both(&mut self, now: Time, confusion: Confusion, values: &mut u64) {
        self.next_at = now + self.up_to(CONFUSED_PAUSE_MILLIS_MAX);
        let in_shard = |key: &u8| wire::name::shard(&key_name(*key), SHARDS) == confusion.shard;
        let keys: Vec<u8> = (0..KEYS).filter(in_shard).collect();
        let Some(key) = self.chance.choice(keys) else { return };
        *values += 1;
        let reads = self.chance.bool();
        let did = if reads { Did::Get { key } } else { Did::Put { key, value: *values } };
        let to = if reads { confusion.deposed } else { confusion.elected };
        self.shards[confusion.shard as usize].guess = to;
        self.call(now, did);
    }

    fn call(&mut self, now: Time, did: Did) {
        let name = match &did {
            Did::Put { key, .. } | Did::Get { key } | Did::Delete { key } => key_name(*key),
            Did::Acquire { lock, .. } | Did::Release { lock, .. } => lock_name(*lock),
            Did::Push { queue, .. }
            | Did::Pop { queue, .. }
            | Did::Ack { queue, .. }
            | Did::Nack { queue, .. } => queue_name(*queue),
        };
        let shard = wire::name::shard(&name, SHARDS);
        let in_shard = &mut self.shards[shard as usize];
        let is_read = matches!(did, Did::Get { .. });
        in_shard.sequence += u64::from(!is_read);
        let sequence = in_shard.sequence;
        if self.chance.u32(..STRAYS_ONE_IN) == 0 {
            in_shard.guess = self.chance.u32(..self.nodes);
        }
        let open =
            Open { did, shard, invoked: now, request: 0, opening: false, sequence, again_at: now };
        self.open = Some(open);
        self.send_again(now);
    }

    /// Sends what is open, under a new request id and the same sequence.
    fn send_again(&mut self, now: Time) {
        let Some(mut open) = self.open.take() else { return };
        self.requests += 1;
        open.request = self.requests;
        let in_shard = self.shards[open.shard as usize];
        let is_read = matches!(open.did, Did::Get { .. });
        open.opening = !in_shard.opened && !is_read;
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
        let mut frame = Vec::new();
        if open.opening {
            let body = SessionOpen { session: self.session, ttl_ms: TTL.as_millis() as u32 };
            self.frame(SessionOpen::KIND, &open, &mut frame, |b| body.encode(b));
        } else {
            self.encode(&open, &mut frame);
        }
        self.open = Some(open);
        self.send(to, frame);
    }

    fn frame(&self, kind: Kind, open: &Open, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
        let header = Header { shard: open.shard, ..Header::new(kind, open.request) };
        wire::frame(out, &header, body);
    }

    fn encode(&self, open: &Open, out: &mut Vec<u8>) {
        let session = self.session;
        let (sequence, answered_below) = (open.sequence, open.sequence);
        match &open.did {
            Did::Put { key, value } => {
                let (key, value) = (key_name(*key), self.payload(*value));
                let body = CachePut {
                    session,
                    sequence,
                    answered_below,
                    version: 0,
                    ttl_ms: 0,
                    expect: 0,
                    key: &key,
                    value: &value,
                };
                self.frame(CachePut::KIND, open, out, |b| body.encode(b));
            }
            Did::Get { key } => {
                let key = key_name(*key);
                self.frame(CacheGet::KIND, open, out, |b| CacheGet { key: &key }.encode(b));
            }
            Did::Delete { key } => {
                let key = key_name(*key);
                let body = CacheDelete {
                    session,
                    sequence,
                    answered_below,
                    version: 0,
                    expect: 0,
                    key: &key,
                };
                self.frame(CacheDelete::KIND, open, out, |b| body.encode(b));
            }
            Did::Acquire { lock, exclusive } => {
                let name = lock_name(*lock);
                let body = LockAcquire {
                    session,
                    sequence,
                    answered_below,
                    wait_ms: if open.sequence.is_multiple_of(3) { 0 } else { 700 },
                    lease_ms: 0,
                    mode: 1 + u8::from(*exclusive),
                    name: &name,
                };
                self.frame(LockAcquire::KIND, open, out, |b| body.encode(b));
            }
            Did::Release { lock, fence } => {
                let name = lock_name(*lock);
                let body =
                    LockRelease { session, sequence, answered_below, fence: *fence, name: &name };
                self.frame(LockRelease::KIND, open, out, |b| body.encode(b));
            }
            Did::Push { queue, value } => {
                let (name, payload) = (queue_name(*queue), self.payload(*value));
                let body = QueuePush {
                    session,
                    sequence,
                    answered_below,
                    priority: (value % 3) as u8,
                    name: &name,
                    payload: &payload,
                };
                self.frame(QueuePush::KIND, open, out, |b| body.encode(b));
            }
            Did::Pop { queue, wait_ms } => {
                let name = queue_name(*queue);
                let body = QueuePop {
                    session,
                    sequence,
                    answered_below,
                    wait_ms: *wait_ms,
                    visibility_ms: VISIBILITY_MS,
                    name: &name,
                };
                self.frame(QueuePop::KIND, open, out, |b| body.encode(b));
            }
            Did::Ack { queue, id, delivery } => {
                let name = queue_name(*queue);
                let (id, delivery) = (*id, *delivery);
                let body =
                    QueueAck { session, sequence, answered_below, id, delivery, name: &name };
                self.frame(QueueAck::KIND, open, out, |b| body.encode(b));
            }
            Did::Nack { queue, id, delivery } => {
                let name = queue_name(*queue);
                let body = QueueNack {
                    session,
                    sequence,
                    answered_below,
                    id: *id,
                    delivery: *delivery,
                    delay_ms: 100,
                    name: &name,
                };
                self.frame(QueueNack::KIND, open, out, |b| body.encode(b));
            }
        }
    }

    /// What is written as `value`: its eight bytes, and behind them bytes that follow from it.
    fn payload(&self, value: u64) -> Vec<u8> {
        let mut bytes = value.to_le_bytes().to_vec();
        let mixed = value.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        bytes.resize(8.max(mixed as usize % (self.value_bytes_max + 1)), value as u8);
        bytes
    }

    fn send(&mut self, to: u32, frame: Vec<u8>) {
        let opens = self.conns[to as usize].is_none();
        if opens {
            self.generation += 1;
            self.conns[to as usize] = Some(self.generation);
        }
        let generation = self.conns[to as usize].expect("the connection was just made");
        let conn = ConnId { index: self.id, generation };
        self.sends.push(Send { to, conn, opens, closes: None, frame });
    }

    fn beat(&mut self, now: Time) {
        self.beats.retain(|(_, sent)| now.since(*sent) < TTL);
        for to in 0..self.nodes {
            self.requests += 1;
            self.beats.push((self.requests, now));
            let mut frame = Vec::new();
            let body = Heartbeat { session: self.session };
            let header = Header::new(Heartbeat::KIND, self.requests);
            wire::frame(&mut frame, &header, |b| body.encode(b));
            self.send(to, frame);
        }
    }

    fn on_alive(&mut self, request: u64, shards: &[u8]) {
        let Some((_, sent)) = self.beats.iter().find(|(r, _)| *r == request).copied() else {
            return;
        };
        for shard in shards.chunks_exact(4) {
            let shard = u32::from_le_bytes(shard.try_into().expect("a chunk of four bytes"));
            let guard = &mut self.shards[shard as usize].guard;
            *guard = (*guard).max(Some(sent + (TTL - TTL / GUARD_DRIFT_DIVISOR)));
        }
    }

    fn retarget(&mut self, now: Time, shard: u32, node: u32) {
        let guess = if node > 0 { node - 1 } else { self.chance.u32(..self.nodes) };
        self.shards[shard as usize].guess = guess;
        if let Some(open) = &mut self.open {
            // So soon that it counts as the same try.
            open.again_at = now + Duration::from_millis(self.chance.u64(1..40));
        }
    }

    /// The session ended: everything that it held is gone, and the next one begins anew.
    fn renew_session(&mut self) {
        self.session = self.chance.u128(..).to_le_bytes();
        self.shards.iter_mut().for_each(|s| *s = InShard { guess: s.guess, ..Default::default() });
        self.holding = None;
        self.message = None;
        self.beats.clear();
    }

    fn end_hold(&mut self, now: Time, history: &mut History) {
        let Some((lock, exclusive, fence, from)) = self.holding.take() else { return };
        let shard = wire::name::shard(&lock_name(lock), SHARDS);
        let guard = self.shards[shard as usize].guard.unwrap_or(from);
        let to = now.min(guard);
        history.holds.push(Hold { client: self.id, lock, exclusive, fence, from, to });
    }

    /// What an answer means for what the client does next.
    fn finish(&mut self, now: Time, open: &Open, saw: Saw) {
        match (&open.did, saw) {
            (Did::Acquire { lock, exclusive }, Saw::Done { token, .. }) => {
                self.holding = Some((*lock, *exclusive, token, now));
                self.holding_until = now + self.up_to(self.load.hold_millis_max);
            }
            (Did::Pop { queue, .. }, Saw::Message { id, delivery, .. }) => {
                self.message = Some((*queue, id, delivery));
            }
            _ => {}
        }
    }
}

fn read_answer(kind: Kind, body: &[u8]) -> Result<Saw, String> {
    let number = |bytes: &[u8]| -> Result<u64, String> {
        let (value, rest) = bytes.split_first_chunk().ok_or("a value is cut short")?;
        let whole = rest.iter().all(|byte| *byte == value[0]);
        if whole { Ok(u64::from_le_bytes(*value)) } else { Err("a value is mangled".into()) }
    };
    let malformed = |e: wire::WireError| e.to_string();
    Ok(match kind {
        Done::KIND => {
            let done = Done::decode(body).map_err(malformed)?;
            Saw::Done { token: done.token, index: done.index }
        }
        Value::KIND => {
            let line = Value::decode(body).map_err(malformed)?;
            Saw::Line { version: line.version, value: number(line.value)? }
        }
        Delivery::KIND => {
            let message = Delivery::decode(body).map_err(malformed)?;
            let value = number(message.payload)?;
            Saw::Message { id: message.id, delivery: message.delivery, value }
        }
        Error::KIND => {
            let error = Error::decode(body).map_err(malformed)?;
            Saw::Refused(Code::from_number(error.code).ok_or("an unknown error code")?)
        }
        other => return Err(format!("an unexpected answer of kind {other:?}")),
    })
}
