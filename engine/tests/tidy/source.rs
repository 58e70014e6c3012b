//! A source file, and the same text with comments and literals blanked out.
//!
//! Both have the same bytes per line, so that a line number means the same in either.

use std::ops::Range;

/// A Rust file.
pub struct Source {
    /// Its path from the root of the workspace, with slashes.
    pub path: String,
    /// Its text.
    pub text: String,
    /// Its text with comments, strings and character literals replaced by blanks.
    pub code: String,
    /// The parts that only tests compile, as ranges of bytes.
    tests: Vec<Range<usize>>,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Source {
        let code = blank(text);
        let tests = test_ranges(path, &code);
        Source { path: path.to_string(), text: text.to_string(), code, tests }
    }

    /// The line of a byte, from 1.
    pub fn line(&self, at: usize) -> usize {
        self.text.as_bytes()[..at].iter().filter(|b| **b == b'\n').count() + 1
    }

    /// Whether only tests compile the byte.
    pub fn in_test(&self, at: usize) -> bool {
        self.tests.iter().any(|r| r.contains(&at))
    }

    /// Where `needle` stands in the code as words of its own: no letter, digit or underscore
    /// touches it.
    pub fn find(&self, needle: &str) -> Vec<usize> {
        let bytes = self.code.as_bytes();
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let all = self.code.match_indices(needle).map(|(at, _)| at);
        all.filter(|at| {
            let end = at + needle.len();
            let before = *at == 0 || !word(bytes[*at]) || !word(bytes[at - 1]);
            let after = end == bytes.len() || !word(bytes[end - 1]) || !word(bytes[end]);
            before && after
        })
        .collect()
    }
}

/// Blanks out comments and literals, byte by byte; newlines stay.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(bytes, at);
        for b in &mut code[at..end] {
            if *b != b'\n' {
                *b = b' ';
            }
        }
        at = end.max(at + 1);
    }
    String::from_utf8_lossy(&code).into_owned()
}

/// The end of the comment or literal that begins at `at`; `at` itself when none does.
fn literal_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let touches = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    if rest.starts_with(b"//") {
        return at + rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
    }
    if rest.starts_with(b"/*") {
        return block_end(bytes, at);
    }
    if !touches && let Some(end) = raw_end(bytes, at) {
        return end;
    }
    match rest[0] {
        b'"' => quoted_end(bytes, at, b'"'),
        // A lifetime has no closing quote where a character literal has one.
        b'\'' if rest.get(1) == Some(&b'\\') => quoted_end(bytes, at, b'\''),
        b'\'' => {
            let long = std::str::from_utf8(&rest[1..rest.len().min(5)]);
            let valid = long.map_or_else(|e| e.valid_up_to(), str::len);
            let first = std::str::from_utf8(&rest[1..=valid]).ok().and_then(|s| s.chars().next());
            match first {
                Some(c) if rest.get(1 + c.len_utf8()) == Some(&b'\'') => at + c.len_utf8() + 2,
                _ => at,
            }
        }
        _ => at,
    }
}

fn block_end(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0;
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// The end of a raw string (`r"`, `r#"`, `br"`, ...) that begins at `at`.
fn raw_end(bytes: &[u8], at: usize) -> Option<usize> {
    let mut i = at;
    if matches!(bytes.get(i), Some(b'b' | b'c')) {
        i += 1;
    }
    if bytes.get(i) != Some(&b'r') {
        return None;
    }
    i += 1;
    let hashes = bytes[i..].iter().take_while(|b| **b == b'#').count();
    i += hashes;
    if bytes.get(i) != Some(&b'"') {
        return None;
    }
    let close: Vec<u8> = [b'"'].into_iter().chain(std::iter::repeat_n(b'#', hashes)).collect();
    let body = &bytes[i + 1..];
    let end = body.windows(close.len()).position(|w| w == close);
    Some(end.map_or(bytes.len(), |e| i + 1 + e + close.len()))
}

fn quoted_end(bytes: &[u8], at: usize, quote: u8) -> usize {
    let mut i = at + 1;
    while i < bytes.len() {
        match bytes[i] {
            b'\\' => i += 2,
            b if b == quote => return i + 1,
            _ => i += 1,
        }
    }
    bytes.len()
}

/// The end of what the bracket at `open` opens: one past its partner.
pub fn partner(code: &str, open: usize) -> usize {
    let mut depth = 0usize;
    for (i, b) in code.bytes().enumerate().skip(open) {
        match b {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return i + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}

/// Whole files of tests, and items under `#[cfg(test)]`, `#[cfg(all(test, ...))]` or `#[test]`.
fn test_ranges(path: &str, code: &str) -> Vec<Range<usize>> {
    let parts: Vec<&str> = path.split('/').collect();
    let file = parts.last().copied().unwrap_or_default();
    let whole = parts[..parts.len() - 1].iter().any(|p| *p == "tests" || *p == "benches");
    if whole || matches!(file, "tests.rs" | "testing.rs") || file.ends_with("_tests.rs") {
        return std::iter::once(0..code.len()).collect();
    }
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for mark in ["#[cfg(test)]", "#[cfg(all(test", "#[test]"] {
        for (at, _) in code.match_indices(mark) {
            // The item ends with its body, or with a semicolon where it has none.
            let after = partner(code, at + 1);
            let body = code[after..].find(['{', ';']).map_or(code.len(), |i| after + i);
            let is_body = code.as_bytes().get(body) == Some(&b'{');
            let end = if is_body { partner(code, body) } else { body };
            ranges.push(at..end);
        }
    }
    ranges
}
