//! A shard's lines, as the twin has them: in the order in which they were written, which is that of eviction.

use super::{Answer, DETAILS, LINE_OVERHEAD_BYTES, Line, Stood, Twin, number};
use crate::sim::calls::Expect;
use wire::Code;

impl Twin {
    /// Whether a line is as it is expected to be.
    fn meets(&self, key: &[u8], expect: Expect) -> Result<Option<usize>, Answer> {
        let at = self.lines.iter().position(|line| line.key == key);
        let other = |at: usize| {
            let stood = (self.level >= DETAILS).then(|| Stood::Version(self.lines[at].version));
            Err(Answer::Refused(Code::VersionMismatch, stood))
        };
        match (expect, at) {
            (Expect::Any, _) | (Expect::Absent, None) => Ok(at),
            (Expect::Absent, Some(at)) => other(at),
            (Expect::Version(_), None) => Err(Answer::Refused(Code::KeyUnknown, None)),
            (Expect::Version(version), Some(at)) => {
                match self.is(self.lines[at].version, version) {
                    true => Ok(Some(at)),
                    false => other(at),
                }
            }
        }
    }

    pub(super) fn put(&mut self, key: &[u8], bytes: &[u8], ttl_ms: u32, expect: Expect) -> Answer {
        let (value, cost) = (number(bytes), key.len() + bytes.len() + LINE_OVERHEAD_BYTES);
        if cost > self.lines_bytes_max {
            return Answer::Refused(Code::OverBudget, None);
        }
        match self.meets(key, expect) {
            Err(refused) => return refused,
            Ok(Some(at)) => drop(self.lines.remove(at)),
            Ok(None) => {}
        }
        let (version, span) = (self.token(), self.span(ttl_ms));
        self.lines.push(Line { key: key.to_vec(), version, value, cost, span });
        self.note_line(key);
        while self.lines.iter().map(|line| line.cost).sum::<usize>() > self.lines_bytes_max {
            self.ran_out.insert("the room for a line");
            let oldest = self.lines.remove(0);
            self.note_line(&oldest.key);
        }
        Answer::Done(Some(version))
    }

    pub(super) fn delete(&mut self, key: &[u8], expect: Expect) -> Answer {
        match self.meets(key, expect) {
            Err(refused) => refused,
            Ok(None) => Answer::Refused(Code::KeyUnknown, None),
            Ok(Some(at)) => {
                let line = self.lines.remove(at);
                self.note_line(key);
                Answer::Done(Some(line.version))
            }
        }
    }

    /// A line changed.
    pub(super) fn note_line(&mut self, key: &[u8]) {
        let line = self.lines.iter().find(|line| line.key == key);
        let is = line.map(|line| (line.version, line.value));
        self.past.entry(key.to_vec()).or_default().push((self.now, is));
    }
}
