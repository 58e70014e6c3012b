//! The server: takes the configuration, checks the machine, takes the data directory, waits for its
//! cluster's birth, and runs until it is told to stop or can't go on.

use clap::Parser;
use engine::edge::birth::{self, BirthError, Newborn};
use engine::edge::bridge::{CONTROL_MAILBOX_MAX, Fatal, Inbox, Post, ToControl, mailbox};
use engine::edge::config::{
    Arguments, CACHE_BYTES_DEFAULT, Command, Config, ConfigError, Pin, REPLICATION, Wal,
};
use engine::edge::control::{self, Setup, Stop};
use engine::edge::data::{self, DataPlane, Plan, StartError};
use engine::edge::manifest::{DataDir, DirError, Manifest, new_incarnation};
use engine::edge::net::Seats;
use engine::edge::recover::{self, RecoverError};
use engine::edge::repair::Repair;
use engine::edge::report::Facts;
use engine::edge::restore::{Backup, RestoreError};
use engine::edge::ring::RingError;
use engine::edge::wal::{Writer, segments, trial};
use engine::edge::{environment, logs, memory, snapshots};
use engine::engine::EngineConfig;
use engine::ids::{ClusterId, GroupId, Index};
use engine::level::Kinds;
use engine::shard::balance::BALANCE_AFTER;
use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tracing::{error, info, warn};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long the data plane may take to end, once it was asked to.
const STOP_WITHIN: Duration = Duration::from_secs(10);
/// How long an address that is in use is tried.
const BIND_WITHIN: Duration = Duration::from_secs(2);
/// How often.
const BIND_AGAIN: Duration = Duration::from_millis(20);
/// What a second signal ends with.
const EXIT_SECOND_SIGNAL: i32 = 130;
/// Why a journal's writer was taken that the configuration names.
const CONFIGURED: &str = "configured";
/// What a node ends with whose disk is full: ENOSPC's own number.
const EXIT_DISK_FULL: u8 = 28;
/// What a node that does not stop in time ends with.
const EXIT_NOT_STOPPED: i32 = 75;

/// Why the server ends other than in order.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Machine(#[from] RingError),
    #[error(transparent)]
    Files(#[from] environment::TooFewFiles),
    #[error(transparent)]
    Dir(#[from] DirError),
    #[error(
        "E130 {what} can't listen on {address}: {why}. Stop what uses it, or give another --{flag}"
    )]
    Bind { what: &'static str, flag: &'static str, address: SocketAddr, why: io::Error },
    #[error(transparent)]
    Birth(BirthError),
    #[error(transparent)]
    Start(StartError),
    #[error("E132 {0}")]
    System(String),
    #[error(transparent)]
    Fatal(Fatal),
    #[error(transparent)]
    Restore(#[from] RestoreError),
    #[error(transparent)]
    Recover(#[from] RecoverError),
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Failure::Bind { .. } | Failure::Birth(BirthError::Listen(_)) => 69,
            Failure::Machine(_) | Failure::Files(_) | Failure::System(_) => 71,
            Failure::Start(StartError::Ring(_) | StartError::Executor(_)) => 71,
            Failure::Start(StartError::Io { error, .. }) if is_disk_full(error) => EXIT_DISK_FULL,
            Failure::Restore(RestoreError::Write { why, .. }) if is_disk_full(why) => {
                EXIT_DISK_FULL
            }
            Failure::Restore(RestoreError::Damaged { .. } | RestoreError::OtherVersion { .. }) => {
                65
            }
            Failure::Restore(RestoreError::Unreadable { .. }) => 66,
            Failure::Restore(RestoreError::Dir(_)) => 73,
            Failure::Restore(RestoreError::Write { .. }) => 74,
            Failure::Recover(RecoverError::Io { why, .. }) if is_disk_full(why) => EXIT_DISK_FULL,
            Failure::Recover(RecoverError::Io { .. }) => 74,
            Failure::Recover(RecoverError::With(RestoreError::Unreadable { .. })) => 66,
            Failure::Recover(RecoverError::With(_) | RecoverError::OtherCluster { .. }) => 65,
            Failure::Recover(_) => 73,
            Failure::Dir(_) | Failure::Birth(_) | Failure::Start(_) => 73,
            Failure::Fatal(Fatal::DiskFull(_)) => EXIT_DISK_FULL,
            Failure::Fatal(_) => 74,
            Failure::Config(_) => 78,
        }
    }
}

fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn main() -> ExitCode {
    let started = Instant::now();
    let arguments = Arguments::parse();
    match run(&arguments, started) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // The one line that must be seen, whatever is logged and however.
            eprintln!("tercetd: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(arguments: &Arguments, started: Instant) -> Result<(), Failure> {
    let config = Config::load(arguments)?;
    if arguments.check_config {
        let text = toml::to_string(&config.settings()).expect("settings are plain values");
        print!("{text}");
        return Ok(());
    }
    logs::start(&config)?;
    environment::check()?;
    memory::start().map_err(|e| Failure::System(format!("no thread can be started: {e}")))?;
    if let Some(Command::Restore(arguments)) = &arguments.command {
        return restore(&config, &arguments.file);
    }
    if let Some(Command::Recover(arguments)) = &arguments.command {
        let make = |manifest: &Manifest| make_config(&config, manifest);
        return Ok(recover::recover(&config.data_dir, arguments, make, &mut |text| {
            print!("{text}")
        })?);
    }
    match join(config, started)? {
        Some(node) => serve(node),
        None => {
            info!("stopped before the node was part of a cluster");
            Ok(())
        }
    }
}

/// A node that belongs to a cluster and does not serve yet.
struct Node {
    config: Config,
    started: Instant,
    /// Locked as long as the node runs.
    dir: Arc<DataDir>,
    manifest: Manifest,
    listener: TcpListener,
    http: TcpListener,
    bound: SocketAddr,
    advertised: String,
    post: Post<ToControl>,
    inbox: Inbox<ToControl>,
    stop: Stop,
}

/// Takes the data directory and the addresses, and waits until the node belongs to a cluster; `None`
/// when it is told to stop before.
fn join(config: Config, started: Instant) -> Result<Option<Node>, Failure> {
    let dir = Arc::new(DataDir::take(&config.data_dir)?);
    let manifest = match dir.read(config.node)? {
        Some(manifest) if manifest.is_born() => manifest,
        Some(manifest) => adjust(&dir, &config, manifest)?,
        None => make(&dir, &config)?,
    };
    tell_what_is_kept(&config, &manifest);
    let listener = bind("the data plane", "listen", config.listen)?;
    let http = bind("HTTP", "http", config.http)?;
    let (post, inbox) =
        mailbox(CONTROL_MAILBOX_MAX).map_err(|e| Failure::System(format!("no mailbox: {e}")))?;
    let stop = Stop::new(post.clone());
    control::watch_signals(stop.clone(), EXIT_SECOND_SIGNAL)
        .map_err(|e| Failure::System(format!("signals can't be watched: {e}")))?;
    let bound = listener.local_addr().map_err(|e| Failure::Birth(BirthError::Listen(e)))?;
    let advertised = config.advertised(bound);
    let founder = Newborn {
        listener: &listener,
        dir: Arc::clone(&dir),
        manifest,
        peers: config.peers.clone(),
        advertised: advertised.clone(),
        cache_bytes_asked: config.cache_bytes_max,
        engines_asked: config.engines_asked,
        level_max: config.level_max,
        stop: stop.flag(),
    };
    let manifest = match birth::join_cluster(founder) {
        Err(BirthError::Stopped) => return Ok(None),
        joined => joined.map_err(Failure::Birth)?,
    };
    Ok(Some(Node {
        config,
        started,
        dir,
        manifest,
        listener,
        http,
        bound,
        advertised,
        post,
        inbox,
        stop,
    }))
}

/// Starts both planes and waits until the node is to stop, or can't go on.
fn serve(mut node: Node) -> Result<(), Failure> {
    keep_durable(&mut node.manifest, node.dir.path());
    let threads = node.config.cores.min(node.manifest.engines);
    let cpus = place(&node.config.pin, threads);
    let mut facts = facts(&node, threads, cpus.clone());
    let named = Named::default();
    let data_dir = node.dir.path().to_owned();
    let engine_dirs: Vec<_> =
        (0..node.manifest.engines).map(|e| segments::engine_dir(&data_dir, e)).collect();
    for engine_dir in &engine_dirs {
        snapshots::prepare(engine_dir).map_err(|e| snapshots_failed(engine_dir, &e))?;
    }
    let make_config = make_config(&node.config, &node.manifest);
    let nodes = make_config(0).known_nodes();
    let Manifest { writer, segment_bytes, .. } = node.manifest;
    let seats = seats(&node.config, &node.manifest, threads, nodes.nodes().count())?;
    let repair = Arc::new(Repair::new(Arc::clone(&node.dir), node.manifest));
    let plan = Plan {
        listener: node.listener,
        data_dir: data_dir.clone(),
        engines: facts.engines,
        threads,
        cpus,
        writer,
        segment_bytes,
        make_config,
        peers: node.config.peers.iter().map(|(peer, at)| (peer, at.to_owned())).collect(),
        to_control: node.post.clone(),
        seats,
        load_snapshot: load_snapshot(&data_dir, Arc::clone(&named)),
        repair: Some(Arc::clone(&repair)),
    };
    let plane = Arc::new(data::start(plan).map_err(Failure::Start)?);
    for (engine, engine_dir) in (0..).zip(&engine_dirs) {
        let named = named.lock().expect("nobody panics while holding it");
        let of_engine = named.iter().filter(|(e, _, _)| *e == engine);
        let of_engine = of_engine.map(|(_, group, index)| (*group, *index)).collect();
        snapshots::keep_only(engine_dir, &of_engine)
            .map_err(|e| snapshots_failed(engine_dir, &e))?;
    }
    let manifest = repair.manifest();
    facts.renewed = manifest.renewed.clone();
    facts.startup = node.started.elapsed();
    tell_ready(&facts);
    let control = control::start(Setup {
        inbox: node.inbox,
        http: node.http,
        facts,
        plane: Arc::downgrade(&plane),
        dir: Arc::clone(&node.dir),
        manifest,
        nodes,
        stop: node.stop,
    });
    let ended = control.and_then(control::ControlPlane::join);
    plane.stop();
    finish(ended, plane)?;
    info!("stopped");
    Ok(())
}

/// Makes a data directory from a backup.
fn restore(config: &Config, file: &Path) -> Result<(), Failure> {
    let backup = Backup::open(file)?;
    let kept = backup.head().cache_bytes_max;
    if let Some(asked) = config.cache_bytes_max.filter(|asked| *asked != kept) {
        let path = config.data_dir.clone();
        return Err(Failure::Dir(DirError::OtherCacheSize { path, kept, asked }));
    }
    let (engines, shards) = (config.engines, backup.head().shards);
    if engines > shards {
        return Err(Failure::Config(ConfigError::Invalid(format!(
            "engines is {engines}, but the backup is of {shards} shards, and each engine keeps at least one: give --engines {shards} or fewer"
        ))));
    }
    let address = config.advertised(config.listen);
    if address.ends_with(":0") {
        return Err(Failure::Config(ConfigError::Invalid(format!(
            "{address} is kept in the directory as where others reach this node, and names no port: give --listen or --advertise as for running it"
        ))));
    }
    let dir = DataDir::take(&config.data_dir)?;
    dir.begin_restore()?;
    backup.restore(&dir, blank(&dir, config)?, address)?;
    Ok(())
}

/// Makes the manifest of a node that has none: nobody's yet, but with an incarnation of its own.
fn make(dir: &DataDir, config: &Config) -> Result<Manifest, Failure> {
    let manifest = blank(dir, config)?;
    dir.write(&manifest)?;
    info!(
        dir = %dir.path().display(),
        engines = manifest.engines,
        writer = manifest.writer.name(),
        why = manifest.writer_why,
        "made the data directory"
    );
    Ok(manifest)
}

/// A data directory that belongs to no cluster yet has nothing in it: it becomes what the configuration wants now.
fn adjust(dir: &DataDir, config: &Config, manifest: Manifest) -> Result<Manifest, Failure> {
    let wanted = Manifest {
        engines: config.engines,
        shards: config.shards,
        cache_bytes_max: config.cache_bytes_max.unwrap_or(CACHE_BYTES_DEFAULT),
        segment_bytes: config.segment_bytes,
        ..manifest.clone()
    };
    if wanted != manifest {
        dir.write(&wanted)?;
    }
    Ok(wanted)
}

/// A manifest of nobody, as the configuration wants it.
fn blank(dir: &DataDir, config: &Config) -> Result<Manifest, Failure> {
    let (writer, writer_why) = match config.wal {
        Wal::Mapped => (Writer::Mapped, CONFIGURED.to_owned()),
        Wal::Direct => (Writer::Direct, CONFIGURED.to_owned()),
        Wal::Auto => {
            let (writer, report) = trial::trial(dir.path()).map_err(|e| DirError::Io {
                path: dir.path().to_owned(),
                what: format!("trying the journal's writers: {e}"),
            })?;
            (writer, report.to_string())
        }
    };
    Ok(Manifest {
        cluster: ClusterId::NONE,
        node: config.node,
        incarnation: new_incarnation(),
        engines: config.engines,
        shards: config.shards,
        cache_bytes_max: config.cache_bytes_max.unwrap_or(CACHE_BYTES_DEFAULT),
        segment_bytes: config.segment_bytes,
        writer,
        writer_why,
        founders: vec![],
        nodes: vec![],
        renewed: vec![],
    })
}

/// A writer that a trial chose where it is not known to sync gives way.
fn keep_durable(manifest: &mut Manifest, dir: &Path) {
    let writer = trial::still(dir, manifest.writer, manifest.writer_why == CONFIGURED);
    if writer != manifest.writer {
        manifest.writer = writer;
        "this file system is not known to sync direct writes".clone_into(&mut manifest.writer_why);
    }
}

/// Says which settings count no more, because the data directory was made with others.
fn tell_what_is_kept(config: &Config, manifest: &Manifest) {
    let kept = [
        ("engines", u64::from(config.engines), u64::from(manifest.engines)),
        ("shards", u64::from(config.shards), u64::from(manifest.shards)),
        ("segment-size", config.segment_bytes, manifest.segment_bytes),
    ];
    for (name, asked, kept) in kept {
        if asked != kept {
            info!("{name} stays {kept}, as the data directory was made, and is not {asked}");
        }
    }
    let asked = match config.wal {
        Wal::Auto => None,
        Wal::Mapped => Some(Writer::Mapped),
        Wal::Direct => Some(Writer::Direct),
    };
    if let Some(asked) = asked
        && asked != manifest.writer
    {
        let kept = manifest.writer;
        info!("wal stays {kept}, as the data directory was made, and is not {asked}");
    }
}

/// Binds an address. One that is in use is tried again for a while: the kernel lets go of a killed
/// process's io_uring, and with it of its listening sockets, a moment after the process is gone.
fn bind(
    what: &'static str,
    flag: &'static str,
    address: SocketAddr,
) -> Result<TcpListener, Failure> {
    let until = Instant::now() + BIND_WITHIN;
    loop {
        match TcpListener::bind(address) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                std::thread::sleep(BIND_AGAIN);
            }
            bound => {
                return bound.map_err(|why| Failure::Bind { what, flag, address, why });
            }
        }
    }
}

