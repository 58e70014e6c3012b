//! Messages that may leave only after a sync: votes, above all. Nothing marked so can leave early,
//! because it is in here and not in the effects.

use crate::effects::PeerOutbox;
use crate::ids::{NodeId, Position};
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// Peer frames that wait for their sync, in the order of their positions.
#[derive(Default)]
pub struct Held {
    frames: VecDeque<(Position, NodeId, Vec<u8>)>,
}

impl Held {
    /// Holds a frame for `to` until `after` is synced.
    pub fn hold(&mut self, after: Position, to: NodeId, frame: Vec<u8>) {
        if let Some((last, _, _)) = self.frames.back() {
            assert!(*last <= after, "the journal's positions only grow");
        }
        self.frames.push_back((after, to, frame));
    }

    /// Lets go what waited for `synced` or less.
    pub fn release(&mut self, synced: Position, peers: &mut PeerOutbox) {
        while let Some((after, to, frame)) = self.frames.pop_front() {
            if after > synced {
                self.frames.push_front((after, to, frame));
                return;
            }
            assert!(!frame.is_empty(), "a frame has a header");
            peers.to(to.0).extend_from_slice(&frame);
        }
    }
}
