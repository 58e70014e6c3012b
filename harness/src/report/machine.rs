//! Where, when and with what a figure was measured.

use crate::cluster::file_system;
use serde::Serialize;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// What every report begins with.
#[derive(Clone, Debug, Serialize)]
pub struct Origin {
    /// The program and its version.
    pub tool: String,
    /// When it was made, RFC 3339.
    pub date: String,
    /// The commit that was measured.
    pub commit: String,
    /// The command line.
    pub flags: Vec<String>,
    /// Where.
    pub machine: Machine,
}

/// The machine.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The CPU's model.
    pub cpu: String,
    /// CPUs that we may use.
    pub cpus: usize,
    /// The kernel.
    pub kernel: String,
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// TCP's congestion control.
    pub tcp: String,
}

/// The nodes' disk.
#[derive(Clone, Debug, Serialize)]
pub struct Disk {
    /// The file system.
    pub file_system: String,
    /// The device, as the mount table names it.
    pub device: String,
    /// Free space, in bytes.
    pub free_bytes: u64,
}

impl Origin {
    /// This machine, now, with the commit of the tree that we stand in.
    pub fn here(flags: Vec<String>) -> Origin {
        Origin {
            tool: concat!("tercet-bench ", env!("CARGO_PKG_VERSION")).into(),
            date: date(),
            commit: commit(),
            flags,
            machine: Machine::here(),
        }
    }
}

impl Machine {
    /// This one.
    pub fn here() -> Machine {
        let field = |path: &str, key: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(key));
            line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_string())
        };
        let memory = field("/proc/meminfo", "MemTotal").unwrap_or_default();
        let memory_kib: u64 =
            memory.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0);
        Machine {
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".into()),
            cpus: crate::cluster::launch::usable_cpus().len(),
            kernel: line("/proc/sys/kernel/osrelease"),
            memory_bytes: memory_kib * 1024,
            tcp: line("/proc/sys/net/ipv4/tcp_congestion_control"),
        }
    }
}

impl Disk {
    /// The one under `dir`.
    pub fn under(dir: &Path) -> Disk {
        let free = rustix::fs::statvfs(dir).map(|stat| stat.f_bavail * stat.f_frsize);
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        let real = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_path_buf());
        let mount = mounts
            .lines()
            .filter_map(|line| {
                let mut words = line.split_whitespace();
                Some((words.next()?, words.next()?))
            })
            .filter(|(_, at)| real.starts_with(at))
            .max_by_key(|(_, at)| at.len());
        Disk {
            file_system: file_system(dir),
            device: mount.map_or("unknown", |(device, _)| device).into(),
            free_bytes: free.unwrap_or(0),
        }
    }
}

fn line(path: &str) -> String {
    fs::read_to_string(path).map_or("unknown".into(), |text| text.trim().to_string())
}

/// The commit of the tree that we stand in, with a `+` when it was changed since.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_string())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".into() };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]);
    format!("{commit}{}", if changed.is_none_or(|text| text.is_empty()) { "" } else { "+" })
}

/// Now, in UTC, as RFC 3339.
fn date() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    rfc3339(since.map_or(0, |since| since.as_secs()))
}

/// Seconds since 1970 as a date (Howard Hinnant's `civil_from_days`).
fn rfc3339(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right_over_leap_years() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_735_689_599), "2024-12-31T23:59:59Z");
    }

    #[test]
    fn this_machine_has_a_cpu_and_a_kernel() {
        let machine = Machine::here();
        assert!(machine.cpus >= 1);
        assert!(machine.kernel.contains('.'), "{}", machine.kernel);
        assert!(machine.memory_bytes > 0);
    }
}
