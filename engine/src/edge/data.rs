//! The data plane: the threads, how they are started, told things and stopped.
//!
//! # How it works
//!
//! [`start`] makes one glommio executor per thread. Its one long task is the loop of `core`, which parks
//! in its own ring; glommio places the thread, and gets a turn when a doorbell rang. Engine `e` lives
//! on thread `e % threads`, so a node with fewer CPUs than engines serves them all.

#[cfg(test)]
mod tests;

use super::bridge::{CORE_MAILBOX_MAX, Fatal, Latch, Post, ToControl, ToCore, mailbox};
use super::core::{Core, Outfit, Pause};
use super::counters::Counters;
use super::links::{AddressBook, Identity};
use super::net::Seats;
use super::repair::{DAMAGED_MAX, Repair};
use super::ring::{RingError, require_memlock};
use super::snapshots::LoadError;
use super::wal::Writer;
use crate::engine::{EngineConfig, OpenError};
use crate::ids::{GroupId, Index, NodeId};
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};
use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

/// Memory that glommio registers for files of its own, in bytes: its least. Ours go through our ring.
const GLOMMIO_IO_BYTES: usize = 64 << 10;
/// What glommio refuses to start below, in KiB of locked memory.
const GLOMMIO_MEMLOCK_KIB: u64 = 512;
/// Entries of glommio's own rings.
const GLOMMIO_RING_DEPTH: usize = 16;
/// How often a thread asks glommio whether something is due there, unless it is rung.
const GLOMMIO_PREEMPT: Duration = Duration::from_secs(1);

/// Makes an engine's configuration.
pub type MakeConfig = dyn Fn(u32) -> EngineConfig + Send + Sync;
/// Hands out the pieces of a snapshot that was saved for an engine's group at an index; false if there is none. Called
/// only while opening.
pub type LoadSnapshot =
    dyn Fn(u32, GroupId, Index, &mut dyn FnMut(&[u8])) -> Result<bool, LoadError> + Send + Sync;

/// What a data plane is made of.
pub struct Plan {
    /// Where clients and peers connect. Every thread accepts from it.
    pub listener: TcpListener,
    /// The node's data directory, locked by the caller.
    pub data_dir: PathBuf,
    /// How many engines the data directory has.
    pub engines: u32,
    /// How many threads serve them.
    pub threads: u32,
    /// The CPU of each thread, or `None` to leave that to the kernel.
    pub cpus: Option<Vec<usize>>,
    /// How the journal is written.
    pub writer: Writer,
    /// The journal's segment, in bytes.
    pub segment_bytes: u64,
    /// Makes the configuration of each engine.
    pub make_config: Box<MakeConfig>,
    /// Where other nodes are by this node's configuration, "host:port" each: tried before the addresses that
    /// the cluster knows.
    pub peers: Vec<(NodeId, String)>,
    /// Where the engines' messages for the control plane go.
    pub to_control: Post<ToControl>,
    /// How many connections each thread has seats for.
    pub seats: Seats,
    /// Reads a snapshot file.
    pub load_snapshot: Box<LoadSnapshot>,
    /// What begins a damaged engine anew; without it damage is refused.
    pub repair: Option<Arc<Repair>>,
}

