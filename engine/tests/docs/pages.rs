//! The pages, and what of them is not prose: code, headings, tables, parts that are written by `make docs`.

use std::fs;
use std::path::{Path, PathBuf};

/// A page, by its path from the workspace.
pub struct Page {
    pub path: String,
    pub text: String,
}

/// Where pages lie beside `docs/`. Reports of measurements are written by programs.
const ALSO: &[&str] = &[
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README.md",
    "SECURITY.md",
    "STYLE.md",
    "bench-reports/README.md",
];

pub fn workspace() -> PathBuf {
    let engine = Path::new(env!("CARGO_MANIFEST_DIR"));
    engine.parent().expect("the engine lies in the workspace").to_path_buf()
}

pub fn read(path: &str) -> Page {
    let text = fs::read_to_string(workspace().join(path));
    Page { path: path.into(), text: text.unwrap_or_else(|e| panic!("{path}: {e}")) }
}

/// Every page, by path.
pub fn pages() -> Vec<Page> {
    let mut paths: Vec<String> = ALSO.iter().map(|path| path.to_string()).collect();
    paths.extend(files("docs").into_iter().filter(|path| path.ends_with(".md")));
    // Dated ones, but for what a program wrote.
    let reports = files("bench-reports").into_iter();
    paths.extend(reports.filter(|path| path.ends_with("/README.md")));
    paths.sort();
    paths.dedup();
    paths.iter().map(|path| read(path)).collect()
}

/// Every file under a directory, by its path from the workspace.
pub fn files(under: &str) -> Vec<String> {
    let mut waiting = vec![workspace().join(under)];
    let mut found = Vec::new();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            let inside = fs::read_dir(&path).expect("a directory of the tree can be read");
            waiting.extend(inside.map(|entry| entry.expect("an entry can be read").path()));
        } else {
            let short = path.strip_prefix(workspace()).expect("the path began there");
            found.push(short.to_string_lossy().into_owned());
        }
    }
    found.sort();
    found
}

/// The lines of a page without its blocks of code.
pub fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut code = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    })
}

/// The cells of a table's row; `None` for any other line and for the rule under a table's head.
pub fn cells(line: &str) -> Option<Vec<String>> {
    let inside = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    let row: Vec<String> = inside.split('|').map(|cell| cell.trim().to_string()).collect();
    let rule = row.iter().all(|cell| cell.starts_with("--") || cell.starts_with(":-"));
    (!rule).then_some(row)
}

/// The part of a page between `<!-- make docs: NAME -->` and `<!-- end -->`, and where it lies.
fn part(page: &Page, name: &str) -> std::ops::Range<usize> {
    let mark = format!("<!-- make docs: {name} -->\n");
    let start = page.text.find(&mark).unwrap_or_else(|| panic!("{} has no {mark}", page.path));
    let start = start + mark.len();
    let length = page.text[start..].find("<!-- end -->").expect("the part ends");
    start..start + length
}

/// Holds a part of a page to what the code says, or writes it, if `make docs` asks.
pub fn hold(path: &str, name: &str, expected: impl FnOnce(&str) -> String) {
    let page = read(path);
    let part = part(&page, name);
    let written = &page.text[part.clone()];
    let expected = expected(written);
    if written == expected {
        return;
    }
    let asked = std::env::var_os("TERCET_WRITE").is_some();
    assert!(asked, "{path}: the part `{name}` is not what the code says. Run: make docs");
    let text = format!("{}{expected}{}", &page.text[..part.start], &page.text[part.end..]);
    fs::write(workspace().join(path), text).expect("a page can be written");
}

/// A table: its head and its rows.
pub fn table<const N: usize>(
    head: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let line = |row: &[String; N]| format!("| {} |\n", row.join(" | "));
    let rule = format!("|{}\n", "---|".repeat(N));
    let rows: String = rows.into_iter().map(|row| line(&row)).collect();
    format!("{}{rule}{rows}", line(&head.map(String::from)))
}

#[test]
fn what_is_code_is_not_read_as_prose() {
    let page = "a\n```console\n$ b\n```\nc\n";
    assert_eq!(lines(page).collect::<Vec<_>>(), ["a", "c"]);
}

#[test]
fn a_row_has_cells_and_a_rule_has_none() {
    assert_eq!(cells("| a | `b` |"), Some(vec!["a".into(), "`b`".into()]));
    assert_eq!(cells("|---|---|"), None);
    assert_eq!(cells("a | b"), None);
}
