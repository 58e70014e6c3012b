//! Claims about locks: order, modes, re-entrance, leases, fences.

use super::kit::*;
use crate::machine::{Applied, Outcome};
use wire::Code;

#[test]
fn an_exclusive_lock_has_one_holder() {
    let mut kit = Kit::open_to(2);
    let first = token(kit.acquire(1, "l", EXCLUSIVE, 0, 0));
    assert_eq!(kit.acquire(2, "l", EXCLUSIVE, 0, 0), refused(Code::LockHeld));
    assert_eq!(kit.acquire(2, "l", SHARED, 0, 0), refused(Code::LockHeld));
    assert_eq!(kit.release(1, "l", first), done(0));
    let second = token(kit.acquire(2, "l", EXCLUSIVE, 0, 0));
    assert!(second > first, "fences rise");
}

#[test]
fn shared_holders_stand_beside_each_other() {
    let mut kit = Kit::open_to(3);
    token(kit.acquire(1, "l", SHARED, 0, 0));
    token(kit.acquire(2, "l", SHARED, 0, 0));
    assert_eq!(kit.acquire(3, "l", EXCLUSIVE, 0, 0), refused(Code::LockHeld));
}

#[test]
fn a_shared_acquire_behind_a_waiting_exclusive_one_waits() {
    let mut kit = Kit::open_to(4);
    let one = token(kit.acquire(1, "l", SHARED, 0, 0));
    assert_eq!(kit.acquire(2, "l", EXCLUSIVE, 9_000, 0), Applied::Waiting);
    assert_eq!(kit.acquire(3, "l", SHARED, 9_000, 0), Applied::Waiting);
    assert_eq!(kit.acquire(4, "l", SHARED, 0, 0), refused(Code::LockHeld));
    kit.release(1, "l", one);
    let [(2, 1, Outcome::Done { token: two })] = kit.wakes()[..] else { panic!("2 is next") };
    kit.release(2, "l", two);
    assert!(matches!(kit.wakes()[..], [(3, 1, Outcome::Done { .. })]));
}

#[test]
fn all_shared_waiters_in_a_row_are_granted_together() {
    let mut kit = Kit::open_to(5);
    let one = token(kit.acquire(1, "l", EXCLUSIVE, 0, 0));
    for (n, mode) in [(2, SHARED), (3, SHARED), (4, EXCLUSIVE), (5, SHARED)] {
        assert_eq!(kit.acquire(n, "l", mode, 9_000, 0), Applied::Waiting);
    }
    kit.release(1, "l", one);
    let granted: Vec<u8> = kit.wakes().iter().map(|wake| wake.0).collect();
    assert_eq!(granted, [2, 3]);
}

#[test]
fn a_wait_ends_with_its_timeout_and_those_behind_move_up() {
    let mut kit = Kit::open_to(3);
    token(kit.acquire(1, "l", SHARED, 0, 0));
    assert_eq!(kit.acquire(2, "l", EXCLUSIVE, 1_000, 0), Applied::Waiting);
    assert_eq!(kit.acquire(3, "l", SHARED, 9_000, 0), Applied::Waiting);
    kit.tick(1_000);
    let wakes = kit.wakes();
    assert_eq!(wakes[0], (2, 1, Outcome::refused(Code::LockTimeout)));
    assert!(matches!(wakes[1..], [(3, 1, Outcome::Done { .. })]));
}

#[test]
fn a_session_gets_again_what_it_holds_and_releases_it_as_often() {
    let mut kit = Kit::open_to(2);
    let fence = token(kit.acquire(1, "l", EXCLUSIVE, 0, 0));
    assert_eq!(kit.acquire(2, "l", EXCLUSIVE, 9_000, 0), Applied::Waiting);
    assert_eq!(kit.acquire(1, "l", EXCLUSIVE, 0, 0), done(fence));
    assert_eq!(kit.acquire(1, "l", SHARED, 0, 0), done(fence));
    for _ in 0..2 {
        assert_eq!(kit.release(1, "l", fence), done(0));
        assert_eq!(kit.wakes(), []);
    }
    assert_eq!(kit.release(1, "l", fence), done(0));
    assert_eq!(kit.wakes().len(), 1);
    assert_eq!(kit.release(1, "l", fence), refused(Code::NotHolder));
}

