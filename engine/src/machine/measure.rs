//! A table alone, for `cargo bench`.

use super::table::{Row, Table};
use crate::secret::Secret;
use alloc::vec::Vec;

/// A table whose rows are names and nothing else.
pub struct Names(Table<Name>);

struct Name(Vec<u8>);

impl Row for Name {
    type Key = [u8];
    fn key(&self) -> &[u8] {
        &self.0
    }
}

impl Names {
    /// An empty one.
    pub fn new(secret: Secret) -> Names {
        Names(Table::new(secret))
    }

    /// Adds a name that is not there.
    pub fn insert(&mut self, name: Vec<u8>) {
        self.0.insert(Name(name));
    }

    /// Where a name lies, if it is there.
    pub fn find(&self, name: &[u8]) -> Option<u32> {
        self.0.find(name)
    }

    /// Takes out the name that lies there.
    pub fn remove(&mut self, slot: u32) {
        self.0.remove(slot);
    }
}
