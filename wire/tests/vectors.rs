//! Golden vectors: `vectors.txt` holds the bytes of every message, frames, hashes, rows and codes.
//! Nothing in it ever changes; a new message adds lines. The file is written anew with
//! `TERCET_UPDATE_VECTORS=1 cargo test -p wire --features archive --test vectors`: look at the
//! difference before it is committed.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the finding")]

mod common;

use common::{client_examples, declared, examples, hex, id, lay_out};
use std::collections::BTreeSet;
use std::fmt::Write;
use wire::message::{CachePut, Heartbeat};
use wire::topology::{self, Node, Placement};
use wire::{Code, Header};

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
        write!(out, "message {} {:#06x}", e.name, e.kind).unwrap();
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
        session: id(0x40),
        sequence: 12,
        answered_below: 12,
        version: 79,
        ttl_ms: 60_000,
        expect: 2,
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
    if std::env::var_os("TERCET_UPDATE_VECTORS").is_some() {
        std::fs::write(path, &now).unwrap();
    }
    let golden = std::fs::read_to_string(path).unwrap();
    for (number, (is, must)) in now.lines().zip(golden.lines()).enumerate() {
        assert_eq!(is, must, "vectors.txt line {}: released bytes never change", number + 1);
    }
    assert_eq!(now, golden, "vectors.txt has more or fewer lines");
}

#[test]
fn every_declared_message_has_a_vector() {
    let sources = [include_str!("../src/message.rs"), include_str!("../src/peer.rs")];
    let declared: Vec<_> = sources.into_iter().flat_map(declared).collect();
    assert!(declared.len() > 25, "the declarations were not found");
    let examples = examples();
    for message in &declared {
        let name = &message.name;
        let of = examples.iter().find(|e| e.name == name);
        let of = of.unwrap_or_else(|| panic!("{name} has no golden vector: add an example"));
        assert_eq!(of.kind, message.kind, "{name}");
        let shapes: Vec<_> =
            of.fields.iter().map(|(f, v)| (f.to_string(), v.shape().0.to_string())).collect();
        assert_eq!(shapes, message.fields, "{name}");
    }
    let kinds: BTreeSet<u16> = declared.iter().map(|d| d.kind).collect();
    assert_eq!(kinds.len(), declared.len(), "two messages share a kind");
}

#[test]
fn kinds_say_who_speaks() {
    for e in client_examples() {
        let reply = matches!(
            e.name,
            "Welcome"
                | "Alive"
                | "TopologyReply"
                | "StatusReply"
                | "Error"
                | "Done"
                | "Delivery"
                | "Value"
                | "BackupReady"
                | "BackupPiece"
        );
        assert_eq!(reply, e.kind >= 0x80, "{}", e.name);
        assert!(e.kind < 0x100, "{}", e.name);
    }
    for e in common::peer_examples() {
        assert!((0x100..0x200).contains(&e.kind), "{}", e.name);
    }
}

#[test]
fn the_crate_writes_what_the_document_says() {
    for e in examples() {
        assert_eq!(hex(&e.body), hex(&lay_out(&e.fields)), "{}", e.name);
        let fixed: usize = e.fields.iter().map(|(_, v)| v.shape().1).sum();
        assert_eq!(e.fixed, fixed, "{}", e.name);
    }
}

#[cfg(feature = "archive")]
#[test]
fn rkyv_itself_writes_the_same_bytes() {
    for e in examples() {
        assert_eq!(hex(&e.body), hex(&e.archived), "{}", e.name);
    }
}

#[test]
fn every_reader_gives_the_fields_back() {
    for e in examples() {
        for read in e.readers() {
            assert_eq!(read(&e.body).as_ref(), Ok(&e.fields), "{}", e.name);
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
            for read in e.readers() {
                assert_eq!(read(&buffer[shift..]).as_ref(), Ok(&e.fields), "{} at {shift}", e.name);
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
