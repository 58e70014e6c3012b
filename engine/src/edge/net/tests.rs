use super::*;
use crate::edge::clock;
use crate::edge::ring::{Park, SMALL_SIZES};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use wire::Header;
use wire::message::Heartbeat;

/// A thread's connections without engines: every client is echoed.
struct Echo {
    ring: Ring,
    net: Net,
    listener: TcpListener,
    ended: Vec<(u32, Received)>,
}

impl Echo {
    fn new() -> Echo {
        Echo::with(Seats::MOST)
    }

    fn with(seats: Seats) -> Echo {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut ring = Ring::new(SMALL_SIZES).unwrap();
        let net = Net::new(&mut ring, listener.as_raw_fd(), seats).unwrap();
        Echo { ring, net, listener, ended: Vec::new() }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream
    }

    /// Turns until `done`, or for five seconds.
    fn until(&mut self, what: &str, done: impl Fn(&Echo) -> bool) {
        let since = clock::now();
        while !done(self) {
            assert!(clock::now().since(since) < Duration::from_secs(5), "{what}");
            self.turn();
        }
    }

    fn turn(&mut self) {
        let now = clock::now();
        let inline = self.net.flush(now, &mut self.ring).unwrap();
        self.ring.wait(Park::Watch, inline, Duration::from_millis(10)).unwrap();
        let mut completions = Vec::new();
        self.ring.drain(&mut completions);
        for completion in &completions {
            let (op, index) = crate::edge::core::read_token(completion.token);
            match op {
                Op::Accept => {
                    let fd = self.net.on_accept(now, &mut self.ring, completion).unwrap();
                    let index = self.net.insert(now, fd.unwrap(), Role::Greeting);
                    self.net.set_role(now, index, Role::Client { seat: 0 });
                }
                Op::Receive => {
                    let mut out = Vec::new();
                    let each = |frame: Whole<'_>| {
                        wire::frame(&mut out, &frame.header, |b| b.extend_from_slice(frame.body));
                    };
                    let got = self.net.on_receive(now, completion, index, Group::Clients, each);
                    // One that reads too slowly is dropped, as an engine's thread does.
                    if self.net.queue(now, index, &mut out, 4 << 20).is_err() {
                        self.net.close(now, &mut self.ring, index).unwrap();
                    }
                    self.ended(now, index, got);
                }
                Op::Send => {
                    let sent = self.net.on_send(now, completion, index);
                    self.ended(now, index, sent);
                }
                Op::Ignored => {}
                other => panic!("{other:?}"),
            }
            self.net.release_if_done(index);
        }
    }

    fn ended(&mut self, now: Time, index: u32, received: Received) {
        match received {
            Received::Gone => self.net.close(now, &mut self.ring, index).unwrap(),
            Received::Bad(error) => {
                self.net.refuse(now, index, code_of(error), "no frame");
            }
            _ => return,
        }
        self.ended.push((index, received));
    }
}

fn frame(request: u64, bytes: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let header = Header::new(Heartbeat::KIND, request);
    wire::frame(&mut out, &header, |body| body.extend(vec![request as u8; bytes]));
    out
}

#[test]
fn frames_of_every_size_come_back_as_they_went() {
    let mut echo = Echo::new();
    let mut stream = echo.connect();
    let mut sent = Vec::new();
    for (request, bytes) in [16, 0, 4096 - 56, 4097, 100_000, 1_000_000, 7].into_iter().enumerate()
    {
        sent.extend_from_slice(&frame(request as u64, bytes));
    }
    let expected = sent.clone();
    let mut writer = stream.try_clone().unwrap();
    let client = std::thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        let mut back = vec![0; sent.len()];
        stream.read_exact(&mut back).unwrap();
        back
    });
    echo.until("everything comes back", |_| client.is_finished());
    assert!(client.join().unwrap() == expected);
}

