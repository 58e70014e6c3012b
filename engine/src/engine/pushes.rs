//! Pushes: frames that nobody asked for at that moment.
//!
//! # How it works
//!
//! A client subscribes once ([`Watch`]). A [`Flow`] is its subscription: how far it was told, and what of that it has
//! not read. Within its credit it is told what is newer than that; what changes while it reads comes once, as it is
//! then. So nothing is kept for whoever reads slowly, however much changes. A reader that reads nothing for
//! [`PUSH_READ_MS_MAX`] is cut off, and comes back with its cursor.
//!
//! There is one feed: where everything is, as this engine knows it. It is looked at every [`LOOK_EVERY`] while anybody
//! watches, whoever changed it.
//!
//! # Invariants
//!
//! - Cursors of a subscription rise. A cursor of another life of the engine begins anew.
//! - What a reader knows once it has read a push is what the engine knew when it sent it.
//! - No more pushes are unread than the subscription's credit.
//!
//! # Left out
//!
//! Each state between two looks: a leader of less than [`LOOK_EVERY`] may never be told.

use super::Engine;
use crate::effects::Effects;
use crate::ids::{ConnId, GroupId};
use crate::limits::SUBSCRIPTIONS_MAX;
use crate::mutant::{self, Mutant};
use crate::shard::calls::Caller;
use crate::shard::desk::{Desk, Hint};
use crate::time::{Duration, Time, millis};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use wire::Code;
use wire::limits::PUSH_READ_MS_MAX;
use wire::message::{PushesRead, TopologyPush, Watch, Watching};
use wire::topology;

/// How often it is looked at what changed while anybody watches.
pub const LOOK_EVERY: Duration = Duration::from_millis(20);

/// One subscription.
struct Flow {
    caller: Caller,
    /// The last change that it was told.
    told: u32,
    /// Whether it is told everything anew.
    anew: bool,
    credit: usize,
    /// The changes that it was told and has not read.
    unread: VecDeque<u32>,
    /// Since when it reads nothing although more waits.
    stuck_since: Option<Time>,
}

/// A row, and the change that made it what it is.
#[derive(Default)]
struct PushedRow {
    bytes: Vec<u8>,
    changed: u32,
}

/// Who watches, and what.
pub(super) struct Pushes {
    /// Stands for this life of the engine in a cursor.
    life: u32,
    /// Counts what changed.
    change: u32,
    flows: Vec<Flow>,
    nodes: PushedRow,
    placement: Vec<PushedRow>,
    look_at: Time,
}

impl Pushes {
    /// Nobody watches. `seed` is this life's own.
    pub(super) fn new(seed: u64) -> Pushes {
        let life = (seed >> 32) as u32 ^ seed as u32 | 1;
        let (flows, placement) = (Vec::new(), Vec::new());
        Pushes {
            life,
            change: 0,
            flows,
            nodes: PushedRow::default(),
            placement,
            look_at: Time::MAX,
        }
    }

    /// When it is to be looked at what changed.
    pub(super) fn wake_at(&self) -> Time {
        self.look_at
    }

    /// A connection is gone, and what it subscribed to.
    pub(super) fn on_closed(&mut self, conn: ConnId) {
        self.flows.retain(|flow| flow.caller.conn != conn);
    }

    fn cursor(&self, change: u32) -> u64 {
        u64::from(self.life) << 32 | u64::from(change)
    }

    /// The change that a cursor stands for. None: it is none of this life's.
    fn change(&self, cursor: u64) -> Option<u32> {
        let change = (cursor & u64::from(u32::MAX)) as u32;
        ((cursor >> 32) as u32 == self.life && change <= self.change).then_some(change)
    }

    /// Who resumes goes on from where the cursor is, unless that is of another life.
    fn resumes_at(&self, cursor: u64) -> Option<u32> {
        let known = self.change(cursor);
        if mutant::on(Mutant::PushResumesAtNow) { known.map(|_| self.change) } else { known }
    }

    fn flow(&mut self, conn: ConnId, subscription: u64) -> Option<&mut Flow> {
        let is_it =
            |flow: &&mut Flow| flow.caller.conn == conn && flow.caller.request == subscription;
        self.flows.iter_mut().find(is_it)
    }

    /// Notes what changed since the last look.
    fn look(&mut self, nodes: Vec<u8>, placement: impl Iterator<Item = Vec<u8>>) {
        let change = self.change.checked_add(1).expect("no engine lives for 2^32 looks");
        let mut changed = self.nodes.note(nodes, change);
        for (at, bytes) in placement.enumerate() {
            if at == self.placement.len() {
                self.placement.push(PushedRow::default());
            }
            changed |= self.placement[at].note(bytes, change);
        }
        if changed {
            self.change = change;
        }
    }
}

impl PushedRow {
    /// Whether it is another one now.
    fn note(&mut self, bytes: Vec<u8>, change: u32) -> bool {
        let changed = self.bytes != bytes;
        if changed {
            *self = PushedRow { bytes, changed: change };
        }
        changed
    }
}

impl Flow {
    /// Whether it is to be told what is newer than what it was told.
    fn takes(&self, change: u32) -> bool {
        let has_credit = self.unread.len() < self.credit || mutant::on(Mutant::PushedBeyondCredit);
        has_credit && (self.anew || self.told < change)
    }

    /// It has read up to a change.
    fn on_read(&mut self, change: u32) {
        while self.unread.front().is_some_and(|first| *first <= change) {
            self.unread.pop_front();
            self.stuck_since = None;
        }
    }

