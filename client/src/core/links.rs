//! Connections as the core sees them: credit, what is unanswered, and silence.

use super::ask::Ask;
use super::calls::{Call, Place};
use super::outcome::{Event, Obstacle, Trouble};
use super::session::Asks;
use super::slab::{Key, Slab};
use super::time::Moment;
use super::{CallId, Core, LinkId, Phase, SessionKey};
use crate::limits::{
    CALL_FRAME_BYTES_MAX, CREDIT_GIVE_BACK, CREDIT_RESERVED, CREDIT_RESERVED_BYTES, REST_MAX,
};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;
use wire::Header;
use wire::message::{Topology, Welcome};

/// What a connection is to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct LinkKey {
    /// "host:port".
    pub address: Arc<str>,
    pub engine: u32,
    /// Which of the connections to that engine.
    pub lane: u32,
}

/// A frame that was sent and not answered.
pub(super) struct Sent {
    pub what: What,
    pub at: Moment,
    /// The answer is due at once: its absence is a sign of trouble.
    pub prompt: bool,
    bytes: usize,
}

/// What a frame was.
pub(super) enum What {
    Call(CallId),
    Open { session: SessionKey, life: u32, shard: u32 },
    Beat(Box<Beat>),
    Map,
}

/// A heartbeat, and the shards that it should confirm.
pub(super) struct Beat {
    pub session: SessionKey,
    pub life: u32,
    pub shards: Vec<u32>,
}

/// A connection.
pub(super) struct Link {
    pub key: LinkKey,
    /// It was welcomed.
    pub up: bool,
    /// Calls that wait for credit.
    pub queue: VecDeque<CallId>,
    /// Those of them that give something back: they go first, past the credit.
    pub owed: VecDeque<CallId>,
    /// By request.
    pub unanswered: Slab<Sent>,
    /// How many of them are answered at once, and how many are heartbeats.
    prompts: u32,
    beats: u32,
    /// When anything was heard on it last.
    pub heard: Moment,
    /// What a node said about the connection before it closed it.
    pub complaint: Option<Trouble>,
    /// Bytes that its driver is to send.
    pub out: Vec<u8>,
    /// Whether its driver knows that there are some.
    pub is_dirty: bool,
    credit_frames: usize,
    credit_bytes: usize,
    bytes: usize,
}

impl Link {
    fn new(key: LinkKey, now: Moment) -> Link {
        Link {
            key,
            up: false,
            queue: VecDeque::new(),
            owed: VecDeque::new(),
            unanswered: Slab::default(),
            prompts: 0,
            beats: 0,
            heard: now,
            complaint: None,
            out: Vec::new(),
            is_dirty: false,
            credit_frames: 0,
            credit_bytes: 0,
            bytes: 0,
        }
    }

    #[inline]
    fn has_credit(&self, ask: &impl Ask) -> bool {
        if ask.facts().gives_back {
            return self.unanswered.len() < self.credit_frames + CREDIT_GIVE_BACK;
        }
        let bytes = self.bytes + ask.bytes() + CALL_FRAME_BYTES_MAX;
        self.unanswered.is_empty()
            || (self.unanswered.len() < self.credit_frames && bytes <= self.credit_bytes)
    }

    /// Whether a call may be sent now, and nothing waits that goes before it.
    #[inline]
    pub fn takes_at_once(&self, ask: &impl Ask) -> bool {
        self.up && self.owed.is_empty() && self.queue.is_empty() && self.has_credit(ask)
    }

    /// The line of calls in which one waits for credit.
    pub fn line(&mut self, asks: Asks) -> &mut VecDeque<CallId> {
        match asks {
            Asks::Call => &mut self.queue,
            Asks::GiveBack => &mut self.owed,
        }
    }

    /// Writes a frame, whose request follows from where it is kept. `sent`: when, and whether its answer is due at once.
    #[inline]
    fn send(
        &mut self,
        mut header: Header,
        what: What,
        (at, prompt): (Moment, bool),
        body: impl FnOnce(&mut Vec<u8>),
    ) -> Key {
        self.prompts += u32::from(prompt);
        self.beats += u32::from(matches!(what, What::Beat(_)));
        let out = &mut self.out;
        let before = out.len();
        let request = self.unanswered.insert_with(|request| {
            header.request = request.number();
            wire::frame(out, &header, body);
            Sent { what, at, prompt, bytes: out.len() - before }
        });
        self.bytes += self.out.len() - before;
        request
    }

    /// The frame that is answered by `request`.
    #[inline]
    pub fn answered(&mut self, request: Key) -> Option<Sent> {
        let sent = self.unanswered.remove(request)?;
        self.bytes -= sent.bytes;
        self.prompts -= u32::from(sent.prompt);
        self.beats -= u32::from(matches!(sent.what, What::Beat(_)));
        Some(sent)
    }

