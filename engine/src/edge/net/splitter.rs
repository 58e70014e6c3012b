//! Frames out of a connection's bytes, in place: only a frame that a buffer cuts in two is copied.

use crate::time::{Duration, Time};
use wire::{HEADER_BYTES, Header, WireError};

/// A carry-over that grew past this is given back to the allocator once its frame is done, in bytes.
const KEPT_BYTES_MAX: usize = 64 << 10;

/// What a connection's next bytes are read against.
pub struct Splitter {
    /// The beginning of a frame whose end has not arrived.
    carry: Vec<u8>,
    /// When its first byte was seen.
    since: Time,
}

/// A whole frame.
pub struct Whole<'a> {
    /// When its first byte was seen.
    pub since: Time,
    /// Its header.
    pub header: Header,
    /// Its body.
    pub body: &'a [u8],
}

impl Default for Splitter {
    fn default() -> Splitter {
        Splitter { carry: Vec::new(), since: Time::ZERO }
    }
}

impl Splitter {
    /// Splits `bytes`, seen at `now`, which follow what was fed before, and hands every whole frame to `each`. What is
    /// left is carried over.
    ///
    /// # Errors
    /// [`WireError`] of the first bad frame; the stream can't be followed any further.
    pub fn feed(
        &mut self,
        now: Time,
        mut bytes: &[u8],
        frame_bytes_max: usize,
        mut each: impl FnMut(Whole<'_>),
    ) -> Result<(), WireError> {
        while !bytes.is_empty() {
            if self.carry.is_empty() {
                let Some(frame) = wire::split(bytes, frame_bytes_max)? else {
                    self.carry.extend_from_slice(bytes);
                    self.since = now;
                    return Ok(());
                };
                each(Whole { since: now, header: frame.header, body: frame.body });
                bytes = &bytes[frame.used..];
                continue;
            }
            // Take only what the frame at the front still lacks: the rest is read in place.
            let lacks = self.lacks();
            let (more, rest) = bytes.split_at(lacks.min(bytes.len()));
            self.make_room(more.len(), lacks);
            self.carry.extend_from_slice(more);
            bytes = rest;
            if let Some(frame) = wire::split(&self.carry, frame_bytes_max)? {
                assert_eq!(frame.used, self.carry.len(), "no more was taken than the frame lacked");
                each(Whole { since: self.since, header: frame.header, body: frame.body });
                self.clear();
            }
        }
        Ok(())
    }

    /// Adds bytes without splitting them: a greeting is looked at before anything is.
    pub fn hold(&mut self, bytes: &[u8]) {
        self.carry.extend_from_slice(bytes);
    }

    /// What is carried over.
    pub fn held(&self) -> &[u8] {
        &self.carry
    }

    /// Takes what is carried over out.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.carry)
    }

    /// How long ago the first byte of the unfinished frame was seen; zero when there is none.
    pub fn age(&self, now: Time) -> Duration {
        if self.carry.is_empty() { Duration::ZERO } else { now.since(self.since) }
    }

    /// When its first byte was seen.
    pub fn since(&self) -> Time {
        self.since
    }

    /// What it takes in memory, in bytes, or what none takes that is kept for the next.
    pub fn bytes(&self) -> usize {
        self.carry.capacity()
    }

    /// Gives the memory back that no frame is in.
    pub fn give_back(&mut self) {
        if self.carry.is_empty() {
            self.carry = Vec::new();
        }
    }

    /// Room for `more` bytes of a frame that lacks `lacks`: doubled as it grows, but never more than the frame takes.
    fn make_room(&mut self, more: usize, lacks: usize) {
        let (length, room) = (self.carry.len(), self.carry.capacity());
        if length + more > room {
            let wanted = (2 * room).clamp(length + more, (length + lacks).max(length + more));
            self.carry.reserve_exact(wanted - length);
        }
    }

    fn lacks(&self) -> usize {
        let Some(head) = self.carry.first_chunk::<HEADER_BYTES>() else {
            return HEADER_BYTES - self.carry.len();
        };
        // A header that was complete was checked when it became so.
        let length = Header::parse(head).map_or(0, |(_, length)| length);
        HEADER_BYTES + length - self.carry.len()
    }

    fn clear(&mut self) {
        self.carry.clear();
        if self.carry.capacity() > KEPT_BYTES_MAX {
            self.carry = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::message::{CacheGet, Heartbeat};

    fn stream(frames: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        for request in 0..frames {
            let key = vec![b'k'; usize::try_from(request).unwrap() * 7];
            wire::frame(&mut bytes, &Header::new(CacheGet::KIND, request), |b| {
                CacheGet { key: &key }.encode(b);
            });
        }
        bytes
    }

    #[test]
    fn however_a_stream_is_cut_the_same_frames_come_out() {
        let whole = stream(9);
        for piece in 1..whole.len() {
            let mut splitter = Splitter::default();
            let mut seen = Vec::new();
            for bytes in whole.chunks(piece) {
                let each = |Whole { header, body, .. }: Whole<'_>| {
                    seen.push((header.request, CacheGet::decode(body).unwrap().key.len()));
                };
                splitter.feed(Time::ZERO, bytes, 4096, each).unwrap();
            }
            let expected: Vec<_> = (0..9).map(|n| (n, n as usize * 7)).collect();
            assert_eq!(seen, expected);
            assert!(splitter.held().is_empty());
        }
    }

    #[test]
    fn a_frame_is_as_old_as_its_first_byte() {
        let whole = stream(3);
        let second = wire::split(&whole, 4096).unwrap().unwrap().used;
        let mut splitter = Splitter::default();
        let mut seen = Vec::new();
        for (now, bytes) in
            [(1, 0..second + 1), (2, second + 1..second + 9), (3, second + 9..whole.len())]
        {
            let now = Time(now);
            splitter.feed(now, &whole[bytes], 4096, |frame| seen.push(frame.since)).unwrap();
        }
        assert_eq!(seen, [1, 1, 3].map(Time));
    }

    #[test]
    fn whole_frames_before_a_bad_one_are_still_handed_over() {
        let mut bytes = stream(3);
        bytes.extend_from_slice(
            b"GET / HTTP/1.1\r\nHost: somewhere.example\r\nAccept: everything\r\n",
        );
        for piece in [1, 10, bytes.len()] {
            let mut splitter = Splitter::default();
            let mut seen = 0;
            let results: Vec<_> = bytes
                .chunks(piece)
                .map(|b| splitter.feed(Time::ZERO, b, 4096, |_| seen += 1))
                .collect();
            assert_eq!(seen, 3);
            assert!(results.contains(&Err(WireError::Magic)));
        }
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_any_body_arrives() {
        let mut bytes = Vec::new();
        wire::frame(&mut bytes, &Header::new(Heartbeat::KIND, 1), |b| b.extend([0; 5000]));
        let mut splitter = Splitter::default();
        let result =
            splitter.feed(Time::ZERO, &bytes[..HEADER_BYTES], 4096, |_| panic!("not a frame"));
        assert!(matches!(result, Err(WireError::TooLarge { length: 5000, .. })));
    }
}
