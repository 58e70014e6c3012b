//! What is known of requests beside their bytes: their kinds' [`Facts`], and what is right or wrong by itself.

use crate::bytes::put_u64_at;
use crate::code::Code;
use crate::header::Kind;
use crate::layout::{Field, WireError};
use crate::limits::{NAME_BYTES_MAX, VALUE_BYTES_MAX, WINDOW_REPLIES_MAX};
use crate::message::Done;
use crate::messages::{Message, Value};
use alloc::vec::Vec;
use core::fmt;

/// What a request is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Family {
    /// The connection itself, and where everything is.
    Connection,
    /// A session in one shard.
    Session,
    /// Locks.
    Lock,
    /// Queues.
    Queue,
    /// Cache lines.
    Cache,
    /// The cluster: its nodes, its leaders, its backups.
    Admin,
}

impl Family {
    /// Every one, in order.
    pub const ALL: [Family; 6] = [
        Family::Connection,
        Family::Session,
        Family::Lock,
        Family::Queue,
        Family::Cache,
        Family::Admin,
    ];

    /// Its place in [`Family::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// A short stable name, for metrics.
    pub const fn slug(self) -> &'static str {
        match self {
            Family::Connection => "connection",
            Family::Session => "session",
            Family::Lock => "lock",
            Family::Queue => "queue",
            Family::Cache => "cache",
            Family::Admin => "admin",
        }
    }
}

/// What is known of a kind of request.
pub struct Facts {
    /// Its message.
    pub message: &'static Message,
    /// What it is about.
    pub family: Family,
    /// From which feature level on it exists.
    pub level: u32,
    /// What it does, for people: its name follows.
    pub phrase: &'static str,
    /// Whether it is exactly-once: it names a session and its number there.
    pub is_call: bool,
    /// Whether it only reads.
    pub reads: bool,
    /// Whether its answer gives something that must be given back.
    pub grants: bool,
    /// Whether it gives something back. It finds room where nothing else does.
    pub gives_back: bool,
    /// The kind of its answer, if it is not an error.
    pub answer: Kind,
}

impl Facts {
    /// Those of a message that says nothing of itself.
    pub(crate) const fn of(message: &'static Message) -> Facts {
        Facts {
            message,
            family: Family::Connection,
            level: 1,
            phrase: "",
            is_call: false,
            reads: false,
            grants: false,
            gives_back: false,
            answer: Done::KIND,
        }
    }

    /// Its kind.
    pub const fn kind(&self) -> Kind {
        self.message.kind
    }
}

/// What makes a call exactly-once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Call {
    /// The client's session.
    pub session: [u8; 16],
    /// The number of this call in its shard, from 1.
    pub sequence: u64,
    /// All calls below were answered.
    pub answered_below: u64,
}

impl Call {
    /// What stands in a body that is not sent yet.
    pub const NONE: Call = Call { session: [0; 16], sequence: 0, answered_below: 0 };

    /// Writes it into an encoded call, where it begins the fixed part.
    ///
    /// # Panics
    /// When the body is shorter than its kind's fixed part, or the kind is no call.
    pub fn stamp(&self, facts: &Facts, body: &mut [u8]) {
        assert!(facts.is_call, "only a call is numbered");
        let at = body.len().checked_sub(facts.message.fixed).expect("a body has its fixed part");
        body[at..at + 16].copy_from_slice(&self.session);
        put_u64_at(body, at + 16, self.sequence);
        put_u64_at(body, at + 24, self.answered_below);
    }

    /// The fields, as documents name them: name, type, what it must be, what it is for.
    pub(crate) const FIELDS: [(&'static str, &'static str, &'static str, &'static str); 3] = [
        ("session", "id", "not all zero", "The session of the call."),
        ("sequence", "u64", "not 0", "The number of this call in its shard."),
        ("answered_below", "u64", "at most `sequence`", "All calls below were answered."),
    ];

