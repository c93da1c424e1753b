//! Fills a cache, churns it with one distribution of value sizes, then shifts to another, and reports how much of its
//! memory stays in use.
//!
//! ```text
//! cargo bench --no-default-features --bench churn -- \
//!     --bytes B --sizes SIZES --then SIZES --ops N [--cache slab,bump,lru,memcached] [--policy lru|clock|s3-fifo] [--json]
//! ```
//!
//! SIZES is `uniform:LO-HI`, a cachebench `FILE.json`, or `spread:FILE.json` (`bench::sizes` says what each means).
//!
//! Three phases: `fill` puts values of the first distribution until the cache first loses an entry (evicts or wipes);
//! `sizes` puts N more; `then` puts N of the second distribution. One put in ten replaces a key chosen at random among
//! the 16,384 newest, with a new value of a new size; all other keys are new. A replaced key may have been evicted
//! meanwhile, so slightly fewer than a tenth really replace. Keys are 16 bytes. Every cache sees the same puts.
//! memcached pays a round trip through a socket for each, so its time says nothing here.
//!
//! Printed after the fill and after every tenth of the other two phases: `utilisation`, bytes of live keys, values and
//! their metadata over all bytes of the region, `payload`, keys and values alone over the region, and counts since the
//! start. A `summary` closes each cache: the same for the end, the lowest utilisation and payload of each phase, looked
//! at a thousand times a phase from the end of the fill on, and nanoseconds per put of these two phases.
//!
//! At each of these looks 32 of the newest keys are read and compared byte for byte with what was last stored; at the
//! end the whole structure is validated. A difference ends the program with an error. The time of looks and reads does
//! not count; that of building the values put (one copy of prepared bytes) does. The reads promote what they hit, which
//! at 32 in a thousandth of a phase leaves eviction practically in order of insertion.
//!
//! With `--mib` in the place of `--bytes`, or with no option at all, it runs a grid instead: see `grid.rs`.
//!
//! ```text
//! cargo bench --bench churn -- [--mib 1,8,64] [--partitions 1,8,64] [--values 0-2999] [--ops N] [--json]
//! ```
//!
//! It runs in one thread of one process and says nothing about contention.

mod grid;
mod workload;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use bench::cli;
use bench::contender::{Bound, Contender, Figures};
use bench::contenders::{CacheArgs, build};
use bench::sizes::Sizes;
use clap::Parser;
use serde::Serialize;

use workload::{KEY_BYTES, Workload};

const LOOKS_PER_PHASE: u64 = 1000;
const LOOKS_PER_LINE: u64 = LOOKS_PER_PHASE / 10;

/// A cache that has been given this many times its memory and lost nothing is broken.
const MAX_FILL_FACTOR: u64 = 8;

/// Churns caches with values of one distribution of sizes, then another.
#[derive(Parser)]
#[command(name = "churn")]
struct Args {
    /// Memory of each cache, metadata included.
    #[arg(long, requires_all = ["sizes", "then", "ops"])]
    bytes: Option<u64>,
    /// Value sizes of the first phase: uniform:LO-HI, FILE.json or spread:FILE.json.
    #[arg(long, requires = "bytes")]
    sizes: Option<String>,
    /// Value sizes of the second phase.
    #[arg(long, requires = "bytes")]
    then: Option<String>,
    /// Puts per phase [default with --mib: as many as bring four times the memory].
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    ops: Option<u64>,
    #[command(flatten)]
    caches: CacheArgs,
    /// Partitions of the slab cache; with --mib a list [default: with --bytes the engine chooses, else 1,8,64].
    #[arg(long, value_delimiter = ',', num_args = 1)]
    partitions: Vec<u32>,
    #[command(flatten)]
    grid: grid::GridArgs,
    /// Seed of sizes and keys.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// JSON objects, one a line, instead of a table.
    #[arg(long)]
    json: bool,
}

