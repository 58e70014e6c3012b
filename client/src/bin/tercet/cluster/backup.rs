//! `tercet cluster backup`.

use super::Outcome;
use crate::output::{Failure, Output, exit, hex};
use client::backup::{self, Progress, Summary};
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How often a person is told how far it is.
const TELL_EVERY: Duration = Duration::from_millis(100);

impl From<backup::Failure> for Failure {
    fn from(failure: backup::Failure) -> Failure {
        match failure {
            backup::Failure::Cluster(error) => Failure::Client(error),
            other => Failure::Other(exit::FAILED, other.to_string()),
        }
    }
}

pub fn take(
    servers: &[String],
    file: &Path,
    timeout: Duration,
    output: &Output,
) -> Result<Outcome, Failure> {
    let begun = Instant::now();
    let mut told: Option<Instant> = None;
    let taken = backup::take(servers, file, timeout, &mut |progress| {
        if told.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
            told = Some(Instant::now());
            output.progress(&line(progress));
        }
    });
    output.progress("");
    let taken = taken?;
    let seconds = begun.elapsed().as_secs_f64();
    let mut outcome = outcome(file, &taken, "holds");
    outcome.document["seconds"] = json!(seconds);
    outcome.text = format!("{}, taken in {seconds:.1} s", outcome.text);
    Ok(outcome)
}

pub fn verify(file: &Path) -> Result<Outcome, Failure> {
    let summary = backup::verify(file)?;
    let mut outcome = outcome(file, &summary, "is whole and holds");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let age = now.saturating_sub(Duration::from_micros(summary.head.taken_us)).as_secs();
    let (days, hours, minutes) = (age / 86_400, age / 3600 % 24, age / 60 % 60);
    outcome.text = format!("{}, taken {days} d {hours} h {minutes} min ago", outcome.text);
    Ok(outcome)
}

fn outcome(file: &Path, summary: &Summary, holds: &str) -> Outcome {
    let (head, bytes) = (&summary.head, summary.bytes);
    let (cluster, groups) = (hex(&head.cluster), head.shards + 1);
    let document = json!({
        "file": file.to_string_lossy(),
        "bytes": bytes,
        "cluster": cluster,
        "shards": head.shards,
        "groups": groups,
        "cache_bytes_max": head.cache_bytes_max,
        "taken_unix_us": head.taken_us,
    });
    let file = file.display();
    let size = mebibytes(bytes);
    let text = format!("{file} {holds} {groups} groups of cluster {cluster}, {size}");
    Outcome { document, text }
}

fn line(progress: Progress) -> String {
    let Progress { group, groups, bytes, total } = progress;
    let width = 20;
    let done = usize::try_from((u64::from(group) * width) / u64::from(groups)).unwrap_or(0);
    let width = width as usize;
    let (full, empty) = ("#".repeat(done), ".".repeat(width - done));
    let (bytes, total) = (mebibytes(bytes), mebibytes(total));
    format!("[{full}{empty}] group {group} of {groups}: {bytes} of {total}")
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
