//! A session's sequences in one shard: which call has which, and below which all are answered.

use alloc::boxed::Box;
use wire::limits::WINDOW_REPLIES_MAX;

const PLACES: usize = WINDOW_REPLIES_MAX as usize;
/// Of a place whose sequence is free. No call has this index.
const FREE: u32 = u32::MAX;

const _: () = assert!(PLACES as u64 == WINDOW_REPLIES_MAX);

/// Gives out sequences and never runs further ahead of the oldest open one than a group remembers replies.
pub struct Window {
    /// The oldest open sequence, or the next one when none is open.
    answered_below: u64,
    next: u64,
    /// The index of each open call, at its sequence's remainder.
    open: Box<[u32; PLACES]>,
}

impl Window {
    /// A window whose first sequence is `first`.
    pub fn new(first: u64) -> Window {
        Window { answered_below: first, next: first, open: Box::new([FREE; PLACES]) }
    }

    /// All calls below were answered, or will never be asked again.
    #[inline]
    pub fn answered_below(&self) -> u64 {
        self.answered_below
    }

    /// Whether the next sequence would be less than `room` ahead of the oldest open one.
    #[inline]
    pub fn has_room(&self, room: u64) -> bool {
        self.next - self.answered_below < room
    }

    /// The next sequence, for a call, unless the oldest open one is `room` or more behind it.
    #[inline]
    pub fn take(&mut self, call: u32, room: u64) -> Option<u64> {
        assert!(room <= WINDOW_REPLIES_MAX && call != FREE);
        if !self.has_room(room) {
            return None;
        }
        let sequence = self.next;
        let place = &mut self.open[place(sequence)];
        assert!(*place == FREE, "a place has one sequence at a time");
        *place = call;
        self.next += 1;
        Some(sequence)
    }

    /// The call of this sequence will never be asked again.
    #[inline]
    pub fn free(&mut self, sequence: u64) {
        assert!(self.answered_below <= sequence && sequence < self.next, "it was taken");
        assert!(self.open[place(sequence)] != FREE, "a sequence is freed once");
        self.open[place(sequence)] = FREE;
        while self.answered_below < self.next && self.open[place(self.answered_below)] == FREE {
            self.answered_below += 1;
        }
    }

    /// The open call that holds the window back: its sequence and its index.
    pub fn oldest(&self) -> Option<(u64, u32)> {
        let call = self.open[place(self.answered_below)];
        (self.answered_below < self.next).then_some((self.answered_below, call))
    }
}

fn place(sequence: u64) -> usize {
    (sequence % WINDOW_REPLIES_MAX) as usize
}
