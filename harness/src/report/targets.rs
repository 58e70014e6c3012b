//! Targets and published figures, from `targets.toml`.

use super::ScenarioReport;
use serde::{Deserialize, Serialize};
use std::sync::LazyLock;

static KNOWN: LazyLock<Targets> = LazyLock::new(|| {
    toml::from_str(include_str!("../../targets.toml")).expect("a test reads the same text")
});

/// What figures stand beside.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Targets {
    /// Our goals.
    pub target: Vec<Target>,
    /// What others reach.
    pub published: Vec<Published>,
}

/// A goal for a scenario at a shape.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// The scenario.
    pub scenario: String,
    /// Connections.
    pub connections: usize,
    /// Depth.
    pub depth: usize,
    /// Operations a second, at least.
    pub ops_per_s: Option<f64>,
    /// p99, at most, in microseconds.
    pub p99_us: Option<f64>,
    /// The median, at most, as a multiple of the floor's.
    pub p50_of_floor: Option<f64>,
    /// Where it comes from.
    pub source: String,
}

/// What another system reaches.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// The system.
    pub system: String,
    /// Our scenario that it compares with.
    pub like: String,
    /// Connections, if it is known.
    pub connections: Option<usize>,
    /// Depth, if it is known.
    pub depth: Option<usize>,
    /// Operations a second.
    pub ops_per_s: Option<f64>,
    /// The median, in microseconds.
    pub p50_us: Option<f64>,
    /// p99, in microseconds.
    pub p99_us: Option<f64>,
    /// Where it comes from.
    pub source: String,
}

/// A figure beside its target.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// Whether all of it is met.
    pub met: bool,
    /// The target, in words.
    pub wanted: String,
    /// Operations a second, as a part of the target's.
    pub ops_ratio: Option<f64>,
    /// p99, as a part of the most that is allowed.
    pub p99_ratio: Option<f64>,
    /// The median over the floor, as a part of the most that is allowed.
    pub p50_ratio: Option<f64>,
}

impl Targets {
    /// The ones of this project.
    pub fn known() -> &'static Targets {
        &KNOWN
    }

    /// How a scenario stands, if there is a target for it at its shape. An open loop has none.
    pub fn verdict(&self, report: &ScenarioReport) -> Option<Verdict> {
        let fits = |target: &&Target| {
            target.scenario == report.name
                && (target.connections, target.depth) == (report.connections, report.depth)
        };
        let target = self.target.iter().find(fits).filter(|_| report.rate.is_none())?;
        let ops_ratio = target.ops_per_s.map(|wanted| report.ops_per_s / wanted);
        let p99_ratio = target.p99_us.map(|wanted| report.latency_us.p99 / wanted);
        let over = report.p50_of_floor.unwrap_or(f64::INFINITY);
        let p50_ratio = target.p50_of_floor.map(|wanted| over / wanted);
        let met = ops_ratio.is_none_or(|ratio| ratio >= 1.0)
            && p99_ratio.is_none_or(|ratio| ratio <= 1.0)
            && p50_ratio.is_none_or(|ratio| ratio <= 1.0);
        let mut wanted = Vec::new();
        if let Some(ops) = target.ops_per_s {
            wanted.push(format!("{}/s", super::short(ops)));
        }
        if let Some(p99) = target.p99_us {
            wanted.push(format!("p99 < {:.0} ms", p99 / 1e3));
        }
        if let Some(over) = target.p50_of_floor {
            wanted.push(format!("p50 <= {over} x"));
        }
        Some(Verdict { met, wanted: wanted.join(", "), ops_ratio, p99_ratio, p50_ratio })
    }
}
