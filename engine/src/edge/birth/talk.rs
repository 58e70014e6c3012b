//! One conversation between nodes before the birth: whole frames over a blocking socket, with a limit
//! on every wait.

use super::Shared;
use crate::ids::ClusterId;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};
use wire::limits::ERROR_TEXT_BYTES_MAX;
use wire::message::Error;
use wire::peer::{Birth, Nodes, PeerHello};
use wire::{Code, Header, Kind, WireError};

/// How long a founder may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// How long whoever connects may take to say what it wants.
const SPEAK_WITHIN: Duration = Duration::from_secs(2);
/// The longest frame before the birth, in bytes: the nodes of a large cluster.
const FRAME_BYTES_MAX: usize = 1 << 20;
/// Frames in one conversation, at most.
const FRAMES_MAX: usize = 8;

/// Why a node did not say who it is.
#[derive(Debug, thiserror::Error)]
pub enum Silence {
    /// It is not there, or does not speak.
    #[error("{0}")]
    Gone(io::Error),
    /// It wants nothing to do with this node.
    #[error("{text}")]
    Refused {
        /// A [`Code`]'s number.
        code: u16,
        /// What it says.
        text: String,
    },
}

impl From<io::Error> for Silence {
    fn from(e: io::Error) -> Silence {
        Silence::Gone(e)
    }
}

/// Asks the node at `address` who it is, and takes the birth that one of a cluster may tell of.
pub fn ask(shared: &Shared, address: &str) -> Result<PeerHello, Silence> {
    let mut talk = Talk::open(address, ANSWER_WITHIN)?;
    let answer = talk.hello(&shared.hello())?;
    if answer.cluster != ClusterId::NONE.0 {
        // That it tells nothing, or stops half way, is no news.
        let _ = talk.hear_news(shared);
    }
    Ok(answer)
}

/// Asks the node at `address` who it is, and waits for at most `time`.
pub fn ask_within(address: &str, hello: &PeerHello, time: Duration) -> Result<PeerHello, Silence> {
    Talk::open(address, time)?.hello(hello)
}

/// Tells the node at `address` of a birth, and returns once it says that it belongs to the cluster.
pub fn tell(address: &str, hello: &PeerHello, birth: &Birth<'_>) -> Result<(), Silence> {
    tell_all(address, hello, &[], birth)
}

/// [`tell`], after a word on who the cluster's nodes are, if that is known.
pub fn tell_all(
    address: &str,
    hello: &PeerHello,
    nodes: &[u8],
    birth: &Birth<'_>,
) -> Result<(), Silence> {
    let mut talk = Talk::open(address, ANSWER_WITHIN)?;
    talk.hello(hello)?;
    if !nodes.is_empty() {
        talk.say(Nodes::KIND, |b| Nodes { nodes }.encode(b))?;
    }
    talk.say(Birth::KIND, |b| birth.encode(b))?;
    let answer = talk.hear_hello()?;
    if answer.cluster == birth.cluster {
        return Ok(());
    }
    Err(malformed("it did not take the birth"))
}

/// Answers a connection that somebody opened.
pub fn answer(shared: &Shared, stream: TcpStream) {
    let mut talk = match Talk::over(stream, SPEAK_WITHIN) {
        Ok(talk) => talk,
        Err(_) => return,
    };
    for _ in 0..FRAMES_MAX {
        // Whatever goes wrong with a connection ends that connection, and no more.
        if !talk.answer_one(shared).unwrap_or(false) {
            return;
        }
    }
}

