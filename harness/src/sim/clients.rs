//! Seeded clients: each has a session and a few calls open at a time, and writes down what it saw. What one is like is in
//! `client.rs`, what they ask for in `wants.rs`.

use super::calls::{Did, Hold, QUEUES, Record, Saw, read_answer};
use super::cells::Cells;
use super::client::{Client, Send, moment};
use super::lines::Asked;
use super::seats::{Layout, SHARDS_MAX, SeatId};
use super::twin::Twin;
use super::witness::Answered;
use engine::ids::ConnId;
use engine::time::{Duration, Time};
use wire::frames::Frame;
use wire::limits::FRAME_BYTES_MAX;
use wire::message::Welcome;
use wire::random::Random;
use wire::{Code, Detail, split};

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

/// How long a client waits for an answer before it asks once more.
pub(super) const PATIENCE: Duration = Duration::from_millis(350);
/// How often a client looks at least.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// A client that looks what it wants to do falls asleep, one time in so many: it sends nothing for a while.
const SLEEPS_ONE_IN: u32 = 300;
/// A client's connections all break, with what is open on them, one time in so many that it looks what it wants to do.
const BREAKS_ONE_IN: u32 = 250;
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
    pub applied: [u64; SHARDS_MAX as usize],
    pub tokens: [u64; SHARDS_MAX as usize],
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

