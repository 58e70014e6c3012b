//! What a thread does with its sockets: accept, greet, hand over, feed, lose.

use super::seat::Seat;
use super::{Broken, Core};
use crate::edge::bridge::ToCore;
use crate::edge::counters::family;
use crate::edge::data::thread_of;
use crate::edge::net::splitter::Whole;
use crate::edge::net::{self, Group, Overdue, Received, Role};
use crate::edge::ring::Completion;
use crate::engine::Input;
use crate::ids::{ClusterId, ConnId};
use crate::time::{Duration, Time};
use std::io;
use std::os::fd::OwnedFd;
use wire::header::{PROTOCOL_MAX, VERSION};
use wire::message::Hello;
use wire::peer::{PeerHello, Pulse};
use wire::{Code, Header, WireError};

/// How often a failing accept is logged.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);
/// Why a client is refused that has no seat.
const FULL: &str =
    "this node has as many clients as it takes. Try another node, or this one in a second";
/// Why a client is disconnected that does not finish a frame.
const UNFINISHED: &str =
    "a frame did not arrive within 20 s of its first byte; nothing of it was done";
/// Why a client is disconnected whose unfinished frame takes too much.
const CROWDING: &str = "the unfinished frames of this node's clients take too much memory; nothing of this one was done";

/// What a connection's first frame says.
enum Greeting {
    Client {
        engine: u32,
        request: u64,
        /// The version of the protocol that both speak.
        version: u8,
    },
    Peer(PeerHello),
    /// The peer that we connected to does not want us.
    Unwanted(String),
    Refused(Code, String),
}

impl Core {
    pub(super) fn on_accept(&mut self, now: Time, completion: &Completion) -> io::Result<()> {
        let Some(fd) = self.net.on_accept(now, &mut self.ring, completion)? else {
            self.counters.accepts_failed.add(1);
            if self.complained_at.is_none_or(|at| now.since(at) > COMPLAIN_EVERY) {
                self.complained_at = Some(now);
                let error = io::Error::from_raw_os_error(-completion.result);
                tracing::warn!(%error, "a connection was not accepted; tried again");
            }
            return Ok(());
        };
        if self.stop_by.is_none() {
            self.take_in(now, fd)?;
        }
        Ok(())
    }

    /// A socket that was handed over, and what was read from it.
    pub(super) fn on_socket(&mut self, now: Time, fd: OwnedFd, read: &[u8]) -> io::Result<()> {
        if self.stop_by.is_some() {
            return Ok(());
        }
        let index = self.take_in(now, fd)?;
        self.net.hold(index, read);
        self.on_greeting(now, index)
    }

    /// Gives a newcomer a seat: another one's, when they are all taken.
    fn take_in(&mut self, now: Time, fd: OwnedFd) -> io::Result<u32> {
        while let Some(oldest) = self.net.displaced() {
            self.counters.connections_refused.add(1);
            self.lose(now, oldest)?;
        }
        self.counters.connections_opened.add(1);
        Ok(self.net.insert(now, fd, Role::Greeting))
    }

    pub(super) fn on_receive(
        &mut self,
        now: Time,
        completion: &Completion,
        index: u32,
        group: Group,
    ) -> io::Result<()> {
        let role = self.net.role(index);
        let conn = self.net.id(index);
        let mut frames = 0;
        let mut pulsed = false;
        let (seats, counters, deaf) = (&mut self.seats, &self.counters, self.stop_by.is_some());
        let received = self.net.on_receive(now, completion, index, group, |frame| {
            frames += 1;
            pulsed |= frame.header.kind == Pulse::KIND;
            counters.frames_in[family(frame.header.kind)].add(1);
            if !(deaf && matches!(role, Role::Client { .. })) {
                feed(seats, now, role, conn, frame);
            }
        });
        self.frames += frames;
        if pulsed {
            self.net.on_pulse(index);
        }
        if completion.result > 0 {
            self.counters.bytes_in.add(u64::from(completion.result.unsigned_abs()));
        }
        self.net.release_if_done(index);
        self.after(now, index, received)
    }

