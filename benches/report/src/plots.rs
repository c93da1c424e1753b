//! Plots as SVG: lines with their names beside their ends, and rows of dots.
//!
//! A reader should see at a glance what is true: a scale is logarithmic where values differ by orders of magnitude, and
//! says so; no legend lies over what it explains; colours keep apart for most kinds of colour blindness.
//!
//! Written by hand: no plotting crate puts a line's name beside its end.

use std::fmt::Write as _;
use std::fs;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Okabe and Ito's colours, but for the yellow, and a grey.
const COLOURS: [&str; 8] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#808080"];
const GRID: &str = "#e3e3e3";
const TEXT: &str = "#333333";

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 440.0;
const TOP: f64 = 46.0;
const BOTTOM: f64 = 54.0;
const LEFT: f64 = 84.0;
/// Room for the names of lines.
const RIGHT: f64 = 230.0;
/// Between the names of lines that end close to each other.
const NAME_HEIGHT: f64 = 17.0;

/// A named line.
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// How values lie along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// From 0.
    Linear,
    /// As many times as much takes as much room everywhere.
    Logarithmic,
}

/// What is written beside the axes, and how they run.
pub struct Axes<'a> {
    pub title: &'a str,
    pub x: &'a str,
    pub x_scale: Scale,
    pub y: &'a str,
    pub y_scale: Scale,
}

/// Values to places on the paper.
struct Axis {
    scale: Scale,
    values: Range<f64>,
    places: Range<f64>,
}

impl Axis {
    fn new(scale: Scale, values: Range<f64>, places: Range<f64>) -> Self {
        let values = if values.start < values.end { values } else { values.start..values.start + 1.0 };
        Axis { scale, values, places }
    }

    fn place(&self, value: f64) -> f64 {
        let of = |value: f64| match self.scale {
            Scale::Linear => value,
            Scale::Logarithmic => value.max(f64::MIN_POSITIVE).log10(),
        };
        let part = (of(value) - of(self.values.start)) / (of(self.values.end) - of(self.values.start));
        self.places.start + part * (self.places.end - self.places.start)
    }

    /// Round numbers in the axis's range.
    fn ticks(&self) -> Vec<f64> {
        let Range { start, end } = self.values;
        match self.scale {
            Scale::Linear => {
                let rough = (end - start) / 7.0;
                let power = 10f64.powf(rough.log10().floor());
                let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough);
                let step = step.unwrap_or(rough);
                let first = (start / step).ceil() as i64;
                (first..).map(|number| number as f64 * step).take_while(|tick| *tick <= end + step * 1e-6).collect()
            }
            Scale::Logarithmic => {
                let powers = start.log10().floor() as i32..=end.log10().ceil() as i32;
                let factors: &[f64] = if end / start > 1e4 { &[1.0] } else { &[1.0, 2.0, 5.0] };
                let all = powers.flat_map(|power| factors.iter().map(move |factor| factor * 10f64.powi(power)));
                all.filter(|tick| (start * 0.999..=end * 1.001).contains(tick)).collect()
            }
        }
    }
}

/// Draws lines, each with its name beside its end. An axis of few different values is marked at these.
///
/// # Errors
/// There is no point, a value has no place on its scale, or the file cannot be written.
pub fn lines(file: &Path, axes: &Axes<'_>, series: &[Series]) -> Result<()> {
    lines_with_breaks(file, axes, series, &Breaks { name: "", at: &[] })
}

/// Where all lines end and start anew.
pub struct Breaks<'a> {
    /// What happens there.
    pub name: &'a str,
    pub at: &'a [f64],
}

