//! The clients' connections as the engine sees them: what each may still ask for, and what it may be given.

use super::calls::Caller;
use crate::ids::{ConnId, GroupId, SessionId};
use crate::limits::{ANSWER_SMALL_BYTES_MAX, ANSWERS_CLIENT_BYTES_MAX, ANSWERS_TURN_BYTES_MAX};
use crate::limits::{CREDIT_BYTES, CREDIT_BYTES_RESERVED, CREDIT_FRAMES, CREDIT_FRAMES_RESERVED};
use crate::time::{Duration, Time};
use alloc::boxed::Box;
use alloc::vec::Vec;
use wire::bytes::u32_at;
use wire::request::Facts;

/// From which version of the protocol on a refusal may come with a detail.
const DETAILS_FROM: u8 = 2;
/// How often a session's calls in a shard count as a sign of life.
const TOUCH_EVERY: Duration = Duration::from_millis(200);
/// Signs of life that a connection remembers, each at a place of its own. Two that share a place both count, more often
/// than they need.
const TOUCHES: usize = 1 << TOUCHES_BITS;
const TOUCHES_BITS: u32 = 3;

/// One connection.
#[derive(Clone)]
struct Conn {
    generation: u32,
    open: Open,
    /// Frames that are not answered yet.
    unanswered: u32,
    /// What they are together, in bytes.
    unanswered_bytes: u64,
    /// When its calls last counted as signs of life.
    touches: Box<[Touch; TOUCHES]>,
    /// Whether it has to read before it gets more that is large.
    filled: bool,
    /// The version of the protocol that both speak.
    version: u8,
}

/// When calls last counted as a sign of life, and of which session in which shard.
#[derive(Clone, Copy)]
struct Touch {
    whose: (GroupId, SessionId),
    at: Time,
}

impl Touch {
    const NONE: Touch = Touch { whose: (GroupId(0), SessionId([0; 16])), at: Time::ZERO };

