//! A state that is read back from a snapshot's file is in memory once.
#![cfg(feature = "edge")]
#![allow(clippy::unwrap_used)] // in a test a panic is the finding, in its helpers too

use engine::edge::snapshots;
use engine::ids::{GroupId, Index, Term};
use engine::machine::{Machine, MachineConfig, Restore, Restored, Slice, SliceProgress};
use engine::secret::Secret;
use engine::time::Elapsed;
use std::path::{Path, PathBuf};
use std::process::Command;
use wire::Call;
use wire::message::{CachePut, Expect, SessionOpen};

const NAME: &str = "a_state_that_is_read_back_takes_its_memory_once";
/// Tells the process that reads where the snapshot is.
const READER: &str = "TERCET_TEST_READS";
const LINES: u64 = 400;
const LINE_BYTES: usize = 256 << 10;
/// What reading takes beside the state, at most: a piece, a row, and what an allocator rounds up.
const BESIDE_BYTES: u64 = 16 << 20;
const CONFIG: MachineConfig =
    MachineConfig { cluster: 1, cache_bytes_max: 1 << 30, secret: Secret::new([1; 16]) };
const NAMED: (GroupId, Index) = (GroupId(1), Index(9));

#[test]
fn a_state_that_is_read_back_takes_its_memory_once() {
    if let Some(dir) = std::env::var_os(READER) {
        return read(Path::new(&dir));
    }
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("restart");
    std::fs::create_dir_all(&dir).unwrap();
    snapshots::prepare(&dir).unwrap();
    snapshots::save(&dir, NAMED.0, NAMED.1, Term(1), state()).unwrap();
    // A process of its own: this one has had the whole state in memory twice.
    let mut reader = Command::new(std::env::current_exe().unwrap());
    let output = reader.args(["--exact", NAME, "--nocapture"]).env(READER, &dir).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    std::fs::remove_dir_all(&dir).unwrap();
}

fn read(dir: &Path) {
    let mut restore = Restore::new(CONFIG);
    let found = snapshots::load(dir, NAMED.0, NAMED.1, &mut |piece| {
        restore.feed(piece);
        assert_ne!(restore.slice(Slice::WHOLE), Ok(Restored::More));
    });
    assert!(found.unwrap());
    let machine = restore.finish().unwrap();
    assert_eq!(machine.status().lines, LINES);
    let (peak, now) = (memory("VmHWM:"), memory("VmRSS:"));
    assert!(now > LINES * LINE_BYTES as u64, "all of it is here: {now}");
    assert!(peak < now + BESIDE_BYTES, "{peak} bytes at the most for a state that takes {now}");
}

/// The bytes of a state with lines.
fn state() -> Vec<u8> {
    let (mut machine, mut wakes, mut body) = (Machine::new(CONFIG), Vec::new(), Vec::new());
    let (session, value) = ([1; 16], vec![7; LINE_BYTES]);
    SessionOpen { session, ttl_ms: 60_000 }.encode(&mut body);
    machine.apply(Elapsed(1), SessionOpen::KIND, &body, &mut wakes);
    for sequence in 1..=LINES {
        let (key, value, answered_below) = (format!("key-{sequence}"), &value[..], sequence);
        let (version, ttl_ms, expect, key) = (0, 0, Expect::Any, key.as_bytes());
        body.clear();
        CachePut {
            call: Call { session, sequence, answered_below },
            version,
            ttl_ms,
            expect,
            key,
            value,
        }
        .encode(&mut body);
        machine.apply(Elapsed(1), CachePut::KIND, &body, &mut wakes);
    }
    let mut bytes = Vec::new();
    machine.snapshot_begin(&mut bytes);
    while machine.snapshot_slice(Slice::WHOLE, &mut bytes) == SliceProgress::More {}
    bytes
}

/// What this process has of the machine's memory by one of the kernel's counts, in bytes.
fn memory(count: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(count)).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}