/// As [`lines`], with places on the x axis over which no line goes.
///
/// # Errors
/// As [`lines`].
pub fn lines_with_breaks(file: &Path, axes: &Axes<'_>, series: &[Series], breaks: &Breaks<'_>) -> Result<()> {
    let points: Vec<(f64, f64)> = series.iter().flat_map(|series| series.points.iter().copied()).collect();
    ensure!(!points.is_empty(), "{}: nothing to draw", file.display());
    let range = |scale: Scale, of: fn(&(f64, f64)) -> f64| -> Result<Range<f64>> {
        let values = || points.iter().map(of);
        let (least, most) = (values().fold(f64::MAX, f64::min), values().fold(f64::MIN, f64::max));
        ensure!(scale == Scale::Linear || least > 0.0, "{}: {least} on a logarithmic scale", file.display());
        Ok(least..most)
    };
    let (x_range, y_range) = (range(axes.x_scale, |point| point.0)?, range(axes.y_scale, |point| point.1)?);
    let y_range = match axes.y_scale {
        Scale::Linear => 0.0..y_range.end.max(1e-9) * 1.05,
        Scale::Logarithmic => y_range.start / 1.3..y_range.end * 1.3,
    };
    let x = Axis::new(axes.x_scale, x_range, LEFT..WIDTH - RIGHT);
    let y = Axis::new(axes.y_scale, y_range, HEIGHT - BOTTOM..TOP);
    let mut svg = head(WIDTH, HEIGHT, axes.title);
    for tick in y.ticks() {
        rule(&mut svg, (LEFT, y.place(tick)), (WIDTH - RIGHT, y.place(tick)));
        text(&mut svg, (LEFT - 8.0, y.place(tick) + 4.0), "end", 12, TEXT, &short(tick));
    }
    for tick in few(points.iter().map(|point| point.0)).unwrap_or_else(|| x.ticks()) {
        rule(&mut svg, (x.place(tick), TOP), (x.place(tick), HEIGHT - BOTTOM));
        text(&mut svg, (x.place(tick), HEIGHT - BOTTOM + 18.0), "middle", 12, TEXT, &short(tick));
    }
    text(&mut svg, ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 12.0), "middle", 13, TEXT, axes.x);
    let y_name = match axes.y_scale {
        Scale::Linear => axes.y.to_owned(),
        Scale::Logarithmic => format!("{} (logarithmic)", axes.y),
    };
    let middle = (TOP + HEIGHT - BOTTOM) / 2.0;
    let _ = writeln!(
        svg,
        r#"<text x="18" y="{middle:.1}" font-size="13" fill="{TEXT}" text-anchor="middle" transform="rotate(-90 18 {middle:.1})">{}</text>"#,
        escaped(&y_name)
    );
    for at in breaks.at.iter().map(|at| x.place(*at)) {
        let _ = writeln!(
            svg,
            r#"<line x1="{at:.1}" y1="{TOP:.1}" x2="{at:.1}" y2="{:.1}" stroke="{TEXT}" stroke-dasharray="5 4"/>"#,
            HEIGHT - BOTTOM
        );
        text(&mut svg, (at, TOP - 5.0), "middle", 11, TEXT, breaks.name);
    }
    let mut ends = Vec::new();
    for (series, colour) in series.iter().zip(COLOURS.iter().cycle()) {
        let places: Vec<(f64, f64)> = series.points.iter().map(|point| (x.place(point.0), y.place(point.1))).collect();
        let Some(last) = places.last() else { continue };
        for part in parts(&series.points, breaks.at) {
            let places = part.iter().map(|(at, value)| format!("{:.1},{:.1}", x.place(*at), y.place(*value)));
            let path = places.collect::<Vec<_>>().join(" ");
            let _ = writeln!(svg, r#"<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>"#);
        }
        if places.len() <= 16 {
            places.iter().for_each(|place| dot(&mut svg, *place, 3.5, colour));
        }
        ends.push((*last, *colour, series.name.as_str()));
    }
    names(&mut svg, ends);
    write(file, svg)
}

/// A line's points, cut at the breaks.
fn parts<'a>(points: &'a [(f64, f64)], breaks: &'a [f64]) -> impl Iterator<Item = &'a [(f64, f64)]> {
    let before = |point: &(f64, f64)| breaks.iter().filter(|at| **at < point.0).count();
    points.chunk_by(move |one, next| before(one) == before(next))
}

