//! The parts, each alone.

use super::config;
use super::disk::cut;
use crate::entry::{self, ENTRY_HEADER_BYTES, Entry, EntryHeader, kind};
use crate::ids::{GroupId, Incarnation, Index, NodeId, Position, Term};
use crate::raft::durability::Durability;
use crate::raft::*;
use crate::time::{Duration, Elapsed, Time};
use wire::random::Random;
use wire::{Kind, peer};

const GROUP: GroupId = GroupId(4);

fn entry_bytes(index: u64, term: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let header = EntryHeader {
        group: GROUP,
        kind: Kind(0x30),
        term: Term(term),
        index: Index(index),
        time: Elapsed(index * 10),
        principal: 0,
    };
    entry::write(&header, payload, &mut bytes);
    bytes
}

fn read(bytes: &[u8]) -> Entry<'_> {
    entry::read(bytes).expect("an entry")
}

/// The log as a list: what the real one is held against.
#[derive(Default)]
struct Twin {
    base: (u64, u64),
    entries: Vec<(u64, Vec<u8>)>,
}

impl Twin {
    fn last(&self) -> (u64, u64) {
        let last = self.entries.last();
        (self.base.0 + self.entries.len() as u64, last.map_or(self.base.1, |e| e.0))
    }

    fn agrees(&self, log: &Log) {
        let (last, last_term) = self.last();
        assert_eq!((log.last_index().0, log.last_term().0), (last, last_term));
        assert_eq!(log.first_index().0, self.base.0 + 1);
        assert_eq!(log.term_at(Index(self.base.0)), Some(Term(self.base.1)));
        assert_eq!(log.term_at(Index(last + 1)), None);
        assert!(log.entry(Index(self.base.0)).is_none());
        let mut after: usize = self.entries.iter().map(|e| e.1.len()).sum();
        for (at, (term, bytes)) in self.entries.iter().enumerate() {
            let index = Index(self.base.0 + 1 + at as u64);
            assert_eq!(log.bytes_after(index.prev()), after as u64);
            after -= bytes.len();
            assert_eq!(log.entry(index).expect("it is there").bytes, bytes);
            assert_eq!(log.term_at(index), Some(Term(*term)));
            // A run is what lies side by side, and as long as it can be.
            let end = log.run_end(index, log.last_index(), 300);
            let run = log.bytes(index, end);
            let count = (end.0 - index.0 + 1) as usize;
            let twin: Vec<u8> =
                self.entries[at..at + count].iter().flat_map(|e| e.1.clone()).collect();
            assert_eq!(run, twin);
            assert!(run.len() <= 300 || count == 1);
        }
    }
}

#[test]
fn a_log_is_a_list_of_entries_whatever_is_done_to_it() {
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let mut log = Log::new(400);
        let mut twin = Twin::default();
        for _ in 0..60 {
            let (last, last_term) = twin.last();
            let first = twin.base.0 + 1;
            let any = first + random.draw() % (last + 2 - first);
            match random.draw() % 10 {
                0..=3 => {
                    let mut run = Vec::new();
                    let mut term = last_term.max(1);
                    for n in 0..1 + random.draw() % 9 {
                        term += random.draw() % 2;
                        let large = random.draw().is_multiple_of(20);
                        let length = if large { 700 } else { random.draw() % 60 };
                        let bytes = entry_bytes(last + 1 + n, term, &vec![9; length as usize]);
                        run.extend_from_slice(&bytes);
                        twin.entries.push((term, bytes));
                    }
                    log.extend(&run);
                }
                4..=6 => {
                    let term = last_term + 1;
                    let bytes = entry_bytes(last + 1, term, b"one");
                    log.append(&read(&bytes).header, b"one");
                    twin.entries.push((term, bytes));
                }
                7 => {
                    log.truncate(Index(any));
                    twin.entries.truncate((any - first) as usize);
                }
                8 if any <= last => {
                    log.drop_to(Index(any));
                    let cut: Vec<_> = twin.entries.drain(..=(any - first) as usize).collect();
                    twin.base = (any, cut.last().expect("one is cut").0);
                }
                9 if random.draw().is_multiple_of(4) => {
                    log.reset(Index(last + 5), Term(last_term + 1), Configuration::UNKNOWN);
                    twin = Twin { base: (last + 5, last_term + 1), entries: Vec::new() };
                }
                _ => {}
            }
            twin.agrees(&log);
            for term in 0..last_term + 2 {
                let mut terms = (twin.base.0..=any.min(twin.last().0)).rev();
                let at = |i: u64| log.term_at(Index(i)).expect("in memory");
                let found = terms.find(|i| at(*i).0 <= term).map(Index);
                assert_eq!(log.last_with_term_at_most(Index(any), Term(term)), found);
            }
        }
    }
}

