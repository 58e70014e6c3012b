//! What only the simulator and the tests look at: the locks' invariants, and their rows in one order.

use super::codec::put_whole;
use super::{FEW_GRANTS, Locks, admitted};
use crate::machine::inspect::{put_sorted, row};
use crate::machine::ledger::{Ask, Census, Ledger, Owned, Resource};
use crate::time::Elapsed;
use alloc::vec::Vec;
use wire::message::LockMode;

impl Locks {
    /// Looks at every lock and every grant.
    ///
    /// # Panics
    /// When an invariant does not hold.
    pub(in crate::machine) fn verify(&self, ledger: &Ledger, census: &mut Census) {
        let mut grants = 0;
        for (slot, lock) in self.locks.iter() {
            let next = admitted(ledger, lock);
            ledger.verify_waitlist(&lock.waitlist, Resource::Lock(slot), next, census);
            assert!(next > 0 || !lock.grants.is_empty(), "a free lock has no record");
            assert!(
                lock.mode == LockMode::Shared || lock.grants.len() < 2,
                "exclusive stands alone"
            );
            let mut last = 0;
            for grant_slot in lock.grants.iter(&self.grants) {
                let grant = &self.grants[grant_slot];
                grants += 1;
                census.timers += usize::from(grant.deadline != Elapsed::MAX);
                assert!(grant.fence > last, "grants are in the order of their fences");
                assert!(grant.lock == slot && grant.count > 0);
                let owned = ledger.owned(grant.session, grant.fence);
                assert_eq!(owned, Some(Owned::Grant(grant_slot)), "a session knows its grants");
                assert_eq!(self.grant_of(slot, grant.session), Some(grant_slot));
                last = grant.fence;
            }
            for waiter in ledger.waiters_in(&lock.waitlist) {
                assert!(matches!(waiter.wait.ask, Ask::Lock { .. }), "it asks for the lock");
                assert_eq!(waiter.wait.name, lock.name, "it says the lock's name");
                let holds = |g: u32| self.grants[g].session == waiter.wait.session;
                assert!(!lock.grants.iter(&self.grants).any(holds), "no holder waits");
            }
        }
        assert_eq!(grants, self.grants.len(), "every grant is in its lock's list");
        census.grants += grants;
        let crowds = self.locks.iter().map(|(_, lock)| lock.grants.len());
        let crowded: usize = crowds.filter(|grants| *grants > FEW_GRANTS).sum();
        assert_eq!(self.crowded.len(), crowded, "a crowded lock's grants, and no others");
    }

    /// Appends every lock, sorted by its bytes.
    pub(in crate::machine) fn put_sorted(&self, ledger: &Ledger, out: &mut Vec<u8>) {
        let write = |(_, lock)| row(|out| put_whole(out, lock, &self.grants, ledger));
        put_sorted(out, self.locks.iter().map(write));
    }
}
