use super::fake::backups::snapshot;
use super::fake::{Act, Fake, refuse};
use crate::backup::{Failure, take, verify};
use crate::{Code, Error};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use wire::backup::{Parser, Part};
use wire::message::{BackupBegin, BackupRead};

const PATIENCE: Duration = Duration::from_secs(10);

/// A file of this test's own, removed with what lies beside it when it is dropped.
struct Temp(PathBuf);

impl Temp {
    fn new() -> Temp {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tercet-backup-test-{}-{count}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        Temp(dir.join("backup"))
    }

    fn beside(&self) -> Vec<String> {
        let rows = std::fs::read_dir(self.0.parent().unwrap()).unwrap();
        rows.map(|row| row.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.0.parent().unwrap());
    }
}

fn three_nodes() -> Arc<Fake> {
    let fake = Fake::new(3, 2);
    let mut memory = fake.memory.lock().unwrap();
    memory.nodes.meta_leader = 2;
    memory.leaders = vec![1, 3];
    drop(memory);
    fake
}

/// Every group's snapshot in a file.
fn groups(file: &Path) -> Vec<(u32, Vec<u8>)> {
    let (mut groups, mut parser) = (Vec::new(), Parser::default());
    let fed = parser.feed(&std::fs::read(file).unwrap(), &mut |part| match part {
        Part::Section(section) => groups.push((section.group, Vec::new())),
        Part::Bytes(bytes) => groups.last_mut().unwrap().1.extend_from_slice(bytes),
        Part::Head(_) | Part::SectionEnd => {}
    });
    fed.unwrap();
    parser.finish().unwrap();
    groups
}

fn assert_whole(temp: &Temp) {
    let whole: Vec<_> = (0..3).map(|group| (group, snapshot(group))).collect();
    assert!(groups(&temp.0) == whole);
    assert_eq!(temp.beside(), ["backup"]);
}

#[test]
fn each_group_is_read_from_its_leader_into_one_file() {
    let (fake, temp) = (three_nodes(), Temp::new());
    let mut told = Vec::new();
    let taken = take(&fake.addresses()[..1], &temp.0, PATIENCE, &mut |p| told.push(p)).unwrap();
    assert_whole(&temp);
    assert_eq!(verify(&temp.0).unwrap(), taken);
    assert_eq!((taken.head.cluster, taken.head.shards), ([7; 16], 2));
    assert_eq!(taken.head.cache_bytes_max, 1 << 20);
    assert!(taken.head.taken_us > 1_600_000_000_000_000, "microseconds of Unix time");
    let pieces: Vec<_> = told.iter().map(|p| (p.group, p.bytes)).collect();
    assert_eq!(pieces[..4], [(0, 1000), (0, 2000), (0, 2500), (1, 1000)]);
    assert!(told.iter().all(|p| p.groups == 3 && p.bytes <= p.total));
    take(&fake.addresses(), &temp.0, PATIENCE, &mut |_| {}).unwrap();
    assert_whole(&temp);
}

#[test]
fn a_group_whose_reading_breaks_off_is_begun_again() {
    let acts = [Act::Close, Act::ApplyAndClose, refuse(Code::BackupGone), refuse(Code::Busy)];
    for act in acts {
        for nth in [1, 3, 5] {
            let (fake, temp) = (three_nodes(), Temp::new());
            let mut reads = 0;
            fake.rule(move |seen| {
                reads += u32::from(seen.kind == BackupRead::KIND);
                if seen.kind == BackupRead::KIND && reads == nth { act } else { Act::Serve }
            });
            take(&fake.addresses(), &temp.0, PATIENCE, &mut |_| {}).unwrap();
            assert_whole(&temp);
        }
    }
}

