//! Reads until the turn's end, or longer: the lease ran out, every read asks a majority, or the line has
//! expired and its expiry is not applied yet. Their keys lie in one buffer that is used again.

use super::calls::Caller;
use crate::ids::Index;
use crate::time::Time;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// What a read waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Until {
    /// Leadership was confirmed at this moment or later.
    Confirmed(Time),
    /// This index is applied.
    Applied(Index),
}

/// A read that waits.
#[derive(Clone, Copy, Debug)]
pub struct HeldRead {
    /// Who asked.
    pub caller: Caller,
    /// What it waits for.
    pub until: Until,
    /// When the caller gives up; [`Time::MAX`] = never.
    pub deadline: Time,
    key_bytes: usize,
}

/// Reads that wait, in the order in which they came.
#[derive(Default)]
pub struct Reads {
    held: VecDeque<HeldRead>,
    /// The keys one after the other; those before `taken` are done with.
    keys: Vec<u8>,
    taken: usize,
}

impl Reads {
    /// Holds a read back.
    pub fn hold(&mut self, caller: Caller, key: &[u8], until: Until, deadline: Time) {
        self.held.push_back(HeldRead { caller, until, deadline, key_bytes: key.len() });
        self.keys.extend_from_slice(key);
    }

    /// The oldest read and its key.
    pub fn first(&self) -> Option<(HeldRead, &[u8])> {
        let read = *self.held.front()?;
        Some((read, &self.keys[self.taken..self.taken + read.key_bytes]))
    }

    /// The keys, oldest read first.
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.keys[self.taken..];
        self.held.iter().map(move |read| {
            let (key, behind) = rest.split_at(read.key_bytes);
            rest = behind;
            key
        })
    }

    /// Takes the oldest read out.
    pub fn take(&mut self) -> Option<HeldRead> {
        let read = self.held.pop_front()?;
        self.taken += read.key_bytes;
        if self.held.is_empty() || self.taken > self.keys.len() / 2 {
            self.keys.drain(..self.taken);
            self.taken = 0;
        }
        Some(read)
    }

    /// How many reads wait.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ConnId;

    #[test]
    fn keys_follow_their_reads_while_others_come_and_go() {
        let caller =
            |request| Caller { conn: ConnId { index: 0, generation: 0 }, request, bytes: 60 };
        let key = |n: u64| alloc::vec![n as u8; (n % 5) as usize];
        let mut reads = Reads::default();
        let mut next = 0;
        for n in 0..100 {
            reads.hold(caller(n), &key(n), Until::Applied(Index(n)), Time::MAX);
            assert!(reads.keys().eq((next..=n).map(key)));
            if n % 3 > 0 {
                let (first, bytes) = reads.first().expect("one was held");
                assert_eq!((first.caller.request, bytes), (next, &key(next)[..]));
                assert_eq!(reads.take().expect("one was held").caller.request, next);
                next += 1;
            }
        }
        assert_eq!(reads.len() as u64, 100 - next);
        while reads.take().is_some() {}
        assert!(reads.is_empty() && reads.keys.is_empty());
    }
}