#[test]
fn what_is_kept_is_as_much_as_was_asked_and_hardly_more() {
    let mut log = Log::new(1000);
    for index in 1..=100 {
        log.extend(&entry_bytes(index, 1, &[0; 52]));
    }
    let upto = log.kept_from(550);
    log.drop_to(upto);
    assert_eq!(log.bytes_after(upto), 600);
    assert_eq!(log.kept_from(1 << 20), upto);
}

#[test]
fn a_late_sync_says_nothing_about_what_was_cut() {
    let mut d = Durability::new(Index(4));
    d.on_emitted(Index(9));
    d.on_appended(Position(70));
    d.on_truncated(Index(7));
    d.on_emitted(Index(7));
    d.on_appended(Position(71));
    d.on_synced(Position(70));
    assert_eq!(d.durable(), Index(6));
    d.on_synced(Position(71));
    assert_eq!(d.durable(), Index(7));
}

#[test]
fn a_cut_takes_back_what_was_durable() {
    let mut d = Durability::new(Index(9));
    d.on_truncated(Index(5));
    assert_eq!(d.durable(), Index(4));
    d.on_synced(Position(3));
    assert_eq!(d.durable(), Index(4));
}

#[test]
fn an_installed_snapshot_is_durable_with_its_record() {
    let mut d = Durability::new(Index(9));
    d.on_snapshot(Index(20), Index(5));
    assert_eq!(d.durable(), Index(5));
    d.on_appended(Position(3));
    d.on_synced(Position(3));
    assert_eq!(d.durable(), Index(20));
}

#[test]
fn a_majority_reaches_the_middle_value() {
    let voter = |n| (NodeId(n), Incarnation([0; 16]));
    let reaches = |values: &[u64]| {
        let voters = Configuration::of_voters((1..=values.len() as u32).map(voter));
        voters.majority_reaches(values.iter().copied())
    };
    assert_eq!(reaches(&[7]), 7);
    assert_eq!(reaches(&[7, 3]), 3);
    assert_eq!(reaches(&[7, 3, 5]), 5);
    assert_eq!(reaches(&[7, 3, 5, 1]), 3);
    assert_eq!(reaches(&[1, 9, 9, 2, 8]), 8);
}

#[test]
fn a_configuration_reads_back_and_nothing_else_is_one() {
    let member =
        |n, suffrage| Member { node: NodeId(n), incarnation: Incarnation([9; 16]), suffrage };
    let all = [member(7, Suffrage::Learner), member(2, Suffrage::Voter)];
    let configuration = Configuration::new(all.to_vec());
    let mut bytes = Vec::new();
    configuration.encode(&mut bytes);
    assert_eq!(Configuration::decode(&bytes), Some(configuration.clone()));
    assert_eq!(configuration.members()[0].node, NodeId(2));
    for length in 0..bytes.len() {
        assert_eq!(Configuration::decode(&bytes[..length]), None);
    }
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(Configuration::decode(&longer), None);
    assert_eq!(Configuration::split(&longer), Some((configuration, &[0][..])));
    // A suffrage that is not known, a node twice, nobody who votes.
    for (at, value) in [(8, 3), (4, 7), (8, 2)] {
        let mut bad = bytes.clone();
        bad[at] = value;
        assert_eq!(Configuration::decode(&bad), None, "byte {at}");
    }
    assert_eq!(Configuration::decode(&[0; 4]), None);
    assert_eq!(Configuration::split(&[0; 4]), Some((Configuration::UNKNOWN, &[][..])));
}

