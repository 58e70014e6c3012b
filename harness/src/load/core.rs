//! The generator's state: connections, sessions, slots, and the requests that they make.

use super::keys::Keys;
use super::lines::Lines;
use super::names::Names;
use super::record::Record;
use super::slot::{Material, Slot, State, encode};
use super::{LoadConfig, SessionId};
use crate::checks::{CacheCheck, LockCheck, QueueCheck, Violations};
use crate::scenario::{CONTENDED_NAMES, Scenario, Step};
use client::core::Window;
use std::collections::VecDeque;
use wire::limits::WINDOW_REPLIES_MAX;
use wire::random::Random;

/// Room for messages before the check's table grows.
const MESSAGES_EXPECTED: usize = 4 << 20;
/// Requests under way on all connections together while lines are written beforehand.
const FILL_SLOTS: usize = 512;
/// Of them on one connection, at most.
const FILL_DEPTH_MAX: usize = 64;

/// Where the load is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// Lines are written.
    Fill,
    /// The load runs and is not measured.
    Warm,
    /// The load is measured.
    Measure,
    /// No slot begins anew; those that hold something give it back.
    WindDown,
}

/// One client's session in its shard.
pub(super) struct Session {
    pub id: SessionId,
    pub window: Window,
    /// When its last known sign of life left: it lives for its time to live from here, and maybe no longer.
    pub alive_ns: u64,
    /// When the last heartbeat left whose answer promised a whole time to live.
    pub promised_ns: Option<u64>,
}

/// One connection.
pub(super) struct Conn {
    pub shard: u32,
    pub sessions: std::ops::Range<u32>,
    /// Whether the socket stands.
    pub up: bool,
    /// What was encoded and not handed to the ring yet.
    pub out: Vec<u8>,
    pub dirty: bool,
    /// The part of a frame that arrived.
    pub partial: Vec<u8>,
    /// When something arrived last, or the socket stood again.
    pub heard_ns: u64,
}

/// Everything but the ring.
pub(super) struct Core {
    pub scenario: Scenario,
    pub phase: Phase,
    pub open_loop: bool,
    pub now_ns: u64,
    /// What is measured begins and ends here, in nanoseconds.
    pub measure_ns: std::ops::Range<u64>,
    pub conns: Vec<Conn>,
    pub sessions: Vec<Session>,
    /// Sessions that were given up, with their shard: what they hold is given back at the end.
    pub ended: Vec<(u32, SessionId)>,
    pub session_ttl_ms: u32,
    pub slots: Vec<Slot>,
    /// Slots of a connection while lines are written beforehand, and after that.
    pub fill_depth: usize,
    pub depth: usize,
    /// By shard: which of its lines were not written beforehand yet.
    pub unfilled: Vec<std::ops::Range<u32>>,
    pub locks: Names,
    pub queues: Vec<Vec<u8>>,
    pub lines: Lines,
    pub check_locks: LockCheck,
    pub check_queue: QueueCheck,
    pub check_cache: CacheCheck,
    pub violations: Violations,
    pub record: Record,
    pub reconnects: u64,
    /// Successes in this phase.
    pub ops: u64,
    /// Connections with something to send.
    pub dirty: Vec<u32>,
    /// Connections to close: their node does not lead any more.
    pub to_close: Vec<u32>,
    /// Slots that were encoded since the last flush: their time is taken there.
    pub fresh: Vec<u32>,
    /// Slots that are parked or sent again later.
    pub waiting: Vec<u32>,
    /// Open loop: slots that are free.
    pub free: VecDeque<u32>,
    chance: Random,
}

