//! The generator's loop: the ring's turns, the phases, the arrivals of an open loop.

use super::core::{Core, Phase};
use super::finish::finish;
use super::replies::heartbeat;
use super::router::{Found, Job, Router, topology};
use super::{CONNECT_MAX, Go, Listener, LoadConfig, LoadError, LoadReport, Progress};
use crate::cluster::launch::take_cpus;
use crate::scenario::Step;
use engine::edge::ring::{CORE_SIZES, Park};
use engine::edge::streams::{Event, Streams};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::thread::sleep;
use std::time::{Duration, Instant};
use wire::Header;
use wire::message::Heartbeat;

/// The longest wait of a turn.
const TURN_MAX: Duration = Duration::from_millis(50);
/// The longest wait of a turn while a connection is down.
const TURN_DOWN_MAX: Duration = Duration::from_millis(2);
/// Between two words about progress.
const PROGRESS_EVERY_NS: u64 = 100_000_000;
/// How long slots may take to give back what they hold.
const WIND_DOWN_NS: u64 = 20_000_000_000;
/// Lines must be written in this time.
const FILL_NS: u64 = 120_000_000_000;
/// How late a timer of this thread may be, in nanoseconds; the default is 50 us.
const TIMER_SLACK_NS: u64 = 1_000;

struct Drive<'a> {
    config: &'a LoadConfig,
    core: Core,
    streams: Streams,
    router: Router,
    since: Instant,
    down: usize,
    phase_end_ns: u64,
    arrival_next: u64,
    arrivals_from_ns: u64,
    heartbeat_at_ns: u64,
    progress_at_ns: u64,
}

/// Runs a load in this thread.
pub(super) fn run(
    config: &LoadConfig,
    addresses: &[SocketAddr],
    progress: Listener<'_>,
) -> Result<LoadReport, LoadError> {
    take_cpus(&config.cpus)?;
    // A kernel that refuses makes an open loop a little coarser.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(TIMER_SLACK_NS));
    let shards = shards(addresses)?;
    let run = RandomState::new().hash_one(config.seed);
    let mut drive = Drive {
        config,
        core: Core::new(config, shards, run),
        streams: Streams::new(CORE_SIZES, config.connections)?,
        router: Router::start(
            addresses.to_vec(),
            config.connections,
            config.patience.session_ttl_ms,
        ),
        since: Instant::now(),
        down: config.connections,
        phase_end_ns: 0,
        arrival_next: 0,
        arrivals_from_ns: 0,
        heartbeat_at_ns: 0,
        progress_at_ns: 0,
    };
    drive.connect()?;
    drive.begin();
    while !drive.turn(progress)? {}
    let Drive { mut core, streams, .. } = drive;
    let enters = streams.stats().enters;
    drop(streams);
    let drained = finish(&mut core, addresses)?;
    Ok(LoadReport {
        record: core.record,
        violations: core.violations,
        reconnects: core.reconnects,
        redelivered: core.check_queue.redelivered(),
        drained,
        enters,
    })
}

fn shards(addresses: &[SocketAddr]) -> Result<u32, LoadError> {
    let since = Instant::now();
    while since.elapsed() < CONNECT_MAX {
        if let Some(topology) = topology(addresses).filter(|topology| topology.shards > 0) {
            return Ok(topology.shards);
        }
        sleep(TURN_MAX);
    }
    Err(LoadError::NoCluster)
}

/// A length in nanoseconds; a very long one is cut.
fn nanos(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).unwrap_or(u64::MAX).min(u64::MAX / 4)
}

