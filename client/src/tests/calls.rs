use super::fake::{Act, Fake, refuse};
use super::{config, connect, eventually, ms};
use crate::limits::SEATS_RESERVED;
use crate::{Code, Config, Error};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use wire::limits::WINDOW_REPLIES_MAX;
use wire::message::{
    CacheGet, CachePut, LockAcquire, QueuePop, SessionClose, SessionOpen, Topology,
};

#[test]
fn everything_works_once() {
    let fake = Fake::new(3, 12);
    let client = connect(&fake);
    let cache = client.cache();
    assert_eq!(cache.get("k").wait().unwrap(), None);
    let version = cache.put("k", "v").ttl(Duration::from_secs(9)).if_absent().wait().unwrap();
    let line = cache.get("k").wait().unwrap().unwrap();
    assert_eq!((line.version, line.value), (version, "v".into()));
    let error = cache.put("k", "w").if_absent().wait().unwrap_err();
    assert_eq!(error.code(), Some(Code::VersionMismatch));
    assert_eq!(cache.delete("k").if_version(version).wait().unwrap(), Some(version));
    assert_eq!(cache.delete("k").wait().unwrap(), None);

    let queue = client.queue("q");
    assert!(queue.pop(ms(500), Duration::ZERO).wait().unwrap().is_none());
    let id = queue.push(vec![0, 255]).wait().unwrap();
    let message = queue.pop(ms(500), ms(10)).wait().unwrap().unwrap();
    assert_eq!((message.id, &message.payload[..]), (id, &[0, 255][..]));
    message.ack().wait().unwrap();

    let first = client.lock("l").acquire().wait().unwrap();
    let other = connect(&fake);
    let second = other.lock("l").shared().lease(ms(400)).try_once().acquire().wait().unwrap();
    assert!(first.is_valid() && second.is_valid() && second.fence() > first.fence());
    first.release().wait().unwrap();
    drop(second);
    eventually("the dropped guard is released", || fake.memory.lock().unwrap().released.len() == 2);
    fake.nothing_was_applied_twice();
    client.close();
    assert!(!fake.seen(SessionClose::KIND).is_empty());
}

#[test]
fn a_retry_keeps_the_sequence_and_is_applied_once() {
    for act in [Act::ApplyAndClose, Act::Close, refuse(Code::Unavailable), refuse(Code::Stopping)] {
        let fake = Fake::new(1, 1);
        let client = connect(&fake);
        fake.once(CachePut::KIND, act);
        client.cache().put("k", "v").wait().unwrap();
        let tries = fake.seen(CachePut::KIND);
        assert_eq!(tries.len(), 2, "{act:?}");
        assert_eq!(tries[0].sequence, tries[1].sequence);
        assert_eq!(tries[0].session, tries[1].session);
        assert_ne!(tries[0].header.request, tries[1].header.request);
        fake.nothing_was_applied_twice();
    }
}

