//! Opens an engine: from what is on its disk to shards that go on.

use crate::engine::{Config, Disk, OpenError};
use crate::entry::kind;
use crate::ids::{GroupId, Incarnation, Index, Term};
use crate::journal::{self, Journal, Record, Replay};
use crate::machine;
use crate::raft::{self, Configuration, Preference, Raft, RestoreError, Restored};
use crate::shard::balance::Balance;
use crate::shard::placement::Replicas;
use crate::shard::state::State;
use crate::shard::{Shard, snapshots};
use crate::time::Time;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use wire::Kind;
use wire::topology::engine_of_group;

/// What an engine begins with.
pub(crate) struct Opened {
    pub journal: Journal,
    pub shards: Vec<Shard>,
}

/// What the journal holds of a replica.
struct Kept {
    incarnation: Incarnation,
    restored: Restored,
    snapshot: (Index, Term),
}

impl Kept {
    fn new(incarnation: Incarnation) -> Kept {
        Kept { incarnation, restored: Restored::default(), snapshot: (Index::ZERO, Term::ZERO) }
    }
}

/// Replays the journal, loads the snapshots that it names, and makes the shards.
pub(crate) fn open(
    config: &Config,
    placement: &[Replicas],
    now: Time,
    disk: Disk<'_>,
) -> Result<Opened, OpenError> {
    // Any of the cluster's groups on this engine may have a replica here; the journal knows which have.
    let groups: Vec<GroupId> = (0..=config.shards)
        .filter(|group| engine_of_group(*group, config.engines) == config.engine)
        .map(GroupId)
        .collect();
    let journal = journal::Config {
        segment_bytes: config.segment_bytes,
        segments_max: config.segments_max,
        groups: groups.clone(),
    };
    let mut kept: BTreeMap<GroupId, Kept> = BTreeMap::new();
    let mut wrong: Option<(GroupId, RestoreError)> = None;
    let mut journal = Journal::recover(journal, config.seed, disk.segments, &mut |replay| {
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
        let here = |group: &GroupId| placement[group.0 as usize].nodes.contains(&config.node);
        for group in groups.into_iter().filter(here) {
            journal.append(Record::Replica { group, replica: Some(incarnation) });
            kept.insert(group, Kept::new(incarnation));
        }
    }
    let mut shards = Vec::with_capacity(kept.len());
    for (group, kept) in kept {
        shards.push(shard(config, placement, &journal, group, kept, now, disk.snapshot)?);
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
    config: &Config,
    placement: &[Replicas],
    journal: &Journal,
    group: GroupId,
    kept: Kept,
    now: Time,
    snapshot: &mut dyn FnMut(GroupId, Index) -> Option<Vec<u8>>,
) -> Result<Shard, OpenError> {
    let Kept { incarnation, mut restored, snapshot: (index, term) } = kept;
    let machine = machine_config(config);
    let mut state = State::new(group, &machine, founding(config));
    if let Err(error) = restored.check() {
        return Err(OpenError::Contradiction { group, error });
    }
    if index > Index::ZERO {
        let bytes = snapshot(group, index);
        let bytes = bytes.ok_or(OpenError::Snapshot { group, index })?;
        let (configuration, read) = snapshots::read(&state, &machine, &bytes)
            .map_err(|_| OpenError::Snapshot { group, index })?;
        restored.on_configuration(configuration);
        state = read;
    }
    let raft = raft_config(config, placement, journal, group, incarnation);
    let raft = Raft::new(raft, restored, now);
    let balance = balance(config, placement, group);
    Ok(Shard::new(config.node, raft, balance, state, machine, (index, term), now))
}

/// An empty replica that joins its group.
pub(crate) fn joining(
    config: &Config,
    placement: &[Replicas],
    journal: &Journal,
    group: GroupId,
    incarnation: Incarnation,
    now: Time,
) -> Shard {
    let machine = machine_config(config);
    let state = State::new(group, &machine, founding(config));
    let raft = raft_config(config, placement, journal, group, incarnation);
    let raft = Raft::new(raft, Restored::default(), now);
    let (balance, nothing) = (balance(config, placement, group), (Index::ZERO, Term::ZERO));
    Shard::new(config.node, raft, balance, state, machine, nothing, now)
}

fn balance(config: &Config, placement: &[Replicas], group: GroupId) -> Balance {
    Balance::new(group.0, placement[group.0 as usize].preferred, config.balance_after)
}

fn machine_config(config: &Config) -> machine::Config {
    machine::Config {
        seed: xxhash_rust::xxh64::xxh64(&config.cluster.0, 0),
        cache_bytes_max: config.cache_bytes_max,
    }
}

fn raft_config(
    config: &Config,
    placement: &[Replicas],
    journal: &Journal,
    group: GroupId,
    incarnation: Incarnation,
) -> raft::Config {
    let replicas = &placement[group.0 as usize];
    let voters = config.members.iter().filter(|m| replicas.nodes.contains(&m.node));
    let founds = config.founder() == Some(incarnation);
    let preferred = founds && replicas.preferred == config.node;
    let founders = if founds {
        Configuration::of_voters(voters.map(|m| (m.node, m.incarnation)))
    } else {
        Configuration::UNKNOWN
    };
    raft::Config {
        group,
        node: config.node,
        incarnation,
        founders,
        election_timeout_min: config.election_timeout_min,
        election_timeout_max: config.election_timeout_max,
        heartbeat: config.heartbeat,
        reads: config.reads,
        preference: if preferred { Preference::Preferred } else { Preference::Ordinary },
        append_bytes_max: journal.append_bytes_max(),
        uncommitted_bytes_max: journal.tail_bytes_max(),
        seed: config.seed ^ xxhash_rust::xxh64::xxh64(&group.0.to_le_bytes(), 1),
    }
}

/// What the meta group's first leader writes down: the cluster's birth and its nodes.
fn founding(config: &Config) -> Vec<(Kind, Vec<u8>)> {
    let mut birth = config.cluster.0.to_vec();
    birth.extend_from_slice(&config.shards.to_le_bytes());
    let mut entries = Vec::new();
    for member in &config.members {
        let length = u16::try_from(member.address.len()).expect("an address is short");
        let mut node = member.node.0.to_le_bytes().to_vec();
        node.extend_from_slice(&member.incarnation.0);
        node.extend_from_slice(&config.engines.to_le_bytes());
        node.extend_from_slice(&length.to_le_bytes());
        node.extend_from_slice(member.address.as_bytes());
        entries.push((kind::META_NODE, node));
    }
    entries.push((kind::META_BIRTH, birth));
    entries
}
