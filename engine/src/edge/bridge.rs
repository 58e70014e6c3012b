//! What the data plane's threads and the control plane say to each other: bounded mailboxes and
//! doorbells, never a lock on a core.
//!
//! A [`mailbox`] has any number of [`Post`]s and one [`Inbox`]. A post never blocks: a full mailbox
//! gives the message back. The inbox's doorbell is an eventfd: a data thread reads it through its
//! ring, the control plane through glommio.

use crate::effects::{News, Note, Outdated, SnapshotPart};
use crate::ids::{GroupId, Index};
use crate::status::EngineStatus;
use crossbeam::queue::ArrayQueue;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::{Arc, OnceLock};

/// Messages that wait for one data thread.
pub const CORE_MAILBOX_MAX: usize = 4096;
/// Messages that wait for the control plane.
pub const CONTROL_MAILBOX_MAX: usize = 4096;

struct Shared<T> {
    queue: ArrayQueue<T>,
    bell: OwnedFd,
}

/// Where messages are put. Cheap to clone.
pub struct Post<T>(Arc<Shared<T>>);

/// Where messages are taken out.
pub struct Inbox<T>(Arc<Shared<T>>);

/// Makes a mailbox for at most `messages_max` messages.
///
/// # Errors
/// When no eventfd can be made: the process is out of file descriptors.
pub fn mailbox<T>(messages_max: usize) -> io::Result<(Post<T>, Inbox<T>)> {
    // SAFETY: eventfd takes no pointers; the result is checked below.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was just opened here and belongs to nobody else.
    let bell = unsafe { OwnedFd::from_raw_fd(fd) };
    let shared = Arc::new(Shared { queue: ArrayQueue::new(messages_max), bell });
    Ok((Post(Arc::clone(&shared)), Inbox(shared)))
}

impl<T> Clone for Post<T> {
    fn clone(&self) -> Self {
        Post(Arc::clone(&self.0))
    }
}

impl<T> Post<T> {
    /// Puts a message in and rings the doorbell.
    ///
    /// # Errors
    /// The message itself, when the mailbox is full.
    pub fn send(&self, message: T) -> Result<(), T> {
        self.0.queue.push(message)?;
        self.ring();
        Ok(())
    }