#[test]
fn a_redirect_is_followed_at_once() {
    let fake = Fake::new(3, 4);
    let client = connect(&fake);
    fake.lead(3);
    let asked = fake.seen(Topology::KIND).len();
    client.cache().put("k", "v").wait().unwrap();
    let tries = fake.seen(CachePut::KIND);
    assert_eq!(tries.iter().map(|t| t.node).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(fake.seen(Topology::KIND).len(), asked, "the hint was enough");
    client.cache().put("k", "w").wait().unwrap();
    assert_eq!(fake.seen(CachePut::KIND).last().unwrap().node, 3, "it was remembered");
}

#[test]
fn a_dead_leader_is_replaced_by_the_topology() {
    let fake = Fake::new(3, 4);
    let client = connect(&fake);
    client.cache().put("k", "v").wait().unwrap();
    fake.stop(1, 2);
    client.cache().put("k", "w").wait().unwrap();
    assert_eq!(fake.seen(CachePut::KIND).last().unwrap().node, 2);
    fake.nothing_was_applied_twice();
}

#[test]
fn busy_waits_as_long_as_it_is_told() {
    let fake = Fake::new(1, 1);
    let client = connect(&fake);
    fake.once(CacheGet::KIND, Act::Refuse { code: Code::Busy, retry_ms: 150, node: 0 });
    let begun = Instant::now();
    client.cache().get("k").wait().unwrap();
    assert!(begun.elapsed() >= ms(150));
}

#[test]
fn an_unanswered_write_has_an_unknown_outcome() {
    let fake = Fake::new(1, 1);
    let client = config(&fake).deadline(ms(300)).connect().unwrap();
    fake.rule(|s| if s.kind == CachePut::KIND { Act::Swallow } else { Act::Serve });
    let error = client.cache().put("k", "v").wait().unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
    assert_eq!(error.code(), Some(Code::OutcomeUnknown));
    fake.rule(|_| Act::Serve);
    client.cache().put("k", "w").wait().unwrap();
    let last = fake.seen(CachePut::KIND).pop().unwrap();
    assert_eq!((last.sequence, last.answered_below), (2, 2), "the old one is given up for good");
}

#[test]
fn a_refused_write_was_certainly_not_applied() {
    let fake = Fake::new(1, 1);
    let client = config(&fake).deadline(ms(200)).connect().unwrap();
    fake.rule(|s| if s.kind == CachePut::KIND { refuse(Code::Busy) } else { Act::Serve });
    let error = client.cache().put("k", "v").wait().unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }), "{error}");
    fake.rule(|s| if s.kind == CacheGet::KIND { Act::Swallow } else { Act::Serve });
    let error = client.cache().get("k").wait().unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }), "{error}");
    // A deposed leader says so of what it had begun, too.
    fake.rule(|s| if s.kind == CachePut::KIND { refuse(Code::Unavailable) } else { Act::Serve });
    let error = client.cache().put("k", "v").wait().unwrap_err();
    assert!(error.is_outcome_unknown(), "{error}");
}

