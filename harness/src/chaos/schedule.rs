//! Which fault begins when, on whom, for how long: decided by the seed alone.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// How long sessions live in a run, in milliseconds: some faults are longer.
pub const SESSION_TTL_MS: u32 = 3_000;
/// No fault begins before this.
const FIRST_MS: u64 = 2_000;

/// A kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// The leader of a shard ends with SIGKILL.
    KillLeader,
    /// A node that does not lead the shard ends with SIGKILL.
    KillFollower,
    /// A majority ends with SIGKILL, the leader among it.
    KillMajority,
    /// All nodes end with SIGKILL.
    KillAll,
    /// The leader is stopped for longer than an election takes.
    PauseLeader,
    /// The leader is stopped for longer than a session lives.
    PauseLong,
    /// All nodes are stopped for longer than a session lives.
    PauseAll,
    /// The leader is cut off from the other nodes; clients still reach it.
    CutLeader,
    /// The nodes are cut into two parts.
    CutHalves,
    /// What the leader sends does not reach the other nodes; what they send reaches it.
    CutOneWay,
    /// The leader and one other node don't reach each other; the others reach both.
    CutLink,
    /// All nodes are cut off from each other, for up to a minute and a half; clients still reach them.
    CutAll,
    /// The leader's link is down: neither nodes nor clients reach it.
    LinkDown,
    /// A node's disk is full.
    DiskFull,
    /// A node may open no more files than it has open.
    TakeFiles,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 15] = [
        Fault::KillLeader,
        Fault::KillFollower,
        Fault::KillMajority,
        Fault::KillAll,
        Fault::PauseLeader,
        Fault::PauseLong,
        Fault::PauseAll,
        Fault::CutLeader,
        Fault::CutHalves,
        Fault::CutOneWay,
        Fault::CutLink,
        Fault::LinkDown,
        Fault::DiskFull,
        Fault::CutAll,
        Fault::TakeFiles,
    ];

    /// The name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Fault::KillLeader => "kill-leader",
            Fault::KillFollower => "kill-follower",
            Fault::KillMajority => "kill-majority",
            Fault::KillAll => "kill-all",
            Fault::PauseLeader => "pause-leader",
            Fault::PauseLong => "pause-long",
            Fault::PauseAll => "pause-all",
            Fault::CutLeader => "cut-leader",
            Fault::CutHalves => "cut-halves",
            Fault::CutOneWay => "cut-one-way",
            Fault::CutLink => "cut-link",
            Fault::LinkDown => "link-down",
            Fault::DiskFull => "disk-full",
            Fault::CutAll => "cut-all",
            Fault::TakeFiles => "take-files",
        }
    }

    /// Whether it takes network namespaces.
    pub fn needs_network(self) -> bool {
        use Fault::{CutAll, CutHalves, CutLeader, CutLink, CutOneWay, LinkDown};
        matches!(self, CutLeader | CutHalves | CutOneWay | CutLink | CutAll | LinkDown)
    }

    /// How long it lasts, in milliseconds: from, to.
    fn hold_ms(self) -> (u64, u64) {
        let ttl_ms = u64::from(SESSION_TTL_MS);
        match self {
            Fault::KillLeader | Fault::KillFollower => (100, 4_000),
            Fault::KillMajority | Fault::KillAll => (50, 1_500),
            Fault::PauseLeader => (500, 1_500),
            // A shard ends a session at most half a time to live late.
            Fault::PauseLong => (ttl_ms * 3 / 2 + 300, ttl_ms * 3 / 2 + 1_500),
            Fault::PauseAll => (ttl_ms + 300, ttl_ms + 1_500),
            Fault::CutLeader | Fault::CutHalves | Fault::CutOneWay => (500, 6_000),
            Fault::CutLink | Fault::LinkDown => (500, 6_000),
            Fault::DiskFull => (4_000, 9_000),
            Fault::CutAll => (5_000, 90_000),
            Fault::TakeFiles => (2_000, 8_000),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Fault, String> {
        let found = Fault::ALL.into_iter().find(|fault| fault.name() == text);
        let all = || Fault::ALL.map(Fault::name).join(", ");
        found.ok_or_else(|| format!("there is no fault \"{text}\"; there are {}", all()))
    }
}

/// One fault of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// What.
    pub fault: Fault,
    /// When it begins, from the load's beginning.
    pub begins: Duration,
    /// When it is undone.
    pub ends: Duration,
    /// The shard whose leader is meant.
    pub shard: u32,
    /// Decides whatever else is to choose.
    pub chance: u64,
}

