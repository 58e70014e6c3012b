//! A simulated client's connections, and what crosses them.

use super::asks::Want;
use super::calls::Did;
use super::client::{Open, Send, Sent};
use super::seats::SeatId;
use client::core::{CallId, Core, LinkId};
use engine::ids::ConnId;
use engine::time::Time;
use std::collections::{BTreeMap, BTreeSet};
use wire::frames::Frame;
use wire::limits::FRAME_BYTES_MAX;
use wire::message::{Heartbeat, SessionClose, SessionOpen};
use wire::{Request, split};

/// A connection to an engine of a node.
#[derive(Clone, Copy)]
struct Line {
    link: LinkId,
    generation: u32,
    /// When it must have been welcomed; none: it was.
    welcome_by: Option<Time>,
}

/// A try of a call that was sent and not answered yet.
#[derive(Clone)]
pub(super) struct Asked {
    pub call: CallId,
    pub did: Did,
    pub shard: u32,
    pub session: [u8; 16],
    pub sequence: u64,
    pub invoked: Time,
    /// Whether the shard had confirmed the session when the try was sent: else it may come before its session does.
    pub opened: bool,
}

/// The connections of one client.
pub(super) struct Lines {
    client: u32,
    lines: BTreeMap<SeatId, Line>,
    generation: u32,
    /// By generation and request.
    asked: BTreeMap<(u32, u64), Asked>,
    /// Sessions that a shard confirmed.
    opened: BTreeSet<([u8; 16], u32)>,
    sends: Vec<Send>,
    /// Connections that broke, and to whom they were.
    broken: Vec<(SeatId, ConnId)>,
}

impl Lines {
    pub fn new(client: u32) -> Lines {
        Lines {
            client,
            lines: BTreeMap::new(),
            generation: 0,
            asked: BTreeMap::new(),
            opened: BTreeSet::new(),
            sends: Vec::new(),
            broken: Vec::new(),
        }
    }

    /// To whom there are connections.
    pub fn all(&self) -> Vec<SeatId> {
        self.lines.keys().copied().collect()
    }

    /// The generation of the connection to an engine, while it stands.
    pub fn connected(&self, to: SeatId) -> Option<u32> {
        Some(self.lines.get(&to)?.generation)
    }

    /// The connection of a generation.
    pub fn link(&self, generation: u32) -> Option<LinkId> {
        let mut lines = self.lines.values();
        Some(lines.find(|line| line.generation == generation)?.link)
    }

    /// A shard confirmed a session.
    pub fn confirmed(&mut self, session: [u8; 16], shard: u32) {
        self.opened.insert((session, shard));
    }

    /// The engine of a connection welcomed it.
    pub fn welcomed(&mut self, generation: u32) {
        for line in self.lines.values_mut().filter(|line| line.generation == generation) {
            line.welcome_by = None;
        }
    }

    /// A connection to an engine is made.
    pub fn open(&mut self, to: SeatId, link: LinkId, welcome_by: Time) {
        assert!(!self.lines.contains_key(&to), "one connection to each engine");
        self.generation += 1;
        let (generation, welcome_by) = (self.generation, Some(welcome_by));
        self.lines.insert(to, Line { link, generation, welcome_by });
        let conn = ConnId { index: self.client, generation };
        self.sends.push(Send { to, conn, what: Sent::Opens });
    }

    /// An engine that has been waited for long enough.
    pub fn take_unwelcome(&mut self, now: Time) -> Option<LinkId> {
        let late = |line: &Line| line.welcome_by.is_some_and(|by| now >= by);
        let (to, _) = self.lines.iter().find(|(_, line)| late(line))?;
        self.close(*to)
    }

    /// When an engine has been waited for long enough.
    pub fn wake_at(&self) -> Time {
        let lines = self.lines.values();
        lines.filter_map(|line| line.welcome_by).min().unwrap_or(Time::MAX)
    }

