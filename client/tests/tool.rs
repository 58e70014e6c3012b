//! The tool `tercet` as a process, against a small cluster that speaks the real wire.
#![allow(clippy::unwrap_used)] // Every function here is part of a test.

#[path = "../src/tests/fake.rs"]
#[allow(dead_code)]
mod fake;

use fake::{Act, Fake, refuse};
use rustix::process::Signal;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use wire::Code;
use wire::message::{
    CachePut, Heartbeat, LockAcquire, LockRelease, NodeAdd, NodeDrain, NodeForget, QueueAck,
    QueuePop, SessionClose, SessionOpen,
};

fn tercet(fake: &Fake, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tercet"));
    command.args(args).env("TERCET_SERVERS", fake.addresses().join(","));
    command.stdin(Stdio::null());
    command
}

fn run(fake: &Fake, args: &[&str]) -> Output {
    tercet(fake, args).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(10), "never came true: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn wait(child: &mut Child) -> i32 {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().unwrap();
        }
        assert!(begun.elapsed() < Duration::from_secs(15), "the tool does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_value_goes_through_the_cache_byte_for_byte() {
    let fake = Fake::new(3, 12);
    let bytes = [0u8, 255, 10, 13, 200];
    let mut put = tercet(&fake, &["cache", "put", "k", "-", "--json"]);
    let mut put = put.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    put.stdin.take().unwrap().write_all(&bytes).unwrap();
    let put = put.wait_with_output().unwrap();
    let version = json(&put)["version"].as_u64().unwrap();
    assert_eq!(run(&fake, &["cache", "get", "k"]).stdout, bytes);
    let line = json(&run(&fake, &["cache", "get", "k", "--json"]));
    assert_eq!((&line["value_base64"], &line["version"]), (&"AP8KDcg=".into(), &version.into()));
    let stale = run(&fake, &["cache", "put", "k", "x", "--if-version", "999", "--json"]);
    assert_eq!(code(&stale), 3);
    let error: serde_json::Value = serde_json::from_slice(&stale.stderr).unwrap();
    assert_eq!(error["slug"], "version-mismatch");
    assert_eq!(code(&run(&fake, &["cache", "del", "k", "--if-version", &version.to_string()])), 0);
    assert_eq!(code(&run(&fake, &["cache", "get", "k"])), 3);
    assert_eq!(code(&run(&fake, &["cache", "del", "k"])), 3);
}

#[test]
fn a_popped_message_outlives_the_process_unless_it_is_acknowledged() {
    let fake = Fake::new(1, 4);
    assert_eq!(code(&run(&fake, &["queue", "push", "q", "one", "--priority", "3"])), 0);
    assert_eq!(code(&run(&fake, &["queue", "push", "q", "two"])), 0);
    let closed = fake.seen(SessionClose::KIND).len();
    let popped = run(&fake, &["queue", "pop", "q", "--visibility", "60s"]);
    assert_eq!((code(&popped), &popped.stdout[..]), (0, &b"one"[..]));
    assert!(String::from_utf8_lossy(&popped.stderr).contains("delivery 1"));
    assert_eq!(fake.seen(SessionClose::KIND).len(), closed, "its session stays");
    assert!(!fake.seen(Heartbeat::KIND).is_empty(), "after a last sign of life");
    let popped = run(&fake, &["queue", "pop", "q", "--ack", "--json"]);
    assert_eq!(json(&popped)["payload"], "two");
    assert_eq!(fake.seen(QueueAck::KIND).len(), 1);
    assert_eq!(fake.seen(SessionClose::KIND).len(), closed + 1);
    assert_eq!(code(&run(&fake, &["queue", "pop", "q"])), 3, "empty");
    assert_eq!(code(&run(&fake, &["queue", "ack", "q", "1", "--delivery", "1"])), 0);
    assert_eq!(code(&run(&fake, &["queue", "nack", "q", "1", "--delivery", "1"])), 0);
    assert_eq!(code(&run(&fake, &["queue", "pop", "q", "--visibility", "1h"])), 2);
}

