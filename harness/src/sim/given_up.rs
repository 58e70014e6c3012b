//! Calls that clients give up while they are open: what they bring stays with nobody.
//!
//! A call that waits may be cancelled: later calls say that it was answered, and its client hears what came of it. Any
//! call may be abandoned: its client never hears of it again, and the core gives back what it brings. So a client that
//! has nothing open and knows of nothing that it holds must hold nothing.

use super::calls::{Did, Record, Saw};
use super::client::{Client, SESSION, moment};
use super::clients::History;
use super::twin::{Id, Twin};
use client::core::CallId;
use engine::time::Time;
use std::collections::BTreeSet;

/// A call that waits is cancelled, one time in so many that its client looks.
const CANCELS_ONE_IN: u32 = 80;
/// A call that waits is abandoned, one time in so many that its client looks.
const ABANDONS_ONE_IN: u32 = 60;
/// So is any other.
const ABANDONS_OTHERS_ONE_IN: u32 = 400;

/// How a client left a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Left {
    /// It waits for its answer.
    No,
    Cancelled,
    Abandoned,
}

/// What a client gave up.
#[derive(Default)]
pub(super) struct GivenUp {
    abandoned: BTreeSet<CallId>,
    /// What abandoned pops brought: shard, message and delivery.
    brought: Vec<(u32, u64, u32)>,
    /// A session of which nobody knows whether a cancelled call brought it a lock.
    uncertain: Option<Id>,
}

impl Client {
    /// Some calls are given up.
    pub(super) fn give_up(&mut self, now: Time, history: &mut History) {
        for open in &mut self.open {
            if open.did.waits() && self.chance.u32(..CANCELS_ONE_IN) == 0 {
                open.given_up = true;
                self.core.cancel(open.call);
            }
        }
        for at in (0..self.open.len()).rev() {
            // It came to its end, and its client is told at once.
            let is_over = self.core.ask(self.open[at].call).is_none();
            let waits = self.open[at].did.waits();
            let one_in = if waits { ABANDONS_ONE_IN } else { ABANDONS_OTHERS_ONE_IN };
            if !is_over && !self.open[at].given_up && self.chance.u32(..one_in) == 0 {
                let open = self.open.remove(at);
                self.core.abandon(moment(now), open.call);
                self.given_up.abandoned.insert(open.call);
                let (client, did, invoked) = (self.id, open.did, open.invoked);
                let saw = Saw::Unknown;
                history.records.push(Record { client, did, invoked, replied: now, saw });
            }
        }
    }

    /// How a call was left.
    pub(super) fn left(&self, call: CallId) -> Left {
        let cancelled = self.open.iter().any(|open| open.call == call && open.given_up);
        match cancelled {
            true => Left::Cancelled,
            false if self.given_up.abandoned.contains(&call) => Left::Abandoned,
            false => Left::No,
        }
    }

    /// A node answered a call, which was perhaps abandoned.
    pub(super) fn note_brought(&mut self, call: CallId, shard: u32, saw: Saw) {
        if let (Left::Abandoned, Saw::Message { id, delivery, .. }) = (self.left(call), saw) {
            self.given_up.brought.push((shard, id, delivery));
        }
    }

    /// Nobody knows what a call came to.
    pub(super) fn note_unknown(&mut self, did: &Did) {
        if matches!(did, Did::Acquire { .. }) {
            self.given_up.uncertain = Some(self.core.session_id(SESSION));
        }
    }

    /// A client that has nothing open and knows of nothing that it holds, holds nothing.
    ///
    /// # Errors
    /// What it holds.
    pub(super) fn holds_nothing_unknown(&mut self, twins: &[Twin]) -> Result<(), String> {
        let session = self.core.session_id(SESSION);
        if !self.is_idle() || self.given_up.uncertain == Some(session) {
            return Ok(());
        }
        let id = self.id;
        for (twin, shard) in twins.iter().zip(0..) {
            if let Some(lock) = twin.lock_of(session) {
                let lock = lock.escape_ascii();
                return Err(format!(
                    "client {id}, shard {shard}: it holds {lock} and does not know"
                ));
            }
        }
        for (shard, message, delivery) in self.given_up.brought.drain(..) {
            let twin = &twins[shard as usize];
            let token = twin.told.get(&message);
            if token.is_some_and(|token| twin.is_in_flight(*token, delivery)) {
                let what = "is kept from others, and whoever popped it is gone";
                return Err(format!("client {id}, shard {shard}: message {message} {what}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Shape;
    use super::super::clients::Load;
    use super::super::seats::Layout;
    use super::super::witness::tests::Log;
    use super::*;
    use wire::random::Random;

    fn client() -> Client {
        let load = Load {
            clients: 1,
            pause_millis_max: 25,
            hold_millis_max: 400,
            push_percent: 13,
            window_max: 4,
        };
        Client::new(0, 8, (3, Layout::of(0, Shape::Drawn)), load, Random::new(7))
    }

    #[test]
    fn a_lock_that_a_client_does_not_know_of_is_caught_unless_nobody_could_know() {
        let (mut client, mut log) = (client(), Log::new());
        let session = client.core.session_id(SESSION);
        log.open(session);
        let twins = |log: Log| [log.twin, Log::new().twin];
        let acquire = Did::Acquire { lock: 0, exclusive: true, wait_ms: 0, lease_ms: 0 };
        log.call_of(session, 1, &acquire);
        let twins = twins(log);
        let held = client.holds_nothing_unknown(&twins);
        assert!(held.unwrap_err().contains("does not know"));
        client.note_unknown(&acquire);
        assert_eq!(client.holds_nothing_unknown(&twins), Ok(()));
    }

    #[test]
    fn a_message_that_an_abandoned_pop_took_and_nobody_gave_back_is_caught() {
        let (mut client, mut log) = (client(), Log::new());
        let session = client.core.session_id(SESSION);
        log.open(session);
        log.call_of(session, 1, &Did::Push { queue: 0, value: 7, priority: 0 });
        let pop = Did::Pop { queue: 0, wait_ms: 0, visibility_ms: 1_000 };
        log.call_of(session, 2, &pop);
        let made = log.twin.messages[0].id;
        log.twin.told.insert(5, made);
        log.twin.numbers.insert(made, 5);
        client.given_up.brought.push((0, 5, 1));
        let mut twins = [log.twin, Log::new().twin];
        let kept = client.holds_nothing_unknown(&twins);
        assert!(kept.unwrap_err().contains("kept from others"));
        client.given_up.brought.push((0, 5, 1));
        twins[0].messages[0].place = super::super::twin::Place::Ready;
        assert_eq!(client.holds_nothing_unknown(&twins), Ok(()));
    }
}
