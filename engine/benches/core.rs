//! What the pieces of the pure core cost, each alone: `cargo bench -p engine --features simulator --bench core`.
//! What a snapshot's slices cost with a large state, page faults and all, is in `slices.rs`.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use engine::entry::{self, EntryHeader, kind};
use engine::ids::{GroupId, Index, Term};
use engine::journal::{Journal, JournalConfig, Record};
use engine::level::Level;
use engine::machine::measure::Names;
use engine::machine::{
    Applied, Machine, MachineConfig, Outcome, Restore, Restored, Slice, SliceProgress,
};
use engine::raft::Log;
use engine::secret::Secret;
use engine::time::{Duration, Elapsed};
use std::hint::black_box;
use wire::message::*;
use wire::{Call, Kind};

const SECRET: Secret = Secret::new([1; 16]);
const CONFIG: MachineConfig =
    MachineConfig { cluster: 1, cache_bytes_max: 8 << 30, secret: SECRET };
const GROUP: GroupId = GroupId(0);
const SESSION: [u8; 16] = [7; 16];
/// Names in a table, lines in a cache: more than the processor's caches hold.
const ROWS: u64 = 100_000;
/// Entries of a turn.
const BATCH: u64 = 32;
const PAYLOAD: [u8; 128] = [7; 128];

fn name(number: u64) -> Vec<u8> {
    format!("name-{number:012}").into_bytes()
}

