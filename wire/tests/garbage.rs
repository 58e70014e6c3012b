//! Bytes from outside: arbitrary, truncated, flipped, oversized. Nothing panics, nothing wrong
//! passes for right.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the finding")]

mod common;

use common::{Example, Fields, Value, call, examples, lay_out, read};
use proptest::prelude::*;
use wire::limits::{FRAME_BYTES_MAX, PEER_FRAME_BYTES_MAX};
use wire::message::{CachePut, Expect, Heartbeat};
use wire::{HEADER_BYTES, Header, WireError, split, topology};

/// A valid frame.
fn a_frame() -> Vec<u8> {
    let mut bytes = Vec::new();
    let put = CachePut {
        call: call(9, 4),
        version: 7,
        ttl_ms: 1,
        expect: Expect::Version,
        key: b"some/key",
        value: b"some value",
    };
    wire::frame(&mut bytes, &Header::new(CachePut::KIND, 1), |b| put.encode(b));
    bytes
}

/// Makes length and checksum of a tampered frame right again.
fn seal(frame: &mut [u8]) {
    wire::finish(frame, 0);
}

/// Some message with random values.
fn any_message() -> impl Strategy<Value = (usize, Fields)> {
    (0..examples().len(), any::<u64>(), proptest::collection::vec(any::<Vec<u8>>(), 2..3)).prop_map(
        |(which, number, strings)| {
            let mut strings = strings.into_iter();
            let mut number = number;
            let mut next = || {
                number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                number
            };
            let all = examples();
            let of = &all[which];
            let choices = |name: &str| {
                let row = of.message.fields.iter().find(|row| row.name == name);
                row.map_or(&[][..], |row| row.choices)
            };
            let fields = of.fields.iter().map(|(name, value)| {
                let value = match value {
                    Value::U8(_) if !choices(name).is_empty() => {
                        Value::U8(choices(name)[next() as usize % choices(name).len()].0)
                    }
                    Value::U8(_) => Value::U8(next() as u8),
                    Value::U16(_) => Value::U16(next() as u16),
                    Value::U32(_) => Value::U32(next() as u32),
                    Value::U64(_) => Value::U64(next()),
                    Value::Id(_) => Value::Id(core::array::from_fn(|_| (next() >> 56) as u8)),
                    Value::Bytes(_) => Value::Bytes(strings.next().unwrap()),
                };
                (*name, value)
            });
            (which, fields.collect())
        },
    )
}

