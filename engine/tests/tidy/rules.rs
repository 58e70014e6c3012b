//! The rules. Each takes one file and gives what is wrong with it, a line of text for each.

use super::source::{Source, partner};
use std::ops::Range;

/// Lines of a file, at most.
const FILE_LINES_MAX: usize = 800;
/// Lines of a function, at most.
const FUNCTION_LINES_MAX: usize = 70;
/// Lines of a test, at most: a story is told in one go.
const TEST_LINES_MAX: usize = 120;
/// The functions that are longer, and how long each may be.
const FUNCTIONS_MAY: &[(&str, &str, usize)] = &[
    ("engine/src/edge/control.rs", "run", 80),
    ("harness/src/chaos/run.rs", "stage", 72),
    ("harness/src/load/core.rs", "new", 82),
    ("harness/src/sim/nodes.rs", "perform", 80),
    ("harness/src/sim/nodes.rs", "turn", 90),
    ("harness/src/sim/mod.rs", "new", 85),
    ("harness/src/sim/watch.rs", "on_turn", 87),
    ("harness/src/bin/tercet-sim.rs", "main", 80),
];
/// What the parts of the pure core state, at least: assertions for a hundred functions. It does not fall.
pub const ASSERTIONS_MIN: &[(&str, usize)] =
    &[("raft", 31), ("machine", 20), ("journal", 48), ("shard", 23)];

/// Lines of a function in which a bug may be planted, at most.
const MUTANT_LINES_MAX: usize = 12;

/// Where numbers become bytes by hand: the one reader and the one writer, and the layout of messages, on whose every
/// field they would cost a call.
const CODEC_MAY: &[&str] = &["wire/src/bytes.rs", "wire/src/layout.rs"];

/// Where `unsafe` may stand: the edge, and nowhere else.
const UNSAFE_MAY: &[&str] = &["engine/src/edge/"];

/// The files that may name glommio, so that the runtime can be replaced.
const GLOMMIO_MAY: &[&str] = &[
    // The data plane's executors.
    "engine/src/edge/core.rs",
    "engine/src/edge/data.rs",
    // The control plane's executor, its HTTP server and its files.
    "engine/src/edge/control.rs",
    "engine/src/edge/control/",
    "engine/src/edge/http.rs",
    "engine/src/edge/http/",
    "engine/src/edge/snapshots.rs",
    "engine/src/edge/snapshots/",
];

/// What a part of the pure core may not import: what stands on it.
const LAYERS: &[(&str, &[&str])] = &[
    ("entry", &["raft", "machine", "journal", "shard", "effects", "status", "engine", "open"]),
    ("raft", &["machine", "journal", "shard", "effects", "status", "engine", "open"]),
    ("machine", &["raft", "journal", "shard", "effects", "engine", "open"]),
    ("journal", &["raft", "machine", "shard", "effects", "status", "engine", "open"]),
    ("shard", &["engine", "open"]),
];

