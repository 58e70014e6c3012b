//! What the core tells its driver: what calls came to, and what is to be done. All of it is data; `words` says it to
//! people.

use super::ask::Reply;
use super::time::Moment;
use super::{CallId, LinkId, SessionId, SessionKey};
use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;
use wire::message::DetailedError as Refusal;
use wire::{Code, Detail, Kind, WireError};

/// A call has ended for whoever made it.
#[derive(Clone, Debug)]
pub struct Finished<'f, A> {
    /// Which one.
    pub call: CallId,
    /// What was asked.
    pub ask: A,
    /// What it came to.
    pub outcome: Outcome<'f>,
}

/// What a call came to.
#[derive(Clone, Debug)]
pub enum Outcome<'f> {
    /// It was done.
    Done {
        /// The answer.
        reply: Reply<'f>,
        /// The session's standing in the shard, for a call that was stamped.
        standing: Option<Standing>,
        /// The earliest that what was granted can have been granted.
        granted_at: Moment,
    },
    /// A node refused it.
    Refused {
        /// Why; [`Code::UnknownKind`] for a reason that only a later version knows.
        code: Code,
        /// The address of the node; none: this client itself refused.
        by: Option<Arc<str>>,
        /// What the node said.
        said: Said<'f>,
    },
    /// It has no answer.
    Failed(Failure),
}

/// A session's standing in a shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    /// The session.
    pub session: SessionId,
    /// The shard.
    pub shard: u32,
    /// The moment up to which the session surely lives there.
    pub until: Moment,
}

/// Why a call has no answer.
#[derive(Clone, Debug)]
pub enum Failure {
    /// Its time was up, and it was certainly not applied.
    Deadline {
        /// How long it was tried.
        waited: Duration,
        /// What stood in its way last.
        last: Obstacle,
    },
    /// It may have been applied.
    Unknown(Doubt),
    /// Its session ended, and it was not applied.
    SessionLost(Loss),
    /// So many calls are open that it was not taken.
    TooManyCalls {
        /// How many may be open.
        calls_max: usize,
    },
    /// The open calls have so many bytes that it was not taken.
    TooManyBytes,
    /// The client was closed, or the caller gave it up.
    Closed,
}

/// Why it is not known whether a call was applied.
#[derive(Clone, Debug)]
pub enum Doubt {
    /// It was not answered in time.
    NoAnswer {
        /// How long it was tried.
        waited: Duration,
        /// What stood in its way last.
        last: Obstacle,
        /// Whether it is tried on.
        after: After,
    },
    /// The session ended before it was answered.
    SessionEnded(End),
    /// A node says that it does not know.
    Told(Obstacle),
    /// The client was closed.
    Closed,
}

/// What becomes of a call whose time is up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum After {
    /// Nothing more.
    Nothing,
    /// It is tried until the session ends.
    GoesOn,
}

/// How a call lost its session.
#[derive(Clone, Debug)]
pub enum Loss {
    /// The session ended before the call was sent.
    Before,
    /// A shard said so.
    Told(Obstacle),
}

/// Why a session ended.
#[derive(Clone, Debug)]
pub enum End {
    /// A shard confirmed no sign of life for too long.
    Silent {
        /// The shard.
        shard: u32,
        /// How long that was.
        tenure: Duration,
    },
    /// A node says so.
    Told(Obstacle),
    /// The client was closed.
    Closed,
}

