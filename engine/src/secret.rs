//! The secret of one process's life: what makes its tables unpredictable to whoever chooses their keys.
//!
//! Whoever can compute hashes makes keys that share one, and each operation on such a table costs as much as all
//! of them together. So keys are hashed with SipHash-1-3, which was made for this, under 128 random bits.
//!
//! # Invariants
//!
//! - It is drawn anew at each start, told to nobody, and written nowhere.
//! - Nothing that a replica answers, orders or has in common with others depends on it: only where rows lie.
//!
//! # Left out
//!
//! A secret that all nodes of a cluster share. It would have to be told to nodes that join, kept in manifests and
//! backups, changed by a restore, and come with a feature level; whoever learned it once would have it for ever.
//!
//! # Sources
//!
//! Aumasson and Bernstein, SipHash: a fast short-input PRF, 2012. Crosby and Wallach, Denial of Service via
//! Algorithmic Complexity Attacks, 2003.

use core::fmt;
use siphasher::sip::SipHasher13;

/// 128 random bits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret([u8; 16]);

impl Secret {
    /// Of these bits, which are random.
    pub const fn new(bits: [u8; 16]) -> Secret {
        Secret(bits)
    }

    /// The hash of some bytes.
    #[inline]
    pub fn hash(&self, bytes: &[u8]) -> u64 {
        SipHasher13::new_with_key(&self.0).hash(bytes)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_depends_on_every_bit_of_the_secret_and_of_the_key() {
        let of = |secret: [u8; 16], key: &[u8]| Secret::new(secret).hash(key);
        let first = of([0; 16], b"key");
        for bit in 0..128 {
            let mut other = [0; 16];
            other[bit / 8] |= 1 << (bit % 8);
            assert_ne!(of(other, b"key"), first, "bit {bit} of the secret");
        }
        for key in [&b"kez"[..], b"ke", b"key\0", b""] {
            assert_ne!(of([0; 16], key), first);
        }
    }

    #[test]
    fn a_secret_is_not_printed() {
        assert_eq!(alloc::format!("{:?}", Secret::new([7; 16])), "Secret");
    }
}