/// A rule: its name and what it finds.
pub type Rule = (&'static str, fn(&Source) -> Vec<String>);

/// Every rule for Rust files.
pub const RULES: &[Rule] = &[
    ("pure", pure),
    ("layers", layers),
    ("raft-words", raft_words),
    ("machine-words", machine_words),
    ("machine-walls", machine_walls),
    ("codec", one_codec),
    ("unsafe", unsafe_only_in_edge),
    ("glommio", glommio_only_where_listed),
    ("file-size", file_size),
    ("function-size", function_size),
    ("mutants", mutants_behind_rules),
    ("module-doc", module_doc),
    ("unfinished", unfinished),
    ("unwrap", unwrap_only_in_tests),
    ("limits", limits_documented),
];

/// Whether the file is in the engine's pure part.
fn is_pure(path: &str) -> bool {
    path.starts_with("engine/src/")
        && !path.starts_with("engine/src/edge/")
        && !path.starts_with("engine/src/bin/")
        && path != "engine/src/main.rs"
}

fn at(source: &Source, byte: usize, what: &str) -> String {
    format!("{}:{}: {what}", source.path, source.line(byte))
}

/// The pure part has no door to the world that the compiler can't see: no crate but `alloc`, no
/// `std`, no table whose order a random or address-born seed decides.
pub fn pure(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    if !is_pure(&source.path) {
        return found;
    }
    for byte in source.find("extern crate") {
        let name = source.code[byte + "extern crate".len()..].trim_start();
        if !name.starts_with("alloc;") {
            found.push(at(source, byte, "the pure part takes no crate by hand but `alloc`"));
        }
    }
    let doors = [
        ("std::", "the pure part has no `std`: time and chance come in as arguments"),
        (
            "HashMap",
            "a hashed map iterates in an order of its own: use HashTable with the \
          cluster's hash, or BTreeMap",
        ),
        ("HashSet", "a hashed set iterates in an order of its own: use HashTable or BTreeSet"),
        ("DefaultHashBuilder", "the default hasher draws its seed from addresses"),
        ("RandomState", "a random hasher iterates differently on each replica"),
        ("foldhash", "foldhash seeds itself from addresses"),
        ("thread_local", "the pure part keeps its state in its values"),
        ("static mut", "the pure part keeps its state in its values"),
    ];
    for (word, why) in doors {
        let hits = source.find(word).into_iter().filter(|b| !source.in_test(*b));
        found.extend(hits.map(|byte| at(source, byte, why)));
    }
    found
}

/// A part imports nothing that stands on it, so that it can be read, tested and replaced alone.
pub fn layers(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    let Some((part, above)) = LAYERS.iter().find(|(part, _)| under(&source.path, part)) else {
        return found;
    };
    for byte in source.find("crate::") {
        let path = source.code[byte + "crate::".len()..].trim_start();
        let name = path.split(|c: char| !c.is_alphanumeric() && c != '_').next();
        if path.starts_with('{') {
            found.push(at(
                source,
                byte,
                "one `use crate::` for each module, so that it can be seen",
            ));
        } else if name.is_some_and(|name| above.contains(&name)) {
            let what = format!("`{part}` knows nothing of `{}`", name.unwrap_or_default());
            found.push(at(source, byte, &what));
        }
    }
    found
}

/// Raft moves opaque bytes.
pub fn raft_words(source: &Source) -> Vec<String> {
    if !under(&source.path, "raft") {
        return Vec::new();
    }
    let words = ["lock", "locks", "queue", "queues", "cache", "caches"];
    speaks(source, &words, "raft does not know what it replicates")
}

/// The machine does not know that it is replicated.
pub fn machine_words(source: &Source) -> Vec<String> {
    if !under(&source.path, "machine") {
        return Vec::new();
    }
    speaks(source, &["raft", "term", "terms"], "the machine does not know that it is replicated")
}

/// What stands behind a wall in the machine: each service, and the ledger that they share.
const WALLED: [&str; 4] = ["cache", "ledger", "locks", "queues"];

/// A service of the machine sees the ledger and itself: neither another service nor the whole. The compiler sees that
/// nobody else sees its fields.
pub fn machine_walls(source: &Source) -> Vec<String> {
    let Some(own) = WALLED.iter().find(|own| under(&source.path, &format!("machine/{own}"))) else {
        return Vec::new();
    };
    let others = WALLED.iter().filter(|other| *other != own && **other != "ledger");
    let mut found = Vec::new();
    for door in others.map(|other| format!("machine::{other}")).chain(["Machine".into()]) {
        let hits = source.find(&door).into_iter();
        let what =
            format!("`{door}` is behind a wall for {own}: it gets the ledger as an argument");
        found.extend(hits.map(|byte| at(source, byte, &what)));
    }
    found
}

fn under(path: &str, area: &str) -> bool {
    let rest = path.strip_prefix("engine/src/").and_then(|p| p.strip_prefix(area));
    rest.is_some_and(|r| r.starts_with('/') || r == ".rs")
}

/// Where the text, comments too, says one of `words`, alone or as a part of a longer identifier.
fn speaks(source: &Source, words: &[&str], why: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in source.text.lines().enumerate() {
        for word in split_words(line) {
            if words.contains(&word.as_str()) {
                let what = format!("says \"{word}\": {why}");
                found.push(format!("{}:{}: {what}", source.path, number + 1));
            }
        }
    }
    found
}

/// The words of a line: letters between anything else, cut before each capital that follows a small
/// letter.
fn split_words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut small = false;
    for c in line.chars() {
        if !c.is_ascii_alphabetic() || (small && c.is_ascii_uppercase()) {
            words.push(String::new());
        }
        if c.is_ascii_alphabetic() {
            words.last_mut().expect("there is always a word").push(c.to_ascii_lowercase());
        }
        small = c.is_ascii_lowercase();
    }
    words.retain(|w| !w.is_empty());
    words
}

/// Binary is read and written in one way: by `wire::bytes`.
pub fn one_codec(source: &Source) -> Vec<String> {
    let path = &source.path;
    let ours = path.starts_with("wire/src/") || path.starts_with("engine/src/");
    if !ours || CODEC_MAY.iter().any(|p| path.starts_with(p)) {
        return Vec::new();
    }
    let hits = ["from_le_bytes", "to_le_bytes"].into_iter().flat_map(|word| source.find(word));
    let hits = hits.filter(|byte| {
        let line = source.code[..*byte].rfind('\n').map_or(0, |at| at + 1);
        !source.in_test(*byte) && !source.code[line..*byte].contains("const ")
    });
    hits.map(|b| at(source, b, "numbers become bytes, and bytes numbers, in `wire::bytes`"))
        .collect()
}

