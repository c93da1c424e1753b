//! Everything at once, for as long as wanted: does memory come back, do hits stay, does anybody wait, is a value ever wrong?
//!
//! ```text
//! cargo bench --no-default-features --bench soak -- \
//!     [--seconds S] [--sample-seconds S] [--clients N] [--think-ms MS] [--sizes SIZES,…] \
//!     [--terminate-seconds S] [--kill-seconds S] [--seed N] [--json]
//! ```
//!
//! The extension has to be installed (`make install`). A throwaway cluster has two caches:
//!
//! | cache | policy | bytes | what is done with it |
//! |---|---|---|---|
//! | documents | clock | 16 MiB, and 24 MiB for half of each sample | made of rows of two tables (an item and its group); read by `get_or_lease`, alone and in transactions, stored by `put_leased` with a tag for the group, some with a `ttl`; `invalidate`, `invalidate_tag`, `invalidate_prefix` in the transactions that change the rows, some of which roll back |
//! | sessions | s3-fifo | 8 MiB | `put` with the cache's own `ttl`, one of its own, or none, some with tags; `get`, `put_if_version`, `put_if_absent`, `remove`, `invalidate_tag`, `drain` |
//!
//! Keys are drawn by Zipf's law. The sizes of values go through the whole list of `--sizes` once a sample, so that samples
//! can be compared. Once a sample `documents` is made larger, and smaller again, all caches are moved together by
//! `defragment`, `sessions` gets its other name, both are validated and walked. Every `--terminate-seconds` a client's
//! backend is ended by `pg_terminate_backend`; every `--kill-seconds` one is killed by SIGKILL, whereupon PostgreSQL ends
//! all others and begins anew with empty caches: a new *life*, in which lines start again.
//!
//! Every value read is compared byte for byte with what was stored (`bench::sourced`). One of `documents` must not be older
//! than what was committed before the statement that read it began; none may be there 5 seconds after its `ttl`.
//!
//! A line for each sample: entries and bytes at its end, hits and counts of the whole of it, the lowest utilisation of 30
//! looks, the longest time that a client waited for one statement (`get`, `put`, `change`: a transaction that invalidates,
//! and `nothing`: `SELECT 1`, which is what the machine itself makes wait), the memory of one backend that lives as long as the
//! server, and the server's resident shared memory. A summary closes the run.
//!
//! It fails if a value was wrong, a statement failed that should not, a validation found something, the server crashed by
//! itself, a partition was reset, or memory only grows: the least-squares slope over the samples, those that begin in the
//! first 50 seconds of a life left out, and of a cache those in which it evicts nothing, is beyond the bound that `verdict.rs`
//! states. Times are printed and not judged.

mod client;
mod memory;
mod sampler;
mod session;
mod tally;
mod troubles;
mod verdict;
mod world;

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use bench::cli;
use clap::Parser;

use sampler::Sampler;
use session::{Role, Session};
use world::World;

/// Uses two caches of a throwaway cluster in every way at once, and watches memory, hits and waits.
#[derive(Parser)]
#[command(name = "soak")]
struct Args {
    /// Length of the run.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(5..))]
    seconds: u32,
    /// Length of a sample.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(2..))]
    sample_seconds: u32,
    /// Sessions at work.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(2..=20))]
    clients: u32,
    /// How long each pauses between two operations.
    #[arg(long, default_value_t = 2)]
    think_ms: u64,
    /// Value sizes, one after another in each sample.
    #[arg(
        long,
        value_delimiter = ',',
        num_args = 1,
        default_value = "uniform:64-4000,uniform:200-900,uniform:64-300,uniform:2000-4000"
    )]
    sizes: Vec<String>,
    /// How often a backend is terminated.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    terminate_seconds: u32,
    /// How often one is killed.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    kill_seconds: u32,
    /// Seed of keys, sizes and what is done.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// JSON objects, one a line, instead of a table.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    cli::main("soak", |args: Args| run(&args).map_err(|error| format!("{error:#}")))
}

fn run(args: &Args) -> Result<()> {
    let world = World::start(args)?;
    let mut sampler = Sampler::new(&world);
    if !args.json {
        sampler::print_head()?;
    }
    let sampled = std::thread::scope(|scope| {
        let clients = (0..args.clients).map(|number| {
            let world = &world;
            scope.spawn(move || client::work(world, number))
        });
        let mut threads: Vec<_> = clients.collect();
        threads.push(scope.spawn(|| troubles::make(&world)));
        let sampled = sampler.run();
        world.stop();
        let ended = threads.into_iter().all(|thread| thread.join().is_ok());
        sampled.and_then(|()| ended.then_some(()).context("a thread of this program has panicked"))
    });
    sampled?;
    // By a session of its own: those of the run are gone.
    let mut last = Session::new(&world, Role::Keeper);
    troubles::validate(&mut last);
    let summary = verdict::Summary::of(&world, &sampler);
    summary.print(args.json)?;
    ensure!(summary.failures.is_empty(), "{}", summary.failures.join("; "));
    Ok(())
}