#[test]
fn nobody_there_is_said_with_every_address() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let begun = Instant::now();
    let connect = Config::new([gone.to_string(), "nowhere.invalid:1".into()]).deadline(ms(300));
    let error = connect.connect().err().unwrap();
    assert!(error.to_string().contains(&gone.to_string()), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn the_window_is_bounded_and_moves_on() {
    // What gives something back may take the rest.
    let room = WINDOW_REPLIES_MAX - SEATS_RESERVED;
    let fake = Fake::new(1, 1);
    let client = connect(&fake);
    let open = Arc::new(Mutex::new(true));
    let shut = Arc::clone(&open);
    client.cache().put("k", "v").wait().unwrap();
    fake.rule(move |s| match s.kind {
        CachePut::KIND if *shut.lock().unwrap() => refuse(Code::Busy),
        _ => Act::Serve,
    });
    let puts: Vec<_> = (0..600).map(|_| client.cache().put("k", "v").send()).collect();
    eventually("the window is full", || {
        fake.seen(CachePut::KIND).iter().map(|s| s.sequence).max() == Some(1 + room)
    });
    std::thread::sleep(ms(100));
    for seen in fake.seen(CachePut::KIND) {
        assert!(seen.sequence < seen.answered_below + room, "{seen:?}");
        assert!(seen.sequence <= 1 + room);
    }
    *open.lock().unwrap() = false;
    for put in puts {
        put.wait().unwrap();
    }
    assert!(fake.seen(CachePut::KIND).iter().all(|s| s.sequence < s.answered_below + room));
    fake.nothing_was_applied_twice();
}

#[test]
fn the_opening_goes_ahead_of_the_first_call_and_again_if_it_was_lost() {
    let fake = Fake::new(1, 1);
    let client = connect(&fake);
    fake.once(SessionOpen::KIND, refuse(Code::Busy));
    client.cache().put("k", "v").wait().unwrap();
    client.cache().put("k", "v").wait().unwrap();
    assert_eq!(fake.seen(SessionOpen::KIND).len(), 2);
    assert_eq!(fake.seen(CachePut::KIND).iter().map(|s| s.sequence).collect::<Vec<_>>(), [1, 1, 2]);
    fake.nothing_was_applied_twice();
}

#[test]
fn a_pop_whose_message_went_back_pops_anew() {
    let fake = Fake::new(1, 1);
    let client = connect(&fake);
    client.queue("q").push("x").wait().unwrap();
    fake.once(QueuePop::KIND, refuse(Code::MessageUnknown));
    let message = client.queue("q").pop(ms(500), ms(50)).wait().unwrap().unwrap();
    assert_eq!(message.payload, "x");
    let pops = fake.seen(QueuePop::KIND);
    assert_eq!(pops.iter().map(|p| p.sequence).collect::<Vec<_>>(), [2, 3]);
}

#[test]
fn a_waiting_pop_does_not_hold_the_window_back() {
    let fake = Fake::new(1, 1);
    let client = connect(&fake);
    fake.rule(|s| if s.kind == QueuePop::KIND { Act::Swallow } else { Act::Serve });
    let pop = client.queue("q").pop(ms(500), Duration::from_secs(60));
    eventually("it waits", || fake.seen(QueuePop::KIND).len() == 1);
    let puts: Vec<_> = (0..600).map(|_| client.cache().put("k", "v").send()).collect();
    for put in puts {
        put.wait().unwrap();
    }
    assert!(fake.seen(CachePut::KIND).last().unwrap().answered_below > 256);
    client.queue("q").push("x").wait().unwrap();
    // Its old sequence is gone for good, so after a break it pops anew.
    fake.once(CacheGet::KIND, Act::Close);
    client.cache().get("k").wait().unwrap();
    assert_eq!(pop.wait().unwrap().unwrap().payload, "x");
    let pops = fake.seen(QueuePop::KIND);
    assert!(pops[1].sequence > 600, "{}", pops[1].sequence);
    fake.nothing_was_applied_twice();
}

#[test]
fn a_late_grant_to_nobody_is_released() {
    let fake = Fake::new(1, 1);
    let client = config(&fake).deadline(ms(200)).connect().unwrap();
    fake.once(LockAcquire::KIND, Act::Late(ms(600)));
    let error = client.lock("l").try_once().acquire().wait().unwrap_err();
    assert!(error.is_outcome_unknown(), "{error}");
    eventually("it is released", || fake.memory.lock().unwrap().released.len() == 1);

    client.queue("q").push("x").wait().unwrap();
    fake.once(QueuePop::KIND, Act::Late(ms(100)));
    let pop = client.queue("q").pop(ms(1000), ms(50));
    eventually("it is sent", || fake.seen(QueuePop::KIND).len() == 1);
    drop(pop);
    eventually("it is given back", || fake.memory.lock().unwrap().nacked.len() == 1);
    fake.nothing_was_applied_twice();
}

#[test]
fn an_answer_nobody_took_is_given_back() {
    let fake = Fake::new(1, 1);
    let client = connect(&fake);
    let acquire = client.lock("l").acquire();
    eventually("it is granted", || fake.seen(LockAcquire::KIND).len() == 1);
    std::thread::sleep(ms(50));
    drop(acquire);
    eventually("it is released", || fake.memory.lock().unwrap().released.len() == 1);
}

#[test]
fn a_waiting_call_survives_its_connection() {
    let fake = Fake::new(2, 1);
    let client = connect(&fake);
    fake.once(LockAcquire::KIND, Act::ApplyAndClose);
    let guard = client.lock("l").wait(Duration::from_secs(20)).acquire().wait().unwrap();
    assert!(guard.is_valid());
    let tries = fake.seen(LockAcquire::KIND);
    assert_eq!(tries.len(), 2);
    assert_eq!(tries[0].sequence, tries[1].sequence);
    fake.nothing_was_applied_twice();
}

#[test]
fn a_silent_connection_is_given_up() {
    let fake = Fake::new(1, 1);
    let client = config(&fake).session_ttl(Duration::from_secs(1)).connect().unwrap();
    client.cache().put("k", "v").wait().unwrap();
    // Everything on this connection vanishes; the next one works.
    let calls = Arc::new(AtomicU32::new(0));
    let hush = Arc::clone(&calls);
    fake.rule(move |s| match s.kind {
        CachePut::KIND if hush.fetch_add(1, Ordering::SeqCst) == 0 => Act::Swallow,
        _ if s.kind != CachePut::KIND && hush.load(Ordering::SeqCst) == 1 => Act::Swallow,
        _ => Act::Serve,
    });
    client.cache().put("k", "w").wait().unwrap();
    assert!(calls.load(Ordering::SeqCst) >= 2);
    fake.nothing_was_applied_twice();
}

#[test]
fn random_faults_lose_nothing_and_double_nothing() {
    let fake = Fake::new(3, 6);
    let client = config(&fake).deadline(Duration::from_secs(20)).connect().unwrap();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    fake.rule(move |seen| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        match (random % 100, seen.sequence) {
            (0..2, _) => Act::Close,
            (2..4, _) => Act::ApplyAndClose,
            (4..8, _) => Act::Late(ms(random % 20)),
            (8..12, 1..) => refuse(Code::Busy),
            (12..15, 1..) => refuse(Code::Unavailable),
            (15..18, 1..) => Act::Refuse { code: Code::NotLeader, retry_ms: 0, node: 2 },
            _ => Act::Serve,
        }
    });
    let pushed: Vec<u64> = std::thread::scope(|scope| {
        let push = |thread: usize| {
            let queue = client.queue(format!("q{thread}"));
            move || (0..40).map(|n| queue.push(format!("{n}")).wait().unwrap()).collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..8).map(|t| scope.spawn(push(t))).collect();
        threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
    });
    fake.nothing_was_applied_twice();
    let memory = fake.memory.lock().unwrap();
    let mut there: Vec<u64> = memory.queues.values().flatten().map(|(id, _)| *id).collect();
    there.sort_unstable();
    let mut pushed = pushed;
    pushed.sort_unstable();
    assert_eq!(pushed, there);
    for queue in memory.queues.values() {
        let order: Vec<_> = queue.iter().map(|(_, payload)| payload.clone()).collect();
        let expected: Vec<_> = (0..40).map(|n| format!("{n}").into_bytes()).collect();
        assert_eq!(order, expected, "in the order of the pushes");
    }
}

