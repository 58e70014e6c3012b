//! The loopback echo: one thread answers, one asks, each on a ring of its own.

use engine::edge::ring::{CORE_SIZES, Park, RingError};
use engine::edge::streams::{Event, Streams};
use hdrhistogram::Histogram;
use std::collections::VecDeque;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The longest wait of a turn.
const TURN_MAX: Duration = Duration::from_millis(20);

/// The longest latency that is told apart, in nanoseconds.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// What to echo.
#[derive(Clone, Copy, Debug)]
pub struct EchoConfig {
    /// Connections.
    pub connections: usize,
    /// Requests under way on each.
    pub depth: usize,
    /// Bytes of a request.
    pub request_bytes: usize,
    /// Bytes of a reply.
    pub reply_bytes: usize,
    /// How long before the measuring.
    pub warmup: Duration,
    /// How long is measured.
    pub length: Duration,
}

/// What an echo reached.
#[derive(Clone, Debug)]
pub struct Echo {
    /// Replies a second.
    pub ops_per_s: f64,
    /// The median, in microseconds.
    pub p50_us: f64,
    /// All latencies, in nanoseconds.
    pub latencies: Histogram<u64>,
}

/// Measures an echo.
///
/// # Errors
/// When there is no ring or no loopback.
pub fn measure(config: &EchoConfig) -> io::Result<Echo> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let answering = scope.spawn(|| {
            let accept = |_| -> io::Result<TcpStream> {
                let stream = listener.accept()?.0;
                stream.set_nodelay(true)?;
                Ok(stream)
            };
            let streams: io::Result<Vec<TcpStream>> = (0..config.connections).map(accept).collect();
            answer(config, streams?, &end)
        });
        let connect = |_| -> io::Result<TcpStream> {
            let stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        let streams: io::Result<Vec<TcpStream>> = (0..config.connections).map(connect).collect();
        let asked = streams.and_then(|streams| ask(config, streams));
        end.store(true, Ordering::Relaxed);
        let answered = answering.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        answered.and(asked)
    })
}

fn answer(config: &EchoConfig, sockets: Vec<TcpStream>, end: &AtomicBool) -> io::Result<()> {
    let mut streams = Streams::new(CORE_SIZES, sockets.len()).map_err(ring)?;
    let mut outs = vec![Vec::new(); sockets.len()];
    let mut arrived = vec![0usize; sockets.len()];
    let reply = vec![0u8; config.reply_bytes];
    let mut dirty: Vec<usize> = Vec::with_capacity(sockets.len());
    for (slot, socket) in sockets.into_iter().enumerate() {
        streams.attach(slot, socket.into())?;
    }
    while !end.load(Ordering::Relaxed) {
        streams.turn(Park::Watch, TURN_MAX, |slot, event| match event {
            Event::Received(bytes) => {
                arrived[slot] += bytes.len();
                while arrived[slot] >= config.request_bytes {
                    arrived[slot] -= config.request_bytes;
                    outs[slot].extend_from_slice(&reply);
                }
                dirty.push(slot);
            }
            Event::Sent => dirty.push(slot),
            Event::Closed => end.store(true, Ordering::Relaxed),
        })?;
        for slot in dirty.drain(..) {
            streams.send(slot, &mut outs[slot])?;
        }
    }
    Ok(())
}

fn ask(config: &EchoConfig, sockets: Vec<TcpStream>) -> io::Result<Echo> {
    let count = sockets.len();
    let mut streams = Streams::new(CORE_SIZES, count).map_err(ring)?;
    let mut outs = vec![Vec::new(); count];
    let mut arrived = vec![0usize; count];
    let mut sent: Vec<VecDeque<Instant>> = vec![VecDeque::with_capacity(config.depth); count];
    let request = vec![0u8; config.request_bytes];
    let bounds = Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3);
    let mut latencies = bounds.expect("the bounds are in order");
    for (slot, socket) in sockets.into_iter().enumerate() {
        streams.attach(slot, socket.into())?;
        outs[slot] = request.repeat(config.depth);
    }
    let mut dirty: Vec<usize> = (0..count).collect();
    let mut fresh = vec![config.depth; count];
    let begun = Instant::now();
    let total = config.warmup + config.length;
    let mut broken = false;
    loop {
        let now = Instant::now();
        for slot in dirty.drain(..) {
            sent[slot].extend(std::iter::repeat_n(now, fresh[slot]));
            fresh[slot] = 0;
            streams.send(slot, &mut outs[slot])?;
        }
        let mut now = None;
        let measuring = begun.elapsed() >= config.warmup;
        streams.turn(Park::Watch, TURN_MAX, |slot, event| match event {
            Event::Received(bytes) => {
                let now = *now.get_or_insert_with(Instant::now);
                arrived[slot] += bytes.len();
                while arrived[slot] >= config.reply_bytes {
                    arrived[slot] -= config.reply_bytes;
                    let since = sent[slot].pop_front().expect("a reply follows its request");
                    if measuring {
                        let took = u64::try_from((now - since).as_nanos()).unwrap_or(u64::MAX);
                        latencies.saturating_record(took.max(1));
                    }
                    outs[slot].extend_from_slice(&request);
                    fresh[slot] += 1;
                }
                dirty.push(slot);
            }
            Event::Sent => dirty.push(slot),
            Event::Closed => broken = true,
        })?;
        if broken {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if begun.elapsed() >= total {
            break;
        }
    }
    Ok(Echo {
        ops_per_s: latencies.len() as f64 / config.length.as_secs_f64(),
        p50_us: latencies.value_at_quantile(0.5) as f64 / 1e3,
        latencies,
    })
}

fn ring(error: RingError) -> io::Error {
    io::Error::other(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_answers_what_it_was_asked_at_any_shape() {
        for (connections, depth) in [(1, 1), (5, 3)] {
            let echo = measure(&EchoConfig {
                connections,
                depth,
                request_bytes: 100,
                reply_bytes: 70,
                warmup: Duration::from_millis(10),
                length: Duration::from_millis(50),
            })
            .unwrap();
            assert!(echo.ops_per_s > 100.0, "{}", echo.ops_per_s);
            // Two wake-ups and two system calls take longer than this on any machine.
            assert!(echo.p50_us > 1.0, "{} us", echo.p50_us);
        }
    }
}
