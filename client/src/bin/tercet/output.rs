//! What is printed, for people and for scripts, and how a failure becomes an exit status.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::{Code, Detail, Error, LockMode};
use serde_json::{Map, Value, json};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

/// The exit statuses of failures.
pub mod exit {
    /// Refused or failed.
    pub const FAILED: u8 = 1;
    /// The command line is wrong.
    pub const USAGE: u8 = 2;
    /// Not there, empty, held, or of another version.
    pub const NOT_THERE: u8 = 3;
    /// The cluster can't be reached, or has no leader.
    pub const UNAVAILABLE: u8 = 4;
    /// It is not known whether it was done.
    pub const UNKNOWN: u8 = 5;
    /// It is under way, but did not end in the time given.
    pub const UNFINISHED: u8 = 6;
    /// What came of it could not be printed.
    pub const UNPRINTED: u8 = 7;
    /// The cluster serves, but lacks replicas.
    pub const DEGRADED: u8 = 8;
    /// The lock was lost while a command ran under it.
    pub const LOST: u8 = 124;
    /// The command can't be run.
    pub const CANNOT_RUN: u8 = 126;
    /// The command was not found.
    pub const NOT_FOUND: u8 = 127;
}

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// The client says so.
    Client(Error),
    /// The command line asks for what can't be.
    Usage(String),
    /// Anything else, with its exit status.
    Other(u8, String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Client(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Other(exit::FAILED, error.to_string())
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Client(error) => error.fmt(f),
            Failure::Usage(message) | Failure::Other(_, message) => message.fmt(f),
        }
    }
}

impl Failure {
    /// Its exit status.
    pub fn status(&self) -> u8 {
        let error = match self {
            Failure::Client(error) => error,
            Failure::Usage(_) => return exit::USAGE,
            Failure::Other(status, _) => return *status,
        };
        match (error, error.code()) {
            (Error::OutcomeUnknown { .. }, _) => exit::UNKNOWN,
            (Error::Invalid { .. }, _) => exit::USAGE,
            (Error::SessionLost { .. }, _) => exit::NOT_THERE,
            (Error::Deadline { .. } | Error::Connect { .. }, _) => exit::UNAVAILABLE,
            (_, Some(code)) if NOT_THERE.contains(&code) => exit::NOT_THERE,
            _ => exit::FAILED,
        }
    }
}

/// A detail for scripts.
fn document_of(detail: &Detail<'_>) -> Value {
    match detail {
        Detail::Version(version) => json!({ "version": version }),
        Detail::Holder { fence, mode } => {
            json!({ "fence": fence, "shared": *mode == LockMode::Shared })
        }
        // What only a later version knows.
        _ => Value::Null,
    }
}

/// What a script may want to tell from a failure.
const NOT_THERE: &[Code] = &[
    Code::LockHeld,
    Code::LockTimeout,
    Code::NotHolder,
    Code::StaleFence,
    Code::QueueEmpty,
    Code::MessageUnknown,
    Code::StaleDelivery,
    Code::KeyUnknown,
    Code::VersionMismatch,
];

/// Where and how to print.
#[derive(Clone, Copy)]
pub struct Output {
    pub json: bool,
    /// Colours, where a person looks at a terminal and has not said otherwise.
    pub colour: bool,
}

impl Output {
    pub fn new(json: bool) -> Output {
        let colour = !json && io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Output { json, colour }
    }

    /// Text in a colour, by its ANSI number, where there are colours.
    pub fn paint(&self, text: &str, colour: u8) -> String {
        match self.colour {
            true => format!("\x1b[{colour}m{text}\x1b[0m"),
            false => String::from(text),
        }
    }

    /// Prints a result: `document` for scripts, `text` for people.
    pub fn result(&self, document: &Value, text: &str) -> Result<(), Failure> {
        let text = if self.json { document.to_string() } else { String::from(text) };
        put(&mut io::stdout().lock(), &[text.as_bytes(), b"\n"])?;
        Ok(())
    }

