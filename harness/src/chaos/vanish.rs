//! Clients whose machine is gone from one moment to the next.
//!
//! # How it works
//!
//! 1. A machine of its own gets a holder and a waiter for each shard: two sessions that want one lock, and the
//!    waiter pops from an empty queue besides. A few connections more say hello to each node, and nothing else.
//! 2. Its link is taken away. No packet says that anything ended.
//! 3. An heir for each shard, elsewhere, tries to get the lock. It gets it once both sessions ended: not before their
//!    time to live is over, and no later than the document says.
//! 4. Each node's sockets to that machine are counted, in the kernel's own list, until none is left; and then
//!    the node's own count of its connections is held against that list.
//!
//! How late sessions end is only judged when no other fault was near: while a shard has no leader, nothing ends.

use super::ChaosError;
use super::namespaces::Network;
use super::schedule::SESSION_TTL_MS;
use crate::cluster::CLIENTS_PORT;
use crate::cluster::ask::{Ask, AskError};
use crate::load::names::Names;
use crate::load::router;
use engine::edge::environment::random_seed;
use serde::Serialize;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::sleep;
use std::time::{Duration, Instant};
use wire::Call;
use wire::message::{Heartbeat, LockAcquire, LockMode, QueuePop, SessionClose, SessionOpen};
use wire::random::Random;

/// Connections to each node that only say hello.
const IDLE_EACH: usize = 4;
/// How long the clients may take to hold what they want; then they go without.
const SEATED_MAX: Duration = Duration::from_secs(2);
/// How long one attempt to connect, or one answer, may take.
const ASK_MAX: Duration = Duration::from_secs(1);
/// Between two tries of an heir.
const TRY_EVERY: Duration = Duration::from_millis(20);
/// How long the clients that vanish would wait, in milliseconds.
const WAIT_MS: u32 = 60_000;
/// Sessions end at most half a time to live late, and a second (docs/protocol.md); another for the heir's own way.
const ENDED_MAX: Duration = Duration::from_millis(SESSION_TTL_MS as u64 * 3 / 2 + 2_000);
/// No session ends before its time to live is over, but the shard's clock may be faster by a twentieth.
const ENDED_MIN: Duration = Duration::from_millis(SESSION_TTL_MS as u64 * 19 / 20);
/// A node lets a client go that was silent for a minute. Until its sessions ended it is told things, which count
/// anew: from then on what is not acknowledged for a minute ends the connection. The rest is the kernel's own pace.
const GONE_MAX: Duration = Duration::from_millis(60_000 + SESSION_TTL_MS as u64 * 3 / 2 + 8_000);
/// While other faults are near a node may tell them something once more, and the minute begins anew.
const GONE_BESIDE_FAULTS_MAX: Duration = GONE_MAX.saturating_add(Duration::from_secs(60));
/// The node's own count may be behind the kernel's list for so long.
const COUNTED_MAX: Duration = Duration::from_secs(5);
/// After so long nothing more is awaited of a machine.
pub const OVER_MAX: Duration =
    GONE_BESIDE_FAULTS_MAX.saturating_add(COUNTED_MAX).saturating_add(COUNTED_MAX);
/// Connections that may come and go between two counts.
const COUNT_SLACK: u64 = 8;

/// What became of one machine.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Vanished {
    /// Connections that the nodes had with it.
    pub connections: u64,
    /// Shards in which its sessions held a lock and waited.
    pub shards: u64,
    /// By shard: from the holder's last sign of life to the heir's grant, in milliseconds.
    pub ended_ms: Vec<f64>,
    /// Whether the lateness of that was judged: no other fault was near.
    pub judged: bool,
    /// By node: from the vanishing until its last socket to the machine was gone, in milliseconds.
    pub gone_ms: Vec<f64>,
    /// By node, then: its own count of its connections, and the kernel's.
    pub counts: Vec<(u64, u64)>,
}

impl Vanished {
    /// One line.
    pub fn line(&self) -> String {
        let worst = |ms: &[f64]| ms.iter().copied().fold(0.0, f64::max) / 1e3;
        let judged = if self.judged { "" } else { " (not judged, another fault was near)" };
        format!(
            "clients vanished with {} connections: their locks in {} of {} shards went to others {:.2} s after the last \
             sign of life at worst{judged}; the last connection was gone after {:.1} s",
            self.connections,
            self.ended_ms.len(),
            self.shards,
            worst(&self.ended_ms),
            worst(&self.gone_ms)
        )
    }
}

