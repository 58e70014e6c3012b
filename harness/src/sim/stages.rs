//! What waits in a leader before it is proposed: it is proposed in its order, or answered, and nothing else becomes of it.
//!
//! - Nothing waits where nobody leads.
//! - What waited after one turn and does not after the next is in the log, behind what waited longer, or was answered.
//! - It is in the log only if the leader stayed the same.

use engine::engine::Engine;
use engine::ids::{GroupId, Index, Term};
use engine::shard::Shard;
use engine::shard::calls::{CallId, Caller};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use wire::Request;
use wire::limits::FRAME_BYTES_MAX;
use wire::message::SessionRequest;

/// What waited in a shard at the end of a turn.
struct Seen {
    term: Term,
    last: Index,
    calls: VecDeque<(Caller, CallId)>,
}

/// What waits in all leaders.
#[derive(Default)]
pub(super) struct Stages {
    /// By node, its life, and group.
    seen: BTreeMap<(u32, u64, GroupId), Seen>,
    /// Requests that have to be answered in the turn that is under way.
    owed: BTreeSet<(u32, u64)>,
    /// How many waited.
    pub(super) staged: u64,
}

impl Stages {
    /// A turn of a node ended; its answers are not sent yet.
    pub(super) fn on_turn(&mut self, node: (u32, u64), engine: &Engine) -> Result<(), String> {
        for shard in engine.shards() {
            let (raft, group) = (shard.raft(), shard.group());
            let key = (node.0, node.1, group);
            let calls: VecDeque<_> = shard.staged().collect();
            if !calls.is_empty() && !raft.is_leader() {
                let who = node.0 + 1;
                return Err(format!(
                    "group {group}: calls wait for node {who}, which leads no more"
                ));
            }
            let before = self.seen.remove(&key);
            let known = before.as_ref().map_or(0, |before| before.calls.len());
            self.staged += calls.len().saturating_sub(known) as u64;
            if let Some(before) = before {
                self.on_left(engine, shard, before, &calls)?;
            }
            if !calls.is_empty() {
                let (term, last) = (raft.term(), raft.last_index());
                self.seen.insert(key, Seen { term, last, calls });
            }
        }
        Ok(())
    }

    /// What waited and waits no more is in the log, in order, or is to be answered.
    fn on_left(
        &mut self,
        engine: &Engine,
        shard: &Shard,
        before: Seen,
        now: &VecDeque<(Caller, CallId)>,
    ) -> Result<(), String> {
        let (raft, group) = (shard.raft(), shard.group());
        let stayed = raft.is_leader() && raft.term() == before.term;
        let (mut logged, mut passed) = (entries_behind(shard, before.last), Vec::new());
        for (caller, call) in before.calls {
            if now.iter().any(|(still, _)| *still == caller) {
                continue;
            }
            match logged.iter().position(|logged| *logged == call).filter(|_| stayed) {
                Some(at) => passed.extend(logged.drain(..=at).take(at)),
                None if passed.contains(&call) => {
                    return Err(format!(
                        "group {group}: {call:?} was proposed before what waited longer"
                    ));
                }
                // Nobody is owed an answer over a connection that is gone.
                None if !engine.is_connected(caller.conn) => {}
                None => {
                    self.owed.insert((caller.conn.index, caller.request));
                }
            }
        }
        Ok(())
    }

    /// A node answers a client.
    pub(super) fn on_answers(&mut self, conn: u32, mut bytes: &[u8]) {
        while !self.owed.is_empty()
            && let Ok(Some(frame)) = wire::split(bytes, FRAME_BYTES_MAX)
        {
            bytes = &bytes[frame.used..];
            self.owed.remove(&(conn, frame.header.request));
        }
    }

    /// A node's answers of a turn were sent.
    pub(super) fn on_answered(&mut self, node: u32) -> Result<(), String> {
        let node = node + 1;
        match self.owed.pop_first() {
            None => Ok(()),
            Some((conn, request)) => Err(format!(
                "node {node} neither proposed nor answered request {request} of connection {conn}, which waited"
            )),
        }
    }
}

/// The calls in the log behind an index.
fn entries_behind(shard: &Shard, last: Index) -> Vec<CallId> {
    let log = shard.raft().log();
    let entries = (last.0 + 1..=log.last_index().0).filter_map(|index| log.entry(Index(index)));
    let calls = entries.filter_map(|entry| {
        let request = Request::view(entry.header.kind, entry.payload).ok()?;
        let (session, sequence) = match (request.call(), &request) {
            (Some(call), _) => (call.session, call.sequence),
            (None, Request::Session(SessionRequest::SessionOpen(it))) => (it.session, 0),
            (None, Request::Session(SessionRequest::SessionClose(it))) => (it.session, 0),
            (None, _) => ([0; 16], 0),
        };
        Some(CallId { session: engine::ids::SessionId(session), sequence })
    });
    calls.collect()
}
