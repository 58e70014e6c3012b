//! A data directory from a backup: a new cluster, with this node alone.
//!
//! # How it works
//!
//! 1. [`Backup::open`] reads the whole file and believes it only then. Nothing is written before.
//! 2. [`DataDir::begin_restore`] takes an empty directory and says in it that a restore is under way.
//! 3. [`Backup::restore`] reads the file again, a group at a time: each snapshot becomes one of the new cluster
//!    ([`Rebirth`]) and is saved as any other; then each engine's journal is begun, which names the replicas and the
//!    snapshots, and closed by a mark, so that damage to it can't look like a journal that was never written.
//! 4. The manifest is written. **That is the birth**: before it the directory is refused, after it the node starts from it as
//!    from any other.
//!
//! # Invariants
//!
//! - A crash anywhere leaves a directory without a manifest, which no node starts from and the next restore clears, or a
//!   whole one.
//! - The new cluster's id is random: no client and no node takes it for the old one.
//!
//! # Cost
//!
//! A group's snapshot, its state, and what it becomes lie in memory at once.

use super::environment::{random_secret, random_seed};
use super::manifest::{DataDir, DirError, Manifest, new_cluster, sync_dir};
use super::snapshots;
use super::wal::{segments, witness};
use crate::engine::Founder;
use crate::ids::{ClusterId, GroupId, Incarnation, Index, Term};
use crate::journal::witness::Witness;
use crate::journal::{Journal, JournalConfig, JournalError, Record, SEGMENTS_MIN, Write};
use crate::machine::meta::{Node, Standing};
use crate::machine::{Corrupt, Times};
use crate::reborn::Rebirth;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use tracing::{info, warn};
use wire::backup::{BackupError, Head, Parser, Part, Section};
use wire::topology::engine_of_group;

/// How much of a backup is read at a time, in bytes.
const READ_BYTES: usize = 1 << 20;

/// Why a backup does not become a data directory.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The file can't be read.
    #[error("E124 the backup {file:?} can't be read: {why}")]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system says.
        why: io::Error,
    },
    /// It is not what was written.
    #[error("E125 the backup {file:?} is refused: {what}. Use another copy, or another backup")]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Another version wrote it.
    #[error(
        "E126 the backup {file:?} is of another version: {what}. Restore it with the version that wrote it"
    )]
    OtherVersion {
        /// The file.
        file: PathBuf,
        /// What is not known here.
        what: String,
    },
    /// The data directory is refused.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// The disk.
    #[error("E127 restoring into {path:?} failed: {why}. Run it again once that is mended")]
    Write {
        /// The data directory.
        path: PathBuf,
        /// What the system says.
        why: io::Error,
    },
}

/// A backup that was read to its end and found whole.
#[derive(Debug)]
pub struct Backup {
    file: PathBuf,
    head: Head,
    bytes: u64,
}

/// A group that was restored, and where its log goes on.
struct Restored {
    group: GroupId,
    index: Index,
    term: Term,
}

impl Backup {
    /// Reads a backup, all of it.
    ///
    /// # Errors
    /// [`RestoreError`] when it can't be read, is damaged or not whole, or of another version.
    pub fn open(file: &Path) -> Result<Backup, RestoreError> {
        let (mut head, mut bytes) = (None, 0);
        read(file, &mut |part| {
            match part {
                Part::Head(it) => head = Some(it),
                Part::Bytes(piece) => bytes += piece.len() as u64,
                Part::Section(_) | Part::SectionEnd => {}
            }
            Ok(())
        })?;
        let head = head.expect("a whole backup has a head");
        Ok(Backup { file: file.to_owned(), head, bytes })
    }

