//! The small simulator: what `make test` runs of it.

use harness::sim::{self, Options};

#[test]
fn two_hundred_seeds_run_clean() {
    let failures: Vec<String> = (0..200)
        .filter_map(|seed| {
            sim::run(Options::small(seed)).err().map(|e| format!("seed {seed}: {e}"))
        })
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// What each showed stands in docs/findings/seeds.md.
#[test]
fn seeds_that_failed_once_run_clean() {
    for seed in [247, 437, 562, 1474, 1552, 1963, 4750, 6247, 7798] {
        assert!(sim::run(Options::small(seed)).is_ok(), "seed {seed}");
    }
}

#[test]
fn one_seed_gives_one_trace() {
    for seed in [3, 17, 42] {
        let trace = |_| sim::run(Options::small(seed)).map(|r| (r.trace, r.events)).ok();
        assert_eq!(trace(1), trace(2), "seed {seed}");
        assert!(trace(1).is_some(), "seed {seed} passes");
    }
}
