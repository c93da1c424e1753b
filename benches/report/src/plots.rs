//! Line plots as SVG.

use std::path::Path;

use anyhow::{Result, anyhow, ensure};
use plotters::prelude::*;

const SIZE: (u32, u32) = (720, 420);
/// Colours that keep apart for most kinds of colour blindness (Okabe and Ito).
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
    RGBColor(128, 128, 128),
];

/// A named line.
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// What is written beside the axes.
pub struct Labels<'a> {
    pub title: &'a str,
    pub x: &'a str,
    pub y: &'a str,
}

/// Draws lines over a common axis; the other one begins at 0.
///
/// # Errors
/// There is no point, or the file cannot be written.
pub fn lines(file: &Path, labels: &Labels<'_>, series: &[Series]) -> Result<()> {
    let points = || series.iter().flat_map(|series| &series.points);
    ensure!(points().next().is_some(), "{}: nothing to draw", file.display());
    let most = |of: fn(&(f64, f64)) -> f64| points().map(of).fold(f64::MIN, f64::max);
    let least_x = points().map(|point| point.0).fold(f64::MAX, f64::min);
    let (most_x, most_y) = (most(|point| point.0), most(|point| point.1));
    draw(file, labels, series, least_x..most_x.max(least_x + 1e-9), 0.0..most_y.max(1e-9) * 1.05)
        .map_err(|error| anyhow!("{}: {error}", file.display()))
}

fn draw(
    file: &Path,
    labels: &Labels<'_>,
    series: &[Series],
    x: std::ops::Range<f64>,
    y: std::ops::Range<f64>,
) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(labels.title, ("sans-serif", 16))
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(225, 225, 225))
        .x_desc(labels.x)
        .y_desc(labels.y)
        .x_label_formatter(&|x| short(*x))
        .y_label_formatter(&|y| short(*y))
        .draw()?;
    for (series, colour) in series.iter().zip(COLOURS.iter().cycle()) {
        let style = ShapeStyle { color: colour.to_rgba(), filled: true, stroke_width: 2 };
        chart
            .draw_series(LineSeries::new(series.points.iter().copied(), style))?
            .label(&series.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], style));
        if series.points.len() <= 16 {
            chart.draw_series(series.points.iter().map(|point| Circle::new(*point, 3, style)))?;
        }
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.85))
        .border_style(RGBColor(200, 200, 200))
        .draw()?;
    area.present()?;
    Ok(())
}

/// A number with no more digits than an axis has room for.
fn short(number: f64) -> String {
    match number.abs() {
        large if large >= 1e6 => format!("{:.1}M", number / 1e6),
        large if large >= 1e4 => format!("{:.0}k", number / 1e3),
        whole if whole >= 10.0 => format!("{number:.0}"),
        _ => format!("{number:.2}"),
    }
}
