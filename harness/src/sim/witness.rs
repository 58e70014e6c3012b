//! Compares a shard's [`Twin`] with what clients were told, with what replicas hold, and with the world's time.
//!
//! - A call is answered as the log says: nothing else is a linearization that its clients could not dispute, since an
//!   entry is committed between a call and its answer.
//! - A read shows its line as it was at some moment between the question and the answer.
//! - Equal index, equal sums: sessions, locks, waiters, messages in each place, lines.
//! - What ends by itself is gone by the world's time, too: at most as late as docs/protocol.md says.

use super::calls::{Did, Saw};
use super::stranger::is_strange;
use super::twin::{Answer, Ask, Id, Place, Span, Stood, Token, Twin};
use engine::status::MachineStatus;
use engine::time::{Duration, Time};
use std::collections::BTreeSet;
use wire::message::LockMode;
use wire::{Code, Detail};

/// How late something may end: what an entry takes to be committed where nothing is wrong for long.
const GRACE: Duration = Duration::from_millis(1_000);

/// A call that was answered.
pub struct Answered<'a> {
    pub did: &'a Did,
    pub session: Id,
    pub sequence: u64,
    pub invoked: Time,
    pub replied: Time,
    pub saw: Saw,
    /// How things stood that it was refused for, if it was told.
    pub stood: Option<Detail<'a>>,
}

impl Twin {
    /// Whether the log explains an answer.
    ///
    /// # Errors
    /// That it does not, in words.
    pub fn explain(&mut self, call: &Answered<'_>) -> Result<(), String> {
        let (session, sequence, saw) = (call.session, call.sequence, call.saw);
        let explained = match call.did {
            Did::Get { .. } => return self.explain_read(call),
            Did::Close { .. } => !self.lives(session),
            Did::Reopen { session, .. } => self.explain_opening(*session, call),
            _ => match (saw, self.answers.get(&(session, sequence)).copied()) {
                (Saw::Refused(Code::SessionUnknown), _) => !self.lives(session),
                (Saw::Refused(Code::SequenceStale), _) => sequence < self.below(session),
                (Saw::Done { token: 0, .. }, Some(Answer::Done(None))) => true,
                (Saw::Done { token, .. }, Some(Answer::Done(Some(made)))) => {
                    return self.learn(made, token);
                }
                (Saw::Message { id, delivery, value, .. }, Some(Answer::Delivered { .. })) => {
                    let answer = self.answers[&(session, sequence)];
                    let Answer::Delivered { id: made, .. } = answer else { unreachable!() };
                    self.learn(made, id)?;
                    answer == Answer::Delivered { id: made, delivery, value }
                }
                // Its payload is gone with the delivery.
                (
                    Saw::Refused(Code::MessageUnknown),
                    Some(Answer::Delivered { id, delivery, .. }),
                ) => !self.is_in_flight(id, delivery),
                (Saw::Refused(code), Some(Answer::Refused(said, stood))) => {
                    code == said && self.explain_stood(stood, call.stood.as_ref())?
                }
                _ => false,
            },
        };
        match explained {
            true => Ok(()),
            false => Err(format!(
                "{:?} was answered {saw:?}, and the log says {:?}",
                call.did,
                self.answers.get(&(session, sequence))
            )),
        }
    }

    /// Whether a refusal says how things stood, and nothing else.
    fn explain_stood(
        &mut self,
        stood: Option<Stood>,
        said: Option<&Detail<'_>>,
    ) -> Result<bool, String> {
        match (stood, said) {
            (None, None) => Ok(true),
            (Some(Stood::Version(made)), Some(Detail::Version(version))) => {
                self.learn(made, *version).map(|()| true)
            }
            (
                Some(Stood::Holder { fence: made, exclusive }),
                Some(Detail::Holder { fence, mode }),
            ) => {
                self.learn(made, *fence)?;
                Ok(exclusive == (*mode == LockMode::Exclusive))
            }
            _ => Ok(false),
        }
    }

    fn explain_opening(&self, session: Id, call: &Answered<'_>) -> bool {
        let ended = self.ended.get(&session);
        match call.saw {
            Saw::Done { .. } => ended.is_none_or(|ended| *ended >= call.invoked),
            Saw::Refused(Code::SessionUnknown) => ended.is_some(),
            _ => false,
        }
    }

