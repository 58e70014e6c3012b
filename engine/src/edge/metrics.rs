//! `GET /metrics`: what a node counts, as Prometheus reads it (OpenMetrics text, version 1.0).
//!
//! Names are `tercet_<area>_<what>_<unit>`. Labels are numbers of the node's own parts (`core`,
//! `engine`, `group`, `peer`) and words of a fixed set; a user's name is never one, since that would
//! make a time series for each.

use super::counters::{Count, Counters, FAMILIES, Histogram, STEPS};
use super::report::{Facts, Gathered, Phase};
use crate::status::{EngineStatus, GroupStatus};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::fmt;

/// The media type of what [`text`] gives.
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics as text.
pub fn text(facts: &Facts, gathered: &Gathered) -> String {
    let mut registry = Registry::with_prefix("tercet");
    registry.register_collector(Box::new(Scrape {
        facts: facts.clone(),
        gathered: gathered.clone(),
        process: Process::now(),
    }));
    let mut out = String::with_capacity(32 << 10);
    encode(&mut out, &registry).expect("a String takes all that is written");
    out
}

#[derive(Debug)]
struct Scrape {
    facts: Facts,
    gathered: Gathered,
    process: Process,
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(encoder);
        self.node(&mut families)?;
        self.cores(&mut families)?;
        self.journals(&mut families)?;
        self.groups(&mut families)
    }
}

/// Where metric families are written.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    /// A family of counters; `rows` gives labels and numbers. The format adds `_total`.
    fn counter<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (L, f64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, number) in rows {
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&number, None)?;
        }
        Ok(())
    }

    /// A family of gauges.
    fn gauge<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (L, f64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, number) in rows {
            family.encode_family(&labels)?.encode_gauge(&number)?;
        }
        Ok(())
    }

    /// One gauge without labels.
    fn number(&mut self, name: &str, help: &str, number: f64) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&number)
    }

    /// A family of histograms, whose numbers are divided by `per`.
    fn histogram<'h, L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        per: f64,
        rows: impl IntoIterator<Item = (L, &'h Histogram)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, histogram) in rows {
            // Step s holds the whole numbers up to 2^s - 1, the last one all that are left.
            let bound = |step: usize| {
                let open = step + 1 == STEPS;
                if open { f64::INFINITY } else { ((1u64 << step) - 1) as f64 / per }
            };
            let counts = histogram.steps.iter().map(Count::get);
            let buckets: Vec<_> = counts.enumerate().map(|(s, n)| (bound(s), n)).collect();
            let count = buckets.iter().map(|(_, n)| n).sum();
            let sum = histogram.sum.get() as f64 / per;
            let mut row = family.encode_family(&labels)?;
            row.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }
}

type CoreCount = (&'static str, &'static str, fn(&Counters) -> &Count);

const CORE_COUNTERS: [CoreCount; 16] = [
    ("core_turns", "Turns of the loop", |c| &c.turns),
    ("core_completions", "Completions of the ring", |c| &c.completions),
    ("core_enters", "System calls of the ring", |c| &c.enters),
    ("core_sleeps", "System calls that were ready to block", |c| &c.sleeps),
    ("core_received_bytes", "Bytes that came in", |c| &c.bytes_in),
    ("core_sent_bytes", "Bytes that went out", |c| &c.bytes_out),
    ("core_sends", "Sends that were submitted", |c| &c.sends),
    ("core_buffers_exhausted", "Times that no receive buffer was free", |c| &c.buffers_exhausted),
    ("core_connections_opened", "Client connections that were opened", |c| &c.connections_opened),
    ("core_connections_refused", "Connections refused at the limit", |c| &c.connections_refused),
    ("core_accepts_failed", "Connections not accepted for want of descriptors", |c| {
        &c.accepts_failed
    }),
    ("core_connections_idle", "Clients disconnected after a long silence", |c| &c.connections_idle),
    ("core_links_silent", "Links made anew because they were silent", |c| &c.links_silent),
    ("core_connections_bad", "Connections closed for what they sent", |c| &c.connections_bad),
    ("core_connections_slow", "Connections closed as too slow", |c| &c.connections_slow),
    ("core_notes_dropped", "Notes for the log that were dropped", |c| &c.notes_dropped),
];

type GroupNumber = (&'static str, &'static str, fn(&GroupStatus) -> u64);

