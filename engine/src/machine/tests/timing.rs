//! What applying costs. Not a test: `cargo test --release -p engine --lib timing -- --ignored --nocapture`.

use super::kit::*;
use crate::machine::{Applied, Machine, MachineConfig, Outcome};
use crate::time::Elapsed;
use std::time::Duration;
use wire::message::*;
use wire::{Call, Kind};

const CALLS: u64 = 200_000;
const SESSIONS: u64 = 64;

/// The processor time of this thread: others may use the machine too.
struct Timer(Duration);

impl Timer {
    fn begin() -> Timer {
        Timer(Timer::now())
    }

    fn spent(&self) -> Duration {
        Timer::now() - self.0
    }

    fn now() -> Duration {
        let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("this is Linux");
        let spent = stat.split(' ').next().expect("it begins with the time on a processor");
        Duration::from_nanos(spent.parse().expect("a number"))
    }
}

/// Entries made beforehand, one nanosecond of the machine's clock apart.
struct Script {
    bytes: Vec<u8>,
    entries: Vec<(Kind, usize, usize)>,
    sequences: [u64; SESSIONS as usize + 1],
}

impl Script {
    fn new() -> Script {
        let sequences = [0; SESSIONS as usize + 1];
        Script { bytes: Vec::new(), entries: Vec::new(), sequences }
    }

    fn add(&mut self, kind: Kind, encode: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        encode(&mut self.bytes);
        self.entries.push((kind, start, self.bytes.len()));
    }

    /// The next call of a session: id, sequence, all answered below.
    fn call(&mut self, n: u64) -> ([u8; 16], u64, u64) {
        let n = 1 + n % SESSIONS;
        let sequence = &mut self.sequences[n as usize];
        *sequence += 1;
        (id(n as u8).0, *sequence, *sequence)
    }

    fn run(&mut self, what: &str, machine: &mut Machine) -> Vec<Applied> {
        let mut applied = Vec::with_capacity(self.entries.len());
        let mut wakes = Vec::new();
        let begin = Timer::begin();
        for (kind, start, end) in &self.entries {
            let time = Elapsed(machine.clock().0 + 1);
            applied.push(machine.apply(time, *kind, &self.bytes[*start..*end], &mut wakes));
            wakes.clear();
        }
        let each = begin.spent().as_nanos() / self.entries.len() as u128;
        println!("{what:<44} {each:>5} ns");
        self.entries.clear();
        self.bytes.clear();
        applied
    }
}

fn machine(script: &mut Script) -> Machine {
    let mut machine =
        Machine::new(MachineConfig { cluster: 1, cache_bytes_max: 1 << 30, secret: SECRET });
    for n in 0..SESSIONS {
        let session = id(1 + n as u8).0;
        script.add(SessionOpen::KIND, |b| SessionOpen { session, ttl_ms: 600_000 }.encode(b));
    }
    script.run("open", &mut machine);
    machine
}

fn outcome(applied: &Applied) -> Outcome {
    match applied {
        Applied::Done(outcome) => outcome.clone(),
        other => panic!("not done: {other:?}"),
    }
}

#[test]
#[ignore = "measures"]
fn timing_of_the_cache() {
    for keys in [10_000, 1_000_000] {
        let mut script = Script::new();
        let mut machine = machine(&mut script);
        for (round, ttl_ms) in [(0, 0), (1, 0), (2, 60_000)] {
            for n in 0..keys.max(CALLS) {
                let (session, sequence, answered_below) = script.call(n);
                let key = (n * 7919 % keys).to_string();
                let (key, value) = (key.as_bytes(), &[7; 128][..]);
                let (version, expect) = (0, Expect::Any);
                script.add(CachePut::KIND, |b| {
                    CachePut {
                        call: Call { session, sequence, answered_below },
                        version,
                        ttl_ms,
                        expect,
                        key,
                        value,
                    }
                    .encode(b);
                });
            }
            let what = format!("put, {keys} keys, round {round}, ttl {ttl_ms}");
            script.run(&what, &mut machine);
        }
        let begin = Timer::begin();
        let found = (0..CALLS).filter(|n| {
            let key = (n * 7919 % keys).to_string();
            machine.get(key.as_bytes(), machine.clock())
                != crate::machine::View::Refused(wire::Code::KeyUnknown)
        });
        assert_eq!(found.count() as u64, CALLS);
        println!("get, {keys} keys {:>40} ns", begin.spent().as_nanos() as u64 / CALLS);
        let (mut bytes, begin) = (Vec::new(), Timer::begin());
        machine.snapshot(&mut bytes);
        println!("snapshot, {} MB in {:?}", bytes.len() >> 20, begin.spent());
    }
}

