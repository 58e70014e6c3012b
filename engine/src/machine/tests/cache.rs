//! Claims about cache lines: versions, expectations, time to live, replacement.

use super::kit::*;
use crate::machine::cache::LINE_OVERHEAD_BYTES;
use crate::machine::{MachineConfig, View};
use wire::Code;

#[test]
fn a_put_is_read_back_with_its_version() {
    let mut kit = Kit::open_to(1);
    let first = token(kit.put(1, "k", b"one"));
    assert_eq!(kit.get(b"k"), Some((first, b"one".to_vec())));
    let second = token(kit.put(1, "k", b"second"));
    assert!(second > first);
    assert_eq!(kit.get(b"k"), Some((second, b"second".to_vec())));
    assert_eq!(kit.get(b"other"), None);
}

#[test]
fn a_put_may_expect_a_version_or_nothing() {
    let mut kit = Kit::open_to(1);
    assert_eq!(kit.put_if(1, "k", b"v", 0, (2, 9)), refused(Code::KeyUnknown));
    let version = token(kit.put_if(1, "k", b"v", 0, (1, 0)));
    assert_eq!(kit.put_if(1, "k", b"w", 0, (1, 0)), refused(Code::VersionMismatch));
    assert_eq!(kit.put_if(1, "k", b"w", 0, (2, version + 1)), refused(Code::VersionMismatch));
    token(kit.put_if(1, "k", b"w", 0, (2, version)));
    assert_eq!(kit.delete(1, "k", (2, version)), refused(Code::VersionMismatch));
}

#[test]
fn a_delete_names_the_version_that_it_deleted() {
    let mut kit = Kit::open_to(1);
    let version = token(kit.put(1, "k", b"v"));
    assert_eq!(kit.delete(1, "k", (0, 0)), done(version));
    assert_eq!(kit.delete(1, "k", (0, 0)), refused(Code::KeyUnknown));
    assert_eq!(kit.get(b"k"), None);
    assert_eq!(kit.machine.status().line_bytes, 0);
}

#[test]
fn a_line_ends_with_its_time_to_live() {
    let mut kit = Kit::open_to(1);
    token(kit.put_if(1, "k", b"v", 1_000, (0, 0)));
    kit.pass(999);
    assert!(kit.get(b"k").is_some());
    kit.pass(1);
    assert_eq!(kit.machine.get(b"k", kit.now), View::Due);
    kit.tick(0);
    assert_eq!(kit.machine.get(b"k", kit.now), View::Refused(Code::KeyUnknown));
}

#[test]
fn a_put_takes_the_old_time_to_live_away() {
    let mut kit = Kit::open_to(1);
    token(kit.put_if(1, "k", b"v", 1_000, (0, 0)));
    token(kit.put(1, "k", b"w"));
    kit.tick(5_000);
    assert!(kit.get(b"k").is_some());
}

#[test]
fn the_lines_written_longest_ago_make_room() {
    let line = LINE_OVERHEAD_BYTES + 11;
    let mut kit =
        Kit::with(MachineConfig { cluster: 1, cache_bytes_max: 3 * line, secret: SECRET });
    kit.open(1);
    for key in ["a", "b", "c", "a"] {
        token(kit.put(1, key, &[0; 10]));
    }
    token(kit.put(1, "d", &[0; 10]));
    assert_eq!(kit.get(b"b"), None);
    assert!([b"a", b"c", b"d"].iter().all(|key| kit.get(*key).is_some()));
    let alone = (3 * line - LINE_OVERHEAD_BYTES - 1) as usize;
    token(kit.put(1, "e", &vec![0; alone]));
    assert_eq!(kit.machine.status().lines, 1);
    assert_eq!(kit.machine.status().evictions, 4);
    assert_eq!(kit.put(1, "e", &vec![0; alone + 1]), refused(Code::OverBudget));
}
