//! The report for people.

use super::table::floor;
use super::targets::Targets;
use super::{Report, grouped, time};
use std::fmt::Write;

/// The report as Markdown. It expects `latency.svg` beside it when `picture` names it.
pub fn render(report: &Report, picture: Option<&str>) -> String {
    let mut out = String::new();
    // Writing into a String can't fail.
    let _ = write(report, picture, &mut out);
    out
}

fn write(report: &Report, picture: Option<&str>, out: &mut String) -> std::fmt::Result {
    writeln!(out, "# Tercet, measured\n")?;
    let origin = &report.origin;
    writeln!(out, "{}, commit `{}`, {}.\n", origin.tool, origin.commit, origin.date)?;
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let (machine, disk) = (&origin.machine, &report.disk);
    writeln!(out, "| | |\n|---|---|")?;
    writeln!(out, "| machine | {} CPUs of {} |", machine.cpus, machine.cpu)?;
    writeln!(out, "| memory | {:.1} GiB |", gib(machine.memory_bytes))?;
    writeln!(out, "| kernel | Linux {}, TCP {} |", machine.kernel, machine.tcp)?;
    writeln!(out, "| disk | {} on {} |", disk.file_system, disk.device)?;
    writeln!(out, "| flags | `{}` |", origin.flags.join(" "))?;
    let cluster = &report.cluster;
    let plural = if cluster.cores == 1 { "thread" } else { "threads" };
    writeln!(
        out,
        "| cluster | {} nodes of {} {plural}, {} shards, journal writer {} |",
        cluster.nodes, cluster.cores, cluster.shards, cluster.wal
    )?;
    writeln!(out, "| placement | {} |\n", cluster.placement)?;
    writeln!(
        out,
        "Every acknowledged write is durable on a majority of the nodes. Nodes and generator share \
         this machine. While it loads, the harness checks that exclusive locks never overlap and \
         fences rise, that every acknowledged push is popped and none after its acknowledgement, \
         and that no get is older than an acknowledged put: **{}**.\n",
        match report.violations_total {
            0 => "no violation".to_string(),
            count => format!("{count} VIOLATIONS"),
        }
    )?;
    scenarios(report, out)?;
    if let Some(picture) = picture {
        writeln!(out, "![Latency by percentile, both axes logarithmic]({picture})\n")?;
    }
    floors(report, out)?;
    costs(report, out)?;
    published(report, out)?;
    if !report.notes.is_empty() {
        writeln!(out, "## Notes\n")?;
        for note in &report.notes {
            writeln!(out, "- {note}")?;
        }
    }
    Ok(())
}