#[test]
fn an_awaited_call_needs_no_runtime() {
    struct Thread(std::thread::Thread);
    impl std::task::Wake for Thread {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    fn block_on<F: Future>(future: F) -> F::Output {
        let waker = Arc::new(Thread(std::thread::current())).into();
        let mut context = std::task::Context::from_waker(&waker);
        let mut future = std::pin::pin!(future);
        loop {
            if let std::task::Poll::Ready(ready) = future.as_mut().poll(&mut context) {
                return ready;
            }
            std::thread::park();
        }
    }
    let fake = Fake::new(1, 2);
    block_on(async {
        let client = config(&fake).start().await.unwrap();
        let version = client.cache().put("k", "v").if_absent().await.unwrap();
        let line = client.cache().get("k").await.unwrap().unwrap();
        assert_eq!(line.version, version);
        client.lock("l").acquire().await.unwrap().release().await.unwrap();
    });
}

#[test]
fn what_is_out_of_range_is_never_sent() {
    let fake = Fake::new(1, 1);
    let client = connect(&fake);
    let invalid = |error: Error| assert!(matches!(error, Error::Invalid { .. }), "{error}");
    invalid(client.cache().get("").wait().unwrap_err());
    invalid(client.cache().put("k", vec![0; (1 << 20) + 1]).wait().unwrap_err());
    invalid(client.cache().put("k", "v").ttl(Duration::ZERO).wait().unwrap_err());
    invalid(client.queue("q").pop(Duration::ZERO, ms(1)).wait().unwrap_err());
    invalid(client.lock(vec![b'x'; 513]).acquire().wait().unwrap_err());
    invalid(client.lock("l").lease(Duration::ZERO).acquire().wait().unwrap_err());
    invalid(client.lock("l").wait(Duration::from_secs(601)).acquire().wait().unwrap_err());
    invalid(config(&fake).session_ttl(ms(5)).connect().err().unwrap());
    assert!(fake.seen(CacheGet::KIND).is_empty());
}
