//! The values of settings: each is written the same in a flag, in the environment and in the file.

use crate::ids::NodeId;
use crate::raft;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// The founders of a cluster and how they are reached: `1=a:7400,2=b:7400,3=c:7400`.
#[derive(Clone, PartialEq, Eq, Default, Debug, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Peers(BTreeMap<NodeId, String>);

impl Peers {
    /// The peers of these rows.
    pub fn new(rows: impl IntoIterator<Item = (NodeId, String)>) -> Peers {
        Peers(rows.into_iter().collect())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none: a single node.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A node's address.
    pub fn address(&self, node: NodeId) -> Option<&str> {
        self.0.get(&node).map(String::as_str)
    }

    /// All of them, by id.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, &str)> {
        self.0.iter().map(|(node, address)| (*node, address.as_str()))
    }
}

impl FromStr for Peers {
    type Err = String;
    fn from_str(text: &str) -> Result<Peers, String> {
        let mut peers = BTreeMap::new();
        for row in text.split(',').map(str::trim).filter(|row| !row.is_empty()) {
            let (id, address) = row
                .split_once('=')
                .ok_or_else(|| format!("\"{row}\" is not of the form ID=HOST:PORT"))?;
            let id: u32 = id
                .trim()
                .parse()
                .ok()
                .filter(|id| *id > 0)
                .ok_or_else(|| format!("\"{id}\" is not a node id; ids are numbers from 1"))?;
            let address = address.trim();
            host_port(address)?;
            if peers.values().any(|known| known == address) {
                return Err(format!("{address} is given to two nodes"));
            }
            if peers.insert(NodeId(id), address.to_owned()).is_some() {
                return Err(format!("node {id} is named twice"));
            }
        }
        Ok(Peers(peers))
    }
}

impl fmt::Display for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (node, address)) in self.0.iter().enumerate() {
            write!(f, "{}{node}={address}", if at == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// Checks that a text is `host:port`.
pub(super) fn host_port(text: &str) -> Result<(), String> {
    let ok = text
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0));
    if ok { Ok(()) } else { Err(format!("\"{text}\" is not of the form HOST:PORT")) }
}

/// A number of bytes: `1048576`, `64MiB`, `1GiB`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(try_from = "BytesGiven", into = "String")]
pub struct Bytes(pub u64);

/// In a file a size may be a number or a text.
#[derive(Deserialize)]
#[serde(untagged)]
enum BytesGiven {
    Number(u64),
    Text(String),
}

impl TryFrom<BytesGiven> for Bytes {
    type Error = String;
    fn try_from(given: BytesGiven) -> Result<Bytes, String> {
        match given {
            BytesGiven::Number(n) => Ok(Bytes(n)),
            BytesGiven::Text(text) => text.parse(),
        }
    }
}

impl FromStr for Bytes {
    type Err = String;
    fn from_str(text: &str) -> Result<Bytes, String> {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let shift = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "kib" | "k" => 10,
            "mib" | "m" => 20,
            "gib" | "g" => 30,
            _ => return Err(format!("\"{text}\" is no size; write bytes, or 64MiB")),
        };
        let number: Option<u64> = number.parse().ok();
        number
            .and_then(|n| n.checked_mul(1 << shift))
            .map(Bytes)
            .ok_or_else(|| format!("\"{text}\" is no size; write bytes, or 64MiB"))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
        match units.iter().find(|(shift, _)| self.0 > 0 && self.0.is_multiple_of(1 << shift)) {
            Some((shift, unit)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

/// Which CPUs the data plane's threads are pinned to.
#[derive(Clone, PartialEq, Eq, Default, Debug, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum Pin {
    /// One CPU each, when there are as many CPUs as threads; otherwise none.
    #[default]
    Auto,
    /// Not pinned.
    None,
    /// These, in turn.
    Cpus(Vec<u32>),
}

impl FromStr for Pin {
    type Err = String;
    fn from_str(text: &str) -> Result<Pin, String> {
        let wrong = || format!("\"{text}\" is not auto, none or a list of CPUs such as 0,2,4-7");
        match text {
            "auto" => return Ok(Pin::Auto),
            "none" => return Ok(Pin::None),
            _ => {}
        }
        let mut cpus = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first: u32 = first.trim().parse().map_err(|_| wrong())?;
            let last: u32 = last.trim().parse().map_err(|_| wrong())?;
            if first > last || last - first > 4096 {
                return Err(wrong());
            }
            cpus.extend(first..=last);
        }
        Ok(Pin::Cpus(cpus))
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pin::Auto => f.write_str("auto"),
            Pin::None => f.write_str("none"),
            Pin::Cpus(cpus) => {
                for (at, cpu) in cpus.iter().enumerate() {
                    write!(f, "{}{cpu}", if at == 0 { "" } else { "," })?;
                }
                Ok(())
            }
        }
    }
}

macro_rules! words {
    ($($(#[$doc:meta])* $ty:ident { $($(#[$vdoc:meta])* $word:literal $variant:ident,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Deserialize, Serialize)]
        #[serde(try_from = "String", into = "String")]
        pub enum $ty { $($(#[$vdoc])* $variant,)* }

        impl FromStr for $ty {
            type Err = String;
            fn from_str(text: &str) -> Result<$ty, String> {
                match text {
                    $($word => Ok($ty::$variant),)*
                    _ => Err(format!("\"{text}\" is not one of: {}", [$($word),*].join(", "))),
                }
            }
        }
        impl fmt::Display for $ty {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $($ty::$variant => $word,)* })
            }
        }
        as_text!($ty);
    )*};
}
macro_rules! as_text {
    ($ty:ident) => {
        impl TryFrom<String> for $ty {
            type Error = String;
            fn try_from(text: String) -> Result<$ty, String> {
                text.parse()
            }
        }
        impl From<$ty> for String {
            fn from(it: $ty) -> String {
                it.to_string()
            }
        }
    };
}
as_text!(Peers);
as_text!(Pin);
impl From<Bytes> for String {
    fn from(it: Bytes) -> String {
        it.to_string()
    }
}

words! {
    /// How the journal is written.
    Wal {
        /// The faster of the two, found by a trial.
        #[default]
        "auto" Auto,
        /// A store into the map, then fdatasync through the ring.
        "mapped" Mapped,
        /// One O_DIRECT write with RWF_DSYNC through the ring.
        "direct" Direct,
    }
    /// How reads are made linearizable.
    ReadMode {
        /// By the leader's lease.
        #[default]
        "lease" Lease,
        /// By asking a majority.
        "read-index" ReadIndex,
    }
    /// How logs are written.
    LogFormat {
        /// For people.
        #[default]
        "human" Human,
        /// One JSON object a line.
        "json" Json,
    }
}

impl From<ReadMode> for raft::ReadMode {
    fn from(mode: ReadMode) -> raft::ReadMode {
        match mode {
            ReadMode::Lease => raft::ReadMode::Lease,
            ReadMode::ReadIndex => raft::ReadMode::ReadIndex,
        }
    }
}
impl From<raft::ReadMode> for ReadMode {
    fn from(reads: raft::ReadMode) -> ReadMode {
        match reads {
            raft::ReadMode::Lease => ReadMode::Lease,
            raft::ReadMode::ReadIndex => ReadMode::ReadIndex,
        }
    }
}
