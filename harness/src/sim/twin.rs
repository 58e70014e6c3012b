//! A shard's services once more, as lists that are searched from end to end: what the committed log means.
//!
//! # How it works
//!
//! [`Twin::step`] takes each committed entry, in order, as soon as one node knows that it is committed. It ends what
//! is due by the entry's time, the earliest first, and does what the entry asks for. There is no table, no timer, no
//! window and no snapshot here, and nothing is ever forgotten. `witness.rs` compares with what clients were told, with
//! what replicas hold, and with the world's time.
//!
//! Numbers (fences, ids, versions) are not foretold: the twin knows which entry made one, learns it from whoever is
//! told first, and holds that later entries make higher ones.

mod lines;

use super::calls::Expect;
use engine::entry::{Entry, kind};
use engine::ids::Index;
use engine::time::{Duration, Time};
use std::collections::{BTreeMap, BTreeSet};
use wire::message::{CacheRequest, LockMode, LockRequest, QueueRequest, SessionRequest};
use wire::{Call, Code, Request};

pub type Id = [u8; 16];
const NEVER: u64 = u64::MAX;
/// What a line takes of the budget besides its key and its value.
pub const LINE_OVERHEAD_BYTES: usize = 96;
/// From this feature level on an ended session leaves its lines before it gives anything back.
const BOUNDED: u32 = 3;
/// From this level on a refusal says how things stood.
const DETAILS: u32 = 4;

/// A number that an entry made: the entry's index, and the how manieth of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Token {
    pub index: u64,
    nth: u32,
}

/// What the log says that a call was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    Waits,
    Done(Option<Token>),
    Delivered { id: Token, delivery: u32, value: u64 },
    Refused(Code, Option<Stood>),
}

/// How things stood that a call was refused for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stood {
    Version(Token),
    Holder { fence: Token, exclusive: bool },
}

/// Something that ends by itself.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// What was made earlier ends earlier, of all that is due at one moment.
    number: u64,
    /// By the group's clock.
    deadline: u64,
    /// How long it lasts; 0 = for ever.
    pub lasts_ms: u32,
    /// It began between these moments of the world.
    pub earliest: Time,
    pub latest: Time,
    /// How long the group could commit nothing until then.
    pub unable: Duration,
}

#[derive(Debug)]
pub struct Session {
    pub id: Id,
    pub ttl_ms: u32,
    pub span: Span,
    below: u64,
}

#[derive(Debug)]
pub struct Grant {
    pub lock: Vec<u8>,
    session: Id,
    fence: Token,
    exclusive: bool,
    count: u32,
    pub span: Span,
}

#[derive(Debug)]
pub struct Wait {
    session: Id,
    sequence: u64,
    pub span: Span,
    pub ask: Ask,
}

#[derive(Clone, Debug)]
pub enum Ask {
    Lock { name: Vec<u8>, exclusive: bool, lease_ms: u32 },
    Pop { name: Vec<u8>, visibility_ms: u32 },
}

#[derive(Debug)]
pub struct Message {
    pub queue: Vec<u8>,
    pub id: Token,
    /// What comes back at one moment comes back in the order in which it was pushed.
    number: u64,
    pub priority: u8,
    value: u64,
    delivery: u32,
    pub place: Place,
}

#[derive(Clone, Copy, Debug)]
pub enum Place {
    Ready,
    InFlight { session: Id, span: Span },
    Delayed(Span),
}

#[derive(Debug)]
pub struct Line {
    pub key: Vec<u8>,
    version: Token,
    value: u64,
    /// What it takes of the budget, in bytes.
    cost: usize,
    pub span: Span,
}

/// What is due, by its place in its list.
#[derive(Clone, Copy)]
enum Due {
    Session(usize),
    Grant(usize),
    Wait(usize),
    Message(usize),
    Line(usize),
}

/// What a line was: its version and its value, if it was there.
type Was = Option<(Token, u64)>;

