//! The data directory: one process's at a time, and who this node is.
//!
//! ```text
//! DIR/LOCK          locked while a node runs; holds its process id
//! DIR/MANIFEST      who the node is: TOML, closed by a checksum, replaced whole
//! DIR/RESTORING     there while a restore makes the directory ([`super::restore`])
//! DIR/engine-KK/    the journal and snapshots of engine K
//! DIR/engine-KK.witness
//!                   how far that journal goes at least ([`super::wal::witness`])
//! DIR/engine-KK.damaged-N/
//!                   what they were before engine K was begun anew: not read any more ([`super::repair`])
//! ```
//!
//! The manifest is written with cluster id zero when the directory is made, with the cluster and its
//! founders when the node comes to belong to it ([`super::birth`]), and whenever the cluster's nodes
//! change: a node that starts again speaks with those that it knew last, and learns the rest from them. The
//! random incarnation made with the directory is what tells a node that remembers from one whose disk was
//! wiped.
//!
//! # Invariants
//!
//! - Nobody reads or writes in the directory who does not hold LOCK.
//! - A manifest is replaced atomically and is on the disk before anybody hears of it.
//! - Files that are not ours are not touched.
//!
//! # Left out
//!
//! A manifest that was lost is not rebuilt from the journals: the node is replaced instead.

use super::config::CACHE_BYTES_DEFAULT;
use super::wal::Writer;
use crate::engine::Founder;
use crate::ids::{ClusterId, Incarnation, NodeId};
use crate::level::Level;
use crate::machine::meta::Meta;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The newest format of a data directory that is known here.
pub const FORMAT: u32 = 3;
/// Written while the cluster is at the oldest feature level.
const FORMAT_OLDEST: u32 = 2;
/// The largest manifest that is read, in bytes.
const MANIFEST_BYTES_MAX: u64 = 4 << 20;
const NAME: &str = "MANIFEST";
const NAME_NEW: &str = "MANIFEST.new";
const LOCK: &str = "LOCK";
const RESTORING: &str = "RESTORING";
/// How the directories of engines begin.
const ENGINE: &str = "engine-";
/// What a new file system has in its topmost directory.
const LOST_AND_FOUND: &str = "lost+found";
const CHECKSUM: &str = "checksum = ";

/// Who a node is, as its data directory remembers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    /// The cluster; [`ClusterId::NONE`] before its birth.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// The directory's incarnation.
    pub incarnation: Incarnation,
    /// Engines, for ever.
    pub engines: u32,
    /// Shards of the cluster.
    pub shards: u32,
    /// What the cache lines of one shard may take, in bytes. The cluster's: eviction is a part of what
    /// entries mean, so nodes that differ in it would come to differ in their lines.
    pub cache_bytes_max: u64,
    /// Bytes of a journal segment, for ever.
    pub segment_bytes: u64,
    /// How the journal is written.
    pub writer: Writer,
    /// What the trial said that chose the writer.
    pub writer_why: String,
    /// The founders of the cluster; empty before its birth. An address may be empty: it is not known.
    pub founders: Vec<Founder>,
    /// The cluster's nodes as this node knew them last: a snapshot of the meta group's state
    /// ([`crate::machine::meta`]). Empty: the founders.
    pub nodes: Vec<u8>,
    /// The engines that were damaged and begun anew, rising: they found no group.
    pub renewed: Vec<u32>,
}

impl Manifest {
    /// Whether the node belongs to a cluster.
    pub fn is_born(&self) -> bool {
        self.cluster != ClusterId::NONE
    }

    /// The cluster's nodes, if more than the founders are known.
    pub fn known_nodes(&self) -> Option<Meta> {
        Meta::restore(&self.nodes).ok()
    }
}