impl Core {
    /// Everything idle, all connections down.
    pub fn new(config: &LoadConfig, shards: u32, run: u64) -> Core {
        let scenario = config.scenario;
        let contended = scenario == Scenario::LocksContended;
        let used = if contended { shards.min(CONTENDED_NAMES as u32) } else { shards };
        let fill_depth = match scenario.uses_lines() {
            true => (FILL_SLOTS / config.connections).clamp(1, FILL_DEPTH_MAX),
            false => 0,
        };
        let slots_each = fill_depth.max(config.depth);
        let sessions_each = if contended { config.depth } else { 1 };
        let lines = Lines::new(keys(config.keys, shards), run, config.payload_bytes);
        let mut chance = Random::new(config.seed ^ run);
        let sessions = (0..config.connections * sessions_each).map(|_| Session::new(&mut chance));
        let mut core = Core {
            scenario,
            phase: Phase::Warm,
            open_loop: config.rate.is_some(),
            now_ns: 0,
            measure_ns: u64::MAX..u64::MAX,
            conns: Vec::new(),
            sessions: sessions.collect(),
            ended: Vec::new(),
            session_ttl_ms: config.patience.session_ttl_ms,
            slots: Vec::new(),
            fill_depth,
            depth: config.depth,
            unfilled: (0..shards).map(|shard| lines.keys.in_shard(shard)).collect(),
            locks: Names::new(shards),
            queues: Vec::new(),
            check_locks: LockCheck::new(0),
            check_queue: QueueCheck::new(if scenario.pushes() { MESSAGES_EXPECTED } else { 0 }),
            check_cache: CacheCheck::new(lines.keys.len()),
            lines,
            violations: Violations::default(),
            record: Record::default(),
            reconnects: 0,
            ops: 0,
            dirty: Vec::new(),
            to_close: Vec::new(),
            fresh: Vec::new(),
            waiting: Vec::new(),
            free: VecDeque::new(),
            chance: chance.fork(),
        };
        for shard in 0..shards {
            let mut queue = Names::new(shards);
            let index = queue.add_in(&format!("bench/queue-{run:x}"), shard);
            core.queues.push(queue.get(index).to_vec());
        }
        if contended {
            for name in 0..CONTENDED_NAMES {
                core.locks.add_in(&format!("bench/hot-{name}"), name as u32 % used);
            }
        }
        for number in 0..config.connections {
            let shard = number as u32 % used;
            let first = (number * sessions_each) as u32;
            core.conns.push(Conn {
                shard,
                sessions: first..first + sessions_each as u32,
                up: false,
                out: Vec::new(),
                dirty: false,
                partial: Vec::new(),
                heard_ns: 0,
            });
            for at in 0..slots_each {
                let session = first + if contended { at as u32 } else { 0 };
                let lock = match contended {
                    true => 0,
                    false => core.locks.add_in(&format!("bench/lock-{number}-{at}"), shard),
                };
                let step = scenario.first(core.draw());
                core.slots.push(Slot::new(number as u32, session, step, lock));
                core.draw_line(core.slots.len() as u32 - 1, shard);
            }
        }
        core.check_locks = LockCheck::new(core.locks.len());
        core
    }

    /// The slots of a connection that take part in this phase.
    pub fn slots_of(&self, conn: usize) -> std::ops::Range<usize> {
        let each = self.slots.len() / self.conns.len();
        let active = if self.phase == Phase::Fill { self.fill_depth } else { self.depth };
        conn * each..conn * each + active
    }

    /// A number by chance.
    pub fn draw(&mut self) -> u64 {
        self.chance.draw()
    }

    /// Draws the line after the next one of a slot, and has memory fetch what is known of it.
    #[inline]
    fn draw_line(&mut self, index: u32, shard: u32) {
        let lines = self.lines.keys.in_shard(shard);
        assert!(!lines.is_empty(), "every shard in use has lines");
        let line = lines.start + self.chance.below(u64::from(lines.end - lines.start)) as u32;
        self.slots[index as usize].line_next = line;
        self.lines.keys.touch(line);
        self.check_cache.touch(line);
    }

    /// Begins the slot's step, which was to begin at `begun_ns`.
    pub fn begin(&mut self, index: u32, begun_ns: u64) {
        let slot = &mut self.slots[index as usize];
        assert!(slot.state == State::Idle, "a slot does one thing at a time");
        slot.begun_ns = begun_ns;
        slot.sent_ns = 0;
        slot.attempts = 0;
        slot.sequence = 0;
        match slot.step {
            Step::Acquire if self.scenario == Scenario::LocksContended => {
                let names = self.locks.in_shard(self.conns[slot.conn as usize].shard);
                slot.lock = names[self.chance.below(names.len() as u64) as usize];
            }
            Step::Push => slot.message = self.check_queue.new_message(),
            Step::Put | Step::Get => {
                let is_drawn = self.phase != Phase::Fill;
                if is_drawn {
                    slot.line = slot.line_next;
                }
                slot.floor = self.check_cache.floor(slot.line);
                if slot.step == Step::Put {
                    slot.stamp = self.lines.new_stamp();
                }
                if is_drawn {
                    let shard = self.conns[slot.conn as usize].shard;
                    self.draw_line(index, shard);
                }
            }
            _ => {}
        }
        self.take_sequence(index);
    }

