//! What is torn is dropped; what is damaged is said.

use super::world::{Oracle, SEGMENT, World, config, fresh, open, zeros};
use crate::journal::Journal;
use crate::journal::JournalError;
use crate::journal::Write;
use crate::journal::record::{self, RECORD_HEADER_BYTES, RecordHeader};
use crate::journal::unit::{self, PAGE_BYTES, UNIT_HEADER_BYTES, VERSION};
use std::collections::BTreeMap;

type Disk = BTreeMap<u32, Vec<u8>>;

/// Three segments in use, one of which was used before, and every write that led there.
pub(super) fn long() -> (World, Vec<Write>) {
    let mut world = World::new();
    let mut writes = Vec::new();
    let mut turn = 0;
    while turn < 80 || world.journal.status().segments_live < 3 {
        world.entries(turn % 3, 3, 700);
        for group in 0..3 {
            world.commit(group, 3);
        }
        world.vote(1, Some(1));
        world.prepare();
        if turn < 80 {
            world.reclaim();
        }
        world.seal();
        writes.extend(world.write);
        world.sync();
        turn += 1;
    }
    (world, writes)
}

fn damaged(disk: &Disk) -> (u32, u64, &'static str) {
    match open(disk, 9) {
        Err(JournalError::Damaged { slot, offset, what }) => (slot, offset, what),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("the damage was not noticed"),
    }
}

fn file(disk: &mut Disk, slot: u32) -> &mut Vec<u8> {
    disk.get_mut(&slot).expect("the slot is there")
}

fn segment_number(bytes: &[u8]) -> u64 {
    unit::claim(bytes, 0).map_or(0, |claim| claim.segment)
}

pub(super) fn without_commit(mut oracle: Oracle) -> Oracle {
    oracle.iter_mut().for_each(|g| g.commit = 0);
    oracle
}

#[test]
fn a_zeroed_page_of_any_synced_unit_but_the_last_is_damage() {
    let (world, writes) = long();
    let (last, earlier) = writes.split_last().expect("there were writes");
    for write in earlier.iter().rev().take(20) {
        let mut disk = world.disk.clone();
        let at = write.offset as usize;
        file(&mut disk, write.slot)[at..at + PAGE_BYTES].fill(0);
        damaged(&disk);
    }
    let mut disk = world.disk.clone();
    let at = last.offset as usize;
    file(&mut disk, last.slot)[at..at + PAGE_BYTES].fill(0);
    assert!(open(&disk, 9).is_ok(), "the last one may be torn");
}

#[test]
fn an_index_that_nobody_counted_to_is_damage_whatever_its_checksum() {
    let (mut world, writes) = long();
    let write = writes.iter().rfind(|write| write.offset > 0).expect("there were writes");
    let (at, end) = (write.offset as usize, write.offset as usize + write.length);
    let bytes = &mut file(&mut world.disk, write.slot)[at..end];
    let header = unit::claim(bytes, 0).expect("a unit begins there");
    let (record, _, _) = record::split(&bytes[UNIT_HEADER_BYTES..]).expect("a record");
    let beyond = RecordHeader { last: u64::MAX, ..record };
    let place = UNIT_HEADER_BYTES..UNIT_HEADER_BYTES + RECORD_HEADER_BYTES;
    bytes[place].copy_from_slice(&beyond.to_bytes());
    unit::seal(bytes, &header);
    let (slot, offset, what) = damaged(&world.disk);
    assert_eq!((slot, offset), (write.slot, write.offset));
    assert_eq!(what, "a unit holds no well-formed records");
}

#[test]
fn a_mark_vouches_for_the_last_unit() {
    let (mut world, writes) = long();
    let last = writes.last().expect("there were writes");
    let at = last.offset as usize;
    world.journal.mark();
    world.seal();
    world.sync();
    let marked = world.journal.synced();
    assert!(marked > last.position);
    world.journal.mark();
    world.seal();
    world.sync();
    assert_eq!(world.journal.synced(), marked, "one mark is enough");
    file(&mut world.disk, last.slot)[at + 100] ^= 1;
    let (slot, offset, _) = damaged(&world.disk);
    assert_eq!((slot, offset), (last.slot, last.offset), "the damage is named by its place");
}

#[test]
fn a_write_to_the_wrong_place_is_damage() {
    let (world, writes) = long();
    let [.., from, _, to, _] = writes.as_slice() else { panic!("there were writes") };
    let mut disk = world.disk.clone();
    let at = from.offset as usize;
    let bytes = file(&mut disk, from.slot)[at..at + from.length].to_vec();
    let at = to.offset as usize;
    file(&mut disk, to.slot)[at..at + bytes.len()].copy_from_slice(&bytes);
    damaged(&disk);
}

