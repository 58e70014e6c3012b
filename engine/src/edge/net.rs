//! Connections: bytes in, frames out, bytes out. It knows sockets and frames, and no engine.
//!
//! # How it works
//!
//! Every connection of a thread stands in one slab; its index is also the index of its outbox. What
//! arrives is received by a multishot receive into provided buffers and split there, in place
//! ([`splitter`]). What goes out is queued by swapping buffers and sent once a turn. Before its first frame
//! is known a connection has only a one-shot receive armed, so that it can be handed over to another
//! thread with nothing of it left in this one's ring.
//!
//! A connection is closed in two ways. [`Net::part`] sends what is queued, says that nothing more comes,
//! and lets the other side read that for a moment: closing a socket with unread bytes would reset it,
//! and the error frame would be lost. [`Net::close`] is at once.
//!
//! # Invariants
//!
//! - A slot is used again only after every submission on its descriptor has completed, and not in the turn
//!   in which it was freed: an engine's last words to the old connection never reach a new one.
//! - A buffer that is being sent is not touched.
//! - Connections, and the bytes that wait for each, are bounded by named limits.

mod conn;
mod out;
pub mod splitter;
#[cfg(test)]
mod tests;

pub use conn::Role;
pub use out::{Overflow, code_of, write_error};

use super::core::{Op, token};
use super::ring::{BufferRing, Completion, Ring};
use crate::ids::ConnId;
use crate::time::{Duration, Time};
use conn::Conn;
use io_uring::{opcode, types::Fd};
use splitter::Whole;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use wire::WireError;
use wire::frames::Frame;

/// Connections of one thread, those that have not said hello included.
pub const CONNECTIONS_MAX: usize = 10_000;
/// How long a connection has for its hello.
pub const HELLO_MAX: Duration = Duration::from_secs(5);
/// The longest first frame, header included, in bytes.
pub const HELLO_BYTES_MAX: usize = 8 << 10;
/// How long the other side has to read the last frame of a connection.
const PARTING_MAX: Duration = Duration::from_millis(500);
/// How often connections that are passing are looked at.
const SWEEP: Duration = Duration::from_millis(100);
/// How long to wait after an accept failed: out of descriptors, most likely.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Buffers for what clients send.
const CLIENT_BUFFERS: (u16, usize) = (1024, 4 << 10);
/// Buffers for what peers send.
const PEER_BUFFERS: (u16, usize) = (64, 64 << 10);

/// What came out of a receive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Received {
    /// Frames, or parts of one.
    Bytes,
    /// The first bytes of a connection: see [`Net::greeting`].
    Greeting,
    /// Nothing that anybody wants to know.
    Nothing,
    /// No buffer was free: the receive is armed again.
    Exhausted,
    /// The other side is gone.
    Gone,
    /// Not a frame.
    Bad(WireError),
}

/// Which buffers a receive fills.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Group {
    /// Small ones.
    Clients,
    /// Large ones.
    Peers,
}

/// The connections of one thread.
pub struct Net {
    client_buffers: BufferRing,
    peer_buffers: BufferRing,
    listener: RawFd,
    accept_at: Time,
    conns: Vec<Conn>,
    free: Vec<u32>,
    /// Freed in this turn.
    released: Vec<u32>,
    to_send: Vec<u32>,
    to_arm: Vec<u32>,
    sends_under_way: u32,
    passing: usize,
    sweep_at: Time,
    bytes_out: u64,
}

impl Net {
    /// Makes the buffers and arms the accept. `listener` must stay open.
    ///
    /// # Errors
    /// When there is no memory for the buffers, or the ring is broken.
    pub fn new(ring: &mut Ring, listener: RawFd) -> io::Result<Net> {
        let (count, size) = CLIENT_BUFFERS;
        let client_buffers = BufferRing::new(ring, 0, count, size)?;
        let (count, size) = PEER_BUFFERS;
        let peer_buffers = BufferRing::new(ring, 1, count, size)?;
        ring.accept_multi(listener, token(Op::Accept, 0))?;
        Ok(Net {
            client_buffers,
            peer_buffers,
            listener,
            accept_at: Time::MAX,
            conns: Vec::new(),
            free: Vec::new(),
            released: Vec::new(),
            to_send: Vec::new(),
            to_arm: Vec::new(),
            sends_under_way: 0,
            passing: 0,
            sweep_at: Time::MAX,
            bytes_out: 0,
        })
    }

