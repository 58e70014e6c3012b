//! Snapshots in slices: with more rows than the random histories have, and in pieces.

use super::kit::*;
use crate::machine::{Applied, Checksum, Machine, MachineConfig, Outcome, SliceProgress};
use crate::machine::{Corrupt, Restore, Restored, Slice};
use crate::secret::Secret;

const SESSIONS: u8 = 40;
const NAMES: u64 = 600;

/// A machine with some of everything, and what was done to it.
struct Busy {
    kit: Kit,
    chance: u64,
    fences: Vec<(u8, String, u64)>,
    deliveries: Vec<(u8, String, (u64, u32))>,
}

impl Busy {
    fn new(seed: u64) -> Busy {
        let mut kit =
            Kit::with(MachineConfig { cluster: 42, cache_bytes_max: 200_000, secret: SECRET });
        kit.verify = Verify::Never;
        kit.answered_below = 0;
        (1..=SESSIONS).for_each(|n| _ = kit.open_for(n, 40_000));
        let mut busy = Busy { kit, chance: seed, fences: Vec::new(), deliveries: Vec::new() };
        (0..6_000).for_each(|_| busy.act());
        busy
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.chance = self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.chance >> 33) % below
    }

    fn act(&mut self) {
        let n = 1 + self.draw(SESSIONS.into()) as u8;
        let name = format!("name-{}", self.draw(NAMES));
        let some = self.draw(3_000) as u32;
        let last = self.kit.sequences.get(&n).copied().unwrap_or(0);
        self.kit.answered_below = last.saturating_sub(20);
        let applied = match self.draw(16) {
            0..=4 => {
                let value = vec![self.draw(256) as u8; self.draw(300) as usize];
                let ttl_ms = if self.draw(4) == 0 { some } else { 0 };
                self.kit.put_if(n, &name, &value, ttl_ms, (0, 0))
            }
            5 => self.kit.delete(n, &name, (0, 0)),
            6..=8 => {
                let mode = if self.draw(2) == 0 { SHARED } else { EXCLUSIVE };
                let lock = format!("lock-{}", self.draw(200));
                let applied = self.kit.acquire(n, &lock, mode, some, 0);
                if let Applied::Done(Outcome::Done { token }) = applied {
                    self.fences.push((n, lock, token));
                }
                applied
            }
            9 | 10 if !self.fences.is_empty() => {
                let at = self.draw(self.fences.len() as u64) as usize;
                let (n, lock, fence) = self.fences.swap_remove(at);
                self.kit.answered_below = 0;
                self.kit.release(n, &lock, fence)
            }
            11 | 12 => {
                let queue = format!("queue-{}", self.draw(50));
                self.kit.push(n, &queue, 1, b"payload")
            }
            13 => {
                let queue = format!("queue-{}", self.draw(50));
                let applied = self.kit.pop(n, &queue, some / 8, 1 + some);
                if let Applied::Done(Outcome::Delivered { id, delivery }) = applied {
                    self.deliveries.push((n, queue, (id, delivery)));
                }
                applied
            }
            14 if !self.deliveries.is_empty() => {
                let at = self.draw(self.deliveries.len() as u64) as usize;
                let (n, queue, message) = self.deliveries.swap_remove(at);
                self.kit.answered_below = 0;
                if self.draw(2) == 0 {
                    self.kit.ack(n, &queue, message)
                } else {
                    self.kit.nack(n, &queue, message, some)
                }
            }
            _ if self.draw(40) == 0 => {
                self.kit.close(n);
                self.kit.open_for(n, 40_000)
            }
            _ => {
                self.kit.renew(&[n]);
                Applied::Nothing
            }
        };
        assert!(!matches!(
            applied,
            Applied::Done(Outcome::Refused { code: wire::Code::BadMessage, .. })
        ));
        self.kit.wakes.clear();
        if self.draw(20) == 0 {
            self.kit.pass(some / 20);
        }
    }
}

