//! A look at one node: whether it answers, how fast, and what it says of itself.

use crate::connection::{dial, greet, read_frame};
use crate::error::{Error, text_of};
use crate::limits::CONNECT_MAX;
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};
use wire::message::{Error as Refusal, Heartbeat, Hello, Status, StatusReply, Welcome};
use wire::{Header, Kind};

/// What one node answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Probe {
    /// The node's id.
    pub node: u32,
    /// The cluster's id.
    pub cluster: [u8; 16],
    /// How many engines the node has.
    pub engines: u32,
    /// How many shards the cluster has.
    pub shards: u32,
    /// The fastest of three round trips of a small frame.
    pub round_trip: Duration,
    /// The node's state as JSON; `None` when it does not tell.
    pub status: Option<String>,
}

/// Looks at one node, by a connection of its own.
///
/// # Errors
/// [`Error::Connect`] when the node does not answer.
pub fn probe(address: &str) -> Result<Probe, Error> {
    look(address).map_err(|why| Error::Connect { tried: format!("{address}: {why}") })
}

fn look(address: &str) -> Result<Probe, String> {
    let stream = dial(address)?;
    let hello = Hello {
        cluster: [0; 16],
        client: [0; 16],
        engine: 0,
        version_min: wire::header::VERSION,
        version_max: wire::header::VERSION,
        name: b"probe",
        credentials: &[],
    };
    let (welcome, mut rest) = greet(&stream, &hello)?;
    let Welcome { node, cluster, engines, shards, .. } = welcome;
    stream.set_read_timeout(Some(CONNECT_MAX)).map_err(|e| e.to_string())?;
    let mut round_trip = Duration::MAX;
    for request in 1..=3 {
        let begun = Instant::now();
        let session = [0; 16];
        ask(&stream, &mut rest, Heartbeat::KIND, request, |out| {
            Heartbeat { session }.encode(out);
        })?;
        round_trip = round_trip.min(begun.elapsed());
    }
    let (kind, body) =
        ask(&stream, &mut rest, Status::KIND, 4, |out| Status { reserved: 0 }.encode(out))?;
    let status = (kind == StatusReply::KIND)
        .then(|| StatusReply::decode(&body).map(|s| String::from_utf8_lossy(s.json).into_owned()))
        .transpose()
        .map_err(|e| e.to_string())?;
    Ok(Probe { node, cluster, engines, shards, round_trip, status })
}

/// Sends a frame and waits for its answer. An error that a node answers with is an answer, too.
pub(crate) fn ask(
    mut stream: &TcpStream,
    rest: &mut Vec<u8>,
    kind: Kind,
    request: u64,
    body: impl FnOnce(&mut Vec<u8>),
) -> Result<(Kind, Vec<u8>), String> {
    let mut bytes = Vec::new();
    wire::frame(&mut bytes, &Header::new(kind, request), body);
    stream.write_all(&bytes).map_err(|e| e.to_string())?;
    loop {
        let (header, body, used) = read_frame(stream, rest)?;
        rest.drain(..used);
        if header.request == request {
            return Ok((header.kind, body));
        }
        if header.request == 0 && header.kind == Refusal::KIND {
            let refusal = Refusal::decode(&body).map_err(|e| e.to_string())?;
            return Err(text_of(&refusal));
        }
    }
}