#[test]
fn a_leader_that_changes_while_it_is_read_is_no_end() {
    let (fake, temp) = (three_nodes(), Temp::new());
    let (heirs, mut reads) = (Arc::clone(&fake.memory), 0);
    fake.rule(move |seen| {
        reads += u32::from(seen.kind == BackupRead::KIND);
        if seen.kind == BackupRead::KIND && reads == 5 {
            heirs.lock().unwrap().leaders = vec![2, 2];
            return Act::Close;
        }
        Act::Serve
    });
    take(&fake.addresses(), &temp.0, PATIENCE, &mut |_| {}).unwrap();
    assert_whole(&temp);
}

#[test]
fn a_backup_that_fails_leaves_the_old_file_and_nothing_else() {
    let (fake, temp) = (three_nodes(), Temp::new());
    std::fs::write(&temp.0, "the last one").unwrap();
    fake.rule(|seen| match seen.kind {
        BackupRead::KIND => refuse(Code::BackupGone),
        _ => Act::Serve,
    });
    let patience = Duration::from_millis(600);
    let failed = take(&fake.addresses(), &temp.0, patience, &mut |_| {}).unwrap_err();
    assert!(matches!(failed, Failure::Cluster(Error::Deadline { .. })), "{failed}");
    assert_eq!(std::fs::read(&temp.0).unwrap(), b"the last one");
    assert_eq!(temp.beside(), ["backup"]);
    assert!(matches!(verify(&temp.0), Err(Failure::Damaged { .. })));
    assert!(matches!(verify(&temp.0.with_extension("not")), Err(Failure::File { .. })));
    let nowhere = temp.0.join("below/a/file");
    let failed = take(&fake.addresses(), &nowhere, patience, &mut |_| {}).unwrap_err();
    assert!(matches!(failed, Failure::File { .. }), "{failed}");
}

#[test]
fn a_cluster_that_is_too_old_for_backups_is_told_at_once() {
    let (fake, temp) = (three_nodes(), Temp::new());
    fake.rule(|seen| match seen.kind {
        BackupBegin::KIND => refuse(Code::UnknownKind),
        _ => Act::Serve,
    });
    let failed = take(&fake.addresses(), &temp.0, PATIENCE, &mut |_| {}).unwrap_err();
    let Failure::Cluster(error) = failed else { panic!("{failed}") };
    assert_eq!(error.code(), Some(Code::UnknownKind));
}

#[test]
fn two_backups_to_one_file_at_once_are_never_mixed() {
    let (fake, temp) = (three_nodes(), Temp::new());
    // The first one stands still in the middle while the second one is taken.
    let mut left = 1;
    fake.rule(move |seen| {
        if seen.kind == BackupRead::KIND && left > 0 {
            left -= 1;
            return Act::Late(Duration::from_millis(400));
        }
        Act::Serve
    });
    let addresses = fake.addresses();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| take(&addresses, &temp.0, PATIENCE, &mut |_| ()));
        while fake.seen(BackupRead::KIND).is_empty() {
            std::thread::sleep(Duration::from_millis(2));
        }
        take(&addresses, &temp.0, PATIENCE, &mut |_| ()).unwrap();
        let second = std::fs::read(&temp.0).unwrap();
        first.join().unwrap().unwrap();
        assert_eq!(temp.beside(), ["backup"], "nothing is left beside it");
        verify(&temp.0).unwrap();
        drop(second);
    });
    assert_eq!(groups(&temp.0).len(), 3);
}

#[test]
fn what_another_backup_left_behind_is_not_written_to() {
    let (fake, temp) = (three_nodes(), Temp::new());
    let (mut left, mut beside) = (temp.0.clone().into_os_string(), temp.0.clone());
    left.push(".tmp");
    beside.set_file_name("of somebody else");
    std::fs::write(&beside, "kept").unwrap();
    std::os::unix::fs::symlink(&beside, &left).unwrap();
    take(&fake.addresses(), &temp.0, PATIENCE, &mut |_| ()).unwrap();
    assert_eq!(std::fs::read(&beside).unwrap(), b"kept");
}
