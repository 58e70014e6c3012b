//! Freed memory goes back to the system, without the thread that freed it.
#![allow(clippy::unwrap_used)] // in a test a panic is the finding, in its helpers too

use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BLOCK: usize = 1 << 20;
const BLOCKS: usize = 256;

/// What this process has of the machine's memory, in bytes.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    4096 * text.split(' ').nth(1).unwrap().parse::<usize>().unwrap()
}

#[test]
fn freed_memory_goes_back_while_the_thread_that_freed_it_sleeps() {
    engine::edge::memory::start().unwrap();
    let blocks: Vec<Vec<u8>> = (0..BLOCKS).map(|_| vec![7; BLOCK]).collect();
    let before = resident();
    assert!(before > BLOCKS * BLOCK, "all of it was touched: {before}");
    drop(blocks);
    let began = Instant::now();
    while resident() > before / 4 {
        assert!(began.elapsed() < Duration::from_secs(30), "{} of {before} left", resident());
        std::thread::sleep(Duration::from_millis(50));
    }
}