/// A number below [`ROWS`] that looks drawn, for the `n`th time.
fn draw(n: &mut u64) -> u64 {
    *n += 1;
    (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % ROWS
}

fn table(c: &mut Criterion) {
    let mut names = Names::new(SECRET);
    (0..ROWS).for_each(|number| names.insert(name(number)));
    let (known, unknown): (Vec<_>, Vec<_>) = (0..ROWS).map(|n| (name(n), name(n + ROWS))).unzip();
    let mut group = c.benchmark_group("table");
    let mut n = 0;
    group.bench_function("find", |b| {
        b.iter(|| assert!(names.find(&known[draw(&mut n) as usize]).is_some()))
    });
    group.bench_function("miss", |b| {
        b.iter(|| assert!(names.find(&unknown[draw(&mut n) as usize]).is_none()))
    });
    group.bench_function("insert and remove", |b| {
        b.iter(|| {
            let name = &unknown[draw(&mut n) as usize];
            names.insert(name.clone());
            let slot = names.find(name).expect("it was inserted");
            names.remove(slot);
        })
    });
}

fn header(index: u64) -> EntryHeader {
    let (group, term, index) = (GROUP, Term(1), Index(index));
    EntryHeader { group, kind: kind::NOOP, term, index, time: Elapsed::ZERO, principal: 0 }
}

fn log(c: &mut Criterion) {
    let (mut log, mut index) = (Log::default(), 0);
    let mut group = c.benchmark_group("log");
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("append 32 entries, drop them", |b| {
        b.iter(|| {
            for _ in 0..BATCH {
                index += 1;
                log.append_one(&header(index), black_box(&PAYLOAD));
            }
            log.drop_upto(Index(index));
        })
    });
}

/// A unit of entries: appended, sealed, said to be on the disk. Its segments are used again.
fn journal(c: &mut Criterion) {
    const SEGMENT_BYTES: u64 = 16 << 20;
    let blank = vec![0; SEGMENT_BYTES as usize];
    let segments: Vec<(u32, &[u8])> = (0..4).map(|slot| (slot, &blank[..])).collect();
    let mut group = c.benchmark_group("journal");
    for count in [1, BATCH] {
        let config =
            JournalConfig { segment_bytes: SEGMENT_BYTES, segments_max: 8, groups: vec![GROUP] };
        let journal = Journal::recover(config, 7, &segments, None, &mut |_| {});
        let mut journal = journal.expect("blank segments are a fresh journal");
        let (mut index, mut units, mut bytes) = (0, 0, Vec::new());
        group.throughput(Throughput::Elements(count));
        group.bench_function(format!("append and seal {count}"), |b| {
            b.iter(|| {
                bytes.clear();
                let (first, last, term) = (Index(index + 1), Index(index + count), Term(1));
                for index in first.0..=last.0 {
                    entry::write(&header(index), &PAYLOAD, &mut bytes);
                }
                let (group, last_term) = (GROUP, term);
                journal.append(Record::Entries { group, first, last, last_term, bytes: &bytes });
                index = last.0;
                units += 1;
                if units % 256 == 0 {
                    journal.append(Record::Snapshot { group, index: last, term });
                }
                let write = journal.seal().expect("a segment has room");
                black_box(journal.in_flight());
                journal.on_synced(write.position);
                let mut wanted = Vec::new();
                journal.take_wanted_segments(&mut |slot| wanted.push(slot));
                wanted.into_iter().for_each(|slot| journal.on_segment_ready(slot));
            })
        });
    }
}

/// A machine, and the one session that asks it.
struct Asked {
    machine: Machine,
    now: Elapsed,
    sequence: u64,
    body: Vec<u8>,
}

impl Asked {
    fn new(lines: u64) -> Asked {
        let (mut machine, now) = (Machine::new(CONFIG), Elapsed::ZERO);
        machine.apply(now, kind::LEVEL, &Level::NEWEST.encode(), &mut Vec::new());
        let mut asked = Asked { machine, now, sequence: 0, body: Vec::new() };
        asked.open(SESSION);
        (0..lines).for_each(|number| asked.put(number));
        asked
    }

    fn apply(&mut self, kind: Kind) -> Outcome {
        let applied = self.machine.apply(self.now, kind, &self.body, &mut Vec::new());
        self.body.clear();
        match applied {
            Applied::Done(outcome) if !matches!(outcome, Outcome::Refused { .. }) => outcome,
            other => panic!("{kind:?}: {other:?}"),
        }
    }

    fn token(&mut self, kind: Kind) -> u64 {
        match self.apply(kind) {
            Outcome::Done { token } => token,
            other => panic!("{kind:?}: {other:?}"),
        }
    }

    fn call(&mut self) -> Call {
        self.sequence += 1;
        Call { session: SESSION, sequence: self.sequence, answered_below: self.sequence }
    }

    fn open(&mut self, session: [u8; 16]) {
        SessionOpen { session, ttl_ms: 60_000 }.encode(&mut self.body);
        self.apply(SessionOpen::KIND);
    }

    fn close(&mut self, session: [u8; 16]) {
        SessionClose { session }.encode(&mut self.body);
        self.apply(SessionClose::KIND);
    }

    fn put(&mut self, number: u64) {
        let (call, key) = (self.call(), &name(number)[..]);
        CachePut { call, version: 0, ttl_ms: 0, expect: Expect::Any, key, value: &PAYLOAD }
            .encode(&mut self.body);
        self.apply(CachePut::KIND);
    }

    fn delete(&mut self, number: u64) {
        let (call, key) = (self.call(), &name(number)[..]);
        CacheDelete { call, version: 0, expect: Expect::Any, key }.encode(&mut self.body);
        self.apply(CacheDelete::KIND);
    }

    fn lock(&mut self, number: u64) {
        let (call, name) = (self.call(), &name(number)[..]);
        LockAcquire { call, wait_ms: 0, lease_ms: 0, mode: LockMode::Exclusive, name }
            .encode(&mut self.body);
        let fence = self.token(LockAcquire::KIND);
        LockRelease { call: self.call(), fence, name }.encode(&mut self.body);
        self.apply(LockRelease::KIND);
    }

    fn push(&mut self, name: &[u8]) {
        let call = self.call();
        QueuePush { call, priority: 0, name, payload: &PAYLOAD }.encode(&mut self.body);
        self.apply(QueuePush::KIND);
    }

    fn pop(&mut self, name: &[u8]) -> (u64, u32) {
        QueuePop { call: self.call(), wait_ms: 0, visibility_ms: 30_000, name }
            .encode(&mut self.body);
        match self.apply(QueuePop::KIND) {
            Outcome::Delivered { id, delivery } => (id, delivery),
            other => panic!("nothing was delivered: {other:?}"),
        }
    }

    fn ack(&mut self, name: &[u8], (id, delivery): (u64, u32)) {
        QueueAck { call: self.call(), id, delivery, name }.encode(&mut self.body);
        self.apply(QueueAck::KIND);
    }

    fn nack(&mut self, name: &[u8], (id, delivery): (u64, u32)) {
        QueueNack { call: self.call(), id, delivery, delay_ms: 0, name }.encode(&mut self.body);
        self.apply(QueueNack::KIND);
    }
}

/// Entries of each kind; encoding them is part of the time. What one gives, the next gives back, so that the state
/// stays as it is.
fn apply(c: &mut Criterion) {
    let mut asked = Asked::new(ROWS);
    let queue = &name(0)[..];
    (0..1_000).for_each(|_| asked.push(queue));
    let mut group = c.benchmark_group("apply");
    let mut n = 0;
    // An id is used once. Its end is remembered for a while: the clock goes on, so that the state stays as it is.
    let (mut others, mut id) = (Asked::new(0), 0_u128);
    group.bench_function("SessionOpen, SessionClose", |b| {
        b.iter(|| {
            id += 1;
            others.now = others.now + Duration::from_secs(1);
            others.open(id.to_le_bytes());
            others.close(id.to_le_bytes());
        })
    });
    group.bench_function("LockAcquire, LockRelease", |b| b.iter(|| asked.lock(draw(&mut n))));
    group.bench_function("QueuePush, QueuePop, QueueAck", |b| {
        b.iter(|| {
            asked.push(queue);
            let message = asked.pop(queue);
            asked.ack(queue, message);
        })
    });
    group.bench_function("QueuePop, QueueNack", |b| {
        b.iter(|| {
            let message = asked.pop(queue);
            asked.nack(queue, message);
        })
    });
    group.bench_function("CachePut", |b| b.iter(|| asked.put(draw(&mut n))));
    group.bench_function("CachePut, CacheDelete of another", |b| {
        b.iter(|| {
            let number = ROWS + draw(&mut n);
            asked.put(number);
            asked.delete(number);
        })
    });
    group.bench_function("CacheGet", |b| {
        b.iter(|| {
            black_box(asked.machine.get(&name(draw(&mut n)), Elapsed::ZERO));
        })
    });
    group.bench_function("renew", |b| {
        b.iter(|| {
            black_box(asked.machine.apply(
                Elapsed::ZERO,
                kind::RENEW,
                black_box(&SESSION),
                &mut Vec::new(),
            ))
        })
    });
}

/// All slices of a snapshot of 20,000 lines: made, and restored.
fn slices(c: &mut Criterion) {
    const LINES: u64 = 20_000;
    let mut asked = Asked::new(LINES);
    let mut make = || {
        let mut out = Vec::new();
        asked.machine.snapshot_begin(&mut out);
        while asked.machine.snapshot_slice(Slice::SHORT, &mut out) == SliceProgress::More {}
        out
    };
    let mut group = c.benchmark_group("snapshot");
    group.throughput(Throughput::Elements(LINES)).sample_size(10);
    group.bench_function("make", |b| b.iter(&mut make));
    let bytes = make();
    group.bench_function("restore", |b| {
        b.iter_with_large_drop(|| {
            let mut restore = Restore::new(CONFIG);
            restore.feed(&bytes);
            while restore.slice(Slice::SHORT) == Ok(Restored::More) {}
            restore.finish().expect("the snapshot is whole")
        })
    });
}

criterion_group!(benches, table, log, journal, apply, slices);
criterion_main!(benches);