/// Why the data plane did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// An engine refused what is on its disk, though it is not damaged.
    #[error("engine {engine}: {error}")]
    Open {
        /// The engine.
        engine: u32,
        /// Why.
        error: OpenError,
    },
    /// An engine's data is gone.
    #[error(
        "E107 engine {engine} has no journal in {dir:?}, though this node has served: what it promised is lost. Put the directory back, or move this node's data directory away and replace the node"
    )]
    Missing {
        /// The engine.
        engine: u32,
        /// Where it should be.
        dir: PathBuf,
    },
    /// What is on an engine's disk is damaged, and no peers are there to fetch it from.
    #[error("engine {engine}: {error}. Move this node's data directory away and replace the node")]
    Damaged {
        /// The engine.
        engine: u32,
        /// What is damaged.
        error: OpenError,
    },
    /// What is on an engine's disk is damaged once more.
    #[error(
        "engine {engine}: {error}. It was begun anew {DAMAGED_MAX} times, as its directories *.damaged-N show: check the disk. If it is well, remove them and start again; if not, move this node's data directory away and replace the node"
    )]
    DamagedAgain {
        /// The engine.
        engine: u32,
        /// What is damaged.
        error: OpenError,
    },
    /// A snapshot that the journal names is whole, but not understood.
    #[error(
        "E106 engine {engine}: the snapshot of group {group} at index {index} is whole, but this version can't read it. Start the version that wrote it"
    )]
    Unread {
        /// The engine.
        engine: u32,
        /// The group.
        group: GroupId,
        /// The index that it stands for.
        index: Index,
    },
    /// A file or a socket.
    #[error("E306 {what}: {error}")]
    Io {
        /// What was being done, and to what.
        what: String,
        /// Why it failed.
        error: io::Error,
    },
    /// No executor.
    #[error("E307 glommio can't start an executor: {0}")]
    Executor(String),
}

/// What every thread shares, read-only.
pub(super) struct Common {
    pub plan: Plan,
    pub addresses: AddressBook,
    pub posts: Vec<Post<ToCore>>,
    pub counters: Vec<Arc<Counters>>,
    /// Set once, by [`DataPlane::stop`]: a stop is never lost to a full mailbox.
    pub stopping: AtomicBool,
    /// Why the node can't go on.
    pub broken: Latch,
}

impl Common {
    /// Asks every thread to end.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        for post in &self.posts {
            post.ring();
        }
    }

    /// The node can't go on: the control plane learns it whatever its mailbox holds.
    pub fn fail(&self, engine: u32, reason: Fatal) {
        tracing::error!(engine, "{reason}");
        self.broken.set(engine, reason);
        self.plan.to_control.ring();
    }
}

/// The running data plane.
pub struct DataPlane {
    common: Arc<Common>,
    threads: Vec<ExecutorJoinHandle<Result<(), Fatal>>>,
}

/// Starts every thread and opens every engine.
///
/// # Errors
/// [`StartError`] of the first thread that did not start; those that did are stopped.
pub fn start(plan: Plan) -> Result<DataPlane, StartError> {
    assert!(plan.threads > 0, "a node has at least one thread");
    assert!(plan.threads <= plan.engines, "a thread without an engine has nothing to do");
    require_memlock(GLOMMIO_MEMLOCK_KIB)?;
    let io = |what: &str| {
        let what = what.to_owned();
        move |error| StartError::Io { what, error }
    };
    let count = plan.threads as usize;
    if let Some(cpus) = &plan.cpus {
        assert!(cpus.len() >= count, "every thread has a CPU, or none has");
    }
    let mut posts = Vec::with_capacity(count);
    let mut inboxes = Vec::with_capacity(count);
    for _ in 0..count {
        let (post, inbox) = mailbox(CORE_MAILBOX_MAX).map_err(io("making a mailbox"))?;
        posts.push(post);
        inboxes.push(inbox);
    }
    let identity = Identity::of(&(plan.make_config)(0));
    let addresses = AddressBook::new(&plan.peers, identity.addresses());
    let addresses = addresses.map_err(io("starting the resolver"))?;
    let stopping = AtomicBool::new(false);
    let counters = (0..count).map(|_| Arc::default()).collect();
    let common =
        Arc::new(Common { plan, addresses, posts, counters, stopping, broken: Latch::default() });

    let (ready, opened) = mpsc::channel();
    let mut plane = DataPlane { common: Arc::clone(&common), threads: Vec::with_capacity(count) };
    for (thread, inbox) in inboxes.into_iter().enumerate() {
        plane.threads.push(spawn(Outfit { thread, inbox, common: Arc::clone(&common) }, &ready)?);
    }
    drop(ready);
    // Ends when every thread has said how it went, or could not even begin.
    let reports: Vec<Result<(), StartError>> = opened.iter().collect();
    let begun = reports.len();
    let failed = reports.into_iter().find_map(Result::err);
    if begun == count && failed.is_none() {
        return Ok(plane);
    }
    plane.stop();
    let why = plane.join_all();
    Err(failed.unwrap_or_else(|| {
        StartError::Executor(why.into_iter().flatten().next().unwrap_or_default())
    }))
}

