//! Mail from group to group: what one group's log writes, the other's takes, each once and in order, and none is lost.
//! And probes: none comes that was not sent.
//!
//! In every other seed somebody writes mail to some group, and sends probes, at whoever leads. The logs say what was
//! written, taken and forgotten, and each replica says what its state took:
//!
//! - A state takes the next number of those that it did not take, and what was written under it.
//! - Nothing is forgotten that was not taken.
//! - In the end everything is taken, and everything is forgotten.

use super::{Event, Incoming, Shape, World};
use engine::entry::{Entry, kind};
use engine::ids::GroupId;
use engine::limits::{MAIL_BYTES_MAX, MAIL_MAX, MAIL_WAITING_BYTES_MAX};
use engine::machine::Took;
use engine::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use wire::bytes::{Put, Reader};
use wire::random::Random;

/// Mail is written in one seed of so many.
const WRITTEN_ONE_IN: u64 = 2;
/// How much more than its number a mail says at most, in bytes: some turns write more than may wait.
const BYTES_MAX: [usize; 3] = [0, 64, 12 << 10];
/// How many mails are written at once.
const AT_ONCE_MAX: u32 = 12;

/// Mail, or a probe, for a group's leader to send.
pub(super) struct Letter {
    pub(super) way: (GroupId, GroupId),
    pub(super) bytes: Vec<u8>,
    pub(super) is_probe: bool,
}

/// What was written from one group to another.
#[derive(Default)]
struct Line {
    written: Vec<Vec<u8>>,
    taken: u64,
    forgotten: u64,
}

/// All mail, as the logs say.
#[derive(Default)]
pub(super) struct Mail {
    lines: BTreeMap<(GroupId, GroupId), Line>,
    probes: BTreeSet<(GroupId, GroupId, Vec<u8>)>,
    /// How many probes came.
    pub(super) probed: u64,
}

impl Mail {
    /// A probe is about to be sent.
    pub(super) fn on_probe_sent(&mut self, (from, to): (GroupId, GroupId), bytes: &[u8]) {
        self.probes.insert((from, to, bytes.to_vec()));
    }

