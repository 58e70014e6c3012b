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
//! **Seats**: who has not said hello, or has been refused, is a newcomer. Newcomers have seats of their own, and the
//! oldest makes room for the next. So however many clients there are, a peer gets in far enough to say who it is.
//!
//! **Looks**: now and then all connections are looked at ([`Net::look`]): who is silent, who does not finish a frame,
//! who does not read.
//!
//! # Invariants
//!
//! - A connection is named by index and generation wherever the name is kept longer than a call.
//! - A slot is used again only after every submission on its descriptor has completed, and not in the turn
//!   in which it was freed: an engine's last words to the old connection never reach a new one.
//! - A buffer that is being sent is not touched.
//! - Connections, the bytes that wait for each, and those that wait for all are bounded by named limits.

mod conn;
mod look;
mod out;
mod sockets;
pub mod splitter;
#[cfg(test)]
mod tests;

pub use conn::Role;
pub use look::{Crowd, Overdue};
pub use out::{Overflow, code_of, write_error};

use super::core::{Op, token};
use super::ring::{BufferRing, Completion, Ring};
use crate::ids::ConnId;
use crate::time::{Duration, Time};
use conn::Conn;
use io_uring::{opcode, types::Fd};
use splitter::Whole;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use wire::WireError;
use wire::frames::Frame;
use wire::limits::WAIT_MS_MAX;

/// Clients of one thread, if there are descriptors for so many.
pub const CLIENTS_MAX: usize = 10_000;
/// Connections of one thread that have not said hello, or were refused and have a moment to read why.
pub const NEWCOMERS_MAX: usize = 1024;
/// How long a connection has for its hello.
pub const HELLO_MAX: Duration = Duration::from_secs(5);
/// How long an attempt to connect to a peer may take. The kernel's own pauses between attempts grow to a minute.
pub const DIAL_MAX: Duration = Duration::from_secs(1);
/// How long a peer that we connected to has for its hello.
pub const PEER_HELLO_MAX: Duration = Duration::from_secs(2);
/// The longest first frame, header included, in bytes.
pub const HELLO_BYTES_MAX: usize = 8 << 10;
/// How long a client may be silent. Longer than any wait, so that who waits is not idle.
pub const CLIENT_IDLE_MAX: Duration = Duration::from_secs(15 * 60);
/// How long a peer that told something before may be silent: it tells something ten times a second.
pub const PEER_SILENT_MAX: Duration = Duration::from_secs(2);
/// How long a client's frame may take to arrive, from its first byte to its last.
pub const FRAME_MAX: Duration = Duration::from_secs(20);
/// What unfinished frames of one thread may take together, in bytes; past it those that began first are given up.
pub const UNFINISHED_BYTES_MAX: usize = 128 << 20;
/// Answers that wait for the clients of one thread, in bytes; past it what is large is not answered yet, and past
/// half of it nobody for whom more than a little waits gets more.
pub const OUTBOXES_BYTES_MAX: usize = 256 << 20;
/// How long a client may read nothing while the answers of its thread are past that.
pub const STUCK_MAX: Duration = Duration::from_secs(5);
/// How long the other side has to read the last frame of a connection.
const PARTING_MAX: Duration = Duration::from_millis(500);
/// How often connections that are passing are looked at.
const SWEEP: Duration = Duration::from_millis(100);
/// How long to wait after an accept failed: out of descriptors, most likely.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

const _: () = assert!(CLIENT_IDLE_MAX.as_millis() > WAIT_MS_MAX as u128);

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

/// How many connections a thread has seats for. Peers always have one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seats {
    /// For clients.
    pub clients: usize,
    /// For those that have not said hello.
    pub newcomers: usize,
}

impl Seats {
    /// As many as there may be.
    pub const MOST: Seats = Seats { clients: CLIENTS_MAX, newcomers: NEWCOMERS_MAX };
}

/// The connections of one thread.
pub struct Net {
    client_buffers: BufferRing,
    peer_buffers: BufferRing,
    listener: RawFd,
    accept_at: Time,
    seats: Seats,
    clients: usize,
    newcomers: usize,
    /// Newcomers in the order in which they became that, and some that are none any more.
    arrivals: VecDeque<ConnId>,
    conns: Vec<Conn>,
    free: Vec<u32>,
    /// Freed in this turn.
    released: Vec<u32>,
    to_send: Vec<u32>,
    to_arm: Vec<u32>,
    sends_under_way: u32,
    passing: usize,
    sweep_at: Time,
    look_at: Time,
    looked_at: Time,
    bytes_out: u64,
    /// What unfinished frames take.
    carried: usize,
    /// What waits for clients.
    owed: usize,
    /// Whether the engines were told that too much waits.
    crowded: bool,
}