    /// Prints bytes: `document` for scripts; else as they are, and `note` to the standard error.
    pub fn bytes(&self, document: &Value, bytes: &[u8], note: &str) -> Result<(), Failure> {
        if self.json {
            return self.result(document, "");
        }
        if !note.is_empty() {
            put(&mut io::stderr().lock(), &[note.as_bytes(), b"\n"])?;
        }
        let mut out = io::stdout().lock();
        // A prompt should not stand behind the value. A pipe gets what was stored and nothing else.
        let ends = bytes.ends_with(b"\n") || !io::stdout().is_terminal();
        put(&mut out, &[bytes, if ends { b"" } else { b"\n" }])?;
        Ok(())
    }

    /// Waits until what was printed is on the disk, if it goes to a file: before that it has not arrived.
    pub fn settle(&self) -> Result<(), Failure> {
        let out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        if out.metadata()?.is_file() {
            out.sync_all().map_err(Unprinted)?;
        }
        Ok(())
    }

    /// Says something to people only.
    pub fn note(&self, text: &str) -> Result<(), Failure> {
        if !self.json {
            put(&mut io::stderr().lock(), &[text.as_bytes(), b"\n"])?;
        }
        Ok(())
    }

    /// Tells scripts how something went whose output is a command's own: on the standard error.
    pub fn report(&self, document: &Value) {
        // Where even this can't be written, the exit status remains.
        let _unread = put(&mut io::stderr().lock(), &[document.to_string().as_bytes(), b"\n"]);
    }

    /// Shows a person at a terminal how far something is, in place of what was shown before; nothing clears it.
    pub fn progress(&self, text: &str) {
        if !self.json && io::stderr().is_terminal() {
            // Where it can't be shown it is not missed.
            let _unseen = put(&mut io::stderr().lock(), &[b"\r\x1b[K", text.as_bytes()]);
        }
    }

    /// Prints why a command failed, and gives its exit status.
    pub fn failure(&self, failure: &Failure) -> ExitCode {
        let status = failure.status();
        let message = failure.to_string();
        let code = match failure {
            Failure::Client(error) => error.code(),
            Failure::Usage(_) | Failure::Other(..) => None,
        };
        let text = if self.json {
            let mut document = json!({ "error": message, "exit": status });
            if let (Some(code), Some(fields)) = (code, document.as_object_mut()) {
                fields.insert(String::from("code"), json!(code.number()));
                fields.insert(String::from("slug"), json!(code.slug()));
                fields.insert(String::from("advice"), json!(code.advice()));
                if let Failure::Client(error) = failure
                    && let Some(detail) = error.detail()
                {
                    fields.insert(String::from("detail"), document_of(detail));
                }
            }
            document.to_string()
        } else {
            format!("tercet: {message}")
        };
        // Where even this can't be written, the exit status remains.
        let _unread = put(&mut io::stderr().lock(), &[text.as_bytes(), b"\n"]);
        ExitCode::from(status)
    }
}

/// What was to be printed was not.
struct Unprinted(io::Error);

impl From<Unprinted> for Failure {
    fn from(Unprinted(why): Unprinted) -> Failure {
        Failure::Other(exit::UNPRINTED, format!("the result could not be printed: {why}"))
    }
}

/// Writes pieces and flushes. A reader that has gone did not get them: that is a failure like any other.
fn put(out: &mut impl Write, pieces: &[&[u8]]) -> Result<(), Unprinted> {
    let written = pieces.iter().try_for_each(|piece| out.write_all(piece));
    written.and_then(|()| out.flush()).map_err(Unprinted)
}

/// A name as JSON: text, or the base64 of what is none.
pub fn name(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!({ "base64": STANDARD.encode(bytes) }),
    }
}

/// Adds a value to a document: always as base64 under `key_base64`, and under `key` if it is text.
pub fn add_bytes(document: &mut Map<String, Value>, key: &str, bytes: &[u8]) {
    document.insert(format!("{key}_base64"), json!(STANDARD.encode(bytes)));
    if let Ok(text) = std::str::from_utf8(bytes) {
        document.insert(String::from(key), json!(text));
    }
}

/// The bytes of an argument, or of the standard input if it is `-`.
pub fn argument(argument: &OsStr) -> Result<Vec<u8>, Failure> {
    if argument != "-" {
        return Ok(argument.as_bytes().to_vec());
    }
    let limit = wire::limits::VALUE_BYTES_MAX as u64 + 1;
    let mut bytes = Vec::new();
    io::stdin().lock().take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
