//! Connections as the state sees them: credit, what is unanswered, and silence.

use super::{Phase, State};
use crate::call::{CallId, LinkId, Op, Place, SessionId, Stamp};
use crate::clock::{Moment, millis};
use crate::connection::Outbox;
use crate::core::session::Asks;
use crate::limits::{
    CALL_FRAME_BYTES_MAX, CREDIT_GIVE_BACK, CREDIT_RESERVED, CREDIT_RESERVED_BYTES, REST_MAX,
    SILENCE_MAX,
};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use wire::Header;
use wire::message::{Topology, Welcome};

/// What a connection is to.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct LinkKey {
    /// "host:port".
    pub address: String,
    pub engine: u32,
    /// Which of the connections to that engine.
    pub lane: u32,
}

/// A frame that was sent and not answered.
pub(crate) struct Sent {
    pub what: What,
    pub at: Moment,
    /// The answer is due at once: its absence is a sign of trouble.
    pub prompt: bool,
    bytes: usize,
}

impl Sent {
    /// A frame whose answer is due at once.
    pub fn prompt(at: Moment) -> (Moment, bool) {
        (at, true)
    }
}

/// What a frame was.
pub(crate) enum What {
    Call(CallId),
    Open { shard: u32, session: SessionId },
    Beat { session: SessionId, shards: Vec<u32> },
    Map,
}

/// A connection.
pub(crate) struct Link {
    pub key: LinkKey,
    pub outbox: Arc<Outbox>,
    /// It was welcomed.
    pub up: bool,
    /// Calls that wait for credit.
    pub queue: VecDeque<CallId>,
    /// Those of them that give something back: they go first, past the credit.
    pub owed: VecDeque<CallId>,
    pub unanswered: BTreeMap<u64, Sent>,
    /// When anything was heard on it last.
    pub heard: Moment,
    /// What a node said about the connection before it closed it.
    pub complaint: Option<String>,
    credit_frames: usize,
    credit_bytes: usize,
    bytes: usize,
}

impl Link {
    fn has_credit(&self, op: &Op) -> bool {
        if op.is_give_back() {
            return self.unanswered.len() < self.credit_frames + CREDIT_GIVE_BACK;
        }
        let bytes = self.bytes + op.bytes() + CALL_FRAME_BYTES_MAX;
        self.unanswered.is_empty()
            || (self.unanswered.len() < self.credit_frames && bytes <= self.credit_bytes)
    }

    /// The line of calls in which one waits for credit.
    pub fn line(&mut self, asks: Asks) -> &mut VecDeque<CallId> {
        match asks {
            Asks::Call => &mut self.queue,
            Asks::GiveBack => &mut self.owed,
        }
    }

    /// Sends a frame. `sent`: when, and whether its answer is due at once.
    pub fn send(
        &mut self,
        header: Header,
        what: What,
        (at, prompt): (Moment, bool),
        body: impl FnOnce(&mut Vec<u8>),
    ) {
        let bytes = self.outbox.push(|out| wire::frame(out, &header, body));
        self.bytes += bytes;
        let twice = self.unanswered.insert(header.request, Sent { what, at, prompt, bytes });
        assert!(twice.is_none(), "a request id is used once");
    }

    /// The frame that is answered by `request`.
    pub fn answered(&mut self, request: u64) -> Option<Sent> {
        let sent = self.unanswered.remove(&request)?;
        self.bytes -= sent.bytes;
        Some(sent)
    }

    /// Since when an answer is overdue.
    fn waits_since(&self) -> Option<Moment> {
        let oldest = self.unanswered.values().find(|s| s.prompt)?;
        Some(oldest.at.max(self.heard))
    }

    fn is_probed(&self) -> bool {
        self.unanswered.values().any(|s| matches!(s.what, What::Beat { .. }))
    }
}

/// An address that failed, and rests.
#[derive(Clone, Debug)]
pub(crate) struct Rest {
    failures: u32,
    until: Moment,
    /// What happened there.
    pub why: String,
}

impl State {
    /// The connection to `key`, made if there is none; or the moment up to which the address rests.
    pub(crate) fn link_to(&mut self, now: Moment, key: &LinkKey) -> Result<LinkId, Moment> {
        if let Some(id) = self.by_key.get(key) {
            return Ok(*id);
        }
        if let Some(rest) = self.rests.get(&key.address)
            && rest.until > now
        {
            return Err(rest.until);
        }
        let id = self.fresh_id();
        let outbox = Arc::<Outbox>::default();
        let link = Link {
            key: key.clone(),
            outbox: Arc::clone(&outbox),
            up: false,
            queue: VecDeque::new(),
            owed: VecDeque::new(),
            unanswered: BTreeMap::new(),
            heard: now,
            complaint: None,
            credit_frames: 0,
            credit_bytes: 0,
            bytes: 0,
        };
        self.links.insert(id, link);
        self.by_key.insert(key.clone(), id);
        self.out.connect.push((id, key.clone(), outbox));
        Ok(id)
    }