    /// Since when an answer is overdue.
    fn waits_since(&self) -> Option<Moment> {
        let prompt = self.unanswered.iter().filter(|(_, sent)| sent.prompt);
        let oldest = prompt.map(|(_, sent)| sent.at).min()?;
        Some(oldest.max(self.heard))
    }
}

/// An address that failed, and rests.
pub(super) struct Rest {
    failures: u32,
    until: Moment,
    /// What happened there.
    pub why: Trouble,
}

impl<A: Ask> Core<A> {
    /// The connection to `key`, made if there is none; or the moment up to which the address rests.
    pub(super) fn link_to(&mut self, now: Moment, key: &LinkKey) -> Result<LinkId, Moment> {
        if let Some(id) = self.by_key.get(key) {
            return Ok(*id);
        }
        if let Some(rest) = self.rests.get(&key.address)
            && rest.until > now
        {
            return Err(rest.until);
        }
        let id = LinkId(self.links.insert(Link::new(key.clone(), now)));
        self.by_key.insert(key.clone(), id);
        let (address, engine) = (Arc::clone(&key.address), key.engine);
        self.event(Event::Connect { link: id, address, engine });
        Ok(id)
    }

    /// A connection was welcomed.
    pub fn on_connected(&mut self, now: Moment, id: LinkId, welcome: &Welcome) {
        let cluster = self.map.as_ref().map(|map| map.cluster);
        let Some(link) = self.links.get_mut(id.0) else { return };
        if cluster.is_some_and(|cluster| cluster != welcome.cluster) {
            return self.break_off(now, id, Trouble::OtherCluster);
        }
        if link.key.engine != welcome.engine {
            let (wanted, got) = (link.key.engine, welcome.engine);
            return self.break_off(now, id, Trouble::OtherEngine { wanted, got });
        }
        link.up = true;
        link.heard = now;
        let frames = usize::try_from(welcome.credit_frames).unwrap_or(usize::MAX);
        link.credit_frames = frames.saturating_sub(CREDIT_RESERVED).max(1);
        let bytes = usize::try_from(welcome.credit_bytes).unwrap_or(usize::MAX);
        link.credit_bytes = bytes.saturating_sub(CREDIT_RESERVED_BYTES);
        self.rests.remove(&link.key.address);
        self.pump(now, id);
        if self.fetch.is_from(id) {
            self.send_fetch(now, id);
        }
        self.beat_soon(now);
    }

    /// A connection is gone, or was never made.
    pub fn on_closed(&mut self, now: Moment, id: LinkId, why: Trouble) {
        let Some(link) = self.links.remove(id.0) else { return };
        self.by_key.remove(&link.key);
        for way in self.ways.iter_mut().filter(|way| **way == Some(id)) {
            *way = None;
        }
        if self.phase == Phase::Gone {
            return;
        }
        let address = link.key.address;
        let why = link.complaint.unwrap_or(why);
        let failures = self.rests.get(&address).map_or(0, |r| r.failures) + u32::from(!link.up);
        let full = (Duration::from_millis(10) * (1 << failures.min(8))).min(REST_MAX);
        let until = now + self.chance.part_of(full);
        self.rests.insert(Arc::clone(&address), Rest { failures, until, why: why.clone() });
        let lost = Obstacle::Lost(Arc::new((address, why)));
        let mut unanswered: Vec<Sent> = link.unanswered.into_values().collect();
        unanswered.sort_by_key(|sent| sent.at);
        for sent in unanswered {
            match sent.what {
                What::Call(call) => self.on_call_lost(now, id, call, &lost),
                What::Open { session, life, shard } => self.on_unopened(id, session, life, shard),
                What::Beat(_) | What::Map => {}
            }
        }
        for call in link.owed.into_iter().chain(link.queue) {
            if self.calls.get(call.0).is_some_and(|c| c.place == Place::Queued(id)) {
                let pause = self.pause(call);
                self.retry(now, call, pause, lost.clone());
            }
        }
        self.beat_soon(now);
        self.on_fetch_lost(now, id);
        self.want_map(now);
    }

    /// The core gives a connection up.
    pub(super) fn break_off(&mut self, now: Moment, id: LinkId, why: Trouble) {
        self.event(Event::Close { link: id });
        self.on_closed(now, id, why);
    }

    pub(super) fn on_call_lost(&mut self, now: Moment, link: LinkId, id: CallId, why: &Obstacle) {
        let Some(call) = self.calls.get_mut(id.0) else { return };
        if !matches!(call.place, Place::Flying(on, _) if on == link) {
            return;
        }
        call.ambiguous = true;
        let pause = self.pause(id);
        self.retry(now, id, pause, why.clone());
    }

