//! A session, and its standing in each shard.
//!
//! # Invariants
//! - A session id is never opened in a shard again once that shard confirmed it, nor used again
//!   once it ended in any shard.
//! - A sequence is used by one call only, and `answered_below` never passes an open call.
//! - A standing only moves on by a heartbeat that the shard's confirmed leader answered, counted from
//!   the moment when that heartbeat was sent, and never once it ran out.

use super::time::Moment;
use super::window::Window;
use super::{CallId, LinkId, SessionId};
use crate::core::ask::Ask;
use crate::core::outcome::Said;
use crate::limits::{HEARTBEATS_PER_TTL, SEATS_RESERVED};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;
use wire::limits::WINDOW_REPLIES_MAX;

/// Whether the shard knows the session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Opening {
    /// To be sent ahead of the next call; `since`: when it was first sent, if ever.
    Due {
        since: Option<Moment>,
    },
    /// Sent on a connection ahead of the calls there.
    Sent {
        since: Moment,
        on: LinkId,
    },
    /// Another process opened it: it is used at once, and believed in once a heartbeat was confirmed.
    Resumed {
        since: Moment,
    },
    Confirmed,
}

impl Opening {
    /// Whether the shard knows the session, by all that was heard.
    pub fn is_known(self) -> bool {
        matches!(self, Opening::Confirmed | Opening::Resumed { .. })
    }
}

/// Who asks for a place in the window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Asks {
    /// Any call.
    Call,
    /// One that gives something back.
    GiveBack,
}

impl Asks {
    pub fn of(ask: &impl Ask) -> Asks {
        if ask.facts().gives_back { Asks::GiveBack } else { Asks::Call }
    }

    fn room(self) -> u64 {
        match self {
            Asks::Call => WINDOW_REPLIES_MAX - SEATS_RESERVED,
            Asks::GiveBack => WINDOW_REPLIES_MAX,
        }
    }
}

/// What a seat becomes when it is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Renewal {
    Renewed,
    /// It had run out already.
    TooLate,
}

/// The session in one shard.
pub(super) struct Seat {
    pub opening: Opening,
    /// The moment up to which the session surely lives in the shard.
    pub until: Moment,
    /// What the shard said when it did not open the session.
    pub complaint: Option<Arc<Said<'static>>>,
    /// When the next heartbeat is due.
    pub beat_at: Moment,
    pub window: Window,
    /// Calls that wait for room in the window, in their order.
    pub waiting: VecDeque<CallId>,
    /// Those of them that give something back: they go first, and have places of their own.
    pub owed: VecDeque<CallId>,
}

impl Seat {
    fn new(resumed_at: Option<u64>, now: Moment) -> Seat {
        let (opening, until, beat_at) = match resumed_at {
            // Who knows how long an old one lives.
            Some(_) => (Opening::Resumed { since: now }, Moment(0), now),
            // What it holds is held while it is being opened.
            None => (Opening::Due { since: None }, Moment::MAX, Moment::MAX),
        };
        Seat {
            opening,
            until,
            complaint: None,
            beat_at,
            window: Window::new(resumed_at.unwrap_or(1)),
            waiting: VecDeque::new(),
            owed: VecDeque::new(),
        }
    }

    /// The calls of a kind that wait for room.
    #[inline]
    pub fn line(&mut self, asks: Asks) -> &mut VecDeque<CallId> {
        match asks {
            Asks::Call => &mut self.waiting,
            Asks::GiveBack => &mut self.owed,
        }
    }

    /// The next sequence, for `call`, if the window has room for it and nobody waits for that.
    #[inline]
    pub fn sit(&mut self, call: CallId, asks: Asks) -> Option<u64> {
        if self.line(asks).is_empty() { self.reserve(call, asks) } else { None }
    }

    /// The next sequence, for `call`, if the window has room for it.
    #[inline]
    pub fn reserve(&mut self, call: CallId, asks: Asks) -> Option<u64> {
        let index = u32::try_from(call.0.index()).expect("a key's place has 32 bits");
        self.window.take(index, asks.room())
    }