    /// Rings the doorbell.
    pub fn ring(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: `one` holds the eight bytes that are written, for the length of the call.
        let wrote = unsafe { libc::write(self.0.bell.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        // A counter that is full has rung; nothing else can go wrong with an eventfd.
        debug_assert!(wrote == 8 || wrote == -1);
    }
}

impl<T> Inbox<T> {
    /// Takes the oldest message out.
    pub fn take(&self) -> Option<T> {
        self.0.queue.pop()
    }

    /// The doorbell: an eventfd in blocking mode. Whoever reads 8 bytes from it waits for a ring.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.0.bell.as_fd()
    }
}

/// From an engine's thread to the control plane. Sending never blocks: a full queue keeps the message
/// for the next turn.
pub enum ToControl {
    /// Make a segment, or make it anew: zeros, synced (`wal::prepare`), then answer
    /// [`ToCore::SegmentReady`].
    MakeSegment {
        /// Whose it is.
        engine: u32,
        /// Its slot.
        slot: u32,
    },
    /// Write a part of a snapshot; after the last, synced, answer [`ToCore::SnapshotSaved`].
    SaveSnapshot {
        /// Whose it is.
        engine: u32,
        /// The part.
        part: SnapshotPart,
    },
    /// Remove a snapshot's file.
    DropSnapshot {
        /// Whose it is.
        engine: u32,
        /// The group.
        group: GroupId,
        /// The index that it stands for.
        index: Index,
    },
    /// Something worth telling. The data plane itself passes leaders on between its engines.
    Note {
        /// Who tells it.
        engine: u32,
        /// What.
        note: Note,
    },
    /// An engine's clients want the node's state: answer [`ToCore::Report`].
    Report {
        /// Which engine.
        engine: u32,
    },
    /// The cluster's nodes have changed: keep them in the manifest. The data plane itself passes them on between
    /// its engines.
    Nodes {
        /// A snapshot of the meta group's state.
        nodes: Arc<[u8]>,
    },
    /// The answer to [`ToCore::Status`].
    Status {
        /// The ticket of the question.
        ticket: u64,
        /// The state.
        status: EngineStatus,
    },
}

/// To an engine's thread, followed by a ring of its doorbell.
pub enum ToCore {
    /// The segment is there.
    SegmentReady {
        /// Whose it is.
        engine: u32,
        /// Its slot.
        slot: u32,
    },
    /// The snapshot is on the disk.
    SnapshotSaved {
        /// Whose it is.
        engine: u32,
        /// The group.
        group: GroupId,
        /// The index that it stands for.
        index: Index,
    },
    /// What an engine of another thread learned.
    News(News),
    /// An engine of another thread sends something for a group that this one keeps.
    Across {
        /// Which engine keeps it.
        engine: u32,
        /// A frame.
        frame: Vec<u8>,
    },
    /// The node's state, for the clients of an engine.
    Report {
        /// Which engine.
        engine: u32,
        /// The document of `GET /status`.
        json: Vec<u8>,
    },
    /// Answer with [`ToControl::Status`] for each engine of the thread.
    Status {
        /// Comes back with the answer.
        ticket: u64,
    },
    /// A socket whose first frame names an engine of this thread, with the bytes read so far.
    Socket {
        /// The socket.
        fd: OwnedFd,
        /// What was read from it.
        read: Vec<u8>,
    },
    /// Finish what is under way, close the connections, and end.
    Stop,
}

/// Why the node can't go on: set once, by whoever finds out first. No mailbox can be too full for it.
#[derive(Default)]
pub struct Latch(OnceLock<(u32, Fatal)>);

impl Latch {
    /// An engine can't go on. The first reason counts.
    pub fn set(&self, engine: u32, reason: Fatal) {
        // A later reason is most likely a consequence of the first.
        let _ = self.0.set((engine, reason));
    }

    /// Which engine can't go on, and why.
    pub fn get(&self) -> Option<&(u32, Fatal)> {
        self.0.get()
    }
}

/// Why a node stops by itself. Each has a number that is also the end of its message.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Fatal {
    /// A write or a sync of the journal failed.
    #[error(
        "E201 writing the journal failed: {0}. Nothing more is acknowledged. Check the disk, then start the node again"
    )]
    JournalWrite(String),
    /// The disk is full.
    #[error(
        "E202 the disk is full: {0}. Nothing more is acknowledged. Free space, then start the node again"
    )]
    DiskFull(String),
    /// A snapshot could not be written.
    #[error("E203 writing a snapshot failed: {0}. Check the disk, then start the node again")]
    SnapshotWrite(String),
    /// The ring failed.
    #[error("E204 io_uring failed: {0}")]
    Ring(String),
    /// The manifest could not be written.
    #[error(
        "E205 writing the MANIFEST failed: {0}. The old one still stands. Check the disk, then start the node again"
    )]
    ManifestWrite(String),
    /// The cluster went where this node can't follow.
    #[error(transparent)]
    Outdated(Outdated),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_mailbox_gives_the_message_back() {
        let (post, inbox) = mailbox(2).unwrap();
        post.send(1).unwrap();
        post.clone().send(2).unwrap();
        assert_eq!(post.send(3), Err(3));
        assert_eq!([inbox.take(), inbox.take(), inbox.take()], [Some(1), Some(2), None]);
    }

    #[test]
    fn a_message_rings_the_doorbell() {
        use std::io::Read;
        let (post, inbox) = mailbox(2).unwrap();
        post.send(1).unwrap();
        post.send(2).unwrap();
        let mut count = [0; 8];
        let bell = inbox.bell().try_clone_to_owned().unwrap();
        std::fs::File::from(bell).read_exact(&mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), 2);
    }
}
