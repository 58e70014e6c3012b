//! A backup of a cluster that serves, and the cluster that is made of it: real processes.
#![cfg(feature = "bench")]

mod common;

use client::{Client, Code, Error};
use common::{program, servers, three_nodes};
use harness::cluster::ask::{Ask, AskError, http_get};
use harness::cluster::{Cluster, ClusterConfig};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use wire::Call;
use wire::message::{Done, QueuePush, SessionOpen};
use wire::name::shard;

const SHARDS: u32 = 4;
/// How long a change may take on a busy machine.
const CHANGED_WITHIN: Duration = Duration::from_secs(120);
/// Messages in the queue, one of them in flight.
const JOBS: u64 = 50;
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_cluster_made_of_a_backup_has_what_was_acknowledged_and_gives_no_number_twice() {
    let config = ClusterConfig { shards: Some(SHARDS), ..three_nodes("backup") };
    let mut cluster = Cluster::start(config).expect("three nodes start");
    let client = Client::connect(servers(&cluster)).expect("the cluster answers");
    let before = Before::make(&cluster, &client);
    let load = Load::start(&cluster);
    load.wait_lines(200);

    let file = cluster.data_dir().join("tercet.backup");
    let acknowledged = load.lines();
    let taken = tercet(&cluster, &["backup", &text(&file), "--json"]);
    assert!(taken.status.success(), "{taken:?}");
    let told: serde_json::Value = serde_json::from_slice(&taken.stdout).expect("JSON");
    assert_eq!((&told["shards"], &told["groups"]), (&4.into(), &5.into()));
    // The old cluster goes on after the backup: what it gives out then is forgotten, and must not come again.
    load.wait_lines(acknowledged.len() + 100);
    let issued = load.end();
    assert!(issued > before.newest(), "fences and versions went on");
    damaged_copies_are_refused(&cluster, &file);

    let mut restored = restored(&file);
    let client = Client::connect(servers(&restored)).expect("the new cluster answers");
    before.check(&restored, &client, issued);
    check_lines(&client, &acknowledged, issued);

    let second = restored.spawn_another().expect("a node starts");
    let address = restored.nodes()[second as usize - 1].address.to_string();
    done(&restored, &["add-node", &address, "--timeout", "2m"]);
    wait_members(&restored, &BTreeSet::from([1, second]));
    done(&restored, &["remove-node", "1", "--timeout", "2m"]);
    wait_members(&restored, &BTreeSet::from([second]));
    restored.kill(1).expect("a node dies");
    let client = Client::connect(servers(&restored)).expect("the second node answers");
    check_lines(&client, &acknowledged, issued);
    cluster.stop().expect("the nodes stop");
    restored.stop().expect("the node stops");
}

/// What was there before the load.
struct Before {
    /// The fence under which a lock is held that nobody releases.
    held: u64,
    /// The ids of the jobs, by their payload.
    jobs: BTreeMap<Vec<u8>, u64>,
    /// The session that pushed the last job, by hand.
    session: [u8; 16],
}

impl Before {
    fn make(cluster: &Cluster, client: &Client) -> Before {
        let guard = client.lock("held").acquire().wait().expect("the lock is free");
        let held = guard.fence();
        guard.leave();
        let queue = client.queue("jobs");
        let job = |n: u64| {
            let payload = format!("job {n}").into_bytes();
            let id = queue.push(payload.clone()).wait().expect("a push is acknowledged");
            (payload, id)
        };
        let mut jobs: BTreeMap<_, _> = (1..JOBS).map(job).collect();
        let popped = queue.pop(HOUR, SECOND).wait().expect("a pop is answered");
        assert_eq!(popped.expect("there are jobs").delivery, 1);
        let session = [77; 16];
        let id = push(cluster, session, Opens::Session).expect("it is pushed");
        jobs.insert(b"by hand".to_vec(), id);
        Before { held, jobs, session }
    }

    fn newest(&self) -> u64 {
        self.jobs.values().copied().chain([self.held]).max().expect("there are jobs")
    }

    /// The new cluster has all of it, nobody's session, and goes on above what was `issued`.
    fn check(&self, restored: &Cluster, client: &Client, issued: u64) {
        let guard = client.lock("held").acquire().wait().expect("nobody holds the lock any more");
        assert!(guard.fence() > issued, "{} after {issued}", guard.fence());

        // Its answer was lost, say: the call is sent again, and neither done nor taken for done.
        let again = push(restored, self.session, Opens::Nothing);
        assert_eq!(again, Err(Some(Code::SessionUnknown)));
        let again = push(restored, self.session, Opens::Session);
        assert_eq!(again, Err(Some(Code::SessionUnknown)), "it is remembered as ended");

        let (queue, mut jobs) = (client.queue("jobs"), BTreeMap::new());
        while let Some(job) = queue.pop(HOUR, Duration::ZERO).wait().expect("a pop is answered") {
            let deliveries = if job.payload == "job 1" { 2 } else { 1 };
            assert_eq!(job.delivery, deliveries, "the count of deliveries stays");
            jobs.insert(job.payload.to_vec(), job.id);
            job.ack().wait().expect("it is acknowledged");
        }
        assert_eq!(jobs, self.jobs, "each job once, under its id");
        let id = queue.push("one more").wait().expect("a push is acknowledged");
        assert!(id > issued, "{id} after {issued}");
    }
}