    /// Moves the standing on: the shard's leader confirmed a sign of life that was sent at `sent`.
    pub fn renew(&mut self, now: Moment, sent: Moment, tenure: Duration) -> Renewal {
        if let Opening::Resumed { .. } = self.opening {
            self.confirm(sent, tenure);
        }
        if now >= self.until {
            return Renewal::TooLate;
        }
        self.until = self.until.max(sent + tenure);
        Renewal::Renewed
    }

    /// The shard confirmed the opening that was sent at `sent`.
    pub fn confirm(&mut self, sent: Moment, tenure: Duration) {
        self.opening = Opening::Confirmed;
        self.until = sent + tenure;
        self.beat_at = sent + tenure / HEARTBEATS_PER_TTL;
    }
}

/// A session.
pub(super) struct Session {
    pub id: SessionId,
    /// Counts the sessions that had this one's key.
    pub life: u32,
    /// By shard: where it has a seat.
    seats: Vec<Option<Box<Seat>>>,
    /// Another process opened it: it is used, never opened, and its sequences go on from here.
    resumed_at: Option<u64>,
}

impl Session {
    /// A session that nobody has opened yet.
    pub fn new(id: SessionId, life: u32) -> Session {
        Session { id, life, seats: Vec::new(), resumed_at: None }
    }

    /// A session that another process left behind. Sequences go on from `sequence`, which must be above
    /// all that it used.
    pub fn resumed(id: SessionId, sequence: u64) -> Session {
        Session { resumed_at: Some(sequence), ..Session::new(id, 0) }
    }

    /// The session's seat in a shard, if it has one.
    #[inline]
    pub fn seat(&self, shard: u32) -> Option<&Seat> {
        self.seats.get(shard as usize)?.as_deref()
    }

    /// The same, to be changed.
    #[inline]
    pub fn seat_mut(&mut self, shard: u32) -> Option<&mut Seat> {
        self.seats.get_mut(shard as usize)?.as_deref_mut()
    }

    /// The session's seat in a shard, which is made if there is none.
    #[inline]
    pub fn take_seat(&mut self, shard: u32, now: Moment) -> &mut Seat {
        let at = shard as usize;
        if self.seats.len() <= at {
            self.seats.resize_with(at + 1, || None);
        }
        self.seats[at].get_or_insert_with(|| Box::new(Seat::new(self.resumed_at, now)))
    }

    /// Every seat, by shard.
    pub fn seats(&self) -> impl Iterator<Item = (u32, &Seat)> {
        (0u32..).zip(&self.seats).filter_map(|(shard, seat)| Some((shard, seat.as_deref()?)))
    }

    /// The same, to be changed.
    pub fn seats_mut(&mut self) -> impl Iterator<Item = (u32, &mut Seat)> {
        let seats = (0u32..).zip(&mut self.seats);
        seats.filter_map(|(shard, seat)| Some((shard, seat.as_deref_mut()?)))
    }

    /// The shards in which the session is open, or may be.
    pub fn shards_taken(&self) -> Vec<u32> {
        let taken = |opening: Opening| !matches!(opening, Opening::Due { since: None });
        self.seats().filter(|(_, seat)| taken(seat.opening)).map(|(shard, _)| shard).collect()
    }

    /// A shard in which the session has run out: nothing confirmed it for its time to live.
    pub fn run_out(&self, now: Moment, tenure: Duration) -> Option<u32> {
        let out = |seat: &Seat| match seat.opening {
            Opening::Confirmed => now >= seat.until,
            // An opening that was sent that long ago may have been applied and have run out.
            Opening::Due { since: Some(since) }
            | Opening::Sent { since, .. }
            | Opening::Resumed { since } => now >= since + tenure,
            Opening::Due { since: None } => false,
        };
        self.seats().find(|(_, seat)| out(seat)).map(|(shard, _)| shard)
    }

    /// When something is due: a heartbeat, or the session's end.
    pub fn wake_at(&self, tenure: Duration) -> Moment {
        let of = |seat: &Seat| match seat.opening {
            Opening::Confirmed => seat.beat_at.min(seat.until),
            Opening::Resumed { since } => seat.beat_at.min(since + tenure),
            Opening::Due { since: Some(since) } | Opening::Sent { since, .. } => since + tenure,
            Opening::Due { since: None } => Moment::MAX,
        };
        self.seats().map(|(_, seat)| of(seat)).min().unwrap_or(Moment::MAX)
    }
}
