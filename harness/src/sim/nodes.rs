//! Nodes: their turns, what they ask of the world, how they start and how they lose their power.

use super::backups::BACKER;
use super::disk::Progress;
use super::faults::HEARTBEAT;
use super::misdirected::MISDIRECTED;
use super::reader::READER;
use super::seats::SeatId;
use super::signs::Signs;
use super::stranger::STRANGER;
use super::watch::Did;
use super::{Event, FOUNDERS, Failure, Incoming, World};
use engine::effects::{Effects, News, Note};
use engine::engine::{Engine, EngineConfig, Founder, Input, OpenError};
use engine::ids::{ClusterId, GroupId, Incarnation, NodeId, Position};
use engine::machine::meta::Meta;
use engine::raft::ReadMode;
use engine::secret::Secret;
use engine::time::{Duration, Time};
use wire::Header;
use wire::frames::Frame;
use wire::header::PROTOCOL_MAX;
use wire::limits::{FRAME_BYTES_MAX, PEER_FRAME_BYTES_MAX};
use wire::peer::Join;

/// The cluster.
pub(super) const CLUSTER: ClusterId = ClusterId([7; 16]);

impl World {
    pub(super) fn deliver(&mut self, to: SeatId, incoming: Incoming) {
        let seat = self.seat_mut(to);
        if seat.engine.is_none() {
            return;
        }
        seat.inbox.push(incoming);
        let at = self.now + Duration::from_micros(self.network.u64(1..40));
        self.plan_turn(to, at);
    }

    pub(super) fn plan_turn(&mut self, to: SeatId, at: Time) {
        let earliest = at.max(self.now);
        let seat = self.seat_mut(to);
        seat.turn_at = seat.turn_at.min(earliest);
    }

    /// The engine whose turn is next, and when: the first one of several.
    pub(super) fn next_turn(&self) -> (Time, SeatId) {
        let mut next = (Time::MAX, SeatId { node: u32::MAX, engine: 0 });
        for (node, of) in (0..).zip(&self.nodes) {
            for (engine, seat) in (0..).zip(&of.seats) {
                if seat.turn_at < next.0 {
                    next = (seat.turn_at, SeatId { node, engine });
                }
            }
        }
        next
    }

