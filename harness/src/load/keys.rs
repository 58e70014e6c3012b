//! The keys of lines, so close together that one is found with one look into memory.

use super::names::Names;
use engine::edge::touch::touch;
use std::ops::Range;

/// Names that are counted up shard by shard, each in a row of the same length.
#[derive(Clone, Debug)]
pub struct Keys {
    /// Each row: a name, then nothing, and the name's length in the last byte.
    rows: Vec<u8>,
    row_bytes: usize,
    /// By shard: where its lines end.
    ends: Vec<u32>,
}

impl Keys {
    /// The names of a cluster of `shards` shards, by their shards.
    pub fn new(names: &Names, shards: u32) -> Keys {
        let by_shard = (0..shards).map(|shard| names.in_shard(shard));
        let all = || by_shard.clone().flatten().map(|index| names.get(*index));
        let longest = all().map(<[u8]>::len).max().unwrap_or(0);
        let row_bytes = longest + 1;
        let mut rows = vec![0; names.len() * row_bytes];
        for (row, name) in rows.chunks_exact_mut(row_bytes).zip(all()) {
            row[..name.len()].copy_from_slice(name);
            row[longest] = u8::try_from(name.len()).expect("lines have short names");
        }
        let ends = by_shard.clone().scan(0, |end, of| {
            *end += u32::try_from(of.len()).expect("lines are counted in a u32");
            Some(*end)
        });
        Keys { ends: ends.collect(), rows, row_bytes }
    }

    /// A line's name.
    #[inline]
    pub fn name(&self, line: u32) -> &[u8] {
        let row = self.row(line);
        &row[..usize::from(row[self.row_bytes - 1])]
    }

    /// Has memory fetch a line's name, which is needed soon.
    #[inline]
    pub fn touch(&self, line: u32) {
        touch(self.row(line));
    }

    #[inline]
    fn row(&self, line: u32) -> &[u8] {
        let at = line as usize * self.row_bytes;
        &self.rows[at..at + self.row_bytes]
    }

    /// The lines that live in `shard`.
    #[inline]
    pub fn in_shard(&self, shard: u32) -> Range<u32> {
        let shard = shard as usize;
        let start = if shard == 0 { 0 } else { self.ends[shard - 1] };
        start..self.ends[shard]
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.rows.len() / self.row_bytes
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_of_a_shard_are_beside_each_other_and_live_there() {
        let mut names = Names::new(3);
        for number in 0..40 {
            names.add(format!("bench/{number}").as_bytes());
        }
        let keys = Keys::new(&names, 3);
        assert_eq!(keys.len(), 40);
        let mut seen = Vec::new();
        for shard in 0..3 {
            for line in keys.in_shard(shard) {
                assert_eq!(wire::name::shard(keys.name(line), 3), shard);
                seen.push(keys.name(line).to_vec());
            }
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 40);
    }
}
