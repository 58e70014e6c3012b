//! Three engines whose disks work at once, and links that can be cut.

use super::*;
use crate::shard::Shard;
use alloc::collections::{BTreeSet, VecDeque};
use wire::header::PROTOCOL_MAX;
use wire::limits::PEER_FRAME_BYTES_MAX;
use wire::peer::Append;

/// The only shard's group.
pub(super) const G: GroupId = GroupId(1);
const STEP: Duration = Duration::from_millis(5);

pub(super) struct Trio {
    pub engines: Vec<Engine>,
    pub effects: Vec<Effects>,
    pub now: Time,
    /// Links that let nothing through, from and to.
    pub cut: BTreeSet<(usize, usize)>,
    /// Their entries and heartbeats of the group go nowhere.
    pub mute: BTreeSet<usize>,
    /// They take no turn: what is said to them waits.
    pub still: BTreeSet<usize>,
    /// They hear and answer, but do not notice that time passes.
    pub dozing: BTreeSet<usize>,
    pub answers: Vec<(usize, Answer)>,
    /// When a leader ended a session.
    pub expired: Vec<Time>,
    request: u64,
    mail: VecDeque<(usize, usize, Vec<u8>)>,
    /// What was said to who stands still.
    kept: Vec<(usize, usize, Vec<u8>)>,
}

impl Trio {
    /// A cluster with a leader, and a session there.
    pub fn new(ttl_ms: u32) -> Trio {
        Trio::with(ttl_ms, |config| config)
    }

    /// The same; each node's configuration may be another.
    pub fn with(ttl_ms: u32, config_of: impl Fn(EngineConfig) -> EngineConfig) -> Trio {
        let now = Time(1_000_000_000);
        let (mut engines, mut effects) = (Vec::new(), Vec::new());
        for node in 1..=3 {
            let mut all = Effects::default();
            engines.push(open(config_of(config_of_node(node)), now, &mut all));
            effects.push(all);
        }
        let mut trio = Trio {
            engines,
            effects,
            now,
            cut: BTreeSet::new(),
            mute: BTreeSet::new(),
            still: BTreeSet::new(),
            dozing: BTreeSet::new(),
            answers: Vec::new(),
            expired: Vec::new(),
            request: 0,
            mail: VecDeque::new(),
            kept: Vec::new(),
        };
        for at in 0..3 {
            for other in (0..3).filter(|other| *other != at) {
                let input = Input::PeerUp { peer: id(other) };
                trio.engines[at].on(now, input, &mut trio.effects[at]);
            }
            trio.engines[at].on(
                now,
                Input::Opened { conn: CONN, request: 0, version: PROTOCOL_MAX },
                &mut trio.effects[at],
            );
        }
        trio.pass(4_000);
        let leader = trio.leader();
        let open = SessionOpen { session: SESSION, ttl_ms };
        trio.send(leader, SessionOpen::KIND, |b| open.encode(b));
        trio.deliver();
        trio
    }

    /// Who leads the group.
    pub fn leader(&self) -> usize {
        (0..3).find(|at| self.leads(*at)).expect("somebody leads")
    }

    pub fn others(&self, than: usize) -> [usize; 2] {
        [(than + 1) % 3, (than + 2) % 3]
    }

    pub fn shard(&self, at: usize) -> &Shard {
        let mut shards = self.engines[at].shards().iter();
        shards.find(|shard| shard.group() == G).expect("every node keeps the group")
    }

    pub fn leads(&self, at: usize) -> bool {
        self.shard(at).raft().is_leader()
    }

    pub fn send(&mut self, at: usize, kind: Kind, body: impl FnOnce(&mut Vec<u8>)) {
        self.request += 1;
        let mut frame = Vec::new();
        wire::frame(&mut frame, &Header::new(kind, self.request), body);
        let frame = wire::split(&frame, FRAME_BYTES_MAX).unwrap().unwrap();
        let input = Input::Frame { conn: CONN, header: frame.header, body: frame.body };
        self.engines[at].on(self.now, input, &mut self.effects[at]);
    }

    /// Ends a node's turn, and gathers what it sends.
    pub fn turn(&mut self, at: usize) {
        loop {
            self.engines[at].end_turn(self.now, &mut self.effects[at]);
            for note in core::mem::take(&mut self.effects[at].notes) {
                if let Note::SessionsExpired { group: G, .. } = note {
                    self.expired.push(self.now);
                }
            }
            for slot in core::mem::take(&mut self.effects[at].segments) {
                self.engines[at].on(self.now, Input::SegmentReady { slot }, &mut self.effects[at]);
            }
            let Some(write) = self.effects[at].write.take() else { break };
            let synced = Input::Synced { position: write.position };
            self.engines[at].on(self.now, synced, &mut self.effects[at]);
        }
        let (mail, cut, mute) = (&mut self.mail, &self.cut, &self.mute);
        self.effects[at].peers.drain(|to, bytes| {
            let to = to as usize - 1;
            let mut left = &bytes[..];
            while !left.is_empty() {
                let frame = wire::split(left, PEER_FRAME_BYTES_MAX).unwrap().unwrap();
                let entries = frame.header.kind == Append::KIND && frame.header.shard == G.0;
                let muted = entries && mute.contains(&at);
                if !muted && !cut.contains(&(at, to)) {
                    mail.push_back((at, to, left[..frame.used].to_vec()));
                }
                left = &left[frame.used..];
            }
        });
        let answers = &mut self.answers;
        self.effects[at].clients.drain(|_, bytes| {
            answers.extend(read_answers(bytes).into_iter().map(|answer| (at, answer)));
        });
    }

