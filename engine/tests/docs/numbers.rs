//! Every number under which the server ends or warns stands once in the operators' page, and no other.

use super::pages::{cells, files, lines, pages, read};
use std::collections::{BTreeMap, BTreeSet};

/// The page that has a row for each.
pub const PAGE: &str = "docs/operations.md";

/// The numbers in a text: an E and three digits.
fn numbers(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    let number = |word: &&str| {
        let digits = word.strip_prefix('E');
        digits.is_some_and(|d| d.len() == 3 && d.bytes().all(|b| b.is_ascii_digit()))
    };
    words.filter(number).map(String::from).collect()
}

/// Those that the engine's code can give: what its tests and comments say does not count.
fn given() -> BTreeSet<String> {
    let sources = files("engine/src").into_iter().filter(|path| path.ends_with(".rs"));
    let sources = sources.filter(|path| !path.contains("/tests/") && !path.ends_with("tests.rs"));
    let code = |path: String| {
        let text = read(&path).text;
        let text = text
            .split("#[cfg(test)]\nmod tests {")
            .next()
            .expect("a split has a first part")
            .to_string();
        let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        lines.map(|line| format!("{line}\n")).collect::<String>()
    };
    sources.flat_map(|path| numbers(&code(path))).collect()
}

/// Where each number opens a row of a table, in all pages: the row's first word is a number.
fn rows() -> BTreeMap<String, Vec<String>> {
    let mut rows: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for page in pages() {
        for cells in lines(&page.text).filter_map(cells) {
            let first = cells[0].split(' ').next().expect("a split has a first part");
            for number in numbers(first) {
                rows.entry(number).or_default().push(page.path.clone());
            }
        }
    }
    rows
}

#[test]
fn every_number_has_one_row_in_the_operators_page() {
    let given = given();
    assert!(given.len() > 50, "the numbers were not found: {given:?}");
    let rows = rows();
    let missing: Vec<_> = given.iter().filter(|number| !rows.contains_key(*number)).collect();
    assert!(missing.is_empty(), "{PAGE} has no row for {missing:?}");
    for (number, at) in rows {
        assert!(given.contains(&number), "{number} is in {at:?}, and the code does not give it");
        assert_eq!(at, [PAGE], "{number} has a row elsewhere, or two");
    }
}

#[test]
fn numbers_are_told_from_other_words() {
    assert_eq!(numbers("E101 (E202), E3033 and AE404"), ["E101", "E202"].map(String::from).into());
}
