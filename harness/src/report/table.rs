//! The table on the terminal.

use super::{Report, ScenarioReport, grouped, short, time};
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table};

const HEAD: [&str; 11] = [
    "scenario",
    "shape",
    "ops/s",
    "p50",
    "p95",
    "p99",
    "p99.9",
    "max",
    "errors",
    "of floor",
    "of target",
];

/// One row per scenario: figures, then the floor and the target, with ratios.
pub fn render(report: &Report) -> String {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(HEAD.map(|name| Cell::new(name).add_attribute(Attribute::Bold)));
    for scenario in &report.scenarios {
        table.add_row(row(scenario));
    }
    for column in 2..9 {
        let column = table.column_mut(column).expect("the head has as many columns");
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

fn row(scenario: &ScenarioReport) -> Vec<Cell> {
    let latency = &scenario.latency_us;
    let mut shape = format!("{}x{}", scenario.connections, scenario.depth);
    if let Some(rate) = scenario.rate {
        shape += &format!(" @{}/s", grouped(rate));
    }
    let wrong = scenario.errors_total > 0 || scenario.violations_total > 0;
    let mut errors = Cell::new(grouped(scenario.errors_total as f64));
    if scenario.violations_total > 0 {
        errors = Cell::new(format!("VIOLATED {}", scenario.violations_total));
    }
    if wrong {
        errors = errors.fg(Color::Red);
    }
    let mut cells = vec![Cell::new(&scenario.name), Cell::new(shape)];
    cells.push(Cell::new(grouped(scenario.ops_per_s)).add_attribute(Attribute::Bold));
    let times = [latency.p50, latency.p95, latency.p99, latency.p999, latency.max];
    cells.extend(times.map(|us| Cell::new(time(us))));
    cells.push(errors);
    cells.push(Cell::new(floor(scenario)));
    let Some(target) = &scenario.target else {
        cells.push(Cell::new("-"));
        return cells;
    };
    let ratio = target.ops_ratio.or(target.p50_ratio).unwrap_or_default();
    let (word, color) = if target.met { ("met", Color::Green) } else { ("missed", Color::Yellow) };
    cells.push(Cell::new(format!("{ratio:.2} {word}: {}", target.wanted)).fg(color));
    cells
}

/// The floor that says most at the shape: the median for one request at a time, else the rate.
pub(super) fn floor(scenario: &ScenarioReport) -> String {
    let Some(floor) = &scenario.floor else { return "-".into() };
    if scenario.connections * scenario.depth == 1 {
        let over = scenario.p50_of_floor.unwrap_or_default();
        return format!("{over:.2} x {}", time(floor.p50_us));
    }
    let part = scenario.ops_of_floor.unwrap_or_default();
    format!("{part:.2} x {}/s", short(floor.ops_per_s))
}