fn malformed(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Silence {
    Silence::Gone(io::Error::new(ErrorKind::InvalidData, why))
}

struct Talk {
    stream: TcpStream,
    /// Bytes read; the first `used` belong to the frame that was heard last.
    bytes: Vec<u8>,
    used: usize,
    until: Instant,
    /// The cluster's nodes, if they were heard: the last [`Nodes`].
    nodes: Vec<u8>,
}

impl Talk {
    fn open(address: &str, time: Duration) -> io::Result<Talk> {
        let until = Instant::now() + time;
        let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
        for address in address.to_socket_addrs()? {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            match TcpStream::connect_timeout(&address, left) {
                Ok(stream) => return Talk::over(stream, time),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    fn over(stream: TcpStream, time: Duration) -> io::Result<Talk> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(time))?;
        let until = Instant::now() + time;
        Ok(Talk { stream, bytes: Vec::new(), used: 0, until, nodes: Vec::new() })
    }

    fn hello(&mut self, hello: &PeerHello) -> Result<PeerHello, Silence> {
        self.say(PeerHello::KIND, |b| hello.encode(b))?;
        self.hear_hello()
    }

    fn hear_hello(&mut self) -> Result<PeerHello, Silence> {
        let (header, body) = self.hear()?.map_err(malformed)?;
        if header.kind == Error::KIND {
            let error = Error::view(body).map_err(malformed)?;
            let text = String::from_utf8_lossy(error.text).into_owned();
            return Err(Silence::Refused { code: error.code, text });
        }
        if header.kind != PeerHello::KIND {
            return Err(malformed("it answered something else"));
        }
        PeerHello::view(body).map_err(malformed)
    }

    /// Hears what a node of the cluster says after its hello: who the nodes are, and the birth.
    fn hear_news(&mut self, shared: &Shared) -> io::Result<()> {
        for _ in 0..FRAMES_MAX {
            let Ok((header, body)) = self.hear()? else { return Ok(()) };
            let kind = header.kind;
            let body = body.to_vec();
            self.take_news(shared, kind, &body);
            if kind == Birth::KIND {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Takes a frame that brings news. One that is malformed brings none.
    fn take_news(&mut self, shared: &Shared, kind: Kind, body: &[u8]) {
        match kind {
            Nodes::KIND => self.nodes = Nodes::view(body).map_or(vec![], |m| m.nodes.to_vec()),
            Birth::KIND => {
                if let Ok(birth) = Birth::view(body) {
                    shared.on_birth(&birth, &self.nodes);
                }
            }
            _ => {}
        }
    }

    /// Hears a frame and answers it, unless an answer comes with the next. Says whether to go on.
    fn answer_one(&mut self, shared: &Shared) -> io::Result<bool> {
        let (kind, request) = match self.hear()? {
            Err(e) => {
                let code = match e {
                    WireError::Version { .. } => Code::WrongVersion,
                    WireError::TooLarge { .. } => Code::TooLarge,
                    WireError::Malformed => Code::BadMessage,
                    _ => Code::BadFrame,
                };
                self.refuse(0, code)?;
                return Ok(false);
            }
            Ok((header, body)) => {
                let body = body.to_vec();
                self.take_news(shared, header.kind, &body);
                (header.kind, header.request)
            }
        };
        if kind == Nodes::KIND {
            return Ok(true);
        }
        if kind != PeerHello::KIND && kind != Birth::KIND {
            let mut text = Code::NotReady.advice().to_owned();
            let waits = shared.waits();
            if !waits.is_empty() {
                text = format!("{text}. It waits for {waits}");
            }
            self.refuse_with(request, Code::NotReady, &text)?;
            return Ok(false);
        }
        let hello = shared.hello();
        self.say(PeerHello::KIND, |b| hello.encode(b))?;
        Ok(true)
    }

    fn refuse(&mut self, request: u64, code: Code) -> io::Result<()> {
        self.refuse_with(request, code, code.advice())
    }

    fn refuse_with(&mut self, request: u64, code: Code, text: &str) -> io::Result<()> {
        let text = &text.as_bytes()[..text.len().min(ERROR_TEXT_BYTES_MAX)];
        let error = Error { code: code.number(), retry_ms: 100, node: 0, engine: 0, text };
        let mut out = Vec::new();
        wire::frame(&mut out, &Header::new(Error::KIND, request), |b| error.encode(b));
        self.stream.write_all(&out)
    }

    fn say(&mut self, kind: Kind, body: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut out = Vec::new();
        wire::frame(&mut out, &Header::new(kind, 0), body);
        self.stream.write_all(&out)
    }

    /// Waits for the next frame.
    fn hear(&mut self) -> io::Result<Result<(Header, &[u8]), WireError>> {
        self.bytes.drain(..self.used);
        self.used = 0;
        let (header, used) = loop {
            match wire::split(&self.bytes, FRAME_BYTES_MAX) {
                Ok(Some(frame)) => break (frame.header, frame.used),
                Ok(None) => self.read_more()?,
                Err(e) => return Ok(Err(e)),
            }
        };
        self.used = used;
        Ok(Ok((header, &self.bytes[wire::HEADER_BYTES..used])))
    }

    fn read_more(&mut self) -> io::Result<()> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        let mut piece = [0; 4096];
        let count = self.stream.read(&mut piece)?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.bytes.extend_from_slice(&piece[..count]);
        Ok(())
    }
}
