//! How long after the end of faults the first write to each shard takes.
//!
//! When the last fault has ended, a thread for each shard and node begins: it connects anew, opens a session and puts
//! a line, again and again, until the shard's first put is acknowledged anywhere. So every write that counts was sent
//! after the healing, and a node that is slow to answer keeps nobody from being asked. The clients that
//! stood all the time are watched too after a cut of all nodes: they have connections and sessions to give up first.

use super::schedule::Fault;
use crate::cluster::ask::{Ask, AskError};
use crate::load::names::Names;
use engine::edge::environment::random_seed;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};
use wire::message::{CachePut, Expect, SessionClose, SessionOpen};
use wire::random::Random;
use wire::topology::engine_of_group;
use wire::{Call, Code};

/// How long one attempt to connect, or one answer, may take.
const ASK_MAX: Duration = Duration::from_secs(1);
/// Between two tries.
const TRY_EVERY: Duration = Duration::from_millis(20);
/// Nobody asks for longer.
const GIVE_UP: Duration = Duration::from_secs(30);

/// The faults since the cluster was last seen whole.
#[derive(Clone, Debug, Default)]
pub struct Troubles(Vec<Fault>);

impl Troubles {
    /// One more began.
    pub fn add(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    /// The one that may need the longest until the first write; of equals, the last.
    pub fn worst(&self) -> Option<Fault> {
        self.0.iter().copied().max_by_key(|fault| fault.first_write_max())
    }
}

/// What the threads share.
struct Probes {
    healed: Instant,
    stop: AtomicBool,
    /// By shard: when its first write was acknowledged, from the healing on.
    first: Mutex<Vec<Option<Duration>>>,
    /// By shard: a key that lives there.
    keys: Vec<Vec<u8>>,
}

impl Probes {
    fn first(&self) -> Vec<Option<Duration>> {
        self.first.lock().expect("whoever writes a time does not panic").clone()
    }

    fn is_over(&self, shard: u32) -> bool {
        self.stop.load(Ordering::Relaxed)
            || self.healed.elapsed() > GIVE_UP
            || self.first()[shard as usize].is_some()
    }

    fn came(&self, shard: u32) {
        let after = self.healed.elapsed();
        let mut first = self.first.lock().expect("whoever writes a time does not panic");
        first[shard as usize].get_or_insert(after);
    }
}

/// The wait for the first writes. Dropping it ends the threads, at the latest when a node answers or is silent for
/// too long.
pub struct Healing {
    /// The fault that counts.
    pub fault: Fault,
    probes: Arc<Probes>,
    /// What the standing clients had done when all was healed, and when they had done more.
    standing_ops: u64,
    standing: Option<Duration>,
}

/// What became of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// All first writes came.
    Came {
        /// The slowest shard's, by a new client.
        slowest: Duration,
        /// That of the clients that stood all the time, as far as they are waited for.
        standing: Option<Duration>,
    },
    /// Some are awaited.
    Awaited,
    /// Some did not come, and the bound is passed.
    Late,
}

impl Healing {
    /// Everything is healed now: each of `shards` shards is written to, at all `nodes`. `standing_ops` is what the
    /// standing clients did so far.
    pub fn begin(fault: Fault, nodes: &[SocketAddr], shards: u32, standing_ops: u64) -> Healing {
        let mut names = Names::new(shards);
        let key = |shard| names.add_in("chaos/first-write", shard);
        let keys: Vec<u32> = (0..shards).map(key).collect();
        let probes = Arc::new(Probes {
            healed: Instant::now(),
            stop: AtomicBool::new(false),
            first: Mutex::new(vec![None; shards as usize]),
            keys: keys.iter().map(|key| names.get(*key).to_vec()).collect(),
        });
        for shard in 0..shards {
            for node in nodes.iter().copied() {
                let probes = Arc::clone(&probes);
                let probe = move || {
                    while !probes.is_over(shard) {
                        // Whatever is wrong with this node, another may be right.
                        let _ = write(&probes, shard, node);
                        sleep(TRY_EVERY);
                    }
                };
                let thread = std::thread::Builder::new().name("first-write".into()).spawn(probe);
                thread.expect("a process may have a few more threads");
            }
        }
        Healing { fault, probes, standing_ops, standing: None }
    }

