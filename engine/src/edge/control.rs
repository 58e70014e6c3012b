//! The control plane: one thread beside the cores, and everything that is not a request.
//!
//! # How it works
//!
//! A glommio executor of its own, pinned nowhere. Its main task empties the mailbox that the engines
//! fill and waits for the doorbell. Beside it run: a task that writes snapshots part by part, a
//! thread that makes segments (64 MiB of zeros each, which must delay nothing here), one that keeps the
//! manifest, and HTTP.
//!
//! # Invariants
//!
//! - An engine never waits for this thread: its messages go into a bounded mailbox, and what can't be
//!   delivered the other way is delivered later.
//! - A snapshot or a segment that can't be written stops the node: its engine would wait for ever. So does a
//!   manifest: after a restart the node would look for its peers where they were.

mod questions;
mod works;

use super::bridge::{Fatal, Inbox, Post, ToControl, ToCore};
use super::counters::Counters;
use super::data::DataPlane;
use super::http::{self, Site};
use super::manifest::{DataDir, Manifest};
use super::report::{Facts, Gathered, NoteCounts, Phase, Report};
use crate::effects::Note;
use crate::ids::NodeId;
use crate::machine::meta::{Meta, Node, Standing};
use glommio::io::BufferedFile;
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};
use questions::Questions;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tracing::{debug, error, info, warn};
use works::{Job, Works};

/// Memory that glommio registers for direct I/O here, in bytes.
const IO_BYTES: usize = 1 << 20;
/// Entries of the executor's rings.
const RING_DEPTH: usize = 64;
/// How often people are told, at most, that the way to a node is too long.
const LONG_WAY_TOLD_EVERY: Duration = Duration::from_secs(60);
/// How long a message for a core rests when the core's mailbox is full.
const FULL_REST: Duration = Duration::from_millis(1);

/// Whether the node is to stop. The signals set it; the control plane obeys.
#[derive(Clone)]
pub struct Stop {
    asked: Arc<AtomicBool>,
    bell: Post<ToControl>,
}

impl Stop {
    /// Nothing is asked yet. `bell` leads to the control plane.
    pub fn new(bell: Post<ToControl>) -> Stop {
        Stop { asked: Arc::default(), bell }
    }

    /// Asks the node to stop.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::Release);
        self.bell.ring();
    }

    /// The flag itself.
    pub fn flag(&self) -> &AtomicBool {
        &self.asked
    }

    fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }
}

/// What the control plane is made of.
pub struct Setup {
    /// Where the engines' messages come out.
    pub inbox: Inbox<ToControl>,
    /// Where HTTP is served.
    pub http: TcpListener,
    /// What does not change.
    pub facts: Facts,
    /// The data plane. Whoever owns it can join it once the control plane has ended.
    pub plane: Weak<DataPlane>,
    /// The data directory.
    pub dir: Arc<DataDir>,
    /// Its manifest.
    pub manifest: Manifest,
    /// The cluster's nodes as they are known at the start.
    pub nodes: Meta,
    /// Whether the node is to stop.
    pub stop: Stop,
}

/// The running control plane.
pub struct ControlPlane {
    thread: ExecutorJoinHandle<Option<Fatal>>,
}

impl ControlPlane {
    /// Waits until the node is to stop: on request (`None`), or because it can't go on. The data plane
    /// has then been asked to end.
    ///
    /// # Errors
    /// When the executor itself failed.
    pub fn join(self) -> Result<Option<Fatal>, String> {
        self.thread.join().map_err(|e| e.to_string())
    }
}

/// Starts the control plane.
///
/// # Errors
/// When there is no thread or no executor for it.
pub fn start(setup: Setup) -> Result<ControlPlane, String> {
    let thread = LocalExecutorBuilder::new(Placement::Unbound)
        .name("tercet-control")
        .io_memory(IO_BYTES)
        .ring_depth(RING_DEPTH)
        .spawn(move || run(setup))
        .map_err(|e| e.to_string())?;
    Ok(ControlPlane { thread })
}

