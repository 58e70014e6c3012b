//! What a simulated client asks for, as the client's core keeps it.

use super::calls::{Did, Stamp, payload};
use client::core::{Ask, LockStep, Mode, Reply, SessionId};
use wire::request::Facts;
use wire::{Call, Request};

/// The time to live that a session is opened with by hand, in milliseconds.
const REOPENED_TTL_MS: u32 = 2_000;

/// A request: what it does, and what is needed to write it.
#[derive(Clone, Debug)]
pub(super) struct Want {
    pub did: Did,
    name: Vec<u8>,
    value_bytes_max: usize,
    /// The session that it is about, where that is not the one by which it is asked.
    of: Option<SessionId>,
}

impl Want {
    pub fn new(did: Did, value_bytes_max: usize) -> Want {
        let name = did.name();
        let of = match did {
            Did::Reopen { session, .. } => Some(session),
            _ => None,
        };
        Want { did, name, value_bytes_max, of }
    }

    fn request<'a>(&'a self, call: Call, carried: &'a [u8]) -> Request<'a> {
        let Call { session, sequence, answered_below } = call;
        let session = self.of.unwrap_or(session);
        let session_ttl_ms = REOPENED_TTL_MS;
        self.did.request(
            Stamp { session, sequence, answered_below, session_ttl_ms },
            &self.name,
            carried,
        )
    }

    fn carried(&self) -> Vec<u8> {
        match self.did {
            Did::Put { value, .. } | Did::Push { value, .. } => {
                payload(value, self.value_bytes_max)
            }
            _ => Vec::new(),
        }
    }
}

impl Ask for Want {
    fn facts(&self) -> &'static Facts {
        let none = Call { session: [0; 16], sequence: 0, answered_below: 0 };
        self.request(none, &[]).facts()
    }

    fn name(&self) -> &[u8] {
        &self.name
    }

    fn wait_ms(&self) -> u32 {
        match self.did {
            Did::Acquire { wait_ms, .. } | Did::Pop { wait_ms, .. } => wait_ms,
            _ => 0,
        }
    }

    fn set_wait_ms(&mut self, to_ms: u32) {
        if let Did::Acquire { wait_ms, .. } | Did::Pop { wait_ms, .. } = &mut self.did {
            *wait_ms = to_ms;
        }
    }

    fn lock_step(&self) -> Option<LockStep> {
        match self.did {
            Did::Acquire { exclusive, lease_ms, .. } => {
                let mode = if exclusive { Mode::Exclusive } else { Mode::Shared };
                Some(LockStep::Acquire { mode, lease_ms })
            }
            Did::Release { fence, .. } => Some(LockStep::Release { fence }),
            _ => None,
        }
    }

    fn bytes(&self) -> usize {
        self.name.len() + self.carried().len()
    }

    fn encode(&self, call: Call, out: &mut Vec<u8>) {
        self.request(call, &self.carried()).encode(out);
    }

    fn undo(&self, reply: &Reply<'_>) -> Option<Want> {
        let did = match (&self.did, reply) {
            (Did::Acquire { lock, .. }, Reply::Done { token: fence, .. }) => {
                Did::Release { lock: *lock, fence: *fence }
            }
            (Did::Pop { queue, .. }, Reply::Delivery { id, delivery, .. }) => {
                Did::Nack { queue: *queue, id: *id, delivery: *delivery, delay_ms: 0 }
            }
            _ => return None,
        };
        Some(Want::new(did, self.value_bytes_max))
    }

    fn close_session(session: SessionId) -> Want {
        // Its shard is where it is sent.
        let of = Some(session);
        Want { did: Did::Close { shard: u32::MAX }, name: Vec::new(), value_bytes_max: 0, of }
    }
}
