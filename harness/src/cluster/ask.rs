//! Asking a node something, one question at a time: plain blocking sockets, every wait bounded.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use wire::message::{self, Hello, Welcome};
use wire::topology::{Node, Placement};
use wire::{Code, Header, Kind};

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The node can't be reached, or is silent.
    #[error("{address}: {why}")]
    Unreachable {
        /// The node's address.
        address: SocketAddr,
        /// What the system says.
        why: io::Error,
    },
    /// The node refused.
    #[error("{address} answered {code:?}: {text}")]
    Refused {
        /// The node's address.
        address: SocketAddr,
        /// The code, if it is one that is known here.
        code: Option<Code>,
        /// What the node says.
        text: String,
    },
    /// The answer is no answer to the question.
    #[error("{address} answered with bytes that don't belong there: {what}")]
    Nonsense {
        /// The node's address.
        address: SocketAddr,
        /// What is wrong.
        what: String,
    },
}

/// Where everything is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Topology {
    /// The placement epoch.
    pub epoch: u64,
    /// How many shards the cluster has.
    pub shards: u32,
    /// The nodes.
    pub nodes: Vec<Node>,
    /// The shards' leaders and replicas.
    pub placement: Vec<Placement>,
}

impl Topology {
    /// The leader of a shard, unless it is not known.
    pub fn leader_of(&self, shard: u32) -> Option<u32> {
        let row = self.placement.iter().find(|row| row.shard == shard)?;
        (row.leader != 0).then_some(row.leader)
    }

    /// Whether every shard has a leader.
    pub fn complete(&self) -> bool {
        self.shards > 0 && (0..self.shards).all(|shard| self.leader_of(shard).is_some())
    }

    /// A node by its id.
    pub fn node(&self, id: u32) -> Option<&Node> {
        self.nodes.iter().find(|node| node.id == id)
    }
}

/// A connection that waits for each answer.
pub struct Ask {
    address: SocketAddr,
    stream: TcpStream,
    buffer: Vec<u8>,
    request: u64,
}

impl Ask {
    /// Connects and says hello to `engine` of the node; every wait lasts at most `wait_max`.
    ///
    /// # Errors
    /// [`AskError`].
    pub fn connect(
        address: SocketAddr,
        engine: u32,
        client: [u8; 16],
        wait_max: Duration,
    ) -> Result<(Ask, Welcome), AskError> {
        let unreachable = |why| AskError::Unreachable { address, why };
        let stream = TcpStream::connect_timeout(&address, wait_max).map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        stream.set_read_timeout(Some(wait_max)).map_err(unreachable)?;
        stream.set_write_timeout(Some(wait_max)).map_err(unreachable)?;
        let mut ask = Ask { address, stream, buffer: Vec::new(), request: 0 };
        let hello = Hello {
            cluster: [0; 16],
            client,
            engine,
            version_min: wire::header::VERSION,
            version_max: wire::header::VERSION,
            name: b"tercet-bench",
            credentials: b"",
        };
        let welcome = ask.call(Hello::KIND, 0, |out| hello.encode(out))?;
        let welcome = ask.decoded(Welcome::KIND, &welcome, Welcome::decode)?;
        Ok((ask, welcome))
    }

