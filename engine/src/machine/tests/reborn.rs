//! A machine of another cluster, made from a snapshot: nothing is lost, nobody holds anything, no number comes again.

use super::kit::*;
use crate::machine::{Corrupt, Machine, MachineConfig, Outcome, TOKENS_SKIPPED, Times};
use wire::Code;

/// Another cluster's.
const OTHER: MachineConfig = MachineConfig { cluster: 7, ..CONFIG };
const TIMES: Times = Times { taken_us: 1_000_000_000, now_us: 1_600_000_000 };

impl Kit {
    /// The machine that another cluster makes of this one's snapshot.
    fn reborn(&self, times: Times) -> Kit {
        let machine = Machine::reborn(CONFIG, OTHER, times, &self.snapshot());
        let machine = machine.expect("a snapshot that was just made can be read");
        machine.verify();
        Kit { machine, now: self.now, ..Kit::with(OTHER) }
    }
}

/// Some of everything: locks held and waited for, messages in every place, pops that wait.
fn busy() -> Kit {
    let mut kit = Kit::open_to(5);
    kit.acquire(1, "held", EXCLUSIVE, 0, 0);
    kit.acquire(2, "held", SHARED, 60_000, 0);
    kit.acquire(3, "held", EXCLUSIVE, 60_000, 0);
    kit.acquire(4, "held", SHARED, 60_000, 0);
    kit.acquire(2, "leased", SHARED, 0, 1_000);
    kit.acquire(3, "leased", SHARED, 0, 0);
    for n in 0..6 {
        kit.push(1, "jobs", 10 - n, &[n; 20]);
    }
    // One in flight for the first time, one for the second, one delayed.
    delivered(kit.pop(1, "jobs", 0, 60_000));
    let second = delivered(kit.pop(2, "jobs", 0, 60_000));
    kit.nack(2, "jobs", second, 0);
    assert_eq!(delivered(kit.pop(2, "jobs", 0, 60_000)), (second.0, 2));
    let third = delivered(kit.pop(3, "jobs", 0, 60_000));
    kit.nack(3, "jobs", third, 5_000);
    kit.pop(4, "nothing", 60_000, 1_000);
    kit.pop(5, "nothing", 60_000, 1_000);
    kit.push(5, "single", 0, b"one");
    delivered(kit.pop(5, "single", 0, 60_000));
    kit.pop(4, "single", 60_000, 60_000);
    kit.put(1, "line", b"value");
    kit.put_if(1, "short", b"lived", 8_000, (0, 0));
    kit.close(1);
    kit.wakes.clear();
    kit.pass(3_000);
    kit
}

#[test]
fn every_session_ends_and_its_locks_are_free_under_higher_fences() {
    let mut kit = busy();
    let last = token(kit.put(2, "last", b"number"));
    let mut other = kit.reborn(TIMES);
    let status = other.machine.status();
    assert_eq!((status.sessions, status.locks, status.lock_waiters), (0, 0, 0));
    assert_eq!((status.messages_in_flight, other.machine.next_deadline()), (0, Some(at(5_000))));
    for n in 1..=5 {
        assert_eq!(other.open(n), refused(Code::SessionUnknown), "session {n} is remembered");
    }
    assert_eq!(other.put_as(2, 1, "line", b"again", 0, (0, 0)), refused(Code::SessionUnknown));
    other.open(9);
    assert!(token(other.acquire(9, "held", EXCLUSIVE, 0, 0)) > last);
    assert!(token(other.acquire(9, "leased", EXCLUSIVE, 0, 0)) > last);
}

#[test]
fn every_message_is_there_once_at_its_place_with_its_deliveries() {
    let kit = busy();
    let (before, mut other) = (kit.machine.status(), kit.reborn(TIMES));
    let after = other.machine.status();
    let messages = |s: crate::status::MachineStatus| {
        s.messages_ready + s.messages_in_flight + s.messages_delayed
    };
    assert_eq!((messages(before), messages(after)), (7, 7));
    assert_eq!((before.messages_delayed, after.messages_delayed), (1, 1));
    other.open(9);
    let mut popped = Vec::new();
    while let crate::machine::Applied::Done(Outcome::Delivered { id, delivery }) =
        other.pop(9, "jobs", 0, 60_000)
    {
        let view = other.machine.delivery((id, delivery)).expect("it is in flight");
        popped.push((view.priority, view.delivery, view.payload[0]));
    }
    // By priority; session 1, which had the first, ended before the snapshot.
    assert_eq!(popped, [(5, 2, 5), (6, 3, 4), (8, 1, 2), (9, 1, 1), (10, 1, 0)]);
    let (_, deliveries) = delivered(other.pop(9, "single", 0, 60_000));
    assert_eq!(deliveries, 2, "nobody who waited got it on his way out");
    other.tick(2_000);
    assert_eq!(delivered(other.pop(9, "jobs", 0, 60_000)).1, 2, "its delay went on");
}

#[test]
fn lines_keep_their_versions_and_live_as_long_as_was_left() {
    let kit = busy();
    let (line, short) = (kit.get(b"line"), kit.get(b"short"));
    let mut other = kit.reborn(TIMES);
    assert_eq!((other.get(b"line"), other.get(b"short")), (line.clone(), short));
    other.tick(4_999);
    assert!(other.get(b"short").is_some());
    other.tick(1);
    assert_eq!((other.get(b"short"), other.get(b"line")), (None, line));
}

#[test]
fn numbers_go_on_above_all_that_can_have_been_issued_meanwhile() {
    let issued = |kit: &mut Kit| {
        kit.open(9);
        token(kit.put(9, "line", b"value"))
    };
    let kit = busy();
    let first = issued(&mut kit.reborn(TIMES));
    assert!(first > TIMES.now_us + TOKENS_SKIPPED, "above Unix time");
    let behind = Times { now_us: 5, ..TIMES };
    let first = issued(&mut kit.reborn(behind));
    assert!(first > TIMES.taken_us + TOKENS_SKIPPED, "a clock that went back counts for nothing");
    // A counter that is ahead of the clock: as if one a microsecond had been issued since.
    let mut ahead = kit.reborn(TIMES);
    let bytes = ahead.snapshot();
    let before = issued(&mut ahead);
    let late = Times { taken_us: 10, now_us: 20 };
    let machine = Machine::reborn(OTHER, OTHER, late, &bytes).expect("it can be read");
    let after = issued(&mut Kit { machine, ..Kit::with(OTHER) });
    assert_eq!(after, before + 10 + TOKENS_SKIPPED);
}

#[test]
fn equal_bytes_give_equal_machines_and_another_cluster_s_are_refused() {
    let kit = busy();
    let (one, other) = (kit.reborn(TIMES).snapshot(), kit.reborn(TIMES).snapshot());
    assert!(one == other, "sessions end in one order");
    let restored = Machine::restore(OTHER, &one).expect("it is a snapshot like any other");
    let mut bytes = Vec::new();
    restored.snapshot(&mut bytes);
    assert!(bytes == one);
    let wrong = |origin| Machine::reborn(origin, OTHER, TIMES, &kit.snapshot()).err();
    assert_eq!(wrong(OTHER), Some(Corrupt::Config));
    let smaller = MachineConfig { cache_bytes_max: 1 << 19, ..CONFIG };
    assert_eq!(wrong(smaller), Some(Corrupt::Config));
    let mut damaged = kit.snapshot();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    let damaged = Machine::reborn(CONFIG, OTHER, TIMES, &damaged).err();
    assert_eq!(damaged, Some(Corrupt::Checksum));
}