/// A lock that vanished clients wanted.
struct Held {
    shard: u32,
    name: Vec<u8>,
    /// When the holder and the waiter last gave a sign of life.
    holder_seen: Instant,
    waiter_seen: Instant,
}

/// The connections of the machine's clients; closing them tells nobody once the link is gone.
#[derive(Default)]
struct Clients {
    held: Vec<Held>,
    open: Vec<Ask>,
}

/// What is known of a node at one look.
pub struct Look {
    /// The node.
    pub node: u32,
    /// Its sockets.
    pub sockets: Sockets,
    /// What it says how many connections it has, if it was asked and answers.
    pub count: Option<u64>,
}

/// Where a node stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dead {
    /// It has sockets to the machine.
    There,
    /// It has none since, and its own count is looked at.
    Gone(Instant),
    /// It is done with.
    Done,
}

/// Watches what becomes of a machine's clients.
pub struct Watch {
    ip: Ipv4Addr,
    since: Instant,
    held: Vec<Held>,
    grants: mpsc::Receiver<(u32, Instant)>,
    stop: Arc<AtomicBool>,
    /// By shard that is held: whether its lock was granted, or told to be late.
    settled: Vec<u32>,
    nodes: Vec<Dead>,
    told_late: bool,
    /// Another fault was near.
    disturbed: bool,
    /// What became of it so far.
    pub vanished: Vanished,
}

impl Watch {
    /// Clients come, and vanish. None = no shard could be reached.
    ///
    /// # Errors
    /// [`ChaosError`].
    pub fn begin(
        network: &mut Network,
        addresses: &[SocketAddr],
        shards: u32,
        pids: &[Option<u32>],
    ) -> Result<Option<Watch>, ChaosError> {
        let machine = network.machine()?;
        let clients = machine.within(|| seat(addresses, shards))?;
        if clients.held.is_empty() {
            return Ok(None);
        }
        let ip = match machine.ip {
            IpAddr::V4(ip) => ip,
            IpAddr::V6(_) => unreachable!("machines have addresses of version 4"),
        };
        let there = |pid: &Option<u32>| pid.map_or(0, |pid| Sockets::of(pid).to(ip));
        let by_node: Vec<u64> = pids.iter().map(there).collect();
        // From here on nothing that its clients do or end is heard.
        drop(machine);
        let since = Instant::now();
        drop(clients.open);
        let (granted, grants) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        for held in &clients.held {
            let (granted, stop) = (granted.clone(), Arc::clone(&stop));
            let (shard, name, nodes) = (held.shard, held.name.clone(), addresses.to_vec());
            let inherit = move || {
                if let Some(at) = inherit(&nodes, shard, &name, &stop) {
                    // Whoever is not interested any more has ended.
                    let _ = granted.send((shard, at));
                }
            };
            let thread = std::thread::Builder::new().name("heir".into()).spawn(inherit);
            thread.expect("a process may have a few more threads");
        }
        let vanished = Vanished {
            connections: by_node.iter().sum(),
            shards: clients.held.len() as u64,
            judged: true,
            ..Vanished::default()
        };
        Ok(Some(Watch {
            ip,
            since,
            held: clients.held,
            grants,
            stop,
            settled: Vec::new(),
            nodes: vec![Dead::There; pids.len()],
            told_late: false,
            disturbed: false,
            vanished,
        }))
    }

    /// Another fault is near: how late sessions end is not judged any more, and connections may stay longer.
    pub fn disturb(&mut self) {
        self.disturbed = true;
        self.vanished.judged &= self.settled.len() == self.held.len();
    }

    /// Whether a node's own count is wanted.
    pub fn wants_count(&self, node: u32) -> bool {
        matches!(self.nodes[node as usize - 1], Dead::Gone(_))
    }

    /// Whether nothing more is to come.
    pub fn is_over(&self) -> bool {
        let gone = self.nodes.iter().all(|dead| *dead == Dead::Done);
        gone && self.settled.len() == self.held.len()
    }

