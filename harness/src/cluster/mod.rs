//! Real `tercetd` processes on this machine: start, kill, restart, weigh, stop.
//!
//! # How it works
//!
//! Ports are found by binding port 0 and letting go. Each node gets a data directory and a log of its
//! own under one directory. A node is ready when `GET /readyz` says 200; the cluster is ready when the
//! topology names a leader for every shard.
//!
//! # Invariants
//!
//! - No process outlives its [`Cluster`]: dropping it stops them, and the kernel stops them when the
//!   thread that started them dies. So start and restart nodes on a thread that lives as long.
//! - Every wait is bounded, and what failed says so with the end of the node's log.

pub mod ask;
mod config;
pub mod launch;
pub mod place;
mod system;
#[cfg(test)]
mod tests;
pub mod weigh;

pub use config::{ClusterConfig, ClusterError, Home, Keep};
pub use system::{CLIENTS_PORT, file_system};

use ask::{Ask, Topology};
use launch::{Launch, beside_us};
use rustix::process::Signal;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::thread::sleep;
use std::time::{Duration, Instant};
use system::{addresses, addresses_at, with_files_max};
use weigh::{Weight, disk_bytes};

/// How long a node may take to start, a cluster to find its leaders.
pub const START_MAX: Duration = Duration::from_secs(30);
/// How long a node may take to stop in order, before it is killed.
pub const STOP_MAX: Duration = Duration::from_secs(10);
/// How long one question to a node may take.
const ASK_MAX: Duration = Duration::from_millis(500);
/// Between two looks at something that is awaited.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Lines of a log that are shown when its node fails.
const LOG_TAIL_LINES: usize = 20;

/// One node's process.
#[derive(Debug)]
pub struct Process {
    /// The node's id, from 1.
    pub node: u32,
    /// Where clients connect.
    pub address: SocketAddr,
    /// Where HTTP is served.
    pub http: SocketAddr,
    /// Its directory.
    pub data_dir: PathBuf,
    /// Its log.
    pub log: PathBuf,
    /// From its start to readiness, the last time, in milliseconds.
    pub startup_ms: f64,
    child: Option<Child>,
    started: Instant,
}

impl Process {
    fn new(dir: &Path, node: u32, address: SocketAddr, http: SocketAddr) -> Process {
        Process {
            node,
            address,
            http,
            data_dir: dir.join(format!("node-{node}")),
            log: dir.join(format!("node-{node}.log")),
            startup_ms: 0.0,
            child: None,
            started: Instant::now(),
        }
    }

    /// As `--peers` names it.
    fn as_peer(&self) -> String {
        format!("{}={}", self.node, self.address)
    }
}

/// Nodes that run here.
#[derive(Debug)]
pub struct Cluster {
    config: ClusterConfig,
    launcher: Option<PathBuf>,
    tercetd: PathBuf,
    /// The founders, as `--peers` names them.
    peers: String,
    nodes: Vec<Process>,
    /// From the last node's start to a leader for every shard, in milliseconds.
    pub leaders_ms: f64,
}

impl Cluster {
    /// Starts all nodes and waits until every shard has a leader.
    ///
    /// # Errors
    /// [`ClusterError`]; nothing is left running.
    pub fn start(config: ClusterConfig) -> Result<Cluster, ClusterError> {
        assert!(config.nodes > 0, "a cluster has at least one node");
        let tercetd = config.tercetd.clone().or_else(|| beside_us("tercetd"));
        let tercetd = tercetd.ok_or(ClusterError::NoServer)?;
        let ports = match config.homes.as_slice() {
            [] => addresses(config.nodes, config.first_port),
            homes => Ok(addresses_at(homes)),
        };
        let ports = ports
            .map_err(|why| ClusterError::Io { what: "binding the nodes' ports".into(), why })?;
        let (clients, https) = ports.split_at(config.nodes as usize);
        let nodes: Vec<Process> = (1..=config.nodes)
            .zip(clients.iter().zip(https))
            .map(|(node, (address, http))| Process::new(&config.data_dir, node, *address, *http))
            .collect();
        let peers: Vec<String> = nodes.iter().map(Process::as_peer).collect();
        let launcher = beside_us("tercet-bench");
        let peers = peers.join(",");
        let mut cluster = Cluster { config, launcher, tercetd, peers, nodes, leaders_ms: 0.0 };
        for node in 1..=cluster.config.nodes {
            cluster.spawn(node, &[])?;
        }
        let since = Instant::now();
        for node in 1..=cluster.config.nodes {
            cluster.wait_ready(node)?;
        }
        cluster.wait_leaders()?;
        cluster.leaders_ms = since.elapsed().as_secs_f64() * 1e3;
        Ok(cluster)
    }

