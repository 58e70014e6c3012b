//! How a client is set up.

use crate::error::Error;
use crate::limits::CONNECTIONS_MAX;
use crate::{Client, Pending};
use std::time::Duration;
use wire::limits::{SESSION_TTL_MS_MAX, SESSION_TTL_MS_MIN};

/// How a client is set up. Made with [`Config::new`], changed by its methods, used by
/// [`Config::connect`].
///
/// ```no_run
/// use std::time::Duration;
/// let client = client::Config::new(["10.0.0.1:7400", "10.0.0.2:7400"])
///     .name("billing")
///     .session_ttl(Duration::from_secs(15))
///     .deadline(Duration::from_secs(2))
///     .connect()?;
/// # Ok::<(), client::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) addresses: Vec<String>,
    pub(crate) session_ttl: Duration,
    pub(crate) deadline: Duration,
    pub(crate) name: String,
    pub(crate) connections: u32,
    pub(crate) resume: Option<[u8; 16]>,
}

impl Config {
    /// The default set-up for a cluster, some of whose nodes are at `addresses` ("host:port").
    pub fn new<A: Into<String>>(addresses: impl IntoIterator<Item = A>) -> Config {
        Config {
            addresses: addresses.into_iter().map(Into::into).collect(),
            session_ttl: Duration::from_secs(10),
            deadline: Duration::from_secs(5),
            name: String::from("rust"),
            connections: 1,
            resume: None,
        }
    }

    /// How long the session outlives the client's last sign of life: 1 s to 10 min, 10 s by
    /// default. A lock whose holder dies is free again after that time.
    #[must_use]
    pub fn session_ttl(mut self, ttl: Duration) -> Config {
        self.session_ttl = ttl;
        self
    }

    /// How long a call may take, apart from the time that it asks to wait: 5 s by default.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Config {
        self.deadline = deadline;
        self
    }

    /// A name for people to see in the nodes' list of connections, at most 64 bytes.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Config {
        self.name = name.into();
        self
    }

    /// How many connections to make to each engine that is used: 1 by default, which is pipelined
    /// and serves thousands of calls at a time.
    #[must_use]
    pub fn connections_per_engine(mut self, connections: u32) -> Config {
        self.connections = connections;
        self
    }

    /// Goes on with a session that another process left behind with
    /// [`Client::detach`](crate::Client::detach), instead of opening one.
    ///
    /// The session is used, never opened: if it has ended, calls fail with
    /// [`Error::SessionLost`]. One process at a time may use a session.
    #[must_use]
    pub fn resume(mut self, session: [u8; 16]) -> Config {
        self.resume = Some(session);
        self
    }

    /// Makes a client and waits until a node has told it where everything is.
    ///
    /// # Errors
    /// [`Error::Connect`] when no node answers within the deadline, [`Error::Invalid`] when a
    /// setting is out of its range.
    pub fn connect(self) -> Result<Client, Error> {
        self.start().wait()
    }

    /// As [`Config::connect`], for those who would rather await it.
    pub fn start(self) -> Pending<Client> {
        match self.check() {
            Ok(()) => crate::handle::start(self),
            Err(error) => Pending::failed(error),
        }
    }

    fn check(&self) -> Result<(), Error> {
        let wrong = |what: String| Err(Error::Invalid { subject: String::from("connect"), what });
        let ttl = self.session_ttl.as_millis();
        if self.addresses.is_empty() {
            return wrong(String::from("no address given. Name at least one node as host:port"));
        }
        if ttl < u128::from(SESSION_TTL_MS_MIN) || ttl > u128::from(SESSION_TTL_MS_MAX) {
            return wrong(format!(
                "a session lives 1 s to 10 min after a sign of life, not {ttl} ms"
            ));
        }
        if self.deadline.is_zero() {
            return wrong(String::from("the deadline must be longer than nothing"));
        }
        if self.name.len() > 64 {
            return wrong(String::from("the client's name must have at most 64 bytes"));
        }
        if self.connections == 0 || self.connections > CONNECTIONS_MAX {
            return wrong(format!("1 to {CONNECTIONS_MAX} connections per engine"));
        }
        Ok(())
    }
}
