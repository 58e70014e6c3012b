//! A thread's own io_uring: everything that the data plane does to the world goes through one.
//!
//! # How it works
//!
//! Submissions are pushed and leave with the next [`Ring::wait`], in one system call. What completed
//! is drained into a vector that is used again. `SINGLE_ISSUER` and `DEFER_TASKRUN` keep all of
//! the kernel's work on this thread and inside that call; the `TASKRUN` flag, read from shared memory,
//! says without a system call that there is such work.
//!
//! **Parking** ([`Park`]): after a busy turn the thread watches that flag, yielding the CPU, for at most
//! [`WATCH_MAX`], and only then blocks. That is worth a third of a loopback round trip; on a quiet thread
//! it costs nothing, because a turn without work blocks at once.
//!
//! **Sends complete inline**: a send into a socket with room posts its completion while it is being
//! submitted. Whoever waited for one completion would wake at once for nothing, so `wait` is told how
//! many such completions to expect and waits for one more.
//!
//! # Invariants
//!
//! - Memory that a submission names stays where it is, unchanged, until its completion was drained.
//!   [`Ring::push`] is `unsafe` for this reason alone.
//! - A ring is used by the thread that made it.
//! - `ETIME`, `EINTR` and `EBUSY` from the kernel are normal; anything else is returned.
//!
//! # Left out
//!
//! Polled submission (it takes a core for itself), registered files (measured: no gain), and bundles
//! of receives (kernel 6.10).
//!
//! Sources: io_uring_enter(2), io_uring_setup(2); Axboe, Efficient IO with io_uring, 2019.

mod buffers;
#[cfg(test)]
mod tests;

pub use buffers::BufferRing;

use io_uring::types::{CancelBuilder, Fd, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

/// How long a busy thread watches for work before it blocks.
pub const WATCH_MAX: Duration = Duration::from_micros(30);
/// How long to wait for the completions of sends that did not complete inline after all.
const INLINE_MAX: Duration = Duration::from_micros(500);

const ENTER_GETEVENTS: u32 = 1;
const ENTER_EXT_ARG: u32 = 1 << 3;
const ENTER_REGISTERED_RING: u32 = 1 << 4;
const REGISTER_RING_FDS: u32 = 20;

/// Sizes of a ring, in entries.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Submissions that fit before they have to leave.
    pub submissions: u32,
    /// Completions that fit before the kernel keeps them itself.
    pub completions: u32,
}

/// What a data thread uses.
pub const CORE_SIZES: Sizes = Sizes { submissions: 2048, completions: 16_384 };
/// A small ring, for a trial or a floor.
pub const SMALL_SIZES: Sizes = Sizes { submissions: 64, completions: 256 };

/// Why there is no ring. One line each, with what to do.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The kernel is too old.
    #[error(
        "E301 io_uring as Tercet needs it begins with Linux 6.1; this is {0}. Upgrade the kernel"
    )]
    OldKernel(String),
    /// A sysctl forbids it.
    #[error(
        "E302 io_uring is disabled on this machine. Allow it: sysctl kernel.io_uring_disabled=0"
    )]
    Disabled,
    /// Something else forbids it.
    #[error(
        "E303 io_uring is forbidden here, most likely by a container's seccomp profile. Use docker/seccomp.json, or --security-opt seccomp=unconfined"
    )]
    Forbidden,
    /// Too little locked memory.
    #[error(
        "E304 io_uring can't lock enough memory (limit: {limit_kib} KiB). Raise it to 8192 KiB or more: ulimit -l, or LimitMEMLOCK= in a unit"
    )]
    Memlock {
        /// The present limit, in KiB.
        limit_kib: u64,
    },
    /// Something else.
    #[error("E305 io_uring can't be set up: {0}")]
    Other(io::Error),
}

/// A completion.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    /// What the submission carried.
    pub token: u64,
    /// Its result: at least zero, or a negated errno.
    pub result: i32,
    flags: u32,
}

impl Completion {
    /// Whether the submission stays armed and more completions follow.
    pub fn more(&self) -> bool {
        cqueue::more(self.flags)
    }

    /// The provided buffer that the kernel filled, if any.
    pub(crate) fn buffer(&self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }
}

/// How to wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Park {
    /// Block at once: the turn brought nothing, or only the disk is awaited.
    Block,
    /// Watch the ring for at most [`WATCH_MAX`], then block.
    Watch,
}

/// What a ring did, for people.
#[derive(Clone, Copy, Default, Debug)]
pub struct RingStats {
    /// System calls.
    pub enters: u64,
    /// Of them, those that were ready to block.
    pub sleeps: u64,
}

/// An io_uring that belongs to one thread.
pub struct Ring {
    ring: IoUring,
    /// The descriptor, or its index in the ring's own table (cheaper to look up).
    enter_fd: RawFd,
    enter_flags: u32,
    stats: RingStats,
}

