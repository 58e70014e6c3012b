//! A session's sequences in one shard: which are open, and below which all are answered.

use wire::limits::WINDOW_REPLIES_MAX;

const WORDS: usize = (WINDOW_REPLIES_MAX / 64) as usize;

const _: () = assert!(WINDOW_REPLIES_MAX.is_multiple_of(64));

/// Gives out sequences from 1 and never runs further ahead of the oldest open one than a group
/// remembers replies.
#[derive(Clone, Debug)]
pub struct Window {
    /// The oldest open sequence, or the next one when none is open.
    answered_below: u64,
    next: u64,
    /// One bit for each sequence from `answered_below`, at its remainder: answered out of order.
    answered: [u64; WORDS],
}

impl Default for Window {
    fn default() -> Window {
        Window { answered_below: 1, next: 1, answered: [0; WORDS] }
    }
}

impl Window {
    /// The next sequence, unless the window is full.
    pub fn take(&mut self) -> Option<u64> {
        if self.is_full() {
            return None;
        }
        self.next += 1;
        Some(self.next - 1)
    }

    /// Whether no sequence can be taken now.
    pub fn is_full(&self) -> bool {
        self.next - self.answered_below >= WINDOW_REPLIES_MAX
    }

    /// `sequence` was answered, or given up: its reply is needed no more.
    pub fn answer(&mut self, sequence: u64) {
        assert!(sequence >= self.answered_below, "a sequence is answered once");
        assert!(sequence < self.next, "only what was given out is answered");
        let (word, bit) = place(sequence);
        assert!(self.answered[word] & bit == 0, "a sequence is answered once");
        self.answered[word] |= bit;
        while self.answered_below < self.next {
            let (word, bit) = place(self.answered_below);
            if self.answered[word] & bit == 0 {
                break;
            }
            self.answered[word] &= !bit;
            self.answered_below += 1;
        }
    }

    /// Below this all are answered.
    pub fn answered_below(&self) -> u64 {
        self.answered_below
    }

    /// How many are open.
    pub fn open(&self) -> u64 {
        let answered: u32 = self.answered.iter().map(|word| word.count_ones()).sum();
        self.next - self.answered_below - u64::from(answered)
    }
}

fn place(sequence: u64) -> (usize, u64) {
    let at = sequence % WINDOW_REPLIES_MAX;
    ((at / 64) as usize, 1 << (at % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_out_of_order_move_the_mark_when_the_gap_closes() {
        let mut window = Window::default();
        let taken: Vec<u64> = (0..4).map(|_| window.take().unwrap()).collect();
        assert_eq!(taken, [1, 2, 3, 4]);
        window.answer(2);
        window.answer(3);
        assert_eq!((window.answered_below(), window.open()), (1, 2));
        window.answer(1);
        assert_eq!((window.answered_below(), window.open()), (4, 1));
    }

    #[test]
    fn one_open_call_stops_the_window_after_as_many_as_a_group_remembers() {
        let mut window = Window::default();
        let first = window.take().unwrap();
        for _ in 1..WINDOW_REPLIES_MAX {
            let sequence = window.take().unwrap();
            window.answer(sequence);
        }
        assert_eq!(window.take(), None);
        window.answer(first);
        assert_eq!(window.answered_below(), WINDOW_REPLIES_MAX + 1);
        assert!(window.take().is_some());
    }

    #[test]
    fn a_long_run_keeps_the_mark_within_the_open_calls() {
        let mut window = Window::default();
        let mut open = Vec::new();
        let mut chance = 7u64;
        for _ in 0..10_000 {
            while open.len() < 16 {
                let Some(sequence) = window.take() else { break };
                open.push(sequence);
            }
            chance = chance.wrapping_mul(6364136223846793005).wrapping_add(1);
            let sequence = open.swap_remove((chance >> 33) as usize % open.len());
            window.answer(sequence);
            let oldest = open.iter().min().copied();
            assert_eq!(oldest.unwrap_or(window.answered_below()), window.answered_below());
            assert_eq!(window.open(), open.len() as u64);
        }
    }
}