/// All clients.
pub struct Clients {
    clients: Vec<Client>,
    pub history: History,
    /// When each looked last.
    looked_at: Vec<Time>,
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

impl Clients {
    pub fn new(
        seed: u64,
        value_bytes_max: usize,
        (nodes, layout): (u32, Layout),
        load: Load,
    ) -> Clients {
        let mut chance = Random::new(seed);
        let clients = (0..load.clients)
            .map(|id| Client::new(id, value_bytes_max, (nodes, layout), load, chance.fork()));
        Clients {
            clients: clients.collect(),
            history: History::default(),
            looked_at: vec![Time(0); load.clients as usize],
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
        self.clients.iter().all(Client::is_idle)
    }

    pub fn unfinished(&self) -> String {
        let open = self.clients.iter().flat_map(|c| c.open.iter().map(|o| (c.id, &o.did)));
        format!("clients wait: {:?}; {} queues drained", open.collect::<Vec<_>>(), self.drained)
    }

    pub fn connected(&self, client: u32, to: SeatId) -> Option<u32> {
        // The operator does not wait for an answer.
        self.clients.get(client as usize)?.lines.connected(to)
    }

    /// A node went away, or came back: nothing is left of its connections.
    pub fn forget_connections(&mut self, now: Time, node: u32) {
        self.clients.iter_mut().for_each(|client| client.forget(now, node));
    }

    pub fn path(&mut self, client: u32, now: Time, delay: Duration) -> Duration {
        let client = &mut self.clients[client as usize];
        client.last_arrival = client.last_arrival.max(now + delay) + Duration::from_nanos(1);
        client.last_arrival.since(now)
    }

    /// Who sleeps says nothing.
    fn is_silent(&self, client: u32, now: Time) -> bool {
        self.phase == Phase::Rest || now < self.clients[client as usize].asleep_until
    }

    pub fn take_sends(&mut self, client: u32, now: Time) -> Vec<Send> {
        match self.is_silent(client, now) {
            true => Vec::new(),
            false => self.clients[client as usize].lines.take_sends(),
        }
    }

    pub fn take_broken(&mut self, client: u32) -> Vec<(SeatId, ConnId)> {
        self.clients[client as usize].lines.take_broken()
    }

    /// When the client wants to look again.
    pub fn wake_at(&self, id: u32) -> Time {
        let client = &self.clients[id as usize];
        let looks = self.looked_at[id as usize] + LOOK_EVERY;
        let done = match self.phase {
            Phase::Work | Phase::Finish => !client.ready,
            Phase::Drain => client.id != 0,
            Phase::Rest => return looks,
        };
        let begins = !done && client.open.len() < client.window;
        let next = if begins { client.next_at } else { Time::MAX };
        next.min(client.wake_at()).min(looks).max(client.asleep_until)
    }

    /// # Errors
    /// What can't be.
    pub fn on_time(&mut self, now: Time, id: u32) -> Result<(), String> {
        self.looked_at[id as usize] = now;
        if self.phase == Phase::Finish && self.are_idle() {
            self.phase = Phase::Drain;
        }
        if self.phase == Phase::Drain && self.drained >= QUEUES && self.are_idle() {
            self.phase = Phase::Rest;
        }
        let client = &mut self.clients[id as usize];
        if now < client.asleep_until || self.phase == Phase::Rest {
            return Ok(());
        }
        if self.phase == Phase::Work && client.chance.u32(..SLEEPS_ONE_IN) == 0 {
            client.asleep_until = now + Duration::from_millis(client.chance.u64(500..4_500));
            return Ok(());
        }
        if self.phase == Phase::Work && client.chance.u32(..BREAKS_ONE_IN) == 0 {
            client.disconnect(now);
        }
        client.tick(now);
        if client.ready && client.open.len() < client.window && now >= client.next_at {
            self.begin(now, id);
        }
        self.settle(now, id)
    }

    /// Does what the core of a client left to be done.
    fn settle(&mut self, now: Time, id: u32) -> Result<(), String> {
        let client = &mut self.clients[id as usize];
        client.settle_all(now, &mut self.history, &mut self.lent)
    }

    /// Begins the next thing.
    fn begin(&mut self, now: Time, id: u32) {
        let phase = self.phase;
        let client = &mut self.clients[id as usize];
        client.next_at = now + client.up_to(client.load.pause_millis_max);
        if phase == Phase::Work {
            client.give_up(now, &mut self.history);
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
            None => client.close(now),
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
        while !bytes.is_empty() {
            let frame = split(bytes, FRAME_BYTES_MAX).map_err(|e| e.to_string())?;
            let frame = frame.ok_or("a node sent half a frame")?;
            bytes = &bytes[frame.used..];
            self.on_frame(now, id, generation, &frame, twins)?;
            self.settle(now, id)?;
        }
        Ok(())
    }

    fn on_frame(
        &mut self,
        now: Time,
        id: u32,
        generation: u32,
        frame: &Frame<'_>,
        twins: &mut [Twin],
    ) -> Result<(), String> {
        let (header, body) = (&frame.header, frame.body);
        let client = &mut self.clients[id as usize];
        // None: the connection broke meanwhile.
        let Some(link) = client.lines.link(generation) else { return Ok(()) };
        if header.kind == Welcome::KIND {
            let welcome = Welcome::decode(body).map_err(|e| e.to_string())?;
            client.lines.welcomed(generation);
            client.core.on_connected(moment(now), link, &welcome);
            return Ok(());
        }
        let mut saw = Saw::Unknown;
        if let Some(asked) = client.lines.answered(generation, header.request) {
            let stood;
            (saw, stood) = read_answer(header.kind, body)?;
            self.explain(now, id, &asked, (saw, stood), twins)?;
        }
        let client = &mut self.clients[id as usize];
        let finished = client.core.on_frame(moment(now), link, header, body);
        // An answer is by the session that is there after it.
        client.settle_all(now, &mut self.history, &mut self.lent)?;
        let Some(finished) = finished else { return client.holds_nothing_unknown(twins) };
        let settled = client.settle(now, finished, saw, &mut self.history, &mut self.lent)?;
        client.holds_nothing_unknown(twins)?;
        if let (Phase::Drain, Some((Did::Pop { .. }, Saw::Refused(_)))) = (self.phase, settled) {
            self.drained += 1;
        }
        Ok(())
    }

    /// A try of a call was answered: whether the log says so, and whether what the client was promised holds.
    fn explain(
        &mut self,
        now: Time,
        id: u32,
        asked: &Asked,
        (saw, stood): (Saw, Option<Detail<'_>>),
        twins: &mut [Twin],
    ) -> Result<(), String> {
        if let Saw::Refused(
            Code::NotLeader
            | Code::Unavailable
            | Code::Busy
            | Code::DeadlineExceeded
            | Code::UnknownKind
            | Code::LevelTooLow,
        ) = saw
        {
            return Ok(());
        }
        let Asked { call, did, shard, session, sequence, invoked, opened } = asked;
        let client = &self.clients[id as usize];
        let unknown = saw == Saw::Refused(Code::SessionUnknown) && did.is_call();
        if !opened && (unknown || matches!(did, Did::Close { .. })) {
            // It may have come before the session's opening did.
            client.count(*call, did, saw, &mut self.history.cells);
            return Ok(());
        }
        let answered = Answered {
            did,
            session: *session,
            sequence: *sequence,
            invoked: *invoked,
            replied: now,
            saw,
            stood,
        };
        let explained = twins[*shard as usize].explain(&answered);
        explained.map_err(|why| format!("client {id}, shard {shard}: {why}"))?;
        let client = &mut self.clients[id as usize];
        client.note_brought(*call, *shard, saw);
        client.count(*call, did, saw, &mut self.history.cells);
        let current = *session == client.core.session_id(super::client::SESSION);
        if unknown && current && client.is_guarded(now, *shard) {
            return Err(format!("client {id}: its session ended early"));
        }
        if let Saw::Done { token, index } = saw {
            let (history, at) = (&mut self.history, *shard as usize);
            history.applied[at] = history.applied[at].max(index);
            history.tokens[at] = history.tokens[at].max(token);
        }
        Ok(())
    }
}
