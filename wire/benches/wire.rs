//! What frames and messages cost: `cargo bench -p wire --features archive`.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use wire::limits::FRAME_BYTES_MAX;
use wire::message::FACTS;
use wire::{Header, Request};

/// Frames in what one read of a socket gives.
const FRAMES: u64 = 64;

/// An example of each kind: its name, its kind, its body.
fn examples() -> impl Iterator<Item = (&'static str, wire::Kind, Vec<u8>)> {
    FACTS.iter().map(|facts| {
        let mut body = Vec::new();
        (facts.message.example)(&mut body);
        (facts.message.name, facts.kind(), body)
    })
}

/// Frames off a stream: header, length and checksum.
fn split(c: &mut Criterion) {
    let mut group = c.benchmark_group("split");
    for bytes in [32, 128, 4096] {
        let mut stream = Vec::new();
        for request in 0..FRAMES {
            let header = Header::new(wire::message::CachePut::KIND, request);
            wire::frame(&mut stream, &header, |body| body.resize(body.len() + bytes, 7));
        }
        group.throughput(Throughput::Elements(FRAMES));
        group.bench_function(format!("{bytes} bytes"), |b| {
            b.iter(|| {
                let mut rest = black_box(&stream[..]);
                while let Some(frame) = wire::split(rest, FRAME_BYTES_MAX).expect("it was encoded")
                {
                    black_box(frame.body);
                    rest = &rest[frame.used..];
                }
                assert!(rest.is_empty(), "each frame was split off");
            });
        });
    }
}

fn checksum(c: &mut Criterion) {
    let mut group = c.benchmark_group("crc32c");
    for bytes in [32, 128, 4096, 1 << 20] {
        let data = vec![7; bytes];
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(format!("{bytes} bytes"), |b| {
            b.iter(|| crc32c::crc32c(black_box(&data)))
        });
    }
}

/// Bodies as the server reads them, in place and checked, and as a client does; each vetted.
fn read(c: &mut Criterion) {
    let mut group = c.benchmark_group("view");
    for (name, kind, body) in examples() {
        assert!(Request::view(kind, &body).is_ok(), "the example of {name} is a request");
        group.bench_function(name, |b| b.iter(|| Request::view(kind, black_box(&body)).is_ok()));
    }
    group.finish();
    let mut group = c.benchmark_group("decode");
    for (name, kind, body) in examples() {
        group.bench_function(name, |b| b.iter(|| Request::decode(kind, black_box(&body)).is_ok()));
    }
}

criterion_group!(benches, split, checksum, read);
criterion_main!(benches);
