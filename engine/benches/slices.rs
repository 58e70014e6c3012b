//! What a snapshot in slices costs the thread that does it, with a large state.
//!
//! ```text
//! cargo bench -p engine --features edge --bench slices -- MIB [STATE...]
//! ```
//!
//! It takes minutes: without a number of MiB it does nothing, so that `cargo bench` goes on to what is short. 1024 shows
//! what a large state does. A state is a number of bytes, for that much in lines of such values and a tenth
//! as many messages, or `locks`: sessions that hold locks. Each is filled into a shard's machine, of which a
//! snapshot is made, restored beside it, put in its place, and freed: in a process of its own, several times.
//!
//! Every time is CPU time of the one thread. That holds what interrupts it, and what the kernel and the
//! hypervisor do to give it memory. So the table has the longest of all steps of all runs; then, since the runs
//! are equal step by step, the longest of the least that each step took in any run; and, as its own, the same
//! among those runs in which it had no page fault. `nothing` is a loop that touches no memory: what is long there
//! was not its own. The page faults are those of one run.

use engine::edge::clock::thread_cpu;
use engine::edge::memory;
use engine::entry::kind;
use engine::machine::{Checksum, Machine, MachineConfig, Restore, Restored, Slice, SliceProgress};
use engine::secret::Secret;
use engine::time::{Duration, Elapsed};
use std::collections::BTreeMap;
use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use wire::Call;
use wire::message::{CachePut, Expect, LockAcquire, LockMode, QueuePush, SessionOpen};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Puts between two slices: about a turn's, at depth.
const PUTS_A_TURN: u64 = 64;
/// The pieces in which a snapshot is kept, as a shard does.
const PIECE_BYTES: usize = engine::limits::SNAPSHOT_PIECE_BYTES_MAX;
/// Pieces that are freed at a time, as a shard does.
const PIECES_FREED: usize = 2;
/// Runs that are to be equal.
const RUNS: usize = 5;
const CONFIG: MachineConfig =
    MachineConfig { cluster: 1, cache_bytes_max: 64 << 30, secret: Secret::new([1; 16]) };
const SHORT: Duration = Duration::from_millis(1);

/// A machine and what is done to it.
struct Load {
    machine: Box<Machine>,
    sequence: u64,
    value: Vec<u8>,
    body: Vec<u8>,
}

impl Load {
    fn new(value_bytes: usize) -> Load {
        let (machine, value) = (Box::new(Machine::new(CONFIG)), vec![7; value_bytes]);
        let mut load = Load { machine, sequence: 0, value, body: Vec::new() };
        load.open(0);
        load
    }

    fn apply(&mut self, kind: wire::Kind) {
        let applied = self.machine.apply(Elapsed::ZERO, kind, &self.body, &mut Vec::new());
        black_box(applied);
        self.body.clear();
    }

    fn open(&mut self, n: u64) {
        SessionOpen { session: session(n), ttl_ms: 60_000 }.encode(&mut self.body);
        self.apply(SessionOpen::KIND);
    }

    fn put(&mut self, n: u64) {
        self.sequence += 1;
        let (sequence, key) = (self.sequence, format!("key-{n:012}"));
        let (session, answered_below, version) = (session(0), sequence, 0);
        let (ttl_ms, expect, key, value) = (0, Expect::Any, key.as_bytes(), &self.value[..]);
        CachePut {
            call: Call { session, sequence, answered_below },
            version,
            ttl_ms,
            expect,
            key,
            value,
        }
        .encode(&mut self.body);
        self.apply(CachePut::KIND);
    }

    fn push(&mut self, n: u64) {
        self.sequence += 1;
        let (sequence, name) = (self.sequence, format!("queue-{}", n % 1_000));
        let (session, answered_below, priority) = (session(0), sequence, 0);
        let (name, payload) = (name.as_bytes(), &self.value[..]);
        QueuePush { call: Call { session, sequence, answered_below }, priority, name, payload }
            .encode(&mut self.body);
        self.apply(QueuePush::KIND);
    }

    fn acquire(&mut self, holder: u64, name: &str, mode: LockMode) {
        self.sequence += 1;
        let (sequence, name) = (self.sequence, name.as_bytes());
        let (session, answered_below, wait_ms, lease_ms) = (session(holder), sequence, 0, 90_000);
        LockAcquire {
            call: Call { session, sequence, answered_below },
            mode,
            wait_ms,
            lease_ms,
            name,
        }
        .encode(&mut self.body);
        self.apply(LockAcquire::KIND);
    }

    /// Lines and messages of about so many MiB. Says how many lines.
    fn fill(&mut self, mib: u64, report: bool) -> u64 {
        let cost = self.value.len() as u64 + 16 + engine::machine::cache::LINE_OVERHEAD_BYTES;
        let rows = (mib << 20) / cost;
        let mut laps = Laps::default();
        for n in 0..rows {
            laps.time(|| self.put(n));
            if n % 10 == 0 {
                laps.time(|| self.push(n));
            }
        }
        if report {
            println!("{rows} lines of {} bytes, a tenth as many messages", self.value.len());
            laps.print("put or push anew, growth included");
        }
        rows
    }