/// Starts one thread, which reports to `ready` once its engines are open.
fn spawn(
    outfit: Outfit,
    ready: &mpsc::Sender<Result<(), StartError>>,
) -> Result<ExecutorJoinHandle<Result<(), Fatal>>, StartError> {
    let cpus = outfit.common.plan.cpus.as_ref();
    let placement = cpus.map_or(Placement::Unbound, |cpus| Placement::Fixed(cpus[outfit.thread]));
    let ready = ready.clone();
    LocalExecutorBuilder::new(placement)
        .name(&format!("tercet-core-{}", outfit.thread))
        .io_memory(GLOMMIO_IO_BYTES)
        .ring_depth(GLOMMIO_RING_DEPTH)
        .preempt_timer(GLOMMIO_PREEMPT)
        .spawn(move || thread(outfit, ready))
        .map_err(|error| StartError::Executor(error.to_string()))
}

/// What a thread does: open, then loop until it is told to stop or can't go on.
async fn thread(outfit: Outfit, ready: mpsc::Sender<Result<(), StartError>>) -> Result<(), Fatal> {
    let common = Arc::clone(&outfit.common);
    let opened = Core::open(outfit);
    let (report, core) = match opened {
        Ok(core) => (Ok(()), Some(core)),
        Err(error) => (Err(error), None),
    };
    // Nobody listens only when the start was given up: then a stop is on its way.
    let _ = ready.send(report);
    drop(ready);
    let Some(mut core) = core else { return Ok(()) };
    loop {
        match core.run() {
            Ok(Pause::Rung) => glommio::executor().yield_now().await,
            Ok(Pause::Stopped) => return Ok(()),
            Err((engine, reason)) => {
                common.fail(engine, reason.clone());
                return Err(reason);
            }
        }
    }
}

impl DataPlane {
    /// How many threads there are.
    pub fn threads(&self) -> usize {
        self.common.posts.len()
    }

    /// The thread that serves an engine.
    pub fn thread_of(&self, engine: u32) -> usize {
        thread_of(engine, self.common.plan.threads)
    }

    /// Tells a thread something. [`DataPlane::thread_of`] names an engine's.
    ///
    /// # Errors
    /// The message itself, when the thread's mailbox is full.
    pub fn send(&self, thread: usize, message: ToCore) -> Result<(), ToCore> {
        self.common.posts[thread].send(message)
    }

    /// The node can't go on, for a reason that was found beside the threads.
    pub fn fail(&self, engine: u32, reason: Fatal) {
        self.common.fail(engine, reason);
    }

    /// Which engine can't go on, and why.
    pub fn broken(&self) -> Option<(u32, Fatal)> {
        self.common.broken.get().cloned()
    }

    /// What each thread counts.
    pub fn counters(&self) -> &[Arc<Counters>] {
        &self.common.counters
    }

    /// Asks every thread to finish what is under way and to end. Does not wait: see
    /// [`DataPlane::join`].
    pub fn stop(&self) {
        self.common.stop();
    }

    /// Waits until every thread has ended.
    ///
    /// # Errors
    /// The reason of the first thread that could not go on.
    pub fn join(self) -> Result<(), Fatal> {
        let mut result = Ok(());
        for thread in self.threads {
            if let Ok(Err(fatal)) = thread.join() {
                result = result.and(Err(fatal));
            }
        }
        result
    }

    /// Waits for every thread and says why those ended that never began.
    fn join_all(self) -> Vec<Option<String>> {
        self.threads.into_iter().map(|t| t.join().err().map(|error| error.to_string())).collect()
    }
}

/// The thread that serves an engine.
pub(super) fn thread_of(engine: u32, threads: u32) -> usize {
    (engine % threads) as usize
}