    /// Ends everybody's turn and lets all that is said arrive at once.
    pub fn deliver(&mut self) {
        for at in 0..3 {
            if !self.still.contains(&at) {
                self.turn(at);
            }
        }
        while let Some((from, to, bytes)) = self.mail.pop_front() {
            if self.cut.contains(&(from, to)) {
                continue;
            }
            if self.still.contains(&to) {
                self.kept.push((from, to, bytes));
                continue;
            }
            self.hear(from, to, &bytes);
            self.turn(to);
        }
    }

    /// What was said to a node that stands still arrives, in one turn that has not ended: how much it was.
    pub fn hear_kept(&mut self, at: usize) -> usize {
        let kept = core::mem::take(&mut self.kept);
        for (from, to, bytes) in &kept {
            assert_eq!(*to, at, "only it stood still");
            self.hear(*from, *to, bytes);
        }
        kept.len()
    }

    fn hear(&mut self, from: usize, to: usize, bytes: &[u8]) {
        let frame = wire::split(bytes, PEER_FRAME_BYTES_MAX).unwrap().unwrap();
        let input = Input::Peer { peer: id(from), header: frame.header, body: frame.body };
        self.engines[to].on(self.now, input, &mut self.effects[to]);
    }

    pub fn pass(&mut self, ms: u64) {
        let until = self.now + Duration::from_millis(ms);
        while self.now < until {
            self.now = self.now + STEP;
            for at in 0..3 {
                if !self.still.contains(&at) && !self.dozing.contains(&at) {
                    self.engines[at].on(self.now, Input::Tick, &mut self.effects[at]);
                }
            }
            self.deliver();
        }
    }

    /// Lets time pass until something is so.
    pub fn until(&mut self, ms_max: u64, is: impl Fn(&Trio) -> bool) {
        let latest = self.now + Duration::from_millis(ms_max);
        while !is(self) {
            self.pass(5);
            assert!(self.now < latest, "it was to be so within {ms_max} ms");
        }
    }

    /// A node hears nobody, and nobody hears it.
    pub fn isolate(&mut self, at: usize) {
        for other in self.others(at) {
            self.cut.extend([(at, other), (other, at)]);
        }
    }

    /// The session's heartbeat is sent to a node: whether it vouches.
    pub fn vouches(&mut self, at: usize) -> bool {
        self.answers.clear();
        self.send(at, Heartbeat::KIND, |b| Heartbeat { session: SESSION }.encode(b));
        self.turn(at);
        let alive = self.answers.iter().find(|(_, answer)| answer.kind == Alive::KIND);
        let (_, alive) = alive.expect("a heartbeat is answered at once");
        !Alive::decode(&alive.body).unwrap().shards.is_empty()
    }

    /// Leadership is to go to a node: what the leader answers.
    pub fn hand_over(&mut self, to: usize) -> Option<Code> {
        let leader = self.leader();
        self.answers.clear();
        let body = LeaderMove { group: G.0, node: id(to).0 };
        self.send(leader, LeaderMove::KIND, |b| body.encode(b));
        self.turn(leader);
        self.answers.first().expect("it answers at once").1.code
    }
}

fn id(at: usize) -> NodeId {
    NodeId(at as u32 + 1)
}

pub(super) fn config_of_node(node: u32) -> EngineConfig {
    let member = |n| Founder {
        node: NodeId(n),
        incarnation: Incarnation([n as u8; 16]),
        address: "node:7400".into(),
    };
    EngineConfig {
        node: NodeId(node),
        incarnation: Incarnation([node as u8; 16]),
        founders: (1..=3).map(member).collect(),
        seed: u64::from(node),
        // Nobody is handed leadership back.
        balance_after: Duration::from_secs(100_000),
        ..config()
    }
}

pub(super) fn open(config: EngineConfig, now: Time, effects: &mut Effects) -> Engine {
    let blank = vec![0; usize::try_from(config.segment_bytes).unwrap()];
    let segments: [(u32, &[u8]); 2] = [(0, &blank), (1, &blank)];
    let disk = Disk { segments: &segments, witness: [None; 2], snapshot: &mut |_, _, _| false };
    Engine::open(config, now, disk, effects).unwrap()
}