/// Reads `body` in every way. What the server's way accepts, the client's way reads alike.
fn read_every_way(example: &Example, body: &[u8]) {
    let decoded = read(example.message.decode, body);
    #[cfg(feature = "archive")]
    if let Ok(viewed) = read(example.message.view, body) {
        assert_eq!(decoded, Ok(viewed), "{}", example.message.name);
    }
    drop(decoded);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_values_come_back_from_every_reader((which, fields) in any_message()) {
        let example = &examples()[which];
        let body = lay_out(&fields);
        for by in example.readers() {
            prop_assert_eq!(read(by, &body), Ok(fields.clone()));
        }
    }

    #[test]
    fn any_bytes_are_split_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = split(&bytes, FRAME_BYTES_MAX);
    }

    #[test]
    fn any_bytes_behind_a_valid_start_are_split_without_a_panic(
        bytes in proptest::collection::vec(any::<u8>(), HEADER_BYTES..300), max in HEADER_BYTES..400,
    ) {
        let mut bytes = bytes;
        bytes[..4].copy_from_slice(b"TCT1");
        bytes[12..14].copy_from_slice(&[1, 0]);
        let _ = split(&bytes, max);
        bytes[9..12].fill(0);
        let _ = split(&bytes, max);
        seal(&mut bytes);
        match split(&bytes, max) {
            Ok(Some(frame)) => {
                prop_assert_eq!(frame.used, bytes.len());
                prop_assert_eq!(frame.body, &bytes[HEADER_BYTES..]);
            }
            Err(WireError::TooLarge { .. }) => prop_assert!(bytes.len() > max),
            other => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn any_bytes_are_read_as_any_message_without_a_panic(
        body in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        for example in examples() {
            read_every_way(&example, &body);
        }
    }

    #[test]
    fn a_body_with_changed_bytes_is_read_without_a_panic(
        (which, fields) in any_message(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        shift in 0..8usize,
    ) {
        let mut buffer = vec![0; shift];
        buffer.extend(lay_out(&fields));
        for (at, byte) in changes {
            let body = &mut buffer[shift..];
            // Mostly the fixed part, where offsets and lengths are.
            let at = body.len() - 1 - at.index(body.len().min(80));
            body[at] = byte;
        }
        read_every_way(&examples()[which], &buffer[shift..]);
    }

    #[test]
    fn a_truncated_body_is_refused_or_read_without_a_panic(
        (which, fields) in any_message(), cut in any::<prop::sample::Index>(),
    ) {
        let body = lay_out(&fields);
        let example = &examples()[which];
        let cut = cut.index(body.len());
        read_every_way(example, &body[..cut]);
        read_every_way(example, &body[cut..]);
        if cut < example.message.fixed {
            for by in example.readers() {
                prop_assert_eq!(read(by, &body[..cut]), Err(WireError::Malformed));
            }
        }
    }

    #[test]
    fn any_bytes_are_read_as_rows_without_a_panic(
        rows in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        if let Ok(nodes) = topology::read_nodes(&rows) {
            let mut again = Vec::new();
            nodes.iter().for_each(|n| topology::write_node(n, &mut again));
            prop_assert_eq!(&again, &rows);
        }
        if let Ok(placement) = topology::read_placement(&rows) {
            let mut again = Vec::new();
            placement.iter().for_each(|p| topology::write_placement(p, &mut again));
            prop_assert_eq!(&again, &rows);
        }
    }

    #[test]
    fn any_name_has_a_shard(name in any::<Vec<u8>>(), shards in 1..1000u32) {
        prop_assert!(wire::name::shard(&name, shards) < shards);
        prop_assert!(wire::name::tag(&name).len() <= name.len());
        prop_assert!(wire::name::namespace(&name).len() <= name.len());
    }
}

#[test]
fn every_flipped_bit_of_a_frame_is_noticed() {
    let frame = a_frame();
    for bit in 0..frame.len() * 8 {
        let mut bytes = frame.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        // A longer length asks for more bytes: give it some, as a stream would.
        bytes.extend_from_slice(&[0; 16]);
        let got = split(&bytes, FRAME_BYTES_MAX);
        assert!(!matches!(got, Ok(Some(_))), "bit {bit} was flipped and the frame accepted");
        // Only a longer length may wait for more; whatever else is wrong is said at once.
        assert!(got.is_err() || (64..96).contains(&bit), "bit {bit}: {got:?}");
    }
}

#[test]
fn a_truncated_frame_waits_for_the_rest() {
    let frame = a_frame();
    for cut in 0..frame.len() {
        assert!(matches!(split(&frame[..cut], FRAME_BYTES_MAX), Ok(None)), "at {cut}");
    }
}

#[test]
fn frames_follow_each_other() {
    let (a, mut stream) = (a_frame(), a_frame());
    stream.extend_from_slice(&a);
    stream.extend_from_slice(&a[..60]);
    let first = split(&stream, FRAME_BYTES_MAX).unwrap().unwrap();
    assert_eq!(first.used, a.len());
    let second = split(&stream[first.used..], FRAME_BYTES_MAX).unwrap().unwrap();
    assert_eq!(second.body, first.body);
    assert!(split(&stream[2 * a.len()..], FRAME_BYTES_MAX).unwrap().is_none());
}

#[test]
fn a_bad_header_is_noticed_before_its_body_is_waited_for() {
    let refused = |at: usize, byte: u8| {
        let mut bytes = a_frame();
        bytes[at] = byte;
        bytes.truncate(HEADER_BYTES);
        split(&bytes, FRAME_BYTES_MAX).unwrap_err()
    };
    assert_eq!(refused(0, b'G'), WireError::Magic);
    assert_eq!(refused(12, 0), WireError::Version { got: 0 });
    assert_eq!(refused(12, 2), WireError::Version { got: 2 });
    assert_eq!(refused(13, 0x80), WireError::Flags { got: 0x80 });
    assert!(matches!(refused(11, 0xff), WireError::TooLarge { .. }));
}

#[test]
fn a_body_may_be_as_long_as_the_limit_and_no_longer() {
    for max in [FRAME_BYTES_MAX, PEER_FRAME_BYTES_MAX] {
        let mut frame = Vec::new();
        let fill = max - HEADER_BYTES;
        wire::frame(&mut frame, &Header::new(Heartbeat::KIND, 1), |b| b.resize(b.len() + fill, 7));
        assert_eq!(frame.len(), max);
        assert_eq!(split(&frame, max).unwrap().unwrap().used, max);
        let refused = split(&frame, max - 1).unwrap_err();
        assert_eq!(refused, WireError::TooLarge { length: fill, max: fill - 1 });
    }
}

#[test]
fn the_largest_request_fits_a_frame() {
    use wire::limits::{NAME_BYTES_MAX, VALUE_BYTES_MAX};
    let (key, value) = (vec![1; NAME_BYTES_MAX], vec![2; VALUE_BYTES_MAX]);
    let put = CachePut {
        call: call(9, 4),
        version: 7,
        ttl_ms: 1,
        expect: Expect::Version,
        key: &key,
        value: &value,
    };
    let mut frame = Vec::new();
    wire::frame(&mut frame, &Header::new(CachePut::KIND, 1), |b| put.encode(b));
    let split = split(&frame, FRAME_BYTES_MAX).unwrap().unwrap();
    assert_eq!(CachePut::decode(split.body), Ok(put));
}