    /// A connection was welcomed. An error is why it can't be used.
    pub fn on_link_up(&mut self, now: Moment, id: LinkId, welcome: &Welcome) -> Result<(), String> {
        if let Some(map) = &self.map
            && map.cluster != welcome.cluster
        {
            return Err(String::from("the node belongs to another cluster"));
        }
        let Some(link) = self.links.get_mut(&id) else {
            return Err(String::from("the connection is not wanted any more"));
        };
        if link.key.engine != welcome.engine {
            let (want, got) = (link.key.engine, welcome.engine);
            return Err(format!("engine {want} was asked for and engine {got} answered"));
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
        Ok(())
    }

    /// A connection is gone, or was never made.
    pub fn on_link_down(&mut self, now: Moment, id: LinkId, why: &str) {
        let Some(link) = self.links.remove(&id) else { return };
        let address = link.key.address.clone();
        self.by_key.remove(&link.key);
        link.outbox.kill();
        let why = format!("{address}: {}", link.complaint.as_deref().unwrap_or(why));
        if self.phase == Phase::Gone {
            return;
        }
        let failures = self.rests.get(&address).map_or(0, |r| r.failures) + u32::from(!link.up);
        let full = (Duration::from_millis(10) * (1 << failures.min(8))).min(REST_MAX);
        let until = now + self.chance(full);
        self.rests.insert(address, Rest { failures, until, why: why.clone() });
        for sent in link.unanswered.into_values() {
            match sent.what {
                What::Call(call) => self.on_call_lost(now, id, call, &why),
                What::Open { shard, session } => self.on_unopened(id, shard, session),
                What::Beat { .. } | What::Map => {}
            }
        }
        for call in link.owed.into_iter().chain(link.queue) {
            if self.calls.get(&call).is_some_and(|c| c.place == Place::Queued(id)) {
                let pause = self.pause(call);
                self.retry(now, call, pause, why.clone());
            }
        }
        self.beat_soon(now);
        self.on_fetch_lost(now, id);
        self.want_map(now);
    }

    fn on_call_lost(&mut self, now: Moment, link: LinkId, id: CallId, why: &str) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        if !matches!(call.place, Place::Flying(on, _) if on == link) {
            return;
        }
        call.ambiguous = true;
        let pause = self.pause(id);
        self.retry(now, id, pause, why.to_owned());
    }

    /// Sends what waits on a connection, as far as its credit goes.
    pub(crate) fn pump(&mut self, now: Moment, id: LinkId) {
        for asks in [Asks::GiveBack, Asks::Call] {
            self.pump_line(now, id, asks);
        }
    }

    fn pump_line(&mut self, now: Moment, id: LinkId, asks: Asks) {
        loop {
            let Some(link) = self.links.get_mut(&id).filter(|l| l.up) else { return };
            let Some(next) = link.line(asks).front().copied() else { return };
            let call = self.calls.get(&next).filter(|c| c.place == Place::Queued(id));
            if call.is_some_and(|call| !link.has_credit(&call.op)) {
                return;
            }
            link.line(asks).pop_front();
            if call.is_some() {
                self.send_call(now, id, next);
            }
        }
    }

    fn send_call(&mut self, now: Moment, link_id: LinkId, id: CallId) {
        let call = &self.calls[&id];
        let (shard, stamp) = (call.shard, call.stamp);
        if stamp.is_some() {
            self.open_ahead(now, link_id, shard);
        }
        let request = self.fresh_id();
        self.place(id, Place::Flying(link_id, request));
        let call = self.calls.get_mut(&id).expect("it was found above");
        call.attempts += 1;
        call.first_sent.get_or_insert(now);
        call.last_sent = now;
        call.last = String::new();
        let left = match call.deadline {
            Moment::MAX => 0,
            at => millis(at.since(now)).max(1),
        };
        let answered_below = match stamp {
            Some(_) => self.session.seats.get(&shard).map_or(0, |s| s.answered_below()),
            None => 0,
        };
        let header = Header {
            kind: call.op.kind(),
            request,
            shard,
            deadline_ms: left,
            epoch: self.map.as_ref().map_or(0, |m| m.epoch),
            trace: [0; 16],
        };
        let stamp = stamp.unwrap_or(Stamp { session: [0; 16], sequence: 0 });
        let prompt = !call.op.is_waiting();
        let link = self.links.get_mut(&link_id).expect("the caller found it");
        let op = &call.op;
        link.send(header, What::Call(id), (now, prompt), |out| {
            op.encode(stamp, answered_below, out)
        });
        self.due(now + self.silence() / 2);
    }

    /// Asks for the topology on a connection that is up.
    pub(super) fn send_fetch(&mut self, now: Moment, id: LinkId) {
        let header = Header::new(Topology::KIND, self.fresh_id());
        let known = self.map.as_ref().map_or(0, |m| m.epoch);
        let link = self.links.get_mut(&id).expect("the caller found it");
        link.send(header, What::Map, Sent::prompt(now), |out| Topology { known }.encode(out));
    }

    /// How long a connection may be silent while an answer is due.
    fn silence(&self) -> Duration {
        SILENCE_MAX.min(self.config.session_ttl / 3)
    }

    /// Probes connections that are silent, and gives up those that stay so.
    pub(super) fn tick_links(&mut self, now: Moment) {
        let silence = self.silence();
        let ids: Vec<LinkId> = self.links.keys().copied().collect();
        for id in ids {
            let Some(link) = self.links.get(&id).filter(|l| l.up) else { continue };
            let Some(since) = link.waits_since() else { continue };
            let quiet = now.since(since);
            if quiet >= silence {
                let why = format!("nothing was heard for {quiet:?}");
                self.on_link_down(now, id, &why);
                continue;
            }
            if quiet >= silence / 2 {
                if !link.is_probed() {
                    self.send_heartbeat(now, id, Vec::new());
                }
                self.due(since + silence);
            } else {
                self.due(since + silence / 2);
            }
        }
    }
}
