//! Scripts: one behaviour each, the file's name is the claim, the output is the protocol.
//!
//! `UPDATE_GOLDENFILES=1 cargo test -p engine raft` writes the outputs anew; read the difference.

use super::cluster::{Cluster, MS, Topic, Trace, World};
use crate::ids::{Incarnation, NodeId};
use crate::raft::ReadMode;
use crate::raft::{Limits, Member, MemberChange, Read, Suffrage};
use crate::time::{Duration, Time};
use goldenscript::{Command, Context, Runner};
use std::error::Error;
use std::fmt::Write as _;
use wire::peer;

struct Play {
    cluster: Cluster,
}

type Lines = Result<String, Box<dyn Error>>;

impl Runner for Play {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Lines {
        let mut args = command.consume_args();
        let show = args.take_key("show").unwrap_or("notes");
        self.cluster.trace = Trace::Keep(Vec::new());
        self.cluster.shown = show.split('-').map(topic).collect();
        let mut out = self.perform(command)?;
        if !out.is_empty() && !out.ends_with('\n') {
            out.push('\n');
        }
        if let Trace::Keep(lines) = core::mem::take(&mut self.cluster.trace) {
            for line in lines {
                writeln!(out, "{line}")?;
            }
        }
        Ok(out)
    }
}

fn topic(name: &str) -> Topic {
    match name {
        "notes" => Topic::Note,
        "packets" => Topic::Packet,
        "disk" => Topic::Disk,
        other => panic!("nothing is said about {other}"),
    }
}

impl Play {
    fn perform(&mut self, command: &Command) -> Lines {
        let mut args = command.consume_args();
        let key = |name: &str, command: &Command| -> Option<u64> {
            command.consume_args().take_key(name).and_then(|v| v.parse().ok())
        };
        let mut words = Vec::new();
        while let Some(word) = args.next_pos() {
            words.push(word);
        }
        let number = |at: usize| words.get(at).and_then(|w| w.parse().ok()).ok_or("a number?");
        let node = |at: usize| number(at).map(|n: u64| NodeId(n as u32));
        let cluster = &mut self.cluster;
        match command.name.as_str() {
            "cluster" => {
                let mut world = World::calm();
                world.preferred = key("preferred", command).map(|n| n as u32);
                if let Some(sync) = key("sync", command) {
                    world.sync = (sync * MS, sync * MS);
                }
                if args.take_key("reads") == Some("index") {
                    world.reads = ReadMode::ReadIndex;
                }
                if let Some(kept) = key("kept", command) {
                    let kept = kept as usize;
                    world.limits = Limits { log_kept: kept, log_pinned: kept, ..world.limits };
                    (world.limits.piece, world.limits.pieces_in_flight) = (1200, 2400);
                }
                if let Some(window) = key("window", command) {
                    let window = window as usize;
                    world.limits = Limits { append: window, in_flight: window, ..world.limits };
                }
                let spares = key("spares", command).unwrap_or(0) as u32;
                *cluster = Cluster::with_spares(number(0)? as u32, spares, 7, world);
                cluster.trace = Trace::Keep(Vec::new());
                cluster.shown = vec![Topic::Note];
                for id in (1..=number(0)? as u32).map(NodeId) {
                    cluster.start(id);
                }
            }
            "run" => cluster.run(number(0)?),
            "propose" => {
                let id = node(0)?;
                let mut lines = String::new();
                for word in &words[1..] {
                    match cluster.propose(id, word.as_bytes()) {
                        Ok(index) => writeln!(lines, "{word} at {index}")?,
                        Err(refused) => writeln!(lines, "{word}: {refused}")?,
                    }
                }
                cluster.turn(id, |_, _, _| {});
                return Ok(lines);
            }
            "cut" => {
                let a = node(0)?;
                let all: Vec<NodeId> = match words.get(1) {
                    Some(_) => vec![node(1)?],
                    None => cluster.nodes.iter().map(|n| n.id).filter(|n| *n != a).collect(),
                };
                for b in all {
                    cluster.cut.extend([(a, b), (b, a)]);
                }
            }
            "mute" => cluster.cut.push((node(0)?, node(1)?)),
            "heal" => cluster.cut.clear(),
            "crash" => cluster.crash(node(0)?),
            "start" | "join" => cluster.start(node(0)?),
            "wipe" => cluster.wipe(node(0)?),
            "add" | "promote" | "remove" | "retire" => {
                return Ok(self.change(&command.name, node(0)?, node(1)?));
            }
            "absent" => {
                return Ok(self.absent(node(0)?, node(1)?, words.get(2) == Some(&"stale")));
            }
            "stray" => self.stray(node(0)?, node(1)?, number(2)?),
            "members" => return Ok(self.members(node(0)?)),
            "stall" => cluster.node(node(0)?).stalled = true,
            "resume" => {
                cluster.node(node(0)?).stalled = false;
                cluster.begin_sync(node(0)?);
            }
            "slow" => {
                let took = number(1)? * MS;
                cluster.node(node(0)?).sync = Some((took, took));
            }
            // From now on only what the script says leads to a campaign.
            "patience" => {
                for node in &mut cluster.nodes {
                    if let Some(raft) = &mut node.raft {
                        raft.timeout = Duration::from_secs(3600);
                        raft.campaign_at = raft.now + raft.timeout;
                    }
                }
            }
            "campaign" => self.campaign(node(0)?),
            "transfer" => {
                let to = node(1)?;
                cluster.turn(node(0)?, |raft, now, out| raft.transfer(now, to, out));
            }
            "snapshot" => {
                cluster.snapshot(node(0)?);
                cluster.begin_sync(node(0)?);
            }
            "read" => return Ok(self.read(node(0)?)),
            "reads" => return Ok(format!("{} reads wait", cluster.node(node(0)?).reads.len())),
            "impostor" => {
                let id = node(0)?;
                cluster.raft(id).incarnation = Incarnation([0xee; 16]);
            }
            "kept" => return Ok(self.kept(node(0)?)),
            "status" => return self.status(),
            other => return Err(format!("no such command: {other}").into()),
        }
        Ok(String::new())
    }