impl Net {
    /// Makes the buffers and arms the accept. `listener` must stay open.
    ///
    /// # Errors
    /// When there is no memory for the buffers, or the ring is broken.
    pub fn new(ring: &mut Ring, listener: RawFd, seats: Seats) -> io::Result<Net> {
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
            seats,
            clients: 0,
            newcomers: 0,
            arrivals: VecDeque::new(),
            conns: Vec::new(),
            free: Vec::new(),
            released: Vec::new(),
            to_send: Vec::new(),
            to_arm: Vec::new(),
            sends_under_way: 0,
            passing: 0,
            sweep_at: Time::MAX,
            look_at: Time::MAX,
            looked_at: Time::ZERO,
            bytes_out: 0,
            carried: 0,
            owed: 0,
            crowded: false,
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

    /// Whether one more client has no seat.
    pub fn is_full(&self) -> bool {
        self.clients >= self.seats.clients
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

    /// The newcomer that has to make room for another, if all their seats are taken: the oldest. A peer says hello
    /// at once.
    pub fn displaced(&mut self) -> Option<u32> {
        if self.newcomers < self.seats.newcomers {
            return None;
        }
        self.forget_arrived();
        self.arrivals.pop_front().map(|oldest| oldest.index)
    }

    /// Forgets those that are newcomers no more, up to the first that is one.
    fn forget_arrived(&mut self) {
        while let Some(first) = self.arrivals.front() {
            let conn = &self.conns[first.index as usize];
            if conn.generation == first.generation && conn.is_newcomer() {
                return;
            }
            self.arrivals.pop_front();
        }
    }

    /// Takes a socket in. Who is greeted needs a seat: see [`Net::displaced`].
    pub fn insert(&mut self, now: Time, fd: OwnedFd, role: Role) -> u32 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.conns.push(Conn::free());
            u32::try_from(self.conns.len() - 1).expect("descriptors are 31 bits")
        });
        sockets::tune(&fd, sockets::Manners::CLIENT);
        let conn = &mut self.conns[index as usize];
        assert_eq!(conn.role, Role::Free, "only a free slot is given away");
        conn.fd = Some(fd);
        (conn.heard, conn.moved) = (now, now);
        self.set_role(now, index, role);
        if role == Role::Greeting {
            self.to_arm.push(index);
        }
        if self.look_at == Time::MAX {
            (self.look_at, self.looked_at) = (now + look::LOOK_EVERY, now);
        }
        index
    }

    /// Says what a connection is for from now on.
    pub fn set_role(&mut self, now: Time, index: u32, role: Role) {
        let conn = &mut self.conns[index as usize];
        self.passing -= usize::from(conn.is_passing());
        self.newcomers -= usize::from(conn.is_newcomer());
        self.clients -= usize::from(conn.is_client());
        conn.role = role;
        self.passing += usize::from(conn.is_passing());
        self.newcomers += usize::from(conn.is_newcomer());
        self.clients += usize::from(conn.is_client());
        conn.deadline = match role {
            Role::Greeting => now + HELLO_MAX,
            Role::Dialing { .. } => now + DIAL_MAX,
            Role::Dialed { .. } => now + PEER_HELLO_MAX,
            Role::Parting => now + PARTING_MAX,
            _ => Time::MAX,
        };
        if conn.is_passing() {
            self.sweep_at = self.sweep_at.min(now + SWEEP);
        }
        if let (Role::Peer { .. }, Some(fd)) = (role, &conn.fd) {
            sockets::tune(fd, sockets::Manners::PEER);
        }
        if !matches!(role, Role::Greeting | Role::Dialing { .. } | Role::Closing) && !conn.receiving
        {
            self.to_arm.push(index);
        }
        if conn.is_newcomer() {
            let arrived = ConnId { index, generation: conn.generation };
            self.forget_arrived();
            self.arrivals.push_back(arrived);
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
        conn.heard = now;
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
        self.count_carried(index);
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
        let received = conn.split(now, &held[used..], each);
        self.count_carried(index);
        received
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
        let conn = &mut self.conns[index as usize];
        self.owed -= conn.owed;
        self.carried -= conn.carried;
        conn.release();
        self.released.push(index);
    }
}