#[test]
fn a_message_whose_reader_has_gone_is_not_acknowledged() {
    let fake = Fake::new(1, 4);
    for json in [&["--json"][..], &[]] {
        assert_eq!(code(&run(&fake, &["queue", "push", "q", "one"])), 0);
        let closed = fake.seen(SessionClose::KIND).len();
        let mut pop = tercet(&fake, &["queue", "pop", "q", "--ack", "--visibility", "1h"]);
        let popped = pop.args(json).stdout(closed_pipe()).output().unwrap();
        assert_eq!(code(&popped), 7, "{popped:?}");
        assert!(fake.seen(QueueAck::KIND).is_empty());
        assert_eq!(fake.seen(SessionClose::KIND).len(), closed + 1, "it went back");
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        assert_eq!(code(&run(&fake, &["queue", "push", "q", "two"])), 0);
        let mut pop = tercet(&fake, &["queue", "pop", "q", "--ack"]);
        assert_eq!(code(&pop.args(json).stdout(full).output().unwrap()), 7);
        assert!(fake.seen(QueueAck::KIND).is_empty());
    }
    // Without --ack its numbers are lost with it: it goes back, too.
    assert_eq!(code(&run(&fake, &["queue", "push", "q", "three"])), 0);
    let closed = fake.seen(SessionClose::KIND).len();
    let popped = tercet(&fake, &["queue", "pop", "q"]).stdout(closed_pipe()).output().unwrap();
    assert_eq!(code(&popped), 7, "{popped:?}");
    assert_eq!(fake.seen(SessionClose::KIND).len(), closed + 1);
}

#[test]
fn a_result_that_nobody_could_read_is_no_success() {
    let fake = Fake::new(1, 1);
    assert_eq!(code(&run(&fake, &["cache", "put", "k", "v"])), 0);
    for unread in [
        &["cache", "get", "k"][..],
        &["cache", "get", "k", "--json"],
        &["cache", "put", "k", "w"],
        &["queue", "push", "q", "x"],
        &["status"],
        &["cluster", "status", "--json"],
    ] {
        let ended = tercet(&fake, unread).stdout(closed_pipe()).output().unwrap();
        assert_eq!(code(&ended), 7, "{unread:?}: {ended:?}");
        assert!(String::from_utf8_lossy(&ended.stderr).contains("could not be printed"));
    }
    let closed = fake.seen(SessionClose::KIND).len();
    let acquire = ["lock", "acquire", "l", "--ttl", "10m"];
    assert_eq!(code(&tercet(&fake, &acquire).stdout(closed_pipe()).output().unwrap()), 7);
    assert_eq!(
        fake.seen(SessionClose::KIND).len(),
        closed + 1,
        "a lock nobody was told of is free"
    );
}

#[test]
fn a_signal_takes_a_waiting_call_out_of_its_line() {
    let waits: [(&[&str], _); 2] = [
        (&["lock", "acquire", "l", "--wait", "10m", "--ttl", "10m"], LockAcquire::KIND),
        (&["queue", "pop", "q", "--wait", "10m"], QueuePop::KIND),
    ];
    for (wait_for, kind) in waits {
        for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
            let fake = Fake::new(1, 1);
            fake.rule(move |s| if s.kind == kind { Act::Swallow } else { Act::Serve });
            let mut child = tercet(&fake, wait_for).stderr(Stdio::null()).spawn().unwrap();
            eventually("it waits", || !fake.seen(kind).is_empty());
            send(&child, signal);
            assert_eq!(ended_by(&mut child), Some(signal.as_raw()), "{wait_for:?}");
            assert_eq!(fake.seen(SessionClose::KIND).len(), 1, "{wait_for:?} {signal:?}");
        }
    }
}

