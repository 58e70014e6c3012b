//! Feature levels: what every node of a cluster can read.
//!
//! While a cluster is upgraded its nodes run different builds. Whatever a build writes into a log, a snapshot or
//! a manifest that the build before can't read comes with a new level, and is written only once the cluster is at
//! it:
//!
//! 1. Nodes tell each other the newest level that they know ([`wire::peer::FeatureLevel`]).
//! 2. Once every node of the cluster knows a higher one, and all are reached, the meta group's leader proposes it
//!    there ([`kind::LEVEL`]). With the nodes it becomes known everywhere.
//! 3. Each group's leader then proposes it in its own log. What comes with the level may follow that entry, and only
//!    that.
//!
//! | level | what came with it |
//! |---|---|
//! | 1 | all that was there before levels |
//! | 2 | levels themselves: their entry, snapshots of version 3, manifests of format 3 |
//! | 3 | entries whose work is bounded, ended sessions remembered by time, a secret seed, more voters for the meta group, what voters agreed about loyalty |
//! | 4 | refusals that are remembered with a detail, mail from one group to another, snapshots of version 5 |
//!
//! There is no way back: a build that does not know the cluster's level is refused. Who wants to keep the way back
//! open holds the level with `--level-max` until the new build has proved itself.
//!
//! Each kind of request and of entry names the level from which it exists ([`Kinds`]), and so does each choice that a
//! field of one offers ([`Request::level`]). A leader proposes it once its own state is at that level, and tells who asks
//! before that how to raise it ([`Code::LevelTooLow`](wire::Code::LevelTooLow)). So a build that does not know a kind
//! never meets it in its log, where it would refuse what the others do.
//!
//! # Invariants
//!
//! - Nothing stands in a log before the entry that raised its group to the level from which it exists.
//! - Nobody appends an entry that raises the level past what it knows ([`Raft`](crate::raft::Raft) vets it).
//! - A level never falls.

use crate::entry::kind;
use core::fmt;
use wire::bytes::{Reader, u32_bytes};
use wire::request::Facts;
use wire::{Kind, Request};

/// A feature level.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Level(pub u32);

impl Level {
    /// Every build knows it, and whoever says nothing knows no other.
    pub const OLDEST: Level = Level(1);
    /// The newest that this build knows.
    pub const NEWEST: Level = Level(4);
    /// Before it neither snapshots nor manifests say their level.
    pub(crate) const SAID: Level = Level(2);
    /// From it on an entry does bounded work (`machine/unfinished.rs`), and ended sessions are remembered by time.
    pub(crate) const BOUNDED: Level = Level(3);
    /// Before it the meta group has as many voters as a shard has, whatever the number of nodes: leaders of an older
    /// build would take away what is more.
    pub(crate) const META_VOTERS: Level = Level(3);

    /// Before it nothing is agreed about loyalty ([`raft`](crate::raft)), and reads ask a majority.
    pub(crate) const LOYALTY: Level = Level(3);
    /// From it on a refusal may be remembered with a detail.
    pub(crate) const DETAIL: Level = Level(4);

    /// From it on groups write mail to each other (`machine/outbox/`).
    pub(crate) const OUTBOX: Level = Level(4);

    /// The payload of an entry that raises the level.
    pub fn encode(self) -> [u8; 4] {
        u32_bytes(self.0)
    }

    /// Reads that payload.
    pub fn decode(payload: &[u8]) -> Option<Level> {
        let mut from = Reader::new(payload);
        let level = from.u32().ok()?;
        from.is_empty().then_some(Level(level))
    }
}

impl Default for Level {
    fn default() -> Level {
        Level::OLDEST
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// From which level on each kind of request and of entry exists: what a build knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kinds {
    /// The newest level that the build knows.
    build: Level,
    /// A kind that came with a later level than it really did.
    late: Option<(Kind, Level)>,
}

impl Kinds {
    /// Those of this build.
    pub const REAL: Kinds = Kinds { build: Level::NEWEST, late: None };

    /// Those of a build that knows no level past `build`, as if `kind` had come with `since`: so the simulator has an
    /// older build which really does not know something that a newer one does.
    #[cfg(any(test, feature = "simulator"))]
    pub const fn of_build(build: Level, kind: Kind, since: Level) -> Kinds {
        Kinds { build, late: Some((kind, since)) }
    }

