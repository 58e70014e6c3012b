//! The cluster's nodes: who joins, who leaves, who leads. Blocking calls, each by connections of its own.
//!
//! Asked twice, each of them is done once all the same. So one whose answer was lost is sent again, and a
//! program that was interrupted may simply start over.

pub use crate::watch::{Change, Watch};

use crate::connection::{dial, greet};
use crate::core::Map;
use crate::error::{Error, text_of};
use crate::limits::{ADMIN_ANSWER_MAX, ADMIN_CALL_MAX, CONNECT_MAX, REDIRECTS_AT_ONCE};
use crate::limits::{BACKOFF_MAX, BACKOFF_MIN};
use crate::probe::ask;
use std::net::TcpStream;
use std::time::{Duration, Instant};
use wire::message::{Done, Error as Refusal, Hello, LeaderMove, NodeAdd, NodeDrain, NodeForget};
use wire::message::{Topology as Ask, TopologyReply, Welcome};
use wire::peer::PeerHello;
use wire::topology::{Node, Placement, engine_of_group};
use wire::{Code, Kind};

/// Who a node says it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Present {
    /// Its id.
    pub node: u32,
    /// The incarnation of its data directory; `None` from a node that belongs to a cluster: its
    /// [status](crate::probe()) tells it.
    pub incarnation: Option<[u8; 16]>,
    /// How many engines it has.
    pub engines: u32,
    /// The cluster that it belongs to, if to any.
    pub cluster: Option<[u8; 16]>,
}

/// Where everything is, as the node knows it that knows most.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Topology {
    /// Rises whenever the cluster's nodes change.
    pub epoch: u64,
    /// The cluster's id.
    pub cluster: [u8; 16],
    /// How many shards the cluster has.
    pub shards: u32,
    /// The nodes, by id.
    pub nodes: Vec<Node>,
    /// The shards, in order.
    pub placement: Vec<Placement>,
}

/// A node that is to belong to the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Joiner<'a> {
    /// Its id.
    pub node: u32,
    /// The incarnation of its data directory.
    pub incarnation: [u8; 16],
    /// How many engines it has.
    pub engines: u32,
    /// Where nodes and clients reach it: "host:port".
    pub address: &'a str,
}

/// Whether a node may take the place of another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Joins {
    /// Its id must be new.
    New,
    /// It may take the place of the node of its id, whose data directory is lost.
    InPlace,
}

/// Asks the node at `address` who it is, whether it belongs to a cluster yet or not.
///
/// # Errors
/// [`Error::Connect`] when the node does not answer.
pub fn present(address: &str) -> Result<Present, Error> {
    meet(address).map_err(|why| Error::Connect { tried: format!("{address}: {why}") })
}

fn meet(address: &str) -> Result<Present, String> {
    let stream = dial(address)?;
    stream.set_read_timeout(Some(CONNECT_MAX)).map_err(|e| e.to_string())?;
    let hello = PeerHello {
        cluster: [0; 16],
        incarnation: [0; 16],
        node: 0,
        engine: 0,
        engines: 0,
        version: wire::header::VERSION,
    };
    let said = ask(&stream, &mut Vec::new(), PeerHello::KIND, 0, |out| hello.encode(out));
    let refused = match said {
        Ok((PeerHello::KIND, body)) => {
            let PeerHello { cluster, incarnation, node, engines, .. } =
                PeerHello::decode(&body).map_err(|e| e.to_string())?;
            let cluster = (cluster != [0; 16]).then_some(cluster);
            return Ok(Present { node, incarnation: Some(incarnation), engines, cluster });
        }
        Ok((Refusal::KIND, body)) => text_of(&Refusal::decode(&body).map_err(|e| e.to_string())?),
        Ok((kind, _)) => format!("kind {:#x} came where a hello was due", kind.0),
        Err(why) => why,
    };
    // A node of a cluster speaks with that cluster's nodes alone; to a client it says who it is.
    match open(address, 0) {
        Ok(Open { welcome: Welcome { node, cluster, engines, .. }, .. }) => {
            Ok(Present { node, incarnation: None, engines, cluster: Some(cluster) })
        }
        Err(why) => Err(format!("{why}; as a node it was told: {refused}")),
    }
}

