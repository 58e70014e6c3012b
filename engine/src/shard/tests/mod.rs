//! What a shard promises, as scripts: the file's name is the claim, the output is what it says to its peers, to its
//! clients and to its disk.
//!
//! `UPDATE_GOLDENFILES=1 cargo test -p engine shard::tests` writes the outputs anew; read the difference.

mod world;

use crate::ids::{Index, NodeId, SessionId};
use crate::time::{Duration, Time};
use goldenscript::{Command, Context, Runner};
use wire::Call;
use wire::message::{CachePut, Expect, SessionOpen};
use world::{SESSION, World};

type Lines = Result<String, Box<dyn std::error::Error>>;

struct Play {
    world: World,
}

impl Runner for Play {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Lines {
        let mut said = self.perform(command)?;
        said.push_str(&self.world.told());
        Ok(said)
    }
}

impl Play {
    fn perform(&mut self, command: &Command) -> Lines {
        let mut args = command.consume_args();
        let world = &mut self.world;
        let mut word = || args.next_pos().ok_or("a word is missing");
        match command.name.as_str() {
            "group" => *world = World::new(word()?.parse()?),
            "up" => world.peer_up(NodeId(word()?.parse()?)),
            "hear" => return Ok(world.hear(NodeId(word()?.parse()?))),
            "lose" => world.lose(NodeId(word()?.parse()?)),
            "turn" => world.turn(),
            "sync" => {
                world.sync();
                world.turn();
            }
            "pass" => world.pass(Duration::from_millis(word()?.parse()?)),
            // The first leader, with a session.
            "lead" => {
                for peer in [2, 3].map(NodeId) {
                    world.peer_up(peer);
                }
                for _ in 0..4 {
                    world.hear(NodeId(2));
                    world.hear(NodeId(3));
                    world.sync();
                    world.turn();
                }
                self.open();
                self.world.turn();
                self.world.hear(NodeId(2));
                self.world.sync();
                self.world.hear(NodeId(3));
            }
            "open" => self.open(),
            "put" => {
                let (sequence, key, value) = (word()?.parse()?, word()?, word()?);
                let patience = word().ok().map(|ms| ms.parse().map(Duration::from_millis));
                let deadline = patience.transpose()?.map_or(Time::MAX, |ms| world.now + ms);
                let (answered_below, version, ttl_ms, expect) = (sequence, 0, 0, Expect::Any);
                let call = Call { session: SESSION, sequence, answered_below };
                let (key, value) = (key.as_bytes(), value.as_bytes());
                let put = CachePut { call, version, ttl_ms, expect, key, value };
                let mut body = Vec::new();
                put.encode(&mut body);
                world.write(CachePut::KIND, sequence, deadline, &body);
            }
            "move" => {
                let to = NodeId(word()?.parse()?);
                world.hand_over(to);
            }
            "campaign" => world.campaign(NodeId(word()?.parse()?)),
            "staged" => {
                let calls = world.shard.staged().map(|(_, call)| format!(" {}", call.sequence));
                return Ok(format!("staged:{}\n", calls.collect::<String>()));
            }
            "get" => world.read(word()?.as_bytes()),
            "heartbeat" => {
                let now = world.now;
                let vouches = world.shard.on_heartbeat(now, SessionId(SESSION));
                return Ok(if vouches { "vouches\n" } else { "does not vouch\n" }.into());
            }
            "snapshot" => {
                let made = world.shard.make_snapshot();
                world.work();
                return Ok(if made { "" } else { "nothing new\n" }.into());
            }
            "saved" => {
                let index = Index(word()?.parse()?);
                world.step(|shard, step| shard.on_saved(step, index));
            }
            "status" => {
                let raft = world.shard.raft();
                let (role, term) = (raft.role().as_str(), raft.term());
                let (commit, applied) = (raft.commit(), world.shard.applied());
                let (durable, last) = (raft.durable(), raft.last_index());
                let snapshot = world.shard.snapshot_index();
                return Ok(format!(
                    "{role} term {term}, last {last} durable {durable} commit {commit} applied {applied}, \
                     snapshot {snapshot}\n"
                ));
            }
            other => return Err(format!("no such command: {other}").into()),
        }
        Ok(String::new())
    }

    fn open(&mut self) {
        let mut body = Vec::new();
        SessionOpen { session: SESSION, ttl_ms: 10_000 }.encode(&mut body);
        self.world.write(SessionOpen::KIND, 0, Time::MAX, &body);
    }
}

#[test]
fn every_script_plays_as_written() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/src/shard/tests/scripts");
    let files = std::fs::read_dir(dir).expect("the scripts are there");
    let mut paths: Vec<_> = files.map(|f| f.expect("a file").path()).collect();
    paths.sort();
    assert!(paths.len() >= 8, "scripts are missing");
    for path in paths {
        println!("{}", path.display());
        let mut play = Play { world: World::new(1) };
        goldenscript::run(&mut play, &path).expect("the script plays as written");
    }
}
