//! Fills a cache, churns it with one distribution of value sizes, then shifts to another, and reports how much of its
//! memory stays in use.
//!
//! ```text
//! cargo bench --no-default-features --bench churn -- \
//!     --bytes B --sizes SIZES --then SIZES --ops N [--cache slab,bump,lru,memcached] [--policy lru|clock|s3-fifo] [--json]
//! ```
//!
//! SIZES is `uniform:LO-HI`, a cachebench `FILE.json`, or `spread:FILE.json` (`support/sizes.rs` says what each means).
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
//! It runs in one thread of one process and says nothing about contention.

#[allow(dead_code, reason = "each benchmark program uses a part of what they share")]
mod support;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;

use support::caches::{Bound, Cache, CacheArgs, Figures, Outcome, build};
use support::cli;
use support::content::{Content, Written};
use support::sizes::Sizes;

const KEY_BYTES: usize = 16;

/// Of how many of the newest keys the last stored value is remembered, for replacing and for checking.
const REMEMBERED_COUNT: usize = 1 << 14;

const REPLACED_SHARE: f64 = 0.1;
const LOOKS_PER_PHASE: u64 = 1000;
const LOOKS_PER_LINE: u64 = LOOKS_PER_PHASE / 10;
const READS_PER_LOOK: usize = 32;

/// A cache that has been given this many times its memory and lost nothing is broken.
const MAX_FILL_FACTOR: u64 = 8;

/// Churns caches with values of one distribution of sizes, then another.
#[derive(Parser)]
#[command(name = "churn")]
struct Args {
    /// Memory of each cache, metadata included.
    #[arg(long)]
    bytes: u64,
    /// Value sizes of the first phase: uniform:LO-HI, FILE.json or spread:FILE.json.
    #[arg(long)]
    sizes: String,
    /// Value sizes of the second phase.
    #[arg(long)]
    then: String,
    /// Puts per phase.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    ops: u64,
    #[command(flatten)]
    caches: CacheArgs,
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
    utilisation: f64,
    payload: f64,
    evictions: u64,
    compactions: u64,
    slabs_moved: u64,
    refused: u64,
    entries: u64,
    wipes: u64,
    region_bytes: u64,
}

/// What a whole phase came to.
#[derive(Serialize)]
struct PhaseResult {
    phase: &'static str,
    min_utilisation: f64,
    min_payload: f64,
    ns_per_put: f64,
}

#[derive(Serialize)]
struct Summary {
    #[serde(flatten)]
    end: Line,
    min_utilisation: f64,
    min_payload: f64,
    ns_per_put: f64,
    phases: Vec<PhaseResult>,
    values_checked: u64,
}

/// The stream of puts, the same for every cache of one seed as long as it refuses the same values.
struct Workload {
    rng: SmallRng,
    content: Content,
    /// Last stored value of the newest keys, by key number modulo the length; `None` where that was refused.
    remembered: Vec<Option<Written>>,
    next_key: u64,
    value: Vec<u8>,
    read: Vec<u8>,
    values_checked: u64,
}

struct Run<'a> {
    cache: Box<dyn Cache>,
    workload: Workload,
    puts: u64,
    spent: Duration,
    json: bool,
    args: &'a Args,
}

fn main() -> ExitCode {
    cli::main("churn", run)
}

fn run(args: Args) -> Result<(), String> {
    let first = Sizes::parse(&args.sizes).map_err(|error| error.to_string())?;
    let second = Sizes::parse(&args.then).map_err(|error| error.to_string())?;
    let settings = args.caches.settings(Bound::Bytes(args.bytes));
    // Once for nothing: settings that suit only some of them fail before any has run for long.
    args.caches.cache.iter().try_for_each(|kind| build::<KEY_BYTES>(*kind, &settings).map(drop))?;
    if !args.json {
        print_header()?;
    }
    for kind in &args.caches.cache {
        let run = Run {
            cache: build::<KEY_BYTES>(*kind, &settings)?,
            workload: Workload::new(args.seed, first.max().max(second.max())),
            puts: 0,
            spent: Duration::ZERO,
            json: args.json,
            args: &args,
        };
        run.all_phases(&first, &second)?;
    }
    Ok(())
}