async fn run(setup: Setup) -> Option<Fatal> {
    let Setup { inbox, http, facts, plane, dir, manifest, nodes, stop } = setup;
    let node = facts.node;
    let cores = Cores(plane);
    let state = Rc::new(State {
        facts: Rc::new(facts),
        cores: cores.clone(),
        notes: Cell::default(),
        fatal: RefCell::default(),
        questions: Questions::default(),
        long_way_told: Cell::default(),
        was_whole: Cell::default(),
        nodes: RefCell::new(nodes),
    });
    let works = Works {
        data_dir: dir.path().to_owned(),
        writer: manifest.writer,
        segment_bytes: manifest.segment_bytes,
    };
    let (segments, maker) = match works.start_segments(cores.clone()) {
        Ok(started) => started,
        Err(e) => return Some(Fatal::JournalWrite(format!("no thread for segments: {e}"))),
    };
    let (manifests, keeper) = match works::start_manifest(dir, manifest, cores.clone()) {
        Ok(started) => started,
        Err(e) => return Some(Fatal::ManifestWrite(format!("no thread for it: {e}"))),
    };
    let (jobs, snapshots) = works.start_snapshots(Rc::clone(&state));
    let site = Site { facts: Rc::clone(&state.facts), gather: gather(&state) };
    let serving = glommio::spawn_local(http::serve(http, Rc::new(site)));

    let bell = match inbox.bell().try_clone_to_owned() {
        // SAFETY: the descriptor was just duplicated, and `into_raw_fd` gave it up: it is owned once.
        Ok(bell) => unsafe { BufferedFile::from_raw_fd(bell.into_raw_fd()) },
        Err(e) => return Some(Fatal::Ring(format!("no descriptor for the doorbell: {e}"))),
    };
    let mut leaders = Leaders::default();
    while !stop.is_asked() && state.fatal.borrow().is_none() {
        while let Some(message) = inbox.take() {
            match message {
                ToControl::MakeSegment { engine, slot } => deliver(&segments, (engine, slot)).await,
                ToControl::SaveSnapshot { engine, part } => {
                    // Full: wait, and let the engines' messages wait with us.
                    let _ = jobs.send(Job::Save { engine, part }).await;
                }
                ToControl::DropSnapshot { engine, group, index } => {
                    let _ = jobs.send(Job::Drop { engine, group, index }).await;
                }
                ToControl::Note { engine, note } => state.tell(engine, note, &mut leaders),
                ToControl::Nodes { nodes } => {
                    if state.learn(&nodes) {
                        deliver(&manifests, nodes).await;
                    }
                }
                ToControl::Report { engine } => report(&state, engine),
                ToControl::Status { ticket, status } => state.questions.answer(ticket, status),
            }
        }
        tell_leaders(node, &mut leaders);
        // Whoever sets it rings after that: either it is seen here, or the doorbell is.
        if let Some((_, reason)) = cores.broken() {
            state.fatal.borrow_mut().get_or_insert(reason);
            break;
        }
        if let Err(e) = bell.read_at(0, 8).await {
            state.fail(0, Fatal::Ring(format!("waiting for the doorbell: {e}")));
        }
    }
    if stop.is_asked() {
        info!("stopping");
    }
    cores.stop();
    serving.cancel().await;
    snapshots.cancel().await;
    drop((segments, manifests));
    // They end after the file that they are at; their panics have been told.
    let _ = maker.join();
    let _ = keeper.join();
    state.fatal.take()
}

/// Groups with their terms, "group@term", by their new leader.
type Leaders = BTreeMap<Option<NodeId>, Vec<String>>;

/// Logs who leads what since the last time, a line for each leader: an election moves many groups.
fn tell_leaders(me: NodeId, leaders: &mut Leaders) {
    while let Some((leader, groups)) = leaders.pop_first() {
        let groups = groups.join(" ");
        match leader {
            Some(leader) if leader == me => info!(groups, "this node leads"),
            Some(leader) => info!(groups, "node {leader} leads"),
            None => debug!(groups, "no leader is known"),
        }
    }
}

/// Sends to a bounded channel of another thread without blocking this one.
async fn deliver<T>(to: &crossbeam::channel::Sender<T>, mut message: T) {
    use crossbeam::channel::TrySendError::{Disconnected, Full};
    loop {
        match to.try_send(message) {
            Ok(()) | Err(Disconnected(_)) => return,
            Err(Full(back)) => message = back,
        }
        glommio::timer::sleep(FULL_REST).await;
    }
}

/// The way to the data plane, for as long as there is one. It is held only within a call, so that
/// its owner can join it.
#[derive(Clone)]
struct Cores(Weak<DataPlane>);