/// Whether a connection by hand opens its session first.
#[derive(PartialEq, Eq)]
enum Opens {
    Session,
    Nothing,
}

/// Pushes one job as the first call of a session. Gives its id, or why it was refused.
fn push(cluster: &Cluster, session: [u8; 16], opens: Opens) -> Result<u64, Option<Code>> {
    let refused = |error| match error {
        AskError::Refused { code, .. } => code,
        other => panic!("{other}"),
    };
    let shard = shard(b"jobs", SHARDS);
    let leader = cluster.leader_of(shard).expect("the shard is led");
    let address = cluster.nodes()[leader as usize - 1].address;
    let (mut ask, _) = Ask::connect(address, 0, session, 5 * SECOND).expect("the node answers");
    if opens == Opens::Session {
        let open = SessionOpen { session, ttl_ms: 600_000 };
        ask.call(SessionOpen::KIND, shard, |out| open.encode(out)).map_err(refused)?;
    }
    let (name, payload) = (b"jobs".as_slice(), b"by hand".as_slice());
    let (sequence, answered_below, priority) = (1, 1, client::PRIORITY);
    let push =
        QueuePush { call: Call { session, sequence, answered_below }, priority, name, payload };
    let pushed = ask.call(QueuePush::KIND, shard, |out| push.encode(out)).map_err(refused)?;
    Ok(Done::decode(&pushed.1).expect("a push is done").token)
}