    /// Takes the step's sequence and sends it, or parks it until the window has room.
    pub fn take_sequence(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        if slot.step.is_write() {
            let window = &mut self.sessions[slot.session as usize].window;
            let Some(sequence) = window.take(index, WINDOW_REPLIES_MAX) else {
                slot.state = State::Parked;
                self.waiting.push(index);
                return;
            };
            slot.sequence = sequence;
        }
        self.send(index);
    }

    /// Encodes the slot's request onto its connection; when that is down, it is sent once it is up.
    pub fn send(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        slot.state = State::Asked;
        slot.generation = slot.generation.wrapping_add(1);
        let conn = &mut self.conns[slot.conn as usize];
        if !conn.up {
            // Its latency counts from here on, not from when the connection stands again.
            if slot.sent_ns == 0 {
                slot.sent_ns = slot.begun_ns.max(1);
            }
            return;
        }
        slot.attempts += 1;
        let session = &self.sessions[slot.session as usize];
        let mut material = Material {
            session: session.id,
            answered_below: session.window.answered_below(),
            shard: conn.shard,
            locks: &self.locks,
            queue: &self.queues[conn.shard as usize],
            lines: &mut self.lines,
        };
        encode(slot, index, &mut material, &mut conn.out);
        self.fresh.push(index);
        if !std::mem::replace(&mut conn.dirty, true) {
            self.dirty.push(slot.conn);
        }
    }

    /// The slot is idle and did what it had to: what comes next?
    pub fn proceed(&mut self, index: u32) {
        let slot = &self.slots[index as usize];
        match self.phase {
            Phase::Fill => self.fill(index),
            Phase::WindDown if slot.step.is_rest() => {}
            _ if self.open_loop && self.phase != Phase::WindDown => self.free.push_back(index),
            _ => self.begin(index, self.now_ns),
        }
    }

    /// Writes the next line of the connection's shard, if there is one left.
    pub fn fill(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        let shard = self.conns[slot.conn as usize].shard;
        if let Some(line) = self.unfilled[shard as usize].next() {
            slot.line = line;
            slot.step = Step::Put;
            self.begin(index, self.now_ns);
        }
    }

    /// Sends what was parked or put off, where it is time.
    pub fn retry_waiting(&mut self) {
        let mut at = 0;
        while at < self.waiting.len() {
            let index = self.waiting[at];
            let slot = &self.slots[index as usize];
            let ready = match slot.state {
                State::Parked => {
                    self.sessions[slot.session as usize].window.has_room(WINDOW_REPLIES_MAX)
                }
                State::Later(at_ns) => at_ns <= self.now_ns,
                State::Idle | State::Asked => true,
            };
            if !ready {
                at += 1;
                continue;
            }
            let state = slot.state;
            self.waiting.swap_remove(at);
            match state {
                State::Parked => self.take_sequence(index),
                State::Later(_) => self.send(index),
                State::Idle | State::Asked => {}
            }
        }
    }

    /// When something that waits is due, in nanoseconds.
    pub fn waiting_until(&self) -> u64 {
        let due = |index: &u32| match self.slots[*index as usize].state {
            State::Later(at_ns) => at_ns,
            _ => self.now_ns,
        };
        self.waiting.iter().map(due).min().unwrap_or(u64::MAX)
    }

    /// Whether no slot is busy.
    pub fn all_idle(&self) -> bool {
        self.slots.iter().all(|slot| slot.state == State::Idle)
    }
}

impl Session {
    fn new(chance: &mut Random) -> Session {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&chance.draw().to_le_bytes());
        id[8..].copy_from_slice(&chance.draw().to_le_bytes());
        Session { id, window: Window::new(1), alive_ns: 0, promised_ns: None }
    }

    /// Another session in its place: the old one ended.
    pub fn renew(&mut self, first: u64, second: u64, now_ns: u64) {
        self.alive_ns = now_ns;
        self.promised_ns = None;
        self.id[..8].copy_from_slice(&first.to_le_bytes());
        self.id[8..].copy_from_slice(&second.to_le_bytes());
        self.window = Window::new(1);
    }
}

/// The same keys in every load of a cluster, so that its memory does not grow from load to load.
fn keys(keys: usize, shards: u32) -> Keys {
    let mut names = Names::new(shards);
    for key in 0..keys {
        names.add(format!("bench/line-{key:07}").as_bytes());
    }
    for shard in 0..shards {
        if names.in_shard(shard).is_empty() {
            names.add_in(&format!("bench/line-of-{shard}"), shard);
        }
    }
    Keys::new(&names, shards)
}
