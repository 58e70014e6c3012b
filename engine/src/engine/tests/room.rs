//! What a full journal still takes.

use super::*;
use crate::entry::{EntryHeader, kind};
use crate::journal::{SEGMENT_BYTES_MIN, SEGMENTS_MIN};
use crate::time::Elapsed;
use wire::peer::Append;

#[test]
fn a_full_follower_takes_what_a_leader_made_by_itself() {
    let config = EngineConfig {
        segment_bytes: SEGMENT_BYTES_MIN,
        segments_max: SEGMENTS_MIN,
        ..trio::config_of_node(1)
    };
    let mut effects = Effects::default();
    let engine = trio::open(config, Time(1_000_000_000), &mut effects);
    let mut node = Node { engine, effects, ..Node::new() };
    let mut append = |kind: Kind, bytes: usize| {
        let last = |node: &Node| node.engine.shards()[1].raft().last_index();
        let index = last(&node).next();
        let term = Term(1);
        let time = Elapsed(1);
        let header = EntryHeader { group: trio::G, kind, term, index, time, principal: 0 };
        let (mut entries, mut body) = (Vec::new(), Vec::new());
        entry::write(&header, &vec![0; bytes], &mut entries);
        let prev_term = u64::from(index.0 > 1);
        let append = Append {
            term: 1,
            prev_index: index.0 - 1,
            prev_term,
            commit: 0,
            sent_at: 1,
            count: 1,
            entries: &entries,
        };
        append.encode(&mut body);
        let header = Header { shard: trio::G.0, ..Header::new(Append::KIND, 0) };
        let input = Input::Peer { peer: NodeId(2), header, body: &body };
        node.engine.on(node.now, input, &mut node.effects);
        // What is not committed is carried on and on: no turn is the last.
        for _ in 0..4 {
            node.half_turn();
        }
        last(&node) == index
    };
    assert!(append(kind::NOOP, 0), "a term is opened");
    let taken = (0..1_000).take_while(|_| append(CachePut::KIND, 1_000)).count();
    assert!(
        (50..1_000).contains(&taken),
        "{taken} entries, none of them committed, fill the journal"
    );
    assert!(append(kind::RENEW, 16));
    assert!(append(kind::NOOP, 0));
    assert!(!append(CachePut::KIND, 1_000), "a client's entry still finds no room");
}
