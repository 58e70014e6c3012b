//! Scripts: one behaviour of an engine each, the file's name is the claim, the output is what clients are answered.
//!
//! Three engines whose disks work at once ([`Trio`]); a node is named by its number.
//! `UPDATE_GOLDENFILES=1 cargo test -p engine engine::tests::script` writes the outputs anew; read the difference.

use super::trio::{G, Trio};
use super::*;
use goldenscript::{ArgumentConsumer, Command, Context, Runner};
use std::fmt::Write as _;
use wire::message::LockRelease;

type Lines = Result<String, Box<dyn std::error::Error>>;

struct Play {
    trio: Trio,
    /// Who led when the last command ended.
    led: Vec<usize>,
}

impl Runner for Play {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Lines {
        self.perform(&command.name, &mut command.consume_args())?;
        let mut out = String::new();
        for (at, answer) in core::mem::take(&mut self.trio.answers) {
            writeln!(out, "{} answers {}", at + 1, describe(&answer))?;
        }
        let ended = core::mem::take(&mut self.trio.expired).len();
        if ended > 0 {
            writeln!(out, "{ended} nodes end a session")?;
        }
        let leads: Vec<usize> = (0..3).filter(|at| self.trio.leads(*at)).collect();
        for at in leads.iter().filter(|at| !self.led.contains(at)) {
            writeln!(out, "{} leads term {}", at + 1, self.trio.shard(*at).raft().term())?;
        }
        for at in self.led.iter().filter(|at| !leads.contains(at)) {
            writeln!(out, "{} leads no more", at + 1)?;
        }
        self.led = leads;
        if command.name == "status" {
            for at in 0..3 {
                let shard = self.trio.shard(at);
                let (raft, lines) = (shard.raft(), shard.state().status().lines);
                let (role, applied) = (raft.role().as_str(), shard.applied());
                writeln!(out, "{}: {role}, applied {applied}, {lines} lines", at + 1)?;
            }
        }
        Ok(out)
    }
}

impl Play {
    fn perform(
        &mut self,
        name: &str,
        args: &mut ArgumentConsumer<'_>,
    ) -> Result<(), Box<dyn std::error::Error>> {
        match name {
            "cluster" => {
                let ttl = number(args, "ttl")?.unwrap_or(60_000);
                self.trio = Trio::new(ttl);
                self.trio.answers.clear();
                self.led = Vec::new();
            }
            "pass" => self.trio.pass(args.next_pos().ok_or("how long?")?.parse()?),
            "isolate" => {
                let at = node(args)?;
                self.trio.isolate(at);
            }
            "cut" => {
                let (a, b) = (node(args)?, node(args)?);
                self.trio.cut.extend([(a, b), (b, a)]);
            }
            "heal" => self.trio.cut.clear(),
            // A node takes no turn, and what is said to it waits.
            "still" => {
                let at = node(args)?;
                self.trio.still.insert(at);
            }
            "wake" => {
                let at = node(args)?;
                self.trio.still.remove(&at);
                self.trio.hear_kept(at);
                self.trio.deliver();
            }
            "move" => {
                let (leader, to) = (self.trio.leader(), node(args)?);
                let body = LeaderMove { group: G.0, node: to as u32 + 1 };
                self.trio.send(leader, LeaderMove::KIND, |b| body.encode(b));
                self.trio.deliver();
            }
            "status" => {}
            _ => return self.ask(name, args),
        }
        Ok(())
    }

    /// A client asks a node for something.
    fn ask(
        &mut self,
        name: &str,
        args: &mut ArgumentConsumer<'_>,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let at = node(args)?;
        let session = [number(args, "session")?.unwrap_or(SESSION[0]); 16];
        let sequence = number(args, "call")?.unwrap_or(1);
        let call = Call { session, sequence, answered_below: sequence };
        let what = args.next_pos().unwrap_or_default().to_string();
        let key = what.as_bytes();
        let trio = &mut self.trio;
        match name {
            "open" => {
                let open = SessionOpen { session, ttl_ms: number(args, "ttl")?.unwrap_or(60_000) };
                trio.send(at, SessionOpen::KIND, |b| open.encode(b));
            }
            "heartbeat" => trio.send(at, Heartbeat::KIND, |b| Heartbeat { session }.encode(b)),
            "put" => {
                let value = args.next_pos().ok_or("which value?")?;
                let put = put_of(session, sequence, key, value.as_bytes());
                trio.send(at, CachePut::KIND, |b| put.encode(b));
            }
            "get" => trio.send(at, CacheGet::KIND, |b| CacheGet { key }.encode(b)),
            "acquire" => {
                let wait_ms = number(args, "wait")?.unwrap_or(0);
                let (mode, lease_ms) = (LockMode::Exclusive, 0);
                let acquire = LockAcquire { call, wait_ms, lease_ms, mode, name: key };
                trio.send(at, LockAcquire::KIND, |b| acquire.encode(b));
            }
            "release" => {
                let fence = number(args, "fence")?.ok_or("which fence?")?;
                let release = LockRelease { call, fence, name: key };
                trio.send(at, LockRelease::KIND, |b| release.encode(b));
            }
            other => return Err(format!("no such command: {other}").into()),
        }
        trio.deliver();
        Ok(())
    }
}

fn node(args: &mut ArgumentConsumer<'_>) -> Result<usize, Box<dyn std::error::Error>> {
    let number: usize = args.next_pos().ok_or("which node?")?.parse()?;
    if (1..=3).contains(&number) { Ok(number - 1) } else { Err("nodes are 1 to 3".into()) }
}

/// A number that a key names.
fn number<T: core::str::FromStr>(
    args: &mut ArgumentConsumer<'_>,
    key: &str,
) -> Result<Option<T>, T::Err> {
    args.take_key(key).map(str::parse).transpose()
}

fn describe(answer: &Answer) -> String {
    match answer.kind {
        Done::KIND => format!("done {}", Done::decode(&answer.body).unwrap().token),
        Value::KIND => {
            let value = Value::decode(&answer.body).unwrap();
            format!("{} at version {}", String::from_utf8_lossy(value.value), value.version)
        }
        Alive::KIND => {
            let alive = Alive::decode(&answer.body).unwrap();
            if alive.shards.is_empty() {
                "alive, and vouches for nothing".into()
            } else {
                "alive".into()
            }
        }
        Error::KIND => {
            let error = Error::decode(&answer.body).unwrap();
            let code = answer.code.expect("a code that is known");
            match error.node {
                0 => format!("{code:?}"),
                node => format!("{code:?}, go to {node}"),
            }
        }
        other => format!("{other:?}"),
    }
}

#[test]
fn every_script_plays_as_written() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/src/engine/tests/scripts");
    let files = std::fs::read_dir(dir).expect("the scripts are there");
    let mut paths: Vec<_> = files.map(|f| f.expect("a file").path()).collect();
    paths.sort();
    assert!(paths.len() >= 8, "scripts are missing");
    for path in paths {
        println!("{}", path.display());
        let mut play = Play { trio: Trio::new(60_000), led: Vec::new() };
        play.trio.answers.clear();
        goldenscript::run(&mut play, &path).expect("the script plays as written");
    }
}
