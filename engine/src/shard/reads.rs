//! Reads that can't be answered yet: the lease ran out, every read asks a majority, or the line has
//! expired and its expiry is not applied yet. Their keys lie in one buffer that is used again.

use super::calls::Caller;
use crate::ids::Index;
use crate::time::Time;
use alloc::collections::VecDeque;

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
    keys: VecDeque<u8>,
}

impl Reads {
    /// Holds a read back.
    pub fn hold(&mut self, caller: Caller, key: &[u8], until: Until, deadline: Time) {
        self.held.push_back(HeldRead { caller, until, deadline, key_bytes: key.len() });
        self.keys.extend(key);
    }

    /// Takes the oldest read if `ready` says so; its key is put into `key`.
    pub fn take(
        &mut self,
        key: &mut alloc::vec::Vec<u8>,
        ready: impl Fn(&HeldRead) -> bool,
    ) -> Option<HeldRead> {
        let read = *self.held.front().filter(|read| ready(read))?;
        self.held.pop_front();
        key.clear();
        key.extend(self.keys.drain(..read.key_bytes));
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