const GROUP_GAUGES: [GroupNumber; 16] = [
    ("raft_leader", "1 where this node leads the group", |g| u64::from(g.role == "leader")),
    ("raft_serves", "1 where this node leads the group and a majority follows it", |g| {
        u64::from(g.serves())
    }),
    ("raft_leader_known", "1 where the group's leader is known", |g| u64::from(g.leader.is_some())),
    ("raft_term", "The term", |g| g.term.0),
    ("raft_commit_index", "The highest index known to be committed", |g| g.commit.0),
    ("raft_applied_index", "The highest index applied", |g| g.applied.0),
    ("raft_first_index", "The first index still in the log", |g| g.first_index.0),
    ("raft_last_index", "The last index in the log", |g| g.last_index.0),
    ("raft_durable_index", "The highest index durable here", |g| g.durable.0),
    ("session_live", "Live sessions", |g| g.machine.sessions),
    ("lock_live", "Locks that are held or waited for", |g| g.machine.locks),
    ("lock_waiters", "Callers that wait for a lock", |g| g.machine.lock_waiters),
    ("queue_live", "Queues", |g| g.machine.queues),
    ("cache_lines", "Cache lines", |g| g.machine.lines),
    ("cache_lines_bytes", "What the cache lines take", |g| g.machine.line_bytes),
    ("cache_evictions_since_start", "Lines evicted since the start", |g| g.machine.evictions),
];

type JournalNumber = (&'static str, &'static str, fn(&EngineStatus) -> u64);

const JOURNAL_GAUGES: [JournalNumber; 5] = [
    ("journal_synced_position", "The last sync unit that is durable", |e| e.journal.synced),
    ("journal_appended_position", "The sync unit that records go to", |e| e.journal.appended),
    ("journal_live_segments", "Segments in use", |e| e.journal.segments_live.into()),
    ("journal_free_segments", "Segments ready to be used", |e| e.journal.segments_free.into()),
    ("journal_segment_bytes", "The size of a segment", |e| e.journal.segment_bytes),
];

impl Scrape {
    fn node(&self, out: &mut Families<'_>) -> fmt::Result {
        let (facts, gathered) = (&self.facts, &self.gathered);
        let info = [
            ("node", facts.node.to_string()),
            ("cluster", facts.cluster.to_string()),
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("writer", facts.writer.to_owned()),
        ];
        out.gauge("node_info", "Who this node is; always 1", [(info, 1.0)])?;
        let uptime = facts.started.elapsed().as_secs_f64();
        out.number("node_uptime_seconds", "Since the process began", uptime)?;
        let startup = facts.startup.as_secs_f64();
        out.number("node_startup_seconds", "From its begin until it served", startup)?;
        let ready = gathered.unready(facts).is_none();
        out.number("node_ready", "1 when every group knows a leader", f64::from(u8::from(ready)))?;
        let stopping = gathered.phase == Phase::Stopping;
        out.number("node_stopping", "1 while the node stops", f64::from(u8::from(stopping)))?;
        let anon = self.process.anon_bytes as f64;
        out.number("process_resident_anon_bytes", "Anonymous memory in use", anon)?;
        let mut cpu = out.0.encode_descriptor(
            "process_cpu_seconds",
            "CPU time that the process took",
            None,
            MetricType::Counter,
        )?;
        cpu.encode_counter::<NoLabelSet, _, f64>(&self.process.cpu_seconds, None)?;
        let n = &gathered.notes;
        let notes = [
            ("leader_changed", n.leader_changes),
            ("campaign_begun", n.campaigns),
            ("snapshot_made", n.snapshots_made),
            ("snapshot_installed", n.snapshots_installed),
            ("snapshot_sent", n.snapshots_sent),
            ("snapshot_backed_up", n.snapshots_backed_up),
            ("session_expired", n.sessions_expired),
            ("journal_full", n.journal_full),
            ("segment_made", n.segments_made),
        ];
        let rows = notes.into_iter().map(|(what, n)| ([("event", what)], n as f64));
        out.counter("node_events", "What happened, by kind", rows)
    }

