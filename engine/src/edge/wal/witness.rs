//! The two copies of a journal's witness: what says, beside the segments, how far the journal goes
//! ([`crate::journal::witness`]).
//!
//! ```text
//!  <data dir>/engine-00.witness       one beside the engine's directory, which may be lost as a whole
//!             engine-00/wal/witness   one inside, which goes with it when it is set aside
//! ```
//!
//! A copy is made under another name and given its own when it is whole and synced; then it is written over in
//! place, and only while the other one is whole. So a crash leaves at least one.

use super::segments::engine_dir;
use crate::edge::manifest::sync_dir;
use crate::ids::Position;
use crate::journal::witness::{Copies, WITNESSES, Witness, read};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Both copies as they are on the disk.
#[derive(Debug)]
pub struct Found([Option<Vec<u8>>; WITNESSES]);

impl Found {
    /// What they say.
    pub fn copies(&self) -> Copies<'_> {
        self.0.each_ref().map(Option::as_deref)
    }

    /// Whether the engine may have no journal: nobody says that it had one.
    pub fn allow_new(&self) -> bool {
        let said = read(self.copies());
        said.is_ok_and(|it| it.is_none_or(|witness| witness.position == Position::ZERO))
    }
}

/// Where the copies of an engine are.
fn paths(data_dir: &Path, engine: u32) -> [PathBuf; WITNESSES] {
    let inside = engine_dir(data_dir, engine);
    [inside.with_extension("witness"), inside.join("wal").join("witness")]
}

/// Reads both copies. One that the disk can't read is as good as damaged.
///
/// # Errors
/// What the system says, unless it is that the disk can't read it.
pub fn load(data_dir: &Path, engine: u32) -> io::Result<Found> {
    let mut found = [None, None];
    for (path, copy) in paths(data_dir, engine).iter().zip(&mut found) {
        *copy = match fs::read(path) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) if error.raw_os_error() == Some(libc::EIO) => Some(Vec::new()),
            Err(error) => return Err(error),
        };
    }
    Ok(Found(found))
}

/// Makes both copies anew, one after the other, and opens them for being written over.
///
/// # Errors
/// When the disk is full or broken.
pub fn keep(data_dir: &Path, engine: u32, witness: Witness) -> io::Result<[File; WITNESSES]> {
    let [beside, inside] = paths(data_dir, engine);
    Ok([make(&beside, witness)?, make(&inside, witness)?])
}

fn make(path: &Path, witness: Witness) -> io::Result<File> {
    let new = path.with_extension("witness.new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&new)?;
    file.write_all(&witness.to_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    sync_dir(path.parent().expect("a witness lies in a directory"))?;
    Ok(file)
}

/// Removes the copy beside the engine's directory, which is about to be set aside with the other one.
///
/// # Errors
/// What the system says.
pub fn forget(data_dir: &Path, engine: u32) -> io::Result<()> {
    let [beside, _] = paths(data_dir, engine);
    match fs::remove_file(beside) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => sync_dir(data_dir),
    }
}
