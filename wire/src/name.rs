//! Names to shards. Frozen: golden vectors in `tests/vectors.rs` hold it for ever.

use crate::limits::NAME_BYTES_MAX;

/// The part of a name that decides its shard: what stands between the first `{` and the next `}`
/// when that is not empty, else the whole name. So `a/{order-7}` and `b/{order-7}` live together.
pub fn tag(name: &[u8]) -> &[u8] {
    let Some(open) = name.iter().position(|b| *b == b'{') else {
        return name;
    };
    let rest = &name[open + 1..];
    match rest.iter().position(|b| *b == b'}') {
        Some(0) | None => name,
        Some(close) => &rest[..close],
    }
}

/// The namespace of a name: what stands before its first `/`, or nothing.
pub fn namespace(name: &[u8]) -> &[u8] {
    match name.iter().position(|b| *b == b'/') {
        Some(slash) => &name[..slash],
        None => &[],
    }
}

/// Hash of the part of a name that decides its shard: XXH64 with seed 0.
pub fn hash(name: &[u8]) -> u64 {
    xxhash_rust::xxh64::xxh64(tag(name), 0)
}

/// The shard of `name` in a cluster of `shards` shards.
///
/// ```
/// assert_eq!(wire::name::shard(b"a/{x}", 12), wire::name::shard(b"b/{x}", 12));
/// ```
pub fn shard(name: &[u8], shards: u32) -> u32 {
    assert!(shards > 0, "a cluster has at least one shard");
    u32::try_from(hash(name) % u64::from(shards)).expect("a remainder of a u32 is a u32")
}

/// Whether `name` may name anything: 1 to [`NAME_BYTES_MAX`] bytes.
pub fn is_valid(name: &[u8]) -> bool {
    !name.is_empty() && name.len() <= NAME_BYTES_MAX
}
