//! Looks into the nodes after each turn, and at what they say: the invariants of Raft, held directly.
//!
//! - A term of a group has one leader at most, and a node gives one vote in it.
//! - What one node knows to be committed, no node knows otherwise: same index, same bytes.
//! - What a leader commits by counting is of its own term, and durable on a majority at that moment.
//! - Nobody is elected while the lease of an earlier term lasts.
//! - Nobody's election sets the group's clock back.
//! - A sign of life that a leader heard is no worse off than what clients ask ([`super::signs`]).
//! - No replica ends that votes by what is committed.
//! - Equal states, equal clocks, and equal members, at equal index; and what a [`Twin`] of each shard makes of the same
//!   entries.
//!
//! All of it is cheap: only what changed in a turn is looked at.

use super::NODES_MAX;
use super::clock::Clock;
use super::mail::{Letter, Mail};
use super::seats::{Layout, SHARDS_MAX, SeatId};
use super::signs::Signs;
use super::twin::{Id, Twin};
use crc32c::crc32c;
use engine::effects::Effects;
use engine::engine::Engine;
use engine::ids::{GroupId, Incarnation, Index, NodeId, Term};
use engine::raft::Configuration;
use engine::shard::Shard;
use engine::time::{Duration, Elapsed, Time};
use std::collections::BTreeMap;
use wire::peer::{Vote, VoteReply};

/// States are compared at every so manieth index at which a turn ends; at fewer, the more rows there are.
const STATES_EVERY: u64 = 8;
/// So many rows halve how often.
const ROWS_HALVE: u64 = 32;
/// A turn's entries are at most so much older than its end.
const TURN_MAX: Duration = Duration::from_millis(1);
/// Groups, the meta group included, at most.
const GROUPS_MAX: usize = SHARDS_MAX as usize + 1;

/// What was last seen of a group on a node.
#[derive(Clone, Copy)]
struct Seen {
    life: Incarnation,
    term: u64,
    leads: bool,
    commit: Index,
    durable: Index,
    applied: Index,
    /// Until when it may answer by its lease, by its own clock.
    lease: Option<Time>,
}

impl Seen {
    const NOTHING: Seen = Seen {
        life: Incarnation([0; 16]),
        term: 0,
        leads: false,
        commit: Index::ZERO,
        durable: Index::ZERO,
        applied: Index::ZERO,
        lease: None,
    };
}

/// What was seen so far.
pub(super) struct Watch {
    layout: Layout,
    /// What each shard's committed entries mean.
    pub(super) twins: Vec<Twin>,
    /// By node and group.
    seen: [[Option<Seen>; GROUPS_MAX]; NODES_MAX as usize],
    /// What was seen of replicas whose disks were lost. What they answered before still counts.
    lost: Vec<((u32, GroupId), Seen)>,
    /// By group and term.
    leaders: BTreeMap<(GroupId, u64), u32>,
    /// Who got a replica's vote, by group, term and life.
    votes: BTreeMap<(u32, u64, [u8; 16]), u32>,
    /// The checksum of what is committed, by group and index.
    committed: [Vec<Option<u32>>; GROUPS_MAX],
    /// The clock of the state, by group and index.
    clocks: BTreeMap<(GroupId, Index), Elapsed>,
    /// The hash of the state, by group and index.
    states: BTreeMap<(GroupId, Index), u32>,
    /// Who belongs to each group by what is committed, up to where that is known.
    members: [Option<(Index, Configuration)>; GROUPS_MAX],
    /// The signs of life that leaders heard.
    pub(super) signs: Signs,
    /// What groups write to each other.
    pub(super) mail: Mail,
    scratch: Vec<u8>,
}

/// What a turn did that faults may be aimed at.
#[derive(Clone, Copy, Default)]
pub(super) struct Did {
    /// The node has a new term or vote.
    pub(super) voted: bool,
    /// A leader committed something.
    pub(super) committed: bool,
    /// The node was elected in this group.
    pub(super) elected: Option<GroupId>,
}

impl Watch {
    pub(super) fn new(
        clocks_off_millionths_max: i32,
        lines_bytes_max: u64,
        layout: Layout,
    ) -> Watch {
        let off_millionths = u64::from(clocks_off_millionths_max.unsigned_abs());
        let bytes = usize::try_from(lines_bytes_max).expect("it fits memory");
        let twins = (0..layout.shards).map(|_| Twin::new(off_millionths, bytes));
        Watch {
            layout,
            twins: twins.collect(),
            seen: Default::default(),
            lost: Vec::new(),
            leaders: BTreeMap::new(),
            votes: BTreeMap::new(),
            committed: Default::default(),
            clocks: BTreeMap::new(),
            states: BTreeMap::new(),
            members: Default::default(),
            signs: Signs::default(),
            mail: Mail::default(),
            scratch: Vec::new(),
        }
    }