fn scenarios(report: &Report, out: &mut String) -> std::fmt::Result {
    writeln!(out, "## Scenarios\n")?;
    writeln!(
        out,
        "| scenario | connections x depth | ops/s | p50 | p95 | p99 | p99.9 | max | errors | floor | target | |"
    )?;
    writeln!(out, "|---|---|--:|--:|--:|--:|--:|--:|--:|---|---|---|")?;
    for it in &report.scenarios {
        let latency = &it.latency_us;
        let target = it.target.as_ref();
        let verdict = target.map_or("", |target| if target.met { "met" } else { "missed" });
        writeln!(
            out,
            "| {} | {} x {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {verdict} |",
            it.name,
            it.connections,
            it.depth,
            grouped(it.ops_per_s),
            time(latency.p50),
            time(latency.p95),
            time(latency.p99),
            time(latency.p999),
            time(latency.max),
            it.errors_total,
            floor(it),
            target.map_or("-", |target| &target.wanted),
        )?;
    }
    writeln!(out)?;
    for it in report.scenarios.iter().filter(|it| it.violations_total > 0) {
        writeln!(out, "**{} ({} x {}) broke promises:**\n", it.name, it.connections, it.depth)?;
        for violation in &it.violations {
            writeln!(out, "- {violation}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn floors(report: &Report, out: &mut String) -> std::fmt::Result {
    writeln!(out, "## Floors\n")?;
    writeln!(
        out,
        "What physics allows, measured in the same run: the loopback echo of frames of the same \
         sizes on the same ring code, and the durable append by {} appenders at once on the same \
         disk. A write's floor p50 is echo + (echo + append), its floor rate the smaller of both; a \
         read's is the echo. The p50 of a floor is one request alone: compare it at 1 x 1.\n",
        report.cluster.nodes
    )?;
    writeln!(
        out,
        "| scenario | shape | echo/s | echo p50 | append records/s | append p50 | floor/s | floor p50 |"
    )?;
    writeln!(out, "|---|---|--:|--:|--:|--:|--:|--:|")?;
    for it in &report.scenarios {
        let Some(floor) = &it.floor else { continue };
        writeln!(
            out,
            "| {} | {} x {} | {} | {} | {} | {} | {} | {} |",
            it.name,
            it.connections,
            it.depth,
            grouped(floor.echo_ops_per_s),
            time(floor.echo_p50_us),
            grouped(floor.append_ops_per_s),
            time(floor.append_p50_us),
            grouped(floor.ops_per_s),
            time(floor.p50_us),
        )?;
    }
    writeln!(out)
}

fn costs(report: &Report, out: &mut String) -> std::fmt::Result {
    let cluster = &report.cluster;
    let mib = |bytes: &[u64]| list(bytes, |b| format!("{:.1}", *b as f64 / f64::from(1 << 20)));
    writeln!(out, "## What the nodes cost\n")?;
    writeln!(out, "| by node | |\n|---|---|")?;
    writeln!(
        out,
        "| start to ready, ms | {} |",
        list(&cluster.startup_ms, |ms| format!("{ms:.0}"))
    )?;
    writeln!(out, "| a leader for every shard after, ms | {:.0} |", cluster.leaders_ms)?;
    if let Some(ms) = cluster.restart_after_ms {
        writeln!(out, "| one node restarted after everything, ms | {ms:.0} |")?;
    }
    writeln!(out, "| anonymous memory idle, MiB | {} |", mib(&cluster.idle_rss_anon_bytes))?;
    writeln!(out, "| anonymous memory after the load, MiB | {} |", mib(&cluster.rss_anon_bytes))?;
    let idle = list(&cluster.idle_cpu_percent, |percent| format!("{percent:.1}"));
    writeln!(out, "| CPU idle, % of one | {idle} |")?;
    let cpu = list(&cluster.cpu_seconds, |s| format!("{s:.1}"));
    writeln!(out, "| CPU in all, s | {cpu} |")?;
    writeln!(out, "| journal on disk, MiB | {} |", mib(&cluster.wal_bytes))?;
    let stalls = list(&cluster.snapshot_stall_ms_max, |ms| format!("{ms:.2}"));
    writeln!(out, "| longest slice of a snapshot, ms of CPU | {stalls} |")?;
    writeln!(out, "| written to disk, MiB | {} |\n", mib(&cluster.write_bytes))?;
    writeln!(
        out,
        "| scenario | shape | CPU s of all nodes per 1,000 | context switches per op | bytes written per op | longest silence |"
    )?;
    writeln!(out, "|---|---|--:|--:|--:|--:|")?;
    for it in report.scenarios.iter().filter(|it| it.operations > 0 && it.name != "floor") {
        writeln!(
            out,
            "| {} | {} x {} | {:.5} | {:.2} | {:.0} | {} |",
            it.name,
            it.connections,
            it.depth,
            it.node_cpu_s_per_1000,
            it.node_switches_per_op,
            it.node_write_bytes_per_op,
            time(it.silence_ms_max * 1e3),
        )?;
    }
    writeln!(out)
}

fn published(report: &Report, out: &mut String) -> std::fmt::Result {
    writeln!(out, "## Beside others\n")?;
    writeln!(
        out,
        "Figures of other systems, as measured or published elsewhere; machines differ, so read the \
         ratio as a magnitude.\n"
    )?;
    writeln!(out, "| system | ops/s | p50 | p99 | ours, same shape | ratio | source |")?;
    writeln!(out, "|---|--:|--:|--:|--:|--:|---|")?;
    for other in &Targets::known().published {
        let ours = report.scenarios.iter().find(|it| {
            it.name == other.like
                && it.connections == other.connections.unwrap_or(64)
                && it.depth == other.depth.unwrap_or(1)
        });
        let Some(ours) = ours else { continue };
        let or_dash = |us: Option<f64>| us.map_or("-".into(), time);
        let (mine, ratio) = match (other.ops_per_s, other.p50_us) {
            (Some(ops), _) => (grouped(ours.ops_per_s), ours.ops_per_s / ops),
            (None, Some(p50)) => (time(ours.latency_us.p50), p50 / ours.latency_us.p50.max(1e-9)),
            (None, None) => continue,
        };
        writeln!(
            out,
            "| {} | {} | {} | {} | {mine} | {ratio:.2} | {} |",
            other.system,
            other.ops_per_s.map_or("-".into(), grouped),
            or_dash(other.p50_us),
            or_dash(other.p99_us),
            other.source,
        )?;
    }
    writeln!(out)
}

fn list<T>(values: &[T], say: impl Fn(&T) -> String) -> String {
    values.iter().map(say).collect::<Vec<_>>().join(", ")
}