impl Cores {
    /// Tells the thread of an engine something, or gives it back when its mailbox is full.
    fn tell(&self, engine: u32, message: ToCore) -> Result<(), ToCore> {
        self.0.upgrade().map_or(Ok(()), |plane| plane.send(plane.thread_of(engine), message))
    }

    /// Asks every thread for its engines' state. One whose mailbox is full does not answer.
    fn ask(&self, ticket: u64) {
        let Some(plane) = self.0.upgrade() else { return };
        for thread in 0..plane.threads() {
            // The answer says how many engines are missing.
            let _ = plane.send(thread, ToCore::Status { ticket });
        }
    }

    /// The node can't go on.
    fn fail(&self, engine: u32, reason: Fatal) {
        match self.0.upgrade() {
            Some(plane) => plane.fail(engine, reason),
            // It is ending already: nobody waits for this.
            None => error!(engine, "{reason}"),
        }
    }

    /// So many bytes of an engine's snapshots were written.
    fn wrote(&self, engine: u32, bytes: u64) {
        if let Some(plane) = self.0.upgrade() {
            plane.counters()[plane.thread_of(engine)].snapshot_bytes_written.add(bytes);
        }
    }

    fn broken(&self) -> Option<(u32, Fatal)> {
        self.0.upgrade().and_then(|plane| plane.broken())
    }

    fn counters(&self) -> Vec<Arc<Counters>> {
        self.0.upgrade().map_or(vec![], |plane| plane.counters().to_vec())
    }

    fn stop(&self) {
        if let Some(plane) = self.0.upgrade() {
            plane.stop();
        }
    }
}

/// What the tasks of the control plane share.
struct State {
    facts: Rc<Facts>,
    cores: Cores,
    notes: Cell<NoteCounts>,
    fatal: RefCell<Option<Fatal>>,
    questions: Questions,
    /// When people were told that the way to a node is too long.
    long_way_told: Cell<Option<Instant>>,
    /// Whether all groups that are to be here were here once.
    was_whole: Cell<bool>,
    /// The cluster's nodes.
    nodes: RefCell<Meta>,
}

impl State {
    /// Somebody learned who the nodes are. Says whether that is news here.
    fn learn(&self, nodes: &[u8]) -> bool {
        let Ok(newer) = Meta::restore(nodes) else { return false };
        let mut nodes = self.nodes.borrow_mut();
        if newer.epoch() <= nodes.epoch() {
            return false;
        }
        let row = |node: &Node| match node.standing {
            Standing::In => format!("{}@{}", node.node, node.address),
            Standing::Drained => format!("{}@{} (drained)", node.node, node.address),
        };
        let rows: Vec<String> = newer.nodes().map(row).collect();
        info!(epoch = newer.epoch(), "the cluster's nodes are {}", rows.join(", "));
        *nodes = newer;
        true
    }

    /// The node can't go on. The first reason counts.
    fn fail(&self, engine: u32, reason: Fatal) {
        error!(engine, "{reason}");
        self.fatal.borrow_mut().get_or_insert(reason);
    }

    /// Tells a thread something, once its mailbox has room.
    async fn tell_engine(&self, engine: u32, mut message: ToCore) {
        while let Err(back) = self.cores.tell(engine, message) {
            message = back;
            glommio::timer::sleep(FULL_REST).await;
        }
    }