/// Why a data directory is refused.
#[derive(Debug, thiserror::Error)]
pub enum DirError {
    /// Something else stands there.
    #[error("E110 {path:?} is not a directory. Give another --data-dir")]
    NotADirectory {
        /// The data directory.
        path: PathBuf,
    },
    /// No right to it.
    #[error(
        "E111 no permission for the data directory {path:?}: {what}. Give it to the user that runs tercetd"
    )]
    Permission {
        /// The data directory.
        path: PathBuf,
        /// What was tried.
        what: String,
    },
    /// Another process has it.
    #[error("E112 the data directory {path:?} is in use by another process{}. Stop that one, or give another --data-dir", pid.map_or(String::new(), |p| format!(" (pid {p})")))]
    InUse {
        /// The data directory.
        path: PathBuf,
        /// The process, if it is known.
        pid: Option<u32>,
    },
    /// Written by a newer version.
    #[error(
        "E113 the data directory {path:?} has format {got}; this version reads up to {FORMAT}. Start the newer version"
    )]
    NewerFormat {
        /// The data directory.
        path: PathBuf,
        /// Its format.
        got: i64,
    },
    /// It is another node's.
    #[error(
        "E114 the data directory {path:?} belongs to node {kept}, but this node is configured as {asked}. Correct --node or --data-dir"
    )]
    OtherNode {
        /// The data directory.
        path: PathBuf,
        /// Whose it is.
        kept: NodeId,
        /// Who asks.
        asked: NodeId,
    },
    /// It is another cluster's.
    #[error(
        "E115 the data directory {path:?} belongs to cluster {kept}, but not so the nodes in --peers: {why}. Correct --data-dir or --peers"
    )]
    OtherCluster {
        /// The data directory.
        path: PathBuf,
        /// Its cluster.
        kept: ClusterId,
        /// What the peers say.
        why: String,
    },
    /// The manifest is damaged.
    #[error(
        "E116 the MANIFEST in {path:?} is damaged: {why}. Move the directory away and replace the node"
    )]
    Damaged {
        /// The data directory.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Journals without a manifest.
    #[error(
        "E117 {path:?} holds an engine's data but no MANIFEST. Put the MANIFEST back, or move the directory away and replace the node"
    )]
    NoManifest {
        /// The data directory.
        path: PathBuf,
    },
    /// Journals beside a manifest of before the node belonged to a cluster.
    #[error(
        "E134 {path:?} holds an engine's data, but its MANIFEST is of before the node belonged to a cluster: an old one was put there. Put the newest MANIFEST back, or move the directory away and replace the node"
    )]
    OldManifest {
        /// The data directory.
        path: PathBuf,
    },
    /// The configuration names a node that the cluster does not have.
    #[error(
        "E118 --peers names node {node}, which is not a node of cluster {cluster}. Correct --peers; to add a node, start it and run `tercet cluster add-node`"
    )]
    NotAFounder {
        /// The node.
        node: NodeId,
        /// The cluster.
        cluster: ClusterId,
    },
    /// Something is in it, and a restore makes a new one.
    #[error(
        "E122 the data directory {path:?} is not empty: it holds {what}. A restore makes a new one: give another --data-dir"
    )]
    NotEmpty {
        /// The data directory.
        path: PathBuf,
        /// What is in it.
        what: String,
    },
    /// A restore into it did not come to its end.
    #[error(
        "E123 a restore into the data directory {path:?} was interrupted, and what is there is not whole. Run `tercetd restore` again, or remove the directory"
    )]
    Unfinished {
        /// The data directory.
        path: PathBuf,
    },
    /// It is of a node that was removed from its cluster.
    #[error(
        "E121 node {node}, of the data directory {path:?}, was removed from cluster {cluster}. To add a node again, give an empty --data-dir, start it and run `tercet cluster add-node`"
    )]
    Removed {
        /// The data directory.
        path: PathBuf,
        /// The node.
        node: NodeId,
        /// The cluster.
        cluster: ClusterId,
    },
    /// It has more engines than the cluster has shards.
    #[error(
        "E128 the data directory {path:?} was made for {engines} engines, but cluster {cluster} has {shards} shards, and each engine keeps at least one. Give an empty --data-dir and --engines {shards} or fewer"
    )]
    IdleEngines {
        /// The data directory.
        path: PathBuf,
        /// The cluster.
        cluster: ClusterId,
        /// Engines of the directory.
        engines: u32,
        /// Shards of the cluster.
        shards: u32,
    },
    /// The configuration asks for another budget of the cache than the cluster was born with.
    #[error(
        "E120 --cache-size is {asked}, but the cluster of the data directory {path:?} was born with {kept}, and all its nodes must keep to that. Give {kept}, or leave --cache-size out"
    )]
    OtherCacheSize {
        /// The data directory.
        path: PathBuf,
        /// What the cluster has, in bytes.
        kept: u64,
        /// What the configuration asks for, in bytes.
        asked: u64,
    },
    /// Anything else that the system says.
    #[error("E119 the data directory {path:?} can't be used: {what}. Check the disk")]
    Io {
        /// The data directory.
        path: PathBuf,
        /// What the system says.
        what: String,
    },
}

