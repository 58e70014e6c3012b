//! What can be said on the command line.

use clap::{Args as Group, Parser, Subcommand};
use client::{Client, Config};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

const EXIT: &str = "\
Exit status:
  0    done
  1    refused or failed; nothing was done
  2    the command line is wrong
  3    not there, empty, held by somebody else, or of another version
  4    the cluster can't be reached or has no leader; nothing was done
  5    it is not known whether it was done: look before you do it again
  6    `cluster`: it is under way, but not finished in the time given: run it again to go on
  7    what came of it could not be printed (a closed pipe, a full disk): what was to be changed is changed; a lock
       or a message that was taken went back
  8    `status`, `cluster status`: all groups serve, but replicas are missing or are not heard
  124  `lock run`: the lock was lost or about to be, and the command was stopped
  126  `lock run`: the command can't be run (127: not found)
`lock run` otherwise ends with the status of its command, 128 + N if signal N ended it.

Durations are a number and a unit: 250ms, 10s, 5m, 2h; without a unit, seconds.";

/// Locks, queues and a cache, from the shell.
#[derive(Parser, Debug)]
#[command(name = "tercet", version, after_long_help = EXIT, propagate_version = true)]
#[command(arg_required_else_help = true, max_term_width = 100)]
pub struct Args {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Group, Debug)]
pub struct Common {
    /// Some of the cluster's nodes, as host:port, separated by commas
    #[arg(long, short, global = true, env = "TERCET_SERVERS", value_delimiter = ',')]
    #[arg(default_value = "127.0.0.1:7400", value_name = "HOST:PORT")]
    pub servers: Vec<String>,
    /// Give results and errors as JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// How long a call may take, apart from the time that it is told to wait
    #[arg(long, global = true, env = "TERCET_DEADLINE", default_value = "5s", value_parser = duration)]
    pub deadline: Duration,
}

impl Common {
    /// The set-up of a client whose session lives for `ttl`.
    pub fn config(&self, ttl: Duration) -> Config {
        Config::new(self.servers.clone()).deadline(self.deadline).session_ttl(ttl).name("tercet")
    }

    /// A client with an ordinary session.
    pub fn connect(&self) -> Result<Client, client::Error> {
        self.config(Duration::from_secs(10)).connect()
    }
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Show the nodes, which of them answer, and who leads which shards
    Status(Status),
    /// Acquire and release locks, or run a command under one
    #[command(subcommand)]
    Lock(Lock),
    /// Push, pop and acknowledge messages
    #[command(subcommand)]
    Queue(Queue),
    /// Read and write the cache
    #[command(subcommand)]
    Cache(Cache),
    /// Add, remove and replace nodes, move leaders, take backups, and show who keeps what
    ///
    /// Replicas move by themselves, one at a time, while the cluster serves. These commands say what is
    /// wanted and watch until it is so; one that was interrupted is simply run again.
    #[command(subcommand)]
    Cluster(Cluster),
}

/// Show the nodes, which of them answer, and who leads which shards
///
/// A group counts as led only if its leader says that it serves: it has committed in its term, and a majority
/// followed it just now. The exit status is 4 if a group is not led, the cluster's own among them; 8 if all are
/// led, and some lack replicas; else 0. `between nodes` is how long a word from the other nodes takes to a node and
/// back, by the farthest of them; `from here` is the tool's own way.
#[derive(Group, Debug)]
#[command(after_help = "Examples:\n  tercet status\n  tercet status --json | jq '.nodes[].up'\n  \
    tercet status --watch\n  \
    tercet status --http http://127.0.0.1:7500")]
pub struct Status {
    /// List every shard on a line of its own
    #[arg(long)]
    pub shards: bool,
    /// Go on and tell what changes, a line for each change, until interrupted: nodes that come and go, and who leads
    /// and keeps each shard
    ///
    /// One node tells, as it knows it; if it falls silent another one is asked. With --json each line is a document.
    /// The exit status is 4 if no node answers at first; later it waits until one does.
    #[arg(long, conflicts_with_all = ["http", "shards"])]
    pub watch: bool,
    /// Show what this node says of itself at /status instead: its HTTP address
    #[arg(long, value_name = "URL")]
    pub http: Option<String>,
}

