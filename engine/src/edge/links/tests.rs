use super::*;
use crate::entry::kind;
use crate::machine::meta::{Node, Standing, write_node};

fn identity(node: u32) -> Identity {
    let members = (1..=3u8).map(|id| Founder {
        node: NodeId(u32::from(id)),
        incarnation: Incarnation([id; 16]),
        address: format!("127.0.0.1:{id}"),
    });
    Identity {
        cluster: ClusterId([9; 16]),
        node: NodeId(node),
        engines: 2,
        shards: 12,
        cache_bytes_max: 64 << 20,
        incarnation: Incarnation([node as u8; 16]),
        nodes: nodes(0, &[(1, 1), (2, 2), (3, 3)]),
        founders: members.collect(),
    }
}

/// Nodes at this epoch, each with its incarnation.
fn nodes(epoch: u64, rows: &[(u32, u8)]) -> Meta {
    let node = |(id, life): &(u32, u8)| Node {
        node: NodeId(*id),
        incarnation: Incarnation([*life; 16]),
        engines: 2,
        standing: Standing::In,
        address: format!("127.0.0.1:{id}"),
    };
    let mut nodes = Meta::founded(ClusterId([9; 16]), 12, rows.iter().map(node));
    for change in 0..epoch {
        // A node that comes to be drained, again and again.
        let standing = if change % 2 == 0 { Standing::Drained } else { Standing::In };
        let changed = Node { standing, ..node(&rows[0]) };
        let mut row = Vec::new();
        write_node(&changed, &mut row);
        nodes.apply(kind::META_NODE, &row);
    }
    assert_eq!(nodes.epoch(), epoch);
    nodes
}

/// Peers, each with its incarnation.
fn peers(rows: &[(u32, u8)]) -> impl Iterator<Item = (NodeId, Incarnation)> {
    rows.iter().map(|(node, life)| (NodeId(*node), Incarnation([*life; 16])))
}

fn hello_of(from: &Identity, engine: u32) -> PeerHello {
    let mut bytes = Vec::new();
    from.write_hello(engine, &mut bytes);
    let frame = wire::split(&bytes, 4096).unwrap().unwrap();
    PeerHello::decode(frame.body).unwrap()
}

#[test]
fn members_welcome_each_other() {
    let hello = hello_of(&identity(2), 1);
    assert_eq!(identity(1).judge(&hello), Verdict::Welcome(NodeId(2)));
}

#[test]
fn whoever_is_not_who_it_should_be_is_refused() {
    let one = identity(1);
    let refused = |change: &dyn Fn(&mut PeerHello)| {
        let mut hello = hello_of(&identity(2), 1);
        change(&mut hello);
        match one.judge(&hello) {
            Verdict::Refused(code, text) => (code, text),
            other => panic!("{other:?}"),
        }
    };
    let (code, text) = refused(&|hello| hello.incarnation = [7; 16]);
    assert_eq!(code, Code::WrongCluster);
    assert!(text.contains("another one"), "{text}");
    assert_eq!(refused(&|hello| hello.cluster = [8; 16]).0, Code::WrongCluster);
    assert_eq!(refused(&|hello| hello.node = 1).0, Code::WrongCluster);
    assert_eq!(refused(&|hello| hello.node = 4).0, Code::WrongCluster);
    assert_eq!(refused(&|hello| hello.engine = 2).0, Code::BadMessage);
    assert_eq!(refused(&|hello| hello.engines = 3).0, Code::BadMessage);
    assert_eq!(refused(&|hello| hello.version = 2).0, Code::WrongVersion);
}

