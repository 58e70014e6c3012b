//! What Raft promises, tested.
