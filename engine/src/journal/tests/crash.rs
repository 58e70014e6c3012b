//! Random operations with crashes among them. After a crash everything synced is there, and of what
//! was not, the unit in flight is there as a whole or not at all.

use super::world::{GROUPS, World, open};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    Entries { group: u32, count: u64, size: usize },
    Truncate { group: u32, count: u64 },
    Vote { group: u32, node: u32 },
    Renew { group: u32 },
    Commit { group: u32, part: u64 },
    Snapshot { group: u32 },
    Install { group: u32, beyond: u64 },
    Carry { group: u32, skip: u64, count: u64 },
    Reclaim,
    Mark,
    Seal,
    Sync,
    Prepare,
    Crash { kept: u64 },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let group = 0..GROUPS;
    let kept = prop_oneof![Just(0), Just(u64::MAX), Just(1), Just(!1), any::<u64>()];
    let op = prop_oneof![
        8 => (group.clone(), 1..20u64, prop_oneof![0..200usize, 2000..9000usize])
            .prop_map(|(group, count, size)| Op::Entries { group, count, size }),
        2 => (group.clone(), 0..12u64).prop_map(|(group, count)| Op::Truncate { group, count }),
        1 => (group.clone(), 0..4u32).prop_map(|(group, node)| Op::Vote { group, node }),
        1 => group.clone().prop_map(|group| Op::Renew { group }),
        5 => (group.clone(), 1..40u64).prop_map(|(group, part)| Op::Commit { group, part }),
        1 => group.clone().prop_map(|group| Op::Snapshot { group }),
        1 => (group.clone(), 1..50u64)
            .prop_map(|(group, beyond)| Op::Install { group, beyond }),
        2 => (group, 0..30u64, 1..9u64)
            .prop_map(|(group, skip, count)| Op::Carry { group, skip, count }),
        3 => Just(Op::Reclaim),
        1 => Just(Op::Mark),
        12 => Just(Op::Seal),
        12 => Just(Op::Sync),
        3 => Just(Op::Prepare),
        2 => kept.prop_map(|kept| Op::Crash { kept }),
    ];
    prop::collection::vec(op, 1..250)
}

fn run(world: &mut World, op: &Op) {
    match *op {
        Op::Entries { group, count, size } => {
            world.entries(group, count, size);
        }
        Op::Truncate { group, count } => world.truncate(group, count),
        Op::Vote { group, node } => world.vote(group, (node > 0).then_some(node)),
        Op::Renew { group } => world.renew(group),
        Op::Commit { group, part } => world.commit(group, part),
        Op::Snapshot { group } => world.snapshot(group, 0),
        Op::Install { group, beyond } => world.snapshot(group, beyond),
        Op::Carry { group, skip, count } => {
            let g = &world.now[group as usize];
            let first = g.snapshot.0 + 1 + skip;
            let last = (first + count - 1).min(g.last());
            // Carrying without need takes room: only an engine that has some does it.
            if first <= last && world.journal.has_room(g.entries(first, last).len()) {
                world.carry(group, first, last);
            }
        }
        Op::Reclaim => world.reclaim(),
        Op::Mark => world.journal.mark(),
        Op::Seal => world.seal(),
        Op::Sync => world.sync(),
        Op::Prepare => world.prepare(),
        Op::Crash { kept } => world.crash(kept),
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(256)
    })]

    #[test]
    fn after_any_crash_what_was_synced_is_there(ops in ops(), kept in any::<u64>()) {
        let mut world = World::new();
        for op in &ops {
            run(&mut world, op);
        }
        world.crash(kept);
        // And the journal goes on: after two turns everything is durable.
        world.vote(0, Some(1));
        world.turn();
        world.turn();
        world.crash(0);
        prop_assert_eq!(world.now[0].vote, Some(1));
    }

    #[test]
    fn an_engine_that_reclaims_always_gets_room_again(ops in ops()) {
        let mut world = World::new();
        for op in ops.iter().cycle().take(ops.len() * 4) {
            run(&mut world, op);
        }
        for _ in 0..40 {
            world.sync();
            world.turn();
        }
        let uncommitted: usize = world.now.iter()
            .flat_map(|g| g.log.iter().skip((g.commit - g.snapshot.0) as usize))
            .map(Vec::len)
            .sum();
        // What can't be covered by a snapshot may fill the journal; only a commit helps then.
        if uncommitted > 40_000 {
            for group in 0..GROUPS {
                world.commit(group, u64::MAX);
            }
            for _ in 0..40 {
                world.vote(0, None);
                world.turn();
            }
        }
        prop_assert!(world.journal.has_room(1000), "{:?}", world.journal.status());
    }

    #[test]
    fn one_flipped_bit_is_damage_or_harmless_or_the_last_unit(
        ops in ops(),
        at in any::<prop::sample::Index>(),
        bit in 0..8u32,
    ) {
        let mut world = World::new();
        for op in &ops {
            run(&mut world, op);
        }
        world.sync();
        let before = world.synced.clone();
        world.vote(0, Some(2));
        world.prepare();
        world.seal();
        let write = world.write.expect("there is a record to write and a segment for it");
        world.sync();
        let mut disk = world.disk.clone();
        let slots: Vec<u32> = disk.keys().copied().collect();
        let bytes = super::world::SEGMENT as usize;
        let at = at.index(slots.len() * bytes);
        let (slot, offset) = (slots[at / bytes], at % bytes);
        disk.get_mut(&slot).expect("the slot is there")[offset] ^= 1 << bit;
        let in_last = slot == write.slot
            && (write.offset as usize..write.offset as usize + write.length).contains(&offset);
        match open(&disk, 99) {
            Ok((_, found)) => {
                let expected = if in_last { &before } else { &world.synced };
                prop_assert!(found.iter().zip(expected).all(|(f, e)| f.log == e.log
                    && f.snapshot == e.snapshot
                    && (f.term, f.vote) == (e.term, e.vote)));
            }
            Err(error) => {
                let damaged = matches!(error, crate::journal::JournalError::Damaged { .. });
                prop_assert!(damaged && !in_last, "{error}");
            }
        }
    }
}
