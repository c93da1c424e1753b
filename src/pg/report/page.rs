//! A page of text, at most 80 columns wide: what `report` prints in psql.

use std::fmt::Write;

use super::Figures;
use super::numbers::{bytes, percent, short, time};
use super::plot::Glyphs;

/// Columns of the page, and of a bar.
const WIDTH: usize = 80;
const BAR: usize = 32;
/// Characters of a name that are shown.
const NAME: usize = 40;
/// Classes that are shown, those with the most slabs.
const CLASSES: usize = 16;

/// The page.
pub(in crate::pg) fn page(figures: &Figures, glyphs: Glyphs) -> String {
    let mut out = String::new();
    head(&mut out, figures, glyphs);
    memory(&mut out, figures, glyphs);
    hits(&mut out, figures, glyphs);
    counts(&mut out, figures);
    classes(&mut out, figures, glyphs);
    ages(&mut out, figures, glyphs);
    out
}

/// Appends a line. Writing to a string does not fail.
macro_rules! line {
    ($out:expr) => { $out.push('\n') };
    ($out:expr, $($format:tt)+) => {{ _ = writeln!($out, $($format)+); }};
}

/// A name as it may stand in a line.
fn printable(name: &str) -> String {
    let shown = |character: char| if character.is_control() { '?' } else { character };
    let mut out: String = name.chars().map(shown).take(NAME).collect();
    if name.chars().count() > NAME {
        out.truncate(out.char_indices().nth(NAME - 3).map_or(out.len(), |(index, _)| index));
        out.push_str("...");
    }
    out
}

fn head(out: &mut String, figures: &Figures, glyphs: Glyphs) {
    let title = format!("cache \"{}\"", printable(&figures.name));
    let at = time(figures.at_us);
    let gap = WIDTH - title.chars().count() - at.len();
    line!(out, "{title}{:gap$}{at}", "");
    line!(out, "{}", glyphs.rule().to_string().repeat(WIDTH));
    let capacity = figures.max_entries.map(|most| format!(" of {most} at most")).unwrap_or_default();
    line!(
        out,
        "{}, policy {}, partitions {}; entries {}{capacity}",
        bytes(figures.memory.region_bytes),
        figures.policy,
        figures.partitions,
        short(figures.memory.entries)
    );
    if let Some(at_us) = figures.resized_us {
        line!(out, "made anew {}", time(at_us));
    }
    if let Some(at_us) = figures.reset_us {
        line!(out, "counters since {}", time(at_us));
    }
}

fn memory(out: &mut String, figures: &Figures, glyphs: Glyphs) {
    line!(out);
    line!(out, "memory");
    let whole = figures.memory.region_bytes;
    for (name, part) in figures.parts() {
        let share = percent(part, whole);
        line!(out, "  {name:<16} {} {:>10} {share:>5.1} %", glyphs.bar(share / 100.0, BAR), bytes(part));
    }
}

fn hits(out: &mut String, figures: &Figures, glyphs: Glyphs) {
    let (hits, misses) = (figures.stats.hits, figures.stats.misses);
    let ratio = figures.stats.hit_ratio().map_or("no reads".to_owned(), |ratio| format!("{:.1} %", 100.0 * ratio));
    line!(out);
    line!(out, "hits      {ratio}: hits {}, misses {}", short(hits), short(misses));
    let [Some(first), Some(last)] = [figures.samples.first(), figures.samples.last()] else {
        line!(out, "  no samples: the background worker takes them, where it is on");
        return;
    };
    let most_reads = figures.intervals().map(|(_, reads)| reads).max().unwrap_or(0);
    let most_bytes = figures.memory.region_bytes as f64;
    let reads = |(_, reads): (_, u64)| (reads > 0).then(|| reads as f64 / most_reads as f64);
    let of_bytes = figures.samples.iter().skip(1).map(|sample| Some(sample.bytes as f64 / most_bytes));
    line!(out, "ratio |{}| 0 to 100 %", glyphs.line(figures.intervals().map(|(ratio, _)| ratio)));
    line!(out, "reads |{}| most {}", glyphs.line(figures.intervals().map(reads)), short(most_reads));
    line!(out, "bytes |{}| {}", glyphs.line(of_bytes), bytes(last.bytes));
    line!(out, "       {} to {}", time(first.at_us), time(last.at_us));
}

