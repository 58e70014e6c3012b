//! For how long a replica is loyal: what was agreed, whatever it is told itself.

use super::config;
use crate::entry::{self, EntryHeader, kind};
use crate::ids::{GroupId, Incarnation, Index, NodeId, Term};
use crate::raft::*;
use crate::time::{Duration, Elapsed, Time};
use wire::peer::Vote;

const LIFE: Incarnation = Incarnation([1; 16]);
const START: Time = Time(1_000);

/// Node 1 of three starts with the shortest election timeout of 150 ms, and with a log in which its leader agreed
/// with it on `agreed`.
fn restarted(agreed: Duration) -> Raft {
    let voters = Configuration::of_voters((1..=3).map(|n| (NodeId(n), LIFE)));
    let (mut payload, mut bytes) = (Vec::new(), Vec::new());
    voters.clone().with_loyalty(agreed).encode(&mut payload);
    let header = EntryHeader {
        group: GroupId(1),
        kind: kind::MEMBERS,
        term: Term(3),
        index: Index(1),
        time: Elapsed::ZERO,
        principal: 0,
    };
    entry::write(&header, &payload, &mut bytes);
    let mut restored = PersistentState::default();
    restored.on_entry(entry::read(&bytes).expect("it was just written")).expect("it is the first");
    Raft::new(config(GroupId(1), (NodeId(1), LIFE), voters), restored, START)
}

/// Whether it answers who asks for its vote so long after its start.
fn votes(raft: &mut Raft, after: Duration) -> bool {
    let mut out = Output::default();
    let vote =
        Vote { term: 9, last_index: 7, last_term: 8, incarnation: LIFE.0, pre: 0, transfer: 0 };
    raft.on_message(START + after, NodeId(2), Message::Vote(vote), &mut out);
    !out.messages.is_empty()
}

#[test]
fn a_restart_with_a_shorter_timeout_keeps_to_what_was_agreed() {
    let agreed = Duration::from_secs(3);
    let mut raft = restarted(agreed);
    assert!(!votes(&mut raft, agreed - Duration::from_millis(1)));
    assert!(votes(&mut raft, agreed));
}

#[test]
fn nobody_campaigns_sooner_than_it_would_vote_for_another() {
    let agreed = Duration::from_secs(3);
    let raft = restarted(agreed);
    let waits = raft.deadline().since(START);
    assert!(waits >= agreed && waits <= agreed + Duration::from_millis(150), "{waits:?}");
}

#[test]
fn nobody_is_loyal_for_less_than_its_own_timeout() {
    let mut raft = restarted(Duration::from_millis(10));
    assert!(!votes(&mut raft, Duration::from_millis(149)));
    assert!(votes(&mut raft, Duration::from_millis(150)));
}
