use super::eventually;
use super::fake::{Act, Fake, refuse};
use crate::admin::{
    Joiner, Joins, Present, leader_move, node_add, node_drain, node_forget, present, topology,
};
use crate::{Code, Error};
use std::sync::Arc;
use wire::message::{LeaderMove, NodeAdd, NodeDrain};

/// Three nodes of a cluster, and a fourth that is none of it yet.
fn three_of_four() -> Arc<Fake> {
    let fake = Fake::new(4, 2);
    let mut memory = fake.memory.lock().unwrap();
    memory.nodes.outside.insert(4);
    memory.nodes.unborn.insert(4);
    drop(memory);
    fake
}

fn fourth(address: &str, life: u8) -> Joiner<'_> {
    Joiner { node: 4, incarnation: [life; 16], engines: 1, address }
}

fn code(result: Result<(), Error>) -> Option<Code> {
    result.unwrap_err().code()
}

#[test]
fn a_node_says_who_it_is_before_and_after_its_birth() {
    let fake = three_of_four();
    let addresses = fake.addresses();
    let fresh = Present { node: 4, incarnation: Some([4; 16]), engines: 1, cluster: None };
    assert_eq!(present(&addresses[3]), Ok(fresh));
    let born = Present { node: 2, incarnation: None, engines: 1, cluster: Some([7; 16]) };
    assert_eq!(present(&addresses[1]), Ok(born));
    assert!(matches!(present("127.0.0.1:1"), Err(Error::Connect { .. })));
}

#[test]
fn a_node_comes_and_goes() {
    let fake = three_of_four();
    let addresses = fake.addresses();
    let known = |count| topology(&addresses).unwrap().nodes.len() == count;
    assert!(known(3));
    node_add(&addresses, &fourth(&addresses[3], 4), Joins::New).unwrap();
    node_add(&addresses, &fourth(&addresses[3], 4), Joins::New).unwrap();
    assert!(known(4));
    assert_eq!(
        code(node_add(&addresses, &fourth(&addresses[3], 9), Joins::New)),
        Some(Code::NodeKnown)
    );
    node_add(&addresses, &fourth(&addresses[3], 9), Joins::InPlace).unwrap();
    assert_eq!(code(node_forget(&addresses, 4)), Some(Code::NodeInUse));
    node_drain(&addresses, 4).unwrap();
    eventually("its replicas have moved", || {
        let told = crate::probe(&addresses[3]).unwrap().status.unwrap();
        told.contains("\"groups\":[]")
    });
    node_forget(&addresses, 4).unwrap();
    assert!(known(3));
}

#[test]
fn a_call_goes_to_whoever_leads_the_clusters_own_group() {
    let fake = three_of_four();
    fake.memory.lock().unwrap().nodes.meta_leader = 3;
    node_drain(&fake.addresses()[..1], 2).unwrap();
    let asked: Vec<u32> = fake.seen(NodeDrain::KIND).iter().map(|seen| seen.node).collect();
    assert_eq!(asked, [1, 3]);
}

#[test]
fn what_passes_is_waited_out_and_what_does_not_is_told() {
    for act in [refuse(Code::Unavailable), refuse(Code::Busy), Act::Close, Act::ApplyAndClose] {
        let fake = three_of_four();
        fake.once(NodeAdd::KIND, act);
        let addresses = fake.addresses();
        node_add(&addresses[..1], &fourth(&addresses[3], 4), Joins::New).unwrap();
        assert_eq!(fake.seen(NodeAdd::KIND).len(), 2, "{act:?}");
    }
    let fake = three_of_four();
    fake.once(NodeDrain::KIND, refuse(Code::LastNode));
    let error = node_drain(&fake.addresses(), 1).unwrap_err();
    assert_eq!(error.code(), Some(Code::LastNode));
    assert!(error.to_string().contains("drain node 1"), "{error}");
    assert!(matches!(node_drain(&[], 1), Err(Error::Invalid { .. })));
}

#[test]
fn a_leader_hands_over_where_it_leads() {
    let fake = three_of_four();
    fake.lead(2);
    leader_move(&fake.addresses(), 1, 3).unwrap();
    assert_eq!(fake.memory.lock().unwrap().leaders, [3, 2]);
    let asked: Vec<u32> = fake.seen(LeaderMove::KIND).iter().map(|seen| seen.node).collect();
    assert_eq!(asked, [1, 2]);
    assert_eq!(code(leader_move(&fake.addresses(), 1, 4)), Some(Code::NodeUnknown));
}