/// The CPU of each thread, or `None` where the kernel shall choose.
fn place(pin: &Pin, threads: u32) -> Option<Vec<usize>> {
    let threads = threads as usize;
    match pin {
        Pin::None => None,
        Pin::Cpus(cpus) => Some(cpus.iter().take(threads).map(|cpu| *cpu as usize).collect()),
        Pin::Auto => {
            let usable = environment::usable_cpus();
            if usable.len() < threads {
                info!(threads, cpus = usable.len(), "fewer CPUs than threads: none is pinned");
                return None;
            }
            Some(usable.into_iter().take(threads).collect())
        }
    }
}

/// How many connections each thread has seats for: what the files leave that this process may open.
fn seats(
    config: &Config,
    manifest: &Manifest,
    threads: u32,
    nodes: usize,
) -> Result<Seats, Failure> {
    let needs = environment::Needs {
        engines: manifest.engines,
        threads,
        segments_max: config.segments_max,
        peers: nodes.saturating_sub(1),
    };
    let files = environment::files_max();
    let seats = environment::seats(files, needs)?;
    let (clients, newcomers) = (seats.clients, seats.newcomers);
    if seats == Seats::MOST {
        info!(files, clients, newcomers, "seats for connections, of each thread");
    } else {
        warn!(
            files,
            clients,
            newcomers,
            "seats for connections, of each thread: fewer than there could be, since the process may open no more files. Raise it: ulimit -n, or LimitNOFILE= in a unit"
        );
    }
    Ok(seats)
}

