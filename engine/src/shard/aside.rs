//! Large answers that wait: until their client has read what it was sent, until less waits for all clients together, or
//! only for the next turn, since this one has answered enough.
//!
//! A read that waits here was confirmed; it is answered from a later state, which is as good. A delivery is looked up
//! again when its turn comes. So what waits is small, and bounded by the connections' credit.

use super::calls::Caller;
use super::conns::Conns;
use super::desk::Hint;
use super::reads::{Served, Until, read};
use super::{Shard, Step};
use crate::ids::ConnId;
use crate::machine::ReadAsk;
use crate::time::Time;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use wire::{Code, Kind};

/// An answer that waits.
#[derive(Debug)]
pub enum Item {
    /// What a read that was confirmed asks for.
    Read {
        /// Who asked.
        caller: Caller,
        /// When the caller gives up.
        deadline: Time,
        /// The request's kind.
        kind: Kind,
        /// The client's bytes.
        body: Box<[u8]>,
    },
    /// A popped message.
    Delivery {
        /// Who asked.
        caller: Caller,
        /// Which message, and which delivery of it.
        delivery: (u64, u32),
    },
}

impl Item {
    fn caller(&self) -> Caller {
        match self {
            Item::Read { caller, .. } | Item::Delivery { caller, .. } => *caller,
        }
    }
}

#[derive(Default)]
struct AnswerLine {
    items: VecDeque<Item>,
    /// Whether the connection is on the list of those whose turn comes.
    listed: bool,
}

/// All answers of one group that wait.
#[derive(Default)]
pub struct Aside {
    /// By the connection's index and generation.
    lines: BTreeMap<(u32, u32), AnswerLine>,
    /// Connections to be answered in the next turn.
    ready: VecDeque<ConnId>,
}

fn key_of(conn: ConnId) -> (u32, u32) {
    (conn.index, conn.generation)
}

impl Aside {
    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Whether somebody is to be answered in the next turn.
    pub fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// An answer waits. It comes with the next turn, if only this one has answered enough.
    pub fn put(&mut self, item: Item, conns: &mut Conns) {
        let conn = item.caller().conn;
        self.lines.entry(key_of(conn)).or_default().items.push_back(item);
        if conns.is_open_to(conn) {
            self.list(conn);
        }
    }

    /// The connection is to be answered in the next turn.
    pub fn list(&mut self, conn: ConnId) {
        if let Some(line) = self.lines.get_mut(&key_of(conn)).filter(|line| !line.listed) {
            line.listed = true;
            self.ready.push_back(conn);
        }
    }

    /// So are all that may be.
    pub fn list_all(&mut self, conns: &mut Conns) {
        for (key, line) in &mut self.lines {
            let conn = ConnId { index: key.0, generation: key.1 };
            if !line.listed && conns.is_open_to(conn) {
                line.listed = true;
                self.ready.push_back(conn);
            }
        }
    }

    /// The connection is gone: nobody reads what waits for it.
    pub fn forget(&mut self, conn: ConnId) {
        if self.lines.remove(&key_of(conn)).is_some_and(|line| line.listed) {
            self.ready.retain(|listed| *listed != conn);
        }
    }

    /// Takes everything out that waits.
    fn drain(&mut self, mut each: impl FnMut(Caller)) {
        self.ready.clear();
        while let Some((_, line)) = self.lines.pop_first() {
            line.items.iter().for_each(|item| each(item.caller()));
        }
    }
}

impl Shard {
    /// Whether answers wait here for their clients to read.
    pub fn has_aside(&self) -> bool {
        !self.aside.is_empty()
    }

    /// A client has read.
    pub fn on_drained(&mut self, conn: ConnId) {
        self.aside.list(conn);
    }

    /// Less waits for all clients together.
    pub fn on_eased(&mut self, step: &mut Step<'_>) {
        self.aside.list_all(&mut step.shared.conns);
    }

    /// A client is gone.
    pub fn on_closed(&mut self, conn: ConnId) {
        self.aside.forget(conn);
    }

    /// Answers those whose turn has come, one client after the other, as far as this turn answers.
    pub(super) fn serve_aside(&mut self, step: &mut Step<'_>) {
        for _ in 0..self.aside.ready.len() {
            let Some(conn) = self.aside.ready.pop_front() else { return };
            let Some(line) = self.aside.lines.get_mut(&key_of(conn)) else { continue };
            line.listed = false;
            let mut items = core::mem::take(&mut line.items);
            while let Some(item) = items.pop_front() {
                if let Some(item) = self.serve_item(step, item) {
                    items.push_front(item);
                    break;
                }
            }
            assert!(self.aside.lines.contains_key(&key_of(conn)), "nobody else takes a line away");
            if items.is_empty() {
                self.aside.lines.remove(&key_of(conn));
                continue;
            }
            self.aside.lines.entry(key_of(conn)).or_default().items = items;
            if step.shared.conns.is_open_to(conn) {
                self.aside.list(conn);
            }
        }
    }

    /// Answers one, or gives it back.
    fn serve_item(&mut self, step: &mut Step<'_>, item: Item) -> Option<Item> {
        match item {
            Item::Read { caller, deadline, kind, ref body } => {
                let ask = ReadAsk { kind, body };
                let clock = self.raft.clock(step.now);
                match read(&self.state, clock, step, caller, (None, ask), deadline) {
                    Served::Yes => None,
                    Served::Later => Some(item),
                    Served::Due => {
                        self.propose_tick(step);
                        self.reads.hold(caller, ask, Until::Applied(self.ticked), deadline);
                        None
                    }
                }
            }
            Item::Delivery { caller, delivery } => {
                (self.deliver(step, caller, delivery) == Served::Later).then_some(item)
            }
        }
    }

    /// Answers a pop with its message, unless that is large and enough is on its way.
    pub(super) fn deliver(
        &self,
        step: &mut Step<'_>,
        caller: Caller,
        delivery: (u64, u32),
    ) -> Served {
        let mut desk = step.desk();
        match self.state.delivery(delivery) {
            Some(delivery) if !desk.takes(caller, delivery.payload.len()) => {
                return Served::Later;
            }
            Some(delivery) => desk.delivery(caller, &delivery),
            // Remembered, but the message is gone since: it was acknowledged.
            None => desk.error(caller, Code::MessageUnknown, Hint::NONE),
        }
        Served::Yes
    }

    /// Nobody is answered here any more: this replica leads no more, or ends.
    pub(super) fn send_aside_away(&mut self, step: &mut Step<'_>, hint: Hint) {
        let mut desk = step.desk();
        self.aside.drain(|caller| desk.error(caller, Code::Unavailable, hint));
    }
}