    /// The connection to an engine breaks.
    pub fn close(&mut self, to: SeatId) -> Option<LinkId> {
        let Line { link, generation, .. } = self.lines.remove(&to)?;
        let conn = ConnId { index: self.client, generation };
        self.asked.retain(|(of, _), _| *of != generation);
        let opens = |send: &Send| send.conn == conn && matches!(send.what, Sent::Opens);
        if !self.sends.iter().any(opens) {
            self.broken.push((to, conn));
        }
        self.sends.retain(|send| send.conn != conn);
        Some(link)
    }

    /// The core gives a connection up.
    pub fn close_link(&mut self, link: LinkId) {
        if let Some(to) = self.of_link(link) {
            self.close(to);
        }
    }

    /// To whom a connection is.
    fn of_link(&self, link: LinkId) -> Option<SeatId> {
        let (to, _) = self.lines.iter().find(|(_, line)| line.link == link)?;
        Some(*to)
    }

    /// The engine is gone: nobody there hears that the connection broke.
    pub fn forget(&mut self, at: SeatId) -> Option<LinkId> {
        let link = self.close(at);
        self.broken.retain(|(to, _)| *to != at);
        link
    }

    pub fn take_sends(&mut self) -> Vec<Send> {
        std::mem::take(&mut self.sends)
    }

    pub fn take_broken(&mut self) -> Vec<(SeatId, ConnId)> {
        std::mem::take(&mut self.broken)
    }

    /// What an answer is to, if it is to a call.
    pub fn answered(&mut self, generation: u32, request: u64) -> Option<Asked> {
        self.asked.remove(&(generation, request))
    }

    /// Takes what the core wants to send, frame by frame.
    pub fn send(&mut self, now: Time, core: &mut Core<Want>, open: &mut [Open]) {
        while let Some(link) = core.next_to_send() {
            let bytes = core.bytes_of(link).expect("it has bytes to be sent");
            let bytes = std::mem::take(bytes);
            let to = self.of_link(link).expect("a connection is made before it is used");
            let mut rest = &bytes[..];
            while let Some(frame) = split(rest, FRAME_BYTES_MAX).expect("a core sends frames") {
                self.send_frame(now, to, link, &frame, (core, open), &rest[..frame.used]);
                rest = &rest[frame.used..];
            }
            assert!(rest.is_empty(), "a core sends whole frames");
        }
    }

    fn send_frame(
        &mut self,
        now: Time,
        to: SeatId,
        link: LinkId,
        frame: &Frame<'_>,
        (core, open): (&Core<Want>, &mut [Open]),
        bytes: &[u8],
    ) {
        let generation = self.connected(to).expect("the caller found it");
        let header = &frame.header;
        let request = Request::decode(header.kind, frame.body).expect("a core asks what is right");
        let exact = request.call();
        let sign = exact.map(|call| call.session).or_else(|| session_of(frame));
        if let Some(call) = core.call_of(link, header.request)
            && let Some(ask) = core.ask(call)
        {
            let mut invoked = now;
            for open in open.iter_mut().filter(|open| open.call == call) {
                invoked = open.invoked;
                open.tries += 1;
            }
            let did = match ask.did {
                Did::Close { .. } => Did::Close { shard: header.shard },
                _ => ask.did.clone(),
            };
            let session = sign.unwrap_or_default();
            let sequence = exact.map_or(0, |call| call.sequence);
            let shard = header.shard;
            let opened = self.opened.contains(&(session, shard));
            let asked = Asked { call, did, shard, session, sequence, invoked, opened };
            self.asked.insert((generation, header.request), asked);
        }
        let call = exact.map(|call| (header.shard, call.sequence));
        let conn = ConnId { index: self.client, generation };
        let frame = bytes.to_vec();
        self.sends.push(Send { to, conn, what: Sent::Frame { frame, sign, call } });
    }
}

/// The session that a frame which is no call is about.
fn session_of(frame: &Frame<'_>) -> Option<[u8; 16]> {
    match frame.header.kind {
        Heartbeat::KIND => Heartbeat::decode(frame.body).ok().map(|it| it.session),
        SessionOpen::KIND => SessionOpen::decode(frame.body).ok().map(|it| it.session),
        SessionClose::KIND => SessionClose::decode(frame.body).ok().map(|it| it.session),
        _ => None,
    }
}
