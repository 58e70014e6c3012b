//! `tercet status`.

use crate::Done;
use crate::args::{Common, Status};
use crate::output::{Failure, Output, exit, hex};
use client::{Node, Placement, Probe};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::Duration;

/// A document of a node's state is never larger, in bytes.
const STATUS_BYTES_MAX: u64 = 16 << 20;

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
    let client = common.connect()?;
    let (nodes, placement) = client.topology();
    client.close();
    let probes = look(&nodes);
    let up = |id: u32| nodes.iter().zip(&probes).any(|(n, p)| n.id == id && p.is_ok());
    let headless = placement.iter().filter(|p| !up(p.leader)).count();
    let document = document(&nodes, &placement, &probes);
    output.result(&document, &table(&nodes, &placement, &probes, status, output))?;
    Ok(ExitCode::from(if headless > 0 { exit::UNAVAILABLE } else { 0 }))
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

fn document(
    nodes: &[Node],
    placement: &[Placement],
    probes: &[Result<Probe, client::Error>],
) -> Value {
    let statuses = statuses(probes);
    let node = |(node, probe): (&Node, &Result<Probe, client::Error>)| {
        let leads: Vec<u32> = led_by(node.id, placement);
        let mut row = json!({
            "id": node.id,
            "address": node.address,
            "engines": node.engines,
            "up": probe.is_ok(),
            "phi": phi(&statuses, node.id),
            "leads": leads,
        });
        match probe {
            Ok(probe) => {
                row["round_trip_us"] = json!(probe.round_trip.as_secs_f64() * 1e6);
                let status = probe.status.as_ref().and_then(|s| serde_json::from_str(s).ok());
                row["status"] = status.unwrap_or(Value::Null);
            }
            Err(error) => row["error"] = json!(error.to_string()),
        }
        row
    };
    let shard = |p: &Placement| {
        let leader = (p.leader != 0).then_some(p.leader);
        json!({ "shard": p.shard, "leader": leader, "replicas": p.replicas })
    };
    let cluster = probes.iter().flatten().next().map(|p| hex(&p.cluster));
    json!({
        "cluster": cluster,
        "nodes": nodes.iter().zip(probes).map(node).collect::<Vec<_>>(),
        "shards": placement.iter().map(shard).collect::<Vec<_>>(),
    })
}

fn table(
    nodes: &[Node],
    placement: &[Placement],
    probes: &[Result<Probe, client::Error>],
    status: &Status,
    output: &Output,
) -> String {
    let mut out = String::new();
    if let Some(probe) = probes.iter().flatten().next() {
        let _ = writeln!(out, "cluster {}, {} shards", hex(&probe.cluster), placement.len());
    }
    let width = nodes.iter().map(|n| n.address.len()).max().unwrap_or(0).max(7);
    let head = "state  phi   round trip  engines  leads shards";
    let _ = writeln!(out, "node  {:<width$}  {head}", "address");
    let statuses = statuses(probes);
    for (node, probe) in nodes.iter().zip(probes) {
        let (state, trip) = match probe {
            Ok(probe) => (
                output.paint("up   ", 32),
                format!("{:.2} ms", probe.round_trip.as_secs_f64() * 1e3),
            ),
            Err(_) => (output.paint("down ", 31), String::from("-")),
        };
        let leads = ranges(&led_by(node.id, placement));
        let (id, address, engines) = (node.id, &node.address, node.engines);
        let phi = show_phi(phi(&statuses, id));
        let _ = writeln!(
            out,
            "{id:<4}  {address:<width$}  {state}  {phi:<4}  {trip:>10}  {engines:>7}  {leads}"
        );
    }
    let headless: Vec<u32> = placement.iter().filter(|p| p.leader == 0).map(|p| p.shard).collect();
    if !headless.is_empty() {
        let text = format!("no leader: shards {}", ranges(&headless));
        let _ = writeln!(out, "{}", output.paint(&text, 31));
    }
    if status.shards {
        for p in placement {
            let leader = if p.leader == 0 { String::from("-") } else { p.leader.to_string() };
            let _ =
                writeln!(out, "shard {:<4} leader {leader:<4} replicas {:?}", p.shard, p.replicas);
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

fn led_by(node: u32, placement: &[Placement]) -> Vec<u32> {
    placement.iter().filter(|p| p.leader == node).map(|p| p.shard).collect()
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