/// A unit stands at another place of the disk, and where it belongs is nothing.
fn misdirect(disk: &Disk, write: &Write, slot: u32, at: usize) -> Disk {
    let (from, mut disk) = (write.offset as usize, disk.clone());
    let there = &mut file(&mut disk, write.slot)[from..from + write.length];
    let unit = there.to_vec();
    there.fill(0);
    file(&mut disk, slot)[at..at + unit.len()].copy_from_slice(&unit);
    disk
}

#[test]
fn a_unit_behind_one_that_opened_its_segment_in_another_slot_is_damage() {
    let mut world = World::new();
    let mut first = None;
    for _ in 0..2 {
        world.vote(0, Some(1));
        world.seal();
        first = first.or(world.write);
        world.sync();
    }
    let first = first.expect("a record was pending");
    // The first unit is found and satisfies the witness; the second one claims no more than was found.
    let disk = misdirect(&world.disk, &first, 1, 0);
    let (slot, offset, what) = damaged(&disk);
    assert_eq!((slot, offset), (0, PAGE_BYTES as u64), "{what}");
}

#[test]
fn a_unit_written_to_any_other_place_is_damage_or_nothing_is_lost() {
    let (world, writes) = long();
    let (mut noticed, mut harmless) = (0, 0);
    for write in writes.iter().rev().take(12) {
        let from = write.offset as usize;
        for slot in world.disk.keys().copied() {
            for at in (0..=SEGMENT as usize - write.length).step_by(PAGE_BYTES) {
                if slot == write.slot && at.abs_diff(from) < write.length {
                    continue;
                }
                let disk = misdirect(&world.disk, write, slot, at);
                match open(&disk, 9) {
                    Err(JournalError::Damaged { .. }) => noticed += 1,
                    Err(other) => panic!("{other}"),
                    Ok((_, found)) => {
                        let whole = without_commit(found) == without_commit(world.now.clone());
                        assert!(whole, "{write:?} at {slot} {at}");
                        harmless += 1;
                    }
                }
            }
        }
    }
    assert!(noticed > 100 && harmless > 0, "{noticed} were noticed, {harmless} took nothing");
}

#[test]
fn a_whole_unit_that_is_not_of_this_place_is_damage_unless_it_is_older_or_foreign() {
    let mut world = World::new();
    world.entries(0, 3, 100);
    world.turn();
    let before = world.now.clone();
    world.vote(1, Some(1));
    world.seal();
    let write = world.write.expect("a record is pending");
    world.sync();
    // Journal, seed, segment, number and page, each of which is another one.
    for (field, is_damage) in [(16, false), (24, true), (32, true), (40, false), (56, true)] {
        let mut disk = world.disk.clone();
        let at = write.offset as usize;
        let unit = &mut file(&mut disk, write.slot)[at..at + write.length];
        // A number falls by this; the others only differ.
        unit[field..field + 4].fill(0);
        let sum = crc32c::crc32c(&unit[4..]);
        unit[..4].copy_from_slice(&sum.to_le_bytes());
        if is_damage {
            assert_eq!(damaged(&disk).1, write.offset, "field at {field}");
        } else {
            let (_, found) = open(&disk, 9).expect("it is no part of the journal");
            assert_eq!(found, before, "field at {field}");
        }
    }
    assert_eq!(open(&world.disk, 9).expect("nothing is damaged").1, world.now);
}

#[test]
fn a_lost_unit_at_a_segments_end_is_damage_even_if_nothing_contradicts_it() {
    let mut world = World::new();
    world.entries(0, 1, 10);
    world.turn();
    let mut last = None;
    while world.journal.status().segments_live < 2 {
        world.truncate(0, 0); // cuts nothing
        world.prepare();
        world.seal();
        if world.journal.status().segments_live < 2 {
            last = world.write;
        }
        world.sync();
    }
    let last = last.expect("the first segment has a last unit");
    let at = last.offset as usize;
    file(&mut world.disk, last.slot)[at..at + PAGE_BYTES].fill(0);
    assert!(damaged(&world.disk).2.contains("missing"));
}

#[test]
fn an_older_copy_of_a_segment_is_damage() {
    let mut world = World::new();
    let mut copies: Vec<Disk> = Vec::new();
    while world.journal.status().segments_live < 3 {
        world.entries(0, 3, 900);
        world.turn();
        copies.push(world.disk.clone());
    }
    world.vote(0, None);
    world.turn();
    let mut tried = 0;
    for copy in &copies {
        let mut disk = world.disk.clone();
        if disk[&0] == copy[&0] {
            continue;
        }
        *file(&mut disk, 0) = copy[&0].clone();
        damaged(&disk);
        tried += 1;
    }
    assert!(tried > 5);
}

