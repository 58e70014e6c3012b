//! A journal of one group: a live half and a durable half.

use super::cluster::Machine;
use crate::entry;
use crate::ids::{Index, NodeId, Position, Term};
use crate::raft::{Log, PersistentState};
use std::collections::BTreeMap;

/// A record of the journal.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Record {
    Entry(Vec<u8>),
    Truncate(Index),
    Vote(Term, Option<NodeId>),
    Snapshot(Index, Term),
    Commit(Index),
}

/// A disk: what was written, of which a prefix is durable.
#[derive(Default)]
pub struct Disk {
    records: Vec<(u64, Record)>,
    /// The unit that is being filled.
    open: u64,
    /// Units that are durable.
    pub synced: u64,
    /// The unit that is being synced.
    pub syncing: Option<u64>,
    /// Snapshot files: durable at once.
    pub files: BTreeMap<Index, (Term, Vec<u8>)>,
    /// What a restart would find: index to term, above the snapshot.
    shadow: BTreeMap<Index, Term>,
    shadow_base: Option<Index>,
}

impl Disk {
    pub fn new() -> Disk {
        Disk { open: 1, ..Disk::default() }
    }

    /// The unit that holds what is written now.
    pub fn write(&mut self, record: Record) -> Position {
        self.records.push((self.open, record));
        Position(self.open)
    }

    /// The unit whose sync makes everything written so far durable.
    pub fn covers_all(&self) -> u64 {
        self.records.last().map_or(0, |(at, _)| *at)
    }

    /// Begins to sync what was written, unless a sync is under way or nothing was.
    pub fn begin_sync(&mut self) -> bool {
        if self.syncing.is_some() || self.covers_all() < self.open {
            return false;
        }
        self.syncing = Some(self.open);
        self.open += 1;
        true
    }

    pub fn end_sync(&mut self) -> Position {
        let unit = self.syncing.take().expect("a sync is under way");
        for (_, record) in self.records.iter().filter(|(at, _)| *at == unit) {
            match record {
                Record::Entry(bytes) => {
                    let header = entry::read(bytes).expect("an entry was written").header;
                    self.shadow.insert(header.index, header.term);
                }
                Record::Truncate(from) => drop(self.shadow.split_off(from)),
                Record::Snapshot(index, term) if Some(*index) > self.shadow_base => {
                    if self.shadow.get(index) != Some(term) {
                        self.shadow.clear();
                    }
                    self.shadow = self.shadow.split_off(&index.next());
                    self.shadow_base = Some(*index);
                }
                Record::Vote(..) | Record::Commit(_) | Record::Snapshot(..) => {}
            }
        }
        self.synced = unit;
        Position(unit)
    }

    /// Whether a power failure now would leave this entry here.
    pub fn holds(&self, index: Index, term: Term) -> bool {
        Some(index) <= self.shadow_base || self.shadow.get(&index) == Some(&term)
    }

    /// The power fails: what is not synced is gone.
    pub fn lose_power(&mut self) {
        self.syncing = None;
        self.records.retain(|(at, _)| *at <= self.synced);
        self.open = self.synced + 1;
    }

    /// Frees what the newest durable snapshot stands for: what is durable is put in short.
    pub fn reclaim(&mut self, chunk_bytes: usize) {
        let synced = self.synced;
        let live = self.records.iter().filter(|(at, _)| *at > synced).cloned().collect();
        let all = core::mem::replace(&mut self.records, live);
        let durable: Vec<_> = all.into_iter().filter(|(at, _)| *at <= synced).collect();
        let state = Disk { records: durable, ..Disk::default() }.restore(chunk_bytes);
        let (snapshot, log) = (state.snapshot_index(), &state.log);
        let term = log.term_at(snapshot).expect("the log begins at its snapshot");
        let mut short = vec![
            (0, Record::Vote(state.term, state.vote)),
            (0, Record::Snapshot(snapshot, term)),
            (0, Record::Commit(state.commit)),
        ];
        let mut index = log.first_index();
        while let Some(entry) = log.entry(index) {
            short.push((0, Record::Entry(entry.bytes.to_vec())));
            index = index.next();
        }
        short.append(&mut self.records);
        self.records = short;
        self.files = self.files.split_off(&snapshot);
    }

    /// Replays what is there.
    pub fn restore(&self, chunk_bytes: usize) -> PersistentState {
        let mut restored =
            PersistentState { log: Log::new(chunk_bytes), ..PersistentState::default() };
        for (_, record) in &self.records {
            let done = match record {
                Record::Entry(bytes) => restored.on_entry(entry::read(bytes).expect("an entry")),
                Record::Truncate(from) => {
                    cut(&mut restored, *from);
                    Ok(())
                }
                Record::Vote(term, vote) => restored.on_vote(*term, *vote),
                Record::Snapshot(index, term) => {
                    restored.on_snapshot(*index, *term);
                    Ok(())
                }
                Record::Commit(commit) => {
                    restored.on_commit(*commit);
                    Ok(())
                }
            };
            done.expect("the journal tells a story that holds together");
        }
        restored.check().expect("nothing is missing");
        if let Some((_, bytes)) = self.files.get(&restored.snapshot_index()) {
            restored.on_configuration(Machine::restore(bytes).1);
        }
        restored
    }
}

/// The log was cut: the journal hands out only what is alive, this disk what was written.
pub fn cut(restored: &mut PersistentState, from: Index) {
    assert!(from > restored.commit, "what is committed is never cut");
    restored.log.truncate(from);
}
