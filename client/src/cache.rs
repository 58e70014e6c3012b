//! The cache: linearizable lines with versions.

use crate::call::{Answer, Expect, Given, Op};
use crate::clock::millis;
use crate::error::Error;
use crate::handle::Handle;
use crate::pending::Pending;
use bytes::Bytes;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use wire::limits::LINE_TTL_MS_MAX;
use wire::message::{CacheDelete, CacheGet, CachePut};
use wire::{Call, Code};

/// The cache. Made by [`Client::cache`](crate::Client::cache).
#[derive(Clone)]
pub struct Cache {
    handle: Arc<Handle>,
}

/// A line of the cache.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// Its version: higher than that of any earlier write to its key.
    pub version: u64,
    /// Its value.
    pub value: Bytes,
}

impl Cache {
    pub(crate) fn new(handle: Arc<Handle>) -> Cache {
        Cache { handle }
    }

    /// Reads a line: the latest write that was acknowledged before this call, or a later one.
    /// `None` when there is no such line.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Pending<Option<Line>> {
        let op = Op::new(CacheGet { key: key.as_ref() });
        self.handle.call(op, Duration::ZERO, None, |_, outcome| match found(outcome)? {
            Some(Answer { given: Given::Value { version, value }, .. }) => {
                Ok(Some(Line { version, value }))
            }
            Some(_) => unreachable!("a get is answered with a value"),
            None => Ok(None),
        })
    }

    /// Writes a line, and gives its version. It is sent when it is waited for or awaited.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl Into<Vec<u8>>) -> Put {
        Put {
            handle: Arc::clone(&self.handle),
            key: key.as_ref().to_vec(),
            value: value.into(),
            ttl: None,
            expect: Expect::Anything,
            sent: None,
        }
    }

    /// Deletes a line, and gives the version that it had; `None` when there was none. It is sent
    /// when it is waited for or awaited.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Delete {
        let key = key.as_ref().to_vec();
        let handle = Arc::clone(&self.handle);
        Delete { handle, key, expect: Expect::Anything, sent: None }
    }
}

/// An answer, or nothing where there is no such line.
fn found(outcome: Result<Answer, Error>) -> Result<Option<Answer>, Error> {
    match outcome {
        Ok(answer) => Ok(Some(answer)),
        Err(Error::Refused { code: Code::KeyUnknown, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A write to the cache, to be sent by [`Put::send`], [`Put::wait`] or by awaiting it.
#[must_use = "it is sent when it is waited for, awaited or sent"]
pub struct Put {
    handle: Arc<Handle>,
    key: Vec<u8>,
    value: Vec<u8>,
    ttl: Option<Duration>,
    expect: Expect,
    sent: Option<Pending<u64>>,
}

impl Put {
    /// The line is to live this long, up to 30 days; without it, until it is replaced or evicted.
    pub fn ttl(mut self, ttl: Duration) -> Put {
        self.ttl = Some(ttl);
        self
    }

    /// Only if there is no such line; otherwise the code is `VersionMismatch`.
    pub fn if_absent(mut self) -> Put {
        self.expect = Expect::Absent;
        self
    }

    /// Only if the line has this version; otherwise the code is `VersionMismatch`.
    pub fn if_version(mut self, version: u64) -> Put {
        self.expect = Expect::Version(version);
        self
    }

    /// Sends it.
    pub fn send(mut self) -> Pending<u64> {
        self.start()
    }

    /// Sends it and waits for its version.
    ///
    /// # Errors
    /// What the write failed with.
    pub fn wait(self) -> Result<u64, Error> {
        self.send().wait()
    }

    fn start(&mut self) -> Pending<u64> {
        let ttl_ms = self.ttl.map_or(0, millis);
        if self.ttl.is_some_and(|t| t.is_zero()) || ttl_ms > LINE_TTL_MS_MAX {
            let subject = format!("put \"{}\"", self.key.escape_ascii());
            let what = format!("a line lives 1 to {LINE_TTL_MS_MAX} ms, not {ttl_ms}");
            return Pending::failed(Error::Invalid { subject, what });
        }
        let ((expect, version), call) = (self.expect.wire(), Call::NONE);
        let (key, value) = (&self.key[..], &self.value[..]);
        let op = Op::new(CachePut { call, version, ttl_ms, expect, key, value });
        self.handle.call(op, Duration::ZERO, None, |_, outcome| match outcome?.given {
            Given::Token(version) => Ok(version),
            _ => unreachable!("a put is answered with a token"),
        })
    }
}

impl Future for Put {
    type Output = Result<u64, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut sent = self.sent.take().unwrap_or_else(|| self.start());
        let poll = Pin::new(&mut sent).poll(context);
        if poll.is_pending() {
            self.sent = Some(sent);
        }
        poll
    }
}

/// A deletion from the cache, to be sent by [`Delete::send`], [`Delete::wait`] or by awaiting it.
#[must_use = "it is sent when it is waited for, awaited or sent"]
pub struct Delete {
    handle: Arc<Handle>,
    key: Vec<u8>,
    expect: Expect,
    sent: Option<Pending<Option<u64>>>,
}

impl Delete {
    /// Only if the line has this version; otherwise the code is `VersionMismatch`.
    pub fn if_version(mut self, version: u64) -> Delete {
        self.expect = Expect::Version(version);
        self
    }

    /// Sends it.
    pub fn send(mut self) -> Pending<Option<u64>> {
        self.start()
    }

    /// Sends it and waits for the version that was deleted.
    ///
    /// # Errors
    /// What the deletion failed with.
    pub fn wait(self) -> Result<Option<u64>, Error> {
        self.send().wait()
    }

    fn start(&mut self) -> Pending<Option<u64>> {
        let ((expect, version), call) = (self.expect.wire(), Call::NONE);
        let op = Op::new(CacheDelete { call, version, expect, key: &self.key });
        self.handle.call(op, Duration::ZERO, None, |_, outcome| match found(outcome)? {
            Some(Answer { given: Given::Token(version), .. }) => Ok(Some(version)),
            Some(_) => unreachable!("a deletion is answered with a token"),
            None => Ok(None),
        })
    }
}

impl Future for Delete {
    type Output = Result<Option<u64>, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut sent = self.sent.take().unwrap_or_else(|| self.start());
        let poll = Pin::new(&mut sent).poll(context);
        if poll.is_pending() {
            self.sent = Some(sent);
        }
        poll
    }
}