#[test]
fn a_second_signal_does_not_wait_for_a_cluster_that_is_silent() {
    let fake = Fake::new(1, 1);
    fake.rule(|s| if s.kind == LockAcquire::KIND { Act::Swallow } else { Act::Serve });
    let acquire = ["lock", "acquire", "l", "--wait", "10m"];
    let mut child = tercet(&fake, &acquire).stderr(Stdio::null()).spawn().unwrap();
    eventually("it waits", || !fake.seen(LockAcquire::KIND).is_empty());
    fake.rule(|_| Act::Swallow);
    let begun = Instant::now();
    send(&child, Signal::TERM);
    eventually("it gives its place up", || !fake.seen(SessionClose::KIND).is_empty());
    send(&child, Signal::TERM);
    assert_eq!(ended_by(&mut child), Some(Signal::TERM.as_raw()));
    assert!(begun.elapsed() < Duration::from_millis(1_900), "{:?}", begun.elapsed());
}

#[test]
fn what_is_told_to_ignore_the_end_of_a_terminal_ignores_it() {
    let fake = Fake::new(1, 1);
    fake.rule(|s| if s.kind == LockAcquire::KIND { Act::Swallow } else { Act::Serve });
    let mut command = Command::new("nohup");
    command.arg(env!("CARGO_BIN_EXE_tercet")).args(["lock", "acquire", "l", "--wait", "10m"]);
    command.env("TERCET_SERVERS", fake.addresses().join(","));
    let nowhere = || Stdio::null();
    let mut child = command.stdin(nowhere()).stdout(nowhere()).stderr(nowhere()).spawn().unwrap();
    eventually("it waits", || !fake.seen(LockAcquire::KIND).is_empty());
    send(&child, Signal::HUP);
    // The next signal ends it, so the first did not.
    send(&child, Signal::TERM);
    assert_eq!(ended_by(&mut child), Some(Signal::TERM.as_raw()));
}

#[test]
fn an_acquired_lock_is_released_by_another_process() {
    let fake = Fake::new(1, 1);
    let acquired = json(&run(&fake, &["lock", "acquire", "l", "--ttl", "2m", "--json"]));
    assert!(fake.seen(SessionClose::KIND).is_empty() && fake.seen(LockRelease::KIND).is_empty());
    let (session, fence) = (acquired["session"].as_str().unwrap(), acquired["fence"].to_string());
    let release = ["lock", "release", "l", "--session", session, "--fence", &fence];
    assert_eq!(code(&run(&fake, &release)), 0);
    assert_eq!(fake.seen(SessionOpen::KIND).len(), 1, "the session was used, not opened");
    assert_eq!(fake.seen(LockRelease::KIND).len(), 1);
    assert_eq!(fake.seen(SessionClose::KIND).len(), 1);
    assert_eq!(code(&run(&fake, &release)), 3, "it is gone");
    fake.once(LockAcquire::KIND, refuse(Code::LockHeld));
    assert_eq!(code(&run(&fake, &["lock", "acquire", "l"])), 3);
}

#[test]
fn a_command_runs_under_its_lock() {
    let fake = Fake::new(1, 1);
    let script = "echo $TERCET_LOCK_NAME $TERCET_LOCK_FENCE; exit 7";
    let ran = run(&fake, &["lock", "run", "demo", "--", "sh", "-c", script]);
    assert_eq!(code(&ran), 7);
    assert_eq!(String::from_utf8_lossy(&ran.stdout).trim(), "demo 1");
    assert_eq!(fake.seen(LockRelease::KIND).len(), 1);
    assert_eq!(code(&run(&fake, &["lock", "run", "demo", "--", "/nowhere/at/all"])), 127);
    fake.once(LockAcquire::KIND, refuse(Code::LockTimeout));
    assert_eq!(code(&run(&fake, &["lock", "run", "demo", "--", "true"])), 3);
}

#[test]
fn a_signal_goes_to_the_command() {
    let fake = Fake::new(1, 1);
    let script = "trap 'exit 9' TERM; echo up; while :; do sleep 0.05; done";
    let mut child = tercet(&fake, &["lock", "run", "demo", "--", "sh", "-c", script]);
    let mut child = child.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = [0; 3];
    child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    terminate(&child);
    assert_eq!(wait(&mut child), 9);
    eventually("the lock is released", || fake.seen(LockRelease::KIND).len() == 1);
}

