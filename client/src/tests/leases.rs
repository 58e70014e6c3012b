//! What a guard believes of its lease and of a session that another process opened.

use super::fake::{Act, Fake};
use super::{config, eventually, ms};
use crate::clock::Moment;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use wire::message::{CachePut, Heartbeat, LockAcquire};

#[test]
fn a_client_that_stood_still_does_not_believe_in_a_lease_that_ended() {
    let fake = Fake::new(1, 1);
    let client = config(&fake).session_ttl(Duration::from_secs(30)).connect().unwrap();
    client.cache().put("k", "v").wait().unwrap();
    // A put and then the grant are answered while the client stands still, the grant to a retry or to
    // the first sending.
    let granted = Arc::new(Mutex::new(None));
    let at = Arc::clone(&granted);
    fake.rule(move |seen| match seen.kind {
        CachePut::KIND => Act::Late(ms(100)),
        LockAcquire::KIND => {
            *at.lock().unwrap() = Some(Instant::now());
            Act::Late(ms(150))
        }
        _ => Act::Serve,
    });
    let lease = ms(600);
    let put = client.cache().put("k", "w").send();
    let acquire = client.lock("l").wait(Duration::from_secs(20)).lease(lease).acquire();
    eventually("the lock is granted", || granted.lock().unwrap().is_some());
    client.handle.shared().with(|_, _| std::thread::sleep(lease * 2));
    let guard = acquire.wait().unwrap();
    put.wait().unwrap();
    let granted = granted.lock().unwrap().unwrap();
    assert!(!guard.is_valid(), "granted {:?} ago for {lease:?}", granted.elapsed());
}

#[test]
fn a_lease_gives_a_twentieth_away_to_a_clock_that_is_faster() {
    let fake = Fake::new(1, 1);
    let client = config(&fake).session_ttl(Duration::from_secs(600)).connect().unwrap();
    let lease = Duration::from_secs(500);
    let guard = client.lock("l").try_once().lease(lease).acquire().wait().unwrap();
    let until = Moment::now() + guard.remaining();
    let counted = until.since(Moment(0));
    let whole = (Moment::now() + lease).since(Moment(0));
    assert!(counted + lease / 20 <= whole, "{:?} too long", (counted + lease / 20) - whole);
    assert!(guard.remaining() > lease * 9 / 10, "and no more than that");
}

#[test]
fn a_resumed_session_is_believed_in_once_it_was_confirmed() {
    let fake = Fake::new(1, 1);
    let first = config(&fake).connect().unwrap();
    let session = first.session();
    first.lock("l").acquire().wait().unwrap().leave();
    first.detach();
    // Nothing but the lock is answered: the session may end any moment.
    fake.rule(|seen| if seen.kind == Heartbeat::KIND { Act::Swallow } else { Act::Serve });
    let client = config(&fake).resume(session).connect().unwrap();
    let guard = client.lock("m").acquire().wait().unwrap();
    assert!(!guard.is_valid(), "nobody said how long the session lives");
    fake.rule(|_| Act::Serve);
    eventually("a heartbeat is confirmed", || guard.is_valid());
}