    /// A client sends a frame: a sign of life for a session, or a call.
    pub(super) fn on_send(
        &mut self,
        now: Time,
        arrives: Time,
        sign: Option<Id>,
        call: Option<(u32, u64)>,
    ) {
        let Some(session) = sign else { return };
        for twin in &mut self.twins {
            twin.signs.insert(session, (arrives, twin.unable));
        }
        if let Some((shard, sequence)) = call {
            self.twins[shard as usize].sent.entry((session, sequence)).or_insert(now);
        }
    }

    /// An engine starts: what it knew and was not durable is gone.
    pub(super) fn on_start(
        &mut self,
        at: Time,
        clocks: &[Clock],
        seat: SeatId,
        engine: &Engine,
    ) -> Result<(), String> {
        let node = seat.node;
        for shard in engine.shards() {
            let group = shard.group();
            let before = self.seen[node as usize][group.0 as usize];
            let same_life = before.filter(|seen| seen.life == shard.raft().incarnation());
            if let Some(seen) = same_life.filter(|seen| shard.raft().last_index() < seen.durable) {
                let (node, durable) = (node + 1, seen.durable);
                return Err(format!(
                    "group {group}: node {node} forgot {durable}, which was durable"
                ));
            }
        }
        for group in self.layout.groups_of(seat) {
            self.seen[node as usize][group.0 as usize] = None;
        }
        self.on_turn(at, clocks, seat, engine).map(|_| ())
    }

    /// A turn of an engine ended.
    pub(super) fn on_turn(
        &mut self,
        at: Time,
        clocks: &[Clock],
        seat: SeatId,
        engine: &Engine,
    ) -> Result<Did, String> {
        let (mut did, time, node) = (Did::default(), at, seat.node);
        self.on_ends(seat, engine)?;
        for shard in engine.shards() {
            let at = shard.group();
            if self.layout.seat(node, at) != seat {
                let (node, engine) = (node + 1, seat.engine);
                return Err(format!("group {at}: engine {engine} of node {node} keeps it"));
            }
            let before = self.seen[node as usize][at.0 as usize].unwrap_or(Seen::NOTHING);
            let raft = shard.raft();
            if before.life != raft.incarnation() {
                self.on_end(at, node, before.life)?;
            }
            // Another life of the replica begins with nothing.
            let before = if before.life == raft.incarnation() { before } else { Seen::NOTHING };
            let now = Seen {
                life: raft.incarnation(),
                term: raft.term().0,
                leads: raft.is_leader(),
                commit: raft.commit(),
                durable: raft.durable(),
                applied: shard.applied(),
                lease: engine.lease_until(at),
            };
            self.seen[node as usize][at.0 as usize] = Some(now);
            did.voted |= now.term > before.term;
            if now.leads && (!before.leads || now.term > before.term) {
                let leader = *self.leaders.entry((at, now.term)).or_insert(node);
                if leader != node {
                    let term = now.term;
                    return Err(format!("group {at}: two leaders in term {term}"));
                }
            }
            if now.leads && !before.leads {
                self.on_elected((time, clocks), at, node, now.term)?;
                let told = raft.log().last_time();
                if told + TURN_MAX < shard.clock(clocks[node as usize].read(time)) {
                    let node = node + 1;
                    return Err(format!(
                        "group {at}: node {node} is elected and sets the clock back"
                    ));
                }
                did.elected = Some(at);
            }
            if now.commit > before.commit {
                self.on_commit(at, shard, before, now)?;
                self.on_entries(at, shard, time)?;
                did.committed |= now.leads;
            }
            let known = &mut self.members[at.0 as usize];
            if now.commit > known.as_ref().map_or(Index::ZERO, |(known, _)| *known) {
                let members = raft.log().configuration_at(now.commit);
                match known {
                    _ if *members == Configuration::UNKNOWN => {}
                    Some((commit, known)) if *known == *members => *commit = now.commit,
                    _ => *known = Some((now.commit, members.clone())),
                }
            }
            if now.applied > before.applied {
                self.on_clock(at, shard)?;
            }
            if now.applied > before.applied
                && let Some(twin) = at.shard().map(|shard| &mut self.twins[shard as usize])
                && twin.index == now.applied
            {
                let compared = twin.compare(&shard.state().status());
                compared.map_err(|why| format!("group {at}, node {}: {why}", node + 1))?;
            }
            self.signs.on_turn(node, shard)?;
            if now.applied > before.applied && is_compared(shard) {
                self.on_state(at, shard)?;
            }
        }
        Ok(did)
    }