/// A data directory that is this process's own, until it is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Open, hence locked.
    _lock: File,
}

impl DataDir {
    /// Takes a directory for this process, making it (for its user alone) if it is not there.
    ///
    /// # Errors
    /// [`DirError`] when it is no directory, in use, or not ours to use.
    pub fn take(path: &Path) -> Result<DataDir, DirError> {
        let refused = |e: std::io::Error, what: &str| refuse(path, &e, what);
        match std::fs::metadata(path) {
            Ok(meta) if !meta.is_dir() => {
                return Err(DirError::NotADirectory { path: path.to_owned() });
            }
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
                made.map_err(|e| refused(e, "making it"))?;
                sync_dir(
                    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(".".as_ref()),
                )
                .map_err(|e| refused(e, "syncing its parent"))?;
            }
            Err(e) => return Err(refused(e, "looking at it")),
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut lock = options.open(path.join(LOCK)).map_err(|e| refused(e, "opening LOCK"))?;
        if let Err(e) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            if e != rustix::io::Errno::WOULDBLOCK {
                return Err(refused(e.into(), "locking LOCK"));
            }
            let mut pid = String::new();
            // What the holder wrote is for people only: without it the refusal stands.
            let pid = lock.read_to_string(&mut pid).ok().and_then(|_| pid.trim().parse().ok());
            return Err(DirError::InUse { path: path.to_owned(), pid });
        }
        let written = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
        written.map_err(|e| refused(e, "writing LOCK"))?;
        // glommio opens a directory by an absolute path only.
        let path = path.canonicalize().map_err(|e| refused(e, "following its path"))?;
        Ok(DataDir { path, _lock: lock })
    }

    /// Where it is: an absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the manifest, or `None` from a directory in which no node has been yet.
    ///
    /// # Errors
    /// [`DirError`] when it is another node's, of a newer format, or damaged.
    pub fn read(&self, node: NodeId) -> Result<Option<Manifest>, DirError> {
        let manifest = self.read_any()?;
        if let Some(other) = manifest.as_ref().filter(|manifest| manifest.node != node) {
            let path = self.path.clone();
            return Err(DirError::OtherNode { path, kept: other.node, asked: node });
        }
        Ok(manifest)
    }

    /// [`DataDir::read`], whosever it is.
    ///
    /// # Errors
    /// [`DirError`] when it is of a newer format, or damaged.
    pub fn read_any(&self) -> Result<Option<Manifest>, DirError> {
        let mut text = String::new();
        let read = File::open(self.path.join(NAME))
            .and_then(|f| f.take(MANIFEST_BYTES_MAX).read_to_string(&mut text));
        match read {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                if self.path.join(RESTORING).exists() {
                    return Err(DirError::Unfinished { path: self.path.clone() });
                }
                if self.holds_engines()? {
                    return Err(DirError::NoManifest { path: self.path.clone() });
                }
                return Ok(None);
            }
            Err(e) if e.kind() == ErrorKind::InvalidData => {
                return Err(self.damaged("it is no text"));
            }
            Err(e) => return Err(refuse(&self.path, &e, "reading MANIFEST")),
            Ok(_) => {}
        }
        let manifest = self.parse(&text)?;
        // Engines come after the birth: this node would belong to a cluster of its own now, with another's data.
        if !manifest.is_born() && self.holds_engines()? {
            return Err(DirError::OldManifest { path: self.path.clone() });
        }
        Ok(Some(manifest))
    }

    /// Replaces the manifest. It is on the disk once this returns.
    ///
    /// # Errors
    /// [`DirError::Io`] or [`DirError::Permission`]; the old manifest then still stands.
    pub fn write(&self, manifest: &Manifest) -> Result<(), DirError> {
        self.replace(manifest).map_err(|e| refuse(&self.path, &e, "writing MANIFEST"))
    }

    /// [`DataDir::write`], with what the system says.
    ///
    /// # Errors
    /// As the system says; the old manifest then still stands.
    pub fn replace(&self, manifest: &Manifest) -> std::io::Result<()> {
        let new = self.path.join(NAME_NEW);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&new)?;
        file.write_all(print(manifest).as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, self.path.join(NAME))?;
        sync_dir(&self.path)
    }

    /// Begins to make the directory from a backup: says so in it, and removes what an interrupted restore left.
    /// Until [`DataDir::end_restore`] no node starts from it, unless it has a manifest by then.
    ///
    /// # Errors
    /// [`DirError::NotEmpty`] when anything else is in it; [`DirError::Io`] or [`DirError::Permission`].
    pub fn begin_restore(&self) -> Result<(), DirError> {
        let names = self.names()?;
        let interrupted = names.iter().any(|name| name == RESTORING);
        let mut left = Vec::new();
        for name in names {
            match name.as_str() {
                LOCK | RESTORING | LOST_AND_FOUND => {}
                NAME_NEW if interrupted => left.push(name),
                _ if interrupted && name.starts_with(ENGINE) => left.push(name),
                _ => return Err(DirError::NotEmpty { path: self.path.clone(), what: name }),
            }
        }
        let failed = |e: std::io::Error| refuse(&self.path, &e, "beginning a restore");
        std::fs::write(self.path.join(RESTORING), "").map_err(failed)?;
        sync_dir(&self.path).map_err(failed)?;
        for name in left {
            let path = self.path.join(&name);
            let removed = match path.is_dir() {
                true => std::fs::remove_dir_all(path),
                false => std::fs::remove_file(path),
            };
            removed.map_err(|e| refuse(&self.path, &e, "removing what a restore left"))?;
        }
        Ok(())
    }

    /// The restore is done: its manifest is written.
    ///
    /// # Errors
    /// [`DirError::Io`] or [`DirError::Permission`]; the directory is whole all the same.
    pub fn end_restore(&self) -> Result<(), DirError> {
        let removed = std::fs::remove_file(self.path.join(RESTORING));
        let ended = removed.and_then(|()| sync_dir(&self.path));
        ended.map_err(|e| refuse(&self.path, &e, "ending a restore"))
    }

    fn holds_engines(&self) -> Result<bool, DirError> {
        Ok(self.names()?.iter().any(|name| name.starts_with(ENGINE)))
    }

    /// What is in it.
    fn names(&self) -> Result<Vec<String>, DirError> {
        let listed = |e: std::io::Error| refuse(&self.path, &e, "listing it");
        let rows = std::fs::read_dir(&self.path).map_err(listed)?;
        let name = |row: std::io::Result<std::fs::DirEntry>| {
            row.map(|row| row.file_name().to_string_lossy().into_owned()).map_err(listed)
        };
        rows.map(name).collect()
    }

    fn damaged(&self, why: &str) -> DirError {
        DirError::Damaged { path: self.path.clone(), why: why.to_owned() }
    }

    fn parse(&self, text: &str) -> Result<Manifest, DirError> {
        let at = text.rfind(CHECKSUM).ok_or_else(|| self.damaged("it has no checksum"))?;
        let (body, sum) = text.split_at(at);
        if sum.trim_end() != format!("{CHECKSUM}\"{:08x}\"", crc32c::crc32c(body.as_bytes())) {
            return Err(self.damaged("its checksum does not match"));
        }
        let table: toml::Table = body.parse().map_err(|_| self.damaged("it is no TOML"))?;
        let got = table.get("format").and_then(toml::Value::as_integer).unwrap_or(0);
        if got > i64::from(FORMAT) {
            return Err(DirError::NewerFormat { path: self.path.clone(), got });
        }
        let form: Form = table
            .try_into()
            .map_err(|e: toml::de::Error| self.damaged(&e.message().replace('\n', " ")))?;
        let manifest = form.manifest();
        manifest.ok_or_else(|| self.damaged("an id, a name or the nodes in it are malformed"))
    }
}

