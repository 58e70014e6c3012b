//! Sessions: who holds what, who waits for what, and which outcomes are remembered.
//!
//! Their rows lie in the ledger; here is what their calls and their ends bring about in the services.
//!
//! # Invariants
//!
//! - A session ends only at `last renewal + 5/4 TTL` of the replicated clock or by a close. Only
//!   opening it and [`RENEW`](crate::entry::kind::RENEW) renew it: a call does not, since that would move a timer at
//!   each call. The leader hears every frame and renews at most every quarter TTL, so a session
//!   ends never before its TTL ran out without a sign of life, and at most half a TTL late.
//! - An ended id is refused for [`SESSION_ENDED_MS`](wire::limits::SESSION_ENDED_MS) from its end: its row stays so long.
//!   None is forgotten earlier: with [`SESSIONS_REMEMBERED_MAX`](crate::limits::SESSIONS_REMEMBERED_MAX) rows no session
//!   is opened. (Below [`Level::BOUNDED`] the last [`SESSIONS_ENDED_MAX`](crate::limits::SESSIONS_ENDED_MAX) are
//!   remembered, first in first out.)
//! - A session has in this shard, by number: grants by fence, waiters by ticket, messages in flight by id. Its end ends
//!   its waits, of which a window bounds the number, and gives back the rest in that order, over as many entries as it
//!   takes (`steps.rs`; below that level within one).
//! - A call that its client says was answered while it still waits is cancelled: so a client gives up a wait.

use super::ledger::{Owned, Recalled, Remembered, Resource, gives_grants_back};
use super::{Applied, Machine, Outcome, Turn};
use crate::ids::SessionId;
use crate::level::Level;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use wire::Call;
use wire::Code;

/// What came of an operation that may wait.
pub(super) enum Verdict {
    Now(Outcome),
    /// Nothing was done: what it touches is unfinished. It is not remembered, and may come again.
    NotYet,
    /// It waits; the waiter's slot.
    Later(u32),
}

impl Machine {
    /// Opens a session; again is a sign of life and nothing else.
    pub(super) fn open(&mut self, id: SessionId, ttl_ms: u32, turn: &mut Turn<'_>) -> Outcome {
        if !self.ledger.remembers(id) {
            return self.ledger.open(id, ttl_ms);
        }
        match self.renew(id, turn) {
            true => Outcome::Done { token: 0 },
            false => Outcome::refused(Code::SessionUnknown),
        }
    }

    /// Ends a session. One that is not there has ended already.
    pub(super) fn close(&mut self, id: SessionId, turn: &mut Turn<'_>) -> Outcome {
        if let Some(slot) = self.ledger.find_session(id) {
            self.end_session(slot, turn);
        }
        Outcome::Done { token: 0 }
    }

    /// Takes a sign of life; says whether the session lives.
    pub(super) fn renew(&mut self, id: SessionId, turn: &mut Turn<'_>) -> bool {
        let Some(slot) = self.live_session(id, turn) else {
            return false;
        };
        self.ledger.renew(slot);
        true
    }

    /// The slot of a session that lives. One whose end is due but has not fired ends here.
    fn live_session(&mut self, id: SessionId, turn: &mut Turn<'_>) -> Option<u32> {
        let slot = self.ledger.find_caller(id)?;
        if self.ledger.session_deadline(slot) <= turn.now {
            self.expire_session(slot, turn);
            return None;
        }
        Some(slot)
    }