/// Writes each line's name beside its end, apart from each other.
fn names(svg: &mut String, mut ends: Vec<((f64, f64), &str, &str)>) {
    ends.sort_by(|one, other| one.0.1.total_cmp(&other.0.1));
    let mut places: Vec<f64> = ends.iter().map(|end| end.0.1).collect();
    for index in 1..places.len() {
        places[index] = places[index].max(places[index - 1] + NAME_HEIGHT);
    }
    // What was pushed beyond the bottom comes back up, with those above it.
    let mut lowest = HEIGHT - BOTTOM;
    for place in places.iter_mut().rev() {
        *place = place.min(lowest);
        lowest = *place - NAME_HEIGHT;
    }
    let left = WIDTH - RIGHT;
    for (((end_x, end_y), colour, name), place) in ends.into_iter().zip(places) {
        let _ = writeln!(
            svg,
            r#"<polyline points="{:.1},{end_y:.1} {:.1},{end_y:.1} {:.1},{place:.1}" fill="none" stroke="{colour}" stroke-width="1" stroke-dasharray="2 2"/>"#,
            end_x + 4.0,
            left + 4.0,
            left + 18.0
        );
        text(svg, (left + 22.0, place + 4.0), "start", 13, colour, name);
    }
}

/// A row of [`dots`]: its name, and a value for each kind, where there is one.
pub struct Row {
    pub name: String,
    pub values: Vec<Option<f64>>,
}

/// Draws a row for each name with a dot for each kind, over an axis from 0 to `most`; the kinds are named above.
///
/// # Errors
/// There is no row, or the file cannot be written.
pub fn dots(file: &Path, title: &str, x_name: &str, most: f64, kinds: &[&str], rows: &[Row]) -> Result<()> {
    const ROW_HEIGHT: f64 = 30.0;
    const LEFT: f64 = 300.0;
    const RIGHT: f64 = 40.0;
    const TOP: f64 = 74.0;
    ensure!(!rows.is_empty(), "{}: nothing to draw", file.display());
    let bottom = TOP + ROW_HEIGHT * rows.len() as f64;
    let x = Axis::new(Scale::Linear, 0.0..most, LEFT..WIDTH - RIGHT);
    let mut svg = head(WIDTH, bottom + 48.0, title);
    let mut place = LEFT;
    for (kind, colour) in kinds.iter().zip(COLOURS.iter().cycle()) {
        dot(&mut svg, (place, 48.0), 5.0, colour);
        text(&mut svg, (place + 10.0, 52.0), "start", 13, colour, kind);
        place += 34.0 + 7.5 * kind.len() as f64;
    }
    for tick in x.ticks() {
        rule(&mut svg, (x.place(tick), TOP), (x.place(tick), bottom));
        text(&mut svg, (x.place(tick), bottom + 18.0), "middle", 12, TEXT, &format!("{tick:.0}"));
    }
    for (index, row) in rows.iter().enumerate() {
        let y = TOP + ROW_HEIGHT * (index as f64 + 0.5);
        rule(&mut svg, (LEFT, y), (WIDTH - RIGHT, y));
        text(&mut svg, (LEFT - 12.0, y + 4.0), "end", 13, TEXT, &row.name);
        for (kind, value) in row.values.iter().enumerate() {
            let Some(value) = value else { continue };
            // Dots of one place lie one above the other, not on it.
            let offset = (kind as f64 - (kinds.len() as f64 - 1.0) / 2.0) * 3.0;
            dot(&mut svg, (x.place(*value), y + offset), 5.0, COLOURS[kind % COLOURS.len()]);
        }
    }
    text(&mut svg, ((LEFT + WIDTH - RIGHT) / 2.0, bottom + 38.0), "middle", 13, TEXT, x_name);
    write(file, svg)
}

fn head(width: f64, height: f64, title: &str) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    text(&mut svg, (16.0, 26.0), "start", 16, "#000000", title);
    svg
}

