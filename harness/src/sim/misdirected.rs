//! Somebody asks engines for shards that another engine of their node keeps.
//!
//! Clients know which engine keeps what, and never ask so. Whoever does must be told the right engine, and to whom to go
//! if that is known. Nothing is done.

use super::seats::{Layout, SeatId};
use super::{Event, Incoming, World};
use engine::ids::{ConnId, GroupId};
use engine::time::Duration;
use wire::limits::FRAME_BYTES_MAX;
use wire::message::{Error, SessionOpen, Welcome};
use wire::random::Random;
use wire::topology::engine_of_group;
use wire::{Code, Header};

/// The connections of whoever asks: an index that no client has.
pub(super) const MISDIRECTED: u32 = 905;
/// The session that it wants to open.
const SESSION: [u8; 16] = [0xf2; 16];

/// Whoever asks the wrong engines.
pub(super) struct Misdirected {
    chance: Random,
    generation: u32,
    /// What was asked last, and over which connection.
    asked: Option<(SeatId, ConnId, GroupId)>,
}

impl Misdirected {
    pub(super) fn new(seed: u64) -> Misdirected {
        let chance = Random::new(seed ^ 0x6d69_7364_6972_0000);
        Misdirected { chance, generation: 0, asked: None }
    }

    /// An engine answers.
    ///
    /// # Errors
    /// What is wrong with the answer.
    pub(super) fn on_answers(
        &self,
        at: SeatId,
        layout: Layout,
        mut bytes: &[u8],
    ) -> Result<(), String> {
        let Some((_, conn, group)) = self.asked.filter(|(asked, ..)| *asked == at) else {
            return Ok(());
        };
        let right = engine_of_group(group.0, layout.engines);
        while let Ok(Some(frame)) = wire::split(bytes, FRAME_BYTES_MAX) {
            bytes = &bytes[frame.used..];
            // What was asked before may be answered late.
            if frame.header.kind == Welcome::KIND
                || frame.header.request != u64::from(conn.generation)
            {
                continue;
            }
            let (node, engine) = (at.node + 1, at.engine);
            let wrong = |what: String| {
                format!(
                    "engine {engine} of node {node} is asked for group {group}, which engine {right} keeps, and {what}"
                )
            };
            if frame.header.kind != Error::KIND {
                return Err(wrong(format!("answers with {:?}", frame.header.kind)));
            }
            let error = Error::decode(frame.body).map_err(|e| e.to_string())?;
            let code = if error.node > 0 { Code::NotLeader } else { Code::Unavailable };
            if error.code != code.number() || error.engine != right {
                let said = Code::from_number(error.code).ok_or("an unknown error code")?;
                return Err(wrong(format!("answers with {said:?}, engine {}", error.engine)));
            }
        }
        Ok(())
    }
}

impl World {
    /// Somebody asks an engine for what another one of its node keeps.
    pub(super) fn misdirect(&mut self) {
        if !self.is_faulty() {
            return;
        }
        let next = Duration::from_millis(self.misdirected.chance.u64(20..200));
        self.plan(next, Event::Misdirect);
        if let Some((at, conn, _)) = self.misdirected.asked.take() {
            self.deliver(at, Incoming::Closed(conn));
        }
        let (nodes, layout) = (self.nodes.len() as u32, self.layout);
        let it = &mut self.misdirected;
        let at = SeatId { node: it.chance.u32(..nodes), engine: it.chance.u32(..layout.engines) };
        let shard = it.chance.u32(..layout.shards);
        let group = GroupId::of_shard(shard);
        if layout.seat(at.node, group) == at {
            return;
        }
        it.generation += 1;
        let conn = ConnId { index: MISDIRECTED, generation: it.generation };
        it.asked = Some((at, conn, group));
        let (open, mut frame) = (SessionOpen { session: SESSION, ttl_ms: 1_000 }, Vec::new());
        let request = u64::from(it.generation);
        let header = Header { shard, ..Header::new(SessionOpen::KIND, request) };
        wire::frame(&mut frame, &header, |body| open.encode(body));
        self.deliver(at, Incoming::Opened(conn));
        self.deliver(at, Incoming::Request(conn, frame));
    }
}
