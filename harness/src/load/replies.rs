//! What comes back: answers to the checks and the record, refusals to where they can be made good.

use super::core::{Core, Phase, Session};
use super::slot::State;
use crate::checks::{Grant, Violation};
use crate::scenario::Step;
use wire::message::{Alive, Delivery, Done, Error, Value};
use wire::{Code, Header};

/// After this long a step is given up, in nanoseconds.
const GIVE_UP_NS: u64 = 15_000_000_000;
/// How long to wait after a refusal that names no time, in nanoseconds.
const RETRY_NS: u64 = 5_000_000;
/// A shard that is unavailable on this connection for so many tries is looked for anew.
const TRIES_HERE: u32 = 20;
/// Requests with this bit are heartbeats: of which session, and when it left ([`heartbeat`]).
const HEARTBEAT: u64 = 1 << 63;
/// Below the session in a heartbeat's request: milliseconds since the load began.
const HEARTBEAT_MS_BITS: u32 = 40;

/// The request id of a heartbeat that leaves now.
pub(super) fn heartbeat(session: u32, now_ns: u64) -> u64 {
    HEARTBEAT | (u64::from(session) << HEARTBEAT_MS_BITS) | (now_ns / 1_000_000)
}

impl Core {
    /// Bytes arrived on a connection. An error says that they are no frames of ours: close it.
    pub fn on_bytes(&mut self, conn: usize, bytes: &[u8]) -> Result<(), wire::WireError> {
        let mut partial = std::mem::take(&mut self.conns[conn].partial);
        if partial.is_empty() {
            let used = self.on_frames(conn, bytes)?;
            partial.extend_from_slice(&bytes[used..]);
        } else {
            partial.extend_from_slice(bytes);
            let used = self.on_frames(conn, &partial)?;
            partial.drain(..used);
        }
        self.conns[conn].partial = partial;
        Ok(())
    }

    fn on_frames(&mut self, conn: usize, bytes: &[u8]) -> Result<usize, wire::WireError> {
        let mut used = 0;
        while let Some(frame) = wire::split(&bytes[used..], wire::limits::FRAME_BYTES_MAX)? {
            used += frame.used;
            self.on_frame(conn, &frame.header, frame.body)?;
        }
        Ok(used)
    }

    fn on_frame(
        &mut self,
        conn: usize,
        header: &Header,
        body: &[u8],
    ) -> Result<(), wire::WireError> {
        if header.request & HEARTBEAT != 0 {
            return self.on_alive(conn, header, body);
        }
        let index = header.request as u32;
        let Some(slot) = self.slots.get(index as usize) else {
            // About the connection itself: it will be closed.
            return Ok(());
        };
        let awaited = slot.conn as usize == conn
            && slot.state == State::Asked
            && slot.request(index) == header.request;
        if !awaited {
            return Ok(());
        }
        if header.kind == Error::KIND {
            let error = Error::decode(body)?;
            self.on_refusal(index, error.code, error.retry_ms);
            return Ok(());
        }
        if header.kind != slot.answer() {
            return Err(wire::WireError::Malformed);
        }
        self.on_answer(index, body)
    }

    /// How long a session outlives its last sign of life, in nanoseconds.
    fn ttl_ns(&self) -> u64 {
        u64::from(self.session_ttl_ms) * 1_000_000
    }

    /// A heartbeat was answered: its session lives on, if the answer names its shard.
    fn on_alive(
        &mut self,
        conn: usize,
        header: &Header,
        body: &[u8],
    ) -> Result<(), wire::WireError> {
        if header.kind != Alive::KIND {
            return Ok(());
        }
        let alive = Alive::decode(body)?;
        let request = header.request & !HEARTBEAT;
        let session = (request >> HEARTBEAT_MS_BITS) as u32;
        let sent_ns = (request & ((1 << HEARTBEAT_MS_BITS) - 1)) * 1_000_000;
        let conn = &self.conns[conn];
        if conn.sessions.contains(&session) && named(alive.shards, conn.shard) {
            let session = &mut self.sessions[session as usize];
            session.alive_ns = session.alive_ns.max(sent_ns);
            session.promised_ns = session.promised_ns.max(Some(sent_ns));
        }
        Ok(())
    }

