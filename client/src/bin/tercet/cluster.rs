//! `tercet cluster`: nodes come and go, leaders move.
//!
//! The cluster does the work: once it knows that a node is there, or that one is to go, each group's leader
//! moves its own replicas. The tool says what is wanted, and watches. So whatever is interrupted here goes on,
//! and running it again watches on.

mod backup;
pub mod table;
pub mod view;

use crate::Done;
use crate::args::{Cluster, Common};
use crate::output::{Failure, Output, exit, hex};
use crate::status::{look, ranges};
use client::admin::{self, Joiner, Joins, Present, Topology};
use client::{Code, Error};
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use view::{Group, State, View, Vote};

/// How often the cluster is looked at while something is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long a node may take to listen that was just started.
const STARTED_WITHIN: Duration = Duration::from_secs(5);
/// How long nothing may be under way before that is believed.
const QUIET_FOR: Duration = Duration::from_secs(1);
/// The same where the new node keeps nothing yet and no node tells who is to keep what.
const QUIET_FOR_EMPTY: Duration = Duration::from_secs(5);
/// How long leadership may take to move.
const TRANSFER_MAX: Duration = Duration::from_secs(5);

pub fn cluster(common: &Common, command: &Cluster, output: &Output) -> Done {
    let mut tool = Tool { output, servers: common.servers.clone() };
    let done = match command {
        Cluster::Status => return tool.status(),
        Cluster::AddNode { address, no_wait, timeout } => {
            tool.add(address, Wait::of(*no_wait, *timeout))?
        }
        Cluster::RemoveNode { node, no_wait, timeout } => {
            tool.remove(*node, Wait::of(*no_wait, *timeout))?
        }
        Cluster::ReplaceNode { node, address, timeout } => {
            tool.replace(*node, address, *timeout)?
        }
        Cluster::TransferLeader { group, node } => tool.transfer(*group, *node)?,
        Cluster::Backup { file, verify: true, .. } => backup::verify(file)?,
        Cluster::Backup { file, timeout, .. } => {
            backup::take(&common.servers, file, *timeout, output)?
        }
    };
    output.result(&done.document, &done.text)?;
    Ok(ExitCode::SUCCESS)
}

/// How long to wait for what a command began.
#[derive(Clone, Copy)]
enum Wait {
    No,
    AtMost(Duration),
}

impl Wait {
    fn of(no_wait: bool, timeout: Duration) -> Wait {
        if no_wait { Wait::No } else { Wait::AtMost(timeout) }
    }
}

/// What came of a command.
struct Outcome {
    document: Value,
    text: String,
}

struct Tool<'a> {
    output: &'a Output,
    /// The addresses that were given, and those that were learnt.
    servers: Vec<String>,
}

/// A node that is to join, as it says itself.
struct Candidate {
    node: u32,
    incarnation: [u8; 16],
    engines: u32,
    /// Whether it belongs to this cluster by its own word.
    belongs: bool,
}

