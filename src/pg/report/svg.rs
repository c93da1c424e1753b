//! The figures as a picture: SVG, in ASCII whatever the name is.
//!
//! ```text
//! name, size, time
//! hit ratio by the samples     bytes by the samples
//! slots in use by class        entries by age
//! ```

use std::fmt::Write;

use super::Figures;
use super::numbers::{bytes, percent, short, time};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
/// Of a plot, without its heading.
const PLOT_WIDTH: f64 = 330.0;
const PLOT_HEIGHT: f64 = 130.0;

/// Text as it may stand in XML.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            ' '..='~' => out.push(character),
            // XML has no such characters, not even as numbers.
            '\0'..='\x1f' | '\x7f' | '\u{FFFE}' | '\u{FFFF}' => out.push('?'),
            _ => _ = write!(out, "&#{};", character as u32),
        }
    }
    out
}

/// Appends an element. Writing to a string does not fail.
macro_rules! element {
    ($out:expr, $($format:tt)+) => {{ _ = writeln!($out, $($format)+); }};
}

/// The picture.
pub(in crate::pg) fn svg(figures: &Figures) -> String {
    let mut out = String::new();
    begin(&mut out, &figures.name);
    let ratio = figures.stats.hit_ratio().map_or("no reads".to_owned(), |ratio| format!("{:.1} % hits", 100.0 * ratio));
    let memory = &figures.memory;
    element!(
        out,
        "<text x=\"15\" y=\"42\">{}, {} entries, {ratio}, {} evicted; {}</text>",
        bytes(memory.region_bytes),
        short(memory.entries),
        short(figures.stats.evictions),
        time(figures.at_us)
    );
    let last = figures.samples.last().map_or("no samples".to_owned(), |last| format!("until {}", time(last.at_us)));
    plot(&mut out, (15.0, 60.0), &format!("hit ratio, 0 to 100 %, {last}"), |out| {
        polyline(out, figures.intervals().map(|(ratio, _)| ratio));
    });
    let whole = memory.region_bytes.max(1) as f64;
    plot(&mut out, (375.0, 60.0), &format!("bytes of keys and values, of {}", bytes(memory.region_bytes)), |out| {
        polyline(out, figures.samples.iter().map(|sample| Some(sample.bytes as f64 / whole)));
    });
    plot(&mut out, (15.0, 240.0), "slots in use by slab class, 0 to 100 %", |out| {
        let bar = |class: &crate::engine::report::ClassReport| {
            let share = percent(class.used, class.slots);
            (share / 100.0, format!("slots of {}: {share:.1} %, {} slabs", bytes(class.slot_bytes), short(class.slabs)))
        };
        bars(out, memory.classes.iter().map(bar).collect());
    });
    let most = figures.age_groups().map(|(_, count)| count).max().unwrap_or(1).max(1) as f64;
    plot(&mut out, (375.0, 240.0), "entries by age, in powers of two", |out| {
        let bar =
            |(first, count): (u64, u64)| (count as f64 / most, format!("from age {first}: {} entries", short(count)));
        bars(out, figures.age_groups().map(bar).collect());
    });
    out.push_str("</svg>\n");
    out
}

/// The picture of a cache that is not in memory.
pub(in crate::pg) fn svg_of_none(name: &str) -> String {
    let mut out = String::new();
    begin(&mut out, name);
    out.push_str("<text x=\"15\" y=\"42\">not in memory</text>\n</svg>\n");
    out
}

fn begin(out: &mut String, name: &str) {
    element!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
         height=\"{HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">"
    );
    element!(out, "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>");
    element!(out, "<text x=\"15\" y=\"22\" font-size=\"16\">{}</text>", escaped(name));
}

/// A heading, a frame, and what is in it, whose lower left corner is the origin; y goes up.
fn plot(out: &mut String, (x, y): (f64, f64), heading: &str, draw: impl FnOnce(&mut String)) {
    element!(out, "<g transform=\"translate({x} {y})\">");
    element!(out, "<text y=\"12\">{}</text>", escaped(heading));
    element!(out, "<g transform=\"translate(0 {}) scale(1 -1)\">", PLOT_HEIGHT + 20.0);
    element!(out, "<rect width=\"{PLOT_WIDTH}\" height=\"{PLOT_HEIGHT}\" fill=\"#f4f4f4\" stroke=\"#999\"/>");
    draw(out);
    out.push_str("</g>\n</g>\n");
}

