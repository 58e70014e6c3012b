//! A stage before propose: requests that wait in the leader for something that is not in the log.
//!
//! A request may have to wait for an acknowledgement, for a load from disk, or for the end of a hand-over before it may
//! be proposed. It waits here, whole, under what it waits for. It leaves in one of three ways: it is proposed, it is
//! refused, or its caller is sent to the new leader.
//!
//! # How it works
//!
//! A request that need not wait never comes here: consensus takes it at once. One that waits is copied. Requests lie in
//! one tree by (what they wait for, ticket), and those with a deadline in another by (deadline, ticket). So each step
//! costs the logarithm of how many wait.
//!
//! # Invariants
//!
//! - What waits for one thing leaves in the order in which it came. What waits for different things may overtake.
//! - A request is proposed in the term in which it came, or not at all. What it waited for was true in that term.
//! - At most [`STAGED_MAX`] requests and [`STAGED_BYTES_MAX`] bytes wait. What gives something back finds
//!   [`STAGED_RESERVED`] more places, as it does on its connection.

use super::calls::{CallId, Caller};
use super::desk::Hint;
use super::{Proposal, Shard, Step};
use crate::level::Level;
use crate::limits::{STAGED_BYTES_MAX, STAGED_MAX, STAGED_RESERVED};
use crate::mutant::{self, Mutant};
use crate::time::Time;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use wire::{Code, Kind};

/// What a request waits for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Awaited {
    /// The end of a hand-over: another leads, or the hand-over has failed.
    HandOver,
}

/// A request that waits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Staged {
    caller: Caller,
    kind: Kind,
    level: Level,
    call: CallId,
    deadline: Time,
    body: Box<[u8]>,
}

impl Staged {
    fn of(request: &Proposal<'_>) -> Staged {
        let Proposal { caller, kind, level, call, deadline, body } = *request;
        Staged { caller, kind, level, call, deadline, body: body.into() }
    }

    /// The request, as it came.
    fn proposal(&self) -> Proposal<'_> {
        let Staged { caller, kind, level, call, deadline, ref body } = *self;
        Proposal { caller, kind, level, call, deadline, body }
    }
}

/// The stage is full: nothing was put there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StageFull;

/// All requests of one group that wait before they are proposed.
#[derive(Default)]
pub struct Stage {
    waiting: BTreeMap<(Awaited, u64), Staged>,
    /// Those that end by themselves.
    deadlines: BTreeSet<(Time, Awaited, u64)>,
    /// The next request's place in the order.
    ticket: u64,
    /// What the bodies take.
    bytes: usize,
}

impl Stage {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// When the first request ends by itself.
    pub fn wake_at(&self) -> Time {
        self.deadlines.first().map_or(Time::MAX, |(at, ..)| *at)
    }

    /// A request waits, behind all that wait for the same.
    ///
    /// # Errors
    /// [`StageFull`].
    pub fn put(&mut self, awaited: Awaited, request: &Proposal<'_>) -> Result<(), StageFull> {
        let facts = wire::Request::facts_of(request.kind);
        let gives_back = facts.is_some_and(|facts| facts.gives_back);
        let places = STAGED_MAX + if gives_back { STAGED_RESERVED } else { 0 };
        // A request that gives something back is small.
        let full = self.bytes + request.body.len() > STAGED_BYTES_MAX && !gives_back;
        if full || self.waiting.len() >= places {
            return Err(StageFull);
        }
        let ticket = self.ticket;
        self.ticket += 1;
        self.bytes += request.body.len();
        if request.deadline < Time::MAX {
            self.deadlines.insert((request.deadline, awaited, ticket));
        }
        let before = self.waiting.insert((awaited, ticket), Staged::of(request));
        assert!(before.is_none(), "each ticket is given once");
        Ok(())
    }

    /// Takes the request that has waited longest for this.
    pub fn take(&mut self, awaited: Awaited) -> Option<Staged> {
        let mut line = self.waiting.range((awaited, 0)..=(awaited, u64::MAX));
        let next = if leaves_in_order() { line.next() } else { line.next_back() };
        let place = *next?.0;
        self.remove(place)
    }

    /// Takes a request whose deadline has passed, the earliest first.
    pub fn take_due(&mut self, now: Time) -> Option<Staged> {
        let (at, awaited, ticket) = *self.deadlines.first()?;
        if now < at {
            return None;
        }
        self.remove((awaited, ticket))
    }

    /// Takes any request.
    pub fn take_any(&mut self) -> Option<Staged> {
        let place = *self.waiting.first_key_value()?.0;
        self.remove(place)
    }

    fn remove(&mut self, place: (Awaited, u64)) -> Option<Staged> {
        let staged = self.waiting.remove(&place)?;
        if staged.deadline < Time::MAX {
            let listed = self.deadlines.remove(&(staged.deadline, place.0, place.1));
            assert!(listed, "what ends by itself is on the list");
        }
        assert!(self.bytes >= staged.body.len(), "what leaves was counted");
        self.bytes -= staged.body.len();
        Some(staged)
    }

    /// The calls that wait, in the order in which they leave.
    #[cfg(any(test, feature = "simulator"))]
    pub fn calls(&self) -> impl Iterator<Item = (Caller, CallId)> {
        self.waiting.values().map(|staged| (staged.caller, staged.call))
    }
}

impl Shard {
    /// Nothing is proposed while leadership is handed over: the request waits for what comes of it.
    #[cold]
    pub(super) fn await_hand_over(&mut self, step: &mut Step<'_>, request: &Proposal<'_>) {
        assert!(self.raft.is_handing_over(), "there is something to wait for");
        if self.stage.put(Awaited::HandOver, request).is_err() {
            step.desk().error(request.caller, Code::Busy, Hint::retry(5));
        }
    }