    /// An entry of a group is committed.
    pub(super) fn on_entry(&mut self, group: GroupId, entry: &Entry<'_>) -> Result<(), String> {
        let mut rest = Reader::new(entry.payload);
        let wrong = |_| format!("an entry of {:?} is malformed", entry.header.kind);
        match entry.header.kind {
            kind::MAIL_WRITE => {
                let to = GroupId(rest.u32().map_err(wrong)?);
                if self.takes(group, rest.rest().len()) {
                    let line = self.lines.entry((group, to)).or_default();
                    line.written.push(rest.rest().to_vec());
                }
                Ok(())
            }
            kind::MAIL => {
                let from = GroupId(rest.u32().map_err(wrong)?);
                let first = rest.u64().map_err(wrong)?;
                let line = self.lines.entry((from, group)).or_default();
                let mut number = first;
                while !rest.is_empty() {
                    let length = rest.u32().map_err(wrong)? as usize;
                    let mail = rest.take(length).map_err(wrong)?;
                    if line.written.get(number as usize - 1).map(Vec::as_slice) != Some(mail) {
                        return Err(format!("{number} of group {from} says what nobody wrote"));
                    }
                    line.taken += u64::from(number == line.taken + 1);
                    number += 1;
                }
                Ok(())
            }
            kind::MAIL_TAKEN => {
                let to = GroupId(rest.u32().map_err(wrong)?);
                let upto = rest.u64().map_err(wrong)?;
                let line = self.lines.entry((group, to)).or_default();
                if upto > line.taken {
                    let taken = line.taken;
                    return Err(format!("{upto} for group {to} is forgotten, which took {taken}"));
                }
                line.forgotten = line.forgotten.max(upto);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Whether a group's outbox has room for one more.
    fn takes(&self, group: GroupId, bytes: usize) -> bool {
        let lines = self.lines.iter().filter(|((from, _), _)| *from == group);
        let waiting = lines.flat_map(|(_, line)| line.written.iter().skip(line.forgotten as usize));
        let (count, all) = waiting.fold((0, 0), |(n, b), mail| (n + 1, b + mail.len()));
        count < MAIL_MAX && all + bytes <= MAIL_WAITING_BYTES_MAX && bytes <= MAIL_BYTES_MAX
    }

    /// A replica's state took mail.
    pub(super) fn on_took(&self, group: GroupId, node: u32, took: &Took) -> Result<(), String> {
        let (from, number, node) = (took.from, took.number, node + 1);
        if number != took.before + 1 {
            let before = took.before;
            return Err(format!(
                "group {group}: node {node} takes {number} of group {from} after {before}"
            ));
        }
        let line = self.lines.get(&(from, group));
        let written = line.and_then(|line| line.written.get(number as usize - 1));
        if written.map(Vec::as_slice) != Some(&took.mail[..]) {
            return Err(format!(
                "group {group}: node {node} takes {number} of group {from}, which wrote another"
            ));
        }
        Ok(())
    }

    /// A probe came.
    pub(super) fn on_probe(
        &mut self,
        to: GroupId,
        from: GroupId,
        bytes: &[u8],
    ) -> Result<(), String> {
        self.probed += 1;
        match self.probes.contains(&(from, to, bytes.to_vec())) {
            true => Ok(()),
            false => Err(format!("group {to} got a probe of group {from} that was not sent")),
        }
    }

    /// Whether all mail was taken, and nothing is kept any more.
    pub(super) fn is_delivered(&self) -> bool {
        let all = |line: &Line| line.written.len() as u64;
        self.lines.values().all(|line| line.taken == all(line) && line.forgotten == all(line))
    }

    /// What was not.
    pub(super) fn undelivered(&self) -> String {
        let lines = self.lines.iter().map(|((from, to), line)| {
            let Line { written, taken, forgotten } = line;
            let written = written.len();
            format!("\n  mail of {from} for {to}: {written} written, {taken} taken, {forgotten} forgotten")
        });
        lines.collect()
    }

    /// How many mails were written.
    pub(super) fn written(&self) -> u64 {
        self.lines.values().map(|line| line.written.len() as u64).sum()
    }
}

impl World {
    /// Whether mail is written in this run.
    pub(super) fn has_mail(&self) -> bool {
        self.options.shape == Shape::Drawn && self.options.seed % WRITTEN_ONE_IN == 1
    }

    /// Somebody writes mail, or sends a probe, at whoever leads the group.
    pub(super) fn write_letters(&mut self) {
        let shards = self.layout.shards;
        let mut draw = |below: u32| self.letters.u32(..below);
        let way = (GroupId::of_shard(draw(shards)), GroupId::of_shard(draw(shards)));
        let (most, count) = (BYTES_MAX[draw(3) as usize], 1 + draw(AT_ONCE_MAX));
        let is_probe = draw(4) == 0;
        let leader = self.replicas(way.0).find(|(_, shard)| shard.raft().is_leader());
        let leader = leader.map(|(id, _)| self.layout.seat(id, way.0));
        for _ in 0..count {
            self.letter += 1;
            let mut bytes = Vec::new();
            bytes.put_u64(self.letter);
            bytes.resize(bytes.len() + self.letters.usize(..most + 1), 7);
            if let Some(leader) = leader {
                self.deliver(leader, Incoming::Letter(Letter { way, bytes, is_probe }));
            }
        }
        if self.is_faulty() {
            let next = Duration::from_millis(self.letters.u64(5..120));
            self.plan(next, Event::Letters);
        }
    }

    /// What decides about letters.
    pub(super) fn letters_of(seed: u64) -> Random {
        Random::new(seed ^ 0x6c65_7474_6572_7300)
    }
}