/// `unsafe` stands only where the world is.
pub fn unsafe_only_in_edge(source: &Source) -> Vec<String> {
    if UNSAFE_MAY.iter().any(|p| source.path.starts_with(p)) {
        return Vec::new();
    }
    let hits = source.find("unsafe").into_iter();
    hits.map(|b| at(source, b, "`unsafe` stands only under engine/src/edge")).collect()
}

/// Few files know the runtime.
pub fn glommio_only_where_listed(source: &Source) -> Vec<String> {
    if GLOMMIO_MAY.iter().any(|p| source.path.starts_with(p)) {
        return Vec::new();
    }
    let hits = source.find("glommio").into_iter();
    hits.map(|b| at(source, b, "this file may not name glommio; see GLOMMIO_MAY")).collect()
}

/// Size is a smell.
pub fn file_size(source: &Source) -> Vec<String> {
    let lines = source.text.lines().count();
    if lines <= FILE_LINES_MAX {
        return Vec::new();
    }
    vec![format!("{}: {lines} lines; split it (at most {FILE_LINES_MAX})", source.path)]
}

/// Size is a smell, of functions too.
pub fn function_size(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    for f in functions(source) {
        let listed = FUNCTIONS_MAY.iter().find(|it| it.0 == source.path && it.1 == f.name);
        let most = match listed {
            Some((_, _, most)) => *most,
            None if source.in_test(f.at) => TEST_LINES_MAX,
            None => FUNCTION_LINES_MAX,
        };
        if f.lines > most {
            let what = format!("`{}` has {} lines; split it (at most {most})", f.name, f.lines);
            found.push(at(source, f.at, &what));
        }
    }
    found
}

/// How many assertions and how many functions a file has outside its tests.
fn stated(source: &Source) -> (usize, usize) {
    let words = ["assert!", "assert_eq!", "assert_ne!"];
    let asserts = words.into_iter().flat_map(|word| source.find(word));
    let asserts = asserts.filter(|byte| !source.in_test(*byte)).count();
    (asserts, functions(source).iter().filter(|f| !source.in_test(f.at)).count())
}

/// A part of the pure core states what it relies on: so many assertions for a hundred functions, at least.
pub fn assertions(sources: &[Source], part: &str, least: usize) -> Vec<String> {
    let of_part = sources.iter().filter(|source| under(&source.path, part)).map(stated);
    let (asserts, functions) = of_part.fold((0, 0), |sum, it| (sum.0 + it.0, sum.1 + it.1));
    if asserts * 100 >= functions * least {
        return Vec::new();
    }
    vec![format!(
        "`{part}` has {asserts} assertions in {functions} functions; state more (at least {least} in 100)"
    )]
}

/// A planted bug stands behind a function whose name is the rule that it breaks, so that the code around it reads
/// as the paper does.
pub fn mutants_behind_rules(source: &Source) -> Vec<String> {
    if !is_pure(&source.path) {
        return Vec::new();
    }
    let functions = functions(source);
    let mut found = Vec::new();
    for byte in source.find("mutant::on") {
        let around = functions.iter().filter(|f| f.body.contains(&byte)).min_by_key(|f| f.lines);
        if around.is_none_or(|f| f.lines > MUTANT_LINES_MAX) {
            found.push(at(
                source,
                byte,
                "a bug is planted in a function of its own, named by the rule",
            ));
        }
    }
    found
}

/// The types that the pure core declares, with where each is. What a trait or its implementation names stands inside
/// that, and so further in.
pub fn core_types(source: &Source) -> Vec<(String, String)> {
    let mut found = Vec::new();
    if !is_pure(&source.path) {
        return found;
    }
    for word in ["struct", "enum", "union", "trait", "type"] {
        for byte in source.find(word) {
            let line = source.code[..byte].rfind('\n').map_or(0, |at| at + 1);
            let before = &source.code[line..byte];
            let seen = before == "pub " || (before.starts_with("pub(") && before.ends_with(") "));
            if !(before.is_empty() || seen) || source.in_test(byte) {
                continue;
            }
            let name = source.code[byte + word.len()..].trim_start();
            let name = name.split(|c: char| !c.is_alphanumeric() && c != '_').next();
            let name = name.unwrap_or_default().to_string();
            found.push((name, format!("{}:{}", source.path, source.line(byte))));
        }
    }
    found
}

/// A type's name means one thing in the pure core: what each file declares, as [`core_types`] gives it.
pub fn names_once(mut types: Vec<(String, String)>) -> Vec<String> {
    types.sort();
    let twice = types.windows(2).filter(|pair| pair[0].0 == pair[1].0);
    twice
        .map(|pair| format!("{}: `{}` is also a type in {}", pair[1].1, pair[1].0, pair[0].1))
        .collect()
}

