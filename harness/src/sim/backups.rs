//! Somebody takes backups while everything goes on, and makes another cluster of each.
//!
//! Nodes are asked that lead by their own word, deposed ones too, and others. What comes back must be at least as new as
//! all that was acknowledged when it was asked for, must be whole, and what is made of it must give out no number that
//! anybody was given, before the backup or since.

use super::nodes::CLUSTER;
use super::seats::SeatId;
use super::{Event, Incoming, World};
use engine::ids::{ClusterId, ConnId, GroupId, Incarnation, NodeId};
use engine::machine::meta::{Node, Standing};
use engine::machine::{Applied, Machine, Outcome, Times};
use engine::reborn::Rebirth;
use engine::time::Duration;
use wire::limits::FRAME_BYTES_MAX;
use wire::message::{
    BackupBegin, BackupPiece, BackupRead, BackupReady, LockAcquire, LockMode, SessionOpen,
};
use wire::random::Random;
use wire::{Call, Header, Kind};

/// The connections of whoever takes backups: an index that no client has.
pub(super) const BACKER: u32 = 901;
/// Backups are taken in one seed of so many.
const BACKUPS_ONE_IN: u64 = 4;
const BACKUP: [u8; 16] = [0xbb; 16];

/// The backup that is under way.
pub(super) struct Backups {
    chance: Random,
    asked: Option<Asked>,
    generation: u32,
    pub(super) taken: u64,
}

/// A group's snapshot that was asked for.
struct Asked {
    at: SeatId,
    life: u64,
    conn: ConnId,
    group: GroupId,
    /// It must stand for this index at least.
    least: u64,
    total: u64,
    bytes: Vec<u8>,
}

impl Backups {
    pub(super) fn new(seed: u64) -> Backups {
        let chance = Random::new(seed ^ 0x6261_636b_7570_7300);
        Backups { chance, asked: None, generation: 0, taken: 0 }
    }

    /// Whether backups are taken with this seed.
    pub(super) fn are_taken(seed: u64) -> bool {
        seed % BACKUPS_ONE_IN == BACKUPS_ONE_IN - 1
    }

    /// The generation of the connection to an engine's life, if that is the one that was asked.
    pub(super) fn connected(&self, at: SeatId, life: u64) -> Option<u32> {
        let asked = self.asked.as_ref().filter(|asked| (asked.at, asked.life) == (at, life));
        asked.map(|asked| asked.conn.generation)
    }
}

impl World {
    /// Asks some node for a group's snapshot, unless one that was asked still works on it.
    pub(super) fn back_up(&mut self) {
        if !self.is_faulty() {
            return;
        }
        let next = Duration::from_millis(self.backups.chance.u64(10..150));
        self.plan(next, Event::BackUp);
        let asked = self.backups.asked.as_ref();
        if asked.is_some_and(|it| self.nodes[it.at.node as usize].life == it.life) {
            return;
        }
        let group = GroupId(self.backups.chance.u32(..=self.layout.shards));
        let leaders = self.replicas(group).filter(|(_, shard)| shard.raft().is_leader());
        let leaders: Vec<u32> = leaders.map(|(id, _)| id).collect();
        let chance = &mut self.backups.chance;
        let node = match chance.choice(&leaders) {
            Some(leader) if chance.u32(..8) > 0 => *leader,
            _ => chance.u32(..self.nodes.len() as u32),
        };
        let mut at = self.layout.seat(node, group);
        if self.layout.engines > 1 && self.backups.chance.u32(..8) == 0 {
            // It does not keep such groups, and says so.
            at.engine = self.backups.chance.u32(..self.layout.engines);
        }
        if self.engine(at).is_none() {
            return;
        }
        self.backups.generation += 1;
        let conn = ConnId { index: BACKER, generation: self.backups.generation };
        let life = self.nodes[node as usize].life;
        let least = group.shard().map_or(0, |s| self.clients.history.applied[s as usize]);
        let (total, bytes) = (0, Vec::new());
        self.backups.asked = Some(Asked { at, life, conn, group, least, total, bytes });
        self.deliver(at, Incoming::Opened(conn));
        let begin = BackupBegin { backup: BACKUP, group: group.0 };
        self.ask_for_backup(BackupBegin::KIND, |b| begin.encode(b));
    }

