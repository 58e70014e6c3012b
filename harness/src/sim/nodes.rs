//! Nodes: their turns, what they ask of the world, how they start and how they lose their power.

use super::backups::BACKER;
use super::faults::HEARTBEAT;
use super::reader::READER;
use super::signs::Signs;
use super::stranger::STRANGER;
use super::{Event, FOUNDERS, Failure, Incoming, SHARDS, World};
use engine::effects::{Effects, Note};
use engine::engine::{EngineConfig, Founder, Input, OpenError};
use engine::ids::{ClusterId, GroupId, Incarnation, NodeId, Position};
use engine::raft::ReadMode;
use engine::secret::Secret;
use engine::time::{Duration, Time};
use wire::Header;
use wire::header::PROTOCOL_MAX;
use wire::limits::PEER_FRAME_BYTES_MAX;
use wire::peer::Join;

/// The cluster.
pub(super) const CLUSTER: ClusterId = ClusterId([7; 16]);

impl World {
    pub(super) fn deliver(&mut self, to: u32, incoming: Incoming) {
        let node = &mut self.nodes[to as usize];
        if node.engine.is_none() {
            return;
        }
        node.inbox.push(incoming);
        let at = self.now + Duration::from_micros(self.network.u64(1..40));
        self.plan_turn(to, at);
    }

    pub(super) fn plan_turn(&mut self, to: u32, at: Time) {
        let node = &mut self.nodes[to as usize];
        node.turn_at = node.turn_at.min(at.max(self.now));
    }

    /// A node takes in what has arrived, as one turn of the server's loop does.
    pub(super) fn turn(&mut self, id: u32) -> Result<(), Failure> {
        let now = self.clocks[id as usize].read(self.now);
        let node = &mut self.nodes[id as usize];
        node.turn_at = Time::MAX;
        if self.now < node.paused_until {
            node.turn_at = node.paused_until;
            return Ok(());
        }
        let Some(engine) = &mut node.engine else { return Ok(()) };
        let effects = node.effects.as_deref_mut().expect("it is there between turns");
        for incoming in node.inbox.drain(..) {
            match &incoming {
                Incoming::Request(conn, bytes) => {
                    let frame = wire::split(bytes, wire::limits::FRAME_BYTES_MAX);
                    let frame = frame.expect("clients send frames").expect("whole ones");
                    self.watch.signs.on_request(now, id, engine, &frame);
                    self.reader.on_request(id, *conn, &frame);
                    let (header, body) = (frame.header, frame.body);
                    engine.on(now, Input::Frame { conn: *conn, header, body }, effects);
                }
                Incoming::Peer(from, bytes) => {
                    let frame = wire::split(bytes, PEER_FRAME_BYTES_MAX);
                    let frame = frame.expect("nodes send frames").expect("whole ones");
                    let (header, body) = (frame.header, frame.body);
                    let peer = NodeId(from + 1);
                    engine.on(now, Input::Peer { peer, header, body }, effects);
                }
                Incoming::Opened(conn) => {
                    engine.on(
                        now,
                        Input::Opened { conn: *conn, request: 0, version: PROTOCOL_MAX },
                        effects,
                    );
                }
                Incoming::Closed(conn) => engine.on(now, Input::Closed { conn: *conn }, effects),
                Incoming::PeerUp(n) => {
                    engine.on(now, Input::PeerUp { peer: NodeId(n + 1) }, effects);
                }
                Incoming::PeerDown(n) => {
                    engine.on(now, Input::PeerDown { peer: NodeId(n + 1) }, effects);
                }
                Incoming::Synced(position) => {
                    engine.on(now, Input::Synced { position: *position }, effects);
                }
                Incoming::Segment(slot) => {
                    engine.on(now, Input::SegmentReady { slot: *slot }, effects);
                }
                Incoming::Report => engine.on(now, Input::Report { json: b"{}" }, effects),
                Incoming::Change(group, change) => {
                    engine.change_members(now, *group, *change, effects);
                }
                Incoming::Make(group, life) => {
                    let (header, body) = join(*group, *life);
                    // Whoever says so, it is a leader's word.
                    let input =
                        Input::Peer { peer: NodeId(1 + (id + 1) % FOUNDERS), header, body: &body };
                    engine.on(now, input, effects);
                }
                Incoming::Letter(letter) => self.watch.post(now, letter, engine, effects),
                Incoming::Saved(group, index) => {
                    let input = Input::SnapshotSaved { group: *group, index: *index };
                    engine.on(now, input, effects);
                }
            }
            if let Incoming::Peer(_, bytes) | Incoming::Request(_, bytes) = incoming {
                self.spare.push(bytes);
            }
        }
        if let Some(flood) = &mut self.flood {
            flood.pour(now, (id, node.life), engine, effects);
        }
        if engine.wake_at() <= now {
            engine.on(now, Input::Tick, effects);
        }
        engine.end_turn(now, effects);
        self.reader.on_end_of_turn((id, node.life), engine);
        if engine.has_work() {
            engine.work(now, self.temper.slice, effects);
        }
        let wake_at = engine.wake_at();
        let did = self.watch.on_turn(self.now, &self.clocks, id, engine);
        let did = did.map_err(Failure::Safety)?;
        self.watch.on_mail(id, engine, effects).map_err(Failure::Safety)?;
        self.stages.on_turn((id, node.life), engine).map_err(Failure::Safety)?;
        self.perform(id)?;
        let node = &self.nodes[id as usize];
        if node.engine.is_some() {
            self.reader.on_turn((id, node.life), now).map_err(Failure::Safety)?;
        }
        let wake_at = self.clocks[id as usize].when(wake_at);
        self.plan_turn(id, wake_at.max(self.now + Duration::from_micros(10)));
        self.aim(id, did);
        Ok(())
    }

