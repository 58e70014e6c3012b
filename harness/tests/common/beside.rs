//! A load beside a test: checked, and slow enough to leave the machine to what is tested.

use harness::cluster::Cluster;
use harness::load::{self, Go, LoadConfig, LoadReport};
use harness::scenario::Scenario;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// One short load after the other in the background.
pub struct Beside {
    over: Arc<AtomicBool>,
    loads: JoinHandle<Vec<LoadReport>>,
}

impl Beside {
    /// Begins.
    pub fn begin(cluster: &Cluster) -> Beside {
        let (nodes, over) = (cluster.addresses(), Arc::new(AtomicBool::new(false)));
        let config = LoadConfig {
            scenario: Scenario::Mixed,
            connections: 4,
            depth: 1,
            measure: Duration::from_secs(3),
            warmup: Duration::ZERO,
            payload_bytes: 128,
            keys: 200,
            rate: Some(500.0),
            cpus: Vec::new(),
            seed: 7,
            patience: Default::default(),
        };
        let ends = Arc::clone(&over);
        let loads = std::thread::spawn(move || {
            let mut reports = Vec::new();
            while !ends.load(Ordering::Acquire) {
                let report = load::run(&config, &nodes, &mut |_| Go::On);
                reports.push(report.expect("the load runs to its end"));
            }
            reports
        });
        Beside { over, loads }
    }

    /// Ends: no promise was broken, and the cluster served.
    pub fn assert_kept(self) {
        self.over.store(true, Ordering::Release);
        let reports = self.loads.join().expect("the load does not panic");
        for report in &reports {
            assert_eq!(report.violations.total, 0, "{:?}", report.violations.first);
        }
        let operations: u64 = reports.iter().map(|report| report.record.all().len()).sum();
        // A machine that others keep busy serves a few hundred.
        assert!(operations > 100, "the cluster served meanwhile: {operations}");
    }
}
