//! What a client wants next: every kind of request, with every option, right ones and wrong ones.

use super::calls::{Did, Expect, KEYS, LOCKS, QUEUES, Saw};
use super::client::Client;
use std::collections::VecDeque;

/// Deliveries and fences of before that a client may name again.
const REMEMBERED: usize = 4;
/// The longest that a message is hidden, if not for a short time, in milliseconds.
const VISIBILITY_MS: u32 = 1_200;
/// A client ends its session, one time in so many.
const CLOSES_ONE_IN: u32 = 250;

/// What a client was told, and may use again when it is of no use any more.
#[derive(Default)]
pub(super) struct Memory {
    /// The versions that a line was last seen to have, the newest last.
    versions: [VecDeque<u64>; KEYS as usize],
    fences: VecDeque<(u8, u64)>,
    deliveries: VecDeque<(u8, u64, u32)>,
    /// A session that it does not use any more.
    pub(super) before: Option<[u8; 16]>,
    /// It may hold something that it does not know of: it ends its session.
    pub(super) doubts: bool,
}

impl Memory {
    /// A lock was given back for good.
    pub(super) fn on_given_back(&mut self, lock: u8, fence: u64) {
        if !self.doubts {
            remember(&mut self.fences, (lock, fence));
        }
    }

    pub(super) fn on_answer(&mut self, did: &Did, saw: Saw) {
        match (did, saw) {
            (Did::Put { key, .. }, Saw::Done { token: version, .. })
            | (Did::Get { key }, Saw::Line { version, .. }) => {
                let versions = &mut self.versions[*key as usize];
                if versions.back().is_none_or(|newest| *newest < version) {
                    remember(versions, version);
                }
            }
            (Did::Pop { queue, .. }, Saw::Message { id, delivery, .. }) => {
                remember(&mut self.deliveries, (*queue, id, delivery));
            }
            _ => {}
        }
    }
}

fn remember<T>(things: &mut VecDeque<T>, thing: T) {
    if things.len() == REMEMBERED {
        things.pop_front();
    }
    things.push_back(thing);
}

impl Did {
    /// Writes a line, whatever it was, until it is written again.
    pub(super) fn put(key: u8, value: u64) -> Did {
        Did::Put { key, value, ttl_ms: 0, expect: Expect::Any }
    }
}

impl Client {
    /// What to do next; nothing: its session ends.
    pub(super) fn choose(
        &mut self,
        values: &mut u64,
        lent: &mut Vec<(u8, u64, u32)>,
    ) -> Option<Did> {
        if std::mem::take(&mut self.memory.doubts) || self.chance.u32(..CLOSES_ONE_IN) == 0 {
            return None;
        }
        *values += 1;
        let (value, key) = (*values, self.chance.u8(..KEYS));
        let (lock, queue) = (self.chance.u8(..LOCKS), self.chance.u8(..QUEUES));
        Some(match self.chance.u32(..100) {
            0..25 => self.put(key, value),
            25..47 => Did::Get { key },
            47..54 => Did::Delete { key, expect: self.expect(key, false) },
            54..71 => self.acquire(lock),
            71..75 => self.again(lent),
            call if call < 75 + self.load.push_percent => {
                Did::Push { queue, value, priority: self.chance.u8(..3) }
            }
            _ => {
                let most = if self.chance.u32(..6) == 0 { 5_000 } else { 900 };
                let (wait_ms, visibility_ms) = (self.upto(50..most), self.visibility_ms());
                Did::Pop { queue, wait_ms, visibility_ms }
            }
        })
    }

    /// A time, or none.
    fn upto(&mut self, millis: std::ops::Range<u32>) -> u32 {
        if self.chance.bool() { 0 } else { self.chance.u32(millis) }
    }

    fn visibility_ms(&mut self) -> u32 {
        if self.chance.u32(..3) > 0 { VISIBILITY_MS } else { self.chance.u32(80..600) }
    }

    fn put(&mut self, key: u8, value: u64) -> Did {
        let (ttl_ms, expect) = (self.upto(60..1_200), self.expect(key, true));
        Did::Put { key, value, ttl_ms, expect }
    }

    fn expect(&mut self, key: u8, may_be_absent: bool) -> Expect {
        let versions = &self.memory.versions[key as usize];
        match self.chance.u32(..10) {
            0..5 => Expect::Any,
            5..7 if may_be_absent => Expect::Absent,
            7 => versions.front().map_or(Expect::Any, |version| Expect::Version(*version)),
            _ => versions.back().map_or(Expect::Any, |version| Expect::Version(*version)),
        }
    }

    fn acquire(&mut self, lock: u8) -> Did {
        let exclusive = self.chance.u32(..5) > 1;
        let wait_ms = match self.chance.u32(..12) {
            0..4 => 0,
            // Longer than sessions live: some end while they wait.
            4..6 => self.chance.u32(1_500..8_000),
            _ => self.chance.u32(50..1_500),
        };
        Did::Acquire { lock, exclusive, wait_ms, lease_ms: self.upto(60..1_200) }
    }

    /// Something that was, named again: a fence, a delivery, a session. Or a delivery that somebody else was given.
    fn again(&mut self, lent: &mut Vec<(u8, u64, u32)>) -> Did {
        let one = self.chance.u32(..8);
        if one < 2
            && let Some((lock, fence)) = self.chance.choice(self.memory.fences.iter().copied())
        {
            // Nothing holds the lock under this fence any more; a later one may be held.
            return Did::Release { lock, fence };
        }
        let past = match one {
            2..5 if !lent.is_empty() => Some(lent.swap_remove(self.chance.usize(..lent.len()))),
            2..7 => self.chance.choice(self.memory.deliveries.iter().copied()),
            _ => None,
        };
        if let Some((queue, id, delivery)) = past {
            let delay_ms = self.upto(50..700);
            return match self.chance.u32(..3) {
                0 => Did::Nack { queue, id, delivery, delay_ms },
                _ => Did::Ack { queue, id, delivery },
            };
        }
        match self.memory.before {
            Some(session) => {
                let shard = self.chance.u32(..self.layout.shards);
                Did::Reopen { shard, session }
            }
            None => Did::Get { key: self.chance.u8(..KEYS) },
        }
    }
}
