//! One step of a shard: when it is, what of the engine it may touch, and what the world is to do.

use super::ENTRY_ROOM_BYTES;
use super::conns::Conns;
use super::desk::Desk;
use super::held::Held;
use super::mail::Parcels;
use crate::effects::Effects;
use crate::journal::Journal;
use crate::level::Kinds;
use crate::limits::ENTRY_PAYLOAD_BYTES_MAX;
use crate::machine::Wake;
use crate::peers::Peers;
use crate::raft::Output;
use crate::raft::ReadMode;
use crate::time::Time;
use alloc::vec::Vec;

/// What a step may touch besides its shard.
pub struct Step<'a> {
    /// When the input was seen.
    pub now: Time,
    /// What it shares with all shards of its engine.
    pub shared: &'a mut Shared,
    /// What the world is to do.
    pub effects: &'a mut Effects,
}

/// What all shards of an engine share: its one journal, its clients, its twins, and scratch space that is used again.
pub struct Shared {
    /// The engine of every node that keeps these groups.
    pub engine: u32,
    /// What the build knows.
    pub kinds: Kinds,
    /// How reads are to be made linearizable.
    pub reads: ReadMode,
    /// The engine's journal.
    pub journal: Journal,
    /// The clients' connections.
    pub conns: Conns,
    /// The engine's twins on the other nodes.
    pub(crate) peers: Peers,
    /// Messages that wait for a sync.
    pub held: Held,
    /// What goes to the leaders of other groups.
    pub parcels: Parcels,
    /// What consensus says; empty between steps.
    pub out: Output,
    /// Space for whom an entry wakes; empty between steps.
    pub wakes: Vec<Wake>,
    /// Space for payloads and keys.
    pub scratch: Vec<u8>,
    /// Bytes of entries that were proposed in this turn and will go to the journal at its end.
    pub proposed: usize,
    /// Whether a learner may be added in this turn: one at a time catches up.
    pub may_add: bool,
}

impl Shared {
    /// What nothing has happened to yet, around a journal.
    pub fn new(engine: u32, kinds: Kinds, reads: ReadMode, journal: Journal) -> Shared {
        Shared {
            engine,
            kinds,
            reads,
            journal,
            conns: Conns::default(),
            peers: Peers::default(),
            held: Held::default(),
            parcels: Parcels::default(),
            out: Output::default(),
            wakes: Vec::new(),
            scratch: Vec::new(),
            proposed: 0,
            may_add: false,
        }
    }

    /// The desk, to answer clients.
    pub fn desk<'a>(&'a mut self, effects: &'a mut Effects) -> Desk<'a> {
        Desk::new(&mut self.conns, &mut effects.clients)
    }

    /// How reads are made linearizable just now.
    pub fn reads(&self, now: Time) -> ReadMode {
        self.peers.reads(now, self.reads)
    }
}

impl Step<'_> {
    /// Whether the journal has room for one more entry, beside what this turn proposed already.
    pub(super) fn has_room(&self, payload_bytes: usize) -> bool {
        self.shared.journal.has_room(self.shared.proposed + payload_bytes + ENTRY_ROOM_BYTES)
    }

    /// Takes that room.
    pub(super) fn take_room(&mut self, payload_bytes: usize) {
        assert!(payload_bytes <= ENTRY_PAYLOAD_BYTES_MAX, "a request is vetted");
        self.shared.proposed += payload_bytes + ENTRY_ROOM_BYTES;
    }

    /// How reads are made linearizable just now.
    pub(super) fn reads(&self) -> ReadMode {
        self.shared.reads(self.now)
    }

    /// The way to answer clients.
    pub(super) fn desk(&mut self) -> Desk<'_> {
        self.shared.desk(self.effects)
    }
}
