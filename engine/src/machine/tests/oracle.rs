//! The dumb twin: the same meaning with lists that are searched from front to back.
//!
//! It has no timers: at each step it looks through everything for what is due first. It has no limits
//! but the cache's budget, and fires without a budget: the random histories stay far below.

mod calls;

use super::kit::id;
use crate::level::Level;
use crate::machine::{Outcome, Wake};
use std::collections::{BTreeMap, BTreeSet};
use wire::message::LockMode;
use wire::{Code, Detail};

/// What a random history is made of. Sessions are numbers, names a digit, times milliseconds.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    Acquire {
        name: u8,
        exclusive: bool,
        wait: u64,
        lease: u64,
    },
    /// Releases the lock with a fence that was granted `back` grants ago.
    Release {
        name: u8,
        back: usize,
    },
    Push {
        name: u8,
        priority: u8,
    },
    Pop {
        name: u8,
        wait: u64,
        visibility: u64,
    },
    /// Acknowledges (or gives back, after a delay) the delivery `back` deliveries ago.
    Ack {
        name: u8,
        back: usize,
    },
    Nack {
        name: u8,
        back: usize,
        delay: u64,
    },
    Put {
        name: u8,
        size: usize,
        ttl: u64,
        expect: u8,
        back: usize,
    },
    Delete {
        name: u8,
        expect: u8,
        back: usize,
    },
}

const NEVER: u64 = u64::MAX;

#[derive(Clone)]
struct Wait {
    ticket: u64,
    session: u8,
    sequence: u64,
    deadline: u64,
    exclusive: bool,
    /// The lease or the visibility.
    span: u64,
}

#[derive(Clone)]
struct Hold {
    session: u8,
    fence: u64,
    count: u32,
    deadline: u64,
    exclusive: bool,
}

#[derive(Clone, PartialEq)]
enum Where {
    Ready,
    Held { session: u8, deadline: u64 },
    Delayed { deadline: u64 },
}

#[derive(Clone)]
struct Letter {
    id: u64,
    name: u8,
    priority: u8,
    delivery: u32,
    at: Where,
}

struct Owner {
    number: u64,
    ttl: u64,
    deadline: u64,
    answered_below: u64,
    /// `None`: it waits.
    calls: BTreeMap<u64, Option<Outcome>>,
}

#[derive(Default)]
pub struct Oracle {
    pub now: u64,
    level: Level,
    issued: u64,
    sessions: BTreeMap<u8, Owner>,
    ended: BTreeSet<u8>,
    holds: BTreeMap<u8, Vec<Hold>>,
    lock_waits: BTreeMap<u8, Vec<Wait>>,
    letters: Vec<Letter>,
    pop_waits: BTreeMap<u8, Vec<Wait>>,
    /// Name, version, deadline, size; the oldest version first.
    lines: Vec<(u8, u64, u64, usize)>,
    cache_bytes_max: u64,
    pub wakes: Vec<Wake>,
    pub fences: Vec<u64>,
    pub deliveries: Vec<(u64, u32)>,
    pub versions: Vec<u64>,
}

enum Due {
    Session(u8),
    Lease(u8, u64),
    LockWait(u8, u64),
    PopWait(u8, u64),
    Letter(u64),
    Line(u64),
}

/// What somebody left: others may be next there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Left {
    Lock(u8),
    Queue(u8),
}

impl Oracle {
    pub fn new(level: Level, cache_bytes_max: u64) -> Oracle {
        Oracle { level, cache_bytes_max, ..Oracle::default() }
    }

    fn issue(&mut self) -> u64 {
        self.issued += 1;
        self.issued
    }

    /// Lets all happen that is due, first things first.
    pub fn fire(&mut self, now: u64) {
        self.now = now;
        while let Some(due) = self.first_due() {
            match due {
                Due::Session(n) => self.end(n),
                Due::Lease(name, fence) => {
                    self.holds.entry(name).or_default().retain(|h| h.fence != fence);
                    self.advance_lock(name);
                }
                Due::LockWait(name, ticket) => {
                    let waits = self.lock_waits.entry(name).or_default();
                    let wait = take(waits, |w| w.ticket == ticket);
                    let timeout = self.held(name, Code::LockTimeout);
                    self.wake(&wait, timeout);
                    self.advance_lock(name);
                }
                Due::PopWait(name, ticket) => {
                    let waits = self.pop_waits.entry(name).or_default();
                    let wait = take(waits, |w| w.ticket == ticket);
                    self.wake(&wait, Outcome::refused(Code::QueueEmpty));
                }
                Due::Letter(id) => {
                    let letter = self.letters.iter_mut().find(|l| l.id == id).expect("it is due");
                    letter.at = Where::Ready;
                    let name = letter.name;
                    self.advance_queue(name);
                }
                Due::Line(version) => self.lines.retain(|l| l.1 != version),
            }
        }
    }

