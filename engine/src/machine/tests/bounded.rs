//! Claims about what one entry does at most, from the level on at which it is bounded; steps are counted, not time.

use super::kit::*;
use crate::entry::kind;
use crate::level::Level;
use crate::limits::{STEPS_PER_CALL_MAX, STEPS_PER_ENTRY_MAX, STEPS_PER_TICK_MAX};
use crate::machine::{Applied, Machine, Outcome, Slice, SliceProgress, View};
use std::collections::BTreeSet;
use wire::limits::{SESSION_ENDED_MS, WINDOW_REPLIES_MAX};
use wire::message::{LockAcquire, LockMode, SessionClose, SessionOpen};
use wire::{Call, Code};

/// What an entry may do that asks for something: what was due, what it asks for, and the waits of the last session.
const ENTRY: u32 = STEPS_PER_ENTRY_MAX + STEPS_PER_CALL_MAX + 2 * WINDOW_REPLIES_MAX as u32;
const TICK: u32 = STEPS_PER_TICK_MAX + 2 * WINDOW_REPLIES_MAX as u32;

fn bounded(sessions: u8) -> Kit {
    let mut kit = Kit::open_to(sessions);
    kit.raise(Level::BOUNDED);
    kit.verify = Verify::Never;
    kit
}

fn session(n: u32) -> [u8; 16] {
    let mut id = [0xee; 16];
    id[..4].copy_from_slice(&n.to_be_bytes());
    id
}

fn open(kit: &mut Kit, n: u32, ttl_ms: u32) -> Applied {
    let mut b = Vec::new();
    SessionOpen { session: session(n), ttl_ms }.encode(&mut b);
    kit.apply(SessionOpen::KIND, &b)
}

fn close(kit: &mut Kit, n: u32) {
    let mut b = Vec::new();
    SessionClose { session: session(n) }.encode(&mut b);
    assert_eq!(kit.apply(SessionClose::KIND, &b), done(0));
}

fn acquire(kit: &mut Kit, n: u32, name: &[u8], mode: LockMode, wait_ms: u32) -> Applied {
    let (session, sequence, answered_below) = (session(n), 1, 1);
    let mut b = Vec::new();
    LockAcquire {
        call: Call { session, sequence, answered_below },
        wait_ms,
        lease_ms: 0,
        mode,
        name,
    }
    .encode(&mut b);
    kit.apply(LockAcquire::KIND, &b)
}

/// Session 1 holds so many locks.
fn hold_many(kit: &mut Kit, locks: u32) {
    for n in 0..locks {
        kit.answered_below = u64::from(n);
        token(kit.acquire(1, &n.to_string(), EXCLUSIVE, 0, 0));
    }
    kit.answered_below = 0;
}

/// So many sessions hold the lock "l" together: the first half for long, the others for a second.
fn share_many(kit: &mut Kit, sessions: u32) {
    for n in 0..sessions {
        assert_eq!(open(kit, n, if n < sessions / 2 { 600_000 } else { 1_000 }), done(0));
        token(acquire(kit, n, b"l", SHARED, 0));
    }
}

/// Ticks until nothing is due or unfinished; each tick is bounded.
fn settle(kit: &mut Kit) -> u32 {
    let mut ticks = 0;
    while kit.machine.next_deadline().is_some_and(|due| due <= kit.now) {
        kit.machine.most_steps = 0;
        kit.apply(kind::TICK, &[]);
        assert!(kit.machine.most_steps <= TICK, "{} steps", kit.machine.most_steps);
        ticks += 1;
    }
    kit.machine.verify();
    ticks
}

#[test]
fn a_session_with_many_locks_has_ended_for_everybody_with_the_first_entry() {
    let mut kit = bounded(3);
    hold_many(&mut kit, 20_000);
    assert_eq!(kit.acquire(2, "19000", EXCLUSIVE, 60_000, 0), Applied::Waiting);
    kit.machine.most_steps = 0;
    assert_eq!(kit.close(1), done(0));
    assert!(kit.machine.most_steps <= ENTRY, "{} steps", kit.machine.most_steps);
    kit.machine.verify();
    assert!(kit.machine.session_ttl(id(1)).is_none());
    assert_eq!(kit.machine.sessions(), 2);
    kit.answered_below = 20_000;
    assert_eq!(kit.put(1, "k", b"v"), refused(Code::SessionUnknown));
    kit.answered_below = 0;
    assert_eq!(kit.open(1), refused(Code::SessionUnknown));
    assert!(kit.machine.status().locks > 10_000, "most of it is still to be given back");
    // A lock that was not given back yet is free for whoever asks.
    token(kit.acquire(3, "18000", EXCLUSIVE, 0, 0));
    assert!(kit.machine.most_steps <= ENTRY, "{} steps", kit.machine.most_steps);
    // Who waits in line for another one gets that, in time.
    let ticks = settle(&mut kit);
    assert!(ticks >= 15, "{ticks} ticks");
    let wakes: BTreeSet<u8> = kit.wakes().into_iter().map(|(session, ..)| session).collect();
    assert_eq!(wakes, BTreeSet::from([2]));
    assert_eq!(kit.machine.status().locks, 2);
}

