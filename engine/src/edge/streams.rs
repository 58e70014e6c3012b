//! Connections on one ring, behind a safe face: what a load generator or an echo needs of the data
//! plane, through the same [`Ring`] and [`BufferRing`] that the server uses.
//!
//! # How it works
//!
//! Sockets are attached to numbered slots. [`Streams::send`] swaps the caller's full vector against
//! the empty one of the last send, so nothing is copied or allocated; while a send is under way
//! the caller keeps gathering in its own. [`Streams::turn`] submits, waits, and tells what
//! happened: [`Event::Received`] in the provided buffer itself, [`Event::Sent`] when the next send
//! may go, [`Event::Closed`] when nothing of the socket is left in the kernel and its slot is free.
//!
//! # Invariants
//!
//! - The bytes of a send stay where they are until its completion: their vector is in `flying` and is
//!   touched only when `sending` is false.
//! - A slot is free only when no submission of its socket is under way, so a late completion never
//!   speaks of a new socket.

use super::ring::{BufferRing, Completion, Park, Ring, RingError, RingStats, Sizes};
use io_uring::{opcode, types};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

/// Buffers that the kernel fills.
const BUFFERS: u16 = 1024;
/// Size of one of them, in bytes.
const BUFFER_BYTES: usize = 16 << 10;
/// How long the end waits for the kernel to give buffers back.
const END_MAX: Duration = Duration::from_secs(2);

const RECEIVE: u64 = 1 << 32;
const SEND: u64 = 2 << 32;
const CANCEL: u64 = 3 << 32;
const OPERATION: u64 = !0 << 32;

/// What happened on a stream.
#[derive(Debug)]
pub enum Event<'a> {
    /// Bytes arrived.
    Received(&'a [u8]),
    /// The last send is done; the next may go.
    Sent,
    /// The socket is closed, by whichever side, and the slot is free.
    Closed,
}

#[derive(Default)]
struct Stream {
    socket: Option<OwnedFd>,
    flying: Vec<u8>,
    sent: usize,
    sending: bool,
    receiving: bool,
    closing: bool,
}

/// Connections on a ring of their own. Belongs to the thread that made it.
pub struct Streams {
    ring: Ring,
    buffers: BufferRing,
    streams: Vec<Stream>,
    completions: Vec<Completion>,
    /// Sends that were pushed since the last wait, and all that are under way.
    sends_new: u32,
    sends: u32,
}

impl Streams {
    /// Makes a ring with `count` free slots.
    ///
    /// # Errors
    /// [`RingError`], which says what the machine lacks.
    pub fn new(sizes: Sizes, count: usize) -> Result<Streams, RingError> {
        let ring = Ring::new(sizes)?;
        let buffers = BufferRing::new(&ring, 0, BUFFERS, BUFFER_BYTES).map_err(RingError::Other)?;
        let streams = (0..count).map(|_| Stream::default()).collect();
        let completions = Vec::with_capacity(sizes.completions as usize);
        Ok(Streams { ring, buffers, streams, completions, sends_new: 0, sends: 0 })
    }

    /// Takes a connected socket into a free slot and begins to receive.
    ///
    /// # Errors
    /// When the ring takes no more.
    pub fn attach(&mut self, slot: usize, socket: OwnedFd) -> io::Result<()> {
        let stream = &mut self.streams[slot];
        assert!(stream.socket.is_none(), "a slot holds one socket");
        *stream = Stream {
            socket: Some(socket),
            flying: std::mem::take(&mut stream.flying),
            ..Stream::default()
        };
        stream.flying.clear();
        self.receive(slot)
    }

    /// Whether a send on this slot would be taken now.
    pub fn can_send(&self, slot: usize) -> bool {
        let stream = &self.streams[slot];
        stream.socket.is_some() && !stream.sending && !stream.closing
    }

    /// Sends what is in `bytes` with the next turn and leaves it empty. When a send is under way or
    /// the stream is closed, does nothing: [`Event::Sent`] says when to try again.
    ///
    /// # Errors
    /// When the ring takes no more.
    pub fn send(&mut self, slot: usize, bytes: &mut Vec<u8>) -> io::Result<()> {
        if bytes.is_empty() || !self.can_send(slot) {
            return Ok(());
        }
        let stream = &mut self.streams[slot];
        assert!(stream.flying.is_empty(), "the last send is done");
        std::mem::swap(&mut stream.flying, bytes);
        stream.sent = 0;
        self.push_send(slot)
    }

    /// Closes a stream from this side. [`Event::Closed`] follows.
    ///
    /// # Errors
    /// When the ring takes no more.
    pub fn close(&mut self, slot: usize) -> io::Result<()> {
        let stream = &mut self.streams[slot];
        let Some(socket) = &stream.socket else { return Ok(()) };
        if !std::mem::replace(&mut stream.closing, true) {
            self.ring.cancel(socket.as_raw_fd(), CANCEL | slot as u64)?;
        }
        Ok(())
    }

