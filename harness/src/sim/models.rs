//! What a cache line and a lock are, as sequential things, and the calls that clients made on each.

use super::calls::{Did, Expect, Record, Saw};
use super::linear::{Call, Model, linearize};
use std::collections::BTreeMap;
use std::fmt::Debug;
use wire::Code;

/// Whether lines have room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Room {
    /// None is evicted.
    Enough,
    /// Any may be evicted once it was written.
    Scarce,
}

/// Every line is linearizable, with what its writers expected of it, and its versions rise. It may end by itself once
/// its time has passed, by a clock that is off by so many millionths, or when there is no room.
///
/// # Errors
/// The call that no order explains, in words.
pub fn lines(records: &[Record], off_millionths: u32, room: Room) -> Result<(), String> {
    let mut lines: BTreeMap<u8, Vec<Call<OnLine>>> = BTreeMap::new();
    for record in records {
        let (key, what) = match (&record.did, record.saw) {
            (Did::Put { key, value, expect, .. }, Saw::Done { token, .. }) => {
                (key, OnLine::Put { value: *value, version: Some(token), expect: *expect })
            }
            (Did::Put { key, value, expect, .. }, Saw::Unknown) => {
                (key, OnLine::Put { value: *value, version: None, expect: *expect })
            }
            (Did::Get { key }, Saw::Line { version, value }) => {
                (key, OnLine::Saw { version, value })
            }
            (Did::Delete { key, expect }, Saw::Done { token, .. }) => {
                (key, OnLine::Delete { version: Some(token), expect: *expect })
            }
            (Did::Delete { key, expect }, Saw::Unknown) => {
                (key, OnLine::Delete { version: None, expect: *expect })
            }
            (
                Did::Get { key } | Did::Put { key, .. } | Did::Delete { key, .. },
                Saw::Refused(Code::KeyUnknown),
            ) => (key, OnLine::SawNothing),
            (
                Did::Put { key, expect, .. } | Did::Delete { key, expect },
                Saw::Refused(Code::VersionMismatch),
            ) => (key, OnLine::SawOther { than: *expect }),
            _ => continue,
        };
        if let Did::Put { value, ttl_ms, .. } = record.did
            && matches!(record.saw, Saw::Done { .. } | Saw::Unknown)
            && (ttl_ms > 0 || room == Room::Scarce)
        {
            let invoked = match room {
                Room::Enough => ends_from(record, off_millionths),
                Room::Scarce => record.invoked.0,
            };
            let what = OnLine::Ends { value };
            lines.entry(*key).or_default().push(Call { invoked, replied: None, what });
        }
        lines.entry(*key).or_default().push(call(record, what));
    }
    each("line", lines, || Line { value: None, newest: 0 })
}

/// The first moment at which a line may end by itself.
fn ends_from(put: &Record, off_millionths: u32) -> u64 {
    let Did::Put { ttl_ms, .. } = put.did else { unreachable!("only a put gives a line a time") };
    let shortest =
        u64::from(ttl_ms) * 1_000_000 * 1_000_000 / u64::from(1_000_000 + off_millionths);
    put.invoked.0 + shortest
}

