//! Claims about time: the budget of timers, and what is due but has not fired.

use super::kit::*;
use crate::entry::kind;
use crate::limits::TIMERS_PER_ENTRY_MAX;
use crate::machine::{Applied, Outcome, View};
use wire::Code;

/// A machine with so many lines that end at 1 ms that their timers keep one entry busy.
fn crowded(sessions: u8) -> Kit {
    let mut kit = Kit::open_to(sessions);
    kit.open(99);
    for n in 0..TIMERS_PER_ENTRY_MAX {
        token(kit.put_if(99, &format!("line-{n}"), b"", 1, (0, 0)));
        kit.answered_below += 1;
    }
    kit.answered_below = 0;
    kit
}

#[test]
fn the_clock_never_goes_back() {
    let mut kit = Kit::open_to(1);
    kit.tick(5_000);
    kit.now = at(1_000);
    token(kit.put_if(1, "k", b"v", 1_000, (0, 0)));
    assert_eq!(kit.machine.clock(), at(5_000));
    assert!(matches!(kit.machine.get(b"k", at(5_999)), View::Line { .. }));
    assert_eq!(kit.machine.get(b"k", at(6_000)), View::Due);
}

#[test]
fn what_one_entry_does_not_fire_stays_due() {
    let mut kit = crowded(1);
    token(kit.put_if(1, "one-more", b"", 2, (0, 0)));
    kit.pass(2);
    kit.apply(kind::TICK, &[]);
    assert_eq!(kit.machine.status().lines, 1);
    assert_eq!(kit.machine.next_deadline(), Some(at(2)));
    kit.apply(kind::TICK, &[]);
    assert_eq!(kit.machine.status().lines, 0);
    assert!(kit.machine.next_deadline().is_some_and(|session_end| session_end > kit.now));
}

#[test]
fn a_line_that_is_due_but_did_not_fire_is_not_there() {
    let mut kit = crowded(1);
    token(kit.put_if(1, "k", b"old", 2, (0, 0)));
    kit.pass(2);
    assert_eq!(kit.delete(1, "k", (0, 0)), refused(Code::KeyUnknown));
    let mut kit = crowded(1);
    token(kit.put_if(1, "k", b"old", 2, (0, 0)));
    kit.pass(2);
    token(kit.put_if(1, "k", b"new", 0, (1, 0)));
    kit.tick(10);
    assert_eq!(kit.get(b"k").map(|line| line.1), Some(b"new".to_vec()));
}

#[test]
fn a_lease_that_is_due_but_did_not_fire_holds_nobody_up() {
    let mut kit = crowded(2);
    let fence = token(kit.acquire(1, "l", EXCLUSIVE, 0, 2));
    kit.pass(2);
    token(kit.acquire(2, "l", EXCLUSIVE, 0, 0));
    assert_eq!(kit.release(1, "l", fence), refused(Code::NotHolder));
}

#[test]
fn a_release_under_a_lease_that_is_due_is_refused() {
    let mut kit = crowded(2);
    let fence = token(kit.acquire(1, "l", EXCLUSIVE, 0, 2));
    assert_eq!(kit.acquire(2, "l", EXCLUSIVE, 9_000, 0), Applied::Waiting);
    kit.pass(2);
    assert_eq!(kit.release(1, "l", fence), refused(Code::NotHolder));
    assert!(matches!(kit.wakes()[..], [(2, 1, Outcome::Done { .. })]));
}

#[test]
fn a_waiter_that_is_due_but_did_not_fire_holds_nobody_up() {
    let mut kit = crowded(3);
    token(kit.acquire(1, "l", SHARED, 0, 0));
    assert_eq!(kit.acquire(2, "l", EXCLUSIVE, 2, 0), Applied::Waiting);
    kit.pass(2);
    token(kit.acquire(3, "l", SHARED, 0, 0));
    assert_eq!(kit.wakes(), [(2, 1, Outcome::refused(Code::LockTimeout))]);
}

#[test]
fn a_session_that_is_due_but_did_not_fire_has_ended() {
    let mut kit = Kit::new();
    kit.open(2);
    kit.open_for(1, 1_000);
    kit.open(99);
    for n in 0..TIMERS_PER_ENTRY_MAX {
        token(kit.put_if(99, &format!("line-{n}"), b"", 1_000, (0, 0)));
        kit.answered_below += 1;
    }
    kit.answered_below = 0;
    token(kit.acquire(1, "l", EXCLUSIVE, 0, 0));
    token(kit.push(2, "q", 0, b"m"));
    let message = delivered(kit.pop(1, "q", 0, 60_000));
    let before = kit.snapshot();
    kit.pass(1_250);
    token(kit.acquire(2, "l", EXCLUSIVE, 0, 0));
    assert!(kit.machine.session_ttl(id(1)).is_none());
    for call in [
        |kit: &mut Kit, _| kit.put(1, "k", b"v"),
        |kit: &mut Kit, _| {
            kit.renew(&[1]);
            kit.open(1)
        },
    ] {
        kit.machine = crate::machine::Machine::restore(CONFIG, &before).expect("it is a snapshot");
        assert_eq!(call(&mut kit, message), refused(Code::SessionUnknown));
    }
    kit.machine = crate::machine::Machine::restore(CONFIG, &before).expect("it is a snapshot");
    kit.sequences.insert(2, 1);
    assert_eq!(kit.ack(2, "q", message), refused(Code::StaleDelivery));
}

#[test]
fn a_delivery_that_is_due_but_did_not_fire_is_stale() {
    let mut kit = crowded(1);
    let id = token(kit.push(1, "q", 0, b"m"));
    let message = delivered(kit.pop(1, "q", 0, 2));
    kit.pass(2);
    assert_eq!(kit.ack(1, "q", message), refused(Code::StaleDelivery));
    assert_eq!(delivered(kit.pop(1, "q", 0, 1_000)), (id, 2));
}

#[test]
fn a_pop_that_is_due_but_did_not_fire_gets_nothing() {
    let mut kit = crowded(2);
    assert_eq!(kit.pop(1, "q", 2, 1_000), Applied::Waiting);
    kit.pass(2);
    let id = token(kit.push(2, "q", 0, b"m"));
    assert_eq!(kit.wakes(), [(1, 1, Outcome::refused(Code::QueueEmpty))]);
    assert_eq!(delivered(kit.pop(2, "q", 0, 1_000)), (id, 1));
}

#[test]
fn timers_fire_in_the_order_of_their_deadlines() {
    let mut kit = Kit::open_to(3);
    kit.renew(&[1, 2, 3]);
    for (n, wait_ms) in [(1, 3_000), (2, 1_000), (3, 2_000)] {
        assert_eq!(kit.pop(n, "q", wait_ms, 1_000), Applied::Waiting);
    }
    kit.tick(3_000);
    let order: Vec<u8> = kit.wakes().iter().map(|wake| wake.0).collect();
    assert_eq!(order, [2, 3, 1]);
}
