//! What clients ask of an engine: where a frame goes, and what is answered on the spot.

use super::Engine;
use crate::effects::{Effects, ReportWanted};
use crate::ids::{ConnId, GroupId, NodeId, SessionId};
use crate::level::Level;
use crate::limits::SNAPSHOT_PIECE_BYTES_MAX;
use crate::limits::{BACKUPS_MAX, CREDIT_BYTES, CREDIT_FRAMES, REPORT_ASKERS_MAX};
use crate::machine::ReadAsk;
use crate::mutant::{self, Mutant};
use crate::shard::calls::{CallId, Caller};
use crate::shard::desk::{Desk, Hint};
use crate::shard::{Proposal, Shard, Shared, Step};
use crate::time::{Time, millis};
use alloc::vec::Vec;
use wire::bytes::Put;
use wire::limits::FRAME_BYTES_MAX;
use wire::message::{
    AdminRequest, BackupBegin, BackupRead, ConnectionRequest, Heartbeat, LeaderMove, SessionClose,
    SessionOpen, SessionRequest, StatusReply, TopologyReply, Welcome,
};
use wire::request::Route;
use wire::topology::engine_of_group;
use wire::{Code, HEADER_BYTES, Header, Kind};

/// What a topology or a status says of a shard, about, in bytes.
const ROW_BYTES: usize = 64;

/// What a client sent, once it is known to be a request.
struct Frame<'a> {
    caller: Caller,
    kind: Kind,
    /// Whether it only reads.
    reads: bool,
    /// From which level on the request has its meaning.
    level: Level,
    /// When who asks gives up; [`Time::MAX`] = never.
    deadline: Time,
    body: &'a [u8],
}

impl Engine {
    pub(super) fn on_opened(
        &mut self,
        conn: ConnId,
        request: u64,
        version: u8,
        effects: &mut Effects,
    ) {
        self.shared.conns.open(conn, version);
        let welcome = Welcome {
            cluster: self.config.cluster.0,
            node: self.config.node.0,
            engine: self.config.engine,
            engines: self.config.engines,
            shards: self.config.shards,
            epoch: self.epoch(),
            credit_frames: CREDIT_FRAMES,
            credit_bytes: CREDIT_BYTES,
            version,
        };
        let caller = Caller { conn, request, bytes: 0 };
        self.shared.conns.admit(caller, None);
        self.shared.desk(effects).reply(caller, Welcome::KIND, |b| welcome.encode(b));
    }

    /// A client is gone.
    pub(super) fn on_closed(&mut self, conn: ConnId) {
        self.shared.conns.close(conn);
        self.pushes.on_closed(conn);
        for at in 0..self.shards.len() {
            if self.shards[at].has_aside() {
                self.shards.touch(at).on_closed(conn);
            }
        }
    }

    /// A client has read, and gets what waited for that.
    pub(super) fn on_drained(&mut self, conn: ConnId) {
        if !self.shared.conns.drain(conn) {
            return;
        }
        for at in 0..self.shards.len() {
            if self.shards[at].has_aside() {
                self.shards.touch(at).on_drained(conn);
            }
        }
    }