#[derive(Subcommand, Debug)]
pub enum Lock {
    /// Acquire a lock that outlives this process, for a given time
    ///
    /// The lock is held by a session of its own until it is released with `tercet lock release` or
    /// until the time to live has passed, whatever happens to this process. Prints the session and
    /// the fence that the release needs.
    #[command(after_help = "Examples:\n  tercet lock acquire deploy --ttl 5m --wait 30s\n  \
        tercet lock acquire deploy --json | jq -r .session\n\n\
        To hold a lock for as long as a command runs, use `tercet lock run`: it keeps the lock alive.")]
    Acquire {
        /// The lock's name
        name: OsString,
        /// How long to hold it, 1s to 10m
        #[arg(long, default_value = "60s", value_parser = duration)]
        ttl: Duration,
        /// How long to wait for it, at most 10m; without it, try once
        #[arg(long, default_value = "0", value_parser = duration)]
        wait: Duration,
        /// Hold it beside others that hold it shared
        #[arg(long)]
        shared: bool,
    },
    /// Release a lock that `tercet lock acquire` acquired
    #[command(after_help = "Example:\n  tercet lock release deploy \
        --session 5f0c7b6c8d9e4a1f8b2d3c4e5f607182 --fence 42")]
    Release {
        /// The lock's name
        name: OsString,
        /// The session that holds it, as `acquire` printed it
        #[arg(long, value_parser = session)]
        session: Session,
        /// The fence of the grant, as `acquire` printed it
        #[arg(long)]
        fence: u64,
    },
    /// Run a command while holding a lock
    ///
    /// The command sees TERCET_LOCK_NAME and TERCET_LOCK_FENCE; give the fence to what the lock
    /// protects. A signal that a process sends to this one is passed on: one that ends processes to the command and
    /// all that it began, any other to the command. Ctrl-C reaches it by the terminal.
    ///
    /// Nothing of the command runs when the lock can be granted to others. If no node confirms the lock, or this process
    /// is stopped or killed, the command and all that it began gets SIGTERM the grace time before the time to
    /// live is over, and SIGKILL when it is; the exit status is 124. What the command leaves running when it
    /// ends is ended in the same way, before the lock is released. (What another service runs for it, such as a container
    /// or a cron job, is out of sight.)
    ///
    /// With --json a document on the standard error says how it went: lock, fence, exit, the command's status or
    /// signal, lost, and why.
    #[command(after_help = "Examples:\n  tercet lock run nightly -- ./backup.sh\n  \
        tercet lock run reports --shared --wait 1m -- sh -c 'echo fence $TERCET_LOCK_FENCE'")]
    Run {
        /// The lock's name
        name: OsString,
        /// How long to wait for the lock, at most 10m
        #[arg(long, default_value = "10m", value_parser = duration)]
        wait: Duration,
        /// Hold it beside others that hold it shared
        #[arg(long)]
        shared: bool,
        /// How long the lock outlives this process if it dies, 1s to 10m
        #[arg(long, default_value = "10s", value_parser = duration)]
        ttl: Duration,
        /// How long the command may take to end before it is killed, at most a third of the time to live
        #[arg(long, default_value = "5s", value_parser = duration)]
        grace: Duration,
        /// The command and its arguments
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<OsString>,
    },
    /// What `tercet lock run` starts to run the command
    #[command(hide = true)]
    Keep {
        #[arg(long)]
        process: u32,
        #[arg(long)]
        orders: i32,
        #[arg(long)]
        report: i32,
        #[arg(long)]
        grace_ms: u64,
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

#[derive(Subcommand, Debug)]
pub enum Queue {
    /// Append a message, and print its id
    #[command(after_help = "Examples:\n  tercet queue push mail 'hello'\n  \
        tercet queue push images --priority 10 - < picture.png")]
    Push {
        /// The queue's name
        name: OsString,
        /// The message; `-` or nothing reads it from the standard input, byte for byte
        #[arg(default_value = "-")]
        payload: OsString,
        /// 0 is delivered first, 255 last
        #[arg(long, default_value_t = client::PRIORITY)]
        priority: u8,
    },
    /// Take the first message that is ready, and print it
    ///
    /// The payload goes to the standard output byte for byte, the message's numbers to the standard
    /// error. Without --ack the message stays hidden from others until its visibility runs out,
    /// also after this process has ended: acknowledge it with `tercet queue ack` within that
    /// time, or it is delivered again. The exit status is 3 if the queue is empty.
    #[command(after_help = "Examples:\n  tercet queue pop mail --wait 30s --ack\n  \
        tercet queue pop images --visibility 5m > picture.png\n  \
        tercet queue pop mail --json | jq '{id, delivery, payload}'")]
    Pop {
        /// The queue's name
        name: OsString,
        /// How long to wait for a message, at most 10m; without it, try once
        #[arg(long, default_value = "0", value_parser = duration)]
        wait: Duration,
        /// How long it stays hidden; at most 595s without --ack, 12h with it
        #[arg(long, default_value = "30s", value_parser = duration)]
        visibility: Duration,
        /// Acknowledge it once it is printed
        #[arg(long)]
        ack: bool,
    },
    /// Acknowledge a delivery: the message is gone for good
    #[command(after_help = "Example:\n  tercet queue ack mail 1042 --delivery 1")]
    Ack {
        /// The queue's name
        name: OsString,
        /// The message's id, as `pop` printed it
        id: u64,
        /// The number of the delivery, as `pop` printed it
        #[arg(long)]
        delivery: u32,
    },
    /// Give a delivery back: the message is ready again
    #[command(after_help = "Example:\n  tercet queue nack mail 1042 --delivery 1 --delay 30s")]
    Nack {
        /// The queue's name
        name: OsString,
        /// The message's id, as `pop` printed it
        id: u64,
        /// The number of the delivery, as `pop` printed it
        #[arg(long)]
        delivery: u32,
        /// How long until it is ready again
        #[arg(long, default_value = "0", value_parser = duration)]
        delay: Duration,
    },
}

#[derive(Subcommand, Debug)]
pub enum Cache {
    /// Print a line's value, byte for byte
    #[command(after_help = "Examples:\n  tercet cache get config/colour\n  \
        tercet cache get config/colour --json | jq .version")]
    Get {
        /// The line's key
        key: OsString,
    },
    /// Write a line, and print its version
    #[command(after_help = "Examples:\n  tercet cache put config/colour blue --ttl 1h\n  \
        tercet cache put config/colour green --if-version 17\n  \
        tercet cache put logo - < logo.png")]
    Put {
        /// The line's key
        key: OsString,
        /// The value; `-` reads it from the standard input, byte for byte
        value: OsString,
        /// How long it lives, at most 30 days; without it, until it is replaced or evicted
        #[arg(long, value_parser = duration)]
        ttl: Option<Duration>,
        /// Only if the line has this version
        #[arg(long, value_name = "VERSION", conflicts_with = "if_absent")]
        if_version: Option<u64>,
        /// Only if there is no such line
        #[arg(long)]
        if_absent: bool,
    },
    /// Delete a line, and print the version that it had
    #[command(after_help = "Example:\n  tercet cache del config/colour --if-version 17")]
    Del {
        /// The line's key
        key: OsString,
        /// Only if the line has this version
        #[arg(long, value_name = "VERSION")]
        if_version: Option<u64>,
    },
}

#[derive(Subcommand, Debug)]
pub enum Cluster {
    /// Show the nodes with what they keep, and each group with its leader and its members
    ///
    /// A group is settled when it is led, and exactly those vote who should, and their leader hears all of them. The
    /// exit status is as that of `tercet status`: 4 if a group is not led, 8 if replicas are missing, else 0.
    #[command(after_help = "Examples:\n  tercet cluster status\n  \
        tercet cluster status --json | jq '.groups[] | select(.settled | not)'")]
    Status,
    /// Add a node, and wait until replicas have moved to it
    ///
    /// Start the node first: with an id that no node of the cluster has, an empty data directory, as many
    /// engines as the others, and --peers that name nodes of the cluster and itself, so that it founds none
    /// of its own. A node that was drained and not yet removed is taken back.
    #[command(after_help = "Examples:\n  tercet cluster add-node 10.0.0.4:7400\n  \
        tercet cluster add-node 10.0.0.4:7400 --no-wait && tercet cluster status")]
    AddNode {
        /// Where the node is: the cluster's nodes and all clients must reach it there
        #[arg(value_name = "HOST:PORT", value_parser = address)]
        address: String,
        /// Return as soon as the cluster knows the node
        #[arg(long)]
        no_wait: bool,
        /// How long to wait for the replicas to move
        #[arg(long, default_value = "10m", value_parser = duration)]
        timeout: Duration,
    },
    /// Move all replicas off a node, then remove it
    ///
    /// The node may be running or dead. If it runs, leave it running until this has finished. If it is
    /// interrupted, run it again; to take a drained node back, use `tercet cluster add-node`.
    #[command(after_help = "Examples:\n  tercet cluster remove-node 3\n  \
        tercet cluster remove-node 3 --timeout 1h")]
    RemoveNode {
        /// The node's id
        #[arg(value_name = "ID")]
        node: u32,
        /// Only drain it; run the command again, without this, to remove it
        #[arg(long)]
        no_wait: bool,
        /// How long to wait for the replicas to move
        #[arg(long, default_value = "10m", value_parser = duration)]
        timeout: Duration,
    },
    /// Replace a node, by another one or by itself with a new data directory
    ///
    /// If the node at HOST:PORT says that it is node ID, its data directory was lost: it comes back empty, and
    /// every group gives it a new replica. If it has another id, it is added, and then node ID is removed.
    #[command(after_help = "Examples:\n  \
        tercet cluster replace-node 2 10.0.0.2:7400   # the disk of node 2 was lost\n  \
        tercet cluster replace-node 2 10.0.0.4:7400   # the machine was: node 4 comes for node 2")]
    ReplaceNode {
        /// The id of the node to replace
        #[arg(value_name = "ID")]
        node: u32,
        /// Where the node is that replaces it
        #[arg(value_name = "HOST:PORT", value_parser = address)]
        address: String,
        /// How long to wait for the replicas to move, to the new node and again off the old one
        #[arg(long, default_value = "10m", value_parser = duration)]
        timeout: Duration,
    },
    /// Back the cluster up into a file, while it serves
    ///
    /// All that was acknowledged before the backup began is in it, and each shard is as it was at one moment. FILE is replaced
    /// only once the backup is whole. `tercetd restore` makes a new cluster of it.
    #[command(after_help = "Examples:\n  tercet cluster backup /backups/tercet-$(date +%F)\n  \
        tercet cluster backup --verify /backups/tercet-2026-01-31")]
    Backup {
        /// The file to write
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Only check that FILE is a whole backup; no cluster is needed
        #[arg(long)]
        verify: bool,
        /// How long one group may give nothing before the backup is given up
        #[arg(long, default_value = "2m", value_parser = duration)]
        timeout: Duration,
    },
    /// Have another of its replicas lead a group
    ///
    /// GROUP is a number as /status and `tercet cluster status` show it: group 0 is the cluster's own, shard 0
    /// is group 1, shard s is group s + 1. Leadership goes back after a while to the node where the placement
    /// prefers it, if that one is well.
    #[command(
        after_help = "Example:\n  tercet cluster transfer-leader 1 2   # node 2 is to lead shard 0"
    )]
    TransferLeader {
        /// The group: 0 is the cluster's own, shard s is group s + 1
        group: u32,
        /// The id of the node that is to lead: one of the group's voters
        node: u32,
    },
}

