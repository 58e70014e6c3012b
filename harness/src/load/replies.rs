//! What comes back: answers to the checks and the record, refusals to where they can be made good.

use super::SESSION_TTL_MS;
use super::core::{Core, Phase};
use super::slot::State;
use crate::checks::Grant;
use crate::scenario::Step;
use wire::message::{Alive, Delivery, Done, Error, Value};
use wire::{Code, Header};

/// After this long a step is given up, in nanoseconds.
const GIVE_UP_NS: u64 = 15_000_000_000;
/// How long to wait after a refusal that names no time, in nanoseconds.
const RETRY_NS: u64 = 5_000_000;
/// A shard that is unavailable on this connection for so many tries is looked for anew.
const TRIES_HERE: u32 = 20;
/// Heartbeats carry this request id; nobody waits for them.
pub(super) const HEARTBEAT: u64 = u64::MAX;

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
        if header.kind == Alive::KIND || header.request == HEARTBEAT {
            return Ok(());
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

    /// All went well.
    fn on_answer(&mut self, index: u32, body: &[u8]) -> Result<(), wire::WireError> {
        let slot = &mut self.slots[index as usize];
        let verdict = match slot.step {
            Step::Acquire => {
                let done = Done::decode(body)?;
                slot.fence = done.token;
                let until_ns = slot.sent_ns + u64::from(SESSION_TTL_MS) * 1_000_000;
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
            Some(Code::SessionUnknown) => self.session_ended(index),
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

    /// The session is gone, and all that it held: everything of it fails, and it begins anew on a new
    /// connection.
    fn session_ended(&mut self, index: u32) {
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
                self.record.error(Code::SessionUnknown.slug());
            }
        }
        self.sessions[session as usize].renew(first, second);
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
            self.sessions[slot.session as usize].window.answer(slot.sequence);
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

    /// The connection stands again: sends all that is under way.
    pub fn on_up(&mut self, conn: usize) {
        self.conns[conn].up = true;
        let each = self.slots.len() / self.conns.len();
        for index in conn * each..(conn + 1) * each {
            let slot = &mut self.slots[index];
            if slot.state != State::Asked {
                continue;
            }
            let late = self.now_ns.saturating_sub(slot.begun_ns) > GIVE_UP_NS;
            match late {
                true => self.fail(index as u32, "given-up"),
                false => self.send(index as u32),
            }
        }
    }
}
