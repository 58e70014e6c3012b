//! A machine and the little that a test needs around it.

use crate::entry::kind;
use crate::ids::SessionId;
use crate::level::Level;
use crate::machine::{Applied, Machine, MachineConfig, Outcome, View, Wake};
use crate::secret::Secret;
use crate::time::{Duration, Elapsed, millis};
use std::collections::BTreeMap;
use wire::message::*;
use wire::{Call, Code, Kind};

pub const SECRET: Secret = Secret::new([42; 16]);
pub const CONFIG: MachineConfig =
    MachineConfig { cluster: 42, cache_bytes_max: 1 << 20, secret: SECRET };
pub const SHARED: LockMode = LockMode::Shared;
pub const EXCLUSIVE: LockMode = LockMode::Exclusive;
/// The time to live of a session that [`Kit::open`] opens, in milliseconds.
pub const TTL_MS: u32 = 10_000;

/// Whether all invariants are looked at after each entry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    Always,
    Never,
}

pub struct Kit {
    pub verify: Verify,
    pub machine: Machine,
    pub now: Elapsed,
    pub wakes: Vec<Wake>,
    /// The last sequence of each session.
    pub sequences: BTreeMap<u8, u64>,
    /// What a call names as `answered_below`.
    pub answered_below: u64,
}

/// Session `n`'s id.
pub fn id(n: u8) -> SessionId {
    SessionId([n; 16])
}

pub fn done(token: u64) -> Applied {
    Applied::Done(Outcome::Done { token })
}

pub fn refused(code: Code) -> Applied {
    Applied::Done(Outcome::refused(code))
}

pub fn token(applied: Applied) -> u64 {
    match applied {
        Applied::Done(Outcome::Done { token }) => token,
        other => panic!("not done: {other:?}"),
    }
}

pub fn delivered(applied: Applied) -> (u64, u32) {
    match applied {
        Applied::Done(Outcome::Delivered { id, delivery }) => (id, delivery),
        other => panic!("not delivered: {other:?}"),
    }
}

impl Kit {
    pub fn new() -> Kit {
        Kit::with(CONFIG)
    }

    pub fn with(config: MachineConfig) -> Kit {
        let (now, wakes, sequences) = (Elapsed::ZERO, Vec::new(), BTreeMap::new());
        let (machine, verify) = (Machine::new(config), Verify::Always);
        Kit { verify, machine, now, wakes, sequences, answered_below: 0 }
    }

    /// A machine in which sessions 1 to `sessions` are open.
    pub fn open_to(sessions: u8) -> Kit {
        let mut kit = Kit::new();
        for n in 1..=sessions {
            assert_eq!(kit.open(n), done(0));
        }
        kit
    }

    /// Raises the feature level.
    pub fn raise(&mut self, level: Level) {
        assert_eq!(self.apply(kind::LEVEL, &level.encode()), Applied::Nothing);
    }

    pub fn apply(&mut self, kind: Kind, payload: &[u8]) -> Applied {
        let applied = self.machine.apply(self.now, kind, payload, &mut self.wakes);
        if self.verify == Verify::Always {
            self.machine.verify();
        }
        applied
    }

    /// Lets time pass, with nothing applied.
    pub fn pass(&mut self, ms: u32) {
        self.now = self.now + millis(ms);
    }

    /// Lets time pass, and ticks until nothing is due.
    pub fn tick(&mut self, ms: u32) {
        self.pass(ms);
        self.apply(kind::TICK, &[]);
        while self.machine.next_deadline().is_some_and(|deadline| deadline <= self.now) {
            self.apply(kind::TICK, &[]);
        }
    }

    pub fn renew(&mut self, sessions: &[u8]) {
        let ids: Vec<u8> = sessions.iter().flat_map(|n| id(*n).0).collect();
        assert_eq!(self.apply(kind::RENEW, &ids), Applied::Nothing);
    }

    pub fn wakes(&mut self) -> Vec<(u8, u64, Outcome)> {
        let wakes = std::mem::take(&mut self.wakes);
        wakes.into_iter().map(|wake| (wake.session.0[0], wake.sequence, wake.outcome)).collect()
    }

    pub fn snapshot(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.machine.snapshot(&mut bytes);
        bytes
    }

    /// The bytes of a snapshot in slices, as [`Kit::snapshot`] has them.
    pub fn sorted(&self, bytes: &[u8]) -> Vec<u8> {
        let (machine, mut sorted) = (Machine::restore(self.machine.config, bytes), Vec::new());
        machine.expect("it is a snapshot").snapshot(&mut sorted);
        sorted
    }

    pub fn get(&self, key: &[u8]) -> Option<(u64, Vec<u8>)> {
        match self.machine.get(key, self.now) {
            View::Line { version, value } => Some((version, value.to_vec())),
            View::Refused(_) => None,
            View::Due => panic!("the line is due"),
        }
    }

    pub fn next(&mut self, n: u8) -> u64 {
        let sequence = self.sequences.entry(n).or_insert(0);
        *sequence += 1;
        *sequence
    }

    pub fn open(&mut self, n: u8) -> Applied {
        self.open_for(n, TTL_MS)
    }

    pub fn open_for(&mut self, n: u8, ttl_ms: u32) -> Applied {
        let mut b = Vec::new();
        SessionOpen { session: id(n).0, ttl_ms }.encode(&mut b);
        self.apply(SessionOpen::KIND, &b)
    }

