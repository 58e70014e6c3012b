//! What the levels below [`Level::BOUNDED`] do at once, within the entry that comes upon it.
//!
//! From that level on an operation takes a bounded number of steps, and a service looks after its own rows. Below it,
//! all that is due of a lock or of a delivery happens before an operation on it: sessions end there, with all that they
//! have in any service. So it is done here, before the service is called.

use super::{Machine, Turn};
use crate::level::Level;
use wire::message::{LockRequest, QueueAck, QueueNack, QueueRequest};
use wire::{Code, Request};

impl Machine {
    /// Does what is due of what a request is on. It may be refused for it.
    pub(super) fn settle_at_once(
        &mut self,
        request: Request<'_>,
        turn: &mut Turn<'_>,
    ) -> Option<Code> {
        assert!(self.ledger.level() < Level::BOUNDED, "work is bounded from that level on");
        if !self.ledger.is_overdue(turn.now) && !self.ledger.has_unfinished() {
            return None;
        }
        match request {
            Request::Lock(LockRequest::LockAcquire(_) | LockRequest::LockRelease(_)) => {
                let name = request.name().expect("a lock has a name");
                self.settle_lock_at_once(name, turn);
                None
            }
            Request::Queue(
                QueueRequest::QueueAck(QueueAck { name, id, .. })
                | QueueRequest::QueueNack(QueueNack { name, id, .. }),
            ) => {
                let session = self.queues.outlived(&self.ledger, name, id)?;
                self.expire_session(session, turn);
                Some(Code::StaleDelivery)
            }
            _ => None,
        }
    }

    /// If something of a lock is due and has not fired, all of it fires here.
    fn settle_lock_at_once(&mut self, name: &[u8], turn: &mut Turn<'_>) {
        // What was due may be gone with a session that ended meanwhile, and the lock too.
        for fence in self.locks.due(&self.ledger, name) {
            if let Some(session) = self.locks.end_due(&mut self.ledger, name, fence, turn) {
                self.expire_session(session, turn);
            }
        }
        self.locks.advance_named(&mut self.ledger, name, turn);
    }
}
