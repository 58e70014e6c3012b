//! Random histories in which timers are late: thousands of lines that ended before all else keep
//! the entries busy, for a while or to the end. A client must not be able to tell: whatever
//! was due has no force, and whatever was not due has.

use super::kit::*;
use crate::level::Level;
use crate::machine::{Applied, MachineConfig, Outcome};
use crate::time::{Elapsed, millis};
use proptest::prelude::*;
use std::collections::BTreeMap;
use wire::Code;

/// The session that keeps the timers busy.
const CROWD: u8 = 99;

#[derive(Clone, Copy, Debug)]
enum Step {
    Pass { ms: u32 },
    Renew { session: u8 },
    Acquire { session: u8, name: u8, exclusive: bool, wait_ms: u32, lease_ms: u32 },
    Release { session: u8, name: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    let (session, name) = (1..5u8, 0..2u8);
    let span = prop_oneof![Just(0u32), 1..10u32, 300..900u32];
    prop_oneof![
        4 => prop_oneof![1..5u32, 200..400u32].prop_map(|ms| Step::Pass { ms }),
        2 => session.clone().prop_map(|session| Step::Renew { session }),
        8 => (session.clone(), name.clone(), any::<bool>(), span.clone(), span).prop_map(
            |(session, name, exclusive, wait_ms, lease_ms)| Step::Acquire {
                session, name, exclusive, wait_ms, lease_ms,
            }),
        4 => (session, name).prop_map(|(session, name)| Step::Release { session, name }),
    ]
}

/// A grant, or a wait, as the clients saw it.
#[derive(Clone, Debug)]
struct Claim {
    name: u8,
    session: u8,
    exclusive: bool,
    /// Of the lease, or of the wait.
    deadline: Elapsed,
    fence: u64,
    count: u32,
    sequence: u64,
    lease_ms: u32,
}

struct Witness {
    kit: Kit,
    session_ends: BTreeMap<u8, Elapsed>,
    holds: Vec<Claim>,
    waits: Vec<Claim>,
    fence: u64,
}

impl Witness {
    /// So many lines are due after a millisecond.
    fn new(crowd: u64, level: Level) -> Witness {
        let mut kit =
            Kit::with(MachineConfig { cluster: 5, cache_bytes_max: 1 << 30, secret: SECRET });
        kit.verify = Verify::Never;
        kit.raise(level);
        kit.open_for(CROWD, 600_000);
        for n in 0..crowd {
            kit.answered_below = n;
            token(kit.put_if(CROWD, &n.to_string(), b"", 1, (0, 0)));
        }
        kit.answered_below = 0;
        let mut session_ends = BTreeMap::new();
        for n in 1..5 {
            kit.open_for(n, 1_000);
            session_ends.insert(n, at(1_250));
        }
        Witness { kit, session_ends, holds: Vec::new(), waits: Vec::new(), fence: 0 }
    }

    fn lives(&self, session: u8) -> bool {
        self.session_ends[&session] > self.kit.now
    }

    /// Forgets claims that have no force any more.
    fn forget(&mut self) {
        let (now, ends) = (self.kit.now, &self.session_ends);
        let force = |claim: &Claim| claim.deadline > now && ends[&claim.session] > now;
        self.holds.retain(force);
        self.waits.retain(force);
    }

    fn granted(&mut self, mut claim: Claim, fence: u64) {
        claim.deadline = match claim.lease_ms {
            0 => Elapsed::MAX,
            ms => self.kit.now + millis(ms),
        };
        let held = self.holds.iter_mut().find(|h| h.fence == fence);
        if let Some(held) = held {
            assert_eq!(
                (held.session, held.name),
                (claim.session, claim.name),
                "one fence, one grant"
            );
            assert!(held.exclusive || !claim.exclusive, "shared does not cover exclusive");
            held.count += 1;
            held.deadline = held.deadline.max(claim.deadline);
            return;
        }
        let rivals = self.holds.iter().filter(|h| h.name == claim.name);
        for rival in rivals {
            assert!(
                !rival.exclusive && !claim.exclusive,
                "{rival:?} still holds against {claim:?}"
            );
        }
        assert!(fence > self.fence, "fences rise");
        (self.fence, claim.fence) = (fence, fence);
        self.holds.push(claim);
    }

