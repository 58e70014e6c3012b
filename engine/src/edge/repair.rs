//! A damaged engine is begun anew: its groups come from the other nodes.
//!
//! What an engine remembers is believed as a whole or not at all: it may have promised what the damage took. So
//! nothing is saved from the damaged directory. The engine begins with an empty one and **founds no
//! group**: to the groups it is a node that keeps nothing. Their leaders remove the replicas that are gone and
//! add others with lives of their own ([`crate::shard::moves`]). Where a majority of a group is damaged it has
//! no leader, so nothing is removed.
//!
//! # How it works
//!
//! 1. The manifest lists the engine as renewed.
//! 2. The copy of the journal's witness that lies beside the directory is removed ([`witness`]).
//! 3. The directory gets another name, `engine-KK.damaged-N`, and stays for whoever wants to look at it.
//! 4. An empty directory takes its place, and is opened.
//!
//! A crash after 1 or 2 finds the damage, and this, again; if the damage is not seen any more, the engine goes on with
//! all it promised, since the list only forbids to found. A crash after 3 finds no directory, and goes on with 4.
//!
//! # Left out
//!
//! - With fewer than two other founders, or other nodes that keep replicas, no majority may be left to fetch from:
//!   damage is refused.
//! - What another version wrote is not damaged. Nor is a file that can't be opened, or has another length.
//! - A journal that is whole and contradicts itself (`E104`) is refused: that may be a mistake of this version, on
//!   every node at once.

use super::data::StartError;
use super::manifest::{DataDir, Manifest, sync_dir};
use super::snapshots;
use super::wal::segments::engine_dir;
use super::wal::witness;
use crate::engine::{Founder, OpenError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// Directories of one engine that were damaged: with so many there, chance is no explanation any more.
pub const DAMAGED_MAX: u32 = 3;
/// Other nodes that keep replicas, at least.
const OTHERS_MIN: usize = 2;

/// Begins damaged engines anew, on whichever threads they are.
#[derive(Debug)]
pub struct Repair {
    dir: Arc<DataDir>,
    manifest: Mutex<Manifest>,
}

impl Repair {
    /// For the engines of a data directory, with its manifest as it is on the disk.
    pub fn new(dir: Arc<DataDir>, manifest: Manifest) -> Repair {
        Repair { dir, manifest: Mutex::new(manifest) }
    }

    /// The manifest as it is on the disk now.
    pub fn manifest(&self) -> Manifest {
        self.lock().clone()
    }

    /// Whether the engine was ever begun anew: then it must not found its groups.
    pub fn is_renewed(&self, engine: u32) -> bool {
        self.lock().renewed.contains(&engine)
    }

    /// Whether the engine may have no journal. One that founded groups and lost its journal would found them again,
    /// and forget what it promised: a founder that has learned of the cluster's nodes has served.
    pub fn may_be_new(&self, engine: u32) -> bool {
        let manifest = self.lock();
        let own = |member: &Founder| {
            (member.node, member.incarnation) == (manifest.node, manifest.incarnation)
        };
        let founds = manifest.founders.iter().any(own);
        manifest.renewed.contains(&engine) || manifest.nodes.is_empty() || !founds
    }

    /// Begins an engine anew: once this returns it may be opened.
    ///
    /// # Errors
    /// [`StartError::Damaged`] without enough other nodes, [`StartError::DamagedAgain`] after [`DAMAGED_MAX`]
    /// times, [`StartError::Io`]. Called again, it goes on where it was.
    pub fn renew(&self, engine: u32, error: OpenError) -> Result<(), StartError> {
        if others(&self.lock()) < OTHERS_MIN {
            return Err(StartError::Damaged { engine, error });
        }
        let from = engine_dir(self.dir.path(), engine);
        let failed = |what| move |error| StartError::Io { what, error };
        let free = free_name(&from);
        let free = free.map_err(failed(format!("looking for a name for {}", from.display())))?;
        let Some(to) = free else { return Err(StartError::DamagedAgain { engine, error }) };
        self.list(engine).map_err(failed("writing MANIFEST".to_owned()))?;
        witness::forget(self.dir.path(), engine)
            .map_err(failed("removing a witness".to_owned()))?;
        let moved = self.put_aside(&from, &to);
        moved.map_err(failed(format!("moving {} to {}", from.display(), to.display())))?;
        let prepared = snapshots::prepare(&from);
        prepared.map_err(failed(format!("making {}", from.display())))?;
        let kept = to.display();
        tracing::error!(
            engine,
            "E105 an engine's data is damaged and begun anew: {error}. Its groups come from the other nodes. The damaged data is in {kept}: remove it once `tercet cluster status` shows all groups whole"
        );
        Ok(())
    }

    /// Step 1.
    fn list(&self, engine: u32) -> io::Result<()> {
        let mut manifest = self.lock();
        let mut renewed = manifest.clone();
        if let Err(at) = renewed.renewed.binary_search(&engine) {
            renewed.renewed.insert(at, engine);
            self.dir.replace(&renewed)?;
            *manifest = renewed;
        }
        Ok(())
    }

    /// Step 3.
    fn put_aside(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)?;
        sync_dir(self.dir.path())
    }

    fn lock(&self) -> MutexGuard<'_, Manifest> {
        self.manifest.lock().expect("nobody panics while holding it")
    }
}

/// Other nodes that keep replicas, as the manifest knows the cluster.
fn others(manifest: &Manifest) -> usize {
    let other = |node| node != manifest.node;
    // Where fewer founded it, this node may still be the only one that votes.
    let founders = manifest.founders.iter().filter(|member| other(member.node)).count();
    let nodes = manifest.known_nodes();
    nodes
        .map_or(founders, |nodes| nodes.keepers().filter(|node| other(*node)).count().min(founders))
}

/// Where a damaged directory may go; `None` when too many are there.
fn free_name(engine_dir: &Path) -> io::Result<Option<PathBuf>> {
    let name = engine_dir.file_name().expect("an engine's directory has a name").to_string_lossy();
    for number in 1..=DAMAGED_MAX {
        let path = engine_dir.with_file_name(format!("{name}.damaged-{number}"));
        if !path.try_exists()? {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
