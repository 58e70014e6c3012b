//! What is left of a cluster that lost its majority for good: a survivor's data directory becomes a backup.
//!
//! There is one way to begin anew, and that is [`restore`]: a new cluster with an id of its own. Recovering
//! only makes the backup for it, of what one node has. So the nodes that are gone can't come back and vote, the fences
//! rise above all that was ever issued, and what was there stays as it was, to be looked at or tried again.
//!
//! # How it works
//!
//! 1. The directory is locked, and read as at a start; nothing in it is changed.
//! 2. The other nodes that it knows are asked. Where those that answer are a majority of some group with this node, the
//!    cluster is not lost: this is refused.
//! 3. What there is of each group is shown. Without the word that what is missing may be lost, nothing is written.
//! 4. All entries are applied, also those that are not known to be committed
//!    ([`salvage`](crate::shard::salvage)), and the states are written as a backup. Where a file that was recovered
//!    from another survivor has more of a group, its state is taken.
//!
//! # Invariants
//!
//! - Nobody's data directory is changed.
//! - The file has its name only once it is whole and on the disk.

use super::birth;
use super::config::RecoverArguments;
use super::data::MakeConfig;
use super::manifest::{DataDir, DirError, Manifest, sync_dir};
use super::restore::{self, RestoreError};
use super::snapshots;
use super::wal::{segments, witness};
use crate::effects::Effects;
use crate::engine::{Disk, Engine, OpenError};
use crate::ids::{ClusterId, GroupId, Index, NodeId, Term};
use crate::raft::Suffrage;
use crate::shard::salvage::Salvaged;
use crate::time::Time;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use wire::backup::{Head, Part, Section, Writer};

/// How long another node may take to say that it is there.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Why nothing is recovered.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The data directory is refused.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// There is no node's data in it.
    #[error("E150 {path:?} holds no data of a node of a cluster: nothing can be recovered from it")]
    Nothing {
        /// The data directory.
        path: PathBuf,
    },
    /// Enough nodes are there.
    #[error(
        "E151 not recovered: {groups} can go on by themselves, since nodes {answer} answer, and with this one are a majority. Start this node instead. To give the others up, stop them first; --others-are-gone asks nobody"
    )]
    NotLost {
        /// The groups.
        groups: String,
        /// Who answers.
        answer: String,
    },
    /// Nobody said that something may be lost.
    #[error("E152 nothing is written yet. Where this may be lost, say so: --accept-loss")]
    Unconfirmed,
    /// What a node's engine has can't be read.
    #[error("engine {engine}: {error}. Recover from another node")]
    Open {
        /// The engine.
        engine: u32,
        /// Why.
        error: OpenError,
    },
    /// A file.
    #[error("E153 {what}: {why}")]
    Io {
        /// What was being done.
        what: String,
        /// What the system says.
        why: io::Error,
    },
    /// A file that was recovered from another node is refused.
    #[error(transparent)]
    With(#[from] RestoreError),
    /// It is of another cluster.
    #[error("E154 {file:?} was recovered from another cluster, {cluster}")]
    OtherCluster {
        /// The file.
        file: PathBuf,
        /// Its cluster.
        cluster: ClusterId,
    },
}

/// What one node has, and perhaps some others.
pub struct Survivor {
    manifest: Manifest,
    /// Of each group the most that anybody has, and which file it came from if not from this node.
    groups: BTreeMap<GroupId, (Salvaged, Option<PathBuf>)>,
    /// When anything of it was written last: Unix time in microseconds.
    written_us: u64,
}

/// Recovers what the arguments say; `say` tells people what it comes to.
///
/// # Errors
/// [`RecoverError`]; then nothing was written.
pub fn recover(
    data_dir: &Path,
    arguments: &RecoverArguments,
    make_config: impl FnOnce(&Manifest) -> Box<MakeConfig>,
    say: &mut dyn FnMut(&str),
) -> Result<(), RecoverError> {
    let nothing = || RecoverError::Nothing { path: data_dir.to_owned() };
    if !data_dir.is_dir() {
        return Err(nothing());
    }
    let dir = DataDir::take(data_dir)?;
    let manifest = dir.read_any()?.filter(Manifest::is_born).ok_or_else(nothing)?;
    let config = make_config(&manifest);
    let mut survivor = Survivor::open(dir.path(), manifest, &config)?;
    if !arguments.others_are_gone {
        survivor.check_lost(&survivor.ask())?;
    }
    for file in &arguments.with {
        survivor.add(file)?;
    }
    say(&survivor.table());
    if !arguments.accept_loss {
        return Err(RecoverError::Unconfirmed);
    }
    let bytes = survivor.write(&arguments.file)?;
    let file = arguments.file.display();
    say(&format!(
        "\nwrote {file} ({bytes} bytes). Next, with an empty data directory: tercetd restore {file}\n"
    ));
    Ok(())
}