    /// Carries out what the engine of a node asks for.
    pub(super) fn perform(&mut self, id: u32) -> Result<(), Failure> {
        let effects = self.nodes[id as usize].effects.take();
        let mut effects = effects.expect("it is there between turns");
        let life = self.nodes[id as usize].life;
        if let Some(write) = effects.write.take() {
            let node = &mut self.nodes[id as usize];
            let engine = node.engine.as_ref().expect("only a live engine asks for a write");
            node.disk.begin_write(write, engine.in_flight());
            self.sync(id, write.position);
        }
        let mut sent = Ok(());
        effects.peers.drain(|to, bytes| {
            let all = self.send_frames(id, to - 1, bytes);
            sent = std::mem::replace(&mut sent, Ok(())).and(all);
        });
        sent.map_err(Failure::Safety)?;
        let mut vouched = Ok(());
        effects.clients.drain(|index, bytes| {
            self.stages.on_answers(index, bytes);
            if let Some(engine) = &self.nodes[id as usize].engine {
                let all = Signs::on_answers(id, engine, bytes);
                vouched = std::mem::replace(&mut vouched, Ok(())).and(all);
            }
            if index == READER {
                let now = self.clocks[id as usize].read(self.now);
                match self.reader.on_sent((id, life), now, bytes) {
                    Ok(Some(to)) => self.send_to_reader(id, std::mem::take(bytes), to),
                    Ok(None) => {}
                    Err(why) => vouched = std::mem::replace(&mut vouched, Ok(())).and(Err(why)),
                }
            } else if index == STRANGER {
                let said = self.stranger.on_sent((id, life), bytes);
                vouched = std::mem::replace(&mut vouched, Ok(())).and(said);
            } else if let Some(generation) = self.clients.connected(index, id) {
                let bytes = bytes.clone();
                let takes = self.delay();
                self.plan(takes, Event::Reply { client: index, generation, bytes });
            } else if index == BACKER
                && let Some(generation) = self.backups.connected(id, life)
            {
                let bytes = std::mem::take(bytes);
                let takes = self.delay();
                self.plan(takes, Event::BackedUp { generation, bytes });
            }
        });
        vouched.map_err(Failure::Safety)?;
        self.stages.on_answered(id).map_err(Failure::Safety)?;
        for slot in effects.segments.drain(..) {
            let takes = Duration::from_millis(self.network.u64(1..30));
            self.plan(takes, Event::Segment { node: id, life, slot });
        }
        for part in effects.saves.drain(..) {
            let (group, index, last) = (part.group, part.index, part.last);
            self.nodes[id as usize].disk.write_snapshot(part);
            if last {
                self.snapshots += 1;
                let most = self.temper.save_millis_max;
                let takes = Duration::from_millis(self.network.u64(1..most));
                self.plan(takes, Event::Saved { node: id, life, group, index });
            }
        }
        for (group, index) in effects.drops.drain(..) {
            self.nodes[id as usize].disk.drop_snapshot(group, index);
        }
        if let Some(nodes) = effects.nodes.take() {
            self.nodes[id as usize].roster = nodes;
        }
        if effects.report.take().is_some() {
            self.deliver(id, Incoming::Report);
        }
        effects.closes.clear();
        self.count(&effects.notes);
        effects.notes.clear();
        let outdated = effects.outdated.take();
        self.nodes[id as usize].effects = Some(effects);
        if outdated.is_some() { self.leave_behind(id) } else { self.check_levels(id) }
    }