/// Every lock is linearizable: shared or exclusive, and its fences rise.
///
/// # Errors
/// The call that no order explains, in words.
pub fn locks(records: &[Record]) -> Result<(), String> {
    let mut released: BTreeMap<(u8, u64), &Record> = BTreeMap::new();
    // A session that asks again is told of the grant that it has, perhaps before the call that got it is answered.
    let mut granted: BTreeMap<(u8, u64), Grant> = BTreeMap::new();
    // Whoever does not know what came of an acquire may have been granted the lock by it, and be told later.
    let mut doubts: BTreeMap<(u32, u8), u64> = BTreeMap::new();
    for record in records {
        if let (Did::Acquire { lock, .. }, Saw::Unknown) = (&record.did, record.saw) {
            let first = doubts.entry((record.client, *lock)).or_insert(u64::MAX);
            *first = record.invoked.0.min(*first);
        }
    }
    for record in records {
        match (&record.did, record.saw) {
            (Did::Release { lock, fence }, Saw::Done { .. }) => {
                released.insert((*lock, *fence), record);
            }
            (Did::Acquire { lock, exclusive, .. }, Saw::Done { token, .. }) => {
                let (invoked, replied) = (record.invoked.0, record.replied.0);
                let doubt = doubts.get(&(record.client, *lock)).copied();
                let invoked = invoked.min(doubt.unwrap_or(invoked));
                let first = Grant { invoked, replied, exclusive: false, times: 0 };
                let grant = granted.entry((*lock, token)).or_insert(first);
                grant.invoked = grant.invoked.min(invoked);
                grant.replied = grant.replied.min(replied);
                grant.exclusive |= exclusive;
                grant.times += 1;
            }
            _ => {}
        }
    }
    let mut locks: BTreeMap<u8, Vec<Call<OnLock>>> = BTreeMap::new();
    for ((lock, fence), grant) in granted {
        let Grant { invoked, replied, exclusive, times } = grant;
        let of_lock = locks.entry(lock).or_default();
        let what = OnLock::Acquire { exclusive, fence };
        of_lock.push(Call { invoked, replied: Some(replied), what });
        let what = OnLock::Release { fence };
        of_lock.push(match released.get(&(lock, fence)) {
            Some(record) if times == 1 => call(record, what),
            // It ends with its session or its lease, nobody knows when.
            _ => Call { invoked, replied: None, what },
        });
    }
    each("lock", locks, || Lock { holders: Vec::new(), newest: 0 })
}

fn call<C>(record: &Record, what: C) -> Call<C> {
    let replied = (record.saw != Saw::Unknown).then_some(record.replied.0);
    Call { invoked: record.invoked.0, replied, what }
}

