//! The client's session, and its standing in each shard.
//!
//! # Invariants
//! - A session id is never opened in a shard again once that shard confirmed it, nor used again
//!   once it ended in any shard.
//! - A sequence is used by one call only, and `answered_below` never passes an open call.
//! - A tenure only moves on by a heartbeat that the shard's confirmed leader answered, counted from
//!   the moment when that heartbeat was sent, and never once it ran out.

use crate::call::{CallId, LinkId, Op, SessionId};
use crate::clock::Moment;
use crate::limits::{HEARTBEATS_PER_TTL, SEATS_RESERVED};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use wire::limits::WINDOW_REPLIES_MAX;

/// One session from its opening to its end.
#[derive(Debug)]
pub(crate) struct Life {
    pub id: SessionId,
    /// Why it ended.
    pub ended: OnceLock<String>,
}

/// A session's standing in one shard, shared with the guards of what it holds there.
#[derive(Debug)]
pub(crate) struct Tenure {
    pub life: Arc<Life>,
    until: AtomicU64,
}

impl Tenure {
    /// The moment up to which the session surely lives in the shard.
    pub fn until(&self) -> Moment {
        Moment(self.until.load(Ordering::Acquire))
    }

    /// Why nothing is held under it any more.
    pub fn lost(&self, now: Moment) -> Option<String> {
        if let Some(why) = self.life.ended.get() {
            return Some(why.clone());
        }
        (now >= self.until()).then(|| String::from("no heartbeat was confirmed in time"))
    }
}

/// Whether the shard knows the session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Opening {
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

/// The session in one shard.
pub(crate) struct Seat {
    pub opening: Opening,
    pub tenure: Arc<Tenure>,
    /// Why the shard did not open the session, when it was last asked.
    pub complaint: Option<String>,
    /// When the next heartbeat is due.
    pub beat_at: Moment,
    next: u64,
    /// Open calls by sequence.
    open: BTreeMap<u64, CallId>,
    /// Calls that wait for room in the window, in their order.
    pub waiting: VecDeque<CallId>,
    /// Those of them that give something back: they go first, and have places of their own.
    pub owed: VecDeque<CallId>,
}

/// Who asks for a place in the window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Asks {
    /// Any call.
    Call,
    /// One that gives something back.
    GiveBack,
}

impl Asks {
    pub fn of(op: &Op) -> Asks {
        if op.is_give_back() { Asks::GiveBack } else { Asks::Call }
    }
}

impl Seat {
    /// All calls below were answered, or will never be asked again.
    pub fn answered_below(&self) -> u64 {
        self.oldest().map_or(self.next, |(sequence, _)| sequence)
    }

    /// The open call that holds the window back.
    pub fn oldest(&self) -> Option<(u64, CallId)> {
        self.open.first_key_value().map(|(sequence, call)| (*sequence, *call))
    }

    /// The calls of a kind that wait for room.
    pub fn line(&mut self, asks: Asks) -> &mut VecDeque<CallId> {
        match asks {
            Asks::Call => &mut self.waiting,
            Asks::GiveBack => &mut self.owed,
        }
    }

    /// The next sequence, for `call`, if the window has room for it.
    pub fn reserve(&mut self, call: CallId, asks: Asks) -> Option<u64> {
        let room = match asks {
            Asks::Call => WINDOW_REPLIES_MAX - SEATS_RESERVED,
            Asks::GiveBack => WINDOW_REPLIES_MAX,
        };
        if self.next >= self.answered_below() + room {
            return None;
        }
        let sequence = self.next;
        self.next += 1;
        self.open.insert(sequence, call);
        assert!(self.open.len() as u64 <= WINDOW_REPLIES_MAX);
        Some(sequence)
    }

    /// The call of this sequence will never be asked again.
    pub fn free(&mut self, sequence: u64) {
        assert!(self.open.remove(&sequence).is_some(), "a sequence is freed once");
    }

    /// Moves the tenure on: the shard's leader confirmed a sign of life that was sent at `sent`.
    /// `false` when it had run out already.
    pub fn renew(&mut self, now: Moment, sent: Moment, tenure: Duration) -> bool {
        if let Opening::Resumed { .. } = self.opening {
            self.confirm(sent, tenure);
        }
        if now >= self.tenure.until() {
            return false;
        }
        self.tenure.until.fetch_max((sent + tenure).0, Ordering::AcqRel);
        true
    }

    /// The shard confirmed the opening that was sent at `sent`.
    pub fn confirm(&mut self, sent: Moment, tenure: Duration) {
        self.opening = Opening::Confirmed;
        self.tenure.until.store((sent + tenure).0, Ordering::Release);
        self.beat_at = sent + tenure / HEARTBEATS_PER_TTL;
    }
}

/// The client's session.
pub(crate) struct Session {
    pub life: Arc<Life>,
    pub seats: BTreeMap<u32, Seat>,
    /// Another process opened it: it is used, never opened, and its sequences go on from here.
    resumed_at: Option<u64>,
}

impl Session {
    /// A session that nobody has opened yet.
    pub fn new(id: SessionId) -> Session {
        let life = Arc::new(Life { id, ended: OnceLock::new() });
        Session { life, seats: BTreeMap::new(), resumed_at: None }
    }

    /// A session that another process left behind. Sequences go on from `sequence`, which must be above
    /// all that it used.
    pub fn resumed(id: SessionId, sequence: u64) -> Session {
        Session { resumed_at: Some(sequence), ..Session::new(id) }
    }

    /// The session's seat in a shard.
    pub fn seat(&mut self, shard: u32, now: Moment) -> &mut Seat {
        let (life, resumed) = (&self.life, self.resumed_at);
        self.seats.entry(shard).or_insert_with(|| Seat {
            opening: match resumed {
                Some(_) => Opening::Resumed { since: now },
                None => Opening::Due { since: None },
            },
            tenure: Arc::new(Tenure {
                life: Arc::clone(life),
                // What it holds is held while it is being opened; who knows how long an old one lives.
                until: AtomicU64::new(match resumed {
                    Some(_) => 0,
                    None => Moment::MAX.0,
                }),
            }),
            complaint: None,
            beat_at: if resumed.is_some() { now } else { Moment::MAX },
            next: resumed.unwrap_or(1),
            open: BTreeMap::new(),
            waiting: VecDeque::new(),
            owed: VecDeque::new(),
        })
    }

    /// A shard in which the session has run out: nothing confirmed it for its time to live.
    pub fn run_out(&self, now: Moment, tenure: Duration) -> Option<u32> {
        let out = |seat: &Seat| match seat.opening {
            Opening::Confirmed => now >= seat.tenure.until(),
            // An opening that was sent that long ago may have been applied and have run out.
            Opening::Due { since: Some(since) }
            | Opening::Sent { since, .. }
            | Opening::Resumed { since } => now >= since + tenure,
            Opening::Due { since: None } => false,
        };
        self.seats.iter().find(|(_, seat)| out(seat)).map(|(shard, _)| *shard)
    }

    /// When something is due: a heartbeat, or the session's end.
    pub fn wake_at(&self, tenure: Duration) -> Moment {
        let of = |seat: &Seat| match seat.opening {
            Opening::Confirmed => seat.beat_at.min(seat.tenure.until()),
            Opening::Resumed { since } => seat.beat_at.min(since + tenure),
            Opening::Due { since: Some(since) } | Opening::Sent { since, .. } => since + tenure,
            Opening::Due { since: None } => Moment::MAX,
        };
        self.seats.values().map(of).min().unwrap_or(Moment::MAX)
    }
}
