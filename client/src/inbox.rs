//! Bytes that came on a connection, and the frames in them.
//!
//! # How it works
//! Bytes are read into one buffer, and frames are read where they lie. What a large frame brings is not copied: its
//! part of the buffer is cut off and lives as long as whoever was given it. A small one is copied, so that it
//! does not keep a whole buffer alive.

use bytes::{Bytes, BytesMut};
use std::io::{ErrorKind, Read};
use wire::limits::FRAME_BYTES_MAX;
use wire::{HEADER_BYTES, Header};

/// The size of the buffer at first; it grows up to a frame.
const READ_BYTES: usize = 64 << 10;
/// A frame that is one of at most so many parts of the buffer's memory keeps it.
const PARTS_MAX: usize = 4;

/// The bytes that were read from a connection and not used yet.
pub(crate) struct Inbox {
    buffer: BytesMut,
    filled: usize,
    /// The size of the memory that the buffer is a part of.
    whole: usize,
}

/// The bytes of an answer's frame.
pub(crate) enum Body<'a> {
    /// They are gone once the frame was read.
    Passing(&'a [u8]),
    /// They stay.
    Lasting(&'a Bytes),
}

impl<'a> Body<'a> {
    pub fn bytes(&self) -> &'a [u8] {
        match self {
            Body::Passing(bytes) => bytes,
            Body::Lasting(bytes) => bytes,
        }
    }

    /// Makes a part of them last.
    pub fn keep(&self, part: &[u8]) -> Bytes {
        match self {
            Body::Passing(_) => Bytes::copy_from_slice(part),
            Body::Lasting(bytes) => bytes.slice_ref(part),
        }
    }
}

impl Inbox {
    /// An inbox in which some bytes are already.
    pub fn new(rest: &[u8]) -> Inbox {
        let whole = rest.len().max(READ_BYTES);
        let mut buffer = BytesMut::zeroed(whole);
        buffer[..rest.len()].copy_from_slice(rest);
        Inbox { buffer, filled: rest.len(), whole }
    }

    /// Reads what is there. An error is why nothing more comes.
    pub fn read(&mut self, mut from: impl Read) -> Result<(), String> {
        self.make_room();
        loop {
            match from.read(&mut self.buffer[self.filled..]) {
                Ok(0) => return Err(String::from("the node closed the connection")),
                Ok(n) => {
                    self.filled += n;
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    fn make_room(&mut self) {
        let size = self.buffer.len();
        if self.filled == size || size < READ_BYTES / PARTS_MAX {
            let wanted = (size * 2).clamp(READ_BYTES, FRAME_BYTES_MAX + HEADER_BYTES);
            let mut larger = BytesMut::zeroed(wanted);
            larger[..self.filled].copy_from_slice(&self.buffer[..self.filled]);
            (self.buffer, self.whole) = (larger, wanted);
        }
        assert!(self.filled < self.buffer.len(), "no frame is larger than the largest buffer");
    }

    /// Gives every whole frame to `on_frame`.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn frames(
        &mut self,
        mut on_frame: impl FnMut(&Header, Body<'_>),
    ) -> Result<(), wire::WireError> {
        let mut used = 0;
        while let Some(frame) = wire::split(&self.buffer[used..self.filled], FRAME_BYTES_MAX)? {
            let (header, length) = (frame.header, frame.used);
            if length * PARTS_MAX < self.whole {
                on_frame(&header, Body::Passing(frame.body));
                used += length;
                continue;
            }
            let cut = self.buffer.split_to(used + length).freeze();
            self.filled -= used + length;
            let body = cut.slice(used + HEADER_BYTES..);
            used = 0;
            on_frame(&header, Body::Lasting(&body));
        }
        self.buffer.copy_within(used..self.filled, 0);
        self.filled -= used;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::message::Value;

    fn frames_of(lengths: &[usize]) -> (Vec<u8>, Vec<Vec<u8>>) {
        let (mut stream, mut bodies) = (Vec::new(), Vec::new());
        for (n, length) in lengths.iter().enumerate() {
            let value = vec![n as u8; *length];
            let header = Header::new(Value::KIND, n as u64);
            let value = Value { version: n as u64, value: &value };
            wire::frame(&mut stream, &header, |out| value.encode(out));
            let mut body = Vec::new();
            value.encode(&mut body);
            bodies.push(body);
        }
        (stream, bodies)
    }

    /// Reads at most so many bytes at a time.
    struct Drops<'a>(&'a [u8], usize);

    impl Read for &mut Drops<'_> {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            let n = self.1.min(into.len()).min(self.0.len());
            into[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    #[test]
    fn frames_come_out_as_they_went_in_and_what_was_kept_stays() {
        let lengths = [0, 5, 70_000, 100, 20_000, 20_000, 1 << 20, 1, 60_000, 3];
        let (stream, bodies) = frames_of(&lengths);
        for step in [1_000, 65_536, stream.len()] {
            let (mut inbox, mut drops) = (Inbox::new(&stream[..7]), Drops(&stream[7..], step));
            let mut kept = Vec::new();
            while kept.len() < bodies.len() {
                inbox.read(&mut drops).unwrap();
                let read = inbox.frames(|header, body| {
                    assert_eq!(header.request, kept.len() as u64);
                    kept.push(body.keep(body.bytes()));
                });
                read.unwrap();
            }
            assert!(kept == bodies, "step {step}");
            assert!(inbox.read(&mut drops).is_err(), "the end");
        }
    }

    #[test]
    fn a_large_value_is_not_copied_and_a_small_one_keeps_no_buffer() {
        let (stream, _) = frames_of(&[40_000, 10]);
        let mut inbox = Inbox::new(&stream);
        let memory = inbox.buffer.as_ptr() as usize;
        let within =
            |bytes: &Bytes| (memory..memory + READ_BYTES).contains(&(bytes.as_ptr() as usize));
        let mut kept = Vec::new();
        inbox.frames(|_, body| kept.push(body.keep(&body.bytes()[..1]))).unwrap();
        assert!(within(&kept[0]) && !within(&kept[1]));
    }
}
