//! What a group's replica remembers, put together by replaying the journal in its own order.

use super::{Configuration, Log};
use crate::entry::{Entry, kind};
use crate::ids::{Index, NodeId, Term};

/// What the journal holds of one group. Feed it every record of the group, oldest first.
///
/// The journal must have synced what it replays: all of it is taken to be durable.
pub struct PersistentState {
    pub(super) log: Log,
    pub(super) term: Term,
    pub(super) vote: Option<NodeId>,
    pub(super) commit: Index,
    pub(super) snapshot: Index,
}

impl Default for PersistentState {
    fn default() -> PersistentState {
        PersistentState {
            log: Log::default(),
            term: Term::ZERO,
            vote: None,
            commit: Index::ZERO,
            snapshot: Index::ZERO,
        }
    }
}

/// Why the records of a journal don't make a log. The journal is damaged, or a bug wrote it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RestoreError {
    /// Entries are missing before this one.
    #[error("entry {index} follows entry {last}: what lies between is missing")]
    Gap {
        /// The entry.
        index: Index,
        /// The one before it in the journal.
        last: Index,
    },
    /// Another entry has this index already, and no truncation cut it.
    #[error("entry {index} stands in the journal twice, with different bytes")]
    Conflict {
        /// The entry.
        index: Index,
    },
    /// The entry's term is below the one before it.
    #[error("entry {index} has a lower term than the entry before it")]
    TermFell {
        /// The entry.
        index: Index,
    },
    /// The entry says who belongs to the group, and can't be read.
    #[error("entry {index} names members in a way that is not known here")]
    Members {
        /// The entry.
        index: Index,
    },
    /// Something is said of a group that has no replica here.
    #[error("it is said to have no replica here")]
    NoReplica,
    /// The term went back, or the vote changed within a term.
    #[error("the vote in term {term} contradicts an earlier record")]
    Vote {
        /// The term.
        term: Term,
    },
    /// What is committed is not there.
    #[error("{commit} is committed, but the log ends at {last}")]
    Short {
        /// What is committed.
        commit: Index,
        /// Where the log ends.
        last: Index,
    },
}

impl PersistentState {
    /// An entry. One that is stated again (carried into a newer segment) is ignored.
    ///
    /// # Errors
    /// [`RestoreError::Gap`], [`RestoreError::Conflict`], [`RestoreError::TermFell`] or
    /// [`RestoreError::Members`].
    pub fn on_entry(&mut self, entry: Entry<'_>) -> Result<(), RestoreError> {
        let (index, last) = (entry.header.index, self.log.last_index());
        if index < self.log.first_index() {
            return Ok(());
        }
        if index > last.next() {
            return Err(RestoreError::Gap { index, last });
        }
        if let Some(there) = self.log.entry(index) {
            let same = there.bytes == entry.bytes;
            return if same { Ok(()) } else { Err(RestoreError::Conflict { index }) };
        }
        if entry.header.term < self.log.last_term() {
            return Err(RestoreError::TermFell { index });
        }
        let names = entry.header.kind == kind::MEMBERS;
        if names && Configuration::decode(entry.payload).is_none() {
            return Err(RestoreError::Members { index });
        }
        self.log.extend(entry.bytes);
        Ok(())
    }

    /// The term, and who had the vote in it.
    ///
    /// # Errors
    /// [`RestoreError::Vote`].
    pub fn on_vote(&mut self, term: Term, vote: Option<NodeId>) -> Result<(), RestoreError> {
        let changed = term == self.term && self.vote.is_some() && self.vote != vote;
        if term < self.term || changed {
            return Err(RestoreError::Vote { term });
        }
        (self.term, self.vote) = (term, vote);
        Ok(())
    }

    /// A durable snapshot stands for the log up to `index`.
    pub fn on_snapshot(&mut self, index: Index, term: Term) {
        if index <= self.snapshot {
            return;
        }
        self.snapshot = index;
        self.commit = self.commit.max(index);
        if self.log.term_at(index) == Some(term) {
            self.log.drop_to(index);
        } else if index >= self.log.first_index() {
            // What the log holds at and after this index contradicts what is committed.
            self.log.reset(index, term, Configuration::UNKNOWN);
        }
    }

    /// What the newest snapshot says of who belongs to the group.
    pub fn on_configuration(&mut self, configuration: Configuration) {
        self.log.found(configuration);
    }

    /// Something was known to be committed. It may lie before or after the entries it speaks of.
    pub fn on_commit(&mut self, commit: Index) {
        self.commit = self.commit.max(commit);
    }

    /// The index that the newest snapshot stands for; zero if there is none.
    #[cfg(test)]
    pub fn snapshot_index(&self) -> Index {
        self.snapshot
    }

    /// Checks the whole, after the last record.
    ///
    /// # Errors
    /// [`RestoreError::Short`].
    pub fn check(&self) -> Result<(), RestoreError> {
        let last = self.log.last_index();
        if self.commit > last {
            return Err(RestoreError::Short { commit: self.commit, last });
        }
        Ok(())
    }
}
