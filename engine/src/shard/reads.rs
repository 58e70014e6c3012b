//! Reads until the turn's end, or longer: the lease ran out, every read asks a majority, or what is read has
//! expired and its expiry is not applied yet. Their bodies lie in one buffer that is used again.
//!
//! A read is its kind and its body, whatever it is of: the state shows what it asks for.

use super::aside::Item;
use super::calls::Caller;
use super::desk::Hint;
use super::state::State;
use super::{Shard, Step};
use crate::ids::Index;
use crate::level::Level;
use crate::machine::{Probe, ReadAsk, View, WARM_MAX};
use crate::raft::Read;
use crate::time::{Elapsed, Time};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use wire::{Code, Kind};

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
    kind: Kind,
    body_bytes: usize,
}

/// Reads that wait, in the order in which they came.
#[derive(Default)]
pub struct HeldReads {
    held: VecDeque<HeldRead>,
    /// The bodies one after the other; those before `taken` are done with.
    bodies: Vec<u8>,
    taken: usize,
}

impl HeldReads {
    /// Holds a read back.
    pub fn hold(&mut self, caller: Caller, ask: ReadAsk<'_>, until: Until, deadline: Time) {
        let ReadAsk { kind, body } = ask;
        self.held.push_back(HeldRead { caller, until, deadline, kind, body_bytes: body.len() });
        self.bodies.extend_from_slice(body);
    }

    /// The oldest read, and what it asks for.
    pub fn first(&self) -> Option<(HeldRead, ReadAsk<'_>)> {
        let read = *self.held.front()?;
        let end = self.taken + read.body_bytes;
        assert!(end <= self.bodies.len(), "each read has its body");
        Some((read, ReadAsk { kind: read.kind, body: &self.bodies[self.taken..end] }))
    }

    /// What is asked for, oldest read first.
    pub fn asks(&self) -> impl Iterator<Item = ReadAsk<'_>> {
        let mut rest = &self.bodies[self.taken..];
        self.held.iter().map(move |read| {
            let (body, behind) = rest.split_at(read.body_bytes);
            rest = behind;
            ReadAsk { kind: read.kind, body }
        })
    }

    /// Takes the oldest read out.
    pub fn take(&mut self) -> Option<HeldRead> {
        let read = self.held.pop_front()?;
        self.taken += read.body_bytes;
        assert!(self.taken <= self.bodies.len(), "each read has its body");
        if self.held.is_empty() || self.taken > self.bodies.len() / 2 {
            self.bodies.drain(..self.taken);
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
    /// Reads the state, linearizably: at the turn's end at the earliest.
    pub fn on_read(
        &mut self,
        step: &mut Step<'_>,
        caller: Caller,
        level: Level,
        ask: ReadAsk<'_>,
        deadline: Time,
    ) {
        let until = match self.raft.read(step.now, step.reads()) {
            Read::NotLeader => return self.refuse(step, caller),
            _ if !self.is_at(level) => return self.refuse_above(step, caller, level),
            Read::After(time) => Until::Confirmed(time),
            Read::Ready => Until::Applied(self.raft.commit()),
        };
        self.reads.hold(caller, ask, until, deadline);
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
                self.state.warm(self.reads.asks().map(ReadAsk::line), &mut warm);
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
        let Some((_, ask)) = self.reads.first() else { return };
        let clock = self.raft.clock(step.now);
        match read(&self.state, clock, step, caller, (probe, ask), deadline) {
            Served::Yes => {}
            Served::Due => return self.end_due_first(step, caller, deadline),
            Served::Later => {
                let item = Item::Read { caller, deadline, kind: ask.kind, body: ask.body.into() };
                self.aside.put(item, &mut step.shared.conns);
            }
        }
        self.reads.take();
    }

    /// What the first read is of has expired, but its expiry is not in the log: it is proposed, and the
    /// read waits for it.
    fn end_due_first(&mut self, step: &mut Step<'_>, caller: Caller, deadline: Time) {
        self.propose_tick(step);
        let Some((_, ReadAsk { kind, body })) = self.reads.first() else { return };
        let scratch = &mut step.shared.scratch;
        scratch.clear();
        scratch.extend_from_slice(body);
        self.reads.take();
        let ask = ReadAsk { kind, body: scratch };
        self.reads.hold(caller, ask, Until::Applied(self.ticked), deadline);
    }
}

/// What came of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Served {
    /// It is given.
    Yes,
    /// It is large, and enough is on its way: it is to wait.
    Later,
    /// What is read has expired, but no entry has ended it.
    Due,
}

/// Answers a read for which leadership was confirmed from the applied state.
#[inline]
pub(super) fn read(
    state: &State,
    clock: Elapsed,
    step: &mut Step<'_>,
    caller: Caller,
    (probe, ask): (Option<Probe>, ReadAsk<'_>),
    deadline: Time,
) -> Served {
    let now = step.now;
    let mut desk = step.desk();
    if now >= deadline {
        desk.error(caller, Code::DeadlineExceeded, Hint::NONE);
        return Served::Yes;
    }
    match state.read(probe, ask, clock) {
        View::Line { value, .. } if !desk.takes(caller, value.len()) => return Served::Later,
        View::Line { version, value } => desk.value(caller, version, value),
        View::Refused(code) => desk.error(caller, code, Hint::NONE),
        View::Due => return Served::Due,
    }
    Served::Yes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ConnId;

    #[test]
    fn bodies_follow_their_reads_while_others_come_and_go() {
        let caller =
            |request| Caller { conn: ConnId { index: 0, generation: 0 }, request, bytes: 60 };
        let body = |n: u64| alloc::vec![n as u8; (n % 5) as usize];
        let kind = |n: u64| Kind(n as u16 % 3);
        let mut reads = HeldReads::default();
        let mut next = 0;
        for n in 0..100 {
            let ask = ReadAsk { kind: kind(n), body: &body(n) };
            reads.hold(caller(n), ask, Until::Applied(Index(n)), Time::MAX);
            let asks = reads.asks().map(|ask| (ask.kind, ask.body.to_vec()));
            assert!(asks.eq((next..=n).map(|n| (kind(n), body(n)))));
            if n % 3 > 0 {
                let (first, ask) = reads.first().expect("one was held");
                assert_eq!((first.caller.request, ask.body), (next, &body(next)[..]));
                assert_eq!(reads.take().expect("one was held").caller.request, next);
                next += 1;
            }
        }
        assert_eq!(reads.len() as u64, 100 - next);
        while reads.take().is_some() {}
        assert!(reads.is_empty() && reads.bodies.is_empty());
    }
}
