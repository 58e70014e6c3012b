//! What goes out of a connection, and how a connection ends.

use super::conn::Conn;
use super::splitter::Splitter;
use super::{Net, Received, Role};
use crate::edge::core::{Op, token};
use crate::edge::ring::{Completion, Ring};
use crate::limits::CLIENT_OUTBOX_BYTES_MAX;
use crate::time::Time;
use io_uring::{opcode, types::Fd};
use std::io;
use std::net::Shutdown;
use wire::{Code, Header, WireError};

/// Bytes that were not queued: the other side reads too slowly.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Overflow {
    /// How many.
    pub bytes: usize,
}

impl Net {
    /// Queues bytes for a connection, and leaves the buffer empty. Nothing is queued past `bytes_max`.
    ///
    /// # Errors
    /// [`Overflow`], which says how much was not queued.
    pub fn queue(
        &mut self,
        now: Time,
        index: u32,
        bytes: &mut Vec<u8>,
        bytes_max: usize,
    ) -> Result<(), Overflow> {
        let Some(conn) = self.conns.get_mut(index as usize) else { return Ok(()) };
        if !conn.is_open() || conn.shut || bytes.is_empty() {
            return Ok(());
        }
        if conn.waiting() + bytes.len() > bytes_max {
            return Err(Overflow { bytes: bytes.len() });
        }
        if conn.waiting() == 0 {
            conn.moved = now;
        }
        if !matches!(conn.role, Role::Peer { .. }) {
            conn.owed += bytes.len();
            self.owed += bytes.len();
        }
        conn.queue(bytes);
        list(&mut self.to_send, conn, index);
        Ok(())
    }

    /// Ends a connection with an error frame about it.
    pub fn refuse(&mut self, now: Time, index: u32, code: Code, text: &str) {
        let mut frame = Vec::new();
        write_error(&mut frame, code, text);
        // A connection that reads nothing gets no explanation either.
        let _ = self.queue(now, index, &mut frame, CLIENT_OUTBOX_BYTES_MAX);
        self.part(now, index);
    }

    /// Sends what is queued, gives the other side a moment to read it, and closes.
    pub fn part(&mut self, now: Time, index: u32) {
        if matches!(self.role(index), Role::Free | Role::Closing | Role::Parting) {
            return;
        }
        self.set_role(now, index, Role::Parting);
        let conn = &mut self.conns[index as usize];
        conn.splitter = Splitter::default();
        self.count_carried(index);
        let conn = &mut self.conns[index as usize];
        if conn.waiting() == 0 {
            conn.shut(Shutdown::Write);
        }
    }

    /// Closes at once.
    ///
    /// # Errors
    /// When the ring is broken.
    pub fn close(&mut self, now: Time, ring: &mut Ring, index: u32) -> io::Result<()> {
        if matches!(self.role(index), Role::Free | Role::Closing) {
            return Ok(());
        }
        self.set_role(now, index, Role::Closing);
        let conn = &mut self.conns[index as usize];
        conn.shut(Shutdown::Both);
        if conn.ops == 0 {
            self.release(index);
            return Ok(());
        }
        ring.cancel(conn.raw(), token(Op::Ignored, 0))
    }

    /// A send completed. Says whether the other side is gone.
    pub fn on_send(&mut self, now: Time, completion: &Completion, index: u32) -> Received {
        self.sends_under_way -= 1;
        let conn = &mut self.conns[index as usize];
        conn.ops -= 1;
        conn.sending = false;
        if conn.role == Role::Closing {
            return Received::Nothing;
        }
        let Ok(sent) = usize::try_from(completion.result) else { return Received::Gone };
        self.bytes_out += sent as u64;
        let paid = sent.min(conn.owed);
        conn.owed -= paid;
        self.owed -= paid;
        conn.moved = now;
        if conn.on_sent(sent) {
            list(&mut self.to_send, conn, index);
        } else if conn.role == Role::Parting {
            conn.shut(Shutdown::Write);
        }
        Received::Nothing
    }

    /// Submits what is to be sent and arms what is to be received: the end of a turn. Says how many
    /// completions of sends the submission is expected to bring at once, for [`Ring::wait`].
    ///
    /// # Errors
    /// When the ring is broken.
    pub fn flush(&mut self, now: Time, ring: &mut Ring) -> io::Result<u32> {
        let before = self.sends_under_way;
        for at in 0..self.to_send.len() {
            self.send(ring, self.to_send[at])?;
        }
        self.to_send.clear();
        for at in 0..self.to_arm.len() {
            self.arm(ring, self.to_arm[at])?;
        }
        self.to_arm.clear();
        if self.accept_at <= now {
            self.accept_at = Time::MAX;
            ring.accept_multi(self.listener, token(Op::Accept, 0))?;
        }
        self.free.append(&mut self.released);
        // One that is left over from an earlier turn waits for its reader: its completion is news.
        Ok(if before == 0 { self.sends_under_way } else { 0 })
    }

    fn send(&mut self, ring: &mut Ring, index: u32) -> io::Result<()> {
        let conn = &mut self.conns[index as usize];
        conn.listed = false;
        let bytes = conn.outgoing();
        if conn.sending || !conn.is_open() || bytes.is_empty() || conn.is_unconnected() {
            return Ok(());
        }
        let length = u32::try_from(bytes.len()).expect("an outbox is bounded");
        let entry = opcode::Send::new(Fd(conn.raw()), bytes.as_ptr(), length)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build()
            .user_data(token(Op::Send, u64::from(index)));
        // SAFETY: the bytes are in `in_flight`, which is not touched while `sending`, and the slot is not
        // released before `ops` is zero.
        unsafe { ring.push(&entry)? };
        conn.sending = true;
        conn.ops += 1;
        self.sends_under_way += 1;
        Ok(())
    }
}

/// Lists a connection among those with something to send, once.
fn list(to_send: &mut Vec<u32>, conn: &mut Conn, index: u32) {
    if !conn.listed {
        conn.listed = true;
        to_send.push(index);
    }
}

/// Appends an error frame about a connection.
pub fn write_error(out: &mut Vec<u8>, code: Code, text: &str) {
    let header = Header::new(wire::message::Error::KIND, 0);
    let text = &text.as_bytes()[..text.len().min(wire::limits::ERROR_TEXT_BYTES_MAX)];
    wire::frame(out, &header, |body| {
        let (code, retry_ms, node, engine) = (code.number(), 0, 0, 0);
        wire::message::Error { code, retry_ms, node, engine, text }.encode(body);
    });
}

/// The code of a frame that is none.
pub fn code_of(error: WireError) -> Code {
    match error {
        WireError::Version { .. } => Code::WrongVersion,
        WireError::TooLarge { .. } => Code::TooLarge,
        WireError::Magic | WireError::Flags { .. } | WireError::Checksum => Code::BadFrame,
        WireError::Malformed => Code::BadMessage,
    }
}
