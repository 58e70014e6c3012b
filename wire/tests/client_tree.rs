//! rkyv's format features are global to a build. So a program that links `client` must not get rkyv
//! by it: its own archives would change.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the finding")]

use std::path::Path;
use std::process::Command;

/// The crates that linking `package` brings, by cargo itself.
fn tree(package: &str) -> String {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let out = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--package", package, "--edges", "normal,build"])
        .args(["--prefix", "none"])
        .current_dir(workspace)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn linking_the_client_brings_no_rkyv() {
    let names = |tree: &str| tree.lines().any(|l| l.starts_with("rkyv "));
    let client = tree("client");
    assert!(client.starts_with("client v"), "{client}");
    assert!(!names(&client), "{client}");
    // The test can see it where it is.
    assert!(names(&tree("engine")));
}
