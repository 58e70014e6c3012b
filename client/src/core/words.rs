//! What the core's outcomes are in words. They are made when somebody reads them, and not per try.

use super::outcome::{After, Doubt, End, Loss, Obstacle, Said, Trouble};
use alloc::string::String;
use core::fmt;
use wire::Code;
use wire::limits::WINDOW_REPLIES_MAX;

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Code::from_number(self.code) {
            _ if !self.text.is_empty() => f.write_str(&String::from_utf8_lossy(&self.text)),
            Some(code) => f.write_str(code.advice()),
            None => write!(f, "error {}", self.code),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::World(what) => f.write_str(what),
            Trouble::Said(said) => said.fmt(f),
            Trouble::Silent(quiet) => write!(f, "nothing was heard for {quiet:?}"),
            Trouble::NoAnswer(waited) => write!(f, "no answer within {waited:?}"),
            Trouble::OtherCluster => f.write_str("the node belongs to another cluster"),
            Trouble::NoCluster => f.write_str("the node knows no cluster yet"),
            Trouble::OtherEngine { wanted, got } => {
                write!(f, "engine {wanted} was asked for and engine {got} answered")
            }
            Trouble::Malformed(error) => error.fmt(f),
            Trouble::NoSuchAnswer(kind) => {
                write!(f, "kind {:#x} is no answer to what was asked", kind.0)
            }
            Trouble::Unwanted => f.write_str("the connection is not wanted any more"),
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Obstacle::Unsent => f.write_str("it was not sent yet"),
            Obstacle::Nothing => Ok(()),
            Obstacle::WindowFull => {
                write!(f, "{WINDOW_REPLIES_MAX} calls of this client are open in the shard")
            }
            Obstacle::NoMap => f.write_str("the topology is not known yet"),
            Obstacle::NoLeader { shard } => write!(f, "no leader of shard {shard} is known"),
            Obstacle::Resting(address) => write!(f, "{address} can't be reached"),
            Obstacle::Lost(lost) => write!(f, "{}: {}", lost.0, lost.1),
            Obstacle::Refused(refused) => write!(f, "{}: {}", refused.0, refused.1),
            Obstacle::Unopened(said) => write!(f, "the session was not opened: {said}"),
        }
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Doubt::NoAnswer { waited, last, after } => {
                write!(f, "no answer within {waited:?}; last: {last}")?;
                match after {
                    After::Nothing => Ok(()),
                    After::GoesOn => {
                        f.write_str("; the client goes on trying until its session ends")
                    }
                }
            }
            Doubt::SessionEnded(end) => write!(f, "the session ended: {end}"),
            Doubt::Told(obstacle) => obstacle.fmt(f),
            Doubt::Closed => f.write_str("the client was closed"),
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Loss::Before => f.write_str("it ended before the call was sent"),
            Loss::Told(obstacle) => obstacle.fmt(f),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Silent { shard, tenure } => {
                write!(f, "shard {shard} confirmed no sign of life for {tenure:?}")
            }
            End::Told(obstacle) => obstacle.fmt(f),
            End::Closed => f.write_str("the client was closed"),
        }
    }
}
