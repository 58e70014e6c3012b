//! Each rule sees what it is for, and lets pass what it is not for.

use super::rules::*;
use super::source::Source;

fn finds(rule: fn(&Source) -> Vec<String>, path: &str, text: &str) -> usize {
    rule(&Source::new(path, text)).len()
}

#[test]
fn comments_and_literals_are_no_code() {
    let text = concat!(
        "// unsafe\n/* unsafe /* unsafe */ unsafe */\n",
        "let a = \"unsafe \\\" unsafe\"; let b = r#\"unsafe \" unsafe\"#; let c = b\"unsafe\";\n",
        "let d = '\"'; let e = '\\''; fn f<'a>(x: &'a str) {} let g = 'ß'; unsafe {}\n"
    );
    let source = Source::new("client/src/lib.rs", text);
    assert_eq!(source.code.lines().count(), text.lines().count());
    let hits = source.find("unsafe");
    assert_eq!(hits.len(), 1, "{}", source.code);
    assert_eq!(source.line(hits[0]), 4);
}

#[test]
fn a_word_is_found_whole_or_not_at_all() {
    let source = Source::new("a.rs", "unsafe_code xunsafe unsafe; std::x nostd::y a.unwrap().b()");
    assert_eq!(source.find("unsafe").len(), 1);
    assert_eq!(source.find("std::").len(), 1);
    assert_eq!(source.find(".unwrap()").len(), 1);
}

#[test]
fn the_pure_part_takes_no_crate_but_alloc() {
    assert_eq!(finds(pure, "engine/src/raft/mod.rs", "extern crate std;"), 1);
    assert_eq!(finds(pure, "engine/src/lib.rs", "extern crate std as alloc;"), 1);
    assert_eq!(finds(pure, "engine/src/lib.rs", "extern crate alloc;"), 0);
    assert_eq!(finds(pure, "engine/src/edge/mod.rs", "extern crate std;"), 0);
}

#[test]
fn the_pure_part_has_no_std_outside_its_tests() {
    assert_eq!(finds(pure, "engine/src/shard/mod.rs", "use std::time::Instant;"), 1);
    assert_eq!(finds(pure, "engine/src/shard/mod.rs", "use ::std::time::Instant;"), 1);
    assert_eq!(finds(pure, "engine/src/shard/mod.rs", "use core::time::Duration; // std::"), 0);
    assert_eq!(finds(pure, "engine/src/bin/tercetd.rs", "use std::time::Instant;"), 0);
    let tested = "fn a() {}\n#[cfg(test)]\nmod tests { fn b() { std::fs::read(\"x\"); } }\n";
    assert_eq!(finds(pure, "engine/src/shard/mod.rs", tested), 0);
    let after = format!("{tested}fn c() {{ std::process::exit(1) }}");
    assert_eq!(finds(pure, "engine/src/shard/mod.rs", &after), 1);
}

#[test]
fn the_pure_part_has_no_table_with_a_random_order() {
    let path = "engine/src/machine/table.rs";
    assert_eq!(finds(pure, path, "use hashbrown::HashMap;"), 1);
    assert_eq!(finds(pure, path, "let m = hashbrown::HashSet::new();"), 1);
    assert_eq!(finds(pure, path, "use hashbrown::DefaultHashBuilder;"), 1);
    assert_eq!(finds(pure, path, "use hashbrown::{HashMap as M, hash_map};"), 1);
    assert_eq!(finds(pure, path, "use hashbrown::HashTable;"), 0);
    assert_eq!(finds(pure, "harness/src/check.rs", "use std::collections::HashMap;"), 0);
}

#[test]
fn no_part_imports_what_stands_on_it() {
    assert_eq!(finds(layers, "engine/src/raft/mod.rs", "use crate::effects::Note;"), 1);
    assert_eq!(finds(layers, "engine/src/raft/tests/mod.rs", "let e = crate::engine::on();"), 1);
    assert_eq!(finds(layers, "engine/src/journal/mod.rs", "use crate::{engine, ids};"), 1);
    assert_eq!(finds(layers, "engine/src/journal/mod.rs", "use crate::ids::Index; // engine"), 0);
    assert_eq!(finds(layers, "engine/src/shard/mod.rs", "use crate::effects::Note;"), 0);
    assert_eq!(finds(layers, "engine/src/engine.rs", "use crate::raft::Raft;"), 0);
}

#[test]
fn raft_never_names_what_it_replicates() {
    let path = "engine/src/raft/log.rs";
    assert_eq!(finds(raft_words, path, "/// The lock of the group."), 1);
    assert_eq!(finds(raft_words, path, "struct LockTable { queue_len: u8 }"), 2);
    assert_eq!(finds(raft_words, path, "fn uncached(caches: u8) {}"), 1);
    assert_eq!(finds(raft_words, path, "/// A clock blocks nobody; VecDeque, unlocked."), 0);
    assert_eq!(finds(raft_words, "engine/src/machine/locks/mod.rs", "struct Lock;"), 0);
}