    /// A number is told under which the log made something.
    fn learn(&mut self, made: Token, number: u64) -> Result<(), String> {
        if let Some(known) = self.numbers.get(&made) {
            let same = *known == number;
            return if same { Ok(()) } else { Err(format!("{number} was told as {known} before")) };
        }
        if self.told.contains_key(&number) {
            return Err(format!("{number} was given twice"));
        }
        let before = self.told.range(..number).next_back().map(|(_, token)| token.index);
        let after = self.told.range(number..).next().map(|(_, token)| token.index);
        if before.is_some_and(|b| b > made.index) || after.is_some_and(|a| a < made.index) {
            return Err(format!("{number} does not rise with the log"));
        }
        self.numbers.insert(made, number);
        self.told.insert(number, made);
        Ok(())
    }

    fn explain_read(&mut self, call: &Answered<'_>) -> Result<(), String> {
        let past = self.past.get(&call.did.name()).map_or(&[][..], |past| past);
        let mut until = Time::MAX;
        for (from, was) in past.iter().rev().copied().chain([(Time(0), None)]) {
            let there = from <= call.replied && until >= call.invoked;
            match (call.saw, was) {
                (Saw::Refused(Code::KeyUnknown), None) if there => return Ok(()),
                (Saw::Line { version, value }, Some((made, is))) if there && is == value => {
                    return self.learn(made, version);
                }
                _ => {}
            }
            if from < call.invoked {
                break;
            }
            until = from;
        }
        let (did, saw) = (call.did, call.saw);
        Err(format!("{did:?} saw {saw:?}, and at no moment was that so: {past:?}"))
    }

    /// Whether a replica at the same index holds as many of everything.
    ///
    /// # Errors
    /// The sums.
    pub fn compare(&mut self, holds: &MachineStatus) -> Result<(), String> {
        let theirs = [
            holds.sessions,
            holds.locks,
            holds.lock_waiters,
            holds.messages_ready,
            holds.messages_in_flight,
            holds.messages_delayed,
            holds.lines,
        ];
        let all = self.sums.unwrap_or_else(|| self.count());
        self.sums = Some(all);
        match all == theirs {
            true => Ok(()),
            false => Err(format!(
                "at {} there are sessions, locks, waiters, messages ready, in flight and delayed, lines: \
                 {theirs:?}, and the log says {all:?}",
                self.index
            )),
        }
    }

    fn count(&self) -> [u64; 7] {
        let locks: BTreeSet<&[u8]> = self.grants.iter().map(|grant| &grant.lock[..]).collect();
        let waiters = self.waits.iter().filter(|wait| matches!(wait.ask, Ask::Lock { .. }));
        let placed = |places: fn(&Place) -> bool| {
            self.messages.iter().filter(|message| places(&message.place)).count()
        };
        [
            self.sessions.len(),
            locks.len(),
            waiters.count(),
            placed(|place| matches!(place, Place::Ready)),
            placed(|place| matches!(place, Place::InFlight { .. })),
            placed(|place| matches!(place, Place::Delayed(_))),
            self.lines.len(),
        ]
        .map(|count| count as u64)
    }

    /// Whether nothing that ends by itself is left, and nothing that anybody holds.
    pub fn is_at_rest(&self) -> bool {
        self.sessions.is_empty()
            && self.grants.is_empty()
            && self.waits.is_empty()
            && self.messages.iter().all(|message| is_strange(&message.queue))
            && self.messages.iter().all(|message| matches!(message.place, Place::Ready))
            && self.lines.iter().all(|line| line.span.lasts_ms == 0)
    }

    /// Holds that nothing is there any more that had to end.
    ///
    /// # Errors
    /// What is late.
    pub fn none_is_late(&self, now: Time) -> Result<(), String> {
        for session in &self.sessions {
            let Some(sign) = self.signs.get(&session.id) else { continue };
            // After a last sign of life, its time to live and half of it again.
            let lasts = Duration::from_millis(u64::from(session.ttl_ms) * 3 / 2);
            self.in_time_still("a session", *sign, lasts, now)?;
        }
        let grants = self.grants.iter().map(|grant| ("a lock's lease", grant.span));
        let waits = self.waits.iter().map(|wait| ("a wait", wait.span));
        let places = self.messages.iter().filter_map(|message| message.place.span());
        let places = places.map(|span| ("a visibility or a delay", span));
        let lines = self.lines.iter().map(|line| ("a line", line.span));
        for (what, span) in grants.chain(waits).chain(places).chain(lines) {
            if span.lasts_ms > 0 {
                let Span { latest, unable, lasts_ms, .. } = span;
                let lasts = Duration::from_millis(u64::from(lasts_ms));
                self.in_time_still(what, (latest, unable), lasts, now)?;
            }
        }
        Ok(())
    }