impl Drive<'_> {
    /// Makes all connections.
    fn connect(&mut self) -> Result<(), LoadError> {
        for conn in 0..self.core.conns.len() {
            self.ask_for(conn);
        }
        let until = Instant::now() + CONNECT_MAX;
        while self.down > 0 {
            let wait_max = until.saturating_duration_since(Instant::now());
            let found = self.router.wait(wait_max).ok_or(LoadError::NoCluster)?;
            self.seat(found)?;
        }
        Ok(())
    }

    fn ask_for(&mut self, conn: usize) {
        let now_ns = self.clock();
        let it = &self.core.conns[conn];
        for session in it.sessions.clone() {
            let session = &mut self.core.sessions[session as usize];
            if session.alive_ns == 0 {
                session.alive_ns = now_ns;
            }
        }
        let ids = it.sessions.clone().map(|session| self.core.sessions[session as usize].id);
        self.router.ask(Job { conn, shard: it.shard, sessions: ids.collect() });
    }

    /// A connection stands again: goes on with it, unless its sessions may have ended meanwhile.
    fn attach(&mut self, found: Found) -> Result<(), LoadError> {
        self.core.now_ns = self.clock();
        let ended = match found.stream {
            None => self.core.sessions_refused(found.conn),
            Some(_) => self.core.guard_ran_out(found.conn),
        };
        if ended {
            // Not attached, so there is nothing to close.
            self.core.to_close.retain(|conn| *conn as usize != found.conn);
            self.ask_for(found.conn);
            return Ok(());
        }
        self.seat(found)
    }

    fn seat(&mut self, found: Found) -> Result<(), LoadError> {
        let Some(stream) = found.stream else { return Err(LoadError::NoCluster) };
        self.streams.attach(found.conn, stream.into())?;
        self.down -= 1;
        self.core.on_up(found.conn);
        Ok(())
    }

    fn clock(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_nanos()).expect("a run is shorter than centuries")
    }

    /// The first phase begins.
    fn begin(&mut self) {
        self.core.now_ns = self.clock();
        if self.core.fill_depth > 0 {
            self.core.phase = Phase::Fill;
            self.phase_end_ns = self.core.now_ns + FILL_NS;
            for conn in 0..self.core.conns.len() {
                for index in self.core.slots_of(conn) {
                    self.core.fill(index as u32);
                }
            }
        } else {
            self.begin_load();
        }
    }

    /// The load itself begins: warm-up, then measuring.
    fn begin_load(&mut self) {
        let core = &mut self.core;
        core.phase = Phase::Warm;
        core.ops = 0;
        let warmup = nanos(self.config.warmup);
        let measure = nanos(self.config.measure);
        let from = core.now_ns + warmup;
        core.measure_ns = from..from + measure;
        core.record.begin(from);
        self.phase_end_ns = from;
        self.arrivals_from_ns = core.now_ns;
        self.arrival_next = 0;
        // The first slot of every connection first: an open loop spreads over the connections.
        for at in 0..core.depth {
            for conn in 0..core.conns.len() {
                let index = core.slots_of(conn).start + at;
                let chance = core.draw();
                core.slots[index].step = core.scenario.first(chance);
                core.proceed(index as u32);
            }
        }
    }

    /// One turn. Gives whether the load is over.
    fn turn(&mut self, progress: Listener<'_>) -> Result<bool, LoadError> {
        self.core.now_ns = self.clock();
        if self.phases() {
            return Ok(true);
        }
        self.arrive();
        if !self.core.waiting.is_empty() {
            self.core.retry_waiting();
        }
        for conn in std::mem::take(&mut self.core.to_close) {
            self.streams.close(conn as usize)?;
        }
        if self.down > 0 {
            while let Some(found) = self.router.found() {
                self.attach(found)?;
            }
        }
        if self.core.now_ns >= self.heartbeat_at_ns {
            self.heartbeat_at_ns = self.core.now_ns + nanos(self.config.patience.heartbeat_every);
            self.close_silent()?;
            self.heartbeats();
        }
        if self.core.now_ns >= self.progress_at_ns {
            self.progress_at_ns = self.core.now_ns + PROGRESS_EVERY_NS;
            if progress(self.progress()) == Go::Stop {
                return Err(LoadError::Interrupted);
            }
        }
        self.flush()?;
        self.wait()?;
        Ok(false)
    }

    /// Moves on to the next phase when it is time. Gives whether there is none.
    fn phases(&mut self) -> bool {
        let before = self.core.phase;
        let over = self.next_phase();
        if self.core.phase != before {
            // Whoever weighs the nodes wants to hear of it at once.
            self.progress_at_ns = 0;
        }
        over
    }

    fn next_phase(&mut self) -> bool {
        let now_ns = self.core.now_ns;
        match self.core.phase {
            Phase::Fill if self.core.all_idle() => self.begin_load(),
            Phase::Fill if now_ns > self.phase_end_ns => {
                self.core.record.error("lines-not-written");
                return true;
            }
            Phase::Warm if now_ns >= self.phase_end_ns => {
                self.core.phase = Phase::Measure;
                self.core.ops = 0;
                self.phase_end_ns = self.core.measure_ns.end;
            }
            Phase::Measure if now_ns >= self.phase_end_ns => {
                self.core.record.silence_until(self.core.measure_ns.end);
                let measured = self.core.measure_ns.end - self.core.measure_ns.start;
                self.core.record.measured_ns = measured;
                if let Some(rate) = self.config.rate {
                    let due = (now_ns - self.arrivals_from_ns) as f64 * rate / 1e9;
                    self.core.record.unserved = (due as u64).saturating_sub(self.arrival_next);
                }
                self.core.phase = Phase::WindDown;
                self.core.ops = 0;
                self.phase_end_ns = now_ns + WIND_DOWN_NS;
                for index in std::mem::take(&mut self.core.free) {
                    self.core.proceed(index);
                }
            }
            Phase::WindDown if self.core.all_idle() => return true,
            Phase::WindDown if now_ns > self.phase_end_ns => {
                let busy = |slot: &&super::slot::Slot| slot.state != super::slot::State::Idle;
                for _ in 0..self.core.slots.iter().filter(busy).count() {
                    self.core.record.error("unanswered");
                }
                return true;
            }
            _ => {}
        }
        false
    }

    /// Open loop: begins the steps that are due, in free slots.
    fn arrive(&mut self) {
        let Some(rate) = self.config.rate else { return };
        if self.core.phase == Phase::Fill || self.core.phase == Phase::WindDown {
            return;
        }
        while let Some(index) = self.core.free.front().copied() {
            let due_ns = self.arrivals_from_ns + (self.arrival_next as f64 * 1e9 / rate) as u64;
            if due_ns > self.core.now_ns {
                break;
            }
            self.core.free.pop_front();
            self.arrival_next += 1;
            self.core.begin(index, due_ns);
        }
    }

    /// Gives up connections whose node says nothing, not even to heartbeats: it may be stopped, or cut
    /// off, and the kernel would wait for minutes.
    fn close_silent(&mut self) -> Result<(), LoadError> {
        let silence_max = nanos(self.config.patience.silence_max);
        for number in 0..self.core.conns.len() {
            let conn = &self.core.conns[number];
            if conn.up && self.core.now_ns.saturating_sub(conn.heard_ns) > silence_max {
                self.streams.close(number)?;
            }
        }
        Ok(())
    }

    fn heartbeats(&mut self) {
        for number in 0..self.core.conns.len() {
            let conn = &mut self.core.conns[number];
            if !conn.up {
                continue;
            }
            for number in conn.sessions.clone() {
                let session = self.core.sessions[number as usize].id;
                let request = heartbeat(number, self.core.now_ns);
                let header = Header { shard: conn.shard, ..Header::new(Heartbeat::KIND, request) };
                wire::frame(&mut conn.out, &header, |out| Heartbeat { session }.encode(out));
            }
            if !std::mem::replace(&mut conn.dirty, true) {
                self.core.dirty.push(number as u32);
            }
        }
    }

    fn progress(&self) -> Progress {
        let core = &self.core;
        let (phase, done) = match core.phase {
            Phase::Fill => ("writing lines", 0.0),
            Phase::Warm => ("warming up", 0.0),
            Phase::Measure => {
                let length = (core.measure_ns.end - core.measure_ns.start).max(1);
                let into = core.now_ns.saturating_sub(core.measure_ns.start);
                ("measuring", into as f64 / length as f64)
            }
            Phase::WindDown => ("winding down", 1.0),
        };
        Progress { phase, done, ops: core.ops }
    }

    /// Hands what was encoded to the ring, and takes the time of it.
    fn flush(&mut self) -> Result<(), LoadError> {
        let mut dirty = std::mem::take(&mut self.core.dirty);
        for number in dirty.drain(..) {
            let conn = &mut self.core.conns[number as usize];
            conn.dirty = false;
            self.streams.send(number as usize, &mut conn.out)?;
        }
        self.core.dirty = dirty;
        if self.core.fresh.is_empty() {
            return Ok(());
        }
        let now_ns = self.clock();
        for index in self.core.fresh.drain(..) {
            let slot = &mut self.core.slots[index as usize];
            if slot.step == Step::Release {
                // From here on, and not before, another may be granted the lock.
                self.core.check_locks.given_up(slot.lock, index + 1);
            }
            if slot.sent_ns == 0 {
                slot.sent_ns = now_ns;
                if !self.core.open_loop {
                    slot.begun_ns = now_ns;
                }
            }
        }
        Ok(())
    }

    /// Waits for the ring and takes in what happened.
    fn wait(&mut self) -> Result<(), LoadError> {
        let turn_max = if self.down > 0 { TURN_DOWN_MAX } else { TURN_MAX };
        let mut until_ns = self.phase_end_ns.min(self.core.waiting_until());
        if let (Some(rate), false) = (self.config.rate, self.core.free.is_empty()) {
            let due = (self.arrival_next as f64 * 1e9 / rate) as u64;
            until_ns = until_ns.min(self.arrivals_from_ns + due);
        }
        let left = Duration::from_nanos(until_ns.saturating_sub(self.core.now_ns));
        let mut closed = Vec::new();
        let mut broken = Vec::new();
        let (core, since) = (&mut self.core, self.since);
        let mut timed = false;
        self.streams.turn(Park::Watch, left.min(turn_max), |conn, event| {
            if !std::mem::replace(&mut timed, true) {
                core.now_ns = since.elapsed().as_nanos() as u64;
            }
            match event {
                Event::Received(bytes) => {
                    core.conns[conn].heard_ns = core.now_ns;
                    if core.on_bytes(conn, bytes).is_err() {
                        core.record.error("nonsense");
                        broken.push(conn);
                    }
                }
                Event::Sent => {
                    let it = &mut core.conns[conn];
                    if !it.out.is_empty() && !std::mem::replace(&mut it.dirty, true) {
                        core.dirty.push(conn as u32);
                    }
                }
                Event::Closed => closed.push(conn),
            }
        })?;
        for conn in broken {
            self.streams.close(conn)?;
        }
        for conn in closed {
            self.core.on_down(conn);
            self.down += 1;
            self.ask_for(conn);
        }
        Ok(())
    }
}