#[test]
fn a_signal_while_waiting_gives_the_wait_up() {
    let fake = Fake::new(1, 1);
    fake.rule(|s| if s.kind == LockAcquire::KIND { Act::Swallow } else { Act::Serve });
    let mut child = tercet(&fake, &["lock", "run", "demo", "--", "true"]).spawn().unwrap();
    eventually("it waits", || !fake.seen(LockAcquire::KIND).is_empty());
    terminate(&child);
    assert_eq!(wait(&mut child), 128 + 15);
    assert_eq!(fake.seen(SessionClose::KIND).len(), 1, "its place in the line is given up");
}

#[test]
fn a_command_is_stopped_when_its_lock_is_lost() {
    let fake = Fake::new(1, 1);
    let script = "trap '' TERM; echo up; while :; do sleep 0.05; done";
    let run = ["lock", "run", "demo", "--ttl", "1s", "--grace", "200ms", "--", "sh", "-c", script];
    let mut child = tercet(&fake, &run).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = [0; 3];
    child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    fake.rule(|_| Act::Swallow);
    let begun = Instant::now();
    assert_eq!(wait(&mut child), 124);
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[test]
fn failures_have_their_own_exit_status() {
    let fake = Fake::new(1, 1);
    let nobody = ["--servers", "127.0.0.1:1", "--deadline", "200ms", "cache", "get", "k"];
    assert_eq!(code(&run(&fake, &nobody)), 4);
    assert_eq!(code(&run(&fake, &["cache", "get"])), 2);
    assert_eq!(code(&run(&fake, &["cache", "get", ""])), 2);
    fake.rule(|s| if s.kind == CachePut::KIND { Act::Swallow } else { Act::Serve });
    let unknown = run(&fake, &["cache", "put", "k", "v", "--deadline", "300ms"]);
    assert_eq!(code(&unknown), 5);
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("not known"), "{unknown:?}");
    fake.once(CachePut::KIND, refuse(Code::OverBudget));
    assert_eq!(code(&run(&fake, &["cache", "put", "k", "v"])), 1);
}

#[test]
fn the_status_tells_who_answers_and_who_leads() {
    let fake = Fake::new(3, 6);
    let status = run(&fake, &["status", "--shards"]);
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    assert_eq!(code(&status), 0, "{text}");
    assert!(text.contains("0-5") && text.contains("shard 5") && !text.contains('\x1b'), "{text}");
    fake.stop(2, 1);
    let status = run(&fake, &["status", "--json"]);
    let document = json(&status);
    assert_eq!(document["nodes"][1]["up"], false);
    assert_eq!(document["nodes"][0]["leads"].as_array().unwrap().len(), 6);
    assert_eq!(document["state"], "degraded");
    assert_eq!(document["groups"][0]["missing"], serde_json::json!([2]));
    assert_eq!(code(&status), 8);
    let seen = run(&fake, &["cluster", "status", "--json"]);
    assert_eq!((code(&seen), &json(&seen)["settled"]), (8, &false.into()));
    fake.lead(2);
    assert_eq!(code(&run(&fake, &["status"])), 4);
}