    /// Whether it is one.
    ///
    /// # Errors
    /// [`Code::BadMessage`] when it names no session or no number, or says that it was answered itself;
    /// [`Code::Busy`] when it is further ahead of what was answered than a group remembers.
    #[inline]
    pub fn vet(&self) -> Result<(), Code> {
        vet_session(self.session)?;
        if self.sequence == 0 || self.answered_below > self.sequence {
            return Err(Code::BadMessage);
        }
        if self.sequence - self.answered_below.max(1) >= WINDOW_REPLIES_MAX {
            return Err(Code::Busy);
        }
        Ok(())
    }
}

impl<'a> Field<'a> for Call {
    const FIXED: usize = 32;
    fn write_out(&self, _: usize, _: &mut Vec<u8>) -> usize {
        0
    }
    #[inline]
    fn write_fixed(&self, _: usize, _: usize, place: &mut [u8]) {
        place[..16].copy_from_slice(&self.session);
        put_u64_at(place, 16, self.sequence);
        put_u64_at(place, 24, self.answered_below);
    }
    fn read(body: &'a [u8], pos: usize) -> Result<Self, WireError> {
        Ok(Call {
            session: <[u8; 16]>::read(body, pos)?,
            sequence: u64::read(body, pos + 16)?,
            answered_below: u64::read(body, pos + 24)?,
        })
    }
    fn show(&self, _: &'static str, each: &mut dyn FnMut(&'static str, Value<'_>)) {
        self.session.show("session", each);
        self.sequence.show("sequence", each);
        self.answered_below.show("answered_below", each);
    }
}

/// What routing needs of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route<'a> {
    /// The name that decides the shard; none where none does.
    pub name: Option<&'a [u8]>,
    /// What makes it exactly-once; none for what is no call.
    pub call: Option<Call>,
    /// From which feature level on its kind exists and all that its fields say has that meaning.
    pub level: u32,
}

/// Where the fields of a drawn request come from: a simulator's clients, a fuzzer, a test.
pub trait Draw<'a> {
    /// What makes it exactly-once.
    fn call(&mut self) -> Call;
    /// A number from `min` to `max`, both included. A choice is drawn as its place among those that are allowed.
    fn number(&mut self, field: &'static str, min: u64, max: u64) -> u64;
    /// 16 bytes.
    fn id(&mut self, field: &'static str) -> [u8; 16];
    /// A name, a value, or other bytes.
    fn bytes(&mut self, field: &'static str) -> &'a [u8];
}

impl fmt::Display for crate::Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.facts().phrase)?;
        match self.name() {
            Some(name) => write!(f, " \"{}\"", name.escape_ascii()),
            None => Ok(()),
        }
    }
}

/// The 16 bytes that count up from `first`: an id in an example.
pub(crate) const fn id(first: u8) -> [u8; 16] {
    let mut bytes = [0; 16];
    let mut at = 0;
    while at < bytes.len() {
        bytes[at] = first.wrapping_add(at as u8);
        at += 1;
    }
    bytes
}

/// A call in an example.
pub(crate) const fn call(sequence: u64, answered_below: u64) -> Call {
    Call { session: id(0x40), sequence, answered_below }
}

#[inline]
pub(crate) fn vet_session(id: [u8; 16]) -> Result<(), Code> {
    if id == [0; 16] { Err(Code::BadMessage) } else { Ok(()) }
}

#[inline]
pub(crate) fn vet_name(name: &[u8]) -> Result<(), Code> {
    match name.len() {
        0 => Err(Code::BadMessage),
        1..=NAME_BYTES_MAX => Ok(()),
        _ => Err(Code::TooLarge),
    }
}

#[inline]
pub(crate) fn vet_value(value: &[u8]) -> Result<(), Code> {
    if value.len() > VALUE_BYTES_MAX { Err(Code::TooLarge) } else { Ok(()) }
}

#[inline]
pub(crate) fn vet_range(is_within: bool) -> Result<(), Code> {
    if is_within { Ok(()) } else { Err(Code::BadMessage) }
}

/// The highest of some levels.
#[inline]
pub(crate) fn highest(levels: &[u32]) -> u32 {
    levels.iter().copied().fold(1, u32::max)
}