    /// Sends what waits on a connection, as far as its credit goes.
    #[inline]
    pub(super) fn pump(&mut self, now: Moment, id: LinkId) {
        let waits = |link: &Link| !(link.owed.is_empty() && link.queue.is_empty());
        if self.links.get(id.0).is_some_and(waits) {
            self.pump_line(now, id, Asks::GiveBack);
            self.pump_line(now, id, Asks::Call);
        }
    }

    fn pump_line(&mut self, now: Moment, id: LinkId, asks: Asks) {
        loop {
            let Some(link) = self.links.get_mut(id.0).filter(|l| l.up) else { return };
            let Some(next) = link.line(asks).front().copied() else { return };
            let call = self.calls.get(next.0).filter(|c| c.place == Place::Queued(id));
            if call.is_some_and(|call| !link.has_credit(&call.ask)) {
                return;
            }
            link.line(asks).pop_front();
            if call.is_some() {
                self.send_call(now, id, next);
            }
        }
    }

    pub(super) fn send_call(&mut self, now: Moment, link_id: LinkId, id: CallId) {
        let mut call = self.calls.get_mut(id.0).expect("the caller found it");
        let (key, shard) = (call.session, call.shard);
        let mut exact = wire::Call::NONE;
        if let Some(seated) = call.seated {
            let session = &self.sessions[key.0 as usize];
            let seat = session.seat(shard).expect("a sequence is of a seat");
            exact.session = session.id;
            exact.sequence = seated.sequence;
            exact.answered_below = seat.window.answered_below();
            if !seat.opening.is_known() {
                self.open_ahead(now, link_id, key, shard);
                call = self.calls.get_mut(id.0).expect("an opening ends no call");
            }
        }
        let link = self.links.get_mut(link_id.0).expect("the caller found it");
        let deadline_ms = match call.deadline {
            Moment::MAX => 0,
            at => at.millis_since(now),
        };
        let epoch = self.map.as_ref().map_or(0, |m| m.epoch);
        let header = Header { shard, deadline_ms, epoch, ..Header::new(call.ask.kind(), 0) };
        let sent = (now, call.ask.wait_ms() == 0);
        let ask = &call.ask;
        let request = link.send(header, What::Call(id), sent, |out| ask.encode(exact, out));
        call.flies(now, link_id, request);
        if !core::mem::replace(&mut link.is_dirty, true) {
            self.out.dirty.push(link_id);
        }
        self.due(now + self.half_silence);
    }

    /// Sends a frame whose answer is due at once.
    pub(super) fn send_prompt(
        &mut self,
        now: Moment,
        id: LinkId,
        header: Header,
        what: What,
        body: impl FnOnce(&mut Vec<u8>),
    ) {
        let link = self.links.get_mut(id.0).expect("the caller found it");
        link.send(header, what, (now, true), body);
        if !core::mem::replace(&mut link.is_dirty, true) {
            self.out.dirty.push(id);
        }
        self.due(now + self.half_silence);
    }

    /// Asks for the topology on a connection that is up.
    pub(super) fn send_fetch(&mut self, now: Moment, id: LinkId) {
        let known = self.map.as_ref().map_or(0, |m| m.epoch);
        let header = Header::new(Topology::KIND, 0);
        self.send_prompt(now, id, header, What::Map, |out| Topology { known }.encode(out));
    }

    /// Probes connections that are silent, and gives up those that stay so.
    pub(super) fn tick_links(&mut self, now: Moment) {
        let silence = self.silence;
        let waits = self.links.iter().filter(|(_, link)| link.up && link.prompts > 0);
        let waits: Vec<LinkId> = waits.map(|(key, _)| LinkId(key)).collect();
        for id in waits {
            let Some(link) = self.links.get(id.0) else { continue };
            if now.since(link.heard) < self.half_silence {
                let look_at = link.heard + self.half_silence;
                self.due(look_at);
                continue;
            }
            let Some(since) = link.waits_since() else { continue };
            let quiet = now.since(since);
            if quiet >= silence {
                self.break_off(now, id, Trouble::Silent(quiet));
            } else if quiet >= self.half_silence {
                if link.beats == 0 {
                    self.send_heartbeat(now, id, SessionKey(0), Vec::new());
                }
                self.due(since + silence);
            } else {
                self.due(since + self.half_silence);
            }
        }
    }
}

impl<A: Ask> Call<A> {
    /// It was sent.
    fn flies(&mut self, now: Moment, link: LinkId, request: Key) {
        // Its timer stays what it is in the line: the deadline.
        debug_assert!(self.timer == self.deadline);
        self.place = Place::Flying(link, request);
        self.attempts += 1;
        self.first_sent.get_or_insert(now);
        self.last = Obstacle::Nothing;
    }
}