#[test]
fn sessions_with_many_locks_that_end_together_end_side_by_side() {
    let mut kit = bounded(3);
    hold_many(&mut kit, 20_000);
    token(kit.acquire(2, "small", EXCLUSIVE, 0, 0));
    assert_eq!(kit.acquire(3, "small", EXCLUSIVE, 60_000, 0), Applied::Waiting);
    kit.pass(8_000);
    kit.renew(&[3]);
    kit.pass(5_000);
    kit.apply(kind::TICK, &[]);
    let wakes = kit.wakes();
    assert!(matches!(wakes[..], [(3, 1, Outcome::Done { .. })]), "{wakes:?}");
    settle(&mut kit);
    assert_eq!(kit.machine.status().locks, 1);
}

#[test]
fn a_lock_that_lets_thousands_in_does_so_over_entries_and_in_their_order() {
    let mut kit = bounded(2);
    let fence = token(kit.acquire(1, "l", EXCLUSIVE, 0, 0));
    for n in 0..5_000 {
        open(&mut kit, n, 60_000);
        assert_eq!(acquire(&mut kit, n, b"l", SHARED, 60_000), Applied::Waiting);
    }
    kit.machine.most_steps = 0;
    assert_eq!(kit.release(1, "l", fence), done(0));
    assert!(kit.machine.most_steps <= ENTRY, "{} steps", kit.machine.most_steps);
    kit.machine.verify();
    // Nobody slips in before those who wait.
    assert_eq!(kit.acquire(2, "l", EXCLUSIVE, 0, 0), refused(Code::Busy));
    assert_eq!(kit.acquire(2, "l", SHARED, 60_000, 0), Applied::Waiting);
    settle(&mut kit);
    let order: Vec<[u8; 16]> = kit.wakes.iter().map(|wake| wake.session.0).collect();
    let line = (0..5_000).map(session).chain([id(2).0]);
    assert_eq!(order, line.collect::<Vec<_>>());
}

#[test]
fn what_is_refused_since_something_is_unfinished_is_done_when_it_comes_again() {
    let mut kit = bounded(1);
    share_many(&mut kit, 10_000);
    (0..5_000).for_each(|n| close(&mut kit, n));
    kit.pass(1_250);
    kit.machine.most_steps = 0;
    assert_eq!(kit.acquire_as(1, 1, "l", EXCLUSIVE, 0, 0), refused(Code::Busy));
    assert!(kit.machine.most_steps <= ENTRY, "{} steps", kit.machine.most_steps);
    settle(&mut kit);
    token(kit.acquire_as(1, 1, "l", EXCLUSIVE, 0, 0));
}

#[test]
fn who_comes_to_a_lock_does_not_pay_for_its_holders_that_are_due() {
    let mut kit = bounded(1);
    share_many(&mut kit, 10_000);
    kit.pass(1_250);
    kit.machine.most_steps = 0;
    token(kit.acquire(1, "l", SHARED, 0, 0));
    assert_eq!(kit.acquire(1, "l", EXCLUSIVE, 0, 0), refused(Code::LockHeld));
    assert!(kit.machine.most_steps <= ENTRY, "{} steps", kit.machine.most_steps);
    settle(&mut kit);
    assert_eq!(kit.machine.sessions(), 5_001);
}

#[test]
fn a_queue_serves_who_waits_before_who_comes_while_an_end_gives_messages_back() {
    let mut kit = bounded(3);
    for n in 0..3_000u32 {
        kit.answered_below = u64::from(2 * n);
        token(kit.push(1, "q", 0, b"m"));
        delivered(kit.pop(1, "q", 0, 600_000));
    }
    kit.answered_below = 0;
    assert_eq!(kit.pop(2, "q", 60_000, 1_000), Applied::Waiting);
    kit.machine.most_steps = 0;
    assert_eq!(kit.close(1), done(0));
    assert!(kit.machine.most_steps <= ENTRY, "{} steps", kit.machine.most_steps);
    let wakes = kit.wakes();
    assert!(matches!(wakes[..], [(2, 1, Outcome::Delivered { .. })]), "{wakes:?}");
    settle(&mut kit);
    assert_eq!(kit.machine.status().messages_ready, 2_999);
}

