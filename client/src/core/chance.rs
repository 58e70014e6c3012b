//! Chance, from one seed: pauses that spread clients out, and the ids of sessions.

use crate::core::SessionId;
use core::time::Duration;
use siphasher::sip128::{Hasher128, SipHasher24};
use wire::random::Random;

/// All that is drawn by chance.
pub(super) struct Chance {
    seed: [u8; 16],
    /// How many ids were made.
    ids: u64,
    pauses: Random,
}

impl Chance {
    pub fn new(seed: [u8; 16]) -> Chance {
        let half = seed.first_chunk::<8>().expect("a seed has 16 bytes");
        Chance { seed, ids: 0, pauses: Random::new(u64::from_le_bytes(*half)) }
    }

    /// The id of a session that never was. Who knows one, and not the seed, learns nothing of the next.
    pub fn session_id(&mut self) -> SessionId {
        self.ids += 1;
        let mut hasher = SipHasher24::new_with_key(&self.seed);
        core::hash::Hasher::write(&mut hasher, &self.ids.to_le_bytes());
        hasher.finish128().as_u128().to_le_bytes()
    }

    /// A duration between half of `full` and all of it.
    pub fn part_of(&mut self, full: Duration) -> Duration {
        let parts = self.pauses.below(1_024);
        full / 2 + full.mul_f64(parts as f64 / 2048.0)
    }
}
