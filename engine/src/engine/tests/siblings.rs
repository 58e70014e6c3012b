//! Claims about the engines of one node: what one learned the others know.

use super::*;
use wire::bytes::Put;

/// Shard 1 is another engine's: this one is told who leads it.
const ELSEWHERE: GroupId = GroupId(2);
const PEER: NodeId = NodeId(2);

/// The first engine of two. Its node is one of five, so that some groups are kept by others alone.
fn one_of_five() -> (Engine, Effects) {
    let founder = |node: u8| Founder {
        node: NodeId(u32::from(node)),
        incarnation: Incarnation([node; 16]),
        address: alloc::format!("node{node}:7400"),
    };
    let founders = (1..=5).map(founder).collect();
    let config = EngineConfig { engines: 2, shards: 9, founders, ..config() };
    let blank = vec![0; usize::try_from(SEGMENT).unwrap()];
    let segments: [(u32, &[u8]); 2] = [(0, &blank), (1, &blank)];
    let disk = Disk { segments: &segments, witness: [None; 2], snapshot: &mut |_, _, _| false };
    let mut effects = Effects::default();
    let engine = Engine::open(config, Time(1), disk, &mut effects).unwrap();
    (engine, effects)
}

/// What the other engines are told of who leads what.
fn told(effects: &mut Effects) -> Vec<News> {
    effects.notes.drain(..).filter_map(|note| News::of(&note)).collect()
}

#[test]
fn a_link_that_breaks_does_not_take_what_another_engine_said() {
    let (mut engine, mut effects) = one_of_five();
    let hint = News::Leader { group: ELSEWHERE, leader: Some(PEER) };
    engine.on(Time(2), Input::PeerUp { peer: PEER }, &mut effects);
    engine.on(Time(2), Input::of(&hint), &mut effects);
    engine.on(Time(3), Input::PeerDown { peer: PEER }, &mut effects);
    engine.on(Time(3), Input::PeerUp { peer: PEER }, &mut effects);
    assert_eq!(engine.leader_of(ELSEWHERE), Some(PEER));
}

#[test]
fn other_engines_hear_that_a_leader_is_known_no_more() {
    let (mut engine, mut effects) = one_of_five();
    let kept_elsewhere =
        |group: &GroupId| engine.is_ours(*group) && engine.place_of(*group).is_none();
    let group = (0..=9).map(GroupId).find(kept_elsewhere).expect("five nodes keep three of each");
    let mut rows = Vec::new();
    rows.put_u32(group.0);
    rows.put_u64(7);
    rows.put_u8(0);
    let (mut body, leads) = (Vec::new(), Leads { rows: &rows });
    leads.encode(&mut body);
    let header = Header::new(Leads::KIND, 0);
    engine.on(Time(2), Input::PeerUp { peer: PEER }, &mut effects);
    engine.on(Time(2), Input::Peer { peer: PEER, header, body: &body }, &mut effects);
    assert_eq!(told(&mut effects), [News::Leader { group, leader: Some(PEER) }]);
    engine.on(Time(3), Input::PeerDown { peer: PEER }, &mut effects);
    assert_eq!(told(&mut effects), [News::Leader { group, leader: None }]);
}
