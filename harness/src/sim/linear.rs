//! Linearizability by search: is there an order of all calls, each within its call and its answer, in
//! which a simple sequential thing would have answered the same?
//!
//! # How it works
//!
//! The algorithm of Wing and Gong as improved by Lowe: calls and answers lie in a list in order of time. The
//! first call whose step is possible is taken out with its answer; when an answer comes up whose call was
//! not taken, the last choice is undone. A set of taken calls together with a state is tried once only. A call
//! whose outcome nobody knows has its answer at the end of time: it may be taken anywhere, or never.
//!
//! # Sources
//!
//! Wing and Gong, Testing and Verifying Concurrent Objects, 1993. Lowe, Testing for Linearizability, 2017.

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;

/// Steps of one search. A history that takes more is a failure too: nothing was shown.
const STEPS_MAX: u64 = 20_000_000;

/// A sequential thing.
pub trait Model: Clone + Eq + Hash {
    /// A call with its outcome.
    type Call: Debug;
    /// The thing after the call, if the call could have come to its outcome now.
    fn step(&self, call: &Self::Call) -> Option<Self>;
}

/// A call, and between which moments it took effect.
#[derive(Clone, Debug)]
pub struct Call<C> {
    /// When it was made.
    pub invoked: u64,
    /// When it was answered; none = perhaps never, and perhaps it never took effect.
    pub replied: Option<u64>,
    /// What it was, and what came of it.
    pub what: C,
}

/// Searches for an order of `calls` that begins with `start`.
///
/// # Errors
/// The call that no order explains, in words.
pub fn linearize<M: Model>(start: M, calls: &[Call<M::Call>]) -> Result<(), String> {
    let mut list = List::new(calls);
    let must = calls.iter().filter(|call| call.replied.is_some()).count();
    let (mut state, mut taken, mut taken_must) = (start, Taken::new(calls.len()), 0);
    let mut choices: Vec<(usize, M)> = Vec::new();
    let mut tried: HashSet<(Taken, M)> = HashSet::new();
    let (mut at, mut steps, mut farthest) = (list.first(), 0, None);
    while taken_must < must {
        steps += 1;
        if steps > STEPS_MAX {
            return Err(format!("no order was found in {STEPS_MAX} steps"));
        }
        let event = at.expect("before the last answer there is a call to take, or that answer");
        if let Event::Call(call) = list.event(event) {
            let next = state.step(&calls[call].what).filter(|next| {
                taken.insert(call);
                let is_new = tried.insert((taken.clone(), next.clone()));
                taken.remove(call);
                is_new
            });
            let Some(next) = next else {
                at = list.after(event);
                continue;
            };
            taken.insert(call);
            taken_must += usize::from(calls[call].replied.is_some());
            choices.push((call, std::mem::replace(&mut state, next)));
            list.take(call);
            at = list.first();
            continue;
        }
        // An answer whose call was not taken: the last choice was wrong, or there is no order.
        farthest = farthest.max(Some(event));
        let Some((call, before)) = choices.pop() else {
            let farthest = farthest.expect("it was just set");
            let Event::Reply(call) = list.event(farthest) else { unreachable!("answers only") };
            return Err(format!("no order explains {:?}", calls[call]));
        };
        state = before;
        taken.remove(call);
        taken_must -= usize::from(calls[call].replied.is_some());
        list.give_back(call);
        at = list.after(list.call_at(call));
    }
    Ok(())
}

/// Which calls are taken, a bit each.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Taken(Vec<u64>);

impl Taken {
    fn new(calls: usize) -> Taken {
        Taken(vec![0; calls.div_ceil(64)])
    }

    fn insert(&mut self, call: usize) {
        self.0[call / 64] |= 1 << (call % 64);
    }

    fn remove(&mut self, call: usize) {
        self.0[call / 64] &= !(1 << (call % 64));
    }
}

#[derive(Clone, Copy)]
enum Event {
    Call(usize),
    Reply(usize),
}

/// Calls and answers in order of time, from which pairs are taken and to which they are given back, last
/// first.
struct List {
    events: Vec<Event>,
    /// Where each call and its answer are.
    places: Vec<(usize, Option<usize>)>,
    /// The neighbours of each event, one further for the head: 0 is before the first, and after the last.
    next: Vec<usize>,
    previous: Vec<usize>,
}

