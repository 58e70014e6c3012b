//! What a connection's slots do, step after step.
//!
//! A slot is one request at a time. Its program is a cycle of steps; where a step leaves the slot
//! holding something (a lock, a message), the next one gives it back.

use std::fmt;
use std::str::FromStr;

/// A kind of load.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Scenario {
    /// Acquire and release exclusive locks that nobody else wants.
    Locks,
    /// Acquire, waiting, and release [`CONTENDED_NAMES`] exclusive locks that everybody wants.
    LocksContended,
    /// Push, pop, acknowledge.
    Queue,
    /// Write lines.
    CachePut,
    /// Read lines, linearizably.
    CacheGet,
    /// Read seven times in ten, else write.
    CacheMixed,
    /// A lock, a queue, a write and a read in turn.
    Mixed,
    /// What physics allows: no cluster at all.
    Floor,
}

/// Names of [`Scenario::LocksContended`].
pub const CONTENDED_NAMES: usize = 16;
/// Reads in ten operations of [`Scenario::CacheMixed`].
const READS_IN_TEN: u64 = 7;

/// One request.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Step {
    /// Acquire an exclusive lock.
    Acquire,
    /// Release it.
    Release,
    /// Push a message.
    Push,
    /// Pop one, any.
    Pop,
    /// Acknowledge it.
    Ack,
    /// Write a line.
    Put,
    /// Read a line.
    Get,
}

impl Step {
    /// All steps; a step's place here is its index in tables.
    pub const ALL: [Step; 7] =
        [Step::Acquire, Step::Release, Step::Push, Step::Pop, Step::Ack, Step::Put, Step::Get];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Step::Acquire => "acquire",
            Step::Release => "release",
            Step::Push => "push",
            Step::Pop => "pop",
            Step::Ack => "ack",
            Step::Put => "put",
            Step::Get => "get",
        }
    }

    /// Whether a slot that is about to take this step holds nothing: it may rest here.
    pub fn is_rest(self) -> bool {
        !matches!(self, Step::Release | Step::Pop | Step::Ack)
    }

    /// Whether the step changes something: it has a sequence, and costs a sync.
    pub fn is_write(self) -> bool {
        self != Step::Get
    }
}

impl Scenario {
    /// All scenarios, in the order of a report.
    pub const ALL: [Scenario; 8] = [
        Scenario::Locks,
        Scenario::LocksContended,
        Scenario::Queue,
        Scenario::CachePut,
        Scenario::CacheGet,
        Scenario::CacheMixed,
        Scenario::Mixed,
        Scenario::Floor,
    ];

    /// The name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Scenario::Locks => "locks",
            Scenario::LocksContended => "locks-contended",
            Scenario::Queue => "queue",
            Scenario::CachePut => "cache-put",
            Scenario::CacheGet => "cache-get",
            Scenario::CacheMixed => "cache-mixed",
            Scenario::Mixed => "mixed",
            Scenario::Floor => "floor",
        }
    }

    /// The first step of a slot, and the one after something went wrong.
    pub fn first(self, chance: u64) -> Step {
        match self {
            Scenario::Locks | Scenario::LocksContended | Scenario::Mixed => Step::Acquire,
            Scenario::Queue => Step::Push,
            Scenario::CachePut => Step::Put,
            Scenario::CacheGet => Step::Get,
            Scenario::CacheMixed if chance % 10 < READS_IN_TEN => Step::Get,
            Scenario::CacheMixed => Step::Put,
            Scenario::Floor => unreachable!("the floor has no slots"),
        }
    }

    /// The step after `done`.
    pub fn next(self, done: Step, chance: u64) -> Step {
        match (self, done) {
            (_, Step::Acquire) => Step::Release,
            (_, Step::Push) => Step::Pop,
            (_, Step::Pop) => Step::Ack,
            (Scenario::Mixed, Step::Release) => Step::Push,
            (Scenario::Mixed, Step::Ack) => Step::Put,
            (Scenario::Mixed, Step::Put) => Step::Get,
            _ => self.first(chance),
        }
    }

    /// Whether the lines are written once before the load begins: what is measured is the steady state.
    pub fn uses_lines(self) -> bool {
        matches!(self, Scenario::CachePut | Scenario::CacheGet | Scenario::CacheMixed)
    }

    /// Whether anything is pushed.
    pub fn pushes(self) -> bool {
        matches!(self, Scenario::Queue | Scenario::Mixed)
    }

    /// Whether every operation only reads: its floor is the echo alone.
    pub fn only_reads(self) -> bool {
        self == Scenario::CacheGet
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Scenario {
    type Err = String;

    fn from_str(text: &str) -> Result<Scenario, String> {
        let found = Scenario::ALL.into_iter().find(|scenario| scenario.name() == text);
        let all = || Scenario::ALL.map(Scenario::name).join(", ");
        found.ok_or_else(|| format!("there is no scenario \"{text}\"; there are {}", all()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_comes_back_to_rest() {
        for scenario in Scenario::ALL.into_iter().filter(|s| *s != Scenario::Floor) {
            let mut step = scenario.first(0);
            assert!(step.is_rest(), "{scenario} begins with nothing held");
            let mut rests = 0;
            for chance in 0..100 {
                step = scenario.next(step, chance);
                rests += u32::from(step.is_rest());
            }
            assert!(rests >= 30, "{scenario} rests {rests} times in 100 steps");
        }
    }

    #[test]
    fn seven_in_ten_mixed_operations_read() {
        let reads =
            (0..1000).filter(|chance| Scenario::CacheMixed.first(*chance) == Step::Get).count();
        assert_eq!(reads, 700);
    }

    #[test]
    fn names_are_read_back_and_others_refused_with_the_list() {
        for scenario in Scenario::ALL {
            assert_eq!(scenario.name().parse(), Ok(scenario));
        }
        assert!("lock".parse::<Scenario>().unwrap_err().contains("locks-contended"));
    }
}
