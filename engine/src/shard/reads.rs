//! Reads until the turn's end, or longer: the lease ran out, every read asks a majority, or the line has
//! expired and its expiry is not applied yet. Their keys lie in one buffer that is used again.

use super::aside::Item;
use super::calls::Caller;
use super::desk::Hint;
use super::state::State;
use super::{Shard, Step};
use crate::ids::Index;
use crate::level::Level;
use crate::machine::{Get, Probe, WARM_MAX};
use crate::raft::Read;
use crate::time::{Elapsed, Time};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use wire::Code;

/// What a read waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Until {
    /// Leadership was confirmed at this moment or later.
    Confirmed(Time),
    /// This index is applied.
    Applied(Index),
}

impl Until {
    /// Whether it is so, for a replica that has applied so far, knows so much to be committed, and was confirmed to
    /// lead at that moment.
    pub fn is_reached(self, applied: Index, commit: Index, confirmed_at: Option<Time>) -> bool {
        match self {
            Until::Confirmed(at) => applied >= commit && confirmed_at >= Some(at),
            Until::Applied(index) => applied >= index,
        }
    }
}

/// A read that waits.
#[derive(Clone, Copy, Debug)]
pub struct HeldRead {
    /// Who asked.
    pub caller: Caller,
    /// What it waits for.
    pub until: Until,
    /// When the caller gives up; [`Time::MAX`] = never.
    pub deadline: Time,
    key_bytes: usize,
}

/// Reads that wait, in the order in which they came.
#[derive(Default)]
pub struct HeldReads {
    held: VecDeque<HeldRead>,
    /// The keys one after the other; those before `taken` are done with.
    keys: Vec<u8>,
    taken: usize,
}

impl HeldReads {
    /// Holds a read back.
    pub fn hold(&mut self, caller: Caller, key: &[u8], until: Until, deadline: Time) {
        self.held.push_back(HeldRead { caller, until, deadline, key_bytes: key.len() });
        self.keys.extend_from_slice(key);
    }

    /// The oldest read and its key.
    pub fn first(&self) -> Option<(HeldRead, &[u8])> {
        let read = *self.held.front()?;
        assert!(self.taken + read.key_bytes <= self.keys.len(), "each read has its key");
        Some((read, &self.keys[self.taken..self.taken + read.key_bytes]))
    }

    /// The keys, oldest read first.
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.keys[self.taken..];
        self.held.iter().map(move |read| {
            let (key, behind) = rest.split_at(read.key_bytes);
            rest = behind;
            key
        })
    }

    /// Takes the oldest read out.
    pub fn take(&mut self) -> Option<HeldRead> {
        let read = self.held.pop_front()?;
        self.taken += read.key_bytes;
        assert!(self.taken <= self.keys.len(), "each read has its key");
        if self.held.is_empty() || self.taken > self.keys.len() / 2 {
            self.keys.drain(..self.taken);
            self.taken = 0;
        }
        Some(read)
    }

    /// How many reads wait.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

impl Shard {
    /// Reads a cache line, linearizably: at the turn's end at the earliest.
    pub fn on_read(
        &mut self,
        step: &mut Step<'_>,
        caller: Caller,
        level: Level,
        key: &[u8],
        deadline: Time,
    ) {
        let until = match self.raft.read(step.now, step.reads()) {
            Read::NotLeader => return self.refuse(step, caller),
            _ if !self.is_at(level) => return self.refuse_above(step, caller, level),
            Read::After(time) => Until::Confirmed(time),
            Read::Ready => Until::Applied(self.raft.commit()),
        };
        self.reads.hold(caller, key, until, deadline);
    }