#[test]
fn a_missing_segment_is_damage_and_so_is_one_that_is_there_twice() {
    let (world, _) = long();
    let mut live = 0;
    for slot in world.disk.keys().copied() {
        let mut disk = world.disk.clone();
        *file(&mut disk, slot) = zeros();
        live += usize::from(open(&disk, 9).is_err());
    }
    // Only the newest can be missing where there is no witness: nothing else vouches for it.
    assert_eq!(live + 1, world.journal.status().segments_live as usize);
    let mut disk = world.disk.clone();
    let newest = disk.values().max_by_key(|bytes| segment_number(bytes));
    let copy = newest.expect("there are segments").clone();
    disk.insert(77, copy);
    assert!(damaged(&disk).2.contains("twice"));
}

#[test]
fn an_unreadable_first_unit_of_the_newest_segment_is_damage_once_another_follows() {
    let mut world = World::new();
    world.vote(0, Some(1));
    world.turn();
    let mut torn = world.disk.clone();
    file(&mut torn, 0)[70] ^= 1;
    let (_, found) = open(&torn, 9).expect("the only unit may be torn");
    assert_eq!(found, fresh());
    world.vote(0, Some(1));
    world.turn();
    file(&mut world.disk, 0)[70] ^= 1;
    damaged(&world.disk);
}

#[test]
fn a_segment_of_another_journal_is_damage() {
    let (world, _) = long();
    let slices: Vec<(u32, Vec<u8>)> = vec![(0, zeros()), (1, zeros())];
    let views: Vec<(u32, &[u8])> = slices.iter().map(|(s, b)| (*s, &b[..])).collect();
    let mut other =
        Journal::recover(config(), 1234, &views, None, &mut |_| {}).expect("it is fresh");
    let vote = crate::journal::Record::Vote {
        group: crate::ids::GroupId(0),
        term: crate::ids::Term(1),
        vote: None,
    };
    other.append(vote);
    let write = other.seal().expect("a record is pending");
    let mut foreign = zeros();
    foreign[..write.length].copy_from_slice(other.in_flight());
    let mut disk = world.disk.clone();
    disk.insert(50, foreign);
    assert!(damaged(&disk).2.contains("another journal"));
}

#[test]
fn a_newer_format_is_named_and_a_flipped_version_is_not_taken_for_one() {
    let (world, writes) = long();
    let second_last = writes[writes.len() - 2];
    let mut disk = world.disk.clone();
    file(&mut disk, second_last.slot)[second_last.offset as usize + 8] ^= 2;
    damaged(&disk);
    // With a checksum that fits, it is one.
    let last = writes[writes.len() - 1];
    for write in [second_last, last] {
        let mut disk = world.disk.clone();
        let at = write.offset as usize;
        let unit = &mut file(&mut disk, write.slot)[at..at + write.length];
        unit[8..12].copy_from_slice(&(VERSION + 1).to_le_bytes());
        let sum = crc32c::crc32c(&unit[4..]);
        unit[..4].copy_from_slice(&sum.to_le_bytes());
        let newer = JournalError::NewerFormat { got: VERSION + 1, known: VERSION };
        assert_eq!(open(&disk, 9).err(), Some(newer));
    }
}

#[test]
fn a_torn_unit_never_comes_back_whatever_is_written_after_it() {
    // Half of a unit is there, then another of the same bytes but its header, half of it too.
    for kept in 1..64u64 {
        let mut world = World::new();
        world.entries(0, 1, 10);
        world.turn();
        world.entries(0, 1, 5 * PAGE_BYTES);
        world.seal();
        world.crash(kept);
        if world.now[0].last() == 2 {
            continue;
        }
        world.vote(1, Some(1));
        world.turn();
        world.entries(0, 1, 5 * PAGE_BYTES);
        world.seal();
        world.crash(!kept & !1);
        assert_eq!((world.now[1].term, world.now[0].last()), (1, 1));
        world.entries(0, 1, 10);
        world.turn();
        world.crash(0);
        assert_eq!(without_commit(world.now)[0].log.len(), 2);
    }
}

#[test]
fn a_slot_is_used_again_without_being_zeroed_and_nothing_of_it_returns() {
    let mut world = World::new();
    for turn in 0..600 {
        world.entries(0, 2, 800);
        world.commit(0, 2);
        world.turn();
        if turn % 7 == 0 {
            world.seal();
            world.crash(turn);
        }
    }
    assert!(world.disk.values().all(|bytes| bytes.len() as u64 == SEGMENT));
    let newest = world.disk.values().map(|bytes| segment_number(bytes)).max();
    assert!(newest > Some(30), "a few slots are used again and again");
}