#[test]
fn slices_give_the_rows_of_their_beginning_whatever_is_written_meanwhile() {
    for seed in 0..12 {
        let mut busy = Busy::new(seed);
        let (rows, between) = (1 + busy.draw(60) as usize, busy.draw(30));
        // Two in a row: the second begins when the first has ended.
        for _ in 0..2 {
            let (whole, mut bytes) = (busy.kit.snapshot(), Vec::new());
            busy.kit.machine.snapshot_begin(&mut bytes);
            let mut slices = 0;
            while busy.kit.machine.snapshot_slice(Slice { rows, ..Slice::WHOLE }, &mut bytes)
                == SliceProgress::More
            {
                slices += 1;
                (0..between).for_each(|_| busy.act());
            }
            assert!(slices > 5, "it took {slices} slices");
            assert!(busy.kit.sorted(&bytes) == whole, "seed {seed}: the rows differ");
            assert!(between == 0 || busy.kit.snapshot() != whole, "something was written");
            busy.kit.machine.verify();
        }
    }
}

#[test]
fn a_slice_ends_with_the_row_that_exceeds_its_budget() {
    let mut kit = Kit::open_to(1);
    (0..100).for_each(|n| _ = kit.put(1, &format!("key-{n}"), &[7; 1_000]));
    let (mut bytes, mut slices) = (Vec::new(), 0);
    kit.machine.snapshot_begin(&mut bytes);
    loop {
        let before = bytes.len();
        let more = kit.machine.snapshot_slice(Slice { rows: usize::MAX, bytes: 3_000 }, &mut bytes);
        slices += 1;
        assert!(bytes.len() - before < 3_000 + 1_100);
        if more == SliceProgress::Done {
            break;
        }
    }
    assert!(slices > 25, "{slices}");
    assert_eq!(kit.sorted(&bytes), kit.snapshot());
}

#[test]
fn equal_states_say_the_same_whatever_the_secrets_of_their_tables_and_whoever_restores_whom() {
    let busy = Busy::new(7);
    let whole = busy.kit.snapshot();
    let mut bytes = whole.clone();
    for secret in 1..4 {
        let config = MachineConfig { secret: Secret::new([secret; 16]), ..busy.kit.machine.config };
        let mut machine = Machine::restore(config, &bytes).expect("it is a snapshot");
        machine.verify();
        let mut again = Vec::new();
        machine.snapshot(&mut again);
        assert!(again == whole, "secret {secret}");
        bytes.clear();
        machine.snapshot_whole(&mut bytes);
    }
}

#[test]
fn a_machine_is_restored_in_slices_from_pieces_of_any_size() {
    let busy = Busy::new(99);
    let bytes = busy.kit.snapshot();
    let config = MachineConfig { cluster: 42, cache_bytes_max: 200_000, secret: SECRET };
    for size in [1, 3, 1_000, 70_000, bytes.len()] {
        let (mut restore, mut sum) = (Restore::new(config), Checksum::default());
        let mut slices = 0;
        for piece in bytes.chunks(size) {
            assert!(!sum.is_right(), "it is right at the end alone");
            sum.add(piece);
            restore.feed(piece);
            while restore.slice(Slice { rows: 9, bytes: 4_000 }) == Ok(Restored::More) {
                slices += 1;
            }
        }
        assert!(sum.is_right() && slices > 20);
        assert_eq!(restore.slice(Slice::WHOLE), Ok(Restored::Whole));
        let mut machine = restore.finish().expect("all of it came");
        machine.verify();
        let mut again = Vec::new();
        machine.snapshot(&mut again);
        assert!(again == bytes, "pieces of {size}");
        // And is freed in slices, one that is in the middle of a snapshot too.
        machine.snapshot_begin(&mut Vec::new());
        (0..1_000_000)
            .find(|_| machine.shed(Slice::SHORT) == SliceProgress::Done)
            .expect("it ends");
    }
    let mut short = Restore::new(config);
    short.feed(&bytes[..bytes.len() / 2]);
    assert_eq!(short.slice(Slice::WHOLE), Ok(Restored::Hungry));
    assert_eq!(short.finish().err(), Some(Corrupt::Malformed));
    assert!(Machine::restore(config, &bytes).is_ok());
}