    /// Deals with what a receive or a send brought besides frames.
    pub(super) fn after(&mut self, now: Time, index: u32, received: Received) -> io::Result<()> {
        match received {
            Received::Bytes | Received::Nothing => Ok(()),
            Received::Exhausted => {
                self.counters.buffers_exhausted.add(1);
                Ok(())
            }
            Received::Greeting => self.on_greeting(now, index),
            Received::Gone => self.lose(now, index),
            Received::Bad(error) => {
                self.on_bad(now, index, error);
                Ok(())
            }
        }
    }

    /// Bytes that are no frame: an error frame, and the end of that connection alone.
    fn on_bad(&mut self, now: Time, index: u32, error: WireError) {
        self.counters.connections_bad.add(1);
        tracing::info!(%error, "closing a connection because of what it sent");
        self.leave(now, index);
        self.net.refuse(now, index, net::code_of(error), &error.to_string());
    }

    fn on_greeting(&mut self, now: Time, index: u32) -> io::Result<()> {
        let (greeting, used) = match self.net.greeting(index) {
            Ok(None) => return Ok(()),
            Ok(Some(frame)) => (self.read_greeting(index, &frame.header, frame.body), frame.used),
            Err(error) => {
                self.on_bad(now, index, error);
                return Ok(());
            }
        };
        match greeting {
            Greeting::Client { engine, request, version } => {
                let thread = thread_of(engine, self.common.plan.threads);
                if thread != self.thread {
                    self.give_away(now, index, thread);
                    return Ok(());
                }
                if self.net.is_full() {
                    self.counters.connections_refused.add(1);
                    self.net.refuse(now, index, Code::Busy, FULL);
                    return Ok(());
                }
                let seat = self.seat_of(engine);
                self.net.set_role(now, index, Role::Client { seat });
                let conn = self.net.id(index);
                self.seats[seat].on(now, Input::Opened { conn, request, version });
                self.resume(now, index, used)
            }
            Greeting::Peer(hello) => self.on_hello(now, index, &hello, used),
            Greeting::Unwanted(text) => {
                if let Role::Dialed { link } = self.net.role(index) {
                    self.note_refusal(link, &text);
                }
                self.lose(now, index)
            }
            Greeting::Refused(code, text) => {
                self.counters.connections_bad.add(1);
                if let Role::Dialed { link } = self.net.role(index) {
                    self.miss(link);
                    self.note_refusal(link, "what answers at its address is no node");
                }
                self.leave(now, index);
                self.net.refuse(now, index, code, &text);
                Ok(())
            }
        }
    }

    fn read_greeting(&self, index: u32, header: &Header, body: &[u8]) -> Greeting {
        let malformed = |error: WireError| Greeting::Refused(Code::BadMessage, error.to_string());
        let dialed = matches!(self.net.role(index), Role::Dialed { .. });
        match header.kind {
            Hello::KIND if !dialed => match Hello::view(body) {
                Ok(hello) => self.vet(&hello, header.request),
                Err(error) => malformed(error),
            },
            PeerHello::KIND => PeerHello::view(body).map_or_else(malformed, Greeting::Peer),
            wire::message::Error::KIND if dialed => match wire::message::Error::view(body) {
                Ok(error) => Greeting::Unwanted(String::from_utf8_lossy(error.text).into_owned()),
                Err(error) => malformed(error),
            },
            _ => Greeting::Refused(
                Code::BadMessage,
                "the first frame of a connection is a Hello; this was none".to_owned(),
            ),
        }
    }

    /// Checks a client's hello.
    fn vet(&self, hello: &Hello<'_>, request: u64) -> Greeting {
        let version = hello.version_max.min(PROTOCOL_MAX);
        if version < hello.version_min.max(VERSION) {
            let text = format!(
                "the client speaks versions {} to {}, this node {VERSION} to {PROTOCOL_MAX}",
                hello.version_min, hello.version_max
            );
            return Greeting::Refused(Code::WrongVersion, text);
        }
        let cluster = ClusterId(hello.cluster);
        if cluster != ClusterId::NONE && cluster != self.identity.cluster {
            let text = format!("this is cluster {}, not {cluster}", self.identity.cluster);
            return Greeting::Refused(Code::WrongCluster, text);
        }
        let engines = self.common.plan.engines;
        if hello.engine >= engines {
            let text = format!("this node has {engines} engines, no engine {}", hello.engine);
            return Greeting::Refused(Code::BadMessage, text);
        }
        Greeting::Client { engine: hello.engine, request, version }
    }

