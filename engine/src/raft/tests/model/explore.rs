//! Breadth first through all states: what is found first has no shorter way to it.

use super::check::{self, Past};
use super::key::{Quick, RENAMINGS, mix};
use super::node::{Input, NODES};
use super::space::{Hashes, Outcome, Space};
use super::{Beats, Scope};
use std::collections::HashSet;
use std::hash::BuildHasherDefault;

const SEATS: usize = NODES as usize;

/// A state of the whole.
struct State {
    number: u32,
    nodes: [u32; SEATS],
    /// All that was ever sent and can still do something, in order: each message may arrive at any
    /// moment, again, or never.
    net: Box<[u16]>,
    past: Past,
}

/// What happened, and to whom (by seat).
#[derive(Clone, Copy, Debug)]
pub struct Action {
    pub seat: u8,
    pub input: Input,
}

/// How often something came about, in states that were new: a model in which it never does proves
/// nothing.
#[derive(Clone, Copy, Default, Debug)]
pub struct Seen {
    pub elections: u64,
    pub commits: u64,
    pub command_commits: u64,
    /// An entry of an older term is committed by one of its own.
    pub older_commits: u64,
    /// A leader's entry was cut for one of a later leader.
    pub overwrites: u64,
    /// A power failure took something away.
    pub losses: u64,
    /// Two nodes lead, in different terms.
    pub two_leaders: u64,
}

impl Seen {
    #[cfg(not(tercet_mutants))]
    pub fn and(self, other: Seen) -> Seen {
        Seen {
            elections: self.elections + other.elections,
            commits: self.commits + other.commits,
            command_commits: self.command_commits + other.command_commits,
            older_commits: self.older_commits + other.older_commits,
            overwrites: self.overwrites + other.overwrites,
            losses: self.losses + other.losses,
            two_leaders: self.two_leaders + other.two_leaders,
        }
    }
}

/// What was found.
pub struct Report {
    pub states: u64,
    pub steps: u64,
    pub depth: u32,
    /// Whether all was visited, as far as the scope goes.
    pub complete: bool,
    /// Whether the scope ended the search before there was nothing left.
    pub cut: bool,
    pub seen: Seen,
    pub violation: Option<Violation>,
    pub space: Space,
}

/// Something that must not be, and the shortest way to it.
pub struct Violation {
    pub what: String,
    pub play: Vec<Action>,
}

pub struct Explorer {
    scope: Scope,
    space: Space,
    visited: HashSet<u64, BuildHasherDefault<Quick>>,
    /// How each state was reached, by its number.
    reached: Vec<(u32, Action)>,
    next: Vec<State>,
    steps: u64,
    seen: Seen,
}

impl Explorer {
    pub fn new(scope: Scope) -> Explorer {
        Explorer {
            scope,
            space: Space::new(scope),
            visited: HashSet::default(),
            reached: Vec::new(),
            next: Vec::new(),
            steps: 0,
            seen: Seen::default(),
        }
    }

