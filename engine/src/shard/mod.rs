//! A shard: one group's consensus and machine, and what its leader alone remembers.
//!
//! This is where commands get their meaning and answers their way back. A request is proposed with
//! the group's clock on it; when its entry is applied, the caller is answered. What only a
//! leader needs (callers, what waits to be proposed, held reads, signs of life) lives here and is thrown away with the
//! leadership; nobody else may rely on it.
//!
//! # How it works
//!
//! Every input runs one step of [`Raft`], and [`Shard::settle`] carries out at once what it says:
//! records go into the journal, messages to their peers or, if they must wait for a sync, into
//! [`held`]. At the turn's end [`Shard::end_turn`] makes one batch of all that was proposed, applies
//! what is committed, and answers.
//!
//! # Invariants
//!
//! - A caller is answered at most once, by the replica that took its request, and only from an
//!   applied entry or a confirmed read.
//! - An entry's time is never before the entry's before it.
//! - A snapshot is on the disk before the journal says so, and the journal says so, durably, before
//!   anything that it replaces is freed.
//!
//! # Left out
//!
//! Sharers of cache lines and recency, which come with the coherent cache.

mod aside;
mod backup;
pub mod balance;
pub mod calls;
pub(crate) mod codec;
pub mod conns;
pub mod desk;
pub(crate) mod held;
#[cfg(any(test, feature = "simulator"))]
mod inspect;
mod levels;
mod liveness;
pub mod mail;
mod members;
pub mod moves;
pub mod placement;
mod reads;
pub mod salvage;
pub(crate) mod snapshots;
pub mod stage;
pub mod state;
pub mod step;
mod time;

#[cfg(test)]
mod tests;

use crate::effects::Note;
use crate::ids::{GroupId, Index, NodeId, Position, SessionId, Term};
use crate::journal::{Journal, Record};
use crate::level::Level;
use crate::machine::{self, Applied, Outcome, WARM_MAX, Wake, Warm};
use crate::mutant::{self, Mutant};
use crate::raft::{Hold, Member, Message, Persist, Quiet, Raft};
use crate::status::{GroupStatus, PeerStatus};
use crate::time::{Duration, Elapsed, Time};
use alloc::vec::Vec;
use aside::{Aside, Item};
use backup::Backup;
use balance::Balance;
use calls::{CallId, Caller, Calls};
use desk::Hint;
use liveness::Liveness;
use mail::Carrier;
use moves::Moves;
use reads::{HeldReads, Served};
use snapshots::Snapshots;
use stage::Stage;
use state::State;
pub use step::{Shared, Step};
use wire::message::CachePut;
use wire::{Code, Kind};

/// What an entry takes beside its payload, its share of a record's header included, in bytes.
const ENTRY_ROOM_BYTES: usize = 2 * crate::entry::ENTRY_HEADER_BYTES;

/// A client's request, vetted, that is to be proposed.
#[derive(Clone, Copy, Debug)]
pub struct Proposal<'a> {
    /// Who asks.
    pub caller: Caller,
    /// What.
    pub kind: Kind,
    /// From which level on it exists as it is.
    pub level: Level,
    /// The call's name.
    pub call: CallId,
    /// When the caller gives up; [`Time::MAX`] = never.
    pub deadline: Time,
    /// The client's bytes.
    pub body: &'a [u8],
}

/// One group's replica on this node.
pub struct Shard {
    group: GroupId,
    node: NodeId,
    raft: Raft,
    state: State,
    /// What a machine of this group is made with.
    machine: machine::MachineConfig,
    applied: Index,
    /// When something in the state is due: kept here, so that an idle group's state is not looked at.
    due: Option<Elapsed>,
    calls: Calls,
    stage: Stage,
    carrier: Carrier,
    /// What came from other groups that nobody keeps, until somebody looks.
    #[cfg(any(test, feature = "simulator"))]
    probes: Vec<(GroupId, alloc::boxed::Box<[u8]>)>,
    reads: HeldReads,
    /// Where the keys that were looked ahead at are found.
    warm: Warm,
    aside: Aside,
    liveness: Liveness,
    balance: Balance,
    moves: Moves,
    snapshots: Snapshots,
    /// The snapshot for a backup, if one is under way.
    backup: Option<Backup>,
    /// The term in which this replica leads and has told so; `None` when it does not.
    leads: Option<Term>,
    /// To whom this replica last handed over.
    heir: Option<NodeId>,
    /// The last tick proposed: none is proposed again before it is applied.
    ticked: Index,
    /// No tick before this moment, and no renewal: one was refused.
    retry_at: Time,
    /// The last entry proposed that raises the feature level.
    raised: Index,
    /// The last change of members that was told.
    members_at: Index,
    /// Who they were.
    members: Vec<Member>,
}

