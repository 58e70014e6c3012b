//! Who belongs to the group, and who leads it: what is wanted, and the steps towards it. See [`moves`](super::moves)
//! and [`balance`](super::balance).

use super::placement::Replicas;
use super::{ENTRY_ROOM_BYTES, Shard, Step};
use crate::effects::Note;
use crate::ids::{Index, NodeId};
use crate::journal::Record;
use crate::raft::configuration::MEMBERS_BYTES_MAX;
use crate::raft::{ChangeError, MemberChange, Suffrage};
use crate::time::{Duration, Time};
use wire::peer::{Join, Stray};
use wire::{Code, Header};

/// A learner that is silent for so long keeps no other from being added.
const LEARNER_SILENT: Duration = Duration::from_secs(3);

impl Shard {
    /// The group is to be elsewhere, or led by another.
    pub fn aim(&mut self, wanted: &Replicas) {
        self.balance.prefer(wanted.preferred);
        self.moves.aim(wanted.nodes.clone());
    }

    /// Whether this replica leads one that is still being caught up, and answers.
    pub fn teaches(&self, now: Time) -> bool {
        let mut followers = self.raft.progress().iter();
        followers.any(|f| f.suffrage == Suffrage::Learner && f.silence(now) < LEARNER_SILENT)
    }

    /// The leader's next step from who keeps the group to who should; or a replica without a leader asks
    /// whether it still belongs to it.
    pub(super) fn keep_members(&mut self, step: &mut Step<'_>) {
        if self.leads.is_none() {
            if self.moves.is_astray(step.now, &self.raft) {
                let stray =
                    Stray { term: self.raft.term().0, incarnation: self.raft.incarnation().0 };
                let header = Header { shard: self.group.0, ..Header::new(Stray::KIND, 0) };
                for peer in &step.shared.peers.linked {
                    let out = step.effects.peers.to(peer.0);
                    wire::frame(out, &header, |b| stray.encode(b));
                }
            }
            return;
        }
        let next =
            self.moves.next(step.now, &self.raft, &step.shared.peers.linked, step.shared.may_add);
        let Some(change) = next else { return };
        // What is refused is tried again.
        let Ok(index) = self.on_change(step, change) else { return };
        let group = self.group;
        if let MemberChange::AddLearner { node, incarnation } = change {
            step.shared.may_add = false;
            // Before the first entry.
            let join = Join { term: self.raft.term().0, incarnation: incarnation.0 };
            let header = Header { shard: group.0, ..Header::new(Join::KIND, 0) };
            wire::frame(step.effects.peers.to(node.0), &header, |b| join.encode(b));
        }
        step.effects.notes.push(Note::ChangeAnswered { group, change, answer: Ok(index) });
    }

    /// A node keeps no replica of the group.
    pub fn on_absent(&mut self, node: NodeId, sent_at: Time) {
        self.raft.on_absent(node, sent_at);
    }

    /// A replica asks whether it belongs to the group.
    pub fn on_stray(&mut self, step: &mut Step<'_>, from: NodeId, stray: &Stray) {
        self.raft.on_stray(step.now, from, stray, &mut step.shared.out);
        self.settle(step);
    }

    /// Leadership is to be handed over because somebody asks for it.
    ///
    /// # Errors
    /// [`Code`]: why not.
    pub fn on_leader_move(&mut self, step: &mut Step<'_>, to: NodeId) -> Result<(), Code> {
        if to == self.node {
            return Ok(());
        }
        if !self.raft.configuration().voters().any(|voter| voter.node == to) {
            return Err(Code::NodeUnknown);
        }
        if !self.balance.is_able(step.now, &self.raft, to, &step.shared.peers.suspected) {
            return Err(Code::NodeBehind);
        }
        self.note_leader(step);
        if self.raft.is_handing_over() || !self.balance.may_be_asked(step.now) {
            return Err(Code::Busy);
        }
        self.hand_over(step, to);
        self.settle(step);
        Ok(())
    }

    /// Changes who belongs to the group.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub fn on_change(
        &mut self,
        step: &mut Step<'_>,
        change: MemberChange,
    ) -> Result<Index, ChangeError> {
        let room = step.shared.proposed + MEMBERS_BYTES_MAX + ENTRY_ROOM_BYTES;
        if !step.shared.journal.has_own_room(room) {
            return Err(ChangeError::Busy);
        }
        let index = self.raft.change(change)?;
        assert!(index > self.applied, "what is proposed is still to be applied");
        step.take_room(MEMBERS_BYTES_MAX);
        Ok(index)
    }

    /// This replica ends: nobody who waits here is answered by it. Gives the snapshot that it leaves behind.
    pub fn end(mut self, step: &mut Step<'_>) -> Option<Index> {
        assert!(!self.is_snapshotting(), "what is on its way to the disk is waited for");
        self.send_callers_away(step);
        self.end_backup(step);
        step.shared.journal.append(Record::Replica { group: self.group, replica: None });
        Some(self.snapshots.durable()).filter(|index| *index > Index::ZERO)
    }
}