    /// Counts what a node told for people.
    fn count(&mut self, notes: &[Note]) {
        for note in notes {
            match note {
                Note::JournalFull { .. } => self.journals_full += 1,
                Note::ChangeAnswered { answer: Ok(_), .. } => self.changes += 1,
                Note::ReplicaRemoved { .. } => self.removed += 1,
                _ => {}
            }
        }
    }

    /// The write of a node takes its time.
    fn sync(&mut self, id: u32, position: Position) {
        let life = self.nodes[id as usize].life;
        let slow = if self.temper.slow_node == Some(id) { 20 } else { 1 };
        let most = self.temper.sync_micros_max * slow;
        let takes = Duration::from_micros(self.network.u64(60..most.min(100_000)));
        self.plan(takes, Event::Written { node: id, life, position });
    }

    /// A segment was opened: its witness is written before that is reported. Power may fail just then.
    pub(super) fn attest(&mut self, id: u32, position: Position) {
        self.sync(id, position);
        self.aim_at_opening(id);
    }

    /// Sends frames one by one: each is lost, doubled or late by itself.
    fn send_frames(&mut self, from: u32, to: u32, mut bytes: &[u8]) -> Result<(), String> {
        while !bytes.is_empty() {
            let frame = wire::split(bytes, PEER_FRAME_BYTES_MAX);
            let frame = frame.expect("an engine sends frames").expect("whole ones");
            self.watch.on_frame(from, to, &frame)?;
            let (frame, rest) = bytes.split_at(frame.used);
            bytes = rest;
            let copies = match self.network.u32(..100) {
                0 if self.is_faulty() => 0,
                x if x <= self.temper.double_percent && self.is_faulty() => 2,
                _ => 1,
            };
            let life = self.nodes[to as usize].life;
            for copy in 0..copies {
                // The second one may come when nobody thinks of the first any more.
                let later =
                    Duration::from_millis(if copy > 0 { self.network.u64(..800) } else { 0 });
                let takes = self.delay() + later;
                let mut copied = self.spare.pop().unwrap_or_default();
                copied.clear();
                copied.extend_from_slice(frame);
                let frame = copied;
                self.plan(takes, Event::Peer { from, to, life, frame });
            }
        }
        Ok(())
    }

    pub(super) fn delay(&mut self) -> Duration {
        let late = self.network.u32(..self.temper.late_one_in) == 0;
        let tail = if late { self.temper.late_micros_max } else { 200 };
        Duration::from_micros(self.network.u64(30..30 + tail))
    }

    pub(super) fn is_faulty(&self) -> bool {
        self.now < Time(0) + self.options.faulty
    }

    pub(super) fn start(&mut self, id: u32) -> Result<(), Failure> {
        if self.nodes[id as usize].engine.is_some() {
            return Ok(());
        }
        self.choose_build(id);
        let config = self.config(id);
        let node = &mut self.nodes[id as usize];
        node.life += 1;
        node.inbox.clear();
        node.turn_at = Time::MAX;
        node.paused_until = Time(0);
        let mut effects = Box::<Effects>::default();
        self.clocks[id as usize].restart(self.now, &mut self.ticks);
        let now = self.clocks[id as usize].read(self.now);
        let mut opened = node.disk.open(config, now, &mut effects);
        if self.on_rotten(id, &opened)? {
            let config = self.config(id);
            let node = &mut self.nodes[id as usize];
            effects = Box::default();
            opened = node.disk.open(config, now, &mut effects);
        }
        self.nodes[id as usize].effects = Some(effects);
        if let Err(OpenError::NewerLevel { .. }) = opened {
            return self.leave_behind(id);
        }
        let engine = opened.map_err(|e| Failure::Safety(format!("node {} : {e}", id + 1)))?;
        let watched = self.watch.on_start(self.now, &self.clocks, id, &engine);
        watched.map_err(Failure::Safety)?;
        self.nodes[id as usize].engine = Some(engine);
        // What clients sent to a node that was down went nowhere.
        self.disconnect_clients(id);
        self.perform(id)?;
        for other in self.all().filter(|other| *other != id) {
            self.deliver(other, Incoming::PeerUp(id));
            if self.nodes[other as usize].engine.is_some() {
                self.deliver(id, Incoming::PeerUp(other));
            }
        }
        let at = self.now + Duration::from_micros(50);
        self.plan_turn(id, at);
        Ok(())
    }