    /// Sessions, each with ten locks of its own.
    fn fill_with_locks(&mut self, report: bool) {
        let sessions = engine::limits::SESSIONS_MAX as u64 - 1;
        for n in 1..=sessions {
            self.open(n);
            (0..10).for_each(|at| self.acquire(n, &format!("lock-{n}-{at}"), LockMode::Exclusive));
        }
        // One that many share, if so many are to.
        let shared = std::env::var("SHARED_GRANTS").ok().and_then(|n| n.parse().ok());
        (0..shared.unwrap_or(0)).for_each(|n| self.acquire(n + 1, "shared", LockMode::Shared));
        if report {
            println!("{sessions} sessions with ten locks each, {shared:?} share one");
        }
    }

    /// What turns cost beside a snapshot: only in the first run, since they change what comes after.
    fn beside_puts(&mut self, rows: u64) {
        let (mut turns, mut n) = (Laps::default(), 0);
        for _ in 0..2_000 {
            turns.time(|| (0..PUTS_A_TURN).for_each(|at| self.put(draw(n + at, rows))));
            n += PUTS_A_TURN;
        }
        turns.print("turn of 64 puts, no snapshot");
        let (mut slices, mut turns, mut out) = (Laps::default(), Laps::default(), Vec::new());
        self.machine.snapshot_begin(&mut out);
        while slices.time(|| self.machine.snapshot_slice(Slice::SHORT, &mut out))
            == SliceProgress::More
        {
            out.clear();
            turns.time(|| (0..PUTS_A_TURN).for_each(|at| self.put(draw(n + at, rows))));
            n += PUTS_A_TURN;
        }
        slices.print("slice of a snapshot between puts");
        turns.print("turn of 64 puts between slices");
    }
}

fn session(n: u64) -> [u8; 16] {
    let mut id = [7; 16];
    id[..8].copy_from_slice(&n.to_le_bytes());
    id
}

