//! The engine: Raft groups, their machines and one journal on one core, and nothing else.
//!
//! [`Engine::on`](engine::Engine::on) is the seam. Inputs come in with the time at which they were
//! seen; what the world is to do comes out as data. The server's loop in `edge` and the simulator
//! are its two callers.
//!
//! Read in this order: [`entry`], [`raft`], [`machine`], [`journal`], [`shard`], [`engine`], `edge`.
//!
//! # Invariants
//!
//! - Without the feature `edge` this crate is `no_std`: no clock, no socket, no file, no thread.
//! - Raft does not know what a lock is. The machine does not know that there is a network. The
//!   journal has never seen a file. The engine never waits. The edge decides nothing.
#![cfg_attr(not(any(test, feature = "edge")), no_std)]
#![cfg_attr(not(feature = "edge"), forbid(unsafe_code))]

extern crate alloc;

pub mod ids;
pub mod time;
pub mod entry;
pub mod level;
pub mod limits;
pub mod secret;
pub mod mutant;
pub mod raft;
pub mod machine;
pub mod journal;
mod peers;
pub mod shard;
pub mod effects;
pub mod status;
pub mod engine;
mod open;
pub mod reborn;
#[cfg(feature = "edge")]
pub mod edge;
