//! Each node's state and each message is kept once and known by a number, and what an input does to
//! a node's state is computed once: states of the whole are then numbers, and the production code
//! runs only where something new is asked of it.

use super::Scope;
use super::key::{self, Quick, RENAMINGS};
use super::node::{Input, Letter, NODES, Node};
use crate::ids::{Index, NodeId};
use crate::raft::role::Role;
use crate::raft::{Message, RoleName};
use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use wire::peer;

pub type QuickMap<K, V> = HashMap<K, V, BuildHasherDefault<Quick>>;
pub type Hashes = [u64; RENAMINGS.len()];

/// What is checked of a node.
#[derive(Clone, Debug)]
pub struct View {
    pub term: u8,
    pub role: RoleName,
    pub commit: u8,
    /// Term and payload of each entry.
    pub log: Vec<(u8, u8)>,
    /// What a power failure would leave of the log, and of the term.
    pub durable: Vec<(u8, u8)>,
    pub durable_term: u8,
    /// Units that are not durable yet.
    pub pending: u8,
    granted: [bool; NODES as usize],
    matched: [u64; NODES as usize],
}

impl View {
    pub fn leads(&self) -> bool {
        self.role == RoleName::Leader
    }
}

/// What an input led to.
pub struct Outcome {
    pub node: u32,
    pub sent: Vec<u16>,
}

/// An assertion of the production code that did not hold.
pub type Failed = Rc<str>;
type Done = Result<Rc<Outcome>, Failed>;

struct Known {
    node: Node,
    hashes: Hashes,
    view: View,
}

pub struct Space {
    scope: Scope,
    nodes: Vec<Known>,
    by_hash: QuickMap<u64, u32>,
    letters: Vec<Letter>,
    letter_hashes: Vec<Hashes>,
    by_letter: HashMap<Letter, u16>,
    done: QuickMap<(u32, Input), Done>,
    dead: QuickMap<(u32, u16), bool>,
}

impl Space {
    pub fn new(scope: Scope) -> Space {
        Space {
            scope,
            nodes: Vec::new(),
            by_hash: QuickMap::default(),
            letters: Vec::new(),
            letter_hashes: Vec::new(),
            by_letter: HashMap::new(),
            done: QuickMap::default(),
            dead: QuickMap::default(),
        }
    }

    /// The nodes at birth.
    pub fn birth(&mut self) -> [u32; NODES as usize] {
        let scope = self.scope;
        core::array::from_fn(|seat| self.intern(Node::new(NodeId(seat as u32 + 1), scope)))
    }

    pub fn view(&self, node: u32) -> &View {
        &self.nodes[node as usize].view
    }

    pub fn hashes(&self, node: u32) -> &Hashes {
        &self.nodes[node as usize].hashes
    }

    pub fn letter(&self, letter: u16) -> &Letter {
        &self.letters[letter as usize]
    }

    pub fn letter_hashes(&self, letter: u16) -> &Hashes {
        &self.letter_hashes[letter as usize]
    }