#[test]
fn a_journal_that_tells_no_whole_story_is_refused() {
    let (one, two) = (entry_bytes(1, 1, b"a"), entry_bytes(2, 1, b"b"));
    let mut r = PersistentState::default();
    r.on_entry(read(&one)).expect("the first");
    r.on_entry(read(&one)).expect("the same again");
    let gap = r.on_entry(read(&entry_bytes(3, 1, b"c")));
    assert_eq!(gap, Err(RestoreError::Gap { index: Index(3), last: Index(1) }));
    let other = r.on_entry(read(&entry_bytes(1, 1, b"x")));
    assert_eq!(other, Err(RestoreError::Conflict { index: Index(1) }));
    r.on_entry(read(&two)).expect("the second");
    r.on_commit(Index(1));
    cut(&mut r, Index(2));
    r.on_vote(Term(2), None).expect("a new term");
    r.on_vote(Term(2), Some(NodeId(1))).expect("a vote in it");
    assert_eq!(r.on_vote(Term(2), Some(NodeId(2))), Err(RestoreError::Vote { term: Term(2) }));
    assert_eq!(r.on_vote(Term(1), None), Err(RestoreError::Vote { term: Term(1) }));
    assert_eq!(r.check(), Ok(()));
    r.on_commit(Index(3));
    assert_eq!(r.check(), Err(RestoreError::Short { commit: Index(3), last: Index(1) }));
}

#[test]
fn a_later_leaders_entry_of_a_lower_term_may_replace_one_of_a_higher() {
    let mut r = PersistentState::default();
    r.on_entry(read(&entry_bytes(1, 1, b"a"))).expect("the first");
    r.on_entry(read(&entry_bytes(2, 3, b"b"))).expect("of term 3");
    cut(&mut r, Index(2));
    r.on_entry(read(&entry_bytes(2, 2, b"c"))).expect("of term 2, from a leader of term 4");
    assert_eq!(r.log.last_term(), Term(2));
}

#[test]
fn a_snapshot_drops_the_log_up_to_it_and_what_contradicts_it() {
    let mut r = PersistentState::default();
    for index in 1..=5 {
        r.on_entry(read(&entry_bytes(index, 1, b"a"))).expect("in order");
    }
    r.on_snapshot(Index(3), Term(1));
    assert_eq!((r.log.first_index(), r.log.last_index()), (Index(4), Index(5)));
    r.on_snapshot(Index(9), Term(4));
    assert_eq!((r.log.first_index(), r.log.last_index()), (Index(10), Index(9)));
    assert_eq!((r.snapshot_index(), r.commit), (Index(9), Index(9)));
}

fn replica(voters: u32) -> Raft {
    let incarnation = Incarnation([1; 16]);
    let founders = Configuration::of_voters((1..=voters).map(|n| (NodeId(n), incarnation)))
        .with_loyalty(Duration::from_millis(150));
    let config = config(GROUP, (NodeId(1), incarnation), founders);
    Raft::new(config, PersistentState::default(), Time(1000))
}

fn leader_of_one() -> (Raft, Output) {
    let (mut raft, mut out) = (replica(1), Output::default());
    raft.on_tick(Time(1000), &mut out);
    raft.on_appended(Position(1));
    raft.on_synced(Time(2000), Position(1), &mut out);
    assert!(raft.is_leader());
    out.clear();
    (raft, out)
}

