//! The world: executors, rings, files, sockets, clocks, and every `unsafe`. It decides nothing.
//!
//! # How it works
//!
//! Two planes. The **data plane** ([`data`]) is one thread per core, each a glommio executor whose
//! one long task is a loop over a ring of its own ([`ring`]): it gathers what arrived, feeds the
//! engines of the thread, carries their effects out, and parks. The **control plane** (HTTP,
//! metrics, segments, snapshots, the manifest) has a thread of its own. They talk through the
//! bounded mailboxes of [`bridge`], never through a lock.
//!
//! # Invariants
//!
//! - No lock, no allocation per request, no blocking sync on a data thread. (The one lock that it takes, to
//!   connect to a peer and when the cluster's nodes change, is that of the peers' addresses.)
//! - A bad byte from outside closes the connection that it came from, and touches nothing else.
//! - A failed write or sync is fatal. It is never tried again.

// The data plane, bottom up.
pub mod bridge;
pub mod clock;
pub mod counters;
pub mod ring;
pub mod wal;

pub mod links;
pub mod net;

mod core;
pub mod data;

// What measures the world that the planes work with: the harness's floor and its load.
pub mod appends;
pub mod streams;
pub mod touch;

// The control plane.
pub mod birth;
pub mod config;
pub mod control;
pub mod environment;
pub mod files;
pub mod http;
pub mod logs;
pub mod manifest;
pub mod memory;
pub mod metrics;
pub mod recover;
pub mod repair;
pub mod report;
pub mod restore;
pub mod snapshots;
#[cfg(test)]
pub(crate) mod testing;
