//! Signs of life: what a leader hears of a session, it renews, however much clients ask meanwhile.
//!
//! A leader that heard a sign of life has a while to propose the renewal: it may be handing over, its journal may be
//! full. But once what a client asked later is applied, the renewal must be, too. And it vouches for nobody before it
//! has committed something in its term.

use engine::engine::Engine;
use engine::entry::{is_own, kind};
use engine::ids::{GroupId, Index, SessionId, Term};
use engine::shard::Shard;
use engine::time::{Duration, Elapsed, Time};
use std::collections::BTreeMap;
use wire::frames::Frame;
use wire::limits::FRAME_BYTES_MAX;
use wire::message::{Alive, Heartbeat};

/// What a client asks so long after a sign of life must not overtake its renewal.
const PATIENCE: Duration = Duration::from_millis(300);

/// The first sign of life whose renewal was not seen yet.
#[derive(Clone, Copy)]
struct Sign {
    heard: Elapsed,
    term: Term,
    ttl: Duration,
}

/// By node, group and session.
#[derive(Default)]
pub(super) struct Signs(BTreeMap<(u32, GroupId, [u8; 16]), Sign>);

impl Signs {
    /// A client's frame is about to be heard.
    pub(super) fn on_request(&mut self, now: Time, node: u32, engine: &Engine, frame: &Frame<'_>) {
        if frame.header.kind != Heartbeat::KIND {
            return;
        }
        let Ok(Heartbeat { session }) = Heartbeat::view(frame.body) else { return };
        for shard in engine.shards().iter().filter(|shard| shard.raft().is_leader()) {
            let (raft, ttl) = (shard.raft(), shard.state().session_ttl(SessionId(session)));
            if let Some(ttl) = ttl {
                let sign = Sign { heard: shard.clock(now), term: raft.term(), ttl };
                self.0.entry((node, shard.group(), session)).or_insert(sign);
            }
        }
    }

    /// A node answers a client: whom it vouches for, it vouches for in a term in which it has committed something.
    pub(super) fn on_answers(node: u32, engine: &Engine, mut bytes: &[u8]) -> Result<(), String> {
        while let Ok(Some(frame)) = wire::split(bytes, FRAME_BYTES_MAX) {
            bytes = &bytes[frame.used..];
            let shards = match Alive::view(frame.body) {
                Ok(alive) if frame.header.kind == Alive::KIND => alive.shards.as_chunks::<4>().0,
                _ => continue,
            };
            let groups = shards.iter().map(|id| GroupId::of_shard(u32::from_le_bytes(*id)));
            for group in groups {
                let mut kept = engine.shards().iter().filter(|shard| shard.group() == group);
                let Some(raft) = kept.next().map(Shard::raft) else { continue };
                let opened = raft.log().term_at(raft.commit()) == Some(raft.term());
                if raft.is_leader() && !opened {
                    let node = node + 1;
                    return Err(format!(
                        "group {group}: node {node} vouches before its own commit"
                    ));
                }
            }
        }
        Ok(())
    }

    /// A turn of a node ended.
    pub(super) fn on_turn(&mut self, node: u32, shard: &Shard) -> Result<(), String> {
        let (raft, group) = (shard.raft(), shard.group());
        let mut wrong = None;
        let of_group = (node, group, [0; 16])..=(node, group, [0xff; 16]);
        let seen: Vec<_> = self.0.range(of_group).map(|(key, sign)| (*key, *sign)).collect();
        for (key, Sign { heard, term, ttl }) in seen {
            let session = SessionId(key.2);
            let leads = raft.is_leader() && raft.term() == term;
            let deadline = shard.state().session_deadline(session).filter(|_| leads);
            // It is renewed once in an eighth of its time to live, to five quarters of it.
            if deadline.is_none_or(|deadline| deadline >= heard + ttl * 9 / 8) {
                self.0.remove(&key);
            } else if overtaken(shard, heard + PATIENCE) && !is_under_way(shard, session) {
                wrong = Some(format!(
                    "group {group}: node {} heard a sign of life, and forgot it",
                    node + 1
                ));
            }
        }
        wrong.map_or(Ok(()), Err)
    }
}

/// Whether the last entry applied is a client's, of this time or a later one.
fn overtaken(shard: &Shard, since: Elapsed) -> bool {
    let last = shard.raft().log().entry(shard.applied());
    last.is_some_and(|e| !is_own(e.header.kind) && e.header.time >= since)
}

/// Whether the session's renewal is in the log, and not applied yet.
fn is_under_way(shard: &Shard, session: SessionId) -> bool {
    let log = shard.raft().log();
    let ahead = (shard.applied().0 + 1..=log.last_index().0).filter_map(|at| log.entry(Index(at)));
    let mut renewals = ahead.filter(|entry| entry.header.kind == kind::RENEW);
    renewals.any(|entry| entry.payload.as_chunks::<16>().0.contains(&session.0))
}
