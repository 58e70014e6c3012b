//! What Raft promises, tested: scripts whose file name is the claim, simulations that a seed decides,
//! and small tests of the parts.

mod chance;
mod cluster;
mod disk;
mod loyalty;
mod model;
mod parts;
mod quiet;
mod script;
mod words;
