//! A group's snapshot for a backup, asked for by hand.

use super::*;
use crate::limits::{BACKUP_IDLE_MS_MAX, SNAPSHOT_PIECE_BYTES_MAX};
use wire::message::{BackupBegin, BackupPiece, BackupRead, BackupReady};

const BACKUP: [u8; 16] = [9; 16];
const GROUP: GroupId = GroupId(1);

impl Node {
    fn begin(&mut self, backup: [u8; 16], group: GroupId) {
        let begin = BackupBegin { backup, group: group.0 };
        self.send(BackupBegin::KIND, 0, |b| begin.encode(b));
    }

    fn read(&mut self, offset: u64) -> Answer {
        let read = BackupRead { backup: BACKUP, group: GROUP.0, offset };
        self.send(BackupRead::KIND, 0, |b| read.encode(b));
        let mut answers = self.answers();
        assert_eq!(answers.len(), 1);
        answers.remove(0)
    }

    /// Does slices until none is left; gives what was answered meanwhile.
    fn work_on(&mut self) -> Vec<Answer> {
        let mut answers = self.answers();
        while self.engine.has_work() {
            self.engine.work(self.now, Slice::SHORT, &mut self.effects);
            answers.append(&mut self.answers());
        }
        answers
    }

    fn ready(&mut self) -> BackupReady {
        let answers = self.work_on();
        assert_eq!(answers.len(), 1, "one request, one answer");
        assert_eq!(answers[0].kind, BackupReady::KIND);
        BackupReady::decode(&answers[0].body).unwrap()
    }

    fn shard(&self) -> &crate::shard::Shard {
        &self.engine.shards[self.engine.place_of(GROUP).unwrap()]
    }

    /// What a snapshot of the group would be now.
    fn whole(&self) -> Vec<u8> {
        let (mut whole, shard) = (Vec::new(), self.shard());
        shard.raft().log().configuration_at(shard.applied()).encode(&mut whole);
        shard.state().snapshot(&mut whole);
        whole
    }
}

/// A node with more than a piece of lines.
fn with_lines() -> Node {
    let mut node = Node::new();
    (1..=600).for_each(|sequence| put_line(&mut node, sequence));
    let value = vec![7; SNAPSHOT_PIECE_BYTES_MAX];
    let put = put_of(SESSION, 601, b"large", &value);
    node.send(CachePut::KIND, 0, |b| put.encode(b));
    assert_eq!(node.codes(), [None]);
    node
}

#[test]
fn a_backup_reads_the_snapshot_piece_by_piece_while_others_write() {
    let mut node = with_lines();
    let (whole, index) = (node.whole(), node.shard().applied());
    node.begin(BACKUP, GROUP);
    let ready = node.ready();
    assert_eq!((ready.index, ready.total), (index.0, whole.len() as u64));
    assert_eq!(ready.cache_bytes_max, 64 << 20);
    assert!(node.notes.contains(&Note::BackupMade { group: GROUP, index, bytes: ready.total }));
    let (mut bytes, mut sequence) = (Vec::new(), 602);
    while (bytes.len() as u64) < ready.total {
        let answer = node.read(bytes.len() as u64);
        let piece = BackupPiece::decode(&answer.body).unwrap();
        assert_eq!(piece.offset, bytes.len() as u64);
        assert!(!piece.bytes.is_empty() && piece.bytes.len() <= SNAPSHOT_PIECE_BYTES_MAX);
        bytes.extend_from_slice(piece.bytes);
        put_line(&mut node, sequence);
        sequence += 1;
    }
    assert!(sorted(&bytes) == whole, "it stands for the moment at which it began");
    assert_eq!(node.read(0).code, Some(Code::BackupGone), "the last piece ended it");
    node.work_on();
    assert!(!node.engine.has_work(), "and what it took is freed");
}

#[test]
fn a_request_that_is_sent_again_takes_the_first_one_s_place() {
    let mut node = with_lines();
    node.begin(BACKUP, GROUP);
    node.begin(BACKUP, GROUP);
    let first = node.ready();
    put_line(&mut node, 602);
    node.begin(BACKUP, GROUP);
    assert_eq!(node.ready(), first, "the same snapshot, by whatever connection");
}