/// Makes what was done to a directory's entries durable.
///
/// # Errors
/// What the system says.
pub fn sync_dir(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

/// A random incarnation.
pub fn new_incarnation() -> Incarnation {
    Incarnation(random())
}

/// A random cluster id.
pub fn new_cluster() -> ClusterId {
    ClusterId(random())
}

fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("Linux gives random bytes once it has booted");
    assert_ne!(bytes, [0; 16], "zero stands for none");
    bytes
}

fn refuse(path: &Path, e: &std::io::Error, what: &str) -> DirError {
    let path = path.to_owned();
    match e.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            DirError::Permission { path, what: format!("{what}: {e}") }
        }
        ErrorKind::NotADirectory => DirError::NotADirectory { path },
        _ => DirError::Io { path, what: format!("{what}: {e}") },
    }
}

/// The manifest as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    format: u32,
    cluster: String,
    node: u32,
    incarnation: String,
    engines: u32,
    shards: u32,
    /// Not written by the first development versions, which all had the default.
    #[serde(default = "cache_bytes_default")]
    cache_bytes_max: u64,
    segment_bytes: u64,
    writer: String,
    writer_why: String,
    /// [`Manifest::nodes`], in hex. Not written before format 2.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    nodes: String,
    /// Not written while it is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    renewed: Vec<u32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    founders: Vec<FounderForm>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FounderForm {
    node: u32,
    incarnation: String,
    address: String,
}