#[test]
fn a_snapshot_taken_in_the_middle_of_an_end_goes_on_with_it_alike() {
    let mut kit = bounded(3);
    hold_many(&mut kit, 3_000);
    assert_eq!(kit.acquire(2, "2999", EXCLUSIVE, 60_000, 0), Applied::Waiting);
    kit.close(1);
    let mut bytes = Vec::new();
    kit.machine.snapshot_begin(&mut bytes);
    let whole = kit.snapshot();
    let mut sliced = kit.machine.snapshot_slice(Slice { rows: 100, ..Slice::WHOLE }, &mut bytes);
    while sliced == SliceProgress::More {
        kit.apply(kind::TICK, &[]);
        sliced = kit.machine.snapshot_slice(Slice { rows: 100, ..Slice::WHOLE }, &mut bytes);
    }
    let mut twin = Kit::with(CONFIG);
    twin.machine = Machine::restore(CONFIG, &bytes).expect("it is a snapshot");
    twin.machine.verify();
    assert_eq!(twin.snapshot(), whole);
    settle(&mut kit);
    settle(&mut twin);
    assert_eq!(twin.snapshot(), kit.snapshot());
    assert_eq!(twin.machine.status().locks, 1, "who waited has it");
}

#[test]
fn an_ended_id_is_refused_for_its_time_however_many_end_after_it() {
    let mut kit = bounded(2);
    token(kit.push(1, "q", 0, b"payload"));
    assert_eq!(kit.close(1), done(0));
    for n in 0..5_000 {
        assert_eq!(open(&mut kit, n, 1_000), done(0));
        close(&mut kit, n);
    }
    assert_eq!(kit.open(1), refused(Code::SessionUnknown));
    let mut left = SESSION_ENDED_MS;
    while left > 1_000 {
        kit.pass(1_000);
        kit.renew(&[2]);
        left -= 1_000;
    }
    kit.tick(999);
    assert_eq!(kit.open(1), refused(Code::SessionUnknown));
    kit.tick(1);
    assert_eq!(kit.open(1), done(0), "nobody may ask so late");
    settle(&mut kit);
    assert_eq!(kit.machine.status().messages_ready, 1);
}

#[test]
fn ids_that_ended_before_the_level_are_remembered_by_time_after_it() {
    let mut kit = Kit::open_to(1);
    kit.close(1);
    kit.raise(Level::BOUNDED);
    assert_eq!(kit.open(1), refused(Code::SessionUnknown));
    kit.tick(SESSION_ENDED_MS - 1);
    assert_eq!(kit.open(1), refused(Code::SessionUnknown));
    kit.tick(1);
    assert_eq!(kit.open(1), done(0));
}

#[test]
fn a_line_whose_end_is_in_the_log_reads_missing_without_another_tick() {
    let mut kit = bounded(1);
    for n in 0..2_000u64 {
        kit.answered_below = n;
        token(kit.put_if(1, &n.to_string(), b"v", 1_000, (0, 0)));
    }
    kit.pass(1_000);
    assert_eq!(kit.machine.get(b"1999", kit.now), View::Due, "its end is in no entry yet");
    kit.apply(kind::TICK, &[]);
    assert!(kit.machine.status().lines > 900, "its timer did not fire");
    assert_eq!(kit.machine.get(b"1999", kit.now), View::Refused(Code::KeyUnknown));
}

#[test]
fn a_snapshot_that_was_begun_below_the_level_stays_one_that_older_builds_read() {
    let mut kit = Kit::open_to(3);
    kit.raise(Level(2));
    kit.close(3);
    token(kit.acquire(1, "l", EXCLUSIVE, 0, 0));
    let (whole, mut bytes) = (kit.snapshot(), Vec::new());
    kit.machine.snapshot_begin(&mut bytes);
    kit.raise(Level::BOUNDED);
    kit.close(1);
    kit.renew(&[2]);
    while kit.machine.snapshot_slice(Slice::SHORT, &mut bytes) == SliceProgress::More {}
    let mut twin = Kit::with(CONFIG);
    twin.machine = Machine::restore(CONFIG, &bytes).expect("it is a snapshot");
    assert_eq!(twin.snapshot(), whole);
    assert_eq!(bytes[4..8], 3u32.to_le_bytes());
    twin.raise(Level::BOUNDED);
    twin.close(1);
    twin.renew(&[2]);
    assert_eq!(twin.snapshot(), kit.snapshot());
}