fn make_config(config: &Config, manifest: &Manifest) -> Box<data::MakeConfig> {
    let (config, manifest) = (config.clone(), manifest.clone());
    Box::new(move |engine| EngineConfig {
        cluster: manifest.cluster,
        node: manifest.node,
        engine,
        engines: manifest.engines,
        shards: manifest.shards,
        replication: REPLICATION,
        founders: manifest.founders.clone(),
        nodes: manifest.nodes.clone(),
        incarnation: manifest.incarnation,
        seed: environment::random_seed(),
        secret: environment::random_secret(),
        election_timeout_min: config.election_timeout_min,
        election_timeout_max: config.election_timeout_max,
        heartbeat: config.heartbeat,
        level_max: config.level_max,
        kinds: Kinds::REAL,
        balance_after: BALANCE_AFTER,
        reads: config.reads,
        segment_bytes: manifest.segment_bytes,
        segments_max: config.segments_max,
        cache_bytes_max: manifest.cache_bytes_max,
    })
}

/// Snapshots that were asked for: the engine, the group and the index.
type Named = Arc<Mutex<BTreeSet<(u32, GroupId, Index)>>>;

fn load_snapshot(data_dir: &Path, named: Named) -> Box<data::LoadSnapshot> {
    let data_dir = data_dir.to_owned();
    Box::new(move |engine, group, index, each| {
        named.lock().expect("nobody panics while holding it").insert((engine, group, index));
        snapshots::load(&segments::engine_dir(&data_dir, engine), group, index, each)
    })
}

