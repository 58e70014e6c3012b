//! A leader's duties to time: renewals, ticks, and what is agreed with those who follow.
//!
//! What is refused stays due, and is tried again a little later.

use super::{ENTRY_ROOM_BYTES, Shard, Step};
use crate::entry::kind;
use crate::ids::{Index, NodeId};
use crate::level::Level;
use crate::mutant::{self, Mutant};
use crate::raft::configuration::MEMBERS_BYTES_MAX;
use crate::time::{Duration, Time};
use wire::Kind;

/// How long a leader waits with a tick or a renewal that was refused.
const OWN_RETRY: Duration = Duration::from_millis(5);
/// How often a leader tells what the clock shows, while something is due some day and nothing else is proposed.
pub(super) const TIME_TOLD_EVERY: Duration = Duration::from_secs(10);
/// Ended sessions that a leader's memory may hold beside as many as live.
const SESSIONS_FORGOTTEN_LATE: usize = 1024;

impl Shard {
    /// A leader's duties to the machine's clock: renewals first, then what is due.
    pub(super) fn keep_time(&mut self, step: &mut Step<'_>) {
        if self.leads.is_none() || !self.raft.is_leader() {
            return;
        }
        if self.liveness.is_due() {
            let mut renewals = core::mem::take(&mut step.shared.scratch);
            self.liveness.write_due(&mut renewals);
            let proposed = self.propose_own(step, kind::RENEW, &renewals);
            step.shared.scratch = renewals;
            if are_renewals_done(proposed) {
                self.liveness.on_proposed();
            } else {
                self.retry_at = step.now + OWN_RETRY;
            }
        }
        // Sessions that ended are forgotten once they are the most of what is remembered.
        let remembered = self.liveness.len();
        if remembered > SESSIONS_FORGOTTEN_LATE
            && remembered > SESSIONS_FORGOTTEN_LATE + 2 * self.state.sessions()
        {
            let state = &self.state;
            self.liveness.sweep(|session| state.session_ttl(session).is_some());
        }
        let time = self.raft.clock(step.now);
        let due = self.due.is_some_and(|due| due <= time || self.is_time_to_be_told(step.now));
        if due && step.now >= self.retry_at && ticks_by_itself() {
            self.propose_tick(step);
        }
        if self.state.level() >= Level::LOYALTY && self.raft.is_to_agree() {
            self.agree(step);
        }
        if self.raft.last_index() == self.applied {
            for (kind, payload) in self.state.founding() {
                assert!(
                    step.shared.kinds.since(*kind) == Some(Level::OLDEST),
                    "a group begins at that"
                );
                self.raft.propose_own(step.now, *kind, payload).ok();
            }
        }
    }

    /// Agrees with the others for how long they are loyal. If it is refused, it is tried again.
    fn agree(&mut self, step: &mut Step<'_>) {
        if step
            .shared
            .journal
            .has_own_room(step.shared.proposed + MEMBERS_BYTES_MAX + ENTRY_ROOM_BYTES)
            && self.raft.agree().is_ok()
        {
            step.take_room(MEMBERS_BYTES_MAX);
        }
    }

    /// Whether something is due some day, and no entry has told the clock for [`TIME_TOLD_EVERY`]: what is not told
    /// is lost when all nodes fall.
    fn is_time_to_be_told(&self, now: Time) -> bool {
        let told = self.raft.log().last_time();
        self.due.is_some() && self.raft.clock(now) >= told + TIME_TOLD_EVERY
    }

    /// Tells the others what the clock shows, if something is due some day: a replica that was restarted goes by the
    /// newest entry of its log, which may be old.
    pub(super) fn tell_time(&mut self, step: &mut Step<'_>) {
        if self.leads.is_some() && self.raft.is_leader() && self.due.is_some() {
            self.propose_tick(step);
        }
    }

    pub(super) fn hand_over(&mut self, step: &mut Step<'_>, to: NodeId) {
        self.tell_time(step);
        self.heir = Some(to);
        self.raft.transfer(step.now, to, &mut step.shared.out);
    }

    /// Hands leadership over, if another is to have it.
    pub(super) fn keep_balance(&mut self, step: &mut Step<'_>) {
        if self.leads.is_some()
            && let Some(to) = self.balance.successor(
                step.now,
                self.node,
                &self.raft,
                &step.shared.peers.suspected,
            )
        {
            self.hand_over(step, to);
        }
    }

    /// Proposes that the clock move on, unless that was done already. If it is refused, it is tried
    /// again a little later: there may be no room for a while.
    pub(super) fn propose_tick(&mut self, step: &mut Step<'_>) {
        if self.ticked > self.applied {
            return;
        }
        match self.propose_own(step, kind::TICK, &[]) {
            Some(index) => self.ticked = index,
            None => self.retry_at = step.now + OWN_RETRY,
        }
    }

    /// Proposes an entry of the leader's own. It may be refused: it is tried again.
    pub(super) fn propose_own(
        &mut self,
        step: &mut Step<'_>,
        kind: Kind,
        payload: &[u8],
    ) -> Option<Index> {
        if !step
            .shared
            .journal
            .has_own_room(step.shared.proposed + payload.len() + ENTRY_ROOM_BYTES)
        {
            return None;
        }
        let since =
            step.shared.kinds.since(kind).expect("a build knows what it proposes by itself");
        if !self.is_at(since) {
            return None;
        }
        if !self.has_room_of_its_own() {
            return Some(Index::ZERO);
        }
        let index = self.raft.propose_own(step.now, kind, payload).ok()?;
        step.take_room(payload.len());
        Some(index)
    }

    /// A leader's own entries have room of their own: clients' entries may fill theirs.
    fn has_room_of_its_own(&self) -> bool {
        !(mutant::on(Mutant::OwnEntryDroppedUnderLoad) && self.raft.is_full())
    }
}

/// Renewals that are refused stay due.
fn are_renewals_done(proposed: Option<Index>) -> bool {
    proposed.is_some() || mutant::on(Mutant::RenewalsForgotten)
}

/// What is due is ended by itself, and does not wait for the next call.
fn ticks_by_itself() -> bool {
    !mutant::on(Mutant::TicksIdle)
}