    /// Counts and logs what an engine found worth telling.
    fn tell(&self, engine: u32, note: Note, leaders: &mut Leaders) {
        let mut counts = self.notes.get();
        match note {
            Note::Leader { group, term, leader } => {
                counts.leader_changes += 1;
                leaders.entry(leader).or_default().push(format!("{group}@{term}"));
            }
            Note::Campaign { group, term } => {
                counts.campaigns += 1;
                debug!(%group, %term, engine, "campaigning");
            }
            Note::SnapshotMade { group, index, bytes } => {
                counts.snapshots_made += 1;
                info!(%group, %index, bytes, engine, "made a snapshot");
            }
            Note::SnapshotInstalled { group, index, bytes } => {
                counts.snapshots_installed += 1;
                info!(%group, %index, bytes, engine, "installed the leader's snapshot");
            }
            Note::SnapshotSent { group, to } => {
                counts.snapshots_sent += 1;
                info!(%group, %to, engine, "a follower lags and gets a snapshot");
            }
            Note::BackupMade { group, index, bytes } => {
                counts.snapshots_backed_up += 1;
                info!(%group, %index, bytes, engine, "made a snapshot for a backup");
            }
            Note::SessionsExpired { group, sessions } => {
                counts.sessions_expired += sessions;
                debug!(%group, sessions, engine, "sessions expired");
            }
            Note::Members { group, index } => {
                info!(%group, %index, engine, "the group's members are these from here on");
            }
            Note::ChangeAnswered { group, change, answer } => match answer {
                Ok(index) => info!(%group, ?change, %index, engine, "the group's members change"),
                Err(why) => info!(%group, ?change, %why, engine, "the group's members stay"),
            },
            Note::ClockDrift { node, ppm } => {
                warn!(%node, ppm, engine, "another clock goes at another rate: reads ask a majority for at least a minute. Check the clocks of both machines")
            }
            Note::LongWay { node, round_trip, timeout_min } => {
                self.tell_long_way(node, round_trip, timeout_min);
            }
            Note::ReplicaMade { group } => info!(%group, engine, "a replica joins its group here"),
            Note::ReplicaRemoved { group } => info!(%group, engine, "the group's replica is gone"),
            Note::JournalFull { segments } => {
                counts.journal_full += 1;
                warn!(
                    segments,
                    engine,
                    "the journal has no free segment: nothing is acknowledged until one is. If this lasts, the disk is too slow or --segments-max too small"
                );
            }
        }
        self.notes.set(counts);
    }

    /// Engines and their twins find the same: it is told once.
    fn tell_long_way(&self, node: NodeId, round_trip: Duration, timeout_min: Duration) {
        let told = self.long_way_told.get();
        if told.is_some_and(|at: Instant| at.elapsed() < LONG_WAY_TOLD_EVERY) {
            return;
        }
        self.long_way_told.set(Some(Instant::now()));
        let ms = |d: Duration| d.as_millis();
        // As many as were seen to be enough.
        let min = ms(round_trip * 10).div_ceil(100) * 100;
        let max = 2 * min;
        warn!(
            "a word to node {node} and back takes {} ms, too long for --election-timeout-min-ms {}: followers miss leaders that are well, and leaders change. Start every node with --election-timeout-min-ms {min} --election-timeout-max-ms {max}",
            ms(round_trip),
            ms(timeout_min)
        );
    }

    async fn gathered(&self) -> Gathered {
        let engines = self.questions.ask(&self.cores, self.facts.engines).await;
        let fatal = self.fatal.borrow().clone();
        let lacking = engines.iter().map(|engine| engine.lacking).sum();
        if lacking == 0 && engines.len() == self.facts.engines as usize {
            self.was_whole.set(true);
        }
        Gathered {
            // A group that moves here later makes nobody unready.
            lacking: if self.was_whole.get() { 0 } else { lacking },
            engines,
            counters: self.cores.counters(),
            notes: self.notes.get(),
            phase: if fatal.is_some() { Phase::Stopping } else { Phase::Running },
            fatal,
            nodes: self.nodes.borrow().clone(),
        }
    }
}

/// Tells an engine's clients the node's state, which takes a question to every engine: beside the rest.
/// An engine asks once at a time, so there are no more such tasks than engines.
fn report(state: &Rc<State>, engine: u32) {
    let state = Rc::clone(state);
    let telling = async move {
        let json = Report::new(&state.facts, &state.gathered().await).json();
        state.tell_engine(engine, ToCore::Report { engine, json }).await;
    };
    glommio::spawn_local(telling).detach();
}

fn gather(state: &Rc<State>) -> http::Gather {
    let state = Rc::clone(state);
    Box::new(move || {
        let state = Rc::clone(&state);
        Box::pin(async move { state.gathered().await })
    })
}

/// Starts the thread that waits for SIGTERM and SIGINT: the first asks to stop, a second one ends the
/// process with `second_code`.
///
/// # Errors
/// When the handlers or the thread can't be made.
pub fn watch_signals(stop: Stop, second_code: i32) -> io::Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    let watch = move || {
        for signal in signals.forever() {
            if stop.is_asked() {
                error!(signal, "a second signal: ending at once");
                std::process::exit(second_code);
            }
            stop.ask();
        }
    };
    std::thread::Builder::new().name("tercet-signals".into()).spawn(watch).map(drop)
}