    /// Less waits for all clients together.
    pub(super) fn on_eased(&mut self, now: Time, effects: &mut Effects) {
        self.shared.conns.crowd(false);
        let step = &mut Step { now, shared: &mut self.shared, effects };
        self.shards.touch_all().for_each(|shard| shard.on_eased(step));
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
        let facts = wire::Request::facts_of(header.kind);
        let admitted = self.shared.conns.admit(caller, facts);
        let mut desk = self.shared.desk(effects);
        // A heartbeat is answered past any credit: a client that asks for too much does not lose its locks.
        if !admitted && header.kind != Heartbeat::KIND {
            return desk.error(caller, Code::Busy, Hint::retry(1));
        }
        let known = facts.and_then(|facts| Some((facts, self.config.kinds.since_of(facts)?)));
        let Some((facts, from_level)) = known else {
            return desk.error(caller, Code::UnknownKind, Hint::NONE);
        };
        let request = match wire::Request::view(header.kind, body) {
            Ok(request) => request,
            Err(code) => return desk.error(caller, code, Hint::NONE),
        };
        let route = request.route();
        let level = from_level.max(Level(route.level));
        let (kind, reads) = (header.kind, facts.reads);
        let deadline = deadline(since, header.deadline_ms);
        let frame = Frame { caller, kind, reads, level, deadline, body };
        match request {
            wire::Request::Connection(ConnectionRequest::Heartbeat(it)) => {
                self.on_heartbeat(now, caller, SessionId(it.session), effects);
            }
            wire::Request::Connection(ConnectionRequest::Topology(_)) => {
                self.on_topology(caller, effects);
            }
            wire::Request::Connection(ConnectionRequest::Watch(it)) => {
                self.on_watch(now, caller, it, effects);
            }
            wire::Request::Connection(ConnectionRequest::PushesRead(it)) => {
                self.on_pushes_read(caller, it, effects);
            }
            // A connection is greeted once, before it gets here.
            wire::Request::Connection(ConnectionRequest::Hello(_)) => {
                desk.error(caller, Code::UnknownKind, Hint::NONE);
            }
            wire::Request::Admin(request) => self.on_admin(now, &frame, request, effects),
            wire::Request::Session(_)
            | wire::Request::Lock(_)
            | wire::Request::Queue(_)
            | wire::Request::Cache(_) => {
                self.on_request(now, &frame, header.shard, (&request, &route), effects);
            }
        }
    }

    /// Something is asked of a shard.
    fn on_request(
        &mut self,
        now: Time,
        frame: &Frame<'_>,
        said: u32,
        (request, route): (&wire::Request<'_>, &Route<'_>),
        effects: &mut Effects,
    ) {
        let &Frame { caller, kind, reads, level, deadline, body } = frame;
        let mut desk = self.shared.desk(effects);
        let shard = route.name.map_or(said, |name| wire::name::shard(name, self.config.shards));
        if shard != said || shard >= self.config.shards {
            return desk.error(caller, Code::WrongShard, Hint::NONE);
        }
        let group = GroupId::of_shard(shard);
        let Some(at) = self.place_of(group) else {
            return self.send_away(caller, group, effects);
        };
        if deadline <= now {
            return self.shared.desk(effects).error(caller, Code::DeadlineExceeded, Hint::NONE);
        }
        let shard = self.shards.touch(at);
        let step = &mut Step { now, shared: &mut self.shared, effects };
        let call = match (&route.call, request) {
            (Some(call), _) => CallId { session: SessionId(call.session), sequence: call.sequence },
            (None, _) if reads => {
                let ask = ReadAsk { kind, body };
                return shard.on_read(step, caller, level, ask, deadline);
            }
            // A session's own messages have no number: asked twice, they are done once all the same.
            (
                None,
                wire::Request::Session(
                    SessionRequest::SessionOpen(SessionOpen { session, .. })
                    | SessionRequest::SessionClose(SessionClose { session }),
                ),
            ) => CallId { session: SessionId(*session), sequence: 0 },
            (None, _) => unreachable!("what changes a shard is a call"),
        };
        shard.on_write(step, Proposal { caller, kind, level, call, deadline, body });
    }

    /// Something is asked of the node or of the cluster.
    fn on_admin(
        &mut self,
        now: Time,
        frame: &Frame<'_>,
        request: AdminRequest<'_>,
        effects: &mut Effects,
    ) {
        let caller = frame.caller;
        match request {
            AdminRequest::Status(_) => self.on_status(caller, effects),
            AdminRequest::NodeAdd(_) | AdminRequest::NodeDrain(_) | AdminRequest::NodeForget(_) => {
                self.on_node_call(now, frame, effects);
            }
            AdminRequest::LeaderMove(it) => self.on_leader_move(now, caller, it, effects),
            AdminRequest::BackupBegin(it) => self.on_backup_begin(now, caller, it, effects),
            AdminRequest::BackupRead(it) => self.on_backup_read(now, caller, it, effects),
        }
    }

