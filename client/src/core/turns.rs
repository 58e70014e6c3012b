//! Whose turn it is in this client: threads that share it exclude each other.
//!
//! To a shard a client is one session, and a session that asks for what it holds is granted it again. So an acquire
//! that the client's own guards don't admit waits here, first come, first served, and is sent when it is
//! its turn.
//!
//! # Invariants
//! - Of one name there are, sent or granted and not given back, one exclusive acquire or any number of shared ones.
//! - A name that nobody holds has nobody in line, and no record.

use super::State;
use crate::call::{CallId, Mode, Op, Place, Reply, SessionId};
use crate::clock::{Moment, millis};
use crate::error::Error;
use crate::limits::TURN_LOOK;
use crate::pending::Outcome;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;
use wire::Code;

/// The turns of all names.
#[derive(Default)]
pub(crate) struct Turns {
    names: HashMap<Vec<u8>, Turn>,
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
    /// When its lease is over by every clock, whether or not it was given back.
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
    fn admits(&self, mode: Mode) -> bool {
        let shared = |holder: &Holder| holder.mode == Mode::Shared && mode == Mode::Shared;
        self.holders.iter().all(shared)
    }
}

impl State {
    /// Whether it is the turn of an acquire; else it is in line, or refused. Any other call has its turn.
    pub(super) fn takes_turn(&mut self, now: Moment, id: CallId) -> bool {
        let call = &self.calls[&id];
        let Op::Acquire { name, mode, wait_ms, .. } = &call.op else { return true };
        let (mode, wait_ms) = (*mode, *wait_ms);
        let turn = self.turns.names.entry(name.clone()).or_default();
        if turn.line.is_empty() && turn.admits(mode) {
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
        let call = &self.calls[&id];
        let Op::Acquire { name, wait_ms, .. } = &call.op else {
            unreachable!("only acquires are in line")
        };
        if now >= call.begun + Duration::from_millis(u64::from(*wait_ms)) {
            return self.refuse_turn(now, id, Code::LockTimeout);
        }
        let name = name.clone();
        self.place(id, Place::Turn(now + TURN_LOOK));
        if let Some(turn) = self.turns.names.get_mut(&name) {
            turn.holders.retain(|holder| holder.over > now);
        }
        self.next_turn(now, &name);
    }

    fn refuse_turn(&mut self, now: Moment, id: CallId, code: Code) {
        let subject = self.calls[&id].op.to_string();
        let text = String::from("another guard of this client has it");
        let node = String::from("this client");
        self.finish(now, id, Err(Error::Refused { code, subject, node, text }));
    }

    /// A call is finished: what it says of a turn.
    pub(super) fn follow_turn(&mut self, now: Moment, id: CallId, op: &Op, outcome: &Outcome) {
        let (name, gone) = match (op, outcome) {
            (Op::Acquire { name, lease_ms, .. }, Ok(answer)) => {
                let Some(turn) = self.turns.names.get_mut(name) else { return };
                if let (Reply::Token(fence), Some(tenure)) = (&answer.reply, &answer.tenure)
                    && let Some(holder) = turn.holders.iter_mut().find(|h| h.by == By::Call(id))
                {
                    holder.by = By::Grant { session: tenure.life.id, fence: *fence };
                    // It began before the answer came. A server's clock may be a twentieth slower.
                    let lease = Duration::from_millis(u64::from(*lease_ms));
                    if !lease.is_zero() {
                        holder.over = now + lease + lease / 20;
                    }
                }
                return;
            }
            (Op::Acquire { name, .. }, Err(_)) => (name, By::Call(id)),
            (Op::Release { name, fence }, _) => {
                (name, By::Grant { session: self.session.life.id, fence: *fence })
            }
            _ => return,
        };
        let Some(turn) = self.turns.names.get_mut(name) else { return };
        turn.line.retain(|(waits, _)| *waits != id);
        if let Some(at) = turn.holders.iter().position(|holder| holder.by == gone) {
            turn.holders.swap_remove(at);
        }
        self.next_turn(now, name);
    }

    /// A session has ended: nothing is held by it.
    pub(super) fn end_turns(&mut self, now: Moment, ended: SessionId) {
        let names: Vec<Vec<u8>> = self.turns.names.keys().cloned().collect();
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
            if !turn.admits(mode) {
                return;
            }
            turn.line.pop_front();
            let Some(call) = self.calls.get_mut(&id) else { continue };
            turn.holders.push(Holder { mode, by: By::Call(id), over: Moment::MAX });
            if let Op::Acquire { wait_ms, .. } = &mut call.op {
                // What is left of its wait, and no less than a try that waits a moment.
                let passed = millis(now.since(call.begun));
                *wait_ms = wait_ms.saturating_sub(passed).max(1);
            }
            self.dispatch(now, id);
        }
    }
}
