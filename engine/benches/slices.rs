//! What a snapshot in slices costs the thread that does it, with a large state.
//!
//! ```text
//! cargo bench -p engine --features edge --bench slices -- [MIB]      1024 MiB unless told otherwise
//! ```
//!
//! For values of several sizes: fills a shard's machine, makes a snapshot while puts go on between its slices,
//! restores a machine from its bytes, and frees one. Every time is CPU time of the one thread.

use engine::edge::clock::thread_cpu;
use engine::entry::kind;
use engine::machine::{Checksum, Config, Machine, Progress, Restore, Restored, Slice};
use engine::time::{Duration, Elapsed};
use std::hint::black_box;
use wire::message::{CachePut, QueuePush, SessionOpen};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SESSION: [u8; 16] = [7; 16];
/// Puts between two slices: about a turn's, at depth.
const PUTS_A_TURN: u64 = 64;
/// How much is fed to a restore at a time, in bytes.
const PIECE_BYTES: usize = 256 << 10;
/// Snapshots that are made to leave interrupts out.
const ALONE: usize = 5;
const CONFIG: Config = Config { seed: 1, cache_bytes_max: 64 << 30 };

/// A machine and what is done to it.
struct Load {
    machine: Machine,
    sequence: u64,
    value: Vec<u8>,
    body: Vec<u8>,
}

impl Load {
    fn new(value_bytes: usize) -> Load {
        let (machine, value) = (Machine::new(CONFIG), vec![7; value_bytes]);
        let mut load = Load { machine, sequence: 0, value, body: Vec::new() };
        SessionOpen { session: SESSION, ttl_ms: 60_000 }.encode(&mut load.body);
        load.apply(SessionOpen::KIND);
        load
    }

    fn apply(&mut self, kind: wire::Kind) {
        let applied = self.machine.apply_at(Elapsed::ZERO, kind, &self.body, &mut Vec::new());
        black_box(applied);
        self.body.clear();
    }

    fn put(&mut self, n: u64) {
        self.sequence += 1;
        let (sequence, key) = (self.sequence, format!("key-{n:012}"));
        let (session, answered_below, version) = (SESSION, sequence, 0);
        let (ttl_ms, expect, key, value) = (0, 0, key.as_bytes(), &self.value[..]);
        CachePut { session, sequence, answered_below, version, ttl_ms, expect, key, value }
            .encode(&mut self.body);
        self.apply(CachePut::KIND);
    }

    fn push(&mut self, n: u64) {
        self.sequence += 1;
        let (sequence, name) = (self.sequence, format!("queue-{}", n % 1_000));
        let (session, answered_below, priority) = (SESSION, sequence, 0);
        let (name, payload) = (name.as_bytes(), &self.value[..]);
        QueuePush { session, sequence, answered_below, priority, name, payload }
            .encode(&mut self.body);
        self.apply(QueuePush::KIND);
    }
}

/// How long something took that was done again and again.
#[derive(Default)]
struct Times {
    all: Duration,
    longest: Duration,
    /// How often it took longer than a millisecond.
    long: u64,
    count: u64,
}

impl Times {
    fn time<T>(&mut self, what: impl FnOnce() -> T) -> T {
        let began = thread_cpu();
        let result = what();
        let spent = thread_cpu() - began;
        self.all += spent;
        self.longest = self.longest.max(spent);
        self.long += u64::from(spent > Duration::from_millis(1));
        self.count += 1;
        result
    }

    fn print(&self, what: &str) {
        let (all, longest) = (self.all.as_secs_f64(), self.longest.as_secs_f64() * 1e6);
        let mean = self.all.as_secs_f64() * 1e6 / self.count.max(1) as f64;
        let (count, long) = (self.count, self.long);
        println!(
            "  {what:<34} {count:>8} x {mean:>6.1} us, longest {longest:>5.0} us, {long} over 1 ms, {all:.2} s"
        );
    }
}

