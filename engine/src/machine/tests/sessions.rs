//! Claims about sessions: their life, the window of remembered outcomes, vetting.

use super::kit::*;
use crate::machine::{Applied, Outcome};
use crate::time::Duration;
use wire::Code;
use wire::limits::WINDOW_REPLIES_MAX;

#[test]
fn a_call_needs_an_open_session() {
    let mut kit = Kit::new();
    assert_eq!(kit.put(1, "k", b"v"), refused(Code::SessionUnknown));
    kit.open(1);
    token(kit.put(1, "k", b"v"));
}

#[test]
fn opening_again_is_harmless_and_an_ended_id_is_refused() {
    let mut kit = Kit::open_to(1);
    assert_eq!(kit.open(1), done(0));
    assert_eq!(kit.machine.session_ttl(id(1)), Some(Duration::from_secs(10)));
    assert_eq!(kit.close(1), done(0));
    assert_eq!(kit.close(1), done(0));
    assert_eq!(kit.open(1), refused(Code::SessionUnknown));
    assert!(kit.machine.session_ttl(id(1)).is_none());
}

#[test]
fn a_session_ends_at_five_quarters_of_its_ttl_after_its_last_renewal() {
    let mut kit = Kit::open_to(1);
    kit.tick(12_499);
    kit.renew(&[1]);
    kit.tick(12_499);
    assert!(kit.machine.session_ttl(id(1)).is_some());
    assert_eq!(kit.machine.next_deadline(), Some(at(12_499 + 12_500)));
    kit.tick(1);
    assert!(kit.machine.session_ttl(id(1)).is_none());
    assert_eq!(kit.machine.sessions_expired(), 1);
    kit.renew(&[1]);
    assert_eq!(kit.put(1, "k", b"v"), refused(Code::SessionUnknown));
}

#[test]
fn a_call_sent_again_is_answered_again_and_done_once() {
    let mut kit = Kit::open_to(1);
    let first = kit.put_as(1, 1, "k", b"v", 0, (1, 0));
    assert_eq!(kit.put_as(1, 1, "k", b"v", 0, (1, 0)), first);
    let missing = kit.delete(1, "other", (0, 0));
    assert_eq!(kit.sequences[&1], 1);
    assert_eq!(missing, first, "sequence 1 is remembered whatever is asked under it");
    kit.sequences.insert(1, 1);
    assert_eq!(kit.put_if(1, "k", b"w", 0, (1, 0)), refused(Code::VersionMismatch));
    assert_eq!(kit.put_as(1, 2, "k", b"w", 0, (0, 0)), refused(Code::VersionMismatch));
}

#[test]
fn a_call_below_what_was_answered_is_stale() {
    let mut kit = Kit::open_to(1);
    for sequence in 1..=3 {
        token(kit.put_as(1, sequence, "k", b"v", 0, (0, 0)));
    }
    kit.answered_below = 3;
    token(kit.put_as(1, 4, "k", b"v", 0, (0, 0)));
    kit.answered_below = 0;
    assert_eq!(kit.put_as(1, 2, "k", b"v", 0, (0, 0)), refused(Code::SequenceStale));
    token(kit.put_as(1, 3, "k", b"v", 0, (0, 0)));
}

#[test]
fn calls_may_come_in_any_order() {
    let mut kit = Kit::open_to(1);
    let third = kit.put_as(1, 3, "k", b"v", 0, (0, 0));
    let first = kit.put_as(1, 1, "k", b"v", 0, (0, 0));
    let second = kit.put_as(1, 2, "k", b"v", 0, (0, 0));
    assert_eq!(kit.put_as(1, 1, "k", b"v", 0, (0, 0)), first);
    assert_eq!(kit.put_as(1, 2, "k", b"v", 0, (0, 0)), second);
    assert_eq!(kit.put_as(1, 3, "k", b"v", 0, (0, 0)), third);
}

#[test]
fn a_window_is_bounded() {
    let mut kit = Kit::open_to(1);
    for sequence in 1..=WINDOW_REPLIES_MAX {
        token(kit.put_as(1, sequence, "k", b"v", 0, (0, 0)));
    }
    let ahead = kit.put_as(1, WINDOW_REPLIES_MAX + 1, "k", b"v", 0, (0, 0));
    assert_eq!(ahead, refused(Code::Busy));
    kit.answered_below = 2;
    token(kit.put_as(1, WINDOW_REPLIES_MAX + 1, "k", b"v", 0, (0, 0)));
}

#[test]
fn a_waiting_call_sent_again_waits_once() {
    let mut kit = Kit::open_to(2);
    let fence = token(kit.acquire(1, "l", EXCLUSIVE, 0, 0));
    assert_eq!(kit.acquire_as(2, 1, "l", EXCLUSIVE, 5_000, 0), Applied::Waiting);
    assert_eq!(kit.acquire_as(2, 1, "l", EXCLUSIVE, 5_000, 0), Applied::Waiting);
    assert_eq!(kit.machine.status().lock_waiters, 1);
    kit.release(1, "l", fence);
    let wakes = kit.wakes();
    let [(2, 1, outcome)] = &wakes[..] else { panic!("one is told") };
    let again = kit.acquire_as(2, 1, "l", EXCLUSIVE, 5_000, 0);
    assert_eq!(again, Applied::Done(outcome.clone()));
}

#[test]
fn saying_that_a_waiting_call_was_answered_cancels_it() {
    let mut kit = Kit::open_to(3);
    let fence = token(kit.acquire(1, "l", EXCLUSIVE, 0, 0));
    assert_eq!(kit.acquire_as(2, 1, "l", EXCLUSIVE, 5_000, 0), Applied::Waiting);
    assert_eq!(kit.acquire(3, "l", EXCLUSIVE, 5_000, 0), Applied::Waiting);
    kit.answered_below = 2;
    token(kit.put_as(2, 2, "k", b"v", 0, (0, 0)));
    assert_eq!(kit.wakes(), [(2, 1, Outcome::refused(Code::SequenceStale))]);
    kit.answered_below = 0;
    kit.release(1, "l", fence);
    assert!(matches!(kit.wakes()[..], [(3, 1, Outcome::Done { .. })]));
}

#[test]
fn the_end_of_a_session_gives_back_all_that_it_had() {
    let mut kit = Kit::open_to(3);
    token(kit.acquire(1, "a", EXCLUSIVE, 0, 0));
    token(kit.acquire(2, "b", EXCLUSIVE, 0, 0));
    assert_eq!(kit.acquire(1, "b", EXCLUSIVE, 60_000, 0), Applied::Waiting);
    assert_eq!(kit.acquire(3, "a", EXCLUSIVE, 60_000, 0), Applied::Waiting);
    let message = token(kit.push(2, "q", 0, b"m"));
    assert_eq!(delivered(kit.pop(1, "q", 0, 60_000)), (message, 1));
    assert_eq!(kit.pop(3, "q", 60_000, 60_000), Applied::Waiting);
    kit.close(1);
    let wakes = kit.wakes();
    assert_eq!(wakes[0], (1, 2, Outcome::refused(Code::SessionUnknown)));
    assert!(matches!(wakes[1], (3, 1, Outcome::Done { .. })));
    assert_eq!(wakes[2], (3, 2, Outcome::Delivered { id: message, delivery: 2 }));
    assert_eq!(wakes.len(), 3);
}