fn cache_bytes_default() -> u64 {
    CACHE_BYTES_DEFAULT
}

impl Form {
    fn manifest(self) -> Option<Manifest> {
        let member = |f: FounderForm| {
            let incarnation = Incarnation(unhex(&f.incarnation)?);
            Some(Founder { node: NodeId(f.node), incarnation, address: f.address })
        };
        let nodes = unhex_all(&self.nodes)?;
        if !nodes.is_empty() && Meta::restore(&nodes).is_err() {
            return None;
        }
        Some(Manifest {
            nodes,
            renewed: self.renewed,
            cluster: ClusterId(unhex(&self.cluster)?),
            node: NodeId(self.node),
            incarnation: Incarnation(unhex(&self.incarnation)?),
            engines: self.engines,
            shards: self.shards,
            cache_bytes_max: self.cache_bytes_max,
            segment_bytes: self.segment_bytes,
            writer: Writer::from_name(&self.writer)?,
            writer_why: self.writer_why,
            founders: self.founders.into_iter().map(member).collect::<Option<_>>()?,
        })
    }
}

fn print(m: &Manifest) -> String {
    let founder = |f: &Founder| FounderForm {
        node: f.node.0,
        incarnation: f.incarnation.to_string(),
        address: f.address.clone(),
    };
    let says_level = m.known_nodes().is_some_and(|nodes| nodes.level() >= Level::SAID);
    let form = Form {
        format: if says_level { FORMAT } else { FORMAT_OLDEST },
        cluster: m.cluster.to_string(),
        node: m.node.0,
        incarnation: m.incarnation.to_string(),
        engines: m.engines,
        shards: m.shards,
        cache_bytes_max: m.cache_bytes_max,
        segment_bytes: m.segment_bytes,
        writer: m.writer.name().to_owned(),
        writer_why: m.writer_why.clone(),
        nodes: hex(&m.nodes),
        renewed: m.renewed.clone(),
        founders: m.founders.iter().map(founder).collect(),
    };
    let body = toml::to_string(&form).expect("numbers and texts are all that it holds");
    let body = format!("# Who this node is. Written by tercetd; never edit or copy it.\n{body}\n");
    format!("{body}{CHECKSUM}\"{:08x}\"\n", crc32c::crc32c(body.as_bytes()))
}

fn unhex(text: &str) -> Option<[u8; 16]> {
    unhex_all(text)?.try_into().ok()
}

fn unhex_all(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let byte = |[high, low]: &[u8; 2]| u8::try_from(digit(*high)? << 4 | digit(*low)?).ok();
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

fn hex(bytes: &[u8]) -> String {
    let digit = |four: u8| char::from_digit(u32::from(four), 16).expect("four bits are a digit");
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

#[cfg(test)]
mod tests;
