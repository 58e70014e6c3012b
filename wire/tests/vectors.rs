//! Golden vectors: `vectors.txt` holds the bytes of every message, frames, hashes, rows and codes.
//! Nothing in it ever changes; a new message adds lines, which `make fix` writes.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the finding")]

mod common;

use common::{call, examples, hex, id, lay_out, read};
use std::collections::BTreeSet;
use std::fmt::Write;
use wire::message::{CachePut, DetailedError, Error, Expect, Heartbeat, LockMode};
use wire::message::{FACTS, Request};
use wire::topology::{self, Node, Placement};
use wire::{Code, Detail, Header, messages};

/// What `vectors.txt` must say.
fn vectors() -> String {
    let mut out = String::from(
        "# Golden vectors. One line each; hex is lower case; quoted values are bytes in hex.\n",
    );
    messages(&mut out);
    frames(&mut out);
    hashes(&mut out);
    rows(&mut out);
    codes(&mut out);
    out
}

fn messages(out: &mut String) {
    out.push_str("\n# message NAME KIND FIELD=VALUE... : BODY\n");
    for e in examples() {
        write!(out, "message {} {:#06x}", e.message.name, e.message.kind.0).unwrap();
        for (field, value) in &e.fields {
            write!(out, " {field}={}", value.text()).unwrap();
        }
        writeln!(out, " : {}", hex(&e.body)).unwrap();
    }
}

fn frames(out: &mut String) {
    out.push_str("\n# frame KIND REQUEST SHARD DEADLINE_MS EPOCH \"TRACE\" : FRAME\n");
    for (header, bytes) in example_frames() {
        let Header { kind, request, shard, deadline_ms, epoch, trace } = header;
        let (kind, trace) = (kind.0, hex(&trace));
        let fields = format!("{kind:#06x} {request} {shard} {deadline_ms} {epoch} \"{trace}\"");
        writeln!(out, "frame {fields} : {}", hex(&bytes)).unwrap();
    }
}

fn example_frames() -> Vec<(Header, Vec<u8>)> {
    let plain = Header::new(Heartbeat::KIND, 7);
    let full = Header {
        kind: CachePut::KIND,
        request: 0x0102_0304_0506_0708,
        shard: 0x1112_1314,
        deadline_ms: 0x2122_2324,
        epoch: 0x3132_3334_3536_3738,
        trace: id(0xa0),
    };
    let put = CachePut {
        call: call(12, 12),
        version: 79,
        ttl_ms: 60_000,
        expect: Expect::Version,
        key: b"user/1",
        value: b"Ada",
    };
    let mut frames = Vec::new();
    let mut bytes = Vec::new();
    wire::frame(&mut bytes, &plain, |b| Heartbeat { session: id(0x40) }.encode(b));
    frames.push((plain, bytes));
    let mut bytes = Vec::new();
    wire::frame(&mut bytes, &full, |b| put.encode(b));
    frames.push((full, bytes));
    frames
}

fn hashes(out: &mut String) {
    out.push_str("\n# crc32c \"BYTES\" : SUM\n");
    for bytes in [&b""[..], b"123456789", &[0; 32], &[0xff; 32]] {
        writeln!(out, "crc32c \"{}\" : {:08x}", hex(bytes), crc32c::crc32c(bytes)).unwrap();
    }
    out.push_str(
        "\n# name \"NAME\" \"TAG\" \"NAMESPACE\" : XXH64 SHARD_OF_3 SHARD_OF_12 SHARD_OF_48\n",
    );
    let long = [b'n'; 512];
    let names: [&[u8]; 16] = [
        b"a",
        b"jobs/nightly",
        b"jobs/{nightly}",
        b"mail/{nightly}/x",
        b"{nightly}",
        b"nightly",
        b"{}",
        b"a{}b{c}",
        b"a{b",
        b"a}b{c}d{e}",
        b"{{x}}",
        b"/x",
        b"user/1",
        "Stra\u{df}e/\u{1f512}".as_bytes(),
        b"\x00\xff",
        &long,
    ];
    for name in names {
        let (tag, space) = (wire::name::tag(name), wire::name::namespace(name));
        let hash = wire::name::hash(name);
        let shards = [3, 12, 48].map(|n| wire::name::shard(name, n));
        let [three, twelve, many] = shards;
        writeln!(
            out,
            "name \"{}\" \"{}\" \"{}\" : {hash:016x} {three} {twelve} {many}",
            hex(name),
            hex(tag),
            hex(space)
        )
        .unwrap();
    }
}