    /// Whether so much may be answered to a client now; if not it is told to come again.
    fn takes(&mut self, caller: Caller, bytes: usize, effects: &mut Effects) -> bool {
        let mut desk = self.shared.desk(effects);
        let takes = desk.takes(caller, bytes);
        if !takes {
            desk.error(caller, Code::Busy, Hint::retry(20));
        }
        takes
    }

    /// The group is kept by another engine or by other nodes.
    fn send_away(&mut self, caller: Caller, group: GroupId, effects: &mut Effects) {
        let node = self.known[group.0 as usize].leader;
        let engine = self.engine_to_ask(group);
        let hint = Hint { node, engine, retry_ms: if node.is_some() { 0 } else { 20 } };
        let code = if node.is_some() { Code::NotLeader } else { Code::Unavailable };
        self.shared.desk(effects).error(caller, code, hint);
    }

    /// Which engine keeps a group, on whatever node.
    fn engine_to_ask(&self, group: GroupId) -> u32 {
        match mutant::on(Mutant::SentToSameEngine) {
            true => self.config.engine,
            false => engine_of_group(group.0, self.config.engines),
        }
    }

    fn on_heartbeat(
        &mut self,
        now: Time,
        caller: Caller,
        session: SessionId,
        effects: &mut Effects,
    ) {
        self.shared.scratch.clear();
        for at in 0..self.shards.len() {
            if self.shards[at].state().session_ttl(session).is_none() {
                continue;
            }
            let shard = self.shards.touch(at);
            if shard.on_heartbeat(now, session) {
                let id = shard.group().shard().expect("only shards have sessions");
                self.shared.scratch.put_u32(id);
            }
        }
        let Shared { conns, scratch, .. } = &mut self.shared;
        Desk::new(conns, &mut effects.clients).alive(caller, scratch);
    }

    /// The node's state is asked for: the world tells it, once for all who ask meanwhile.
    fn on_status(&mut self, caller: Caller, effects: &mut Effects) {
        if !self.takes(caller, self.config.shards as usize * ROW_BYTES, effects) {
            return;
        }
        let mut desk = self.shared.desk(effects);
        if self.askers.len() >= REPORT_ASKERS_MAX {
            return desk.error(caller, Code::Busy, Hint::retry(20));
        }
        if self.askers.is_empty() {
            effects.report = Some(ReportWanted);
        }
        self.askers.push(caller);
    }

    pub(super) fn on_report(&mut self, json: &[u8], effects: &mut Effects) {
        let mut desk = self.shared.desk(effects);
        let fits = HEADER_BYTES + StatusReply::FIXED + json.len() <= FRAME_BYTES_MAX;
        for caller in self.askers.drain(..) {
            if fits {
                desk.reply(caller, StatusReply::KIND, |b| StatusReply { json }.encode(b));
            } else {
                desk.error(caller, Code::TooLarge, Hint::NONE);
            }
        }
    }

    /// The placement epoch: it rises whenever the cluster's nodes change.
    pub(super) fn epoch(&self) -> u64 {
        self.nodes.epoch() + 1
    }

    /// Who keeps a group: by its replica here, by its leader's word, or by the placement.
    pub(super) fn keepers_of(&self, group: GroupId) -> Vec<u32> {
        let (known, wanted) =
            (&self.known[group.0 as usize].members, &self.placement[group.0 as usize].nodes);
        match self.place_of(group) {
            Some(at) => {
                let members = self.shards[at].raft().configuration().members();
                members.iter().map(|member| member.node.0).collect()
            }
            None if known.is_empty() => wanted.iter().map(|node| node.0).collect(),
            None => known.iter().map(|node| node.0).collect(),
        }
    }

    /// Who the cluster's nodes are is to change: a matter of the meta group.
    fn on_node_call(&mut self, now: Time, frame: &Frame<'_>, effects: &mut Effects) {
        let &Frame { caller, kind, level, deadline, body, .. } = frame;
        let Some(at) = self.place_of(GroupId::META) else {
            return self.send_away(caller, GroupId::META, effects);
        };
        // Nobody's session: asked twice, it is done once all the same.
        let call = CallId { session: SessionId([0; 16]), sequence: 0 };
        self.shards.touch(at).on_write(
            &mut Step { now, shared: &mut self.shared, effects },
            Proposal { caller, kind, level, call, deadline, body },
        );
    }

