//! The table, and the same with more columns as CSV.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::judge::Verdict;
use crate::request::{Mode, Report};
use crate::site::Site;

/// One build and what came of it.
pub struct Run {
    pub mode: Mode,
    /// Memory, in percent of what mode `lru` needs for every list.
    pub percent: u32,
    pub bytes: u64,
    pub workers: u32,
    pub report: Report,
    pub verdict: Verdict,
}

/// Where results go.
pub struct Output {
    csv: Option<File>,
    /// Columns that are the same in all lines of the CSV.
    circumstances: [(&'static str, String); 6],
    nodes: u32,
    runs: u32,
    /// Sum of the hashes of the edges that one process builds.
    serial_graph: Option<u64>,
    defects: Vec<String>,
}

/// Heads of the columns, in two lines, and the width of each column.
const COLUMNS: [(&str, &str, usize); 17] = [
    ("memory", "", 6),
    ("MB", "", 6),
    ("lists in", "", 8),
    ("workers", "", 7),
    ("seconds", "", 7),
    ("cpu s", "", 6),
    ("recall", "100", 7),
    ("recall", "10", 7),
    ("reloads", "each", 7),
    ("spills", "each", 7),
    ("clean", "each", 6),
    ("distances", "each", 9),
    ("orphans", "", 7),
    ("no in", "", 5),
    ("lost", "edges", 6),
    ("entries", "", 7),
    ("bytes", "each", 6),
];

impl Output {
    /// Prints the head of the table and starts the file anew.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn start(csv: Option<&Path>, site: &mut Site, nodes: u32) -> Result<Self> {
        let first_line = |program: &str, arguments: &[&str]| -> Option<String> {
            let output = Command::new(program).args(arguments).output().ok()?;
            String::from_utf8(output.stdout).ok()?.lines().next().map(str::to_owned)
        };
        let commit = first_line("git", &["describe", "--always", "--dirty"]).unwrap_or_default();
        let toolchain = first_line("rustc", &["--version"]).unwrap_or_default();
        let version = site.server_version()?;
        let machine = machine();
        println!("{nodes} nodes; {machine}; {toolchain}; PostgreSQL {version}; commit {commit}\n");
        print_row(COLUMNS.map(|(head, ..)| head.to_owned()));
        print_row(COLUMNS.map(|(_, head, _)| head.to_owned()));
        let csv = csv.map(|path| -> Result<File> {
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            File::create(path).with_context(|| path.display().to_string())
        });
        let circumstances = [
            ("date", site.now()?),
            ("commit", commit),
            ("machine", machine),
            ("toolchain", toolchain),
            ("postgresql", version),
            ("nodes", nodes.to_string()),
        ];
        Ok(Output { csv: csv.transpose()?, circumstances, nodes, runs: 0, serial_graph: None, defects: Vec::new() })
    }

    /// One line.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn print(&mut self, run: &Run) -> Result<()> {
        let Run { mode, percent, bytes, workers, report, verdict } = run;
        let counters = &report.counters;
        let each = |count: u64| count as f64 / f64::from(self.nodes);
        // The drop-in knows what its entries take, but not the waste around them; once full it takes all it was given.
        let is_full = *mode == Mode::DropIn && counters.spills > 0;
        let taken = if is_full { *bytes } else { counters.entry_bytes };
        let bytes_per_entry = taken as f64 / counters.entries.max(1) as f64;
        let cpu_seconds = counters.cpu_nanoseconds as f64 / 1e9;
        let lost =
            if report.edge_sum_matches { report.lost_edges.to_string() } else { format!("{}!", report.lost_edges) };
        print_row([
            format!("{percent} %"),
            format!("{:.1}", *bytes as f64 / 1e6),
            mode.name().to_owned(),
            workers.max(&1).to_string(),
            format!("{:.1}", report.seconds),
            format!("{cpu_seconds:.1}"),
            format!("{:.4}", verdict.recall[0]),
            format!("{:.4}", verdict.recall[1]),
            format!("{:.1}", each(counters.reloads)),
            format!("{:.1}", each(counters.spills)),
            format!("{:.1}", each(counters.clean_evictions)),
            format!("{:.0}", each(counters.distances)),
            verdict.unreachable.to_string(),
            verdict.without_in_edges.to_string(),
            lost,
            counters.entries.to_string(),
            format!("{bytes_per_entry:.0}"),
        ]);
        self.check(run);
        let columns = [
            ("memory_percent", percent.to_string()),
            ("memory_bytes", bytes.to_string()),
            ("mode", mode.name().to_owned()),
            ("workers", workers.max(&1).to_string()),
            ("seconds", format!("{:.3}", report.seconds)),
            ("cpu_seconds", format!("{cpu_seconds:.3}")),
            ("recall_at_10_list_100", format!("{:.4}", verdict.recall[0])),
            ("recall_at_10_list_10", format!("{:.4}", verdict.recall[1])),
            ("unreachable", verdict.unreachable.to_string()),
            ("without_in_edges", verdict.without_in_edges.to_string()),
            ("mean_degree", format!("{:.2}", verdict.mean_degree)),
            ("lost_edges", report.lost_edges.to_string()),
            ("edge_sum_matches", report.edge_sum_matches.to_string()),
            ("distances", counters.distances.to_string()),
            ("reloads", counters.reloads.to_string()),
            ("spills", counters.spills.to_string()),
            ("clean_evictions", counters.clean_evictions.to_string()),
            ("conflicts", counters.conflicts.to_string()),
            ("waits", counters.waits.to_string()),
            ("edges_added", counters.edges_added.to_string()),
            ("edges_pruned", counters.edges_pruned.to_string()),
            ("entries", counters.entries.to_string()),
            ("bytes_per_entry", format!("{bytes_per_entry:.1}")),
        ];
        self.write_csv(&columns)
    }

