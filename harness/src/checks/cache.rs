//! A read gives the latest acknowledged write of its key, or a newer one.

use super::Violation;

/// What is known of one key: the highest version that an answer told, and the stamp of its value.
#[derive(Clone, Copy, Default)]
struct Line {
    version: u64,
    stamp: u64,
}

/// Watches cache lines, by the index of their key. Every value carries a stamp that no other write
/// of the run has.
///
/// Writes and reads may be under way beside each other. What was acknowledged before an operation
/// began, its `floor`, bounds what it may be told.
pub struct CacheCheck {
    lines: Vec<Line>,
}

impl CacheCheck {
    /// A check of `keys` lines of which nothing is known.
    pub fn new(keys: usize) -> CacheCheck {
        CacheCheck { lines: vec![Line::default(); keys] }
    }

    /// What an operation that begins now may not fall behind.
    pub fn floor(&self, key: u32) -> u64 {
        self.lines[key as usize].version
    }

    /// Has memory fetch what is known of a key, which is needed soon.
    #[cfg(feature = "bench")]
    #[inline]
    pub fn touch(&self, key: u32) {
        engine::edge::touch::touch(&self.lines[key as usize]);
    }

    /// A put that began at `floor` was acknowledged.
    ///
    /// # Errors
    /// `version-not-rising` when its version is not above what was acknowledged before it began.
    pub fn put(&mut self, key: u32, floor: u64, version: u64, stamp: u64) -> Result<(), Violation> {
        self.learn(key, version, stamp)?;
        if version <= floor {
            let text = format!("key {key}: a put made version {version} after version {floor}");
            return Violation::new("version-not-rising", text);
        }
        Ok(())
    }

    /// A get that began at `floor` was answered.
    ///
    /// # Errors
    /// `stale-read` when the version is below the floor; and what [`CacheCheck::put`] may find.
    pub fn got(&mut self, key: u32, floor: u64, version: u64, stamp: u64) -> Result<(), Violation> {
        if version < floor {
            let text = format!("key {key}: a get gave version {version} after version {floor}");
            return Violation::new("stale-read", text);
        }
        self.learn(key, version, stamp)
    }

    /// A get that began at `floor` found no line.
    ///
    /// # Errors
    /// `line-lost` when a put was acknowledged before it began: nothing here deletes.
    pub fn missing(&self, key: u32, floor: u64) -> Result<(), Violation> {
        if floor == 0 {
            return Ok(());
        }
        let text = format!("key {key} is not there after version {floor} was acknowledged");
        Violation::new("line-lost", text)
    }

    /// A value that is not what was written, seen by its own marks.
    ///
    /// # Errors
    /// `value-torn`, always.
    pub fn torn(&self, key: u32, version: u64) -> Result<(), Violation> {
        let text = format!("key {key}, version {version}: the value is not one that was written");
        Violation::new("value-torn", text)
    }

    fn learn(&mut self, key: u32, version: u64, stamp: u64) -> Result<(), Violation> {
        let line = &mut self.lines[key as usize];
        let before = *line;
        if version > before.version {
            *line = Line { version, stamp };
        }
        if version == before.version && stamp != before.stamp {
            let text = format!("key {key}: version {version} has two values");
            return Violation::new("version-two-values", text);
        }
        if version != before.version && stamp == before.stamp && before.version != 0 {
            let text = format!("key {key}: one put made versions {} and {version}", before.version);
            return Violation::new("applied-twice", text);
        }
        Ok(())
    }
}