    fn first_due(&self) -> Option<Due> {
        let mut all: Vec<(u64, u64, Due)> = Vec::new();
        all.extend(self.sessions.iter().map(|(n, s)| (s.deadline, s.number, Due::Session(*n))));
        for (name, holds) in &self.holds {
            all.extend(holds.iter().map(|h| (h.deadline, h.fence, Due::Lease(*name, h.fence))));
        }
        for (name, waits) in &self.lock_waits {
            let each = |w: &Wait| (w.deadline, w.ticket, Due::LockWait(*name, w.ticket));
            all.extend(waits.iter().map(each));
        }
        for (name, waits) in &self.pop_waits {
            let each = |w: &Wait| (w.deadline, w.ticket, Due::PopWait(*name, w.ticket));
            all.extend(waits.iter().map(each));
        }
        all.extend(self.letters.iter().filter_map(|l| match l.at {
            Where::Ready => None,
            Where::Held { deadline, .. } | Where::Delayed { deadline } => {
                Some((deadline, l.id, Due::Letter(l.id)))
            }
        }));
        all.extend(self.lines.iter().map(|l| (l.2, l.1, Due::Line(l.1))));
        let first = all.into_iter().min_by_key(|(deadline, number, _)| (*deadline, *number))?;
        (first.0 <= self.now && first.0 != NEVER).then_some(first.2)
    }

    pub fn open(&mut self, n: u8, ttl: u64) -> Outcome {
        if self.ended.contains(&n) {
            return Outcome::refused(Code::SessionUnknown);
        }
        if self.sessions.contains_key(&n) {
            self.renew(n);
        } else {
            let (number, deadline) = (self.issue(), self.now + ttl * 5 / 4);
            let (answered_below, calls) = (0, BTreeMap::new());
            self.sessions.insert(n, Owner { number, ttl, deadline, answered_below, calls });
        }
        Outcome::Done { token: 0 }
    }

    pub fn renew(&mut self, n: u8) {
        if let Some(session) = self.sessions.get_mut(&n) {
            session.deadline = self.now + session.ttl * 5 / 4;
        }
    }

    pub fn end(&mut self, n: u8) {
        if !self.sessions.contains_key(&n) {
            return;
        }
        // What it leaves behind, by number: locks and queues mixed.
        let mut left: Vec<(u64, Left)> = Vec::new();
        let mut mine: Vec<Wait> = Vec::new();
        for (name, waits) in &mut self.lock_waits {
            let own = waits.iter().filter(|w| w.session == n);
            left.extend(own.map(|w| (w.ticket, Left::Lock(*name))));
            mine.extend(waits.extract_if(.., |w| w.session == n));
        }
        for (name, waits) in &mut self.pop_waits {
            let own = waits.iter().filter(|w| w.session == n);
            left.extend(own.map(|w| (w.ticket, Left::Queue(*name))));
            mine.extend(waits.extract_if(.., |w| w.session == n));
        }
        mine.sort_by_key(|w| w.ticket);
        mine.iter().for_each(|w| self.wake(w, Outcome::refused(Code::SessionUnknown)));
        for (name, holds) in &mut self.holds {
            let own = holds.iter().filter(|h| h.session == n);
            left.extend(own.map(|h| (h.fence, Left::Lock(*name))));
            holds.retain(|h| h.session != n);
        }
        for letter in &mut self.letters {
            if matches!(letter.at, Where::Held { session, .. } if session == n) {
                letter.at = Where::Ready;
                left.push((letter.id, Left::Queue(letter.name)));
            }
        }
        self.sessions.remove(&n);
        self.ended.insert(n);
        left.sort_unstable();
        for (_, left) in left {
            match left {
                Left::Lock(name) => self.advance_lock(name),
                Left::Queue(name) => self.advance_queue(name),
            }
        }
    }

    /// Tells whoever waited, who is no longer in any line.
    fn wake(&mut self, wait: &Wait, outcome: Outcome) {
        let session = self.sessions.get_mut(&wait.session).expect("a waiter's session lives");
        if wait.sequence >= session.answered_below {
            session.calls.insert(wait.sequence, Some(outcome.clone()));
        }
        self.wakes.push(Wake { session: id(wait.session), sequence: wait.sequence, outcome });
    }

