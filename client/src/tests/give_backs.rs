//! Releases, acknowledgements and what else gives something back: never forgotten while the session lives.

use super::fake::{Act, Fake, refuse};
use super::{config, connect, eventually, ms};
use crate::{Client, Code};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use wire::message::{LockAcquire, LockRelease, QueueAck, QueueNack};

/// A client whose lock "b" is waited for, while as many calls were made as the window has room for.
fn with_a_full_window(fake: &Fake) -> (Client, crate::LockGuard, crate::Pending<crate::LockGuard>) {
    let client = config(fake).deadline(ms(500)).connect().unwrap();
    let guard = client.lock("a").acquire().wait().unwrap();
    fake.rule(|seen| match seen.kind {
        LockAcquire::KIND => Act::Swallow,
        _ => Act::Serve,
    });
    let waits = client.lock("b").wait(Duration::from_secs(60)).acquire();
    for n in 0..300 {
        if client.cache().put(format!("k{n}"), "v").wait().is_err() {
            return (client, guard, waits);
        }
    }
    panic!("the window is never full");
}

#[test]
fn a_guard_that_is_dropped_while_the_window_is_full_is_released() {
    let fake = Fake::new(1, 1);
    let (_client, guard, _waits) = with_a_full_window(&fake);
    let fence = guard.fence();
    drop(guard);
    eventually("it is released", || fake.memory.lock().unwrap().released == [fence]);
}

#[test]
fn a_message_is_acknowledged_while_the_window_is_full() {
    let fake = Fake::new(1, 1);
    let (client, guard, _waits) = with_a_full_window(&fake);
    client.queue("q").ack(1, 1).wait().unwrap();
    client.queue("q").nack(2, 1, Duration::ZERO).wait().unwrap();
    guard.release().wait().unwrap();
}

#[test]
fn what_is_refused_for_longer_than_its_deadline_is_given_back_all_the_same() {
    for kind in [LockRelease::KIND, QueueAck::KIND, QueueNack::KIND] {
        let fake = Fake::new(1, 1);
        let client = config(&fake).deadline(ms(200)).connect().unwrap();
        client.queue("q").push("x").wait().unwrap();
        let guard = client.lock("a").acquire().wait().unwrap();
        let message = client.queue("q").pop(ms(60_000), Duration::ZERO).wait().unwrap().unwrap();
        fake.rule(move |seen| if seen.kind == kind { refuse(Code::Busy) } else { Act::Serve });
        let given_back = match kind {
            LockRelease::KIND => guard.release(),
            QueueAck::KIND => message.ack(),
            _ => message.nack(Duration::ZERO),
        };
        let error = given_back.wait().unwrap_err();
        assert!(error.is_outcome_unknown(), "the client goes on trying: {error}");
        fake.rule(|_| Act::Serve);
        let applied = || fake.memory.lock().unwrap().given_back();
        eventually("it is given back", || applied() == 1);
    }
}

#[test]
fn a_release_that_nobody_waits_for_is_sent() {
    let fake = Fake::new(1, 1);
    let client = connect(&fake);
    let guard = client.lock("a").acquire().wait().unwrap();
    let refused = Arc::new(AtomicBool::new(false));
    let seen_it = Arc::clone(&refused);
    fake.rule(move |seen| match seen.kind {
        LockRelease::KIND if !seen_it.swap(true, Ordering::SeqCst) => {
            Act::Refuse { code: Code::Busy, retry_ms: 50, node: 0 }
        }
        _ => Act::Serve,
    });
    let release = guard.release();
    eventually("it was refused once", || refused.load(Ordering::SeqCst));
    std::thread::sleep(ms(10));
    drop(release);
    eventually("it is released", || fake.memory.lock().unwrap().released.len() == 1);
}