    /// What it is of.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Makes a data directory of it, which [`DataDir::begin_restore`] has prepared: for the node that `blank` names,
    /// which others reach at `address`. Gives the manifest that was written.
    ///
    /// # Errors
    /// [`RestoreError`]; then no node starts from the directory.
    pub fn restore(
        &self,
        dir: &DataDir,
        blank: Manifest,
        address: String,
    ) -> Result<Manifest, RestoreError> {
        let now_us = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let now_us = u64::try_from(now_us).unwrap_or(u64::MAX);
        if now_us < self.head.taken_us {
            warn!(
                "the backup is from the future by this machine's clock: fences go on from its time"
            );
        }
        let (node, incarnation) = (blank.node, blank.incarnation);
        let rebirth = Rebirth {
            from: ClusterId(self.head.cluster),
            to: new_cluster(),
            shards: self.head.shards,
            cache_bytes_max: self.head.cache_bytes_max,
            times: Times { taken_us: self.head.taken_us, now_us },
            node: Node {
                node,
                incarnation,
                engines: blank.engines,
                standing: Standing::In,
                address: address.clone(),
            },
            secret: random_secret(),
        };
        let engine_dirs: Vec<PathBuf> =
            (0..blank.engines).map(|engine| segments::engine_dir(dir.path(), engine)).collect();
        let failed = |why| RestoreError::Write { path: dir.path().to_owned(), why };
        engine_dirs.iter().try_for_each(|dir| snapshots::prepare(dir)).map_err(failed)?;
        let (groups, nodes) = self.restore_groups(&rebirth, &engine_dirs, &failed)?;
        for (engine, engine_dir) in (0..).zip(&engine_dirs) {
            let here =
                |restored: &&Restored| engine_of_group(restored.group.0, blank.engines) == engine;
            let here: Vec<&Restored> = groups.iter().filter(here).collect();
            let begun = begin_journal(engine_dir, &blank, incarnation, &here).map_err(failed)?;
            witness::keep(dir.path(), engine, begun).map_err(failed)?;
        }
        sync_dir(dir.path()).map_err(failed)?;
        let manifest = Manifest {
            cluster: rebirth.to,
            shards: rebirth.shards,
            cache_bytes_max: rebirth.cache_bytes_max,
            founders: vec![Founder { node, incarnation, address }],
            nodes,
            ..blank
        };
        dir.replace(&manifest).map_err(failed)?;
        dir.end_restore()?;
        info!(
            from = %rebirth.from,
            cluster = %rebirth.to,
            groups = groups.len(),
            bytes = self.bytes,
            age_s = now_us.saturating_sub(self.head.taken_us) / 1_000_000,
            dir = %dir.path().display(),
            "restored"
        );
        Ok(manifest)
    }

    /// Saves every group's snapshot. Gives the groups, and the new cluster's nodes.
    fn restore_groups(
        &self,
        rebirth: &Rebirth,
        engine_dirs: &[PathBuf],
        failed: &dyn Fn(io::Error) -> RestoreError,
    ) -> Result<(Vec<Restored>, Vec<u8>), RestoreError> {
        let (mut groups, mut nodes) = (Vec::new(), Vec::new());
        let (mut section, mut bytes) = (None, Vec::new());
        let engines = u32::try_from(engine_dirs.len()).expect("engines are limited");
        read(&self.file, &mut |part| {
            match part {
                Part::Head(head) if head != self.head => {
                    return Err(self.damaged("it was changed while it was read"));
                }
                Part::Head(_) => {}
                Part::Section(it) => section = Some(it),
                Part::Bytes(piece) => bytes.extend_from_slice(piece),
                Part::SectionEnd => {
                    let Section { group, index, term, .. } =
                        section.take().expect("a section begins before it ends");
                    let (group, index, term) = (GroupId(group), Index(index), Term(term));
                    let state = rebirth.snapshot(group, &std::mem::take(&mut bytes));
                    let state = state.map_err(|why| self.unknown(group, why))?;
                    if index == Index::ZERO {
                        return Err(self.damaged("a group's snapshot stands for nothing"));
                    }
                    if group == GroupId::META {
                        nodes = Rebirth::state(&state).unwrap_or_default().to_vec();
                    }
                    let at = engine_of_group(group.0, engines) as usize;
                    snapshots::save(&engine_dirs[at], group, index, term, state).map_err(failed)?;
                    groups.push(Restored { group, index, term });
                }
            }
            Ok(())
        })?;
        Ok((groups, nodes))
    }