/// What stands in a call's way.
#[derive(Clone, Debug)]
pub enum Obstacle {
    /// It was not sent yet.
    Unsent,
    /// Nothing: it was sent.
    Nothing,
    /// The window of its shard has no room.
    WindowFull,
    /// Where everything is was not told yet.
    NoMap,
    /// Nobody knows who leads its shard.
    NoLeader {
        /// The shard.
        shard: u32,
    },
    /// The leader's address failed a moment ago.
    Resting(Arc<str>),
    /// The connection to an address was lost.
    Lost(Arc<(Arc<str>, Trouble)>),
    /// The node at an address refused it.
    Refused(Arc<(Arc<str>, Said<'static>)>),
    /// A node did not open the session.
    Unopened(Arc<Said<'static>>),
}

impl Obstacle {
    /// The node at `address` said so.
    pub(super) fn refused(address: &Arc<str>, refusal: &Refusal<'_>) -> Obstacle {
        let said = Said::of(refusal).into_owned();
        Obstacle::Refused(Arc::new((Arc::clone(address), said)))
    }
}

/// What is wrong with a connection.
#[derive(Clone, Debug)]
pub enum Trouble {
    /// What the world says, in the driver's words.
    World(Arc<str>),
    /// A node refused the connection.
    Said(Said<'static>),
    /// Nothing was heard for so long.
    Silent(Duration),
    /// Nothing came within so long.
    NoAnswer(Duration),
    /// The node belongs to another cluster.
    OtherCluster,
    /// The node knows no cluster yet.
    NoCluster,
    /// Another engine than the one that was asked for answered.
    OtherEngine {
        /// The one that was asked for.
        wanted: u32,
        /// The one that answered.
        got: u32,
    },
    /// The bytes can't be followed.
    Malformed(WireError),
    /// An answer of this kind answers nothing that was asked.
    NoSuchAnswer(Kind),
    /// Nobody needs the connection.
    Unwanted,
}

impl Trouble {
    /// What the world says.
    pub fn world(what: &str) -> Trouble {
        Trouble::World(Arc::from(what))
    }
}

/// What a node said, or at least its code.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Said<'f> {
    /// The number of a [`Code`].
    pub code: u16,
    /// Words for people, UTF-8; maybe none.
    pub text: Cow<'f, [u8]>,
    /// How things stood that it refused the call for, if it says so.
    pub detail: Option<Detail<'f>>,
}

impl<'f> Said<'f> {
    /// What a refusal says.
    pub fn of(refusal: &Refusal<'f>) -> Said<'f> {
        // One that can't be read is as good as none.
        let detail = Detail::decode(refusal.detail).unwrap_or_default();
        Said { code: refusal.code, text: Cow::Borrowed(refusal.text), detail }
    }

    /// The same, with bytes of its own.
    pub fn into_owned(self) -> Said<'static> {
        let text = Cow::Owned(self.text.into_owned());
        Said { code: self.code, text, detail: self.detail.map(Detail::into_owned) }
    }
}

/// What is to be done, or to be known, beside the ends of calls.
#[derive(Clone, Debug)]
pub enum Event {
    /// A connection is to be made, and a hello to be said on it.
    Connect {
        /// Its number from now on.
        link: LinkId,
        /// Where to: "host:port".
        address: Arc<str>,
        /// The engine that is wanted there.
        engine: u32,
    },
    /// A connection is given up: nothing that comes of it is wanted any more.
    Close {
        /// Which one.
        link: LinkId,
    },
    /// Where everything is was told: calls can be made.
    Ready,
    /// Nobody told where everything is in time.
    Unreached {
        /// Each address, and what happened there.
        tried: Box<[(Arc<str>, Trouble)]>,
    },
    /// A session surely lives until then in a shard.
    Renewed {
        /// The session's key.
        session: SessionKey,
        /// Its standing.
        standing: Standing,
    },
    /// A session ended, and with it all that it held. Another took its place.
    Ended {
        /// The session's key.
        session: SessionKey,
        /// The id of the one that ended.
        id: SessionId,
        /// Why.
        why: End,
    },
    /// Every session is closed, or was tried to be for long enough: the client may vanish.
    Left,
}

/// What is to be done once the core is let go.
pub(super) struct Out<A> {
    pub finished: alloc::collections::VecDeque<Finished<'static, A>>,
    pub events: alloc::collections::VecDeque<Event>,
    /// Connections with bytes to be sent.
    pub dirty: Vec<LinkId>,
}

impl<A> Default for Out<A> {
    fn default() -> Out<A> {
        Out { finished: Default::default(), events: Default::default(), dirty: Vec::new() }
    }
}