    /// Sends one frame and waits for its answer: the kind and the body.
    ///
    /// # Errors
    /// [`AskError`]; an error frame is [`AskError::Refused`].
    pub fn call(
        &mut self,
        kind: Kind,
        shard: u32,
        body: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(Kind, Vec<u8>), AskError> {
        self.tell(kind, shard, body)?;
        self.hear()
    }

    /// Sends one frame and does not wait.
    ///
    /// # Errors
    /// [`AskError::Unreachable`].
    pub fn tell(
        &mut self,
        kind: Kind,
        shard: u32,
        body: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), AskError> {
        self.request += 1;
        let mut frame = Vec::new();
        wire::frame(&mut frame, &Header { shard, ..Header::new(kind, self.request) }, body);
        self.stream.write_all(&frame).map_err(|why| self.unreachable(why))
    }

    /// Waits for the next frame.
    ///
    /// # Errors
    /// [`AskError`]; an error frame is [`AskError::Refused`].
    pub fn hear(&mut self) -> Result<(Kind, Vec<u8>), AskError> {
        loop {
            let split = wire::split(&self.buffer, wire::limits::FRAME_BYTES_MAX);
            let split = split.map_err(|e| self.nonsense(e.to_string()))?;
            if let Some(frame) = split {
                let (kind, body, used) = (frame.header.kind, frame.body.to_vec(), frame.used);
                self.buffer.drain(..used);
                if kind != message::Error::KIND {
                    return Ok((kind, body));
                }
                let error = message::Error::decode(&body);
                let error = error.map_err(|e| self.nonsense(e.to_string()))?;
                let text = String::from_utf8_lossy(error.text).into_owned();
                let code = Code::from_number(error.code);
                return Err(AskError::Refused { address: self.address, code, text });
            }
            let mut some = [0; 4096];
            let got = self.stream.read(&mut some).map_err(|why| self.unreachable(why))?;
            if got == 0 {
                return Err(self.unreachable(io::ErrorKind::UnexpectedEof.into()));
            }
            self.buffer.extend_from_slice(&some[..got]);
        }
    }

    /// Asks where everything is.
    ///
    /// # Errors
    /// [`AskError`].
    pub fn topology(&mut self) -> Result<Topology, AskError> {
        let reply = self
            .call(message::Topology::KIND, 0, |out| message::Topology { known: 0 }.encode(out))?;
        self.decoded(message::TopologyReply::KIND, &reply, |body| {
            let reply = message::TopologyReply::decode(body)?;
            Ok(Topology {
                epoch: reply.epoch,
                shards: reply.shards,
                nodes: wire::topology::read_nodes(reply.nodes)?,
                placement: wire::topology::read_placement(reply.placement)?,
            })
        })
    }

    /// The socket, with nothing unread.
    ///
    /// # Errors
    /// [`AskError::Nonsense`] when the node said something that nobody asked.
    pub fn into_stream(self) -> Result<TcpStream, AskError> {
        if self.buffer.is_empty() {
            return Ok(self.stream);
        }
        Err(self.nonsense(format!("{} bytes that nobody asked for", self.buffer.len())))
    }

    fn decoded<T>(
        &self,
        wanted: Kind,
        reply: &(Kind, Vec<u8>),
        decode: impl FnOnce(&[u8]) -> Result<T, wire::WireError>,
    ) -> Result<T, AskError> {
        if reply.0 != wanted {
            return Err(self.nonsense(format!("kind {:#x} for {:#x}", reply.0.0, wanted.0)));
        }
        decode(&reply.1).map_err(|e| self.nonsense(e.to_string()))
    }

    fn unreachable(&self, why: io::Error) -> AskError {
        AskError::Unreachable { address: self.address, why }
    }

    fn nonsense(&self, what: String) -> AskError {
        AskError::Nonsense { address: self.address, what }
    }
}

/// The status code of `GET path`, every wait bounded.
///
/// # Errors
/// When nobody answers, or not with HTTP.
pub fn http_status(address: SocketAddr, path: &str, wait_max: Duration) -> io::Result<u16> {
    http_get(address, path, wait_max).map(|(status, _)| status)
}

/// Asks a node's HTTP port: the status and the body.
///
/// # Errors
/// When nobody answers, or not with HTTP.
pub fn http_get(address: SocketAddr, path: &str, wait_max: Duration) -> io::Result<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect_timeout(&address, wait_max)?;
    stream.set_read_timeout(Some(wait_max))?;
    stream.set_write_timeout(Some(wait_max))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let body = head.map_or_else(Vec::new, |at| answer[at + 4..].to_vec());
    let line = String::from_utf8_lossy(&answer[..head.unwrap_or(answer.len())]);
    let status: Option<u16> = line.split_whitespace().nth(1).and_then(|code| code.parse().ok());
    let status =
        status.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no HTTP status line"))?;
    Ok((status, body))
}
