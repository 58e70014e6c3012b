//! Each plants one violation and sees it caught, and shows that what is right passes.

use super::*;

fn rule(verdict: Result<(), Violation>) -> &'static str {
    verdict.err().map_or("fine", |v| v.rule)
}

fn grant(holder: u32, fence: u64, at_ns: u64) -> Grant {
    Grant { name: 0, holder, fence, at_ns, until_ns: at_ns + 1_000 }
}

#[test]
fn grants_one_after_the_other_pass() {
    let mut check = LockCheck::new(1);
    for turn in 1..100 {
        assert_eq!(rule(check.granted(grant(turn, u64::from(turn), 10))), "fine");
        check.given_up(0, turn);
    }
}

#[test]
fn a_second_grant_before_the_release_left_is_an_overlap() {
    let mut check = LockCheck::new(1);
    assert_eq!(rule(check.granted(grant(1, 1, 10))), "fine");
    assert_eq!(rule(check.granted(grant(2, 2, 20))), "lock-overlap");
}

#[test]
fn a_grant_after_the_holders_session_must_have_ended_is_no_overlap() {
    let mut check = LockCheck::new(1);
    assert_eq!(rule(check.granted(grant(1, 1, 10))), "fine");
    assert_eq!(rule(check.granted(grant(2, 2, 5_000))), "fine");
}

#[test]
fn a_release_by_another_does_not_end_the_claim() {
    let mut check = LockCheck::new(1);
    assert_eq!(rule(check.granted(grant(1, 1, 10))), "fine");
    check.given_up(0, 2);
    assert_eq!(rule(check.granted(grant(3, 2, 20))), "lock-overlap");
}

#[test]
fn a_fence_that_comes_back_is_caught() {
    let mut check = LockCheck::new(1);
    assert_eq!(rule(check.granted(grant(1, 7, 10))), "fine");
    check.given_up(0, 1);
    assert_eq!(rule(check.granted(grant(2, 7, 20))), "fence-not-rising");
}

#[test]
fn a_message_goes_in_and_out_once() {
    let mut check = QueueCheck::new(4);
    let number = check.new_message();
    assert_eq!(
        rule(check.delivered(number, 1)),
        "fine",
        "a pop may be heard before the push's end"
    );
    check.pushed(number);
    check.acked(number);
    assert_eq!(rule(check.drained()), "fine");
}

#[test]
fn a_push_that_was_not_acknowledged_may_be_lost() {
    let mut check = QueueCheck::new(4);
    check.new_message();
    assert_eq!(rule(check.drained()), "fine");
}

#[test]
fn an_acknowledged_push_that_never_came_out_is_lost() {
    let mut check = QueueCheck::new(4);
    let number = check.new_message();
    check.pushed(number);
    assert_eq!(rule(check.drained()), "message-lost");
}

#[test]
fn a_message_that_comes_after_its_ack_is_caught() {
    let mut check = QueueCheck::new(4);
    let number = check.new_message();
    check.pushed(number);
    assert_eq!(rule(check.delivered(number, 1)), "fine");
    check.acked(number);
    assert_eq!(rule(check.delivered(number, 2)), "message-after-ack");
}

#[test]
fn a_message_that_two_callers_got_as_one_delivery_is_caught() {
    let mut check = QueueCheck::new(4);
    let number = check.new_message();
    assert_eq!(rule(check.delivered(number, 1)), "fine");
    assert_eq!(rule(check.delivered(number, 1)), "message-twice");
}

#[test]
fn a_redelivery_is_counted_and_no_violation() {
    let mut check = QueueCheck::new(4);
    let number = check.new_message();
    assert_eq!(rule(check.delivered(number, 1)), "fine");
    assert_eq!(rule(check.delivered(number, 2)), "fine");
    assert_eq!(check.redelivered(), 1);
}

#[test]
fn a_message_that_nobody_pushed_is_caught() {
    let mut check = QueueCheck::new(4);
    assert_eq!(rule(check.delivered(9, 1)), "message-invented");
    assert_eq!(rule(check.delivered(u64::MAX, 1)), "message-invented");
}

#[test]
fn a_read_beside_a_write_may_give_either() {
    let mut check = CacheCheck::new(1);
    assert_eq!(rule(check.put(0, 0, 5, 50)), "fine");
    let floor = check.floor(0);
    assert_eq!(rule(check.got(0, floor, 5, 50)), "fine");
    assert_eq!(rule(check.got(0, floor, 6, 60)), "fine");
    assert_eq!(rule(check.put(0, floor, 6, 60)), "fine");
}

#[test]
fn a_read_older_than_an_acknowledged_write_is_stale() {
    let mut check = CacheCheck::new(1);
    assert_eq!(rule(check.put(0, 0, 5, 50)), "fine");
    assert_eq!(rule(check.put(0, 5, 6, 60)), "fine");
    let floor = check.floor(0);
    assert_eq!(rule(check.got(0, floor, 5, 50)), "stale-read");
}

#[test]
fn a_read_older_than_an_earlier_read_is_stale() {
    let mut check = CacheCheck::new(1);
    assert_eq!(rule(check.got(0, 0, 6, 60)), "fine");
    assert_eq!(rule(check.got(0, check.floor(0), 5, 50)), "stale-read");
}

#[test]
fn a_line_that_vanished_is_lost() {
    let mut check = CacheCheck::new(1);
    assert_eq!(rule(check.missing(0, check.floor(0))), "fine");
    assert_eq!(rule(check.put(0, 0, 5, 50)), "fine");
    assert_eq!(rule(check.missing(0, check.floor(0))), "line-lost");
}

#[test]
fn a_version_with_two_values_is_caught() {
    let mut check = CacheCheck::new(1);
    assert_eq!(rule(check.put(0, 0, 5, 50)), "fine");
    assert_eq!(rule(check.got(0, 5, 5, 51)), "version-two-values");
}

#[test]
fn a_put_that_was_applied_twice_is_caught() {
    let mut check = CacheCheck::new(1);
    assert_eq!(rule(check.put(0, 0, 5, 50)), "fine");
    assert_eq!(rule(check.got(0, 5, 6, 50)), "applied-twice");
}

#[test]
fn a_version_that_goes_back_is_caught() {
    let mut check = CacheCheck::new(1);
    assert_eq!(rule(check.put(0, 0, 5, 50)), "fine");
    assert_eq!(rule(check.put(0, check.floor(0), 4, 40)), "version-not-rising");
}

#[test]
fn violations_are_all_counted_and_the_first_ones_kept() {
    let mut all = Violations::default();
    for _ in 0..VIOLATIONS_KEPT_MAX + 5 {
        all.take(CacheCheck::new(1).torn(0, 1));
    }
    assert_eq!(all.first.len(), VIOLATIONS_KEPT_MAX);
    assert_eq!(all.total, VIOLATIONS_KEPT_MAX as u64 + 5);
}