#[test]
fn a_slot_is_used_again_as_another_generation() {
    let mut echo = Echo::new();
    let first = echo.connect();
    echo.until("the first is taken in", |echo| echo.net.count() == 1);
    let old = echo.net.id(0);
    assert!(echo.net.is(old));
    drop(first);
    echo.until("the first is gone", |echo| echo.net.count() == 0);
    assert!(!echo.net.is(old));
    let _second = echo.connect();
    echo.until("the second is taken in", |echo| echo.net.count() == 1);
    let new = echo.net.id(0);
    assert_eq!((new.index, new.generation), (old.index, old.generation + 1));
    assert!(echo.net.is(new) && !echo.net.is(old));
}

#[test]
fn who_reads_too_slowly_is_dropped_and_others_are_served() {
    let mut echo = Echo::new();
    let slow = echo.connect();
    slow.set_nonblocking(true).unwrap();
    let bytes = frame(1, 60_000);
    let at = std::cell::Cell::new(0);
    echo.until("the slow one is dropped", |echo| {
        // It writes and never reads.
        while let Ok(wrote) = (&slow).write(&bytes[at.get()..]) {
            at.set((at.get() + wrote) % bytes.len());
        }
        !echo.net.is(ConnId { index: 0, generation: 0 }) && echo.net.conns.len() == 1
    });
    assert!(echo.ended.iter().all(|(_, received)| !matches!(received, Received::Bad(_))));
    let mut good = echo.connect();
    let bytes = frame(2, 100);
    good.write_all(&bytes).unwrap();
    let reader = std::thread::spawn(move || {
        let mut back = vec![0; 156];
        good.read_exact(&mut back).unwrap();
        back
    });
    echo.until("the good one is served", |_| reader.is_finished());
    assert_eq!(reader.join().unwrap(), bytes);
}

#[test]
fn what_was_queued_before_a_refusal_arrives_and_then_the_reason() {
    let mut echo = Echo::new();
    let mut stream = echo.connect();
    let mut bytes = frame(1, 50_000);
    bytes.extend_from_slice(&[0xff; 30_000]);
    stream.write_all(&bytes).unwrap();
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all
    });
    echo.until("the connection ends", |_| reader.is_finished());
    let all = reader.join().unwrap();
    assert!(all[..50_056] == bytes[..50_056], "what was queued arrives first");
    let last = wire::split(&all[50_056..], 4096).unwrap().unwrap();
    assert_eq!(last.header.kind, wire::message::Error::KIND);
    assert_eq!(echo.ended[0], (0, Received::Bad(WireError::Magic)));
    echo.until("the slot is free", |echo| echo.net.count() == 0);
}

#[test]
fn a_connection_that_never_speaks_is_overdue() {
    let mut echo = Echo::new();
    let (near, _far) = std::os::unix::net::UnixStream::pair().unwrap();
    let now = clock::now();
    let index = echo.net.insert(now, near.into(), Role::Greeting);
    let mut overdue = Vec::new();
    echo.net.sweep(now + HELLO_MAX / 2, &mut overdue);
    assert!(overdue.is_empty());
    assert!(echo.net.wake_at() < now + HELLO_MAX);
    echo.net.sweep(now + HELLO_MAX, &mut overdue);
    assert_eq!(overdue, [(echo.net.id(index), Overdue::Passing)]);
}

/// A connection of a role, whose other side is kept.
fn put(net: &mut Net, now: Time, role: Role) -> (u32, std::os::unix::net::UnixStream) {
    let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
    let index = net.insert(now, near.into(), Role::Greeting);
    if role != Role::Greeting {
        net.set_role(now, index, role);
    }
    (index, far)
}

/// Looks every half second from `from` on until somebody is overdue, or `to` is reached: when, and who.
fn look(net: &mut Net, from: Time, to: Duration) -> Option<(Duration, Vec<(ConnId, Overdue)>)> {
    let (mut now, mut overdue) = (from, Vec::new());
    while now < from + to {
        now = now + Duration::from_millis(500);
        net.sweep(now, &mut overdue);
        if !overdue.is_empty() {
            return Some((now.since(from), overdue));
        }
    }
    None
}