#[test]
fn a_group_without_a_majority_is_not_shown_as_led_and_the_cluster_s_own_group_stops_changes() {
    let fake = Fake::new(3, 3);
    fake.memory.lock().unwrap().nodes.mute.extend([0, 2]);
    fake.stop(2, 1);
    fake.stop(3, 1);
    for command in [&["status"][..], &["cluster", "status"]] {
        let status = run(&fake, command);
        let text = String::from_utf8_lossy(&status.stdout).into_owned();
        assert_eq!(code(&status), 4, "{text}");
        assert!(!text.contains("0-2"), "shard 1 is led by nobody: {text}");
    }
    let status = run(&fake, &["status"]);
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(text.contains("without a majority: the cluster's own group, shards 1"), "{text}");
    assert!(text.contains("replicas missing: shards 0, 2"), "{text}");
    let begun = Instant::now();
    let removed = run(&fake, &["cluster", "remove-node", "3"]);
    let text = String::from_utf8_lossy(&removed.stderr).into_owned();
    assert_eq!(code(&removed), 4, "{text}");
    assert!(text.contains("nothing was done") && text.contains("(group 0)"), "{text}");
    assert!(text.contains("nodes 2-3 do not answer"), "{text}");
    assert!(fake.seen(NodeDrain::KIND).is_empty() && begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_backup_is_taken_checked_and_told_for_scripts() {
    let fake = Fake::new(3, 2);
    let file = std::env::temp_dir().join(format!("tercet-tool-backup-{}", std::process::id()));
    let path = file.to_str().unwrap();
    let taken = run(&fake, &["cluster", "backup", path]);
    assert_eq!(code(&taken), 0, "{taken:?}");
    let text = String::from_utf8_lossy(&taken.stdout).into_owned();
    assert!(text.contains("holds 3 groups of cluster 0707"), "{text}");
    assert!(taken.stderr.is_empty(), "no bar where nobody looks");
    let told = json(&run(&fake, &["cluster", "backup", path, "--json"]));
    assert_eq!((&told["shards"], &told["groups"]), (&2.into(), &3.into()));
    let checked = json(&run(&fake, &["cluster", "backup", "--verify", path, "--json"]));
    assert_eq!(checked["bytes"], told["bytes"]);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes.pop();
    std::fs::write(&file, bytes).unwrap();
    let damaged = run(&fake, &["cluster", "backup", "--verify", path]);
    assert_eq!(code(&damaged), 1);
    assert!(String::from_utf8_lossy(&damaged.stderr).contains("is not whole"), "{damaged:?}");
    std::fs::remove_file(&file).unwrap();
    fake.stop(1, 2);
    fake.stop(2, 3);
    fake.stop(3, 3);
    let nobody = run(&fake, &["cluster", "backup", path]);
    assert_eq!(code(&nobody), 4, "{nobody:?}");
    assert!(!file.exists());
}

/// Three nodes of a cluster, and a fourth that is none of it yet.
fn three_of_four() -> std::sync::Arc<Fake> {
    let fake = Fake::new(4, 3);
    let mut memory = fake.memory.lock().unwrap();
    memory.nodes.outside.insert(4);
    memory.nodes.unborn.insert(4);
    drop(memory);
    fake
}

#[test]
fn a_node_is_added_then_removed_and_both_are_waited_for() {
    let fake = three_of_four();
    let fourth = fake.addresses()[3].clone();
    let added = run(&fake, &["cluster", "add-node", &fourth, "--json"]);
    assert_eq!(code(&added), 0, "{added:?}");
    assert_eq!(json(&added)["replicas"], serde_json::json!([0, 1, 2, 3]));
    assert!(added.stderr.is_empty(), "{added:?}");
    let again = run(&fake, &["cluster", "add-node", &fourth]);
    assert_eq!(code(&again), 0);
    assert!(String::from_utf8_lossy(&again.stderr).contains("already"), "{again:?}");

    let drained = run(&fake, &["cluster", "remove-node", "4", "--no-wait"]);
    assert!(String::from_utf8_lossy(&drained.stdout).contains("run again"), "{drained:?}");
    assert!(fake.seen(NodeForget::KIND).is_empty());
    let removed = run(&fake, &["cluster", "remove-node", "4"]);
    assert_eq!(code(&removed), 0, "{removed:?}");
    assert!(String::from_utf8_lossy(&removed.stderr).contains("4 replicas left"), "{removed:?}");
    assert_eq!(fake.seen(NodeForget::KIND).len(), 1);
    let gone = run(&fake, &["cluster", "remove-node", "4"]);
    assert_eq!(code(&gone), 3);
    assert!(String::from_utf8_lossy(&gone.stderr).contains("1-3"), "{gone:?}");
}

#[test]
fn what_does_not_end_in_time_says_so() {
    let fake = three_of_four();
    let fourth = fake.addresses()[3].clone();
    let late = run(&fake, &["cluster", "add-node", &fourth, "--timeout", "100ms"]);
    assert_eq!(code(&late), 6, "{late:?}");
    assert!(String::from_utf8_lossy(&late.stderr).contains("run the same again"), "{late:?}");
    assert_eq!(code(&run(&fake, &["cluster", "add-node", &fourth])), 0);
    let nobody = run(&fake, &["cluster", "add-node", "127.0.0.1:1"]);
    assert_eq!(code(&nobody), 4);
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("Start it first"), "{nobody:?}");
}

#[test]
fn a_node_that_lost_its_disk_is_replaced_by_itself() {
    let fake = Fake::new(3, 3);
    let mut memory = fake.memory.lock().unwrap();
    memory.nodes.unborn.insert(2);
    memory.nodes.lives.insert(2, 99);
    drop(memory);
    let second = fake.addresses()[1].clone();
    let known = run(&fake, &["cluster", "add-node", &second]);
    assert_eq!(code(&known), 1);
    let text = String::from_utf8_lossy(&known.stderr).into_owned();
    assert!(text.contains("replace-node 2"), "{text}");
    let replaced = run(&fake, &["cluster", "replace-node", "2", &second]);
    assert_eq!(code(&replaced), 0, "{replaced:?}");
    let add = fake.seen(NodeAdd::KIND).len();
    assert_eq!((add, fake.seen(NodeDrain::KIND).len()), (2, 0));
}

#[test]
fn a_node_is_replaced_by_another() {
    let fake = three_of_four();
    let fourth = fake.addresses()[3].clone();
    let replaced = run(&fake, &["cluster", "replace-node", "3", &fourth, "--json"]);
    assert_eq!(code(&replaced), 0, "{replaced:?}");
    assert_eq!(
        (json(&replaced)["node"].as_u64(), json(&replaced)["replaced"].as_u64()),
        (Some(4), Some(3))
    );
    let status = json(&run(&fake, &["cluster", "status", "--json"]));
    let ids: Vec<u64> =
        status["nodes"].as_array().unwrap().iter().map(|n| n["id"].as_u64().unwrap()).collect();
    assert_eq!((ids, &status["settled"]), (vec![1, 2, 4], &true.into()));
}

#[test]
fn leadership_is_moved_and_shown() {
    let fake = Fake::new(3, 3);
    assert_eq!(code(&run(&fake, &["cluster", "transfer-leader", "1", "2"])), 0);
    assert_eq!(fake.memory.lock().unwrap().leaders, [2, 1, 1]);
    let status = run(&fake, &["cluster", "status"]);
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(text.contains("4 of 4 groups settled"), "{text}");
    let second = text.lines().find(|line| line.starts_with("1      0 ")).unwrap();
    assert!(second.split_whitespace().eq(["1", "0", "2", "1-3", "-", "settled"]), "{text}");
    assert_eq!(code(&run(&fake, &["cluster", "transfer-leader", "9", "2"])), 2);
    assert_eq!(code(&run(&fake, &["cluster", "transfer-leader", "1", "9"])), 3);
    fake.lead(9);
    assert_eq!(code(&run(&fake, &["cluster", "status"])), 4);
}

#[test]
fn help_is_there_for_every_command() {
    let fake = Fake::new(1, 1);
    for command in [
        "",
        "status",
        "lock",
        "lock run",
        "queue pop",
        "cache put",
        "lock acquire",
        "cluster",
        "cluster add-node",
        "cluster transfer-leader",
    ] {
        let args: Vec<&str> = command.split_whitespace().chain(["--help"]).collect();
        let help = run(&fake, &args);
        assert_eq!(code(&help), 0);
        let text = String::from_utf8_lossy(&help.stdout).into_owned();
        assert!(text.contains("Usage:") && text.contains("--servers"), "{text}");
    }
    let help = run(&fake, &["--help"]);
    assert!(String::from_utf8_lossy(&help.stdout).contains("Exit status:"));
}

/// Sends SIGTERM to a process that this test started.
fn terminate(child: &Child) {
    send(child, Signal::TERM);
}

/// Sends a signal to a process that this test started.
fn send(child: &Child, signal: Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).unwrap();
}

/// A pipe whose reader has gone.
fn closed_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

/// The signal that ended a process.
fn ended_by(child: &mut Child) -> Option<i32> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.signal();
        }
        assert!(begun.elapsed() < Duration::from_secs(15), "the tool does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}
