//! One claim at a time, without chance.

use super::world::{GROUPS, SEGMENT, SEGMENTS_MAX, World, config, open, zeros};
use crate::ids::{GroupId, Index, NodeId, Position, Term};
use crate::journal::record::RecordKind;
use crate::journal::unit::PAGE_BYTES;
use crate::journal::{Found, Journal, JournalConfig, Record, Replay, SEGMENTS_MIN, inspect};
use std::collections::BTreeMap;

fn kinds(segment: &[u8]) -> Vec<Vec<RecordKind>> {
    let units = inspect(segment).map(|found| match found {
        Found::Unit(unit) => unit.records().map(|(header, _)| header.kind).collect(),
        Found::Bad { offset, error } => panic!("{error} at {offset}"),
    });
    units.collect()
}

#[test]
fn a_position_is_the_unit_that_must_be_synced() {
    let mut world = World::new();
    let vote = Record::Vote { group: GroupId(0), term: Term(1), vote: Some(NodeId(2)) };
    assert_eq!(world.journal.appended(), Position::ZERO);
    let position = world.journal.append(vote);
    assert_eq!(world.journal.appended(), position);
    let write = world.journal.seal().expect("a record is pending");
    assert_eq!(write.position, position);
    let later = Record::Vote { group: GroupId(0), term: Term(2), vote: None };
    let next = world.journal.append(later);
    assert!(next > position, "what is appended meanwhile is in the next unit");
    assert_eq!(world.journal.seal(), None, "one unit is in flight at a time");
    world.journal.on_synced(position);
    assert_eq!(world.journal.synced(), position);
    assert_eq!(world.journal.seal().map(|w| w.position), Some(next));
}

#[test]
fn the_bytes_in_flight_stay_as_they_are_while_more_is_appended() {
    let mut world = World::new();
    world.entries(0, 5, 100);
    world.seal();
    let (at, bytes) = (world.journal.in_flight().as_ptr(), world.journal.in_flight().to_vec());
    for _ in 0..20 {
        world.entries(1, 5, 100);
    }
    assert_eq!(world.journal.in_flight().as_ptr(), at);
    assert_eq!(world.journal.in_flight(), bytes);
}

#[test]
fn the_steady_state_uses_the_same_two_buffers() {
    let mut world = World::new();
    let mut buffers = std::collections::BTreeSet::new();
    for turn in 0..300 {
        world.entries(turn % GROUPS, 10, 100);
        for group in 0..GROUPS {
            world.commit(group, 100);
        }
        world.prepare();
        world.reclaim();
        world.seal();
        if turn >= 100 {
            buffers.insert(world.journal.in_flight().as_ptr());
        }
        world.sync();
    }
    assert_eq!(buffers.len(), 2);
}

#[test]
fn a_segment_opens_with_a_checkpoint_and_units_begin_on_pages() {
    let mut world = World::new();
    world.vote(1, Some(3));
    world.entries(0, 2, 10);
    world.turn();
    world.truncate(0, 1);
    world.snapshot(0, 3);
    world.turn();
    world.journal.mark();
    world.turn();
    use RecordKind::*;
    let expected = vec![vec![Checkpoint, Vote, Entries], vec![Truncate, Snapshot], Vec::new()];
    assert_eq!(kinds(&world.disk[&0]), expected);
    let pages: Vec<usize> = inspect(&world.disk[&0])
        .map(|found| match found {
            Found::Unit(unit) => unit.offset,
            Found::Bad { offset, .. } => offset,
        })
        .collect();
    assert_eq!(pages, [0, PAGE_BYTES, 2 * PAGE_BYTES]);
}

#[test]
fn a_cut_suffix_stays_cut_and_a_lower_term_may_replace_it() {
    let mut world = World::new();
    for _ in 0..30 {
        world.entries(0, 6, 50);
        world.truncate(0, 4);
        world.entries(0, 2, 50);
        world.turn();
        world.crash(0);
    }
    assert_eq!(world.now[0].last(), 30 * 4);
}