#[test]
fn the_oldest_newcomer_makes_room_for_the_next_and_clients_do_not() {
    let mut echo = Echo::with(Seats { clients: 2, newcomers: 2 });
    let (net, now) = (&mut echo.net, clock::now());
    let mut kept = Vec::new();
    for _ in 0..2 {
        kept.push(put(net, now, Role::Client { seat: 0 }));
        assert_eq!(net.displaced(), None);
    }
    assert!(net.is_full(), "a third client is refused");
    let [first, second] = [0, 1].map(|_| put(net, now, Role::Greeting));
    assert_eq!(net.displaced(), Some(first.0));
    net.close(now, &mut echo.ring, first.0).unwrap();
    assert_eq!(net.displaced(), None);
    // One that is refused is a newcomer until it has read why, and the youngest.
    let third = put(net, now, Role::Greeting);
    net.part(now, third.0);
    assert_eq!(net.displaced(), Some(second.0));
    // A peer needs no seat.
    put(net, now, Role::Peer { link: 0, seat: 0, peer: crate::ids::NodeId(2) });
    net.part(now, second.0);
    assert_eq!(net.displaced(), Some(third.0));
}

#[test]
fn a_peer_that_told_something_and_tells_nothing_more_is_given_up_within_three_seconds() {
    let mut echo = Echo::new();
    let (net, now) = (&mut echo.net, clock::now());
    let role = Role::Peer { link: 0, seat: 0, peer: crate::ids::NodeId(2) };
    let (index, _far) = put(net, now, role);
    assert_eq!(look(net, now, Duration::from_secs(60)), None, "an older build tells nothing");
    let now = now + Duration::from_secs(60);
    net.conns[index as usize].heard = now;
    net.on_pulse(index);
    let (after, overdue) = look(net, now, Duration::from_secs(60)).unwrap();
    assert_eq!(overdue, [(net.id(index), Overdue::Silent)]);
    assert!(after >= PEER_SILENT_MAX && after < Duration::from_secs(3), "{after:?}");
}

#[test]
fn a_thread_that_stood_still_listens_before_it_gives_anybody_up() {
    let mut echo = Echo::new();
    let (net, now) = (&mut echo.net, clock::now());
    let (index, _far) = put(net, now, Role::Peer { link: 0, seat: 0, peer: crate::ids::NodeId(2) });
    net.on_pulse(index);
    let mut overdue = Vec::new();
    let later = now + Duration::from_secs(100);
    net.sweep(later, &mut overdue);
    assert_eq!(overdue, []);
    assert!(look(net, later, Duration::from_secs(1)).is_some(), "one that is silent then is");
}

#[test]
fn a_client_that_is_silent_for_longer_than_any_wait_is_let_go() {
    let mut echo = Echo::new();
    let (net, now) = (&mut echo.net, clock::now());
    let (index, _far) = put(net, now, Role::Client { seat: 0 });
    let (after, overdue) = look(net, now, CLIENT_IDLE_MAX * 2).unwrap();
    assert_eq!(overdue, [(net.id(index), Overdue::Idle)]);
    assert!(after > CLIENT_IDLE_MAX && after < CLIENT_IDLE_MAX + Duration::from_secs(2));
}

/// Feeds bytes to a connection as if they had arrived.
fn feed(net: &mut Net, now: Time, index: u32, bytes: &[u8]) {
    let conn = &mut net.conns[index as usize];
    assert_eq!(conn.split(now, bytes, |_| {}), Received::Bytes);
    net.count_carried(index);
}

