use super::*;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{FromRawFd, OwnedFd};

const PATIENCE: Duration = Duration::from_secs(5);

fn one(ring: &mut Ring, completions: &mut Vec<Completion>) -> Completion {
    let until = Instant::now() + PATIENCE;
    while completions.is_empty() {
        assert!(Instant::now() < until, "nothing completed");
        ring.wait(Park::Watch, 0, Duration::from_millis(100)).unwrap();
        ring.drain(completions);
    }
    completions.remove(0)
}

#[test]
fn what_arrives_is_in_a_provided_buffer_and_buffers_are_used_again() {
    let mut ring = Ring::new(SMALL_SIZES).unwrap();
    let mut buffers = BufferRing::new(&ring, 0, 4, 4096).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    ring.accept_multi(listener.as_raw_fd(), 1).unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let mut completions = Vec::new();
    let accepted = one(&mut ring, &mut completions);
    assert_eq!(accepted.token, 1);
    assert!(accepted.more());
    // SAFETY: the kernel just gave us this descriptor.
    let server = unsafe { OwnedFd::from_raw_fd(accepted.result) };
    ring.recv_multi(server.as_raw_fd(), &buffers, 2).unwrap();
    for round in 0..20u8 {
        client.write_all(&[round; 100]).unwrap();
        let got = one(&mut ring, &mut completions);
        assert_eq!(got.token, 2);
        assert!(got.more());
        let bytes = buffers.filled(&got).unwrap().to_vec();
        assert_eq!(bytes, [round; 100]);
        buffers.give_back(&got);
        let reply = opcode::Send::new(Fd(server.as_raw_fd()), bytes.as_ptr(), 100).build();
        // SAFETY: `bytes` lives until the completion below.
        unsafe { ring.push(&reply.user_data(3)).unwrap() };
        assert_eq!(one(&mut ring, &mut completions).result, 100);
        client.read_exact(&mut [0; 100]).unwrap();
    }
    drop(client);
    let end = one(&mut ring, &mut completions);
    assert_eq!((end.result, end.more()), (0, false));
}

#[test]
fn without_buffers_a_receive_ends_and_can_be_armed_again() {
    let mut ring = Ring::new(SMALL_SIZES).unwrap();
    let mut buffers = BufferRing::new(&ring, 0, 1, 16).unwrap();
    let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
    ring.recv_multi(near.as_raw_fd(), &buffers, 7).unwrap();
    (&far).write_all(&[1; 40]).unwrap();
    let mut completions = Vec::new();
    let first = one(&mut ring, &mut completions);
    assert_eq!(buffers.filled(&first), Some(&[1; 16][..]));
    let second = one(&mut ring, &mut completions);
    assert_eq!((second.result, second.more()), (-libc::ENOBUFS, false));
    buffers.give_back(&first);
    ring.recv_multi(near.as_raw_fd(), &buffers, 7).unwrap();
    assert_eq!(one(&mut ring, &mut completions).result, 16);
}

#[test]
fn a_wait_ends_with_its_timeout() {
    let mut ring = Ring::new(SMALL_SIZES).unwrap();
    let since = Instant::now();
    ring.wait(Park::Block, 0, Duration::from_millis(20)).unwrap();
    ring.wait(Park::Watch, 0, Duration::from_millis(20)).unwrap();
    assert!(since.elapsed() >= Duration::from_millis(40));
    assert!(since.elapsed() < PATIENCE);
}

#[test]
fn a_canceled_receive_completes() {
    let mut ring = Ring::new(SMALL_SIZES).unwrap();
    let buffers = BufferRing::new(&ring, 0, 1, 16).unwrap();
    let (near, _far) = std::os::unix::net::UnixStream::pair().unwrap();
    ring.recv_multi(near.as_raw_fd(), &buffers, 7).unwrap();
    ring.cancel(near.as_raw_fd(), 8).unwrap();
    let mut completions = Vec::new();
    let mut tokens = [one(&mut ring, &mut completions), one(&mut ring, &mut completions)]
        .map(|completion| (completion.token, completion.result));
    tokens.sort_unstable();
    assert_eq!(tokens, [(7, -libc::ECANCELED), (8, 1)]);
}

#[test]
fn an_error_says_what_to_do() {
    let forbidden = explain(io::Error::from_raw_os_error(libc::EACCES)).to_string();
    assert!(forbidden.contains("seccomp"), "{forbidden}");
    let memlock = explain(io::Error::from_raw_os_error(libc::ENOMEM)).to_string();
    assert!(memlock.contains("ulimit -l"), "{memlock}");
    assert!(kernel() >= Some((6, 1)));
}
