//! The cluster's nodes as this engine knows them, and what nodes say to each other beside consensus.
//!
//! The truth is the meta group's state. Whoever applies it tells the other nodes, and the other engines of its
//! own; the higher epoch wins. From the nodes follows the placement, and each group's leader makes it so
//! ([`moves`](crate::shard::moves)).
//!
//! A node that keeps no replica of a group learns from its leader who leads it ([`Leads`]), so that it can send
//! clients there.

use super::{Engine, Known, placements};
use crate::effects::{Effects, Note, Outdated};
use crate::ids::{GroupId, Incarnation, NodeId, Term};
use crate::level::Level;
use crate::limits::MEMBERS_MAX;
use crate::machine::Corrupt;
use crate::machine::meta::Meta;
use crate::mutant::{self, Mutant};
use crate::shard::Step;
use crate::time::{Duration, Time};
use alloc::vec::Vec;
use wire::bytes::{Put, Reader};
use wire::peer::{Absent, Append, FeatureLevel, Join, Leads, Leave, Mail, MailTaken, Nodes};
use wire::peer::{Probe, Pulse, Snapshot, Stray};
use wire::topology::engine_of_group;
use wire::{Header, Kind, WireError};

/// How often an engine says which groups it leads, if nothing changes.
const LEADS_EVERY: Duration = Duration::from_secs(1);