    /// A refusal, with how things stood where the level knows that.
    fn refused(&self, code: Code, detail: Option<Detail<'static>>) -> Outcome {
        let detail = detail.filter(|_| self.level >= Level::DETAIL);
        Outcome::Refused { code, detail: detail.map(Box::new) }
    }

    /// A refusal that names who has held a lock for longest.
    fn held(&self, name: u8, code: Code) -> Outcome {
        let oldest = self.holds.get(&name).into_iter().flatten().next();
        let mode = |hold: &Hold| match hold.exclusive {
            true => LockMode::Exclusive,
            false => LockMode::Shared,
        };
        let holder = |hold: &Hold| Detail::Holder { fence: hold.fence, mode: mode(hold) };
        self.refused(code, oldest.map(holder))
    }

    /// Why a waiter can't be served.
    fn over(&self, wait: &Wait, timeout: Code) -> Option<Outcome> {
        if self.sessions[&wait.session].deadline <= self.now {
            return Some(Outcome::refused(Code::SessionUnknown));
        }
        (wait.deadline <= self.now).then_some(Outcome::refused(timeout))
    }

    fn advance_lock(&mut self, name: u8) {
        while let Some(wait) = self.lock_waits.entry(name).or_default().first().cloned() {
            let over = self.over(&wait, Code::LockTimeout);
            if over.is_none() && !self.admits(name, wait.exclusive) {
                return;
            }
            self.lock_waits.entry(name).or_default().remove(0);
            if let Some(over) = over {
                self.wake(&wait, over);
                continue;
            }
            let outcome = self.grant(name, wait.session, wait.exclusive, wait.span);
            self.wake(&wait, outcome);
            let waits = self.lock_waits.entry(name).or_default();
            let others: Vec<Wait> =
                waits.extract_if(.., |other| other.session == wait.session).collect();
            for other in others {
                let outcome = match self.over(&other, Code::LockTimeout) {
                    Some(over) => over,
                    None => self.again(name, other.session, other.exclusive, other.span),
                };
                self.wake(&other, outcome);
            }
        }
    }

    fn admits(&self, name: u8, exclusive: bool) -> bool {
        let mut holds = self.holds.get(&name).into_iter().flatten();
        holds.all(|hold| !hold.exclusive && !exclusive)
    }

    fn lease(&self, span: u64) -> u64 {
        if span == 0 { NEVER } else { self.now + span }
    }

    fn grant(&mut self, name: u8, session: u8, exclusive: bool, lease: u64) -> Outcome {
        let fence = self.issue();
        assert!(self.fences.iter().all(|earlier| *earlier < fence), "fences rise");
        self.fences.push(fence);
        let deadline = self.lease(lease);
        let hold = Hold { session, fence, count: 1, deadline, exclusive };
        self.holds.entry(name).or_default().push(hold);
        Outcome::Done { token: fence }
    }

    fn again(&mut self, name: u8, session: u8, exclusive: bool, lease: u64) -> Outcome {
        let deadline = self.lease(lease);
        let holds = self.holds.get_mut(&name).expect("it is held");
        let hold = holds.iter_mut().find(|hold| hold.session == session).expect("it is held");
        if exclusive && !hold.exclusive {
            return self.held(name, Code::LockHeld);
        }
        hold.count += 1;
        hold.deadline = hold.deadline.max(deadline);
        Outcome::Done { token: hold.fence }
    }

    fn advance_queue(&mut self, name: u8) {
        while let Some(wait) = self.pop_waits.entry(name).or_default().first().cloned() {
            if !self.letters.iter().any(|l| l.name == name && l.at == Where::Ready) {
                return;
            }
            self.pop_waits.entry(name).or_default().remove(0);
            let outcome = match self.over(&wait, Code::QueueEmpty) {
                Some(over) => over,
                None => self.deliver(name, wait.session, wait.span),
            };
            self.wake(&wait, outcome);
        }
    }

    fn deliver(&mut self, name: u8, session: u8, visibility: u64) -> Outcome {
        let deadline = self.now + visibility;
        let ready = self.letters.iter_mut().filter(|l| l.name == name && l.at == Where::Ready);
        let letter = ready.min_by_key(|l| (l.priority, l.id)).expect("one is ready");
        letter.delivery += 1;
        letter.at = Where::Held { session, deadline };
        self.deliveries.push((letter.id, letter.delivery));
        Outcome::Delivered { id: letter.id, delivery: letter.delivery }
    }
}

fn take(waits: &mut Vec<Wait>, which: impl Fn(&Wait) -> bool) -> Wait {
    let at = waits.iter().position(which).expect("it waits");
    waits.remove(at)
}