impl Shard {
    /// A replica that goes on from what its disk holds. `applied` is what `state` stands for.
    pub fn new(
        node: NodeId,
        raft: Raft,
        (balance, moves): (Balance, Moves),
        state: State,
        machine: machine::MachineConfig,
        applied: (Index, Term),
        now: Time,
    ) -> Shard {
        let mut raft = raft;
        assert!(raft.applied() == applied.0, "the state stands for what is applied");
        assert!(raft.commit() >= applied.0, "only what is committed is in it");
        // A snapshot carries no entry whose time the log could know.
        raft.raise_time(state.clock());
        Shard {
            group: raft.group(),
            node,
            raft,
            due: state.next_deadline(),
            state,
            machine,
            applied: applied.0,
            calls: Calls::new(machine.secret),
            stage: Stage::default(),
            carrier: Carrier::default(),
            #[cfg(any(test, feature = "simulator"))]
            probes: Vec::new(),
            reads: HeldReads::default(),
            warm: Warm::default(),
            aside: Aside::default(),
            liveness: Liveness::new(machine.secret),
            balance,
            moves,
            snapshots: Snapshots::new(applied),
            backup: None,
            leads: None,
            heir: None,
            ticked: Index::ZERO,
            retry_at: now,
            raised: Index::ZERO,
            members_at: Index::ZERO,
            members: Vec::new(),
        }
    }

    /// The group.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// Its consensus, to look at.
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    /// Its state, to look at.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Who leads it when nothing speaks against it.
    pub fn preferred(&self) -> NodeId {
        self.balance.preferred()
    }

    /// The highest index applied.
    pub fn applied(&self) -> Index {
        self.applied
    }

    // ---- Clients ----

    /// Proposes a request that changes something.
    pub fn on_write(&mut self, step: &mut Step<'_>, proposal: Proposal<'_>) {
        self.note_leader(step);
        if !self.raft.is_leader() {
            return self.refuse(step, proposal.caller);
        }
        if !self.is_at(proposal.level) {
            return self.refuse_above(step, proposal.caller, proposal.level);
        }
        let session = proposal.call.session;
        if step.shared.conns.touches(proposal.caller.conn, (self.group, session), step.now) {
            self.touch(step.now, session);
        }
        if self.propose(step, &proposal) {
            return;
        }
        if self.raft.is_handing_over() {
            return self.await_hand_over(step, &proposal);
        }
        step.desk().error(proposal.caller, Code::Busy, Hint::retry(5));
    }

    /// Proposes a request of this leader's caller. False: there is no room for it, and nobody was answered.
    #[inline]
    fn propose(&mut self, step: &mut Step<'_>, proposal: &Proposal<'_>) -> bool {
        assert!(self.raft.is_leader(), "only a leader proposes");
        if !step.has_room(proposal.body.len()) {
            return false;
        }
        let time = self.raft.clock(step.now);
        let Ok(index) = self.raft.propose(proposal.kind, 0, time, proposal.body) else {
            return false;
        };
        assert!(index > self.applied, "what is proposed is still to be applied");
        step.take_room(proposal.body.len());
        self.calls.propose(index, proposal.caller, proposal.call);
        true
    }

    /// A session gave a sign of life. Whether this replica vouches for a whole time to live from now:
    /// only if the applied state itself says that the session ends no sooner, and only by a clock that
    /// whoever leads next goes by:
    ///
    /// 1. Node 1 restarts, and leads. Its clock stands a second behind the others', which have not heard of it.
    /// 2. By its clock a session ends in a whole time to live. Node 1 says so, and falls.
    /// 3. Node 2 leads, and ends the session a second early.
    ///
    /// Once an entry of node 1's own term is committed, whoever leads next has it, and its clock with it.
    pub fn on_heartbeat(&mut self, now: Time, session: SessionId) -> bool {
        if !self.raft.is_leader() {
            return false;
        }
        let Some(ttl) = self.touch(now, session) else { return false };
        self.is_backed(now, session, ttl)
    }

    /// Whether a session lives for a whole time to live from now, whoever leads next.
    fn is_backed(&self, now: Time, session: SessionId, ttl: Duration) -> bool {
        if mutant::on(Mutant::AliveUnbacked) {
            return true;
        }
        let deadline = self.state.session_deadline(session);
        let lasts = deadline.is_some_and(|deadline| deadline >= self.raft.clock(now) + ttl);
        lasts && self.goes_by_the_groups_clock(now)
    }

