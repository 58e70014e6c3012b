//! Tercet's bytes: what crosses a socket, and nothing else.
//!
//! A frame is a fixed [`Header`] of 56 bytes and a body. The body is an rkyv archive whose layout
//! is simple enough to be written by hand in any language: the byte strings of a message one
//! after the other, then its fixed part, little-endian and unaligned, in the order of its fields.
//! `docs/protocol.md` draws every byte; `tests/vectors.rs` holds golden vectors for each message.
//!
//! # How it works
//!
//! [`message`] declares every message once. Each declaration gives a plain borrowed struct with
//! `encode` and `decode` written against the layout, and, with the feature `archive`, the
//! rkyv type and `view`, the checked access that the server uses. A test holds the two equal.
//!
//! # Invariants
//!
//! - This crate knows nobody: no socket, no clock, no session state.
//! - Bytes from outside never panic and are never read past their end.
//! - A released message never changes. A change is a new kind.
//!
//! # Left out
//!
//! Streaming bodies: a frame is whole or absent, so that a body can be read in place. It costs a
//! limit on a frame's size ([`limits::FRAME_BYTES_MAX`]).
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod backup;
pub mod bytes;
pub mod code;
mod declare;
pub mod detail;
pub mod frames;
pub mod header;
mod layout;
pub mod limits;
pub mod message;
pub mod messages;
pub mod name;
pub mod peer;
pub mod random;
pub mod request;
pub mod topology;

pub use code::Code;
pub use detail::Detail;
pub use frames::{begin, finish, frame, split};
pub use header::{HEADER_BYTES, Header, Kind};
pub use layout::WireError;
pub use message::Request;
pub use request::Call;