#[test]
fn a_leader_takes_so_much_that_is_uncommitted_and_no_more() {
    let (mut raft, mut out) = leader_of_one();
    let payload = vec![0; 1 << 20];
    for size in [1 << 20, 1 << 10, 0] {
        while raft.propose(Kind(0x30), 0, Elapsed(1), &payload[..size]).is_ok() {}
    }
    let held = raft.log.bytes_after(raft.commit);
    let left = crate::limits::UNCOMMITTED_BYTES_MAX as u64 - held;
    assert!(left < ENTRY_HEADER_BYTES as u64, "none goes past it, and nothing is left over");
    let renewals = vec![0; crate::limits::RENEWALS_PER_ENTRY_MAX * 16];
    for _ in 0..2 {
        let own = raft.propose_own(Time(2000), kind::RENEW, &renewals);
        own.expect("its own entries have room beside them");
    }
    raft.flush(Time(3000), &mut out);
    assert!(out.persist.len() > 1, "one record for each run");
    raft.on_appended(Position(2));
    raft.on_synced(Time(4000), Position(2), &mut out);
    assert_eq!(raft.commit(), raft.last_index());
    raft.propose(Kind(0x30), 0, Elapsed(1), &payload).expect("there is room again");
}

#[test]
fn a_groups_clock_never_goes_back() {
    let (mut raft, _) = leader_of_one();
    raft.raise_time(Elapsed(5_000));
    raft.propose(Kind(0x30), 0, Elapsed(4_000), b"a").expect("it leads");
    assert_eq!(raft.log().last_time(), Elapsed(5_000));
    raft.propose(Kind(0x30), 0, Elapsed(6_000), b"b").expect("it leads");
    assert_eq!(raft.log().last_time(), Elapsed(6_000));
}

fn append(entries: &[u8], count: u32) -> Message<'_> {
    Message::Append(peer::Append {
        term: 1,
        prev_index: 0,
        prev_term: 0,
        commit: 0,
        sent_at: 5,
        count,
        entries,
    })
}

#[test]
fn pieces_of_a_snapshot_are_forgotten_when_no_other_comes_though_the_leader_is_heard() {
    let (mut raft, mut out) = (replica(3), Output::default());
    let (term, index, index_term, sent_at, bytes) = (1, 9, 1, 5, &[7; 10][..]);
    let piece = peer::Snapshot { term, index, index_term, sent_at, offset: 0, total: 100, bytes };
    raft.on_message(Time(2000), NodeId(2), Message::Snapshot(piece), &mut out);
    for (seconds, kept) in [(0, true), (9, true), (11, false)] {
        let now = Time(2000) + Duration::from_secs(seconds);
        raft.on_message(now, NodeId(2), append(&[], 0), &mut out);
        raft.flush(now, &mut out);
        assert_eq!(raft.receiving(), kept.then_some((Index(9), Term(1))), "after {seconds} s");
    }
}

#[test]
fn a_message_with_a_damaged_entry_is_as_if_it_were_lost() {
    let (mut raft, mut out) = (replica(3), Output::default());
    let good: Vec<u8> = [entry_bytes(1, 1, b"a"), entry_bytes(2, 1, b"b")].concat();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        raft.on_message(Time(2000), NodeId(2), append(&bad, 2), &mut out);
        raft.flush(Time(2000), &mut out);
        assert!(out.is_empty(), "byte {at}");
    }
    for (entries, count) in [(&good[..], 1), (&good[..], 3), (&good[..60], 2), (&[], 1)] {
        raft.on_message(Time(2000), NodeId(2), append(entries, count), &mut out);
        assert!(out.is_empty());
    }
    raft.on_message(Time(2000), NodeId(2), append(&good, 2), &mut out);
    assert_eq!(raft.last_index(), Index(2));
    // Nor does a configuration that can't be read come in.
    let mut bytes = Vec::new();
    let header = EntryHeader { kind: entry::kind::MEMBERS, ..read(&good).header };
    entry::write(&header, b"nobody", &mut bytes);
    let mut raft = replica(3);
    raft.on_message(Time(2000), NodeId(2), append(&bytes, 1), &mut out);
    assert_eq!(raft.last_index(), Index::ZERO);
}