/// A lock or a queue that somebody left.
#[derive(PartialEq)]
enum Left {
    Lock(Vec<u8>),
    Queue(Vec<u8>),
}

/// The services of one shard.
pub struct Twin {
    /// The entry that was done last.
    pub index: Index,
    /// The group's clock.
    clock: u64,
    made: u64,
    tokens: u32,
    /// The group's feature level.
    level: u32,
    pub sessions: Vec<Session>,
    /// When each session that ended did.
    pub ended: BTreeMap<Id, Time>,
    pub grants: Vec<Grant>,
    pub waits: Vec<Wait>,
    pub messages: Vec<Message>,
    /// In the order in which they were written.
    pub lines: Vec<Line>,
    /// What they may take, in bytes.
    lines_bytes_max: usize,
    pub answers: BTreeMap<(Id, u64), Answer>,
    /// What each line was, from when on.
    pub past: BTreeMap<Vec<u8>, Vec<(Time, Was)>>,
    /// Numbers that somebody was told.
    pub numbers: BTreeMap<Token, u64>,
    pub told: BTreeMap<u64, Token>,
    /// When clients first sent each call.
    pub sent: BTreeMap<(Id, u64), Time>,
    /// When the last frame that a session's client sent arrived, and how long the group could commit nothing until then.
    pub signs: BTreeMap<Id, (Time, Duration)>,
    /// The moment of the world at which the entry was seen to be committed, and one at which it was not yet proposed.
    now: Time,
    earliest: Time,
    /// How long the group could commit nothing so far.
    pub unable: Duration,
    /// How far clocks may be off, in millionths.
    pub off_millionths: u64,
    /// What ended by itself.
    pub ran_out: BTreeSet<&'static str>,
    /// How many there are of everything, once somebody has counted.
    pub sums: Option<[u64; 7]>,
}

impl Twin {
    /// An empty one. Clocks may be off by so many millionths, and lines may take so many bytes.
    pub fn new(off_millionths: u64, lines_bytes_max: usize) -> Twin {
        Twin {
            index: Index::ZERO,
            clock: 0,
            made: 0,
            tokens: 0,
            level: 1,
            sessions: Vec::new(),
            ended: BTreeMap::new(),
            grants: Vec::new(),
            waits: Vec::new(),
            messages: Vec::new(),
            lines: Vec::new(),
            lines_bytes_max,
            answers: BTreeMap::new(),
            past: BTreeMap::new(),
            numbers: BTreeMap::new(),
            told: BTreeMap::new(),
            sent: BTreeMap::new(),
            signs: BTreeMap::new(),
            now: Time(0),
            earliest: Time(0),
            unable: Duration::ZERO,
            off_millionths,
            ran_out: BTreeSet::new(),
            sums: None,
        }
    }

    /// Does the next entry.
    ///
    /// # Errors
    /// What ended early by the world's time.
    pub fn step(&mut self, at: Time, entry: &Entry<'_>) -> Result<(), String> {
        assert!(entry.header.index == self.index.next(), "entries come in order");
        (self.index, self.now, self.tokens) = (entry.header.index, at, 0);
        self.sums = None;
        self.clock = self.clock.max(entry.header.time.0);
        while let Some(due) = self.first_due() {
            self.end_due(due)?;
        }
        if entry.header.kind == kind::RENEW {
            for id in entry.payload.as_chunks::<16>().0 {
                self.renew(*id);
            }
            return Ok(());
        }
        self.request(entry)
    }

    fn request(&mut self, entry: &Entry<'_>) -> Result<(), String> {
        if entry.header.kind == kind::LEVEL {
            let level = entry.payload.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
            self.level = self.level.max(level);
        }
        if Request::facts_of(entry.header.kind).is_none() {
            return Ok(());
        }
        let request = Request::decode(entry.header.kind, entry.payload);
        let request = request.map_err(|code| format!("{}: {}", entry.header.index, code.slug()))?;
        if let Some(call) = request.call() {
            self.call(call, |twin| twin.answer((call.session, call.sequence), request));
            return Ok(());
        }
        match request {
            Request::Session(SessionRequest::SessionOpen(it)) => self.open(it.session, it.ttl_ms),
            Request::Session(SessionRequest::SessionClose(it)) => self.end_session(it.session),
            _ => {}
        }
        Ok(())
    }

