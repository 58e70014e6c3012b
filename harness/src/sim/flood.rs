//! More than a shard takes: somebody writes to it in every turn of whoever leads it, until that one refuses.
//!
//! Nobody knows the session by which they write: what they write goes into the log, and changes nothing. So clients'
//! entries fill their limit, or the journal, most of the time, and what a leader has to write by itself must find room
//! beside them.

use super::calls::{Did, Stamp};
use super::{Event, Incoming, Shape, World};
use engine::effects::Effects;
use engine::engine::{Engine, Input};
use engine::ids::{ConnId, GroupId};
use engine::time::{Duration, Time};
use wire::Header;
use wire::header::PROTOCOL_MAX;
use wire::limits::FRAME_BYTES_MAX;

/// The connections of whoever floods: an index that no client has.
const FLOODER: u32 = 902;
/// A shard is flooded in one seed of so many.
const FLOODS_ONE_IN: u64 = 4;
/// How large writes are, in bytes: a few fill the smallest journal's limit, then small ones what is left of it.
const VALUE_BYTES: [usize; 2] = [4 << 10, 0];
/// Writes in a turn, at most.
const WRITES_PER_TURN_MAX: u32 = 60;
/// Floods in a run.
const FLOODS: u32 = 2;

/// The flood that goes on.
pub(super) struct Flood {
    group: GroupId,
    /// The same writes, again and again.
    frames: [Vec<u8>; 2],
    /// Which flood of the run it is, in the upper half of its connections' generations.
    number: u32,
    /// The lives of nodes to which there are connections.
    met: Vec<(u32, u64)>,
}

impl Flood {
    /// Fills what room a leader has.
    pub(super) fn pour(
        &mut self,
        now: Time,
        node: (u32, u64),
        engine: &mut Engine,
        effects: &mut Effects,
    ) {
        let leads = |engine: &Engine| {
            let shard = engine.shards().iter().find(|shard| shard.group() == self.group)?;
            shard.raft().is_leader().then(|| shard.raft().last_index())
        };
        if leads(engine).is_none() {
            return;
        }
        let conn = self.conn(node.1);
        if !self.met.contains(&node) {
            self.met.push(node);
            engine.on(now, Input::Opened { conn, request: 0, version: PROTOCOL_MAX }, effects);
        }
        for frame in &self.frames {
            let frame =
                wire::split(frame, FRAME_BYTES_MAX).expect("it was encoded").expect("whole");
            for _ in 0..WRITES_PER_TURN_MAX {
                let (header, body) = (frame.header, frame.body);
                let before = leads(engine);
                engine.on(now, Input::Frame { conn, header, body }, effects);
                if leads(engine) == before {
                    break;
                }
            }
        }
    }

    fn conn(&self, life: u64) -> ConnId {
        ConnId { index: FLOODER, generation: self.number << 16 | life as u32 }
    }
}

impl World {
    /// Floods begin some time.
    pub(super) fn plan_floods(&mut self) {
        let calm = self.options.shape == Shape::Steady;
        if calm || self.options.seed % FLOODS_ONE_IN != FLOODS_ONE_IN - 2 {
            return;
        }
        let each = self.options.faulty / FLOODS;
        for number in 0..FLOODS {
            let begins = Duration::from_millis(self.floods.u64(500..1_500));
            let lasts = Duration::from_millis(self.floods.u64(300..2_500));
            let shard = self.floods.u32(..self.layout.shards);
            self.plan(each * number + begins, Event::Flood { shard: Some(shard) });
            self.plan(each * number + begins + lasts, Event::Flood { shard: None });
        }
    }

    /// A shard is flooded, or none any more.
    pub(super) fn flood(&mut self, shard: Option<u32>) {
        let before = self.flood.take();
        for (flood, (node, life)) in before.iter().flat_map(|f| f.met.iter().map(move |m| (f, *m)))
        {
            if self.nodes[node as usize].life == life {
                let at = self.layout.seat(node, flood.group);
                self.deliver(at, Incoming::Closed(flood.conn(life)));
            }
        }
        let Some(shard) = shard.filter(|_| self.is_faulty()) else { return };
        self.flooded += 1;
        self.flood = Some(Flood {
            group: GroupId::of_shard(shard),
            frames: VALUE_BYTES.map(|bytes| write((shard, self.layout.shards), bytes)),
            number: self.flooded,
            met: Vec::new(),
        });
    }
}

/// A write of a value of so many bytes to some line of a shard, of so many.
fn write((shard, shards): (u32, u32), bytes: usize) -> Vec<u8> {
    let key = (0..=u8::MAX).find(|key| Did::put(*key, 0).shard(shards) == shard);
    let did = Did::put(key.expect("each shard has lines"), 0);
    let stamp =
        Stamp { session: [0xf1; 16], sequence: 1, answered_below: 1, session_ttl_ms: 1_000 };
    let (mut frame, name, payload) = (Vec::new(), did.name(), vec![0; bytes]);
    let request = did.request(stamp, &name, &payload);
    let header = Header { shard, ..Header::new(request.facts().kind(), 1) };
    wire::frame(&mut frame, &header, |out| request.encode(out));
    frame
}
