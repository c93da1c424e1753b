//! The page's section on the soak: what it came to, a table of samples, and a plot of each thing that should be flat.
//!
//! After each kill of a backend PostgreSQL begins anew with empty caches: lines are cut there.

use std::path::Path;

use anyhow::Result;

use crate::figures::Figures;
use crate::page::{digits, markdown, whole};
use crate::plots::{self, Axes, Breaks, Scale, Series};
use crate::table::{Row, Table};

const MIB: f64 = 1024.0 * 1024.0;

/// A plot: its file, its title, the name of its y axis; and each line's name, its column, and how many of it are one.
type Plot = (&'static str, &'static str, &'static str, &'static [(&'static str, &'static str, f64)]);

const PLOTS: &[Plot] = &[
    (
        "soak-hit-ratio.svg",
        "Hits of all reads in each minute",
        "hit ratio",
        &[("documents", "documents.hit_ratio", 1.0), ("sessions", "sessions.hit_ratio", 1.0)],
    ),
    (
        "soak-utilisation.svg",
        "Keys, values and their metadata as a share of all memory",
        "utilisation",
        &[
            ("documents", "documents.utilisation", 1.0),
            ("documents, lowest", "documents.utilisation_min", 1.0),
            ("sessions", "sessions.utilisation", 1.0),
            ("sessions, lowest", "sessions.utilisation_min", 1.0),
        ],
    ),
    (
        "soak-memory.svg",
        "Memory of the server, and of one backend",
        "MiB",
        &[
            ("shared memory, resident", "shared_resident_bytes", MIB),
            ("live bytes, documents", "documents.live_bytes", MIB),
            ("live bytes, sessions", "sessions.live_bytes", MIB),
            ("a backend's own memory", "backend_private_bytes", MIB),
        ],
    ),
    (
        "soak-waits.svg",
        "The longest wait for one statement in each minute",
        "ms",
        &[
            ("get", "longest_get_ms", 1.0),
            ("put", "longest_put_ms", 1.0),
            ("change", "longest_change_ms", 1.0),
            ("SELECT 1", "longest_nothing_ms", 1.0),
        ],
    ),
];

/// The section's tables and plots.
///
/// # Errors
/// A plot cannot be drawn.
pub fn section(figures: &Figures, folder: &Path) -> Result<String> {
    let table = &figures.soak;
    let mut text = summary(table);
    let samples: Vec<Row<'_>> = table.rows().filter(|row| row.text("kind") == "sample").collect();
    if samples.is_empty() {
        return Ok(text);
    }
    let breaks: Vec<f64> = samples
        .chunk_by(|one, next| one.text("life") == next.text("life"))
        .skip(1)
        .filter_map(|life| life[0].number("life_began_minute"))
        .collect();
    let breaks = Breaks { name: "killed", at: &breaks };
    for (file, title, y, lines) in PLOTS {
        let series: Vec<Series> = lines
            .iter()
            .map(|(name, column, one)| Series {
                name: (*name).to_owned(),
                points: samples
                    .iter()
                    .filter_map(|row| Some((row.number("minute")?, row.number(column)? / one)))
                    .collect(),
            })
            .collect();
        // Waits of a busy machine lie orders of magnitude apart.
        let y_scale = if *y == "ms" { Scale::Logarithmic } else { Scale::Linear };
        let axes = Axes { title, x: "minutes", x_scale: Scale::Linear, y, y_scale };
        plots::lines_with_breaks(&folder.join(file), &axes, &series, &breaks)?;
        text += &format!("\n![{title}]({file})\n");
    }
    Ok(text + "\n" + &samples_table(&samples))
}

fn samples_table(samples: &[Row<'_>]) -> String {
    let rows = samples.iter().map(|row| {
        let kib = |column: &str| whole(row.number(column).map(|bytes| bytes / 1024.0));
        vec![
            digits(row.number("minute"), 0),
            row.text("life").to_owned(),
            whole(row.number("statements_per_second")),
            whole(row.number("documents.entries")),
            digits(row.number("documents.hit_ratio"), 3),
            digits(row.number("documents.utilisation"), 3),
            whole(row.number("documents.evictions")),
            whole(row.number("sessions.entries")),
            digits(row.number("sessions.hit_ratio"), 3),
            digits(row.number("sessions.utilisation"), 3),
            whole(row.number("sessions.expirations")),
            digits(row.number("longest_get_ms"), 1),
            digits(row.number("longest_put_ms"), 1),
            digits(row.number("longest_nothing_ms"), 1),
            kib("backend_private_bytes"),
            kib("shared_resident_bytes"),
        ]
    });
    let head = [
        "minute",
        "life",
        "statements/s",
        "documents",
        "hits",
        "used",
        "evicted",
        "sessions",
        "hits",
        "used",
        "expired",
        "get ms",
        "put ms",
        "`SELECT 1` ms",
        "backend KiB",
        "shared KiB",
    ];
    markdown(&head, rows)
}

/// What the whole run came to.
fn summary(table: &Table) -> String {
    let rows = table.rows().filter(|row| row.text("kind") == "summary").flat_map(|row| {
        let count = |what: &str, column: &str| vec![what.to_owned(), whole(row.number(column)), String::new()];
        let slope = |what: &str, column: &str, digit_count: usize| {
            let bound = row.number(&format!("{column}_bound"));
            vec![what.to_owned(), digits(row.number(column), digit_count), digits(bound, digit_count)]
        };
        let failures = (0..).map(|at| row.text(&format!("failures.{at}"))).take_while(|text| !text.is_empty());
        let failures: Vec<Vec<String>> =
            failures.map(|text| vec!["**failed**".to_owned(), text.to_owned(), String::new()]).collect();
        let counts = vec![
            count("statements", "statements"),
            count("values read and compared", "values_checked"),
            count("wrong or stale values", "wrong_values"),
            count("unexpected errors", "unexpected_errors"),
            count("backends terminated", "terminations"),
            count("backends killed", "kills"),
            count("crashes beside these", "crashes"),
            count("partitions reset", "resets"),
            count("resizes put off for want of memory", "resizes_put_off"),
            slope("a backend's own memory, bytes a minute", "backend_private_slope", 0),
            slope("resident shared memory, bytes a minute", "shared_resident_slope", 0),
            slope("used bytes of documents a minute", "documents_used_slope", 0),
            slope("used bytes of sessions a minute", "sessions_used_slope", 0),
            slope("loss of utilisation of documents a minute", "documents_loss_slope", 4),
            slope("loss of utilisation of sessions a minute", "sessions_loss_slope", 4),
        ];
        counts.into_iter().chain(failures)
    });
    markdown(&["", "measured", "at most"], rows)
}