    /// What a call does, and what it is answered.
    fn answer(&mut self, by: (Id, u64), request: Request<'_>) -> Answer {
        match request {
            Request::Lock(LockRequest::LockAcquire(m)) => {
                let exclusive = m.mode == LockMode::Exclusive;
                self.acquire(by, m.name.to_vec(), exclusive, m.wait_ms, m.lease_ms)
            }
            Request::Lock(LockRequest::LockRelease(m)) => self.release(by.0, m.name, m.fence),
            Request::Queue(QueueRequest::QueuePush(m)) => {
                self.push(m.name, m.priority, number(m.payload))
            }
            Request::Queue(QueueRequest::QueuePop(m)) => {
                self.pop(by, m.name.to_vec(), m.wait_ms, m.visibility_ms)
            }
            Request::Queue(QueueRequest::QueueAck(m)) => self.ack(m.name, m.id, m.delivery),
            Request::Queue(QueueRequest::QueueNack(m)) => {
                self.nack(m.name, m.id, m.delivery, m.delay_ms)
            }
            Request::Cache(CacheRequest::CachePut(m)) => {
                self.put(m.key, m.value, m.ttl_ms, Expect::of(m.expect, m.version))
            }
            Request::Cache(CacheRequest::CacheDelete(m)) => {
                self.delete(m.key, Expect::of(m.expect, m.version))
            }
            // No call, or one that the twin has to learn before the clients use it.
            other => unreachable!("the twin does not know how to {other}"),
        }
    }

    // ---- What ends by itself ----

    fn spans(&self) -> impl Iterator<Item = (Span, Due)> {
        let sessions = self.sessions.iter().enumerate().map(|(at, s)| (s.span, Due::Session(at)));
        let grants = self.grants.iter().enumerate().map(|(at, g)| (g.span, Due::Grant(at)));
        let waits = self.waits.iter().enumerate().map(|(at, w)| (w.span, Due::Wait(at)));
        let messages = self.messages.iter().enumerate();
        let messages = messages.filter_map(|(at, m)| Some((m.place.span()?, Due::Message(at))));
        let lines = self.lines.iter().enumerate().map(|(at, l)| (l.span, Due::Line(at)));
        sessions.chain(grants).chain(waits).chain(messages).chain(lines)
    }

    fn first_due(&self) -> Option<Due> {
        let due = self.spans().filter(|(span, _)| span.deadline <= self.clock);
        due.min_by_key(|(span, _)| (span.deadline, span.number)).map(|(_, due)| due)
    }

    fn end_due(&mut self, due: Due) -> Result<(), String> {
        match due {
            Due::Session(at) => {
                self.ends_by_itself("a session", self.sessions[at].span)?;
                self.end_session(self.sessions[at].id);
            }
            Due::Grant(at) => {
                self.ends_by_itself("a lock's lease", self.grants[at].span)?;
                let grant = self.grants.remove(at);
                self.advance_lock(&grant.lock);
            }
            Due::Wait(at) => {
                self.ends_by_itself("a wait", self.waits[at].span)?;
                let ask = self.waits[at].ask.clone();
                let answer = match &ask {
                    Ask::Lock { name, .. } => self.held(name, ask.timeout()),
                    Ask::Pop { .. } => Answer::Refused(ask.timeout(), None),
                };
                self.answer_wait(at, answer);
                self.advance(ask.left());
            }
            Due::Message(at) => {
                let (place, queue) = (self.messages[at].place, self.messages[at].queue.clone());
                let delayed = matches!(place, Place::Delayed(_));
                let what = if delayed { "a delay" } else { "a visibility" };
                self.ends_by_itself(what, place.span().expect("what is due has a span"))?;
                self.messages[at].place = Place::Ready;
                self.advance_queue(&queue);
            }
            Due::Line(at) => {
                self.ends_by_itself("a line", self.lines[at].span)?;
                let line = self.lines.remove(at);
                self.note_line(&line.key);
            }
        }
        Ok(())
    }

