//! Whose turn it is in this client: threads that share it exclude each other.
//!
//! To a shard a client is one session, and a session that asks for what it holds is granted it again. So an acquire
//! that the client's own guards don't admit waits here, first come, first served, and is sent when it is
//! its turn. ([`Again::IsSent`] turns that off.)
//!
//! # Invariants
//! - Of one name there are, sent or granted, not over and not given back, one exclusive acquire or any number of
//!   shared ones.
//! - An acquire that was granted is counted until its release is answered or its grant has surely ended, as the shard
//!   counts it: a release of one guard takes no other guard's turn.
//! - A name that nobody holds has nobody in line, and no record.

use super::ask::{Ask, LockStep, Mode, Reply};
use super::calls::Place;
use super::outcome::{Outcome, Said, Standing};
use super::time::{Moment, millis};
use super::{Again, CallId, Core, SessionId, SessionKey};
use crate::limits::TURN_LOOK;
use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::time::Duration;
use wire::Code;

/// The turns of all names.
#[derive(Default)]
pub(super) struct Turns {
    names: BTreeMap<Box<[u8]>, Turn>,
}

/// A name that is asked for or held.
#[derive(Default)]
struct Turn {
    holders: Vec<Holder>,
    line: VecDeque<(CallId, Mode)>,
}

struct Holder {
    mode: Mode,
    by: By,
    /// When its lease is over by every clock: from then on it is in nobody's way, though its release may still come.
    over: Moment,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    /// It is asked for.
    Call(CallId),
    /// It was granted, in this session.
    Grant { session: SessionId, fence: u64 },
}

impl Turn {
    fn admits(&self, now: Moment, mode: Mode) -> bool {
        let shared = |holder: &Holder| holder.mode == Mode::Shared && mode == Mode::Shared;
        self.holders.iter().all(|holder| holder.over <= now || shared(holder))
    }

    /// An acquire was not granted, or one of a grant was given back. Guards of one grant have one fence, and a release
    /// does not say whose it is. Of their leases the longest counts in the shard, so that one stays.
    fn end(&mut self, gone: By) {
        let holders = self.holders.iter().enumerate();
        let first = holders.filter(|(_, holder)| holder.by == gone).min_by_key(|(_, h)| h.over);
        if let Some((at, _)) = first {
            self.holders.swap_remove(at);
        }
    }
}

impl<A: Ask> Core<A> {
    /// Whether it is the turn of an acquire; else it is in line, or refused. Any other call has its turn.
    #[inline]
    pub(super) fn takes_turn(&mut self, now: Moment, id: CallId) -> bool {
        if self.settings.again == Again::IsSent {
            return true;
        }
        let call = &self.calls[id.0];
        let Some(LockStep::Acquire { mode, .. }) = call.ask.lock_step() else { return true };
        let wait_ms = call.ask.wait_ms();
        let turn = self.turns.names.entry(Box::from(call.ask.name())).or_default();
        if turn.line.is_empty() && turn.admits(now, mode) {
            turn.holders.push(Holder { mode, by: By::Call(id), over: Moment::MAX });
            return true;
        }
        if wait_ms == 0 {
            self.refuse_turn(now, id, Code::LockHeld);
            return false;
        }
        turn.line.push_back((id, mode));
        self.place(id, Place::Turn(now + TURN_LOOK));
        false
    }

    /// Looks whether a call that is in line waited as long as it wanted to, or whether a lease is over.
    pub(super) fn look_at_turn(&mut self, now: Moment, id: CallId) {
        let call = &self.calls[id.0];
        if now >= call.begun + Duration::from_millis(u64::from(call.ask.wait_ms())) {
            return self.refuse_turn(now, id, Code::LockTimeout);
        }
        let name = Box::from(call.ask.name());
        self.place(id, Place::Turn(now + TURN_LOOK));
        self.next_turn(now, &name);
    }

    fn refuse_turn(&mut self, now: Moment, id: CallId, code: Code) {
        let text = Cow::Borrowed(&b"another guard of this client has it"[..]);
        let said = Said { code: code.number(), text, detail: None };
        self.refuse(now, id, Outcome::Refused { code, by: None, said });
    }

    /// A call was answered: what it says of a turn.
    #[inline]
    pub(super) fn turn_granted(
        &mut self,
        now: Moment,
        id: CallId,
        (ask, session): (&A, SessionKey),
        reply: &Reply<'_>,
        standing: Option<Standing>,
    ) {
        let Some(LockStep::Acquire { lease_ms, .. }) = ask.lock_step() else {
            return self.turn_over(now, id, (ask, session));
        };
        let Some(turn) = self.turns.names.get_mut(ask.name()) else { return };
        if let (Reply::Done { token: fence, .. }, Some(standing)) = (reply, standing)
            && let Some(holder) = turn.holders.iter_mut().find(|h| h.by == By::Call(id))
        {
            let by = By::Grant { session: standing.session, fence: *fence };
            holder.by = by;
            // It began before the answer came. A server's clock may be a twentieth slower.
            let lease = Duration::from_millis(u64::from(lease_ms));
            if !lease.is_zero() {
                holder.over = now + lease + lease / 20;
            }
            // Of what is over, the shard counts only what is of this grant.
            turn.holders.retain(|holder| holder.over > now || holder.by == by);
        }
    }

    /// A call is over: an acquire that was not granted, or a release.
    #[inline]
    pub(super) fn turn_over(&mut self, now: Moment, id: CallId, of: (&A, SessionKey)) {
        if let Some(step) = of.0.lock_step() {
            self.end_turn(now, id, of, step);
        }
    }

    fn end_turn(&mut self, now: Moment, id: CallId, of: (&A, SessionKey), step: LockStep) {
        let (ask, session) = of;
        let gone = match step {
            LockStep::Acquire { .. } => By::Call(id),
            LockStep::Release { fence } => By::Grant { session: self.session_id(session), fence },
        };
        let name = ask.name();
        let Some(turn) = self.turns.names.get_mut(name) else { return };
        turn.line.retain(|(waits, _)| *waits != id);
        turn.end(gone);
        self.next_turn(now, name);
    }

    /// A session has ended: nothing is held by it.
    pub(super) fn end_turns(&mut self, now: Moment, ended: SessionId) {
        let names: Vec<Box<[u8]>> = self.turns.names.keys().cloned().collect();
        for name in names {
            if let Some(turn) = self.turns.names.get_mut(&name) {
                let of_old = |by| matches!(by, By::Grant { session, .. } if session == ended);
                turn.holders.retain(|holder| !of_old(holder.by));
            }
            self.next_turn(now, &name);
        }
    }

    /// Sends the acquires whose turn it is now.
    fn next_turn(&mut self, now: Moment, name: &[u8]) {
        while let Some(turn) = self.turns.names.get_mut(name) {
            let Some((id, mode)) = turn.line.front().copied() else {
                if turn.holders.is_empty() {
                    self.turns.names.remove(name);
                }
                return;
            };
            if !turn.admits(now, mode) {
                return;
            }
            turn.line.pop_front();
            let Some(call) = self.calls.get_mut(id.0) else { continue };
            turn.holders.push(Holder { mode, by: By::Call(id), over: Moment::MAX });
            // What is left of its wait, and no less than a try that waits a moment.
            let passed = millis(now.since(call.begun));
            call.ask.set_wait_ms(call.ask.wait_ms().saturating_sub(passed).max(1));
            self.dispatch(now, id);
        }
    }
}
