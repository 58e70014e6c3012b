//! What is written from the declarations: the messages' part of `docs/protocol.md`, and the table of the Python client.

use std::fmt::Write;
use wire::Request;
use wire::messages::{self, Message};

/// The document with every message's section as it must be. A message that it lacks comes behind the one whose kind is
/// the next lower.
pub fn protocol(is: &str) -> String {
    let mut doc = is.to_string();
    for message in messages::all() {
        let section = section(message);
        match span(&doc, message) {
            Some(span) => doc.replace_range(span, &section),
            None => {
                let lower = messages::all().filter(|other| other.kind.0 < message.kind.0);
                let lower = lower.filter(|other| span(&doc, other).is_some());
                let before =
                    lower.max_by_key(|other| other.kind.0).expect("the document has messages");
                let at = span(&doc, before).expect("it was just found").end;
                doc.insert_str(at, &format!("\n{section}"));
            }
        }
    }
    doc
}

/// Where a message's own part of the document lies: from its heading to the size of its fixed part.
fn span(doc: &str, message: &Message) -> Option<std::ops::Range<usize>> {
    let heading = format!("\n### {:#04x} {}\n", message.kind.0, message.name);
    let start = doc.find(&heading)? + 1;
    let fixed = start + doc[start..].find("\nFixed part: ")? + 1;
    let end = fixed + doc[fixed..].find('\n')? + 1;
    Some(start..end)
}

fn section(message: &Message) -> String {
    let mut out =
        format!("### {:#04x} {}\n\n{}\n\n", message.kind.0, message.name, linked(&message.text()));
    if let Some(facts) = Request::facts_of(message.kind) {
        let answer = messages::all().find(|answer| answer.kind == facts.answer);
        let answer = answer.expect("an answer is a message").name;
        let mut said = vec![
            format!("Family {}", facts.family.slug()),
            format!("feature level {}", facts.level),
        ];
        said.extend(facts.is_call.then(|| "a [call](#exactly-once)".to_string()));
        said.extend(facts.reads.then(|| "only reads".to_string()));
        said.extend(facts.grants.then(|| "what it gives must be given back".to_string()));
        said.extend(facts.gives_back.then(|| "gives something back".to_string()));
        said.push(format!("answered with `{answer}`"));
        writeln!(out, "{}.\n", said.join(", ")).unwrap();
    }
    let musts = message.rows().iter().any(|row| !row.must.is_empty());
    let (head, rule) = if musts { (" must be |", "---|") } else { ("", "") };
    writeln!(out, "| at | size | field | type |{head} meaning |\n|---|---|---|---|{rule}---|")
        .unwrap();
    for row in message.rows() {
        let (at, size, name, ty) = (row.at, row.size, row.name, row.ty);
        let must = if musts { format!(" {} |", row.must) } else { String::new() };
        writeln!(out, "| {at} | {size} | `{name}` | {ty} |{must} {} |", linked(&row.doc)).unwrap();
    }
    writeln!(out, "\nFixed part: {} bytes.", message.fixed).unwrap();
    out
}

/// With links into the document where the crate's documentation has its own.
fn linked(text: &str) -> String {
    text.replace("`crate::topology`", "[topology rows](#topology-rows)")
        .replace("`crate::Code`", "[error codes](#error-codes)")
        .replace("`crate::Detail`", "[details](#details)")
}

/// The Python client with its table as it must be.
pub fn python(is: &str) -> String {
    let (begin, end) = ("\nMESSAGES = {\n", "\n}\n");
    let from = is.find(begin).expect("the client has a table of messages") + begin.len();
    let to = from + is[from..].find(end).expect("the table ends") + 1;
    let mut table = String::new();
    for message in messages::all().filter(|message| message.kind.0 < 0x100) {
        let call = message.fields.first().is_some_and(|field| field.word == "call");
        let rows = message.rows();
        let rows = rows.iter().skip(if call { 3 } else { 0 });
        let fields: Vec<String> = rows.map(|row| format!("{}:{}", row.name, row.ty)).collect();
        let (name, kind, fields) = (message.name, message.kind.0, fields.join(" "));
        let fields = format!("{}\"{fields}\"", if call { "CALL + " } else { "" });
        let line = format!("    \"{name}\": (0x{kind:02X}, {fields}),\n");
        if line.len() <= 121 {
            table.push_str(&line);
        } else {
            write!(table, "    \"{name}\": (\n        0x{kind:02X},\n        {fields},\n    ),\n")
                .unwrap();
        }
    }
    format!("{}{table}{}", &is[..from], &is[to..])
}
