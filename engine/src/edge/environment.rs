//! What the machine must have: a kernel, io_uring, and memory that may be locked. Each that is missing is
//! one line that says what to do.

use super::ring::{Ring, RingError, SMALL_SIZES};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The oldest kernel that is good enough: major and minor version.
const KERNEL_MIN: (u32, u32) = (6, 1);
/// What glommio asks for, in bytes.
const MEMLOCK_BYTES_MIN: u64 = 512 << 10;

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
