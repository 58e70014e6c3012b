//! What a node is told: flags, then the environment, then a file, then defaults.
//!
//! Every setting is declared once, in [`Settings`], which is both the command line (with
//! `TERCET_*` as its environment) and the TOML file. [`Config`] is the result: complete, checked, and
//! what the rest of the server reads.
//!
//! # Invariants
//!
//! - A key that is not known is an error that names it, never ignored.
//! - After [`Config::load`] nothing is optional that the server needs.

mod values;

pub use values::{Bytes, LogFormat, Peers, Pin, ReadMode, Wal};

use crate::ids::NodeId;
use crate::level::Level;
use crate::limits::UNIT_BYTES_MAX;
use crate::raft;
use clap::{Parser, Subcommand};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Bytes of a journal segment, if nothing else is said: 12 of them stay under 1 GiB.
pub const SEGMENT_BYTES_DEFAULT: u64 = 64 << 20;
/// Segments of a journal, if nothing else is said.
pub const SEGMENTS_MAX_DEFAULT: u32 = 12;
/// What the cache lines of one shard may take in a new cluster, in bytes.
pub const CACHE_BYTES_DEFAULT: u64 = 64 << 20;
/// The least of that.
pub const CACHE_BYTES_MIN: u64 = 1 << 20;
/// The most of that.
pub const CACHE_BYTES_MAX: u64 = 1 << 40;
/// Shards of a cluster for each of a node's engines, if nothing else is said at its birth and not more nodes found
/// it: each engine of three nodes leads one. Twelve cost a fifth more CPU time an operation (ARCHITECTURE.md).
pub const SHARDS_PER_ENGINE: u32 = 3;
/// Replicas of a group, or as many as there are nodes. No setting: all nodes must agree on it.
pub const REPLICATION: usize = 3;
/// Shards of a cluster, at most.
pub const SHARDS_MAX: u32 = 4096;
/// Engines of a node, at most.
pub const ENGINES_MAX: u32 = 256;
/// Founders of a cluster, at most.
pub const FOUNDERS_MAX: usize = 9;
/// Smallest segment: a unit and the checkpoint that opens the segment must fit.
pub const SEGMENT_BYTES_MIN: u64 = (UNIT_BYTES_MAX + (1 << 20)) as u64;
/// Largest segment.
pub const SEGMENT_BYTES_MAX: u64 = 4 << 30;
/// Fewest segments with which one can always be freed while another is written.
pub const SEGMENTS_MIN: u32 = crate::journal::SEGMENTS_MIN;

const HELP_AFTER: &str = "\
CONFIGURATION:
  Every setting can stand in three places. A flag goes before the environment, the environment
  before the file, the file before the default. In the file the key is the flag's long name
  without its dashes:

      node     = 1
      peers    = \"1=a.example:7400,2=b.example:7400,3=c.example:7400\"
      data-dir = \"/var/lib/tercet\"

EXAMPLES:
  A node by itself, for development:
      tercetd --data-dir ./data

  One of three nodes on one machine:
      tercetd --node 1 --data-dir ./data1 --listen 127.0.0.1:7401 --http 127.0.0.1:7481 \\
              --peers 1=127.0.0.1:7401,2=127.0.0.1:7402,3=127.0.0.1:7403 --pin none

  What a configuration amounts to, without starting anything:
      tercetd --config /etc/tercet.toml --check-config

  A new cluster of this node alone, from a backup that `tercet cluster backup` took:
      tercetd restore tercet.backup --data-dir ./data --advertise a.example:7400
      tercetd --data-dir ./data

  What this node has, after the others were lost for good (docs/recover.md):
      tercetd recover tercet.backup --data-dir ./data

SIGNALS:
  SIGTERM and SIGINT stop the node in order; a second one ends it at once.

