use super::*;
use crate::edge::clock;
use crate::edge::ring::{Park, SMALL_SIZES};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
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
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut ring = Ring::new(SMALL_SIZES).unwrap();
        let net = Net::new(&mut ring, listener.as_raw_fd()).unwrap();
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
                    let index = self.net.insert(now, fd.unwrap(), Role::Greeting).unwrap();
                    self.net.set_role(now, index, Role::Client { seat: 0 });
                }
                Op::Receive => {
                    let mut out = Vec::new();
                    let each = |frame: Whole<'_>| {
                        wire::frame(&mut out, &frame.header, |b| b.extend_from_slice(frame.body));
                    };
                    let got = self.net.on_receive(now, completion, index, Group::Clients, each);
                    // One that reads too slowly is dropped, as an engine's thread does.
                    if self.net.queue(index, &mut out, 4 << 20).is_err() {
                        self.net.close(now, &mut self.ring, index).unwrap();
                    }
                    self.ended(now, index, got);
                }
                Op::Send => {
                    let sent = self.net.on_send(completion, index);
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
    let index = echo.net.insert(now, near.into(), Role::Greeting).unwrap();
    let mut overdue = Vec::new();
    echo.net.sweep(now + HELLO_MAX / 2, &mut overdue);
    assert!(overdue.is_empty());
    assert!(echo.net.wake_at() < now + HELLO_MAX);
    echo.net.sweep(now + HELLO_MAX, &mut overdue);
    assert_eq!(overdue, [index]);
}
