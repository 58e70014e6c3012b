//! Any bytes as the body of any message: no reader panics, and what the server's way (checked access to an
//! archive) accepts, the client's way (by hand) reads alike.
#![no_main]

#[path = "../../wire/tests/common/mod.rs"]
mod common;

use common::{Example, examples};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use wire::topology;

static EXAMPLES: LazyLock<Vec<Example>> = LazyLock::new(examples);

fuzz_target!(|bytes: &[u8]| {
    let Some((which, body)) = bytes.split_first() else { return };
    let example = &EXAMPLES[usize::from(*which) % EXAMPLES.len()];
    let decoded = (example.decode)(body);
    if let Ok(viewed) = (example.view)(body) {
        assert_eq!(decoded, Ok(viewed), "{}", example.name);
    }
    let _ = topology::read_nodes(body);
    let _ = topology::read_placement(body);
});
