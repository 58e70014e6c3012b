//! The cluster as all its nodes tell it: who keeps which group, and what is still under way.

use crate::output::hex;
use client::Probe;
use client::admin::Topology;
use serde_json::Value;
use std::collections::BTreeSet;

/// The cluster at one moment.
#[derive(Clone, PartialEq, Debug)]
pub struct View {
    /// The cluster's id, as hexadecimal digits.
    pub cluster: String,
    /// Rises whenever the cluster's nodes change.
    pub epoch: u64,
    /// The feature level, if some node tells it: the highest that one does.
    pub level: Option<u64>,
    /// The nodes, by id.
    pub nodes: Vec<Node>,
    /// Every group, in order: 0 is the cluster's own, shard `s` is group `s + 1`.
    pub groups: Vec<Group>,
}

/// A node, as it tells itself.
#[derive(Clone, PartialEq, Debug)]
pub struct Node {
    pub id: u32,
    pub address: String,
    /// Why it does not answer, if it does not.
    pub error: Option<String>,
    /// Its data directory's incarnation, if it tells its status.
    pub incarnation: Option<String>,
    /// The newest feature level that it knows, if its status tells.
    pub level_max: Option<u64>,
    /// How surely it is dead, by the node that says so most.
    pub phi: Option<f64>,
    /// Whether it is to keep replicas ("in" or "drained"), if the status of some node tells.
    pub standing: Option<String>,
    /// The epoch of the topology that it knows, if its status tells.
    pub epoch: Option<u64>,
    /// The groups that it keeps a replica of, by its own status.
    pub keeps: BTreeSet<u32>,
}

/// A group, as its leader tells it; without one, as the newest of its replicas does.
#[derive(Clone, PartialEq, Debug)]
pub struct Group {
    pub group: u32,
    /// The node that says itself that it leads.
    pub leader: Option<u32>,
    pub members: Vec<Member>,
    /// Who is to keep it, if the status tells.
    pub wanted: Option<BTreeSet<u32>>,
    /// Who is to lead it.
    pub preferred: Option<u32>,
    /// A change of its members is not committed yet, if the status tells.
    pub changing: bool,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Member {
    pub node: u32,
    pub voter: bool,
}

impl View {
    /// What `probes` say of the topology's nodes, which they stand in line with.
    pub fn new(topology: &Topology, probes: &[Result<Probe, client::Error>]) -> View {
        let statuses = crate::status::statuses(probes);
        let nodes = topology.nodes.iter().zip(probes.iter().zip(&statuses));
        let nodes = nodes.map(|(node, (probe, status))| Node {
            id: node.id,
            address: node.address.clone(),
            error: probe.as_ref().err().map(why),
            incarnation: text(status.as_ref(), "incarnation"),
            phi: crate::status::phi(&statuses, node.id),
            level_max: status.as_ref().and_then(|status| status["level_max"].as_u64()),
            standing: standing(&statuses, node.id),
            epoch: status.as_ref().and_then(epoch),
            keeps: status.iter().flat_map(groups).filter_map(|g| number(g, "group")).collect(),
        });
        let rows: Vec<(u32, &Value)> = (topology.nodes.iter().zip(&statuses))
            .flat_map(|(node, status)| status.iter().flat_map(groups).map(|row| (node.id, row)))
            .collect();
        View {
            cluster: hex(&topology.cluster),
            epoch: topology.epoch,
            level: statuses.iter().flatten().filter_map(|status| status["level"].as_u64()).max(),
            nodes: nodes.collect(),
            groups: (0..=topology.shards).map(|group| Group::new(group, &rows)).collect(),
        }
    }

    /// A node.
    pub fn node(&self, id: u32) -> Option<&Node> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// The groups for which `holds`.
    pub fn groups(&self, holds: impl Fn(&Group) -> bool) -> Vec<u32> {
        self.groups.iter().filter(|group| holds(group)).map(|group| group.group).collect()
    }