    /// Whether it has read nothing for too long.
    fn is_stuck(&mut self, now: Time, change: u32) -> bool {
        if self.told == change || self.unread.len() < self.credit {
            self.stuck_since = None;
            return false;
        }
        let since = *self.stuck_since.get_or_insert(now);
        now.since(since) >= patience()
    }

    /// From which change on rows are told. What was told before a look is not told again.
    fn newer_than(&self) -> u32 {
        if self.anew { 0 } else { self.told }
    }
}

impl Engine {
    /// A client subscribes.
    pub(super) fn on_watch(
        &mut self,
        now: Time,
        caller: Caller,
        ask: Watch,
        effects: &mut Effects,
    ) {
        let desk = &mut self.shared.desk(effects);
        if self.pushes.flows.len() >= SUBSCRIPTIONS_MAX {
            return desk.error(caller, Code::Busy, Hint::retry(1_000));
        }
        if self.pushes.flow(caller.conn, caller.request).is_some() {
            return desk.error(caller, Code::BadMessage, Hint::NONE);
        }
        let known = self.pushes.resumes_at(ask.cursor);
        let cursor = known.map_or(0, |_| ask.cursor);
        desk.reply(caller, Watching::KIND, |b| Watching { cursor }.encode(b));
        self.pushes.flows.push(Flow {
            caller,
            told: known.unwrap_or(0),
            anew: known.is_none(),
            credit: ask.credit as usize,
            unread: VecDeque::new(),
            stuck_since: None,
        });
        self.pushes.look_at = now;
    }

    /// A client has read pushes.
    pub(super) fn on_pushes_read(
        &mut self,
        caller: Caller,
        read: PushesRead,
        effects: &mut Effects,
    ) {
        let desk = &mut self.shared.desk(effects);
        let change = self.pushes.change(read.cursor);
        let flow = self.pushes.flow(caller.conn, read.subscription);
        let Some((change, flow)) = change.zip(flow) else {
            return desk.error(caller, Code::BadMessage, Hint::NONE);
        };
        flow.on_read(change);
        let told = flow.told;
        let cursor = self.pushes.cursor(told);
        desk.reply(caller, Watching::KIND, |b| Watching { cursor }.encode(b));
    }

    /// Tells whoever watches what changed.
    pub(super) fn push(&mut self, now: Time, effects: &mut Effects) {
        if now < self.pushes.look_at {
            return;
        }
        if self.pushes.flows.is_empty() {
            self.pushes.look_at = Time::MAX;
            return;
        }
        self.pushes.look_at = now + LOOK_EVERY;
        let placement: Vec<Vec<u8>> =
            (0..self.config.shards).map(|shard| self.placement_row(shard)).collect();
        self.pushes.look(self.node_rows(), placement.into_iter());
        let (epoch, shards) = (self.epoch(), self.config.shards);
        let mut flows = core::mem::take(&mut self.pushes.flows);
        flows.retain_mut(|flow| {
            self.pushes.tell(now, flow, (epoch, shards), &mut self.shared.desk(effects))
        });
        self.pushes.flows = flows;
    }

    /// Every node, one row after the other.
    pub fn node_rows(&self) -> Vec<u8> {
        let mut rows = Vec::new();
        for node in self.nodes.nodes() {
            let (engines, address) = (node.engines, node.address.clone());
            topology::write_node(&topology::Node { id: node.node.0, engines, address }, &mut rows);
        }
        rows
    }

    /// Where a shard is.
    pub fn placement_row(&self, shard: u32) -> Vec<u8> {
        let group = GroupId::of_shard(shard);
        let leader = self.known[group.0 as usize].leader.map_or(0, |leader| leader.0);
        let replicas = self.keepers_of(group);
        let mut row = Vec::new();
        topology::write_placement(&topology::Placement { shard, leader, replicas }, &mut row);
        row
    }
}

impl Pushes {
    /// Tells a subscription what is new. False: it has ended.
    fn tell(
        &self,
        now: Time,
        flow: &mut Flow,
        (epoch, shards): (u64, u32),
        desk: &mut Desk<'_>,
    ) -> bool {
        if flow.is_stuck(now, self.change) {
            desk.push_error(flow.caller, Code::PushesUnread);
            return false;
        }
        if !flow.takes(self.change) {
            return true;
        }
        let newer_than = flow.newer_than();
        let is_new = |row: &&PushedRow| row.changed > newer_than && is_told(row);
        let nodes = if is_new(&&self.nodes) { &self.nodes.bytes[..] } else { &[] };
        let rows: Vec<&[u8]> =
            self.placement.iter().filter(is_new).map(|row| &row.bytes[..]).collect();
        let placement = rows.concat();
        if !desk.takes(flow.caller, nodes.len() + placement.len()) {
            return true;
        }
        let (cursor, whole) = (self.cursor(self.change), u8::from(flow.anew));
        let push = TopologyPush { cursor, epoch, shards, whole, nodes, placement: &placement };
        desk.push(flow.caller, TopologyPush::KIND, |b| push.encode(b));
        flow.unread.push_back(self.change);
        (flow.told, flow.anew) = (self.change, false);
        true
    }
}

/// How long a subscription may read nothing while more waits for it.
fn patience() -> Duration {
    match () {
        () if mutant::on(Mutant::ReaderNeverCutOff) => Duration::MAX,
        () if mutant::on(Mutant::ReaderCutOffEarly) => millis(PUSH_READ_MS_MAX / 2),
        () => millis(PUSH_READ_MS_MAX),
    }
}

/// Every row that changed is told.
fn is_told(row: &PushedRow) -> bool {
    !(mutant::on(Mutant::PushOmitsRows) && row.changed.is_multiple_of(3))
}
