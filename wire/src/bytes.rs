//! Little-endian numbers in bytes: the one reader and the one writer of what is laid out by hand.
//!
//! What has a fixed layout, drawn as a table above its constants, is read and written where the
//! constants say ([`u32_at`], [`put_u32_at`], ...): whoever calls them has the whole of it. What
//! varies in length, or comes from outside, is taken off the front by a [`Reader`], which never reads
//! past the end, and appended by [`Put`].

use alloc::vec::Vec;

/// The bytes end before what is to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the bytes end too early")]
pub struct Short;

/// Takes numbers off the front of some bytes.
///
/// ```
/// use wire::bytes::{Put, Reader, Short};
///
/// let mut row = Vec::new();
/// row.put_u32(7);
/// row.put(b"name");
/// let mut row = Reader::new(&row);
/// assert_eq!((row.u32(), row.take(4)), (Ok(7), Ok(&b"name"[..])));
/// assert_eq!((row.is_empty(), row.u8()), (true, Err(Short)));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads these bytes.
    pub const fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    /// What was not taken yet.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether all is taken.
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Takes so many bytes.
    ///
    /// # Errors
    /// [`Short`]; nothing is taken then. So it is with every other take.
    #[inline]
    pub fn take(&mut self, length: usize) -> Result<&'a [u8], Short> {
        let (first, rest) = self.rest.split_at_checked(length).ok_or(Short)?;
        self.rest = rest;
        Ok(first)
    }

    /// Takes as many bytes as the array has.
    ///
    /// # Errors
    /// [`Short`].
    #[inline]
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        let (first, rest) = self.rest.split_first_chunk::<N>().ok_or(Short)?;
        self.rest = rest;
        Ok(*first)
    }

    /// Takes a number of 1 byte.
    ///
    /// # Errors
    /// [`Short`].
    #[inline]
    pub fn u8(&mut self) -> Result<u8, Short> {
        self.array().map(u8::from_le_bytes)
    }

    /// Takes a number of 2 bytes.
    ///
    /// # Errors
    /// [`Short`].
    #[inline]
    pub fn u16(&mut self) -> Result<u16, Short> {
        self.array().map(u16::from_le_bytes)
    }

    /// Takes a number of 4 bytes.
    ///
    /// # Errors
    /// [`Short`].
    #[inline]
    pub fn u32(&mut self) -> Result<u32, Short> {
        self.array().map(u32::from_le_bytes)
    }

    /// Takes a number of 8 bytes.
    ///
    /// # Errors
    /// [`Short`].
    #[inline]
    pub fn u64(&mut self) -> Result<u64, Short> {
        self.array().map(u64::from_le_bytes)
    }
}

/// Appends numbers to some bytes.
pub trait Put {
    /// Appends these bytes.
    fn put(&mut self, bytes: &[u8]);

    /// Appends a number of 1 byte.
    #[inline]
    fn put_u8(&mut self, number: u8) {
        self.put(&number.to_le_bytes());
    }

    /// Appends a number of 2 bytes.
    #[inline]
    fn put_u16(&mut self, number: u16) {
        self.put(&number.to_le_bytes());
    }

    /// Appends a number of 4 bytes.
    #[inline]
    fn put_u32(&mut self, number: u32) {
        self.put(&number.to_le_bytes());
    }

    /// Appends a number of 8 bytes.
    #[inline]
    fn put_u64(&mut self, number: u64) {
        self.put(&number.to_le_bytes());
    }
}

impl Put for Vec<u8> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// The number of 2 bytes at `at`.
///
/// # Panics
/// When it does not lie in `bytes`.
#[inline]
pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    let mut number = [0; 2];
    number.copy_from_slice(&bytes[at..at + 2]);
    u16::from_le_bytes(number)
}

/// The number of 4 bytes at `at`.
///
/// # Panics
/// When it does not lie in `bytes`.
#[inline]
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

/// The number of 8 bytes at `at`.
///
/// # Panics
/// When it does not lie in `bytes`.
#[inline]
pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

/// A number's eight bytes.
#[inline]
pub const fn u64_bytes(number: u64) -> [u8; 8] {
    number.to_le_bytes()
}

/// A number's four bytes.
#[inline]
pub const fn u32_bytes(number: u32) -> [u8; 4] {
    number.to_le_bytes()
}

/// The array of bytes at `at`: an id, say.
///
/// # Panics
/// When it does not lie in `bytes`.
#[inline]
pub fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

/// Writes a number of 2 bytes at `at`.
///
/// # Panics
/// When it does not fit into `bytes` there.
#[inline]
pub fn put_u16_at(bytes: &mut [u8], at: usize, number: u16) {
    bytes[at..at + 2].copy_from_slice(&number.to_le_bytes());
}

/// Writes a number of 4 bytes at `at`.
///
/// # Panics
/// When it does not fit into `bytes` there.
#[inline]
pub fn put_u32_at(bytes: &mut [u8], at: usize, number: u32) {
    bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
}

/// Writes a number of 8 bytes at `at`.
///
/// # Panics
/// When it does not fit into `bytes` there.
#[inline]
pub fn put_u64_at(bytes: &mut [u8], at: usize, number: u64) {
    bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_taken_and_not_a_byte_more() {
        let mut bytes = Vec::new();
        bytes.put_u8(1);
        bytes.put_u16(2);
        bytes.put_u32(3);
        bytes.put_u64(4);
        bytes.put(b"five");
        let mut reader = Reader::new(&bytes);
        assert_eq!((reader.u8(), reader.u16()), (Ok(1), Ok(2)));
        assert_eq!((reader.u32(), reader.u64()), (Ok(3), Ok(4)));
        assert_eq!((reader.u64(), reader.take(5)), (Err(Short), Err(Short)), "nothing is taken");
        assert_eq!(reader.array(), Ok(*b"five"));
        assert!(reader.is_empty());
        for cut in 0..bytes.len() {
            let mut reader = Reader::new(&bytes[..cut]);
            let mut read = || Ok((reader.u8()?, reader.u16()?, reader.u32()?, reader.u64()?));
            assert_eq!(read().and_then(|_| reader.take(4)), Err(Short), "{cut}");
        }
    }

    #[test]
    fn what_is_put_somewhere_stands_there() {
        let mut bytes = [0; 16];
        put_u16_at(&mut bytes, 1, 0x0201);
        put_u32_at(&mut bytes, 3, 0x0605_0403);
        put_u64_at(&mut bytes, 7, 0x0e0d_0c0b_0a09_0807);
        assert_eq!(bytes, core::array::from_fn(|at| if at < 15 { at as u8 } else { 0 }));
        let read = (u16_at(&bytes, 1), u32_at(&bytes, 3), u64_at(&bytes, 7));
        assert_eq!(read, (0x0201, 0x0605_0403, 0x0e0d_0c0b_0a09_0807));
        assert_eq!(array_at(&bytes, 12), [12, 13, 14]);
    }
}