#[test]
fn a_frame_that_does_not_end_is_given_up_after_its_time() {
    let mut echo = Echo::new();
    let (net, now) = (&mut echo.net, clock::now());
    let (index, _far) = put(net, now, Role::Client { seat: 0 });
    let bytes = frame(1, 1000);
    feed(net, now, index, &bytes[..500]);
    let (after, overdue) = look(net, now, FRAME_MAX * 2).unwrap();
    assert_eq!(overdue, [(net.id(index), Overdue::Unfinished)]);
    assert!(after > FRAME_MAX && after < FRAME_MAX + Duration::from_secs(1));
    feed(net, now + after, index, &bytes[500..]);
    assert_eq!(look(net, now + after, FRAME_MAX * 2), None, "one that ended is no burden");
}

#[test]
fn unfinished_frames_take_no_more_than_their_share_and_the_youngest_stay() {
    let mut echo = Echo::new();
    let (net, now) = (&mut echo.net, clock::now());
    let bytes = frame(1, 1 << 20);
    let begun = UNFINISHED_BYTES_MAX / bytes.len() + 8;
    let mut kept = Vec::new();
    let mut gone = 0;
    for at in 0..begun {
        let now = now + Duration::from_micros(at as u64);
        let (index, far) = put(net, now, Role::Client { seat: 0 });
        kept.push(far);
        for piece in bytes[..bytes.len() - 1].chunks(4096) {
            feed(net, now, index, piece);
        }
        let mut overdue = Vec::new();
        net.sweep(now, &mut overdue);
        for (conn, why) in overdue {
            assert_eq!((conn.index, why), (gone, Overdue::Crowding), "the oldest goes first");
            gone += 1;
            net.part(now, conn.index);
        }
        assert!(net.carried <= UNFINISHED_BYTES_MAX, "{} bytes", net.carried);
    }
    assert!(gone > 0 && (gone as usize) < begun / 2, "{gone} of {begun} were given up");
}

#[test]
fn whoever_does_not_read_is_told_of_once_and_given_up_only_when_all_wait_for_too_much() {
    let mut echo = Echo::new();
    let (net, now) = (&mut echo.net, clock::now());
    let mut kept = Vec::new();
    let mut told = 0;
    while net.crowd() != Some(Crowd::Begins) {
        let (index, far) = put(net, now, Role::Client { seat: 0 });
        kept.push(far);
        for _ in 0..5 {
            net.queue(now, index, &mut vec![7; 1 << 20], usize::MAX).unwrap();
            told += u32::from(net.is_filled(index));
        }
        assert!(kept.len() < 100, "too much is queued at some time");
    }
    assert_eq!(told as usize, kept.len(), "each engine is told once of each");
    assert!(net.owed > OUTBOXES_BYTES_MAX && net.owed < OUTBOXES_BYTES_MAX + (8 << 20));
    let (after, overdue) = look(net, now, STUCK_MAX * 2).unwrap();
    assert_eq!(overdue.len(), kept.len());
    assert!(after > STUCK_MAX && after <= STUCK_MAX + Duration::from_secs(1), "{after:?}");
    for (conn, why) in overdue {
        assert_eq!(why, Overdue::Stuck);
        net.close(now, &mut echo.ring, conn.index).unwrap();
    }
    echo.until("their bytes are given back", |echo| echo.net.owed == 0);
    assert_eq!(echo.net.crowd(), Some(Crowd::Ends));
}

#[test]
fn an_attempt_to_connect_that_is_not_answered_ends_before_the_kernel_s_next_try() {
    let mut echo = Echo::new();
    let (net, now) = (&mut echo.net, clock::now());
    let (index, _far) = put(net, now, Role::Dialing { link: 0 });
    let mut overdue = Vec::new();
    net.sweep(now + DIAL_MAX, &mut overdue);
    assert_eq!(overdue, [(net.id(index), Overdue::Passing)]);
    assert!(DIAL_MAX + crate::edge::links::BACKOFF_MAX < Duration::from_secs(2));
}