/// A function with a body.
struct Function {
    name: String,
    /// Where its `fn` stands.
    at: usize,
    body: Range<usize>,
    lines: usize,
}

/// Every function of the file that has a body, those inside others too.
fn functions(source: &Source) -> Vec<Function> {
    let mut found = Vec::new();
    for at in source.find("fn") {
        let Some(open) = body_of(&source.code, at) else { continue };
        let end = partner(&source.code, open);
        let name = source.code[at + 2..].trim_start();
        let name = name.split(|c: char| !c.is_alphanumeric() && c != '_').next();
        found.push(Function {
            name: name.unwrap_or_default().to_string(),
            at,
            body: open..end,
            lines: source.line(end - 1) + 1 - source.line(at),
        });
    }
    found
}

/// Where the body of the function whose `fn` stands at `byte` opens; `None` for a declaration or a
/// type.
fn body_of(code: &str, byte: usize) -> Option<usize> {
    let name = code[byte + 2..].trim_start();
    if !name.starts_with(|c: char| c.is_alphabetic() || c == '_') {
        return None;
    }
    let mut i = byte;
    while i < code.len() {
        match code.as_bytes()[i] {
            b'(' | b'[' => i = partner(code, i),
            b'{' => return Some(i),
            b';' => return None,
            _ => i += 1,
        }
    }
    None
}

/// A module says what it is before it says anything else.
pub fn module_doc(source: &Source) -> Vec<String> {
    let file = source.path.rsplit('/').next().unwrap_or_default();
    let owes = matches!(file, "mod.rs" | "lib.rs" | "main.rs") || source.path.contains("/src/");
    let test = file == "tests.rs" || (file != "mod.rs" && source.path.contains("/tests/"));
    if !owes || test || source.text.starts_with("//!") {
        return Vec::new();
    }
    vec![format!("{}:1: opens without a module doc (`//!`)", source.path)]
}

/// Nothing is left for later.
pub fn unfinished(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    for (word, what) in [("todo!", "todo!"), ("unimplemented!", "unimplemented!")] {
        let hits = source.find(word).into_iter();
        found.extend(hits.map(|b| at(source, b, &format!("`{what}` is left"))));
    }
    // In comments too, but not in this tidy itself, which must name what it looks for.
    if source.path.starts_with("engine/tests/tidy") {
        return found;
    }
    for mark in ["TODO", "FIXME", "XXX", "HACK"] {
        for (number, line) in source.text.lines().enumerate() {
            if line.split(|c: char| !c.is_alphanumeric()).any(|w| w == mark) {
                found.push(format!("{}:{}: a {mark} is left", source.path, number + 1));
            }
        }
    }
    found
}

/// `expect` is a small proof; `unwrap` is none.
pub fn unwrap_only_in_tests(source: &Source) -> Vec<String> {
    let hits = source.find(".unwrap()").into_iter().filter(|b| !source.in_test(*b));
    hits.map(|b| at(source, b, "`unwrap` outside tests: say why it holds with `expect`")).collect()
}

/// Every limit says what it limits.
pub fn limits_documented(source: &Source) -> Vec<String> {
    if !source.path.ends_with("limits.rs") {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut documented = false;
    for (number, line) in source.text.lines().map(str::trim).enumerate() {
        let item = line.trim_start_matches("pub ").trim_start_matches("pub(crate) ");
        if item.starts_with("const ") && !item.starts_with("const _") && !documented {
            found.push(format!("{}:{}: a limit without a doc comment", source.path, number + 1));
        }
        documented = line.starts_with("///") || (documented && line.starts_with("#["));
    }
    found
}

/// No text names a place that only one machine has: a path of it, or a registry of its network.
/// For every file, Rust or not.
pub fn no_machine(path: &str, text: &str) -> Vec<String> {
    // Cut in two, so that this file does not find itself.
    let needles = [
        concat!("/wo", "rk/"),
        concat!("/tmp/", "wt"),
        concat!("/tmp/", "target"),
        concat!("/tmp/", "brief"),
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
        concat!("arti", "factory"),
        concat!("replace", "-with"),
        concat!("sparse", "+http"),
    ];
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for needle in needles {
            if line.contains(needle) {
                found.push(format!("{path}:{}: names {needle}", number + 1));
            }
        }
        // The lock file names one registry, the public one, for each package.
        let public = "\"registry+https://github.com/rust-lang/crates.io-index\"";
        let source = line.strip_prefix("source = ");
        if path.ends_with("Cargo.lock") && source.is_some_and(|s| s != public) {
            found.push(format!("{path}:{}: a package from elsewhere than crates.io", number + 1));
        }
    }
    found
}
