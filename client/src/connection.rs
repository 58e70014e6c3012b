//! A connection's threads: one makes it and writes, one reads. They carry bytes and decide nothing.
//!
//! Both end when the [`Outbox`] is killed, which shuts the socket, or when the other side closes.

use crate::core::{LinkId, Trouble};
use crate::error::text_of;
use crate::handle::Shared;
use crate::inbox::Inbox;
use crate::limits::{CONNECT_MAX, SILENCE_MAX};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use wire::Header;
use wire::limits::FRAME_BYTES_MAX;
use wire::message::{Error as Refusal, Hello, Welcome};

/// What a connection is to.
pub(crate) struct Target {
    /// "host:port".
    pub address: Arc<str>,
    pub engine: u32,
}

/// Bytes on their way to a connection's writer. Bounded by the connection's credit.
#[derive(Default)]
pub(crate) struct Outbox {
    inner: Mutex<Inner>,
    ready: Condvar,
}

#[derive(Default)]
struct Inner {
    bytes: Vec<u8>,
    killed: bool,
    stream: Option<TcpStream>,
}

impl Outbox {
    /// Takes bytes to be written, and leaves an empty buffer in their place.
    pub fn push(&self, bytes: &mut Vec<u8>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.bytes.is_empty() {
            std::mem::swap(&mut inner.bytes, bytes);
        } else {
            inner.bytes.append(bytes);
        }
        drop(inner);
        self.ready.notify_one();
    }

    /// Shuts the connection: both threads end soon.
    pub fn kill(&self) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.killed = true;
        if let Some(stream) = inner.stream.take() {
            // It may be shut already; then there is nothing left to do.
            let _shut = stream.shutdown(Shutdown::Both);
        }
        drop(inner);
        self.ready.notify_one();
    }

    /// Hands the socket over, for [`Outbox::kill`]; `false` when that came first.
    fn attach(&self, stream: TcpStream) -> bool {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.stream = Some(stream);
        !inner.killed
    }

    /// Waits for bytes and swaps them into `into`, which is empty; `false` once killed.
    fn take(&self, into: &mut Vec<u8>) -> bool {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = |i: &mut Inner| i.bytes.is_empty() && !i.killed;
        let mut inner = self.ready.wait_while(inner, idle).unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut inner.bytes, into);
        !inner.killed
    }
}

/// The life of a connection's writing thread: makes the connection, starts its reader, writes.
pub(crate) fn run(shared: &Arc<Shared>, id: LinkId, to: &Target, outbox: &Arc<Outbox>) {
    let why = match open(shared, to, outbox) {
        Ok((stream, welcome, rest)) => match begin(shared, id, &stream, &welcome, rest) {
            Ok(()) => write_all(stream, outbox),
            Err(why) => why,
        },
        Err(why) => why,
    };
    outbox.kill();
    shared.with(|inner, now| inner.on_closed(now, id, Trouble::world(&why)));
}

/// Tells the core that the connection stands, and starts its reader.
fn begin(
    shared: &Arc<Shared>,
    id: LinkId,
    stream: &TcpStream,
    welcome: &Welcome,
    rest: Vec<u8>,
) -> Result<(), String> {
    let reader = stream.try_clone().map_err(|e| e.to_string())?;
    shared.with(|inner, now| inner.core.on_connected(now, id, welcome));
    let shared = Arc::clone(shared);
    Shared::spawn(&Arc::clone(&shared), "tercet-read", move || {
        let why = read_all(&shared, id, reader, &rest);
        shared.with(|inner, now| inner.on_closed(now, id, why));
    })
}

/// Makes a connection and says hello.
fn open(
    shared: &Arc<Shared>,
    to: &Target,
    outbox: &Outbox,
) -> Result<(TcpStream, Welcome, Vec<u8>), String> {
    let stream = dial(&to.address)?;
    let ours = stream.try_clone().map_err(|e| e.to_string())?;
    if !outbox.attach(ours) {
        return Err(String::from("the client was closed"));
    }
    let hello = shared.with(|inner, _| inner.core.hello(to.engine, &shared.config.name));
    let (welcome, rest) = greet(&stream, &hello)?;
    Ok((stream, welcome, rest))
}

/// Connects to "host:port".
pub(crate) fn dial(address: &str) -> Result<TcpStream, String> {
    let mut last = String::from("the name has no address");
    for target in address.to_socket_addrs().map_err(|e| e.to_string())? {
        match TcpStream::connect_timeout(&target, CONNECT_MAX) {
            Ok(stream) => {
                stream.set_nodelay(true).map_err(|e| e.to_string())?;
                stream.set_write_timeout(Some(SILENCE_MAX)).map_err(|e| e.to_string())?;
                return Ok(stream);
            }
            Err(error) => last = error.to_string(),
        }
    }
    Err(last)
}

/// Says hello and waits for the welcome. Gives back what came after it.
pub(crate) fn greet(
    mut stream: &TcpStream,
    hello: &Hello<'_>,
) -> Result<(Welcome, Vec<u8>), String> {
    let mut bytes = Vec::new();
    wire::frame(&mut bytes, &Header::new(Hello::KIND, 0), |out| hello.encode(out));
    stream.write_all(&bytes).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(CONNECT_MAX)).map_err(|e| e.to_string())?;
    bytes.clear();
    let (header, body, used) = read_frame(stream, &mut bytes)?;
    stream.set_read_timeout(None).map_err(|e| e.to_string())?;
    if header.kind == Refusal::KIND {
        let refusal = Refusal::decode(&body).map_err(|e| e.to_string())?;
        return Err(text_of(&refusal));
    }
    if header.kind != Welcome::KIND {
        return Err(format!("kind {:#x} came where a welcome was due", header.kind.0));
    }
    let welcome = Welcome::decode(&body).map_err(|e| e.to_string())?;
    if !(wire::header::VERSION..=wire::header::PROTOCOL_MAX).contains(&welcome.version) {
        return Err(format!("the node chose protocol version {}", welcome.version));
    }
    bytes.drain(..used);
    Ok((welcome, bytes))
}

/// Reads until a whole frame is at the front of `bytes`: its header, its body, and its length.
pub(crate) fn read_frame(
    mut stream: &TcpStream,
    bytes: &mut Vec<u8>,
) -> Result<(Header, Vec<u8>, usize), String> {
    let mut piece = [0u8; 4096];
    loop {
        if let Some(frame) = wire::split(bytes, FRAME_BYTES_MAX).map_err(|e| e.to_string())? {
            return Ok((frame.header, frame.body.to_vec(), frame.used));
        }
        match stream.read(&mut piece).map_err(|e| e.to_string())? {
            0 => return Err(String::from("the node closed the connection")),
            n => bytes.extend_from_slice(&piece[..n]),
        }
    }
}

fn write_all(mut stream: TcpStream, outbox: &Outbox) -> String {
    let mut bytes = Vec::new();
    loop {
        if !outbox.take(&mut bytes) {
            return String::from("the connection was given up");
        }
        if let Err(error) = stream.write_all(&bytes) {
            return error.to_string();
        }
        bytes.clear();
    }
}

fn read_all(shared: &Arc<Shared>, id: LinkId, stream: TcpStream, rest: &[u8]) -> Trouble {
    let mut inbox = Inbox::new(rest);
    loop {
        let read = shared
            .with(|inner, now| inbox.frames(|header, body| inner.on_frame(now, id, header, &body)));
        if let Err(error) = read {
            return Trouble::Malformed(error);
        }
        if let Err(why) = inbox.read(&stream) {
            return Trouble::world(&why);
        }
    }
}