    /// A leader's clock is the group's once an entry of its own term is committed.
    fn goes_by_the_groups_clock(&self, now: Time) -> bool {
        self.raft.is_confirmed(now) || mutant::on(Mutant::VouchedBeforeOwnCommit)
    }

    // ---- Peers and the disk ----

    /// A peer's message came.
    pub fn on_message(&mut self, step: &mut Step<'_>, from: NodeId, message: Message<'_>) {
        self.raft.on_message(step.now, from, message, &mut step.shared.out);
        if let (Some(install), Message::Snapshot(piece)) = (step.shared.out.install.take(), message)
        {
            self.on_piece(&install, piece.bytes);
        }
        self.settle(step);
    }

    /// The link to a peer stands.
    pub fn on_peer_up(&mut self, step: &mut Step<'_>, peer: NodeId) {
        self.raft.on_peer_up(step.now, peer, &mut step.shared.out);
        self.settle(step);
        self.tell_time(step);
    }

    /// The link to a peer is gone.
    pub fn on_peer_down(&mut self, step: &mut Step<'_>, peer: NodeId) {
        self.raft.on_peer_down(step.now, peer);
        self.settle(step);
    }

    /// All units up to `position` are durable.
    pub fn on_synced(&mut self, step: &mut Step<'_>, position: Position) {
        self.raft.on_synced(step.now, position, &mut step.shared.out);
        self.settle(step);
        self.on_recorded(step, position);
    }

    /// Time passed.
    pub fn on_tick(&mut self, step: &mut Step<'_>) {
        if step.now >= self.raft.deadline() {
            self.raft.on_tick(step.now, &mut step.shared.out);
            self.settle(step);
            // A hand-over that failed ends here: who waits for it goes before who comes now.
            self.keep_stage(step);
        }
    }

    // ---- The turn's end ----

    /// Makes one batch of what was proposed, applies what is committed, and answers.
    pub fn end_turn(&mut self, step: &mut Step<'_>) {
        self.keep_stage(step);
        self.keep_time(step);
        self.keep_balance(step);
        self.keep_members(step);
        self.raft.flush(step.now, &mut step.shared.out);
        self.settle(step);
        // Before anything is applied: an index that was proposed here may hold another's entry by now.
        self.note_leader(step);
        self.serve_aside(step);
        self.apply(step);
        self.keep_mail(step);
        self.serve_reads(step);
        self.keep_backup(step.now);
        self.on_recorded(step, step.shared.journal.synced());
        self.snapshots.keep_only(self.raft.offered(), self.raft.receiving());
    }

    /// What can go on beside this shard while it is left alone.
    pub fn quiet(&self) -> Option<Quiet> {
        // Who is to hand over looks for the moment.
        let hands_over = self.raft.is_leader() && self.preferred() != self.node;
        let carries = self.raft.is_leader() && self.state.has_mail();
        // So does who waits for leadership to be confirmed.
        let asks = !self.reads.is_empty() || self.is_backup_asked() || self.has_aside();
        if hands_over || carries || asks { None } else { self.raft.quiet() }
    }

    /// Tells the shard what came while it was left alone.
    pub fn wake(&mut self, quiet: Quiet) {
        self.raft.wake(quiet);
    }

    /// When this shard wants a tick, at the latest.
    pub fn wake_at(&self) -> Time {
        self.wake_with(self.raft.deadline())
    }

    /// The same while it is left alone: for what does not concern its peers.
    pub fn quiet_until(&self) -> Time {
        self.wake_with(Time::MAX)
    }

    fn wake_with(&self, deadline: Time) -> Time {
        let mut at = deadline.min(self.moves.wake_at(&self.raft));
        if let Some((read, _)) = self.reads.first() {
            at = at.min(read.deadline);
        }
        at = at.min(self.backup_ends_at()).min(self.stage.wake_at());
        if self.aside.is_ready() {
            at = Time::ZERO;
        }
        if self.raft.is_leader()
            && self.ticked <= self.applied
            && let Some(due) = self.due
        {
            let told = self.raft.clock_moment(self.raft.log().last_time() + time::TIME_TOLD_EVERY);
            at = at.min(self.raft.clock_moment(due).min(told).max(self.retry_at));
        }
        if self.raft.is_leader() && self.liveness.is_due() {
            at = at.min(self.retry_at);
        }
        if self.raft.is_leader() {
            at = at.min(self.carrier.wake_at());
        }
        at
    }

    /// Whether it waits for a sync: for what it wrote to become durable.
    pub fn awaits_sync(&self) -> bool {
        self.raft.awaits_sync() || self.snapshots.awaits_sync()
    }