    /// The connection at an index.
    pub fn id(&self, index: u32) -> ConnId {
        ConnId { index, generation: self.conns[index as usize].generation }
    }

    /// What the connection at an index is for; [`Role::Free`] when there is none.
    pub fn role(&self, index: u32) -> Role {
        self.conns.get(index as usize).map_or(Role::Free, |conn| conn.role)
    }

    /// Whether `conn` is still the connection that stands there.
    pub fn is(&self, conn: ConnId) -> bool {
        let there = self.conns.get(conn.index as usize);
        there.is_some_and(|there| there.generation == conn.generation && there.is_open())
    }

    /// How many connections there are.
    pub fn count(&self) -> usize {
        self.conns.len() - self.free.len() - self.released.len()
    }

    /// Bytes that went out so far.
    pub fn bytes_out(&self) -> u64 {
        self.bytes_out
    }

    /// An accept completed: the new socket, if it brought one.
    ///
    /// # Errors
    /// When the ring is broken.
    pub fn on_accept(
        &mut self,
        now: Time,
        ring: &mut Ring,
        completion: &Completion,
    ) -> io::Result<Option<OwnedFd>> {
        if !completion.more() {
            if completion.result >= 0 {
                ring.accept_multi(self.listener, token(Op::Accept, 0))?;
            } else {
                self.accept_at = now + ACCEPT_RETRY;
            }
        }
        // SAFETY: the kernel just made this descriptor for us.
        Ok((completion.result >= 0).then(|| unsafe { OwnedFd::from_raw_fd(completion.result) }))
    }

