//! `tercet status`.

use crate::Done;
use crate::args::{Common, Status};
use crate::cluster::table;
use crate::cluster::view::{Group, View};
use crate::output::{Failure, Output, exit};
use client::admin::{self, Change, Watch};
use client::{Node, Placement, Probe};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// A document of a node's state is never larger, in bytes.
const STATUS_BYTES_MAX: u64 = 16 << 20;
/// How long one look at what changes takes.
const WATCH_LOOK: Duration = Duration::from_secs(60);
/// How long it waits before it asks nodes again of which none answered.
const WATCH_PAUSE: Duration = Duration::from_millis(500);

pub fn status(common: &Common, status: &Status, output: &Output) -> Done {
    if let Some(url) = &status.http {
        let body = fetch(url, common.deadline)
            .map_err(|why| Failure::Other(exit::UNAVAILABLE, format!("{url}: {why}")))?;
        let document: Value = serde_json::from_str(&body).map_err(|why| {
            Failure::Other(exit::FAILED, format!("{url} answered with no JSON: {why}"))
        })?;
        let text = serde_json::to_string_pretty(&document).unwrap_or(body);
        output.result(&document, &text)?;
        return Ok(ExitCode::SUCCESS);
    }
    if status.watch {
        return watch(common, output);
    }
    let topology = admin::topology(&common.servers)?;
    let probes = look(&topology.nodes);
    let view = View::new(&topology, &probes);
    let document = document(&topology.nodes, &view, &probes);
    output.result(&document, &table(&topology.nodes, &view, &probes, status, output))?;
    Ok(ExitCode::from(view.state().exit()))
}

/// Tells what changes, until interrupted.
fn watch(common: &Common, output: &Output) -> Done {
    let begun = Instant::now();
    let mut watch = Watch::new(common.servers.clone());
    let mut lost = false;
    // Whoever is not reached at first is named wrongly, most likely.
    let mut changes = watch.next(WATCH_LOOK)?;
    loop {
        for change in &changes {
            let after = begun.elapsed();
            let seconds = after.as_secs_f64();
            let document =
                json!({ "after_ms": after.as_millis() as u64, "change": described(change) });
            output.result(&document, &format!("{seconds:9.3}  {}", told(change)))?;
        }
        changes = match watch.next(WATCH_LOOK) {
            Ok(changes) => {
                lost = false;
                changes
            }
            Err(error) => {
                if !std::mem::replace(&mut lost, true) {
                    let seconds = begun.elapsed().as_secs_f64();
                    output.note(&format!("{seconds:9.3}  no node answers; waiting: {error}"))?;
                }
                std::thread::sleep(WATCH_PAUSE);
                Vec::new()
            }
        };
    }
}

/// A change, for scripts.
fn described(change: &Change) -> Value {
    match change {
        Change::Told { node, address } => {
            json!({ "kind": "told-by", "node": node, "address": address })
        }
        Change::Node(node) => {
            json!({ "kind": "node", "node": node.id, "address": node.address, "engines": node.engines })
        }
        Change::Gone(node) => json!({ "kind": "gone", "node": node.id, "address": node.address }),
        Change::Shard { was, is } => {
            let leader = |placement: &Placement| (placement.leader > 0).then_some(placement.leader);
            json!({
                "kind": "shard",
                "shard": is.shard,
                "leader": leader(is),
                "replicas": is.replicas,
                "was_leader": was.as_ref().and_then(leader),
                "was_replicas": was.as_ref().map(|was| &was.replicas),
            })
        }
    }
}

/// A change, for people.
fn told(change: &Change) -> String {
    let by = |leader: u32| match leader {
        0 => String::from("nobody leads"),
        leader => format!("node {leader} leads"),
    };
    match change {
        Change::Told { node, address } => format!("node {node} at {address} tells"),
        Change::Node(node) => format!("node {} is at {}", node.id, node.address),
        Change::Gone(node) => format!("node {} has gone", node.id),
        Change::Shard { was: None, is } => {
            format!("shard {}: {}, kept by {:?}", is.shard, by(is.leader), is.replicas)
        }
        Change::Shard { was: Some(was), is } => {
            let mut text = format!("shard {}:", is.shard);
            if was.leader != is.leader {
                let _ = write!(text, " {} (before: {})", by(is.leader), by(was.leader));
            }
            if was.replicas != is.replicas {
                let _ = write!(text, " kept by {:?} (before: {:?})", is.replicas, was.replicas);
            }
            text
        }
    }
}

/// Looks at all nodes at once.
pub fn look(nodes: &[Node]) -> Vec<Result<Probe, client::Error>> {
    std::thread::scope(|scope| {
        let start = |node: &Node| {
            let address = node.address.clone();
            scope.spawn(move || client::probe(&address))
        };
        let looks: Vec<_> = nodes.iter().map(start).collect();
        looks.into_iter().map(|l| l.join().expect("a probe does not panic")).collect()
    })
}

