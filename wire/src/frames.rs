//! Frames out of a byte stream, and into one, without copying.

use crate::bytes::{put_u32_at, u32_at};
use crate::header::{CHECKED_FROM, HEADER_BYTES, Header};
use crate::layout::WireError;
use alloc::vec::Vec;

/// A whole frame at the front of some bytes.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// The checked header.
    pub header: Header,
    /// The body, its checksum verified; what it says is not.
    pub body: &'a [u8],
    /// How many bytes the frame took: the next one begins there.
    pub used: usize,
}

/// Splits the first frame off `bytes`, or `None` when more bytes are needed.
///
/// `frame_bytes_max` is [`crate::limits::FRAME_BYTES_MAX`] for clients and
/// [`crate::limits::PEER_FRAME_BYTES_MAX`] between nodes. A bad header is noticed as soon as its
/// bytes are there, before any body is waited for.
///
/// # Errors
/// [`WireError`]; the stream can't be followed any further.
///
/// ```
/// use wire::{Header, message::Heartbeat};
/// let mut stream = Vec::new();
/// wire::frame(&mut stream, &Header::new(Heartbeat::KIND, 7), |b| {
///     Heartbeat { session: [1; 16] }.encode(b)
/// });
/// let frame = wire::split(&stream, wire::limits::FRAME_BYTES_MAX).unwrap().unwrap();
/// assert_eq!(frame.header.request, 7);
/// assert_eq!(Heartbeat::decode(frame.body).unwrap().session, [1; 16]);
/// assert_eq!(frame.used, stream.len());
/// ```
pub fn split(bytes: &[u8], frame_bytes_max: usize) -> Result<Option<Frame<'_>>, WireError> {
    let Some(head) = bytes.first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let (header, length) = Header::parse(head)?;
    if length > frame_bytes_max - HEADER_BYTES {
        return Err(WireError::TooLarge { length, max: frame_bytes_max - HEADER_BYTES });
    }
    let used = HEADER_BYTES + length;
    if bytes.len() < used {
        return Ok(None);
    }
    if crc32c::crc32c(&bytes[CHECKED_FROM..used]) != u32_at(bytes, 4) {
        return Err(WireError::Checksum);
    }
    Ok(Some(Frame { header, body: &bytes[HEADER_BYTES..used], used }))
}

/// Starts a frame at the end of `out` and says where: give that to [`finish`].
pub fn begin(out: &mut Vec<u8>, header: &Header) -> usize {
    let start = out.len();
    out.extend_from_slice(&header.to_bytes());
    start
}

/// Ends the frame that [`begin`] started at `start`: fills in its length and its checksum.
pub fn finish(out: &mut [u8], start: usize) {
    let length = out.len() - start - HEADER_BYTES;
    let length = u32::try_from(length).expect("limits keep a body under 4 GiB");
    put_u32_at(out, start + 8, length);
    let sum = crc32c::crc32c(&out[start + CHECKED_FROM..]);
    put_u32_at(out, start + 4, sum);
}

/// Writes a whole frame: header, then what `body` writes.
pub fn frame(out: &mut Vec<u8>, header: &Header, body: impl FnOnce(&mut Vec<u8>)) {
    let start = begin(out, header);
    body(out);
    finish(out, start);
}
