//! `tercet-bench nodes`: a cluster to play with.

use super::bench::{cluster_config, data_dir, interrupts};
use super::{Failure, NodesArguments};
use crate::cluster::Cluster;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::Duration;

/// Between two looks at the nodes and at Ctrl-C.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Starts nodes and keeps them until Ctrl-C.
pub(super) fn nodes(arguments: &NodesArguments) -> Result<u64, Failure> {
    let interrupted = interrupts();
    let dir = data_dir(&arguments.cluster)?;
    let (mut config, placement) = cluster_config(&arguments.cluster, &dir);
    config.first_port = Some(arguments.port);
    let mut cluster = Cluster::start(config)?;
    println!("{}; data and logs in {}", placement.said, dir.display());
    for node in cluster.nodes() {
        println!(
            "node {}: {}   http://{}/status   ready after {:.0} ms, process {}",
            node.node,
            node.address,
            node.http,
            node.startup_ms,
            cluster.pid(node.node).unwrap_or_default()
        );
    }
    let all: Vec<String> = cluster.addresses().iter().map(ToString::to_string).collect();
    println!("\nTry, in another shell:");
    let this = std::env::current_exe().ok();
    if let Some(programs) = this.as_deref().and_then(Path::parent) {
        println!("  export PATH={}:$PATH", programs.display());
    }
    println!("  export TERCET_SERVERS={}", all.join(","));
    println!("  tercet status");
    println!("  tercet lock run demo -- sleep 1");
    println!("  tercet queue push jobs hello && tercet queue pop jobs --ack");
    println!(
        "\nCtrl-C stops them{}.",
        if arguments.cluster.place.keep { "" } else { " and removes their data" }
    );
    while !interrupted.load(Ordering::Relaxed) {
        for node in 1..=arguments.cluster.nodes {
            cluster.check(node)?;
        }
        sleep(LOOK_EVERY);
    }
    cluster.stop()?;
    Ok(0)
}