    /// The incarnation of a node's data directory.
    pub(super) fn incarnation(&self, id: u32) -> Incarnation {
        Incarnation([if self.nodes[id as usize].founder { id as u8 + 1 } else { 0xaa }; 16])
    }

    /// Another one for each life of each node: nothing that replicas have in common may depend on it.
    pub(super) fn secret(&self, id: u32) -> Secret {
        let (life, mut bits) = (self.nodes[id as usize].life, [0; 16]);
        bits[..8].copy_from_slice(&self.options.seed.to_le_bytes());
        bits[8..].copy_from_slice(&(u64::from(id) << 32 | life).to_le_bytes());
        Secret::new(bits)
    }

    pub(super) fn config(&mut self, id: u32) -> EngineConfig {
        let election_timeout_min = self.temper.draw_timeout(&mut self.timeouts);
        let member = |n: u32| Founder {
            node: NodeId(n + 1),
            incarnation: Incarnation([n as u8 + 1; 16]),
            address: format!("node{}:7400", n + 1),
        };
        EngineConfig {
            cluster: CLUSTER,
            node: NodeId(id + 1),
            engine: 0,
            engines: 1,
            shards: SHARDS,
            replication: 3,
            founders: (0..FOUNDERS).map(member).collect(),
            nodes: self.nodes[id as usize].roster.clone(),
            incarnation: self.incarnation(id),
            seed: self.faults.u64(..),
            secret: self.secret(id),
            election_timeout_min,
            election_timeout_max: election_timeout_min * 2,
            heartbeat: HEARTBEAT,
            level_max: self.nodes[id as usize].build.level,
            kinds: self.kinds(id),
            balance_after: Duration::from_millis(self.temper.balance_millis),
            reads: if self.options.seed.is_multiple_of(3) {
                ReadMode::ReadIndex
            } else {
                ReadMode::Lease
            },
            segment_bytes: self.temper.segment_bytes,
            segments_max: self.temper.segments_max,
            cache_bytes_max: self.temper.lines_bytes_max,
        }
    }

    /// A node stops by itself since its disk is no good: what was on its way is kept by chance, as when the power
    /// fails. It is started again, and finds out anew.
    pub(super) fn stop(&mut self, id: u32) {
        self.nodes[id as usize].sync_fails = false;
        self.stopped += 1;
        self.crash(id);
        let back = Duration::from_millis(self.faults.u64(20..200));
        self.plan(back, Event::Start { node: id });
    }

    /// Whether a node can make a file. If not, it stops.
    pub(super) fn has_space(&mut self, id: u32) -> bool {
        let has = self.now >= self.nodes[id as usize].full_until;
        if !has {
            self.stop(id);
        }
        has
    }

    /// The power fails: what was not synced is kept by chance, page by page.
    pub(super) fn crash(&mut self, id: u32) {
        let node = &mut self.nodes[id as usize];
        let Some(engine) = node.engine.take() else { return };
        node.life += 1;
        node.turn_at = Time::MAX;
        node.disk.crash(engine.in_flight());
        self.crashes += 1;
        self.watch.on_crash(id);
        self.disconnect_clients(id);
        for other in self.all().filter(|other| *other != id) {
            self.deliver(other, Incoming::PeerDown(id));
            self.deliver(other, Incoming::PeerUp(id));
        }
    }
}

/// A leader's word that a replica is to be made.
fn join(group: GroupId, life: Incarnation) -> (Header, Vec<u8>) {
    let (mut body, join) = (Vec::new(), Join { term: 0, incarnation: life.0 });
    join.encode(&mut body);
    (Header { shard: group.0, ..Header::new(Join::KIND, 0) }, body)
}