fn rows(out: &mut String) {
    out.push_str("\n# node ID ENGINES ADDRESS : ROW\n");
    for node in nodes() {
        let mut row = Vec::new();
        topology::write_node(&node, &mut row);
        let Node { id, engines, address } = node;
        writeln!(out, "node {id} {engines} {address} : {}", hex(&row)).unwrap();
    }
    out.push_str("\n# placement SHARD LEADER REPLICAS : ROW\n");
    for placement in placements() {
        let mut row = Vec::new();
        topology::write_placement(&placement, &mut row);
        let Placement { shard, leader, replicas } = placement;
        let replicas: Vec<String> = replicas.iter().map(u32::to_string).collect();
        writeln!(out, "placement {shard} {leader} {} : {}", replicas.join(","), hex(&row)).unwrap();
    }
    out.push_str("\n# engine_of_group GROUP ENGINES : ENGINE\n");
    for (group, engines) in
        [(0, 1), (0, 4), (1, 1), (1, 4), (2, 4), (4, 4), (5, 4), (12, 4), (13, 5), (48, 2)]
    {
        let engine = topology::engine_of_group(group, engines);
        writeln!(out, "engine_of_group {group} {engines} : {engine}").unwrap();
    }
    out.push_str("\n# detail WHAT... : DETAIL\n");
    for (what, detail) in details() {
        let mut bytes = Vec::new();
        detail.encode(&mut bytes);
        writeln!(out, "detail {what} : {}", hex(&bytes)).unwrap();
    }
}

fn details() -> [(&'static str, Detail<'static>); 3] {
    [
        ("version 80", Detail::Version(80)),
        ("holder 77 1", Detail::Holder { fence: 77, mode: LockMode::Shared }),
        ("holder 78 2", Detail::Holder { fence: 78, mode: LockMode::Exclusive }),
    ]
}

fn nodes() -> Vec<Node> {
    let node = |id, engines, address: &str| Node { id, engines, address: address.to_string() };
    vec![node(1, 1, "127.0.0.1:7001"), node(0xfedc_ba98, 64, "[::1]:7002")]
}

fn placements() -> Vec<Placement> {
    vec![
        Placement { shard: 0, leader: 0, replicas: vec![1, 2, 3] },
        Placement { shard: 11, leader: 3, replicas: vec![3] },
    ]
}

fn codes(out: &mut String) {
    out.push_str("\n# code NUMBER : SLUG\n");
    for code in Code::ALL {
        writeln!(out, "code {} : {}", code.number(), code.slug()).unwrap();
    }
}

#[test]
fn the_golden_vectors_hold() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors.txt");
    let now = vectors();
    let golden = std::fs::read_to_string(path).unwrap();
    let lines: BTreeSet<&str> = now.lines().collect();
    for (number, line) in golden.lines().enumerate() {
        let holds = lines.contains(line);
        assert!(holds, "vectors.txt line {}: released bytes never change: {line}", number + 1);
    }
    if std::env::var_os("TERCET_WRITE").is_some() {
        std::fs::write(path, &now).unwrap();
        return;
    }
    assert_eq!(now, golden, "vectors.txt lacks lines: make fix writes them");
}

#[test]
fn no_two_messages_share_a_kind_or_a_name() {
    let kinds: BTreeSet<u16> = messages::all().map(|message| message.kind.0).collect();
    let names: BTreeSet<&str> = messages::all().map(|message| message.name).collect();
    let count = messages::all().count();
    assert!(count > 25, "the declarations were not found");
    assert_eq!((kinds.len(), names.len()), (count, count));
}

#[test]
fn kinds_say_who_speaks() {
    let requests: BTreeSet<u16> = FACTS.iter().map(|facts| facts.kind().0).collect();
    let answers: BTreeSet<u16> = FACTS.iter().map(|facts| facts.answer.0).collect();
    for message in messages::all() {
        let kind = message.kind.0;
        assert_eq!(requests.contains(&kind), kind < 0x80, "{}", message.name);
        let pushed = messages::pushes().any(|push| push.kind.0 == kind);
        let refuses = [Error::KIND.0, DetailedError::KIND.0].contains(&kind);
        let answers = answers.contains(&kind) || pushed || refuses;
        assert_eq!(answers, (0x80..0x100).contains(&kind), "{}", message.name);
        assert!(kind < 0x200, "{}", message.name);
    }
}

