//! What clients ask of an engine: where a frame goes, and what is answered on the spot.

use super::{Engine, PLACEMENT_EPOCH, step};
use crate::effects::{Effects, ReportWanted};
use crate::ids::{ConnId, GroupId, SessionId};
use crate::limits::{CREDIT_BYTES, CREDIT_FRAMES, REPORT_ASKERS_MAX};
use crate::machine::{Access, Machine};
use crate::shard::calls::{CallId, Caller};
use crate::shard::conns::{Hint, Replies};
use crate::shard::{Request, Step};
use crate::time::{Time, millis};
use alloc::vec::Vec;
use wire::limits::FRAME_BYTES_MAX;
use wire::message::{Heartbeat, Status, StatusReply, Topology, TopologyReply, Welcome};
use wire::topology::{self, engine_of_group};
use wire::{Code, HEADER_BYTES, Header};

impl Engine {
    pub(super) fn on_opened(&mut self, conn: ConnId, request: u64, effects: &mut Effects) {
        self.conns.open(conn);
        let welcome = Welcome {
            cluster: self.config.cluster.0,
            node: self.config.node.0,
            engine: self.config.engine,
            engines: self.config.engines,
            shards: self.config.shards,
            epoch: PLACEMENT_EPOCH,
            credit_frames: CREDIT_FRAMES,
            credit_bytes: CREDIT_BYTES,
            version: wire::header::VERSION,
        };
        let caller = Caller { conn, request, bytes: 0 };
        self.conns.admit(caller, Welcome::KIND);
        let mut replies = Replies { conns: &mut self.conns, outbox: &mut effects.clients };
        replies.reply(caller, Welcome::KIND, |b| welcome.encode(b));
    }

    pub(super) fn on_frame(
        &mut self,
        now: Time,
        since: Time,
        conn: ConnId,
        header: &Header,
        body: &[u8],
        effects: &mut Effects,
    ) {
        let bytes = HEADER_BYTES + body.len();
        let bytes = u32::try_from(bytes).expect("a client's frame is far below 4 GiB");
        let caller = Caller { conn, request: header.request, bytes };
        let admitted = self.conns.admit(caller, header.kind);
        // Answered at once and past any credit: a client that asks for too much does not lose its locks.
        if header.kind == Heartbeat::KIND {
            return self.on_heartbeat(now, caller, body, effects);
        }
        let mut replies = Replies { conns: &mut self.conns, outbox: &mut effects.clients };
        if !admitted {
            return replies.error(caller, Code::Busy, Hint::retry(1));
        }
        match header.kind {
            Topology::KIND => return self.on_topology(caller, effects),
            Status::KIND => return self.on_status(caller, body, effects),
            _ => {}
        }
        let vetted = match Machine::vet(header.kind, body) {
            Ok(vetted) => vetted,
            Err(code) => return replies.error(caller, code, Hint::NONE),
        };
        let shard = match vetted.name {
            Some(name) => wire::name::shard(name, self.config.shards),
            None => header.shard,
        };
        if shard != header.shard || shard >= self.config.shards {
            return replies.error(caller, Code::WrongShard, Hint::NONE);
        }
        let group = GroupId::of_shard(shard);
        let Some(at) = self.place_of(group) else {
            return self.send_away(caller, group, effects);
        };
        let deadline = deadline(since, header.deadline_ms);
        if deadline <= now {
            let mut replies = Replies { conns: &mut self.conns, outbox: &mut effects.clients };
            return replies.error(caller, Code::DeadlineExceeded, Hint::NONE);
        }
        let shard = &mut self.shards[at];
        let step = step!(self, now, effects);
        match vetted.access {
            Access::Read => {
                shard.on_read(step, caller, vetted.name.unwrap_or_default(), deadline);
            }
            Access::Write => {
                let session = vetted.session.expect("what writes names its session");
                let call = CallId { session, sequence: vetted.sequence };
                shard.on_write(step, Request { caller, kind: header.kind, call, body });
            }
        }
    }

