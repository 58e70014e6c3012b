//! Which slot holds what: the segments in use, those that are ready, those being prepared.

use super::unit::{PAGE_BYTES, pages};
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// How many segments are kept ready or in preparation, so that one is ready before the current one
/// ends.
const READY_AHEAD: usize = 2;

/// A segment in use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Live {
    /// Its number. They follow each other without a gap.
    pub number: u64,
    /// Its slot.
    pub slot: u32,
    /// Its size, in bytes.
    pub bytes: u64,
    /// The seed of this use of it.
    pub seed: u64,
}

/// Every slot, each in exactly one of four places.
#[derive(Debug)]
pub(super) struct Segments {
    /// The size of a segment that is made now, in bytes.
    bytes: u64,
    max: u32,
    /// In use, oldest first. Units are written to the last one.
    pub live: VecDeque<Live>,
    /// May be written at once, in this order.
    pub ready: VecDeque<u32>,
    /// Asked for, and not there yet.
    preparing: Vec<u32>,
    /// Of another size: to be made anew.
    pub idle: Vec<u32>,
    /// Where the next unit goes in the last live segment, in bytes.
    pub end: u64,
}

impl Segments {
    pub fn new(bytes: u64, max: u32) -> Segments {
        Segments {
            bytes,
            max,
            live: VecDeque::new(),
            ready: VecDeque::new(),
            preparing: Vec::new(),
            idle: Vec::new(),
            end: 0,
        }
    }

    /// The size of a segment that is made now, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether a unit of so many bytes goes into the last live segment.
    pub fn fits(&self, unit_bytes: usize) -> bool {
        let room = self.live.back().map_or(0, |last| last.bytes - self.end);
        (pages(unit_bytes) * PAGE_BYTES) as u64 <= room
    }

    /// How many segments are in use once a unit of so many bytes is written.
    pub fn live_with(&self, unit_bytes: usize) -> u32 {
        count(self.live.len()) + u32::from(!self.fits(unit_bytes))
    }

    /// Begins the next segment, if one is ready.
    pub fn open(&mut self, seed: u64) -> bool {
        let Some(slot) = self.ready.pop_front() else {
            return false;
        };
        let number = self.live.back().map_or(1, |last| last.number + 1);
        assert!(self.live.iter().all(|live| live.slot != slot), "a slot has one use at a time");
        self.live.push_back(Live { number, slot, bytes: self.bytes, seed });
        self.end = 0;
        true
    }

    /// Takes the segments below `first_live` out of use: they may be written again at once, since
    /// what is left in them carries another seed.
    pub fn release(&mut self, first_live: u64) {
        while let Some(segment) = self.live.front().copied().filter(|s| s.number < first_live) {
            assert!(self.live.len() > 1, "the last segment stays in use");
            self.live.pop_front();
            if segment.bytes == self.bytes {
                self.ready.push_back(segment.slot);
            } else {
                self.idle.push(segment.slot);
            }
        }
    }

    pub fn on_ready(&mut self, slot: u32) {
        let at = self.preparing.iter().position(|s| *s == slot);
        self.preparing.swap_remove(at.expect("only a segment that was asked for becomes ready"));
        assert!(!self.ready.contains(&slot), "a slot becomes ready once");
        self.ready.push_back(slot);
    }

    pub fn take_wanted(&mut self, each: &mut dyn FnMut(u32)) {
        while self.ready.len() + self.preparing.len() < READY_AHEAD {
            let Some(slot) = self.idle.pop().or_else(|| self.new_slot()) else {
                return;
            };
            assert!(slot < self.max, "there are no more slots than there may be");
            self.preparing.push(slot);
            each(slot);
        }
    }

    /// The lowest slot that does not exist, unless there are as many as there may be.
    fn new_slot(&self) -> Option<u32> {
        let total = self.live.len() + self.ready.len() + self.preparing.len() + self.idle.len();
        (count(total) < self.max).then(|| {
            let exists = |slot: &u32| {
                self.live.iter().any(|s| s.slot == *slot)
                    || self.ready.contains(slot)
                    || self.preparing.contains(slot)
                    || self.idle.contains(slot)
            };
            (0..).find(|slot| !exists(slot)).expect("there are fewer slots than numbers")
        })
    }
}

/// A number of segments.
pub(super) fn count(segments: usize) -> u32 {
    u32::try_from(segments).expect("there are few segments")
}
