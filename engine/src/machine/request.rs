//! Requests to a shard: which service each is asked of.
//!
//! [`wire::Request`] is vetted: what is deterministic on a request alone is checked there and nowhere else. The gateway
//! vets a request before it proposes it. Applying vets the same bytes again, which costs a few nanoseconds and means
//! that no entry, from whatever leader, can bring a value out of range into the machine.
//!
//! Each service has a `request` that says what it does for each kind of its family.

use super::sessions::Verdict;
use super::{Applied, Machine, Outcome, Turn};
use crate::ids::SessionId;
use crate::level::Level;
use wire::message::SessionRequest;
use wire::{Code, Request};

/// A call, and whose it is.
#[derive(Clone, Copy)]
pub(super) struct SessionCall {
    /// The session's slot.
    pub(super) session: u32,
    /// The call's number.
    pub(super) sequence: u64,
}

impl Machine {
    /// Does what a request asks for.
    pub(super) fn request(&mut self, request: Request<'_>, turn: &mut Turn<'_>) -> Applied {
        if let Some(call) = request.call() {
            return self.call(call, turn, |machine, session, turn| {
                let asked = SessionCall { session, sequence: call.sequence };
                machine.operate(asked, request, turn)
            });
        }
        Applied::Done(match request {
            Request::Session(SessionRequest::SessionOpen(it)) => {
                self.open(SessionId(it.session), it.ttl_ms, turn)
            }
            Request::Session(SessionRequest::SessionClose(it)) => {
                self.close(SessionId(it.session), turn)
            }
            // A read is never proposed; one that is all the same reads nothing. Nor is what is no shard's.
            _ => Outcome::refused(Code::UnknownKind),
        })
    }

    fn operate(
        &mut self,
        asked: SessionCall,
        request: Request<'_>,
        turn: &mut Turn<'_>,
    ) -> Verdict {
        if self.ledger.level() < Level::BOUNDED
            && let Some(code) = self.settle_at_once(request, turn)
        {
            return Verdict::Now(Outcome::refused(code));
        }
        match request {
            Request::Lock(request) => self.locks.request(&mut self.ledger, asked, request, turn),
            Request::Queue(request) => self.queues.request(&mut self.ledger, asked, request, turn),
            Request::Cache(request) => self.cache.request(&mut self.ledger, request),
            Request::Session(_) | Request::Connection(_) | Request::Admin(_) => {
                Verdict::Now(Outcome::refused(Code::UnknownKind))
            }
        }
    }
}