    fn ask_for_backup(&mut self, kind: Kind, body: impl FnOnce(&mut Vec<u8>)) {
        let Some(Asked { at, life, conn, .. }) = self.backups.asked else { return };
        let mut frame = Vec::new();
        wire::frame(&mut frame, &Header::new(kind, 1), body);
        let takes = self.delay();
        self.plan(takes, Event::Request { to: at, conn, life, frame });
    }

    /// A node answered.
    ///
    /// # Errors
    /// What is wrong with the backup.
    pub(super) fn on_backup(&mut self, generation: u32, mut bytes: &[u8]) -> Result<(), String> {
        while !bytes.is_empty() {
            let frame = wire::split(bytes, FRAME_BYTES_MAX).map_err(|e| e.to_string())?;
            let frame = frame.ok_or("half a frame came")?;
            bytes = &bytes[frame.used..];
            // What a node said before it fell may come when another one is asked.
            let asked = self.backups.asked.as_mut();
            let Some(asked) = asked.filter(|a| a.conn.generation == generation) else { break };
            match frame.header.kind {
                BackupReady::KIND => {
                    let ready = BackupReady::decode(frame.body).map_err(|e| e.to_string())?;
                    if ready.index < asked.least {
                        return Err(format!(
                            "a backup of group {} stands for {}, but {} was acknowledged before",
                            asked.group, ready.index, asked.least
                        ));
                    }
                    asked.total = ready.total;
                }
                BackupPiece::KIND => {
                    let piece = BackupPiece::decode(frame.body).map_err(|e| e.to_string())?;
                    if piece.offset != asked.bytes.len() as u64 {
                        return Err("a piece is out of its place".into());
                    }
                    asked.bytes.extend_from_slice(piece.bytes);
                }
                wire::message::Error::KIND => {
                    self.end_backup();
                    break;
                }
                _ => continue,
            }
            let (group, offset) = (asked.group, asked.bytes.len() as u64);
            if offset == asked.total {
                let whole = std::mem::take(&mut asked.bytes);
                self.end_backup();
                self.restore_backup(group, &whole)?;
                break;
            }
            let read = BackupRead { backup: BACKUP, group: group.0, offset };
            self.ask_for_backup(BackupRead::KIND, |b| read.encode(b));
        }
        Ok(())
    }

    fn end_backup(&mut self) {
        if let Some(Asked { at, conn, .. }) = self.backups.asked.take() {
            self.deliver(at, Incoming::Closed(conn));
        }
    }

    /// Makes another cluster's group of a snapshot.
    fn restore_backup(&mut self, group: GroupId, bytes: &[u8]) -> Result<(), String> {
        self.backups.taken += 1;
        let rebirth = Rebirth {
            from: CLUSTER,
            to: ClusterId([8; 16]),
            shards: self.layout.shards,
            cache_bytes_max: self.temper.lines_bytes_max,
            times: Times { taken_us: 1, now_us: 2 },
            node: Node {
                node: NodeId(1),
                incarnation: Incarnation([9; 16]),
                engines: 1,
                standing: Standing::In,
                address: "other:7400".into(),
            },
            secret: self.secret(SeatId { node: 0, engine: 0 }),
        };
        let made = rebirth.snapshot(group, bytes);
        let made = made.map_err(|why| format!("a backup of group {group}: {why}"))?;
        let (Some(shard), Some(state)) = (group.shard(), Rebirth::state(&made)) else {
            return Ok(());
        };
        let machine = Machine::restore(rebirth.machine(), state);
        let mut machine = machine.map_err(|why| format!("a restored group {group}: {why}"))?;
        machine.verify();
        let (session, name) = ([1; 16], b"a lock that nobody has".as_slice());
        let (mut open, mut acquire) = (Vec::new(), Vec::new());
        SessionOpen { session, ttl_ms: 1_000 }.encode(&mut open);
        let call = Call { session, sequence: 1, answered_below: 1 };
        let (wait_ms, lease_ms, mode) = (0, 0, LockMode::Exclusive);
        LockAcquire { call, wait_ms, lease_ms, mode, name }.encode(&mut acquire);
        let (now, wakes) = (machine.clock(), &mut Vec::new());
        machine.apply(now, SessionOpen::KIND, &open, wakes);
        let granted = machine.apply(now, LockAcquire::KIND, &acquire, wakes);
        let given = self.clients.history.tokens[shard as usize];
        match granted {
            Applied::Done(Outcome::Done { token }) if token > given => Ok(()),
            other => Err(format!("a restored group {group} grants {other:?} after {given}")),
        }
    }
}
