//! What happens, in words: a line each.

use crate::ids::NodeId;
use crate::raft::{Body, Event, Log, Message, Persist};
use wire::{Kind, peer};

/// A message's bytes, as they would cross a socket.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Packet {
    pub kind: Kind,
    pub body: Vec<u8>,
}

impl Packet {
    /// What leaves a replica with this log; `offered` is the snapshot that it sends pieces of.
    pub fn encode(body: &Body, log: &Log, offered: &[u8]) -> Packet {
        let mut bytes = Vec::new();
        let kind = match body {
            Body::Vote(m) => (m.encode(&mut bytes), peer::Vote::KIND).1,
            Body::VoteReply(m) => (m.encode(&mut bytes), peer::VoteReply::KIND).1,
            Body::Append(m) => (m.message(log).encode(&mut bytes), peer::Append::KIND).1,
            Body::AppendReply(m) => (m.encode(&mut bytes), peer::AppendReply::KIND).1,
            Body::Snapshot(m) => {
                (m.message(&offered[m.range()]).encode(&mut bytes), peer::Snapshot::KIND).1
            }
            Body::SnapshotReply(m) => (m.encode(&mut bytes), peer::SnapshotReply::KIND).1,
            Body::TimeoutNow(m) => (m.encode(&mut bytes), peer::TimeoutNow::KIND).1,
            Body::Leave(m) => (m.encode(&mut bytes), peer::Leave::KIND).1,
        };
        Packet { kind, body: bytes }
    }

    pub fn decode(&self) -> Message<'_> {
        let body = &self.body[..];
        let message = match self.kind {
            peer::Vote::KIND => peer::Vote::decode(body).map(Message::Vote),
            peer::VoteReply::KIND => peer::VoteReply::decode(body).map(Message::VoteReply),
            peer::Append::KIND => peer::Append::decode(body).map(Message::Append),
            peer::AppendReply::KIND => peer::AppendReply::decode(body).map(Message::AppendReply),
            peer::Snapshot::KIND => peer::Snapshot::decode(body).map(Message::Snapshot),
            peer::SnapshotReply::KIND => {
                peer::SnapshotReply::decode(body).map(Message::SnapshotReply)
            }
            peer::TimeoutNow::KIND => peer::TimeoutNow::decode(body).map(Message::TimeoutNow),
            other => panic!("no such message: {other:?}"),
        };
        message.expect("what was encoded is decoded")
    }

    /// The message in a line.
    pub fn describe(&self) -> String {
        if let Ok(leave) = peer::Leave::decode(&self.body)
            && self.kind == peer::Leave::KIND
        {
            return format!("leave, by term {}", leave.term);
        }
        match self.decode() {
            Message::Vote(m) => {
                let name = if m.pre == 1 { "pre-vote" } else { "vote" };
                let asked = if m.transfer == 1 { " asked by the leader" } else { "" };
                format!("{name} term {} log {}@{}{asked}", m.term, m.last_index, m.last_term)
            }
            Message::VoteReply(m) => {
                let name = if m.pre == 1 { "pre-vote" } else { "vote" };
                let granted = if m.granted == 1 { "granted" } else { "refused" };
                format!("{name} {granted} term {}", m.term)
            }
            Message::Append(m) => {
                let (prev, last) = (m.prev_index, m.prev_index + u64::from(m.count));
                let what = match m.count {
                    0 => "heartbeat".to_string(),
                    _ => format!("append {}..{last}", prev + 1),
                };
                format!("{what} after {prev}@{} commit {} term {}", m.prev_term, m.commit, m.term)
            }
            Message::AppendReply(m) if m.reject == 1 => {
                format!("reject probe {}@{} term {}", m.index, m.index_term, m.term)
            }
            Message::AppendReply(m) => format!("durable {} term {}", m.index, m.term),
            Message::Snapshot(m) => {
                let end = m.offset + m.bytes.len() as u64;
                format!("snapshot {}@{} {}..{end} of {}", m.index, m.index_term, m.offset, m.total)
            }
            Message::SnapshotReply(m) => format!("snapshot {} received {}", m.index, m.received),
            Message::TimeoutNow(m) => format!("campaign now term {}", m.term),
        }
    }
}

pub fn describe_event(id: NodeId, event: &Event) -> String {
    match event {
        Event::Leader { term, leader: Some(leader) } if *leader == id => {
            format!("{id} leads term {term}")
        }
        Event::Leader { term, leader: Some(leader) } => {
            format!("{id} follows {leader} in term {term}")
        }
        Event::Leader { term, leader: None } => format!("{id} has no leader in term {term}"),
        Event::Campaign { term } => format!("{id} campaigns in term {term}"),
        Event::SnapshotSent { to } => format!("{id} sends {to} a snapshot"),
    }
}

pub fn describe_persist(id: NodeId, persist: &Persist) -> String {
    match persist {
        Persist::Entries { first, last, last_term } => {
            format!("{id} writes {first}..{last} of term {last_term}")
        }
        Persist::Truncate { from } => format!("{id} cuts from {from}"),
        Persist::Vote { term, vote: Some(vote) } => format!("{id} votes for {vote} in term {term}"),
        Persist::Vote { term, vote: None } => format!("{id} notes term {term}"),
        Persist::Snapshot { index, term } => format!("{id} notes the snapshot at {index}@{term}"),
    }
}
