//! Requests are vetted by what their declarations say: within a range they pass, just outside of it they do not.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the finding")]

use wire::limits::{NAME_BYTES_MAX, VALUE_BYTES_MAX, WINDOW_REPLIES_MAX};
use wire::message::{CacheDelete, CachePut, Expect, FACTS, SessionOpen};
use wire::request::Draw;
use wire::{Call, Code, Kind, Request};

/// What both ways to read a body say of it.
fn vet(kind: Kind, body: &[u8]) -> Result<Request<'_>, Code> {
    let decoded = Request::decode(kind, body);
    #[cfg(feature = "archive")]
    assert_eq!(Request::view(kind, body), decoded, "{kind:?}");
    decoded
}

fn vet_request(request: Request<'_>) -> Result<(), Code> {
    let mut body = Vec::new();
    request.encode(&mut body);
    vet(request.facts().kind(), &body).map(|again| assert_eq!(again, request))
}

/// Draws every field at one end of its range, or one field just outside of it.
struct Edge {
    is_high: bool,
    long: Vec<u8>,
}

impl<'a> Draw<'a> for &'a Edge {
    fn call(&mut self) -> Call {
        let sequence = if self.is_high { u64::MAX } else { 1 };
        Call { session: [1; 16], sequence, answered_below: sequence - u64::from(!self.is_high) }
    }

    fn number(&mut self, _: &'static str, min: u64, max: u64) -> u64 {
        if self.is_high { max } else { min }
    }

    fn id(&mut self, _: &'static str) -> [u8; 16] {
        [u8::from(self.is_high) * 254 + 1; 16]
    }

    fn bytes(&mut self, _: &'static str) -> &'a [u8] {
        if self.is_high { &self.long } else { b"n" }
    }
}

#[test]
fn a_request_at_either_end_of_its_ranges_passes() {
    for is_high in [false, true] {
        let edge = Edge { is_high, long: vec![7; NAME_BYTES_MAX] };
        for facts in FACTS {
            let request = Request::draw(facts.kind(), &mut &edge).unwrap();
            assert_eq!(vet_request(request), Ok(()), "{request:?}");
        }
    }
    assert!(Request::draw(Kind(0x7f), &mut &Edge { is_high: true, long: Vec::new() }).is_none());
}

#[test]
fn a_name_has_a_byte_at_least_and_at_most_as_many_as_the_limit() {
    let edge = |bytes| Edge { is_high: true, long: vec![7; bytes] };
    let (none, long) = (edge(0), edge(NAME_BYTES_MAX + 1));
    for facts in FACTS {
        let named = facts.message.fields.iter().any(|field| field.word == "name");
        let draw = |edge: &Edge| vet_request(Request::draw(facts.kind(), &mut &*edge).unwrap());
        let refused = |code| if named { Err(code) } else { Ok(()) };
        assert_eq!(draw(&none), refused(Code::BadMessage), "{}", facts.message.name);
        assert_eq!(draw(&long), refused(Code::TooLarge), "{}", facts.message.name);
    }
}

#[test]
fn every_number_just_outside_of_its_range_is_refused() {
    let edges = [false, true].map(|is_high| (is_high, Edge { is_high, long: vec![7; 9] }));
    let mut refused = 0;
    for facts in FACTS {
        for (is_high, edge) in &edges {
            let mut body = Vec::new();
            Request::draw(facts.kind(), &mut &*edge).unwrap().encode(&mut body);
            let fixed = body.len() - facts.message.fixed;
            for row in facts.message.rows().iter().filter(|row| row.ty == "u32") {
                if row.must.is_empty() {
                    continue;
                }
                let bytes = fixed + row.at..fixed + row.at + 4;
                let number = u32::from_le_bytes(body[bytes.clone()].try_into().unwrap());
                let outside = if *is_high { number.checked_add(1) } else { number.checked_sub(1) };
                let Some(outside) = outside else { continue };
                let mut body = body.clone();
                body[bytes].copy_from_slice(&outside.to_le_bytes());
                let name = facts.message.name;
                assert_eq!(vet(facts.kind(), &body), Err(Code::BadMessage), "{name} {}", row.name);
                refused += 1;
            }
        }
    }
    assert!(refused >= 9, "the ranges were not found: {refused}");
}

#[test]
fn vetting_refuses_what_is_no_call_or_too_large() {
    let open = |ttl_ms| vet_request(SessionOpen { session: [1; 16], ttl_ms }.into());
    assert_eq!(open(999), Err(Code::BadMessage));
    assert_eq!(open(1_000), Ok(()));
    assert_eq!(
        vet_request(SessionOpen { session: [0; 16], ttl_ms: 1_000 }.into()),
        Err(Code::BadMessage)
    );
    let put = |value: &[u8], session, sequence, answered_below| {
        let call = Call { session, sequence, answered_below };
        let (version, ttl_ms, expect) = (0, 0, Expect::Any);
        vet_request(CachePut { call, version, ttl_ms, expect, key: b"k", value }.into())
    };
    let one = [1; 16];
    assert_eq!(put(b"", one, 7, 7), Ok(()));
    assert_eq!(put(&vec![0; VALUE_BYTES_MAX], one, 7, 7), Ok(()));
    assert_eq!(put(&vec![0; VALUE_BYTES_MAX + 1], one, 7, 7), Err(Code::TooLarge));
    assert_eq!(put(b"", [0; 16], 7, 7), Err(Code::BadMessage));
    assert_eq!(put(b"", one, 0, 0), Err(Code::BadMessage));
    assert_eq!(put(b"", one, 7, 8), Err(Code::BadMessage));
    assert_eq!(put(b"", one, WINDOW_REPLIES_MAX, 1), Ok(()));
    assert_eq!(put(b"", one, WINDOW_REPLIES_MAX + 1, 1), Err(Code::Busy));
    assert_eq!(vet(CachePut::KIND, b"garbage"), Err(Code::BadMessage));
    assert_eq!(vet(Kind(0x7fff), b""), Err(Code::UnknownKind));
}

#[test]
fn vetting_refuses_a_choice_that_is_not_offered() {
    let call = Call { session: [1; 16], sequence: 1, answered_below: 1 };
    let delete = |expect| vet_request(CacheDelete { call, version: 1, expect, key: b"k" }.into());
    assert_eq!(delete(Expect::Any), Ok(()));
    assert_eq!(delete(Expect::Version), Ok(()));
    assert_eq!(delete(Expect::Absent), Err(Code::BadMessage));
    for facts in FACTS {
        for row in facts.message.rows() {
            let choices = facts.message.fields.iter().find(|field| field.name == row.name);
            if choices.is_none_or(|field| field.choices.is_empty()) {
                continue;
            }
            let mut body = Vec::new();
            (facts.message.example)(&mut body);
            let at = body.len() - facts.message.fixed + row.at;
            body[at] = 0xee;
            assert_eq!(vet(facts.kind(), &body), Err(Code::BadMessage), "{}", facts.message.name);
        }
    }
}
