//! What `tercet cluster status` prints.

use super::view::{Group, Node, State, View, Vote, sorted};
use crate::output::Output;
use crate::status::ranges;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// For scripts.
pub fn document(view: &View) -> Value {
    let node = |node: &Node| {
        json!({
            "id": node.id,
            "address": node.address,
            "up": node.error.is_none(),
            "error": node.error,
            "standing": node.standing,
            "incarnation": node.incarnation,
            "phi": node.phi,
            "peer_round_trip_us": node.round_trip_us,
            "level_max": node.level_max,
            "replicas": view.groups_of(node.id),
            "learners": view.groups(|g| g.those(Vote::Learners).contains(&node.id)),
            "leads": view.groups(|g| g.leader == Some(node.id)),
        })
    };
    json!({
        "cluster": view.cluster,
        "epoch": view.epoch,
        "level": view.level,
        "settled": view.state() == State::Settled,
        "state": view.state().name(),
        "nodes": view.nodes.iter().map(node).collect::<Vec<_>>(),
        "groups": view.groups.iter().map(group).collect::<Vec<_>>(),
    })
}

/// A group, for scripts.
pub fn group(group: &Group) -> Value {
    json!({
        "group": group.group,
        "shard": group.group.checked_sub(1),
        "leader": group.leader,
        "preferred": group.preferred,
        "voters": group.those(Vote::Voters),
        "learners": group.those(Vote::Learners),
        "wanted": group.wanted,
        "missing": group.missing,
        "state": group.state().name(),
        "settled": group.state() == State::Settled,
    })
}

/// What is wrong, a line for each kind; nothing where nothing is.
pub fn troubles(view: &View, output: &Output) -> String {
    let kinds = [
        (State::NoMajority, "without a majority", 31),
        (State::NoLeader, "no leader that answers", 31),
        (State::Degraded, "replicas missing", 33),
    ];
    let mut out = String::new();
    for (state, what, colour) in kinds {
        let groups = view.those(state);
        if groups.is_empty() {
            continue;
        }
        let shards: Vec<u32> = groups.iter().filter_map(|group| group.checked_sub(1)).collect();
        let own = groups.contains(&0).then(|| String::from("the cluster's own group"));
        let shards = (!shards.is_empty()).then(|| format!("shards {}", ranges(&shards)));
        let names: Vec<String> = own.into_iter().chain(shards).collect();
        let text = format!("{what}: {}", names.join(", "));
        let _ = writeln!(out, "{}", output.paint(&text, colour));
    }
    out
}

/// For people.
pub fn table(view: &View, output: &Output) -> String {
    let settled = view.those(State::Settled).len();
    let (of, nodes) = (view.groups.len(), view.nodes.len());
    let level = view.level.map_or(String::new(), |level| format!(", feature level {level}"));
    let mut out = format!(
        "cluster {}: {nodes} nodes, {settled} of {of} groups settled{level}\n\n",
        view.cluster
    );
    let width = view.nodes.iter().map(|n| n.address.len()).max().unwrap_or(0).max(7);
    let head = "state  phi   standing  replicas  learners  leads";
    let _ = writeln!(out, "node  {:<width$}  {head}", "address");
    for node in &view.nodes {
        let state = match node.error {
            None => output.paint("up   ", 32),
            Some(_) => output.paint("down ", 31),
        };
        let standing = node.standing.as_deref().unwrap_or("-");
        let phi = crate::status::show_phi(node.phi);
        let replicas = view.groups_of(node.id).len();
        let learners = view.groups(|g| g.those(Vote::Learners).contains(&node.id)).len();
        let leads = view.groups(|g| g.leader == Some(node.id)).len();
        let _ = writeln!(
            out,
            "{:<4}  {:<width$}  {state}  {phi:<4}  {standing:<8}  {replicas:>8}  {learners:>8}  {leads:>5}",
            node.id, node.address
        );
    }
    out.push_str("\ngroup  shard  leader  voters        learners      state\n");
    for group in &view.groups {
        let or_none = |number: Option<u32>| number.map_or(String::from("-"), |n| n.to_string());
        let missing = ranges(&sorted(group.missing.clone()));
        let state = match group.state() {
            State::Settled => String::from("settled"),
            State::Moving => output.paint("moving", 33),
            State::Degraded if group.missing.is_empty() => {
                output.paint("degraded: replicas are to come", 33)
            }
            State::Degraded => output.paint(&format!("degraded: not there: {missing}"), 33),
            State::NoLeader => output.paint("no leader that answers", 31),
            State::NoMajority => output.paint(&format!("no majority: not there: {missing}"), 31),
        };
        let (shard, leader) = (or_none(group.group.checked_sub(1)), or_none(group.leader));
        let (voters, learners) = (list(group, Vote::Voters), list(group, Vote::Learners));
        let _ = writeln!(
            out,
            "{:<5}  {shard:<5}  {leader:<6}  {voters:<12}  {learners:<12}  {state}",
            group.group
        );
    }
    out.truncate(out.trim_end().len());
    out
}

fn list(group: &Group, vote: Vote) -> String {
    ranges(&sorted(group.those(vote)))
}
