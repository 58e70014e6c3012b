//! Claims about pushes: who watches is told what is so, once, within its credit.

use super::*;
use crate::engine::pushes::LOOK_EVERY;
use crate::limits::SUBSCRIPTIONS_MAX;
use wire::limits::PUSH_READ_MS_MAX;
use wire::message::{PushesRead, TopologyPush, Watch, Watching};
use wire::topology::{Placement, read_nodes, read_placement};

/// Shard 1 is another engine's: this one is told who leads it.
const ELSEWHERE: GroupId = GroupId(2);

/// A node with three shards, of which two are this engine's.
fn node() -> Node {
    Node::with(EngineConfig { engines: 2, shards: 3, ..config() })
}

fn watch(node: &mut Node, cursor: u64, credit: u32) -> u64 {
    node.send(Watch::KIND, 0, |b| Watch { cursor, credit }.encode(b));
    node.request
}

fn read(node: &mut Node, subscription: u64, cursor: u64) {
    node.send(PushesRead::KIND, 0, |b| PushesRead { subscription, cursor }.encode(b));
}

fn lead(node: &mut Node, leader: u32) {
    let leader = Some(NodeId(leader));
    node.engine.on(node.now, Input::LeaderHint { group: ELSEWHERE, leader }, &mut node.effects);
    node.pass(LOOK_EVERY);
}

/// A push: its cursor, whether it tells everything, how many nodes it tells, and the leaders by shard.
type Told = (u64, bool, usize, Vec<(u32, u32)>);

/// What was pushed since the last look.
fn pushed(node: &mut Node) -> Vec<Told> {
    let pushes = node.answers().into_iter().filter(|answer| answer.kind == TopologyPush::KIND);
    let told = pushes.map(|answer| {
        let push = TopologyPush::decode(&answer.body).unwrap();
        let rows = read_placement(push.placement).unwrap();
        let leaders = rows.into_iter().map(|Placement { shard, leader, .. }| (shard, leader));
        let nodes = read_nodes(push.nodes).unwrap().len();
        (push.cursor, push.whole == 1, nodes, leaders.collect())
    });
    told.collect()
}

#[test]
fn who_watches_is_told_everything_and_then_what_changes() {
    let mut node = node();
    watch(&mut node, 0, 8);
    let first = pushed(&mut node);
    let (cursor, whole, nodes, leaders) = &first[0];
    assert_eq!((first.len(), *whole, *nodes), (1, true, 1));
    assert_eq!(leaders[..], [(0, 1), (1, 0), (2, 1)]);
    node.pass(Duration::from_secs(1));
    assert_eq!(pushed(&mut node), [], "nothing changed");
    lead(&mut node, 3);
    let then = pushed(&mut node);
    assert_eq!(
        (then.len(), &then[0].1, &then[0].2, &then[0].3[..]),
        (1, &false, &0, &[(1, 3)][..])
    );
    assert!(then[0].0 > *cursor, "cursors rise");
}

#[test]
fn what_changes_while_the_credit_is_used_up_comes_once_as_it_is_then() {
    let mut node = node();
    let subscription = watch(&mut node, 0, 2);
    let mut told = pushed(&mut node);
    lead(&mut node, 2);
    told.append(&mut pushed(&mut node));
    assert_eq!(told.len(), 2);
    lead(&mut node, 3);
    lead(&mut node, 4);
    assert_eq!(pushed(&mut node), [], "two are unread");
    read(&mut node, subscription, told[0].0);
    node.pass(LOOK_EVERY);
    let then = pushed(&mut node);
    assert_eq!((then.len(), &then[0].3[..]), (1, &[(1, 4)][..]));
}

#[test]
fn who_reads_nothing_for_too_long_is_cut_off_and_comes_back_with_its_cursor() {
    let mut node = node();
    watch(&mut node, 0, 1);
    let cursor = pushed(&mut node)[0].0;
    node.pass(Duration::from_millis(2 * u64::from(PUSH_READ_MS_MAX)));
    assert_eq!(node.codes(), [], "nothing waits for it");
    lead(&mut node, 2);
    node.pass(Duration::from_millis(u64::from(PUSH_READ_MS_MAX) + 100));
    assert_eq!(node.codes(), [Some(Code::PushesUnread)]);
    lead(&mut node, 3);
    assert_eq!(node.codes(), [], "it has ended");
    watch(&mut node, cursor, 1);
    let answers = node.answers();
    assert_eq!(Watching::decode(&answers[0].body).unwrap().cursor, cursor);
    let push = TopologyPush::decode(&answers[1].body).unwrap();
    assert_eq!((push.whole, read_placement(push.placement).unwrap()[0].leader), (0, 3));
}

#[test]
fn a_cursor_of_another_life_begins_anew() {
    let mut other = Node::with(EngineConfig { engines: 2, shards: 3, seed: 99, ..config() });
    watch(&mut other, 0, 8);
    let cursor = pushed(&mut other)[0].0;
    let mut node = node();
    watch(&mut node, cursor, 8);
    let (cursor, whole, ..) = pushed(&mut node)[0].clone();
    assert!(whole);
    // So does one that was never given.
    watch(&mut node, cursor + 1_000, 8);
    assert!(pushed(&mut node)[0].1);
}

#[test]
fn a_closed_connection_is_told_nothing_and_a_wrong_read_is_refused() {
    let mut node = node();
    let subscription = watch(&mut node, 0, 8);
    let cursor = pushed(&mut node)[0].0;
    read(&mut node, subscription + 100, cursor);
    read(&mut node, subscription, u64::MAX);
    assert_eq!(node.codes(), [Some(Code::BadMessage); 2]);
    node.engine.on(node.now, Input::Closed { conn: CONN }, &mut node.effects);
    lead(&mut node, 3);
    assert_eq!(pushed(&mut node), []);
    assert!(node.engine.wake_at() > node.now + LOOK_EVERY, "nobody watches");
}

#[test]
fn a_node_takes_no_more_subscriptions_than_its_limit_until_some_end() {
    let mut node = node();
    for _ in 0..SUBSCRIPTIONS_MAX {
        watch(&mut node, 0, 1);
    }
    let pushes = pushed(&mut node);
    assert_eq!(pushes.len(), SUBSCRIPTIONS_MAX, "each is told");
    watch(&mut node, 0, 1);
    assert_eq!(node.codes(), [Some(Code::Busy)]);
    node.engine.on(node.now, Input::Closed { conn: CONN }, &mut node.effects);
    node.engine.on(
        node.now,
        Input::Opened { conn: CONN, request: 0, version: wire::header::PROTOCOL_MAX },
        &mut node.effects,
    );
    watch(&mut node, 0, 1);
    assert_eq!(pushed(&mut node).len(), 1, "there is room again");
}
