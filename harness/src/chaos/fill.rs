//! Idle clients that take all of a node's connections, and insist on more.

use super::ChaosError;
use crate::cluster::ask::{Ask, AskError};
use engine::edge::environment::random_seed;
use serde::Serialize;
use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};
use wire::Code;
use wire::random::Random;

/// Files that a node of a run may open: few, so that its limit is reached. It has seats for some 190 clients then,
/// and 60 for those who did not say who they are.
pub const NODE_FILES_MAX: u64 = 400;
/// Connections that are held open at a time, at most: more than a node has files.
const HELD_MAX: usize = 2 * NODE_FILES_MAX as usize;
/// How long one attempt to connect, or one answer, may take.
const ASK_MAX: Duration = Duration::from_millis(500);
/// After an attempt that failed.
const REST: Duration = Duration::from_millis(20);
/// Between two connections that say nothing: fewer would come in a moment than a node has seats for.
const SILENT_EVERY: Duration = Duration::from_millis(2);
/// Between two looks at which connections still stand.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A silent connection that is closed sooner had to make room. Later its time for a hello may be over (5 s).
const HELLO_SOON: Duration = Duration::from_secs(4);

/// What the clients say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Manner {
    /// A hello, and nothing more.
    Hello,
    /// Nothing.
    Silent,
}

/// What became of it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Filled {
    /// The node.
    pub node: u32,
    /// What the clients said.
    pub manner: Manner,
    /// Connections that it took.
    pub opened: u64,
    /// Connections that it refused, or closed for the next one's sake. None = it was never full.
    pub refused: u64,
    /// Attempts that failed otherwise: the node was dead, stopped or cut off.
    pub failed: u64,
    /// Most connections that stood at a time.
    pub held_max: usize,
    /// Whether it could be said that others were served meanwhile: no other fault was near.
    pub judged: bool,
}

impl Filled {
    /// One line.
    pub fn line(&self) -> String {
        let said = match self.manner {
            Manner::Hello => "that said hello",
            Manner::Silent => "that said nothing",
        };
        let Filled { node, opened, refused, failed, held_max, .. } = self;
        let served =
            if self.judged { "others went on" } else { "not judged whether others went on" };
        format!(
            "connections of node {node} {said}: {opened} taken, {held_max} of them at a time, {refused} \
             refused, {failed} failed otherwise; {served}"
        )
    }
}

/// A thread that fills one node's connections until it is told to stop.
#[derive(Debug)]
pub struct Filler {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Filled>,
}

impl Filler {
    /// Begins.
    ///
    /// # Errors
    /// [`ChaosError::Tool`] when there is no thread for it.
    pub fn start(node: u32, address: SocketAddr, manner: Manner) -> Result<Filler, ChaosError> {
        let stop = Arc::new(AtomicBool::new(false));
        let stops = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("filler".into());
        let thread = thread.spawn(move || fill(node, address, manner, &stops));
        let thread = thread.map_err(|why| ChaosError::Tool {
            what: "starting a thread that connects".into(),
            why,
        })?;
        Ok(Filler { stop, thread })
    }

    /// Closes all connections, and says what became of it.
    pub fn stop(self) -> Filled {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn fill(node: u32, address: SocketAddr, manner: Manner, stop: &AtomicBool) -> Filled {
    let mut filled =
        Filled { node, manner, opened: 0, refused: 0, failed: 0, held_max: 0, judged: false };
    let mut held: Vec<(Instant, TcpStream)> = Vec::new();
    let mut look_at = Instant::now() + LOOK_EVERY;
    while !stop.load(Ordering::Relaxed) {
        if Instant::now() >= look_at {
            held.retain_mut(|(since, stream)| {
                let lives = stands(stream);
                let displaced = !lives && manner == Manner::Silent && since.elapsed() < HELLO_SOON;
                filled.refused += u64::from(displaced);
                lives
            });
            look_at = Instant::now() + LOOK_EVERY;
        }
        if held.len() >= HELD_MAX {
            sleep(REST);
            continue;
        }
        match open(address, manner) {
            Ok(stream) => {
                filled.opened += 1;
                held.push((Instant::now(), stream));
                filled.held_max = filled.held_max.max(held.len());
            }
            Err(AskError::Refused { code: Some(Code::Busy), .. }) => {
                filled.refused += 1;
                sleep(REST);
            }
            Err(_) => {
                filled.failed += 1;
                sleep(REST);
            }
        }
    }
    filled
}

fn open(address: SocketAddr, manner: Manner) -> Result<TcpStream, AskError> {
    let unreachable = |why| AskError::Unreachable { address, why };
    let stream = match manner {
        Manner::Hello => {
            Ask::connect(address, 0, Random::new(random_seed()).id(), ASK_MAX)?.0.into_stream()?
        }
        Manner::Silent => {
            sleep(SILENT_EVERY);
            TcpStream::connect_timeout(&address, ASK_MAX).map_err(unreachable)?
        }
    };
    stream.set_nonblocking(true).map_err(unreachable)?;
    Ok(stream)
}

/// Whether the node still keeps a connection on which it has nothing to say.
fn stands(stream: &mut TcpStream) -> bool {
    let nothing_yet = stream.read(&mut [0; 64]).map_err(|error| error.kind());
    nothing_yet == Err(io::ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_node_that_closes_silent_connections_at_once_is_full_and_one_that_keeps_them_is_not() {
        for (closes, full) in [(true, true), (false, false)] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let filler = Filler::start(1, address, Manner::Silent).unwrap();
            let mut kept = Vec::new();
            let since = Instant::now();
            while since.elapsed() < 3 * LOOK_EVERY {
                let (stream, _) = listener.accept().unwrap();
                if !closes {
                    kept.push(stream);
                }
            }
            // Past the last accept nobody else would take the filler's connections.
            drop(listener);
            let filled = filler.stop();
            assert!(filled.opened > 0, "{filled:?}");
            assert_eq!(filled.refused > 0, full, "{filled:?}");
        }
    }
}