    fn in_time_still(
        &self,
        what: &str,
        (from, unable): (Time, Duration),
        lasts: Duration,
        now: Time,
    ) -> Result<(), String> {
        let stretched = lasts.as_nanos() * 1_000_000 / u128::from(1_000_000 - self.off_millionths);
        let most = Duration::from_nanos(u64::try_from(stretched).unwrap_or(u64::MAX));
        let unable = self.unable.saturating_sub(unable);
        if now.since(from) <= most + unable + GRACE {
            return Ok(());
        }
        let lasted = now.since(from);
        Err(format!("{what} of {lasts:?} is there after {lasted:?}, {unable:?} without a leader"))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::calls::{Expect, Stamp};
    use super::*;
    use engine::entry::{self, EntryHeader, kind};
    use engine::ids::{GroupId, Term};
    use engine::level::Level;
    use engine::machine::{Applied, Machine, MachineConfig, Outcome, Wake};
    use engine::secret::Secret;
    use engine::time::Elapsed;
    use wire::message::{SessionClose, SessionOpen};

    pub const SESSION: Id = [1; 16];
    const OTHER: Id = [2; 16];
    const SECOND: u64 = 1_000_000_000;

    /// A twin and a machine that did these calls, an entry each, `millis` apart in every time.
    pub struct Log {
        pub twin: Twin,
        machine: Machine,
        wakes: Vec<Wake>,
        at: u64,
    }

    impl Log {
        pub fn new() -> Log {
            let secret = Secret::new([7; 16]);
            let machine =
                Machine::new(MachineConfig { cluster: 1, cache_bytes_max: 1 << 20, secret });
            let mut log = Log { twin: Twin::new(0, 1 << 20), machine, wakes: Vec::new(), at: 0 };
            log.open(SESSION);
            log
        }

        pub fn open(&mut self, session: Id) {
            let mut body = Vec::new();
            SessionOpen { session, ttl_ms: 2_000 }.encode(&mut body);
            self.entry(0, SessionOpen::KIND, &body);
        }

        fn entry(&mut self, millis: u64, kind: wire::Kind, body: &[u8]) -> Applied {
            self.at += millis * 1_000_000;
            let index = self.twin.index.next();
            let (group, term, time) = (GroupId(1), Term(1), Elapsed(self.at));
            let header = EntryHeader { group, kind, term, index, time, principal: 0 };
            let mut bytes = Vec::new();
            entry::write(&header, body, &mut bytes);
            let entry = entry::read(&bytes).unwrap();
            self.twin.step(Time(self.at), &entry).unwrap();
            let (time, kind) = (entry.header.time, entry.header.kind);
            self.machine.apply(time, kind, entry.payload, &mut self.wakes)
        }

        fn call(&mut self, sequence: u64, did: &Did) -> Applied {
            self.call_of(SESSION, sequence, did)
        }

        pub fn call_of(&mut self, session: Id, sequence: u64, did: &Did) -> Applied {
            let stamp = Stamp { session, sequence, answered_below: sequence, session_ttl_ms: 0 };
            let (mut body, name, payload) = (Vec::new(), did.name(), 7u64.to_le_bytes());
            let request = did.request(stamp, &name, &payload);
            request.encode(&mut body);
            self.entry(1, request.facts().kind(), &body)
        }

        fn saw(&mut self, sequence: u64, did: &Did, saw: Saw) -> Result<(), String> {
            let (invoked, replied) = (Time(0), Time(self.at));
            let session = SESSION;
            let stood = None;
            self.twin.explain(&Answered { did, session, sequence, invoked, replied, saw, stood })
        }
    }

    fn done(token: u64) -> Saw {
        Saw::Done { token, index: 1 }
    }

    #[test]
    fn an_answer_that_the_log_does_not_say_is_caught() {
        let mut log = Log::new();
        let put = Did::put(0, 7);
        let absent = Did::Put { key: 0, value: 7, ttl_ms: 0, expect: Expect::Absent };
        log.call(1, &put);
        log.call(2, &absent);
        assert_eq!(log.saw(1, &put, done(5)), Ok(()));
        assert!(log.saw(2, &absent, done(6)).unwrap_err().contains("VersionMismatch"));
        assert_eq!(log.saw(2, &absent, Saw::Refused(Code::VersionMismatch)), Ok(()));
        assert!(log.saw(3, &put, done(7)).is_err(), "no entry did it");
    }

    #[test]
    fn a_number_given_twice_or_falling_is_caught() {
        let mut log = Log::new();
        let (first, then) = (Did::put(0, 7), Did::put(1, 7));
        log.call(1, &first);
        log.call(2, &then);
        assert_eq!(log.saw(1, &first, done(5)), Ok(()));
        assert!(log.saw(2, &then, done(5)).unwrap_err().contains("twice"));
        assert!(log.saw(2, &then, done(4)).unwrap_err().contains("rise"));
        assert_eq!(log.saw(2, &then, done(6)), Ok(()));
    }

    #[test]
    fn a_read_of_what_was_before_the_question_is_caught() {
        let mut log = Log::new();
        log.call(1, &Did::put(0, 7));
        let read = |log: &mut Log, invoked, saw| {
            let (did, session, replied) = (&Did::Get { key: 0 }, SESSION, Time(invoked + 1));
            let invoked = Time(invoked);
            let (sequence, stood) = (0, None);
            log.twin.explain(&Answered { did, session, sequence, invoked, replied, saw, stood })
        };
        assert_eq!(read(&mut log, 10, Saw::Refused(Code::KeyUnknown)), Ok(()));
        assert!(read(&mut log, SECOND, Saw::Refused(Code::KeyUnknown)).is_err());
        assert_eq!(read(&mut log, SECOND, Saw::Line { version: 3, value: 7 }), Ok(()));
        assert!(read(&mut log, SECOND, Saw::Line { version: 4, value: 7 }).is_err());
    }

    #[test]
    fn a_lease_that_does_not_end_is_late_and_one_without_a_leader_is_not() {
        let mut log = Log::new();
        let lease_ms = 100;
        log.call(1, &Did::Acquire { lock: 0, exclusive: true, wait_ms: 0, lease_ms });
        assert_eq!(log.twin.none_is_late(Time(SECOND)), Ok(()));
        assert!(log.twin.none_is_late(Time(2 * SECOND)).unwrap_err().contains("lease"));
        log.twin.unable = Duration::from_secs(1);
        assert_eq!(log.twin.none_is_late(Time(2 * SECOND)), Ok(()));
    }

    #[test]
    fn of_messages_that_come_back_together_the_twin_delivers_the_one_that_the_machine_does() {
        for level in [Level::OLDEST, Level::NEWEST] {
            let mut log = Log::new();
            log.entry(0, kind::LEVEL, &level.encode());
            for (sequence, priority) in [(1, 2), (2, 0)] {
                let push = Did::Push { queue: 0, value: 7, priority };
                let applied = log.call(sequence, &push);
                let Applied::Done(Outcome::Done { token }) = applied else { panic!("{applied:?}") };
                assert_eq!(log.saw(sequence, &push, done(token)), Ok(()));
            }
            let pop = Did::Pop { queue: 0, wait_ms: 500, visibility_ms: 1_000 };
            log.call(3, &pop);
            log.call(4, &pop);
            log.open(OTHER);
            assert_eq!(log.call_of(OTHER, 1, &pop), Applied::Waiting);
            let mut body = Vec::new();
            SessionClose { session: SESSION }.encode(&mut body);
            log.entry(1, SessionClose::KIND, &body);
            let [Wake { outcome: Outcome::Delivered { id, delivery }, .. }] = log.wakes[..] else {
                panic!("{:?}", log.wakes)
            };
            assert_eq!(delivery, 2);
            let saw = Saw::Message { id, delivery, priority: 0, value: 7 };
            let (did, session, sequence) = (&pop, OTHER, 1);
            let (invoked, replied) = (Time(0), Time(log.at));
            let stood = None;
            let call = Answered { did, session, sequence, invoked, replied, saw, stood };
            assert_eq!(log.twin.explain(&call), Ok(()), "at {level:?}");
        }
    }

    #[test]
    fn a_replica_that_holds_another_sum_is_caught() {
        let mut log = Log::new();
        log.call(1, &Did::Push { queue: 0, value: 7, priority: 0 });
        let mut holds = MachineStatus { sessions: 1, messages_ready: 1, ..Default::default() };
        assert_eq!(log.twin.compare(&holds), Ok(()));
        holds.messages_ready = 0;
        assert!(log.twin.compare(&holds).is_err());
    }
}
