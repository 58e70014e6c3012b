//! What can go wrong, and what to do about it.

use crate::call::Op;
use crate::core::{Failure, Said};
use crate::limits::CALL_BYTES_MAX;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use wire::message::Error as Refusal;
use wire::{Code, Detail};

/// Why a call has no result.
///
/// The difference that matters: after [`Error::OutcomeUnknown`] the call may have been applied;
/// after any other error it was not.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A node refused the call.
    #[error("{subject}: {text}{} [{}, from {node}]", Beside(detail), code.slug())]
    Refused {
        /// Why: a stable number with advice.
        code: Code,
        /// What was called, with which name.
        subject: String,
        /// The address of the node that refused.
        node: String,
        /// What the node said.
        text: String,
        /// How things stood that it refused the call for, if it says so.
        detail: Option<Detail<'static>>,
    },
    /// The deadline passed and the call was certainly not applied.
    #[error(
        "{subject}: not done within {waited:?}, and certainly not applied; last: {last}. Try again, or give it a longer deadline"
    )]
    Deadline {
        /// What was called, with which name.
        subject: String,
        /// How long it was tried.
        waited: Duration,
        /// What stood in the way last.
        last: String,
    },
    /// The call may or may not have been applied.
    #[error(
        "{subject}: it is not known whether it was applied ({why}). Look before you do it again"
    )]
    OutcomeUnknown {
        /// What was called, with which name.
        subject: String,
        /// Why the outcome is not known.
        why: String,
    },
    /// The session that the call belongs to has ended, and the call was not applied. All locks
    /// and messages that the session held are lost. The next call opens a new session by itself.
    #[error("{subject}: the session has ended ({why}); whatever it held is lost. Acquire it anew")]
    SessionLost {
        /// What was called, with which name.
        subject: String,
        /// Why the session ended.
        why: String,
    },
    /// None of the addresses answered.
    #[error(
        "no node of the cluster could be reached: {tried}. Check the addresses, and that the nodes run"
    )]
    Connect {
        /// Each address, and what happened there.
        tried: String,
    },
    /// An argument is out of its range; nothing was sent.
    #[error("{subject}: {what}")]
    Invalid {
        /// What was called.
        subject: String,
        /// What is wrong, and what would be right.
        what: String,
    },
    /// Too many calls are open in this client; nothing was sent.
    #[error("{subject}: {what} are open in this client. Wait for some of them first")]
    TooManyCalls {
        /// What was called.
        subject: String,
        /// Which limit was reached.
        what: String,
    },
    /// The client was closed; nothing was sent.
    #[error("{subject}: the client is closed")]
    Closed {
        /// What was called.
        subject: String,
    },
    /// The machine gave no randomness or no thread.
    #[error("the machine refused: {what}")]
    Machine {
        /// What was refused.
        what: String,
    },
}

impl Error {
    /// The code that says what happened, as the wire and the HTTP interface number it; `None` for
    /// what never reached a node.
    pub fn code(&self) -> Option<Code> {
        match self {
            Error::Refused { code, .. } => Some(*code),
            Error::Deadline { .. } => Some(Code::DeadlineExceeded),
            Error::OutcomeUnknown { .. } => Some(Code::OutcomeUnknown),
            Error::SessionLost { .. } => Some(Code::SessionUnknown),
            Error::Connect { .. } => Some(Code::Unavailable),
            Error::Invalid { .. } => Some(Code::BadMessage),
            Error::TooManyCalls { .. } => Some(Code::Busy),
            Error::Closed { .. } | Error::Machine { .. } => None,
        }
    }

    /// How things stood that a node refused the call for, if it says so: the version that a line has, who holds a lock.
    ///
    /// ```
    /// # use client::{Code, Detail, Error};
    /// fn version(error: &Error) -> Option<u64> {
    ///     match error.detail() {
    ///         Some(Detail::Version(version)) => Some(*version),
    ///         _ => None,
    ///     }
    /// }
    /// ```
    pub fn detail(&self) -> Option<&Detail<'static>> {
        match self {
            Error::Refused { detail, .. } => detail.as_ref(),
            _ => None,
        }
    }

    /// What to do about it.
    pub fn advice(&self) -> &'static str {
        match self.code() {
            Some(code) => code.advice(),
            None => "make a new client",
        }
    }

    /// Whether the call may have been applied all the same.
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(self, Error::OutcomeUnknown { .. })
    }
}

/// A detail behind a text.
struct Beside<'a>(&'a Option<Detail<'static>>);

impl fmt::Display for Beside<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |detail| write!(f, "; {detail}"))
    }
}

/// Words for what a call came to, made for those who wait for it.
impl Error {
    /// A call was refused; `by`: the address of the node, or this client itself.
    pub(crate) fn refused(op: &Op, code: Code, by: Option<Arc<str>>, said: &Said<'_>) -> Error {
        let node = by.map_or_else(|| String::from("this client"), |by| String::from(&*by));
        let detail = said.detail.clone().map(Detail::into_owned);
        Error::Refused { code, subject: op.to_string(), node, text: said.to_string(), detail }
    }

    /// A call has no answer.
    pub(crate) fn failed(op: &Op, failure: Failure) -> Error {
        let subject = op.to_string();
        match failure {
            Failure::Deadline { waited, last } => {
                Error::Deadline { subject, waited, last: last.to_string() }
            }
            Failure::Unknown(doubt) => Error::OutcomeUnknown { subject, why: doubt.to_string() },
            Failure::SessionLost(loss) => Error::SessionLost { subject, why: loss.to_string() },
            Failure::TooManyCalls { calls_max } => {
                Error::TooManyCalls { subject, what: format!("{calls_max} calls") }
            }
            Failure::TooManyBytes => {
                Error::TooManyCalls { subject, what: format!("calls of {CALL_BYTES_MAX} bytes") }
            }
            Failure::Closed => Error::Closed { subject },
        }
    }
}

/// What a node said, or at least what its code means.
pub(crate) fn text_of(refusal: &Refusal<'_>) -> String {
    Said::of(&(*refusal).into()).to_string()
}
