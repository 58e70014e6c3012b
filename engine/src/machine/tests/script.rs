//! Scripts: one behaviour of a machine each, the file's name is the claim, the output is what calls are answered.
//!
//! `acquire 2 l wait=500` is a call of session 2; what it came to stands under its number, `2/1`, and so does what it
//! is told later. Every script is played a second time with a machine that is restored from a snapshot after each
//! command: it says the same. `UPDATE_GOLDENFILES=1 cargo test -p engine machine::tests::script` writes the outputs
//! anew; read the difference.

use super::kit::*;
use crate::level::Level;
use crate::machine::{Applied, Machine, MachineConfig, Outcome, View};
use crate::secret::Secret;
use crate::time::millis;
use goldenscript::{ArgumentConsumer, Command, Context, Runner};
use std::error::Error;
use std::fmt::Write as _;
use std::str::FromStr;
use wire::message::*;
use wire::{Call, Kind};

type Failure = Box<dyn Error>;

/// What happens after each command.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Between {
    Nothing,
    Restore,
}

struct Play {
    kit: Kit,
    between: Between,
}

impl Runner for Play {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Failure> {
        let mut args = command.consume_args();
        let mut said = self.perform(&command.name, &mut args)?;
        args.reject_next()?;
        for (session, sequence, outcome) in self.kit.wakes() {
            writeln!(said, "{session}/{sequence} is told: {}", self.describe(outcome))?;
        }
        if self.between == Between::Restore {
            self.restore()?;
        }
        Ok(said)
    }
}

impl Play {
    fn new(between: Between) -> Play {
        Play { kit: machine(CONFIG.cache_bytes_max), between }
    }

    fn perform(&mut self, name: &str, args: &mut ArgumentConsumer<'_>) -> Result<String, Failure> {
        match name {
            // An empty machine, whose lines may take so many bytes.
            "machine" => self.kit = machine(number(args, "bytes")?.unwrap_or(1 << 20)),
            // Time passes, and no entry comes.
            "pass" => self.kit.now = self.kit.now + millis(word(args)?.parse()?),
            // Time passes, and a tick does what is due.
            "tick" => self.kit.tick(word(args)?.parse()?),
            "open" => {
                let (n, ttl_ms) = (word(args)?.parse()?, number(args, "ttl")?);
                let applied = self.kit.open_for(n, ttl_ms.unwrap_or(TTL_MS));
                return Ok(format!("{n} opens: {}\n", self.told(applied)));
            }
            "close" => {
                let n = word(args)?.parse()?;
                let applied = self.kit.close(n);
                return Ok(format!("{n} closes: {}\n", self.told(applied)));
            }
            "renew" => {
                let n = word(args)?.parse()?;
                self.kit.renew(&[n]);
            }
            "restore" => self.restore()?,
            "get" => {
                let key = word(args)?;
                return Ok(match self.kit.machine.get(key.as_bytes(), self.kit.now) {
                    View::Line { version, value } => {
                        format!("{} at version {version}\n", String::from_utf8_lossy(value))
                    }
                    View::Refused(_) => "nothing\n".into(),
                    View::Due => "its time is over\n".into(),
                });
            }
            "status" => {
                let s = self.kit.machine.status();
                let (ready, hidden, delayed) =
                    (s.messages_ready, s.messages_in_flight, s.messages_delayed);
                return Ok(format!(
                    "{} sessions; {} locks, {} wait; {} queues: {ready} ready, {hidden} in flight, {delayed} delayed; \
                     {} lines\n",
                    s.sessions, s.locks, s.lock_waiters, s.queues, s.lines
                ));
            }
            _ => return self.call(name, args),
        }
        Ok(String::new())
    }

    /// A session calls.
    fn call(&mut self, name: &str, args: &mut ArgumentConsumer<'_>) -> Result<String, Failure> {
        let n: u8 = word(args)?.parse()?;
        let sequence = match number(args, "call")? {
            Some(sequence) => sequence,
            None => self.kit.next(n),
        };
        // Calls below this number were answered, or are given up.
        let answered_below = number(args, "answered")?.unwrap_or(0);
        let call = Call { session: id(n).0, sequence, answered_below };
        let mut body = Vec::new();
        let kind = request(call, name, args, &mut body)?;
        let applied = self.kit.apply(kind, &body);
        Ok(format!("{n}/{sequence}: {}\n", self.told(applied)))
    }

    /// The machine goes on from a snapshot of it, as another process that keeps its tables in another order.
    fn restore(&mut self) -> Result<(), Failure> {
        let (kit, mut bytes) = (&mut self.kit, Vec::new());
        kit.machine.snapshot_whole(&mut bytes);
        let before = kit.snapshot();
        let secret = Secret::new([bytes.len() as u8; 16]);
        kit.machine = Machine::restore(MachineConfig { secret, ..kit.machine.config }, &bytes)?;
        kit.machine.verify();
        assert!(kit.snapshot() == before, "a restored state is the same");
        Ok(())
    }

    fn told(&self, applied: Applied) -> String {
        match applied {
            Applied::Done(outcome) => self.describe(outcome),
            Applied::Waiting => "waits".into(),
            Applied::Nothing => "nothing".into(),
        }
    }

