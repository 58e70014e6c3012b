//! `GET /status`: a node's state as one JSON document, for people and scripts.
//!
//! What is in it is declared here, as plain data; `docs` and the `tercet` tool follow this file. A field
//! that was released keeps its name and meaning.

use super::bridge::Fatal;
use super::config::Settings;
use super::counters::{Counters, FAMILIES, Histogram};
use crate::ids::{ClusterId, Incarnation, NodeId};
use crate::level::Level;
use crate::machine::meta::{self, Meta};
use crate::raft::ReadMode;
use crate::raft::{Member, Suffrage};
use crate::status::{EngineStatus, GroupStatus, JournalStatus, MachineStatus, TwinStatus};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What does not change while a node runs.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The node.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its data directory's incarnation.
    pub incarnation: Incarnation,
    /// Engines.
    pub engines: u32,
    /// Data-plane threads.
    pub threads: u32,
    /// The CPU of each thread, when they are pinned.
    pub cpus: Option<Vec<usize>>,
    /// The engines that were damaged and begun anew.
    pub renewed: Vec<u32>,
    /// Shards of the cluster.
    pub shards: u32,
    /// How the journal is written.
    pub writer: &'static str,
    /// What chose the writer.
    pub writer_why: String,
    /// Where clients and nodes connect.
    pub listen: String,
    /// How others reach this node.
    pub advertise: String,
    /// Where HTTP is served.
    pub http: String,
    /// When the process began.
    pub started: Instant,
    /// How long it took until the node served.
    pub startup: Duration,
    /// The configuration.
    pub settings: Settings,
}

/// What a node is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It serves.
    Running,
    /// It finishes what is under way and ends.
    Stopping,
}

/// What was gathered at one moment.
#[derive(Clone, Debug)]
pub struct Gathered {
    /// The engines that answered, in order.
    pub engines: Vec<EngineStatus>,
    /// What each data thread counts.
    pub counters: Vec<Arc<Counters>>,
    /// What the control plane was told since the start.
    pub notes: NoteCounts,
    /// What the node is doing.
    pub phase: Phase,
    /// Why the node stops by itself, if it does.
    pub fatal: Option<Fatal>,
    /// The cluster's nodes, as this one knows them.
    pub nodes: Meta,
    /// How many groups the node is to keep and does not yet; none once it has kept all of them since its start.
    pub lacking: usize,
}

/// How often the control plane was told what.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize)]
pub struct NoteCounts {
    /// A group's leader changed.
    pub leader_changes: u64,
    /// This node began to campaign.
    pub campaigns: u64,
    /// Snapshots that were made here.
    pub snapshots_made: u64,
    /// Snapshots that came from a leader.
    pub snapshots_installed: u64,
    /// Snapshots that went to a follower.
    pub snapshots_sent: u64,
    /// Snapshots that were made for a backup.
    pub snapshots_backed_up: u64,
    /// Sessions that ended without being closed, counted by each replica.
    pub sessions_expired: u64,
    /// Times that the journal had no free segment.
    pub journal_full: u64,
    /// Journal segments that were made.
    pub segments_made: u64,
}

impl Gathered {
    /// Why the node is not ready, or `None` when it is: each engine answered, each group that the node keeps knows its
    /// leader, and since its start it has once kept all groups that it is to keep.
    pub fn unready(&self, facts: &Facts) -> Option<String> {
        if self.phase == Phase::Stopping {
            return Some("the node is stopping".into());
        }
        if self.engines.len() < facts.engines as usize {
            let silent = facts.engines as usize - self.engines.len();
            return Some(format!("{silent} of {} engines did not answer", facts.engines));
        }
        let groups = self.engines.iter().flat_map(|e| &e.groups);
        let leaderless = groups.filter(|g| g.leader.is_none()).count();
        if leaderless > 0 {
            return Some(format!("{leaderless} groups know no leader"));
        }
        // A node whose disk was lost, or an engine that was begun anew, has nothing at first.
        let lacking = self.lacking;
        (lacking > 0).then(|| format!("{lacking} groups that belong here are on their way"))
    }
}

/// The whole document.
#[derive(Serialize, Debug)]
pub struct Report<'a> {
    node: u32,
    version: &'static str,
    cluster: String,
    incarnation: String,
    pid: u32,
    phase: Phase,
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_ready_because: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fatal: Option<String>,
    uptime_ms: u64,
    startup_ms: u64,
    listen: &'a str,
    advertise: &'a str,
    http: &'a str,
    engines: u32,
    /// Those that were damaged and begun anew, whenever that was.
    renewed_engines: &'a [u32],
    threads: u32,
    cpus: Option<&'a [usize]>,
    shards: u32,
    writer: &'a str,
    writer_why: &'a str,
    /// The cluster's nodes.
    members: Vec<MemberRow>,
    /// How many changes of the nodes are known here.
    nodes_epoch: u64,
    level: u32,
    level_max: u32,
    /// The other nodes, as each engine sees its twin there.
    twins: Vec<TwinRow>,
    groups: Vec<GroupRow>,
    journals: Vec<JournalRow>,
    cores: Vec<CoreRow>,
    notes: NoteCounts,
    config: &'a Settings,
}

