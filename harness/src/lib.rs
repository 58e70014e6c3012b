//! harness
pub mod sim;
