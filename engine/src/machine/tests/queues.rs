//! Claims about queues: order, visibility, redelivery, waiting.

use super::kit::*;
use crate::machine::{Applied, Outcome};
use wire::Code;

#[test]
fn messages_come_by_priority_and_then_in_order() {
    let mut kit = Kit::open_to(1);
    let pushed: Vec<u64> = [5, 0, 5, 0].iter().map(|p| token(kit.push(1, "q", *p, b"m"))).collect();
    let popped: Vec<u64> = (0..4).map(|_| delivered(kit.pop(1, "q", 0, 9_000)).0).collect();
    assert_eq!(popped, [pushed[1], pushed[3], pushed[0], pushed[2]]);
    assert_eq!(kit.pop(1, "q", 0, 9_000), refused(Code::QueueEmpty));
}

#[test]
fn a_delivery_resolves_to_its_payload_while_it_is_in_flight() {
    let mut kit = Kit::open_to(1);
    let id = token(kit.push(1, "q", 7, b"payload"));
    let delivery = delivered(kit.pop(1, "q", 0, 1_000));
    let view = kit.machine.delivery(delivery).expect("it is in flight");
    assert_eq!((view.id, view.delivery, view.priority, view.payload), (id, 1, 7, &b"payload"[..]));
    kit.tick(1_000);
    assert!(kit.machine.delivery(delivery).is_none());
    kit.pop(1, "q", 0, 1_000);
    assert!(kit.machine.delivery(delivery).is_none(), "another delivery is in flight");
}

#[test]
fn an_acknowledged_message_is_gone() {
    let mut kit = Kit::open_to(1);
    token(kit.push(1, "q", 0, b"m"));
    let message = delivered(kit.pop(1, "q", 0, 1_000));
    assert_eq!(kit.ack(1, "other", message), refused(Code::MessageUnknown));
    assert_eq!(kit.ack(1, "q", message), done(0));
    assert_eq!(kit.ack(1, "q", message), refused(Code::MessageUnknown));
    assert_eq!(kit.machine.status().queues, 0, "no record remains of an empty queue");
}

#[test]
fn a_message_returns_to_its_place_when_its_visibility_runs_out() {
    let mut kit = Kit::open_to(1);
    let first = token(kit.push(1, "q", 0, b"1"));
    let second = token(kit.push(1, "q", 0, b"2"));
    assert_eq!(delivered(kit.pop(1, "q", 0, 1_000)), (first, 1));
    kit.tick(1_000);
    assert_eq!(kit.ack(1, "q", (first, 1)), refused(Code::StaleDelivery));
    assert_eq!(delivered(kit.pop(1, "q", 0, 1_000)), (first, 2));
    assert_eq!(delivered(kit.pop(1, "q", 0, 1_000)), (second, 1));
    assert_eq!(kit.ack(1, "q", (first, 1)), refused(Code::StaleDelivery));
    assert_eq!(kit.ack(1, "q", (first, 2)), done(0));
}

#[test]
fn a_nack_gives_a_message_back_at_once_or_after_a_delay() {
    let mut kit = Kit::open_to(1);
    let id = token(kit.push(1, "q", 0, b"m"));
    let message = delivered(kit.pop(1, "q", 0, 9_000));
    assert_eq!(kit.nack(1, "q", message, 0), done(0));
    let message = delivered(kit.pop(1, "q", 0, 9_000));
    assert_eq!(message, (id, 2));
    assert_eq!(kit.nack(1, "q", message, 1_000), done(0));
    assert_eq!(kit.machine.status().messages_delayed, 1);
    kit.tick(999);
    assert_eq!(kit.pop(1, "q", 0, 9_000), refused(Code::QueueEmpty));
    kit.tick(1);
    assert_eq!(delivered(kit.pop(1, "q", 0, 9_000)), (id, 3));
}

#[test]
fn waiting_pops_are_served_in_their_order() {
    let mut kit = Kit::open_to(4);
    assert_eq!(kit.pop(1, "q", 1_000, 9_000), Applied::Waiting);
    assert_eq!(kit.pop(2, "q", 9_000, 9_000), Applied::Waiting);
    assert_eq!(kit.pop(3, "q", 9_000, 9_000), Applied::Waiting);
    kit.tick(1_000);
    assert_eq!(kit.wakes(), [(1, 1, Outcome::refused(Code::QueueEmpty))]);
    let id = token(kit.push(4, "q", 0, b"m"));
    assert_eq!(kit.wakes(), [(2, 1, Outcome::Delivered { id, delivery: 1 })]);
    assert_eq!(kit.ack(2, "q", (id, 1)), done(0));
    assert_eq!(kit.machine.status().queues, 1, "somebody waits");
    kit.tick(8_000);
    assert_eq!(kit.wakes(), [(3, 1, Outcome::refused(Code::QueueEmpty))]);
    assert_eq!(kit.machine.status().queues, 0);
}

#[test]
fn a_returned_message_goes_to_who_waits() {
    let mut kit = Kit::open_to(2);
    let id = token(kit.push(1, "q", 0, b"m"));
    delivered(kit.pop(1, "q", 0, 1_000));
    assert_eq!(kit.pop(2, "q", 9_000, 9_000), Applied::Waiting);
    kit.tick(1_000);
    assert_eq!(kit.wakes(), [(2, 1, Outcome::Delivered { id, delivery: 2 })]);
}

#[test]
fn a_delivery_may_be_acknowledged_by_another_session() {
    let mut kit = Kit::open_to(2);
    token(kit.push(1, "q", 0, b"m"));
    let message = delivered(kit.pop(1, "q", 0, 1_000));
    assert_eq!(kit.ack(2, "q", message), done(0));
}