#[test]
fn what_is_carried_outlives_its_segment_and_is_cut_with_the_rest() {
    let mut world = World::new();
    world.entries(0, 10, 100);
    world.commit(0, 2);
    while world.journal.status().segments_live < 3 {
        world.entries(1, 10, 1000);
        world.commit(1, 10);
        world.seal();
        world.sync();
        world.prepare();
    }
    world.carry(0, 1, 10);
    world.truncate(0, 5);
    world.snapshot(1, 0);
    for _ in 0..4 {
        world.turn();
        world.vote(2, None);
    }
    assert_eq!(world.journal.status().segments_live, 1, "the older ones are free");
    for slot in [0, 1] {
        let other = world.disk.get_mut(&slot).expect("the slot is there");
        if kinds(other).iter().flatten().all(|kind| *kind != RecordKind::Carry) {
            *other = zeros();
        }
    }
    world.crash(0);
    assert_eq!(world.now[0].last(), 5);
}

#[test]
fn a_vote_outlives_every_segment_that_it_was_written_to() {
    let mut world = World::new();
    world.vote(2, Some(3));
    for _ in 0..400 {
        world.entries(0, 4, 500);
        world.commit(0, 4);
        world.turn();
    }
    assert!(world.disk.len() < SEGMENTS_MAX as usize + 1);
    world.crash(0);
    assert_eq!((world.now[2].term, world.now[2].vote), (1, Some(3)));
}

#[test]
fn neither_an_idle_group_nor_votes_without_end_keep_the_journal_from_moving() {
    let mut world = World::new();
    world.entries(2, 3, 100); // never committed
    for _ in 0..2000 {
        world.vote(1, None);
        world.turn();
        assert_eq!(world.journal.synced(), world.journal.appended());
    }
    world.crash(0);
    assert_eq!((world.now[2].last(), world.now[1].term), (3, 2000));
}

#[test]
fn a_leaders_own_entries_get_into_a_unit_that_clients_entries_fill() {
    let mut world = World::new();
    while world.entries(0, 1, 900) {}
    assert!(world.journal.has_own_room(1_000), "beside what clients' entries fill");
    let full = (0..).map(|n| n * 1_000).find(|bytes| !world.journal.has_own_room(*bytes));
    assert!(full.expect("a unit ends") < SEGMENT as usize, "and not without end");
}

#[test]
fn when_entries_have_no_room_votes_and_carried_entries_still_do() {
    let mut world = World::new();
    let mut group = 0;
    for _ in 0..200 {
        world.entries(group, 10, 900);
        group = (group + 1) % GROUPS;
        world.turn();
    }
    assert!(!world.journal.has_room(9000), "nothing was committed: it is full");
    assert!(
        world.journal.has_own_room(100),
        "a leader's own entries have a part of what is kept back"
    );
    let full = world.synced.clone();
    for _ in 0..500 {
        world.vote(0, Some(1));
        world.turn();
        assert_eq!(world.journal.synced(), world.journal.appended(), "votes are durable");
    }
    for (now, full) in world.synced.iter().zip(&full) {
        assert_eq!(now.log, full.log);
    }
    for group in 0..GROUPS {
        world.commit(group, u64::MAX);
    }
    for _ in 0..10 {
        world.turn();
    }
    assert!(world.journal.has_room(9000), "what is committed makes room");
    world.crash(0);
}

#[test]
fn an_older_snapshot_is_passed_over() {
    let mut world = World::new();
    world.entries(0, 9, 10);
    world.commit(0, 5);
    world.snapshot(0, 0);
    let late = Record::Snapshot { group: GroupId(0), index: Index(3), term: Term(1) };
    world.journal.append(late);
    world.turn();
    world.crash(0);
    assert_eq!(world.now[0].snapshot.0, 5);
}

