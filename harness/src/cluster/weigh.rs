//! What a process costs, read from `/proc`.

use std::fs;
use std::path::Path;

/// Clock ticks a second in `/proc/PID/stat`: 100 on every Linux that Tercet runs on.
const TICKS_PER_S: f64 = 100.0;

/// What one process has used so far.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub struct Weight {
    /// Anonymous resident memory, in bytes.
    pub rss_anon_bytes: u64,
    /// CPU time of all threads, user and system, in seconds.
    pub cpu_seconds: f64,
    /// Context switches of all threads that waited.
    pub switches_voluntary: u64,
    /// Context switches of all threads that were preempted.
    pub switches_involuntary: u64,
    /// Bytes that went to the disk.
    pub write_bytes: u64,
}

impl Weight {
    /// Reads the weight of a process; zero where it is gone.
    pub fn of(pid: u32) -> Weight {
        let mut weight = Weight::default();
        let proc = Path::new("/proc").join(pid.to_string());
        let status = fs::read_to_string(proc.join("status")).unwrap_or_default();
        weight.rss_anon_bytes = number_after(&status, "RssAnon:") * 1024;
        let io = fs::read_to_string(proc.join("io")).unwrap_or_default();
        weight.write_bytes = number_after(&io, "write_bytes:");
        let stat = fs::read_to_string(proc.join("stat")).unwrap_or_default();
        // After the last ')' the fields are plain: utime and stime are the 12th and 13th.
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).filter_map(|f| f.parse::<u64>().ok()).sum();
        weight.cpu_seconds = ticks as f64 / TICKS_PER_S;
        for task in fs::read_dir(proc.join("task")).into_iter().flatten().flatten() {
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            weight.switches_voluntary += number_after(&status, "\nvoluntary_ctxt_switches:");
            weight.switches_involuntary += number_after(&status, "nonvoluntary_ctxt_switches:");
        }
        weight
    }

    /// What was used since `before`; memory is not a difference.
    pub fn since(&self, before: &Weight) -> Weight {
        Weight {
            rss_anon_bytes: self.rss_anon_bytes,
            cpu_seconds: (self.cpu_seconds - before.cpu_seconds).max(0.0),
            switches_voluntary: self.switches_voluntary.saturating_sub(before.switches_voluntary),
            switches_involuntary: self
                .switches_involuntary
                .saturating_sub(before.switches_involuntary),
            write_bytes: self.write_bytes.saturating_sub(before.write_bytes),
        }
    }
}

fn number_after(text: &str, key: &str) -> u64 {
    let rest = text.split(key).nth(1).unwrap_or_default();
    rest.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Bytes that the files under `dir` take on the disk whose name contains `part`.
pub fn disk_bytes(dir: &Path, part: &str) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_dir() {
            bytes += disk_bytes(&path, part);
        } else if path.to_string_lossy().contains(part) {
            bytes += meta.blocks() * 512;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_process_weighs_something_and_a_dead_one_nothing() {
        let me = Weight::of(std::process::id());
        assert!(me.rss_anon_bytes > 0);
        assert!(me.switches_voluntary + me.switches_involuntary > 0);
        assert_eq!(Weight::of(0), Weight::default());
    }

    #[test]
    fn numbers_are_found_by_their_whole_key() {
        let text = "\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t9\n";
        assert_eq!(number_after(text, "\nvoluntary_ctxt_switches:"), 7);
        assert_eq!(number_after(text, "nonvoluntary_ctxt_switches:"), 9);
    }
}
