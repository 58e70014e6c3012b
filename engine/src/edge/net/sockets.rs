//! What the kernel is told about a socket: how soon it gives the other side up.

use std::os::fd::{AsRawFd, OwnedFd};

/// How soon the other side is given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Manners {
    /// It is asked for a sign of life once it was silent for so long, in seconds.
    asked_after_s: u32,
    /// And again so often, in seconds.
    asked_every_s: u32,
    /// It is given up after so many questions without an answer.
    questions: u32,
    /// And once it did not acknowledge what was sent for so long, or did not read it, in milliseconds.
    unacknowledged_ms: u32,
}

impl Manners {
    /// A client: its machine may be gone for a minute before anybody has a use for its seat.
    pub const CLIENT: Manners =
        Manners { asked_after_s: 30, asked_every_s: 10, questions: 3, unacknowledged_ms: 60_000 };
    /// A peer, which tells something ten times a second.
    pub const PEER: Manners =
        Manners { asked_after_s: 3, asked_every_s: 1, questions: 3, unacknowledged_ms: 5_000 };

    /// How long a machine that vanished is not noticed, in milliseconds.
    const fn silence_ms(self) -> u32 {
        (self.asked_after_s + self.asked_every_s * self.questions) * 1000
    }
}

const _: () = assert!(Manners::CLIENT.silence_ms() == Manners::CLIENT.unacknowledged_ms);
const _: () = assert!(Manners::PEER.silence_ms() < Manners::CLIENT.silence_ms());

/// Tells the kernel. A socket that is none of TCP's (a Unix one, in a test) needs none of it.
pub fn tune(fd: &OwnedFd, manners: Manners) {
    set(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
    set(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1);
    set(fd, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, manners.asked_after_s);
    set(fd, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, manners.asked_every_s);
    set(fd, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, manners.questions);
    set(fd, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, manners.unacknowledged_ms);
}

fn set(fd: &OwnedFd, level: libc::c_int, name: libc::c_int, value: u32) {
    let value = value.cast_signed();
    // SAFETY: `value` is a c_int that lives for the length of the call.
    unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    fn get(fd: &OwnedFd, level: libc::c_int, name: libc::c_int) -> libc::c_int {
        let (mut value, mut length) = (0, size_of::<libc::c_int>() as libc::socklen_t);
        // SAFETY: both are alive for the call, and the length is that of the value.
        let got = unsafe {
            let value: *mut libc::c_int = &raw mut value;
            libc::getsockopt(fd.as_raw_fd(), level, name, value.cast(), &raw mut length)
        };
        assert_eq!(got, 0);
        value
    }

    #[test]
    fn the_kernel_gives_a_vanished_machine_up_after_a_minute_and_a_peer_within_seconds() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let fd: OwnedFd = TcpStream::connect(listener.local_addr().unwrap()).unwrap().into();
        for (manners, silence_s) in [(Manners::CLIENT, 60), (Manners::PEER, 6)] {
            tune(&fd, manners);
            assert_eq!(get(&fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE), 1);
            let [idle, every, count] = [libc::TCP_KEEPIDLE, libc::TCP_KEEPINTVL, libc::TCP_KEEPCNT]
                .map(|name| get(&fd, libc::IPPROTO_TCP, name));
            assert_eq!(idle + every * count, silence_s);
            let unacknowledged = get(&fd, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT);
            assert!((1..=silence_s * 1000).contains(&unacknowledged));
        }
    }
}
