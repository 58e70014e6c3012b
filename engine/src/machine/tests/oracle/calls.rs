//! The twin's calls: what a client may ask for.

use super::{Letter, Op, Oracle, Wait, Where, take};
use crate::machine::cache::LINE_OVERHEAD_BYTES;
use crate::machine::{Applied, Outcome};
use wire::{Code, Detail};

impl Oracle {
    /// `op` with what it refers back to made concrete: a fence, a delivery or a version.
    pub fn call(&mut self, n: u8, sequence: u64, answered_below: u64, op: Op) -> Applied {
        let Some(session) = self.sessions.get_mut(&n) else {
            return Applied::Done(Outcome::refused(Code::SessionUnknown));
        };
        session.answered_below = session.answered_below.max(answered_below);
        let below = session.answered_below;
        session.calls.retain(|sequence, _| *sequence >= below);
        self.cancel(n, below);
        if sequence < below {
            return Applied::Done(Outcome::refused(Code::SequenceStale));
        }
        match self.sessions[&n].calls.get(&sequence) {
            Some(Some(outcome)) => return Applied::Done(outcome.clone()),
            Some(None) => return Applied::Waiting,
            None => {}
        }
        let outcome = self.operate(n, sequence, op);
        let session = self.sessions.get_mut(&n).expect("a call does not end its own session");
        session.calls.insert(sequence, outcome.clone());
        outcome.map_or(Applied::Waiting, Applied::Done)
    }

    fn cancel(&mut self, n: u8, below: u64) {
        let mut gone: Vec<(bool, u8, Wait)> = Vec::new();
        for (lock, lines) in [(true, &self.lock_waits), (false, &self.pop_waits)] {
            for (name, waits) in lines {
                let mine = waits.iter().filter(|w| w.session == n && w.sequence < below);
                gone.extend(mine.map(|w| (lock, *name, w.clone())));
            }
        }
        gone.sort_by_key(|(_, _, w)| w.sequence);
        for (lock, name, wait) in &gone {
            let lines = if *lock { &mut self.lock_waits } else { &mut self.pop_waits };
            take(lines.entry(*name).or_default(), |w| w.ticket == wait.ticket);
            self.wake(wait, Outcome::refused(Code::SequenceStale));
        }
        for (_, name, _) in gone.iter().filter(|(lock, _, _)| *lock) {
            self.advance_lock(*name);
        }
    }

    fn operate(&mut self, n: u8, sequence: u64, op: Op) -> Option<Outcome> {
        let refused = |code| Some(Outcome::refused(code));
        match op {
            Op::Acquire { name, exclusive, wait, lease } => {
                if self.holds.get(&name).into_iter().flatten().any(|h| h.session == n) {
                    return Some(self.again(name, n, exclusive, lease));
                }
                let waits = self.lock_waits.entry(name).or_default();
                if waits.is_empty() && self.admits(name, exclusive) {
                    return Some(self.grant(name, n, exclusive, lease));
                }
                if wait == 0 {
                    return Some(self.held(name, Code::LockHeld));
                }
                let wait = self.wait(n, sequence, wait, exclusive, lease);
                self.lock_waits.entry(name).or_default().push(wait);
                None
            }
            Op::Release { name, back: fence } => {
                let holds = self.holds.entry(name).or_default();
                let Some(hold) = holds.iter_mut().find(|h| h.session == n) else {
                    return refused(Code::NotHolder);
                };
                if hold.fence != fence as u64 {
                    return refused(Code::StaleFence);
                }
                hold.count -= 1;
                holds.retain(|h| h.count > 0);
                self.advance_lock(name);
                Some(Outcome::Done { token: 0 })
            }
            Op::Push { name, priority } => {
                let id = self.issue();
                self.letters.push(Letter { id, name, priority, delivery: 0, at: Where::Ready });
                self.advance_queue(name);
                Some(Outcome::Done { token: id })
            }
            Op::Pop { name, wait, visibility } => {
                if self.letters.iter().any(|l| l.name == name && l.at == Where::Ready) {
                    return Some(self.deliver(name, n, visibility));
                }
                if wait == 0 {
                    return refused(Code::QueueEmpty);
                }
                let wait = self.wait(n, sequence, wait, false, visibility);
                self.pop_waits.entry(name).or_default().push(wait);
                None
            }
            Op::Ack { name, back } => Some(self.settle(name, back, None)),
            Op::Nack { name, back, delay } => Some(self.settle(name, back, Some(delay))),
            Op::Put { name, size, ttl, expect, back } => {
                Some(self.put(name, size, ttl, (expect, back as u64)))
            }
            Op::Delete { name, expect, back } => {
                if let Err(refused) = self.meets(name, (expect, back as u64)) {
                    return Some(refused);
                }
                let at = self.lines.iter().position(|line| line.0 == name);
                Some(at.map_or(Outcome::refused(Code::KeyUnknown), |at| Outcome::Done {
                    token: self.lines.remove(at).1,
                }))
            }
        }
    }

    fn wait(&mut self, session: u8, sequence: u64, wait: u64, exclusive: bool, span: u64) -> Wait {
        let (ticket, deadline) = (self.issue(), self.now + wait);
        Wait { ticket, session, sequence, deadline, exclusive, span }
    }

    /// Acknowledges a delivery, or gives it back after a delay.
    fn settle(&mut self, name: u8, delivery: usize, delay: Option<u64>) -> Outcome {
        let (id, delivery) = self.deliveries.get(delivery).copied().unwrap_or((0, 0));
        let at = self.letters.iter().position(|l| l.id == id && l.name == name);
        let Some(at) = at else {
            return Outcome::refused(Code::MessageUnknown);
        };
        let letter = &mut self.letters[at];
        if !matches!(letter.at, Where::Held { .. }) || letter.delivery != delivery {
            return Outcome::refused(Code::StaleDelivery);
        }
        match delay {
            None => _ = self.letters.remove(at),
            Some(0) => {
                letter.at = Where::Ready;
                self.advance_queue(name);
            }
            Some(delay) => letter.at = Where::Delayed { deadline: self.now + delay },
        }
        Outcome::Done { token: 0 }
    }

    fn put(&mut self, name: u8, size: usize, ttl: u64, expect: (u8, u64)) -> Outcome {
        let cost = |size: usize| size as u64 + 1 + LINE_OVERHEAD_BYTES;
        if cost(size) > self.cache_bytes_max {
            return Outcome::refused(Code::OverBudget);
        }
        if let Err(refused) = self.meets(name, expect) {
            return refused;
        }
        let (version, deadline) = (self.issue(), self.lease(ttl));
        self.versions.push(version);
        self.lines.retain(|line| line.0 != name);
        self.lines.push((name, version, deadline, size));
        while self.lines.iter().map(|line| cost(line.3)).sum::<u64>() > self.cache_bytes_max {
            self.lines.remove(0);
        }
        Outcome::Done { token: version }
    }

    fn meets(&self, name: u8, (expect, version): (u8, u64)) -> Result<(), Outcome> {
        let there = self.lines.iter().find(|line| line.0 == name).map(|line| line.1);
        let other = |there| self.refused(Code::VersionMismatch, Some(Detail::Version(there)));
        match (expect, there) {
            (1, Some(there)) => Err(other(there)),
            (2, None) => Err(Outcome::refused(Code::KeyUnknown)),
            (2, Some(there)) if there != version => Err(other(there)),
            _ => Ok(()),
        }
    }

    /// The version of a line.
    pub fn line(&self, name: u8) -> Option<u64> {
        self.lines.iter().find(|line| line.0 == name).map(|line| line.1)
    }
}
