//! The desk: the only way to send clients something.
//!
//! It answers connections that still stand, one answer a frame, and gives back the credit of what it answers. It pushes
//! what answers nothing, within the credit of whoever subscribed.

use super::calls::Caller;
use super::conns::Conns;
use crate::effects::Outbox;
use crate::ids::{Index, NodeId};
use crate::level::Level;
use crate::machine::DeliveryView;
use alloc::vec::Vec;
use wire::limits::{DETAIL_BYTES_MAX, ERROR_TEXT_BYTES_MAX};
use wire::message::{Alive, Delivery, DetailedError, Done, Error, Value};
use wire::{Code, Detail, Header, Kind};

/// Where to go instead, and when.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Hint {
    /// The node to go to; none = not known.
    pub node: Option<NodeId>,
    /// The engine of that node.
    pub engine: u32,
    /// When to try again, in milliseconds; 0 = no advice.
    pub retry_ms: u32,
}

impl Hint {
    /// Nothing to say.
    pub const NONE: Hint = Hint { node: None, engine: 0, retry_ms: 0 };

    /// Try again here, after some milliseconds.
    pub const fn retry(retry_ms: u32) -> Hint {
        Hint { node: None, engine: 0, retry_ms }
    }
}

/// The one place where clients are answered and told things.
pub struct Desk<'a> {
    conns: &'a mut Conns,
    /// Where the frames go.
    outbox: &'a mut Outbox,
}

impl<'a> Desk<'a> {
    /// The desk of these connections.
    pub fn new(conns: &'a mut Conns, outbox: &'a mut Outbox) -> Desk<'a> {
        Desk { conns, outbox }
    }

    /// Whether an answer with a value of so many bytes may be given now; if not, when its reader has read.
    pub fn takes(&mut self, to: Caller, bytes: usize) -> bool {
        self.conns.takes(to.conn, self.outbox.waiting(to.conn.index), bytes)
    }

    /// Answers with a frame of `kind`.
    pub fn reply(&mut self, to: Caller, kind: Kind, body: impl FnOnce(&mut Vec<u8>)) {
        if !self.conns.settle(to) {
            return;
        }
        wire::frame(self.outbox.to(to.conn.index), &Header::new(kind, to.request), body);
    }

    /// The call did something.
    pub fn done(&mut self, to: Caller, token: u64, index: Index) {
        self.reply(to, Done::KIND, |b| Done { token, index: index.0 }.encode(b));
    }

    /// The request was refused.
    pub fn error(&mut self, to: Caller, code: Code, hint: Hint) {
        self.reply(to, Error::KIND, |b| refusal(code, hint).encode(b));
    }

    /// The request was refused, for how things stood. Who speaks an older version of the protocol is told no more than
    /// the code.
    pub fn detailed_error(&mut self, to: Caller, code: Code, detail: &Detail<'_>) {
        if !self.conns.reads_details(to.conn) {
            return self.error(to, code, Hint::NONE);
        }
        let mut bytes = Vec::new();
        detail.encode(&mut bytes);
        assert!(bytes.len() <= DETAIL_BYTES_MAX, "a detail is short");
        let Error { code, retry_ms, node, engine, text } = refusal(code, Hint::NONE);
        let error = DetailedError { code, retry_ms, node, engine, text, detail: &bytes };
        self.reply(to, DetailedError::KIND, |b| error.encode(b));
    }

    /// Sends what answers nothing: it carries the id of the request that subscribed to it.
    pub fn push(&mut self, to: Caller, kind: Kind, body: impl FnOnce(&mut Vec<u8>)) {
        if self.conns.is_open(to.conn) {
            wire::frame(self.outbox.to(to.conn.index), &Header::new(kind, to.request), body);
        }
    }

    /// A subscription has ended.
    pub fn push_error(&mut self, to: Caller, code: Code) {
        self.push(to, Error::KIND, |b| refusal(code, Hint::NONE).encode(b));
    }

    /// The request exists from a level on that is above the group's.
    pub fn level_too_low(&mut self, to: Caller, needs: Level, group: Level) {
        let text = alloc::format!(
            "the request needs feature level {needs}, and this shard is at level {group}; nothing was done. Upgrade every node, and start none with --level-max below {needs}: the cluster then goes up by itself (tercet cluster status shows how far it is)"
        );
        assert!(text.len() <= ERROR_TEXT_BYTES_MAX, "an error's text is short");
        let code = Code::LevelTooLow.number();
        let error = Error { code, retry_ms: 0, node: 0, engine: 0, text: text.as_bytes() };
        self.reply(to, Error::KIND, |b| error.encode(b));
    }

    /// A line's value.
    pub fn value(&mut self, to: Caller, version: u64, value: &[u8]) {
        assert!(version > 0, "a line that is there has a version");
        self.reply(to, Value::KIND, |b| Value { version, value }.encode(b));
    }

    /// A popped message.
    pub fn delivery(&mut self, to: Caller, message: &DeliveryView<'_>) {
        let DeliveryView { id, delivery, priority, payload } = *message;
        assert!(delivery > 0, "deliveries are counted from 1");
        let message = Delivery { id, delivery, priority, payload };
        self.reply(to, Delivery::KIND, |b| message.encode(b));
    }

    /// The shards in which a session lives.
    pub fn alive(&mut self, to: Caller, shards: &[u8]) {
        assert!(shards.len().is_multiple_of(4), "each shard is a u32");
        self.reply(to, Alive::KIND, |b| Alive { shards }.encode(b));
    }
}

fn refusal(code: Code, hint: Hint) -> Error<'static> {
    Error {
        code: code.number(),
        retry_ms: hint.retry_ms,
        node: hint.node.map_or(0, |n| n.0),
        engine: hint.engine,
        text: code.advice().as_bytes(),
    }
}
