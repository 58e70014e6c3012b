//! The end of a run: whether everything came right.

use super::{Failure, NODES, SHARDS, World};

impl World {
    pub(super) fn is_settled(&self) -> bool {
        let applied = |id: u32, at: usize| {
            let engine = self.nodes[id as usize].engine.as_ref();
            engine.map(|engine| engine.shards()[at].applied())
        };
        self.clients.are_finished()
            && (0..=SHARDS as usize).all(|at| {
                applied(0, at).is_some() && (1..NODES).all(|id| applied(id, at) == applied(0, at))
            })
    }

    pub(super) fn unsettled(&self) -> String {
        let mut text = self.clients.unfinished();
        for (id, node) in self.nodes.iter().enumerate() {
            match &node.engine {
                None => text.push_str(&format!("\n  node {} is down", id + 1)),
                Some(engine) => {
                    for group in engine.status(self.now).groups {
                        text.push_str(&format!("\n  node {} {group:?}", id + 1));
                    }
                }
            }
        }
        text
    }

    /// Everybody gave everything back: nothing is held, nothing waits, nothing is left.
    pub(super) fn check_empty(&self) -> Result<(), Failure> {
        let engine = self.nodes[0].engine.as_ref().expect("the settled cluster is up");
        for shard in engine.shards() {
            let left = shard.state().status();
            let things =
                [left.locks, left.lock_waiters, left.messages_ready, left.messages_in_flight];
            if things != [0; 4] {
                return Err(Failure::Safety(format!("something is left: {left:?}")));
            }
        }
        Ok(())
    }

    /// Equal index, equal bytes.
    pub(super) fn compare_states(&self) -> Result<(), Failure> {
        for at in 0..=SHARDS as usize {
            let state = |id: usize| {
                let engine = self.nodes[id].engine.as_ref().expect("the settled cluster is up");
                let mut bytes = Vec::new();
                engine.shards()[at].state().snapshot(&mut bytes);
                bytes
            };
            let first = state(0);
            for id in 1..NODES as usize {
                if state(id) != first {
                    let what = format!("group {at}: nodes 1 and {} differ at equal index", id + 1);
                    return Err(Failure::Safety(what));
                }
            }
        }
        Ok(())
    }
}