fn snapshots_failed(engine_dir: &Path, e: &io::Error) -> Failure {
    let path = engine_dir.to_owned();
    Failure::Dir(DirError::Io { path, what: format!("its snapshots: {e}") })
}

fn facts(node: &Node, threads: u32, cpus: Option<Vec<usize>>) -> Facts {
    let (config, manifest) = (&node.config, &node.manifest);
    Facts {
        node: manifest.node,
        cluster: manifest.cluster,
        incarnation: manifest.incarnation,
        engines: manifest.engines,
        renewed: manifest.renewed.clone(),
        threads,
        cpus,
        shards: manifest.shards,
        writer: manifest.writer.name(),
        writer_why: manifest.writer_why.clone(),
        listen: node.bound.to_string(),
        advertise: node.advertised.clone(),
        http: node.http.local_addr().unwrap_or(config.http).to_string(),
        started: node.started,
        startup: node.started.elapsed(),
        settings: Config { cache_bytes_max: Some(manifest.cache_bytes_max), ..config.clone() }
            .settings(),
    }
}

fn tell_ready(facts: &Facts) {
    info!(
        node = facts.node.0,
        cluster = %facts.cluster,
        listen = facts.listen,
        advertise = facts.advertise,
        http = facts.http,
        engines = facts.engines,
        threads = facts.threads,
        cpus = ?facts.cpus,
        writer = facts.writer,
        startup_ms = facts.startup.as_millis(),
        "serving"
    );
}

/// Waits for the data plane to end, but not for ever.
fn finish(ended: Result<Option<Fatal>, String>, plane: Arc<DataPlane>) -> Result<(), Failure> {
    let watchdog = std::thread::Builder::new().name("tercet-stop".into()).spawn(|| {
        std::thread::sleep(STOP_WITHIN);
        error!("the data plane did not end within {} s: ending at once", STOP_WITHIN.as_secs());
        std::process::exit(EXIT_NOT_STOPPED);
    });
    if let Err(e) = watchdog {
        warn!("nothing watches over the end: {e}");
    }
    let plane = Arc::into_inner(plane).expect("the control plane has ended and held it weakly");
    let joined = plane.join();
    match ended.map_err(Failure::System)? {
        Some(fatal) => Err(Failure::Fatal(fatal)),
        None => joined.map_err(Failure::Fatal),
    }
}