fn document(nodes: &[Node], view: &View, probes: &[Result<Probe, client::Error>]) -> Value {
    let statuses = statuses(probes);
    let node = |((node, probe), status): ((&Node, &Result<Probe, client::Error>), _)| {
        let seen = view.node(node.id);
        let mut row = json!({
            "id": node.id,
            "address": node.address,
            "engines": node.engines,
            "up": probe.is_ok(),
            "phi": seen.and_then(|seen| seen.phi),
            "peer_round_trip_us": seen.and_then(|seen| seen.round_trip_us),
            "leads": led_by(node.id, view),
        });
        match probe {
            Ok(probe) => {
                row["round_trip_us"] = json!(probe.round_trip.as_secs_f64() * 1e6);
                row["status"] = json!(status);
            }
            Err(error) => row["error"] = json!(error.to_string()),
        }
        row
    };
    let shard = |group: &Group| {
        let replicas: Vec<u32> = group.members.iter().map(|member| member.node).collect();
        json!({ "shard": group.group - 1, "leader": group.leader, "replicas": replicas })
    };
    let rows = nodes.iter().zip(probes).zip(&statuses);
    json!({
        "cluster": view.cluster,
        "state": view.state().name(),
        "nodes": rows.map(node).collect::<Vec<_>>(),
        "shards": view.groups.iter().skip(1).map(shard).collect::<Vec<_>>(),
        "groups": view.groups.iter().map(table::group).collect::<Vec<_>>(),
    })
}

fn table(
    nodes: &[Node],
    view: &View,
    probes: &[Result<Probe, client::Error>],
    status: &Status,
    output: &Output,
) -> String {
    let mut out = format!("cluster {}, {} shards\n", view.cluster, view.groups.len() - 1);
    let width = nodes.iter().map(|n| n.address.len()).max().unwrap_or(0).max(7);
    let head = "state  phi   between nodes   from here  engines  leads shards";
    let _ = writeln!(out, "node  {:<width$}  {head}", "address");
    let ms = |us: Option<f64>| us.map_or(String::from("-"), |us| format!("{:.2} ms", us / 1e3));
    for (node, probe) in nodes.iter().zip(probes) {
        let state = match probe {
            Ok(_) => output.paint("up   ", 32),
            Err(_) => output.paint("down ", 31),
        };
        let here = ms(probe.as_ref().ok().map(|probe| probe.round_trip.as_secs_f64() * 1e6));
        let seen = view.node(node.id);
        let between = ms(seen.and_then(|seen| seen.round_trip_us));
        let phi = show_phi(seen.and_then(|seen| seen.phi));
        let leads = ranges(&led_by(node.id, view));
        let (id, address, engines) = (node.id, &node.address, node.engines);
        let _ = writeln!(
            out,
            "{id:<4}  {address:<width$}  {state}  {phi:<4}  {between:>13}  {here:>10}  {engines:>7}  {leads}"
        );
    }
    out.push_str(&table::troubles(view, output));
    if status.shards {
        for group in view.groups.iter().skip(1) {
            let leader = group.leader.map_or(String::from("-"), |leader| leader.to_string());
            let replicas: Vec<u32> = group.members.iter().map(|member| member.node).collect();
            let (shard, state) = (group.group - 1, group.state().name());
            let _ = writeln!(
                out,
                "shard {shard:<4} leader {leader:<4} {state:<11} replicas {replicas:?}"
            );
        }
    }
    out.truncate(out.trim_end().len());
    out
}

/// What each node tells of itself, if it does.
pub fn statuses(probes: &[Result<Probe, client::Error>]) -> Vec<Option<Value>> {
    let told = probes.iter().map(|probe| probe.as_ref().ok()?.status.as_ref());
    told.map(|status| serde_json::from_str(status?).ok()).collect()
}

/// How surely a node is dead, by the node that says so most: the detector's phi.
pub fn phi(statuses: &[Option<Value>], node: u32) -> Option<f64> {
    let twins = statuses.iter().flatten().filter_map(|status| status["twins"].as_array());
    let of_node = twins.flatten().filter(|twin| twin["node"] == node);
    of_node.filter_map(|twin| twin["phi"].as_f64()).reduce(f64::max)
}

/// For a table.
pub fn show_phi(phi: Option<f64>) -> String {
    phi.map_or(String::from("-"), |phi| format!("{phi:.1}"))
}

fn led_by(node: u32, view: &View) -> Vec<u32> {
    let led = view.groups(|group| group.group > 0 && group.leader == Some(node));
    led.into_iter().map(|group| group - 1).collect()
}

/// Numbers in order, as "0-3, 7".
pub fn ranges(numbers: &[u32]) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for n in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *n => *last = *n,
            _ => runs.push((*n, *n)),
        }
    }
    let run = |(from, to): (u32, u32)| match from == to {
        true => from.to_string(),
        false => format!("{from}-{to}"),
    };
    match runs.is_empty() {
        true => String::from("-"),
        false => runs.into_iter().map(run).collect::<Vec<_>>().join(", "),
    }
}

/// Fetches /status from a node's HTTP address: one plain GET, the connection closed after it.
fn fetch(url: &str, deadline: Duration) -> Result<String, String> {
    let rest = url.strip_prefix("http://").ok_or("write it as http://host:port")?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let path = if path.is_empty() { "status" } else { path };
    let mut stream = TcpStream::connect(host).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(deadline)).map_err(|e| e.to_string())?;
    let request =
        format!("GET /{path} HTTP/1.0\r\nHost: {host}\r\nAccept: application/json\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(|e| e.to_string())?;
    let mut answer = Vec::new();
    stream.take(STATUS_BYTES_MAX).read_to_end(&mut answer).map_err(|e| e.to_string())?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("the answer is no HTTP")?;
    let line = head.lines().next().unwrap_or_default();
    match line.split(' ').nth(1) {
        Some("200") => Ok(String::from(body)),
        _ => Err(format!("the answer is {line}")),
    }
}

#[cfg(test)]
mod tests {
    use super::ranges;

    #[test]
    fn numbers_in_a_row_are_a_range() {
        assert_eq!(ranges(&[]), "-");
        assert_eq!(ranges(&[0, 1, 2, 3, 7]), "0-3, 7");
        assert_eq!(ranges(&[5]), "5");
    }
}
