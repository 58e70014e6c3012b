//! A backup's file, written and read: every byte counts, and no bytes panic.

use proptest::prelude::*;
use wire::backup::{BackupError, HEAD_BYTES, Head, Parser, Part, Section, VERSION, Writer};

const HEAD: Head = Head { cluster: [7; 16], shards: 2, cache_bytes_max: 64 << 20, taken_us: 99 };

/// What a group's snapshot is in these tests: one of them is empty.
fn snapshot(group: u32) -> Vec<u8> {
    (0..group * 100).map(|n| (n * 7 + group) as u8).collect()
}

fn section(group: u32) -> Section {
    let length = snapshot(group).len() as u64;
    Section { group, index: 10 + u64::from(group), term: 3, length }
}

fn put(writer: &mut Writer, group: u32, out: &mut Vec<u8>) {
    writer.section(&section(group), out);
    snapshot(group).chunks(33).for_each(|piece| writer.bytes(piece, out));
    writer.end_section(out);
}

fn file() -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = Writer::begin(&HEAD, &mut out);
    (0..=HEAD.shards).for_each(|group| put(&mut writer, group, &mut out));
    assert_eq!(writer.at(), out.len() as u64);
    writer.finish(&mut out);
    out
}

/// What is in a file, fed in pieces of this size: the head, and each group with its snapshot.
type Content = (Option<Head>, Vec<(Section, Vec<u8>)>);

fn read(file: &[u8], piece: usize) -> Result<Content, BackupError> {
    let (mut head, mut groups) = (None, Vec::new());
    let mut parser = Parser::default();
    for piece in file.chunks(piece) {
        parser.feed(piece, &mut |part| match part {
            Part::Head(it) => head = Some(it),
            Part::Section(section) => groups.push((section, Vec::new())),
            Part::Bytes(bytes) => {
                let (_, snapshot) = groups.last_mut().expect("a section comes first");
                snapshot.extend_from_slice(bytes);
            }
            Part::SectionEnd => {}
        })?;
    }
    parser.finish()?;
    Ok((head, groups))
}

#[test]
fn a_backup_reads_back_as_it_was_written_in_pieces_of_any_size() {
    let file = file();
    for piece in [1, 2, 7, 64, 100, file.len()] {
        let (head, groups) = read(&file, piece).expect("it is whole");
        assert_eq!(head, Some(HEAD));
        let written: Vec<_> =
            (0..=HEAD.shards).map(|group| (section(group), snapshot(group))).collect();
        assert_eq!(groups, written);
    }
}

#[test]
fn a_section_that_is_begun_again_leaves_no_trace() {
    let mut out = Vec::new();
    let mut writer = Writer::begin(&HEAD, &mut out);
    put(&mut writer, 0, &mut out);
    let before = writer;
    writer.section(&Section { index: 1, ..section(1) }, &mut out);
    writer.bytes(b"half of it", &mut out);
    writer = before;
    out.truncate(usize::try_from(writer.at()).expect("it is short"));
    put(&mut writer, 1, &mut out);
    put(&mut writer, 2, &mut out);
    writer.finish(&mut out);
    assert_eq!(out, file());
}

#[test]
fn every_flipped_bit_and_every_missing_byte_is_noticed() {
    let file = file();
    for at in 0..file.len() {
        let mut flipped = file.clone();
        flipped[at] ^= 1 << (at % 8);
        assert!(read(&flipped, 50).is_err(), "a bit of byte {at}");
        assert_eq!(read(&file[..at], 50), Err(BackupError::Truncated { at: at as u64 }));
    }
    let mut longer = file;
    longer.push(0);
    assert!(matches!(read(&longer, 50), Err(BackupError::Damaged { .. })), "a byte too many");
}

#[test]
fn a_newer_format_is_named_as_such() {
    let mut newer = file();
    newer[12..16].copy_from_slice(&(VERSION + 1).to_le_bytes());
    let sum = crc32c::crc32c(&newer[12..HEAD_BYTES]);
    newer[8..12].copy_from_slice(&sum.to_le_bytes());
    assert_eq!(read(&newer, 50), Err(BackupError::NewerFormat { got: VERSION + 1 }));
    assert_eq!(
        read(b"something else that is long enough to be a backup's head of 64 bytes.", 9),
        Err(BackupError::NoBackup)
    );
}

proptest! {
    #[test]
    fn any_bytes_are_an_error_and_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), piece in 1usize..80) {
        prop_assert!(read(&bytes, piece).is_err());
    }

    #[test]
    fn any_bytes_behind_a_whole_head_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), piece in 1usize..80) {
        let mut all = file()[..HEAD_BYTES].to_vec();
        all.extend_from_slice(&bytes);
        prop_assert!(read(&all, piece).is_err());
    }
}
