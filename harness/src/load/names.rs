//! Names, each in the shard where its connection's leader is.

use wire::name;

/// Names made once, kept in one piece, found by index.
#[derive(Clone, Debug, Default)]
pub struct Names {
    bytes: Vec<u8>,
    ends: Vec<u32>,
    by_shard: Vec<Vec<u32>>,
}

impl Names {
    /// No names, in a cluster of `shards` shards.
    pub fn new(shards: u32) -> Names {
        Names { by_shard: vec![Vec::new(); shards as usize], ..Names::default() }
    }

    /// Adds a name, wherever it lives. Gives its index.
    pub fn add(&mut self, name: &[u8]) -> u32 {
        let index = u32::try_from(self.ends.len()).expect("there are few names");
        self.bytes.extend_from_slice(name);
        self.ends.push(u32::try_from(self.bytes.len()).expect("names are short"));
        let shards = u32::try_from(self.by_shard.len()).expect("shards are counted in a u32");
        self.by_shard[name::shard(name, shards) as usize].push(index);
        index
    }

    /// Adds a name that begins with `prefix` and lives in `shard`. Gives its index.
    pub fn add_in(&mut self, prefix: &str, shard: u32) -> u32 {
        let shards = u32::try_from(self.by_shard.len()).expect("shards are counted in a u32");
        assert!(shard < shards, "there is such a shard");
        let mut tries = (0u32..).map(|n| format!("{prefix}-{n}"));
        let found = tries.find(|candidate| name::shard(candidate.as_bytes(), shards) == shard);
        self.add(found.expect("numbers go on for ever").as_bytes())
    }

    /// A name by its index.
    pub fn get(&self, index: u32) -> &[u8] {
        let index = index as usize;
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        &self.bytes[start..self.ends[index] as usize]
    }

    /// The names that live in `shard`.
    pub fn in_shard(&self, shard: u32) -> &[u32] {
        &self.by_shard[shard as usize]
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_live_where_they_were_asked_to() {
        let mut names = Names::new(12);
        for shard in 0..12 {
            let index = names.add_in("bench/lock-7", shard);
            assert_eq!(name::shard(names.get(index), 12), shard);
            assert_eq!(names.in_shard(shard), [index]);
        }
        assert_eq!(names.len(), 12);
    }
}
