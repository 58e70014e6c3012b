//! Whole files that are gone, zeroed, or older than they were; and power that fails while a segment is opened.

use super::damage::{long, without_commit};
use super::world::{World, copies, fresh, open, open_with, zeros};
use crate::ids::Position;
use crate::journal::JournalError;
use crate::journal::unit;
use crate::journal::witness::{WITNESS_BYTES, WITNESSES, Witness};
use std::collections::BTreeMap;

type Disk = BTreeMap<u32, Vec<u8>>;
type Witnesses = [Option<Vec<u8>>; WITNESSES];

/// The use of a segment, and its number.
fn opened(bytes: &[u8]) -> Option<(u64, u64)> {
    unit::claim(bytes, 0).map(|claim| (claim.seed, claim.segment))
}

fn newest(disk: &Disk) -> u32 {
    let number = |slot: &u32| opened(&disk[slot]).map_or(0, |(_, number)| number);
    disk.keys().copied().max_by_key(number).expect("there are segments")
}

fn is_damage(disk: &Disk, witnesses: &Witnesses) -> bool {
    matches!(
        open_with(disk, copies(witnesses), 9),
        Err(JournalError::Damaged { .. } | JournalError::Lost { .. })
    )
}

#[test]
fn a_segment_that_is_gone_or_zeroed_is_damage_whichever_it_is() {
    let (world, _) = long();
    let mut damaged = [0; 2];
    for slot in world.disk.keys() {
        let (mut gone, mut zeroed) = (world.disk.clone(), world.disk.clone());
        gone.remove(slot);
        zeroed.insert(*slot, zeros());
        for (disk, damaged) in [gone, zeroed].iter().zip(&mut damaged) {
            if is_damage(disk, &world.witnesses) {
                *damaged += 1;
            } else {
                let (_, found) = open_with(disk, copies(&world.witnesses), 9).expect("it is whole");
                assert!(without_commit(found) == without_commit(world.now.clone()));
            }
        }
    }
    assert_eq!(damaged, [world.journal.status().segments_live; 2], "every one in use");
}

#[test]
fn a_segment_older_than_it_was_is_damage_unless_it_is_the_newest_since_it_was_opened() {
    let mut world = World::new();
    let mut before: Vec<Disk> = Vec::new();
    for turn in 0..60 {
        world.entries(turn % 3, 3, 2_000);
        (0..3).for_each(|group| world.commit(group, 3));
        world.turn();
        before.push(world.disk.clone());
    }
    let newest = newest(&world.disk);
    assert!(before.iter().any(|old| opened(&old[&newest]) != opened(&world.disk[&newest])));
    let mut noticed = 0;
    for old in &before {
        for (slot, bytes) in old.iter().filter(|(slot, bytes)| world.disk[*slot] != **bytes) {
            let mut disk = world.disk.clone();
            disk.insert(*slot, bytes.clone());
            let same_use = opened(bytes) == opened(&world.disk[slot]);
            match open_with(&disk, copies(&world.witnesses), 9) {
                Err(_) => noticed += 1,
                // Only what comes behind a unit vouches for it.
                Ok(_) if *slot == newest && same_use => {}
                Ok((_, found)) => {
                    let whole = without_commit(found) == without_commit(world.now.clone());
                    assert!(whole, "slot {slot} is not in use");
                }
            }
        }
    }
    assert!(noticed > 100, "{noticed} older copies were noticed");
}

#[test]
fn a_journal_is_fresh_once() {
    let mut world = World::new();
    let blank: Disk = world.disk.clone();
    let none = world.witnesses.clone();
    assert!(open_with(&blank, copies(&none), 9).is_ok(), "nothing was synced yet");
    world.vote(0, Some(1));
    world.turn();
    let lost = open_with(&blank, copies(&world.witnesses), 9).map(|_| ()).unwrap_err();
    let synced = world.journal.synced();
    assert_eq!(lost, JournalError::Lost { found: Position::ZERO, synced });
    // Where nothing says that it was ever written to, it is taken for fresh: as in a new directory.
    assert!(open(&blank, 9).is_ok());
}