    /// A group's leader is to write to another group.
    pub(super) fn post(
        &mut self,
        now: Time,
        letter: &Letter,
        engine: &mut Engine,
        effects: &mut Effects,
    ) {
        if letter.is_probe {
            self.mail.on_probe_sent(letter.way, &letter.bytes);
            engine.probe(now, letter.way, &letter.bytes, effects);
        } else {
            engine.write_mail(now, letter.way, &letter.bytes, effects);
        }
    }

    /// What groups of an engine got of others, once what is committed was seen.
    pub(super) fn on_mail(&mut self, node: u32, engine: &mut Engine) -> Result<(), String> {
        for (group, took, probes) in engine.drain_mail() {
            for took in &took {
                self.mail.on_took(group, node, took)?;
            }
            for (from, bytes) in probes {
                self.mail.on_probe(group, from, &bytes)?;
            }
        }
        Ok(())
    }

    /// Who belongs to a group by what is committed.
    pub(super) fn members(&self, group: GroupId) -> Option<&Configuration> {
        self.members[group.0 as usize].as_ref().map(|(_, members)| members)
    }

    /// Replicas that are here no more ended.
    fn on_ends(&mut self, seat: SeatId, engine: &Engine) -> Result<(), String> {
        let node = seat.node;
        let seen = &self.seen[node as usize];
        let of_engine =
            self.layout.groups_of(seat).filter(|group| seen[group.0 as usize].is_some());
        if of_engine.count() > engine.shards().len() {
            for group in self.layout.groups_of(seat) {
                let seen = self.seen[node as usize][group.0 as usize];
                let kept = engine.shards().iter().any(|shard| shard.group() == group);
                if let Some(seen) = seen.filter(|_| !kept) {
                    self.on_end(group, node, seen.life)?;
                    self.seen[node as usize][group.0 as usize] = None;
                }
            }
        }
        Ok(())
    }

    /// A replica ended: it must not be needed any more.
    fn on_end(&self, group: GroupId, node: u32, life: Incarnation) -> Result<(), String> {
        let node_id = NodeId(node + 1);
        if self.members(group).is_some_and(|members| members.is_voter(node_id, life)) {
            let node = node + 1;
            return Err(format!("group {group}: node {node} ends a replica that votes"));
        }
        Ok(())
    }

    /// A node fell: it answers nobody by any lease.
    pub(super) fn on_crash(&mut self, node: u32) {
        self.seen[node as usize].iter_mut().flatten().for_each(|seen| seen.lease = None);
    }

    /// An engine's disk is lost, with all that it promised by it.
    pub(super) fn on_disk_lost(&mut self, seat: SeatId) {
        let (node, seen) = (seat.node, &self.seen[seat.node as usize]);
        let of_engine = self.layout.groups_of(seat);
        let of_engine =
            of_engine.filter_map(|group| Some(((node, group), seen[group.0 as usize]?)));
        self.lost.extend(of_engine);
    }

    /// Whoever stood still and finds votes of an earlier term leads that one, and nobody follows.
    fn on_elected(
        &self,
        (time, clocks): (Time, &[Clock]),
        at: GroupId,
        node: u32,
        term: u64,
    ) -> Result<(), String> {
        for (other, seen) in self.of_group(at).filter(|(other, _)| *other != node) {
            let older = seen.leads && seen.term < term;
            let shown = clocks[other as usize].read(time);
            if older && seen.lease.is_some_and(|until| until > shown) {
                let (a, b) = (node + 1, other + 1);
                return Err(format!(
                    "group {at}: node {a} is elected while node {b}'s lease lasts"
                ));
            }
        }
        Ok(())
    }

    /// What was last seen of a group, and on which node.
    fn of_group(&self, group: GroupId) -> impl Iterator<Item = (u32, &Seen)> {
        let nodes = self.seen.iter().zip(0..);
        nodes.filter_map(move |(groups, node)| Some((node, groups[group.0 as usize].as_ref()?)))
    }

