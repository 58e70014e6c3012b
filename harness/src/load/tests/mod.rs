//! The generator against a node that answers by rote, and can be told to misbehave.

mod rote;
mod speed;

use super::*;
use crate::scenario::Step;
use rote::{Misdeed, Node};

fn config(scenario: Scenario) -> LoadConfig {
    LoadConfig {
        scenario,
        connections: 4,
        depth: 4,
        measure: Duration::from_millis(150),
        warmup: Duration::from_millis(30),
        payload_bytes: 32,
        keys: 40,
        rate: None,
        cpus: Vec::new(),
        seed: 7,
        patience: Default::default(),
    }
}

fn load(config: &LoadConfig, misdeed: Misdeed) -> (LoadReport, Node) {
    let node = Node::start(misdeed);
    let report = run(config, &[node.address], &mut |_| Go::On).unwrap();
    (report, node)
}

fn rules(report: &LoadReport) -> Vec<&'static str> {
    let mut rules: Vec<_> = report.violations.first.iter().map(|it| it.rule).collect();
    rules.sort_unstable();
    rules.dedup();
    rules
}

#[test]
fn every_scenario_runs_and_ends_with_nothing_held() {
    for scenario in Scenario::ALL {
        // The rote node has no waiters.
        if matches!(scenario, Scenario::Floor | Scenario::LocksContended) {
            continue;
        }
        let (report, node) = load(&config(scenario), Misdeed::None);
        assert_eq!(rules(&report), Vec::<&str>::new(), "{scenario}");
        assert_eq!(report.record.errors_total(), 0, "{scenario}: {:?}", report.record.errors);
        assert!(report.record.ops_per_s() > 100.0, "{scenario}");
        let left = node.left();
        assert_eq!((left.sessions, left.held, left.messages), (0, 0, 0), "{scenario}");
    }
}

#[test]
fn steps_of_a_cycle_are_counted_alike() {
    let (report, _) = load(&config(Scenario::Queue), Misdeed::None);
    let count = |step| report.record.step(step).len() as f64;
    let (pushed, acked) = (count(Step::Push), count(Step::Ack));
    assert!((pushed - acked).abs() <= 32.0, "{pushed} pushes, {acked} acks");
}

#[test]
fn a_broken_connection_loses_nothing_and_repeats_nothing() {
    for scenario in [Scenario::Queue, Scenario::CacheMixed, Scenario::Mixed] {
        let (report, node) = load(&config(scenario), Misdeed::CloseEvery(97));
        assert_eq!(rules(&report), Vec::<&str>::new(), "{scenario}");
        assert_eq!(report.record.errors_total(), 0, "{scenario}: {:?}", report.record.errors);
        assert!(report.reconnects > 0, "{scenario}");
        assert!(node.left().replayed > 0, "{scenario}: something was sent again");
    }
}

#[test]
fn a_busy_node_is_asked_again_and_counts_no_error() {
    let (report, _) = load(&config(Scenario::Locks), Misdeed::BusyEvery(10));
    assert_eq!(report.record.errors_total(), 0, "{:?}", report.record.errors);
    assert!(report.record.retries > 0);
    assert_eq!(report.reconnects, 0);
}

#[test]
fn a_node_that_leads_no_more_is_left() {
    let (report, _) = load(&config(Scenario::Locks), Misdeed::NotLeaderEvery(500));
    assert_eq!(report.record.errors_total(), 0, "{:?}", report.record.errors);
    assert!(report.reconnects > 0);
}

#[test]
fn a_session_that_ends_fails_what_it_held_and_begins_anew() {
    let (report, _) = load(&config(Scenario::Locks), Misdeed::EndSessionEvery(500));
    assert_eq!(rules(&report), Vec::<&str>::new());
    assert!(report.record.errors["session-unknown"] > 0);
    assert!(report.record.ops_per_s() > 100.0, "the load goes on");
}

#[test]
fn locks_granted_to_two_are_caught() {
    let (report, _) = load(&config(Scenario::LocksContended), Misdeed::None);
    assert_eq!(rules(&report), ["lock-overlap"], "the rote node grants everything");
}

#[test]
fn lost_messages_are_caught() {
    let (report, _) = load(&config(Scenario::Queue), Misdeed::LoseEvery(50));
    assert_eq!(rules(&report), ["message-lost"]);
}

#[test]
fn stale_reads_are_caught() {
    let (report, _) = load(&config(Scenario::CacheMixed), Misdeed::StaleEvery(20));
    assert!(rules(&report).contains(&"stale-read"), "{:?}", rules(&report));
}

#[test]
fn an_open_loop_keeps_its_rate_and_counts_a_stall() {
    let mut config = config(Scenario::CachePut);
    config.rate = Some(2_000.0);
    config.measure = Duration::from_millis(500);
    let (report, _) = load(&config, Misdeed::None);
    let rate = report.record.ops_per_s();
    assert!((1_700.0..2_300.0).contains(&rate), "{rate}");
    // Each stall of 60 ms delays all that were to begin in it, though few were under way.
    let (report, _) = load(&config, Misdeed::StallEvery(400));
    let late = report.record.all().value_at_quantile(0.9);
    assert!(late > 20_000_000, "{late} ns");
}

#[test]
fn a_load_that_is_stopped_says_so() {
    let node = Node::start(Misdeed::None);
    let stopped = run(&config(Scenario::Locks), &[node.address], &mut |_| Go::Stop);
    assert!(matches!(stopped, Err(LoadError::Interrupted)));
}

#[test]
fn what_is_out_of_range_is_refused_by_its_flag() {
    let mut config = config(Scenario::Locks);
    config.depth = DEPTH_MAX + 1;
    assert!(config.check().unwrap_err().to_string().contains("--depth"));
    config.depth = 1;
    config.payload_bytes = 15;
    assert!(config.check().unwrap_err().to_string().contains("--payload"));
}
