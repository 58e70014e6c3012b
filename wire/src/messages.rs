//! Every message, as it is declared: what documents, golden vectors and other languages are written from.

use crate::WireError;
use crate::header::Kind;
use crate::request::Call;
use alloc::string::String;
use alloc::vec::Vec;

/// A message's declaration.
pub struct Message {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: &'static str,
    /// What it is for, line by line.
    pub doc: &'static [&'static str],
    /// Bytes of its fixed part.
    pub fixed: usize,
    /// Its fields, in order.
    pub fields: &'static [FieldRow],
    /// Appends the body of an example.
    pub example: fn(&mut Vec<u8>),
    /// Reads a body by hand, and shows each field.
    pub decode: Reader,
    /// Reads a body in place, and shows each field.
    #[cfg(feature = "archive")]
    pub view: Reader,
    /// Reads a body by hand, and writes it as rkyv itself serializes it.
    #[cfg(feature = "archive")]
    pub archived: fn(&[u8]) -> Result<Vec<u8>, WireError>,
}

/// Reads a body and shows each field: its name and what it holds.
pub type Reader = fn(&[u8], &mut dyn FnMut(&'static str, Value<'_>)) -> Result<(), WireError>;

/// A field's declaration.
pub struct FieldRow {
    /// Its name.
    pub name: &'static str,
    /// The word that says what it is (see `declare.rs`).
    pub word: &'static str,
    /// The range that the declaration names, or nothing.
    pub range: &'static str,
    /// What it is for, line by line.
    pub doc: &'static [&'static str],
    /// The numbers that it may have and their names, for a choice.
    pub choices: &'static [(u8, &'static str)],
}

/// What a field holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Value<'a> {
    /// An unsigned integer of a byte, or a choice.
    U8(u8),
    /// One of two bytes.
    U16(u16),
    /// One of four bytes.
    U32(u32),
    /// One of eight bytes.
    U64(u64),
    /// 16 bytes.
    Id([u8; 16]),
    /// A byte string.
    Bytes(&'a [u8]),
}

/// A field as it lies in the fixed part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// Where it begins there.
    pub at: usize,
    /// Its bytes there.
    pub size: usize,
    /// Its name.
    pub name: &'static str,
    /// Its type on the wire: `u8`, `u16`, `u32`, `u64`, `id` or `bytes`.
    pub ty: &'static str,
    /// What it is for.
    pub doc: String,
    /// What a request with another value is refused for, or nothing.
    pub must: String,
}

impl Message {
    /// Its fields as they lie in the fixed part.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for field in self.fields {
            if field.word == "call" {
                for (name, ty, must, doc) in Call::FIELDS {
                    rows.push(Row { at: 0, size: 0, name, ty, doc: doc.into(), must: must.into() });
                }
                continue;
            }
            let ty = match field.word {
                "u8" | "u16" | "u32" | "u64" => field.word,
                "id" | "session" => "id",
                "name" | "value" | "bytes" => "bytes",
                _ => "u8",
            };
            let (name, doc, must) = (field.name, text(field.doc), field.must());
            rows.push(Row { at: 0, size: 0, name, ty, doc, must });
        }
        let mut at = 0;
        for row in &mut rows {
            let size = match row.ty {
                "u8" => 1,
                "u16" => 2,
                "u32" => 4,
                "u64" | "bytes" => 8,
                _ => 16,
            };
            (row.at, row.size) = (at, size);
            at += size;
        }
        assert_eq!(at, self.fixed, "the rows of {} are its fixed part", self.name);
        rows
    }

    /// What it is for, as one text.
    pub fn text(&self) -> String {
        text(self.doc)
    }
}

impl FieldRow {
    /// What the field must be, for people.
    fn must(&self) -> String {
        let range = self.range.trim_start_matches('(').trim_end_matches(')');
        match self.word {
            "session" => "not all zero".into(),
            "name" => "1 to `NAME_BYTES_MAX` bytes".into(),
            "value" => "at most `VALUE_BYTES_MAX` bytes".into(),
            _ if !self.choices.is_empty() => {
                let named = |name: &str| {
                    range.is_empty() || range.split('|').any(|one| one.trim().ends_with(name))
                };
                let rows = self.choices.iter().filter(|(_, name)| named(name));
                let rows: Vec<String> =
                    rows.map(|(number, _)| alloc::format!("{number}")).collect();
                rows.join(", ")
            }
            _ => match range.split_once("..=") {
                Some((min, max)) if min.trim() == max.trim() => number(min),
                Some((min, max)) => alloc::format!("{} to {}", number(min), number(max)),
                None => String::new(),
            },
        }
    }
}

/// A bound, as documents write it: the names of limits in code marks.
fn number(bound: &str) -> String {
    let bound = bound.trim();
    if bound.starts_with(|c: char| c.is_ascii_digit()) {
        bound.into()
    } else {
        alloc::format!("`{bound}`")
    }
}

/// The lines of a documentation comment as one text, without links.
fn text(lines: &[&str]) -> String {
    let lines: Vec<&str> = lines.iter().map(|line| line.trim()).collect();
    lines.join(" ").replace("[`", "`").replace("`]", "`")
}

/// Every message: requests, answers, pushes, and what nodes tell each other, each in the order of its declaration.
pub fn all() -> impl Iterator<Item = &'static Message> {
    use crate::message::{ANSWERS, PUSHES, REQUESTS};
    let lists = [REQUESTS, ANSWERS, PUSHES, crate::peer::PEERS];
    lists.into_iter().flatten().copied()
}

/// The pushes among them: what a node sends that answers nothing.
pub fn pushes() -> impl Iterator<Item = &'static Message> {
    crate::message::PUSHES.iter().copied()
}