    /// A node is out of patience, and of loyalty.
    fn campaign(&mut self, id: NodeId) {
        let now = self.cluster.clock(id);
        let raft = self.cluster.raft(id);
        (raft.campaign_at, raft.loyal_until) = (now, raft.loyal_until.min(now));
        self.cluster.turn(id, |raft, now, out| raft.on_tick(now, out));
    }

    /// Asks a node to change who belongs to the group.
    fn change(&mut self, what: &str, at: NodeId, node: NodeId) -> String {
        let cluster = &mut self.cluster;
        let mut incarnation = cluster.incarnation(node);
        if what == "retire" {
            // Whatever life of it belongs to the group.
            let member = cluster.raft(at).configuration().member(node);
            incarnation = member.expect("it belongs to the group").incarnation;
        }
        let change = match what {
            "add" => MemberChange::AddLearner { node, incarnation },
            "promote" => MemberChange::Promote { node, incarnation },
            _ => MemberChange::Remove { node, incarnation },
        };
        let done = cluster.change(at, change);
        cluster.turn(at, |_, _, _| {});
        match done {
            Ok(index) => format!("at {index}"),
            Err(error) => error.to_string(),
        }
    }

    /// A node says that it keeps no replica of the group. Gives whether its leader believes it.
    fn absent(&mut self, leader: NodeId, node: NodeId, stale: bool) -> String {
        let raft = self.cluster.raft(leader);
        raft.on_absent(node, if stale { Time::ZERO } else { Time::MAX });
        let follower = raft.progress().iter().find(|follower| follower.node == node);
        let gone = follower.is_some_and(|follower| follower.is_absent());
        if gone { "gone for good".into() } else { "perhaps".into() }
    }

    /// A replica that hears no leader asks a node whether it belongs to the group.
    fn stray(&mut self, at: NodeId, stray: NodeId, term: u64) {
        let life = self.cluster.incarnation(stray);
        let m = peer::Stray { term, incarnation: life.0 };
        self.cluster.turn(at, |raft, now, out| raft.on_stray(now, stray, &m, out));
    }

    /// Who belongs to the group, as a node has it.
    fn members(&mut self, id: NodeId) -> String {
        let raft = self.cluster.raft(id);
        let member = |m: &Member| match m.suffrage {
            Suffrage::Voter => m.node.to_string(),
            Suffrage::Learner => format!("{} learns", m.node),
        };
        let members: Vec<String> = raft.configuration().members().iter().map(member).collect();
        let open = if raft.change_in_flight().is_some() { ", not committed" } else { "" };
        let at = raft.log().configuration_index();
        format!("{}; since {at}{open}", members.join(", "))
    }

    /// Which snapshot a node keeps for others, or has pieces of.
    fn kept(&mut self, id: NodeId) -> String {
        let raft = self.cluster.raft(id);
        match (raft.offered(), raft.receiving()) {
            (Some(index), _) => format!("offers {index}"),
            (None, Some((index, term))) => format!("has pieces of {index}@{term}"),
            (None, None) => "nothing".into(),
        }
    }

    fn read(&mut self, id: NodeId) -> String {
        let now = self.cluster.clock(id);
        let read = self.cluster.read(id);
        self.cluster.turn(id, |_, _, _| {});
        match read {
            Read::Ready => "at once".into(),
            Read::After(at) if at.since(now) <= Duration::from_nanos(9) => {
                "after a majority answers what is sent from now on".into()
            }
            Read::After(at) => format!("after {:?}", at.since(now)),
            Read::NotLeader => "not here".into(),
        }
    }

    fn status(&mut self) -> Lines {
        let mut out = String::new();
        for node in &self.cluster.nodes {
            let Some(raft) = &node.raft else {
                writeln!(out, "{}: down", node.id)?;
                continue;
            };
            let terms: Vec<String> = (raft.first_index().0..=raft.last_index().0)
                .filter_map(|i| raft.log().term_at(crate::ids::Index(i)))
                .map(|t| t.to_string())
                .collect();
            let (id, role, term) = (node.id, raft.role().as_str(), raft.term());
            let (first, terms) = (raft.first_index(), terms.join(" "));
            let (commit, durable) = (raft.commit(), raft.durable());
            write!(out, "{id}: {role} term {term} log from {first} [{terms}] ")?;
            write!(out, "durable {durable} commit {commit}")?;
            for p in raft.progress() {
                write!(out, "; {} {} {}", p.node, p.state_name(), p.matched)?;
                if p.suffrage == Suffrage::Learner {
                    out.push_str(" learns");
                }
            }
            writeln!(out)?;
        }
        Ok(out)
    }
}

#[test]
fn every_script_plays_as_written() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/src/raft/tests/scripts");
    let mut paths: Vec<_> = std::fs::read_dir(dir)
        .expect("the scripts are there")
        .map(|f| f.expect("a file").path())
        .collect();
    paths.sort();
    assert!(paths.len() > 10, "scripts are missing");
    for path in paths {
        println!("{}", path.display());
        let mut play = Play { cluster: Cluster::new(1, 0, World::calm()) };
        goldenscript::run(&mut play, &path).expect("the script plays as written");
    }
}
