//! How the client ends: nothing new, the sessions closed, then everything gone.

use super::ask::Ask;
use super::outcome::{Doubt, End, Event, Failure};
use super::seats::close;
use super::time::Moment;
use super::turns::Turns;
use super::{Core, LinkId, Phase};
use alloc::vec::Vec;
use core::time::Duration;

impl<A: Ask> Core<A> {
    /// Takes nothing new, gives every open call up, and closes the sessions wherever they are open. When that is
    /// done, or `limit` has passed, it says [`Event::Left`].
    pub fn leave(&mut self, now: Moment, limit: Duration) {
        if self.phase != Phase::Running {
            return;
        }
        self.stop_calls(now);
        self.phase = Phase::Leaving;
        self.end_sessions();
        for key in self.session_keys() {
            let session = &self.sessions[key.0 as usize];
            let id = session.id;
            for shard in session.shards_taken() {
                self.take(now, shard, close(A::close_session(id), key, limit));
            }
        }
        if self.calls.is_empty() {
            self.event(Event::Left);
        }
    }

    /// Ends it all: every call, every connection.
    pub fn vanish(&mut self, now: Moment) {
        if self.phase == Phase::Gone {
            return;
        }
        self.stop_calls(now);
        self.phase = Phase::Gone;
        self.unready = None;
        self.end_sessions();
        let links: Vec<LinkId> = self.links.iter().map(|(key, _)| LinkId(key)).collect();
        for link in links {
            self.links.remove(link.0);
            self.event(Event::Close { link });
        }
        self.by_key.clear();
        self.ways.fill(None);
    }

    /// What sessions hold is lost from now on to whoever holds it by them.
    fn end_sessions(&mut self) {
        for key in self.session_keys() {
            let id = self.session_id(key);
            self.event(Event::Ended { session: key, id, why: End::Closed });
        }
    }

    fn stop_calls(&mut self, now: Moment) {
        // Nothing that is freed here may be dispatched again.
        self.turns = Turns::default();
        for session in &mut self.sessions {
            for (_, seat) in session.seats_mut() {
                seat.waiting.clear();
                seat.owed.clear();
            }
        }
        for id in self.calls_that(|_| true) {
            let failure = match self.calls[id.0].may_be_applied() {
                true => Failure::Unknown(Doubt::Closed),
                false => Failure::Closed,
            };
            self.fail(now, id, failure);
        }
    }
}
