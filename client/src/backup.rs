//! Backups: a cluster's state in one file, taken while it serves.
//!
//! Each group's leader makes a snapshot of all that it had committed when it was asked, and gives it away piece by piece.
//! So what was acknowledged before the backup began is in it, and each shard is as it was at one moment; different shards
//! at different ones. `tercetd restore` makes a new cluster of the file, which [`wire::backup`] draws.
//!
//! A group whose leader goes away, or whose connection breaks, is asked for again. The file has its name only once it is
//! whole and on the disk.

use crate::admin::{self, Open, Tried, attempt, bring};
use crate::error::{Error, text_of};
use crate::limits::{ADMIN_ANSWER_MAX, BACKOFF_MAX, BACKUP_TRIES_MAX};
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
pub use wire::backup::{BackupError, Head};
use wire::backup::{Parser, Part, Section, Writer};
use wire::message::Error as Refusal;
use wire::message::{BackupBegin, BackupPiece, BackupRead, BackupReady};

/// How much of a file is read at a time, in bytes.
const READ_BYTES: usize = 1 << 20;
/// How much is written before it is synced, in bytes.
const SYNC_BYTES: usize = 2 << 20;

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The cluster did not give it.
    #[error(transparent)]
    Cluster(#[from] Error),
    /// The file can't be written or read.
    #[error("{}: {why}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What the system says.
        why: io::Error,
    },
    /// The file is no backup that is whole.
    #[error("{}: {why}", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        why: BackupError,
    },
}

/// What is in a backup.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Summary {
    /// What it is of.
    pub head: Head,
    /// Size of the file, in bytes.
    pub bytes: u64,
}

/// How far a backup has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// The group that is being read.
    pub group: u32,
    /// How many groups there are.
    pub groups: u32,
    /// Bytes of its snapshot that are there.
    pub bytes: u64,
    /// Size of its snapshot, in bytes.
    pub total: u64,
}

/// Takes a backup of the cluster some of whose nodes are at `addresses`, into `file`, which is replaced if it is there.
/// A group that gives nothing for as long as `patience` ends it.
///
/// # Errors
/// [`Failure`]; then `file` is as it was.
pub fn take(
    addresses: &[String],
    file: &Path,
    patience: Duration,
    told: &mut dyn FnMut(Progress),
) -> Result<Summary, Failure> {
    let taken_us = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    let taken_us = u64::try_from(taken_us).unwrap_or(u64::MAX);
    let topology = admin::topology(addresses)?;
    let mut addresses = addresses.to_vec();
    addresses.extend(topology.nodes.iter().map(|node| node.address.clone()));
    addresses.sort();
    addresses.dedup();
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|e| Error::Machine { what: format!("randomness: {e}") })?;
    let (cluster, shards) = (topology.cluster, topology.shards);
    let head = Head { cluster, shards, cache_bytes_max: 0, taken_us };
    let out = Partial::create(file)?;
    let mut taking = Taking { addresses, id, patience, head, out, writer: None, told };
    for group in 0..=shards {
        taking.group(group)?;
    }
    let Taking { head, out, writer, .. } = taking;
    let bytes = out.finish(writer.expect("there is a group, hence a head"))?;
    Ok(Summary { head, bytes })
}

/// Reads a backup to its end.
///
/// # Errors
/// [`Failure::File`], and [`Failure::Damaged`] when it is not whole.
pub fn verify(file: &Path) -> Result<Summary, Failure> {
    let unread = |why| Failure::File { file: file.to_owned(), why };
    let damaged = |why| Failure::Damaged { file: file.to_owned(), why };
    let mut opened = File::open(file).map_err(unread)?;
    let (mut parser, mut head, mut bytes) = (Parser::default(), None, 0);
    let mut piece = vec![0; READ_BYTES];
    loop {
        let count = match opened.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(unread(e)),
        };
        bytes += count as u64;
        let fed = parser.feed(&piece[..count], &mut |part| {
            if let Part::Head(it) = part {
                head = Some(it);
            }
        });
        fed.map_err(damaged)?;
    }
    parser.finish().map_err(damaged)?;
    Ok(Summary { head: head.expect("a whole backup has a head"), bytes })
}

/// A backup that is being taken.
struct Taking<'a> {
    addresses: Vec<String>,
    id: [u8; 16],
    patience: Duration,
    head: Head,
    out: Partial,
    /// What comes next; `None` before the head.
    writer: Option<Writer>,
    told: &'a mut dyn FnMut(Progress),
}

/// Why a group was not read.
enum Trouble {
    /// It is to be begun again.
    Again(String),
    Final(Failure),
}

impl<E: Into<Failure>> From<E> for Trouble {
    fn from(error: E) -> Trouble {
        Trouble::Final(error.into())
    }
}