#[derive(Serialize, Debug)]
struct MemberRow {
    node: u32,
    address: String,
    incarnation: String,
    standing: &'static str,
}

#[derive(Serialize, Debug)]
struct TwinRow {
    engine: u32,
    node: u32,
    linked: bool,
    phi: f64,
    round_trip_us: Option<f64>,
    drift_ppm: Option<i64>,
}

#[derive(Serialize, Debug)]
struct GroupRow {
    group: u32,
    shard: Option<u32>,
    engine: u32,
    role: &'static str,
    leader: Option<u32>,
    preferred: u32,
    /// It leads, has committed in its term, and a majority followed it just now.
    serves: bool,
    /// How long ago one did.
    confirmed_ms: Option<u64>,
    term: u64,
    commit: u64,
    applied: u64,
    first_index: u64,
    last_index: u64,
    durable_index: u64,
    members: Vec<GroupMemberRow>,
    changing: bool,
    wanted: Vec<u32>,
    peers: Vec<PeerRow>,
    machine: MachineRow,
}

#[derive(Serialize, Debug)]
struct GroupMemberRow {
    node: u32,
    /// The life of its replica.
    incarnation: String,
    standing: &'static str,
}

#[derive(Serialize, Debug)]
struct PeerRow {
    node: u32,
    match_index: u64,
    next_index: u64,
    state: &'static str,
    silent_ms: Option<u64>,
    /// It is heard, and takes the entries as they come.
    there: bool,
}

#[derive(Serialize, Debug)]
struct MachineRow {
    sessions: u64,
    locks: u64,
    lock_waiters: u64,
    queues: u64,
    messages_ready: u64,
    messages_in_flight: u64,
    messages_delayed: u64,
    lines: u64,
    line_bytes: u64,
    evictions: u64,
}

#[derive(Serialize, Debug)]
struct JournalRow {
    engine: u32,
    connections: u32,
    /// "lease" or "read-index": how reads are made just now.
    reads: &'static str,
    synced: u64,
    appended: u64,
    segments_live: u32,
    segments_free: u32,
    segment_bytes: u64,
}

#[derive(Serialize, Debug)]
struct CoreRow {
    core: usize,
    turns: u64,
    completions: u64,
    enters: u64,
    sleeps: u64,
    frames_in: BTreeMap<&'static str, u64>,
    bytes_in: u64,
    bytes_out: u64,
    sends: u64,
    buffers_exhausted: u64,
    connections: u64,
    connections_opened: u64,
    connections_refused: u64,
    connections_bad: u64,
    connections_slow: u64,
    links_up: u64,
    peer_bytes_dropped: u64,
    notes_dropped: u64,
    syncs: u64,
    sync_us_mean: u64,
    write_bytes: u64,
    batch_frames_mean: u64,
    snapshot_us_max: u64,
}

impl<'a> Report<'a> {
    /// The document of what was gathered.
    pub fn new(facts: &'a Facts, gathered: &Gathered) -> Report<'a> {
        let because = gathered.unready(facts);
        let engines = &gathered.engines;
        Report {
            node: facts.node.0,
            version: env!("CARGO_PKG_VERSION"),
            cluster: facts.cluster.to_string(),
            incarnation: facts.incarnation.to_string(),
            pid: std::process::id(),
            phase: gathered.phase,
            ready: because.is_none(),
            not_ready_because: because,
            fatal: gathered.fatal.as_ref().map(Fatal::to_string),
            uptime_ms: millis(facts.started.elapsed()),
            startup_ms: millis(facts.startup),
            listen: &facts.listen,
            advertise: &facts.advertise,
            http: &facts.http,
            engines: facts.engines,
            renewed_engines: &facts.renewed,
            threads: facts.threads,
            cpus: facts.cpus.as_deref(),
            shards: facts.shards,
            writer: facts.writer,
            writer_why: &facts.writer_why,
            members: gathered.nodes.nodes().map(member_row).collect(),
            nodes_epoch: gathered.nodes.epoch(),
            level: gathered.nodes.level().0,
            level_max: facts.settings.level_max.unwrap_or(Level::NEWEST.0),
            twins: engines
                .iter()
                .flat_map(|e| e.peers.iter().map(|twin| twin_row(e.engine, twin)))
                .collect(),
            groups: engines
                .iter()
                .flat_map(|e| e.groups.iter().map(|g| group_row(e.engine, g)))
                .collect(),
            journals: engines.iter().map(journal_row).collect(),
            cores: gathered
                .counters
                .iter()
                .enumerate()
                .map(|(core, c)| core_row(core, c))
                .collect(),
            notes: gathered.notes,
            config: &facts.settings,
        }
    }

    /// As JSON, indented for people.
    pub fn json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("numbers, texts and lists are all that it holds")
    }
}