/// Clients that write all the time, and note what was acknowledged.
struct Load {
    over: Arc<AtomicBool>,
    noted: Arc<Mutex<Noted>>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Noted {
    /// Lines, each written once, with their versions.
    lines: BTreeMap<String, u64>,
    /// The highest fence, version or id.
    issued: u64,
}

impl Load {
    fn start(cluster: &Cluster) -> Load {
        let (over, noted) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::default()));
        let threads = (0..3).map(|writer| {
            let (servers, over, noted) = (servers(cluster), Arc::clone(&over), Arc::clone(&noted));
            std::thread::spawn(move || write_on(writer, servers, &over, &noted))
        });
        let threads = threads.collect();
        Load { over, noted, threads }
    }

    fn lines(&self) -> BTreeMap<String, u64> {
        self.noted.lock().expect("nobody panics with it").lines.clone()
    }

    fn wait_lines(&self, count: usize) {
        let since = Instant::now();
        while self.lines().len() < count {
            assert!(since.elapsed() < CHANGED_WITHIN, "the load goes on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends the load; gives the highest number that was given out.
    fn end(self) -> u64 {
        self.over.store(true, Ordering::Release);
        self.threads.into_iter().for_each(|thread| thread.join().expect("no writer fails"));
        self.noted.lock().expect("nobody panics with it").issued
    }
}

fn write_on(writer: u32, servers: Vec<String>, over: &AtomicBool, noted: &Mutex<Noted>) {
    let client = Client::connect(servers).expect("the cluster answers");
    let (cache, queue) = (client.cache(), client.queue(format!("load/{writer}")));
    for n in 0.. {
        if over.load(Ordering::Acquire) {
            return;
        }
        let key = format!("line/{writer}/{n}");
        let version = cache.put(&key, key.clone()).wait().expect("a put is acknowledged");
        let guard = client.lock("busy").wait(10 * SECOND).acquire().wait().expect("a grant");
        let id = queue.push(key.clone()).wait().expect("a push is acknowledged");
        let highest = version.max(guard.fence()).max(id);
        guard.release().wait().expect("a release is acknowledged");
        if let Some(message) = queue.pop(HOUR, Duration::ZERO).wait().expect("a pop is answered") {
            message.ack().wait().expect("it is acknowledged");
        }
        let mut noted = noted.lock().expect("nobody panics with it");
        noted.lines.insert(key, version);
        noted.issued = noted.issued.max(highest);
    }
}

/// Every line is there under its version, and the next version is above all.
fn check_lines(client: &Client, lines: &BTreeMap<String, u64>, issued: u64) {
    for (key, version) in lines {
        let line = client.cache().get(key).wait().expect("a get is answered");
        let line = line.unwrap_or_else(|| panic!("{key} was acknowledged and is gone"));
        assert_eq!((line.version, &line.value[..]), (*version, key.as_bytes()));
    }
    let key = lines.keys().next().expect("there are lines");
    let stale = client.cache().put(key, "stale").if_version(issued).wait();
    assert!(matches!(stale, Err(Error::Refused { code: Code::VersionMismatch, .. })), "{stale:?}");
    let version = client.cache().put("another", "line").wait().expect("a put is acknowledged");
    assert!(version > issued, "{version} after {issued}");
}

fn damaged_copies_are_refused(cluster: &Cluster, file: &Path) {
    let whole = std::fs::read(file).expect("the backup is there");
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 4;
    let copy = file.with_extension("damaged");
    let dir = cluster.data_dir().join("refused");
    for bytes in [&whole[..whole.len() - 1], &whole[..whole.len() / 2], &flipped] {
        std::fs::write(&copy, bytes).expect("a copy is written");
        let verified = tercet(cluster, &["backup", "--verify", &text(&copy)]);
        assert_eq!(verified.status.code(), Some(1), "{verified:?}");
        let refused = restore(&copy, &dir, &[]);
        assert_eq!(refused.status.code(), Some(65), "{refused:?}");
        assert!(said(&refused).contains("E125 "), "{refused:?}");
        assert!(!dir.exists(), "nothing is written before the file is read");
    }
    let verified = tercet(cluster, &["backup", "--verify", &text(file)]);
    assert!(verified.status.success(), "{verified:?}");
    let taken = &cluster.nodes()[0].data_dir;
    let refused = restore(file, taken, &[]);
    assert_eq!(refused.status.code(), Some(73), "a node runs there: {refused:?}");
    assert!(said(&refused).contains("E112 "), "{refused:?}");
}

/// A cluster of one node that was made of the backup.
fn restored(file: &Path) -> Cluster {
    let alone = ClusterConfig { nodes: 1, shards: Some(SHARDS), ..three_nodes("restored") };
    let mut cluster = Cluster::start(alone).expect("a node starts, which finds its ports");
    cluster.stop_node(1).expect("it stops");
    let (dir, address) = (cluster.nodes()[0].data_dir.clone(), cluster.nodes()[0].address);
    let refused = restore(file, &dir, &[]);
    assert!(said(&refused).contains("E122 "), "there is a node in it: {refused:?}");
    cluster.lose_disk(1).expect("its disk is lost");
    let restored = restore(file, &dir, &["--cores", "1", "--listen", &address.to_string()]);
    assert!(restored.status.success(), "{restored:?}");
    cluster.restart(1, &[]).expect("it starts from the backup");
    cluster.wait_leaders().expect("it leads");
    cluster
}

fn restore(file: &Path, dir: &Path, flags: &[&str]) -> Output {
    let mut command = Command::new(program("tercetd"));
    command.arg("restore").arg(file).arg("--data-dir").arg(dir).args(flags);
    command.output().expect("tercetd starts")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs `tercet cluster`.
fn tercet(cluster: &Cluster, arguments: &[&str]) -> Output {
    let mut command = Command::new(program("tercet"));
    command.args(["--servers", &servers(cluster).join(","), "cluster"]).args(arguments);
    command.output().expect("the tool starts")
}

fn done(cluster: &Cluster, arguments: &[&str]) {
    let done = tercet(cluster, arguments);
    assert!(done.status.success(), "tercet cluster {arguments:?}: {done:?}");
}

fn text(path: &Path) -> String {
    PathBuf::from(path).into_os_string().into_string().expect("a path of this test is text")
}

/// Waits until exactly these vote in every group.
fn wait_members(cluster: &Cluster, right: &BTreeSet<u32>) {
    let since = Instant::now();
    loop {
        let members = members(cluster);
        if members.len() == SHARDS as usize + 1 && members.iter().all(|it| it == right) {
            return;
        }
        assert!(since.elapsed() < CHANGED_WITHIN, "{members:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The members of each group that has a leader, by its word.
fn members(cluster: &Cluster) -> Vec<BTreeSet<u32>> {
    let mut all = Vec::new();
    for node in cluster.nodes().iter().filter(|node| cluster.pid(node.node).is_some()) {
        let Ok((_, body)) = http_get(node.http, "/status", SECOND) else { continue };
        let Ok(status) = serde_json::from_slice::<serde_json::Value>(&body) else { continue };
        let groups = status["groups"].as_array().into_iter().flatten();
        for group in groups.filter(|group| group["role"] == "leader") {
            let members = group["members"].as_array().into_iter().flatten();
            let ids = members.filter_map(|member| member["node"].as_u64());
            all.push(ids.map(|id| id as u32).collect());
        }
    }
    all
}
