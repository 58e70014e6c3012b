use super::*;
use crate::edge::testing::TempDir;
use crate::edge::wal::Writer as Wal;
use crate::ids::Incarnation;
use crate::raft::Member;

/// What node 3 of a cluster of five has: groups with their last entry's term and index, and their voters.
fn survivor(groups: &[(u64, u64, &[u32])]) -> Survivor {
    let manifest = Manifest {
        cluster: ClusterId([7; 16]),
        node: NodeId(3),
        incarnation: Incarnation([3; 16]),
        engines: 1,
        shards: groups.len() as u32 - 1,
        cache_bytes_max: 64 << 20,
        segment_bytes: 64 << 20,
        writer: Wal::Mapped,
        writer_why: String::new(),
        founders: vec![],
        nodes: vec![],
        renewed: vec![],
    };
    let row = |(group, (term, index, voters)): (u32, &(u64, u64, &[u32]))| {
        let voter = |node: &u32| {
            let (node, incarnation) = (NodeId(*node), Incarnation([*node as u8; 16]));
            Member { node, incarnation, suffrage: Suffrage::Voter }
        };
        let salvaged = Salvaged {
            group: GroupId(group),
            term: Term(term + 1),
            index: Index(*index),
            index_term: Term(*term),
            commit: Index(index / 2),
            members: voters.iter().map(voter).collect(),
            snapshot: format!("{term}/{index}").into_bytes(),
        };
        (GroupId(group), (salvaged, None))
    };
    let groups = (0..).zip(groups).map(row).collect();
    Survivor { manifest, groups, written_us: 1_000 }
}

fn answer(nodes: &[u32]) -> BTreeSet<NodeId> {
    nodes.iter().copied().map(NodeId).collect()
}

#[test]
fn a_cluster_is_lost_only_where_those_that_answer_are_no_majority_with_this_node() {
    let five = survivor(&[(2, 9, &[1, 2, 3, 4, 5]), (2, 7, &[1, 2, 3])]);
    assert!(five.check_lost(&answer(&[])).is_ok());
    assert!(five.check_lost(&answer(&[4])).is_ok());
    let refused = five.check_lost(&answer(&[1, 4])).unwrap_err().to_string();
    assert!(refused.starts_with("E151 ") && refused.contains("groups 0, 1 "), "{refused}");
    let refused = five.check_lost(&answer(&[2])).unwrap_err().to_string();
    assert!(refused.contains("groups 1 ") && refused.contains("nodes 2 answer"), "{refused}");
    let alone = survivor(&[(2, 9, &[3]), (2, 7, &[3])]);
    assert!(alone.check_lost(&answer(&[])).is_err(), "it is a majority by itself");
}

#[test]
fn of_two_survivors_each_group_comes_from_the_one_with_the_newer_entry() {
    let temp = TempDir::new();
    let file = temp.path().join("other");
    let voters: &[u32] = &[1, 2, 3];
    let other = survivor(&[(2, 9, voters), (3, 5, voters), (2, 8, voters), (1, 4, voters)]);
    let bytes = Survivor { written_us: 500, ..other }.write(&file).unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().len(), bytes);
    let mut ours = survivor(&[(2, 9, voters), (2, 50, voters), (2, 7, voters), (1, 1, &[])]);
    assert!(ours.table().contains("GONE: groups 3 "), "{}", ours.table());
    ours.add(&file).unwrap();
    let taken: Vec<_> = ours.groups.values().map(|(kept, _)| kept.snapshot.clone()).collect();
    assert_eq!(taken, [&b"2/9"[..], b"3/5", b"2/8", b"1/4"]);
    assert_eq!(ours.written_us, 500, "numbers go on from the older one");
    let table = ours.table();
    assert!(!table.contains("GONE") && table.matches("from ").count() == 3, "{table}");
    ours.manifest.cluster = ClusterId([8; 16]);
    assert!(ours.add(&file).unwrap_err().to_string().starts_with("E154 "));
}