impl List {
    fn new<C>(calls: &[Call<C>]) -> List {
        let mut order: Vec<(u64, bool, usize)> = Vec::with_capacity(2 * calls.len());
        for (at, call) in calls.iter().enumerate() {
            // At one moment calls come first: they may then have been under way at once.
            order.push((call.invoked, false, at));
            order.extend(call.replied.map(|replied| (replied, true, at)));
        }
        order.sort_unstable();
        let mut places = vec![(0, None); calls.len()];
        let mut events = Vec::with_capacity(order.len());
        for (at, (_, is_reply, call)) in order.into_iter().enumerate() {
            events.push(if is_reply { Event::Reply(call) } else { Event::Call(call) });
            if is_reply { places[call].1 = Some(at) } else { places[call].0 = at }
        }
        let count = events.len();
        let next = (0..=count).map(|at| (at + 1) % (count + 1)).collect();
        let previous = (0..=count).map(|at| (at + count) % (count + 1)).collect();
        List { events, places, next, previous }
    }

    fn first(&self) -> Option<usize> {
        self.next[0].checked_sub(1)
    }

    fn after(&self, event: usize) -> Option<usize> {
        self.next[event + 1].checked_sub(1)
    }

    fn event(&self, at: usize) -> Event {
        self.events[at]
    }

    fn call_at(&self, call: usize) -> usize {
        self.places[call].0
    }

    fn take(&mut self, call: usize) {
        let (called, replied) = self.places[call];
        for at in [Some(called), replied].into_iter().flatten() {
            let (before, after) = (self.previous[at + 1], self.next[at + 1]);
            self.next[before] = after;
            self.previous[after] = before;
        }
    }

    fn give_back(&mut self, call: usize) {
        let (called, replied) = self.places[call];
        for at in [replied, Some(called)].into_iter().flatten() {
            let (before, after) = (self.previous[at + 1], self.next[at + 1]);
            self.next[before] = at + 1;
            self.previous[after] = at + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A register of one number.
    #[derive(Clone, PartialEq, Eq, Hash)]
    struct Register(u64);

    #[derive(Clone, Copy, Debug)]
    enum Did {
        Write(u64),
        Read(u64),
    }

    impl Model for Register {
        type Call = Did;
        fn step(&self, call: &Did) -> Option<Register> {
            match *call {
                Did::Write(value) => Some(Register(value)),
                Did::Read(value) => (value == self.0).then(|| self.clone()),
            }
        }
    }

    fn call(what: Did, invoked: u64, replied: u64) -> Call<Did> {
        Call { invoked, replied: Some(replied), what }
    }

    fn judge(calls: &[Call<Did>]) -> Result<(), String> {
        linearize(Register(0), calls)
    }

    use Did::{Read, Write};

    #[test]
    fn calls_at_once_may_take_effect_in_either_order() {
        let reads = |first, second| {
            [call(Write(1), 0, 10), call(Write(2), 1, 11), call(Read(first), 12, 13)]
                .into_iter()
                .chain([call(Read(second), 14, 15)])
                .collect::<Vec<_>>()
        };
        assert_eq!(judge(&reads(1, 1)), Ok(()));
        assert_eq!(judge(&reads(2, 2)), Ok(()));
        assert!(judge(&reads(1, 2)).is_err(), "they took effect in one order only");
    }

    #[test]
    fn a_read_during_a_write_may_see_it_and_then_nobody_sees_less() {
        let fine = [call(Write(1), 0, 10), call(Read(1), 2, 3), call(Read(1), 4, 5)];
        assert_eq!(judge(&fine), Ok(()));
        let back = [call(Write(1), 0, 10), call(Read(1), 2, 3), call(Read(0), 4, 5)];
        assert!(judge(&back).unwrap_err().contains("Read(0)"));
    }

    #[test]
    fn a_stale_read_is_caught() {
        let stale = [call(Write(1), 0, 1), call(Write(2), 2, 3), call(Read(1), 4, 5)];
        assert!(judge(&stale).is_err());
    }

    #[test]
    fn what_nobody_knows_may_have_happened_late_or_never() {
        let unknown = Call { invoked: 0, replied: None, what: Write(7) };
        let rest = [call(Write(1), 1, 2), call(Read(1), 3, 4)];
        assert_eq!(judge(&[std::slice::from_ref(&unknown), &rest[..]].concat()), Ok(()));
        let late = [call(Read(7), 5, 6), call(Read(7), 7, 8)];
        assert_eq!(judge(&[std::slice::from_ref(&unknown), &rest[..], &late].concat()), Ok(()));
        let gone = [call(Read(7), 5, 6), call(Read(1), 7, 8)];
        assert!(
            judge(&[std::slice::from_ref(&unknown), &rest[..], &gone].concat()).is_err(),
            "it happens once"
        );
    }

    #[test]
    fn a_wrong_choice_early_is_undone() {
        // The first write to be tried must be the last to take effect.
        let mut calls: Vec<Call<Did>> = (1..=8).map(|n| call(Write(n), 0, 100)).collect();
        calls.extend((2..=8).rev().map(|n| call(Read(n), 101 - n, 101 - n)));
        calls.push(call(Read(1), 101, 102));
        assert_eq!(judge(&calls), Ok(()));
    }
}