/// A session's id, given as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug)]
pub struct Session(pub [u8; 16]);

fn session(text: &str) -> Result<Session, String> {
    let wrong = || String::from("a session is 32 hexadecimal digits, as `lock acquire` printed it");
    if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    let id = u128::from_str_radix(text, 16).map_err(|_| wrong())?;
    Ok(Session(id.to_be_bytes()))
}

fn address(text: &str) -> Result<String, String> {
    let wrong = || format!("{text:?} is no address; write host:port");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    match port.parse::<u16>() {
        Ok(port) if port > 0 && !host.is_empty() => Ok(String::from(text)),
        _ => Err(wrong()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration; write 250ms, 10s, 5m or 2h");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "ms" => number / 1e3,
        "" | "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        "d" => number * 86_400.0,
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn durations_have_a_unit_or_are_seconds() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        for wrong in ["", "s", "-1s", "5 s", "1w", "1e9d", "nan"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_address_has_a_host_and_a_port() {
        assert_eq!(address("a:1"), Ok(String::from("a:1")));
        assert_eq!(address("[::1]:7400"), Ok(String::from("[::1]:7400")));
        for wrong in ["", "a", "a:", ":1", "a:0", "a:65536"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_session_is_read_as_it_is_written() {
        let id = session("000102030405060708090a0b0c0d0e0f").unwrap();
        assert_eq!(id.0, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
        assert!(session("+00102030405060708090a0b0c0d0e0f").is_err());
        assert!(session("00").is_err());
    }
}