#[test]
fn a_founder_that_missed_the_birth_is_told_and_a_stranger_is_not() {
    let one = identity(1);
    let mut hello = hello_of(&identity(3), 0);
    hello.cluster = [0; 16];
    assert_eq!(one.judge(&hello), Verdict::Unborn(NodeId(3)));
    hello.incarnation = [7; 16];
    assert!(matches!(one.judge(&hello), Verdict::Refused(..)));

    let mut bytes = Vec::new();
    one.write_birth(&mut bytes);
    let frame = wire::split(&bytes, 4096).unwrap().unwrap();
    let birth = Birth::decode(frame.body).unwrap();
    assert_eq!((birth.cluster, birth.shards), ([9; 16], 12));
    assert_eq!(birth.founders.len(), 60);
    assert_eq!(birth.founders[..4], 1u32.to_le_bytes());
    assert_eq!(birth.founders[24..40], [2; 16]);
}

#[test]
fn a_node_that_was_added_is_welcome_and_one_that_was_forgotten_is_not() {
    let mut one = identity(1);
    let mut four = Identity { node: NodeId(4), incarnation: Incarnation([4; 16]), ..identity(4) };
    assert!(matches!(one.judge(&hello_of(&four, 0)), Verdict::Refused(Code::WrongCluster, _)));

    assert!(one.follow(nodes(2, &[(1, 1), (2, 2), (4, 4)])));
    assert!(!one.follow(nodes(1, &[(1, 1)])), "older nodes change nothing");
    assert_eq!(one.judge(&hello_of(&four, 0)), Verdict::Welcome(NodeId(4)));
    assert!(matches!(one.judge(&hello_of(&identity(3), 0)), Verdict::Refused(..)));
    assert_eq!(one.peers().map(|(node, _)| node.0).collect::<Vec<_>>(), [2, 4]);

    // Before it knows it is told who the nodes are, and who founded the cluster.
    four.cluster = ClusterId::NONE;
    assert_eq!(one.judge(&hello_of(&four, 0)), Verdict::Unborn(NodeId(4)));
    let mut bytes = Vec::new();
    one.write_birth(&mut bytes);
    let first = wire::split(&bytes, 4096).unwrap().unwrap();
    let told = Nodes::view(first.body).unwrap();
    assert_eq!(Meta::restore(told.nodes), Ok(one.nodes.clone()));
    let second = wire::split(&bytes[first.used..], 4096).unwrap().unwrap();
    assert_eq!(Birth::decode(second.body).unwrap().founders.len(), 60);

    // Its data directory is lost: the next one is let in by its own incarnation alone.
    one.follow(nodes(3, &[(1, 1), (2, 2), (4, 5)]));
    assert!(matches!(one.judge(&hello_of(&four, 0)), Verdict::Refused(..)));
    four.follow(nodes(3, &[(1, 1), (2, 2), (4, 5)]));
    assert!(!four.belongs() && one.belongs());
    four.incarnation = Incarnation([5; 16]);
    assert_eq!(one.judge(&hello_of(&four, 0)), Verdict::Unborn(NodeId(4)));
}

#[test]
fn links_follow_the_nodes_and_keep_their_places() {
    let mut links = Links::new(NodeId(3), &[0, 1], peers(&[(1, 1), (2, 2)]));
    let conn = |index| ConnId { index, generation: 0 };
    let to_two = links.find(1, NodeId(2)).unwrap();
    links.on_up(to_two, conn(7));
    let dialed = links.find(0, NodeId(1)).unwrap();
    links.on_dial(dialed, conn(8), "127.0.0.1:1".parse().unwrap());

    // Node 1 is forgotten, node 4 is new.
    let gone = links.follow(peers(&[(2, 2), (4, 4)]));
    let one = Gone { conn: conn(8), seat: 0, peer: NodeId(1), was_up: false };
    assert_eq!(gone, [one]);
    assert_eq!(links.find(0, NodeId(1)), None);
    assert_eq!(
        (links.find(1, NodeId(2)), links.route(1, NodeId(2))),
        (Some(to_two), Some(conn(7)))
    );
    let new = links.find(0, NodeId(4)).unwrap();
    assert_eq!(new, dialed, "its place is used again");
    assert!(!links.on_down(Time::ZERO, new, conn(8)), "the old connection is not the new link's");
    assert_eq!(links.follow(peers(&[(2, 2), (4, 4)])), [], "nothing changed");

    // Node 2 comes with another data directory: the old one's link ends, and is dialed at once.
    let gone = links.follow(peers(&[(2, 9), (4, 4)]));
    assert_eq!(gone, [Gone { conn: conn(7), seat: 1, peer: NodeId(2), was_up: true }]);
    assert_eq!((links.route(1, NodeId(2)), links.up()), (None, 0));
    let mut dialed = Vec::new();
    while let Some(due) = links.due(Time::ZERO) {
        dialed.push((links.get(due).engine, links.get(due).peer.0));
        links.on_failed(Time::ZERO, due);
    }
    dialed.sort_unstable();
    assert_eq!(dialed, [(0, 2), (1, 2)], "node 4 dials by itself, and nobody dials node 1");

    assert_eq!(links.follow(peers(&[])), []);
    assert_eq!((links.due(Time::MAX), links.wake_at()), (None, Time::MAX));
}

