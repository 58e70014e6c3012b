//! When sessions were last renewed: a leader's memory, and what it proposes renewals from.
//!
//! Signs of life are not logged one by one. A session is renewed when a sign of life comes at least
//! an eighth of its time to live after its last renewal; all renewals of a turn are one entry. The
//! machine's own deadline is five quarters of the time to live after the renewal that it applied, and
//! a client is told `Alive` only while that leaves it a whole time to live: so no session is
//! ended early, even when the leader dies before the renewal that this sign of life caused.

use crate::ids::SessionId;
use crate::limits::RENEWALS_PER_ENTRY_MAX;
use crate::secret::Secret;
use crate::time::{Duration, Time};
use alloc::vec::Vec;
use hashbrown::HashTable;

/// How often a session is renewed within its time to live, at most.
const RENEWALS_PER_TTL: u32 = 8;

struct Renewal {
    session: SessionId,
    renewed_at: Time,
}

/// The renewals of one group's sessions.
pub struct Liveness {
    renewed: HashTable<Renewal>,
    /// Sessions for the next renewal entry.
    due: Vec<SessionId>,
    /// Clients choose their sessions' ids.
    secret: Secret,
}

impl Liveness {
    /// No session is known.
    pub fn new(secret: Secret) -> Liveness {
        Liveness { renewed: HashTable::new(), due: Vec::new(), secret }
    }

    /// A sign of life. `ttl` is the session's time to live.
    pub fn touch(&mut self, now: Time, session: SessionId, ttl: Duration) {
        if self.due.len() >= RENEWALS_PER_ENTRY_MAX {
            return; // The next sign of life renews it.
        }
        let (secret, key) = (self.secret, self.secret.hash(&session.0));
        match self.renewed.find_mut(key, |r| r.session == session) {
            Some(record) if now.since(record.renewed_at) < ttl / RENEWALS_PER_TTL => return,
            Some(record) => record.renewed_at = now,
            None => {
                let record = Renewal { session, renewed_at: now };
                self.renewed.insert_unique(key, record, |r| secret.hash(&r.session.0));
            }
        }
        self.due.push(session);
    }

    /// Writes down the sessions to renew, as the payload of a renewal entry. They stay due until
    /// [`Liveness::on_proposed`]: the entry may be refused.
    pub fn write_due(&self, payload: &mut Vec<u8>) {
        payload.clear();
        self.due.iter().for_each(|session| payload.extend_from_slice(&session.0));
    }

    /// Whether a session is to be renewed.
    pub fn is_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// The entry that renews them was proposed.
    pub fn on_proposed(&mut self) {
        self.due.clear();
    }

    /// Forgets sessions that `lives` does not know any more.
    pub fn sweep(&mut self, mut lives: impl FnMut(SessionId) -> bool) {
        self.renewed.retain(|record| lives(record.session));
    }

    /// Forgets everything: this node leads no more.
    pub fn clear(&mut self) {
        self.renewed.clear();
        self.due.clear();
    }

    /// How many sessions are remembered.
    pub fn len(&self) -> usize {
        self.renewed.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_renewed_now_and_then_and_forgotten_when_it_ended() {
        let (mut liveness, mut payload) = (Liveness::new(Secret::new([7; 16])), Vec::new());
        let (session, ttl) = (SessionId([1; 16]), Duration::from_secs(8));
        liveness.touch(Time(0), session, ttl);
        for _ in 0..2 {
            liveness.write_due(&mut payload);
            assert_eq!(payload, [1; 16], "until it is proposed");
        }
        liveness.on_proposed();
        liveness.touch(Time(999_999_999), session, ttl);
        assert!(!liveness.is_due(), "too soon after the last renewal");
        liveness.touch(Time(1_000_000_000), session, ttl);
        assert!(liveness.is_due());
        liveness.sweep(|_| false);
        assert!(liveness.len() == 0);
    }
}