/// Asks the nodes at `addresses` where everything is, all at once, and takes the newest answer of the
/// cluster that the first of them belongs to.
///
/// # Errors
/// [`Error::Connect`] when none of them answers.
pub fn topology(addresses: &[String]) -> Result<Topology, Error> {
    let maps: Vec<Result<Map, String>> = std::thread::scope(|scope| {
        let looks: Vec<_> = (addresses.iter())
            .map(|address| scope.spawn(|| open(address, 0).and_then(|mut node| node.map())))
            .collect();
        looks.into_iter().map(|l| l.join().expect("a look does not panic")).collect()
    });
    let cluster = maps.iter().flatten().map(|map| map.cluster).next();
    let newest =
        maps.iter().flatten().filter(|m| Some(m.cluster) == cluster).max_by_key(|m| m.epoch);
    let Some(map) = newest.cloned() else {
        let tried = addresses.iter().zip(maps);
        let tried = tried.filter_map(|(address, map)| Some(format!("{address}: {}", map.err()?)));
        return Err(Error::Connect { tried: tried.collect::<Vec<_>>().join("; ") });
    };
    Ok(Topology {
        epoch: map.epoch,
        cluster: map.cluster,
        shards: map.shards,
        nodes: map.nodes.into_values().collect(),
        placement: map.placement.into_values().collect(),
    })
}

/// Makes a node one of the cluster's, some of whose nodes are at `addresses`. What it is to keep moves to
/// it afterwards.
///
/// # Errors
/// [`Error::Refused`], [`Error::Deadline`] and [`Error::OutcomeUnknown`] after 20 seconds.
pub fn node_add(addresses: &[String], joiner: &Joiner<'_>, joins: Joins) -> Result<(), Error> {
    let Joiner { node, incarnation, engines, address } = *joiner;
    let replaces = u8::from(joins == Joins::InPlace);
    let address = address.as_bytes();
    let add = NodeAdd { incarnation, node, engines, replaces, address };
    call(addresses, &format!("add node {node}"), 0, NodeAdd::KIND, |out| add.encode(out))
}

/// Says that a node is to keep nothing any more: what it keeps moves away afterwards.
///
/// # Errors
/// As [`node_add`].
pub fn node_drain(addresses: &[String], node: u32) -> Result<(), Error> {
    let drain = NodeDrain { node };
    call(addresses, &format!("drain node {node}"), 0, NodeDrain::KIND, |out| drain.encode(out))
}

/// Ends a drained node's belonging to the cluster. It must not keep a replica any more, which the cluster
/// does not check: see each group's members in the nodes' status first.
///
/// # Errors
/// As [`node_add`].
pub fn node_forget(addresses: &[String], node: u32) -> Result<(), Error> {
    let forget = NodeForget { node };
    call(addresses, &format!("forget node {node}"), 0, NodeForget::KIND, |out| forget.encode(out))
}

/// Has the leader of a group (0 is the cluster's own, shard `s` is group `s + 1`) hand leadership to
/// `node`. Returns once that is under way.
///
/// # Errors
/// As [`node_add`].
pub fn leader_move(addresses: &[String], group: u32, node: u32) -> Result<(), Error> {
    let ask = LeaderMove { group, node };
    let subject = format!("move the lead of group {group} to node {node}");
    call(addresses, &subject, group, LeaderMove::KIND, |out| ask.encode(out))
}

/// A connection to one engine of a node.
pub(crate) struct Open {
    stream: TcpStream,
    rest: Vec<u8>,
    welcome: Welcome,
    /// The request that was sent last.
    request: u64,
}

fn open(address: &str, engine: u32) -> Result<Open, String> {
    let stream = dial(address)?;
    let hello = Hello {
        cluster: [0; 16],
        client: [0; 16],
        engine,
        version_min: wire::header::VERSION,
        version_max: wire::header::VERSION,
        name: b"admin",
        credentials: &[],
    };
    let (welcome, rest) = greet(&stream, &hello)?;
    if welcome.engines == 0 {
        return Err(String::from("the node says that it has no engine"));
    }
    Ok(Open { stream, rest, welcome, request: 0 })
}

