//! Requests to a shard: what each asks of its service.
//!
//! [`wire::Request`] is vetted: what is deterministic on a request alone is checked there and nowhere else. The gateway
//! vets a request before it proposes it. Applying vets the same bytes again, which costs a few nanoseconds and means
//! that no entry, from whatever leader, can bring a value out of range into the machine.

use super::locks::Acquire;
use super::sessions::Verdict;
use super::{Applied, Machine, Outcome, Turn};
use crate::ids::SessionId;
use wire::message::{self, CacheRequest, LockRequest, QueueRequest, SessionRequest};
use wire::{Code, Request};

/// What a line must be for a write to happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Expect {
    Any,
    Absent,
    Version(u64),
}

impl Expect {
    fn of(expect: message::Expect, version: u64) -> Expect {
        match expect {
            message::Expect::Any => Expect::Any,
            message::Expect::Absent => Expect::Absent,
            message::Expect::Version => Expect::Version(version),
        }
    }
}

/// A call, and whose it is.
pub(super) struct Asked {
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
                let asked = Asked { session, sequence: call.sequence };
                match request {
                    Request::Lock(request) => machine.lock_request(asked, request, turn),
                    Request::Queue(request) => machine.queue_request(asked, request, turn),
                    Request::Cache(request) => machine.cache_request(request),
                    Request::Session(_) | Request::Connection(_) | Request::Admin(_) => UNKNOWN,
                }
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
            _ => Outcome::Refused(Code::UnknownKind),
        })
    }

    fn lock_request(
        &mut self,
        Asked { session, sequence }: Asked,
        request: LockRequest<'_>,
        turn: &mut Turn<'_>,
    ) -> Verdict {
        match request {
            LockRequest::LockAcquire(it) => {
                let (name, wait_ms, lease_ms, mode) = (it.name, it.wait_ms, it.lease_ms, it.mode);
                let ask = Acquire { name, wait_ms, lease_ms, mode };
                self.acquire(session, sequence, ask, turn)
            }
            LockRequest::LockRelease(it) => {
                Verdict::Now(self.release(session, it.name, it.fence, turn))
            }
        }
    }

    fn queue_request(
        &mut self,
        Asked { session, sequence }: Asked,
        request: QueueRequest<'_>,
        turn: &mut Turn<'_>,
    ) -> Verdict {
        Verdict::Now(match request {
            QueueRequest::QueuePop(it) => {
                return self.pop(session, sequence, it.name, it.wait_ms, it.visibility_ms, turn);
            }
            QueueRequest::QueuePush(it) => self.push(it.name, it.priority, it.payload, turn),
            QueueRequest::QueueAck(it) => self.ack(it.name, it.id, it.delivery, turn),
            QueueRequest::QueueNack(it) => {
                self.nack(it.name, it.id, it.delivery, it.delay_ms, turn)
            }
        })
    }

    fn cache_request(&mut self, request: CacheRequest<'_>) -> Verdict {
        Verdict::Now(match request {
            CacheRequest::CachePut(it) => {
                let expect = Expect::of(it.expect, it.version);
                self.cache.put(&mut self.ledger, it.key, it.value, it.ttl_ms, expect)
            }
            CacheRequest::CacheDelete(it) => {
                let expect = Expect::of(it.expect, it.version);
                self.cache.delete(&mut self.ledger, it.key, expect)
            }
            CacheRequest::CacheGet(_) => return UNKNOWN,
        })
    }
}

/// What is no call of a shard.
const UNKNOWN: Verdict = Verdict::Now(Outcome::Refused(Code::UnknownKind));