#[test]
#[ignore = "measures"]
fn timing_of_locks() {
    for lease_ms in [0, 30_000] {
        let mut script = Script::new();
        let mut machine = machine(&mut script);
        for held in [0, 100_000] {
            for n in 0..held {
                acquire(&mut script, n, &format!("held-{n}"), lease_ms);
            }
            if held > 0 {
                script.run(&format!("acquire and keep, lease {lease_ms}"), &mut machine);
            }
            // The fences are known beforehand: one number each, in turn.
            let mut fence = last_number(&machine);
            for chunk in 0..CALLS / SESSIONS {
                for n in 0..SESSIONS {
                    acquire(&mut script, n, &format!("lock-{n}-{}", chunk % 16), lease_ms);
                }
                for n in 0..SESSIONS {
                    fence += 1;
                    let (session, sequence, answered_below) = script.call(n);
                    let name = format!("lock-{n}-{}", chunk % 16);
                    let name = name.as_bytes();
                    script.add(LockRelease::KIND, |b| {
                        LockRelease {
                            call: Call { session, sequence, answered_below },
                            fence,
                            name,
                        }
                        .encode(b);
                    });
                }
            }
            let what = format!("acquire, release beside {held}, lease {lease_ms}");
            let applied = script.run(&what, &mut machine);
            assert!(applied.iter().all(|a| matches!(outcome(a), Outcome::Done { .. })));
        }
    }
}

/// The number that the machine issued last, read off a snapshot.
fn last_number(machine: &Machine) -> u64 {
    let mut bytes = Vec::new();
    machine.snapshot(&mut bytes);
    u64::from_le_bytes(bytes[36..44].try_into().expect("the head of a snapshot"))
}

fn acquire(script: &mut Script, n: u64, name: &str, lease_ms: u32) {
    let (session, sequence, answered_below) = script.call(n);
    let (wait_ms, mode, name) = (0, EXCLUSIVE, name.as_bytes());
    script.add(LockAcquire::KIND, |b| {
        LockAcquire {
            call: Call { session, sequence, answered_below },
            wait_ms,
            lease_ms,
            mode,
            name,
        }
        .encode(b);
    });
}

fn push(script: &mut Script, n: u64) {
    let (session, sequence, answered_below) = script.call(n);
    let (name, payload, priority) = (format!("queue-{}", n % 16), &[7; 128][..], 0);
    let name = name.as_bytes();
    script.add(QueuePush::KIND, |b| {
        QueuePush { call: Call { session, sequence, answered_below }, priority, name, payload }
            .encode(b);
    });
}

fn pop(script: &mut Script, n: u64) {
    let (session, sequence, answered_below) = script.call(n);
    let (wait_ms, visibility_ms, name) = (0, 30_000, format!("queue-{}", n % 16));
    let name = name.as_bytes();
    script.add(QueuePop::KIND, |b| {
        QueuePop { call: Call { session, sequence, answered_below }, wait_ms, visibility_ms, name }
            .encode(b);
    });
}

fn ack(script: &mut Script, n: u64, (id, delivery): (u64, u32)) {
    let (session, sequence, answered_below) = script.call(n);
    let name = format!("queue-{}", n % 16);
    let name = name.as_bytes();
    script.add(QueueAck::KIND, |b| {
        QueueAck { call: Call { session, sequence, answered_below }, id, delivery, name }.encode(b);
    });
}

#[test]
#[ignore = "measures"]
fn timing_of_queues() {
    for backlog in [0, 100_000] {
        let mut script = Script::new();
        let mut machine = machine(&mut script);
        if backlog > 0 {
            (0..backlog * 2).for_each(|n| push(&mut script, n));
            script.run("push a backlog", &mut machine);
            (0..backlog).for_each(|n| pop(&mut script, n));
            script.run("pop and keep", &mut machine);
        }
        (0..CALLS).for_each(|n| push(&mut script, n));
        script.run(&format!("push beside {backlog}"), &mut machine);
        (0..CALLS).for_each(|n| pop(&mut script, n));
        let popped = script.run(&format!("pop beside {backlog}"), &mut machine);
        for (n, applied) in popped.iter().enumerate() {
            let Outcome::Delivered { id, delivery } = outcome(applied) else { panic!("ready") };
            ack(&mut script, n as u64, (id, delivery));
        }
        script.run(&format!("ack beside {backlog}"), &mut machine);
    }
}

#[test]
#[ignore = "measures"]
fn timing_of_queues_that_are_short() {
    let mut script = Script::new();
    let mut machine = machine(&mut script);
    // The ids are known beforehand: one number each, in turn.
    let mut last = last_number(&machine);
    for _ in 0..CALLS / SESSIONS {
        (0..SESSIONS).for_each(|n| push(&mut script, n));
        (0..SESSIONS).for_each(|n| pop(&mut script, n));
        for n in 0..SESSIONS {
            last += 1;
            ack(&mut script, n, (last, 1));
        }
    }
    let applied = script.run("push, pop, ack, four messages a queue", &mut machine);
    assert!(applied.iter().all(|a| !matches!(outcome(a), Outcome::Refused { .. })));
}
