//! `tercet lock run` with real commands: what runs under a lock is gone before the lock can be granted again.
#![allow(clippy::unwrap_used)] // Every function here is part of a test.

#[path = "../src/tests/fake.rs"]
#[allow(dead_code)]
mod fake;

use fake::{Act, Fake};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use wire::message::{Heartbeat, LockRelease};

/// The time to live of the tests' sessions.
const TTL: Duration = Duration::from_secs(3);

/// A directory of a test's own, where a command says what it does.
struct Place(PathBuf);

impl Place {
    fn new(test: &str) -> Place {
        let path = std::env::temp_dir().join(format!("tercet-run-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Place(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.file(name)).unwrap_or_default()
    }

    /// When a file was written last.
    fn written(&self, name: &str) -> SystemTime {
        std::fs::metadata(self.file(name)).unwrap().modified().unwrap()
    }

    fn lines(&self, name: &str) -> usize {
        self.text(name).lines().count()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// `tercet lock run` of a shell's script, which finds itself in the place.
fn lock_run(fake: &Fake, place: &Place, options: &[&str], script: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tercet"));
    command.args(["lock", "run", "demo", "--ttl", "3s"]).args(options);
    under(command, fake, place, script)
}

fn under(mut command: Command, fake: &Fake, place: &Place, script: &str) -> Command {
    command.args(["--", "sh", "-c", script]).current_dir(&place.0);
    command.env("TERCET_SERVERS", fake.addresses().join(","));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Nothing else is heard of the cluster. Says when the last sign of life was taken.
fn cut_off(fake: &Fake) -> SystemTime {
    fake.rule(|_| Act::Swallow);
    SystemTime::now()
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(20), "never came true: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn status(child: &mut Child) -> ExitStatus {
    let mut status = None;
    eventually("the tool ends", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}

fn output(mut child: Child) -> Output {
    let status = status(&mut child);
    let mut stderr = Vec::new();
    child.stderr.take().unwrap().read_to_end(&mut stderr).unwrap();
    Output { status, stdout: Vec::new(), stderr }
}

fn send(pid: Pid, signal: Signal) {
    kill_process(pid, signal).unwrap();
}

fn pid(place: &Place, file: &str) -> Pid {
    Pid::from_raw(place.text(file).trim().parse().unwrap()).unwrap()
}

/// Whether a process runs; one that has ended and was not reaped does not.
fn runs(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid()));
    stat.is_ok_and(|stat| !stat[stat.rfind(')').unwrap()..].starts_with(") Z"))
}

/// A child, a grandchild and one in a session of its own, all of which ignore SIGTERM and write for as long as they run.
const STUBBORN: &str = "trap '' TERM
    write() { while :; do echo x >> $1; sleep 0.01; done; }
    write one & echo $! > one.pid
    (write two & echo $! > two.pid; wait) &
    setsid sh -c 'trap \"\" TERM; echo $$ > three.pid; while :; do echo x >> three; sleep 0.01; done' &
    write zero";
const WRITERS: [&str; 4] = ["zero", "one", "two", "three"];

fn all_write(place: &Place) {
    eventually("all write", || WRITERS.iter().all(|file| place.lines(file) > 0));
}

/// Nothing was written later than this.
fn written_by(place: &Place, limit: SystemTime) {
    std::thread::sleep(Duration::from_millis(100));
    for file in WRITERS {
        let written = place.written(file);
        let late = written.duration_since(limit).unwrap_or_default();
        assert!(late.is_zero(), "{file} wrote {late:?} after the lock may have been free");
    }
}

#[test]
fn what_ignores_its_end_is_gone_before_a_lock_that_is_cut_off_is_free() {
    let (fake, place) = (Fake::new(1, 1), Place::new("cut"));
    let child = lock_run(&fake, &place, &["--grace", "1s", "--json"], STUBBORN).spawn().unwrap();
    all_write(&place);
    let cut = cut_off(&fake);
    let ended = output(child);
    assert_eq!(ended.status.code(), Some(124));
    written_by(&place, cut + TTL);
    let told: serde_json::Value = serde_json::from_slice(&ended.stderr).unwrap();
    assert_eq!((&told["lost"], &told["exit"]), (&true.into(), &124.into()), "{told}");
    assert!(told["why"].as_str().unwrap().contains("confirmed"), "{told}");
}

#[test]
fn a_command_has_its_grace_before_the_lock_is_free() {
    let (fake, place) = (Fake::new(1, 1), Place::new("grace"));
    let script =
        "trap 'sleep 0.5; date > cleaned; exit 3' TERM; echo up > up; while :; do sleep 0.02; done";
    let child = lock_run(&fake, &place, &["--grace", "900ms"], script).spawn().unwrap();
    eventually("it runs", || place.lines("up") == 1);
    let cut = cut_off(&fake);
    assert_eq!(output(child).status.code(), Some(124));
    assert!(place.written("cleaned") < cut + TTL, "it cleaned up while the lock was held");
}

#[test]
fn what_runs_under_a_wrapper_that_stands_still_is_gone_in_time() {
    let (fake, place) = (Fake::new(1, 1), Place::new("stopped"));
    let child = lock_run(&fake, &place, &["--json"], STUBBORN).spawn().unwrap();
    all_write(&place);
    send(Pid::from_child(&child), Signal::STOP);
    let stopped = SystemTime::now();
    std::thread::sleep(TTL + Duration::from_millis(300));
    written_by(&place, stopped + TTL);
    send(Pid::from_child(&child), Signal::CONT);
    let ended = output(child);
    assert_eq!(ended.status.code(), Some(124));
    let told: serde_json::Value = serde_json::from_slice(&ended.stderr).unwrap();
    assert_eq!(told["lost"], true, "{told}");
}

#[test]
fn what_runs_under_a_wrapper_that_is_killed_is_gone_in_time() {
    let (fake, place) = (Fake::new(1, 1), Place::new("killed"));
    let mut child = lock_run(&fake, &place, &[], STUBBORN).spawn().unwrap();
    all_write(&place);
    child.kill().unwrap();
    let killed = SystemTime::now();
    child.wait().unwrap();
    std::thread::sleep(TTL + Duration::from_millis(100));
    written_by(&place, killed + TTL);
    assert!(["one.pid", "two.pid", "three.pid"].iter().all(|file| !runs(pid(&place, file))));
}

#[test]
fn what_loses_its_keeper_is_killed() {
    let (fake, place) = (Fake::new(1, 1), Place::new("keeper"));
    let child =
        lock_run(&fake, &place, &[], "echo $PPID > keeper; exec sleep 600").spawn().unwrap();
    eventually("it runs", || place.lines("keeper") == 1);
    send(pid(&place, "keeper"), Signal::KILL);
    let ended = output(child);
    assert_eq!(ended.status.code(), Some(124), "{ended:?}");
    assert_eq!(fake.seen(LockRelease::KIND).len(), 1, "and then the lock is released");
}

#[test]
fn what_a_command_leaves_running_is_ended_before_the_release() {
    let (fake, place) = (Fake::new(1, 1), Place::new("left"));
    let script = "setsid sh -c 'echo $$ > left; sleep 600' & while [ ! -s left ]; do sleep 0.01; done; exit 5";
    let left = Arc::new(Mutex::new(None));
    let (at, file) = (Arc::clone(&left), place.file("left"));
    fake.rule(move |seen| {
        if seen.kind == LockRelease::KIND {
            let pid = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
            *at.lock().unwrap() = Some(runs(Pid::from_raw(pid).unwrap()));
        }
        Act::Serve
    });
    let child = lock_run(&fake, &place, &[], script).spawn().unwrap();
    assert_eq!(output(child).status.code(), Some(5));
    assert_eq!(*left.lock().unwrap(), Some(false), "it is gone when the lock is released");
}

#[test]
fn a_lock_that_was_taken_away_meanwhile_is_no_success() {
    let (fake, place) = (Fake::new(1, 1), Place::new("taken"));
    let script = "echo up > up; while [ ! -e go ]; do sleep 0.01; done";
    let child = lock_run(&fake, &place, &["--json"], script).spawn().unwrap();
    eventually("it runs", || place.lines("up") == 1);
    fake.once(LockRelease::KIND, fake::refuse(wire::Code::NotHolder));
    File::create(place.file("go")).unwrap();
    let ended = output(child);
    assert_eq!(ended.status.code(), Some(124), "{ended:?}");
    let told: serde_json::Value = serde_json::from_slice(&ended.stderr).unwrap();
    assert_eq!((&told["lost"], &told["status"]), (&true.into(), &0.into()), "{told}");
}

#[test]
fn a_document_says_how_a_command_ended() {
    let (fake, place) = (Fake::new(1, 1), Place::new("document"));
    let told = |script: &str| -> (Option<i32>, serde_json::Value) {
        let ended = output(lock_run(&fake, &place, &["--json"], script).spawn().unwrap());
        (ended.status.code(), serde_json::from_slice(&ended.stderr).unwrap())
    };
    let (code, document) = told("exit 7");
    assert_eq!((code, &document["status"], &document["lost"]), (Some(7), &7.into(), &false.into()));
    let (code, document) = told("kill -USR1 $$");
    assert_eq!((code, &document["signal"]), (Some(128 + 10), &10.into()), "{document}");
}

#[test]
fn what_was_started_with_nohup_outlives_its_terminal() {
    let (fake, place) = (Fake::new(1, 1), Place::new("nohup"));
    let mut command = Command::new("nohup");
    command.args([env!("CARGO_BIN_EXE_tercet"), "lock", "run", "demo"]);
    let script =
        "kill -HUP $$ $PPID; echo alive > alive; echo > up; while [ ! -e go ]; do sleep 0.01; done";
    let child = under(command, &fake, &place, script).spawn().unwrap();
    eventually("it lives on", || place.lines("up") == 1);
    send(Pid::from_child(&child), Signal::HUP);
    File::create(place.file("go")).unwrap();
    assert_eq!(output(child).status.code(), Some(0));
    assert_eq!(place.text("alive"), "alive\n");
}

/// Counts the interrupts that it gets, until it is told to go.
/// It never sleeps, so that no two of them become one.
const COUNTER: &str = "trap 'echo x >> got' INT; echo $$ > up; while [ ! -e go ]; do :; done";

/// Ends what counts, and says how many interrupts it got.
fn interrupts(place: &Place) -> usize {
    eventually("it got one", || place.lines("got") > 0);
    std::thread::sleep(Duration::from_millis(200));
    File::create(place.file("go")).unwrap();
    place.lines("got")
}

#[test]
fn an_interrupt_reaches_a_command_in_a_terminal_once() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let path = PathBuf::from(ptsname(&terminal, Vec::new()).unwrap().into_string().unwrap());
    let side = || File::options().read(true).write(true).open(&path).unwrap();
    // Ctrl-C, while the standard input is the terminal and while it is not; and another process.
    for (round, from) in ["<&0", "</dev/null", "<&0"].into_iter().enumerate() {
        let (fake, place) = (Fake::new(1, 1), Place::new(&format!("terminal-{round}")));
        let mut command = Command::new("setsid");
        let script = format!("echo $$ > tool; exec \"$@\" {from}");
        command.args(["--ctty", "--wait", "sh", "-c", &script, "sh"]);
        command.args([env!("CARGO_BIN_EXE_tercet"), "lock", "run", "demo"]);
        let mut command = under(command, &fake, &place, COUNTER);
        let mut child = command.stdin(side()).stdout(side()).stderr(side()).spawn().unwrap();
        eventually("it runs", || place.lines("up") == 1);
        match round {
            2 => send(pid(&place, "tool"), Signal::INT),
            _ => File::from(terminal.try_clone().unwrap()).write_all(b"\x03").unwrap(),
        }
        assert_eq!(interrupts(&place), 1, "round {round}");
        assert_eq!(status(&mut child).code(), Some(0));
    }
}

#[test]
fn an_interrupt_to_the_tool_or_its_group_reaches_the_command_once() {
    for to_group in [false, true] {
        let (fake, place) = (Fake::new(1, 1), Place::new(&format!("interrupt-{to_group}")));
        let mut command = Command::new("setsid");
        command.args(["--wait", "sh", "-c", "echo $$ > tool; exec \"$@\"", "sh"]);
        command.args([env!("CARGO_BIN_EXE_tercet"), "lock", "run", "demo"]);
        let mut child = under(command, &fake, &place, COUNTER).spawn().unwrap();
        eventually("it runs", || place.lines("up") == 1);
        let tool = pid(&place, "tool");
        match to_group {
            true => kill_process_group(tool, Signal::INT).unwrap(),
            false => send(tool, Signal::INT),
        }
        assert_eq!(interrupts(&place), 1, "to its group: {to_group}");
        assert_eq!(status(&mut child).code(), Some(0));
    }
}

#[test]
fn a_signal_reaches_what_the_command_began() {
    let (fake, place) = (Fake::new(1, 1), Place::new("all"));
    // The shell waits for its child and passes nothing on.
    let script = "trap : TERM; sh -c 'trap \"echo x > got; exit\" TERM; echo > up; while :; do sleep 0.01; done'; exit 4";
    let child = lock_run(&fake, &place, &[], script).spawn().unwrap();
    eventually("it runs", || place.lines("up") == 1);
    send(Pid::from_child(&child), Signal::TERM);
    assert_eq!(output(child).status.code(), Some(4));
    assert_eq!(place.text("got"), "x\n");
}

#[test]
fn a_lock_that_is_confirmed_is_held_for_as_long_as_the_command_runs() {
    let (fake, place) = (Fake::new(1, 1), Place::new("long"));
    let child = lock_run(&fake, &place, &[], "sleep 5; exit 6").spawn().unwrap();
    assert_eq!(output(child).status.code(), Some(6));
    assert!(fake.seen(Heartbeat::KIND).len() > 5);
}