    /// Does a call exactly once: `op` runs unless the call is remembered.
    pub(super) fn call(
        &mut self,
        call: Call,
        turn: &mut Turn<'_>,
        op: impl FnOnce(&mut Machine, u32, &mut Turn<'_>) -> Verdict,
    ) -> Applied {
        let Some(slot) = self.live_session(SessionId(call.session), turn) else {
            return Applied::Done(Outcome::refused(Code::SessionUnknown));
        };
        self.ledger.keep_session(slot);
        if self.ledger.on_answered(slot, call.answered_below) {
            self.forget_answered(slot, turn);
        }
        match self.ledger.recall(slot, call.sequence) {
            Recalled::New => {}
            Recalled::Stale => return Applied::Done(Outcome::refused(Code::SequenceStale)),
            Recalled::Done(outcome) => return Applied::Done(outcome),
            Recalled::Waits => return Applied::Waiting,
        }
        let what = match op(self, slot, turn) {
            Verdict::Now(outcome) => Remembered::Outcome(outcome),
            Verdict::Later(waiter) => Remembered::Waiting(waiter),
            Verdict::NotYet => return Applied::Done(Outcome::refused(Code::Busy)),
        };
        let applied = match &what {
            Remembered::Outcome(outcome) => Applied::Done(outcome.clone()),
            Remembered::Waiting(_) => Applied::Waiting,
        };
        self.ledger.remember(slot, call.sequence, what);
        applied
    }

    /// Forgets the calls that were answered. One that still waits is cancelled.
    fn forget_answered(&mut self, slot: u32, turn: &mut Turn<'_>) {
        let mut left = Vec::new();
        while let Some(waiter) = self.ledger.take_answered(slot) {
            left.push(self.end_wait(waiter, Outcome::refused(Code::SequenceStale), turn));
        }
        self.advance(&left, turn);
    }

    /// Ends a session whose time ran out.
    pub(super) fn expire_session(&mut self, slot: u32, turn: &mut Turn<'_>) {
        if self.ledger.expire(slot) {
            self.end_session(slot, turn);
        }
    }

    /// Ends a session: its waiters leave, and what it has is given back over the entries that it takes.
    fn end_session(&mut self, slot: u32, turn: &mut Turn<'_>) {
        self.ledger.keep_session(slot);
        if self.ledger.level() < Level::BOUNDED {
            return self.end_session_at_once(slot, turn);
        }
        let mut left = Vec::new();
        for waiter in self.ledger.waits_of(slot) {
            left.push(self.end_wait(waiter, Outcome::refused(Code::SessionUnknown), turn));
        }
        self.ledger.end_session(slot);
        self.advance(&left, turn);
        self.give_back(slot, turn);
    }

    /// Gives back what an ended session has, as far as half of the steps go; with the others who is next is served.
    /// So of several messages that come back together the first by priority is served first.
    pub(super) fn give_back(&mut self, slot: u32, turn: &mut Turn<'_>) {
        let (others, mut left) = (turn.steps / 2, Vec::new());
        while turn.steps > others {
            let Some((number, thing)) = self.ledger.first_owned(slot) else { break };
            turn.step();
            match thing {
                Owned::Waiter(_) => unreachable!("an ended session waits for nothing"),
                Owned::Grant(_) if !gives_grants_back() => self.ledger.disown(slot, number, thing),
                Owned::Grant(grant) => {
                    left.push(Resource::Lock(self.locks.drop_grant(&mut self.ledger, grant)))
                }
                Owned::Message(message) => {
                    left.push(Resource::Queue(self.queues.make_ready(&mut self.ledger, message)))
                }
            }
        }
        self.ledger.note_ended(slot);
        self.advance(&left, turn);
    }

    /// Ends a session: its waiters leave, its locks are released, its messages return to their
    /// queues; only then are the next in line served, so that none of them is its own.
    fn end_session_at_once(&mut self, slot: u32, turn: &mut Turn<'_>) {
        let owned = self.ledger.all_owned(slot);
        let mut left = Vec::with_capacity(owned.len());
        for thing in owned {
            left.push(match thing {
                Owned::Grant(_) if !gives_grants_back() => continue,
                Owned::Grant(grant) => {
                    Resource::Lock(self.locks.drop_grant(&mut self.ledger, grant))
                }
                Owned::Message(message) => {
                    Resource::Queue(self.queues.make_ready(&mut self.ledger, message))
                }
                Owned::Waiter(waiter) => {
                    self.end_wait(waiter, Outcome::refused(Code::SessionUnknown), turn)
                }
            });
        }
        self.ledger.remove_session(slot);
        self.advance(&left, turn);
    }

    /// Ends every session, the oldest first. Who waits leaves before anything becomes free, so that nobody is served
    /// on his way out: no message is delivered once more.
    pub(super) fn end_sessions(&mut self, turn: &mut Turn<'_>) {
        self.go_on_unfinished(turn);
        let sessions = self.ledger.all_living();
        let mut left = Vec::new();
        for (_, waiter) in self.ledger.all_waiters() {
            left.push(self.end_wait(waiter, Outcome::refused(Code::SessionUnknown), turn));
        }
        self.advance(&left, turn);
        for (_, session) in sessions {
            self.end_session(session, turn);
        }
    }

    /// Ends a wait with its outcome: somebody is told. What it waited for is named, and others may be next there.
    fn end_wait(&mut self, waiter: u32, outcome: Outcome, turn: &mut Turn<'_>) -> Resource {
        let resource = self.ledger.waiter(waiter).resource;
        let waitlist = match resource {
            Resource::Lock(lock) => self.locks.waitlist(lock),
            Resource::Queue(queue) => self.queues.waitlist(queue),
        };
        self.ledger.end_wait(waitlist, waiter, outcome, turn);
        resource
    }

    /// A wait's time ran out: whoever stood behind it may be next.
    pub(super) fn wait_ended(&mut self, waiter: u32, turn: &mut Turn<'_>) {
        let outcome = self.timeout(waiter, turn);
        let left = self.end_wait(waiter, outcome, turn);
        self.advance(&[left], turn);
    }

    /// What the call is told whose time to wait ran out.
    fn timeout(&self, waiter: u32, turn: &Turn<'_>) -> Outcome {
        let code = self.ledger.timeout(waiter, turn.now);
        match self.ledger.waiter(waiter).resource {
            Resource::Lock(lock) => self.locks.refusal(&self.ledger, lock, code),
            Resource::Queue(_) => Outcome::refused(code),
        }
    }

    /// Serves who is next in all that was left, each once, in the order given. An advance may forget
    /// what it advances, but nothing else: so what is left stays there until its turn.
    fn advance(&mut self, left: &[Resource], turn: &mut Turn<'_>) {
        let mut seen = BTreeSet::new();
        for resource in left.iter().filter(|resource| seen.insert(**resource)) {
            self.advance_one(*resource, turn);
        }
    }

    /// Serves who is next for a resource.
    pub(super) fn advance_one(&mut self, resource: Resource, turn: &mut Turn<'_>) {
        match resource {
            Resource::Lock(lock) => self.locks.advance(&mut self.ledger, lock, turn),
            Resource::Queue(queue) => self.queues.advance(&mut self.ledger, queue, turn),
        }
    }
}