    /// From which level on a kind exists. `None`: this build does not know it.
    pub fn since(self, kind: Kind) -> Option<Level> {
        self.unless_late(kind, since(kind)?)
    }

    /// The same, of a request of which more is known.
    #[inline]
    pub(crate) fn since_of(self, facts: &Facts) -> Option<Level> {
        self.unless_late(facts.kind(), Level(facts.level))
    }

    #[inline]
    fn unless_late(self, kind: Kind, since: Level) -> Option<Level> {
        let since = match self.late {
            Some((late, since)) if late == kind => since,
            _ => since,
        };
        (since <= self.build).then_some(since)
    }

    /// The kind as this build reads it: one that it does not know is as good as any other that nobody knows.
    pub(crate) fn read(self, kind: Kind) -> Kind {
        match self.late {
            Some((late, since)) if late == kind && since > self.build => NOBODYS,
            _ => kind,
        }
    }
}

/// A kind that no build knows.
const NOBODYS: Kind = Kind(0x7fff);

/// What a kind's declaration says, and the table of the entries that leaders propose. A kind that does not stand in
/// either is refused like one that does not exist.
fn since(kind: Kind) -> Option<Level> {
    if let Some(facts) = Request::facts_of(kind) {
        return Some(Level(facts.level));
    }
    Some(match kind {
        kind::NOOP | kind::TICK | kind::RENEW | kind::MEMBERS => Level::OLDEST,
        kind::META_NODE | kind::META_BIRTH => Level::OLDEST,
        kind::MAIL | kind::MAIL_TAKEN => Level::OUTBOX,
        #[cfg(any(test, feature = "simulator"))]
        kind::MAIL_WRITE => Level::OUTBOX,
        // It has a rule of its own: nobody appends one that raises the level past what it knows.
        kind::LEVEL => Level::OLDEST,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use wire::message::{CacheDelete, CachePut};

    /// The kinds that a source declares: `marker`, then the number in hex.
    fn declared(source: &str, marker: &str) -> Vec<Kind> {
        let numbers = source.lines().filter_map(|line| line.trim().split_once(marker));
        let numbers = numbers.filter(|(before, _)| !before.starts_with("//"));
        let hex = |text: &str| text.chars().take_while(char::is_ascii_hexdigit).collect::<Vec<_>>();
        let number = |text: &str| {
            let digits: alloc::string::String = hex(text).into_iter().collect();
            u16::from_str_radix(&digits, 16).map(Kind)
        };
        numbers.filter_map(|(_, after)| number(after).ok()).collect()
    }

    #[test]
    fn every_entry_names_its_level() {
        let entries = declared(include_str!("entry.rs"), "Kind = Kind(0x");
        assert!(entries.len() >= 7, "{entries:?}");
        for kind in entries {
            assert!(Kinds::REAL.since(kind).is_some(), "{kind:x?} in level.rs");
        }
    }

    #[test]
    fn no_request_exists_from_a_level_that_this_build_does_not_know() {
        for facts in wire::message::FACTS {
            let since = Kinds::REAL.since(facts.kind());
            assert!(since.is_some_and(|since| since <= Level::NEWEST), "{}", facts.message.name);
        }
    }

    #[test]
    fn a_build_does_not_know_what_came_after_it() {
        let older = Kinds::of_build(Level(1), CacheDelete::KIND, Level(3));
        assert_eq!(older.since(CacheDelete::KIND), None);
        assert_eq!(older.read(CacheDelete::KIND), NOBODYS);
        assert_eq!(older.since(CachePut::KIND), Some(Level::OLDEST));
        assert_eq!(older.read(CachePut::KIND), CachePut::KIND);
        let newer = Kinds::of_build(Level(3), CacheDelete::KIND, Level(3));
        assert_eq!(newer.since(CacheDelete::KIND), Some(Level(3)));
        assert_eq!(newer.read(CacheDelete::KIND), CacheDelete::KIND);
        assert_eq!(Kinds::REAL.since(NOBODYS), None);
    }
}
