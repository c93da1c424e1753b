//! The page: `page.md` with tables and plots in its places.
//!
//! A place is a line `{{name}}`. Every row of the newest file of a section goes into its table; a section without a file
//! says so. Times are given as ratios, each with what it is a ratio to, and with the least and the most beside.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::figures::Figures;
use crate::goals::Goal;
use crate::plots::{self, Axes, Scale, Series};
use crate::query;
use crate::soak;
use crate::table::{Row, Table};

const TEMPLATE: &str = include_str!("page.md");
const NOTHING: &str = "_Not measured yet._\n";

/// Writes `README.md` and its plots into the folder, and prints the goals.
///
/// # Errors
/// A file cannot be written.
pub fn write(folder: &Path, figures: &Figures, goals: &[Goal]) -> Result<()> {
    let mut places: BTreeMap<&str, String> = BTreeMap::new();
    places.insert("machines", machines(figures));
    let goals = goals_table(goals);
    print!("{goals}");
    places.insert("goals", goals);
    places.insert("hit-ratio", hit_ratio(figures, folder)?);
    places.insert("spills", spills(figures));
    places.insert("churn", churn(figures, folder)?);
    places.insert("memory", memory(figures));
    places.insert("stall", stall(figures));
    places.insert("hit", hit(figures));
    places.insert("sharing", sharing(figures));
    places.insert("build", build(figures));
    places.insert("compare", compare(figures));
    places.insert("contention", contention(figures, folder)?);
    places.insert("beside-a-writer", beside_a_writer(figures));
    places.insert("postgres", postgres(figures, folder)?);
    places.insert("query", query::answers(figures, folder)?);
    places.insert("query-hit", query::hit(figures));
    places.insert("writers-processor", query::writers_processor(figures));
    places.insert("writers", query::writers(figures));
    places.insert("soak", soak::section(figures, folder)?);
    let mut page = String::new();
    for line in TEMPLATE.lines() {
        match line.strip_prefix("{{").and_then(|line| line.strip_suffix("}}")) {
            Some(name) => page += places.get(name).with_context(|| format!("no table {name}"))?,
            None => {
                page += line;
                page.push('\n');
            }
        }
    }
    ensure!(!page.contains("{{"), "page.md has a place in the middle of a line");
    Ok(fs::write(folder.join("README.md"), page)?)
}