    /// Looks at the nodes and the heirs. Gives the broken promises that are news.
    pub fn look(&mut self, nodes: &[Look]) -> Vec<String> {
        let mut broken = Vec::new();
        while let Ok((shard, at)) = self.grants.try_recv() {
            broken.extend(self.granted(shard, at));
        }
        for held in &self.held {
            if !self.settled.contains(&held.shard)
                && self.vanished.judged
                && held.waiter_seen.elapsed() > ENDED_MAX
            {
                let after = held.waiter_seen.elapsed().as_secs_f64();
                let shard = held.shard;
                broken.push(format!(
                    "shard {shard}: {after:.1} s after clients vanished their lock is not granted to another"
                ));
                self.settled.push(shard);
            }
        }
        let gone_after = self.since.elapsed();
        let gone_max = if self.disturbed { GONE_BESIDE_FAULTS_MAX } else { GONE_MAX };
        for look in nodes {
            let sockets = &look.sockets;
            let dead = &mut self.nodes[look.node as usize - 1];
            match *dead {
                Dead::There if sockets.to(self.ip) == 0 => {
                    self.vanished.gone_ms.push(gone_after.as_secs_f64() * 1e3);
                    *dead = Dead::Gone(Instant::now());
                }
                Dead::There if gone_after > gone_max && !self.told_late => {
                    let (node, left) = (look.node, sockets.to(self.ip));
                    let after = gone_after.as_secs_f64();
                    broken.push(format!(
                        "node {node} keeps {left} connections to clients that vanished {after:.1} s ago"
                    ));
                    self.told_late = true;
                }
                Dead::Gone(since) => {
                    let counted = look.count.filter(|count| *count <= sockets.all + COUNT_SLACK);
                    let is_late = since.elapsed() > COUNTED_MAX;
                    if let (None, Some(count), true) = (counted, look.count, is_late) {
                        let (node, all) = (look.node, sockets.all);
                        broken.push(format!(
                            "node {node} counts {count} connections and has {all} sockets, after clients vanished"
                        ));
                    }
                    self.vanished.counts.extend(counted.map(|count| (count, sockets.all)));
                    if counted.is_some() || is_late {
                        *dead = Dead::Done;
                    }
                }
                Dead::There | Dead::Done => {}
            }
        }
        broken
    }

    /// After everything was healed, and past [`OVER_MAX`]: what never came, in words.
    pub fn missing(&self) -> Vec<String> {
        let missing = self.held.iter().filter(|held| !self.settled.contains(&held.shard));
        let word =
            |shard| format!("shard {shard}: vanished clients' lock is never granted to another");
        missing.map(|held| word(held.shard)).collect()
    }

