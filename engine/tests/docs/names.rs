//! A test, a file or a planted bug that a page names is there. So a guarantee can't outlive what holds it.

use super::pages::{Page, files, lines, pages, read, workspace};
use engine::mutant::Mutant;
use std::collections::BTreeSet;

/// Where paths of the tree begin.
const ROOTS: &[&str] = &[
    "wire/",
    "client/",
    "engine/",
    "harness/",
    "fuzz/",
    "docker/",
    "docs/",
    "bench-reports/",
    ".ci/",
];
/// Where sources lie.
const SOURCES: &[&str] = &["wire", "client", "engine", "harness", "fuzz/targets"];
/// A name with so many words is a test's: a sentence.
const WORDS_MIN: usize = 5;

/// What a page says in `code`, but in blocks.
fn spans(page: &Page) -> Vec<String> {
    let spans = lines(&page.text).flat_map(|line| line.split('`').skip(1).step_by(2));
    spans.map(String::from).collect()
}

/// A path of the tree, or the end of one: the map names a module by its path in its crate.
fn is_path(span: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-');
    let whole = ROOTS.iter().any(|root| span.starts_with(root));
    span.chars().all(plain) && (whole || (span.ends_with(".rs") && span != ".rs"))
}

fn is_claim(span: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    // What a metric is called, another test holds.
    let metric = span.starts_with("tercet_");
    !metric && span.chars().all(plain) && span.split('_').count() >= WORDS_MIN
}

fn is_mutant(span: &str) -> bool {
    let words = span.chars().filter(char::is_ascii_uppercase).count();
    span.chars().all(|c| c.is_ascii_alphabetic())
        && span.starts_with(|c: char| c.is_ascii_uppercase())
        && words > 1
}

/// Every function of the sources, and every file's name without what stands behind its dot.
fn claims() -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    for path in SOURCES.iter().flat_map(|root| files(root)) {
        let name = path.rsplit('/').next().expect("a split has a last part");
        known.insert(name.split('.').next().expect("a split has a first part").to_string());
        if path.ends_with(".rs") {
            let text = read(&path).text;
            let functions = text.split("fn ").skip(1);
            let end = |c: char| !c.is_ascii_alphanumeric() && c != '_';
            known.extend(functions.filter_map(|rest| Some(rest.split(end).next()?.to_string())));
        }
    }
    known
}

#[test]
fn what_a_page_names_is_there() {
    let claims = claims();
    let sources: Vec<String> = SOURCES.iter().flat_map(|root| files(root)).collect();
    let mut found = Vec::new();
    for page in pages() {
        for span in spans(&page) {
            let end = format!("/{span}");
            let exists = || {
                workspace().join(&span).exists()
                    || workspace().join("engine/src").join(&span).exists()
                    || sources.iter().any(|path| path.ends_with(&end))
            };
            let gone =
                (is_path(&span) && !exists()) || (is_claim(&span) && !claims.contains(&span));
            if gone {
                found.push(format!("{}: {span}", page.path));
            }
        }
    }
    assert!(found.is_empty(), "not in the tree:\n{}", found.join("\n"));
}

#[test]
fn what_a_finding_says_is_planted_is_planted() {
    let mutants: BTreeSet<&str> = Mutant::ALL.iter().map(|(_, name, _)| *name).collect();
    let mut found = Vec::new();
    for page in pages().iter().filter(|page| page.path.starts_with("docs/findings/")) {
        for line in lines(&page.text) {
            let Some((_, named)) = line.split_once("lanted: ") else { continue };
            let spans = named.split('`').skip(1).step_by(2).filter(|span| is_mutant(span));
            let gone = spans.filter(|span| !mutants.contains(span));
            found.extend(gone.map(|span| format!("{}: {span}", page.path)));
        }
    }
    assert!(found.is_empty(), "not planted:\n{}", found.join("\n"));
}

#[test]
fn names_are_told_apart() {
    assert!(is_path("engine/src/raft") && is_path("raft/lead.rs") && !is_path("engine/*.rs"));
    assert!(is_claim("a_torn_tail_is_dropped") && !is_claim("a_word") && !is_claim("A_B_C_D_E"));
    assert!(is_mutant("VoteTwice") && !is_mutant("Vote") && !is_mutant("vote"));
}