    /// It ended now: by the world's time that must not be early.
    fn ends_by_itself(&mut self, what: &'static str, span: Span) -> Result<(), String> {
        self.ran_out.insert(what);
        let lasts = u64::from(span.lasts_ms) * 1_000_000;
        let shortest = lasts as u128 * 1_000_000 / u128::from(1_000_000 + self.off_millionths);
        let lasted = self.now.since(span.earliest);
        if lasted.as_nanos() < shortest {
            return Err(format!("{what} ended early, after {lasted:?} of {} ms", span.lasts_ms));
        }
        Ok(())
    }

    /// A session's, which lasts a quarter longer than it says.
    fn life(&mut self, ttl_ms: u32) -> Span {
        let span = self.span(ttl_ms);
        Span { deadline: span.deadline + u64::from(ttl_ms) * 250_000, ..span }
    }

    /// A span that begins now.
    fn span(&mut self, lasts_ms: u32) -> Span {
        self.made += 1;
        let deadline = self.clock + u64::from(lasts_ms) * 1_000_000;
        Span {
            number: self.made,
            deadline: if lasts_ms == 0 { NEVER } else { deadline },
            lasts_ms,
            earliest: self.earliest,
            latest: self.now,
            unable: self.unable,
        }
    }

    fn token(&mut self) -> Token {
        self.tokens += 1;
        Token { index: self.index.0, nth: self.tokens }
    }

    fn is(&self, token: Token, number: u64) -> bool {
        self.numbers.get(&token) == Some(&number)
    }

    // ---- Sessions and calls ----

    fn open(&mut self, id: Id, ttl_ms: u32) {
        if self.sessions.iter().any(|session| session.id == id) {
            return self.renew(id);
        }
        if !self.ended.contains_key(&id) {
            let span = self.life(ttl_ms);
            self.sessions.push(Session { id, ttl_ms, span, below: 0 });
        }
    }

    fn renew(&mut self, id: Id) {
        let Some(at) = self.sessions.iter().position(|session| session.id == id) else { return };
        let (ttl_ms, number) = (self.sessions[at].ttl_ms, self.sessions[at].span.number);
        let span = self.life(ttl_ms);
        self.sessions[at].span = Span { number, ..span };
    }

    /// Waiters leave, locks become free, messages come back, and only then is the next in line served: so of several
    /// messages the first by priority is. Since level 3 whoever stood behind a waiter is served before that. No client
    /// here has as much as the machine would give back over several entries.
    fn end_session(&mut self, id: Id) {
        let Some(at) = self.sessions.iter().position(|session| session.id == id) else { return };
        self.sessions.remove(at);
        self.ended.insert(id, self.now);
        let mut left: Vec<(u64, Left)> = Vec::new();
        while let Some(wait) = self.waits.iter().position(|wait| wait.session == id) {
            left.push((self.waits[wait].span.number, self.waits[wait].ask.left()));
            self.end_wait(wait, Code::SessionUnknown);
        }
        if self.level >= BOUNDED {
            left.drain(..).for_each(|(_, left)| self.advance(left));
        }
        while let Some(grant) = self.grants.iter().position(|grant| grant.session == id) {
            let grant = self.grants.remove(grant);
            left.push((grant.span.number, Left::Lock(grant.lock)));
        }
        for message in &mut self.messages {
            if matches!(message.place, Place::InFlight { session, .. } if session == id) {
                message.place = Place::Ready;
                left.push((message.number, Left::Queue(message.queue.clone())));
            }
        }
        left.sort_by_key(|(number, _)| *number);
        left.into_iter().for_each(|(_, left)| self.advance(left));
    }

    pub fn lives(&self, id: Id) -> bool {
        self.sessions.iter().any(|session| session.id == id)
    }