    fn hear(&mut self) {
        for (session, sequence, outcome) in self.kit.wakes() {
            let same = |w: &Claim| w.session == session && w.sequence == sequence;
            let wait = self.waits.iter().position(same).map(|at| self.waits.remove(at));
            match outcome {
                Outcome::Done { token } => {
                    self.granted(wait.expect("only one whose wait has force is granted"), token);
                }
                Outcome::Refused { code: Code::LockHeld, .. } => {
                    assert!(wait.is_some_and(|wait| wait.exclusive), "it holds it shared");
                }
                Outcome::Refused { .. } => assert!(wait.is_none(), "{wait:?} is not over"),
                Outcome::Delivered { .. } => panic!("nobody popped"),
            }
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Pass { ms } => self.kit.pass(ms),
            Step::Renew { session } => {
                self.forget();
                self.kit.renew(&[session]);
                if self.lives(session) {
                    self.session_ends.insert(session, self.kit.now + millis(1_250));
                }
                self.hear();
            }
            Step::Acquire { session, name, exclusive, wait_ms, lease_ms } => {
                self.forget();
                self.acquire(session, name, exclusive, wait_ms, lease_ms);
            }
            Step::Release { session, name } => {
                self.forget();
                self.release(session, name);
            }
        }
    }

    fn acquire(&mut self, session: u8, name: u8, exclusive: bool, wait_ms: u32, lease_ms: u32) {
        let mode = if exclusive { EXCLUSIVE } else { SHARED };
        let applied = self.kit.acquire(session, &name.to_string(), mode, wait_ms, lease_ms);
        self.hear();
        let sequence = self.kit.sequences[&session];
        let deadline = self.kit.now + millis(wait_ms);
        let claim =
            Claim { name, session, exclusive, deadline, fence: 0, count: 1, sequence, lease_ms };
        match applied {
            Applied::Done(Outcome::Done { token }) => self.granted(claim, token),
            Applied::Done(Outcome::Refused { code: Code::SessionUnknown, .. }) => {
                assert!(!self.lives(session))
            }
            Applied::Done(Outcome::Refused { code: Code::LockHeld, .. }) | Applied::Waiting => {
                let rival = |other: &Claim| other.name == name && (exclusive || other.exclusive);
                let waits = self.waits.iter().any(|wait| wait.name == name);
                assert!(waits || self.holds.iter().any(rival), "nothing with force is in its way");
                if applied == Applied::Waiting {
                    self.waits.push(claim);
                }
            }
            other => panic!("an acquire does not give {other:?}"),
        }
    }

    fn release(&mut self, session: u8, name: u8) {
        let same = |h: &Claim| h.session == session && h.name == name;
        let held = self.holds.iter().position(same);
        let fence = held.map_or(1, |at| self.holds[at].fence);
        let applied = self.kit.release(session, &name.to_string(), fence);
        match (applied, held) {
            (Applied::Done(Outcome::Done { .. }), Some(at)) => {
                self.holds[at].count -= 1;
                if self.holds[at].count == 0 {
                    self.holds.remove(at);
                }
            }
            (Applied::Done(Outcome::Refused { code: Code::NotHolder, .. }), None) => {}
            // A wait that this very call gave its due may have been granted just now.
            (Applied::Done(Outcome::Refused { code: Code::StaleFence, .. }), None) => {}
            (Applied::Done(Outcome::Refused { code: Code::SessionUnknown, .. }), None) => {
                assert!(!self.lives(session));
            }
            other => panic!("a release does not give {other:?}"),
        }
        self.hear();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nobody_can_tell_that_timers_are_late(
        level in 1..=Level::NEWEST.0,
        crowd in prop_oneof![Just(0u64), 1..20_000u64],
        steps in prop::collection::vec(step(), 1..100),
    ) {
        let mut witness = Witness::new(crowd, Level(level));
        for step in steps {
            witness.step(step);
        }
        witness.kit.machine.verify();
    }
}