#[test]
fn what_never_left_a_deposed_leader_is_gone() {
    let (mut raft, mut out) = (replica(3), Output::default());
    let incarnation = [1; 16];
    raft.campaign_at = Time(2000);
    raft.on_tick(Time(2000), &mut out);
    for pre in [1, 0] {
        let m = peer::VoteReply { term: 1, incarnation, pre, granted: 1 };
        raft.on_message(Time(2000), NodeId(2), Message::VoteReply(m), &mut out);
        if pre == 1 {
            raft.on_appended(Position(1));
            raft.on_synced(Time(2000), Position(1), &mut out);
        }
    }
    assert!(raft.is_leader());
    raft.flush(Time(2000), &mut out);
    raft.on_appended(Position(2));
    let index = raft.propose(Kind(0x30), 0, Elapsed(1), b"a").expect("it leads");
    let m =
        peer::AppendReply { term: 7, index: 0, index_term: 0, sent_at: 0, incarnation, reject: 1 };
    raft.on_message(Time(2000), NodeId(2), Message::AppendReply(m), &mut out);
    assert_eq!((raft.role(), raft.last_index()), (RoleName::Follower, index.prev()));
}

#[test]
fn the_heartbeats_of_all_groups_fall_together() {
    let (raft, _) = leader_of_one();
    let mut later = replica(1);
    let mut out = Output::default();
    later.on_tick(Time(30_000_000), &mut out);
    later.on_appended(Position(1));
    later.on_synced(Time(31_000_000), Position(1), &mut out);
    assert_eq!(raft.deadline(), later.deadline());
}

fn piece(index: u64, offset: u64, bytes: &[u8]) -> Message<'_> {
    Message::Snapshot(peer::Snapshot {
        term: 1,
        index,
        index_term: 1,
        sent_at: 5,
        offset,
        total: 4,
        bytes,
    })
}

#[test]
fn a_snapshot_of_what_is_here_is_not_installed_but_taken_as_committed() {
    let (mut raft, mut out) = (replica(3), Output::default());
    let run = [entry_bytes(1, 1, b"a"), entry_bytes(2, 1, b"b"), entry_bytes(3, 1, b"c")].concat();
    raft.on_message(Time(2000), NodeId(2), append(&run, 3), &mut out);
    out.clear();
    raft.on_message(Time(2000), NodeId(2), piece(2, 0, b"1234"), &mut out);
    assert_eq!((out.install, raft.commit(), raft.last_index()), (None, Index(2), Index(3)));
}

#[test]
fn nothing_is_appended_while_a_snapshot_is_being_installed() {
    let (mut raft, mut out) = (replica(3), Output::default());
    raft.on_message(Time(2000), NodeId(2), piece(9, 0, b"12"), &mut out);
    raft.on_message(Time(2000), NodeId(2), piece(9, 2, b"34"), &mut out);
    assert_eq!(out.install.map(|i| i.offset), Some(2));
    out.clear();
    let one = entry_bytes(1, 1, b"a");
    raft.on_message(Time(2000), NodeId(2), append(&one, 1), &mut out);
    assert!(out.persist.is_empty() && raft.last_index() == Index::ZERO);
    // Nor does it campaign: what it restores is not the log that it has.
    raft.on_tick(Time(9_000_000_000), &mut out);
    assert_eq!(raft.role(), RoleName::Follower);
    let (point, members) = ((Index(9), Term(1)), raft.configuration().clone());
    raft.on_snapshot_installed(Time(9_000_000_000), point, members, &mut out);
    assert_eq!((raft.commit(), raft.first_index()), (Index(9), Index(10)));
    assert_eq!(out.persist, [Persist::Snapshot { index: Index(9), term: Term(1) }]);
}

#[test]
fn a_snapshot_that_cannot_be_used_is_received_anew_and_holds_up_no_campaign() {
    let (mut raft, mut out) = (replica(3), Output::default());
    for _ in 0..2 {
        raft.on_message(Time(2000), NodeId(2), piece(9, 0, b"1234"), &mut out);
        assert_eq!(out.install.take().map(|i| i.offset), Some(0));
        raft.on_snapshot_refused();
    }
    raft.on_tick(Time(9_000_000_000), &mut out);
    assert_eq!(raft.role(), RoleName::PreCandidate);
}
