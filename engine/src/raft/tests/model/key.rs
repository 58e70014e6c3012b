//! What makes two nodes, or two messages, the same: all that their future depends on, written down.
//!
//! The nodes of a group are alike, so that a state and the same state with the nodes renamed have the
//! same future: each is written under all [`RENAMINGS`], and the explorer takes the smallest.

use super::node::{Letter, NODES, Node, Unit};
use crate::ids::{Index, NodeId};
use crate::raft::configuration::Seats;
use crate::raft::role::{Answer, Candidate, Follower, Leader, Role};
use crate::raft::tests::disk::Record;
use crate::raft::tests::words::Packet;
use crate::raft::{PersistentState, Raft};
use std::fmt::Write as _;
use std::hash::Hasher;
use wire::peer;

/// Where each node goes, by seat.
pub type Renaming = [u8; NODES as usize];
pub const RENAMINGS: [Renaming; 6] =
    [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

/// A node, under a renaming. What is left out is constant, put back after each input
/// ([`Node::forget_time`]), or only told to people.
pub fn node(node: &Node, to: &Renaming) -> String {
    let Raft {
        group: _,
        node: id,
        incarnation: _,
        election_timeout_min: _,
        election_timeout_max: _,
        heartbeat: _,
        reads: _,
        preference: _,
        random: _,
        clock: _,
        term,
        vote,
        log,
        commit,
        applied,
        snapshot: _,
        durability,
        role,
        loyal_until: _,
        timeout: _,
        campaign_at: _,
        installing,
        links: _,
        told: _,
        now: _,
        limits: _,
        level_max: _,
    } = &node.raft;
    assert!(installing.is_none(), "logs are kept whole");
    let mut key = format!("{} {} {} ", renamed(*id, to), term.0, option(*vote, to));
    write!(key, "{} {} {durability:?} ", commit.0, applied.0).expect("a string takes it");
    let mut index = Index::ZERO.next();
    while let Some(e) = log.entry(index) {
        write!(key, "{:x?} ", e.bytes).expect("a string takes it");
        index = index.next();
    }
    write_role(&mut key, role, to);
    records(&mut key, &node.durable, to);
    for Unit { records: written, held } in &node.units {
        records(&mut key, written, to);
        let mut held: Vec<String> = held.iter().map(|l| letter(l, to)).collect();
        held.sort();
        write!(key, "{held:?} ").expect("a string takes it");
    }
    key
}

fn write_role(key: &mut String, role: &Role, to: &Renaming) {
    match role {
        Role::Follower(Follower { leader, agreed, echo, acknowledged, due, receiving }) => {
            assert!(receiving.is_none(), "logs are kept whole");
            let Answer { acknowledge, reject, received: _ } = due;
            let leader = option(*leader, to);
            write!(key, "F {leader} {agreed} {echo} {acknowledged} {acknowledge} {reject:?} ")
        }
        Role::PreCandidate(_) => panic!("a pre-vote is granted at once"),
        Role::Candidate(Candidate { tally }) => write!(key, "C {:?} ", seats(tally.granted, to)),
        Role::Leader(leader) => return write_leader(key, leader, to),
    }
    .expect("a string takes it");
}

fn write_leader(key: &mut String, leader: &Leader, to: &Renaming) {
    let Leader {
        followers,
        opened,
        since: _,
        confirmed: _,
        agreed: _,
        leased: _,
        stamp: _,
        beat_at: _,
        beat,
        lease_given_up: _,
        transfer: _,
        offer: _,
        asked_at: _,
        making: _,
    } = leader;
    let mut rows: Vec<String> = followers
        .iter()
        .map(|f| {
            let (node, sent) = (renamed(f.node, to), f.sent_after);
            format!("{node} {} {} {:?} {sent} ", f.matched, f.next, f.state)
        })
        .collect();
    rows.sort();
    write!(key, "L {opened} {beat} {} ", rows.concat()).expect("a string takes it");
}

fn records(key: &mut String, records: &[Record], to: &Renaming) {
    key.push('/');
    for record in records {
        match record {
            Record::Vote(term, vote) => write!(key, "V{} {} ", term.0, option(*vote, to)),
            Record::Entry(bytes) => write!(key, "E{bytes:x?} "),
            Record::Truncate(from) => write!(key, "T{from} "),
            Record::Commit(commit) => write!(key, "C{commit} "),
            Record::Snapshot(..) => panic!("logs are kept whole"),
        }
        .expect("a string takes it");
    }
}

/// A message, under a renaming.
pub fn letter(letter: &Letter, to: &Renaming) -> String {
    let Letter { from, to: target, packet } = letter;
    let (from, target) = (renamed(*from, to), renamed(*target, to));
    format!("{from} {target} {} {:x?}", packet.kind.0, nameless(packet))
}

/// A message's bytes without the sender's incarnation, which says no more than its name.
fn nameless(packet: &Packet) -> Vec<u8> {
    let mut bytes = Vec::new();
    match packet.kind {
        peer::Vote::KIND => {
            let m = peer::Vote::decode(&packet.body).expect("a vote");
            peer::Vote { incarnation: [0; 16], ..m }.encode(&mut bytes);
        }
        peer::VoteReply::KIND => {
            let m = peer::VoteReply::decode(&packet.body).expect("an answer");
            peer::VoteReply { incarnation: [0; 16], ..m }.encode(&mut bytes);
        }
        peer::AppendReply::KIND => {
            let m = peer::AppendReply::decode(&packet.body).expect("an answer");
            peer::AppendReply { incarnation: [0; 16], ..m }.encode(&mut bytes);
        }
        _ => bytes.extend_from_slice(&packet.body),
    }
    bytes
}

pub fn renamed(id: NodeId, to: &Renaming) -> u8 {
    to[id.0 as usize - 1]
}

fn option(id: Option<NodeId>, to: &Renaming) -> u8 {
    id.map_or(9, |id| renamed(id, to))
}

pub fn seats(seats: Seats, to: &Renaming) -> [bool; NODES as usize] {
    let mut all = [false; NODES as usize];
    for seat in 0..NODES as usize {
        let mut one = Seats::default();
        one.insert(seat);
        all[to[seat] as usize] = seats.contains_all(one);
    }
    all
}

/// The entries of a log: term and payload (zero for an entry that opens a term).
pub fn entries(restored: &crate::raft::Log) -> Vec<(u8, u8)> {
    let mut entries = Vec::new();
    let mut index = Index::ZERO.next();
    while let Some(e) = restored.entry(index) {
        entries.push((e.header.term.0 as u8, e.payload.first().copied().unwrap_or(0)));
        index = index.next();
    }
    entries
}

/// What a power failure would leave of the log, and the term.
pub fn remembered(restored: &PersistentState) -> (Vec<(u8, u8)>, u8) {
    (entries(&restored.log), restored.term.max(restored.log.last_term()).0 as u8)
}

/// XXH64 of a key, and numbers mixed into one.
pub fn hash(key: &str) -> u64 {
    xxhash_rust::xxh64::xxh64(key.as_bytes(), 0)
}

pub fn mix(a: u64, b: u64) -> u64 {
    let z = (a ^ b.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(0x632b_e59b_d9b4_e019);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A hasher for what is a hash already, or a few small numbers.
#[derive(Default, Clone, Copy)]
pub struct Quick(u64);

impl Hasher for Quick {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.0 = mix(self.0, u64::from(*b));
        }
    }

    fn write_u8(&mut self, n: u8) {
        self.0 = mix(self.0, u64::from(n));
    }

    fn write_u16(&mut self, n: u16) {
        self.0 = mix(self.0, u64::from(n));
    }

    fn write_u32(&mut self, n: u32) {
        self.0 = mix(self.0, u64::from(n));
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = mix(self.0, n);
    }

    fn write_isize(&mut self, n: isize) {
        self.0 = mix(self.0, n as u64);
    }
}
