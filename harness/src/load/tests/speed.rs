//! What the generator costs by itself, without its ring and its nodes: callgrind counts its instructions.
//!
//! ```console
//! $ SCENARIO=cache-get ROUNDS=24 valgrind --tool=callgrind --toggle-collect='*generator_*' \
//!       target/release/deps/harness-... load::tests::speed::speed --ignored --nocapture
//! ```

use super::super::core::{Core, Phase};
use super::*;
use std::hint::black_box;
use wire::message::*;
use wire::{HEADER_BYTES, Header};

#[inline(never)]
fn generator_flush(core: &mut Core, now_ns: u64) {
    core.now_ns = now_ns;
    let mut dirty = std::mem::take(&mut core.dirty);
    for number in dirty.drain(..) {
        core.conns[number as usize].dirty = false;
    }
    core.dirty = dirty;
    for index in core.fresh.drain(..) {
        let slot = &mut core.slots[index as usize];
        if slot.step == Step::Release {
            core.check_locks.given_up(slot.lock, index + 1);
        }
        if slot.sent_ns == 0 {
            slot.sent_ns = now_ns;
            slot.begun_ns = now_ns;
        }
    }
}

#[inline(never)]
fn generator_bytes(core: &mut Core, now_ns: u64, conn: usize, bytes: &[u8]) {
    core.now_ns = now_ns;
    core.conns[conn].heard_ns = now_ns;
    core.on_bytes(conn, bytes).unwrap();
}

#[derive(Default)]
struct Node {
    token: u64,
    lines: std::collections::HashMap<Vec<u8>, (u64, Vec<u8>)>,
    queue: std::collections::VecDeque<(u64, Vec<u8>)>,
}

impl Node {
    #[inline(never)]
    fn node_answers(&mut self, sent: &[u8], out: &mut Vec<u8>) {
        out.clear();
        let mut rest = sent;
        while let Some(head) = rest.first_chunk::<HEADER_BYTES>() {
            let (header, length) = Header::parse(head).unwrap();
            let body = &rest[HEADER_BYTES..HEADER_BYTES + length];
            rest = &rest[HEADER_BYTES + length..];
            self.token += 1;
            let (token, index) = (self.token, 1);
            let request = header.request;
            match header.kind {
                CachePut::KIND => {
                    let put = CachePut::decode(body).unwrap();
                    self.lines.insert(put.key.to_vec(), (token, put.value.to_vec()));
                    wire::frame(out, &Header::new(Done::KIND, request), |b| {
                        Done { token, index }.encode(b)
                    });
                }
                CacheGet::KIND => {
                    let get = CacheGet::decode(body).unwrap();
                    let (version, value) = &self.lines[get.key];
                    let (version, value) = (*version, &value[..]);
                    wire::frame(out, &Header::new(Value::KIND, request), |b| {
                        Value { version, value }.encode(b)
                    });
                }
                QueuePush::KIND => {
                    let push = QueuePush::decode(body).unwrap();
                    self.queue.push_back((token, push.payload.to_vec()));
                    wire::frame(out, &Header::new(Done::KIND, request), |b| {
                        Done { token, index }.encode(b)
                    });
                }
                QueuePop::KIND => {
                    let (id, payload) = self.queue.pop_front().unwrap();
                    let (delivery, priority, payload) = (1, 128, &payload[..]);
                    wire::frame(out, &Header::new(Delivery::KIND, request), |b| {
                        Delivery { id, delivery, priority, payload }.encode(b)
                    });
                }
                _ => wire::frame(out, &Header::new(Done::KIND, request), |b| {
                    Done { token, index }.encode(b)
                }),
            }
        }
    }
}

#[test]
#[ignore = "it is run to be counted"]
fn speed() {
    let scenario: Scenario =
        std::env::var("SCENARIO").unwrap_or("cache-get".into()).parse().unwrap();
    let rounds: u64 = std::env::var("ROUNDS").map_or(2_000, |rounds| rounds.parse().unwrap());
    let mut config = config(scenario);
    (config.connections, config.depth, config.payload_bytes) = (64, 16, 128);
    config.keys = std::env::var("KEYS").map_or(10_000, |keys| keys.parse().unwrap());
    let mut core = Core::new(&config, 2, 7);
    let mut node = Node::default();
    let (mut sent, mut got) = (Vec::new(), Vec::new());
    let mut now = 1_000;
    for conn in 0..config.connections {
        core.on_up(conn);
    }
    if core.fill_depth > 0 {
        core.phase = Phase::Fill;
        for conn in 0..core.conns.len() {
            for index in core.slots_of(conn) {
                core.fill(index as u32);
            }
        }
        while !core.all_idle() {
            turn(&mut core, &mut node, &mut now, &mut sent, &mut got);
        }
    }
    core.phase = Phase::Measure;
    core.measure_ns = now..u64::MAX;
    core.record.begin(now);
    core.ops = 0;
    for at in 0..core.depth {
        for conn in 0..core.conns.len() {
            let index = core.slots_of(conn).start + at;
            let chance = core.draw();
            core.slots[index].step = core.scenario.first(chance);
            core.proceed(index as u32);
        }
    }
    let begun = std::time::Instant::now();
    for _ in 0..rounds {
        turn(&mut core, &mut node, &mut now, &mut sent, &mut got);
    }
    let each = begun.elapsed().as_nanos() as f64 / core.ops as f64;
    println!("OPS {} {each:.0} ns", black_box(core.ops));
    assert_eq!(core.violations.total, 0);
}

fn turn(core: &mut Core, node: &mut Node, now: &mut u64, sent: &mut Vec<u8>, got: &mut Vec<u8>) {
    generator_flush(core, *now);
    for conn in 0..core.conns.len() {
        sent.clear();
        std::mem::swap(sent, &mut core.conns[conn].out);
        node.node_answers(sent, got);
        *now += 2_000;
        generator_bytes(core, *now, conn, got);
    }
}
