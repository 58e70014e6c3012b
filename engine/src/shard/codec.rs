//! Peer messages: frames to what consensus takes, and what it gives to frames.

use crate::ids::GroupId;
use crate::raft::{Body, Log, Message};
use alloc::vec::Vec;
use wire::peer::{
    Append, AppendReply, Leave, Snapshot, SnapshotReply, TimeoutNow, Vote, VoteReply,
};
use wire::{Header, WireError};

/// Reads a peer's frame. `None`: a kind that is not consensus.
///
/// # Errors
/// [`WireError::Malformed`] when the body is no such message.
pub fn decode<'a>(header: &Header, body: &'a [u8]) -> Result<Option<Message<'a>>, WireError> {
    Ok(Some(match header.kind {
        Vote::KIND => Message::Vote(Vote::view(body)?),
        VoteReply::KIND => Message::VoteReply(VoteReply::view(body)?),
        Append::KIND => Message::Append(Append::view(body)?),
        AppendReply::KIND => Message::AppendReply(AppendReply::view(body)?),
        Snapshot::KIND => Message::Snapshot(Snapshot::view(body)?),
        SnapshotReply::KIND => Message::SnapshotReply(SnapshotReply::view(body)?),
        TimeoutNow::KIND => Message::TimeoutNow(TimeoutNow::view(body)?),
        _ => return Ok(None),
    }))
}

/// Appends a message's frame: entries straight from `log`; `piece` holds a snapshot's piece.
pub fn encode(group: GroupId, body: &Body, log: &Log, piece: &[u8], out: &mut Vec<u8>) {
    let mut frame = |kind, body: &dyn Fn(&mut Vec<u8>)| {
        wire::frame(out, &Header { shard: group.0, ..Header::new(kind, 0) }, body);
    };
    match body {
        Body::Vote(m) => frame(Vote::KIND, &|b| m.encode(b)),
        Body::VoteReply(m) => frame(VoteReply::KIND, &|b| m.encode(b)),
        Body::Append(range) => frame(Append::KIND, &|b| range.message(log).encode(b)),
        Body::AppendReply(m) => frame(AppendReply::KIND, &|b| m.encode(b)),
        Body::Snapshot(m) => frame(Snapshot::KIND, &|b| m.message(piece).encode(b)),
        Body::SnapshotReply(m) => frame(SnapshotReply::KIND, &|b| m.encode(b)),
        Body::TimeoutNow(m) => frame(TimeoutNow::KIND, &|b| m.encode(b)),
        Body::Leave(m) => frame(Leave::KIND, &|b| m.encode(b)),
    }
}
