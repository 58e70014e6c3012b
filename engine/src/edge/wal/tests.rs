use super::*;
use crate::edge::ring::{Completion, Park, SMALL_SIZES};
use std::time::Duration;

const SEGMENT: u64 = 256 << 10;

/// A directory that goes with its test.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        Dir::at(&std::env::temp_dir(), name)
    }

    fn at(above: &Path, name: &str) -> Dir {
        let path = above.join(format!("tercet-wal-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Dir(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Bytes that begin on a page.
fn pages(count: usize, fill: u8) -> MmapMut {
    let mut bytes = MmapMut::map_anon(count * PAGE_BYTES).unwrap();
    bytes.fill(fill);
    bytes
}

fn complete(ring: &mut Ring) -> Completion {
    let mut completions = Vec::new();
    for _ in 0..50 {
        ring.wait(Park::Block, 0, Duration::from_millis(100)).unwrap();
        ring.drain(&mut completions);
        if let Some(completion) = completions.pop() {
            return completion;
        }
    }
    panic!("the write never completed");
}

fn write_at(offset: u64, bytes: &[u8], position: u64) -> Write {
    Write { slot: 0, offset, length: bytes.len(), position: Position(position), witness: None }
}

fn append(wal: &mut Wal, ring: &mut Ring, write: &Write, bytes: &[u8]) -> Result<Position, Fatal> {
    // SAFETY: `bytes` outlives this call, and with it the completion.
    unsafe { wal.start(ring, write, bytes, 9) }?;
    assert!(wal.is_busy());
    let completion = complete(ring);
    assert_eq!(completion.token, 9);
    wal.on_completion(ring, completion.result).map(|durable| durable.expect("no witness follows"))
}

fn what_is_reported_is_in_the_file(writer: Writer, dir: &Dir) {
    segments::ensure(&dir.0, SEGMENT, writer).unwrap();
    let mut ring = Ring::new(SMALL_SIZES).unwrap();
    let mut wal = Wal::open(&dir.0, writer, SEGMENT).unwrap();
    let first = pages(1, 1);
    let second = pages(3, 2);
    let at = write_at(0, &first, 5);
    assert_eq!(append(&mut wal, &mut ring, &at, &first).unwrap(), Position(5));
    let at = write_at(PAGE_BYTES as u64, &second, 6);
    assert_eq!(append(&mut wal, &mut ring, &at, &second).unwrap(), Position(6));
    // Not aligned: goes through the staging buffer.
    let odd = &pages(2, 3)[100..100 + PAGE_BYTES];
    let at = write_at(SEGMENT - PAGE_BYTES as u64, odd, 7);
    assert_eq!(append(&mut wal, &mut ring, &at, odd).unwrap(), Position(7));
    assert!(!wal.is_busy());
    drop(wal);

    let map = segments::map(&segments::path(&dir.0, 0), SEGMENT, writer).unwrap();
    assert_eq!(map.len() as u64, SEGMENT);
    assert!(map[..PAGE_BYTES].iter().all(|b| *b == 1));
    assert!(map[PAGE_BYTES..4 * PAGE_BYTES].iter().all(|b| *b == 2));
    let last = map.len() - PAGE_BYTES;
    assert!(map[4 * PAGE_BYTES..last].iter().all(|b| *b == 0));
    assert!(map[last..].iter().all(|b| *b == 3));
}

#[test]
fn what_the_direct_writer_reports_is_in_the_file() {
    what_is_reported_is_in_the_file(Writer::Direct, &Dir::new("direct"));
}

#[test]
fn what_the_mapped_writer_reports_is_in_the_file() {
    what_is_reported_is_in_the_file(Writer::Mapped, &Dir::new("mapped"));
}

#[test]
fn a_write_with_a_witness_is_reported_once_both_copies_are_in_their_files() {
    for writer in [Writer::Mapped, Writer::Direct] {
        let dir = Dir::new(&format!("witness-{writer}"));
        let engine_dir = segments::engine_dir(&dir.0, 0);
        segments::ensure(&engine_dir, SEGMENT, writer).unwrap();
        let mut ring = Ring::new(SMALL_SIZES).unwrap();
        let mut wal = Wal::open(&engine_dir, writer, SEGMENT).unwrap();
        let said = |position| Witness { journal: 7, position: Position(position) };
        let first = said(0).to_bytes().to_vec();
        wal.attest(witness::keep(&dir.0, 0, said(0)).unwrap());
        let page = pages(1, 1);
        let write = Write { witness: Some(said(5)), ..write_at(0, &page, 5) };
        // SAFETY: `page` outlives the completions.
        unsafe { wal.start(&mut ring, &write, &page, 9) }.unwrap();
        let mut steps = Vec::new();
        loop {
            let found = witness::load(&dir.0, 0).unwrap();
            steps.push(found.copies().map(|copy| copy != Some(&first[..])));
            assert!(wal.is_busy());
            let completion = complete(&mut ring);
            assert_eq!(completion.token, 9);
            if let Some(position) = wal.on_completion(&mut ring, completion.result).unwrap() {
                assert_eq!(position, Position(5));
                break;
            }
        }
        assert_eq!(steps, [[false, false], [true, false], [true, true]], "{writer}");
        assert!(!wal.is_busy());
        let found = witness::load(&dir.0, 0).unwrap();
        assert_eq!(crate::journal::witness::read(found.copies()), Ok(Some(said(5))));
    }
}

#[test]
fn a_witness_that_can_not_be_written_is_as_final_as_a_unit() {
    let dir = Dir::new("witness-fails");
    let engine_dir = segments::engine_dir(&dir.0, 0);
    segments::ensure(&engine_dir, SEGMENT, Writer::Direct).unwrap();
    let mut ring = Ring::new(SMALL_SIZES).unwrap();
    let mut wal = Wal::open(&engine_dir, Writer::Direct, SEGMENT).unwrap();
    let witness = Witness { journal: 7, position: Position(5) };
    let [inside, _] = witness::keep(&dir.0, 0, witness).unwrap();
    // Opened for reading alone, so that no byte of it can be written.
    let unwritable = File::open(dir.0.join("engine-00.witness")).unwrap();
    wal.attest([unwritable, inside]);
    let page = pages(1, 1);
    let write = Write { witness: Some(witness), ..write_at(0, &page, 5) };
    // SAFETY: `page` outlives the completions.
    unsafe { wal.start(&mut ring, &write, &page, 9) }.unwrap();
    let completion = complete(&mut ring);
    let failed = wal.on_completion(&mut ring, completion.result);
    assert!(matches!(failed, Err(Fatal::JournalWrite(_))), "{failed:?}");
    let page = pages(1, 1);
    // SAFETY: nothing is put under way.
    let again = unsafe { wal.start(&mut ring, &write_at(4096, &page, 6), &page, 9) };
    assert!(again.is_err(), "it latches");
}

#[test]
fn a_memory_file_system_has_a_writer() {
    let shm = Path::new("/dev/shm");
    if !shm.is_dir() {
        return;
    }
    let dir = Dir::at(shm, "shm");
    let (writer, report) = trial::trial(&dir.0).unwrap();
    assert!(report.mapped.is_ok(), "{report}");
    // It has nothing to sync to, however fast it says that it did.
    assert_eq!(writer, Writer::Mapped, "{report}");
    what_is_reported_is_in_the_file(writer, &dir);
}

#[test]
fn a_trial_names_both_writers_and_leaves_nothing() {
    let dir = Dir::new("trial");
    let since = std::time::Instant::now();
    let (writer, report) = trial::trial(&dir.0).unwrap();
    assert!(since.elapsed().as_secs() < 10, "a trial is short: {:?}", since.elapsed());
    assert_eq!(report.writer, writer);
    let text = report.to_string();
    assert!(text.contains("mapped: ") && text.contains("direct: "), "{text}");
    assert_eq!(std::fs::read_dir(&dir.0).unwrap().count(), 0);
}

#[test]
fn what_the_disk_can_not_read_is_an_error_and_no_signal() {
    // Nothing is mapped at address 0: a read there fails as one of a bad sector does.
    let bad = File::open("/proc/self/mem").unwrap();
    let error = segments::read_through(&bad, SEGMENT).unwrap_err();
    assert!(matches!(error, segments::ReadError::Lost { offset: 0 }), "{error:?}");
    let dir = Dir::new("readable");
    let path = segments::path(&dir.0, 0);
    segments::ensure(&dir.0, SEGMENT, Writer::Mapped).unwrap();
    segments::read_through(&File::open(&path).unwrap(), SEGMENT).unwrap();
    let short = segments::read_through(&File::open(&path).unwrap(), SEGMENT + 1).unwrap_err();
    assert!(
        matches!(short, segments::ReadError::Io(_)),
        "what is not there is not lost: {short:?}"
    );
}

#[test]
fn a_fresh_directory_gets_two_segments_of_zeros() {
    let dir = Dir::new("fresh");
    segments::ensure(&dir.0, SEGMENT, Writer::Direct).unwrap();
    segments::ensure(&dir.0, SEGMENT, Writer::Direct).unwrap();
    let there = segments::list(&dir.0).unwrap();
    assert_eq!(there.iter().map(|(slot, _)| *slot).collect::<Vec<_>>(), [0, 1]);
    for (_, path) in there {
        let bytes = std::fs::read(path).unwrap();
        assert_eq!(bytes.len() as u64, SEGMENT);
        assert!(bytes.iter().all(|b| *b == 0));
    }
}

#[test]
fn a_segment_made_anew_is_zeros_and_can_be_written() {
    for writer in [Writer::Direct, Writer::Mapped] {
        let dir = Dir::new(&format!("anew-{writer}"));
        segments::ensure(&dir.0, SEGMENT, writer).unwrap();
        let mut ring = Ring::new(SMALL_SIZES).unwrap();
        let mut wal = Wal::open(&dir.0, writer, SEGMENT).unwrap();
        let bytes = pages(2, 7);
        append(&mut wal, &mut ring, &write_at(0, &bytes, 1), &bytes).unwrap();
        let path = segments::path(&dir.0, 0);
        segments::prepare(&path, SEGMENT, writer, segments::Pace::AtOnce).unwrap();
        assert!(std::fs::read(&path).unwrap().iter().all(|b| *b == 0));
        wal.reopen(0).unwrap();
        append(&mut wal, &mut ring, &write_at(8192, &bytes, 2), &bytes).unwrap();
        drop(wal);
        let map = segments::map(&path, SEGMENT, writer).unwrap();
        assert!(map[..8192].iter().all(|b| *b == 0));
        assert!(map[8192..16_384].iter().all(|b| *b == 7));
    }
}

#[test]
fn a_segment_that_was_being_made_is_no_segment() {
    let dir = Dir::new("torn");
    segments::ensure(&dir.0, SEGMENT, Writer::Direct).unwrap();
    let path = segments::path(&dir.0, 0);
    std::fs::rename(&path, path.with_extension("tmp")).unwrap();
    assert_eq!(segments::list(&dir.0).unwrap().len(), 1);
    segments::ensure(&dir.0, SEGMENT, Writer::Direct).unwrap();
    assert_eq!(segments::list(&dir.0).unwrap().len(), 2);
}

#[test]
fn a_segment_of_another_size_is_refused() {
    let dir = Dir::new("size");
    segments::ensure(&dir.0, SEGMENT, Writer::Direct).unwrap();
    let error = Wal::open(&dir.0, Writer::Direct, 2 * SEGMENT).err().unwrap().to_string();
    assert!(error.contains("0000.seg has 262144 bytes"), "{error}");
}

#[test]
fn a_failed_write_latches() {
    for (result, full) in [(-libc::ENOSPC, true), (-libc::EIO, false), (512, false)] {
        let dir = Dir::new(&format!("latch{result}"));
        segments::ensure(&dir.0, SEGMENT, Writer::Direct).unwrap();
        let mut ring = Ring::new(SMALL_SIZES).unwrap();
        let mut wal = Wal::open(&dir.0, Writer::Direct, SEGMENT).unwrap();
        let bytes = pages(1, 1);
        let write = write_at(0, &bytes, 1);
        // SAFETY: `bytes` lives until the completion, which `complete` takes.
        unsafe { wal.start(&mut ring, &write, &bytes, 9) }.unwrap();
        complete(&mut ring);
        let fatal = wal.on_completion(&mut ring, result).unwrap_err();
        assert_eq!(matches!(fatal, Fatal::DiskFull(_)), full, "{fatal}");
        // SAFETY: nothing is put under way.
        let again = unsafe { wal.start(&mut ring, &write, &bytes, 9) };
        assert_eq!(again.unwrap_err().to_string(), fatal.to_string());
    }
}

/// What a store into a mapped segment costs on the disk decides whether the mapped writer is any good.
#[test]
fn a_small_sync_of_the_mapped_writer_writes_little() {
    fn written() -> u64 {
        let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
        let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
        line.map_or(0, |bytes| bytes.parse().unwrap())
    }
    let dir = Dir::new("folios");
    let segment = 4 << 20;
    segments::ensure(&dir.0, segment, Writer::Mapped).unwrap();
    // As after a restart: recovery has read it.
    let map = segments::map(&segments::path(&dir.0, 0), segment, Writer::Mapped).unwrap();
    assert!(map.iter().all(|b| *b == 0));
    drop(map);
    let mut ring = Ring::new(SMALL_SIZES).unwrap();
    let mut wal = Wal::open(&dir.0, Writer::Mapped, segment).unwrap();
    let bytes = pages(1, 1);
    let before = written();
    for number in 0..100 {
        let write = write_at(number * PAGE_BYTES as u64, &bytes, number + 1);
        append(&mut wal, &mut ring, &write, &bytes).unwrap();
    }
    // Other tests of this process write at the same time: allow for a lot, but not for 1 MiB a sync.
    let each = (written() - before) / 100;
    assert!(each < 512 << 10, "{each} bytes were written for each sync of 4096");
}

#[test]
fn what_recovery_read_is_out_of_the_direct_writers_way() {
    let dir = Dir::new("cached");
    segments::ensure(&dir.0, SEGMENT, Writer::Direct).unwrap();
    let path = segments::path(&dir.0, 0);
    let cached = || {
        let file = File::open(&path).unwrap();
        // SAFETY: nothing is read through the map.
        let map = unsafe { memmap2::Mmap::map(&file).unwrap() };
        let mut pages = vec![0u8; map.len() / PAGE_BYTES];
        // SAFETY: the map is `map.len()` bytes from a page on, and `pages` has a byte for each page.
        let rc =
            unsafe { libc::mincore(map.as_ptr().cast_mut().cast(), map.len(), pages.as_mut_ptr()) };
        assert_eq!(rc, 0);
        pages.iter().filter(|page| **page & 1 != 0).count()
    };
    let map = segments::map(&path, SEGMENT, Writer::Direct).unwrap();
    assert!(map.iter().all(|b| *b == 0));
    drop(map);
    assert_eq!(cached(), 64);
    let _wal = Wal::open(&dir.0, Writer::Direct, SEGMENT).unwrap();
    assert_eq!(cached(), 0);
}