impl Survivor {
    /// Reads all that a data directory has.
    ///
    /// # Errors
    /// [`RecoverError::Open`] and [`RecoverError::Io`].
    pub fn open(
        data_dir: &Path,
        manifest: Manifest,
        config: &MakeConfig,
    ) -> Result<Survivor, RecoverError> {
        let mut survivor = Survivor { manifest, groups: BTreeMap::new(), written_us: 0 };
        for index in 0..survivor.manifest.engines {
            let engine_dir = segments::engine_dir(data_dir, index);
            let failed = |why| RecoverError::Io { what: format!("{engine_dir:?}"), why };
            survivor.written_us = survivor.written_us.max(written_us(&engine_dir).map_err(failed)?);
            let mut engine = open_engine(data_dir, &engine_dir, &survivor.manifest, config, index)?;
            engine.salvage(&mut |kept| _ = survivor.groups.insert(kept.group, (kept, None)));
        }
        Ok(survivor)
    }

    /// The other nodes that answer as nodes of this cluster.
    fn ask(&self) -> BTreeSet<NodeId> {
        let manifest = &self.manifest;
        let others: Vec<(NodeId, String)> = match manifest.known_nodes() {
            Some(nodes) => nodes.nodes().map(|node| (node.node, node.address.clone())).collect(),
            None => manifest.founders.iter().map(|f| (f.node, f.address.clone())).collect(),
        };
        std::thread::scope(|scope| {
            let others = others.iter().filter(|(node, _)| *node != manifest.node);
            let asked = others.map(|(node, address)| {
                let ask = || birth::is_there(manifest, address, ANSWER_WITHIN);
                (*node, scope.spawn(ask))
            });
            // All are asked before the first answer is waited for.
            let asked: Vec<_> = asked.collect();
            asked.into_iter().filter_map(|(node, it)| it.join().ok()?.then_some(node)).collect()
        })
    }

    /// Refuses what is not lost.
    fn check_lost(&self, answer: &BTreeSet<NodeId>) -> Result<(), RecoverError> {
        let goes_on = |(kept, _): &&(Salvaged, Option<PathBuf>)| {
            let voters = kept.members.iter().filter(|member| member.suffrage == Suffrage::Voter);
            let voters: Vec<NodeId> = voters.map(|member| member.node).collect();
            let here = |node: &&NodeId| **node == self.manifest.node || answer.contains(node);
            !voters.is_empty() && voters.iter().filter(here).count() > voters.len() / 2
        };
        let groups = self.groups.values().filter(goes_on);
        let groups: Vec<u32> = groups.map(|(kept, _)| kept.group.0).collect();
        if groups.is_empty() {
            return Ok(());
        }
        let answer: Vec<u32> = answer.iter().map(|node| node.0).collect();
        let answer = if answer.is_empty() { String::from("(none)") } else { list(&answer) };
        Err(RecoverError::NotLost { groups: format!("groups {}", list(&groups)), answer })
    }

    /// Takes what another survivor has more of.
    ///
    /// # Errors
    /// [`RecoverError::With`] and [`RecoverError::OtherCluster`].
    pub fn add(&mut self, file: &Path) -> Result<(), RecoverError> {
        let (mut head, mut section, mut bytes) = (None, None, Vec::new());
        let mut more = Vec::new();
        restore::read(file, &mut |part| {
            match part {
                Part::Head(it) => head = Some(it),
                Part::Section(it) => section = Some(it),
                Part::Bytes(piece) => bytes.extend_from_slice(piece),
                Part::SectionEnd => {
                    let section: Section = section.take().expect("a section begins before it ends");
                    more.push((section, std::mem::take(&mut bytes)));
                }
            }
            Ok(())
        })?;
        let head: Head = head.expect("a whole backup has a head");
        let cluster = ClusterId(head.cluster);
        let ours = (self.manifest.cluster, self.manifest.shards, self.manifest.cache_bytes_max);
        if (cluster, head.shards, head.cache_bytes_max) != ours {
            return Err(RecoverError::OtherCluster { file: file.to_owned(), cluster });
        }
        self.written_us = self.written_us.min(head.taken_us);
        for (section, snapshot) in more {
            let Some((kept, from)) = self.groups.get_mut(&GroupId(section.group)) else { continue };
            if (section.term, section.index) > (kept.index_term.0, kept.index.0) {
                (kept.index_term, kept.index) = (Term(section.term), Index(section.index));
                (kept.term, kept.commit) = (kept.term.max(kept.index_term), Index::ZERO);
                (kept.snapshot, *from) = (snapshot, Some(file.to_owned()));
            }
        }
        Ok(())
    }

