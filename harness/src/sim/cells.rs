//! Which requests were made, with which options, and what came of them: a cell that no seed reaches is a gap in what is
//! proved, and fails.

use super::calls::{Did, Expect, Saw};
use super::given_up::Left;
use std::collections::BTreeMap;
use wire::Code;
use wire::message::FACTS;

/// How often each was seen.
#[derive(Clone, Default, Debug)]
pub struct Cells(BTreeMap<String, u64>);

/// Every cell: what is asked for, and each outcome that it has.
const ALL: &[(&str, &[&str])] = &[
    ("put", &["done"]),
    ("put for a time", &["done"]),
    ("put if absent", &["done", "version-mismatch"]),
    ("put if absent, for a time", &["done", "version-mismatch"]),
    ("put over a version", &["done", "version-mismatch", "key-unknown"]),
    ("put over a version, for a time", &["done", "version-mismatch", "key-unknown"]),
    ("get", &["line", "key-unknown"]),
    ("delete", &["done", "key-unknown"]),
    ("delete a version", &["done", "version-mismatch", "key-unknown"]),
    ("try shared", &["done", "lock-held"]),
    ("try shared, leased", &["done", "lock-held"]),
    ("try exclusive", &["done", "lock-held"]),
    ("try exclusive, leased", &["done", "lock-held"]),
    ("wait shared", &["done", "lock-timeout"]),
    ("wait shared, leased", &["done", "lock-timeout"]),
    ("wait exclusive", &["done", "lock-held", "lock-timeout"]),
    ("wait exclusive, leased", &["done", "lock-held", "lock-timeout"]),
    ("wait for a lock, given up", &["done", "sequence-stale"]),
    ("wait for a lock, abandoned", &["done", "lock-timeout"]),
    ("wait for a turn in the client", &["lock-held", "lock-timeout"]),
    ("release", &["done", "stale-fence", "not-holder"]),
    ("push of priority 0", &["done"]),
    ("push of priority 1", &["done"]),
    ("push of priority 2", &["done"]),
    ("pop", &["message", "queue-empty"]),
    ("pop, hidden for a short time", &["message", "queue-empty"]),
    ("wait for a message", &["message", "queue-empty"]),
    ("wait for a message, hidden for a short time", &["message", "queue-empty"]),
    ("wait for a message, given up", &["message", "sequence-stale"]),
    ("wait for a message, abandoned", &["message", "queue-empty"]),
    ("pop again", &["message"]),
    ("ask again for a message that is gone", &["message-unknown"]),
    ("ack", &["done", "stale-delivery", "message-unknown"]),
    ("nack", &["done", "stale-delivery", "message-unknown"]),
    ("nack for a time", &["done", "stale-delivery", "message-unknown"]),
    ("reopen", &["done", "session-unknown"]),
    ("close", &["done"]),
    ("call", &["session-unknown"]),
    ("ran out", &["a session", "a lock's lease", "a wait", "a delay", "a visibility", "a line"]),
    ("ran out", &["the room for a line"]),
];

impl Cells {
    /// Counts an answer.
    pub fn count(&mut self, did: &Did, saw: Saw, left: Left) {
        let outcome = match saw {
            Saw::Done { .. } => "done",
            Saw::Line { .. } => "line",
            Saw::Message { .. } => "message",
            Saw::Refused(code) => code.slug(),
            Saw::Unknown => return,
        };
        let is_unknown = saw == Saw::Refused(Code::SessionUnknown) && did.is_call();
        if is_unknown {
            return self.add("call", outcome);
        }
        self.add(asked(did, saw, left), outcome);
        if matches!(saw, Saw::Message { delivery: 2.., .. }) {
            self.add("pop again", outcome);
        }
    }

    /// A client did not send an acquire, since another guard of its own was in the way.
    pub fn own_turn(&mut self, code: Code) {
        self.add("wait for a turn in the client", code.slug());
    }

    /// A stranger's request, right or wrong, was answered.
    pub fn drawn(&mut self, kind: &str, how: &str) {
        self.add(&format!("drawn {kind}"), how);
    }

