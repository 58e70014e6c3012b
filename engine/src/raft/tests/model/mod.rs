//! Model checking: every state that three replicas can reach within a small scope, by the production code.
//!
//! # How it works
//!
//! *A state* is three nodes (the replica, what its disk holds, what waits for a sync), the messages that
//! were ever sent, and what the past must be remembered for (who was elected, what was committed).
//! [`explore`] visits all of them breadth first, so that the way to a violation is a shortest one.
//!
//! *The network* forgets nothing: each message may arrive at any later moment, any number of times, or
//! never. That is loss, doubling and reordering in one.
//!
//! *The disk* makes its units durable one by one, at any moment. A power failure takes what is not
//! durable. That something written survives it needs no step of its own: then it was synced, and what
//! that let out never arrived. Nor does being down: a node to which nothing arrives is no different.
//!
//! *Time* is taken out ([`node`]): anybody may lose patience at any moment, nobody is loyal to a leader,
//! and a pre-vote is always granted. This is more than can happen; so elections must be safe without
//! any clock. What rests on clocks, the lease, is not checked here.
//!
//! *Smaller.* Each node's state and each message is kept once, and each step of the replica computed once
//! ([`space`]). States that differ only in the nodes' names are one ([`key`]). An answer that its
//! receiver can never heed again is dropped from the network: a term that is durable is not left for
//! a lower one, and a node campaigns once in a term. So is a question of a term that its receiver has
//! durably left, if the replica, asked, does nothing. A scope may end after a number of steps. States are told apart by 64 bits: of ten million,
//! the chance that any two were taken for one is about 1 in 400,000.
//!
//! # Left out
//!
//! Telling a deposed leader of the newer term in answer to its own message (it still hears of it from
//! others), snapshots, leadership transfer, membership, reads, links that break, several messages in one turn.
//! The simulations cover these.
//!
//! # Why not a library
//!
//! Here a state is a few numbers, which is what makes these scopes fit, and states that differ only in
//! names are one. What a library (stateright was considered, and not tried) would save is the loop
//! of [`explore`], which is short.

mod check;
mod explore;
mod key;
mod node;
mod play;
mod space;

use explore::{Explorer, Report};

/// How many entries a message carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Batch {
    One,
    All,
}

/// When what is written is durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disks {
    /// At once.
    Immediate,
    /// At any later moment.
    Slow,
}

/// Whether heartbeats come after the first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Beats {
    First,
    Any,
}

/// How much may happen.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    pub terms: u8,
    pub commands: u8,
    pub crashes: u8,
    pub batch: Batch,
    pub disks: Disks,
    pub beats: Beats,
    /// How many steps, at most.
    pub depth: u32,
}

impl Scope {
    /// "terms commands crashes steps" (0: as many as there are), and any of: one (entry a message), slow
    /// (disks), beats.
    fn parse(text: &str) -> Scope {
        let words: Vec<&str> = text.split_whitespace().collect();
        let number = |at: usize| words[at].parse::<u32>().expect("a number");
        let depth = number(3);
        let says = |word: &str| words.contains(&word);
        Scope {
            terms: number(0) as u8,
            commands: number(1) as u8,
            crashes: number(2) as u8,
            depth: if depth == 0 { u32::MAX } else { depth },
            batch: if says("one") { Batch::One } else { Batch::All },
            disks: if says("slow") { Disks::Slow } else { Disks::Immediate },
            beats: if says("beats") { Beats::Any } else { Beats::First },
        }
    }
}

impl core::fmt::Display for Scope {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Scope { terms, commands, crashes, batch, disks, beats, depth: _ } = self;
        write!(f, "3 nodes, {terms} terms, {commands} commands, {crashes} crashes, ")?;
        f.write_str(if *batch == Batch::One { "one entry a message, " } else { "" })?;
        f.write_str(if *disks == Disks::Slow { "slow disks, " } else { "immediate disks, " })?;
        f.write_str(if *beats == Beats::Any { "heartbeats" } else { "no heartbeats" })
    }
}

fn explore(scope: Scope, states_max: usize) -> Report {
    let began = std::time::Instant::now();
    let mut report = Explorer::new(scope).run(states_max);
    print!("{}", play::tell(&scope, &mut report));
    println!("took {:.1} s\n", began.elapsed().as_secs_f64());
    report
}

#[cfg(not(tercet_mutants))]
fn prove(scopes: &[&str], states_max: usize) -> explore::Seen {
    let mut seen = explore::Seen::default();
    for text in scopes {
        let report = explore(Scope::parse(text), states_max);
        assert!(report.violation.is_none(), "a promise is broken");
        assert!(report.complete, "the scope is too large");
        seen = seen.and(report.seen);
    }
    seen
}

/// Enough for the debug build within seconds.
const SMALL: &[&str] = &["1 0 1 0 slow", "1 1 1 13", "2 0 0 0", "2 1 1 11 slow beats"];
/// What `make model` covers.
const LARGE: &[&str] = &["1 0 1 0 slow", "2 0 1 0", "3 0 0 0", "1 1 0 0", "2 1 1 11 slow beats"];

#[test]
#[cfg(not(tercet_mutants))]
fn no_state_of_a_small_scope_breaks_a_promise() {
    let seen = prove(SMALL, 2_000_000);
    assert!(seen.elections > 0 && seen.commits > 0, "the model says nothing");
    assert!(seen.command_commits > 0 && seen.losses > 0 && seen.two_leaders > 0);
    assert!(seen.overwrites > 0, "no leader cuts another's entry");
}

/// `make model`. `SCOPE="2 1 1 12 slow"` explores that scope alone.
#[test]
#[ignore = "takes minutes: make model"]
#[cfg(not(tercet_mutants))]
fn no_state_of_a_large_scope_breaks_a_promise() {
    let states_max = std::env::var("STATES").ok().and_then(|n| n.parse().ok());
    let states_max = states_max.unwrap_or(40_000_000);
    match std::env::var("SCOPE") {
        Ok(scope) if !scope.is_empty() => drop(prove(&[&scope], states_max)),
        _ => {
            let seen = prove(LARGE, states_max);
            assert!(
                seen.older_commits > 0,
                "no entry of an older term is committed by one after it"
            );
        }
    }
}

/// `make model-mutants`: each planted bug that consensus can have without clocks, snapshots and the journal
/// is found, with the shortest way to it.
#[test]
#[cfg(tercet_mutants)]
fn planted_bugs_are_found() {
    use crate::mutant::{Mutant, plant};
    const BUGS: &[Mutant] = &[
        Mutant::VoteTwice,
        Mutant::ForgetVote,
        Mutant::VoteBeforeSync,
        Mutant::OwnAckBeforeSync,
        Mutant::AckBeforeSync,
        Mutant::AnyLogWins,
        Mutant::CommitOlderTerm,
        Mutant::CommitUnagreed,
        Mutant::AppendUnchecked,
        Mutant::CutWithoutConflict,
        Mutant::LateSyncVouches,
    ];
    const SCOPES: &[&str] = &[
        "1 0 1 0 slow",
        "1 1 1 13",
        "2 0 0 0",
        "2 0 1 0",
        "2 0 1 18 slow",
        "2 1 0 20",
        "3 0 0 0 one",
    ];
    let mut missed = Vec::new();
    for bug in BUGS {
        println!("---- {bug:?}");
        plant(*bug);
        let found = SCOPES.iter().any(|s| explore(Scope::parse(s), 1_500_000).violation.is_some());
        if !found {
            missed.push(*bug);
        }
    }
    println!("missed: {missed:?}");
    assert!(missed.is_empty(), "planted bugs were not found");
}