impl Run<'_> {
    fn all_phases(mut self, first: &Sizes, second: &Sizes) -> Result<(), String> {
        self.fill(first)?;
        let phases = vec![self.phase("sizes", first)?, self.phase("then", second)?];
        let name = self.cache.name();
        self.cache.validate().map_err(|error| format!("{name}: at the end: {error}"))?;
        let lowest = |of: fn(&PhaseResult) -> f64| phases.iter().map(of).fold(f64::INFINITY, f64::min);
        let summary = Summary {
            end: self.line("summary", 100, &self.cache.figures()),
            min_utilisation: lowest(|phase| phase.min_utilisation),
            min_payload: lowest(|phase| phase.min_payload),
            ns_per_put: self.spent.as_nanos() as f64 / (2 * self.args.ops) as f64,
            phases,
            values_checked: self.workload.values_checked,
        };
        self.print_summary(&summary)
    }

    /// Puts until the cache first loses something.
    fn fill(&mut self, sizes: &Sizes) -> Result<(), String> {
        let limit_bytes = self.args.bytes.saturating_mul(MAX_FILL_FACTOR);
        let mut given_bytes = 0;
        while self.cache.lost() == 0 {
            if given_bytes > limit_bytes {
                return Err(format!(
                    "{}: {given_bytes} bytes put into {} and nothing evicted; {} puts refused",
                    self.cache.name(),
                    self.args.bytes,
                    self.cache.figures().refused
                ));
            }
            given_bytes += KEY_BYTES as u64 + self.put(sizes);
        }
        let line = self.line("fill", 100, &self.cache.figures());
        self.print_line(&line)
    }

    fn phase(&mut self, phase: &'static str, sizes: &Sizes) -> Result<PhaseResult, String> {
        let ops = self.args.ops;
        let spent_before = self.spent;
        let start = self.cache.figures();
        let (mut min_utilisation, mut min_payload) = (start.utilisation(), start.payload());
        for look in 1..=LOOKS_PER_PHASE {
            let started = Instant::now();
            for _ in share(ops, look - 1)..share(ops, look) {
                self.put(sizes);
            }
            self.spent += started.elapsed();
            let figures = self.cache.figures();
            min_utilisation = figures.utilisation().min(min_utilisation);
            min_payload = figures.payload().min(min_payload);
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
            "{:<10}{:<8}{:>5}{:>10}{:>13.4}{:>9.4}{:>11}{:>12}{:>12}{:>9}{:>9}{:>7}",
            line.cache,
            line.phase,
            line.done,
            line.puts,
            line.utilisation,
            line.payload,
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
                "{} {}: utilisation at least {:.4}, payload at least {:.4}, {:.0} ns per put",
                summary.end.cache, phase.phase, phase.min_utilisation, phase.min_payload, phase.ns_per_put
            ))?;
        }
        cli::print_line(&format!("{}: {} values read were right", summary.end.cache, summary.values_checked))
    }
}

impl Workload {
    fn new(seed: u64, max_value_bytes: usize) -> Self {
        Workload {
            rng: SmallRng::seed_from_u64(seed),
            content: Content::new(max_value_bytes),
            remembered: vec![None; REMEMBERED_COUNT],
            next_key: 0,
            value: Vec::new(),
            read: Vec::new(),
            values_checked: 0,
        }
    }

    /// Puts a new key, or now and then one of the newest anew; returns the length of the value.
    fn put(&mut self, cache: &mut dyn Cache, sizes: &Sizes) -> u64 {
        let len = sizes.sample(&mut self.rng) as u32;
        let replaced = match self.rng.random_bool(REPLACED_SHARE) {
            true => self.remembered[self.rng.random_range(..REMEMBERED_COUNT)],
            false => None,
        };
        let is_new = replaced.is_none();
        let written = match replaced {
            Some(old) => Written { write: old.write + 1, len, ..old },
            None => Written { key: self.next_key, write: 0, len },
        };
        self.next_key += u64::from(is_new);
        self.content.build(written, &mut self.value);
        let place = written.key as usize % REMEMBERED_COUNT;
        match cache.put(&key_bytes(written.key), &self.value) {
            Outcome::Stored => self.remembered[place] = Some(written),
            Outcome::Refused if is_new => self.remembered[place] = None,
            Outcome::Refused => {}
        }
        u64::from(len)
    }

    /// Reads some of the newest keys; those still cached must hold what was last stored.
    fn check(&mut self, cache: &mut dyn Cache) -> Result<(), String> {
        for _ in 0..READS_PER_LOOK {
            let place = self.rng.random_range(..REMEMBERED_COUNT);
            let Some(written) = self.remembered[place] else {
                continue;
            };
            if cache.get(&key_bytes(written.key), &mut self.read) {
                self.content.check(written, &self.read).map_err(|mismatch| format!("{}: {mismatch}", cache.name()))?;
                self.values_checked += 1;
            }
        }
        Ok(())
    }
}

/// The key's number in hexadecimal: 16 bytes, which any protocol takes.
fn key_bytes(key: u64) -> [u8; KEY_BYTES] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    std::array::from_fn(|at| DIGITS[(key >> (60 - 4 * at)) as usize & 15])
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