/// A number that looks drawn, for the `n`th time.
fn draw(n: u64, below: u64) -> u64 {
    (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % below
}

/// How long each of equal things took.
#[derive(Default)]
struct Laps(Vec<Duration>);

impl Laps {
    fn time<T>(&mut self, what: impl FnOnce() -> T) -> T {
        let began = thread_cpu();
        let result = what();
        self.0.push(thread_cpu() - began);
        result
    }

    fn print(&self, what: &str) {
        let (count, all) = (self.0.len().max(1), self.0.iter().sum::<Duration>());
        let (mean, longest) = (us(all) / count as f64, us(self.longest()));
        println!("  {what:<34} {count:>8} x {mean:>6.1} us, longest {longest:>6.0} us");
    }

    fn longest(&self) -> Duration {
        self.0.iter().copied().max().unwrap_or_default()
    }

    fn long(&self) -> usize {
        self.0.iter().filter(|lap| **lap > SHORT).count()
    }
}

fn us(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// What one run did, step by step: how long each step took, and how many page faults.
struct Run {
    stat: File,
    steps: BTreeMap<String, Vec<(Duration, u64)>>,
}

impl Run {
    fn new() -> Run {
        let stat = File::open("/proc/thread-self/stat").expect("Linux shows a thread's faults");
        Run { stat, steps: BTreeMap::new() }
    }

    fn step<T>(&mut self, what: &str, step: impl FnOnce() -> T) -> T {
        let faults = self.faults();
        let began = thread_cpu();
        let result = step();
        let took = thread_cpu() - began;
        let faults = self.faults() - faults;
        match self.steps.get_mut(what) {
            Some(steps) => steps.push((took, faults)),
            None => _ = self.steps.insert(what.to_string(), vec![(took, faults)]),
        }
        result
    }

    /// Page faults of this thread so far that needed no disk.
    fn faults(&self) -> u64 {
        let mut text = [0; 512];
        let length = self.stat.read_at(&mut text, 0).expect("it is there as long as the thread is");
        let text = String::from_utf8_lossy(&text[..length]);
        let behind_name = text.rsplit_once(')').expect("the name is in parentheses").1;
        behind_name.split_whitespace().nth(7).and_then(|n| n.parse().ok()).expect("the 10th field")
    }

    fn print(&self) {
        for (what, steps) in &self.steps {
            let steps = steps.iter().map(|(took, faults)| format!("{}/{faults}", took.as_nanos()));
            println!("STEPS\t{what}\t{}", steps.collect::<Vec<_>>().join(" "));
        }
    }
}

/// One run. The steps go to standard output, for [`compare`].
fn run(mib: u64, state: &str, first: bool) {
    memory::start().expect("a thread can be started");
    let (mut run, mut load) = (Run::new(), Load::new(state.parse().unwrap_or(0)));
    let rows = match state {
        "locks" => {
            load.fill_with_locks(first);
            0
        }
        _ => load.fill(mib, first),
    };
    for n in 0..20_000 {
        run.step("0 nothing", || (0..50_000).fold(n, |sum: u64, n| black_box(sum ^ n)));
    }
    let (mut pieces, mut out) = (Vec::new(), Vec::new());
    run.step("1 begin", || load.machine.snapshot_begin(&mut out));
    loop {
        let progress = run.step("2 make", || {
            let progress = load.machine.snapshot_slice(Slice::SHORT, &mut out);
            if out.len() >= PIECE_BYTES || progress == SliceProgress::Done {
                let room = Vec::with_capacity(PIECE_BYTES + Slice::SHORT.bytes);
                pieces.push(std::mem::replace(&mut out, room));
            }
            progress
        });
        if progress == SliceProgress::Done {
            break;
        }
    }
    let mut restore = run.step("3 begin a restore", || Restore::new(CONFIG));
    let mut sum = Checksum::default();
    for piece in &pieces {
        run.step("4 check a piece", || sum.add(piece));
        run.step("5 feed a piece", || restore.feed(piece));
        while run.step("6 restore", || restore.slice(Slice::SHORT)) == Ok(Restored::More) {}
    }
    assert!(sum.is_right(), "the checksum is right");
    let mut replaced = run.step("7 swap", || {
        let restored = Box::new(restore.finish().expect("the snapshot is whole"));
        std::mem::replace(&mut load.machine, restored)
    });
    while !pieces.is_empty() {
        let left = pieces.len().saturating_sub(PIECES_FREED);
        run.step("8 free pieces", || pieces.truncate(left));
    }
    while run.step("9 free", || replaced.shed(Slice::SHORT)) == SliceProgress::More {}
    run.step("9 free", || drop(replaced));
    load.machine.apply(Elapsed::ZERO, kind::TICK, &[], &mut Vec::new());
    assert_eq!(load.machine.status().lines, rows);
    run.print();
    if first && rows > 0 {
        load.beside_puts(rows);
    }
}

/// Runs a state several times, and prints what each step took, in all runs and in its shortest.
fn compare(mib: &str, state: &str) {
    let mut all: BTreeMap<String, Vec<Vec<(Duration, u64)>>> = BTreeMap::new();
    for n in 0..RUNS {
        let program = std::env::current_exe().expect("this program has a path");
        let mut child = Command::new(program);
        child.args(["run", mib, state, &n.to_string()]).stderr(Stdio::inherit());
        let child = child.output().expect("this program starts again");
        assert!(child.status.success(), "a run failed");
        for line in String::from_utf8(child.stdout).expect("a run prints text").lines() {
            let mut parts = line.split('\t').skip(1);
            let (Some(what), Some(steps)) = (parts.next(), parts.next()) else {
                println!("{line}");
                continue;
            };
            let steps =
                steps.split(' ').filter_map(|step| step.split_once('/')).map(|(ns, faults)| {
                    let numbers = (ns.parse().map(Duration::from_nanos), faults.parse());
                    (numbers.0.expect("a number"), numbers.1.expect("a number"))
                });
            all.entry(what.to_string()).or_default().push(steps.collect());
        }
    }
    println!(
        "  {:<18} {:>7} {:>7} | {:>7} {:>5} | {:>9} {:>5} | {:>9} {:>5} | {:>7} {:>5}",
        "us of CPU",
        "steps",
        "mean",
        "longest",
        ">1ms",
        "of least",
        ">1ms",
        "own",
        ">1ms",
        "faults",
        "most"
    );
    for (what, runs) in &all {
        let raw = Laps(runs.iter().flatten().map(|(took, _)| *took).collect());
        let steps = runs.iter().map(Vec::len).min().unwrap_or(0);
        let equal = runs.iter().all(|run| run.len() == steps);
        let least = |at: usize| runs.iter().map(|run| run[at].0).min().expect("there are runs");
        let least = Laps((0..steps).map(least).collect());
        let own = |at: usize| {
            let unfaulted = runs.iter().map(|run| run[at]).filter(|(_, faults)| *faults == 0);
            unfaulted.map(|(took, _)| took).min()
        };
        let own = Laps((0..steps).filter_map(own).collect());
        let faults = runs[0].iter().map(|(_, faults)| *faults);
        println!(
            "  {what:<18} {steps:>7} {:>7.1} | {:>7.0} {:>5} | {:>9.0} {:>5} | {:>9.0} {:>5} | {:>7} {:>5}{}",
            us(raw.0.iter().sum()) / raw.0.len().max(1) as f64,
            us(raw.longest()),
            raw.long(),
            us(least.longest()),
            least.long(),
            us(own.longest()),
            own.long(),
            faults.clone().sum::<u64>(),
            faults.max().unwrap_or(0),
            if equal { "" } else { ", and the runs differ" },
        );
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    if let [command, mib, state, n] = &args[..]
        && command == "run"
    {
        return run(mib.parse().expect("a number of MiB"), state, n == "0");
    }
    let (mib, states) = match args.split_first() {
        Some((mib, states)) if mib.parse::<u64>().is_ok() => (mib.as_str(), states),
        _ => return println!("slices: not asked for (-- MIB [STATE...])"),
    };
    let usual = ["128", "1024", "1048576", "locks"].map(String::from);
    for state in if states.is_empty() { &usual } else { states } {
        compare(mib, state);
    }
}