fn each<M: Model>(
    name: &str,
    things: BTreeMap<u8, Vec<Call<M::Call>>>,
    start: impl Fn() -> M,
) -> Result<(), String> {
    for (thing, calls) in things {
        linearize(start(), &calls).map_err(|why| format!("{name} {thing}: {why}"))?;
    }
    Ok(())
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Line {
    /// The version, unless its writer was not told, and the value.
    value: Option<(Option<u64>, u64)>,
    /// The newest version that is known.
    newest: u64,
}

/// A call on a line; a version is none where its caller was not told.
#[derive(Clone, Copy, Debug)]
enum OnLine {
    Put {
        value: u64,
        version: Option<u64>,
        expect: Expect,
    },
    Saw {
        version: u64,
        value: u64,
    },
    SawNothing,
    /// It was there, and not as it was expected to be.
    SawOther {
        than: Expect,
    },
    Delete {
        version: Option<u64>,
        expect: Expect,
    },
    /// The line with this value ended by itself.
    Ends {
        value: u64,
    },
}

impl Line {
    /// Whether the line may stand under `version`.
    fn stands_at(&self, version: u64) -> bool {
        match self.value {
            Some((Some(known), _)) => known == version,
            Some((None, _)) => version > self.newest,
            None => false,
        }
    }
}

impl Line {
    /// Whether it may be as it is expected to be.
    fn may_meet(&self, expect: Expect) -> bool {
        match expect {
            Expect::Any => true,
            Expect::Absent => self.value.is_none(),
            Expect::Version(version) => self.stands_at(version),
        }
    }
}

impl Model for Line {
    type Call = OnLine;

    fn step(&self, call: &OnLine) -> Option<Line> {
        let newest = self.newest;
        match *call {
            OnLine::Put { expect, .. } | OnLine::Delete { expect, .. }
                if !self.may_meet(expect) =>
            {
                None
            }
            OnLine::Put { value, version: Some(version), .. } => {
                let next = Line { value: Some((Some(version), value)), newest: version };
                (version > newest).then_some(next)
            }
            OnLine::Put { value, version: None, .. } => {
                Some(Line { value: Some((None, value)), newest })
            }
            OnLine::Ends { value } => {
                let stands = self.value.is_some_and(|(_, stands)| stands == value);
                stands.then_some(Line { value: None, newest })
            }
            OnLine::SawOther { than } => {
                let (version, _) = self.value?;
                let differs = match than {
                    Expect::Any => false,
                    Expect::Absent => true,
                    Expect::Version(expected) => version != Some(expected),
                };
                differs.then(|| self.clone())
            }
            OnLine::Saw { version, value } => {
                let same = self.value.is_some_and(|(_, stands)| stands == value);
                let next = Line { value: Some((Some(version), value)), newest: version };
                (same && self.stands_at(version)).then_some(next)
            }
            OnLine::SawNothing => self.value.is_none().then(|| self.clone()),
            OnLine::Delete { version: Some(version), .. } => {
                self.stands_at(version).then_some(Line { value: None, newest: version })
            }
            OnLine::Delete { version: None, .. } => Some(Line { value: None, newest }),
        }
    }
}

/// What callers were told of a grant, and how often.
struct Grant {
    invoked: u64,
    replied: u64,
    exclusive: bool,
    times: u32,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Lock {
    /// The fence of each holder, and whether it holds alone.
    holders: Vec<(u64, bool)>,
    newest: u64,
}

#[derive(Clone, Copy, Debug)]
enum OnLock {
    Acquire { exclusive: bool, fence: u64 },
    Release { fence: u64 },
}

impl Model for Lock {
    type Call = OnLock;

    fn step(&self, call: &OnLock) -> Option<Lock> {
        let mut holders = self.holders.clone();
        match *call {
            OnLock::Acquire { exclusive, fence } => {
                let free = !holders.iter().any(|(_, alone)| exclusive || *alone);
                holders.push((fence, exclusive));
                (free && fence > self.newest).then_some(Lock { holders, newest: fence })
            }
            OnLock::Release { fence } => {
                let held = holders.iter().position(|(held, _)| *held == fence)?;
                holders.remove(held);
                Some(Lock { holders, newest: self.newest })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::time::Time;

    fn record(did: Did, invoked: u64, replied: u64, saw: Saw) -> Record {
        Record { client: 0, did, invoked: Time(invoked), replied: Time(replied), saw }
    }

    fn put(value: u64, invoked: u64, replied: u64, token: u64) -> Record {
        record(Did::put(0, value), invoked, replied, Saw::Done { token, index: token })
    }

    fn get(invoked: u64, replied: u64, version: u64, value: u64) -> Record {
        record(Did::Get { key: 0 }, invoked, replied, Saw::Line { version, value })
    }

    fn missing(invoked: u64, replied: u64) -> Record {
        record(Did::Get { key: 0 }, invoked, replied, Saw::Refused(Code::KeyUnknown))
    }

    fn lines(records: &[Record]) -> Result<(), String> {
        super::lines(records, 0, Room::Enough)
    }

    fn put_for(ms: u32, expect: Expect, invoked: u64, replied: u64, saw: Saw) -> Record {
        record(Did::Put { key: 0, value: invoked, ttl_ms: ms, expect }, invoked, replied, saw)
    }

    #[test]
    fn a_line_that_ends_early_is_caught_and_one_that_ends_late_enough_is_not() {
        let first = put_for(1, Expect::Any, 0, 10, Saw::Done { token: 5, index: 5 });
        assert!(lines(&[first.clone(), missing(999_990, 999_999)]).is_err());
        assert_eq!(lines(&[first, missing(1_000_001, 1_000_002)]), Ok(()));
    }

    #[test]
    fn a_line_is_gone_without_its_time_only_where_room_is_scarce() {
        let records = [put(1, 0, 10, 5), missing(40, 50), get(60, 70, 5, 1)];
        assert!(lines(&records[..2]).is_err());
        assert_eq!(super::lines(&records[..2], 0, Room::Scarce), Ok(()));
        assert!(super::lines(&records, 0, Room::Scarce).is_err(), "and stays gone");
    }

    #[test]
    fn a_write_over_another_version_than_expected_is_caught() {
        let done = |token| Saw::Done { token, index: token };
        let over = |expect, saw| [put(1, 0, 10, 5), put_for(0, expect, 20, 30, saw)];
        assert_eq!(lines(&over(Expect::Version(5), done(6))), Ok(()));
        assert!(lines(&over(Expect::Version(4), done(6))).is_err());
        assert!(lines(&over(Expect::Absent, done(6))).is_err());
        let mismatch = Saw::Refused(Code::VersionMismatch);
        assert_eq!(lines(&over(Expect::Absent, mismatch)), Ok(()));
        assert!(lines(&over(Expect::Version(5), mismatch)).is_err());
    }

    #[test]
    fn a_stale_read_is_caught() {
        let fine = [put(1, 0, 10, 5), put(2, 20, 30, 6), get(25, 28, 5, 1), get(40, 50, 6, 2)];
        assert_eq!(lines(&fine), Ok(()));
        let stale = [put(1, 0, 10, 5), put(2, 20, 30, 6), get(40, 50, 5, 1)];
        assert!(lines(&stale).unwrap_err().starts_with("line 0: no order explains"));
    }

    #[test]
    fn a_line_lost_is_caught_and_one_deleted_is_not() {
        assert!(lines(&[put(1, 0, 10, 5), missing(40, 50)]).is_err());
        let did = Did::Delete { key: 0, expect: Expect::Any };
        let delete = |saw| record(did.clone(), 20, 30, saw);
        let done = delete(Saw::Done { token: 5, index: 9 });
        assert_eq!(lines(&[put(1, 0, 10, 5), done, missing(40, 50)]), Ok(()));
        assert_eq!(lines(&[put(1, 0, 10, 5), delete(Saw::Unknown), missing(40, 50)]), Ok(()));
    }

    #[test]
    fn a_write_that_nobody_confirmed_takes_effect_once_or_never() {
        let unknown = record(Did::put(0, 2), 0, 5, Saw::Unknown);
        let seen = [put(1, 0, 10, 5), unknown.clone(), get(20, 30, 6, 2), get(40, 50, 6, 2)];
        assert_eq!(lines(&seen), Ok(()));
        assert_eq!(lines(&[put(1, 0, 10, 5), unknown.clone(), get(20, 30, 5, 1)]), Ok(()));
        let back = [put(1, 0, 10, 5), unknown, get(20, 30, 6, 2), get(40, 50, 5, 1)];
        assert!(lines(&back).is_err());
    }

    #[test]
    fn a_version_that_changes_or_falls_is_caught() {
        assert!(lines(&[put(1, 0, 10, 5), get(20, 30, 6, 1)]).is_err());
        assert!(lines(&[put(1, 0, 10, 5), put(2, 20, 30, 4)]).is_err());
    }

    fn acquire(invoked: u64, replied: u64, exclusive: bool, token: u64) -> Record {
        let did = Did::Acquire { lock: 0, exclusive, wait_ms: 0, lease_ms: 0 };
        record(did, invoked, replied, Saw::Done { token, index: token })
    }

    fn release(invoked: u64, replied: u64, fence: u64) -> Record {
        record(Did::Release { lock: 0, fence }, invoked, replied, Saw::Done { token: 0, index: 9 })
    }

    #[test]
    fn a_lock_granted_twice_is_caught_and_a_shared_one_is_not() {
        let twice = |exclusive| {
            let (a, b) = (acquire(0, 1, exclusive, 5), acquire(2, 3, exclusive, 6));
            [a, b, release(10, 11, 5), release(12, 13, 6)]
        };
        assert_eq!(locks(&twice(false)), Ok(()));
        assert!(locks(&twice(true)).is_err());
        // The first may have ended with its session.
        assert_eq!(locks(&twice(true)[..2]), Ok(()));
    }

    #[test]
    fn a_fence_used_again_is_caught() {
        let again = |token| [acquire(0, 1, true, 5), release(2, 3, 5), acquire(4, 5, true, token)];
        assert_eq!(locks(&again(6)), Ok(()));
        assert!(locks(&again(4)).is_err());
    }
}