    /// The group is kept by another engine or by other nodes.
    fn send_away(&mut self, caller: Caller, group: GroupId, effects: &mut Effects) {
        let node = self.leaders[group.0 as usize];
        let engine = engine_of_group(group.0, self.config.engines);
        let hint = Hint { node, engine, retry_ms: if node.is_some() { 0 } else { 20 } };
        let code = if node.is_some() { Code::NotLeader } else { Code::Unavailable };
        let mut replies = Replies { conns: &mut self.conns, outbox: &mut effects.clients };
        replies.error(caller, code, hint);
    }

    fn on_heartbeat(&mut self, now: Time, caller: Caller, body: &[u8], effects: &mut Effects) {
        let mut replies = Replies { conns: &mut self.conns, outbox: &mut effects.clients };
        let Ok(heartbeat) = Heartbeat::view(body) else {
            return replies.error(caller, Code::BadMessage, Hint::NONE);
        };
        let session = SessionId(heartbeat.session);
        self.scratch.clear();
        for shard in &mut self.shards {
            if shard.on_heartbeat(now, session) {
                let id = shard.group().shard().expect("only shards have sessions");
                self.scratch.extend_from_slice(&id.to_le_bytes());
            }
        }
        replies.alive(caller, &self.scratch);
    }

    /// The node's state is asked for: the world tells it, once for all who ask meanwhile.
    fn on_status(&mut self, caller: Caller, body: &[u8], effects: &mut Effects) {
        let mut replies = Replies { conns: &mut self.conns, outbox: &mut effects.clients };
        if !Status::view(body).is_ok_and(|status| status.reserved == 0) {
            return replies.error(caller, Code::BadMessage, Hint::NONE);
        }
        if self.askers.len() >= REPORT_ASKERS_MAX {
            return replies.error(caller, Code::Busy, Hint::retry(20));
        }
        if self.askers.is_empty() {
            effects.report = Some(ReportWanted);
        }
        self.askers.push(caller);
    }

    pub(super) fn on_report(&mut self, json: &[u8], effects: &mut Effects) {
        let mut replies = Replies { conns: &mut self.conns, outbox: &mut effects.clients };
        let fits = HEADER_BYTES + StatusReply::FIXED + json.len() <= FRAME_BYTES_MAX;
        for caller in self.askers.drain(..) {
            if fits {
                replies.reply(caller, StatusReply::KIND, |b| StatusReply { json }.encode(b));
            } else {
                replies.error(caller, Code::TooLarge, Hint::NONE);
            }
        }
    }

    fn on_topology(&mut self, caller: Caller, effects: &mut Effects) {
        let (mut nodes, mut placement) = (Vec::new(), Vec::new());
        for member in &self.config.members {
            let address = member.address.clone();
            let node = topology::Node { id: member.node.0, engines: self.config.engines, address };
            topology::write_node(&node, &mut nodes);
        }
        for shard in 0..self.config.shards {
            let group = GroupId::of_shard(shard).0 as usize;
            let leader = self.leaders[group].map_or(0, |leader| leader.0);
            let replicas = self.placement[group].nodes.iter().map(|n| n.0).collect();
            let row = topology::Placement { shard, leader, replicas };
            topology::write_placement(&row, &mut placement);
        }
        let reply = TopologyReply {
            epoch: PLACEMENT_EPOCH,
            cluster: self.config.cluster.0,
            shards: self.config.shards,
            nodes: &nodes,
            placement: &placement,
        };
        let mut replies = Replies { conns: &mut self.conns, outbox: &mut effects.clients };
        replies.reply(caller, TopologyReply::KIND, |b| reply.encode(b));
    }
}

/// The moment at which a request's deadline passes.
fn deadline(now: Time, deadline_ms: u32) -> Time {
    if deadline_ms == 0 { Time::MAX } else { now + millis(deadline_ms) }
}
