//! The section about a report whose tables are written: throughput, the slowest answers and the stale ones; what a hit
//! costs; and what it costs writers.

use std::path::Path;

use anyhow::Result;

use crate::figures::Figures;
use crate::page::{digits, markdown, plot, points, spread, whole};
use crate::plots::{Axes, Scale, Series};

/// Each way under each load, and a plot over the writes for each number of clients.
///
/// # Errors
/// A plot cannot be written.
pub fn answers(figures: &Figures, folder: &Path) -> Result<String> {
    let table = &figures.query;
    let rows = table.rows().filter(|row| !row.text("way").is_empty()).map(|row| {
        let stale = match row.number("stale") {
            Some(stale) if stale > 0.0 => {
                format!("**{}**, by {} ms", whole(Some(stale)), whole(row.number("stale_ms")))
            }
            stale => whole(stale),
        };
        vec![
            row.text("clients").to_owned(),
            row.text("writes").to_owned(),
            row.text("way").to_owned(),
            spread(row, "answers_per_second", 0),
            digits(row.number("to_bare"), 1),
            digits(row.number("p99_us").map(|us| us / 1e3), 2),
            stale,
            whole(row.number("answers")),
            digits(row.number("written"), 1),
        ]
    });
    let head = [
        "clients",
        "writes/s",
        "way",
        "answers per second",
        "to `bare`",
        "p99, ms",
        "stale",
        "of answers",
        "written/s",
    ];
    let mut text = match table.distinct("scale").first() {
        Some(scale) => format!("Scale {scale}.\n\n"),
        None => String::new(),
    };
    text += &markdown(&head, rows);
    for clients in table.distinct("clients") {
        let series = table.distinct("way").into_iter().map(|way| Series {
            name: way.to_owned(),
            points: points(table, "writes", "answers_per_second", |row| row.is(&[("clients", clients), ("way", way)])),
        });
        let title = format!("Answers per second, {clients} client{}", if clients == "1" { "" } else { "s" });
        let axes = Axes {
            title: &title,
            x: "writes per second",
            x_scale: Scale::Linear,
            y: "answers per second",
            y_scale: Scale::Logarithmic,
        };
        text += &plot(folder, &format!("query-{clients}.svg"), &axes, &series.collect::<Vec<_>>())?;
    }
    Ok(text)
}

/// What a hit costs.
pub fn hit(figures: &Figures) -> String {
    let rows = figures.query.rows().filter(|row| !row.text("hit").is_empty()).map(|row| {
        vec![
            row.text("hit").to_owned(),
            spread(row, "processor_ns", 0),
            digits(row.number("nothing_ns"), 0),
            digits(row.number("beyond_ns"), 0),
        ]
    });
    markdown(&["a hit of", "processor ns", "of nothing", "beyond it"], rows)
}

/// The processor time of transactions that write.
pub fn writers_processor(figures: &Figures) -> String {
    let rows = figures.writers.rows().filter(|row| !row.text("transaction").is_empty()).map(|row| {
        vec![
            row.text("transaction").to_owned(),
            row.text("publications").to_owned(),
            spread(row, "processor_ns", 0),
            digits(row.number("to_off"), 3),
        ]
    });
    markdown(&["transaction", "publications", "processor ns", "to `off`"], rows)
}

/// The rates of pgbench's clients that write.
pub fn writers(figures: &Figures) -> String {
    let rows = figures.writers.rows().filter(|row| !row.text("workload").is_empty()).map(|row| {
        vec![
            row.text("workload").to_owned(),
            row.text("clients").to_owned(),
            row.text("publications").to_owned(),
            spread(row, "transactions_per_second", 0),
            digits(row.number("to_off"), 3),
        ]
    });
    markdown(&["workload", "clients", "publications", "transactions per second", "to `off`"], rows)
}
