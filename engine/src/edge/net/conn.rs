//! One connection: its descriptor, what it is for, what is on its way out.

use super::Received;
use super::splitter::{Splitter, Whole};
use crate::ids::{ConnId, NodeId};
use crate::time::Time;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use wire::limits::{FRAME_BYTES_MAX, PEER_FRAME_BYTES_MAX};

/// A send buffer that grew past this is given back to the allocator once it was sent, in bytes.
const CLIENT_KEPT_BYTES_MAX: usize = 256 << 10;
/// The same for a peer, which is sent a lot all the time.
const PEER_KEPT_BYTES_MAX: usize = 8 << 20;

/// What a client is sent at a time, in bytes.
const CLIENT_SEND_BYTES_MAX: usize = 256 << 10;

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The slot is free.
    Free,
    /// Accepted or handed over: the first frame will say.
    Greeting,
    /// A client of the engine at this seat of the thread.
    Client {
        /// The seat.
        seat: usize,
    },
    /// We are connecting to a peer.
    Dialing {
        /// The link.
        link: usize,
    },
    /// Connected to a peer, which has not said who it is.
    Dialed {
        /// The link.
        link: usize,
    },
    /// A peer, known and checked.
    Peer {
        /// The link.
        link: usize,
        /// The seat.
        seat: usize,
        /// The node.
        peer: NodeId,
    },
    /// What is queued is still sent; then the other side has a moment to read it.
    Parting,
    /// Shut down; the kernel has yet to give everything back.
    Closing,
}

/// A connection.
pub(super) struct Conn {
    pub generation: u32,
    pub role: Role,
    pub fd: Option<OwnedFd>,
    pub splitter: Splitter,
    /// On its way out; not touched while `sending`.
    in_flight: Vec<u8>,
    /// How much of it is out.
    sent: usize,
    /// Goes out next.
    pending: Vec<u8>,
    pub sending: bool,
    /// Whether it is on the list of those with something to send.
    pub listed: bool,
    /// Whether a receive is armed.
    pub receiving: bool,
    /// Whether the other side has been told that nothing more comes.
    pub shut: bool,
    /// Submissions whose last completion has not come.
    pub ops: u32,
    /// When it is closed unless it got on: while greeting, dialing, parting.
    pub deadline: Time,
    /// When something arrived last.
    pub heard: Time,
    /// Whether its silence means something: it is a peer that told something before.
    pub pulses: bool,
    /// When something of what waits went out last.
    pub moved: Time,
    /// Of what waits: what counts as a client's.
    pub owed: usize,
    /// What its unfinished frame was counted as.
    pub carried: usize,
    /// Whether its engine was told that much waits.
    pub full: bool,
}

impl Conn {
    pub fn free() -> Conn {
        Conn {
            generation: 0,
            role: Role::Free,
            fd: None,
            splitter: Splitter::default(),
            in_flight: Vec::new(),
            sent: 0,
            pending: Vec::new(),
            sending: false,
            listed: false,
            receiving: false,
            shut: false,
            ops: 0,
            deadline: Time::MAX,
            heard: Time::ZERO,
            pulses: false,
            moved: Time::ZERO,
            owed: 0,
            carried: 0,
            full: false,
        }
    }

    /// The connection that stands at this index.
    pub fn id(&self, index: u32) -> ConnId {
        ConnId { index, generation: self.generation }
    }

    pub fn raw(&self) -> RawFd {
        self.fd.as_ref().expect("a connection in use has a descriptor").as_raw_fd()
    }

    /// Whether frames of any kind may still be queued.
    pub fn is_open(&self) -> bool {
        !matches!(self.role, Role::Free | Role::Closing)
    }

    /// Whether it is closed at its deadline.
    pub fn is_passing(&self) -> bool {
        matches!(
            self.role,
            Role::Greeting | Role::Dialing { .. } | Role::Dialed { .. } | Role::Parting
        )
    }

    /// Whether it takes one of the newcomers' seats.
    pub fn is_newcomer(&self) -> bool {
        matches!(self.role, Role::Greeting | Role::Parting)
    }

    /// Whether it takes one of the clients' seats.
    pub fn is_client(&self) -> bool {
        matches!(self.role, Role::Client { .. })
    }

    /// Whether it is a socket that does not lead anywhere yet.
    pub fn is_unconnected(&self) -> bool {
        matches!(self.role, Role::Dialing { .. })
    }

    /// Tells the other side that nothing more comes, or ends both directions.
    pub fn shut(&mut self, how: Shutdown) {
        let how = match how {
            Shutdown::Write => libc::SHUT_WR,
            _ => libc::SHUT_RDWR,
        };
        self.shut = true;
        // SAFETY: takes no pointers. It fails on a socket that is not connected: nothing to tell anybody.
        unsafe { libc::shutdown(self.raw(), how) };
    }

    /// Splits what arrived.
    pub fn split(&mut self, now: Time, bytes: &[u8], each: impl FnMut(Whole<'_>)) -> Received {
        let peer = matches!(self.role, Role::Peer { .. });
        let frame_bytes_max = if peer { PEER_FRAME_BYTES_MAX } else { FRAME_BYTES_MAX };
        match self.splitter.feed(now, bytes, frame_bytes_max, each) {
            Ok(()) => Received::Bytes,
            Err(error) => Received::Bad(error),
        }
    }

    /// Bytes that are not out yet.
    pub fn waiting(&self) -> usize {
        self.in_flight.len() - self.sent + self.pending.len()
    }

    /// Queues bytes: by swapping buffers where that is possible.
    pub fn queue(&mut self, bytes: &mut Vec<u8>) {
        if self.in_flight.is_empty() {
            debug_assert!(!self.sending && self.pending.is_empty());
            std::mem::swap(&mut self.in_flight, bytes);
        } else if self.pending.is_empty() {
            std::mem::swap(&mut self.pending, bytes);
        } else {
            self.pending.extend_from_slice(bytes);
            bytes.clear();
        }
    }

    /// What to send now. A client is sent a piece at a time, so that a slow reader is seen to read.
    pub fn outgoing(&self) -> &[u8] {
        let rest = &self.in_flight[self.sent..];
        let peer = matches!(self.role, Role::Peer { .. });
        if peer { rest } else { &rest[..rest.len().min(CLIENT_SEND_BYTES_MAX)] }
    }

    /// `bytes` more are out. Says whether anything is left to send.
    pub fn on_sent(&mut self, bytes: usize) -> bool {
        assert!(!self.sending, "the send has completed");
        self.sent += bytes;
        assert!(self.sent <= self.in_flight.len(), "no more is sent than there was");
        if self.sent < self.in_flight.len() {
            return true;
        }
        self.in_flight.clear();
        self.sent = 0;
        let kept_max = match self.role {
            Role::Peer { .. } => PEER_KEPT_BYTES_MAX,
            _ => CLIENT_KEPT_BYTES_MAX,
        };
        if self.in_flight.capacity() > kept_max {
            self.in_flight = Vec::new();
        }
        std::mem::swap(&mut self.in_flight, &mut self.pending);
        !self.in_flight.is_empty()
    }

    /// Makes the slot free: another connection may stand here, as another generation.
    pub fn release(&mut self) {
        assert!(self.role == Role::Closing, "only a closing connection is released");
        assert_eq!(self.ops, 0, "the kernel has given everything back");
        let generation = self.generation.wrapping_add(1);
        *self = Conn { generation, ..Conn::free() };
    }
}
