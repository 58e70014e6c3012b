//! Judges what clients saw, by oracles that are simpler than what they judge.

use super::clients::{Did, History, Hold, Record, Saw};
use std::collections::{BTreeMap, BTreeSet};
use wire::Code;

/// Judges a history.
///
/// # Errors
/// The first thing that must never happen, in words.
pub fn judge(history: &History) -> Result<(), String> {
    lines(&history.records)?;
    locks(&history.records, &history.holds)?;
    queues(&history.records)?;
    queue_order(&history.records)
}

/// Every line is linearizable. Writes are ordered by their tokens (a put's is the version that it made,
/// a delete's the version that it deleted), so that no search is needed: a read sees a write that was
/// not overwritten before it began, by a write that had begun when it ended.
pub fn lines(records: &[Record]) -> Result<(), String> {
    let keys: BTreeSet<u8> = records.iter().filter_map(|r| key_of(&r.did)).collect();
    for key in keys {
        let of_key: Vec<&Record> = records.iter().filter(|r| key_of(&r.did) == Some(key)).collect();
        for read in of_key.iter().filter(|r| matches!(r.did, Did::Get { .. })) {
            judge_read(key, read, &of_key)?;
        }
        judge_order(key, &of_key)?;
    }
    Ok(())
}

fn key_of(did: &Did) -> Option<u8> {
    match did {
        Did::Put { key, .. } | Did::Get { key } | Did::Delete { key } => Some(*key),
        _ => None,
    }
}

fn judge_read(key: u8, read: &Record, of_key: &[&Record]) -> Result<(), String> {
    let wrong = |what: &str, other: &Record| {
        Err(format!("line {key}: {what}\n  read  {read:?}\n  other {other:?}"))
    };
    // The last write that was answered before the read began.
    let before = of_key
        .iter()
        .filter(|w| w.replied < read.invoked)
        .filter_map(|w| match (&w.did, w.saw) {
            (Did::Put { .. }, Saw::Done { token, .. }) => Some((token, 0, *w)),
            (Did::Delete { .. }, Saw::Done { token, .. }) => Some((token, 1, *w)),
            _ => None,
        })
        .max_by_key(|(token, deleted, _)| (*token, *deleted));
    match read.saw {
        Saw::Line { version, value } => {
            let put =
                of_key.iter().find(|w| matches!(w.did, Did::Put { value: v, .. } if v == value));
            let Some(put) = put else {
                return Err(format!("line {key}: a value that nobody wrote\n  {read:?}"));
            };
            if put.invoked > read.replied {
                return wrong("read before it was written", put);
            }
            if let Saw::Done { token, .. } = put.saw
                && token != version
            {
                return wrong("read under another version than it was written", put);
            }
            if let Some((token, deleted, last)) = before
                && version < token + deleted
            {
                return wrong("a stale read: a later write was answered before", last);
            }
        }
        Saw::Refused(Code::KeyUnknown) => {
            let Some((version, 0, last)) = before else { return Ok(()) };
            let deleted = of_key.iter().any(|d| {
                matches!(d.did, Did::Delete { .. })
                    && d.invoked < read.replied
                    && match d.saw {
                        Saw::Done { token, .. } => token >= version,
                        Saw::Unknown => true,
                        _ => false,
                    }
            });
            if !deleted {
                return wrong("a line is missing that nobody deleted", last);
            }
        }
        _ => {}
    }
    Ok(())
}

/// Reads and writes that follow each other in time see versions that do not go back.
fn judge_order(key: u8, of_key: &[&Record]) -> Result<(), String> {
    let mut seen: Vec<(&Record, u64)> = of_key
        .iter()
        .filter_map(|r| match (&r.did, r.saw) {
            (Did::Get { .. }, Saw::Line { version, .. }) => Some((*r, version)),
            (Did::Put { .. }, Saw::Done { token, .. }) => Some((*r, token)),
            _ => None,
        })
        .collect();
    seen.sort_by_key(|(r, _)| r.invoked);
    for (at, (later, version)) in seen.iter().enumerate() {
        for (earlier, older) in &seen[..at] {
            if earlier.replied < later.invoked && older > version {
                let what = "versions go back";
                return Err(format!("line {key}: {what}\n  first {earlier:?}\n  then  {later:?}"));
            }
        }
    }
    Ok(())
}

