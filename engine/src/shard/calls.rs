//! Who waits for what: callers of proposals that are not applied yet, and callers whose acquire or
//! pop waits in the machine. Only a leader has any.

use crate::ids::{ConnId, Index, SessionId};
use crate::secret::Secret;
use alloc::collections::VecDeque;
use hashbrown::HashTable;
use wire::bytes::put_u64_at;

/// Where an answer goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller {
    /// The connection that asked.
    pub conn: ConnId,
    /// The request's id.
    pub request: u64,
    /// The request's frame, in bytes: what its answer gives back of the connection's credit.
    pub bytes: u32,
}

/// A call's name within its group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CallId {
    /// The session.
    pub session: SessionId,
    /// The call's number.
    pub sequence: u64,
}

struct Proposed {
    index: Index,
    caller: Caller,
    call: CallId,
}

struct Waiting {
    call: CallId,
    caller: Caller,
}

/// All callers of one group.
pub struct Calls {
    /// In the order of their indexes.
    proposed: VecDeque<Proposed>,
    /// Each call once: the same call sent again re-attaches here.
    waiting: HashTable<Waiting>,
    /// Clients choose their sessions' ids.
    secret: Secret,
}

fn hash(secret: &Secret, call: &CallId) -> u64 {
    let mut name = [0; 24];
    name[..16].copy_from_slice(&call.session.0);
    put_u64_at(&mut name, 16, call.sequence);
    secret.hash(&name)
}

impl Calls {
    /// Nobody waits.
    pub fn new(secret: Secret) -> Calls {
        Calls { proposed: VecDeque::new(), waiting: HashTable::new(), secret }
    }

    /// A caller's request was proposed at `index`.
    pub fn propose(&mut self, index: Index, caller: Caller, call: CallId) {
        assert!(index > Index::ZERO, "an entry has an index");
        if let Some(last) = self.proposed.back() {
            assert!(last.index < index, "proposals come in the order of the log");
        }
        self.proposed.push_back(Proposed { index, caller, call });
    }

    /// The entry at `index` was applied: who asked for it, if anybody here did.
    pub fn take(&mut self, index: Index) -> Option<(Caller, CallId)> {
        let first = self.proposed.front()?;
        assert!(first.index >= index, "an entry was applied and its caller not answered");
        if first.index > index {
            return None;
        }
        self.proposed.pop_front().map(|p| (p.caller, p.call))
    }

    /// The call waits in the machine; whoever waited under its name before is replaced, and said.
    pub fn wait(&mut self, call: CallId, caller: Caller) -> Option<Caller> {
        let (secret, key) = (self.secret, hash(&self.secret, &call));
        let found = self.waiting.find_mut(key, |w| w.call == call);
        if let Some(waiting) = found {
            return Some(core::mem::replace(&mut waiting.caller, caller));
        }
        self.waiting.insert_unique(key, Waiting { call, caller }, |w| hash(&secret, &w.call));
        None
    }

    /// The call waits no longer: who is to be told.
    pub fn wake(&mut self, call: CallId) -> Option<Caller> {
        let found = self.waiting.find_entry(hash(&self.secret, &call), |w| w.call == call).ok()?;
        Some(found.remove().0.caller)
    }

    /// Forgets everybody, and says whom: this node leads no more.
    pub fn drain(&mut self, mut each: impl FnMut(Caller)) {
        self.proposed.drain(..).for_each(|p| each(p.caller));
        self.waiting.drain().for_each(|w| each(w.caller));
        assert!(self.proposed.is_empty(), "nobody is left");
        assert!(self.waiting.is_empty(), "nobody is left");
    }
}