#[test]
fn a_replica_that_begins_anew_has_nothing_of_the_one_before() {
    let mut world = World::new();
    world.renew(1);
    world.entries(1, 9, 1000);
    world.vote(1, Some(2));
    world.commit(1, 4);
    world.snapshot(1, 0);
    world.turn();
    world.renew(1);
    world.renew(1);
    world.entries(1, 2, 1000);
    world.turn();
    // Over segments: their checkpoints say so too.
    for _ in 0..40 {
        world.entries(0, 5, 1000);
        world.commit(0, 5);
        world.turn();
    }
    world.crash(0);
    let found = &world.now[1];
    assert_eq!((found.life, found.last(), found.term, found.vote), (1, 2, 0, None));
    world.renew(1);
    world.turn();
    world.crash(0);
    assert_eq!((world.now[1].life, world.now[1].last()), (0, 0));
}

#[test]
#[should_panic(expected = "entries do not follow")]
fn entries_that_leave_a_gap_are_a_bug() {
    let mut world = World::new();
    world.entries(0, 2, 10);
    let bytes = world.now[0].entries(2, 2);
    world.journal.append(Record::Entries {
        group: GroupId(0),
        first: Index(4),
        last: Index(4),
        last_term: Term(1),
        bytes: &bytes,
    });
}

#[test]
fn segments_may_get_another_size_and_groups_be_added() {
    let mut world = World::new();
    for _ in 0..20 {
        world.entries(0, 5, 1000);
        world.commit(0, 5);
        world.turn();
    }
    let slices: Vec<(u32, &[u8])> = world.disk.iter().map(|(s, b)| (*s, &b[..])).collect();
    let mut groups = config().groups;
    groups.push(GroupId(9));
    let larger = JournalConfig { segment_bytes: 2 * SEGMENT, groups, ..config() };
    let mut entries = 0;
    let mut journal = Journal::recover(larger, 7, &slices, None, &mut |replay| {
        entries += usize::from(matches!(replay, Replay::Entry(_)));
    })
    .expect("nothing is damaged");
    assert_eq!(entries, world.now[0].log.len());
    journal.append(Record::Vote { group: GroupId(9), term: Term(1), vote: None });
    let mut wanted = Vec::new();
    journal.take_wanted_segments(&mut |slot| wanted.push(slot));
    assert!(!wanted.is_empty(), "slots of the old size are made anew");
}

#[test]
fn no_more_segments_than_allowed_are_asked_for() {
    let disk = BTreeMap::from([(0, zeros())]);
    let slices: Vec<(u32, &[u8])> = disk.iter().map(|(s, b)| (*s, &b[..])).collect();
    let few = JournalConfig { segments_max: SEGMENTS_MIN, ..config() };
    let mut journal = Journal::recover(few, 1, &slices, None, &mut |_| {}).expect("it is fresh");
    let mut wanted = Vec::new();
    for _ in 0..10 {
        journal.take_wanted_segments(&mut |slot| wanted.push(slot));
        wanted.drain(..).for_each(|slot| journal.on_segment_ready(slot));
        journal.append(Record::Vote { group: GroupId(0), term: Term(1), vote: None });
        let write = journal.seal().expect("votes always have room");
        journal.on_synced(write.position);
    }
    assert_eq!(journal.status().segments_live, 1);
    assert!(journal.status().segments_free < SEGMENTS_MIN);
}

#[test]
fn a_number_of_a_torn_unit_is_never_given_again() {
    // The world asserts that no number repeats; here nothing of any unit but its tail remains.
    let mut world = World::new();
    world.entries(0, 10, 1000);
    world.turn();
    for _ in 0..50 {
        world.entries(0, 10, 1000);
        world.seal();
        world.crash(0b10);
    }
    assert_eq!(world.numbers.len(), 51);
    assert!(open(&world.disk, 5).is_ok());
}