    /// All went well.
    fn on_answer(&mut self, index: u32, body: &[u8]) -> Result<(), wire::WireError> {
        let ttl_ns = self.ttl_ns();
        let slot = &mut self.slots[index as usize];
        let verdict = match slot.step {
            Step::Acquire => {
                let done = Done::decode(body)?;
                slot.fence = done.token;
                let until_ns = slot.sent_ns + ttl_ns;
                self.check_locks.granted(Grant {
                    name: slot.lock,
                    holder: index + 1,
                    fence: done.token,
                    at_ns: self.now_ns,
                    until_ns,
                })
            }
            Step::Release => Ok(()),
            Step::Push => {
                self.check_queue.pushed(slot.message);
                Ok(())
            }
            Step::Pop => {
                let delivery = Delivery::decode(body)?;
                let marks = self.lines.marks(delivery.payload);
                let marks = marks.filter(|(_, run)| *run == self.lines.run);
                // A message without our marks is one that we never pushed.
                let number = marks.map_or(u64::MAX, |(number, _)| number);
                slot.popped = (number, delivery.id, delivery.delivery);
                self.check_queue.delivered(number, delivery.delivery)
            }
            Step::Ack => {
                if slot.popped.0 != u64::MAX {
                    self.check_queue.acked(slot.popped.0);
                }
                Ok(())
            }
            Step::Put => {
                let done = Done::decode(body)?;
                self.check_cache.put(slot.line, slot.floor, done.token, slot.stamp)
            }
            Step::Get => {
                let value = Value::decode(body)?;
                match self.lines.marks(value.value) {
                    Some((what, stamp)) if what == u64::from(slot.line) => {
                        self.check_cache.got(slot.line, slot.floor, value.version, stamp)
                    }
                    _ => self.check_cache.torn(slot.line, value.version),
                }
            }
        };
        self.violations.take(verdict);
        self.succeed(index);
        Ok(())
    }

    /// A refusal: wait, go elsewhere, or give up.
    fn on_refusal(&mut self, index: u32, code: u16, retry_ms: u32) {
        let slot = &mut self.slots[index as usize];
        let late = self.now_ns.saturating_sub(slot.begun_ns) > GIVE_UP_NS;
        let known = Code::from_number(code);
        match known {
            Some(Code::KeyUnknown) if slot.step == Step::Get => {
                let verdict = self.check_cache.missing(slot.line, slot.floor);
                self.violations.take(verdict);
                self.succeed(index);
            }
            Some(Code::NotLeader | Code::Stopping) if !late => self.reroute(index),
            Some(Code::Busy | Code::Unavailable | Code::NotReady) if !late => {
                if slot.attempts.is_multiple_of(TRIES_HERE) && known != Some(Code::Busy) {
                    self.reroute(index);
                    return;
                }
                let wait_ns = u64::from(retry_ms) * 1_000_000;
                slot.state = State::Later(self.now_ns + wait_ns.max(RETRY_NS));
                self.waiting.push(index);
            }
            Some(Code::SessionUnknown) => {
                let session = slot.session;
                if self.is_guarded(session) {
                    self.ended_early(session);
                }
                self.session_ended(index, Code::SessionUnknown.slug());
            }
            Some(code) if late => self.session_ended(index, code.slug()),
            Some(code) => self.fail(index, code.slug()),
            None => self.fail(index, "unknown-code"),
        }
    }

    /// The slot's connection speaks to the wrong node: it is closed, and found a new one.
    fn reroute(&mut self, index: u32) {
        let conn = self.slots[index as usize].conn;
        if !self.to_close.contains(&conn) {
            self.to_close.push(conn);
        }
    }

    /// The session is gone, or given up with what it may hold: everything of it fails, and it begins
    /// anew on a new connection.
    fn session_ended(&mut self, index: u32, why: &str) {
        let session = self.slots[index as usize].session;
        let (first, second) = (self.draw(), self.draw());
        self.reroute(index);
        for other in 0..self.slots.len() as u32 {
            let slot = &mut self.slots[other as usize];
            if slot.session != session {
                continue;
            }
            self.check_locks.given_up(slot.lock, other + 1);
            if slot.state != State::Idle {
                slot.state = State::Idle;
                slot.sequence = 0;
                self.record.error(why);
            }
        }
        let shard = self.conns[self.slots[index as usize].conn as usize].shard;
        self.ended.push((shard, self.sessions[session as usize].id));
        self.sessions[session as usize].renew(first, second, self.now_ns);
        for other in 0..self.slots.len() as u32 {
            if self.slots[other as usize].session == session {
                self.slots[other as usize].step = self.first();
            }
        }
        // They go on when the connection is back: until then they only take their sequences.
        let conn = self.slots[index as usize].conn as usize;
        self.conns[conn].up = false;
        let active = self.slots_of(conn);
        for other in active {
            if self.slots[other].session == session && self.slots[other].state == State::Idle {
                self.proceed(other as u32);
            }
        }
    }

    fn first(&mut self) -> Step {
        let chance = self.draw();
        self.scenario.first(chance)
    }

