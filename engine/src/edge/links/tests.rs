use super::*;

fn identity(node: u32) -> Identity {
    let members = (1..=3u8).map(|id| Member {
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
        members: members.collect(),
    }
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
fn only_the_higher_id_connects_and_waits_longer_each_time() {
    let peers = || [NodeId(1), NodeId(3)].into_iter();
    let mut links = Links::new(NodeId(2), &[0, 1], peers());
    let now = Time(1_000_000_000);
    let link = links.due(now).unwrap();
    assert_eq!((links.get(link).peer, links.get(link).engine), (NodeId(1), 0));
    let mut waits = Vec::new();
    for _ in 0..8 {
        links.on_failed(now, link);
        waits.push(links.get(link).retry_at.since(now).as_millis());
    }
    assert_eq!(waits, [10, 20, 40, 80, 160, 320, 500, 500]);
    let other = links.due(now).unwrap();
    assert_eq!((links.get(other).peer, links.get(other).engine), (NodeId(1), 1));
    assert_eq!(Links::new(NodeId(1), &[0], [NodeId(2)].into_iter()).due(now), None);
}

#[test]
fn a_newer_connection_replaces_the_older() {
    let mut links = Links::new(NodeId(1), &[0], [NodeId(2)].into_iter());
    let [old, new] = [4, 5].map(|index| ConnId { index, generation: 0 });
    let link = links.find(0, NodeId(2)).unwrap();
    assert_eq!(links.route(0, NodeId(2)), None);
    assert_eq!(links.on_up(link, old), None);
    assert_eq!(links.route(0, NodeId(2)), Some(4));
    assert_eq!(links.on_up(link, new), Some(old));
    assert!(!links.on_down(Time::ZERO, link, old), "the old one is not the link any more");
    assert_eq!((links.route(0, NodeId(2)), links.up()), (Some(5), 1));
    assert!(links.on_down(Time::ZERO, link, new));
    assert_eq!((links.route(0, NodeId(2)), links.up()), (None, 0));
}

#[test]
fn a_refusal_is_news_once() {
    let mut links = Links::new(NodeId(1), &[0], [NodeId(2)].into_iter());
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
