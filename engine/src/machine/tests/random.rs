//! Random histories: the machine against its dumb twin, against its own snapshots, and against itself.

use super::kit::*;
use super::oracle::{Op, Oracle};
use crate::level::Level;
use crate::machine::{Applied, Machine, MachineConfig, Slice, SliceProgress, View};
use crate::secret::Secret;
use proptest::prelude::*;

/// A few lines fit, so that eviction happens.
const SMALL: MachineConfig = MachineConfig { cluster: 3, cache_bytes_max: 500, secret: SECRET };

/// One step of a history.
#[derive(Clone, Copy, Debug)]
enum Step {
    Pass {
        ms: u32,
    },
    Open {
        session: u8,
        ttl_ms: u32,
    },
    Close {
        session: u8,
    },
    Renew {
        session: u8,
    },
    /// A new call, or one of the last ones again.
    Call {
        session: u8,
        again: u64,
        forget: u64,
        op: Op,
    },
    /// Goes on with what a snapshot restores.
    Restore,
    /// Begins a snapshot, or goes on with the one that was begun.
    Slice {
        rows: usize,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let name = 0..3u8;
    let time = prop_oneof![Just(0u64), 1..20u64, 100..3_000u64];
    let some = prop_oneof![1..20u64, 100..3_000u64];
    let back = 0..3usize;
    let expect = prop_oneof![4 => Just(0u8), 1 => Just(1), 2 => Just(2)];
    prop_oneof![
        4 => (name.clone(), any::<bool>(), time.clone(), time.clone())
            .prop_map(|(name, exclusive, wait, lease)| Op::Acquire { name, exclusive, wait, lease }),
        4 => (name.clone(), back.clone()).prop_map(|(name, back)| Op::Release { name, back }),
        3 => (name.clone(), 0..3u8).prop_map(|(name, priority)| Op::Push { name, priority }),
        3 => (name.clone(), time.clone(), some)
            .prop_map(|(name, wait, visibility)| Op::Pop { name, wait, visibility }),
        2 => (name.clone(), back.clone()).prop_map(|(name, back)| Op::Ack { name, back }),
        2 => (name.clone(), back.clone(), time.clone())
            .prop_map(|(name, back, delay)| Op::Nack { name, back, delay }),
        3 => (0..6u8, prop_oneof![0..200usize, 380..420usize], time, expect, back.clone())
            .prop_map(|(name, size, ttl, expect, back)| Op::Put { name, size, ttl, expect, back }),
        1 => (0..6u8, prop_oneof![Just(0u8), Just(2)], back)
            .prop_map(|(name, expect, back)| Op::Delete { name, expect, back }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let session = 1..5u8;
    let again = prop_oneof![6 => Just(0u64), 1 => 1..4u64];
    let forget = prop_oneof![8 => Just(u64::MAX), 1 => 0..4u64];
    prop_oneof![
        6 => prop_oneof![0..20u32, 100..1_500u32].prop_map(|ms| Step::Pass { ms }),
        // The twin counts whole milliseconds, and a session lives a quarter longer than its TTL.
        3 => (1..9u8, 250..1_000u32)
            .prop_map(|(session, quarter_ms)| Step::Open { session, ttl_ms: 4 * quarter_ms }),
        1 => (1..9u8).prop_map(|session| Step::Close { session }),
        4 => session.clone().prop_map(|session| Step::Renew { session }),
        30 => (session, again, forget, op())
            .prop_map(|(session, again, forget, op)| Step::Call { session, again, forget, op }),
        1 => Just(Step::Restore),
        8 => prop_oneof![3 => 1..4usize, 1 => 20..60usize].prop_map(|rows| Step::Slice { rows }),
    ]
}

/// The machine under test, one that is never restored, and the twin.
struct Trio {
    kit: Kit,
    steady: Kit,
    oracle: Oracle,
    /// What a snapshot that was begun is to come to, and what it came to so far.
    sliced: Option<(Vec<u8>, Vec<u8>)>,
}

impl Trio {
    fn new(level: Level) -> Trio {
        let oracle = Oracle::new(level, SMALL.cache_bytes_max);
        let (mut kit, mut steady) = (Kit::with(SMALL), Kit::with(SMALL));
        kit.raise(level);
        steady.raise(level);
        Trio { kit, steady, oracle, sliced: None }
    }

    /// Lets both machines and the twin do the same, and holds their answers equal.
    fn both(&mut self, each: impl Fn(&mut Kit) -> Applied, twin: impl Fn(&mut Oracle) -> Applied) {
        let got = each(&mut self.kit);
        assert_eq!(got, each(&mut self.steady), "a restore changes nothing");
        self.oracle.fire(self.kit.now.0 / 1_000_000);
        assert_eq!(got, twin(&mut self.oracle), "the twin says so too");
        let wakes = std::mem::take(&mut self.kit.wakes);
        assert_eq!(
            wakes,
            std::mem::take(&mut self.oracle.wakes),
            "the same are told, in one order"
        );
        assert_eq!(wakes, std::mem::take(&mut self.steady.wakes), "a restore changes no order");
        for name in 0..6 {
            let key = name_of(name);
            match self.kit.machine.get(key.as_bytes(), self.kit.now) {
                View::Line { version, .. } => assert_eq!(Some(version), self.oracle.line(name)),
                View::Refused(_) => assert_eq!(None, self.oracle.line(name)),
                View::Due => panic!("what is due has fired"),
            }
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Pass { ms } => {
                self.kit.pass(ms);
                self.steady.pass(ms);
                let tick = crate::entry::kind::TICK;
                self.both(move |kit| kit.apply(tick, &[]), |_| Applied::Nothing);
            }
            Step::Open { session, ttl_ms } => self.both(
                |kit| kit.open_for(session, ttl_ms),
                |twin| Applied::Done(twin.open(session, ttl_ms.into())),
            ),
            Step::Close { session } => self.both(
                |kit| kit.close(session),
                |twin| {
                    twin.end(session);
                    done(0)
                },
            ),
            Step::Renew { session } => self.both(
                |kit| {
                    kit.renew(&[session]);
                    Applied::Nothing
                },
                |twin| {
                    twin.renew(session);
                    Applied::Nothing
                },
            ),
            Step::Call { session, again, forget, op } => self.call(session, again, forget, op),
            Step::Slice { rows } => self.slice(rows),
            Step::Restore => {
                self.sliced = None;
                let bytes = self.kit.snapshot();
                assert_eq!(bytes, self.steady.snapshot(), "equal state gives equal bytes");
                // Another process, with another secret.
                let secret = Secret::new([bytes.len() as u8; 16]);
                self.kit.machine = Machine::restore(MachineConfig { secret, ..SMALL }, &bytes)
                    .expect("it is a snapshot");
                self.kit.machine.verify();
                assert_eq!(bytes, self.kit.snapshot(), "a restore gives equal state");
            }
        }
    }

    /// The bytes of slices are those of the moment at which the first was made.
    fn slice(&mut self, rows: usize) {
        let machine = &mut self.kit.machine;
        let Some((whole, mut bytes)) = self.sliced.take() else {
            let (whole, mut bytes) = (self.kit.snapshot(), Vec::new());
            self.kit.machine.snapshot_begin(&mut bytes);
            self.sliced = Some((whole, bytes));
            return;
        };
        match machine.snapshot_slice(Slice { rows, ..Slice::WHOLE }, &mut bytes) {
            SliceProgress::More => self.sliced = Some((whole, bytes)),
            SliceProgress::Done => {
                assert_eq!(
                    self.kit.sorted(&bytes),
                    whole,
                    "slices give the rows of their beginning"
                );
            }
        }
    }

    fn call(&mut self, session: u8, again: u64, forget: u64, op: Op) {
        let last = self.kit.sequences.get(&session).copied().unwrap_or(0);
        let sequence = if again == 0 { last + 1 } else { last.saturating_sub(again - 1).max(1) };
        let ahead = last.max(sequence);
        for kit in [&mut self.kit, &mut self.steady] {
            kit.sequences.insert(session, ahead);
            kit.answered_below = sequence.saturating_sub(forget.min(200));
        }
        let below = self.kit.answered_below;
        let twin_op = self.concrete(op);
        let deliveries = self.oracle.deliveries.clone();
        self.both(
            |kit| call(kit, session, sequence, twin_op, &deliveries),
            |twin| twin.call(session, sequence, below, twin_op),
        );
    }

    /// What an operation refers back to: the fence, the delivery's place, the version.
    fn concrete(&self, op: Op) -> Op {
        let nth_last = |list: &[u64], back: usize| {
            let at = list.len().checked_sub(back + 1);
            at.map_or(0, |at| list[at]) as usize
        };
        let delivery = |back: usize| self.oracle.deliveries.len().saturating_sub(back + 1);
        match op {
            Op::Release { name, back } => {
                Op::Release { name, back: nth_last(&self.oracle.fences, back) }
            }
            Op::Ack { name, back } => Op::Ack { name, back: delivery(back) },
            Op::Nack { name, back, delay } => Op::Nack { name, back: delivery(back), delay },
            Op::Put { name, size, ttl, expect, back } => {
                let back = nth_last(&self.oracle.versions, back);
                Op::Put { name, size, ttl, expect, back }
            }
            Op::Delete { name, expect, back } => {
                Op::Delete { name, expect, back: nth_last(&self.oracle.versions, back) }
            }
            other => other,
        }
    }
}

fn name_of(name: u8) -> String {
    char::from(b'a' + name).to_string()
}

/// Sends a concrete operation to a machine.
fn call(kit: &mut Kit, n: u8, sequence: u64, op: Op, deliveries: &[(u64, u32)]) -> Applied {
    let ms = |time: u64| u32::try_from(time).expect("times are short");
    let delivery = |at: usize| deliveries.get(at).copied().unwrap_or((0, 0));
    // The kit's helpers take the next sequence by themselves.
    let ahead = kit.sequences.insert(n, sequence - 1);
    let applied = match op {
        Op::Acquire { name, exclusive, wait, lease } => {
            let mode = if exclusive { EXCLUSIVE } else { SHARED };
            kit.acquire(n, &name_of(name), mode, ms(wait), ms(lease))
        }
        Op::Release { name, back } => kit.release(n, &name_of(name), back as u64),
        Op::Push { name, priority } => kit.push(n, &name_of(name), priority, b"payload"),
        Op::Pop { name, wait, visibility } => kit.pop(n, &name_of(name), ms(wait), ms(visibility)),
        Op::Ack { name, back } => kit.ack(n, &name_of(name), delivery(back)),
        Op::Nack { name, back, delay } => kit.nack(n, &name_of(name), delivery(back), ms(delay)),
        Op::Put { name, size, ttl, expect, back } => {
            kit.put_if(n, &name_of(name), &vec![7; size], ms(ttl), (expect, back as u64))
        }
        Op::Delete { name, expect, back } => kit.delete(n, &name_of(name), (expect, back as u64)),
    };
    kit.sequences.insert(n, ahead.expect("the caller set it"));
    applied
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_machine_and_its_twin_agree(
        level in 1..=Level::NEWEST.0,
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let mut trio = Trio::new(Level(level));
        for session in 1..5 {
            trio.step(Step::Open { session, ttl_ms: 4_000 });
        }
        for step in steps {
            trio.step(step);
        }
        while trio.sliced.is_some() {
            trio.step(Step::Slice { rows: 2 });
        }
        trio.step(Step::Restore);
    }

    #[test]
    fn a_damaged_snapshot_is_refused(at in 0..10_000usize, bit in 0..8u8) {
        let mut kit = Kit::open_to(2);
        kit.acquire(1, "l", EXCLUSIVE, 0, 500);
        kit.acquire(2, "l", SHARED, 500, 500);
        kit.push(1, "q", 0, b"m");
        kit.pop(1, "q", 0, 500);
        kit.put(1, "k", b"v");
        let mut bytes = kit.snapshot();
        let at = at % bytes.len();
        prop_assert!(Machine::restore(CONFIG, &bytes[..at]).is_err());
        bytes[at] ^= 1 << bit;
        prop_assert!(Machine::restore(CONFIG, &bytes).is_err());
    }

    #[test]
    fn garbage_is_refused_and_changes_nothing(
        kind in 0..0x60u16,
        body in prop::collection::vec(any::<u8>(), 0..120),
    ) {
        let mut kit = Kit::open_to(1);
        let before = kit.snapshot();
        let applied = kit.apply(wire::Kind(kind), &body);
        if let Err(code) = wire::Request::view(wire::Kind(kind), &body) {
            prop_assert_eq!(applied, refused(code));
            prop_assert_eq!(before, kit.snapshot());
        }
    }
}