/// Two clients never believe at once that they hold a lock, unless both share it; fences rise.
pub fn locks(records: &[Record], holds: &[Hold]) -> Result<(), String> {
    for (at, a) in holds.iter().enumerate() {
        for b in &holds[at + 1..] {
            let apart = a.to <= b.from || b.to <= a.from;
            if a.lock == b.lock && (a.exclusive || b.exclusive) && a.client != b.client && !apart {
                return Err(format!("lock {}: held twice\n  {a:?}\n  {b:?}", a.lock));
            }
        }
    }
    let mut grants: BTreeMap<u8, Vec<(&Record, u64)>> = BTreeMap::new();
    for record in records {
        if let (Did::Acquire { lock, .. }, Saw::Done { token, .. }) = (&record.did, record.saw) {
            grants.entry(*lock).or_default().push((record, token));
        }
    }
    for (lock, grants) in grants {
        for (earlier, first) in &grants {
            for (later, then) in &grants {
                if earlier.replied < later.invoked && first >= then {
                    let what = "a later grant has no higher fence";
                    return Err(format!("lock {lock}: {what}\n  {earlier:?}\n  {later:?}"));
                }
            }
        }
    }
    Ok(())
}

/// Every acknowledged push is delivered, under one id; none is delivered after its acknowledgement.
pub fn queues(records: &[Record]) -> Result<(), String> {
    let mut ids: BTreeMap<u64, u64> = BTreeMap::new();
    let mut acked: BTreeMap<u64, &Record> = BTreeMap::new();
    for record in records {
        if let (Did::Ack { id, .. }, Saw::Done { .. }) = (&record.did, record.saw) {
            acked.insert(*id, record);
        }
        if let Saw::Message { id, value, .. } = record.saw
            && *ids.entry(value).or_insert(id) != id
        {
            return Err(format!("message {value}: pushed once, there twice\n  {record:?}"));
        }
    }
    let mut ended: BTreeSet<u64> = BTreeSet::new();
    for record in records {
        if let (Did::Ack { id, .. }, Saw::Done { .. } | Saw::Unknown) = (&record.did, record.saw) {
            ended.insert(*id);
        }
    }
    for record in records {
        match (&record.did, record.saw) {
            (Did::Push { value, .. }, Saw::Done { token, .. }) => match ids.get(value) {
                None => return Err(format!("message {value}: lost\n  {record:?}")),
                Some(id) if *id != token => {
                    return Err(format!("message {value}: another id than told\n  {record:?}"));
                }
                Some(id) if !ended.contains(id) => {
                    return Err(format!(
                        "message {value}: lost before its acknowledgement\n  {record:?}"
                    ));
                }
                Some(_) => {}
            },
            (Did::Pop { .. }, Saw::Message { id, .. }) => {
                if let Some(ack) = acked.get(&id).filter(|ack| ack.replied < record.invoked) {
                    let what = "delivered after its acknowledgement";
                    return Err(format!("message {id}: {what}\n  {ack:?}\n  {record:?}"));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// A message that was there before a pop began, and was never delivered before, goes before later ones
/// of its priority.
pub fn queue_order(records: &[Record]) -> Result<(), String> {
    let pushed: BTreeMap<u64, &Record> = records
        .iter()
        .filter_map(|r| match (&r.did, r.saw) {
            (Did::Push { .. }, Saw::Done { token, .. }) => Some((token, r)),
            _ => None,
        })
        .collect();
    let firsts: Vec<(u8, u64, u64, &Record)> = records
        .iter()
        .filter_map(|r| match (&r.did, r.saw) {
            (Did::Pop { queue, .. }, Saw::Message { id, delivery: 1, value }) => {
                Some((*queue, value % 3, id, r))
            }
            _ => None,
        })
        .collect();
    for (queue, priority, id, pop) in &firsts {
        for (other_queue, other_priority, earlier, later_pop) in &firsts {
            let same = (queue, priority) == (other_queue, other_priority);
            let waited = pushed.get(earlier).is_some_and(|push| push.replied < pop.invoked);
            if same && earlier < id && waited && pop.replied < later_pop.invoked {
                let what = "delivered before an earlier one";
                return Err(format!("message {id}: {what}\n  {pop:?}\n  {later_pop:?}"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::time::Time;

    fn record(did: Did, invoked: u64, replied: u64, saw: Saw) -> Record {
        Record { client: 0, did, invoked: Time(invoked), replied: Time(replied), saw }
    }

    fn put(value: u64, invoked: u64, replied: u64, index: u64) -> Record {
        record(Did::Put { key: 0, value }, invoked, replied, Saw::Done { token: index, index })
    }

    fn get(invoked: u64, replied: u64, version: u64, value: u64) -> Record {
        record(Did::Get { key: 0 }, invoked, replied, Saw::Line { version, value })
    }

    #[test]
    fn a_stale_read_is_caught() {
        let fine = [put(1, 0, 10, 5), put(2, 20, 30, 6), get(25, 28, 5, 1), get(40, 50, 6, 2)];
        assert_eq!(lines(&fine), Ok(()));
        let stale = [put(1, 0, 10, 5), put(2, 20, 30, 6), get(40, 50, 5, 1)];
        assert!(lines(&stale).unwrap_err().contains("stale"));
    }

    #[test]
    fn a_line_lost_is_caught() {
        let missing = record(Did::Get { key: 0 }, 40, 50, Saw::Refused(Code::KeyUnknown));
        assert!(lines(&[put(1, 0, 10, 5), missing]).unwrap_err().contains("missing"));
    }

    #[test]
    fn reads_that_go_back_are_caught() {
        let unknown = record(Did::Put { key: 0, value: 2 }, 0, 5, Saw::Unknown);
        let back = [put(1, 0, 10, 5), unknown, get(20, 30, 6, 2), get(40, 50, 5, 1)];
        assert!(lines(&back).unwrap_err().contains("go back"));
    }

    #[test]
    fn a_lock_held_twice_is_caught() {
        let hold = |client, from, to| Hold {
            client,
            lock: 0,
            exclusive: true,
            fence: from,
            from: Time(from),
            to: Time(to),
        };
        assert_eq!(locks(&[], &[hold(0, 0, 10), hold(1, 10, 20)]), Ok(()));
        assert!(locks(&[], &[hold(0, 0, 10), hold(1, 9, 20)]).is_err());
    }

    #[test]
    fn a_fence_used_again_is_caught() {
        let acquire = |invoked, replied, token| {
            let did = Did::Acquire { lock: 0, exclusive: true };
            record(did, invoked, replied, Saw::Done { token, index: token })
        };
        assert_eq!(locks(&[acquire(0, 1, 5), acquire(2, 3, 6)], &[]), Ok(()));
        assert!(locks(&[acquire(0, 1, 5), acquire(2, 3, 5)], &[]).is_err());
    }

    #[test]
    fn a_message_delivered_before_an_earlier_one_is_caught() {
        let done = |id| Saw::Done { token: id, index: id };
        let push = |id, value| record(Did::Push { queue: 0, value }, 0, 1, done(id));
        let pop = |at, id, value| {
            let did = Did::Pop { queue: 0, wait_ms: 0 };
            record(did, at, at + 1, Saw::Message { id, delivery: 1, value })
        };
        let pushes = [push(5, 3), push(6, 6)];
        let both = |first: Record, then: Record| [&pushes[..], &[first, then]].concat();
        assert_eq!(queue_order(&both(pop(2, 5, 3), pop(4, 6, 6))), Ok(()));
        assert!(queue_order(&both(pop(2, 6, 6), pop(4, 5, 3))).is_err());
    }

    #[test]
    fn messages_lost_doubled_or_delivered_after_their_ack_are_caught() {
        let push = |value, id| {
            record(Did::Push { queue: 0, value }, 0, 1, Saw::Done { token: id, index: id })
        };
        let pop = |at, id, value| {
            let did = Did::Pop { queue: 0, wait_ms: 0 };
            record(did, at, at + 1, Saw::Message { id, delivery: 1, value })
        };
        let ack = |at, id| {
            let did = Did::Ack { queue: 0, id, delivery: 1 };
            record(did, at, at + 1, Saw::Done { token: 0, index: 9 })
        };
        assert_eq!(queues(&[push(1, 5), pop(2, 5, 1), ack(4, 5)]), Ok(()));
        assert!(queues(&[push(1, 5), pop(2, 5, 1)]).unwrap_err().contains("before its ack"));
        assert!(queues(&[push(1, 5)]).unwrap_err().contains("lost"));
        assert!(queues(&[push(1, 5), pop(2, 5, 1), pop(3, 6, 1)]).unwrap_err().contains("twice"));
        let late = [push(1, 5), pop(2, 5, 1), ack(4, 5), pop(9, 5, 1)];
        assert!(queues(&late).unwrap_err().contains("after its acknowledgement"));
    }
}
