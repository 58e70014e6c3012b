//! Threads that share a client exclude each other.

use super::fake::{Act, Fake, refuse};
use super::{config, connect, eventually, ms};
use crate::Code;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use wire::message::{LockAcquire, LockRelease};

#[test]
fn two_threads_of_one_client_exclude_each_other() {
    let fake = Fake::new(1, 1);
    let client = connect(&fake);
    let (inside, most) = (AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..10 {
                    let guard = client.lock("same").wait(Duration::from_secs(20)).acquire();
                    let guard = guard.wait().unwrap();
                    most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::yield_now();
                    inside.fetch_sub(1, Ordering::SeqCst);
                    drop(guard);
                }
            });
        }
    });
    assert_eq!(most.load(Ordering::SeqCst), 1);
    eventually("all are released", || fake.memory.lock().unwrap().released.len() == 80);
}

#[test]
fn a_lock_is_the_next_ones_when_its_release_was_answered() {
    let fake = Fake::new(1, 1);
    let client = connect(&fake);
    let first = client.lock("l").acquire().wait().unwrap();
    fake.once(LockRelease::KIND, Act::Late(ms(200)));
    let second = client.lock("l").acquire();
    let shared = client.lock("l").shared().acquire();
    let released = Instant::now();
    drop(first);
    let second = second.wait().unwrap();
    assert!(released.elapsed() >= ms(200), "{:?}", released.elapsed());
    let acquires = fake.seen(LockAcquire::KIND).len();
    assert_eq!(acquires, 2, "the third is not asked for before");
    second.release().wait().unwrap();
    drop(shared.wait().unwrap());
}

#[test]
fn shared_guards_of_one_client_are_held_beside_each_other() {
    let fake = Fake::new(1, 1);
    let client = connect(&fake);
    let first = client.lock("l").shared().acquire().wait().unwrap();
    let second = client.lock("l").shared().try_once().acquire().wait().unwrap();
    let error = client.lock("l").try_once().acquire().wait().unwrap_err();
    assert_eq!(error.code(), Some(Code::LockHeld), "{error}");
    drop((first, second));
    drop(client.lock("l").acquire().wait().unwrap());
}

#[test]
fn a_wait_for_ones_own_guard_ends_with_its_time() {
    let fake = Fake::new(1, 1);
    let client = connect(&fake);
    let guard = client.lock("l").acquire().wait().unwrap();
    let begun = Instant::now();
    let error = client.lock("l").wait(ms(200)).acquire().wait().unwrap_err();
    assert_eq!(error.code(), Some(Code::LockTimeout), "{error}");
    assert!((ms(200)..ms(1_500)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    // Who gave up is not in line any more.
    drop(client.lock("l").wait(ms(5_000)).acquire());
    guard.release().wait().unwrap();
    drop(client.lock("l").acquire().wait().unwrap());
    assert_eq!(fake.seen(LockAcquire::KIND).len(), 2);
}

#[test]
fn what_was_refused_or_lost_is_in_nobodys_way() {
    let fake = Fake::new(1, 1);
    let client = config(&fake).session_ttl(Duration::from_secs(600)).connect().unwrap();
    fake.once(LockAcquire::KIND, refuse(Code::LockTimeout));
    client.lock("l").acquire().wait().unwrap_err();
    // A lease that is over, and then a session.
    let leased = client.lock("l").lease(ms(100)).acquire().wait().unwrap();
    let kept = client.lock("l").wait(Duration::from_secs(5)).acquire().wait().unwrap();
    assert!(!leased.is_valid() && kept.is_valid());
    fake.once(LockRelease::KIND, refuse(Code::SessionUnknown));
    client.release_lock("m", 1).wait().unwrap_err();
    assert!(!kept.is_valid());
    drop(client.lock("l").try_once().acquire().wait().unwrap());
}