    pub fn close(&mut self, n: u8) -> Applied {
        let mut b = Vec::new();
        SessionClose { session: id(n).0 }.encode(&mut b);
        self.apply(SessionClose::KIND, &b)
    }

    pub fn acquire(
        &mut self,
        n: u8,
        name: &str,
        mode: LockMode,
        wait_ms: u32,
        lease_ms: u32,
    ) -> Applied {
        let sequence = self.next(n);
        self.acquire_as(n, sequence, name, mode, wait_ms, lease_ms)
    }

    pub fn acquire_as(
        &mut self,
        n: u8,
        sequence: u64,
        name: &str,
        mode: LockMode,
        wait_ms: u32,
        lease_ms: u32,
    ) -> Applied {
        let (session, answered_below, name) = (id(n).0, self.answered_below, name.as_bytes());
        let mut b = Vec::new();
        LockAcquire {
            call: Call { session, sequence, answered_below },
            wait_ms,
            lease_ms,
            mode,
            name,
        }
        .encode(&mut b);
        self.apply(LockAcquire::KIND, &b)
    }

    pub fn release(&mut self, n: u8, name: &str, fence: u64) -> Applied {
        let sequence = self.next(n);
        let (session, answered_below, name) = (id(n).0, self.answered_below, name.as_bytes());
        let mut b = Vec::new();
        LockRelease { call: Call { session, sequence, answered_below }, fence, name }
            .encode(&mut b);
        self.apply(LockRelease::KIND, &b)
    }

    pub fn push(&mut self, n: u8, name: &str, priority: u8, payload: &[u8]) -> Applied {
        let sequence = self.next(n);
        let (session, answered_below, name) = (id(n).0, self.answered_below, name.as_bytes());
        let mut b = Vec::new();
        QueuePush { call: Call { session, sequence, answered_below }, priority, name, payload }
            .encode(&mut b);
        self.apply(QueuePush::KIND, &b)
    }

    pub fn pop(&mut self, n: u8, name: &str, wait_ms: u32, visibility_ms: u32) -> Applied {
        let sequence = self.next(n);
        self.pop_as(n, sequence, name, wait_ms, visibility_ms)
    }

    pub fn pop_as(
        &mut self,
        n: u8,
        sequence: u64,
        name: &str,
        wait_ms: u32,
        visibility_ms: u32,
    ) -> Applied {
        let (session, answered_below, name) = (id(n).0, self.answered_below, name.as_bytes());
        let mut b = Vec::new();
        QueuePop { call: Call { session, sequence, answered_below }, wait_ms, visibility_ms, name }
            .encode(&mut b);
        self.apply(QueuePop::KIND, &b)
    }

    pub fn ack(&mut self, n: u8, name: &str, message: (u64, u32)) -> Applied {
        let sequence = self.next(n);
        let (session, answered_below, name) = (id(n).0, self.answered_below, name.as_bytes());
        let (id, delivery) = message;
        let mut b = Vec::new();
        QueueAck { call: Call { session, sequence, answered_below }, id, delivery, name }
            .encode(&mut b);
        self.apply(QueueAck::KIND, &b)
    }

    pub fn nack(&mut self, n: u8, name: &str, message: (u64, u32), delay_ms: u32) -> Applied {
        let sequence = self.next(n);
        let (session, answered_below, name) = (id(n).0, self.answered_below, name.as_bytes());
        let (id, delivery) = message;
        let mut b = Vec::new();
        QueueNack {
            call: Call { session, sequence, answered_below },
            id,
            delivery,
            delay_ms,
            name,
        }
        .encode(&mut b);
        self.apply(QueueNack::KIND, &b)
    }

    pub fn put(&mut self, n: u8, key: &str, value: &[u8]) -> Applied {
        self.put_if(n, key, value, 0, (0, 0))
    }

    /// `expect` is the wire's `expect` and `version`.
    pub fn put_if(
        &mut self,
        n: u8,
        key: &str,
        value: &[u8],
        ttl_ms: u32,
        expect: (u8, u64),
    ) -> Applied {
        let sequence = self.next(n);
        self.put_as(n, sequence, key, value, ttl_ms, expect)
    }

    pub fn put_as(
        &mut self,
        n: u8,
        sequence: u64,
        key: &str,
        value: &[u8],
        ttl_ms: u32,
        (expect, version): (u8, u64),
    ) -> Applied {
        let (session, answered_below, key) = (id(n).0, self.answered_below, key.as_bytes());
        let mut b = Vec::new();
        CachePut {
            call: Call { session, sequence, answered_below },
            version,
            ttl_ms,
            expect: Expect::from_number(expect).expect("a choice"),
            key,
            value,
        }
        .encode(&mut b);
        self.apply(CachePut::KIND, &b)
    }

    pub fn delete(&mut self, n: u8, key: &str, (expect, version): (u8, u64)) -> Applied {
        let sequence = self.next(n);
        let (session, answered_below, key) = (id(n).0, self.answered_below, key.as_bytes());
        let mut b = Vec::new();
        let call = Call { session, sequence, answered_below };
        let expect = Expect::from_number(expect).expect("a choice");
        CacheDelete { call, version, expect, key }.encode(&mut b);
        self.apply(CacheDelete::KIND, &b)
    }
}

/// A duration in milliseconds, as the machine's clock counts.
pub fn at(ms: u64) -> Elapsed {
    Elapsed::ZERO + Duration::from_millis(ms)
}