#[test]
fn the_machine_never_names_what_replicates_it() {
    let path = "engine/src/machine/sessions.rs";
    assert_eq!(finds(machine_words, path, "use crate::ids::Term;"), 1);
    assert_eq!(finds(machine_words, path, "// as Raft says, in term 3"), 2);
    assert_eq!(finds(machine_words, path, "let term_id = 1;"), 1);
    assert_eq!(finds(machine_words, path, "// determine; terminate; draft"), 0);
    assert_eq!(finds(machine_words, "engine/src/shard/mod.rs", "use crate::raft::Raft;"), 0);
}

#[test]
fn a_service_of_the_machine_sees_no_other() {
    let path = "engine/src/machine/locks/codec.rs";
    assert_eq!(finds(machine_walls, path, "use crate::machine::queues::Queues;"), 1);
    assert_eq!(finds(machine_walls, path, "use crate::machine::Machine; impl Machine {}"), 2);
    assert_eq!(finds(machine_walls, path, "use crate::machine::ledger::Ledger; // Machine"), 0);
    assert_eq!(finds(machine_walls, path, "use crate::machine::locks::Lock;"), 0);
    let path = "engine/src/machine/ledger/mod.rs";
    assert_eq!(finds(machine_walls, path, "use crate::machine::locks::Locks;"), 1);
    assert_eq!(finds(machine_walls, "engine/src/machine/mod.rs", "use self::locks::Locks;"), 0);
}

#[test]
fn binary_is_read_and_written_in_one_place() {
    let path = "engine/src/entry.rs";
    assert_eq!(finds(one_codec, path, "out.extend_from_slice(&n.to_le_bytes());"), 1);
    assert_eq!(finds(one_codec, path, "let n = u32::from_le_bytes(four);"), 1);
    assert_eq!(finds(one_codec, path, "const MAGIC: u32 = u32::from_le_bytes(*b\"TCTX\");"), 0);
    assert_eq!(finds(one_codec, path, "#[test]\nfn t() { n.to_le_bytes(); }"), 0);
    assert_eq!(finds(one_codec, "wire/src/bytes.rs", "n.to_le_bytes()"), 0);
    assert_eq!(finds(one_codec, "client/src/lib.rs", "n.to_le_bytes()"), 0);
}

#[test]
fn only_the_edge_is_unsafe() {
    assert_eq!(finds(unsafe_only_in_edge, "engine/src/journal/mod.rs", "unsafe { f() }"), 1);
    assert_eq!(finds(unsafe_only_in_edge, "client/src/lib.rs", "unsafe impl Send for A {}"), 1);
    assert_eq!(finds(unsafe_only_in_edge, "engine/src/lib.rs", "#![forbid(unsafe_code)]"), 0);
    assert_eq!(finds(unsafe_only_in_edge, "engine/src/edge/ring.rs", "unsafe { f() }"), 0);
}

#[test]
fn few_files_name_the_runtime() {
    assert_eq!(finds(glommio_only_where_listed, "engine/src/edge/wal.rs", "use glommio::io;"), 1);
    assert_eq!(finds(glommio_only_where_listed, "engine/src/edge/core.rs", "use glommio::io;"), 0);
    assert_eq!(finds(glommio_only_where_listed, "engine/src/edge/wal.rs", "// as glommio does"), 0);
}

#[test]
fn files_and_functions_have_a_size() {
    let lines = |n: usize| "a;\n".repeat(n);
    assert_eq!(finds(file_size, "a.rs", &lines(800)), 0);
    assert_eq!(finds(file_size, "a.rs", &lines(801)), 1);
    let function = |n: usize| format!("fn f<T: Fn(u8) -> [u8; 2]>(x: T) {{\n{}}}\n", lines(n));
    assert_eq!(finds(function_size, "a.rs", &function(68)), 0);
    assert_eq!(finds(function_size, "a.rs", &function(69)), 1);
    assert_eq!(finds(function_size, "a/tests.rs", &function(118)), 0);
    assert_eq!(finds(function_size, "a/tests.rs", &function(119)), 1);
    assert_eq!(finds(function_size, "a.rs", &format!("type F = fn(u8);\n{}", lines(200))), 0);
    assert_eq!(finds(function_size, "a.rs", &format!("fn f(x: u8);\n{}", lines(200))), 0);
}

