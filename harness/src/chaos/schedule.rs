//! Which fault begins when, on whom, for how long: decided by the seed alone.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use wire::random::Random;

/// How long sessions live in a run, in milliseconds: some faults are longer.
pub const SESSION_TTL_MS: u32 = 3_000;
/// No fault begins before this.
const FIRST_MS: u64 = 2_000;
/// A cut of all nodes lasts at least so long in a run that is long enough, in milliseconds.
const LONG_CUT_MS: u64 = 60_000;
/// So long nothing happens before and after a fault that is alone, in milliseconds.
const QUIET_MS: u64 = 4_000;

/// The first write after nodes reach each other again.
pub const HEALED_WRITE_MAX: Duration = Duration::from_secs(3);
/// The first write after nodes that stood still go on, or have descriptors again: they may first follow an
/// election and take in what lay in their sockets.
pub const WOKEN_WRITE_MAX: Duration = Duration::from_secs(5);
/// The first write after nodes were started again: they read their journals, and may have to wait for the CPU.
pub const STARTED_WRITE_MAX: Duration = Duration::from_secs(10);

const _: () = assert!(QUIET_MS > HEALED_WRITE_MAX.as_millis() as u64);

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
    /// Idle clients take all connections that a node has for clients, or for those who did not say who they are.
    FillConnections,
    /// A machine with clients is gone: they hold locks, wait, and never say that they end.
    VanishClients,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 17] = [
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
        Fault::FillConnections,
        Fault::VanishClients,
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
            Fault::FillConnections => "fill-connections",
            Fault::VanishClients => "vanish-clients",
        }
    }

    /// Whether it takes network namespaces.
    pub fn needs_network(self) -> bool {
        self.is_cut() || self == Fault::VanishClients
    }

    /// Whether packets are lost between nodes, which all go on running.
    fn is_cut(self) -> bool {
        use Fault::{CutAll, CutHalves, CutLeader, CutLink, CutOneWay, LinkDown};
        matches!(self, CutLeader | CutHalves | CutOneWay | CutLink | CutAll | LinkDown)
    }

    /// Whether all nodes go on and reach each other: only clients are harmed.
    pub fn is_outside(self) -> bool {
        matches!(self, Fault::FillConnections | Fault::VanishClients)
    }

    /// Whether no other fault begins or ends while it lasts, nor until the first write after it is judged; `before`
    /// came before. How others fare beside harmed clients is judged at least once, and seen beside other faults.
    fn is_alone(self, before: &[Event]) -> bool {
        let is_first = || !before.iter().any(|event| event.fault == self);
        self == Fault::CutAll || self.is_outside() && is_first()
    }

    /// How long after its end the first write to each shard may take to succeed.
    pub fn first_write_max(self) -> Duration {
        match self {
            // What it killed has to start.
            Fault::KillLeader | Fault::KillFollower | Fault::KillMajority | Fault::KillAll => {
                STARTED_WRITE_MAX
            }
            Fault::DiskFull => STARTED_WRITE_MAX,
            cut if cut.is_cut() => HEALED_WRITE_MAX,
            _ => WOKEN_WRITE_MAX,
        }
    }

    /// How long it lasts in a run of `length_ms`, in milliseconds: from, to.
    fn hold_ms(self, length_ms: u64) -> (u64, u64) {
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
            Fault::CutAll if length_ms / 4 >= LONG_CUT_MS => (LONG_CUT_MS, 90_000),
            Fault::CutAll => (5_000, 90_000),
            Fault::TakeFiles => (2_000, 8_000),
            Fault::FillConnections => (4_000, 8_000),
            // Their sessions end within one and a half times to live, and a second.
            Fault::VanishClients => (ttl_ms * 3 / 2 + 2_000, ttl_ms * 3 / 2 + 4_000),
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
    /// The schedule of a seed. Every kind comes before one comes again; all end within `length`. With `hold` each
    /// lasts so long, instead of by chance.
    pub fn new(
        seed: u64,
        faults: &[Fault],
        length: Duration,
        hold: Option<Duration>,
        shards: u32,
    ) -> Schedule {
        let mut chance = Random::new(seed);
        let millis = |length: Duration| u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
        let length_ms = millis(length);
        let (mut deck, mut events, mut at_ms) = (Vec::new(), Vec::new(), FIRST_MS);
        let mut all_over_ms = 0;
        while !faults.is_empty() {
            if deck.is_empty() {
                deck = faults.to_vec();
                chance.shuffle(&mut deck);
            }
            let fault = deck.pop().expect("it was filled");
            let (from, to) = fault.hold_ms(length_ms);
            // A short run has room for more than one long fault.
            let drawn_ms = chance.u64(from..=to.min(length_ms / 4).max(from));
            let hold_ms = hold.map_or(drawn_ms, millis);
            let is_alone = fault.is_alone(&events);
            if is_alone {
                at_ms = at_ms.max(all_over_ms + QUIET_MS);
            }
            let event = Event {
                fault,
                begins: Duration::from_millis(at_ms),
                ends: Duration::from_millis(at_ms + hold_ms),
                shard: chance.u32(0..shards),
                chance: chance.u64(..),
            };
            all_over_ms = all_over_ms.max(at_ms + hold_ms);
            // Most begin when the last one is over; some while it lasts.
            at_ms += match chance.u32(0..3) {
                _ if is_alone => hold_ms + QUIET_MS,
                0 => chance.u64(300..=1_500),
                _ => hold_ms + chance.u64(500..=3_500),
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
            writeln!(f, "{begins:8.3} s to {ends:8.3} s  {fault:<16} shard {shard}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_secs(120);
    /// How long faults come in a run of `make chaos`.
    const MAKE: Duration = Duration::from_secs(350);

    fn all(seed: u64, length: Duration) -> Schedule {
        Schedule::new(seed, &Fault::ALL, length, None, 4)
    }

    #[test]
    fn one_seed_gives_one_schedule_and_another_a_different_one() {
        assert_eq!(all(7, LENGTH), all(7, LENGTH));
        assert_ne!(all(7, LENGTH), all(8, LENGTH));
    }

    #[test]
    fn every_kind_comes_and_all_end_in_time() {
        for seed in 0..200 {
            let schedule = all(seed, MAKE);
            for fault in Fault::ALL {
                assert!(schedule.events.iter().any(|it| it.fault == fault), "{seed}: {fault}");
            }
            assert!(schedule.events.iter().all(|it| it.begins < it.ends && it.ends <= MAKE));
            assert!(schedule.events.is_sorted_by_key(|it| it.begins));
        }
    }

    #[test]
    fn a_long_run_cuts_all_nodes_for_a_minute_and_nothing_else_happens_then() {
        for seed in 0..200 {
            let events = all(seed, MAKE).events;
            let cuts = events.iter().filter(|it| it.fault == Fault::CutAll);
            for cut in cuts.clone() {
                let held = cut.ends - cut.begins;
                assert!((60.0..=90.0).contains(&held.as_secs_f64()), "{seed}: {held:?}");
                assert!(is_quiet(cut, &events), "{seed}: {cut:?}");
            }
            assert!(cuts.count() > 0, "{seed}");
        }
    }

    #[test]
    fn nothing_else_happens_when_clients_are_harmed_first() {
        for seed in 0..200 {
            let events = all(seed, MAKE).events;
            for fault in Fault::ALL.into_iter().filter(|fault| fault.is_outside()) {
                let first = events.iter().find(|event| event.fault == fault);
                assert!(first.is_some_and(|first| is_quiet(first, &events)), "{seed}: {first:?}");
            }
        }
    }

    /// Whether nothing else happens from a while before an event to a while after it.
    fn is_quiet(event: &Event, events: &[Event]) -> bool {
        let quiet = Duration::from_millis(QUIET_MS);
        let is_far = |other: &Event| {
            other.ends + quiet <= event.begins || event.ends + quiet <= other.begins
        };
        events.iter().filter(|other| *other != event).all(is_far)
    }

    #[test]
    fn faults_last_as_long_as_is_asked_for() {
        let hold = Duration::from_secs(60);
        let events = Schedule::new(1, &[Fault::CutAll], LENGTH, Some(hold), 4).events;
        assert_eq!(events.len(), 1);
        assert!(events.iter().all(|it| it.ends - it.begins == hold));
    }

    #[test]
    fn a_long_pause_outlives_every_session_and_vanished_clients_have_time_to_end() {
        let ttl = Duration::from_millis(u64::from(SESSION_TTL_MS));
        let pauses = [Fault::PauseLong, Fault::PauseAll];
        for event in Schedule::new(1, &pauses, LENGTH, None, 1).events {
            assert!(event.ends - event.begins > ttl);
        }
        for event in Schedule::new(1, &[Fault::VanishClients], LENGTH, None, 1).events {
            assert!(event.ends - event.begins > ttl * 3 / 2 + Duration::from_secs(1));
        }
    }

    #[test]
    fn the_first_write_after_a_cut_comes_within_three_seconds() {
        for fault in Fault::ALL {
            let is_cut = fault.needs_network() && !fault.is_outside();
            assert_eq!(fault.first_write_max() == Duration::from_secs(3), is_cut, "{fault}");
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