    fn cores(&self, out: &mut Families<'_>) -> fmt::Result {
        let cores = || self.gathered.counters.iter().enumerate();
        let label = |core: usize| [("core", core.to_string())];
        for (name, help, read) in CORE_COUNTERS {
            out.counter(name, help, cores().map(|(n, c)| (label(n), read(c).get() as f64)))?;
        }
        let frames = cores().flat_map(|(core, c)| {
            FAMILIES.into_iter().zip(&c.frames_in).map(move |(family, count)| {
                ([("core", core.to_string()), ("family", family.to_owned())], count.get() as f64)
            })
        });
        out.counter("core_received_frames", "Frames that came in, by family", frames)?;
        let open = cores().map(|(n, c)| (label(n), c.connections.get() as f64));
        out.gauge("core_connections", "Client connections that are open", open)?;
        let links = cores().map(|(n, c)| (label(n), c.links_up.get() as f64));
        out.gauge("peer_links", "Links to peers that stand", links)?;
        let dropped = cores().map(|(n, c)| (label(n), c.peer_bytes_dropped.get() as f64));
        out.counter("peer_dropped_bytes", "Bytes for peers that were dropped", dropped)?;
        let syncs = cores().map(|(n, c)| (label(n), &c.sync_us));
        out.histogram("journal_sync_seconds", "Syncs of the journal", 1e6, syncs)?;
        let writes = cores().map(|(n, c)| (label(n), &c.write_bytes));
        out.histogram("journal_write_bytes", "Writes of the journal", 1.0, writes)?;
        let slices = cores().map(|(n, c)| (label(n), &c.snapshot_us));
        let what = "Slices of snapshots, by the CPU time of their thread";
        out.histogram("core_snapshot_slice_seconds", what, 1e6, slices)?;
        let batches = cores().map(|(n, c)| (label(n), &c.batch_frames));
        out.histogram("core_batch_frames", "Frames that one turn brought", 1.0, batches)
    }

    fn journals(&self, out: &mut Families<'_>) -> fmt::Result {
        for (name, help, read) in JOURNAL_GAUGES {
            let rows = self.gathered.engines.iter();
            let rows = rows.map(|e| ([("engine", e.engine.to_string())], read(e) as f64));
            out.gauge(name, help, rows)?;
        }
        let twins = self.gathered.engines.iter().flat_map(|e| e.peers.iter().map(move |t| (e, t)));
        let suspicion = twins.map(|(e, twin)| {
            let peer = ("peer", twin.node.to_string());
            ([("engine", e.engine.to_string()), peer], twin.phi)
        });
        out.gauge(
            "peer_suspicion_phi",
            "How surely a peer is dead: 8 is wrong once in 10^8",
            suspicion,
        )
    }

    fn groups(&self, out: &mut Families<'_>) -> fmt::Result {
        let groups = || self.gathered.engines.iter().flat_map(|e| &e.groups);
        let label = |g: &GroupStatus| ("group", g.group.to_string());
        for (name, help, read) in GROUP_GAUGES {
            out.gauge(name, help, groups().map(|g| ([label(g)], read(g) as f64)))?;
        }
        let messages = groups().flat_map(|g| {
            let m = &g.machine;
            let rows = [
                ("ready", m.messages_ready),
                ("in_flight", m.messages_in_flight),
                ("delayed", m.messages_delayed),
            ];
            rows.map(|(state, n)| ([label(g), ("state", state.to_owned())], n as f64))
        });
        out.gauge("queue_messages", "Messages, by state", messages)?;
        let peers = || groups().flat_map(move |g| g.peers.iter().map(move |p| (g, p)));
        let labels = |g: &GroupStatus, node: u32| [label(g), ("peer", node.to_string())];
        let matched = peers().map(|(g, p)| (labels(g, p.node.0), p.match_index.0 as f64));
        out.gauge("raft_peer_match_index", "What a leader knows to be durable there", matched)?;
        let silent =
            peers().filter_map(|(g, p)| Some((labels(g, p.node.0), p.silent?.as_secs_f64())));
        out.gauge("raft_peer_silence_seconds", "How long ago a follower was heard", silent)
    }
}

/// What the kernel says of this process.
#[derive(Default, Debug)]
struct Process {
    anon_bytes: u64,
    cpu_seconds: f64,
}

impl Process {
    /// Now; what can't be read is zero.
    fn now() -> Process {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let anon = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let anon_kib = anon.and_then(|a| a.split_whitespace().next()?.parse::<u64>().ok());
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The command's name, in brackets, may hold anything; the rest is numbers (proc_pid_stat(5)).
        let fields: Vec<_> =
            stat.rsplit_once(") ").map_or(vec![], |(_, rest)| rest.split(' ').collect());
        let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
        let per_second = rustix::param::clock_ticks_per_second();
        Process {
            anon_bytes: anon_kib.unwrap_or(0) << 10,
            cpu_seconds: (ticks(11) + ticks(12)) as f64 / per_second as f64,
        }
    }
}
