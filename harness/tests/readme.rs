//! What README and docs/getting-started.md show is what happens.
#![cfg(feature = "bench")]

#[allow(dead_code)] // It needs one program of a build, not its nodes.
mod common;

use common::program;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// The commands of the first console block under a heading of a page, as they stand there.
fn console(page: &str, heading: &str) -> Vec<String> {
    let page = std::fs::read_to_string(Path::new(ROOT).join(page)).expect("the page is there");
    let (_, under) = page.split_once(&format!("\n## {heading}\n")).expect("the heading is there");
    let (_, block) = under.split_once("```console\n").expect("a block is under it");
    let (block, _) = block.split_once("```").expect("the block ends");
    block.lines().filter_map(|line| line.strip_prefix("$ ").map(String::from)).collect()
}

/// A directory that looks like a clone in which everything is built: what is built is this test's own build.
fn clone(name: &str) -> PathBuf {
    let clone = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    // It is there only after a run that failed.
    let _ = std::fs::remove_dir_all(&clone);
    std::fs::create_dir_all(clone.join("target")).expect("a directory");
    let built = program("tercet").parent().expect("a program is somewhere").to_owned();
    let link = |what: &Path, at: &str| {
        std::os::unix::fs::symlink(what, clone.join(at)).expect("a link is made");
    };
    link(&built, "target/release");
    link(&Path::new(ROOT).canonicalize().expect("a root").join("Makefile"), "Makefile");
    clone
}

/// A shell in the clone. In the network of its own, if there may be one: README names ports that others may use.
fn shell(clone: &Path, inside: Option<&Child>, script: &str) -> Command {
    let own = Command::new("unshare").args(["-rn", "ip", "link", "set", "lo", "up"]).output();
    let own = own.is_ok_and(|tried| tried.status.success());
    let mut command = match (own, inside) {
        (false, _) => Command::new("bash"),
        (true, None) => {
            let mut command = Command::new("unshare");
            command.args(["-rn", "bash", "-c", "ip link set lo up; exec \"$@\"", "bash", "bash"]);
            command
        }
        (true, Some(other)) => {
            let mut command = Command::new("nsenter");
            command.args(["--preserve-credentials", "-U", "-n", "-t", &other.id().to_string()]);
            command.arg("bash");
            command
        }
    };
    command.args(["-euo", "pipefail", "-c", script]).current_dir(clone);
    // Everything is built: what would build it has nothing to do.
    command.env("CARGO", "true").env_remove("CARGO_TARGET_DIR").env_remove("TERCET_SERVERS");
    command.env_remove("MAKEFLAGS").env_remove("MAKELEVEL");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn what_readme_says_to_try_works_as_it_stands_there() {
    let _alone = alone();
    let lines = console("README.md", "Try it");
    let (run, rest) = lines.split_first().expect("there is something to try");
    assert!(run.starts_with("make run "), "the first line starts nodes: {run}");
    let clone = clone("readme");
    let mut nodes = shell(&clone, None, run).process_group(0).spawn().expect("a shell starts");
    let said = BufReader::new(nodes.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
    let mut said = said.inspect(|line| println!("{line}"));
    assert!(said.any(|line| line.starts_with("Try, in another shell")), "the nodes are up");
    let tried = shell(&clone, Some(&nodes), &rest.join("\n")).output().expect("a shell starts");
    let (out, err) =
        (String::from_utf8_lossy(&tried.stdout), String::from_utf8_lossy(&tried.stderr));
    interrupt(&nodes);
    assert!(tried.status.success(), "{out}{err}");
    assert_eq!(out.matches("hello").count(), 2, "{out}{err}");
    let begun = Instant::now();
    while nodes.try_wait().expect("it is waited for").is_none() {
        assert!(begun.elapsed() < Duration::from_secs(60), "the nodes do not stop");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_getting_started_shows_works_as_it_stands_there() {
    const HEADINGS: [&str; 6] =
        ["Build", "Start three nodes", "Use it", "Kill a node", "Take a backup", "Stop"];
    let _alone = alone();
    let lines = HEADINGS.map(|heading| console("docs/getting-started.md", heading)).concat();
    // An interactive shell counts its jobs. Whatever happens, no node outlives this one.
    let script = format!(
        "set -m; trap 'kill -9 $(jobs -p) 2>/dev/null || true' EXIT; trap 'exit 9' TERM\n{}",
        lines.join("\n")
    );
    let clone = clone("getting-started");
    let mut tried = shell(&clone, None, &script).spawn().expect("a shell starts");
    let begun = Instant::now();
    while tried.try_wait().expect("it is waited for").is_none() {
        if begun.elapsed() > Duration::from_secs(120) {
            let shell = rustix::process::Pid::from_child(&tried);
            let _ = rustix::process::kill_process(shell, rustix::process::Signal::TERM);
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let tried = tried.wait_with_output().expect("what it said is there");
    let (out, err) =
        (String::from_utf8_lossy(&tried.stdout), String::from_utf8_lossy(&tried.stderr));
    let logs = std::fs::read_dir(clone.join("data")).into_iter().flatten().flatten();
    let logs = logs.filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
    assert!(tried.status.success(), "{out}{err}{}", logs.collect::<String>());
    for said in ["hello", "sweep the floor", "I hold nightly under fence"] {
        assert!(out.contains(said), "no {said:?} in: {out}{err}");
    }
}

/// What a user's processes may lock in memory they share: nodes of two tests at once may be too many.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What Ctrl-C does: the whole group is interrupted.
fn interrupt(nodes: &Child) {
    let group = rustix::process::Pid::from_child(nodes);
    let interrupted = rustix::process::kill_process_group(group, rustix::process::Signal::INT);
    interrupted.expect("the nodes are running");
}