    /// An engine takes in what has arrived, as one turn of the server's loop does.
    pub(super) fn turn(&mut self, at: SeatId) -> Result<(), Failure> {
        let id = at.node;
        let now = self.clocks[id as usize].read(self.now);
        let node = &mut self.nodes[id as usize];
        let (life, seat) = (node.life, &mut node.seats[at.engine as usize]);
        seat.turn_at = Time::MAX;
        if self.now < seat.paused_until {
            seat.turn_at = seat.paused_until;
            return Ok(());
        }
        let Some(engine) = &mut seat.engine else { return Ok(()) };
        let effects = seat.effects.as_deref_mut().expect("it is there between turns");
        for incoming in seat.inbox.drain(..) {
            match &incoming {
                Incoming::Request(conn, bytes) => {
                    let frame = whole(bytes, FRAME_BYTES_MAX);
                    self.watch.signs.on_request(now, id, engine, &frame);
                    self.reader.on_request(at, *conn, &frame);
                    let (header, body) = (frame.header, frame.body);
                    engine.on(now, Input::Frame { conn: *conn, header, body }, effects);
                }
                Incoming::Peer(from, bytes) => {
                    let Frame { header, body, .. } = whole(bytes, PEER_FRAME_BYTES_MAX);
                    let peer = NodeId(from + 1);
                    engine.on(now, Input::Peer { peer, header, body }, effects);
                }
                Incoming::Opened(conn) => {
                    let version = PROTOCOL_MAX;
                    engine.on(now, Input::Opened { conn: *conn, request: 0, version }, effects);
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
                Incoming::News(news) => engine.on(now, Input::of(news), effects),
                Incoming::Across(bytes) => {
                    let Frame { header, body, .. } = whole(bytes, PEER_FRAME_BYTES_MAX);
                    engine.on(now, Input::Across { header, body }, effects);
                }
                Incoming::Change(group, change) => {
                    engine.change_members(now, *group, *change, effects);
                }
                Incoming::Make(group, life) => {
                    let (header, body) = join(*group, *life);
                    // Whoever says so, it is a leader's word.
                    let peer = NodeId(1 + (id + 1) % FOUNDERS);
                    engine.on(now, Input::Peer { peer, header, body: &body }, effects);
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
            flood.pour(now, (id, life), engine, effects);
        }
        if engine.wake_at() <= now {
            engine.on(now, Input::Tick, effects);
        }
        engine.end_turn(now, effects);
        self.reader.on_end_of_turn((at, life), engine);
        if engine.has_work() {
            engine.work(now, self.temper.slice, effects);
        }
        let wake_at = engine.wake_at();
        let did = self.look_at(at).map_err(Failure::Safety)?;
        self.perform(at)?;
        if self.engine(at).is_some() {
            self.reader.on_turn((at, life), now).map_err(Failure::Safety)?;
        }
        let wake_at = self.clocks[id as usize].when(wake_at);
        self.plan_turn(at, wake_at.max(self.now + Duration::from_micros(10)));
        self.aim(id, did);
        Ok(())
    }

    /// A turn of an engine ended, and what it asks for is not carried out yet.
    fn look_at(&mut self, at: SeatId) -> Result<Did, String> {
        let node = &mut self.nodes[at.node as usize];
        let engine = node.seats[at.engine as usize].engine.as_mut().expect("it had a turn");
        let did = self.watch.on_turn(self.now, &self.clocks, at, engine)?;
        self.watch.on_mail(at.node, engine)?;
        self.stages.on_turn((at.node, node.life), engine)?;
        Ok(did)
    }

    /// Carries out what an engine asks for.
    pub(super) fn perform(&mut self, at: SeatId) -> Result<(), Failure> {
        let id = at.node;
        let effects = self.seat_mut(at).effects.take();
        let mut effects = effects.expect("it is there between turns");
        let life = self.nodes[id as usize].life;
        if let Some(write) = effects.write.take() {
            let seat = self.seat_mut(at);
            let engine = seat.engine.as_ref().expect("only a live engine asks for a write");
            seat.disk.begin_write(write, engine.in_flight());
            self.sync(at, write.position);
        }
        let mut sent = Ok(());
        effects.peers.drain(|to, bytes| {
            let all = self.send_frames(at, to - 1, bytes);
            sent = std::mem::replace(&mut sent, Ok(())).and(all);
        });
        sent.map_err(Failure::Safety)?;
        let mut vouched = Ok(());
        effects.clients.drain(|index, bytes| {
            self.stages.on_answers(index, bytes);
            if let Some(engine) = self.engine(at) {
                let all = Signs::on_answers(id, engine, bytes);
                vouched = std::mem::replace(&mut vouched, Ok(())).and(all);
            }
            if index == READER {
                let now = self.clocks[id as usize].read(self.now);
                match self.reader.on_sent((at, life), now, bytes) {
                    Ok(Some(to)) => self.send_to_reader(at, std::mem::take(bytes), to),
                    Ok(None) => {}
                    Err(why) => vouched = std::mem::replace(&mut vouched, Ok(())).and(Err(why)),
                }
            } else if index == STRANGER {
                let said = self.stranger.on_sent((at, life), bytes);
                vouched = std::mem::replace(&mut vouched, Ok(())).and(said);
            } else if index == MISDIRECTED {
                let all = self.misdirected.on_answers(at, self.layout, bytes);
                vouched = std::mem::replace(&mut vouched, Ok(())).and(all);
            } else if let Some(generation) = self.clients.connected(index, at) {
                let bytes = bytes.clone();
                let takes = self.delay();
                self.plan(takes, Event::Reply { client: index, generation, bytes });
            } else if index == BACKER
                && let Some(generation) = self.backups.connected(at, life)
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
            self.plan(takes, Event::Segment { seat: at, life, slot });
        }
        for part in effects.saves.drain(..) {
            let (group, index, last) = (part.group, part.index, part.last);
            self.seat_mut(at).disk.write_snapshot(part);
            if last {
                self.snapshots += 1;
                let most = self.temper.save_millis_max;
                let takes = Duration::from_millis(self.network.u64(1..most));
                self.plan(takes, Event::Saved { seat: at, life, group, index });
            }
        }
        for (group, index) in effects.drops.drain(..) {
            self.seat_mut(at).disk.drop_snapshot(group, index);
        }
        effects.closes.clear();
        self.tell_node(at, &mut effects);
        let outdated = effects.outdated.take();
        self.seat_mut(at).effects = Some(effects);
        if outdated.is_some() { self.leave_behind(id) } else { self.check_levels(id) }
    }

    /// What an engine has for its own node.
    fn tell_node(&mut self, at: SeatId, effects: &mut Effects) {
        if let Some(nodes) = effects.nodes.take() {
            self.keep_roster(at.node, &nodes);
            self.tell_siblings(at, &News::Nodes(nodes.into()));
        }
        if effects.report.take().is_some() {
            self.deliver(at, Incoming::Report);
        }
        for (engine, frame) in effects.across.drain(..) {
            self.send_across(at, engine, frame);
        }
        self.on_notes(at, &mut effects.notes);
    }

    /// What an engine tells people and its siblings.
    fn on_notes(&mut self, at: SeatId, notes: &mut Vec<Note>) {
        for note in notes.drain(..) {
            if let Some(news) = News::of(&note) {
                self.tell_siblings(at, &news);
            }
            match note {
                Note::JournalFull { .. } => self.journals_full += 1,
                Note::ChangeAnswered { answer: Ok(_), .. } => self.changes += 1,
                Note::ReplicaRemoved { .. } => self.removed += 1,
                _ => {}
            }
        }
    }

    /// The manifest keeps the newest nodes that an engine told of.
    fn keep_roster(&mut self, id: u32, nodes: &[u8]) {
        let epoch = |nodes: &[u8]| Meta::restore(nodes).map_or(0, |nodes| nodes.epoch());
        let roster = &mut self.nodes[id as usize].roster;
        if epoch(nodes) > epoch(roster) {
            *roster = nodes.to_vec();
        }
    }

    /// A write, or a copy of its witness, is on the disk.
    pub(super) fn on_written(&mut self, at: SeatId, life: u64, position: Position) {
        let node = &mut self.nodes[at.node as usize];
        if node.life != life {
            return;
        }
        if node.sync_fails {
            return self.stop(at.node);
        }
        let seat = &mut node.seats[at.engine as usize];
        let Some(engine) = &seat.engine else { return };
        match seat.disk.finish_write(engine.in_flight()) {
            Progress::Done => self.deliver(at, Incoming::Synced(position)),
            Progress::Witness => self.attest(at, position),
        }
    }

    /// The write of an engine takes its time.
    fn sync(&mut self, at: SeatId, position: Position) {
        let life = self.nodes[at.node as usize].life;
        let slow = if self.temper.slow_node == Some(at.node) { 20 } else { 1 };
        let most = self.temper.sync_micros_max * slow;
        let takes = Duration::from_micros(self.network.u64(60..most.min(100_000)));
        self.plan(takes, Event::Written { seat: at, life, position });
    }

    /// A segment was opened: its witness is written before that is reported. Power may fail just then.
    fn attest(&mut self, at: SeatId, position: Position) {
        self.sync(at, position);
        self.aim_at_opening(at.node);
    }

    /// Sends frames to an engine's twin one by one: each is lost, doubled or late by itself.
    fn send_frames(&mut self, from: SeatId, to: u32, mut bytes: &[u8]) -> Result<(), String> {
        let (from, to) = (from.node, SeatId { node: to, ..from });
        while !bytes.is_empty() {
            let frame = wire::split(bytes, PEER_FRAME_BYTES_MAX);
            let frame = frame.expect("an engine sends frames").expect("whole ones");
            self.watch.on_frame(from, to.node, &frame)?;
            let (frame, rest) = bytes.split_at(frame.used);
            bytes = rest;
            let copies = match self.network.u32(..100) {
                0 if self.is_faulty() => 0,
                x if x <= self.temper.double_percent && self.is_faulty() => 2,
                _ => 1,
            };
            let life = self.nodes[to.node as usize].life;
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
        if self.is_up(id) {
            return Ok(());
        }
        self.choose_build(id);
        let seats: Vec<SeatId> = self.layout.seats_of(id).collect();
        let configs: Vec<EngineConfig> = seats.iter().map(|at| self.config(*at)).collect();
        self.nodes[id as usize].life += 1;
        self.clocks[id as usize].restart(self.now, &mut self.ticks);
        let mut engines = Vec::new();
        for (at, config) in seats.iter().zip(configs) {
            let opened = self.open(*at, config)?;
            let failed = |e| Failure::Safety(format!("node {}: {e}", id + 1));
            match opened {
                Err(OpenError::NewerLevel { .. }) => return self.leave_behind(id),
                opened => engines.push(opened.map_err(failed)?),
            }
        }
        for (at, engine) in seats.iter().zip(engines) {
            let watched = self.watch.on_start(self.now, &self.clocks, *at, &engine);
            watched.map_err(Failure::Safety)?;
            self.seat_mut(*at).engine = Some(engine);
        }
        // What clients sent to a node that was down went nowhere.
        self.disconnect_clients(id);
        for at in seats {
            self.perform(at)?;
            self.link_up(at);
            let turn = self.now + Duration::from_micros(50);
            self.plan_turn(at, turn);
        }
        Ok(())
    }

    /// Opens an engine on its disk, on an empty one if it is damaged.
    fn open(
        &mut self,
        at: SeatId,
        config: EngineConfig,
    ) -> Result<Result<Engine, OpenError>, Failure> {
        let now = self.clocks[at.node as usize].read(self.now);
        let seat = self.seat_mut(at);
        seat.inbox.clear();
        seat.turn_at = Time::MAX;
        seat.paused_until = Time(0);
        let mut effects = Box::<Effects>::default();
        let mut opened = seat.disk.open(config, now, &mut effects);
        if self.on_rotten(at, &opened)? {
            let config = self.config(at);
            effects = Box::default();
            opened = self.seat_mut(at).disk.open(config, now, &mut effects);
        }
        self.seat_mut(at).effects = Some(effects);
        Ok(opened)
    }

    /// The links between an engine and its twins stand.
    fn link_up(&mut self, at: SeatId) {
        for node in self.all().filter(|other| *other != at.node) {
            let twin = SeatId { node, ..at };
            self.deliver(twin, Incoming::PeerUp(at.node));
            if self.engine(twin).is_some() {
                self.deliver(at, Incoming::PeerUp(node));
            }
        }
    }

    /// The link between two nodes' engines of a number breaks, and is made anew. What is under way may still arrive.
    pub(super) fn relink(&mut self, engine: u32, [a, b]: [u32; 2]) {
        for (node, peer) in [(a, b), (b, a)] {
            let at = SeatId { node, engine };
            self.deliver(at, Incoming::PeerDown(peer));
            self.deliver(at, Incoming::PeerUp(peer));
        }
    }

    /// The incarnation of a node's data directory.
    pub(super) fn incarnation(&self, id: u32) -> Incarnation {
        Incarnation([if self.nodes[id as usize].founder { id as u8 + 1 } else { 0xaa }; 16])
    }

    /// Another one for each life of each engine: nothing that replicas have in common may depend on it.
    pub(super) fn secret(&self, SeatId { node, engine }: SeatId) -> Secret {
        let (life, mut bits) = (self.nodes[node as usize].life, [0; 16]);
        let of_engine = u64::from(node) << 32 | u64::from(engine) << 24 | life;
        bits[..8].copy_from_slice(&self.options.seed.to_le_bytes());
        bits[8..].copy_from_slice(&of_engine.to_le_bytes());
        Secret::new(bits)
    }

    fn config(&mut self, at: SeatId) -> EngineConfig {
        let id = at.node;
        let election_timeout_min = self.temper.draw_timeout(&mut self.timeouts);
        let member = |n: u32| Founder {
            node: NodeId(n + 1),
            incarnation: Incarnation([n as u8 + 1; 16]),
            address: format!("node{}:7400", n + 1),
        };
        EngineConfig {
            cluster: CLUSTER,
            node: NodeId(id + 1),
            engine: at.engine,
            engines: self.layout.engines,
            shards: self.layout.shards,
            replication: 3,
            founders: (0..FOUNDERS).map(member).collect(),
            nodes: self.nodes[id as usize].roster.clone(),
            incarnation: match self.seat(at).renewed {
                true => Incarnation::NOBODY,
                false => self.incarnation(id),
            },
            seed: self.faults.u64(..),
            secret: self.secret(at),
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
        if !self.is_up(id) {
            return;
        }
        let node = &mut self.nodes[id as usize];
        node.life += 1;
        for seat in &mut node.seats {
            seat.turn_at = Time::MAX;
            if let Some(engine) = seat.engine.take() {
                seat.disk.crash(engine.in_flight());
            }
        }
        self.crashes += 1;
        self.watch.on_crash(id);
        self.disconnect_clients(id);
        for at in self.layout.seats_of(id) {
            for node in self.all().filter(|other| *other != id) {
                let twin = SeatId { node, ..at };
                self.deliver(twin, Incoming::PeerDown(id));
                self.deliver(twin, Incoming::PeerUp(id));
            }
        }
    }
}

/// What engines and clients send.
fn whole(bytes: &[u8], bytes_max: usize) -> Frame<'_> {
    let frame = wire::split(bytes, bytes_max);
    frame.expect("they send frames").expect("whole ones")
}

/// A leader's word that a replica is to be made.
fn join(group: GroupId, life: Incarnation) -> (Header, Vec<u8>) {
    let (mut body, join) = (Vec::new(), Join { term: 0, incarnation: life.0 });
    join.encode(&mut body);
    (Header { shard: group.0, ..Header::new(Join::KIND, 0) }, body)
}