#[test]
fn another_backup_is_busy_until_nobody_reads_the_first() {
    let mut node = with_lines();
    node.begin(BACKUP, GROUP);
    let total = node.ready().total;
    for group in [GROUP, GroupId::META] {
        node.begin([8; 16], group);
        assert_eq!(node.codes(), [Some(Code::Busy)], "one of an engine at a time");
    }
    assert_eq!(node.read(total).code, Some(Code::BadMessage), "there is nothing behind it");
    for _ in 0..3 {
        node.pass(Duration::from_millis(BACKUP_IDLE_MS_MAX - 100));
        assert_eq!(node.read(0).kind, BackupPiece::KIND, "it is kept as long as it is read");
    }
    assert!(node.engine.wake_at() <= node.now + Duration::from_millis(BACKUP_IDLE_MS_MAX));
    node.pass(Duration::from_millis(BACKUP_IDLE_MS_MAX + 100));
    assert_eq!(node.read(0).code, Some(Code::BackupGone));
    node.work_on();
    node.begin([8; 16], GroupId::META);
    assert!(node.ready().total < total, "now the other's turn");
}

#[test]
fn a_piece_is_refused_to_who_does_not_read_and_is_there_once_it_has() {
    let mut node = with_lines();
    node.begin(BACKUP, GROUP);
    node.ready();
    for (full, free) in [
        (Input::Filled { conn: CONN }, Input::Drained { conn: CONN }),
        (Input::Crowded, Input::Eased),
    ] {
        node.engine.on(node.now, full, &mut node.effects);
        assert_eq!(node.read(0).code, Some(Code::Busy));
        node.engine.on(node.now, free, &mut node.effects);
        let answer = node.read(0);
        assert_eq!(BackupPiece::decode(&answer.body).unwrap().offset, 0);
    }
}

#[test]
fn a_backup_that_goes_on_to_another_group_leaves_nothing_of_the_one_before() {
    let mut node = with_lines();
    node.begin(BACKUP, GROUP);
    let total = node.ready().total;
    node.begin(BACKUP, GroupId::META);
    assert!(node.ready().total < total);
    assert_eq!(node.read(0).code, Some(Code::BackupGone));
    // One that still waits is answered.
    node.begin(BACKUP, GROUP);
    node.turn();
    node.begin(BACKUP, GroupId::META);
    let answers = node.work_on();
    assert_eq!(answers[0].code, Some(Code::Unavailable));
    assert_eq!(answers[1].kind, BackupReady::KIND);
}

#[test]
fn a_snapshot_for_the_disk_and_one_for_a_backup_are_made_one_after_the_other() {
    let mut node = with_lines();
    let at = node.engine.place_of(GROUP).unwrap();
    assert!(node.engine.shards.touch(at).make_snapshot());
    node.begin(BACKUP, GROUP);
    let index = node.shard().applied();
    assert_eq!(node.ready().index, index.0);
    let saved = Input::SnapshotSaved { group: GROUP, index };
    node.engine.on(node.now, saved, &mut node.effects);
    node.turn();
    assert_eq!(node.shard().snapshot_index(), index, "the one for the disk is whole, too");
}

#[test]
fn a_backup_of_what_is_not_there_is_refused() {
    let mut node = Node::new();
    node.begin(BACKUP, GroupId(2));
    assert_eq!(node.codes(), [Some(Code::WrongShard)]);
    node.send(BackupBegin::KIND, 0, |b| b.push(1));
    node.send(BackupRead::KIND, 0, |b| b.push(1));
    assert_eq!(node.codes(), [Some(Code::BadMessage); 2]);
    assert_eq!(node.read(0).code, Some(Code::BackupGone));
}

#[test]
fn a_replica_that_ends_answers_who_waits_for_its_snapshot() {
    let mut node = with_lines();
    node.begin(BACKUP, GROUP);
    node.engine.on_remove(GROUP, Incarnation([1; 16]), &mut node.effects);
    assert_eq!(node.codes(), [Some(Code::Unavailable)]);
    assert_eq!(node.read(0).code, Some(Code::BackupGone));
}