    fn touch(&mut self, now: Time, session: SessionId) -> Option<Duration> {
        let ttl = self.state.session_ttl(session)?;
        self.liveness.touch(now, session, ttl);
        Some(ttl)
    }

    /// Applies what is committed, and answers who asked for it here.
    fn apply(&mut self, step: &mut Step<'_>) {
        let upto = self.may_apply_to();
        if self.applied < upto {
            self.apply_to(step, upto);
        }
        self.raft.on_applied(self.applied.min(self.raft.commit()));
        let index = self.raft.log().configuration_index();
        if index != self.members_at && index <= self.applied {
            self.members_at = index;
            // What was agreed beside them is nobody's news.
            if self.members == self.raft.configuration().members() {
                return;
            }
            self.members = self.raft.configuration().members().to_vec();
            step.effects.notes.push(Note::Members { group: self.group, index });
        }
    }

    /// Nothing is applied before it is committed.
    fn may_apply_to(&self) -> Index {
        let early = mutant::on(Mutant::ApplyBeforeCommit);
        if early { self.raft.last_index() } else { self.raft.commit() }
    }

    fn apply_to(&mut self, step: &mut Step<'_>, commit: Index) {
        assert!(step.shared.wakes.is_empty(), "whom an entry woke was told");
        assert!(self.applied < commit, "there is something to apply");
        let expired = self.state.sessions_expired();
        let mut warm = self.applied;
        while self.applied < commit {
            let index = self.applied.next();
            if warm < index {
                warm = commit.min(Index(self.applied.0 + WARM_MAX as u64));
                self.warm_puts(index, warm);
            }
            let entry = self.raft.log().entry(index);
            let entry = entry.expect("a committed entry stays in memory until it is applied");
            assert_eq!(entry.header.index, index, "entries are applied in order");
            let kind = step.shared.kinds.read(entry.header.kind);
            let applied = self.state.apply(kind, &entry, &mut step.shared.wakes);
            self.applied = index;
            let caller = self.calls.take(index);
            match (applied, caller) {
                (Applied::Done(outcome), Some((caller, _))) => {
                    self.answer(step, caller, outcome);
                }
                (Applied::Waiting, Some((caller, call))) => {
                    // The request whose place it takes is answered no more.
                    if let Some(replaced) = self.calls.wait(call, caller) {
                        step.shared.conns.settle(replaced);
                    }
                }
                (Applied::Nothing, Some(_)) => panic!("a call's entry has an outcome"),
                (_, None) => {}
            }
            let mut wakes = core::mem::take(&mut step.shared.wakes);
            for Wake { session, sequence, outcome } in wakes.drain(..) {
                if let Some(caller) = self.calls.wake(CallId { session, sequence }) {
                    self.answer(step, caller, outcome);
                }
            }
            step.shared.wakes = wakes;
        }
        assert_eq!(self.applied, commit, "all of it is applied");
        self.due = self.state.next_deadline();
        let sessions = self.state.sessions_expired() - expired;
        if sessions > 0 {
            step.effects.notes.push(Note::SessionsExpired { group: self.group, sessions });
        }
    }

    /// Looks ahead at the lines that entries are about to write. One alone waits as long as its look would.
    fn warm_puts(&mut self, first: Index, last: Index) {
        if first == last {
            return;
        }
        let entries = (first.0..=last.0).filter_map(|index| self.raft.log().entry(Index(index)));
        let puts = entries.filter(|entry| entry.header.kind == CachePut::KIND);
        // By hand: it was checked when it was proposed, and is checked again when it is applied.
        let keys = puts.filter_map(|e| CachePut::decode(e.payload).ok().map(|put| put.key));
        self.state.warm(keys, &mut self.warm);
    }

    fn answer(&mut self, step: &mut Step<'_>, caller: Caller, outcome: Outcome) {
        let mut desk = step.desk();
        match outcome {
            Outcome::Done { token } => desk.done(caller, token, self.applied),
            Outcome::Refused { code, detail: None } => {
                // It touched what is unfinished: it is, some entries later.
                let hint = if code == Code::Busy { Hint::retry(5) } else { Hint::NONE };
                desk.error(caller, code, hint);
            }
            Outcome::Refused { code, detail: Some(detail) } => {
                desk.detailed_error(caller, code, &detail);
            }
            Outcome::Delivered { id, delivery } => {
                let delivery = (id, delivery);
                if self.deliver(step, caller, delivery) == Served::Later {
                    self.aside.put(Item::Delivery { caller, delivery }, &mut step.shared.conns);
                }
            }
        }
    }

