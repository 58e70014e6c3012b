//! Programs of the system, called by name: `ip`, `nft`, `mount`.

use super::ChaosError;
use std::io::{self, Write};
use std::process::{Command, Stdio};

/// Runs a program to its end.
pub(super) fn tool(words: &[&str]) -> Result<(), ChaosError> {
    fed(words, "")
}

/// Runs a program to its end, with `input` to read.
pub(super) fn fed(words: &[&str], input: &str) -> Result<(), ChaosError> {
    let failed = |why| ChaosError::Tool { what: words.join(" "), why };
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    let mut stdin = child.stdin.take().expect("it was piped");
    // Who does not read says why in its status.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let out = child.wait_with_output().map_err(failed)?;
    if out.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&out.stderr).trim().replace('\n', "; ");
    Err(failed(io::Error::other(format!("{} ({said})", out.status))))
}

/// Whether a process lives: what is named after a dead one can be removed.
pub(super) fn lives(pid: &str) -> bool {
    std::path::Path::new("/proc").join(pid).exists()
}
