//! Finding the leader again: a thread beside the generator, so that a node that died stops only
//! the connections that spoke to it.

use super::SessionId;
use crate::cluster::ask::{Ask, AskError, Topology};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;
use wire::Code;
use wire::message::{Done, SessionOpen};
use wire::topology::engine_of_group;

/// How long one question to a node may take.
const ASK_MAX: Duration = Duration::from_millis(500);
/// Between two rounds without success.
const ROUND_EVERY: Duration = Duration::from_millis(3);
/// Calls that may be unanswered on a connection while sessions are opened.
const OPENS_AT_ONCE: usize = 128;

/// A connection that wants the leader of its shard.
pub struct Job {
    /// The connection.
    pub conn: usize,
    /// The shard.
    pub shard: u32,
    /// The sessions to open there; opening one again is harmless.
    pub sessions: Vec<SessionId>,
}

/// A connection that has it, or never will.
pub struct Found {
    /// The connection.
    pub conn: usize,
    /// The socket, past the hello; none = a session has ended, and can't be opened again.
    pub stream: Option<TcpStream>,
}

/// The thread and its two queues, both bounded by the number of connections.
pub struct Router {
    jobs: Option<SyncSender<Job>>,
    found: Receiver<Found>,
    thread: Option<JoinHandle<()>>,
}

impl Router {
    /// Starts the thread for at most `connections` jobs at a time.
    pub fn start(addresses: Vec<SocketAddr>, connections: usize, session_ttl_ms: u32) -> Router {
        let (jobs, to_do) = sync_channel(connections);
        let (done, found) = sync_channel(connections);
        let thread = std::thread::Builder::new().name("router".into());
        let thread = thread.spawn(move || work(addresses, session_ttl_ms, &to_do, &done));
        let thread = thread.expect("a process may have one more thread");
        Router { jobs: Some(jobs), found, thread: Some(thread) }
    }

    /// Asks for a connection.
    pub fn ask(&self, job: Job) {
        let jobs = self.jobs.as_ref().expect("the router runs until it is dropped");
        jobs.send(job).expect("the router runs until it is dropped");
    }

    /// A connection that was found, if one was.
    pub fn found(&self) -> Option<Found> {
        self.found.try_recv().ok()
    }

    /// Waits for a connection.
    pub fn wait(&self, wait_max: Duration) -> Option<Found> {
        self.found.recv_timeout(wait_max).ok()
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was printed there.
            let _ = thread.join();
        }
    }
}

fn work(
    mut addresses: Vec<SocketAddr>,
    session_ttl_ms: u32,
    to_do: &Receiver<Job>,
    done: &SyncSender<Found>,
) {
    let mut pending: Vec<Job> = Vec::new();
    loop {
        if pending.is_empty() {
            match to_do.recv() {
                Ok(job) => pending.push(job),
                Err(_) => return,
            }
        }
        loop {
            match to_do.try_recv() {
                Ok(job) => pending.push(job),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return,
            }
        }
        let before = pending.len();
        if let Some(topology) = topology(&addresses) {
            pending.retain(|job| match connect(&topology, job, session_ttl_ms) {
                Ok(stream) => done.send(Found { conn: job.conn, stream: Some(stream) }).is_err(),
                Err(AskError::Refused { code: Some(Code::SessionUnknown), .. }) => {
                    done.send(Found { conn: job.conn, stream: None }).is_err()
                }
                Err(_) => true,
            });
        }
        if pending.len() == before {
            // A node that is cut off may name leaders of long ago: ask another first.
            addresses.rotate_left(1);
            sleep(ROUND_EVERY);
        }
    }
}

/// Where everything is, as the first node that answers sees it. One that knows every leader is
/// preferred.
pub fn topology(addresses: &[SocketAddr]) -> Option<Topology> {
    let ask = |address: &SocketAddr| Ask::connect(*address, 0, [0; 16], ASK_MAX)?.0.topology();
    let mut best = None;
    for address in addresses {
        match ask(address) {
            Ok(topology) if topology.complete() => return Some(topology),
            Ok(topology) => best = Some(topology),
            Err(_) => {}
        }
    }
    best
}

/// Connects to the engine that leads `job.shard` and opens the sessions there.
fn connect(topology: &Topology, job: &Job, ttl_ms: u32) -> Result<TcpStream, AskError> {
    let (mut ask, _) = leader(topology, job.shard, job.sessions[0])?;
    for some in job.sessions.chunks(OPENS_AT_ONCE) {
        for session in some {
            let open = SessionOpen { session: *session, ttl_ms };
            ask.tell(SessionOpen::KIND, job.shard, |out| open.encode(out))?;
        }
        for _ in some {
            let (kind, _) = ask.hear()?;
            debug_assert_eq!(kind, Done::KIND);
        }
    }
    ask.into_stream()
}

/// A connection to the engine that leads `shard`.
///
/// # Errors
/// [`AskError`], also when no leader is known.
pub fn leader(
    topology: &Topology,
    shard: u32,
    client: SessionId,
) -> Result<(Ask, wire::message::Welcome), AskError> {
    let unspecified = SocketAddr::from(([0, 0, 0, 0], 0));
    let unknown = |what: &str| AskError::Nonsense { address: unspecified, what: what.into() };
    let node = topology.leader_of(shard).and_then(|id| topology.node(id));
    let node = node.ok_or_else(|| unknown("no leader is known"))?;
    let address = node.address.parse().map_err(|_| unknown("the leader has no plain address"))?;
    Ask::connect(address, engine_of_group(shard + 1, node.engines), client, ASK_MAX)
}