/// A line through values from 0 to 1, broken where there is none. One that stands alone is a dot.
fn polyline(out: &mut String, values: impl Iterator<Item = Option<f64>>) {
    let values: Vec<_> = values.collect();
    let step = PLOT_WIDTH / (values.len().saturating_sub(1)).max(1) as f64;
    let mut path = String::new();
    let mut is_drawing = false;
    for (index, value) in values.into_iter().enumerate() {
        if let Some(value) = value {
            let (x, y) = (index as f64 * step, value.clamp(0.0, 1.0) * PLOT_HEIGHT);
            _ = match is_drawing {
                true => write!(path, " L{x:.1} {y:.1}"),
                false => write!(path, " M{x:.1} {y:.1} h0"),
            };
        }
        is_drawing = value.is_some();
    }
    if !path.is_empty() {
        element!(
            out,
            "<path d=\"{}\" fill=\"none\" stroke=\"#06c\" stroke-width=\"2\" stroke-linecap=\"round\"/>",
            path.trim()
        );
    }
}

/// Bars of heights from 0 to 1, each with what is shown where one points at it.
fn bars(out: &mut String, bars: Vec<(f64, String)>) {
    let width = PLOT_WIDTH / bars.len().max(1) as f64;
    for (index, (height, title)) in bars.into_iter().enumerate() {
        let (x, height) = (index as f64 * width, height.clamp(0.0, 1.0) * PLOT_HEIGHT);
        element!(
            out,
            "<rect x=\"{x:.1}\" width=\"{:.1}\" height=\"{height:.1}\" fill=\"#06c\"><title>{}</title></rect>",
            width * 0.8,
            escaped(&title)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{empty, extreme, figures};
    use super::*;

    /// Checks that every element ends where it should, and returns the names of all.
    fn parse(mut text: &str) -> Vec<&str> {
        let (mut open, mut all) = (Vec::new(), Vec::new());
        while let Some((before, rest)) = text.split_once('<') {
            assert!(!open.is_empty() || before.trim().is_empty(), "text outside: {before}");
            check_references(before);
            let (tag, after) = rest.split_once('>').expect("a tag ends");
            text = after;
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name));
                continue;
            }
            let inner = tag.strip_suffix('/').unwrap_or(tag);
            let (name, mut attributes) = inner.split_once(' ').unwrap_or((inner, ""));
            while let Some((attribute, rest)) = attributes.split_once("=\"") {
                assert!(attribute.trim().chars().all(|character| character.is_ascii_alphabetic() || character == '-'));
                let (value, rest) = rest.split_once('"').expect("a value ends");
                assert!(!value.contains("NaN") && !value.contains("inf"), "{value}");
                check_references(value);
                attributes = rest;
            }
            assert_eq!(attributes.trim(), "");
            all.push(name);
            if inner.len() == tag.len() {
                open.push(name);
            }
        }
        assert!(open.is_empty() && text.trim().is_empty(), "{open:?}, {text}");
        all
    }

    fn check_references(text: &str) {
        for reference in text.split('&').skip(1) {
            let (name, _) = reference.split_once(';').expect("a reference ends");
            let is_number = name.strip_prefix('#').is_some_and(|number| number.parse::<u32>().is_ok());
            assert!(is_number || ["amp", "lt", "gt", "quot"].contains(&name), "{name}");
        }
    }

    #[test]
    fn it_is_well_formed_whatever_the_figures_are() {
        for figures in [figures("c"), empty(), extreme()] {
            let picture = svg(&figures);
            let elements = parse(&picture);
            assert!(picture.is_ascii() && elements[0] == "svg");
            let bars = figures.memory.classes.len() + figures.age_groups().count();
            assert_eq!(elements.iter().filter(|&&name| name == "title").count(), bars);
            let lines = if figures.samples.is_empty() { 0 } else { 2 };
            assert_eq!(elements.iter().filter(|&&name| name == "path").count(), lines);
        }
        assert_eq!(parse(&svg_of_none("<c>")), ["svg", "rect", "text", "text"]);
        assert!(svg(&figures("<é&>")).contains(">&lt;&#233;&amp;&gt;</text>"));
    }

    #[test]
    fn a_line_breaks_where_there_is_no_value() {
        let mut out = String::new();
        polyline(&mut out, [Some(0.0), Some(1.0), None, Some(0.5)].into_iter());
        assert!(out.contains("d=\"M0.0 0.0 h0 L110.0 130.0 M330.0 65.0 h0\""), "{out}");
    }
}