#[test]
fn a_shared_holder_that_asks_for_exclusive_is_refused() {
    let mut kit = Kit::open_to(1);
    token(kit.acquire(1, "l", SHARED, 0, 0));
    assert_eq!(kit.acquire(1, "l", EXCLUSIVE, 9_000, 0), refused(Code::LockHeld));
}

#[test]
fn a_grant_answers_all_waiting_calls_of_its_session() {
    let mut kit = Kit::open_to(3);
    let fence = token(kit.acquire(1, "l", EXCLUSIVE, 0, 0));
    assert_eq!(kit.acquire(2, "l", EXCLUSIVE, 9_000, 0), Applied::Waiting);
    assert_eq!(kit.acquire(3, "l", EXCLUSIVE, 9_000, 0), Applied::Waiting);
    assert_eq!(kit.acquire(2, "l", SHARED, 9_000, 0), Applied::Waiting);
    kit.release(1, "l", fence);
    let wakes = kit.wakes();
    assert_eq!(wakes.len(), 2);
    assert_eq!((wakes[0].0, wakes[0].1), (2, 1));
    assert_eq!(wakes[1], (2, 2, wakes[0].2.clone()), "the same fence");
}

#[test]
fn a_lease_ends_the_grant_although_the_session_lives() {
    let mut kit = Kit::open_to(2);
    let fence = token(kit.acquire(1, "l", EXCLUSIVE, 0, 1_000));
    assert_eq!(kit.acquire(2, "l", EXCLUSIVE, 9_000, 0), Applied::Waiting);
    kit.tick(999);
    assert_eq!(kit.wakes(), []);
    kit.tick(1);
    assert!(matches!(kit.wakes()[..], [(2, 1, Outcome::Done { token })] if token > fence));
    assert_eq!(kit.release(1, "l", fence), refused(Code::NotHolder));
}

#[test]
fn the_longer_lease_counts() {
    let mut kit = Kit::open_to(1);
    let fence = token(kit.acquire(1, "l", EXCLUSIVE, 0, 1_000));
    assert_eq!(kit.acquire(1, "l", EXCLUSIVE, 0, 3_000), done(fence));
    assert_eq!(kit.acquire(1, "l", EXCLUSIVE, 0, 500), done(fence));
    kit.tick(2_999);
    assert_eq!(kit.machine.status().locks, 1);
    kit.tick(1);
    assert_eq!(kit.machine.status().locks, 0);
}

#[test]
fn a_release_needs_the_holder_and_its_fence() {
    let mut kit = Kit::open_to(2);
    assert_eq!(kit.release(1, "l", 1), refused(Code::NotHolder));
    let old = token(kit.acquire(1, "l", EXCLUSIVE, 0, 0));
    assert_eq!(kit.release(2, "l", old), refused(Code::NotHolder));
    kit.release(1, "l", old);
    let new = token(kit.acquire(1, "l", EXCLUSIVE, 0, 0));
    assert_eq!(kit.release(1, "l", old), refused(Code::StaleFence));
    assert_eq!(kit.release(1, "l", new), done(0));
}

#[test]
fn a_waiter_whose_session_is_over_is_not_granted() {
    let mut kit = Kit::open_to(1);
    kit.open_for(2, 1_000);
    kit.open_for(3, 60_000);
    // The lease ends first, at the same entry as session 2: by then its time is over too.
    token(kit.acquire(1, "l", EXCLUSIVE, 0, 1_000));
    assert_eq!(kit.acquire(2, "l", EXCLUSIVE, 60_000, 0), Applied::Waiting);
    assert_eq!(kit.acquire(3, "l", EXCLUSIVE, 60_000, 0), Applied::Waiting);
    kit.tick(2_000);
    let wakes = kit.wakes();
    assert_eq!(wakes[0], (2, 1, Outcome::refused(Code::SessionUnknown)));
    assert!(matches!(wakes[1..], [(3, 1, Outcome::Done { .. })]));
}

#[test]
fn no_record_remains_of_a_free_lock() {
    let mut kit = Kit::open_to(1);
    let fence = token(kit.acquire(1, "l", EXCLUSIVE, 0, 0));
    assert_eq!(kit.machine.status().locks, 1);
    kit.release(1, "l", fence);
    assert_eq!(kit.machine.status().locks, 0);
}
