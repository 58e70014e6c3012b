//! The latency distribution as a picture: the rarer, the further right; both axes logarithmic.

use super::ScenarioReport;
use plotters::prelude::*;
use plotters::series::LineSeries;
use std::path::Path;

/// The picture's size, in pixels.
const SIZE: (u32, u32) = (1100, 640);
/// The rarest that is drawn: one in so many.
const RAREST: f64 = 100_000.0;

/// Lines that are told apart, also by those who don't see red and green apart (Okabe and Ito, 2008).
const COLORS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(120, 120, 120),
    RGBColor(60, 60, 60),
];

/// Draws the distributions of `scenarios` into an SVG file.
///
/// # Errors
/// What the drawing says, as text.
pub fn draw(path: &Path, scenarios: &[ScenarioReport]) -> Result<(), String> {
    let lines: Vec<_> = scenarios.iter().map(|it| (label(it), points(it))).collect();
    let values = || lines.iter().flat_map(|(_, points)| points.iter().map(|point| point.1));
    let low = values().fold(f64::INFINITY, f64::min).clamp(1.0, 1e3);
    let high = values().fold(0.0, f64::max).max(low * 10.0);
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    let text = |error: DrawingAreaErrorKind<_>| format!("drawing {}: {error}", path.display());
    root.fill(&WHITE).map_err(text)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("Latency by percentile", ("sans-serif", 22))
        .margin(14)
        .margin_right(30)
        .x_label_area_size(44)
        .y_label_area_size(76)
        .build_cartesian_2d((1.0..RAREST).log_scale(), (low * 0.8..high * 1.3).log_scale())
        .map_err(text)?;
    chart
        .configure_mesh()
        .x_desc("percentile")
        .y_desc("latency")
        .x_labels(6)
        .x_label_formatter(&percentile)
        .y_label_formatter(&|us| super::time(*us))
        .light_line_style(RGBColor(236, 236, 236))
        .draw()
        .map_err(text)?;
    for (number, (label, points)) in lines.iter().enumerate() {
        let color = COLORS[number % COLORS.len()];
        // Lines past the colours' number are thinner.
        let width = if number < COLORS.len() { 2 } else { 1 };
        let style = color.stroke_width(width);
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style))
            .map_err(text)?
            .label(label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.85))
        .border_style(RGBColor(200, 200, 200))
        .draw()
        .map_err(text)?;
    root.present().map_err(text)
}

fn label(it: &ScenarioReport) -> String {
    format!("{} {} x {}", it.name, it.connections, it.depth)
}

/// How rare (one in so many is slower), and microseconds.
fn points(it: &ScenarioReport) -> Vec<(f64, f64)> {
    let rare = |share: f64| (1.0 / (1.0 - share).max(1.0 / RAREST)).min(RAREST);
    // The distribution ends where there are too few operations to speak of.
    let known = (it.operations as f64).max(2.0);
    let points = it.distribution.iter().map(|(share, us)| (rare(*share), us.max(0.1)));
    points.filter(|(rare, _)| *rare <= known).collect()
}

fn percentile(rare: &f64) -> String {
    let percent = 100.0 * (1.0 - 1.0 / rare);
    match *rare {
        rare if rare < 1.5 => "0%".into(),
        rare if rare < 150.0 => format!("{percent:.0}%"),
        rare if rare < 1_500.0 => format!("{percent:.1}%"),
        rare if rare < 15_000.0 => format!("{percent:.2}%"),
        _ => format!("{percent:.3}%"),
    }
}