    fn succeed(&mut self, index: u32) {
        let slot = &self.slots[index as usize];
        self.ops += 1;
        if self.phase != Phase::Fill {
            // A closed loop counts what ended within the time, an open one what was to begin in it.
            let counts_at = if self.open_loop { slot.begun_ns } else { self.now_ns };
            if self.measure_ns.contains(&counts_at) {
                self.record.success(slot.step, slot.begun_ns, self.now_ns);
                self.record.retries += u64::from(slot.attempts > 1);
            }
        }
        let chance = self.draw();
        let done = self.slots[index as usize].step;
        self.end(index, self.scenario.next(done, chance));
    }

    /// Nothing more can be done for the step: the slot begins anew.
    pub(super) fn fail(&mut self, index: u32, what: &str) {
        self.record.error(what);
        let slot = &self.slots[index as usize];
        self.check_locks.given_up(slot.lock, index + 1);
        let first = self.first();
        self.end(index, first);
    }

    fn end(&mut self, index: u32, next: Step) {
        let slot = &mut self.slots[index as usize];
        slot.state = State::Idle;
        if slot.sequence != 0 {
            self.sessions[slot.session as usize].window.free(slot.sequence);
            slot.sequence = 0;
        }
        slot.step = next;
        self.proceed(index);
    }

    /// The connection is gone: what was under way waits for the next one. Gives its shard.
    pub fn on_down(&mut self, conn: usize) -> u32 {
        let it = &mut self.conns[conn];
        it.up = false;
        it.out.clear();
        it.partial.clear();
        self.reconnects += 1;
        it.shard
    }

    /// Whether a session of the connection may have ended unseen. Then it begins anew, and the
    /// connection must be made once more: this one opened it again.
    pub fn guard_ran_out(&mut self, conn: usize) -> bool {
        let ttl_ns = self.ttl_ns();
        let now_ns = self.now_ns;
        self.end_sessions(conn, "guard-ran-out", |it| now_ns >= it.alive_ns.saturating_add(ttl_ns))
    }

    /// A session of the connection could not be opened again: it has ended, and all of them begin anew.
    pub fn sessions_refused(&mut self, conn: usize) -> bool {
        let sessions = self.conns[conn].sessions.clone();
        if sessions.clone().all(|session| self.is_guarded(session)) {
            self.ended_early(sessions.start);
        }
        let now_ns = self.now_ns;
        // A renewed one lives since now.
        self.end_sessions(conn, Code::SessionUnknown.slug(), |it| it.alive_ns < now_ns)
    }

    fn end_sessions(&mut self, conn: usize, why: &str, ends: impl Fn(&Session) -> bool) -> bool {
        let mut any = false;
        let each = self.slots.len() / self.conns.len();
        for index in conn * each..(conn + 1) * each {
            if ends(&self.sessions[self.slots[index].session as usize]) {
                self.session_ended(index as u32, why);
                any = true;
            }
        }
        any
    }

    /// Whether an answered heartbeat promised that the session still lives.
    fn is_guarded(&self, session: u32) -> bool {
        let promised = self.sessions[session as usize].promised_ns;
        promised.is_some_and(|from_ns| self.now_ns < from_ns + self.ttl_ns())
    }

    fn ended_early(&mut self, session: u32) {
        let promised_ns = self.sessions[session as usize].promised_ns.unwrap_or_default();
        let since_ms = self.now_ns.saturating_sub(promised_ns) / 1_000_000;
        let ttl_ms = self.session_ttl_ms;
        let at_s = self.now_ns as f64 / 1e9;
        let what = format!(
            "session {session} ended {since_ms} ms after a heartbeat that gave it {ttl_ms} ms, \
             {at_s:.3} s into the load"
        );
        self.violations.take(Err(Violation { rule: "session-ended-early", what }));
    }

    /// The connection stands again: sends all that is under way.
    pub fn on_up(&mut self, conn: usize) {
        self.conns[conn].up = true;
        self.conns[conn].heard_ns = self.now_ns;
        let each = self.slots.len() / self.conns.len();
        for index in conn * each..(conn + 1) * each {
            let slot = &mut self.slots[index];
            if slot.state != State::Asked {
                continue;
            }
            let late = self.now_ns.saturating_sub(slot.begun_ns) > GIVE_UP_NS;
            match late {
                true => {
                    self.session_ended(index as u32, "given-up");
                    return;
                }
                false => self.send(index as u32),
            }
        }
    }
}

/// Whether a list of little-endian shards names `shard`.
fn named(shards: &[u8], shard: u32) -> bool {
    shards.chunks_exact(4).any(|four| four == shard.to_le_bytes())
}