    fn write_csv(&mut self, columns: &[(&str, String)]) -> Result<()> {
        self.runs += 1;
        let Some(file) = &mut self.csv else {
            return Ok(());
        };
        let columns = || self.circumstances.iter().chain(columns);
        if self.runs == 1 {
            writeln!(file, "{}", columns().map(|(name, _)| *name).collect::<Vec<_>>().join(","))?;
        }
        writeln!(file, "{}", columns().map(|(_, value)| value.as_str()).collect::<Vec<_>>().join(","))?;
        Ok(file.flush()?)
    }

    /// Where each list has one copy no edge may be lost; one process builds the same graph wherever its lists live.
    fn check(&mut self, run: &Run) {
        let Run { mode, percent, workers, report, .. } = run;
        let what = format!("{} with {} at {percent} %", mode.name(), workers.max(&1));
        if *mode != Mode::Private && (report.lost_edges != 0 || !report.edge_sum_matches) {
            self.defects.push(format!("{what}: edges were lost"));
        }
        if *mode != Mode::Private && *workers <= 1 {
            let graph = *self.serial_graph.get_or_insert(report.counters.edge_sum);
            if graph != report.counters.edge_sum {
                self.defects.push(format!("{what}: another graph than that of the first build"));
            }
        }
    }

    /// What went wrong in builds that came to an end.
    pub fn defects(&self) -> &[String] {
        &self.defects
    }
}

fn print_row(cells: [String; COLUMNS.len()]) {
    let cells = cells.iter().zip(COLUMNS).map(|(cell, (.., width))| format!("{cell:>width$}"));
    println!("{}", cells.collect::<Vec<_>>().join(" "));
}

/// Model and number of processors. Without commas, for the CSV.
fn machine() -> String {
    let count = std::thread::available_parallelism().map_or(1, |count| count.get());
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, model)| model.trim());
    format!("{count} × {}", model.replace(',', " "))
}
