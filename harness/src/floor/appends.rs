//! Several appenders at once on one disk.

use engine::edge::appends;
use engine::edge::wal::Writer;
use std::io;
use std::path::Path;
use std::time::Duration;

/// What the appenders reached.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Appends {
    /// Appends a second of one appender, on average.
    pub per_s: f64,
    /// The median of an append, in microseconds.
    pub p50_us: f64,
    /// Nearly the slowest, in microseconds.
    pub p99_us: f64,
}

/// `count` appenders write `bytes` bytes each time, beside each other, for `length`.
///
/// # Errors
/// When a ring or the disk fails.
pub fn measure(
    dir: &Path,
    count: u32,
    writer: Writer,
    bytes: usize,
    length: Duration,
) -> io::Result<Appends> {
    let results: Vec<io::Result<Vec<Duration>>> = std::thread::scope(|scope| {
        let one = |number: u32| {
            let dir = dir.join(format!("append-{number}"));
            move || appends::measure(&dir, writer, bytes, length)
        };
        let threads: Vec<_> = (0..count).map(|number| scope.spawn(one(number))).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined.map(|it| it.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    let mut taken = Vec::new();
    for result in results {
        taken.extend(result?);
    }
    taken.sort_unstable();
    let at = |part: f64| match taken.len() {
        0 => 0.0,
        len => taken[(len as f64 * part) as usize].as_secs_f64() * 1e6,
    };
    let total: f64 = taken.iter().map(Duration::as_secs_f64).sum();
    let per_s = if total > 0.0 { taken.len() as f64 / total } else { 0.0 };
    Ok(Appends { per_s, p50_us: at(0.5), p99_us: at(0.99) })
}