/// A table in Markdown; nothing measured if it has no row.
pub fn markdown(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut text = format!("| {} |\n|{}\n", head.join(" | "), "---|".repeat(head.len()));
    let mut any = false;
    for row in rows {
        any = true;
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    if any { text } else { NOTHING.to_owned() }
}

/// A number with so many digits behind the point; a dash where there is none.
pub fn digits(number: Option<f64>, digits: usize) -> String {
    number.map_or("–".to_owned(), |number| format!("{number:.digits$}"))
}

/// A whole number with commas.
pub fn whole(number: Option<f64>) -> String {
    let Some(number) = number else { return "–".to_owned() };
    let text = format!("{number:.0}");
    let groups: Vec<&str> =
        text.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join(",")
}

/// A median with the least and the most.
pub fn spread(row: Row<'_>, column: &str, digit_count: usize) -> String {
    let end = |end: &str| digits(row.number(&format!("{column}_{end}")), digit_count);
    format!("{} ({}–{})", digits(row.number(column), digit_count), end("min"), end("max"))
}

fn machines(figures: &Figures) -> String {
    let fields = ["commit", "runs", "processor", "processors", "memory", "kernel", "rust", "postgresql", "load"];
    let rows = figures.machines.iter().flat_map(|(section, date, table)| {
        table.rows().map(move |row| {
            let of_run = fields.iter().map(|field| row.text(field).to_owned());
            [(*section).to_owned(), date.clone()].into_iter().chain(of_run).collect()
        })
    });
    markdown(&[&["section", "date"], &fields[..]].concat(), rows)
}

fn goals_table(goals: &[Goal]) -> String {
    let rows = goals.iter().map(|goal| {
        let bound = if goal.at_most { "at most" } else { "at least" };
        let verdict = match (goal.is_met(), goal.missed_by_percent()) {
            (Some(true), _) => "met".to_owned(),
            (Some(false), Some(percent)) => format!("**missed by {percent:.1} %**"),
            _ => "not measured".to_owned(),
        };
        vec![goal.what.clone(), format!("{bound} {}", goal.goal), digits(goal.measured, 3), verdict]
    });
    markdown(&["figure", "goal", "measured", ""], rows)
}

pub fn plot(folder: &Path, name: &str, axes: &Axes<'_>, series: &[Series]) -> Result<String> {
    if series.iter().all(|series| series.points.is_empty()) {
        return Ok(String::new());
    }
    plots::lines(&folder.join(name), axes, series)?;
    Ok(format!("\n![{}]({name})\n", axes.title))
}

/// Points of the rows that `are` picks.
pub fn points<'a>(table: &'a Table, x: &str, y: &str, are: impl Fn(Row<'a>) -> bool) -> Vec<(f64, f64)> {
    let rows = table.rows().filter(|row| are(*row));
    rows.filter_map(|row| Some((row.number(x)?, row.number(y)?))).collect()
}

fn hit_ratio(figures: &Figures, folder: &Path) -> Result<String> {
    let table = &figures.hit_ratio;
    let mut kinds: Vec<(String, String)> = Vec::new();
    for row in table.rows() {
        let kind = (row.text("cache").to_owned(), row.text("policy").to_owned());
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    let title = |(cache, policy): &(String, String)| match cache.as_str() {
        "slab" => format!("slab, {policy}"),
        other => other.to_owned(),
    };
    let mut capacities: Vec<(&str, &str)> = Vec::new();
    for row in table.rows() {
        let capacity = (row.text("name"), row.text("capacity"));
        if !capacities.contains(&capacity) {
            capacities.push(capacity);
        }
    }
    let titles: Vec<String> = kinds.iter().map(title).collect();
    let head: Vec<&str> = ["trace", "entries"].into_iter().chain(titles.iter().map(String::as_str)).collect();
    let rows = capacities.iter().map(|(name, capacity)| {
        let of_kind = kinds.iter().map(|(cache, policy)| {
            let cells = [("name", *name), ("capacity", *capacity), ("cache", cache), ("policy", policy)];
            let row = table.rows().find(|row| row.is(&cells));
            digits(row.and_then(|row| row.number("hit_ratio")).map(|ratio| ratio * 100.0), 2)
        });
        [(*name).to_owned(), (*capacity).to_owned()].into_iter().chain(of_kind).collect()
    });
    Ok(markdown(&head, rows) + &hit_ratio_plot(table, &kinds, &titles, &capacities, folder)?)
}

/// A row of dots for each whole trace; for the prefix that is in the repository only if there is no other.
fn hit_ratio_plot(
    table: &Table,
    kinds: &[(String, String)],
    titles: &[String],
    capacities: &[(&str, &str)],
    folder: &Path,
) -> Result<String> {
    const NAME: &str = "hit-ratio.svg";
    // The references hit as often as the slab cache with their policy, which the table shows.
    let drawn: Vec<usize> =
        (0..kinds.len()).filter(|&kind| ["slab", "bump", "opt"].contains(&&*kinds[kind].0)).collect();
    let whole = |name: &str| !name.contains("(prefix)");
    let any_whole = capacities.iter().any(|(name, _)| whole(name));
    let rows: Vec<plots::Row> = capacities
        .iter()
        .filter(|(name, _)| whole(name) || !any_whole)
        .map(|(name, capacity)| plots::Row {
            name: format!("{name}, {capacity}"),
            values: drawn
                .iter()
                .map(|&kind| {
                    let (cache, policy) = &kinds[kind];
                    let cells = [("name", *name), ("capacity", *capacity), ("cache", cache), ("policy", policy)];
                    Some(table.rows().find(|row| row.is(&cells))?.number("hit_ratio")? * 100.0)
                })
                .collect(),
        })
        .collect();
    if rows.is_empty() {
        return Ok(String::new());
    }
    let title = if any_whole { "Hit ratios of whole traces" } else { "Hit ratios of the recorded prefix" };
    let names: Vec<&str> = drawn.iter().map(|&kind| titles[kind].as_str()).collect();
    plots::dots(
        &folder.join(NAME),
        title,
        "hits of all reads, per cent (trace, capacity in entries)",
        100.0,
        &names,
        &rows,
    )?;
    Ok(format!("\n![{title}]({NAME})\n"))
}

fn spills(figures: &Figures) -> String {
    let rows = figures.spills.rows().map(|row| {
        vec![
            format!("{} %", row.text("percent")),
            whole(row.number("equal_to.lru_entries")),
            whole(row.number("equal_to.bytes")),
            row.text("cache").to_owned(),
            whole(row.number("entries")),
            whole(row.number("spills")),
            digits(row.number("spills_to_lru"), 3),
            digits(row.number("time_to_lru"), 2),
            spread(row, "ns_per_op", 0),
        ]
    });
    let head = [
        "memory",
        "entries of `lru`",
        "bytes",
        "cache",
        "entries at the end",
        "spills",
        "to `lru`",
        "time to `lru`",
        "ns per access",
    ];
    let name = figures.spills.distinct("name").join(", ");
    match figures.spills.is_empty() {
        true => NOTHING.to_owned(),
        false => format!("Trace: {name}.\n\n{}", markdown(&head, rows)),
    }
}

fn churn(figures: &Figures, folder: &Path) -> Result<String> {
    let table = &figures.churn;
    let summaries = table.rows().filter(|row| row.text("phase") == "summary");
    let rows = summaries.clone().map(|row| {
        let of_phase = |phase: usize, column: &str| digits(row.number(&format!("phases.{phase}.{column}")), 3);
        vec![
            format!("{} → {}", row.text("sizes"), row.text("then")),
            whole(row.number("bytes")),
            row.text("cache").to_owned(),
            of_phase(0, "min_utilisation"),
            of_phase(0, "min_payload"),
            of_phase(1, "min_utilisation"),
            of_phase(1, "min_payload"),
        ]
    });
    let head = [
        "sizes → then",
        "bytes",
        "cache",
        "utilisation, first",
        "payload, first",
        "utilisation, then",
        "payload, then",
    ];
    let mut text = markdown(&head, rows);
    let mut pairs: Vec<(&str, &str)> = Vec::new();
    for row in summaries {
        let pair = (row.text("sizes"), row.text("then"));
        if !pairs.contains(&pair) {
            pairs.push(pair);
        }
    }
    for (number, (sizes, then)) in pairs.iter().enumerate() {
        let series = table.distinct("cache").into_iter().map(|cache| Series {
            name: cache.to_owned(),
            points: points(table, "puts", "payload", |row| {
                row.is(&[("sizes", sizes), ("then", then), ("cache", cache)]) && row.text("phase") != "summary"
            }),
        });
        let title = format!("Keys and values as a share of all memory, {sizes} → {then}");
        let (x_scale, y_scale) = (Scale::Linear, Scale::Linear);
        let axes = Axes { title: &title, x: "puts", x_scale, y: "payload", y_scale };
        text += &plot(folder, &format!("churn-{}.svg", number + 1), &axes, &series.collect::<Vec<_>>())?;
    }
    Ok(text)
}

/// How much of its memory a cache uses, by its size and partitions.
fn memory(figures: &Figures) -> String {
    let rows = figures.memory.rows().map(|row| {
        let refusal = row.text("refusal");
        let seen = |column: &str| match refusal {
            "" => digits(row.number(column), 3),
            _ => "–".to_owned(),
        };
        vec![
            format!("{} MiB", row.text("mib")),
            row.text("partitions").to_owned(),
            seen("min_utilisation"),
            seen("utilisation"),
            whole(row.number("entries")),
            whole(row.number("refused")),
            refusal.to_owned(),
        ]
    });
    markdown(&["memory", "partitions", "lowest", "at the end", "entries", "refused puts", "refused for"], rows)
}

/// The longest holds, a column for each policy.
fn stall(figures: &Figures) -> String {
    let table = &figures.stall;
    let policies = table.distinct("policy");
    let titles: Vec<String> =
        policies.iter().flat_map(|policy| [format!("{policy}, exclusive"), format!("{policy}, shared")]).collect();
    let head: Vec<&str> = ["operation", "entries"].into_iter().chain(titles.iter().map(String::as_str)).collect();
    let rows = table.distinct("operation").into_iter().map(|operation| {
        let of = |policy: &str| table.rows().find(|row| row.is(&[("operation", operation), ("policy", policy)]));
        let entries = policies.first().and_then(|policy| of(policy)?.number("entries"));
        let longest = policies.iter().flat_map(|policy| {
            let row = of(policy);
            ["longest_us", "longest_shared_us"].map(|column| {
                let limit = row.and_then(|row| row.number("limit_us"));
                match row.and_then(|row| row.number(column)) {
                    Some(us) if limit.is_some_and(|limit| us > limit) => format!("**{}**", whole(Some(us))),
                    us => digits(us, 1),
                }
            })
        });
        [operation.to_owned(), whole(entries)].into_iter().chain(longest).collect()
    });
    markdown(&head, rows)
}

/// A median with the least and the greatest, as the benchmark `hit` names them.
fn ends(row: Row<'_>, column: &str, digit_count: usize) -> String {
    let end = |end: &str| digits(row.number(&format!("{column}.{end}")), digit_count);
    format!("{} ({}–{})", end("median"), end("least"), end("greatest"))
}

fn hit(figures: &Figures) -> String {
    let rows = figures.hit.rows().filter(|row| !row.text("subject").is_empty()).map(|row| {
        let over = row.text("baseline");
        let ratio = if over.is_empty() { "–".to_owned() } else { ends(row, "ratio", 2) };
        vec![
            row.text("subject").to_owned(),
            whole(row.number("entries")),
            row.text("value_bytes").to_owned(),
            row.text("keys").to_owned(),
            row.text("partitions").to_owned(),
            ratio,
            over.to_owned(),
            ends(row, "ns", 0),
        ]
    });
    markdown(&["get", "entries", "value", "keys", "partitions", "time, ratio", "to", "ns"], rows)
}

fn sharing(figures: &Figures) -> String {
    let rows = figures.hit.rows().filter(|row| !row.text("what").is_empty()).map(|row| {
        vec![
            row.text("what").to_owned(),
            format!("{} %", row.text("hit_percent")),
            row.text("value_bytes").to_owned(),
            ends(row, "ratio", 2),
            whole(row.number("gets_per_second.median")),
        ]
    });
    markdown(&["readers", "hits", "value", "gets, ratio to one process", "gets/s"], rows)
}

fn build(figures: &Figures) -> String {
    let rows = figures.build.rows().map(|row| {
        let each = |column: &str| Some(row.number(column)? / row.number("nodes")?);
        vec![
            row.text("mode").to_owned(),
            row.text("workers").to_owned(),
            format!("{} %", row.text("memory_percent")),
            digits(row.number("seconds"), 1),
            digits(row.number("cpu_seconds"), 1),
            digits(row.number("recall_at_10_list_100"), 4),
            digits(row.number("recall_at_10_list_10"), 4),
            digits(each("reloads"), 2),
            digits(each("spills"), 2),
            digits(each("clean_evictions"), 2),
            digits(each("distances"), 0),
            row.text("unreachable").to_owned(),
            row.text("lost_edges").to_owned(),
            digits(row.number("bytes_per_entry"), 0),
        ]
    });
    let head = [
        "lists in",
        "W",
        "memory",
        "seconds",
        "cpu s",
        "recall 100",
        "recall 10",
        "reloads",
        "spills",
        "clean",
        "distances",
        "orphans",
        "lost edges",
        "bytes each",
    ];
    markdown(&head, rows)
}

fn compare(figures: &Figures) -> String {
    let rows = figures.compare.rows().map(|row| {
        vec![
            row.text("values").to_owned(),
            row.text("cache").to_owned(),
            digits(row.number("hit_to_lru"), 2),
            spread(row, "hit_ns", 0),
            digits(row.number("insert_to_lru"), 2),
            spread(row, "insert_ns", 0),
            digits(row.number("bytes_to_lru"), 2),
            digits(row.number("bytes_per_entry"), 0),
            digits(row.number("bytes_to_payload"), 3),
        ]
    });
    let head = [
        "values",
        "cache",
        "hit to `lru`",
        "ns",
        "insert to `lru`",
        "ns",
        "bytes to `lru`",
        "bytes per entry",
        "bytes to payload",
    ];
    markdown(&head, rows)
}

fn contention(figures: &Figures, folder: &Path) -> Result<String> {
    let table = &figures.contention;
    let scaling = table.rows().filter(|row| row.text("scenario") == "scaling");
    let rows = scaling.clone().map(|row| {
        vec![
            row.text("cache").to_owned(),
            row.text("policy").to_owned(),
            row.text("skew").to_owned(),
            row.text("partitions").to_owned(),
            row.text("processes").to_owned(),
            digits(row.number("to_one_process"), 2),
            digits(row.number("to_slab"), 3),
            spread(row, "ops_per_second", 0),
        ]
    });
    let head =
        ["cache", "policy", "keys", "partitions", "processes", "to one process", "to slab", "operations per second"];
    let text = markdown(&head, rows);
    let mut series: Vec<Series> = Vec::new();
    for row in scaling {
        let name = match row.text("cache") {
            "slab" => format!("slab, {}, {}", row.text("policy"), row.text("skew")),
            server => format!("{server}, {}", row.text("skew")),
        };
        let point = row.number("processes").zip(row.number("ops_per_second"));
        match series.iter_mut().find(|series| series.name == name) {
            Some(series) => series.points.extend(point),
            None => series.push(Series { name, points: point.into_iter().collect() }),
        }
    }
    let axes = Axes {
        title: "Operations per second of all processes together",
        x: "processes",
        x_scale: Scale::Logarithmic,
        y: "operations per second",
        y_scale: Scale::Logarithmic,
    };
    Ok(text + &plot(folder, "contention.svg", &axes, &series)?)
}

fn beside_a_writer(figures: &Figures) -> String {
    let beside = figures.contention.rows().filter(|row| row.text("scenario") == "beside a writer");
    let rows = beside.map(|row| {
        vec![
            row.text("policy").to_owned(),
            row.text("skew").to_owned(),
            row.text("processes").to_owned(),
            row.text("beside").to_owned(),
            digits(row.number("loss_percent"), 1),
            digits(row.number("loss_to_computing_percent"), 1),
            spread(row, "ops_per_second", 0),
        ]
    });
    let head = ["policy", "keys", "readers", "beside", "loss, %", "loss to a computing process, %", "reads per second"];
    markdown(&head, rows)
}

fn postgres(figures: &Figures, folder: &Path) -> Result<String> {
    let table = &figures.postgres;
    let rows = table.rows().map(|row| {
        vec![
            row.text("keys_per_statement").to_owned(),
            row.text("clients").to_owned(),
            row.text("contender").to_owned(),
            digits(row.number("to_logged"), 2),
            spread(row, "transactions_per_second", 0),
            digits(row.number("processor_us"), 1),
            digits(row.number("processor_to_statement"), 2),
            digits(row.number("processor_to_logged"), 2),
        ]
    });
    let head = [
        "keys a statement",
        "clients",
        "contender",
        "to `logged`",
        "transactions per second",
        "processor time a statement, µs",
        "to `statement`",
        "to `logged`",
    ];
    let mut text = markdown(&head, rows);
    for keys in table.distinct("keys_per_statement") {
        let series = table.distinct("contender").into_iter().map(|contender| Series {
            name: contender.to_owned(),
            points: points(table, "clients", "transactions_per_second", |row| {
                row.is(&[("keys_per_statement", keys), ("contender", contender)])
            }),
        });
        let title = format!("Transactions per second, {keys} key{} a statement", if keys == "1" { "" } else { "s" });
        let axes = Axes {
            title: &title,
            x: "clients",
            x_scale: Scale::Logarithmic,
            y: "transactions per second",
            y_scale: Scale::Linear,
        };
        text += &plot(folder, &format!("postgres-{keys}.svg"), &axes, &series.collect::<Vec<_>>())?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            (whole(Some(1_234_567.0)), whole(Some(12.0)), whole(None)),
            ("1,234,567".into(), "12".into(), "–".into())
        );
        assert_eq!(digits(Some(0.12345), 3), "0.123");
    }

    #[test]
    fn a_section_without_figures_says_so() {
        assert_eq!(markdown(&["a"], []), NOTHING);
        assert_eq!(markdown(&["a", "b"], [vec!["1".into(), "2".into()]]), "| a | b |\n|---|---|\n| 1 | 2 |\n");
    }
}
