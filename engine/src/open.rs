//! Opens an engine: from what is on its disk to shards that go on.

use crate::engine::{Disk, EngineConfig, OpenError, ReadSnapshot};
use crate::entry::kind;
use crate::ids::{ClusterId, GroupId, Incarnation, Index, Term};
use crate::journal::{Journal, JournalConfig, Record, Replay, witness};
use crate::level::Level;
use crate::machine::{self, meta};
use crate::mutant::{self, Mutant};
use crate::raft::{Configuration, PersistentState, Preference, Raft, RaftConfig, RestoreError};
use crate::secret::Secret;
use crate::shard::balance::Balance;
use crate::shard::moves::Moves;
use crate::shard::placement::Replicas;
use crate::shard::state::State;
use crate::shard::{Shard, snapshots};
use crate::time::Time;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use wire::Kind;
use wire::bytes::u32_bytes;
use wire::topology::engine_of_group;

/// What an engine begins with.
pub(crate) struct Opened {
    pub journal: Journal,
    pub shards: Vec<Shard>,
}

/// Where groups are.
pub(crate) struct Placements<'a> {
    /// Where the founders put them, by group id.
    pub founding: &'a [Replicas],
    /// Where they are to be now.
    pub wanted: &'a [Replicas],
}

/// What the journal holds of a replica.
struct Kept {
    incarnation: Incarnation,
    restored: PersistentState,
    snapshot: (Index, Term),
}

impl Kept {
    fn new(incarnation: Incarnation) -> Kept {
        Kept {
            incarnation,
            restored: PersistentState::default(),
            snapshot: (Index::ZERO, Term::ZERO),
        }
    }
}

/// Replays the journal, loads the snapshots that it names, and makes the shards.
pub(crate) fn open(
    config: &EngineConfig,
    places: &Placements<'_>,
    now: Time,
    disk: Disk<'_>,
) -> Result<Opened, OpenError> {
    // Any of the cluster's groups on this engine may have a replica here; the journal knows which have.
    let groups: Vec<GroupId> = (0..=config.shards)
        .filter(|group| engine_of_group(*group, config.engines) == config.engine)
        .map(GroupId)
        .collect();
    let journal = JournalConfig {
        segment_bytes: config.segment_bytes,
        segments_max: config.segments_max,
        groups: groups.clone(),
    };
    let mut kept: BTreeMap<GroupId, Kept> = BTreeMap::new();
    let mut wrong: Option<(GroupId, RestoreError)> = None;
    let mut level = Level::OLDEST;
    let witness = witness::read(disk.witness)?;
    let mut journal =
        Journal::recover(journal, config.seed, disk.segments, witness, &mut |replay| {
            if let Replay::Entry(entry) = &replay
                && entry.header.kind == kind::LEVEL
            {
                level = level.max(Level::decode(entry.payload).unwrap_or_default());
            }
            if let Err(error) = take(&mut kept, replay) {
                wrong.get_or_insert(error);
            }
        })?;
    if let Some((group, error)) = wrong {
        return Err(OpenError::Contradiction { group, error });
    }
    if journal.is_fresh()
        && let Some(incarnation) = config.founder()
    {
        let here = |group: &GroupId| places.founding[group.0 as usize].nodes.contains(&config.node);
        for group in groups.into_iter().filter(here) {
            journal.append(Record::Replica { group, replica: Some(incarnation) });
            kept.insert(group, Kept::new(incarnation));
        }
    }
    let mut shards = Vec::with_capacity(kept.len());
    for (group, kept) in kept {
        shards.push(shard(config, places, &journal, group, kept, now, disk.snapshot)?);
    }
    let level = shards.iter().map(|shard| shard.state().level()).fold(level, Level::max);
    if level > config.level_max {
        return Err(OpenError::NewerLevel { level, known: config.level_max });
    }
    Ok(Opened { journal, shards })
}

/// Takes what recovery hands out.
fn take(
    kept: &mut BTreeMap<GroupId, Kept>,
    replay: Replay<'_>,
) -> Result<(), (GroupId, RestoreError)> {
    let group = match replay {
        Replay::Replica { group, replica } => {
            kept.insert(group, Kept::new(replica));
            return Ok(());
        }
        Replay::Entry(entry) => entry.header.group,
        Replay::Vote { group, .. }
        | Replay::Snapshot { group, .. }
        | Replay::Commit { group, .. } => group,
    };
    let Some(kept) = kept.get_mut(&group) else {
        return Err((group, RestoreError::NoReplica));
    };
    match replay {
        Replay::Replica { .. } => Ok(()),
        Replay::Entry(entry) => kept.restored.on_entry(entry),
        Replay::Vote { term, vote, .. } => kept.restored.on_vote(term, vote),
        Replay::Commit { commit, .. } => {
            kept.restored.on_commit(commit);
            Ok(())
        }
        Replay::Snapshot { index, term, .. } => {
            kept.snapshot = (index, term);
            kept.restored.on_snapshot(index, term);
            Ok(())
        }
    }
    .map_err(|error| (group, error))
}

