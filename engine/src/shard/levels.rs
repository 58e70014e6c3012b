//! A group's feature level: what may follow in its log, and what is refused until then. See
//! [`level`](crate::level).

use super::calls::Caller;
use super::desk::Hint;
use super::{Shard, Step};
use crate::entry::kind;
use crate::level::Level;
use crate::mutant::{self, Mutant};
use wire::Code;

impl Shard {
    /// Whether what exists from a level on may follow what was applied: a follower that does not know it refuses the
    /// entry that raises the group to that level, and takes none after it.
    pub(super) fn is_at(&self, level: Level) -> bool {
        level <= self.state.level() || mutant::on(Mutant::ProposeAboveLevel)
    }

    /// Refuses what exists from a level on that the group is not at.
    pub(super) fn refuse_above(&self, step: &mut Step<'_>, caller: Caller, level: Level) {
        if self.raft.log().term_at(self.applied) == Some(self.raft.term()) {
            return step.desk().level_too_low(caller, level, self.state.level());
        }
        // A leader before this one may have raised the group, and taken this very call.
        step.desk().error(caller, Code::Busy, Hint::retry(5));
    }

    /// Proposes that the group be at a higher feature level, unless that was done already. If it is refused, it is
    /// tried again.
    pub fn raise_level(&mut self, step: &mut Step<'_>, level: Level) {
        if self.raised <= self.applied
            && let Some(index) = self.propose_own(step, kind::LEVEL, &level.encode())
        {
            self.raised = index;
        }
    }
}
