//! Exclusive locks never overlap, and fences rise.

use super::Violation;

/// A grant that arrived.
#[derive(Clone, Copy, Debug)]
pub struct Grant {
    /// The lock.
    pub name: u32,
    /// Who was granted it; not 0.
    pub holder: u32,
    /// The fence.
    pub fence: u64,
    /// When the grant arrived, in nanoseconds.
    pub at_ns: u64,
    /// Until when the holder may rely on it without another sign of life, in nanoseconds: the
    /// departure of the acquire plus the session's time to live.
    pub until_ns: u64,
}

/// What is known of one lock: 24 bytes.
#[derive(Clone, Copy, Default)]
struct Claim {
    /// 0 = nobody that we know of.
    holder: u32,
    fence_last: u64,
    until_ns: u64,
}

/// Watches exclusive locks, by the index of their name.
///
/// A holder's claim runs from the arrival of its grant to the departure of its release: within it
/// the lock is certainly held, so a second grant within it is certainly wrong.
pub struct LockCheck {
    claims: Vec<Claim>,
}

impl LockCheck {
    /// A check of `names` locks that nobody holds.
    pub fn new(names: usize) -> LockCheck {
        LockCheck { claims: vec![Claim::default(); names] }
    }

    /// An exclusive grant arrived.
    ///
    /// # Errors
    /// `lock-overlap` when another's claim still runs, `fence-not-rising` when the fence is not
    /// above the last one of this lock.
    pub fn granted(&mut self, grant: Grant) -> Result<(), Violation> {
        assert!(grant.holder != 0, "holder 0 means nobody");
        let claim = &mut self.claims[grant.name as usize];
        let before = *claim;
        claim.holder = grant.holder;
        claim.fence_last = grant.fence.max(before.fence_last);
        claim.until_ns = grant.until_ns;
        if before.holder != 0 && grant.at_ns < before.until_ns {
            let text = format!(
                "lock {} was granted to {} (fence {}) while {} held it (fence {})",
                grant.name, grant.holder, grant.fence, before.holder, before.fence_last
            );
            return Violation::new("lock-overlap", text);
        }
        if grant.fence <= before.fence_last {
            let text = format!(
                "lock {} was granted to {} with fence {} after fence {}",
                grant.name, grant.holder, grant.fence, before.fence_last
            );
            return Violation::new("fence-not-rising", text);
        }
        Ok(())
    }

    /// `holder` sends its release, or gave the lock up for lost: from here on another may hold it.
    pub fn given_up(&mut self, name: u32, holder: u32) {
        let claim = &mut self.claims[name as usize];
        if claim.holder == holder {
            claim.holder = 0;
        }
    }
}
