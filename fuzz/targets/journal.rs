//! A journal with bytes overwritten: recovery gives what it finds or says what is wrong, and never panics.
//! The input is a list of patches; a unit's checksum is made right again where a patch says so, so that
//! what lies behind the checksums is reached too.
#![no_main]

use engine::entry::{self, EntryHeader, kind};
use engine::ids::{GroupId, Incarnation, Index, NodeId, Term};
use engine::journal::unit::{self, PAGE_BYTES, pages};
use engine::journal::{Journal, JournalConfig, Record, Replay, SEGMENT_BYTES_MIN, inspect};
use engine::time::Elapsed;
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

const GROUPS: u32 = 3;
/// Of a patch: slot and whether to seal, where (4 bytes), how many bytes.
const PATCH_BYTES: usize = 6;

type Disk = Vec<(u32, Vec<u8>)>;

fn config() -> JournalConfig {
    let groups = (0..GROUPS).map(GroupId).collect();
    JournalConfig { segment_bytes: SEGMENT_BYTES_MIN, segments_max: 6, groups }
}

fn recover(disk: &Disk, visit: &mut dyn FnMut(Replay<'_>)) -> Option<Journal> {
    let segments: Vec<(u32, &[u8])> = disk.iter().map(|(slot, it)| (*slot, &it[..])).collect();
    Journal::recover(config(), 7, &segments, None, visit).ok()
}

/// A journal of two segments with records of every kind.
static WHOLE: LazyLock<Disk> = LazyLock::new(|| {
    let blank = vec![0; SEGMENT_BYTES_MIN as usize];
    let mut disk: Disk = (0..3).map(|slot| (slot, blank.clone())).collect();
    let mut journal = recover(&disk, &mut |_| {}).expect("a blank disk is a fresh journal");
    let mut last = [0; GROUPS as usize];
    for group in (0..GROUPS).map(GroupId) {
        journal.append(Record::Replica { group, replica: Some(Incarnation([7; 16])) });
    }
    for round in 1..=40 {
        let group = GroupId(round as u32 % GROUPS);
        let (first, term) = (last[group.0 as usize] + 1, Term(round));
        journal.append(Record::Vote { group, term, vote: Some(NodeId(1 + round as u32 % 3)) });
        let mut bytes = Vec::new();
        for index in first..first + 3 {
            let (index, time) = (Index(index), Elapsed(round));
            let header = EntryHeader { group, kind: kind::NOOP, term, index, time, principal: 0 };
            entry::write(&header, &[round as u8; 300], &mut bytes);
        }
        let (first, end) = (Index(first), Index(first + 2));
        journal.append(Record::Entries { group, first, last: end, last_term: term, bytes: &bytes });
        last[group.0 as usize] = end.0;
        if round % 6 == 0 {
            journal.append(Record::Carry {
                group,
                first,
                last: end,
                last_term: term,
                bytes: &bytes,
            });
        }
        if round % 5 == 0 {
            journal.append(Record::Truncate { group, from: end });
            last[group.0 as usize] -= 1;
        }
        if round % 7 == 0 {
            journal.append(Record::Snapshot { group, index: first, term });
        }
        if let Some(write) = journal.seal() {
            let at = write.offset as usize;
            let (_, segment) = &mut disk[write.slot as usize];
            segment[at..at + write.length].copy_from_slice(journal.in_flight());
            journal.on_synced(write.position);
        }
        journal.take_wanted_segments(&mut |_| {});
    }
    assert!(recover(&disk, &mut |_| {}).is_some(), "it is whole before anything is patched");
    disk
});

fuzz_target!(|bytes: &[u8]| {
    let mut disk = WHOLE.clone();
    let mut rest = bytes;
    while let Some((head, behind)) = rest.split_first_chunk::<PATCH_BYTES>() {
        let slot = usize::from(head[0] & 0x7f) % disk.len();
        let (length, seals) = (usize::from(head[5]).min(behind.len()), head[0] & 0x80 != 0);
        let segment = &mut disk[slot].1;
        let at = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize % segment.len();
        let length = length.min(segment.len() - at);
        segment[at..at + length].copy_from_slice(&behind[..length]);
        rest = &behind[length..];
        if seals {
            seal(segment, at);
        }
    }
    for (_, segment) in &disk {
        inspect(segment).count();
    }
    let mut entries = 0;
    recover(&disk, &mut |replay| entries += u32::from(matches!(replay, Replay::Entry(_))));
});

/// Makes the checksum right of the unit that begins on the page of `at`, or on one of the pages before.
fn seal(segment: &mut [u8], at: usize) {
    let page = at / PAGE_BYTES;
    for begin in (0..=page).rev() {
        let offset = begin * PAGE_BYTES;
        let Some(header) = unit::claim(segment, offset) else { continue };
        let end = offset + pages(header.length as usize).max(1) * PAGE_BYTES;
        if end <= segment.len() && header.length as usize >= unit::UNIT_HEADER_BYTES {
            unit::seal(&mut segment[offset..end], &header);
        }
        return;
    }
}