    fn damaged(&self, what: &str) -> RestoreError {
        RestoreError::Damaged { file: self.file.clone(), what: what.to_owned() }
    }

    /// A group's snapshot is whole, and no state of this version.
    fn unknown(&self, group: GroupId, why: Corrupt) -> RestoreError {
        let (file, what) = (self.file.clone(), format!("group {group}: {why}"));
        match why {
            Corrupt::Version { .. } => RestoreError::OtherVersion { file, what },
            _ => RestoreError::Damaged { file, what },
        }
    }
}

/// Hands out a file's parts, and says at the end that it was whole.
pub(super) fn read(
    path: &Path,
    each: &mut dyn FnMut(Part<'_>) -> Result<(), RestoreError>,
) -> Result<(), RestoreError> {
    let unreadable = |why| RestoreError::Unreadable { file: path.to_owned(), why };
    let refused = |why: BackupError| {
        let (file, what) = (path.to_owned(), why.to_string());
        match why {
            BackupError::NewerFormat { .. } => RestoreError::OtherVersion { file, what },
            _ => RestoreError::Damaged { file, what },
        }
    };
    let mut file = File::open(path).map_err(unreadable)?;
    let (mut parser, mut piece) = (Parser::default(), vec![0; READ_BYTES]);
    loop {
        let count = match file.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(unreadable(e)),
        };
        let mut done = Ok(());
        let fed = parser.feed(&piece[..count], &mut |part| {
            if done.is_ok() {
                done = each(part);
            }
        });
        done?;
        fed.map_err(refused)?;
    }
    parser.finish().map_err(refused)
}

/// Makes an engine's segments, with a journal that says that these groups have replicas here, whose snapshots are there.
/// Gives the journal's witness.
fn begin_journal(
    engine_dir: &Path,
    manifest: &Manifest,
    incarnation: Incarnation,
    groups: &[&Restored],
) -> io::Result<Witness> {
    let (segment_bytes, writer) = (manifest.segment_bytes, manifest.writer);
    segments::ensure(engine_dir, segment_bytes, writer)?;
    let mut maps = Vec::new();
    for (slot, path) in segments::list(engine_dir)? {
        let map = segments::map(&path, segment_bytes, writer)?;
        maps.push((slot, map));
    }
    let blank: Vec<(u32, &[u8])> = maps.iter().map(|(slot, map)| (*slot, &map[..])).collect();
    let of_engine = groups.iter().map(|restored| restored.group).collect();
    let config = JournalConfig { segment_bytes, segments_max: SEGMENTS_MIN, groups: of_engine };
    let not_blank = |_: JournalError| io::Error::other("a segment that was just made is not blank");
    let mut journal =
        Journal::recover(config, random_seed(), &blank, None, &mut |_| {}).map_err(not_blank)?;
    for Restored { group, index, term } in groups {
        let (group, index, term) = (*group, *index, *term);
        journal.append(Record::Replica { group, replica: Some(incarnation) });
        journal.append(Record::Vote { group, term, vote: None });
        journal.append(Record::Snapshot { group, index, term });
    }
    // The records, and a mark that vouches for them.
    while let Some(Write { slot, offset, position, .. }) = journal.seal() {
        let segment = OpenOptions::new().write(true).open(segments::path(engine_dir, slot))?;
        segment.write_all_at(journal.in_flight(), offset)?;
        segment.sync_all()?;
        journal.on_synced(position);
        journal.mark();
    }
    Ok(journal.witness())
}

#[cfg(test)]
mod tests;