    /// Hands a socket over to the thread that serves the engine it wants.
    pub(super) fn give_away(&mut self, now: Time, index: u32, thread: usize) {
        let (fd, read) = self.net.detach(now, index);
        if self.common.posts[thread].send(ToCore::Socket { fd, read }).is_err() {
            // The mailbox is full: the socket is closed, and the client tries again.
            self.counters.connections_refused.add(1);
        }
    }

    /// Goes on with what came behind a greeting.
    pub(super) fn resume(&mut self, now: Time, index: u32, used: usize) -> io::Result<()> {
        let role = self.net.role(index);
        let conn = self.net.id(index);
        let seats = &mut self.seats;
        let each = |frame: Whole<'_>| feed(seats, now, role, conn, frame);
        let received = self.net.resume(now, index, used, each);
        self.after(now, index, received)
    }

    /// Closes a connection at once, and tells whoever cares.
    pub(super) fn lose(&mut self, now: Time, index: u32) -> io::Result<()> {
        self.leave(now, index);
        self.net.close(now, &mut self.ring, index)
    }

    /// Tells whoever cares that a connection is as good as gone.
    pub(super) fn leave(&mut self, now: Time, index: u32) {
        let conn = self.net.id(index);
        match self.net.role(index) {
            Role::Client { seat } => self.seats[seat].on(now, Input::Closed { conn }),
            Role::Dialing { link } | Role::Dialed { link } => {
                self.links.on_down(now, link, conn);
            }
            Role::Peer { link, seat, peer } => {
                if self.links.on_down(now, link, conn) {
                    tracing::info!(node = %peer, "link down");
                    self.seats[seat].on(now, Input::PeerDown { peer });
                }
            }
            Role::Free | Role::Greeting | Role::Parting | Role::Closing => {}
        }
    }

    /// Ends the connections whose time is up.
    pub(super) fn sweep(&mut self, now: Time) -> Result<(), Broken> {
        let mut overdue = std::mem::take(&mut self.overdue);
        self.net.sweep(now, &mut overdue);
        for (conn, why) in overdue.drain(..) {
            if self.net.is(conn) {
                let ended = self.give_up(now, conn.index, why);
                ended.map_err(|error| self.ring_failed(error))?;
            }
        }
        self.overdue = overdue;
        Ok(())
    }

    fn give_up(&mut self, now: Time, index: u32, why: Overdue) -> io::Result<()> {
        match (why, self.net.role(index)) {
            (Overdue::Passing, Role::Dialing { link }) => self.miss(link),
            (Overdue::Silent, Role::Peer { peer, .. }) => {
                self.counters.links_silent.add(1);
                tracing::info!(node = %peer, "the link is silent: it is made anew");
            }
            (Overdue::Idle, _) => {
                self.counters.connections_idle.add(1);
                self.leave(now, index);
                self.net.part(now, index);
                return Ok(());
            }
            (Overdue::Unfinished | Overdue::Crowding, _) => {
                self.counters.connections_bad.add(1);
                self.leave(now, index);
                let (code, text) = match why {
                    Overdue::Unfinished => (Code::DeadlineExceeded, UNFINISHED),
                    _ => (Code::Busy, CROWDING),
                };
                self.net.refuse(now, index, code, text);
                return Ok(());
            }
            (Overdue::Stuck, _) => self.counters.connections_slow.add(1),
            _ => {}
        }
        self.lose(now, index)
    }

    /// What was sent to a client may have made room for more.
    pub(super) fn on_room(&mut self, now: Time, index: u32) {
        if let Role::Client { seat } = self.net.role(index)
            && self.net.has_room(index)
        {
            let conn = self.net.id(index);
            self.seats[seat].on(now, Input::Drained { conn });
        }
    }
}

/// Gives a frame to the engine of its connection.
fn feed(seats: &mut [Seat], now: Time, role: Role, conn: ConnId, frame: Whole<'_>) {
    let Whole { since, header, body } = frame;
    match role {
        Role::Client { seat } if since == now => {
            seats[seat].on(now, Input::Frame { conn, header, body });
        }
        Role::Client { seat } => {
            seats[seat].on(now, Input::SlowFrame { conn, since, header, body });
        }
        Role::Peer { seat, peer, .. } => {
            seats[seat].on(now, Input::Peer { peer, header, body });
        }
        // It is on its way out: nobody hears it.
        _ => {}
    }
}
