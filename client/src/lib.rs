//! Tercet's client: locks, queues and a cache, blocking or awaited.
//!
//! ```no_run
//! use std::time::Duration;
//! fn main() -> Result<(), client::Error> {
//!     let client = client::Client::connect(["127.0.0.1:7400"])?;
//!
//!     let guard = client.lock("billing/{42}").wait(Duration::from_secs(10)).acquire().wait()?;
//!     let version = client.cache().put("invoice/{42}", "paid").wait()?;
//!     client.queue("mail/{42}").push(format!("version {version}")).wait()?;
//!     println!("done under fence {}", guard.fence());
//!     guard.release().wait()?;
//!
//!     let queue = client.queue("mail/{42}");
//!     while let Some(mail) = queue.pop(Duration::from_secs(30), Duration::ZERO).wait()? {
//!         mail.ack().wait()?;
//!     }
//!     client.close();
//!     Ok(())
//! }
//! ```
//!
//! Each call gives a [`Pending`], which can be waited for (`.wait()`) or awaited (`.await`) with any
//! executor: the client's own threads do the I/O.
//!
//! # How it works
//! A call goes to the leader of its name's shard, straight to the core that serves it, pipelined on one
//! connection per core. All that is known and decided is in [`core`], which is told what happened
//! and when; threads around it carry bytes (`connection`) and time (`handle`). Redirects are
//! followed, refusals that pass are waited out, lost connections are made again, all within the
//! call's deadline.
//!
//! # Guarantees
//! - A call that changes something is applied at most once, however often it is sent: each try carries
//!   the same session and sequence. When the client can't tell whether it was, the error is
//!   [`Error::OutcomeUnknown`]; after any other error it was not.
//! - A [`LockGuard`] that says it is valid was confirmed, by the shard's own leader, by a heartbeat
//!   not older than the session's time to live.
//! - A call that is given up (its [`Pending`] dropped, its deadline passed) leaves nothing held: a
//!   lock or a message that it still brings is given back.
//! - What gives something back (a release, an acknowledgement, a dropped guard) is tried until it is answered
//!   or the session ends, whatever became of its caller. A place in the window and on the connection is kept for it.
//! - Nothing grows without bound, and closing or dropping the client at any point ends its
//!   threads: `limits` names every limit.
//!
//! # Left out
//! - A waiting acquire keeps a place in its shard's window of 256 calls, which can't run ahead of it
//!   by more, 64 of them for what gives something back: a client that waits for long on one lock and
//!   calls much in the same shard should do the waiting with a client of its own. (A waiting pop gives its place away
//!   and pops anew.)
//! - A lease is counted from when it was asked for, since no answer says how old a grant is: one that had
//!   to be waited for as long as its lease comes with a guard that is not valid.
//! - A waiting acquire or pop that is given up keeps its turn until it is served or its wait runs
//!   out; what it brings is given back at once. Cancelling it (the protocol would, by
//!   `answered_below`) would leave open whether it had been served a moment before.
//! - The near cache of the protocol's later kinds: every get asks the leader.
//!
//! # Sources
//! Exactly-once by session and sequence: Ongaro, Consensus: Bridging Theory and Practice, section
//! 6.3. Fencing: Kleppmann, How to do distributed locking, 2016.
#![cfg_attr(not(feature = "edge"), no_std)]

extern crate alloc;

pub mod core;
pub mod limits;

#[cfg(feature = "edge")]
pub mod admin;
#[cfg(feature = "edge")]
pub mod backup;
#[cfg(feature = "edge")]
mod cache;
#[cfg(feature = "edge")]
mod call;
#[cfg(feature = "edge")]
mod client;
#[cfg(feature = "edge")]
mod clock;
#[cfg(feature = "edge")]
mod config;
#[cfg(feature = "edge")]
mod connection;
#[cfg(feature = "edge")]
mod error;
#[cfg(feature = "edge")]
mod handle;
#[cfg(feature = "edge")]
mod inbox;
#[cfg(feature = "edge")]
mod inner;
#[cfg(feature = "edge")]
mod lock;
#[cfg(feature = "edge")]
mod pending;
#[cfg(feature = "edge")]
mod probe;
#[cfg(feature = "edge")]
mod queue;
#[cfg(feature = "edge")]
mod tenure;
#[cfg(feature = "edge")]
mod watch;

#[cfg(test)]
#[cfg(feature = "edge")]
mod tests;

pub use wire::message::LockMode;
pub use wire::topology::{Node, Placement};
pub use wire::{Code, Detail};

#[cfg(feature = "edge")]
pub use self::{
    cache::{Cache, Delete, Line, Put},
    client::Client,
    config::Config,
    error::Error,
    lock::{Lock, LockGuard},
    pending::Pending,
    probe::{Probe, probe},
    queue::{Message, PRIORITY, Queue},
};

/// What README.md and docs/clients.md show compiles.
#[cfg(all(doctest, feature = "edge"))]
#[doc = include_str!("../../README.md")]
#[doc = include_str!("../../docs/clients.md")]
mod pages {}