    /// Where it is remembered.
    fn place((GroupId(group), SessionId(session)): (GroupId, SessionId)) -> usize {
        let session = u32_at(&session, 0);
        // An engine's groups are alike in their last bits.
        let mixed = (group ^ session).wrapping_mul(0x9E37_79B9);
        (mixed >> (u32::BITS - TOUCHES_BITS)) as usize
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Open {
    Open,
    Closed,
}

/// All connections of an engine.
#[derive(Default)]
pub struct Conns {
    conns: Vec<Conn>,
    open: u32,
    /// Whether too much waits for all clients together.
    crowded: bool,
    /// What was answered in this turn that is larger than small, in bytes.
    answered: usize,
}

impl Conns {
    /// A connection stands, and speaks this version of the protocol.
    pub fn open(&mut self, id: ConnId, version: u8) {
        let closed = Conn {
            generation: 0,
            open: Open::Closed,
            unanswered: 0,
            unanswered_bytes: 0,
            touches: Box::new([Touch::NONE; TOUCHES]),
            filled: false,
            version,
        };
        let at = id.index as usize;
        if at >= self.conns.len() {
            self.conns.resize(at + 1, closed.clone());
        }
        assert!(self.conns[at].open == Open::Closed, "a connection's place is used once at a time");
        self.conns[at] = Conn { generation: id.generation, open: Open::Open, ..closed };
        self.open += 1;
    }

    /// A connection is gone.
    pub fn close(&mut self, id: ConnId) {
        if self.get(id).is_some() {
            self.conns[id.index as usize].open = Open::Closed;
            self.open -= 1;
        }
    }

    /// Whether it knows what a refusal with a detail is.
    pub fn reads_details(&mut self, id: ConnId) -> bool {
        self.get(id).is_some_and(|conn| conn.version >= DETAILS_FROM)
    }

    /// How many are open.
    pub fn open_count(&self) -> u32 {
        self.open
    }

    /// A frame that will be answered came in. False: the credit is used up, answer so.
    ///
    /// What gives something back finds a place when the credit is used up: were a client's frames all
    /// acquires that wait for its own release, none would ever be answered.
    pub fn admit(&mut self, from: Caller, facts: Option<&Facts>) -> bool {
        let Some(conn) = self.get(from.conn) else { return false };
        conn.unanswered += 1;
        conn.unanswered_bytes += u64::from(from.bytes);
        let gives_back = facts.is_some_and(|facts| facts.gives_back);
        let reserved =
            if gives_back { (CREDIT_FRAMES_RESERVED, CREDIT_BYTES_RESERVED) } else { (0, 0) };
        conn.unanswered <= CREDIT_FRAMES + reserved.0
            && conn.unanswered_bytes <= u64::from(CREDIT_BYTES + reserved.1)
    }

    /// A frame is answered, or will never be: its credit comes back. False: the connection is gone.
    pub fn settle(&mut self, from: Caller) -> bool {
        let Some(conn) = self.get(from.conn) else { return false };
        let bytes = u64::from(from.bytes);
        assert!(conn.unanswered > 0, "a frame is answered once");
        assert!(conn.unanswered_bytes >= bytes, "an answer gives back what its frame took");
        conn.unanswered -= 1;
        conn.unanswered_bytes -= bytes;
        true
    }

    /// Much waits for a connection: it has to read first.
    pub fn fill(&mut self, id: ConnId) {
        if let Some(conn) = self.get(id) {
            conn.filled = true;
        }
    }

    /// It has read. False: it is gone.
    pub fn drain(&mut self, id: ConnId) -> bool {
        self.get(id).map(|conn| conn.filled = false).is_some()
    }

    /// Too much waits for all clients together, or no longer does.
    pub fn crowd(&mut self, crowded: bool) {
        self.crowded = crowded;
    }

    /// A turn ended.
    pub fn end_turn(&mut self) {
        self.answered = 0;
    }

    /// Whether a connection may be given more in a later turn, without anything else happening.
    pub fn is_open_to(&mut self, id: ConnId) -> bool {
        let crowded = self.crowded;
        self.get(id).is_some_and(|conn| !conn.filled && !crowded)
    }

    /// Whether an answer with a value of so many bytes may be given now to a connection for which `waiting` bytes of
    /// this turn wait. If so it counts.
    pub fn takes(&mut self, to: ConnId, waiting: usize, bytes: usize) -> bool {
        if bytes <= ANSWER_SMALL_BYTES_MAX {
            return true;
        }
        let enough = self.crowded || self.answered >= ANSWERS_TURN_BYTES_MAX;
        // One that is gone takes anything: nobody waits for it.
        let Some(conn) = self.get(to) else { return true };
        if enough || conn.filled || waiting >= ANSWERS_CLIENT_BYTES_MAX {
            return false;
        }
        self.answered += bytes;
        true
    }

    /// Whether a session's call in a shard, on this connection, is to count as a sign of life: now and then.
    pub fn touches(&mut self, id: ConnId, whose: (GroupId, SessionId), now: Time) -> bool {
        let Some(conn) = self.get(id) else { return false };
        let touch = &mut conn.touches[Touch::place(whose)];
        let due = touch.whose != whose || now.since(touch.at) >= TOUCH_EVERY;
        if due {
            *touch = Touch { whose, at: now };
        }
        due
    }

    /// Whether a connection still stands.
    pub fn is_open(&self, id: ConnId) -> bool {
        let conn = self.conns.get(id.index as usize);
        conn.is_some_and(|conn| conn.generation == id.generation && conn.open == Open::Open)
    }

    fn get(&mut self, id: ConnId) -> Option<&mut Conn> {
        let conn = self.conns.get_mut(id.index as usize)?;
        (conn.generation == id.generation && conn.open == Open::Open).then_some(conn)
    }
}

#[cfg(test)]
mod tests {
    use super::super::desk::{Desk, Hint};
    use super::*;
    use crate::effects::Outbox;
    use crate::ids::Index;
    use wire::Code;
    use wire::header::VERSION;
    use wire::message::{CachePut, LockAcquire, LockRelease};

    #[test]
    fn an_answer_never_reaches_the_next_user_of_a_place() {
        let (mut conns, mut outbox) = (Conns::default(), Outbox::default());
        let first = ConnId { index: 0, generation: 1 };
        conns.open(first, VERSION);
        conns.close(first);
        conns.open(ConnId { index: 0, generation: 2 }, VERSION);
        let mut desk = Desk::new(&mut conns, &mut outbox);
        desk.done(Caller { conn: first, request: 7, bytes: 60 }, 1, Index(1));
        assert!(outbox.is_empty());
    }

    /// Admits `full` frames of `bytes` each, which use the credit up; sees the next refused, and one
    /// admitted again after an answer.
    fn use_up(full: u32, bytes: u32) {
        let (mut conns, mut outbox) = (Conns::default(), Outbox::default());
        let conn = ConnId { index: 3, generation: 0 };
        let caller = |request| Caller { conn, request, bytes };
        conns.open(conn, VERSION);
        (0..full).for_each(|at| assert!(conns.admit(caller(u64::from(at)), Some(CachePut::FACTS))));
        assert!(!conns.admit(caller(5000), Some(CachePut::FACTS)));
        let mut desk = Desk::new(&mut conns, &mut outbox);
        desk.error(caller(5000), Code::Busy, Hint::retry(1));
        assert!(
            !conns.admit(caller(5001), Some(CachePut::FACTS)),
            "a refusal gives back only what the refused frame took"
        );
        let mut desk = Desk::new(&mut conns, &mut outbox);
        desk.error(caller(5001), Code::Busy, Hint::retry(1));
        desk.done(caller(0), 1, Index(1));
        assert!(conns.admit(caller(5002), Some(CachePut::FACTS)));
    }

    #[test]
    fn credit_in_frames_is_used_up_and_comes_back_with_answers() {
        use_up(CREDIT_FRAMES, 60);
    }

    #[test]
    fn credit_in_bytes_is_used_up_and_comes_back_with_answers() {
        use_up(4, CREDIT_BYTES / 4);
    }

    #[test]
    fn a_release_is_admitted_when_acquires_used_the_credit_up_but_not_without_bound() {
        let mut conns = Conns::default();
        let conn = ConnId { index: 0, generation: 0 };
        let caller = |request: u32| Caller { conn, request: request.into(), bytes: 100 };
        conns.open(conn, VERSION);
        (0..CREDIT_FRAMES).for_each(|n| assert!(conns.admit(caller(n), Some(LockAcquire::FACTS))));
        for n in 0..CREDIT_FRAMES_RESERVED {
            assert!(conns.admit(caller(CREDIT_FRAMES + n), Some(LockRelease::FACTS)));
        }
        assert!(!conns.admit(caller(9_000), Some(LockRelease::FACTS)));
    }
}