    /// Refuses what has waited too long, and proposes what waits for nothing any more.
    pub(super) fn keep_stage(&mut self, step: &mut Step<'_>) {
        if self.stage.is_empty() {
            return;
        }
        // Whoever waits in another's term is sent there.
        self.note_leader(step);
        while let Some(staged) = self.stage.take_due(step.now) {
            step.desk().error(staged.caller, Code::DeadlineExceeded, Hint::NONE);
        }
        if !self.raft.is_leader() || self.raft.is_handing_over() {
            return;
        }
        let mut room = true;
        while let Some(staged) = self.stage.take(Awaited::HandOver) {
            if forgets_staged() {
                continue;
            }
            // Once one finds no room, none behind it may overtake it.
            room = room && self.propose(step, &staged.proposal());
            if !room {
                step.desk().error(staged.caller, Code::Busy, Hint::retry(5));
            }
        }
    }

    /// This replica leads no more: whoever waits to be proposed is sent to whom it handed over to, or to who leads.
    pub(super) fn send_staged_away(&mut self, step: &mut Step<'_>) {
        if staged_outlive_leaders() {
            return;
        }
        let leader = self.raft.leader().filter(|leader| *leader != self.node);
        let node = leader.or(self.heir);
        let hint = Hint { node, engine: step.shared.engine, retry_ms: 0 };
        while let Some(staged) = self.stage.take_any() {
            assert!(node.is_some(), "what waits for a hand-over knows to whom");
            step.desk().error(staged.caller, Code::NotLeader, hint);
        }
        assert!(self.stage.is_empty(), "nobody waits where nobody leads");
    }
}

fn leaves_in_order() -> bool {
    !mutant::on(Mutant::StagedLifo)
}

fn forgets_staged() -> bool {
    mutant::on(Mutant::StagedForgotten)
}

fn staged_outlive_leaders() -> bool {
    mutant::on(Mutant::StagedOutliveLeader)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ConnId, SessionId};
    use wire::message::{CachePut, LockRelease};

    fn request(sequence: u64, deadline: Time, kind: Kind, body: &[u8]) -> Proposal<'_> {
        let conn = ConnId { index: 0, generation: 1 };
        let caller = Caller { conn, request: sequence, bytes: 60 };
        let call = CallId { session: SessionId([1; 16]), sequence };
        Proposal { caller, kind, level: Level::OLDEST, call, deadline, body }
    }

    fn put(stage: &mut Stage, sequence: u64, deadline: Time) -> Result<(), StageFull> {
        stage.put(Awaited::HandOver, &request(sequence, deadline, CachePut::KIND, b"body"))
    }

    #[test]
    fn what_waits_for_the_same_leaves_in_the_order_in_which_it_came() {
        let mut stage = Stage::default();
        (0..100).for_each(|n| put(&mut stage, n, Time(1_000 - n)).expect("there is room"));
        for n in 0..100 {
            let staged = stage.take(Awaited::HandOver).expect("it was put there");
            assert_eq!(staged.proposal().call.sequence, n);
            assert_eq!(staged.proposal().body, b"body");
        }
        assert!(stage.is_empty() && stage.take(Awaited::HandOver).is_none());
        assert_eq!((stage.wake_at(), stage.bytes), (Time::MAX, 0));
    }

    #[test]
    fn whoever_waited_too_long_leaves_and_the_others_keep_their_order() {
        let mut stage = Stage::default();
        for (n, deadline) in [(1, Time::MAX), (2, Time(20)), (3, Time(30)), (4, Time(10))] {
            put(&mut stage, n, deadline).expect("there is room");
        }
        assert_eq!(stage.wake_at(), Time(10));
        assert_eq!(stage.take_due(Time(9)), None);
        let due = core::iter::from_fn(|| stage.take_due(Time(20)));
        assert_eq!(due.map(|it| it.call.sequence).collect::<alloc::vec::Vec<_>>(), [4, 2]);
        let left = core::iter::from_fn(|| stage.take_any());
        assert_eq!(left.map(|it| it.call.sequence).collect::<alloc::vec::Vec<_>>(), [1, 3]);
        assert_eq!(stage.wake_at(), Time::MAX);
    }

    #[test]
    fn a_full_stage_takes_what_gives_something_back_and_not_without_bound() {
        let mut stage = Stage::default();
        (0..STAGED_MAX as u64).for_each(|n| put(&mut stage, n, Time::MAX).expect("room"));
        assert_eq!(put(&mut stage, 0, Time::MAX), Err(StageFull));
        for _ in 0..STAGED_RESERVED {
            let release = request(0, Time::MAX, LockRelease::KIND, b"");
            stage.put(Awaited::HandOver, &release).expect("a place is kept for it");
        }
        let release = request(0, Time::MAX, LockRelease::KIND, b"");
        assert_eq!(stage.put(Awaited::HandOver, &release), Err(StageFull));
        stage.take_any().expect("something waits");
    }

    #[test]
    fn a_stage_is_full_by_bytes_too_and_takes_more_once_some_left() {
        let mut stage = Stage::default();
        let body = alloc::vec![0; STAGED_BYTES_MAX / 4];
        let put = |stage: &mut Stage| {
            stage.put(Awaited::HandOver, &request(0, Time::MAX, CachePut::KIND, &body))
        };
        (0..4).for_each(|_| put(&mut stage).expect("there is room"));
        assert_eq!(put(&mut stage), Err(StageFull));
        stage.take(Awaited::HandOver).expect("something waits");
        assert_eq!(put(&mut stage), Ok(()));
    }
}