fn member_row(node: &meta::Node) -> MemberRow {
    MemberRow {
        node: node.node.0,
        address: node.address.clone(),
        incarnation: node.incarnation.to_string(),
        standing: match node.standing {
            meta::Standing::In => "in",
            meta::Standing::Drained => "drained",
        },
    }
}

fn group_row(engine: u32, g: &GroupStatus) -> GroupRow {
    let peer = |p: &crate::status::PeerStatus| PeerRow {
        node: p.node.0,
        match_index: p.match_index.0,
        next_index: p.next_index.0,
        state: p.state,
        silent_ms: p.silent.map(millis),
        there: g.has(p),
    };
    let member = |m: &Member| GroupMemberRow {
        node: m.node.0,
        incarnation: m.incarnation.to_string(),
        standing: match m.suffrage {
            Suffrage::Voter => "voter",
            Suffrage::Learner => "learner",
        },
    };
    GroupRow {
        group: g.group.0,
        shard: g.group.shard(),
        engine,
        role: g.role,
        leader: g.leader.map(|n| n.0),
        preferred: g.preferred.0,
        serves: g.serves(),
        confirmed_ms: g.confirmed.map(millis),
        term: g.term.0,
        commit: g.commit.0,
        applied: g.applied.0,
        first_index: g.first_index.0,
        last_index: g.last_index.0,
        durable_index: g.durable.0,
        members: g.members.iter().map(member).collect(),
        changing: g.changing,
        wanted: g.wanted.iter().map(|node| node.0).collect(),
        peers: g.peers.iter().map(peer).collect(),
        machine: machine_row(&g.machine),
    }
}

fn machine_row(m: &MachineStatus) -> MachineRow {
    MachineRow {
        sessions: m.sessions,
        locks: m.locks,
        lock_waiters: m.lock_waiters,
        queues: m.queues,
        messages_ready: m.messages_ready,
        messages_in_flight: m.messages_in_flight,
        messages_delayed: m.messages_delayed,
        lines: m.lines,
        line_bytes: m.line_bytes,
        evictions: m.evictions,
    }
}

fn journal_row(e: &EngineStatus) -> JournalRow {
    let JournalStatus { synced, appended, segments_live, segments_free, segment_bytes } = e.journal;
    let (engine, connections) = (e.engine, e.connections);
    JournalRow {
        engine,
        connections,
        reads: match e.reads {
            ReadMode::Lease => "lease",
            ReadMode::ReadIndex => "read-index",
        },
        synced,
        appended,
        segments_live,
        segments_free,
        segment_bytes,
    }
}

fn twin_row(engine: u32, twin: &TwinStatus) -> TwinRow {
    TwinRow {
        engine,
        node: twin.node.0,
        linked: twin.linked,
        // A thousandth is enough for anybody.
        phi: (twin.phi * 1e3).round() / 1e3,
        round_trip_us: twin.round_trip.map(|trip| trip.as_secs_f64() * 1e6),
        drift_ppm: twin.drift_ppm,
    }
}

fn core_row(core: usize, c: &Counters) -> CoreRow {
    let mean = |h: &Histogram| h.sum.get().checked_div(h.count()).unwrap_or(0);
    CoreRow {
        core,
        turns: c.turns.get(),
        completions: c.completions.get(),
        enters: c.enters.get(),
        sleeps: c.sleeps.get(),
        frames_in: FAMILIES.into_iter().zip(c.frames_in.iter().map(|f| f.get())).collect(),
        bytes_in: c.bytes_in.get(),
        bytes_out: c.bytes_out.get(),
        sends: c.sends.get(),
        buffers_exhausted: c.buffers_exhausted.get(),
        connections: c.connections.get(),
        connections_opened: c.connections_opened.get(),
        connections_refused: c.connections_refused.get(),
        connections_bad: c.connections_bad.get(),
        connections_slow: c.connections_slow.get(),
        links_up: c.links_up.get(),
        peer_bytes_dropped: c.peer_bytes_dropped.get(),
        notes_dropped: c.notes_dropped.get(),
        syncs: c.sync_us.count(),
        sync_us_mean: mean(&c.sync_us),
        write_bytes: c.write_bytes.sum.get(),
        batch_frames_mean: mean(&c.batch_frames),
        snapshot_us_max: c.snapshot_us_max.get(),
    }
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}