    /// Below which sequence a session's calls are forgotten.
    pub fn below(&self, id: Id) -> u64 {
        let session = self.sessions.iter().find(|session| session.id == id);
        session.map_or(u64::MAX, |session| session.below)
    }

    /// Does a call once.
    fn call(
        &mut self,
        Call { session, sequence, answered_below }: Call,
        op: impl FnOnce(&mut Twin) -> Answer,
    ) {
        if let Some(sent) = self.sent.get(&(session, sequence)) {
            self.earliest = self.earliest.max(*sent);
        }
        let Some(at) = self.sessions.iter().position(|known| known.id == session) else { return };
        let below = self.sessions[at].below.max(answered_below);
        self.sessions[at].below = below;
        let given_up = |wait: &Wait| wait.session == session && wait.sequence < below;
        let mut left = Vec::new();
        while let Some(wait) = self.waits.iter().position(given_up) {
            left.push(self.waits[wait].ask.left());
            self.end_wait(wait, Code::SequenceStale);
        }
        left.into_iter().for_each(|left| self.advance(left));
        if sequence < below || self.answers.contains_key(&(session, sequence)) {
            return;
        }
        let answer = op(self);
        self.answers.insert((session, sequence), answer);
    }

    fn wait(&mut self, (session, sequence): (Id, u64), wait_ms: u32, ask: Ask) -> Answer {
        let span = self.span(wait_ms);
        self.waits.push(Wait { session, sequence, span, ask });
        Answer::Waits
    }

    fn end_wait(&mut self, at: usize, code: Code) {
        self.answer_wait(at, Answer::Refused(code, None));
    }
    fn answer_wait(&mut self, at: usize, answer: Answer) {
        let wait = self.waits.remove(at);
        self.answers.insert((wait.session, wait.sequence), answer);
    }

    /// Why a waiter is not served any more, although it still stands in line.
    fn is_over(&self, wait: &Wait) -> Option<Code> {
        let session = self.sessions.iter().find(|session| session.id == wait.session);
        if session.is_none_or(|session| session.span.deadline <= self.clock) {
            return Some(Code::SessionUnknown);
        }
        (wait.span.deadline <= self.clock).then(|| wait.ask.timeout())
    }

    fn advance(&mut self, left: Left) {
        match left {
            Left::Lock(name) => self.advance_lock(&name),
            Left::Queue(name) => self.advance_queue(&name),
        }
    }
}

// ---- Locks ----

impl Twin {
    fn acquire(
        &mut self,
        (session, sequence): (Id, u64),
        name: Vec<u8>,
        exclusive: bool,
        wait_ms: u32,
        lease_ms: u32,
    ) -> Answer {
        if let Some(again) = self.acquire_again(session, &name, exclusive, lease_ms) {
            return again;
        }
        let waited_for = self.waits.iter().any(|wait| wait.ask.is_for_lock(&name));
        if !waited_for && self.admits(&name, exclusive) {
            return self.grant(name, session, exclusive, lease_ms);
        }
        if wait_ms == 0 {
            return self.held(&name, Code::LockHeld);
        }
        self.wait((session, sequence), wait_ms, Ask::Lock { name, exclusive, lease_ms })
    }

    /// A lock that a session holds.
    pub fn lock_of(&self, session: Id) -> Option<&[u8]> {
        let grant = self.grants.iter().find(|grant| grant.session == session)?;
        Some(&grant.lock)
    }

    fn admits(&self, name: &[u8], exclusive: bool) -> bool {
        !self.grants.iter().any(|grant| grant.lock == name && (exclusive || grant.exclusive))
    }

    fn grant(&mut self, lock: Vec<u8>, session: Id, exclusive: bool, lease_ms: u32) -> Answer {
        let (span, fence) = (self.span(lease_ms), self.token());
        self.grants.push(Grant { lock, session, fence, exclusive, count: 1, span });
        Answer::Done(Some(fence))
    }