    /// Looks at it; `standing_ops` is what the standing clients did by now.
    pub fn look(&mut self, standing_ops: u64) -> Outcome {
        let waited = self.probes.healed.elapsed();
        if standing_ops > self.standing_ops {
            self.standing.get_or_insert(waited);
        }
        let first: Option<Vec<Duration>> = self.probes.first().into_iter().collect();
        match first {
            Some(first) if self.standing.is_some() || !self.awaits_standing() => {
                let slowest = first.into_iter().max().unwrap_or_default();
                Outcome::Came { slowest, standing: self.standing }
            }
            _ if waited > self.fault.first_write_max() => Outcome::Late,
            _ => Outcome::Awaited,
        }
    }

    /// Whether the standing clients are waited for. After a fault that ended sessions they first wait for the
    /// locks that those held.
    fn awaits_standing(&self) -> bool {
        self.fault == Fault::CutAll
    }

    /// What is missing, in words.
    pub fn missing(&self) -> String {
        let first = self.probes.first();
        let mut missing: Vec<String> = (0..first.len())
            .filter(|shard| first[*shard].is_none())
            .map(|shard| format!("of a new client to shard {shard}"))
            .collect();
        if self.standing.is_none() && self.awaits_standing() {
            missing.push("of the clients that stood all the time".into());
        }
        missing.join(", ")
    }
}

impl Drop for Healing {
    fn drop(&mut self) {
        self.probes.stop.store(true, Ordering::Relaxed);
    }
}

/// Writes to a shard at a node, until it succeeds, or the connection fails.
fn write(probes: &Probes, shard: u32, node: SocketAddr) -> Result<(), AskError> {
    let session = Random::new(random_seed()).id();
    let (mut ask, welcome) = Ask::connect(node, 0, session, ASK_MAX)?;
    let engine = engine_of_group(shard + 1, welcome.engines);
    if engine != 0 {
        ask = Ask::connect(node, engine, session, ASK_MAX)?.0;
    }
    let open = SessionOpen { session, ttl_ms: super::schedule::SESSION_TTL_MS };
    let put = CachePut {
        call: Call { session, sequence: 1, answered_below: 1 },
        version: 0,
        ttl_ms: 0,
        expect: Expect::Any,
        key: &probes.keys[shard as usize],
        value: b"written",
    };
    while !probes.is_over(shard) {
        let opened = ask.call(SessionOpen::KIND, shard, |out| open.encode(out));
        match opened.and_then(|_| ask.call(CachePut::KIND, shard, |out| put.encode(out))) {
            Ok(_) => {
                probes.came(shard);
                let close = SessionClose { session };
                return ask.call(SessionClose::KIND, shard, |out| close.encode(out)).map(drop);
            }
            // Another try takes another session.
            Err(error @ AskError::Refused { code: Some(Code::SessionUnknown), .. }) => {
                return Err(error);
            }
            Err(AskError::Refused { .. }) => sleep(TRY_EVERY),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_faults_together_the_one_that_needs_longest_decides() {
        let mut troubles = Troubles::default();
        assert_eq!(troubles.worst(), None);
        for fault in [Fault::CutAll, Fault::KillAll, Fault::KillLeader, Fault::PauseAll] {
            troubles.add(fault);
        }
        assert_eq!(troubles.worst(), Some(Fault::KillLeader));
    }

    #[test]
    fn a_write_that_is_missing_past_the_bound_is_late() {
        let mut healing = Healing::begin(Fault::CutLeader, &[], 1, 0);
        assert_eq!(healing.look(0), Outcome::Awaited);
        let probes = Arc::get_mut(&mut healing.probes).expect("nobody asks no nodes");
        probes.healed -= Fault::CutLeader.first_write_max();
        assert_eq!(healing.look(1), Outcome::Late);
    }

    #[test]
    fn nobody_is_late_before_the_bound_and_what_is_missing_is_named() {
        let mut healing = Healing::begin(Fault::CutAll, &[], 2, 7);
        assert_eq!(healing.look(7), Outcome::Awaited);
        let both = "of a new client to shard 0, of a new client to shard 1";
        assert_eq!(healing.missing(), format!("{both}, of the clients that stood all the time"));
        healing.probes.came(0);
        assert_eq!(healing.look(8), Outcome::Awaited);
        assert_eq!(healing.missing(), "of a new client to shard 1");
        healing.probes.came(1);
        assert!(matches!(healing.look(8), Outcome::Came { .. }));
    }
}