EXIT CODES:
   0  stopped in order
   2  a flag is not known or malformed
  28  the disk is full (E202; also E127, E153 and E306, if that is why)
  65  restore, recover: the backup is damaged, or of another version or cluster (E125, E126, E154)
  66  restore, recover: the backup can't be read (E124)
  69  an address can't be bound (E130, E131)
  71  the machine lacks something: kernel, io_uring, locked memory, files (E132, E30x but for E306)
  73  the data directory is refused (E10x, E11x, E12x, E133, E134, E306)
      recover: the cluster is not lost, or --accept-loss was not given (E15x)
  74  the disk or the ring failed while running (E20x); the disk failed (E127, E153)
  75  the node did not stop in order in time
  78  the configuration is wrong (E14x)
 130  ended by a second signal";

/// Tercet's server: distributed locks, durable queues and a coherent cache on one Raft engine.
///
/// One process per machine. A cluster is born when all its founders are started with empty data
/// directories and the same --peers; from then on its identity stands in the data directories.
#[derive(Parser, Debug)]
#[command(name = "tercetd", version, after_long_help = HELP_AFTER, max_term_width = 100)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    /// What to do instead of running a node.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Read settings from this TOML file.
    #[arg(long, env = "TERCET_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Check the configuration, print what it amounts to, and exit.
    #[arg(long)]
    pub check_config: bool,
    /// The settings.
    #[command(flatten)]
    pub settings: Settings,
}

/// What tercetd does instead of running a node.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Make a data directory from a backup: a new cluster, with this node alone
    ///
    /// The file is read to its end before anything is written. The new cluster has as many shards as the old one
    /// and the same messages and cache lines; nobody's session, lock or delivery in flight. Fences, versions and
    /// message ids go on above all that were ever issued. Add nodes with `tercet cluster add-node`.
    ///
    /// Takes the same settings as running the node: --node, --engines, --segment-size, --wal and where others reach
    /// it (--advertise, --listen) are kept in the directory.
    Restore(RestoreArguments),
    /// Make a backup of what this node has, when the cluster has lost its majority for good
    ///
    /// The last resort: see docs/recover.md. Where nodes can still be started, start them instead. Reads the data
    /// directory of a node that does not run, and changes nothing in it. Shows for each group what is there, and
    /// writes FILE only with --accept-loss. `tercetd restore FILE` makes a new cluster of it. Refused as long as the
    /// other nodes that the directory knows answer and are a majority.
    Recover(RecoverArguments),
}

/// What a recovery is told.
#[derive(clap::Args, Debug)]
pub struct RecoverArguments {
    /// The backup to write.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// What may be missing here may be lost: write the file.
    #[arg(long)]
    pub accept_loss: bool,
    /// The other nodes are gone for good: do not ask them.
    #[arg(long)]
    pub others_are_gone: bool,
    /// A file that was recovered from another survivor: of each group the one is taken that has more.
    #[arg(long, value_name = "FILE")]
    pub with: Vec<PathBuf>,
    /// Read settings from this TOML file.
    #[arg(long, env = "TERCET_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The settings.
    #[command(flatten)]
    pub settings: Settings,
}

/// What a restore is told.
#[derive(clap::Args, Debug)]
pub struct RestoreArguments {
    /// The backup, as `tercet cluster backup` wrote it.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Read settings from this TOML file.
    #[arg(long, env = "TERCET_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The settings.
    #[command(flatten)]
    pub settings: Settings,
}