impl Open {
    pub(crate) fn ask(
        &mut self,
        kind: Kind,
        within: Duration,
        body: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(Kind, Vec<u8>), String> {
        self.request += 1;
        self.stream.set_read_timeout(Some(within)).map_err(|e| e.to_string())?;
        ask(&self.stream, &mut self.rest, kind, self.request, body)
    }

    fn map(&mut self) -> Result<Map, String> {
        let said = self.ask(Ask::KIND, CONNECT_MAX, |out| Ask { known: 0 }.encode(out))?;
        match said {
            (TopologyReply::KIND, body) => {
                let reply = TopologyReply::decode(&body).map_err(|e| e.to_string())?;
                let map = Map::read(&reply).map_err(|e| e.to_string())?;
                match map.nodes.is_empty() {
                    true => Err(String::from("the node knows no cluster yet")),
                    false => Ok(map),
                }
            }
            (Refusal::KIND, body) => {
                Err(text_of(&Refusal::decode(&body).map_err(|e| e.to_string())?))
            }
            (kind, _) => Err(format!("kind {:#x} came where a topology was due", kind.0)),
        }
    }
}

/// What came of one try.
pub(crate) enum Tried<T> {
    Done(T),
    /// The node at this address leads the group.
    Elsewhere(String),
    /// It was not applied, and may be later.
    NotYet(String),
    /// It may have been applied.
    Unanswered(String),
    Refused(Error),
}

/// Brings a call to the leader of a group.
fn call(
    addresses: &[String],
    subject: &str,
    group: u32,
    kind: Kind,
    body: impl Fn(&mut Vec<u8>),
) -> Result<(), Error> {
    let done = bring(addresses, subject, ADMIN_CALL_MAX, |address| {
        attempt(address, subject, group, (kind, Done::KIND), &body)
    });
    done.map(|_| ())
}

/// Tries until it is done, going from node to node, at most so long.
pub(crate) fn bring<T>(
    addresses: &[String],
    subject: &str,
    within: Duration,
    mut attempt: impl FnMut(&str) -> Tried<T>,
) -> Result<T, Error> {
    let subject = String::from(subject);
    if addresses.is_empty() {
        let what = String::from("no address is given. Name some of the cluster's nodes");
        return Err(Error::Invalid { subject, what });
    }
    let begun = Instant::now();
    let mut leader: Option<String> = None;
    let mut unanswered = false;
    let mut pause = BACKOFF_MIN;
    let (mut turn, mut redirects) = (0, 0);
    loop {
        let address = leader.take().unwrap_or_else(|| {
            turn += 1;
            addresses[(turn - 1) % addresses.len()].clone()
        });
        let last = match attempt(&address) {
            Tried::Done(done) => return Ok(done),
            Tried::Refused(error) => return Err(error),
            Tried::Elsewhere(at) => {
                let why = format!("{address} says that {at} leads");
                leader = Some(at);
                redirects += 1;
                if redirects <= REDIRECTS_AT_ONCE {
                    continue;
                }
                why
            }
            Tried::NotYet(why) => format!("{address}: {why}"),
            Tried::Unanswered(why) => {
                unanswered = true;
                format!("{address}: {why}")
            }
        };
        let waited = begun.elapsed();
        if waited + pause >= within {
            return Err(match unanswered {
                true => Error::OutcomeUnknown { subject, why: last },
                false => Error::Deadline { subject, waited, last },
            });
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(BACKOFF_MAX);
    }
}

/// Asks the engine of a group at a node for something of one kind, to be answered with another. Gives the
/// connection, and the answer's body.
pub(crate) fn attempt(
    address: &str,
    subject: &str,
    group: u32,
    (kind, answer): (Kind, Kind),
    body: impl Fn(&mut Vec<u8>),
) -> Tried<(Open, Vec<u8>)> {
    let opened = open(address, 0).and_then(|node| {
        let engine = engine_of_group(group, node.welcome.engines);
        if engine == 0 { Ok(node) } else { open(address, engine) }
    });
    let mut node = match opened {
        Ok(node) => node,
        Err(why) => return Tried::NotYet(why),
    };
    let said = node.ask(kind, ADMIN_ANSWER_MAX, body);
    let body = match said {
        Ok((kind, body)) if kind == answer => return Tried::Done((node, body)),
        Ok((Refusal::KIND, body)) => body,
        Ok((kind, _)) => return Tried::Unanswered(format!("kind {:#x} is no answer", kind.0)),
        Err(why) => return Tried::Unanswered(why),
    };
    let refusal = match Refusal::decode(&body) {
        Ok(refusal) => refusal,
        Err(error) => return Tried::Unanswered(error.to_string()),
    };
    let text = text_of(&refusal);
    match Code::from_number(refusal.code) {
        Some(Code::NotLeader) => {
            match node.map().map(|map| map.nodes.get(&refusal.node).cloned()) {
                Ok(Some(leader)) => Tried::Elsewhere(leader.address),
                Ok(None) => Tried::NotYet(text),
                Err(why) => Tried::NotYet(why),
            }
        }
        Some(Code::Busy | Code::NotReady | Code::Stopping | Code::DeadlineExceeded) => {
            Tried::NotYet(text)
        }
        // A leader that is deposed says so of calls that it had already begun.
        Some(Code::Unavailable | Code::OutcomeUnknown) => Tried::Unanswered(text),
        // A later version's reason is not one to try again by itself.
        code => Tried::Refused(Error::Refused {
            code: code.unwrap_or(Code::UnknownKind),
            subject: String::from(subject),
            node: String::from(address),
            text,
            detail: None,
        }),
    }
}