impl Tool<'_> {
    fn topology(&mut self) -> Result<Topology, Error> {
        let topology = admin::topology(&self.servers)?;
        for node in &topology.nodes {
            if !self.servers.contains(&node.address) {
                self.servers.push(node.address.clone());
            }
        }
        Ok(topology)
    }

    fn view(&mut self) -> Result<View, Error> {
        let topology = self.topology()?;
        Ok(View::new(&topology, &look(&topology.nodes)))
    }

    fn status(&mut self) -> Done {
        let view = self.view()?;
        self.output.result(&table::document(&view), &table::table(&view, self.output))?;
        Ok(ExitCode::from(view.state().exit()))
    }

    fn add(&mut self, address: &str, wait: Wait) -> Result<Outcome, Failure> {
        able(&self.view()?)?;
        let topology = self.topology()?;
        let candidate = candidate(address, &topology)?;
        let id = candidate.node;
        let known = topology.nodes.iter().find(|node| node.id == id);
        // Where it is known already, it keeps the address that the cluster knows.
        let known = known.filter(|_| candidate.belongs);
        let address = known.map_or(address, |node| node.address.as_str());
        if known.is_some() {
            self.output.note(&format!("node {id} belongs to this cluster already"))?;
        }
        self.join(&candidate, address, Joins::New)?;
        self.await_node(id, address, &candidate, &[], wait)
    }

    fn join(&mut self, candidate: &Candidate, address: &str, joins: Joins) -> Result<(), Failure> {
        let Candidate { node, incarnation, engines, .. } = *candidate;
        let joiner = Joiner { node, incarnation, engines, address };
        let added = admin::node_add(&self.servers, &joiner, joins).map_err(|error| match error {
            Error::Refused { code: Code::NodeKnown, subject, node: from, text, detail } => {
                let advice = format!(
                    "{text}. If its data directory was lost: tercet cluster replace-node {node} {address}"
                );
                let text = advice;
                Error::Refused { code: Code::NodeKnown, subject, node: from, text, detail }
            }
            other => other,
        });
        self.explained(added)
    }

    /// A change of the cluster's nodes that did not come to an end: with why not, if the cluster's own group shows it.
    fn explained(&mut self, done: Result<(), Error>) -> Result<(), Failure> {
        let error = match done {
            Ok(()) => return Ok(()),
            Err(error @ (Error::Deadline { .. } | Error::OutcomeUnknown { .. })) => error,
            Err(error) => return Err(error.into()),
        };
        let Some(why) = self.view().ok().and_then(|view| view.frozen()) else {
            return Err(error.into());
        };
        let failure = Failure::from(error);
        Err(Failure::Other(failure.status(), format!("{failure}. {why}")))
    }

    /// Waits until a node that was added keeps what it is to keep, each of `groups` among it.
    fn await_node(
        &mut self,
        id: u32,
        address: &str,
        candidate: &Candidate,
        groups: &[u32],
        wait: Wait,
    ) -> Result<Outcome, Failure> {
        let Wait::AtMost(timeout) = wait else {
            return Ok(Outcome {
                document: json!({ "node": id, "address": address, "settled": false }),
                text: format!(
                    "node {id} is added; replicas move to it by themselves: see tercet cluster status"
                ),
            });
        };
        let life = hex(&candidate.incarnation);
        let quiet = |view: &View| match view.is_exact() || !view.groups_of(id).is_empty() {
            true => QUIET_FOR,
            false => QUIET_FOR_EMPTY,
        };
        let view = self.watch(&format!("node {id} was added"), timeout, quiet, |view| {
            let node = view.node(id).ok_or(format!("node {id} is not in the topology yet"))?;
            if let Some(why) = &node.error {
                return Err(format!("node {id} does not answer yet: {why}"));
            }
            let told = node.incarnation.as_ref();
            let told = told.ok_or(format!("node {id} does not tell its status yet"))?;
            if *told != life {
                return Err(format!("{address} answers with another data directory, {told}"));
            }
            all_settled(view)?;
            let votes = |group: u32| {
                let member = view.groups[group as usize].member(id);
                member.is_some_and(|member| member.voter) && node.keeps.contains(&group)
            };
            let missing: Vec<u32> = groups.iter().copied().filter(|group| !votes(*group)).collect();
            match missing.is_empty() {
                true => Ok(()),
                false => Err(format!("node {id} is to keep groups {} again", ranges(&missing))),
            }
        })?;
        let replicas = view.groups_of(id);
        Ok(Outcome {
            text: format!("node {id} at {address} is there and keeps {} replicas", replicas.len()),
            document: json!({ "node": id, "address": address, "settled": true, "replicas": replicas }),
        })
    }

    fn remove(&mut self, id: u32, wait: Wait) -> Result<Outcome, Failure> {
        let view = self.view()?;
        known(&view, id)?;
        able(&view)?;
        self.warn_of_fewer(&view, id)?;
        self.explained(admin::node_drain(&self.servers, id))?;
        let Wait::AtMost(timeout) = wait else {
            return Ok(Outcome {
                document: json!({ "node": id, "drained": true, "removed": false }),
                text: format!(
                    "node {id} is drained: its replicas move away. Leave it running until tercet cluster remove-node {id}, run again, has finished"
                ),
            });
        };
        let what = format!("node {id} is drained");
        self.watch(
            &what,
            timeout,
            |_| QUIET_FOR,
            |view| {
                let left = view.groups_of(id);
                let unled = view.leaderless();
                // A leader that has not heard of it yet could still add the node.
                let sure = view.behind().is_empty() && !view.groups.iter().any(|g| g.changing);
                match (left.is_empty(), unled.is_empty()) {
                    (true, true) if sure => Ok(()),
                    (true, true) => Err("the last changes are not committed yet".to_owned()),
                    (false, _) => {
                        Err(format!("{} replicas left on it: groups {}", left.len(), ranges(&left)))
                    }
                    (true, false) => Err(no_leader(&unled)),
                }
            },
        )?;
        self.explained(admin::node_forget(&self.servers, id))?;
        Ok(Outcome {
            document: json!({ "node": id, "drained": true, "removed": true }),
            text: format!("node {id} is removed: stop it, and do not use its data directory again"),
        })
    }

    /// Says so when without the node fewer are left than a group has replicas.
    fn warn_of_fewer(&self, view: &View, gone: u32) -> Result<(), Failure> {
        // The cluster's own group has more where there are more nodes.
        let shards = view.groups.iter().skip(1);
        let replicas = shards.map(|g| g.those(Vote::Voters).len()).max().unwrap_or(0);
        let stays =
            |node: &&view::Node| node.id != gone && node.standing.as_deref() != Some("drained");
        let left = view.nodes.iter().filter(stays).count();
        if left == 0 {
            // Refused by the cluster.
            return Ok(());
        }
        if left >= replicas {
            return Ok(());
        }
        self.output.note(&format!(
            "with {left} nodes each shard keeps {left} replicas instead of {replicas}, and stands fewer failures: add a node soon"
        ))
    }

    fn replace(&mut self, id: u32, address: &str, timeout: Duration) -> Result<Outcome, Failure> {
        let view = self.view()?;
        known(&view, id)?;
        able(&view)?;
        let topology = self.topology()?;
        let candidate = candidate(address, &topology)?;
        if candidate.node != id {
            let new = candidate.node;
            self.output.note(&format!("node {new} at {address} joins, then node {id} goes"))?;
            self.add(address, Wait::AtMost(timeout))?;
            self.remove(id, Wait::AtMost(timeout))?;
            return Ok(Outcome {
                document: json!({ "node": new, "address": address, "replaced": id, "settled": true }),
                text: format!(
                    "node {new} at {address} has taken the place of node {id}: stop that one"
                ),
            });
        }
        let groups = view.groups_of(id);
        self.join(&candidate, address, Joins::InPlace)?;
        self.await_node(id, address, &candidate, &groups, Wait::AtMost(timeout))
    }

    fn transfer(&mut self, group: u32, id: u32) -> Result<Outcome, Failure> {
        let view = self.view()?;
        known(&view, id)?;
        let last = view.groups.len() - 1;
        let Some(before) = view.groups.get(group as usize) else {
            return Err(Failure::Usage(format!(
                "there is no group {group}: this cluster has groups 0 to {last}, and shard s is group s + 1"
            )));
        };
        let from = before.leader;
        admin::leader_move(&self.servers, group, id)?;
        let what = format!("group {group} was told to follow node {id}");
        self.watch(
            &what,
            TRANSFER_MAX,
            |_| Duration::ZERO,
            |view| match view.groups[group as usize].leader {
                Some(leader) if leader == id => Ok(()),
                Some(leader) => Err(format!("node {leader} leads group {group}")),
                None => Err(no_leader(&[group])),
            },
        )?;
        Ok(Outcome {
            document: json!({ "group": group, "leader": id, "before": from }),
            text: format!("node {id} leads group {group}"),
        })
    }

    /// Looks at the cluster until `is_done` for as long as `quiet` says, and tells what is left meanwhile.
    /// `what` has been done so far.
    fn watch(
        &mut self,
        what: &str,
        timeout: Duration,
        quiet: impl Fn(&View) -> Duration,
        is_done: impl Fn(&View) -> Result<(), String>,
    ) -> Result<View, Failure> {
        let begun = Instant::now();
        let mut done_since: Option<Instant> = None;
        let mut said = String::new();
        loop {
            let looked_at = Instant::now();
            let view = self.view().map_err(|error| error.to_string());
            match view.and_then(|view| is_done(&view).map(|()| view)) {
                Ok(view) => {
                    let since = *done_since.get_or_insert(looked_at);
                    if looked_at - since >= quiet(&view) {
                        return Ok(view);
                    }
                }
                Err(left) => {
                    done_since = None;
                    if left != said {
                        self.output.note(&left)?;
                        said = left;
                    }
                }
            }
            if begun.elapsed() >= timeout {
                let last = if done_since.is_some() { "nothing that can be seen" } else { &said };
                let text = format!(
                    "{what}, but it is not finished after {timeout:?}; left: {last}. Look with tercet cluster status; run the same again to go on"
                );
                return Err(Failure::Other(exit::UNFINISHED, text));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// Asks the node at `address` who it is. It may just be starting.
fn await_present(address: &str) -> Result<Present, Error> {
    let since = Instant::now();
    loop {
        match admin::present(address) {
            Err(Error::Connect { .. }) if since.elapsed() < STARTED_WITHIN => {
                std::thread::sleep(LOOK_EVERY);
            }
            answer => return answer,
        }
    }
}

/// Asks the node at `address` who it is, and whether it can belong to this cluster.
fn candidate(address: &str, topology: &Topology) -> Result<Candidate, Failure> {
    let fail = |text: String| Err(Failure::Other(exit::FAILED, text));
    let silent = |error| {
        let text = format!(
            "the node that is to join does not answer at {}. Start it first, and check the address",
            view::why(&error)
        );
        Failure::Other(exit::UNAVAILABLE, text)
    };
    let present = await_present(address).map_err(silent)?;
    let node = present.node;
    if let Some(other) = present.cluster.filter(|cluster| *cluster != topology.cluster) {
        let (other, ours) = (hex(&other), hex(&topology.cluster));
        return fail(format!(
            "node {node} at {address} belongs to cluster {other}, not to {ours}. Start it with an empty data directory, and with nodes of this cluster in --peers"
        ));
    }
    let engines = topology.nodes.first().map_or(present.engines, |first| first.engines);
    if present.engines != engines {
        let has = present.engines;
        return fail(format!(
            "node {node} at {address} has {has} engines, the nodes of this cluster {engines}. Start it with --engines {engines} and an empty data directory"
        ));
    }
    let incarnation = match present.incarnation {
        Some(incarnation) => incarnation,
        None => match told_incarnation(address)? {
            Some(incarnation) => incarnation,
            None => return fail(format!("{address} does not tell its status. Try again")),
        },
    };
    Ok(Candidate { node, incarnation, engines, belongs: present.cluster.is_some() })
}

/// The incarnation that a node of a cluster tells in its status.
fn told_incarnation(address: &str) -> Result<Option<[u8; 16]>, Failure> {
    let status = client::probe(address)?.status;
    let status: Option<Value> = status.and_then(|status| serde_json::from_str(&status).ok());
    let told = status.as_ref().and_then(|status| status["incarnation"].as_str());
    Ok(told.and_then(|told| u128::from_str_radix(told, 16).ok()).map(u128::to_be_bytes))
}

/// Fails unless the cluster has the node.
fn known(view: &View, id: u32) -> Result<(), Failure> {
    if view.node(id).is_some() {
        return Ok(());
    }
    let ids: Vec<u32> = view.nodes.iter().map(|node| node.id).collect();
    let text = format!("the cluster has no node {id}; its nodes are {}", ranges(&ids));
    Err(Failure::Other(exit::NOT_THERE, text))
}

/// Fails where no change of the nodes can be agreed to, before any is tried: what becomes of one that was tried is not
/// known.
fn able(view: &View) -> Result<(), Failure> {
    match view.frozen() {
        Some(why) if view.groups[0].state() == State::NoMajority => {
            Err(Failure::Other(exit::UNAVAILABLE, format!("nothing was done: {why}")))
        }
        _ => Ok(()),
    }
}

/// Says what is left to do until all groups are settled.
fn all_settled(view: &View) -> Result<(), String> {
    let unled = view.leaderless();
    if !unled.is_empty() {
        return Err(no_leader(&unled));
    }
    let behind = view.behind();
    if !behind.is_empty() {
        return Err(format!("nodes {} do not know of the change yet", ranges(&behind)));
    }
    let moving = view.groups(|group: &Group| !group.is_placed());
    let learners: usize = view.groups.iter().map(|g| g.those(Vote::Learners).len()).sum();
    match moving.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "{} of {} groups are moving ({learners} learners): {}",
            moving.len(),
            view.groups.len(),
            ranges(&moving)
        )),
    }
}

fn no_leader(groups: &[u32]) -> String {
    format!("no leader of groups {} answers", ranges(groups))
}
