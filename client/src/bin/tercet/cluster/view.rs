//! The cluster as all its nodes tell it: who keeps which group, and what is still under way.

use crate::output::{exit, hex};
use crate::status::ranges;
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
    /// How long a word from another node to it and back takes, in microseconds, by the farthest of them.
    pub round_trip_us: Option<f64>,
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
    /// The node that leads it and serves: by its own word it has committed in its term, and a majority followed it
    /// just now.
    pub leader: Option<u32>,
    pub members: Vec<Member>,
    /// The voters that are not there: that their leader does not hear, or that lack what it has; without a leader,
    /// those whose node does not tell that it keeps the group.
    pub missing: Vec<u32>,
    /// Whether somebody who does not lead it knows a leader, who may not answer the tool.
    pub hears_of_leader: bool,
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
            round_trip_us: round_trip_us(&statuses, node.id),
            level_max: status.as_ref().and_then(|status| status["level_max"].as_u64()),
            standing: standing(&statuses, node.id),
            epoch: status.as_ref().and_then(epoch),
            keeps: status.iter().flat_map(groups).filter_map(|g| number(g, "group")).collect(),
        });
        let rows: Vec<(u32, &Value)> = (topology.nodes.iter().zip(&statuses))
            .flat_map(|(node, status)| status.iter().flat_map(groups).map(|row| (node.id, row)))
            .collect();
        let nodes: Vec<Node> = nodes.collect();
        let groups = (0..=topology.shards).map(|group| Group::new(group, &rows, &nodes)).collect();
        View {
            cluster: hex(&topology.cluster),
            epoch: topology.epoch,
            level: statuses.iter().flatten().filter_map(|status| status["level"].as_u64()).max(),
            nodes,
            groups,
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

    /// The groups that are in a state.
    pub fn those(&self, state: State) -> Vec<u32> {
        self.groups(|group| group.state() == state)
    }

    /// The worst state of any group.
    pub fn state(&self) -> State {
        self.groups.iter().map(Group::state).max().unwrap_or(State::Settled)
    }

    /// Why the cluster's own group can't take a change of the nodes, if it can't.
    pub fn frozen(&self) -> Option<String> {
        let own = self.groups.first().filter(|group| group.state() >= State::NoLeader)?;
        let (voters, missing) = (own.those(Vote::Voters), &own.missing);
        Some(match own.state() {
            State::NoMajority if voters.is_empty() => String::from(
                "no node that answers keeps the cluster's own group (group 0), which has to agree to it. Start its nodes; if they are gone for good, see `tercetd recover --help`",
            ),
            State::NoMajority => format!(
                "the cluster's own group (group 0), which has to agree to it, is without a majority: of its voters, nodes {}, nodes {} do not answer. Start them; if they are gone for good, see `tercetd recover --help`",
                ranges(&sorted(voters)),
                ranges(&sorted(missing.clone()))
            ),
            _ => String::from(
                "the cluster's own group (group 0), which has to agree to it, has no leader just now. Run the same again",
            ),
        })
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
    fn new(id: u32, rows: &[(u32, &Value)], nodes: &[Node]) -> Group {
        let rows = rows.iter().filter(|(_, row)| number(row, "group") == Some(id));
        // Who says that it serves; of older versions, who says that it leads. Of several that of the highest term is
        // the one that can commit.
        let leads = |row: &Value| row["role"] == "leader" && row["serves"] != false;
        let hears = |row: &Value| row["role"] == "follower" && row["leader"].is_u64();
        let hears_of_leader = rows.clone().any(|(_, row)| hears(row));
        let order = |row: &Value| (leads(row), row["term"].as_u64(), row["commit"].as_u64());
        let Some((node, row)) = rows.max_by_key(|(_, row)| order(row)) else {
            return Group {
                group: id,
                leader: None,
                members: Vec::new(),
                missing: Vec::new(),
                hears_of_leader: false,
                wanted: None,
                preferred: None,
                changing: false,
            };
        };
        let member = |member: &Value| {
            Some(Member { node: number(member, "node")?, voter: member["standing"] == "voter" })
        };
        let wanted = row["wanted"].as_array();
        let wanted = wanted.map(|w| w.iter().filter_map(as_number).collect());
        let members: Vec<Member> =
            row["members"].as_array().into_iter().flatten().filter_map(member).collect();
        let leader = leads(row).then_some(*node);
        let told = |node: u32| {
            let peers = row["peers"].as_array()?;
            peers.iter().find(|peer| number(peer, "node") == Some(node))?["there"].as_bool()
        };
        let keeps = |node: u32| nodes.iter().any(|it| it.id == node && it.keeps.contains(&id));
        let is_there = |node: u32| match leader {
            Some(leader) => leader == node || told(node).unwrap_or_else(|| keeps(node)),
            None => keeps(node),
        };
        let voters = members.iter().filter(|member| member.voter).map(|member| member.node);
        let missing = voters.filter(|node| !is_there(*node)).collect();
        Group {
            group: id,
            leader,
            members,
            missing,
            hears_of_leader,
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

    /// How it is.
    pub fn state(&self) -> State {
        let voters = self.those(Vote::Voters);
        let there = voters.len() - self.missing.len();
        let wanted = self.wanted.as_ref().map_or(0, BTreeSet::len);
        match self.leader {
            None if there <= voters.len() / 2 && !self.hears_of_leader => State::NoMajority,
            None => State::NoLeader,
            Some(_) if there < voters.len().max(wanted) => State::Degraded,
            Some(_) if !self.is_placed() => State::Moving,
            Some(_) => State::Settled,
        }
    }

    /// Whether it has a leader, and nothing more is to be done for its members, as far as can be seen. One of them may
    /// be down all the same.
    pub fn is_placed(&self) -> bool {
        let members: BTreeSet<u32> = self.members.iter().map(|member| member.node).collect();
        let preferred_is_there = self.preferred.is_none_or(|node| members.contains(&node));
        self.leader.is_some()
            && !self.changing
            && preferred_is_there
            && self.wanted.as_ref().is_none_or(|wanted| *wanted == members)
            && self.members.iter().all(|member| member.voter)
    }
}

/// How a group is, the worst last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum State {
    /// It is led, all its replicas are there, and they are where they are to be.
    Settled,
    /// All are there; replicas move.
    Moving,
    /// It serves; replicas that it should have are not there.
    Degraded,
    /// No leader answers, but a majority does, or somebody knows a leader.
    NoLeader,
    /// Too few of its voters answer for any to lead, and nobody knows a leader.
    NoMajority,
}

impl State {
    /// For scripts.
    pub fn name(self) -> &'static str {
        match self {
            State::Settled => "settled",
            State::Moving => "moving",
            State::Degraded => "degraded",
            State::NoLeader => "no-leader",
            State::NoMajority => "no-majority",
        }
    }

    /// What a command that only looks ends with.
    pub fn exit(self) -> u8 {
        match self {
            State::Settled | State::Moving => 0,
            State::Degraded => exit::DEGRADED,
            State::NoLeader | State::NoMajority => exit::UNAVAILABLE,
        }
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

/// In order.
pub fn sorted(mut numbers: Vec<u32>) -> Vec<u32> {
    numbers.sort_unstable();
    numbers
}

/// What the other nodes say of the way to a node, by the farthest of them: each by its nearest engine.
fn round_trip_us(statuses: &[Option<Value>], node: u32) -> Option<f64> {
    let of_one = |status: &Value| {
        let twins = status["twins"].as_array()?.iter();
        let twins =
            twins.filter(|twin| number(twin, "node") == Some(node) && twin["linked"] == true);
        twins.filter_map(|twin| twin["round_trip_us"].as_f64()).reduce(f64::min)
    };
    statuses.iter().flatten().filter_map(of_one).reduce(f64::max)
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
        let all = json!({ "groups": [{ "group": 1 }] });
        let probe = |id: u32| Node {
            id,
            address: format!("a:{id}"),
            error: None,
            incarnation: None,
            level_max: None,
            phi: None,
            round_trip_us: None,
            standing: None,
            epoch: None,
            keeps: groups(&all).filter_map(|g| number(g, "group")).collect(),
        };
        let nodes: Vec<Node> = (1..=3).map(probe).collect();
        Group::new(1, &rows.iter().map(|(node, row)| (*node, row)).collect::<Vec<_>>(), &nodes)
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
        assert!(!unled.is_placed() && group(&[]).leader.is_none());
    }

    #[test]
    fn a_leader_that_does_not_serve_is_none() {
        let voters =
            [member(1, "voter"), member(2, "voter"), member(7, "voter"), member(8, "voter")];
        let mut cut_off = row("leader", 3, &voters);
        cut_off["serves"] = json!(false);
        let seen = group(&[(1, cut_off.clone())]);
        assert_eq!((seen.leader, seen.state()), (None, State::NoMajority), "two of four answer");
        let three = row("leader", 3, &voters[..3]);
        let mut electing = cut_off;
        electing["members"] = three["members"].clone();
        assert_eq!(group(&[(1, electing)]).state(), State::NoLeader);
        assert_eq!(group(&[(1, three)]).leader, Some(1), "an older version does not say so");
        assert_eq!(group(&[]).state(), State::NoMajority, "nobody tells of it");
    }

    #[test]
    fn a_group_that_lacks_a_replica_is_degraded_and_not_settled() {
        let voters = [member(1, "voter"), member(2, "voter"), member(3, "voter")];
        let mut led = row("leader", 3, &voters);
        (led["serves"], led["wanted"]) = (json!(true), json!([1, 2, 3]));
        led["peers"] = json!([{ "node": 2, "there": true }, { "node": 3, "there": true }]);
        assert_eq!(group(&[(1, led.clone())]).state(), State::Settled);
        led["peers"][1]["there"] = json!(false);
        let seen = group(&[(1, led.clone())]);
        assert_eq!((seen.state(), seen.missing), (State::Degraded, vec![3]));
        led["members"] = json!(voters[..2]);
        led["peers"] = json!([{ "node": 2, "there": true }]);
        assert_eq!(group(&[(1, led.clone())]).state(), State::Degraded, "one is to come");
        led["wanted"] = json!([1, 4]);
        assert_eq!(group(&[(1, led)]).state(), State::Moving, "one is to be another");
    }

    #[test]
    fn the_way_between_nodes_is_told_by_the_farthest_and_not_by_the_tool() {
        let twin =
            |node: u32, us: f64| json!({ "node": node, "linked": true, "round_trip_us": us });
        let far = json!({ "twins": [twin(3, 9e4), twin(3, 8e4), twin(2, 500.0)] });
        let near = json!({ "twins": [twin(3, 700.0)] });
        let statuses = [Some(far), Some(near), None];
        assert_eq!(round_trip_us(&statuses, 3), Some(8e4));
        assert_eq!(round_trip_us(&statuses, 1), None);
    }

    #[test]
    fn a_group_is_placed_once_all_vote_who_should() {
        let voters = [member(1, "voter"), member(2, "voter")];
        assert!(group(&[(1, row("leader", 1, &voters))]).is_placed());
        let learns = [member(1, "voter"), member(2, "learner")];
        assert!(!group(&[(1, row("leader", 1, &learns))]).is_placed());
        let other = [member(2, "voter")];
        assert!(
            !group(&[(2, row("leader", 1, &other))]).is_placed(),
            "it should lead, and is not there"
        );
        let mut told = row("leader", 1, &voters);
        told["wanted"] = json!([1, 2, 3]);
        assert!(!group(&[(1, told.clone())]).is_placed(), "one is missing");
        told["wanted"] = json!([2, 1]);
        assert!(group(&[(1, told.clone())]).is_placed());
        told["changing"] = json!(true);
        assert!(!group(&[(1, told)]).is_placed());
    }
}