/// `struct io_uring_getevents_arg`.
#[repr(C)]
struct EventsArg {
    sigmask: u64,
    sigmask_bytes: u32,
    min_wait_us: u32,
    timespec: u64,
}

/// `struct io_uring_rsrc_update`.
#[repr(C)]
struct ResourceUpdate {
    offset: u32,
    reserved: u32,
    data: u64,
}

impl Ring {
    /// Makes a ring for the calling thread.
    ///
    /// # Errors
    /// [`RingError`], which says what the machine lacks.
    pub fn new(sizes: Sizes) -> Result<Ring, RingError> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_cqsize(sizes.completions)
            .build(sizes.submissions)
            .map_err(explain)?;
        let raw = ring.as_raw_fd();
        let mut update =
            ResourceUpdate { offset: u32::MAX, reserved: 0, data: u64::from(raw.cast_unsigned()) };
        // SAFETY: `update` is a valid io_uring_rsrc_update for the length of the call; one is passed.
        let registered = unsafe {
            let update: *mut ResourceUpdate = &raw mut update;
            libc::syscall(libc::SYS_io_uring_register, raw, REGISTER_RING_FDS, update, 1u32)
        };
        // A kernel that refuses costs a few nanoseconds a call and nothing else.
        let (enter_fd, enter_flags) = if registered == 1 {
            (update.offset.cast_signed(), ENTER_REGISTERED_RING)
        } else {
            (raw, 0)
        };
        Ok(Ring { ring, enter_fd, enter_flags, stats: RingStats::default() })
    }

    /// Queues a submission. It leaves with the next [`Ring::wait`].
    ///
    /// # Errors
    /// When the queue is full and the kernel takes nothing.
    ///
    /// # Safety
    /// All memory and descriptors that `entry` names must stay valid, and what the kernel writes to
    /// unread, until its last completion was drained.
    pub unsafe fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: the caller vouches for what the entry names.
        if unsafe { self.ring.submission().push(entry) }.is_ok() {
            return Ok(());
        }
        self.enter(0, None)?;
        // SAFETY: as above.
        unsafe { self.ring.submission().push(entry) }
            .map_err(|_| io::Error::other("the submission queue stays full"))
    }

    /// Accepts every connection of a listening socket, until a completion without
    /// [`Completion::more`].
    ///
    /// # Errors
    /// As [`Ring::push`].
    pub fn accept_multi(&mut self, listener: RawFd, token: u64) -> io::Result<()> {
        let entry = opcode::AcceptMulti::new(Fd(listener)).flags(libc::SOCK_CLOEXEC).build();
        // SAFETY: the entry names no memory; a stale descriptor is an error completion.
        unsafe { self.push(&entry.user_data(token)) }
    }

    /// Receives into buffers of `buffers` until a completion without [`Completion::more`].
    ///
    /// # Errors
    /// As [`Ring::push`].
    pub fn recv_multi(&mut self, fd: RawFd, buffers: &BufferRing, token: u64) -> io::Result<()> {
        let entry = opcode::RecvMulti::new(Fd(fd), buffers.group()).build();
        // SAFETY: the kernel picks a buffer that `buffers` gave it and that lives as long as the ring.
        unsafe { self.push(&entry.user_data(token)) }
    }

    /// Receives once, into a buffer of `buffers`.
    ///
    /// # Errors
    /// As [`Ring::push`].
    pub fn recv_once(&mut self, fd: RawFd, buffers: &BufferRing, token: u64) -> io::Result<()> {
        let entry = opcode::Recv::new(Fd(fd), std::ptr::null_mut(), 0)
            .buf_group(buffers.group())
            .build()
            .flags(squeue::Flags::BUFFER_SELECT);
        // SAFETY: as for recv_multi.
        unsafe { self.push(&entry.user_data(token)) }
    }

    /// Syncs a file's data.
    ///
    /// # Errors
    /// As [`Ring::push`].
    pub fn fdatasync(&mut self, fd: RawFd, token: u64) -> io::Result<()> {
        let flags = io_uring::types::FsyncFlags::DATASYNC;
        let entry = opcode::Fsync::new(Fd(fd)).flags(flags).build();
        // SAFETY: the entry names no memory; a stale descriptor is an error completion.
        unsafe { self.push(&entry.user_data(token)) }
    }

    /// Cancels all that is under way on a descriptor; each completes with an error.
    ///
    /// # Errors
    /// As [`Ring::push`].
    pub fn cancel(&mut self, fd: RawFd, token: u64) -> io::Result<()> {
        let entry = opcode::AsyncCancel2::new(CancelBuilder::fd(Fd(fd)).all()).build();
        // SAFETY: the entry names no memory.
        unsafe { self.push(&entry.user_data(token)) }
    }

    /// Cancels all that is under way and waits for it, so that memory may be freed.
    pub fn cancel_all(&mut self, wait_max: Duration) {
        // Nothing to cancel, or a disk that is slower than `wait_max`: the caller has no use for either.
        let _ = self.enter(0, None);
        let wait_max = Timespec::from(wait_max);
        let _ = self.ring.submitter().register_sync_cancel(Some(wait_max), CancelBuilder::any());
        let _ = self.enter(0, None);
    }

    /// Keeps the kernel's workers (they carry out what would block, such as a sync) on `cpu`.
    ///
    /// # Errors
    /// When there is no such CPU.
    pub fn keep_workers_on(&self, cpu: usize) -> io::Result<()> {
        // SAFETY: an all-zero cpu_set_t is the empty set; CPU_SET checks nothing, so we do.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        assert!(cpu < 8 * size_of::<libc::cpu_set_t>(), "CPU numbers are small");
        // SAFETY: `cpu` is inside the set, as just asserted.
        unsafe { libc::CPU_SET(cpu, &mut set) };
        self.ring.submitter().register_iowq_aff(&set)
    }

    /// Submits what was pushed, and waits until something completes or `timeout` has passed. `inline`
    /// is the number of completions that the submission itself is expected to post.
    ///
    /// # Errors
    /// When the ring is broken; see the invariants for what is not an error.
    pub fn wait(&mut self, park: Park, inline: u32, timeout: Duration) -> io::Result<()> {
        if timeout.is_zero() {
            return self.enter(0, None);
        }
        if park == Park::Watch {
            self.enter(0, None)?;
            if self.ready() > inline {
                return Ok(());
            }
            let since = Instant::now();
            loop {
                if self.ring.submission().taskrun() {
                    self.enter(0, None)?;
                    if self.ready() > inline {
                        return Ok(());
                    }
                }
                let watched = since.elapsed();
                if watched > WATCH_MAX.min(timeout) {
                    break;
                }
                // SAFETY: takes nothing, touches nothing.
                unsafe { libc::sched_yield() };
            }
        }
        self.stats.sleeps += 1;
        let timeout = if inline > 0 { timeout.min(INLINE_MAX) } else { timeout };
        self.enter(inline + 1, Some(timeout))
    }

    /// Drains what completed to the end of `into`.
    pub fn drain(&mut self, into: &mut Vec<Completion>) {
        into.extend(self.ring.completion().map(|entry| Completion {
            token: entry.user_data(),
            result: entry.result(),
            flags: entry.flags(),
        }));
    }

    /// What the ring did so far.
    pub fn stats(&self) -> RingStats {
        self.stats
    }

    /// Completions that can be drained.
    fn ready(&mut self) -> u32 {
        u32::try_from(self.ring.completion().len()).expect("the queue's size is a u32")
    }

    fn enter(&mut self, want: u32, timeout: Option<Duration>) -> io::Result<()> {
        let submit = self.ring.submission().len();
        let timespec = timeout.map(|timeout| libc::timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        });
        let arg = EventsArg {
            sigmask: 0,
            sigmask_bytes: 8,
            min_wait_us: 0,
            timespec: timespec.as_ref().map_or(0, |t| std::ptr::from_ref(t) as u64),
        };
        self.stats.enters += 1;
        // SAFETY: `arg` and the timespec that it names live until the call returns; what the pushed
        // entries name is vouched for by those who pushed them.
        let rc = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.enter_fd,
                submit,
                want,
                self.enter_flags | ENTER_GETEVENTS | ENTER_EXT_ARG,
                &raw const arg,
                size_of::<EventsArg>(),
            )
        };
        if rc >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
            _ => Err(error),
        }
    }
}