    /// How many states of a node there are, how many messages, and how often the replica was run.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.nodes.len(), self.letters.len(), self.done.len())
    }

    /// What this input does to this node.
    pub fn step(&mut self, node: u32, input: Input) -> Done {
        if let Some(done) = self.done.get(&(node, input)) {
            return done.clone();
        }
        let mut next = self.nodes[node as usize].node.clone();
        let letter = match input {
            Input::Deliver(letter) => Some(&self.letters[letter as usize]),
            _ => None,
        };
        let run = catch_unwind(AssertUnwindSafe(|| {
            let mut sent = Vec::new();
            next.step(input, letter, &mut sent);
            (next, sent)
        }));
        let done = match run {
            Ok((next, sent)) => {
                let sent = sent.into_iter().map(|l| self.intern_letter(l)).collect();
                Ok(Rc::new(Outcome { node: self.intern(next), sent }))
            }
            Err(panic) => Err(words(&*panic).into()),
        };
        self.done.insert((node, input), done.clone());
        done
    }

    /// Whether a message can do nothing more to the node that it is for, which stands at `node`.
    pub fn is_dead(&mut self, letter: u16, node: u32) -> bool {
        if let Some(dead) = self.dead.get(&(node, letter)) {
            return *dead;
        }
        let dead = self.is_stale(letter, node)
            || answers_nothing(&self.letters[letter as usize], self.view(node));
        self.dead.insert((node, letter), dead);
        dead
    }

    /// A question of a term that this node has durably left. The replica is asked whether it lets it be;
    /// that its sender may be told of the newer term is left out.
    fn is_stale(&mut self, letter: u16, node: u32) -> bool {
        let Letter { packet, .. } = &self.letters[letter as usize];
        let term = match packet.decode() {
            Message::Vote(m) => m.term,
            Message::Append(m) => m.term,
            _ => return false,
        };
        let left = term < u64::from(self.view(node).durable_term);
        left && self.step(node, Input::Deliver(letter)).is_ok_and(|done| done.node == node)
    }

    fn intern(&mut self, node: Node) -> u32 {
        let hash = key::hash(&key::node(&node, &RENAMINGS[0]));
        if let Some(known) = self.by_hash.get(&hash) {
            return *known;
        }
        let hashes = RENAMINGS.map(|to| key::hash(&key::node(&node, &to)));
        let view = look(&node);
        let number = u32::try_from(self.nodes.len()).expect("few enough to be numbered");
        self.nodes.push(Known { node, hashes, view });
        self.by_hash.insert(hash, number);
        number
    }

    fn intern_letter(&mut self, letter: Letter) -> u16 {
        if let Some(known) = self.by_letter.get(&letter) {
            return *known;
        }
        let number = u16::try_from(self.letters.len()).expect("few enough to be numbered");
        self.letter_hashes.push(RENAMINGS.map(|to| key::hash(&key::letter(&letter, &to))));
        self.letters.push(letter.clone());
        self.by_letter.insert(letter, number);
        number
    }
}

fn words(panic: &(dyn core::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).into())).unwrap_or_default()
}

fn look(node: &Node) -> View {
    let raft = &node.raft;
    let restored = node.restored();
    let (durable, durable_term) = key::remembered(&restored);
    let mut view = View {
        term: raft.term().0 as u8,
        role: raft.role(),
        commit: raft.commit().0 as u8,
        log: key::entries(raft.log()),
        durable,
        durable_term,
        pending: node.units.len() as u8,
        granted: [false; NODES as usize],
        matched: [0; NODES as usize],
    };
    if let Role::Candidate(candidate) = &raft.role {
        view.granted = key::seats(candidate.tally.granted, &RENAMINGS[0]);
    }
    for follower in raft.progress() {
        let Index(matched) = follower.matched;
        view.matched[follower.node.0 as usize - 1] = matched;
    }
    view
}

/// A term that is durable is never left for a lower one, and a node campaigns once in a term.
fn answers_nothing(letter: &Letter, view: &View) -> bool {
    let from = letter.from.0 as usize - 1;
    let body = &letter.packet.body;
    match letter.packet.kind {
        peer::VoteReply::KIND => {
            let m = peer::VoteReply::decode(body).expect("an answer");
            let (term, durable) = (m.term, u64::from(view.durable_term));
            let asks = view.role == RoleName::Candidate && u64::from(view.term) == term;
            let counted = view.granted[from];
            term <= durable && (m.granted == 0 || !asks || counted)
        }
        peer::AppendReply::KIND => {
            let m = peer::AppendReply::decode(body).expect("an answer");
            let (term, durable) = (m.term, u64::from(view.durable_term));
            let leads = view.leads() && u64::from(view.term) == term;
            // A later answer said more, and is still there.
            let surpassed = m.reject == 0 && m.index < view.matched[from];
            term <= durable && (!leads || surpassed)
        }
        _ => false,
    }
}
