//! What the machine must have: a kernel, io_uring, and memory that may be locked. Each that is missing is
//! one line that says what to do.

use super::net::{CLIENTS_MAX, NEWCOMERS_MAX, Seats};
use super::ring::{Ring, RingError, SMALL_SIZES};
use crate::secret::Secret;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The oldest kernel that is good enough: major and minor version.
const KERNEL_MIN: (u32, u32) = (6, 1);
/// What glommio asks for, in bytes.
const MEMLOCK_BYTES_MIN: u64 = 512 << 10;

/// Descriptors that a node needs whatever it serves: its logs, its lock, its listeners, HTTP.
const FILES_OF_NODE: u64 = 32 + super::http::CONNECTIONS_MAX as u64;
/// Descriptors that a thread needs: its rings and doorbells.
const FILES_OF_THREAD: u64 = 24;
/// Descriptors that an engine needs beside its segments: snapshots, directories, and links that are being made.
const FILES_OF_ENGINE: u64 = 16;
/// Links that an engine has at least descriptors for.
const LINKS_MIN: u64 = 8;
/// Clients of a thread, below which a node does not start.
const CLIENTS_MIN: u64 = 8;

/// Too few descriptors.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "E308 this process may open {may} files, and with these settings it needs {needs} before the first client. Raise it: ulimit -n, or LimitNOFILE= in a unit"
)]
pub struct TooFewFiles {
    /// How many it may open.
    may: u64,
    /// How many it needs.
    needs: u64,
}

/// What descriptors are needed for.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// Engines.
    pub engines: u32,
    /// Threads.
    pub threads: u32,
    /// Segments of each engine.
    pub segments_max: u32,
    /// The cluster's other nodes.
    pub peers: usize,
}

/// How many files this process may open.
pub fn files_max() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// How many connections each thread has seats for, when the process may open `files` and `needs` is kept back.
///
/// # Errors
/// [`TooFewFiles`] when hardly any would be left.
pub fn seats(files: u64, needs: Needs) -> Result<Seats, TooFewFiles> {
    let (engines, threads) = (u64::from(needs.engines), u64::from(needs.threads));
    let links = LINKS_MIN.max(2 * needs.peers as u64);
    let of_engine = FILES_OF_ENGINE + u64::from(needs.segments_max) + links;
    let kept = FILES_OF_NODE + threads * FILES_OF_THREAD + engines * of_engine;
    let of_thread = files.saturating_sub(kept) / threads;
    // A quarter for those who have not said who they are: a peer may be among them.
    let newcomers = (of_thread / 4).min(NEWCOMERS_MAX as u64);
    let clients = (of_thread - newcomers).min(CLIENTS_MAX as u64);
    if clients < CLIENTS_MIN {
        return Err(TooFewFiles { may: files, needs: kept + threads * CLIENTS_MIN * 4 / 3 });
    }
    let count = |seats: u64| usize::try_from(seats).expect("seats are few");
    Ok(Seats { clients: count(clients), newcomers: count(newcomers) })
}

/// Checks the machine, and raises this process's own limits as far as it may.
///
/// # Errors
/// [`RingError`] of what is missing.
pub fn check() -> Result<(), RingError> {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy();
    if parse_release(&release).is_some_and(|version| version < KERNEL_MIN) {
        return Err(RingError::OldKernel(format!("Linux {release}")));
    }
    raise(Resource::Memlock);
    raise(Resource::Nofile);
    if let Some(limit) = getrlimit(Resource::Memlock).current
        && limit < MEMLOCK_BYTES_MIN
    {
        return Err(RingError::Memlock { limit_kib: limit >> 10 });
    }
    Ring::new(SMALL_SIZES).map(drop)
}

/// The CPUs that this process may use.
pub fn usable_cpus() -> Vec<usize> {
    let Ok(set) = rustix::thread::sched_getaffinity(None) else { return vec![] };
    (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
}

/// Chance, for what an engine draws.
pub fn random_seed() -> u64 {
    getrandom::u64().expect("Linux gives random bytes once it has booted")
}

/// Chance that nobody is told, for the tables of an engine.
pub fn random_secret() -> Secret {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits).expect("Linux gives random bytes once it has booted");
    Secret::new(bits)
}

/// Raises the soft limit to the hard one.
fn raise(resource: Resource) {
    let Rlimit { maximum, .. } = getrlimit(resource);
    // What was not raised is found out where it is too small.
    let _ = setrlimit(resource, Rlimit { current: maximum, maximum });
}

fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_get_what_files_leave_and_peers_their_share_first() {
        let needs = Needs { engines: 2, threads: 2, segments_max: 12, peers: 2 };
        assert_eq!(seats(1 << 20, needs), Ok(Seats::MOST));
        for files in [300, 400, 1024, 4096, 20_000] {
            let seats = seats(files, needs).unwrap();
            let taken = 2 * (seats.clients + seats.newcomers) as u64;
            assert!(taken + 96 + 2 * 24 + 2 * 36 <= files, "{files} files, {taken} taken");
            assert!(seats.newcomers > 0 && seats.clients > 2 * seats.newcomers);
        }
        let refused = seats(128, needs).unwrap_err().to_string();
        assert!(refused.contains("E308 ") && refused.contains("ulimit -n"), "{refused}");
    }

    #[test]
    fn a_kernel_is_known_by_its_release() {
        for (release, version) in [
            ("6.1.0-13-amd64", Some((6, 1))),
            ("6.18.44-fc-v669", Some((6, 18))),
            ("5.15", Some((5, 15))),
            ("unknown", None),
        ] {
            assert_eq!(parse_release(release), version, "{release}");
        }
        assert!((5, 15) < KERNEL_MIN && (6, 1) >= KERNEL_MIN && (10, 0) > KERNEL_MIN);
    }
}