/// Refuses a limit of locked memory below `needed_kib`.
///
/// # Errors
/// [`RingError::Memlock`], with what the limit is.
pub fn require_memlock(needed_kib: u64) -> Result<(), RingError> {
    let limit_kib = memlock_kib();
    if limit_kib < needed_kib { Err(RingError::Memlock { limit_kib }) } else { Ok(()) }
}

/// Says why the kernel refused to make a ring.
fn explain(error: io::Error) -> RingError {
    let sysctl = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    let disabled = sysctl.is_ok_and(|s| s.trim() != "0");
    match error.raw_os_error() {
        Some(libc::EPERM) if disabled => RingError::Disabled,
        Some(libc::EPERM | libc::EACCES) => RingError::Forbidden,
        Some(libc::ENOSYS) if kernel() < Some((5, 1)) => RingError::OldKernel(release()),
        Some(libc::ENOSYS) => RingError::Forbidden,
        Some(libc::EINVAL) if kernel() < Some((6, 1)) => RingError::OldKernel(release()),
        Some(libc::ENOMEM) => RingError::Memlock { limit_kib: memlock_kib() },
        _ => RingError::Other(error),
    }
}

fn release() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("Linux {}", release.trim())
}

/// The kernel's major and minor version, unless it can't be told.
fn kernel() -> Option<(u32, u32)> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    let mut parts = release.split(['.', '-']).map_while(|part| part.trim().parse().ok());
    Some((parts.next()?, parts.next()?))
}

fn memlock_kib() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit that the call may write to.
    unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    limit.rlim_cur / 1024
}
