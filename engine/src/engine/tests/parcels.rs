//! Mail and probes between groups on two engines of one node.

use super::*;
use wire::limits::PEER_FRAME_BYTES_MAX;

const FIRST: GroupId = GroupId(1);
const SECOND: GroupId = GroupId(2);

/// Two engines of one node, at the newest level: one keeps group 1, the other group 2.
fn engines() -> [Node; 2] {
    let config = |engine| EngineConfig { engine, engines: 2, shards: 2, ..config() };
    let mut engines = [0, 1].map(|engine| Node::without_clients(config(engine)));
    engines[0].pass(Duration::from_secs(3));
    let nodes = engines[0].effects.nodes.take().expect("the cluster's level is news");
    let Node { engine, effects, now, .. } = &mut engines[1];
    engine.on(*now, Input::Nodes { nodes: &nodes }, effects);
    engines[1].pass(Duration::from_secs(3));
    engines
}

/// Carries one round of what the engines send to each other. Says how many parcels.
fn carry(engines: &mut [Node; 2]) -> usize {
    engines.iter_mut().for_each(Node::turn);
    let all = engines.iter_mut().flat_map(|it| std::mem::take(&mut it.effects.across));
    let all: Vec<(u32, Vec<u8>)> = all.collect();
    for (to, frame) in &all {
        let frame = wire::split(frame, PEER_FRAME_BYTES_MAX).unwrap().unwrap();
        let Node { engine, effects, now, .. } = &mut engines[*to as usize];
        engine.on(*now, Input::Across { header: frame.header, body: frame.body }, effects);
    }
    engines.iter_mut().for_each(Node::turn);
    all.len()
}

fn write(node: &mut Node, mail: &[u8]) {
    let Node { engine, effects, now, .. } = node;
    assert!(engine.write_mail(*now, (FIRST, SECOND), mail, effects), "it is proposed");
}

/// What group 2 took since this was asked last.
fn took(node: &mut Node) -> Vec<Vec<u8>> {
    let arrived = node.engine.drain_mail().into_iter().filter(|(group, ..)| *group == SECOND);
    arrived.flat_map(|(_, took, _)| took).map(|took| took.mail.to_vec()).collect()
}

fn has_mail(node: &Node) -> bool {
    node.engine.shards().iter().any(|shard| shard.state().has_mail())
}

#[test]
fn mail_for_a_group_of_another_engine_is_taken_there_and_forgotten_here() {
    let mut engines = engines();
    write(&mut engines[0], b"one");
    write(&mut engines[0], b"two");
    assert_eq!(carry(&mut engines), 1, "all of it is one parcel");
    assert_eq!(took(&mut engines[1]), [b"one", b"two"]);
    assert!(has_mail(&engines[0]), "it is kept until it is known to be taken");
    assert_eq!(carry(&mut engines), 1);
    assert!(!has_mail(&engines[0]));
    assert_eq!(carry(&mut engines), 0, "nothing is left to say");
}

#[test]
fn mail_that_was_lost_comes_again_and_mail_that_was_taken_is_not_taken_again() {
    let mut engines = engines();
    write(&mut engines[0], b"one");
    engines[0].turn();
    assert_eq!(core::mem::take(&mut engines[0].effects.across).len(), 1, "it is lost");
    assert_eq!(carry(&mut engines), 0, "it is not sent again at once");
    engines[0].pass(Duration::from_millis(100));
    assert_eq!(carry(&mut engines), 1);
    assert_eq!(took(&mut engines[1]), [b"one"]);
    engines[1].turn();
    assert_eq!(core::mem::take(&mut engines[1].effects.across).len(), 1, "so is the answer");
    engines[0].pass(Duration::from_millis(100));
    assert_eq!(carry(&mut engines), 1);
    assert_eq!(took(&mut engines[1]), [] as [&[u8]; 0]);
    assert_eq!(carry(&mut engines), 1);
    assert!(!has_mail(&engines[0]));
}

#[test]
fn a_probe_comes_once_or_not_at_all() {
    let mut engines = engines();
    let probe = |node: &mut Node, to| {
        let Node { engine, effects, now, .. } = node;
        engine.probe(*now, (FIRST, to), b"probe", effects)
    };
    assert!(probe(&mut engines[0], SECOND));
    assert_eq!(carry(&mut engines), 1);
    let arrived = engines[1].engine.drain_mail();
    let probes: Vec<_> = arrived.into_iter().flat_map(|(_, _, probes)| probes).collect();
    assert_eq!(probes, [(FIRST, b"probe"[..].into())]);
    assert!(probe(&mut engines[0], GroupId(9)), "nobody keeps that group");
    engines[0].pass(Duration::from_secs(1));
    carry(&mut engines);
    let arrived = engines[1].engine.drain_mail();
    assert!(arrived.into_iter().all(|(_, _, probes)| probes.is_empty()));
}