    /// The nodes, by id from 1.
    pub fn nodes(&self) -> &[Process] {
        &self.nodes
    }

    /// Where clients connect, dead nodes too.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.address).collect()
    }

    /// Where the nodes' data and logs are.
    pub fn data_dir(&self) -> &Path {
        &self.config.data_dir
    }

    /// Leaves the data and the logs where they are, whatever was configured.
    pub fn keep(&mut self) {
        self.config.keep = Keep::Data;
    }

    /// What a node says of itself, if it answers: the document of `GET /status`.
    pub fn status(&self, node: u32) -> Option<serde_json::Value> {
        let (_, body) = ask::http_get(self.process(node).http, "/status", ASK_MAX).ok()?;
        serde_json::from_slice(&body).ok()
    }

    /// From now on nodes are started with another server.
    pub fn serve_with(&mut self, tercetd: PathBuf) {
        self.tercetd = tercetd;
    }

    /// Sends a signal to a node that runs.
    ///
    /// # Errors
    /// [`ClusterError::Io`].
    pub fn signal(&self, node: u32, signal: Signal) -> Result<(), ClusterError> {
        let Some(child) = &self.process(node).child else { return Ok(()) };
        let io = |why| ClusterError::Io { what: format!("a signal to node {node}"), why };
        system::signal(child, signal).map_err(io)
    }

    /// The process id of a node that runs.
    pub fn pid(&self, node: u32) -> Option<u32> {
        self.process(node).child.as_ref().map(Child::id)
    }

    /// Ends a node with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// [`ClusterError::Io`].
    pub fn kill(&mut self, node: u32) -> Result<(), ClusterError> {
        let Some(mut child) = self.process_mut(node).child.take() else { return Ok(()) };
        let io = |why| ClusterError::Io { what: format!("killing node {node}"), why };
        child.kill().map_err(io)?;
        child.wait().map_err(io)?;
        Ok(())
    }

    /// Ends a node with SIGTERM, then, after [`STOP_MAX`], with SIGKILL. `None`: it had to be killed.
    ///
    /// # Errors
    /// [`ClusterError::Io`].
    pub fn stop_node(&mut self, node: u32) -> Result<Option<ExitStatus>, ClusterError> {
        self.signal(node, Signal::TERM)?;
        self.wait_ended(node)
    }

    /// Waits until a node that was told to stop has ended; after [`STOP_MAX`] it is killed, and `None`.
    fn wait_ended(&mut self, node: u32) -> Result<Option<ExitStatus>, ClusterError> {
        let io = |why| ClusterError::Io { what: format!("stopping node {node}"), why };
        let Some(child) = &mut self.process_mut(node).child else { return Ok(None) };
        let until = Instant::now() + STOP_MAX;
        while Instant::now() < until {
            if let Some(status) = child.try_wait().map_err(io)? {
                self.process_mut(node).child = None;
                return Ok(Some(status));
            }
            sleep(LOOK_EVERY);
        }
        self.kill(node)?;
        Ok(None)
    }

    /// Starts a node that does not run, with further flags (the last of a flag counts), and waits until
    /// it is ready. Gives how long that took.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn restart(&mut self, node: u32, flags: &[&str]) -> Result<Duration, ClusterError> {
        assert!(self.process(node).child.is_none(), "node {node} runs already");
        self.spawn(node, flags)?;
        self.wait_ready(node)
    }

    /// Starts one node more, on this machine's loopback, and does not wait: it waits itself to be added. Gives
    /// its id.
    ///
    /// # Errors
    /// [`ClusterError::Io`].
    pub fn spawn_another(&mut self) -> Result<u32, ClusterError> {
        let ports = addresses(1, None);
        let ports = ports
            .map_err(|why| ClusterError::Io { what: "binding the node's ports".into(), why })?;
        let node = self.nodes.len() as u32 + 1;
        let process = Process::new(&self.config.data_dir, node, ports[0], ports[1]);
        self.nodes.push(process);
        self.spawn(node, &[])?;
        Ok(node)
    }

    /// Removes what a node that does not run has on its disk.
    ///
    /// # Errors
    /// [`ClusterError::Io`].
    pub fn lose_disk(&mut self, node: u32) -> Result<(), ClusterError> {
        assert!(self.process(node).child.is_none(), "node {node} runs");
        let io = |why| ClusterError::Io { what: format!("removing node {node}'s data"), why };
        fs::remove_dir_all(&self.process(node).data_dir).map_err(io)
    }

    /// Starts a node and does not wait.
    ///
    /// # Errors
    /// [`ClusterError::Io`].
    pub fn spawn(&mut self, node: u32, flags: &[&str]) -> Result<(), ClusterError> {
        let process = self.process(node);
        let dir = &process.data_dir;
        let io = |what: &str, why| ClusterError::Io { what: format!("{what} of node {node}"), why };
        fs::create_dir_all(dir).map_err(|why| io("making the data directory", why))?;
        let home = self.config.homes.get(node as usize - 1);
        let mut words = self.config.files_max.map_or_else(Vec::new, with_files_max);
        words.extend(home.map_or_else(Vec::new, |home| home.enter.clone()));
        words.push(self.tercetd.to_string_lossy().into_owned());
        words.extend(self.arguments(process, flags));
        let launch = Launch {
            program: PathBuf::from(words.remove(0)),
            arguments: words,
            log: process.log.clone(),
            cpus: self.config.cpus.get(node as usize - 1).cloned().unwrap_or_default(),
        };
        let started = Instant::now();
        let child = launch.start(self.launcher.as_deref());
        let child = child.map_err(|why| io("starting the process", why))?;
        let process = self.process_mut(node);
        process.child = Some(child);
        process.started = started;
        Ok(())
    }

    /// Waits until a node says that it is ready. Gives the time since its start.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn wait_ready(&mut self, node: u32) -> Result<Duration, ClusterError> {
        loop {
            self.check(node)?;
            let process = self.process_mut(node);
            let took = process.started.elapsed();
            if matches!(ask::http_status(process.http, "/readyz", ASK_MAX), Ok(200)) {
                process.startup_ms = took.as_secs_f64() * 1e3;
                return Ok(took);
            }
            if took > START_MAX {
                return Err(self.late(node, format!("node {node} was not ready")));
            }
            sleep(LOOK_EVERY);
        }
    }

    /// Waits until a node names a living leader for every shard.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn wait_leaders(&mut self) -> Result<Topology, ClusterError> {
        let until = Instant::now() + START_MAX;
        loop {
            for node in 1..=self.nodes.len() as u32 {
                let Ok(topology) = self.topology_of(node) else { continue };
                let lives = |shard| {
                    topology.leader_of(shard).is_some_and(|leader| self.pid(leader).is_some())
                };
                if topology.complete() && (0..topology.shards).all(lives) {
                    return Ok(topology);
                }
            }
            if Instant::now() > until {
                let first = self.nodes.iter().find(|n| n.child.is_some()).map_or(1, |n| n.node);
                return Err(self.late(first, "not every shard had a leader".into()));
            }
            sleep(LOOK_EVERY);
        }
    }

    /// Where everything is, as one node sees it.
    ///
    /// # Errors
    /// When the node is not reached.
    pub fn topology_of(&self, node: u32) -> Result<Topology, ask::AskError> {
        Ask::connect(self.process(node).address, 0, [0; 16], ASK_MAX)?.0.topology()
    }

    /// The leader of a shard, as the first living node that knows a living one says.
    pub fn leader_of(&self, shard: u32) -> Option<u32> {
        let living = self.nodes.iter().filter(|node| node.child.is_some());
        let says = |node: &Process| self.topology_of(node.node).ok()?.leader_of(shard);
        living.filter_map(says).find(|leader| self.pid(*leader).is_some())
    }

    /// What each node has used so far, by id; zero where it does not run.
    pub fn weights(&self) -> Vec<Weight> {
        let weight = |node: &Process| node.child.as_ref().map(|child| Weight::of(child.id()));
        self.nodes.iter().map(|node| weight(node).unwrap_or_default()).collect()
    }

    /// What each node's journal takes on the disk, in bytes.
    pub fn wal_bytes(&self) -> Vec<u64> {
        self.nodes.iter().map(|node| disk_bytes(&node.data_dir, "wal")).collect()
    }

    /// Keeps the evidence of a failure: data and logs stay, and what each node says at `/status` is
    /// written beside them. Gives the directory.
    pub fn witness(&mut self) -> &Path {
        self.config.keep = Keep::Data;
        for node in &self.nodes {
            let said = ask::http_get(node.http, "/status", ASK_MAX);
            let said = said.map_or_else(|error| error.to_string().into_bytes(), |(_, body)| body);
            let file = self.config.data_dir.join(format!("node-{}.status.json", node.node));
            if let Err(error) = fs::write(&file, said) {
                eprintln!("{} can't be written: {error}", file.display());
            }
        }
        &self.config.data_dir
    }

    /// The longest slice of a snapshot that a core of each node did, in milliseconds of CPU time, as the node
    /// says itself.
    pub fn snapshot_stalls_ms(&self) -> Vec<f64> {
        let of_node = |node: &Process| {
            let status = self.status(node.node)?;
            let cores = status["cores"].as_array()?.iter();
            cores.filter_map(|core| core["snapshot_us_max"].as_f64()).reduce(f64::max)
        };
        self.nodes.iter().map(|node| of_node(node).unwrap_or(f64::NAN) / 1e3).collect()
    }

    /// What each node's directory takes on the disk, in bytes.
    pub fn data_bytes(&self) -> Vec<u64> {
        self.nodes.iter().map(|node| disk_bytes(&node.data_dir, "")).collect()
    }

    /// The last lines of a node's log.
    pub fn log_tail(&self, node: u32) -> String {
        let text = fs::read_to_string(&self.process(node).log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }

    /// Stops all nodes in order and gives those that had to be killed.
    ///
    /// # Errors
    /// [`ClusterError::Io`].
    pub fn stop(&mut self) -> Result<Vec<u32>, ClusterError> {
        let all = 1..=self.nodes.len() as u32;
        for node in all.clone() {
            self.signal(node, Signal::TERM)?;
        }
        let mut killed = Vec::new();
        for node in all {
            let ran = self.pid(node).is_some();
            if ran && self.wait_ended(node)?.is_none() {
                killed.push(node);
            }
        }
        Ok(killed)
    }

    fn arguments(&self, process: &Process, flags: &[&str]) -> Vec<String> {
        let mut peers = self.peers.clone();
        if process.node > self.config.nodes {
            peers = format!("{peers},{}", process.as_peer());
        }
        let mut arguments: Vec<String> = vec![
            "--node".into(),
            process.node.to_string(),
            "--peers".into(),
            peers,
            "--listen".into(),
            process.address.to_string(),
            "--http".into(),
            process.http.to_string(),
            "--data-dir".into(),
            process.data_dir.to_string_lossy().into_owned(),
        ];
        let flags: Vec<String> = flags.iter().map(|flag| flag.to_string()).collect();
        let given = |flag: &str, among: &[String]| among.iter().any(|it| name_of(it) == flag);
        let mut set = |flag: &str, value: String| {
            if !given(flag, &flags) && !given(flag, &self.config.flags) {
                arguments.extend([flag.to_string(), value]);
            }
        };
        set("--cores", self.config.cores.to_string());
        if let Some(shards) = self.config.shards {
            set("--shards", shards.to_string());
        }
        // Several nodes share this machine: where they run is for us to say.
        let cpus = self.config.cpus.get(process.node as usize - 1);
        set("--pin", cpus.filter(|c| !c.is_empty()).map_or("none".into(), |c| place::list(c)));
        let mut all = self.config.flags.iter().peekable();
        while let Some(flag) = all.next() {
            let value = all.next_if(|next| !next.starts_with("--"));
            if !given(name_of(flag), &flags) {
                arguments.extend([Some(flag), value].into_iter().flatten().cloned());
            }
        }
        arguments.extend(flags);
        arguments
    }

    /// Whether a node that was started still runs.
    ///
    /// # Errors
    /// [`ClusterError::Ended`], with the end of its log.
    pub fn check(&mut self, node: u32) -> Result<(), ClusterError> {
        let Some(child) = &mut self.process_mut(node).child else { return Ok(()) };
        let Ok(Some(status)) = child.try_wait() else { return Ok(()) };
        self.process_mut(node).child = None;
        Err(ClusterError::Ended { node, status, tail: self.log_tail(node) })
    }

    fn late(&self, node: u32, what: String) -> ClusterError {
        ClusterError::Late { what, node, tail: self.log_tail(node) }
    }

    fn process(&self, node: u32) -> &Process {
        &self.nodes[node as usize - 1]
    }

    fn process_mut(&mut self, node: u32) -> &mut Process {
        &mut self.nodes[node as usize - 1]
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Nothing can be done about a failure here; the kernel ends what is left when we end.
        let _ = self.stop();
        for process in &self.nodes {
            if self.config.keep == Keep::Nothing {
                let _ = fs::remove_dir_all(&process.data_dir);
                let _ = fs::remove_file(&process.log);
            }
        }
        if self.config.keep == Keep::Nothing {
            let _ = fs::remove_dir(&self.config.data_dir);
        }
    }
}

/// A flag's name, without the value that may follow it.
fn name_of(flag: &str) -> &str {
    flag.split('=').next().unwrap_or(flag)
}
