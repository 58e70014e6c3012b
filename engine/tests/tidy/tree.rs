//! The rules over the whole tree.

use super::rules::{ASSERTIONS_MIN, RULES, assertions, core_types, names_once, no_machine};
use super::source::Source;
use std::fs;
use std::path::{Path, PathBuf};

/// Directories of the workspace that are read; what is built or measured is not.
const ROOTS: &[&str] = &["wire", "client", "engine", "harness", "docs", "docker", ".ci"];
/// Files beside them.
const FILES: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "Makefile",
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "STYLE.md",
    "LICENSE",
    "deny.toml",
    "clippy.toml",
    "rustfmt.toml",
    "rust-toolchain.toml",
    ".editorconfig",
    ".gitignore",
    ".dockerignore",
];

fn workspace() -> PathBuf {
    let engine = Path::new(env!("CARGO_MANIFEST_DIR"));
    engine.parent().expect("the engine lies in the workspace").to_path_buf()
}

/// Every file of the tree that is text, with its path from the workspace.
fn files() -> Vec<(String, String)> {
    let root = workspace();
    let mut waiting: Vec<PathBuf> = ROOTS.iter().chain(FILES).map(|r| root.join(r)).collect();
    let mut files = Vec::new();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            let name = path.file_name().expect("a directory of the tree has a name");
            if name != "target" {
                let inside = fs::read_dir(&path).expect("a directory of the tree can be read");
                waiting.extend(inside.map(|e| e.expect("an entry can be read").path()));
            }
        } else if let Ok(text) = fs::read_to_string(&path) {
            let short = path.strip_prefix(&root).expect("the path began there");
            files.push((short.to_string_lossy().replace('\\', "/"), text));
        }
    }
    files.sort();
    files
}

fn report(found: &[String]) {
    assert!(found.is_empty(), "{} findings:\n{}", found.len(), found.join("\n"));
}

#[test]
fn the_tree_obeys_every_rule() {
    let files = files();
    let sources: Vec<Source> = files
        .iter()
        .filter(|(path, _)| path.ends_with(".rs"))
        .map(|(path, text)| Source::new(path, text))
        .collect();
    assert!(sources.len() > 20, "the tree was not found: {} sources", sources.len());
    let mut found = Vec::new();
    for source in &sources {
        for (name, rule) in RULES {
            found.extend(rule(source).into_iter().map(|f| format!("[{name}] {f}")));
        }
    }
    for (part, least) in ASSERTIONS_MIN {
        let few = assertions(&sources, part, *least);
        found.extend(few.into_iter().map(|f| format!("[assertions] {f}")));
    }
    let types = sources.iter().flat_map(core_types).collect();
    found.extend(names_once(types).into_iter().map(|f| format!("[names] {f}")));
    report(&found);
}

#[test]
fn the_tree_names_no_machine() {
    let mut found = Vec::new();
    for (path, text) in files() {
        found.extend(no_machine(&path, &text));
    }
    report(&found);
}

/// The crates that a package links without its default features, by cargo itself.
fn links(package: &str) -> String {
    let out = std::process::Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--package", package, "--no-default-features"])
        .args(["--edges", "normal", "--prefix", "none"])
        .current_dir(workspace())
        .output()
        .expect("cargo runs this test, so it is there");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("cargo prints UTF-8")
}

#[test]
fn the_pure_engine_and_the_simulator_link_nothing_of_the_world() {
    let runtime = &["glommio", "io-uring", "memmap2"][..];
    // foldhash is hashbrown's default hasher, which draws its seed from addresses.
    let world = &["glommio", "io-uring", "memmap2", "crossbeam", "getrandom", "foldhash"][..];
    for (package, refused) in [("engine", world), ("harness", runtime)] {
        let tree = links(package);
        assert!(tree.starts_with(package), "{tree}");
        for name in refused {
            let found = tree.lines().any(|line| line.split(' ').next() == Some(*name));
            assert!(!found, "{package} links {name} without its default features:\n{tree}");
        }
    }
}
