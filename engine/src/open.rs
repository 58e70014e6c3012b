//! Opens an engine: from what is on its disk to shards that go on.

use crate::engine::{Config, Disk, OpenError};
use crate::entry::kind;
use crate::ids::{GroupId, Index, Term};
use crate::journal::{self, Journal, Replay};
use crate::machine;
use crate::raft::{self, Preference, Raft, RestoreError, Restored, Voter};
use crate::shard::Shard;
use crate::shard::placement::Replicas;
use crate::shard::state::State;
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

/// Replays the journal, loads the snapshots that it names, and makes the shards.
pub(crate) fn open(
    config: &Config,
    placement: &[Replicas],
    now: Time,
    disk: Disk<'_>,
) -> Result<Opened, OpenError> {
    let groups: Vec<GroupId> = (0..=config.shards)
        .filter(|group| engine_of_group(*group, config.engines) == config.engine)
        .filter(|group| placement[*group as usize].nodes.contains(&config.node))
        .map(GroupId)
        .collect();
    let mut restored: BTreeMap<GroupId, Restored> =
        groups.iter().map(|group| (*group, Restored::default())).collect();
    let journal = journal::Config {
        segment_bytes: config.segment_bytes,
        segments_max: config.segments_max,
        groups: groups.clone(),
    };
    let mut snapshots = BTreeMap::new();
    let mut wrong: Option<(GroupId, RestoreError)> = None;
    let journal = Journal::recover(journal, config.seed, disk.segments, &mut |replay| {
        let group = match replay {
            Replay::Entry(entry) => entry.header.group,
            Replay::Vote { group, .. }
            | Replay::Snapshot { group, .. }
            | Replay::Commit { group, .. } => group,
        };
        let restored = restored.get_mut(&group).expect("the journal keeps these groups alone");
        let replayed = match replay {
            Replay::Entry(entry) => restored.on_entry(entry),
            Replay::Vote { term, vote, .. } => restored.on_vote(term, vote),
            Replay::Commit { commit, .. } => {
                restored.on_commit(commit);
                Ok(())
            }
            Replay::Snapshot { index, term, .. } => {
                snapshots.insert(group, (index, term));
                restored.on_snapshot(index, term);
                Ok(())
            }
        };
        if let Err(error) = replayed {
            wrong.get_or_insert((group, error));
        }
    })?;
    if let Some((group, error)) = wrong {
        return Err(OpenError::Contradiction { group, error });
    }
    let machine = machine::Config {
        seed: xxhash_rust::xxh64::xxh64(&config.cluster.0, 0),
        cache_bytes_max: config.cache_bytes_max,
    };
    let mut shards = Vec::with_capacity(groups.len());
    for (group, restored) in restored {
        let mut state = State::new(group, &machine, founding(config));
        if let Err(error) = restored.check() {
            return Err(OpenError::Contradiction { group, error });
        }
        let (index, term) = snapshots.get(&group).copied().unwrap_or((Index::ZERO, Term::ZERO));
        if index > Index::ZERO {
            let bytes = (disk.snapshot)(group, index);
            let bytes = bytes.ok_or(OpenError::Snapshot { group, index })?;
            let restored = state.restore(&machine, &bytes);
            state = restored.map_err(|_| OpenError::Snapshot { group, index })?;
        }
        let raft = raft_config(config, placement, group, &journal);
        let raft = Raft::new(raft, restored, now);
        shards.push(Shard::new(config.node, raft, state, machine, (index, term), now));
    }
    Ok(Opened { journal, shards })
}

fn raft_config(
    config: &Config,
    placement: &[Replicas],
    group: GroupId,
    journal: &Journal,
) -> raft::Config {
    let replicas = &placement[group.0 as usize];
    let voters = config.members.iter().filter(|m| replicas.nodes.contains(&m.node));
    let own = config.members.iter().find(|m| m.node == config.node);
    let preferred = replicas.preferred == config.node;
    raft::Config {
        group,
        node: config.node,
        incarnation: own.expect("a node is one of its cluster's members").incarnation,
        voters: voters.map(|m| Voter { node: m.node, incarnation: m.incarnation }).collect(),
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
