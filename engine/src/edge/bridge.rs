//! What the data plane's threads and the control plane say to each other: bounded queues and
//! doorbells, never a lock on a core.

use crate::effects::{Note, SnapshotSave};
use crate::ids::{GroupId, Index, NodeId};
use crate::status::EngineStatus;
use std::os::fd::OwnedFd;

/// From an engine's thread to the control plane. Sending never blocks: a full queue keeps the message
/// for the next turn.
pub enum ToControl {
    /// Make a segment, or make it anew: zeros, synced.
    MakeSegment { engine: u32, slot: u32 },
    /// Write a snapshot, synced, and answer [`ToCore::SnapshotSaved`].
    SaveSnapshot { engine: u32, save: SnapshotSave },
    /// Remove a snapshot's file.
    DropSnapshot { engine: u32, group: GroupId, index: Index },
    /// Something worth telling.
    Note { engine: u32, note: Note },
    /// The answer to [`ToCore::Status`].
    Status { ticket: u64, status: EngineStatus },
    /// An engine can't go on; the node stops with this reason.
    Fatal { engine: u32, reason: Fatal },
}

/// To an engine's thread, followed by a ring of its doorbell.
pub enum ToCore {
    /// The segment is there.
    SegmentReady { engine: u32, slot: u32 },
    /// The snapshot is on the disk.
    SnapshotSaved { engine: u32, group: GroupId, index: Index },
    /// Another engine learned who leads a group.
    LeaderHint { group: GroupId, leader: Option<NodeId> },
    /// Answer with [`ToControl::Status`] for each engine of the thread.
    Status { ticket: u64 },
    /// A socket whose first frame names an engine of this thread, with the bytes read so far.
    Socket { fd: OwnedFd, read: Vec<u8> },
    /// Finish what is under way, close the connections, and end.
    Stop,
}

/// Why a node stops by itself. Each has a number that is also the end of its message.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Fatal {
    /// A write or a sync of the journal failed.
    #[error("E201 writing the journal failed: {0}. Nothing more is acknowledged. Check the disk, then start the node again")]
    JournalWrite(String),
    /// The disk is full.
    #[error("E202 the disk is full: {0}. Nothing more is acknowledged. Free space, then start the node again")]
    DiskFull(String),
    /// A snapshot could not be written.
    #[error("E203 writing a snapshot failed: {0}. Check the disk, then start the node again")]
    SnapshotWrite(String),
    /// The ring failed.
    #[error("E204 io_uring failed: {0}")]
    Ring(String),
}
