use super::*;
use crate::checks::Violations;
use crate::load::record::Record;
use crate::scenario::Scenario;
use std::time::Duration;

fn config(scenario: Scenario, connections: usize, depth: usize) -> LoadConfig {
    LoadConfig {
        scenario,
        connections,
        depth,
        measure: Duration::from_secs(1),
        warmup: Duration::from_secs(3),
        payload_bytes: 128,
        keys: 1000,
        rate: None,
        cpus: Vec::new(),
        seed: 1,
        patience: Default::default(),
    }
}

fn load(step: Step, count: u64, latency_ns: u64) -> LoadReport {
    let mut record = Record::default();
    record.begin(0);
    for at in 0..count {
        record.success(step, at, at + latency_ns);
    }
    record.measured_ns = 1_000_000_000;
    LoadReport {
        record,
        violations: Violations::default(),
        reconnects: 0,
        redelivered: 0,
        drained: 0,
        enters: 0,
    }
}

fn floor() -> Floor {
    Floor {
        ops_per_s: 200_000.0,
        p50_us: 250.0,
        echo_ops_per_s: 200_000.0,
        echo_p50_us: 50.0,
        append_ops_per_s: 300_000.0,
        append_p50_us: 150.0,
    }
}

fn report(scenarios: Vec<ScenarioReport>) -> Report {
    Report {
        origin: Origin::here(vec!["run".into()]),
        disk: Disk::under(std::path::Path::new(".")),
        cluster: ClusterReport {
            nodes: 3,
            rss_anon_bytes: vec![1, 2, 3],
            cpu_seconds: vec![0.1, 0.2, 0.3],
            startup_ms: vec![1.0, 2.0, 3.0],
            ..ClusterReport::default()
        },
        violations_total: scenarios.iter().map(|it| it.violations_total).sum(),
        scenarios,
        notes: vec!["a note".into()],
    }
}

#[test]
fn the_json_has_the_promised_shape() {
    let load = load(Step::Put, 1000, 500_000);
    let cost = [Weight { cpu_seconds: 1.0, ..Weight::default() }; 3];
    let scenario =
        ScenarioReport::of(&config(Scenario::CachePut, 64, 1), &load, &cost, Some(floor()));
    let json: serde_json::Value = serde_json::from_str(&report(vec![scenario]).json()).unwrap();
    let it = &json["scenarios"][0];
    assert_eq!(it["name"], "cache-put");
    assert_eq!(it["ops_per_s"], 1000.0);
    assert_eq!(it["errors_total"], 0);
    for key in ["p50", "p95", "p99", "p999", "max"] {
        let us = it["latency_us"][key].as_f64().unwrap();
        assert!((499.0..=501.0).contains(&us), "{key} is {us}");
    }
    assert_eq!(it["floor"]["ops_per_s"], 200_000.0);
    assert_eq!(it["floor"]["p50_us"], 250.0);
    assert_eq!((it["connections"].as_u64(), it["depth"].as_u64()), (Some(64), Some(1)));
    assert_eq!(it["node_cpu_s_per_1000"], 3.0);
    for key in ["rss_anon_bytes", "cpu_seconds", "startup_ms"] {
        assert_eq!(json["cluster"][key].as_array().unwrap().len(), 3, "{key}");
    }
}

#[test]
fn a_target_is_met_or_missed_by_its_shape() {
    let slow = load(Step::Put, 1000, 500_000);
    let of = |connections, depth, load| {
        let config = config(Scenario::CachePut, connections, depth);
        ScenarioReport::of(&config, load, &[], Some(floor())).target
    };
    let missed = of(64, 1, &slow).unwrap();
    assert!(!missed.met);
    assert_eq!(missed.ops_ratio, Some(1000.0 / 80_000.0));
    assert!(!of(1, 1, &slow).unwrap().met, "500 us is twice the floor of 250");
    let quick = load(Step::Put, 90_000, 300_000);
    assert!(of(64, 1, &quick).unwrap().met);
    assert!(of(1, 1, &quick).unwrap().met, "300 us is 1.2 times the floor");
    assert_eq!(of(7, 1, &quick), None);
}

#[test]
fn the_tables_name_figures_floor_and_target() {
    let load = load(Step::Put, 90_000, 300_000);
    let config = config(Scenario::CachePut, 64, 1);
    let report = report(vec![ScenarioReport::of(&config, &load, &[], Some(floor()))]);
    for text in [table::render(&report), markdown::render(&report, Some("latency.svg"))] {
        for part in ["cache-put", "90,000", "300 us", "200 k/s", "80 k/s", "met"] {
            assert!(text.contains(part), "no \"{part}\" in\n{text}");
        }
    }
}

#[test]
fn a_violation_is_shown_in_words() {
    let mut load = load(Step::Get, 10, 1000);
    load.violations.take(crate::checks::CacheCheck::new(1).torn(0, 7));
    let config = config(Scenario::CacheGet, 64, 1);
    let report = report(vec![ScenarioReport::of(&config, &load, &[], None)]);
    assert!(table::render(&report).contains("VIOLATED 1"));
    let text = markdown::render(&report, None);
    assert!(text.contains("1 VIOLATIONS") && text.contains("value-torn"), "{text}");
}

#[test]
fn the_picture_has_a_line_per_scenario() {
    let load = load(Step::Put, 90_000, 300_000);
    let of = |depth| ScenarioReport::of(&config(Scenario::CachePut, 64, depth), &load, &[], None);
    let path = std::env::temp_dir().join(format!("tercet-picture-{}.svg", std::process::id()));
    picture::draw(&path, &[of(1), of(16)]).unwrap();
    let svg = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(svg.contains("cache-put 64 x 1") && svg.contains("cache-put 64 x 16"));
    assert_eq!(svg.matches("<svg").count(), 1);
}

#[test]
fn numbers_are_written_for_people() {
    assert_eq!(grouped(1_234_567.4), "1,234,567");
    assert_eq!(grouped(12.0), "12");
    assert_eq!((time(87.2), time(1240.0)), ("87 us".into(), "1.24 ms".into()));
}

#[test]
fn the_data_file_of_targets_is_well_formed() {
    let targets = targets::Targets::known();
    assert!(targets.target.len() >= 12);
    for target in &targets.target {
        assert!(target.scenario.parse::<Scenario>().is_ok(), "{}", target.scenario);
    }
    for other in &targets.published {
        assert!(other.like.parse::<Scenario>().is_ok(), "{}", other.like);
    }
}
