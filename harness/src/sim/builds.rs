//! Builds: a cluster that is upgraded node by node, while everything else goes on.
//!
//! In some seeds the nodes begin with a build that knows the oldest feature level alone. Whenever one starts it may
//! have been given the newer build, or the older one back.
//!
//! The older build really does not know something: as if deletes of lines had come with the newest level. It refuses
//! one, as a client's request and as an entry of the log, while the newer one does it once its group is at the level.
//!
//! A node that is told that the cluster has left its build behind must have run the newer one before: the cluster
//! goes to a level only once every node said that it knows it.

use super::{Failure, World};
use crate::sim::Event;
use engine::level::{Kinds, Level};
use engine::time::Duration;
use wire::message::CacheDelete;

/// A cluster of one seed in so many is upgraded.
const UPGRADED_ONE_IN: u64 = 4;

/// Which build a node runs.
pub(super) struct Build {
    /// The newest feature level that it knows.
    pub level: Level,
    /// The newest that any of its builds knew.
    pub newest: Level,
}

impl Build {
    /// What a node of this seed begins with.
    pub(super) fn first(seed: u64) -> Build {
        let older = is_upgraded(seed);
        let level = if older { Level::OLDEST } else { Level::NEWEST };
        Build { level, newest: level }
    }

    fn upgrade(&mut self) {
        (self.level, self.newest) = (Level::NEWEST, Level::NEWEST);
    }
}

fn is_upgraded(seed: u64) -> bool {
    // Where members change, one that comes late may be left behind rightly.
    seed % UPGRADED_ONE_IN == 2 && seed % super::faults::MEMBERS_CHANGE_ONE_IN != 1
}

impl World {
    /// A node is about to start: perhaps with another build.
    pub(super) fn choose_build(&mut self, id: u32) {
        if !is_upgraded(self.options.seed) || !self.is_faulty() {
            return;
        }
        let build = &mut self.nodes[id as usize].build;
        match self.builds.u32(..8) {
            0..=2 => build.upgrade(),
            3 => build.level = Level::OLDEST,
            _ => {}
        }
    }

    /// What a node's build knows of requests and entries.
    pub(super) fn kinds(&self, id: u32) -> Kinds {
        if !is_upgraded(self.options.seed) {
            return Kinds::REAL;
        }
        Kinds::of_build(self.nodes[id as usize].build.level, CacheDelete::KIND, Level::NEWEST)
    }

    /// The cluster has left the build of a node behind: the node stops, and gets the newer one.
    pub(super) fn leave_behind(&mut self, id: u32) -> Result<(), Failure> {
        let build = &mut self.nodes[id as usize].build;
        if build.newest < Level::NEWEST {
            let what = format!("node {} was left behind: it never said that it knows more", id + 1);
            return Err(Failure::Safety(what));
        }
        build.upgrade();
        self.crash(id);
        self.plan(Duration::from_millis(50), Event::Start { node: id });
        Ok(())
    }

    /// No state of a node is at a level that its build does not know.
    pub(super) fn check_levels(&self, id: u32) -> Result<(), Failure> {
        let node = &self.nodes[id as usize];
        let engines = node.seats.iter().filter_map(|seat| seat.engine.as_ref());
        let shards = engines.flat_map(|engine| engine.shards());
        match shards.map(|shard| shard.state().level()).max() {
            Some(level) if level > node.build.level => {
                let known = node.build.level;
                let what = format!("node {} is at level {level} and knows {known}", id + 1);
                Err(Failure::Safety(what))
            }
            _ => Ok(()),
        }
    }

    /// The last nodes get the newer build.
    pub(super) fn finish_upgrade(&mut self) {
        for id in self.all() {
            if self.nodes[id as usize].build.level < Level::NEWEST {
                self.crash(id);
                self.nodes[id as usize].build.upgrade();
            }
        }
    }
}
