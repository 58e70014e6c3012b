//! Watching where everything is: a node tells it as it changes. A blocking reader with a connection of its own.

use crate::connection::{dial, greet};
use crate::error::{Error, text_of};
use crate::limits::{CONNECT_MAX, SILENCE_MAX, WATCH_BEAT};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use wire::limits::FRAME_BYTES_MAX;
use wire::message::{Error as Refusal, Heartbeat, Hello, PushesRead, TopologyPush};
use wire::message::{Watch as Subscribe, Watching};
use wire::topology::{Node, Placement, read_nodes, read_placement};
use wire::{Code, Header, Kind};

/// The request that subscribes.
const SUBSCRIPTION: u64 = 1;
/// The request id of what is said afterwards.
const AFTERWARDS: u64 = 2;
/// Pushes that may be unread.
const CREDIT: u32 = 32;

/// What changed, as the node that tells it knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// This node tells from now on.
    Told {
        /// Its id.
        node: u32,
        /// Where it is.
        address: String,
    },
    /// A node belongs to the cluster, or is elsewhere now.
    Node(Node),
    /// A node belongs to it no more.
    Gone(Node),
    /// A shard is led or kept by others.
    Shard {
        /// How it was; none: nothing was known of it.
        was: Option<Placement>,
        /// How it is. Leader 0: none is known.
        is: Placement,
    },
}

/// Watches where everything is. A node that falls silent is left, and another one is asked: what it tells then is
/// compared with what was known.
///
/// ```no_run
/// let mut watch = client::admin::Watch::new(vec!["127.0.0.1:7400".into()]);
/// loop {
///     for change in watch.next(std::time::Duration::from_secs(60))? {
///         println!("{change:?}");
///     }
/// }
/// # Ok::<(), client::Error>(())
/// ```
pub struct Watch {
    addresses: Vec<String>,
    /// Whose turn it is to be asked.
    turn: usize,
    told_by: Option<Teller>,
    /// The last push that was read.
    cursor: u64,
    nodes: BTreeMap<u32, Node>,
    placement: BTreeMap<u32, Placement>,
}

/// The connection to the node that tells.
struct Teller {
    stream: TcpStream,
    bytes: Vec<u8>,
    /// When it was heard last, and asked for a sign of life.
    heard: Instant,
    beat: Instant,
}

impl Watch {
    /// Watches at the first of `addresses` that answers.
    pub fn new(addresses: Vec<String>) -> Watch {
        let (nodes, placement) = (BTreeMap::new(), BTreeMap::new());
        Watch { addresses, turn: 0, told_by: None, cursor: 0, nodes, placement }
    }

    /// The nodes, as far as they are known.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// Where each shard is, as far as that is known.
    pub fn placement(&self) -> impl Iterator<Item = &Placement> {
        self.placement.values()
    }

    /// Waits for what changes next, at most so long. None of it in that time: an empty list.
    ///
    /// # Errors
    /// [`Error::Connect`] when none of the nodes answers; it may be called again.
    pub fn next(&mut self, within: Duration) -> Result<Vec<Change>, Error> {
        let until = Instant::now() + within;
        let mut changes = Vec::new();
        let mut tried: Vec<String> = Vec::new();
        while changes.is_empty() {
            let Some(teller) = self.told_by.as_mut() else {
                let address = self.address(&tried)?;
                match self.subscribe(&address) {
                    Ok(node) => changes.push(Change::Told { node, address }),
                    Err(why) => tried.push(format!("{address}: {why}")),
                }
                continue;
            };
            match teller.hear() {
                Ok(Some((header, body))) => match self.on_frame(&header, &body, &mut changes) {
                    Ok(()) => {}
                    Err(_) => self.told_by = None,
                },
                Ok(None) if Instant::now() >= until => break,
                Ok(None) => {}
                Err(_) => self.told_by = None,
            }
        }
        Ok(changes)
    }

    /// The next node to be asked: one of those that were named, or that are known.
    fn address(&mut self, tried: &[String]) -> Result<String, Error> {
        let known = self.nodes.values().map(|node| node.address.clone());
        let mut all = self.addresses.clone();
        all.extend(known.filter(|known| !self.addresses.contains(known)));
        if tried.len() >= all.len() {
            return Err(Error::Connect { tried: tried.join("; ") });
        }
        self.turn += 1;
        Ok(all[(self.turn - 1) % all.len()].clone())
    }

