//! What only the simulator and the tests look at.

use super::calls::{CallId, Caller};
use super::{Shard, Step};
use crate::entry::kind;
use crate::ids::{GroupId, Index};
use crate::level::Level;
use crate::machine::Took;
use crate::time::{Elapsed, Time};
use alloc::boxed::Box;
use alloc::vec::Vec;
use wire::bytes::Put;

impl Shard {
    /// What the group's clock shows here.
    pub fn clock(&self, now: Time) -> Elapsed {
        self.raft.clock(now)
    }

    /// Whether the members are those that the placement wants.
    pub fn is_placed(&self) -> bool {
        self.moves.is_done(&self.raft)
    }

    /// Bytes of snapshots that lie in memory, but for a backup's.
    pub fn snapshot_bytes(&self) -> u64 {
        self.snapshots.kept_bytes()
    }

    /// The journal's entries up to here are not needed.
    pub fn snapshot_index(&self) -> Index {
        self.snapshots.durable()
    }

    /// The calls that wait to be proposed, in the order in which they leave.
    pub fn staged(&self) -> impl Iterator<Item = (Caller, CallId)> {
        self.stage.calls()
    }

    /// Writes mail to another group, as no service does yet. False: it was not proposed.
    pub fn write_mail(&mut self, step: &mut Step<'_>, to: GroupId, mail: &[u8]) -> bool {
        let mut payload = Vec::new();
        payload.put_u32(to.0);
        payload.put(mail);
        if !self.raft.is_leader() || !self.is_at(Level::OUTBOX) || !step.has_room(payload.len()) {
            return false;
        }
        let time = self.raft.clock(step.now);
        let proposed = self.raft.propose(kind::MAIL_WRITE, 0, time, &payload).is_ok();
        if proposed {
            step.take_room(payload.len());
        }
        proposed
    }

    /// The mail that the state took since this was asked last.
    pub fn drain_took(&mut self) -> Vec<Took> {
        self.state.drain_took()
    }

    /// What came from other groups' leaders that nobody keeps, since this was asked last.
    pub fn drain_probes(&mut self) -> Vec<(GroupId, Box<[u8]>)> {
        core::mem::take(&mut self.probes)
    }
}