#[test]
fn one_copy_of_the_witness_is_enough() {
    let (world, _) = long();
    let mut lacking = world.disk.clone();
    lacking.remove(&newest(&world.disk));
    let first = Witness { journal: world.journal.witness().journal, position: Position(1) };
    let torn = world.witnesses[0].clone().map(|mut bytes| {
        bytes[24] ^= 1;
        bytes
    });
    let older = Some(first.to_bytes().to_vec());
    for bad in [None, Some(vec![]), Some(vec![0; WITNESS_BYTES]), torn, older] {
        for at in 0..WITNESSES {
            let mut witnesses = world.witnesses.clone();
            witnesses[at].clone_from(&bad);
            let whole = open_with(&world.disk, copies(&witnesses), 9);
            assert!(whole.is_ok(), "copy {at} {bad:?}");
            assert!(is_damage(&lacking, &witnesses), "copy {at} {bad:?}");
        }
    }
}

#[test]
fn a_witness_of_which_no_copy_can_be_read_is_damage_and_none_is_an_older_directory() {
    let (world, _) = long();
    let zeroed = || Some(vec![0; WITNESS_BYTES]);
    for witnesses in [[zeroed(), zeroed()], [zeroed(), None], [None, Some(vec![])]] {
        let refused = open_with(&world.disk, copies(&witnesses), 9).map(|_| ());
        assert_eq!(refused, Err(JournalError::Unwitnessed));
    }
    assert!(open_with(&world.disk, [None, None], 9).is_ok());
}

#[test]
fn a_witness_of_another_journal_is_damage() {
    let (world, _) = long();
    let Witness { journal, position } = world.journal.witness();
    let other = Some(Witness { journal: journal ^ 1, position }.to_bytes().to_vec());
    assert!(is_damage(&world.disk, &[other.clone(), other]));
}

#[test]
fn a_witness_of_a_newer_version_is_named() {
    let (world, _) = long();
    let mut bytes = world.witnesses[0].clone().expect("it was kept");
    bytes[8] = 2;
    let sum = crc32c::crc32c(&bytes[4..]);
    bytes[..4].copy_from_slice(&sum.to_le_bytes());
    let refused = open_with(&world.disk, [Some(&bytes), None], 9).map(|_| ());
    assert_eq!(refused, Err(JournalError::NewerFormat { got: 2, known: 1 }));
}

#[test]
fn power_that_fails_anywhere_while_a_segment_is_opened_takes_nothing_and_refuses_nothing() {
    let mut world = World::new();
    let mut opened = 0;
    while opened < 4 {
        world.entries(0, 2, 9_000);
        world.commit(0, 2);
        world.prepare();
        world.reclaim();
        world.seal();
        if let Some(write) = world.write
            && let Some(witness) = write.witness
        {
            opened += 1;
            let synced = world.synced.clone();
            let there = |disk: &Disk, witnesses: &Witnesses, what: &str| {
                let (journal, found) =
                    open_with(disk, copies(witnesses), 9).unwrap_or_else(|e| panic!("{what}: {e}"));
                let whole = journal.synced() == write.position;
                let expected = if whole { &world.sealed } else { &synced };
                assert!(without_commit(found) == without_commit(expected.clone()), "{what}");
                whole
            };
            // The unit is on its way: any of its pages may be there.
            let (blank, before) = (world.disk.clone(), world.witnesses.clone());
            let pages = write.length / unit::PAGE_BYTES;
            for kept in 0..1u64 << pages.min(8) {
                let mut disk = blank.clone();
                world.put_on(&mut disk, write, |page| kept >> page & 1 == 1);
                there(&disk, &before, "a torn unit");
            }
            // It is synced, and one copy after the other is written.
            let mut disk = blank;
            world.put_on(&mut disk, write, |_| true);
            let mut witnesses = before;
            for copy in 0..WITNESSES {
                for torn in 0..=WITNESS_BYTES {
                    let mut torn_one = witnesses.clone();
                    let bytes = torn_one[copy].as_mut().expect("both are there from the start");
                    bytes[..torn].copy_from_slice(&witness.to_bytes()[..torn]);
                    assert!(there(&disk, &torn_one, "a torn witness"), "the unit is there");
                }
                witnesses[copy] = Some(witness.to_bytes().to_vec());
            }
        }
        world.sync();
    }
    assert!(world.now != fresh());
}