    /// A replica that leads no more sends its callers away.
    fn note_leader(&mut self, step: &mut Step<'_>) {
        let leads = self.raft.is_leader().then_some(self.raft.term());
        if leads == self.leads {
            return;
        }
        let lost = self.leads.is_some();
        self.leads = leads;
        if lost {
            // Who was just elected may have heard a sign of life in the same turn.
            self.liveness.clear();
        }
        self.balance.begin(step.now);
        (self.ticked, self.raised) = (Index::ZERO, Index::ZERO);
        self.begin_carrying();
        if lost {
            self.send_callers_away(step);
        }
    }

    fn send_callers_away(&mut self, step: &mut Step<'_>) {
        self.send_staged_away(step);
        let hint = Hint::retry(20);
        let mut desk = step.desk();
        self.calls.drain(|caller| desk.error(caller, Code::Unavailable, hint));
        while let Some(read) = self.reads.take() {
            step.desk().error(read.caller, Code::Unavailable, hint);
        }
        self.send_aside_away(step, hint);
        self.refuse_backup(step);
    }

    fn refuse(&mut self, step: &mut Step<'_>, caller: Caller) {
        match self.raft.leader().filter(|leader| *leader != self.node) {
            Some(leader) => {
                let hint = Hint { node: Some(leader), engine: step.shared.engine, retry_ms: 0 };
                step.desk().error(caller, Code::NotLeader, hint);
            }
            None => step.desk().error(caller, Code::Unavailable, Hint::retry(20)),
        }
    }

    // ---- What consensus says ----

    /// Carries out what the last step of consensus said: records first, then messages, because a
    /// message that waits for a sync waits for the records before it.
    fn settle(&mut self, step: &mut Step<'_>) {
        let mut out = core::mem::take(&mut step.shared.out);
        assert!(out.install.is_none(), "a piece is kept by whoever handed its message in");
        if !out.persist.is_empty() {
            let mut position = Position::ZERO;
            for persist in out.persist.drain(..) {
                position = self.persist(&mut step.shared.journal, persist);
            }
            assert!(
                position > step.shared.journal.synced(),
                "what was just appended is not synced"
            );
            self.raft.on_appended(position);
        }
        for message in out.messages.drain(..) {
            match message.hold {
                // Nothing that it waits for is left to sync.
                Hold::AfterSync
                    if step.shared.journal.appended() <= step.shared.journal.synced() =>
                {
                    self.encode(&message.body, step.effects.peers.to(message.to.0));
                }
                Hold::Now => self.encode(&message.body, step.effects.peers.to(message.to.0)),
                Hold::AfterSync => {
                    let mut frame = Vec::new();
                    self.encode(&message.body, &mut frame);
                    step.shared.held.hold(step.shared.journal.appended(), message.to, frame);
                }
            }
        }
        let notes = out.events.drain(..).map(|event| Note::of_raft(self.group, event));
        step.effects.notes.extend(notes);
        let wanted = out.snapshot_wanted.take();
        step.shared.out = out;
        if wanted.is_some() {
            self.offer_snapshot(step);
        }
    }

    fn persist(&self, journal: &mut Journal, persist: Persist) -> Position {
        let group = self.group;
        journal.append(match persist {
            Persist::Entries { first, last, last_term } => {
                let bytes = self.raft.log().bytes(first, last);
                Record::Entries { group, first, last, last_term, bytes }
            }
            Persist::Truncate { from } => Record::Truncate { group, from },
            Persist::Vote { term, vote } => Record::Vote { group, term, vote },
            Persist::Snapshot { index, term } => Record::Snapshot { group, index, term },
        })
    }

    /// The replica's state, for people.
    pub fn status(&self, now: Time) -> GroupStatus {
        let peers = self.raft.progress().iter().map(|follower| PeerStatus {
            node: follower.node,
            match_index: follower.matched,
            next_index: follower.next,
            state: follower.state_name(),
            silent: follower.heard_at.map(|at| now.since(at)),
        });
        GroupStatus {
            group: self.group,
            role: self.raft.role().as_str(),
            term: self.raft.term(),
            leader: self.raft.leader(),
            preferred: self.preferred(),
            confirmed: self.raft.confirmed_ago(now, None),
            patience: self.raft.patience(),
            commit: self.raft.commit(),
            applied: self.applied,
            first_index: self.raft.first_index(),
            last_index: self.raft.last_index(),
            durable: self.raft.durable(),
            members: self.raft.configuration().members().to_vec(),
            changing: self.raft.change_in_flight().is_some(),
            wanted: self.moves.wanted().to_vec(),
            peers: peers.collect(),
            machine: self.state.status(),
        }
    }
}