/// The faults of one run, by their beginning.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Schedule {
    /// The faults.
    pub events: Vec<Event>,
}

impl Schedule {
    /// The schedule of a seed. Every kind comes before one comes again; all end within `length`.
    pub fn new(seed: u64, faults: &[Fault], length: Duration, shards: u32) -> Schedule {
        let mut chance = fastrand::Rng::with_seed(seed);
        let length_ms = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
        let (mut deck, mut events, mut at_ms) = (Vec::new(), Vec::new(), FIRST_MS);
        while !faults.is_empty() {
            if deck.is_empty() {
                deck = faults.to_vec();
                chance.shuffle(&mut deck);
            }
            let fault = deck.pop().expect("it was filled");
            let (from, to) = fault.hold_ms();
            // A short run has room for more than one long fault.
            let hold_ms = chance.u64(from..=to.min(length_ms / 4).max(from));
            let event = Event {
                fault,
                begins: Duration::from_millis(at_ms),
                ends: Duration::from_millis(at_ms + hold_ms),
                shard: chance.u32(0..shards),
                chance: chance.u64(..),
            };
            // Most begin when the last one is over; some while it lasts.
            at_ms += match chance.u32(0..3) {
                0 => chance.u64(300..=1_500),
                _ => hold_ms + chance.u64(500..=2_500),
            };
            if event.ends > length {
                break;
            }
            events.push(event);
            if at_ms > length_ms {
                break;
            }
        }
        Schedule { events }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for event in &self.events {
            let (begins, ends) = (event.begins.as_secs_f64(), event.ends.as_secs_f64());
            let (fault, shard) = (event.fault, event.shard);
            writeln!(f, "{begins:8.3} s to {ends:8.3} s  {fault:<14} shard {shard}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_secs(120);

    #[test]
    fn one_seed_gives_one_schedule_and_another_a_different_one() {
        let schedule = |seed| Schedule::new(seed, &Fault::ALL, LENGTH, 4);
        assert_eq!(schedule(7), schedule(7));
        assert_ne!(schedule(7), schedule(8));
    }

    #[test]
    fn every_kind_comes_and_all_end_in_time() {
        let length = Duration::from_secs(290);
        for seed in 0..50 {
            let schedule = Schedule::new(seed, &Fault::ALL, length, 4);
            for fault in Fault::ALL {
                assert!(schedule.events.iter().any(|it| it.fault == fault), "{seed}: {fault}");
            }
            assert!(schedule.events.iter().all(|it| it.begins < it.ends && it.ends <= length));
            assert!(schedule.events.is_sorted_by_key(|it| it.begins));
        }
    }

    #[test]
    fn a_long_pause_outlives_every_session() {
        let ttl = Duration::from_millis(u64::from(SESSION_TTL_MS));
        let pauses = [Fault::PauseLong, Fault::PauseAll];
        for event in Schedule::new(1, &pauses, LENGTH, 1).events {
            assert!(event.ends - event.begins > ttl);
        }
    }

    #[test]
    fn names_are_read_back_and_others_refused_with_the_list() {
        for fault in Fault::ALL {
            assert_eq!(fault.name().parse(), Ok(fault));
        }
        assert!("kill".parse::<Fault>().unwrap_err().contains("kill-leader"));
    }
}