/// A replica that goes on from what was kept.
fn shard(
    config: &EngineConfig,
    places: &Placements<'_>,
    journal: &Journal,
    group: GroupId,
    kept: Kept,
    now: Time,
    snapshot: &mut ReadSnapshot<'_>,
) -> Result<Shard, OpenError> {
    let Kept { incarnation, mut restored, snapshot: (index, term) } = kept;
    let machine = machine_config(config.cluster, config.cache_bytes_max, config.secret);
    let mut state = State::new(group, &machine, founding(config));
    if let Err(error) = restored.check() {
        return Err(OpenError::Contradiction { group, error });
    }
    if index > Index::ZERO {
        let mut source = |each: &mut dyn FnMut(&[u8])| snapshot(group, index, each);
        match snapshots::read(&state, &machine, &mut source) {
            Ok(Some((configuration, read))) => {
                restored.on_configuration(configuration);
                state = read;
            }
            Ok(None) if !is_snapshot_needed() => {}
            Ok(None) | Err(_) => return Err(OpenError::Snapshot { group, index }),
        }
    }
    let at = group.0 as usize;
    let founds = Some(&places.founding[at]).filter(|_| config.founding_life() == Some(incarnation));
    let raft = raft_config(config, founds, journal, group, incarnation);
    let raft = Raft::new(raft, restored, now);
    let aim = aim(config, &places.wanted[at], group);
    Ok(Shard::new(config.node, raft, aim, state, machine, (index, term), now))
}

/// A replica whose journal names a snapshot does not begin without it.
fn is_snapshot_needed() -> bool {
    !mutant::on(Mutant::MissingSnapshotIsEmpty)
}

/// An empty replica that joins its group.
pub(crate) fn joining(
    config: &EngineConfig,
    wanted: &Replicas,
    journal: &Journal,
    group: GroupId,
    incarnation: Incarnation,
    now: Time,
) -> Shard {
    let machine = machine_config(config.cluster, config.cache_bytes_max, config.secret);
    let state = State::new(group, &machine, founding(config));
    let raft = raft_config(config, None, journal, group, incarnation);
    let raft = Raft::new(raft, PersistentState::default(), now);
    let (aim, nothing) = (aim(config, wanted, group), (Index::ZERO, Term::ZERO));
    Shard::new(config.node, raft, aim, state, machine, nothing, now)
}

fn aim(config: &EngineConfig, wanted: &Replicas, group: GroupId) -> (Balance, Moves) {
    let balance = Balance::new(group.0, wanted.preferred, config.balance_after);
    (balance, Moves::new(wanted.nodes.clone()))
}

/// What a shard's machine is made with.
pub(crate) fn machine_config(
    cluster: ClusterId,
    cache_bytes_max: u64,
    secret: Secret,
) -> machine::MachineConfig {
    let cluster = xxhash_rust::xxh64::xxh64(&cluster.0, 0);
    machine::MachineConfig { cluster, cache_bytes_max, secret }
}

fn raft_config(
    config: &EngineConfig,
    founds: Option<&Replicas>,
    journal: &Journal,
    group: GroupId,
    incarnation: Incarnation,
) -> RaftConfig {
    let preferred = founds.is_some_and(|replicas| replicas.preferred == config.node);
    let founders = founds.map_or(Configuration::UNKNOWN, |replicas| {
        let voters = config.founders.iter().filter(|m| replicas.nodes.contains(&m.node));
        Configuration::of_voters(voters.map(|m| (m.node, m.incarnation)))
    });
    RaftConfig {
        group,
        node: config.node,
        incarnation,
        founders,
        election_timeout_min: config.election_timeout_min,
        election_timeout_max: config.election_timeout_max,
        heartbeat: config.heartbeat,
        level_max: config.level_max,
        reads: config.reads,
        preference: if preferred { Preference::Preferred } else { Preference::Ordinary },
        append_bytes_max: journal.append_bytes_max(),
        uncommitted_bytes_max: journal.tail_bytes_max(),
        seed: config.seed ^ xxhash_rust::xxh64::xxh64(&u32_bytes(group.0), 1),
    }
}

/// What the meta group's first leader writes down: the cluster's nodes, and its birth. In this order: a state
/// that is born is whole.
fn founding(config: &EngineConfig) -> Vec<(Kind, Vec<u8>)> {
    let mut entries = Vec::new();
    for node in founders(config) {
        let mut row = Vec::new();
        meta::write_node(&node, &mut row);
        entries.push((kind::META_NODE, row));
    }
    let mut birth = Vec::new();
    meta::write_birth(config.cluster, config.shards, &mut birth);
    entries.push((kind::META_BIRTH, birth));
    entries
}

/// The founders, as the meta group has them.
pub(crate) fn founders(config: &EngineConfig) -> impl Iterator<Item = meta::Node> {
    config.founders.iter().map(|founder| meta::Node {
        node: founder.node,
        incarnation: founder.incarnation,
        engines: config.engines,
        standing: meta::Standing::In,
        address: founder.address.clone(),
    })
}
