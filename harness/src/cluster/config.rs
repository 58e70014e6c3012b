//! What a cluster is made of, and why it may not run.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitStatus;

/// What to start.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// How many nodes, from 1.
    pub nodes: u32,
    /// Data-plane threads of each.
    pub cores: u32,
    /// Shards of the cluster; none = the server's default.
    pub shards: Option<u32>,
    /// The server; none = the `tercetd` beside this program.
    pub tercetd: Option<PathBuf>,
    /// The nodes' ports for clients begin here, those for HTTP 80 above; none = any free ones.
    pub first_port: Option<u16>,
    /// The directory of all nodes' directories and logs; made if it is not there.
    pub data_dir: PathBuf,
    /// Whether the data stays when the cluster is dropped.
    pub keep: Keep,
    /// Further flags for every node, such as `--wal direct`.
    pub flags: Vec<String>,
    /// The CPUs of each node, in order; shorter or empty = not pinned.
    pub cpus: Vec<Vec<usize>>,
    /// Where each node lives, in order; empty = all on this machine's loopback.
    pub homes: Vec<Home>,
    /// How many files each node may open; none = as many as this process.
    pub files_max: Option<u64>,
}

/// An address of a node's own, and how to start a program there.
#[derive(Clone, Debug)]
pub struct Home {
    /// The address.
    pub ip: IpAddr,
    /// The program that starts another there, and its arguments: `ip netns exec NAME`.
    pub enter: Vec<String>,
}

/// What becomes of the data when a cluster ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keep {
    /// It stays.
    Data,
    /// It is removed.
    Nothing,
}

/// Why a cluster does not run.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// There is no server to start.
    #[error("no tercetd beside this program. Build it (make release), or name it with --tercetd")]
    NoServer,
    /// A file, a port or a process.
    #[error("{what}: {why}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system says.
        why: io::Error,
    },
    /// A node ended by itself.
    #[error("node {node} ended with {status}. The end of its log:\n{tail}")]
    Ended {
        /// The node.
        node: u32,
        /// How it ended.
        status: ExitStatus,
        /// The last lines of its log.
        tail: String,
    },
    /// A node, or a leader, is awaited in vain.
    #[error("{what} within {} s. The end of node {node}'s log:\n{tail}", super::START_MAX.as_secs())]
    Late {
        /// What did not happen.
        what: String,
        /// The node whose log is shown.
        node: u32,
        /// The last lines of its log.
        tail: String,
    },
}
