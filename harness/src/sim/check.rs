//! Judges what clients saw, by oracles that are simpler than what they judge.

use super::calls::{Did, Hold, Record, Saw};
use super::clients::History;
use super::models::{self, Room};
use std::collections::{BTreeMap, BTreeSet};

/// Judges a history; clocks may be off by so many millionths, and lines have so much room.
///
/// # Errors
/// The first thing that must never happen, in words.
pub fn judge(history: &History, off_millionths: u32, room: Room) -> Result<(), String> {
    models::lines(&history.records, off_millionths, room)?;
    models::locks(&history.records)?;
    holds(&history.holds)?;
    queues(&history.records)?;
    queue_order(&history.records)
}

/// Two clients never believe at once that they hold a lock, unless both share it.
pub fn holds(holds: &[Hold]) -> Result<(), String> {
    for (at, a) in holds.iter().enumerate() {
        for b in &holds[at + 1..] {
            let apart = a.to <= b.from || b.to <= a.from;
            if a.lock == b.lock && (a.exclusive || b.exclusive) && a.client != b.client && !apart {
                return Err(format!("lock {}: held twice\n  {a:?}\n  {b:?}", a.lock));
            }
        }
    }
    Ok(())
}

/// Every acknowledged push is delivered, under one id; none is delivered after its acknowledgement.
pub fn queues(records: &[Record]) -> Result<(), String> {
    let mut ids: BTreeMap<u64, u64> = BTreeMap::new();
    // Ids are a shard's own.
    let mut acked: BTreeMap<(u8, u64), &Record> = BTreeMap::new();
    for record in records {
        if let (Did::Ack { queue, id, .. }, Saw::Done { .. }) = (&record.did, record.saw) {
            acked.insert((*queue, *id), record);
        }
        if let Saw::Message { id, value, .. } = record.saw
            && *ids.entry(value).or_insert(id) != id
        {
            return Err(format!("message {value}: pushed once, there twice\n  {record:?}"));
        }
    }
    let mut ended: BTreeSet<(u8, u64)> = BTreeSet::new();
    for record in records {
        if let (Did::Ack { queue, id, .. }, Saw::Done { .. } | Saw::Unknown) =
            (&record.did, record.saw)
        {
            ended.insert((*queue, *id));
        }
    }
    for record in records {
        match (&record.did, record.saw) {
            (Did::Push { queue, value, .. }, Saw::Done { token, .. }) => match ids.get(value) {
                None => return Err(format!("message {value}: lost\n  {record:?}")),
                Some(id) if *id != token => {
                    return Err(format!("message {value}: another id than told\n  {record:?}"));
                }
                Some(id) if !ended.contains(&(*queue, *id)) => {
                    return Err(format!(
                        "message {value}: lost before its acknowledgement\n  {record:?}"
                    ));
                }
                Some(_) => {}
            },
            (Did::Pop { queue, .. }, Saw::Message { id, .. }) => {
                if let Some(ack) =
                    acked.get(&(*queue, id)).filter(|ack| ack.replied < record.invoked)
                {
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
    let pushed: BTreeMap<(u8, u64), &Record> = records
        .iter()
        .filter_map(|r| match (&r.did, r.saw) {
            (Did::Push { queue, .. }, Saw::Done { token, .. }) => Some(((*queue, token), r)),
            _ => None,
        })
        .collect();
    // First deliveries, by queue and priority.
    let mut firsts: BTreeMap<(u8, u8), Vec<(u64, &Record)>> = BTreeMap::new();
    for record in records {
        if let (Did::Pop { queue, .. }, Saw::Message { id, delivery: 1, priority, .. }) =
            (&record.did, record.saw)
        {
            firsts.entry((*queue, priority)).or_default().push((id, record));
        }
    }
    for ((queue, _), firsts) in &firsts {
        for (id, pop) in firsts {
            for (earlier, later_pop) in firsts {
                let waited =
                    || pushed.get(&(*queue, *earlier)).is_some_and(|p| p.replied < pop.invoked);
                if earlier < id && pop.replied < later_pop.invoked && waited() {
                    let what = "delivered before an earlier one";
                    return Err(format!("message {id}: {what}\n  {pop:?}\n  {later_pop:?}"));
                }
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

    fn pop(at: u64, id: u64, value: u64) -> Record {
        let did = Did::Pop { queue: 0, wait_ms: 0, visibility_ms: 1_000 };
        record(did, at, at + 1, Saw::Message { id, delivery: 1, priority: 0, value })
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
        assert_eq!(holds(&[hold(0, 0, 10), hold(1, 10, 20)]), Ok(()));
        assert!(holds(&[hold(0, 0, 10), hold(1, 9, 20)]).is_err());
    }

    #[test]
    fn a_message_delivered_before_an_earlier_one_is_caught() {
        let done = |id| Saw::Done { token: id, index: id };
        let push = |id, value| record(Did::Push { queue: 0, value, priority: 0 }, 0, 1, done(id));
        let pushes = [push(5, 3), push(6, 6)];
        let both = |first: Record, then: Record| [&pushes[..], &[first, then]].concat();
        assert_eq!(queue_order(&both(pop(2, 5, 3), pop(4, 6, 6))), Ok(()));
        assert!(queue_order(&both(pop(2, 6, 6), pop(4, 5, 3))).is_err());
    }

    #[test]
    fn messages_lost_doubled_or_delivered_after_their_ack_are_caught() {
        let push = |value, id| {
            let did = Did::Push { queue: 0, value, priority: 0 };
            record(did, 0, 1, Saw::Done { token: id, index: id })
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