    /// What there is, and what may be missing, for people.
    pub fn table(&self) -> String {
        let Manifest { node, cluster, .. } = &self.manifest;
        let mut out = format!("cluster {cluster}, as node {node} has it:\n\n");
        out.push_str("group  shard  term      index     of term   known committed  voters\n");
        let mut gone = Vec::new();
        for (group, (kept, from)) in &self.groups {
            let shard = group.shard().map_or(String::from("-"), |shard| shard.to_string());
            if kept.members.is_empty() && from.is_none() {
                gone.push(group.0);
                let _ = writeln!(out, "{group:<5}  {shard:<5}  not kept here");
                continue;
            }
            let voters = kept.members.iter().filter(|m| m.suffrage == Suffrage::Voter);
            let voters: Vec<String> = voters.map(|member| member.node.to_string()).collect();
            let commit = match from {
                Some(file) => format!("from {}", file.display()),
                None => format!("{:<15}  {}", kept.commit, voters.join(", ")),
            };
            let (term, index, of) = (kept.term, kept.index, kept.index_term);
            let _ =
                writeln!(out, "{group:<5}  {shard:<5}  {term:<8}  {index:<8}  {of:<8}  {commit}");
        }
        out.push_str(
            "\nWhat may be lost: what other nodes acknowledged after the index that stands here. What may be there though\n\
             nobody was told so: entries after what is known to be committed. Of several survivors take the one with the\n\
             higher `of term`, then the higher `index`; --with takes for each group the one that has more.\n",
        );
        if gone.contains(&0) {
            out.push_str(
                "Group 0 is the cluster's own: the list of its nodes, which begins anew anyway.\n",
            );
        }
        gone.retain(|group| *group > 0);
        if !gone.is_empty() {
            let _ = writeln!(
                out,
                "GONE: groups {} are not kept here. Their shards begin empty, unless another survivor keeps them: run this\nthere too, and give the file with --with.",
                list(&gone)
            );
        }
        out
    }

    /// Writes the backup. Gives its size in bytes.
    ///
    /// # Errors
    /// [`RecoverError::Io`]; then there is no such file, or the one that was there before.
    pub fn write(&self, file: &Path) -> Result<u64, RecoverError> {
        let failed = |why| RecoverError::Io { what: format!("writing {file:?}"), why };
        let mut new = file.as_os_str().to_owned();
        new.push(".tmp");
        let new = PathBuf::from(new);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut out = options.open(&new).map_err(failed)?;
        let bytes = self.write_to(&mut out).map_err(failed)?;
        out.sync_all().map_err(failed)?;
        std::fs::rename(&new, file).map_err(failed)?;
        let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
        sync_dir(parent.unwrap_or(".".as_ref())).map_err(failed)?;
        Ok(bytes)
    }

    fn write_to(&self, file: &mut File) -> io::Result<u64> {
        let head = Head {
            cluster: self.manifest.cluster.0,
            shards: self.manifest.shards,
            cache_bytes_max: self.manifest.cache_bytes_max,
            taken_us: self.written_us,
        };
        let mut out = Vec::new();
        let mut writer = Writer::begin(&head, &mut out);
        for (group, (kept, _)) in &self.groups {
            let (index, term) = (kept.index.0, kept.index_term.0);
            let length = kept.snapshot.len() as u64;
            writer.section(&Section { group: group.0, index, term, length }, &mut out);
            writer.bytes(&kept.snapshot, &mut out);
            writer.end_section(&mut out);
            file.write_all(&out)?;
            out.clear();
        }
        let before = writer.at();
        writer.finish(&mut out);
        file.write_all(&out)?;
        Ok(before + out.len() as u64)
    }
}

/// Opens an engine as at a start, and writes nothing.
fn open_engine(
    data_dir: &Path,
    engine_dir: &Path,
    manifest: &Manifest,
    make_config: &MakeConfig,
    index: u32,
) -> Result<Engine, RecoverError> {
    let failed = |why| RecoverError::Io { what: format!("reading {engine_dir:?}"), why };
    let witnesses = witness::load(data_dir, index).map_err(failed)?;
    let mut maps = Vec::new();
    for (slot, path) in segments::list(engine_dir).map_err(failed)? {
        let map = segments::map(&path, manifest.segment_bytes, manifest.writer);
        maps.push((slot, map.map_err(|why| failed(io::Error::other(why)))?));
    }
    if maps.is_empty() {
        let why = io::Error::new(io::ErrorKind::NotFound, "it has no journal");
        return Err(failed(why));
    }
    let slices: Vec<(u32, &[u8])> = maps.iter().map(|(slot, map)| (*slot, &map[..])).collect();
    let mut snapshot = |group: GroupId, at: Index, each: &mut dyn FnMut(&[u8])| {
        let loaded = snapshots::load(engine_dir, group, at, each);
        loaded.unwrap_or_else(|error| {
            tracing::error!("{error}");
            false
        })
    };
    let witness = witnesses.copies();
    let disk = Disk { segments: &slices, witness, snapshot: &mut snapshot };
    let opened = Engine::open(make_config(index), Time::ZERO, disk, &mut Effects::default());
    opened.map_err(|error| RecoverError::Open { engine: index, error })
}

/// When any of an engine's segments was written last.
fn written_us(engine_dir: &Path) -> io::Result<u64> {
    let mut newest = UNIX_EPOCH;
    for (_, path) in segments::list(engine_dir)? {
        newest = newest.max(std::fs::metadata(path)?.modified()?);
    }
    let since: Duration = newest.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ok(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

fn list(numbers: &[u32]) -> String {
    numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