#[test]
fn a_bug_is_planted_behind_a_rule() {
    let path = "engine/src/raft/lead.rs";
    let rule = "fn may_vote() -> bool {\n    !mutant::on(Mutant::VoteTwice)\n}\n";
    assert_eq!(finds(mutants_behind_rules, path, rule), 0);
    let long = format!("fn on_vote() {{\n{}{rule}}}\n", "a;\n".repeat(20));
    assert_eq!(finds(mutants_behind_rules, path, &long), 0, "the innermost function counts");
    let long = format!("fn on_vote() {{\n{}mutant::on(A);\n}}\n", "a;\n".repeat(20));
    assert_eq!(finds(mutants_behind_rules, path, &long), 1);
    assert_eq!(finds(mutants_behind_rules, "harness/src/sim/mod.rs", &long), 0);
    assert_eq!(finds(mutants_behind_rules, path, "const A: bool = mutant::on(A);"), 1);
}

#[test]
fn a_types_name_means_one_thing() {
    let of = |path: &str, text: &str| core_types(&Source::new(path, text));
    let one = of("engine/src/raft/mod.rs", "pub struct State {}\nstruct Place;\n");
    let other =
        of("engine/src/shard/state.rs", "pub(in crate::shard) enum State { A }\nstruct Place;\n");
    assert_eq!(names_once([one.clone(), other].concat()).len(), 2);
    let named = of("engine/src/shard/mod.rs", "impl A for B {\n    type State = u8;\n}\n");
    assert_eq!(names_once([one.clone(), named].concat()).len(), 0);
    let edge = of("engine/src/edge/mod.rs", "pub enum State { A }");
    let tests = of("engine/src/raft/tests/mod.rs", "pub struct State;");
    assert_eq!(names_once([one, edge, tests].concat()).len(), 0);
}

#[test]
fn a_part_states_what_it_relies_on() {
    let text = "fn a() { assert!(b); assert_eq!(c, d); }\nfn e() {}\nfn f() {}\nfn g() {}\n";
    let sources = [
        Source::new("engine/src/raft/mod.rs", text),
        Source::new("engine/src/raft/tests/mod.rs", "fn t() { assert!(a); assert!(b); }"),
        Source::new("engine/src/shard/mod.rs", "fn s() { assert!(a); }"),
    ];
    assert_eq!(assertions(&sources, "raft", 50).len(), 0);
    assert_eq!(assertions(&sources, "raft", 51).len(), 1);
}

#[test]
fn a_module_opens_with_what_it_is() {
    assert_eq!(finds(module_doc, "engine/src/raft/mod.rs", "use core::fmt;"), 1);
    assert_eq!(finds(module_doc, "engine/src/raft/mod.rs", "//! Raft."), 0);
    assert_eq!(finds(module_doc, "engine/src/raft/tests.rs", "use super::*;"), 0);
    assert_eq!(finds(module_doc, "engine/src/raft/tests/votes.rs", "use super::*;"), 0);
}

#[test]
fn nothing_is_left_for_later() {
    assert_eq!(finds(unfinished, "a.rs", "fn f() { todo!() }"), 1);
    assert_eq!(finds(unfinished, "a.rs", "fn f() { unimplemented!(\"later\") }"), 1);
    assert_eq!(finds(unfinished, "a.rs", "// FIXME: later\n// TODO(me) later"), 2);
    assert_eq!(finds(unfinished, "a.rs", "// the method of mastodons"), 0);
}

#[test]
fn unwrap_stands_only_in_tests() {
    assert_eq!(finds(unwrap_only_in_tests, "client/src/lib.rs", "f().unwrap();"), 1);
    assert_eq!(finds(unwrap_only_in_tests, "client/src/lib.rs", "/// f().unwrap();"), 0);
    assert_eq!(finds(unwrap_only_in_tests, "client/src/lib.rs", "f().unwrap_or(1);"), 0);
    assert_eq!(finds(unwrap_only_in_tests, "client/tests/a.rs", "f().unwrap();"), 0);
    assert_eq!(
        finds(unwrap_only_in_tests, "client/src/a.rs", "#[test]\nfn g() { f().unwrap() }"),
        0
    );
}

#[test]
fn a_limit_says_what_it_limits() {
    let path = "engine/src/limits.rs";
    assert_eq!(finds(limits_documented, path, "pub const A_MAX: usize = 1;"), 1);
    assert_eq!(finds(limits_documented, path, "/// The longest A.\npub const A_MAX: u8 = 1;"), 0);
    assert_eq!(finds(limits_documented, path, "const _: () = assert!(true);"), 0);
}

#[test]
fn no_file_names_one_machine() {
    let path = concat!("see /ro", "ot/x");
    assert_eq!(no_machine("README.md", path).len(), 1);
    assert_eq!(no_machine("README.md", "see ./x").len(), 0);
    let public = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
    assert_eq!(no_machine("Cargo.lock", public).len(), 0);
    assert_eq!(no_machine("Cargo.lock", "source = \"git+https://example.com/x\"").len(), 1);
}