    /// A session asks for what it holds.
    fn acquire_again(
        &mut self,
        session: Id,
        name: &[u8],
        exclusive: bool,
        lease_ms: u32,
    ) -> Option<Answer> {
        let anew = self.span(lease_ms);
        let mut grants = self.grants.iter();
        let at = grants.position(|grant| grant.lock == name && grant.session == session)?;
        if exclusive && !self.grants[at].exclusive {
            return Some(self.held(name, Code::LockHeld));
        }
        let grant = &mut self.grants[at];
        grant.count += 1;
        if anew.deadline > grant.span.deadline {
            grant.span = Span { number: grant.span.number, ..anew };
        }
        Some(Answer::Done(Some(grant.fence)))
    }

    /// A refusal that names the oldest grant of a lock.
    fn held(&self, name: &[u8], code: Code) -> Answer {
        let oldest = self.grants.iter().find(|grant| grant.lock == name);
        let holder =
            oldest.map(|&Grant { fence, exclusive, .. }| Stood::Holder { fence, exclusive });
        Answer::Refused(code, holder.filter(|_| self.level >= DETAILS))
    }

    fn release(&mut self, session: Id, name: &[u8], fence: u64) -> Answer {
        let mut grants = self.grants.iter();
        let found = grants.position(|grant| grant.lock == name && grant.session == session);
        let Some(at) = found else { return Answer::Refused(Code::NotHolder, None) };
        if !self.is(self.grants[at].fence, fence) {
            return Answer::Refused(Code::StaleFence, None);
        }
        self.grants[at].count -= 1;
        if self.grants[at].count == 0 {
            self.grants.remove(at);
            self.advance_lock(name);
        }
        Answer::Done(None)
    }

    fn advance_lock(&mut self, name: &[u8]) {
        let waits_for = |wait: &Wait| wait.ask.is_for_lock(name);
        while let Some(at) = self.waits.iter().position(waits_for) {
            if let Some(code) = self.is_over(&self.waits[at]) {
                self.end_wait(at, code);
                continue;
            }
            let session = self.waits[at].session;
            let Ask::Lock { exclusive, lease_ms, .. } = self.waits[at].ask else {
                unreachable!("it waits for a lock")
            };
            if !self.admits(name, exclusive) {
                return;
            }
            let answer = self.grant(name.to_vec(), session, exclusive, lease_ms);
            self.answer_wait(at, answer);
            // The other calls by which it waits for this lock are answered as if they came now.
            let own = |wait: &Wait| wait.session == session && waits_for(wait);
            while let Some(at) = self.waits.iter().position(own) {
                let over = self.is_over(&self.waits[at]);
                let Ask::Lock { exclusive, lease_ms, .. } = self.waits[at].ask else {
                    unreachable!("it waits for a lock")
                };
                let answer = match over {
                    Some(code) => Answer::Refused(code, None),
                    None => self
                        .acquire_again(session, name, exclusive, lease_ms)
                        .expect("it was just granted"),
                };
                self.answer_wait(at, answer);
            }
        }
    }
}

// ---- Queues ----

impl Twin {
    fn push(&mut self, queue: &[u8], priority: u8, value: u64) -> Answer {
        let (id, place, queue) = (self.token(), Place::Ready, queue.to_vec());
        self.made += 1;
        let (number, delivery) = (self.made, 0);
        let message = Message { queue, id, number, priority, value, delivery, place };
        let queue = message.queue.clone();
        self.messages.push(message);
        self.advance_queue(&queue);
        Answer::Done(Some(id))
    }

    fn pop(&mut self, call: (Id, u64), name: Vec<u8>, wait_ms: u32, visibility_ms: u32) -> Answer {
        if let Some(answer) = self.deliver(&name, call.0, visibility_ms) {
            return answer;
        }
        if wait_ms == 0 {
            return Answer::Refused(Code::QueueEmpty, None);
        }
        self.wait(call, wait_ms, Ask::Pop { name, visibility_ms })
    }