#[test]
fn only_the_higher_id_connects_and_waits_longer_each_time() {
    let mut links = Links::new(NodeId(2), &[0, 1], peers(&[(1, 1), (3, 3)]));
    let now = Time(1_000_000_000);
    let link = links.due(now).unwrap();
    assert_eq!((links.get(link).peer, links.get(link).engine), (NodeId(1), 0));
    let mut waits = Vec::new();
    for _ in 0..8 {
        links.on_failed(now, link);
        waits.push(links.get(link).retry_at.since(now).as_millis());
    }
    for (wait, most) in waits.into_iter().zip([10, 20, 40, 80, 160, 320, 500, 500]) {
        assert!((most / 2..=most).contains(&wait), "{wait} ms of {most} ms");
    }
    let other = links.due(now).unwrap();
    assert_eq!((links.get(other).peer, links.get(other).engine), (NodeId(1), 1));
    assert_eq!(Links::new(NodeId(1), &[0], peers(&[(2, 2)])).due(now), None);
}

#[test]
fn a_newer_connection_replaces_the_older() {
    let mut links = Links::new(NodeId(1), &[0], peers(&[(2, 2)]));
    let [old, new] = [4, 5].map(|index| ConnId { index, generation: 0 });
    let link = links.find(0, NodeId(2)).unwrap();
    assert_eq!(links.route(0, NodeId(2)), None);
    assert_eq!(links.on_up(link, old), None);
    assert_eq!(links.route(0, NodeId(2)), Some(old));
    assert_eq!(links.on_up(link, new), Some(old));
    assert!(!links.on_down(Time::ZERO, link, old), "the old one is not the link any more");
    assert_eq!((links.route(0, NodeId(2)), links.up()), (Some(new), 1));
    assert!(links.on_down(Time::ZERO, link, new));
    assert_eq!((links.route(0, NodeId(2)), links.up()), (None, 0));
}

#[test]
fn a_refusal_is_news_once() {
    let mut links = Links::new(NodeId(1), &[0], peers(&[(2, 2)]));
    assert!(links.is_news(0, "no"));
    assert!(!links.is_news(0, "no"));
    assert!(links.is_news(0, "never"));
    links.on_up(0, ConnId { index: 0, generation: 0 });
    assert!(links.is_news(0, "never"));
}

#[test]
fn an_address_is_what_the_kernel_reads() {
    let mut address = Address::default();
    let (pointer, length) = address.set("127.0.0.1:9000".parse().unwrap());
    assert_eq!(length as usize, size_of::<libc::sockaddr_in>());
    // SAFETY: `set` just wrote a sockaddr_in there.
    let written = unsafe { *pointer.cast::<libc::sockaddr_in>() };
    assert_eq!(written.sin_port, 9000u16.to_be());
    assert_eq!(written.sin_addr.s_addr.to_ne_bytes(), [127, 0, 0, 1]);
    let (_, length) = address.set("[::1]:9000".parse().unwrap());
    assert_eq!(length as usize, size_of::<libc::sockaddr_in6>());
}