#[test]
fn a_request_is_what_its_declaration_says() {
    for facts in FACTS {
        let mut body = Vec::new();
        (facts.message.example)(&mut body);
        let request = Request::decode(facts.kind(), &body).unwrap();
        #[cfg(feature = "archive")]
        assert_eq!(Request::view(facts.kind(), &body), Ok(request));
        let name = facts.message.name;
        assert_eq!(request.facts().kind(), facts.kind(), "{name}");
        assert_eq!(request.call().is_some(), facts.is_call, "{name}");
        let named = facts.message.fields.iter().any(|field| field.word == "name");
        assert_eq!(request.name().is_some(), named, "{name}");
        assert_eq!(
            request.level(),
            facts.level,
            "{name}: an example shows what is there since its level"
        );
        assert!(request.to_string().starts_with(facts.phrase), "{name}");
        let mut again = Vec::new();
        request.encode(&mut again);
        assert_eq!(again, body, "{name}");
        if facts.is_call {
            assert_eq!(
                facts.message.fields[0].word, "call",
                "{name}: a call begins with what it is"
            );
            let mut other = request;
            other.set_call(wire::Call { session: [9; 16], sequence: 77, answered_below: 76 });
            other.call().unwrap().stamp(facts, &mut again);
            assert_eq!(Request::read(facts.kind(), &again), Ok(other), "{name}");
        }
        assert!(!(facts.reads && facts.is_call), "{name}: what only reads needs no number");
    }
}

#[test]
fn the_crate_writes_what_the_document_says() {
    for e in examples() {
        assert_eq!(hex(&e.body), hex(&lay_out(&e.fields)), "{}", e.message.name);
        let fixed: usize = e.fields.iter().map(|(_, v)| v.shape().1).sum();
        assert_eq!(e.message.fixed, fixed, "{}", e.message.name);
    }
}

#[cfg(feature = "archive")]
#[test]
fn rkyv_itself_writes_the_same_bytes() {
    for e in examples() {
        assert_eq!(
            hex(&e.body),
            hex(&(e.message.archived)(&e.body).unwrap()),
            "{}",
            e.message.name
        );
    }
}

#[test]
fn every_reader_gives_the_fields_back() {
    for e in examples() {
        for by in e.readers() {
            assert_eq!(read(by, &e.body).as_ref(), Ok(&e.fields), "{}", e.message.name);
        }
    }
}

#[test]
fn a_body_is_read_wherever_it_lies() {
    // A frame may begin at any byte of a receive buffer: nothing in a body needs alignment.
    for e in examples() {
        for shift in 0..8 {
            let mut buffer = vec![0xaa; shift];
            buffer.extend_from_slice(&e.body);
            for by in e.readers() {
                let fields = read(by, &buffer[shift..]);
                assert_eq!(fields.as_ref(), Ok(&e.fields), "{} at {shift}", e.message.name);
            }
        }
    }
}

#[test]
fn golden_frames_split_into_what_they_were_made_of() {
    for (header, bytes) in example_frames() {
        let frame = wire::split(&bytes, wire::limits::FRAME_BYTES_MAX).unwrap().unwrap();
        assert_eq!(frame.header, header);
        assert_eq!(frame.used, bytes.len());
    }
}

#[test]
fn topology_rows_are_read_back() {
    let mut rows = Vec::new();
    nodes().iter().for_each(|n| topology::write_node(n, &mut rows));
    assert_eq!(topology::read_nodes(&rows), Ok(nodes()));
    let mut rows = Vec::new();
    placements().iter().for_each(|p| topology::write_placement(p, &mut rows));
    assert_eq!(topology::read_placement(&rows), Ok(placements()));
}

#[test]
fn codes_are_unique_and_found_by_their_number() {
    let numbers: BTreeSet<u16> = Code::ALL.iter().map(|c| c.number()).collect();
    let slugs: BTreeSet<&str> = Code::ALL.iter().map(|c| c.slug()).collect();
    assert_eq!((numbers.len(), slugs.len()), (Code::ALL.len(), Code::ALL.len()));
    for code in Code::ALL {
        assert_eq!(Code::from_number(code.number()), Some(*code));
        assert!(!code.advice().is_empty());
    }
    assert_eq!(Code::from_number(0), None, "0 is no code");
}

#[test]
fn a_tag_decides_the_shard_and_an_empty_one_does_not() {
    use wire::name::{is_valid, namespace, shard, tag};
    assert_eq!(shard(b"jobs/{nightly}", 48), shard(b"mail/{nightly}/x", 48));
    assert_eq!(shard(b"{nightly}", 48), shard(b"nightly", 48));
    assert_eq!(tag(b"a{}b{c}"), b"a{}b{c}");
    assert_eq!(tag(b"{{x}}"), b"{x");
    assert_eq!(namespace(b"jobs/a/b"), b"jobs");
    assert_eq!(namespace(b"jobs"), b"");
    assert!(!is_valid(b""));
    assert!(is_valid(&[0; 512]));
    assert!(!is_valid(&[0; 513]));
}