    fn describe(&self, outcome: Outcome) -> String {
        match outcome {
            Outcome::Done { token: 0 } => "done".into(),
            Outcome::Done { token } => format!("done {token}"),
            Outcome::Delivered { id, delivery } => {
                let view = self.kit.machine.delivery((id, delivery));
                let payload = view.map_or("gone".into(), |it| String::from_utf8_lossy(it.payload));
                format!("message {id}, delivery {delivery}: {payload}")
            }
            Outcome::Refused { code, detail: None } => format!("{code:?}"),
            Outcome::Refused { code, detail: Some(detail) } => format!("{code:?}: {detail}"),
        }
    }
}

/// A machine at the newest level, whose lines may take so many bytes.
fn machine(cache_bytes_max: u64) -> Kit {
    let mut kit = Kit::with(MachineConfig { cache_bytes_max, ..CONFIG });
    kit.raise(Level::NEWEST);
    kit
}

/// Appends what a command asks for.
fn request(
    call: Call,
    command: &str,
    args: &mut ArgumentConsumer<'_>,
    body: &mut Vec<u8>,
) -> Result<Kind, Failure> {
    let what = word(args)?;
    let name = what.as_bytes();
    match command {
        "acquire" => {
            let wait_ms = number(args, "wait")?.unwrap_or(0);
            let lease_ms = number(args, "lease")?.unwrap_or(0);
            let shared = args.next_pos().is_some_and(|it| it == "shared");
            let mode = if shared { SHARED } else { EXCLUSIVE };
            LockAcquire { call, wait_ms, lease_ms, mode, name }.encode(body);
            Ok(LockAcquire::KIND)
        }
        "release" => {
            let fence = word(args)?.parse()?;
            LockRelease { call, fence, name }.encode(body);
            Ok(LockRelease::KIND)
        }
        "push" => {
            let priority = number(args, "priority")?.unwrap_or(0);
            let payload = word(args)?;
            QueuePush { call, priority, name, payload: payload.as_bytes() }.encode(body);
            Ok(QueuePush::KIND)
        }
        "pop" => {
            let wait_ms = number(args, "wait")?.unwrap_or(0);
            let visibility_ms = number(args, "visibility")?.unwrap_or(60_000);
            QueuePop { call, wait_ms, visibility_ms, name }.encode(body);
            Ok(QueuePop::KIND)
        }
        "ack" => {
            let (id, delivery) = (word(args)?.parse()?, word(args)?.parse()?);
            QueueAck { call, id, delivery, name }.encode(body);
            Ok(QueueAck::KIND)
        }
        "nack" => {
            let (id, delivery) = (word(args)?.parse()?, word(args)?.parse()?);
            let delay_ms = number(args, "delay")?.unwrap_or(0);
            QueueNack { call, id, delivery, delay_ms, name }.encode(body);
            Ok(QueueNack::KIND)
        }
        "put" => {
            let (value, ttl_ms) = (word(args)?, number(args, "ttl")?.unwrap_or(0));
            let value = value.repeat(number(args, "times")?.unwrap_or(1));
            let (expect, version) = expected(args)?;
            let value = value.as_bytes();
            CachePut { call, version, ttl_ms, expect, key: name, value }.encode(body);
            Ok(CachePut::KIND)
        }
        "delete" => {
            let (expect, version) = expected(args)?;
            CacheDelete { call, version, expect, key: name }.encode(body);
            Ok(CacheDelete::KIND)
        }
        other => Err(format!("no such command: {other}").into()),
    }
}

/// What a write expects of its line: `absent`, `version=7`, or anything.
fn expected(args: &mut ArgumentConsumer<'_>) -> Result<(Expect, u64), Failure> {
    if let Some(version) = number(args, "version")? {
        return Ok((Expect::Version, version));
    }
    let absent = args.next_pos().is_some_and(|it| it == "absent");
    Ok((if absent { Expect::Absent } else { Expect::Any }, 0))
}

fn word<'a>(args: &mut ArgumentConsumer<'a>) -> Result<&'a str, Failure> {
    Ok(args.next_pos().ok_or("a word is missing")?)
}

/// A number that a key names.
fn number<T: FromStr>(args: &mut ArgumentConsumer<'_>, key: &str) -> Result<Option<T>, T::Err> {
    args.take_key(key).map(str::parse).transpose()
}

fn play(between: Between) {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/src/machine/tests/scripts");
    let files = std::fs::read_dir(dir).expect("the scripts are there");
    let mut paths: Vec<_> = files.map(|f| f.expect("a file").path()).collect();
    paths.sort();
    assert!(paths.len() >= 12, "scripts are missing");
    for path in paths {
        println!("{}", path.display());
        goldenscript::run(&mut Play::new(between), &path).expect("the script plays as written");
    }
}

#[test]
fn every_script_plays_as_written() {
    play(Between::Nothing);
}

#[test]
fn every_script_plays_the_same_with_a_machine_that_is_restored_after_each_command() {
    play(Between::Restore);
}
