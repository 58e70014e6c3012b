//! Sentences are short.

use super::pages::{cells, lines, pages};

/// Words of a sentence, at most.
const WORDS_MAX: usize = 40;
/// Words of a page's median sentence, at most. Cells of tables do not count here: they are short by nature.
const WORDS_MEDIAN_MAX: usize = 20;
/// Pages that are not held to it: the protocol is a reference, byte by byte.
const EXCEPT: &[&str] = &["docs/protocol.md"];

/// What stands for a `piece of code`: one word.
const CODE: &str = "Code";

/// The sentences of a page's prose, and those of its tables.
fn sentences(text: &str) -> (Vec<String>, Vec<String>) {
    let (mut prose, mut tables) = (Vec::new(), Vec::new());
    let mut block = String::new();
    for line in lines(text).map(str::trim).chain([""]) {
        let row = cells(line);
        let apart = line.is_empty() || line.starts_with(['#', '<', '|']);
        let item = item(line);
        if apart || item.is_some() {
            split(&block, &mut prose);
            block.clear();
        }
        if !apart {
            block.push_str(item.unwrap_or(line));
            block.push(' ');
        }
        row.iter().flatten().for_each(|cell| split(cell, &mut tables));
    }
    (prose, tables)
}

/// What stands behind the mark of a list's item, if the line has one.
fn item(line: &str) -> Option<&str> {
    let (mark, rest) = line.split_once(' ')?;
    let number = mark.strip_suffix('.').is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()));
    (number || mark == "-" || mark == "*").then_some(rest)
}

fn split(block: &str, found: &mut Vec<String>) {
    let plain: Vec<&str> = block.split('`').collect();
    let mut text = String::new();
    for (number, piece) in plain.into_iter().enumerate() {
        text.push_str(if number % 2 == 0 { piece } else { CODE });
    }
    let text = without_targets(&text).replace(['*', '_'], "");
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut sentence = Vec::new();
    for (at, word) in words.iter().enumerate() {
        sentence.push(*word);
        let ends = word.trim_end_matches([')', '"']).ends_with(['.', '!', '?']);
        let begins = words.get(at + 1).is_none_or(|next| !next.starts_with(char::is_lowercase));
        if (ends && begins) || at + 1 == words.len() {
            found.push(sentence.join(" "));
            sentence.clear();
        }
    }
}

/// The text with links reduced to what is read of them.
fn without_targets(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("](") {
        out.push_str(before);
        rest = after.split_once(')').map_or("", |(_, after)| after);
    }
    out.push_str(rest);
    out.replace('[', "")
}

fn words(sentence: &str) -> usize {
    sentence.split(' ').filter(|word| word.contains(char::is_alphanumeric)).count()
}

#[test]
fn sentences_are_short() {
    let mut found = Vec::new();
    for page in pages().iter().filter(|page| !EXCEPT.contains(&page.path.as_str())) {
        let (prose, tables) = sentences(&page.text);
        for sentence in prose.iter().chain(&tables).filter(|said| words(said) > WORDS_MAX) {
            found.push(format!("{}: {} words: {sentence}", page.path, words(sentence)));
        }
        let mut lengths: Vec<usize> = prose.iter().map(|said| words(said)).collect();
        lengths.retain(|length| *length > 2);
        lengths.sort_unstable();
        let median = lengths.get(lengths.len() / 2).copied().unwrap_or(0);
        if median > WORDS_MEDIAN_MAX {
            found.push(format!("{}: its median sentence has {median} words", page.path));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn sentences_are_told_apart() {
    let text = "# Not this\nA node (`a. b`) is\nit. [See](x.md). E.g. this\n- An item. 2 words!\n| a b c | d. E |\n";
    let (prose, tables) = sentences(text);
    assert_eq!(prose, ["A node (Code) is it.", "See.", "E.g. this", "An item.", "2 words!"]);
    assert_eq!(tables, ["a b c", "d.", "E"]);
    assert_eq!(words("a - b, 2 c"), 4);
}
