//! What of the log, and of the vote, is on the disk.
//!
//! Each append of the group is remembered as a mark: (journal position, last index). When the journal
//! says that all up to a position is synced, the marks up to it are taken off, and the log is
//! durable up to their index. A position never repeats, an index does:
//!
//! 1. Follower A appends 5..9 at position 70, and the sync of 70 is slow.
//! 2. A new leader cuts 7..9 and writes another 7 at position 71.
//! 3. The sync of 70 ends late. It says nothing about the new 7: the cut took the mark of 70 back to
//!    index 6. Had A remembered "index 9 is durable once this sync ends", it would have acknowledged a
//!    7 that a power failure then takes away.

use crate::ids::{Index, Position};
use crate::mutant::{self, Mutant};
use alloc::collections::VecDeque;

/// What is emitted, appended and durable.
#[cfg_attr(test, derive(Clone, Debug))]
pub(super) struct Durability {
    /// Up to here entries were handed out to be journaled.
    emitted: Index,
    /// Handed out, with no position yet.
    waiting: Option<Index>,
    /// Appended and not durable, oldest first. Positions rise.
    marks: VecDeque<(Position, Index)>,
    durable: Index,
    vote: VoteState,
    synced: Position,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum VoteState {
    Durable,
    Emitted,
    Appended(Position),
}

impl Durability {
    pub fn new(durable: Index) -> Durability {
        Durability {
            emitted: durable,
            waiting: None,
            marks: VecDeque::new(),
            durable,
            vote: VoteState::Durable,
            synced: Position::ZERO,
        }
    }

    pub fn emitted(&self) -> Index {
        self.emitted
    }

    pub fn durable(&self) -> Index {
        self.durable
    }

    /// Whether the term and the vote of this moment are durable.
    pub fn vote_is_durable(&self) -> bool {
        self.vote == VoteState::Durable
    }

    /// Whether something was handed out that is not durable.
    pub fn awaits_sync(&self) -> bool {
        self.waiting.is_some() || !self.marks.is_empty() || !self.vote_is_durable()
    }

    pub fn on_emitted(&mut self, last: Index) {
        assert!(last > self.emitted, "entries are handed out once");
        assert!(self.durable <= self.emitted, "what is durable was handed out");
        self.emitted = last;
        self.waiting = Some(last);
    }

    pub fn on_vote_emitted(&mut self) {
        self.vote = VoteState::Emitted;
    }

    /// The log was cut from `from` on: no position vouches for anything there any more.
    pub fn on_truncated(&mut self, from: Index) {
        let last = from.prev();
        self.emitted = self.emitted.min(last);
        self.durable = self.durable.min(last);
        self.waiting = self.waiting.map(|w| w.min(last));
        self.take_marks_back_to(last);
        assert!(self.durable <= self.emitted, "what is durable was handed out");
    }

    /// A sync that ends late says nothing of what was cut and written again.
    fn take_marks_back_to(&mut self, last: Index) {
        if mutant::on(Mutant::LateSyncVouches) {
            return;
        }
        for (_, index) in &mut self.marks {
            *index = (*index).min(last);
        }
    }

    /// An installed snapshot stands for the log up to `index`; its record was handed out. Until that
    /// is durable only `commit` is known to agree with the leader: above it the disk may hold
    /// entries that the snapshot overrules.
    pub fn on_snapshot(&mut self, index: Index, commit: Index) {
        assert!(commit < index, "a snapshot is installed to get ahead");
        self.marks.clear();
        self.durable = self.durable.min(commit);
        self.emitted = index;
        self.waiting = Some(index);
    }

    /// Everything handed out so far is in the unit `position` or an earlier one.
    pub fn on_appended(&mut self, position: Position) {
        assert!(position > self.synced, "a synced unit takes no more records");
        if let Some(last) = self.waiting.take() {
            match self.marks.back_mut() {
                Some((at, index)) if *at == position => *index = (*index).max(last),
                back => {
                    assert!(back.is_none_or(|(at, _)| *at < position), "positions rise");
                    self.marks.push_back((position, last));
                }
            }
        }
        if self.vote == VoteState::Emitted {
            self.vote = VoteState::Appended(position);
        }
    }

    pub fn on_synced(&mut self, position: Position) {
        self.synced = self.synced.max(position);
        while let Some((at, index)) = self.marks.front().copied() {
            if at > position {
                break;
            }
            self.durable = self.durable.max(index);
            self.marks.pop_front();
        }
        if let VoteState::Appended(at) = self.vote
            && at <= position
        {
            self.vote = VoteState::Durable;
        }
        assert!(self.durable <= self.emitted, "what is durable was handed out");
    }

    /// Counts positions from the last sync on: histories that left the same behind become the same.
    #[cfg(test)]
    pub fn rebase(&mut self) {
        let by = core::mem::replace(&mut self.synced, Position::ZERO).0;
        for (at, _) in &mut self.marks {
            at.0 -= by;
        }
        if let VoteState::Appended(at) = &mut self.vote {
            at.0 -= by;
        }
    }
}