impl Taking<'_> {
    /// Reads a group's snapshot, from whichever node leads it.
    fn group(&mut self, group: u32) -> Result<(), Failure> {
        let subject = format!("back up group {group}");
        let begun = Instant::now();
        let (mut tries, mut moved_at) = (0, begun);
        loop {
            let last = match self.try_group(group, &subject, &mut moved_at) {
                Ok(()) => return Ok(()),
                Err(Trouble::Final(failure)) => return Err(failure),
                Err(Trouble::Again(why)) => why,
            };
            tries += 1;
            if tries >= BACKUP_TRIES_MAX || moved_at.elapsed() >= self.patience {
                let waited = begun.elapsed();
                return Err(Error::Deadline { subject, waited, last }.into());
            }
            std::thread::sleep(BACKOFF_MAX);
        }
    }

    fn try_group(
        &mut self,
        group: u32,
        subject: &str,
        moved_at: &mut Instant,
    ) -> Result<(), Trouble> {
        let begin = BackupBegin { backup: self.id, group };
        let kinds = (BackupBegin::KIND, BackupReady::KIND);
        let (mut node, body) = bring(&self.addresses, subject, self.patience, |address| {
            match attempt(address, subject, group, kinds, |out| begin.encode(out)) {
                // It changes nothing, so it is only late; asked again it goes on being made.
                Tried::Unanswered(why) => Tried::NotYet(why),
                tried => tried,
            }
        })?;
        let ready = BackupReady::decode(&body).map_err(|e| Trouble::Again(e.to_string()))?;
        let BackupReady { index, term, total, cache_bytes_max } = ready;
        *moved_at = Instant::now();
        let mut bytes = Vec::new();
        let writer = match self.writer {
            Some(writer) => writer,
            None => {
                self.head.cache_bytes_max = cache_bytes_max;
                Writer::begin(&self.head, &mut bytes)
            }
        };
        let at = writer.at() - bytes.len() as u64;
        self.out.cut(at)?;
        let mut writer = writer;
        writer.section(&Section { group, index, term, length: total }, &mut bytes);
        let mut offset = 0;
        while offset < total {
            let piece = self.piece(&mut node, group, offset)?;
            let piece = BackupPiece::decode(&piece).map_err(|e| Trouble::Again(e.to_string()))?;
            let count = piece.bytes.len() as u64;
            if piece.offset != offset || count == 0 || count > total - offset {
                return Err(Trouble::Again(String::from("a piece that does not fit came")));
            }
            offset += count;
            writer.bytes(piece.bytes, &mut bytes);
            self.out.put(&mut bytes)?;
            *moved_at = Instant::now();
            let groups = self.head.shards + 1;
            (self.told)(Progress { group, groups, bytes: offset, total });
        }
        writer.end_section(&mut bytes);
        self.out.put(&mut bytes)?;
        self.writer = Some(writer);
        Ok(())
    }

    fn piece(&self, node: &mut Open, group: u32, offset: u64) -> Result<Vec<u8>, Trouble> {
        let read = BackupRead { backup: self.id, group, offset };
        match node.ask(BackupRead::KIND, ADMIN_ANSWER_MAX, |out| read.encode(out)) {
            Ok((BackupPiece::KIND, body)) => Ok(body),
            Ok((Refusal::KIND, body)) => {
                let refusal = Refusal::decode(&body).map_err(|e| Trouble::Again(e.to_string()))?;
                Err(Trouble::Again(text_of(&refusal)))
            }
            Ok((kind, _)) => Err(Trouble::Again(format!("kind {:#x} is no piece", kind.0))),
            Err(why) => Err(Trouble::Again(why)),
        }
    }
}

/// A file that has another name until it is whole. Dropped before, it is removed.
struct Partial {
    last: PathBuf,
    new: PathBuf,
    /// `None` once it has its name.
    file: Option<File>,
    /// Bytes that were written and not synced.
    unsynced: usize,
}

impl Partial {
    fn create(last: &Path) -> Result<Partial, Failure> {
        // A name of its own: another backup to the same file, at once or one that was killed, has another one.
        let mut id = [0; 8];
        getrandom::fill(&mut id)
            .map_err(|e| Error::Machine { what: format!("randomness: {e}") })?;
        let mut name = OsString::from(last);
        name.push(format!(".{:016x}.tmp", u64::from_le_bytes(id)));
        let new = PathBuf::from(name);
        let mut options = OpenOptions::new();
        // What is in it is whatever the cluster was given to keep.
        options.write(true).create_new(true).mode(0o600);
        let file = options.open(&new).map_err(|why| Failure::File { file: new.clone(), why })?;
        Ok(Partial { last: last.to_owned(), new, file: Some(file), unsynced: 0 })
    }

    fn file(&mut self) -> &mut File {
        self.file.as_mut().expect("it is open until it is finished")
    }

    fn failed(&self, why: io::Error) -> Failure {
        Failure::File { file: self.new.clone(), why }
    }

    /// Goes back to where the file has so many bytes.
    fn cut(&mut self, bytes: u64) -> Result<(), Failure> {
        let file = self.file();
        let cut = file.set_len(bytes).and_then(|()| file.seek(SeekFrom::Start(bytes)));
        cut.map(|_| ()).map_err(|why| self.failed(why))
    }

    /// Writes the bytes, and empties them.
    fn put(&mut self, bytes: &mut Vec<u8>) -> Result<(), Failure> {
        self.file().write_all(bytes).map_err(|why| self.failed(why))?;
        self.unsynced += bytes.len();
        bytes.clear();
        // All at the end would hold a journal up that is on the same disk.
        if self.unsynced >= SYNC_BYTES {
            self.unsynced = 0;
            self.file().sync_data().map_err(|why| self.failed(why))?;
        }
        Ok(())
    }

    /// Ends the backup: it is on the disk under its name once this returns. Gives its size, in bytes.
    fn finish(mut self, writer: Writer) -> Result<u64, Failure> {
        let mut end = Vec::new();
        let bytes = writer.at();
        writer.finish(&mut end);
        let bytes = bytes + end.len() as u64;
        self.put(&mut end)?;
        self.file().sync_all().map_err(|why| self.failed(why))?;
        let above = self.last.parent().filter(|above| !above.as_os_str().is_empty());
        let above = File::open(above.unwrap_or(Path::new(".")));
        let named = std::fs::rename(&self.new, &self.last).and_then(|()| above?.sync_all());
        named.map_err(|why| self.failed(why))?;
        self.file = None;
        Ok(bytes)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if self.file.is_some() {
            // What is left says by its name that it is not whole.
            let _ = std::fs::remove_file(&self.new);
        }
    }
}