    fn on_leader_move(
        &mut self,
        now: Time,
        caller: Caller,
        LeaderMove { group, node }: LeaderMove,
        effects: &mut Effects,
    ) {
        let group = GroupId(group);
        if !self.is_ours(group) {
            return self.shared.desk(effects).error(caller, Code::WrongShard, Hint::NONE);
        }
        let led = self.place_of(group).filter(|at| self.shards[*at].raft().is_leader());
        let Some(at) = led else { return self.send_away(caller, group, effects) };
        let moved = self
            .shards
            .touch(at)
            .on_leader_move(&mut Step { now, shared: &mut self.shared, effects }, NodeId(node));
        let applied = self.shards[at].applied();
        let mut desk = self.shared.desk(effects);
        match moved {
            Ok(()) => desk.done(caller, 0, applied),
            Err(code) => desk.error(caller, code, Hint::retry(100)),
        }
    }

    /// A group's snapshot is wanted for a backup.
    fn on_backup_begin(
        &mut self,
        now: Time,
        caller: Caller,
        BackupBegin { backup, group }: BackupBegin,
        effects: &mut Effects,
    ) {
        let group = GroupId(group);
        let other = |shard: &Shard| shard.has_backup() && shard.group() != group;
        // What is left of another group of the same backup: nobody reads it any more.
        let step = &mut Step { now, shared: &mut self.shared, effects };
        for at in 0..self.shards.len() {
            if other(&self.shards[at]) {
                self.shards.touch(at).forget_backup(step, backup);
            }
        }
        let full = self.shards.iter().filter(|shard| other(shard)).count() >= BACKUPS_MAX;
        let ours = self.is_ours(group);
        let mut desk = self.shared.desk(effects);
        if !ours {
            return desk.error(caller, Code::WrongShard, Hint::NONE);
        }
        if full {
            return desk.error(caller, Code::Busy, Hint::retry(500));
        }
        let Some(at) = self.place_of(group) else { return self.send_away(caller, group, effects) };
        self.shards.touch(at).on_backup_begin(
            &mut Step { now, shared: &mut self.shared, effects },
            caller,
            backup,
        );
    }

    /// A piece of it is wanted.
    fn on_backup_read(
        &mut self,
        now: Time,
        caller: Caller,
        BackupRead { backup, group, offset }: BackupRead,
        effects: &mut Effects,
    ) {
        if !self.takes(caller, SNAPSHOT_PIECE_BYTES_MAX, effects) {
            return;
        }
        match self.place_of(GroupId(group)) {
            Some(at) => {
                let step = &mut Step { now, shared: &mut self.shared, effects };
                self.shards.touch(at).on_backup_read(step, caller, backup, offset);
            }
            None => {
                self.shared.desk(effects).error(caller, Code::BackupGone, Hint::NONE);
            }
        }
    }

    fn on_topology(&mut self, caller: Caller, effects: &mut Effects) {
        if !self.takes(caller, self.config.shards as usize * ROW_BYTES, effects) {
            return;
        }
        let nodes = self.node_rows();
        let placement: Vec<Vec<u8>> =
            (0..self.config.shards).map(|shard| self.placement_row(shard)).collect();
        let placement = placement.concat();
        let reply = TopologyReply {
            epoch: self.epoch(),
            cluster: self.config.cluster.0,
            shards: self.config.shards,
            nodes: &nodes,
            placement: &placement,
        };
        self.shared.desk(effects).reply(caller, TopologyReply::KIND, |b| reply.encode(b));
    }
}

/// The moment at which a request's deadline passes.
fn deadline(now: Time, deadline_ms: u32) -> Time {
    if deadline_ms == 0 { Time::MAX } else { now + millis(deadline_ms) }
}