    /// Submits what was asked for, waits until something happens or `timeout` has passed, and tells
    /// what happened.
    ///
    /// # Errors
    /// When the ring is broken.
    pub fn turn(
        &mut self,
        park: Park,
        timeout: Duration,
        mut on: impl FnMut(usize, Event<'_>),
    ) -> io::Result<()> {
        // Sends complete while they are submitted, unless others of them have been stuck since.
        let inline = if self.sends == self.sends_new { self.sends_new } else { 0 };
        self.sends_new = 0;
        self.ring.wait(park, inline, timeout)?;
        let mut completions = std::mem::take(&mut self.completions);
        self.ring.drain(&mut completions);
        for completion in completions.drain(..) {
            self.on_completion(&completion, &mut on)?;
        }
        self.completions = completions;
        Ok(())
    }

    /// What the ring did so far.
    pub fn stats(&self) -> RingStats {
        self.ring.stats()
    }

    fn on_completion(
        &mut self,
        completion: &Completion,
        on: &mut impl FnMut(usize, Event<'_>),
    ) -> io::Result<()> {
        let slot = (completion.token & !OPERATION) as usize;
        match completion.token & OPERATION {
            RECEIVE => {
                let bytes = self.buffers.filled(completion).filter(|bytes| !bytes.is_empty());
                let stream = &mut self.streams[slot];
                stream.receiving = completion.more();
                let starved = completion.result == -libc::ENOBUFS;
                if let Some(bytes) = bytes.filter(|_| !stream.closing) {
                    on(slot, Event::Received(bytes));
                } else if !starved {
                    self.close(slot)?;
                }
                self.buffers.give_back(completion);
                if !self.streams[slot].receiving && !self.streams[slot].closing {
                    self.receive(slot)?;
                }
            }
            SEND => {
                self.sends -= 1;
                let stream = &mut self.streams[slot];
                stream.sending = false;
                match usize::try_from(completion.result) {
                    Ok(sent) => stream.sent += sent,
                    Err(_) => {
                        stream.sent = stream.flying.len();
                        self.close(slot)?;
                    }
                }
                let stream = &mut self.streams[slot];
                if stream.sent < stream.flying.len() && !stream.closing {
                    self.push_send(slot)?;
                } else {
                    stream.flying.clear();
                    on(slot, Event::Sent);
                }
            }
            _ => {}
        }
        let stream = &mut self.streams[slot];
        if stream.closing && stream.socket.is_some() && !stream.sending && !stream.receiving {
            stream.socket = None;
            on(slot, Event::Closed);
        }
        Ok(())
    }

    fn receive(&mut self, slot: usize) -> io::Result<()> {
        let stream = &mut self.streams[slot];
        let socket = stream.socket.as_ref().expect("only attached streams receive").as_raw_fd();
        stream.receiving = true;
        self.ring.recv_multi(socket, &self.buffers, RECEIVE | slot as u64)
    }

    fn push_send(&mut self, slot: usize) -> io::Result<()> {
        let stream = &mut self.streams[slot];
        let socket = stream.socket.as_ref().expect("only attached streams send").as_raw_fd();
        let rest = &stream.flying[stream.sent..];
        let length = u32::try_from(rest.len()).expect("what is gathered in a turn is small");
        let entry = opcode::Send::new(types::Fd(socket), rest.as_ptr(), length)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build()
            .user_data(SEND | slot as u64);
        stream.sending = true;
        self.sends_new += 1;
        self.sends += 1;
        // SAFETY: the bytes are in `flying`, which is not touched while `sending` is true, and which
        // `drop` frees only after the kernel is done with it.
        unsafe { self.ring.push(&entry) }
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.ring.cancel_all(END_MAX);
        self.completions.clear();
        self.ring.drain(&mut self.completions);
        for completion in &self.completions {
            if completion.token & OPERATION == SEND {
                self.streams[(completion.token & !OPERATION) as usize].sending = false;
            }
        }
        for stream in self.streams.iter_mut().filter(|stream| stream.sending) {
            // The kernel still reads it: better lost than freed.
            std::mem::forget(std::mem::take(&mut stream.flying));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::ring::SMALL_SIZES;
    use std::net::{TcpListener, TcpStream};

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    fn turns(streams: &mut Streams, mut on: impl FnMut(usize, Event<'_>) -> bool) {
        for _ in 0..1000 {
            let mut done = false;
            let tick = Duration::from_millis(10);
            streams.turn(Park::Watch, tick, |slot, event| done |= on(slot, event)).unwrap();
            if done {
                return;
            }
        }
        panic!("what was waited for did not happen");
    }

    #[test]
    fn bytes_go_there_and_back_in_order() {
        let (near, far) = pair();
        let mut streams = Streams::new(SMALL_SIZES, 2).unwrap();
        streams.attach(0, near.into()).unwrap();
        streams.attach(1, far.into()).unwrap();
        let message: Vec<u8> = (0..400_000u32).flat_map(u32::to_le_bytes).collect();
        let mut out = message.clone();
        streams.send(0, &mut out).unwrap();
        assert!(out.is_empty());
        let mut got = Vec::new();
        turns(&mut streams, |slot, event| {
            if let (1, Event::Received(bytes)) = (slot, event) {
                got.extend_from_slice(bytes);
            }
            got.len() == message.len()
        });
        assert!(got == message);
    }

    #[test]
    fn a_slot_is_free_again_after_either_side_closed() {
        let (near, far) = pair();
        let mut streams = Streams::new(SMALL_SIZES, 1).unwrap();
        streams.attach(0, near.into()).unwrap();
        drop(far);
        turns(&mut streams, |_, event| matches!(event, Event::Closed));
        let (near, _far) = pair();
        streams.attach(0, near.into()).unwrap();
        streams.close(0).unwrap();
        turns(&mut streams, |_, event| matches!(event, Event::Closed));
        let (near, _far) = pair();
        streams.attach(0, near.into()).unwrap();
        assert!(streams.can_send(0));
    }

    #[test]
    fn a_send_into_a_socket_that_nobody_reads_ends_when_it_is_closed() {
        let (near, _far) = pair();
        let mut streams = Streams::new(SMALL_SIZES, 1).unwrap();
        streams.attach(0, near.into()).unwrap();
        streams.send(0, &mut vec![7; 64 << 20]).unwrap();
        streams.turn(Park::Block, Duration::from_millis(20), |_, _| {}).unwrap();
        streams.close(0).unwrap();
        turns(&mut streams, |_, event| matches!(event, Event::Closed));
    }
}
