//! Claims about mail from group to group.

use super::kit::*;
use crate::entry::kind;
use crate::ids::GroupId;
use crate::level::Level;
use crate::limits::{MAIL_BYTES_MAX, MAIL_MAX, MAIL_WAITING_BYTES_MAX};
use crate::machine::{Applied, Corrupt, Machine, Slice, SliceProgress, Times};
use wire::Code;
use wire::bytes::Put;

const HERE: GroupId = GroupId(1);
const THERE: GroupId = GroupId(2);

fn kit() -> Kit {
    let mut kit = Kit::new();
    kit.raise(Level::OUTBOX);
    kit
}

fn write(kit: &mut Kit, to: GroupId, mail: &[u8]) -> Applied {
    let mut payload = Vec::new();
    payload.put_u32(to.0);
    payload.put(mail);
    kit.apply(kind::MAIL_WRITE, &payload)
}

/// An entry that brings mail of `from`.
fn bring(kit: &mut Kit, from: GroupId, first: u64, mails: &[&[u8]]) {
    let mut payload = Vec::new();
    payload.put_u32(from.0);
    payload.put_u64(first);
    for mail in mails {
        payload.put_u32(mail.len() as u32);
        payload.put(mail);
    }
    assert_eq!(kit.apply(kind::MAIL, &payload), Applied::Nothing);
}

fn forget(kit: &mut Kit, to: GroupId, upto: u64) {
    let mut payload = Vec::new();
    payload.put_u32(to.0);
    payload.put_u64(upto);
    assert_eq!(kit.apply(kind::MAIL_TAKEN, &payload), Applied::Nothing);
}

fn waiting(kit: &Kit, to: GroupId) -> Vec<Vec<u8>> {
    kit.machine.mail_for(to).map(<[u8]>::to_vec).collect()
}

fn took(kit: &mut Kit) -> Vec<(u64, Vec<u8>)> {
    kit.machine.drain_took().map(|took| (took.number, took.mail.to_vec())).collect()
}

#[test]
fn mail_is_taken_once_and_in_order_however_it_comes() {
    let mut kit = kit();
    bring(&mut kit, HERE, 2, &[b"two"]);
    assert_eq!(took(&mut kit), [], "what stands in front of it did not come");
    bring(&mut kit, HERE, 1, &[b"one", b"two"]);
    bring(&mut kit, HERE, 1, &[b"one", b"two", b"three"]);
    bring(&mut kit, HERE, 2, &[b"two"]);
    let all = [(1, b"one".to_vec()), (2, b"two".to_vec()), (3, b"three".to_vec())];
    assert_eq!((took(&mut kit), kit.machine.mail_taken(HERE)), (all.to_vec(), 3));
    bring(&mut kit, THERE, 1, &[b"of another"]);
    assert_eq!(took(&mut kit), [(1, b"of another".to_vec())], "each group has its numbers");
}

#[test]
fn mail_waits_until_it_was_taken_and_numbers_go_on() {
    let mut kit = kit();
    for mail in [b"one", b"two", b"six"] {
        assert_eq!(write(&mut kit, THERE, mail), done(0));
    }
    forget(&mut kit, THERE, 2);
    forget(&mut kit, THERE, 1);
    assert_eq!(waiting(&kit, THERE), [b"six"]);
    forget(&mut kit, THERE, 3);
    assert!(!kit.machine.has_mail());
    assert_eq!(write(&mut kit, THERE, b"ten"), done(0));
    assert_eq!(kit.machine.mail_waiting().collect::<Vec<_>>(), [(THERE, 4)]);
}

#[test]
fn a_full_outbox_is_busy_until_mail_was_taken() {
    let mut kit = kit();
    kit.verify = Verify::Never;
    (0..MAIL_MAX).for_each(|_| assert_eq!(write(&mut kit, THERE, b"mail"), done(0)));
    assert_eq!(write(&mut kit, HERE, b"mail"), refused(Code::Busy));
    forget(&mut kit, THERE, MAIL_MAX as u64);
    let large = vec![0; MAIL_BYTES_MAX];
    for _ in 0..MAIL_WAITING_BYTES_MAX / MAIL_BYTES_MAX {
        assert_eq!(write(&mut kit, THERE, &large), done(0));
    }
    assert_eq!(write(&mut kit, THERE, b"mail"), refused(Code::Busy));
    kit.machine.verify();
}

#[test]
fn a_snapshot_has_the_mail_of_its_moment() {
    let mut kit = kit();
    bring(&mut kit, HERE, 1, &[b"one", b"two"]);
    (0..20u8).for_each(|n| _ = write(&mut kit, GroupId(u32::from(n) % 3), &[n]));
    forget(&mut kit, GroupId(1), 2);
    let (moment, mut bytes) = (kit.snapshot(), Vec::new());
    kit.machine.snapshot_begin(&mut bytes);
    let slice = Slice { rows: 2, bytes: usize::MAX };
    while kit.machine.snapshot_slice(slice, &mut bytes) == SliceProgress::More {
        write(&mut kit, THERE, b"later");
        forget(&mut kit, THERE, 3);
        bring(&mut kit, HERE, 3, &[b"later"]);
    }
    assert!(kit.sorted(&bytes) == moment);
    let restored = Machine::restore(CONFIG, &moment).expect("it is a snapshot");
    restored.verify();
    assert_eq!(restored.mail_taken(HERE), 2);
    assert_eq!(restored.mail_for(GroupId(1)).count(), 5);
}

#[test]
fn below_its_level_there_is_no_mail_and_snapshots_are_as_before() {
    let mut kit = Kit::new();
    kit.raise(Level(3));
    assert_eq!(write(&mut kit, THERE, b"mail"), refused(Code::UnknownKind));
    assert!(!kit.machine.has_mail());
    let before = kit.snapshot();
    assert_eq!(before[4], 4, "the version");
    let mut newer = Machine::restore(CONFIG, &before).expect("older versions are read");
    let level = Level::OUTBOX.encode();
    newer.apply(kit.now, kind::LEVEL, &level, &mut Vec::new());
    let mut after = Vec::new();
    newer.snapshot(&mut after);
    assert_eq!(after[4], 5, "the version");
    assert_eq!(after.len(), before.len() + 4, "a count of no mail is all that is new");
}

#[test]
fn mail_with_a_gap_is_no_snapshot() {
    let mut kit = kit();
    write(&mut kit, THERE, b"one");
    write(&mut kit, THERE, b"two");
    let mut bytes = kit.snapshot();
    let at = bytes.windows(3).position(|window| window == b"two").expect("it is there");
    // The second mail's number, in front of its length.
    bytes[at - 12] = 7;
    let end = bytes.len() - 4;
    let sum = crc32c::crc32c(&bytes[..end]).to_le_bytes();
    bytes[end..].copy_from_slice(&sum);
    assert_eq!(Machine::restore(CONFIG, &bytes).err(), Some(Corrupt::Malformed));
}

#[test]
fn another_cluster_begins_without_mail() {
    let mut kit = kit();
    write(&mut kit, THERE, b"mail");
    bring(&mut kit, HERE, 1, &[b"one"]);
    let times = Times { taken_us: 1, now_us: 2 };
    let reborn = Machine::reborn(CONFIG, CONFIG, times, &kit.snapshot());
    let reborn = reborn.expect("it is a snapshot");
    assert!(!reborn.has_mail());
    assert_eq!(reborn.mail_taken(HERE), 0);
}