    /// Visits every state of the scope, or `states_max` of them.
    pub fn run(mut self, states_max: usize) -> Report {
        let nodes = self.space.birth();
        let birth = State { number: 0, nodes, net: Box::new([]), past: Past::default() };
        let nobody = Action { seat: 0, input: Input::Sync };
        self.visited.insert(self.fingerprint(&birth));
        self.reached.push((0, nobody));
        self.next.push(birth);
        let (mut depth, mut violation) = (0, None);
        'levels: while !self.next.is_empty() && depth < self.scope.depth {
            if self.reached.len() > states_max {
                break;
            }
            for state in core::mem::take(&mut self.next) {
                if let Err(found) = self.expand(&state) {
                    violation = Some(found);
                    break 'levels;
                }
            }
            depth += 1;
        }
        Report {
            states: self.reached.len() as u64,
            steps: self.steps,
            depth,
            complete: violation.is_none() && (self.next.is_empty() || depth == self.scope.depth),
            cut: !self.next.is_empty(),
            seen: self.seen,
            violation,
            space: self.space,
        }
    }

    fn expand(&mut self, state: &State) -> Result<(), Violation> {
        for action in self.actions(state) {
            self.steps += 1;
            if let Err(what) = self.take(state, action) {
                let mut play = vec![action];
                let mut at = state.number;
                while at != 0 {
                    let (before, action) = self.reached[at as usize];
                    play.push(action);
                    at = before;
                }
                play.reverse();
                return Err(Violation { what, play });
            }
        }
        Ok(())
    }

    /// All that may happen next.
    fn actions(&self, state: &State) -> Vec<Action> {
        let mut actions = Vec::with_capacity(state.net.len() + 12);
        for (seat, node) in state.nodes.iter().enumerate() {
            let view = self.space.view(*node);
            let mut may = |when: bool, input| {
                actions.extend(when.then_some(Action { seat: seat as u8, input }));
            };
            let proposed = state.past.proposed;
            may(view.pending > 0, Input::Sync);
            may(view.term < self.scope.terms, Input::Campaign);
            may(view.leads() && self.scope.beats == Beats::Any, Input::Beat);
            let proposes = view.leads() && proposed < self.scope.commands;
            may(proposes, Input::Propose(proposed + 1));
            may(state.past.crashes < self.scope.crashes, Input::Crash);
        }
        actions.extend(state.net.iter().map(|letter| {
            let to = self.space.letter(*letter).to;
            Action { seat: to.0 as u8 - 1, input: Input::Deliver(*letter) }
        }));
        actions
    }

    fn take(&mut self, state: &State, action: Action) -> Result<(), String> {
        let seat = usize::from(action.seat);
        let before = state.nodes[seat];
        let outcome = self
            .space
            .step(before, action.input)
            .map_err(|failed| format!("an assertion of {} fails: {failed}", seat + 1))?;
        let same = outcome.node == before && outcome.sent.iter().all(|l| state.net.contains(l));
        if same {
            return Ok(());
        }
        let mut next = State {
            number: u32::try_from(self.reached.len()).expect("few enough to be numbered"),
            nodes: state.nodes,
            net: Box::new([]),
            past: state.past,
        };
        next.nodes[seat] = outcome.node;
        next.past.proposed += u8::from(matches!(action.input, Input::Propose(_)));
        next.past.crashes += u8::from(action.input == Input::Crash);
        let (old, new) = (self.space.view(before), self.space.view(outcome.node));
        next.past.on_step(seat, old, new)?;
        next.net = self.net(state, seat, &next.nodes, &outcome);
        if !self.visited.insert(self.fingerprint(&next)) {
            return Ok(());
        }
        let views = next.nodes.map(|n| self.space.view(n));
        check::holds(&next.past, views)?;
        self.see(state, &next, action);
        self.reached.push((state.number, action));
        self.next.push(next);
        Ok(())
    }

    /// What is on its way after a step of the node on `seat`.
    fn net(&mut self, state: &State, seat: usize, nodes: &[u32], outcome: &Outcome) -> Box<[u16]> {
        let mut net = Vec::with_capacity(state.net.len() + outcome.sent.len());
        for letter in &state.net {
            let to = self.space.letter(*letter).to.0 as usize - 1;
            if to != seat || !self.space.is_dead(*letter, nodes[seat]) {
                net.push(*letter);
            }
        }
        for letter in &outcome.sent {
            let to = self.space.letter(*letter).to.0 as usize - 1;
            if !net.contains(letter) && !self.space.is_dead(*letter, nodes[to]) {
                net.push(*letter);
            }
        }
        net.into_boxed_slice()
    }

    /// The same for states that differ only in the nodes' names.
    fn fingerprint(&self, state: &State) -> u64 {
        let mut all: Hashes = [0; RENAMINGS.len()];
        let nodes = state.nodes.iter().map(|n| self.space.hashes(*n));
        for hashes in nodes.chain(state.net.iter().map(|l| self.space.letter_hashes(*l))) {
            for (sum, hash) in all.iter_mut().zip(hashes) {
                *sum ^= hash;
            }
        }
        let past = &state.past;
        let counts = mix(u64::from(past.proposed), u64::from(past.crashes));
        let ledger = past.ledger().iter().zip(past.counted());
        let common = ledger.fold(counts, |sum, ((term, payload), counted)| {
            mix(sum, u64::from(u32::from_be_bytes([0, *term, *payload, *counted])))
        });
        let named = all.iter().zip(RENAMINGS).map(|(sum, to)| {
            past.elected.iter().fold(mix(*sum, common), |sum, seat| {
                mix(sum, seat.checked_sub(1).map_or(9, |seat| u64::from(to[usize::from(seat)])))
            })
        });
        named.min().expect("there is a renaming")
    }

    fn see(&mut self, before: &State, after: &State, action: Action) {
        let seat = usize::from(action.seat);
        let (old, new) = (self.space.view(before.nodes[seat]), self.space.view(after.nodes[seat]));
        let committed = &after.past.ledger()[before.past.ledger().len()..];
        let count = |seen: &mut u64, when: bool| *seen += u64::from(when);
        let (seen, crash) = (&mut self.seen, action.input == Input::Crash);
        count(&mut seen.elections, after.past.elected != before.past.elected);
        count(&mut seen.commits, !committed.is_empty());
        count(&mut seen.command_commits, committed.iter().any(|e| e.1 != 0));
        count(&mut seen.older_commits, committed.iter().any(|e| e.0 < new.term));
        count(&mut seen.overwrites, !crash && !new.log.starts_with(&old.log));
        count(&mut seen.losses, crash && old.pending > 0);
        let leaders = after.nodes.iter().filter(|n| self.space.view(**n).leads()).count();
        count(&mut seen.two_leaders, leaders > 1);
    }
}
