//! Looking at all connections: whose time is up, and what all of them take together.

use super::{
    CLIENT_IDLE_MAX, FRAME_MAX, Net, OUTBOXES_BYTES_MAX, PEER_SILENT_MAX, Role, STUCK_MAX, SWEEP,
    UNFINISHED_BYTES_MAX,
};
use crate::ids::ConnId;
use crate::limits::{CLIENT_FULL_BYTES, CLIENT_FULL_BYTES_CROWDED};
use crate::time::{Duration, Time};

/// How often all connections are looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A thread that did not look for so long stood still itself: it has yet to read what came meanwhile.
const STOOD_STILL: Duration = Duration::from_millis(1500);

/// Why a connection's time is up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Overdue {
    /// It did not get on: no hello, no connection, or it has had its moment to read.
    Passing,
    /// A peer that told something before tells nothing any more.
    Silent,
    /// A client was silent for too long.
    Idle,
    /// A client's frame does not end.
    Unfinished,
    /// The unfinished frames of the thread take too much, and this one began first.
    Crowding,
    /// A client reads nothing, and too much waits for all.
    Stuck,
}

impl Net {
    /// Names every connection whose time is up.
    pub fn sweep(&mut self, now: Time, overdue: &mut Vec<(ConnId, Overdue)>) {
        if now >= self.sweep_at {
            for (index, conn) in (0..).zip(&self.conns) {
                if conn.is_passing() && conn.deadline <= now {
                    overdue.push((conn.id(index), Overdue::Passing));
                }
            }
            self.sweep_at = if self.passing > 0 { now + SWEEP } else { Time::MAX };
        }
        if now >= self.look_at {
            self.look(now, overdue);
        }
        if self.carried > UNFINISHED_BYTES_MAX {
            self.shed(overdue);
        }
    }

    fn look(&mut self, now: Time, overdue: &mut Vec<(ConnId, Overdue)>) {
        let stood_still = now.since(self.looked_at) > STOOD_STILL;
        self.looked_at = now;
        self.look_at = if self.count() > 0 { now + LOOK_EVERY } else { Time::MAX };
        if stood_still {
            return;
        }
        for (index, conn) in (0..).zip(&self.conns) {
            let silent = now.since(conn.heard);
            let why = match conn.role {
                Role::Peer { .. } if conn.pulses && silent > PEER_SILENT_MAX => Overdue::Silent,
                Role::Client { .. } if silent > CLIENT_IDLE_MAX => Overdue::Idle,
                Role::Client { .. } if conn.splitter.age(now) > FRAME_MAX => Overdue::Unfinished,
                Role::Client { .. }
                    if self.crowded && conn.waiting() > 0 && now.since(conn.moved) > STUCK_MAX =>
                {
                    Overdue::Stuck
                }
                _ => continue,
            };
            overdue.push((conn.id(index), why));
        }
    }

    /// Unfinished frames take too much: memory that none uses is given back, then those are given up that began
    /// first, until a quarter is free.
    fn shed(&mut self, overdue: &mut Vec<(ConnId, Overdue)>) {
        let mut unfinished = Vec::new();
        for index in 0..u32::try_from(self.conns.len()).expect("descriptors are 31 bits") {
            self.conns[index as usize].splitter.give_back();
            self.count_carried(index);
            let conn = &self.conns[index as usize];
            if conn.is_client() && conn.carried > 0 {
                unfinished.push((conn.splitter.since(), index));
            }
        }
        unfinished.sort_unstable();
        let mut left = self.carried;
        for (_, index) in unfinished {
            if left <= UNFINISHED_BYTES_MAX / 4 * 3 {
                break;
            }
            let conn = &self.conns[index as usize];
            left -= conn.carried;
            overdue.push((conn.id(index), Overdue::Crowding));
        }
    }

    /// When this wants to be looked at again.
    pub fn wake_at(&self) -> Time {
        self.sweep_at.min(self.accept_at).min(self.look_at)
    }

    /// A peer told something: from now on it is missed when it does not.
    pub fn on_pulse(&mut self, index: u32) {
        self.conns[index as usize].pulses = true;
    }

    /// Counts what a connection's unfinished frame takes.
    pub(super) fn count_carried(&mut self, index: u32) {
        let conn = &mut self.conns[index as usize];
        let is_peer = matches!(conn.role, Role::Peer { .. });
        let carried = if is_peer { 0 } else { conn.splitter.bytes() };
        self.carried = self.carried - conn.carried + carried;
        conn.carried = carried;
    }

    /// Whether so much waits for a client now that its engine is to be told: once, until [`Net::has_room`].
    pub fn is_filled(&mut self, index: u32) -> bool {
        let full_bytes = self.full_bytes();
        let conn = &mut self.conns[index as usize];
        let filled = !conn.full && conn.waiting() > full_bytes;
        conn.full |= filled;
        filled
    }

    /// Whether a client that was filled has read so much that its engine is to be told.
    pub fn has_room(&mut self, index: u32) -> bool {
        let full_bytes = self.full_bytes();
        let conn = &mut self.conns[index as usize];
        let emptied = conn.full && conn.is_client() && conn.waiting() <= full_bytes / 2;
        conn.full &= !emptied;
        emptied
    }

    /// Half of what may wait for all together is anybody's; of the rest each gets little.
    fn full_bytes(&self) -> usize {
        let crowded = self.owed > OUTBOXES_BYTES_MAX / 2;
        if crowded { CLIENT_FULL_BYTES_CROWDED } else { CLIENT_FULL_BYTES }
    }

    /// Whether it is news that too much waits for all clients together, or no longer does.
    pub fn crowd(&mut self) -> Option<Crowd> {
        if !self.crowded && self.owed > OUTBOXES_BYTES_MAX {
            self.crowded = true;
            return Some(Crowd::Begins);
        }
        if self.crowded && self.owed <= OUTBOXES_BYTES_MAX / 2 {
            self.crowded = false;
            return Some(Crowd::Ends);
        }
        None
    }
}

/// What became of the answers that wait for all clients of a thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crowd {
    /// They are too many.
    Begins,
    /// They are few again.
    Ends,
}