    /// Answers the reads that wait for nothing any more, oldest first.
    pub(super) fn serve_reads(&mut self, step: &mut Step<'_>) {
        let (mut warm, mut nth) = (core::mem::take(&mut self.warm), WARM_MAX);
        for _ in 0..self.reads.len() {
            let Some((read, _)) = self.reads.first() else { break };
            let (commit, confirmed) = (self.raft.commit(), self.raft.confirmed_at());
            let ready = read.until.is_reached(self.applied, commit, confirmed);
            if !ready && step.now < read.deadline {
                break;
            }
            let (caller, deadline) = (read.caller, read.deadline);
            if nth == WARM_MAX {
                nth = 0;
                self.state.warm(self.reads.keys(), &mut warm);
            }
            self.serve_read(step, warm.probe(nth), caller, deadline);
            nth += 1;
        }
        self.warm = warm;
    }

    /// Answers the first read from the applied state, since leadership was confirmed for it.
    fn serve_read(
        &mut self,
        step: &mut Step<'_>,
        probe: Option<Probe>,
        caller: Caller,
        deadline: Time,
    ) {
        let Some((_, key)) = self.reads.first() else { return };
        let clock = self.raft.clock(step.now);
        match read_line(&self.state, clock, step, caller, (probe, key), deadline) {
            Served::Yes => {}
            Served::Due => return self.end_line_first(step, caller, deadline),
            Served::Later => {
                let item = Item::Read { caller, deadline, key: key.into() };
                self.aside.put(item, &mut step.shared.conns);
            }
        }
        self.reads.take();
    }

    /// The first read's line has expired, but its expiry is not in the log: it is proposed, and the
    /// read waits for it.
    fn end_line_first(&mut self, step: &mut Step<'_>, caller: Caller, deadline: Time) {
        self.propose_tick(step);
        let Some((_, key)) = self.reads.first() else { return };
        step.shared.scratch.clear();
        step.shared.scratch.extend_from_slice(key);
        self.reads.take();
        self.reads.hold(caller, &step.shared.scratch, Until::Applied(self.ticked), deadline);
    }
}

/// What came of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Served {
    /// It is given.
    Yes,
    /// It is large, and enough is on its way: it is to wait.
    Later,
    /// The line has expired, but no entry has ended it.
    Due,
}

/// Answers a read for which leadership was confirmed from the applied state.
pub(super) fn read_line(
    state: &State,
    clock: Elapsed,
    step: &mut Step<'_>,
    caller: Caller,
    (probe, key): (Option<Probe>, &[u8]),
    deadline: Time,
) -> Served {
    let now = step.now;
    let mut desk = step.desk();
    if now >= deadline {
        desk.error(caller, Code::DeadlineExceeded, Hint::NONE);
        return Served::Yes;
    }
    match state.get(probe, key, clock) {
        Get::Found { value, .. } if !desk.takes(caller, value.len()) => return Served::Later,
        Get::Found { version, value } => desk.value(caller, version, value),
        Get::Missing => desk.error(caller, Code::KeyUnknown, Hint::NONE),
        Get::Due => return Served::Due,
    }
    Served::Yes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ConnId;

    #[test]
    fn keys_follow_their_reads_while_others_come_and_go() {
        let caller =
            |request| Caller { conn: ConnId { index: 0, generation: 0 }, request, bytes: 60 };
        let key = |n: u64| alloc::vec![n as u8; (n % 5) as usize];
        let mut reads = HeldReads::default();
        let mut next = 0;
        for n in 0..100 {
            reads.hold(caller(n), &key(n), Until::Applied(Index(n)), Time::MAX);
            assert!(reads.keys().eq((next..=n).map(key)));
            if n % 3 > 0 {
                let (first, bytes) = reads.first().expect("one was held");
                assert_eq!((first.caller.request, bytes), (next, &key(next)[..]));
                assert_eq!(reads.take().expect("one was held").caller.request, next);
                next += 1;
            }
        }
        assert_eq!(reads.len() as u64, 100 - next);
        while reads.take().is_some() {}
        assert!(reads.is_empty() && reads.keys.is_empty());
    }
}
