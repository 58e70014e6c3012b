//! What the edge's own tests share.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory of this test's own, removed with everything in it when it is dropped.
pub struct TempDir(PathBuf);

impl TempDir {
    /// A new, empty one.
    pub fn new() -> TempDir {
        TempDir::below(&std::env::temp_dir())
    }

    /// A new, empty one where the build's output is: on a disk, though the other may be memory.
    pub fn on_disk() -> TempDir {
        let program = std::env::current_exe().expect("the test's program has a path");
        TempDir::below(program.parent().expect("it lies in a directory"))
    }

    fn below(parent: &Path) -> TempDir {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tercet-test-{}-{count}", std::process::id());
        let path = parent.join(name);
        std::fs::create_dir_all(&path).expect("the directory for temporary files is writable");
        TempDir(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // Nothing depends on its being gone.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