impl Engine {
    /// A peer's frame that is not consensus.
    ///
    /// # Errors
    /// [`WireError::Malformed`] when the body is no such message: it is as good as lost.
    pub(super) fn on_word(
        &mut self,
        now: Time,
        peer: NodeId,
        header: &Header,
        body: &[u8],
        effects: &mut Effects,
    ) -> Result<(), WireError> {
        let group = GroupId(header.shard);
        match header.kind {
            FeatureLevel::KIND => {
                self.shared.peers.on_level(peer, Level(FeatureLevel::view(body)?.newest));
            }
            Pulse::KIND => {
                let timeout_min = self.config.election_timeout_min;
                self.shared.peers.on_pulse(now, peer, &Pulse::view(body)?, timeout_min, effects);
            }
            Nodes::KIND => self.on_nodes(Nodes::view(body)?.nodes, effects),
            Leads::KIND => self.on_leads(peer, Leads::view(body)?.rows, effects),
            Join::KIND => {
                let join = Join::view(body)?;
                self.on_make(now, group, Incarnation(join.incarnation), effects);
            }
            Stray::KIND => {
                let stray = Stray::view(body)?;
                if let Some(at) = self.place_of(group) {
                    self.shards.touch(at).on_stray(
                        &mut Step { now, shared: &mut self.shared, effects },
                        peer,
                        &stray,
                    );
                }
            }
            Leave::KIND => self.on_leave(group, &Leave::view(body)?, effects),
            Absent::KIND => {
                let sent_at = Time(Absent::view(body)?.sent_at);
                if let Some(at) = self.place_of(group) {
                    self.shards.touch(at).on_absent(peer, sent_at);
                }
            }
            Mail::KIND | MailTaken::KIND | Probe::KIND => {
                self.on_parcel(now, header, body, effects)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Somebody told who the cluster's nodes are.
    fn on_nodes(&mut self, nodes: &[u8], effects: &mut Effects) {
        match Meta::restore(nodes) {
            Ok(nodes) => self.adopt(nodes, effects),
            Err(Corrupt::Version { .. }) => {
                effects.outdated = Some(Outdated { level: None, known: self.config.level_max });
            }
            // As good as lost.
            Err(_) => {}
        }
    }

    /// The meta group's replica here may know more.
    pub(super) fn learn_nodes(&mut self, effects: &mut Effects) {
        let Some(at) = self.place_of(GroupId::META) else { return };
        if let Some(meta) = self.shards[at].state().meta()
            && meta.epoch() > self.nodes.epoch()
        {
            let nodes = meta.clone();
            self.adopt(nodes, effects);
        }
    }

    /// Newer nodes are known: everybody hears of it, and every group gets a new aim.
    fn adopt(&mut self, nodes: Meta, effects: &mut Effects) {
        let ours = nodes.cluster() == self.config.cluster;
        if !ours || nodes.epoch() <= self.nodes.epoch() || nodes.keepers().next().is_none() {
            return;
        }
        if nodes.level() > self.config.level_max {
            let (level, known) = (Some(nodes.level()), self.config.level_max);
            effects.outdated = Some(Outdated { level, known });
            return;
        }
        self.nodes = nodes;
        self.shared.peers.retain(|node| self.nodes.node(node).is_some());
        self.placement = placements(&self.config, &self.nodes);
        for shard in self.shards.touch_all() {
            shard.aim(&self.placement[shard.group().0 as usize]);
        }
        let mut bytes = Vec::new();
        self.nodes.snapshot(&mut bytes);
        self.shared
            .peers
            .linked
            .iter()
            .for_each(|peer| write_nodes(&bytes, effects.peers.to(peer.0)));
        effects.nodes = Some(bytes);
    }

    /// The link to a peer stands: it is told what it may have missed.
    pub(super) fn greet(&mut self, now: Time, peer: NodeId, effects: &mut Effects) {
        self.shared.peers.link(now, peer);
        self.leads_at = now;
        if self.nodes.epoch() > 0 {
            let mut bytes = Vec::new();
            self.nodes.snapshot(&mut bytes);
            write_nodes(&bytes, effects.peers.to(peer.0));
        }
    }

    /// The link is gone, and with it what was known over it: which groups its node leads.
    pub(super) fn part(&mut self, peer: NodeId, effects: &mut Effects) {
        let is_node = self.nodes.node(peer).is_some();
        self.shared.peers.unlink(peer, is_node);
        for group in (0..=self.config.shards).map(GroupId) {
            if self.is_known_by_links(group) {
                self.forget_leader(group, peer, effects);
            }
        }
    }

    /// Whether who leads a group is known over this engine's links alone. No replica of it is here, and it is no other
    /// engine's: what another engine told does not hang on a link of this one, and that one says when it is over.
    fn is_known_by_links(&self, group: GroupId) -> bool {
        let ours = self.is_ours(group) || mutant::on(Mutant::LinkTakesHints);
        ours && self.place_of(group).is_none()
    }

    /// A node is not known to lead a group any more, if it was: the other engines hear of it.
    pub(super) fn forget_leader(&mut self, group: GroupId, leader: NodeId, effects: &mut Effects) {
        let known = &mut self.known[group.0 as usize];
        if known.leader == Some(leader) {
            known.leader = None;
            effects.notes.push(Note::Leader { group, term: known.term, leader: None });
        }
    }

    // ---- Who leads what ----

    /// Tells every node which groups are led here of which it keeps no replica, who the cluster's nodes are, and, as
    /// long as the cluster may go to a higher level, what this node knows: what was lost comes again.
    pub(super) fn tell_leads(&mut self, now: Time, effects: &mut Effects) {
        if now < self.leads_at {
            return;
        }
        let leads = self.shards.iter().any(|shard| shard.raft().is_leader());
        if self.nodes.epoch() > 0 && self.leads_group(GroupId::META) {
            let mut bytes = Vec::new();
            self.nodes.snapshot(&mut bytes);
            self.shared
                .peers
                .linked
                .iter()
                .for_each(|peer| write_nodes(&bytes, effects.peers.to(peer.0)));
        }
        for peer in &self.shared.peers.linked {
            self.shared.scratch.clear();
            for shard in self.shards.iter().filter(|shard| shard.raft().is_leader()) {
                let members = shard.raft().configuration().members();
                if members.iter().any(|member| member.node == *peer) {
                    continue;
                }
                let count = u8::try_from(members.len()).expect("a group has few members");
                self.shared.scratch.put_u32(shard.group().0);
                self.shared.scratch.put_u64(shard.raft().term().0);
                self.shared.scratch.put_u8(count);
                for member in members {
                    self.shared.scratch.put_u32(member.node.0);
                }
            }
            if !self.shared.scratch.is_empty() {
                let rows = &self.shared.scratch;
                let header = Header::new(Leads::KIND, 0);
                wire::frame(effects.peers.to(peer.0), &header, |b| Leads { rows }.encode(b));
            }
        }
        let rises = self.nodes.level() < self.config.level_max;
        if rises {
            self.tell_level(effects);
        }
        self.leads_at = if leads || rises { now + LEADS_EVERY } else { Time::MAX };
        self.raise_levels(now, effects);
    }

    fn on_leads(&mut self, peer: NodeId, mut rows: &[u8], effects: &mut Effects) {
        while let Some((group, term, members, rest)) = split_lead(rows) {
            rows = rest;
            let here = self.place_of(group).is_some();
            let Some(known) = self.known.get_mut(group.0 as usize) else { return };
            if here || term < known.term {
                continue;
            }
            let news = known.leader != Some(peer) || known.term != term;
            *known = Known { leader: Some(peer), term, members };
            if news {
                effects.notes.push(Note::Leader { group, term, leader: Some(peer) });
            }
        }
    }

    /// Another engine of this node knows who leads a group.
    pub(super) fn on_hint(&mut self, group: GroupId, leader: Option<NodeId>) {
        if self.place_of(group).is_none()
            && hints_are_taken()
            && let Some(known) = self.known.get_mut(group.0 as usize)
        {
            known.leader = leader;
        }
    }

    /// Another engine of this node knows who the cluster's nodes are.
    pub(super) fn on_siblings_nodes(&mut self, nodes: &[u8], effects: &mut Effects) {
        if siblings_are_believed() {
            self.on_nodes(nodes, effects);
        }
    }

    // ---- Replicas that come and go ----

    /// An entry or a snapshot came for a group of which nothing is kept here.
    pub(super) fn answer_absent(
        &mut self,
        peer: NodeId,
        header: &Header,
        body: &[u8],
        effects: &mut Effects,
    ) {
        let group = GroupId(header.shard);
        let sent_at = match header.kind {
            Append::KIND => Append::view(body).map(|m| m.sent_at),
            Snapshot::KIND => Snapshot::view(body).map(|m| m.sent_at),
            _ => return,
        };
        // One that ends here is about to be gone: then it is said.
        if !self.is_ours(group) || self.is_ending(group) {
            return;
        }
        if let Ok(sent_at) = sent_at {
            say(effects, peer, group, Absent::KIND, |b| Absent { sent_at }.encode(b));
        }
    }

    fn on_leave(&mut self, group: GroupId, leave: &Leave, effects: &mut Effects) {
        let Some(at) = self.place_of(group) else { return };
        let raft = self.shards[at].raft();
        let life = raft.incarnation();
        if life == Incarnation(leave.incarnation) && Term(leave.term) >= raft.term() {
            self.on_remove(group, life, effects);
        }
    }

    /// How many groups are to be kept here in which no replica of this node votes.
    pub(super) fn lacking(&self) -> usize {
        let votes = |group: GroupId| {
            let raft = self.place_of(group).map(|at| self.shards[at].raft());
            raft.is_some_and(|raft| {
                raft.configuration().is_voter(self.config.node, raft.incarnation())
            })
        };
        let wanted = (0..).map(GroupId).zip(&self.placement).filter(|(group, replicas)| {
            self.is_ours(*group) && replicas.nodes.contains(&self.config.node)
        });
        wanted.filter(|(group, _)| !votes(*group)).count()
    }

    pub(super) fn leads_group(&self, group: GroupId) -> bool {
        self.place_of(group).is_some_and(|at| self.shards[at].raft().is_leader())
    }

    /// Whether an engine of this number keeps the group, where it is kept.
    pub(super) fn is_ours(&self, group: GroupId) -> bool {
        let engine = engine_of_group(group.0, self.config.engines);
        group.0 <= self.config.shards && engine == self.config.engine
    }
}

/// Who leads another engine's group, that engine says.
fn hints_are_taken() -> bool {
    !mutant::on(Mutant::HintsIgnored)
}

/// What one engine learned of the nodes all of its node's know: only those with a replica of the meta group learn it
/// there.
fn siblings_are_believed() -> bool {
    !mutant::on(Mutant::SiblingsUnheard)
}

fn say(
    effects: &mut Effects,
    to: NodeId,
    group: GroupId,
    kind: Kind,
    body: impl FnOnce(&mut Vec<u8>),
) {
    let header = Header { shard: group.0, ..Header::new(kind, 0) };
    wire::frame(effects.peers.to(to.0), &header, body);
}

fn write_nodes(nodes: &[u8], out: &mut Vec<u8>) {
    wire::frame(out, &Header::new(Nodes::KIND, 0), |b| Nodes { nodes }.encode(b));
}

/// The first row of a [`Leads`], and what follows.
fn split_lead(rows: &[u8]) -> Option<(GroupId, Term, Vec<NodeId>, &[u8])> {
    let mut rows = Reader::new(rows);
    let (group, term) = (GroupId(rows.u32().ok()?), Term(rows.u64().ok()?));
    let count = usize::from(rows.u8().ok()?);
    if count > MEMBERS_MAX {
        return None;
    }
    let members = (0..count).map(|_| rows.u32().map(NodeId).ok());
    let members = members.collect::<Option<_>>()?;
    Some((group, term, members, rows.rest()))
}