    /// Something ended by itself.
    pub fn ran_out(&mut self, what: &str) {
        self.add("ran out", what);
    }

    fn add(&mut self, asked: &str, outcome: &str) {
        *self.0.entry(format!("{asked} -> {outcome}")).or_default() += 1;
    }

    /// Adds what another run saw.
    pub fn join(&mut self, other: &Cells) {
        for (cell, times) in &other.0 {
            *self.0.entry(cell.clone()).or_default() += times;
        }
    }

    /// How often each cell was reached, those that never were too.
    pub fn table(&self) -> Vec<(String, u64)> {
        let all = ALL.iter().flat_map(|(asked, outcomes)| {
            outcomes.iter().map(move |outcome| format!("{asked} -> {outcome}"))
        });
        let drawn = FACTS.iter().flat_map(|facts| {
            ["right", "wrong"].map(|how| format!("drawn {} -> {how}", facts.message.name))
        });
        let mut table: BTreeMap<String, u64> = all.chain(drawn).map(|cell| (cell, 0)).collect();
        table.extend(self.0.iter().map(|(cell, times)| (cell.clone(), *times)));
        table.into_iter().collect()
    }

    /// The cells that were never reached.
    pub fn missing(&self) -> Vec<String> {
        self.table().into_iter().filter(|(_, times)| *times == 0).map(|(cell, _)| cell).collect()
    }
}

/// What was asked for, with its options.
fn asked(did: &Did, saw: Saw, left: Left) -> &'static str {
    let with = |is: bool, yes: &'static str, no: &'static str| if is { yes } else { no };
    match *did {
        Did::Put { ttl_ms, expect, .. } => match (expect, ttl_ms > 0) {
            (Expect::Any, false) => "put",
            (Expect::Any, true) => "put for a time",
            (Expect::Absent, false) => "put if absent",
            (Expect::Absent, true) => "put if absent, for a time",
            (Expect::Version(_), false) => "put over a version",
            (Expect::Version(_), true) => "put over a version, for a time",
        },
        Did::Get { .. } => "get",
        Did::Delete { expect, .. } => with(expect == Expect::Any, "delete", "delete a version"),
        Did::Acquire { .. } if left == Left::Cancelled => "wait for a lock, given up",
        Did::Acquire { wait_ms: 1.., .. } if left == Left::Abandoned => {
            "wait for a lock, abandoned"
        }
        Did::Acquire { exclusive, wait_ms, lease_ms, .. } => {
            match (wait_ms > 0, exclusive, lease_ms > 0) {
                (false, false, false) => "try shared",
                (false, false, true) => "try shared, leased",
                (false, true, false) => "try exclusive",
                (false, true, true) => "try exclusive, leased",
                (true, false, false) => "wait shared",
                (true, false, true) => "wait shared, leased",
                (true, true, false) => "wait exclusive",
                (true, true, true) => "wait exclusive, leased",
            }
        }
        Did::Release { .. } => "release",
        Did::Push { priority: 0, .. } => "push of priority 0",
        Did::Push { priority: 1, .. } => "push of priority 1",
        Did::Push { .. } => "push of priority 2",
        Did::Pop { .. } if saw == Saw::Refused(Code::MessageUnknown) => {
            "ask again for a message that is gone"
        }
        Did::Pop { .. } if left == Left::Cancelled => "wait for a message, given up",
        Did::Pop { wait_ms: 1.., .. } if left == Left::Abandoned => "wait for a message, abandoned",
        Did::Pop { wait_ms, visibility_ms, .. } => match (wait_ms > 0, visibility_ms < 1_200) {
            (false, false) => "pop",
            (false, true) => "pop, hidden for a short time",
            (true, false) => "wait for a message",
            (true, true) => "wait for a message, hidden for a short time",
        },
        Did::Ack { .. } => "ack",
        Did::Nack { delay_ms, .. } => with(delay_ms > 0, "nack for a time", "nack"),
        Did::Reopen { .. } => "reopen",
        Did::Close { .. } => "close",
    }
}