    /// Takes a socket in. It is refused, and so closed, when there are too many.
    pub fn insert(&mut self, now: Time, fd: OwnedFd, role: Role) -> Option<u32> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.conns.len() < CONNECTIONS_MAX => {
                self.conns.push(Conn::free());
                u32::try_from(self.conns.len() - 1).expect("the limit is small")
            }
            None => return None,
        };
        set_nodelay(&fd);
        let conn = &mut self.conns[index as usize];
        assert_eq!(conn.role, Role::Free, "only a free slot is given away");
        conn.fd = Some(fd);
        self.set_role(now, index, role);
        if role == Role::Greeting {
            self.to_arm.push(index);
        }
        Some(index)
    }

    /// Says what a connection is for from now on.
    pub fn set_role(&mut self, now: Time, index: u32, role: Role) {
        let conn = &mut self.conns[index as usize];
        self.passing -= usize::from(conn.is_passing());
        conn.role = role;
        self.passing += usize::from(conn.is_passing());
        conn.deadline = match role {
            Role::Greeting | Role::Dialing { .. } | Role::Dialed { .. } => now + HELLO_MAX,
            Role::Parting => now + PARTING_MAX,
            _ => Time::MAX,
        };
        if conn.is_passing() {
            self.sweep_at = self.sweep_at.min(now + SWEEP);
        }
        if !matches!(role, Role::Greeting | Role::Dialing { .. } | Role::Closing) && !conn.receiving
        {
            self.to_arm.push(index);
        }
    }

    /// A receive completed. Whole frames of a client or a checked peer go to `each`.
    pub fn on_receive(
        &mut self,
        now: Time,
        completion: &Completion,
        index: u32,
        group: Group,
        each: impl FnMut(Whole<'_>),
    ) -> Received {
        let conn = &mut self.conns[index as usize];
        if !completion.more() {
            conn.ops -= 1;
            conn.receiving = false;
            if conn.role != Role::Closing {
                self.to_arm.push(index);
            }
        }
        let buffers = match group {
            Group::Clients => &mut self.client_buffers,
            Group::Peers => &mut self.peer_buffers,
        };
        let received = match buffers.filled(completion) {
            None if completion.result == -libc::ENOBUFS => Received::Exhausted,
            None | Some([]) => Received::Gone,
            Some(bytes) => match conn.role {
                Role::Client { .. } | Role::Peer { .. } => conn.split(now, bytes, each),
                Role::Greeting | Role::Dialed { .. } => {
                    conn.splitter.hold(bytes);
                    Received::Greeting
                }
                _ => Received::Nothing,
            },
        };
        buffers.give_back(completion);
        received
    }

    /// The first frame of a connection, when it is whole.
    ///
    /// # Errors
    /// [`WireError`] when what arrived is no frame, or one too long for a greeting.
    pub fn greeting(&self, index: u32) -> Result<Option<Frame<'_>>, WireError> {
        wire::split(self.conns[index as usize].splitter.held(), HELLO_BYTES_MAX)
    }

    /// Goes on behind a greeting of `used` bytes, now that the connection has its role.
    pub fn resume(
        &mut self,
        now: Time,
        index: u32,
        used: usize,
        each: impl FnMut(Whole<'_>),
    ) -> Received {
        let conn = &mut self.conns[index as usize];
        let held = conn.splitter.take();
        conn.split(now, &held[used..], each)
    }

    /// Takes a connection that has not been greeted out, with the bytes that it sent, for another
    /// thread. Its first receive has completed, so this ring knows nothing of it.
    pub fn detach(&mut self, now: Time, index: u32) -> (OwnedFd, Vec<u8>) {
        let conn = &mut self.conns[index as usize];
        assert_eq!(conn.role, Role::Greeting, "only a greeting connection is handed over");
        assert_eq!(conn.ops, 0, "nothing is armed on it");
        let fd = conn.fd.take().expect("a connection in use has a descriptor");
        let read = conn.splitter.take();
        self.set_role(now, index, Role::Closing);
        self.release(index);
        (fd, read)
    }

    /// Bytes that were read before a connection was handed over to this thread.
    pub fn hold(&mut self, index: u32, read: &[u8]) {
        self.conns[index as usize].splitter.hold(read);
    }

    /// A connect completed.
    pub fn on_connect(&mut self, index: u32) {
        self.conns[index as usize].ops -= 1;
    }

    /// Connects; the completion carries `Op::Connect` and the index.
    ///
    /// # Errors
    /// When the ring is broken.
    ///
    /// # Safety
    /// `address` must be a socket address of `length` bytes that stays in place until the completion.
    pub unsafe fn connect(
        &mut self,
        ring: &mut Ring,
        index: u32,
        address: *const libc::sockaddr,
        length: libc::socklen_t,
    ) -> io::Result<()> {
        let conn = &mut self.conns[index as usize];
        let entry = opcode::Connect::new(Fd(conn.raw()), address, length).build();
        // SAFETY: the caller vouches for the address; the descriptor is open until `ops` is zero.
        unsafe { ring.push(&entry.user_data(token(Op::Connect, u64::from(index))))? };
        conn.ops += 1;
        Ok(())
    }

    /// Names every connection whose time is up.
    pub fn sweep(&mut self, now: Time, overdue: &mut Vec<u32>) {
        if now < self.sweep_at {
            return;
        }
        for (index, conn) in self.conns.iter().enumerate() {
            if conn.is_passing() && conn.deadline <= now {
                overdue.push(u32::try_from(index).expect("the limit is small"));
            }
        }
        self.sweep_at = if self.passing > 0 { now + SWEEP } else { Time::MAX };
    }

    /// When this wants to be looked at again.
    pub fn wake_at(&self) -> Time {
        self.sweep_at.min(self.accept_at)
    }

    /// Whether nothing is on its way out.
    pub fn is_quiet(&self) -> bool {
        self.sends_under_way == 0 && self.to_send.is_empty()
    }

    fn arm(&mut self, ring: &mut Ring, index: u32) -> io::Result<()> {
        let conn = &mut self.conns[index as usize];
        if conn.receiving {
            return Ok(());
        }
        let low = u64::from(index);
        match conn.role {
            Role::Free | Role::Closing | Role::Dialing { .. } => return Ok(()),
            Role::Greeting => {
                ring.recv_once(conn.raw(), &self.client_buffers, token(Op::Receive, low))?;
            }
            Role::Client { .. } | Role::Parting => {
                ring.recv_multi(conn.raw(), &self.client_buffers, token(Op::Receive, low))?;
            }
            Role::Dialed { .. } | Role::Peer { .. } => {
                ring.recv_multi(conn.raw(), &self.peer_buffers, token(Op::ReceivePeer, low))?;
            }
        }
        conn.receiving = true;
        conn.ops += 1;
        Ok(())
    }

    /// A completion came for a closing connection: it may have been the last.
    pub fn release_if_done(&mut self, index: u32) {
        let conn = &self.conns[index as usize];
        if conn.role == Role::Closing && conn.ops == 0 {
            self.release(index);
        }
    }

    fn release(&mut self, index: u32) {
        self.conns[index as usize].release();
        self.released.push(index);
    }
}

fn set_nodelay(fd: &OwnedFd) {
    let one: libc::c_int = 1;
    // SAFETY: `one` is a c_int that lives for the length of the call. A socket that can't (a Unix one)
    // needs none.
    unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_NODELAY,
            (&raw const one).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
    }
}