    /// Delivers the first ready message: by priority, then by when it was pushed.
    fn deliver(&mut self, queue: &[u8], session: Id, visibility_ms: u32) -> Option<Answer> {
        let span = self.span(visibility_ms);
        let ready = |message: &&mut Message| {
            message.queue == queue && matches!(message.place, Place::Ready)
        };
        let ready = self.messages.iter_mut().filter(ready);
        let message = ready.min_by_key(|message| (message.priority, message.id))?;
        message.delivery += 1;
        let span = Span { number: message.number, ..span };
        message.place = Place::InFlight { session, span };
        let Message { id, delivery, value, .. } = *message;
        Some(Answer::Delivered { id, delivery, value })
    }

    /// The message of which this delivery is in flight.
    fn delivered(&self, queue: &[u8], id: u64, delivery: u32) -> Result<usize, Code> {
        let mut messages = self.messages.iter();
        let found = messages.position(|message| self.is(message.id, id) && message.queue == queue);
        let at = found.ok_or(Code::MessageUnknown)?;
        let in_flight = matches!(self.messages[at].place, Place::InFlight { .. });
        let is_this = in_flight && self.messages[at].delivery == delivery;
        if is_this { Ok(at) } else { Err(Code::StaleDelivery) }
    }

    pub fn is_in_flight(&self, id: Token, delivery: u32) -> bool {
        let message = self.messages.iter().find(|message| message.id == id);
        message.is_some_and(|message| {
            matches!(message.place, Place::InFlight { .. }) && message.delivery == delivery
        })
    }

    fn ack(&mut self, queue: &[u8], id: u64, delivery: u32) -> Answer {
        match self.delivered(queue, id, delivery) {
            Err(code) => Answer::Refused(code, None),
            Ok(at) => {
                self.messages.remove(at);
                Answer::Done(None)
            }
        }
    }

    fn nack(&mut self, queue: &[u8], id: u64, delivery: u32, delay_ms: u32) -> Answer {
        match self.delivered(queue, id, delivery) {
            Err(code) => return Answer::Refused(code, None),
            Ok(at) if delay_ms > 0 => {
                let number = self.messages[at].number;
                let span = Span { number, ..self.span(delay_ms) };
                self.messages[at].place = Place::Delayed(span);
            }
            Ok(at) => {
                self.messages[at].place = Place::Ready;
                self.advance_queue(queue);
            }
        }
        Answer::Done(None)
    }

    fn advance_queue(&mut self, name: &[u8]) {
        let waits = |wait: &Wait| matches!(&wait.ask, Ask::Pop { name: n, .. } if n == name);
        while let Some(at) = self.waits.iter().position(waits) {
            let is_ready =
                |message: &Message| message.queue == name && matches!(message.place, Place::Ready);
            if !self.messages.iter().any(is_ready) {
                return;
            }
            if let Some(code) = self.is_over(&self.waits[at]) {
                self.end_wait(at, code);
                continue;
            }
            let Ask::Pop { visibility_ms, .. } = self.waits[at].ask else {
                unreachable!("it waits for a message")
            };
            let session = self.waits[at].session;
            let answer = self.deliver(name, session, visibility_ms).expect("a message is ready");
            self.answer_wait(at, answer);
        }
    }
}

impl Ask {
    fn timeout(&self) -> Code {
        match self {
            Ask::Lock { .. } => Code::LockTimeout,
            Ask::Pop { .. } => Code::QueueEmpty,
        }
    }

    fn left(&self) -> Left {
        match self {
            Ask::Lock { name, .. } => Left::Lock(name.clone()),
            Ask::Pop { name, .. } => Left::Queue(name.clone()),
        }
    }

    pub fn is_for_lock(&self, name: &[u8]) -> bool {
        matches!(self, Ask::Lock { name: of, .. } if of == name)
    }
}

impl Place {
    pub fn span(&self) -> Option<Span> {
        match self {
            Place::Ready => None,
            Place::InFlight { span, .. } | Place::Delayed(span) => Some(*span),
        }
    }
}

fn number(payload: &[u8]) -> u64 {
    payload.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
