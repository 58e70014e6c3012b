//! What came with a level is asked for before the group is at it.

use super::*;
use wire::message::{CacheDelete, Expect};

/// A build that knows deletes of lines since level 3, in a cluster that goes up to `level_max`.
fn node(build: Level, level_max: Level) -> Node {
    let kinds = Kinds::of_build(build, CacheDelete::KIND, Level(3));
    let mut node = Node::with(EngineConfig { level_max, kinds, ..config() });
    for _ in 0..30 {
        node.send(Heartbeat::KIND, 0, |b| Heartbeat { session: SESSION }.encode(b));
        node.pass(Duration::from_millis(100));
    }
    assert!(node.engine.shards.iter().all(|shard| shard.state().level() == level_max));
    node.answers();
    node
}

fn delete(node: &mut Node, sequence: u64) -> Answer {
    let (session, answered_below, version) = (SESSION, sequence, 0);
    let expect = Expect::Any;
    let delete = CacheDelete {
        call: Call { session, sequence, answered_below },
        version,
        expect,
        key: b"key",
    };
    node.send(CacheDelete::KIND, 0, |b| delete.encode(b));
    node.answers().pop().expect("it is answered")
}

#[test]
fn what_came_with_a_level_is_refused_below_it_and_the_log_never_sees_it() {
    let mut node = node(Level::NEWEST, Level(2));
    node.put(node.now, 1, 0, b"value");
    assert_eq!(node.codes(), [None]);
    let last = node.engine.shards[1].raft().last_index();
    let refused = delete(&mut node, 2);
    assert_eq!(refused.code, Some(Code::LevelTooLow));
    let error = Error::decode(&refused.body).unwrap();
    let text = core::str::from_utf8(error.text).unwrap();
    assert!(text.contains("needs feature level 3") && text.contains("at level 2"), "{text}");
    assert_eq!(node.engine.shards[1].raft().last_index(), last);
    node.send(CacheGet::KIND, 0, |b| CacheGet { key: b"key" }.encode(b));
    assert_eq!(node.codes(), [None], "the line is there");
}

#[test]
fn what_came_with_a_level_is_done_at_it() {
    let mut node = node(Level::NEWEST, Level(3));
    node.put(node.now, 1, 0, b"value");
    assert_eq!(node.codes(), [None]);
    assert_eq!(delete(&mut node, 2).code, None);
    node.send(CacheGet::KIND, 0, |b| CacheGet { key: b"key" }.encode(b));
    assert_eq!(node.codes(), [Some(Code::KeyUnknown)]);
}

#[test]
fn a_build_that_does_not_know_a_kind_says_so() {
    let mut node = node(Level(2), Level(2));
    assert_eq!(delete(&mut node, 1).code, Some(Code::UnknownKind));
}
