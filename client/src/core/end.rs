//! How the client ends: nothing new, the session closed, then everything gone.

use super::turns::Turns;
use super::{Phase, Request, State};
use crate::call::{CallId, Op};
use crate::clock::Moment;
use crate::error::Error;
use crate::pending::Slot;
use std::sync::Arc;
use std::time::Duration;

impl State {
    /// Takes nothing new, gives every open call up, and closes the session wherever it is open.
    /// The slots are done when that is done.
    pub fn leave(&mut self, now: Moment, limit: Duration) -> Vec<Arc<Slot>> {
        // Whoever comes second waits for the same.
        if self.phase != Phase::Running {
            return self.closing.clone();
        }
        self.stop_calls(now);
        self.phase = Phase::Leaving;
        let session = self.session.life.id;
        let shards = self.seats_taken();
        self.end_life("the client was closed");
        let mut slots = Vec::new();
        for shard in shards {
            let slot = Arc::<Slot>::default();
            let op = Op::CloseSession { session };
            let request = Request { op, slot: Some(Arc::clone(&slot)), limit, bound: None };
            self.submit_to_shard(now, shard, request);
            slots.push(slot);
        }
        self.closing.clone_from(&slots);
        slots
    }

    /// Ends it all: every call, every connection.
    pub fn vanish(&mut self, now: Moment) {
        self.stop_calls(now);
        self.phase = Phase::Gone;
        self.closing.clear();
        self.end_life("the client was closed");
        if let Some((slot, ..)) = self.ready.take() {
            self.out.done.push((slot, Err(Error::Closed { subject: String::from("connect") })));
        }
        for link in std::mem::take(&mut self.links).into_values() {
            link.outbox.kill();
        }
        self.by_key.clear();
    }

    fn stop_calls(&mut self, now: Moment) {
        // Nothing that is freed here may be dispatched again.
        self.turns = Turns::default();
        let open: Vec<CallId> = self.calls.keys().copied().collect();
        for seat in self.session.seats.values_mut() {
            seat.waiting.clear();
            seat.owed.clear();
        }
        for id in open {
            let call = &self.calls[&id];
            let subject = call.op.to_string();
            let error = if call.may_be_applied() {
                Error::OutcomeUnknown { subject, why: String::from("the client was closed") }
            } else {
                Error::Closed { subject }
            };
            self.finish(now, id, Err(error));
        }
    }
}
