use super::fake::{Act, Fake, refuse};
use super::{config, connect, eventually, ms};
use crate::{Code, Error};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use wire::message::{
    CachePut, Heartbeat, LockAcquire, LockRelease, QueuePop, SessionClose, SessionOpen,
};

/// The shortest time to live that there is.
const TTL: Duration = Duration::from_secs(1);

#[test]
fn heartbeats_keep_a_guard_valid() {
    let fake = Fake::new(3, 12);
    let client = config(&fake).session_ttl(TTL).connect().unwrap();
    let guards: Vec<_> =
        (0..8).map(|n| client.lock(format!("l{n}")).acquire().wait().unwrap()).collect();
    std::thread::sleep(TTL * 5 / 2);
    assert!(guards.iter().all(|g| g.is_valid() && g.lost().is_none()));
    let beats = fake.seen(Heartbeat::KIND).len();
    assert!((6..40).contains(&beats), "{beats} heartbeats: one for each engine, not each shard");
}

#[test]
fn a_guard_is_lost_a_twentieth_before_the_ttl_when_packets_vanish() {
    let fake = Fake::new(1, 1);
    let client = config(&fake).session_ttl(TTL).connect().unwrap();
    let guard = client.lock("l").acquire().wait().unwrap();
    fake.rule(|_| Act::Swallow);
    let begun = Instant::now();
    eventually("the guard is lost", || !guard.is_valid());
    // 950 ms after the last sign of life at the latest, and some for this thread to see it.
    assert!(begun.elapsed() <= TTL - ms(15), "{:?}", begun.elapsed());
    fake.rule(|_| Act::Serve);
    std::thread::sleep(ms(400));
    assert!(!guard.is_valid(), "what was lost is never found again");
    assert!(matches!(guard.lost(), Some(Error::SessionLost { .. })));
    let error = guard.release().wait().unwrap_err();
    assert!(matches!(error, Error::SessionLost { .. }), "{error}");
    let again = client.lock("l").acquire().wait().unwrap();
    assert!(again.is_valid());
    let opened = fake.seen(SessionOpen::KIND);
    assert_ne!(opened[0].session, opened.last().unwrap().session, "a new session id");
}

#[test]
fn a_heartbeat_that_does_not_name_the_shard_confirms_nothing() {
    let fake = Fake::new(1, 1);
    let client = config(&fake).session_ttl(TTL).connect().unwrap();
    let guard = client.lock("l").acquire().wait().unwrap();
    fake.memory.lock().unwrap().open.clear();
    eventually("the guard is lost", || !guard.is_valid());
}

#[test]
fn a_guard_outlives_a_change_of_leader() {
    let fake = Fake::new(3, 1);
    let client = config(&fake).session_ttl(TTL).connect().unwrap();
    let guard = client.lock("l").acquire().wait().unwrap();
    fake.stop(1, 3);
    std::thread::sleep(TTL * 2);
    assert!(guard.is_valid());
    fake.lead(2);
    std::thread::sleep(TTL * 2);
    assert!(guard.is_valid(), "{:?}", guard.lost());
    guard.release().wait().unwrap();
}

#[test]
fn the_end_in_one_shard_ends_the_session_everywhere() {
    let fake = Fake::new(1, 4);
    let client = connect(&fake);
    let guards: Vec<_> =
        (0..16).map(|n| client.lock(format!("l{n}")).acquire().wait().unwrap()).collect();
    let old = client.session();
    fake.once(CachePut::KIND, refuse(Code::SessionUnknown));
    let error = client.cache().put("k", "v").wait().unwrap_err();
    assert!(matches!(error, Error::SessionLost { .. }), "{error}");
    assert!(guards.iter().all(|g| !g.is_valid()));
    assert_ne!(client.session(), old);
    eventually("it is closed in every shard", || fake.seen(SessionClose::KIND).len() == 4);
    assert!(fake.seen(SessionClose::KIND).iter().all(|s| s.session == old));
    client.cache().put("k", "v").wait().unwrap();
    assert_eq!(fake.seen(CachePut::KIND).last().unwrap().sequence, 1, "a new session counts anew");
}

#[test]
fn a_call_cut_off_by_the_sessions_end_has_an_unknown_outcome() {
    let fake = Fake::new(1, 1);
    let client = connect(&fake);
    client.cache().put("k", "v").wait().unwrap();
    let puts = Arc::new(Mutex::new(0));
    fake.rule(move |s| match s.kind {
        CachePut::KIND => {
            *puts.lock().unwrap() += 1;
            if *puts.lock().unwrap() == 1 { Act::Close } else { refuse(Code::SessionUnknown) }
        }
        _ => Act::Serve,
    });
    let error = client.cache().put("k", "w").wait().unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
}

#[test]
fn a_detached_session_stays_and_can_be_resumed() {
    let fake = Fake::new(1, 1);
    let client = connect(&fake);
    let guard = client.lock("l").lease(ms(60_000)).acquire().wait().unwrap();
    let (session, fence) = (guard.session(), guard.fence());
    guard.leave();
    client.detach();
    std::thread::sleep(ms(50));
    assert!(fake.seen(SessionClose::KIND).is_empty() && fake.seen(LockRelease::KIND).is_empty());

    let opened = fake.seen(SessionOpen::KIND).len();
    let client = config(&fake).resume(session).connect().unwrap();
    client.release_lock("l", fence).wait().unwrap();
    assert_eq!(fake.seen(SessionOpen::KIND).len(), opened, "it is used, never opened");
    assert_eq!(fake.memory.lock().unwrap().released, [fence]);
    client.close();
    assert_eq!(fake.seen(SessionClose::KIND).len(), 1);
}

#[test]
fn dropping_the_client_closes_its_session() {
    let fake = Fake::new(1, 1);
    let client = connect(&fake);
    client.cache().put("k", "v").wait().unwrap();
    drop(client);
    assert_eq!(fake.seen(SessionClose::KIND).len(), 1);
}

#[test]
fn a_client_may_go_at_any_point() {
    let fake = Fake::new(2, 4);
    for round in 0..60u64 {
        let rules: [fn(&super::fake::Seen) -> Act; 4] = [
            |_| Act::Serve,
            |s| if s.sequence > 1 { Act::Swallow } else { Act::Serve },
            |s| {
                if s.sequence.is_multiple_of(2) && s.sequence > 0 { Act::Close } else { Act::Serve }
            },
            |s| if s.sequence > 0 { Act::Late(Duration::from_millis(5)) } else { Act::Serve },
        ];
        fake.rule(rules[round as usize % 4]);
        let begun = Instant::now();
        let client = config(&fake).deadline(ms(500)).start();
        if round % 8 == 7 {
            drop(client);
            continue;
        }
        let client = client.wait().unwrap();
        let calls: Vec<_> =
            (0..20).map(|n| client.cache().put(format!("k{n}"), "v").send()).collect();
        let lock = client.lock("l").acquire();
        let pop = client.queue("q").pop(ms(100), Duration::from_secs(60));
        std::thread::sleep(Duration::from_micros(round * 70));
        if round % 3 == 0 {
            drop((calls, lock, pop));
            client.close();
        } else if round % 3 == 1 {
            client.clone().close();
            for call in calls {
                // Done, or a clear error; never a hang.
                let _ = call.wait();
            }
        } else {
            drop((client, lock, pop, calls));
        }
        assert!(begun.elapsed() < Duration::from_secs(4), "round {round}: {:?}", begun.elapsed());
    }
    assert!(!fake.seen(LockAcquire::KIND).is_empty() && !fake.seen(QueuePop::KIND).is_empty());
}