fn counts(out: &mut String, figures: &Figures) {
    line!(out);
    for (heading, names, values) in figures.counts() {
        let mut row = format!("{heading:<8}");
        for (name, value) in names.iter().zip(values) {
            let item = format!("  {name} {}", short(value));
            if row.len() + item.len() > WIDTH {
                line!(out, "{row}");
                row = " ".repeat(8);
            }
            row.push_str(&item);
        }
        line!(out, "{row}");
    }
}

fn classes(out: &mut String, figures: &Figures, glyphs: Glyphs) {
    let mut classes: Vec<_> = figures.memory.classes.iter().filter(|class| class.slabs > 0).collect();
    classes.sort_by_key(|class| (std::cmp::Reverse(class.slabs), class.class));
    let left_out = classes.len().saturating_sub(CLASSES);
    classes.truncate(CLASSES);
    classes.sort_by_key(|class| class.class);
    line!(out);
    line!(out, "slots in use, by slab class");
    for class in classes {
        let share = percent(class.used, class.slots);
        let name = if class.class == 0 { "records".to_owned() } else { bytes(class.slot_bytes) };
        let (bar, used, slabs) = (glyphs.bar(share / 100.0, BAR), short(class.used), short(class.slabs));
        line!(out, "  {name:>10} {bar} {share:>5.1} % {used:>6} in {slabs:>6} slabs");
    }
    if left_out > 0 {
        line!(out, "  and {left_out} with fewer slabs");
    }
}

fn ages(out: &mut String, figures: &Figures, glyphs: Glyphs) {
    line!(out);
    let Some(oldest) = figures.oldest_age else {
        line!(out, "no entries");
        return;
    };
    line!(out, "entries by age: insertions and uses since the last use; the oldest {oldest}");
    if let Some(at_us) = figures.oldest_since_us {
        line!(out, "the oldest was used last soon after {}", time(at_us));
    }
    let most = figures.age_groups().map(|(_, count)| count).max().unwrap_or(0);
    for (first, count) in figures.age_groups() {
        let bar = glyphs.bar(percent(count, most) / 100.0, BAR);
        line!(out, "  from {first:>10} {bar} {:>6}", short(count));
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{empty, extreme, figures};
    use super::*;

    #[test]
    fn no_line_is_wider_than_80_columns_whatever_the_figures_are() {
        for figures in [figures("c"), empty(), extreme(), figures(&"n".repeat(63))] {
            for glyphs in [Glyphs::Blocks, Glyphs::Ascii] {
                let page = page(&figures, glyphs);
                for line in page.lines() {
                    assert!(line.chars().count() <= 80, "{line}\n{page}");
                    assert!(line.chars().all(|character| !character.is_control()), "{line:?}");
                }
                assert_eq!(page.is_ascii(), glyphs == Glyphs::Ascii && figures.name.is_ascii(), "{page}");
            }
        }
    }

    #[test]
    fn the_page_has_the_figures() {
        let figures = figures("sessions");
        let page = page(&figures, Glyphs::Blocks);
        let has = |part: &str| assert!(page.contains(part), "no {part} in\n{page}");
        has("cache \"sessions\"");
        has("4.0 MiB, policy clock, partitions 1");
        has("2023-11-14T22:13:20Z to 2023-11-14T23:13:20Z");
        has("counters since 2023-11-14T22:16:20Z");
        has("ratio |▁▂▃▄▄▅");
        has("lease void 4\n");
        has("key has a value 5");
        has("new 20000  replaced 0  by lease 3");
        has(&format!("the oldest {}", figures.oldest_age.unwrap()));
        has("records");
        assert!(super::page(&empty(), Glyphs::Blocks).contains("no samples"));
    }
}