/// State of a cache at one point of the run. Counts are since its start.
#[derive(Clone, Serialize)]
struct Line {
    cache: &'static str,
    policy: &'static str,
    phase: &'static str,
    /// Per cent of the phase.
    done: u64,
    puts: u64,
    /// None where nobody knows the cache's memory; so the others.
    utilisation: Option<f64>,
    payload: Option<f64>,
    evictions: u64,
    compactions: u64,
    slabs_moved: u64,
    refused: u64,
    entries: u64,
    wipes: u64,
    region_bytes: Option<u64>,
}

/// What a whole phase came to.
#[derive(Serialize)]
struct PhaseResult {
    phase: &'static str,
    min_utilisation: Option<f64>,
    min_payload: Option<f64>,
    ns_per_put: f64,
}

#[derive(Serialize)]
struct Summary {
    #[serde(flatten)]
    end: Line,
    min_utilisation: Option<f64>,
    min_payload: Option<f64>,
    ns_per_put: f64,
    phases: Vec<PhaseResult>,
    values_checked: u64,
}

struct Run {
    cache: Box<dyn Contender>,
    workload: Workload,
    puts: u64,
    spent: Duration,
    json: bool,
    bytes: u64,
    ops: u64,
}

fn main() -> ExitCode {
    cli::main("churn", run)
}

fn run(args: Args) -> Result<(), String> {
    let (Some(bytes), Some(sizes), Some(then), Some(ops)) = (args.bytes, &args.sizes, &args.then, args.ops) else {
        return grid::run(&args);
    };
    let partitions = match args.partitions[..] {
        [] => None,
        [one] => Some(one),
        _ => return Err("--partitions: one number with --bytes, a list with --mib".to_owned()),
    };
    let first = Sizes::parse(sizes).map_err(|error| error.to_string())?;
    let second = Sizes::parse(then).map_err(|error| error.to_string())?;
    let settings = args.caches.settings(Bound::Bytes(bytes), partitions);
    // Once for nothing: settings that suit only some of them fail before any has run for long.
    args.caches.cache.iter().try_for_each(|name| build::<KEY_BYTES>(*name, &settings).map(drop))?;
    if !args.json {
        print_header()?;
    }
    for name in &args.caches.cache {
        let run = Run {
            cache: build::<KEY_BYTES>(*name, &settings)?,
            workload: Workload::new(args.seed),
            puts: 0,
            spent: Duration::ZERO,
            json: args.json,
            bytes,
            ops,
        };
        run.all_phases(&first, &second)?;
    }
    Ok(())
}

/// The figures of a cache that has some.
fn figures(cache: &dyn Contender) -> Result<Figures, String> {
    cache.figures().ok_or_else(|| format!("{}: tells no figures", cache.name()))
}

/// The lesser of two shares that are known.
fn lesser(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    Some(one?.min(other?))
}

impl Run {
    fn all_phases(mut self, first: &Sizes, second: &Sizes) -> Result<(), String> {
        self.fill(first)?;
        let phases = vec![self.phase("sizes", first)?, self.phase("then", second)?];
        let name = self.cache.name();
        self.cache.validate().map_err(|error| format!("{name}: at the end: {error}"))?;
        let lowest = |of: fn(&PhaseResult) -> Option<f64>| phases.iter().map(of).reduce(lesser).flatten();
        let summary = Summary {
            end: self.line("summary", 100, &figures(&*self.cache)?),
            min_utilisation: lowest(|phase| phase.min_utilisation),
            min_payload: lowest(|phase| phase.min_payload),
            ns_per_put: self.spent.as_nanos() as f64 / (2 * self.ops) as f64,
            phases,
            values_checked: self.workload.values_checked,
        };
        self.print_summary(&summary)
    }

    /// Puts until the cache first loses something.
    fn fill(&mut self, sizes: &Sizes) -> Result<(), String> {
        let limit_bytes = self.bytes.saturating_mul(MAX_FILL_FACTOR);
        let mut given_bytes = 0;
        while self.cache.lost() == 0 {
            if given_bytes > limit_bytes {
                return Err(format!(
                    "{}: {given_bytes} bytes put into {} and nothing evicted; {} puts refused",
                    self.cache.name(),
                    self.bytes,
                    figures(&*self.cache)?.refused
                ));
            }
            given_bytes += KEY_BYTES as u64 + self.put(sizes);
        }
        let line = self.line("fill", 100, &figures(&*self.cache)?);
        self.print_line(&line)
    }

