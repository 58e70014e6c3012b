//! Claims about limits: each is reached, and refused by its own code.

use super::kit::*;
use crate::entry::kind;
use crate::ids::SessionId;
use crate::level::Level;
use crate::limits::{
    GRANTS_MAX, SESSIONS_ENDED_MAX, SESSIONS_MAX, SESSIONS_REMEMBERED_MAX, WAITERS_MAX,
};
use crate::machine::{Applied, Machine};
use crate::time::Elapsed;
use wire::limits::{SESSION_ENDED_MS, WINDOW_REPLIES_MAX};
use wire::message::{LockAcquire, SessionClose, SessionOpen};
use wire::{Call, Code};

fn session(n: usize) -> [u8; 16] {
    let mut id = [1; 16];
    id[..8].copy_from_slice(&(n as u64 + 1).to_be_bytes());
    id
}

fn open(machine: &mut Machine, n: usize) -> Applied {
    let mut b = Vec::new();
    SessionOpen { session: session(n), ttl_ms: 60_000 }.encode(&mut b);
    machine.apply(Elapsed::ZERO, SessionOpen::KIND, &b, &mut Vec::new())
}

fn close(machine: &mut Machine, n: usize) {
    let mut b = Vec::new();
    SessionClose { session: session(n) }.encode(&mut b);
    machine.apply(Elapsed::ZERO, SessionClose::KIND, &b, &mut Vec::new());
}

fn raise(machine: &mut Machine, level: Level) {
    machine.apply(Elapsed::ZERO, kind::LEVEL, &level.encode(), &mut Vec::new());
}

fn acquire(machine: &mut Machine, n: usize, sequence: u64) -> Applied {
    let (session, answered_below, name) = (session(n), 0, &b"l"[..]);
    let (wait_ms, lease_ms, mode) = (60_000, 0, EXCLUSIVE);
    let mut b = Vec::new();
    LockAcquire { call: Call { session, sequence, answered_below }, wait_ms, lease_ms, mode, name }
        .encode(&mut b);
    machine.apply(Elapsed::ZERO, LockAcquire::KIND, &b, &mut Vec::new())
}

#[test]
fn sessions_are_limited() {
    let mut machine = Machine::new(CONFIG);
    for n in 0..SESSIONS_MAX {
        assert_eq!(open(&mut machine, n), done(0));
    }
    assert_eq!(open(&mut machine, SESSIONS_MAX), refused(Code::StateFull));
    assert_eq!(open(&mut machine, 0), done(0), "one that is open stays open");
    close(&mut machine, 0);
    assert_eq!(open(&mut machine, SESSIONS_MAX), done(0));
}

#[test]
fn the_ended_sessions_that_are_remembered_are_limited() {
    let mut machine = Machine::new(CONFIG);
    for n in 0..=SESSIONS_ENDED_MAX {
        open(&mut machine, n);
        close(&mut machine, n);
    }
    assert_eq!(open(&mut machine, 1), refused(Code::SessionUnknown));
    assert_eq!(open(&mut machine, 0), done(0), "the first that ended is the first forgotten");
}

#[test]
fn sessions_that_ended_are_remembered_up_to_a_limit_and_none_is_opened_past_it() {
    let mut machine = Machine::new(CONFIG);
    raise(&mut machine, Level::BOUNDED);
    open(&mut machine, 0);
    for n in 1..SESSIONS_REMEMBERED_MAX {
        assert_eq!(open(&mut machine, n), done(0));
        close(&mut machine, n);
    }
    assert_eq!(open(&mut machine, SESSIONS_REMEMBERED_MAX), refused(Code::Busy));
    assert_eq!(open(&mut machine, 1), refused(Code::SessionUnknown), "each is remembered");
    assert_eq!(open(&mut machine, 0), done(0), "one that is open stays open");
    // Once the oldest are forgotten there is room again.
    let later = at(SESSION_ENDED_MS.into());
    machine.apply(later, kind::TICK, &[], &mut Vec::new());
    let mut b = Vec::new();
    SessionOpen { session: session(SESSIONS_REMEMBERED_MAX), ttl_ms: 60_000 }.encode(&mut b);
    let opened = machine.apply(later, SessionOpen::KIND, &b, &mut Vec::new());
    assert_eq!(opened, done(0));
}

#[test]
fn grants_and_calls_that_wait_for_one_are_limited_together() {
    for (level, full) in [(Level::BOUNDED, true), (Level(Level::BOUNDED.0 - 1), false)] {
        let mut kit = Kit::open_to(2);
        kit.raise(level);
        kit.verify = Verify::Never;
        let fence = token(kit.acquire(1, "held", EXCLUSIVE, 0, 0));
        // So many wait, as far as the sum of them knows: the calls themselves would take gigabytes.
        kit.machine.ledger.pretend_lock_waiters(GRANTS_MAX as u64 - 2);
        let last = token(kit.acquire(1, "last", EXCLUSIVE, 0, 0));
        assert_eq!(kit.acquire(2, "new", EXCLUSIVE, 0, 0) == refused(Code::StateFull), full);
        assert_eq!(kit.acquire(2, "held", SHARED, 60_000, 0) == refused(Code::StateFull), full);
        assert_eq!(token(kit.acquire(1, "held", EXCLUSIVE, 0, 0)), fence, "it is held already");
        assert_eq!(kit.release(1, "last", last), done(0));
        token(kit.acquire(2, "last", EXCLUSIVE, 0, 0));
    }
}

#[test]
fn waiters_are_limited() {
    let mut machine = Machine::new(CONFIG);
    open(&mut machine, 0);
    token(acquire(&mut machine, 0, 1));
    let each = WINDOW_REPLIES_MAX as usize;
    for n in 0..WAITERS_MAX {
        let who = 1 + n / each;
        if n % each == 0 {
            open(&mut machine, who);
        }
        assert_eq!(acquire(&mut machine, who, 1 + (n % each) as u64), Applied::Waiting);
    }
    let last = WAITERS_MAX / each + 1;
    open(&mut machine, last);
    assert_eq!(acquire(&mut machine, last, 1), refused(Code::WaitersFull));
    machine.verify();
    // The end of the holder and of every waiter but the last is no harder than one by one.
    for n in 0..last - 1 {
        close(&mut machine, n);
    }
    machine.verify();
    assert!(machine.session_ttl(SessionId(session(last))).is_some());
    assert_eq!(machine.status().lock_waiters, 0, "a grant answers all calls of its session");
}
