//! `docs/protocol.md` says what the code does: the messages' tables are written from the declarations (`make fix`), the
//! others are read and held to the crate.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the finding")]

mod common;

use common::{hex, render};
use wire::{Code, limits, messages};

const DOC: &str = include_str!("../../docs/protocol.md");
const VECTORS: &str = include_str!("vectors.txt");

/// What stands under a heading, down to the next one of any level.
fn section(heading: &str) -> &'static str {
    let start = DOC.find(&format!("\n{heading}\n"));
    let start = start.unwrap_or_else(|| panic!("no heading {heading:?}")) + heading.len() + 2;
    let rest = &DOC[start..];
    &rest[..rest.find("\n#").unwrap_or(rest.len())]
}

/// The rows of the tables in a text, without heads and rules; code marks and quotes taken off.
fn rows(text: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| {
        let line = line.trim().trim_start_matches('|').trim_end_matches('|');
        line.split('|').map(|c| c.trim().replace('`', "")).collect::<Vec<_>>()
    };
    let lines: Vec<&str> = text.lines().filter(|l| l.starts_with('|')).collect();
    let head = |i: usize| lines.get(i + 1).is_some_and(|next| next.starts_with("|---"));
    let body = lines.iter().enumerate().filter(|(i, l)| !head(*i) && !l.starts_with("|---"));
    body.map(|(_, line)| cells(line)).collect()
}

/// Holds a file to what it must say, or writes that.
fn hold(path: &str, must: impl FnOnce(&str) -> String) {
    let is = std::fs::read_to_string(path).unwrap();
    let must = must(&is);
    if std::env::var_os("TERCET_WRITE").is_some() {
        return std::fs::write(path, must).unwrap();
    }
    let differs = is.lines().zip(must.lines()).position(|(is, must)| is != must);
    let at = differs.unwrap_or_else(|| is.lines().count().min(must.lines().count()));
    assert!(is == must, "{path} line {}: make fix writes it as it must be", at + 1);
}

#[test]
fn every_message_stands_in_the_document_as_it_is_declared() {
    hold(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/protocol.md"), render::protocol);
}

#[test]
fn every_message_stands_in_the_python_client_as_it_is_declared() {
    hold(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples/raw_client.py"), render::python);
}

#[test]
fn every_message_of_the_document_is_in_the_code() {
    let headings = DOC.lines().filter_map(|l| l.strip_prefix("### 0x"));
    for heading in headings {
        let (kind, name) = heading.split_once(' ').expect("a kind and a name");
        let kind = u16::from_str_radix(kind, 16).expect("a kind is hex");
        assert!(messages::all().any(|m| m.kind.0 == kind && m.name == name), "{heading}");
    }
}

#[test]
fn the_codes_are_the_documents() {
    let written: Vec<_> = rows(section("## Error codes"));
    let expected: Vec<_> = Code::ALL
        .iter()
        .map(|c| vec![c.number().to_string(), c.slug().to_string(), c.advice().to_string()])
        .collect();
    assert_eq!(written, expected);
}

#[test]
fn the_limits_are_the_documents() {
    let expected: [(&str, u64); 15] = [
        ("NAME_BYTES_MAX", limits::NAME_BYTES_MAX as u64),
        ("VALUE_BYTES_MAX", limits::VALUE_BYTES_MAX as u64),
        ("FRAME_BYTES_MAX", limits::FRAME_BYTES_MAX as u64),
        ("PEER_FRAME_BYTES_MAX", limits::PEER_FRAME_BYTES_MAX as u64),
        ("SESSION_TTL_MS_MIN", limits::SESSION_TTL_MS_MIN.into()),
        ("SESSION_TTL_MS_MAX", limits::SESSION_TTL_MS_MAX.into()),
        ("SESSION_ENDED_MS", limits::SESSION_ENDED_MS.into()),
        ("WINDOW_REPLIES_MAX", limits::WINDOW_REPLIES_MAX),
        ("WAIT_MS_MAX", limits::WAIT_MS_MAX.into()),
        ("LEASE_MS_MAX", limits::LEASE_MS_MAX.into()),
        ("LINE_TTL_MS_MAX", limits::LINE_TTL_MS_MAX.into()),
        ("PUSHES_UNREAD_MAX", limits::PUSHES_UNREAD_MAX.into()),
        ("PUSH_READ_MS_MAX", limits::PUSH_READ_MS_MAX.into()),
        ("ERROR_TEXT_BYTES_MAX", limits::ERROR_TEXT_BYTES_MAX as u64),
        ("DETAIL_BYTES_MAX", limits::DETAIL_BYTES_MAX as u64),
    ];
    let written: Vec<_> = rows(section("## Limits")).iter().map(|r| r[..2].to_vec()).collect();
    assert_eq!(written, expected.map(|(name, value)| vec![name.to_string(), value.to_string()]));
    let named = include_str!("../src/limits.rs").matches("pub const ").count();
    assert_eq!(named, expected.len(), "a limit is missing in this test and in the document");
    let body = limits::FRAME_BYTES_MAX - wire::HEADER_BYTES;
    let body = format!("{},{:03},{:03}", body / 1_000_000, body / 1000 % 1000, body % 1000);
    assert!(DOC.contains(&body), "the longest body is {body} bytes");
}

#[test]
fn the_headers_fields_follow_each_other() {
    let rows = rows(section("## Frames"));
    let mut at = 0;
    for row in &rows {
        assert_eq!(row[0], at.to_string(), "{}", row[2]);
        at += row[1].parse::<usize>().unwrap_or(0);
    }
    assert_eq!(at, wire::HEADER_BYTES);
    // The crate draws the same table.
    let drawn = include_str!("../src/header.rs").lines().filter_map(|l| l.strip_prefix("//! "));
    let drawn: Vec<Vec<&str>> = drawn
        .map(|l| l.split_whitespace().take(3).collect::<Vec<_>>())
        .filter(|w| w.len() == 3 && w[0].parse::<u8>().is_ok() && w[1].parse::<u8>().is_ok())
        .collect();
    let written: Vec<Vec<&str>> =
        rows[..drawn.len()].iter().map(|r| r[..3].iter().map(String::as_str).collect()).collect();
    assert_eq!(drawn, written);
}

#[test]
fn the_worked_example_is_a_golden_frame() {
    let rows = rows(section("## A worked example"));
    let mut bytes = Vec::new();
    for row in &rows {
        assert_eq!(row[0], bytes.len().to_string(), "{}", row[2]);
        let of = row[1].split(' ').map(|b| u8::from_str_radix(b, 16).expect("bytes are hex"));
        bytes.extend(of);
    }
    let golden = VECTORS.lines().filter_map(|l| l.strip_prefix("frame 0x0041"));
    let golden: Vec<&str> = golden.filter_map(|l| l.split(" : ").nth(1)).collect();
    assert_eq!(golden, [hex(&bytes)]);
}

#[test]
fn the_client_made_from_the_document_gives_the_same_bytes() {
    let here = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors.txt");
    let client = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples/raw_client.py");
    match std::process::Command::new("python3").args([client, "check", here]).output() {
        Ok(out) => assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr)),
        Err(e) => eprintln!("not run: python3 is not here ({e})"),
    }
}
