//! Provided buffers: memory that the kernel fills as data arrives, so that a thousand idle connections
//! need no buffer of their own.
//!
//! ```text
//!  entries  count x 16 bytes  address u64 | length u32 | buffer u16 | tail u16 (of the first alone)
//!  memory   count x size
//! ```

use super::{Completion, Ring};
use io_uring::types::BufRingEntry;
use memmap2::MmapMut;
use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

/// A ring of provided buffers, all of one size.
///
/// Invariant: a buffer is the kernel's from [`BufferRing::give_back`] until a completion names it, and
/// ours from then on. It must outlive the [`Ring`] that it was made for: hold both in one struct,
/// the ring first, so that it is dropped first.
pub struct BufferRing {
    entries: MmapMut,
    memory: MmapMut,
    count: u16,
    size: usize,
    group: u16,
    tail: u16,
}

impl BufferRing {
    /// Makes `count` (a power of two) buffers of `size` bytes and gives them all to the kernel.
    ///
    /// # Errors
    /// When there is no memory, or the group exists already.
    pub fn new(ring: &Ring, group: u16, count: u16, size: usize) -> io::Result<BufferRing> {
        assert!(count.is_power_of_two(), "the kernel's ring wraps by a mask");
        let entries = MmapMut::map_anon(usize::from(count) * size_of::<BufRingEntry>())?;
        let memory = MmapMut::map_anon(usize::from(count) * size)?;
        let address = entries.as_ptr() as u64;
        // SAFETY: the entries are page-aligned, large enough, and live as long as this value, which
        // outlives the ring, as its documentation demands.
        unsafe { ring.ring.submitter().register_buf_ring_with_flags(address, count, group, 0)? };
        let mut buffers = BufferRing { entries, memory, count, size, group, tail: 0 };
        for buffer in 0..count {
            buffers.give(buffer);
        }
        buffers.publish();
        Ok(buffers)
    }

    /// The group's number.
    pub fn group(&self) -> u16 {
        self.group
    }

    /// The bytes that a receive brought, or `None` when it brought none.
    pub fn filled(&self, completion: &Completion) -> Option<&[u8]> {
        let start = usize::from(completion.buffer()?) * self.size;
        let length = usize::try_from(completion.result).ok()?;
        assert!(length <= self.size, "the kernel fills one buffer a completion");
        Some(&self.memory[start..start + length])
    }

    /// Gives the buffer of a completion back to the kernel.
    pub fn give_back(&mut self, completion: &Completion) {
        if let Some(buffer) = completion.buffer() {
            self.give(buffer);
            self.publish();
        }
    }

    fn give(&mut self, buffer: u16) {
        assert!(buffer < self.count, "the kernel names buffers that it was given");
        let address = self.memory[usize::from(buffer) * self.size..].as_ptr() as u64;
        let at = usize::from(self.tail & (self.count - 1));
        let length = u32::try_from(self.size).expect("buffers are small");
        // SAFETY: `at` is below `count`, so the entry is inside the mapping, which is page-aligned; the
        // kernel reads it only after the tail that `publish` stores.
        unsafe {
            let entry = &mut *self.entries.as_mut_ptr().cast::<BufRingEntry>().add(at);
            entry.set_addr(address);
            entry.set_len(length);
            entry.set_bid(buffer);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&mut self) {
        // SAFETY: the tail lies inside the first entry, aligned to two bytes; the kernel only reads it,
        // and this thread alone writes it.
        unsafe {
            let tail = BufRingEntry::tail(self.entries.as_ptr().cast());
            let tail = AtomicU16::from_ptr(tail.cast_mut());
            tail.store(self.tail, Ordering::Release);
        }
    }
}