    fn subscribe(&mut self, address: &str) -> Result<u32, String> {
        let stream = dial(address)?;
        let hello = Hello {
            cluster: [0; 16],
            client: [0; 16],
            engine: 0,
            version_min: wire::header::VERSION,
            version_max: wire::header::VERSION,
            name: b"watch",
            credentials: &[],
        };
        let (welcome, bytes) = greet(&stream, &hello)?;
        let now = Instant::now();
        let mut teller = Teller { stream, bytes, heard: now, beat: now };
        let subscribe = Subscribe { cursor: self.cursor, credit: CREDIT };
        teller.say(SUBSCRIPTION, Subscribe::KIND, |out| subscribe.encode(out))?;
        let until = now + CONNECT_MAX;
        let said = loop {
            match teller.hear()? {
                Some(said) => break said,
                None if Instant::now() >= until => return Err(String::from("it does not answer")),
                None => {}
            }
        };
        match said {
            (header, _) if header.kind == Watching::KIND => {
                self.told_by = Some(teller);
                Ok(welcome.node)
            }
            (header, body) if header.kind == Refusal::KIND => {
                let refusal = Refusal::decode(&body).map_err(|e| e.to_string())?;
                match Code::from_number(refusal.code) {
                    Some(Code::UnknownKind) => {
                        Err(String::from("it is of a version that can't be watched"))
                    }
                    _ => Err(text_of(&refusal)),
                }
            }
            (header, _) => {
                Err(format!("kind {:#x} came where a subscription was due", header.kind.0))
            }
        }
    }

    fn on_frame(
        &mut self,
        header: &Header,
        body: &[u8],
        changes: &mut Vec<Change>,
    ) -> Result<(), String> {
        if header.kind == Refusal::KIND {
            return Err(text_of(&Refusal::decode(body).map_err(|e| e.to_string())?));
        }
        if header.kind != TopologyPush::KIND || header.request != SUBSCRIPTION {
            return Ok(());
        }
        let push = TopologyPush::decode(body).map_err(|e| e.to_string())?;
        let nodes = read_nodes(push.nodes).map_err(|e| e.to_string())?;
        let placement = read_placement(push.placement).map_err(|e| e.to_string())?;
        self.cursor = push.cursor;
        self.learn(nodes, placement, changes);
        let (subscription, cursor) = (SUBSCRIPTION, push.cursor);
        let teller = self.told_by.as_mut().ok_or("nobody tells")?;
        teller.say(AFTERWARDS, PushesRead::KIND, |out| {
            PushesRead { subscription, cursor }.encode(out)
        })
    }

    /// Compares what is told with what is known. Where all nodes are told, those that are not have gone.
    fn learn(&mut self, nodes: Vec<Node>, placement: Vec<Placement>, changes: &mut Vec<Change>) {
        if !nodes.is_empty() {
            let told: BTreeMap<u32, Node> = nodes.into_iter().map(|n| (n.id, n)).collect();
            let was = std::mem::replace(&mut self.nodes, told);
            let new = self.nodes.values().filter(|node| was.get(&node.id) != Some(node));
            changes.extend(new.cloned().map(Change::Node));
            let gone = was.into_values().filter(|node| !self.nodes.contains_key(&node.id));
            changes.extend(gone.map(Change::Gone));
        }
        for is in placement {
            let was = self.placement.insert(is.shard, is.clone());
            if was.as_ref() != Some(&is) {
                changes.push(Change::Shard { was, is });
            }
        }
    }
}

impl Teller {
    fn say(
        &mut self,
        request: u64,
        kind: Kind,
        body: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), String> {
        let mut bytes = Vec::new();
        wire::frame(&mut bytes, &Header::new(kind, request), body);
        self.stream.write_all(&bytes).map_err(|e| e.to_string())
    }

    /// The next frame, if one comes soon. Asks for a sign of life now and then.
    fn hear(&mut self) -> Result<Option<(Header, Vec<u8>)>, String> {
        if let Some(frame) = wire::split(&self.bytes, FRAME_BYTES_MAX).map_err(|e| e.to_string())? {
            let (header, body, used) = (frame.header, frame.body.to_vec(), frame.used);
            self.bytes.drain(..used);
            return Ok(Some((header, body)));
        }
        if self.heard.elapsed() >= SILENCE_MAX {
            return Err(String::from("it is silent"));
        }
        if self.beat.elapsed() >= WATCH_BEAT {
            self.beat = Instant::now();
            let session = [0; 16];
            self.say(AFTERWARDS, Heartbeat::KIND, |out| Heartbeat { session }.encode(out))?;
        }
        self.stream.set_read_timeout(Some(WATCH_BEAT / 4)).map_err(|e| e.to_string())?;
        let mut piece = [0u8; 4096];
        match self.stream.read(&mut piece) {
            Ok(0) => Err(String::from("the node closed the connection")),
            Ok(n) => {
                self.heard = Instant::now();
                self.bytes.extend_from_slice(&piece[..n]);
                Ok(None)
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
            Err(e) if e.kind() == ErrorKind::Interrupted => Ok(None),
            Err(e) => Err(e.to_string()),
        }
    }
}