    /// The groups that count a node among their members, as voter or learner.
    pub fn groups_of(&self, node: u32) -> Vec<u32> {
        self.groups(|group| group.member(node).is_some())
    }

    /// The groups that no node says it leads.
    pub fn leaderless(&self) -> Vec<u32> {
        self.groups(|group| group.leader.is_none())
    }

    /// The leaders that do not know of the last change of the cluster's nodes yet.
    pub fn behind(&self) -> Vec<u32> {
        let leads = |node: &&Node| self.groups.iter().any(|group| group.leader == Some(node.id));
        let behind = |node: &&Node| node.epoch.is_some_and(|epoch| epoch < self.epoch);
        self.nodes.iter().filter(leads).filter(behind).map(|node| node.id).collect()
    }

    /// Whether each node tells who is to keep what, so that a view needs no guess.
    pub fn is_exact(&self) -> bool {
        self.groups.iter().all(|group| group.wanted.is_some())
    }
}

impl Group {
    fn new(id: u32, rows: &[(u32, &Value)]) -> Group {
        let rows = rows.iter().filter(|(_, row)| number(row, "group") == Some(id));
        // The leader of the highest term is the one that can commit.
        let leads = |row: &Value| row["role"] == "leader";
        let order = |row: &Value| (leads(row), row["term"].as_u64(), row["commit"].as_u64());
        let Some((node, row)) = rows.max_by_key(|(_, row)| order(row)) else {
            let (leader, members, wanted, preferred) = (None, Vec::new(), None, None);
            return Group { group: id, leader, members, wanted, preferred, changing: false };
        };
        let member = |member: &Value| {
            Some(Member { node: number(member, "node")?, voter: member["standing"] == "voter" })
        };
        let wanted = row["wanted"].as_array();
        let wanted = wanted.map(|w| w.iter().filter_map(as_number).collect());
        Group {
            group: id,
            leader: leads(row).then_some(*node),
            members: row["members"].as_array().into_iter().flatten().filter_map(member).collect(),
            wanted,
            preferred: number(row, "preferred"),
            changing: row["changing"] == true,
        }
    }

    /// The node's place in it.
    pub fn member(&self, node: u32) -> Option<&Member> {
        self.members.iter().find(|member| member.node == node)
    }

    /// The members that vote, or those that do not yet.
    pub fn those(&self, vote: Vote) -> Vec<u32> {
        let wanted = |member: &&Member| member.voter == (vote == Vote::Voters);
        self.members.iter().filter(wanted).map(|member| member.node).collect()
    }

    /// Whether it has a leader, and nothing more is to be done for its members, as far as can be seen.
    pub fn is_settled(&self) -> bool {
        let members: BTreeSet<u32> = self.members.iter().map(|member| member.node).collect();
        let preferred_is_there = self.preferred.is_none_or(|node| members.contains(&node));
        self.leader.is_some()
            && !self.changing
            && preferred_is_there
            && self.wanted.as_ref().is_none_or(|wanted| *wanted == members)
            && self.members.iter().all(|member| member.voter)
    }
}

/// Which members.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vote {
    Voters,
    Learners,
}

/// Why one node did not answer.
pub fn why(error: &client::Error) -> String {
    match error {
        client::Error::Connect { tried } => tried.clone(),
        other => other.to_string(),
    }
}

fn groups(status: &Value) -> impl Iterator<Item = &Value> {
    status["groups"].as_array().into_iter().flatten()
}

/// What the nodes' statuses say of a node's standing. One that is to go is told so by the newest.
fn standing(statuses: &[Option<Value>], node: u32) -> Option<String> {
    let told = |status: &Value| {
        let rows = status["members"].as_array()?;
        let row = rows.iter().find(|row| number(row, "node") == Some(node))?;
        Some((epoch(status), text(Some(row), "standing")?))
    };
    statuses.iter().flatten().filter_map(told).max_by_key(|(epoch, _)| *epoch).map(|(_, s)| s)
}

/// The epoch of the topology that a node knows.
fn epoch(status: &Value) -> Option<u64> {
    Some(status["nodes_epoch"].as_u64()? + 1)
}

