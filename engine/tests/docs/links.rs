//! Every link between pages leads to a file that is there, and to a heading that is there.

use super::pages::{Page, lines, pages, read, workspace};
use std::collections::BTreeSet;
use std::path::{Component, Path};

/// Clicks from the index to any page of `docs/`.
const CLICKS_MAX: usize = 2;
const INDEX: &str = "docs/README.md";
/// Questions that the index answers, at least.
const QUESTIONS_MIN: usize = 10;

/// Where the links of a text lead, but for those to other sites.
fn targets(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in lines(text) {
        let line = without_code(line);
        let mut rest = line.as_str();
        while let Some(at) = rest.find("](") {
            rest = &rest[at + 2..];
            let end = rest.find(')').unwrap_or(rest.len());
            found.push(rest[..end].to_string());
        }
    }
    found.retain(|to| !to.starts_with("https://") && !to.starts_with("http://"));
    found
}

/// The line with each `code` left out.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect()
}

/// The name under which a heading is linked to.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn anchors(text: &str) -> BTreeSet<String> {
    let headings = lines(text).filter(|line| line.starts_with('#'));
    headings.map(|line| anchor(line.trim_start_matches('#').trim())).collect()
}

/// The path from the workspace of what a page links to, and the heading in it.
fn resolved(from: &str, target: &str) -> (String, Option<String>) {
    let (file, heading) = match target.split_once('#') {
        Some((file, heading)) => (file, Some(heading.to_string())),
        None => (target, None),
    };
    if file.is_empty() {
        return (from.to_string(), heading);
    }
    let beside = Path::new(from).parent().expect("a page lies somewhere").join(file);
    let mut parts: Vec<String> = Vec::new();
    for part in beside.components() {
        match part {
            Component::ParentDir => drop(parts.pop()),
            Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
            _ => {}
        }
    }
    (parts.join("/"), heading)
}

fn broken(page: &Page) -> Vec<String> {
    let mut found = Vec::new();
    for target in targets(&page.text) {
        let (path, heading) = resolved(&page.path, &target);
        if !workspace().join(&path).exists() {
            found.push(format!("{}: {target}: no such file", page.path));
        } else if let Some(heading) = heading
            && !anchors(&read(&path).text).contains(&heading)
        {
            found.push(format!("{}: {target}: no such heading", page.path));
        }
    }
    found
}

#[test]
fn every_link_leads_to_a_file_and_to_a_heading_in_it() {
    let found: Vec<String> = pages().iter().flat_map(broken).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_link_to_nothing_is_found() {
    let page = |text: &str| Page { path: INDEX.into(), text: text.into() };
    assert_eq!(broken(&page("[a](protocol.md#limits) [b](../README.md) `[c](d)`")).len(), 0);
    assert_eq!(broken(&page("[a](protocol.md#no-such-heading)")).len(), 1);
    assert_eq!(broken(&page("[a](no-such-page.md)")).len(), 1);
    assert_eq!(broken(&page("[a](#questions) [b](#no-such-heading)")).len(), 1);
}

#[test]
fn every_page_is_two_clicks_from_the_index() {
    let mut reached = BTreeSet::from([INDEX.to_string()]);
    for _ in 0..CLICKS_MAX {
        let seen: Vec<String> = reached.iter().filter(|p| p.ends_with(".md")).cloned().collect();
        for path in seen {
            let links = targets(&read(&path).text);
            reached.extend(links.iter().map(|target| resolved(&path, target).0));
        }
    }
    let pages = pages();
    let far = pages.iter().map(|page| &page.path).filter(|path| !reached.contains(*path));
    let far: Vec<_> = far.collect();
    assert!(far.is_empty(), "over {CLICKS_MAX} clicks from {INDEX}: {far:?}");
}

#[test]
fn the_index_answers_ten_questions_each_with_a_link() {
    let index = read(INDEX);
    let (_, questions) = index.text.split_once("\n## Questions\n").expect("the index has them");
    let questions = questions.split("\n## ").next().expect("a split has a first part");
    let each: Vec<&str> = questions.split("\n### ").skip(1).collect();
    assert!(each.len() >= QUESTIONS_MIN, "{} questions", each.len());
    for question in each {
        let title = question.lines().next().expect("a question has a title");
        assert!(title.ends_with('?'), "{title:?} is no question");
        assert!(!targets(question).is_empty(), "{title:?} has no link");
    }
}
