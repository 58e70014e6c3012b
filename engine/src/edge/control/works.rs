//! What is written to the disk beside the cores: segments, snapshots and the manifest.

use super::super::bridge::{Fatal, ToCore};
use super::super::files;
use super::super::manifest::{DataDir, Manifest};
use super::super::snapshots::{self, Writing};
use super::super::wal::segments::Pace;
use super::super::wal::{self, Writer, segments};
use super::{Cores, FULL_REST, State};
use crate::effects::SnapshotPart;
use crate::ids::{GroupId, Index};
use crossbeam::channel::{Receiver, Sender};
use glommio::Task;
use glommio::channels::local_channel::{self, LocalReceiver, LocalSender};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;

/// Segments that wait to be made.
const SEGMENTS_WAITING_MAX: usize = 256;
/// Parts of snapshots that wait to be written, and snapshots to be removed.
const JOBS_WAITING_MAX: usize = 256;

/// Lists of the cluster's nodes that wait to be kept.
const NODES_WAITING_MAX: usize = 64;

/// An engine and the slot of its segment.
pub type Slot = (u32, u32);

/// The cluster's nodes: a snapshot of the meta group's state.
pub type Nodes = Arc<[u8]>;

/// A snapshot to write or to remove.
pub enum Job {
    /// Write a part of it.
    Save { engine: u32, part: SnapshotPart },
    /// Remove it.
    Drop { engine: u32, group: GroupId, index: Index },
}

/// Where and how it is written.
#[derive(Clone)]
pub struct Works {
    pub data_dir: PathBuf,
    pub writer: Writer,
    pub segment_bytes: u64,
}

impl Works {
    /// Starts the thread that makes segments. It ends when the sender is dropped.
    pub fn start_segments(&self, cores: Cores) -> io::Result<(Sender<Slot>, JoinHandle<()>)> {
        let (sender, receiver) = crossbeam::channel::bounded(SEGMENTS_WAITING_MAX);
        let works = self.clone();
        let thread = std::thread::Builder::new().name("tercet-segments".into());
        let thread = thread.spawn(move || works.make_segments(&receiver, &cores))?;
        Ok((sender, thread))
    }

    fn make_segments(&self, wanted: &Receiver<Slot>, cores: &Cores) {
        for (engine, slot) in wanted {
            let path = segments::path(&segments::engine_dir(&self.data_dir, engine), slot);
            let prepare =
                || segments::prepare(&path, self.segment_bytes, self.writer, Pace::Gently);
            if let Err(e) = files::patiently("a segment", prepare) {
                // Its engine would wait for ever.
                cores.fail(engine, wal::fatal(&path, &e));
                return;
            }
            let mut ready = ToCore::SegmentReady { engine, slot };
            while let Err(back) = cores.tell(engine, ready) {
                ready = back;
                std::thread::sleep(FULL_REST);
            }
        }
    }

    /// Starts the task that writes and removes snapshots, in the order in which it is told.
    pub fn start_snapshots(&self, state: Rc<State>) -> (LocalSender<Job>, Task<()>) {
        let (sender, receiver) = local_channel::new_bounded(JOBS_WAITING_MAX);
        let works = self.clone();
        let task =
            glommio::spawn_local(async move { works.write_snapshots(receiver, &state).await });
        (sender, task)
    }

    async fn write_snapshots(&self, jobs: LocalReceiver<Job>, state: &State) {
        let mut files = BTreeMap::new();
        while let Some(job) = jobs.recv().await {
            match job {
                Job::Save { engine, part } => {
                    let dir = segments::engine_dir(&self.data_dir, engine);
                    let (group, index, last) = (part.group, part.index, part.last);
                    let bytes = part.bytes.len() as u64;
                    if let Err(e) = write_part(&mut files, &dir, engine, part).await {
                        state.cores.fail(engine, cannot_save(&dir, group, &e));
                        return;
                    }
                    state.cores.wrote(engine, bytes);
                    if last {
                        let saved = ToCore::SnapshotSaved { engine, group, index };
                        state.tell_engine(engine, saved).await;
                    }
                }
                Job::Drop { engine, group, index } => {
                    let dir = segments::engine_dir(&self.data_dir, engine);
                    if let Err(e) = snapshots::remove(&dir, group, index).await {
                        // It costs space until the next start, and no more.
                        tracing::warn!(%group, %index, engine, "a snapshot was not removed: {e}");
                    }
                }
            }
        }
    }
}

/// Starts the thread that keeps the manifest: with every list of nodes that it is sent. It ends when the sender
/// is dropped.
pub fn start_manifest(
    dir: Arc<DataDir>,
    mut manifest: Manifest,
    cores: Cores,
) -> io::Result<(Sender<Nodes>, JoinHandle<()>)> {
    let (sender, receiver) = crossbeam::channel::bounded::<Nodes>(NODES_WAITING_MAX);
    let keep = move || {
        for nodes in receiver {
            manifest.nodes = nodes.to_vec();
            if let Err(e) = files::patiently("the MANIFEST", || dir.replace(&manifest)) {
                cores.fail(0, cannot_keep(dir.path(), &e));
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("tercet-manifest".into()).spawn(keep)?;
    Ok((sender, thread))
}

/// Writes a part; the first one makes the file, the last one finishes it.
async fn write_part(
    files: &mut BTreeMap<(u32, GroupId), Writing>,
    engine_dir: &Path,
    engine: u32,
    part: SnapshotPart,
) -> io::Result<()> {
    let key = (engine, part.group);
    if part.offset == 0 {
        let begin = || Writing::begin(engine_dir, part.group, part.index, part.term);
        let begun = snapshots::patiently("a snapshot", begin).await?;
        files.insert(key, begun);
    }
    let file = files.get_mut(&key).expect("a snapshot's first part comes first");
    file.add(&part.bytes).await?;
    if part.last {
        let file = files.remove(&key).expect("it was just written to");
        file.finish().await?;
    }
    Ok(())
}

fn cannot_keep(data_dir: &Path, e: &io::Error) -> Fatal {
    let text = format!("the MANIFEST in {}: {e}", data_dir.display());
    match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Fatal::DiskFull(text),
        _ => Fatal::ManifestWrite(text),
    }
}

fn cannot_save(engine_dir: &Path, group: GroupId, e: &io::Error) -> Fatal {
    let text = format!("the snapshot of group {group} in {}: {e}", engine_dir.display());
    match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Fatal::DiskFull(text),
        _ => Fatal::SnapshotWrite(text),
    }
}