    fn on_commit(
        &mut self,
        at: GroupId,
        shard: &Shard,
        before: Seen,
        now: Seen,
    ) -> Result<(), String> {
        let log = shard.raft().log();
        let first = before.commit.next().max(log.first_index());
        for index in (first.0..=now.commit.0).map(Index) {
            let Some(entry) = log.entry(index) else { continue };
            let sum = crc32c(entry.bytes);
            let committed = &mut self.committed[at.0 as usize];
            let place = usize::try_from(index.0).expect("an index fits memory");
            if committed.len() <= place {
                committed.resize(place + 1, None);
            }
            if *committed[place].get_or_insert(sum) != sum {
                return Err(format!("group {at}: two entries are committed at {index}"));
            }
        }
        if !(now.leads && before.leads && before.term == now.term) {
            return Ok(());
        }
        if log.term_at(now.commit) != Some(Term(now.term)) {
            return Err(format!("group {at}: {} of an older term was counted", now.commit));
        }
        let held_by = |members: &Configuration| {
            let holds = |((n, group), seen): &((u32, GroupId), Seen)| {
                let counts = members.is_voter(NodeId(*n + 1), seen.life);
                *group == at && counts && seen.durable >= now.commit
            };
            let seen = self.of_group(at).map(|(node, seen)| ((node, at), *seen));
            seen.chain(self.lost.iter().copied()).filter(holds).count()
        };
        // It may have been counted before a change behind it was appended, in the same turn.
        let (newest, then) = (shard.raft().configuration(), log.configuration_at(now.commit));
        let held = held_by(newest);
        if held < newest.majority() && held_by(then) < then.majority() {
            let commit = now.commit;
            return Err(format!(
                "group {at}: {commit} is committed, and durable on {held} node(s)"
            ));
        }
        Ok(())
    }

    /// The twin does what is committed, as soon as anybody knows that it is.
    fn on_entries(&mut self, at: GroupId, shard: &Shard, time: Time) -> Result<(), String> {
        let Some(number) = at.shard() else { return Ok(()) };
        let (log, twin) = (shard.raft().log(), &mut self.twins[number as usize]);
        while twin.index < shard.raft().commit() {
            let next = twin.index.next();
            let entry =
                log.entry(next).ok_or_else(|| format!("group {at}: {next} is not to be seen"))?;
            twin.step(time, &entry).map_err(|why| format!("group {at}, {next}: {why}"))?;
            self.mail.on_entry(at, &entry).map_err(|why| format!("group {at}, {next}: {why}"))?;
        }
        Ok(())
    }

    /// The clock follows from what was applied alone: whoever restarts or gets a snapshot has that of its index.
    fn on_clock(&mut self, at: GroupId, shard: &Shard) -> Result<(), String> {
        let (index, clock) = (shard.applied(), shard.state().clock());
        let known = *self.clocks.entry((at, index)).or_insert(clock);
        if known != clock {
            return Err(format!("group {at}: two clocks at {index}: {known:?} and {clock:?}"));
        }
        Ok(())
    }

    fn on_state(&mut self, at: GroupId, shard: &Shard) -> Result<(), String> {
        self.scratch.clear();
        shard.raft().log().configuration_at(shard.applied()).encode(&mut self.scratch);
        shard.state().snapshot(&mut self.scratch);
        let (index, hash) = (shard.applied(), crc32c(&self.scratch));
        if *self.states.entry((at, index)).or_insert(hash) != hash {
            return Err(format!("group {at}: two states at {index}"));
        }
        Ok(())
    }

    /// A node's frame leaves it: a vote in it is given, whatever the node remembers later.
    pub(super) fn on_frame(
        &mut self,
        from: u32,
        to: u32,
        frame: &wire::frames::Frame<'_>,
    ) -> Result<(), String> {
        let (term, candidate, life) = match frame.header.kind {
            Vote::KIND => match Vote::view(frame.body) {
                Ok(vote) if vote.pre == 0 => (vote.term, from, vote.incarnation),
                _ => return Ok(()),
            },
            VoteReply::KIND => match VoteReply::view(frame.body) {
                Ok(reply) if reply.pre == 0 && reply.granted == 1 => {
                    (reply.term, to, reply.incarnation)
                }
                _ => return Ok(()),
            },
            _ => return Ok(()),
        };
        let group = frame.header.shard;
        let given = *self.votes.entry((group, term, life)).or_insert(candidate);
        if given != candidate {
            return Err(format!("group {group}: node {} votes twice in term {term}", from + 1));
        }
        Ok(())
    }
}

/// Whether states are compared here. Equal states say the same.
fn is_compared(shard: &Shard) -> bool {
    let holds = shard.state().status();
    let rows = holds.messages_ready + holds.messages_in_flight + holds.messages_delayed;
    let every = STATES_EVERY * (1 + rows / ROWS_HALVE).next_power_of_two();
    shard.applied().0.is_multiple_of(every)
}
