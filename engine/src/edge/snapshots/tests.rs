use super::*;
use crate::edge::testing::TempDir;
use crate::ids::Term;
use glommio::{LocalExecutorBuilder, Placement};

const GROUP: GroupId = GroupId(7);

/// Runs on an executor as the control plane's.
fn run<T: Send + 'static>(work: impl Future<Output = T>) -> T {
    let executor = LocalExecutorBuilder::new(Placement::Unbound).io_memory(1 << 20).make();
    executor.unwrap().run(work)
}

fn state(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7 + at / 251) as u8).collect()
}

/// Saves a state in parts of this size.
fn save(dir: &Path, index: u64, state: &[u8], part: usize) {
    run({
        let (dir, state) = (dir.to_owned(), state.to_vec());
        async move {
            let mut file = Writing::begin(&dir, GROUP, Index(index), Term(3)).await.unwrap();
            for part in state.chunks(part) {
                file.add(part).await.unwrap();
            }
            file.finish().await.unwrap();
        }
    });
}

/// All of a snapshot's state.
fn loaded(dir: &Path, index: Index) -> Result<Option<Vec<u8>>, LoadError> {
    let mut bytes = Vec::new();
    let found = load(dir, GROUP, index, &mut |piece| {
        assert!(!piece.is_empty() && piece.len() <= PIECE_BYTES, "no more than a piece at a time");
        bytes.extend_from_slice(piece);
    })?;
    Ok(found.then_some(bytes))
}

/// A directory on a disk, so that direct I/O is tried too.
fn engine_dir() -> TempDir {
    let temp = TempDir::on_disk();
    prepare(temp.path()).unwrap();
    temp
}

#[test]
fn a_snapshot_reads_back_as_it_was_saved_whatever_its_length_and_its_parts() {
    let temp = engine_dir();
    let lengths = [0, 1, 4032, 4033, 4096, PIECE_BYTES - 64, PIECE_BYTES, 3 * PIECE_BYTES + 5];
    for (index, length) in (1..).zip(lengths) {
        for part in [1000, PIECE_BYTES - 1, usize::MAX] {
            let saved = state(length);
            save(temp.path(), index, &saved, part);
            let loaded = loaded(temp.path(), Index(index)).unwrap();
            assert!(loaded == Some(saved), "a state of {length} bytes");
        }
    }
    assert!(loaded(temp.path(), Index(99)).unwrap().is_none());
}

#[test]
fn a_snapshot_is_saved_where_there_is_no_direct_io() {
    let temp = TempDir::new();
    prepare(temp.path()).unwrap();
    let saved = state(PIECE_BYTES + 9);
    let new = path(temp.path(), GROUP, Index(1)).with_extension("snap.new");
    run({
        let (dir, saved) = (temp.path().to_owned(), saved.clone());
        async move {
            let mut file = Writing::begin(&dir, GROUP, Index(1), Term(3)).await.unwrap();
            file.file = File::Buffered(BufferedFile::create(&new).await.unwrap());
            file.add(&saved).await.unwrap();
            file.finish().await.unwrap();
        }
    });
    assert_eq!(loaded(temp.path(), Index(1)).unwrap(), Some(saved));
}

#[test]
fn a_snapshot_that_is_not_finished_has_a_temporary_name() {
    let temp = engine_dir();
    let dir = temp.path().to_owned();
    run(async move {
        let mut file = Writing::begin(&dir, GROUP, Index(1), Term(3)).await.unwrap();
        file.add(&state(3 * PIECE_BYTES)).await.unwrap();
    });
    assert!(loaded(temp.path(), Index(1)).unwrap().is_none());
    assert!(super::dir(temp.path()).join("g7-1.snap.new").exists());
}

#[test]
fn no_flipped_bit_and_no_cut_gets_through() {
    let temp = engine_dir();
    save(temp.path(), 5, &state(200), 200);
    let file = path(temp.path(), GROUP, Index(5));
    let good = fs::read(&file).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        fs::write(&file, &bad).unwrap();
        assert!(loaded(temp.path(), Index(5)).is_err(), "byte {at}");
        fs::write(&file, &good[..at]).unwrap();
        assert!(loaded(temp.path(), Index(5)).is_err(), "cut at {at}");
    }
    // Another snapshot under this one's name.
    fs::write(&file, &good).unwrap();
    fs::rename(&file, path(temp.path(), GROUP, Index(6))).unwrap();
    let e = loaded(temp.path(), Index(6)).unwrap_err().to_string();
    assert!(e.contains("something else"), "{e}");
}

#[test]
fn what_was_not_finished_and_what_no_journal_names_is_removed() {
    let temp = engine_dir();
    for index in [1, 2] {
        save(temp.path(), index, &state(10), 10);
    }
    let unfinished = dir(temp.path()).join("g7-3.snap.new");
    let strange = dir(temp.path()).join("notes.txt");
    fs::write(&unfinished, "half").unwrap();
    fs::write(&strange, "mine").unwrap();
    prepare(temp.path()).unwrap();
    keep_only(temp.path(), &BTreeSet::from([(GROUP, Index(2))])).unwrap();
    assert!(!unfinished.exists() && strange.exists());
    assert!(loaded(temp.path(), Index(1)).unwrap().is_none());
    assert!(loaded(temp.path(), Index(2)).unwrap().is_some());
    run(remove(temp.path(), GROUP, Index(2))).unwrap();
    run(remove(temp.path(), GROUP, Index(2))).unwrap();
    assert!(loaded(temp.path(), Index(2)).unwrap().is_none());
}

#[test]
fn nothing_is_handed_out_of_a_snapshot_whose_last_byte_is_damaged() {
    let temp = engine_dir();
    save(temp.path(), 5, &state(3 * PIECE_BYTES), PIECE_BYTES);
    let file = path(temp.path(), GROUP, Index(5));
    let mut bytes = fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&file, &bytes).unwrap();
    let loaded = load(temp.path(), GROUP, Index(5), &mut |_| panic!("it is damaged"));
    assert!(matches!(loaded, Err(LoadError::Damaged { .. })));
}
