//! A slot: one request at a time, and all that is needed to send it again.

use super::Lines;
use super::names::Names;
use crate::scenario::Step;
use wire::message::{
    CacheGet, CachePut, Expect, LockAcquire, LockMode, LockRelease, QueueAck, QueuePop, QueuePush,
};
use wire::{Call, Header, Kind, Request};

/// How long an acquire waits, in milliseconds.
const ACQUIRE_WAIT_MS: u32 = 10_000;
/// How long a pop waits for a message, in milliseconds.
const POP_WAIT_MS: u32 = 1_000;
/// How long a popped message is hidden from others, in milliseconds.
pub const VISIBILITY_MS: u32 = 60_000;
/// A value's marks: what it is of, which write it is, and the latter again at its end.
pub const MARKS_BYTES: usize = 16;

/// Where a slot stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Nothing is under way.
    Idle,
    /// The request is begun, but its session's window is full.
    Parked,
    /// The request was sent, or waits to be, on its connection.
    Asked,
    /// The request was refused for now and is sent again at this time, in nanoseconds.
    Later(u64),
}

/// One request at a time.
#[derive(Clone, Debug)]
pub struct Slot {
    /// Its connection.
    pub conn: u32,
    /// Its session.
    pub session: u32,
    /// Where it stands.
    pub state: State,
    /// The step that is under way, or the next one.
    pub step: Step,
    /// Counts what was sent, so that a late reply is told apart.
    pub generation: u32,
    /// The step's sequence; 0 = it has none.
    pub sequence: u64,
    /// How often the step was sent.
    pub attempts: u32,
    /// When the step was to begin, in nanoseconds: latency counts from here.
    pub begun_ns: u64,
    /// When it was first sent, in nanoseconds.
    pub sent_ns: u64,
    /// The lock of this slot, by index. With contention, of the present cycle.
    pub lock: u32,
    /// The lock's fence.
    pub fence: u64,
    /// The message under way, as the check numbers it.
    pub message: u64,
    /// The message that was popped: number, id, delivery.
    pub popped: (u64, u64, u32),
    /// The line of the present step, by index.
    pub line: u32,
    /// The line after that: it is drawn early, so that memory has it at hand by then.
    pub line_next: u32,
    /// The present put's stamp.
    pub stamp: u64,
    /// What the line's check knew when the step began.
    pub floor: u64,
}

impl Slot {
    /// An idle slot.
    pub fn new(conn: u32, session: u32, step: Step, lock: u32) -> Slot {
        Slot {
            conn,
            session,
            state: State::Idle,
            step,
            generation: 0,
            sequence: 0,
            attempts: 0,
            begun_ns: 0,
            sent_ns: 0,
            lock,
            fence: 0,
            message: 0,
            popped: (0, 0, 0),
            line: 0,
            line_next: 0,
            stamp: 0,
            floor: 0,
        }
    }

    /// The request id of what is sent next or was sent last.
    pub fn request(&self, index: u32) -> u64 {
        u64::from(self.generation) << 32 | u64::from(index)
    }

    /// The answer's kind if all goes well.
    pub fn answer(&self) -> Kind {
        match self.step {
            Step::Pop => wire::message::Delivery::KIND,
            Step::Get => wire::message::Value::KIND,
            _ => wire::message::Done::KIND,
        }
    }
}

/// What a request is made of, beside its slot.
pub struct Material<'a> {
    /// The session's id.
    pub session: [u8; 16],
    /// Below this all of the session's calls were answered.
    pub answered_below: u64,
    /// The shard.
    pub shard: u32,
    /// The locks' names.
    pub locks: &'a Names,
    /// The queue's name.
    pub queue: &'a [u8],
    /// The lines' names and the payload's bytes.
    pub lines: &'a mut Lines,
}

/// Appends the slot's request to `out`.
#[inline]
pub fn encode(slot: &Slot, index: u32, material: &mut Material<'_>, out: &mut Vec<u8>) {
    let shard = material.shard;
    let request = request(slot, material);
    let header = Header { shard, ..Header::new(request.facts().kind(), slot.request(index)) };
    wire::frame(out, &header, |out| request.encode(out));
}

#[inline]
fn request<'a>(slot: &Slot, material: &'a mut Material<'_>) -> Request<'a> {
    let Material { session, answered_below, locks, queue, lines, .. } = material;
    let (session, answered_below) = (*session, *answered_below);
    let call = Call { session, sequence: slot.sequence, answered_below };
    match slot.step {
        Step::Acquire => {
            let (wait_ms, lease_ms, mode) = (ACQUIRE_WAIT_MS, 0, LockMode::Exclusive);
            LockAcquire { call, wait_ms, lease_ms, mode, name: locks.get(slot.lock) }.into()
        }
        Step::Release => LockRelease { call, fence: slot.fence, name: locks.get(slot.lock) }.into(),
        Step::Push => {
            let payload = lines.stamped(slot.message, lines.run);
            QueuePush { call, priority: 128, name: queue, payload }.into()
        }
        Step::Pop => {
            let (wait_ms, visibility_ms, name) = (POP_WAIT_MS, VISIBILITY_MS, *queue);
            QueuePop { call, wait_ms, visibility_ms, name }.into()
        }
        Step::Ack => {
            let (_, id, delivery) = slot.popped;
            QueueAck { call, id, delivery, name: queue }.into()
        }
        Step::Put => {
            lines.stamp(u64::from(slot.line), slot.stamp);
            let (key, value) = (lines.keys.name(slot.line), lines.payload());
            CachePut { call, version: 0, ttl_ms: 0, expect: Expect::Any, key, value }.into()
        }
        Step::Get => CacheGet { key: lines.keys.name(slot.line) }.into(),
    }
}