macro_rules! settings {
    ($($(#[$meta:meta])* $field:ident: $ty:ty,)*) => {
        /// The settings as they are given: in flags, in the environment and in the file.
        #[derive(clap::Args, Deserialize, Serialize, Clone, Default, PartialEq, Debug)]
        #[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
        pub struct Settings { $($(#[$meta])* pub $field: Option<$ty>,)* }

        impl Settings {
            /// These settings, and what they leave open taken from `below`.
            pub fn over(self, below: Settings) -> Settings {
                Settings { $($field: self.$field.or(below.$field),)* }
            }
        }
    };
}

settings! {
    /// This node's id, from 1; a node keeps it for life [default: 1]
    #[arg(long, env = "TERCET_NODE", value_name = "ID", help_heading = "Identity")]
    node: u32,
    /// All founders of the cluster, nine at most, this node included; empty for a single node. For a node
    /// that joins a cluster later: some nodes of that cluster, and itself.
    ///
    /// Addresses are this cluster's --advertise addresses. At the birth all founders are given; later
    /// only the addresses are read from it, and come before those that the cluster knows.
    #[arg(long, env = "TERCET_PEERS", value_name = "ID=HOST:PORT,...", help_heading = "Identity")]
    peers: Peers,
    /// Where this node keeps everything; made if it is not there [default: ./tercet-data]
    #[arg(long, env = "TERCET_DATA_DIR", value_name = "DIR", help_heading = "Identity")]
    data_dir: PathBuf,
    /// Engines of the node, each with a journal of its own. Counts until the node belongs to a cluster, and is the
    /// same on all its nodes [default: as many as the cluster, or the founder with the lowest id, has; that one takes
    /// as many as --cores, or --shards if fewer]
    #[arg(long, env = "TERCET_ENGINES", value_name = "N", help_heading = "Identity")]
    engines: u32,
    /// Shards of the cluster. Counts only at its birth: to grow to more nodes it needs at least as many as they will
    /// have engines together [default: 3 for each of a node's engines, or as many as founders if more]
    #[arg(long, env = "TERCET_SHARDS", value_name = "N", help_heading = "Identity")]
    shards: u32,
    /// Where clients and nodes connect [default: 0.0.0.0:7400]
    #[arg(long, env = "TERCET_LISTEN", value_name = "ADDR:PORT", help_heading = "Network")]
    listen: SocketAddr,
    /// How others reach this node [default: its entry in --peers, else the listen address]
    #[arg(long, env = "TERCET_ADVERTISE", value_name = "HOST:PORT", help_heading = "Network")]
    advertise: String,
    /// Where HTTP is served: /status /metrics /livez /readyz [default: 127.0.0.1:7480]
    #[arg(long, env = "TERCET_HTTP", value_name = "ADDR:PORT", help_heading = "Network")]
    http: SocketAddr,
    /// Data-plane threads [default: as many as there are CPUs]
    #[arg(long, env = "TERCET_CORES", value_name = "N", help_heading = "Machine")]
    cores: u32,
    /// Which CPUs the threads are pinned to: auto, none, or a list such as 0,2,4-7. With auto they
    /// are pinned when there is a CPU for each; with fewer, pinning costs up to a fifth
    /// [default: auto]
    #[arg(long, env = "TERCET_PIN", value_name = "auto|none|CPUS", help_heading = "Machine")]
    pin: Pin,
    /// How the journal is written: auto, mapped or direct. With auto a short trial decides when
    /// the data directory is made [default: auto]
    #[arg(long, env = "TERCET_WAL", value_name = "auto|mapped|direct", help_heading = "Machine")]
    wal: Wal,
    /// Size of a journal segment. Counts only when the data directory is made [default: 64MiB]
    #[arg(long, env = "TERCET_SEGMENT_SIZE", value_name = "BYTES", help_heading = "Machine")]
    segment_size: Bytes,
    /// Segments of a journal, at most [default: 12]
    #[arg(long, env = "TERCET_SEGMENTS_MAX", value_name = "N", help_heading = "Machine")]
    segments_max: u32,
    /// What the cache lines of one shard may take. The same on all nodes, for ever [default: the cluster's; 64MiB for a new one]
    #[arg(long, env = "TERCET_CACHE_SIZE", value_name = "BYTES", help_heading = "Machine")]
    cache_size: Bytes,
    /// Shortest silence of a leader after which a node campaigns [default: 150]
    #[arg(long, env = "TERCET_ELECTION_TIMEOUT_MIN_MS", value_name = "MS", help_heading = "Consensus")]
    election_timeout_min_ms: u32,
    /// Longest silence of a leader after which a node campaigns [default: 300]
    #[arg(long, env = "TERCET_ELECTION_TIMEOUT_MAX_MS", value_name = "MS", help_heading = "Consensus")]
    election_timeout_max_ms: u32,
    /// How often an idle leader is heard [default: 50]
    #[arg(long, env = "TERCET_HEARTBEAT_MS", value_name = "MS", help_heading = "Consensus")]
    heartbeat_ms: u32,
    /// The newest feature level that the cluster may go to while this node belongs to it. Hold it while a
    /// new version proves itself: the one before can be started again as long as its level is not passed
    /// [default: the newest that this version knows]
    #[arg(long, env = "TERCET_LEVEL_MAX", value_name = "N", help_heading = "Consensus")]
    level_max: u32,
    /// How reads are made linearizable: lease (the leader answers while its lease is valid) or
    /// read-index (it asks a majority first) [default: lease]
    #[arg(long, env = "TERCET_READS", value_name = "lease|read-index", help_heading = "Consensus")]
    reads: ReadMode,
    /// What is logged: error, warn, info, debug, trace, or a filter such as info,engine=debug
    /// [default: info]
    #[arg(long, env = "TERCET_LOG", value_name = "LEVEL", help_heading = "Logs")]
    log: String,
    /// How it is logged, on standard error: human or json [default: human]
    #[arg(long, env = "TERCET_LOG_FORMAT", value_name = "human|json", help_heading = "Logs")]
    log_format: LogFormat,
}

/// Everything a node needs to know, checked.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// The founders and their addresses, by id; empty for a single node.
    pub peers: Peers,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Engines, when the data directory is made.
    pub engines: u32,
    /// The number of engines that is asked for; `None` takes the cluster's.
    pub engines_asked: Option<u32>,
    /// Shards, at the cluster's birth.
    pub shards: u32,
    /// Where to listen.
    pub listen: SocketAddr,
    /// How others reach this node, if it was said.
    pub advertise: Option<String>,
    /// Where HTTP is served.
    pub http: SocketAddr,
    /// Data-plane threads.
    pub cores: u32,
    /// Where they run.
    pub pin: Pin,
    /// How the journal is written.
    pub wal: Wal,
    /// Bytes of a segment, when the data directory is made.
    pub segment_bytes: u64,
    /// Segments, at most.
    pub segments_max: u32,
    /// Bytes of cache lines in one shard; `None` takes the cluster's.
    pub cache_bytes_max: Option<u64>,
    /// Shortest election timeout.
    pub election_timeout_min: Duration,
    /// Longest election timeout.
    pub election_timeout_max: Duration,
    /// The heartbeat.
    pub heartbeat: Duration,
    /// The newest feature level to take part in.
    pub level_max: Level,
    /// How reads are made linearizable.
    pub reads: raft::ReadMode,
    /// What is logged.
    pub log: String,
    /// How it is logged.
    pub log_format: LogFormat,
}

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("E140 the configuration file {path:?} can't be read: {why}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        why: std::io::Error,
    },
    /// The file is malformed, or holds a key that is not known.
    #[error("E141 the configuration file {path:?}, line {line}: {why}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// A setting is out of its range or contradicts another.
    #[error("E142 {0}")]
    Invalid(String),
}

impl Config {
    /// Takes the arguments (flags and environment) over the file over the defaults, and checks them.
    ///
    /// # Errors
    /// [`ConfigError`], in one line.
    pub fn load(arguments: &Arguments) -> Result<Config, ConfigError> {
        let (path, settings) = match &arguments.command {
            Some(Command::Restore(restore)) => (&restore.config, &restore.settings),
            Some(Command::Recover(recover)) => (&recover.config, &recover.settings),
            None => (&arguments.config, &arguments.settings),
        };
        let file = match path {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|why| ConfigError::Unreadable { path: path.clone(), why })?;
                read_file(path, &text)?
            }
            None => Settings::default(),
        };
        Config::resolve(settings.clone().over(file))
    }

    /// Fills the defaults in and checks the whole.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`], naming the setting.
    pub fn resolve(s: Settings) -> Result<Config, ConfigError> {
        let cores = s.cores.unwrap_or_else(cpus);
        // Each engine keeps at least one shard.
        let engines = s.engines.unwrap_or(cores.min(s.shards.unwrap_or(cores)));
        let peers = s.peers.unwrap_or_default();
        let founders = u32::try_from(peers.len()).unwrap_or(u32::MAX);
        let shards = || engines.saturating_mul(SHARDS_PER_ENGINE.max(founders)).min(SHARDS_MAX);
        let ms = |set: Option<u32>, default: u32| {
            Duration::from_millis(u64::from(set.unwrap_or(default)))
        };
        let config = Config {
            node: NodeId(s.node.unwrap_or(1)),
            peers,
            data_dir: s.data_dir.unwrap_or_else(|| PathBuf::from("tercet-data")),
            engines,
            engines_asked: s.engines,
            shards: s.shards.unwrap_or_else(shards),
            listen: s.listen.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 7400))),
            advertise: s.advertise,
            http: s.http.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 7480))),
            cores,
            pin: s.pin.unwrap_or_default(),
            wal: s.wal.unwrap_or_default(),
            segment_bytes: s.segment_size.map_or(SEGMENT_BYTES_DEFAULT, |b| b.0),
            segments_max: s.segments_max.unwrap_or(SEGMENTS_MAX_DEFAULT),
            cache_bytes_max: s.cache_size.map(|b| b.0),
            election_timeout_min: ms(s.election_timeout_min_ms, 150),
            election_timeout_max: ms(s.election_timeout_max_ms, 300),
            heartbeat: ms(s.heartbeat_ms, 50),
            level_max: s.level_max.map_or(Level::NEWEST, Level),
            reads: s.reads.unwrap_or_default().into(),
            log: s.log.unwrap_or_else(|| "info".into()),
            log_format: s.log_format.unwrap_or_default(),
        };
        config.check()?;
        Ok(config)
    }

    /// How others reach this node, once it is bound to `bound`.
    pub fn advertised(&self, bound: SocketAddr) -> String {
        if let Some(said) = &self.advertise {
            return said.clone();
        }
        if let Some(listed) = self.peers.address(self.node) {
            return listed.to_owned();
        }
        if bound.ip().is_unspecified() {
            return format!("127.0.0.1:{}", bound.port());
        }
        bound.to_string()
    }

    /// The whole as settings, to print or to compare.
    pub fn settings(&self) -> Settings {
        let ms = |d: Duration| u32::try_from(d.as_millis()).ok();
        Settings {
            node: Some(self.node.0),
            peers: Some(self.peers.clone()),
            data_dir: Some(self.data_dir.clone()),
            engines: self.engines_asked,
            shards: Some(self.shards),
            listen: Some(self.listen),
            advertise: self.advertise.clone(),
            http: Some(self.http),
            cores: Some(self.cores),
            pin: Some(self.pin.clone()),
            wal: Some(self.wal),
            segment_size: Some(Bytes(self.segment_bytes)),
            segments_max: Some(self.segments_max),
            cache_size: self.cache_bytes_max.map(Bytes),
            level_max: Some(self.level_max.0),
            election_timeout_min_ms: ms(self.election_timeout_min),
            election_timeout_max_ms: ms(self.election_timeout_max),
            heartbeat_ms: ms(self.heartbeat),
            reads: Some(self.reads.into()),
            log: Some(self.log.clone()),
            log_format: Some(self.log_format),
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        let within = |name: &str, value: u64, min: u64, max: u64| {
            if (min..=max).contains(&value) {
                return Ok(());
            }
            Err(ConfigError::Invalid(format!("{name} is {value}; it must be {min} to {max}")))
        };
        within("node", u64::from(self.node.0), 1, u64::from(u32::MAX))?;
        within("engines", u64::from(self.engines), 1, u64::from(ENGINES_MAX))?;
        within("cores", u64::from(self.cores), 1, u64::from(ENGINES_MAX))?;
        within("shards", u64::from(self.shards), 1, u64::from(SHARDS_MAX))?;
        if self.engines > self.shards {
            return Err(ConfigError::Invalid(format!(
                "engines is {}, but shards {}, and each engine keeps at least one",
                self.engines, self.shards
            )));
        }
        within("segment-size", self.segment_bytes, SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)?;
        within("segments-max", u64::from(self.segments_max), u64::from(SEGMENTS_MIN), 4096)?;
        let cache_bytes = self.cache_bytes_max.unwrap_or(CACHE_BYTES_DEFAULT);
        within("cache-size", cache_bytes, CACHE_BYTES_MIN, CACHE_BYTES_MAX)?;
        let millis = |d: Duration| u64::try_from(d.as_millis()).expect("it came from a u32");
        within("heartbeat-ms", millis(self.heartbeat), 1, 60_000)?;
        let (min, max) = (millis(self.election_timeout_min), millis(self.election_timeout_max));
        within("election-timeout-min-ms", min, 2 * millis(self.heartbeat), 600_000)?;
        within("election-timeout-max-ms", max, min + 1, 1_200_000)?;
        let newest = u64::from(Level::NEWEST.0);
        within("level-max", u64::from(self.level_max.0), u64::from(Level::OLDEST.0), newest)?;
        let invalid = |why: String| Err(ConfigError::Invalid(why));
        if !self.segment_bytes.is_multiple_of(4096) {
            return invalid("segment-size must be a multiple of 4096".into());
        }
        if self.peers.len() > FOUNDERS_MAX {
            return invalid(format!(
                "peers names {} nodes, and at most {FOUNDERS_MAX} found a cluster. Name {FOUNDERS_MAX} founders in the --peers of these. Start each other node with --peers that name some of them and itself, and add it: tercet cluster add-node HOST:PORT",
                self.peers.len()
            ));
        }
        if !self.peers.is_empty() && self.peers.address(self.node).is_none() {
            return invalid(format!(
                "peers does not name this node, {}. List all founders (or, to join a cluster, some of its nodes), this one included",
                self.node
            ));
        }
        if let Some(said) = &self.advertise {
            values::host_port(said)
                .map_err(|why| ConfigError::Invalid(format!("advertise: {why}")))?;
        }
        if self.listen == self.http && self.listen.port() != 0 {
            return invalid(format!("listen and http are both {}; give each its own", self.http));
        }
        if let Pin::Cpus(cpus) = &self.pin {
            let threads = self.cores.min(self.engines) as usize;
            if cpus.len() < threads {
                return invalid(format!(
                    "pin names {} CPUs for {threads} threads; name one for each",
                    cpus.len()
                ));
            }
        }
        Ok(())
    }
}

/// Reads a configuration file's text.
fn read_file(path: &std::path::Path, text: &str) -> Result<Settings, ConfigError> {
    toml::from_str(text).map_err(|e| {
        let at = e.span().map_or(0, |s| s.start.min(text.len()));
        let line = text.as_bytes()[..at].iter().filter(|b| **b == b'\n').count() + 1;
        let why = e.message().replace('\n', " ").replace("unknown field", "unknown key");
        ConfigError::Malformed { path: path.to_owned(), line, why }
    })
}

/// How many CPUs this process may use.
pub fn cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1))
}

#[cfg(test)]
mod tests;