/// A number that looks drawn, for the `n`th time.
fn draw(n: u64, below: u64) -> u64 {
    (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % below
}

/// Makes the same snapshot again and again. The least that each slice took is what it takes: an interrupt
/// that is charged to it comes at another one the next time. Gives the longest of these.
fn slices_alone(machine: &mut Machine) -> Duration {
    let mut least: Vec<Duration> = Vec::new();
    let mut out = Vec::new();
    for _ in 0..ALONE {
        machine.snapshot_begin(&mut out);
        let mut at = 0;
        loop {
            out.clear();
            let began = thread_cpu();
            let progress = machine.snapshot_slice(Slice::SHORT, &mut out);
            let spent = thread_cpu() - began;
            match least.get_mut(at) {
                Some(known) => *known = spent.min(*known),
                None => least.push(spent),
            }
            at += 1;
            if progress == Progress::Done {
                break;
            }
        }
    }
    least.into_iter().max().expect("a snapshot has slices")
}

fn measure(value_bytes: usize, mib: u64) {
    let cost = value_bytes as u64 + 16 + engine::machine::cache::LINE_OVERHEAD_BYTES;
    let rows = (mib << 20) / cost;
    println!("{rows} lines of {value_bytes} bytes, and a tenth as many messages");
    let mut load = Load::new(value_bytes);
    let mut filling = Times::default();
    for n in 0..rows {
        filling.time(|| load.put(n));
        if n % 10 == 0 {
            filling.time(|| load.push(n));
        }
    }
    filling.print("put or push anew, growth included");

    let (mut turns, mut n) = (Times::default(), 0);
    for _ in 0..2_000 {
        turns.time(|| (0..PUTS_A_TURN).for_each(|at| load.put(draw(n + at, rows))));
        n += PUTS_A_TURN;
    }
    turns.print("turn of 64 puts, no snapshot");

    let (mut slices, mut turns) = (Times::default(), Times::default());
    let (mut bytes, mut out) = (Vec::new(), Vec::with_capacity(PIECE_BYTES + (2 << 20)));
    slices.time(|| load.machine.snapshot_begin(&mut out));
    slices.print("beginning of a snapshot");
    let mut slices = Times::default();
    loop {
        let progress = slices.time(|| load.machine.snapshot_slice(Slice::SHORT, &mut out));
        bytes.extend_from_slice(&out);
        out.clear();
        if progress == Progress::Done {
            break;
        }
        turns.time(|| (0..PUTS_A_TURN).for_each(|at| load.put(draw(n + at, rows))));
        n += PUTS_A_TURN;
    }
    slices.print("slice of a snapshot");
    turns.print("turn of 64 puts between slices");
    println!("  {} MiB", bytes.len() >> 20);

    let alone = slices_alone(&mut load.machine);
    println!(
        "  the longest slice of {ALONE} snapshots without puts, interrupts left out: {alone:?}"
    );

    let mut freeing = Times::default();
    while freeing.time(|| load.machine.shed(Slice::SHORT)) == Progress::More {}
    freeing.print("slice of freeing a machine");
    drop(load);

    let (mut restoring, mut sum, mut restore) =
        (Times::default(), Checksum::default(), Restore::new(CONFIG));
    for piece in bytes.chunks(PIECE_BYTES) {
        restoring.time(|| {
            sum.add(piece);
            restore.feed(piece);
        });
        while restoring.time(|| restore.slice(Slice::SHORT)) == Ok(Restored::More) {}
    }
    restoring.print("slice of a restore");
    assert!(sum.is_right(), "the checksum is right");
    let mut machine = restore.finish().expect("the snapshot is whole");
    machine.apply_at(Elapsed::ZERO, kind::TICK, &[], &mut Vec::new());
    assert_eq!(machine.status().lines, rows);
    let mut whole = Times::default();
    bytes.clear();
    whole.time(|| machine.snapshot(&mut bytes));
    whole.print("the same in one go");
}

fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    if let [mib, value_bytes] = numbers[..] {
        return measure(usize::try_from(value_bytes).expect("a value fits memory"), mib);
    }
    // Each in a process of its own: what one frees, the allocator gives back during the next.
    let mib = numbers.first().copied().unwrap_or(1024).to_string();
    for value_bytes in ["128", "1024", "1048576"] {
        let program = std::env::current_exe().expect("this program has a path");
        let run = std::process::Command::new(program).args([&mib, value_bytes]).status();
        assert!(run.expect("this program starts again").success());
    }
}
