//! The window of a session's calls: the outcomes that its client may ask for again.
//!
//! The window holds at most [`WINDOW_REPLIES_MAX`] calls, those at or above `answered_below`.

use crate::machine::Outcome;
use alloc::collections::VecDeque;
use wire::limits::WINDOW_REPLIES_MAX;

/// The outcomes that a session's client may ask for again.
#[derive(Default)]
pub(super) struct Window {
    pub(super) answered_below: u64,
    /// Calls at or above `answered_below`, by sequence.
    pub(super) calls: VecDeque<(u64, Remembered)>,
}

/// What is remembered of a call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::machine) enum Remembered {
    Outcome(Outcome),
    /// It waits; the waiter's slot.
    Waiting(u32),
}

impl Window {
    #[inline]
    fn find(&self, sequence: u64) -> Result<usize, usize> {
        // Calls come mostly in order: look at the end first.
        match self.calls.back() {
            None => Err(0),
            Some((last, _)) if *last < sequence => Err(self.calls.len()),
            Some(_) => self.calls.binary_search_by_key(&sequence, |(s, _)| *s),
        }
    }

    /// What is remembered of a call.
    #[inline]
    pub(super) fn get(&self, sequence: u64) -> Option<&Remembered> {
        self.find(sequence).ok().map(|at| &self.calls[at].1)
    }

    /// Remembers a call, anew or in place of what was.
    pub(super) fn set(&mut self, sequence: u64, what: Remembered) {
        assert!(sequence >= self.answered_below, "an answered call is not remembered");
        match self.find(sequence) {
            Ok(at) => self.calls[at].1 = what,
            Err(at) if at == self.calls.len() => self.calls.push_back((sequence, what)),
            Err(at) => self.calls.insert(at, (sequence, what)),
        }
        assert!(self.calls.len() as u64 <= WINDOW_REPLIES_MAX, "the window is bounded");
    }

    /// Takes the first call out that is below `answered_below`.
    pub(super) fn take_answered(&mut self) -> Option<Remembered> {
        let (sequence, _) = self.calls.front()?;
        if *sequence >= self.answered_below {
            return None;
        }
        self.calls.pop_front().map(|(_, what)| what)
    }

    /// The waiters of calls that wait.
    pub(super) fn waiting(&self) -> impl Iterator<Item = u32> + '_ {
        self.calls.iter().filter_map(|(_, what)| match what {
            Remembered::Waiting(waiter) => Some(*waiter),
            Remembered::Outcome(_) => None,
        })
    }
}
