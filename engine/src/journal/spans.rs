//! Where the entries of one group's log are: consecutive ranges of indexes, each with its place.

use crate::ids::Index;
use alloc::vec::Vec;

/// Consecutive indexes at one place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Span<T> {
    /// The first index.
    pub first: Index,
    /// The last index.
    pub last: Index,
    /// Where they are.
    pub place: T,
}

/// The places of a log's entries.
///
/// Invariant: the spans are not empty, ascend, and leave no gap between them. Neighbours at equal
/// places are one span.
#[derive(Clone, Debug)]
pub(super) struct Spans<T> {
    spans: Vec<Span<T>>,
}

impl<T: Copy + PartialEq> Spans<T> {
    pub fn new() -> Spans<T> {
        Spans { spans: Vec::new() }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Span<T>> {
        self.spans.iter()
    }

    /// The first and the last index, unless there is none.
    pub fn range(&self) -> Option<(Index, Index)> {
        Some((self.spans.first()?.first, self.spans.last()?.last))
    }

    /// Adds what follows the last index.
    pub fn push(&mut self, first: Index, last: Index, place: T) {
        assert!(first <= last, "a span is not empty");
        if let Some(end) = self.spans.last_mut() {
            assert!(end.last.next() == first, "spans leave no gap");
            if end.place == place {
                end.last = last;
                return;
            }
        }
        self.spans.push(Span { first, last, place });
    }

    /// Takes away everything from `from` on.
    pub fn truncate(&mut self, from: Index) {
        while let Some(end) = self.spans.last_mut() {
            if end.last < from {
                return;
            }
            if end.first < from {
                end.last = from.prev();
                assert!(end.first <= end.last, "a span is not empty");
                return;
            }
            self.spans.pop();
        }
    }

    /// Takes away everything up to `upto`.
    pub fn release(&mut self, upto: Index) {
        let gone = self.spans.partition_point(|s| s.last <= upto);
        self.spans.drain(..gone);
        if let Some(head) = self.spans.first_mut() {
            head.first = head.first.max(upto.next());
            assert!(head.first <= head.last, "a span is not empty");
        }
    }

    /// Says that what is at `first..=last` is at `place` now.
    pub fn assign(&mut self, first: Index, last: Index, place: T) {
        let from = self.spans.partition_point(|s| s.last < first);
        let to = self.spans.partition_point(|s| s.first <= last);
        assert!(from < to, "only what is there moves");
        let (head, tail) = (self.spans[from], self.spans[to - 1]);
        assert!(head.first <= first && last <= tail.last, "only what is there moves");
        let before = (head.first < first).then(|| Span { last: first.prev(), ..head });
        let after = (last < tail.last).then(|| Span { first: last.next(), ..tail });
        let moved = Span { first, last, place };
        self.spans.splice(from..to, before.into_iter().chain([moved]).chain(after));
        self.merge();
    }

    /// Puts everything that is at `from` to `to`.
    pub fn rename(&mut self, from: T, to: T) {
        self.spans.iter_mut().filter(|s| s.place == from).for_each(|s| s.place = to);
        self.merge();
    }

    fn merge(&mut self) {
        self.spans.dedup_by(|later, earlier| {
            let same = later.place == earlier.place;
            if same {
                earlier.last = later.last;
            }
            same
        });
    }
}