fn write(file: &Path, mut svg: String) -> Result<()> {
    svg += "</svg>\n";
    fs::write(file, svg).with_context(|| file.display().to_string())
}

fn rule(svg: &mut String, from: (f64, f64), to: (f64, f64)) {
    let _ = writeln!(
        svg,
        r#"<line x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}" stroke="{GRID}"/>"#,
        from.0, from.1, to.0, to.1
    );
}

fn dot(svg: &mut String, place: (f64, f64), radius: f64, colour: &str) {
    let _ = writeln!(
        svg,
        r#"<circle cx="{:.1}" cy="{:.1}" r="{radius}" fill="{colour}" fill-opacity="0.85"/>"#,
        place.0, place.1
    );
}

fn text(svg: &mut String, place: (f64, f64), anchor: &str, size: u32, colour: &str, text: &str) {
    let _ = writeln!(
        svg,
        r#"<text x="{:.1}" y="{:.1}" font-size="{size}" fill="{colour}" text-anchor="{anchor}">{}</text>"#,
        place.0,
        place.1,
        escaped(text)
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The different values, if they are few.
fn few(values: impl Iterator<Item = f64>) -> Option<Vec<f64>> {
    let mut different: Vec<f64> = Vec::new();
    for value in values {
        if !different.contains(&value) {
            different.push(value);
        }
        if different.len() > 8 {
            return None;
        }
    }
    Some(different)
}

/// A number with no more digits than an axis has room for.
fn short(number: f64) -> String {
    match number.abs() {
        large if large >= 1e6 => format!("{}M", trimmed(number / 1e6)),
        large if large >= 1e3 => format!("{}k", trimmed(number / 1e3)),
        _ => trimmed(number),
    }
}

fn trimmed(number: f64) -> String {
    let text = format!("{number:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within_the_axis() {
        let ticks = |scale, values| Axis::new(scale, values, 0.0..100.0).ticks();
        assert_eq!(ticks(Scale::Linear, 0.0..1.0), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        assert_eq!(ticks(Scale::Logarithmic, 900.0..21_000.0), [1000.0, 2000.0, 5000.0, 10_000.0, 20_000.0]);
    }

    #[test]
    fn as_many_times_as_much_takes_as_much_room_on_a_logarithmic_scale() {
        let axis = Axis::new(Scale::Logarithmic, 1.0..100.0, 0.0..200.0);
        assert!((axis.place(10.0) - 100.0).abs() < 1e-9 && (axis.place(100.0) - 200.0).abs() < 1e-9);
    }

    #[test]
    fn names_of_lines_that_end_together_lie_apart_and_on_the_paper() {
        let mut svg = String::new();
        let end = (600.0, HEIGHT - BOTTOM);
        names(&mut svg, vec![(end, "#000000", "a"), (end, "#000000", "b"), (end, "#000000", "c")]);
        let places: Vec<f64> = svg
            .lines()
            .filter(|line| line.starts_with("<text"))
            .filter_map(|line| line.split("y=\"").nth(1)?.split('"').next()?.parse().ok())
            .collect();
        assert_eq!(places.len(), 3);
        assert!(places.windows(2).all(|pair| pair[1] - pair[0] >= NAME_HEIGHT - 0.1), "{places:?}");
        assert!(places.iter().all(|place| *place <= HEIGHT - BOTTOM + 4.1), "{places:?}");
    }

    #[test]
    fn a_line_is_cut_at_each_break_and_only_there() {
        let points = [1.0, 2.0, 3.0, 4.0, 5.0].map(|x| (x, 0.0));
        let lengths = |breaks: &[f64]| parts(&points, breaks).map(<[_]>::len).collect::<Vec<_>>();
        assert_eq!(lengths(&[]), [5]);
        assert_eq!(lengths(&[2.5, 4.5]), [2, 2, 1]);
        assert_eq!(lengths(&[0.5, 6.0]), [5]);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([0.0, 0.25, 20.0, 1500.0, 2e6].map(short), ["0", "0.25", "20", "1.5k", "2M"]);
    }
}
