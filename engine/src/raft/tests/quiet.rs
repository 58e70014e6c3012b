//! A replica that is left alone, beside one that hears everything.

use super::cluster::{Cluster, World};
use crate::ids::NodeId;
use crate::raft::{Body, Message, Output, Quiet, Raft};
use crate::time::{Duration, Time};
use wire::peer::{Append, AppendReply};

const BEAT: Duration = Duration::from_millis(50);

/// Three idle replicas, the leader first, each with its own clock.
fn idle() -> Vec<(Raft, Time)> {
    let (mut cluster, ids) = (Cluster::new(3, 7, World::calm()), [1, 2, 3].map(NodeId));
    ids.iter().for_each(|id| cluster.start(*id));
    cluster.run(2_000);
    let each = ids.iter().map(|id| (cluster.raft(*id).clone(), cluster.clock(*id)));
    let mut replicas: Vec<_> = each.collect();
    replicas.sort_by_key(|(replica, _)| !replica.is_leader());
    replicas
}

/// The one heartbeat that a leader sends to `to`.
fn heartbeat(leader: &mut Raft, now: Time, to: NodeId) -> Option<Append<'static>> {
    let mut out = Output::default();
    leader.on_tick(now, &mut out);
    leader.flush(now, &mut out);
    out.messages.iter().find_map(|message| match &message.body {
        Body::Append(range) if message.to == to => {
            let m = range.message(leader.log());
            assert!(m.entries.is_empty(), "nothing happens");
            Some(Append { entries: &[], ..m })
        }
        _ => None,
    })
}

fn answer(follower: &mut Raft, now: Time, from: NodeId, m: Append<'_>) -> AppendReply {
    let mut out = Output::default();
    follower.on_message(now, from, Message::Append(m), &mut out);
    follower.flush(now, &mut out);
    match &out.messages[..] {
        [message] => match message.body {
            Body::AppendReply(reply) => reply,
            _ => panic!("a heartbeat is answered"),
        },
        _ => panic!("a heartbeat has one answer"),
    }
}

#[test]
fn a_follower_that_is_left_alone_answers_and_wakes_like_one_that_hears_all() {
    let mut replicas = idle();
    let (mut hears, mut now) = replicas.remove(1);
    let (mut leads, mut then) = replicas.remove(0);
    let (leader, id, mut left) = (leads.node, hears.node, hears.clone());
    let Some(Quiet::Follows(mut quiet)) = left.quiet() else { panic!("it is at rest") };
    for _ in 0..4 {
        (now, then) = (now + BEAT, then + BEAT);
        let m = heartbeat(&mut leads, then, id).expect("a beat");
        let reply = answer(&mut hears, now, leader, m);
        assert_eq!(quiet.on_append(now, leader, &m), Some(reply));
        let mut out = Output::default();
        leads.on_message(then, id, Message::AppendReply(reply), &mut out);
    }
    // What is more than a heartbeat it has to see itself.
    let m = heartbeat(&mut leads, then + BEAT, id).expect("a beat");
    for other in [
        Append { term: m.term + 1, ..m },
        Append { commit: m.commit + 1, ..m },
        Append { prev_index: m.prev_index + 1, ..m },
        Append { count: 1, entries: b"an entry", ..m },
    ] {
        assert_eq!(quiet.on_append(now, leader, &other), None);
    }
    assert_eq!(quiet.on_append(now, id, &m), None, "another leads");
    let quiet = Quiet::Follows(quiet);
    assert_eq!(quiet.deadline(), hears.deadline());
    left.wake(quiet);
    assert_eq!((left.deadline(), left.loyal_until), (hears.deadline(), hears.loyal_until));
    let next = now + BEAT;
    assert_eq!(answer(&mut left, next, leader, m), answer(&mut hears, next, leader, m));
}

#[test]
fn a_leader_that_is_left_alone_beats_and_wakes_like_one_that_hears_all() {
    let mut replicas = idle();
    let (mut hears, mut now) = replicas.remove(0);
    let (leader, mut left) = (hears.node, hears.clone());
    let Some(Quiet::Leads(mut quiet)) = left.quiet() else { panic!("it is at rest") };
    for _ in 0..10 {
        let before = core::mem::replace(&mut now, quiet.beat_at());
        assert_eq!(now, hears.deadline());
        let (beat, to) = quiet.beat(now);
        let to: Vec<NodeId> = to.collect();
        assert_eq!(heartbeat(&mut hears, now, to[0]), Some(beat));
        for (follower, clock) in &mut replicas {
            *clock = *clock + now.since(before);
            let reply = answer(follower, *clock, leader, beat);
            let (from, mut out) = (follower.node, Output::default());
            assert!(to.contains(&from));
            hears.on_message(now, from, Message::AppendReply(reply), &mut out);
            assert!(!quiet.on_reply(now, from, &AppendReply { reject: 1, ..reply }));
            assert!(!quiet.on_reply(now, from, &AppendReply { incarnation: [9; 16], ..reply }));
            assert!(!quiet.on_reply(now, leader, &reply), "not a follower");
            assert!(quiet.on_reply(now, from, &reply));
        }
    }
    let quiet = Quiet::Leads(quiet);
    let lost_at = quiet.deadline();
    left.wake(quiet);
    assert_eq!(left.confirmed_at(), hears.confirmed_at());
    assert_eq!((left.lease_until(), left.deadline()), (hears.lease_until(), hears.deadline()));
    // Nobody answers any more: it steps down when the other would have.
    let mut out = Output::default();
    hears.on_tick(Time(lost_at.0 - 1), &mut out);
    left.on_tick(Time(lost_at.0 - 1), &mut out);
    assert!(left.is_leader() && hears.is_leader());
    left.on_tick(lost_at, &mut out);
    assert!(!left.is_leader());
}
