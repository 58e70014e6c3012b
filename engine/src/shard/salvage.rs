//! What is left of a group whose majority is gone: all that one replica has.
//!
//! Which of its last entries were committed it can't know any more. All are applied: what was acknowledged is among
//! them, if this replica has it at all; so may be what was not, whose callers were told that its outcome is unknown.

use super::Shard;
use crate::ids::{GroupId, Index, Term};
use crate::raft::{Configuration, Member};
use alloc::vec::Vec;

/// All that a replica has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Salvaged {
    /// The group.
    pub group: GroupId,
    /// The newest term that it knows.
    pub term: Term,
    /// The last index in its log.
    pub index: Index,
    /// The term of the entry at that index.
    pub index_term: Term,
    /// The highest index known to be committed.
    pub commit: Index,
    /// Who belongs to the group, by what it has; empty: the node keeps no replica, and the state is an empty one.
    pub members: Vec<Member>,
    /// A snapshot of the state with all entries applied.
    pub snapshot: Vec<u8>,
}

impl Shard {
    /// Applies all entries, committed or not, and gives what that comes to. The replica is of no other use then.
    /// Nothing, if it has nothing.
    pub fn salvage(&mut self) -> Option<Salvaged> {
        let (index, mut wakes) = (self.raft.last_index(), Vec::new());
        if index == Index::ZERO {
            return None;
        }
        while self.applied < index {
            let next = self.applied.next();
            let entry = self.raft.log().entry(next).expect("what is not applied is in the log");
            self.state.apply(entry.header.kind, &entry, &mut wakes);
            self.applied = next;
            wakes.clear();
        }
        assert_eq!(self.applied, index, "all that it has is in the state");
        let known = self.raft.configuration();
        let alone = [(self.node, self.raft.incarnation())].into_iter();
        // One that was being caught up may not know yet who its group's members are.
        let unknown = *known == Configuration::UNKNOWN;
        let members = if unknown { Configuration::of_voters(alone) } else { known.clone() };
        let mut snapshot = Vec::new();
        members.encode(&mut snapshot);
        self.state.snapshot_whole(&mut snapshot);
        Some(Salvaged {
            group: self.group,
            term: self.raft.term(),
            index,
            index_term: self.raft.log().last_term(),
            commit: self.raft.commit(),
            members: members.members().to_vec(),
            snapshot,
        })
    }
}
