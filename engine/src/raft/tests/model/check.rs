//! What must hold in every state, and what is remembered of the past to tell.

use super::node::NODES;
use super::space::View;

const SEATS: usize = NODES as usize;
pub const TERMS_MAX: usize = 4;
pub const LEDGER_MAX: usize = 6;
const MAJORITY: usize = SEATS / 2 + 1;

/// What a state remembers of how it came about.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Past {
    pub proposed: u8,
    pub crashes: u8,
    /// Who was elected in each term: the seat, from 1.
    pub elected: [u8; TERMS_MAX],
    /// What leaders have committed, in order: term and payload.
    ledger: [(u8, u8); LEDGER_MAX],
    /// In which term each of them was counted.
    counted: [u8; LEDGER_MAX],
    committed: u8,
}

impl Past {
    pub fn ledger(&self) -> &[(u8, u8)] {
        &self.ledger[..usize::from(self.committed)]
    }

    /// In which terms that was counted.
    pub fn counted(&self) -> &[u8] {
        &self.counted[..usize::from(self.committed)]
    }

    /// The node on this seat went from one state to the next.
    pub fn on_step(&mut self, seat: usize, before: &View, after: &View) -> Result<(), String> {
        let name = seat + 1;
        if after.leads() && !(before.leads() && before.term == after.term) {
            let elected = &mut self.elected[usize::from(after.term)];
            if *elected != 0 {
                return Err(format!(
                    "{elected} and then {name} are elected in term {}",
                    after.term
                ));
            }
            *elected = name as u8;
            // A leader of an older term may turn up late: it has what was committed before its term.
            let before = self.counted().iter().take_while(|c| **c < after.term).count();
            if !after.log.starts_with(&self.ledger()[..before]) {
                return Err(format!(
                    "{name} leads term {} and lacks what is committed",
                    after.term
                ));
            }
        }
        if after.leads() && after.commit > self.committed {
            self.commit(name, after)?;
        }
        let known = after.commit.min(self.committed);
        if after.commit > known {
            return Err(format!("{name} commits {}, which no leader did", after.commit));
        }
        let known = usize::from(known);
        if after.log[..known] != self.ledger[..known] {
            return Err(format!("{name} commits something else than was committed"));
        }
        Ok(())
    }

    fn commit(&mut self, name: usize, leader: &View) -> Result<(), String> {
        let (from, to) = (usize::from(self.committed), usize::from(leader.commit));
        if leader.log[to - 1].0 != leader.term {
            return Err(format!("{name} counts {to}, of an older term, as committed"));
        }
        self.ledger[from..to].copy_from_slice(&leader.log[from..to]);
        self.counted[from..to].fill(leader.term);
        self.committed = leader.commit;
        Ok(())
    }
}

/// What holds whatever came before.
pub fn holds(past: &Past, nodes: [&View; SEATS]) -> Result<(), String> {
    durable_on_majority(past, nodes)?;
    for a in 0..SEATS {
        for b in 0..a {
            logs_match(a, b, nodes)?;
        }
        cannot_win(past, a, nodes)?;
    }
    Ok(())
}

fn durable_on_majority(past: &Past, nodes: [&View; SEATS]) -> Result<(), String> {
    let ledger = past.ledger();
    for upto in 1..=ledger.len() {
        let there = nodes.iter().filter(|n| n.durable.starts_with(&ledger[..upto])).count();
        if there < MAJORITY {
            return Err(format!("{upto} is committed, and durable on {there} node(s)"));
        }
    }
    Ok(())
}

/// Logs that have an entry of the same index and term in common are the same up to there.
fn logs_match(a: usize, b: usize, nodes: [&View; SEATS]) -> Result<(), String> {
    let (x, y) = (&nodes[a].log, &nodes[b].log);
    let agree = (0..x.len().min(y.len())).rev().find(|i| x[*i].0 == y[*i].0);
    match agree {
        Some(at) if x[..=at] != y[..=at] => {
            Err(format!("the logs of {} and {} agree at {} and not before", b + 1, a + 1, at + 1))
        }
        _ => Ok(()),
    }
}

/// A node that lacks what is committed finds no majority whose logs are not ahead of its own.
fn cannot_win(past: &Past, seat: usize, nodes: [&View; SEATS]) -> Result<(), String> {
    if nodes[seat].log.starts_with(past.ledger()) {
        return Ok(());
    }
    let rank = |n: &View| (n.log.last().map_or(0, |e| e.0), n.log.len());
    let would = nodes.iter().filter(|n| rank(n) <= rank(nodes[seat])).count();
    if would < MAJORITY {
        return Ok(());
    }
    Err(format!("{} lacks what is committed, and {would} nodes would vote for it", seat + 1))
}