/// Twelve sessions, five of them ended; the others hold ten locks each, share one, and have popped five messages
/// each from a queue. And a hundred lines.
fn crowd() -> Kit {
    let mut kit = Kit::open_to(12);
    for n in 1..=7 {
        (0..10).for_each(|at| _ = kit.acquire(n, &format!("lock-{n}-{at}"), EXCLUSIVE, 0, 60_000));
        kit.acquire(n, "shared", SHARED, 0, 60_000);
        for _ in 0..5 {
            kit.push(n, "queue", 1, &[7; 1_000]);
            kit.pop(n, "queue", 0, 60_000);
        }
    }
    (8..=12).for_each(|n| _ = kit.close(n));
    (0..100).for_each(|n| _ = kit.put(1, &format!("key-{n}"), &[7; 1_000]));
    kit.machine.verify();
    kit
}

#[test]
fn a_slice_writes_no_more_of_a_lock_than_it_may_and_the_rest_as_it_was_whatever_becomes_of_it() {
    for change in 0..5 {
        let mut kit = Kit::open_to(100);
        (1..=99).for_each(|n| _ = kit.acquire(n, "shared", SHARED, 0, 60_000 + u32::from(n)));
        let (whole, mut bytes) = (kit.snapshot(), Vec::new());
        kit.machine.snapshot_begin(&mut bytes);
        let (mut slices, mut before) = (0, bytes.len());
        while kit.machine.snapshot_slice(Slice { rows: 3, bytes: 200 }, &mut bytes)
            == SliceProgress::More
        {
            slices += 1;
            assert!(
                bytes.len() - before < 3 * 80,
                "three rows or grants, of 80 bytes at most, or 200 bytes"
            );
            before = bytes.len();
            let in_the_middle = bytes.len() > whole.len() - 1_000;
            match change {
                1 if in_the_middle => _ = kit.acquire(100, "shared", SHARED, 0, 0),
                2 if in_the_middle => _ = kit.acquire(50, "shared", SHARED, 0, 90_000),
                3 if in_the_middle => _ = kit.close(99),
                4 => _ = (1..=99).map(|n| kit.close(n)).count(),
                _ => {}
            }
        }
        assert!(slices >= 100 / 3 + 99 * 36 / 200, "{slices} slices");
        assert!(kit.sorted(&bytes) == whole, "change {change}");
        kit.machine.verify();
    }
}

#[test]
fn a_slice_of_a_restore_reads_no_more_rows_grants_and_ended_ids_than_it_may() {
    let kit = crowd();
    let bytes = kit.snapshot();
    let mut restore = Restore::new(CONFIG);
    restore.feed(&bytes);
    let mut slices = 1;
    while restore.slice(Slice { rows: 2, ..Slice::WHOLE }) == Ok(Restored::More) {
        slices += 1;
    }
    // Sessions and ended ids; locks and grants; the queue and its messages; lines, and their order.
    let rows = (7 + 5) + (71 + 77) + (1 + 35) + (100 + 100);
    assert!(slices >= rows / 2, "{slices} slices for {rows} rows, two at a time");
    let machine = restore.finish().expect("all of it came");
    machine.verify();
    let mut again = Vec::new();
    machine.snapshot(&mut again);
    assert!(again == bytes);
}

#[test]
fn a_slice_of_freeing_frees_no_more_rows_than_it_may_nor_what_a_row_owns() {
    let mut machine = crowd().machine;
    machine.snapshot_begin(&mut Vec::new());
    let slice = Slice { rows: 2, ..Slice::WHOLE };
    let slices =
        1 + (0..1_000_000).take_while(|_| machine.shed(slice) == SliceProgress::More).count();
    // Timers of sessions, grants and messages; rows, and what sessions own.
    let rows = (7 + 77 + 35) + (100 + 35 + 7 + 71 + 1 + 77) + (77 + 35);
    assert!(slices >= rows / 2, "{slices} slices for {rows} rows, two at a time");
}

#[test]
fn a_slice_of_freeing_gives_back_no_more_than_sixteen_times_its_bytes_and_a_row() {
    let mut machine = crowd().machine;
    let slice = Slice { bytes: 500, ..Slice::WHOLE };
    let slices =
        1 + (0..1_000_000).take_while(|_| machine.shed(slice) == SliceProgress::More).count();
    let bytes = (100 + 35) * 1_000;
    assert!(slices >= bytes / (16 * 500 + 1_100), "{slices} slices for {bytes} bytes");
}