fn text(value: Option<&Value>, key: &str) -> Option<String> {
    Some(String::from(value?[key].as_str()?))
}

fn number(value: &Value, key: &str) -> Option<u32> {
    as_number(&value[key])
}

fn as_number(value: &Value) -> Option<u32> {
    u32::try_from(value.as_u64()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn member(node: u32, standing: &str) -> Value {
        json!({ "node": node, "standing": standing })
    }

    fn row(role: &str, term: u64, members: &[Value]) -> Value {
        json!({ "group": 1, "role": role, "term": term, "commit": 1, "preferred": 1, "members": members })
    }

    fn group(rows: &[(u32, Value)]) -> Group {
        Group::new(1, &rows.iter().map(|(node, row)| (*node, row)).collect::<Vec<_>>())
    }

    #[test]
    fn a_view_is_what_all_nodes_tell() {
        let node = |id: u32| client::Node { id, engines: 1, address: format!("a:{id}") };
        let nodes = vec![node(1), node(2), node(3)];
        let topology = Topology { epoch: 3, cluster: [1; 16], shards: 1, nodes, placement: vec![] };
        let probe = |node: u32, epoch: u64, standing: &str, groups: Vec<Value>| {
            let members = json!([{ "node": 2, "standing": standing }]);
            let status = json!({
                "incarnation": "0a", "nodes_epoch": epoch, "members": members, "groups": groups,
            });
            let status = Some(status.to_string());
            let (cluster, round_trip) = ([1; 16], std::time::Duration::ZERO);
            Ok(Probe { node, cluster, engines: 1, shards: 1, round_trip, status })
        };
        let leads = row("leader", 1, &[member(1, "voter"), member(2, "learner")]);
        let probes = [
            probe(1, 1, "in", vec![leads]),
            probe(2, 2, "drained", vec![]),
            Err(client::Error::Connect { tried: String::from("nobody") }),
        ];
        let view = View::new(&topology, &probes);
        assert_eq!(
            (view.leaderless(), view.groups_of(2), view.behind()),
            (vec![0], vec![1], vec![1])
        );
        assert_eq!(view.nodes[1].standing.as_deref(), Some("drained"), "the newest is believed");
        assert!(view.nodes[2].error.is_some() && view.nodes[0].keeps.contains(&1));
        assert!(!view.is_exact());
    }

    #[test]
    fn the_leader_of_the_highest_term_is_believed() {
        let old = row("leader", 3, &[member(1, "voter"), member(2, "voter")]);
        let new = row("leader", 4, &[member(1, "voter")]);
        let later = row("follower", 9, &[member(7, "voter")]);
        let seen = group(&[(1, old), (2, new), (3, later)]);
        assert_eq!((seen.leader, seen.those(Vote::Voters)), (Some(2), vec![1]));
        let unled = group(&[(1, row("follower", 3, &[member(1, "voter")]))]);
        assert_eq!((unled.leader, unled.those(Vote::Voters)), (None, vec![1]));
        assert!(!unled.is_settled() && group(&[]).leader.is_none());
    }

    #[test]
    fn a_group_is_settled_once_all_vote_who_should() {
        let voters = [member(1, "voter"), member(2, "voter")];
        assert!(group(&[(1, row("leader", 1, &voters))]).is_settled());
        let learns = [member(1, "voter"), member(2, "learner")];
        assert!(!group(&[(1, row("leader", 1, &learns))]).is_settled());
        let other = [member(2, "voter")];
        assert!(
            !group(&[(2, row("leader", 1, &other))]).is_settled(),
            "it should lead, and is not there"
        );
        let mut told = row("leader", 1, &voters);
        told["wanted"] = json!([1, 2, 3]);
        assert!(!group(&[(1, told.clone())]).is_settled(), "one is missing");
        told["wanted"] = json!([2, 1]);
        assert!(group(&[(1, told.clone())]).is_settled());
        told["changing"] = json!(true);
        assert!(!group(&[(1, told)]).is_settled());
    }
}