    fn phase(&mut self, phase: &'static str, sizes: &Sizes) -> Result<PhaseResult, String> {
        let ops = self.ops;
        let spent_before = self.spent;
        let start = figures(&*self.cache)?;
        let (mut min_utilisation, mut min_payload) = (start.utilisation(), start.payload());
        for look in 1..=LOOKS_PER_PHASE {
            let started = Instant::now();
            for _ in share(ops, look - 1)..share(ops, look) {
                self.put(sizes);
            }
            self.spent += started.elapsed();
            let figures = figures(&*self.cache)?;
            min_utilisation = lesser(figures.utilisation(), min_utilisation);
            min_payload = lesser(figures.payload(), min_payload);
            self.workload.check(&mut *self.cache)?;
            if look % LOOKS_PER_LINE == 0 {
                let line = self.line(phase, look * 100 / LOOKS_PER_PHASE, &figures);
                self.print_line(&line)?;
            }
        }
        Ok(PhaseResult {
            phase,
            min_utilisation,
            min_payload,
            ns_per_put: (self.spent - spent_before).as_nanos() as f64 / ops as f64,
        })
    }

    /// Returns the length of the value.
    fn put(&mut self, sizes: &Sizes) -> u64 {
        self.puts += 1;
        self.workload.put(&mut *self.cache, sizes)
    }

    fn line(&self, phase: &'static str, done: u64, figures: &Figures) -> Line {
        Line {
            cache: self.cache.name(),
            policy: self.cache.policy(),
            phase,
            done,
            puts: self.puts,
            utilisation: figures.utilisation(),
            payload: figures.payload(),
            evictions: figures.evictions,
            compactions: figures.compactions,
            slabs_moved: figures.slabs_moved,
            refused: figures.refused,
            entries: figures.entries,
            wipes: figures.wipes,
            region_bytes: figures.region_bytes,
        }
    }

    fn print_line(&self, line: &Line) -> Result<(), String> {
        if self.json {
            return cli::print_json(line);
        }
        cli::print_line(&format!(
            "{:<10}{:<8}{:>5}{:>10}{:>13}{:>9}{:>11}{:>12}{:>12}{:>9}{:>9}{:>7}",
            line.cache,
            line.phase,
            line.done,
            line.puts,
            cli::digits(line.utilisation, 4),
            cli::digits(line.payload, 4),
            line.evictions,
            line.compactions,
            line.slabs_moved,
            line.refused,
            line.entries,
            line.wipes
        ))
    }

    fn print_summary(&self, summary: &Summary) -> Result<(), String> {
        if self.json {
            return cli::print_json(summary);
        }
        for phase in &summary.phases {
            cli::print_line(&format!(
                "{} {}: utilisation at least {}, payload at least {}, {:.0} ns per put",
                summary.end.cache,
                phase.phase,
                cli::digits(phase.min_utilisation, 4),
                cli::digits(phase.min_payload, 4),
                phase.ns_per_put
            ))?;
        }
        cli::print_line(&format!("{}: {} values read were right", summary.end.cache, summary.values_checked))
    }
}

/// How many of `ops` puts come before look `look` of a phase.
fn share(ops: u64, look: u64) -> u64 {
    (u128::from(ops) * u128::from(look) / u128::from(LOOKS_PER_PHASE)) as u64
}

fn print_header() -> Result<(), String> {
    cli::print_line(&format!(
        "{:<10}{:<8}{:>5}{:>10}{:>13}{:>9}{:>11}{:>12}{:>12}{:>9}{:>9}{:>7}",
        "cache",
        "phase",
        "%",
        "puts",
        "utilisation",
        "payload",
        "evictions",
        "compactions",
        "slabs moved",
        "refused",
        "entries",
        "wipes"
    ))
}