    /// How long ago the machine vanished.
    pub fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// An heir was granted the lock of a shard.
    fn granted(&mut self, shard: u32, at: Instant) -> Option<String> {
        let held = self.held.iter().find(|held| held.shard == shard)?;
        let after = at.saturating_duration_since(held.holder_seen);
        self.vanished.ended_ms.push(after.as_secs_f64() * 1e3);
        let is_news = !self.settled.contains(&shard);
        if is_news {
            self.settled.push(shard);
        }
        if after < ENDED_MIN {
            let after = after.as_secs_f64();
            return Some(format!(
                "shard {shard}: a session ended {after:.2} s after its last sign of life, before its time to live"
            ));
        }
        let late = at.saturating_duration_since(held.waiter_seen);
        (is_news && self.vanished.judged && late > ENDED_MAX).then(|| {
            let late = late.as_secs_f64();
            format!("shard {shard}: vanished clients' sessions ended {late:.2} s after their last sign of life")
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The machine's clients take what they will leave behind.
fn seat(addresses: &[SocketAddr], shards: u32) -> Clients {
    let mut clients = Clients::default();
    let until = Instant::now() + SEATED_MAX;
    let mut names = Names::new(shards);
    let run = random_seed() as u32;
    for shard in 0..shards {
        let lock = names.add_in(&format!("chaos/vanish-{run:x}"), shard);
        let name = names.get(lock).to_vec();
        while Instant::now() < until {
            match hold(addresses, shard, &name, &mut clients.open) {
                Ok((holder_seen, waiter_seen)) => {
                    clients.held.push(Held { shard, name, holder_seen, waiter_seen });
                    break;
                }
                Err(_) => sleep(TRY_EVERY),
            }
        }
    }
    for address in addresses {
        let hello = || Ask::connect(*address, 0, Random::new(random_seed()).id(), ASK_MAX);
        // A node that is dead or full has none.
        clients.open.extend((0..IDLE_EACH).map_while(|_| hello().ok()).map(|(ask, _)| ask));
    }
    clients
}

/// A session takes a lock, another waits for it and for a message. Gives their last signs of life.
fn hold(
    addresses: &[SocketAddr],
    shard: u32,
    name: &[u8],
    open: &mut Vec<Ask>,
) -> Result<(Instant, Instant), AskError> {
    let (mut holder, session) = opened(addresses, shard)?;
    let holder_seen = Instant::now();
    acquire(&mut holder, shard, session, 1, 0, name)?;
    let (mut waiter, session) = opened(addresses, shard)?;
    let wait = lock(session, 1, WAIT_MS, name);
    waiter.tell(LockAcquire::KIND, shard, |out| wait.encode(out))?;
    let pop = QueuePop {
        call: Call { session, sequence: 2, answered_below: 1 },
        wait_ms: WAIT_MS,
        visibility_ms: WAIT_MS,
        name,
    };
    waiter.tell(QueuePop::KIND, shard, |out| pop.encode(out))?;
    // What is answered came after what waits.
    let waiter_seen = Instant::now();
    waiter.call(Heartbeat::KIND, 0, |out| Heartbeat { session }.encode(out))?;
    open.extend([holder, waiter]);
    Ok((holder_seen, waiter_seen))
}

/// A connection to the leader of a shard, with a session that is open there.
fn opened(addresses: &[SocketAddr], shard: u32) -> Result<(Ask, [u8; 16]), AskError> {
    let session = Random::new(random_seed()).id();
    let nobody = AskError::Nonsense { address: addresses[0], what: "no node answers".into() };
    let topology = router::topology(addresses).ok_or(nobody)?;
    let (mut ask, _) = router::leader(&topology, shard, session)?;
    let open = SessionOpen { session, ttl_ms: SESSION_TTL_MS };
    ask.call(SessionOpen::KIND, shard, |out| open.encode(out))?;
    Ok((ask, session))
}

fn lock(session: [u8; 16], sequence: u64, wait_ms: u32, name: &[u8]) -> LockAcquire<'_> {
    let call = Call { session, sequence, answered_below: sequence };
    LockAcquire { call, wait_ms, lease_ms: 0, mode: LockMode::Exclusive, name }
}

fn acquire(
    ask: &mut Ask,
    shard: u32,
    session: [u8; 16],
    sequence: u64,
    wait_ms: u32,
    name: &[u8],
) -> Result<(), AskError> {
    let lock = lock(session, sequence, wait_ms, name);
    ask.call(LockAcquire::KIND, shard, |out| lock.encode(out)).map(drop)
}

/// Tries to get a lock until it is granted or nobody is interested any more. Gives when it was.
fn inherit(
    addresses: &[SocketAddr],
    shard: u32,
    name: &[u8],
    stop: &AtomicBool,
) -> Option<Instant> {
    while !stop.load(Ordering::Relaxed) {
        let Ok((mut ask, session)) = opened(addresses, shard) else {
            sleep(TRY_EVERY);
            continue;
        };
        for sequence in 1.. {
            if stop.load(Ordering::Relaxed) {
                return None;
            }
            match acquire(&mut ask, shard, session, sequence, 0, name) {
                Ok(()) => {
                    let at = Instant::now();
                    let close = SessionClose { session };
                    // If it is not heard, the session ends by itself.
                    let _ = ask.call(SessionClose::KIND, shard, |out| close.encode(out));
                    return Some(at);
                }
                Err(AskError::Refused { code: Some(wire::Code::LockHeld), .. }) => sleep(TRY_EVERY),
                // Another session tries, perhaps elsewhere. If this one was granted the lock, it ends by itself.
                Err(_) => break,
            }
        }
    }
    None
}

/// A process's sockets that stand, those of HTTP left out.
#[derive(Clone, Default, Debug)]
pub struct Sockets {
    remote: Vec<Ipv4Addr>,
    all: u64,
}

impl Sockets {
    /// As the kernel lists them for the network in which a process is; none when it is gone.
    pub fn of(pid: u32) -> Sockets {
        Sockets::read(&fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default())
    }

    fn read(list: &str) -> Sockets {
        let mut sockets = Sockets::default();
        for line in list.lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [_, local, remote, "01", ..] = words.as_slice() else { continue };
            let (Some((_, local)), Some((remote, remote_port))) = (end(local), end(remote)) else {
                continue;
            };
            if local == CLIENTS_PORT || remote_port == CLIENTS_PORT {
                sockets.all += 1;
                sockets.remote.push(remote);
            }
        }
        sockets
    }

    fn to(&self, ip: Ipv4Addr) -> u64 {
        self.remote.iter().filter(|remote| **remote == ip).count() as u64
    }
}

/// One end of a socket as the kernel writes it: the address as a number of this machine's, and the port.
fn end(text: &str) -> Option<(Ipv4Addr, u16)> {
    let (ip, port) = text.split_once(':')?;
    let ip = u32::from_str_radix(ip, 16).ok()?;
    Some((Ipv4Addr::from(ip.to_ne_bytes()), u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: Ipv4Addr = Ipv4Addr::new(10, 251, 7, 100);

    /// One node and one shard, whose clients vanished so long ago.
    fn watch(ago: Duration) -> (Watch, mpsc::Sender<(u32, Instant)>) {
        let since = Instant::now().checked_sub(ago).expect("the machine runs for minutes");
        let (granted, grants) = mpsc::channel();
        let held = Held { shard: 0, name: Vec::new(), holder_seen: since, waiter_seen: since };
        let watch = Watch {
            ip: MACHINE,
            since,
            held: vec![held],
            grants,
            stop: Arc::default(),
            settled: Vec::new(),
            nodes: vec![Dead::There],
            told_late: false,
            disturbed: false,
            vanished: Vanished { judged: true, ..Vanished::default() },
        };
        (watch, granted)
    }

    fn look(remote: &[Ipv4Addr], count: Option<u64>) -> [Look; 1] {
        let sockets = Sockets { remote: remote.to_vec(), all: remote.len() as u64 };
        [Look { node: 1, sockets, count }]
    }

    #[test]
    fn a_session_that_ends_in_its_time_and_connections_that_go_are_no_news() {
        let (mut watch, granted) = watch(Duration::from_secs(4));
        assert!(watch.look(&look(&[MACHINE], None)).is_empty());
        granted.send((0, Instant::now())).unwrap();
        assert!(watch.look(&look(&[], None)).is_empty());
        assert!(!watch.is_over() && watch.wants_count(1));
        assert!(watch.look(&look(&[], Some(0))).is_empty());
        assert!(watch.is_over() && watch.missing().is_empty());
    }

    #[test]
    fn a_session_that_ends_early_is_told_though_other_faults_are_near() {
        let (mut watch, granted) = watch(Duration::from_secs(2));
        watch.disturb();
        granted.send((0, Instant::now())).unwrap();
        let told = watch.look(&look(&[], None));
        assert!(told.len() == 1 && told[0].contains("before its time to live"), "{told:?}");
    }

    #[test]
    fn a_session_that_ends_late_is_told_once_unless_other_faults_are_near() {
        for (is_near, news) in [(false, 1), (true, 0)] {
            let (mut watch, granted) = watch(ENDED_MAX + Duration::from_secs(1));
            if is_near {
                watch.disturb();
            }
            assert_eq!(watch.look(&look(&[], None)).len(), news);
            assert_eq!(watch.missing().len(), 1 - news);
            granted.send((0, Instant::now())).unwrap();
            assert!(watch.look(&look(&[], None)).is_empty());
            assert!(watch.missing().is_empty());
        }
    }

    #[test]
    fn connections_that_stay_too_long_are_told_once() {
        let (mut watch, _granted) = watch(GONE_MAX + Duration::from_secs(1));
        let told = watch.look(&look(&[MACHINE], None)).join("; ");
        assert!(told.contains("node 1 keeps 1 connections"), "{told}");
        assert!(watch.look(&look(&[MACHINE], None)).is_empty());
    }

    #[test]
    fn connections_may_stay_a_minute_longer_beside_other_faults() {
        for (vanished, news) in [(GONE_MAX, 0), (GONE_BESIDE_FAULTS_MAX, 1)] {
            let (mut watch, _granted) = watch(vanished + Duration::from_secs(1));
            watch.disturb();
            assert_eq!(watch.look(&look(&[MACHINE], None)).len(), news);
        }
    }

    #[test]
    fn only_sockets_that_stand_count_and_http_s_do_not() {
        let list = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0107FB0A:1CE8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1
   1: 0107FB0A:1CE8 6407FB0A:D431 01 00000000:00000000 02:00000000 00000000     0        0 2 1
   2: 0107FB0A:1CE8 6407FB0A:D432 04 00000000:00000000 02:00000000 00000000     0        0 3 1
   3: 0107FB0A:B000 0207FB0A:1CE8 01 00000000:00000000 02:00000000 00000000     0        0 4 1
   4: 0107FB0A:1D38 FE07FB0A:D434 01 00000000:00000000 02:00000000 00000000     0        0 5 1
";
        let sockets = Sockets::read(list);
        assert_eq!(sockets.all, 2);
        assert_eq!(sockets.to(MACHINE), 1);
        assert_eq!(sockets.to(Ipv4Addr::new(10, 251, 7, 2)), 1);
        assert_eq!(sockets.to(Ipv4Addr::new(10, 251, 7, 254)), 0);
    }
}
