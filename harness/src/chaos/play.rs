//! The faults of a schedule at their times, and what is watched meanwhile.

use super::ChaosError;
use super::faults::{Hands, Over};
use super::fill::Filled;
use super::healing::{Healing, Outcome, Troubles};
use super::report::{Deed, RunReport};
use super::run::{LOADS, SHARDS, Shared, WRITER};
use super::schedule::{Event, Schedule};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Between two looks at the nodes and at Ctrl-C.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A schedule that is played.
pub(super) struct Play<'a, 'h, 's> {
    hands: &'a mut Hands<'h>,
    nodes: &'a [SocketAddr],
    shared: &'a Shared<'s>,
    report: &'a mut RunReport,
    since: Instant,
    /// The faults since all first writes were last seen.
    troubles: Troubles,
    /// Whether a fault ended, and the first writes are to be awaited as soon as nothing is the matter.
    is_healed: bool,
    healing: Option<(Healing, Told)>,
    /// What each load had done when a fault that is not over began.
    ops_before: BTreeMap<usize, [u64; LOADS.len()]>,
}

/// Whether it was told that first writes are late.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    Late,
}

impl<'a, 'h, 's> Play<'a, 'h, 's> {
    /// Nothing began yet.
    pub fn new(
        hands: &'a mut Hands<'h>,
        nodes: &'a [SocketAddr],
        shared: &'a Shared<'s>,
        report: &'a mut RunReport,
    ) -> Play<'a, 'h, 's> {
        Play {
            hands,
            nodes,
            shared,
            report,
            since: Instant::now(),
            troubles: Troubles::default(),
            is_healed: false,
            healing: None,
            ops_before: BTreeMap::new(),
        }
    }

    /// Begins and ends the faults at their times, then heals everything.
    ///
    /// # Errors
    /// [`ChaosError`].
    pub fn run(mut self, schedule: &Schedule) -> Result<(), ChaosError> {
        let mut turns: Vec<(Duration, bool, usize)> = Vec::new();
        for (index, event) in schedule.events.iter().enumerate() {
            turns.push((event.begins, true, index));
            turns.push((event.ends, false, index));
        }
        turns.sort_unstable();
        self.since = Instant::now();
        for (at, begins, index) in turns {
            self.wait(at)?;
            let event = &schedule.events[index];
            match begins {
                true => self.begin(index, event)?,
                false => self.end(index, event)?,
            }
        }
        let before = Instant::now();
        self.hands.heal()?;
        self.report.healed_ms = before.elapsed().as_secs_f64() * 1e3;
        self.report.ended_full = self.hands.ended_full;
        self.report.ops_when_healed = self.ops();
        while self.is_healed || matches!(self.healing, Some((_, Told::Nothing))) {
            self.look()?;
            sleep(LOOK_EVERY);
        }
        Ok(())
    }

    fn begin(&mut self, index: usize, event: &Event) -> Result<(), ChaosError> {
        self.is_healed = false;
        self.leave_healing();
        self.troubles.add(event.fault);
        self.ops_before.insert(index, self.ops());
        let hit = self.hands.begin(index, event)?;
        let row = self.report.faults.entry(event.fault.name()).or_default();
        let what = match hit {
            Some(hit) => {
                row.begun += 1;
                hit
            }
            None => {
                row.missed += 1;
                "nothing to hit".into()
            }
        };
        self.note(format!("{}: {what}", event.fault));
        Ok(())
    }

    fn end(&mut self, index: usize, event: &Event) -> Result<(), ChaosError> {
        let ops = self.ops();
        let Over { filled, broken } = self.hands.end(index)?;
        self.is_healed = true;
        self.note(format!("{} is over", event.fault));
        self.report.failures.extend(broken);
        if let (Some(filled), Some(before)) = (filled, self.ops_before.remove(&index)) {
            self.filled(event, filled, before, ops);
        }
        Ok(())
    }

    /// A node's connections were taken: says so, or that they were not, and judges whether others were served.
    fn filled(
        &mut self,
        event: &Event,
        filled: Filled,
        before: [u64; LOADS.len()],
        after: [u64; LOADS.len()],
    ) {
        if filled.refused == 0 {
            let row = self.report.faults.entry(event.fault.name()).or_default();
            row.begun -= 1;
            row.missed += 1;
        }
        for at in 0..LOADS.len() {
            if filled.judged && after[at] <= before[at] {
                self.report.failures.push(format!(
                    "load {at}: nothing was served while the connections of node {} were taken",
                    filled.node
                ));
            }
        }
        self.note(filled.line());
        self.report.filled.push(filled);
    }

    fn ops(&self) -> [u64; LOADS.len()] {
        std::array::from_fn(|at| self.shared.ops[at].load(Ordering::Relaxed))
    }

    fn note(&mut self, what: String) {
        self.report.deeds.push(Deed { at_s: self.since.elapsed().as_secs_f64(), what });
    }

    /// Watches until it is time.
    fn wait(&mut self, at: Duration) -> Result<(), ChaosError> {
        loop {
            self.look()?;
            let left = at.saturating_sub(self.since.elapsed());
            if left.is_zero() {
                return Ok(());
            }
            sleep(left.min(LOOK_EVERY));
        }
    }

    /// Looks at the nodes, at what heals, at what vanished, and at Ctrl-C.
    fn look(&mut self) -> Result<(), ChaosError> {
        if self.shared.interrupted.load(Ordering::Relaxed) {
            return Err(ChaosError::Interrupted);
        }
        for node in self.hands.look()? {
            self.note(format!("node {node} ended: its disk is full"));
        }
        let broken = self.hands.look_at_vanished();
        self.report.failures.extend(broken);
        if self.is_healed && self.hands.is_calm() {
            self.is_healed = false;
            if let Some(fault) = self.troubles.worst() {
                let standing = self.ops()[WRITER];
                let healing = Healing::begin(fault, self.nodes, SHARDS, standing);
                self.healing = Some((healing, Told::Nothing));
            }
        }
        self.look_at_healing();
        Ok(())
    }

    fn look_at_healing(&mut self) {
        let standing = self.ops()[WRITER];
        let Some((healing, told)) = &mut self.healing else { return };
        let (fault, bound) = (healing.fault, healing.fault.first_write_max());
        match healing.look(standing) {
            Outcome::Awaited => {}
            Outcome::Late => {
                if *told == Told::Nothing {
                    *told = Told::Late;
                    self.report.failures.push(format!(
                        "no write within {} s after the end of {fault}: {} is missing",
                        bound.as_secs(),
                        healing.missing()
                    ));
                }
            }
            Outcome::Came { slowest, standing } => {
                let is_late = slowest > bound || standing.is_some_and(|came| came > bound);
                if is_late && *told == Told::Nothing {
                    self.report.failures.push(format!(
                        "the first write came {:.2} s after the end of {fault}, and may take {} s",
                        slowest.max(standing.unwrap_or_default()).as_secs_f64(),
                        bound.as_secs()
                    ));
                }
                self.healing = None;
                self.troubles = Troubles::default();
                let row = self.report.first_writes.entry(fault.name()).or_default();
                row.bound_ms = bound.as_secs_f64() * 1e3;
                row.came(slowest, standing);
                self.note(format!("first writes after {fault}: {:.2} s", slowest.as_secs_f64()));
            }
        }
    }

    /// The next fault begins: what did not come by now is not judged.
    fn leave_healing(&mut self) {
        self.look_at_healing();
        let Some((healing, told)) = self.healing.take() else { return };
        if told == Told::Nothing {
            let row = self.report.first_writes.entry(healing.fault.name()).or_default();
            row.bound_ms = healing.fault.first_write_max().as_secs_f64() * 1e3;
            row.cut_short += 1;
        }
    }
}

/// Waits for what becomes of the clients that vanished last.
///
/// # Errors
/// [`ChaosError::Interrupted`].
pub(super) fn await_vanished(
    hands: &mut Hands<'_>,
    shared: &Shared<'_>,
    report: &mut RunReport,
) -> Result<(), ChaosError> {
    while hands.awaits_vanished() {
        if shared.interrupted.load(Ordering::Relaxed) {
            return Err(ChaosError::Interrupted);
        }
        report.failures.extend(hands.look_at_vanished());
        sleep(LOOK_EVERY);
    }
    let (vanished, missing) = hands.vanished();
    report.vanished = vanished;
    report.failures.extend(missing);
    Ok(())
}
